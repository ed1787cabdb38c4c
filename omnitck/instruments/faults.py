"""A TCP proxy that does to a client's connections what networks do.

It runs in a thread of its own, as a network goes on whatever a client does: one that blocks its event loop while it connects
would wait for ever for a proxy in the same loop.
"""

import asyncio
import contextlib
import enum
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

__all__ = ["FaultProxy"]

_Chunk: TypeAlias = tuple[float, bytes]
"""When it is due, and the bytes; none say that the peer has no more to send."""
_CHUNK_SIZE: Final = 65536
_CHUNKS_UNDER_WAY: Final = 256
"""Chunks that one direction holds back for its latency before it stops reading, as a full network would."""
_ABORT: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""The value of SO_LINGER with which closing a socket resets its connection."""


class _Mode(enum.Enum):
    PASS = enum.auto()
    BLACK_HOLE = enum.auto()
    CUT = enum.auto()


@dataclass(eq=False, slots=True)
class _Link:
    """A client's connection and, once there, the one to the server that belongs to it."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    torn: bool = False
    """Something was lost on it, so it can only be reset."""


class FaultProxy:
    """Forward 127.0.0.1:*a free port* to *host*:*port*, and fail on demand.

    The faults are plain calls that hold from the moment they return. They replace each other. Closing resets what is
    still connected, and ends the thread. A server that cannot be reached resets the client, which has then been accepted already.
    """

    latency: float
    """Seconds added in each direction. What is read is forwarded that much later, in order, however much there is."""
    connections: int
    """Connections accepted since the start, those included that a fault met at once."""
    swallowed: int
    """Bytes that faults have taken. Once it has grown, a request sent into a black hole will certainly never arrive."""

    def __init__(self, host: str, port: int) -> None:
        self.latency = 0.0
        self.connections = 0
        self.swallowed = 0
        self._server = (host, port)
        self._mode = _Mode.PASS
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._opened: Future[asyncio.AbstractEventLoop] = Future()
        """The loop of the thread, once it runs."""
        self._tasks: anyio.abc.TaskGroup

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to. Raises `RuntimeError` unless the proxy is open."""
        if self._listener is None:
            raise RuntimeError("a FaultProxy has an address only inside its `async with`.")
        host, port = self._listener.getsockname()
        return host, port

    def black_hole(self) -> None:
        """Let connections stay open and new ones be accepted, but nothing pass, not even that a peer has closed."""
        self._change(_Mode.BLACK_HOLE, lambda link: False)

    def cut(self) -> None:
        """Reset every connection, and each new one as soon as it is accepted. The port stays taken."""
        self._change(_Mode.CUT, lambda link: True)

    def heal(self) -> None:
        """End `black_hole` or `cut`. Connections on which a black hole has lost something are reset; others go on."""
        self._change(_Mode.PASS, lambda link: link.torn)

    def _change(self, mode: _Mode, resets: Callable[[_Link], bool]) -> None:
        """Be in *mode*, and reset the connections that it *resets*, by the time at which this returns."""

        def change() -> None:
            self._mode = mode
            for link in self._links:
                if resets(link):
                    link.scope.cancel()

        self._in_thread(change)

    def _in_thread(self, work: Callable[[], object]) -> None:
        """Do *work* between two steps of the proxy, so that none is half done, and wait until it is done."""
        done: Future[None] = Future()

        def do() -> None:
            try:
                work()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        if self._thread is None:
            do()
        else:
            self._opened.result().call_soon_threadsafe(do)
        done.result()

    async def __aenter__(self) -> Self:
        # Nothing here waits for more than a thread to start, so that no cancellation comes between.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        try:
            self._opened = Future()
            thread = threading.Thread(target=self._run, args=(self._listener,), name="omnitck fault proxy", daemon=True)
            thread.start()
            self._opened.result()
        except BaseException:
            self._listener.close()
            self._listener = None
            raise
        self._thread = thread
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._thread is not None
        assert self._listener is not None
        try:
            self._in_thread(lambda: self._tasks.cancel_scope.cancel())
        finally:
            self._thread.join()
            self._thread = None
            self._listener.close()
            self._listener = None

    def _run(self, listener: socket.socket) -> None:
        try:
            anyio.run(self._work, listener, backend="asyncio")
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    async def _work(self, listener: socket.socket) -> None:
        async with anyio.create_task_group() as self._tasks:
            self._opened.set_result(asyncio.get_running_loop())
            await self._accept(listener)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await anyio.wait_readable(listener)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                client, _ = listener.accept()
                self.connections += 1
                self._tasks.start_soon(self._serve, client)

    async def _serve(self, client: socket.socket) -> None:
        link = _Link()
        self._links.add(link)
        server: socket.socket | None = None
        done = False
        try:
            with link.scope:
                with self._losing(link):
                    if self._passes(link):
                        server = await _connect(*self._server)
                        await self._carry(client, server, link)
                        done = not link.torn
                if self._mode is _Mode.BLACK_HOLE and link.torn:
                    await anyio.sleep_forever()
        finally:
            self._links.discard(link)
            for end in (client, server):
                if end is not None:
                    _close(end, abort=not done)

    async def _carry(self, client: socket.socket, server: socket.socket, link: _Link) -> None:
        """Forward both ways until both peers have said that they are done."""
        async with anyio.create_task_group() as tasks:
            for source, target in ((client, server), (server, client)):
                source.setblocking(False)
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sender, receiver = anyio.create_memory_object_stream[_Chunk](_CHUNKS_UNDER_WAY)
                tasks.start_soon(self._read, source, sender, link)
                tasks.start_soon(self._write, receiver, target, link)

    async def _read(self, source: socket.socket, chunks: MemoryObjectSendStream[_Chunk], link: _Link) -> None:
        with chunks, self._losing(link):
            chunk = b"?"
            while chunk:
                await anyio.wait_readable(source)
                with contextlib.suppress(BlockingIOError):
                    chunk = source.recv(_CHUNK_SIZE)
                    await chunks.send((anyio.current_time() + self.latency, chunk))

    async def _write(self, chunks: MemoryObjectReceiveStream[_Chunk], target: socket.socket, link: _Link) -> None:
        with chunks, self._losing(link):
            async for due, chunk in chunks:
                await anyio.sleep_until(due)
                if not chunk and self._passes(link):
                    target.shutdown(socket.SHUT_WR)
                while chunk and self._passes(link):
                    try:
                        chunk = chunk[target.send(chunk) :]
                    except BlockingIOError:
                        await anyio.wait_writable(target)
                self.swallowed += len(chunk)

    def _passes(self, link: _Link) -> bool:
        # Asked before each transfer, because a stream with a hole in it must not go on after healing.
        link.torn = link.torn or self._mode is not _Mode.PASS
        return not link.torn

    @contextlib.contextmanager
    def _losing(self, link: _Link) -> Iterator[None]:
        """Pass a peer's failure on to the other peer, unless there is a black hole between them."""
        try:
            yield
        except (OSError, anyio.BrokenResourceError):
            if self._passes(link):
                link.scope.cancel()
            link.torn = True


async def _connect(host: str, port: int) -> socket.socket:
    """Connect to the first address of *host* that answers; raises `OSError` if none does."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        server = socket.socket(family, kind, protocol)
        try:
            server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                server.connect(address)
            await anyio.wait_writable(server)
            code = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, f"cannot connect to {host}:{port}")
        except BaseException as error:
            server.close()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return server

    raise failure


def _close(end: socket.socket, *, abort: bool) -> None:
    with contextlib.suppress(OSError):
        if abort:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    end.close()
