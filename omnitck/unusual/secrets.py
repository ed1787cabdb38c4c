"""Correct but unusual sources of secrets."""

import hashlib
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import anyio
import anyio.lowlevel

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.secrets import SecretsContract, SecretsProtocol
from omnitck.reference.client import Cell
from omnitck.reference.secrets import MemorySecrets, MemorySecretsBackend
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    PermissionDeniedError,
    SecretNotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import SecretLimits
from omnitck.unusual import unusual
from omnitck.unusual.clients import CONNECT_SECONDS, Facade, GroupingClient
from omnitck.unusual.wire import WireClient, WireHooks


class Dictionary:
    """The plainest source: one method, over a dictionary that somebody else fills."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    async def get(self, name: str) -> str:
        if name not in self._values:
            raise SecretNotFoundError(f"there is no secret {name!r}")
        return self._values[name]


@unusual
class Plainest(SecretsContract):
    """One method over a dictionary: no capability, no limits, no method that closes, and never a turn of the event loop.

    A rule that needs more than the core demands would reject it.
    """

    def setUp(self) -> None:
        self.values: dict[str, str] = {}

    async def make_provider(self, **config: object) -> SecretsProtocol:
        return Dictionary(self.values)

    async def provision(self, name: str, value: Any, *, tenant_id: str | None = None) -> None:
        self.values[name] = value

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        self.values.pop(name, None)


@unusual
class Mounted(SecretsContract):
    """Four secrets that exist already, in a view that nobody can write: one is empty, one is a word, and two are alike.

    Whoever needs a fresh secret, or looks for a value that is found everywhere, rejects it.
    """

    provisioned = MappingProxyType(
        {"db/password": "s3cr3t of length", "db/password.old": "s3cr3t of length", "feature": "on", "proxy": ""}
    )

    async def make_provider(self, **config: object) -> SecretsProtocol:
        return Dictionary(self.provisioned)


# A source whose clients read snapshots of replicas, to the very end of what is declared.


class NoSuchSecretError(SecretNotFoundError):
    """The standard's error, with the vendor's code."""

    code = "ResourceNotFoundException"


class RejectedError(InvalidArgumentError):
    """What the vendor's validation says."""


class OversizeError(TooLargeError):
    """More than a secret may hold."""


class ExpiredSessionError(ClosedError):
    """The session has ended."""


class NoEndpointError(UnavailableError):
    """No endpoint of the region answers."""


class AccessDeniedError(PermissionDeniedError):
    """The role may not do this."""


class VendorError(Exception):
    """What an SDK raises."""


@dataclass(frozen=True, slots=True)
class Change:
    """One state of a secret, which stays in the log: a removal is one without data."""

    number: int
    at: float
    data: bytes | None = field(repr=False)

    @property
    def id(self) -> str:
        """Opaque, in no order, and of a length that changes."""
        return (
            f"v{self.number % 7 * '.'}{hashlib.blake2b(str(self.number).encode(), digest_size=8 + self.number % 5).hexdigest()}"
        )


@dataclass(eq=False)
class Region:
    """The log of all changes. They are made at a primary, and are at the replicas `limits.staleness` later."""

    clock: ManualClock
    limits: SecretLimits
    log: dict[Cell, list[Change]] = field(default_factory=dict, repr=False)
    number: int = 0
    up: bool = True
    listening: list[anyio.Event] = field(default_factory=list, repr=False)

    def notify(self) -> None:
        """Let who watches look again: something was changed, or the replicas have one more change."""
        for each in self.listening:
            each.set()

    def change(self, cell: Cell, data: bytes | None) -> Change:
        """Append a state. Numbers have gaps, as those of a sequence have."""
        self.number += 1 + self.number % 3
        change = Change(self.number, self.clock.now(), data)
        self.log.setdefault(cell, []).append(change)
        self.notify()
        return change


class SnapshotSecrets:
    """A client that loads everything when it is asked for one secret, and answers from that for `limits.cache_seconds`.

    What it writes itself it knows at once.
    """

    def __init__(
        self, region: Region, tenant_id: str | None, capabilities: Collection[str], *, up: bool = True, may: bool = True
    ) -> None:
        if tenant_id is not None and (not isinstance(tenant_id, str) or not tenant_id.strip() or not _is_text(tenant_id)):
            raise RejectedError("a tenant is text that is not blank")

        self._region = region
        self._tenant = tenant_id
        self._up = up
        self._may = may
        self._closed = False
        self._wrote: dict[Cell, int] = {}
        self._known: dict[Cell, tuple[bytes | None, float]] = {}
        """What was written by this client, and until when it need not ask for it."""
        self._loaded: dict[Cell, bytes] = {}
        self._loaded_until = 0.0
        self.capabilities = frozenset(capabilities)
        self.limits = region.limits

    async def close(self) -> None:
        self._closed = True
        self._known.clear()
        self._loaded.clear()
        self._region.notify()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # Core, versioning and binary

    async def get(self, name: str, *, version: str | None = None) -> str:
        if version is None:
            return self._text(name, await self.get_bytes(name))
        if not isinstance(version, str):
            raise RejectedError(f"secret {name!r}: a version is text")
        cell = self._cell(name)
        await self._turn()
        for each in self._versions(cell):
            if each.id == version:
                return self._text(name, each.data or b"")
        raise NoSuchSecretError(f"secret {name!r} has no version {version!r}") from VendorError("404")

    async def get_bytes(self, name: str) -> bytes:
        await self._load(self._cell(name))
        return self._current(name)

    async def list_versions(self, name: str) -> list[str]:
        cell = self._cell(name)
        await self._turn()
        ids = [each.id for each in self._versions(cell)]
        if not ids:
            raise NoSuchSecretError(f"secret {name!r} does not exist") from VendorError("404")
        return ids

    # write

    async def set(self, name: str, value: str) -> str:
        self._need_write()
        cell, data = self._cell(name), self._data(name, value)
        await self._turn()
        return self._change(cell, data).id

    async def delete(self, name: str) -> None:
        self._need_write()
        cell = self._cell(name)
        await self._turn()
        self._change(cell, None)

    # list_prefix: in the order of a hash, a page of `limits.page_size` at a time

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        if prefix:
            self._cell(prefix)
        after = ""
        while True:
            await self._turn()
            own = {_digest(cell.name): cell for cell in self._region.log if cell.tenant == self._tenant}
            live = sorted(digest for digest, cell in own.items() if cell.name.startswith(prefix) and self._versions(cell))
            page = [digest for digest in live if digest > after][: self.limits.page_size]
            if not page:
                return
            for digest in page:
                yield own[digest].name
            after = page[-1]

    # batch

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise RejectedError(f"names are several, not {type(names).__name__}")
        cells = list(dict.fromkeys(self._cell(name) for name in names))
        missing = []
        for cell in cells:
            await self._load(cell)
            if self._held(cell) is None:
                missing.append(cell.name)
        if missing:
            raise NoSuchSecretError(f"secrets {', '.join(map(repr, missing))} do not exist") from VendorError("404")
        return OrderedDict((cell.name, self._text(cell.name, self._current(cell.name))) for cell in reversed(cells))

    # watch: what is told is the value that the secret has now, so that changes in quick succession are told once

    @asynccontextmanager
    async def watch(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        cell = self._cell(name)
        await self._turn()
        if not self._versions(cell):
            raise NoSuchSecretError(f"secret {name!r} does not exist") from VendorError("404")
        event = anyio.Event()
        self._region.listening.append(event)
        try:
            yield self._values(name, cell, self._region.number)
        finally:
            self._region.listening.remove(event)

    async def _values(self, name: str, cell: Cell, told: int) -> AsyncIterator[str]:
        while not self._closed:
            state = self._state(cell)
            if state is not None and state.number > told:
                told = state.number
                self._known[cell] = (state.data, self._fresh_until())
                yield self._text(name, self._current(name))
            else:
                await self._news()

    async def _news(self) -> None:
        """Wait for a change, for the passing of time, or for the end of this client."""
        event = anyio.Event()
        self._region.listening.append(event)
        try:
            await event.wait()
        finally:
            self._region.listening.remove(event)

    # What the operations share

    async def _turn(self) -> None:
        for _ in range(2):
            self._check_open()
            if not self._up or not self._region.up:
                raise NoEndpointError("no endpoint of the region answers") from ConnectionRefusedError(111, "connection refused")
            if not self._may:
                raise AccessDeniedError("the role may not do this") from VendorError("403")
            await anyio.lowlevel.checkpoint()

    def _need_write(self) -> None:
        if "write" not in self.capabilities:
            raise UnsupportedError("the role may only read")

    def _check_open(self) -> None:
        if self._closed:
            raise ExpiredSessionError("the session has ended") from VendorError("ExpiredToken")

    async def _load(self, cell: Cell) -> None:
        """See to it that what is known of *cell* is no older than it may be: load everything, if it is."""
        self._check_open()
        now = self._region.clock.now()
        if now < self._loaded_until or now < self._known.get(cell, (None, 0.0))[1]:
            return
        await self._turn()
        self._loaded = {
            each: versions[0].data or b""
            for each in self._region.log
            if each.tenant == self._tenant and (versions := self._versions(each))
        }
        self._loaded_until = self._fresh_until()

    def _held(self, cell: Cell) -> bytes | None:
        """What this client takes for the value of *cell*."""
        data, until = self._known.get(cell, (None, 0.0))
        return data if self._region.clock.now() < until else self._loaded.get(cell)

    def _current(self, name: str) -> bytes:
        data = self._held(self._cell(name))
        if data is None:
            raise NoSuchSecretError(f"secret {name!r} does not exist") from VendorError("404")
        return data

    def _fresh_until(self) -> float:
        return self._region.clock.now() + self.limits.cache_seconds

    def _change(self, cell: Cell, data: bytes | None) -> Change:
        change = self._region.change(cell, data)
        self._wrote[cell] = change.number
        self._known[cell] = (data, self._fresh_until())
        self._loaded_until = 0.0  # It would not hold this, and must not come back when this is no longer known.
        return change

    def _states(self, cell: Cell) -> list[Change]:
        """What the replica has of a secret, and what this client has made of it since."""
        behind = self._region.clock.now() - self.limits.staleness
        own = self._wrote.get(cell, 0)
        return [each for each in self._region.log.get(cell, []) if each.at <= behind or each.number <= own]

    def _state(self, cell: Cell) -> Change | None:
        return next(reversed(self._states(cell)), None)

    def _versions(self, cell: Cell) -> list[Change]:
        """The versions that are there, the newest first: of all those since the last removal two are kept."""
        versions: list[Change] = []
        for each in reversed(self._states(cell)):
            if each.data is None:
                break
            versions.append(each)
        return versions[:2]

    def _cell(self, name: object) -> Cell:
        if not isinstance(name, str) or not name or not _is_text(name):
            raise RejectedError(f"name {name!r} is no text of one character or more")
        if len(name.encode()) > self.limits.key_bytes:
            raise OversizeError(f"name {name!r} is longer than {self.limits.key_bytes} bytes")
        return Cell(self._tenant, name)

    def _data(self, name: str, value: object) -> bytes:
        if isinstance(value, str):
            with suppress(UnicodeEncodeError):
                data = value.encode()
                if len(data) <= self.limits.value_bytes:
                    return data
                raise OversizeError(f"secret {name!r}: the value is longer than {self.limits.value_bytes} bytes")
        raise RejectedError(f"secret {name!r}: the value is no text")

    def _text(self, name: str, data: bytes) -> str:
        with suppress(UnicodeDecodeError):
            return data.decode()
        del data  # An error tracker would show it.
        raise RejectedError(f"secret {name!r} is no text")


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _is_text(text: str) -> bool:
    """Whether *text* holds neither U+0000 nor a lone surrogate."""
    return "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


@unusual
class Snapshots(SecretsContract, MultiTenancyPolicy):
    """A client loads all secrets when it is asked for one, and answers from that, about absence too, for as long as it may.

    Replicas lag as long as they may, pages and batches hold one, old versions are forgotten, versions are opaque, errors are
    subclasses with a vendor's cause, and what a client wrote it remembers through an outage. Whoever looks a moment too early, or
    thinks that who was not asked about a secret knows nothing of it, rejects it.
    """

    capabilities = frozenset(
        "write versioning list_prefix batch watch binary quiet_debug lifecycle validation shared availability limits".split()
    )
    limits = SecretLimits(staleness=60, cache_seconds=3600, page_size=1, batch_size=1)

    def setUp(self) -> None:
        self.region = Region(ManualClock(), self.limits)

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> SnapshotSecrets:
        return SnapshotSecrets(self.region, tenant_id, self.declared)

    async def unreachable_provider(self) -> SnapshotSecrets:
        return SnapshotSecrets(self.region, None, self.declared, up=False)

    async def unauthorized_provider(self) -> SnapshotSecrets:
        return SnapshotSecrets(self.region, None, self.declared, may=False)

    async def provision(self, name: str, value: Any, *, tenant_id: str | None = None) -> None:
        self.region.change(Cell(tenant_id, name), value.encode() if isinstance(value, str) else value)

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        self.region.change(Cell(tenant_id, name), None)

    async def advance(self, seconds: float) -> None:
        self.region.clock.advance(seconds)
        self.region.notify()

    async def cut(self) -> None:
        self.region.up = False

    async def heal(self) -> None:
        self.region.up = True


@unusual
class ReadOnlySnapshots(Snapshots):
    """The same, for an application that may not write: what changes does so behind the back of every client."""

    capabilities = frozenset("versioning list_prefix batch watch binary lifecycle validation shared availability limits".split())


# A source whose clients are opened once, by their context, and carry out in groups what they are asked for.


class GroupingSecrets(GroupingClient[MemorySecrets]):
    """A client whose tasks live in its own context, which is entered once; to do so is to connect, and may fail."""

    def __init__(self, inner: MemorySecrets, chance: random.Random) -> None:
        self._unopened: list[tuple[MemorySecrets, random.Random]] = [(inner, chance)]
        self._context = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        inner, chance = self._unopened.pop()
        await anyio.sleep(CONNECT_SECONDS)
        inner.check_usable()
        super().__init__(inner, await self._context.__aenter__(), chance)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()
        await self._context.__aexit__(None, None, None)

    async def get(self, name: str, *, version: str | None = None) -> str:
        return await self._ask(partial(self._inner.get, name, version=version))

    async def get_bytes(self, name: str) -> bytes:
        return await self._ask(partial(self._inner.get_bytes, name))

    async def set(self, name: str, value: str) -> str:
        return await self._ask(partial(self._inner.set, name, value))

    async def delete(self, name: str) -> None:
        await self._ask(partial(self._inner.delete, name))

    async def list_versions(self, name: str) -> list[str]:
        return await self._ask(partial(self._inner.list_versions, name))

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        return await self._ask(partial(self._inner.get_many, names))

    def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        return self._iterate(partial(self._inner.list_names, prefix))

    def watch(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._inner.watch(name)


@dataclass(eq=False, kw_only=True)
class CountingBackend(MemorySecretsBackend):
    """A server whose versions count the changes of each secret, from 0; a name that is used again goes on counting."""

    counts: dict[Cell, int] = field(default_factory=dict)

    def put(self, cell: Cell, data: bytes) -> str:
        self.versions = self.counts.get(cell, -1)
        id = super().put(cell, data)
        self.counts[cell] = self.versions
        return id


@unusual
class Grouped(SecretsContract):
    """A worker of the client's own collects requests for 3 ms and answers them together, each up to 20 ms after it was asked.

    A client connects when its context is entered, which it bears once; without its backend or rights that fails. Versions begin
    with 0. Whoever enters a client twice, wants it before it has connected, or takes "0" for no version rejects it.
    """

    capabilities = frozenset(
        "write versioning list_prefix batch watch binary lifecycle validation shared availability limits".split()
    )
    limits = SecretLimits(page_size=7, batch_size=3)

    def setUp(self) -> None:
        self.server = CountingBackend(limits=self.limits)
        self.chance = random.Random(7)

    async def make_provider(self, **config: object) -> GroupingSecrets:
        return GroupingSecrets(MemorySecrets(self.server, capabilities=self.declared), self.chance)

    async def unreachable_provider(self) -> GroupingSecrets:
        unreachable = MemorySecretsBackend(reachable=False)
        return GroupingSecrets(MemorySecrets(unreachable, capabilities=self.declared), self.chance)

    async def unauthorized_provider(self) -> GroupingSecrets:
        return GroupingSecrets(MemorySecrets(self.server, capabilities=self.declared, may_enter=False), self.chance)


# A source at the other end of a wire, which is not asked for what is remembered.


class RememberingSecrets(WireClient):
    """A client that waits while there is no network, unless it remembers the answer."""

    limits = SecretLimits(cache_seconds=0.3)

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self._remembered: dict[str, tuple[str, float]] = {}

    async def get(self, name: str) -> str:
        if self._closed:
            raise ClosedError("this client is closed")
        value, until = self._remembered.get(name, ("", 0.0))
        asked = time.monotonic()
        if asked < until:
            return value
        found = await self.ask("get", name)
        if found is None:
            raise SecretNotFoundError(f"there is no secret {name!r}")
        self._remembered[name] = (found, asked + self.limits.cache_seconds)
        return found

    async def set(self, name: str, value: str) -> str:
        await self.ask("set", name, value)
        self._remembered[name] = (value, time.monotonic() + self.limits.cache_seconds)
        return ""

    async def delete(self, name: str) -> None:
        await self.ask("delete", name)
        self._remembered.pop(name, None)


@unusual
class Remembering(WireHooks, SecretsContract):
    """A client that remembers for 0.3 s what it has read or written, and so answers without any network.

    Otherwise it waits for the network, and gives up in good time. Whoever cuts the wire, and expects an error of all that was
    asked before, rejects it.
    """

    capabilities = ("write", "shared", "lifecycle", "availability")
    client = RememberingSecrets


# A source behind others, which has no limits to speak of.


class OptionedSecrets(MemorySecrets):
    """The reference, with more parameters than the standard asks for."""

    async def get(self, name: str, default: None = None, *, version: str | None = None, **options: object) -> str:
        self._refuse(options)
        return await super().get(name, version=version)

    async def set(self, name: str, value: str, description: str = "", **options: object) -> str:
        self._refuse(options)
        return await super().set(name, value)

    async def delete(self, name: str, recovery_days: int = 0, **options: object) -> None:
        self._refuse(options)
        await super().delete(name)

    def _refuse(self, options: Mapping[str, object]) -> None:
        if options:
            raise UnsupportedError(f"this source has no {', '.join(options)}")


@unusual
class Unlimited(SecretsContract):
    """Numbers that are as large as an integer of 32 or 64 bits, behind a delegate without a dictionary.

    Its methods have a decorator, and more parameters than they need; what is not declared is there, and refuses. A client may
    give out a secret for an hour, which no rule can wait for. Whoever fills a page, or looks for methods on a class, rejects it.
    """

    capabilities = frozenset("write list_prefix batch shared validation limits".split())
    limits = SecretLimits(
        key_bytes=2**31 - 1, value_bytes=2**63 - 1, cache_seconds=3600, page_size=2**31 - 1, batch_size=2**31 - 1
    )

    def setUp(self) -> None:
        self.server = MemorySecretsBackend(limits=self.limits)

    async def make_provider(self, **config: object) -> Facade:
        return Facade(OptionedSecrets(self.server, capabilities=self.declared))
