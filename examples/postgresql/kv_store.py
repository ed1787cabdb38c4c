"""`kv_store` on PostgreSQL: a table, `kv_store.sql`, and one statement for each operation.

Statements run in autocommit mode at READ COMMITTED. A conditional write is an UPDATE whose condition the server judges
again after it has waited for another writer of the row; no transaction is ever left open across the network.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, LiteralString, Self

import psycopg
from psycopg import sql

from examples import servers
from examples.common import arguments
from examples.common.client import Client, Feed
from examples.postgresql.connections import DENIED, Connections, connected_now
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError, UnavailableError
from omnitck.shared.models import Change, Entry, Expect, Limits, Put, Remove

__all__ = ["PostgreSQLKVStore", "create_schema", "make_store"]

Row = tuple[Any, ...]

LIVE = "tenant = %(tenant)s AND expires > statement_timestamp()"
# The server's clock, the same throughout a statement, so that its conditions cannot disagree about what has expired.

PUT = """
INSERT INTO kv_entries (tenant, key, value, expires)
VALUES (
    %(tenant)s, %(key)s, %(value)s,
    coalesce(statement_timestamp() + make_interval(secs => %(ttl)s::float8), 'infinity')
)
ON CONFLICT (tenant, key) DO UPDATE
SET value = EXCLUDED.value, version = EXCLUDED.version, expires = EXCLUDED.expires
"""

CREATE = f"{PUT} WHERE kv_entries.expires <= statement_timestamp() RETURNING version"

REPLACE = f"""
UPDATE kv_entries SET value = %(value)s, version = nextval('kv_versions'), expires = 'infinity'
WHERE {LIVE} AND key = %(key)s AND version = %(version)s RETURNING version
"""

# The condition keeps the cast from failing: its error would quote the value.
INCREMENT = f"""
INSERT INTO kv_entries AS e (tenant, key, value) VALUES (%(tenant)s, %(key)s, %(value)s)
ON CONFLICT (tenant, key) DO UPDATE
SET version = EXCLUDED.version,
    value = CASE WHEN e.expires <= statement_timestamp() THEN EXCLUDED.value
        ELSE convert_to((convert_from(e.value, 'UTF8')::numeric + %(delta)s)::text, 'UTF8') END,
    expires = CASE WHEN e.expires <= statement_timestamp() THEN 'infinity' ELSE e.expires END
WHERE e.expires <= statement_timestamp() OR CASE WHEN encode(e.value, 'escape') ~ '^({arguments.INTEGER})$'
    THEN convert_from(e.value, 'UTF8')::numeric + %(delta)s BETWEEN {arguments.INT64[0]} AND {arguments.INT64[-1]} END
RETURNING value
"""

# Rows are locked in the order of their keys, here and below, so that two batches cannot wait for each other.
PUT_MANY = """
INSERT INTO kv_entries (tenant, key, value)
SELECT %(tenant)s, item.key, item.value
FROM unnest(%(keys)s::bytea[], %(values)s::bytea[]) AS item (key, value) ORDER BY item.key
ON CONFLICT (tenant, key) DO UPDATE
SET value = EXCLUDED.value, version = EXCLUDED.version, expires = EXCLUDED.expires
"""

DELETE_MANY = """
WITH doomed AS MATERIALIZED (
    SELECT key FROM kv_entries WHERE tenant = %(tenant)s AND key = ANY(%(keys)s::bytea[]) ORDER BY key FOR UPDATE
)
DELETE FROM kv_entries USING doomed WHERE tenant = %(tenant)s AND kv_entries.key = doomed.key
"""

LIST = f"""
SELECT key FROM kv_entries
WHERE {LIVE} AND key >= %(start)s AND key > %(after)s AND key < %(end)s ORDER BY key LIMIT %(limit)s
"""


class PostgreSQLKVStore(Client):
    """A store in the database at *url*, whose schema `create_schema` made."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "compare_and_set ttl list_prefix batch counter watch transaction linearizable binary "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[Limits] = Limits(
        key_bytes=1024, value_bytes=2**20, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    _unavailable = (OSError, TimeoutError, psycopg.Error)
    _denied = DENIED

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__()
        self._tenant = arguments.encode_tenant(tenant_id)
        self._connections = Connections(url)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the database at *url*; connections are opened when they are needed."""
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
        encoded = arguments.encode_key(key, self.limits)
        statement = "DELETE FROM kv_entries WHERE tenant = %(tenant)s AND key = %(key)s"
        await self._query(f"delete {key!r}", statement, key=encoded)

    async def get_bytes(self, key: str) -> bytes | None:
        """The value of *key* as bytes, or None."""
        row = await self._row(key, "value")
        return None if row is None else bytes(row[0])

    async def set_bytes(self, key: str, value: bytes) -> None:
        """Store *value*."""
        await self._set(key, arguments.encode_bytes(key, value, self.limits), None)

    async def expires_in(self, key: str) -> float | None:
        """Seconds left of *key*, None for ever."""
        left = "extract(epoch FROM CASE WHEN expires < 'infinity' THEN expires - statement_timestamp() END)::float8"
        row = await self._row(key, left)
        if row is None:
            raise NotFoundError(f"{key!r} is absent")
        return None if row[0] is None else float(row[0])

    async def get_entry(self, key: str) -> Entry | None:
        """The value of *key* with its version, or None."""
        row = await self._row(key, "value, version")
        return None if row is None else Entry(arguments.decode_text(key, row[0]), str(row[1]))

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """Store *value* for ever if *key* is at version *expected*, or absent if that is None; the new version."""
        encoded = arguments.encode_key(key, self.limits)
        content = arguments.encode_text(key, value, self.limits)
        version = None if expected is None else arguments.parse_version(key, expected)
        statement = CREATE if version is None else REPLACE
        rows = await self._query(f"compare_and_set {key!r}", statement, key=encoded, value=content, version=version, ttl=None)
        if not rows:
            raise ConflictError(f"{key!r} is not at the expected version")
        return str(rows[0][0])

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """Remove *key* if it is at version *expected*."""
        encoded, version = arguments.encode_key(key, self.limits), arguments.parse_version(key, expected)
        statement = f"DELETE FROM kv_entries WHERE {LIVE} AND key = %(key)s AND version = %(version)s RETURNING version"
        if not await self._query(f"compare_and_delete {key!r}", statement, key=encoded, version=version):
            raise ConflictError(f"{key!r} is not at the expected version")

    async def increment(self, key: str, delta: int = 1) -> int:
        """Add *delta* to the integer at *key* and return the sum."""
        encoded, delta = arguments.encode_key(key, self.limits), arguments.parse_delta(key, delta)
        rows = await self._query(f"increment {key!r}", INCREMENT, key=encoded, value=b"%d" % delta, delta=delta)
        if not rows:
            raise InvalidArgumentError(f"the value of {key!r}, or the sum, is not an integer of 64 bits")
        return int(rows[0][0])

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every live key under *prefix*, in order; each page starts after the last key of the one before."""
        start, after = arguments.encode_prefix(prefix, self.limits), b""
        size = self.limits.page_size
        while True:
            what, end = f"list_keys {prefix!r}", arguments.prefix_end(start)
            page = await self._query(what, LIST, start=start, after=after, end=end, limit=size)
            for (key,) in page:
                yield key.decode()
            if len(page) < size:
                return
            after = page[-1][0]

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Each of *keys* with its value or None."""
        self._check_open()
        wanted = {key: arguments.encode_key(key, self.limits) for key in keys}
        found: dict[str, str | None] = dict.fromkeys(wanted)
        for chunk in arguments.chunks(wanted.values(), self.limits.batch_size):
            statement = f"SELECT key, value FROM kv_entries WHERE {LIVE} AND key = ANY(%(keys)s::bytea[])"
            for key, value in await self._query(f"get_many {_names(chunk)}", statement, keys=chunk):
                found[key.decode()] = arguments.decode_text(key.decode(), value)
        return found

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store all *items*: each chunk in one statement, the chunks one after another."""
        self._check_open()
        encoded = arguments.encode_items(items, self.limits)
        for chunk in arguments.chunks(encoded, self.limits.batch_size):
            keys, values = [key for key, _ in chunk], [value for _, value in chunk]
            await self._query(f"set_many {_names(keys)}", PUT_MANY, keys=keys, values=values)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all *keys*."""
        self._check_open()
        for chunk in arguments.chunks([arguments.encode_key(key, self.limits) for key in keys], self.limits.batch_size):
            await self._query(f"delete_many {_names(chunk)}", DELETE_MANY, keys=chunk)

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        """Apply *ops* in one function of the database."""
        steps = arguments.encode_steps(ops, self.limits)
        [(failed,)] = await self._query(
            f"transact {_names(step.key for step in steps)}",
            "SELECT kv_transact(%(tenant)s, %(kinds)s::text[], %(keys)s::bytea[], %(values)s::bytea[])",
            kinds=[step.kind.__name__.lower() for step in steps],
            keys=[step.key for step in steps],
            values=[step.value for step in steps],
        )
        if failed:
            raise ConflictError(f"{steps[failed - 1].key.decode()!r} does not hold what was expected")

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[AsyncIterator[Change]]:
        """Changes under *prefix* from now on: the table's triggers notify, this listens on a connection of its own.

        An expiry is no change: nothing happens in the database when it is due. A value of more than 2000 bytes is read
        when its notification arrives, and may then be a later one.
        """
        start = arguments.encode_prefix(prefix, self.limits)
        self._check_open()
        feed, listening = Feed[Change](), asyncio.get_running_loop().create_future()
        pump = self._start(self._pump(start, feed, listening))
        self._feeds.add(feed)

        async def established() -> None:
            await listening

        try:
            await self._call(f"watch {prefix!r}", established())
            yield feed
        finally:
            self._feeds.discard(feed)
            feed.end()
            pump.cancel()

    async def purge(self) -> None:
        """Remove expired entries. Only disk space asks for it: no operation sees them."""
        await self._query("purge", "DELETE FROM kv_entries WHERE tenant = %(tenant)s AND expires <= statement_timestamp()")

    async def _pump(self, start: bytes, feed: Feed[Change], listening: asyncio.Future[None]) -> None:
        """Feed what a connection of its own hears; it is this task's from beginning to end, so none is left behind."""
        channel = f"kv_{hashlib.sha256(self._tenant).hexdigest()[:60]}"  # an identifier has at most 63 bytes
        try:
            async with self._connections.extra() as connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                if not listening.done():
                    listening.set_result(None)
                async with contextlib.aclosing(connection.notifies()) as notices:
                    async for notice in notices:
                        name, _, content = notice.payload.split(" ")
                        if (key := bytes.fromhex(name)).startswith(start):
                            feed.put(Change(key.decode(), await self._changed(key.decode(), content)))
        except (*self._unavailable, UnavailableError) as error:
            if not listening.done():
                listening.set_exception(error)
            lost = UnavailableError("watch: the connection was lost; changes may have been missed")
            lost.__cause__ = error
            feed.end(lost)

    async def _changed(self, key: str, content: str) -> str | None:
        if content == "-":
            return None
        value = await self.get_bytes(key) if content == "?" else bytes.fromhex(content[1:])
        return None if value is None else value.decode(errors="replace")  # a Change holds text, whatever was stored

    async def _set(self, key: str, value: bytes, ttl: float | None) -> None:
        encoded, seconds = arguments.encode_key(key, self.limits), arguments.parse_ttl(key, ttl, self.limits)
        await self._query(f"set {key!r}", PUT, key=encoded, value=value, ttl=seconds)

    async def _row(self, key: str, columns: LiteralString) -> Row | None:
        encoded = arguments.encode_key(key, self.limits)
        statement = f"SELECT {columns} FROM kv_entries WHERE {LIVE} AND key = %(key)s"
        rows = await self._query(f"get {key!r}", statement, key=encoded)
        return rows[0] if rows else None

    async def _query(self, what: str, statement: str, **parameters: object) -> list[Row]:
        async def work() -> list[Row]:
            async with self._connections.one() as connection:
                cursor = await connection.execute(statement.encode(), {"tenant": self._tenant, **parameters}, binary=True)
                return await cursor.fetchall() if cursor.description else []

        return await self._call(what, work())

    async def _release(self) -> None:
        await self._connections.close()


def _names(keys: Iterable[bytes]) -> str:
    return repr([key.decode() for key in keys])


def create_schema(url: str) -> None:
    """Create what `kv_store.sql` describes, unless it is there; several processes may do so at once."""
    with connected_now(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(7236832)")  # CREATE ... IF NOT EXISTS fails in a race
        if connection.execute("SELECT to_regclass('kv_entries')").fetchone() == (None,):
            connection.execute(Path(__file__).with_suffix(".sql").read_bytes())


async def make_store(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> PostgreSQLKVStore:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLKVStore.connect(url, tenant_id=tenant_id)
