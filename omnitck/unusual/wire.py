"""A server and a client of it that speak over TCP, for suites that give the kit an address to put its proxy before."""

import asyncio
import json
import socket
import time
from contextlib import suppress
from typing import Any, ClassVar, Self, cast

from omnitck.shared.exceptions import ClosedError, UnavailableError

__all__ = ["WireClient", "WireHooks"]

PASSWORD = 'hunter2 and "then" some'
LONGEST_LINE = 4 * 1024 * 1024
"""Bytes."""
ANSWER_SECONDS = 1.0
"""After so long a silence the connection is given up."""
NETWORK_SECONDS = 1.5
"""For so long an operation waits for the network to come back."""


class WireServer:
    """Text under keys. It speaks JSON, a line a request; the first line is the password."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> tuple[str, int]:
        """Listen on a port of this machine; host and port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LONGEST_LINE)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def stop(self) -> None:
        """Hang up on every client."""
        self._server.close()
        for each in self._serving:
            each.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._serving.add(task)
        try:
            with suppress(ConnectionError):  # The client has gone.
                if await reader.readline() != _line(PASSWORD):
                    return
                while (line := await reader.readline()).endswith(b"\n"):
                    writer.write(_line(self._answer(*json.loads(line))))
                    await writer.drain()
        finally:
            self._serving.discard(task)
            writer.close()

    def _answer(self, verb: str, key: str, value: str = "") -> str | None:
        if verb == "get":
            return self._values.get(key)
        if verb == "set":
            self._values[key] = value
        else:
            self._values.pop(key, None)
        return None


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class WireClient:
    """A client that connects when it is first asked, waits while there is no network, and then asks again.

    It has a connection for each request that is under way, and keeps it for a later one.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._idle: list[Connection] = []
        self._busy: set[asyncio.StreamWriter] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._address}>"

    async def ask(self, *request: str) -> str | None:
        """The answer to *request*, which may be sent again: to do it twice does no more than to do it once."""
        give_up = time.monotonic() + NETWORK_SECONDS
        while not self._closed:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await self._exchange(*request)
            except (OSError, TimeoutError) as error:
                if time.monotonic() > give_up:
                    raise UnavailableError("the server does not answer") from error
            await asyncio.sleep(0.05)
        raise ClosedError("this client is closed")

    async def close(self) -> None:
        """End every request, and hang up."""
        self._closed = True
        self._hang_up(*self._busy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _exchange(self, *request: str) -> str | None:
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        self._busy.add(writer)
        answered = False
        try:
            if self._closed:  # while it connected
                raise ConnectionAbortedError("this client is closed")
            writer.write(_line(request))
            await writer.drain()
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionResetError("the connection was closed")
            answered = True
            self._idle.append((reader, writer))
            return cast("str | None", json.loads(line))
        finally:
            self._busy.discard(writer)
            if not answered:
                self._hang_up(writer)  # An answer that is under way must not be the next one's.

    async def _connect(self) -> Connection:
        reader, writer = await asyncio.open_connection(*self._address, limit=LONGEST_LINE)
        writer.write(_line(PASSWORD))
        return reader, writer

    def _hang_up(self, *writers: asyncio.StreamWriter) -> None:
        """Close these connections, and those that are idle: they are of no more use."""
        for writer in (*writers, *(writer for _, writer in self._idle)):
            writer.close()
        self._idle.clear()


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


class WireHooks:
    """The hooks of a suite whose provider is a `client` of a server of its own; before the contract, whose own they replace."""

    credentials: ClassVar[tuple[str, ...]] = (PASSWORD,)
    client: ClassVar[type[WireClient]]

    async def asyncSetUp(self) -> None:
        self.server = WireServer()
        self.address = await self.server.start()

    async def asyncTearDown(self) -> None:
        await self.server.stop()

    async def make_provider(self, *, address: tuple[str, int] | None = None, **config: Any) -> WireClient:
        return self.client(address or self.address)

    async def unreachable_provider(self) -> WireClient:
        with socket.socket() as unheard:  # A port at which nobody listens.
            unheard.bind(("127.0.0.1", 0))
            return self.client(unheard.getsockname())

    async def backend_address(self) -> tuple[str, int]:
        return self.address
