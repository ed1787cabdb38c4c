"""The contract `sagas`: the state of a business transaction of many steps, which outlives whoever works on it.

A state is compared before it is replaced, so that of two workers one wins and the other knows that it lost. What is read is what
was written last, by whichever client.
"""

import copy
import inspect
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import anyio
import anyio.lowlevel

from omnitck.common.clients import Lifecycle
from omnitck.common.data import DataRules, within_reach
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.crashes import abandon_when
from omnitck.instruments.history import Recorder, Verdict, check, explain
from omnitck.instruments.history.leases import Grant, judge
from omnitck.instruments.walk import WALK_NAMES, walk
from omnitck.kit.concurrency import Call, attempt, gather, together
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.text import UsageError, describe
from omnitck.kit.trial import Plain, Trial
from omnitck.resilience.saga_steps import DO, UNDO, Script, StepFailed, continues, in_order, shown
from omnitck.resilience.saga_words import (
    LONG_LEASE,
    WORKER,
    SagaCells,
    SagaWords,
    Walked,
    Worker,
    ids_of,
    model,
    random_walk,
    told,
)
from omnitck.shared.exceptions import (
    InvalidArgumentError,
    SagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateConflictError,
    TooLargeError,
)
from omnitck.shared.models import SagaContext, SagaLimits, SagaPage, SagaState, SagaStatus, SagaStep, SagaStepHistory

__all__ = [
    "CompensationExecution",
    "Correlation",
    "Delete",
    "FullSagaStateRepository",
    "ListIncomplete",
    "SagaCells",
    "SagaLease",
    "SagaStateRepositoryProtocol",
    "SagaTrial",
    "SagasContract",
    "Transactional",
]


class SagaStateRepositoryProtocol(Protocol):
    """The core: a saga is made, read, and replaced by its next version."""

    async def create_state(self, state: SagaState) -> SagaState:
        """Store *state* at version 1, whatever version it has, and return it so. `SagaAlreadyExistsError` if its id is taken."""
        ...

    async def get_state(self, saga_id: str) -> SagaState | None:
        """What was last stored, by any client; None if there is none."""
        ...

    async def update_state(self, state: SagaState) -> SagaState:
        """Store *state* at its version + 1, and return it so, if its version is the one that is stored.

        Else `SagaStateConflictError`, or `SagaNotFoundError` where there is none, and nothing is changed.
        """
        ...


class ListIncomplete(Protocol):
    """Capability `list_incomplete`: what is stuck can be found."""

    async def list_incomplete(
        self,
        *,
        older_than: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
        include_failed: bool = False,
    ) -> SagaPage:
        """At most *limit* sagas that are not terminal, those first that were updated longest ago.

        With *older_than*, only those whose last update is so many seconds ago; with *include_failed*, `FAILED` ones too.
        *cursor* is that of the page before. A saga that nobody touches is on exactly one page, whatever is done to the others.
        """
        ...


class Correlation(Protocol):
    """Capability `correlation`: a saga is found by the id of what it is about."""

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        """The saga of this type that is not terminal and has this `correlation_id`; None if there is none.

        There is one at most: `create_state` or `update_state` of a second raises `SagaAlreadyExistsError`.
        """
        ...


class SagaLease(Protocol):
    """Capability `saga_lease`: one worker at a time takes up a saga that is stuck."""

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        """At most *limit* sagas that are not terminal, were last updated *older_than* seconds ago, and are given to nobody else.

        Nobody else is given them for *lease* seconds, whatever is done to them meanwhile, also once the client is closed, unless
        they are released or deleted. *worker_id* itself may be given them again, in place of others where *limit* leaves no room
        for both, and never for a shorter time than it had left. To claim a saga is no update: its version stays, and so does the
        time of its last update.
        """
        ...

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        """Whether *worker_id* had the saga, and has now given it back; False, and nothing is changed, if its lease was over."""
        ...


class Delete(Protocol):
    """Capability `delete`: a saga is removed."""

    async def delete_state(self, saga_id: str, version: int) -> None:
        """Remove the saga, and what lease it has, if *version* is the one that is stored. Else as `update_state`."""
        ...


class Transactional(Protocol):
    """Capability `transactional`: a saga's state commits or vanishes with the business data and the events of its transaction."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction of the database. An exception, and a cancellation, rolls it back and leaves the block.

        What is refused in it may be so in the block or at its end. What it changes was last updated then, or at its end, and not
        when it began.
        """
        ...

    async def create_state(self, state: SagaState, *, tx: Any | None = None) -> SagaState:
        """As the core's, in the transaction *tx*; None means one of its own."""
        ...

    async def update_state(self, state: SagaState, *, tx: Any | None = None) -> SagaState:
        """As the core's, in the transaction *tx*; None means one of its own."""
        ...


class CompensationExecution(Protocol):
    """Capability `compensation_execution`: the steps of a saga are done, and undone where one fails."""

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        """Do *steps* one after the other, each stored before the next begins; the state at the end, which is terminal.

        If one raises, those that are done are undone, the last first; the one that raised is not. One whose outcome is not known,
        as it was cancelled or timed out, is undone as well. A compensation that fails is tried again; one that keeps failing ends
        the saga as `FAILED`. A *saga_id* that is taken begins nothing: `SagaAlreadyExistsError`, or the state that is stored.
        """
        ...

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        """Go on where a crash has stopped: nothing that was stored as done is repeated. A terminal saga is returned as it is.

        Each attempt is stored before it is made, so that of two who recover one saga one goes on, and the other raises
        `SagaStateConflictError`. `SagaNotFoundError` where there is no saga.
        """
        ...


class FullSagaStateRepository(
    Transactional,
    ListIncomplete,
    Correlation,
    SagaLease,
    Delete,
    CompensationExecution,
    Lifecycle,
    SagaStateRepositoryProtocol,
    Protocol,
):
    """What a provider has that declares every capability. The rules are written against it, each for those that it needs."""


class SagaTrial(SagaWords[FullSagaStateRepository]):
    """The words of the rules of `SagasContract`."""


def _check_suite(cls: Any) -> None:
    supplied = cls._omnitck_plan.supplied
    parameter = inspect.signature(cls.make_provider).parameters.get("namespace")
    # Certifying a claim must not take up a saga that is not the rule's own.
    if "saga_lease" in cls.declared and (parameter is None or parameter.kind is parameter.VAR_KEYWORD):
        raise UsageError(
            f"{cls.__qualname__} declares `saga_lease`, and a claim reaches every saga of a store, but its make_provider takes "
            "no namespace: write `async def make_provider(self, *, namespace: str, **config)` and keep their sagas apart."
        )
    missing = [each for each in ("business_write", "business_read") if each not in supplied]
    if "transactional" in cls.declared and missing:
        raise UsageError(
            f"{cls.__qualname__} declares `transactional`, but has no hook {' and no '.join(missing)}: write "
            "`async def business_write(self, tx, key, value)` and `async def business_read(self, key)` on the same database."
        )


PAYLOADS: Mapping[str, Any] = {
    "empty": {},
    "None": {"f": None},
    "truth": {"f": True, "g": False},
    "whole numbers": {"f": 0, "g": -1, "h": 2**53 + 1, "i": -(2**53) - 1, "j": 2**62},
    "floats": {"f": 0.1, "g": 1.5, "h": -0.25, "i": 1.0, "j": 1e-7},
    "text": {
        "f": "",
        "g": "1",
        "h": "null",
        "i": "caf\u00e9 cafe\u0301 \U0001f511",
        "j": "a\r\n\t\"\\'b",
        "k": "2024-01-31T12:00:00Z",
    },
    "lists": {"f": [], "g": [None, True, 1, 1.5, "1", [], {}], "h": [[1, [2.0, [True]]], []]},
    "maps": {"f": {}, "g": {"a": {"b": {"c": None}}}, "h": {"list": [{}], "map": {"a": []}}},
    "odd names": {
        "": 1,
        " ": 2,
        "a.b": 3,
        "$set": 4,
        "caf\u00e9": 5,
        "a'b": 6,
        'a"b': 7,
        "1": 8,
        "A": 9,
        "a": 10,
        "__proto__": 11,
    },
    "names of a state": {"saga_id": "x", "status": "FAILED", "version": 99, "history": [], "payload": {"payload": 1}, "_id": 1},
    "a date and an object of BSON as text": {"$date": "2024-01-31T12:00:00Z", "f": {"$oid": "5f3c"}},
}
"""One of each kind of JSON, and what stores make of them."""

NOT_JSON: Mapping[str, Any] = {
    "a set": {"f": {1}},
    "bytes": {"f": b"a"},
    "an object": {"f": object},
    "a date": {"f": datetime(2024, 1, 31, tzinfo=UTC)},
    "not a number": {"f": float("nan")},
    "infinity": {"f": [float("inf")]},
    "a name that is a number": {"f": {1: "v"}},
    "a list": ["f"],
    "text": "f",
    "None": None,
}
"""Payloads that are no JSON objects."""


class SagasContract(DataRules):
    """Certifies a repository of the states of sagas."""

    definition = Definition(
        name="sagas",
        version="1.0",
        prefix="SAG",
        protocols={
            "": SagaStateRepositoryProtocol,
            "list_incomplete": ListIncomplete,
            "correlation": Correlation,
            "saga_lease": SagaLease,
            "delete": Delete,
            "transactional": Transactional,
            "compensation_execution": CompensationExecution,
            "lifecycle": Lifecycle,
        },
        production=frozenset({"list_incomplete"}),
        cells=SagaCells,
        limits=SagaLimits,
        hooks=("business_write", "business_read", "outbox_write", "outbox_read"),
        check=_check_suite,
    )
    trial: ClassVar[type[Trial[Any]]] = SagaTrial

    async def business_write(self, tx: Any, key: str, value: str) -> None:
        """Write *value* under *key* into a table of the application's, in the transaction *tx* of a provider."""
        raise NotImplementedError

    async def business_read(self, key: str) -> str | None:
        """What has been committed under *key* in that table, read by a connection of its own; None if there is nothing."""
        raise NotImplementedError

    async def outbox_write(self, tx: Any, event: str) -> None:
        """Save *event* in the outbox, in the transaction *tx*. Optional: where the provider's database has an outbox."""
        raise NotImplementedError

    async def outbox_read(self) -> Iterable[str]:
        """The events that have been committed to the outbox."""
        raise NotImplementedError

    # Core

    @rule("SAG-01")
    async def test_sag_01_create_stores_version_1(self, t: SagaTrial) -> None:
        """`create_state` stores and returns the state with everything in it at version 1, whatever version was passed.

        Catches a version that is taken from the input, and a field that has no column.
        """
        sagas = await t.connect()
        for version in (0, 1, 7, -1):
            with t.case(f"version {version}"):
                given = t.saga(
                    version=version,
                    status=SagaStatus.COMPENSATING,
                    current_step=3,
                    history=[SagaStepHistory("pay", "DONE"), SagaStepHistory("ship", "FAILED")],
                    payload={"order": 1, "lines": [{"sku": "a"}]},
                    saga_type="order",
                    correlation_id=t.key(),
                )
                expected = replace(given, version=1)
                t.check_state(await sagas.create_state(given), expected, given=f"create_state of a state with version={version}")
                await t.check_stored(sagas, expected, given="after that")

    @rule("SAG-02")
    async def test_sag_02_an_unknown_id_is_none(self, t: SagaTrial) -> None:
        """`get_state` of an id that nobody created returns `None` and raises nothing.

        Catches the `KeyError` of a dictionary, and an empty state.
        """
        sagas = await t.connect()
        t.same(await sagas.get_state(t.key()), None, given="get_state of an unknown id")

    @rule("SAG-03")
    async def test_sag_03_a_second_create_is_refused(self, t: SagaTrial) -> None:
        """A second `create_state` of an id raises `SagaAlreadyExistsError` and changes nothing, also when the saga has ended.

        Catches an upsert that overwrites, an insert that is ignored on a conflict, and an id that is free once its saga is
        terminal.
        """
        sagas, other = await t.clients(2)
        for status in SagaStatus:
            with t.case(str(status)):
                first = await sagas.create_state(t.saga(status=status))
                for client, again in ((sagas, t.saga(first.saga_id)), (other, replace(first, version=1))):
                    await t.refused(
                        partial(client.create_state, again), SagaAlreadyExistsError, given=f"a second create_state, of {status}"
                    )
                await t.check_stored(other, first, given="after a second create_state")

    @rule("SAG-04")
    async def test_sag_04_one_of_many_creates_succeeds(self, t: SagaTrial) -> None:
        """Of 8 concurrent `create_state` of one id, by two clients, exactly one succeeds, and its state is what stands.

        Catches a look that is followed by an insert.
        """
        clients = await t.clients(2)
        for _ in range(3):
            saga_id = t.key()
            states = [t.saga(saga_id) for _ in range(8)]
            tried = await together(partial(clients[number % 2].create_state, each) for number, each in enumerate(states))
            winner = t.one_winner(tried, "8 concurrent create_state of one id", SagaAlreadyExistsError)
            await t.check_stored(clients[0], replace(states[winner], version=1), given="after 8 concurrent create_state")

    @rule("SAG-05")
    async def test_sag_05_an_update_stores_everything(self, t: SagaTrial) -> None:
        """`update_state` stores every field, returns the state at its version + 1, and reads return that.

        Catches the input that is returned, a field that only an insert writes, a history that is appended to instead of
        replaced, and a payload that is merged into the old one.
        """
        sagas, other = await t.clients(2)
        state = await sagas.create_state(t.saga(payload={"a": 1, "b": {"c": 1}}, history=[SagaStepHistory("a", "DONE")]))
        changes: tuple[dict[str, Any], ...] = (
            {"status": SagaStatus.COMPENSATING, "current_step": 2, "history": [SagaStepHistory("b", "FAILED")]},
            {"payload": {"b": {"d": 2}}, "saga_type": "order", "correlation_id": t.key()},
            {"payload": {}, "history": [], "current_step": 0, "saga_type": "", "correlation_id": None},
            {},
            {"status": SagaStatus.COMPLETED, "payload": {"a": None}},
            {"status": SagaStatus.RUNNING},
        )
        for version, change in enumerate(changes, 2):
            given = replace(state, **change)
            state = replace(given, version=version)
            t.check_state(await sagas.update_state(given), state, given=f"update_state of {', '.join(change) or 'nothing'}")
            await t.check_stored(other, state, given=f"after an update of {', '.join(change) or 'nothing'}")

    @rule("SAG-06")
    async def test_sag_06_a_stale_update_is_refused(self, t: SagaTrial) -> None:
        """An update of a version that is no longer stored raises `SagaStateConflictError` and changes nothing.

        Catches the update that overwrites what somebody else has written, and one that is refused after it was done. Also one
        that would change nothing, one whose content is what is stored, and one of version 9 when 10 is stored.
        """
        one, other = await t.clients(2)
        first = await one.create_state(t.saga())
        stale = await other.get_state(first.saga_id)
        assert stale is not None
        stored = await one.update_state(replace(first, payload={"token": t.token()}, status=SagaStatus.COMPENSATING))
        attempts = {
            "another content": replace(stale, payload={"token": t.token()}),
            "its own content": stale,
            "the content that is stored": replace(stored, version=stale.version),
        }
        for given, state in attempts.items():
            with t.case(given):
                for client in (other, one):
                    await t.refused(
                        partial(client.update_state, state), SagaStateConflictError, given=f"a stale update with {given}"
                    )
                await t.check_stored(one, stored, given=f"after a stale update with {given}")
        for _ in range(10):
            before, stored = stored, await one.update_state(replace(stored, payload={"token": t.token()}))
            given = f"an update of version {before.version}, when {stored.version} is stored"
            await t.refused(partial(other.update_state, before), SagaStateConflictError, given=given)
        await t.check_stored(one, stored, given="after stale updates of one version after the other")

    @rule("SAG-07")
    async def test_sag_07_one_of_many_updates_succeeds(self, t: SagaTrial) -> None:
        """Of 8 concurrent updates of one version, by two clients, exactly one succeeds, and its state is what stands.

        Catches a version that is compared by a read before the write: within one client, and between two.
        """
        clients = await t.clients(2)
        first = await clients[0].create_state(t.saga())
        for _ in range(3):
            states = [replace(first, payload={"token": t.token()}) for _ in range(8)]
            tried = await together(partial(clients[number // 4].update_state, each) for number, each in enumerate(states))
            winner = t.one_winner(tried, "8 concurrent updates of one version", SagaStateConflictError)
            first = replace(states[winner], version=first.version + 1)
            t.check_state(tried[winner].value, first, given="the one update that succeeded")
            await t.check_stored(clients[1], first, given="after 8 concurrent updates")

    @rule("SAG-08", deadline=60)
    async def test_sag_08_no_update_is_lost(self, t: SagaTrial) -> None:
        """8 workers who each raise a counter 10 times by read, update and retry end at 80, and at version 81.

        Catches lost updates, and a conflict that is reported although the update was made.
        """
        clients = await t.clients(2)
        saga_id = t.key()
        await clients[0].create_state(t.saga(saga_id, payload={"count": 0}))

        async def raise_it(client: Any) -> None:
            state = await client.get_state(saga_id)
            await client.update_state(replace(state, payload={"count": state.payload["count"] + 1}))

        async def work(client: Any) -> None:
            for _ in range(10):
                await t.retry(partial(raise_it, client))

        await gather(partial(work, clients[number % 2]) for number in range(8))
        await t.check_stored(clients[0], t.saga(saga_id, payload={"count": 80}, version=81), given="after 80 updates")

    @rule("SAG-09", deadline=60)
    async def test_sag_09_histories_are_linearizable(self, t: SagaTrial) -> None:
        """Any history of concurrent reads and updates of three sagas by four workers is linearizable, some of them cut off.

        Catches the read of a replica or of a cache. A worker of a saga decides by what it reads: what it reads late, it does
        twice. DynamoDB reads so unless asked for `ConsistentRead`.
        """
        clients = await t.clients(4)
        chance = random.Random(t.seed)
        for _ in range(4):
            ids = [t.key() for _ in range(3)]
            recorders = {each: Recorder() for each in ids}

            async def work(number: int, seed: float, ids: Sequence[str] = ids, recorders: Any = recorders) -> None:
                mine = random.Random(seed)
                for step in range(8):
                    saga_id = mine.choice(ids)
                    worker = Worker(number, clients[number], saga_id, recorders[saga_id], t.cancel_seconds)
                    if (number, step) == (0, 5):  # One open operation a history: each doubles the search.
                        await worker.cancelled(f"{number}.{step}")
                    else:
                        await mine.choice((worker.get, partial(worker.replace, f"{number}.{step}")))()

            await gather(partial(work, number, chance.random()) for number in range(4))
            for saga_id, recorder in recorders.items():
                verdict = check(recorder.ops)
                if verdict is Verdict.UNDECIDED:
                    t.not_provoked(f"a history took too many steps to decide, OMNITCK_SEED={t.seed}")
                if verdict is Verdict.VIOLATION:
                    found = explain(recorder.ops)
                    t.fail_rule(
                        given=f"concurrent reads and updates by 4 workers, OMNITCK_SEED={t.seed}",
                        expected="an order of them that explains every result",
                        observed="none:\n" + (found.render(f"saga {saga_id}") if found else "a cycle"),
                    )

    @rule("SAG-10")
    async def test_sag_10_an_update_creates_nothing(self, t: SagaTrial) -> None:
        """`update_state` of an id that nobody created raises `SagaNotFoundError` and creates nothing, whatever its version.

        Catches the upsert, which gives birth to a saga that has no beginning.
        """
        sagas = await t.connect()
        for version in (0, 1, 5):
            with t.case(f"version {version}"):
                state = t.saga(version=version)
                await t.refused(
                    partial(sagas.update_state, state),
                    SagaNotFoundError,
                    given=f"update_state of an unknown id, version={version}",
                )
                t.same(await sagas.get_state(state.saga_id), None, given="get_state after a refused update of an unknown id")
                t.same((await sagas.create_state(state)).version, 1, given="the version of a create_state after that")

    @rule("SAG-11")
    async def test_sag_11_a_version_above_is_a_conflict(self, t: SagaTrial) -> None:
        """An update of a version above the stored one raises `SagaStateConflictError` and changes nothing.

        Catches a comparison with `>=`, and a version that the caller sets: a client that counted by itself would win.
        """
        sagas = await t.connect()
        stored = await sagas.create_state(t.saga())
        for above in (1, 5, 1000):
            with t.case(f"+{above}"):
                state = t.saga(stored.saga_id, version=stored.version + above)
                await t.refused(
                    partial(sagas.update_state, state), SagaStateConflictError, given=f"an update of the stored version + {above}"
                )
                await t.check_stored(sagas, stored, given="after it was refused")

    @rule("SAG-12")
    async def test_sag_12_equal_content_is_no_equal_version(self, t: SagaTrial) -> None:
        """When a saga returns to earlier content, the version of then stays stale.

        Catches a hash of the content as version, and an update that is skipped as nothing seems to change.
        """
        one, other = await t.clients(2)
        first = await one.create_state(t.saga())
        between = await one.update_state(replace(first, payload={"token": t.token()}))
        again = await one.update_state(replace(first, version=between.version))
        t.same(again.version, 3, given="the version after A, B, A")
        stale = replace(first, payload={"token": t.token()})
        await t.refused(partial(other.update_state, stale), SagaStateConflictError, given="an update of version 1, after A, B, A")
        await t.check_stored(other, replace(first, version=3), given="after that")

    @rule("SAG-13")
    async def test_sag_13_what_is_stored_has_no_alias(self, t: SagaTrial) -> None:
        """Changing a payload or a history after the call, or in a returned state, changes nothing that is stored.

        Catches a store that keeps the caller's object or hands out its own, at whatever depth.
        """
        sagas = await t.connect()

        def fresh(saga_id: str = "", version: int = 0) -> SagaState:
            history = [SagaStepHistory("a", "DONE")]
            return t.saga(saga_id, payload={"a": {"b": [1]}}, history=history, version=version, correlation_id=correlation)

        correlation = t.key()
        given = fresh()
        saga_id = given.saga_id
        results: list[tuple[str, Any]] = [("the result of create_state", await sagas.create_state(given))]
        spoil(given)
        await t.check_stored(sagas, fresh(saga_id, 1), given="after the argument of create_state was changed")
        update = fresh(saga_id, 1)
        results.append(("the result of update_state", await sagas.update_state(update)))
        spoil(update)
        await t.check_stored(sagas, fresh(saga_id, 2), given="after the argument of update_state was changed")
        results.append(("the result of get_state", await sagas.get_state(saga_id)))
        if "list_incomplete" in t.declared:
            found = [each async for page in t.pages(sagas, 100) for each in page.sagas if each.saga_id == saga_id]
            results += [("a saga of list_incomplete", each) for each in found]
        if "correlation" in t.declared:
            results.append(("the result of find_by_correlation", await sagas.find_by_correlation("", correlation)))
        if "saga_lease" in t.declared:
            await t.wait(t.numbers().ttl_resolution)
            given_out = await sagas.claim_stuck(WORKER, limit=100, lease=LONG_LEASE)
            results += [("a saga of claim_stuck", each) for each in given_out if each.saga_id == saga_id]
        for what, result in results:
            with t.case(what):
                spoil(result)
                await t.check_stored(sagas, fresh(saga_id, 2), given=f"after {what} was changed")

    @rule("SAG-14")
    async def test_sag_14_payloads_come_back_exactly(self, t: SagaTrial) -> None:
        """A payload of any JSON comes back exactly, by `create_state` and by `update_state`: values, types and names.

        Nested, beyond ASCII, 2**53 + 1, 0.1, null, empty. Catches the Decimal of DynamoDB, a null that is dropped, the double of
        JavaScript and of Lua, for which an empty map is a list, and a name that a store takes for an operator or a path.
        """
        sagas, other = await t.clients(2)
        for label, payload in PAYLOADS.items():
            with t.case(label):
                created = await sagas.create_state(t.saga(payload=payload))
                await t.check_stored(other, t.saga(created.saga_id, payload=payload, version=1), given=f"of {label}")
                await sagas.update_state(replace(created, payload={"before": 1}))
                updated = await sagas.update_state(replace(created, payload=payload, version=2))
                t.check_state(updated, t.saga(created.saga_id, payload=payload, version=3), given=f"update_state with {label}")
                await t.check_stored(other, t.saga(created.saga_id, payload=payload, version=3), given=f"of {label}, updated")

    @rule("SAG-15")
    async def test_sag_15_the_largest_state_works(self, t: SagaTrial) -> None:
        """A payload of `value_bytes` together with a history of `history` steps comes back whole.

        Where `limits` is declared, one step more is refused and leaves the old state. Catches silent truncation, and an item of a
        database whose limit the payload had for itself alone. Of a payload above 16 MiB only so much is tried.
        """
        sagas, other = await t.clients(2)
        limits = t.numbers()
        room = min(t.cells.room(limits, ""), LARGEST_PAYLOAD)
        steps = within_reach(limits.history)
        token = t.token(room)[:room]
        full = t.saga(payload={"token": token}, history=[SagaStepHistory(f"step {each}", "DONE") for each in range(steps)])
        created = await sagas.create_state(replace(full, history=(), payload={}))
        updated = await sagas.update_state(replace(full, version=1))
        for state in (updated, await other.get_state(created.saga_id)):
            assert state is not None
            t.check(
                state.payload.get("token") == token and len(state.history) == steps,
                given=f"a state with a payload of {room:,} bytes and {steps} steps of history",
                expected="all of it",
                observed=Plain(f"{len(str(state.payload.get('token'))):,} characters and {len(state.history)} steps"),
            )
        if "limits" in t.declared and steps == limits.history:
            longer = replace(full, version=2, payload={}, history=[*full.history, SagaStepHistory("more", "DONE")])
            await t.refused(partial(sagas.update_state, longer), TooLargeError, given=f"a history of {steps + 1} steps")
            state = await other.get_state(created.saga_id)
            t.same(state and len(state.history), steps, given="the length of the history after that")

    @rule("SAG-16")
    async def test_sag_16_a_history_keeps_length_and_order(self, t: SagaTrial) -> None:
        """A history of 0, 1 or 100 steps keeps its length and its order, with steps in it that are wholly equal.

        Catches a set or a map of steps, rows that come in any order, a history that grows by its own new steps only, and one that
        is sorted by name: "10" before "9".
        """
        sagas, other = await t.clients(2)
        entries = [SagaStepHistory(f"step {each % 40}", "DONE" if each % 3 else "FAILED") for each in range(100)]
        state = await sagas.create_state(t.saga(history=entries))
        await t.check_stored(other, replace(state, history=entries), given="of a history of 100 steps")
        for length in (100, 1, 0, 11, 2, 100):
            history = [*reversed(entries[:length])]
            state = await sagas.update_state(replace(state, history=history))
            await t.check_stored(
                other, replace(state, history=history), given=f"of a history that was replaced by {length} steps"
            )
        history = [SagaStepHistory("", ""), SagaStepHistory("caf\u00e9; 'x', \"y\"\n", "any word"), SagaStepHistory("", "")]
        state = await sagas.update_state(replace(state, history=tuple(history)))
        await t.check_stored(other, replace(state, history=history), given="of a history, given as a tuple, with odd words")

    @rule("SAG-17", "shared")
    async def test_sag_17_an_update_is_seen_at_once(self, t: SagaTrial) -> None:
        """A committed update is seen at once by a second client that has read the saga before, and by a new one.

        20 alternating reads and updates. Catches a cache in the client, also of a saga that it wrote itself.
        """
        clients = await t.clients(2)
        state = await clients[0].create_state(t.saga())
        for number in range(20):
            writer, reader = clients[number % 2], clients[1 - number % 2]
            await t.check_stored(reader, state, given="by a second client, before an update")
            token = t.token()
            state = replace(await writer.update_state(replace(state, payload={"token": token})), payload={"token": token})
            await t.check_stored(reader, state, given="by a second client, after an update")
        await t.check_stored(await t.connect(), state, given="by a new client")

    # list_incomplete

    @rule("SAG-18", "list_incomplete")
    async def test_sag_18_a_listing_has_what_is_not_terminal(self, t: SagaTrial) -> None:
        """`list_incomplete` returns every saga that is not terminal, as it is stored, and no other; `FAILED` ones only if asked.

        Also after an update from one status to another. Catches COMPENSATING that is forgotten: what is half undone stays so.
        """
        sagas, other = await t.clients(2)
        made = {status: await sagas.create_state(t.saga(status=status)) for status in SagaStatus}
        turned = await sagas.create_state(t.saga(status=SagaStatus.COMPLETED))
        await sagas.update_state(replace(turned, status=SagaStatus.COMPENSATING))
        ended = await sagas.create_state(t.saga())
        await sagas.update_state(replace(ended, status=SagaStatus.COMPENSATED))
        failed = await sagas.create_state(t.saga())
        await sagas.update_state(replace(failed, status=SagaStatus.FAILED))
        more = [await sagas.create_state(t.saga(status=SagaStatus.FAILED)) for _ in range(3)]
        ids = [*ids_of(made.values()), *ids_of((turned, ended, failed)), *ids_of(more)]
        stuck = [made[SagaStatus.RUNNING].saga_id, made[SagaStatus.COMPENSATING].saga_id, turned.saga_id]
        t.check_listing(await t.listed(other, ids), stuck, "list_incomplete of sagas of each status")
        t.check_listing(
            await t.listed(other, ids, limit=2, include_failed=True),
            [*stuck, made[SagaStatus.FAILED].saga_id, failed.saga_id, *ids_of(more)],
            "list_incomplete with include_failed",
        )
        async for page in t.pages(other, 3, include_failed=True):
            for each in page.sagas:
                if each.saga_id in ids:
                    t.same(told(each), told(await sagas.get_state(each.saga_id)), given="a saga in a listing, beside get_state")

    @rule("SAG-19", "list_incomplete")
    async def test_sag_19_older_than_counts_from_the_last_update(self, t: SagaTrial) -> None:
        """`older_than` leaves out a saga whose last update is not so long ago, however old it is, and has each other.

        Catches a time that only creation sets, and one of a client's clock. Windows allow for `ttl_resolution`.
        """
        sagas = await t.connect()
        unit = t.ttl_unit()
        *old, updated, failed = [await sagas.create_state(t.saga()) for _ in range(6)]
        await sagas.update_state(replace(failed, status=SagaStatus.FAILED))
        await t.wait(2 * unit)
        for _ in range(5):
            called = t.now()
            updated = await sagas.update_state(updated)
            young = await sagas.create_state(t.saga())
            found = await t.listed(sagas, ids_of((*old, updated, young, failed)), older_than=unit, limit=2, include_failed=True)
            # On a machine too busy to look in time nothing is concluded.
            if t.now() < called + unit - t.numbers().ttl_resolution:
                t.check_listing(found, ids_of((*old, failed)), f"older_than={unit:g}, five sagas being that old")
                break
        await t.wait(unit + t.numbers().ttl_resolution + unit / 100)
        everything = ids_of((*old, updated, young, failed))
        t.check_listing(
            await t.listed(sagas, everything, older_than=unit, limit=2, include_failed=True),
            everything,
            f"older_than={unit:g}, later",
        )
        t.check_listing(await t.listed(sagas, everything, older_than=100 * unit), [], f"older_than={100 * unit:g}")

    @rule("SAG-20", "list_incomplete", deadline=60)
    async def test_sag_20_paging_survives_changes(self, t: SagaTrial) -> None:
        """Paging returns each saga that nobody touches exactly once, while others complete, are updated, and are created.

        Catches a page that begins at an offset: what completes on the first page lets as many be skipped.
        """
        sagas, other = await t.clients(2)
        made = await t.stuck(sagas, 25)
        ids = ids_of(made)
        touched: set[str] = set()
        found: list[str] = []
        changes = 0
        async for page in t.pages(sagas, 10):
            page_ids = [each for each in ids_of(page.sagas) if each in ids]
            found += page_ids
            if changes == 3:
                continue

            # Three of those that were listed, and one that was not yet.
            listed = [each for each in made if each.saga_id in found and each.saga_id not in touched][:3]
            ahead = [each for each in made if each.saga_id not in found and each.saga_id not in touched][-1:]
            for each in listed[:2]:
                await other.update_state(replace(each, status=SagaStatus.COMPLETED))
            for each in (*listed[2:], *ahead):
                await other.update_state(each)
            await other.create_state(t.saga())
            touched |= {*ids_of(listed), *ids_of(ahead)}
            changes += 1
        untouched = [each for each in ids if each not in touched]
        t.check_listing(
            [each for each in found if each not in touched], untouched, "pages of 10 of 25 sagas, others changed between them"
        )

    @rule("SAG-21", deadline=30)
    async def test_sag_21_a_cancelled_update_is_whole_or_nothing(self, t: SagaTrial) -> None:
        """A cancelled `update_state` leaves the old state, or the new one with its version, and no other update is in its way.

        Catches a payload that is written before its version, and a transaction that a cancelled update leaves open on the
        client: what that client writes next is seen by no other.
        """
        sagas, other = await t.clients(2)
        state = await sagas.create_state(t.saga(history=[SagaStepHistory("a", "DONE")]))
        tokens = [state.payload["token"]]

        def update() -> Call[object]:
            tokens.append(t.token())
            return partial(sagas.update_state, replace(state, payload={"token": tokens[-1]}, history=(), current_step=7))

        async for each in sweep(update, within=t.cancel_seconds):
            given = f"after an update was cancelled at its wait number {each.step + 1}"
            new = replace(state, payload={"token": tokens[-1]}, history=(), current_step=7, version=state.version + 1)
            seen = await other.get_state(state.saga_id)
            t.check(
                told(seen) in (told(state), told(new)), given=f"get_state {given}", expected="the old state, or the new one",
                observed=told(seen),
            )  # fmt: skip
            # It may still arrive: to abandon an await does not stop what a server was asked for.
            state = await t.retry(partial(_written, sagas, state.saga_id, {"token": t.token()}))
            await t.check_stored(other, state, given=f"by another client, once the same one wrote anew {given}")

    # correlation

    @rule("SAG-22", "correlation")
    async def test_sag_22_a_correlation_is_unique_while_its_saga_runs(self, t: SagaTrial) -> None:
        """Of the sagas of one type that are not terminal, one has a correlation; a second raises `SagaAlreadyExistsError`.

        By `create_state`, also of 8 at once by two clients, and by `update_state`, which then changes nothing. Catches uniqueness
        by a query, and a unique index that still counts sagas that have ended: the order could never be tried again.
        """
        clients = await t.clients(2)
        sagas, correlation = clients[0], t.key()
        states = [t.saga(saga_type="order", correlation_id=correlation) for _ in range(8)]
        tried = await together(partial(clients[number % 2].create_state, each) for number, each in enumerate(states))
        winner = t.one_winner(tried, "8 concurrent create_state of one correlation", SagaAlreadyExistsError)
        first = await sagas.update_state(replace(tried[winner].result(), status=SagaStatus.COMPENSATING))
        losers = [each.saga_id for each in states if each.saga_id != first.saga_id]
        for each in losers:
            t.same(await sagas.get_state(each), None, given="get_state of a saga that was refused for its correlation")
        second = await sagas.create_state(t.saga(losers[0], saga_type="order", correlation_id=t.key()))
        taken = replace(second, correlation_id=correlation, payload={})
        await t.refused(
            partial(sagas.update_state, taken), SagaAlreadyExistsError, given="update_state to a correlation that is taken"
        )
        await t.check_stored(clients[1], second, given="after that")
        found = await sagas.find_by_correlation("order", correlation)
        t.check_state(found, first, given="find_by_correlation of a COMPENSATING saga")
        for status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED):
            with t.case(str(status)):
                ended = await sagas.update_state(replace(first, status=status))
                t.same(
                    await sagas.find_by_correlation("order", correlation), None, given=f"find_by_correlation of a {status} saga"
                )
                first = await clients[1].create_state(t.saga(saga_type="order", correlation_id=correlation))
                found = await sagas.find_by_correlation("order", correlation)
                t.check_state(found, first, given="find_by_correlation of the saga that took a free correlation")
                await t.refused(
                    partial(sagas.update_state, replace(ended, status=SagaStatus.RUNNING)),
                    SagaAlreadyExistsError,
                    given="a saga that had ended runs again, when its correlation is taken",
                )

    # saga_lease

    @rule("SAG-23", "saga_lease")
    async def test_sag_23_a_stuck_saga_is_given_to_one_worker(self, t: SagaTrial) -> None:
        """Of 8 workers on two clients that claim at once each stuck saga is given to one, and during its lease to no other.

        Catches a SELECT that is followed by an UPDATE: two recoverers compensate one payment twice.
        """
        clients = await t.clients(2)
        for count, limit in ((1, 5), (7, 2), (20, 3)):
            with t.case(f"{count} sagas, limit {limit}"):
                ids = ids_of(await t.stuck(clients[0], count))
                claims = [
                    partial(clients[number % 2].claim_stuck, f"w{count}.{number}", limit=limit, lease=LONG_LEASE)
                    for number in range(8)
                ]
                given = [ids_of(each) for each in await gather(claims)]
                t.check(
                    all(len(each) <= limit for each in given),
                    given=f"claim_stuck with limit={limit}",
                    expected=f"at most {limit}",
                    observed=Plain(f"{max(map(len, given))}"),
                )
                late = await t.claimed(clients[0], "late", ids)
                t.check_listing(
                    [id for each in given for id in each if id in ids] + late,
                    ids,
                    "what 8 workers at once and a late one were given",
                )
                t.same(await t.claimed(clients[1], "later", ids), [], given="what one more worker is given during the leases")

    # transactional

    @rule("SAG-24", "transactional")
    async def test_sag_24_a_transaction_is_whole_or_nothing(self, t: SagaTrial) -> None:
        """The update of a saga, a business row and an event of one transaction commit together, or vanish together.

        By an exception and by a cancellation, which both leave the block; then the same client commits. Catches separate
        connections, `except Exception: rollback`, and a transaction that swallows what ended it.
        """
        sagas, other = await t.clients(2)
        state = await sagas.create_state(t.saga())
        key, value, event = t.key(), t.token(), t.token()
        changed = replace(state, payload={"token": t.token()}, status=SagaStatus.COMPENSATING)

        async def fail() -> None:
            raise LookupError("raised in the transaction")

        await t.refused(
            lambda: t.business(sagas, changed, key, value, event, fail), LookupError, given="an exception in a transaction"
        )
        await t.check_business(other, state, key, None, event, "after an exception in the transaction")
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

            await t.business(sagas, changed, key, value, event, cancel)
        t.check(scope.cancelled_caught, given="a cancellation in a transaction", expected="it leaves the block", observed="no")
        await t.check_business(other, state, key, None, event, "after a cancellation in the transaction")
        stored = await t.business(sagas, changed, key, value, event, anyio.lowlevel.checkpoint)
        t.check_state(stored, replace(changed, version=2), given="update_state in a transaction")
        await t.check_business(other, replace(changed, version=2), key, value, event, "after a commit")

    # compensation_execution

    @rule("SAG-25", "compensation_execution")
    async def test_sag_25_done_steps_are_undone_in_reverse(self, t: SagaTrial) -> None:
        """When a step fails, those before it are undone once each, the last first; it itself and later ones are not.

        4 steps, each failing in turn, and none. Catches a forward order, a compensation of the step that failed, and steps that
        are done after a failure. A saga whose first step fails is `COMPENSATED` too.
        """
        sagas = await t.connect()
        # An error of the application's may be one of the standard, of another store that it works with.
        cases: tuple[tuple[int | None, type[Exception]], ...] = (
            (None, StepFailed), (0, StepFailed), (1, LookupError), (2, SagaStateConflictError), (3, SagaNotFoundError),
            (2, SagaAlreadyExistsError),
        )  # fmt: skip
        for failed, error in cases:
            with t.case("no failure" if failed is None else f"step {failed} fails with {error.__name__}"):
                script = Script(4)
                if failed is not None:
                    script.fail((DO, failed), error=error)
                state = await t.play(sagas, script)
                status = SagaStatus.COMPLETED if failed is None else SagaStatus.COMPENSATED
                t.check_end(state, script, status, in_order(4, failed=failed), given=f"4 steps, of which {failed} fails")

    @rule("SAG-26", "compensation_execution", hook="crash", deadline=60)
    async def test_sag_26_a_crash_repeats_nothing_that_was_done(self, t: SagaTrial) -> None:
        """Wherever the process dies while steps are done, `recover` does what is left, and none twice whose successor had begun.

        The step that was under way may be done again, with the same idempotency key. `run` is abandoned at each of its suspension
        points. Catches progress that is stored after the next step began, at the end, or before a step is done.
        """
        script = Script(3)
        async for saga_id, step, begun in t.crash_points(script, t.key):
            await t.check_recovery(
                script,
                saga_id,
                begun,
                [in_order(3)],
                SagaStatus.COMPLETED,
                given=f"a crash at suspension number {step + 1} of run",
            )

    @rule("SAG-27", "compensation_execution", hook="crash", deadline=60)
    async def test_sag_27_a_crash_while_compensating_goes_on_compensating(self, t: SagaTrial) -> None:
        """Wherever the process dies while a saga is undone, `recover` goes on undoing it, and does nothing forward.

        No compensation is repeated whose successor had begun. Catches a status that is stored at the end of the compensation, and
        a recovery that begins with the first step that is not done.
        """
        script = Script(3)
        script.fail((DO, 2))
        orders = [in_order(3, failed=2)]
        async for saga_id, step, begun in t.crash_points(script, t.key):
            # Of a step that was cut off and then failed nobody knows what its first attempt has done.
            cut_off = script.of(saga_id)[-1:] == [(DO, 2)]
            await t.check_recovery(
                script,
                saga_id,
                begun,
                [*orders, in_order(3, failed=2, undone=True)] if cut_off else orders,
                SagaStatus.COMPENSATED,
                given=f"a crash at suspension number {step + 1} of a run whose last step fails",
            )

    @rule("SAG-28", "compensation_execution")
    async def test_sag_28_a_compensation_that_keeps_failing_ends_as_failed(self, t: SagaTrial) -> None:
        """A compensation that keeps failing is tried up to a bound, then the saga is `FAILED`, and no earlier step is undone.

        With `list_incomplete`, it is listed by `include_failed` and not without. Catches an error that is swallowed: the saga
        reports `COMPENSATED`, and nobody looks.
        """
        sagas = await t.connect()
        script = Script(4)
        script.fail((DO, 3))
        script.fail((UNDO, 1))
        state = await t.play(sagas, script)
        moves = script.of(state.saga_id)
        tries = moves.count((UNDO, 1))
        t.check(tries > 1, given="a compensation that keeps failing", expected="more than one attempt", observed=tries)
        expected = [*in_order(3), (DO, 3), (UNDO, 2), *[(UNDO, 1)] * tries]
        t.check_end(state, script, SagaStatus.FAILED, expected, given="a compensation that keeps failing")
        if "list_incomplete" in t.declared:
            ids = [state.saga_id]
            t.same(await t.listed(sagas, ids, include_failed=True), ids, given="list_incomplete with include_failed")
            t.same(await t.listed(sagas, ids), [], given="list_incomplete without include_failed")

    @rule("SAG-29", "compensation_execution")
    async def test_sag_29_a_step_of_unknown_outcome_is_undone_too(self, t: SagaTrial) -> None:
        """A step that timed out or was cancelled is undone with those before it, as it may have been done.

        Where `run` itself is cancelled in a step, it ends, and `recover` either does the step again and goes on, or undoes it
        with the others. Catches a timeout that is taken for "not done": the payment stays taken.
        """
        sagas, other = await t.clients(2)
        for failed in (0, 1, 2):
            with t.case(f"step {failed} times out"):
                script = Script(3)
                script.fail((DO, failed), error=TimeoutError)
                state = await t.play(sagas, script)
                moves = in_order(3, failed=failed, undone=True)
                t.check_end(state, script, SagaStatus.COMPENSATED, moves, given=f"step {failed} of 3 times out")
        with t.case("run is cancelled"):
            script, saga_id = Script(3), t.key()
            with anyio.CancelScope() as scope:

                async def cancel(context: SagaContext) -> None:
                    scope.cancel()
                    await anyio.sleep_forever()

                script.interludes[DO, 1] = cancel
                await sagas.run(saga_id, script.steps, {})
            t.check(
                scope.cancelled_caught, given="run, cancelled in its second step", expected="the cancellation", observed="none"
            )
            begun = len(script.of(saga_id))
            del script.interludes[DO, 1]
            state = await other.get_state(saga_id)
            t.check(state is not None, given="get_state after run was cancelled", expected="a saga that is left", observed=state)
            state = await t.recover(other, script, saga_id)
            undone = state.status == SagaStatus.COMPENSATED
            orders = [in_order(3, failed=1, undone=True)] if undone else [in_order(3)]
            moves = script.of(saga_id)
            t.check(
                SagaStatus(state.status).terminal and continues(script, saga_id, begun, orders),
                given=f"recover of a saga whose run was cancelled in step 1; it ends as {state.status}",
                expected=f"{shown(orders[0])}, in which step 1 may be begun again",
                observed=Plain(shown(moves)),
            )

    @rule("SAG-30", "compensation_execution")
    async def test_sag_30_of_two_that_execute_a_saga_one_goes_on(self, t: SagaTrial) -> None:
        """Each attempt at a step is stored before it is made, so that of two who execute one saga only one does the steps after.

        Steps that are undone as well as those that are done. Nobody can know of the first whether it is alive: `recover` may do
        its step again, and the first then goes no further. Catches a step that is begun before its claim is stored, also while
        compensating alone, and progress that is stored without a look at the version.
        """
        sagas, other = await t.clients(2)
        for move, status in (((DO, 1), SagaStatus.COMPLETED), ((UNDO, 1), SagaStatus.COMPENSATED)):
            with t.case(f"both in {shown([move])}"):
                script, saga_id = Script(3), t.key()
                failed = 2 if move[0] == UNDO else None
                if failed is not None:
                    script.fail((DO, failed))
                await t.execute_both(sagas, other, script, saga_id, move)
                moves = script.of(saga_id)
                elsewhere = [each for each in in_order(3, failed=failed) if each != move]
                counts = [moves.count(each) for each in elsewhere]
                t.same(counts, [1] * len(elsewhere), given=f"how often each was begun of {shown(elsewhere)}")
                state: Any = told(await other.get_state(saga_id))
                t.same(state["status"], str(status), given="the status at the end")

    # delete

    @rule("SAG-31", "delete")
    async def test_sag_31_a_delete_compares_the_version(self, t: SagaTrial) -> None:
        """`delete_state` removes the saga of exactly this version; a stale one conflicts, an unknown id is `SagaNotFoundError`.

        Then the id is free, an update of what was deleted creates nothing, and other sagas of equal content stay. Catches a
        delete by id alone, and one that succeeds of what is not there.
        """
        sagas, other = await t.clients(2)
        first = await sagas.create_state(t.saga())
        twin = await sagas.create_state(t.saga(payload=first.payload))
        stored = await sagas.update_state(first)
        for version in (first.version, stored.version + 1):
            await t.refused(
                partial(other.delete_state, first.saga_id, version),
                SagaStateConflictError,
                given=f"delete_state of version {version}, when {stored.version} is stored",
            )
            await t.check_stored(sagas, stored, given="after a refused delete_state")
        removed: Any = await cast("Any", other).delete_state(first.saga_id, stored.version)
        t.same(removed, None, given="the result of delete_state")
        await t.check_stored(sagas, None, first.saga_id, given="after delete_state")
        await t.check_stored(sagas, twin, given="of a saga of equal content, after the other was deleted")
        for given, call in (
            ("delete_state of a deleted saga", partial(sagas.delete_state, first.saga_id, stored.version)),
            ("delete_state of an unknown id", partial(sagas.delete_state, t.key(), 1)),
            ("update_state of a deleted saga", partial(sagas.update_state, stored)),
        ):
            await t.refused(call, SagaNotFoundError, given=given)
        await t.check_stored(other, None, first.saga_id, given="after an update of what was deleted")
        anew = await other.create_state(t.saga(first.saga_id))
        t.same(anew.version, 1, given="the version of a saga that is created under the id of a deleted one")
        await t.check_stored(sagas, anew, given="of a saga that was created anew")

    @rule("SAG-32", "delete")
    async def test_sag_32_of_an_update_and_a_delete_one_wins(self, t: SagaTrial) -> None:
        """Of concurrent updates and deletes of one version exactly one wins, and nothing is made anew.

        Catches a delete that does not compare, and an update that inserts what has just gone. The losers meet a conflict, or find
        no saga.
        """
        clients = await t.clients(2)
        for number_of_round in range(6):
            state = await clients[0].create_state(t.saga())
            states = [replace(state, payload={"token": t.token()}) for _ in range(3)]
            calls: list[Call[Any]] = []
            for number, each in enumerate(states):
                calls.append(partial(clients[number % 2].update_state, each))
                calls.append(partial(clients[1 - number % 2].delete_state, state.saga_id, state.version))
            order = [*range(6)] if number_of_round % 2 == 0 else [*reversed(range(6))]
            begun = await together(calls[each] for each in order)
            tried = [begun[order.index(each)] for each in range(6)]
            for loser in tried:
                if isinstance(loser.error, SagaNotFoundError):  # It came after the delete.
                    loser.error = SagaStateConflictError("gone")
            winner = t.one_winner(tried, "3 updates and 3 deletes of one version at once", SagaStateConflictError)
            expected = replace(states[winner // 2], version=2) if winner % 2 == 0 else None
            await t.check_stored(
                clients[1], expected, state.saga_id, given="after 3 updates and 3 deletes of one version at once"
            )

    @rule("SAG-33", "delete", "list_incomplete")
    async def test_sag_33_what_is_deleted_is_not_found(self, t: SagaTrial) -> None:
        """A deleted saga is in no listing, has no correlation, is given to no worker, and leaves nothing to the next of its id.

        Catches a row of an index that outlives what it stands for, and a soft delete that only `get_state` knows of.
        """
        sagas, other = await t.clients(2)
        correlation = t.key()
        gone, stays = await sagas.create_state(t.saga(correlation_id=correlation)), await sagas.create_state(t.saga())
        ids = ids_of((gone, stays))
        await t.wait(t.numbers().ttl_resolution)
        if "saga_lease" in t.declared:
            await t.claimed(sagas, "before", ids)
            await sagas.release_stuck(stays.saga_id, "before")
        await sagas.delete_state(gone.saga_id, 1)
        for failed in (False, True):
            t.same(await t.listed(other, ids, include_failed=failed), ids[1:], given="a listing after a saga was deleted")
        if "correlation" in t.declared:
            t.same(await other.find_by_correlation("", correlation), None, given="find_by_correlation of a deleted saga")
            await other.create_state(t.saga(correlation_id=correlation))
        if "saga_lease" in t.declared:
            t.same(await t.claimed(other, WORKER, ids), ids[1:], given="what a worker is given after a saga was deleted")
        anew = await other.create_state(t.saga(gone.saga_id))
        await t.wait(t.numbers().ttl_resolution)
        if "saga_lease" in t.declared:
            t.same(await t.claimed(other, "after", ids), ids[:1], given="a claim of what took the id of a claimed saga")
        anew = await sagas.update_state(replace(anew, status=SagaStatus.FAILED))
        t.same(await t.listed(sagas, ids), ids[1:], given="a listing after the id was taken by a saga that has failed")
        await t.check_stored(sagas, replace(anew, correlation_id=None), given="of a saga that was created anew")

    # correlation

    @rule("SAG-34", "correlation")
    async def test_sag_34_any_number_of_sagas_lack_a_correlation(self, t: SagaTrial) -> None:
        """Any number of sagas of one type may have no correlation, by creation and by update, and to look for None finds none.

        Catches UNIQUE over a column in which None is a value like another, and the text "None".
        """
        sagas, other = await t.clients(2)
        made = [await sagas.create_state(t.saga(saga_type="order")) for _ in range(3)]
        correlated = await other.create_state(t.saga(saga_type="order", correlation_id=t.key()))
        await other.update_state(replace(correlated, correlation_id=None))
        await other.update_state(made[0])
        # That it is refused is as good.
        found = await attempt(partial(sagas.find_by_correlation, "order", None))  # type: ignore[arg-type]
        t.same(found.value, None, given="find_by_correlation of None, with four sagas that have none")
        t.same(await sagas.find_by_correlation("order", "None"), None, given='find_by_correlation of the text "None"')

    @rule("SAG-35", "correlation")
    async def test_sag_35_a_correlation_is_of_one_type(self, t: SagaTrial) -> None:
        """One correlation may be that of a saga in each type, and finds the saga of the type that was asked for.

        Also where type and correlation joined are the same text. Catches an index over the correlation alone, and a joined key.
        """
        sagas, other = await t.clients(2)
        start, correlation = t.key(), t.key()
        pairs = [(kind, correlation) for kind in ("", "order", "Order", "payment", start)]
        pairs += [(f"{start}:a", "b:c"), (f"{start}:a:b", "c"), (f"{start}/a", "b"), (f"{start}", "/a/b"), (f"{start}a", "bc")]
        pairs += [(start, f"{correlation}{end}") for end in ("a", "A", "a ", "\u00e9", "e\u0301")]
        made = {pair: await sagas.create_state(t.saga(saga_type=pair[0], correlation_id=pair[1])) for pair in pairs}
        for (kind, value), state in made.items():
            with t.case(f"{kind!r}, {value!r}"):
                found = await other.find_by_correlation(kind, value)
                t.check_state(found, state, given=f"find_by_correlation({describe(kind)}, {describe(value)})")
        t.same(
            await other.find_by_correlation("refund", correlation), None, given="find_by_correlation in a type that has no saga"
        )

    @rule("SAG-36", "correlation")
    async def test_sag_36_a_correlation_follows_its_saga(self, t: SagaTrial) -> None:
        """`find_by_correlation` returns what is stored now: of the saga that has the correlation, and of none that had it.

        After an update of the payload, of the correlation and of the type, and after a refused one. Catches an index that only a
        creation writes, and an entry of it that an update leaves behind.
        """
        sagas, other = await t.clients(2)
        old, new = t.key(), t.key()
        state = await sagas.create_state(t.saga(saga_type="order", correlation_id=old))
        t.check_state(await other.find_by_correlation("order", old), state, given="find_by_correlation")
        state = await sagas.update_state(replace(state, payload={"token": t.token()}))
        t.check_state(await other.find_by_correlation("order", old), state, given="find_by_correlation after an update")
        state = await sagas.update_state(replace(state, correlation_id=new))
        t.same(await other.find_by_correlation("order", old), None, given="find_by_correlation of what the saga had before")
        t.check_state(await other.find_by_correlation("order", new), state, given="find_by_correlation of what it has now")
        await other.create_state(t.saga(saga_type="order", correlation_id=old))
        stale = replace(state, version=1, correlation_id=t.key())
        await t.refused(partial(sagas.update_state, stale), SagaStateConflictError, given="a stale update of a correlation")
        second = t.saga(state.saga_id, saga_type="order", correlation_id=t.key())
        await t.refused(partial(other.create_state, second), SagaAlreadyExistsError, given="create_state of an id that is taken")
        for each in (stale, second):
            none = await other.find_by_correlation("order", str(each.correlation_id))
            t.same(none, None, given="find_by_correlation of what was refused")
            await sagas.create_state(t.saga(saga_type="order", correlation_id=each.correlation_id))
        t.check_state(await other.find_by_correlation("order", new), state, given="find_by_correlation after a refused update")
        state = await sagas.update_state(replace(state, saga_type="refund"))
        t.same(await other.find_by_correlation("order", new), None, given="find_by_correlation in the type that it had before")
        t.check_state(await other.find_by_correlation("refund", new), state, given="find_by_correlation in its type")
        again = await sagas.create_state(t.saga(saga_type="order", correlation_id=new))
        t.same(again.version, 1, given="a second saga of that correlation, in the type that has become free")
        back = replace(state, saga_type="order")
        await t.refused(
            partial(other.update_state, back), SagaAlreadyExistsError, given="an update to a type in which it is taken"
        )

    # What is not changed

    @rule("SAG-37")
    async def test_sag_37_arguments_stay_as_they_were(self, t: SagaTrial) -> None:
        """`create_state` and `update_state` leave their argument as it was: when they succeed, are refused, or are cancelled.

        Catches a version that is raised in the caller's state before the write: the retry after a failure then conflicts with
        nothing, or overwrites what somebody else wrote.
        """
        sagas = await t.connect()
        history = [SagaStepHistory("a", "DONE")]
        stored = await sagas.create_state(t.saga(history=history))
        stale = replace(stored, payload={"a": [1]}, history=list(history))
        fresh = t.saga(payload={"a": [1]}, history=list(history), version=5)

        async def check_left(state: SagaState, call: Call[object], given: str) -> None:
            before = (told(state), state.created_at, state.updated_at)
            await attempt(call)
            t.same((told(state), state.created_at, state.updated_at), before, given=f"the argument after {given}")

        await check_left(fresh, partial(sagas.create_state, fresh), "create_state")
        await check_left(fresh, partial(sagas.create_state, fresh), "create_state of an id that is taken")
        await check_left(stale, partial(sagas.update_state, stale), "update_state")
        await check_left(stale, partial(sagas.update_state, stale), "a stale update_state")
        absent = t.saga(version=3)
        await check_left(absent, partial(sagas.update_state, absent), "update_state of an unknown id")
        current = await sagas.get_state(stored.saga_id)
        assert current is not None
        before = told(current)
        async for each in sweep(lambda: partial(sagas.update_state, current), within=t.cancel_seconds):
            t.same(told(current), before, given=f"the argument of update_state, cancelled at its wait number {each.step + 1}")

    @rule("SAG-38", deadline=30)
    async def test_sag_38_a_cancelled_create_is_whole_or_nothing(self, t: SagaTrial) -> None:
        """A cancelled `create_state` leaves the whole saga at version 1 or none, and with `delete` a cancelled delete likewise.

        What the same client does next is seen by another. Catches a row that is inserted before its payload, and a correlation
        that is taken for a saga that is not there.
        """
        sagas, other = await t.clients(2)
        made: list[SagaState] = []

        def create() -> Call[object]:
            made.append(t.saga(correlation_id=t.key(), history=[SagaStepHistory("a", "DONE")]))
            return partial(sagas.create_state, made[-1])

        async for each in sweep(create, within=t.cancel_seconds):
            state, given = replace(made[-1], version=1), f"after create_state was cancelled at its wait number {each.step + 1}"
            seen = await other.get_state(state.saga_id)
            whole = told(seen) in (None, told(state))
            t.check(whole, given=f"get_state {given}", expected="the whole state, or None", observed=told(seen))
            anew = await attempt(partial(sagas.create_state, made[-1]))
            if not isinstance(anew.error, SagaAlreadyExistsError):
                anew.result()
            await t.check_stored(other, state, given=f"by another client, once the same one created it again {given}")
        if "delete" not in t.declared:
            return

        def delete() -> Call[object]:
            return partial(sagas.delete_state, made[-1].saga_id, 1)

        async for each in sweep(delete, within=t.cancel_seconds):
            given = f"after delete_state was cancelled at its wait number {each.step + 1}"
            seen = await other.get_state(made[-1].saga_id)
            t.check(
                told(seen) in (None, told(replace(made[-1], version=1))), given=f"get_state {given}",
                expected="the whole state, or None", observed=told(seen),
            )  # fmt: skip
            create()
            await sagas.create_state(made[-1])
            await t.check_stored(
                other, replace(made[-1], version=1), given=f"by another client, of what was created next {given}"
            )

    @rule("SAG-39", "validation")
    async def test_sag_39_bad_states_are_refused(self, t: SagaTrial) -> None:
        """A state with an unknown status, a payload that is no JSON object, or a version that is no number is refused.

        With `InvalidArgumentError`, by `create_state` and `update_state`, and nothing is changed. Catches `default=str`, which
        stores a date as text, and NaN, which is no JSON. Limits and times that are none are refused as well.
        """
        sagas = await t.connect()
        stored = await sagas.create_state(t.saga())
        bad: dict[str, dict[str, Any]] = {
            "an unknown status": {"status": "PENDING"},
            "a status in lower case": {"status": "running"},
            "no status": {"status": None},
            "a current_step that is text": {"current_step": "1"},
            "a history of text": {"history": ["a"]},
            "a correlation_id that is a number": {"correlation_id": 1},
            **{f"a payload that is or holds {label}": {"payload": each} for label, each in NOT_JSON.items()},
        }
        for label, fields in bad.items():
            with t.case(label):
                fresh = t.saga(**fields)
                for name, call in (
                    ("create_state", partial(sagas.create_state, fresh)),
                    ("update_state", partial(sagas.update_state, replace(stored, **fields))),
                ):
                    await t.refused(call, InvalidArgumentError, given=f"{name} of a state with {label}")
                t.same(await sagas.get_state(fresh.saga_id), None, given=f"get_state after a create_state with {label}")
                await t.check_stored(sagas, stored, given=f"after an update_state with {label}")
        for given, bad_call in t.bad_calls(sagas, stored).items():
            with t.case(given):
                await t.refused(bad_call, InvalidArgumentError, given=given)
        await t.check_stored(sagas, stored, given="after calls that were refused")

    @rule("SAG-40")
    async def test_sag_40_equal_sagas_are_two(self, t: SagaTrial) -> None:
        """Two sagas of wholly equal content are two, and so are ids that another begins: what is done to one leaves the other.

        Catches content that is stored once under its hash, and a key that is taken for a prefix or a path.
        """
        sagas, other = await t.clients(2)
        start = t.key()
        history = [SagaStepHistory("a", "DONE")] * 3
        ids = [start, f"{start}-", f"{start}/", f"{start}/1", f"{start}:history", f"{start}0", f"{start}.json", f"{start} "]
        states = {each: await sagas.create_state(t.saga(each, payload={"a": 1}, history=history)) for each in ids}
        for each in ids:
            states[each] = await other.update_state(replace(states[each], payload={"a": 1}, current_step=1))
            for state in states.values():
                await t.check_stored(sagas, state, given=f"after {describe(each)}, of equal content, was updated")

    # list_incomplete

    @rule("SAG-41", "list_incomplete")
    async def test_sag_41_what_was_updated_longest_ago_comes_first(self, t: SagaTrial) -> None:
        """A listing is in the order of the last updates, the oldest first, whatever the limit is.

        Between two updates more time passes than the times of the store are coarse. Catches the order of creation, of ids, and of
        a text in which 10 stands before 9.
        """
        sagas = await t.connect()
        count = 12 if t.virtual_time else 4
        made = []
        for _ in range(count):
            made.append(await sagas.create_state(t.saga()))
            await t.wait(1.1 * t.numbers().ttl_resolution)
        order = [*ids_of(made[1:]), made[0].saga_id]
        await sagas.update_state(made[0])
        for limit in (1, 2, count - 1, count, 100):
            with t.case(f"limit {limit}"):
                t.same(await t.listed(sagas, order, limit=limit), order, given=f"list_incomplete with limit={limit}")
                found = await t.listed(sagas, order, limit=limit, include_failed=True, older_than=0.0)
                t.check(
                    found in (order, order[:-1]), given="the same with include_failed and older_than=0", expected=describe(order),
                    observed=found,
                )  # fmt: skip

    @rule("SAG-42", "list_incomplete", deadline=60)
    async def test_sag_42_pages_of_every_size_are_complete(self, t: SagaTrial) -> None:
        """Pages have each saga once, whatever their limit is: less than there are, as many, more, and beyond the backend's own.

        Sagas that were updated at one time stay apart. Catches the last item of a page that is lost or repeated, a cursor that is
        a time, and a limit that the backend cuts without saying that there is more.
        """
        sagas = await t.connect()
        size = within_reach(t.numbers().page_size)
        made = [each.saga_id for each in await t.many(partial(sagas.create_state, t.saga()) for _ in range(size + 1))]
        t.check_listing(await t.listed(sagas, made, limit=size + 1), made, f"{size + 1} sagas, limit {size + 1}, pages of {size}")
        seven = made[:7]
        for limit in (1, 2, 3, 6, 7, 8) if size < 50 else (size - 1, size, size + 2):
            with t.case(f"limit {limit}"):
                t.check_listing(await t.listed(sagas, made, limit=limit), made, f"{len(made)} sagas, limit {limit}")
        for each in made[7:]:
            await sagas.update_state(t.saga(each, status=SagaStatus.COMPLETED, version=1))
        for limit in (3, 6, 7, 8):
            with t.case(f"7 sagas, limit {limit}"):
                t.check_listing(await t.listed(sagas, made, limit=limit), seven, f"7 sagas that are left, limit {limit}")

    @rule("SAG-43", "list_incomplete")
    async def test_sag_43_the_store_sets_the_times(self, t: SagaTrial) -> None:
        """`created_at` and `updated_at` are the store's own, whatever is passed, and in UTC; an update moves the second alone.

        Every way to read a saga has the same times. In a transaction the time is that of the update or of the commit. Catches a
        time without a zone, that of the argument, `updated_at` as it was read before, and `now()` of PostgreSQL, which is when a
        transaction began: what was updated just now is found as stuck.
        """
        sagas, other = await t.clients(2)
        long_ago = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
        state = await sagas.create_state(t.saga(created_at=long_ago, updated_at=long_ago))
        unit = max(2.1 * t.numbers().ttl_resolution, 0.01)
        await t.wait(unit)
        updated = await other.update_state(replace(state, created_at=long_ago, updated_at=long_ago))
        for given, each in (("create_state", state), ("update_state", updated)):
            for name in ("created_at", "updated_at"):
                time = getattr(each, name)
                t.check(
                    isinstance(time, datetime) and time.utcoffset() == timedelta(0) and time != long_ago,
                    given=f"{name} of what {given} returned",
                    expected="the store's time, aware and in UTC",
                    observed=time,
                )
        assert state.updated_at is not None
        assert updated.updated_at is not None
        t.same(updated.created_at, state.created_at, given="created_at after an update")
        t.check(
            updated.updated_at > state.updated_at, given=f"updated_at of an update {unit:g} s later", expected="a later one",
            observed=updated.updated_at - state.updated_at,
        )  # fmt: skip
        found = [each async for page in t.pages(sagas, 100) for each in page.sagas if each.saga_id == state.saga_id]
        for read in (await sagas.get_state(state.saga_id), *found):
            assert read is not None
            times = (read.created_at, read.updated_at)
            t.same(times, (updated.created_at, updated.updated_at), given="the times of a saga that is read")
        if "transactional" in t.declared:
            await self._check_times_in_a_transaction(t, sagas, other, unit)

    async def _check_times_in_a_transaction(self, t: SagaTrial, sagas: Any, other: Any, unit: float) -> None:
        before, made = await sagas.create_state(t.saga()), t.saga()
        async with sagas.transaction() as tx:
            await t.wait(unit)
            await sagas.update_state(before, tx=tx)
            await sagas.create_state(made, tx=tx)
        for given, saga_id in (("an update", before.saga_id), ("a creation", made.saga_id)):
            passed = (await other.get_state(saga_id)).updated_at - before.updated_at
            t.check(
                passed >= timedelta(seconds=unit / 2),
                given=f"updated_at after {given} in a transaction that had begun {unit:g} s before",
                expected="the time of what was done, or of the commit",
                observed=Plain(f"{passed.total_seconds():g} s after what was done before the transaction"),
            )

    # saga_lease

    @rule("SAG-44", "saga_lease")
    async def test_sag_44_a_lease_ends_at_its_end(self, t: SagaTrial) -> None:
        """During a lease nobody else is given the saga, and after it exactly one of several workers is.

        Windows allow for `min_ttl` and `ttl_resolution`. Catches a lease that is rounded down, one that never ends, or
        begins again when somebody else asks, and a takeover that looks at the status alone.
        """
        clients = await t.clients(2)
        lease = 1.5 * t.ttl_unit()
        ids = ids_of(await t.stuck(clients[0], 3))
        called = t.now()
        t.same(
            sorted(await t.claimed(clients[0], "first", ids, lease=lease)), sorted(ids), given="what the first worker is given"
        )
        begun = t.now()
        for part in (0.3, 0.6, 0.9):
            await t.until(called + part * t.kept(lease))
            early = await t.claimed(clients[1], "early", ids, lease=lease)
            if t.now() < called + t.kept(lease):
                t.same(early, [], given=f"what another worker is given after {part:g} of a lease of {lease:g} s")
            elif early:  # On a busy machine that was no longer early.
                begun = t.now()
        await t.until(begun + t.longest(lease))
        claims = [partial(clients[number % 2].claim_stuck, f"w{number}", limit=1, lease=LONG_LEASE) for number in range(8)]
        given = [each for some in await gather(claims) for each in ids_of(some) if each in ids]
        given += await t.claimed(clients[0], "last", ids)
        t.check_listing(given, ids, "what 8 workers at once and one after them are given when the lease is over")
        short = t.numbers().min_ttl / 10
        if short:
            [brief] = ids_of(await t.stuck(clients[0], 1))
            called = t.now()
            t.same(
                await t.claimed(clients[0], "brief", [brief], lease=short), [brief], given="what a worker is given for a moment"
            )
            await t.until(called + 0.8 * t.kept(short))
            early = await t.claimed(clients[1], "hasty", [brief])
            if t.now() < called + t.kept(short):
                t.same(
                    early, [], given=f"what another worker is given of it before the shortest lease, {t.kept(short):g} s, is over"
                )

    @rule("SAG-45", "saga_lease")
    async def test_sag_45_a_release_is_the_holders(self, t: SagaTrial) -> None:
        """`release_stuck` is True once for the worker that has the saga, and it is free at once; for anybody else False.

        For a worker that never had it, one whose lease is over, and one whose saga somebody else has by now: that one keeps it.
        Catches a release by id alone.
        """
        sagas, other = await t.clients(2)
        lease = t.ttl_unit()
        [state] = await t.stuck(sagas, 1)
        ids, saga_id = [state.saga_id], state.saga_id

        async def release(client: Any, worker: str, expected: bool, when: str) -> None:
            t.same(await client.release_stuck(saga_id, worker), expected, given=f"release_stuck by {worker} {when}")

        await release(other, "nobody", False, "before any claim")
        await t.claimed(sagas, "first", ids)
        await release(other, "second", False, "of a saga that the first has")
        await release(other, "First", False, "of a saga that the first has")
        t.same(await t.claimed(other, "second", ids), [], given="a claim after a release by somebody else")
        await release(other, "first", True, "by another client of the same worker")
        await release(sagas, "first", False, "again")
        t.same(await t.claimed(other, "second", ids, lease=lease), ids, given="a claim after the release")
        await t.wait(t.longest(lease))
        await release(other, "second", False, "after its lease")
        t.same(await t.claimed(sagas, "third", ids), ids, given="a claim after the lease")
        await release(other, "second", False, "after the third was given the saga")
        t.same(await t.claimed(other, "fourth", ids), [], given="a claim after a release that came too late")
        await release(sagas, "third", True, "whose saga it is")
        t.same(await sagas.release_stuck(t.key(), "third"), False, given="release_stuck of an unknown id")

    @rule("SAG-46", "saga_lease")
    async def test_sag_46_a_claim_is_no_update(self, t: SagaTrial) -> None:
        """A claim changes neither version nor content nor times, and what is updated meanwhile is given to nobody else either.

        What is claimed is what is stored. Catches a lease in the row that an update replaces, and one that makes the worker's own
        update stale.
        """
        sagas, other = await t.clients(2)
        [before] = await t.stuck(sagas, 1, history=[SagaStepHistory("a", "DONE")], saga_type="order")
        before = await other.update_state(replace(before, payload={"token": t.token()}))
        await t.wait(t.numbers().ttl_resolution)
        ids = [before.saga_id]
        found = [each for each in await sagas.claim_stuck("first", limit=100, lease=LONG_LEASE) if each.saga_id in ids]
        t.same([told(each) for each in found], [told(before)], given="what claim_stuck returns")
        read = await other.get_state(before.saga_id)
        assert read is not None
        t.check_state(read, before, given="get_state after a claim")
        t.same((read.created_at, read.updated_at), (before.created_at, before.updated_at), given="the times after a claim")
        if "list_incomplete" in t.declared:
            t.same(await t.listed(other, ids), ids, given="a listing during the lease")
        state = await sagas.update_state(replace(found[0], status=SagaStatus.COMPENSATING))
        await t.wait(t.numbers().ttl_resolution)
        t.same(await t.claimed(other, "second", ids), [], given="a claim of a saga that its holder has updated")
        t.same(await sagas.release_stuck(before.saga_id, "first"), True, given="release_stuck after an update")
        await t.check_stored(other, state, given="after a release")
        again = [each for each in await other.claim_stuck("second", limit=100, lease=LONG_LEASE) if each.saga_id in ids]
        t.same([told(each) for each in again], [told(state)], given="what claim_stuck returns after an update and a release")

    @rule("SAG-47", "saga_lease")
    async def test_sag_47_only_what_is_stuck_is_given(self, t: SagaTrial) -> None:
        """A claim gives sagas that are not terminal and were last updated `older_than` seconds ago, and no other.

        Catches a claim of what has ended or failed, COMPENSATING that is forgotten, and an age that is counted from the creation.
        """
        sagas = await t.connect()
        unit = t.ttl_unit()
        made = {status: await sagas.create_state(t.saga(status=status)) for status in SagaStatus}
        renewed, ended = await sagas.create_state(t.saga()), await sagas.create_state(t.saga())
        await sagas.update_state(replace(ended, status=SagaStatus.COMPLETED))
        stuck = [made[SagaStatus.RUNNING].saga_id, made[SagaStatus.COMPENSATING].saga_id]
        ids = [*ids_of(made.values()), renewed.saga_id, ended.saga_id]
        await t.wait(2 * unit)
        called = t.now()
        renewed = await sagas.update_state(renewed)
        given = await t.claimed(sagas, WORKER, ids, older_than=unit)
        if t.now() < called + unit - t.numbers().ttl_resolution:
            t.check_listing(given, stuck, f"a claim with older_than={unit:g}")
        await t.wait(unit + t.numbers().ttl_resolution + unit / 100)
        later = await t.claimed(sagas, "another", ids, older_than=unit)
        t.check_listing(given + later, [*stuck, renewed.saga_id], f"two claims with older_than={unit:g}, the second later")
        fresh = ids_of(await t.stuck(sagas, 4))
        one_by_one = [ids_of(await sagas.claim_stuck(f"w{number}", limit=1, lease=LONG_LEASE)) for number in range(4)]
        found = [each for some in one_by_one for each in some if each in fresh]
        t.check_listing(found, fresh, "4 claims by 4 workers with limit=1, while others have what was updated before")

    @rule("SAG-48", "saga_lease", hook="crash")
    async def test_sag_48_what_a_dead_worker_had_is_given_on(self, t: SagaTrial) -> None:
        """The sagas of a worker that has vanished are given to another after its lease, all of them, and not before.

        Catches a lease that lives as long as a connection, and one that the death of a process leaves for ever.
        """
        sagas = await t.connect()
        victim = await t.connect()
        lease = t.ttl_unit()
        ids = ids_of(await t.stuck(sagas, 5))
        called = t.now()
        given = await t.claimed(victim, "victim", ids, lease=lease)
        t.check_listing(given, ids, "what a worker is given")
        await t.crash(victim)
        early = await t.claimed(sagas, "heir", ids)
        if t.now() < called + t.kept(lease):
            t.same(early, [], given="a claim at once after a worker has vanished")
        await t.wait(t.longest(lease))
        t.check_listing(early + await t.claimed(sagas, "heir", ids), ids, "claims after the lease of a worker that has vanished")

    @rule("SAG-49", "saga_lease", deadline=30)
    async def test_sag_49_a_cancelled_claim_loses_nothing(self, t: SagaTrial) -> None:
        """What a cancelled claim may have taken is given to another at the latest after its lease.

        Catches sagas that are marked before their lease is stored: nobody is given them again.
        """
        sagas, other = await t.clients(2)
        lease = t.ttl_unit()
        ids = ids_of(await t.stuck(sagas, 3))
        async for _ in sweep(lambda: partial(sagas.claim_stuck, "first", limit=2, lease=lease), within=t.cancel_seconds):
            pass
        await t.wait(t.longest(lease))
        t.check_listing(await t.claimed(other, "second", ids), ids, "claims after cancelled ones, when their lease is over")
        for each in ids:
            await other.release_stuck(each, "second")
        async for _ in sweep(lambda: partial(other.release_stuck, ids[0], "second"), within=t.cancel_seconds):
            pass
        t.check_listing(await t.claimed(sagas, "third", ids), ids, "claims after a cancelled release of what was free")

    @rule("SAG-50", "saga_lease", deadline=60)
    async def test_sag_50_leases_never_overlap(self, t: SagaTrial) -> None:
        """However claims, releases and ends of leases follow each other, no saga is two workers' at once.

        Four workers on two clients by chance; the history is judged as that of locks with leases. Catches what only a sequence
        shows: a late release that frees the next holder's saga, a lease that the one before cut short.
        """
        clients = await t.clients(2)
        chance = random.Random(t.seed)
        unit = t.ttl_unit()
        ids = ids_of(await t.stuck(clients[0], 3))
        grants: dict[tuple[str, str], Grant] = {}
        for number in range(40 if t.virtual_time else 12):
            calls: list[Call[object]] = []
            for worker in range(4):
                client = clients[worker % 2]
                if chance.random() < 0.6:
                    lease = unit * chance.choice((1, 2, 3))
                    calls.append(partial(self._claim, t, client, f"w{worker}.{number}", lease, ids, grants))
                elif grants:
                    calls.append(partial(self._release, t, client, *chance.choice([*grants]), grants))
            await gather(calls)
            await t.wait(unit * chance.choice((0, 0.4, 0.7)))
        told_apart = judge([*grants.values()])
        if told_apart is not None:
            t.fail_rule(
                given=f"claims and releases by 4 workers, OMNITCK_SEED={t.seed}",
                expected="no saga is two workers' at once",
                observed=told_apart,
            )

    async def _claim(
        self, t: SagaTrial, client: Any, worker: str, lease: float, ids: Collection[str], grants: dict[tuple[str, str], Grant]
    ) -> None:
        called = t.now()
        for each in ids_of(await client.claim_stuck(worker, limit=2, lease=lease)):
            if each in ids:
                grants[each, worker] = Grant(each, worker, called, t.now(), t.kept(lease))

    async def _release(self, t: SagaTrial, client: Any, id: str, worker: str, grants: dict[tuple[str, str], Grant]) -> None:
        if grants[id, worker].released is None:
            grants[id, worker] = replace(grants[id, worker], released=t.now())
        await client.release_stuck(id, worker)

    # transactional

    @rule("SAG-51", "transactional")
    async def test_sag_51_transactions_compare_versions(self, t: SagaTrial) -> None:
        """In a transaction an update is compared as outside, and of two transactions that update one saga one commits.

        The business row of the other is not there. A stale update, one of an unknown id and a second creation raise in the block
        or at its end. Catches a transaction that writes without a condition, and one whose failure leaves its other writes.
        """
        sagas, other = await t.clients(2)
        stored = await sagas.update_state(await sagas.create_state(t.saga()))

        async def write(client: Any, call: Callable[..., Awaitable[object]], state: SagaState, key: str) -> None:
            async with client.transaction() as tx:
                await t.ask("business_write", tx, key, "written")
                await call(state, tx=tx)
                await anyio.lowlevel.checkpoint()

        for given, call, state, error in (
            ("a stale update", sagas.update_state, replace(stored, version=1), SagaStateConflictError),
            ("an update of an unknown id", sagas.update_state, t.saga(version=1), SagaNotFoundError),
            ("a second create_state", sagas.create_state, t.saga(stored.saga_id), SagaAlreadyExistsError),
        ):
            with t.case(given):
                key = t.key()
                await t.refused(partial(write, sagas, call, state, key), error, given=f"{given} in a transaction")
                await t.check_stored(other, stored, given=f"after {given} in a transaction")
                t.same(await t.ask("business_read", key), None, given=f"the business row beside {given}")
        for _ in range(3):
            keys = [t.key() for _ in range(4)]
            states = [replace(stored, payload={"token": t.token()}) for _ in keys]
            tried = await together(
                partial(write, client, client.update_state, state, key)
                for client, state, key in zip((sagas, other, sagas, other), states, keys, strict=True)
            )
            winner = t.one_winner(tried, "four transactions at once that update one saga", SagaStateConflictError)
            stored = replace(states[winner], version=stored.version + 1)
            await t.check_stored(other, stored, given="after four transactions at once")
            rows = [await t.ask("business_read", each) for each in keys]
            t.same(rows, ["written" if each == winner else None for each in range(4)], given="the business rows of all four")

    @rule("SAG-52", "transactional")
    async def test_sag_52_what_is_written_beside_a_transaction_stands(self, t: SagaTrial) -> None:
        """What a client writes without `tx`, while a transaction of its own is open, is no part of it and outlives its rollback.

        And two transactions of one client, open at once, end separately. Catches one transaction for each client: the write of
        another task vanishes with it. A store of one writer may let the others wait until the transaction has ended.
        """
        sagas, other = await t.clients(2)
        inside, beside, second = [await sagas.create_state(t.saga()) for _ in range(3)]
        key = t.key()
        written: list[SagaState] = []

        async def write() -> None:
            written.append(await sagas.update_state(beside, tx=None))
            written.append(await sagas.create_state(t.saga()))

        async def commit() -> None:
            async with sagas.transaction() as tx:
                written.append(await sagas.update_state(second, tx=tx))
                await t.ask("business_write", tx, key, "committed")

        async def roll_back(tasks: anyio.abc.TaskGroup) -> None:
            async with sagas.transaction() as tx:
                await sagas.update_state(replace(inside, payload={}), tx=tx)
                await t.ask("business_write", tx, f"{key}-inside", "rolled back")
                tasks.start_soon(write)
                tasks.start_soon(commit)
                await anyio.sleep(0.05)  # For a store that can: what has to wait for this transaction may.
                raise LookupError("rolled back")

        async with anyio.create_task_group() as tasks:
            tried = await attempt(partial(roll_back, tasks))
        t.check(
            isinstance(tried.error, LookupError),
            given="an exception in a transaction",
            expected="it leaves",
            observed=tried.error,
        )
        await t.check_stored(other, inside, given="of the saga in the transaction that was rolled back")
        t.same(len(written), 3, given="how many writes beside it have ended")
        for each in written:
            await t.check_stored(other, each, given="of a saga that was written beside it")
        rows = (await t.ask("business_read", key), await t.ask("business_read", f"{key}-inside"))
        t.same(rows, ("committed", None), given="the business rows of both transactions")

    @rule("SAG-53", "transactional")
    async def test_sag_53_what_is_not_committed_is_not_seen(self, t: SagaTrial) -> None:
        """Until its transaction commits, an update is seen by nobody; several in one transaction then are, all at once.

        Creation and updates of one saga, and of several, in one transaction count on each other. Catches a dirty read, and a
        transaction that commits each statement. A read may wait until the transaction has ended.
        """
        sagas, other = await t.clients(2)
        old = await sagas.create_state(t.saga())
        fresh = t.saga(payload={"token": t.token()}, correlation_id=t.key())
        looks: list[Any] = []

        async def look() -> None:
            looks.append([told(await other.get_state(each.saga_id)) for each in (old, fresh)])

        for commits in (False, True):
            async with anyio.create_task_group() as tasks:
                with suppress(LookupError):
                    async with sagas.transaction() as tx:
                        first = await sagas.update_state(replace(old, payload={"token": t.token()}), tx=tx)
                        first = await sagas.update_state(replace(first, current_step=5), tx=tx)
                        made = await sagas.create_state(fresh, tx=tx)
                        made = await sagas.update_state(replace(made, status=SagaStatus.COMPENSATING), tx=tx)
                        if not commits:
                            tasks.start_soon(look)
                            await anyio.sleep(0.02)
                            raise LookupError("rolled back")
        t.same(looks, [[told(old), None]], given="what another client reads during a transaction that is rolled back")
        t.same((first.version, made.version), (3, 2), given="the versions of two updates, and of a creation and an update")
        await t.check_stored(other, first, given="after the commit")
        await t.check_stored(other, made, given="of a saga that was created and updated in one transaction")
        if "correlation" in t.declared:
            found = await other.find_by_correlation("", str(fresh.correlation_id))
            t.check_state(found, made, given="find_by_correlation of a saga that a transaction has created")
        if "list_incomplete" in t.declared:
            ids = [old.saga_id, fresh.saga_id]
            t.check_listing(await t.listed(other, ids), ids, "list_incomplete after the commit")

    # compensation_execution

    @rule("SAG-54", "compensation_execution")
    async def test_sag_54_a_step_is_told_what_it_needs(self, t: SagaTrial) -> None:
        """Each step is told the saga's id, the payload as it was given, and a key that no other step, direction or saga has.

        What a step changes in its payload, no other sees. Two sagas that run at once on one client keep theirs apart. Catches a
        key that is made anew for each call, and one in which the number of a step follows an id.
        """
        sagas = await t.connect()
        script = Script(12)
        script.fail((DO, 11))

        async def spoil(context: SagaContext) -> None:
            context.payload["lines"][1]["a"] = "spoilt"
            if isinstance(context.payload, dict):
                context.payload["spoilt"] = True

        script.interludes[DO, 0] = spoil
        start = t.key()
        ids = [start, f"{start}-1", f"{start}1", f"{start}:0", f"{start}/1/do", t.key()]
        payloads = {each: {"order": each, "lines": [1, {"a": None}]} for each in ids}
        states = await gather(partial(sagas.run, each, script.steps, copy.deepcopy(payloads[each])) for each in ids)
        keys: dict[str, tuple[str, object]] = {}
        for each in script.played:
            what = f"what step {each.move[1]} is told, to {each.move[0]} it"
            expected = payloads[each.saga_id]
            if each.move != (DO, 0):
                t.same(dict(each.payload), expected, given=f"the payload in {what}")
            t.check(isinstance(each.key, str) and bool(each.key), given=f"the key in {what}", expected="text", observed=each.key)
            owner = (each.saga_id, each.move)
            t.same(keys.setdefault(each.key, owner), owner, given=f"whose key is {describe(each.key)}")
        for state in states:
            t.check_end(state, script, SagaStatus.COMPENSATED, in_order(12, failed=11), given="one of 6 sagas that run at once")
            t.same(dict(state.payload), payloads[state.saga_id], given="the payload at the end")

    @rule("SAG-55", "compensation_execution")
    async def test_sag_55_a_saga_is_run_once(self, t: SagaTrial) -> None:
        """`run` of an id that is taken begins no step, and `recover` of a saga that has ended returns it as it is.

        `recover` of an unknown id raises `SagaNotFoundError` and creates nothing. Catches a message that came twice and charges
        twice, and a recovery that undoes what was completed.
        """
        sagas, other = await t.clients(2)
        for failed, end in ((None, SagaStatus.COMPLETED), (1, SagaStatus.COMPENSATED), (2, SagaStatus.FAILED)):
            with t.case(str(end)):
                script = Script(3)
                if failed is not None:
                    script.fail((DO, failed))
                if end is SagaStatus.FAILED:
                    script.fail((UNDO, 0))
                state = await t.play(sagas, script)
                t.same(told(state)["status"], str(end), given="the status at the end")  # type: ignore[index]
                script.interludes.clear()
                before = script.of(state.saga_id)
                tried = await attempt(partial(other.run, state.saga_id, script.steps, {"token": "another"}))
                if not isinstance(tried.error, SagaAlreadyExistsError):
                    t.check_state(tried.result(), state, given="a second run of one id")
                t.check_state(await other.recover(state.saga_id, script.steps), state, given=f"recover of a {end} saga")
                await t.check_stored(sagas, state, given=f"after a second run, and recover, of a {end} saga")
                t.same(script.of(state.saga_id), before, given="the steps that were begun, after a second run and recover")
        saga_id = t.key()
        await t.refused(partial(sagas.recover, saga_id, script.steps), SagaNotFoundError, given="recover of an unknown id")
        t.same(await sagas.get_state(saga_id), None, given="get_state after recover of an unknown id")

    @rule("SAG-56", "compensation_execution")
    async def test_sag_56_a_compensation_that_fails_once_is_tried_again(self, t: SagaTrial) -> None:
        """A compensation that fails once is tried again with the same key, and a step without one is skipped.

        Catches the first error that ends the compensation, and `None` that is called.
        """
        sagas = await t.connect()
        for error in (StepFailed, TimeoutError):
            with t.case(f"fails once with {error.__name__}"):
                script = Script(4)
                script.fail((DO, 3))
                script.fail((UNDO, 1), times=1, error=error)
                state = await t.play(sagas, script)
                moves = [*in_order(4), (UNDO, 2), (UNDO, 1), (UNDO, 1), (UNDO, 0)]
                t.check_end(state, script, SagaStatus.COMPENSATED, moves, given="a compensation that fails once")
                keys = {each.key for each in script.played if each.move == (UNDO, 1)}
                t.same(len(keys), 1, given="the keys of a compensation that was tried twice")
        for without in ((1,), (0, 2), (0, 1, 2)):
            with t.case(f"without {without}"):
                script = Script(4, without=without)
                script.fail((DO, 3))
                state = await t.play(sagas, script)
                moves = in_order(4, failed=3, without=without)
                t.check_end(state, script, SagaStatus.COMPENSATED, moves, given=f"steps {without} have no compensation")
        with t.case("no step"):
            state = await t.play(sagas, Script(0))
            t.check_end(state, Script(0), SagaStatus.COMPLETED, [], given="a saga of no step")

    @rule("SAG-57", "compensation_execution")
    async def test_sag_57_progress_is_stored_before_the_next_step(self, t: SagaTrial) -> None:
        """As a step begins, another client reads a state with a later version than as the one before it began, and its status.

        RUNNING while steps are done, COMPENSATING while they are undone, and at the end the payload that was given. Catches
        progress that is kept in memory and stored at the end.
        """
        sagas, other = await t.clients(2)
        for failed in (None, 3):
            with t.case("no failure" if failed is None else f"step {failed} fails"):
                script = Script(4)
                seen: list[tuple[str, int]] = []

                async def look(move: tuple[str, int], context: SagaContext, seen: Any = seen, failed: Any = failed) -> None:
                    state = await other.get_state(context.saga_id)
                    seen.append((told(state)["status"], state.version) if state else ("none", 0))  # type: ignore[index]
                    if move == (DO, failed):
                        raise LookupError(f"{move} cannot be done")

                moves = in_order(4, failed=failed)
                script.interludes = {each: partial(look, each) for each in moves}
                await t.play(sagas, script)
                statuses = ["RUNNING" if direction == DO else "COMPENSATING" for direction, _ in moves]
                t.same(
                    [status for status, _ in seen], statuses, given=f"the status that is stored as each begins of {shown(moves)}"
                )
                versions = [version for _, version in seen]
                t.check(
                    versions == sorted(set(versions)),
                    given=f"the version that is stored as each begins of {shown(moves)}",
                    expected="a greater one each time",
                    observed=versions,
                )

    @rule("SAG-58", "compensation_execution", hook="crash", deadline=60)
    async def test_sag_58_a_crash_in_the_middle_of_a_step_is_recovered(self, t: SagaTrial) -> None:
        """Where the process dies in the middle of a step or of a compensation, another does that again with its key, and goes on.

        Also when it dies twice, and when the step fails in the second life. Catches a step that is stored as done when it began,
        and a key that the second process makes anew.
        """
        cases: tuple[tuple[tuple[str, int], ...], ...] = (
            ((DO, 0),), ((DO, 1),), ((DO, 2),), ((UNDO, 1),), ((UNDO, 0),), ((DO, 1), (DO, 1)), ((DO, 1), (DO, 2)),
            ((DO, 1), (UNDO, 1)), ((UNDO, 1), (UNDO, 0)),
        )  # fmt: skip
        for deaths in cases:
            with t.case(shown(deaths)):
                undoes = any(direction == UNDO for direction, _ in deaths)
                script, saga_id = Script(3), t.key()
                if undoes:
                    script.fail((DO, 2))
                for number, move in enumerate(deaths):
                    await t.die_in(script, saga_id, move, recovers=number > 0)
                begun = script.of(saga_id)
                if "list_incomplete" in t.declared:
                    t.same(await t.listed(await t.connect(), [saga_id]), [saga_id], given="a listing after the process has died")
                expected = in_order(3, failed=2 if undoes else None)
                for move in deaths[:-1]:  # What the last one cut off is begun again anyway.
                    expected.insert(expected.index(move), move)
                status = SagaStatus.COMPENSATED if undoes else SagaStatus.COMPLETED
                given = f"the process dies in {shown(deaths)}"
                await t.check_recovery(script, saga_id, len(begun), [expected], status, given=given)

    # Everything together

    @rule("SAG-59", deadline=60)
    async def test_sag_59_a_random_walk_agrees_with_the_reference(self, t: SagaTrial) -> None:
        """Any sequence of declared operations, by two clients in turn, gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference; a divergence is shortened and shown as Python. Finds what no
        single rule foresaw: the interplay of operations. A version is the last that the walk saw, less what `behind` says.
        """
        clients = await t.clients(2)
        chance = random.Random(t.seed)
        for _ in range(WALKS):
            divergence = await walk(
                lambda: Walked(clients),
                lambda: model(t.declared),
                random_walk(chance, t.declared),
                names=lambda: [t.key("w") for _ in range(WALK_NAMES)],
                subject="sagas",
            )
            if divergence is not None:
                t.fail_rule(
                    given=f"a random walk, OMNITCK_SEED={t.seed}; shortened to\n{divergence.reproduction}",
                    expected=divergence.expected,
                    observed=divergence.observed,
                )

    # What is cut off

    @rule("SAG-60", "transactional", hook="crash")
    async def test_sag_60_what_vanishes_before_its_commit_leaves_nothing(self, t: SagaTrial) -> None:
        """Nothing of a transaction is there whose process has died before its end, and the saga can be updated by others.

        Catches a commit that comes with the end of a connection, and a lock, or a correlation, that outlives its holder.
        """
        t.need_abandoning()
        victim, other = await t.connect(), await t.connect()
        state = await other.create_state(t.saga())
        key, event, inside = t.key(), t.token(), anyio.Event()

        async def hang() -> None:
            inside.set()
            await anyio.sleep_forever()

        changed = replace(state, payload={"token": t.token()}, correlation_id=t.key())
        t.let_go(await abandon_when(partial(t.business, victim, changed, key, t.token(), event, hang), inside))
        await t.crash(victim)
        await t.check_business(other, state, key, None, event, "after the process has died in the transaction")
        with t.waiting(t.answer_seconds) as scope:
            state = await other.update_state(state)
        t.check(not scope.cancelled_caught, given="an update after that", expected="its result", observed=Plain("none in time"))
        await t.check_stored(other, state, given="after an update by another client")
        await t.check_free(other, changed.correlation_id, given="after the process has died in the transaction that took it")

    @rule("SAG-61", "transactional", deadline=30)
    async def test_sag_61_a_transaction_that_is_cut_off_is_whole_or_nothing(self, t: SagaTrial) -> None:
        """A transaction that is cancelled anywhere, also in its commit, leaves saga and business row as before, or changed.

        Then the same client writes again, and what was not committed has no correlation. Catches a commit in two parts, and a
        connection that goes back to its pool in the middle of a transaction.
        """
        sagas, other = await t.clients(2)
        state = await sagas.create_state(t.saga())
        tried: list[tuple[SagaState, str]] = []

        def transact() -> Call[object]:
            tried.append((replace(state, payload={"token": t.token()}, correlation_id=t.key()), t.key()))
            changed, key = tried[-1]
            return partial(t.business, sagas, changed, key, "written", key, anyio.lowlevel.checkpoint)

        async for each in sweep(transact, within=t.cancel_seconds):
            given = f"after a transaction was cancelled at its wait number {each.step + 1}"
            changed, key = tried[-1]
            row, again, seen = "", None, None
            while row != again:  # It may arrive while one looks.
                row = await t.ask("business_read", key)
                seen = await other.get_state(state.saga_id)
                again = await t.ask("business_read", key)
            expected = state if row is None else replace(changed, version=state.version + 1)
            t.check_state(seen, expected, given=f"get_state {given}; the business row is {describe(row)}")
            if row is None:
                await t.check_free(other, changed.correlation_id, given=given)
            state = await t.retry(partial(_written, sagas, state.saga_id, {"token": t.token()}))
            await t.check_stored(other, state, given=f"by another client, once the same one wrote anew {given}")

    @rule("SAG-62", "compensation_execution", deadline=60)
    async def test_sag_62_a_run_that_is_cancelled_anywhere_can_be_recovered(self, t: SagaTrial) -> None:
        """Wherever `run` is cancelled, it leaves a saga that `recover` finishes: forward, or by undoing all that may be done.

        With each step begun once, but the one that was cut off. Catches progress that a cancellation leaves half stored, and a
        status that is made up for it.
        """
        sagas, other = await t.clients(2)
        script, ids = Script(3), list[str]()

        def begin() -> Call[object]:
            ids.append(t.key())
            return partial(sagas.run, ids[-1], script.steps, {"token": ids[-1]})

        async for each in sweep(begin, within=t.cancel_seconds):
            given = f"run, cancelled at its wait number {each.step + 1}"
            begun = script.of(ids[-1])
            tried = await attempt(partial(t.recover, other, script, ids[-1]))
            if isinstance(tried.error, SagaNotFoundError):
                t.check(not begun, given=given, expected="a saga, as steps were begun", observed=Plain("none"))
                continue

            status, moves = told(tried.result())["status"], script.of(ids[-1])  # type: ignore[index]
            ends = ("COMPLETED", "COMPENSATED")
            t.check(status in ends, given=f"{given}: the status after recover", expected=" or ".join(ends), observed=status)
            last = max((number for direction, number in moves if direction == DO), default=None)
            undone = [] if last is None else in_order(3, failed=last, undone=True)
            order = in_order(3) if status == "COMPLETED" else undone
            t.check(
                continues(script, ids[-1], len(begun), [order]),
                given=f"{given}, when this had been begun: {shown(begun)}; it ends as {status}",
                expected=f"what is left of: {shown(order)}",
                observed=Plain(f"begun: {shown(moves)}"),
            )

    @rule("SAG-63", "transactional", "correlation")
    async def test_sag_63_correlations_are_unique_in_transactions(self, t: SagaTrial) -> None:
        """In a transaction a correlation is refused that is taken: by a committed saga, by one of its own, or by a commit.

        With `SagaAlreadyExistsError`, in the block or at its end, and nothing of it is there; what is rolled back takes none.
        Catches a transaction that is checked against what was there when it began.
        """
        sagas, other = await t.clients(2)
        first, stored = await other.create_state(t.saga(correlation_id=t.key())), await other.create_state(t.saga())

        async def write(client: Any, *states: SagaState) -> None:
            async with client.transaction() as tx:
                for each in states:
                    await (client.update_state if each.version else client.create_state)(each, tx=tx)
                await anyio.lowlevel.checkpoint()

        def twins(count: int) -> list[SagaState]:
            correlation = t.key()
            return [t.saga(correlation_id=correlation) for _ in range(count)]

        for given, states in (
            ("a creation with a correlation that is taken", [t.saga(correlation_id=first.correlation_id)]),
            ("an update to a correlation that is taken", [replace(stored, correlation_id=first.correlation_id)]),
            ("two creations with one correlation", twins(2)),
        ):
            with t.case(given):
                before = [told(await other.get_state(each.saga_id)) for each in states]
                await t.refused(partial(write, sagas, *states), SagaAlreadyExistsError, given=f"{given}, in a transaction")
                after = [told(await other.get_state(each.saga_id)) for each in states]
                t.same(after, before, given=f"get_state after {given}, in a transaction")
                t.check_state(await sagas.find_by_correlation("", str(first.correlation_id)), first, given="who had it")
        await other.create_state(t.saga(correlation_id=states[0].correlation_id))
        for _ in range(3):
            states = twins(4)
            tried = await together(partial(write, (sagas, other)[n % 2], each) for n, each in enumerate(states))
            winner = t.one_winner(tried, "four transactions at once that create sagas of one correlation")
            found = await other.find_by_correlation("", str(states[0].correlation_id))
            t.check_state(found, replace(states[winner], version=1), given="find_by_correlation after four transactions at once")

    @rule("SAG-64", "transactional", "correlation")
    async def test_sag_64_what_is_rolled_back_takes_and_frees_nothing(self, t: SagaTrial) -> None:
        """What a transaction has taken is free once it was rolled back, and what it has freed is taken: ids and correlations.

        By an exception and by a cancellation. Catches an index, or a reservation, beside the transaction, which
        `except Exception` puts back.
        """
        sagas, other = await t.clients(2)
        for given in ("an exception", "a cancellation"):
            with t.case(given):
                held, stored = [await other.create_state(t.saga(correlation_id=t.key())) for _ in range(2)]
                fresh, moved = t.saga(correlation_id=t.key()), replace(stored, correlation_id=t.key())
                with anyio.CancelScope() as scope, suppress(LookupError):
                    async with sagas.transaction() as tx:
                        await sagas.create_state(fresh, tx=tx)
                        await sagas.update_state(moved, tx=tx)
                        await sagas.update_state(replace(held, status=SagaStatus.COMPLETED), tx=tx)
                        if given == "an exception":
                            raise LookupError("rolled back")
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                after = f"after {given} in the transaction"
                for each in (fresh, moved):
                    await t.check_free(other, each.correlation_id, given=f"{after} that took it")
                made = await sagas.create_state(replace(fresh, correlation_id=t.key()))
                await t.check_stored(other, made, given=f"of what was created anew {after}")
                for each in (held, stored):
                    correlation = str(each.correlation_id)
                    t.check_state(await other.find_by_correlation("", correlation), each, given=f"who has a correlation {after}")
                    again = partial(other.create_state, t.saga(correlation_id=correlation))
                    await t.refused(again, SagaAlreadyExistsError, given=f"its correlation for a second saga {after}")

    @rule("SAG-65", "saga_lease")
    async def test_sag_65_a_second_claim_ends_no_lease_sooner(self, t: SagaTrial) -> None:
        """A worker that claims again for a shorter time has what it had at least until the end of the first lease.

        Whether or not it is given that again, by this client or another. Catches `SET deadline = now + lease` of whatever is the
        worker's own.
        """
        sagas, other = await t.clients(2)
        short = t.ttl_unit()
        long = 4 * t.longest(short)
        ids = ids_of(await t.stuck(sagas, 2))
        called = t.now()
        t.check_listing(await t.claimed(sagas, "first", ids, lease=long), ids, f"what a worker is given for {long:g} s")
        for client in (sagas, other):
            await t.claimed(client, "first", ids, lease=short)
        await t.wait(t.longest(short))
        early = await t.claimed(other, "second", ids)
        kept = [await other.release_stuck(each, "first") for each in ids]
        if t.now() >= called + t.kept(long):
            return  # On a machine that is so busy nothing is concluded.

        given = f"once a worker has claimed again for {short:g} s, of the {long:g} s that it had, and that time is over"
        t.same(early, [], given=f"what another worker is given {given}")
        t.same(kept, [True] * len(ids), given=f"release_stuck by the first {given}")
        t.check_listing(await t.claimed(other, "second", ids), ids, "a claim after the release")

    @rule("SAG-66", "saga_lease", "lifecycle", "shared")
    async def test_sag_66_a_lease_outlasts_its_client(self, t: SagaTrial) -> None:
        """Once the client is closed that asked for a lease, the saga is still its worker's until the lease ends.

        Another client of the worker's may release it. Catches locks of a session, and a `close` that gives back what a worker
        has: its other clients still work on that.
        """
        sagas, leaving = await t.connect(), await t.connect()
        ids = ids_of(await t.stuck(sagas, 2))
        t.check_listing(await t.claimed(leaving, "first", ids), ids, "what a worker is given")
        await leaving.close()
        t.same(await t.claimed(sagas, "second", ids), [], given="a claim once the client is closed that the first worker had")
        for each in ids:
            t.same(await sagas.release_stuck(each, "first"), True, given="release_stuck by another client of the first worker")
        t.check_listing(await t.claimed(sagas, "second", ids), ids, "a claim after the release")


WALKS = 5
LARGEST_PAYLOAD = 16 * 1024 * 1024
"""Bytes of a payload beyond which no limit is looked for."""


def spoil(state: Any) -> None:
    """Change what is mutable in *state*; what cannot be changed need not be."""
    changes: tuple[Callable[[], object], ...] = (
        lambda: state.payload["a"]["b"].append(2),
        lambda: state.payload.update(c=1),
        lambda: state.history.append(SagaStepHistory("b", "DONE")),
    )
    for change in changes:
        with suppress(AttributeError, TypeError):
            change()


async def _written(client: Any, saga_id: str, payload: Mapping[str, Any]) -> SagaState:
    """The saga with another payload: read, and written."""
    state = await client.get_state(saga_id)
    return await client.update_state(replace(state, payload=payload))  # type: ignore[no-any-return]
