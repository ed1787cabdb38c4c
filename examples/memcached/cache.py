"""`cache` on memcached, through `emcache`.

- *Keys.* memcached takes 250 bytes without spaces and control characters, so a key is stored under its SHA-256. The key
  itself is kept beside the value and compared: a collision would be a miss, never somebody else's value.
- *Versions.* memcached's own "cas unique" is not told by the write that makes it, and starts anew with the server. So each
  write brings a random version, kept beside the value, and the cas unique only guards the step from reading to writing.
- *Expiry.* memcached counts whole seconds, by a clock that ticks once a second. A time to live is rounded up to a second. Above
  30 days it has to be a date, which is the client's clock, and that must be before 2038: of a later one memcached says
  "STORED" and forgets the value at once.
- *Clearing.* Nothing can be listed, and `flush_all` would take everybody's data. So each namespace of each tenant has a
  generation, a random item of its own that is a part of all its names and that `clear` replaces. It costs every operation a
  round trip more. What was cleared takes room until memcached needs it; a generation that is lost or evicted clears too.
- *Values.* memcached takes 1 MiB with everything. emcache takes a reply for complete when what has arrived so far happens to end
  in ``END\\r\\n``, be it in the middle of a value. So no stored value holds a carriage return: it is escaped, which may double
  the length.

`ttl_query` is not declared: only memcached's meta commands tell how long an item has left, and emcache does not know them. Nor is
`counter`: `incr` knows no negative numbers, and compare-and-set would lose the expiry, which cannot be read.

A connection that is cut while a command waits on it goes unnoticed by emcache, so it costs a call the whole patience of the
client. emcache opens connections in the background and, while it fails, waits longer each time, up to a minute.
"""

import hashlib
import math
import secrets
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import emcache
from emcache.client_errors import CommandError, NotFoundCommandError, NotStoredStorageCommandError, StorageCommandError

from examples import servers
from examples.common import arguments
from examples.common.client import together
from examples.common.single_flight import SingleFlight
from omnitck.shared.exceptions import ConflictError
from omnitck.shared.models import CacheLimits, Entry, Limits

__all__ = ["MemcachedCache", "make_cache"]

LONGEST_RELATIVE = 30 * 86_400
"""Seconds. memcached takes a larger number for a date."""

LAST_DATE = 2**31 - 1
"""In 2038. What shall live longer goes then: a cache may lose a value early, but must not give it out late."""

AT_ONCE = -1
"""The expiry of an item that is gone as soon as it is stored."""


class Stored(NamedTuple):
    """What memcached holds under a key."""

    value: bytes
    version: str
    cas: int


class MemcachedCache(SingleFlight):
    """A cache in one memcached server."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "add touch get_or_set clear batch compare_and_set bounded binary lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[Limits] = CacheLimits(
        key_bytes=1024,
        value_bytes=500_000,
        min_ttl=1,
        ttl_resolution=1.25,  # a second, and the clock's tick may be late
        batch_size=100,
    )

    _unavailable = (OSError, TimeoutError, CommandError)

    def __init__(self, client: emcache.Client, namespace: str = "", tenant_id: str | None = None) -> None:
        super().__init__()
        self._memcached = client
        self._space = _joined(namespace.encode(), arguments.encode_tenant(tenant_id))
        self._generation = _hashed(b"generation", self._space)

    @classmethod
    async def connect(cls, url: str, *, namespace: str = "", tenant_id: str | None = None, connections: int = 8) -> Self:
        """A client of the server at *url*; connections are opened in the background."""
        arguments.encode_tenant(tenant_id)
        host, port = servers.Server(url).address
        client = await emcache.create_client(
            [emcache.MemcachedHostAddress(host, port)],
            timeout=None,  # `Client` does that
            connection_timeout=1.0,
            max_connections=connections,
            purge_unused_connections_after=None,  # its timer outlives the client
        )
        return cls(client, namespace, tenant_id)

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        value = await self.get_bytes(key)
        return None if value is None else arguments.decode_text(key, value)

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """Store *value*, for *ttl* seconds or for ever."""
        await self._set(key, arguments.encode_text(key, value, self.limits), ttl)

    async def delete(self, key: str) -> None:
        """Remove *key*."""
        encoded = arguments.encode_key(key, self.limits)
        await self._call(f"delete {key!r}", self._remove([encoded]))

    async def get_bytes(self, key: str) -> bytes | None:
        """The value of *key* as bytes, or None."""
        stored = await self._call(f"get {key!r}", self._find(arguments.encode_key(key, self.limits)))
        return None if stored is None else stored.value

    async def set_bytes(self, key: str, value: bytes) -> None:
        """Store *value*."""
        await self._set(key, arguments.encode_bytes(key, value, self.limits), None)

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store *value* if *key* is absent; whether it was."""
        encoded, content = arguments.encode_key(key, self.limits), arguments.encode_text(key, value, self.limits)
        expiry = self._expiry(key, ttl)
        return await self._call(f"add {key!r}", self._added(encoded, _packed(encoded, content, _version()), expiry))

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Let *key* live for *ttl* seconds from now, or for ever; whether it is present."""
        encoded, expiry = arguments.encode_key(key, self.limits), self._expiry(key, ttl)
        return await self._call(f"touch {key!r}", self._touched(encoded, expiry))

    async def clear(self) -> None:
        """Remove everything of this namespace and tenant, in one step."""
        await self._call("clear", self._memcached.set(self._generation, _version().encode()))

    async def get_entry(self, key: str) -> Entry | None:
        """The value of *key* with its version, or None."""
        stored = await self._call(f"get_entry {key!r}", self._find(arguments.encode_key(key, self.limits)))
        return None if stored is None else Entry(arguments.decode_text(key, stored.value), stored.version)

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """Store *value* for ever if *key* is at version *expected*, or absent if that is None; the new version."""
        encoded, content = arguments.encode_key(key, self.limits), arguments.encode_text(key, value, self.limits)
        version = _version()
        packed = _packed(encoded, content, version)
        if expected is None:
            done = await self._call(f"compare_and_set {key!r}", self._added(encoded, packed, 0))
        else:
            done = await self._call(f"compare_and_set {key!r}", self._exchanged(encoded, expected, packed))
        if not done:
            raise ConflictError(f"{key!r} is not at the expected version")
        return version

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """Remove *key* if it is at version *expected*: what replaces it has expired already."""
        encoded = arguments.encode_key(key, self.limits)
        if not await self._call(f"compare_and_delete {key!r}", self._exchanged(encoded, expected, b"", AT_ONCE)):
            raise ConflictError(f"{key!r} is not at the expected version")

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Each of *keys* with its value or None."""
        self._check_open()
        wanted = {key: arguments.encode_key(key, self.limits) for key in keys}
        found: dict[str, str | None] = {}
        for chunk in arguments.chunks(wanted, self.limits.batch_size):
            values = await self._call(f"get_many {chunk!r}", self._find_many([wanted[key] for key in chunk]))
            for key, value in zip(chunk, values, strict=True):
                found[key] = None if value is None else arguments.decode_text(key, value)
        return found

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store all *items*, a request each: memcached has none for many."""
        self._check_open()
        encoded = arguments.encode_items(items, self.limits)
        for chunk in arguments.chunks(encoded, self.limits.batch_size):
            what = f"set_many {[key.decode() for key, _ in chunk]!r}"
            await self._call(what, self._put(chunk))

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all *keys*, a request each."""
        self._check_open()
        encoded = {key: arguments.encode_key(key, self.limits) for key in keys}
        for chunk in arguments.chunks(encoded, self.limits.batch_size):
            await self._call(f"delete_many {chunk!r}", self._remove(encoded[key] for key in chunk))

    async def _set(self, key: str, value: bytes, ttl: float | None) -> None:
        encoded, expiry = arguments.encode_key(key, self.limits), self._expiry(key, ttl)
        await self._call(f"set {key!r}", self._put([(encoded, value)], expiry))

    def _expiry(self, key: str, ttl: float | None) -> int:
        seconds = arguments.parse_ttl(key, ttl, self.limits)
        if seconds is None:
            return 0
        if seconds <= LONGEST_RELATIVE:
            return math.ceil(seconds)
        return min(math.ceil(time.time() + seconds), LAST_DATE)

    async def _begun(self) -> bytes:
        """The generation of this namespace, which begins now if it has none."""
        while (generation := await self._current()) is None:  # once, unless it is cleared or evicted in this moment
            await _stored(self._memcached.add(self._generation, _version().encode()))
        return generation

    async def _current(self) -> bytes | None:
        """The generation of this namespace; None if it has none, so that nothing is in it either."""
        item = await self._memcached.get(self._generation)
        return None if item is None else item.value

    def _name(self, generation: bytes, key: bytes) -> bytes:
        return _hashed(b"value", self._space, generation, key)

    async def _find(self, key: bytes) -> Stored | None:
        generation = await self._current()
        if generation is None:
            return None
        item = await self._memcached.gets(self._name(generation, key))
        return None if item is None else _unpacked(key, item)

    async def _find_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        generation = await self._current()
        if generation is None:
            return [None] * len(keys)
        names = [self._name(generation, key) for key in keys]
        items = await self._memcached.get_many(names)
        found = [_unpacked(key, items[name]) if name in items else None for key, name in zip(keys, names, strict=True)]
        return [None if stored is None else stored.value for stored in found]

    async def _put(self, items: Iterable[tuple[bytes, bytes]], expiry: int = 0) -> None:
        generation = await self._begun()
        await together(
            self._memcached.set(self._name(generation, key), _packed(key, value, _version()), exptime=expiry)
            for key, value in items
        )

    async def _added(self, key: bytes, packed: bytes, expiry: int) -> bool:
        name = self._name(await self._begun(), key)
        return await _stored(self._memcached.add(name, packed, exptime=expiry))

    async def _exchanged(self, key: bytes, expected: str, packed: bytes, expiry: int = 0) -> bool:
        generation = await self._current()
        if generation is None:
            return False
        name = self._name(generation, key)
        item = await self._memcached.gets(name)
        stored = None if item is None else _unpacked(key, item)
        if stored is None or stored.version != expected:
            return False
        return await _stored(self._memcached.cas(name, packed, stored.cas, exptime=expiry))

    async def _touched(self, key: bytes, expiry: int) -> bool:
        generation = await self._current()
        return generation is not None and await _found(self._memcached.touch(self._name(generation, key), expiry))

    async def _remove(self, keys: Iterable[bytes]) -> None:
        generation = await self._current()
        if generation is not None:
            await together(_found(self._memcached.delete(self._name(generation, key))) for key in keys)

    async def _release(self) -> None:
        await self._memcached.close()


async def _stored(command: Awaitable[None]) -> bool:
    """Whether *command*, which stores on a condition, has stored."""
    try:
        await command
    except NotStoredStorageCommandError:
        return False
    except StorageCommandError as error:
        if repr(b"NOT_FOUND") in str(error):  # which emcache does not tell from a failure
            return False
        raise
    return True


async def _found(command: Awaitable[None]) -> bool:
    """Whether *command* has found its key."""
    try:
        await command
    except NotFoundCommandError:
        return False
    return True


def _version() -> str:
    return secrets.token_hex(16)


def _joined(*parts: bytes) -> bytes:
    """*parts* as one, with their lengths: no two lists give the same."""
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def _hashed(*parts: bytes) -> bytes:
    return hashlib.sha256(_joined(*parts)).hexdigest().encode()


def _packed(key: bytes, value: bytes, version: str) -> bytes:
    packed = b"%b:%d:%b%b" % (version.encode(), len(key), key, value)
    return packed.replace(b"\\", b"\\\\").replace(b"\r", b"\\r")


def _unpacked(key: bytes, item: emcache.Item) -> Stored | None:
    """What was packed into *item*; None if it is another key's."""
    packed = b"\\".join(part.replace(b"\\r", b"\r") for part in item.value.split(b"\\\\"))
    version, _, rest = packed.partition(b":")
    length, _, rest = rest.partition(b":")
    if rest[: int(length)] != key:
        return None
    return Stored(rest[int(length) :], version.decode(), item.cas or 0)


async def make_cache(
    *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> MemcachedCache:
    """A client of the example's own server, or of the one at ``OMNITCK_MEMCACHED_URL``."""
    url = await servers.connect_info(servers.memcached, address)
    return await MemcachedCache.connect(url, namespace=namespace, tenant_id=tenant_id)
