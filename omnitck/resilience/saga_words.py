"""What the rules of sagas stand on: their cells, a walk, histories, and the words of their trial."""

import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from omnitck.common.cells import Cells
from omnitck.common.data import DataTrial
from omnitck.common.windows import WindowTrial
from omnitck.instruments.cancellation import cancel_at
from omnitck.instruments.crashes import MOST_POINTS, Abandoned, abandon_at, abandon_when
from omnitck.instruments.history import Recorder
from omnitck.instruments.walk import WALK_NAMES, Move, Name, Step, random_steps
from omnitck.kit.concurrency import Attempt, Call, attempt
from omnitck.kit.definition import Operation
from omnitck.kit.rules import needs
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.resilience.saga_steps import DO, Script, continues, shown
from omnitck.shared.exceptions import (
    ConflictError,
    InvalidArgumentError,
    SagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateConflictError,
)
from omnitck.shared.models import SagaContext, SagaPage, SagaState, SagaStatus, SagaStep, SagaStepHistory

__all__ = ["LONG_LEASE", "WORKER", "SagaCells", "SagaWords", "Walked", "Worker", "ids_of", "model", "random_walk", "told"]

P = TypeVar("P")

MOST_PAGES = 10_000
"""Pages after which a listing is taken for one that does not end."""
ENOUGH = 100
"""A limit with which a claim has room for all sagas of a rule."""
MOST_CLAIMS = 200
"""Claims after which a worker is taken for one that is given sagas for ever."""
LONG_LEASE = 3600.0
"""Seconds: longer than any rule takes."""
WORKER = "worker"
"""Who claims, where it does not matter who."""


def told(state: Any) -> object:
    """What a *state* says, in plain values, without what the store makes up; None if there is none."""
    if state is None:
        return None

    return {
        "saga_id": state.saga_id,
        "status": str.__str__(state.status) if isinstance(state.status, str) else state.status,
        "current_step": state.current_step,
        "history": [(each.step_name, each.status) for each in state.history],
        "payload": dict(state.payload),
        "version": state.version,
        "saga_type": state.saga_type,
        "correlation_id": state.correlation_id,
    }


def ids_of(states: Iterable[SagaState]) -> list[str]:
    """The ids of *states*, in their order."""
    return [each.saga_id for each in states]


async def _nothing(context: SagaContext) -> None:
    await anyio.lowlevel.checkpoint()


def _one_step() -> list[SagaStep]:
    return [SagaStep("step", _nothing, _nothing)]


class SagaCells(Cells[Any]):
    """Sagas as a set of cells: the name is the id, and the token is in the payload. One that has ended holds nothing."""

    def __init__(self, t: Trial[Any]) -> None:
        self.t = t

    def saga(self, name: str, token: str, version: int = 0) -> SagaState:
        """The saga *name* that holds *token*."""
        # What finds a saga by its name is one more operation that reaches it.
        correlation = name if "correlation" in self.t.declared else None
        return SagaState(
            saga_id=name, status=SagaStatus.RUNNING, payload={"token": token}, version=version, correlation_id=correlation
        )

    @cached_property
    def operations(self) -> tuple[Operation, ...]:  # type: ignore[override]
        """See `Cells.operations`."""
        saga = self.saga
        return (
            Operation("get_state", lambda p, n, t: p.get_state(n), "get_state"),
            Operation("create_state", lambda p, n, t: p.create_state(saga(n, t)), "create_state", writes=True),
            Operation(
                "update_state", lambda p, n, t, version=1: p.update_state(saga(n, t, version)), "update_state", writes=True,
                arrange=self._create,
            ),
            Operation(
                "list_incomplete", lambda p, n, t: p.list_incomplete(limit=10), "list_incomplete", "list_incomplete",
                needs_legal_name=False,
            ),
            Operation(
                "list_incomplete with failed ones", lambda p, n, t: p.list_incomplete(older_than=0.0, include_failed=True),
                "list_incomplete", "list_incomplete", needs_legal_name=False,
            ),
            Operation(
                "find_by_correlation", lambda p, n, t: p.find_by_correlation("", n), "find_by_correlation", "correlation",
                needs_legal_name=False,
            ),
            Operation(
                "claim_stuck", lambda p, n, t: p.claim_stuck(WORKER, limit=1, lease=LONG_LEASE), "claim_stuck", "saga_lease",
                needs_legal_name=False,
            ),
            Operation("release_stuck", lambda p, n, t: p.release_stuck(n, WORKER), "release_stuck", "saga_lease"),
            Operation(
                "delete_state", lambda p, n, t, version=1: p.delete_state(n, version), "delete_state", "delete",
                arrange=self._create,
            ),
            Operation("create_state in a transaction", self._create_in_transaction, "transaction", "transactional", writes=True),
            Operation(
                "update_state in a transaction", self._update_in_transaction, "transaction", "transactional", writes=True,
                arrange=self._create,
            ),
            Operation("run", lambda p, n, t: p.run(n, _one_step(), {"token": t}), "run", "compensation_execution"),
            Operation(
                "recover", lambda p, n, t, _=None: p.recover(n, _one_step()), "recover", "compensation_execution",
                arrange=lambda p, n, t: p.run(n, _one_step(), {"token": t}),
            ),
        )  # fmt: skip

    @cached_property
    def refusals(self) -> tuple[Operation, ...]:  # type: ignore[override]
        """See `Cells.refusals`."""
        saga = self.saga
        return (
            Operation(
                "create_state of an id that is taken", lambda p, n, t: p.create_state(saga(n, t)), "create_state",
                refusal=SagaAlreadyExistsError,
            ),
            Operation(
                "create_state of a set", lambda p, n, t: p.create_state(replace(saga(f"{n}-new", t), payload={"f": {t}})),
                "create_state", refusal=InvalidArgumentError,
            ),
            Operation(
                "update_state of a stale version", lambda p, n, t, version=1: p.update_state(saga(n, t, version)), "update_state",
                arrange=self._outdate, refusal=SagaStateConflictError,
            ),
            Operation(
                "update_state of an unknown id", lambda p, n, t: p.update_state(saga(f"{n}-absent", t, 1)), "update_state",
                refusal=SagaNotFoundError,
            ),
            Operation(
                "delete_state of a stale version", lambda p, n, t, version=1: p.delete_state(n, version), "delete_state",
                "delete", arrange=self._outdate, refusal=SagaStateConflictError,
            ),
            Operation(
                "recover of an unknown id", lambda p, n, t: p.recover(f"{n}-absent", _one_step()), "recover",
                "compensation_execution", refusal=SagaNotFoundError,
            ),
        )  # fmt: skip

    async def _create(self, provider: Any, name: str, token: str) -> object:
        return (await provider.create_state(self.saga(name, token))).version

    async def _outdate(self, provider: Any, name: str, token: str) -> object:
        """A version that is the stored one no longer."""
        version = (await provider.get_state(name)).version
        await provider.update_state(self.saga(name, token, version))
        return version

    async def _create_in_transaction(self, provider: Any, name: str, token: str) -> object:
        async with provider.transaction() as tx:
            return await provider.create_state(self.saga(name, token), tx=tx)

    async def _update_in_transaction(self, provider: Any, name: str, token: str, version: int = 1) -> object:
        async with provider.transaction() as tx:
            return await provider.update_state(self.saga(name, token, version), tx=tx)

    def probes(self) -> list[Operation]:
        """Those that read under a name; a listing and a run say nothing of one."""
        return [each for each in self.operations if each.name in ("get_state", "find_by_correlation", "release_stuck")]

    def room(self, limits: Any, name: str) -> int:
        """See `Cells.room`."""
        return limits.value_bytes - len(json.dumps({"token": ""}, separators=(",", ":")))  # type: ignore[no-any-return]

    async def write(self, provider: Any, name: str, token: str) -> None:
        """See `Cells.write`."""

        async def change() -> None:
            stored = await provider.get_state(name)
            if stored is None:
                await provider.create_state(self.saga(name, token))
            else:
                await provider.update_state(self.saga(name, token, stored.version))

        await self.t.retry(change)

    async def read(self, provider: Any, name: str) -> str | None:
        """See `Cells.read`."""
        stored = await provider.get_state(name)
        return None if stored is None else stored.payload.get("token")

    async def erase(self, provider: Any, name: str) -> None:
        """See `Cells.erase`."""

        async def change() -> None:
            stored = await provider.get_state(name)
            if stored is None:
                return
            if "delete" in self.t.declared:
                await provider.delete_state(name, stored.version)
            else:
                ended = replace(self.saga(name, "", stored.version), payload={}, status=SagaStatus.COMPLETED)
                await provider.update_state(ended)

        await self.t.retry(change)

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """See `Cells.state`."""
        return (told(await provider.get_state(name)),)

    async def create(self, provider: Any, name: str, token: str) -> None:
        """See `Cells.create`."""
        await provider.create_state(self.saga(name, token))

    @needs("saga_lease", "delete")
    async def hold(self, provider: Any, name: str, ttl: float) -> bool:
        """See `Cells.hold`: a lease of the saga, which is created if it is not there."""
        if await provider.get_state(name) is None:
            await provider.create_state(self.saga(name, self.t.token()))
            await self.t.wait(self.t.numbers().ttl_resolution)
        worker = self.t.token()
        given = ids_of(await provider.claim_stuck(worker, limit=100, lease=ttl))
        for each in given:
            if each != name:
                await provider.release_stuck(each, worker)
        return name in given

    @needs("list_incomplete")
    async def names(self, provider: Any, prefix: str) -> list[str]:
        """See `Cells.names`."""
        names, cursor = [], None
        for _ in range(MOST_PAGES):
            page = await provider.list_incomplete(limit=1000, cursor=cursor)
            names += ids_of(page.sagas)
            cursor = page.cursor
            if cursor is None:
                break
        return [each for each in names if each.startswith(prefix)]

    @needs("list_incomplete")
    async def handles(self, provider: Any, name: str) -> list[str]:
        """See `Cells.handles`."""
        await self.write(provider, f"{name}-next", self.t.token())
        page = await provider.list_incomplete(limit=1)
        return [] if page.cursor is None else [page.cursor]

    @needs("list_incomplete")
    async def replay(self, provider: Any, name: str, handle: str, token: str) -> object:
        """See `Cells.replay`."""
        return await provider.list_incomplete(cursor=handle)


class Walked:
    """A repository as a walk goes over it: by two clients in turn, with the versions that were seen, and its own sagas alone."""

    def __init__(self, clients: Sequence[Any]) -> None:
        self.clients = clients
        self.calls = 0
        self.versions: dict[str, int] = {}
        """The last version that was seen of each saga."""
        self.workers = 0
        self.holders: dict[str, str] = {}
        """The last worker that was given each saga."""
        self.ran: set[str] = set()
        """Sagas that were executed: by how many updates is the provider's own business."""
        self.unwritten: set[str] = set()
        """Those of them whose progress is as the provider keeps it."""

    @property
    def client(self) -> Any:
        """Whose turn it is."""
        self.calls += 1
        return self.clients[self.calls % len(self.clients)]

    def saw(self, state: Any) -> object:
        """What *state* says."""
        if state is not None:
            self.versions[state.saga_id] = state.version
        return self.tell(state)

    def tell(self, state: Any) -> object:
        """What *state* says, without what good providers may do differently."""
        said: Any = told(state)
        if said is not None and state.saga_id in self.ran:
            del said["version"]
        if said is not None and state.saga_id in self.unwritten:
            del said["history"], said["current_step"], said["saga_type"], said["correlation_id"]
        return said

    def wrote(self, state: Any) -> object:
        """What *state*, which was written just now, says."""
        self.unwritten.discard(state.saga_id)
        return self.saw(state)

    def mine(self, states: Iterable[Any]) -> list[object]:
        """What those of *states* say that the walk itself has made."""
        found = [each for each in states if each.saga_id in self.versions]
        return [
            [each.saga_id, *(() if each.saga_id in self.ran else (each.version,)), *dict(each.payload).values()] for each in found
        ]

    def saga(self, name: str, status: str, number: int, correlation: str | None, behind: int = 0) -> SagaState:
        """A state with *number* in all that may differ; its version is that which was seen last, less *behind*."""
        return SagaState(
            saga_id=name,
            status=status,
            current_step=number,
            # Short, so that a failure can show it all.
            history=[SagaStepHistory(f"{each}", "x") for each in range(number % 4)],
            payload={"number": number, "list": [number] * (number % 3)},
            version=max(self.versions.get(name, 1) - behind, 1),
            saga_type="even" if number % 2 == 0 else "odd",
            correlation_id=correlation,
        )

    async def get(self, name: str) -> object:
        """What is stored."""
        return self.saw(await self.client.get_state(name))

    async def create(self, name: str, status: str, number: int, *, correlation: str | None = None) -> object:
        """Create a saga."""
        state = await self.client.create_state(self.saga(name, status, number, correlation))
        self.ran.discard(name)
        return self.wrote(state)

    async def update(self, name: str, status: str, number: int, *, correlation: str | None = None, behind: int = 0) -> object:
        """Update it at the version that was seen last, or so many *behind*."""
        return self.wrote(await self.client.update_state(self.saga(name, status, number, correlation, behind)))

    async def delete(self, name: str, *, behind: int = 0) -> object:
        """Delete it, likewise."""
        await self.client.delete_state(name, max(self.versions.get(name, 1) - behind, 1))
        return "deleted"

    async def find(self, saga_type: str, correlation: str) -> object:
        """Find it by its correlation."""
        return self.tell(await self.client.find_by_correlation(saga_type, correlation))

    async def list_all(self, *, limit: int, failed: bool) -> object:
        """All pages of a listing."""
        states, cursor = [], None
        for _ in range(MOST_PAGES):
            page = await self.client.list_incomplete(limit=limit, cursor=cursor, include_failed=failed)
            states += page.sagas
            cursor = page.cursor
            if cursor is None:
                break
        return self.mine(states)

    async def claim(self) -> object:
        """Claim all that can be had, by a worker that had nothing before: the same one may be given again what it has."""
        self.workers += 1
        states: dict[str, Any] = {}
        for _ in range(MOST_CLAIMS):
            given = await self.client.claim_stuck(f"w{self.workers}", limit=100, lease=LONG_LEASE)
            if not {each.saga_id for each in given} - states.keys():
                break
            states |= {each.saga_id: each for each in given}
        self.holders |= dict.fromkeys(states, f"w{self.workers}")
        return self.mine(states.values())

    async def release(self, name: str, *, holder: bool) -> object:
        """Release a saga by the last worker that was given it, or by somebody else."""
        worker = self.holders.get(name, "nobody") if holder else "somebody else"
        return await self.client.release_stuck(name, worker)

    async def transact(self, moves: Sequence[tuple[str, str, int]], *, commit: bool) -> object:
        """Update, or create, several sagas in one transaction, and end it so."""
        client, seen = self.client, []
        try:
            async with client.transaction() as tx:
                for name, status, number in moves:
                    state = self.saga(name, status, number, None)
                    change = client.update_state if name in self.versions else client.create_state
                    seen.append(await change(state, tx=tx))
                if not commit:
                    raise LookupError("rolled back")
        except LookupError:
            return "rolled back"
        except (ConflictError, SagaAlreadyExistsError, SagaNotFoundError):
            if commit:
                raise
            # What is checked at the end of a transaction is not, if the block does not get there.
            return "rolled back"
        return [self.wrote(each) for each in seen]

    async def run(self, name: str, count: int, *, fails: int | None, known: bool) -> object:
        """Execute three steps or so, of which one fails: with an outcome that is known, or is not."""
        script = Script(count)
        if fails is not None:
            script.fail((DO, fails), error=LookupError if known else TimeoutError)
        try:
            state = await self.client.run(name, script.steps, {"count": count})
        except SagaAlreadyExistsError:
            return "taken"
        if not script.of(name):
            return "taken"  # What is stored may be returned, too.
        self.ran.add(name)
        self.unwritten.add(name)
        return [self.saw(state), shown(script.of(name))]


STATUSES = tuple(str(each) for each in SagaStatus)


def random_walk(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over what *declared* brings."""

    def status() -> str:
        return chance.choice((*STATUSES, "RUNNING", "RUNNING"))

    def number() -> int:
        return chance.randrange(12)

    def correlation() -> dict[str, object]:
        shared = "correlation" in declared and chance.random() < 0.6
        return {"correlation": Name(chance.randrange(WALK_NAMES))} if shared else {}

    def behind() -> dict[str, object]:
        return {"behind": chance.choice((1, -1, -5))} if chance.random() < 0.25 else {}

    def moves(name: Name) -> list[tuple[Name, str, int]]:
        names = chance.sample(range(WALK_NAMES), chance.randrange(1, WALK_NAMES + 1))
        return [(Name(each), status(), number()) for each in names]

    actions: list[Move] = [
        *[("", lambda name: Step("create", (name, status(), number()), correlation()))] * 2,
        *[("", lambda name: Step("update", (name, status(), number()), correlation() | behind()))] * 3,
        ("delete", lambda name: Step("delete", (name,), behind())),
        ("saga_lease", lambda name: Step("claim", ())),
        ("saga_lease", lambda name: Step("release", (name,), {"holder": chance.random() < 0.7})),
        ("transactional", lambda name: Step("transact", (moves(name),), {"commit": chance.random() < 0.6})),
        (
            "compensation_execution",
            lambda name: Step(
                "run", (name, 3), {"fails": chance.choice((None, 0, 1, 2)), "known": chance.random() < 0.7}
            ),
        ),
    ]  # fmt: skip
    looks: list[Move] = [
        *[("", lambda name: Step("get", (name,)))] * 3,
        (
            "list_incomplete",
            lambda name: Step("list_all", (), {"limit": chance.choice((1, 2, 100)), "failed": chance.random() < 0.5}),
        ),
        ("correlation", lambda name: Step("find", (chance.choice(("even", "odd")), name))),
    ]
    return random_steps(chance, declared, 50, actions, looks)


def model(declared: frozenset[str]) -> Walked:
    """A fresh reference with these capabilities, to be walked over."""
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.sagas import MemorySagas, MemorySagaServer

    return Walked([MemorySagas(MemorySagaServer(), capabilities=declared)])


@dataclass(frozen=True, slots=True)
class Worker:
    """One of those that make a history of one saga: its calls are recorded."""

    number: int
    client: Any
    saga_id: str
    recorder: Recorder
    cancel_seconds: float

    async def get(self) -> tuple[object, int]:
        """The value that is there, and its version."""
        version = 0

        async def read() -> object:
            nonlocal version
            state = await self.client.get_state(self.saga_id)
            version = 0 if state is None else state.version
            return None if state is None else state.payload["token"]

        return await self.recorder.record(self.number, "get", (), read), version

    async def replace(self, value: str) -> None:
        """Read, and write if nobody has written meanwhile."""
        seen, version = await self.get()
        state = SagaState(saga_id=self.saga_id, status=SagaStatus.RUNNING, payload={"token": value}, version=version)
        write = partial(self.client.update_state if version else self.client.create_state, state)
        await self.recorder.record(self.number, "compare_and_set", (seen, value), write, (ConflictError,))

    async def cancelled(self, value: str) -> None:
        """The same, cut off while it writes."""
        await cancel_at(partial(self.replace, value), 1, within=self.cancel_seconds)


class SagaWords(WindowTrial[P], DataTrial[P]):
    """The words of the rules of `SagasContract`."""

    def numbers(self) -> Any:
        """The limits in force: `SagaLimits`."""
        return super().numbers()

    def saga(self, saga_id: str = "", **fields: Any) -> SagaState:
        """A saga that runs, with an id and a payload of its own, and these *fields*."""
        return SagaState(
            **{"saga_id": saga_id or self.key(), "status": SagaStatus.RUNNING, "payload": {"token": self.token()}} | fields
        )

    async def stuck(self, client: Any, count: int, **fields: Any) -> list[SagaState]:
        """*count* sagas that run and were updated longer ago than the times of the store are coarse."""
        made = [await client.create_state(self.saga(**fields)) for _ in range(count)]
        await self.wait(self.numbers().ttl_resolution)
        return made

    def check_state(self, observed: Any, expected: SagaState, *, given: str, hint: str = "") -> None:
        """Fail the rule unless *observed* says what *expected* says, whatever the store makes up."""
        self.same(told(observed), told(expected), given=given, hint=hint)

    async def check_stored(self, client: Any, expected: SagaState | None, saga_id: str = "", *, given: str) -> None:
        """Fail the rule unless *expected* is what *client* reads."""
        saga_id = saga_id or (expected.saga_id if expected is not None else "")
        self.same(told(await client.get_state(saga_id)), told(expected), given=f"get_state {given}")

    # Listings

    async def listed(self, client: Any, among: Iterable[str], *, limit: int = 7, **options: Any) -> list[str]:
        """The ids *among* those that are given, in the order of a listing, page after page."""
        wanted, found = set(among), list[str]()
        async for page in self.pages(client, limit, **options):
            found += [each for each in ids_of(page.sagas) if each in wanted]
        return found

    async def pages(self, client: Any, limit: int, **options: Any) -> AsyncIterator[SagaPage]:
        """The pages of a listing, each within its limit."""
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await client.list_incomplete(limit=limit, cursor=cursor, **options)
            self.check(
                len(page.sagas) <= limit,
                given=f"a page with limit={limit}",
                expected=f"at most {limit}",
                observed=len(page.sagas),
            )
            yield page
            cursor = page.cursor
            if cursor is None:
                return
        self.fail_rule(given="a listing", expected="an end", observed=f"none after {MOST_PAGES} pages")

    # Leases

    async def claimed(
        self, client: Any, worker: str, among: Iterable[str], *, lease: float = LONG_LEASE, limit: int = 2, **options: Any
    ) -> list[str]:
        """The ids *among* those that are given of which *worker* gets a lease, once it claims all that it can.

        Where it is given again what it has, there may be room for nothing else: then it claims with a limit that is enough.
        """
        found: dict[str, None] = {}
        for _ in range(MOST_CLAIMS):
            given = await client.claim_stuck(worker, limit=limit, lease=lease, **options)
            fresh = [each for each in ids_of(given) if each not in found]
            if not fresh and (not given or limit == ENOUGH):
                return [each for each in found if each in set(among)]
            if not fresh:
                limit = ENOUGH
            found |= dict.fromkeys(fresh)
        self.fail_rule(given="claims one after the other", expected="an end", observed=f"none after {MOST_CLAIMS}")
        return []

    def kept(self, lease: float) -> float:
        """How long a lease lasts for which *lease* seconds were asked."""
        return max(lease, self.numbers().min_ttl)  # type: ignore[no-any-return]

    # Arguments

    def bad_calls(self, client: Any, stored: Any) -> dict[str, Call[object]]:
        """Calls with a number or an id that is none."""
        calls: dict[str, tuple[str, Call[object]]] = {}

        def add(capability: str, method: str, *arguments: object, **keywords: object) -> None:
            given = [*map(describe, arguments), *(f"{name}={each!r}" for name, each in keywords.items())]
            # What is not declared may be missing: it is looked for when it is called.
            call = partial(_call, client, method, *arguments, **keywords)
            calls[f"{method}({', '.join(given)})"] = (capability, call)

        for limit in (0, -1, 1.5, "1", None):
            add("list_incomplete", "list_incomplete", limit=limit)
            add("saga_lease", "claim_stuck", WORKER, limit=limit, lease=60)
        for seconds in (-1, float("nan"), "1"):
            add("list_incomplete", "list_incomplete", older_than=seconds)
            add("saga_lease", "claim_stuck", WORKER, limit=1, lease=60, older_than=seconds)
            add("saga_lease", "claim_stuck", WORKER, limit=1, lease=seconds)
        add("saga_lease", "claim_stuck", WORKER, limit=1, lease=0)
        for worker in ("", None, 1):
            add("saga_lease", "claim_stuck", worker, limit=1, lease=60)
            add("saga_lease", "release_stuck", stored.saga_id, worker)
        for version in ("1", None, 1.5):
            of_version: Any = replace(stored, version=version)
            add("", "update_state", of_version)
            add("delete", "delete_state", stored.saga_id, version)
        return self.declared_of(calls)

    # Transactions

    async def business(self, client: Any, saga: SagaState, key: str, value: str, event: str, end: Call[object]) -> object:
        """Update *saga*, write a row and an event in one transaction, which *end* leaves; the new state."""
        async with client.transaction() as tx:
            stored = await client.update_state(saga, tx=tx)
            await self.ask("business_write", tx, key, value)
            if self.has("outbox_write"):
                await self.ask("outbox_write", tx, event)
            await end()
        return stored

    async def check_business(self, client: Any, expected: SagaState, key: str, value: str | None, event: str, given: str) -> None:
        """Fail the rule unless the saga is as *expected*, and row and event are there, or not, with it."""
        await self.check_stored(client, expected, given=given)
        self.same(await self.ask("business_read", key), value, given=f"the business row {given}")
        if self.has("outbox_read"):
            events = await self.ask("outbox_read")
            self.same(event in list(events), value is not None, given=f"whether the event is in the outbox {given}")

    async def check_free(self, client: Any, correlation: str | None, *, given: str) -> None:
        """Fail the rule unless a saga can be created with *correlation*, where correlations are declared."""
        if "correlation" not in self.declared:
            return

        tried = await attempt(partial(client.create_state, self.saga(correlation_id=correlation)))
        self.check(
            tried.error is None,
            given=f"create_state of a saga with a correlation {given}",
            expected="version 1, as nobody has it",
            observed=tried.error and Plain(describe_error(tried.error)),
        )

    # Executions

    async def execute_both(self, one: Any, other: Any, script: Script, saga_id: str, move: tuple[str, int]) -> None:
        """Let *one* run *script* and *other* recover it, both in *move* at once; each has stored its attempt."""
        versions: list[int] = []
        inside, leave = [anyio.Event(), anyio.Event()], anyio.Event()

        async def meet(context: SagaContext) -> None:
            if len(versions) < 2:
                state = await other.get_state(saga_id)
                versions.append(state.version)
                inside[len(versions) - 1].set()
                await leave.wait()

        script.interludes[move] = meet
        tried: list[Attempt[Any]] = []

        async def execute(call: Call[Any]) -> None:
            tried.append(await attempt(call))
            inside[1].set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, partial(one.run, saga_id, script.steps, {"token": saga_id}))
            with self.waiting(self.answer_seconds):
                await inside[0].wait()
            tasks.start_soon(execute, partial(other.recover, saga_id, script.steps))
            with self.waiting(self.answer_seconds):
                await inside[1].wait()
            leave.set()
        self.check(
            len(versions) < 2 or versions[0] < versions[1],
            given=f"two that are both in {shown([move])}: the versions that are stored as each begins it",
            expected="the second one above the first",
            observed=versions,
        )
        strange = [describe_error(each.error) for each in tried if each.error and not isinstance(each.error, ConflictError)]
        self.check(not strange, given="two that execute one saga", expected="a state, or a ConflictError", observed=strange)

    async def play(self, client: Any, script: Script, saga_id: str = "", payload: Mapping[str, Any] | None = None) -> Any:
        """Run *script*; the state at its end, which is the one that is stored."""
        saga_id = saga_id or self.key()
        payload = {"token": self.token()} if payload is None else payload
        state = None
        with self.waiting(self.execution_seconds) as scope:
            state = await client.run(saga_id, script.steps, payload)
        self.check(
            not scope.cancelled_caught,
            given="run",
            expected="its end",
            observed=Plain(f"none after {self.execution_seconds:g} s; begun: {shown(script.of(saga_id))}"),
        )
        self.same(told(await client.get_state(saga_id)), told(state), given="get_state after run, beside what run returned")
        return state

    async def recover(self, client: Any, script: Script, saga_id: str) -> Any:
        """The state at the end of a saga that was left; what was on its way then may arrive as it is recovered."""
        return await self.retry(partial(client.recover, saga_id, script.steps))

    @property
    def execution_seconds(self) -> float:
        """Within this a few short steps are done, and a compensation that fails is given up."""
        return 6 * self.answer_seconds

    def check_end(self, state: Any, script: Script, status: SagaStatus, moves: Sequence[tuple[str, int]], *, given: str) -> None:
        """Fail the rule unless a saga has ended with *status*, and *moves* are what was begun of it."""
        self.same(told(state)["status"], str(status), given=f"{given}: the status")  # type: ignore[index]
        begun = script.of(state.saga_id)
        self.check(begun == list(moves), given=given, expected=shown(moves), observed=Plain(shown(begun)))

    async def crash_points(self, script: Script, saga_id: Callable[[], str]) -> AsyncIterator[tuple[str, int, int]]:
        """Run *script* anew and let its client vanish at its first suspension point, then at its second, until one ends before.

        Yields the id, the number of the point, and how much of the script had been begun when the process died.
        """
        self.need_abandoning()
        for step in range(MOST_POINTS):
            id = saga_id()
            client: Any = await self.connect()
            abandoned = await abandon_at(partial(client.run, id, script.steps, {"token": id}), step)
            if not abandoned.delivered:
                return

            self.let_go(abandoned)
            await self.crash(client)
            yield id, step, len(script.of(id))

    async def die_in(self, script: Script, saga_id: str, move: tuple[str, int], *, recovers: bool) -> None:
        """Let a client run *script*, or recover it, and vanish in the middle of *move*, which hangs."""
        self.need_abandoning()
        client: Any = await self.connect()
        before = script.interludes.get(move)
        reached = anyio.Event()

        async def hang(context: SagaContext) -> None:
            reached.set()
            await anyio.sleep_forever()

        script.interludes[move] = hang
        call = (
            partial(client.recover, saga_id, script.steps)
            if recovers
            else partial(client.run, saga_id, script.steps, {"token": saga_id})
        )
        abandoned = await abandon_when(call, reached)
        self.let_go(abandoned)
        self.check(
            abandoned.delivered, given=f"an execution that gets to {shown([move])}", expected="that it begins it",
            observed=Plain(describe_error(abandoned.error) if abandoned.error else f"it ended: {describe(abandoned.value)}"),
        )  # fmt: skip
        await self.crash(client)
        del script.interludes[move]
        if before is not None:
            script.interludes[move] = before

    def need_abandoning(self) -> None:
        """Leave the rule where no call can be abandoned: trio counts the scopes that a task has left."""
        if self.suite.backend != "asyncio":
            self.not_provoked(f"on {self.suite.backend} a call cannot be abandoned, as a crash does: run it on asyncio")

    def let_go(self, abandoned: Abandoned) -> None:
        """Keep what was abandoned until the rule has ended."""
        self.session.afterwards.append(abandoned.discard)

    async def check_recovery(
        self,
        script: Script,
        saga_id: str,
        begun: int,
        orders: Iterable[Sequence[tuple[str, int]]],
        status: SagaStatus,
        *,
        given: str,
    ) -> None:
        """Recover a saga by a fresh client; fail the rule unless what was *begun* goes on in one of *orders*, to *status*."""
        client: Any = await self.connect()
        before = await client.get_state(saga_id)
        tried: Attempt[Any] = Attempt()
        with self.waiting(self.execution_seconds) as scope:
            tried = await attempt(partial(self.recover, client, script, saga_id))
        moves = script.of(saga_id)
        self.check(
            not scope.cancelled_caught,
            given=f"{given}: recover",
            expected="its end",
            observed=Plain(f"none after {self.execution_seconds:g} s; begun: {shown(moves)}"),
        )
        if before is None:
            self.check(
                isinstance(tried.error, SagaNotFoundError) and not moves,
                given=f"{given}, before the saga was stored: recover",
                expected="SagaNotFoundError, and no step",
                observed=Plain(f"{describe_error(tried.error) if tried.error else 'a state'}; begun: {shown(moves)}"),
            )
            return

        state: Any = tried.result()
        self.same(told(state)["status"], str(status), given=f"{given}: the status after recover")  # type: ignore[index]
        orders = list(orders)
        self.check(
            continues(script, saga_id, begun, orders),
            given=f"{given}, when this had been begun: {shown(moves[:begun])}",
            expected=f"what is left of: {shown(orders[0])}",
            observed=Plain(f"recover began {shown(moves[begun:])}"),
        )
        played = [each for each in script.played if each.saga_id == saga_id]
        for each in played:
            told_of = f"{given}: the payload that {shown([each.move])} is told"
            self.same(dict(each.payload), {"token": saga_id}, given=told_of)
        keys = {(each.move, each.key) for each in played}
        self.same(len(keys), len(set(moves)), given=f"{given}: different idempotency keys, beside the steps that were begun")


async def _call(client: Any, method: str, *arguments: object, **keywords: object) -> object:
    return await getattr(client, method)(*arguments, **keywords)
