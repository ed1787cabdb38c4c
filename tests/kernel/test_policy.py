"""A policy, whole: composed with a store, a consumer, and a contract without cells."""

import threading
import unittest
from typing import Any

import omnitck
from omnitck import Definition, Policy, audit
from omnitck.kit.contract import plan_of
from omnitck.kit.outcomes import Outcome
from omnitck.messaging.consumer import ConsumerContract
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.reference.consumer import MemoryConsumer
from omnitck.reference.kv_store import MemoryKVStore
from omnitck.selftest.reference import CREDENTIAL
from omnitck.selftest.suites.consumer import ReferenceSuite as ConsumerReference
from omnitck.selftest.suites.kv_store import ReferenceSuite as KVStoreReference
from tests.kernel.breaker import Breaker, BreakerSuite
from tests.kernel.running import failed, outcomes, refusal, run, suite
from tests.kernel.telemetry import Recording, Telemetry, TelemetryPolicy, instrumented


def store(**members: Any) -> type[Any]:
    """A suite of the in-memory store with the policy."""
    provider = members.pop("provider", instrumented(MemoryKVStore))
    capabilities = {*KVStoreReference.capabilities, "notes"}

    async def make_provider(self: Any, *, tenant_id: str | None = None, **config: Any) -> Any:
        # Which capabilities a policy knows is no business of the provider's.
        known = self.declared - {"notes"}
        made = self.provider(self.memory, tenant_id=tenant_id, password=CREDENTIAL, capabilities=known)
        made.recorded = self.recorded
        return made

    members = {"capabilities": capabilities, "provider": provider, "make_provider": make_provider, **members}
    return suite(Recording, KVStoreReference, TelemetryPolicy, **members)


def audits(stream: list[Outcome], id: str) -> dict[str, str]:
    """For each rule that the audit *id* watched, what became of it."""
    return {each.during: each.outcome for each in stream if each.rule == id and each.during}


class TestAPolicy(unittest.TestCase):
    def test_it_composes_with_a_store(self) -> None:
        found = outcomes(store())
        self.assertEqual([], [each.rule for each in found.values() if each.outcome != "passed"])
        self.assertLessEqual({"TT-01", "TT-02", "KV-03", "KV-COM-15"}, set(found))

    def test_it_composes_with_a_consumer(self) -> None:
        cls = suite(Recording, ConsumerReference, TelemetryPolicy, provider=instrumented(MemoryConsumer))
        found = outcomes(cls)
        self.assertEqual([], [each.rule for each in found.values() if each.outcome not in ("passed", "not declared")])
        self.assertEqual("passed", found["TT-01"].outcome)

    def test_it_composes_with_a_contract_without_cells(self) -> None:
        capabilities = {"manual_control", "validation"}
        right = suite(Recording, BreakerSuite, TelemetryPolicy, capabilities=capabilities, provider=instrumented(Breaker))
        self.assertEqual([], failed(right))
        silent = instrumented(Breaker, silent="state")
        wrong = suite(Recording, BreakerSuite, TelemetryPolicy, capabilities=capabilities, provider=silent)
        self.assertEqual(["TT-01"], failed(wrong))

    def test_its_capability_is_declared_or_not(self) -> None:
        cls = store(capabilities=KVStoreReference.capabilities)
        self.assertEqual("not declared", outcomes(cls)["TT-02"].outcome)
        self.assertNotIn("notes", cls.declared)
        self.assertIn("unknown capability 'note' of kv_store + toy_telemetry; did you mean notes", refusal_of("note"))

    def test_a_provider_that_breaks_its_rule_fails_it(self) -> None:
        self.assertEqual(["TT-01"], failed(store(provider=instrumented(MemoryKVStore, silent="expires_in"))))
        self.assertEqual(["TT-02"], failed(store(provider=instrumented(MemoryKVStore, note="-"))))

    def test_what_it_puts_around_a_rule_is_there_before_a_provider_opens_and_after_it_has_closed(self) -> None:
        seen: list[str] = []

        class Noticed(Telemetry):
            def __setattr__(self, name: str, value: object) -> None:
                if name == "recording":
                    seen.append("entered" if value else "left")
                super().__setattr__(name, value)

        class Store(MemoryKVStore):
            def __init__(self, *arguments: Any, **keywords: Any) -> None:
                seen.append("opened")
                super().__init__(*arguments, **keywords)

            async def close(self) -> None:
                seen.append("closed")
                await super().close()

        recorded = Noticed()
        seen.clear()

        async def telemetry(self: object) -> Telemetry:
            return recorded

        cls = store(provider=Store, telemetry=telemetry)
        cls("test_kv_01_an_unwritten_key_is_none").run(unittest.TestResult())
        self.assertEqual(["entered", "opened", "closed", "left"], seen)

    def test_a_policy_that_cannot_begin_is_no_verdict_on_the_provider(self) -> None:
        found = outcomes(suite(BreakerSuite, TelemetryPolicy))
        skipped = ("not declared", "not provoked")
        self.assertEqual({"error"}, {each.outcome for each in found.values() if each.outcome not in skipped})
        self.assertIn("Suite has no telemetry: write the hook with `async def`", found["TB-01"].message)


def refusal_of(capability: str) -> str:
    return refusal(Recording, KVStoreReference, TelemetryPolicy, capabilities={capability})


class TestAnAudit(unittest.TestCase):
    def test_it_has_an_outcome_for_each_rule_that_passed(self) -> None:
        result, stream = run(store())
        self.assertTrue(result.wasSuccessful())
        watched = audits(stream, "TT-03")
        self.assertEqual({"passed"}, set(watched.values()))
        self.assertEqual({each.rule for each in stream if not each.during}, set(watched))

    def test_its_failure_fails_the_test_during_which_it_happened_and_no_rule(self) -> None:
        result, stream = run(store(provider=instrumented(MemoryKVStore, leaves_open="increment")))
        blamed = {id for id, each in audits(stream, "TT-03").items() if each == "failed"}
        self.assertIn("KV-COM-13", blamed)
        self.assertEqual({"passed"}, {each.outcome for each in stream if not each.during})
        self.assertEqual(len(blamed), len(result.failures))
        [text] = [text for test, text in result.failures if "test_com_13" in test.id()]
        self.assertIn("TT-03 [MUST, audited after KV-COM-13] Once a provider has closed, none of its spans is open", text)
        self.assertIn("given     the spans that KV-COM-13 left", text)
        self.assertIn("observed  ['increment']", text)

    def test_a_certificate_has_one_outcome_of_it(self) -> None:
        cls = store(provider=instrumented(MemoryKVStore, leaves_open="increment"))
        [report] = omnitck.certify(cls, isolate=False).suites
        [outcome] = [each for each in report.outcomes if each.rule == "TT-03"]
        self.assertEqual("failed", outcome.outcome)
        self.assertRegex(outcome.message, r"seen      first during KV-[A-Z0-9-]+, \d+ of \d+ rules$")
        self.assertEqual("passed", next(each.outcome for each in report.outcomes if each.rule == "KV-COM-13"))
        self.assertEqual("not conformant", report.verdict)

    def test_a_known_deviation_on_it_is_recorded_and_hides_no_other(self) -> None:
        faults = {"leaves_open": "increment", "note": CREDENTIAL}
        known = {"TT-03": "spans of failed increments stay open until 2.0", "TT-02": "no notes yet"}
        cls = store(provider=instrumented(MemoryKVStore, **faults), known_deviations=known)
        [report] = omnitck.certify(cls, isolate=False).suites
        found = {each.rule: each.outcome for each in report.outcomes}
        self.assertEqual("known deviation", found["TT-03"])
        self.assertEqual("failed", found["TT-04"])
        self.assertEqual("not conformant", report.verdict)
        alone = store(provider=instrumented(MemoryKVStore, leaves_open="increment"), known_deviations={"TT-03": "until 2.0"})
        self.assertTrue(run(alone)[0].wasSuccessful())
        [report] = omnitck.certify(alone, isolate=False).suites
        self.assertEqual(("conformant", ()), (report.verdict, report.claims and report.claims.policies))
        self.assertEqual("known deviation", next(each.outcome for each in report.outcomes if each.rule == "TT-03"))

    def test_without_its_hook_it_watches_nothing(self) -> None:
        _, stream = run(store(credentials=()))
        self.assertEqual({}, audits(stream, "TT-04"))
        [report] = omnitck.certify(store(credentials=()), isolate=False).suites
        [outcome] = [each for each in report.outcomes if each.rule == "TT-04"]
        self.assertEqual(
            ("conformant", "not provoked", "not provoked: the suite has no credentials"),
            (report.verdict, outcome.outcome, outcome.message),
        )

    def test_it_stands_in_the_catalogue(self) -> None:
        entries = {each.id: each for each in plan_of(store()).audits}
        self.assertEqual({"TT-03", "TT-04"}, set(entries))
        self.assertEqual("No span shows a credential.", entries["TT-04"].rule.statement)

    def test_an_unknown_one_is_no_known_deviation(self) -> None:
        self.assertIn(
            "unknown rule 'TT-05'", refusal(Recording, KVStoreReference, TelemetryPolicy, known_deviations={"TT-05": "x"})
        )

    def test_one_that_watches_something_process_wide_makes_every_rule_run_alone(self) -> None:
        at_once, most = 0, 0
        lock = threading.Lock()

        class Watching(Policy):
            definition = Definition(name="toy_watching", prefix="TW")

            @audit("TW-01", exclusive=True)
            async def audit_tw_01_nothing_else_runs(self, t: Any) -> None:
                """Nothing else runs in this process."""

        class Store:
            def __init__(self) -> None:
                self._data: dict[str, str] = {}

            async def get(self, key: str) -> str | None:
                nonlocal at_once, most
                with lock:
                    at_once += 1
                    most = max(most, at_once)
                value = self._data.get(key)
                with lock:
                    at_once -= 1
                return value

            async def set(self, key: str, value: str) -> None:
                self._data[key] = value

            async def delete(self, key: str) -> None:
                self._data.pop(key, None)

        async def make_provider(self: object, **config: Any) -> Store:
            return Store()

        cls = suite(KVStoreContract, Watching, make_provider=make_provider)
        self.assertTrue(plan_of(cls).alone)
        result = unittest.TestResult()
        omnitck.ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(cls), jobs=8).run(result)
        self.assertTrue(result.wasSuccessful(), result.failures)
        self.assertEqual(1, most)


class TestComposition(unittest.TestCase):
    def test_by_name_and_by_class_at_run_time(self) -> None:
        async def make_provider(*, tenant_id: str | None = None, **config: Any) -> Any:
            raise NotImplementedError

        async def telemetry() -> Telemetry:
            return Telemetry()

        cls = omnitck.compose(
            "consumer",
            TelemetryPolicy,
            "multi_tenancy",
            make_provider=make_provider,
            telemetry=telemetry,
            capabilities={"notes", "stopping"},
        )
        plan = plan_of(cls)
        self.assertIs(ConsumerContract, plan.contract)
        self.assertEqual({"notes", "stopping"}, set(plan.declared))
        self.assertIn("telemetry", plan.supplied)
