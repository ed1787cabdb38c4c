"""The contract `transactional_outbox`: a message is saved in the transaction that it tells of, and published afterwards.

What commits is published at least once, what rolls back never. A relay claims events for a time, publishes them, and marks them;
each has one `event_id` for its whole life, by which consumers recognise a repetition.

The core is five methods. That an event commits with the application's own data is the capability `transaction`, and that several
relays share the work is `claim`: the profile `production` demands both.
"""

import inspect
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Protocol, cast

import anyio
import anyio.lowlevel

from omnitck.common.cells import Alias, Cells
from omnitck.common.clients import Lifecycle
from omnitck.common.data import LARGEST_TRIED, DataRules, DataTrial, within_reach
from omnitck.common.windows import WindowTrial
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.history.leases import Grant, Renewal
from omnitck.instruments.history.leases import judge as judge_leases
from omnitck.instruments.history.queues import Delivery, Fate, Order, Publication, judge
from omnitck.instruments.walk import NEVER_GIVEN, WALK_NAMES, Move, Step, other, random_steps, walk
from omnitck.kit.clients import raw
from omnitck.kit.concurrency import Attempt, Call, attempt, enter, gather
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.session import HookError, NotProvoked
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import (
    ConflictError,
    InvalidArgumentError,
    OutboxClaimLostError,
    TCKError,
    TooLargeError,
    UnsupportedError,
)
from omnitck.shared.models import ClaimedEvent, OutboxEvent, OutboxLimits, StoredEvent

__all__ = [
    "Claiming",
    "Fair",
    "FullOutboxStorage",
    "GaplessSequence",
    "Inbox",
    "LeaseRenewal",
    "OutboxRelay",
    "OutboxRelaying",
    "OutboxStorageProtocol",
    "Parking",
    "Retention",
    "Transactional",
    "TransactionalOutboxContract",
]


class OutboxStorageProtocol(Protocol):
    """The core: events are saved, looked at, and marked.

    An event is pending from the commit of its transaction until it is marked, whether or not a relay has claimed it. A suite that
    declares `claim`, `outbox_relay`, `parking` or `retention` takes `namespace` in `make_provider`: each is an outbox of its
    own, with an inbox of its own.
    """

    async def save_event(self, event: OutboxEvent) -> StoredEvent:
        """Store *event* in a transaction of its own; durable on return.

        The `sequence_id` is greater than that of every event which the aggregate ever had, those that are processed included.
        """
        ...

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        """At most *limit* events without an aggregate that are not processed, the oldest first.

        For inspection: nothing is claimed.
        """
        ...

    async def get_pending_aggregate_keys(self) -> list[str]:
        """The aggregates that have events which are not processed, each once, in any order."""
        ...

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        """The events of this aggregate that are not processed, in the order of their `sequence_id`."""
        ...

    async def mark_as_processed(self, event: StoredEvent) -> None:
        """*event* was published, and is not pending any more. Idempotent, whoever claimed the event meanwhile."""
        ...


class Transactional(Protocol):
    """Capability `transaction`: an event commits or vanishes with the business data of its transaction."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction of the database, in which the application writes too. It commits at the end of the block.

        An exception rolls it back, and leaves the block; so does a cancellation. Where two transactions save to one aggregate,
        the second waits for the first, or one of them ends with `ConflictError`.
        """
        ...

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        """Store *event* in the transaction *tx*; None means one of its own, whatever other one is open."""
        ...


class Claiming(Protocol):
    """Capability `claim`: several relays share the work."""

    async def claim(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        """At most *limit* pending events, which nobody else is given for *lease* seconds, counted by the database's clock.

        Events of one aggregate come in order, and as long as one relay has any of them, no other relay is given any. There may be
        fewer than *limit* although there are more; none only where none can be claimed, or an open transaction is in the way.
        """
        ...

    async def release(self, event: ClaimedEvent, *, retry_in: float = 0.0, error: str | None = None) -> None:
        """Give *event* back, to be claimed again in *retry_in* seconds, with one more attempt counted.

        `OutboxClaimLostError` if the claim is no longer this one.
        """
        ...


class LeaseRenewal(Protocol):
    """Capability `lease_renewal`: a relay that needs longer says so."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        """Let the claims on all *events* end in *lease* seconds from now.

        False, and nothing is changed, if one of them was lost.
        """
        ...


class GaplessSequence(Protocol):
    """Capability `gapless_sequence`: the `sequence_id` of an aggregate's events are 1, 2, 3 and so on, without a gap."""


class Fair(Protocol):
    """Capability `fair`: aggregates share the claims of a relay. One with many events does not keep the others waiting."""


class Parking(Protocol):
    """Capability `parking`: an event that cannot be published is put aside. It stays among those that are pending."""

    async def park(self, event: ClaimedEvent) -> None:
        """Put *event* aside: neither it nor a later one of its aggregate is claimed. `OutboxClaimLostError` as with `release`."""
        ...

    async def list_parked(self) -> list[StoredEvent]:
        """The events that are put aside, the oldest first."""
        ...

    async def unpark(self, event: StoredEvent) -> None:
        """Let *event* be claimed again, its attempts counted from 0. One that is not put aside is left as it is."""
        ...


class Retention(Protocol):
    """Capability `retention`: what is processed does not stay for ever."""

    async def purge_processed(self, older_than: float) -> int:
        """Remove the events that were first marked more than *older_than* seconds ago; how many they were."""
        ...


class OutboxRelay(Protocol):
    """What publishes the events of an outbox."""

    async def run_once(self) -> int:
        """Claim events once, publish them, and mark those for which that succeeded; how many they were.

        One that fails is released, and holds back its aggregate alone. What `publish` raises does not leave `run_once`. An event
        that was not tried has no attempt counted.
        """
        ...

    async def start(self) -> None:
        """Publish from now on what is committed, in the background, within the declared `deliver`."""
        ...

    async def stop(self) -> None:
        """Publish nothing more. On return every event that was claimed and not published is pending at once. Idempotent."""
        ...


class OutboxRelaying(Protocol):
    """Capability `outbox_relay`: a relay comes with the outbox."""

    def relay(
        self,
        publish: Callable[[StoredEvent], Awaitable[object]],
        *,
        relay_id: str,
        batch: int = 100,
        lease: float = 30.0,
        max_attempts: int | None = None,
    ) -> OutboxRelay:
        """A relay that hands events to *publish*, each aggregate's one after the other, and marks each once that has returned.

        It claims *batch* events at a time for *lease* seconds. With the capability `parking`, one that has failed *max_attempts*
        times, whichever relays have tried it, is put aside.
        """
        ...


class Inbox(Protocol):
    """Capability `inbox`: the other side. A consumer records what it has done in the transaction in which it does it.

    Where two transactions record one message, the second waits for the first, or one of them ends with `ConflictError`.
    """

    async def record(self, message_id: str, *, consumer: str, tx: Any | None = None) -> bool:
        """Whether *consumer* meets *message_id* for the first time, among all transactions that commit. It is then recorded."""
        ...

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Any | None = None) -> list[bool]:
        """The same for each of *message_ids*, in their order; of an id that is repeated the first alone is True."""
        ...


class FullOutboxStorage(
    Transactional,
    Claiming,
    LeaseRenewal,
    GaplessSequence,
    Fair,
    Parking,
    Retention,
    OutboxRelaying,
    Inbox,
    Lifecycle,
    OutboxStorageProtocol,
    Protocol,
):
    """What a provider has that declares every capability. The rules are written against it, each for those that it needs."""


LONG_LEASE = 600.0
"""Seconds: no rule lasts so long by itself."""

MOST_LISTED = 1000
"""Events that a listing is asked for first."""

MOST_CLAIMS = 3000
"""Claims after which those that give out something should have come to an end."""

MOST_ROUNDS = 16
"""Rounds without progress after which a relay is given up."""

BULK = 200
"""Events that are saved in one transaction, where there are many."""

CROWD = 501
"""Events before another one: more than a claim that looks at the oldest alone would look at."""

EMPTY_CLAIMS = 3
"""Claims in a row that give nothing, until what should be claimable is missed: what has just ended may still hold a lock."""

TURNS = 50
"""Turns of the event loop that a relay in this process may take."""


def stored(name: str, token: str, event_id: str = NEVER_GIVEN) -> StoredEvent:
    """An event that nobody saved."""
    return StoredEvent(
        destination_topic=name, payload=token.encode(), aggregate_key=name, event_id=event_id, sequence_id=1, attempts=0
    )


def claimed(name: str, token: str) -> ClaimedEvent:
    """An event that nobody saved, as if it were claimed."""
    return ClaimedEvent(
        destination_topic=name,
        payload=token.encode(),
        aggregate_key=name,
        event_id=NEVER_GIVEN,
        sequence_id=1,
        claim_id=NEVER_GIVEN,
    )


def _event(name: str, token: str) -> OutboxEvent:
    # Each of the three is text that comes back exactly.
    return OutboxEvent(destination_topic=name, payload=token.encode(), message_key=name, aggregate_key=name)


async def _save_in_block(provider: Any, name: str, token: str) -> object:
    async with provider.transaction() as tx:
        return await provider.save_event(_event(name, token), tx=tx)


async def _claim_it(provider: Any, name: str, token: str) -> Any:
    """An event of the aggregate *name*, claimed; `NotProvoked` where relays of the provider's own alone do that."""
    if not callable(getattr(provider, "claim", None)):
        raise NotProvoked("the provider has no `claim`")
    saved = await provider.save_event(_event(name, token))
    for _ in range(MOST_CLAIMS):
        try:
            got = await provider.claim("r" + name, limit=100, lease=LONG_LEASE)
        except UnsupportedError as error:
            raise NotProvoked("the provider does not declare `claim`") from error
        found = [each for each in got if each.event_id == saved.event_id]
        if found or not got:
            break
    return found[0] if found else claimed(name, token)


async def _park_it(provider: Any, name: str, token: str) -> Any:
    event = await _claim_it(provider, name, token)
    await provider.park(event)
    return event


async def _nowhere(event: StoredEvent) -> None:
    """Publish nothing."""


class OutboxCells(Cells[Any]):
    """The aggregates of one suite as a set of cells: each holds the payload of its last pending event."""

    def __init__(self, t: "OutboxTrial") -> None:
        self.t = t
        self.held: dict[tuple[int, str], list[Any]] = {}
        """The claims of clients, by aggregate."""

    operations = (
        Operation("save_event", lambda p, n, t: p.save_event(_event(n, t)), "save_event", writes=True),
        Operation(
            "get_pending_unordered_events", lambda p, n, t: p.get_pending_unordered_events(10), "get_pending_unordered_events",
            needs_legal_name=False,
        ),
        Operation(
            "get_pending_aggregate_keys", lambda p, n, t: p.get_pending_aggregate_keys(), "get_pending_aggregate_keys",
            needs_legal_name=False,
        ),
        Operation(
            "get_pending_events_for_aggregate", lambda p, n, t: p.get_pending_events_for_aggregate(n),
            "get_pending_events_for_aggregate",
        ),
        Operation(
            "mark_as_processed", lambda p, n, t, event="": p.mark_as_processed(event or stored(n, t)), "mark_as_processed",
            needs_legal_name=False, arrange=lambda p, n, t: p.save_event(_event(n, t)),
        ),
        Operation(
            "transaction", lambda p, n, t: enter(p.transaction()), "transaction", "transaction", needs_legal_name=False
        ),
        Operation("save_event in a transaction", _save_in_block, "transaction", "transaction", writes=True),
        Operation(
            "claim", lambda p, n, t: p.claim("r" + str(n), limit=100, lease=LONG_LEASE), "claim", "claim", needs_legal_name=False,
            wide=True,
        ),
        Operation(
            "release", lambda p, n, t, event="": p.release(event or claimed(n, t)), "release", "claim", needs_legal_name=False,
            arrange=_claim_it,
        ),
        Operation(
            "renew", lambda p, n, t, event="": p.renew([event or claimed(n, t)], LONG_LEASE), "renew", "lease_renewal",
            needs_legal_name=False, arrange=_claim_it,
        ),
        Operation(
            "park", lambda p, n, t, event="": p.park(event or claimed(n, t)), "park", "parking", needs_legal_name=False,
            arrange=_claim_it,
        ),
        Operation("list_parked", lambda p, n, t: p.list_parked(), "list_parked", "parking", needs_legal_name=False),
        Operation(
            "unpark", lambda p, n, t, event="": p.unpark(event or stored(n, t)), "unpark", "parking", needs_legal_name=False,
            arrange=_park_it,
        ),
        Operation(
            "purge_processed", lambda p, n, t: p.purge_processed(3600.0), "purge_processed", "retention", needs_legal_name=False,
            wide=True,
        ),
        Operation(
            "relay.run_once", lambda p, n, t: p.relay(_nowhere, relay_id="r" + str(n), lease=LONG_LEASE).run_once(), "relay",
            "outbox_relay", needs_legal_name=False, wide=True,
        ),
        Operation("record", lambda p, n, t: p.record(n, consumer="cells"), "record", "inbox", needs_legal_name=False),
        Operation(
            "record_many", lambda p, n, t: p.record_many([n], consumer="cells"), "record_many", "inbox", needs_legal_name=False
        ),
    )  # fmt: skip
    refusals = (
        Operation(
            "save_event of text",
            lambda p, n, t: p.save_event(OutboxEvent(destination_topic=n, payload=cast(Any, t), aggregate_key=n)),
            "save_event",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "save_event with a header that is no text",
            lambda p, n, t: p.save_event(replace(_event(n, t), headers=cast(Any, {"h": 1}))),
            "save_event",
            refusal=InvalidArgumentError,
        ),
    )

    async def write(self, provider: Any, name: str, token: str) -> None:
        await provider.save_event(_event(name, token))
        if "inbox" in self.t.declared and self.t.session.tenant_of(provider) is not None:
            # What one tenant has recorded, another meets for the first time.
            await provider.record(name, consumer="cells")

    async def read(self, provider: Any, name: str) -> str | None:
        pending = await provider.get_pending_events_for_aggregate(name)
        if not pending:
            return None
        last = pending[-1]
        token: str = last.payload.decode(errors="replace")
        kept = last.destination_topic == last.message_key == last.aggregate_key == name
        return token if kept else f"{token}, for {last.destination_topic!r}, {last.message_key!r} and {last.aggregate_key!r}"

    async def erase(self, provider: Any, name: str) -> None:
        for each in await provider.get_pending_events_for_aggregate(name):
            await provider.mark_as_processed(each)

    async def names(self, provider: Any, prefix: str) -> list[str]:
        return [each for each in await provider.get_pending_aggregate_keys() if each.startswith(prefix)]

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """What is pending, what is put aside, and, where a suite moves the clock, what can be claimed."""
        pending = await provider.get_pending_events_for_aggregate(name)
        state: list[object] = [[(each.payload, each.event_id, each.sequence_id, each.attempts) for each in pending]]
        if "parking" in declared:
            state.append([each.event_id for each in await provider.list_parked() if each.aggregate_key == name])
        if "claim" in declared and self.t.virtual_time:
            state.append(await self._claimable(provider, name))
        return tuple(state)

    async def _claimable(self, provider: Any, name: str) -> list[str]:
        """The ids that can be claimed of an aggregate. The claims end by themselves, so that no attempt is counted."""
        found: list[str] = []
        for _ in range(MOST_CLAIMS):
            got = await provider.claim(self.t.key("r"), limit=100, lease=self.t.ttl_unit())
            found += [each.event_id for each in got if each.aggregate_key == name]
            if not got:
                break
        await self.t.wait(self.t.longest(self.t.ttl_unit()))
        return sorted(found)

    async def tidy(self, provider: Any, touched: str) -> None:
        await self.erase(provider, touched)
        for each in await provider.get_pending_unordered_events(MOST_LISTED):
            if self.t.namespace in each.destination_topic:
                await provider.mark_as_processed(each)

    def probes(self) -> list[Operation]:
        """Those that write nothing; and where numbers have no gap, that of a first event."""
        first = Operation("the first sequence_id", lambda p, n, t: p.save_event(_event(n, t)), "save_event", look=_numbers)
        return [*super().probes(), *([first] if "gapless_sequence" in self.t.declared else [])]

    async def handles(self, provider: Any, name: str) -> list[str]:
        return [each.event_id for each in await provider.get_pending_events_for_aggregate(name)]

    async def replay(self, provider: Any, name: str, handle: str, token: str) -> object:
        return await provider.mark_as_processed(stored(name, token, handle))

    @needs("claim")
    async def hold(self, provider: Any, name: str, ttl: float) -> bool:
        """A claim on the aggregate, which has an event from then on."""
        if not await provider.get_pending_events_for_aggregate(name):
            await provider.save_event(_event(name, self.t.token()))
        for _ in range(2):
            got = await provider.claim(self.t.key("r"), limit=100, lease=ttl)
            for each in reversed(got):
                if each.aggregate_key != name:
                    await provider.release(each)
            if mine := [each for each in got if each.aggregate_key == name]:
                self.held[id(raw(provider)), name] = mine
                return True
            await self.t.at_once()
        return False

    @needs("claim", "lease_renewal")
    async def extend(self, provider: Any, name: str, ttl: float) -> bool:
        extended: bool = await provider.renew(self.held[id(raw(provider)), name], ttl)
        return extended

    def aliases(self) -> Sequence[Alias]:
        return (
            Alias("the headers given to save_event", self._change_given),
            Alias("the headers of the event that save_event returned", self._change_returned),
            Alias("the headers of an event in a listing", self._change_listed),
            Alias("a listing", self._clear_listing),
            Alias("the headers given to save_event in a transaction", self._change_in_transaction, "transaction"),
        )

    async def _change_given(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        headers = {"h": token}
        await provider.save_event(replace(_event(name, token), headers=headers))
        headers["h"] = "changed by the caller"
        return await _headers(provider, name), {"h": token}

    async def _change_in_transaction(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        headers = {"h": token}
        async with provider.transaction() as tx:
            await provider.save_event(replace(_event(name, token), headers=headers), tx=tx)
            headers["h"] = "changed by the caller"
        return await _headers(provider, name), {"h": token}

    async def _change_returned(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        _change(await provider.save_event(replace(_event(name, token), headers={"h": token})))
        return await _headers(provider, name), {"h": token}

    async def _change_listed(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        await provider.save_event(replace(_event(name, token), headers={"h": token}))
        _change((await provider.get_pending_events_for_aggregate(name))[0])
        return await _headers(provider, name), {"h": token}

    async def _clear_listing(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        await self.write(provider, name, token)
        listing = await provider.get_pending_events_for_aggregate(name)
        if isinstance(listing, list):
            listing.clear()
        return await self.read(provider, name), token


async def _numbers(provider: Any, name: str) -> object:
    return [each.sequence_id for each in await provider.get_pending_events_for_aggregate(name)]


async def _headers(provider: Any, name: str) -> object:
    return dict((await provider.get_pending_events_for_aggregate(name))[0].headers)


def _change(event: StoredEvent) -> None:
    """Change the headers of *event*, if that can be done."""
    if isinstance(event.headers, dict):
        event.headers["h"] = "changed by the caller"


@dataclass(frozen=True, slots=True)
class Held:
    """What one relay has claimed, and the times on the clock of the rule between which it has it."""

    events: Sequence[ClaimedEvent]
    until: float
    """Before this it surely has all of them."""
    over: float
    """From this on it surely has none."""


@dataclass(slots=True)
class Beside:
    """A call that is made in a task of its own, and may have to wait for a transaction that is open."""

    call: Call[Any]
    ended: anyio.Event = field(default_factory=anyio.Event)
    tried: Attempt[Any] = field(default_factory=Attempt)

    async def make(self) -> None:
        """Make the call."""
        self.tried = await attempt(self.call)
        self.ended.set()


class Sink:
    """Where relays publish to: it keeps what came, and raises if it is told to."""

    def __init__(self, fails: Callable[[StoredEvent], bool] = lambda event: False) -> None:
        self.fails = fails
        self.deliveries: list[Delivery] = []
        self.published: list[StoredEvent] = []
        """Those for which publishing succeeded, in that order."""
        self.tries: Counter[str] = Counter()
        """How often each id came."""

    def has(self, count: int) -> bool:
        """Whether so many events were published."""
        return len(self.published) >= count

    def had(self, events: Sequence[StoredEvent]) -> bool:
        """Whether all of these were published."""
        return {each.event_id for each in events} <= {each.event_id for each in self.published}

    def by(self, relay: int) -> Callable[[StoredEvent], Awaitable[object]]:
        """What the relay of that number publishes with."""
        return partial(self.publish, relay)

    async def publish(self, relay: int, event: StoredEvent) -> object:
        """Take *event*, or raise. What it returns means nothing."""
        self.tries[event.event_id] += 1
        began, fails = time.monotonic_ns(), self.fails(event)
        await anyio.lowlevel.checkpoint()
        fate = Fate.AGAIN if fails else Fate.DONE
        content = (event.payload, event.aggregate_key)
        self.deliveries.append(Delivery(event.event_id, content, relay, began, time.monotonic_ns(), fate))
        if fails:
            raise ConnectionResetError("the broker is gone")
        self.published.append(event)
        return None


class InTurn:
    """A relay that stays, and new ones, as after a restart: each run is of another relay than the one before."""

    def __init__(self, stays: OutboxRelay, make: Callable[[], OutboxRelay]) -> None:
        self.stays = stays
        self.make = make
        self.runs = 0

    async def run_once(self) -> int:
        """See `OutboxRelay.run_once`."""
        self.runs += 1
        return await (self.stays if self.runs % 2 else self.make()).run_once()


class OutboxTrial(WindowTrial[FullOutboxStorage], DataTrial[FullOutboxStorage]):
    """The words of the rules of `TransactionalOutboxContract`."""

    def numbers(self) -> OutboxLimits:
        return cast(OutboxLimits, super().numbers())

    # Events

    def event(self, aggregate: str | None = None, payload: bytes | None = None, **fields: Any) -> OutboxEvent:
        """An event with a payload of its own, if none is given. All events of a rule have one topic, and one key of a message."""
        given: dict[str, Any] = {"destination_topic": f"{self.namespace}-topic", "message_key": "k", **fields}
        return OutboxEvent(payload=self.token().encode() if payload is None else payload, aggregate_key=aggregate, **given)

    async def save(self, client: Any, aggregate: str | None = None, tx: Any = None) -> StoredEvent:
        """Save an event, in *tx* if that is given."""
        client._omnitck_client.note(aggregate or self.namespace)
        event = self.event(aggregate)
        return cast(StoredEvent, await (client.save_event(event) if tx is None else client.save_event(event, tx=tx)))

    async def save_many(self, client: Any, count: int, aggregate: str | None = None) -> list[StoredEvent]:
        """Save *count* events, one after another."""
        return [await self.save(client, aggregate) for _ in range(count)]

    async def bulk(self, client: Any, aggregates: Sequence[str | None]) -> list[StoredEvent]:
        """Save an event of each of *aggregates*, in their order; many in one transaction, where there are some."""
        client._omnitck_client.note(self.namespace)
        if "transaction" not in self.declared:
            return [await self.save(client, each) for each in aggregates]

        saved: list[StoredEvent] = []
        for start in range(0, len(aggregates), BULK):
            saved += await self.in_block(client, *map(self.event, aggregates[start : start + BULK]))
        return saved

    async def unordered(self, client: Any) -> list[StoredEvent]:
        """This rule's pending events without an aggregate."""
        limit, listed = MOST_LISTED, list(await client.get_pending_unordered_events(MOST_LISTED))
        while len(listed) >= limit:
            limit *= 10
            listed = list(await client.get_pending_unordered_events(limit))
        return [each for each in listed if self.namespace in each.destination_topic]

    async def pending(self, client: Any, *aggregates: str) -> list[StoredEvent]:
        """This rule's pending events without an aggregate, then those of *aggregates*."""
        listed = await self.unordered(client)
        for each in aggregates:
            listed += await client.get_pending_events_for_aggregate(each)
        return listed

    def check_events(self, observed: Iterable[StoredEvent], expected: Iterable[StoredEvent], given: str) -> None:
        """Fail the rule unless *observed* are the *expected* events, by their ids, in any order."""
        self.check_listing([each.event_id for each in observed], [each.event_id for each in expected], given)

    def check_order(self, observed: Iterable[StoredEvent], expected: Iterable[StoredEvent], given: str) -> None:
        """Fail the rule unless *observed* are the *expected* events, by their ids, in the same order."""
        seen, wanted = [each.event_id for each in observed], [each.event_id for each in expected]
        self.check_listing(seen, wanted, given)
        self.check(seen == wanted, given=given, expected=f"in this order: {describe(wanted)}", observed=seen)

    def check_content(self, observed: StoredEvent, saved: OutboxEvent, given: str) -> None:
        """Fail the rule unless *observed* has the content of what was *saved*."""
        for name in ("destination_topic", "payload", "message_key", "aggregate_key"):
            self.same(getattr(observed, name), getattr(saved, name), given=f"{given}: {name}")
        self.same(dict(observed.headers), dict(saved.headers), given=f"{given}: headers")

    def check_rising(self, saved: Sequence[StoredEvent], given: str) -> None:
        """Fail the rule unless the numbers of *saved*, in this order, are whole and rise."""
        numbers = [each.sequence_id for each in saved]
        whole = [each for each in numbers if type(each) is int]
        rising = len(whole) == len(numbers) and all(first < second for first, second in pairwise(whole))
        self.check(rising, given=given, expected="whole numbers, each greater than the one before", observed=numbers)

    # Transactions

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Callable[[Call[Any]], Awaitable[Beside]]]:
        """What begins a call in a task of its own: it returns once the call has ended, or seems to wait for something.

        At the end of the context the call has ended: what it waited for has, too.
        """
        async with anyio.create_task_group() as tasks:

            async def begin(call: Call[Any]) -> Beside:
                beside = Beside(call)
                tasks.start_soon(beside.make)
                with anyio.move_on_after(0.1 * self.patience):
                    await beside.ended.wait()
                return beside

            yield begin

    async def in_block(self, client: Any, *events: OutboxEvent, fails: bool = False) -> list[StoredEvent]:
        """Save *events* in a transaction, which raises LookupError at its end if it *fails*."""
        async with client.transaction() as tx:
            saved = [await client.save_event(each, tx=tx) for each in events]
            if fails:
                raise LookupError("raised in the block")
        return saved

    async def rolled_back(self, client: Any, *events: OutboxEvent) -> None:
        """Save *events* in a transaction that is rolled back by an exception, which has to leave the block."""
        await self.refused(
            partial(self.in_block, client, *events, fails=True), LookupError, given="an exception raised in a transaction"
        )

    async def two_on_one(
        self, one: Any, other: Any, aggregate: str, *, fails: bool
    ) -> tuple[Attempt[StoredEvent], Attempt[StoredEvent], bool]:
        """Save to *aggregate* in a transaction of *one*, and within it in one of *other*.

        What became of both, and whether the second had ended before the first, which raises LookupError at its end if it *fails*.
        """
        inner: list[tuple[Beside, bool]] = []

        async def first() -> StoredEvent:
            async with one.transaction() as tx:
                saved = await self.save(one, aggregate, tx)
                beside = await begin(partial(self.in_block, other, self.event(aggregate)))
                inner.append((beside, beside.ended.is_set()))
                if fails:
                    raise LookupError("raised in the block")
            return saved

        async with self.beside() as begin:
            tried = await attempt(first)
        second, early = inner[0] if inner else (Beside(first), False)
        saved = second.tried
        return tried, Attempt(value=saved.value[0] if saved.value else None, error=saved.error), early

    # Claims

    def long_lease(self) -> float:
        """Seconds: a lease that does not end within a rule."""
        return LONG_LEASE + 20 * self.longest(self.ttl_unit())

    async def claim(
        self, client: Any, *, limit: int = 100, lease: float | None = None, relay: str | None = None
    ) -> list[ClaimedEvent]:
        """What one relay, a new one if none is named, is given at once."""
        relay, lease = relay or self.key("relay"), self.long_lease() if lease is None else lease
        given = list(await client.claim(relay, limit=limit, lease=lease))
        if strange := [each for each in given if self.namespace not in str(each.destination_topic)]:
            raise HookError(
                f"claim gave an event for {describe(strange[0].destination_topic)}, which this rule did not save: let "
                "`make_provider` take `namespace`, and make each an outbox of its own."
            )
        self.check(len(given) <= limit, given=f"claim(limit={limit})", expected=f"{limit} events at most", observed=len(given))
        return given

    async def hold(
        self,
        client: Any,
        events: Sequence[StoredEvent],
        lease: float | None = None,
        *,
        relay: str | None = None,
        given: str = "events that are pending",
    ) -> Held:
        """Let one relay, a new one if none is named, claim *events*, in as many claims as it takes.

        Fail the rule if it is not given all of them.
        """
        lease, relay = self.long_lease() if lease is None else lease, relay or self.key("relay")
        wanted = [each.event_id for each in events]
        held: dict[str, ClaimedEvent] = {}
        called, empty = self.now(), 0
        while empty < EMPTY_CLAIMS and (left := len(set(wanted) - held.keys())):
            # A relay may be given again what it has.
            got = await self.claim(client, limit=len(wanted) if empty else left, lease=lease, relay=relay)
            empty = 0 if any(each.event_id not in held for each in got) else empty + 1
            held |= {each.event_id: each for each in got}
            if not got:
                await anyio.sleep(0.002)
        missing = [each for each in wanted if each not in held]
        self.check(
            not missing,
            given=given,
            expected=f"claim gives all {len(wanted)} of them",
            observed=Plain(f"it does not give {len(missing)} of them, {describe(missing[:1])} for one"),
        )
        kept = max(lease, self.numbers().min_ttl)
        return Held([held[each] for each in wanted], called + kept - kept / 100, self.now() + self.longest(lease))

    async def check_not_given(self, client: Any, events: Iterable[StoredEvent], given: str, *, until: float = math.inf) -> None:
        """Fail the rule if another relay is given any of *events* before the time *until*. What it is given it lets go."""
        got = await self.claim(client, lease=self.shortest())
        ids = {each.event_id for each in events}
        wrong = [each.event_id for each in got if each.event_id in ids]
        if self.now() < until:
            self.check(
                not wrong,
                given=given,
                expected=f"no other relay is given {'it' if len(ids) == 1 else 'any of them'}",
                observed=Plain(f"another relay was given {describe(wrong)}"),
            )
        if got:
            await self.at_once()

    async def publish_all(self, client: Any, *, limit: int = 100) -> list[ClaimedEvent]:
        """Claim and mark until there is nothing more; what came, in its order."""
        came: list[ClaimedEvent] = []
        relay = self.key("relay")
        for _ in range(MOST_CLAIMS):
            got = await self.claim(client, limit=limit, relay=relay)
            if not got:
                return came
            for each in got:
                await client.mark_as_processed(each)
            came += got
        self.fail_rule(
            given=f"{MOST_CLAIMS} claims, each event of which is marked at once",
            expected="there is nothing more to claim",
            observed=f"there still is; {len({each.event_id for each in came})} different events in {len(came)}",
        )
        return came

    def ttl_unit(self) -> float:
        return super().ttl_unit() or 0.1

    def shortest(self) -> float:
        """Seconds: the shortest lease that is kept."""
        return self.numbers().min_ttl or 0.001

    async def claim_by_chance(self, client: Any, number: int, grants: list[Grant]) -> None:
        """One relay's share of a history: it claims, waits, and renews, releases, marks or forgets what it has."""
        chance = random.Random(self.seed * 100 + number)
        lease = self.ttl_unit()
        kept = max(lease, self.numbers().min_ttl)
        for _ in range(8):
            called, relay = self.now(), self.key("relay")
            got = await self.claim(client, limit=chance.randint(1, 4), lease=lease, relay=relay)
            returned, renewals, released = self.now(), list[Renewal](), None
            await self.wait(chance.uniform(0.1, 0.9) * lease)
            act = chance.choice(("renew", "renew", "release", "mark", "forget"))
            if act == "renew" and got and "lease_renewal" in self.declared:
                asked = self.now()
                if await client.renew(got, lease):
                    renewals.append(Renewal(asked, self.now(), kept))
            elif act == "release":
                released = self.now()
                for each in reversed(got):
                    await attempt(partial(client.release, each))
            elif act == "mark" and got:
                released = self.now()
                await client.mark_as_processed(got[0])
                await self.save(client, got[0].aggregate_key)
            grants += [Grant(each.event_id, relay, called, returned, kept * 0.99, renewals, released) for each in got]
            await self.wait(chance.uniform(0.0, 0.6) * lease)

    async def at_once(self) -> None:
        """Let the time pass after which the shortest lease is over, and an event that was given back can be claimed again."""
        await self.wait(self.longest(self.shortest()))

    # Relays

    def bad_calls(self, client: Any, aggregate: str, claim: ClaimedEvent | None) -> dict[str, Call[object]]:
        """Calls with one argument each that is none; *claim* is one that is held, if there are claims."""

        def saving(**fields: Any) -> Call[object]:
            return partial(client.save_event, replace(self.event(aggregate), **fields))

        calls: dict[str, Call[object]] = {
            f"save_event with {name}={describe(value)}": saving(**{name: value})
            for name, values in BAD_FIELDS.items()
            for value in values
        }
        calls |= {f"save_event({describe(each)})": partial(client.save_event, each) for each in (None, {"payload": b"x"}, "text")}
        calls |= {f"mark_as_processed({describe(each)})": partial(client.mark_as_processed, each) for each in (None, "id")}
        for limit in (-1, "1", 1.5, None):
            calls[f"a listing with limit={limit!r}"] = partial(client.get_pending_unordered_events, limit)
        if claim is not None:
            for limit in (-1, "1", 1.5, None):
                calls[f"claim with limit={limit!r}"] = partial(client.claim, self.key("r"), limit=limit, lease=1.0)
            for seconds in BAD_SECONDS:
                calls[f"claim with lease={seconds!r}"] = partial(client.claim, self.key("r"), limit=1, lease=seconds)
                calls[f"release with retry_in={seconds!r}"] = partial(client.release, claim, retry_in=seconds)
            calls["claim by None"] = partial(client.claim, None, limit=1, lease=1.0)
        if "lease_renewal" in self.declared and claim is not None:
            for seconds in BAD_SECONDS:
                calls[f"renew with lease={seconds!r}"] = partial(client.renew, [claim], seconds)
        if "retention" in self.declared:
            for seconds in (-1.0, math.nan, "1"):
                calls[f"purge_processed({seconds!r})"] = partial(client.purge_processed, seconds)
        if "inbox" in self.declared:
            for name in ("", None, 1):
                calls[f"record({name!r})"] = partial(client.record, name, consumer=self.key("c"))
                calls[f"record by {name!r}"] = partial(client.record, self.key("id"), consumer=name)
            calls["record_many of one text"] = partial(client.record_many, "text", consumer=self.key("c"))
        return calls

    async def run(self, relays: Sequence[OutboxRelay | InTurn], left: Callable[[], int], given: str) -> int:
        """Run *relays* again and again until nothing is *left* to do; how many events they say that they have published."""
        rounds, before, said = 0, left(), 0
        while before > 0:
            said += sum(await gather(each.run_once for each in relays))
            rounds, before = (0, left()) if left() < before else (rounds + 1, before)
            if rounds > MOST_ROUNDS:
                self.fail_rule(given=given, expected="everything is done", observed=f"{before} not, after many runs of the relay")
            await self.wait(min(0.02 * 2**rounds, max(30.0, self.longest(self.shortest()))))
        return said

    async def comes(self, holds: Callable[[], bool], within: float, *, at_last: bool = False) -> bool:
        """Whether something comes *within* seconds, on whatever clock the provider looks at.

        What has to come *at_last* may begin to wait for the clock at any time: that is moved until as many real seconds are over.
        """
        for _ in range(10 if self.virtual_time else 0):
            for _ in range(TURNS):
                if holds():
                    return True
                await anyio.lowlevel.checkpoint()
            await self.wait(within / 10)
        with self.waiting(within * self.patience):
            while not holds():
                for _ in range(TURNS):
                    if holds():
                        break
                    await anyio.sleep(0.002)
                if at_last and self.virtual_time and not holds():
                    await self.wait(within / 10)
        return holds()


BAD_FIELDS: Mapping[str, Sequence[object]] = {
    "destination_topic": ("", None, 1, b"t", "a\x00b", "a\ud800"),
    "payload": ("text", None, 1),
    "message_key": ("", 1, b"k", "a\x00b", "a\ud800"),
    "aggregate_key": ("", 1, b"k", "a\x00b", "a\ud800"),
    "headers": (["h"], {"h": 1}, {1: "v"}, {"h": None}, {"h": "a\ud800"}),
}
"""What the fields of an event cannot be."""

BAD_SECONDS = (-1.0, math.nan, math.inf, "1")
"""What is no lease and no delay."""


def _check_suite(cls: Any) -> None:
    # What claims and purges would take what other rules have saved that run at the same time.
    wide = sorted(cls.declared & {"claim", "outbox_relay", "parking", "retention"})
    parameter = inspect.signature(cls.make_provider).parameters.get("namespace")
    if wide and (parameter is None or parameter.kind is parameter.VAR_KEYWORD):
        raise UsageError(
            f"{cls.__qualname__} declares `{wide[0]}`, which reaches everything in an outbox, but its make_provider takes no "
            "namespace: write `async def make_provider(self, *, namespace: str, **config)` and make each an outbox of its own."
        )


class TransactionalOutboxContract(DataRules):
    """Certifies a transactional outbox."""

    definition = Definition(
        name="transactional_outbox",
        version="1.0",
        prefix="OBX",
        protocols={
            "": OutboxStorageProtocol,
            "transaction": Transactional,
            "claim": Claiming,
            "lease_renewal": LeaseRenewal,
            "gapless_sequence": GaplessSequence,
            "fair": Fair,
            "parking": Parking,
            "retention": Retention,
            "outbox_relay": OutboxRelaying,
            "inbox": Inbox,
            "lifecycle": Lifecycle,
        },
        production=frozenset({"transaction", "claim"}),
        cells=OutboxCells,
        limits=OutboxLimits,
        hooks=("business_write", "business_read"),
        follows={"relay": "relay"},
        check=_check_suite,
    )
    trial: ClassVar[type[Trial[Any]]] = OutboxTrial

    async def business_write(self, tx: Any, key: str, value: str) -> None:
        """Write a row of the application in the transaction *tx*. Optional: without it atomicity is not provoked."""
        raise NotImplementedError

    async def business_read(self, key: str) -> str | None:
        """The row that is committed under *key*; None if there is none."""
        raise NotImplementedError

    # transaction

    @rule("OBX-01", "transaction", hook="business_write")
    async def test_obx_01_a_commit_makes_row_and_events_visible(self, t: OutboxTrial) -> None:
        """A commit makes both the application's row and the events of its transaction visible to every client.

        Catches an event that is saved on another connection, and one that a later commit would have taken along.
        """
        one, other = await t.clients(2)
        key, aggregate = t.key("row"), t.key()
        async with one.transaction() as tx:
            await t.ask("business_write", tx, key, "written")
            saved = [await t.save(one, None, tx), await t.save(one, aggregate, tx), await t.save(one, aggregate, tx)]
        await t.settle()
        t.same(await t.ask("business_read", key), "written", given="the application's row after its transaction committed")
        t.check_events(await t.pending(other, aggregate), saved, "the pending events after their transaction committed")

    @rule("OBX-02", "transaction", hook="business_write")
    async def test_obx_02_an_exception_leaves_neither(self, t: OutboxTrial) -> None:
        """An exception in a transaction leaves its block, and leaves neither the application's row nor an event.

        Catches a `save_event` that commits by itself, and an `__aexit__` that swallows. First the row, then the event, and the
        other way round.
        """
        one, other = await t.clients(2)
        for first in ("row", "event"):
            with t.case(f"the {first} first"):
                key, aggregate = t.key("row"), t.key()

                async def fail(key: str = key, aggregate: str = aggregate, first: str = first) -> None:
                    async with one.transaction() as tx:
                        if first == "row":
                            await t.ask("business_write", tx, key, "written")
                        await t.save(one, None, tx)
                        await t.save(one, aggregate, tx)
                        if first == "event":
                            await t.ask("business_write", tx, key, "written")
                        raise LookupError("raised in the block")

                await t.refused(fail, LookupError, given="an exception raised in a transaction")
                await t.settle()
                t.same(await t.ask("business_read", key), None, given="the application's row after the exception")
                t.check_events(await t.pending(other, aggregate), [], "the pending events after the exception")

    @rule("OBX-03", "transaction", hook="business_write", deadline=30)
    async def test_obx_03_a_cancellation_leaves_neither(self, t: OutboxTrial) -> None:
        """A cancellation in a transaction leaves neither the application's row nor an event, and the client is usable.

        In the body, and at each wait of the whole block, where both or neither may be there. Catches `except Exception:
        rollback`, and a connection that goes back to its pool with a transaction open: the next commit is then its own.
        """
        one, other = await t.clients(2)
        aggregate, names = t.key(), [t.key("row") for _ in range(20)]
        inside = anyio.Event()

        async def block(key: str, *, stay: bool = False) -> None:
            async with one.transaction() as tx:
                await t.ask("business_write", tx, key, "written")
                await one.save_event(t.event(aggregate, key.encode()), tx=tx)
                if stay:
                    inside.set()
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(block, names[0], stay=True))
            await inside.wait()
            tasks.cancel_scope.cancel()
        await block(t.key("next"))
        left = iter(names[1:])
        async for _ in sweep(lambda: partial(block, next(left)), within=t.cancel_seconds):
            pass
        await block(t.key("last"))
        await t.settle()
        # A commit that was cancelled may still arrive, between one look and the next.
        before = [key for key in names if await t.ask("business_read", key) is not None]
        there = {each.payload.decode() for each in await other.get_pending_events_for_aggregate(aggregate)}
        after = [key for key in names if await t.ask("business_read", key) is not None]
        t.check(names[0] not in there, given="a cancelled transaction", expected="no event", observed=Plain("its event is there"))
        t.check(names[0] not in after, given="a cancelled transaction", expected="no row", observed=Plain("its row is there"))
        torn = [key for key in names if (key in before and key not in there) or (key in there and key not in after)]
        t.check(not torn, given="cancelled transactions", expected="the row and the event, or neither", observed=torn)
        t.check(
            len(there - set(names)) == 2, given="the next transactions of the client", expected="their events", observed=there
        )

    @rule("OBX-04", "transaction")
    async def test_obx_04_an_open_transaction_is_invisible_and_in_nobodys_way(self, t: OutboxTrial) -> None:
        """An event of an open transaction is neither listed nor claimed, and a `claim` beside it ends within `deliver`.

        It may give nothing, where a database has one writer at a time, but it does not wait for the transaction. Catches a dirty
        read, and a lock on the table that stops every relay for as long as one request takes.
        """
        one, other = await t.clients(2)
        aggregate, open_ones = t.key(), list[StoredEvent]()
        await t.save(one, t.key())
        async with t.beside() as begin, one.transaction() as tx:
            open_ones = [await t.save(one, None, tx), await t.save(one, aggregate, tx)]
            same = await begin(partial(t.pending, one, aggregate))
            if same.ended.is_set():
                t.check_events(same.tried.result(), [], "what another task of its client is told of an open transaction")
            t.check_events(await t.pending(other, aggregate), [], "what is pending of an open transaction")
            keys = await other.get_pending_aggregate_keys()
            t.check(aggregate not in keys, given="the pending aggregates", expected="none of an open transaction", observed=keys)
            if "claim" in t.declared:
                within = max(t.numbers().deliver, 0.1) * t.patience
                with t.waiting(within) as scope:
                    await t.check_not_given(other, open_ones, "events of an open transaction")
                t.check(
                    not scope.cancelled_caught,
                    given="claim beside an open transaction of another",
                    expected=f"it ends within {within:g} s",
                    observed=Plain("it has not ended"),
                    hint="a claim that waits for locks stops every relay: skip what is locked",
                )
        await t.settle()
        t.check_events(await t.pending(other, aggregate), open_ones, "what is pending after the commit")

    @rule("OBX-05", "transaction", "claim", deadline=30)
    async def test_obx_05_a_late_commit_is_not_lost(self, t: OutboxTrial) -> None:
        """An event whose transaction commits after one that was saved later has been processed is still claimed.

        Without an aggregate, and of another one. Catches the poller that remembers how far it has come: numbers are given out
        before the commit, so a lower one becomes visible after a higher one. A database with one writer at a time may let the
        second wait.
        """
        one, other = await t.clients(2)
        early, late = t.key(), t.key()
        drains: list[Beside] = []
        async with t.beside() as begin, one.transaction() as tx:
            first = [await t.save(one, None, tx), await t.save(one, early, tx)]
            second = await begin(partial(t.in_block, other, t.event(), t.event(late)))
            if second.ended.is_set():
                drains.append(await begin(partial(t.publish_all, other)))
            seen = [each.event_id for drain in drains if drain.ended.is_set() for each in drain.tried.result()]
            wrong = [each.event_id for each in first if each.event_id in seen]
            t.check(not wrong, given="claims beside an open transaction", expected="nothing of it", observed=wrong)
        await t.settle()
        came = [each for drain in drains for each in drain.tried.result()] + await t.publish_all(other)
        t.check_events(came, [*first, *second.tried.result()], "claims before and after the late commit")

    @rule("OBX-06", "transaction", deadline=30)
    async def test_obx_06_numbers_become_visible_in_their_order(self, t: OutboxTrial) -> None:
        """Of one aggregate no event with a lower `sequence_id` becomes visible after one with a higher.

        Of two transactions that save to it, the second waits, or one of them ends with `ConflictError`; nothing else. Whether the
        first commits or not. Catches a number that is drawn from a sequence without a lock: a relay then publishes the second
        event before the first.
        """
        one, other = await t.clients(2)
        for fails in (False, True):
            with t.case("the first is rolled back" if fails else "the first commits"):
                aggregate = t.key()
                before = await t.save(one, aggregate)
                first, second, early = await t.two_on_one(one, other, aggregate, fails=fails)
                given = "two transactions that save to one aggregate"
                errors = [each.error for each in (first, second) if each.error and not isinstance(each.error, LookupError)]
                t.check(
                    len(errors) < 2 and all(isinstance(each, ConflictError) for each in errors),
                    given=given,
                    expected="both end, or one with ConflictError",
                    observed=Plain(", ".join(map(describe_error, errors))),
                )
                there = [each.value for each in (second, first) if each.error is None and each.value is not None]
                if early and len(there) == 2:
                    t.check_rising(there, "the number of what became visible first, and that of the other")
                await t.settle()
                listed = await t.pending(other, aggregate)
                t.check_events(listed, [before, *there], "what is pending afterwards")
                t.check_rising(listed, "the numbers in the listing")
                if "gapless_sequence" in t.declared:
                    numbers = [each.sequence_id for each in listed]
                    t.same(numbers, list(range(1, len(listed) + 1)), given="the numbers, one of which was waited for")

    # The core

    @rule("OBX-07")
    async def test_obx_07_numbers_rise_within_an_aggregate(self, t: OutboxTrial) -> None:
        """The `sequence_id` of an aggregate's events strictly rises in the order of the saves, and is None without an aggregate.

        Also after every earlier event was marked. Whether aggregates share a counter is the provider's business. Catches text
        that sorts 10 before 9, and `max() + 1` over rows of which some are gone.
        """
        client = await t.connect()
        one, other = t.key(), t.key()
        saved: dict[str | None, list[StoredEvent]] = {one: [], other: [], None: []}
        for number in range(36):
            aggregate = (one, other, None)[number % 3]
            saved[aggregate].append(await t.save(client, aggregate))
        for each in saved[None]:
            t.same(each.sequence_id, None, given="the sequence_id of an event without an aggregate")
        for aggregate in (one, other):
            t.check_rising(saved[aggregate], "12 saves to one of two aggregates, in turn")
            listed = await client.get_pending_events_for_aggregate(aggregate)
            t.check_order(listed, saved[aggregate], "the pending events of an aggregate")
            t.same(
                [each.sequence_id for each in listed],
                [each.sequence_id for each in saved[aggregate]],
                given="their sequence_id in the listing",
            )
        for each in saved[one]:
            await client.mark_as_processed(each)
        t.check_rising([saved[one][-1], await t.save(client, one)], "the last of 12 events, all marked since, and the next one")

    @rule("OBX-08", deadline=30)
    async def test_obx_08_concurrent_saves_get_numbers_of_their_own(self, t: OutboxTrial) -> None:
        """50 concurrent saves to one aggregate from two clients are 50 events with distinct numbers and distinct ids.

        Catches `max() + 1` without a lock. Where one loses a race with `ConflictError` it is tried again.
        """
        clients = await t.clients(2)
        aggregate = t.key()
        saved = await gather(partial(t.retry, partial(t.save, clients[number % 2], aggregate)) for number in range(50))
        numbers = {each.sequence_id for each in saved}
        t.check(len(numbers) == 50, given="50 saves", expected="50 numbers", observed=Plain(f"{len(numbers)} numbers"))
        if "gapless_sequence" in t.declared:
            t.check(numbers == {*range(1, 51)}, given="their numbers", expected="1 to 50", observed=sorted(map(str, numbers)))
        await t.settle()
        listed = await clients[0].get_pending_events_for_aggregate(aggregate)
        t.check_events(listed, saved, "the pending events of the aggregate")
        t.check_rising(listed, "their numbers in the listing")

    @rule("OBX-09", "gapless_sequence", deadline=30)
    async def test_obx_09_numbers_have_no_gap(self, t: OutboxTrial) -> None:
        """The numbers of an aggregate are 1, 2, 3 and so on, whatever was rolled back or cancelled between, or saved elsewhere.

        Catches a sequence of the database, which is never rolled back, and one that all aggregates share.
        """
        client = await t.connect()
        aggregate, other = t.key(), t.key()
        await t.save_many(client, 2, aggregate)
        await t.save_many(client, 2, other)
        if "transaction" in t.declared:
            await t.rolled_back(client, t.event(aggregate), t.event(aggregate))
            await t.in_block(client, t.event(aggregate), t.event(other), t.event(aggregate))
        async for _ in sweep(lambda: partial(t.save, client, aggregate), within=t.cancel_seconds):
            pass
        await t.save(client, aggregate)
        for name in (aggregate, other):
            numbers = [each.sequence_id for each in await client.get_pending_events_for_aggregate(name)]
            t.same(numbers, list(range(1, len(numbers) + 1)), given="the numbers of an aggregate")

    @rule("OBX-10")
    async def test_obx_10_events_come_back_exactly(self, t: OutboxTrial) -> None:
        """Topic, payload, keys and headers come back exactly from `save_event`, from a listing, and from `claim`.

        Bytes of every value, none at all, headers of any text. Catches a payload in a column of text, and None that becomes "".
        """
        client = await t.connect()
        for label, fields in CONTENTS.items():
            for aggregate in (None, t.key("\u00e4 /:")):
                with t.case(f"{label}, {'no' if aggregate is None else 'an'} aggregate"):
                    event = replace(t.event(aggregate), **fields)
                    saved = await client.save_event(event)
                    t.check_content(saved, event, "what save_event returned")
                    t.same(saved.attempts, 0, given="the attempts of a new event")
                    listed = await t.pending(client, *([] if aggregate is None else [aggregate]))
                    found = [each for each in listed if each.event_id == saved.event_id]
                    t.check_events(found, [saved], "the listing")
                    t.check_content(found[0], event, "what the listing shows")
                    if "claim" in t.declared:
                        held = await t.hold(client, [saved])
                        t.check_content(held.events[0], event, "what claim gives")
                        t.same(held.events[0].sequence_id, saved.sequence_id, given="its sequence_id")
                    await client.mark_as_processed(saved)

    @rule("OBX-11")
    async def test_obx_11_an_event_keeps_its_id(self, t: OutboxTrial) -> None:
        """An `event_id` is text, unique, and the same in every listing, in every claim, and after the event was released.

        Catches an id that is made for each publication: a consumer that drops repetitions then sees none.
        """
        one, other = await t.clients(2)
        aggregates = [t.key() for _ in range(3)]
        saved = [await t.save(one, each) for each in (*aggregates, None, None, None)]
        ids = [each.event_id for each in saved]
        t.check(
            all(isinstance(each, str) and each for each in ids) and len(set(ids)) == 6,
            given="the ids of 6 events",
            expected="6 different texts that are not empty",
            observed=ids,
        )
        await t.settle()
        t.check_events(await t.pending(other, *aggregates), saved, "the ids in a listing by another client")
        if "claim" in t.declared:
            for given in ("their ids in a claim", "their ids in the claim after they were released"):
                held = await t.hold(other, saved, given=given)
                for claim in held.events:
                    (event,) = [each for each in saved if each.event_id == claim.event_id]
                    t.check_content(claim, event, given)
                    await other.release(claim)
                await t.at_once()

    @rule("OBX-12", deadline=30)
    async def test_obx_12_listings_show_what_is_pending(self, t: OutboxTrial) -> None:
        """Listings show pending events alone, each once, the oldest first, of the right kind, and no more than the limit.

        Catches rows that are processed, a limit that is not passed on, or that counts what is not shown, events with an aggregate
        among those without.
        """
        client = await t.connect()
        aggregates = [t.key(), t.key(), t.key()]
        gone, plain = await t.save_many(client, 5), list[StoredEvent]()
        ordered: dict[str, list[StoredEvent]] = {each: [] for each in aggregates}
        ordered[aggregates[0]] += await t.save_many(client, 5, aggregates[0])
        for _ in range(4):
            plain.append(await t.save(client))
            for each in aggregates:
                ordered[each].append(await t.save(client, each))
        for event in (*gone, plain.pop(1), *[ordered[name].pop(0) for name in aggregates], *ordered.pop(aggregates[2])):
            await client.mark_as_processed(event)
        t.check_order(await t.unordered(client), plain, "the pending events without an aggregate")
        for name in aggregates:
            listed = await client.get_pending_events_for_aggregate(name)
            t.check_order(listed, ordered.get(name, []), "the pending events of an aggregate")
        t.same(list(await client.get_pending_events_for_aggregate(t.key())), [], given="the events of an aggregate without any")
        keys = [each for each in await client.get_pending_aggregate_keys() if each in aggregates]
        t.check_listing(keys, ordered, "the aggregates with pending events")
        for limit in (1, 2, 3, 4):
            listed = await client.get_pending_unordered_events(limit)
            own = [each.event_id for each in listed if t.namespace in each.destination_topic]
            t.check(
                0 < len(listed) <= limit and own == [each.event_id for each in plain[: len(own)]],
                given=f"get_pending_unordered_events({limit}), with 3 events pending",
                expected=f"the oldest, at most {limit}",
                observed=own,
            )

    @rule("OBX-13")
    async def test_obx_13_marking_removes_one_event(self, t: OutboxTrial) -> None:
        """`mark_as_processed` removes exactly its event, for every client and for good, and may be repeated.

        Of events that are alike in all but their ids. Catches an update by topic, by aggregate, or by payload.
        """
        one, other = await t.clients(2)
        aggregate = t.key()
        events = [t.event(None, b"same")] * 3 + [t.event(aggregate, b"same")] * 3
        saved = [await one.save_event(each) for each in events]
        marked = [saved[1], saved[4]]
        left = [each for each in saved if each not in marked]
        for each in marked:
            await one.mark_as_processed(each)
        await t.settle()
        t.check_events(await t.pending(other, aggregate), left, "what is pending after 2 of 6 events were marked")
        for each in marked:
            await one.mark_as_processed(each)
            await other.mark_as_processed(each)
        if "shared" in t.declared:
            if "lifecycle" in t.declared:
                await one.close()
            one = await t.connect()
            await one.mark_as_processed(marked[0])
        await t.settle()
        t.check_events(await t.pending(one, aggregate), left, "what is pending after they were marked again")
        first = (await one.get_pending_events_for_aggregate(aggregate))[0]
        await one.mark_as_processed(first)
        t.check_events(
            await t.pending(one, aggregate), [each for each in left if each.event_id != first.event_id], "what is left"
        )

    # claim

    @rule("OBX-14", "claim", deadline=60)
    async def test_obx_14_no_event_is_in_two_claims(self, t: OutboxTrial) -> None:
        """No event is given to two relays while a lease runs: 8 relays on two clients drain 200 events, each once.

        Catches the plain SELECT that hands one event to two relays. Half of the events are of aggregates, whose order holds.
        """
        clients = await t.clients(2)
        aggregates = [t.key() for _ in range(20)]
        saved = await t.save_many(clients[0], 100)
        for each in aggregates:
            saved += await t.save_many(clients[1], 5, each)
        await t.settle()
        came: list[ClaimedEvent] = []

        async def work(number: int) -> None:
            idle, relay = 0, t.key("relay")
            while idle < 100 and len(came) < 200:
                got = await t.claim(clients[number % 2], limit=number + 3, relay=relay)
                came.extend(got)
                for each in got:
                    await clients[number % 2].mark_as_processed(each)
                idle = 0 if got else idle + 1
                await anyio.sleep(0 if got else 0.002)

        await gather(partial(work, number) for number in range(8))
        came += await t.publish_all(clients[0])
        t.check_events(came, saved, "everything that 8 relays were given")
        for each in aggregates:
            t.check_rising([claim for claim in came if claim.aggregate_key == each], "the events of one aggregate, as they came")

    @rule("OBX-15", "claim", "shared", hook="crash", deadline=30)
    async def test_obx_15_a_vanished_relay_gives_back_what_it_did_not_mark(self, t: OutboxTrial) -> None:
        """The events that a vanished relay had claimed and not marked are given to others after the lease, and none before.

        Catches a claim without an end, and one of which everything comes again, what was marked too.
        """
        one, other = await t.connect(), await t.connect()
        aggregate = t.key()
        saved = [*await t.save_many(other, 7), *await t.save_many(other, 3, aggregate)]
        lease = 2 * t.ttl_unit()
        await t.settle()
        held = await t.hold(one, [*saved[:7], saved[7]], lease)
        for each in held.events[:4]:
            await one.mark_as_processed(each)
        await t.crash(one)
        left = saved[4:]
        await t.check_not_given(other, left, "what a relay has claimed that is gone", until=held.until)
        await t.until(held.until - lease / 2)
        await t.check_not_given(
            other, left, "what a relay has claimed that is gone, in the middle of the lease", until=held.until
        )
        await t.until(held.over)
        came = await t.publish_all(other)
        t.check_events(came, left, "what the other relay is given after the lease")
        t.check_rising([each for each in came if each.aggregate_key], "the events of the aggregate")

    @rule("OBX-16", "claim", deadline=30)
    async def test_obx_16_an_expired_event_goes_to_one(self, t: OutboxTrial) -> None:
        """Events whose lease has ended are given to exactly one of several relays that claim at once.

        Catches a predicate that looks at the status alone. 8 relays, and 20 events, some of one aggregate.
        """
        clients = await t.clients(2)
        saved = [*await t.save_many(clients[0], 15), *await t.save_many(clients[0], 5, t.key())]
        await t.settle()
        held = await t.hold(clients[0], saved[:16], t.ttl_unit())
        await t.until(held.over)
        came: list[ClaimedEvent] = []

        async def work(number: int) -> None:
            relay = t.key("relay")
            for _ in range(10):
                got = await t.claim(clients[number % 2], limit=5, relay=relay)
                came.extend(got)
                for each in got:
                    await clients[number % 2].mark_as_processed(each)

        await gather(partial(work, number) for number in range(8))
        came += await t.publish_all(clients[0])
        t.check_events(came, saved, "everything that 8 relays were given after a lease had ended")
        ids = {each.claim_id for each in held.events} & {each.claim_id for each in came}
        t.check(not ids, given="the claim_id of a later claim", expected="another one", observed=sorted(ids))

    @rule("OBX-17", "claim")
    async def test_obx_17_an_aggregate_belongs_to_one_relay(self, t: OutboxTrial) -> None:
        """While one relay has any event of an aggregate, no other relay is given any of that aggregate; other ones it is.

        Also one that is saved meanwhile. Catches `SKIP LOCKED`, which skips the claimed event and gives out the next one.
        """
        one, other = await t.clients(2)
        busy, free = t.key(), t.key()
        events = await t.save_many(one, 3, busy)
        await t.settle()
        await t.hold(one, events[:1])
        events += await t.save_many(one, 1, busy)
        others = await t.save_many(one, 2, free)
        await t.settle()
        await t.check_not_given(other, events, "the events of an aggregate of which another relay has the first")
        await t.hold(other, others[:1], given="an event of another aggregate")
        t.check_events(await t.pending(one, busy, free), [*events, *others], "what is pending, of which some is claimed")
        keys = [each for each in await other.get_pending_aggregate_keys() if each in (busy, free)]
        t.check_listing(keys, [busy, free], "the pending aggregates, of which some are claimed")
        # By another client, which has it from the save and from no claim.
        await other.mark_as_processed(events[0])
        came = [each for each in await t.publish_all(other) if each.aggregate_key == busy]
        t.check_order(came, events[1:], "what the other relay is given, once the first was marked")
        events = await t.save_many(one, 3, busy)
        await t.settle()
        got = await t.claim(one, limit=2)
        if len(got) == 2:
            await one.mark_as_processed(got[0])
            await t.check_not_given(other, events, "an aggregate of which a relay has marked one event, and has another")

    @rule("OBX-18", "claim", deadline=30)
    async def test_obx_18_a_released_head_holds_back_its_aggregate_alone(self, t: OutboxTrial) -> None:
        """A claim lists the events of an aggregate in their order, and an event that waits holds back its successors alone.

        Catches the second event that is published while the first is tried again, and a poison event that stops the relay.
        """
        one, other = await t.clients(2)
        stuck, free = t.key(), t.key()
        events = await t.save_many(one, 5, stuck)
        await t.settle()
        got = [each for each in await t.claim(one, limit=3) if each.aggregate_key == stuck]
        t.check(
            0 < len(got) <= 3 and [each.event_id for each in got] == [each.event_id for each in events[: len(got)]],
            given="claim(limit=3) of an aggregate with 5 events",
            expected="its first, in their order",
            observed=[each.sequence_id for each in got],
        )
        head = got[0]
        if len(got) > 1:
            await one.release(head)
            await t.at_once()
            await t.check_not_given(other, events, "an aggregate whose first event was released, and whose second is held")
            for each in reversed(got[1:]):
                await one.release(each)
            await t.at_once()
            (head,) = (await t.hold(one, events[:1], given="the first event, once all were released")).events
        wait = t.ttl_unit() + 3 * t.longest(t.shortest())
        released = t.now()
        await one.release(head, retry_in=wait)
        over = t.now() + t.longest(wait)
        await t.at_once()
        others = await t.save_many(one, 2, free)
        await t.settle()
        due = released + wait - wait / 100
        await t.check_not_given(other, events, "an aggregate whose first event waits for its retry", until=due)
        held = await t.hold(other, others[:1], t.ttl_unit(), given="an event of another aggregate")
        await t.until(max(over, held.over))
        came = [each for each in await t.publish_all(other) if each.aggregate_key == stuck]
        t.check_order(came, events, "the aggregate, once its first event is due")

    @rule("OBX-19", "claim", deadline=30)
    async def test_obx_19_a_released_event_waits_and_counts(self, t: OutboxTrial) -> None:
        """`release(retry_in=d)` lets nobody claim the event before *d* seconds have passed, and counts one attempt.

        In the next claim and in the listing. The seconds count from the release, however long the event was held before. Catches
        the relay that tries a dead broker a thousand times a second.
        """
        one, other = await t.clients(2)
        for aggregate in (None, t.key()):
            with t.case("an event without an aggregate" if aggregate is None else "an event of an aggregate"):
                saved = await t.save(one, aggregate)
                await t.settle()
                held = await t.hold(one, [saved])
                t.same(held.events[0].attempts, 0, given="the attempts of an event that was never released")
                for attempts in (1, 2):
                    wait = t.ttl_unit()
                    if attempts == 2:
                        await t.wait(t.longest(wait))
                    released = t.now()
                    await one.release(held.events[0], retry_in=wait, error="the broker is gone")
                    over = t.now() + t.longest(wait)
                    due = released + wait - wait / 100
                    await t.check_not_given(other, [saved], "an event that waits for its retry", until=due)
                    await t.until(over)
                    held = await t.hold(one, [saved], given="an event whose retry is due")
                    t.same(held.events[0].attempts, attempts, given="its attempts in the claim")
                    await t.settle()
                    listed = [each for each in await t.pending(other, aggregate or t.key()) if each.event_id == saved.event_id]
                    t.same([each.attempts for each in listed], [attempts], given="its attempts in the listing")

    @rule("OBX-20", "claim", deadline=30)
    async def test_obx_20_who_lost_a_claim_cannot_release_it(self, t: OutboxTrial) -> None:
        """`release` by a claimant whose claim was lost raises `OutboxClaimLostError`, and leaves the new claim as it is.

        Lost since the lease has ended and another relay has the event, or since it was released before. Catches an update by the
        id of the event alone: two relays then publish at once.
        """
        one, other = await t.clients(2)
        saved = [await t.save(one), await t.save(one, t.key())]
        await t.settle()
        held = await t.hold(one, saved, t.ttl_unit())
        await t.until(held.over)
        new = await t.hold(other, saved, given="events whose lease has ended")
        for each in held.events:
            given = "release of an event that another relay has by now"
            await t.refused(partial(one.release, each), OutboxClaimLostError, given=given)
        await t.check_not_given(one, saved, "events after a stale release")
        await t.settle()
        t.check_events(await t.unordered(one), saved[:1], "what is pending without an aggregate, and claimed")
        t.same([each.attempts for each in new.events], [0, 0], given="the attempts of events whose lease ended")
        for each in new.events:
            await other.release(each)
        await t.at_once()
        again = await t.hold(one, saved, given="events that were released")
        t.same([each.attempts for each in again.events], [1, 1], given="their attempts, after one release and one stale release")
        for each in new.events:
            await t.refused(partial(other.release, each), OutboxClaimLostError, given="a second release by the same claim")
        await t.check_not_given(other, saved, "events after a stale release by the same claim")

    @rule("OBX-21", "claim", deadline=30)
    async def test_obx_21_what_is_processed_stays_processed(self, t: OutboxTrial) -> None:
        """Whatever a claimant does whose claim was lost, an event that is marked never becomes pending or claimable again.

        A late mark counts: the event was published, whether somebody else has it by now or nobody, and it raises nothing. A late
        release is a lost claim, or nothing at all. Catches a status that is set back by whoever comes last, and a mark that is
        left out where the claim is another.
        """
        one, other = await t.clients(2)
        aggregate = t.key()
        saved = [*await t.save_many(one, 4), await t.save(one, aggregate)]
        await t.settle()
        held = await t.hold(one, saved, t.ttl_unit())
        await t.until(held.over)
        await one.mark_as_processed(held.events[0])
        await t.settle()
        new = await t.hold(other, saved[1:], given="events whose lease has ended")
        left = [await t.save(one, aggregate)]
        await other.release(new.events[0], retry_in=t.long_lease())
        for late in (held.events[1], held.events[2], held.events[4]):
            await one.mark_as_processed(late)
        await t.settle()
        given = "what is pending after late marks of events that nobody has, and of some that another relay has"
        t.check_events(await t.pending(one, aggregate), [saved[3], *left], given)
        for each in new.events:
            await other.mark_as_processed(each)
        for claims, client in ((held, one), (new, other)):
            for each in claims.events:
                await client.mark_as_processed(each)
                tried = await attempt(partial(client.release, each, retry_in=0.0))
                t.check(
                    tried.error is None or isinstance(tried.error, OutboxClaimLostError),
                    given="release of an event that was marked",
                    expected="OutboxClaimLostError, or nothing",
                    observed=Plain("" if tried.error is None else describe_error(tried.error)),
                )
        await t.settle()
        t.check_events(await t.pending(one, aggregate), left, "what is pending after late marks and releases")
        await t.at_once()
        t.check_events(await t.publish_all(one), left, "what can be claimed after late marks and releases")

    @rule("OBX-22", "claim", deadline=30)
    async def test_obx_22_a_cancelled_claim_loses_nothing(self, t: OutboxTrial) -> None:
        """A cancelled `claim` loses nothing: its events can be claimed at the latest after its lease, each once.

        Cancelled at each of its waits, and then looked at by another client. Catches an event that is claimed for ever by a relay
        that was never told.
        """
        one, other = await t.clients(2)
        saved = [*await t.save_many(one, 5), *await t.save_many(one, 3, t.key())]
        await t.settle()
        lease = t.ttl_unit()
        async for _ in sweep(lambda: partial(one.claim, t.key("relay"), limit=3, lease=lease), within=t.cancel_seconds):
            pass
        await t.until(t.now() + t.longest(lease))
        t.check_events(await t.publish_all(other), saved, "what can be claimed after cancelled claims")

    # lease_renewal

    @rule("OBX-23", "claim", "lease_renewal", deadline=30)
    async def test_obx_23_a_renewed_claim_lasts(self, t: OutboxTrial) -> None:
        """A renewed claim outlives its first lease, ends with the new one, and one that was lost is not renewed.

        Then `renew` is False, also where the others of its events are still held, and changes none of them. Catches the claimant
        that comes back to life beside another, and a lease that is added to what was left.
        """
        one, other = await t.clients(2)
        saved = await t.save_many(one, 2)
        await t.settle()
        lease = 2 * t.ttl_unit()
        held = await t.hold(one, saved, lease)
        await t.wait(lease / 2)
        asked = t.now()
        renewed = await one.renew(held.events, lease)
        new_over = t.now() + t.longest(lease)
        if t.now() < held.until:
            t.same(renewed, True, given="renew of claims that are held")
        await t.until(held.over)
        if renewed is True:
            until = asked + lease - lease / 100
            await t.check_not_given(other, saved, "renewed events, once their first lease is over", until=until)
        await t.until(max(held.over, new_over))
        taken = await t.claim(other, limit=1)
        t.check(len(taken) == 1, given="events whose renewed lease has ended", expected="claim gives one", observed=taken)
        (lost,) = [each for each in held.events if each.event_id == taken[0].event_id]
        rest = [each for each in saved if each.event_id != lost.event_id]
        short = await t.hold(one, rest, lease)
        t.same(await one.renew([*short.events, lost], t.long_lease()), False, given="renew of two claims, one of them lost")
        t.same(await one.renew([lost], lease), False, given="renew of a lost claim")
        await t.check_not_given(one, [lost], "an event after a stale renewal")
        await t.until(short.over)
        await t.hold(other, rest, given="an event whose lease has ended, and whose renewal was refused")

    # outbox_relay

    @rule("OBX-24", "outbox_relay", deadline=30)
    async def test_obx_24_an_event_is_marked_once_it_is_published(self, t: OutboxTrial) -> None:
        """A relay marks an event only after `publish` has returned; one whose publishing fails stays pending, and is tried again.

        What `publish` raises does not leave `run_once`. Catches the mark before the publication, which loses the event, and the
        event that is given up after its first failure.
        """
        one, other = await t.clients(2)
        sink = Sink(lambda event: sink.tries[event.event_id] < 3)
        seen: list[bool] = []
        came: list[StoredEvent] = []

        async def publish(event: StoredEvent) -> object:
            if other is not one:
                await t.settle()
                seen.append(event.event_id in {each.event_id for each in await t.pending(other, aggregate)})
            came.append(replace(event, headers=dict(event.headers)))
            _change(event)
            return await sink.publish(0, event)

        aggregate = t.key()
        saved = [await one.save_event(t.event(each, message_key="k", headers={"h": "v"})) for each in (aggregate, None)]
        relay = one.relay(publish, relay_id=t.key("relay"))
        t.same(await relay.run_once(), 0, given="run_once, whose 2 publications fail")
        await t.settle()
        t.check_events(await t.pending(one, aggregate), saved, "what is pending after they failed")
        await t.run([relay], lambda: 6 - sum(sink.tries.values()), "2 events, each of which fails twice")
        t.check(all(seen), given="events while they are published", expected="they are pending", observed=seen)
        for each in came:
            t.check_content(each, saved[each.aggregate_key is None], "what a relay publishes, whatever was done with it before")
        await t.settle()
        t.check_events(await t.pending(one, aggregate), [], "what is pending after they were published")
        t.same(sorted(sink.tries.values()), [3, 3], given="the tries of 2 events, each of which fails twice")
        await t.at_once()
        t.same(await relay.run_once(), 0, given="run_once, when everything is published")

    @rule("OBX-25", "outbox_relay", "shared", hook="crash", deadline=30)
    async def test_obx_25_a_crash_before_the_mark_publishes_again(self, t: OutboxTrial) -> None:
        """What a relay published that crashed before it marked it is published again after the lease, with the same `event_id`.

        At least once is what an outbox promises: a consumer recognises the repetition by its id. Catches an event that is lost,
        and an id that is made for each publication.
        """
        one, other = await t.connect(), await t.connect()
        aggregate, lease = t.key(), t.ttl_unit()
        saved = await t.save_many(other, 3, aggregate)
        await t.settle()
        came: list[StoredEvent] = []
        inside = anyio.Event()

        async def publish(event: StoredEvent) -> None:
            came.append(event)
            inside.set()
            await anyio.sleep_forever()

        relay = one.relay(publish, relay_id=t.key("relay"), lease=lease)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(attempt, relay.run_once))
            await inside.wait()
            await t.crash(one)
            tasks.cancel_scope.cancel()
        await t.until(t.now() + t.longest(lease))
        t.check_order(came, saved[:1], "what the first relay published")
        sink = Sink()
        again = other.relay(sink.by(1), relay_id=t.key("relay"), lease=t.long_lease())
        await t.run([again], lambda: 3 - len(sink.published), "3 events of a relay that has crashed")
        t.check_order(sink.published, saved, "what the second relay published")
        t.check_content(sink.published[0], saved[0], "the event that was published twice")

    @rule("OBX-26", "outbox_relay", deadline=60)
    async def test_obx_26_relays_keep_the_order_and_lose_nothing(self, t: OutboxTrial) -> None:
        """Two relays at once publish the events of each aggregate in their order, one after the other, and lose none.

        10 aggregates of 20 events, one publication in five fails. Catches the batch that is published in parallel, and the
        successor of a failed event that is published before it.
        """
        clients = await t.clients(2)
        chance = random.Random(t.seed)
        aggregates = [t.key() for _ in range(10)]
        publications: list[Publication] = []

        async def save(aggregate: str) -> None:
            for _ in range(20):
                called = time.monotonic_ns()
                event = await t.save(clients[0], aggregate)
                content = (event.payload, aggregate)
                publications.append(Publication(event.event_id, content, aggregate, called, time.monotonic_ns()))

        await gather(partial(save, each) for each in aggregates)
        await t.settle()
        sink = Sink(lambda event: chance.random() < 0.2)
        relays = [clients[each].relay(sink.by(each), relay_id=t.key("relay"), batch=15) for each in (0, 1)]
        await t.run(relays, lambda: 200 - len({each.event_id for each in sink.published}), "200 events and two relays")
        found = judge(publications, sink.deliveries, order=Order.STRICT, drained=time.monotonic_ns(), most_repeated=0)
        t.check(
            not found.findings,
            given="10 aggregates of 20 events, published by two relays",
            expected="each once, in the order of its aggregate",
            observed=Plain(str(found)),
        )
        t.check_events(await t.pending(clients[0], *aggregates), [], "what is pending at the end")

    @rule("OBX-27", "outbox_relay", "parking", deadline=60)
    async def test_obx_27_a_poison_event_is_parked(self, t: OutboxTrial) -> None:
        """An event that has failed `max_attempts` times is put aside, and holds back its aggregate alone until it is unparked.

        Its successors were not tried, and have failed at nothing. It is tried by a relay that stays and by new ones, in turn.
        Catches a relay that is stuck as a whole, one that goes on with the next event of the aggregate, and one that gives up
        after another number of failures, or counts them for itself: after a restart it begins anew.
        """
        client, restarted = await t.clients(2)
        stuck, free = t.key(), t.key()
        events = await t.save_many(client, 3, stuck)
        others = [*await t.save_many(client, 3, free), *await t.save_many(client, 3)]
        await t.settle()
        poison = [events[0], await t.save(client)]
        sink = Sink(lambda event: event.event_id in [each.event_id for each in poison])
        given: dict[str, Any] = {"relay_id": t.key("relay"), "max_attempts": 3}
        relay = InTurn(client.relay(sink.by(0), **given), lambda: restarted.relay(sink.by(1), **given))
        await t.run([relay], lambda: 6 - len(sink.published), "2 poison events and 6 others")
        await t.run(
            [relay], lambda: 6 - sum(sink.tries[each.event_id] for each in poison), "2 poison events, with max_attempts=3"
        )
        for _ in range(3):
            await t.wait(t.longest(t.ttl_unit()))
            await relay.run_once()
        await t.settle()
        t.check_events(await client.list_parked(), poison, "list_parked")
        t.same([sink.tries[each.event_id] for each in poison], [3, 3], given="the tries of poison events, with max_attempts=3")
        t.check_events(sink.published, others, "what was published beside it")
        # A successor that fails once has failed once, however long it had to wait.
        sink.fails = lambda event: event.event_id == events[1].event_id and sink.tries[event.event_id] == 1
        for each in poison:
            await client.unpark(each)
        await t.run([relay], lambda: 10 - len(sink.published), "a poison event that was unparked, and its successors")
        t.check_order([each for each in sink.published if each.aggregate_key == stuck], events, "the aggregate, once unparked")
        t.same([sink.tries[each.event_id] for each in events], [4, 2, 1], given="the tries of its events")
        t.check_events(await client.list_parked(), [], "list_parked, once everything is published")

    # retention

    @rule("OBX-28", "retention", deadline=30)
    async def test_obx_28_purging_removes_what_is_old_and_processed(self, t: OutboxTrial) -> None:
        """`purge_processed` removes the events that were marked longer ago than the bound, says how many, and no other.

        Catches a bound that counts from the save, so that an event goes as soon as it is marked, one that a repeated mark moves,
        and a purge of what is pending.
        """
        client = await t.connect()
        aggregate, unit = t.key(), 2 * t.ttl_unit()
        saved = [*await t.save_many(client, 3), *await t.save_many(client, 4, aggregate)]
        old, young, left = saved[:2] + saved[3:4], saved[4:6], [saved[2], saved[6]]
        await client.purge_processed(0.0)
        for each in old:
            await client.mark_as_processed(each)
        marked = t.now()
        await t.wait(2 * unit)
        for each in old:
            await client.mark_as_processed(each)
        began = t.now()
        for each in young:
            await client.mark_as_processed(each)
        purged = await client.purge_processed(unit)
        if t.now() - began < unit - t.numbers().ttl_resolution and began - marked > unit + t.numbers().ttl_resolution:
            t.same(purged, 3, given="purge_processed of 3 old and 2 new events")
            t.same(await client.purge_processed(3 * unit), 0, given="purge_processed of what is older still")
        await t.wait(2 * unit)
        t.same(purged + await client.purge_processed(unit), 5, given="the events that were purged in the end")
        t.same(await client.purge_processed(unit), 0, given="purge_processed again")
        t.check_events(await t.pending(client, aggregate), left, "what is pending after that")
        for each in (*old, *young):
            await client.mark_as_processed(each)
        t.check_events(await t.pending(client, aggregate), left, "what is pending after purged events were marked again")

    # transaction, beside what stands above

    @rule("OBX-29", "transaction")
    async def test_obx_29_a_rollback_leaves_nothing_for_the_next_commit(self, t: OutboxTrial) -> None:
        """The events of a transaction that was rolled back are not stored by the client's next commit.

        Nor by its next `save_event` of its own. Catches a buffer of events that is not cleared.
        """
        one, other = await t.clients(2)
        aggregate = t.key()
        await t.rolled_back(one, t.event(), t.event(aggregate))
        saved = await t.in_block(one, t.event(), t.event(aggregate))
        await t.rolled_back(one, t.event(), t.event(aggregate))
        saved += [await t.save(one), await t.save(one, aggregate)]
        async with one.transaction():
            pass
        await t.settle()
        t.check_events(await t.pending(other, aggregate), saved, "what is pending after commits and rollbacks in turn")

    @rule("OBX-30", "transaction", deadline=30)
    async def test_obx_30_a_save_beside_a_transaction_is_no_part_of_it(self, t: OutboxTrial) -> None:
        """What a client saves without `tx` while a transaction of its own is open commits by itself, whatever becomes of that.

        The same for another transaction of the same client, in another task. Catches a connection, or a context variable, that
        all tasks of a client share: the rollback of one takes the events of another. Where one has to wait, it may.
        """
        one, other = await t.clients(2)
        for given, call in (
            ("save_event", lambda name: partial(t.save, one, name)),
            ("another transaction", lambda name: partial(t.in_block, one, t.event(name))),
        ):
            with t.case(given):
                mine, theirs = t.key(), t.key()
                beside: list[Beside] = []

                async def block(call: Any = call, mine: str = mine, theirs: str = theirs, beside: list[Beside] = beside) -> None:
                    async with one.transaction() as tx:
                        await t.save(one, mine, tx)
                        beside.append(await begin(call(theirs)))
                        await t.save(one, mine, tx)
                        raise LookupError("raised in the block")

                async with t.beside() as begin:
                    await t.refused(block, LookupError, given="an exception raised in a transaction")
                result = beside[0].tried.result()
                await t.settle()
                saved = result if isinstance(result, list) else [result]
                t.check_events(await t.pending(other, mine, theirs), saved, f"what is pending of {given} beside a rollback")

    @rule("OBX-31", "transaction")
    async def test_obx_31_a_transaction_that_has_ended_takes_nothing(self, t: OutboxTrial) -> None:
        """Saving in a transaction that has ended raises, and stores nothing, whether it was committed or rolled back.

        With a `TCKError`, where `validation` is declared. Catches the event that waits in a list for a commit that was already.
        """
        one, other = await t.clients(2)
        aggregate = t.key()
        ended: list[Any] = []
        async with one.transaction() as tx:
            saved = await t.save(one, aggregate, tx)
            ended.append(tx)

        async def fail() -> None:
            async with one.transaction() as tx:
                ended.append(tx)
                raise LookupError("raised in the block")

        await t.refused(fail, LookupError, given="an exception raised in a transaction")
        for tx in ended:
            for event in (t.event(), t.event(aggregate)):
                await t.not_taken(
                    partial(one.save_event, event, tx=tx), given="save_event in an ended transaction", error=TCKError
                )
        await t.in_block(one)
        await t.settle()
        t.check_events(await t.pending(other, aggregate), [saved], "what is pending after that")

    @rule("OBX-32", "transaction", deadline=30)
    async def test_obx_32_a_cancelled_transaction_is_whole_or_nothing(self, t: OutboxTrial) -> None:
        """Of a transaction that is cancelled at any of its waits, every event is there or none, as another client sees it.

        More events than a request takes are in it. And what the client saves next is there, for another client too. Catches a
        commit in parts, and a transaction that stays open on a connection of the pool.
        """
        one, other = await t.clients(2)
        size = min(within_reach(t.numbers().batch_size), 30) + 1
        aggregates: list[str] = []

        async def block(aggregate: str) -> None:
            async with one.transaction() as tx:
                if "inbox" in t.declared:
                    await one.record(aggregate, consumer="c", tx=tx)
                for _ in range(size):
                    await one.save_event(t.event(aggregate), tx=tx)

        def make() -> Call[object]:
            aggregates.append(t.key())
            return partial(block, aggregates[-1])

        async for _ in sweep(make, within=t.cancel_seconds, most=4 * size):
            last = await t.save(one, aggregates[-1])
            await t.settle()
            listed = await other.get_pending_events_for_aggregate(aggregates[-1])
            own = [each for each in listed if each.event_id != last.event_id]
            given = f"a transaction with {size} events, cancelled at its wait number {len(aggregates)}"
            observed = Plain(f"{len(own)} events")
            t.check(len(own) in (0, size), given=given, expected=f"{size} events or none", observed=observed)
            t.check_events(listed[-1:], [last], "the last pending event, after the client has saved another")
            if "inbox" in t.declared:
                t.same(await other.record(aggregates[-1], consumer="c"), not own, given=f"record of what was recorded in {given}")
        whole = await t.in_block(one, *[t.event(aggregates[0]) for _ in range(size)])
        await t.settle()
        t.check_order((await other.get_pending_events_for_aggregate(aggregates[0]))[-size:], whole, "a whole transaction")

    # The core, beside what stands above

    @rule("OBX-33")
    async def test_obx_33_equal_events_are_several(self, t: OutboxTrial) -> None:
        """Events that are equal in everything are as many as were saved, each with an id of its own.

        Catches a table that is keyed by content. Three in a row, three at once, with an aggregate and without.
        """
        client = await t.connect()
        aggregate = t.key()
        for name in (None, aggregate):
            with t.case("without an aggregate" if name is None else "of one aggregate"):
                event = t.event(name, b"equal", message_key="k", headers={"h": "v"})
                saved = [await client.save_event(event) for _ in range(3)]
                saved += await gather(partial(t.retry, partial(client.save_event, event)) for _ in range(3))
                listed = await (t.unordered(client) if name is None else client.get_pending_events_for_aggregate(name))
                t.check_events(listed, saved, "6 equal events")
                await client.mark_as_processed(saved[2])
                listed = await (t.unordered(client) if name is None else client.get_pending_events_for_aggregate(name))
                t.check_events(listed, [*saved[:2], *saved[3:]], "6 equal events, one of them marked")

    @rule("OBX-34", deadline=60)
    async def test_obx_34_listings_go_beyond_a_page(self, t: OutboxTrial) -> None:
        """Listings are whole beyond any page: of events without an aggregate, of an aggregate, and of aggregates.

        Of more than two pages, and with what was marked in between. Catches the second page that begins where the first did, or
        that is counted from what is left.
        """
        client = await t.connect()
        aggregate, page = t.key(), within_reach(t.numbers().page_size)
        count = 2 * page + 1 if page <= 100 else page + 1
        keys = [t.key() for _ in range(count)]
        plain = await t.bulk(client, [None] * count)
        ordered = await t.bulk(client, [aggregate] * count)
        firsts = dict(zip(keys, await t.bulk(client, keys), strict=True))
        t.check_order(await t.unordered(client), plain, f"{count} pending events without an aggregate")
        t.check_order(
            await client.get_pending_events_for_aggregate(aggregate), ordered, f"{count} pending events of an aggregate"
        )
        listed = await client.get_pending_aggregate_keys()
        t.check_listing([each for each in listed if each in firsts], keys, f"{count} aggregates with pending events")
        for limit in (page - 1, page, page + 1):
            own = [
                each for each in await client.get_pending_unordered_events(limit or 1) if t.namespace in each.destination_topic
            ]
            t.check(len(own) <= (limit or 1), given=f"a listing of at most {limit}", expected="no more", observed=len(own))
        done = [plain[0], *ordered[: page + 1], *[firsts[key] for key in keys[:page]]]
        await t.many(partial(client.mark_as_processed, each) for each in done)
        t.check_order(await t.unordered(client), plain[1:], "the events without an aggregate, the first of which was marked")
        t.check_order(await client.get_pending_events_for_aggregate(aggregate), ordered[page + 1 :], "the rest of an aggregate")
        listed = await client.get_pending_aggregate_keys()
        t.check_listing([each for each in listed if each in firsts], keys[page:], "the aggregates that are left")

    @rule("OBX-35", "claim", deadline=60)
    async def test_obx_35_claims_of_every_size_drain_everything(self, t: OutboxTrial) -> None:
        """Claims of any limit give no more than that, and in the end everything, each event once and each aggregate in order.

        Limits of 1, of a request, of one less and of one more, over more than two requests. Catches a chunk that is claimed and
        not returned.
        """
        client = await t.connect()
        batch = within_reach(t.numbers().batch_size)
        size = batch if batch <= 100 else 20
        for limit in sorted({1, max(size - 1, 1), size, size + 1, 2 * size + 1}):
            with t.case(f"limit={limit}"):
                aggregate = t.key()
                saved = [*await t.save_many(client, size + 1), *await t.save_many(client, size, aggregate)]
                await t.settle()
                came = await t.publish_all(client, limit=limit)
                t.check_events(came, saved, f"claims of {len(saved)} events")
                t.check_rising([each for each in came if each.aggregate_key], "the events of the aggregate, as they came")

    @rule("OBX-36", "claim", deadline=30)
    async def test_obx_36_claims_of_two_tasks_of_one_client_are_apart(self, t: OutboxTrial) -> None:
        """Relays that are tasks of one client get different events, also while others save, mark and release.

        Catches a connection, a transaction or a cursor that the tasks of a client share.
        """
        client = await t.connect()
        aggregates = [t.key() for _ in range(6)]
        saved: list[StoredEvent] = []
        came: list[ClaimedEvent] = []
        released: set[str] = set()

        async def save(aggregate: str | None) -> None:
            for _ in range(8):
                saved.append(await t.save(client, aggregate))

        async def work() -> None:
            relay, idle = t.key("relay"), 0
            while idle < 20:
                got = await t.claim(client, limit=4, relay=relay)
                for each in got:
                    if each.aggregate_key is None and each.event_id not in released and len(released) < 100:
                        released.add(each.event_id)
                        await client.release(each)
                    else:
                        came.append(each)
                        await client.mark_as_processed(each)
                idle = 0 if got else idle + 1
                await anyio.sleep(0 if got else 0.001)

        saves: list[Call[None]] = [partial(save, each) for each in (*aggregates, None, None)]
        await gather([*saves, work, work, work, work])
        await t.at_once()
        came += await t.publish_all(client)
        t.check_events(came, saved, "everything that was published by tasks of one client")
        for aggregate in aggregates:
            t.check_rising(
                [each for each in came if each.aggregate_key == aggregate], "the events of one aggregate, as they came"
            )

    @rule("OBX-37", "claim", "transaction", deadline=30)
    async def test_obx_37_a_claimed_aggregate_takes_new_events(self, t: OutboxTrial) -> None:
        """Saving to an aggregate whose events are claimed neither waits for the relay nor fails, and the event comes in its turn.

        The lease outlives the rule. Catches a claim that keeps a lock on its rows for as long as it publishes.
        """
        one, other = await t.clients(2)
        aggregate = t.key()
        saved = await t.save_many(one, 2, aggregate)
        await t.settle()
        held = await t.hold(one, saved[:1])
        saved += await t.in_block(other, t.event(aggregate), t.event(aggregate))
        saved.append(await t.save(other, aggregate))
        await t.rolled_back(other, t.event(aggregate))
        await t.settle()
        await t.check_not_given(other, saved, "an aggregate of which another relay has the first event")
        await one.mark_as_processed(held.events[0])
        t.check_order(await t.publish_all(other), saved[1:], "the aggregate, once its first event was marked")

    # outbox_relay, beside what stands above

    @rule("OBX-38", "outbox_relay", "claim", deadline=30)
    async def test_obx_38_a_relay_that_was_stopped_leaves_nothing_claimed(self, t: OutboxTrial) -> None:
        """After `stop` has returned a relay publishes and claims nothing, and what it had claimed can be claimed at once.

        Not after its lease. What is being published when `stop` is called may be finished, or broken off. Catches claims that are
        kept, and a task that goes on.
        """
        client = await t.connect()
        saved = [*await t.save_many(client, 3), *await t.save_many(client, 3, t.key())]
        await t.settle()
        inside, go = anyio.Event(), anyio.Event()
        done: list[str] = []
        late: list[StoredEvent] = []
        stopped = False

        async def publish(event: StoredEvent) -> None:
            if stopped:
                late.append(event)
            inside.set()
            await go.wait()
            done.append(event.event_id)

        relay = client.relay(publish, relay_id=t.key("relay"), lease=t.long_lease())
        await relay.start()
        came = await t.comes(inside.is_set, t.numbers().deliver)
        t.check(came, given="6 events and a relay that was started", expected="one is published", observed=Plain("none is"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.stop)
            await anyio.sleep(0.01)
            go.set()
        stopped, left = True, [each for each in saved if each.event_id not in done]
        await relay.stop()
        await t.at_once()
        given = "what a relay had claimed and not published when it was stopped"
        t.check_events([each for each in await t.publish_all(client) if each.event_id not in done], left, given)
        new, sink = await t.save_many(client, 3), Sink()
        again = client.relay(sink.by(1), relay_id=t.key("relay"))
        await again.start()
        t.check(
            await t.comes(partial(sink.has, 3), t.numbers().deliver),
            given="another relay that was started",
            expected="3 events are published",
            observed=Plain(f"{len(sink.published)} are"),
        )
        await again.stop()
        t.check_events(sink.published, new, "what the other relay published")
        t.check_events(late, [], "what a relay published after it was stopped")

    @rule("OBX-39", "outbox_relay", deadline=30)
    async def test_obx_39_a_commit_is_published_in_time(self, t: OutboxTrial) -> None:
        """What is committed is published within `deliver` by a relay that runs, and what was there before it was started, too.

        Also after it had nothing to do for a while. What has failed once is published in the end, after whatever pause the relay
        makes, and however late it gives the event back. Catches a relay that looks for work too seldom for what is declared, and
        one that looks once.
        """
        one, other = await t.clients(2)
        within, aggregate, sink = t.numbers().deliver, t.key(), Sink()
        saved = [await t.save(one, aggregate), await t.save(one)]
        relay = one.relay(sink.by(0), relay_id=t.key("relay"))
        await relay.start()
        for given in ("events from before the relay was started", "an event", "an event after a while", "a transaction"):
            if given == "an event":
                saved.append(await t.save(other, aggregate))
            elif given == "an event after a while":
                await t.wait(t.longest(t.ttl_unit()))
                saved.append(await t.save(one))
            elif given == "a transaction" and "transaction" in t.declared:
                saved += await t.in_block(other, t.event(aggregate), t.event(), t.event(aggregate))
            t.check(
                await t.comes(partial(sink.has, len(saved)), within + t.numbers().staleness),
                given=given,
                expected=f"published within {within:g} s",
                observed=Plain(f"{len(sink.published)} of {len(saved)} events are"),
            )
        sink.fails = lambda event: sink.tries[event.event_id] == 1
        saved.append(await t.save(other, aggregate))
        t.check(
            await t.comes(partial(sink.has, len(saved)), max(within, 30.0, t.longest(t.shortest())), at_last=True),
            given="an event whose publishing fails once",
            expected="it is published after all",
            observed=Plain("it is not"),
        )
        await relay.stop()
        t.check_events(sink.published, saved, "what was published")

    # inbox

    @rule("OBX-40", "inbox", deadline=30)
    async def test_obx_40_a_message_is_recorded_once_by_each_consumer(self, t: OutboxTrial) -> None:
        """`record` is True the first time that a consumer meets an id and False from then on, for every client.

        Of concurrent calls exactly one is True. Ids and consumers are compared exactly. A batch reports what is repeated in it or
        was recorded, and nothing else. Catches one index for all consumers, a look before the insert, and a whole batch that is
        taken for repeated since one id is.
        """
        one, other = await t.clients(2)
        consumer, id = t.key("c"), t.key("id")
        t.same(await one.record(id, consumer=consumer), True, given="record of a new id")
        t.same(await other.record(id, consumer=consumer), False, given="record of the same id by another client")
        t.same(await one.record(id, consumer=t.key("c")), True, given="record of that id by another consumer")
        for twin in (id.upper(), id + " ", id + "%", id[:-1] + "_", f"{consumer}:{id}", id + "/" + id):
            t.same(await one.record(twin, consumer=consumer), True, given=f"record of {describe(twin)}, beside {describe(id)}")
        for consumers, joined in ((f"{consumer}x", id), (consumer, f"x{id}")):
            given = "record by a consumer and of an id, of two such pairs that are one text when they are joined"
            t.same(await one.record(joined, consumer=consumers), True, given=given)
        for _ in range(5):
            contested = t.key("id")
            alone = await gather(
                partial(t.retry, partial((one, other)[number % 2].record, contested, consumer=consumer)) for number in range(8)
            )
            t.same(sorted(alone), [False] * 7 + [True], given="8 concurrent records of one id")
        size = min(within_reach(t.numbers().batch_size), 100)
        ids = [t.key("id") for _ in range(2 * size + 1)]
        await one.record(ids[size], consumer=consumer)
        expected = [number != size for number in range(len(ids))]
        t.same(
            await other.record_many(ids, consumer=consumer), expected, given=f"record_many of {len(ids)} ids, one of them known"
        )
        t.same(await one.record_many(ids, consumer=consumer), [False] * len(ids), given="record_many of the same ids")
        new, known = t.key("id"), ids[0]
        seen = await one.record_many([new, known, new, t.key("id"), known], consumer=consumer)
        t.same(list(seen), [True, False, False, True, False], given="record_many of ids of which some are repeated")
        t.same(list(await one.record_many([], consumer=consumer)), [], given="record_many of nothing")
        both = [t.key("id") for _ in range(10)]
        halves = [(one, both), (other, both[::-1])]
        tried = await gather(partial(t.retry, partial(client.record_many, given, consumer=consumer)) for client, given in halves)
        firsts = [a + b for a, b in zip(tried[0], tried[1][::-1], strict=True)]
        t.same(firsts, [1] * 10, given="how often each of 10 ids was new, in two concurrent batches in opposite order")

    @rule("OBX-41", "inbox", "transaction", deadline=30)
    async def test_obx_41_a_record_is_part_of_its_transaction(self, t: OutboxTrial) -> None:
        """A record commits and vanishes with its transaction, together with the events that are saved in it.

        Within the transaction the id is known; of two transactions at once, one has it. Catches a record that commits by itself:
        a consumer that fails then never does its work.
        """
        one, other = await t.clients(2)
        consumer, aggregate = t.key("c"), t.key()
        for fails in (True, False):
            with t.case("the first is rolled back" if fails else "the first commits"):
                id, many = t.key("id"), [t.key("id"), t.key("id")]
                before = len(await one.get_pending_events_for_aggregate(aggregate))
                beside: list[Beside] = []

                async def block(id: str = id, many: Any = many, fails: bool = fails, beside: list[Beside] = beside) -> None:
                    async with one.transaction() as tx:
                        t.same(await one.record(id, consumer=consumer, tx=tx), True, given="record in a transaction")
                        t.same(await one.record(id, consumer=consumer, tx=tx), False, given="record again in that transaction")
                        await one.record_many(many, consumer=consumer, tx=tx)
                        await t.save(one, aggregate, tx)
                        beside.append(await begin(partial(other.record, id, consumer=consumer)))
                        if fails:
                            raise LookupError("raised in the block")

                async with t.beside() as begin:
                    tried = await attempt(block)
                lost = fails or isinstance(tried.error, ConflictError)
                if tried.error is not None and not lost:
                    tried.result()
                given = "record by another client of what a transaction has recorded that was " + (
                    "lost" if lost else "committed"
                )
                second = beside[0].tried
                if isinstance(second.error, ConflictError):
                    second = await attempt(partial(other.record, id, consumer=consumer))
                t.same(second.result(), lost, given=given)
                again = await one.record_many(many, consumer=consumer)
                t.same(list(again), [lost, lost], given="record_many of what that transaction had recorded")
                await t.settle()
                listed = await other.get_pending_events_for_aggregate(aggregate)
                t.same(len(listed), before + (0 if lost else 1), given="the number of events that its transaction saved")

    # parking

    @rule("OBX-42", "claim", "parking", deadline=30)
    async def test_obx_42_a_parked_event_is_put_aside(self, t: OutboxTrial) -> None:
        """A parked event, and its aggregate from there on, is given to no relay until it is unparked, when its attempts are 0.

        It is listed as parked, in every client, and any client lets it go. Who has lost a claim cannot park the event. Catches
        the aggregate that goes on without it, and the stale claimant that parks what another publishes.
        """
        one, other = await t.clients(2)
        stuck, free = t.key(), t.key()
        saved = await t.save_many(one, 3, stuck)
        await t.settle()
        (lost,) = (await t.hold(one, saved[:1])).events
        saved.append(await t.save(one))
        await t.settle()
        (plain,) = (await t.hold(one, saved[3:])).events
        await one.release(lost)
        await t.at_once()
        (head,) = (await t.hold(one, saved[:1], given="an event that was released")).events
        await t.refused(partial(one.park, lost), OutboxClaimLostError, given="park by a claim that was lost")
        await t.check_not_given(other, saved, "events after a stale park")
        others = await t.save_many(one, 2, free)
        for each in (head, plain):
            await one.park(each)
        parked = [saved[0], saved[3]]
        await t.settle()
        t.check_order(await other.list_parked(), parked, "list_parked")
        came = await t.publish_all(other)
        t.check_order(came, others, "what relays are given beside parked events")
        t.check_events(await t.pending(other, stuck), saved, "the pending events, of which two are parked")
        t.same([each.attempts for each in await other.list_parked()], [1, 0], given="their attempts")
        for event in [*await other.list_parked(), saved[1]]:
            await other.unpark(event)
        await t.at_once()
        t.check_events(await one.list_parked(), [], "list_parked after unpark")
        came = await t.publish_all(other)
        t.check_events(came, saved, "what relays are given once events were unparked")
        t.check_order([each for each in came if each.aggregate_key], saved[:3], "their aggregate")
        first = {each.event_id: each.attempts for each in came}
        t.same([first[each.event_id] for each in parked], [0, 0], given="the attempts of events that were unparked")

    # fair

    @rule("OBX-43", "claim", "fair", deadline=60)
    async def test_obx_43_a_busy_aggregate_keeps_nobody_waiting(self, t: OutboxTrial) -> None:
        """Of a relay that claims and marks in turn, each aggregate comes within as many claims as there are aggregates.

        One has hundreds of events, which are the oldest, and three have one. Catches the oldest first, whatever its aggregate,
        also by way of a claim that looks at the oldest alone.
        """
        client = await t.connect()
        busy, others = t.key(), [t.key() for _ in range(3)]
        await t.bulk(client, [busy] * CROWD)
        for each in others:
            await t.save(client, each)
        await t.settle()
        came: list[ClaimedEvent] = []
        relay = t.key("relay")
        for _ in range(1 + len(others)):
            got = await t.claim(client, limit=4, relay=relay)
            for event in got:
                await client.mark_as_processed(event)
            came += got
        seen = {each.aggregate_key for each in came}
        t.check(
            seen == {busy, *others},
            given=f"4 claims of 4 events each, with {CROWD} events of one aggregate and 1 of each of three",
            expected="something of every aggregate",
            observed=Plain(f"{len(seen)} aggregates in {len(came)} events"),
        )

    # retention

    @rule("OBX-44", "retention", deadline=30)
    async def test_obx_44_numbers_and_ids_outlive_a_purge(self, t: OutboxTrial) -> None:
        """After a purge the numbers of an aggregate go on where they were, no id comes again, and the inbox knows what it knew.

        Catches `max() + 1` over an empty table: the numbers begin anew, and a consumer that compares them drops every event.
        """
        client = await t.connect()
        aggregate, consumer, id = t.key(), t.key("c"), t.key("id")
        saved = [*await t.save_many(client, 3, aggregate), *await t.save_many(client, 2)]
        if "inbox" in t.declared:
            await client.record(id, consumer=consumer)
        for each in saved:
            await client.mark_as_processed(each)
        await t.wait(t.longest(t.ttl_unit()))
        await client.purge_processed(0.0)
        new = [await t.save(client, aggregate), await t.save(client), await t.save(client, aggregate)]
        t.check_rising([saved[2], new[0], new[2]], "the numbers of an aggregate before and after a purge of all its events")
        if "gapless_sequence" in t.declared:
            t.same([new[0].sequence_id, new[2].sequence_id], [4, 5], given="the numbers after 3 events that were purged")
        again = {each.event_id for each in saved} & {each.event_id for each in new}
        t.check(not again, given="the ids of events after a purge", expected="new ones", observed=sorted(again))
        for each in saved:
            await client.mark_as_processed(each)
        t.check_events(await t.pending(client, aggregate), new, "what is pending after purged events were marked again")
        if "inbox" in t.declared:
            t.same(await client.record(id, consumer=consumer), False, given="record of an id that was recorded before the purge")

    # limits and validation

    @rule("OBX-45", "limits")
    async def test_obx_45_an_event_at_every_limit_works(self, t: OutboxTrial) -> None:
        """The longest topic and keys, the most headers and the largest payload work together, and one more is refused.

        With `validation` a header more is `InvalidArgumentError`, and a byte more `TooLargeError`. Catches a column for all of
        them that is too narrow for the sum. Of a limit above 16 MiB only so much is tried.
        """
        client = await t.connect()
        limits = t.numbers()
        size, width, most = min(limits.value_bytes, LARGEST_TRIED), min(limits.key_bytes, 65_536), min(limits.headers, 1000)
        texts = [(t.key() + letter * width)[:width] for letter in "xyz"]
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]
        headers = {f"h{number}": "v" for number in range(most)}
        event = OutboxEvent(
            destination_topic=texts[0], payload=payload, message_key=texts[1], aggregate_key=texts[2], headers=headers
        )
        for each in (event, replace(event, aggregate_key=None)):
            saved = await client.save_event(each)
            listed = await t.pending(client, texts[2])
            found = [one for one in listed if one.event_id == saved.event_id]
            t.check_events(found, [saved], "the listing of an event at every limit")
            t.check_content(found[0], each, "an event at every limit")
        if most == limits.headers:
            more = replace(event, headers={**headers, "more": "v"})
            await t.not_taken(partial(client.save_event, more), given=f"{most + 1} headers")
        if width == limits.key_bytes:
            for name, text in zip(("destination_topic", "message_key", "aggregate_key"), texts, strict=True):
                longer: Any = {name: text + "x"}
                call = partial(client.save_event, replace(event, **longer))
                await t.not_taken(call, given=f"a {name} of {width + 1} bytes")
        if size == limits.value_bytes:
            call = partial(client.save_event, replace(event, payload=payload + b"x", aggregate_key=None))
            await t.not_taken(call, error=TooLargeError, given=f"a payload of {size + 1} bytes")
        t.same(len(await t.pending(client, texts[2])), 2, given="the number of pending events after the refusals")

    @rule("OBX-46", "validation", deadline=30)
    async def test_obx_46_bad_arguments_are_refused(self, t: OutboxTrial) -> None:
        """What is no event, no time, no number or no text raises `InvalidArgumentError`, and has no effect.

        In every field by itself, and also in a transaction, which goes on. Catches a negative lease that gives an event to
        everybody, and a payload of text that is encoded by chance.
        """
        client = await t.connect()
        aggregate = t.key()
        saved = await t.save_many(client, 2, aggregate)
        held = await t.hold(client, saved[:1]) if "claim" in t.declared else None
        for given, call in t.bad_calls(client, aggregate, held.events[0] if held else None).items():
            with t.case(given):
                await t.refused(call, InvalidArgumentError, given=given)
        if "transaction" in t.declared:
            async with client.transaction() as tx:
                bad = replace(t.event(aggregate), payload=cast(Any, "text"))
                await t.refused(
                    partial(client.save_event, bad, tx=tx), InvalidArgumentError, given="a payload of text in a transaction"
                )
                saved.append(await t.save(client, aggregate, tx))
        t.check_order(await t.pending(client, aggregate), saved, "what is pending after the refusals")
        if held is not None:
            await t.check_not_given(client, saved, "an event whose claimant was refused bad arguments")
            await client.release(held.events[0])

    # outbox_relay, broken off and held up

    @rule("OBX-47", "outbox_relay", "claim", deadline=30)
    async def test_obx_47_a_cancelled_run_loses_nothing(self, t: OutboxTrial) -> None:
        """A `run_once` that is cancelled at any of its waits loses no event, and marks none whose publishing was cancelled.

        Its events can be claimed at the latest after its lease. Catches the mark in a `finally`.
        """
        client = await t.connect()
        aggregate, lease, sink = t.key(), t.ttl_unit(), Sink()
        saved: list[StoredEvent] = []
        inside = anyio.Event()

        async def stay(event: StoredEvent) -> None:
            inside.set()
            await anyio.sleep_forever()

        saved += [await t.save(client, aggregate), await t.save(client, aggregate)]
        relay = client.relay(stay, relay_id=t.key("relay"), lease=lease)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(attempt, relay.run_once))
            await inside.wait()
            tasks.cancel_scope.cancel()
        await t.settle()
        t.check_events(await t.pending(client, aggregate), saved, "what is pending after its publishing was cancelled")
        saved += [*await t.save_many(client, 8), *await t.save_many(client, 8, aggregate)]
        relay = client.relay(sink.by(0), relay_id=t.key("relay"), batch=3, lease=lease)
        await t.until(t.now() + t.longest(lease))
        async for _ in sweep(lambda: relay.run_once, within=t.cancel_seconds):
            pass
        await t.until(t.now() + t.longest(lease))
        left = await t.publish_all(client)
        missing = {each.event_id for each in saved} - {each.event_id for each in [*sink.published, *left]}
        t.check(not missing, given="cancelled runs of a relay", expected="no event is lost", observed=sorted(missing))
        firsts = list({each.event_id: each for each in [*sink.published, *left] if each.aggregate_key}.values())
        t.check_order(firsts, [each for each in saved if each.aggregate_key], "the aggregate, as it was published first")

    @rule("OBX-48", "outbox_relay", deadline=30)
    async def test_obx_48_a_failure_holds_back_its_aggregate_alone(self, t: OutboxTrial) -> None:
        """While an event cannot be published, everything but its aggregate is, and its aggregate comes in order once it can.

        More events than a relay claims at once. Catches the relay whose every claim is full of what has to wait, and one that
        ends its run with the first failure.
        """
        client = await t.connect()
        stuck, free = t.key(), t.key()
        events = await t.save_many(client, 6, stuck)
        poison = await t.save(client)
        others = [*await t.save_many(client, 6, free), *await t.save_many(client, 6)]
        await t.settle()
        sink = Sink(lambda event: event.event_id in (events[0].event_id, poison.event_id))
        relay = client.relay(sink.by(0), relay_id=t.key("relay"), batch=4)
        said = await t.run([relay], lambda: 12 - len(sink.published), "two events that fail, and 12 of which none is behind them")
        t.same(said, 12, given="the sum of what run_once returned, for 12 events that were published")
        t.check_events(sink.published, others, "what was published while two events fail")
        sink.fails = lambda event: False
        await t.run([relay], lambda: 19 - len(sink.published), "all events, once none fails")
        t.check_order([each for each in sink.published if each.aggregate_key == stuck], events, "the aggregate that had to wait")
        t.check_order([each for each in sink.published if each.aggregate_key == free], others[:6], "the other aggregate")

    # lease_renewal, beside what stands above

    @rule("OBX-49", "claim", "lease_renewal", deadline=30)
    async def test_obx_49_a_renewal_sets_the_end(self, t: OutboxTrial) -> None:
        """`renew` sets the end of every claim that it is given, earlier or later, and none of one that was released.

        Of more events than a request takes. Catches a renewal of the first chunk, and of what somebody else could have by now.
        """
        one, other = await t.clients(2)
        size = min(within_reach(t.numbers().batch_size), 50)
        saved = await t.save_many(one, 2 * size + 1)
        await t.settle()
        lease = 2 * t.ttl_unit()
        held = await t.hold(one, saved)
        t.same(await one.renew(held.events, lease), True, given=f"renew of {len(saved)} claims, with a shorter lease")
        over = t.now() + t.longest(lease)
        await t.until(over)
        held = await t.hold(other, saved, lease, given="events whose renewed lease has ended")
        renewed = await other.renew(held.events, t.long_lease())
        if t.now() < held.until:
            t.same(renewed, True, given=f"renew of {len(saved)} claims, with a longer lease")
        await t.until(held.over)
        if renewed is True:
            await t.check_not_given(one, saved, "renewed events, once their first lease is over")
            await other.release(held.events[0])
            t.same(await other.renew(held.events, lease), False, given="renew of claims of which one was released")
            await t.at_once()
            await t.hold(one, saved[:1], given="an event that was released")
            await t.until(t.now() + t.longest(lease))
            await t.check_not_given(one, saved[1:], "the others, whose renewal was refused")

    # Everything at once

    @rule("OBX-50", deadline=60)
    async def test_obx_50_a_random_walk_agrees_with_the_reference(self, t: OutboxTrial) -> None:
        """Any sequence of declared operations gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference, as a tenant beside another where there are tenants; a divergence
        is shortened and shown as Python. Finds what no single rule foresaw: the interplay of operations. Ids are the provider's.
        """
        tenants = any("tenant_id" in each.definition.config for each in t.plan.policies)
        client = await t.connect(tenant_id=f"{t.namespace}a" if tenants else None)
        neighbour = await t.connect(tenant_id=f"{t.namespace}b") if tenants else None
        names: list[str] = []

        def fresh() -> list[str]:
            names[:] = [t.key("w") for _ in range(WALK_NAMES)]
            return list(names)

        def provider() -> Walked:
            return Walked(client, t.key(), names, t.at_once, neighbour, t.declared)

        def model() -> Walked:
            return Walked(_model(t.declared), t.key(), names, _no_time, None, t.declared)

        prompt = t.virtual_time or t.longest(t.shortest()) < LONGEST_PAUSE
        steps = _random_steps(random.Random(t.seed), t.declared | ({"prompt"} if prompt else set()))
        divergence = await walk(provider, model, steps, names=fresh, subject="outbox")
        if divergence is not None:
            t.fail_rule(
                given=f"a random walk, OMNITCK_SEED={t.seed}; shortened to\n{divergence.reproduction}",
                expected=divergence.expected,
                observed=divergence.observed,
            )
        if neighbour is not None:
            left = [len(await neighbour.get_pending_events_for_aggregate(each)) for each in names]
            t.same(left, [1] * WALK_NAMES, given="the events of another tenant with the same aggregates, one of each")

    @rule("OBX-51", "claim", deadline=60)
    async def test_obx_51_leases_never_overlap(self, t: OutboxTrial) -> None:
        """However relays claim, renew, release and mark, and let leases end, no event is held by two of them at once.

        The history of 4 relays on two clients is judged by the times between which each surely had an event. Catches what only a
        certain order of calls brings about.
        """
        clients = await t.clients(2)
        await t.save_many(clients[0], 4)
        await t.save_many(clients[0], 4, t.key())
        await t.settle()
        grants: list[Grant] = []
        began = t.now()
        await gather(partial(t.claim_by_chance, clients[number % 2], number, grants) for number in range(4))
        found = judge_leases([each for each in grants if each.returned is not None])
        t.check(
            found is None,
            given=f"{len(grants)} claims by 4 relays, OMNITCK_SEED={t.seed}, with times from {began:g} s",
            expected="no two hold one event at once",
            observed=Plain(found or ""),
        )

    @rule("OBX-52", "transaction", "availability", deadline=30)
    async def test_obx_52_an_outage_in_a_transaction_leaves_nothing_of_it(self, t: OutboxTrial) -> None:
        """A transaction whose backend is lost before its commit raises `UnavailableError`, and leaves neither row nor event.

        The client works again once the backend does. Catches events that are stored one by one, and a client that goes on with
        the transaction of a connection that is gone.
        """
        async with t.faulty() as (client, cut, heal):
            for given in ("before another save", "before the commit"):
                with t.case(given):
                    aggregate, key = t.key(), t.key("row")

                    async def block(given: str = given, aggregate: str = aggregate, key: str = key) -> None:
                        async with client.transaction() as tx:
                            if t.has("business_write"):
                                await t.ask("business_write", tx, key, "written")
                            await t.save(client, None, tx)
                            await t.save(client, aggregate, tx)
                            await cut()
                            if given == "before another save":
                                await t.save(client, aggregate, tx)

                    await t.expect_unavailable({f"a transaction whose backend is lost {given}": block}, "")
                    await heal()
                    found = await t.eventually(partial(t.pending, client, aggregate))
                    t.same(found, [], given="what is pending of it once the backend is back")
                    if t.has("business_write"):
                        t.same(await t.ask("business_read", key), None, given="the application's row")
                    saved = await t.in_block(client, t.event(aggregate), t.event(aggregate))
                    t.check_order(await t.pending(client, aggregate), saved, "what is pending of the next transaction")

    @rule("OBX-53", "claim", "parking", deadline=30)
    async def test_obx_53_what_is_not_parked_is_left_as_it_is(self, t: OutboxTrial) -> None:
        """`unpark` changes nothing of an event that is claimed, waits for its retry, or was processed; a mark ends a parked one.

        Catches an `unpark` that sets the status to pending, whatever it was, and an event that is parked for ever although it was
        published by hand.
        """
        one, other = await t.clients(2)
        stuck = t.key()
        marked, waiting, busy, head = [*await t.save_many(one, 3), await t.save(one, stuck)]
        await t.settle()
        held = {each.event_id: each for each in (await t.hold(one, [marked, waiting, busy, head])).events}
        successor = await t.save(one, stuck)
        await one.mark_as_processed(held[marked.event_id])
        wait = t.ttl_unit() + 3 * t.longest(t.shortest())
        released = t.now()
        await one.release(held[waiting.event_id], retry_in=wait)
        over = t.now() + t.longest(wait)
        await one.park(held[head.event_id])
        for each in (marked, waiting, busy):
            await other.unpark(each)
        due = released + wait - wait / 100
        await t.check_not_given(other, [marked, waiting, busy, head, successor], "events that were not parked", until=due)
        await one.mark_as_processed(head)
        await t.settle()
        t.check_events(await other.list_parked(), [], "list_parked, once the parked event was marked")
        await other.unpark(head)
        await t.at_once()
        t.check_events(await t.pending(other, stuck), [waiting, busy, successor], "what is pending")
        await t.until(over)
        came = await t.publish_all(other)
        t.check_events(came, [waiting, successor], "what can be claimed, once the retry is due")
        attempts = {each.event_id: each.attempts for each in came}
        t.same(attempts[waiting.event_id], 1, given="the attempts of an event that was released, and not parked")

    @rule("OBX-54", "claim", "outbox_relay", deadline=30)
    async def test_obx_54_a_relay_keeps_to_its_batch(self, t: OutboxTrial) -> None:
        """A relay has claimed *batch* events at most at a time: while it is stuck in one, others are given the rest.

        For how long a relay that lives keeps what it has is its own business: it may renew its lease. Catches a relay that claims
        everything there is, and so does the work of all, one after another.
        """
        one, other = await t.clients(2)
        saved = await t.save_many(one, 7)
        await t.settle()
        inside = anyio.Event()

        async def stay(event: StoredEvent) -> None:
            inside.set()
            await anyio.sleep_forever()

        relay = one.relay(stay, relay_id=t.key("relay"), batch=2, lease=t.long_lease())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(attempt, relay.run_once))
            await inside.wait()
            came = await t.publish_all(other)
            tasks.cancel_scope.cancel()
        t.check(
            len(came) in (5, 6),
            given=f"{len(saved)} events, and a relay with batch=2 that is stuck",
            expected="another is given 5 or 6 of them",
            observed=Plain(str(len(came))),
        )

    @rule("OBX-55", "outbox_relay", "lifecycle", "shared", deadline=30)
    async def test_obx_55_a_closed_clients_relays_have_ended(self, t: OutboxTrial) -> None:
        """After `close` has returned no relay of the client publishes anything.

        A later event is published by another's relay, which shows that there was something to publish. Catches a task that nobody
        ends, and one that connects again.
        """
        one, other = await t.clients(2)
        first, second = Sink(), Sink()
        await one.relay(first.by(0), relay_id=t.key("relay")).start()
        await t.save(other)
        t.check(
            await t.comes(partial(first.has, 1), t.numbers().deliver + t.numbers().staleness),
            given="an event and a relay that runs",
            expected="it is published",
            observed=Plain("it is not"),
        )
        await one.close()
        before = len(first.published)
        saved = await t.save_many(other, 3)
        relay = other.relay(second.by(1), relay_id=t.key("relay"))
        ids = {each.event_id for each in saved}

        def left() -> int:
            return len(ids - {each.event_id for each in [*second.published, *first.published]})

        await t.run([relay], left, "3 events and another relay")
        t.check_events(first.published[before:], [], "what a relay published after its client was closed")

    @rule("OBX-56", "transaction", deadline=60)
    async def test_obx_56_transactions_that_cross_come_to_an_end(self, t: OutboxTrial) -> None:
        """Transactions that save to the same aggregates in opposite order all end: they commit, or raise `ConflictError`.

        Each is tried again after a conflict, and then commits: everything is there once. Catches two that wait for each other for
        ever, and the driver's error for that, which tells nobody to try again.
        """
        clients = await t.clients(2)
        a, b = t.key(), t.key()
        saved: list[list[StoredEvent]] = []
        for _ in range(5):
            saved += await gather(
                partial(t.retry, partial(t.in_block, client, *map(t.event, pair)))
                for client, pair in zip(clients, ((a, b), (b, a)), strict=True)
            )
        await t.settle()
        for aggregate in (a, b):
            expected = [each for several in saved for each in several if each.aggregate_key == aggregate]
            listed = await clients[0].get_pending_events_for_aggregate(aggregate)
            t.check_events(listed, expected, "10 transactions that save to two aggregates, in either order")
            t.check_rising(listed, "the numbers of one of them")

    @rule("OBX-57", "transaction", "shared", hook="crash", deadline=30)
    async def test_obx_57_a_vanished_clients_transaction_is_rolled_back(self, t: OutboxTrial) -> None:
        """A transaction whose client vanishes leaves nothing, and nobody has to wait for it.

        Catches a lock that outlives whoever had it: an aggregate in which nobody can save any more.
        """
        one, other = await t.connect(), await t.connect()
        aggregate = t.key()
        inside = anyio.Event()

        async def block() -> None:
            async with one.transaction() as tx:
                await t.save(one, None, tx)
                await t.save(one, aggregate, tx)
                inside.set()
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(attempt, block))
            await inside.wait()
            await t.crash(one)
            with t.waiting(t.told_seconds) as scope:
                saved = [await t.save(other, aggregate), await t.save(other)]
            tasks.cancel_scope.cancel()
        t.check(
            not scope.cancelled_caught,
            given="a save to an aggregate of which a vanished client had an open transaction",
            expected=f"it ends within {t.told_seconds:g} s",
            observed=Plain("it has not ended"),
        )
        await t.settle()
        t.check_events(await t.pending(other, aggregate), saved, "what is pending after a client vanished in its transaction")

    @rule("OBX-58", "claim", deadline=30)
    async def test_obx_58_leases_and_retries_last_to_their_end(self, t: OutboxTrial) -> None:
        """A lease and a `retry_in` last for as long as they were asked for, and end no later than declared, short or long.

        Looked at shortly before the end, of a time that is no multiple of a unit, and of more than a day where the suite moves
        the clock. Catches whole seconds, and a lease that is cut to what somebody thought to be enough.
        """
        one, other = await t.clients(2)
        for seconds in (1.5 * t.ttl_unit(), *([100_000.5] if t.virtual_time else [])):
            with t.case(f"{seconds:g} s"):
                saved = [await t.save(one), await t.save(one, t.key())]
                await t.settle()
                held = await t.hold(one, saved, seconds)
                await t.until(held.until - seconds / 50)
                await t.check_not_given(other, saved, f"shortly before a lease of {seconds:g} s ends", until=held.until)
                await t.until(held.over)
                held = await t.hold(other, saved, given=f"events whose lease of {seconds:g} s has ended")
                released = t.now()
                for each in held.events:
                    await other.release(each, retry_in=seconds)
                over = t.now() + t.longest(seconds)
                kept = max(seconds, t.numbers().min_ttl)
                await t.until(released + kept - kept / 50)
                due = released + kept - kept / 100
                await t.check_not_given(one, saved, f"shortly before a retry in {seconds:g} s is due", until=due)
                await t.until(over)
                held = await t.hold(one, saved, given=f"events whose retry in {seconds:g} s is due")
                for each in held.events:
                    await one.mark_as_processed(each)

    @rule("OBX-59", "outbox_relay", "availability", deadline=30)
    async def test_obx_59_a_relay_outlives_an_outage(self, t: OutboxTrial) -> None:
        """A relay that runs publishes again by itself once its backend is back, what was pending and what comes then, in order.

        Catches a task that ends with the first `UnavailableError`, and nobody notices until the queue is long.
        """
        async with t.faulty() as (client, cut, heal):
            aggregate, sink = t.key(), Sink()
            saved = [await t.save(client, aggregate)]
            relay = client.relay(sink.by(0), relay_id=t.key("relay"), lease=t.ttl_unit())
            await relay.start()
            within = t.numbers().deliver + t.numbers().staleness
            later = within + t.told_seconds + t.longest(t.ttl_unit())
            came = await t.comes(partial(sink.has, 1), within)
            t.check(came, given="an event and a relay that runs", expected="it is published", observed=Plain("it is not"))
            for _ in range(2):
                await cut()
                await t.wait(t.shortest())
                await anyio.sleep(0.02)
                await heal()
                await t.eventually(partial(t.pending, client, aggregate))
                saved.append(await t.save(client, aggregate))
                t.check(
                    await t.comes(partial(sink.had, saved), later),
                    given="an event that was saved after an outage",
                    expected="it is published by the relay that ran before",
                    observed=Plain("it is not"),
                )
            await relay.stop()
            firsts = list({each.event_id: each for each in sink.published}.values())
            t.check_order(firsts, saved, "what was published, the first time that it was")

    @rule("OBX-60", "transaction", deadline=30)
    async def test_obx_60_who_gives_up_waiting_leaves_nothing(self, t: OutboxTrial) -> None:
        """A save that is cancelled while it waits for a transaction leaves no lock: the aggregate can be saved to as before.

        Several wait, some of them are cancelled, and the others go on. Catches a lock that is given to somebody who has gone.
        """
        one, other = await t.clients(2)
        aggregate = t.key()
        staying: list[Beside] = []

        async def block() -> StoredEvent:
            async with one.transaction() as tx:
                first = await t.save(one, aggregate, tx)
                async with anyio.create_task_group() as tasks:
                    for client in (other, one, other):
                        tasks.start_soon(partial(attempt, partial(t.in_block, client, t.event(aggregate))))
                    await anyio.sleep(0.02)
                    tasks.cancel_scope.cancel()
                for _ in range(2):
                    staying.append(await begin(partial(t.save, other, aggregate)))
            return first

        saved: list[StoredEvent] = []
        with t.waiting(t.told_seconds) as waiting:
            async with t.beside() as begin:
                tried = await attempt(block)
            saved += [] if isinstance(tried.error, ConflictError) else [tried.result()]
            saved.append(await t.save(one, aggregate))
        t.check(
            not waiting.cancelled_caught,
            given="saves to an aggregate for which others had waited, and were cancelled",
            expected=f"it ends within {t.told_seconds:g} s",
            observed=Plain("it has not ended"),
        )
        saved += [each.tried.result() for each in staying if not isinstance(each.tried.error, ConflictError)]
        await t.settle()
        listed = await other.get_pending_events_for_aggregate(aggregate)
        missing = {each.event_id for each in saved} - {each.event_id for each in listed}
        t.check(not missing, given="what was saved and not cancelled", expected="it is pending", observed=sorted(missing))
        t.check_rising(listed, "the numbers of the aggregate")

    @rule("OBX-61", "claim", "outbox_relay", deadline=30)
    async def test_obx_61_stopping_at_any_moment_leaves_nothing_claimed(self, t: OutboxTrial) -> None:
        """Whenever a relay is stopped, whatever it does just then, each event is published by then or can be claimed at once.

        Right after its start, and some turns later. Catches the claim that comes back to a relay which has ended.
        """
        client = await t.connect()
        for turns in range(8):
            with t.case(f"after {turns} turns"):
                saved = await t.bulk(client, [None, None, t.key(), None])
                await t.settle()
                sink = Sink()
                relay = client.relay(sink.by(0), relay_id=t.key("relay"), batch=3, lease=t.long_lease())
                await relay.start()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                if not t.virtual_time:
                    await anyio.sleep(0.001 * turns)
                await relay.stop()
                before = list(sink.published)
                await t.at_once()
                left = await t.publish_all(client)
                missing = {each.event_id for each in saved} - {each.event_id for each in [*before, *left]}
                t.check(
                    not missing,
                    given=f"a relay that was stopped {turns} turns after its start",
                    expected="every event is published, or can be claimed",
                    observed=Plain(f"{len(missing)} of {len(saved)} are neither"),
                )
                t.check_events(sink.published[len(before) :], [], "what was published after the relay was stopped")

    @rule("OBX-62", "outbox_relay", deadline=60)
    async def test_obx_62_relays_of_every_batch_publish_everything(self, t: OutboxTrial) -> None:
        """A relay with any *batch* publishes everything, each event once and each aggregate in order, and says how many.

        Batches of 1, of a request, and of more than two, under a lease that does not end. Catches the chunk that is claimed and
        not published: it would come after the lease.
        """
        client = await t.connect()
        request = within_reach(t.numbers().batch_size)
        size = request if request <= 50 else 20
        for batch in sorted({1, size, 2 * size + 1}):
            with t.case(f"batch={batch}"):
                aggregate, sink = t.key(), Sink()
                saved = await t.bulk(client, [None] * size + [aggregate] * (size + 1))
                await t.settle()
                relay = client.relay(sink.by(0), relay_id=t.key("relay"), batch=batch, lease=t.long_lease())
                given = f"{len(saved)} events, and a relay with batch={batch}"
                left = partial(lambda total, sink: total - len(sink.published), len(saved), sink)
                said = await t.run([relay], left, given)
                t.check_events(sink.published, saved, f"what was published of {given}")
                t.check_order([each for each in sink.published if each.aggregate_key], saved[size:], "the aggregate")
                t.same(said, len(saved), given="the sum of what run_once returned")

    @rule("OBX-63", "retention", deadline=60)
    async def test_obx_63_a_purge_goes_beyond_a_request(self, t: OutboxTrial) -> None:
        """`purge_processed` removes everything that is old enough in one call, however much it is, and says how much.

        More than two requests, and more than two pages; and nothing of another namespace. Catches a purge that ends with its
        first chunk: the table grows for ever.
        """
        client, neighbour = await t.connect(), await t.connect(namespace=f"{t.namespace}b")
        numbers = t.numbers()
        size = max(each if each <= 100 else 20 for each in (numbers.batch_size, numbers.page_size))
        await client.purge_processed(0.0)
        saved = await t.bulk(client, [None, t.key()] * (size + 1))
        left = await t.bulk(client, [None, None])
        await t.many(partial(client.mark_as_processed, each) for each in saved)
        await neighbour.mark_as_processed(await t.save(neighbour, t.key()))
        await t.wait(t.longest(t.ttl_unit()))
        t.same(await client.purge_processed(0.0), len(saved), given=f"purge_processed of {len(saved)} events")
        t.same(await client.purge_processed(0.0), 0, given="purge_processed again")
        t.check_events(await t.unordered(client), left, "what is pending after the purge")
        t.same(await neighbour.purge_processed(0.0), 1, given="purge_processed in another namespace, which has one event")

    # A claim that was lost, a relay that is stuck, a namespace, a crowd

    @rule("OBX-64", "claim", deadline=30)
    async def test_obx_64_a_lost_claim_is_lost_for_its_own_relay(self, t: OutboxTrial) -> None:
        """By a claim whose lease has ended no event is released, renewed or parked that the same relay has claimed again.

        Catches an update by the id of the relay: of two tasks, or of a process before and after its restart, one then ends the
        claim of the other.
        """
        client = await t.connect()
        saved, relay = [await t.save(client), await t.save(client, t.key())], t.key("relay")
        await t.settle()
        held = await t.hold(client, saved, t.ttl_unit(), relay=relay)
        await t.until(held.over)
        new = await t.hold(client, saved, relay=relay, given="events whose lease has ended")
        given = "by a claim that was lost, of an event that the same relay has claimed again"
        for each in held.events:
            await t.refused(partial(client.release, each), OutboxClaimLostError, given=f"release {given}")
            if "parking" in t.declared:
                await t.refused(partial(client.park, each), OutboxClaimLostError, given=f"park {given}")
            if "lease_renewal" in t.declared:
                t.same(await client.renew([each], t.shortest()), False, given=f"renew {given}")
        await t.at_once()
        await t.check_not_given(client, saved, f"events after what was done {given}")
        for each in new.events:
            await client.release(each)
        await t.at_once()
        again = await t.hold(client, saved, given="events that were released")
        t.same([each.attempts for each in again.events], [1, 1], given="their attempts, after one release each")

    @rule("OBX-65", "outbox_relay", deadline=30)
    async def test_obx_65_what_was_published_is_marked_while_the_relay_goes_on(self, t: OutboxTrial) -> None:
        """A relay that is stuck in one publication has marked what it had published before.

        Within the time for an answer, whoever of its tasks does that. Catches the marks that are written together at the end of a
        run: after a crash a whole batch is published again.
        """
        client = await t.connect()
        aggregate = t.key()
        saved = [*await t.save_many(client, 3, aggregate), *await t.save_many(client, 3)]
        await t.settle()
        inside, done = anyio.Event(), set[str]()

        async def publish(event: StoredEvent) -> None:
            if event.event_id == saved[2].event_id:
                inside.set()
                await anyio.sleep_forever()
            done.add(event.event_id)

        async def work() -> None:
            for _ in range(MOST_ROUNDS):
                await attempt(relay.run_once)
            inside.set()

        relay = client.relay(publish, relay_id=t.key("relay"), lease=t.long_lease())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await inside.wait()
            before = set(done)
            left = before
            with t.waiting(t.told_seconds):
                while left := before & {each.event_id for each in await t.pending(client, aggregate)}:
                    await anyio.sleep(0.002)
            tasks.cancel_scope.cancel()
        published = Plain(f"{len(before)} are")
        given = "a relay that is stuck in the third event of an aggregate"
        t.check({each.event_id for each in saved[:2]} <= before, given=given, expected="two were published", observed=published)
        t.check(not left, given=given, expected="what it has published is not pending", observed=Plain(f"{len(left)} are"))

    @rule("OBX-66", "claim", deadline=30)
    async def test_obx_66_a_namespace_is_an_outbox_of_its_own(self, t: OutboxTrial) -> None:
        """In one namespace nothing of another is listed, claimed, published or recorded, with a tenant or without.

        Its aggregates have the same names. Catches a statement over everything that asks for the tenant alone.
        """
        one, other = await t.connect(), await t.connect(namespace=f"{t.namespace}b")
        aggregate, alone = t.key(), t.key()
        mine = [await t.save(one), *await t.save_many(one, 2, aggregate)]
        theirs = [await t.save(other), await t.save(other, alone), *await t.save_many(other, 2, aggregate)]
        await t.settle()
        t.check_events(await t.pending(one, aggregate, alone), mine, "what is pending, beside another namespace")
        t.check_listing(await one.get_pending_aggregate_keys(), [aggregate], "the pending aggregates, beside another namespace")
        held = await t.hold(one, mine[:2])
        await t.check_not_given(one, theirs, "events of another namespace")
        await t.hold(other, theirs[:3], t.ttl_unit(), given="events of one namespace, while another's are claimed")
        over = t.now() + t.longest(t.ttl_unit())
        if "parking" in t.declared:
            await one.park(held.events[0])
            t.check_events(await other.list_parked(), [], "list_parked, beside a parked event of another namespace")
        if "inbox" in t.declared:
            for client in (one, other):
                t.same(await client.record("id", consumer=alone), True, given="record of one id in two namespaces, each first")
        for each in mine:
            await one.mark_as_processed(each)
        await t.until(over)
        if "outbox_relay" in t.declared:
            sink = Sink()
            await one.relay(sink.by(0), relay_id=t.key("relay")).run_once()
            t.check_events(sink.published, [], "what a relay publishes of another namespace")
        t.check_events(await t.publish_all(one), [], "what can be claimed, beside another namespace")
        t.check_events(await t.publish_all(other), theirs, "what can be claimed in the other namespace")

    @rule("OBX-67", "claim", deadline=60)
    async def test_obx_67_a_crowd_hides_nobody(self, t: OutboxTrial) -> None:
        """An event that can be claimed is given to who asks, however many that cannot be claimed were saved before it.

        Hundreds of one aggregate, of which the first is held, parked, or waits for its retry. Catches a claim that takes the
        oldest rows, and of these what can be claimed: behind a busy aggregate everything stands still.
        """
        one, other = await t.clients(2)
        busy, free = t.key(), t.key()
        crowd = await t.bulk(one, [busy] * CROWD)
        await t.settle()
        (head,) = (await t.hold(one, crowd[:1])).events
        for state in ("is held", "is parked", "waits for its retry"):
            if state == "is parked":
                if "parking" not in t.declared:
                    continue
                await one.park(head)
            elif state == "waits for its retry":
                if "parking" in t.declared:
                    await one.unpark(head)
                    await t.at_once()
                    (head,) = (await t.hold(one, crowd[:1])).events
                await one.release(head, retry_in=t.long_lease())
            behind = [await t.save(one, free), await t.save(one)]
            await t.settle()
            keys = [each for each in await other.get_pending_aggregate_keys() if each in (busy, free)]
            t.check_listing(keys, [busy, free], f"the pending aggregates, one of which has {CROWD} events")
            given = f"two events behind {CROWD} of one aggregate, whose first {state}"
            for each in (await t.hold(other, behind, given=given)).events:
                await other.mark_as_processed(each)


LONGEST_PAUSE = 0.05
"""Seconds that a walk may wait for each event that is given back."""

CONTENTS: Mapping[str, Mapping[str, Any]] = {
    "every byte": {"payload": bytes(range(256)) * 3, "message_key": "k"},
    "no bytes": {"payload": b"", "message_key": None},
    "text that is no UTF-8": {"payload": b"\xff\xfe\x00\x80", "headers": {"h": "v"}},
    "JSON": {"payload": b'{"a": [1, null, "\\u0000"]}', "headers": {"content-type": "application/json", "Content-Type": "x"}},
    "headers of any text": {
        "payload": b"x",
        "message_key": "\u00e4 \U0001f511 %2F",
        "headers": {"empty": "", "\u00e4": "\U0001f511", "a b": " leading", "quote": "'\"\\", "lines": "a\r\nb", "number": "007"},
    },
}
"""What events have beside their topic and their aggregate."""


class Walked:
    """An outbox as a walk goes over it: what good providers may do differently does not show."""

    def __init__(
        self,
        client: Any,
        place: str,
        names: Sequence[str],
        at_once: Callable[[], Awaitable[None]],
        neighbour: Any,
        declared: frozenset[str],
    ) -> None:
        self._client = client
        self._place = f"{place}-topic"
        self._names = tuple(names)
        self._at_once = at_once
        self._neighbour = neighbour
        self._declared = declared

    def _event(self, name: str | None, payload: str) -> OutboxEvent:
        return OutboxEvent(
            destination_topic=self._place, payload=payload.encode(), aggregate_key=name, headers={"h": payload}, message_key="k"
        )

    async def _prepare(self) -> None:
        """Let the other tenant have events of the same aggregates, put aside where that can be, and records of the same ids."""
        neighbour, self._neighbour = self._neighbour, None
        if neighbour is None:
            return
        for each in self._names:
            await neighbour.save_event(self._event(each, "another tenant's"))
            if "inbox" in self._declared:
                await neighbour.record(each, consumer="one")
            if each == self._names[0] and {"claim", "parking"} <= self._declared:
                for event in await neighbour.claim(f"{self._place}-relay", limit=1, lease=LONG_LEASE):
                    await neighbour.park(event)

    async def save(self, payload: str, name: str) -> None:
        await self._prepare()
        await self._client.save_event(self._event(name, payload))

    async def save_unordered(self, payload: str, name: str) -> None:
        await self._client.save_event(self._event(None, payload))

    async def commit(self, payload: str, another: str, name: str) -> None:
        await self._prepare()
        async with self._client.transaction() as tx:
            for each in (name, None, another):
                await self._client.save_event(self._event(each, payload), tx=tx)

    async def roll_back(self, payload: str, another: str, name: str) -> None:
        try:
            async with self._client.transaction() as tx:
                for each in (name, None, another):
                    await self._client.save_event(self._event(each, payload), tx=tx)
                raise LookupError
        except LookupError:
            pass

    async def pending(self, name: str) -> object:
        listed = await self._client.get_pending_events_for_aggregate(name)
        return tuple(
            (each.payload, dict(each.headers)["h"], each.sequence_id if "gapless_sequence" in self._declared else "")
            for each in listed
        )

    async def unordered(self, name: str) -> object:
        return tuple(each.payload for each in await self._plain())

    async def _plain(self) -> list[Any]:
        listed = await self._client.get_pending_unordered_events(MOST_LISTED)
        return [each for each in listed if each.destination_topic == self._place]

    async def keys(self, name: str) -> object:
        return [each for each in await self._client.get_pending_aggregate_keys() if each in self._names]

    async def mark(self, number: int, name: str) -> None:
        pending = await self._client.get_pending_events_for_aggregate(name)
        if pending:
            await self._client.mark_as_processed(pending[number % len(pending)])

    async def mark_unordered(self, number: int, name: str) -> None:
        pending = await self._plain()
        if pending:
            await self._client.mark_as_processed(pending[number % len(pending)])

    async def publish(self, limit: int, name: str) -> object:
        """Claim and mark everything; what came, of each aggregate in its order."""
        return await self._publish(limit, None)

    async def publish_but(self, limit: int, name: str) -> object:
        """Claim and mark everything but *name*, whose events are released."""
        return await self._publish(limit, name)

    async def _publish(self, limit: int, but: str | None) -> object:
        came: dict[str, list[bytes]] = {}
        held = await self._claimed(limit, but, lambda name, payload: came.setdefault(name, []).append(payload))
        for each in reversed(held):
            await self._client.release(each)
        if held:
            await self._at_once()
        plain = sorted(came.pop("", []))
        return {"": tuple(plain), **{name: tuple(payloads) for name, payloads in came.items()}}

    async def _claimed(self, limit: int, but: str | None, note: Callable[[str, bytes], object]) -> list[Any]:
        """Claim everything, and mark it but the events of *but*, which are returned."""
        held: dict[str, Any] = {}
        for _ in range(MOST_CLAIMS):
            got = await self._client.claim(f"{self._place}-relay", limit=limit, lease=LONG_LEASE)
            if all(each.event_id in held for each in got):
                break
            for each in got:
                if but is not None and each.aggregate_key == but:
                    held[each.event_id] = each
                    continue
                await self._client.mark_as_processed(each)
                if each.destination_topic == self._place:
                    note(each.aggregate_key or "", each.payload)
        return list(held.values())

    async def park(self, name: str) -> object:
        """Put the first event of *name* aside, once everything else was published; whether there is one that can be claimed."""
        held = await self._claimed(100, name, lambda name, payload: None)
        if held:
            await self._client.park(held[0])
        for each in reversed(held[1:]):
            await self._client.release(each)
        if held:
            await self._at_once()
        return bool(held)

    async def parked(self, name: str) -> object:
        return tuple(each.payload for each in await self._client.list_parked() if each.destination_topic == self._place)

    async def unpark(self, name: str) -> None:
        for each in await self._client.list_parked():
            await self._client.unpark(each)
        await self._at_once()

    async def record(self, consumer: str, name: str) -> object:
        return await self._client.record(name, consumer=consumer)

    async def record_many(self, consumer: str, another: str, name: str) -> object:
        return tuple(await self._client.record_many([name, another, name], consumer=consumer))

    async def record_and_roll_back(self, consumer: str, name: str) -> object:
        try:
            async with self._client.transaction() as tx:
                seen = await self._client.record(name, consumer=consumer, tx=tx)
                raise LookupError
        except LookupError:
            return seen


async def _no_time() -> None:
    """Nothing has to pass."""


def _model(declared: frozenset[str]) -> object:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.transactional_outbox import MemoryOutbox, MemoryOutboxStorage

    return MemoryOutboxStorage(MemoryOutbox(), capabilities=declared - {"prompt"})


def _random_steps(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over the declared operations."""

    def payload() -> str:
        return chance.choice(("one", "two", "three", ""))

    def limit() -> int:
        return chance.choice((1, 2, 3, 7, 100))

    actions: list[Move] = [
        *[("", lambda key: Step("save", (payload(), key)))] * 3,
        ("", lambda key: Step("save_unordered", (payload(), key))),
        ("", lambda key: Step("mark", (chance.randrange(5), key))),
        ("", lambda key: Step("mark_unordered", (chance.randrange(5), key))),
        ("transaction", lambda key: Step("commit", (payload(), other(key), key))),
        ("transaction", lambda key: Step("roll_back", (payload(), other(key), key))),
        ("claim", lambda key: Step("publish", (limit(), key))),
    ]
    if "claim" in declared:
        actions.append(("prompt", lambda key: Step("publish_but", (limit(), key))))
    if {"claim", "parking"} <= declared:
        actions += [("prompt", lambda key: Step("park", (key,))), ("prompt", lambda key: Step("unpark", (key,)))]
    consumers = ("one", "other")
    actions += [
        ("inbox", lambda key: Step("record", (chance.choice(consumers), key))),
        ("inbox", lambda key: Step("record_many", (chance.choice(consumers), other(key), key))),
    ]
    if {"inbox", "transaction"} <= declared:
        actions.append(("inbox", lambda key: Step("record_and_roll_back", (chance.choice(consumers), key))))
    looks: list[Move] = [
        *[("", lambda key: Step("pending", (key,)))] * 2,
        ("", lambda key: Step("unordered", (key,))),
        ("", lambda key: Step("keys", (key,))),
        ("parking", lambda key: Step("parked", (key,))),
    ]
    return random_steps(chance, declared, 80, actions, looks)
