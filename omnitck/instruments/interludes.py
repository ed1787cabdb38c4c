"""Something that happens while a call waits, exactly at each of its suspension points, without a clock.

A request was sent and its reply not yet read: just then the network goes, or time passes. Where cancellation is to come at such a
point, `omnitck.instruments.cancellation` does the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from typing import Any

from omnitck.instruments.cancellation import MOST_STEPS
from omnitck.kit.concurrency import Attempt, Call, attempt

__all__ = ["Interlude", "interludes"]


@dataclass(frozen=True, slots=True)
class Interlude:
    """What became of a call during which something happened."""

    step: int
    """The suspension point at which it happened, from 0."""
    tried: Attempt[Any]


class _Interrupted:
    """Awaits *call*, and at its suspension number *at* first what happens *meanwhile*."""

    def __init__(self, call: Call[object], at: int, meanwhile: Call[object]) -> None:
        self._call = call
        self._at = at
        self._meanwhile = meanwhile
        self.reached = False
        self.failure: Exception | None = None
        """Of what was to happen: it is not the call's."""

    async def _run(self) -> object:
        return await self._call()

    async def _happen(self) -> None:
        try:
            await self._meanwhile()
        except Exception as error:
            self.failure = error

    def __await__(self) -> Generator[Any, Any, object]:
        coroutine = self._run()
        resume: Callable[[Any], Any] = coroutine.send
        sent: Any = None
        step = 0
        while True:
            try:
                yielded = resume(sent)
            except StopIteration as stop:
                return stop.value
            try:
                if step == self._at:
                    self.reached = True
                    yield from self._happen().__await__()
                sent = yield yielded
                resume = coroutine.send
            except BaseException as error:
                sent = error
                resume = coroutine.throw
            step += 1


async def interludes(
    make: Callable[[], Call[object]], meanwhile: Call[object], *, most: int = MOST_STEPS
) -> AsyncIterator[Interlude]:
    """Let *meanwhile* happen at the first suspension point of a fresh call, at the second of the next, until one ends before.

    Yields what became of each call. On asyncio alone: other event loops take what a task waits for at once. Nothing there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return

    for step in range(most):
        interrupted = _Interrupted(make(), step, meanwhile)

        async def call(interrupted: _Interrupted = interrupted) -> object:
            return await interrupted

        tried = await attempt(call)
        if interrupted.failure is not None:
            raise interrupted.failure
        if not interrupted.reached:
            return

        yield Interlude(step, tried)
