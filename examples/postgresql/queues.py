"""What producers, consumers and delayed publishers on PostgreSQL share: the queues, which are rows of one table, `messaging.sql`.

A message has a row for each group of consumers. One statement claims it: it skips what others are claiming, and moves the time at
which the message is due to the end of a lease, which the consumer extends while its handler runs. So a message comes again if its
consumer dies. The number of its delivery keeps one that is late from ending what another one has by now. All times are those of
the server's clock.

Consumers are woken by their own client, or by NOTIFY where another one has published. They look by themselves when the next
message is due, and every `LOOK` seconds, for what a lost connection did not tell them. Not declared is `strict_topics`: a topic
is a value in a column, and needs no making. A group stays until somebody deletes its row, and its messages wait as long.
"""

import asyncio
import contextlib
import uuid
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
from psycopg import sql

from examples.common import arguments
from examples.common.client import TIDYING
from examples.common.consumers import DEFAULT_GROUP, LOOK, Consumer, Delivery, Source, Wishes
from examples.common.messages import Message, place
from examples.postgresql.connections import DENIED, Connection, Connections, connected_now, told
from examples.postgresql.notices import Notices

__all__ = ["PostgreSQLQueues", "create_schema"]

T = TypeVar("T")
Row = tuple[Any, ...]

NOW = "statement_timestamp()"

# A client wakes its own consumers itself.
NOTIFY = """
CASE WHEN EXISTS (SELECT FROM message_listeners WHERE topic = %(topic)s AND client <> %(client)s)
THEN pg_notify(%(topic)s, '')::text END
"""

# Targets are joined last: a message's rows get their numbers in the order of the messages.
PUBLISH = f"""
INSERT INTO message_deliveries (queue, key, envelope, payload, due, expires, schedule)
SELECT target.queue, item.key, item.envelope, item.payload, {NOW} + make_interval(secs => %(delay)s::float8),
    coalesce({NOW} + make_interval(secs => %(ttl)s::float8), 'infinity'), %(schedule)s
FROM unnest(%(keys)s::bytea[], %(envelopes)s::text[], %(payloads)s::bytea[])
    WITH ORDINALITY AS item (key, envelope, payload, position),
    (SELECT %(queue)s::text AS queue UNION ALL SELECT queue FROM message_groups WHERE topic = %(topic)s) AS target
WHERE {{condition}}
ORDER BY item.position
RETURNING {NOTIFY}
"""

# Whoever inserts the same id meanwhile is waited for: what it published may be rolled back.
PUBLISH_ONCE = f"""
WITH forgotten AS (
    DELETE FROM message_ids WHERE (topic, id) IN (
        SELECT topic, id FROM message_ids WHERE since < {NOW} - interval '1 day' LIMIT 10 FOR UPDATE SKIP LOCKED
    )
), new AS (
    INSERT INTO message_ids (topic, id) VALUES (%(topic)s, %(id)s) ON CONFLICT DO NOTHING RETURNING id
)
{PUBLISH.format(condition="EXISTS (SELECT FROM new)")}
"""

JOIN = """
WITH joined AS (
    INSERT INTO message_groups (topic, queue) SELECT %(topic)s, %(queue)s WHERE %(named)s::boolean ON CONFLICT DO NOTHING
)
INSERT INTO message_listeners (topic, client) VALUES (%(topic)s, %(client)s) ON CONFLICT DO NOTHING
"""

# Nobody has or waits for the message any more, and its time is over.
DELETE_EXPIRED = f"""
DELETE FROM message_deliveries WHERE number = ANY(ARRAY(
    SELECT number FROM message_deliveries
    WHERE queue = %(queue)s AND expires < 'infinity' AND expires <= {NOW} AND due <= {NOW}
    LIMIT 1000 FOR UPDATE SKIP LOCKED
))
"""

# A message waits for that of its key which is under way, and else for those that were due before it. What is due next is
# told too, for who finds nothing.
CLAIM = f"""
WITH over AS ({DELETE_EXPIRED}), claimed AS (
    UPDATE message_deliveries SET attempts = attempts + 1, due = {NOW} + make_interval(secs => %(lease)s::float8)
    WHERE number = ANY(ARRAY(
        SELECT number FROM message_deliveries AS mine
        WHERE queue = %(queue)s AND due <= {NOW} AND expires > {NOW} AND (
            key IS NULL OR attempts > 0 OR NOT EXISTS (
                SELECT FROM message_deliveries AS other
                WHERE other.queue = mine.queue AND other.key = mine.key AND other.attempts > 0
                    AND (other.expires > {NOW} OR other.due > {NOW})
            ) AND NOT EXISTS (
                SELECT FROM message_deliveries AS other
                WHERE other.queue = mine.queue AND other.key = mine.key AND (other.due, other.number) < (mine.due, mine.number)
                    AND other.expires > {NOW}
            )
        )
        ORDER BY due, number LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ))
    RETURNING number, attempts, envelope, payload
)
SELECT number, attempts, envelope, payload, NULL::float8 FROM claimed
UNION ALL
SELECT NULL, NULL, NULL, NULL, extract(epoch FROM min(due) - {NOW})::float8
FROM message_deliveries WHERE queue = %(queue)s AND due > {NOW}
"""

MINE = "number = %(number)s AND attempts = %(attempt)s"

DONE = f"DELETE FROM message_deliveries WHERE {MINE}"

EXTEND = f"UPDATE message_deliveries SET due = {NOW} + make_interval(secs => %(lease)s::float8) WHERE {MINE}"

AGAIN = f"""
UPDATE message_deliveries SET due = {NOW} + make_interval(secs => %(delay)s::float8) WHERE {MINE}
RETURNING {NOTIFY}
"""

BURY = f"""
WITH lost AS (DELETE FROM message_deliveries WHERE {MINE} RETURNING key, envelope, payload)
INSERT INTO message_deliveries (queue, key, envelope, payload, due)
SELECT target.queue, lost.key, lost.envelope, lost.payload, {NOW}
FROM lost, (SELECT %(queue)s::text AS queue UNION ALL SELECT queue FROM message_groups WHERE topic = %(topic)s) AS target
RETURNING {NOTIFY}
"""

SHORTEST_LEASE = 0.1


_Claimed = tuple[list[Delivery], float]


class PostgreSQLQueues(Consumer):
    """Queues in the database at *url*, whose schema `create_schema` made."""

    _unavailable = (OSError, TimeoutError, psycopg.Error)
    _denied = DENIED

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(tenant_id)
        self._connections = Connections(url)
        self._name = f"messaging-{uuid.uuid4().hex}"
        self._notices = Notices(self._connections, self._name, self._unavailable)
        self._hearing: asyncio.Task[None] | None = None
        self._claiming: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the database at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

    async def _send(self, message: Message) -> None:
        await self._publish([message])

    async def _send_many(self, messages: Sequence[Message]) -> Mapping[str, Exception]:
        chunks = list(arguments.chunks(messages, self.limits.batch_size))
        async with self._lease() as connection, connection.transaction():
            for chunk in chunks:
                await self._insert(connection, chunk)
        self._is_published(messages[0].topic)
        return {}

    async def _publish(self, messages: Sequence[Message], **options: Any) -> None:
        async with self._lease() as connection:
            await self._insert(connection, messages, **options)
        self._is_published(messages[0].topic)

    def _is_published(self, topic: str) -> None:
        """Wake this client's own consumers."""
        self._notices.wake(place(self._tenant, topic))

    async def _insert(
        self,
        connection: Connection,
        messages: Sequence[Message],
        *,
        delay: float = 0.0,
        ttl: float | None = None,
        schedule: str | None = None,
        once: bool = False,
    ) -> None:
        """Store *messages* of one topic; with *once* only if the id is new."""
        first = messages[0]
        parameters = {
            **self.names(first.topic),
            "keys": [None if each.key is None else each.key.encode() for each in messages],
            "envelopes": [each.envelope() for each in messages],
            "payloads": [each.payload for each in messages],
            "delay": delay,
            "ttl": ttl,
            "schedule": schedule,
            "id": first.id.encode(),
        }
        await _execute(connection, PUBLISH_ONCE if once else PUBLISH.format(condition="TRUE"), parameters)

    def turn(self, queue: str) -> asyncio.Lock:
        """Whose turn it is to claim, among this client's consumers of *queue*: what they get they get in its order."""
        return self._claiming.setdefault(queue, asyncio.Lock())

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* as a task that `close` ends."""
        return self._start(work)

    def names(self, topic: str, group: str = DEFAULT_GROUP) -> dict[str, str]:
        """What stands for a topic, a group of it, and this client."""
        return {"topic": place(self._tenant, topic), "queue": place(self._tenant, topic, group), "client": self._name}

    def _lease(self) -> AbstractAsyncContextManager[Connection]:
        return self._connections.one()

    async def request(self, statement: str, parameters: Mapping[str, object]) -> list[Row]:
        """The answer to one statement of a source, which has a time limit of its own; also while the client is being closed."""

        async def work() -> list[Row]:
            async with self._connections.one() as connection:
                return await _execute(connection, statement, parameters)

        task = self._start(work())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        return task.result()

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        names = self.names(topic, wishes.group)
        if self._hearing is None or self._hearing.done():
            self._hearing = self._start(self._notices.run())
        await self._notices.join(names["topic"])
        try:
            await self.request(JOIN, {**names, "named": wishes.group != DEFAULT_GROUP})
        except BaseException:
            self._notices.leave(names["topic"])
            raise
        lease = self.limits.redeliver if wishes.visibility is None else max(wishes.visibility, SHORTEST_LEASE)
        return _Queue(self, self._notices, topic, names, lease)

    async def purge(self) -> None:
        """Remove what has expired and nobody will look at. Only disk space asks for it: consumers remove it from their queues."""
        over = f"DELETE FROM message_deliveries WHERE expires < 'infinity' AND expires <= {NOW} AND due <= {NOW}"
        ids = f"DELETE FROM message_ids WHERE since < {NOW} - interval '1 day'"
        gone = "DELETE FROM message_listeners WHERE client NOT IN (SELECT application_name FROM pg_stat_activity)"
        await self._call("purge", self._purge(over, ids, gone))

    async def _purge(self, *statements: str) -> None:
        async with self._connections.one() as connection:
            for each in statements:
                await _execute(connection, each, {})

    async def _release(self) -> None:
        if self._hearing is not None:
            command = sql.SQL("DELETE FROM message_listeners WHERE client = {}").format(self._name)
            with contextlib.suppress(*self._unavailable):
                async with self._connections.one() as connection:
                    await told(connection, command, TIDYING)
            self._hearing = None
        await self._connections.close()

    def _abort(self) -> None:
        self._connections.abort()


class _Queue(Source):
    """The messages of one topic for one group."""

    def __init__(self, client: PostgreSQLQueues, notices: Notices, topic: str, names: Mapping[str, str], lease: float) -> None:
        self.lease = lease
        self._client = client
        self._notices = notices
        self._topic = topic
        self._names = names
        self._turn = client.turn(names["queue"])
        self._hurried = False
        self._late: list[asyncio.Task[_Claimed]] = []

    async def take(self, most: int) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        end = loop.time() + LOOK
        while True:
            news = self._notices.news(self._names["topic"])
            async with self._turn:
                deliveries, wait = await self._claim(most)
            left = end - loop.time()
            if deliveries or left <= 0 or self._hurried:
                return deliveries
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, wait)):
                    await news.wait()

    async def _claim(self, most: int) -> _Claimed:
        """What could be had, and in how many seconds there may be more.

        A claim that is given up in the middle may have been granted, and its messages would wait for the end of their leases.
        So whoever is out of time leaves it to the next.
        """
        late = bool(self._late)
        task = self._late.pop() if late else self._client.start(self._request(most))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if late:
                task.cancel()  # by now it is the server that is silent
            else:
                self._late.append(task)
            raise
        return task.result()

    async def _request(self, most: int) -> _Claimed:
        parameters = {**self._names, "lease": self.lease, "most": most}
        try:
            rows = await self._client.request(CLAIM, parameters)
        except psycopg.errors.UniqueViolation:  # another message of a key was begun at the same time, or has expired since
            await self._client.request(DELETE_EXPIRED, parameters)
            return [], 0.0
        *rows, (*_, wait) = sorted(rows, key=lambda row: (row[0] is None, row[0]))
        return [
            Delivery(Message.opened(self._topic, payload, envelope), attempts, number)
            for number, attempts, envelope, payload, _ in rows
        ], LOOK if wait is None else wait

    def hurry(self) -> None:
        self._hurried = True
        self._notices.wake(self._names["topic"])

    async def done(self, delivery: Delivery) -> None:
        await self._settle(DONE, delivery)
        if delivery.message.key is not None:
            self._notices.wake(self._names["topic"])  # the next one of the key is free

    async def again(self, delivery: Delivery, delay: float) -> None:
        await self._settle(AGAIN, delivery, delay=delay)
        self._notices.wake(self._names["topic"])

    async def extend(self, delivery: Delivery) -> None:
        await self._settle(EXTEND, delivery, lease=self.lease)

    async def bury(self, delivery: Delivery, topic: str) -> bool:
        names = self._client.names(topic)
        await self._settle(BURY, delivery, **names)
        self._notices.wake(names["topic"])
        if delivery.message.key is not None:
            self._notices.wake(self._names["topic"])
        return True

    async def _settle(self, statement: str, delivery: Delivery, **parameters: object) -> None:
        """What the consumer says of a message, if it still has it."""
        mine = {"number": delivery.receipt, "attempt": delivery.attempt}
        await self._client.request(statement, {**self._names, **mine, **parameters})

    async def close(self) -> None:
        try:
            while self._late:
                deliveries, _ = await self._claim(1)
                for each in deliveries:
                    await self.again(each, 0.0)
        finally:
            for task in self._late:
                task.cancel()
            self._notices.leave(self._names["topic"])


async def _execute(connection: Connection, statement: str, parameters: Mapping[str, object]) -> list[Row]:
    cursor = await connection.execute(statement.encode(), parameters, binary=True)
    return await cursor.fetchall() if cursor.description else []


def create_schema(url: str) -> None:
    """Create what `messaging.sql` describes, unless it is there; several processes may do so at once."""
    with connected_now(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(7236834)")  # CREATE ... IF NOT EXISTS fails in a race
        if connection.execute("SELECT to_regclass('message_deliveries')").fetchone() == (None,):
            connection.execute(Path(__file__).with_name("messaging.sql").read_bytes())
