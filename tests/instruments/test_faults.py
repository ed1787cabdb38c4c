"""The fault proxy between a client and a server that echoes, on each event loop that is installed."""

import contextlib
import functools
import gc
import importlib.util
import os
import socket
import struct
import threading
import time
import unittest
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from unittest import mock

import anyio
import anyio.abc

from omnitck.instruments.faults import FaultProxy

HANGING = 30.0
"""Seconds after which something that must end is taken not to."""


class Echo:
    """A server that sends back what it gets."""

    address: tuple[str, int]

    def __init__(self) -> None:
        self.received = b""

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Echo until the client is done; one that resets is of no interest."""
        try:
            async with stream:
                async for data in stream:
                    self.received += data
                    await stream.send(data)
                await stream.send_eof()
        except (OSError, anyio.BrokenResourceError):
            pass


@asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    """An `Echo` on a free port."""
    echo = Echo()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        echo.address = listener.extra(anyio.abc.SocketAttribute.raw_socket).getsockname()
        tasks.start_soon(listener.serve, echo.serve)
        yield echo
        tasks.cancel_scope.cancel()


async def connect(proxy: FaultProxy) -> anyio.abc.SocketStream:
    """A client's connection."""
    return await anyio.connect_tcp(*proxy.address)


async def read(stream: anyio.abc.SocketStream, count: int) -> bytes:
    """Exactly *count* bytes."""
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another task."""
    while not condition():
        await anyio.sleep(0.001)


async def is_refused(proxy: FaultProxy) -> bool:
    """Whether a new connection is reset."""
    try:
        async with await connect(proxy) as stream:
            await stream.receive()
    except (OSError, anyio.BrokenResourceError):
        return True
    return False


def greet(server: socket.socket) -> None:
    """Serve one client, in another thread than its own."""
    client, _ = server.accept()
    with client:
        client.send(b"hello")


def proxy_threads() -> int:
    """How many threads of proxies run."""
    return sum(each.name == "omnitck fault proxy" for each in threading.enumerate())


Body = Callable[["TestFaultProxy", Echo, FaultProxy], Awaitable[None]]


def with_proxy(body: Body) -> Callable[["TestFaultProxy"], None]:
    """Run *body* with a proxy before an echo; then nothing may be left of it."""

    async def run(test: "TestFaultProxy") -> None:
        with anyio.fail_after(HANGING):
            async with echoing() as echo:
                async with FaultProxy(*echo.address) as proxy:
                    await body(test, echo, proxy)
                    test.assertEqual(proxy_threads(), 1)
                test.assertEqual(proxy_threads(), 0)

    @functools.wraps(body)
    def test_method(test: "TestFaultProxy") -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            anyio.run(run, test, backend=test.backend)
            gc.collect()
        test.assertEqual([str(warning.message) for warning in caught], [])

    return test_method


class TestFaultProxy(unittest.TestCase):
    backend = "asyncio"

    @with_proxy
    async def test_data_passes_both_ways(self, echo: Echo, proxy: FaultProxy) -> None:
        async with await connect(proxy) as stream:
            for data in (b"a", b"b" * 1000, b"c"):
                await stream.send(data)
                self.assertEqual(await read(stream, len(data)), data)
        self.assertEqual((proxy.connections, proxy.swallowed), (1, 0))

    @with_proxy
    async def test_a_lot_of_data_passes_in_order_while_nobody_reads_yet(self, echo: Echo, proxy: FaultProxy) -> None:
        data = b"".join(i.to_bytes(4, "big") for i in range(500_000))
        async with await connect(proxy) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            self.assertTrue(await read(stream, len(data)) == data)

    @with_proxy
    async def test_half_closed_connection_still_delivers_the_answer(self, echo: Echo, proxy: FaultProxy) -> None:
        async with await connect(proxy) as stream:
            await stream.send(b"last words")
            await stream.send_eof()
            self.assertEqual(await read(stream, 10), b"last words")
            with self.assertRaises(anyio.EndOfStream):
                await stream.receive()

    @with_proxy
    async def test_latency_is_added_in_each_direction(self, echo: Echo, proxy: FaultProxy) -> None:
        async with await connect(proxy) as stream:
            proxy.latency = 0.05
            began = time.monotonic()
            await stream.send(b"ping")
            await read(stream, 4)
            self.assertGreaterEqual(time.monotonic() - began, 0.1 - time.get_clock_info("monotonic").resolution)

    @with_proxy
    async def test_latency_delays_a_stream_of_chunks_and_not_each_of_them(self, echo: Echo, proxy: FaultProxy) -> None:
        proxy.latency = 0.2
        async with await connect(proxy) as stream:
            for number in range(100):
                await stream.send(bytes([number]))
                await anyio.sleep(0.001)
            with anyio.fail_after(10):
                self.assertEqual(await read(stream, 100), bytes(range(100)))

    @with_proxy
    async def test_healing_a_black_hole_resets_what_lost_something(self, echo: Echo, proxy: FaultProxy) -> None:
        async with await connect(proxy) as busy, await connect(proxy) as idle:
            for stream in (busy, idle):
                await stream.send(b"before ")
                await read(stream, 7)
            proxy.black_hole()
            await busy.send(b"lost ")
            await until(lambda: proxy.swallowed == 5)
            proxy.heal()
            with self.assertRaises(anyio.BrokenResourceError):
                await busy.receive()
            await idle.send(b"after")
            self.assertEqual(await read(idle, 5), b"after")
        self.assertEqual(echo.received, b"before before after")

    @with_proxy
    async def test_black_hole_takes_what_is_under_way(self, echo: Echo, proxy: FaultProxy) -> None:
        async with await connect(proxy) as stream:
            await stream.send(b"before")
            await read(stream, 6)
            proxy.latency = 0.05
            await stream.send(b"late")
            proxy.black_hole()
            await until(lambda: proxy.swallowed == 4)
        self.assertEqual(echo.received, b"before")

    @with_proxy
    async def test_black_hole_accepts_and_stays_silent(self, echo: Echo, proxy: FaultProxy) -> None:
        proxy.black_hole()
        async with await connect(proxy) as stream:
            await until(lambda: proxy.connections == 1)
            await stream.send(b"anybody there?")
            with anyio.move_on_after(0.05) as silence:
                await stream.receive()
            self.assertTrue(silence.cancelled_caught)
            proxy.heal()
            with self.assertRaises(anyio.BrokenResourceError):
                await stream.receive()
        self.assertEqual(echo.received, b"")

    @with_proxy
    async def test_black_hole_hides_that_the_server_has_gone(self, echo: Echo, proxy: FaultProxy) -> None:
        async with FaultProxy(*proxy.address) as hole, await connect(hole) as stream:
            await stream.send(b"x")
            await read(stream, 1)
            hole.black_hole()
            proxy.cut()
            with anyio.move_on_after(0.05) as silence:
                await stream.receive()
            self.assertTrue(silence.cancelled_caught)
            hole.heal()
            with self.assertRaises(anyio.BrokenResourceError):
                await stream.receive()

    @with_proxy
    async def test_cut_resets_connections_and_refuses_new_ones(self, echo: Echo, proxy: FaultProxy) -> None:
        address = proxy.address
        async with await connect(proxy) as stream:
            await stream.send(b"before")
            await read(stream, 6)
            proxy.cut()
            with self.assertRaises(anyio.BrokenResourceError):
                await stream.receive()
        self.assertTrue(await is_refused(proxy))

        proxy.heal()
        self.assertEqual(proxy.address, address)
        async with await connect(proxy) as stream:
            await stream.send(b"after")
            self.assertEqual(await read(stream, 5), b"after")

    @with_proxy
    async def test_cut_is_a_reset_and_not_an_orderly_end(self, echo: Echo, proxy: FaultProxy) -> None:
        with socket.create_connection(proxy.address) as client:
            await until(lambda: proxy.connections == 1)
            proxy.cut()
            await anyio.wait_readable(client)
            with self.assertRaises(ConnectionResetError):
                client.recv(1)

    @with_proxy
    async def test_nothing_sent_after_a_cut_arrives(self, echo: Echo, proxy: FaultProxy) -> None:
        async with await connect(proxy) as stream:
            await stream.send(b"before")
            await read(stream, 6)
            proxy.latency = 0.05
            await stream.send(b"under way")
            await anyio.sleep(0.01)
            proxy.cut()
            with self.assertRaises(anyio.BrokenResourceError):
                await stream.send(b"after")
                await stream.receive()
            await anyio.sleep(0.05)
        self.assertEqual(echo.received, b"before")

    @with_proxy
    async def test_survives_clients_that_reset(self, echo: Echo, proxy: FaultProxy) -> None:
        for data in (b"", b"x"):
            with socket.create_connection(proxy.address) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.send(data)
        async with await connect(proxy) as stream:
            await stream.send(b"well")
            self.assertEqual(await read(stream, 4), b"well")

    @with_proxy
    async def test_closing_does_not_wait_for_peers(self, echo: Echo, proxy: FaultProxy) -> None:
        async with FaultProxy(*proxy.address) as outer:
            stream = await connect(outer)
            await stream.send(b"x")
            await read(stream, 1)
            outer.black_hole()
            outer.latency = 1000.0
            await stream.send(b"y")
        async with stream:
            with self.assertRaises(anyio.BrokenResourceError):
                await stream.receive()
        with self.assertRaises(RuntimeError):
            _ = outer.address

    @with_proxy
    async def test_server_that_is_not_there_resets_the_client(self, echo: Echo, proxy: FaultProxy) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            address = unused.getsockname()
        async with FaultProxy(*address) as alone:
            self.assertTrue(await is_refused(alone))

    @with_proxy
    async def test_a_client_that_blocks_the_event_loop_is_served(self, echo: Echo, proxy: FaultProxy) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            greeting = threading.Thread(target=greet, args=(server,))
            greeting.start()
            async with FaultProxy(*server.getsockname()) as other:
                other.latency = 0.02
                began = time.monotonic()
                with socket.create_connection(other.address, timeout=HANGING) as client:
                    self.assertEqual(client.recv(5), b"hello")
                self.assertGreaterEqual(time.monotonic() - began, 0.02 - time.get_clock_info("monotonic").resolution)
            greeting.join()

    @with_proxy
    async def test_a_fault_holds_once_its_call_has_returned(self, echo: Echo, proxy: FaultProxy) -> None:
        for fault in (proxy.cut, proxy.black_hole):
            async with await connect(proxy) as stream:
                await stream.send(b"x")
                await read(stream, 1)
                # Without a turn of the event loop between the fault and what is sent after it.
                fault()
                with contextlib.suppress(OSError):
                    os.write(stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno(), b"lost")
                await anyio.sleep(0.02)
                proxy.heal()
        self.assertEqual(echo.received, b"xx")

    @with_proxy
    async def test_it_can_be_opened_again(self, echo: Echo, proxy: FaultProxy) -> None:
        other = FaultProxy(*echo.address)
        for _ in range(2):
            async with other, await connect(other) as stream:
                await stream.send(b"x")
                self.assertEqual(await read(stream, 1), b"x")

    @with_proxy
    async def test_where_no_thread_can_be_started_nothing_is_left(self, echo: Echo, proxy: FaultProxy) -> None:
        other = FaultProxy(*echo.address)
        with (
            mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
            self.assertRaisesRegex(RuntimeError, "can't start"),
        ):
            await other.__aenter__()
        with self.assertRaises(RuntimeError):
            _ = other.address

    @with_proxy
    async def test_failure_in_the_body_leaves_as_it_is(self, echo: Echo, proxy: FaultProxy) -> None:
        with self.assertRaises(ZeroDivisionError):
            async with FaultProxy(*echo.address):
                raise ZeroDivisionError

    @with_proxy
    async def test_cancelled_body_ends(self, echo: Echo, proxy: FaultProxy) -> None:
        with anyio.move_on_after(0.01) as scope:
            async with FaultProxy(*echo.address) as other, await connect(other):
                await anyio.sleep_forever()
        self.assertTrue(scope.cancelled_caught)


@unittest.skipUnless(importlib.util.find_spec("trio"), "trio is not installed")
class TestFaultProxyOnTrio(TestFaultProxy):
    backend = "trio"


if __name__ == "__main__":
    unittest.main()
