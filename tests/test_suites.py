"""Suites that are made at run time, as classes, as `unittest` suites and as plain data; and targets."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import types
import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, chdir
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import omnitck
from omnitck import suites
from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.rules import audit
from omnitck.kit.trial import Trial
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.shared.exceptions import UnavailableError
from omnitck.shared.models import Limits
from tests.helpers import UsageCase, on_path
from tests.kit.toys import CrateContract


class Store:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self._values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self._values.get(key)

    async def set(self, key: str, value: str) -> None:
        self._values[key] = value

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)


class Counting(Store):
    """It obeys another contract beside."""

    capabilities = frozenset({"counter", "nack_redelivery"})


async def make_store(*, namespace: str = "", tenant_id: str | None = None) -> Store:
    return Store(f"{namespace}/{tenant_id}")


@asynccontextmanager
async def hold_store(**config: object) -> AsyncIterator[Store]:
    yield Store()


@asynccontextmanager
async def hold_unreachable() -> AsyncIterator[Store]:
    yield Unreachable()


class Unreachable(Store):
    async def get(self, key: str) -> str | None:
        raise UnavailableError("nobody answers") from OSError("no route")

    async def set(self, key: str, value: str) -> None:
        raise UnavailableError("nobody answers") from OSError("no route")

    async def delete(self, key: str) -> None:
        raise UnavailableError("nobody answers") from OSError("no route")


async def forget_decorator() -> AsyncIterator[Store]:
    yield Store()


async def make_nothing() -> None:
    return None


async def advance(seconds: float) -> None: ...


class Maker:
    async def make(self) -> Store:
        return Store()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Store]:
        yield Store()


class TestCompose(UsageCase):
    def test_a_name_and_a_class_give_the_same_suite(self) -> None:
        for contract in ("kv_store", KVStoreContract):
            suite = omnitck.compose(contract, make_provider=make_store)
            self.assertTrue(issubclass(suite, KVStoreContract))
            self.assertEqual((suite.__module__, suite.__qualname__), (__name__, "TestKVStore"))

    def test_declarations_arrive(self) -> None:
        async def advance(seconds: float) -> None: ...

        suite: Any = omnitck.compose(
            "kv_store",
            "multi_tenancy",
            make_provider=make_store,
            capabilities=iter(["counter"]),
            class_name="TestMine",
            advance=advance,
            limits=Limits(key_bytes=512),
            patience=2.0,
        )
        self.assertEqual(suite.__name__, "TestMine")
        self.assertEqual(suite.declared, {"counter"})
        self.assertEqual((suite.limits.key_bytes, suite.patience, suite.advance), (512, 2.0, advance))
        self.assertEqual([each.definition.name for each in plan_of(suite).policies], ["multi_tenancy"])

    def test_without_capabilities_those_of_the_function_are_declared(self) -> None:
        make = functools.partial(make_store)
        make.capabilities = {"counter"}  # type: ignore[attr-defined]
        self.assertEqual(vars(omnitck.compose("kv_store", make_provider=make))["declared"], {"counter"})
        self.assertEqual(vars(omnitck.compose("kv_store", make_provider=make, capabilities=()))["declared"], frozenset())

    def test_a_suite_with_hooks_and_limits_can_be_made_in_another_process(self) -> None:
        suite = omnitck.compose("kv_store", make_provider=make_store, advance=advance, limits=Limits(key_bytes=512))
        recipe = suites.recipe_of(suite)
        assert recipe is not None
        again: Any = suites.Recipe(**json.loads(json.dumps(asdict(recipe)))).build()
        self.assertEqual((again.limits, again.advance), (Limits(key_bytes=512), advance))
        self.assertEqual(recipe.command(), "", "no flag says limits")

    def test_the_command_that_repeats_a_rule_names_hooks_and_settings(self) -> None:
        suite: Any = omnitck.compose(
            "kv_store",
            make_provider=make_store,
            unreachable_provider=hold_unreachable,
            advance=advance,
            capabilities={"availability", "counter"},
            known_deviations={"KV-02": "its failure is what is looked for"},
            patience=2.5,
            deadline=30,
        )
        self.assertEqual(
            suite.again,
            f"python -m omnitck certify {__name__}:make_store --contract kv_store --capability availability,counter "
            f"--hook unreachable_provider={__name__}:hold_unreachable --hook advance={__name__}:advance "
            "--patience 2.5 --deadline 30 --rule {rule}",
        )

    def test_capabilities_of_a_providers_class_are_found_in_another_process(self) -> None:
        suite: Any = omnitck.compose("kv_store", make_provider=make_store, capabilities=Counting)
        recipe = suites.recipe_of(suite)
        assert recipe is not None
        again: Any = suites.Recipe(**json.loads(json.dumps(asdict(recipe)))).build()
        self.assertEqual((suite.declared, again.declared), ({"counter"}, {"counter"}))
        self.assertEqual(recipe.command(), "")

    def test_a_suite_with_capabilities_of_a_local_class_cannot_be_made_there(self) -> None:
        class Local(Store):
            capabilities = frozenset({"counter"})

        suite = omnitck.compose("kv_store", make_provider=make_store, capabilities=Local)
        self.assertIsNone(suites.recipe_of(suite))

    def test_the_signature_of_the_function_stays_visible(self) -> None:
        for make in (make_store, functools.partial(make_store, tenant_id="t"), Maker().make):
            suite = omnitck.compose("kv_store", make_provider=make)
            certificate = omnitck.certify(suite, rules=["KV-01"], isolate=False)
            self.assertEqual(certificate.verdict, "partial", certificate.as_json())

    def test_a_function_that_returns_a_context_manager_is_a_factory(self) -> None:
        class Written(KVStoreContract, unittest.IsolatedAsyncioTestCase):
            capabilities = frozenset({"availability"})

            @asynccontextmanager
            async def make_provider(self, **config: Any) -> AsyncIterator[Store]:  # type: ignore[override]
                yield Store()

            @asynccontextmanager
            async def unreachable_provider(self) -> AsyncIterator[Store]:  # type: ignore[override]
                yield Unreachable()

        made = functools.partial(hold_store, spare=1), Maker().hold, hold_store
        suites_with_it = [
            omnitck.compose("kv_store", make_provider=each, unreachable_provider=hold_unreachable, capabilities=["availability"])
            for each in made
        ]
        made_suites: list[type] = [Written, *suites_with_it]
        for suite in made_suites:
            certificate = omnitck.certify(suite, rules=["KV-01", "KV-COM-12"], isolate=False)
            found = {each.rule: str(each.outcome) for each in certificate.suites[0].outcomes if each.outcome != "not run"}
            self.assertEqual(found, {"KV-01": "passed", "KV-COM-12": "passed"}, certificate.as_json())

    def test_a_function_that_returns_a_context_manager_can_be_named_in_another_process(self) -> None:
        suite = omnitck.compose(
            "kv_store", make_provider=hold_store, unreachable_provider=hold_unreachable, capabilities=["availability"]
        )
        recipe = suites.recipe_of(suite)
        assert recipe is not None
        self.assertEqual(
            (recipe.target, recipe.hooks),
            (f"{__name__}:hold_store", {"unreachable_provider": f"{__name__}:hold_unreachable"}),
        )
        again: Any = suites.Recipe(**json.loads(json.dumps(asdict(recipe)))).build()
        self.assertEqual((again.make_provider, again.unreachable_provider), (hold_store, hold_unreachable))

    def test_bad_input_is_one_sentence(self) -> None:
        compose = functools.partial(omnitck.compose, make_provider=make_store)
        self.refused("unknown contract 'kvstore'; did you mean kv_store?", compose, "kvstore")
        self.refused("no contract was given", compose)
        self.refused("kv_store is given twice", compose, "kv_store", KVStoreContract)
        self.refused("Store is no contract or policy", compose, Store)
        self.refused("3 is no contract", compose, 3)
        self.refused("mixes only policies", compose, "multi_tenancy")
        self.refused("unknown declaration 'capabilites'; did you mean capabilities?", compose, "kv_store", capabilites={})
        self.refused("unknown capability 'tll'", compose, "kv_store", capabilities=["tll"])
        self.refused(
            "capabilities is 'ttl': give a set of names, or the class of a provider that has one.",
            compose,
            "kv_store",
            capabilities="ttl",
        )
        self.refused("unknown profile 'prod'; did you mean production?", compose, "kv_store", profile="prod")
        self.refused("known_deviations: unknown rule 'KV-99'", compose, "kv_store", known_deviations={"KV-99": "because"})
        self.refused("KV-01 needs a reason", compose, "kv_store", known_deviations={"KV-01": ""})
        self.refused("limits is 3", compose, "kv_store", limits=3)
        self.refused("credentials is no list of strings", compose, "kv_store", credentials="secret")
        self.refused("patience is -1", compose, "kv_store", patience=-1)
        self.refused("advance is <", compose, "kv_store", advance=lambda seconds: None)
        self.refused("advance is <", compose, "kv_store", advance=hold_store)
        self.refused(
            "an async generator function: decorate it with `contextlib.asynccontextmanager`.",
            omnitck.compose,
            "kv_store",
            make_provider=forget_decorator,
        )
        self.refused("make_provider is <", omnitck.compose, "kv_store", make_provider=Store)

    def test_two_contracts_in_one_suite_are_refused(self) -> None:
        other = type("OtherContract", (Contract,), {"definition": Definition(name="other", prefix="OT")})
        self.refused("mixes KVStoreContract, OtherContract", omnitck.compose, "kv_store", other, make_provider=make_store)

    def test_jobs_below_one_are_refused(self) -> None:
        for call in (omnitck.build_suite, omnitck.load_tests_for, omnitck.certify):
            self.refused("jobs is 0", call, "kv_store", make_provider=make_store, jobs=0)


class TestRecipes(UsageCase):
    def built(self, target: str = "make_store", contracts: tuple[str, ...] = ("kv_store",), **hooks: str) -> Any:
        return suites.Recipe(f"{__name__}:{target}", contracts, {"capabilities": ["availability"]}, hooks).build()

    def test_hooks_by_name(self) -> None:
        name = f"{__name__}:hold_unreachable"
        self.assertIs(self.built(unreachable_provider=name).unreachable_provider, hold_unreachable)
        suite = omnitck.compose("kv_store", make_provider=make_store)
        with mock.patch.dict(globals(), suite=suite):
            self.assertIs(self.built("suite", (), unreachable_provider=name).unreachable_provider, hold_unreachable)

    def test_bad_hooks_are_one_sentence(self) -> None:
        for sentence, hooks in {
            "unknown hook 'unreachable'; did you mean unreachable_provider?": {"unreachable": f"{__name__}:advance"},
            "unknown hook 'capabilities'; ": {"capabilities": f"{__name__}:advance"},
            "hook 'make_provider' is what the target is: name the factory there.": {"make_provider": f"{__name__}:make_store"},
            "hook 'advance': target 'no_such:thing': there is no module 'no_such'": {"advance": "no_such:thing"},
            "advance is <class 'tests.test_suites.Store'>, no coroutine function": {"advance": f"{__name__}:Store"},
        }.items():
            self.refused(sentence, self.built, **hooks)


class TestSuites(unittest.TestCase):
    def test_build_suite_is_what_unittest_runs(self) -> None:
        for jobs in (1, 8):
            suite = omnitck.build_suite("kv_store", make_provider=make_store, jobs=jobs)
            assert isinstance(suite, ConcurrentSuite)
            self.assertEqual(suite.jobs, jobs)
            result = suite.run(unittest.TestResult())
            self.assertEqual((result.testsRun, result.errors, result.failures), (suite.countTestCases(), [], []))

    def test_load_tests_keeps_the_standard_tests_and_ignores_the_loader(self) -> None:
        load_tests = omnitck.load_tests_for("kv_store", make_provider=make_store)
        alone = load_tests(None, unittest.TestSuite(), None).countTestCases()
        beside = load_tests(None, unittest.TestSuite([TestSuites("test_it_runs_under_unittest_and_nose2")]), None)
        self.assertEqual(beside.countTestCases(), alone + 1)

    def test_it_runs_under_unittest_and_nose2(self) -> None:
        text = (
            "import omnitck\n"
            "class Store:\n"
            "    def __init__(self): self.values = {}\n"
            "    async def get(self, key): return self.values.get(key)\n"
            "    async def set(self, key, value): self.values[key] = value\n"
            "    async def delete(self, key): self.values.pop(key, None)\n"
            "async def make(): return Store()\n"
            "load_tests = omnitck.load_tests_for('kv_store', make_provider=make, jobs=4)\n"
        )
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "test_mine.py").write_text(text)
            clean = {key: value for key, value in os.environ.items() if not key.startswith("OMNITCK_")}
            environment = {**clean, "PYTHONPATH": str(Path(__file__).parents[1])}
            runs = {
                runner: subprocess.Popen(
                    [sys.executable, "-m", runner, "test_mine"],
                    cwd=directory,
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for runner in ("unittest", "nose2")
                if find_spec(runner)
            }
            for runner, process in runs.items():
                with self.subTest(runner):
                    errors = process.communicate()[1]
                    self.assertRegex(errors, r"Ran \d\d+ tests")
                    self.assertEqual(process.returncode, 0, errors)
        if "nose2" not in runs:
            self.skipTest("nose2 is not installed")


class TestSelect(UsageCase):
    class TidyPolicy(Policy):
        definition = Definition(name="tidy", prefix="TID")

        @audit("TID-01")
        async def audit_tid_01(self, t: Trial[Any]) -> None:
            """All is tidy."""

    def selected(self, *patterns: str) -> list[str]:
        suite = omnitck.compose(CrateContract, self.TidyPolicy, make_provider=make_store)
        return [each.id for each in suites.select(suite, patterns)]

    def test_rules_by_id_and_pattern(self) -> None:
        self.assertEqual(self.selected("cr-02"), ["CR-02"])
        self.assertEqual(self.selected("CR-03", "CR-0[12]"), ["CR-01", "CR-02", "CR-03"])
        self.assertEqual(self.selected("CR-0[13]"), ["CR-01", "CR-03"])

    def test_all_of_them_without_a_pattern(self) -> None:
        self.assertEqual(self.selected(), ["CR-01", "CR-02", "CR-03", "CR-04", "CR-05"])

    def test_an_audit_watches_all_of_them(self) -> None:
        self.assertEqual(self.selected("TID-01"), self.selected())

    def test_a_pattern_that_fits_none(self) -> None:
        self.refused("no rule of TestCrateTidy fits 'CR-7'; did you mean CR-0", self.selected, "CR-7")


class TestTargets(UsageCase):
    def test_a_coroutine_function_and_a_suite_are_targets(self) -> None:
        module = types.ModuleType("targets")
        suite = omnitck.compose("kv_store", make_provider=make_store)
        vars(module).update(make_store=make_store, hold_store=hold_store, TestStore=suite)
        with mock.patch.dict(sys.modules, targets=module):
            self.assertIs(suites.resolve_target("targets:make_store"), make_store)
            self.assertIs(suites.resolve_target("targets:hold_store"), hold_store)
            self.assertIs(suites.resolve_target("targets:TestStore"), suite)

    def test_a_file_is_imported_by_the_name_that_its_folder_gives_it(self) -> None:
        source = "async def make_store(**config):\n    return __name__\n"
        with (
            tempfile.TemporaryDirectory() as directory,
            mock.patch.object(sys, "path", [directory, *sys.path]),
            mock.patch.dict(sys.modules),
            chdir(directory),
        ):
            for each in ("plain/loose.py", "project/pkg/__init__.py", "project/pkg/inner.py", "other/loose.py"):
                Path(each).parent.mkdir(parents=True, exist_ok=True)
                Path(each).write_text(source)
            self.assertEqual(suites.resolve_target("plain/loose.py:make_store").__module__, "loose")
            self.assertEqual(suites.resolve_target("project/pkg/inner.py:make_store").__module__, "pkg.inner")
            self.refused("loose is imported from ", suites.resolve_target, "other/loose.py:make_store")

    def test_every_way_of_failing_is_one_sentence(self) -> None:
        module = types.ModuleType("targets")
        vars(module).update(make_store=make_store, number=3, plain=lambda: None, Store=Store, Bare=KVStoreContract)
        vars(module).update(forgets=forget_decorator)
        broken = "raise SystemExit(3)"
        with tempfile.TemporaryDirectory() as directory, on_path(directory), mock.patch.dict(sys.modules, targets=module):
            Path(directory, "leaves.py").write_text(broken)
            Path(directory, "needs.py").write_text("import no_such_module")
            Path(directory, "typo.py").write_text("def")
            for target, sentence in {
                "targets": "is not of the form package.module:name",
                ":make": "is not of the form",
                "no_such.thing:make": "there is no module 'no_such'",
                "targets.py:make": "there is no file 'targets.py'",
                "targets:mak_store": "targets has no 'mak_store'; did you mean make_store",
                "targets:number": "is not callable (it is 3)",
                "targets:plain": "is no coroutine function: write it with `async def`",
                "targets:forgets": "is an async generator function: decorate it with `contextlib.asynccontextmanager`.",
                "targets:Store": "is a class: give a suite",
                "targets:Bare": "is a contract without a TestCase",
                "leaves:make": "importing leaves raised SystemExit: 3 (leaves.py line 1).",
                "needs:make": "importing needs needs the module 'no_such_module', which is missing (needs.py line 1).",
                "typo:make": "importing typo raised SyntaxError",
            }.items():
                with self.subTest(target):
                    self.refused(sentence, suites.resolve_target, target)
