"""The command line, as a person or a program meets it."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any
from unittest import mock

from omnitck.cli import main
from omnitck.registry import BUILT_IN, find

ROOT = str(Path(__file__).parents[1])

STORES = '''
import unittest
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.shared.exceptions import UnavailableError

class Store:
    def __init__(self): self.values = {}
    async def get(self, key): return self.values.get(key)
    async def set(self, key, value): self.values[key] = value
    async def delete(self, key): self.values.pop(key, None)

async def make_store(**config): return Store()
async def make_typo(**config): return Store()
make_typo.capabilities = {"tll"}
async def make_nothing(): return None
async def make_unreachable(): return Unreachable()
def make_plainly(): return Store()
number = 3

class Unreachable(Store):
    async def get(self, key): raise UnavailableError("gone") from OSError("no route")
    async def set(self, key, value): await self.get(key)
    async def delete(self, key): await self.get(key)

class Forgets(Store):
    """Answers with an escape sequence."""
    async def get(self, key): return "\\x1b[2Jwrong"

async def make_forgets(): return Forgets()

class Suite(KVStoreContract, unittest.IsolatedAsyncioTestCase):
    known_deviations = {"KV-01": "ACME-1"}
    async def make_provider(self, **config): return Store()
'''


RAISING = '''
"""Stores to certify."""


class Store:
    async def get(self, key):
        return None

    async def set(self, key, value):
        try:
            raise ConnectionRefusedError("nobody listens")
        except OSError as error:
            raise RuntimeError("no write") from error

    async def delete(self, key):
        pass


async def make_store(**config):
    return Store()
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

    def test_what_is_excluded_is_not_run_and_makes_it_partial(self) -> None:
        arguments = ("certify", "stores:make_store", "--contract", "kv_store", "-r", "KV-0*", "--no-isolate")
        status, output, _ = self.run_it(*arguments, "--exclude", "KV-01", "--exclude", "kv-02", "-v")
        self.assertEqual(status, 0)
        self.assertRegex(output, r"KV-03 +passed")
        self.assertNotRegex(output, r"KV-0[12] +passed")
        self.assertIn("but only KV-0* was selected, and KV-01, kv-02 was\n  excluded (", output)
        self.refused("no rule of make_store fits 'KV-99'", *arguments, "--exclude", "KV-99")
        self.refused("no rule of make_store is left: exclude fewer.", *arguments, "--exclude", "KV-*")

    def test_a_run_can_end_at_the_first_failure(self) -> None:
        for isolated in ("--isolate", "--no-isolate"):
            status, output, _ = self.run_it(
                "certify", "stores:make_forgets", "--contract", "kv_store", "-r", "KV-0*", "--fail-fast", isolated
            )
            with self.subTest(isolated):
                self.assertEqual(status, 1)
                self.assertEqual(output.count("FAILED: KV-"), 1)
                self.assertRegex(output, r"\n\d+ rules not run: the run was to end at the first failure, which was KV-0\d\n")

    def test_durations_and_tracebacks_are_shown_where_asked_for(self) -> None:
        Path("raising.py").write_text(RAISING)
        self.addCleanup(sys.modules.pop, "raising", None)
        arguments = ("certify", "raising:make_store", "--contract", "kv_store", "-r", "KV-02")
        status, plain, _ = self.run_it(*arguments)
        self.assertEqual(status, 1)
        self.assertIn("  observed  RuntimeError: no write, raised in raising.py line 13\n", plain)
        self.assertIn("  cause     ConnectionRefusedError: nobody listens, raised in raising.py line 11\n", plain)
        self.assertNotIn("Traceback", plain)
        with mock.patch.dict(os.environ):
            _, told, _ = self.run_it(*arguments, "--traceback", "--durations", "1")
        self.assertRegex(told, r"(?s)\n  Traceback .*raising\.py\", line 11, in set\n.*direct cause.*RuntimeError: no write\n")
        self.assertRegex(told, r"\n seconds  rule\n +\d\.\d{3}  KV-")

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

    def test_hooks_come_from_flags(self) -> None:
        """So that a factory can be certified for what needs one, and a failure repeats with it."""
        hook = "unreachable_provider=stores:make_unreachable"
        arguments = ("stores:make_store", "--contract=kv_store", "--profile=production", "--hook", hook)
        for how in ("--isolate", "--no-isolate"):
            status, output, errors = self.run_it("certify", *arguments, how, "--rule", "KV-COM-12", "--json", "report.json")
            self.assertEqual((status, errors), (0, ""), output)
            [suite] = json.loads(Path("report.json").read_text())["suites"]
            [found] = [each["outcome"] for each in suite["outcomes"] if each["rule"] == "KV-COM-12"]
            self.assertEqual((found, suite["profile"]), ("passed", "production"))
        wrong = (*arguments[:-1], "unreachable_provider=stores:make_store")
        status, output, _ = self.run_it("certify", *wrong, "--rule", "KV-COM-12", "--no-isolate")
        self.assertEqual(status, 1)
        again = output[output.index("again") :].partition("\n\n")[0].replace("\\\n", "").split()
        self.assertEqual(
            " ".join(again[1:]),
            "python -m omnitck certify stores:make_store --contract kv_store --profile production "
            "--hook unreachable_provider=stores:make_store --rule KV-COM-12",
        )
        self.assertEqual(self.run_it(*again[4:], "--no-isolate")[0], 1)

    def test_the_hook_that_availability_needs_is_named_with_its_flag(self) -> None:
        self.refused(
            "a command line names one with `--hook unreachable_provider=package.module:function`.",
            *("certify", "stores:make_store", "--contract=kv_store", "--profile=production", "--no-isolate"),
        )

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
            ("is no coroutine function", ("stores:make_plainly", *kv)),
            ("make_provider returned None", ("stores:make_nothing", *kv)),
            ("which has its contract already", ("stores:Suite", *kv)),
            ("unknown hook 'advnce'; did you mean advance?", ("stores:make_store", *kv, "--hook", "advnce=stores:make_store")),
            ("hook 'advance': target 'stores:x': stores has no 'x'", ("stores:make_store", *kv, "--hook", "advance=stores:x")),
            ("argument --hook: 'advance' is not of the form NAME=package.module:function", ("stores:Suite", "--hook", "advance")),
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


LAMPS = '''
import unittest
from typing import Protocol
from omnitck import Contract, Definition, rule
from omnitck.shared.exceptions import UnavailableError

class Lamp(Protocol):
    async def light(self): ...

class Dims(Protocol):
    async def dim(self): ...

class LampContract(Contract):
    definition = Definition(name="lamp", prefix="LA", protocols={"": Lamp, "dim": Dims})

    @rule("LA-01")
    async def test_la_01_it_is_a_lamp(self, t):
        """A lamp is a lamp."""
        await t.connect()

    @rule("LA-02")
    async def test_la_02_it_lights(self, t):
        """A lamp lights."""
        await (await t.connect()).light()

    @rule("LA-03", "dim")
    async def test_la_03_it_dims(self, t):
        """A lamp dims."""
        await (await t.connect()).dim()

class Bulb:
    def __init__(self, light=None, dim=None): self.errors = {"light": light, "dim": dim}
    async def light(self):
        if self.errors["light"]: raise self.errors["light"]
    async def dim(self):
        if self.errors["dim"]: raise self.errors["dim"]

class Suite(LampContract, unittest.IsolatedAsyncioTestCase):
    capabilities = {"dim"}
    errors = {}
    async def make_provider(self): return Bulb(**self.errors)

class Good(Suite): pass
class Broken(Suite): errors = {"light": OSError("no bulb")}
class Known(Broken): known_deviations = {"LA-02": "LAMP-7"}
class KnownDim(Suite):
    errors = {"dim": OSError("no dimmer")}
    known_deviations = {"LA-03": "LAMP-8"}
class Down(Suite): errors = {"light": UnavailableError("no power")}
class Absent(Suite):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("no lamp is installed")
class Unopened(Suite):
    async def make_provider(self): raise UnavailableError("no power")
class Bad(Suite):
    async def make_provider(self): return None
'''


class TestExitStatus(CommandLine):
    """Each exit status that the guide has, and which comes first where there could be several."""

    def setUp(self) -> None:
        super().setUp()
        Path("lamps.py").write_text(LAMPS)
        self.addCleanup(sys.modules.pop, "lamps", None)

    def check(self, status: int, verdict: str, *suites: str, how: str = "--isolate") -> None:
        found, output, errors = self.run_it("certify", *(f"lamps:{each}" for each in suites), how, "--output", "report.json")
        with self.subTest(suites):
            self.assertEqual((found, errors), (status, ""), output)
            document = json.loads(Path("report.json").read_text())
            self.assertEqual(document["verdict"], verdict)
            self.assertRegex(output, rf"\nverdict: {verdict}\b")

    def test_each(self) -> None:
        self.check(0, "conformant", "Good")
        self.check(0, "conformant", "KnownDim")
        self.check(0, "deviates, as known", "Known")
        self.check(1, "not conformant", "Broken")
        self.refused("make_provider returned None", "certify", "lamps:Bad")
        self.check(3, "inconclusive", "Down")
        self.check(3, "inconclusive", "Unopened")
        self.check(5, "nothing ran", "Absent")

    def test_a_rule_that_failed_comes_first(self) -> None:
        self.check(1, "not conformant", "Good", "Bad", "Down", "Absent", "Known", "Broken")

    def test_then_bad_input(self) -> None:
        for how in ("--isolate", "--no-isolate"):
            self.check(2, "inconclusive", "Good", "Down", "Absent", "Bad", how=how)
            self.check(1, "not conformant", "Misspelt", "Broken", how=how)

    def test_then_what_was_not_judged_and_what_did_not_run(self) -> None:
        self.check(3, "inconclusive", "Good", "Absent", "Down")
        self.check(5, "nothing ran", "Known", "Absent", "Good")
        self.check(0, "deviates, as known", "Good", "Known")

    def test_a_report_that_cannot_be_written_hides_no_failure(self) -> None:
        for suite, status in {"Broken": 1, "Good": 2, "Down": 2}.items():
            found, output, errors = self.run_it("certify", f"lamps:{suite}", "--output", "missing/report.json")
            with self.subTest(suite):
                self.assertEqual(found, status, output)
                self.assertIn("the certificate cannot be written to 'missing/report.json'", errors)
                self.assertIn(f'"name": "lamps.{suite}"', output)

    def test_it_is_that_of_the_process(self) -> None:
        for suite, status in {"Known": 0, "Broken": 1, "Bad": 2, "Down": 3, "Absent": 5}.items():
            command = [sys.executable, "-m", "omnitck", "certify", "-q", f"lamps:{suite}", "--no-isolate"]
            done = subprocess.run(command, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, status, done.stdout + done.stderr)


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
            "[tool.omnitck]\nsuites = [{target = 'stores:make_store', hooks = {advance = 3}}]": "not a table of hooks",
            "[tool.omnitck]\nsuites = [{target = 'stores:Suite', hooks = {advnce = 'a:b'}}]": "unknown hook 'advnce'; did you",
            "[tool.omnitck]\njobs = 0\nsuites = [{target = 'stores:Suite'}]": "tool.omnitck.jobs of the configuration: 0 is",
        }.items():
            Path("mine.toml").write_text(text)
            self.refused(sentence, "certify", "--config", "mine.toml", "--no-isolate")
        self.refused("configuration 'none.toml' cannot be read: No such file", "certify", "--config", "none.toml")

    def test_processes_come_from_a_flag_a_variable_or_the_configuration(self) -> None:
        Path("pyproject.toml").write_text("[tool.omnitck]\nprocesses = 4\n")
        arguments = ("stores:make_store", "--contract=kv_store", "--json", "report.json")
        for expected, flags, variables in (
            (4, (), {}),
            (3, (), {"OMNITCK_PROCESSES": "3"}),
            (2, ("--processes", "2"), {"OMNITCK_PROCESSES": "3"}),
        ):
            with mock.patch.dict(os.environ, variables):
                status, _, errors = self.certify(*arguments, *flags)
            self.assertEqual((status, errors), (0, ""))
            self.assertEqual(json.loads(Path("report.json").read_text())["processes"], expected)
        self.refused("processes is 4, but the suites are not to be isolated", "certify", *arguments, "--no-isolate")
        self.refused("argument --processes: 0 is below 1", "certify", *arguments, "--processes", "0")

    def test_a_bad_variable_is_named(self) -> None:
        for name, value in {"OMNITCK_JOBS": "many", "OMNITCK_PATIENCE": "-1", "OMNITCK_DEADLINE": "soon"}.items():
            with mock.patch.dict(os.environ, {name: value}):
                self.refused(name, "certify", "stores:make_store", "--contract", "kv_store")

    def test_hooks_come_from_the_configuration(self) -> None:
        Path("pyproject.toml").write_text(
            "[[tool.omnitck.suites]]\ntarget = 'stores:make_store'\ncontract = 'kv_store'\ncapabilities = ['availability']\n"
            "hooks = { unreachable_provider = 'stores:make_unreachable' }\n"
        )
        status, output, errors = self.run_it("certify", "--no-isolate", "--rule", "KV-COM-12")
        self.assertEqual((status, errors), (0, ""), output)
        self.assertRegex(output, r"availability +1 ")


class TestReading(CommandLine):
    def test_list(self) -> None:
        status, output, _ = self.run_it("list", "--json")
        contracts = json.loads(output)["contracts"]
        self.assertEqual(status, 0)
        names = ["kv_store", "secrets", "object_storage", "cache", "document_database"]
        names += ["producer", "consumer", "delayed_messaging"]
        names += ["transactional_outbox", "sagas", "distributed_lock", "circuit_breaker"]
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


class TestCrashes(CommandLine):
    """What goes wrong in the kit itself says nothing of the provider: never status 1, and never a traceback."""

    def test_an_unexpected_exception_is_one_sentence(self) -> None:
        with mock.patch("omnitck.cli.registered", side_effect=ZeroDivisionError("by zero")):
            status, output, errors = self.run_it("list")
        self.assertEqual((status, output), (3, ""))
        self.assertRegex(
            errors, r"^omnitck: error: the kit could not go on: ZeroDivisionError: by zero, raised in cli\.py line \d+\.\n$"
        )

    def test_what_was_found_out_is_kept_if_it_cannot_be_printed(self) -> None:
        with mock.patch("omnitck.cli.summarize", side_effect=MemoryError):
            status, _, errors = self.certify("stores:make_store", "--contract=kv_store", "--no-isolate", "--json", "report.json")
        self.assertEqual((status, errors.count("\n")), (3, 1))
        self.assertEqual(json.loads(Path("report.json").read_text())["verdict"], "partial")

    def test_metadata_need_not_be_there(self) -> None:
        with mock.patch("importlib.metadata.version", side_effect=PackageNotFoundError("anyio")):
            status, _, errors = self.certify("stores:make_store", "--contract=kv_store", "--no-isolate", "--json", "report.json")
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(json.loads(Path("report.json").read_text())["environment"]["anyio"], "unknown")

    def test_where_descriptors_are_short_a_suite_is_inconclusive(self) -> None:
        program = (
            "import resource, sys; from omnitck.cli import main; import omnitck.certifying.follower; "
            "resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7)); sys.exit(main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "certify", "stores:make_store", "--contract", "kv_store"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (3, ""), done.stdout)
        self.assertRegex(done.stdout, r"The kit could not go on: OSError: \[Errno 24\] Too many open files")
        self.assertEqual(json.loads(Path("omnitck-certificate.json").read_text())["verdict"], "inconclusive")


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

    def test_stripped_docstrings_are_refused_by_every_command(self) -> None:
        for command in (("list",), ("explain", "KV-01"), ("certify", "stores:make_store", "--contract", "kv_store")):
            done = subprocess.run(
                [sys.executable, "-OO", "-m", "omnitck", *command],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": ROOT},
                check=False,
            )
            self.assertEqual((done.returncode, done.stdout), (2, ""), command)
            self.assertRegex(done.stderr, r"^omnitck: error: Python was started with -OO .*\n$")

    def test_asserts_may_be_stripped(self) -> None:
        arguments = ("certify", "stores:make_store", "--contract", "kv_store", "-r", "KV-0*", "--json", "report.json", "-q")
        done = subprocess.run(
            [sys.executable, "-O", "-m", "omnitck", *arguments, "--no-isolate"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        stripped = json.loads(Path("report.json").read_text())
        self.assertEqual(self.run_it(*arguments)[0], 0)
        whole = json.loads(Path("report.json").read_text())
        self.assertEqual(stripped["contracts"], whole["contracts"])
        outcomes = [[(each["rule"], each["outcome"]) for each in one["suites"][0]["outcomes"]] for one in (stripped, whole)]
        self.assertEqual(*outcomes)

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
