"""What producers, consumers and delayed publishers on SQLite share: the queues, which are tables of one file.

A message has a row for each group of consumers. Whoever takes it moves its due time to the end of a lease, so that it comes again
if its consumer dies; a number that grows with each delivery keeps one that is late from ending what another one has by now.

SQLite tells nobody of a change, so consumers look for messages: at once after this client's own, else every few milliseconds at
first, and less and less often where nothing comes. Nor is `availability` declared: there is no server to lose. Nor are
`strict_topics`: a topic is a value in a column, and needs no making.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from examples.common import arguments
from examples.common.consumers import DEFAULT_GROUP, LOOK, Consumer, Delivery, Source, Wishes
from examples.common.messages import Message
from examples.sqlite.connections import SQLiteClient

__all__ = ["NOW", "SQLiteQueues"]

SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS deliveries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant BLOB NOT NULL,
        topic BLOB NOT NULL,
        audience TEXT NOT NULL,
        id TEXT NOT NULL,
        key TEXT,
        envelope TEXT NOT NULL,
        payload BLOB NOT NULL,
        due REAL NOT NULL,
        expires REAL,
        attempts INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX IF NOT EXISTS by_due ON deliveries (tenant, topic, audience, due, number)",
    "CREATE INDEX IF NOT EXISTS by_key ON deliveries (tenant, topic, audience, key, number) WHERE key IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS by_id ON deliveries (tenant, id)",
    "CREATE INDEX IF NOT EXISTS by_expiry ON deliveries (expires) WHERE expires IS NOT NULL",
    """
    CREATE TABLE IF NOT EXISTS audiences (
        tenant BLOB NOT NULL, topic BLOB NOT NULL, audience TEXT NOT NULL, PRIMARY KEY (tenant, topic, audience)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS accepted (
        tenant BLOB NOT NULL, topic BLOB NOT NULL, id TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (tenant, topic, id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS by_age ON accepted (since)",
)

NOW = "((julianday('now') - 2440587.5) * 86400.0)"
# SQLite's own clock, which counts milliseconds; in seconds since 1970.

TICK = 0.001

HERE = "tenant = :tenant AND topic = :topic"
# The tenant is a column of every condition, never a part of the topic.

PUBLISH = f"""
INSERT INTO deliveries (tenant, topic, audience, id, key, envelope, payload, due, expires)
SELECT :tenant, :topic, audience, :id, :key, :envelope, :payload, {NOW} + :delay, {NOW} + :ttl
FROM (SELECT '{DEFAULT_GROUP}' AS audience UNION SELECT audience FROM audiences WHERE {HERE})
"""
# The default group is there from the beginning, so that what is published before anybody listens is kept.

READY = f"""
FROM deliveries AS mine
WHERE {HERE} AND audience = :audience AND due <= {NOW} AND (expires IS NULL OR expires > {NOW}) AND NOT EXISTS (
    SELECT 1 FROM deliveries AS earlier
    WHERE earlier.tenant = :tenant AND earlier.topic = :topic AND earlier.audience = :audience AND earlier.key = mine.key
    AND earlier.number < mine.number AND (earlier.expires IS NULL OR earlier.expires > {NOW})
    AND (earlier.attempts > 0 OR earlier.due <= {NOW})
)
"""
# A message waits for the earlier ones of its key, whether they are being handled, are to come again or are the next; not for
# those that were published for later, and have not come yet.

CLAIM = f"""
UPDATE deliveries SET attempts = attempts + 1, due = {NOW} + :lease
WHERE number IN (SELECT number {READY} ORDER BY due, number LIMIT :most)
RETURNING number, payload, envelope, attempts
"""

POLLS = (0.01, 0.2)
"""Seconds after which a consumer looks again for messages of other clients: at first, and at the most."""

REMEMBERED = 86_400.0
"""Seconds for which a message is not accepted once more under its id."""


class SQLiteQueues(SQLiteClient, Consumer):
    """Queues in one SQLite file; processes and threads may share it."""

    schema = SCHEMA

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._news: dict[str, asyncio.Event] = {}

    async def _send(self, message: Message) -> None:
        await self._insert([message])

    async def _send_many(self, messages: Sequence[Message]) -> Mapping[str, Exception]:
        await self._insert(messages)
        return {}

    async def _insert(
        self, messages: Sequence[Message], *, delay: float = 0.0, ttl: float | None = None, once: bool = False
    ) -> None:
        """Store all *messages* or none; with *once* only those whose ids are new."""

        def insert() -> None:
            self._execute(f"DELETE FROM deliveries WHERE expires <= {NOW}")
            for each in messages:
                if once and not self._is_new(each):
                    continue
                self._execute(
                    PUBLISH,
                    topic=each.topic.encode(),
                    id=each.id,
                    key=each.key,
                    envelope=each.envelope(),
                    payload=each.payload,
                    delay=delay and delay + TICK,
                    ttl=ttl,
                )

        await self._transaction(insert)
        for topic in {each.topic for each in messages}:
            self._tell(topic)

    def _tell(self, topic: str) -> None:
        """Wake who waits for news of *topic*."""
        if news := self._news.pop(topic, None):
            news.set()

    def _is_new(self, message: Message) -> bool:
        self._execute(f"DELETE FROM accepted WHERE since < {NOW} - {REMEMBERED}")
        sql = f"INSERT INTO accepted VALUES (:tenant, :topic, :id, {NOW}) ON CONFLICT DO NOTHING RETURNING id"
        return bool(self._execute(sql, topic=message.topic.encode(), id=message.id))

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        if wishes.group != DEFAULT_GROUP:
            sql = "INSERT INTO audiences VALUES (:tenant, :topic, :audience) ON CONFLICT DO NOTHING"
            await self._write(sql, topic=arguments.encode_key(topic, self.limits), audience=wishes.group)
        return _Queue(self, topic, wishes)

    async def _next_news(self, topic: str, within: float) -> None:
        """Wait until this client has published something to *topic*, or *within* seconds."""
        news = self._news.setdefault(topic, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), within)

    def _abort(self) -> None:
        self._connection.stop()


class _Queue(Source):
    """The messages of one topic for one group."""

    def __init__(self, client: SQLiteQueues, topic: str, wishes: Wishes) -> None:
        self.lease = client.limits.redeliver if wishes.visibility is None else max(wishes.visibility, TICK)
        self._client = client
        self._topic = topic
        self._where = {"topic": topic.encode(), "audience": wishes.group}
        self._poll = POLLS[0]
        self._hurrying = False

    def hurry(self) -> None:
        self._hurrying = True
        self._client._tell(self._topic)

    async def take(self, most: int) -> list[Delivery]:
        end = asyncio.get_running_loop().time() + LOOK
        while True:
            # Looking takes no lock; claiming takes that of the writer, whether it finds something or not.
            if await self._client._read(f"SELECT 1 {READY} LIMIT 1", **self._where):
                rows = await self._client._write(CLAIM, **self._where, lease=self.lease, most=most)
                if rows:
                    self._poll = POLLS[0]
                    return [
                        Delivery(Message.opened(self._topic, bytes(payload), envelope), attempts, number)
                        for number, payload, envelope, attempts in sorted(rows)
                    ]
            left = end - asyncio.get_running_loop().time()
            if left <= 0 or self._hurrying:
                return []
            await self._client._next_news(self._topic, min(left, self._poll))
            self._poll = min(1.5 * self._poll, POLLS[1])

    async def done(self, delivery: Delivery) -> None:
        await self._settle("DELETE FROM deliveries", delivery)

    async def again(self, delivery: Delivery, delay: float) -> None:
        await self._settle(f"UPDATE deliveries SET due = {NOW} + :delay", delivery, delay=delay and delay + TICK)

    async def extend(self, delivery: Delivery) -> None:
        await self._settle(f"UPDATE deliveries SET due = {NOW} + :lease", delivery, lease=self.lease)

    async def _settle(self, sql: str, delivery: Delivery, **parameters: object) -> None:
        """What the consumer says of a message, if it still has it."""
        where = "number = :number AND attempts = :attempt"
        await self._client._write(f"{sql} WHERE {where}", number=delivery.receipt, attempt=delivery.attempt, **parameters)

    async def close(self) -> None:
        """Nothing was fetched ahead."""
