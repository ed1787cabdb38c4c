"""`sagas` on PostgreSQL: a row for each saga, `sagas.sql`, and one statement for each operation.

An update names the version that it replaces, so the server decides who was first. A correlation is unique by an index over the
sagas that are not terminal. Times, those of leases too, are the server's; a listing goes on after the last row that it gave out,
and never counts rows. `run` and `recover` are those of `examples.common.orchestration`.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg

from examples import servers
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
    from_microseconds,
    scope,
    to_microseconds,
)
from examples.postgresql.connections import connected_now
from examples.postgresql.transactions import TransactionalClient
from omnitck.shared.exceptions import (
    SagaNotFoundError,
    SagaStateConflictError,
    TCKError,
)
from omnitck.shared.models import SagaLimits, SagaPage, SagaState

__all__ = ["PostgreSQLSagas", "create_schema", "make_sagas"]

NOW = "statement_timestamp()"
COLUMNS = "saga_id, saga_type, correlation_id, status, current_step, history, payload, version, created_at, updated_at"
HERE = "tenant = %(tenant)s AND saga_id = %(saga_id)s"

# As the indexes have it.
ACTIVE = "status IN ('RUNNING', 'COMPENSATING')"
LISTED = "status IN ('RUNNING', 'COMPENSATING', 'FAILED')"

# Whoever inserts the same id, or the same correlation, at the same time is waited for.
CREATE = """
INSERT INTO sagas (tenant, saga_id, saga_type, correlation_id, status, current_step, history, payload)
VALUES (
    %(tenant)s, %(saga_id)s, %(saga_type)s, %(correlation_id)s, %(status)s, %(current_step)s::bigint, %(history)s, %(payload)s
)
ON CONFLICT DO NOTHING RETURNING created_at, updated_at
"""

UPDATE = f"""
UPDATE sagas SET saga_type = %(saga_type)s, correlation_id = %(correlation_id)s, status = %(status)s,
    current_step = %(current_step)s::bigint, history = %(history)s, payload = %(payload)s,
    version = version + 1, updated_at = greatest(updated_at, {NOW})
WHERE {HERE} AND version = %(version)s::bigint RETURNING created_at, updated_at
"""

LIST = f"""
SELECT {COLUMNS}, {NOW} FROM sagas
WHERE tenant = %(tenant)s AND {LISTED} AND ({ACTIVE} OR %(include_failed)s::boolean)
    AND (updated_at, saga_id) > (%(after)s::timestamptz, %(saga_id)s::text)
    AND updated_at <= coalesce(%(until)s::timestamptz, 'infinity')
    AND updated_at <= coalesce({NOW} - make_interval(secs => %(older_than)s::float8), 'infinity')
ORDER BY updated_at, saga_id LIMIT %(limit)s
"""

# Rows that somebody else is just updating or claiming are left out.
CLAIM = f"""
UPDATE sagas SET worker = %(worker)s, leased_until = {NOW} + make_interval(secs => %(lease)s::float8)
WHERE tenant = %(tenant)s AND saga_id = ANY(ARRAY(
    SELECT saga_id FROM sagas
    WHERE tenant = %(tenant)s AND {ACTIVE} AND leased_until <= {NOW}
        AND updated_at <= {NOW} - make_interval(secs => %(older_than)s::float8)
    ORDER BY updated_at, saga_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
RETURNING {COLUMNS}
"""

RELEASE = f"""
UPDATE sagas SET worker = NULL, leased_until = '-infinity'
WHERE {HERE} AND worker = %(worker)s AND leased_until > {NOW} RETURNING saga_id
"""


class PostgreSQLSagas(TransactionalClient, Orchestrator):
    """Sagas in the database at *url*, whose schema `create_schema` made."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "list_incomplete correlation saga_lease delete transactional compensation_execution "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[SagaLimits] = SagaLimits(
        key_bytes=512, value_bytes=2**20, history=1000, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None, namespace: str | None = None) -> Self:
        """A client of the database at *url*; a *namespace* has sagas of its own. Connections are opened when they are needed."""
        return cls(url, scope(namespace, tenant_id))

    async def create_state(self, state: SagaState, *, tx: Any | None = None) -> SagaState:
        """Store *state* at version 1, in the transaction *tx* if there is one."""
        row = Row.of(state, self.limits)
        created = await self._query(f"create_state {row.saga_id!r}", CREATE, tx=tx, **row.columns())
        if not created:
            raise row.taken()
        return row.at(1, Span(*map(to_microseconds, created[0])))

    async def get_state(self, saga_id: str) -> SagaState | None:
        """The state as it was last committed, or None."""
        check_id(saga_id, self.limits)
        rows = await self._query(f"get_state {saga_id!r}", f"SELECT {COLUMNS} FROM sagas WHERE {HERE}", saga_id=saga_id)
        return _state(rows[0]) if rows else None

    async def update_state(self, state: SagaState, *, tx: Any | None = None) -> SagaState:
        """Store *state* in the place of its version, in the transaction *tx* if there is one."""
        row = Row.of(state, self.limits)
        what = f"update_state {row.saga_id!r}"
        try:
            updated = await self._query(what, UPDATE, tx=tx, version=row.version, **row.columns())
        except _CorrelationTakenError:
            raise row.taken() from None
        if not updated:
            raise await self._why_not(what, row.saga_id, tx)
        return row.at(row.version + 1, Span(*map(to_microseconds, updated[0])))

    async def delete_state(self, saga_id: str, version: int) -> None:
        """Remove the saga if it is at *version*."""
        check_id(saga_id, self.limits)
        what, number = f"delete_state {saga_id!r}", check_version(saga_id, version)
        statement = f"DELETE FROM sagas WHERE {HERE} AND version = %(version)s::bigint RETURNING saga_id"
        if not await self._query(what, statement, saga_id=saga_id, version=number):
            raise await self._why_not(what, saga_id, None)

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        """The saga of this type that is not terminal and is about *correlation_id*, or None."""
        statement = f"""
        SELECT {COLUMNS} FROM sagas
        WHERE tenant = %(tenant)s AND saga_type = %(saga_type)s AND correlation_id = %(correlation_id)s AND {ACTIVE}
        """
        check_correlation(saga_type, correlation_id, self.limits)
        what = f"find_by_correlation {correlation_id!r}"
        rows = await self._query(what, statement, saga_type=saga_type, correlation_id=correlation_id)
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
        most, after = check_count(limit, self.limits.page_size), Position.of(cursor)
        rows = await self._query(
            "list_incomplete",
            LIST,
            older_than=None if older_than is None else check_seconds("older_than", older_than),
            include_failed=bool(include_failed),
            after=from_microseconds(after.updated),
            saga_id=after.saga_id,
            until=None if after.until is None else from_microseconds(after.until),
            limit=most + 1,
        )
        if len(rows) <= most:
            return SagaPage([_state(row[:-1]) for row in rows])
        *_, updated, now = rows[most - 1]
        until = to_microseconds(now) if after.until is None else after.until
        last = Position(to_microseconds(updated), rows[most - 1][0], until)
        return SagaPage([_state(row[:-1]) for row in rows[:most]], last.cursor)

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        """Sagas that are not terminal and that nobody has: for *lease* seconds they are this worker's."""
        worker = check_worker(worker_id, self.limits)
        rows = await self._query(
            f"claim_stuck {worker!r}",
            CLAIM,
            worker=worker,
            lease=check_lease(lease, self.limits),
            older_than=check_seconds("older_than", older_than),
            limit=check_count(limit, self.limits.batch_size),
        )
        return [_state(row) for row in sorted(rows, key=lambda row: (row[-1], row[0]))]

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        """Give the saga back, if this worker has it."""
        check_id(saga_id, self.limits)
        worker = check_worker(worker_id, self.limits)
        return bool(await self._query(f"release_stuck {saga_id!r}", RELEASE, saga_id=saga_id, worker=worker))

    async def _why_not(self, what: str, saga_id: str, tx: Any | None) -> TCKError:
        rows = await self._query(what, f"SELECT version FROM sagas WHERE {HERE}", tx=tx, saga_id=saga_id)
        if not rows:
            return SagaNotFoundError(f"there is no saga {saga_id!r}")
        return SagaStateConflictError(f"saga {saga_id!r} is at version {rows[0][0]} by now")

    def _known(self, error: psycopg.Error) -> TCKError | None:
        if isinstance(error, psycopg.errors.UniqueViolation):
            return _CorrelationTakenError()
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            return SagaStateConflictError("another writer was there at the same time")
        return None


class _CorrelationTakenError(TCKError):
    """The index says so, which knows no saga's name."""


def _state(columns: tuple[Any, ...]) -> SagaState:
    *stored, created, updated = columns
    return (row := Row(*stored)).at(row.version, Span(to_microseconds(created), to_microseconds(updated)))


def create_schema(url: str) -> None:
    """Create what `sagas.sql` describes, unless it is there; several processes may do so at once."""
    with connected_now(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(7236835)")  # CREATE ... IF NOT EXISTS fails in a race
        if connection.execute("SELECT to_regclass('sagas')").fetchone() == (None,):
            connection.execute(Path(__file__).with_suffix(".sql").read_bytes())


async def make_sagas(
    *,
    tenant_id: str | None = None,
    namespace: str | None = None,
    address: tuple[str, int] | None = None,
    **config: object,
) -> PostgreSQLSagas:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLSagas.connect(url, tenant_id=tenant_id, namespace=namespace)
