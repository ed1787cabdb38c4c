"""The plainest repository of sagas passes its core, soon, and the others are as unusual as they say."""

import time
import unittest
from datetime import UTC, datetime

import anyio

from omnitck.reference.sagas import MemorySagaServer
from omnitck.selftest.laws import unusual_suite
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import SagaNotFoundError
from omnitck.shared.models import SagaState
from omnitck.unusual import unusual_of
from omnitck.unusual.sagas import DeferredSagas, EmbeddedSagas, Table, TableSagas
from tests.helpers import outcomes_of


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("sagas")[0].name, "Plainest")
        began = time.monotonic()
        outcomes, _ = outcomes_of(unusual_suite("sagas", 0))
        self.assertLess(time.monotonic() - began, 30)
        by_status: dict[str, list[str]] = {}
        for each in outcomes:
            by_status.setdefault(each.outcome.value, []).append(each.rule)
        self.assertEqual(by_status.keys(), {"passed", "not declared", "not provoked"})
        self.assertEqual(by_status["not provoked"], ["SAG-COM-24"])
        self.assertGreaterEqual(len(by_status["passed"]), 30)


class TestCoarse(unittest.IsolatedAsyncioTestCase):
    async def test_its_clock_is_years_off_and_pages_may_be_empty(self) -> None:
        sagas = TableSagas(Table())
        states = [await sagas.create_state(SagaState(saga_id=f"{n}", status="COMPLETED")) for n in range(5)]
        self.assertGreater(states[0].created_at or datetime.min, datetime(2041, 1, 1, tzinfo=UTC))
        page = await sagas.list_incomplete(limit=100)
        self.assertEqual(len(page.sagas), 0)
        self.assertIsNotNone(page.cursor)

    async def test_a_worker_is_given_again_what_it_has(self) -> None:
        sagas = TableSagas(Table())
        await sagas.create_state(SagaState(saga_id="a", status="RUNNING"))
        for _ in range(2):
            self.assertEqual([each.saga_id for each in await sagas.claim_stuck("w", limit=1, lease=60)], ["a"])
        self.assertEqual(await sagas.claim_stuck("x", limit=1, lease=60), [])


class TestEmbedded(unittest.IsolatedAsyncioTestCase):
    async def test_a_transaction_holds_up_other_writes(self) -> None:
        sagas = EmbeddedSagas(MemorySagaServer())
        async with sagas.transaction():
            with anyio.move_on_after(0.02) as scope:
                await sagas.create_state(SagaState(saga_id="a", status="RUNNING"))
        self.assertTrue(scope.cancelled_caught)
        self.assertEqual((await sagas.create_state(SagaState(saga_id="a", status="RUNNING"))).version, 1)

    async def test_a_worker_is_given_again_what_it_has_before_what_is_free(self) -> None:
        clock = ManualClock()
        sagas = EmbeddedSagas(MemorySagaServer(clock=clock))
        for name in "ab":
            await sagas.create_state(SagaState(saga_id=name, status="RUNNING"))
        for lease in (60, 1):
            self.assertEqual([each.saga_id for each in await sagas.claim_stuck("w", limit=1, lease=lease)], ["a"])
        clock.advance(2)
        self.assertEqual([each.saga_id for each in await sagas.claim_stuck("x", limit=2, lease=60)], ["b"])


class TestDeferred(unittest.IsolatedAsyncioTestCase):
    async def test_what_is_refused_is_so_at_the_end_of_the_block(self) -> None:
        sagas = DeferredSagas(MemorySagaServer())
        with self.assertRaises(SagaNotFoundError):
            async with sagas.transaction() as tx:
                state = await sagas.update_state(SagaState(saga_id="a", status="RUNNING", version=3), tx=tx)
                self.assertEqual(state.version, 4)
        with self.assertRaises(LookupError):
            async with sagas.transaction() as tx:
                await sagas.update_state(state, tx=tx)
                raise LookupError
        self.assertIsNone(await sagas.get_state("a"))
