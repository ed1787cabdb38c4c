"""Broken key-value stores, in the order of the rules that reject them."""

import fnmatch
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, key_values, tenants
from omnitck.reference.client import Cell
from omnitck.reference.kv_store import MemoryKVStore
from omnitck.shared.exceptions import ConflictError, NotFoundError, TCKError
from omnitck.shared.models import Change, Entry, Expect, Put, Remove

# The common family

break_with(
    MemoryKVStore,
    {
        key_values.RenamedParameter: "KV-COM-01",
        clients.PlainFunction: "KV-COM-01",
        clients.UnknownCapability: "KV-COM-02",
        clients.CapabilitiesAsText: "KV-COM-02",
        clients.LimitsAsMapping: "KV-COM-02",
        clients.LowLimit: "KV-COM-02",
        clients.StaleAdvertisement: "KV-COM-04",
        clients.NegativeCache: "KV-COM-05 KV-14 KV-35",
        clients.UnflushedBuffer: "KV-COM-06",
        clients.DoubleRelease: "KV-COM-07",
        clients.SilentReconnect: "KV-COM-08",
        clients.SwallowingExit: "KV-COM-09",
        clients.SharedPool: "KV-COM-10 KV-COM-06 MT-16",
        clients.OrphanedTask: "KV-COM-11",
        clients.BreakingClose: "KV-COM-11",
        clients.LeakingVendorError: "KV-COM-12",
        key_values.TalkativeError: "KV-COM-13",
        clients.SwallowedCancellation: "KV-COM-14",
        clients.DefaultOnCancellation: "KV-COM-14",
        clients.DeletedAnyway: "KV-COM-14",
        clients.CrossedReply: "KV-COM-15 MT-15",
        key_values.TornWrite: "KV-COM-16 KV-COM-22",
        key_values.SharedResult: "KV-COM-17",
        clients.SharedCursor: "KV-COM-18 KV-COM-15 MT-14",
        clients.CoercedKey: "KV-COM-19",
        clients.NormalisedKey: "KV-COM-20",
        clients.DecodedKey: "KV-COM-20",
        clients.TruncatedKey: "KV-COM-21",
        clients.LimitInCharacters: "KV-COM-21",
        clients.TruncatedValue: "KV-COM-22",
        clients.BlockingCall: "KV-COM-23",
        clients.PrintedPassword: "KV-COM-24",
        clients.CrashedWorker: "KV-COM-25",
        clients.CancelsItsCaller: "KV-COM-26",
        clients.ForgottenTimer: "KV-COM-26",
        clients.EndlessFarewell: "KV-COM-25",
    },
)


@breaks("KV-COM-03", without="ttl")
class DroppedArgument(MemoryKVStore):
    """It takes `ttl` without supporting it, and stores for ever."""

    def check_ttl(self, key: str, ttl: object) -> None:
        pass

    def deadline(self, ttl: float | None) -> float | None:
        return None


@breaks("KV-COM-13")
class NamelessError(MemoryKVStore):
    """ "key is absent", but which?"""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            raise NotFoundError("the key is absent") from None


# What a key-value store and a cache owe alike

break_with(
    MemoryKVStore,
    {
        key_values.EarlyTick: "KV-CA-05 KV-CA-13 KV-CA-14 KV-27 KV-30",
        key_values.BackgroundSweep: "KV-CA-06",
        key_values.OldTimer: "KV-CA-07",
        key_values.InheritedExpiry: "KV-CA-08 KV-32",
        key_values.SlidingExpiry: "KV-CA-09 KV-CA-13 KV-CA-14",
        key_values.DefaultExpiry: "KV-CA-10 KV-10 KV-30 KV-32",
        key_values.ZeroIsForever: "KV-CA-11",
        key_values.RelativeOrAbsolute: "KV-CA-12",
        key_values.WholeSeconds: "KV-CA-13",
        key_values.OneDeadline: "KV-CA-14",
        key_values.CountingGhost: "KV-CA-15",
        key_values.KeyErrorForAbsence: (
            "KV-01 KV-07 KV-08 KV-09 KV-10 KV-12 KV-14 KV-17 KV-29 KV-34 KV-35 KV-CA-06 KV-CA-07 KV-CA-09 KV-CA-13 KV-CA-14 "
            "KV-COM-05 KV-COM-19 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-20 MT-22 KV-32"
        ),
        key_values.TypeOfDriver: "KV-02 KV-32",
        key_values.FalsyIsAbsent: "KV-03 KV-06 KV-27 KV-32",
        key_values.StrippedValue: "KV-04 KV-27",
        key_values.ReadAsJson: "KV-04",
        key_values.UniversalNewlines: "KV-04",
        key_values.CoercedValue: "KV-05",
        key_values.DeleteNotFound: "KV-07 KV-14 KV-32",
        key_values.RecursiveDelete: "KV-08",
        key_values.MatchingGet: "KV-09",
        key_values.NearCache: "KV-12 KV-14 KV-29 KV-35",
        key_values.CreateOverwrites: "KV-15 KV-14 KV-21 KV-32 MT-18",
        key_values.EarlierVersion: "KV-16 KV-32",
        key_values.CreatesOnMissing: "KV-17 KV-14 KV-21 KV-30 KV-32",
        key_values.CounterRestarts: "KV-18 KV-32",
        key_values.ParsedVersion: "KV-19 KV-COM-13",
        key_values.CheckThenWrite: "KV-20 KV-14 KV-21",
        key_values.SilentPartialBatch: "KV-26",
        key_values.CounterAtZero: "KV-27 KV-32",
        key_values.BytesAsText: "KV-31",
        key_values.MinusTwo: "KV-30 KV-32 KV-CA-06 KV-COM-13",
        key_values.NoExpiryForAbsence: "KV-30 KV-32 KV-CA-06 KV-COM-13",
        key_values.BatchKeepsExpiry: "KV-32",
    },
)


# kv_store


@breaks("KV-02", "KV-32")
class ReturningSet(MemoryKVStore):
    """`set` returns the driver's `True`."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> Any:
        await super().set(key, value, ttl=ttl)
        return True


@breaks("KV-06")
class OldTail(MemoryKVStore):
    """A shorter value is written over the longer one, whose end stays."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        before = self.find(key)
        if before is not None and len(before.value) == 5_000:
            data += before.value[len(data) :]
        return super().put(key, data, deadline)


@breaks("KV-10", "KV-32")
class LeftoverExpiry(MemoryKVStore):
    """A soft delete keeps the TTL, which the next value inherits."""

    def remove(self, key: str) -> None:
        item = self.find(key)
        if item is not None and item.deadline is not None:
            self.backend.__dict__.setdefault("leftovers", {})[self.cell(key)] = item.deadline
        super().remove(key)

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        left = self.backend.__dict__.get("leftovers", {}).pop(self.cell(key), None)
        return super().put(key, data, deadline if deadline is not None else left)


@breaks("KV-11", "KV-14", "MT-04", "MT-19", "KV-32")
class ReadRepair(MemoryKVStore):
    """Every read writes the value back, under a new version."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        item = self.find(key)
        if item is not None:
            self.backend.versions += 1
            self.backend.items[self.cell(key)] = replace(item, version=self.backend.versions)
        return value


@breaks("KV-13", "KV-COM-16")
class MixedWrite(MemoryKVStore):
    """A large value is written in two parts, the second onto what it finds."""

    parts = 0

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        if not isinstance(value, str) or not 10_000 < len(value) < 100_000:
            return await super().set(key, value, ttl=ttl)

        half = len(value) // 2
        await super().set(key, value[:half], ttl=ttl)
        self.parts += 1
        for _ in range(self.parts % 3):
            await anyio.lowlevel.checkpoint()
        item = self.find(key)
        return await super().set(key, (item.value.decode() if item else "")[:half] + value[half:], ttl=ttl)


@breaks("KV-14")
class StaleReplica(MemoryKVStore):
    """While a write is on its way, reads go to a replica that lags."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        cell = self.cell(key)
        writing: Counter[Cell] = self.backend.__dict__.setdefault("writing", Counter())
        writing[cell] += 1
        try:
            await super().set(key, value, ttl=ttl)
        finally:
            writing[cell] -= 1

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        before = self.find(key)
        self.backend.__dict__.setdefault("replica", {})[self.cell(key)] = (
            None if before is None else before.value.decode(errors="replace")
        )
        return super().put(key, data, deadline)

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        cell = self.cell(key)
        lags = self.backend.__dict__.get("writing", {}).get(cell)
        return self.backend.__dict__.get("replica", {}).get(cell) if lags else value


@breaks("KV-18", "KV-32")
class VersionOfValue(MemoryKVStore):
    """The version is a hash of the value."""

    async def get_entry(self, key: str) -> Entry | None:
        entry = await super().get_entry(key)
        return None if entry is None else Entry(entry.value, self.hash(entry.value))

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        await super().compare_and_set(key, value, expected)
        return self.hash(value)

    def check_version(self, key: str, expected: str | None) -> None:
        item = self.find(key)
        if (None if item is None else self.hash(item.value.decode())) != expected:
            raise ConflictError(f"key {key!r} has another version, or none")

    def hash(self, value: str) -> str:
        return hashlib.sha256(value.encode()).hexdigest()


@breaks("KV-21")
class TimeoutForConflict(MemoryKVStore):
    """Under contention a comparison times out instead of losing."""

    waiting = 0

    async def compare_and_delete(self, key: str, expected: str) -> None:
        self.waiting += 1
        try:
            if self.waiting > 5:
                raise TCKError(f"key {key!r}: timed out waiting for the lock")
            await super().compare_and_delete(key, expected)
        finally:
            self.waiting -= 1


break_with(MemoryKVStore, {clients.OnePage: "KV-22 KV-23 KV-COM-20"})


@breaks("KV-22", "MT-06")
class UnescapedLike(MemoryKVStore):
    """The prefix goes into a LIKE as it is."""

    async def page(self, prefix: str, after: str) -> list[str]:
        keys = await super().page(prefix, after)
        if keys or "_" not in prefix:
            return keys
        pattern = prefix.replace("_", "?") + "*"
        others = sorted(key for key in self.own() if key > after)
        return [key for key in others if fnmatch.fnmatchcase(key, pattern)]


@breaks("KV-22")
class FoldedPrefix(MemoryKVStore):
    """The case of a prefix does not matter, as in the LIKE of SQLite."""

    async def page(self, prefix: str, after: str) -> list[str]:
        await self.turn()
        return sorted(key for key in self.own() if key > after and key.lower().startswith(prefix.lower()))


@breaks("KV-23")
class PagesByOffset(MemoryKVStore):
    """A page begins at a number, which changes mean something else by."""

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        if prefix:
            self.check_key(prefix)
        offset = 0
        while True:
            await self.turn()
            keys = sorted(key for key in self.own() if key.startswith(prefix))
            page = keys[offset : offset + self.limits.page_size]
            if not page:
                return
            for key in page:
                yield key
            offset += len(page)


@breaks("KV-24")
class LeakedCursor(MemoryKVStore):
    """A cursor is given back at the end of the listing, which nobody reaches."""

    cursors = 0

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        self.cursors += 1
        if self.cursors > 25:
            raise TCKError("too many cursors are open")
        async for key in super().list_keys(prefix):
            yield key
        self.cursors -= 1


@breaks("KV-25")
class IteratesTwice(MemoryKVStore):
    """`get_many` looks at its argument twice; the second time a generator is empty."""

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        if keys is not None and not isinstance(keys, list | tuple | set | str | bytes | int | Mapping):
            list(keys)
        return await super().get_many(keys)


@breaks("KV-27")
class RacingCounter(MemoryKVStore):
    """`increment` reads, waits and writes."""

    async def increment(self, key: str, delta: int = 1) -> int:
        self.check_key(key)
        await self.turn()
        before = self.number(key, self.find(key))
        await anyio.lowlevel.checkpoint()
        item = self.find(key)
        await super().increment(key, delta)
        total = before + delta
        self.put(key, str(total).encode(), None if item is None else item.deadline)
        return total


@breaks("KV-28")
class UntoldDelete(MemoryKVStore):
    """Watchers are not told of deletes."""

    def remove(self, key: str) -> None:
        if self.find(key) is not None:
            del self.backend.items[self.cell(key)]


@breaks("KV-33")
class EndlessWatch(MemoryKVStore):
    """`close` leaves a watcher waiting."""

    async def close(self) -> None:
        self.closed = True
        await anyio.lowlevel.checkpoint()


@breaks("KV-33")
class LostWatch(MemoryKVStore):
    """`close` breaks the connection under a watcher, who is told by the driver."""

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        return self.told(super().watch(prefix))

    @asynccontextmanager
    async def told(self, watcher: AbstractAsyncContextManager[AsyncIterator[Change]]) -> AsyncIterator[AsyncIterator[Change]]:
        async with watcher as changes:
            yield self.read_on(changes)

    async def read_on(self, changes: AsyncIterator[Change]) -> AsyncIterator[Change]:
        async for change in changes:
            yield change
        if self.closed:
            raise ConnectionResetError("connection lost")


@breaks("KV-29", "KV-35", "KV-32")
class Pipeline(MemoryKVStore):
    """A transaction sends its steps one by one."""

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        checked = [self.checked_step(op) for op in ops]
        await super().transact([])
        for op, _ in checked:
            await super().transact([op])


@breaks("KV-34")
class ChecksFirst(MemoryKVStore):
    """A transaction holds every `Expect` against what was there before it."""

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        await super().transact(sorted(ops, key=lambda op: not isinstance(op, Expect)))


@breaks("KV-35")
class ConditionOutside(MemoryKVStore):
    """What a transaction expects at its start is checked before it begins."""

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        if ops and isinstance(ops[0], Expect):
            await super().transact(ops[:1])
            ops = ops[1:]
        await super().transact(ops)


@breaks("KV-30")
class GhostBlocksCreation(MemoryKVStore):
    """A value that has expired still stands in the way of a creation."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        if expected is None and isinstance(key, str) and self.cell(key) in self.backend.__dict__.get("timed", ()):
            raise ConflictError(f"key {key!r} exists")
        return await super().compare_and_set(key, value, expected)

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        timed: set[Cell] = self.backend.__dict__.setdefault("timed", set())
        (timed.discard if deadline is None else timed.add)(self.cell(key))
        return super().put(key, data, deadline)

    def remove(self, key: str) -> None:
        self.backend.__dict__.get("timed", set()).discard(self.cell(key))
        super().remove(key)


# Tenants

break_with(
    MemoryKVStore,
    {
        **tenants.EVERYWHERE,
        tenants.IgnoredTenant: (
            "MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-19 MT-21 MT-22"
        ),
        tenants.DeleteEverywhere: "MT-02 MT-04 MT-09 MT-10 MT-13 MT-21",
        key_values.ExistenceOracle: "MT-03",
        key_values.DuplicateKeyText: "MT-05",
        tenants.UnscopedScan: "MT-06 MT-07 MT-08 MT-13",
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


@breaks("MT-04")
class IncrementEverywhere(MemoryKVStore):
    """`increment` touches every row with that key."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        for cell, item in list(self.backend.items.items()):
            if cell.name == key and cell.tenant != self.tenant_id:
                self.backend.versions += 1
                self.backend.items[cell] = replace(item, version=self.backend.versions)
        return total


@breaks("MT-18")
class GlobalUniqueIndex(MemoryKVStore):
    """A creation conflicts with another tenant's key."""

    def check_version(self, key: str, expected: str | None) -> None:
        super().check_version(key, expected)
        if expected is None and tenants.elsewhere(self, key):
            raise ConflictError(f"key {key!r} has another version, or none")


@breaks("MT-21")
class SharedChannel(MemoryKVStore):
    """Watchers of all tenants hear everything."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        for watcher in self.backend.watchers:
            if watcher.tenant != self.tenant_id and key.startswith(watcher.prefix):
                watcher.stream.send_nowait(Change(key, data.decode(errors="replace")))
        return super().put(key, data, deadline)


@breaks("MT-22")
class BulkEverywhere(MemoryKVStore):
    """`delete_many` of several keys has no tenant in its condition."""

    async def delete_many(self, keys: Iterable[str]) -> None:
        wanted = self.check_keys(keys)
        await super().delete_many(wanted)
        for cell in [each for each in self.backend.items if each.name in wanted and len(wanted) > 1]:
            self.backend.remove(cell)


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryKVStore)]
