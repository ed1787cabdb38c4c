"""Cancelling an operation at each of its suspension points."""

import asyncio
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel

from omnitck.instruments.cancellation import Interrupted, cancel_at, sweep
from omnitck.kit.concurrency import drain, enter
from tests.helpers import on_each_backend

ENOUGH = 2.0
"""Seconds for a cancelled call to end."""


def shown(interrupted: Interrupted) -> tuple[int, bool, str]:
    return interrupted.step, interrupted.delivered, interrupted.ended


class TestSweep(unittest.TestCase):
    @on_each_backend
    async def test_it_stops_at_every_suspension_point_once(self) -> None:
        log: list[list[int]] = []

        def make() -> Callable[[], Awaitable[object]]:
            done: list[int] = []
            log.append(done)

            async def work() -> str:
                for number in range(3):
                    done.append(number)
                    await anyio.lowlevel.checkpoint()
                return "done"

            return work

        found = [shown(each) async for each in sweep(make, within=ENOUGH)]
        self.assertEqual(found, [(0, True, "cancelled"), (1, True, "cancelled"), (2, True, "cancelled")])
        self.assertEqual(log, [[0], [0, 1], [0, 1, 2], [0, 1, 2]])

    @on_each_backend
    async def test_it_ends_after_the_most_steps(self) -> None:
        self.assertEqual([each.step async for each in sweep(lambda: endless, within=ENOUGH, most=3)], [0, 1, 2])

    @on_each_backend
    async def test_what_does_not_suspend_is_not_interrupted(self) -> None:
        async def work() -> str:
            return "done"

        self.assertEqual([each async for each in sweep(lambda: work, within=ENOUGH)], [])


async def endless() -> None:
    while True:
        await anyio.lowlevel.checkpoint()


class TestCancelAt(unittest.TestCase):
    @on_each_backend
    async def test_one_that_ends_before_returns_its_value(self) -> None:
        async def work() -> str:
            await anyio.lowlevel.checkpoint()
            return "done"

        interrupted = await cancel_at(work, 5, within=ENOUGH)
        self.assertEqual((*shown(interrupted), interrupted.value), (5, False, "returned", "done"))

    @on_each_backend
    async def test_one_that_swallows_the_cancellation_returns(self) -> None:
        async def work() -> str:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass
            return "late"

        interrupted = await cancel_at(work, 0, within=ENOUGH)
        self.assertEqual((*shown(interrupted), interrupted.value), (0, True, "returned", "late"))

    @on_each_backend
    async def test_one_whose_result_was_there_did_not_wait_again(self) -> None:
        async def work() -> str:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                return "what was there"
            return "done"

        interrupted = await cancel_at(work, 0, within=ENOUGH)
        self.assertEqual((interrupted.value, interrupted.waited), ("what was there", False))

    def test_one_that_lost_the_cancellation_waited_again(self) -> None:
        async def work() -> str:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return "late"

        interrupted = asyncio.run(cancel_at(work, 0, within=ENOUGH))
        self.assertEqual((interrupted.value, interrupted.waited), ("late", True))

    def test_what_waits_after_the_call_that_was_cancelled_is_another_call(self) -> None:
        class Transaction:
            """It loses the cancellation on the way in, as what it waited for was there."""

            async def __aenter__(self) -> None:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

            async def __aexit__(self, *exc_info: object) -> None:
                await asyncio.sleep(0)

        # The kit's own way to make the two calls.
        interrupted = asyncio.run(cancel_at(lambda: enter(Transaction()), 0, within=ENOUGH))
        self.assertEqual((interrupted.ended, interrupted.waited), ("returned", False))
        interrupted = asyncio.run(cancel_at(lambda: enter(Transaction()), 1, within=ENOUGH))
        self.assertEqual((interrupted.delivered, interrupted.ended), (True, "cancelled"))

    def test_each_item_of_an_iteration_is_another_call(self) -> None:
        async def items(waits: int) -> AsyncIterator[int]:
            for number in range(2):
                for _ in range(waits):
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)
                yield number

        for waits, lost in ((1, False), (2, True)):
            interrupted = asyncio.run(cancel_at(partial(drain, items(waits)), 0, within=ENOUGH))
            self.assertEqual((interrupted.value, interrupted.waited), ([0, 1], lost))

    @on_each_backend
    async def test_one_that_answers_with_another_error_raises(self) -> None:
        error = ConnectionError("broken")

        async def work() -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                raise error from None

        interrupted = await cancel_at(work, 0, within=ENOUGH)
        self.assertEqual((*shown(interrupted), interrupted.error), (0, True, "raised", error))

    @on_each_backend
    async def test_an_error_before_the_step_is_kept(self) -> None:
        error = KeyError("x")

        async def work() -> None:
            raise error

        interrupted = await cancel_at(work, 0, within=ENOUGH)
        self.assertEqual((*shown(interrupted), interrupted.error), (0, False, "raised", error))

    @on_each_backend
    async def test_the_caller_goes_on(self) -> None:
        await cancel_at(endless, 2, within=ENOUGH)
        with anyio.fail_after(10):
            await anyio.lowlevel.checkpoint()

    def test_one_that_takes_too_long_is_still_running(self) -> None:
        ended: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                try:
                    await asyncio.sleep(3600)
                finally:
                    ended.append("at last")

        interrupted = asyncio.run(cancel_at(work, 0, within=0.05))
        self.assertEqual((shown(interrupted), ended), ((0, True, "running"), ["at last"]))

    def test_values_and_errors_of_what_is_awaited_pass_through(self) -> None:
        async def work() -> list[object]:
            loop = asyncio.get_running_loop()
            good, bad = loop.create_future(), loop.create_future()
            loop.call_soon(good.set_result, "value")
            seen: list[object] = [await good]
            loop.call_soon(bad.set_exception, KeyError("x"))
            try:
                await bad
            except KeyError as error:
                seen.append(error.args)
            return seen

        self.assertEqual(asyncio.run(cancel_at(work, 9, within=ENOUGH)).value, ["value", ("x",)])
