"""What the adapters of JetStream share: the connection, which the next request opens anew if it was lost."""

import asyncio
from functools import partial

import nats.errors
from nats.aio.client import Client as NATSConnection
from nats.protocol.parser import AUTHORIZATION_VIOLATION

from examples.common.client import Client

__all__ = ["NEVER", "Connection", "NATSClient"]

NEVER = 60  # seconds: nats-py insists on time limits of its own; `Client` has the one that counts


class Connection(NATSConnection):
    """A connection that ends in order when it is lost."""

    async def _process_op_err(self, e: Exception) -> None:
        # nats-py would write what is left to the lost connection, fail, and leave its tasks and callbacks as they are.
        self._pending, self._pending_data_size = [], 0
        await super()._process_op_err(e)


class NATSClient(Client):
    """One connection to the server at *url*, opened when it is needed."""

    _unavailable = (OSError, TimeoutError, nats.errors.Error)
    _denied = (nats.errors.AuthorizationError,)

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    async def _open(self) -> Connection:
        """The connection, opened anew if it was lost."""
        async with self._connecting:
            if self._connection is not None and self._connection.is_connected:
                return self._connection

            connection = Connection()
            try:
                # Reconnecting is done here, by the next request: nats-py would hold requests back meanwhile, and send
                # them long after their callers were told that they had failed.
                await connection.connect(
                    self._url,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=NEVER,
                    ping_interval=2,  # how a connection that only seems to be there is found out
                    max_outstanding_pings=2,
                    error_cb=_ignore,  # nats-py would log it; the request that it concerns fails anyway
                    closed_cb=partial(self._ended, connection),
                )
            except BaseException as error:
                await connection.close()
                if AUTHORIZATION_VIOLATION in str(error).lower():  # for which nats-py has a class, and does not raise it here
                    raise nats.errors.AuthorizationError from error
                raise
            self._connection = connection
            return connection

    async def _ended(self, connection: Connection) -> None:
        """*connection* is gone, and with it the answers that are waited for: nats-py would wait on."""
        for answer in list(connection._resp_map.values()):
            if not answer.done():
                answer.set_exception(nats.errors.ConnectionClosedError())
        await self._lost()

    async def _lost(self) -> None:
        """The connection is gone."""

    async def _release(self) -> None:
        if self._connection is not None:
            await self._connection.close()


async def _ignore(error: Exception) -> None: ...
