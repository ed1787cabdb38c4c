"""Correct but unusual key-value stores."""

import hashlib
import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract, KVStoreProtocol
from omnitck.reference.client import Cell
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore
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
from omnitck.shared.models import Change, Entry, Expect, Limits, Put, Remove
from omnitck.unusual import unusual
from omnitck.unusual.clients import Facade, GroupingClient, connected
from omnitck.unusual.wire import WireClient, WireHooks

T = TypeVar("T")


class Dictionary:
    """The plainest store: the three methods, and the dictionary that each client has to itself."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def set(self, key: str, value: str) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


@unusual
class Plainest(KVStoreContract):
    """Three methods over a dictionary: no capability, no limits, no method that closes, and never a turn of the event loop.

    A rule that needs more than the core demands would reject it.
    """

    async def make_provider(self, **config: object) -> KVStoreProtocol:
        return Dictionary()


# A store whose replicas lag to the very end of what it declares.


class SqlStateError(Exception):
    """What a driver raises."""


class StaleRowError(ConflictError):
    """The standard's error, with more in it."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class BadTokenError(InvalidArgumentError):
    """A version that nobody gave out."""


class NoRowError(NotFoundError):
    """Nothing is under this key."""


class OverlongError(TooLargeError):
    """More than the column holds."""


class GoneError(ClosedError):
    """The session has ended."""


class NoRouteError(UnavailableError):
    """No node of the cluster answers."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One state of a key, which stays in the log: a delete is one without data."""

    number: int
    at: float
    data: bytes | None
    until: float = math.inf

    @property
    def version(self) -> str:
        """Opaque, in no order, and of a length that changes; the number is not to be seen in it."""
        return f"{self.number % 7 * '='}{hashlib.blake2b(str(self.number).encode(), digest_size=8 + self.number % 5).hexdigest()}"


@dataclass(eq=False)
class Primary:
    """The log of all commits. Writes go to it, reads to replicas that are `limits.staleness` behind."""

    clock: ManualClock
    limits: Limits
    log: dict[Cell, list[Commit]] = field(default_factory=dict)
    number: int = 0
    watching: list[anyio.Event] = field(default_factory=list)

    def notify(self) -> None:
        """Let who watches look again: there is a new commit, or the replicas have one more."""
        for each in self.watching:
            each.set()

    def commit(self, cell: Cell, data: bytes | None, until: float = math.inf) -> Commit:
        """Append a state of *cell*. Numbers have gaps, as those of a sequence have."""
        self.number += 1 + self.number % 3
        commit = Commit(self.number, self.clock.now(), data, until)
        self.log.setdefault(cell, []).append(commit)
        self.notify()
        return commit

    def newest(self, cell: Cell) -> Commit | None:
        """The state of *cell* at the primary."""
        return self.alive(self.log.get(cell, [None])[-1])

    def alive(self, commit: Commit | None) -> Commit | None:
        """*commit*, unless it is a delete or its time is over."""
        return commit if commit is not None and commit.data is not None and self.clock.now() < commit.until else None

    def end_of(self, ttl: float | None) -> float:
        """When a value ends: as late as may be, and every second time as early."""
        if ttl is None:
            return math.inf

        kept = max(ttl, self.limits.min_ttl)
        early_or_late = self.limits.ttl_resolution if self.number % 2 else -self.limits.ttl_resolution
        return self.clock.now() + (kept + early_or_late)


class ReplicatedStore:
    """A client: it reads from a replica, but never less than it wrote itself."""

    def __init__(self, primary: Primary, tenant_id: str | None, capabilities: Collection[str], *, reachable: bool = True) -> None:
        if tenant_id is not None and (not isinstance(tenant_id, str) or not tenant_id.strip() or not _is_text(tenant_id)):
            raise BadTokenError("a tenant is text that is not blank") from SqlStateError("3F000")

        self._primary = primary
        self._tenant = tenant_id
        self._reachable = reachable
        self._wrote: dict[Cell, int] = {}
        self._closed = False
        self._capabilities = frozenset(capabilities)

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    @property
    def limits(self) -> Limits:
        return self._primary.limits

    async def close(self) -> None:
        self._closed = True
        self._primary.notify()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # Core and ttl

    async def get(self, key: str) -> str | None:
        data = await self.get_bytes(key)
        return None if data is None else self._text(key, data)

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        cell, data = self._cell(key), self._data(key, value)
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= 1e9):
            raise BadTokenError(f"key {key!r}: {ttl!r} is no time to live") from SqlStateError("22023")
        await self._turn()
        self._commit(cell, data, self._primary.end_of(ttl))

    async def delete(self, key: str) -> None:
        cell = self._cell(key)
        await self._turn()
        self._commit(cell, None)

    async def expires_in(self, key: str) -> float | None:
        cell = self._cell(key)
        await self._turn()
        found = self._found(cell)
        if found is None:
            raise NoRowError(f"key {key!r} is absent") from SqlStateError("02000")
        return None if found.until == math.inf else found.until - self._primary.clock.now()

    # compare_and_set

    async def get_entry(self, key: str) -> Entry | None:
        cell = self._cell(key)
        await self._turn()
        found = self._found(cell)
        return None if found is None or found.data is None else Entry(self._text(key, found.data), found.version)

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        cell, data = self._cell(key), self._data(key, value)
        self._check_version(key, expected)
        await self._turn()
        self._compare(key, cell, expected)
        return self._commit(cell, data).version

    async def compare_and_delete(self, key: str, expected: str) -> None:
        cell = self._cell(key)
        self._check_version(key, expected)
        await self._turn()
        self._compare(key, cell, expected)
        self._commit(cell, None)

    # list_prefix: in the order of a hash, a page of `limits.page_size` at a time

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        if prefix:
            self._cell(prefix)
        after = ""
        while True:
            await self._turn()
            own = {_digest(cell.name): cell for cell in self._primary.log if cell.tenant == self._tenant}
            live = sorted(digest for digest, cell in own.items() if cell.name.startswith(prefix) and self._found(cell))
            page = [digest for digest in live if digest > after][: self.limits.page_size]
            if not page:
                return
            for digest in page:
                yield own[digest].name
            after = page[-1]

    # batch: a request for each `limits.batch_size` keys, so that others come in between

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        return {key: await self.get(key) for key in self._keys(keys)}

    async def set_many(self, items: Mapping[str, str]) -> None:
        if not isinstance(items, Mapping):
            raise BadTokenError(f"items are a mapping, not {type(items).__name__}")
        checked = {self._cell(key): self._data(key, value) for key, value in items.items()}
        for cell, data in checked.items():
            await self._turn()
            self._commit(cell, data)

    async def delete_many(self, keys: Iterable[str]) -> None:
        for key in self._keys(keys):
            await self.delete(key)

    # counter

    async def increment(self, key: str, delta: int = 1) -> int:
        cell = self._cell(key)
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise BadTokenError(f"key {key!r}: a delta is an integer") from SqlStateError("22023")
        await self._turn()
        held = self._primary.newest(cell)
        text = b"0" if held is None or held.data is None else held.data
        try:
            total = int(text) + delta
        except ValueError:
            total = None
        if total is None or str(int(text)).encode() != text or not -(2**63) <= total < 2**63:
            raise BadTokenError(f"key {key!r} holds no integer, or the sum is none of 64 bits") from SqlStateError("22003")
        self._commit(cell, str(total).encode(), math.inf if held is None else held.until)
        return total

    # watch: what is told is the state that a key has now, so that states in quick succession are told once

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[AsyncIterator[Change]]:
        if prefix:
            self._cell(prefix)
        await self._turn()
        event = anyio.Event()
        self._primary.watching.append(event)
        told = {"": self._primary.number}
        try:
            yield self._changes(prefix, told)
        finally:
            self._primary.watching.remove(event)

    async def _changes(self, prefix: str, told: dict[str, int]) -> AsyncIterator[Change]:
        while not self._closed:
            for cell in list(self._primary.log):
                state = self._state(cell)
                if cell.tenant != self._tenant or not cell.name.startswith(prefix) or state is None:
                    continue
                if state.number > told.get(cell.name, told[""]):
                    told[cell.name] = state.number
                    yield Change(cell.name, None if state.data is None else state.data.decode(errors="replace"))
            await self._news()

    async def _news(self) -> None:
        """Wait for a commit, for the passing of time, or for the end of this client."""
        event = anyio.Event()
        self._primary.watching.append(event)
        try:
            await event.wait()
        finally:
            self._primary.watching.remove(event)

    # transaction

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        steps = [(op, self._cell(op.key), self._step_data(op)) for op in ops]
        await self._turn()
        after: dict[Cell, bytes | None] = {}
        for op, cell, data in steps:
            held = self._primary.newest(cell)
            if not isinstance(op, Expect):
                after[cell] = data
            elif after.get(cell, None if held is None else held.data) != data:
                raise StaleRowError(f"key {op.key!r} does not hold what was expected", "40001") from SqlStateError("40001")
        for cell, data in after.items():
            self._commit(cell, data)

    # binary

    async def get_bytes(self, key: str) -> bytes | None:
        cell = self._cell(key)
        await self._turn()
        found = self._found(cell)
        return None if found is None else found.data

    async def set_bytes(self, key: str, value: bytes) -> None:
        cell = self._cell(key)
        if not isinstance(value, bytes):
            raise BadTokenError(f"key {key!r}: the value is no bytes") from SqlStateError("22021")
        self._check_size(key, value)
        await self._turn()
        self._commit(cell, value)

    # What the operations share

    async def _turn(self) -> None:
        for _ in range(2):
            if self._closed:
                raise GoneError("the session has ended") from SqlStateError("08003")
            if not self._reachable:
                raise NoRouteError("no node answers") from ConnectionRefusedError(111, "connection refused")
            await anyio.lowlevel.checkpoint()

    def _commit(self, cell: Cell, data: bytes | None, until: float = math.inf) -> Commit:
        commit = self._primary.commit(cell, data, until)
        self._wrote[cell] = commit.number
        return commit

    def _state(self, cell: Cell) -> Commit | None:
        """The last commit that the replica has, or one that this client made since."""
        behind = self._primary.clock.now() - self.limits.staleness
        own = self._wrote.get(cell, 0)
        commits = reversed(self._primary.log.get(cell, []))
        return next((each for each in commits if each.at <= behind or each.number <= own), None)

    def _found(self, cell: Cell) -> Commit | None:
        return self._primary.alive(self._state(cell))

    def _compare(self, key: str, cell: Cell, expected: str | None) -> None:
        held = self._primary.newest(cell)
        if (None if held is None else held.version) != expected:
            raise StaleRowError(f"key {key!r} has another version, or none", "40001") from SqlStateError("40001")

    def _check_version(self, key: str, expected: object) -> None:
        digest = expected.lstrip("=") if isinstance(expected, str) else ""
        if expected is not None and (len(digest) < 16 or not set(digest) <= set("0123456789abcdef")):
            raise BadTokenError(f"key {key!r}: this is no version") from SqlStateError("22P02")

    def _cell(self, key: object) -> Cell:
        if not isinstance(key, str) or not key or not _is_text(key):
            raise BadTokenError(f"key {key!r} is no text of one character or more") from SqlStateError("22021")
        if len(key.encode()) > self.limits.key_bytes:
            raise OverlongError(f"key {key!r} is longer than {self.limits.key_bytes} bytes") from SqlStateError("22001")
        return Cell(self._tenant, key)

    def _keys(self, keys: Iterable[str]) -> list[str]:
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise BadTokenError(f"keys are several, not {type(keys).__name__}") from SqlStateError("22023")
        return list(dict.fromkeys(self._cell(key).name for key in keys))

    def _data(self, key: str, value: object) -> bytes:
        try:
            data = value.encode() if isinstance(value, str) else None
        except UnicodeEncodeError:
            data = None
        if data is None:
            raise BadTokenError(f"key {key!r}: the value is no text") from SqlStateError("22021")
        self._check_size(key, data)
        return data

    def _check_size(self, key: str, data: bytes) -> None:
        if len(data) > self.limits.value_bytes:
            raise OverlongError(f"key {key!r}: the value is longer than {self.limits.value_bytes} bytes") from SqlStateError(
                "22001"
            )

    def _text(self, key: str, data: bytes) -> str:
        with suppress(UnicodeDecodeError):
            return data.decode()
        raise BadTokenError(f"key {key!r} holds bytes that are no text") from SqlStateError("22021")

    def _step_data(self, op: Put | Remove | Expect) -> bytes | None:
        if not isinstance(op, Put | Remove | Expect):
            raise BadTokenError(f"a step is a Put, a Remove or an Expect, not {type(op).__name__}") from SqlStateError("42601")
        if isinstance(op, Remove) or (isinstance(op, Expect) and op.value is None):
            return None
        return self._data(op.key, op.value)


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _is_text(text: str) -> bool:
    """Whether *text* holds neither U+0000 nor a lone surrogate."""
    return "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


@unusual
class Replicated(KVStoreContract, MultiTenancyPolicy):
    """Replicas lag, and values expire, to the very end of what is declared, which is the most that may be, and pages hold one.

    Errors are subclasses with a vendor's cause, versions are opaque and checked by their form, and a watcher is told of the state
    that a key has come to. Whoever looks through another client a moment too early, compares names of errors, or counts on more
    than one page rejects it.
    """

    capabilities = frozenset(
        "compare_and_set ttl list_prefix batch counter watch transaction binary "
        "shared lifecycle validation limits availability".split()
    )
    limits = Limits(min_ttl=60, ttl_resolution=60, staleness=60, page_size=1, batch_size=1)

    def setUp(self) -> None:
        self.primary = Primary(ManualClock(), self.limits)

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> ReplicatedStore:
        return ReplicatedStore(self.primary, tenant_id, self.declared)

    async def unreachable_provider(self) -> ReplicatedStore:
        return ReplicatedStore(self.primary, None, self.declared, reachable=False)

    async def advance(self, seconds: float) -> None:
        self.primary.clock.advance(seconds)
        self.primary.notify()


# A store that carries out in groups what it is asked for.


class GroupingStore(GroupingClient[MemoryKVStore]):
    """A client whose requests are carried out in groups."""

    async def get(self, key: str) -> str | None:
        return await self._ask(partial(self._inner.get, key))

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        await self._ask(partial(self._inner.set, key, value, ttl=ttl))

    async def delete(self, key: str) -> None:
        await self._ask(partial(self._inner.delete, key))

    async def expires_in(self, key: str) -> float | None:
        return await self._ask(partial(self._inner.expires_in, key))

    async def get_entry(self, key: str) -> Entry | None:
        return await self._ask(partial(self._inner.get_entry, key))

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        return await self._ask(partial(self._inner.compare_and_set, key, value, expected))

    async def compare_and_delete(self, key: str, expected: str) -> None:
        await self._ask(partial(self._inner.compare_and_delete, key, expected))

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        return await self._ask(partial(self._inner.get_many, keys))

    async def set_many(self, items: Mapping[str, str]) -> None:
        await self._ask(partial(self._inner.set_many, copy(items)))

    async def delete_many(self, keys: Iterable[str]) -> None:
        await self._ask(partial(self._inner.delete_many, keys))

    async def increment(self, key: str, delta: int = 1) -> int:
        return await self._ask(partial(self._inner.increment, key, delta))

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        await self._ask(partial(self._inner.transact, copy(ops)))

    async def get_bytes(self, key: str) -> bytes | None:
        return await self._ask(partial(self._inner.get_bytes, key))

    async def set_bytes(self, key: str, value: bytes) -> None:
        await self._ask(partial(self._inner.set_bytes, key, value))

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        return self._inner.watch(prefix)

    def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        return self._iterate(partial(self._inner.list_keys, prefix))


class CountingBackend(MemoryBackend):
    """A server whose versions count the writes of each key, from 0; who deletes a key and creates it again goes on counting."""

    def put(self, cell: Cell, value: bytes, deadline: float | None) -> int:
        self.versions = self.counts.get(cell, -1)
        self.counts[cell] = super().put(cell, value, deadline)
        return self.counts[cell]

    @cached_property
    def counts(self) -> dict[Cell, int]:
        """The last version of each key that ever was."""
        return {}


@unusual
class Grouped(KVStoreContract, MultiTenancyPolicy):
    """A worker of the client's own collects requests for 3 ms and answers them together, each up to 20 ms after it was asked.

    To connect takes a tenth of a second, a listing is fetched ahead, and versions begin with 0. Whoever counts turns of the event
    loop, closes a client in another task than it opened it in, or takes "0" for no version rejects it.
    """

    capabilities = MemoryKVStore.everything
    limits = Limits(min_ttl=0.05, ttl_resolution=0.02, page_size=7, batch_size=3)

    def setUp(self) -> None:
        self.server = CountingBackend(limits=self.limits)
        self.chance = random.Random(7)

    async def make_provider(
        self, *, tenant_id: str | None = None, **config: object
    ) -> AbstractAsyncContextManager[GroupingStore]:
        return connected(GroupingStore, MemoryKVStore(self.server, tenant_id=tenant_id, capabilities=self.declared), self.chance)

    async def unreachable_provider(self) -> AbstractAsyncContextManager[GroupingStore]:
        return connected(GroupingStore, MemoryKVStore(MemoryBackend(reachable=False), capabilities=self.declared), self.chance)


# A store at the other end of a wire.


class ReconnectingStore(WireClient):
    """A client that waits while there is no network."""

    limits = Limits()

    async def get(self, key: str) -> str | None:
        return await self.ask("get", self._checked(key))

    async def set(self, key: str, value: str) -> None:
        key = self._checked(key)
        if not isinstance(value, str) or any("\ud800" <= each <= "\udfff" for each in value):
            raise InvalidArgumentError(f"key {key!r}: the value is no text")
        if len(value.encode()) > self.limits.value_bytes:
            raise TooLargeError(f"key {key!r}: the value is longer than {self.limits.value_bytes} bytes")
        await self.ask("set", key, value)

    async def delete(self, key: str) -> None:
        await self.ask("delete", self._checked(key))

    def _checked(self, key: str) -> str:
        if not isinstance(key, str) or not key or not _is_text(key):
            raise InvalidArgumentError(f"key {key!r} is no text of one character or more")
        if len(key.encode()) > self.limits.key_bytes:
            raise TooLargeError(f"key {key!r} is longer than {self.limits.key_bytes} bytes")
        return key


@unusual
class Reconnecting(WireHooks, KVStoreContract):
    """A client at the end of a wire that connects when it is first asked, and waits for the network rather than raise.

    It gives up in good time. Whoever expects an error at once, or mends the network only after one, rejects it.
    """

    capabilities = ("shared", "lifecycle", "validation", "limits", "availability")
    client = ReconnectingStore


# A store in threads, whose copy of what others write is late.


class LaggingThreads:
    """A client that does its work in threads, which go on when the caller has gone: a write that was cancelled may come later.

    What others wrote it sees `limits.staleness` seconds later, on the clock of this machine.
    """

    limits = Limits(staleness=0.2)

    def __init__(self, log: dict[str, list[tuple[float, object, str | None]]], lock: threading.Lock) -> None:
        self._log = log
        """Of each key its states, with the time and the client of each; guarded by the lock."""
        self._lock = lock
        self._chance = random.Random(7)

    async def get(self, key: str) -> str | None:
        return await self._in_thread(partial(self._get, key))

    async def set(self, key: str, value: str) -> None:
        await self._in_thread(partial(self._append, key, value))

    async def delete(self, key: str) -> None:
        await self._in_thread(partial(self._append, key, None))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        seconds = self._chance.uniform(0, 0.01)

        def late() -> T:
            time.sleep(seconds)
            with self._lock:
                return work()

        return await anyio.to_thread.run_sync(late, abandon_on_cancel=True)

    def _get(self, key: str) -> str | None:
        behind = time.monotonic() - self.limits.staleness
        states = reversed(self._log.get(key, []))
        return next((value for at, client, value in states if client is self or at <= behind), None)

    def _append(self, key: str, value: str | None) -> None:
        self._log.setdefault(key, []).append((time.monotonic(), self, value))


@unusual
class Lagging(KVStoreContract):
    """The core, in threads: a write that was cancelled arrives all the same, and others see a write 0.2 s later.

    Whoever looks through another client at once, or takes a cancelled write for one that never was, rejects it.
    """

    capabilities = {"shared"}

    def setUp(self) -> None:
        self.log: dict[str, list[tuple[float, object, str | None]]] = {}
        self.lock = threading.Lock()

    async def make_provider(self, **config: object) -> KVStoreProtocol:
        return LaggingThreads(self.log, self.lock)


# A store behind others, which has no limits to speak of.


@dataclass(frozen=True, slots=True)
class TaggedEntry(Entry):
    """An entry with more in it."""

    tags: tuple[str, ...] = ()


class OptionedStore(MemoryKVStore):
    """The reference, with more parameters than the standard asks for, and more in its results."""

    async def get(self, key: str, consistency: str = "strong", **options: object) -> str | None:
        self._refuse(options)
        return await super().get(key)

    async def set(self, key: str, value: str, *, ttl: float | None = None, priority: int = 0, **options: object) -> None:
        self._refuse(options)
        await super().set(key, value, ttl=ttl)

    async def delete(self, key: str, **options: object) -> None:
        self._refuse(options)
        await super().delete(key)

    async def get_entry(self, key: str, **options: object) -> Entry | None:
        self._refuse(options)
        entry = await super().get_entry(key)
        return None if entry is None else TaggedEntry(entry.value, entry.version, ("a", "b"))

    async def get_many(self, keys: Iterable[str], **options: object) -> dict[str, str | None]:
        self._refuse(options)
        return OrderedDict(reversed((await super().get_many(keys)).items()))

    async def list_keys(self, prefix: str = "", **options: object) -> AsyncIterator[str]:
        self._refuse(options)
        for key in sorted([key async for key in super().list_keys(prefix)], key=_digest):
            yield key

    def _refuse(self, options: Mapping[str, object]) -> None:
        if options:
            raise UnsupportedError(f"this store has no {', '.join(options)}")


@unusual
class Unlimited(KVStoreContract):
    """Numbers that are as large as an integer of 32 or 64 bits, and times that are exact, behind a delegate without a dictionary.

    Its methods have a decorator and more parameters than they need, its results are of subclasses, and what is not declared is
    there and refuses. Whoever fills a whole page, looks for methods on a class, or keeps anything on the client rejects it.
    """

    capabilities = frozenset("compare_and_set ttl list_prefix batch counter shared validation limits".split())
    limits = Limits(
        key_bytes=2**31 - 1,
        value_bytes=2**63 - 1,
        min_ttl=0,
        ttl_resolution=0,
        page_size=2**31 - 1,
        batch_size=2**31 - 1,
    )

    def setUp(self) -> None:
        self.server = MemoryBackend(limits=self.limits)

    async def make_provider(self, **config: object) -> Facade:
        return Facade(OptionedStore(self.server, capabilities=self.declared))
