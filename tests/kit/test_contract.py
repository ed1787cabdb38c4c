"""Suites: what they declare, and what they come to."""

import unittest
from typing import Any

from omnitck.kit.checks import DECLARATIONS, HOOKS
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.trial import Trial
from tests.helpers import outcome_of, suite_of
from tests.kit.toys import BoxContract, CrateContract, LidPolicy, OwnerPolicy


async def hook(self: Any, *arguments: object) -> str:
    """A hook of a suite, whichever."""
    return "inherited"


class TestDeclarations(unittest.TestCase):
    def test_the_profile_adds_its_capabilities(self) -> None:
        suite = suite_of(CrateContract, profile="production", capabilities={"lid"}, unreachable_provider=hook)
        self.assertEqual(suite.declared, {"lid", "wheels", "availability"})
        self.assertEqual(suite_of(CrateContract, profile="core").declared, frozenset())

    def test_the_profile_adds_what_the_contract_demands(self) -> None:
        suite = suite_of(CrateContract, profile="production", unreachable_provider=hook)
        self.assertIn("wheels", suite.declared)
        self.assertNotIn("lid", suite.declared)

    def test_the_profile_adds_what_a_policy_demands(self) -> None:
        self.assertEqual(suite_of(BoxContract, OwnerPolicy, profile="production").declared, {"heirs"})

    def test_capabilities_are_read_once(self) -> None:
        self.assertEqual(suite_of(BoxContract, capabilities=iter(["lid"])).declared, {"lid"})

    def test_a_capability_of_a_policy_can_be_declared(self) -> None:
        suite = suite_of(BoxContract, OwnerPolicy, capabilities={"lid", "heirs"})
        self.assertEqual(suite.declared, {"lid", "heirs"})

    def test_capabilities_may_be_those_of_a_providers_class(self) -> None:
        """Of one that obeys several contracts, too: those of other contracts are left out."""

        class Chest:
            capabilities = frozenset({"lid", "compare_and_set", "wheels"})

        self.assertEqual(suite_of(BoxContract, capabilities=Chest).declared, {"lid"})
        self.assertEqual(suite_of(CrateContract, capabilities=Chest).declared, {"lid", "wheels"})


class TestPlans(unittest.TestCase):
    """What a suite comes to."""

    def test_contract_and_policies_are_found(self) -> None:
        plan = plan_of(suite_of(BoxContract, OwnerPolicy, LidPolicy))
        self.assertEqual((plan.contract, plan.policies), (BoxContract, (OwnerPolicy, LidPolicy)))
        self.assertIs(plan.definition, BoxContract.definition)

    def test_hooks_data_and_protocols_are_those_of_the_contract_and_its_policies(self) -> None:
        plan = plan_of(suite_of(CrateContract, OwnerPolicy))
        self.assertEqual(plan.hooks, (*HOOKS, "nail", "inherit"))
        self.assertEqual(plan.data, (*DECLARATIONS, "label", "family"))
        self.assertEqual(set(plan.protocols), {"", "lid", "wheels", "heirs"})

    def test_the_hooks_that_the_suite_supplies(self) -> None:
        plan = plan_of(suite_of(CrateContract, OwnerPolicy, inherit=hook, advance=hook))
        self.assertEqual(plan.supplied, {"make_provider", "inherit", "advance"})

    def test_the_words_are_those_of_the_contract_and_its_policies(self) -> None:
        class Loud(Trial[Any]):
            pass

        class Quiet(Trial[Any]):
            pass

        class LoudContract(Contract):
            definition = Definition(name="loud", prefix="LO")
            trial = Loud

        class QuietPolicy(Policy):
            definition = Definition(name="quiet", prefix="QU")
            trial = Quiet

            @rule("QU-01")
            async def test_qu_01(self, t: Trial[Any]) -> None:
                """It has both."""
                t.check(isinstance(t, Loud) and isinstance(t, Quiet), given="t", expected="both", observed=type(t).__mro__)

        self.assertEqual(outcome_of(suite_of(LoudContract, QuietPolicy))[0].outcome, "passed")
        self.assertIs(plan_of(suite_of(LoudContract)).trial, Loud)


class TestHooks(unittest.TestCase):
    def outcome(self, method: str, **members: Any) -> str:
        suite = suite_of(CrateContract, OwnerPolicy, capabilities={"heirs"}, **members)
        return outcome_of(suite, method)[0].outcome.value

    def test_a_hook_of_the_contract_provokes_its_rule(self) -> None:
        self.assertEqual(self.outcome("test_cr_01_it_is_nailed"), "not provoked")
        self.assertEqual(self.outcome("test_cr_01_it_is_nailed", nail=hook), "passed")

    def test_a_declaration_of_the_contract_provokes_its_rule(self) -> None:
        self.assertEqual(self.outcome("test_cr_03_it_is_labelled"), "not provoked")
        self.assertEqual(self.outcome("test_cr_03_it_is_labelled", label="fragile"), "passed")

    def test_a_hook_of_a_policy_provokes_its_rule(self) -> None:
        self.assertEqual(self.outcome("test_own_02_it_can_be_inherited"), "not provoked")
        self.assertEqual(self.outcome("test_own_02_it_can_be_inherited", inherit=hook), "passed")

    def test_a_declaration_of_a_policy_provokes_its_rule(self) -> None:
        self.assertEqual(self.outcome("test_own_03_it_stays_in_the_family"), "not provoked")
        self.assertEqual(self.outcome("test_own_03_it_stays_in_the_family", family=("Ann",)), "passed")
