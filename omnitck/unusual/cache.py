"""Correct but unusual caches."""

import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import anyio
import anyio.lowlevel

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.cache import CacheContract, CacheProtocol
from omnitck.reference.cache import MemoryCache, MemoryCacheBackend
from omnitck.reference.client import Cell
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import (
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import CacheLimits, Entry
from omnitck.unusual import unusual
from omnitck.unusual.clients import Facade, GroupingClient, Request, connected


class Dictionary:
    """The plainest cache: the three methods, over a dictionary of values with the moment at which each ends."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[str, float]] = {}

    async def get(self, key: str) -> str | None:
        value, until = self.items.get(key, ("", 0.0))
        return value if time.monotonic() < until else None

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        self.items[key] = (value, math.inf if ttl is None else time.monotonic() + ttl)

    async def delete(self, key: str) -> None:
        self.items.pop(key, None)


@unusual
class Plainest(CacheContract):
    """Three methods over a dictionary: no capability, no limits, no clock to move, and never a turn of the event loop.

    A rule that needs more than the core demands would reject it.
    """

    async def make_provider(self, **config: object) -> CacheProtocol:
        return Dictionary()


# A cache whose clients keep near copies to the very end of what is declared.


class RefusedError(InvalidArgumentError):
    """The standard's error, with the vendor's code."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


class OversizeError(TooLargeError):
    """The server takes no item of that size."""


class ExistsError(ConflictError):
    """What memcached says of an item that was changed meanwhile."""


class MissError(NotFoundError):
    """What memcached says of an item that is not there."""


class OfflineError(UnavailableError):
    """No server of the ring is up."""


class DisposedError(ClosedError):
    """The client was disposed of."""


class ReplyError(Exception):
    """What a driver raises."""


@dataclass(frozen=True, slots=True)
class Item:
    """What the server holds under a key."""

    data: bytes
    number: int
    until: float
    writer: int
    """The client that wrote it."""

    @property
    def version(self) -> str:
        """Opaque, in no order, and of a length that changes: no client reads a number in it."""
        return random.Random(self.number).randbytes(16 + self.number % 5).hex()


@dataclass(eq=False)
class Server:
    """The server: as soon as it holds `limits.capacity_bytes` it evicts what chance will, but never what was just written."""

    clock: ManualClock
    limits: CacheLimits
    items: dict[Cell, Item] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(17, 3))
    clients: "itertools.count[int]" = field(default_factory=itertools.count)
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    used: int = 0

    def find(self, cell: Cell) -> Item | None:
        item = self.items.get(cell)
        return item if item is not None and self.clock.now() < item.until else None

    def put(self, cell: Cell, data: bytes, until: float, writer: int) -> Item:
        self.drop(cell)
        item = self.items[cell] = Item(data, next(self.numbers), until, writer)
        self.used += _size(cell, item)
        while self.used >= self.limits.capacity_bytes:
            self.drop(self.chance.choice([each for each in self.items if each != cell]))
        return item

    def drop(self, cell: Cell) -> None:
        item = self.items.pop(cell, None)
        self.used -= 0 if item is None else _size(cell, item)

    def end_of(self, ttl: float | None) -> float:
        """When an item ends: as late as may be."""
        return math.inf if ttl is None else self.clock.now() + (max(ttl, self.limits.min_ttl) + self.limits.ttl_resolution)


def _size(cell: Cell, item: Item) -> int:
    return max(1024, len(cell.name.encode()) + len(item.data))


@dataclass(slots=True)
class Flight:
    """A computation for all who ask meanwhile: who joins it waits until its leader has ended, or leads the next."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    outcome: tuple[str] | Exception | None = None


class NearCacheClient:
    """A client that keeps a copy of what it has read for `limits.staleness` seconds, or less if it knows better."""

    __slots__ = ("_capabilities", "_closed", "_flights", "_id", "_near", "_reachable", "_server", "_space", "_tenant")

    def __init__(
        self, server: Server, space: str, tenant_id: str | None, capabilities: Collection[str], *, reachable: bool = True
    ) -> None:
        if tenant_id is not None and (not isinstance(tenant_id, str) or not tenant_id.strip() or not _is_text(tenant_id)):
            raise RefusedError("a tenant is text that is not blank")

        self._server = server
        self._space = space
        self._tenant = tenant_id
        self._capabilities = frozenset(capabilities)
        self._reachable = reachable
        self._closed = False
        self._id = next(server.clients)
        self._near: dict[Cell, tuple[Item | None, float]] = {}
        self._flights: dict[Cell, Flight] = {}

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    @property
    def limits(self) -> CacheLimits:
        return self._server.limits

    async def close(self) -> None:
        self._closed = True
        self._near.clear()
        for flight in self._flights.values():
            flight.ended.set()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # Core

    async def get(self, key: str) -> str | None:
        data = await self.get_bytes(key)
        return None if data is None else self._text(key, data)

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        cell, data = self._cell(key), self._data(key, value)
        self._check_ttl(key, ttl)
        await self._turn()
        self._put(cell, data, self._server.end_of(ttl))

    async def delete(self, key: str) -> None:
        cell = self._cell(key)
        await self._turn()
        self._drop(cell)

    # add, touch, ttl_query

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        cell, data = self._cell(key), self._data(key, value)
        self._check_ttl(key, ttl)
        await self._turn()
        if self._server.find(cell) is not None:
            return False
        self._put(cell, data, self._server.end_of(ttl))
        return True

    async def touch(self, key: str, ttl: float | None) -> bool:
        cell = self._cell(key)
        self._check_ttl(key, ttl)
        await self._turn()
        item = self._server.find(cell)
        if item is None:
            return False
        self._server.items[cell] = replace(item, until=self._server.end_of(ttl))
        self._near.pop(cell, None)
        return True

    async def expires_in(self, key: str) -> float | None:
        cell = self._cell(key)
        await self._turn()
        item = self._server.find(cell)
        if item is None:
            raise MissError(f"key {key!r} is absent") from ReplyError("NOT_FOUND")
        return None if item.until == math.inf else item.until - self._server.clock.now()

    # get_or_set

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """Who asks while another looks and computes waits for what comes of that, even if it was there already."""
        cell = self._cell(key)
        self._check_ttl(key, ttl)
        self._check_usable()
        while (flight := self._flights.get(cell)) is not None:
            await flight.ended.wait()
            self._check_usable()
            if isinstance(flight.outcome, Exception):
                raise flight.outcome
            if flight.outcome is not None:
                return flight.outcome[0]

        flight = self._flights[cell] = Flight()
        try:
            found = await self.get(key)
            if found is None:
                found = await factory()
                await self.set(key, found, ttl)
            flight.outcome = (found,)
        except Exception as error:
            flight.outcome = error
            raise
        finally:
            del self._flights[cell]
            flight.ended.set()
        return found

    # clear

    async def clear(self) -> None:
        await self._turn()
        for cell in [each for each in self._server.items if (each.tenant, each.space) == (self._tenant, self._space)]:
            self._drop(cell)
        self._near.clear()

    # batch: a request for each `limits.batch_size` keys, so that others come in between

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        return {key: await self.get(key) for key in self._keys(keys)}

    async def set_many(self, items: Mapping[str, str]) -> None:
        if not isinstance(items, Mapping):
            raise RefusedError(f"items are a mapping, not {type(items).__name__}")
        for cell, data in {self._cell(key): self._data(key, value) for key, value in items.items()}.items():
            await self._turn()
            self._put(cell, data, math.inf)

    async def delete_many(self, keys: Iterable[str]) -> None:
        for key in self._keys(keys):
            await self.delete(key)

    # counter

    async def increment(self, key: str, delta: int = 1) -> int:
        cell = self._cell(key)
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise RefusedError(f"key {key!r}: a delta is an integer")
        await self._turn()
        item = self._server.find(cell)
        text = b"0" if item is None else item.data
        if not text.removeprefix(b"-").isdigit() or str(int(text)).encode() != text:
            raise RefusedError(f"key {key!r} holds no integer") from ReplyError("non-numeric value")
        total = int(text) + delta
        if not -(2**63) <= total < 2**63:
            raise RefusedError(f"key {key!r}: the sum is none of 64 bits") from ReplyError("out of range")
        self._put(cell, str(total).encode(), math.inf if item is None else item.until)
        return total

    # compare_and_set

    async def get_entry(self, key: str) -> Entry | None:
        item = await self._found(self._cell(key))
        return None if item is None else Entry(self._text(key, item.data), item.version)

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        cell, data = self._cell(key), self._data(key, value)
        self._check_version(key, expected)
        await self._turn()
        self._compare(key, cell, expected)
        return self._put(cell, data, math.inf).version

    async def compare_and_delete(self, key: str, expected: str) -> None:
        cell = self._cell(key)
        self._check_version(key, expected)
        await self._turn()
        self._compare(key, cell, expected)
        self._drop(cell)

    # binary

    async def get_bytes(self, key: str) -> bytes | None:
        item = await self._found(self._cell(key))
        return None if item is None else item.data

    async def set_bytes(self, key: str, value: bytes) -> None:
        cell = self._cell(key)
        if not isinstance(value, bytes):
            raise RefusedError(f"key {key!r}: the value is no bytes")
        self._check_size(key, value)
        await self._turn()
        self._put(cell, value, math.inf)

    # What the operations share

    async def _turn(self) -> None:
        self._check_usable()
        if not self._reachable:
            raise OfflineError("no server of the ring is up") from ConnectionRefusedError(111, "connection refused")
        await anyio.lowlevel.checkpoint()
        self._check_usable()

    def _check_usable(self) -> None:
        if self._closed:
            raise DisposedError("this client was disposed of")

    async def _found(self, cell: Cell) -> Item | None:
        """What is near, or else what the server has."""
        self._check_usable()
        item, fresh_until = self._near.get(cell, (None, -math.inf))
        now = self._server.clock.now()
        # How long another's value lasts is not looked at: that it has expired is seen when the copy ends.
        if now < fresh_until and (item is None or item.writer != self._id or now < item.until):
            return item
        await self._turn()
        item = self._server.find(cell)
        self._near[cell] = (item, now + self.limits.staleness)
        return item

    def _put(self, cell: Cell, data: bytes, until: float) -> Item:
        self._near.pop(cell, None)
        return self._server.put(cell, data, until, self._id)

    def _drop(self, cell: Cell) -> None:
        self._near.pop(cell, None)
        self._server.drop(cell)

    def _compare(self, key: str, cell: Cell, expected: str | None) -> None:
        item = self._server.find(cell)
        if (None if item is None else item.version) != expected:
            self._near.pop(cell, None)
            raise ExistsError(f"key {key!r} has another version, or none") from ReplyError("EXISTS")

    def _check_version(self, key: str, expected: object) -> None:
        if expected is not None and not (isinstance(expected, str) and len(expected) >= 32 and expected.isalnum()):
            raise RefusedError(f"key {key!r}: this is no version")

    def _check_ttl(self, key: str, ttl: object) -> None:
        if ttl is None:
            return
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= 1e9:
            raise RefusedError(f"key {key!r}: {ttl!r} is no time to live")

    def _cell(self, key: object) -> Cell:
        if not isinstance(key, str) or not key or not _is_text(key):
            raise RefusedError(f"key {key!r} is no text of one character or more")
        if len(key.encode()) > self.limits.key_bytes:
            raise OversizeError(f"key {key!r} is longer than {self.limits.key_bytes} bytes")
        return Cell(self._tenant, key, self._space)

    def _keys(self, keys: Iterable[str]) -> list[str]:
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise RefusedError(f"keys are several, not {type(keys).__name__}")
        return list(dict.fromkeys(self._cell(key).name for key in keys))

    def _data(self, key: str, value: object) -> bytes:
        data = None
        if isinstance(value, str):
            with suppress(UnicodeEncodeError):
                data = value.encode()
        if data is None:
            raise RefusedError(f"key {key!r}: the value is no text")
        self._check_size(key, data)
        return data

    def _check_size(self, key: str, data: bytes) -> None:
        if len(data) > self.limits.value_bytes:
            raise OversizeError(f"key {key!r}: the value is longer than {self.limits.value_bytes} bytes") from ReplyError("E2BIG")

    def _text(self, key: str, data: bytes) -> str:
        with suppress(UnicodeDecodeError):
            return data.decode()
        raise RefusedError(f"key {key!r} holds bytes that are no text")


def _is_text(text: str) -> bool:
    """Whether *text* holds neither U+0000 nor a lone surrogate."""
    return "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


@unusual
class NearCopies(CacheContract, MultiTenancyPolicy):
    """Each client keeps copies of what it has read, absence too, and values expire late, to the very end of the most that may be.

    The server evicts at random from the least capacity on. Errors are subclasses with a vendor's cause, versions are opaque and
    checked by their form. Whoever looks through another client a moment too early, or expects the oldest to go first, rejects it.
    """

    capabilities = frozenset(
        "add touch ttl_query get_or_set clear batch counter compare_and_set bounded binary "
        "lifecycle validation shared availability limits".split()
    )
    limits = CacheLimits(min_ttl=60, ttl_resolution=60, staleness=60, page_size=1, batch_size=1)

    def setUp(self) -> None:
        self.server = Server(ManualClock(), self.limits)

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> NearCacheClient:
        return NearCacheClient(self.server, namespace, tenant_id, self.declared)

    async def unreachable_provider(self) -> NearCacheClient:
        return NearCacheClient(self.server, "", None, self.declared, reachable=False)

    async def advance(self, seconds: float) -> None:
        self.server.clock.advance(seconds)


# A cache that carries out in groups what it is asked for, and computes in tasks of its own.


class GroupingCache(GroupingClient[MemoryCache]):
    """A client whose requests are carried out in groups; a computation outlives the caller that began it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._flights: dict[str, Request] = {}

    async def get(self, key: str) -> str | None:
        return await self._ask(partial(self._inner.get, key))

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        await self._ask(partial(self._inner.set, key, value, ttl))

    async def delete(self, key: str) -> None:
        await self._ask(partial(self._inner.delete, key))

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        return await self._ask(partial(self._inner.add, key, value, ttl))

    async def touch(self, key: str, ttl: float | None) -> bool:
        return await self._ask(partial(self._inner.touch, key, ttl))

    async def expires_in(self, key: str) -> float | None:
        return await self._ask(partial(self._inner.expires_in, key))

    async def clear(self) -> None:
        await self._ask(self._inner.clear)

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        return await self._ask(partial(self._inner.get_many, keys))

    async def set_many(self, items: Mapping[str, str]) -> None:
        await self._ask(partial(self._inner.set_many, copy(items)))

    async def delete_many(self, keys: Iterable[str]) -> None:
        await self._ask(partial(self._inner.delete_many, keys))

    async def increment(self, key: str, delta: int = 1) -> int:
        return await self._ask(partial(self._inner.increment, key, delta))

    async def get_entry(self, key: str) -> Entry | None:
        return await self._ask(partial(self._inner.get_entry, key))

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        return await self._ask(partial(self._inner.compare_and_set, key, value, expected))

    async def compare_and_delete(self, key: str, expected: str) -> None:
        await self._ask(partial(self._inner.compare_and_delete, key, expected))

    async def get_bytes(self, key: str) -> bytes | None:
        return await self._ask(partial(self._inner.get_bytes, key))

    async def set_bytes(self, key: str, value: bytes) -> None:
        await self._ask(partial(self._inner.set_bytes, key, value))

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """A task of the client's own looks, computes and stores; whoever began it may be gone by then."""
        self._inner.check_key(key)
        self._inner.check_ttl(key, ttl)
        self._inner.check_usable()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Request(partial(self._compute, key, factory, ttl))
            self._tasks.start_soon(self._fly, key, flight, self._new_scope())
        return str(await self._answer(flight))

    async def _compute(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None) -> str:
        found = await self.get(key)
        if found is None:
            found = await factory()
            await self.set(key, found, ttl)
        return found

    async def _fly(self, key: str, flight: Request, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await flight.carry_out()
            finally:
                del self._flights[key]
                self._scopes.discard(scope)
        flight.done.set()


@unusual
class Grouped(CacheContract):
    """A worker of the client's own collects requests for 3 ms and answers them together, each up to 20 ms after it was asked.

    To connect takes a tenth of a second, and what `get_or_set` computes runs in the client's own task group, on which the
    cancellation of a caller has no effect. Whoever counts turns, or runs of a factory by caller, rejects it.
    """

    capabilities = frozenset(
        "add touch ttl_query get_or_set clear batch counter compare_and_set binary lifecycle validation shared limits "
        "availability".split()
    )
    limits = CacheLimits(min_ttl=0.05, ttl_resolution=0.02, page_size=7, batch_size=3)

    def setUp(self) -> None:
        self.server = MemoryCacheBackend(limits=self.limits)
        self.chance = random.Random(7)

    async def make_provider(self, *, namespace: str = "", **config: object) -> AbstractAsyncContextManager[GroupingCache]:
        inner = MemoryCache(self.server, namespace=namespace, capabilities=self.declared)
        return connected(GroupingCache, inner, self.chance)

    async def unreachable_provider(self) -> AbstractAsyncContextManager[GroupingCache]:
        return connected(GroupingCache, MemoryCache(MemoryCacheBackend(reachable=False), capabilities=self.declared), self.chance)


# A cache behind others, which has no limits to speak of.


class OptionedCache(MemoryCache):
    """The reference, with more parameters than the standard asks for."""

    async def get(self, key: str, default: None = None, **options: object) -> str | None:
        self._refuse(options)
        return await super().get(key)

    async def set(self, key: str, value: str, ttl: float | None = None, nowait: bool = False, **options: object) -> None:
        self._refuse(options)
        await super().set(key, value, ttl)

    async def delete(self, key: str, *more: str, **options: object) -> None:
        self._refuse(options)
        await super().delete(key)

    def _refuse(self, options: Mapping[str, object]) -> None:
        if options:
            raise UnsupportedError(f"this cache has no {', '.join(options)}")


@unusual
class Unlimited(CacheContract):
    """Numbers that are as large as an integer of 32 or 64 bits, and times that are exact, behind a delegate without a dictionary.

    Its methods have a decorator, and more parameters than they need; what is not declared is there, and refuses. Whoever fills a
    whole batch or the whole capacity, or looks for methods on a class, rejects it.
    """

    capabilities = frozenset("add touch ttl_query get_or_set batch bounded shared validation limits".split())
    limits = CacheLimits(
        key_bytes=2**31 - 1,
        value_bytes=2**63 - 1,
        min_ttl=0,
        ttl_resolution=0,
        page_size=2**31 - 1,
        batch_size=2**31 - 1,
        capacity_bytes=2**63 - 1,
    )

    def setUp(self) -> None:
        self.server = MemoryCacheBackend(limits=self.limits)

    async def make_provider(self, **config: object) -> Facade:
        return Facade(OptionedCache(self.server, capabilities=self.declared))
