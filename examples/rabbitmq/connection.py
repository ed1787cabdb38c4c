"""The connection to RabbitMQ, which the next request opens anew if it was lost, and its channels."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aio_pika
import aiormq
import pamqp.exceptions
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from aiormq.exceptions import ChannelAccessRefused
from yarl import URL

from examples.common.client import Client

__all__ = ["HEARTBEAT", "RabbitMQClient", "telling_losses"]

HEARTBEAT = 2
"""Seconds between signs of life, of both sides. RabbitMQ gives a client up that was silent for two or three times as long."""

CLOSING = 1.0
"""Seconds that the orderly end of a connection may take."""

for name in ("aio_pika", "aiormq"):  # what they log fails a request too; an application's own handlers see it still
    logging.getLogger(name).addHandler(logging.NullHandler())


class Sockets(aiormq.TransportFactory):
    """Opens the socket of one connection, and can tear it down."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to *url*."""
        context = options.pop("ssl_context_provider")
        ssl = await context.get_context() if url.scheme == "amqps" else None
        reader, self._writer = await asyncio.open_connection(url.host, url.port, ssl=ssl, **options)
        return reader, self._writer

    def abort(self) -> None:
        """Let go of the socket at once; nothing is sent any more."""
        if self._writer is not None:
            self._writer.transport.abort()


class Connection(aio_pika.Connection):
    """A connection that can be torn down."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self.sockets = Sockets()
        self.kwargs["transport_factory"] = self.sockets

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self.transport is not None and self.transport.connection.is_opened

    async def end(self) -> None:
        """Close it, and wait until its tasks have ended; a broker that does not answer is not waited for."""
        if not self.is_open:
            self.sockets.abort()
        try:
            async with asyncio.timeout(CLOSING):
                await self.close()
        except Exception:
            self.sockets.abort()
            with contextlib.suppress(Exception):
                await self.close()


@contextlib.contextmanager
def telling_losses() -> Iterator[None]:
    """Around requests: aio-pika fails them with whatever ended the connection, which may be a cancellation, or an exception
    of no class of its own. Nobody shall take that for the end of the task itself.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionError("the connection was lost") from error
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, RuntimeError):
            raise
        raise ConnectionError(f"the connection was lost: {error}") from error


class RabbitMQClient(Client):
    """One connection to the broker at *url*, opened when it is needed."""

    _unavailable = (OSError, TimeoutError, AMQPError, pamqp.exceptions.PAMQPException)
    _denied = (AuthenticationError, ProbableAuthenticationError, ChannelAccessRefused)

    def __init__(self, url: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._url = URL(url).update_query(heartbeat=HEARTBEAT)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    async def channel(self) -> AbstractChannel:
        """A new channel, on which a publication returns when the broker has confirmed it, and raises if it reaches no queue.

        A request that is cancelled, or refused, closes its channel: those that belong together have one of their own. Opening is
        not cancelled: aiormq would give the number of a half-open channel to the next, for which the broker ends the connection.
        """
        opening = self._start(self._open_channel())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._opened_in_vain)
            raise

    async def _open_channel(self) -> AbstractChannel:
        connection = await self._open()
        return await connection.channel(publisher_confirms=True, on_return_raises=True)

    def _opened_in_vain(self, opening: asyncio.Task[AbstractChannel]) -> None:
        if not self._closed and not opening.cancelled() and opening.exception() is None:
            self.let_go(opening.result())

    def let_go(self, channel: AbstractChannel) -> asyncio.Task[None]:
        """Close *channel*, also if whoever asks for it is cancelled."""
        return self._start(_close(channel))

    @contextlib.asynccontextmanager
    async def brief_channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for the body alone."""
        channel = await self.channel()
        try:
            yield channel
        finally:
            await asyncio.shield(self.let_go(channel))

    async def _open(self) -> Connection:
        """The connection, opened anew if it was lost."""
        async with self._connecting:
            if self._connection is not None:
                if self._connection.is_open:
                    return self._connection
                lost, self._connection = self._connection, None
                await lost.end()

            connection = Connection(self._url)
            try:
                await connection.connect()
            except BaseException:
                await connection.end()
                raise
            self._connection = connection
            return connection

    async def _release(self) -> None:
        if self._connection is not None:
            await self._connection.end()


async def _close(channel: AbstractChannel) -> None:
    with contextlib.suppress(Exception):
        await channel.close()
