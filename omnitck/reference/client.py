"""What the in-memory references share: the life of a server and of its clients.

Every operation takes one turn of the event loop, as a real one would, and then happens at once.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

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

__all__ = ["Cell", "MemoryClient", "MemoryServer", "is_unicode"]

Cell = tuple[str | None, str]
"""A tenant and a name. A tuple, not a joined string: no separator can be injected."""


@dataclass(eq=False, kw_only=True)
class MemoryServer:
    """The server: what several clients share."""

    clock: Clock = field(default_factory=SystemClock)
    limits: Limits = field(default_factory=Limits)
    password: str | None = field(default=None, repr=False)
    """What clients must present, if anything."""
    reachable: bool = True


Server = TypeVar("Server", bound=MemoryServer)


class MemoryClient(Generic[Server]):
    """One client of a server: who it is, what it declares, what it refuses, and its end."""

    everything: ClassVar[frozenset[str]] = frozenset()
    """The capabilities that it declares if it is not told otherwise."""

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
        if not isinstance(key, str):
            raise InvalidArgumentError(f"a key is text, not {type(key).__name__}")
        if not key or "\x00" in key or not is_unicode(key):
            raise InvalidArgumentError(f"key {key!r} is empty, or holds U+0000 or a surrogate")
        if len(key.encode()) > self.limits.key_bytes:
            raise TooLargeError(f"key {key!r} is longer than {self.limits.key_bytes} bytes")

    def check_keys(self, keys: Iterable[object]) -> list[str]:
        """Each distinct key once. The error names every bad one."""
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise InvalidArgumentError(f"keys are several, not {type(keys).__name__}")

        distinct: dict[str, None] = {}
        for key in keys:
            self.check_key(key)
            distinct[str(key)] = None
        return list(distinct)

    def check_size(self, key: str, data: bytes) -> None:
        """Refuse what the backend would not hold."""
        if len(data) > self.limits.value_bytes:
            raise TooLargeError(f"key {key!r}: the value is longer than {self.limits.value_bytes} bytes")

    def encoded(self, key: str, value: object) -> bytes:
        """The text *value* as it is stored."""
        if not isinstance(value, str):
            raise InvalidArgumentError(f"key {key!r}: the value must be text, not {type(value).__name__}")
        if not is_unicode(value):
            raise InvalidArgumentError(f"key {key!r}: the value holds a surrogate")

        data = value.encode()
        self.check_size(key, data)
        return data

    def cell(self, key: str) -> Cell:
        """Where the backend holds *key*."""
        return (self.tenant_id, key)


def is_unicode(text: str) -> bool:
    """Whether *text* has no lone surrogate."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
