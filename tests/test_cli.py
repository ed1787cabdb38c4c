"""The command line, as a person or a program meets it."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from omnitck.cli import main
from omnitck.registry import BUILT_IN, find

ROOT = str(Path(__file__).parents[1])

STORES = '''
import unittest
from omnitck.primitives.kv_store import KVStoreContract

class Store:
    def __init__(self): self.values = {}
    async def get(self, key): return self.values.get(key)
    async def set(self, key, value): self.values[key] = value
    async def delete(self, key): self.values.pop(key, None)

async def make_store(**config): return Store()
async def make_typo(**config): return Store()
make_typo.capabilities = {"tll"}
async def make_nothing(): return None
def make_plainly(): return Store()
number = 3

class Forgets(Store):
    """Answers with an escape sequence."""
    async def get(self, key): return "\\x1b[2Jwrong"

async def make_forgets(): return Forgets()

class Suite(KVStoreContract, unittest.IsolatedAsyncioTestCase):
    known_deviations = {"KV-01": "ACME-1"}
    async def make_provider(self, **config): return Store()
'''


class CommandLine(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        Path(self.directory, "stores.py").write_text(STORES)
        self.enterContext(contextlib.chdir(self.directory))
        sys.path.insert(0, self.directory)
        self.addCleanup(sys.path.remove, self.directory)
        self.addCleanup(sys.modules.pop, "stores", None)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OMNITCK_")}
        self.enterContext(mock.patch.dict(os.environ, clean, clear=True))

    def run_it(self, *arguments: str) -> tuple[int, str, str]:
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(arguments)
        return status, output.getvalue(), errors.getvalue()

    def refused(self, sentence: str, *arguments: str) -> None:
        status, _, errors = self.run_it(*arguments)
        with self.subTest(arguments):
            self.assertEqual(status, 2, errors)
            self.assertTrue(errors.startswith("omnitck: error: "), errors)
            self.assertEqual(errors.count("\n"), 1, errors)
            self.assertIn(sentence, errors)

    def certify(self, *arguments: str) -> tuple[int, str, str]:
        return self.run_it("certify", *arguments, "--rule", "KV-01", "--rule", "KV-02")


class TestCertify(CommandLine):
    def test_a_whole_run_writes_the_certificate(self) -> None:
        status, output, errors = self.run_it(
            "certify", "stores:make_store", "--contract", "kv_store", "--jobs", "8", "--seed", "7", "--json", "report.json"
        )
        self.assertEqual((status, errors), (0, ""), output)
        self.assertIn("stores.make_store: kv_store,", output)
        self.assertRegex(output, r"rules +passed +failed +error.*\nkv_store +\d+ +- +-.*\n  core +\d+")
        self.assertRegex(output, r"verdict: conformant \(.* seed 7\)")
        self.assertTrue(output.endswith("certificate: omnitck-certificate.json\nreport: report.json\n"))
        document = json.loads(Path("omnitck-certificate.json").read_text())
        self.assertEqual(document, json.loads(Path("report.json").read_text()))
        self.assertEqual(
            (document["verdict"], document["seed"], document["jobs"], document["isolated"]), ("conformant", 7, 8, True)
        )

    def test_a_selection_is_partial_and_writes_no_certificate(self) -> None:
        status, output, _ = self.certify("stores:make_store", "--contract", "kv_store", "--json", "report.json", "--no-isolate")
        self.assertEqual(status, 0)
        self.assertIn("verdict: partial", output)
        self.assertEqual(sorted(each for each in os.listdir() if each.endswith(".json")), ["report.json"])

    def test_a_failure_is_shown_whole_and_harmless(self) -> None:
        status, output, _ = self.certify("stores:make_forgets", "--contract", "kv_store", "-q", "--no-isolate")
        self.assertEqual(status, 1)
        self.assertIn("FAILED: KV-01 [MUST]", output)
        self.assertNotIn("\x1b", output)
        self.assertIn("python -m omnitck certify stores:make_forgets --contract kv_store --rule KV-01", output)

    def test_a_suite_needs_no_contract_and_stale_deviations_are_listed(self) -> None:
        status, output, _ = self.certify("stores:Suite", "--no-isolate", "-v")
        self.assertEqual(status, 0)
        self.assertRegex(output, r"KV-01 +passed")
        self.assertIn("stale deviation KV-01", output)

    def test_capabilities_come_from_flags_or_the_function(self) -> None:
        self.refused(
            "unknown capability 'tll' of kv_store; did you mean ttl?", "certify", "stores:make_typo", "--contract=kv_store"
        )
        status, output, _ = self.certify("stores:make_typo", "--contract=kv_store", "-c", "ttl,counter", "--no-isolate")
        self.assertEqual(status, 0)
        self.assertIn("kv_store with counter, ttl", output)

    def test_policies_compose(self) -> None:
        for arguments in (["--contract", "kv_store+multi_tenancy"], ["--contract=kv_store", "--policy=multi_tenancy"]):
            status, output, errors = self.certify("stores:make_store", *arguments, "--no-isolate")
            self.assertEqual(status, 0, errors)
            self.assertIn("kv_store + multi_tenancy", output)

    def test_an_unwritable_path_loses_nothing(self) -> None:
        for flag in ("--json", "--output"):
            status, output, errors = self.certify(
                "stores:make_store", "--contract", "kv_store", flag, "missing/report.json", "-q", "--no-isolate"
            )
            self.assertEqual(status, 2)
            self.assertIn("cannot be written to 'missing/report.json': No such file or directory.", errors)
            self.assertEqual(json.loads(output[output.index("{") :])["verdict"], "partial")

    def test_bad_input_is_one_sentence(self) -> None:
        kv = ("--contract", "kv_store", "--no-isolate")
        for sentence, arguments in (
            ("unknown contract 'kvstore'; did you mean kv_store?", ("stores:make_store", "--contract", "kvstore")),
            ("kv_store is a contract, not a policy", ("stores:make_store", "--policy", "kv_store")),
            ("needs a contract to be certified for", ("stores:make_store",)),
            ("unknown capability 'tll' of kv_store; did you mean ttl?", ("stores:make_store", *kv, "-c", "tll")),
            ("unknown profile 'prod'; did you mean production?", ("stores:make_store", *kv, "--profile", "prod")),
            ("fits 'KV-99'; did you mean", ("stores:make_store", *kv, "-r", "KV-99")),
            ("there is no module 'storse'", ("storse:make_store", *kv)),
            ("stores has no 'make_stor'; did you mean make_store", ("stores:make_stor", *kv)),
            ("is not callable (it is 3)", ("stores:number", *kv)),
            ("is not a coroutine function", ("stores:make_plainly", *kv)),
            ("make_provider returned None", ("stores:make_nothing", *kv)),
            ("which has its contract already", ("stores:Suite", *kv)),
            ("nothing to certify", ()),
            ("argument --jobs: 0 is below 1", ("stores:make_store", "--jobs", "0")),
            ("argument --seed: invalid int value", ("stores:make_store", "--seed", "x")),
            ("argument --deadline: -1 is no number of seconds above 0", ("stores:make_store", "--deadline", "-1")),
            ("unrecognized arguments: --color", ("stores:make_store", "--color")),
        ):
            self.refused(sentence, "certify", *arguments)
        self.refused("there is no module 'storse'", "certify", "storse:make", "--contract", "kv_store")
        self.refused("the following arguments are required: COMMAND")
        self.refused("invalid choice: 'certfy'", "certfy")


class TestConfiguration(CommandLine):
    def test_suites_and_settings_come_from_pyproject(self) -> None:
        Path("pyproject.toml").write_text(
            "[tool.omnitck]\njobs = 3\nseed = 5\njson = 'from-config.json'\noutput = 'mine.json'\n"
            "[[tool.omnitck.suites]]\n"
            "target = 'stores:make_store'\ncontract = 'kv_store'\nknown_deviations = {KV-02 = 'ACME-2'}\n"
            "[[tool.omnitck.suites]]\ntarget = 'stores:Suite'\n"
        )
        with mock.patch.dict(os.environ, OMNITCK_SEED="6"):
            status, output, errors = self.certify("--no-isolate", "--jobs", "2")
        self.assertEqual(status, 0, errors)
        document = json.loads(Path("from-config.json").read_text())
        self.assertEqual((document["jobs"], document["seed"]), (2, 6))
        self.assertEqual([each["name"] for each in document["suites"]], ["stores.make_store", "stores.Suite"])
        self.assertEqual(document["known_deviations"]["stores.make_store"], {"KV-02": "ACME-2"})
        self.assertTrue(Path("mine.json").exists())
        self.assertIn("stale deviation KV-02", output)

    def test_bad_configurations_are_one_sentence(self) -> None:
        for text, sentence in {
            "[tool": "configuration 'mine.toml' is no TOML:",
            "": "configuration 'mine.toml' names no suites",
            "[tool]\nomnitck = 3": "tool.omnitck is 3, not a table",
            "[tool.omnitck]\nsiutes = []": "tool.omnitck has an unknown key 'siutes'; did you mean suites?",
            "[tool.omnitck]\njobs = 'two'": "tool.omnitck.jobs is 'two', not a whole number.",
            "[tool.omnitck]\njobs = true": "tool.omnitck.jobs is True, not a whole number.",
            "[tool.omnitck]\nsuites = [{target = 'stores:make_store', capabilities = 3}]": "capabilities is 3, not a list",
            "[tool.omnitck]\nsuites = [3]": "suites[0] is 3, not a table with a target",
            "[tool.omnitck]\nsuites = [{}]": "suites[0] has no target",
            "[tool.omnitck]\nsuites = [{targt = 'a'}]": "suites[0] has an unknown key 'targt'; did you mean target?",
            "[tool.omnitck]\nsuites = [{target = 3}]": "suites[0].target is 3, not a string",
            "[tool.omnitck]\nsuites = [{target = 'stores:make_store', policies = [3]}]": "policies is [3], not a list of names",
            "[tool.omnitck]\njobs = 0\nsuites = [{target = 'stores:Suite'}]": "tool.omnitck.jobs of the configuration: 0 is",
        }.items():
            Path("mine.toml").write_text(text)
            self.refused(sentence, "certify", "--config", "mine.toml", "--no-isolate")
        self.refused("configuration 'none.toml' cannot be read: No such file", "certify", "--config", "none.toml")

    def test_a_bad_variable_is_named(self) -> None:
        for name, value in {"OMNITCK_JOBS": "many", "OMNITCK_PATIENCE": "-1", "OMNITCK_DEADLINE": "soon"}.items():
            with mock.patch.dict(os.environ, {name: value}):
                self.refused(name, "certify", "stores:make_store", "--contract", "kv_store")


class TestReading(CommandLine):
    def test_list(self) -> None:
        status, output, _ = self.run_it("list", "--json")
        contracts = json.loads(output)["contracts"]
        self.assertEqual(status, 0)
        names = ["kv_store", "secrets", "object_storage", "cache", "document_database"]
        names += ["producer", "consumer", "delayed_messaging"]
        self.assertEqual(
            [(each["name"], each["kind"]) for each in contracts],
            [*((each, "contract") for each in names), ("multi_tenancy", "policy")],
        )
        self.assertEqual(list(contracts[0]), ["name", "kind", "version", "capabilities", "rules"])
        self.assertIn("ttl", contracts[0]["capabilities"])
        ids = [each["id"] for each in contracts[0]["rules"]]
        self.assertTrue({"KV-01", "KV-COM-14"} <= set(ids))
        self.assertEqual(list(contracts[0]["rules"][0]), ["id", "level", "statement", "audit"])
        self.assertIn("KV-01 ", self.run_it("list")[1])

    def test_explain(self) -> None:
        status, output, _ = self.run_it("explain", "kv-01", "--json")
        document: dict[str, Any] = json.loads(output)
        self.assertEqual((status, document["id"], document["contract"], document["level"]), (0, "KV-01", "kv_store", "MUST"))
        text = self.run_it("explain", "KV-01")[1]
        self.assertTrue(text.startswith(f"KV-01 [MUST] {document['statement']}\n"))
        for defect in document["defects"]:
            self.assertIn(f"{defect['name']}: {defect['story']}", text)
        self.refused("unknown rule 'KV-1'; did you mean", "explain", "KV-1")

    def test_spec_tells_an_implementor_everything(self) -> None:
        """The language of documents, capabilities without a method, limits with their floors, hooks, and data of a suite."""
        parts = {
            "document_database": (
                "A *filter* is a `dict`",
                "## Capability `query_operators`",
                "- `document_bytes`: Largest document",
            ),
            "secrets": (
                "- `provisioned`: Secrets that exist already",
                "- `key_bytes`: Longest name, in bytes; at least 64.",
                "- `shared` (profile `production`): several",
            ),
        }
        for name, expected in parts.items():
            text = self.run_it("spec", name)[1]
            for part in expected:
                self.assertIn(part, text)
        for name in BUILT_IN:
            for capability, protocol in find(name).definition.protocols.items():
                if capability:
                    self.assertTrue((protocol.__doc__ or "").startswith(f"Capability `{capability}`"), (name, capability))

    def test_spec_is_written_and_checked(self) -> None:
        status, output, _ = self.run_it("spec", "kv_store")
        self.assertEqual(status, 0)
        for part in ("# kv_store 1.0", "## Protocol", "async def get(", "- `ttl`", "- `make_provider`: ", "### KV-01 (MUST)"):
            self.assertIn(part, output)
        self.assertEqual(self.run_it("spec", "multi_tenancy", "--output", "spec.md"), (0, "", ""))
        self.assertEqual(self.run_it("spec", "multi_tenancy", "--check", "spec.md"), (0, "", ""))
        status, output, _ = self.run_it("spec", "--check", "spec.md")
        self.assertEqual(status, 1)
        self.assertIn("differs from the rules", output)
        self.refused("'none.md' cannot be read", "spec", "multi_tenancy", "--check", "none.md")
        self.refused("unknown contract 'kv'", "spec", "kv")
        self.refused("cannot be written to 'missing/spec.md'", "spec", "multi_tenancy", "--output", "missing/spec.md")


class TestSelftest(CommandLine):
    def test_it_prints_what_the_selftest_says(self) -> None:
        from omnitck.selftest.laws import SelftestReport

        good = SelftestReport(rules=2, defects=3, caught=3)
        bad = SelftestReport(rules=2, defects=3, caught=2, defects_not_caught=["Forgetful"])
        with mock.patch("omnitck.selftest.laws.selftest", return_value=good) as selftest:
            self.assertEqual(self.run_it("selftest", "-c", "kv_store", "--jobs", "2")[0], 0)
            self.assertEqual((selftest.call_args.args, selftest.call_args.kwargs["jobs"]), ((["kv_store"],), 2))
            self.assertEqual(json.loads(self.run_it("selftest", "--json")[1])["caught"], 3)
        with mock.patch("omnitck.selftest.laws.selftest", return_value=bad):
            status, output, _ = self.run_it("selftest")
        self.assertEqual(status, 4)
        self.assertIn("defect not caught: Forgetful", output)
        self.refused("unknown contract 'kvs'", "selftest", "-c", "kvs")
        self.refused("'multi_tenancy' has no reference of its own", "selftest", "-c", "multi_tenancy")


class TestProcess(CommandLine):
    def test_a_reader_that_goes_away_spoils_nothing(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "omnitck", "list"],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        os.close(writing)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_errors_have_no_traceback(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "omnitck", "certify", "stores:make_nothing", "--contract", "kv_store"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        self.assertEqual(done.returncode, 2)
        self.assertEqual(
            done.stderr,
            "omnitck: error: stores.make_nothing: make_provider returned None: return the provider, or an async context manager "
            "that yields it.\n",
        )


if __name__ == "__main__":
    unittest.main()
