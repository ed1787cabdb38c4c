"""Clients of SQLite whose operations may join a transaction of the application's.

The transaction is a connection of its own, in which the application executes its statements too, and which another client of the
same file may be given as `tx` as well. It has the write lock of the file from its start to its end, and should be short.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from examples.sqlite.connections import Connection, Row, SQLiteClient, open_file
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError

__all__ = ["Execute", "TransactionalClient"]

T = TypeVar("T")
Execute = Callable[..., list[Row]]
"""`execute(sql, name=value)` executes a statement, and returns its rows."""


class TransactionalClient(SQLiteClient):
    """Base of an adapter: `transaction`, and writes that are done in one or alone."""

    def __init__(self, connection: Connection, tenant_id: str | None = None) -> None:
        super().__init__(connection, tenant_id)
        self._transactions: set[Connection] = set()

    async def abandon(self) -> None:
        """End as if the process had been killed: what is in the queue of a thread is done, and nobody is told."""
        self._closed = True
        for connection in (*self._transactions, self._connection):
            await _stopped(connection)
        self._released = True
        await self.close()

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction that commits at the end of the block; an exception or a cancellation rolls it back."""
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator[Connection]:
        opened: list[Connection] = []
        try:
            await self._call("transaction", self._open_transaction(opened))
            await self._call("begin", opened[0].order_in_turn(lambda: opened[0].raw.execute("BEGIN IMMEDIATE")))
            yield opened[0]
            await self._call("commit", opened[0].order(lambda: _commit(opened[0])))
        finally:
            # Whatever was not committed goes with the connection, which takes its orders in turn.
            for connection in opened:
                connection.stop()
                if not self._closed:
                    self._start(self._end(connection))

    async def _open_transaction(self, opened: list[Connection]) -> None:
        [(path,)] = await self._read("SELECT file FROM pragma_database_list WHERE name = 'main'")
        connection = await open_file(path)
        opened.append(connection)
        self._transactions.add(connection)

    async def _end(self, connection: Connection) -> None:
        await _stopped(connection)
        self._transactions.discard(connection)

    async def _atomically(self, what: str, work: Callable[[Execute], T], tx: object = None) -> T:
        """What *work* returns, which executes its statements in *tx*, or in a transaction of its own if that is None."""
        if tx is None:
            return await self._call(what, self._transaction(lambda: work(self._execute)))
        if not isinstance(tx, Connection):
            raise InvalidArgumentError(f"{what}: tx is a transaction's connection, not {type(tx).__name__}")
        if tx.stopped is not None:
            raise InvalidArgumentError(f"{what}: the transaction has ended")

        def inside() -> T:
            if not tx.raw.in_transaction:
                raise ConflictError(f"{what}: the transaction is undone")
            return work(partial(self._execute_in, tx))

        return await self._call(what, tx.order(inside))

    def _execute_in(self, tx: Connection, sql: str, **parameters: object) -> list[Row]:
        return tx.raw.execute(sql, {"tenant": self._tenant, **parameters}).fetchall()

    async def _release(self) -> None:
        for connection in self._transactions:
            await _stopped(connection)
        await super()._release()


async def _stopped(connection: Connection) -> None:
    # To close one that was told to stop would forget what there is to close.
    if (stopped := connection.stop()) is not None:
        await asyncio.wait([stopped])


def _commit(connection: Connection) -> None:
    # When the disk fails, SQLite may undo the whole transaction, and later statements were each one of their own.
    if not connection.raw.in_transaction:
        raise ConflictError("the transaction is undone already")
    connection.raw.execute("COMMIT")
