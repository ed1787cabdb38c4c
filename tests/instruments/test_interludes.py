"""Something happens at each suspension point of a call, and only there."""

import unittest

import anyio
import anyio.lowlevel

from omnitck.instruments.interludes import Interlude, interludes
from omnitck.kit.concurrency import Call

TURNS = 3


class TestInterludes(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.happened = 0
        self.seen: list[list[int]] = []

    def make(self) -> Call[object]:
        """A call that waits three times, and notes what had happened before and after each."""
        before = self.happened
        noted: list[int] = []
        self.seen.append(noted)

        async def call() -> int:
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()
                noted.append(self.happened - before)
            return 7

        return call

    async def happen(self) -> None:
        await anyio.sleep(0.001)
        self.happened += 1

    async def all(self) -> list[Interlude]:
        return [each async for each in interludes(self.make, self.happen)]

    async def test_it_happens_once_in_each_call_at_another_point(self) -> None:
        found = await self.all()
        self.assertEqual([each.step for each in found], [0, 1, 2])
        self.assertEqual([each.tried.result() for each in found], [7, 7, 7])
        self.assertEqual(self.seen, [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
        self.assertEqual(self.happened, 3)

    async def test_what_the_call_waits_for_may_come_meanwhile(self) -> None:
        events: list[anyio.Event] = []

        def make() -> Call[object]:
            events.append(anyio.Event())
            return events[-1].wait

        async def happen() -> None:
            events[-1].set()
            await anyio.sleep(0.001)

        async for each in interludes(make, happen, most=1):
            self.assertIsNone(each.tried.error)
        self.assertEqual(len(events), 1)

    async def test_a_call_that_fails_is_an_answer(self) -> None:
        async def fail() -> None:
            await anyio.lowlevel.checkpoint()
            raise LookupError("of the call")

        found = [each async for each in interludes(lambda: fail, self.happen)]
        self.assertEqual([str(each.tried.error) for each in found], ["of the call"])

    async def test_what_fails_meanwhile_is_not_the_calls_failure(self) -> None:
        async def happen() -> None:
            raise LookupError("of the hook")

        with self.assertRaisesRegex(LookupError, "of the hook"):
            async for _ in interludes(self.make, happen):
                self.fail("it yields a call that was not disturbed")
