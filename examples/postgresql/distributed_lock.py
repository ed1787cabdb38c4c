"""`distributed_lock` on PostgreSQL: a row for each lease, `distributed_lock.sql`, judged by the database's clock.

An advisory lock of PostgreSQL is no lease: it belongs to a session, ends with it and never before, is re-entrant, and a pooler
in between hands the session on. A row with an owner and an end has none of these traits, and what it guards can be changed in
the transaction that looks at it.

A row goes when its lock is released. One whose lease has ended stays until the lock is taken again, or `purge` is called.

Who waits has a row as well, and a place in the queue: `lock_take` gives the lock to nobody while somebody waits who came before.
He is there for as long as he asks again within `PLACE` seconds; who stops waiting is taken out.
"""

import asyncio
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg

from examples import servers
from examples.common import arguments
from examples.common.client import TIDYING
from examples.common.locks import Locks
from examples.postgresql.connections import DENIED, Connections, connected_now
from omnitck.shared.models import LockLimits

__all__ = ["PostgreSQLLocks", "create_schema", "make_locks"]

PLACE = 3.0
"""Seconds for which a waiter who does not ask has his place: as long may the others wait if his process was killed."""

TAKE = "SELECT lock_take(%(tenant)s, %(name)s, %(owner)s, %(seconds)s::float8, %(place)s::float8)"

MINE = "tenant = %(tenant)s AND name = %(name)s AND owner = %(owner)s AND expires > clock_timestamp()"

EXTEND = f"UPDATE locks SET expires = clock_timestamp() + make_interval(secs => %(seconds)s::float8) WHERE {MINE} RETURNING 1"

KEEP = f"""
UPDATE locks SET owner = '', expires = clock_timestamp() + make_interval(secs => %(seconds)s::float8) WHERE {MINE} RETURNING 1
"""

FREE = f"""
WITH place AS (DELETE FROM lock_waiters WHERE tenant = %(tenant)s AND name = %(name)s AND owner = %(owner)s)
DELETE FROM locks WHERE {MINE} RETURNING 1
"""

LEAVE = "DELETE FROM lock_waiters WHERE tenant = %(tenant)s AND owner = ANY(%(owners)s)"

LOOK = "SELECT 1 FROM locks WHERE tenant = %(tenant)s AND name = %(name)s AND expires > clock_timestamp()"


class PostgreSQLLocks(Locks):
    """Locks in the database at *url*, whose schema `create_schema` made."""

    capabilities: ClassVar[frozenset[str]] = Locks.capabilities | {"fair"}
    limits: ClassVar[LockLimits] = LockLimits(
        key_bytes=1024, min_ttl=0.1, ttl_resolution=0.1, max_ttl=30 * 86_400.0, deliver=PLACE + 1.0
    )

    _unavailable = (OSError, TimeoutError, psycopg.Error)
    _denied = DENIED

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__()
        self._tenant = arguments.encode_tenant(tenant_id)
        self._connections = Connections(url)
        self._waiting: set[str] = set()
        """Owners who may have a place in a queue."""

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the database at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

    async def purge(self) -> None:
        """Remove rows whose lease, or place, has ended. Only disk space asks for it: no operation sees them."""
        for table in ("locks", "lock_waiters"):
            statement = f"DELETE FROM {table} WHERE tenant = %(tenant)s AND expires <= clock_timestamp()"
            await self._call("purge", self._query(statement))

    async def _take(self, name: bytes, owner: str, ttl: float, waits: bool) -> int | None:
        if waits:
            self._waiting.add(owner)
        [(token,)] = await self._query(TAKE, name=name, owner=owner, seconds=ttl, place=PLACE if waits else None)
        if token is None:
            return None
        self._waiting.discard(owner)
        return int(token)

    async def _extend(self, name: bytes, owner: str, ttl: float) -> bool:
        return bool(await self._query(EXTEND, name=name, owner=owner, seconds=ttl))

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        freed = await self._query(KEEP if keep > 0 else FREE, name=name, owner=owner, seconds=keep)
        self._waiting.discard(owner)
        return bool(freed)

    async def _is_taken(self, name: bytes) -> bool:
        return bool(await self._query(LOOK, name=name))

    async def _query(self, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
        async with self._connections.one() as connection:
            cursor = await connection.execute(statement.encode(), {"tenant": self._tenant, **parameters}, binary=True)
            return await cursor.fetchall() if cursor.description else []

    async def _release(self) -> None:
        if self._waiting:
            leaving = asyncio.create_task(self._query(LEAVE, owners=list(self._waiting)))
            await asyncio.wait([leaving], timeout=TIDYING)
            if not leaving.done():
                self._connections.abort()  # psycopg would ask a silent server to stop, and wait for that too
            await asyncio.gather(leaving, return_exceptions=True)
        await self._connections.close()

    def _abort(self) -> None:
        self._waiting.clear()
        self._connections.abort()


def create_schema(url: str) -> None:
    """Create what `distributed_lock.sql` describes, unless it is there; several processes may do so at once."""
    with connected_now(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(7236837)")  # CREATE ... IF NOT EXISTS fails in a race
        if connection.execute("SELECT to_regclass('locks')").fetchone() == (None,):
            connection.execute(Path(__file__).with_suffix(".sql").read_bytes())


async def make_locks(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> PostgreSQLLocks:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLLocks.connect(url, tenant_id=tenant_id)
