"""Broken managers of distributed locks, in the order of the rules that reject them."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.client import Cell
from omnitck.reference.distributed_lock import Lease, MemoryLock, MemoryLockManager, MemoryLoss, Waiter
from omnitck.shared.exceptions import LockLostError, LockNotAcquiredError, UnavailableError

# The common family

break_with(
    MemoryLockManager,
    {
        clients.UnknownCapability: "LCK-COM-02",
        clients.CapabilitiesAsText: "LCK-COM-02",
        clients.LowLimit: "LCK-COM-02",
        clients.LimitsAsMapping: "LCK-35 LCK-COM-02",
        clients.StaleAdvertisement: "LCK-COM-04",
        clients.DoubleRelease: "LCK-COM-07",
        clients.SilentReconnect: "LCK-COM-08",
        clients.SwallowingExit: "LCK-COM-09",
        clients.SharedPool: "LCK-20 LCK-50 LCK-COM-10 MT-16",
        clients.OrphanedTask: "LCK-COM-11",
        clients.BreakingClose: "LCK-COM-11",
        clients.LeakingVendorError: "LCK-COM-12",
        clients.NoCause: "LCK-COM-12",
        clients.SwallowedCancellation: "LCK-COM-14",
        clients.DefaultOnCancellation: "LCK-COM-14",
        clients.CrossedReply: "LCK-COM-15",
        clients.CoercedKey: "LCK-COM-19",
        clients.NormalisedKey: "LCK-COM-20",
        clients.DecodedKey: "LCK-COM-20",
        clients.TruncatedKey: "LCK-COM-21",
        clients.LimitInCharacters: "LCK-COM-21",
        clients.BlockingCall: "LCK-COM-23",
        clients.PrintedPassword: "LCK-COM-24",
        clients.CrashedWorker: "LCK-COM-25",
        clients.EndlessFarewell: "LCK-COM-25",
        clients.ForgottenTimer: "LCK-COM-26",
        tenants.IgnoredTenant: "MT-01 MT-03 MT-04 MT-05 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-23",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.JoinedByNothing: "MT-08 MT-12 MT-13",
        tenants.GlobalSuperuser: "MT-13",
        tenants.ClosesNeighbours: "MT-16",
        tenants.ParsedTenant: "MT-20",
        **tenants.EVERYWHERE,
    },
)


def broken_lock(*rules: str, without: str = "") -> Callable[[type[MemoryLock]], type[MemoryLock]]:
    """Register a manager of such locks as failing *rules*."""

    def decorate(lock: type[MemoryLock]) -> type[MemoryLock]:
        members = {"__module__": lock.__module__, "__doc__": lock.__doc__, "lock_type": lock}
        breaks(*rules, without=without)(type(lock.__name__, (MemoryLockManager,), members))
        return lock

    return decorate


@breaks("LCK-COM-01", "LCK-COM-04")
class RenamedParameter(MemoryLockManager):
    """`get_lock` calls the name of the lock `key`."""

    def get_lock(self, key: str, ttl: float, *, auto_renew: bool = False, at_least: float = 0.0) -> MemoryLock:
        return super().get_lock(key, ttl, auto_renew=auto_renew, at_least=at_least)


@broken_lock("LCK-COM-01")
class PlainRelease(MemoryLock):
    """`release` is a plain function that hands out something to await."""

    def release(self) -> Any:
        return super().release()


@broken_lock("LCK-COM-03", without="blocking_acquire")
class IgnoredTimeout(MemoryLock):
    """A timeout is taken, and forgotten: waiting is not supported."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        return await super().acquire()


@breaks("LCK-COM-03", without="auto_renew")
class IgnoredAutoRenew(MemoryLockManager):
    """`auto_renew` is taken, and forgotten."""

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False, at_least: float = 0.0) -> MemoryLock:
        return super().get_lock(lock_name, ttl, at_least=at_least)


@broken_lock("LCK-COM-13")
class NamelessError(MemoryLock):
    """ "lock is held", but which one?"""

    async def __aenter__(self) -> bool:
        try:
            return await super().__aenter__()
        except LockNotAcquiredError:
            raise LockNotAcquiredError("the lock is held by somebody else") from None


@broken_lock("LCK-COM-14")
class RefusedOnCancellation(MemoryLock):
    """A cancelled `acquire` has not acquired, and says so."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        try:
            return await super().acquire(timeout)
        except anyio.get_cancelled_exc_class():
            return False


@broken_lock("LCK-COM-14")
class ReleasedOnCancellation(MemoryLock):
    """A cancelled `release` returns as if it had been done."""

    async def release(self) -> bool:
        try:
            return await super().release()
        except anyio.get_cancelled_exc_class():
            return True


@broken_lock("LCK-45", "LCK-58", "LCK-COM-18", "MT-14")
class SharedBuffer(MemoryLock):
    """All calls of a client put the name that they ask for into one place, and read it there when it is their turn."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        if timeout or self.auto_renew:
            return await super().acquire(timeout)
        self.client.__dict__["asked"] = self.name
        await self.client.turn()
        cell = self.client.cell(self.client.__dict__["asked"])
        lease = self.backend.grant(cell, self.owner(), self.ttl, self.at_least)
        self.lease = lease or self.lease
        return lease is not None


@breaks("MT-03", "MT-09", "MT-10", "MT-12", "MT-13")
class LocksOfAll(MemoryLockManager):
    """`is_locked` asks for the name, in whichever tenant."""

    async def is_locked(self, lock_name: str) -> bool:
        locked = await super().is_locked(lock_name)
        return locked or bool(tenants.elsewhere(self, lock_name))


@broken_lock("MT-04", "MT-09", "MT-10", "MT-13", "MT-23")
class ReleasedEverywhere(MemoryLock):
    """A release has no tenant in its condition."""

    async def release(self) -> bool:
        released = await super().release()
        for cell in tenants.elsewhere(self.client, self.name) if released else []:
            self.backend.remove(cell)
        return released


@broken_lock("MT-05")
class ToldHolder(MemoryLock):
    """The error of a lock that is held says who holds locks, of every tenant."""

    async def __aenter__(self) -> bool:
        try:
            return await super().__aenter__()
        except LockNotAcquiredError as error:
            holders = [f"{each.tenant}: {each.name}" for each in self.backend.cells()]
            raise LockNotAcquiredError(f"{error}; held are {holders}") from None


@breaks("MT-15")
class StickyTenant(MemoryLockManager):
    """A cancelled call leaves the connection with its tenant set; later calls work for that."""

    async def turn(self) -> None:
        try:
            await super().turn()
        except anyio.get_cancelled_exc_class():
            self.backend.__dict__["stuck"] = self.tenant_id
            raise

    def cell(self, key: str) -> Cell:
        return super().cell(key)._replace(tenant=self.backend.__dict__.get("stuck", self.tenant_id))


@broken_lock("MT-23")
class RenewedByName(MemoryLock):
    """A renewal moves the end of every lease of that name."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        extended = super().extend(cell, ttl)
        for each in tenants.elsewhere(self.client, self.name) if extended else []:
            self.backend.leases[each].until = self.backend.clock.now() + self.backend.kept(ttl)
        return extended


# Exclusion


@broken_lock("LCK-01", "LCK-25", "LCK-30", "LCK-32", "LCK-33", "LCK-38", "LCK-44", "LCK-53")
class StaleHeld(MemoryLock):
    """An object that held its lock once believes for ever that it does."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        if self.lease is not None:
            await self.client.turn()
            return False
        return await super().acquire(timeout)


@breaks(
    "LCK-02",
    "LCK-05",
    "LCK-06",
    "LCK-08",
    "LCK-09",
    "LCK-11",
    "LCK-12",
    "LCK-13",
    "LCK-14",
    "LCK-15",
    "LCK-16",
    "LCK-17",
    "LCK-18",
    "LCK-21",
    "LCK-23",
    "LCK-24",
    "LCK-25",
    "LCK-26",
    "LCK-27",
    "LCK-28",
    "LCK-29",
    "LCK-30",
    "LCK-31",
    "LCK-32",
    "LCK-33",
    "LCK-34",
    "LCK-35",
    "LCK-36",
    "LCK-41",
    "LCK-42",
    "LCK-43",
    "LCK-44",
    "LCK-45",
    "LCK-46",
    "LCK-47",
    "LCK-48",
    "LCK-50",
    "LCK-53",
    "LCK-54",
    "LCK-55",
    "LCK-56",
    "LCK-57",
    "LCK-58",
    "LCK-59",
    "LCK-60",
    "LCK-61",
    "LCK-63",
    "LCK-65",
)
class ProcessLocal(MemoryLockManager):
    """Without a tenant, each client has locks of its own."""

    def cell(self, key: str) -> Cell:
        return super().cell(key) if self.tenant_id else super().cell(key)._replace(space=str(id(self)))


@broken_lock("LCK-03", "LCK-06", "LCK-09", "LCK-16", "LCK-44", "LCK-54")
class OwnerIsClient(MemoryLock):
    """The owner is the connection: what it holds, each object of it may release."""

    async def release(self) -> bool:
        await self.client.turn()
        cell = self.client.cell(self.name)
        lease: Any = self.backend.find(cell)
        if lease is None or lease.released or lease.owner.client is not self.client:
            return False
        self.backend.free(cell, lease)
        return True


@broken_lock("LCK-04", "LCK-15", "LCK-25", "LCK-44")
class Reentrant(MemoryLock):
    """A holder acquires again."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        return acquired or self.owns(self.client.cell(self.name))


@broken_lock("LCK-04")
class ProlongedByAcquire(MemoryLock):
    """The command that acquires sets the expiry of its own record, also if that was there."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if not acquired:
            self.extend(self.client.cell(self.name), self.ttl)
        return acquired


@broken_lock("LCK-05", "LCK-56", "LCK-58")
class ReleasedByPattern(MemoryLock):
    """A release deletes every key that begins with the name: `lock:orders*`."""

    async def release(self) -> bool:
        released = await super().release()
        for cell in self.backend.cells() if released else []:
            if cell.tenant == self.client.tenant_id and cell.name.startswith(self.name) and cell.name != self.name:
                self.backend.remove(cell)
        return released


@broken_lock("LCK-03", "LCK-06", "LCK-09", "LCK-13", "LCK-16", "LCK-17", "LCK-18", "LCK-40", "LCK-44", "LCK-45", "LCK-54")
class DeletedByName(MemoryLock):
    """A release is a `DEL` of the key, whoever has it."""

    async def release(self) -> bool:
        await self.client.turn()
        cell = self.client.cell(self.name)
        lease = self.backend.find(cell)
        if lease is None or lease.released:
            return False
        self.backend.free(cell, lease)
        return True


# Time


class OtherTTL(MemoryLock):
    """Base of a defect that takes a ttl for another."""

    def __init__(self, client: MemoryLockManager, name: str, ttl: float, **options: Any) -> None:
        super().__init__(client, name, self.instead_of(ttl), **options)

    def instead_of(self, ttl: float) -> float:
        """How long the lease lasts instead of *ttl* seconds."""
        return ttl


@broken_lock(
    "LCK-04",
    "LCK-07",
    "LCK-09",
    "LCK-10",
    "LCK-11",
    "LCK-13",
    "LCK-16",
    "LCK-20",
    "LCK-21",
    "LCK-22",
    "LCK-23",
    "LCK-25",
    "LCK-26",
    "LCK-27",
    "LCK-32",
    "LCK-37",
    "LCK-38",
    "LCK-40",
    "LCK-42",
    "LCK-43",
    "LCK-44",
    "LCK-46",
    "LCK-47",
    "LCK-48",
    "LCK-59",
    "LCK-62",
)
class NoExpiry(OtherTTL):
    """The key of a lock has no expiry: it waits for a release that never comes."""

    def instead_of(self, ttl: float) -> float:
        return max(ttl, 1e9)


@broken_lock("LCK-04", "LCK-08", "LCK-16", "LCK-21", "LCK-23", "LCK-27", "LCK-43", "LCK-48")
class FractionCut(OtherTTL):
    """Tenths of a second are cut off."""

    def instead_of(self, ttl: float) -> float:
        return max(math.floor(10 * ttl) / 10, 0.01)


@broken_lock("LCK-08", "LCK-16", "LCK-23", "LCK-27", "LCK-35", "LCK-42")
class ShortLease(OtherTTL):
    """A lease ends a tenth early, as a margin for clocks that differ."""

    def instead_of(self, ttl: float) -> float:
        return 0.9 * ttl


@broken_lock("LCK-09", "LCK-13", "LCK-16", "LCK-37", "LCK-40", "LCK-44", "LCK-45")
class UnguardedDelete(MemoryLock):
    """Who has acquired once deletes the key by its name, long after the lease has ended."""

    async def release(self) -> bool:
        released = await super().release()
        if not released and self.lease is not None and not self.lease.released:
            self.lease.released = True
            self.backend.remove(self.client.cell(self.name))
        return released


@broken_lock("LCK-03", "LCK-09", "LCK-13", "LCK-16", "LCK-18", "LCK-40", "LCK-44", "LCK-45")
class OwnerIsHost(MemoryLock):
    """The owner is the name of the host: who has acquired once releases what another on that host holds."""

    async def release(self) -> bool:
        await self.client.turn()
        cell = self.client.cell(self.name)
        lease: Any = self.backend.find(cell)
        if self.lease is None or lease is None or lease.released:
            return False
        self.backend.free(cell, lease)
        return True


@broken_lock("LCK-09", "LCK-10", "LCK-16", "LCK-22", "LCK-37", "LCK-40", "LCK-44", "LCK-45")
class RaisingRelease(MemoryLock):
    """A release after the end of the lease raises."""

    async def release(self) -> bool:
        released = await super().release()
        if not released and self.lease is not None and not self.lease.released:
            raise LockLostError(f"lock {self.name!r} is no longer held")
        return released


@broken_lock("LCK-10")
class TwoStepRelease(MemoryLock):
    """A release looks who holds the lock, and deletes the key in another step."""

    async def release(self) -> bool:
        await self.client.turn()
        cell = self.client.cell(self.name)
        if not self.owns(cell):
            return False
        lease: Any = self.lease
        await anyio.lowlevel.checkpoint()
        self.backend.free(cell, lease)
        return True


# async with


@broken_lock("LCK-11")
class NoReleaseOnCancellation(MemoryLock):
    """The release is skipped when the body is cancelled."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None or issubclass(kind, Exception):
            await super().__aexit__(kind, error, trace)


@broken_lock("LCK-11")
class ExitIsCancelled(MemoryLock):
    """The release at the end of a body has no shield: the scope that cancelled the body cancels it too."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and issubclass(kind, anyio.get_cancelled_exc_class()) and self.owns(self.client.cell(self.name)):
            await self.release()
        else:
            await super().__aexit__(kind, error, trace)


@broken_lock("LCK-11", "LCK-33", "LCK-44", "LCK-47")
class ReleaseOnSuccess(MemoryLock):
    """`yield` without `finally`: a body that raises leaves the lock held."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None or not issubclass(kind, Exception):
            await super().__aexit__(kind, error, trace)


@broken_lock("LCK-12", "LCK-33", "LCK-44", "LCK-COM-13")
class UnlockedBody(MemoryLock):
    """`__aenter__` returns whether the lock was acquired, and the body runs without it."""

    async def __aenter__(self) -> bool:
        return await self.acquire()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.lease is not None:
            await super().__aexit__(kind, error, trace)


@broken_lock("LCK-12", "LCK-33", "LCK-44", "LCK-COM-13")
class AssertedEntry(MemoryLock):
    """`assert await self.acquire()`."""

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise AssertionError(f"lock {self.name!r}")
        return True


@broken_lock("LCK-13")
class SilentLoss(MemoryLock):
    """Leaving the context does not look at what the release says."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        with anyio.CancelScope(shield=True):
            await self.release()


@broken_lock("LCK-13")
class LossInPlace(MemoryLock):
    """A lost lease takes the place of the exception that the body raised."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.lease is not None and not self.lease.released:
            with anyio.CancelScope(shield=True):
                if not await self.release():
                    raise LockLostError(f"the lease of lock {self.name!r} has ended")


# Many at once


@broken_lock("LCK-14")
class WornOut(MemoryLock):
    """The counter of grants is a digit too short: from the sixtieth on it begins anew, and whoever asks is the first."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        cell = self.client.cell(self.name)
        if self.backend.tokens.get(cell, 0) >= 60:
            await self.client.turn()
            self.backend.leases.pop(cell, None)
        return await super().acquire(timeout)


class Overwriting(MemoryLock):
    """Base of a defect that writes what it may have looked at too early."""

    def overwrite(self, cell: Cell) -> bool:
        """Write that this object holds the lock, whoever does."""
        self.backend.leases.pop(cell, None)
        self.lease = self.backend.grant(cell, self.owner(), self.ttl, self.at_least)
        if self.lease is not None:
            self.client.granted(self, cell, self.lease)
        return True


@broken_lock("LCK-14", "LCK-15", "LCK-16", "LCK-45")
class LookThenWrite(Overwriting):
    """`EXISTS`, and then `SET`."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        cell = self.client.cell(self.name)
        if timeout or self.auto_renew or self.backend.find(cell) is not None:
            return await super().acquire(timeout)
        await self.client.turn()
        return self.overwrite(cell)


@broken_lock("LCK-15")
class SharedAttempt(MemoryLock):
    """Several calls of one object share one attempt, and each is told that it has acquired."""

    trying: "asyncio.Future[bool] | None" = None

    async def acquire(self, timeout: float = 0.0) -> bool:
        if timeout or (self.trying is not None and not self.trying.done()):
            return await (super().acquire(timeout) if timeout or self.trying is None else asyncio.shield(self.trying))
        self.trying = asyncio.ensure_future(super().acquire())
        try:
            return await asyncio.shield(self.trying)
        except asyncio.CancelledError:
            self.trying.cancel()
            raise


@broken_lock("LCK-16", "LCK-45")
class TwoStepTakeover(Overwriting):
    """Who finds a lease that has ended replaces it, without looking again."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        cell = self.client.cell(self.name)
        old = self.backend.leases.get(cell)
        if timeout or self.auto_renew or old is None or self.backend.clock.now() < old.until:
            return await super().acquire(timeout)
        await self.client.turn()
        return self.overwrite(cell)


# Cancellation and outages


@broken_lock("LCK-11", "LCK-17", "LCK-31", "LCK-62")
class ExpiryAfterwards(MemoryLock):
    """`SETNX`, and then `EXPIRE`: who is cancelled between leaves a lock for ever."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        lease = self.lease
        if acquired and lease is not None and not self.auto_renew:
            until, lease.until = lease.until, math.inf
            await anyio.lowlevel.checkpoint()
            lease.until = until
        return acquired


@broken_lock("LCK-18", "LCK-19")
class ForgottenOwner(MemoryLock):
    """A release forgets who the owner is, and then asks the backend."""

    async def release(self) -> bool:
        lease, self.lease = self.lease, None
        await self.client.turn()
        self.lease = lease
        cell = self.client.cell(self.name)
        if not self.owns(cell) or lease is None:
            return False
        self.backend.free(cell, lease)
        return True


@broken_lock("LCK-19", "LCK-COM-12")
class OutageIsRefusal(MemoryLock):
    """`except UnavailableError: return False`."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        try:
            return await super().acquire(timeout)
        except UnavailableError:
            return False


@broken_lock("LCK-19")
class OutageIsNothingToRelease(MemoryLock):
    """A release during an outage says that there was nothing to free."""

    async def release(self) -> bool:
        try:
            return await super().release()
        except UnavailableError:
            return False


class WithAReply(MemoryLock):
    """Base of a defect in what becomes of a grant while its reply is on its way; whoever is cancelled then gives it back."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if acquired:
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:
                if self.owns(self.client.cell(self.name)):
                    self.backend.remove(self.client.cell(self.name))
                    self.backend.notify()
                raise
        return acquired


@broken_lock("LCK-19")
class LostReply(WithAReply):
    """A request whose reply was lost is sent again, and finds its own grant."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        return acquired and self.backend.reachable and self.owns(self.client.cell(self.name))


class LongFarewell(MemoryLockManager):
    """Base of a defect that does something to what is held when the client ends."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.held: list[Lease] = []

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        super().granted(lock, cell, lease)
        self.held.append(lease)

    def prolong(self) -> None:
        """Let what is held be held for a day more."""
        for lease in self.held:
            if not lease.released and lease.until > self.backend.clock.now():
                lease.until += 86_400.0


@breaks("LCK-20")
class ClosingRenews(LongFarewell):
    """The last thing that a closing client does is to renew what it holds."""

    async def close(self) -> None:
        if not self.closed:
            self.prolong()
        await super().close()


@breaks("LCK-20", "LCK-40")
class SurvivingThread(MemoryLockManager):
    """The renewals go on when the client is closed, or dies."""

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        if lock.auto_renew:
            tasks = self.backend.__dict__.setdefault("threads", set())
            task = asyncio.ensure_future(self.renew(lock, cell, lease))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def renew(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        while self.backend.holds(cell, lease):
            due = self.backend.clock.now() + lock.ttl / 3
            while self.backend.clock.now() < due and self.backend.holds(cell, lease):
                await self.backend.until(due)
            lock.extend(cell, lock.ttl)


# lease_renewal


@broken_lock("LCK-21", "LCK-35", "LCK-36", "LCK-38", "LCK-45", "LCK-46", "LCK-63", "LCK-65", "LCK-COM-13")
class LocalRenewal(MemoryLock):
    """A renewal moves the end that the client knows, and no other."""

    async def renew(self, ttl: float | None = None) -> bool:
        await self.client.turn()
        return self.owns(self.client.cell(self.name))


@broken_lock("LCK-21", "LCK-45")
class RenewedTwice(MemoryLock):
    """The third renewal of a lease is none: the session has a longest life."""

    renewals = 0

    def extend(self, cell: Cell, ttl: float) -> bool:
        if not self.auto_renew:
            self.renewals += 1
        return super().extend(cell, ttl) if self.renewals < 3 else self.owns(cell)


@broken_lock("LCK-22", "LCK-44")
class RevivedLease(MemoryLock):
    """A renewal writes the lease anew if nobody has it."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        lease = self.lease
        if lease is not None and not lease.released and self.backend.find(cell) is None:
            self.backend.leases[cell] = lease
            lease.until = math.inf
        return super().extend(cell, ttl)


@broken_lock("LCK-23", "LCK-44", "LCK-45", "LCK-63")
class RenewalByName(MemoryLock):
    """A renewal is an `EXPIRE` of the key, whoever has it."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        lease = self.backend.find(cell)
        if lease is None or lease.released:
            return False
        lease.until = self.backend.clock.now() + self.backend.kept(ttl)
        return True


@broken_lock("LCK-23")
class ExtendsAnyway(MemoryLock):
    """A former holder's renewal tells the truth, and moves the end of the next one's lease as well."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        lease = self.backend.find(cell)
        if lease is not None and self.lease is not None and not self.lease.released and lease is not self.lease:
            lease.until = self.backend.clock.now() + self.backend.kept(ttl)
        return super().extend(cell, ttl)


# auto_renew


class OtherRenewal(MemoryLockManager):
    """Base of a defect in the task that renews a lease."""

    async def renew(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        scope = anyio.CancelScope()
        ended = anyio.Event()
        self.renewals[scope] = ended
        try:
            with scope:
                await self.keep(lock, cell, lease)
        finally:
            self.renewals.pop(scope, None)
            ended.set()

    async def keep(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        """Renew until it is over."""
        while not self.closed and self.backend.holds(cell, lease):
            await self.pause(lock.ttl / 3, lease)
            if self.backend.reachable:
                lock.extend(cell, lock.ttl)

    async def pause(self, seconds: float, lease: Lease) -> None:
        """Let *seconds* pass, or less if *lease* is released."""
        due = self.backend.clock.now() + seconds
        while self.backend.clock.now() < due and not lease.released:
            await self.backend.until(due)


@breaks("LCK-24", "LCK-40", "LCK-53", "LCK-61")
class RenewedOnce(OtherRenewal):
    """The timer of a renewal is not started again."""

    async def keep(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        await self.pause(lock.ttl / 3, lease)
        if not self.closed:
            lock.extend(cell, lock.ttl)


@breaks("LCK-24", "LCK-53", "LCK-61")
class RenewedTooLate(OtherRenewal):
    """A lease is renewed when its ttl has passed."""

    async def pause(self, seconds: float, lease: Lease) -> None:
        await super().pause(3.05 * seconds, lease)


# fencing_token


@broken_lock("LCK-25", "LCK-44", "LCK-45")
class CounterInTheKey(MemoryLock):
    """The counter is in the record of the lock, and is deleted with it."""

    async def release(self) -> bool:
        released = await super().release()
        if released:
            self.backend.tokens.pop(self.client.cell(self.name), None)
        return released


@broken_lock("LCK-25", "LCK-26", "LCK-44", "LCK-45")
class CounterExpires(MemoryLock):
    """The counter has the expiry of the lock: whoever takes over begins again at 1."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        cell = self.client.cell(self.name)
        old = self.backend.leases.get(cell)
        if old is not None and self.backend.clock.now() >= old.until:
            self.backend.tokens.pop(cell, None)
        return await super().acquire(timeout)


@broken_lock("LCK-25")
class CounterIsTidiedAway(MemoryLock):
    """The counter of a lock that nobody has had for an hour is deleted."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        used, cell, now = self.backend.__dict__.setdefault("used", {}), self.client.cell(self.name), self.backend.clock.now()
        if self.backend.find(cell) is None and now > used.get(cell, now) + 3600.0:
            self.backend.tokens.pop(cell, None)
        acquired = await super().acquire(timeout)
        if acquired and self.lease is not None:
            used[cell] = max(self.lease.until, now)
        return acquired


@broken_lock("LCK-25", "LCK-44", "LCK-45")
class RandomToken(MemoryLock):
    """The token is the mark of the owner, which comes in no order."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if acquired and self.lease is not None:
            self.lease.token = 7919 * self.lease.token % 101
        return acquired


@broken_lock("LCK-25", "LCK-26", "LCK-27", "LCK-44", "LCK-45")
class CounterOfClient(MemoryLock):
    """Each client counts for itself."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if acquired and self.lease is not None:
            counts: dict[str, int] = self.client.__dict__.setdefault("counts", {})
            counts[self.name] = self.lease.token = counts.get(self.name, 0) + 1
        return acquired


@broken_lock("LCK-25")
class RenewedToken(MemoryLock):
    """A renewal is a new revision, and the token is the last one."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        extended = super().extend(cell, ttl)
        if extended and self.lease is not None:
            self.backend.tokens[cell] += 1
            self.lease.token = self.backend.tokens[cell]
        return extended


@broken_lock("LCK-26", "LCK-27", "LCK-44")
class TokenReadLate(MemoryLock):
    """The token is read from the counter when it is asked for."""

    @property
    def token(self) -> int | None:
        token = super().token
        return None if token is None else self.backend.tokens[self.client.cell(self.name)]


# blocking_acquire


class OtherQueue(MemoryLock):
    """Base of a defect in how a call waits."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        waiter = self.enqueue(cell)
        try:
            return await self.wait(cell, waiter, until)
        finally:
            self.leave(cell, waiter)

    def enqueue(self, cell: Cell) -> Waiter:
        """Take a place in the queue."""
        waiter = Waiter(self.owner(), self.ttl, self.at_least)
        self.backend.queues.setdefault(cell, []).append(waiter)
        return waiter

    async def wait(self, cell: Cell, waiter: Waiter, until: float) -> Lease | None:
        """Wait for the lock until the clock shows *until*."""
        while waiter.lease is None and self.backend.clock.now() < until:
            held = self.backend.find(cell)
            await self.backend.until(until if held is None else min(until, held.until))
            self.client.check_usable()
            self.backend.find(cell)
        return waiter.lease

    def leave(self, cell: Cell, waiter: Waiter) -> None:
        """Give the place in the queue up, and what has come of it if nobody takes that."""
        waiting = self.backend.queues[cell]
        if waiter in waiting:
            waiting.remove(waiter)
        if waiter.lease is not None and (task := asyncio.current_task()) and task.cancelling():
            self.backend.remove(cell)


@broken_lock("LCK-27", "LCK-55", "LCK-59", "LCK-62")
class NotificationOnly(OtherQueue):
    """Who waits is told of a release, and looks no more."""

    async def wait(self, cell: Cell, waiter: Waiter, until: float) -> Lease | None:
        while waiter.lease is None and self.backend.clock.now() < until:
            await self.backend.until(until)
            self.client.check_usable()
        return waiter.lease


@broken_lock("LCK-28")
class HalfTimeout(MemoryLock):
    """Of a short time to wait, half is for the connection."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        return await super().acquire(timeout / 2 if isinstance(timeout, float) and 0 < timeout < 1 else timeout)


@broken_lock("LCK-28", "LCK-29")
class TimeoutForEachPoll(OtherQueue):
    """The time to wait begins again with each poll."""

    async def wait(self, cell: Cell, waiter: Waiter, until: float) -> Lease | None:
        return await super().wait(cell, waiter, math.inf)


@broken_lock("LCK-29", "LCK-50", "LCK-59")
class GhostInTheQueue(OtherQueue):
    """Who is cancelled while it waits keeps its place."""

    def leave(self, cell: Cell, waiter: Waiter) -> None:
        if waiter.lease is not None or self.backend.clock.now() >= 10.0:
            super().leave(cell, waiter)


@broken_lock("LCK-29")
class LateGrant(OtherQueue):
    """Whose time is over while it waits keeps its place, and is handed the lock."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        waiter = self.enqueue(cell)
        try:
            lease = await self.wait(cell, waiter, until)
        except BaseException:
            self.leave(cell, waiter)
            raise
        return lease


# fair


@broken_lock("LCK-30", "LCK-59")
class LastComesFirst(OtherQueue):
    """Whoever polls next gets the lock."""

    def enqueue(self, cell: Cell) -> Waiter:
        waiter = super().enqueue(cell)
        waiting = self.backend.queues[cell]
        if len(waiting) == 3:
            waiting.insert(0, waiting.pop())
        return waiter


# What is lost on the way


@broken_lock("LCK-31")
class LateAnswer(WithAReply):
    """What the backend has answered is believed, however long that was on its way."""


@broken_lock("LCK-32")
class FirstLeaseCounts(MemoryLock):
    """An object remembers the mark of its first lease, and compares that."""

    first: Lease | None = None

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if acquired and (self.first is None or self.first.released):
            self.first = self.lease
        return acquired

    def owns(self, cell: Cell) -> bool:
        return self.lease is self.first and super().owns(cell)


@broken_lock("LCK-33")
class ExitFreesTheSuccessor(MemoryLock):
    """Leaving the context deletes the key once more, in case the body has not."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.lease is not None and self.lease.released:
            self.backend.remove(self.client.cell(self.name))
        await super().__aexit__(kind, error, trace)


@broken_lock("LCK-33")
class EarlyReleaseIsLoss(MemoryLock):
    """A release in the body is taken for a loss."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and self.lease is not None and self.lease.released:
            raise LockLostError(f"the lease of lock {self.name!r} has ended")
        await super().__aexit__(kind, error, trace)


@broken_lock("LCK-33")
class ReleasedOnce(MemoryLock):
    """That a body has released is noted, and the note is never taken off."""

    in_body = False
    noted = False

    async def release(self) -> bool:
        released = await super().release()
        self.noted = self.noted or (released and self.in_body)
        return released

    async def __aenter__(self) -> bool:
        self.in_body = await super().__aenter__()
        return self.in_body

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.in_body = False
        if not self.noted:
            await super().__aexit__(kind, error, trace)


@broken_lock("LCK-14", "LCK-16", "LCK-25", "LCK-33", "LCK-34", "LCK-41", "LCK-44", "LCK-45", "LCK-58", "LCK-60")
class OrphanNode(MemoryLock):
    """Who is refused leaves its place in the queue behind."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        self.client.__dict__["refused"] = self.client.__dict__.get("refused", 0) + (not acquired and not timeout)
        if not acquired and not timeout and self.client.__dict__["refused"] % 5 == 0:
            waiting = self.backend.queues.setdefault(self.client.cell(self.name), [])
            waiting.append(Waiter(self.owner(), self.ttl, self.at_least))
        return acquired


# Arguments and limits


@breaks("LCK-35")
class ClampedLease(MemoryLockManager):
    """A lease that is too long is cut to the longest."""

    def get_lock(self, lock_name: str, ttl: float, **options: Any) -> MemoryLock:
        longest = self.limits_of_locks().max_ttl
        return super().get_lock(lock_name, min(ttl, longest) if isinstance(ttl, float) and ttl < math.inf else ttl, **options)


@broken_lock("LCK-35")
class MillisecondsIn31Bits(OtherTTL):
    """Milliseconds are kept in 31 bits."""

    def instead_of(self, ttl: float) -> float:
        return max(1000 * ttl % 2**31 / 1000, 0.001)


class OtherChecks(MemoryLockManager):
    """Base of a defect that takes a ttl which is none."""

    def check_ttl(self, name: str, ttl: object) -> None:
        if not self.is_taken(ttl):
            super().check_ttl(name, ttl)

    def is_taken(self, ttl: object) -> bool:
        """Whether *ttl* is not looked at."""
        return False


@breaks("LCK-36")
class NaNIsNotNegative(OtherChecks):
    """`if ttl <= 0: raise`: a ttl that is no number is not refused."""

    def is_taken(self, ttl: object) -> bool:
        return isinstance(ttl, float) and math.isnan(ttl)


@breaks("LCK-36", "LCK-COM-13")
class NegativeIsDefault(OtherChecks):
    """A negative ttl is taken for none."""

    def is_taken(self, ttl: object) -> bool:
        return isinstance(ttl, float) and ttl < 0


@broken_lock("LCK-36", "LCK-COM-13")
class NegativeTimeoutIsNone(MemoryLock):
    """A negative timeout means none."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        return await super().acquire(max(timeout, 0.0) if isinstance(timeout, int | float) and timeout < 0 else timeout)


@breaks("LCK-36", "LCK-COM-13")
class LongerThanTheLease(MemoryLockManager):
    """`at_least` above the ttl is cut to it."""

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False, at_least: float = 0.0) -> MemoryLock:
        cut = min(at_least, ttl) if type(at_least) is float and type(ttl) is float and at_least > ttl > 0 else at_least
        return super().get_lock(lock_name, ttl, auto_renew=auto_renew, at_least=cut)


# loss_notification


class OtherLoss(MemoryLock):
    """Base of a defect in what tells of a loss."""

    @property
    def lost(self) -> MemoryLoss:
        return self.loss(super().lost)

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        """What is handed out instead of *loss*."""
        return loss


class _Noticed(MemoryLoss):
    noticed: Callable[[], bool]

    def is_set(self) -> bool:
        return super().is_set() and self.noticed()


@broken_lock("LCK-37", "LCK-38", "LCK-48")
class LossAtTheNextCall(OtherLoss):
    """That a lease was lost is noticed when it is renewed or released."""

    asked = False

    async def release(self) -> bool:
        self.asked = True
        return await super().release()

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        noticed = _Noticed(self.backend, self.lease)
        noticed.noticed = lambda: self.asked
        return noticed


@broken_lock("LCK-37", "LCK-38", "LCK-40", "LCK-48")
class TimerFromTheQuestion(OtherLoss):
    """The timer of a loss is started when it is first asked for."""

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        asked = self.__dict__.setdefault("asked", {}).setdefault(self.lease, self.backend.clock.now())
        noticed = _Noticed(self.backend, self.lease)
        noticed.noticed = lambda: self.backend.clock.now() >= asked + 0.9 * self.ttl
        return noticed


class _Timed(MemoryLoss):
    def __init__(self, lock: MemoryLock, lease: Lease | None, at: float) -> None:
        super().__init__(lock.backend, lease)
        self.lock = lock
        self.at = at

    def is_set(self) -> bool:
        return super().is_set() or (self.lock.backend.clock.now() >= self.at and not (self._lease and self._lease.released))


class _Slept(MemoryLoss):
    async def wait(self) -> None:
        lease = self._lease
        until = math.inf if lease is None or lease.released else lease.until
        while self._backend.clock.now() < until and not (lease and lease.released):
            await self._backend.until(until)
        if lease is None or lease.released:
            await super().wait()


@broken_lock("LCK-38", "LCK-53")
class WaitIsNotMoved(OtherLoss):
    """Who waits for a loss sleeps until the lease would have ended when the wait began."""

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        return _Slept(self.backend, self.lease)


@broken_lock("LCK-38", "LCK-53")
class TimerIsNotMoved(OtherLoss):
    """The timer of a loss runs from `acquire`, whatever is renewed."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if acquired:
            self.at = self.backend.clock.now() + self.ttl
        return acquired

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        return _Timed(self, self.lease, self.at)


@broken_lock("LCK-38")
class LostForEver(OtherLoss):
    """An object has one event, which is set by its first loss."""

    losses: "list[MemoryLoss]"

    async def acquire(self, timeout: float = 0.0) -> bool:
        before = self.lease
        acquired = await super().acquire(timeout)
        if acquired and before is not None:
            self.old = MemoryLoss(self.backend, before)
        return acquired

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        return self.old if hasattr(self, "old") and self.old.is_set() else loss


@broken_lock("LCK-38", "LCK-41", "LCK-53")
class ReleasedIsLost(OtherLoss):
    """A released lock is one that is no longer held: that is called a loss."""

    def loss(self, loss: MemoryLoss) -> MemoryLoss:
        lease = self.lease
        return loss if lease is None else MemoryLoss(self.backend, Lease(self, lease.token, lease.until, 0.0))


@breaks("LCK-39")
class WatcherForEachLock(MemoryLockManager):
    """A task sleeps until the end of each lease that was ever held."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.watchers: list[asyncio.Task[None]] = []

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        super().granted(lock, cell, lease)
        self.watchers.append(asyncio.ensure_future(asyncio.sleep(lock.ttl)))

    async def close(self) -> None:
        for each in self.watchers:
            each.cancel()
        await super().close()


@breaks("LCK-40")
class RenewsOver(OtherRenewal):
    """A renewal writes the lease anew, whoever has it."""

    async def keep(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        while not lease.released and lock.lease is lease:
            await self.pause(lock.ttl / 3, lease)
            if self.backend.reachable and not lease.released and not self.closed:
                lease.until = self.backend.clock.now() + self.backend.kept(lock.ttl)
                self.backend.leases[cell] = lease


# hold_at_least


class OtherAtLeast(MemoryLock):
    """Base of a defect in when a lock that is released early is free."""

    async def release(self) -> bool:
        lease = self.lease
        if lease is not None and self.at_least and not lease.released:
            lease.kept_until = self.instead_of(lease)
        return await super().release()

    def instead_of(self, lease: Lease) -> float:
        """Until when others are kept out."""
        return lease.kept_until


@broken_lock("LCK-41", "LCK-55", "LCK-63")
class FreedAtOnce(OtherAtLeast):
    """A release frees the lock, however early."""

    def instead_of(self, lease: Lease) -> float:
        return 0.0


@broken_lock("LCK-41", "LCK-55")
class LeftToEnd(OtherAtLeast):
    """What is released early is left to end with its ttl."""

    def instead_of(self, lease: Lease) -> float:
        return lease.until if self.backend.clock.now() < lease.kept_until else lease.kept_until


@broken_lock("LCK-42")
class FromTheRelease(OtherAtLeast):
    """`at_least` counts from a release that comes late."""

    def instead_of(self, lease: Lease) -> float:
        now = self.backend.clock.now()
        return now + self.at_least if now >= lease.kept_until else lease.kept_until


@broken_lock("LCK-42")
class AtLeastIsTheLease(MemoryLock):
    """`at_least` takes the place of the ttl."""

    def __init__(self, client: MemoryLockManager, name: str, ttl: float, *, auto_renew: bool, at_least: float) -> None:
        super().__init__(client, name, at_least or ttl, auto_renew=auto_renew, at_least=at_least)


# inspection


class OtherLook(MemoryLockManager):
    """Base of a defect in `is_locked`."""

    async def is_locked(self, lock_name: str) -> bool:
        return await self.instead_of(lock_name, await super().is_locked(lock_name))

    async def instead_of(self, lock_name: str, locked: bool) -> bool:
        """What is answered instead of *locked*."""
        return locked


@breaks("LCK-43", "LCK-44", "LCK-65")
class LookAcquires(OtherLook):
    """To look is to acquire, and to forget about it where that succeeds."""

    async def instead_of(self, lock_name: str, locked: bool) -> bool:
        self.backend.grant(self.cell(lock_name), self, 60.0, 0.0)
        return locked


@breaks("LCK-24", "LCK-43", "LCK-44", "LCK-60", "LCK-65")
class LooksAtItsOwn(OtherLook):
    """A client knows of the locks that its own objects hold."""

    async def instead_of(self, lock_name: str, locked: bool) -> bool:
        lease: Any = self.backend.find(self.cell(lock_name))
        return locked and lease.owner.client is self


@breaks("LCK-43", "LCK-65")
class ShowsWhatHasEnded(OtherLook):
    """A lock counts as held while its record is there, which the next `acquire` replaces."""

    async def is_locked(self, lock_name: str) -> bool:
        there = self.cell(lock_name) in self.backend.leases
        return await super().is_locked(lock_name) or there


@breaks("LCK-24", "LCK-65")
class LooksAtTheFirstEnd(OtherLook):
    """`is_locked` compares the end that was written down at the grant."""

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        self.backend.__dict__.setdefault("ends", {})[cell] = lease, lease.until
        super().granted(lock, cell, lease)

    async def instead_of(self, lock_name: str, locked: bool) -> bool:
        lease = self.backend.find(self.cell(lock_name))
        if lease is None or lease.released:
            return locked
        granted, until = self.backend.__dict__.get("ends", {}).get(self.cell(lock_name), (None, math.inf))
        return granted is not lease or self.backend.clock.now() < until


@breaks("LCK-43", "LCK-44")
class LookProlongs(OtherLook):
    """A look at a record keeps it: its expiry is one of idleness."""

    async def instead_of(self, lock_name: str, locked: bool) -> bool:
        lease = self.backend.find(self.cell(lock_name))
        if lease is not None and not lease.released:
            lease.until += 0.2
        return locked


# Kinds


@broken_lock("LCK-44", "LCK-63", "LCK-65")
class ReleaseOfARenewed(MemoryLock):
    """A renewal for another time than its own makes another record, which the second release does not find."""

    renewed = 0

    async def renew(self, ttl: float | None = None) -> bool:
        renewed = await super().renew(ttl)
        self.renewed += renewed and ttl is not None
        return renewed

    async def release(self) -> bool:
        released = await super().release()
        if released and self.renewed:
            self.renewed = 0
            return False
        return released


@broken_lock("LCK-45")
class PairOfSteps(MemoryLock):
    """Who releases too late, after somebody was cancelled, deletes what is there."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        try:
            return await super().acquire(timeout)
        except anyio.get_cancelled_exc_class():
            self.backend.__dict__.setdefault("disturbed", set()).add(self.client.cell(self.name))
            raise

    async def release(self) -> bool:
        released = await super().release()
        cell = self.client.cell(self.name)
        too_late = not released and self.lease is not None and not self.lease.released
        if too_late and cell in self.backend.__dict__.get("disturbed", ()):
            self.backend.remove(cell)
        return released


@broken_lock("LCK-21", "LCK-44", "LCK-46", "LCK-63", "LCK-65")
class AddedTime(MemoryLock):
    """A renewal adds its time to what is left."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        before = self.lease.until if self.lease is not None else 0.0
        extended = super().extend(cell, ttl)
        if extended and self.lease is not None and not self.auto_renew:
            self.lease.until = before + ttl
        return extended


@broken_lock("LCK-46", "LCK-63", "LCK-65")
class OnlyLonger(MemoryLock):
    """A lease can only grow: `EXPIRE ... GT`."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        before = self.lease.until if self.lease is not None else 0.0
        extended = super().extend(cell, ttl)
        if extended and self.lease is not None:
            self.lease.until = max(before, self.lease.until)
        return extended


@broken_lock("LCK-46", "LCK-63", "LCK-65")
class FixedTime(MemoryLock):
    """Whatever is asked for, a renewal takes the ttl of `get_lock`."""

    async def renew(self, ttl: float | None = None) -> bool:
        if ttl is not None:
            self.client.check_ttl(self.name, ttl)
        return await super().renew()


@breaks("LCK-39", "LCK-47")
class RenewalGoesOn(OtherRenewal):
    """A renewal is not ended by the release, and renews by name."""

    async def keep(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        forever = Lease(lock, 0, math.inf, 0.0)
        while not self.closed:
            await self.pause(lock.ttl / 3, forever)
            held = self.backend.find(cell)
            if held is not None and self.backend.reachable and not held.released:
                held.until = self.backend.clock.now() + self.backend.kept(lock.ttl)


@broken_lock("LCK-47")
class RefusedRenews(MemoryLock):
    """The renewal is started before the answer is there, and renews by name."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        cell = self.client.cell(self.name)
        held = self.backend.find(cell)
        if not acquired and self.auto_renew and held is not None:
            held.until += self.ttl
        return acquired


@broken_lock("LCK-48")
class LeaseOfTheWait(MemoryLock):
    """A lease is counted from the beginning of the wait."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        began = self.backend.clock.now()
        lease = await super().queue(cell, until)
        if lease is not None and not self.auto_renew:
            lease.until = max(lease.until - (self.backend.clock.now() - began), self.backend.clock.now() + 0.02)
        return lease


@broken_lock("LCK-48")
class LeaseOfTheAsk(MemoryLock):
    """A lease is counted from the call of `acquire`, and where that has made it too short, the lock is asked for once more."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        began = self.backend.clock.now()
        lease = await super().queue(cell, until)
        if lease is not None:
            lease.until = began + self.backend.kept(self.ttl)
        return lease


class Connected(MemoryLock):
    """Keeps a connection while it waits."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        connections: anyio.Semaphore = self.client.__dict__["connections"]
        async with connections:
            return await super().queue(cell, until)


@breaks("LCK-49")
class WaitingConnections(MemoryLockManager):
    """A call that waits keeps one of ten connections for itself."""

    lock_type = Connected

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.connections = anyio.Semaphore(10)

    async def turn(self) -> None:
        self.check_usable()
        async with self.connections:
            await super().turn()


@broken_lock("LCK-50")
class DeafWaiter(OtherQueue):
    """Closing a client leaves the calls that wait."""

    async def wait(self, cell: Cell, waiter: Waiter, until: float) -> Lease | None:
        while waiter.lease is None and self.backend.clock.now() < until:
            held = self.backend.find(cell)
            await self.backend.until(until if held is None else min(until, held.until))
            self.backend.find(cell)
        return waiter.lease


@breaks("LCK-51")
class LeakedConnection(MemoryLockManager):
    """A cancelled call does not give its connection back; there are a hundred."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.connections = anyio.Semaphore(80)

    async def turn(self) -> None:
        self.check_usable()
        await self.connections.acquire()
        await super().turn()
        self.connections.release()


@broken_lock("LCK-52")
class ReleaseConnects(MemoryLock):
    """A release connects again by itself, whatever was closed."""

    async def release(self) -> bool:
        closed, self.client.closed = self.client.closed, False
        try:
            return await super().release()
        finally:
            self.client.closed = self.client.closed or closed


@breaks("LCK-53")
class FirstHoldIsRenewed(MemoryLockManager):
    """The renewal of an object is started once."""

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        if "begun" not in lock.__dict__:
            lock.__dict__["begun"] = True
            super().granted(lock, cell, lease)


class Waited(MemoryLock):
    """Knows whether it was waited for."""

    waited = False

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        self.waited = True
        return await super().queue(cell, until)


@breaks("LCK-53")
class WaitedIsNotRenewed(MemoryLockManager):
    """A lock that was waited for is not renewed by itself."""

    lock_type = Waited

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        if not (isinstance(lock, Waited) and lock.waited):
            super().granted(lock, cell, lease)


@broken_lock("LCK-54")
class OwnerIsId(MemoryLock):
    """The owner is the `id` of the object, which the next object in its place has too."""

    def owner(self) -> object:
        return id(self)

    async def release(self) -> bool:
        await self.client.turn()
        cell = self.client.cell(self.name)
        lease = self.backend.find(cell)
        if lease is None or lease.released or lease.owner != id(self):
            return False
        self.backend.free(cell, lease)
        return True


@broken_lock("LCK-55")
class WaitForgetsAtLeast(MemoryLock):
    """A grant after a wait knows of the ttl alone."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        lease = await super().queue(cell, until)
        if lease is not None:
            lease.kept_until = 0.0
        return lease


@broken_lock("LCK-55")
class AtLeastOfTheAsk(MemoryLock):
    """`at_least` is counted from the call of `acquire`, however long that waited."""

    async def queue(self, cell: Cell, until: float) -> Lease | None:
        began = self.backend.clock.now()
        lease = await super().queue(cell, until)
        if lease is not None:
            lease.kept_until = began + self.at_least
        return lease


@broken_lock("LCK-55")
class WokenByTheRelease(OtherQueue):
    """Who waits takes a lock that was released, however early."""

    async def wait(self, cell: Cell, waiter: Waiter, until: float) -> Lease | None:
        while waiter.lease is None and self.backend.clock.now() < until:
            held = self.backend.find(cell)
            if held is not None and held.released:
                self.backend.remove(cell)
                continue
            await self.backend.until(until if held is None else min(until, held.until))
            self.client.check_usable()
            self.backend.find(cell)
        return waiter.lease


@breaks("LCK-56")
class ReadThenRenewed(OtherRenewal):
    """A renewal reads who holds the lock, and writes that anew in another step."""

    async def keep(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        while not self.closed and self.backend.holds(cell, lease):
            due = self.backend.clock.now() + lock.ttl / 3
            while self.backend.clock.now() < due and not lease.released:
                await self.backend.until(due)
            if self.backend.reachable and self.backend.holds(cell, lease):
                await anyio.lowlevel.checkpoint()
                if self.backend.clock.now() >= lease.until and not lease.released:
                    return
                lease.released, lease.until = False, self.backend.clock.now() + self.backend.kept(lock.ttl)
                self.backend.leases[cell] = lease


@broken_lock("LCK-15", "LCK-19", "LCK-57")
class BetweenTwoStates(MemoryLock):
    """An attempt to acquire clears what is known of the last one, and puts it back when it is refused."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        before, self.lease = self.lease, None
        acquired = await super().acquire(timeout)
        if not acquired:
            self.lease = before
        return acquired


@breaks("LCK-58")
class RoomForAHundred(MemoryLockManager):
    """A client remembers the last hundred locks that it has acquired."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.remembered: list[MemoryLock] = []

    def granted(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        super().granted(lock, cell, lease)
        self.remembered.append(lock)
        if len(self.remembered) > 100:
            forgotten = self.remembered.pop(0)
            if forgotten is not lock and forgotten.lease is not None and not forgotten.lease.released:
                forgotten.lease = None


@broken_lock("LCK-59")
class WokenFromTheWrongEnd(OtherQueue):
    """When somebody gives up, the last in the queue takes the place."""

    def leave(self, cell: Cell, waiter: Waiter) -> None:
        super().leave(cell, waiter)
        waiting = self.backend.queues[cell]
        if waiter.lease is None and len(waiting) > 1:
            waiting.insert(0, waiting.pop())


@broken_lock("LCK-60")
class AnotherKey(MemoryLock):
    """A lock that is free is acquired under another key by those who would have waited for it."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        name, cell = self.name, self.client.cell(self.name)
        if timeout and not self.auto_renew and self.backend.find(cell) is None:
            self.name = f"{name}:waiting"
        return await super().acquire(timeout)


@broken_lock("MT-25")
class WaitsWithoutTenant(MemoryLock):
    """Where a lock may be waited for, it is one of those that belong to no tenant."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        if not timeout:
            return await super().acquire()
        tenant, self.client.tenant_id = self.client.tenant_id, None
        try:
            return await super().acquire(timeout)
        finally:
            self.client.tenant_id = tenant


@breaks("LCK-61")
class DiesOfItsFirstError(OtherRenewal):
    """The task that renews ends with the first renewal that fails."""

    async def keep(self, lock: MemoryLock, cell: Cell, lease: Lease) -> None:
        while not self.closed and self.backend.holds(cell, lease) and self.backend.reachable:
            await self.pause(lock.ttl / 3, lease)
            if self.backend.reachable:
                lock.extend(cell, lock.ttl)


@broken_lock("LCK-62")
class HandedToTheGone(OtherQueue):
    """What was given to a waiter that is cancelled stays with it, and its lease has not begun."""

    def leave(self, cell: Cell, waiter: Waiter) -> None:
        waiting = self.backend.queues[cell]
        if waiter in waiting:
            waiting.remove(waiter)
        if waiter.lease is not None and self.lease is not waiter.lease and (task := asyncio.current_task()) and task.cancelling():
            waiter.lease.until = math.inf


@broken_lock("LCK-63")
class RenewedBelow(MemoryLock):
    """A renewal moves the end of the lease, and with it that of `at_least`."""

    def extend(self, cell: Cell, ttl: float) -> bool:
        extended = super().extend(cell, ttl)
        if extended and self.lease is not None:
            self.lease.until = self.backend.clock.now() + self.backend.kept(ttl)
            self.lease.kept_until = min(self.lease.kept_until, self.lease.until)
        return extended


@broken_lock("LCK-64")
class RenewsForNobody(MemoryLock):
    """The renewal begins with the grant, also where the call is cancelled before it returns."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        acquired = await super().acquire(timeout)
        if acquired and self.auto_renew:
            await anyio.lowlevel.checkpoint()
        return acquired
