"""A cache in memory with every capability of the contract.

`MemoryCacheBackend` is the server, `MemoryCache` one client of it. Where `bounded` is declared, what was not used for the longest
time goes first when there is no room.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace

import anyio

from omnitck.reference.client import Cell
from omnitck.reference.key_value import Item, KeyValueClient, KeyValueServer
from omnitck.shared.models import CacheLimits, Limits

__all__ = ["CAPABILITIES", "MemoryCache", "MemoryCacheBackend"]

CAPABILITIES = frozenset(
    "add touch ttl_query get_or_set clear batch counter compare_and_set bounded binary "
    "lifecycle validation shared availability limits".split()
)


@dataclass(eq=False, slots=True)
class Flight:
    """One computation, and those who wait for it."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    value: str | None = None
    error: Exception | None = None


@dataclass(eq=False, kw_only=True)
class MemoryCacheBackend(KeyValueServer):
    """The server: what several clients share. Its items are in the order of their last use."""

    limits: Limits = field(default_factory=lambda: CacheLimits(min_ttl=0.05, ttl_resolution=0.01, page_size=10, batch_size=10))
    used: int = 0
    """Bytes of the keys and values of all items."""

    def find(self, cell: Cell) -> Item | None:
        """The live item in *cell*, which is thereby the last used."""
        item = super().find(cell)
        if item is not None:
            self.items[cell] = self.items.pop(cell)
        return item

    def put(self, cell: Cell, value: bytes, deadline: float | None) -> int:
        """Store *value* under a new version."""
        self.drop(cell)
        version = super().put(cell, value, deadline)
        self.used += size(cell, self.items[cell])
        return version

    def drop(self, cell: Cell) -> None:
        """Forget what is in *cell*, and what it counted for."""
        item = self.items.pop(cell, None)
        if item is not None:
            self.used -= size(cell, item)

    def make_room(self, capacity: int) -> None:
        """Remove what has expired, then what was not used for the longest time, until the rest fits into *capacity* bytes."""
        if self.used <= capacity:
            return

        for cell in [cell for cell, item in self.items.items() if self.is_over(item)]:
            self.drop(cell)
        while self.used > capacity and len(self.items) > 1:
            self.drop(next(iter(self.items)))


def size(cell: Cell, item: Item) -> int:
    """What an item counts for, in bytes."""
    return len(cell.name.encode()) + len(item.value)


class MemoryCache(KeyValueClient[MemoryCacheBackend]):
    """One client. It implements `CacheProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES
    aside = "clear"

    def __init__(
        self,
        backend: MemoryCacheBackend,
        *,
        namespace: str = "",
        tenant_id: str | None = None,
        password: str | None = None,
        capabilities: Collection[str] | None = None,
    ) -> None:
        """Connect to *namespace* of *backend*."""
        super().__init__(backend, tenant_id=tenant_id, password=password, capabilities=capabilities)
        self.namespace = namespace
        self.flights: dict[Cell, Flight] = {}
        """The computations of this client that have not ended."""

    # Core

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """See `CacheProtocol.set`."""
        await super().set(key, value, ttl=ttl)

    # add

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        """See `Add.add`."""
        self.need("add")
        self.check_key(key)
        data = self.encoded(key, value)
        self.check_ttl(key, ttl)
        await self.turn()
        if self.find(key) is not None:
            return False

        self.put(key, data, self.deadline(ttl))
        return True

    # touch

    async def touch(self, key: str, ttl: float | None) -> bool:
        """See `Touch.touch`."""
        self.need("touch")
        self.check_key(key)
        self.check_ttl(key, ttl)
        await self.turn()
        item = self.find(key)
        if item is None:
            return False

        self.backend.items[self.cell(key)] = replace(item, deadline=self.deadline(ttl))
        return True

    # ttl_query

    async def expires_in(self, key: str) -> float | None:
        """See `TTLQuery.expires_in`."""
        self.need("ttl_query")
        return await super().expires_in(key)

    # get_or_set

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """See `GetOrSet.get_or_set`. If the caller that computes is cancelled, another one computes."""
        self.need("get_or_set")
        self.check_key(key)
        self.check_ttl(key, ttl)
        cell = self.cell(key)
        while True:
            await self.turn()
            item = self.find(key)
            if item is not None:
                return self.text(key, item.value)

            flight = self.flights.get(cell)
            if flight is None:
                return await self.compute(key, factory, ttl)

            await flight.ended.wait()
            if flight.error is not None:
                raise flight.error
            if flight.value is not None:
                return flight.value

    async def compute(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None) -> str:
        """Run *factory* for all who ask for *key* meanwhile, and store what it returns."""
        cell = self.cell(key)
        flight = self.flights[cell] = Flight()
        try:
            value = await factory()
            data = self.encoded(key, value)
            await self.turn()
            self.put(key, data, self.deadline(ttl))
            flight.value = value
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self.flights[cell]
            flight.ended.set()
        return value

    # clear

    async def clear(self) -> None:
        """See `Clear.clear`."""
        self.need("clear")
        await self.turn()
        for cell in [each for each in self.backend.items if self.owns(each)]:
            self.backend.remove(cell)

    def owns(self, cell: Cell) -> bool:
        """Whether *cell* is of this client's namespace and tenant."""
        return (cell.space, cell.tenant) == (self.namespace, self.tenant_id)

    # lifecycle

    async def close(self) -> None:
        """See `Lifecycle.close`: who waits for another's computation gets to the end."""
        self.closed = True
        for flight in self.flights.values():
            flight.ended.set()
        await super().close()

    # What they do to the backend.

    def cell(self, key: str) -> Cell:
        """Where the backend holds *key*."""
        return Cell(self.tenant_id, key, self.namespace)

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        """Store *data*, and make room for it; its new version."""
        version = super().put(key, data, deadline)
        if "bounded" in self.capabilities and isinstance(self.limits, CacheLimits):
            self.backend.make_room(self.limits.capacity_bytes)
        return version
