"""Broken caches, in the order of the rules that reject them."""

import asyncio
import fnmatch
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import breaks
from omnitck.reference.cache import Flight, Item, MemoryCache, Slot
from omnitck.shared.exceptions import ClosedError, ConflictError, InvalidArgumentError, NotFoundError, TCKError

Factory = Callable[[], Awaitable[str]]

# The common family


@breaks("CA-COM-01")
class RenamedParameter(MemoryCache):
    """`get` calls its parameter `name`: `get(key=...)` is a TypeError."""

    async def get(self, name: str) -> str | None:
        return await super().get(name)


@breaks("CA-COM-02")
class UnknownCapability(MemoryCache):
    """It advertises `eviction`, which no application asks for."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities |= {"eviction"}


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


@breaks("CA-COM-04")
class StaleAdvertisement(MemoryCache):
    """Its list of capabilities was not updated when `counter` came."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities -= {"counter"}

    def need(self, capability: str) -> None:
        pass


@breaks("CA-COM-05")
class NegativeCache(MemoryCache):
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


@breaks("CA-COM-06")
class UnflushedBuffer(MemoryCache):
    """What a client wrote goes when it closes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.written: set[Slot] = set()

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        self.written.add(self.slot(key))
        return super().put(key, data, deadline)

    async def close(self) -> None:
        for slot in self.written:
            self.backend.remove(slot)
        await super().close()


@breaks("CA-COM-07")
class DoubleRelease(MemoryCache):
    """A second `close` releases the pool again."""

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("pool is already closed")
        await super().close()


@breaks("CA-COM-08")
class SilentReconnect(MemoryCache):
    """`touch` connects again after `close`."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        closed, self.closed = self.closed, False
        try:
            return await super().touch(key, ttl)
        finally:
            self.closed = closed


@breaks("CA-COM-09")
class SwallowingExit(MemoryCache):
    """`__aexit__` returns true, and the application's exception is gone."""

    async def __aexit__(self, *exc_info: Any) -> bool:  # type: ignore[override]
        await super().__aexit__(*exc_info)
        return True


@breaks("CA-COM-10", "CA-COM-06", "MT-16")
class SharedPool(MemoryCache):
    """The first client to close, closes the pool of all."""

    async def close(self) -> None:
        self.backend.__dict__["pool_closed"] = True
        await super().close()

    def check_usable(self) -> None:
        if self.backend.__dict__.get("pool_closed"):
            raise ClosedError("the pool is closed")
        super().check_usable()


@breaks("CA-COM-11")
class OrphanedSweeper(MemoryCache):
    """The task that removes what has expired is started, and never ended."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        if not hasattr(self, "sweeper"):
            self.sweeper = asyncio.create_task(asyncio.sleep(3600), name="sweeper")
        await super().set(key, value, ttl=ttl)


@breaks("CA-COM-12")
class MissOnOutage(MemoryCache):
    """A cache whose server does not answer pretends that nothing is in it."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) if self.backend.reachable else None


@breaks("CA-COM-12")
class LeakingVendorError(MemoryCache):
    """The driver's own exception reaches the application."""

    def check_usable(self) -> None:
        if not self.backend.reachable:
            raise ConnectionRefusedError("connection refused")
        super().check_usable()


@breaks("CA-COM-13")
class TalkativeError(MemoryCache):
    """The refusal to count quotes the value, and a secret is in the log."""

    def number(self, key: str, item: Item | None) -> int:
        try:
            return super().number(key, item)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{error}: {item.value!r}" if item else str(error)) from None


@breaks("CA-COM-14")
class SwallowedCancellation(MemoryCache):
    """A retry loop takes the cancellation for a failure of the network."""

    async def delete(self, key: str) -> None:
        self.check_key(key)
        try:
            await self.turn()
        except BaseException as error:
            if isinstance(error, TCKError):
                raise
        self.remove(key)


@breaks("CA-COM-15", "MT-15")
class CrossedReply(MemoryCache):
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


@breaks("CA-COM-16", "CA-COM-22")
class TornWrite(MemoryCache):
    """A large value is sent in two parts."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        if isinstance(value, str) and len(value) > 30_000:
            await super().set(key, value[: len(value) // 2], ttl=ttl)
        await super().set(key, value, ttl=ttl)


@breaks("CA-COM-17")
class SharedResult(MemoryCache):
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

    async def get(self, key: str) -> str | None:
        if self.find(key) is None:
            self.results.clear()
        return await super().get(key)


@breaks("CA-COM-18", "CA-COM-15", "MT-14")
class SharedCursor(MemoryCache):
    """All reads of a client share one cursor: the last to ask decides what all are told."""

    cursor = ""

    async def get(self, key: str) -> str | None:
        self.check_key(key)
        self.cursor = key
        await self.turn()
        item = self.find(self.cursor)
        return None if item is None else self.text(key, item.value)


@breaks("CA-COM-19")
class CoercedKey(MemoryCache):
    """`get(None)` reads the key "None"."""

    async def get(self, key: str) -> str | None:
        return await super().get(key if isinstance(key, str) else str(key))


@breaks("CA-COM-20")
class NormalisedKey(MemoryCache):
    """The file system underneath stores names in one normal form."""

    def slot(self, key: str) -> Slot:
        return super().slot(unicodedata.normalize("NFC", key))


@breaks("CA-COM-20")
class ReplacedSpaces(MemoryCache):
    """memcached takes no space in a key: it becomes an underscore."""

    def slot(self, key: str) -> Slot:
        return super().slot(key.replace(" b", "_b"))


@breaks("CA-COM-21")
class TruncatedKey(MemoryCache):
    """memcached's 250 bytes: the rest of a key is cut."""

    def slot(self, key: str) -> Slot:
        return super().slot(key.encode()[:250].decode(errors="replace"))


@breaks("CA-COM-22")
class TruncatedValue(MemoryCache):
    """What is too long is cut, without a word."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, value[: self.limits.value_bytes] if isinstance(value, str) else value)


@breaks("CA-COM-23")
class BlockingCall(MemoryCache):
    """`clear` calls the vendor's synchronous client."""

    def need(self, capability: str) -> None:
        if capability == "clear":
            time.sleep(0.12)
        super().need(capability)


@breaks("CA-COM-24")
class PrintedPassword(MemoryCache):
    """`repr` shows the DSN."""

    def __repr__(self) -> str:
        return f"<cache memory://user:{self.password}@localhost>"


# What a key-value store owes as well


@breaks("CA-KV-02", "CA-26")
class TypeOfDriver(MemoryCache):
    """`get` returns the driver's bytes for plain ASCII."""

    async def get(self, key: str) -> Any:
        value = await super().get(key)
        return value.encode() if value == "a" else value


@breaks("CA-KV-03", "CA-KV-27", "CA-26")
class FalsyIsAbsent(MemoryCache):
    """`if not value: return None`."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) or None


@breaks("CA-KV-04")
class ReadAsJson(MemoryCache):
    """What looks like JSON text is decoded."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        return value[1:-1] if value is not None and len(value) > 1 and value[0] == value[-1] == '"' else value


@breaks("CA-KV-04")
class UniversalNewlines(MemoryCache):
    """Large text goes to a file, which is read in text mode."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        return value.replace("\r\n", "\n").replace("\r", "\n") if value is not None and len(value) > 32_768 else value


@breaks("CA-KV-05")
class CoercedValue(MemoryCache):
    """Numbers are stored as their text."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, str(value) if isinstance(value, float) else value)


@breaks("CA-KV-08")
class RecursiveDelete(MemoryCache):
    """`delete` takes the subtree with it."""

    async def delete(self, key: str) -> None:
        await super().delete(key)
        for slot in list(self.backend.items):
            if self.owns(slot) and slot[2].startswith(f"{key}/"):
                self.backend.remove(slot)


@breaks("CA-KV-09")
class MatchingGet(MemoryCache):
    """`get` passes its key on as a pattern."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and key.endswith("*z"):
            for slot in list(self.backend.items):
                if self.owns(slot) and fnmatch.fnmatchcase(slot[2], key):
                    return await super().get(slot[2])
        return value


@breaks("CA-KV-15", "CA-KV-21", "CA-26")
class CreateOverwrites(MemoryCache):
    """`expected=None` writes without a condition."""

    def check_version(self, key: str, expected: str | None) -> None:
        if expected is not None:
            super().check_version(key, expected)


@breaks("CA-KV-16", "CA-26")
class EarlierVersion(MemoryCache):
    """`compare_and_set` returns the version that it has replaced."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        version = await super().compare_and_set(key, value, expected)
        return expected or version


@breaks("CA-KV-17", "CA-KV-21", "CA-26")
class CreatesOnMissing(MemoryCache):
    """A comparison with what is absent succeeds, and creates it."""

    def check_version(self, key: str, expected: str | None) -> None:
        if self.find(key) is not None or not (expected or "x").isdigit():
            super().check_version(key, expected)


@breaks("CA-KV-18", "CA-26")
class CounterRestarts(MemoryCache):
    """Each key counts its versions, from 1 again after a delete."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        slot = self.slot(key)
        before = self.find(key)
        super().put(key, data, deadline)
        version = 1 if before is None else before.version + 1
        self.backend.items[slot] = replace(self.backend.items[slot], version=version)
        return version


@breaks("CA-KV-19", "CA-COM-13")
class ParsedVersion(MemoryCache):
    """A malformed version is the ValueError of `int`."""

    def check_version(self, key: str, expected: str | None) -> None:
        if expected is not None:
            int(expected)
        super().check_version(key, expected)


@breaks("CA-KV-20", "CA-KV-21")
class CheckThenWrite(MemoryCache):
    """Between the comparison and the write others may write."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        self.check_key(key)
        data = self.encoded(key, value)
        await self.turn()
        self.check_version(key, expected)
        await self.turn()
        return str(self.put(key, data, None))


@breaks("CA-KV-25", "CA-26")
class MissesLeftOut(MemoryCache):
    """`get_many` returns what it found, as memcached's clients do, and leaves the misses out."""

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        found = await super().get_many(keys)
        return {key: value for key, value in found.items() if value is not None} if len(found) > 1 else found


@breaks("CA-KV-26")
class SilentPartialBatch(MemoryCache):
    """`set_many` stores what it can and leaves the rest, without a word, where more than one item is given."""

    async def set_many(self, items: Mapping[str, str]) -> None:
        if isinstance(items, Mapping) and len(items) > 1:
            items = {key: value for key, value in items.items() if isinstance(value, str)}
        await super().set_many(items)


@breaks("CA-KV-27", "CA-26")
class CounterAtZero(MemoryCache):
    """memcached's counters do not go below 0."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        if -100 < total < 0:
            item = self.find(key)
            self.put(key, b"0", None if item is None else item.deadline)
            return 0
        return total


@breaks("CA-KV-31")
class BytesAsText(MemoryCache):
    """Bytes are decoded on the way, and what is no UTF-8 is replaced."""

    async def set_bytes(self, key: str, value: bytes) -> None:
        await super().set_bytes(key, value.decode(errors="replace").encode() if isinstance(value, bytes) else value)


# cache


@breaks(
    *"CA-01 CA-04 CA-06 CA-07 CA-09 CA-13 CA-14 CA-16 CA-17 CA-18 CA-20 CA-21 CA-23 CA-24 CA-26 CA-COM-05 CA-COM-19".split(),
    *"CA-KV-08 CA-KV-09 CA-KV-17 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-20 MT-22".split(),
)
class KeyErrorForAbsence(MemoryCache):
    """`get` of an absent key is the KeyError of the dictionary inside."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None:
            raise KeyError(key)
        return value


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


@breaks("CA-04", "CA-26")
class DeleteNotFound(MemoryCache):
    """Deleting what is absent is an error, so that a retry fails."""

    async def delete(self, key: str) -> None:
        self.check_key(key)
        await self.turn()
        if self.find(key) is None:
            raise NotFoundError(f"key {key!r} is absent")
        self.remove(key)


@breaks("CA-05", "CA-13", "CA-14", "CA-19", "CA-KV-27")
class EarlyTick(MemoryCache):
    """A coarse clock takes values away before their time."""

    def deadline(self, ttl: float | None) -> float | None:
        deadline = super().deadline(ttl)
        now = self.backend.clock.now()
        return None if deadline is None else now + 0.7 * (deadline - now)


@breaks("CA-06")
class BackgroundSweep(MemoryCache):
    """`get_bytes` reads what the sweep has not yet removed."""

    async def get_bytes(self, key: str) -> bytes | None:
        unswept = self.backend.items.get(self.slot(key)) if isinstance(key, str) else None
        await super().get_bytes(key)
        return None if unswept is None else unswept.value

    def find(self, key: str) -> Item | None:
        item = self.backend.items.get(self.slot(key))
        return None if item is None or self.backend.is_over(item) else item


@breaks("CA-07")
class OldTimer(MemoryCache):
    """The timer of the old value deletes the new one."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        before = self.find(key) if isinstance(key, str) else None
        await super().set(key, value, ttl=ttl)
        slot = self.slot(key)
        item = self.backend.items[slot]
        if before and before.deadline and item.deadline:
            self.backend.items[slot] = replace(item, deadline=min(before.deadline, item.deadline))


@breaks("CA-08", "CA-26")
class InheritedExpiry(MemoryCache):
    """`set` without a TTL updates the value alone."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        before = self.find(key) if isinstance(key, str) else None
        await super().set(key, value, ttl=ttl)
        if before and before.deadline and ttl is None:
            slot = self.slot(key)
            self.backend.items[slot] = replace(self.backend.items[slot], deadline=before.deadline)


@breaks("CA-09", "CA-13", "CA-14", "CA-26")
class SlidingExpiry(MemoryCache):
    """Every read gives the value its whole time again."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        await super().set(key, value, ttl=ttl)
        self.backend.__dict__.setdefault("ttls", {})[self.slot(key)] = ttl

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        slot = self.slot(key)
        item = self.find(key)
        ttl = self.backend.__dict__.get("ttls", {}).get(slot)
        if item and item.deadline and ttl is not None:
            self.backend.items[slot] = replace(item, deadline=self.deadline(ttl))
        return value


@breaks("CA-10", "CA-19", "CA-26")
class DefaultExpiry(MemoryCache):
    """No TTL means five minutes, as in Django."""

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(300 if ttl is None else ttl)


@breaks("CA-11", "CA-COM-13")
class ZeroIsForever(MemoryCache):
    """A TTL of 0 stores for ever, as in memcached."""

    def check_ttl(self, key: str, ttl: object) -> None:
        super().check_ttl(key, None if ttl == 0 else ttl)

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(ttl or None)


@breaks("CA-11")
class UncheckedTouch(MemoryCache):
    """`touch` passes what it is given on: less than nothing deletes."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        if isinstance(ttl, float | int) and ttl < 0:
            await self.delete(key)
            return True
        return await super().touch(key, ttl)


@breaks("CA-12")
class RelativeOrAbsolute(MemoryCache):
    """A TTL above 30 days is taken for a date in 1970, as memcached does."""

    def deadline(self, ttl: float | None) -> float | None:
        return 0.0 if ttl is not None and ttl > 30 * 86_400 else super().deadline(ttl)


@breaks("CA-13")
class WholeSeconds(MemoryCache):
    """`int(ttl)`: a TTL above a second loses its fraction."""

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(int(ttl) if ttl and ttl >= 1 else ttl)


@breaks("CA-14")
class OneDeadline(MemoryCache):
    """All values of a bucket expire with the last that was written."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        await super().set(key, value, ttl=ttl)
        deadline = self.backend.items[self.slot(key)].deadline
        if deadline is None or len(self.backend.items) < 10:
            return

        for slot, item in self.backend.items.items():
            if item.deadline is not None and item.deadline > self.backend.clock.now():
                self.backend.items[slot] = replace(item, deadline=deadline)


@breaks("CA-15")
class GhostBlocksAdd(MemoryCache):
    """A value that has expired still stands in the way of `add`."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        ghost = self.backend.items.get(self.slot(key)) if isinstance(key, str) else None
        return await super().add(key, value, ttl) and (ghost is None or await self.bury(key))

    async def bury(self, key: str) -> bool:
        self.remove(key)
        return False


@breaks("CA-16")
class NearCache(MemoryCache):
    """A client keeps what it has read, and is not told when another writes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.near: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        if key in self.near and self.find(key) is not None:
            await self.turn()
            return self.near[key]

        value = await super().get(key)
        if value is not None:
            self.near[key] = value
        return value

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        self.near.pop(key, None)
        return super().put(key, data, deadline)


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
            self.backend.items[self.slot(key)] = before
        return touched


@breaks("CA-19", "CA-26")
class MinusOne(MemoryCache):
    """`expires_in` passes the server's -1 on."""

    async def expires_in(self, key: str) -> float | None:
        left = await super().expires_in(key)
        return -1.0 if left is None else left


@breaks("CA-19", "CA-06", "CA-26", "CA-COM-13")
class MinusTwo(MemoryCache):
    """`expires_in` passes the server's -2 on."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            return -2.0


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


@breaks("CA-20")
class OneLock(MemoryCache):
    """One lock for all keys: computations wait for each other."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        lock: anyio.Lock = self.__dict__.setdefault("lock", anyio.Lock())
        flight = self.flights[self.slot(key)] = Flight()
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
            del self.flights[self.slot(key)]
            flight.ended.set()


@breaks("CA-21")
class CachedError(MemoryCache):
    """A computation that failed is remembered, and fails for whoever asks later."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        failed: dict[Slot, Exception] = self.__dict__.setdefault("failed", {})
        if self.slot(key) in failed:
            raise failed[self.slot(key)]
        try:
            return await super().compute(key, factory, ttl)
        except LookupError as error:
            failed[self.slot(key)] = error
            raise


@breaks("CA-21")
class LeaderTakesAll(MemoryCache):
    """When the caller that computes is cancelled, all who wait fail."""

    async def get_or_set(self, key: str, factory: Factory, ttl: float | None = None) -> str:
        flight = self.flights.get(self.slot(key)) if isinstance(key, str) else None
        if flight is not None:
            await flight.ended.wait()
            if flight.error is None and flight.value is None and not self.closed:
                raise TCKError(f"key {key!r}: the computation was cancelled")
        return await super().get_or_set(key, factory, ttl)


@breaks("CA-21")
class HangingWaiters(MemoryCache):
    """A computation that fails tells nobody who waits for it."""

    async def compute(self, key: str, factory: Factory, ttl: float | None) -> str:
        flight = self.flights[self.slot(key)] = Flight()
        value = await factory()
        data = self.encoded(key, value)
        await self.turn()
        self.put(key, data, self.deadline(ttl))
        flight.value = value
        del self.flights[self.slot(key)]
        flight.ended.set()
        return value


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

    def owns(self, slot: Slot) -> bool:
        return True


@breaks("CA-23")
class PrefixFlush(MemoryCache):
    """`clear` removes what begins with the namespace's name, and another's name may."""

    def owns(self, slot: Slot) -> bool:
        return slot[0].startswith(self.namespace) and slot[1] == self.tenant_id


@breaks("CA-23")
class OnePageCleared(MemoryCache):
    """`clear` ends with the first page of the scan."""

    async def clear(self) -> None:
        await self.turn()
        for slot in [each for each in self.backend.items if self.owns(each)][: self.limits.page_size]:
            self.backend.remove(slot)


@breaks("CA-24", "CA-KV-27")
class CountedForEver(MemoryCache):
    """A counter is read and written back, and its TTL is lost."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        self.put(key, str(total).encode(), None)
        return total


@breaks("CA-15", "CA-24")
class CountingGhost(MemoryCache):
    """`increment` goes on counting from a value that has expired."""

    async def increment(self, key: str, delta: int = 1) -> int:
        slot = self.slot(key)
        item = self.backend.items.get(slot) if isinstance(key, str) else None
        if item is not None and self.backend.is_over(item):
            self.backend.items[slot] = replace(item, deadline=self.backend.clock.now() + 3600)
        return await super().increment(key, delta)


@breaks("CA-25")
class EvictsNewest(MemoryCache):
    """A full cache drops what it has just been given."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        full = self.backend.used + len(data) > self.limits.capacity_bytes + 300_000  # type: ignore[attr-defined]
        version = self.backend.put(self.slot(key), data, deadline)
        if full:
            self.remove(key)
        return version


@breaks("CA-25")
class OutOfMemory(MemoryCache):
    """A full cache refuses, as Redis does with `noeviction`."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        if self.backend.used + len(data) > self.limits.capacity_bytes + 300_000:  # type: ignore[attr-defined]
            raise TCKError(f"key {key!r}: OOM command not allowed when used memory > 'maxmemory'")
        return self.backend.put(self.slot(key), data, deadline)


@breaks("CA-26")
class BatchKeepsExpiry(MemoryCache):
    """`set_many` forgets to drop the TTL that a key had."""

    async def set_many(self, items: Mapping[str, str]) -> None:
        before = {key: self.find(key) for key in items if isinstance(key, str)} if isinstance(items, Mapping) else {}
        await super().set_many(items)
        for key, item in before.items():
            if item is not None and item.deadline is not None:
                slot = self.slot(key)
                self.backend.items[slot] = replace(self.backend.items[slot], deadline=item.deadline)


@breaks("CA-27")
class Overhead(MemoryCache):
    """The records of the backend itself take their part of the capacity that it promises."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        version = self.backend.put(self.slot(key), data, deadline)
        self.backend.make_room(int(0.9 * self.limits.capacity_bytes))  # type: ignore[attr-defined]
        return version


# Tenants


@breaks(
    *"MT-01 MT-02 MT-03 MT-04 MT-05 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-19 MT-22".split(),
)
class IgnoredTenant(MemoryCache):
    """`tenant_id` is taken and forgotten."""

    def slot(self, key: str) -> Slot:
        return (self.namespace, None, key)


@breaks("MT-02", "MT-04", "MT-09", "MT-10", "MT-13")
class DeleteEverywhere(MemoryCache):
    """`delete` has no tenant in its condition."""

    async def delete(self, key: str) -> None:
        await super().delete(key)
        for slot in [each for each in self.backend.items if each[2] == key]:
            self.backend.remove(slot)


@breaks("MT-03")
class ExistenceOracle(MemoryCache):
    """What another tenant has is "forbidden", not absent."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            if any(slot[2] == key for slot in self.backend.items):
                raise NotFoundError(f"key {key!r} is not yours") from None
            raise


@breaks("MT-03", "MT-05")
class SharedResults(MemoryCache):
    """What was computed is remembered by key alone, for all tenants."""

    async def get_or_set(self, key: str, factory: Factory, ttl: float | None = None) -> str:
        for slot, item in list(self.backend.items.items()):
            if slot[2] == key and slot[1] != self.tenant_id:
                return item.value.decode()
        return await super().get_or_set(key, factory, ttl)


@breaks("MT-04")
class TouchEverywhere(MemoryCache):
    """`touch` gives every tenant's value of that key a new time."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        touched = await super().touch(key, ttl)
        for slot, item in list(self.backend.items.items()):
            if slot[2] == key and slot[1] != self.tenant_id:
                self.backend.items[slot] = replace(item, deadline=self.deadline(ttl))
        return touched


@breaks("MT-05")
class ConflictText(MemoryCache):
    """The text of a conflict names its neighbours in the index."""

    def check_version(self, key: str, expected: str | None) -> None:
        try:
            super().check_version(key, expected)
        except ConflictError as error:
            near = [slot for slot in self.backend.items if slot[2].startswith(key) and slot[2] != key]
            raise ConflictError(f"{error}; near {near}" if near else str(error)) from None


@breaks("MT-07", "MT-08")
class JoinedByColon(MemoryCache):
    """The tenant's prefix ends with a colon, and so may a tenant."""

    def slot(self, key: str) -> Slot:
        if self.tenant_id is None:
            return super().slot(key)
        tenant, _, rest = f"{self.tenant_id}:{key}".partition(":")
        return (self.namespace, tenant, rest)


@breaks("MT-08", "MT-12", "MT-13")
class JoinedByNothing(MemoryCache):
    """Tenant and key are joined without anything between, in `get`."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and self.tenant_id is not None:
            for slot, item in list(self.backend.items.items()):
                if f"{slot[1]}{slot[2]}" == f"{self.tenant_id}{key}" and not self.backend.is_over(item):
                    return item.value.decode()
        return value


@breaks("MT-09")
class FoldedTenant(MemoryCache):
    """The tenant's name is folded."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id.lower() if isinstance(tenant_id, str) else tenant_id, **keywords)


@breaks("MT-10")
class CutTenant(MemoryCache):
    """Identifiers end at 63 characters."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id[:63] if isinstance(tenant_id, str) else tenant_id, **keywords)


@breaks("MT-11")
class FalsyTenant(MemoryCache):
    """`if tenant_id:` sends an empty id to the global scope."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id or None, **keywords)


@breaks("MT-12")
class DefaultTenant(MemoryCache):
    """The tenant `default` is the namespace of all who have none."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=None if tenant_id == "default" else tenant_id, **keywords)


@breaks("MT-13")
class GlobalSuperuser(MemoryCache):
    """Without a tenant one reads every tenant's values."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and self.tenant_id is None:
            for slot, item in list(self.backend.items.items()):
                if slot[0] == self.namespace and slot[2] == key and not self.backend.is_over(item):
                    return item.value.decode()
        return value


@breaks("MT-14")
class GlobalTenant(MemoryCache):
    """The current tenant is a global that is set before each call."""

    async def get(self, key: str) -> str | None:
        self.check_key(key)
        self.backend.__dict__["tenant"] = self.tenant_id
        await self.turn()
        item = self.backend.find((self.namespace, self.backend.__dict__["tenant"], key))
        return None if item is None else self.text(key, item.value)


@breaks("MT-15")
class StickySetting(MemoryCache):
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
class ClosesNeighbours(MemoryCache):
    """Closing a tenant's client closes those of the other tenants."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.backend.__dict__.setdefault("clients", []).append(self)

    async def close(self) -> None:
        for client in self.backend.__dict__["clients"]:
            client.closed = client.closed or client.tenant_id != self.tenant_id
        await super().close()


@breaks("MT-17")
class InstanceIsTenant(MemoryCache):
    """With a tenant, each client has data of its own."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.tenant_id = self.tenant_id and f"{self.tenant_id}#{id(self)}"


@breaks("MT-18")
class GlobalUniqueIndex(MemoryCache):
    """`add` finds the key of another tenant in its way."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        self.check_key(key)
        theirs = any(slot[2] == key and slot[1] != self.tenant_id for slot in self.backend.items)
        self.encoded(key, value)
        if theirs:
            await self.turn()
            return False
        return await super().add(key, value, ttl)


@breaks("MT-19")
class AbsoluteVersion(MemoryCache):
    """A version leads to the row that it was read from, whoever brings it."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        for slot, item in list(self.backend.items.items()):
            if str(item.version) == expected and slot[1] != self.tenant_id:
                return str(self.backend.put(slot, self.encoded(key, value), None))
        return await super().compare_and_set(key, value, expected)


@breaks("MT-20")
class ParsedTenant(MemoryCache):
    """A tenant's prefix is added unless the name seems to have one already."""

    def slot(self, key: str) -> Slot:
        tenant, separator, rest = key.partition("/")
        known = {slot[1] for slot in self.backend.items}
        return (self.namespace, tenant, rest) if separator and tenant in known else super().slot(key)


@breaks("MT-22", "MT-04")
class ClearsAllTenants(MemoryCache):
    """`clear` empties the namespace for all tenants."""

    def owns(self, slot: Slot) -> bool:
        return slot[0] == self.namespace


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryCache)]
