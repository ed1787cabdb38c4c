"""The rules that put a proxy before a TCP backend: what they accept, and which naive clients they reject."""

import asyncio
import hashlib
import json
import socket
import threading
import time
import unittest
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, ClassVar
from unittest import mock

from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.messaging.consumer import ConsumerContract
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.shared.exceptions import UnavailableError
from omnitck.shared.models import ConsumedMessage
from tests.helpers import outcome_of

RULES = (12, 14, 15, 16, 23)
LONGEST_LINE = 2**20


class LineServer:
    """A store and queues behind a TCP port: a line of JSON asks, a line answers. It runs in a thread of its own."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._queues: dict[str, list[str]] = defaultdict(list)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=LONGEST_LINE)
        self.address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._do(*json.loads(line))).encode() + b"\n")
                await writer.drain()
        except OSError:
            pass  # The proxy cut the connection.
        finally:
            writer.close()

    def _do(self, verb: str, key: str, value: str) -> str | None:
        queue = self._queues[key]
        if verb == "put":
            queue.append(value)
        if verb == "take":
            return queue.pop(0) if queue else None
        if verb == "set":
            self._values[key] = value
        elif verb == "delete":
            self._values.pop(key, None)
        return self._values.get(key)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


class LineStore:
    """A client with one connection, which it drops whenever it does not know what comes next on it."""

    patience: float | None = 2.0

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @classmethod
    async def connected(cls, address: tuple[str, int]) -> "LineStore":
        """A client that is ready for use."""
        return cls(address)

    async def get(self, key: str) -> str | None:
        value: str | None = await self._ask("get", key)
        return value

    async def set(self, key: str, value: str) -> None:
        await self._ask("set", key, value)

    async def delete(self, key: str) -> None:
        await self._ask("delete", key)

    async def aclose(self) -> None:
        self._drop()

    async def _ask(self, *request: str) -> Any:
        try:
            async with asyncio.timeout(self.patience), self._lock:
                try:
                    return await self._exchange([*request, ""][:3])
                except BaseException as error:
                    self.failed(error)
                    raise
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"key {request[1]!r}: the backend does not answer") from error

    async def _exchange(self, request: list[str]) -> Any:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=LONGEST_LINE)
        reader, writer = self._streams
        if writer.is_closing():
            raise ConnectionResetError("the connection is closed")

        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("the connection was closed")

        return json.loads(line)

    def failed(self, error: BaseException) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class KeepsItsConnection(LineStore):
    """After a cancellation the reply that nobody read is still to come."""

    def failed(self, error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError):
            self._drop()


class WaitsForEver(LineStore):
    """It has no time limit."""

    patience = None


class NeverReconnects(LineStore):
    """A connection that was cut, or could not be made, stays so."""

    cut = False

    async def _exchange(self, request: list[str]) -> Any:
        if self.cut:
            raise ConnectionResetError("the connection is closed")
        return await super()._exchange(request)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._drop()
        else:
            self.cut = True


class ConnectsBlocking(LineStore):
    """It greets the server by a blocking call before it is of use: no event loop turns meanwhile."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        with socket.create_connection(address) as connection:
            connection.sendall(b'["get", "greeting", ""]\n')
            assert connection.recv(100) == b"null\n"


class ComputesAtFirst(LineStore):
    """It derives its keys when it is made, which takes a while, and waits for nobody."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        until = time.thread_time() + 0.15
        while time.thread_time() < until:
            hashlib.sha256(bytes(100_000)).digest()


class Impatient(LineStore):
    """It is not made where the server is far away."""

    @classmethod
    async def connected(cls, address: tuple[str, int]) -> LineStore:
        store = cls(address)
        store.patience = 0.1
        await store.get("greeting")
        store.patience = 2.0
        return store


class Polling:
    """A subscription that asks for the next message again and again."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.create_task(work)

    async def stop(self, *, drain: bool = True) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


class LineConsumer(LineStore):
    """A consumer of the queues."""

    async def subscribe(
        self, topic: str, handler: Callable[[ConsumedMessage], Awaitable[object]], *, max_attempts: int = 3
    ) -> Polling:
        await self._ask("get", topic)
        return Polling(self._poll(topic, handler))

    async def publish(self, topic: str, payload: bytes, *_: object) -> None:
        await self._ask("put", topic, payload.decode())

    async def _poll(self, topic: str, handler: Callable[[ConsumedMessage], Awaitable[object]]) -> None:
        while True:
            with suppress(UnavailableError):
                taken = await self._ask("take", topic)
                if taken is not None:
                    await handler(ConsumedMessage(taken.encode(), None, {}))
                    continue
            await asyncio.sleep(0.002)


class ConsumerThatNeverReconnects(NeverReconnects, LineConsumer):
    """The same fault."""


class TestRulesOverTCP(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.server = LineServer()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.stop()

    server: ClassVar[LineServer]

    def failed(self, store: type[LineStore], *rules: int) -> dict[int, str]:
        """The rules that failed among *rules*, and what each observed; every one is judged."""
        server = self.server

        class Suite(KVStoreContract, unittest.IsolatedAsyncioTestCase):
            capabilities = ("shared", "availability")
            patience = 0.8

            async def make_provider(self, *, address: tuple[str, int] | None = None, **config: Any) -> LineStore:
                return await store.connected(address or server.address)

            async def backend_address(self) -> tuple[str, int]:
                return server.address

        found: dict[str, tuple[str, str]] = {}
        wanted = tuple(f"test_com_{number}_" for number in rules)
        with listening(lambda cls, each: found.__setitem__(each.rule, (each.outcome.value, each.message))):
            for name in unittest.defaultTestLoader.getTestCaseNames(Suite):
                if name.startswith(wanted):
                    Suite(name).run(unittest.TestResult())
        self.assertEqual(set(found), {f"KV-COM-{number}" for number in rules})
        self.assertLessEqual({status for status, _ in found.values()}, {"passed", "failed"}, found)
        return {int(rule[-2:]): message for rule, (status, message) in found.items() if status == "failed"}

    def test_a_careful_client_passes(self) -> None:
        self.assertEqual(self.failed(LineStore, *RULES), {})

    def test_a_connection_that_is_kept_after_a_cancellation_crosses_replies(self) -> None:
        failed = self.failed(KeepsItsConnection, 14, 15)
        self.assertEqual(set(failed), {15})
        self.assertIn("a connection with an unread reply was used again", failed[15])

    def test_a_client_without_a_time_limit_is_found_when_the_backend_is_silent(self) -> None:
        failed = self.failed(WaitsForEver, 12, 14)
        self.assertEqual(set(failed), {12})
        self.assertIn("while the backend is silent", failed[12])
        self.assertNotIn("after the connection was cut", failed[12])

    def test_a_client_that_never_reconnects_is_found_when_the_network_is_back(self) -> None:
        failed = self.failed(NeverReconnects, 12, 15)
        self.assertEqual(set(failed), {12})
        self.assertIn("a read with the same client once the network is back", failed[12])

    def test_a_client_that_is_connected_by_a_blocking_call_is_found_and_breaks_nothing_else(self) -> None:
        failed = self.failed(ConnectsBlocking, *RULES)
        self.assertEqual(set(failed), {23})
        self.assertIn("case      connecting\n  given     a client being connected by make_provider", failed[23])
        self.assertRegex(failed[23], r"observed  at least \d+ ms, 5 times in a row\n  hint      a blocking call in make_provider")
        self.assertNotIn("case      operations", failed[23])

    def test_a_proxy_that_cannot_be_opened_is_not_the_providers_failure(self) -> None:
        server = self.server

        class Suite(KVStoreContract, unittest.IsolatedAsyncioTestCase):
            async def make_provider(self, *, address: tuple[str, int] | None = None, **config: Any) -> LineStore:
                return LineStore(address or server.address)

            async def backend_address(self) -> tuple[str, int]:
                return server.address

        with mock.patch("omnitck.instruments.faults.socket.create_server", side_effect=OSError(24, "Too many open files")):
            outcome, _ = outcome_of(Suite, "test_com_14_a_cancelled_operation_ends")
        self.assertEqual(outcome.outcome, Status.ERROR)
        self.assertIn("the kit cannot open its proxy in front of the backend: OSError: [Errno 24]", outcome.message)

    def test_what_a_client_computes_when_it_is_made_is_no_wait(self) -> None:
        self.assertEqual(self.failed(ComputesAtFirst, 23), {})

    def test_a_client_that_does_not_connect_over_such_a_network_is_connected_without_it(self) -> None:
        self.assertEqual(self.failed(Impatient, 23), {})


class TestConsumersOverTCP(unittest.TestCase):
    """To use a consumer writes nothing, and yet it has to be seen whether it works again."""

    def setUp(self) -> None:
        self.server = LineServer()
        self.addCleanup(self.server.stop)

    def outcome(self, consumer: type[LineConsumer]) -> Outcome:
        server = self.server

        class Suite(ConsumerContract, unittest.IsolatedAsyncioTestCase):
            capabilities = ("stopping", "availability")
            patience = 0.8

            async def make_provider(self, *, address: tuple[str, int] | None = None, **config: Any) -> LineConsumer:
                return consumer(address or server.address)

            async def publish(self, topic: str, payload: bytes, *_: object, **config: Any) -> None:
                publisher = LineConsumer(server.address)
                try:
                    await publisher.publish(topic, payload)
                finally:
                    await publisher.aclose()

            async def backend_address(self) -> tuple[str, int]:
                return server.address

        return outcome_of(Suite, "test_com_12_an_unreachable_backend_is_said")[0]

    def test_a_careful_consumer_passes(self) -> None:
        self.assertEqual(self.outcome(LineConsumer).message, "")

    def test_a_consumer_that_never_reconnects_is_found_when_the_network_is_back(self) -> None:
        outcome = self.outcome(ConsumerThatNeverReconnects)
        self.assertEqual(outcome.outcome, Status.FAILED)
        self.assertIn("a read with the same client once the network is back", outcome.message)
