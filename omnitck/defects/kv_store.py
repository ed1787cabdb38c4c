"""Broken key-value stores, in the order of the rules that reject them."""

import asyncio
import fnmatch
import hashlib
import time
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import breaks
from omnitck.reference.client import Cell
from omnitck.reference.kv_store import MemoryKVStore
from omnitck.shared.exceptions import ClosedError, ConflictError, InvalidArgumentError, NotFoundError, TCKError
from omnitck.shared.models import Change, Entry, Expect, Put, Remove

# The common family


@breaks("KV-COM-01")
class RenamedParameter(MemoryKVStore):
    """`get` calls its parameter `name`: `get(key=...)` is a TypeError."""

    async def get(self, name: str) -> str | None:
        return await super().get(name)


@breaks("KV-COM-01")
class PlainFunction(MemoryKVStore):
    """`delete` is a plain function that works before it is awaited."""

    def delete(self, key: str) -> Any:
        return super().delete(key)


@breaks("KV-COM-02")
class UnknownCapability(MemoryKVStore):
    """It advertises `time_to_live`, which no application asks for."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities |= {"time_to_live"}


@breaks("KV-COM-02")
class LowLimit(MemoryKVStore):
    """It allows keys of 200 bytes only."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, key_bytes=200)


@breaks("KV-COM-03", without="ttl")
class DroppedArgument(MemoryKVStore):
    """It takes `ttl` without supporting it, and stores for ever."""

    def check_ttl(self, key: str, ttl: object) -> None:
        pass

    def deadline(self, ttl: float | None) -> float | None:
        return None


@breaks("KV-COM-04")
class StaleAdvertisement(MemoryKVStore):
    """Its list of capabilities was not updated when `counter` came."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities -= {"counter"}

    def need(self, capability: str) -> None:
        pass


@breaks("KV-COM-05", "KV-14", "KV-29")
class NegativeCache(MemoryKVStore):
    """A client remembers that a key is absent, and does not learn that another wrote it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.absent: set[str] = set()

    async def get(self, key: str) -> str | None:
        if key in self.absent:
            await self.turn()
            return None

        value = await super().get(key)
        if value is None:
            self.absent.add(key)
        return value

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        self.absent.discard(key)
        return super().put(key, data, deadline)


@breaks("KV-COM-06")
class UnflushedBuffer(MemoryKVStore):
    """What a client wrote goes when it closes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.written: set[Cell] = set()

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        self.written.add(self.cell(key))
        return super().put(key, data, deadline)

    async def close(self) -> None:
        for cell in self.written:
            self.backend.items.pop(cell, None)
        await super().close()


@breaks("KV-COM-07")
class DoubleRelease(MemoryKVStore):
    """A second `close` releases the pool again."""

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("pool is already closed")
        await super().close()


@breaks("KV-COM-08")
class SilentReconnect(MemoryKVStore):
    """`get_entry` connects again after `close`."""

    async def get_entry(self, key: str) -> Entry | None:
        closed, self.closed = self.closed, False
        try:
            return await super().get_entry(key)
        finally:
            self.closed = closed


@breaks("KV-COM-09")
class SwallowingExit(MemoryKVStore):
    """`__aexit__` returns true, and the application's exception is gone."""

    async def __aexit__(self, *exc_info: Any) -> bool:  # type: ignore[override]
        await super().__aexit__(*exc_info)
        return True


@breaks("KV-COM-10", "KV-COM-06", "MT-16")
class SharedPool(MemoryKVStore):
    """The first client to close, closes the pool of all."""

    async def close(self) -> None:
        self.backend.__dict__["pool_closed"] = True
        await super().close()

    def check_usable(self) -> None:
        if self.backend.__dict__.get("pool_closed"):
            raise ClosedError("the pool is closed")
        super().check_usable()


@breaks("KV-COM-11")
class OrphanedReader(MemoryKVStore):
    """A background task is started, and never ended."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        if not hasattr(self, "reader"):
            self.reader = asyncio.create_task(asyncio.sleep(3600), name="reader")
        await super().set(key, value, ttl=ttl)


@breaks("KV-COM-11")
class BreakingClose(MemoryKVStore):
    """An operation in flight during `close` fails with what the dead connection raises."""

    async def turn(self) -> None:
        self.check_usable()
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise ConnectionResetError("connection lost")
        self.check_usable()


@breaks("KV-COM-12")
class LeakingVendorError(MemoryKVStore):
    """The driver's own exception reaches the application."""

    def check_usable(self) -> None:
        if not self.backend.reachable:
            raise ConnectionRefusedError("connection refused")
        super().check_usable()


@breaks("KV-COM-13")
class NamelessError(MemoryKVStore):
    """ "key is absent", but which?"""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            raise NotFoundError("the key is absent") from None


@breaks("KV-COM-13")
class TalkativeError(MemoryKVStore):
    """The refusal to count quotes the value, and a secret is in the log."""

    async def increment(self, key: str, delta: int = 1) -> int:
        try:
            return await super().increment(key, delta)
        except InvalidArgumentError as error:
            item = self.find(key)
            raise InvalidArgumentError(f"{error}: {item.value!r}" if item else str(error)) from None


@breaks("KV-COM-14")
class SwallowedCancellation(MemoryKVStore):
    """A retry loop takes the cancellation for a failure of the network."""

    async def delete(self, key: str) -> None:
        self.check_key(key)
        try:
            await self.turn()
        except BaseException as error:
            if isinstance(error, TCKError):
                raise
        self.remove(key)


@breaks("KV-COM-15", "MT-15")
class CrossedReply(MemoryKVStore):
    """The connection of a cancelled read goes back to the pool with its reply unread; the next read gets it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.unread: list[str | None] = []

    async def get(self, key: str) -> str | None:
        try:
            value = await super().get(key)
        except anyio.get_cancelled_exc_class():
            self.unread.append(None)
            raise
        self.unread.append(value)
        return self.unread.pop(0)


@breaks("KV-COM-16", "KV-COM-22")
class TornWrite(MemoryKVStore):
    """A large value is sent in two parts."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        if isinstance(value, str) and len(value) > 30_000:
            await super().set(key, value[: len(value) // 2], ttl=ttl)
        await super().set(key, value, ttl=ttl)


@breaks("KV-COM-17")
class SharedResult(MemoryKVStore):
    """`get_many` hands out its own cached dictionary."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.results: dict[tuple[object, ...], dict[str, str | None]] = {}

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        found = await super().get_many(keys)
        cached = self.results.setdefault(tuple(found.items()), found)
        return self.results.setdefault(tuple(cached), found) if len(found) == 1 else found

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        self.results.clear()
        return super().put(key, data, deadline)

    def remove(self, key: str) -> None:
        self.results.clear()
        super().remove(key)


@breaks("KV-COM-18", "KV-COM-15", "MT-14")
class SharedCursor(MemoryKVStore):
    """All reads of a client share one cursor: the last to ask decides what all are told."""

    cursor = ""

    async def get(self, key: str) -> str | None:
        self.check_key(key)
        self.cursor = key
        await self.turn()
        item = self.find(self.cursor)
        return None if item is None else self.text(key, item.value)


@breaks("KV-COM-19")
class CoercedKey(MemoryKVStore):
    """`get(None)` reads the key "None"."""

    async def get(self, key: str) -> str | None:
        return await super().get(key if isinstance(key, str) else str(key))


@breaks("KV-COM-20")
class NormalisedKey(MemoryKVStore):
    """The file system underneath stores names in one normal form."""

    def cell(self, key: str) -> Cell:
        return super().cell(unicodedata.normalize("NFC", key))


@breaks("KV-COM-20")
class DecodedKey(MemoryKVStore):
    """The HTTP library decodes `%2F`."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.replace("%2F", "/").replace("%2f", "/"))


@breaks("KV-COM-21")
class TruncatedKey(MemoryKVStore):
    """The column is one byte too narrow, and the database cuts."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.encode()[: self.limits.key_bytes - 1].decode(errors="replace"))


@breaks("KV-COM-21")
class LimitInCharacters(MemoryKVStore):
    """The limit of a key counts characters, and the backend bytes."""

    def check_key(self, key: object) -> None:
        if isinstance(key, str) and key.isascii():
            super().check_key(key)
        else:
            super().check_key(key[: self.limits.key_bytes // 4] if isinstance(key, str) else key)


@breaks("KV-COM-22")
class TruncatedValue(MemoryKVStore):
    """What is too long is cut, without a word."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, value[: self.limits.value_bytes] if isinstance(value, str) else value)


@breaks("KV-COM-23")
class BlockingCall(MemoryKVStore):
    """`watch` calls the vendor's synchronous client."""

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        time.sleep(0.12)
        return super().watch(prefix)


@breaks("KV-COM-24")
class PrintedPassword(MemoryKVStore):
    """`repr` shows the DSN."""

    def __repr__(self) -> str:
        return f"<store memory://user:{self.password}@localhost>"


# Expiry


@breaks("KV-CA-05", "KV-CA-13", "KV-CA-14", "KV-27", "KV-30")
class EarlyTick(MemoryKVStore):
    """A coarse clock takes values away before their time."""

    def deadline(self, ttl: float | None) -> float | None:
        deadline = super().deadline(ttl)
        now = self.backend.clock.now()
        return None if deadline is None else now + 0.7 * (deadline - now)


@breaks("KV-CA-06")
class BackgroundSweep(MemoryKVStore):
    """`get_bytes` reads what the sweep has not yet removed."""

    async def get_bytes(self, key: str) -> bytes | None:
        await super().get_bytes(key)
        item = self.backend.items.get(self.cell(key))
        return None if item is None else item.value

    def find(self, key: str) -> Any:
        item = self.backend.items.get(self.cell(key))
        return item if item and (item.deadline is None or self.backend.clock.now() < item.deadline) else None


@breaks("KV-CA-07")
class OldTimer(MemoryKVStore):
    """The timer of the old value deletes the new one."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        before = self.find(key) if isinstance(key, str) else None
        await super().set(key, value, ttl=ttl)
        cell = self.cell(key)
        item = self.backend.items[cell]
        if before and before.deadline and item.deadline:
            self.backend.items[cell] = replace(item, deadline=min(before.deadline, item.deadline))


@breaks("KV-CA-08", "KV-32")
class InheritedExpiry(MemoryKVStore):
    """`set` without a TTL updates the value alone."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        before = self.find(key) if isinstance(key, str) else None
        await super().set(key, value, ttl=ttl)
        if before and before.deadline and ttl is None:
            cell = self.cell(key)
            self.backend.items[cell] = replace(self.backend.items[cell], deadline=before.deadline)


@breaks("KV-CA-09", "KV-CA-13", "KV-CA-14")
class SlidingExpiry(MemoryKVStore):
    """Every read gives the value its whole time again."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        await super().set(key, value, ttl=ttl)
        self.backend.__dict__.setdefault("ttls", {})[self.cell(key)] = ttl

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        cell = self.cell(key)
        item = self.find(key)
        if item and item.deadline:
            self.backend.items[cell] = replace(item, deadline=self.deadline(self.backend.__dict__["ttls"].get(cell)))
        return value


@breaks("KV-CA-10", "KV-10", "KV-30", "KV-32")
class DefaultExpiry(MemoryKVStore):
    """No TTL means five minutes."""

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(300 if ttl is None else ttl)


@breaks("KV-CA-11")
class ZeroIsForever(MemoryKVStore):
    """A TTL of 0 stores for ever."""

    def check_ttl(self, key: str, ttl: object) -> None:
        super().check_ttl(key, None if ttl == 0 else ttl)

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(ttl or None)


@breaks("KV-CA-12")
class RelativeOrAbsolute(MemoryKVStore):
    """A TTL above 30 days is taken for a date in 1970."""

    def deadline(self, ttl: float | None) -> float | None:
        return 0.0 if ttl is not None and ttl > 30 * 86_400 else super().deadline(ttl)


@breaks("KV-CA-13")
class WholeSeconds(MemoryKVStore):
    """A TTL above a second loses its fraction."""

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(int(ttl) if ttl and ttl >= 1 else ttl)


@breaks("KV-CA-14")
class OneDeadline(MemoryKVStore):
    """All values of a table expire with the last that was written."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        await super().set(key, value, ttl=ttl)
        deadline = self.backend.items[self.cell(key)].deadline
        if deadline is None or len(self.backend.items) < 10:
            return

        for cell, item in self.backend.items.items():
            if item.deadline is not None and item.deadline > self.backend.clock.now():
                self.backend.items[cell] = replace(item, deadline=deadline)


@breaks("KV-CA-15", "KV-32")
class CountingGhost(MemoryKVStore):
    """`increment` goes on counting from a value that has expired."""

    async def increment(self, key: str, delta: int = 1) -> int:
        cell = self.cell(key)
        item = self.backend.items.get(cell) if isinstance(key, str) else None
        if item is not None and item.deadline is not None:
            self.backend.items[cell] = replace(item, deadline=self.backend.clock.now() + 3600)
        return await super().increment(key, delta)


# kv_store


@breaks(
    *"KV-01 KV-07 KV-08 KV-09 KV-10 KV-12 KV-14 KV-17 KV-29 KV-CA-06 KV-CA-07 KV-CA-09 KV-CA-13 KV-CA-14 KV-COM-05".split(),
    *"KV-COM-19 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-20 MT-22 KV-32".split(),
)
class KeyErrorForAbsence(MemoryKVStore):
    """`get` of an absent key is the KeyError of the dictionary inside."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None:
            raise KeyError(key)
        return value


@breaks("KV-02", "KV-32")
class ReturningSet(MemoryKVStore):
    """`set` returns the driver's `True`."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> Any:
        await super().set(key, value, ttl=ttl)
        return True


@breaks("KV-02", "KV-32")
class TypeOfDriver(MemoryKVStore):
    """`get` returns the driver's bytes for plain ASCII."""

    async def get(self, key: str) -> Any:
        value = await super().get(key)
        return value.encode() if value == "a" else value


@breaks("KV-03", "KV-06", "KV-27", "KV-32")
class FalsyIsAbsent(MemoryKVStore):
    """`if not value: return None`."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) or None


@breaks("KV-04", "KV-27")
class StrippedValue(MemoryKVStore):
    """A text protocol trims white space."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, value.strip() if isinstance(value, str) else value)


@breaks("KV-04")
class ReadAsJson(MemoryKVStore):
    """What looks like JSON text is decoded."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        return value[1:-1] if value is not None and len(value) > 1 and value[0] == value[-1] == '"' else value


@breaks("KV-04")
class UniversalNewlines(MemoryKVStore):
    """Large text goes to a file, which is read in text mode."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        return value.replace("\r\n", "\n").replace("\r", "\n") if value is not None and len(value) > 32_768 else value


@breaks("KV-05")
class CoercedValue(MemoryKVStore):
    """Numbers are stored as their text."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, str(value) if isinstance(value, float) else value)


@breaks("KV-06")
class OldTail(MemoryKVStore):
    """A shorter value is written over the longer one, whose end stays."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        before = self.find(key)
        if before is not None and len(before.value) == 5_000:
            data += before.value[len(data) :]
        return super().put(key, data, deadline)


@breaks("KV-07", "KV-14", "KV-32")
class DeleteNotFound(MemoryKVStore):
    """Deleting what is absent is an error, so that a retry fails."""

    async def delete(self, key: str) -> None:
        self.check_key(key)
        await self.turn()
        if self.find(key) is None:
            raise NotFoundError(f"key {key!r} is absent")
        self.remove(key)


@breaks("KV-08")
class RecursiveDelete(MemoryKVStore):
    """`delete` takes the subtree with it."""

    async def delete(self, key: str) -> None:
        await super().delete(key)
        for tenant, other in list(self.backend.items):
            if tenant == self.tenant_id and other.startswith(f"{key}/"):
                self.remove(other)


@breaks("KV-09")
class MatchingGet(MemoryKVStore):
    """`get` passes its key on as a pattern."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and key.endswith("*z"):
            for tenant, other in list(self.backend.items):
                if tenant == self.tenant_id and fnmatch.fnmatchcase(other, key):
                    return await super().get(other)
        return value


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


@breaks("KV-12", "KV-14", "KV-29")
class ClientCache(MemoryKVStore):
    """A client keeps what it has read, and is not told when another writes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.cache: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        if key in self.cache and self.find(key) is not None:
            await self.turn()
            return self.cache[key]

        value = await super().get(key)
        if value is not None:
            self.cache[key] = value
        return value

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        self.cache.pop(key, None)
        return super().put(key, data, deadline)


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


@breaks("KV-15", "KV-14", "KV-21", "KV-32", "MT-18")
class CreateOverwrites(MemoryKVStore):
    """`expected=None` writes without a condition."""

    def check_version(self, key: str, expected: str | None) -> None:
        if expected is not None:
            super().check_version(key, expected)


@breaks("KV-16", "KV-32")
class EarlierVersion(MemoryKVStore):
    """`compare_and_set` returns the version that it has replaced."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        version = await super().compare_and_set(key, value, expected)
        return expected or version


@breaks("KV-17", "KV-14", "KV-21", "KV-30", "KV-32")
class CreatesOnMissing(MemoryKVStore):
    """A comparison with what is absent succeeds, and creates it."""

    def check_version(self, key: str, expected: str | None) -> None:
        if self.find(key) is not None or not (expected or "x").isdigit():
            super().check_version(key, expected)


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


@breaks("KV-18", "KV-32")
class CounterRestarts(MemoryKVStore):
    """Each key counts its versions, from 1 again after a delete."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        cell = self.cell(key)
        before = self.find(key)
        super().put(key, data, deadline)
        version = 1 if before is None else before.version + 1
        self.backend.items[cell] = replace(self.backend.items[cell], version=version)
        return version


@breaks("KV-19", "KV-COM-13")
class ParsedVersion(MemoryKVStore):
    """A malformed version is the ValueError of `int`."""

    def check_version(self, key: str, expected: str | None) -> None:
        if expected is not None:
            int(expected)
        super().check_version(key, expected)


@breaks("KV-20", "KV-14", "KV-21")
class CheckThenWrite(MemoryKVStore):
    """Between the comparison and the write others may write."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        self.check_key(key)
        data = self.encoded(key, value)
        await self.turn()
        self.check_version(key, expected)
        await self.turn()
        return str(self.put(key, data, None))


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


@breaks("KV-22", "KV-23", "KV-COM-20")
class OnePage(MemoryKVStore):
    """A listing ends with the first page."""

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        if prefix:
            self.check_key(prefix)
        for key in await self.page(prefix, ""):
            yield key


@breaks("KV-22", "MT-06")
class UnescapedLike(MemoryKVStore):
    """The prefix goes into a LIKE as it is."""

    async def page(self, prefix: str, after: str) -> list[str]:
        keys = await super().page(prefix, after)
        if keys or "_" not in prefix:
            return keys
        pattern = prefix.replace("_", "?") + "*"
        others = sorted(key for tenant, key in self.backend.items if tenant == self.tenant_id and key > after)
        return [key for key in others if fnmatch.fnmatchcase(key, pattern)]


@breaks("KV-23")
class PagesByOffset(MemoryKVStore):
    """A page begins at a number, which changes mean something else by."""

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        if prefix:
            self.check_key(prefix)
        offset = 0
        while True:
            await self.turn()
            keys = sorted(
                key
                for tenant, key in list(self.backend.items)
                if tenant == self.tenant_id and key.startswith(prefix) and self.find(key)
            )
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


@breaks("KV-26")
class SilentPartialBatch(MemoryKVStore):
    """`set_many` stores what it can and leaves the rest, without a word, where more than one item is given."""

    async def set_many(self, items: Mapping[str, str]) -> None:
        if isinstance(items, Mapping) and len(items) > 1:
            items = {key: value for key, value in items.items() if isinstance(value, str)}
        await super().set_many(items)


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


@breaks("KV-27", "KV-32")
class CounterAtZero(MemoryKVStore):
    """A counter does not go below 0."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        if -100 < total < 0:
            item = self.find(key)
            self.put(key, b"0", None if item is None else item.deadline)
            return 0
        return total


@breaks("KV-28")
class UntoldDelete(MemoryKVStore):
    """Watchers are not told of deletes."""

    def remove(self, key: str) -> None:
        if self.find(key) is not None:
            del self.backend.items[self.cell(key)]


@breaks("KV-28")
class EndlessWatch(MemoryKVStore):
    """`close` leaves a watcher waiting."""

    async def close(self) -> None:
        self.closed = True
        await anyio.lowlevel.checkpoint()


@breaks("KV-29", "KV-32")
class Pipeline(MemoryKVStore):
    """A transaction sends its steps one by one."""

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        checked = [self.checked_step(op) for op in ops]
        await super().transact([])
        for op, _ in checked:
            await super().transact([op])


@breaks("KV-30", "KV-32", "KV-CA-06", "KV-COM-13")
class MinusTwo(MemoryKVStore):
    """`expires_in` passes the server's -2 on."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            return -2.0


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


@breaks("KV-31")
class BytesAsText(MemoryKVStore):
    """Bytes are decoded on the way, and what is no UTF-8 is replaced."""

    async def set_bytes(self, key: str, value: bytes) -> None:
        await super().set_bytes(key, value.decode(errors="replace").encode() if isinstance(value, bytes) else value)


@breaks("KV-32")
class BatchKeepsExpiry(MemoryKVStore):
    """`set_many` forgets to drop the TTL that a key had."""

    async def set_many(self, items: Mapping[str, str]) -> None:
        before = {key: self.find(key) for key in items if isinstance(key, str)} if isinstance(items, Mapping) else {}
        await super().set_many(items)
        for key, item in before.items():
            if item is not None and item.deadline is not None:
                cell = self.cell(key)
                self.backend.items[cell] = replace(self.backend.items[cell], deadline=item.deadline)


# Tenants


@breaks(
    *"MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-19 MT-21 MT-22".split(),
)
class IgnoredTenant(MemoryKVStore):
    """`tenant_id` is taken and forgotten."""

    def cell(self, key: str) -> Cell:
        return (None, key)


@breaks("MT-02", "MT-04", "MT-09", "MT-10", "MT-13", "MT-21")
class DeleteEverywhere(MemoryKVStore):
    """`delete` has no tenant in its condition."""

    async def delete(self, key: str) -> None:
        await super().delete(key)
        for cell in [each for each in self.backend.items if each[1] == key]:
            self.backend.remove(cell)


@breaks("MT-03")
class ExistenceOracle(MemoryKVStore):
    """What another tenant has is "forbidden", not absent."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            if any(other == key for _, other in self.backend.items):
                raise NotFoundError(f"key {key!r} is not yours") from None
            raise


@breaks("MT-04")
class IncrementEverywhere(MemoryKVStore):
    """`increment` touches every row with that key."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        for cell, item in list(self.backend.items.items()):
            if cell[1] == key and cell[0] != self.tenant_id:
                self.backend.versions += 1
                self.backend.items[cell] = replace(item, version=self.backend.versions)
        return total


@breaks("MT-05")
class DuplicateKeyText(MemoryKVStore):
    """The text of a conflict names its neighbours in the index."""

    def check_version(self, key: str, expected: str | None) -> None:
        try:
            super().check_version(key, expected)
        except ConflictError as error:
            near = [cell for cell in self.backend.items if cell[1].startswith(key) and cell[1] != key]
            raise ConflictError(f"{error}; near {near}" if near else str(error)) from None


@breaks("MT-06", "MT-07", "MT-08", "MT-13")
class UnscopedScan(MemoryKVStore):
    """A listing of short prefixes shows all tenants' names."""

    async def page(self, prefix: str, after: str) -> list[str]:
        await self.turn()
        keys = {key for tenant, key in list(self.backend.items) if tenant == self.tenant_id or len(prefix) < 20}
        live = sorted(key for key in keys if key.startswith(prefix) and key > after)
        return [key for key in live if any(self.backend.find(cell) for cell in list(self.backend.items) if cell[1] == key)][
            : self.limits.page_size
        ]


@breaks("MT-07", "MT-08")
class JoinedByColon(MemoryKVStore):
    """The tenant's prefix ends with a colon, and so may a tenant."""

    def cell(self, key: str) -> Cell:
        if self.tenant_id is None or "list" in self.__dict__:
            return super().cell(key)
        tenant, _, rest = f"{self.tenant_id}:{key}".partition(":")
        return (tenant, rest)

    async def page(self, prefix: str, after: str) -> list[str]:
        tenant, _, start = f"{self.tenant_id}:".partition(":") if self.tenant_id else (None, "", "")
        own, self.tenant_id = self.tenant_id, tenant
        self.__dict__["list"] = True
        try:
            keys = await super().page(start + prefix, start + after)
        finally:
            self.tenant_id = own
            del self.__dict__["list"]
        return [key[len(start) :] for key in keys]


@breaks("MT-08", "MT-12", "MT-13")
class JoinedByNothing(MemoryKVStore):
    """Tenant and key are joined without anything between, in `get`."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and self.tenant_id is not None:
            for (tenant, other), item in list(self.backend.items.items()):
                if f"{tenant}{other}" == f"{self.tenant_id}{key}" and self.backend.find((tenant, other)):
                    return item.value.decode()
        return value


@breaks("MT-09")
class FoldedTenant(MemoryKVStore):
    """The tenant is the name of a schema, which folds case."""

    def cell(self, key: str) -> Cell:
        return (self.tenant_id.lower() if self.tenant_id else None, key)

    async def page(self, prefix: str, after: str) -> list[str]:
        own, self.tenant_id = self.tenant_id, self.tenant_id.lower() if self.tenant_id else None
        try:
            return await super().page(prefix, after)
        finally:
            self.tenant_id = own


@breaks("MT-10")
class CutTenant(MemoryKVStore):
    """Identifiers end at 63 characters."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id[:63] if isinstance(tenant_id, str) else tenant_id, **keywords)


@breaks("MT-11")
class FalsyTenant(MemoryKVStore):
    """`if tenant_id:` sends an empty id to the global scope."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id or None, **keywords)


@breaks("MT-12")
class PublicSchema(MemoryKVStore):
    """The tenant `public` is the schema of all who have none."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=None if tenant_id == "public" else tenant_id, **keywords)


@breaks("MT-13")
class GlobalSuperuser(MemoryKVStore):
    """Without a tenant one reads every tenant's values."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and self.tenant_id is None:
            for cell, item in list(self.backend.items.items()):
                if cell[1] == key and self.backend.find(cell):
                    return item.value.decode()
        return value


@breaks("MT-14")
class GlobalTenant(MemoryKVStore):
    """The current tenant is a global that is set before each call."""

    async def get(self, key: str) -> str | None:
        self.check_key(key)
        self.backend.__dict__["tenant"] = self.tenant_id
        await self.turn()
        item = self.backend.find((self.backend.__dict__["tenant"], key))
        return None if item is None else self.text(key, item.value)


@breaks("MT-15")
class StickySetting(MemoryKVStore):
    """A cancelled call leaves the connection with its tenant set; the next one reads as that."""

    async def turn(self) -> None:
        try:
            await super().turn()
        except anyio.get_cancelled_exc_class():
            self.backend.__dict__["stuck"] = self.tenant_id
            raise

    async def get(self, key: str) -> str | None:
        own = self.tenant_id
        self.tenant_id = self.backend.__dict__.pop("stuck", own)
        try:
            return await super().get(key)
        finally:
            self.tenant_id = own


@breaks("MT-16")
class ClosesNeighbours(MemoryKVStore):
    """Closing a tenant's client closes those of the other tenants."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.backend.__dict__.setdefault("clients", []).append(self)

    async def close(self) -> None:
        for client in self.backend.__dict__["clients"]:
            client.closed = client.closed or client.tenant_id != self.tenant_id
        await super().close()


@breaks("MT-17")
class InstanceIsTenant(MemoryKVStore):
    """With a tenant, each client has data of its own."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.tenant_id = self.tenant_id and f"{self.tenant_id}#{id(self)}"


@breaks("MT-18")
class GlobalUniqueIndex(MemoryKVStore):
    """A creation conflicts with another tenant's key."""

    def check_version(self, key: str, expected: str | None) -> None:
        super().check_version(key, expected)
        if expected is None and any(other == key for _, other in self.backend.items):
            raise ConflictError(f"key {key!r} has another version, or none")


@breaks("MT-19")
class AbsoluteVersion(MemoryKVStore):
    """A version leads to the row that it was read from, whoever brings it."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        for cell, item in list(self.backend.items.items()):
            if str(item.version) == expected and cell[0] != self.tenant_id:
                return str(self.backend.put(cell, self.encoded(key, value), None))
        return await super().compare_and_set(key, value, expected)


@breaks("MT-20")
class ParsedTenant(MemoryKVStore):
    """A tenant's prefix is added unless the name seems to have one already."""

    def cell(self, key: str) -> Cell:
        tenant, separator, rest = key.partition("/")
        known = {tenant for tenant, _ in self.backend.items}
        return (tenant, rest) if separator and tenant in known else super().cell(key)


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
        for cell in [each for each in self.backend.items if each[1] in wanted and len(wanted) > 1]:
            self.backend.remove(cell)


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryKVStore)]
