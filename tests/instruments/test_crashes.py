"""Abandoning a call as if its process had died."""

import asyncio
import unittest
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from omnitck.instruments.crashes import Abandoned, abandon_at, abandon_when, crash_points
from tests.helpers import on_each_backend


class Work:
    """Three waits, with a `finally` and an `except` around them."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __call__(self) -> str:
        try:
            for number in range(3):
                self.log.append(f"before {number}")
                await anyio.lowlevel.checkpoint()
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise
        finally:
            self.log.append("finally")
        return "done"


class TestCrashPoints(unittest.TestCase):
    @on_each_backend
    async def test_each_suspension_point_is_one(self) -> None:
        works: list[Work] = []

        def make() -> Callable[[], Awaitable[object]]:
            works.append(Work())
            return works[-1]

        points = [each async for each in crash_points(make)]
        self.assertEqual([each.step for each in points], [0, 1, 2])
        self.assertEqual([work.log for work in works[:3]], [[f"before {n}" for n in range(upto)] for upto in (1, 2, 3)])
        self.assertEqual(works[3].log[-1], "finally")
        for each in points:  # Kept so far: a garbage collection would end them, too.
            await each.discard()

    @on_each_backend
    async def test_it_ends_after_the_most_points(self) -> None:
        async def endless() -> None:
            while True:
                await anyio.lowlevel.checkpoint()

        self.assertEqual([each.step async for each in crash_points(lambda: endless, most=4)], [0, 1, 2, 3])


class TestAbandoned(unittest.TestCase):
    @on_each_backend
    async def test_nothing_of_it_runs_until_it_is_discarded(self) -> None:
        work = Work()
        abandoned = await abandon_at(work, 1)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        self.assertTrue(abandoned.delivered)
        self.assertEqual(work.log, ["before 0", "before 1"])
        await abandoned.discard()
        self.assertEqual(work.log, ["before 0", "before 1", "GeneratorExit", "finally"])
        await abandoned.discard()

    @on_each_backend
    async def test_a_call_that_ended_before_has_its_result(self) -> None:
        abandoned = await abandon_at(Work(), 3)
        self.assertEqual((abandoned.delivered, abandoned.value, abandoned.step), (False, "done", 2))

        async def fail() -> None:
            await anyio.lowlevel.checkpoint()
            raise LookupError("of the call")

        abandoned = await abandon_at(fail, 7)
        self.assertIsInstance(abandoned.error, LookupError)

    @on_each_backend
    async def test_an_event_that_another_task_sets(self) -> None:
        reached, left, log = anyio.Event(), anyio.Event(), list[str]()

        async def call() -> None:
            try:
                await left.wait()
                log.append("went on")
            finally:
                log.append("finally")

        async with anyio.create_task_group() as tasks:

            async def run(found: list[Abandoned]) -> None:
                found.append(await abandon_when(call, reached))

            found: list[Abandoned] = []
            tasks.start_soon(run, found)
            await anyio.wait_all_tasks_blocked()
            reached.set()
        self.assertTrue(found[0].delivered)
        left.set()
        await anyio.wait_all_tasks_blocked()
        self.assertEqual(log, [])
        await found[0].discard()
        self.assertEqual(log, ["finally"])


class TestOnAsyncio(unittest.IsolatedAsyncioTestCase):
    async def test_a_task_that_the_call_waits_for_is_not_cancelled(self) -> None:
        """It would tidy up, as no killed process does."""
        reached, log = anyio.Event(), list[str]()

        async def worker() -> None:
            try:
                reached.set()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        task = asyncio.create_task(worker())

        async def call() -> None:
            await task

        abandoned = await abandon_when(call, reached)
        await asyncio.sleep(0)
        self.assertTrue(abandoned.delivered)
        self.assertFalse(task.done())
        self.assertEqual(log, [])
        await abandoned.discard()

    async def test_what_is_discarded_begins_nothing_on_the_loop(self) -> None:
        begun: list[str] = []

        async def effect() -> None:
            begun.append("an effect")

        async def call() -> None:
            try:
                await asyncio.sleep(0)
            finally:
                asyncio.get_running_loop()
                begun.append("a loop")
                await effect()

        abandoned = await abandon_at(call, 0)
        await abandoned.discard()
        self.assertEqual(begun, [])
