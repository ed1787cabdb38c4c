"""`producer` and `consumer` on SQLite: one file, no server. `examples.sqlite.queues` says how, and what cannot be had."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar

from examples.common import arguments
from examples.common.messages import Message, check_message
from examples.sqlite.connections import folder
from examples.sqlite.queues import SQLiteQueues
from omnitck.shared.models import MessageLimits

__all__ = ["SQLiteMessaging", "make_messaging"]


class SQLiteMessaging(SQLiteQueues):
    """A broker in one SQLite file."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish atomic_batch deduplication transactional_publish message_ttl ordering_by_key "
        "stopping delivery_metadata fan_out concurrency dead_letter nack_redelivery visibility_timeout batch_consume "
        "lifecycle validation shared limits".split()
    )
    limits: MessageLimits = MessageLimits(
        key_bytes=1024, value_bytes=2**20, headers=64, batch_size=500, min_ttl=0.1, ttl_resolution=0.1, redeliver=2.0
    )

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
        """Publish a message; its id."""
        if message_id is not None:
            arguments.encode_key(message_id, self.limits)
        seconds = arguments.parse_ttl(topic, ttl, self.limits)
        message = check_message(topic, payload, key, headers, self.limits, id=message_id)
        await self._accepted(f"publish to {topic!r}", self._insert([message], ttl=seconds, once=message_id is not None))
        return message.id

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """What is published in the block is stored at its end, all at once; the file is not locked before."""
        self._check_open()
        transaction = Transaction(self)
        yield transaction
        await self._accepted("transaction", self._insert(transaction.messages))


class Transaction:
    """A producer whose messages wait."""

    def __init__(self, client: SQLiteMessaging) -> None:
        self._client = client
        self.messages: list[Message] = []

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None) -> str:
        """Publish a message when the transaction ends."""
        message = check_message(topic, payload, key, headers, self._client.limits)
        self.messages.append(message)
        return message.id


async def make_messaging(*, tenant_id: str | None = None, **config: object) -> SQLiteMessaging:
    """A client of a file in this process's own folder."""
    return await SQLiteMessaging.connect(folder() / "messages.sqlite", tenant_id=tenant_id)
