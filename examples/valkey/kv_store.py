"""`kv_store` on Valkey or Redis, through `redis.asyncio`.

Each key is a HASH of a value and a version. What a single command cannot do is one Lua script, which the server runs as
one step. Versions come from one counter of the server, which no deletion resets: a version is never given out twice.

`watch` is not declared. Keyspace notifications are lossy: a client that reconnects has missed what happened meanwhile,
and nothing tells it so.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from examples import arguments, servers
from examples.client import Client
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError
from omnitck.shared.models import Entry, Expect, Limits, Put, Remove

__all__ = ["ValkeyKVStore", "make_store"]

SPACE = b"omnitck-kv:"
COUNTER = b"omnitck-kv-version"

# In every script KEYS[1] is the counter, and the keys of the operation follow.

SET_MANY = """
for i = 2, #KEYS do
    local version = redis.call('INCR', KEYS[1])
    redis.call('HSET', KEYS[i], 'value', ARGV[i], 'version', version)
    if ARGV[1] == '' then redis.call('PERSIST', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
"""

COMPARE_AND_SET = """
if (redis.call('HGET', KEYS[2], 'version') or '') ~= ARGV[1] then return false end
local version = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], 'value', ARGV[2], 'version', version)
redis.call('PERSIST', KEYS[2])
return version
"""

COMPARE_AND_DELETE = """
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[2])
"""

# HINCRBY adds in 64 bits and keeps the expiry. Lua would return its sum as a double, exact to 53 bits, hence the HGET.
INCREMENT = """
local sum = redis.pcall('HINCRBY', KEYS[2], 'value', ARGV[1])
if type(sum) == 'table' then return false end
redis.call('HSET', KEYS[2], 'version', redis.call('INCR', KEYS[1]))
return redis.call('HGET', KEYS[2], 'value')
"""

GET_MANY = """
local values = {}
for i = 2, #KEYS do values[i - 1] = redis.call('HGET', KEYS[i], 'value') end
return values
"""

# A script is not undone when it fails: so all expectations are checked, on an overlay of the puts and removals before
# them, and only then is anything written. ARGV holds a kind and a value for each key: (p)ut, (r)emove, (e)xpect,
# (a)bsent.
TRANSACT = """
local overlay = {}
for i = 2, #KEYS do
    local key, kind, value = KEYS[i], ARGV[2 * i - 3], ARGV[2 * i - 2]
    if kind == 'p' then
        overlay[key] = value
    elseif kind == 'r' then
        overlay[key] = false
    else
        local seen = overlay[key]
        if seen == nil then seen = redis.call('HGET', key, 'value') end
        if kind == 'a' then value = false end
        if seen ~= value then return i - 1 end
    end
end
for i = 2, #KEYS do
    local key, kind = KEYS[i], ARGV[2 * i - 3]
    if kind == 'p' then
        redis.call('HSET', key, 'value', ARGV[2 * i - 2], 'version', redis.call('INCR', KEYS[1]))
        redis.call('PERSIST', key)
    elseif kind == 'r' then
        redis.call('DEL', key)
    end
end
return 0
"""


class ValkeyKVStore(Client):
    """A store in one Valkey or Redis server (no cluster: the scripts touch the counter and a key at once)."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "compare_and_set ttl list_prefix batch counter transaction linearizable binary "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[Limits] = Limits(
        key_bytes=1024, value_bytes=2**20, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    _unavailable = (OSError, TimeoutError, RedisError)
    _denied = (AuthenticationError, NoPermissionError)

    def __init__(self, url: str, tenant_id: str | None = None, connections: int = 8) -> None:
        super().__init__()
        tenant = arguments.encode_tenant(tenant_id)
        # The length makes the border between tenant and key unmistakable; "-" is no length, so None is nobody's id.
        self._space = SPACE + (b"%d:%b:" % (len(tenant), tenant) if tenant else b"-:")
        # No retries: a command whose reply was lost may have been carried out, and `increment` must not happen twice.
        # A connection that was cut while idle is noticed by redis-py, which connects anew before it sends anything.
        pool = ConnectionPool.from_url(
            url,
            protocol=2,  # saves a round trip; nothing here needs RESP3
            driver_info=None,  # nor need the server know the name of the library
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=None,
            socket_timeout=None,
        )
        self._redis = Redis(connection_pool=pool)
        self._pool = pool
        self._slots = asyncio.Semaphore(connections)
        self._set_many = self._redis.register_script(SET_MANY)
        self._compare_and_set = self._redis.register_script(COMPARE_AND_SET)
        self._compare_and_delete = self._redis.register_script(COMPARE_AND_DELETE)
        self._increment = self._redis.register_script(INCREMENT)
        self._get_many = self._redis.register_script(GET_MANY)
        self._transact = self._redis.register_script(TRANSACT)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        value = await self.get_bytes(key)
        return None if value is None else arguments.decode_text(key, value)

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """Store *value*, for *ttl* seconds or for ever."""
        await self._set(key, arguments.encode_text(key, value, self.limits), ttl)

    async def delete(self, key: str) -> None:
        """Remove *key*."""
        await self._run(f"delete {key!r}", self._redis.delete, self._name(key))

    async def get_bytes(self, key: str) -> bytes | None:
        """The value of *key* as bytes, or None."""
        return cast("bytes | None", await self._run(f"get {key!r}", self._redis.hget, self._name(key), "value"))

    async def set_bytes(self, key: str, value: bytes) -> None:
        """Store *value*."""
        await self._set(key, arguments.encode_bytes(key, value, self.limits), None)

    async def expires_in(self, key: str) -> float | None:
        """Seconds left of *key*, None for ever."""
        milliseconds = await self._run(f"expires_in {key!r}", self._redis.pttl, self._name(key))
        if milliseconds == -2:
            raise NotFoundError(f"{key!r} is absent")
        return None if milliseconds == -1 else milliseconds / 1000

    async def get_entry(self, key: str) -> Entry | None:
        """The value of *key* with its version, or None."""
        name = self._name(key)
        value, version = await self._run(f"get_entry {key!r}", self._redis.hmget, name, ["value", "version"])
        return None if value is None else Entry(arguments.decode_text(key, value), version.decode())

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """Store *value* for ever if *key* is at version *expected*, or absent if that is None; the new version."""
        name, content = self._name(key), arguments.encode_text(key, value, self.limits)
        version = "" if expected is None else arguments.parse_version(key, expected)
        stored = await self._script(f"compare_and_set {key!r}", self._compare_and_set, [name], [version, content])
        if stored is None:
            raise ConflictError(f"{key!r} is not at the expected version")
        return str(stored)

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """Remove *key* if it is at version *expected*."""
        name, version = self._name(key), arguments.parse_version(key, expected)
        if not await self._script(f"compare_and_delete {key!r}", self._compare_and_delete, [name], [version]):
            raise ConflictError(f"{key!r} is not at the expected version")

    async def increment(self, key: str, delta: int = 1) -> int:
        """Add *delta* to the integer at *key* and return the sum."""
        name, delta = self._name(key), arguments.parse_delta(key, delta)
        total = await self._script(f"increment {key!r}", self._increment, [name], [delta])
        if total is None:
            raise InvalidArgumentError(f"the value of {key!r}, or the sum, is not an integer of 64 bits")
        return int(total)

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every live key under *prefix*, in no order: SCAN may name a key twice, so what was yielded is remembered."""
        start = self._space + arguments.encode_prefix(prefix, self.limits)
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", start) + b"*"
        yielded: set[bytes] = set()
        cursor = 0
        while True:
            cursor, page = await self._run(
                f"list_keys {prefix!r}", self._redis.scan, cursor, match=pattern, count=self.limits.page_size
            )
            for name in page:
                if name not in yielded:
                    yielded.add(name)
                    yield name[len(self._space) :].decode()
            if cursor == 0:
                return

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Each of *keys* with its value or None."""
        self._check_open()
        names = {key: self._name(key) for key in keys}
        found: dict[str, str | None] = {}
        for chunk in arguments.chunks(names, self.limits.batch_size):
            values = await self._script(f"get_many {chunk!r}", self._get_many, [names[key] for key in chunk], [])
            for key, value in zip(chunk, values, strict=True):
                found[key] = None if value is None else arguments.decode_text(key, value)
        return found

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store all *items*: each chunk in one script, the chunks one after another."""
        self._check_open()
        encoded = arguments.encode_items(items, self.limits)
        for chunk in arguments.chunks(encoded, self.limits.batch_size):
            names = [self._space + key for key, _ in chunk]
            values = [value for _, value in chunk]
            await self._script(f"set_many {[key.decode() for key, _ in chunk]!r}", self._set_many, names, ["", *values])

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all *keys*."""
        self._check_open()
        names = {key: self._name(key) for key in keys}
        for chunk in arguments.chunks(names, self.limits.batch_size):
            await self._run(f"delete_many {chunk!r}", self._redis.delete, *[names[key] for key in chunk])

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        """Apply *ops* in one script."""
        self._check_open()
        steps = arguments.encode_steps(ops, self.limits)
        words: list[bytes] = []
        for kind, _, value in steps:
            words.append(b"p" if kind is Put else b"r" if kind is Remove else b"a" if value is None else b"e")
            words.append(value or b"")
        names = [self._space + key for _, key, _ in steps]
        failed = await self._script(f"transact {[key.decode() for _, key, _ in steps]!r}", self._transact, names, words)
        if failed:
            raise ConflictError(f"{steps[failed - 1].key.decode()!r} does not hold what was expected")

    def _name(self, key: object) -> bytes:
        return self._space + arguments.encode_key(key, self.limits)

    async def _set(self, key: str, value: bytes, ttl: float | None) -> None:
        name, seconds = self._name(key), arguments.parse_ttl(key, ttl, self.limits)
        lifetime = "" if seconds is None else math.ceil(seconds * 1000)
        await self._script(f"set {key!r}", self._set_many, [name], [lifetime, value])

    async def _script(self, what: str, script: AsyncScript, names: Sequence[bytes], words: Sequence[object]) -> Any:
        return await self._run(what, script, [COUNTER, *names], words)

    async def _run(self, what: str, command: Any, *args: Any, **options: Any) -> Any:
        """One command or script, on a connection of its own while it lasts."""

        async def work() -> Any:
            async with self._slots:
                return await cast("Awaitable[Any]", command(*args, **options))

        return await self._call(what, work())

    async def _release(self) -> None:
        await self._redis.aclose()
        await self._pool.disconnect()


async def make_store(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> ValkeyKVStore:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    return await ValkeyKVStore.connect(await servers.connect_info(servers.valkey, address), tenant_id=tenant_id)
