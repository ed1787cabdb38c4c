"""Several calls at once, on asyncio and on trio, with nothing lost: no exception group, no cancelled sibling."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

import anyio

__all__ = ["Attempt", "Call", "attempt", "being_cancelled", "drain", "enter", "gather", "new_event", "together"]

T = TypeVar("T")

Call: TypeAlias = Callable[[], Awaitable[T]]
"""An operation with its arguments, yet to be called."""


@dataclass(slots=True)
class Attempt(Generic[T]):
    """What became of one call."""

    value: T | None = None
    error: BaseException | None = None

    def result(self) -> T:
        """The value; raises the error if there is one."""
        if self.error is not None:
            raise self.error

        return self.value  # type: ignore[return-value]


def new_event() -> anyio.Event:
    """An event of the running loop: asyncio's own where that runs, at a tenth of the cost of a neutral one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.Event()

    return cast("anyio.Event", asyncio.Event())


async def attempt(call: Call[T]) -> Attempt[T]:
    """Make *call* and keep what it returns or raises; a cancellation and a keyboard interrupt pass through."""
    try:
        return Attempt(value=await call())
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and being_cancelled():
            raise
        return Attempt(error=error)


def being_cancelled() -> bool:
    """Whether somebody cancels the task that runs. If nobody does, a `CancelledError` is an error of the call's own making."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True  # Another event loop, where none can be made.

    return task is None or task.cancelling() > 0


async def together(calls: Iterable[Call[T]]) -> list[Attempt[T]]:
    """Make all *calls* at once, each in a task of its own; what became of each, in their order."""
    attempts: dict[int, Attempt[T]] = {}

    async def one(number: int, call: Call[T]) -> None:
        attempts[number] = await attempt(call)

    async with anyio.create_task_group() as tasks:
        for number, call in enumerate(calls):
            tasks.start_soon(one, number, call)
    return [attempts[number] for number in sorted(attempts)]


async def gather(calls: Iterable[Call[T]]) -> list[T]:
    """The results of all *calls*, made at once; the first error is raised once all have ended."""
    return [each.result() for each in await together(calls)]


async def drain(iterator: AsyncIterator[T]) -> list[T]:
    """Everything that *iterator* yields."""
    return [each async for each in iterator]


async def enter(context: AbstractAsyncContextManager[object]) -> None:
    """Enter *context* and leave it at once."""
    async with context:
        pass
