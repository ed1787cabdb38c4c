"""Who calls an operation goes on living: what may cancel its task, and what only looks as if it might."""

import asyncio
import functools
import importlib.util
import unittest
from collections.abc import Callable
from typing import Any

from omnitck.kit.outcomes import Outcome
from omnitck.primitives.kv_store import KVStoreContract
from tests.helpers import outcome_of, suite_of

RULE = "test_com_26_the_callers_task_is_left_alone"


class Store:
    """Three methods over a dictionary; *done* is called in each before it returns."""

    def __init__(self, done: Callable[["asyncio.Task[Any]", asyncio.AbstractEventLoop], object] | None = None) -> None:
        self.values: dict[str, str] = {}
        self.done = done

    async def get(self, key: str) -> str | None:
        await self.turn()
        return self.values.get(key)

    async def set(self, key: str, value: str) -> None:
        await self.turn()
        self.values[key] = value

    async def delete(self, key: str) -> None:
        await self.turn()
        self.values.pop(key, None)

    async def turn(self) -> None:
        task = asyncio.current_task()
        if self.done is not None and task is not None:
            self.done(task, asyncio.get_running_loop())


def judged(make: Callable[[], object], **declarations: Any) -> Outcome:
    async def make_provider(self: Any) -> object:
        return make()

    return outcome_of(suite_of(KVStoreContract, make_provider=make_provider, **declarations), RULE)[0]


class TestCancelled(unittest.TestCase):
    def observed(self, make: Callable[[], object]) -> str:
        """What is said of `set`, the one operation that is not the first case."""
        outcome = judged(make)
        self.assertEqual(outcome.outcome.value, "failed")
        case = outcome.message.partition("  case      set\n")[2]
        self.assertIn("given     set, called in a task of its own, which stays 40 ms longer", case)
        return case.partition("  observed  ")[2].partition("\n")[0]

    def test_while_the_operation_runs(self) -> None:
        class Cancels(Store):
            async def turn(self) -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

        self.assertEqual(self.observed(Cancels), "it was cancelled while the operation ran")

    def test_as_the_operation_returns(self) -> None:
        said = self.observed(lambda: Store(lambda task, loop: task.cancel()))
        self.assertEqual(said, "it had been cancelled when the operation returned")

    def test_soon_by_whatever_does_it(self) -> None:
        said = self.observed(lambda: Store(lambda task, loop: loop.call_later(0.01, lambda: task.cancel())))
        self.assertRegex(said, r"^it was cancelled \d\d ms after the operation returned$")

    def test_later_by_a_timer(self) -> None:
        timers: tuple[Callable[[Any, Any], object], ...] = (
            lambda task, loop: loop.call_later(3600, task.cancel),
            lambda task, loop: loop.call_later(3600, task.cancel, "too late"),
            lambda task, loop: loop.call_at(loop.time() + 3600, functools.partial(task.cancel, "too late")),
            lambda task, loop: loop.call_later(3600, asyncio.Task.cancel, task),
            lambda task, loop: loop.call_later(3600, functools.partial(asyncio.Task.cancel, task)),
        )
        for timer in timers:
            with self.subTest(timer=timer):
                said = self.observed(functools.partial(Store, timer))
                self.assertEqual(said, "a timer is left that will cancel it, 3.6e+03 s after the operation returned")


class TestLeftAlone(unittest.TestCase):
    def test_timeouts_that_end_with_the_operation(self) -> None:
        class Timed(Store):
            async def turn(self) -> None:
                async with asyncio.timeout(10):
                    await asyncio.sleep(0)
                await asyncio.wait_for(asyncio.sleep(0), 10)

        self.assertEqual(judged(Timed).message, "")

    def test_a_timeout_that_was_needed(self) -> None:
        class Retries(Store):
            async def turn(self) -> None:
                try:
                    async with asyncio.timeout(0.001):
                        await asyncio.sleep(10)
                except TimeoutError:
                    await asyncio.sleep(0)

        self.assertEqual(judged(Retries).message, "")

    def test_timers_of_the_clients_own(self) -> None:
        class Busy(Store):
            """It has a heart beat, and ends connections that nobody uses."""

            async def turn(self) -> None:
                loop = asyncio.get_running_loop()
                loop.call_later(3600, print)
                idle = loop.create_task(asyncio.sleep(3600))
                loop.call_later(0.01, idle.cancel)
                loop.call_later(3600, idle.cancel)
                await asyncio.sleep(0)

        self.assertEqual(judged(Busy).message, "")

    def test_a_timer_that_was_cancelled(self) -> None:
        self.assertEqual(judged(lambda: Store(lambda task, loop: loop.call_later(3600, task.cancel).cancel())).message, "")

    def test_an_operation_that_fails(self) -> None:
        class Fails(Store):
            async def turn(self) -> None:
                raise ConnectionError("gone")

        self.assertEqual(judged(Fails).message, "")

    @unittest.skipUnless(importlib.util.find_spec("trio"), "trio is not installed")
    def test_on_an_event_loop_without_such_timers(self) -> None:
        class Plain(Store):
            async def turn(self) -> None:
                pass

        self.assertEqual(judged(Plain, backend="trio").outcome.value, "passed")


if __name__ == "__main__":
    unittest.main()
