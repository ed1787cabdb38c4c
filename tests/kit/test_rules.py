"""Rules: what is read off a method, and what a contract makes of it."""

import inspect
import subprocess
import sys
import unittest
from typing import Any

from omnitck.common.cells import Cells
from omnitck.kit.checks import catalogue
from omnitck.kit.contract import Contract, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.rules import audit, needs, needs_of, optional, rule, supplies
from omnitck.kit.trial import Trial
from tests.helpers import suite_of
from tests.kit.toys import BoxContract, CrateContract, LidPolicy


class TestRules(unittest.TestCase):
    def test_the_docstring_is_the_rule(self) -> None:
        found = [(each.rule.id, each.rule.statement, each.rule.rationale) for each in catalogue(BoxContract)]
        self.assertEqual(
            found,
            [
                ("BOX-01", "A box opens.", "Catches a solid block."),
                ("BOX-02", "A box with a lid shuts.", ""),
                ("COM-90", "A rule of a shared family.", ""),
            ],
        )

    def test_what_is_said_of_a_rule_is_kept(self) -> None:
        @rule("X-01", "ttl", "watch", uses="names create", hook="cut", exclusive=True, deadline=3.0)
        async def test_x_01(self: Any, t: Trial[Any]) -> None:
            """It is."""

        said = test_x_01.rule  # type: ignore[attr-defined]
        self.assertEqual((said.id, said.method, said.needs), ("X-01", "test_x_01", {"ttl", "watch"}))
        self.assertEqual((said.uses, said.hook, said.exclusive, said.deadline), ({"names", "create"}, "cut", True, 3.0))
        self.assertFalse(said.ambient)

    def test_without_docstrings_there_is_no_rule(self) -> None:
        """Interpreters that strip them are refused where a contract is imported, not for an empty sentence."""
        code = (
            "from omnitck import UsageError\n"
            "try:\n"
            "    import omnitck.primitives.kv_store\n"
            "except UsageError as refusal:\n"
            "    print(refusal)\n"
        )
        done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
        self.assertEqual(
            (done.returncode, done.stderr, done.stdout),
            (
                0,
                "",
                "Python was started with -OO or PYTHONOPTIMIZE=2, which strips docstrings, and with them the sentences of the "
                "rules: start it without.\n",
            ),
        )

    def test_an_audit_is_called_with_the_trial_and_is_no_test(self) -> None:
        @audit("X-01", "ttl", exclusive=True)
        async def audit_x_01(self: Any, t: Trial[Any]) -> None:
            """It is."""

        said = audit_x_01.rule  # type: ignore[attr-defined]
        self.assertEqual((said.id, said.method, said.needs), ("X-01", "audit_x_01", {"ttl"}))
        self.assertTrue(said.exclusive and said.ambient)
        self.assertEqual(list(inspect.signature(audit_x_01).parameters), ["self", "t"])

    def test_a_runner_finds_a_test_without_arguments(self) -> None:
        test = suite_of(BoxContract).test_box_01_it_opens
        self.assertTrue(inspect.iscoroutinefunction(test))
        self.assertEqual(list(inspect.signature(test).parameters), ["self"])
        self.assertEqual(inspect.getdoc(test), "A box opens.\n\nCatches a solid block.")


class TestEntries(unittest.TestCase):
    """A rule as a contract or a suite has it."""

    def test_a_shared_rule_takes_the_prefix_of_its_contract(self) -> None:
        self.assertEqual([each.id for each in catalogue(BoxContract)], ["BOX-01", "BOX-02", "BOX-COM-90"])
        self.assertEqual([each.rule.id for each in catalogue(BoxContract)], ["BOX-01", "BOX-02", "COM-90"])

    def test_the_level_names_the_capabilities_that_bring_the_rule(self) -> None:
        self.assertEqual([each.level for each in catalogue(BoxContract)], ["MUST", "lid", "lid + lock"])

    def test_the_owner_is_who_brings_the_rule(self) -> None:
        owners = [each.owner for each in catalogue(suite_of(BoxContract, LidPolicy))]
        self.assertEqual(owners, [BoxContract, BoxContract, BoxContract, LidPolicy])

    def test_audits_come_after_the_rules(self) -> None:
        class WatchedContract(Contract):
            definition = Definition(name="watched", prefix="WA")

            @audit("WA-01")
            async def audit_wa_01(self, t: Trial[Any]) -> None:
                """Nothing leaks."""

            @rule("WA-02")
            async def test_wa_02(self, t: Trial[Any]) -> None:
                """It is there."""

        self.assertEqual([each.id for each in catalogue(WatchedContract)], ["WA-02", "WA-01"])
        plan = plan_of(suite_of(WatchedContract))
        self.assertEqual(([each.id for each in plan.rules], [each.id for each in plan.audits]), (["WA-02"], ["WA-01"]))


class TestSubjects(unittest.TestCase):
    """Which shared rules a contract's suites have: those whose verbs its cells supply."""

    def names_in(self, suite: type[unittest.TestCase]) -> list[str]:
        return list(unittest.defaultTestLoader.getTestCaseNames(suite))

    def test_a_shared_rule_without_a_subject_is_no_rule_of_the_contract(self) -> None:
        self.assertEqual([each.id for each in catalogue(CrateContract)], ["CR-01", "CR-02", "CR-03", "CR-04", "CR-05"])
        self.assertNotIn("test_com_90_it_is_shared", self.names_in(suite_of(CrateContract)))
        self.assertIn("test_com_90_it_is_shared", self.names_in(suite_of(BoxContract)))

    def test_a_rule_of_a_policy_needs_what_the_verb_takes(self) -> None:
        self.assertEqual([(each.id, each.level) for each in catalogue(LidPolicy)], [("LID-01", "MUST")])
        suite = suite_of(BoxContract, LidPolicy)
        self.assertIn("test_lid_01_it_fits", self.names_in(suite))
        self.assertEqual(catalogue(suite)[-1].level, "lock")


class TestVerbs(unittest.TestCase):
    """What cells supply."""

    class Own(Cells[Any]):
        lacks = frozenset({"probes"})

        @needs("ttl", "watch")
        async def names(self, provider: Any, prefix: str) -> list[str]:
            return []

        @optional
        async def polish(self, provider: Any) -> None: ...

    def test_those_of_every_contract(self) -> None:
        self.assertTrue(supplies(Cells(), "write") and supplies(Cells, "read"))

    def test_an_optional_one_only_where_it_is_overridden(self) -> None:
        self.assertEqual(
            (supplies(Cells(), "names"), supplies(self.Own(), "names"), supplies(self.Own, "names")), (False, True, True)
        )
        self.assertFalse(supplies(self.Own(), "polish"))

    def test_none_that_the_cells_lack_or_do_not_know(self) -> None:
        self.assertEqual([supplies(self.Own(), each) for each in ("probes", "polisch")], [False, False])
        self.assertFalse(supplies(None, "write"))

    def test_what_a_verb_takes(self) -> None:
        self.assertEqual((needs_of(self.Own(), "names"), needs_of(self.Own(), "write")), ({"ttl", "watch"}, frozenset()))
