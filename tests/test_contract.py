"""Suites: what is refused when a class is created, what is declared, and what is found."""

import unittest
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from omnitck.kit.cells import Cells
from omnitck.kit.concurrency import Attempt
from omnitck.kit.contract import MOST_TRIES, Contract, Policy, audit, rule, rules_of
from omnitck.kit.text import UsageError
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError
from omnitck.shared.models import CacheLimits, Limits
from tests.helpers import outcome_of


class BoxContract(Contract):
    """A contract with hardly anything in it."""

    name = "box"
    prefix = "BOX"
    protocols: ClassVar = dict.fromkeys(("lid", "lock"), Protocol)
    extra_needs: ClassVar = {"COM-90": frozenset({"lock"})}

    @rule("BOX-01")
    async def test_box_01_it_opens(self) -> None:
        """A box opens.

        Catches a solid block.
        """
        await (await self.connect()).open()

    @rule("BOX-02", "lid")
    async def test_box_02_it_shuts(self) -> None:
        """A box with a lid
        shuts.
        """
        await (await self.connect()).shut()

    @rule("COM-90", "lid")
    async def test_com_90_it_is_shared(self) -> None:
        """A rule of a shared family."""
        await self.connect()


class BagContract(Contract):
    name = "bag"
    prefix = "BAG"


class CrateContract(Contract):
    """A contract with declarations, hooks and limits of its own, in which one shared rule has no subject."""

    name = "crate"
    prefix = "CR"
    protocols: ClassVar = dict.fromkeys(("lid", "wheels"), Protocol)
    production = frozenset({"wheels"})
    without_subject = frozenset({"COM-90"})
    hooks = ("nail",)
    data = ("label",)
    limits_type = CacheLimits
    label: ClassVar[str] = ""

    @rule("COM-90", "lid")
    async def test_com_90_it_is_shared(self) -> None:
        """A rule of a shared family."""
        await self.connect()

    @rule("CR-01", hook="nail")
    async def test_cr_01_it_is_nailed(self) -> None:
        """A crate can be nailed."""
        await self.nail()

    async def nail(self) -> None:
        """Nail it."""
        raise NotImplementedError

    @classmethod
    def check_suite(cls) -> None:
        if not isinstance(cls.label, str):
            raise UsageError(f"{cls.__qualname__}.label is no text.")


class LidPolicy(Policy):
    """Speaks of something that not every contract has."""

    name = "lids"
    prefix = "LID"

    @rule("LID-01", "lid")
    async def test_lid_01_it_fits(self) -> None:
        """A lid fits."""
        await self.connect()


class OwnerPolicy(Policy):
    """Asks for a client of one tenant."""

    name = "owner"
    prefix = "OWN"
    config: ClassVar = frozenset({"tenant_id"})

    @rule("OWN-01")
    async def test_own_01_it_belongs_to_somebody(self) -> None:
        """A box belongs to somebody."""
        await self.connect(tenant_id="a")


class TidyPolicy(Policy):
    """Looks at the boxes after every rule."""

    name = "tidy"
    prefix = "TID"

    @audit("TID-01")
    async def nothing_stays_open(self, rule: Any) -> None:
        """No box
        stays open.
        """


class Box:
    """Whatever a factory of boxes returns."""


def suite_of(*mixins: type, **members: Any) -> Any:
    async def make_provider(self: Any, **config: Any) -> Box:
        return Box()

    bases = (*(mixins or (BoxContract,)), unittest.IsolatedAsyncioTestCase)
    return type("Suite", bases, {"make_provider": make_provider, "__module__": "mine", "__qualname__": "Suite", **members})


def run(suite: Any) -> None:
    unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(unittest.TestResult())


class TestRefusals(unittest.TestCase):
    def refused(self, sentence: str, *mixins: type, **members: Any) -> None:
        with self.assertRaises(UsageError) as caught:
            suite_of(*mixins, **members)
        self.assertEqual(str(caught.exception), sentence)

    def test_two_contracts(self) -> None:
        self.refused(
            "Suite mixes BoxContract, BagContract: a suite has exactly one contract; make one suite for each.",
            BoxContract,
            BagContract,
        )

    def test_only_policies(self) -> None:
        self.refused("Suite mixes only policies: a suite has exactly one contract; make one suite for each.", OwnerPolicy)

    def test_an_overridden_rule(self) -> None:
        async def test_box_01_it_opens(self: Any) -> None: ...

        self.refused(
            "Suite overrides rule BOX-01 (test_box_01_it_opens): a rule cannot be replaced; "
            'say known_deviations = {"BOX-01": "reason or link"} instead.',
            test_box_01_it_opens=test_box_01_it_opens,
        )

    def test_an_overridden_rule_of_a_policy(self) -> None:
        self.refused(
            "Suite overrides rule OWN-01 (test_own_01_it_belongs_to_somebody): a rule cannot be replaced; "
            'say known_deviations = {"OWN-01": "reason or link"} instead.',
            BoxContract,
            OwnerPolicy,
            test_own_01_it_belongs_to_somebody=lambda self: None,
        )

    def test_a_deleted_rule(self) -> None:
        self.refused(
            "Suite overrides rule BOX-COM-90 (test_com_90_it_is_shared): a rule cannot be replaced; "
            'say known_deviations = {"BOX-COM-90": "reason or link"} instead.',
            test_com_90_it_is_shared=None,
        )

    def test_a_rule_overridden_in_a_suite_of_a_suite(self) -> None:
        with self.assertRaises(UsageError):
            type("Special", (suite_of(),), {"test_box_01_it_opens": None})

    def test_a_misspelt_capability_names_the_near_match(self) -> None:
        self.refused("Suite: unknown capability 'lidd' of box; did you mean lid?", capabilities={"lidd"})

    def test_a_strange_capability_names_all(self) -> None:
        self.refused(
            "Suite: unknown capability 7 of box; known are availability, lid, lifecycle, limits, lock, shared, validation.",
            capabilities=[7],
        )

    def test_capabilities_as_a_text(self) -> None:
        self.refused("Suite.capabilities is 'lid': give a set of names.", capabilities="lid")

    def test_capabilities_as_nothing(self) -> None:
        self.refused("Suite.capabilities is None: give a set of names.", capabilities=None)

    def test_an_unknown_profile(self) -> None:
        self.refused("Suite: unknown profile 'produktion'; did you mean production?", profile="produktion")

    def test_an_unknown_deviation(self) -> None:
        self.refused(
            "Suite.known_deviations: unknown rule 'COM-9'; did you mean BOX-COM-90?", known_deviations={"COM-9": "a bug"}
        )

    def test_a_deviation_without_a_reason(self) -> None:
        for reason in ("", "  ", None):
            self.refused("Suite.known_deviations: BOX-01 needs a reason, or a link to one.", known_deviations={"BOX-01": reason})

    def test_deviations_that_are_no_mapping(self) -> None:
        self.refused("Suite.known_deviations is no mapping of rule ids to reasons.", known_deviations={"BOX-01"})

    def test_a_factory_that_is_no_coroutine_function(self) -> None:
        self.refused("Suite.make_provider is no coroutine function: write it with `async def`.", make_provider=lambda self: Box())

    def test_another_hook_that_is_no_coroutine_function(self) -> None:
        self.refused("Suite.advance is no coroutine function: write it with `async def`.", advance=lambda self, seconds: None)

    def test_availability_without_a_hook(self) -> None:
        self.refused(
            "Suite declares `availability` but has neither hook that can show it: "
            "write `unreachable_provider` or `backend_address`.",
            capabilities={"availability"},
        )

    def test_a_factory_without_what_the_policy_gives_it(self) -> None:
        async def make_provider(self: Any, *, namespace: str) -> Box:
            return Box()

        self.refused(
            "Suite.make_provider takes no tenant_id, which owner gives it: "
            "write `async def make_provider(self, *, tenant_id=None, **config)`.",
            BoxContract,
            OwnerPolicy,
            make_provider=make_provider,
        )

    def test_numbers_that_are_no_time(self) -> None:
        for name in ("patience", "deadline"):
            for value, shown in ((0, "0"), (-1.5, "-1.5"), ("2", "'2'"), (float("nan"), "nan")):
                self.refused(f"Suite.{name} is {shown}: give a number of seconds above 0.", **{name: value})

    def test_patience_is_needed(self) -> None:
        self.refused("Suite.patience is None: give a number of seconds above 0.", patience=None)

    def test_an_unknown_backend(self) -> None:
        self.refused("""Suite.backend is 'curio': use "asyncio" or "trio".""", backend="curio")

    def test_declarations_of_the_wrong_type(self) -> None:
        self.refused(
            "Suite.credentials is no list of strings: give the secrets of the configuration, none of them empty.",
            credentials="secret",
        )
        self.refused("Suite.limits is {'key_bytes': 1}: give an omnitck.shared.models.Limits.", limits={"key_bytes": 1})

    def test_limits_of_another_contract(self) -> None:
        with self.assertRaises(UsageError) as caught:
            suite_of(CrateContract, limits=Limits())
        self.assertIn("give an omnitck.shared.models.CacheLimits.", str(caught.exception))

    def test_a_hook_of_the_contract_that_is_no_coroutine_function(self) -> None:
        self.refused("Suite.nail is no coroutine function: write it with `async def`.", CrateContract, nail=lambda self: None)

    def test_what_the_contract_itself_refuses(self) -> None:
        self.refused("Suite.label is no text.", CrateContract, label=7)


class TestDeclarations(unittest.TestCase):
    def test_the_profile_adds_its_capabilities(self) -> None:
        async def unreachable_provider(self: Any) -> Box:
            return Box()

        suite = suite_of(profile="production", capabilities={"lid"}, unreachable_provider=unreachable_provider)
        self.assertEqual(suite.declared, {"lid", "availability", "lifecycle", "limits", "shared", "validation"})
        self.assertEqual(suite_of(profile="core").declared, frozenset())

    def test_capabilities_are_read_once(self) -> None:
        self.assertEqual(suite_of(capabilities=iter(["lid"])).declared, {"lid"})

    def test_contract_policies_and_audits_are_found(self) -> None:
        suite = suite_of(BoxContract, OwnerPolicy, TidyPolicy)
        self.assertEqual((suite.contract, suite.policies), (BoxContract, (OwnerPolicy, TidyPolicy)))
        self.assertEqual([(each.id, each.statement) for each in suite.audits], [("TID-01", "No box stays open.")])

    def test_the_limits_in_force_are_the_suites_or_else_the_providers_or_the_floors(self) -> None:
        def numbers(limits: Limits | None, provider: Callable[[], object]) -> Limits:
            seen: list[Limits] = []

            async def make_provider(self: Any) -> object:
                return provider()

            class Asking(Contract):
                name = "asking"
                prefix = "ASK"

                @rule("ASK-01")
                async def test_ask_01(self) -> None:
                    """It asks."""
                    await self.connect()
                    seen.append(self.numbers())

            run(suite_of(Asking, make_provider=make_provider, limits=limits))
            return seen[0]

        own = type("Own", (), {"limits": Limits(key_bytes=300)})
        odd = type("Odd", (), {"limits": "none"})
        self.assertEqual(numbers(Limits(key_bytes=400), own), Limits(key_bytes=400))
        self.assertEqual(numbers(None, own), Limits(key_bytes=300))
        self.assertEqual(numbers(None, odd), Limits())


class TestRules(unittest.TestCase):
    def test_the_docstring_is_the_rule(self) -> None:
        found = [(each.id, each.statement, each.rationale) for each in rules_of(BoxContract)]
        self.assertEqual(
            found,
            [
                ("BOX-01", "A box opens.", "Catches a solid block."),
                ("BOX-02", "A box with a lid shuts.", ""),
                ("COM-90", "A rule of a shared family.", ""),
            ],
        )

    def test_a_shared_rule_takes_the_prefix_of_its_contract(self) -> None:
        self.assertEqual([each.id_in("BOX") for each in rules_of(BoxContract)], ["BOX-01", "BOX-02", "BOX-COM-90"])
        self.assertEqual(rules_of(BoxContract)[2].id_in("COM"), "COM-90")

    def test_the_level_names_the_capabilities_that_bring_the_rule(self) -> None:
        self.assertEqual([each.level_in(BoxContract) for each in rules_of(BoxContract)], ["MUST", "lid", "lid + lock"])
        self.assertEqual(rules_of(BoxContract)[2].level_in(BagContract), "lid")


class TestSubjects(unittest.TestCase):
    """Which shared rules a contract's suites have."""

    def names_in(self, suite: type[unittest.TestCase]) -> list[str]:
        return list(unittest.defaultTestLoader.getTestCaseNames(suite))

    def test_a_shared_rule_without_a_subject_is_no_rule_of_the_contract(self) -> None:
        self.assertEqual([each.id_in("CR") for each in rules_of(CrateContract)], ["CR-01"])
        self.assertNotIn("test_com_90_it_is_shared", self.names_in(suite_of(CrateContract)))
        self.assertIn("test_com_90_it_is_shared", self.names_in(suite_of(BoxContract)))

    def test_a_rule_of_a_policy_needs_a_capability_that_the_contract_knows(self) -> None:
        self.assertIn("test_lid_01_it_fits", self.names_in(suite_of(BoxContract, LidPolicy)))
        self.assertEqual(self.names_in(suite_of(BagContract, LidPolicy)), [])
        self.assertEqual([each.id for each in rules_of(LidPolicy)], ["LID-01"])
        self.assertEqual(rules_of(suite_of(BagContract, LidPolicy)), [])

    def test_the_profile_adds_what_the_contract_demands(self) -> None:
        async def unreachable_provider(self: Any) -> Box:
            return Box()

        suite = suite_of(CrateContract, profile="production", unreachable_provider=unreachable_provider)
        self.assertIn("wheels", suite.declared)
        self.assertNotIn("lid", suite.declared)

    def test_a_hook_of_the_contract_provokes_its_rule(self) -> None:
        async def nail(self: Any) -> None: ...

        self.assertEqual(outcome_of(suite_of(CrateContract), "test_cr_01_it_is_nailed")[0].outcome, "not provoked")
        self.assertEqual(outcome_of(suite_of(CrateContract, nail=nail), "test_cr_01_it_is_nailed")[0].outcome, "passed")


class TestWords(unittest.TestCase):
    """The words in which rules are written."""

    def outcome(self, body: Callable[[Any], Any]) -> tuple[str, str]:
        class PickyCells(Cells[Any]):
            def may_refuse(self, name: str) -> bool:
                return name == "odd"

        class Speaking(Contract):
            name = "speaking"
            prefix = "SP"
            cells = PickyCells()

            @rule("SP-01")
            async def test_sp_01(self) -> None:
                """It speaks."""
                await self.connect()
                await body(self)

        outcome, _ = outcome_of(suite_of(Speaking))
        return outcome.outcome.value, outcome.message

    def test_a_name_that_may_be_refused_ends_its_block(self) -> None:
        async def body(suite: Any) -> None:
            with suite.refusable("odd", "plain"):
                raise InvalidArgumentError("odd is not for me")

        self.assertEqual(self.outcome(body), ("passed", ""))

    def test_a_name_that_must_be_taken_may_not_be_refused(self) -> None:
        async def body(suite: Any) -> None:
            with suite.refusable("plain"):
                raise InvalidArgumentError("plain is not for me")

        status, message = self.outcome(body)
        self.assertEqual(status, "failed")
        self.assertIn("InvalidArgumentError: plain is not for me", message)

    def test_a_change_is_tried_until_it_meets_no_conflict(self) -> None:
        tries = []

        async def body(suite: Any) -> None:
            async def change() -> str:
                tries.append(1)
                if len(tries) < 3:
                    raise ConflictError("somebody else was faster")
                return "done"

            suite.same(await suite.retry(change), "done", given="a change")

        self.assertEqual(self.outcome(body), ("passed", ""))
        self.assertEqual(len(tries), 3)

    def test_a_change_that_always_meets_a_conflict_is_a_failure_in_the_end(self) -> None:
        async def body(suite: Any) -> None:
            async def change() -> None:
                raise ConflictError("always")

            await suite.retry(change)

        status, message = self.outcome(body)
        self.assertEqual(status, "failed")
        self.assertIn(f"tried {MOST_TRIES} times", message)

    def test_one_winner_is_found(self) -> None:
        lost: Attempt[str] = Attempt(error=ConflictError("lost"))

        async def body(suite: Any) -> None:
            suite.same(suite.one_winner([lost, Attempt("won"), lost], "a race"), 1, given="the winner")

        self.assertEqual(self.outcome(body), ("passed", ""))

    def test_two_winners_and_another_error_are_failures(self) -> None:
        for tried, observed in (
            ([Attempt("a"), Attempt("b")], "2 successes, 0 other errors"),
            ([Attempt("a"), Attempt(error=KeyError("k"))], "1 successes, 1 other errors KeyError: 'k'"),
        ):

            async def body(suite: Any, tried: Any = tried) -> None:
                suite.one_winner(tried, "a race")

            status, message = self.outcome(body)
            self.assertEqual(status, "failed")
            self.assertIn("1 success, 1 ConflictError", message)
            self.assertIn(observed, message)

    def test_a_listing_is_compared_without_its_order(self) -> None:
        async def body(suite: Any) -> None:
            suite.check_listing(iter(["b", "a"]), {"a", "b"}, "a listing")

        self.assertEqual(self.outcome(body), ("passed", ""))

    def test_what_is_wrong_with_a_listing_is_said(self) -> None:
        async def body(suite: Any) -> None:
            suite.check_listing(["a", "a", "x"], ["a", "b"], "a listing")

        _, message = self.outcome(body)
        self.assertIn("1 missing, 'b' for one; 1 that should not be there, 'x' for one; 1 repeated", message)
        self.assertIn("2 names, each once", message)
