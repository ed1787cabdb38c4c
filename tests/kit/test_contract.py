"""Suites: what they declare, and what they come to."""

import asyncio
import functools
import inspect
import pickle
import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from omnitck.kit.checks import DECLARATIONS, HOOKS
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.text import UsageError
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


class TestBases(unittest.TestCase):
    """What a suite's base class may be."""

    def on(self, *bases: type, **members: Any) -> type[Any]:
        return type("Suite", bases, {"make_provider": hook_of(Open()), "__module__": "mine", **members})

    def test_the_rules_run_on_any_testcase(self) -> None:
        class Own(unittest.TestCase):
            pass

        class Legacy(unittest.IsolatedAsyncioTestCase):
            pass

        for base in (unittest.TestCase, Own, unittest.IsolatedAsyncioTestCase, Legacy):
            with self.subTest(base.__name__):
                outcome, result = outcome_of(self.on(BoxContract, base), "test_box_01_it_opens")
                self.assertEqual((outcome.outcome, result.wasSuccessful(), result.testsRun), ("passed", True, 1))
                outcome, result = outcome_of(self.on(BoxContract, base, make_provider=hook_of(object())), "test_box_01_it_opens")
                self.assertEqual((outcome.outcome, len(result.failures)), ("failed", 1))

    def test_fixtures_of_the_author_live_on_the_loop_of_the_rules(self) -> None:
        seen: list[object] = []

        async def note(self: Any, **config: Any) -> object:
            seen.append(asyncio.get_running_loop())
            return Open()

        base = unittest.IsolatedAsyncioTestCase
        outcome_of(self.on(BoxContract, base, asyncSetUp=note, make_provider=note), "test_box_01_it_opens")
        self.assertEqual((len(seen), len(set(seen))), (2, 1))

    def test_a_rule_without_a_subject_is_no_test_in_the_eyes_of_any_runner(self) -> None:
        """Some call whatever begins with `test`, some look for functions among the attributes of every base."""
        suite = self.on(CrateContract, unittest.IsolatedAsyncioTestCase)
        names = [each for each in dir(suite) if each.startswith("test") and callable(getattr(suite, each))]
        self.assertEqual(names, list(unittest.defaultTestLoader.getTestCaseNames(suite)))
        functions = {name for base in suite.__mro__ for name, each in vars(base).items() if inspect.isfunction(each)}
        self.assertEqual({each for each in functions if each.startswith("test")}, set(names))
        self.assertNotIn("test_com_90_it_is_shared", names)

    def test_a_test_can_be_sent_to_another_process(self) -> None:
        test = Importable("test_box_01_it_opens")
        again = pickle.loads(pickle.dumps(test))
        self.assertEqual((again.id(), type(again)), (test.id(), Importable))
        result = unittest.TestResult()
        again.run(result)
        self.assertEqual((result.testsRun, result.wasSuccessful()), (1, True))


class TestFactories(unittest.TestCase):
    def test_one_that_is_a_context_manager(self) -> None:
        """As a decorated function, on the class or not, and as one that is partly filled in."""
        log: list[str] = []

        @asynccontextmanager
        async def make(self: Any, **config: Any) -> AsyncIterator[object]:
            log.append("opened")
            yield Open()
            log.append("closed")

        static = staticmethod(functools.partial(make, None))
        for factory in (make, static):
            outcome, _ = outcome_of(suite_of(BoxContract, make_provider=factory), "test_box_01_it_opens")
            self.assertEqual(outcome.outcome, "passed", outcome.message)
        self.assertEqual(log, ["opened", "closed"] * 2)

    def test_one_that_is_neither(self) -> None:
        def make(self: Any, **config: Any) -> object:
            return Open()

        with self.assertRaisesRegex(UsageError, r"^Suite\.make_provider is no coroutine function: write it with `async def`\.$"):
            suite_of(BoxContract, make_provider=make)


class Open:
    """A box."""

    async def open(self) -> None: ...


def hook_of(provider: object) -> Any:
    """A factory that returns *provider*."""

    async def make_provider(self: Any, **config: Any) -> object:
        return provider

    return make_provider


class Importable(BoxContract, unittest.IsolatedAsyncioTestCase):
    """A suite that another process can import."""

    make_provider = hook_of(Open())
