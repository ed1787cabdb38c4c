"""What the tests of the contracts of messaging drive: a provider that is producer and consumer, and two with the least."""

import asyncio
import unittest
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.reference import consumer, producer
from omnitck.reference.broker import MemoryBroker
from omnitck.reference.consumer import MemoryConsumer
from omnitck.reference.producer import MemoryProducer
from omnitck.shared.models import ConsumedMessage, DelayLimits, ProcessingOutcome

__all__ = ["Broker", "Consumer", "InRealTime", "MemoryMessaging", "Producer", "suite_of"]


def suite_of(contract: type[Any], provider: "type[Producer | Consumer]", **members: Any) -> type[Any]:
    """A suite of *provider* on a broker of its own, and *members*."""

    async def make_provider(self: Any, **config: Any) -> Any:
        return provider(Broker())

    return type("TestMine", (contract, unittest.IsolatedAsyncioTestCase), {"make_provider": make_provider, **members})


class MemoryMessaging(MemoryConsumer, MemoryProducer):
    """One class that is producer and consumer."""

    everything = (producer.CAPABILITIES | consumer.CAPABILITIES) - {"strict_topics"}
    reads = "publish"


class InRealTime(MultiTenancyPolicy):
    """One broker with the clock of the machine, used as a user would certify it: a provider that is both needs no other hook."""

    limits = DelayLimits(min_ttl=0.05, ttl_resolution=0.05, redeliver=0.2)

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
