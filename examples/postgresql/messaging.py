"""`producer` and `consumer` on PostgreSQL: the database as a queue. `examples.postgresql.queues` says how, and what is not had.

`transaction` is one of the server, on a connection of its own: what is published in it is seen when it has been committed, and
belongs together with whatever else an application would write there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from psycopg.pq import TransactionStatus

from examples import servers
from examples.common import arguments
from examples.common.consumers import Subscription
from examples.common.messages import check_message
from examples.postgresql.connections import Connection
from examples.postgresql.queues import PostgreSQLQueues, create_schema
from omnitck.shared.exceptions import InvalidArgumentError, PublishError
from omnitck.shared.models import MessageLimits

__all__ = ["PostgreSQLMessaging", "make_messaging"]


class PostgreSQLMessaging(PostgreSQLQueues):
    """A broker in a database."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish atomic_batch deduplication transactional_publish message_ttl ordering_by_key "
        "stopping delivery_metadata fan_out concurrency dead_letter nack_redelivery visibility_timeout batch_consume "
        "lifecycle validation shared availability limits".split()
    )
    limits: MessageLimits = MessageLimits(
        key_bytes=1024, value_bytes=2**20, headers=64, batch_size=100, min_ttl=0.1, ttl_resolution=0.1, redeliver=2.0
    )

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(url, tenant_id)
        self._inside: set[_Inside] = set()

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
        await self._accepted(f"publish to {topic!r}", self._publish([message], ttl=seconds, once=message_id is not None))
        return message.id

    def transaction(self) -> AbstractAsyncContextManager["PostgreSQLMessaging"]:
        """A producer whose messages become visible together at the end of the block, or not at all."""
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator["PostgreSQLMessaging"]:
        self._check_open()
        inside = _Inside(self)
        self._inside.add(inside)
        try:
            yield inside
            await inside.commit()
        finally:
            # Without COMMIT the server undoes everything when the connection ends.
            self._inside.discard(inside)
            inside._closed = True
            if not self._closed:
                self._start(inside.close())

    async def _release(self) -> None:
        for each in list(self._inside):
            await each.close()
        await super()._release()

    def _abort(self) -> None:
        for each in self._inside:
            each._closed = True
        super()._abort()


class _Inside(PostgreSQLMessaging):
    """The producer of a block, on one connection."""

    def __init__(self, outside: PostgreSQLMessaging) -> None:
        super().__init__("")
        self._tenant = outside._tenant
        self._name = outside._name
        self._connections = outside._connections
        self._outside = outside
        self._topics: set[str] = set()
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def _lease(self) -> AsyncIterator[Connection]:
        async with self._turn:
            if self._connection is None:
                connection = await self._connections.open()
                try:
                    await connection.execute("BEGIN")
                except BaseException:
                    connection.pgconn.finish()
                    raise
                self._connection = connection
            yield self._connection

    async def commit(self) -> None:
        """Make everything visible."""
        if self._connection is not None or self._tasks:
            await self._accepted("transaction", self._commit())

    async def _commit(self) -> None:
        async with self._lease() as connection:
            if connection.pgconn.transaction_status != TransactionStatus.INTRANS:  # COMMIT would be ROLLBACK, and no error
                raise PublishError("transaction: a publication of it has failed, so nothing was published")
            await connection.execute("COMMIT")
        for each in self._topics:
            self._outside._is_published(each)

    def _is_published(self, topic: str) -> None:
        self._topics.add(topic)  # which nobody sees yet

    async def subscribe(self, *arguments: Any, **options: Any) -> Subscription:
        """Refused."""
        raise InvalidArgumentError("a transaction publishes: subscribe outside")

    def transaction(self) -> AbstractAsyncContextManager[PostgreSQLMessaging]:
        """Refused."""
        raise InvalidArgumentError("a transaction cannot be opened in another one")

    async def _release(self) -> None:
        if self._connection is not None:
            self._connection.pgconn.finish()


async def make_messaging(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> PostgreSQLMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLMessaging.connect(url, tenant_id=tenant_id)
