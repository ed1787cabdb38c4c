"""Sagas in memory with every capability of the contract.

`MemorySagaServer` is the server, `MemorySagas` one client of it, and `SagaTransaction` what its transactions yield.
"""

import asyncio
import copy
import itertools
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio

from omnitck.reference.client import Cell, MemoryClient, MemoryServer, is_unicode
from omnitck.shared.exceptions import (
    InvalidArgumentError,
    SagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateConflictError,
    TooLargeError,
)
from omnitck.shared.models import SagaContext, SagaLimits, SagaPage, SagaState, SagaStatus, SagaStep, SagaStepHistory

__all__ = ["CAPABILITIES", "MemorySagaServer", "MemorySagas", "SagaTransaction", "StoredSaga"]

CAPABILITIES = frozenset(
    "list_incomplete correlation saga_lease delete transactional compensation_execution "
    "lifecycle validation shared availability limits".split()
)

ATTEMPTS = 3
"""How often a compensation is tried."""

STARTED, DONE, FAILED, UNKNOWN, UNDONE = "STARTED", "DONE", "FAILED", "UNKNOWN", "UNDONE"
"""What the history says of a step."""


@dataclass(frozen=True, slots=True)
class StoredSaga:
    """A saga as the server holds it."""

    saga_id: str
    status: SagaStatus
    current_step: int
    history: tuple[SagaStepHistory, ...]
    payload: bytes = field(repr=False)
    saga_type: str
    correlation_id: str | None
    version: int = 0
    created: float = 0.0
    updated: float = 0.0
    place: int = 0
    """Its place in the order of all updates."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who has a saga that was stuck, and until when."""

    worker_id: str
    deadline: float


@dataclass(eq=False, kw_only=True)
class MemorySagaServer(MemoryServer):
    """The server: sagas, and beside them the rows and events of the application's own, for its transactions."""

    limits: SagaLimits = field(default_factory=lambda: SagaLimits(min_ttl=0.05, ttl_resolution=0.01, page_size=10))
    sagas: dict[Cell, StoredSaga] = field(default_factory=dict, repr=False)
    leases: dict[Cell, Lease] = field(default_factory=dict, repr=False)
    rows: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the application has written in transactions."""
    events: list[Any] = field(default_factory=list, repr=False)
    """Likewise, what it means to publish."""
    places: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The time at the origin of the clock."""

    def cells(self) -> list[Cell]:
        """Every cell that holds a saga."""
        return list(self.sagas)

    def remove(self, cell: Cell) -> None:
        """Remove the saga in *cell*, and with it its lease."""
        self.sagas.pop(cell, None)
        self.leases.pop(cell, None)


@dataclass(eq=False, slots=True)
class SagaTransaction:
    """What was done in a transaction, and is not there yet."""

    before: dict[Cell, StoredSaga | None] = field(default_factory=dict)
    """What each saga that is changed was."""
    after: dict[Cell, StoredSaga] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    open: bool = True


class MemorySagas(MemoryClient[MemorySagaServer]):
    """One client. It implements `SagaStateRepositoryProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES
    reads = "get_state"
    deletes = "delete_state"
    aside = "saga_lease"
    limits: SagaLimits

    def __init__(self, backend: MemorySagaServer, *, namespace: str = "", **config: Any) -> None:
        """Connect to *backend*, to the sagas of *namespace*; the rest as `MemoryClient`."""
        super().__init__(backend, **config)
        self.namespace = namespace

    # Core

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        """See `SagaStateRepositoryProtocol.create_state`."""
        new = self.checked(state)
        self.check_transaction(tx)
        await self.turn()
        if self.find(new.saga_id, tx) is not None:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r} exists")

        self.check_correlation(new, tx)
        return self.shown(self.put(new.saga_id, replace(new, version=1, created=self.backend.clock.now()), tx))

    async def get_state(self, saga_id: str) -> SagaState | None:
        """See `SagaStateRepositoryProtocol.get_state`."""
        self.check_key(saga_id)
        await self.turn()
        stored = self.find(saga_id)
        return None if stored is None else self.shown(stored)

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        """See `SagaStateRepositoryProtocol.update_state`."""
        new = self.checked(state)
        self.check_version(new.saga_id, state.version)
        self.check_transaction(tx)
        await self.turn()
        stored = self.current(new.saga_id, state.version, tx)
        self.check_correlation(new, tx)
        return self.shown(self.put(new.saga_id, replace(new, version=stored.version + 1, created=stored.created), tx))

    # list_incomplete

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        """See `ListIncomplete.list_incomplete`. A page begins after the last saga of the one before, in the order of updates."""
        self.need("list_incomplete")
        self.check_count("limit", limit)
        self.check_seconds("older_than", older_than or 0)
        after = self.checked_cursor(cursor)
        await self.turn()
        found = self.page(after, older_than or 0.0, include_failed=include_failed)
        shown = found[: min(limit, self.limits.page_size)]
        return SagaPage([self.shown(each) for each in shown], str(shown[-1].place) if len(shown) < len(found) else None)

    def page(self, after: int, older_than: float, *, include_failed: bool = False) -> list[StoredSaga]:
        """The sagas that are not terminal, beyond the place *after*, those first that were updated longest ago."""
        latest = self.backend.clock.now() - older_than
        return sorted(
            (each for each in self.stuck(include_failed=include_failed) if each.place > after and each.updated <= latest),
            key=lambda each: each.place,
        )

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        """The sagas of this client's that are not terminal."""
        sagas = [self.backend.sagas[self.cell(each)] for each in self.own()]
        return [each for each in sagas if not each.status.terminal or (include_failed and each.status is SagaStatus.FAILED)]

    # correlation

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        """See `Correlation.find_by_correlation`."""
        self.need("correlation")
        await self.turn()
        stored = self.correlated(saga_type, correlation_id)
        return None if stored is None else self.shown(stored)

    def correlated(self, saga_type: str, correlation_id: str | None, tx: SagaTransaction | None = None) -> StoredSaga | None:
        """The saga that is not terminal and has this correlation."""
        if correlation_id is None:
            return None

        mine = self.cell("")
        sagas = {**self.backend.sagas, **(tx.after if tx else {})}
        return next(
            (
                each
                for cell, each in sagas.items()
                if (cell.tenant, cell.space) == (mine.tenant, mine.space)
                and (each.saga_type, each.correlation_id) == (saga_type, correlation_id)
                and not each.status.terminal
            ),
            None,
        )

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        """Refuse a second saga of one correlation."""
        if "correlation" not in self.capabilities or new.status.terminal:
            return

        holder = self.correlated(new.saga_type, new.correlation_id, tx)
        if holder is not None and holder.saga_id != new.saga_id:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: another saga of its type has its correlation")

    # saga_lease

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        """See `SagaLease.claim_stuck`. A lease that is shorter than `min_ttl` is rounded up to it."""
        self.need("saga_lease")
        self.check_worker(worker_id)
        self.check_count("limit", limit)
        self.check_seconds("lease", lease, above_zero=True)
        self.check_seconds("older_than", older_than)
        await self.turn()
        free = [each for each in self.page(0, older_than) if self.holder(each.saga_id) is None]
        deadline = self.backend.clock.now() + max(lease, self.limits.min_ttl)
        for each in free[:limit]:
            self.backend.leases[self.cell(each.saga_id)] = Lease(worker_id, deadline)
        return [self.shown(each) for each in free[:limit]]

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        """See `SagaLease.release_stuck`."""
        self.need("saga_lease")
        self.check_key(saga_id)
        self.check_worker(worker_id)
        await self.turn()
        if self.holder(saga_id) != worker_id:
            return False

        del self.backend.leases[self.cell(saga_id)]
        return True

    def holder(self, saga_id: str) -> str | None:
        """The worker that has the saga now."""
        lease = self.backend.leases.get(self.cell(saga_id))
        return lease.worker_id if lease is not None and self.backend.clock.now() < lease.deadline else None

    # delete

    async def delete_state(self, saga_id: str, version: int) -> None:
        """See `Delete.delete_state`."""
        self.need("delete")
        self.check_key(saga_id)
        self.check_version(saga_id, version)
        await self.turn()
        self.current(saga_id, version)
        self.remove(saga_id)

    # transactional

    def transaction(self) -> AbstractAsyncContextManager[SagaTransaction]:
        """See `Transactional.transaction`. What it yields takes the `rows` and `events` of the application, too."""
        self.need("transactional")
        return self.transacting()

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        """Collect what is done; at the end of the block do it, at once."""
        await self.turn()
        tx = SagaTransaction()
        try:
            yield tx
            await self.turn()
            self.commit(tx)
        finally:
            tx.open = False

    def commit(self, tx: SagaTransaction) -> None:
        """Do what was done in *tx*, unless another writer was there."""
        for cell, before in tx.before.items():
            if self.backend.sagas.get(cell) is not before:
                raise SagaStateConflictError(f"saga {cell.name!r} was changed by another writer")
        for stored in tx.after.values():
            self.check_correlation(stored, tx)

        self.backend.sagas.update(tx.after)
        self.backend.rows.update(tx.rows)
        self.backend.events += tx.events

    def check_transaction(self, tx: object) -> None:
        """Refuse what is no open transaction."""
        if tx is None:
            return

        self.need("transactional")
        if not isinstance(tx, SagaTransaction) or not tx.open:
            raise InvalidArgumentError("tx is a transaction that is open, or None")

    # compensation_execution

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        """See `CompensationExecution.run`. A compensation is tried three times."""
        self.need("compensation_execution")
        steps = self.checked_steps(saga_id, steps)
        history = [SagaStepHistory(each.name, STARTED) for each in steps[:1]]
        state = SagaState(saga_id=saga_id, status=SagaStatus.RUNNING, history=history, payload=payload)
        return await self.go_on(await self.create_state(state), steps)

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        """See `CompensationExecution.recover`. The attempt is recorded first: of two that recover one saga one goes on."""
        self.need("compensation_execution")
        self.check_key(saga_id)
        steps = self.checked_steps(saga_id, steps)
        state = await self.get_state(saga_id)
        if state is None:
            raise SagaNotFoundError(f"there is no saga {saga_id!r}")
        if SagaStatus(state.status).terminal:
            return state

        return await self.go_on(await self.update_state(state), steps)

    async def go_on(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        """Do what is left of a saga, whose last attempt is recorded; its terminal state.

        `current_step` is the number of steps that are done, and not undone.
        """
        while state.status == SagaStatus.RUNNING:
            state = await self.go_forward(state, steps)
        while state.status == SagaStatus.COMPENSATING:
            state = await self.go_back(state, steps)
        return state

    async def go_forward(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        """Do the next step, and record what came of it, and that the one after it is begun."""
        number = state.current_step
        if number >= len(steps):
            return await self.record(state, SagaStatus.COMPLETED, number)

        outcome = await self.outcome(steps[number].action, self.context(state, number, "do"))
        if outcome != DONE:
            undo = number + (outcome == UNKNOWN)
            return await self.record(state, SagaStatus.COMPENSATING, undo, number, steps[number].name, outcome)

        is_last = number + 1 == len(steps)
        status = SagaStatus.COMPLETED if is_last else SagaStatus.RUNNING
        begun = [] if is_last else [SagaStepHistory(steps[number + 1].name, STARTED)]
        return await self.record(state, status, number + 1, number, steps[number].name, DONE, begun)

    async def go_back(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        """Undo the last step that is done and can be undone, and record what came of it."""
        left = min(state.current_step, len(steps))
        while left and steps[left - 1].compensation is None:
            left -= 1
        if not left:
            return await self.record(state, SagaStatus.COMPENSATED, 0)

        step = steps[left - 1]
        assert step.compensation is not None
        for _ in range(ATTEMPTS):
            if await self.outcome(step.compensation, self.context(state, left - 1, "undo")) == DONE:
                return await self.record(state, SagaStatus.COMPENSATING, left - 1, left - 1, step.name, UNDONE)
        return await self.record(state, SagaStatus.FAILED, left, left - 1, step.name, FAILED)

    async def outcome(self, act: Callable[[SagaContext], Awaitable[object]], context: SagaContext) -> str:
        """What comes of an action or a compensation."""
        try:
            await act(context)
        except TimeoutError:
            return UNKNOWN
        except anyio.get_cancelled_exc_class():
            if _being_cancelled():
                raise
            return UNKNOWN
        except Exception:
            return FAILED
        return DONE

    async def record(
        self,
        state: SagaState,
        status: SagaStatus,
        current_step: int,
        number: int = 0,
        name: str = "",
        outcome: str = "",
        begun: Sequence[SagaStepHistory] = (),
    ) -> SagaState:
        """Store where a saga stands, and what came of the step of that *number*, if it has a name."""
        history = [*state.history]
        if name:
            history[number : number + 1] = [SagaStepHistory(name, outcome)]
        return await self.update_state(replace(state, status=status, current_step=current_step, history=[*history, *begun]))

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        """What a step is told. A joined key could be that of another saga."""
        key = json.dumps([self.namespace, self.tenant_id, state.saga_id, number, direction])
        return SagaContext(state.saga_id, copy.deepcopy(state.payload), key)

    def checked_steps(self, saga_id: object, steps: object) -> list[SagaStep]:
        """The steps, if that is what they are."""
        if not isinstance(steps, Sequence) or not all(isinstance(each, SagaStep) for each in steps):
            raise InvalidArgumentError(f"saga {saga_id!r}: steps are a sequence of SagaStep")
        return list(steps)

    # lifecycle

    def vanish(self) -> None:
        """End as if the process had been killed."""
        self.closed = True

    # What the operations check.

    def checked(self, state: object) -> StoredSaga:
        """*state* as it is stored, without what the store itself sets."""
        if not isinstance(state, SagaState):
            raise InvalidArgumentError(f"a state is a SagaState, not {type(state).__name__}")

        self.check_key(state.saga_id)
        named = f"saga {state.saga_id!r}"
        if state.status not in tuple(SagaStatus):
            raise InvalidArgumentError(f"{named}: the status is none of SagaStatus")
        if not _is_whole(state.current_step) or state.current_step < 0:
            raise InvalidArgumentError(f"{named}: current_step is a whole number from 0")
        if not isinstance(state.saga_type, str) or not is_unicode(state.saga_type):
            raise InvalidArgumentError(f"{named}: saga_type is text")
        if state.correlation_id is not None:
            try:
                self.check_name("correlation_id", state.correlation_id, self.limits.key_bytes)
            except InvalidArgumentError as error:
                raise type(error)(f"{named}: {error}") from None
        return StoredSaga(
            state.saga_id,
            SagaStatus(state.status),
            state.current_step,
            self.checked_history(state),
            self.encoded(state.saga_id, state.payload),
            state.saga_type,
            state.correlation_id,
        )

    def checked_history(self, state: SagaState) -> tuple[SagaStepHistory, ...]:
        """The history of *state*, if that is what it is."""
        named, history = f"saga {state.saga_id!r}", state.history
        if not isinstance(history, Sequence) or not all(
            isinstance(each, SagaStepHistory) and isinstance(each.step_name, str) and isinstance(each.status, str)
            for each in history
        ):
            raise InvalidArgumentError(f"{named}: a history is a sequence of SagaStepHistory")
        if len(history) > self.limits.history:
            raise TooLargeError(f"{named}: the history is longer than {self.limits.history} steps")
        return tuple(history)

    def encoded(self, key: str, value: object) -> bytes:
        """The payload *value* as JSON."""
        if not isinstance(value, Mapping):
            raise InvalidArgumentError(f"saga {key!r}: a payload is a mapping, not {type(value).__name__}")

        plain = dict(value)
        _check_json(f"saga {key!r}", plain)
        data = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
        self.check_size(key, len(data))
        return data

    def checked_cursor(self, cursor: object) -> int:
        """The place after which a page begins."""
        if cursor is None:
            return 0
        if not isinstance(cursor, str) or not cursor.isascii() or not cursor.isdigit():
            raise InvalidArgumentError("a cursor is one that a page had, or None")
        return int(cursor)

    def check_version(self, saga_id: str, version: object) -> None:
        """Refuse what is no version."""
        if not _is_whole(version):
            raise InvalidArgumentError(f"saga {saga_id!r}: a version is a whole number, not {type(version).__name__}")

    def check_worker(self, worker_id: object) -> None:
        """Refuse what names no worker."""
        self.check_name("worker_id", worker_id, self.limits.key_bytes)

    def check_count(self, what: str, number: object) -> None:
        """Refuse what is no number of sagas."""
        if not _is_whole(number) or number < 1:  # type: ignore[operator]
            raise InvalidArgumentError(f"{what} is a whole number from 1, not {number!r}")

    def check_seconds(self, what: str, seconds: object, *, above_zero: bool = False) -> None:
        """Refuse what is no time."""
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds < math.inf or (above_zero and not seconds):  # type: ignore[operator]
            raise InvalidArgumentError(f"{what} is a number of seconds, not {seconds!r}")

    # Between what is asked and what the server holds.

    def cell(self, key: str) -> Cell:
        """Where the server holds the saga *key*."""
        return Cell(self.tenant_id, key, self.namespace)

    def find(self, saga_id: str, tx: SagaTransaction | None = None) -> StoredSaga | None:
        """The saga, as *tx* sees it."""
        cell = self.cell(saga_id)
        return tx.after[cell] if tx and cell in tx.after else self.backend.sagas.get(cell)

    def current(self, saga_id: str, version: int, tx: SagaTransaction | None = None) -> StoredSaga:
        """The saga, if *version* is the one that is stored."""
        stored = self.find(saga_id, tx)
        if stored is None:
            raise SagaNotFoundError(f"there is no saga {saga_id!r}")
        if stored.version != version:
            raise SagaStateConflictError(f"saga {saga_id!r} has version {stored.version}, not {version}")
        return stored

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        """Store a saga, updated now; in *tx*, with that."""
        cell = self.cell(key)
        stored = replace(stored, updated=self.backend.clock.now(), place=next(self.backend.places))
        if tx is None:
            self.backend.sagas[cell] = stored
        else:
            tx.before.setdefault(cell, self.backend.sagas.get(cell))
            tx.after[cell] = stored
        return stored

    def shown(self, stored: StoredSaga) -> SagaState:
        """A state of its own for the caller."""
        return SagaState(
            saga_id=stored.saga_id,
            status=stored.status,
            current_step=stored.current_step,
            history=list(stored.history),
            payload=json.loads(stored.payload),
            version=stored.version,
            saga_type=stored.saga_type,
            correlation_id=stored.correlation_id,
            created_at=self.backend.began + timedelta(seconds=stored.created),
            updated_at=self.backend.began + timedelta(seconds=stored.updated),
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_json(named: str, value: object) -> None:
    """Refuse what JSON does not give back as it was."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str) or not is_unicode(key):
                raise InvalidArgumentError(f"{named}: a name in a payload is text")
            _check_json(named, each)
    elif isinstance(value, list):
        for each in value:
            _check_json(named, each)
    elif isinstance(value, str):
        if not is_unicode(value):
            raise InvalidArgumentError(f"{named}: text in a payload holds a surrogate")
    elif value is not None and not isinstance(value, bool | int) and not (isinstance(value, float) and math.isfinite(value)):
        raise InvalidArgumentError(f"{named}: {type(value).__name__} is not in JSON, or not finite")


def _being_cancelled() -> bool:
    """Whether the task that runs is cancelled from outside; an action may raise the same exception by itself."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True  # On another event loop nobody but a scope raises it.
    return task is None or task.cancelling() > 0
