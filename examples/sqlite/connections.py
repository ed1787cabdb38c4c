"""What the adapters of SQLite share: opening a file, one statement or several as one step, and this process's own folder.

A client has one connection, whose orders run in a thread of their own, one after another. All that writes is a single order, also
a transaction of several statements: the file is not kept locked while the event loop or the thread waits to be woken.
"""

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import aiosqlite

from examples.common import arguments
from examples.common.client import TIDYING, Client
from omnitck.shared.exceptions import PermissionDeniedError, UnavailableError

__all__ = ["LOCK_WAIT", "Connection", "Row", "SQLiteClient", "execute", "folder", "open_file"]

T = TypeVar("T")
Row = tuple[Any, ...]

LOCK_WAIT = 30.0
"""Seconds to wait for another writer of the file; writes last well under a millisecond."""

DENIED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


class SQLiteClient(Client):
    """Base of the adapters: a connection to one file, and the operations on it."""

    schema: ClassVar[Sequence[str]]
    """The statements that create tables and indexes where they are missing."""

    _unavailable = (OSError, TimeoutError, sqlite3.Error, ValueError)  # aiosqlite: ValueError on a closed connection

    def __init__(self, connection: "Connection", tenant_id: str | None = None) -> None:
        super().__init__(patience=2 * LOCK_WAIT)
        self._connection = connection
        self._tenant = arguments.encode_tenant(tenant_id)

    @classmethod
    async def connect(cls, path: str | Path, *, tenant_id: str | None = None) -> Self:
        """Open the file at *path*, creating it and its tables where they are missing.

        `UnavailableError` if it cannot be opened or is no database, `PermissionDeniedError` if it must be written and may not.
        """
        arguments.encode_tenant(tenant_id)
        connection = await open_file(path, *cls.schema)
        return cls(connection, tenant_id)

    async def _read(self, sql: str, **parameters: object) -> list[Row]:
        """One statement that changes nothing, as an operation; it waits for no writer."""
        return await self._connection.order(lambda: self._execute(sql, **parameters))

    async def _write(self, sql: str, **parameters: object) -> list[Row]:
        """One statement as an operation: atomic, and whole in the worker thread even if it is cancelled meanwhile."""
        return await self._connection.order_in_turn(lambda: self._execute(sql, **parameters))

    async def _transaction(self, work: Callable[[], T]) -> T:
        """What *work* returns, which executes its statements in the worker thread, as an operation: all of it or nothing."""

        def whole() -> T:
            with self._connection.raw:  # at the end COMMIT, or ROLLBACK
                self._execute("BEGIN IMMEDIATE")  # takes the write lock now: what is read cannot change until COMMIT
                return work()

        return await self._connection.order_in_turn(whole)

    def _execute(self, sql: str, **parameters: object) -> list[Row]:
        """One statement of an order, in the worker thread."""
        return execute(self._connection.raw, sql, {"tenant": self._tenant, **parameters})

    async def _release(self) -> None:
        await self._connection.close()


def execute(raw: sqlite3.Connection, sql: str, parameters: Mapping[str, object]) -> list[Row]:
    """The rows of one statement; `PermissionDeniedError` if it wants to write and may not."""
    try:
        return raw.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if _code(error) in DENIED:
            raise _refused(sql.split()[0], error) from error
        raise


class Connection(aiosqlite.Connection):
    """One whose worker thread carries out all its orders, whatever has become of the event loop that gave them.

    aiosqlite's thread ends when it cannot report to an event loop, because that has ended: the orders that are left stay unread
    then, the one to close among them.

    Those of one process that write the same file take turns. By itself, SQLite makes a writer that finds the file locked look
    again every so often, up to ten times a second; among many that write all the time, one may find no gap for seconds. The
    writers of other processes are still waited for in that way.
    """

    stopped: asyncio.Future[None] | None = None

    def __init__(self, path: str | Path) -> None:
        # None: autocommit.
        opening = functools.partial(sqlite3.connect, path, timeout=LOCK_WAIT, isolation_level=None)
        super().__init__(opening, iter_chunk_size=64)
        self._turn = _turn(path)

    async def order(self, work: Callable[[], T]) -> T:
        """What *work* returns; it is called in the worker thread, even if this is cancelled meanwhile."""
        return await self._execute(work)

    async def order_in_turn(self, work: Callable[[], T]) -> T:
        """`order` of what writes."""

        def in_turn() -> T:
            if not self._turn.acquire(timeout=LOCK_WAIT):
                raise TimeoutError(f"another writer has had its turn for {LOCK_WAIT:g} s")
            try:
                return work()
            finally:
                self._turn.release()

        return await self._execute(in_turn)

    @property
    def raw(self) -> sqlite3.Connection:
        """What orders work with, in the worker thread."""
        return self._conn

    async def _execute(self, fn: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Let the thread call *fn*; its result."""
        if not self._running or not self._connection:
            raise ValueError("Connection closed")

        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def report(tell: Callable[[Any], None], outcome: object) -> None:
            if not future.done():
                tell(outcome)

        def order() -> None:
            try:
                told = functools.partial(report, future.set_result, fn(*arguments, **keywords))
            except BaseException as error:
                told = functools.partial(report, future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(told)

        self._tx.put_nowait((None, order))
        return await future

    def stop(self) -> asyncio.Future[None] | None:
        """Close after what is in the queue, and end the thread; once. Who waits for it knows when that has happened."""
        if self.stopped is None:
            self.stopped = super().stop()
        return self.stopped


async def open_file(path: str | Path, *statements: str, kind: type[Connection] = Connection) -> Connection:
    """A connection in autocommit mode, on which *statements* have been executed."""

    def prepare() -> None:
        # Readers and the writer do not wait for each other, and a power cut costs the last moments at most.
        # The file remembers the first setting, so that mostly nothing changes here.
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", *statements):
            connection.raw.execute(statement)

    connection = kind(path)
    try:
        await connection
        await connection.order(prepare)
    except BaseException as error:
        # A thread that ends after its event loop fails when it wants to say so. If this is cancelled, it may have to wait for
        # the lock of the file before it ends.
        if (stopped := connection.stop()) is not None:
            await asyncio.wait([stopped], timeout=None if isinstance(error, sqlite3.Error) else TIDYING)
        if isinstance(error, sqlite3.Error):
            raise _refused(f"open {str(path)!r}", error) from error
        raise
    return connection


def _code(error: sqlite3.Error) -> int:
    """The primary code: the lowest byte of the extended one."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _refused(what: str, error: sqlite3.Error) -> PermissionDeniedError | UnavailableError:
    if _code(error) in DENIED:
        return PermissionDeniedError(f"{what}: the file may not be written")
    return UnavailableError(f"{what}: the file cannot be used ({getattr(error, 'sqlite_errorname', type(error).__name__)})")


_turns: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
_turns_lock = threading.Lock()


def _turn(path: str | Path) -> threading.Lock:
    """Who holds it may write the file. Through a hard link there is another one, and SQLite's own lock decides."""
    with _turns_lock:
        return _turns.setdefault(os.path.realpath(path), threading.Lock())


_folders: list[Path] = []
_folders_lock = threading.Lock()


def folder() -> Path:
    """This process's own folder, removed at its end."""
    with _folders_lock:  # `functools.cache` would let two threads make one each
        if not _folders:
            _folders.append(Path(tempfile.mkdtemp(prefix="omnitck-sqlite-")))
            atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
        return _folders[0]
