"""Abandoning a call at each of its suspension points, or at an event, as if the process had died there.

The sibling of `cancellation`: a task that is cancelled can still tidy up, and a process that is killed cannot. The call is driven
to its suspension number k, and is then never resumed: nothing of it runs any more, no `finally` and no `except` of its own. What
it has started elsewhere, its sockets and its tasks, a suite's `crash` has to end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio

from omnitck.kit.concurrency import Call, attempt, cancel_natively

__all__ = ["MOST_POINTS", "Abandoned", "abandon_at", "abandon_when", "crash_points"]

MOST_POINTS = 48
"""Suspension points tried for one call."""

MOST_FAREWELLS = 100
"""How often a coroutine that awaits in its `finally` is told to end."""


@dataclass(slots=True)
class Abandoned:
    """What became of a call that was to be abandoned."""

    step: int = -1
    """The last suspension point that it reached, from 0."""
    delivered: bool = False
    """Whether it was abandoned. If not, it ended before."""
    value: object = None
    error: BaseException | None = None
    _coroutine: Coroutine[Any, Any, object] | None = field(default=None, repr=False)
    _task: "asyncio.Task[None] | None" = field(default=None, repr=False)
    """What waits for what the call waited for."""

    async def discard(self) -> None:
        """Let go of what was abandoned, once nobody looks any more: its `finally` clauses run, as far as they need no loop."""
        task, self._task = self._task, None
        if task is not None:
            cancel_natively(task)
            await asyncio.wait([task], timeout=1)
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None:
            _end(coroutine)


def _end(coroutine: Coroutine[Any, Any, object]) -> None:
    """End *coroutine* as if its event loop had gone: what would begin anything there cannot."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        for _ in range(MOST_FAREWELLS):
            with suppress(Exception):
                coroutine.close()
                return
    finally:
        asyncio._set_running_loop(running)


class _Halting:
    """Awaits *call* up to the suspension at which *when* holds, or until it is dead, and then returns as if that had ended."""

    def __init__(self, call: Call[object], abandoned: Abandoned, when: Callable[[int], bool]) -> None:
        self._call = call
        self._abandoned = abandoned
        self._when = when
        self.dead = False

    async def _run(self) -> object:
        return await self._call()

    async def run(self) -> None:
        """Note what becomes of the call."""

        async def halt() -> object:
            return await self

        tried = await attempt(halt)
        self._abandoned.value, self._abandoned.error = tried.value, tried.error

    def __await__(self) -> Generator[Any, Any, object]:
        abandoned = self._abandoned
        coroutine = self._run()
        resume: Callable[[Any], Any] = coroutine.send
        sent: Any = None
        while True:
            try:
                yielded = resume(sent)
            except StopIteration as stop:
                return stop.value
            abandoned.step += 1
            self.dead = self.dead or self._when(abandoned.step)
            if not self.dead:
                try:
                    sent = yield yielded
                    resume = coroutine.send
                except BaseException as error:
                    sent = error
                    resume = coroutine.throw
            if self.dead:
                abandoned.delivered, abandoned._coroutine = True, coroutine
                return None


async def abandon_at(call: Call[object], step: int) -> Abandoned:
    """Make *call* in a task of its own, and abandon it at its suspension point number *step*."""
    abandoned = Abandoned()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_Halting(call, abandoned, lambda reached: reached == step).run)
    return abandoned


async def abandon_when(call: Call[object], reached: anyio.Event) -> Abandoned:
    """Make *call* in a task of its own, and abandon it wherever it waits when *reached* is set, which another task may do."""
    abandoned = Abandoned()
    halting = _Halting(call, abandoned, lambda step: reached.is_set())
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await _in_scope(halting, reached)
        return abandoned

    task = asyncio.ensure_future(halting.run())
    waiting = asyncio.ensure_future(reached.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        halting.dead = True
        cancel_natively(waiting)
        if not task.done():
            # It is not cancelled yet: what it waits for may be a task of the client's, which that would reach.
            abandoned.delivered, abandoned._task = True, task
    return abandoned


async def _in_scope(halting: _Halting, reached: anyio.Event) -> None:
    """By a cancel scope, for event loops that know no other cancellation."""
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await halting.run()
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        await reached.wait()
        halting.dead = True
        tasks.cancel_scope.cancel()


async def crash_points(make: Callable[[], Call[object]], *, most: int = MOST_POINTS) -> AsyncIterator[Abandoned]:
    """Abandon a fresh call at its first suspension point, the next one at its second, until one ends before it is reached.

    Yields after each, so that the caller can look at what the dead call left, and has to `discard` it when it does no more.
    """
    for step in range(most):
        abandoned = await abandon_at(make(), step)
        if not abandoned.delivered:
            return

        yield abandoned
