"""Producers, consumers and delayed publishers: the references on a clock of their own, in real time and on trio; providers with
the least that the contracts ask for, and one that is producer and consumer; and suites that lack something."""

import asyncio
import importlib.util
import os
import unittest
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from omnitck.kit.contract import known_capabilities
from omnitck.kit.outcomes import Status
from omnitck.kit.text import UsageError
from omnitck.messaging.consumer import ConsumerContract
from omnitck.messaging.producer import ProducerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.reference import consumer, producer
from omnitck.reference.broker import MemoryBroker
from omnitck.reference.consumer import MemoryConsumer
from omnitck.reference.producer import MemoryProducer
from omnitck.selftest import reference_suite
from omnitck.shared.models import ConsumedMessage, MessageLimits, ProcessingOutcome
from tests.helpers import outcome_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")


def on_trio(contract: str, name: str) -> Any:
    suite = reference_suite(contract, __module__=__name__, __qualname__=name, backend="trio")
    return unittest.skipIf(no_trio, "trio is not installed")(suite)


TestProducer: Any = reference_suite("producer", __module__=__name__, __qualname__="TestProducer")
TestConsumer: Any = reference_suite("consumer", __module__=__name__, __qualname__="TestConsumer")
TestDelayedMessaging: Any = reference_suite("delayed_messaging", __module__=__name__, __qualname__="TestDelayedMessaging")
TestProducerOnTrio = on_trio("producer", "TestProducerOnTrio")
TestConsumerOnTrio = on_trio("consumer", "TestConsumerOnTrio")
TestDelayedMessagingOnTrio = on_trio("delayed_messaging", "TestDelayedMessagingOnTrio")


class MemoryMessaging(MemoryConsumer, MemoryProducer):
    """One class that is producer and consumer."""

    everything = (producer.CAPABILITIES | consumer.CAPABILITIES) - {"strict_topics"}
    reads = "publish"


class InRealTime(MultiTenancyPolicy):
    """One broker with the clock of the machine, used as a user would certify it: a provider that is both needs no other hook."""

    limits = MessageLimits(min_ttl=0.05, ttl_resolution=0.05, redeliver=0.2)

    def setUp(self) -> None:
        self.memory = MemoryBroker(limits=self.limits)

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> Any:
        return MemoryMessaging(self.memory, tenant_id=tenant_id)

    async def unreachable_provider(self) -> Any:
        return MemoryMessaging(MemoryBroker(reachable=False))

    async def crash(self, client: Any) -> None:
        client.vanish()

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True
        self.memory.notify()


class TestBothAsProducer(ProducerContract, InRealTime, unittest.IsolatedAsyncioTestCase):
    capabilities = MemoryMessaging.everything & known_capabilities(ProducerContract)


class TestBothAsConsumer(ConsumerContract, InRealTime, unittest.IsolatedAsyncioTestCase):
    capabilities = MemoryMessaging.everything & known_capabilities(ConsumerContract)


class Broker:
    """What the first kit had for a broker: a queue for each topic."""

    def __init__(self) -> None:
        self.topics: dict[str, asyncio.Queue[ConsumedMessage]] = defaultdict(asyncio.Queue)

    async def get(self, topic: str, timeout: float) -> ConsumedMessage | None:
        try:
            async with asyncio.timeout(timeout):
                return await self.topics[topic].get()
        except TimeoutError:
            return None


class Producer:
    """A producer that publishes, as the first kit demanded it, and has nothing else."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.broker.topics[topic].put_nowait(ConsumedMessage(payload, key, dict(headers or {})))


class Consumer:
    """A consumer with the first kit's handler, and without an end."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.loops: list[asyncio.Task[None]] = []

    async def subscribe(
        self, topic: str, handler: Callable[[ConsumedMessage], Awaitable[ProcessingOutcome]], *, max_attempts: int = 3
    ) -> None:
        self.loops.append(asyncio.create_task(self.consume(topic, handler, max_attempts)))

    async def consume(self, topic: str, handler: Callable[[ConsumedMessage], Awaitable[object]], max_attempts: int) -> None:
        while True:
            message = await self.broker.topics[topic].get()
            for _ in range(max_attempts):
                try:
                    outcome = await handler(message)
                except (Exception, asyncio.CancelledError):
                    if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                        raise
                    continue
                if outcome in (ProcessingOutcome.SUCCESS, ProcessingOutcome.FAIL):
                    break


class TestSeedProducer(ProducerContract, unittest.IsolatedAsyncioTestCase):
    """It has the core, with one method; the suite reads a topic back."""

    def setUp(self) -> None:
        self.broker = Broker()

    async def make_provider(self, **config: Any) -> Producer:
        return Producer(self.broker)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: Any) -> ConsumedMessage | None:
        return await self.broker.get(topic, timeout)


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
    def suite(self, contract: type[Any], provider: type[Any], **members: Any) -> type[Any]:
        async def make_provider(self: Any, **config: Any) -> Any:
            return provider(Broker())

        return type("TestMine", (contract, unittest.IsolatedAsyncioTestCase), {"make_provider": make_provider, **members})

    def assert_error(self, suite: type[Any], test: str, message: str) -> None:
        outcome, _ = outcome_of(suite, test)
        self.assertEqual((outcome.outcome, outcome.message), (Status.ERROR, message))

    def test_a_producer_alone_needs_a_way_to_read(self) -> None:
        self.assert_error(
            self.suite(ProducerContract, Producer),
            "test_prd_01_the_payload_arrives",
            "PRD-01 could not be judged: HookError: TestMine has no get_message_from_topic, and Producer has no subscribe: "
            "write the hook with `async def`.",
        )

    def test_a_consumer_alone_needs_a_way_to_publish(self) -> None:
        self.assert_error(
            self.suite(ConsumerContract, Consumer),
            "test_con_10_fail_gives_up_at_once",
            "CON-10 could not be judged: HookError: TestMine has no publish, and Consumer has no publish: "
            "write the hook with `async def`.",
        )

    def test_what_is_read_is_a_message(self) -> None:
        async def get_message_from_topic(self: Any, topic: str, timeout: float) -> str:
            return "text"

        self.assert_error(
            self.suite(ProducerContract, Producer, get_message_from_topic=get_message_from_topic),
            "test_prd_01_the_payload_arrives",
            "PRD-01 could not be judged: HookError: get_message_from_topic returned 'text': "
            "give None, or payload, key and headers.",
        )

    def test_strict_topics_have_to_be_made(self) -> None:
        with self.assertRaisesRegex(UsageError, "^TestMine declares strict_topics, but has no hook `create_topic` to make one.$"):
            self.suite(ProducerContract, Producer, capabilities={"strict_topics"})
