"""A key-value store in memory with every capability of the contract.

`MemoryBackend` is the server, `MemoryKVStore` one client of it.
"""

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectSendStream

from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.exceptions import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
)
from omnitck.shared.models import Change, Entry, Expect, Limits, Put, Remove

__all__ = ["CAPABILITIES", "MemoryBackend", "MemoryKVStore"]

CAPABILITIES = frozenset(
    "compare_and_set ttl list_prefix batch counter watch transaction linearizable binary "
    "lifecycle validation shared availability limits".split()
)

LONGEST_TTL = 1e9
"""Seconds; about 31 years. A longer one is a mistake in units."""


@dataclass(frozen=True, slots=True)
class _Item:
    value: bytes
    version: int
    deadline: float | None


@dataclass(eq=False, slots=True)
class _Watcher:
    client: object
    tenant: str | None
    prefix: str
    stream: MemoryObjectSendStream[Change]


@dataclass(eq=False, kw_only=True)
class MemoryBackend(MemoryServer):
    """The server: what several clients share."""

    limits: Limits = field(default_factory=lambda: Limits(min_ttl=0.05, ttl_resolution=0.01, page_size=10, batch_size=10))
    items: dict[Cell, _Item] = field(default_factory=dict, repr=False)
    watchers: list[_Watcher] = field(default_factory=list, repr=False)
    versions: int = 0
    """The last version given out. It never falls, so that no version is ever given to two states of a key."""

    def find(self, cell: Cell) -> _Item | None:
        """The live item in *cell*."""
        item = self.items.get(cell)
        if item is not None and item.deadline is not None and self.clock.now() >= item.deadline:
            del self.items[cell]
            return None

        return item

    def put(self, cell: Cell, value: bytes, deadline: float | None) -> int:
        """Store *value* under a new version, and tell the watchers."""
        self.versions += 1
        self.items[cell] = _Item(value, self.versions, deadline)
        self.tell(cell, value)
        return self.versions

    def remove(self, cell: Cell) -> None:
        """Remove what is in *cell*, and tell the watchers if that was something."""
        if self.find(cell) is not None:
            del self.items[cell]
            self.tell(cell, None)

    def tell(self, cell: Cell, value: bytes | None) -> None:
        """Hand a change to every watcher of it."""
        tenant, key = cell
        for watcher in self.watchers:
            if watcher.tenant == tenant and key.startswith(watcher.prefix):
                watcher.stream.send_nowait(Change(key, None if value is None else value.decode(errors="replace")))


class MemoryKVStore(MemoryClient[MemoryBackend]):
    """One client. It implements `KVStoreProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES

    # Core

    async def get(self, key: str) -> str | None:
        """See `KVStoreProtocol.get`."""
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        return None if item is None else self.text(key, item.value)

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """See `KVStoreProtocol.set` and `Expiring.set`."""
        self.check_key(key)
        data = self.encoded(key, value)
        self.check_ttl(key, ttl)
        await self.turn()
        self.put(key, data, self.deadline(ttl))

    async def delete(self, key: str) -> None:
        """See `KVStoreProtocol.delete`."""
        self.check_key(key)
        await self.turn()
        self.remove(key)

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
        if not isinstance(expected, str):
            raise InvalidArgumentError(f"key {key!r}: a version is text, not {type(expected).__name__}")
        await self.turn()
        self.check_version(key, expected)
        self.remove(key)

    # ttl

    async def expires_in(self, key: str) -> float | None:
        """See `Expiring.expires_in`."""
        self.need("ttl")
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        if item is None:
            raise NotFoundError(f"key {key!r} is absent")

        return None if item.deadline is None else item.deadline - self.backend.clock.now()

    # list_prefix

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Listing.list_keys`. Each page starts after the last key of the one before, so changes in between do no harm."""
        self.need("list_prefix")
        if prefix != "":
            self.check_key(prefix)
        after = ""
        while page := await self.page(prefix, after):
            for key in page:
                yield key
            after = page[-1]

    async def page(self, prefix: str, after: str) -> list[str]:
        """The first keys beyond *after*, as many as the backend returns at once."""
        await self.turn()
        keys = [key for tenant, key in list(self.backend.items) if tenant == self.tenant_id and key.startswith(prefix)]
        return sorted(key for key in keys if key > after and self.find(key))[: self.limits.page_size]

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

    def number(self, key: str, item: _Item | None) -> int:
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

    # watch

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """See `Watch.watch`."""
        self.need("watch")
        if prefix != "":
            self.check_key(prefix)
        return self.watching(prefix)

    @asynccontextmanager
    async def watching(self, prefix: str) -> AsyncIterator[AsyncIterator[Change]]:
        """Register with the backend for as long as the context lasts."""
        await self.turn()
        send, receive = anyio.create_memory_object_stream[Change](math.inf)
        watcher = _Watcher(self, self.tenant_id, prefix, send)
        self.backend.watchers.append(watcher)
        try:
            yield receive
        finally:
            self.end(watcher)
            receive.close()

    def end(self, watcher: _Watcher) -> None:
        """Nothing more comes; who iterates gets to the end."""
        if watcher in self.backend.watchers:
            self.backend.watchers.remove(watcher)
        watcher.stream.close()

    # transaction

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        """See `Transaction.transact`."""
        self.need("transaction")
        steps = [self.checked_step(op) for op in ops]
        await self.turn()
        after: dict[str, bytes | None] = {}
        for op, data in steps:
            if not isinstance(op, Expect):
                after[op.key] = data
                continue

            item = self.find(op.key)
            held = after.get(op.key, None if item is None else item.value)
            if held != data:
                raise ConflictError(f"key {op.key!r} does not hold what was expected")

        for key, data in after.items():
            if data is None:
                self.remove(key)
            else:
                self.put(key, data, None)

    def checked_step(self, op: object) -> tuple[Put | Remove | Expect, bytes | None]:
        """A valid step with its value as bytes, None for absence."""
        if not isinstance(op, Put | Remove | Expect):
            raise InvalidArgumentError(f"a step is a Put, a Remove or an Expect, not {type(op).__name__}")

        self.check_key(op.key)
        value = None if isinstance(op, Remove) else op.value
        return op, None if value is None and not isinstance(op, Put) else self.encoded(op.key, value)

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

        self.check_size(key, value)
        await self.turn()
        self.put(key, value, None)

    # lifecycle

    async def close(self) -> None:
        """See `Lifecycle.close`: who watches gets to the end."""
        for watcher in [each for each in self.backend.watchers if each.client is self]:
            self.end(watcher)
        await super().close()

    # What the operations check, and what they do to the backend.

    def check_ttl(self, key: str, ttl: object) -> None:
        """Refuse what is no time to live."""
        if ttl is None:
            return

        self.need("ttl")
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_TTL:
            raise InvalidArgumentError(f"key {key!r}: a TTL is a number of seconds above 0 and up to 10**9, not {ttl!r}")

    def check_version(self, key: str, expected: str | None) -> None:
        """Refuse a version that is not the current one."""
        item = self.find(key)
        if (None if item is None else str(item.version)) != expected:
            raise ConflictError(f"key {key!r} has another version, or none")

    def text(self, key: str, data: bytes) -> str:
        """What is stored, as text."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InvalidArgumentError(f"key {key!r} holds bytes that are no text") from None

    def deadline(self, ttl: float | None) -> float | None:
        """The time at which *ttl* seconds will have passed; short ones are rounded up."""
        return None if ttl is None else self.backend.clock.now() + max(ttl, self.limits.min_ttl)

    def find(self, key: str) -> _Item | None:
        """The live item under *key*."""
        return self.backend.find(self.cell(key))

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        """Store *data*; its new version."""
        return self.backend.put(self.cell(key), data, deadline)

    def remove(self, key: str) -> None:
        """Remove *key*."""
        self.backend.remove(self.cell(key))
