"""A small pool of psycopg connections.

`psycopg_pool` keeps connections up with background tasks, opens them one after another, and waits a second before it
replaces one that was found broken. A client that has to be cheap to open, to fail within two seconds, and to work again
at once when the network does, is better served by less: connections are opened by whoever needs one, and a broken one
is forgotten.
"""

import asyncio
import contextlib
import os
import re
import select
import socket
import weakref
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

__all__ = ["DENIED", "Connection", "Connections", "connected", "connected_now", "tear", "told"]

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

DENIED = (PermissionError, psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidAuthorizationSpecification)
"""What means that the credentials do not suffice."""

REFUSALS = re.compile(
    r"""
    FATAL:[ ]+ (\S+[ ])? authentication[ ]failed[ ]for[ ]user[ ]
    | FATAL:[ ]+ no[ ]pg_hba\.conf[ ]entry[ ]for[ ]
    | FATAL:[ ]+ pg_hba\.conf[ ]rejects[ ]
    | FATAL:[ ]+ permission[ ]denied[ ]for[ ]database[ ]
    | FATAL:[ ]+ role[ ]".*"[ ] (does[ ]not[ ]exist|is[ ]not[ ]permitted[ ]to[ ]log[ ]in) $
    | no[ ]password[ ]supplied
    """,
    re.MULTILINE | re.VERBOSE,
)
"""How a server says so before there is a connection. libpq hands on its text alone, without a code; where it is in another
language than English, a refusal counts as a server that is unavailable."""


class Connections:
    """At most *size* connections to the database at *url*, in autocommit mode."""

    def __init__(self, url: str, size: int = 4) -> None:
        self._url = url
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection for the body's use alone."""
        async with self._slots:
            connection = self._take() or await self.open()
            try:
                yield connection
            finally:
                # psycopg asks the server to stop a cancelled statement, and reads its answer: most connections survive.
                if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    connection.pgconn.finish()

    @contextlib.asynccontextmanager
    async def extra(self) -> AsyncIterator[Connection]:
        """A connection beside the pool, for a body that lasts."""
        connection = await self.open()
        try:
            yield connection
        finally:
            connection.pgconn.finish()

    def abort(self) -> None:
        """Tear down every connection, those in use too, as the operating system does when a process ends."""
        for connection in list(self._all):
            tear(connection)
        self._idle.clear()

    async def close(self) -> None:
        """Close the idle connections; those in use are closed by whoever ends their use."""
        while self._idle:
            await self._idle.pop().close()

    async def open(self) -> Connection:
        """A connection beside the pool, which the caller ends."""
        connection = await connected(self._url)
        self._all.add(connection)
        return connection

    def _take(self) -> Connection | None:
        """The idle connection that was used last. One whose socket has something to say was cut meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            poll = select.poll()
            poll.register(connection.pgconn.socket, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.pgconn.finish()
        return None


def tear(connection: Connection) -> None:
    """End *connection* without telling the server, which `finish` alone does."""
    if not connection.closed:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as end:
            end.shutdown(socket.SHUT_RDWR)
    connection.pgconn.finish()


async def told(connection: Connection, command: sql.Composed, within: float) -> None:
    """Let the server do *command*; a connection on which it has not *within* seconds is at its end: a `TimeoutError`."""
    telling = asyncio.create_task(connection.execute(command))
    try:
        if not (await asyncio.wait([telling], timeout=within))[0]:
            raise TimeoutError(f"no answer within {within} s")
        telling.result()
    finally:
        if not telling.done():
            tear(connection)  # psycopg would ask a silent server to stop, and wait for that too
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def connected(url: str) -> Connection:
    """A new connection to the database at *url*, in autocommit mode.

    A `PermissionError` where the server refuses the credentials, a `ConnectionError` where there is none for another reason.
    psycopg's own exception keeps all settings of the connection in an attribute, the password among them.
    """
    try:
        return await psycopg.AsyncConnection.connect(url, autocommit=True)
    except psycopg.OperationalError as error:
        failure = _without_settings(error)
    raise failure


def connected_now(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """The same for who does not run in an event loop, and not in autocommit mode."""
    try:
        return psycopg.connect(url)
    except psycopg.OperationalError as error:
        failure = _without_settings(error)
    raise failure


def _without_settings(error: psycopg.OperationalError) -> OSError:
    return (PermissionError if REFUSALS.search(str(error)) else ConnectionError)(str(error))
