"""What the in-memory references share: the life of a server and of its clients.

Every operation takes one turn of the event loop, as a real one would, and then happens at once.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.shared.clock import Clock, SystemClock
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    PermissionDeniedError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import Limits

__all__ = ["Cell", "Hosting", "MemoryClient", "MemoryServer", "is_unicode"]


class Cell(NamedTuple):
    """Where a server holds a name. A tuple, not a joined string: no separator can be injected."""

    tenant: str | None
    name: str
    space: str = ""
    """The namespace or the container, where there are several."""


@dataclass(eq=False, kw_only=True)
class MemoryServer:
    """The server: what several clients share."""

    clock: Clock = field(default_factory=SystemClock)
    limits: Limits = field(default_factory=Limits)
    password: str | None = field(default=None, repr=False)
    """What clients must present, if anything."""
    reachable: bool = True

    def cells(self) -> list[Cell]:
        """Every cell that holds something."""
        return []

    def remove(self, cell: Cell) -> None:
        """Remove what is in *cell*, if anything."""
        raise NotImplementedError


Server = TypeVar("Server", bound=MemoryServer)


class MemoryClient(Generic[Server]):
    """One client of a server: who it is, what it declares, what it refuses, and its end."""

    everything: ClassVar[frozenset[str]] = frozenset()
    """The capabilities that it declares if it is not told otherwise."""
    reads: ClassVar[str] = "get"
    """The operation that reads what is under one name."""
    deletes: ClassVar[str] = "delete"
    """The operation that deletes one name."""
    aside: ClassVar[str] = ""
    """A capability that is rarely used, and looked at by `need` alone: a defect of "one operation" is in one of these."""

    def __init__(
        self,
        backend: Server,
        *,
        tenant_id: str | None = None,
        password: str | None = None,
        capabilities: Collection[str] | None = None,
    ) -> None:
        """Connect to *backend*; a bad tenant is `InvalidArgumentError`, a bad password `PermissionDeniedError`."""
        if tenant_id is not None:
            self.check_tenant(tenant_id)
        if password != backend.password:
            raise PermissionDeniedError("the password is not the backend's")

        self.backend = backend
        self.tenant_id = tenant_id
        self.password = password
        self.capabilities = self.everything if capabilities is None else frozenset(capabilities)
        self.limits = backend.limits
        self.closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tenant_id={self.tenant_id!r})"

    async def close(self) -> None:
        """Release everything. Idempotent; afterwards every operation raises `ClosedError`."""
        self.closed = True
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # What every operation does first.

    def need(self, capability: str) -> None:
        """Refuse what is not declared."""
        if capability not in self.capabilities:
            raise UnsupportedError(f"this {type(self).__name__} does not declare {capability}")

    async def turn(self) -> None:
        """Where a real client waits for its server: the place for cancellation, closing and outages."""
        self.check_usable()
        await anyio.lowlevel.checkpoint()
        self.check_usable()

    def check_usable(self) -> None:
        """Refuse a closed client, and a backend that does not answer."""
        if self.closed:
            raise ClosedError("this client is closed")
        if not self.backend.reachable:
            raise UnavailableError("the backend does not answer") from ConnectionRefusedError("connection refused")

    def check_tenant(self, tenant_id: object) -> None:
        """Refuse a tenant that could be taken for another, or for none."""
        if not isinstance(tenant_id, str) or not tenant_id.strip() or "\x00" in tenant_id or not is_unicode(tenant_id):
            raise InvalidArgumentError("a tenant id is text that is not blank, without U+0000 and surrogates")

    def check_key(self, key: object) -> None:
        """Refuse what is no key."""
        self.check_name("key", key, self.limits.key_bytes)

    def check_name(self, kind: str, name: object, most: int) -> None:
        """Refuse what names nothing of this *kind*, or is longer than *most* bytes."""
        if not isinstance(name, str):
            raise InvalidArgumentError(f"a {kind} is text, not {type(name).__name__}")
        if not name or "\x00" in name or not is_unicode(name):
            raise InvalidArgumentError(f"{kind} {name!r} is empty, or holds U+0000 or a surrogate")
        if len(name.encode()) > most:
            raise TooLargeError(f"{kind} {name!r} is longer than {most} bytes")

    def check_prefix(self, prefix: str) -> None:
        """Refuse what begins no key."""
        if prefix != "":
            self.check_key(prefix)

    def check_keys(self, keys: Iterable[object]) -> list[str]:
        """Each distinct key once. The error names every bad one."""
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise InvalidArgumentError(f"keys are several, not {type(keys).__name__}")

        distinct: dict[str, None] = {}
        for key in keys:
            self.check_key(key)
            distinct[str(key)] = None
        return list(distinct)

    def check_headers(self, topic: str, headers: object, most: int) -> dict[str, str]:
        """A copy of the *headers* of a message; refuses what are none, or more than *most*."""
        if not isinstance(headers, Mapping):
            raise InvalidArgumentError(f"topic {topic!r}: headers are a mapping, not {type(headers).__name__}")
        copied: dict[Any, Any] = dict(headers)
        for each in [*copied, *copied.values()]:
            if not isinstance(each, str) or not is_unicode(each):
                raise InvalidArgumentError(f"topic {topic!r}: headers are text, without surrogates")
        if any(not name for name in copied):
            raise InvalidArgumentError(f"topic {topic!r}: a header has a name")
        if len(copied) > most:
            raise InvalidArgumentError(f"topic {topic!r}: more than {most} headers")
        return copied

    def check_size(self, key: str, size: int) -> None:
        """Refuse more bytes than the backend would hold."""
        if size > self.limits.value_bytes:
            raise TooLargeError(f"key {key!r}: the value is longer than {self.limits.value_bytes} bytes")

    def check_text(self, key: str, kind: str, text: object) -> None:
        """Refuse what is no text, where a version or the like is expected."""
        if not isinstance(text, str):
            raise InvalidArgumentError(f"key {key!r}: {kind} is text, not {type(text).__name__}")

    # Between what is asked and what the server holds.

    def encoded(self, key: str, value: object) -> bytes:
        """The text *value* as it is stored."""
        if not isinstance(value, str):
            raise InvalidArgumentError(f"key {key!r}: the value must be text, not {type(value).__name__}")
        if not is_unicode(value):
            raise InvalidArgumentError(f"key {key!r}: the value holds a surrogate")

        data = value.encode()
        self.check_size(key, len(data))
        return data

    def text(self, key: str, data: bytes) -> str:
        """What is stored, as text."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            del data
        # Raised here, where the decoder's error, which carries the data, is not its context.
        raise InvalidArgumentError(f"key {key!r} holds bytes that are no text")

    def cell(self, key: str) -> Cell:
        """Where the backend holds *key*."""
        return Cell(self.tenant_id, key)

    def own(self) -> list[str]:
        """The names that the backend holds for this client."""
        mine = self.cell("")
        return [each.name for each in self.backend.cells() if (each.tenant, each.space) == (mine.tenant, mine.space)]

    def following(self, prefix: str, after: str) -> list[str]:
        """The first names beyond *after*, as many as the backend returns at once."""
        return sorted(name for name in self.own() if name.startswith(prefix) and name > after)[: self.limits.page_size]

    def put(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        """Store something under *key*."""
        raise NotImplementedError

    def remove(self, key: str, *arguments: Any, **keywords: Any) -> None:
        """Remove what is under *key*, if anything."""
        self.backend.remove(self.cell(key))


class Hosting(MemoryClient[Server]):
    """A client with tasks of its own: `async with` lets them run, until the last such block ends."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.entered = 0
        self.tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> Self:
        self.entered += 1
        if self.entered == 1:
            self.tasks = anyio.create_task_group()
            await self.tasks.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.close()
        finally:
            self.entered -= 1
            if not self.entered:
                self.tasks.cancel_scope.cancel()
                await self.tasks.__aexit__(None, None, None)


def is_unicode(text: str) -> bool:
    """Whether *text* has no lone surrogate."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
