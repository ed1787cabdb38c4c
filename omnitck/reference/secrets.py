"""A source of secrets in memory with every capability of the contract.

`MemorySecretsBackend` is the server, `MemorySecrets` one client of it.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.exceptions import (
    ClosedError,
    PermissionDeniedError,
    SecretNotFoundError,
)
from omnitck.shared.models import SecretLimits

__all__ = ["CAPABILITIES", "MemorySecrets", "MemorySecretsBackend"]

CAPABILITIES = frozenset(
    "write versioning list_prefix batch watch binary quiet_debug lifecycle validation shared availability limits".split()
)


@dataclass(frozen=True, slots=True)
class _Version:
    id: str
    data: bytes = field(repr=False)


@dataclass(eq=False, slots=True)
class _Watcher:
    client: object
    cell: Cell
    stream: MemoryObjectSendStream[bytes | None]


@dataclass(eq=False, kw_only=True)
class MemorySecretsBackend(MemoryServer):
    """The server: what several clients share, and what can also be changed from outside."""

    limits: SecretLimits = field(default_factory=lambda: SecretLimits(page_size=10, batch_size=10))
    secrets: dict[Cell, tuple[_Version, ...]] = field(default_factory=dict, repr=False)
    """The versions of each secret, the newest first."""
    watchers: list[_Watcher] = field(default_factory=list, repr=False)
    versions: int = 0
    """The last version given out. It never falls."""

    def cells(self) -> list[Cell]:
        """Every cell that holds a secret."""
        return list(self.secrets)

    def find(self, cell: Cell) -> tuple[_Version, ...]:
        """The versions of a secret; none if there is no such secret."""
        return self.secrets.get(cell, ())

    def put(self, cell: Cell, data: bytes) -> str:
        """Store a new version, and tell the watchers."""
        self.versions += 1
        version = _Version(str(self.versions), data)
        self.secrets[cell] = (version, *self.find(cell))
        self.tell(cell, data)
        return version.id

    def remove(self, cell: Cell) -> None:
        """Remove a secret with all its versions, and tell the watchers if there was one."""
        if self.secrets.pop(cell, None) is not None:
            self.tell(cell, None)

    def tell(self, cell: Cell, data: bytes | None) -> None:
        """Hand a change to every watcher of it."""
        for watcher in self.watchers:
            if watcher.cell == cell:
                watcher.stream.send_nowait(data)

    def provision(self, name: str, value: str | bytes, *, tenant_id: str | None = None) -> None:
        """Create or change a secret behind the back of all clients."""
        self.put(Cell(tenant_id, name), value.encode() if isinstance(value, str) else value)

    def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        """Remove a secret behind the back of all clients."""
        self.remove(Cell(tenant_id, name))


class MemorySecrets(MemoryClient[MemorySecretsBackend]):
    """One client. It implements `SecretsProtocol` and every capability that it is told to declare.

    It keeps what it has read for as long as the backend's `cache_seconds` allow.
    """

    everything = CAPABILITIES
    aside = "watch"
    limits: SecretLimits

    def __init__(
        self,
        backend: MemorySecretsBackend,
        *,
        tenant_id: str | None = None,
        password: str | None = None,
        capabilities: Collection[str] | None = None,
        may_enter: bool = True,
    ) -> None:
        """Connect to *backend*, which denies every operation unless the client *may_enter*."""
        super().__init__(backend, tenant_id=tenant_id, password=password, capabilities=capabilities)
        self.may_enter = may_enter
        self.cache: dict[Cell, tuple[bytes, float]] = {}

    # Core

    async def get(self, name: str, *, version: str | None = None) -> str:
        """See `SecretsProtocol.get` and `Versioning.get`."""
        self.check_key(name)
        if version is not None:
            self.check_version(name, version)
            await self.turn()
            return self.text(name, self.version(name, version))

        return self.text(name, await self.current(name))

    async def current(self, name: str) -> bytes:
        """The newest version, from the client's own cache while that is fresh enough."""
        cell = self.cell(name)
        data, until = self.cache.get(cell, (b"", -math.inf))
        if self.backend.clock.now() < until:
            await self.pause()
            return data

        await self.turn()
        data = self.newest(name)
        self.keep(cell, data)
        return data

    # binary

    async def get_bytes(self, name: str) -> bytes:
        """See `Binary.get_bytes`."""
        self.need("binary")
        self.check_key(name)
        return await self.current(name)

    # write

    async def set(self, name: str, value: str) -> str:
        """See `Write.set`."""
        self.need("write")
        self.check_key(name)
        data = self.encoded(name, value)
        await self.turn()
        version = self.put(name, data)
        return version if "versioning" in self.capabilities else ""

    async def delete(self, name: str) -> None:
        """See `Write.delete`."""
        self.need("write")
        self.check_key(name)
        await self.turn()
        self.remove(name)

    # versioning

    async def list_versions(self, name: str) -> list[str]:
        """See `Versioning.list_versions`."""
        self.need("versioning")
        self.check_key(name)
        await self.turn()
        return [each.id for each in self.versions(name)]

    # list_prefix

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Listing.list_names`. Each page starts after the last name of the one before."""
        self.need("list_prefix")
        self.check_prefix(prefix)
        after = ""
        while page := await self.page(prefix, after):
            for name in page:
                yield name
            after = page[-1]

    async def page(self, prefix: str, after: str) -> list[str]:
        """The first names beyond *after*, as many as the backend returns at once."""
        await self.turn()
        return self.following(prefix, after)

    # batch

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        """See `Batch.get_many`."""
        self.need("batch")
        wanted = self.check_keys(names)
        await self.turn()
        missing = [name for name in wanted if not self.backend.find(self.cell(name))]
        if missing:
            raise SecretNotFoundError(f"secrets {', '.join(map(repr, missing))} do not exist")

        return {name: self.text(name, self.newest(name)) for name in wanted}

    # watch

    def watch(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """See `Watch.watch`."""
        self.need("watch")
        self.check_key(name)
        return self.watching(name)

    @asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        """Register with the backend for as long as the context lasts."""
        await self.turn()
        self.versions(name)
        send, receive = anyio.create_memory_object_stream[bytes | None](math.inf)
        watcher = _Watcher(self, self.cell(name), send)
        self.backend.watchers.append(watcher)
        try:
            async with aclosing(self.changes(name, receive)) as changes:
                yield changes
        finally:
            self.end(watcher)
            receive.close()

    async def changes(self, name: str, stream: MemoryObjectReceiveStream[bytes | None]) -> AsyncGenerator[str, None]:
        """Each later value; a removal is an error."""
        async for data in stream:
            self.cache.pop(self.cell(name), None)
            if data is None:
                raise self.absent(name)
            yield self.text(name, data)

    def end(self, watcher: _Watcher) -> None:
        """Nothing more comes; who iterates gets to the end."""
        if watcher in self.backend.watchers:
            self.backend.watchers.remove(watcher)
        watcher.stream.close()

    # lifecycle

    async def close(self) -> None:
        """See `Lifecycle.close`: who watches gets to the end, and nothing is kept."""
        for watcher in [each for each in self.backend.watchers if each.client is self]:
            self.end(watcher)
        self.cache.clear()
        await super().close()

    # What the operations check, and what they do to the backend.

    def check_usable(self) -> None:
        """Refuse a closed client, a backend that does not answer, and who has no rights."""
        super().check_usable()
        if not self.may_enter:
            raise PermissionDeniedError("this client has no right to do this")

    async def pause(self) -> None:
        """One turn that needs no backend."""
        for _ in range(2):
            if self.closed:
                raise ClosedError("this client is closed")
            await anyio.lowlevel.checkpoint()

    def check_version(self, name: str, version: object) -> None:
        """Refuse what is no version."""
        self.need("versioning")
        self.check_text(name, "a version", version)

    def versions(self, name: str) -> tuple[_Version, ...]:
        """All versions of a secret, the newest first."""
        found = self.find(name)
        if not found:
            raise self.absent(name)

        return found

    def version(self, name: str, id: str) -> bytes:
        """The data of one version."""
        for each in self.versions(name):
            if each.id == id:
                return each.data
        raise SecretNotFoundError(f"secret {name!r} has no version {id!r}")

    def newest(self, name: str) -> bytes:
        """The data of the newest version."""
        return self.versions(name)[0].data

    def absent(self, name: str) -> SecretNotFoundError:
        """What is said of a secret that does not exist."""
        return SecretNotFoundError(f"secret {name!r} does not exist")

    def keep(self, cell: Cell, data: bytes) -> None:
        """Remember what was read, or written."""
        if self.limits.cache_seconds:
            self.cache[cell] = (data, self.backend.clock.now() + self.limits.cache_seconds)

    def find(self, name: str) -> tuple[_Version, ...]:
        """The versions of *name*."""
        return self.backend.find(self.cell(name))

    def put(self, name: str, data: bytes) -> str:
        """Store *data*; the id of its version."""
        self.cache.pop(self.cell(name), None)
        return self.backend.put(self.cell(name), data)

    def remove(self, name: str) -> None:
        """Remove *name*."""
        self.cache.pop(self.cell(name), None)
        self.backend.remove(self.cell(name))
