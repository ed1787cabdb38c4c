"""What can go wrong in key-value stores and caches alike. Mixins: `break_with` puts one on a reference."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from omnitck.defects.tenants import elsewhere
from omnitck.reference.key_value import Item, KeyValueClient
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError

# The common family, where it takes `get`, `set` and the like


class RenamedParameter(KeyValueClient[Any]):
    """`get` calls its parameter `name`: `get(key=...)` is a TypeError."""

    async def get(self, name: str) -> str | None:
        return await super().get(name)


class TalkativeError(KeyValueClient[Any]):
    """The refusal to count quotes the value, and a secret is in the log."""

    def number(self, key: str, item: Item | None) -> int:
        try:
            return super().number(key, item)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{error}: {item.value!r}" if item else str(error)) from None


class TornWrite(KeyValueClient[Any]):
    """A large value is sent in two parts."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        if isinstance(value, str) and len(value) > 30_000:
            await super().set(key, value[: len(value) // 2], ttl=ttl)
        await super().set(key, value, ttl=ttl)


class SharedResult(KeyValueClient[Any]):
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


# Expiry


class EarlyTick(KeyValueClient[Any]):
    """A coarse clock takes values away before their time."""

    def deadline(self, ttl: float | None) -> float | None:
        deadline = super().deadline(ttl)
        now = self.backend.clock.now()
        return None if deadline is None else now + 0.7 * (deadline - now)


class BackgroundSweep(KeyValueClient[Any]):
    """`get_bytes` reads what the sweep has not yet removed."""

    async def get_bytes(self, key: str) -> bytes | None:
        await super().get_bytes(key)
        unswept = self.backend.items.get(self.cell(key))
        return None if unswept is None else unswept.value

    def find(self, key: str) -> Item | None:
        item = self.backend.items.get(self.cell(key))
        return None if item is None or self.backend.is_over(item) else item


class OldTimer(KeyValueClient[Any]):
    """The timer of the old value deletes the new one."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        before = self.find(key) if isinstance(key, str) else None
        await super().set(key, value, ttl=ttl)
        cell = self.cell(key)
        item = self.backend.items[cell]
        if before and before.deadline and item.deadline:
            self.backend.items[cell] = replace(item, deadline=min(before.deadline, item.deadline))


class InheritedExpiry(KeyValueClient[Any]):
    """`set` without a TTL updates the value alone."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        before = self.find(key) if isinstance(key, str) else None
        await super().set(key, value, ttl=ttl)
        if before and before.deadline and ttl is None:
            cell = self.cell(key)
            self.backend.items[cell] = replace(self.backend.items[cell], deadline=before.deadline)


class SlidingExpiry(KeyValueClient[Any]):
    """Every read gives the value its whole time again."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        await super().set(key, value, ttl=ttl)
        self.backend.__dict__.setdefault("ttls", {})[self.cell(key)] = ttl

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        cell = self.cell(key)
        item = self.find(key)
        ttl = self.backend.__dict__.get("ttls", {}).get(cell)
        if item and item.deadline and ttl is not None:
            self.backend.items[cell] = replace(item, deadline=self.deadline(ttl))
        return value


class DefaultExpiry(KeyValueClient[Any]):
    """No TTL means five minutes, as in Django's cache."""

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(300 if ttl is None else ttl)


class ZeroIsForever(KeyValueClient[Any]):
    """A TTL of 0 stores for ever, as in memcached."""

    def check_ttl(self, key: str, ttl: object) -> None:
        super().check_ttl(key, None if ttl == 0 else ttl)

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(ttl or None)


class RelativeOrAbsolute(KeyValueClient[Any]):
    """A TTL above 30 days is taken for a date in 1970, as memcached does."""

    def deadline(self, ttl: float | None) -> float | None:
        return 0.0 if ttl is not None and ttl > 30 * 86_400 else super().deadline(ttl)


class WholeSeconds(KeyValueClient[Any]):
    """`int(ttl)`: a TTL above a second loses its fraction."""

    def deadline(self, ttl: float | None) -> float | None:
        return super().deadline(int(ttl) if ttl and ttl >= 1 else ttl)


class OneDeadline(KeyValueClient[Any]):
    """All values of a table expire with the last that was written."""

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        await super().set(key, value, ttl=ttl)
        deadline = self.backend.items[self.cell(key)].deadline
        if deadline is None or len(self.backend.items) < 10:
            return

        for cell, item in self.backend.items.items():
            if item.deadline is not None and item.deadline > self.backend.clock.now():
                self.backend.items[cell] = replace(item, deadline=deadline)


class CountingGhost(KeyValueClient[Any]):
    """`increment` goes on counting from a value that has expired."""

    async def increment(self, key: str, delta: int = 1) -> int:
        cell = self.cell(key)
        item = self.backend.items.get(cell) if isinstance(key, str) else None
        if item is not None and self.backend.is_over(item):
            self.backend.items[cell] = replace(item, deadline=self.backend.clock.now() + 3600)
        return await super().increment(key, delta)


# Values


class KeyErrorForAbsence(KeyValueClient[Any]):
    """`get` of an absent key is the KeyError of the dictionary inside."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None:
            raise KeyError(key)
        return value


class TypeOfDriver(KeyValueClient[Any]):
    """`get` returns the driver's bytes for plain ASCII."""

    async def get(self, key: str) -> Any:
        value = await super().get(key)
        return value.encode() if value == "a" else value


class FalsyIsAbsent(KeyValueClient[Any]):
    """`if not value: return None`."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) or None


class StrippedValue(KeyValueClient[Any]):
    """A text protocol trims white space."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, value.strip() if isinstance(value, str) else value)


class ReadAsJson(KeyValueClient[Any]):
    """What looks like JSON text is decoded."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        return value[1:-1] if value is not None and len(value) > 1 and value[0] == value[-1] == '"' else value


class UniversalNewlines(KeyValueClient[Any]):
    """Large text goes to a file, which is read in text mode."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        return value.replace("\r\n", "\n").replace("\r", "\n") if value is not None and len(value) > 32_768 else value


class CoercedValue(KeyValueClient[Any]):
    """Numbers are stored as their text."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, str(value) if isinstance(value, float) else value)


class DeleteNotFound(KeyValueClient[Any]):
    """Deleting what is absent is an error, so that a retry fails."""

    async def delete(self, key: str) -> None:
        self.check_key(key)
        await self.turn()
        if self.find(key) is None:
            raise NotFoundError(f"key {key!r} is absent")
        self.remove(key)


class RecursiveDelete(KeyValueClient[Any]):
    """`delete` takes the subtree with it."""

    async def delete(self, key: str) -> None:
        await super().delete(key)
        for other in self.own():
            if other.startswith(f"{key}/"):
                self.remove(other)


class MatchingGet(KeyValueClient[Any]):
    """`get` passes its key on as a pattern."""

    async def get(self, key: str) -> str | None:
        value = await super().get(key)
        if value is None and key.endswith("*z"):
            for other in self.own():
                if fnmatch.fnmatchcase(other, key):
                    return await super().get(other)
        return value


class NearCache(KeyValueClient[Any]):
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


# Versions


class CreateOverwrites(KeyValueClient[Any]):
    """`expected=None` writes without a condition."""

    def check_version(self, key: str, expected: str | None) -> None:
        if expected is not None:
            super().check_version(key, expected)


class EarlierVersion(KeyValueClient[Any]):
    """`compare_and_set` returns the version that it has replaced."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        version = await super().compare_and_set(key, value, expected)
        return expected or version


class CreatesOnMissing(KeyValueClient[Any]):
    """A comparison with what is absent succeeds, and creates it."""

    def check_version(self, key: str, expected: str | None) -> None:
        if self.find(key) is not None or not (expected or "x").isdigit():
            super().check_version(key, expected)


class CounterRestarts(KeyValueClient[Any]):
    """Each key counts its versions, from 1 again after a delete."""

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        cell = self.cell(key)
        before = self.find(key)
        super().put(key, data, deadline)
        version = 1 if before is None else before.version + 1
        self.backend.items[cell] = replace(self.backend.items[cell], version=version)
        return version


class ParsedVersion(KeyValueClient[Any]):
    """A malformed version is the ValueError of `int`."""

    def check_version(self, key: str, expected: str | None) -> None:
        if expected is not None:
            int(expected)
        super().check_version(key, expected)


class CheckThenWrite(KeyValueClient[Any]):
    """Between the comparison and the write others may write."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        self.check_key(key)
        data = self.encoded(key, value)
        await self.turn()
        self.check_version(key, expected)
        await self.turn()
        return str(self.put(key, data, None))


# Batches, counters, bytes, and how long something lives


class SilentPartialBatch(KeyValueClient[Any]):
    """`set_many` stores what it can and leaves the rest, without a word, where more than one item is given."""

    async def set_many(self, items: Mapping[str, str]) -> None:
        if isinstance(items, Mapping) and len(items) > 1:
            items = {key: value for key, value in items.items() if isinstance(value, str)}
        await super().set_many(items)


class CounterAtZero(KeyValueClient[Any]):
    """A counter does not go below 0, as in memcached."""

    async def increment(self, key: str, delta: int = 1) -> int:
        total = await super().increment(key, delta)
        if -100 < total < 0:
            item = self.find(key)
            self.put(key, b"0", None if item is None else item.deadline)
            return 0
        return total


class BytesAsText(KeyValueClient[Any]):
    """Bytes are decoded on the way, and what is no UTF-8 is replaced."""

    async def set_bytes(self, key: str, value: bytes) -> None:
        await super().set_bytes(key, value.decode(errors="replace").encode() if isinstance(value, bytes) else value)


class MinusTwo(KeyValueClient[Any]):
    """`expires_in` passes the server's -2 on."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            return -2.0


class NoExpiryForAbsence(KeyValueClient[Any]):
    """`expires_in` says of what is absent that it does not expire."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            return None


class BatchKeepsExpiry(KeyValueClient[Any]):
    """`set_many` forgets to drop the TTL that a key had."""

    async def set_many(self, items: Mapping[str, str]) -> None:
        before = {key: self.find(key) for key in items if isinstance(key, str)} if isinstance(items, Mapping) else {}
        await super().set_many(items)
        for key, item in before.items():
            if item is not None and item.deadline is not None:
                cell = self.cell(key)
                self.backend.items[cell] = replace(self.backend.items[cell], deadline=item.deadline)


# Tenants


class ExistenceOracle(KeyValueClient[Any]):
    """What another tenant has is "forbidden", not absent."""

    async def expires_in(self, key: str) -> float | None:
        try:
            return await super().expires_in(key)
        except NotFoundError:
            if elsewhere(self, key):
                raise NotFoundError(f"key {key!r} is not yours") from None
            raise


class DuplicateKeyText(KeyValueClient[Any]):
    """The text of a conflict names its neighbours in the index."""

    def check_version(self, key: str, expected: str | None) -> None:
        try:
            super().check_version(key, expected)
        except ConflictError as error:
            near = [cell for cell in self.backend.items if cell.name.startswith(key) and cell.name != key]
            raise ConflictError(f"{error}; near {near}" if near else str(error)) from None


class AbsoluteVersion(KeyValueClient[Any]):
    """A version leads to the row that it was read from, whoever brings it."""

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        for cell, item in list(self.backend.items.items()):
            if str(item.version) == expected and cell.tenant != self.tenant_id:
                return str(self.backend.put(cell, self.encoded(key, value), None))
        return await super().compare_and_set(key, value, expected)
