"""The README is true: its commands are one line each, its examples pass, and its broken store fails as printed.

Every fenced block of Python that begins with a comment line naming a file (`# test_my_store.py`) is that file. The block behind
`<!-- broken store -->` fails one rule, and the next block of `text` is what the kit says of it.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import NamedTuple

KIT = Path(__file__).parent.parent


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


class Run(NamedTuple):
    status: int
    printed: str
    outcomes: list[dict[str, str]]


def blocks_of(markdown: str) -> list[Block]:
    """The fenced blocks of *markdown*, in their order."""
    fences = re.finditer(r"(?P<before>[^\n]*)\n+^```(?P<language>\w+)\n(?P<text>.*?)^```$", markdown, re.M | re.S)
    return [Block(each["before"], each["language"], each["text"]) for each in fences]


def masked(text: str) -> str:
    """*text* without what differs from run to run."""
    text = re.sub(r"omnitck[0-9a-f]{12}", "omnitck############", text)
    return re.sub(r"\+\d+\.\d ms", "+#.# ms", text)


def run(files: list[Block], *command: str) -> Run:
    """Run `python` *command* in a folder that holds *files* and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        for block in files:
            path = Path(folder, block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        results = Path(folder, "results.jsonl")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "OMNITCK_"))},
            "OMNITCK_RESULTS": str(results),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(KIT), os.environ.get("PYTHONPATH")])),
        }
        done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
        lines = results.read_text("utf-8").splitlines() if results.exists() else []
        return Run(done.returncode, done.stdout + done.stderr, [json.loads(each) for each in lines])


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


class TestReadme(unittest.TestCase):
    blocks: list[Block]
    files: list[Block]

    @classmethod
    def setUpClass(cls) -> None:
        cls.blocks = blocks_of((KIT / "README.md").read_text("utf-8"))
        cls.files = [each for each in cls.blocks if each.file and not each.is_broken]

    def test_the_first_two_commands_are_one_line_each(self) -> None:
        commands = [each.text for each in self.blocks if each.language == "sh"][:2]
        self.assertEqual([each.count("\n") for each in commands], [1, 1])
        self.assertNotIn("", [each.strip() for each in commands])

    def test_every_python_block_compiles(self) -> None:
        python = [each for each in self.blocks if each.language == "python"]
        self.assertGreaterEqual(len(python), 3)
        for each in python:
            compile(each.text, each.file or "README.md", "exec")

    def check_examples(self, *command: str, needs: str) -> None:
        if importlib.util.find_spec(needs) is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS"):
            self.skipTest(f"{needs} is not installed")

        tests = [each.file for each in self.files if Path(each.file).name.startswith("test_")]
        self.assertGreaterEqual(len(tests), 2)
        for file in tests:
            name = file if needs == "pytest" else file.removesuffix(".py").replace("/", ".")
            done = run(self.files, *command, name)
            self.assertEqual(done.status, 0, done.printed)
            self.assertIn("passed", {each["outcome"] for each in done.outcomes})

    def test_the_examples_pass_under_unittest(self) -> None:
        self.check_examples("-m", "unittest", needs="unittest")

    def test_the_examples_pass_under_pytest(self) -> None:
        self.check_examples("-m", "pytest", "-q", "-p", "no:cacheprovider", needs="pytest")

    def test_the_examples_pass_under_nose2(self) -> None:
        self.check_examples("-m", "nose2", needs="nose2")

    def test_the_broken_store_fails_as_printed(self) -> None:
        [(broken, text)] = [
            (each, next(after.text for after in self.blocks[number:] if after.language == "text"))
            for number, each in enumerate(self.blocks)
            if each.is_broken
        ]
        done = run([*self.files, broken], "-m", "unittest", broken.file.removesuffix(".py"))
        self.assertEqual(done.status, 1, done.printed)
        failures = {each["rule"]: masked(each["message"]) + "\n" for each in done.outcomes if each["outcome"] == "failed"}
        rule = text.split()[0]
        self.assertEqual(failures.get(rule), masked(text))
        self.assertIn(masked(text), masked(done.printed))
