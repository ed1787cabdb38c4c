"""What a key-value store and a cache in memory share: text under keys, and the capabilities that both may have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError
from omnitck.shared.models import Entry, Limits

__all__ = ["Item", "KeyValueClient", "KeyValueServer"]

LONGEST_TTL = 1e9
"""Seconds; about 31 years. A longer one is a mistake in units."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is held under a key."""

    value: bytes
    version: int
    deadline: float | None


@dataclass(eq=False, kw_only=True)
class KeyValueServer(MemoryServer):
    """The server: items with versions and deadlines."""

    limits: Limits = field(default_factory=lambda: Limits(min_ttl=0.05, ttl_resolution=0.01, page_size=10, batch_size=10))
    items: dict[Cell, Item] = field(default_factory=dict, repr=False)
    versions: int = 0
    """The last version given out. It never falls, so that no version is ever given to two states of a key."""

    def cells(self) -> list[Cell]:
        """Every cell that holds a live item."""
        return [cell for cell, item in self.items.items() if not self.is_over(item)]

    def is_over(self, item: Item) -> bool:
        """Whether the time of *item* has passed."""
        return item.deadline is not None and self.clock.now() >= item.deadline

    def find(self, cell: Cell) -> Item | None:
        """The live item in *cell*."""
        item = self.items.get(cell)
        if item is not None and self.is_over(item):
            self.drop(cell)
            return None

        return item

    def put(self, cell: Cell, value: bytes, deadline: float | None) -> int:
        """Store *value* under a new version."""
        self.versions += 1
        self.items[cell] = Item(value, self.versions, deadline)
        return self.versions

    def remove(self, cell: Cell) -> None:
        """Remove what is in *cell*, because a client wants it gone."""
        self.drop(cell)

    def drop(self, cell: Cell) -> None:
        """Forget what is in *cell*, for whatever reason."""
        self.items.pop(cell, None)


Store = TypeVar("Store", bound=KeyValueServer)


class KeyValueClient(MemoryClient[Store]):
    """One client, with what a store and a cache both have."""

    # Core

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        return None if item is None else self.text(key, item.value)

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """Store *value* for *ttl* seconds, or for good."""
        self.check_key(key)
        data = self.encoded(key, value)
        self.check_ttl(key, ttl)
        await self.turn()
        self.put(key, data, self.deadline(ttl))

    async def delete(self, key: str) -> None:
        """Delete *key*; an absent one is fine."""
        self.check_key(key)
        await self.turn()
        self.remove(key)

    async def expires_in(self, key: str) -> float | None:
        """The seconds that *key* has left, or None if it does not expire."""
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        if item is None:
            raise NotFoundError(f"key {key!r} is absent")

        return None if item.deadline is None else item.deadline - self.backend.clock.now()

    # compare_and_set

    async def get_entry(self, key: str) -> Entry | None:
        """See `CompareAndSet.get_entry`."""
        self.need("compare_and_set")
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        return None if item is None else Entry(self.text(key, item.value), str(item.version))

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """See `CompareAndSet.compare_and_set`."""
        self.need("compare_and_set")
        self.check_key(key)
        data = self.encoded(key, value)
        await self.turn()
        self.check_version(key, expected)
        return str(self.put(key, data, None))

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """See `CompareAndSet.compare_and_delete`."""
        self.need("compare_and_set")
        self.check_key(key)
        self.check_text(key, "a version", expected)
        await self.turn()
        self.check_version(key, expected)
        self.remove(key)

    # batch

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """See `Batch.get_many`."""
        self.need("batch")
        wanted = self.check_keys(keys)
        found: dict[str, str | None] = {}
        await self.turn()
        for key in wanted:
            item = self.find(key)
            found[key] = None if item is None else self.text(key, item.value)
        return found

    async def set_many(self, items: Mapping[str, str]) -> None:
        """See `Batch.set_many`. Nothing is written unless every item is valid."""
        self.need("batch")
        if not isinstance(items, Mapping):
            raise InvalidArgumentError(f"items are a mapping, not {type(items).__name__}")

        self.check_keys(items)
        writes = {key: self.encoded(key, value) for key, value in items.items()}
        await self.turn()
        for key, data in writes.items():
            self.put(key, data, None)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """See `Batch.delete_many`."""
        self.need("batch")
        wanted = self.check_keys(keys)
        await self.turn()
        for key in wanted:
            self.remove(key)

    # counter

    async def increment(self, key: str, delta: int = 1) -> int:
        """See `Counter.increment`."""
        self.need("counter")
        self.check_key(key)
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise InvalidArgumentError(f"key {key!r}: a delta is an integer, not {type(delta).__name__}")

        await self.turn()
        item = self.find(key)
        total = self.number(key, item) + delta
        if not -(2**63) <= total < 2**63:
            raise InvalidArgumentError(f"key {key!r}: the sum does not fit into 64 bits")

        self.put(key, str(total).encode(), None if item is None else item.deadline)
        return total

    def number(self, key: str, item: Item | None) -> int:
        """The integer in *item*; 0 if there is none."""
        if item is None:
            return 0
        try:
            number = int(item.value)
        except ValueError:
            number = None
        # int() takes more than a decimal number: spaces, underscores, other digits.
        if number is None or str(number).encode() != item.value:
            raise InvalidArgumentError(f"key {key!r} holds no integer")

        return number

    # binary

    async def get_bytes(self, key: str) -> bytes | None:
        """See `Binary.get_bytes`."""
        self.need("binary")
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        return None if item is None else item.value

    async def set_bytes(self, key: str, value: bytes) -> None:
        """See `Binary.set_bytes`."""
        self.need("binary")
        self.check_key(key)
        if not isinstance(value, bytes):
            raise InvalidArgumentError(f"key {key!r}: the value must be bytes, not {type(value).__name__}")

        self.check_size(key, len(value))
        await self.turn()
        self.put(key, value, None)

    # What the operations check, and what they do to the backend.

    def check_ttl(self, key: str, ttl: object) -> None:
        """Refuse what is no time to live."""
        if ttl is None:
            return
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_TTL:
            raise InvalidArgumentError(f"key {key!r}: a TTL is a number of seconds above 0 and up to 10**9, not {ttl!r}")

    def check_version(self, key: str, expected: str | None) -> None:
        """Refuse a version that is not the current one."""
        item = self.find(key)
        if (None if item is None else str(item.version)) != expected:
            raise ConflictError(f"key {key!r} has another version, or none")

    def deadline(self, ttl: float | None) -> float | None:
        """The time at which *ttl* seconds will have passed; short ones are rounded up."""
        return None if ttl is None else self.backend.clock.now() + max(ttl, self.limits.min_ttl)

    def find(self, key: str) -> Item | None:
        """The live item under *key*."""
        return self.backend.find(self.cell(key))

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        """Store *data*; its new version."""
        return self.backend.put(self.cell(key), data, deadline)
