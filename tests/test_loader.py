"""Contracts by name, suites made at run time, targets."""

import asyncio
import contextlib
import functools
import json
import subprocess
import sys
import tempfile
import types
import unittest
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import omnitck
from omnitck import loader
from omnitck.kit.text import UsageError
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.runner import ConcurrentSuite
from omnitck.shared.models import Limits


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


async def make_store(*, namespace: str = "", tenant_id: str | None = None) -> Store:
    return Store(f"{namespace}/{tenant_id}")


async def make_nothing() -> None:
    return None


async def advance(seconds: float) -> None: ...


class Maker:
    async def make(self) -> Store:
        return Store()


class UsageCase(unittest.TestCase):
    def refused(self, sentence: str, call: Any, *arguments: Any, **keywords: Any) -> None:
        with self.assertRaises(UsageError) as caught:
            call(*arguments, **keywords)
        self.assertIn(sentence, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


class TestPackage(unittest.TestCase):
    def test_every_public_name_is_there(self) -> None:
        for name in omnitck.__all__:
            self.assertIsNotNone(getattr(omnitck, name))
        self.assertLessEqual(set(omnitck.__all__), set(dir(omnitck)))

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with self.assertRaises(AttributeError):
            _ = omnitck.comopse  # type: ignore[attr-defined]

    def test_importing_it_imports_neither_unittest_nor_anyio(self) -> None:
        code = "import sys, omnitck; print({'unittest', 'anyio', 'asyncio'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "set()\n")


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
        self.assertEqual([each.name for each in suite.policies], ["multi_tenancy"])

    def test_without_capabilities_those_of_the_function_are_declared(self) -> None:
        make = functools.partial(make_store)
        make.capabilities = {"counter"}  # type: ignore[attr-defined]
        self.assertEqual(vars(omnitck.compose("kv_store", make_provider=make))["declared"], {"counter"})
        self.assertEqual(vars(omnitck.compose("kv_store", make_provider=make, capabilities=()))["declared"], frozenset())

    def test_a_suite_with_hooks_and_limits_can_be_made_in_another_process(self) -> None:
        suite = omnitck.compose("kv_store", make_provider=make_store, advance=advance, limits=Limits(key_bytes=512))
        recipe = loader.recipe_of(suite)
        assert recipe is not None
        again: Any = loader.Recipe(**json.loads(json.dumps(asdict(recipe)))).build()
        self.assertEqual((again.limits, again.advance), (Limits(key_bytes=512), advance))
        self.assertEqual(recipe.command(), "")

    def test_the_signature_of_the_function_stays_visible(self) -> None:
        for make in (make_store, functools.partial(make_store, tenant_id="t"), Maker().make):
            suite = omnitck.compose("kv_store", make_provider=make)
            certificate = omnitck.certify(suite, rules=["KV-01"], isolate=False)
            self.assertEqual(certificate.verdict, "partial", certificate.as_json())

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
        self.refused("capabilities is 'ttl': give a set of names", compose, "kv_store", capabilities="ttl")
        self.refused("unknown profile 'prod'; did you mean production?", compose, "kv_store", profile="prod")
        self.refused("known_deviations: unknown rule 'KV-99'", compose, "kv_store", known_deviations={"KV-99": "because"})
        self.refused("KV-01 needs a reason", compose, "kv_store", known_deviations={"KV-01": ""})
        self.refused("limits is 3", compose, "kv_store", limits=3)
        self.refused("credentials is no list of strings", compose, "kv_store", credentials="secret")
        self.refused("patience is -1", compose, "kv_store", patience=-1)
        self.refused("advance is <", compose, "kv_store", advance=lambda seconds: None)
        self.refused("make_provider is <", omnitck.compose, "kv_store", make_provider=Store)

    def test_two_contracts_in_one_suite_are_refused(self) -> None:
        other = type("OtherContract", (omnitck.Contract,), {"name": "other", "prefix": "OT"})
        self.refused("mixes KVStoreContract, OtherContract", omnitck.compose, "kv_store", other, make_provider=make_store)

    def test_jobs_below_one_are_refused(self) -> None:
        for call in (omnitck.build_suite, omnitck.load_tests_for, omnitck.certify):
            self.refused("jobs is 0", call, "kv_store", make_provider=make_store, jobs=0)


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
            environment = {**_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
            runs = {
                runner: subprocess.Popen(
                    [sys.executable, "-m", runner, "test_mine"],
                    cwd=directory,
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for runner in ("unittest", "nose2")
                if _installed(runner)
            }
            for runner, process in runs.items():
                with self.subTest(runner):
                    errors = process.communicate()[1]
                    self.assertRegex(errors, r"Ran \d\d+ tests")
                    self.assertEqual(process.returncode, 0, errors)
        if "nose2" not in runs:
            self.skipTest("nose2 is not installed")


class TestCertify(UsageCase):
    def test_under_a_running_loop(self) -> None:
        async def main() -> omnitck.Certificate:
            return omnitck.certify("kv_store", make_provider=make_store, rules=["KV-01"], isolate=False)

        self.assertEqual(asyncio.run(main()).verdict, "partial")

    def test_isolates_what_another_process_can_import(self) -> None:
        async def local() -> Store:
            return Store()

        self.assertTrue(omnitck.certify("kv_store", make_provider=make_store, rules=["KV-01"]).isolated)
        self.assertFalse(omnitck.certify("kv_store", make_provider=local, rules=["KV-01"]).isolated)
        self.refused("cannot be isolated", omnitck.certify, "kv_store", make_provider=local, isolate=True)

    def test_a_suite_takes_other_declarations(self) -> None:
        suite = omnitck.compose("kv_store", make_provider=make_store)
        certificate = omnitck.certify(suite, profile="core", deadline=3, rules=["KV-01"])
        self.assertEqual({each.deadline for each in certificate.suites[0].rules}, {3})

    def test_progress_hears_each_outcome(self) -> None:
        heard: list[str] = []
        omnitck.certify(
            "kv_store",
            make_provider=make_store,
            rules=["KV-01", "kv-02"],
            progress=lambda outcome: heard.append(f"{outcome.rule} {outcome.outcome}"),
        )
        self.assertEqual(heard, ["KV-01 passed", "KV-02 passed"])

    def test_bad_input_is_one_sentence(self) -> None:
        self.refused("certify was given no contract", omnitck.certify)
        self.refused("certify needs make_provider=", omnitck.certify, "kv_store")
        self.refused("make_provider returned None", omnitck.certify, "kv_store", make_provider=make_nothing, isolate=False)
        self.refused("no rule of", omnitck.certify, "kv_store", make_provider=make_store, rules=["KV-77"], isolate=False)
        self.refused("grace is 0", omnitck.certify, "kv_store", make_provider=make_store, grace=0)
        with mock.patch.dict("os.environ", OMNITCK_SEED="seven"):
            self.refused("OMNITCK_SEED is 'seven'", omnitck.certify, "kv_store", make_provider=make_store)


class TestTargets(UsageCase):
    def test_a_coroutine_function_and_a_suite_are_targets(self) -> None:
        self.assertIs(loader.resolve_target(f"{__name__}:make_store"), make_store)

    def test_every_way_of_failing_is_one_sentence(self) -> None:
        module = types.ModuleType("targets")
        vars(module).update(make_store=make_store, number=3, plain=lambda: None, Store=Store, Bare=KVStoreContract)
        broken = "raise SystemExit(3)"
        with tempfile.TemporaryDirectory() as directory, _path(directory), mock.patch.dict(sys.modules, targets=module):
            Path(directory, "leaves.py").write_text(broken)
            Path(directory, "needs.py").write_text("import no_such_module")
            Path(directory, "typo.py").write_text("def")
            for target, sentence in {
                "targets": "is not of the form package.module:name",
                ":make": "is not of the form",
                "no_such.thing:make": "there is no module 'no_such'",
                "targets.py:make": "there is no module 'targets.py'",
                "targets:mak_store": "targets has no 'mak_store'; did you mean make_store",
                "targets:number": "is not callable (it is 3)",
                "targets:plain": "is not a coroutine function: write it with `async def`",
                "targets:Store": "is a class: give a suite",
                "targets:Bare": "is a contract without a TestCase",
                "leaves:make": "importing leaves raised SystemExit: 3",
                "needs:make": "importing needs needs the module 'no_such_module', which is missing",
                "typo:make": "importing typo raised SyntaxError",
            }.items():
                with self.subTest(target):
                    self.refused(sentence, loader.resolve_target, target)


GOOD = """
import omnitck
class PlainContract(omnitck.Contract):
    name, prefix = "plain", "PL"
    @omnitck.rule("PL-01")
    async def test_pl_01(self):
        "It works."
class Taken(PlainContract):
    name = "taken"
    @omnitck.rule("MT-01")
    async def test_mt_01(self):
        "It clashes."
class NoPrefix(omnitck.Contract):
    name = "no_prefix"
"""


class TestEntryPoints(UsageCase):
    def setUp(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(_path(directory))
        self.addCleanup(lambda: sys.modules.pop("elsewhere", None))
        Path(directory, "elsewhere.py").write_text(GOOD)
        information = Path(directory, "elsewhere-1.0.dist-info")
        information.mkdir()
        information.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
        information.joinpath("entry_points.txt").write_text(
            "[omnitck.contracts]\n"
            "plain = elsewhere:PlainContract\n"
            "renamed = elsewhere:PlainContract\n"
            "taken = elsewhere:Taken\n"
            "no_prefix = elsewhere:NoPrefix\n"
            "missing = elsewhere:Nothing\n"
            "text = elsewhere:__name__\n"
            "kv_store = elsewhere:PlainContract\n"
        )

    def test_a_good_one_composes(self) -> None:
        suite = omnitck.compose("plain", make_provider=make_store)
        self.assertEqual(vars(suite)["contract"].name, "plain")

    def test_a_broken_one_is_refused_when_it_is_asked_for(self) -> None:
        self.refused("calls itself 'plain'", loader.find, "renamed")
        self.refused("has rule ids that belong to multi_tenancy: MT-01", loader.find, "taken")
        self.refused("has no prefix", loader.find, "no_prefix")
        self.refused("cannot be loaded: AttributeError", loader.find, "missing")
        self.refused("is no contract", loader.find, "text")

    def test_broken_ones_do_not_spoil_the_list(self) -> None:
        listed = loader.registered()
        self.assertEqual([each.name for each in listed if each.contract], [*loader.BUILT_IN, "plain"])
        self.assertIs(loader.find("kv_store"), KVStoreContract)
        self.assertIn("which the kit itself uses", listed[-1].problem)


@contextlib.contextmanager
def _path(directory: str) -> Any:
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _environment() -> dict[str, str]:
    import os

    return {key: value for key, value in os.environ.items() if not key.startswith("OMNITCK_")}


if __name__ == "__main__":
    unittest.main()
