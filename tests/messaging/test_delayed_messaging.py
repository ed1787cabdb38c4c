"""Publishers of delayed messages: the reference on a clock of its own, and on trio."""

import importlib.util
import os
import unittest
from collections.abc import Mapping
from typing import Any

import anyio

from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.reference.delayed_messaging import MemoryDelayedPublisher
from omnitck.selftest.laws import reference_suite, suite_of
from omnitck.shared.clock import ManualClock
from omnitck.shared.models import DelayLimits
from omnitck.unusual.delayed_messaging import Exact, PlainDelayedPublisher, Plainest
from omnitck.unusual.log import Log
from tests.helpers import outcome_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestDelayedMessaging: Any = reference_suite("delayed_messaging", __module__=__name__, __qualname__="TestDelayedMessaging")
TestDelayedMessagingOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("delayed_messaging", __module__=__name__, __qualname__="TestDelayedMessagingOnTrio", backend="trio")
)


class TestDelaysThatAreNoMultiples(unittest.TestCase):
    def test_whole_seconds_are_too_early_with_the_default_limits(self) -> None:
        """A delay of 1.5 s is rounded up to `delay_resolution`, which is 1 s, and never down."""

        class Cut(PlainDelayedPublisher):
            async def publish(
                self,
                topic: str,
                payload: bytes,
                key: str | None = None,
                headers: Mapping[str, str] | None = None,
                delay_seconds: float | None = None,
            ) -> None:
                await super().publish(topic, payload, key, headers, int(delay_seconds or 0))

        class Suite(Plainest, unittest.IsolatedAsyncioTestCase):
            async def make_provider(self, **config: object) -> PlainDelayedPublisher:
                return Cut(self.topics)

        outcome, _ = outcome_of(Suite, "test_dly_01_a_message_is_never_early")
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertIn("given     a message with a delay of 1.5 s", outcome.message)


class TestClocks(unittest.TestCase):
    def failures(self, suite: type[unittest.TestCase]) -> dict[str, str]:
        outcomes: list[Outcome] = []
        with listening(lambda cls, outcome: outcomes.append(outcome)):
            unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(unittest.TestResult())
        self.assertGreater(len(outcomes), 40)
        fine = Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED
        return {each.rule: each.message for each in outcomes if each.outcome not in fine}

    def test_what_is_rounded_is_not_early(self) -> None:
        """Sums on two clocks that started at different times differ in their last digits."""

        class Suite(Exact, unittest.IsolatedAsyncioTestCase):
            limits = DelayLimits(delay_resolution=0.7438421186671211, delay_lateness=0, deliver=0.05)

            def setUp(self) -> None:
                self.clock = ManualClock(76.44615553590373)
                self.log = Log(limits=self.limits, clock=self.clock)

        self.assertEqual(self.failures(Suite), {})

    def test_looking_often_is_no_work(self) -> None:
        """Until a message comes that is a minute late, a rule looks 4,000 times."""

        class Suite(Exact, unittest.IsolatedAsyncioTestCase):
            limits = DelayLimits(delay_resolution=0, delay_lateness=60, deliver=0.05)
            deadline = 0.5

            async def advance(self, seconds: float) -> None:
                await anyio.sleep(0.0002)
                await super().advance(seconds)

        outcome, _ = outcome_of(Suite, "test_dly_02_a_message_is_in_time")
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))
        self.assertGreater(outcome.seconds, 0.5)

    def test_a_broker_whose_clock_is_ahead_is_not_rejected(self) -> None:
        """Each message comes as early as `skew` allows, which may be a second."""

        class Ahead(MemoryDelayedPublisher):
            def schedule(self, topic: str, message: Any, due: float) -> str:
                return super().schedule(topic, message, max(due - 1.0, self.backend.clock.now()))

        limits = DelayLimits(
            skew=1.0, deliver=0.05, redeliver=1.0, max_delay=31_536_000.0, delay_resolution=0.001, delay_lateness=0.01
        )

        class Suite(suite_of("delayed_messaging"), unittest.IsolatedAsyncioTestCase):  # type: ignore[misc]
            provider = Ahead

            def setUp(self) -> None:
                super().setUp()
                self.memory.limits = limits

        self.assertEqual(self.failures(Suite), {})
