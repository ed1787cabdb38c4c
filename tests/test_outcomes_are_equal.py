"""The same suites have the same outcomes, rule by rule, whichever runner runs them and whatever else is on them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path

from omnitck.kit.outcomes import Status

SUITES = Path(__file__).parent / "suites"
KIT = SUITES.parent.parent
PYTEST = ("-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "--rootdir=.", "-c", os.devnull)

Outcomes = list[tuple[str, str, str, str]]
"""Suite, rule, the rule that was watched if it is an audit, outcome; sorted."""


def run_under(*command: str, needs: str = "unittest") -> tuple[Outcomes, int, str]:
    """What the runner of `python` *command* makes of the suites, its exit status and text; skips if it is not installed."""
    if importlib.util.find_spec(needs) is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS"):
        raise unittest.SkipTest(f"{needs} is not installed")

    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.jsonl")
        paths = [str(KIT), str(SUITES), os.environ.get("PYTHONPATH", "")]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "OMNITCK_"))},
            "OMNITCK_RESULTS": str(results),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run([sys.executable, *command], cwd=SUITES, env=environment, capture_output=True, text=True)
        if not results.exists():
            raise AssertionError(f"{' '.join(command)} ran nothing:\n{done.stdout}\n{done.stderr}")

        lines = map(json.loads, results.read_text("utf-8").splitlines())
        outcomes = sorted((each["suite"], each["rule"], each["during"], each["outcome"]) for each in lines)
        return outcomes, done.returncode, done.stdout + done.stderr


def outcomes_under(*command: str, needs: str = "unittest") -> Outcomes:
    """What the runner of `python` *command* makes of the suites; skips if it is not installed."""
    return run_under(*command, needs=needs)[0]


class TestRunners(unittest.TestCase):
    unittest_outcomes: Outcomes

    @classmethod
    def setUpClass(cls) -> None:
        cls.unittest_outcomes = outcomes_under("-m", "unittest", "-q", "every_outcome")

    def check(self, outcomes: Outcomes) -> None:
        self.maxDiff = None
        self.assertEqual(outcomes, self.unittest_outcomes)

    def test_unittest_has_outcomes_of_every_kind_each_once(self) -> None:
        self.assertEqual(len({each[:3] for each in self.unittest_outcomes}), len(self.unittest_outcomes))
        kinds: dict[str, set[str]] = {}
        for suite, _, _, outcome in self.unittest_outcomes:
            kinds.setdefault(suite, set()).add(outcome)
        self.assertEqual(
            kinds,
            {
                "every_outcome.TestReference": {"passed"},
                "every_outcome.TestDefective": {"passed", "failed", "error", "known deviation"},
                "every_outcome.TestPlain": {"passed", "not declared", "not provoked"},
                "every_outcome.TestAudited": {"passed", "failed", "not declared", "not provoked"},
                "every_outcome.TestWithoutProvider": {"error", "not declared", "not provoked"},
            },
        )
        failed = Counter(suite for suite, _, _, outcome in self.unittest_outcomes if outcome == "failed")
        self.assertGreaterEqual(failed["every_outcome.TestDefective"], 5)

    def test_an_audit_fails_beside_the_rule_that_it_watched(self) -> None:
        audited = [each[1:] for each in self.unittest_outcomes if each[0] == "every_outcome.TestAudited"]
        self.assertEqual([each for each in audited if each[2] == "failed"], [("WAT-01", "KV-07", "failed")])
        passed = {rule for rule, during, outcome in audited if not during and outcome == "passed"}
        self.assertEqual({during for _, during, _ in audited if during}, passed)

    def test_pytest(self) -> None:
        self.check(outcomes_under(*PYTEST, "every_outcome.py", needs="pytest"))

    def test_pytest_xdist(self) -> None:
        self.check(outcomes_under(*PYTEST, "-p", "xdist", "-n", "2", "every_outcome.py", needs="xdist"))

    def test_nose2(self) -> None:
        self.check(outcomes_under("-m", "nose2", "-q", "every_outcome", needs="nose2"))

    def test_testtools(self) -> None:
        self.check(outcomes_under("run_concurrently.py", "testtools", "every_outcome", needs="testtools"))

    def test_jobs(self) -> None:
        self.check(outcomes_under("run_concurrently.py", "jobs", "every_outcome"))


class TestGuidesTable(unittest.TestCase):
    """The guide says truly in which words each runner tells of each outcome."""

    SUITES = ("every_outcome.TestDefective", "every_outcome.TestPlain")
    UNITTEST = r"^(?P<test>test_\w+) \(every_outcome\.(?P<suite>\w+)\..*\)\n.* \.\.\. (?P<word>\w+)"
    PYTEST = r"^every_outcome\.py::(?P<suite>\w+)::(?P<test>test_\w+) (?P<word>[A-Z]+)"

    def check(self, column: int, line: str, *command: str, needs: str = "unittest") -> None:
        """*line* is what a runner prints of a test."""
        outcomes, status, printed = run_under(*command, needs=needs)
        untold = {(suite.rpartition(".")[2], rule.removeprefix("KV-")): outcome for suite, rule, _, outcome in outcomes}
        words: dict[str, set[str]] = {}
        for told in re.finditer(line, printed, re.M):
            rule = "-".join(told["test"].upper().split("_")[1:3]).removeprefix("KV-")
            words.setdefault(untold.pop((told["suite"], rule)), set()).add(told["word"])
        self.assertEqual((untold, status), ({}, 1), printed)
        self.assert_said(column, words)

    def assert_said(self, column: int, words: dict[str, set[str]]) -> None:
        guide = (KIT / ".github/docs/guide.md").read_text("utf-8")
        table = guide.partition("| outcome | unittest, nose2 | pytest | certify |\n")[2].partition("\n\n")[0]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
        self.assertEqual([row[0] for row in rows], [str(each) for each in Status])
        self.assertEqual(words, {row[0]: {row[column]} for row in rows if row[0] != "not run"})

    def test_unittest(self) -> None:
        self.check(1, self.UNITTEST, "-m", "unittest", "-v", *self.SUITES)

    def test_nose2(self) -> None:
        self.check(1, self.UNITTEST, "-m", "nose2", "-v", *self.SUITES, needs="nose2")

    def test_pytest(self) -> None:
        command = [each for each in PYTEST if each != "-q"]
        tests = [each.replace(".", ".py::") for each in self.SUITES]
        self.check(2, self.PYTEST, *command, "-v", *tests, needs="pytest")

    def test_certify(self) -> None:
        words: dict[str, set[str]] = {}
        for suite in self.SUITES:
            command = "-m", "omnitck", "certify", "-v", "--output", os.devnull, suite.replace(".", ":")
            outcomes, _, printed = run_under(*command)
            untold = {rule: outcome for _, rule, _, outcome in outcomes}
            for rule, word in re.findall(r"^  ([A-Z0-9-]+) +([a-z ]+?) +\d+\.\d+ s$", printed, re.M):
                words.setdefault(untold.pop(rule), set()).add(word)
            self.assertEqual(untold, {}, printed)
        self.assert_said(3, words)


class TestStaleDeviations(unittest.TestCase):
    """A known deviation that passes has passed, and every way of running says that it can be taken out."""

    RULE = "stale_deviation.TestStale.test_kv_03_empty_is_not_absent"
    WARNING = "StaleDeviationWarning: stale_deviation.TestStale: KV-03 is a known deviation and passes"

    def check(self, text: str, *command: str, needs: str = "unittest", outcome: str = "passed") -> None:
        outcomes, status, printed = run_under(*command, needs=needs)
        self.assertEqual(outcomes, [("stale_deviation.TestStale", "KV-03", "", outcome)], printed)
        self.assertEqual(status, 0 if outcome == "passed" else 1, printed)
        self.assertEqual(printed.count(text), 1, printed)

    def test_unittest(self) -> None:
        self.check(self.WARNING, "-m", "unittest", self.RULE)

    def test_pytest(self) -> None:
        self.check(self.WARNING, *PYTEST, "-k", "kv_03", "stale_deviation.py", needs="pytest")

    def test_pytest_xdist(self) -> None:
        self.check(self.WARNING, *PYTEST, "-p", "xdist", "-n", "2", "-k", "kv_03", "stale_deviation.py", needs="xdist")

    def test_nose2(self) -> None:
        self.check(self.WARNING, "-m", "nose2", self.RULE, needs="nose2")

    def test_certify(self) -> None:
        certify = "-m", "omnitck", "certify", "stale_deviation:TestStale", "--rule", "KV-03"
        for how in ("--isolate", "--no-isolate"):
            self.check("stale deviation KV-03: it passes; take it out of known_deviations", *certify, how)
            self.check("stale deviation KV-03", "-W", "error", *certify, how)

    def test_as_an_error_where_it_is_asked_for(self) -> None:
        self.check(self.WARNING, "-W", "error::omnitck.StaleDeviationWarning", "-m", "unittest", self.RULE, outcome="error")


class TestOwnNames(unittest.TestCase):
    """What an author calls attributes of a suite changes no outcome: neither in its class nor in a set-up."""

    SUITES = ("TestWithoutThem", "TestInTheClass", "TestInSetUp", "TestInAsyncSetUp")

    def check(self, outcomes: Outcomes) -> None:
        by_suite: dict[str, list[tuple[str, str]]] = {each: [] for each in self.SUITES}
        for suite, rule, _, outcome in outcomes:
            by_suite[suite.removeprefix("own_names.")].append((rule, outcome))
        without = by_suite["TestWithoutThem"]
        self.assertEqual({outcome for _, outcome in without}, {"passed", "failed", "error", "known deviation"})
        for suite, found in by_suite.items():
            with self.subTest(suite):
                self.assertEqual(found, without)

    def test_unittest(self) -> None:
        self.check(outcomes_under("-m", "unittest", "-q", "own_names"))

    def test_pytest(self) -> None:
        self.check(outcomes_under(*PYTEST, "own_names.py", needs="pytest"))

    def test_nose2(self) -> None:
        self.check(outcomes_under("-m", "nose2", "-q", "own_names", needs="nose2"))

    def test_certify(self) -> None:
        targets = [f"own_names:{each}" for each in self.SUITES]
        self.check(outcomes_under("-m", "omnitck", "certify", "-q", "--output", os.devnull, *targets))
