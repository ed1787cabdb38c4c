"""The contract `circuit_breaker` beside its selftest: on another event loop, what its failures say, and its own instruments."""

import asyncio
import datetime
import importlib.util
import os
import time
import unittest
from datetime import datetime as bound
from time import time as bound_time
from typing import Any

from omnitck.defects import defects_of
from omnitck.kit.outcomes import Status
from omnitck.reference.circuit_breaker import MemoryCircuitBreaker
from omnitck.resilience import circuit_breaker as contract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.models import CircuitState
from omnitck.unusual.circuit_breaker import PlainBreaker, Plainest
from tests.helpers import outcome_of, outcomes_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestCircuitBreaker: Any = reference_suite("circuit_breaker", __module__=__name__, __qualname__="TestCircuitBreaker")
TestCircuitBreakerOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("circuit_breaker", __module__=__name__, __qualname__="TestCircuitBreakerOnTrio", backend="trio")
)


class TestTexts(unittest.TestCase):
    """What the classic failures say."""

    def check(self, defect: str, rule: str, *lines: str) -> None:
        provider: type[MemoryCircuitBreaker] = next(
            each.provider for each in defects_of("circuit_breaker") if each.name == defect
        )
        suite = reference_suite("circuit_breaker", provider, composed=[])
        method = next(name for name in dir(suite) if name.startswith(f"test_{rule}_"))
        outcome, _ = outcome_of(suite, method)
        self.assertIs(outcome.outcome, Status.FAILED)
        for line in lines:
            self.assertIn(line, outcome.message)

    def test_it_serialises_its_calls(self) -> None:
        self.check(
            "Serialised",
            "brk_07",
            "given     200 calls of execute at once",
            "expected  each is made, or refused at once",
            "observed  neither within 2.5 s",
            "hint      nothing waits for its turn: a lock that is held during the call serialises what it guards",
        )

    def test_it_lets_all_calls_in(self) -> None:
        self.check(
            "LetsAllIn",
            "brk_09",
            "case      half_open_max_calls=1",
            "given     the calls that are made of 20 at once, in HALF_OPEN",
            "expected  1",
            "observed  20",
        )

    def test_it_counts_a_cancellation(self) -> None:
        self.check(
            "CountsCancellation",
            "brk_13",
            "given     the state after 2 cancelled calls, where two failures in a row are too many",
            "expected  CLOSED",
            "observed  OPEN",
        )

    def test_it_stays_half_open_for_ever(self) -> None:
        self.check(
            "StuckHalfOpen",
            "brk_12",
            "given     a call after one was cancelled",
            "observed  raised CircuitOpenError: the circuit is HALF_OPEN",
        )

    def test_it_credits_a_late_result(self) -> None:
        self.check(
            "LateResultIsCurrent",
            "brk_17",
            "given     the state closed again, after one failure of two and a late call that fails",
            "expected  CLOSED",
            "observed  OPEN",
        )

    def test_it_raises_another_exception(self) -> None:
        self.check(
            "TrippingCallIsRefused",
            "brk_03",
            "given     the failure that opens the circuit",
            "expected  the very OperationError that the operation raised",
            "observed  raised CircuitOpenError: the circuit is open",
        )

    def test_a_walk_is_shown_as_python(self) -> None:
        self.check(
            "TotalCount",
            "brk_55",
            "OMNITCK_SEED=0; shortened to\n            await breaker.begin('",
            "'fails')  # expected 'CLOSED', observed 'OPEN'",
        )


class TestBusyMachine(unittest.TestCase):
    """A machine that is too busy to look in time is no verdict."""

    def suite(self, breaker: type[PlainBreaker]) -> type[Any]:
        class Suite(Plainest, unittest.IsolatedAsyncioTestCase):
            async def make_provider(self, **settings: Any) -> PlainBreaker:
                settings.pop("namespace")
                return breaker(**settings)

        return Suite

    def test_a_breaker_that_is_never_asked_in_time_is_not_judged(self) -> None:
        class Slow(PlainBreaker):
            async def execute(self, *arguments: Any, **keywords: Any) -> Any:
                try:
                    return await super().execute(*arguments, **keywords)
                finally:
                    if self.state is CircuitState.OPEN:
                        time.sleep(1.1 * self._machine.config.reset_timeout)  # noqa: ASYNC251  a machine with no time

        outcome, _ = outcome_of(self.suite(Slow), "test_brk_05_an_open_circuit_makes_no_call")
        self.assertIs(outcome.outcome, Status.NOT_PROVOKED, outcome.message)
        self.assertIn("this machine is too busy to look in time", outcome.message)

    def test_one_pause_is_no_excuse(self) -> None:
        """The rule begins anew, with longer timeouts."""
        pauses = [0.5]

        class Early(PlainBreaker):
            def __init__(self, **settings: Any) -> None:
                super().__init__(**{**settings, "reset_timeout": settings.get("reset_timeout", 60.0) / 2})

            async def execute(self, *arguments: Any, **keywords: Any) -> Any:
                try:
                    return await super().execute(*arguments, **keywords)
                finally:
                    if pauses:
                        time.sleep(pauses.pop())  # noqa: ASYNC251

        outcome, _ = outcome_of(self.suite(Early), "test_brk_08_it_is_half_open_after_the_timeout")
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertEqual(pauses, [])


class TestWallClock(unittest.TestCase):
    def test_it_jumps_for_modules_that_have_it_by_whatever_name(self) -> None:
        real, before = time.time(), datetime.datetime.now(datetime.UTC)
        with contract._wall_clock(3600.0):
            self.assertAlmostEqual(time.time() - real, 3600, delta=60)
            self.assertAlmostEqual(bound_time() - real, 3600, delta=60)
            self.assertAlmostEqual(time.time_ns() / 1e9 - real, 3600, delta=60)
            for each in (bound.now(datetime.UTC), datetime.datetime.now(datetime.UTC)):
                self.assertAlmostEqual((each - before).total_seconds(), 3600, delta=60)
            self.assertIsInstance(before, bound)
        self.assertIs(bound, type(before))
        self.assertAlmostEqual(bound_time() - real, 0, delta=60)

    def test_it_is_set_right_after_an_error(self) -> None:
        real = time.time
        with self.assertRaises(LookupError), contract._wall_clock(3600.0):
            raise LookupError
        self.assertIs(time.time, real)
        self.assertIs(bound_time, real)


class TestHeld(unittest.TestCase):
    def test_a_cancelled_call_leaves_its_task_as_it_was(self) -> None:
        """What is cancelled on purpose does not end the rule."""
        cancelling: list[int] = []

        class Watching(PlainBreaker):
            async def execute(self, *arguments: Any, **keywords: Any) -> Any:
                task = asyncio.current_task()
                assert task is not None
                try:
                    return await super().execute(*arguments, **keywords)
                except asyncio.CancelledError:
                    cancelling.append(task.cancelling())
                    raise

        class Suite(Plainest, unittest.IsolatedAsyncioTestCase):
            async def make_provider(self, **settings: Any) -> PlainBreaker:
                settings.pop("namespace")
                return Watching(**settings)

        outcome, _ = outcome_of(Suite, "test_brk_13_a_cancelled_call_is_not_counted")
        self.assertIs(outcome.outcome, Status.PASSED, outcome.message)
        self.assertGreaterEqual(len(cancelling), 8)
        self.assertEqual(set(cancelling), {1})


class TestDeclarations(unittest.TestCase):
    def test_slow_calls_need_no_other_capability(self) -> None:
        """The settings of a window come with either."""
        everything = frozenset(reference_suite("circuit_breaker", composed=[]).capabilities)
        outcomes, _ = outcomes_of(reference_suite("circuit_breaker", composed=[], without=everything - {"slow_call"}))
        slow = {each.rule: each.outcome for each in outcomes if each.rule in ("BRK-26", "BRK-43", "BRK-61", "BRK-63")}
        self.assertEqual(slow, dict.fromkeys(slow, Status.PASSED))
        self.assertEqual(len(slow), 4)


if __name__ == "__main__":
    unittest.main()
