"""Cancelling an operation at each of its suspension points, exactly, without a clock.

A coroutine suspends by yielding to the event loop. `Stepped` stands between the two and counts; at the chosen suspension it
cancels the task that it runs in, just before the yield reaches the loop. The loop then delivers the cancellation precisely there:
a request was sent and its reply not yet read. Timers hit such a point by luck; this hits every one.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from omnitck.kit.concurrency import Call, cancel_natively

__all__ = ["MOST_STEPS", "Interrupted", "cancel_at", "sweep"]

MOST_STEPS = 16
"""Suspension points tried for one operation: beyond, real clients only repeat themselves."""

CALLERS = tuple(
    f"omnitck.{package}." for package in ("kit", "instruments", "common", "primitives", "messaging", "resilience", "policies")
)
"""Modules that call providers. An operation of theirs may be several calls, as `async with` and `async for` are."""


@dataclass(slots=True)
class Interrupted:
    """What became of an operation that was cancelled at one suspension point."""

    step: int
    """The suspension point at which it was to be cancelled, from 0."""
    delivered: bool
    """Whether it got that far. If not, it ended before."""
    ended: str
    """`cancelled`, `returned`, `raised`, or `running` if it had not ended after the time it was given."""
    value: object = None
    error: BaseException | None = None
    waited: bool = False
    """Whether the call of the provider that was cancelled waited again: then it had no result when the cancellation came."""


class Stepped:
    """Awaits *call*, and calls *cancel* at its suspension number *at*."""

    def __init__(self, call: Call[object], at: int) -> None:
        self._call = call
        self._at = at
        self.steps = 0
        self.delivered = False
        self.waited = False
        self.cancel: Callable[[], object] = lambda: None

    async def _run(self) -> object:
        return await self._call()

    def __await__(self) -> Generator[Any, Any, object]:
        coroutine = self._run()
        resume: Callable[[Any], Any] = coroutine.send
        sent: Any = None
        cancelled: object = None
        while True:
            try:
                yielded = resume(sent)
            except StopIteration as stop:
                return stop.value
            if self.steps == self._at:
                self.delivered = True
                cancelled = _call_under_way(coroutine)
                self.cancel()
            elif self.delivered and _call_under_way(coroutine) is cancelled:
                self.waited = True
            self.steps += 1
            try:
                sent = yield yielded
                resume = coroutine.send
            except BaseException as error:
                sent = error
                resume = coroutine.throw


def _call_under_way(coroutine: object) -> object:
    """The call of a provider that *coroutine* waits in: what the innermost of the kit's own frames awaits."""
    while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
        if not coroutine.cr_frame.f_globals.get("__name__", "").startswith(CALLERS):
            break
        coroutine = coroutine.cr_await
    return coroutine


async def cancel_at(call: Call[object], step: int, *, within: float) -> Interrupted:
    """Run *call* and cancel it at its suspension point number *step*; wait at most *within* seconds for it to end."""
    stepped = Stepped(call, step)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return await _in_scope(stepped, step, within)

    return await _in_task(stepped, step, within)


async def _in_task(stepped: Stepped, step: int, within: float) -> Interrupted:
    """By the native means of asyncio: an application cancels tasks, and the provider may tell the difference."""

    async def run() -> object:
        return await stepped

    task = asyncio.ensure_future(run())
    stepped.cancel = partial(cancel_natively, task)
    try:
        await asyncio.wait([task], timeout=within)
        ended = task.done()
    finally:
        # More than once: the operation may have swallowed a cancellation, and must not outlive the rule.
        for _ in range(3):
            if not task.done():
                cancel_natively(task)
                await asyncio.wait([task], timeout=0.2)
    interrupted = Interrupted(step, stepped.delivered, "cancelled", waited=stepped.waited)
    if not ended or not task.done():
        interrupted.ended = "running"
    elif not task.cancelled():
        interrupted.error = task.exception()
        interrupted.ended = "raised" if interrupted.error is not None else "returned"
        interrupted.value = None if interrupted.error is not None else task.result()
    return interrupted


async def _in_scope(stepped: Stepped, step: int, within: float) -> Interrupted:
    """By a cancel scope, for event loops that know no other cancellation."""
    began = anyio.current_time()
    interrupted = Interrupted(step, False, "cancelled")
    with anyio.CancelScope() as scope:
        stepped.cancel = scope.cancel
        try:
            interrupted.value = await stepped
            interrupted.ended = "returned"
        except Exception as error:
            interrupted.error = error
            interrupted.ended = "raised"
    interrupted.delivered = stepped.delivered
    interrupted.waited = stepped.waited
    if anyio.current_time() - began > within:
        interrupted.ended = "running"
    return interrupted


async def sweep(make: Callable[[], Call[object]], *, within: float, most: int = MOST_STEPS) -> AsyncIterator[Interrupted]:
    """Cancel a fresh call at its first suspension point, the next one at its second, until one ends before it is reached.

    Yields after each, so that the caller can look at what the cancelled call left.
    """
    for step in range(most):
        interrupted = await cancel_at(make(), step, within=within)
        if not interrupted.delivered:
            return

        yield interrupted
