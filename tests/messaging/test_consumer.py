"""Consumers: the reference on a clock of its own, in real time and on trio; one with the least; a suite that lacks something."""

import importlib.util
import os
import unittest
from collections.abc import Mapping
from typing import Any

from omnitck.kit.outcomes import Status
from omnitck.messaging.consumer import ConsumerContract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.models import MessageLimits
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
