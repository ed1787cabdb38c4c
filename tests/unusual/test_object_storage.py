"""The plainest store passes its core, soon; and each of the others is as unusual as it says."""

import time
import unittest

import anyio

from omnitck.kit.outcomes import Status
from omnitck.reference.object_storage import MemoryObjectStorage
from omnitck.selftest.laws import unusual_suite
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import ObjectNotFoundError, UnavailableError
from omnitck.shared.models import ObjectInfo
from omnitck.unusual import unusual_of
from omnitck.unusual.object_storage import (
    Bucket,
    LaggingObjects,
    LastMinute,
    LayerAtTheFloors,
    LayeredObjects,
    MultiplexedObjects,
    Replicas,
    Service,
    connected,
    multiplexed,
)
from tests.helpers import on_each_backend, outcomes_of


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("object_storage")[0].name, "Plainest")
        began = time.monotonic()
        outcomes, _ = outcomes_of(unusual_suite("object_storage", 0))
        self.assertLess(time.monotonic() - began, 30)
        by_status: dict[Status, set[str]] = {}
        for each in outcomes:
            by_status.setdefault(each.outcome, set()).add(each.rule)
        self.assertEqual(by_status.keys(), {Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED})
        self.assertEqual(by_status[Status.NOT_PROVOKED], {"OB-18", "OB-COM-24"})
        self.assertGreaterEqual(len(by_status[Status.PASSED]), 24)


class TestSlowReplicas(unittest.TestCase):
    @on_each_backend
    async def test_others_see_a_write_when_the_declared_time_has_passed_and_not_before(self) -> None:
        clock = ManualClock()
        replicas = Replicas(clock, LaggingObjects.limits.staleness)
        writer, reader = LaggingObjects(replicas), LaggingObjects(replicas)
        await writer.upload("a", b"1")
        self.assertEqual(await writer.download("a"), b"1")
        clock.advance(59.5)
        with self.assertRaises(ObjectNotFoundError):
            await reader.download("a")
        self.assertEqual([info.key async for info in reader.list_objects()], [])
        clock.advance(0.5)
        self.assertEqual(await reader.download("a"), b"1")
        await writer.delete("a")
        self.assertEqual(await reader.download("a"), b"1")

    @on_each_backend
    async def test_what_no_client_sees_any_more_is_forgotten(self) -> None:
        clock = ManualClock()
        replicas = Replicas(clock, 60.0)
        client = LaggingObjects(replicas)
        for content in (b"1", b"2", b"3"):
            await client.upload("a", content)
        replicas.forget()
        self.assertEqual(len(replicas.log["a"]), 3)
        clock.advance(60.0)
        replicas.forget()
        self.assertEqual([each.parts for each in replicas.log["a"]], [(b"3",)])


class TestGroupCommit(unittest.TestCase):
    @on_each_backend
    async def test_writes_are_carried_out_together(self) -> None:
        bucket = Bucket()
        async with connected(bucket) as client, anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(client.upload, f"{number}", b"content")
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            self.assertEqual(set(bucket.objects), set())
        self.assertEqual(set(bucket.objects), set("01234"))

    @on_each_backend
    async def test_equal_contents_have_one_etag_and_two_versions(self) -> None:
        async with connected(Bucket()) as client:
            one, other = await client.upload("a", b"content"), await client.upload("a", b"content")
        self.assertEqual((one.etag, one.version == other.version), (other.etag, False))
        self.assertIsInstance(one, ObjectInfo)
        with self.assertRaises(TypeError):
            one.metadata["a"] = "b"  # type: ignore[index]


class TestLayerAtTheFloors(unittest.TestCase):
    @on_each_backend
    async def test_it_has_neither_attributes_of_its_own_nor_a_truth(self) -> None:
        memory = LastMinute(clock=ManualClock(), limits=LayerAtTheFloors.limits)
        layer = LayeredObjects(MemoryObjectStorage(memory))
        self.assertFalse(layer)
        with self.assertRaises(AttributeError):
            layer.anything = 1  # type: ignore[attr-defined]
        self.assertFalse(hasattr(layer.list_objects(), "aclose"))
        await layer.upload("a", b"content")
        self.assertEqual((await layer.stat("a")).size, 7)

    @on_each_backend
    async def test_a_url_lives_as_long_as_it_may(self) -> None:
        clock = ManualClock()
        memory = LastMinute(clock=clock, limits=LayerAtTheFloors.limits)
        client = MemoryObjectStorage(memory)
        await client.upload("a", b"content")
        url = await client.presign("a", expires=2.0)
        clock.advance(119.5)
        self.assertEqual(memory.request("GET", url), (200, b"content"))
        clock.advance(0.5)
        self.assertEqual(memory.request("GET", url)[0], 403)


class TestReconnecting(unittest.TestCase):
    def setUp(self) -> None:
        self.service = Service()
        self.addCleanup(self.service.stop)

    @on_each_backend
    async def test_answers_come_in_another_order_than_requests(self) -> None:
        ended: list[int] = []

        async def put(client: MultiplexedObjects, number: int) -> None:
            await client.upload(f"{number}", b"content")
            ended.append(number)

        async with multiplexed(self.service.address) as client:
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(put, client, number)
            self.assertEqual(await client.download("49"), b"content")
        self.assertEqual(sorted(ended), list(range(50)))
        self.assertNotEqual(ended, sorted(ended))

    @on_each_backend
    async def test_a_request_waits_for_the_next_connection(self) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as nobody:
            port = nobody.extra(anyio.abc.SocketAttribute.local_port)
        async with multiplexed(("127.0.0.1", port)) as client, anyio.create_task_group() as tasks:

            async def connect_later() -> None:
                await anyio.sleep(0.1)
                client._address = self.service.address

            tasks.start_soon(connect_later)
            info = await client.upload("a", b"content")
        self.assertEqual(info.size, 7)

    @on_each_backend
    async def test_a_lost_connection_is_said_of_what_was_under_way(self) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:

            async def hang_up(stream: anyio.abc.SocketStream) -> None:
                await stream.receive(1)
                await stream.aclose()

            tasks.start_soon(listener.serve, hang_up)
            async with multiplexed(("127.0.0.1", listener.extra(anyio.abc.SocketAttribute.local_port))) as client:
                with self.assertRaises(UnavailableError) as caught:
                    await client.download("a")
            self.assertIsNotNone(caught.exception.__cause__)
            tasks.cancel_scope.cancel()
