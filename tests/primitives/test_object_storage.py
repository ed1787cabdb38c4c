"""The object store's reference is certified; so is a core of three methods, and the default bare HTTP request."""

import importlib.util
import os
import tracemalloc
import unittest
from collections import UserDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import anyio
import anyio.abc

from omnitck.kit.checks import catalogue
from omnitck.kit.outcomes import Status
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract
from omnitck.reference.object_storage import CAPABILITIES, MemoryObjectBackend, MemoryObjectStorage
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.exceptions import NotFoundError, ObjectNotFoundError
from omnitck.shared.models import ObjectInfo, ObjectLimits
from tests.helpers import on_each_backend, outcome_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestReference: Any = reference_suite("object_storage", __module__=__name__, __qualname__="TestReference")
TestReferenceOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("object_storage", __module__=__name__, __qualname__="TestReferenceOnTrio", backend="trio")
)


class TestReferenceInRealTime(ObjectStorageContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, and as a user would certify it."""

    capabilities = CAPABILITIES
    credentials = ("correct-horse",)
    memory = MemoryObjectBackend(password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryObjectStorage:
        return MemoryObjectStorage(self.memory, tenant_id=tenant_id, password="correct-horse")

    async def unreachable_provider(self) -> MemoryObjectStorage:
        return MemoryObjectStorage(MemoryObjectBackend(reachable=False))

    async def missing_container_provider(self) -> MemoryObjectStorage:
        return MemoryObjectStorage(self.memory, container="missing", password="correct-horse")

    async def http_request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.memory.request(method, url, body)


class NaiveObjectStorage:
    """Three methods over a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def upload(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    async def download(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectNotFoundError(key) from None

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)


class TestCore(ObjectStorageContract, unittest.IsolatedAsyncioTestCase):
    """The seed's three methods are a provider."""

    async def make_provider(self, **config: Any) -> NaiveObjectStorage:
        return NaiveObjectStorage()


class TestLargeStreams(unittest.TestCase):
    """What OB-20 asks of a provider that holds objects of this size."""

    def test_64_mib_need_the_memory_of_few_parts(self) -> None:
        limits = ObjectLimits(value_bytes=64 * 1024 * 1024, part_bytes=1024 * 1024)

        async def make_provider(self: Any, *, namespace: str = "", **config: Any) -> MemoryObjectStorage:
            return MemoryObjectStorage(MemoryObjectBackend(limits=limits), capabilities=self.declared)

        suite = type(
            "Large",
            (ObjectStorageContract, unittest.IsolatedAsyncioTestCase),
            {"make_provider": make_provider, "capabilities": {"stat", "streaming"}, "limits": limits},
        )
        outcome, _ = outcome_of(suite, "test_ob_20_streams_need_little_memory")
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))


class TestSuites(unittest.TestCase):
    def test_each_declares_everything_there_is(self) -> None:
        for suite in (TestReference, TestReferenceOnTrio, TestReferenceInRealTime):
            self.assertEqual(suite.declared, known_capabilities("object_storage"))

    def test_production_demands_stat_and_list_prefix(self) -> None:
        suite = reference_suite("object_storage", capabilities=(), profile="production")
        self.assertLessEqual({"stat", "list_prefix", "lifecycle"}, suite.declared)
        self.assertNotIn("copy", suite.declared)

    def test_a_url_of_a_tenant_is_a_rule_only_where_there_are_urls(self) -> None:
        self.assertIn("MT-24", {each.id for each in catalogue(reference_suite("object_storage"))})
        self.assertNotIn("MT-24", {each.id for each in catalogue(reference_suite("kv_store"))})


class TestVerdicts(unittest.TestCase):
    def test_memory_cannot_be_judged_where_an_object_is_a_few_parts(self) -> None:
        limits = ObjectLimits(part_bytes=65_536, value_bytes=262_144)
        suite = reference_suite("object_storage", limits=limits)
        outcome, _ = outcome_of(suite, "test_ob_20_streams_need_little_memory")
        self.assertEqual(
            (outcome.outcome, outcome.message),
            (
                Status.NOT_PROVOKED,
                "not provoked: an object of `value_bytes` (262144) is less than 6 parts of 65536 bytes",
            ),
        )

    def test_memory_is_judged_while_somebody_else_traces_it(self) -> None:
        tracemalloc.start()
        try:
            outcome, _ = outcome_of(reference_suite("object_storage"), "test_ob_20_streams_need_little_memory")
            self.assertTrue(tracemalloc.is_tracing())
        finally:
            tracemalloc.stop()
        self.assertEqual(outcome.outcome, Status.PASSED)

    def test_memory_is_judged_by_parts_of_which_a_call_takes_less(self) -> None:
        limits = ObjectLimits(part_bytes=64)
        for joins, expected in ((False, Status.PASSED), (True, Status.FAILED)):

            class Joining(MemoryObjectStorage):
                async def sent(self, key: str, data: object, joins: bool = joins) -> tuple[bytes, ...]:
                    parts = await super().sent(key, data)
                    return (b"".join(parts),) if joins else parts

            async def make_provider(self: Any, provider: Any = Joining, **config: Any) -> MemoryObjectStorage:
                store: MemoryObjectStorage = provider(MemoryObjectBackend(limits=limits), capabilities=self.declared)
                return store

            suite = reference_suite("object_storage", limits=limits, make_provider=make_provider)
            outcome, _ = outcome_of(suite, "test_ob_20_streams_need_little_memory")
            self.assertEqual(outcome.outcome, expected)

    def test_metadata_may_be_a_view_and_may_not_be_an_alias(self) -> None:
        class Frozen(MemoryObjectStorage):
            def info(self, key: str, stored: Any) -> ObjectInfo:
                return replace(super().info(key, stored), metadata=MappingProxyType(dict(stored.metadata)))

        class Shared(MemoryObjectStorage):
            """Hands out one and the same mapping, which is no `dict`, each time."""

            known: ClassVar[dict[int, UserDict[str, str]]] = {}

            def info(self, key: str, stored: Any) -> ObjectInfo:
                metadata = self.known.setdefault(stored.number, UserDict(stored.metadata))
                return replace(super().info(key, stored), metadata=metadata)

        for provider, expected in ((Frozen, Status.PASSED), (Shared, Status.FAILED)):
            outcome, _ = outcome_of(reference_suite("object_storage", provider), "test_com_17_stored_values_have_no_alias")
            self.assertEqual(outcome.outcome, expected)

    def test_a_life_without_an_end_is_refused_whatever_is_declared(self) -> None:
        for most in (60.0, float(2**60), float("inf")):
            limits = ObjectLimits(max_presign=most)

            async def make_provider(self: Any, limits: ObjectLimits = limits, **config: Any) -> MemoryObjectStorage:
                return MemoryObjectStorage(MemoryObjectBackend(limits=limits), capabilities=self.declared)

            suite = reference_suite("object_storage", limits=limits, make_provider=make_provider)
            outcome, _ = outcome_of(suite, "test_ob_29_a_life_that_cannot_be_is_refused")
            self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))

    def test_a_missing_container_may_be_said_when_connecting(self) -> None:
        for error, expected in (
            (NotFoundError("there is no bucket"), Status.PASSED),
            (ObjectNotFoundError("there is no object"), Status.FAILED),
            (OSError("disk full"), Status.ERROR),
        ):

            async def missing(self: Any, error: Exception = error) -> Any:
                raise error

            suite = reference_suite("object_storage", missing_container_provider=missing)
            outcome, _ = outcome_of(suite, "test_ob_18_a_missing_container_is_said")
            self.assertEqual(outcome.outcome, expected)

    def test_a_stream_may_end_with_an_error_when_its_object_is_replaced(self) -> None:
        class Strict(MemoryObjectStorage):
            async def turn(self) -> None:
                await super().turn()

            async def chunks(self, stored: Any, start: int, end: int) -> Any:
                async for chunk in super().chunks(stored, start, end):
                    if stored not in self.backend.objects.values():
                        raise NotFoundError("the object is another one now")
                    yield chunk

        outcome, _ = outcome_of(reference_suite("object_storage", Strict), "test_ob_21_a_stream_is_of_one_object")
        self.assertEqual(outcome.outcome, Status.PASSED)


class TestBareRequest(unittest.TestCase):
    """What a suite without `http_request` of its own sends."""

    @on_each_backend
    async def test_it_sends_what_the_url_says_and_no_content_type(self) -> None:
        heard: list[bytes] = []

        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                heard.append(await stream.receive())
                if b"PUT" in heard[-1] and not heard[-1].endswith(b"body"):
                    heard[-1] += await stream.receive()
                await stream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/a%20b?x=1&y=%2F"
            suite: Any = TestCore()
            request: Callable[..., Awaitable[tuple[int, bytes]]] = suite.http_request
            self.assertEqual([await request("GET", url), await request("PUT", url, b"body")], [(403, b"no")] * 2)
            tasks.cancel_scope.cancel()
        self.assertTrue(heard[0].startswith(b"GET /a%20b?x=1&y=%2F HTTP/1.1\r\n"))
        self.assertTrue(heard[1].startswith(b"PUT /a%20b?x=1&y=%2F HTTP/1.1\r\n") and heard[1].endswith(b"body"))
        self.assertNotIn(b"content-type", heard[1].lower())


class TestReferenceURLs(unittest.TestCase):
    @on_each_backend
    async def test_a_url_that_is_none_of_its_own_is_refused(self) -> None:
        backend = MemoryObjectBackend()
        store = MemoryObjectStorage(backend)
        await store.upload("a/b", b"content")
        url = await store.presign("a/b", expires=60)
        self.assertEqual(backend.request("GET", url), (200, b"content"))
        self.assertEqual(backend.request("GET", await store.presign("absent", expires=60)), (404, b"not found"))
        self.assertEqual(backend.request("GET", url.replace("%2F", "/"))[0], 400)
        self.assertEqual(backend.request("GET", url[:-1])[0], 403)
