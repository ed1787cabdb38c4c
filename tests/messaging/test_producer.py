"""Producers: the reference on a clock of its own, in real time and on trio; one with the least; suites that lack something."""

import importlib.util
import os
import unittest
from typing import Any

from omnitck.kit.outcomes import Status
from omnitck.kit.text import UsageError
from omnitck.messaging.producer import ProducerContract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.exceptions import InvalidArgumentError
from omnitck.shared.models import ConsumedMessage, MessageLimits, OutgoingMessage, PublishResult
from tests.helpers import outcome_of
from tests.messaging.providers import Broker, InRealTime, MemoryMessaging, Producer, suite_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestProducer: Any = reference_suite("producer", __module__=__name__, __qualname__="TestProducer")
TestProducerOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("producer", __module__=__name__, __qualname__="TestProducerOnTrio", backend="trio")
)


class TestBothAsProducer(ProducerContract, InRealTime, unittest.IsolatedAsyncioTestCase):
    capabilities = MemoryMessaging.everything & known_capabilities("producer")


class TestSeedProducer(ProducerContract, unittest.IsolatedAsyncioTestCase):
    """It has the core, with one method; the suite reads a topic back."""

    def setUp(self) -> None:
        self.broker = Broker()

    async def make_provider(self, **config: Any) -> Producer:
        return Producer(self.broker)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: Any) -> ConsumedMessage | None:
        return await self.broker.get(topic, timeout)


class TestWhatASuiteLacks(unittest.TestCase):
    def test_a_producer_alone_needs_a_way_to_read(self) -> None:
        outcome, _ = outcome_of(suite_of(ProducerContract, Producer), "test_prd_01_the_payload_arrives")
        self.assertEqual(
            (outcome.outcome, outcome.message),
            (
                Status.ERROR,
                "PRD-01 could not be judged: HookError: TestMine has no get_message_from_topic, and Producer has no subscribe: "
                "write the hook with `async def`.",
            ),
        )

    def test_what_is_read_is_a_message(self) -> None:
        async def get_message_from_topic(self: Any, topic: str, timeout: float) -> str:
            return "text"

        suite = suite_of(ProducerContract, Producer, get_message_from_topic=get_message_from_topic)
        outcome, _ = outcome_of(suite, "test_prd_01_the_payload_arrives")
        self.assertEqual(
            (outcome.outcome, outcome.message),
            (
                Status.ERROR,
                "PRD-01 could not be judged: HookError: get_message_from_topic returned 'text': "
                "give None, or payload, key and headers.",
            ),
        )

    def test_strict_topics_have_to_be_made(self) -> None:
        with self.assertRaisesRegex(UsageError, "^TestMine declares strict_topics, but has no hook `create_topic` to make one.$"):
            suite_of(ProducerContract, Producer, capabilities={"strict_topics"})


class Batches(Producer):
    """It publishes several messages in one call, and refuses text."""

    async def publish_many(self, topic: str, messages: list[OutgoingMessage]) -> list[PublishResult]:
        results = []
        for each in messages:
            if isinstance(each.payload, bytes):
                await self.publish(topic, each.payload, each.key, each.headers)
                results.append(PublishResult())
            else:
                results.append(PublishResult(error=InvalidArgumentError(f"topic {topic!r}: a payload is bytes")))
        return results


class TestBadMessagesOfABatch(unittest.TestCase):
    """What cannot be published is what the suite declares to be refused."""

    def judged(self, *declared: str, value_bytes: int = 65_536) -> tuple[Status, str]:
        broker = Broker()

        async def make_provider(self: Any, **config: Any) -> Producer:
            return Batches(broker)

        async def get_message_from_topic(self: Any, topic: str, timeout: float) -> ConsumedMessage | None:
            return await broker.get(topic, timeout)

        suite = suite_of(
            ProducerContract,
            Batches,
            make_provider=make_provider,
            get_message_from_topic=get_message_from_topic,
            capabilities={"batch_publish", *declared},
            limits=MessageLimits(value_bytes=value_bytes),
        )
        outcome, _ = outcome_of(suite, "test_prd_20_a_bad_message_fails_alone")
        return outcome.outcome, outcome.message

    def test_nothing_need_be_refused(self) -> None:
        status, message = self.judged()
        self.assertIs(status, Status.NOT_PROVOKED)
        self.assertIn("no message must be refused: neither `validation` nor `limits` below 16 MiB is declared", message)

    def test_text_is_by_validation(self) -> None:
        self.assertEqual(self.judged("validation"), (Status.PASSED, ""))
        self.assertEqual(self.judged("validation", "limits", value_bytes=2**40), (Status.PASSED, ""))

    def test_what_is_too_large_is_by_limits(self) -> None:
        status, _ = self.judged("validation", "limits")
        self.assertIs(status, Status.FAILED)
