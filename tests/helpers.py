"""What several tests of the kernel need."""

import functools
import importlib.util
import sys
import unittest
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from omnitck.kit.outcomes import Outcome, listening
from omnitck.kit.text import UsageError

__all__ = ["BACKENDS", "UsageCase", "on_each_backend", "on_path", "outcome_of", "outcomes_of", "suite_of"]

BACKENDS = [each for each in ("asyncio", "trio") if importlib.util.find_spec(each)]

Test = Callable[[Any], Awaitable[None]]


def suite_of(*mixins: type, **members: Any) -> Any:
    """The class `mine.Suite` of a contract and policies. Its provider is a bare object, if *members* have no other."""

    async def make_provider(self: Any, **config: Any) -> object:
        return object()

    bases = (*mixins, unittest.IsolatedAsyncioTestCase)
    return type("Suite", bases, {"make_provider": make_provider, "__module__": "mine", "__qualname__": "Suite", **members})


def outcomes_of(suite: type[Any], method: str = "") -> tuple[list[Outcome], unittest.TestResult]:
    """Run a suite, or one rule of it; its outcomes as they came, and what unittest was told."""
    outcomes: list[Outcome] = []

    def keep(cls: type, outcome: Outcome) -> None:
        if cls is suite:
            outcomes.append(outcome)

    result = unittest.TestResult()
    with listening(keep):
        tests = unittest.TestSuite([suite(method)]) if method else unittest.defaultTestLoader.loadTestsFromTestCase(suite)
        tests.run(result)
    return outcomes, result


def outcome_of(suite: type[Any], method: str = "") -> tuple[Outcome, unittest.TestResult]:
    """The same for a suite of one rule, or one rule of several."""
    [outcome], result = outcomes_of(suite, method)
    return outcome, result


def on_each_backend(test: Test) -> Callable[[Any], None]:
    """The same test on every event loop that is installed."""

    @functools.wraps(test)
    def run(self: Any) -> None:
        for backend in BACKENDS:
            anyio.run(test, self, backend=backend)

    del run.__wrapped__
    return run


class UsageCase(unittest.TestCase):
    """Tests of what is bad input, which one sentence refuses."""

    def refused(self, sentence: str, call: Callable[..., object], *arguments: Any, **keywords: Any) -> None:
        """Fail unless *call* with these arguments raises a UsageError of one line that holds *sentence*."""
        with self.assertRaises(UsageError) as caught:
            call(*arguments, **keywords)
        self.assertIn(sentence, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


@contextmanager
def on_path(directory: str) -> Iterator[None]:
    """Modules, and distributions, in *directory* can be imported."""
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
