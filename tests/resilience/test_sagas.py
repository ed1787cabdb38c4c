"""Sagas: the reference on other loops and in real time, what the core asks for, and what failures say."""

import importlib.util
import os
import unittest
from collections.abc import Sequence
from typing import Any

from omnitck.kit.outcomes import Status
from omnitck.kit.text import UsageError
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.reference.sagas import CAPABILITIES, MemorySagas, MemorySagaServer, SagaTransaction
from omnitck.resilience.saga_steps import DO, UNDO, Played, Script, continues, in_order
from omnitck.resilience.sagas import SagasContract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.exceptions import SagaAlreadyExistsError, SagaStateConflictError
from omnitck.shared.models import SagaContext, SagaState, SagaStatus, SagaStep
from omnitck.unusual.sagas import Dictionary, Plainest
from tests.helpers import outcome_of, outcomes_of, suite_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestSagas: Any = reference_suite("sagas", __module__=__name__, __qualname__="TestSagas")
TestSagasOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("sagas", __module__=__name__, __qualname__="TestSagasOnTrio", backend="trio")
)


class TestSagasInRealTime(SagasContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses the reference, and as a user would certify it."""

    capabilities = CAPABILITIES
    memory = MemorySagaServer()

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> MemorySagas:
        return MemorySagas(self.memory, tenant_id=tenant_id, namespace=namespace)

    async def unreachable_provider(self) -> MemorySagas:
        return MemorySagas(MemorySagaServer(reachable=False))

    async def crash(self, client: MemorySagas) -> None:
        client.vanish()

    async def business_write(self, tx: SagaTransaction, key: str, value: str) -> None:
        tx.rows[key] = value

    async def business_read(self, key: str) -> str | None:
        return self.memory.rows.get(key)


class TestSuites(unittest.TestCase):
    def test_each_declares_everything_there_is(self) -> None:
        for suite in (TestSagas, TestSagasOnTrio, TestSagasInRealTime):
            self.assertEqual(suite.declared, known_capabilities("sagas"))

    def test_three_methods_pass_the_core(self) -> None:
        class Suite(Plainest, unittest.IsolatedAsyncioTestCase):
            pass

        outcomes, _ = outcomes_of(Suite)
        passed = [each.rule for each in outcomes if each.outcome is Status.PASSED]
        others = {each.rule for each in outcomes if each.outcome not in (Status.PASSED, Status.NOT_DECLARED)}
        self.assertEqual(others, {"SAG-COM-24"})
        self.assertGreaterEqual(set(passed), {f"SAG-{number:02}" for number in (*range(1, 17), 21, 37, 38, 40, 59)} - {"SAG-17"})

    def test_without_a_way_to_crash_a_crash_is_not_provoked(self) -> None:
        class Suite(SagasContract, unittest.IsolatedAsyncioTestCase):
            capabilities = ("compensation_execution",)

            async def make_provider(self, **config: object) -> MemorySagas:
                return MemorySagas(MemorySagaServer(), capabilities=self.capabilities)

        outcome, _ = outcome_of(Suite, "test_sag_26_a_crash_repeats_nothing_that_was_done")
        self.assertIs(outcome.outcome, Status.NOT_PROVOKED)

    def test_a_claim_needs_a_namespace(self) -> None:
        with self.assertRaisesRegex(UsageError, "declares `saga_lease`, and a claim reaches every saga"):
            suite_of(SagasContract, capabilities=("saga_lease",))

    def test_a_transaction_needs_a_business_row(self) -> None:
        with self.assertRaisesRegex(UsageError, "has no hook business_write and no business_read"):
            suite_of(SagasContract, capabilities=("transactional",))

    def test_a_rule_removes_what_it_has_made(self) -> None:
        server = MemorySagaServer()

        class Suite(SagasContract, unittest.IsolatedAsyncioTestCase):
            capabilities = ("delete", "shared", "list_incomplete")

            async def make_provider(self, **config: object) -> MemorySagas:
                return MemorySagas(server, capabilities=self.capabilities)

        outcome, _ = outcome_of(Suite, "test_sag_20_paging_survives_changes")
        self.assertIs(outcome.outcome, Status.PASSED)
        self.assertEqual(server.sagas, {})


class TestFailures(unittest.TestCase):
    """The classic bugs, on a dictionary: what their author reads."""

    def message(self, provider: type[Dictionary], method: str) -> str:
        class Suite(Plainest, unittest.IsolatedAsyncioTestCase):
            async def make_provider(self, **config: object) -> Dictionary:
                return provider(self.rows)

        outcome, _ = outcome_of(Suite, method)
        self.assertIs(outcome.outcome, Status.FAILED)
        return outcome.message

    def test_a_stale_update_overwrites(self) -> None:
        class Overwriting(Dictionary):
            async def update_state(self, state: SagaState) -> SagaState:
                return self._keep(SagaState(**{**vars(state), "version": state.version + 1}))

        text = self.message(Overwriting, "test_sag_06_a_stale_update_is_refused")
        self.assertIn(
            "given     a stale update with another content\n  expected  SagaStateConflictError\n  observed  returned", text
        )

    def test_an_update_is_an_upsert(self) -> None:
        class Upserting(Dictionary):
            async def update_state(self, state: SagaState) -> SagaState:
                try:
                    return await self.create_state(state)
                except SagaAlreadyExistsError:
                    return await super().update_state(state)

        text = self.message(Upserting, "test_sag_10_an_update_creates_nothing")
        self.assertIn("given     update_state of an unknown id, version=0\n  expected  SagaNotFoundError", text)

    def test_a_version_is_raised_in_the_argument(self) -> None:
        class Raising(Dictionary):
            async def update_state(self, state: SagaState) -> SagaState:
                before = SagaState(**vars(state))
                object.__setattr__(state, "version", state.version + 1)
                return await super().update_state(before)

        text = self.message(Raising, "test_sag_37_arguments_stay_as_they_were")
        self.assertIn("given     the argument after update_state\n", text)

    def test_content_stands_for_a_version(self) -> None:
        class Hashing(Dictionary):
            def __init__(self, rows: dict[str, tuple[SagaState, str]]) -> None:
                super().__init__(rows)
                self.read: dict[tuple[str, int], str] = {}

            async def update_state(self, state: SagaState) -> SagaState:
                stored, payload = self._rows.get(state.saga_id, (None, ""))
                if stored is not None and self.read.get((state.saga_id, state.version)) == payload:
                    state = SagaState(**{**vars(state), "version": stored.version})
                return await super().update_state(state)

            def _keep(self, state: SagaState) -> SagaState:
                kept = super()._keep(state)
                self.read[state.saga_id, state.version] = self._rows[state.saga_id][1]
                return kept

        text = self.message(Hashing, "test_sag_12_equal_content_is_no_equal_version")
        self.assertIn("given     an update of version 1, after A, B, A\n  expected  SagaStateConflictError", text)

    def test_a_crash_repeats_a_step(self) -> None:
        """What was begun, what is left, and what was done instead, in one look."""

        class Forgetful(MemorySagas):
            async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
                state = await self.get_state(saga_id)
                if state is not None and not SagaStatus(state.status).terminal:
                    await self.update_state(SagaState(**{**vars(state), "current_step": 0}))
                return await super().recover(saga_id, steps)

        suite = reference_suite("sagas", Forgetful)
        outcome, _ = outcome_of(suite, "test_sag_58_a_crash_in_the_middle_of_a_step_is_recovered")
        self.assertIn("given     the process dies in do 1, when this had been begun: do 0, do 1\n", outcome.message)
        self.assertIn("expected  what is left of: do 0, do 1, do 2\n  observed  recover began do 0, do 1, do 2", outcome.message)


class TestOrders(unittest.TestCase):
    def continued(self, moves: Sequence[tuple[str, int]], begun: int, *, ended: bool, order: Sequence[tuple[str, int]]) -> bool:
        played = [Played(each, "a", "key", {}, ended=True) for each in moves]
        played[begun - 1].ended = ended
        return continues(Script(played=played), "a", begun, [order])

    def test_what_was_cut_off_is_begun_again(self) -> None:
        order = in_order(3)
        again = [(DO, 0), (DO, 1), (DO, 1), (DO, 2)]
        self.assertTrue(self.continued(again, 2, ended=False, order=order))
        self.assertTrue(self.continued(again, 2, ended=True, order=order))
        self.assertTrue(self.continued(order, 2, ended=True, order=order))
        self.assertFalse(self.continued(order, 2, ended=False, order=order))

    def test_what_was_done_is_not(self) -> None:
        self.assertFalse(self.continued([(DO, 0), (DO, 1), (DO, 0), (DO, 1), (DO, 2)], 2, ended=False, order=in_order(3)))

    def test_what_was_cut_off_may_be_undone(self) -> None:
        order = in_order(3, failed=1, undone=True)
        self.assertEqual(order, [(DO, 0), (DO, 1), (UNDO, 1), (UNDO, 0)])
        self.assertTrue(self.continued(order, 2, ended=False, order=order))
        self.assertFalse(self.continued(order, 3, ended=False, order=order))


class TestReference(unittest.IsolatedAsyncioTestCase):
    """As a fake for an application's own tests."""

    async def test_a_saga_goes_on_where_another_client_has_stopped(self) -> None:
        server = MemorySagaServer()
        log: list[tuple[str, str]] = []

        async def reserve(context: SagaContext) -> None:
            log.append(("reserve", context.idempotency_key))

        async def charge(context: SagaContext) -> None:
            log.append(("charge", context.idempotency_key))
            if len(log) == 2:
                server.reachable = False

        steps = [SagaStep("reserve", reserve), SagaStep("charge", charge)]
        with self.assertRaises(Exception):  # noqa: B017  whatever an outage is
            await MemorySagas(server).run("order-1", steps, {"total": 1})
        server.reachable = True
        state = await MemorySagas(server).recover("order-1", steps)
        self.assertEqual(state.status, SagaStatus.COMPLETED)
        self.assertEqual([name for name, _ in log], ["reserve", "charge", "charge"])
        self.assertEqual(log[1], log[2])

    async def test_a_transaction_commits_rows_and_events_with_its_saga(self) -> None:
        server = MemorySagaServer()
        sagas = MemorySagas(server)
        state = await sagas.create_state(SagaState(saga_id="order-1", status="RUNNING"))
        async with sagas.transaction() as tx:
            await sagas.update_state(state, tx=tx)
            tx.rows["order-1"] = "paid"
            tx.events.append("order paid")
            self.assertEqual((server.rows, server.events), ({}, []))
        self.assertEqual((server.rows, server.events), ({"order-1": "paid"}, ["order paid"]))
        with self.assertRaises(SagaStateConflictError):
            await sagas.update_state(state)
