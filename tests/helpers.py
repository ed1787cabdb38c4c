"""What several tests of the kernel need."""

import functools
import importlib.util
import unittest
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from omnitck.kit.outcomes import Outcome, listening

__all__ = ["BACKENDS", "on_each_backend", "outcome_of"]

BACKENDS = [each for each in ("asyncio", "trio") if importlib.util.find_spec(each)]

Test = Callable[[Any], Awaitable[None]]


def outcome_of(suite: type[Any], method: str = "") -> tuple[Outcome, unittest.TestResult]:
    """Run a suite of one rule, or one rule of several; its outcome, and what unittest was told."""
    outcomes: list[Outcome] = []

    def keep(cls: type, outcome: Outcome) -> None:
        if cls is suite:
            outcomes.append(outcome)

    result = unittest.TestResult()
    with listening(keep):
        tests = unittest.TestSuite([suite(method)]) if method else unittest.defaultTestLoader.loadTestsFromTestCase(suite)
        tests.run(result)
    [outcome] = outcomes
    return outcome, result


def on_each_backend(test: Test) -> Callable[[Any], None]:
    """The same test on every event loop that is installed."""

    @functools.wraps(test)
    def run(self: Any) -> None:
        for backend in BACKENDS:
            anyio.run(test, self, backend=backend)

    del run.__wrapped__
    return run
