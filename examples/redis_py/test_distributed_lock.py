"""Certifies the lock of the library redis-py."""

from typing import ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.resilience.distributed_lock import DistributedLockContract

with servers.installed():
    from examples.redis_py.distributed_lock import RedisPyLocks, make_locks


class TestRedisPyLocks(servers.OnServer, DistributedLockContract, IsolatedAsyncioTestCase):
    distribution = "redis"
    sometimes: ClassVar[set[str]] = {"LCK-28"}
    start = servers.valkey
    capabilities = RedisPyLocks
    known_deviations: ClassVar[dict[str, str]] = {
        "LCK-13": "Lock.__aexit__ raises LockNotOwnedError although the body raised, whose exception then is only its context",
        "LCK-28": "Lock.acquire(blocking_timeout=) gives up up to `sleep` early, where the next try would come after the timeout",
        "LCK-31": "Lock.acquire returns True for a reply that came after the lease had ended: it compares no time",
        "LCK-33": "Lock.__aexit__ raises LockError after a release in the body",
    }

    async def make_provider(self, *, address: tuple[str, int] | None = None, **config: object) -> RedisPyLocks:
        return await make_locks(address=address)

    async def unreachable_provider(self) -> RedisPyLocks:
        return await make_locks(address=("127.0.0.1", 1))
