"""Clients of PostgreSQL whose operations may join a transaction of the application's.

The transaction is psycopg's own connection, in which the application executes its statements too, and which another client may
be given as `tx` as well: a saga, a row of the business and an event of the outbox then commit together.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from examples.common.client import Client
from examples.postgresql.connections import DENIED, Connection, Connections
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, TCKError

__all__ = ["TransactionalClient"]

Row = tuple[Any, ...]


class TransactionalClient(Client):
    """Base of an adapter: `transaction`, and statements that are executed in one or alone."""

    _unavailable = (OSError, TimeoutError, psycopg.Error)
    _denied = DENIED

    def __init__(self, url: str, tenant: bytes) -> None:
        super().__init__()
        self._tenant = tenant
        self._connections = Connections(url)
        self._transactions: set[Connection] = set()

    async def abandon(self) -> None:
        """End as if the process had been killed: connections break off, and tasks end where they are."""
        self._connections.abort()
        await self.close()

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction at READ COMMITTED. It commits at the end of the block; an exception or a cancellation rolls it back.

        If a statement of the application's has failed in it and the block ends nevertheless, it is a `ConflictError`.
        """
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator[Connection]:
        # Beside the pool: what the block does outside of its transaction must not wait for itself.
        opened: list[Connection] = []
        try:
            await self._call("transaction", self._begin(opened))
            yield opened[0]
            await self._call("commit", self._commit(opened[0]))
        finally:
            # Without COMMIT the server undoes everything when the connection ends.
            for connection in opened:
                self._transactions.discard(connection)
                connection.pgconn.finish()

    async def _begin(self, opened: list[Connection]) -> None:
        connection = await self._connections.open()
        opened.append(connection)
        self._transactions.add(connection)
        try:
            await connection.execute("BEGIN")
        except BaseException:
            connection.pgconn.finish()
            raise

    @staticmethod
    async def _commit(connection: Connection) -> None:
        if connection.pgconn.transaction_status == TransactionStatus.INERROR:  # COMMIT would be ROLLBACK, and no error
            raise ConflictError("a statement of the transaction has failed")
        await connection.execute("COMMIT")

    async def _query(self, what: str, statement: str, *, tx: object = None, **parameters: object) -> list[Row]:
        """The answer to *statement*, which is executed in *tx*, or alone if that is None."""
        if tx is not None:
            return await self._call(what, self._execute_in(what, tx, statement, parameters))

        async def work() -> list[Row]:
            async with self._connections.one() as connection:
                return await self._execute(connection, statement, parameters)

        return await self._call(what, work())

    async def _execute_in(self, what: str, tx: object, statement: str, parameters: dict[str, object]) -> list[Row]:
        """A statement that fails leaves the transaction as it was before: it has a savepoint."""
        if not isinstance(tx, psycopg.AsyncConnection):
            raise InvalidArgumentError(f"{what}: tx is a transaction's connection, not {type(tx).__name__}")
        if tx.closed or tx.pgconn.transaction_status in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            raise InvalidArgumentError(f"{what}: the transaction has ended")
        async with tx.transaction():
            return await self._execute(tx, statement, parameters)

    async def _execute(self, connection: Connection, statement: str, parameters: dict[str, object]) -> list[Row]:
        try:
            cursor = await connection.execute(statement.encode(), {"tenant": self._tenant, **parameters}, binary=True)
            return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if (known := self._known(error)) is not None:
                raise known from error
            raise

    def _known(self, error: psycopg.Error) -> TCKError | None:
        """What *error* means, if it is an answer of the server's."""
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            return ConflictError("another writer was there at the same time")
        return None

    async def _release(self) -> None:
        while self._transactions:
            self._transactions.pop().pgconn.finish()
        await self._connections.close()
