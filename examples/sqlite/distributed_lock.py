"""`distributed_lock` on SQLite: a row for each lease, for the processes of one machine that share a file.

A lease ends by SQLite's own clock, which all of them read: it is the machine's. Each grant replaces the row of its lock, so
that AUTOINCREMENT gives it a number that no row had before, deleted ones included: that is the fencing token.

`fair` is not declared, as waiters ask again and again; nor is `availability`: there is no server to lose.
"""

from typing import ClassVar

from examples.common.locks import Locks
from examples.sqlite.connections import SQLiteClient, folder
from examples.sqlite.kv_store import NOW
from omnitck.shared.models import LockLimits

__all__ = ["SQLiteLocks", "make_locks"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS locks (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant BLOB NOT NULL,
    name BLOB NOT NULL,
    owner TEXT NOT NULL,
    expires REAL NOT NULL,
    UNIQUE (tenant, name)
)
"""
# An owner of the empty name is nobody: the lock is free, and cannot be had yet.

TICK = 0.002
"""Seconds by which leases are longer than asked: julianday has milliseconds, and what is below is cut off."""

TAKE = f"""
INSERT OR REPLACE INTO locks (tenant, name, owner, expires) SELECT :tenant, :name, :owner, {NOW} + :seconds
WHERE NOT EXISTS (SELECT 1 FROM locks WHERE tenant = :tenant AND name = :name AND expires > {NOW}) RETURNING token
"""

MINE = f"tenant = :tenant AND name = :name AND owner = :owner AND expires > {NOW}"

EXTEND = f"UPDATE locks SET expires = {NOW} + :seconds WHERE {MINE} RETURNING 1"

KEEP = f"UPDATE locks SET owner = '', expires = {NOW} + :seconds WHERE {MINE} RETURNING 1"

FREE = f"DELETE FROM locks WHERE {MINE} RETURNING 1"

LOOK = f"SELECT 1 FROM locks WHERE tenant = :tenant AND name = :name AND expires > {NOW}"


class SQLiteLocks(Locks, SQLiteClient):
    """Locks in one SQLite file; processes and threads may share it."""

    schema = (SCHEMA,)

    capabilities: ClassVar[frozenset[str]] = Locks.capabilities - {"availability"}
    limits: ClassVar[LockLimits] = LockLimits(key_bytes=1024, min_ttl=0.1, ttl_resolution=0.1, max_ttl=30 * 86_400.0, deliver=1.0)

    async def _take(self, name: bytes, owner: str, ttl: float, waits: bool) -> int | None:
        rows = await self._write(TAKE, name=name, owner=owner, seconds=ttl + TICK)
        return int(rows[0][0]) if rows else None

    async def _extend(self, name: bytes, owner: str, ttl: float) -> bool:
        return bool(await self._write(EXTEND, name=name, owner=owner, seconds=ttl + TICK))

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        return bool(await self._write(KEEP if keep > 0 else FREE, name=name, owner=owner, seconds=keep + TICK))

    async def _is_taken(self, name: bytes) -> bool:
        return bool(await self._read(LOOK, name=name))

    def _abort(self) -> None:
        self._connection.stop()


async def make_locks(*, tenant_id: str | None = None, **config: object) -> SQLiteLocks:
    """A client of this process's own file."""
    return await SQLiteLocks.connect(folder() / "locks.db", tenant_id=tenant_id)
