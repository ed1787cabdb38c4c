"""Correct repositories of sagas of an unusual kind."""

import asyncio
import copy
import itertools
import json
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.reference.sagas import CAPABILITIES, Lease, MemorySagas, MemorySagaServer, SagaTransaction, StoredSaga
from omnitck.resilience.sagas import SagasContract
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    SagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateConflictError,
    TooLargeError,
    UnavailableError,
)
from omnitck.shared.models import SagaContext, SagaLimits, SagaPage, SagaState, SagaStatus, SagaStep, SagaStepHistory
from omnitck.unusual import unusual
from omnitck.unusual.clients import GroupingClient, connected

__all__ = ["Coarse", "Deferred", "Durable", "Embedded", "Grouped", "Plainest"]


# The plainest.


class Dictionary:
    """Three methods over a dictionary, which keeps what it is given as text."""

    def __init__(self, rows: dict[str, tuple[SagaState, str]]) -> None:
        self._rows = rows

    async def create_state(self, state: SagaState) -> SagaState:
        if state.saga_id in self._rows:
            raise SagaAlreadyExistsError(state.saga_id)
        return self._keep(replace(state, version=1))

    async def get_state(self, saga_id: str) -> SagaState | None:
        if saga_id not in self._rows:
            return None
        state, payload = self._rows[saga_id]
        return replace(state, payload=json.loads(payload))

    async def update_state(self, state: SagaState) -> SagaState:
        if state.saga_id not in self._rows:
            raise SagaNotFoundError(state.saga_id)
        if self._rows[state.saga_id][0].version != state.version:
            raise SagaStateConflictError(state.saga_id)
        return self._keep(replace(state, version=state.version + 1))

    def _keep(self, state: SagaState) -> SagaState:
        state = replace(state, history=tuple(state.history))
        self._rows[state.saga_id] = state, json.dumps(state.payload, sort_keys=True)
        return replace(state, payload=json.loads(self._rows[state.saga_id][1]))


@unusual
class Plainest(SagasContract):
    """Three methods over a dictionary: no capability, no times, no method that closes, and never a turn of the event loop.

    A rule that needs more than the core demands would reject it.
    """

    def setUp(self) -> None:
        self.rows: dict[str, tuple[SagaState, str]] = {}

    async def make_provider(self, **config: object) -> Dictionary:
        return Dictionary(self.rows)


# A server with a clock of its own, which ticks seldom, and opaque revisions.


class Conflict(SagaStateConflictError):
    """A revision is not the last one."""


class Duplicate(SagaAlreadyExistsError):
    """A row is there."""


class Lacking(SagaNotFoundError):
    """A row is not there."""


class Refused(InvalidArgumentError):
    """The server does not take this."""


class Oversized(TooLargeError):
    """The server has no room for this."""


class Ended(ClosedError):
    """The session is over."""


class NoRoute(UnavailableError):
    """The server is out of reach."""


class Word(str):
    """A status, as a driver gives it."""


class Payload(dict[str, Any]):
    """A document, as a driver gives it."""


@dataclass(frozen=True, kw_only=True)
class RowState(SagaState):
    """A state with what the server knows besides."""

    revision: str = ""


@dataclass
class Row:
    """What the server holds of a saga."""

    revision: str
    number: int
    fields: dict[str, Any]
    document: str
    created: float
    updated: float
    touched: int
    worker: str = ""
    until: float = 0.0


@dataclass
class Table:
    """The server: rows under opaque revisions, and a clock that is years off and ticks every tenth of a second."""

    tick: float = 0.1
    origin: datetime = datetime(2041, 7, 1, tzinfo=UTC)
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    updates: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    reachable: bool = True
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def now(self) -> float:
        """Seconds since the last tick was counted: never ahead."""
        return math.floor(time.monotonic() / self.tick) * self.tick


class TableSagas:
    """A client that takes up to 20 ms a call, gives small pages, and answers with subclasses of everything."""

    capabilities = frozenset(
        "list_incomplete correlation saga_lease delete lifecycle validation shared availability limits".split()
    )
    limits = SagaLimits(min_ttl=0.3, ttl_resolution=0.25, page_size=4)

    def __init__(self, table: Table, space: str = "") -> None:
        self._table = table
        self._space = space
        self._closed = False

    async def _trip(self) -> None:
        for _ in range(2):
            if self._closed:
                raise Ended("this session is over")
            if not self._table.reachable:
                raise NoRoute("no answer") from OSError("no route to host")
            await anyio.sleep(self._table.chance.uniform(0, 0.01))
        if self._closed:
            raise Ended("this session is over")

    async def create_state(self, state: SagaState) -> SagaState:
        fields, document = self._checked(state)
        await self._trip()
        key = (self._space, state.saga_id)
        if key in self._table.rows:
            raise Duplicate(f"{state.saga_id!r} is there")
        self._check_unique(state)
        now = self._table.now()
        self._table.rows[key] = Row(uuid.uuid4().hex, 1, fields, document, now, now, next(self._table.updates))
        return self._shown(state.saga_id)

    async def get_state(self, saga_id: str) -> SagaState | None:
        self._check_id(saga_id)
        await self._trip()
        return self._shown(saga_id) if (self._space, saga_id) in self._table.rows else None

    async def update_state(self, state: SagaState) -> SagaState:
        fields, document = self._checked(state)
        self._check_version(state.saga_id, state.version)
        await self._trip()
        row = self._row(state.saga_id, state.version)
        self._check_unique(state)
        row.revision, row.number, row.fields, row.document = uuid.uuid4().hex, row.number + 1, fields, document
        row.updated, row.touched = self._table.now(), next(self._table.updates)
        return self._shown(state.saga_id)

    async def delete_state(self, saga_id: str, version: int) -> None:
        self._check_id(saga_id)
        self._check_version(saga_id, version)
        await self._trip()
        self._row(saga_id, version)
        del self._table.rows[self._space, saga_id]

    async def list_incomplete(
        self,
        *,
        older_than: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
        include_failed: bool = False,
        consistent: bool = True,
    ) -> SagaPage:
        self._check_numbers(limit=limit, older_than=0 if older_than is None else older_than)
        after = self._after(cursor)
        await self._trip()
        # A page is what is found in so many rows: it may be empty, and have a cursor.
        rows = sorted((row.touched, saga_id) for (space, saga_id), row in self._table.rows.items() if space == self._space)
        scanned = [each for each in rows if each[0] > after][: min(limit, self.limits.page_size)]
        found = [saga_id for _, saga_id in scanned if self._is_stuck(saga_id, older_than or 0.0, include_failed)]
        more = bool(scanned) and scanned[-1] != rows[-1]
        return SagaPage(tuple(map(self._shown, found)), f"~{scanned[-1][0]}" if more else None)

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        await self._trip()
        found = self._correlated(saga_type, correlation_id)
        return None if found is None else self._shown(found)

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        self._check_worker(worker_id)
        self._check_numbers(limit=limit, older_than=older_than, lease=lease)
        if not lease > 0:
            raise Refused("a lease is above 0")
        await self._trip()
        now = time.monotonic()
        rows = [
            (row.touched, saga_id, row)
            for (space, saga_id), row in self._table.rows.items()
            if space == self._space
            and self._is_stuck(saga_id, older_than, False)
            and (row.until <= now or row.worker == worker_id)
        ]
        # Who asks again is given again what it has; and what is younger comes first.
        chosen = sorted(rows, key=lambda each: (each[2].worker == worker_id and each[2].until > now, -each[0]))[: min(limit, 4)]
        for _, _, row in chosen:
            until = now + max(lease, self.limits.min_ttl) + 0.2
            row.worker, row.until = worker_id, max(until, row.until)
        return [self._shown(saga_id) for _, saga_id, _ in chosen]

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        self._check_id(saga_id)
        self._check_worker(worker_id)
        await self._trip()
        row = self._table.rows.get((self._space, saga_id))
        if row is None or row.worker != worker_id or row.until <= time.monotonic():
            return False
        row.worker, row.until = "", 0.0
        return True

    async def close(self) -> None:
        await anyio.sleep(0.005)
        self._closed = True

    async def __aenter__(self) -> Self:
        await anyio.sleep(0.02)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _row(self, saga_id: str, version: int) -> Row:
        row = self._table.rows.get((self._space, saga_id))
        if row is None:
            raise Lacking(f"{saga_id!r} is not there")
        if row.number != version:
            raise Conflict(f"{saga_id!r} has revision {row.revision}")
        return row

    def _is_stuck(self, saga_id: str, older_than: float, failed: bool) -> bool:
        row = self._table.rows[self._space, saga_id]
        status = SagaStatus(row.fields["status"])
        wanted = not status.terminal or (failed and status is SagaStatus.FAILED)
        return wanted and row.updated <= self._table.now() - older_than + (self._table.tick if older_than else 0.0)

    def _correlated(self, saga_type: str, correlation_id: object, but: str = "") -> str | None:
        for (space, saga_id), row in self._table.rows.items():
            same = (row.fields["saga_type"], row.fields["correlation_id"]) == (saga_type, correlation_id)
            runs = not SagaStatus(row.fields["status"]).terminal
            if correlation_id is not None and same and runs and space == self._space and saga_id != but:
                return saga_id
        return None

    def _check_unique(self, state: SagaState) -> None:
        if not SagaStatus(state.status).terminal and self._correlated(state.saga_type, state.correlation_id, state.saga_id):
            raise Duplicate(f"{state.saga_id!r}: another has its correlation")

    def _shown(self, saga_id: str) -> RowState:
        row = self._table.rows[self._space, saga_id]
        return RowState(
            saga_id=saga_id,
            status=Word(row.fields["status"]),
            current_step=row.fields["current_step"],
            history=tuple(SagaStepHistory(*each) for each in row.fields["history"]),
            payload=Payload(json.loads(row.document)),
            version=row.number,
            saga_type=row.fields["saga_type"],
            correlation_id=row.fields["correlation_id"],
            created_at=self._table.origin + timedelta(seconds=row.created),
            updated_at=self._table.origin + timedelta(seconds=row.updated),
            revision=row.revision,
        )

    def _checked(self, state: SagaState) -> tuple[dict[str, Any], str]:
        self._check_id(state.saga_id)
        named = repr(state.saga_id)
        if state.status not in tuple(SagaStatus):
            raise Refused(f"{named}: no such status")
        if isinstance(state.current_step, bool) or not isinstance(state.current_step, int):
            raise Refused(f"{named}: current_step")
        if not isinstance(state.saga_type, str) or not isinstance(state.correlation_id, str | None):
            raise Refused(f"{named}: saga_type and correlation_id are texts")
        if not isinstance(state.payload, Mapping) or not _is_json(dict(state.payload)):
            raise Refused(f"{named}: the payload is no JSON object")
        if not all(isinstance(each, SagaStepHistory) for each in state.history):
            raise Refused(f"{named}: the history is of SagaStepHistory")
        document = json.dumps(dict(state.payload), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if len(document.encode()) > self.limits.value_bytes or len(state.history) > self.limits.history:
            raise Oversized(f"{named}: too large")
        fields = {
            "status": str(state.status),
            "current_step": state.current_step,
            "history": [(each.step_name, each.status) for each in state.history],
            "saga_type": state.saga_type,
            "correlation_id": state.correlation_id,
        }
        return fields, document

    def _check_id(self, saga_id: object) -> None:
        if not isinstance(saga_id, str):
            raise Refused("an id is text")
        try:
            size = len(saga_id.encode())
        except UnicodeEncodeError:
            size = 0
        if not size or "\0" in saga_id:
            raise Refused(f"{saga_id!r} is no id")
        if size > self.limits.key_bytes:
            raise Oversized(f"{saga_id!r} is too long")

    def _check_version(self, saga_id: str, version: object) -> None:
        if not isinstance(version, int):
            raise Refused(f"{saga_id!r}: {version!r} is no version")

    def _check_worker(self, worker_id: object) -> None:
        if not isinstance(worker_id, str) or not worker_id:
            raise Refused(f"{worker_id!r} is no worker")

    def _check_numbers(self, **numbers: object) -> None:
        for name, each in numbers.items():
            is_whole = isinstance(each, int) and each >= 1
            is_time = isinstance(each, int | float) and each >= 0
            if not (is_whole if name == "limit" else is_time):
                raise Refused(f"{name}={each!r}")

    def _after(self, cursor: object) -> int:
        if cursor is None:
            return 0
        if not isinstance(cursor, str) or not cursor.startswith("~"):
            raise Refused("no cursor of this store")
        return int(cursor[1:])


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(each) for name, each in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


@unusual
class Coarse(SagasContract):
    """A server whose clock is years off and ticks seldom; pages of 4 rows that may be empty, subclasses of every answer.

    A worker that asks again is given again what it has, the youngest first, and each lease lasts as long as is allowed. A rule
    that looks at a clock of its own, at types, or at the length of a page would reject it.
    """

    capabilities = TableSagas
    patience = 2.0

    def setUp(self) -> None:
        self.table = Table()

    async def make_provider(self, *, namespace: str = "", **config: object) -> TableSagas:
        return TableSagas(self.table, namespace)

    async def unreachable_provider(self) -> TableSagas:
        return TableSagas(Table(reachable=False))

    async def crash(self, client: TableSagas) -> None:
        client._closed = True


# A client in a task group of its own, which collects what it is asked for.


class GroupedSagas(GroupingClient[MemorySagas]):
    """An orchestrator whose steps are done by tasks of the client's own."""

    async def create_state(self, state: SagaState) -> SagaState:
        return await self._ask(lambda: self._inner.create_state(state))

    async def get_state(self, saga_id: str) -> SagaState | None:
        return await self._ask(lambda: self._inner.get_state(saga_id))

    async def update_state(self, state: SagaState) -> SagaState:
        return await self._ask(lambda: self._inner.update_state(state))

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        options: dict[str, Any] = {"older_than": older_than, "limit": limit, "cursor": cursor, "include_failed": include_failed}
        return await self._ask(lambda: self._inner.list_incomplete(**options))

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        self._inner.check_usable()
        return await self._work_apart(lambda: self._inner.run(saga_id, steps, payload))

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        self._inner.check_usable()
        return await self._work_apart(lambda: self._inner.recover(saga_id, steps))

    async def _work_apart(self, execute: Callable[[], Any]) -> SagaState:
        """What *execute* comes to in a task of the client's; it ends with who asked for it, and with the client."""
        scope, done = self._new_scope(), anyio.Event()
        came: list[SagaState] = []
        failed: list[Exception] = []

        async def work() -> None:
            try:
                with scope:
                    came.append(await execute())
            except Exception as error:
                failed.append(error)
            finally:
                done.set()

        self._tasks.start_soon(work)
        try:
            await done.wait()
        finally:
            scope.cancel()
            self._scopes.discard(scope)
        if failed:
            raise failed[0]
        if not came:
            raise ClosedError("this client is closed")
        return came[0]

    def vanish(self) -> None:
        """End every task, and tell nobody."""
        self._inner.vanish()
        for scope in self._scopes:
            scope.cancel()


@unusual
class Grouped(SagasContract, MultiTenancyPolicy):
    """A client with a task group of its own, in which it collects requests and executes sagas; 0 to 20 ms a call.

    A rule that expects a step in the task of its caller would reject it.
    """

    capabilities = frozenset("list_incomplete compensation_execution lifecycle validation shared availability limits".split())
    limits = SagaLimits(page_size=10)

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.server = MemorySagaServer(clock=self.clock, limits=self.limits)
        self.chance = random.Random(3)

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> Any:
        inner = MemorySagas(self.server, tenant_id=tenant_id, namespace=namespace, capabilities=self.declared)
        return connected(GroupedSagas, inner, self.chance)

    async def unreachable_provider(self) -> Any:
        return connected(GroupedSagas, MemorySagas(MemorySagaServer(reachable=False), capabilities=self.declared), self.chance)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def crash(self, client: GroupedSagas) -> None:
        client.vanish()


# An embedded database with one writer, whose transactions wait for each other.


class EmbeddedSagas(MemorySagas):
    """Each write takes the one lock of its file for its transaction; what fails there fails at the end of the block."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        if tx is not None:
            return await super().create_state(state, tx=tx)
        async with self.writing():
            return await super().create_state(state)

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        if tx is not None:
            return await super().update_state(state, tx=tx)
        async with self.writing():
            return await super().update_state(state)

    async def delete_state(self, saga_id: str, version: int) -> None:
        async with self.writing():
            await super().delete_state(saga_id, version)

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        """`WHERE owner IS NULL OR owner = :me OR expired ORDER BY updated_at LIMIT :limit`: what is its own comes again."""
        self.need("saga_lease")
        self.check_worker(worker_id)
        self.check_count("limit", limit)
        self.check_seconds("lease", lease, above_zero=True)
        self.check_seconds("older_than", older_than)
        await self.turn()
        deadline = self.backend.clock.now() + max(lease, self.limits.min_ttl)
        found = [each for each in self.page(0, older_than) if self.holder(each.saga_id) in (None, worker_id)][:limit]
        for each in found:
            before = self.backend.leases[self.cell(each.saga_id)].deadline if self.holder(each.saga_id) else 0.0
            self.backend.leases[self.cell(each.saga_id)] = Lease(worker_id, max(deadline, before))
        return [self.shown(each) for each in found]

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        async with self.writing(), super().transacting() as tx:
            yield tx

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Have the file's lock; it ends with the connection."""
        lock: asyncio.Lock = self.backend.__dict__.setdefault("lock", asyncio.Lock())
        self.check_usable()
        await lock.acquire()
        self.__dict__["holds"] = True
        try:
            yield
        finally:
            if self.__dict__["holds"]:
                lock.release()
            self.__dict__["holds"] = False

    def vanish(self) -> None:
        super().vanish()
        if self.__dict__.get("holds"):
            self.__dict__["holds"] = False
            self.backend.__dict__["lock"].release()


@unusual
class Embedded(SagasContract, MultiTenancyPolicy):
    """An embedded database: one writer at a time, also of one client; a transaction holds up every other write until it ends.

    A worker is given again what it has, before what is free. A rule that writes beside an open transaction and waits for that
    would hang; one that claims what is left by a worker that has some, with a small limit, would reject it.
    """

    capabilities = CAPABILITIES

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.server = MemorySagaServer(clock=self.clock, limits=SagaLimits(min_ttl=2, ttl_resolution=0.5, page_size=3))

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> EmbeddedSagas:
        return EmbeddedSagas(self.server, tenant_id=tenant_id, namespace=namespace)

    async def unreachable_provider(self) -> EmbeddedSagas:
        return EmbeddedSagas(MemorySagaServer(reachable=False))

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def crash(self, client: EmbeddedSagas) -> None:
        client.vanish()

    async def business_write(self, tx: SagaTransaction, key: str, value: str) -> None:
        await anyio.lowlevel.checkpoint()
        tx.rows[key] = value

    async def business_read(self, key: str) -> str | None:
        return self.server.rows.get(key)


# A database that checks a transaction at its end.


class DeferredSagas(MemorySagas):
    """What is done in a transaction is kept, answered as if it succeeded, and checked, in its order, when the block ends."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        async with super().transacting() as tx:
            self._kept(tx)
            yield tx

    def _kept(self, tx: SagaTransaction) -> list[tuple[int, StoredSaga]]:
        """What was done in *tx*: the version that is expected, 0 of a creation, and what is to be stored."""
        kept: list[tuple[int, StoredSaga]] = self.__dict__.setdefault("kept", {}).setdefault(tx, [])
        return kept

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        if tx is None:
            return await super().create_state(state)
        return await self._keep(0, state, tx)

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        if tx is None:
            return await super().update_state(state)
        self.check_version(state.saga_id, state.version)
        return await self._keep(state.version, state, tx)

    async def _keep(self, version: int, state: SagaState, tx: SagaTransaction) -> SagaState:
        new = self.checked(state)
        self.check_transaction(tx)
        await self.turn()
        now = self.backend.clock.now()
        new = replace(new, version=version + 1, created=now, updated=now)
        self._kept(tx).append((version, new))
        return self.shown(new)

    def commit(self, tx: SagaTransaction) -> None:
        for version, new in self._kept(tx):
            if not version and self.find(new.saga_id, tx) is not None:
                raise SagaAlreadyExistsError(f"saga {new.saga_id!r} exists")
            created = self.current(new.saga_id, version, tx).created if version else new.created
            self.check_correlation(new, tx)
            self.put(new.saga_id, replace(new, created=created), tx)
        super().commit(tx)


@unusual
class Deferred(SagasContract, MultiTenancyPolicy):
    """A database that checks nothing of a transaction until its block has ended, and nothing at all where that raises.

    A rule that expects a refusal within the block, or in a block that is rolled back anyway, would reject it.
    """

    capabilities = CAPABILITIES

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.server = MemorySagaServer(clock=self.clock, limits=SagaLimits(min_ttl=1, ttl_resolution=0.1, page_size=5))

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> DeferredSagas:
        return DeferredSagas(self.server, tenant_id=tenant_id, namespace=namespace)

    async def unreachable_provider(self) -> DeferredSagas:
        return DeferredSagas(MemorySagaServer(reachable=False))

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def crash(self, client: DeferredSagas) -> None:
        client.vanish()

    async def business_write(self, tx: SagaTransaction, key: str, value: str) -> None:
        tx.rows[key] = value

    async def business_read(self, key: str) -> str | None:
        return self.server.rows.get(key)


# An engine that owns the execution: its history is a log of its own.


class Log(list[tuple[str, int, str]]):
    """What happened to one saga: `did`, `failed`, `undid`, each with the number of a step."""


class DurableEngine(MemorySagas):
    """An engine that records events beside the state, four attempts at a compensation, pauses between them, a second run joins.

    It counts more versions than there are steps, undoes what it has cut off and knows nothing of, and gives views.
    """

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        self.need("compensation_execution")
        state = SagaState(saga_id=saga_id, status=SagaStatus.RUNNING, payload=payload, saga_type="engine")
        try:
            state = await self.create_state(state)
        except SagaAlreadyExistsError:
            stored = await self.get_state(saga_id)
            assert stored is not None
            return stored
        return await self.drive(state, steps)

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        self.need("compensation_execution")
        state = await self.get_state(saga_id)
        if state is None:
            raise SagaNotFoundError(f"{saga_id!r} is not there")
        return state if SagaStatus(state.status).terminal else await self.drive(state, steps)

    async def drive(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        """Do what the events have not yet."""
        while not SagaStatus(state.status).terminal:
            events = {(each.step_name, each.status) for each in state.history}
            ahead = [n for n in range(len(steps)) if (str(n), "did") not in events]
            if state.status == SagaStatus.RUNNING and not ahead:
                state = await self.note(state, SagaStatus.COMPLETED)
            elif state.status == SagaStatus.RUNNING:
                state = await self.do(state, ahead[0], steps[ahead[0]])
            else:
                state = await self.undo(state, steps, events)
        return state

    async def do(self, state: SagaState, number: int, step: SagaStep) -> SagaState:
        state = await self.note(state, SagaStatus.RUNNING)
        try:
            await step.action(self.told(state, number, "do"))
        except TimeoutError:
            return await self.note(state, SagaStatus.COMPENSATING, (number, "did"))
        except Exception:
            return await self.note(state, SagaStatus.COMPENSATING, (number, "failed"))
        return await self.note(state, SagaStatus.RUNNING, (number, "did"))

    async def undo(self, state: SagaState, steps: Sequence[SagaStep], events: set[tuple[str, str]]) -> SagaState:
        for number in reversed(range(len(steps))):
            compensation = steps[number].compensation
            if compensation is None or (str(number), "did") not in events or (str(number), "undid") in events:
                continue
            for tries in range(4):
                state = await self.note(state, SagaStatus.COMPENSATING)
                try:
                    await compensation(self.told(state, number, "undo"))
                except Exception:
                    await anyio.sleep(0.01 * tries)
                else:
                    return await self.note(state, SagaStatus.COMPENSATING, (number, "undid"))
            return await self.note(state, SagaStatus.FAILED, (number, "stuck"))
        return await self.note(state, SagaStatus.COMPENSATED)

    async def note(self, state: SagaState, status: SagaStatus, event: tuple[int, str] | None = None) -> SagaState:
        added = [] if event is None else [SagaStepHistory(str(event[0]), event[1])]
        state = await self.update_state(replace(state, status=status, history=[*state.history, *added]))
        return await self.update_state(replace(state, current_step=len(state.history)))

    def told(self, state: SagaState, number: int, direction: str) -> SagaContext:
        key = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([self.namespace, self.tenant_id, state.saga_id, number, direction]))
        return SagaContext(state.saga_id, MappingProxyType(copy.deepcopy(dict(state.payload))), str(key))


@unusual
class Durable(SagasContract):
    """An engine that owns the execution: two updates an event, a second run that returns the stored state, views of payloads.

    A rule that counts versions, reads the history of an execution, or wants one answer of a second `run` would reject it.
    """

    capabilities = frozenset("compensation_execution lifecycle shared".split())

    def setUp(self) -> None:
        self.server = MemorySagaServer()

    async def make_provider(self, **config: object) -> DurableEngine:
        return DurableEngine(self.server, capabilities=self.declared)

    async def crash(self, client: Any) -> None:
        client.vanish()
