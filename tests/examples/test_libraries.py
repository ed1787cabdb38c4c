"""The tables of what libraries do: they are what was certified, and a new version alone is no difference."""

import contextlib
import io
import re
import tempfile
import unittest
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import omnitck
from examples import __main__ as examples_main
from examples import libraries
from examples.__main__ import Module, Result, check, discover, main, suites_of, write
from examples.libraries import Row, difference, filled, news_of_versions
from omnitck.primitives.kv_store import KVStoreContract, KVStoreProtocol
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore

KIT = Path(__file__).parents[2]

EMPTY = "What they do:\n\n<!-- libraries -->\n<!-- end of libraries -->\n\nMore.\n"
WHOLE = EMPTY + "\n<!-- deviations -->\nold\n<!-- end of deviations -->\n"

FUSE = Row(
    distribution="fuse",
    where="",
    version="1.2",
    contract="circuit_breaker",
    verdict="deviates, as known",
    run=40,
    fails={
        "BRK-08": ("It is half-open after the timeout.", "it stays `OPEN | CLOSED`"),
        "BRK-11": ("A full timeout.", "half of it"),
    },
)
GOOD = Row(distribution="a-good-one", where="on Valkey", version="3.0", contract="cache", verdict="conformant", run=80)
TABLE = """\
<!-- libraries -->
| library | version | contract | verdict | rules that it fails |
|---|---|---|---|---|
| a-good-one, on Valkey | 3.0 | `cache` | conformant | none of 80 |
| fuse | 1.2 | `circuit_breaker` | deviates, as known | 2 of 40: BRK-08 BRK-11 |
<!-- end of libraries -->
"""


class TestTables(unittest.TestCase):
    def test_the_table_has_a_line_for_each_library_in_the_order_of_contracts(self) -> None:
        self.assertEqual(filled(EMPTY, [FUSE, GOOD]), f"What they do:\n\n{TABLE}\nMore.\n")

    def test_the_deviations_are_told_with_the_standard_and_what_was_observed(self) -> None:
        self.assertEqual(
            filled(WHOLE, [FUSE, GOOD]).partition("<!-- deviations -->\n")[2],
            "### fuse: `circuit_breaker`\n\n| rule | the standard | observed |\n|---|---|---|\n"
            "| BRK-08 | It is half-open after the timeout. | it stays `OPEN \\| CLOSED` |\n"
            "| BRK-11 | A full timeout. | half of it |\n<!-- end of deviations -->\n",
        )

    def test_writing_them_twice_changes_nothing(self) -> None:
        once = filled(WHOLE, [FUSE, GOOD])
        self.assertEqual(filled(once, [GOOD, FUSE]), once)

    def test_a_text_without_a_place_is_refused(self) -> None:
        for text in ("", "<!-- libraries -->\n", "<!-- libraries -->\n<!-- end of deviations -->\n"):
            with self.assertRaisesRegex(ValueError, "no place"):
                filled(text, [FUSE])

    def test_a_new_version_is_no_difference_but_is_told(self) -> None:
        text = filled(WHOLE, [FUSE, GOOD])
        rows = [replace(FUSE, version="2.0"), GOOD]
        self.assertEqual(difference(text, rows), "")
        self.assertEqual(news_of_versions(text, rows), ["fuse is 2.0 here, and 1.2 in the table"])
        self.assertEqual(news_of_versions(text, [FUSE, GOOD]), [])

    def test_whatever_else_has_changed_is_a_difference(self) -> None:
        text = filled(WHOLE, [FUSE, GOOD])
        changed = {
            "the verdict": [replace(FUSE, verdict="not conformant"), GOOD],
            "a rule more": [replace(FUSE, fails={**FUSE.fails, "BRK-12": ("It frees its slot.", "it does not")}), GOOD],
            "a rule less": [FUSE, replace(GOOD, run=79)],
            "what was observed": [replace(FUSE, fails={**FUSE.fails, "BRK-11": ("A full timeout.", "none of it")}), GOOD],
            "a library more": [FUSE, GOOD, replace(GOOD, where="in memory")],
            "a library less": [FUSE],
        }
        for what, rows in changed.items():
            with self.subTest(what):
                self.assertNotEqual(difference(text, rows), "")


class TestRows(unittest.TestCase):
    def test_a_row_is_what_the_certificate_says(self) -> None:
        class Suite(KVStoreContract, unittest.IsolatedAsyncioTestCase):
            distribution = "anyio"
            known_deviations = dict.fromkeys(("KV-03", "KV-06", "KV-32"), "an empty value is lost")

            async def make_provider(self, **config: object) -> KVStoreProtocol:
                return Forgetful(MemoryBackend(), capabilities=self.declared)

        [report] = omnitck.certify(Suite, isolate=False, jobs=8).suites
        row = Row.of(Suite, report)
        self.assertEqual((row.name, row.version, row.contract), ("anyio", version("anyio"), "kv_store"))
        self.assertEqual(row.verdict, "deviates, as known")
        self.assertEqual(row.fails["KV-03"], ("The empty string is a value, and differs from absence.", "an empty value is lost"))
        self.assertEqual(list(row.fails), ["KV-03", "KV-06", "KV-32"])
        self.assertGreater(row.run, len(row.fails))
        self.assertLess(row.run, len(report.rules), "what is not declared has no say")

    def test_what_shows_only_sometimes_is_told_in_every_run(self) -> None:
        class Suite(KVStoreContract, unittest.IsolatedAsyncioTestCase):
            distribution = "anyio"
            sometimes = {"KV-03"}
            known_deviations = {"KV-03": "an empty value is lost"}

            async def make_provider(self, **config: object) -> KVStoreProtocol:
                return MemoryKVStore(MemoryBackend(), capabilities=self.declared)

        [report] = omnitck.certify(Suite, isolate=False, jobs=8).suites
        self.assertEqual(report.stale_deviations, ("KV-03",))
        fails = Row.of(Suite, report).fails
        self.assertEqual(
            {rule: observed for rule, (_, observed) in fails.items()}, {"KV-03": "an empty value is lost; not in every run"}
        )

    def test_a_library_that_is_not_installed_has_no_version(self) -> None:
        self.assertEqual(libraries.version_of("no-such-distribution-as-this"), "not installed")


class Forgetful(MemoryKVStore):
    """`return value or None`."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) or None


class TestTexts(unittest.TestCase):
    """What stands in the README and in libraries.md; what it says of each is checked where servers are, with `--check`."""

    def test_every_library_stands_in_both_tables(self) -> None:
        wrapped = set()
        for module in discover(Path(examples_main.__file__).parent):
            with contextlib.suppress(unittest.SkipTest, ImportError):
                suites = suites_of(import_module(module.name))
                wrapped |= {(each.distribution, module.contract) for each in suites if hasattr(each, "distribution")}
        if not wrapped:
            self.skipTest('no library is installed: pip install "omnitck[examples]"')
        for text in (KIT / "README.md", KIT / ".github/docs/libraries.md"):
            stated = set(re.findall(r"^\| ([^,|]+?)(?:, [^|]*?)? \| [^|]+ \| `(\w+)` \|", text.read_text("utf-8"), re.M))
            self.assertEqual(wrapped - stated, set(), f"not in {text.name}")


class TestCommand(unittest.TestCase):
    def setUp(self) -> None:
        self.file = Path(self.enterContext(tempfile.TemporaryDirectory()), "README.md")
        self.file.write_text(EMPTY, "utf-8")

    def results(self, *rows: Row, verdict: str | None = None) -> list[Result]:
        outcomes = {"BRK-01": "passed"}
        return [
            Result(Module(row.distribution, row.contract), row.distribution, verdict or row.verdict, outcomes, (), row)
            for row in rows
        ]

    def said(self, command: object, *arguments: object) -> tuple[bool, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            done = command(*arguments)  # type: ignore[operator]
        return done, printed.getvalue()

    def test_what_was_written_is_what_is_checked(self) -> None:
        self.assertEqual(self.said(write, self.file, self.results(FUSE, GOOD)), (True, ""))
        self.assertEqual(self.said(check, self.file, [FUSE, GOOD]), (True, ""))
        self.assertIn(TABLE, self.file.read_text("utf-8"))

    def test_a_new_version_passes_with_a_word(self) -> None:
        write(self.file, self.results(FUSE))
        good, printed = self.said(check, self.file, [replace(FUSE, version="1.3")])
        self.assertTrue(good)
        self.assertIn("fuse is 1.3 here, and 1.2 in the table", printed)

    def test_a_difference_is_printed(self) -> None:
        write(self.file, self.results(FUSE))
        good, printed = self.said(check, self.file, [replace(FUSE, verdict="conformant")])
        self.assertFalse(good)
        self.assertIn("-| fuse | 1.2 | `circuit_breaker` | deviates, as known |", printed)
        self.assertIn("+| fuse | 1.2 | `circuit_breaker` | conformant |", printed)

    def test_without_a_verdict_nothing_is_written(self) -> None:
        missing: Sequence[Result] = [Result(Module("fuse", "circuit_breaker"), "fuse", "skipped: not installed", {})]
        for results in (missing, self.results(FUSE, verdict="inconclusive")):
            good, printed = self.said(write, self.file, [*self.results(GOOD), *results])
            self.assertFalse(good)
            self.assertIn("there is no verdict of fuse circuit_breaker", printed)
            self.assertEqual(self.file.read_text("utf-8"), EMPTY)

    def test_a_file_that_is_not_there_is_named(self) -> None:
        nowhere = self.file.with_name("NOWHERE.md")
        for command, argument in ((check, [FUSE]), (write, self.results(FUSE))):
            good, printed = self.said(command, nowhere, argument)
            self.assertFalse(good)
            self.assertIn("NOWHERE.md", printed)

    def test_tables_of_some_names_are_refused(self) -> None:
        printed = io.StringIO()
        with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(printed):
            main(["valkey", "--check", str(self.file)])
        self.assertEqual(ended.exception.code, 2)
        self.assertIn("the tables are of all libraries", printed.getvalue())


if __name__ == "__main__":
    unittest.main()
