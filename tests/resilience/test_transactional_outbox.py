"""Outboxes: the reference on a clock of its own, in real time and on trio; what the core is; the texts of failures."""

import importlib.util
import os
import unittest
from typing import Any, ClassVar

from omnitck.defects import defects_of
from omnitck.kit.contract import plan_of
from omnitck.kit.outcomes import Status
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.reference.transactional_outbox import CAPABILITIES, MemoryOutbox, MemoryOutboxStorage, MemoryTransaction
from omnitck.resilience.transactional_outbox import TransactionalOutboxContract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import PRODUCTION, known_capabilities
from omnitck.shared.models import OutboxEvent
from omnitck.unusual.transactional_outbox import Plainest
from tests.helpers import UsageCase, outcome_of, outcomes_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestTransactionalOutbox: Any = reference_suite(
    "transactional_outbox", __module__=__name__, __qualname__="TestTransactionalOutbox"
)
TestTransactionalOutboxOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("transactional_outbox", __module__=__name__, __qualname__="TestTransactionalOutboxOnTrio", backend="trio")
)


class TestTransactionalOutboxInRealTime(TransactionalOutboxContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, and as a user would certify it."""

    capabilities = CAPABILITIES
    memory: ClassVar[MemoryOutbox] = MemoryOutbox()

    async def make_provider(self, *, namespace: str = "", tenant_id: str | None = None, **config: Any) -> MemoryOutboxStorage:
        return MemoryOutboxStorage(self.memory, namespace=namespace, tenant_id=tenant_id)

    async def unreachable_provider(self) -> MemoryOutboxStorage:
        return MemoryOutboxStorage(MemoryOutbox(reachable=False))

    async def business_write(self, tx: MemoryTransaction, key: str, value: str) -> None:
        tx.write(key, value)

    async def business_read(self, key: str) -> str | None:
        return self.memory.rows.get(key)

    async def crash(self, client: MemoryOutboxStorage) -> None:
        client.vanish()


class TestDeclarations(UsageCase):
    def test_each_suite_declares_everything_there_is(self) -> None:
        for suite in (TestTransactionalOutbox, TestTransactionalOutboxOnTrio, TestTransactionalOutboxInRealTime):
            self.assertEqual(suite.declared, known_capabilities("transactional_outbox"))

    def test_five_methods_are_a_core(self) -> None:
        """Every rule without a capability passes; the others say what is not declared."""

        class Suite(Plainest, unittest.IsolatedAsyncioTestCase):
            pass

        outcomes, _ = outcomes_of(Suite)
        core = {each.id for each in plan_of(Suite).rules if not each.needs}
        self.assertGreater(len(core), 15)
        # A suite without credentials cannot show one.
        self.assertEqual({each.rule for each in outcomes if each.outcome is Status.PASSED}, core - {"OBX-COM-24"})
        others = {each.outcome for each in outcomes if each.rule not in core}
        self.assertEqual(others, {Status.NOT_DECLARED})

    def test_production_demands_transactions_and_claims(self) -> None:
        class Suite(TransactionalOutboxContract, unittest.IsolatedAsyncioTestCase):
            profile = "production"

            async def make_provider(self, *, namespace: str = "", **config: Any) -> MemoryOutboxStorage:
                raise NotImplementedError

            async def unreachable_provider(self) -> Any:
                raise NotImplementedError

        self.assertEqual(Suite.declared, {*PRODUCTION, "transaction", "claim"})

    def test_what_reaches_everything_needs_a_namespace(self) -> None:
        async def make_provider(self: Any, **config: Any) -> Any:
            raise NotImplementedError

        for capability in ("claim", "outbox_relay", "parking", "retention"):
            members = {"make_provider": make_provider, "capabilities": {capability}}
            bases = (TransactionalOutboxContract, unittest.IsolatedAsyncioTestCase)
            self.refused("takes no namespace", type, "Suite", bases, members)

    def test_a_namespace_that_is_ignored_is_the_suites_mistake(self) -> None:
        """What another rule has saved is no failure of the provider."""

        class Suite(TransactionalOutboxContract, unittest.IsolatedAsyncioTestCase):
            capabilities = {"claim"}

            def setUp(self) -> None:
                self.memory = MemoryOutbox()

            async def make_provider(self, *, namespace: str = "", **config: Any) -> MemoryOutboxStorage:
                client = MemoryOutboxStorage(self.memory, capabilities={"claim"})
                await client.save_event(OutboxEvent(destination_topic="somebody else's", payload=b""))
                return client

        outcome, _ = outcome_of(Suite, "test_obx_17_an_aggregate_belongs_to_one_relay")
        self.assertIs(outcome.outcome, Status.ERROR)
        self.assertIn('claim gave an event for "somebody else\'s", which this rule did not save', outcome.message)


class TestTexts(unittest.TestCase):
    """What the classic mistakes are told."""

    def text(self, defect: str, method: str) -> str:
        [found] = [each for each in defects_of("transactional_outbox") if each.name == defect]
        outcome, _ = outcome_of(reference_suite("transactional_outbox", found.provider), method)
        self.assertIs(outcome.outcome, Status.FAILED)
        return outcome.message

    def test_saving_outside_the_transaction(self) -> None:
        text = self.text("SavesOutside", "test_obx_02_an_exception_leaves_neither")
        self.assertIn("given     the pending events after the exception\n  expected  0 names, each once", text)

    def test_a_poller_that_remembers_how_far_it_has_come(self) -> None:
        text = self.text("HighWaterMark", "test_obx_05_a_late_commit_is_not_lost")
        self.assertIn("given     claims before and after the late commit", text)
        self.assertIn("observed  2 missing", text)

    def test_skip_locked(self) -> None:
        text = self.text("SkipsLocked", "test_obx_17_an_aggregate_belongs_to_one_relay")
        self.assertIn("given     the events of an aggregate of which another relay has the first", text)
        self.assertIn("expected  no other relay is given any of them", text)

    def test_one_event_for_two_relays(self) -> None:
        text = self.text("PlainSelect", "test_obx_14_no_event_is_in_two_claims")
        self.assertIn("given     everything that 8 relays were given", text)
        self.assertIn("repeated", text)

    def test_a_mark_before_the_publication(self) -> None:
        text = self.text("MarksBeforePublishing", "test_obx_24_an_event_is_marked_once_it_is_published")
        self.assertIn("given     what is pending after they failed", text)

    def test_order_in_a_history(self) -> None:
        text = self.text("GoesOnAfterAFailure", "test_obx_26_relays_keep_the_order_and_lose_nothing")
        self.assertIn("given     10 aggregates of 20 events, published by two relays", text)
        self.assertIn("overtaken: ", text)
