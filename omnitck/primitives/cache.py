"""`cache`: values under keys that expire, and that may be evicted when there is no room.

A cache may evict, a store may not: that is the whole difference from `kv_store`. Below `limits.capacity_bytes` nothing vanishes
early, otherwise a provider that stores nothing would pass. The rules of expiry are in `omnitck.kit.expiry`, those that a
key-value store owes as well in `omnitck.kit.key_value`.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Add", "CacheProtocol", "Clear", "GetOrSet", "TTLQuery", "Touch"]


class CacheProtocol(Protocol):
    """The core: three operations. Keys and values are `str`, times are seconds."""

    async def get(self, key: str) -> str | None:
        """The value of *key*; None if it is absent, expired or evicted."""
        ...

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """Store *value* for *ttl* seconds, replacing value and expiry; None means without an expiry."""
        ...

    async def delete(self, key: str) -> None:
        """Remove exactly this *key*. An absent key is fine."""
        ...


class Add(Protocol):
    """Capability `add`: write only what is absent."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store *value* if *key* is absent or expired; whether it was."""
        ...


class Touch(Protocol):
    """Capability `touch`: a new expiry for an old value."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Give *key* a new time to live from now, None for no expiry; whether it is present. Creates nothing."""
        ...


class TTLQuery(Protocol):
    """Capability `ttl_query`."""

    async def expires_in(self, key: str) -> float | None:
        """Seconds left; None without an expiry; `NotFoundError` if absent."""
        ...


class GetOrSet(Protocol):
    """Capability `get_or_set`: one computation for all who miss at once on one client."""

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """The value of *key*; on a miss that of *factory*, which is stored. What *factory* raises is raised and not stored."""
        ...


class Clear(Protocol):
    """Capability `clear`. The suite's `make_provider` takes `namespace`, so that nothing else is cleared."""

    async def clear(self) -> None:
        """Remove everything of this client's namespace and tenant, and nothing else."""
        ...
