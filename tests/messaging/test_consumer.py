"""Consumers: the reference on a clock of its own, in real time and on trio; one with the least; a suite that lacks something."""

import importlib.util
import itertools
import os
import unittest
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.contract import plan_of
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.messaging.consumer import ConsumerContract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.models import MessageLimits
from omnitck.unusual.consumer import LogSuite
from omnitck.unusual.log import Lease, Log
from tests.helpers import outcome_of
from tests.messaging.providers import Broker, Consumer, InRealTime, MemoryMessaging, Producer, suite_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestConsumer: Any = reference_suite("consumer", __module__=__name__, __qualname__="TestConsumer")
TestConsumerOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("consumer", __module__=__name__, __qualname__="TestConsumerOnTrio", backend="trio")
)


class TestBothAsConsumer(ConsumerContract, InRealTime, unittest.IsolatedAsyncioTestCase):
    capabilities = MemoryMessaging.everything & known_capabilities("consumer")


class TestSeedConsumer(ConsumerContract, unittest.IsolatedAsyncioTestCase):
    """It has the core, with one method; the suite publishes."""

    limits = MessageLimits(redeliver=0.05)

    def setUp(self) -> None:
        self.broker = Broker()

    async def make_provider(self, **config: Any) -> Consumer:
        return Consumer(self.broker)

    async def publish(
        self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None, **config: Any
    ) -> None:
        await Producer(self.broker).publish(topic, payload, key, headers)


class TestWhatASuiteLacks(unittest.TestCase):
    def test_a_consumer_alone_needs_a_way_to_publish(self) -> None:
        outcome, _ = outcome_of(suite_of(ConsumerContract, Consumer), "test_con_10_fail_gives_up_at_once")
        self.assertEqual(
            (outcome.outcome, outcome.message),
            (
                Status.ERROR,
                "CON-10 could not be judged: HookError: TestMine has no publish, and Consumer has no publish: "
                "write the hook with `async def`.",
            ),
        )


class Forgetful(Log):
    """Of so many successes of a rule it forgets those in *forgotten*."""

    def __init__(self, forgotten: Container[int], **options: Any) -> None:
        super().__init__(**options)
        self.forgotten = forgotten
        self.successes = itertools.count(1)

    def finish(self, lease: Lease, name: str) -> None:
        if next(self.successes) in self.forgotten:
            self.let_go(lease)
        else:
            super().finish(lease, name)


class Doubting(Log):
    """It forgets the first success of each message in each group."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.forgotten: set[tuple[int, str]] = set()

    def finish(self, lease: Lease, name: str) -> None:
        if (lease.record.offset, name) in self.forgotten:
            super().finish(lease, name)
        else:
            self.forgotten.add((lease.record.offset, name))
            self.let_go(lease)


class TestWhatComesOnceMore(unittest.TestCase):
    """CON-24 lets a few messages come twice; wherever they do, no other rule rejects that, and whatever comes twice always is."""

    CAPABILITIES = frozenset("stopping concurrency nack_redelivery dead_letter fan_out batch_consume".split())

    def failed(self, make_log: Callable[..., Log]) -> set[str]:
        """The rules that a consumer with such a broker fails."""

        class Suite(LogSuite, unittest.IsolatedAsyncioTestCase):
            capabilities = self.CAPABILITIES
            limits = MessageLimits(deliver=2.0, redeliver=0.3)

            def setUp(self) -> None:
                self.log = make_log(limits=self.limits)

        outcomes: list[Outcome] = []
        tests = [Suite(each.rule.method) for each in plan_of(Suite).rules if not each.rule.exclusive]
        with listening(lambda cls, outcome: outcomes.append(outcome)):
            ConcurrentSuite(tests, jobs=16).run(unittest.TestResult())
        self.assertGreater(len(outcomes), 40)
        return {each.rule for each in outcomes if each.outcome not in (Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED)}

    def test_one_of_a_rule_is_none_too_many(self) -> None:
        for number in range(1, 8):
            with self.subTest(number):
                self.assertEqual(self.failed(partial(Forgetful, {number})), set())

    def test_all_are(self) -> None:
        self.assertLessEqual(
            {f"CON-{number}" for number in "05 06 07 08 09 11 12 19 23 24 27 29".split()},
            self.failed(Doubting),
        )
