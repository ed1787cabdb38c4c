"""Broken caches, in the order of the rules that reject them."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, key_values, tenants
from omnitck.reference.cache import Flight, MemoryCache
from omnitck.reference.client import Cell
from omnitck.shared.exceptions import TCKError

Factory = Callable[[], Awaitable[str]]

# The common family

break_with(
    MemoryCache,
    {
        key_values.RenamedParameter: "CA-COM-01",
        clients.UnknownCapability: "CA-COM-02",
        clients.CapabilitiesAsText: "CA-COM-02",
        clients.StaleAdvertisement: "CA-COM-04",
        clients.NegativeCache: "CA-COM-05",
        clients.UnflushedBuffer: "CA-COM-06",
        clients.DoubleRelease: "CA-COM-07",
        clients.SilentReconnect: "CA-COM-08",
        clients.SwallowingExit: "CA-COM-09",
        clients.SharedPool: "CA-COM-10 CA-COM-06 MT-16",
        clients.OrphanedTask: "CA-COM-11",
        clients.LeakingVendorError: "CA-COM-12",
        key_values.TalkativeError: "CA-COM-13",
        clients.SwallowedCancellation: "CA-COM-14",
        clients.DefaultOnCancellation: "CA-COM-14",
        clients.DeletedAnyway: "CA-COM-14",
        clients.CrossedReply: "CA-COM-15 MT-15",
        key_values.TornWrite: "CA-COM-16 CA-COM-22",
        key_values.SharedResult: "CA-COM-17",
        clients.SharedCursor: "CA-COM-18 CA-COM-15 CA-03 MT-14",
        clients.CoercedKey: "CA-COM-19",
        clients.NormalisedKey: "CA-COM-20",
        clients.TruncatedKey: "CA-COM-21",
        clients.TruncatedValue: "CA-COM-22",
        clients.BlockingCall: "CA-COM-23",
        clients.PrintedPassword: "CA-COM-24",
        clients.CrashedWorker: "CA-COM-25",
        clients.CancelsItsCaller: "CA-COM-26",
        clients.ForgottenTimer: "CA-COM-26",
    },
)


@breaks("CA-COM-02")
class SmallCapacity(MemoryCache):
    """It promises less than the least capacity."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, capacity_bytes=8_000_000)  # type: ignore[call-arg]


@breaks("CA-COM-03", without="touch")
class SilentTouch(MemoryCache):
    """It takes `touch` without supporting it, and does nothing."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        return False


@breaks("CA-COM-12")
class MissOnOutage(MemoryCache):
    """A cache whose server does not answer pretends that nothing is in it."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) if self.backend.reachable else None


@breaks("CA-COM-20")
class ReplacedSpaces(MemoryCache):
    """memcached takes no space in a key: it becomes an underscore."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.replace(" b", "_b"))


# What a key-value store and a cache owe alike

break_with(
    MemoryCache,
    {
        key_values.KeyErrorForAbsence: (
            "CA-01 CA-04 CA-06 CA-07 CA-09 CA-13 CA-14 CA-16 CA-17 CA-18 CA-20 CA-21 CA-23 CA-24 CA-26 CA-29 CA-COM-05 "
            "CA-COM-19 CA-KV-08 CA-KV-09 CA-KV-17 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-20 MT-22"
        ),
        key_values.TypeOfDriver: "CA-KV-02 CA-26",
        key_values.FalsyIsAbsent: "CA-KV-03 CA-KV-27 CA-26",
        key_values.ReadAsJson: "CA-KV-04",
        key_values.UniversalNewlines: "CA-KV-04",
        key_values.CoercedValue: "CA-KV-05",
        key_values.DeleteNotFound: "CA-04 CA-26",
        key_values.RecursiveDelete: "CA-KV-08",
        key_values.MatchingGet: "CA-KV-09",
        key_values.NearCache: "CA-16",
        key_values.CreateOverwrites: "CA-KV-15 CA-KV-21 CA-26",
        key_values.EarlierVersion: "CA-KV-16 CA-26",
        key_values.CreatesOnMissing: "CA-KV-17 CA-KV-21 CA-26",
        key_values.CounterRestarts: "CA-KV-18 CA-26",
        key_values.ParsedVersion: "CA-KV-19 CA-COM-13",
        key_values.CheckThenWrite: "CA-KV-20 CA-KV-21",
        key_values.SilentPartialBatch: "CA-KV-26",
        key_values.CounterAtZero: "CA-KV-27 CA-26",
        key_values.BytesAsText: "CA-KV-31",
        key_values.MinusTwo: "CA-19 CA-06 CA-26 CA-COM-13",
        key_values.NoExpiryForAbsence: "CA-19 CA-06 CA-26 CA-COM-13",
        key_values.BatchKeepsExpiry: "CA-26",
        key_values.EarlyTick: "CA-05 CA-13 CA-14 CA-19 CA-KV-27",
        key_values.BackgroundSweep: "CA-06",
        key_values.OldTimer: "CA-07",
        key_values.InheritedExpiry: "CA-08 CA-26",
        key_values.SlidingExpiry: "CA-09 CA-13 CA-14 CA-26",
        key_values.DefaultExpiry: "CA-10 CA-19 CA-26",
        key_values.ZeroIsForever: "CA-11 CA-COM-13",
        key_values.RelativeOrAbsolute: "CA-12",
        key_values.WholeSeconds: "CA-13",
        key_values.OneDeadline: "CA-14",
        key_values.CountingGhost: "CA-15 CA-24",
    },
)


@breaks("CA-KV-25", "CA-26")
class MissesLeftOut(MemoryCache):
    """`get_many` returns what it found, as memcached's clients do, and leaves the misses out."""

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        found = await super().get_many(keys)
        return {key: value for key, value in found.items() if value is not None} if len(found) > 1 else found


# cache


@breaks("CA-03")
class SmallLRU(MemoryCache):
    """It keeps 512 entries, whatever their size."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        version = super().put(key, data, deadline)
        if len(self.backend.items) > 512:
            self.backend.remove(next(iter(self.backend.items)))
        return version


@breaks(
    *"CA-03 CA-04 CA-05 CA-07 CA-08 CA-10 CA-11 CA-12 CA-13 CA-14 CA-15 CA-16 CA-17 CA-18 CA-19 CA-20 CA-21 CA-22".split(),
    *"CA-23 CA-24 CA-25 CA-26 CA-27 CA-COM-05 CA-COM-06 CA-COM-10 CA-COM-13 CA-COM-15 CA-COM-16 CA-COM-17 CA-COM-18".split(),
    *"CA-COM-20 CA-COM-21 CA-COM-22 CA-KV-02 CA-KV-03 CA-KV-04 CA-KV-05 CA-KV-08 CA-KV-09 CA-KV-15 CA-KV-16 CA-KV-17".split(),
    *"CA-KV-18 CA-KV-19 CA-KV-20 CA-KV-21 CA-KV-25 CA-KV-26 CA-KV-27 CA-KV-31 MT-01 MT-02 MT-07 MT-09 MT-10 MT-12".split(),
    *"MT-13 MT-14 MT-15 MT-16 MT-17 MT-18 MT-20 MT-22".split(),
)
class NullCache(MemoryCache):
    """The cache that is switched off in development: it stores nothing."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        version = super().put(key, data, deadline)
        self.remove(key)
        return version


@breaks("CA-04")
class DeleteWaits(MemoryCache):
    """`delete` of a value with a TTL leaves it to the TTL."""

    def remove(self, key: str) -> None:
        item = self.find(key)
        if item is None or item.deadline is None or item.deadline - self.backend.clock.now() > 3600.5:
            super().remove(key)


@breaks("CA-11")
class UncheckedTouch(MemoryCache):
    """`touch` passes what it is given on: less than nothing deletes."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        if isinstance(ttl, float | int) and ttl < 0:
            await self.delete(key)
            return True
        return await super().touch(key, ttl)


@breaks("CA-15")
class GhostBlocksAdd(MemoryCache):
    """A value that has expired still stands in the way of `add`."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        ghost = self.backend.items.get(self.cell(key)) if isinstance(key, str) else None
        return await super().add(key, value, ttl) and (ghost is None or await self.bury(key))

    async def bury(self, key: str) -> bool:
        self.remove(key)
        return False


@breaks("CA-17")
class GetThenAdd(MemoryCache):
    """`add` asks, waits, and sets."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        self.encoded(key, value)
        self.check_ttl(key, ttl)
        if await self.get(key) is not None:
            return False
        await self.set(key, value, ttl)
        return True


@breaks("CA-17", "CA-26")
class AddOverwrites(MemoryCache):
    """`add` is a `set` that tells whether there was something."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        added = await super().add(key, value, ttl)
        if not added:
            await self.set(key, value, ttl)
        return added


@breaks("CA-18", "CA-26")
class TouchRecreates(MemoryCache):
    """`touch` of an absent key creates an empty one."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        touched = await super().touch(key, ttl)
        if not touched:
            self.put(key, b"", self.deadline(ttl))
        return touched


@breaks("CA-18")
class TouchPrevails(MemoryCache):
    """`touch` only prolongs: a shorter time is not taken."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        before = self.find(key) if isinstance(key, str) else None
        touched = await super().touch(key, ttl)
        item = self.find(key)
        if before and item and before.deadline and item.deadline and item.deadline < before.deadline:
            self.backend.items[self.cell(key)] = before
        return touched


@breaks("CA-19", "CA-26")
class MinusOne(MemoryCache):
    """`expires_in` passes the server's -1 on."""

    async def expires_in(self, key: str) -> float | None:
        left = await super().expires_in(key)
        return -1.0 if left is None else left


@breaks("CA-20")
class Stampede(MemoryCache):
    """Everybody who misses computes."""

    async def get_or_set(self, key: str, factory: Factory, ttl: float | None = None) -> str:
        self.check_ttl(key, ttl)
        await self.turn()
        held = await self.get(key)
        if held is not None:
            return held
        value = await factory()
        await self.set(key, value, ttl)
        return value


@breaks("CA-28")
class OneLock(MemoryCache):
    """One lock for all keys: computations wait for each other."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        lock: anyio.Lock = self.__dict__.setdefault("lock", anyio.Lock())
        flight = self.flights[self.cell(key)] = Flight()
        try:
            async with lock:
                value = await factory()
            data = self.encoded(key, value)
            await self.turn()
            self.put(key, data, self.deadline(ttl))
            flight.value = value
            return value
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self.flights[self.cell(key)]
            flight.ended.set()


@breaks("CA-21")
class CachedError(MemoryCache):
    """A computation that failed is remembered, and fails for whoever asks later."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        failed: dict[Cell, Exception] = self.__dict__.setdefault("failed", {})
        if self.cell(key) in failed:
            raise failed[self.cell(key)]
        try:
            return await super().compute(key, factory, ttl)
        except LookupError as error:
            failed[self.cell(key)] = error
            raise


@breaks("CA-21")
class LeaderTakesAll(MemoryCache):
    """When the caller that computes is cancelled, all who wait fail."""

    async def get_or_set(self, key: str, factory: Factory, ttl: float | None = None) -> str:
        flight = self.flights.get(self.cell(key)) if isinstance(key, str) else None
        if flight is not None:
            await flight.ended.wait()
            if flight.error is None and flight.value is None and not self.closed:
                raise TCKError(f"key {key!r}: the computation was cancelled")
        return await super().get_or_set(key, factory, ttl)


@breaks("CA-21")
class HangingWaiters(MemoryCache):
    """A computation that fails tells nobody who waits for it."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        flight = self.flights[self.cell(key)] = Flight()
        value = await factory()
        data = self.encoded(key, value)
        await self.turn()
        self.put(key, data, self.deadline(ttl))
        flight.value = value
        del self.flights[self.cell(key)]
        flight.ended.set()
        return value


@breaks("CA-29")
class CoercedResult(MemoryCache):
    """A computed number is stored as its text."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        async def as_text() -> str:
            value: object = await factory()
            return str(value) if isinstance(value, int) else value  # type: ignore[return-value]

        return await super().compute(key, as_text, ttl)


@breaks("CA-22", "CA-26")
class FalsyComputedAgain(MemoryCache):
    """`if not value: compute`."""

    async def get_or_set(self, key: str, factory: Factory, ttl: float | None = None) -> str:
        value = await super().get_or_set(key, factory, ttl)
        return value or await self.compute(key, factory, ttl)


@breaks("CA-22", "CA-26")
class ComputedForEver(MemoryCache):
    """`get_or_set` stores without the TTL that it is given."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        return await super().compute(key, factory, None)


@breaks("CA-23", "MT-04", "MT-22")
class FlushAll(MemoryCache):
    """`clear` is FLUSHALL."""

    def owns(self, cell: Cell) -> bool:
        return True


@breaks("CA-23")
class PrefixFlush(MemoryCache):
    """`clear` removes what begins with the namespace's name, and another's name may."""

    def owns(self, cell: Cell) -> bool:
        return cell.space.startswith(self.namespace) and cell.tenant == self.tenant_id


@breaks("CA-23")
class OnePageCleared(MemoryCache):
    """`clear` ends with the first page of the scan."""

    async def clear(self) -> None:
        await self.turn()
        for cell in [each for each in self.backend.items if self.owns(each)][: self.limits.page_size]:
            self.backend.remove(cell)


@breaks("CA-24", "CA-KV-27")
class CountedForEver(MemoryCache):
    """A counter is read and written back, and its TTL is lost."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        self.put(key, str(total).encode(), None)
        return total


@breaks("CA-25")
class EvictsNewest(MemoryCache):
    """A full cache drops what it has just been given."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        full = self.backend.used + len(data) > self.limits.capacity_bytes + 300_000  # type: ignore[attr-defined]
        version = self.backend.put(self.cell(key), data, deadline)
        if full:
            self.remove(key)
        return version


@breaks("CA-25")
class OutOfMemory(MemoryCache):
    """A full cache refuses, as Redis does with `noeviction`."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        if self.backend.used + len(data) > self.limits.capacity_bytes + 300_000:  # type: ignore[attr-defined]
            raise TCKError(f"key {key!r}: OOM command not allowed when used memory > 'maxmemory'")
        return self.backend.put(self.cell(key), data, deadline)


@breaks("CA-27")
class Overhead(MemoryCache):
    """The records of the backend itself take their part of the capacity that it promises."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        version = self.backend.put(self.cell(key), data, deadline)
        self.backend.make_room(int(0.9 * self.limits.capacity_bytes))  # type: ignore[attr-defined]
        return version


# Tenants

break_with(
    MemoryCache,
    {
        **tenants.EVERYWHERE,
        tenants.IgnoredTenant: "MT-01 MT-02 MT-03 MT-04 MT-05 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-19 MT-22",
        tenants.DeleteEverywhere: "MT-02 MT-04 MT-09 MT-10 MT-13",
        key_values.ExistenceOracle: "MT-03",
        key_values.DuplicateKeyText: "MT-05",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.JoinedByNothing: "MT-08 MT-12 MT-13",
        tenants.GlobalSuperuser: "MT-13",
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        key_values.AbsoluteVersion: "MT-19",
        tenants.ParsedTenant: "MT-20",
    },
)


@breaks("MT-03", "MT-05")
class SharedResults(MemoryCache):
    """What was computed is remembered by key alone, for all tenants."""

    async def get_or_set(self, key: str, factory: Factory, ttl: float | None = None) -> str:
        for cell, item in list(self.backend.items.items()):
            if cell.name == key and cell.tenant != self.tenant_id:
                return item.value.decode()
        return await super().get_or_set(key, factory, ttl)


@breaks("MT-04")
class TouchEverywhere(MemoryCache):
    """`touch` gives every tenant's value of that key a new time."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        touched = await super().touch(key, ttl)
        for cell, item in list(self.backend.items.items()):
            if cell.name == key and cell.tenant != self.tenant_id:
                self.backend.items[cell] = replace(item, deadline=self.deadline(ttl))
        return touched


@breaks("MT-18")
class GlobalUniqueIndex(MemoryCache):
    """`add` finds the key of another tenant in its way."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        self.check_key(key)
        theirs = any(cell.name == key and cell.tenant != self.tenant_id for cell in self.backend.items)
        self.encoded(key, value)
        if theirs:
            await self.turn()
            return False
        return await super().add(key, value, ttl)


@breaks("MT-22", "MT-04")
class ClearsAllTenants(MemoryCache):
    """`clear` empties the namespace for all tenants."""

    def owns(self, cell: Cell) -> bool:
        return cell.space == self.namespace


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryCache)]
