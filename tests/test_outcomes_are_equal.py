"""The same suites have the same outcomes, rule by rule, whichever runner runs them and whatever else is on them."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path

SUITES = Path(__file__).parent / "suites"
KIT = SUITES.parent.parent
PYTEST = ("-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "--rootdir=.", "-c", os.devnull)

Outcomes = list[tuple[str, str, str, str]]
"""Suite, rule, the rule that was watched if it is an audit, outcome; sorted."""


def outcomes_under(*command: str, needs: str = "unittest") -> Outcomes:
    """What the runner of `python` *command* makes of the suites; skips if it is not installed."""
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
        return sorted((each["suite"], each["rule"], each["during"], each["outcome"]) for each in lines)


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
        self.check(outcomes_under("run_concurrently.py", "testtools", needs="testtools"))

    def test_jobs(self) -> None:
        self.check(outcomes_under("run_concurrently.py", "jobs"))


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
