"""The laws by which the kit proves itself, and that it notices when one is broken."""

import os
import unittest
from typing import Any, Protocol
from unittest import mock

from omnitck.defects import Defect
from omnitck.kit.checks import catalogue
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.outcomes import Outcome
from omnitck.kit.rules import audit, rule
from omnitck.kit.trial import Trial
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.selftest import laws
from omnitck.selftest.laws import SelftestReport
from omnitck.selftest.reference import CREDENTIAL
from omnitck.unusual import Unusual, unusual_of


class TestLaws(unittest.TestCase):
    def test_they_hold(self) -> None:
        told: list[str] = []
        report = laws.selftest(progress=told.append)
        rules = sum(len(catalogue(laws.reference_suite(each))) for each in laws.proven())
        self.assertEqual(report.defects_not_caught + report.reference_failures + report.unusual_rejected, [])
        counted = SelftestReport(rules=rules, defects=report.defects, caught=report.defects, unusual=report.unusual)
        self.assertEqual(report, counted)
        self.assertTrue(report.ok)
        self.assertGreaterEqual(report.defects, report.rules)
        self.assertEqual([each for each in told if not each.endswith(": ok")], [])

    def test_each_contract_has_correct_providers_of_an_unusual_kind(self) -> None:
        for contract in laws.proven():
            kinds = unusual_of(contract)
            self.assertGreaterEqual(len(kinds), 3, contract)
            self.assertIn("Plainest", [each.name for each in kinds])
            self.assertEqual([each.name for each in kinds if not each.story], [])


class Toy:
    """The reference of a contract of two rules."""

    async def ring(self) -> str:
        return "ring"

    async def shine(self) -> str:
        return "shine"


class ToyContract(Contract):
    definition = Definition(name="toy", prefix="TOY", protocols={"light": Protocol})

    @rule("TOY-01")
    async def test_toy_01_it_rings(self, t: Trial[Any]) -> None:
        """A toy rings."""
        t.same(await (await t.connect()).ring(), "ring", given="ring()")

    @rule("TOY-02", "light")
    async def test_toy_02_it_shines(self, t: Trial[Any]) -> None:
        """A toy shines."""
        t.same(await (await t.connect()).shine(), "shine", given="shine()")


class ToySuite(ToyContract):
    capabilities = frozenset({"light"})
    provider: type[Toy] = Toy

    async def make_provider(self, **config: Any) -> Toy:
        return self.provider()


class Mute(Toy):
    async def ring(self) -> str:
        return "nothing"


class Dark(Toy):
    async def shine(self) -> str:
        return "nothing"


class Stillborn(Toy):
    def __init__(self) -> None:
        raise OSError("no battery")


class Tattling(Toy):
    async def ring(self) -> str:
        return CREDENTIAL


def defect(provider: type, *rules: str, without: str = "") -> Defect:
    return Defect(provider.__name__, "toy", "", provider, frozenset(rules), frozenset(without.split()))


def report(
    *defects: Defect,
    suite: type[Contract] = ToySuite,
    policies: tuple[type[Contract], ...] = (),
    unusual: tuple[Unusual, ...] = (),
) -> SelftestReport:
    """What the selftest says of a kit whose only contract is that of *suite*."""
    with (
        mock.patch.object(laws, "proven", return_value=("toy",)),
        mock.patch.object(laws, "suite_of", return_value=suite),
        mock.patch.object(laws, "policies", return_value=policies),
        mock.patch.object(laws, "defects_of", return_value=list(defects)),
        mock.patch.object(laws, "unusual_of", return_value=list(unusual)),
    ):
        return laws.selftest(jobs=1)


class TestBrokenLaws(unittest.TestCase):
    def test_none_is_broken_by_a_good_kit(self) -> None:
        found = report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02"))
        self.assertEqual((found, found.ok), (SelftestReport(rules=2, defects=2, caught=2), True))

    def test_a_rule_without_a_defect(self) -> None:
        found = report(defect(Mute, "TOY-01"))
        expected = SelftestReport(rules=2, defects=1, caught=1, rules_without_defect=["TOY-02"])
        self.assertEqual((found, found.ok), (expected, False))

    def test_a_defect_that_passes_a_rule_that_it_names(self) -> None:
        found = report(defect(Mute, "TOY-01", "TOY-02"))
        expected = SelftestReport(rules=2, defects=1, caught=0, defects_not_caught=["Mute passed TOY-02"])
        self.assertEqual((found, found.ok), (expected, False))

    def test_a_defect_that_fails_a_rule_that_it_does_not_name(self) -> None:
        found = report(defect(Mute, "TOY-01"), defect(Mute, "TOY-02"))
        missed, also = found.defects_not_caught
        self.assertEqual(missed, "Mute passed TOY-02")
        self.assertRegex(also, "(?s)^Mute also failed TOY-01: .*expected.*observed")
        self.assertEqual((found.caught, found.ok), (1, False))

    def test_a_defect_whose_rule_is_not_declared(self) -> None:
        found = report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02", without="light"))
        self.assertEqual(found.defects_not_caught, ["Dark passed TOY-02"])

    def test_a_correct_provider_that_is_rejected(self) -> None:
        plain = type("Plain", (ToySuite,), {"capabilities": frozenset()})
        mute = type("Mumbling", (ToySuite,), {"provider": Mute})
        kinds = Unusual("Plain", "toy", "", plain), Unusual("Mumbling", "toy", "", mute)
        found = report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02"), unusual=kinds)
        self.assertEqual((found.unusual, found.caught, found.ok), (2, 2, False))
        self.assertEqual(len(found.unusual_rejected), 2)
        for told, jobs in zip(found.unusual_rejected, (1, laws.MANY_AT_A_TIME), strict=True):
            self.assertRegex(told, f"(?s)^toy Mumbling with jobs={jobs}: TOY-01 failed: .*expected  'ring'")

    def test_a_defect_that_ends_in_an_error(self) -> None:
        error = "TOY-01 could not be judged: HookError: make_provider raised OSError: no battery"
        found = report(defect(Stillborn, "TOY-01"), defect(Dark, "TOY-02"))
        self.assertEqual(
            found.defects_not_caught,
            [
                "Stillborn passed TOY-01",
                f"Stillborn ended TOY-01 with an error: {error}",
                f"Stillborn ended TOY-02 with an error: {error.replace('-01', '-02')}",
            ],
        )

    def test_a_failure_that_shows_a_credential(self) -> None:
        found = report(defect(Tattling, "TOY-01"), defect(Dark, "TOY-02"))
        self.assertEqual(found.defects_not_caught, ["Tattling failed TOY-01 with a text that shows a credential"])

    def test_a_failure_that_says_too_little(self) -> None:
        with mock.patch.object(laws, "_outcomes", _saying_little):
            found = report(defect(Mute, "TOY-01", "TOY-02"))
        self.assertIn("Mute failed TOY-01 with a text that lacks expected, observed", found.defects_not_caught)

    def test_a_reference_that_fails(self) -> None:
        class Broken(ToySuite):
            provider = Dark

        found = report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02"), suite=Broken)
        [failure] = found.reference_failures
        self.assertTrue(failure.startswith("toy: TOY-02 failed: TOY-02 [light] A toy shines.\n"), failure)
        self.assertFalse(found.ok)

    def test_a_rule_that_fails_without_a_capability_that_it_does_not_need(self) -> None:
        class UndeclaringContract(Contract):
            definition = Definition(name="toy", prefix="TOY", protocols={"light": Protocol})

            @rule("TOY-03")
            async def test_toy_03_it_shines_anyway(self, t: Trial[Any]) -> None:
                """A toy without a light shines."""
                t.check("light" in t.declared, given="it", expected="a light", observed="none")

            @rule("TOY-04", "light")
            async def test_toy_04_it_shines(self, t: Trial[Any]) -> None:
                """A toy with a light shines."""
                t.same(await (await t.connect()).shine(), "shine", given="shine()")

        class Undeclaring(UndeclaringContract):
            capabilities = frozenset({"light"})

            async def make_provider(self, **config: Any) -> Toy:
                return Toy()

        found = report(suite=Undeclaring)
        self.assertEqual(
            [each.partition("\n")[0] for each in found.reference_failures],
            ["toy without light: TOY-03 is failed, not passed: TOY-03 [MUST] A toy without a light shines."],
        )

    def test_a_kit_without_rules(self) -> None:
        self.assertFalse(SelftestReport().ok)


class CalmPolicy(Policy):
    definition = Definition(name="calm", prefix="CA")

    @audit("CA-01")
    async def audit_ca_01_it_is_quiet_afterwards(self, t: Trial[Any]) -> None:
        """A toy is quiet afterwards."""
        toy: Any = t.session.first_provider()
        t.check(not toy.wound, given="the toy", expected="quiet", observed="it rings on")


class Calm(Toy):
    wound = False


class CalmMute(Mute, Calm):
    pass


class CalmDark(Dark, Calm):
    pass


class Ringing(Calm):
    """It rings on, once it has rung; not once it has shone."""

    async def ring(self) -> str:
        self.wound = True
        return "ring"


class CalmSuite(ToySuite):
    provider = Calm


class TestAudits(unittest.TestCase):
    """An audit is proven as a rule is."""

    def report(self, *defects: Defect) -> SelftestReport:
        return report(*defects, suite=CalmSuite, policies=(CalmPolicy,))

    def test_the_defect_that_it_rejects_fails_it_alone(self) -> None:
        found = self.report(defect(CalmMute, "TOY-01"), defect(CalmDark, "TOY-02"), defect(Ringing, "CA-01"))
        self.assertEqual((found, found.ok), (SelftestReport(rules=3, defects=3, caught=3), True))

    def test_a_defect_that_fails_it_without_naming_it(self) -> None:
        with mock.patch.object(laws, "POLICIES_ARE_PROVEN_ON", "toy"):
            found = self.report(defect(Ringing, "TOY-01"))
        missed, also = found.defects_not_caught
        self.assertEqual(missed, "Ringing passed TOY-01")
        self.assertRegex(also, "(?s)^Ringing also failed CA-01: CA-01 .*first during TOY-01, 1 of 2 rules$")

    def test_one_without_a_defect(self) -> None:
        self.assertIn("CA-01", self.report().rules_without_defect)


class TestSuites(unittest.TestCase):
    """What a reference is composed with."""

    def test_every_policy_that_has_a_subject(self) -> None:
        self.assertEqual(plan_of(laws.reference_suite("kv_store")).policies, laws.policies())

    def test_no_policy_that_has_none(self) -> None:
        with mock.patch.object(laws, "suite_of", return_value=ToySuite):
            self.assertEqual(plan_of(laws.reference_suite("toy")).policies, ())

    def test_a_defect_meets_the_policies_that_it_names(self) -> None:
        """And every policy, under the contract on which policies are proven."""
        self.assertEqual(laws._concerned(defect(Mute, "TOY-01")), [])
        self.assertEqual(laws._concerned(defect(Mute, "TOY-01", "MT-02")), [MultiTenancyPolicy])
        with mock.patch.object(laws, "POLICIES_ARE_PROVEN_ON", "toy"):
            self.assertEqual(laws._concerned(defect(Mute, "TOY-01")), list(laws.policies()))


class TestSeed(unittest.TestCase):
    def test_a_defect_meets_the_seed_with_which_its_rules_were_chosen(self) -> None:
        seen: list[object] = []

        class Seeded(Toy):
            async def ring(self) -> str:
                seen.append(os.environ.get("OMNITCK_SEED"))
                return "nothing"

        with mock.patch.dict(os.environ, OMNITCK_SEED="7"):
            report(defect(Seeded, "TOY-01"))
            self.assertEqual((seen, os.environ["OMNITCK_SEED"]), (["0"], "7"))


_whole_outcomes = laws._outcomes


def _saying_little(suite: Any) -> dict[str, Outcome]:
    outcomes = _whole_outcomes(suite)
    return {id: Outcome(each.suite, id, each.outcome, 0.0, id) for id, each in outcomes.items()}
