"""Suites: what is refused when a class is created, what is declared, and what is found."""

import unittest
from collections.abc import Callable
from typing import Any, ClassVar

from omnitck.kit.contract import Contract, Policy, audit, rule, rules_of
from omnitck.kit.text import UsageError
from omnitck.shared.models import Limits


class BoxContract(Contract):
    """A contract with hardly anything in it."""

    name = "box"
    prefix = "BOX"
    own_capabilities = frozenset({"lid", "lock"})
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
