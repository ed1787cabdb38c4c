"""What the adapters of outboxes share: which arguments are refused, how a transaction begins and ends, and the relay.

An adapter stores and finds events, and opens transactions. When an event is published, given back or put aside is decided here,
once for all databases.
"""

import asyncio
import contextlib
import json
import logging
import signal
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from examples.common import arguments
from examples.common.client import TIDYING, Client
from examples.common.messages import check_headers
from omnitck.shared.exceptions import ClosedError, InvalidArgumentError, OutboxClaimLostError, TCKError, UnavailableError
from omnitck.shared.models import ClaimedEvent, OutboxEvent, OutboxLimits, StoredEvent

__all__ = [
    "COLUMNS",
    "EVENT_ID",
    "LOCK_WAIT",
    "Outbox",
    "Publish",
    "Relay",
    "Saved",
    "Transaction",
    "claimed",
    "owner_of",
    "serve",
    "stored",
]

T = TypeVar("T")
Row = Sequence[Any]
Publish = Callable[[StoredEvent], Awaitable[object]]

LOCK_WAIT = 2.0
"""Seconds that a transaction waits for another one which was there first. Then it is a conflict."""

PAUSE = 0.1
"""Seconds until a relay looks again that has found nothing to publish."""

FIRST_RETRY = 0.1
"""Seconds until a relay tries an event again that could not be published; twice as many each time."""

LONGEST_RETRY = 30.0

DRAINING = 1.0
"""Seconds that a publication which is under way may go on when its relay stops. Then it is cancelled, and its event pending."""

COLUMNS = "id, topic, payload, message_key, aggregate, headers, sequence, attempts"
"""What `stored` reads."""

ERROR_CHARACTERS = 500

EVENT_ID = "event-id"
"""The header by which a consumer recognises a repetition, where the broker has no place of its own for that."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """An event that was checked, in the form in which it is stored."""

    id: str
    topic: bytes
    payload: bytes
    message_key: bytes | None
    aggregate: bytes | None
    headers: str

    @classmethod
    def checked(cls, event: object, limits: OutboxLimits) -> "Saved":
        """A copy of *event* under a new id."""
        if not isinstance(event, OutboxEvent):
            raise InvalidArgumentError(f"an event is an OutboxEvent, not {type(event).__name__}")
        topic, message_key, aggregate = event.destination_topic, event.message_key, event.aggregate_key
        return cls(
            id=uuid.uuid4().hex,
            topic=arguments.encode_key(topic, limits),
            payload=arguments.encode_bytes(topic, event.payload, limits),
            message_key=None if message_key is None else arguments.encode_key(message_key, limits),
            aggregate=None if aggregate is None else arguments.encode_key(aggregate, limits),
            headers=json.dumps(check_headers(topic, event.headers, limits)),
        )

    def row(self) -> dict[str, object]:
        """Its columns."""
        return {name: getattr(self, name) for name in self.__slots__}

    def event(self, sequence: int | None) -> StoredEvent:
        """The event as it stands in the outbox."""
        return stored((*self.row().values(), sequence, 0))


def stored(row: Row) -> StoredEvent:
    """The event of a row with `COLUMNS`."""
    return StoredEvent(**_fields(row))


def claimed(row: Row, claim: str) -> ClaimedEvent:
    """The event of a row with `COLUMNS` that *claim* has."""
    return ClaimedEvent(**_fields(row), claim_id=claim)


def _fields(row: Row) -> dict[str, Any]:
    id, topic, payload, message_key, aggregate, headers, sequence, attempts = row
    return {
        "event_id": id,
        "destination_topic": bytes(topic).decode(),
        "payload": bytes(payload),
        "message_key": None if message_key is None else bytes(message_key).decode(),
        "aggregate_key": None if aggregate is None else bytes(aggregate).decode(),
        "headers": json.loads(headers),
        "sequence_id": sequence,
        "attempts": attempts,
    }


class Transaction(ABC):
    """A transaction of the database that a block has open, on a connection of its own.

    The block is given the driver's connection. It executes the application's statements there, and gives it to any client of the
    same database as `tx`.
    """

    connection: Any = None

    @abstractmethod
    async def begin(self) -> None:
        """Open it."""

    @abstractmethod
    async def commit(self) -> None:
        """Make all that was done in it last, or raise."""

    def drop(self) -> None:  # noqa: B027  not every database has one
        """Break off the connection, without a word to the server."""

    @abstractmethod
    async def end(self) -> None:
        """Undo what was not committed, and end the connection. Called once or more, also if it never began."""


class Outbox(Client):
    """Base of the adapters: the operations, their checks, and the life of their transactions and relays."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "transaction claim lease_renewal gapless_sequence fair parking retention outbox_relay inbox lifecycle validation shared "
        "limits".split()
    )
    limits: ClassVar[OutboxLimits] = OutboxLimits(
        key_bytes=256, value_bytes=2**19, headers=32, min_ttl=0.1, ttl_resolution=0.1, batch_size=100
    )
    """What is a topic, a payload and headers to each of the brokers, which want to add some."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.gone = False
        """Whether this client has ended as if its process had been killed."""
        self._open: set[Transaction] = set()

    # Saving

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction of the database, in which the application writes too: the driver's own connection."""
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator[Any]:
        self._check_open()
        tx = self._new_transaction()
        self._open.add(tx)
        cancelled = False
        try:
            await self._call("transaction", tx.begin())
            yield tx.connection
            self._check_open()
            await self._call("commit", tx.commit())
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            if not self._closed:  # else whoever closes the client ends it
                ending = self._start(self._end(tx))
                if not cancelled:  # who is cancelled leaves at once
                    await asyncio.wait([ending], timeout=TIDYING)

    async def _end(self, tx: Transaction) -> None:
        try:
            await tx.end()
        finally:
            self._open.discard(tx)

    def _new_transaction(self) -> Transaction:
        """One that has not begun."""
        raise NotImplementedError

    def _check_transaction(self, tx: Any) -> None:
        """`InvalidArgumentError` unless *tx* is a connection with an open transaction."""
        raise NotImplementedError

    def _check_tx(self, tx: Any) -> None:
        self._check_open()
        if tx is not None:
            self._check_transaction(tx)

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        """Store *event* in the transaction *tx*, or in one of its own.

        `ConflictError` if another transaction that is still open was there first.
        """
        saved = Saved.checked(event, self.limits)
        self._check_tx(tx)
        sequence = await self._call(f"save_event for {event.aggregate_key!r}", self._save(saved, tx))
        return saved.event(sequence)

    async def _save(self, saved: Saved, tx: Any) -> int | None:
        """Store it; its place in its aggregate."""
        raise NotImplementedError

    async def record(self, message_id: str, *, consumer: str, tx: Any | None = None) -> bool:
        """Whether *consumer* meets *message_id* for the first time; it is then recorded."""
        [first] = await self.record_many([message_id], consumer=consumer, tx=tx)
        return first

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Any | None = None) -> list[bool]:
        """The same for each of *message_ids*, all in one transaction."""
        name = arguments.encode_key(consumer, self.limits)
        if isinstance(message_ids, str | bytes) or not isinstance(message_ids, Iterable):
            raise InvalidArgumentError(f"message_ids are a sequence of ids, not {type(message_ids).__name__}")
        ids = [arguments.encode_key(each, self.limits) for each in message_ids]
        self._check_tx(tx)
        if not ids:
            return []
        # In their order, so that two batches cannot wait for each other.
        new = await self._call(f"record for {consumer!r}", self._record(name, sorted(set(ids)), tx))
        first = []
        for id in ids:
            first.append(id in new)
            new.discard(id)
        return first

    async def _record(self, consumer: bytes, ids: Sequence[bytes], tx: Any) -> set[bytes]:
        """Those of *ids*, which are in order, that were not recorded yet."""
        raise NotImplementedError

    # Looking

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        """At most *limit* events without an aggregate that are not processed, the oldest first."""
        most = _whole("limit", limit)
        return [stored(each) for each in await self._call("get_pending_unordered_events", self._unordered(most))]

    async def get_pending_aggregate_keys(self) -> list[str]:
        """The aggregates that have events which are not processed."""
        return [bytes(key).decode() for (key,) in await self._call("get_pending_aggregate_keys", self._aggregates())]

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        """The events of this aggregate that are not processed, in the order of their `sequence_id`."""
        key = arguments.encode_key(aggregate_key, self.limits)
        what = f"get_pending_events_for_aggregate {aggregate_key!r}"
        return [stored(each) for each in await self._call(what, self._of_aggregate(key))]

    async def list_parked(self) -> list[StoredEvent]:
        """The events that are put aside, the oldest first."""
        return [stored(each) for each in await self._call("list_parked", self._parked())]

    async def _unordered(self, limit: int) -> Sequence[Row]:
        raise NotImplementedError

    async def _aggregates(self) -> Sequence[Row]:
        raise NotImplementedError

    async def _of_aggregate(self, key: bytes) -> Sequence[Row]:
        raise NotImplementedError

    async def _parked(self) -> Sequence[Row]:
        raise NotImplementedError

    # Relaying

    async def claim(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        """At most *limit* pending events, which nobody else is given for *lease* seconds.

        While a claim has any event of an aggregate, no other claim is given any, whoever makes it.
        """
        relay = arguments.encode_key(relay_id, self.limits).decode()
        most, seconds = _whole("limit", limit), self._lease_of(lease)
        name = uuid.uuid4().hex
        rows = await self._call(f"claim for {relay_id!r}", self._claim(relay, name, most, seconds))
        return [claimed(each, name) for each in rows]

    async def _claim(self, relay: str, claim: str, limit: int, lease: float) -> Sequence[Row]:
        """The rows that are now those of *claim*, those of an aggregate in order."""
        raise NotImplementedError

    async def mark_as_processed(self, event: StoredEvent) -> None:
        """*event* was published, whoever has a claim on it."""
        id = _event_id(event)
        await self._call(f"mark_as_processed {id!r}", self._mark(id))

    async def release(self, event: ClaimedEvent, *, retry_in: float = 0.0, error: str | None = None) -> None:
        """Give *event* back, to be claimed again in *retry_in* seconds, with one more attempt counted."""
        id, claim = _claim_of(event)
        if not _is_number(retry_in) or not 0 <= retry_in <= arguments.LONGEST_TTL:
            raise InvalidArgumentError(f"retry_in {retry_in!r} for {id!r} is not a number of seconds from 0")
        if error is not None and not isinstance(error, str):
            raise InvalidArgumentError(f"the error of {id!r} is {type(error).__name__}, not str")
        delay = max(float(retry_in), self.limits.min_ttl) if retry_in else 0.0
        text = None if error is None else error[:ERROR_CHARACTERS].encode(errors="replace").replace(b"\0", b"?").decode()
        if not await self._call(f"release {id!r}", self._release_event(id, claim, delay, text)):
            raise _lost("release", id)

    async def give_back(self, events: Sequence[ClaimedEvent]) -> None:
        """Give back those of *events* that are still claimed: nobody has tried them, and no attempt is counted."""
        claims = dict(map(_claim_of, events))
        if claims:
            await self._call("give_back", self._return(claims))

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        """Let the claims on all *events* end in *lease* seconds from now, or none if one of them was lost."""
        seconds = self._lease_of(lease)
        claims = dict(map(_claim_of, events))
        self._check_open()
        return not claims or await self._call(f"renew {sorted(claims)!r}", self._renew(claims, seconds))

    async def park(self, event: ClaimedEvent) -> None:
        """Put *event* aside: neither it nor a later one of its aggregate is claimed."""
        id, claim = _claim_of(event)
        if not await self._call(f"park {id!r}", self._park(id, claim)):
            raise _lost("park", id)

    async def unpark(self, event: StoredEvent) -> None:
        """Let *event* be claimed again, its attempts counted from 0."""
        id = _event_id(event)
        await self._call(f"unpark {id!r}", self._unpark(id))

    async def purge_processed(self, older_than: float) -> int:
        """Remove the events that were marked more than *older_than* seconds ago; how many they were."""
        if not _is_number(older_than) or not 0 <= older_than <= arguments.LONGEST_TTL:
            raise InvalidArgumentError(f"older_than {older_than!r} is not a number of seconds from 0")
        return await self._call("purge_processed", self._purge(float(older_than)))

    def _lease_of(self, lease: object) -> float:
        seconds = arguments.parse_ttl("the claim", lease, self.limits)
        if seconds is None:
            raise InvalidArgumentError("a lease is a number of seconds, not None")
        return seconds

    async def _mark(self, id: str) -> None:
        raise NotImplementedError

    async def _release_event(self, id: str, claim: str, delay: float, error: str | None) -> bool:
        """Whether the claim was still in force, and is ended."""
        raise NotImplementedError

    async def _return(self, claims: Mapping[str, str]) -> None:
        """End those of *claims*, by event, that are still in force."""
        raise NotImplementedError

    async def _renew(self, claims: Mapping[str, str], lease: float) -> bool:
        """Whether all *claims* were still in force, and go on."""
        raise NotImplementedError

    async def _park(self, id: str, claim: str) -> bool:
        """Whether the claim was still in force, and its event is put aside."""
        raise NotImplementedError

    async def _unpark(self, id: str) -> None:
        raise NotImplementedError

    async def _purge(self, older_than: float) -> int:
        raise NotImplementedError

    def relay(
        self,
        publish: Publish,
        *,
        relay_id: str,
        batch: int = 100,
        lease: float = 30.0,
        max_attempts: int | None = None,
    ) -> "Relay":
        """What hands the events of this outbox to *publish*."""
        self._check_open()
        if not callable(publish):
            raise InvalidArgumentError(f"publish is a coroutine function, not {type(publish).__name__}")
        arguments.encode_key(relay_id, self.limits)
        return Relay(
            self,
            publish,
            relay_id=relay_id,
            batch=_whole("batch", batch),
            lease=self._lease_of(lease),
            max_attempts=None if max_attempts is None else _whole("max_attempts", max_attempts),
        )

    # The end

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* as a task that `close` ends."""
        return self._start(work)

    async def abandon(self) -> None:
        """End as if the process had been killed: connections break off, tasks end where they are, and nobody is told."""
        self._closed = self.gone = True
        self._abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._let_go()
        self._released = True

    def _abort(self) -> None:
        """Tear the connections down, as the operating system does when a process ends."""
        raise NotImplementedError

    async def _let_go(self) -> None:
        """End what is left in this process of a client that is gone."""
        await self._end_transactions()

    async def _release(self) -> None:
        await self._end_transactions()

    async def _end_transactions(self) -> None:
        for tx in list(self._open):
            tx.drop()
            with contextlib.suppress(*self._unavailable):
                await self._end(tx)


class Relay:
    """Publishes the events of an outbox: aggregates beside each other, the events of one after one another.

    Claims are renewed while there is something left of them to publish. An event that fails, or whose claim was lost, ends its
    aggregate's turn; those behind it are given back untried. It is polling that finds new events, ten times a second.
    """

    def __init__(
        self, outbox: Outbox, publish: Publish, *, relay_id: str, batch: int, lease: float, max_attempts: int | None
    ) -> None:
        self.outbox = outbox
        self.publish = publish
        self.relay_id = relay_id
        self.batch = batch
        self.lease = lease
        self.max_attempts = max_attempts
        self._rounds: set[_Round] = set()
        self._working: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def run_once(self) -> int:
        """Claim events once, publish them, and mark those for which that succeeded; how many they were.

        `UnavailableError` if the database fails meanwhile: what was not marked is published again.
        """
        self.outbox._check_open()
        return await self._run(asyncio.Event())

    async def start(self) -> None:
        """Publish from now on what is committed, in the background."""
        self.outbox._check_open()
        if self._working is None or self._working.done():
            self._stopping = asyncio.Event()
            self._working = self.outbox.start(self._work(self._stopping))

    async def stop(self) -> None:
        """Publish nothing more. On return every event that was claimed and not published is pending."""
        self._stopping.set()
        rounds = list(self._rounds)
        for each in rounds:
            each.stopping.set()
        publishing = [task for each in rounds for task in each.publishing]
        if publishing:
            _, late = await asyncio.wait(publishing, timeout=DRAINING)
            for task in late:
                task.cancel()
        tasks: list[asyncio.Task[Any]] = [each.task for each in rounds if each.task is not None]
        if self._working is not None:
            tasks.append(self._working)
        if tasks:
            await asyncio.wait(tasks)

    async def _work(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            marked = 0
            try:
                marked = await self._run(stopping)
            except ClosedError:
                return
            except TCKError as error:
                level = logging.DEBUG if isinstance(error, UnavailableError) else logging.ERROR
                logger.log(level, "relay %s failed", self.relay_id, exc_info=error)
            if not marked:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await stopping.wait()

    async def _run(self, stopping: asyncio.Event) -> int:
        """One round, in a task of its own: who waits for it may leave, and what it has claimed is given back all the same."""
        round = _Round(self, stopping)
        self._rounds.add(round)
        round.task = task = self.outbox.start(round.run())
        task.add_done_callback(lambda _: self._rounds.discard(round))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            raise ClosedError(f"relay {self.relay_id!r}: the client was closed meanwhile")
        return task.result()


class _Round:
    """What one claim comes to."""

    def __init__(self, relay: Relay, stopping: asyncio.Event) -> None:
        self.stopping = stopping
        self.task: asyncio.Task[int] | None = None
        self.publishing: set[asyncio.Task[object]] = set()
        self._relay = relay
        self._outbox = relay.outbox
        self._marked = 0

    async def run(self) -> int:
        relay, begun = self._relay, _now()
        events = await self._outbox.claim(relay.relay_id, limit=relay.batch, lease=relay.lease)
        groups: dict[str | tuple[str], list[ClaimedEvent]] = {}
        for event in events:
            # An event without an aggregate is a group of its own.
            groups.setdefault((event.event_id,) if event.aggregate_key is None else event.aggregate_key, []).append(event)
        tasks = [asyncio.create_task(self._hand_over(group, begun)) for group in groups.values()]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return self._marked

    async def _hand_over(self, group: list[ClaimedEvent], begun: float) -> None:
        """Publish the events of *group* one after another, as long as each succeeds; give back what is left."""
        lease = _Lease(self._relay, group, begun)
        try:
            while group and not self.stopping.is_set():
                if not await lease.holds():
                    group.clear()
                elif not await self._publish(group, lease):
                    return
        finally:
            await self._give_back(group)

    async def _publish(self, group: list[ClaimedEvent], lease: "_Lease") -> bool:
        """Whether the first event of *group* was published and marked; it has left the group, unless it is to be given back."""
        if self.stopping.is_set():  # since it was asked whether the claim holds
            return False
        event = group[0]
        task = asyncio.create_task(_result(self._relay.publish, event))
        self.publishing.add(task)
        try:
            while not (await asyncio.wait([task], timeout=lease.left()))[0]:
                if not await lease.holds():
                    group.clear()
                    return False
        finally:
            self.publishing.discard(task)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if task.cancelled() and self.stopping.is_set():
            return False

        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        if failure is None:
            await self._outbox.mark_as_processed(event)
            self._marked += 1
            group.pop(0)
            return True

        logger.debug("publishing %s failed", event.event_id, exc_info=failure)
        with contextlib.suppress(OutboxClaimLostError):
            await self._fail(event, failure)
        group.pop(0)
        return False

    async def _fail(self, event: ClaimedEvent, failure: BaseException) -> None:
        most = self._relay.max_attempts
        if most is not None and event.attempts + 1 >= most:
            await self._outbox.park(event)
        else:
            pause = min(FIRST_RETRY * 2 ** min(event.attempts, 20), LONGEST_RETRY)
            await self._outbox.release(event, retry_in=pause, error=repr(failure))

    async def _give_back(self, group: Sequence[ClaimedEvent]) -> None:
        """Straight to the database, as the client may be closing. What cannot be given back comes again after its lease."""
        if group and not self._outbox.gone:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(TIDYING):
                    await self._outbox._return({each.event_id: each.claim_id for each in group})


class _Lease:
    """How long a group of events is this relay's, on the clock of its process, and renewing that."""

    def __init__(self, relay: Relay, group: Sequence[ClaimedEvent], begun: float) -> None:
        self._relay = relay
        self._group = group
        self._end = begun + relay.lease
        self._due = begun + relay.lease / 3

    def left(self) -> float:
        """Seconds until it is to be renewed."""
        return max(self._due - _now(), 0.0)

    async def holds(self) -> bool:
        """Whether what is left of the group is still this relay's; renewed if it is time for that."""
        if _now() < self._due:
            return True
        begun = _now()
        try:
            if not await self._relay.outbox.renew(self._group, self._relay.lease):
                return False
        except UnavailableError:
            self._due = _now() + PAUSE
            return _now() < self._end
        self._end, self._due = begun + self._relay.lease, begun + self._relay.lease / 3
        return True


async def serve(relay: Relay) -> None:
    """Let *relay* run until the process is told to end, by SIGINT or SIGTERM; then stop it."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    await relay.start()
    try:
        await told.wait()
    finally:
        await relay.stop()


def owner_of(namespace: object, tenant_id: object) -> bytes:
    """Whose events and records they are: those of a tenant, or of none, in the outbox *namespace*."""
    tenant = arguments.encode_tenant(tenant_id)
    space = arguments.encode_prefix(namespace, Outbox.limits, "namespace")
    return b"%d:%s%s" % (len(space), space, tenant)


async def _result(publish: Publish, event: StoredEvent) -> object:
    return await publish(event)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _whole(name: str, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number < 2**31:
        raise InvalidArgumentError(f"{name} is a whole number from 1, not {number!r}")
    return number


def _is_number(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool)


def _event_id(event: object) -> str:
    if not isinstance(event, StoredEvent) or not isinstance(event.event_id, str):
        raise InvalidArgumentError(f"a stored event is a StoredEvent, not {type(event).__name__}")
    return event.event_id.encode(errors="replace").replace(b"\0", b"?").decode()  # such an id is no event's


def _claim_of(event: object) -> tuple[str, str]:
    if not isinstance(event, ClaimedEvent) or not isinstance(event.claim_id, str):
        raise InvalidArgumentError(f"a claimed event is a ClaimedEvent, not {type(event).__name__}")
    return _event_id(event), event.claim_id.encode(errors="replace").replace(b"\0", b"?").decode()


def _lost(what: str, id: str) -> OutboxClaimLostError:
    return OutboxClaimLostError(f"{what} {id!r}: the claim has ended")
