"""Many rules at a time, under any unittest runner."""

import asyncio
import contextvars
import functools
import itertools
import threading
import unittest
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from omnitck.kit.outcomes import listening
from omnitck.kit.rules import Rule
from omnitck.kit.text import UsageError, describe

__all__ = ["ConcurrentSuite", "check_jobs", "rule_of"]


class ConcurrentSuite(unittest.TestSuite):
    """A suite that runs whole tests in *jobs* threads, each with an event loop of its own.

    A test that waits makes room for another; one that computes keeps the interpreter to itself, as several at once would only
    hand it around. The caller's result hears of them in the suite's order, one whole test at a time. A test whose rule is
    `exclusive` runs alone, after the others (before them, if it leads the suite). Class and module fixtures run once around their
    tests, and each thread has a copy of the caller's context variables. With one job it is a plain suite.
    """

    def __init__(self, tests: Iterable[unittest.TestCase | unittest.TestSuite] = (), jobs: int = 16) -> None:
        check_jobs(jobs)
        super().__init__(tests)
        self.jobs = jobs

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        """Run the tests, and tell *result*."""
        if debug or self.jobs == 1:
            return super().run(result, debug)

        turns = _Turns()
        pools = [_Pool(tests, self.jobs, result, turns) for _, tests in itertools.groupby(_flat(self), key=type)]
        # A plain suite knows when fixtures are due. It is given stand-ins, which wait for their tests and then tell of them.
        stand_ins = unittest.TestSuite(cast("unittest.TestCase", each) for pool in pools for each in pool.tests)
        try:
            with listening(lambda suite, outcome: None, turns.rule_began):
                return stand_ins.run(result)
        finally:
            for pool in pools:
                pool.waiting.clear()


def check_jobs(jobs: object) -> None:
    """Raise UsageError unless *jobs* can be the number of rules to run at a time."""
    if not isinstance(jobs, int) or jobs < 1:
        raise UsageError(f"jobs is {describe(jobs)}: give the number of rules to run at a time, from 1.")


def rule_of(test: unittest.TestCase) -> Rule | None:
    """The rule that *test* checks, if it checks one."""
    return getattr(getattr(test, test.id().rpartition(".")[2], None), "rule", None)


def _flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


class _Turns:
    """One rule computes at a time.

    Event loops release the interpreter at every turn, also when they do not wait: with sixteen of them each would end in a
    switch of threads, at up to twice the cost of the rules themselves. So a loop keeps its turn until it really waits. It is
    no lock: a test begins without it after a second, and one that has begun waits for none, so that nobody is held up for long.
    """

    BEFORE_A_TEST = 1.0
    """Seconds that a test which has not begun waits for its turn: nothing depends on when it begins."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._mine = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around a test, in its thread."""
        self._take(self.BEFORE_A_TEST)
        try:
            yield
        finally:
            self._give()

    def rule_began(self, suite: type, rule: str) -> None:
        """Called in the test's thread and, if it has one, in its running event loop."""
        if not hasattr(self._mine, "turn"):
            return  # a thread of somebody else's
        try:
            selector = getattr(asyncio.get_running_loop(), "_selector", None)
        except RuntimeError:
            selector = None
        if selector is None:
            self._give()  # Such a loop does not tell when it waits.
            return

        select = selector.select

        def select_between_turns(timeout: float | None = None) -> Any:
            if timeout is not None and timeout <= 0:
                return select(timeout)

            self._give()
            try:
                return select(timeout)
            finally:
                self._take(0.0)  # or go on without: something has come for it

        selector.select = select_between_turns

    def _take(self, within: float) -> None:
        if not getattr(self._mine, "turn", False):
            self._mine.turn = self._turn.acquire(timeout=within)

    def _give(self) -> None:
        if getattr(self._mine, "turn", False):
            self._mine.turn = False
            self._turn.release()


class _Pool:
    """The tests of one class, and the threads that run them."""

    def __init__(self, tests: Iterable[unittest.TestCase], jobs: int, result: unittest.TestResult, turns: _Turns) -> None:
        self.tests = [_StandIn(each, self, result) for each in tests]
        self.waiting = deque(each for each in self.tests if not each.exclusive)
        self._jobs = jobs
        self._result = result
        self._turns = turns
        self._threads: list[threading.Thread] = []

    def finish(self, test: "_StandIn") -> bool:
        """Return when *test* has run; False if the result wants no more of them."""
        if not test.exclusive:
            return self._wait([test])
        if self._threads and not self._wait([each for each in self.tests if not each.exclusive]):
            return False

        test.execute()
        return True

    def stop(self) -> None:
        """Begin no further test, and wait for those that run."""
        self.waiting.clear()
        for thread in self._threads:
            thread.join()

    def _wait(self, tests: list["_StandIn"]) -> bool:
        if not self._threads:
            self._start(min(self._jobs, len(self.waiting)))
        for test in tests:
            while not test.done.wait(0.2):  # In steps, so that an interrupt and a stop are noticed.
                if self._result.shouldStop:
                    return False
        return not self._result.shouldStop

    def _start(self, count: int) -> None:
        """Start *count* threads, or as many as are to be had. Raises RuntimeError if there is none."""
        for number in range(count):
            work = functools.partial(contextvars.copy_context().run, self._work)
            # Daemons do not keep the process alive if a test never ends.
            thread = threading.Thread(target=work, name=f"omnitck-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def _work(self) -> None:
        with suppress(IndexError):
            while True:
                test = self.waiting.popleft()
                with self._turns.turn():
                    test.execute()


class _StandIn:
    """Stands for a test in the suite, and tells of it what the test told its result."""

    def __init__(self, test: unittest.TestCase, pool: _Pool, result: unittest.TestResult) -> None:
        plan = getattr(type(test), "_omnitck_plan", None)
        self.exclusive = getattr(rule_of(test), "exclusive", False) or (plan is not None and plan.alone)
        self.done = threading.Event()
        self._test = test
        self._pool = pool
        self._record = _Record(result)
        self._interrupt: BaseException | None = None

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The test's, whose fixtures are run for it."""
        return type(self._test)

    def execute(self) -> None:
        """Run the test in this thread."""
        try:
            self._test.run(cast("unittest.TestResult", self._record))
        except BaseException as error:
            self._interrupt = error
        finally:
            self.done.set()

    def __call__(self, result: unittest.TestResult) -> None:
        if self._pool.finish(self):
            for call in self._record.calls:
                call()
            if self._interrupt is not None:
                raise self._interrupt
        if result.shouldStop:
            self._pool.stop()


class _Record:
    """A result that keeps what it is told for later."""

    def __init__(self, result: unittest.TestResult) -> None:
        self._result = result
        self.calls: list[Callable[[], object]] = []

    def addDuration(self, test: unittest.TestCase, elapsed: float) -> None:  # noqa: N802
        """Python 3.12 asks every result for this, and warns of one without it."""
        told = getattr(self._result, "addDuration", None)
        if told is not None:
            self.calls.append(functools.partial(told, test, elapsed))

    def __getattr__(self, name: str) -> Any:
        told = getattr(self._result, name)
        if not callable(told):
            return told

        return lambda *arguments, **keywords: self.calls.append(functools.partial(told, *arguments, **keywords))
