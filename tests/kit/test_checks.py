"""What is refused when a class is created, of authors of suites and of authors of contracts; and what a set-up may not set."""

import unittest
from collections.abc import Callable
from typing import Any, Protocol

from omnitck.common.cells import Cells
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import audit, rule
from omnitck.kit.text import UsageError
from omnitck.kit.trial import Trial
from omnitck.shared.models import Limits
from tests.helpers import outcomes_of, suite_of
from tests.kit.toys import BagContract, Box, BoxContract, CrateContract, LidPolicy, OwnerPolicy


class TestSuites(unittest.TestCase):
    """Authors of suites."""

    def refused(self, sentence: str, *mixins: type, **members: Any) -> None:
        with self.assertRaises(UsageError) as caught:
            suite_of(*(mixins or (BoxContract,)), **members)
        self.assertEqual(str(caught.exception), sentence)

    def test_two_contracts(self) -> None:
        self.refused(
            "Suite mixes BoxContract, BagContract: a suite has exactly one contract; make one suite for each.",
            BoxContract,
            BagContract,
        )

    def test_only_policies(self) -> None:
        self.refused("Suite mixes only policies: a suite has exactly one contract; make one suite for each.", OwnerPolicy)

    def test_a_policy_of_which_no_rule_has_a_subject(self) -> None:
        for contract, name in ((CrateContract, "crate"), (BagContract, "bag")):
            self.refused(
                f"Suite mixes lids, of which no rule has a subject under {name}: leave it out.",
                contract,
                LidPolicy,
            )

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

    def test_an_overridden_audit(self) -> None:
        self.refused(
            "Suite overrides rule TID-01 (audit_tid_01_nothing_stays_open): a rule cannot be replaced; "
            'say known_deviations = {"TID-01": "reason or link"} instead.',
            BoxContract,
            TidyPolicy,
            audit_tid_01_nothing_stays_open=None,
        )

    def test_a_deleted_rule(self) -> None:
        self.refused(
            "Suite overrides rule BOX-COM-90 (test_com_90_it_is_shared): a rule cannot be replaced; "
            'say known_deviations = {"BOX-COM-90": "reason or link"} instead.',
            test_com_90_it_is_shared=None,
        )

    def test_a_rule_overridden_in_a_suite_of_a_suite(self) -> None:
        with self.assertRaises(UsageError):
            type("Special", (suite_of(BoxContract),), {"test_box_01_it_opens": None})

    def test_a_misspelt_capability_names_the_near_match(self) -> None:
        self.refused("Suite: unknown capability 'lidd' of box; did you mean lid?", capabilities={"lidd"})

    def test_a_strange_capability_names_all(self) -> None:
        self.refused("Suite: unknown capability 7 of box; known are lid, lock.", capabilities=[7])

    def test_a_capability_that_has_no_rule_in_the_suite(self) -> None:
        self.refused("Suite: unknown capability 'limits' of box; known are lid, lock.", capabilities={"limits"})

    def test_a_capability_of_the_contracts_own_that_has_no_rule(self) -> None:
        class JarContract(Contract):
            definition = Definition(name="jar", prefix="JAR", protocols={"": Box, "lid": Box, "seal": Protocol})

            @rule("JAR-01", "lid")
            async def test_jar_01_it_shuts(self, t: Trial[Any]) -> None:
                """A jar with a lid shuts."""

        self.assertEqual(suite_of(JarContract, capabilities={"lid"}).declared, {"lid"})
        for capabilities in ({"seal"}, {"lid", "seal"}):
            self.refused("Suite: unknown capability 'seal' of jar; known are lid.", JarContract, capabilities=capabilities)

    def test_a_capability_of_a_policy_that_has_no_rule_in_the_suite(self) -> None:
        class TightPolicy(Policy):
            definition = Definition(name="tight", prefix="TI", protocols={"seal": Protocol}, cells=Cells)

            @rule("TI-01")
            async def test_ti_01_it_is_tight(self, t: Trial[Any]) -> None:
                """It is tight."""

            @rule("TI-02", "seal", uses="names")
            async def test_ti_02_it_is_sealed(self, t: Trial[Any]) -> None:
                """It is sealed."""

        self.assertEqual(suite_of(BoxContract, TightPolicy, capabilities={"seal"}).declared, {"seal"})
        self.refused(
            "Suite: unknown capability 'seal' of crate + tight; known are availability, lid, wheels.",
            CrateContract,
            TightPolicy,
            capabilities={"seal"},
        )

    def test_a_profile_of_which_there_is_no_rule(self) -> None:
        self.refused("Suite: box has no rule of the profile `production`: it cannot be claimed.", profile="production")

    def test_capabilities_as_a_text(self) -> None:
        self.refused(
            "Suite.capabilities is 'lid': give a set of names, or the class of a provider that has one.", capabilities="lid"
        )

    def test_capabilities_as_nothing(self) -> None:
        self.refused(
            "Suite.capabilities is None: give a set of names, or the class of a provider that has one.", capabilities=None
        )

    def test_the_class_of_a_provider_without_capabilities(self) -> None:
        self.refused(
            "Suite.capabilities: object.capabilities is None: give a set of names, or the class of a provider that has one.",
            capabilities=object,
        )

    def test_the_class_of_a_provider_with_a_misspelt_capability(self) -> None:
        self.refused(
            "Suite: unknown capability 'lidd' of box; did you mean lid?",
            capabilities=type("Cardboard", (), {"capabilities": {"lidd"}}),
        )

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
        self.refused(
            "Suite.make_provider is no coroutine function: write it with `async def`.", make_provider=lambda self: object()
        )

    def test_another_hook_that_is_no_coroutine_function(self) -> None:
        self.refused("Suite.advance is no coroutine function: write it with `async def`.", advance=lambda self, seconds: None)

    def test_a_hook_of_the_contract_that_is_no_coroutine_function(self) -> None:
        self.refused("Suite.nail is no coroutine function: write it with `async def`.", CrateContract, nail=lambda self: None)

    def test_a_hook_of_a_policy_that_is_no_coroutine_function(self) -> None:
        self.refused("Suite.inherit is no coroutine function: write it with `async def`.", BoxContract, OwnerPolicy, inherit=None)

    def test_a_misspelt_declaration_or_hook_names_the_near_match(self) -> None:
        async def advanse(self: Any, seconds: float) -> None: ...

        for name, value, meant in (
            ("capabilites", {"lid"}, "capabilities"),
            ("Capabilities", {"lid"}, "capabilities"),
            ("credential", ("secret",), "credentials"),
            ("limit", Limits(), "limits"),
            ("know_deviation", {}, "known_deviations"),
            ("advanse", advanse, "advance"),
            ("make_privoder", advanse, "make_provider"),
            ("backend_adress", staticmethod(advanse), "backend_address"),
        ):
            with self.subTest(name):
                self.refused(
                    f"Suite.{name} is none of the names that the kit reads: did you mean {meant}? "
                    "If it is your own, give it a name that is less like it.",
                    **{name: value},
                )

    def test_a_misspelt_declaration_of_the_contract_or_the_policy(self) -> None:
        for mixins, name, meant in (((CrateContract,), "labels", "label"), ((BoxContract, OwnerPolicy), "familly", "family")):
            with self.subTest(name), self.assertRaisesRegex(UsageError, f"did you mean {meant}"):
                suite_of(*mixins, **{name: "x"})

    def test_a_misspelt_declaration_in_a_base_of_the_class(self) -> None:
        base = type("Base", (), {"capabilitys": {"lid"}})
        with self.assertRaisesRegex(UsageError, r"Base\.capabilitys is none of the names"):
            suite_of(base, BoxContract)

    def test_other_names_are_the_users_own_business(self) -> None:
        own = dict.fromkeys("data clock server cute deal again_and_again limiter background crasher profile_of".split(), "mine")
        self.assertEqual(plan_of(suite_of(BoxContract, **own)).declared, frozenset())

    def test_availability_without_a_hook(self) -> None:
        self.refused(
            "Suite declares `availability` but has neither hook that can show it: "
            "write `unreachable_provider` or `backend_address`; a command line names one with "
            "`--hook unreachable_provider=package.module:function`.",
            CrateContract,
            capabilities={"availability"},
        )

    def test_a_factory_without_what_the_policy_gives_it(self) -> None:
        async def make_provider(self: Any, *, namespace: str) -> object:
            return object()

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
        self.refused("Suite.again is 3: give the command that repeats a rule, with {rule} in it.", again=3)

    def test_limits_of_another_contract(self) -> None:
        with self.assertRaises(UsageError) as caught:
            suite_of(CrateContract, limits=Limits())
        self.assertIn("give an omnitck.shared.models.CacheLimits.", str(caught.exception))

    def test_what_the_contract_itself_refuses(self) -> None:
        self.refused("Suite.label is no text.", CrateContract, label=7)


class TestReservedNames(unittest.TestCase):
    """The names that a suite may not take, in its class or in its set-up."""

    def test_in_the_class(self) -> None:
        for name in ("definition", "trial", "declared"):
            with self.assertRaises(UsageError) as caught:
                suite_of(BoxContract, **{name: None})
            self.assertEqual(str(caught.exception), f"Suite.{name} takes a name that the kit reserves on suites: choose another.")

    def test_in_a_base_of_the_class(self) -> None:
        for name in ("definition", "trial", "declared"):
            for base in (object, unittest.TestCase):
                mine = type("Mine", (base,), {name: 7})
                with self.assertRaises(UsageError) as caught:
                    suite_of(mine, BoxContract)
                self.assertEqual(
                    str(caught.exception), f"Mine.{name} takes a name that the kit reserves on suites: choose another."
                )

    def test_a_suite_can_be_specialised_nevertheless(self) -> None:
        suite = suite_of(BoxContract, capabilities={"lid"})
        special: Any = type("Special", (suite,), {"capabilities": {"lock"}})
        self.assertEqual((suite.declared, special.declared), ({"lid"}, {"lock"}))

    def told(self, *mixins: type, in_set_up: str, value: object = None) -> set[str]:
        """What unittest is told, by every rule, of a suite that sets a name in its set-up."""

        def set_up(self: Any) -> None:
            setattr(self, in_set_up, value)

        outcomes, result = outcomes_of(suite_of(*mixins, setUp=set_up))
        self.assertEqual((outcomes, len(result.errors)), ([], result.testsRun))
        return {text.splitlines()[-1] for _, text in result.errors}

    def test_in_the_set_up(self) -> None:
        names = (
            *("definition", "trial", "declared"),
            *("capabilities", "profile", "known_deviations", "patience", "deadline", "backend", "again"),
            *("make_provider", "unreachable_provider", "backend_address", "advance", "crash", "cut", "heal"),
            *("nail", "label", "inherit", "family"),
        )
        for name in names:
            self.assertEqual(
                self.told(CrateContract, OwnerPolicy, in_set_up=name),
                {
                    f"omnitck.kit.text.UsageError: Suite sets self.{name} in its set-up, a name that the kit reads when the "
                    f"class is created: say `{name}` in the class, or take another name."
                },
            )

    def test_a_misspelt_name_in_the_set_up(self) -> None:
        def set_up(self: Any) -> None:
            self.server, self.credential = object(), ("secret",)

        self.check_refused(
            "Suite sets self.credential in its set-up, which the kit does not read: did you mean credentials?", setUp=set_up
        )

    def check_refused(self, sentence: str, **members: Any) -> None:
        outcomes, result = outcomes_of(suite_of(BoxContract, **members), "test_box_01_it_opens")
        self.assertEqual(outcomes, [])
        [(_, told)] = result.errors
        self.assertTrue(told.endswith(f"UsageError: {sentence}\n"), told)

    def test_an_expected_failure(self) -> None:
        """It would hide why a rule fails: neither a failure nor a success is what it was."""
        sentence = (
            "Suite is marked with unittest.expectedFailure, which would hide why a rule fails: "
            'say known_deviations = {"id": "reason or link"} instead.'
        )
        whole, one = suite_of(BoxContract), suite_of(BoxContract)
        unittest.expectedFailure(whole)
        unittest.expectedFailure(one.test_box_01_it_opens)
        for suite in (whole, one):
            outcomes, result = outcomes_of(suite, "test_box_01_it_opens")
            [(_, told)] = result.errors
            self.assertTrue(told.endswith(f"UsageError: {sentence}\n"), told)
            self.assertEqual((outcomes, result.expectedFailures, result.wasSuccessful()), ([], [], False))

    def test_what_may_be_set_there_is_checked_there(self) -> None:
        for name, value, sentence in (
            ("limits", 5, "Suite: self.limits is 5: give an omnitck.shared.models.CacheLimits."),
            ("credentials", "abc", "Suite: self.credentials is no list of strings"),
        ):
            [told] = self.told(CrateContract, in_set_up=name, value=value)
            self.assertIn(sentence, told)

    def test_what_a_server_decides_may_be_set_there(self) -> None:
        seen: list[object] = []

        class Asking(Contract):
            definition = Definition(name="asking", prefix="ASK")

            @rule("ASK-01", hook="credentials")
            async def test_ask_01_it_asks(self, t: Trial[Any]) -> None:
                """It asks."""
                await t.connect()
                seen.append((t.numbers(), t.suite.credentials))
                t.fail_rule(given="", expected="", observed="horse")

        def set_up(self: Any) -> None:
            self.limits = Limits(key_bytes=400)
            self.credentials = ("horse",)

        [outcome], _ = outcomes_of(suite_of(Asking, setUp=set_up))
        self.assertEqual(seen, [(Limits(key_bytes=400), ("horse",))])
        self.assertIn("observed  ***", outcome.message)


def made(rule: Callable[..., Any], name: str = "test_mis_01_it_works", *, sentence: str | None = "It works.") -> Any:
    """A rule or an audit of that *name* and *sentence*."""

    async def method(self: Any, t: Any) -> None: ...

    method.__doc__ = sentence
    method.__name__ = method.__qualname__ = name
    return rule(method)


class TestContracts(unittest.TestCase):
    """Authors of contracts and policies."""

    def refused(self, sentence: str, *bases: type, **members: Any) -> None:
        definition = {"name": "mistaken", "prefix": "MIS", "protocols": {"": Box}, **members.pop("definition", {})}
        members = {"definition": Definition(**definition), "__qualname__": "Mistaken", **members}
        with self.assertRaises(UsageError) as caught:
            type("Mistaken", bases or (Contract,), members)
        self.assertEqual(str(caught.exception), sentence)

    def test_a_definition_that_is_none(self) -> None:
        with self.assertRaises(UsageError) as caught:
            type("Mistaken", (Contract,), {"definition": {"name": "mistaken"}})
        self.assertEqual(
            str(caught.exception),
            "Mistaken.definition is {'name': 'mistaken'}: give an omnitck.kit.definition.Definition.",
        )

    def test_no_name_or_prefix(self) -> None:
        self.refused("Mistaken.definition has no name: give one.", definition={"name": ""})
        self.refused("Mistaken.definition has no prefix: give one.", definition={"prefix": None})

    def test_an_unknown_capability_of_a_rule(self) -> None:
        self.refused(
            "Mistaken.test_mis_01_it_works: rule MIS-01: unknown capability 'lidd'; did you mean lid?",
            definition={"protocols": {"lid": Box}},
            test_mis_01_it_works=made(rule("MIS-01", "lidd")),
        )

    def test_an_unknown_capability_of_a_policys_rule(self) -> None:
        self.refused(
            "Mistaken.test_mis_01_it_works: rule MIS-01: unknown capability 'lifecycles'; did you mean lifecycle?",
            Policy,
            test_mis_01_it_works=made(rule("MIS-01", "lifecycles")),
        )

    def test_an_unknown_capability_in_production(self) -> None:
        self.refused(
            "Mistaken.definition.production: unknown capability 'lidd'; did you mean lid?",
            definition={"protocols": {"lid": Box}, "production": frozenset({"lidd"})},
        )

    def test_an_id_that_is_there_twice(self) -> None:
        self.refused(
            "Mistaken.test_mis_02_it_works: the id MIS-01 is that of test_mis_01_it_works already: give each rule its own.",
            test_mis_01_it_works=made(rule("MIS-01")),
            test_mis_02_it_works=made(rule("MIS-01"), "test_mis_02_it_works"),
        )

    def test_no_sentence(self) -> None:
        for sentence in (None, "", "  \n"):
            self.refused(
                "Mistaken.test_mis_01_it_works: rule MIS-01 has no sentence: write it as the first paragraph of the docstring.",
                test_mis_01_it_works=made(rule("MIS-01"), sentence=sentence),
            )

    def test_an_unknown_hook_of_a_rule(self) -> None:
        self.refused(
            "Mistaken.test_mis_01_it_works: rule MIS-01: unknown hook 'unreachable'; did you mean unreachable_provider?",
            test_mis_01_it_works=made(rule("MIS-01", hook="unreachable")),
        )

    def test_a_hook_without_a_method(self) -> None:
        sentence = "Mistaken lists the hook 'nail', but has no such method: write it with `async def`."
        self.refused(sentence, definition={"hooks": ("nail",)})
        self.refused(sentence, definition={"hooks": ("nail",)}, nail=lambda self: None)

    def test_data_without_a_default(self) -> None:
        self.refused(
            "Mistaken lists 'label' as data, but has no such attribute: give it a default.", definition={"data": ("label",)}
        )

    def test_another_prefix(self) -> None:
        self.refused(
            "Mistaken.test_mis_01_it_works: the id MIT-01 does not begin with the prefix MIS- of the contract.",
            test_mis_01_it_works=made(rule("MIT-01")),
        )

    def test_a_rule_that_no_runner_would_find(self) -> None:
        for name in ("mis_01_it_works", "audit_mis_01_it_works"):
            self.refused(
                f"Mistaken.{name}: the method's name must begin with `test`, or no runner finds it.",
                **{name: made(rule("MIS-01"), name)},
            )

    def test_an_audit_that_no_suite_would_find(self) -> None:
        for name in ("mis_01_it_works", "test_mis_01_it_works"):
            self.refused(
                f"Mistaken.{name}: the method's name must begin with `audit`, or no suite finds it.",
                **{name: made(audit("MIS-01"), name)},
            )

    def test_a_test_without_an_id(self) -> None:
        async def test_mis_01_it_works(self: Any, t: Any) -> None:
            """It works."""

        self.refused(
            "Mistaken.test_mis_01_it_works is a test without an id: decorate it with @rule.",
            test_mis_01_it_works=test_mis_01_it_works,
        )

    def test_a_verb_of_a_contract_without_cells(self) -> None:
        self.refused(
            "Mistaken.test_mis_01_it_works: rule MIS-01 uses 'names', but mistaken has no cells: set `cells`.",
            test_mis_01_it_works=made(rule("MIS-01", uses="names")),
        )

    def test_an_unknown_verb(self) -> None:
        self.refused(
            "Mistaken.test_mis_01_it_works: rule MIS-01: unknown verb of cells 'name'; did you mean names?",
            definition={"cells": Cells()},
            test_mis_01_it_works=made(rule("MIS-01", uses="name")),
        )

    def test_a_verb_that_the_cells_lack(self) -> None:
        class Lacking(Cells[Any]):
            lacks = frozenset({"probes"})

        for cells, verb in ((Cells(), "names"), (Cells, "names"), (Lacking(), "probes")):
            self.refused(
                f"Mistaken.test_mis_01_it_works: rule MIS-01 uses {verb!r}, which the cells of mistaken do not supply.",
                definition={"cells": cells},
                test_mis_01_it_works=made(rule("MIS-01", uses=verb)),
            )

    def test_a_definition_of_other_types(self) -> None:
        for word, value, what in (
            ("hooks", "nail", "several names: a tuple or a set of text"),
            ("operations", ("open",), "a tuple of Operation"),
            ("protocols", {"": 5}, "a mapping of names of capabilities to protocols"),
            ("limits", 5, "a subclass of omnitck.shared.models.Limits"),
            ("around", 5, "a function"),
        ):
            self.refused(f"Mistaken.definition: {word} is {value!r}: give {what}.", definition={word: value})

    def test_an_operation_that_is_listed_twice(self) -> None:
        operation = Operation("open", lambda p, n, t: p.open(), "open")
        sentence = "Mistaken: operation 'open' is listed twice: give each operation a name of its own."
        self.refused(sentence, definition={"operations": (operation, operation)})
        self.refused(sentence, definition={"operations": (operation,), "refusals": (operation,)})
        self.refused(sentence, definition={"cells": type("Doubled", (Cells,), {"operations": (operation, operation)})})

    def test_an_operation_that_does_not_take_what_was_arranged(self) -> None:
        async def arrange(provider: Any, name: str, token: str) -> str:
            return token

        self.refused(
            "Mistaken: operation 'open' has `arrange`, whose result its call does not take: give the call a fourth argument.",
            definition={"operations": (Operation("open", lambda p, n, t: p.open(), "open", arrange=arrange),)},
        )

    def test_an_operation_with_an_unknown_capability(self) -> None:
        operation = Operation("open", lambda p, n, t: p.open(), "open", "lidd")
        self.refused(
            "Mistaken: operation 'open': unknown capability 'lidd'; did you mean lid?",
            definition={"protocols": {"": Box, "lid": Box}, "operations": (operation,)},
        )

    def test_an_operation_with_an_unknown_method(self) -> None:
        operation = Operation("open", lambda p, n, t: p.opn(), "opn")
        self.refused(
            "Mistaken: operation 'open': unknown method of its protocols 'opn'; did you mean open?",
            definition={"operations": (operation,)},
        )


class TidyPolicy(Policy):
    """Looks at the boxes after every rule."""

    definition = Definition(name="tidy", prefix="TID")

    @audit("TID-01")
    async def audit_tid_01_nothing_stays_open(self, t: Trial[Any]) -> None:
        """No box stays open."""
