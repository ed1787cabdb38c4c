"""`distributed_lock` on redis-py's own `Lock`: its answers and errors put into those of the contract, and nothing else.

Where the contract answers False, the library raises `LockError`. A server that fails is an error of redis-py.

The client has no `socket_timeout`. With one, and 5 seconds are the default, the library sends commands within `asyncio.wait_for`,
which in Python 3.11 loses a cancellation that comes as the sending ends: then LCK-COM-14 fails, and at times LCK-29.

Not declared: `auto_renew`, `fencing_token`, `fair`, `loss_notification` and `hold_at_least`, none of which it has; `lifecycle`,
as a client that was closed connects anew; `validation`, `limits` and `availability`, as it hands its arguments and its errors
on.
"""

from types import TracebackType
from typing import ClassVar, Self

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError

from examples import servers
from omnitck.shared.exceptions import LockLostError, LockNotAcquiredError
from omnitck.shared.models import LockLimits

__all__ = ["RedisPyLock", "RedisPyLocks", "make_locks"]

PAUSE = 0.3
"""Seconds between two tries of who waits, by which a wait may end early; with the library's 0.1 a busy machine hides that."""


class RedisPyLock:
    """A lock of the library."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    async def acquire(self, timeout: float = 0.0) -> bool:
        """Try for at most *timeout* seconds; 0 tries once."""
        return bool(await self._lock.acquire(blocking=timeout > 0, blocking_timeout=timeout))

    async def release(self) -> bool:
        """Whether the library released it."""
        try:
            await self._lock.release()
        except LockError:
            return False
        return True

    async def renew(self, ttl: float | None = None) -> bool:
        """Whether the library prolonged it."""
        try:
            if ttl is None:
                return await self._lock.reacquire()
            return await self._lock.extend(ttl, replace_ttl=True)
        except LockError:
            return False

    async def __aenter__(self) -> bool:
        try:
            await self._lock.__aenter__()  # type: ignore[no-untyped-call]
        except LockError as refusal:
            raise LockNotAcquiredError(str(refusal)) from refusal
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._lock.__aexit__(kind, error, trace)  # type: ignore[no-untyped-call]
        except LockError as refusal:
            raise LockLostError(str(refusal)) from refusal


class RedisPyLocks:
    """Locks of a client of the library."""

    capabilities: ClassVar[frozenset[str]] = frozenset("lease_renewal blocking_acquire inspection shared".split())
    limits: ClassVar[LockLimits] = LockLimits(min_ttl=0.1, ttl_resolution=0.1, deliver=2.0)

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @classmethod
    async def connect(cls, url: str) -> Self:
        """A client of the server at *url*."""
        return cls(Redis.from_url(url, socket_timeout=None))

    def get_lock(self, lock_name: str, ttl: float) -> RedisPyLock:
        """A lock that is tried once, unless `acquire` says otherwise."""
        return RedisPyLock(self._redis.lock(lock_name, timeout=ttl, sleep=PAUSE, blocking=False))

    async def is_locked(self, lock_name: str) -> bool:
        """Whether somebody holds the lock *lock_name*."""
        return await self._redis.lock(lock_name).locked()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


async def make_locks(*, address: tuple[str, int] | None = None, **config: object) -> RedisPyLocks:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    return await RedisPyLocks.connect(await servers.connect_info(servers.valkey, address))
