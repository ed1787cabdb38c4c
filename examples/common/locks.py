"""What the adapters of locks share: a lease as its holder sees it.

A backend has four steps, each atomic: take, extend, free, and say whether a lock is taken. What they mean to a caller is here,
the same for all:

- *An owner* is a value of its own for each acquire. What an abandoned one may have taken is given back under that value
  alone, and so never a lease that the same object has taken since.
- *The end of a lease*, as its holder counts it, is never later than as the backend does: it is counted from the call. An answer
  that comes after it is none.
- *Freeing* goes on if its caller is cancelled: nothing else than the end of the lease would free the lock.
- *One task* for each lease renews it, if that is wished, and says when it is lost.
"""

import asyncio
import contextlib
import random
import time
import uuid
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

from examples.common import arguments
from examples.common.client import Client
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    LockLostError,
    LockNotAcquiredError,
    TCKError,
    TooLargeError,
    UnavailableError,
)
from omnitck.shared.models import LockLimits

__all__ = ["Lock", "Locks", "parse_lease", "parse_timeout"]

POLL = 0.1
"""Seconds, about, after which a waiter asks again."""

SHORTEST_PAUSE = 0.03
"""Seconds between two renewals at the least."""


class Locks(Client):
    """Base of the adapters: locks by name."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "lease_renewal auto_renew fencing_token blocking_acquire loss_notification hold_at_least inspection "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[LockLimits]

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False, at_least: float = 0.0) -> "Lock":
        """A new owner's view of *lock_name*: each grant is for *ttl* seconds, and for *at_least* though it is released."""
        name = arguments.encode_key(lock_name, self.limits)
        lease = parse_lease(lock_name, ttl, self.limits)
        held = parse_timeout(lock_name, at_least, "at_least")
        if held > ttl:
            raise InvalidArgumentError(f"{lock_name!r} cannot be held for at least {at_least!r} s with a ttl of {ttl!r} s")
        return Lock(self, lock_name, name, lease, held, auto_renew)

    async def is_locked(self, lock_name: str) -> bool:
        """Whether somebody holds the lock *lock_name*."""
        return await self._call(f"is_locked {lock_name!r}", self._is_taken(arguments.encode_key(lock_name, self.limits)))

    async def abandon(self) -> None:
        """End as if the process had been killed: connections break off, tasks end where they are, and nobody is told."""
        self._closed = True
        self._abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(*self._unavailable):
            await self._release()
        self._released = True

    async def _take(self, name: bytes, owner: str, ttl: float, waits: bool) -> int | None:
        """Let *owner* have *name* for *ttl* seconds, if nobody has it: the fencing token, else None.

        Where there is a queue, who *waits* is in it from the first call on until he has the lock, is freed, or has not called for
        a while.
        """
        raise NotImplementedError

    async def _extend(self, name: bytes, owner: str, ttl: float) -> bool:
        """Let the lease of *owner* end in *ttl* seconds, if it has not ended."""
        raise NotImplementedError

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        """End the lease of *owner*, if it has not ended; if *keep* is above 0, nobody gets *name* for as many seconds."""
        raise NotImplementedError

    async def _is_taken(self, name: bytes) -> bool:
        """Whether nobody would get *name* now."""
        raise NotImplementedError

    def _abort(self) -> None:
        """Tear the connections down, as the operating system does when a process ends."""
        raise NotImplementedError

    async def _give_back(self, what: str, name: bytes, owner: str) -> None:
        with contextlib.suppress(TCKError):
            await self._call(what, self._free(name, owner, 0.0))


class Lease:
    """A grant, as its holder sees it."""

    def __init__(self, owner: str, token: int, called: float, ttl: float, kept_until: float, renews: bool) -> None:
        self.owner = owner
        self.token = token
        self.deadline = called + ttl
        self.kept_until = kept_until
        """Until when nobody else gets the lock, whatever happens to the lease."""
        self.renews = renews
        self.lost = asyncio.Event()
        self.leaving = False
        """A call to free it is under way."""
        self.freed = False
        self.unsure = False
        """A call to free it failed, and may have freed it."""
        self.keeper: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended by itself."""
        return self.lost.is_set() or time.monotonic() >= self.deadline

    def stop(self) -> None:
        """Nobody renews it or says that it is lost from now on."""
        if self.keeper is not None:
            self.keeper.cancel()


class Lock:
    """One owner's view of a lock."""

    def __init__(self, locks: Locks, shown: str, name: bytes, ttl: float, at_least: float, auto_renew: bool) -> None:
        self._locks = locks
        self._shown = shown
        self._name = name
        self._ttl = ttl
        self._at_least = at_least
        self._auto_renew = auto_renew
        self._lease: Lease | None = None
        self._last: Lease | None = None
        self._none = asyncio.Event()
        self._freeing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown!r} {'held' if self._lease and not self._lease.over else 'not held'}>"

    @property
    def token(self) -> int | None:
        """The fencing token of the grant that this object holds, or held last."""
        return None if self._last is None else self._last.token

    @property
    def lost(self) -> asyncio.Event:
        """Set once the grant that this object holds, or held last, has ended by itself."""
        if self._last is None:
            return self._none
        if self._last is self._lease and self._lease.over:
            self._lease.lost.set()
        return self._last.lost

    async def acquire(self, timeout: float = 0.0) -> bool:
        """Try for at most *timeout* seconds; 0 tries once."""
        seconds = parse_timeout(self._shown, timeout)
        owner, end = uuid.uuid4().hex, time.monotonic() + seconds
        try:
            while not await self._try(owner, waits=seconds > 0):
                left = end - time.monotonic()
                if left <= 0:
                    if seconds > 0 and "fair" in self._locks.capabilities:
                        await asyncio.wait([self._give_back(owner)])  # its place in the queue
                    return False
                await asyncio.sleep(min(left, POLL * random.uniform(0.5, 1.0)))
        except (asyncio.CancelledError, UnavailableError):
            if not self._locks._closed:
                self._give_back(owner)
            raise
        return True

    async def release(self) -> bool:
        """Whether this object held the lock; it is free now."""
        self._locks._check_open()
        lease = self._lease
        if lease is None:
            return False

        lease.renews = False
        freeing = self._locks._start(self._let_go(lease))
        await asyncio.wait([freeing])  # which does not cancel it
        if freeing.cancelled():
            raise ClosedError(f"release {self._shown!r}: the client was closed meanwhile")
        return freeing.result()

    async def renew(self, ttl: float | None = None) -> bool:
        """Let the lease end in *ttl* seconds from now; False once it was lost."""
        wanted = self._ttl if ttl is None else parse_lease(self._shown, ttl, self._locks.limits)
        self._locks._check_open()
        lease = self._lease
        if lease is None:
            return False
        return await self._renew(lease, wanted)

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise LockNotAcquiredError(f"somebody else holds {self._shown!r}")
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._last is not None and self._last.freed:  # by the body
            return
        try:
            freed = await self.release()
        except TCKError:
            if kind is None:
                raise
            return
        if not freed and kind is None and not (self._last and self._last.freed):
            raise LockLostError(f"the lease of {self._shown!r} ended before what it guarded")

    async def _try(self, owner: str, waits: bool) -> bool:
        called = time.monotonic()
        taking = self._locks._take(self._name, owner, self._ttl, waits)
        token = await self._locks._call(f"acquire {self._shown!r}", taking)
        if token is None:
            return False

        returned = time.monotonic()
        if returned >= called + self._ttl:
            await asyncio.wait([self._give_back(owner)])
            return False
        if self._lease is not None:
            self._lease.stop()
            self._lease.lost.set()
        self._lease = self._last = Lease(owner, token, called, self._ttl, returned + self._at_least, self._auto_renew)
        self._keep(self._lease)
        return True

    def _give_back(self, owner: str) -> asyncio.Task[None]:
        """Free what *owner* has, or may have got without knowing; whoever is cancelled need not wait for it."""
        return self._locks._start(self._locks._give_back(f"acquire {self._shown!r}", self._name, owner))

    async def _let_go(self, lease: Lease) -> bool:
        """End *lease*. Two who do so at once are told in turn: the first has freed it, the second has not."""
        async with self._freeing:
            if lease.freed:
                return False

            keep, lease.leaving = lease.kept_until - time.monotonic(), True
            try:
                freed = await self._locks._call(f"release {self._shown!r}", self._locks._free(self._name, lease.owner, keep))
            except BaseException:
                lease.unsure = True
                raise
            finally:
                lease.leaving = False
            lease.stop()
            held = freed and not lease.over
            if held or (lease.unsure and not lease.over):
                lease.freed = True
            else:
                lease.lost.set()
            if self._lease is lease:
                self._lease = None
            return held

    async def _renew(self, lease: Lease, wanted: float) -> bool:
        if lease.over:
            lease.lost.set()
            return False

        called = time.monotonic()
        ttl = max(wanted, lease.kept_until - called)
        renewed = await self._locks._call(f"renew {self._shown!r}", self._locks._extend(self._name, lease.owner, ttl))
        if self._lease is not lease or lease.leaving:  # it is released meanwhile
            return False
        if not renewed or time.monotonic() >= called + ttl:
            lease.stop()
            lease.lost.set()
            return False
        lease.deadline, lease.unsure = called + ttl, False
        self._keep(lease)
        return True

    def _keep(self, lease: Lease) -> None:
        """From now on a task renews *lease*, if that is wished, and says when it is lost."""
        if lease.keeper is not None and lease.keeper is asyncio.current_task():
            return
        lease.stop()
        if not self._locks._closed:
            lease.keeper = self._locks._start(self._watch(lease))
            lease.keeper.add_done_callback(partial(self._kept, lease))

    async def _watch(self, lease: Lease) -> None:
        """Return at the end of *lease*, or when it is lost."""
        while (left := lease.deadline - time.monotonic()) > 0:
            if not lease.renews:
                await asyncio.sleep(left)
                continue
            await asyncio.sleep(min(left, max(left / 3, SHORTEST_PAUSE)))
            with contextlib.suppress(TimeoutError, TCKError):  # an outage that ends in time is none
                async with asyncio.timeout(lease.deadline - time.monotonic()):
                    if lease.renews and not await self._renew(lease, self._ttl) and not lease.leaving:
                        return

    def _kept(self, lease: Lease, keeper: asyncio.Task[None]) -> None:
        # Another task goes on where one was cancelled, unless the client was closed: it renews nothing, and knows nothing.
        if not lease.freed and (self._locks._closed or not keeper.cancelled()):
            lease.lost.set()


def parse_lease(name: object, ttl: object, limits: LockLimits) -> float:
    """Seconds of a lease, rounded up to ``limits.min_ttl``."""
    seconds = arguments.parse_ttl(name, ttl, limits)
    if seconds is None:
        raise InvalidArgumentError(f"ttl None for {name!r}: a lock has an end")
    if seconds > limits.max_ttl:
        raise TooLargeError(f"ttl {ttl!r} for {name!r} is above the limit of {limits.max_ttl:g} s")
    return seconds


def parse_timeout(name: object, timeout: Any, what: str = "timeout") -> float:
    """Seconds from 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:  # nor NaN
        raise InvalidArgumentError(f"{what} {timeout!r} for {name!r} is not a number of seconds from 0")
    return float(timeout)
