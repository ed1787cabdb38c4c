"""Outcomes: the text of a violation, who listens, and the file of `OMNITCK_RESULTS`."""

import contextlib
import io
import json
import os
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from omnitck.kit import outcomes
from omnitck.kit.outcomes import Outcome, Status, Violation, emit, listening, record, starting


class Suite:
    pass


def outcome(rule: str = "X-01", message: str = "", during: str = "") -> Outcome:
    return Outcome("mine.Suite", rule, Status.PASSED, 0.5, message, during)


class TestViolation(unittest.TestCase):
    def test_only_what_is_known_is_printed(self) -> None:
        violation = Violation(expected="1", observed="2")
        self.assertEqual(str(violation), "  expected  1\n  observed  2")

    def test_every_part_has_its_place(self) -> None:
        violation = Violation(given="a", expected="b", observed="c", hint="d", case="e")
        violation.heading, violation.provider, violation.again = "X-01 [MUST] It is.", "mine.Store", "python again.py"
        violation.trace = ["first", "second"]
        violation.others = [Violation(case="f", expected="g", observed="h")]
        self.assertEqual(
            str(violation),
            "X-01 [MUST] It is.\n"
            "  provider  mine.Store\n"
            "  case      e\n"
            "  given     a\n"
            "  expected  b\n"
            "  observed  c\n"
            "  hint      d\n"
            "  case      f\n"
            "  expected  g\n"
            "  observed  h\n"
            "  trace     first\n"
            "            second\n"
            "  again     python again.py",
        )

    def test_several_lines_keep_to_their_column(self) -> None:
        self.assertEqual(str(Violation(given="a\nb", expected="c")), "  given     a\n            b\n  expected  c")


class TestListening(unittest.TestCase):
    def test_a_listener_hears_of_each_rule_in_any_thread_as_long_as_it_listens(self) -> None:
        heard: list[object] = []
        with listening(lambda cls, each: heard.append((cls, each)), lambda cls, rule: heard.append((cls, rule))):
            thread = threading.Thread(target=starting, args=(Suite, "X-01"))
            thread.start()
            thread.join()
            emit(Suite, outcome())
        emit(Suite, outcome("X-02"))
        self.assertEqual(heard, [(Suite, "X-01"), (Suite, outcome())])


class TestResultsFile(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def record(self, path: Path, *recorded: Outcome) -> str:
        """Record with `OMNITCK_RESULTS` set to *path*; what was said about it."""
        said = io.StringIO()
        with mock.patch.dict(os.environ, {"OMNITCK_RESULTS": str(path)}), contextlib.redirect_stderr(said):
            for each in recorded:
                record(each)
        return said.getvalue()

    def test_each_outcome_is_a_line_of_json_behind_what_was_there(self) -> None:
        path = self.folder / "results.jsonl"
        self.assertEqual(self.record(path, outcome()), "")
        self.assertEqual(self.record(path, outcome("X-02", "two\nlines \u2028 \ud800", "X-01")), "")
        text = path.read_text("ascii")
        self.assertEqual(text.count("\n"), 2)
        self.assertEqual(
            [json.loads(line) for line in text.splitlines()],
            [
                {
                    "suite": "mine.Suite",
                    "rule": "X-01",
                    "outcome": "passed",
                    "seconds": 0.5,
                    "message": "",
                    "during": "",
                    "cause": "",
                    "traceback": "",
                },
                {
                    "suite": "mine.Suite",
                    "rule": "X-02",
                    "outcome": "passed",
                    "seconds": 0.5,
                    "message": "two\nlines \u2028 \ud800",
                    "during": "X-01",
                    "cause": "",
                    "traceback": "",
                },
            ],
        )

    def test_lines_of_several_threads_do_not_mix(self) -> None:
        path = self.folder / "results.jsonl"
        with mock.patch.dict(os.environ, {"OMNITCK_RESULTS": str(path)}):

            def work(number: int) -> None:
                for each in range(20):
                    record(outcome(f"X-{number}-{each}", "x" * 5000))

            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        rules = [json.loads(line)["rule"] for line in path.read_text().splitlines()]
        self.assertEqual(sorted(rules), sorted(f"X-{n}-{m}" for n in range(8) for m in range(20)))

    def test_a_path_that_cannot_be_written_is_said_once_and_stops_nothing(self) -> None:
        path = self.folder / "missing" / "results.jsonl"
        self.addCleanup(outcomes._complained.discard, str(path))
        said = self.record(path, outcome("X-01"), outcome("X-02"))
        self.assertEqual(
            said,
            f"omnitck: OMNITCK_RESULTS cannot be written: [Errno 2] No such file or directory: {str(path)!r}; "
            "outcomes are not recorded.\n",
        )
