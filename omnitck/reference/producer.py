"""A producer in memory with every capability of the contract: `MemoryBroker` is the broker, `MemoryProducer` one client of it."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from omnitck.reference.broker import BrokerClient, MemoryBroker
from omnitck.shared.exceptions import InvalidArgumentError, TCKError
from omnitck.shared.models import ConsumedMessage, OutgoingMessage, PublishResult

__all__ = ["CAPABILITIES", "MemoryBroker", "MemoryProducer"]

CAPABILITIES = frozenset(
    "message_ids batch_publish atomic_batch deduplication transactional_publish message_ttl strict_topics ordering_by_key "
    "lifecycle validation shared availability limits".split()
)


class MemoryProducer(BrokerClient):
    """One client of the broker."""

    everything = CAPABILITIES
    aside = "transactional_publish"

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """See `ProducerProtocol`, `Deduplication` and `MessageTTL`."""
        message = self.message(topic, payload, key, headers)
        if message_id is not None:
            self.need("deduplication")
            self.check_text(topic, "a message id", message_id)
        seconds = self.checked_ttl(topic, ttl)
        await self.publishing()
        if message_id is None:
            return self.put(topic, message, ttl=seconds)

        accepted = self.backend.accepted
        place = (self.cell(topic), message_id)
        with self.backend.lock:
            if place not in accepted:
                accepted[place] = self.put(topic, message, ttl=seconds)
            return accepted[place]

    def checked_ttl(self, topic: str, ttl: object) -> float:
        """*ttl* in seconds, without an end if it is None."""
        if ttl is None:
            return math.inf
        self.need("message_ttl")
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < math.inf:
            raise InvalidArgumentError(f"topic {topic!r}: a ttl is a number of seconds above 0")
        return max(float(ttl), self.limits.min_ttl)

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        """See `BatchPublish.publish_many`."""
        self.need("batch_publish")
        self.check_key(topic)
        checked = [self.checked(topic, each) for each in messages]
        await self.publishing()
        self.check_topic(self.cell(topic))
        errors = [each for each in checked if isinstance(each, TCKError)]
        if errors and "atomic_batch" in self.capabilities:
            return [PublishResult(error=each if isinstance(each, TCKError) else errors[0]) for each in checked]
        return [
            PublishResult(error=each) if isinstance(each, TCKError) else PublishResult(self.put(topic, each)) for each in checked
        ]

    def checked(self, topic: str, message: OutgoingMessage) -> ConsumedMessage | TCKError:
        """*message* as it is stored, or why it cannot be."""
        try:
            return self.message(topic, message.payload, message.key, message.headers)
        except TCKError as error:
            return error

    def transaction(self) -> AbstractAsyncContextManager["Transaction"]:
        """See `TransactionalPublish.transaction`."""
        self.need("transactional_publish")
        return self.committing()

    @asynccontextmanager
    async def committing(self) -> AsyncIterator["Transaction"]:
        """Keep what is published until the end of the context."""
        await self.publishing()
        transaction = Transaction(self)
        yield transaction
        await self.publishing()
        with self.backend.lock:
            for topic, message in transaction.messages:
                self.put(topic, message)


class Transaction:
    """A producer whose messages wait."""

    def __init__(self, producer: MemoryProducer) -> None:
        self.producer = producer
        self.messages: list[tuple[str, Any]] = []

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """See `ProducerProtocol.publish`."""
        message = self.producer.message(topic, payload, key, headers)
        await self.producer.publishing()
        self.producer.check_topic(self.producer.cell(topic))
        self.messages.append((topic, message))
