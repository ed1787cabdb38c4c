"""`sagas` with DBOS, a library for durable workflows: a saga is one workflow, whose steps DBOS records in its own tables.

DBOS has no states that an application stores and compares. So the states are those of `examples.sqlite.sagas`, and the workflow
writes there where it stands, which is for whoever looks; what is done, and is not repeated, stands in DBOS's tables alone. The
bound and the pauses of a compensation's tries are DBOS's. After a crash DBOS replays the workflow: what its steps have returned
is read, and the first one that has not is done.

A workflow is found again by its name and its arguments, so an application of DBOS has its sagas in its code. Here steps are given
to `run` and `recover`: they wait in this process for the workflow that takes them up. Nothing is recovered when DBOS starts, as
nobody has said with which steps.

`run` works in the task of its caller. `recover` lets DBOS take up the workflow in its own event loop, while the steps are done in
that of the caller; one that is cancelled leaves the workflow as a crash would. DBOS is one for a process: an application launches
it, see `launched`.

Not declared are `correlation`, `saga_lease` and `transactional`: workflows are found by their ids alone, it is DBOS that hands
them to processes, and they are in no transaction of an application's.
"""

import asyncio
import contextlib
import copy
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from dbos import DBOS, SetWorkflowID, StepOptions, WorkflowHandleAsync, error
from sqlalchemy.exc import SQLAlchemyError

from examples.common import arguments
from examples.common.orchestration import (
    DONE,
    PAUSE,
    STARTED,
    STUCK,
    TO_UNDO,
    TRIES,
    UNDOING,
    UNDONE,
    attempt,
    begun,
    check_steps,
    idempotency_key,
    outcome,
)
from examples.sqlite.connections import folder
from examples.sqlite.sagas import SQLiteSagas
from omnitck.shared.exceptions import SagaNotFoundError, SagaStateConflictError, UnavailableError, UnsupportedError
from omnitck.shared.models import SagaContext, SagaLimits, SagaPage, SagaState, SagaStatus, SagaStep, SagaStepHistory

__all__ = ["DBOSSagas", "launched", "make_sagas"]

Work = Callable[[SagaContext], Awaitable[object]]

QUEUE = f"sagas-{uuid.uuid4().hex}"
"""Where this process takes up workflows, and no other does, which would not have their steps."""

POLL = 0.02
"""Seconds between two looks of DBOS for workflows to take up, and of `recover` for the end of one."""

TRIED: StepOptions = {"retries_allowed": True, "max_attempts": TRIES, "interval_seconds": PAUSE}


class DBOSSagas:
    """Sagas whose states are in the SQLite file at *path*, and which DBOS executes."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "list_incomplete delete compensation_execution lifecycle validation shared limits".split()
    )
    limits: ClassVar[SagaLimits] = SQLiteSagas.limits

    def __init__(self, states: SQLiteSagas, path: Path, tenant_id: str | None) -> None:
        self._states = states
        self._path = path
        self._tenant_id = tenant_id

    @classmethod
    async def connect(cls, path: Path, *, tenant_id: str | None = None) -> Self:
        """A client of the file at *path*; DBOS has been launched."""
        return cls(await SQLiteSagas.connect(path, tenant_id=tenant_id), path, tenant_id)

    def __repr__(self) -> str:
        return repr(self._states)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the operations in flight and release the file. What DBOS has taken up goes on."""
        await self._states.close()

    async def abandon(self) -> None:
        """End as if the process had been killed."""
        await self._states.abandon()

    async def create_state(self, state: SagaState) -> SagaState:
        """Store *state* at version 1."""
        return await self._states.create_state(state)

    async def get_state(self, saga_id: str) -> SagaState | None:
        """The state as it was last stored, or None."""
        return await self._states.get_state(saga_id)

    async def update_state(self, state: SagaState) -> SagaState:
        """Store *state* in the place of its version."""
        return await self._states.update_state(state)

    async def delete_state(self, saga_id: str, version: int) -> None:
        """Remove the saga if it is at *version*."""
        await self._states.delete_state(saga_id, version)

    async def list_incomplete(
        self,
        *,
        older_than: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
        include_failed: bool = False,
    ) -> SagaPage:
        """Sagas that are not terminal, those first that were updated longest ago."""
        return await self._states.list_incomplete(
            older_than=older_than, limit=limit, cursor=cursor, include_failed=include_failed
        )

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        """Do *steps* one after the other, or undo those that were done; the state at the end. The saga must be new."""
        check_steps(saga_id, steps, self.limits)
        state = await self.create_state(SagaState(saga_id=saga_id, status=SagaStatus.RUNNING, payload=payload))
        workflow_id = self._workflow_id(state)
        with _translated(saga_id), _given(workflow_id, steps, self._states), SetWorkflowID(workflow_id):
            await execute_saga(str(self._path), self._tenant_id, workflow_id, saga_id, state.payload)
        return await self._ended(saga_id)

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        """Go on with a saga that was left; *steps* are those that it was begun with."""
        check_steps(saga_id, steps, self.limits)
        state = begun(saga_id, await self.get_state(saga_id), steps)
        if SagaStatus(state.status).terminal:
            return state

        state = await self.update_state(state)  # whoever loses this leaves the saga to somebody else
        workflow_id = self._workflow_id(state)
        with _translated(saga_id), _given(workflow_id, steps, None):
            handle = await self._resume(workflow_id, state)
            await handle.get_result(polling_interval_sec=POLL)
        return await self._ended(saga_id)

    async def _resume(self, workflow_id: str, state: SagaState) -> WorkflowHandleAsync[None]:
        """Let DBOS take up the workflow, also if the crash came before its beginning."""
        with contextlib.suppress(error.DBOSNonExistentWorkflowError):
            return await DBOS.resume_workflow_async(workflow_id, queue_name=QUEUE)
        with SetWorkflowID(workflow_id):
            handle = await DBOS.enqueue_workflow_async(
                QUEUE, execute_saga, str(self._path), self._tenant_id, workflow_id, state.saga_id, state.payload
            )
        if (await handle.get_status()).queue_name != QUEUE:  # what has crashed began it after all
            return await DBOS.resume_workflow_async(workflow_id, queue_name=QUEUE)
        return handle

    async def _ended(self, saga_id: str) -> SagaState:
        state = await self.get_state(saga_id)
        if state is None:
            raise SagaNotFoundError(f"saga {saga_id!r} was removed")
        return state

    def _workflow_id(self, state: SagaState) -> str:
        """No other saga's: nor that of one which had this id before."""
        return idempotency_key(arguments.encode_tenant(self._tenant_id), state, -1, "", "workflow")


@contextlib.contextmanager
def _translated(saga_id: str) -> Iterator[None]:
    try:
        yield
    except (error.DBOSException, SQLAlchemyError) as failure:
        raise UnavailableError(f"saga {saga_id!r}: DBOS has failed ({type(failure).__name__})") from failure


class _Given:
    """What a caller in this process gives to a workflow, as long as it waits for the end.

    The steps belong to its event loop, as do the clients that they use; DBOS may have the workflow in another one.
    """

    def __init__(self, steps: Sequence[SagaStep], states: SQLiteSagas | None) -> None:
        self.steps = steps
        self.states = states
        """Those of the workflow's own event loop, if the caller runs in that."""
        self._loop = asyncio.get_running_loop()
        self._acting: Future[BaseException | None] | None = None
        self._over = False

    async def attempt(self, work: Work, context: SagaContext) -> BaseException | None:
        """What *work* has raised. If nobody waits any more, the workflow ends here, as in a crash."""
        if self._over:
            raise asyncio.CancelledError
        if asyncio.get_running_loop() is self._loop:
            return await attempt(work, context)
        self._acting = asyncio.run_coroutine_threadsafe(attempt(work, context), self._loop)
        return await asyncio.wrap_future(self._acting)

    def end(self) -> None:
        """The caller waits no longer."""
        self._over = True
        if self._acting is not None:
            self._acting.cancel()


_waiting: dict[str, _Given] = {}


@contextlib.contextmanager
def _given(workflow_id: str, steps: Sequence[SagaStep], states: SQLiteSagas | None) -> Iterator[None]:
    """Hold *steps* and *states* for the workflow, as long as the body lasts."""
    given = _waiting[workflow_id] = _Given(steps, states)
    try:
        yield
    finally:
        given.end()
        if _waiting.get(workflow_id) is given:
            del _waiting[workflow_id]


@DBOS.workflow(name="saga", max_recovery_attempts=None)
async def execute_saga(path: str, tenant_id: str | None, workflow_id: str, saga_id: str, payload: Mapping[str, Any]) -> None:
    """Do the steps of a saga, or undo those that were done. DBOS calls it again after a crash, to replay it."""
    given = _waiting.get(workflow_id)
    if given is None:  # whoever called `recover` was cancelled meanwhile
        raise asyncio.CancelledError
    if given.states is not None:
        await _Saga(given.states, workflow_id, saga_id, payload, given).execute()
    else:
        async with await SQLiteSagas.connect(path, tenant_id=tenant_id) as states:
            await _Saga(states, workflow_id, saga_id, payload, given).execute()


class _Saga:
    """A saga in its workflow. What is awaited here is a step of DBOS's, in the same order each time."""

    def __init__(self, states: SQLiteSagas, workflow_id: str, saga_id: str, payload: Mapping[str, Any], given: _Given) -> None:
        self._states = states
        self._workflow_id = workflow_id
        self._saga_id = saga_id
        self._payload = payload
        self._given = given
        self._steps = given.steps
        self._words: list[str] = []

    async def execute(self) -> None:
        """All of it."""
        end = SagaStatus.COMPLETED
        if not await self.do():
            end = SagaStatus.COMPENSATED if await self.undo() else SagaStatus.FAILED
        await DBOS.run_step_async({"name": f"show {end}", **TRIED}, self._show, end)

    async def do(self) -> bool:
        """Whether every step is done."""
        for index, step in enumerate(self._steps):
            self._words.append(STARTED)
            self._words[index] = await DBOS.run_step_async({"name": f"do {step.name}", **TRIED}, self._do, step, index)
            if self._words[index] != DONE:
                return False
        return True

    async def undo(self) -> bool:
        """Whether everything that was done is undone."""
        for index, step in reversed(list(enumerate(self._steps[: len(self._words)]))):
            if step.compensation is None or self._words[index] not in TO_UNDO:
                continue
            self._words[index] = UNDOING
            try:
                await DBOS.run_step_async({"name": f"undo {step.name}", **TRIED}, self._undo, step, index)
            except error.DBOSMaxStepRetriesExceeded:
                self._words[index] = STUCK
                return False
            self._words[index] = UNDONE
        return True

    async def _do(self, step: SagaStep, index: int) -> str:
        """What the history says of the step; nothing that it raises leaves it."""
        await self._show(SagaStatus.RUNNING)
        return outcome(await self._given.attempt(step.action, self._context(index, "do")))

    async def _undo(self, step: SagaStep, index: int) -> None:
        await self._show(SagaStatus.COMPENSATING)
        assert step.compensation is not None
        if (failure := await self._given.attempt(step.compensation, self._context(index, "undo"))) is not None:
            raise RuntimeError(f"{type(failure).__name__}: step {step.name!r} was not undone")

    async def _show(self, status: SagaStatus) -> None:
        """Let the state say where the saga stands."""
        history = [SagaStepHistory(step.name, word) for step, word in zip(self._steps, self._words, strict=False)]
        while (state := await self._states.get_state(self._saga_id)) is not None:
            with contextlib.suppress(SagaStateConflictError):  # of `recover`, which counts its attempt
                await self._states.update_state(
                    replace(state, status=status, current_step=max(len(history) - 1, 0), history=history)
                )
                break

    def _context(self, index: int, direction: str) -> SagaContext:
        return SagaContext(self._saga_id, copy.deepcopy(self._payload), f"{self._workflow_id}-{index}-{direction}")


_bodies = 0
"""How many want DBOS to run."""


@contextlib.contextmanager
def launched(system: Path) -> Iterator[None]:
    """DBOS, as long as a body lasts, with its tables in the SQLite file *system*, which is that of the first body."""
    global _bodies
    if not _bodies:
        _launch(system)
    _bodies += 1
    try:
        yield
    finally:
        _bodies -= 1
        if not _bodies:
            with contextlib.suppress(error.DBOSException, SQLAlchemyError):
                DBOS.delete_queue(QUEUE)
            DBOS.destroy()


def _launch(system: Path) -> None:
    DBOS(
        config={
            "name": "omnitck-examples",
            "system_database_url": f"sqlite:///{system}",
            "application_version": "1",
            "executor_id": uuid.uuid4().hex,  # nobody's before: DBOS takes up at its start what was left by itself
            "log_level": "CRITICAL",
        }
    )
    DBOS.listen_queues([QUEUE])
    DBOS.launch()
    DBOS.register_queue(QUEUE, polling_interval_sec=POLL)


async def make_sagas(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> DBOSSagas:
    """A client of this process's own file."""
    if address is not None:
        raise UnsupportedError("DBOS is embedded here: there is no address to connect to")
    return await DBOSSagas.connect(folder() / "dbos-sagas.sqlite", tenant_id=tenant_id)
