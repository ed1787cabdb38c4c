"""A cache in memory with every capability of the contract.

`MemoryCacheBackend` is the server, `MemoryCache` one client of it. Where `bounded` is declared, what was not used for the longest
time goes first when there is no room.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import anyio

from omnitck.reference.client import MemoryClient, MemoryServer
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError
from omnitck.shared.models import CacheLimits, Entry, Limits

__all__ = ["CAPABILITIES", "MemoryCache", "MemoryCacheBackend"]

CAPABILITIES = frozenset(
    "add touch ttl_query get_or_set clear batch counter compare_and_set bounded binary "
    "lifecycle validation shared availability limits".split()
)

LONGEST_TTL = 1e9
"""Seconds; about 31 years. A longer one is a mistake in units."""

Slot = tuple[str, str | None, str]
"""A namespace, a tenant and a name. A tuple, not a joined string: no separator can be injected."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is held under a key."""

    value: bytes
    version: int
    deadline: float | None


@dataclass(eq=False, slots=True)
class Flight:
    """One computation, and those who wait for it."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    value: str | None = None
    error: Exception | None = None


@dataclass(eq=False, kw_only=True)
class MemoryCacheBackend(MemoryServer):
    """The server: what several clients share."""

    limits: Limits = field(default_factory=lambda: CacheLimits(min_ttl=0.05, ttl_resolution=0.01, page_size=10, batch_size=10))
    items: dict[Slot, Item] = field(default_factory=dict, repr=False)
    """In the order of their last use."""
    used: int = 0
    """Bytes of the keys and values of all items."""
    versions: int = 0
    """The last version given out. It never falls, so that no version is ever given to two states of a key."""

    def find(self, slot: Slot) -> Item | None:
        """The live item in *slot*, which is thereby the last used."""
        item = self.items.pop(slot, None)
        if item is None:
            return None
        if self.is_over(item):
            self.used -= size(slot, item)
            return None

        self.items[slot] = item
        return item

    def is_over(self, item: Item) -> bool:
        """Whether the time of *item* has passed."""
        return item.deadline is not None and self.clock.now() >= item.deadline

    def put(self, slot: Slot, value: bytes, deadline: float | None) -> int:
        """Store *value* under a new version."""
        self.remove(slot)
        self.versions += 1
        item = self.items[slot] = Item(value, self.versions, deadline)
        self.used += size(slot, item)
        return self.versions

    def remove(self, slot: Slot) -> None:
        """Remove what is in *slot*."""
        item = self.items.pop(slot, None)
        if item is not None:
            self.used -= size(slot, item)

    def make_room(self, capacity: int) -> None:
        """Remove what has expired, then what was not used for the longest time, until the rest fits into *capacity* bytes."""
        if self.used <= capacity:
            return

        for slot in [slot for slot, item in self.items.items() if self.is_over(item)]:
            self.remove(slot)
        while self.used > capacity and len(self.items) > 1:
            self.remove(next(iter(self.items)))


def size(slot: Slot, item: Item) -> int:
    """What an item counts for, in bytes."""
    return len(slot[2].encode()) + len(item.value)


class MemoryCache(MemoryClient[MemoryCacheBackend]):
    """One client. It implements `CacheProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES

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
        self.flights: dict[Slot, Flight] = {}
        """The computations of this client that have not ended."""

    # Core

    async def get(self, key: str) -> str | None:
        """See `CacheProtocol.get`."""
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        return None if item is None else self.text(key, item.value)

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """See `CacheProtocol.set`."""
        self.check_key(key)
        data = self.encoded(key, value)
        self.check_ttl(key, ttl)
        await self.turn()
        self.put(key, data, self.deadline(ttl))

    async def delete(self, key: str) -> None:
        """See `CacheProtocol.delete`."""
        self.check_key(key)
        await self.turn()
        self.remove(key)

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

        self.backend.items[self.slot(key)] = replace(item, deadline=self.deadline(ttl))
        return True

    # ttl_query

    async def expires_in(self, key: str) -> float | None:
        """See `TTLQuery.expires_in`."""
        self.need("ttl_query")
        self.check_key(key)
        await self.turn()
        item = self.find(key)
        if item is None:
            raise NotFoundError(f"key {key!r} is absent")

        return None if item.deadline is None else item.deadline - self.backend.clock.now()

    # get_or_set

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """See `GetOrSet.get_or_set`. If the caller that computes is cancelled, another one computes."""
        self.need("get_or_set")
        self.check_key(key)
        self.check_ttl(key, ttl)
        slot = self.slot(key)
        while True:
            await self.turn()
            item = self.find(key)
            if item is not None:
                return self.text(key, item.value)

            flight = self.flights.get(slot)
            if flight is None:
                return await self.compute(key, factory, ttl)

            await flight.ended.wait()
            if flight.error is not None:
                raise flight.error
            if flight.value is not None:
                return flight.value

    async def compute(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None) -> str:
        """Run *factory* for all who ask for *key* meanwhile, and store what it returns."""
        slot = self.slot(key)
        flight = self.flights[slot] = Flight()
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
            del self.flights[slot]
            flight.ended.set()
        return value

    # clear

    async def clear(self) -> None:
        """See `Clear.clear`."""
        self.need("clear")
        await self.turn()
        for slot in [each for each in self.backend.items if self.owns(each)]:
            self.backend.remove(slot)

    def owns(self, slot: Slot) -> bool:
        """Whether *slot* is of this client's namespace and tenant."""
        return slot[:2] == (self.namespace, self.tenant_id)

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
        """See `Lifecycle.close`: who waits for another's computation gets to the end."""
        self.closed = True
        for flight in self.flights.values():
            flight.ended.set()
        await super().close()

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

    def text(self, key: str, data: bytes) -> str:
        """What is stored, as text."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InvalidArgumentError(f"key {key!r} holds bytes that are no text") from None

    def deadline(self, ttl: float | None) -> float | None:
        """The time at which *ttl* seconds will have passed; short ones are rounded up."""
        return None if ttl is None else self.backend.clock.now() + max(ttl, self.limits.min_ttl)

    def slot(self, key: str) -> Slot:
        """Where the backend holds *key*."""
        return (self.namespace, self.tenant_id, key)

    def find(self, key: str) -> Item | None:
        """The live item under *key*."""
        return self.backend.find(self.slot(key))

    def put(self, key: str, data: bytes, deadline: float | None) -> int:
        """Store *data*; its new version."""
        version = self.backend.put(self.slot(key), data, deadline)
        if "bounded" in self.capabilities and isinstance(self.limits, CacheLimits):
            self.backend.make_room(self.limits.capacity_bytes)
        return version

    def remove(self, key: str) -> None:
        """Remove *key*."""
        self.backend.remove(self.slot(key))
