"""One verdict, however it is run: the suites of `suites/one_verdict` end in every way there is, under every runner.

A table says what each comes to. A runner that cannot go on with the other rules, as the process is gone, ends with an exit status
that is not 0; `certify` has the outcome of every rule all the same.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SUITES = Path(__file__).parent / "suites"
KIT = SUITES.parent.parent
PYTEST = ("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "--rootdir=.", "-c", os.devnull)

Outcomes = dict[str, str]
"""By the number of the rule."""


class Verdict(NamedTuple):
    outcomes: Outcomes | None
    """What each rule comes to; None where the suite is refused."""
    status: int
    """Of `certify`."""
    ends: bool = False
    """Whether the process of a runner ends with the second rule."""
    says: str = ""
    """What is printed, among other things."""


GOOD = {"01": "passed", "02": "passed", "03": "passed"}
BAD = {**GOOD, "02": "failed"}
VERDICTS = {
    "TestConformant": Verdict(GOOD, 0),
    "TestPlainBase": Verdict(GOOD, 0),
    "TestFailing": Verdict(BAD, 1, says="observed ''"),
    "TestFailingOnPlainBase": Verdict(BAD, 1, says="observed ''"),
    "TestErring": Verdict({**GOOD, "03": "error"}, 3, says="advance raised OSError: the clock is stuck"),
    "TestHanging": Verdict(BAD, 1, says="ring('second') has not ended"),
    "TestLeaving": Verdict(BAD, 1, says="os._exit(0)"),
    "TestDying": Verdict(BAD, 1, ends=True),
    "TestBlocking": Verdict(BAD, 1, ends=True, says="BE-02"),
    "TestSwallowing": Verdict(BAD, 1, ends=True, says="BE-02"),
    "TestFailingTearDown": Verdict({**GOOD, "02": "error"}, 3, says="the server does not stop"),
    "TestFailingCleanup": Verdict({**GOOD, "02": "error"}, 3, says="the folder is not empty"),
    "TestFailingClassCleanup": Verdict(GOOD, 3, says="the server does not stop"),
    "TestSkippingFixture": Verdict({}, 5, says="the server is not installed"),
    "TestExpectedFailure": Verdict(None, 2, says="marked with unittest.expectedFailure"),
    "TestMisspelt": Verdict(
        None, 2, says="TestMisspelt.capabilites is none of the names that the kit reads: did you mean capabilities?"
    ),
}


def named(suite: str) -> str:
    """The suite as most runners want it."""
    return f"{'one_misspelt' if suite == 'TestMisspelt' else 'one_verdict'}.{suite}"


class Ran(NamedTuple):
    status: int
    printed: str
    outcomes: Outcomes


def run(suite: str, *command: str) -> Ran:
    """What `python` *command* makes of *suite*."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.jsonl")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "OMNITCK_"))},
            "OMNITCK_RESULTS": str(results),
            "OMNITCK_GRACE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(KIT), str(SUITES), os.environ.get("PYTHONPATH", "")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=180, errors="replace"
        )
        lines = map(json.loads, results.read_text("utf-8").splitlines() if results.exists() else [])
        outcomes = {each["rule"][-2:]: each["outcome"] for each in lines if each["suite"].endswith(suite)}
    return Ran(done.returncode, done.stdout + done.stderr, outcomes)


class TestVerdicts(unittest.TestCase):
    """Under each runner, each suite."""

    maxDiff = None

    def under(
        self,
        command: Callable[[str], Sequence[str]],
        *,
        needs: str = "unittest",
        but: Sequence[str] = (),
        mute: Sequence[str] = (),
    ) -> None:
        """Check every suite but some, of which the runner knows nothing; it prints nothing for those that are *mute*."""
        if importlib.util.find_spec(needs) is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS"):
            self.skipTest(f"{needs} is not installed")

        suites = [each for each in VERDICTS if each not in but]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            every = list(pool.map(lambda suite: run(suite, *command(suite)), suites))
        for suite, ran in zip(suites, every, strict=True):
            with self.subTest(suite):
                self.check(VERDICTS[suite], ran, mute=suite in mute)

    def check(self, verdict: Verdict, ran: Ran, *, mute: bool) -> None:
        good = verdict.outcomes in (GOOD, {}) and "ClassCleanup" not in ran.printed
        self.assertEqual(ran.status == 0, good, ran.printed)
        if not mute:
            self.assertIn(verdict.says, " ".join(ran.printed.split()))
        if verdict.ends:  # whether the third rule has run by then is up to the order and the number of processes
            self.assertLessEqual(ran.outcomes.items(), GOOD.items(), ran.printed)
            self.assertNotIn("02", ran.outcomes)
        else:
            self.assertEqual(ran.outcomes, verdict.outcomes or {}, ran.printed)

    def test_unittest(self) -> None:
        self.under(lambda suite: ("-m", "unittest", "-v", named(suite)))

    def test_pytest(self) -> None:
        self.under(lambda suite: (*PYTEST, "-r", "s", self.file(suite)), needs="pytest")

    def test_pytest_xdist(self) -> None:
        """A worker that is gone is replaced, so the other rules are run; but the test that it ran has no text of the kit's."""
        self.under(
            lambda suite: (*PYTEST, "-r", "s", "-p", "xdist", "-n", "1", self.file(suite)),
            needs="xdist",
            mute=("TestBlocking", "TestSwallowing"),
        )

    def test_nose2(self) -> None:
        self.under(lambda suite: ("-m", "nose2", "-v", named(suite)), needs="nose2")

    def test_testtools(self) -> None:
        self.under(lambda suite: ("-m", "testtools.run", named(suite)), needs="testtools", mute=("TestSkippingFixture",))

    def test_trial(self) -> None:
        """Which runs no fixtures of classes."""
        but = ("TestSkippingFixture", "TestFailingClassCleanup")
        self.under(lambda suite: ("-m", "twisted.trial", named(suite)), needs="twisted", but=but)

    def test_django(self) -> None:
        """In two processes. A pool never learns that one of them was killed: nobody could tell it."""
        self.under(
            lambda suite: (str(SUITES / "run_under_django.py"), named(suite), "one_verdict.TestConformant"),
            needs="django",
            but=("TestDying",),
        )

    def test_jobs(self) -> None:
        self.under(lambda suite: (str(SUITES / "run_concurrently.py"), "jobs", named(suite)))

    def file(self, suite: str) -> str:
        module, _, name = named(suite).partition(".")
        return f"{SUITES / module}.py::{name}" if suite != "TestMisspelt" else f"{SUITES / module}.py"

    def test_certify(self) -> None:
        """Which follows each suite from outside: no outcome is lost."""
        suites = {**VERDICTS, "TestLockedUp": Verdict(BAD, 1, says="BE-02")}

        def certify(suite: str) -> tuple[Ran, Ran]:
            command = ("-m", "omnitck", "certify", named(suite).replace(".", ":"), "--grace", "1", "--output", "certificate.json")
            return run(suite, *command), run(suite, *command, "--jobs", "4")

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            every = list(pool.map(certify, suites))
        for (suite, verdict), both in zip(suites.items(), every, strict=True):
            for ran in both:
                with self.subTest(suite):
                    self.assertEqual(ran.status, verdict.status, ran.printed)
                    self.assertIn(verdict.says, " ".join(ran.printed.split()))
                    self.assertEqual(
                        {k: v for k, v in ran.outcomes.items() if v != "not run"}, verdict.outcomes or {}, ran.printed
                    )
