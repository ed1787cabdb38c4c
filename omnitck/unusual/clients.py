"""Unusual ways in which a client may come to what it is asked for, whatever its contract is.

Each stands in front of a client of the reference, which does the work: nothing can be wrong with what an operation comes to, only
with the way there.
"""

import inspect
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from omnitck.reference.client import MemoryClient
from omnitck.shared.exceptions import ClosedError, TCKError
from omnitck.shared.models import Limits

__all__ = ["Facade", "GroupingClient", "Iteration", "connected", "measured"]

P = ParamSpec("P")
T = TypeVar("T")
Inner = TypeVar("Inner", bound=MemoryClient[Any])
Grouping = TypeVar("Grouping", bound="GroupingClient[Any]")

CONNECT_SECONDS = 0.1
LATENCY_SECONDS = 0.02
COLLECT_SECONDS = 0.003


class Request:
    """A call that waits for its turn, and what became of it."""

    __slots__ = ("call", "done", "error", "value")

    def __init__(self, call: Callable[[], Awaitable[object]]) -> None:
        self.call = call
        self.done = anyio.Event()
        self.value: object = None
        self.error: Exception | None = None

    async def carry_out(self) -> None:
        """Make the call, and keep what it comes to."""
        try:
            self.value = await self.call()
        except Exception as error:
            self.error = error


class GroupingClient(Generic[Inner]):
    """A client with a task group of its own, in which a worker collects requests for some milliseconds.

    It carries them out together, and answers all when the last is done.
    """

    def __init__(self, inner: Inner, tasks: TaskGroup, chance: random.Random) -> None:
        self.capabilities = inner.capabilities
        self.limits = inner.limits
        self._inner = inner
        self._tasks = tasks
        self._chance = chance
        self._unanswered: set[Request] = set()
        self._group: list[Request] = []
        self._asked = anyio.Event()
        self._scopes: set[anyio.CancelScope] = set()
        """Of every task of this client's."""
        tasks.start_soon(self._work, self._new_scope())

    async def _work(self, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                await self._asked.wait()
                await anyio.sleep(COLLECT_SECONDS)
                group, self._group, self._asked = self._group, [], anyio.Event()
                async with anyio.create_task_group() as tasks:
                    for each in group:
                        tasks.start_soon(each.carry_out)
                for each in group:
                    each.done.set()

    def _new_scope(self) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        return scope

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        self._inner.check_usable()
        await anyio.sleep(self._chance.uniform(0, LATENCY_SECONDS))
        self._inner.check_usable()
        request = Request(call)
        self._group.append(request)
        self._asked.set()
        return cast("T", await self._answer(request))

    async def _answer(self, request: Request) -> object:
        """What *request* comes to; it ends with the client."""
        self._unanswered.add(request)
        try:
            await request.done.wait()
        finally:
            self._unanswered.discard(request)
        if request.error is not None:
            raise request.error
        return request.value

    async def _iterate(self, iterate: Callable[[], AsyncIterator[str]]) -> AsyncIterator[str]:
        """What *iterate* yields, fetched ahead of who asks by a task that ends with the iteration."""
        self._inner.check_usable()
        send, receive = anyio.create_memory_object_stream[str | Exception](2 * self.limits.page_size)
        scope = self._new_scope()
        self._tasks.start_soon(_fetch, iterate, send, scope)
        try:
            async for each in receive:
                if isinstance(each, Exception):
                    raise each
                yield each
            self._inner.check_usable()
        finally:
            scope.cancel()
            self._scopes.discard(scope)
            receive.close()

    async def close(self) -> None:
        """End everything that this client does."""
        await self._inner.close()
        for scope in self._scopes:
            scope.cancel()
        for request in self._unanswered:
            request.error = ClosedError("this client is closed")
            request.done.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


async def _fetch(
    iterate: Callable[[], AsyncIterator[str]], send: MemoryObjectSendStream[str | Exception], scope: anyio.CancelScope
) -> None:
    with scope, send:
        try:
            async for each in iterate():
                await send.send(each)
        except TCKError as error:
            await send.send(error)


@asynccontextmanager
async def connected(
    kind: Callable[[Inner, TaskGroup, random.Random], Grouping], inner: Inner, chance: random.Random
) -> AsyncIterator[Grouping]:
    """A client of this *kind* in front of *inner*, which takes its time to connect."""
    await anyio.sleep(CONNECT_SECONDS)
    async with anyio.create_task_group() as tasks:
        client = kind(inner, tasks, chance)
        try:
            yield client
        finally:
            await client.close()


class Facade:
    """A client that has no methods of its own, and no dictionary: it hands out those of another, and measures them."""

    __slots__ = ("_inner",)

    def __init__(self, inner: MemoryClient[Any]) -> None:
        self._inner = inner

    @property
    def capabilities(self) -> frozenset[str]:
        """What the other declares."""
        return frozenset(self._inner.capabilities)

    @property
    def limits(self) -> Limits:
        """The other's numbers."""
        return self._inner.limits

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if inspect.isasyncgenfunction(found):
            return wraps(found)(lambda *arguments, **keywords: Iteration(found(*arguments, **keywords)))
        return measured(found) if inspect.iscoroutinefunction(found) else found


def measured(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """*function* with its signature, and with its duration in the attribute `seconds`."""

    @wraps(function)
    async def call(*arguments: P.args, **keywords: P.kwargs) -> T:
        began = time.perf_counter()
        try:
            return await function(*arguments, **keywords)
        finally:
            call.seconds = time.perf_counter() - began  # type: ignore[attr-defined]

    return call


class Iteration:
    """An asynchronous iterator that is no generator: there is nothing to close."""

    __slots__ = ("_next",)

    def __init__(self, values: AsyncIterator[str]) -> None:
        self._next = values.__anext__

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await self._next()
