"""The laws by which the kit proves itself, and that it notices when one is broken."""

import os
import unittest
from typing import Any, ClassVar, Protocol
from unittest import mock

from omnitck import selftest
from omnitck.defects import Defect
from omnitck.kit.contract import Contract, rule, rules_of
from omnitck.selftest import CREDENTIAL, SelftestReport


class TestLaws(unittest.TestCase):
    def test_they_hold(self) -> None:
        told: list[str] = []
        report = selftest.selftest(jobs=os.cpu_count() or 1, progress=told.append)
        rules = sum(len(rules_of(selftest.reference_suite(each))) for each in selftest.REFERENCES)
        self.assertEqual(report.defects_not_caught + report.reference_failures, [])
        self.assertEqual(report, SelftestReport(rules=rules, defects=report.defects, caught=report.defects))
        self.assertTrue(report.ok)
        self.assertGreaterEqual(report.defects, report.rules)
        self.assertEqual([each for each in told if not each.endswith(": ok")], [])


class Toy:
    """The reference of a contract of two rules."""

    async def ring(self) -> str:
        return "ring"

    async def shine(self) -> str:
        return "shine"


class ToyContract(Contract):
    name = "toy"
    prefix = "TOY"
    protocols: ClassVar = {"light": Protocol}

    @rule("TOY-01")
    async def test_toy_01_it_rings(self) -> None:
        """A toy rings."""
        self.same(await (await self.connect()).ring(), "ring", given="ring()")

    @rule("TOY-02", "light")
    async def test_toy_02_it_shines(self) -> None:
        """A toy shines."""
        self.same(await (await self.connect()).shine(), "shine", given="shine()")


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


class TestBrokenLaws(unittest.TestCase):
    def report(self, *defects: Defect, suite: type[Contract] = ToySuite) -> SelftestReport:
        references = {"toy": suite}
        with (
            mock.patch.object(selftest, "REFERENCES", references),
            mock.patch.object(selftest, "defects_of", return_value=list(defects)),
        ):
            return selftest.selftest(jobs=1)

    def test_none_is_broken_by_a_good_kit(self) -> None:
        report = self.report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02"))
        self.assertEqual((report, report.ok), (SelftestReport(rules=2, defects=2, caught=2), True))

    def test_a_rule_without_a_defect(self) -> None:
        report = self.report(defect(Mute, "TOY-01"))
        expected = SelftestReport(rules=2, defects=1, caught=1, rules_without_defect=["TOY-02"])
        self.assertEqual((report, report.ok), (expected, False))

    def test_a_defect_that_passes_a_rule_that_it_names(self) -> None:
        report = self.report(defect(Mute, "TOY-01", "TOY-02"))
        expected = SelftestReport(rules=2, defects=1, caught=0, defects_not_caught=["Mute passed TOY-02"])
        self.assertEqual((report, report.ok), (expected, False))

    def test_a_defect_that_fails_a_rule_that_it_does_not_name(self) -> None:
        report = self.report(defect(Mute, "TOY-01"), defect(Mute, "TOY-02"))
        missed, also = report.defects_not_caught
        self.assertEqual(missed, "Mute passed TOY-02")
        self.assertRegex(also, "(?s)^Mute also failed TOY-01: .*expected.*observed")
        self.assertEqual((report.caught, report.ok), (1, False))

    def test_a_defect_whose_rule_is_not_declared(self) -> None:
        report = self.report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02", without="light"))
        self.assertEqual(report.defects_not_caught, ["Dark passed TOY-02"])

    def test_a_defect_that_ends_in_an_error(self) -> None:
        error = "TOY-01 could not be judged: HookError: make_provider raised OSError: no battery"
        report = self.report(defect(Stillborn, "TOY-01"), defect(Dark, "TOY-02"))
        self.assertEqual(
            report.defects_not_caught,
            [
                "Stillborn passed TOY-01",
                f"Stillborn ended TOY-01 with an error: {error}",
                f"Stillborn ended TOY-02 with an error: {error.replace('-01', '-02')}",
            ],
        )

    def test_a_failure_that_shows_a_credential(self) -> None:
        report = self.report(defect(Tattling, "TOY-01"), defect(Dark, "TOY-02"))
        self.assertEqual(report.defects_not_caught, ["Tattling failed TOY-01 with a text that shows a credential"])

    def test_a_failure_that_says_too_little(self) -> None:
        with mock.patch.object(selftest, "_outcomes", _saying_little):
            report = self.report(defect(Mute, "TOY-01", "TOY-02"))
        self.assertIn("Mute failed TOY-01 with a text that lacks expected, observed", report.defects_not_caught)

    def test_a_reference_that_fails(self) -> None:
        class Broken(ToySuite):
            provider = Dark

        report = self.report(defect(Mute, "TOY-01"), defect(Dark, "TOY-02"), suite=Broken)
        [failure] = report.reference_failures
        self.assertTrue(failure.startswith("toy: TOY-02 failed: TOY-02 [light] A toy shines.\n"), failure)
        self.assertFalse(report.ok)

    def test_a_rule_that_passes_without_its_capability(self) -> None:
        class Undeclaring(ToySuite):
            extra_needs = {"TOY-01": frozenset({"light"})}

            @rule("TOY-03")
            async def test_toy_03_it_shines_anyway(self) -> None:
                """A toy without a light shines."""
                self.check("light" in self.declared, given="it", expected="a light", observed="none")

        report = self.report(suite=Undeclaring)
        self.assertEqual([each.partition("\n")[0] for each in report.reference_failures], _SHINING)

    def test_a_kit_without_rules(self) -> None:
        self.assertFalse(SelftestReport().ok)


_SHINING = ["toy without light: TOY-03 is failed, not passed: TOY-03 [MUST] A toy without a light shines."]

_whole_outcomes = selftest._outcomes


def _saying_little(suite: Any) -> Any:
    outcomes = _whole_outcomes(suite)
    return {id: type(each)(each.suite, id, each.outcome, 0.0, id) for id, each in outcomes.items()}
