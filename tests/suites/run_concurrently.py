"""Run `every_outcome` in several threads: `python run_concurrently.py testtools` or `... jobs`."""

import importlib
import sys
import unittest
from typing import Any


class Part(unittest.TestSuite):
    """What runs in one thread. The runner keeps its threads in a dictionary by part."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def with_testtools(tests: unittest.TestSuite) -> None:
    """Four threads, each with a fourth of the tests."""
    from testtools import ConcurrentTestSuite, iterate_tests

    def parts(whole: unittest.TestSuite) -> list[Any]:
        every = list(iterate_tests(whole))
        return [Part(every[number::4]) for number in range(4)]

    ConcurrentTestSuite(tests, parts).run(unittest.TestResult())


def with_jobs(tests: unittest.TestSuite) -> None:
    """The kit's own."""
    from omnitck import ConcurrentSuite

    ConcurrentSuite(tests, jobs=16).run(unittest.TestResult())


if __name__ == "__main__":
    runners = {"testtools": with_testtools, "jobs": with_jobs}
    runners[sys.argv[1]](unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module("every_outcome")))
