"""`transactional_outbox` on SQLite: tables in the file of the application, and what relays note in a second file beside it.

A file has one writer at a time. Were the notes of relays in the file of the application, no relay could claim or mark anything as
long as a transaction is open. So a claim, an attempt, a mark are rows of the second file, which a relay writes while it reads the
first; no operation writes both. A mark is always read before the events: one whose event was purged is never taken for missing.

Transactions wait for each other, also of different aggregates: `LOCK_WAIT` seconds at most, and then it is a `ConflictError`.
Events become visible in the order of their numbers, which have no gap. A commit is on the disk when it returns.

A relay that looks for events reads those that are kept as processed, too, so purge them. `availability` is not declared: there is
no server to lose.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from examples.common.client import TIDYING
from examples.common.outbox import COLUMNS, LOCK_WAIT, Outbox, Saved, Transaction, owner_of
from examples.sqlite.connections import Connection, Row, SQLiteClient, execute, folder, open_file
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, UnavailableError, UnsupportedError

__all__ = ["SQLiteOutbox", "make_outbox"]

T = TypeVar("T")
Execute = Callable[..., list[Row]]

EVENTS = (
    """
    CREATE TABLE IF NOT EXISTS outbox_events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        owner BLOB NOT NULL,
        id TEXT NOT NULL UNIQUE,
        topic BLOB NOT NULL,
        payload BLOB NOT NULL,
        message_key BLOB,
        aggregate BLOB,
        headers TEXT NOT NULL,
        sequence INTEGER
    )
    """,
    "CREATE INDEX IF NOT EXISTS outbox_order ON outbox_events (owner, aggregate, number)",
    """
    CREATE TABLE IF NOT EXISTS outbox_sequences (
        owner BLOB NOT NULL, aggregate BLOB NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (owner, aggregate)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS inbox_messages (
        owner BLOB NOT NULL, consumer BLOB NOT NULL, id BLOB NOT NULL, PRIMARY KEY (owner, consumer, id)
    ) WITHOUT ROWID
    """,
)

# An event without a row here has not been claimed yet.
NOTES = (
    """
    CREATE TABLE IF NOT EXISTS notes (
        id TEXT NOT NULL PRIMARY KEY,
        owner BLOB NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0,
        claim TEXT,
        relay TEXT,
        error TEXT,
        parked REAL,
        processed REAL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS notes_processed ON notes (owner, processed) WHERE processed IS NOT NULL",
)

NOW = "((julianday('now') - 2440587.5) * 86400.0)"
# SQLite's own clock, which counts milliseconds; in seconds since 1970.

TICK = 0.001

SEQUENCE = """
INSERT INTO outbox_sequences (owner, aggregate, last) VALUES (:owner, :aggregate, 1)
ON CONFLICT (owner, aggregate) DO UPDATE SET last = last + 1 RETURNING last
"""

SAVE = """
INSERT INTO outbox_events (owner, id, topic, payload, message_key, aggregate, headers, sequence)
VALUES (:owner, :id, :topic, :payload, :message_key, :aggregate, :headers, :sequence)
"""

RECORD = "INSERT INTO inbox_messages (owner, consumer, id) VALUES (:owner, :consumer, :id) ON CONFLICT DO NOTHING RETURNING id"

PENDING = """
saved.outbox_events AS e LEFT JOIN main.notes AS n ON n.id = e.id WHERE e.owner = :owner AND n.processed IS NULL
"""

SHOWN = ", ".join({"id": "e.id", "attempts": "coalesce(attempts, 0)"}.get(name, name) for name in COLUMNS.split(", "))

# An event without an aggregate goes by itself. In a claim that cannot have all, each aggregate has its first events.
FREE = f"""
WITH pending AS (
    SELECT e.number, e.id, aggregate, coalesce(due > {NOW}, 0) OR parked IS NOT NULL AS blocked,
        claim IS NOT NULL AND due > {NOW} AS held
    FROM {PENDING}
), standing AS (
    SELECT number, id, aggregate, aggregate IS NOT NULL AND max(held) OVER (PARTITION BY aggregate) AS taken,
        CASE WHEN aggregate IS NULL THEN blocked ELSE max(blocked) OVER (PARTITION BY aggregate ORDER BY number) END AS stopped
    FROM pending
), free AS (
    SELECT number, id, row_number() OVER (PARTITION BY aggregate ORDER BY number) AS place
    FROM standing WHERE NOT taken AND NOT stopped
)
SELECT id FROM free ORDER BY place, number LIMIT :limit
"""

CLAIM = f"""
INSERT INTO notes (id, owner, claim, relay, due) VALUES (:id, :owner, :claim, :relay, {NOW} + :lease)
ON CONFLICT (id) DO UPDATE SET claim = excluded.claim, relay = excluded.relay, due = excluded.due
"""

IN_FORCE = f"owner = :owner AND processed IS NULL AND parked IS NULL AND due > {NOW} AND id = :id AND claim = :claim"

RELEASE = f"""
UPDATE notes SET claim = NULL, attempts = attempts + 1, error = :error, due = {NOW} + :delay WHERE {IN_FORCE} RETURNING id
"""

PARK = f"UPDATE notes SET claim = NULL, due = 0, parked = {NOW} WHERE {IN_FORCE} RETURNING id"

UNPARK = "UPDATE notes SET parked = NULL, attempts = 0 WHERE owner = :owner AND id = :id AND parked IS NOT NULL"

# Of an event that there is: a mark without one would never be removed.
MARK = f"""
INSERT INTO notes (id, owner, processed) SELECT id, owner, {NOW} FROM saved.outbox_events WHERE owner = :owner AND id = :id
ON CONFLICT (id) DO UPDATE SET processed = coalesce(processed, excluded.processed)
"""

PURGED = 500
"""Events that are removed in one transaction."""

POLLS = (0.001, 0.02)
"""Seconds until it is tried again to begin a transaction: at first, and at the most."""


class _BusyError(Exception):
    """Another transaction is open."""


class TransactionConnection(Connection):
    """The connection of a transaction, which does nothing once that is over.

    If the disk fails, SQLite may undo the whole transaction, and would take each later statement for a transaction of its own.
    """

    begun = False

    async def _execute(self, fn: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        def inside(*arguments: Any, **keywords: Any) -> T:
            if self.begun and not self.raw.in_transaction:
                raise UnavailableError("the transaction was ended within: all of it is undone")
            return fn(*arguments, **keywords)

        return await super()._execute(inside, *arguments, **keywords)


class SQLiteTransaction(Transaction):
    """A transaction that has the file at *path* for itself. Others read what was there before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        async with self._turn:
            self.connection = await opened(self._path, kind=TransactionConnection)
            await waiting(self.connection, lambda: None, commit=False)
            self.connection.begun = True

    async def commit(self) -> None:
        async with self._turn:
            await self.connection.order(lambda: self.connection.raw.execute("COMMIT"))

    async def end(self) -> None:
        async with self._turn:
            if self.connection is not None:
                self.connection.begun = False
                # What was not committed goes with it. It may have been stopped already.
                if (stopped := self.connection.stop()) is not None:
                    await asyncio.wait([stopped])


class SQLiteOutbox(SQLiteClient, Outbox):
    """An outbox in one SQLite file, with a second one beside it; processes and threads may share it.

    The connection that the base has is that of relays and readers: its file is theirs, and that of the events is attached.
    """

    schema = NOTES

    def __init__(self, connection: Connection, saving: Connection, path: Path, owner: bytes) -> None:
        super().__init__(connection)
        self._saving = saving
        self._path = path
        self._owner = owner

    @classmethod
    async def connect(cls, path: str | Path, *, namespace: str = "", tenant_id: str | None = None) -> Self:
        """Open the file at *path*, and that of the relays, ``-relays`` beside it, creating what is missing.

        `UnavailableError` if one cannot be opened or is no database, `PermissionDeniedError` if it may not be written.
        """
        owner, path = owner_of(namespace, tenant_id), Path(path)
        saving = await opened(path, *EVENTS)
        try:
            attach = "ATTACH '{}' AS saved".format(str(path).replace("'", "''"))
            connection = await open_file(path.with_name(f"{path.name}-relays"), *cls.schema, attach)
        except BaseException:
            if (stopped := saving.stop()) is not None:
                await asyncio.wait([stopped], timeout=TIDYING)
            raise
        return cls(connection, saving, path, owner)

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction that has the file for itself, and should be short.

        If the disk has ended it before the block does, that is an `UnavailableError`, and all of it is undone.
        """
        return self._transact()

    def _new_transaction(self) -> SQLiteTransaction:
        return SQLiteTransaction(self._path)

    def _check_transaction(self, tx: Any) -> None:
        if not isinstance(tx, Connection):
            raise InvalidArgumentError(f"tx is the connection of a transaction, not {type(tx).__name__}")
        if tx.stopped is not None:
            raise InvalidArgumentError("the transaction tx has ended")

    def _execute(self, sql: str, **parameters: object) -> list[Row]:
        return super()._execute(sql, owner=self._owner, **parameters)

    async def _in(self, tx: Connection | None, work: Callable[[Execute], T]) -> T:
        """What *work* returns, which is given how to execute a statement: in *tx*, or in a transaction of its own.

        It is done as a whole or not at all, also in *tx*, which may go on after it has failed.
        """
        connection = self._saving if tx is None else tx

        def do(sql: str, **parameters: object) -> list[Row]:
            return execute(connection.raw, sql, {"owner": self._owner, **parameters})

        def inside() -> T:
            if not connection.raw.in_transaction:
                raise ConflictError("the transaction is undone")
            do("SAVEPOINT step")
            try:
                done = work(do)
            except BaseException:
                if connection.raw.in_transaction:
                    do("ROLLBACK TO step")
                    do("RELEASE step")
                raise
            do("RELEASE step")
            return done

        if tx is None:
            return await waiting(connection, lambda: work(do))
        return await tx.order(inside)

    async def _save(self, saved: Saved, tx: Connection | None) -> int | None:
        def work(do: Execute) -> int | None:
            sequence = None if saved.aggregate is None else do(SEQUENCE, aggregate=saved.aggregate)[0][0]
            do(SAVE, sequence=sequence, **saved.row())
            return sequence

        return await self._in(tx, work)

    async def _record(self, consumer: bytes, ids: Sequence[bytes], tx: Connection | None) -> set[bytes]:
        return await self._in(tx, lambda do: {id for id in ids if do(RECORD, consumer=consumer, id=id)})

    async def _unordered(self, limit: int) -> list[Row]:
        return await self._look(f"SELECT {SHOWN} FROM {PENDING} AND aggregate IS NULL ORDER BY number LIMIT :limit", limit=limit)

    async def _aggregates(self) -> list[Row]:
        return await self._look(f"SELECT DISTINCT aggregate FROM {PENDING} AND aggregate IS NOT NULL")

    async def _of_aggregate(self, key: bytes) -> list[Row]:
        return await self._look(f"SELECT {SHOWN} FROM {PENDING} AND aggregate = :aggregate ORDER BY number", aggregate=key)

    async def _parked(self) -> list[Row]:
        return await self._look(f"SELECT {SHOWN} FROM {PENDING} AND parked IS NOT NULL ORDER BY number")

    async def _look(self, sql: str, **parameters: object) -> list[Row]:
        def work() -> list[Row]:
            with self._connection.raw:
                self._execute("BEGIN")
                self._execute("SELECT id FROM notes LIMIT 1")  # from now on the notes stay as they are, before the events do
                return self._execute(sql, **parameters)

        return await self._connection.order(work)

    async def _note(self, work: Callable[[], T]) -> T:
        """What *work* returns, which writes notes, and nothing else."""

        def whole() -> T:
            with self._connection.raw:
                self._execute("BEGIN")  # not IMMEDIATE, which would want to write the attached file too
                self._execute("DELETE FROM notes WHERE id = ''")  # none has that id: it takes the lock before anything is read
                return work()

        return await self._connection.order_in_turn(whole)

    async def _claim(self, relay: str, claim: str, limit: int, lease: float) -> list[Row]:
        def work() -> list[Row]:
            ids = [id for (id,) in self._execute(FREE, limit=limit)]
            for id in ids:
                self._execute(CLAIM, id=id, claim=claim, relay=relay, lease=lease + TICK)
            chosen = "e.id IN (SELECT value FROM json_each(:ids))"
            return self._execute(f"SELECT {SHOWN} FROM {PENDING} AND {chosen} ORDER BY number", ids=json.dumps(ids))

        return await self._note(work)

    async def _mark(self, id: str) -> None:
        await self._note(lambda: self._execute(MARK, id=id))

    async def _release_event(self, id: str, claim: str, delay: float, error: str | None) -> bool:
        after = delay and delay + TICK
        return bool(await self._note(lambda: self._execute(RELEASE, id=id, claim=claim, delay=after, error=error)))

    async def _return(self, claims: Mapping[str, str]) -> None:
        def work() -> None:
            for id, claim in claims.items():
                self._execute(f"UPDATE notes SET claim = NULL, due = 0 WHERE {IN_FORCE}", id=id, claim=claim)

        await self._note(work)

    async def _renew(self, claims: Mapping[str, str], lease: float) -> bool:
        def work() -> bool:
            for id, claim in claims.items():
                if not self._execute(f"SELECT id FROM notes WHERE {IN_FORCE}", id=id, claim=claim):
                    return False
            for id in claims:
                self._execute(f"UPDATE notes SET due = {NOW} + :lease WHERE id = :id", id=id, lease=lease + TICK)
            return True

        return await self._note(work)

    async def _park(self, id: str, claim: str) -> bool:
        return bool(await self._note(lambda: self._execute(PARK, id=id, claim=claim)))

    async def _unpark(self, id: str) -> None:
        await self._note(lambda: self._execute(UNPARK, id=id))

    async def _purge(self, older_than: float) -> int:
        old = f"SELECT id FROM notes WHERE owner = :owner AND processed <= {NOW} - :age LIMIT {PURGED}"
        number = 0
        while ids := [id for (id,) in await self._look(old, age=older_than)]:
            given = json.dumps(ids)
            delete = "DELETE FROM {} WHERE id IN (SELECT value FROM json_each(:ids)) AND owner = :owner RETURNING NULL"

            def events(do: Execute, sql: str = delete.format("outbox_events"), ids: str = given) -> int:
                return len(do(sql, ids=ids))

            number += await self._in(None, events)
            # After the events, never before: an event without its mark would be published again.
            await self._write(delete.format("notes"), ids=given)
        return number

    def _abort(self) -> None:
        """Nothing is to be torn down: what a process of SQLite's leaves when it ends is what closing leaves."""

    async def _let_go(self) -> None:
        await self._release()

    async def _release(self) -> None:
        await self._end_transactions()
        await self._saving.close()
        await self._connection.close()


async def opened(path: Path, *statements: str, kind: type[Connection] = Connection) -> Connection:
    """A connection to the file of the application, whose commits are on the disk when they return."""
    return await open_file(path, *statements, "PRAGMA synchronous = FULL", kind=kind)


async def waiting(connection: Connection, work: Callable[[], T], *, commit: bool = True) -> T:
    """What *work* returns, in a transaction that is begun as soon as no other is open, and left open unless *commit*.

    It is here that is waited, not in the thread: who is cancelled meanwhile has begun nothing.
    """

    def attempt() -> T:
        raw = connection.raw
        raw.execute("PRAGMA busy_timeout = 0")
        try:
            execute(raw, "BEGIN IMMEDIATE", {})
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise _BusyError from error
            raise
        finally:
            raw.execute(f"PRAGMA busy_timeout = {LOCK_WAIT * 1000:.0f}")
        if not commit:
            return work()
        with raw:
            return work()

    loop = asyncio.get_running_loop()
    end, pause = loop.time() + LOCK_WAIT, POLLS[0]
    while True:
        with suppress(_BusyError):
            return await connection.order_in_turn(attempt)
        if loop.time() >= end:
            raise ConflictError("another transaction is open")
        await asyncio.sleep(pause)
        pause = min(2 * pause, POLLS[1])


async def make_outbox(
    *,
    namespace: str = "",
    tenant_id: str | None = None,
    address: tuple[str, int] | None = None,
    path: Path | None = None,
    **config: object,
) -> SQLiteOutbox:
    """A client of this process's own file, or of the one at *path*."""
    if address is not None:
        raise UnsupportedError("SQLite is embedded: there is no address to connect to")
    return await SQLiteOutbox.connect(path or folder() / "outbox.sqlite", namespace=namespace, tenant_id=tenant_id)
