"""A key-value store in memory with every capability of the contract.

`MemoryBackend` is the server, `MemoryKVStore` one client of it.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from omnitck.reference.client import Cell
from omnitck.reference.key_value import KeyValueClient, KeyValueServer
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError
from omnitck.shared.models import Change, Expect, Put, Remove

__all__ = ["CAPABILITIES", "MemoryBackend", "MemoryKVStore"]

CAPABILITIES = frozenset(
    "compare_and_set ttl list_prefix batch counter watch transaction linearizable binary "
    "lifecycle validation shared availability limits".split()
)


@dataclass(eq=False, slots=True)
class _Watcher:
    client: object
    tenant: str | None
    prefix: str
    stream: MemoryObjectSendStream[Change]


@dataclass(eq=False, kw_only=True)
class MemoryBackend(KeyValueServer):
    """The server: what several clients share."""

    watchers: list[_Watcher] = field(default_factory=list, repr=False)

    def put(self, cell: Cell, value: bytes, deadline: float | None) -> int:
        """Store *value* under a new version, and tell the watchers."""
        version = super().put(cell, value, deadline)
        self.tell(cell, value)
        return version

    def remove(self, cell: Cell) -> None:
        """Remove what is in *cell*, and tell the watchers if that was something."""
        if self.find(cell) is not None:
            super().remove(cell)
            self.tell(cell, None)

    def tell(self, cell: Cell, value: bytes | None) -> None:
        """Hand a change to every watcher of it."""
        for watcher in self.watchers:
            if watcher.tenant == cell.tenant and cell.name.startswith(watcher.prefix):
                watcher.stream.send_nowait(Change(cell.name, None if value is None else value.decode(errors="replace")))


class MemoryKVStore(KeyValueClient[MemoryBackend]):
    """One client. It implements `KVStoreProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES
    aside = "watch"

    # ttl

    async def expires_in(self, key: str) -> float | None:
        """See `Expiring.expires_in`."""
        self.need("ttl")
        return await super().expires_in(key)

    # list_prefix

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Listing.list_keys`. Each page starts after the last key of the one before, so changes in between do no harm."""
        self.need("list_prefix")
        self.check_prefix(prefix)
        after = ""
        while page := await self.page(prefix, after):
            for key in page:
                yield key
            after = page[-1]

    async def page(self, prefix: str, after: str) -> list[str]:
        """The first keys beyond *after*, as many as the backend returns at once."""
        await self.turn()
        return self.following(prefix, after)

    # watch

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """See `Watch.watch`."""
        self.need("watch")
        self.check_prefix(prefix)
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

    # lifecycle

    async def close(self) -> None:
        """See `Lifecycle.close`: who watches gets to the end."""
        for watcher in [each for each in self.backend.watchers if each.client is self]:
            self.end(watcher)
        await super().close()

    # What the operations check.

    def check_ttl(self, key: str, ttl: object) -> None:
        """Refuse what is no time to live, and any where none is declared."""
        if ttl is not None:
            self.need("ttl")
        super().check_ttl(key, ttl)
