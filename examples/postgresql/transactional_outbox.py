"""`transactional_outbox` on PostgreSQL: tables, `transactional_outbox.sql`, beside those of the application.

*Saving.* Who saves an event of an aggregate holds that aggregate's row until the transaction ends. So its events become visible
in the order of their numbers, which have no gap. Another transaction waits for that, `LOCK_WAIT` seconds at most; then it is a
`ConflictError`, as a deadlock is, and the transaction can only be rolled back.

*Claiming.* A claim locks the first pending event of each aggregate, and skips those that another one is locking: who has the
first has the aggregate, so nothing is skipped within one. Then it moves the time at which its events are due to the end of the
lease. All times are those of the server's clock, and no lock outlives the statement.

There is no NOTIFY for new events: it would let all transactions that save one commit one after another. Relays look for them.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from examples import servers
from examples.common.client import PATIENCE
from examples.common.outbox import COLUMNS, LOCK_WAIT, Outbox, Saved, Transaction, owner_of
from examples.postgresql.connections import DENIED, Connection, Connections, connected_now, told
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError

__all__ = ["PostgreSQLOutbox", "create_schema", "make_outbox"]

Row = tuple[Any, ...]

TRANSACTIONS = 16
"""Transactions that a client has open at once; one more waits."""

CONFLICTS = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InFailedSqlTransaction,
)

NOW = "statement_timestamp()"

HERE = "owner = %(owner)s"

PENDING = f"{HERE} AND processed IS NULL"

# The number of the event is drawn from what the first part has returned, so after the row was locked.
SAVE = """
WITH counted AS (
    INSERT INTO outbox_sequences AS s (owner, aggregate, last)
    SELECT %(owner)s, %(aggregate)s::bytea, 1 WHERE %(aggregate)s::bytea IS NOT NULL
    ON CONFLICT (owner, aggregate) DO UPDATE SET last = s.last + 1 RETURNING last
)
INSERT INTO outbox_events (owner, id, topic, payload, message_key, aggregate, headers, sequence)
SELECT %(owner)s, %(id)s, %(topic)s, %(payload)s, %(message_key)s, %(aggregate)s, %(headers)s, place.last
FROM (SELECT last FROM counted UNION ALL SELECT NULL WHERE %(aggregate)s::bytea IS NULL) AS place
RETURNING sequence
"""

# An event without an aggregate goes by itself. In a claim that cannot have all, each aggregate has its first events.
CLAIM = f"""
WITH heads AS MATERIALIZED (
    SELECT number, aggregate, sequence FROM outbox_events AS head
    WHERE {PENDING} AND aggregate IS NOT NULL AND parked IS NULL AND due <= {NOW} AND NOT EXISTS (
        SELECT FROM outbox_events AS other
        WHERE other.owner = head.owner AND other.aggregate = head.aggregate AND other.processed IS NULL
            AND (other.sequence < head.sequence OR other.claim IS NOT NULL AND other.due > {NOW})
    )
    ORDER BY number LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), loose AS MATERIALIZED (
    SELECT number FROM outbox_events
    WHERE {PENDING} AND aggregate IS NULL AND parked IS NULL AND due <= {NOW}
    ORDER BY number LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), followers AS (
    SELECT follower.number, heads.aggregate, follower.place,
        bool_or(follower.blocked) OVER (PARTITION BY heads.aggregate ORDER BY follower.place) AS stopped
    FROM heads CROSS JOIN LATERAL (
        SELECT number, 1 + row_number() OVER (ORDER BY sequence) AS place, parked IS NOT NULL OR due > {NOW} AS blocked
        FROM outbox_events AS e WHERE {PENDING} AND e.aggregate = heads.aggregate AND e.sequence > heads.sequence
        ORDER BY sequence LIMIT %(limit)s
    ) AS follower
), wanted AS MATERIALIZED (
    SELECT number, aggregate, 1 AS place FROM heads
    UNION ALL SELECT number, aggregate, place FROM followers WHERE NOT stopped
    UNION ALL SELECT number, NULL, row_number() OVER (ORDER BY number) FROM loose
    ORDER BY place, number LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT number FROM outbox_events
    WHERE number IN (SELECT number FROM wanted) AND {PENDING} AND parked IS NULL AND due <= {NOW}
    FOR UPDATE SKIP LOCKED
), mine AS (
    SELECT number, aggregate IS NULL OR place = row_number() OVER (PARTITION BY aggregate ORDER BY place) AS in_order
    FROM wanted JOIN locked USING (number)
)
UPDATE outbox_events AS e
SET claim = %(claim)s, relay = %(relay)s, due = {NOW} + make_interval(secs => %(lease)s::float8)
FROM mine WHERE e.number = mine.number AND mine.in_order
RETURNING e.number, {", ".join(f"e.{name}" for name in COLUMNS.split(", "))}
"""

IN_FORCE = f"{PENDING} AND parked IS NULL AND due > {NOW}"
MINE = f"{IN_FORCE} AND id = %(id)s AND claim = %(claim)s"

RELEASE = f"""
UPDATE outbox_events SET claim = NULL, attempts = attempts + 1, error = %(error)s,
    due = {NOW} + make_interval(secs => %(delay)s::float8)
WHERE {MINE} RETURNING number
"""

PARK = f"UPDATE outbox_events SET claim = NULL, due = {NOW}, parked = {NOW} WHERE {MINE} RETURNING number"

UNPARK = f"UPDATE outbox_events SET parked = NULL, attempts = 0 WHERE {PENDING} AND id = %(id)s AND parked IS NOT NULL"

MARK = f"UPDATE outbox_events SET processed = {NOW} WHERE {PENDING} AND id = %(id)s"

# Locked in the order of their numbers, so that two of these cannot wait for each other.
HELD = f"""
WITH held AS MATERIALIZED (
    SELECT number FROM outbox_events
    WHERE {IN_FORCE} AND (id, claim) IN (SELECT * FROM unnest(%(ids)s::text[], %(claims)s::text[]))
    ORDER BY number FOR UPDATE
)
"""

RENEW = f"""
{HELD}
UPDATE outbox_events AS e SET due = {NOW} + make_interval(secs => %(lease)s::float8)
FROM held WHERE e.number = held.number AND (SELECT count(*) FROM held) = cardinality(%(ids)s::text[])
RETURNING e.number
"""

RETURN = f"{HELD} UPDATE outbox_events AS e SET claim = NULL, due = {NOW} FROM held WHERE e.number = held.number"

PURGE = f"""
DELETE FROM outbox_events WHERE {HERE} AND processed <= {NOW} - make_interval(secs => %(older_than)s::float8) RETURNING number
"""

RECORD = """
INSERT INTO inbox_messages (owner, consumer, id) SELECT %(owner)s, %(consumer)s, id FROM unnest(%(ids)s::bytea[]) AS id
ON CONFLICT DO NOTHING RETURNING id
"""


class PostgreSQLTransaction(Transaction):
    """A transaction at READ COMMITTED, on one of the connections that are *free*."""

    def __init__(self, connections: Connections, free: asyncio.Semaphore) -> None:
        self._connections = connections
        self._free = free
        self._turn = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()

    async def begin(self) -> None:
        async with self._turn:
            await self._stack.enter_async_context(self._free)
            self.connection = await self._stack.enter_async_context(self._connections.extra())
            await self.connection.execute("BEGIN")

    async def commit(self) -> None:
        async with self._turn:
            # Of a transaction in which a statement has failed the server makes a ROLLBACK, without an error.
            if self.connection.pgconn.transaction_status != TransactionStatus.INTRANS:
                raise ConflictError("a statement of the transaction failed, or is still under way: all of it is undone")
            await self.connection.execute("COMMIT")

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.pgconn.finish()

    async def end(self) -> None:
        async with self._turn, self._stack:
            connection: Connection | None = self.connection
            left = TransactionStatus.IDLE if connection is None else connection.pgconn.transaction_status
            if connection is not None and left not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
                await told(connection, sql.SQL("ROLLBACK").format(), PATIENCE)  # once what is under way has ended


class PostgreSQLOutbox(Outbox):
    """An outbox in the database at *url*, whose schema `create_schema` made."""

    capabilities: ClassVar[frozenset[str]] = Outbox.capabilities | {"availability"}

    _unavailable = (OSError, TimeoutError, psycopg.Error)
    _denied = DENIED

    def __init__(self, url: str, namespace: str = "", tenant_id: str | None = None) -> None:
        super().__init__()
        self._owner = owner_of(namespace, tenant_id)
        self._connections = Connections(make_conninfo(url, options=f"-c lock_timeout={LOCK_WAIT * 1000:.0f}"))
        self._transactions = asyncio.Semaphore(TRANSACTIONS)

    @classmethod
    async def connect(cls, url: str, *, namespace: str = "", tenant_id: str | None = None) -> Self:
        """A client of the database at *url*; connections are opened when they are needed."""
        return cls(url, namespace, tenant_id)

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction at READ COMMITTED.

        If a statement has failed in it and the block ends nevertheless, that is a `ConflictError`, and all of it is undone.
        """
        return self._transact()

    def _new_transaction(self) -> PostgreSQLTransaction:
        # Beside the pool: who has many open can still save an event by itself, or publish those that there are.
        return PostgreSQLTransaction(self._connections, self._transactions)

    def _check_transaction(self, tx: Any) -> None:
        if not isinstance(tx, psycopg.AsyncConnection):
            raise InvalidArgumentError(f"tx is the connection of a transaction, not {type(tx).__name__}")
        if tx.closed or tx.pgconn.transaction_status == TransactionStatus.IDLE:
            raise InvalidArgumentError("the transaction tx has ended")

    async def _save(self, saved: Saved, tx: Any) -> int | None:
        [(sequence,)] = await self._query(SAVE, tx, **saved.row())
        return None if sequence is None else int(sequence)

    async def _record(self, consumer: bytes, ids: Sequence[bytes], tx: Any) -> set[bytes]:
        return {bytes(id) for (id,) in await self._query(RECORD, tx, consumer=consumer, ids=ids)}

    async def _unordered(self, limit: int) -> list[Row]:
        where = f"{PENDING} AND aggregate IS NULL"
        return await self._query(f"SELECT {COLUMNS} FROM outbox_events WHERE {where} ORDER BY number LIMIT {limit}")

    async def _aggregates(self) -> list[Row]:
        return await self._query(f"SELECT DISTINCT aggregate FROM outbox_events WHERE {PENDING} AND aggregate IS NOT NULL")

    async def _of_aggregate(self, key: bytes) -> list[Row]:
        where = f"{PENDING} AND aggregate = %(key)s"
        return await self._query(f"SELECT {COLUMNS} FROM outbox_events WHERE {where} ORDER BY sequence", key=key)

    async def _parked(self) -> list[Row]:
        return await self._query(f"SELECT {COLUMNS} FROM outbox_events WHERE {PENDING} AND parked IS NOT NULL ORDER BY number")

    async def _claim(self, relay: str, claim: str, limit: int, lease: float) -> list[Row]:
        rows = await self._query(CLAIM, relay=relay, claim=claim, limit=limit, lease=lease)
        return [row[1:] for row in sorted(rows)]

    async def _mark(self, id: str) -> None:
        await self._query(MARK, id=id)

    async def _release_event(self, id: str, claim: str, delay: float, error: str | None) -> bool:
        return bool(await self._query(RELEASE, id=id, claim=claim, delay=delay, error=error))

    async def _return(self, claims: Mapping[str, str]) -> None:
        await self._query(RETURN, ids=list(claims), claims=list(claims.values()))

    async def _renew(self, claims: Mapping[str, str], lease: float) -> bool:
        return bool(await self._query(RENEW, ids=list(claims), claims=list(claims.values()), lease=lease))

    async def _park(self, id: str, claim: str) -> bool:
        return bool(await self._query(PARK, id=id, claim=claim))

    async def _unpark(self, id: str) -> None:
        await self._query(UNPARK, id=id)

    async def _purge(self, older_than: float) -> int:
        return len(await self._query(PURGE, older_than=older_than))

    async def _query(self, statement: str, tx: Connection | None = None, **parameters: object) -> list[Row]:
        """The rows of a statement, in *tx* or in a transaction of its own."""
        values = {"owner": self._owner, **parameters}
        if tx is not None:
            return await _query(tx, statement, values)
        async with self._connections.one() as connection:
            return await _query(connection, statement, values)

    def _abort(self) -> None:
        self._connections.abort()

    async def _release(self) -> None:
        await super()._release()
        await self._connections.close()


async def _query(connection: Connection, statement: str, parameters: Mapping[str, object]) -> list[Row]:
    try:
        cursor = await connection.execute(statement.encode(), parameters, binary=True)
    except CONFLICTS as error:
        raise ConflictError("another transaction was there first, or an earlier statement of this one failed") from error
    return await cursor.fetchall() if cursor.description else []


def create_schema(url: str) -> None:
    """Create what `transactional_outbox.sql` describes, unless it is there; several processes may do so at once."""
    with connected_now(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(7236836)")  # CREATE ... IF NOT EXISTS fails in a race
        if connection.execute("SELECT to_regclass('outbox_events')").fetchone() == (None,):
            connection.execute(Path(__file__).with_suffix(".sql").read_bytes())


async def make_outbox(
    *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> PostgreSQLOutbox:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLOutbox.connect(url, namespace=namespace, tenant_id=tenant_id)
