"""Several calls at once, with nothing lost."""

import asyncio
import functools
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import anyio
import anyio.lowlevel

from omnitck.kit.concurrency import Attempt, attempt, cancel_natively, cancelled_unasked, gather, leaving, together
from tests.helpers import on_each_backend


class Stop(BaseException):
    pass


def returning(value: str, turns: int = 0) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        return value

    return call


def raising(error: BaseException) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        raise error

    return call


class TestAttempt(unittest.TestCase):
    @on_each_backend
    async def test_it_keeps_what_a_call_returns(self) -> None:
        tried = await attempt(returning("a"))
        self.assertEqual((tried, tried.result()), (Attempt(value="a"), "a"))

    @on_each_backend
    async def test_it_keeps_what_a_call_raises(self) -> None:
        for error in (KeyError("x"), Stop(), SystemExit(1)):
            tried = await attempt(raising(error))
            self.assertEqual(tried, Attempt(error=error))
            with self.assertRaises(type(error)):
                tried.result()

    @on_each_backend
    async def test_a_keyboard_interrupt_passes(self) -> None:
        with self.assertRaises(KeyboardInterrupt):
            await attempt(raising(KeyboardInterrupt()))

    @on_each_backend
    async def test_a_cancellation_passes(self) -> None:
        after: list[object] = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            after.append(await attempt(anyio.sleep_forever))
        self.assertEqual((scope.cancelled_caught, after), (True, []))


class TestTogether(unittest.TestCase):
    @on_each_backend
    async def test_results_come_in_the_order_of_the_calls(self) -> None:
        tried = await together([returning("slow", 5), returning("quick"), returning("slower", 9)])
        self.assertEqual([each.result() for each in tried], ["slow", "quick", "slower"])

    @on_each_backend
    async def test_all_run_at_once(self) -> None:
        count = 5
        arrived: list[int] = []
        all_are_here = anyio.Event()

        async def meet(number: int) -> int:
            arrived.append(number)
            if len(arrived) == count:
                all_are_here.set()
            await all_are_here.wait()
            return number

        with anyio.fail_after(10):
            tried = await together([functools.partial(meet, number) for number in range(count)])
        self.assertEqual([each.value for each in tried], list(range(count)))

    @on_each_backend
    async def test_an_error_cancels_no_other(self) -> None:
        error, stop = KeyError("x"), Stop()
        tried = await together([raising(error), returning("late", 5), raising(stop)])
        self.assertEqual(tried, [Attempt(error=error), Attempt(value="late"), Attempt(error=stop)])

    @on_each_backend
    async def test_none_is_no_call(self) -> None:
        self.assertEqual(await together([]), [])

    def test_a_call_that_cancels_itself_is_not_lost(self) -> None:
        async def main() -> list[Attempt[str]]:
            return await together([raising(asyncio.CancelledError()), returning("b")])

        tried = asyncio.run(main())
        self.assertEqual([(type(each.error), each.value) for each in tried], [(asyncio.CancelledError, None), (type(None), "b")])

    def test_a_call_that_cancels_its_caller_is_not_lost(self) -> None:
        """Nor does the cancellation reach who made it, or the other calls."""

        async def cancel() -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
            return "a"

        async def main() -> tuple[list[Attempt[str]], Attempt[str], str]:
            both = await together([cancel, returning("b", 3)])
            alone = await attempt(cancel)
            return both, alone, await returning("c", 1)()

        (first, second), alone, after = asyncio.run(main())
        self.assertEqual(
            [type(each.error) for each in (first, second, alone)], [asyncio.CancelledError, type(None), asyncio.CancelledError]
        )
        self.assertEqual((second.value, after), ("b", "c"))

    def test_a_cancellation_on_purpose_passes_through(self) -> None:
        async def main() -> bool:
            task = asyncio.ensure_future(attempt(returning("late", 100)))
            await asyncio.sleep(0)
            cancel_natively(task)
            await asyncio.wait([task])
            return task.cancelled()

        self.assertTrue(asyncio.run(main()))

    def test_a_call_that_cancelled_its_caller_and_returned_is_found_out(self) -> None:
        async def main() -> list[bool]:
            found = [await cancelled_unasked()]
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            found.append(await cancelled_unasked())
            found.append(await cancelled_unasked())
            return found

        self.assertEqual(asyncio.run(main()), [False, True, False])


class TestGather(unittest.TestCase):
    @on_each_backend
    async def test_it_returns_the_values(self) -> None:
        self.assertEqual(await gather([returning("a", 3), returning("b")]), ["a", "b"])

    @on_each_backend
    async def test_it_raises_the_first_error_once_all_have_ended(self) -> None:
        ended: list[str] = []

        async def last() -> str:
            await anyio.lowlevel.checkpoint()
            ended.append("last")
            return "last"

        with self.assertRaises(KeyError) as caught:
            await gather([raising(KeyError("first")), raising(ValueError("second")), last])
        self.assertEqual((caught.exception.args, ended), (("first",), ["last"]))


class TestLeaving(unittest.TestCase):
    @on_each_backend
    async def test_a_generator_is_closed(self) -> None:
        ended: list[str] = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                await anyio.lowlevel.checkpoint()
                ended.append("closed")

        async with leaving(numbers()) as iterator:
            async for _ in iterator:
                break
            self.assertEqual(ended, [])
        self.assertEqual(ended, ["closed"])

    @on_each_backend
    async def test_an_iterator_need_not_be_closable(self) -> None:
        class Numbers:
            def __aiter__(self) -> Self:
                return self

            async def __anext__(self) -> int:
                return 1

        error = KeyError("raised in the body")
        with self.assertRaises(KeyError) as caught:
            async with leaving(Numbers()) as iterator:
                self.assertEqual(await anext(iterator), 1)
                raise error
        self.assertIs(caught.exception, error)
