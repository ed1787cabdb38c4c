"""`run` and `recover` above any repository of sagas: what was done is stored before anything else is begun.

Each attempt at a step is stored before it is made, in an update that only one can win: whoever loses it does nothing, and says
so with `SagaStateConflictError`. So of two who recover one saga, one goes on. A crash leaves either an attempt that is stored and
whose outcome nobody knows, which `recover` makes again with the same idempotency key, or a step that is done and is not repeated.
What holds both together is the key: a service that is called twice with it does its work once.

The history has an entry for each step that was begun, with the words below. An action that was cancelled by itself, or timed
out, may have happened, and is undone. If `run` itself is cancelled, the saga stays as a crash would leave it.
"""

import asyncio
import copy
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from omnitck.shared.exceptions import InvalidArgumentError, SagaNotFoundError, TooLargeError
from omnitck.shared.models import SagaContext, SagaLimits, SagaState, SagaStatus, SagaStep, SagaStepHistory

__all__ = [
    "DONE",
    "PAUSE",
    "STARTED",
    "STUCK",
    "TO_UNDO",
    "TRIES",
    "UNDOING",
    "UNDONE",
    "Orchestrator",
    "attempt",
    "begun",
    "check_steps",
    "idempotency_key",
    "outcome",
]

log = logging.getLogger(__name__)

STARTED = "STARTED"
"""The action was begun, and nothing is known of its end."""
DONE = "DONE"
"""The action has ended."""
REFUSED = "FAILED"
"""The action has raised: there is nothing to undo."""
UNKNOWN = "UNKNOWN"
"""The action was cancelled or timed out: there may be something to undo."""
UNDOING = "COMPENSATING"
"""The compensation was begun, and nothing is known of its end."""
UNDONE = "COMPENSATED"
"""The compensation has ended."""
STUCK = "COMPENSATION_FAILED"
"""The compensation has raised as often as it was tried."""

TO_UNDO = (DONE, UNKNOWN, UNDOING)

TRIES = 3
"""How often a compensation is tried."""

PAUSE = 0.02
"""Seconds between the first two tries; then twice as many each time."""


class Orchestrator:
    """Adds `run` and `recover` to a repository. Actions run in the caller's own task."""

    limits: ClassVar[SagaLimits]
    _tenant: bytes

    async def create_state(self, state: SagaState) -> SagaState:
        """As the repository does it."""
        raise NotImplementedError

    async def get_state(self, saga_id: str) -> SagaState | None:
        """As the repository does it."""
        raise NotImplementedError

    async def update_state(self, state: SagaState) -> SagaState:
        """As the repository does it."""
        raise NotImplementedError

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        """Do *steps* one after the other, or undo those that were done; the state at the end. The saga must be new."""
        check_steps(saga_id, steps, self.limits)
        state = SagaState(saga_id=saga_id, status=SagaStatus.RUNNING, payload=payload)
        return await self._go_on(await self.create_state(state), steps)

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        """Go on with a saga that was left; *steps* are those that it was begun with."""
        check_steps(saga_id, steps, self.limits)
        return await self._go_on(begun(saga_id, await self.get_state(saga_id), steps), steps)

    async def _go_on(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        while not SagaStatus(state.status).terminal:
            state = await (self._do if state.status == SagaStatus.RUNNING else self._undo)(state, steps)
        return state

    async def _do(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        """The first step that is not done."""
        index = next((n for n, each in enumerate(state.history) if each.status != DONE), len(state.history))
        if index == len(steps):
            return await self._store(state, SagaStatus.COMPLETED)

        state = await self._mark(state, steps, index, STARTED)
        error = await attempt(steps[index].action, self._context(state, steps, index, "do"))
        if error is None:
            last = index + 1 == len(steps)
            return await self._mark(state, steps, index, DONE, SagaStatus.COMPLETED if last else SagaStatus.RUNNING)
        log.info("saga %r: step %r has failed, what was done is undone", state.saga_id, steps[index].name, exc_info=error)
        return await self._mark(state, steps, index, outcome(error), SagaStatus.COMPENSATING)

    async def _undo(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        """The last step that is not undone."""
        for index, entry in reversed(list(enumerate(state.history))):
            compensation = steps[index].compensation
            if entry.status in TO_UNDO and compensation is not None:
                break
        else:
            return await self._store(state, SagaStatus.COMPENSATED)

        for tried in range(TRIES):
            state = await self._mark(state, steps, index, UNDOING)
            error = await attempt(compensation, self._context(state, steps, index, "undo"))
            if error is None:
                return await self._mark(state, steps, index, UNDONE)
            log.info("saga %r: step %r was not undone", state.saga_id, steps[index].name, exc_info=error)
            if tried + 1 < TRIES:
                await asyncio.sleep(PAUSE * 2**tried)
        return await self._mark(state, steps, index, STUCK, SagaStatus.FAILED)

    async def _mark(
        self,
        state: SagaState,
        steps: Sequence[SagaStep],
        index: int,
        word: str,
        status: SagaStatus | None = None,
    ) -> SagaState:
        history = list(state.history)
        history[index : index + 1] = [SagaStepHistory(steps[index].name, word)]
        return await self._store(replace(state, current_step=index, history=history), status)

    async def _store(self, state: SagaState, status: SagaStatus | None) -> SagaState:
        return await self.update_state(replace(state, status=status or state.status))

    def _context(self, state: SagaState, steps: Sequence[SagaStep], index: int, direction: str) -> SagaContext:
        key = idempotency_key(self._tenant, state, index, steps[index].name, direction)
        return SagaContext(state.saga_id, copy.deepcopy(state.payload), key)


async def attempt(work: Callable[[SagaContext], Awaitable[object]], context: SagaContext) -> BaseException | None:
    """What *work* has raised, unless it is the caller who is cancelled."""
    try:
        await work(context)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return error
    except Exception as error:
        return error
    return None


def outcome(error: BaseException | None) -> str:
    """What the history says of an action that has ended so."""
    if error is None:
        return DONE
    return UNKNOWN if isinstance(error, TimeoutError | asyncio.CancelledError) else REFUSED


def check_steps(saga_id: str, steps: object, limits: SagaLimits) -> None:
    """Refuse what cannot be done."""
    if isinstance(steps, str | bytes) or not isinstance(steps, Sequence):
        raise InvalidArgumentError(f"saga {saga_id!r}: steps are a sequence, not {type(steps).__name__}")
    if len(steps) > limits.history:
        raise TooLargeError(f"saga {saga_id!r}: {len(steps)} steps; the limit is {limits.history}")
    for each in steps:
        if not isinstance(each, SagaStep) or not isinstance(each.name, str):
            raise InvalidArgumentError(f"saga {saga_id!r}: a step is a SagaStep with a name, not {type(each).__name__}")


def begun(saga_id: str, state: SagaState | None, steps: Sequence[SagaStep]) -> SagaState:
    """The state of the saga, if it can be recovered with *steps*."""
    if state is None:
        raise SagaNotFoundError(f"there is no saga {saga_id!r}")
    names = [each.step_name for each in state.history]
    if names != [each.name for each in steps[: len(names)]]:
        raise InvalidArgumentError(f"saga {saga_id!r} was begun with other steps: {names!r}")
    return state


def idempotency_key(tenant: bytes, state: SagaState, index: int, name: str, direction: str) -> str:
    """The same in every attempt, and no other step's: nor that of a saga which had this id before, or has it elsewhere."""
    created = state.created_at.isoformat() if state.created_at else None
    text = json.dumps([tenant.hex(), state.saga_id, created, index, name, direction])
    return hashlib.sha256(text.encode()).hexdigest()
