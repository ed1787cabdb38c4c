"""`distributed_lock` on Valkey or Redis: a hash for each lock, whose expiry is the end of the lease, and scripts.

What another client of the lock does in two commands is one script here, which compares the owner first. Tokens come from one
counter of the server, which nothing resets and no lock's end deletes: each grant has a greater one than all before it, of
whatever name.

The clock is the server's, and it is that of the wall: if somebody moves it forward, leases end early. A server that fails over
to a replica, or comes back without what it held, has forgotten leases, and may have forgotten tokens too. Whoever has to be
sure of an exclusion lets what he guards compare tokens, and keeps the server's `appendfsync` at `always`.

`fair` is not declared: waiters ask again and again, and whoever asks first after the end of a lease has the lock.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, ClassVar, Self, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from examples import servers
from examples.common import arguments
from examples.common.locks import Locks
from examples.valkey.connections import Translation, abort, open_pool
from examples.valkey.values import space_of
from omnitck.shared.models import LockLimits

__all__ = ["ValkeyLocks", "make_locks"]

SPACE = b"omnitck-lock:"
TOKENS = b"omnitck-lock-token"

# In every script KEYS[1] is the lock, ARGV[1] its owner and ARGV[2] milliseconds.

# KEYS[2] is the counter of tokens.
TAKE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local token = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return token
"""

EXTEND = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# An owner of the empty name is nobody: the lock is free, and cannot be had yet.
FREE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) <= 0 then return redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'owner', '')
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class ValkeyLocks(Translation, Locks):
    """Locks in one Valkey or Redis server (no cluster: a script touches the counter and a lock at once)."""

    limits: ClassVar[LockLimits] = LockLimits(key_bytes=1024, min_ttl=0.1, ttl_resolution=0.1, max_ttl=30 * 86_400.0, deliver=1.0)

    def __init__(self, url: str, tenant_id: str | None = None, connections: int = 8) -> None:
        super().__init__()
        self._space = SPACE + space_of(arguments.encode_tenant(tenant_id))
        self._pool = open_pool(url)
        self._redis = Redis(connection_pool=self._pool)
        self._slots = asyncio.Semaphore(connections)
        self._taking = self._redis.register_script(TAKE)
        self._extending = self._redis.register_script(EXTEND)
        self._freeing = self._redis.register_script(FREE)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

    async def _take(self, name: bytes, owner: str, ttl: float, waits: bool) -> int | None:
        return cast("int | None", await self._run(self._taking, [self._space + name, TOKENS], owner, ttl))

    async def _extend(self, name: bytes, owner: str, ttl: float) -> bool:
        return bool(await self._run(self._extending, [self._space + name], owner, ttl))

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        return bool(await self._run(self._freeing, [self._space + name], owner, keep))

    async def _is_taken(self, name: bytes) -> bool:
        async with self._slots:
            return bool(await self._redis.exists(self._space + name))

    async def _run(self, script: AsyncScript, keys: list[bytes], owner: str, seconds: float) -> Any:
        async with self._slots:
            return await cast("Awaitable[Any]", script(keys, [owner, math.ceil(seconds * 1000)]))

    async def _release(self) -> None:
        await self._redis.aclose()
        await self._pool.disconnect()

    def _abort(self) -> None:
        abort(self._pool)


async def make_locks(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> ValkeyLocks:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    return await ValkeyLocks.connect(await servers.connect_info(servers.valkey, address), tenant_id=tenant_id)
