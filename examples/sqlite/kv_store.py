"""`kv_store` on SQLite: one file, one connection and worker thread a client, no server.

Keys and values are stored as their UTF-8 bytes. A BLOB is compared byte by byte, so nothing is folded or trimmed,
U+0000 is an ordinary character, and the order of the bytes is the order of the code points: a prefix is a range of
keys, with no LIKE and nothing to escape in it.

`watch` is not declared: SQLite tells nobody but the connection itself of a change. Nor is `availability`: there is no
server to lose.
"""

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import ClassVar

from examples.common import arguments
from examples.sqlite.connections import Row, SQLiteClient, folder
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError, UnsupportedError
from omnitck.shared.models import Entry, Expect, Limits, Put, Remove

__all__ = ["SQLiteKVStore", "make_store"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant BLOB NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    expires REAL NOT NULL,
    UNIQUE (tenant, key)
)
"""
# Every write replaces the row, so that AUTOINCREMENT gives it a number that no row had before, deleted ones included.
# That number is the version.

NOW = "((julianday('now') - 2440587.5) * 86400.0)"
# SQLite's own clock, read once in a statement and after the wait for the write lock; in seconds since 1970.

LIVE = f"tenant = :tenant AND expires > {NOW}"
# The tenant is a column of every condition, never a part of the key.

PUT = f"INSERT OR REPLACE INTO entries (tenant, key, value, expires) VALUES (:tenant, :key, :value, {NOW} + :ttl)"


class SQLiteKVStore(SQLiteClient):
    """A store in one SQLite file; processes and threads may share it."""

    schema = (SCHEMA,)

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "compare_and_set ttl list_prefix batch counter transaction linearizable binary lifecycle validation shared limits".split()
    )
    limits: ClassVar[Limits] = Limits(
        key_bytes=1024, value_bytes=2**20, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        value = await self.get_bytes(key)
        return None if value is None else arguments.decode_text(key, value)

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """Store *value*, for *ttl* seconds or for ever."""
        await self._set(key, arguments.encode_text(key, value, self.limits), ttl)

    async def delete(self, key: str) -> None:
        """Remove *key*."""
        encoded = arguments.encode_key(key, self.limits)
        sql = "DELETE FROM entries WHERE tenant = :tenant AND key = :key"
        await self._call(f"delete {key!r}", self._write(sql, key=encoded))

    async def get_bytes(self, key: str) -> bytes | None:
        """The value of *key* as bytes, or None."""
        row = await self._row(key, "value")
        return None if row is None else bytes(row[0])

    async def set_bytes(self, key: str, value: bytes) -> None:
        """Store *value*."""
        await self._set(key, arguments.encode_bytes(key, value, self.limits), None)

    async def expires_in(self, key: str) -> float | None:
        """Seconds left of *key*, None for ever."""
        row = await self._row(key, f"expires - {NOW}")
        if row is None:
            raise NotFoundError(f"{key!r} is absent")
        return None if math.isinf(row[0]) else float(row[0])

    async def get_entry(self, key: str) -> Entry | None:
        """The value of *key* with its version, or None."""
        row = await self._row(key, "value, version")
        return None if row is None else Entry(arguments.decode_text(key, row[0]), str(row[1]))

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """Store *value* for ever if *key* is at version *expected*, or absent if that is None; the new version."""
        encoded = arguments.encode_key(key, self.limits)
        content = arguments.encode_text(key, value, self.limits)
        version = None if expected is None else arguments.parse_version(key, expected)

        def work() -> str:
            row = self._one("SELECT version FROM entries", encoded)
            if (None if row is None else row[0]) != version:
                raise ConflictError(f"{key!r} is not at the expected version")
            stored = self._execute(f"{PUT} RETURNING version", key=encoded, value=content, ttl=math.inf)
            return str(stored[0][0])

        return await self._call(f"compare_and_set {key!r}", self._transaction(work))

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """Remove *key* if it is at version *expected*."""
        encoded = arguments.encode_key(key, self.limits)
        version = arguments.parse_version(key, expected)
        sql = f"DELETE FROM entries WHERE {LIVE} AND key = :key AND version = :version RETURNING version"
        if not await self._call(f"compare_and_delete {key!r}", self._write(sql, key=encoded, version=version)):
            raise ConflictError(f"{key!r} is not at the expected version")

    async def increment(self, key: str, delta: int = 1) -> int:
        """Add *delta* to the integer at *key* and return the sum."""
        encoded = arguments.encode_key(key, self.limits)
        delta = arguments.parse_delta(key, delta)

        def work() -> int:
            row = self._one("SELECT value, expires FROM entries", encoded)
            total = delta if row is None else arguments.parse_integer(key, row[0]) + delta
            if total not in arguments.INT64:
                raise InvalidArgumentError(f"the sum at {key!r} exceeds 64 bits")
            sql = "INSERT OR REPLACE INTO entries (tenant, key, value, expires) VALUES (:tenant, :key, :value, :expires)"
            expires = math.inf if row is None else row[1]
            self._execute(sql, key=encoded, value=b"%d" % total, expires=expires)
            return total

        return await self._call(f"increment {key!r}", self._transaction(work))

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every live key under *prefix*, in order; each page starts after the last key of the one before."""
        start, after = arguments.encode_prefix(prefix, self.limits), b""
        sql = f"SELECT key FROM entries WHERE {LIVE} AND key >= :start AND key > :after AND key < :end"
        sql += f" ORDER BY key LIMIT {self.limits.page_size}"
        while True:
            page = await self._call(
                f"list_keys {prefix!r}", self._read(sql, start=start, after=after, end=arguments.prefix_end(start))
            )
            for (key,) in page:
                yield key.decode()
            if len(page) < self.limits.page_size:
                return
            after = page[-1][0]

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Each of *keys* with its value or None."""
        self._check_open()
        wanted = {key: arguments.encode_key(key, self.limits) for key in keys}
        found: dict[str, str | None] = dict.fromkeys(wanted)
        for chunk in arguments.chunks(wanted.values(), self.limits.batch_size):
            names = {f"key{index}": key for index, key in enumerate(chunk)}
            sql = f"SELECT key, value FROM entries WHERE {LIVE} AND key IN ({', '.join(f':{name}' for name in names)})"
            what = f"get_many {[key.decode() for key in chunk]!r}"
            for key, value in await self._call(what, self._read(sql, **names)):
                found[key.decode()] = arguments.decode_text(key.decode(), value)
        return found

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store all *items*: each chunk in one transaction, the chunks one after another."""
        self._check_open()
        encoded = arguments.encode_items(items, self.limits)
        for chunk in arguments.chunks(encoded, self.limits.batch_size):

            def work(chunk: Sequence[tuple[bytes, bytes]] = chunk) -> None:
                for key, value in chunk:
                    self._execute(PUT, key=key, value=value, ttl=math.inf)

            await self._call(f"set_many {[key.decode() for key, _ in chunk]!r}", self._transaction(work))

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all *keys*."""
        self._check_open()
        encoded = dict.fromkeys(arguments.encode_key(key, self.limits) for key in keys)
        for chunk in arguments.chunks(encoded, self.limits.batch_size):
            names = {f"key{index}": key for index, key in enumerate(chunk)}
            sql = f"DELETE FROM entries WHERE tenant = :tenant AND key IN ({', '.join(f':{name}' for name in names)})"
            await self._call(f"delete_many {[key.decode() for key in chunk]!r}", self._write(sql, **names))

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        """Apply *ops* in one transaction of the database."""
        steps = arguments.encode_steps(ops, self.limits)

        def work() -> None:
            for kind, key, value in steps:
                if kind is Put:
                    self._execute(PUT, key=key, value=value, ttl=math.inf)
                elif kind is Remove:
                    self._execute("DELETE FROM entries WHERE tenant = :tenant AND key = :key", key=key)
                else:
                    row = self._one("SELECT value FROM entries", key)
                    if (None if row is None else row[0]) != value:
                        raise ConflictError(f"{key.decode()!r} does not hold what was expected")

        await self._call(f"transact {[step.key.decode() for step in steps]!r}", self._transaction(work))

    async def purge(self) -> None:
        """Remove expired entries. Only disk space asks for it: no operation sees them."""
        sql = f"DELETE FROM entries WHERE tenant = :tenant AND expires <= {NOW}"
        await self._call("purge", self._write(sql))

    async def _set(self, key: str, value: bytes, ttl: float | None) -> None:
        encoded = arguments.encode_key(key, self.limits)
        seconds = arguments.parse_ttl(key, ttl, self.limits) or math.inf
        await self._call(f"set {key!r}", self._write(PUT, key=encoded, value=value, ttl=seconds))

    async def _row(self, key: str, columns: str) -> Row | None:
        encoded = arguments.encode_key(key, self.limits)
        rows = await self._call(
            f"get {key!r}", self._read(f"SELECT {columns} FROM entries WHERE {LIVE} AND key = :key", key=encoded)
        )
        return rows[0] if rows else None

    def _one(self, select: str, key: bytes) -> Row | None:
        rows = self._execute(f"{select} WHERE {LIVE} AND key = :key", key=key)
        return rows[0] if rows else None


async def make_store(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> SQLiteKVStore:
    """A client of this process's own file."""
    if address is not None:
        raise UnsupportedError("SQLite is embedded: there is no address to connect to")
    return await SQLiteKVStore.connect(folder() / "kv.sqlite", tenant_id=tenant_id)
