"""What the adapters of Valkey share: a connection, and values with versions under keys.

Each key is a HASH of a value and a version. What a single command cannot do is one Lua script, which the server runs as
one step. Versions come from one counter of the server, which no deletion resets: a version is never given out twice.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from examples.common import arguments
from examples.common.client import Client
from examples.valkey.connections import Translation, open_pool
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError
from omnitck.shared.models import Entry, Limits

__all__ = ["ValkeyValues", "space_of"]

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


def space_of(name: bytes) -> bytes:
    """*name* as a part of a key: its length makes the border to what follows unmistakable.

    Of an empty name, which nobody can have, it is "-", which is no length.
    """
    return b"%d:%b:" % (len(name), name) if name else b"-:"


class ValkeyValues(Translation, Client):
    """Values below *space* in one Valkey or Redis server (no cluster: the scripts touch the counter and a key at once)."""

    limits: ClassVar[Limits] = Limits(
        key_bytes=1024, value_bytes=2**20, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    def __init__(self, url: str, space: bytes, connections: int = 8) -> None:
        super().__init__()
        self._space = space
        pool = open_pool(url)
        self._redis = Redis(connection_pool=pool)
        self._pool = pool
        self._slots = asyncio.Semaphore(connections)
        self._set_many = self._redis.register_script(SET_MANY)
        self._compare_and_set = self._redis.register_script(COMPARE_AND_SET)
        self._compare_and_delete = self._redis.register_script(COMPARE_AND_DELETE)
        self._increment = self._redis.register_script(INCREMENT)
        self._get_many = self._redis.register_script(GET_MANY)

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        value = await self.get_bytes(key)
        return None if value is None else arguments.decode_text(key, value)

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
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

    def _name(self, key: object) -> bytes:
        return self._space + arguments.encode_key(key, self.limits)

    async def _set(self, key: str, value: bytes, ttl: float | None) -> None:
        await self._script(f"set {key!r}", self._set_many, [self._name(key)], [self._lifetime(key, ttl), value])

    def _lifetime(self, key: str, ttl: float | None) -> int | str:
        """*ttl* in milliseconds; the empty string for ever."""
        seconds = arguments.parse_ttl(key, ttl, self.limits)
        return "" if seconds is None else math.ceil(seconds * 1000)

    async def _scan(self, what: str, start: bytes) -> AsyncIterator[list[bytes]]:
        """Every key below *start* in the server, in pages and in no order; a key may be named twice."""
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", start) + b"*"
        cursor = 0
        while True:
            cursor, page = await self._run(what, self._redis.scan, cursor, match=pattern, count=self.limits.page_size)
            yield page
            if cursor == 0:
                return

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
