"""`cache` on diskcache, a library that keeps a cache in a folder: files, and SQLite to find them.

The library is wrapped as it is: each operation is one method of `diskcache.Cache`, called in a thread, under the contract's name.
Nothing is checked, converted or repaired, so that the certificate is the library's own. The two things that the library does not
know, namespaces and tenants, are a folder each.

Not declared:

- `lifecycle`: `close()` closes the connection of the calling thread alone, and the next operation opens another;
- `validation`: any object that can be pickled is a key, any a value;
- `limits`: there is none for a key or a value;
- `binary`: what was set as text is got as text, never as its UTF-8 form;
- `counter`: `incr` adds to an integer, not to text that spells one;
- `batch`, `compare_and_set`: there are no such methods;
- `get_or_set`: `memoize` decorates a function, and `memoize_stampede` computes early by chance; neither is told a key;
- `availability`: there is no server to lose.

Text of 32 KiB and more is kept in a file, which is read with universal newlines: each carriage return comes back as a line feed,
or, before one, not at all. A time to live of 0 or less makes a value that has expired, True is one second, NaN is for ever.

A folder that cannot be written, or that holds a damaged database, is `UnavailableError` when the cache is opened. Later the
errors of operations are those of the library: `sqlite3.Error`, `OSError`, and `diskcache.Timeout`.
"""

import asyncio
import atexit
import hashlib
import shutil
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar, Self

import diskcache

from examples.common import arguments
from omnitck.shared.exceptions import NotFoundError, UnavailableError, UnsupportedError
from omnitck.shared.models import CacheLimits, Limits

__all__ = ["DiskCache", "make_cache"]

SIZE = 2**25
"""Bytes, those of SQLite included, above which the library evicts, ten entries with each write."""


class DiskCache:
    """A cache in a folder; processes and threads may share it."""

    capabilities: ClassVar[frozenset[str]] = frozenset("add touch ttl_query clear bounded shared".split())
    limits: ClassVar[Limits] = CacheLimits(min_ttl=0.01, ttl_resolution=0.1)

    def __init__(self, cache: diskcache.Cache) -> None:
        self._cache = cache

    @classmethod
    async def connect(cls, folder: str | Path) -> Self:
        """Open the cache in *folder*, creating it where it is missing."""
        try:
            return cls(await asyncio.to_thread(diskcache.Cache, str(folder), size_limit=SIZE))
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise UnavailableError(f"no cache can be opened in {folder}") from error

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        value: str | None = await asyncio.to_thread(self._cache.get, key)
        return value

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """Store *value*, for *ttl* seconds or for ever."""
        await asyncio.to_thread(self._cache.set, key, value, expire=ttl)

    async def delete(self, key: str) -> None:
        """Remove *key*."""
        await asyncio.to_thread(self._cache.delete, key)

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store *value* if *key* is absent; whether it was."""
        return bool(await asyncio.to_thread(self._cache.add, key, value, expire=ttl))

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Let *key* live for *ttl* seconds from now, or for ever; whether it is present."""
        return bool(await asyncio.to_thread(self._cache.touch, key, expire=ttl))

    async def expires_in(self, key: str) -> float | None:
        """Seconds left of *key*, None for ever."""
        value, expires = await asyncio.to_thread(self._cache.get, key, expire_time=True)
        if value is None:
            raise NotFoundError(f"{key!r} is absent")
        return None if expires is None else expires - time.time()

    async def clear(self) -> None:
        """Remove everything in the folder."""
        await asyncio.to_thread(self._cache.clear)


_folders: list[Path] = []
_folders_lock = threading.Lock()


def _folder() -> Path:
    """This process's own folder, removed at its end."""
    with _folders_lock:
        if not _folders:
            _folders.append(Path(tempfile.mkdtemp(prefix="omnitck-diskcache-")))
            atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
        return _folders[0]


async def make_cache(
    *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> DiskCache:
    """A client of this process's own folder, below which each namespace of each tenant has one."""
    if address is not None:
        raise UnsupportedError("diskcache is embedded: there is no address to connect to")
    names = (namespace.encode(), arguments.encode_tenant(tenant_id))
    return await DiskCache.connect(_folder().joinpath(*(hashlib.sha256(name).hexdigest() for name in names)))
