"""Run suites in several threads: `python run_concurrently.py testtools every_outcome`, or `... jobs one_verdict.TestFailing`."""

import sys
import unittest
from typing import Any


class Part(unittest.TestSuite):
    """What runs in one thread. The runner keeps its threads in a dictionary by part."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def with_testtools(tests: unittest.TestSuite, result: unittest.TestResult) -> None:
    """Four threads, each with a fourth of the tests."""
    from testtools import ConcurrentTestSuite, iterate_tests

    def parts(whole: unittest.TestSuite) -> list[Any]:
        every = list(iterate_tests(whole))
        return [Part(every[number::4]) for number in range(4)]

    ConcurrentTestSuite(tests, parts).run(result)


def with_jobs(tests: unittest.TestSuite, result: unittest.TestResult) -> None:
    """The kit's own."""
    from omnitck import ConcurrentSuite

    ConcurrentSuite(tests, jobs=16).run(result)


class Runner(unittest.TextTestRunner):
    """Runs what it is given in threads."""

    def run(self, test: Any) -> Any:
        return super().run(lambda result: runners[sys.argv[1]](unittest.TestSuite([test]), result))  # type: ignore[arg-type]


if __name__ == "__main__":
    runners = {"testtools": with_testtools, "jobs": with_jobs}
    unittest.main(None, argv=["", "-v", *sys.argv[2:]], testRunner=Runner)
