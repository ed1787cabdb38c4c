"""The life of a client: what closing, cancelling and waiting mean, the same for every adapter.

Each request to the backend runs in a task of its own. That one decision answers three questions that drivers answer
badly:

- *Cancellation.* A caller that is cancelled leaves at once. The request's own task is told once, and takes the time
  that its driver needs to bring the connection into order (PostgreSQL has to be asked to stop, a half-read reply has to
  be dropped). Were the driver to run inside the caller's task, a cancel scope that cancels again and again would
  interrupt this tidying, and the connection would go back to its pool with somebody else's reply in it.
- *A silent backend.* A request is given up after *patience* seconds, whatever the driver waits for; so no driver needs
  time limits of its own.
- *Closing.* ``close`` ends every request, waits for the tidying, and only then lets go of the connections.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Coroutine, Hashable, Iterable
from typing import Any, ClassVar, Generic, Self, TypeVar

from omnitck.shared.exceptions import ClosedError, PermissionDeniedError, TCKError, UnavailableError

__all__ = ["PATIENCE", "TIDYING", "Client", "Feed", "Turns", "together"]

T = TypeVar("T")

PATIENCE = 2.5
"""Seconds that a request may take before the backend counts as unavailable."""

SLICES = 30
"""Parts in which that time passes. Each is at least one turn of the event loop: where the loop itself is late, because
the machine is busy, it is not the backend that is silent, and the time stretches."""

TIDYING = 0.5
"""Seconds that an abandoned request may use to bring its connection into order, before it is cancelled once more."""


class Feed(Generic[T]):
    """What a watcher iterates over: changes in the order of arrival, until the feed is ended."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[T | None] = asyncio.Queue()
        self._end: TCKError | None = None
        self._ended = False

    def put(self, change: T) -> None:
        """Hand *change* to the watcher."""
        self._arrived.put_nowait(change)

    def end(self, error: TCKError | None = None) -> None:
        """Let the iteration end after what has arrived, with *error* if there is one. Only the first call counts."""
        if not self._ended:
            self._ended, self._end = True, error
            self._arrived.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self._arrived.get()
        if item is not None:
            return item

        self._arrived.put_nowait(None)  # for whoever asks next
        if self._end is not None:
            raise self._end
        raise StopAsyncIteration


class Client:
    """Base of the adapters: requests as tasks, one translation of errors, an end.

    A subclass names the exceptions of its driver and releases its connections in `_release`.
    """

    _unavailable: ClassVar[tuple[type[Exception], ...]] = (OSError, TimeoutError)
    """What the driver raises when the backend fails, is unreachable, or gives an answer that nobody expected."""

    _denied: ClassVar[tuple[type[Exception], ...]] = ()
    """What the driver raises when the credentials do not suffice; looked at before `_unavailable`."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._closed = False
        self._released = False
        self._closing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._feeds: set[Feed[Any]] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closed else 'open'}>"  # an address may hold a password

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the operations in flight and release everything; calling it again, also at once, is fine."""
        self._closed = True
        for feed in list(self._feeds):
            feed.end(ClosedError("the client was closed while watching"))

        async with self._closing:
            while tasks := list(self._tasks):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=TIDYING)
            if not self._released:
                await self._release()
                self._released = True

    async def _release(self) -> None:
        """Let go of the connections. Called when no request is left; called again if it was cancelled."""

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} was closed")

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* as a task that `close` ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # fetched, or asyncio reports the failure of a request whose caller has left

    async def _call(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of *work*, one request to the backend; *what* opens the message of the error if it fails."""
        if self._closed:
            work.close()
            self._check_open()

        task = self._start(work)
        try:
            for _ in range(SLICES):
                await asyncio.wait([task], timeout=self._patience / SLICES)
                if task.done():
                    break
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not task.done():
            self._abandon(task)
            cause = TimeoutError(f"no answer within {self._patience} s")
            raise UnavailableError(f"{what}: the backend did not answer") from cause
        if task.cancelled():
            raise ClosedError(f"{what}: the client was closed meanwhile")

        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, TCKError):
            raise error
        if self._closed and isinstance(error, self._unavailable):
            raise ClosedError(f"{what}: the client was closed meanwhile") from error
        if isinstance(error, self._denied):
            raise PermissionDeniedError(f"{what}: the backend refused the credentials") from error
        if isinstance(error, self._unavailable):
            raise UnavailableError(f"{what}: the backend failed ({type(error).__name__})") from error
        raise error

    @staticmethod
    def _abandon(task: asyncio.Task[Any]) -> None:
        """Tell *task* to stop, now and, if it still tidies up then, in a while."""
        task.cancel()
        asyncio.get_running_loop().call_later(TIDYING, task.cancel)


class Turns:
    """Who may change what: a client whose own tasks change one thing would otherwise only meet its own conflicts.

    To wait for a turn costs no patience, which begins with the request. Yet nobody waits for a silent backend over and over:
    when one fails, all fail who were waiting then.
    """

    def __init__(self) -> None:
        self._turns: weakref.WeakValueDictionary[Hashable, _Turn] = weakref.WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, what: Hashable) -> AsyncIterator[None]:
        """The body's turn to change *what*."""
        turn = self._turns.setdefault(what, _Turn())
        failures = turn.failures
        async with turn.lock:
            if turn.failures != failures:
                raise UnavailableError("the backend failed while this was waiting for its turn") from turn.cause
            try:
                yield
            except UnavailableError as error:
                turn.failures, turn.cause = turn.failures + 1, error
                raise


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.failures = 0
        self.cause: UnavailableError | None = None


async def together(requests: Iterable[Awaitable[T]]) -> list[T]:
    """All *requests* at once; if one fails, or the whole is cancelled, none is left behind."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
