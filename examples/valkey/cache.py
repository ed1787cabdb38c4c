"""`cache` on Valkey or Redis, through `redis.asyncio`.

`bounded` is not declared: how much memory there is, and what goes first, is the server's `maxmemory` and `maxmemory-policy`,
and the server of the examples has neither. With the default policy, `noeviction`, a full server refuses writes; with an
eviction policy the counter of versions must be spared, which the `volatile-` policies do.

`clear` walks through the server's keys: its time grows with the data of all, and what is written meanwhile may stay.
"""

from typing import ClassVar, Self

from examples import servers
from examples.common import arguments
from examples.common.single_flight import SingleFlight
from examples.valkey.values import ValkeyValues, space_of
from omnitck.shared.models import CacheLimits, Limits

__all__ = ["ValkeyCache", "make_cache"]

SPACE = b"omnitck-cache:"

# In both scripts KEYS[1] is the counter of versions and KEYS[2] the key.

ADD = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'value', ARGV[2], 'version', redis.call('INCR', KEYS[1]))
if ARGV[1] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[1]) end
return 1
"""

# PERSIST says 0 of a key that has no expiry.
TOUCH = """
if ARGV[1] ~= '' then return redis.call('PEXPIRE', KEYS[2], ARGV[1]) end
redis.call('PERSIST', KEYS[2])
return redis.call('EXISTS', KEYS[2])
"""


class ValkeyCache(ValkeyValues, SingleFlight):
    """A cache in one Valkey or Redis server."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "add touch ttl_query get_or_set clear batch counter compare_and_set binary "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[Limits] = CacheLimits(
        key_bytes=1024, value_bytes=2**20, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    def __init__(self, url: str, namespace: str = "", tenant_id: str | None = None) -> None:
        tenant = space_of(arguments.encode_tenant(tenant_id))
        super().__init__(url, SPACE + space_of(namespace.encode()) + tenant)
        self._add = self._redis.register_script(ADD)
        self._touch = self._redis.register_script(TOUCH)

    @classmethod
    async def connect(cls, url: str, *, namespace: str = "", tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; connections are opened when they are needed."""
        return cls(url, namespace, tenant_id)

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store *value* if *key* is absent; whether it was."""
        name, content = self._name(key), arguments.encode_text(key, value, self.limits)
        return bool(await self._script(f"add {key!r}", self._add, [name], [self._lifetime(key, ttl), content]))

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Let *key* live for *ttl* seconds from now, or for ever; whether it is present."""
        return bool(await self._script(f"touch {key!r}", self._touch, [self._name(key)], [self._lifetime(key, ttl)]))

    async def clear(self) -> None:
        """Remove every key of this namespace and tenant."""
        async for page in self._scan("clear", self._space):
            if page:
                await self._run("clear", self._redis.unlink, *page)


async def make_cache(
    *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> ValkeyCache:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    url = await servers.connect_info(servers.valkey, address)
    return await ValkeyCache.connect(url, namespace=namespace, tenant_id=tenant_id)
