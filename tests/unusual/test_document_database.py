"""The plainest database passes its core, soon; and each of the others is as unusual as it says."""

import time
import unittest

import anyio

from omnitck.kit.outcomes import Status
from omnitck.reference.document_database import MemoryDocumentDatabase, MemoryDocuments
from omnitck.selftest.laws import unusual_suite
from omnitck.shared.clock import ManualClock
from omnitck.unusual import unusual_of
from omnitck.unusual.document_database import (
    LaggingDocuments,
    LayerAtTheFloors,
    LayeredDocuments,
    Ledger,
    Replicas,
    Row,
    SerialDocuments,
)
from tests.helpers import on_each_backend, outcomes_of


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("document_database")[0].name, "Plainest")
        began = time.monotonic()
        outcomes, _ = outcomes_of(unusual_suite("document_database", 0))
        self.assertLess(time.monotonic() - began, 30)
        by_status: dict[Status, set[str]] = {}
        for each in outcomes:
            by_status.setdefault(each.outcome, set()).add(each.rule)
        self.assertEqual(by_status.keys(), {Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED})
        self.assertEqual(by_status[Status.NOT_PROVOKED], {"DB-COM-24"})
        self.assertGreaterEqual(len(by_status[Status.PASSED]), 31)


class TestSlowReplicas(unittest.TestCase):
    @on_each_backend
    async def test_others_see_a_write_when_the_declared_time_has_passed_and_not_before(self) -> None:
        clock = ManualClock()
        replicas = Replicas(clock, LaggingDocuments.limits.staleness)
        writer, reader = LaggingDocuments(replicas), LaggingDocuments(replicas)
        await writer.insert_one("c", {"_id": "a"})
        clock.advance(59.5)
        self.assertIsNone(await reader.find_one("c", {}))
        clock.advance(0.5)
        self.assertIsNotNone(await reader.find_one("c", {}))
        await writer.delete_one("c", {"_id": "a"})
        self.assertEqual((await writer.find_many("c", {}), len(await reader.find_many("c", {}))), ([], 1))

    @on_each_backend
    async def test_each_write_has_a_revision_of_another_length_and_in_no_order(self) -> None:
        client = LaggingDocuments(Replicas(ManualClock(), 60.0))
        id = await client.insert_one("c", {"f": 1})
        revisions = []
        for _ in range(20):
            await client.update_one("c", {"_id": id}, {"$set": {"f": 1}})
            found = await client.find_one("c", {"_id": id})
            self.assertIsInstance(found, Row)
            revisions.append(found["_rev"] if found else "")
        self.assertEqual(len(set(revisions)), 20)
        self.assertGreater(len({len(each) for each in revisions}), 5)
        self.assertNotIn(revisions, (sorted(revisions), sorted(revisions, reverse=True)))


class TestOneAtATime(unittest.TestCase):
    @on_each_backend
    async def test_others_wait_while_a_transaction_is_open(self) -> None:
        ledger, seen = Ledger(), anyio.Event()
        async with SerialDocuments(ledger) as one, SerialDocuments(ledger) as other:
            await one.insert_one("c", {"_id": "a", "n": 0})
            async with anyio.create_task_group() as tasks:

                async def look() -> None:
                    self.assertEqual(await other.find_one("c", {}), {"_id": "a", "n": 2, "_rev": "2"})
                    seen.set()

                async with one.transaction() as inside:
                    tasks.start_soon(look)
                    for number in (1, 2):
                        await inside.update_one("c", {"_id": "a"}, {"$set": {"n": number}})
                        await anyio.sleep(0.02)
                    self.assertFalse(seen.is_set())
            self.assertTrue(seen.is_set())

    @on_each_backend
    async def test_a_client_is_opened_once(self) -> None:
        client = SerialDocuments(Ledger())
        async with client:
            with self.assertRaises(RuntimeError):
                await client.__aenter__()

    @on_each_backend
    async def test_an_exception_passes_its_task_group_as_it_is(self) -> None:
        error = LookupError("raised in the body")
        with self.assertRaises(LookupError) as caught:
            async with SerialDocuments(Ledger()):
                raise error
        self.assertIs(caught.exception, error)


class TestLayerAtTheFloors(unittest.TestCase):
    @on_each_backend
    async def test_it_has_neither_attributes_of_its_own_nor_a_truth(self) -> None:
        layer = LayeredDocuments(MemoryDocumentDatabase(MemoryDocuments(limits=LayerAtTheFloors.limits)))
        self.assertFalse(layer)
        with self.assertRaises(AttributeError):
            layer.anything = 1  # type: ignore[attr-defined]
        self.assertFalse(hasattr(layer.find_iter("c", {}), "aclose"))
        async with layer.transaction() as inside:
            await inside.insert_one("c", {"_id": "a"})
        self.assertEqual([each["_id"] async for each in layer.find_iter("c", {})], ["a"])
