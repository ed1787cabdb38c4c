"""`sagas` on SQLite: a row for each saga in one file.

An update looks at the version and writes in one transaction, which holds the write lock of the file from its start. A correlation
is unique by an index over the sagas that are not terminal. Times are those of the machine, read with the lock held.

`availability` is not declared: there is no server to lose.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any, ClassVar, Self

from examples.common.orchestration import Orchestrator
from examples.common.sagas import (
    Position,
    Row,
    Span,
    check_correlation,
    check_count,
    check_id,
    check_lease,
    check_seconds,
    check_version,
    check_worker,
    scope,
)
from examples.sqlite.connections import folder
from examples.sqlite.transactions import Execute, TransactionalClient
from omnitck.shared.exceptions import SagaNotFoundError, SagaStateConflictError, UnsupportedError
from omnitck.shared.models import SagaLimits, SagaPage, SagaState

__all__ = ["SQLiteSagas", "make_sagas"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS sagas (
    tenant BLOB NOT NULL,
    saga_id TEXT NOT NULL,
    saga_type TEXT NOT NULL,
    correlation_id TEXT,
    status TEXT NOT NULL,
    current_step INTEGER NOT NULL,
    history TEXT NOT NULL,
    payload TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    worker TEXT,
    leased_until INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, saga_id)
)
"""
# Times are microseconds since 1970.

ACTIVE = "status IN ('RUNNING', 'COMPENSATING')"
LISTED = "status IN ('RUNNING', 'COMPENSATING', 'FAILED')"

BY_CORRELATION = f"""
CREATE UNIQUE INDEX IF NOT EXISTS sagas_by_correlation ON sagas (tenant, saga_type, correlation_id)
WHERE correlation_id IS NOT NULL AND {ACTIVE}
"""
BY_UPDATE = f"CREATE INDEX IF NOT EXISTS sagas_by_update ON sagas (tenant, updated_at, saga_id) WHERE {LISTED}"

COLUMNS = "saga_id, saga_type, correlation_id, status, current_step, history, payload, version, created_at, updated_at"
HERE = "tenant = :tenant AND saga_id = :saga_id"

CREATE = """
INSERT INTO sagas (
    tenant, saga_id, saga_type, correlation_id, status, current_step, history, payload, version, created_at, updated_at
)
VALUES (:tenant, :saga_id, :saga_type, :correlation_id, :status, :current_step, :history, :payload, 1, :now, :now)
ON CONFLICT DO NOTHING RETURNING version
"""

UPDATE = f"""
UPDATE sagas SET saga_type = :saga_type, correlation_id = :correlation_id, status = :status, current_step = :current_step,
    history = :history, payload = :payload, version = version + 1, updated_at = max(updated_at, :now)
WHERE {HERE} AND version = :version RETURNING created_at, updated_at
"""

LIST = f"""
SELECT {COLUMNS} FROM sagas
WHERE tenant = :tenant AND {LISTED} AND ({ACTIVE} OR :include_failed)
    AND (updated_at, saga_id) > (:after, :saga_id) AND updated_at <= :until AND updated_at <= :now - :older_than
ORDER BY updated_at, saga_id LIMIT :limit
"""

CLAIM = f"""
UPDATE sagas SET worker = :worker, leased_until = :now + :lease
WHERE tenant = :tenant AND saga_id IN (
    SELECT saga_id FROM sagas
    WHERE tenant = :tenant AND {ACTIVE} AND leased_until <= :now AND updated_at <= :now - :older_than
    ORDER BY updated_at, saga_id LIMIT :limit
)
RETURNING {COLUMNS}
"""

RELEASE = f"""
UPDATE sagas SET worker = NULL, leased_until = 0
WHERE {HERE} AND worker = :worker AND leased_until > :now RETURNING saga_id
"""

FOREVER = 2**62


class SQLiteSagas(TransactionalClient, Orchestrator):
    """Sagas in one SQLite file; processes and threads may share it."""

    schema = (SCHEMA, BY_CORRELATION, BY_UPDATE)

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "list_incomplete correlation saga_lease delete transactional compensation_execution "
        "lifecycle validation shared limits".split()
    )
    limits: ClassVar[SagaLimits] = SagaLimits(
        key_bytes=512, value_bytes=2**20, history=1000, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    @classmethod
    async def connect(cls, path: str | Path, *, tenant_id: str | None = None, namespace: str | None = None) -> Self:
        """A client of the file at *path*, which is created where it is missing; a *namespace* has sagas of its own."""
        client = await super().connect(path, tenant_id=tenant_id)
        client._tenant = scope(namespace, tenant_id)
        return client

    async def create_state(self, state: SagaState, *, tx: Any | None = None) -> SagaState:
        """Store *state* at version 1, in the transaction *tx* if there is one."""
        row = Row.of(state, self.limits)

        def work(execute: Execute) -> SagaState:
            now = _now()
            if not execute(CREATE, now=now, **row.columns()):
                raise row.taken()
            return row.at(1, Span(now, now))

        return await self._atomically(f"create_state {row.saga_id!r}", work, tx)

    async def get_state(self, saga_id: str) -> SagaState | None:
        """The state as it was last committed, or None."""
        check_id(saga_id, self.limits)
        sql = f"SELECT {COLUMNS} FROM sagas WHERE {HERE}"
        rows = await self._call(f"get_state {saga_id!r}", self._read(sql, saga_id=saga_id))
        return _state(rows[0]) if rows else None

    async def update_state(self, state: SagaState, *, tx: Any | None = None) -> SagaState:
        """Store *state* in the place of its version, in the transaction *tx* if there is one."""
        row = Row.of(state, self.limits)

        def work(execute: Execute) -> SagaState:
            try:
                updated = execute(UPDATE, now=_now(), version=row.version, **row.columns())
            except sqlite3.IntegrityError:
                raise row.taken() from None
            if not updated:
                raise _why_not(execute, row.saga_id)
            return row.at(row.version + 1, Span(*updated[0]))

        return await self._atomically(f"update_state {row.saga_id!r}", work, tx)

    async def delete_state(self, saga_id: str, version: int) -> None:
        """Remove the saga if it is at *version*."""
        check_id(saga_id, self.limits)
        number = check_version(saga_id, version)

        def work(execute: Execute) -> None:
            sql = f"DELETE FROM sagas WHERE {HERE} AND version = :version RETURNING saga_id"
            if not execute(sql, saga_id=saga_id, version=number):
                raise _why_not(execute, saga_id)

        await self._atomically(f"delete_state {saga_id!r}", work)

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        """The saga of this type that is not terminal and is about *correlation_id*, or None."""
        check_correlation(saga_type, correlation_id, self.limits)
        sql = f"""
        SELECT {COLUMNS} FROM sagas
        WHERE tenant = :tenant AND saga_type = :saga_type AND correlation_id = :correlation_id AND {ACTIVE}
        """
        what = f"find_by_correlation {correlation_id!r}"
        rows = await self._call(what, self._read(sql, saga_type=saga_type, correlation_id=correlation_id))
        return _state(rows[0]) if rows else None

    async def list_incomplete(
        self,
        *,
        older_than: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
        include_failed: bool = False,
    ) -> SagaPage:
        """Sagas that are not terminal, those first that were updated longest ago; each page begins after the one before."""
        most, after, now = check_count(limit, self.limits.page_size), Position.of(cursor), _now()
        parameters = {
            "now": now,
            "older_than": 0 if older_than is None else round(check_seconds("older_than", older_than) * 1e6),
            "include_failed": bool(include_failed),
            "after": after.updated,
            "saga_id": after.saga_id,
            "until": FOREVER if after.until is None else after.until,
            "limit": most + 1,
        }
        if older_than is None:
            parameters["now"] = FOREVER  # whatever was updated while this waited for its turn in the thread
        rows = await self._call("list_incomplete", self._read(LIST, **parameters))
        states = [_state(row) for row in rows[:most]]
        if len(rows) <= most:
            return SagaPage(states)
        until = now if after.until is None else after.until
        return SagaPage(states, Position(rows[most - 1][-1], rows[most - 1][0], until).cursor)

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        """Sagas that are not terminal and that nobody has: for *lease* seconds they are this worker's."""
        worker = check_worker(worker_id, self.limits)
        parameters = {
            "worker": worker,
            "lease": round(check_lease(lease, self.limits) * 1e6),
            "older_than": round(check_seconds("older_than", older_than) * 1e6),
            "limit": check_count(limit, self.limits.batch_size),
        }

        def work(execute: Execute) -> list[SagaState]:
            return [_state(row) for row in sorted(execute(CLAIM, now=_now(), **parameters), key=lambda row: (row[-1], row[0]))]

        return await self._atomically(f"claim_stuck {worker!r}", work)

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        """Give the saga back, if this worker has it."""
        check_id(saga_id, self.limits)
        worker = check_worker(worker_id, self.limits)

        def work(execute: Execute) -> bool:
            return bool(execute(RELEASE, saga_id=saga_id, worker=worker, now=_now()))

        return await self._atomically(f"release_stuck {saga_id!r}", work)


def _now() -> int:
    return time.time_ns() // 1000


def _why_not(execute: Execute, saga_id: str) -> SagaNotFoundError | SagaStateConflictError:
    rows = execute(f"SELECT version FROM sagas WHERE {HERE}", saga_id=saga_id)
    if not rows:
        return SagaNotFoundError(f"there is no saga {saga_id!r}")
    return SagaStateConflictError(f"saga {saga_id!r} is at version {rows[0][0]} by now")


def _state(columns: tuple[Any, ...]) -> SagaState:
    *stored, created, updated = columns
    return (row := Row(*stored)).at(row.version, Span(created, updated))


async def make_sagas(
    *,
    tenant_id: str | None = None,
    namespace: str | None = None,
    address: tuple[str, int] | None = None,
    **config: object,
) -> SQLiteSagas:
    """A client of this process's own file."""
    if address is not None:
        raise UnsupportedError("SQLite is embedded: there is no address to connect to")
    return await SQLiteSagas.connect(folder() / "sagas.sqlite", tenant_id=tenant_id, namespace=namespace)
