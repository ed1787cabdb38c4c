"""Distributed locks in memory with every capability of the contract.

`MemoryLockServer` is the server, `MemoryLockManager` one client of it, and `MemoryLock` one owner's view of a lock.
"""

import math
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar

import anyio
import anyio.abc

from omnitck.reference.broker import Changes
from omnitck.reference.client import Cell, Hosting, MemoryServer
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    LockLostError,
    LockNotAcquiredError,
    TCKError,
    TooLargeError,
)
from omnitck.shared.models import LockLimits

__all__ = ["CAPABILITIES", "Lease", "MemoryLock", "MemoryLockManager", "MemoryLockServer", "MemoryLoss"]

CAPABILITIES = frozenset(
    "lease_renewal auto_renew fencing_token blocking_acquire fair loss_notification hold_at_least inspection "
    "lifecycle validation shared availability limits".split()
)


@dataclass(eq=False, slots=True)
class Lease:
    """What an owner has of a lock, until it ends."""

    owner: object
    token: int
    until: float
    """On the server's clock."""
    kept_until: float
    """Until then nobody gets the lock, although it is released."""
    released: bool = False


@dataclass(eq=False, slots=True)
class Waiter:
    """Somebody in the queue for a lock."""

    owner: object
    ttl: float
    at_least: float
    lease: Lease | None = None
    """What the server has given it."""


@dataclass(eq=False, kw_only=True)
class MemoryLockServer(MemoryServer):
    """The server: who holds which lock until when, and who waits for it. Its clients are of one event loop at a time.

    Whoever moves its clock calls `notify` then, so that what waits for a moment sees that it has come.
    """

    limits: LockLimits = field(
        default_factory=lambda: LockLimits(min_ttl=0.05, ttl_resolution=0.01, max_ttl=31_536_000.0, deliver=0.05)
    )
    leases: dict[Cell, Lease] = field(default_factory=dict, repr=False)
    tokens: dict[Cell, int] = field(default_factory=dict, repr=False)
    """The last token of each lock that was ever held. It outlives every lease, so that none is given twice."""
    queues: dict[Cell, list[Waiter]] = field(default_factory=dict, repr=False)
    changed: Changes = field(default_factory=Changes, repr=False)

    def cells(self) -> list[Cell]:
        """Every lock that is held."""
        return [cell for cell in list(self.leases) if self.find(cell) is not None]

    def remove(self, cell: Cell) -> None:
        """End the lease of *cell*, whoever has it."""
        self.leases.pop(cell, None)
        self.hand_over(cell)

    def notify(self) -> None:
        """Wake everybody who waits."""
        self.changed.tell()

    def find(self, cell: Cell) -> Lease | None:
        """The lease of *cell* that has not ended. What has ended goes to the next in the queue."""
        lease = self.leases.get(cell)
        if lease is not None and self.clock.now() >= lease.until:
            self.remove(cell)
        return self.leases.get(cell)

    def grant(self, cell: Cell, owner: object, ttl: float, at_least: float) -> Lease | None:
        """Give the lock to *owner* if it is free."""
        if self.find(cell) is not None:
            return None

        now = self.clock.now()
        self.tokens[cell] = self.tokens.get(cell, 0) + 1
        lease = Lease(owner, self.tokens[cell], now + self.kept(ttl), now + at_least)
        self.leases[cell] = lease
        return lease

    def kept(self, ttl: float) -> float:
        """Seconds for which a lease of *ttl* seconds lasts."""
        return max(ttl, self.limits.min_ttl)

    def holds(self, cell: Cell, lease: Lease | None) -> bool:
        """Whether *lease* is the one of *cell*, and neither released nor over."""
        return lease is not None and self.find(cell) is lease and not lease.released

    def free(self, cell: Cell, lease: Lease) -> None:
        """End *lease*, which holds *cell*; where it is to be held for longer, let it keep others out for so long."""
        lease.released = True
        lease.until = lease.kept_until
        self.find(cell)
        self.notify()

    def hand_over(self, cell: Cell) -> None:
        """Give *cell*, which is free, to the first who waits for it."""
        queue = self.queues.get(cell)
        if not queue:
            return

        first = queue.pop(0)
        first.lease = self.grant(cell, first.owner, first.ttl, first.at_least)
        self.notify()

    async def until(self, moment: float) -> None:
        """Wait for something to change, or for *moment*."""
        with self.changed.expected() as change, anyio.move_on_after(max(moment - self.clock.now(), 0.001)):
            await change.wait()


class MemoryLoss:
    """Set at the end of a lease that was not released before. It looks at the server's clock, and needs no task."""

    def __init__(self, backend: MemoryLockServer, lease: Lease | None) -> None:
        self._backend = backend
        self._lease = lease

    def is_set(self) -> bool:
        """Whether the lease was lost."""
        return self._lease is not None and not self._lease.released and self._backend.clock.now() >= self._lease.until

    async def wait(self) -> None:
        """Return once it is."""
        while not self.is_set():
            await self._backend.until(math.inf if self._lease is None or self._lease.released else self._lease.until)


class MemoryLock:
    """One owner's view of a lock."""

    def __init__(self, client: "MemoryLockManager", name: str, ttl: float, *, auto_renew: bool, at_least: float) -> None:
        self.client = client
        self.name = name
        self.ttl = ttl
        self.auto_renew = auto_renew
        self.at_least = at_least
        self.lease: Lease | None = None
        """The last that this owner was given."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def backend(self) -> MemoryLockServer:
        """The server."""
        return self.client.backend

    async def acquire(self, timeout: float = 0.0) -> bool:
        """See `DistributedLock.acquire` and `BlockingAcquire.acquire`."""
        self.check_timeout(timeout)
        if self.auto_renew and not self.client.entered:
            raise ClosedError("enter the manager with `async with`: leases are renewed until the end of that")

        await self.client.turn()
        cell = self.client.cell(self.name)
        until = self.backend.clock.now() + timeout
        lease = self.backend.grant(cell, self.owner(), self.ttl, self.at_least)
        while lease is None or not self.backend.holds(cell, lease):
            if self.backend.clock.now() >= until:
                return False
            lease = await self.queue(cell, until)
        self.lease = lease
        self.client.granted(self, cell, lease)
        return True

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        """Wait for the lock until the clock shows *until*."""
        waiter = Waiter(self.owner(), self.ttl, self.at_least)
        waiting = self.backend.queues.setdefault(cell, [])
        waiting.append(waiter)
        if self.backend.find(cell) is None:
            self.backend.hand_over(cell)
        taken = False
        try:
            while waiter.lease is None and self.backend.clock.now() < until:
                held = self.backend.find(cell)
                await self.backend.until(until if held is None else min(until, held.until))
                self.client.check_usable()
                self.backend.find(cell)
            taken = True
            return waiter.lease
        finally:
            if waiter in waiting:
                waiting.remove(waiter)
            if not taken and waiter.lease is not None and self.backend.holds(cell, waiter.lease):
                self.backend.remove(cell)  # given to somebody who had just gone
                self.backend.notify()

    async def release(self) -> bool:
        """See `DistributedLock.release`."""
        await self.client.turn()
        cell = self.client.cell(self.name)
        if not self.owns(cell):
            return False

        assert self.lease is not None
        self.backend.free(cell, self.lease)
        return True

    async def renew(self, ttl: float | None = None) -> bool:
        """See `LeaseRenewal.renew`."""
        self.client.need("lease_renewal")
        if ttl is not None:
            self.client.check_ttl(self.name, ttl)
        await self.client.turn()
        return self.extend(self.client.cell(self.name), self.ttl if ttl is None else ttl)

    def extend(self, cell: Cell, ttl: float) -> bool:
        """Let the lease end in *ttl* seconds, if it has not ended."""
        if not self.owns(cell):
            return False

        assert self.lease is not None
        self.lease.until = max(self.backend.clock.now() + self.backend.kept(ttl), self.lease.kept_until)
        return True

    def owner(self) -> object:
        """Who holds the lock that this object acquires."""
        return self

    def owns(self, cell: Cell) -> bool:
        """Whether this object holds the lock."""
        return self.backend.holds(cell, self.lease)

    @property
    def token(self) -> int | None:
        """See `FencingToken.token`."""
        self.client.need("fencing_token")
        return None if self.lease is None else self.lease.token

    @property
    def lost(self) -> MemoryLoss:
        """See `LossNotification.lost`."""
        self.client.need("loss_notification")
        return MemoryLoss(self.backend, self.lease)

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise LockNotAcquiredError(f"lock {self.name!r} is held by somebody else")
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.lease is None or self.lease.released:
            return  # by the body

        try:
            with anyio.CancelScope(shield=True):
                released = await self.release()
        except TCKError:
            if kind is None:
                raise
            return
        if not released and kind is None:
            raise LockLostError(f"the lease of lock {self.name!r} ended before what it guards did")

    def check_timeout(self, timeout: object) -> None:
        """Refuse what is no time to wait."""
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise InvalidArgumentError(f"lock {self.name!r}: a timeout is a number of seconds from 0, not {timeout!r}")
        if timeout:
            self.client.need("blocking_acquire")


class MemoryLockManager(Hosting[MemoryLockServer]):
    """One client. It implements `LockManagerProtocol` and every capability that it is told to declare.

    `async with` lets it renew leases by itself, until the end of that.
    """

    everything = CAPABILITIES
    reads = "is_locked"
    deletes = ""
    aside = "hold_at_least"
    lock_type: ClassVar[type[MemoryLock]] = MemoryLock

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.renewals: dict[anyio.CancelScope, anyio.Event] = {}
        """What ends each renewal that goes on, and what is set when it has ended."""

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False, at_least: float = 0.0) -> MemoryLock:
        """See `LockManagerProtocol.get_lock`, `AutoRenew.get_lock` and `HoldAtLeast.get_lock`."""
        self.check_key(lock_name)
        self.check_ttl(lock_name, ttl)
        if auto_renew:
            self.need("auto_renew")
        if at_least:
            self.need("hold_at_least")
        if isinstance(at_least, bool) or not isinstance(at_least, int | float) or not 0 <= at_least <= ttl:
            raise InvalidArgumentError(f"lock {lock_name!r}: at_least is a number of seconds up to its ttl, not {at_least!r}")
        return self.lock_type(self, lock_name, ttl, auto_renew=auto_renew, at_least=at_least)

    async def is_locked(self, lock_name: str) -> bool:
        """See `Inspection.is_locked`."""
        self.need("inspection")
        self.check_key(lock_name)
        await self.turn()
        return self.backend.find(self.cell(lock_name)) is not None

    async def close(self) -> None:
        """See `Lifecycle.close`: what is held is not released, and ends with its lease."""
        await super().close()
        self.backend.notify()
        for scope, ended in list(self.renewals.items()):
            scope.cancel()
            await ended.wait()

    def vanish(self) -> None:
        """End as if the process had been killed."""
        self.closed = True
        for scope in self.renewals:
            scope.cancel()
        self.backend.notify()

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        """Let the *lease* of *lock* be renewed, if that is asked for."""
        if lock.auto_renew:
            self.tasks.start_soon(self.renew, lock, cell, lease)

    async def renew(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        """Renew *lease* each third of its time, for as long as the server says that it is held."""
        ended = anyio.Event()
        try:
            with anyio.CancelScope() as scope:
                self.renewals[scope] = ended
                while not self.closed and self.backend.holds(cell, lease):
                    due = self.backend.clock.now() + self.backend.kept(lock.ttl) / 3
                    while self.backend.clock.now() < due and self.backend.holds(cell, lease):
                        await self.backend.until(due)
                    if self.backend.reachable:
                        lock.extend(cell, lock.ttl)
        finally:
            self.renewals.pop(scope, None)
            ended.set()

    def check_ttl(self, name: str, ttl: object) -> None:
        """Refuse what is no lease."""
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < math.inf:
            raise InvalidArgumentError(f"lock {name!r}: a ttl is a number of seconds above 0, not {ttl!r}")
        if ttl > self.limits_of_locks().max_ttl:
            raise TooLargeError(f"lock {name!r}: a ttl of {ttl} s is above {self.limits_of_locks().max_ttl} s")

    def limits_of_locks(self) -> LockLimits:
        """The numbers of the server."""
        return LockLimits.adopted(self.backend.limits)
