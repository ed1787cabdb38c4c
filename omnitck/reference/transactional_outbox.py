"""A transactional outbox in memory: `MemoryOutbox` is the database, `MemoryOutboxStorage` one client of it.

A transaction holds what it has saved until it commits, and the aggregates that it has saved to: another that saves to one of them
waits, so that the numbers of an aggregate become visible in their order. An application's own rows are written with
`MemoryTransaction.write`, and read from `MemoryOutbox.rows`.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from types import TracebackType
from typing import Any, ClassVar, Self

import anyio
import anyio.abc

from omnitck.reference.broker import Changes
from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.exceptions import (
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    OutboxClaimLostError,
    TooLargeError,
    UnavailableError,
)
from omnitck.shared.models import ClaimedEvent, Limits, OutboxEvent, OutboxLimits, StoredEvent

__all__ = ["CAPABILITIES", "MemoryOutbox", "MemoryOutboxStorage", "MemoryRelay", "MemoryTransaction"]

CAPABILITIES = frozenset(
    "transaction claim lease_renewal gapless_sequence fair parking retention outbox_relay inbox "
    "lifecycle validation shared availability limits".split()
)

FIRST_RETRY = 0.1
"""Seconds after which a relay tries again what could not be published; twice as long each time."""
LONGEST_RETRY = 30.0


@dataclass(eq=False, slots=True)
class Claim:
    """That one relay has an event for itself."""

    id: str
    relay_id: str
    until: float
    """On the database's clock."""


@dataclass(eq=False, slots=True)
class Row:
    """An event that is not processed."""

    cell: Cell
    """Its aggregate; the empty name for events without one."""
    event: StoredEvent
    claim: Claim | None = None
    due: float = -math.inf
    """When it may be claimed, on the database's clock."""
    parked: bool = False

    def held(self, now: float) -> bool:
        """Whether somebody has it."""
        return self.claim is not None and now < self.claim.until


Lock = tuple[object, ...]


@dataclass(eq=False, kw_only=True)
class MemoryOutbox(MemoryServer):
    """The database: events, what consumers have recorded, and the application's own rows."""

    limits: Limits = field(
        default_factory=lambda: OutboxLimits(
            page_size=20, batch_size=20, min_ttl=0.01, ttl_resolution=0.001, deliver=0.5, value_bytes=65_536
        )
    )
    rows: dict[str, str] = field(default_factory=dict, repr=False)
    """The application's own, as they are committed."""
    events: dict[str, Row] = field(default_factory=dict, repr=False)
    """By their ids, in the order of their commits."""
    processed: dict[str, tuple[Cell, float]] = field(default_factory=dict, repr=False)
    """The ids of those that were published, and when they were marked."""
    last: dict[Cell, int] = field(default_factory=dict, repr=False)
    """The last number of each aggregate."""
    received: set[tuple[Cell, str]] = field(default_factory=set, repr=False)
    """The ids of messages, each with the consumer that has recorded it."""
    locks: dict[Lock, "MemoryTransaction"] = field(default_factory=dict, repr=False)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 2**63)), repr=False)
    changed: Changes = field(default_factory=Changes, repr=False)

    def cells(self) -> list[Cell]:
        """The aggregates with events that are not processed."""
        return list(dict.fromkeys(each.cell for each in self.events.values() if each.cell.name))

    def remove(self, cell: Cell) -> None:
        """Remove the events of the aggregate *cell*."""
        self.events = {id: each for id, each in self.events.items() if each.cell != cell}

    def new_id(self, kind: str) -> str:
        """An id that nothing else has."""
        return f"{kind}{next(self.numbers)}"

    def notify(self) -> None:
        """Wake everybody who waits for a change, or for the time."""
        self.changed.tell()


class MemoryTransaction:
    """An open transaction."""

    def __init__(self, client: "MemoryOutboxStorage") -> None:
        self.client = client
        self.saved: list[Row] = []
        self.received: set[tuple[Cell, str]] = set()
        self.written: dict[str, str] = {}
        self.waits_for: Lock | None = None
        self.ended = False

    def write(self, key: str, value: str) -> None:
        """Write a row of the application."""
        if self.ended:
            raise ClosedError("the transaction has ended")
        self.written[key] = value

    async def lock(self, lock: Lock) -> None:
        """Have *lock* until the end. `ConflictError` if whoever has it waits for this transaction."""
        backend = self.client.backend
        while (holder := backend.locks.get(lock, self)) is not self:
            other: MemoryTransaction | None = holder
            while other is not None and other is not self:
                other = None if other.waits_for is None else backend.locks.get(other.waits_for)
            if other is self:
                raise ConflictError("two transactions wait for each other")
            self.waits_for = lock
            try:
                await backend.changed.until(lambda: lock not in backend.locks or self.client.closed or not backend.reachable)
            finally:
                self.waits_for = None
            self.client.check_usable()
        backend.locks[lock] = self

    def number(self, cell: Cell) -> int:
        """The number of the next event of an aggregate."""
        own = [each.event.sequence_id or 0 for each in self.saved if each.cell == cell]
        return max([self.client.backend.last.get(cell, 0), *own]) + 1

    def commit(self) -> None:
        """Let everything be seen, in one step."""
        backend = self.client.backend
        for row in self.saved:
            backend.events[row.event.event_id] = row
            if row.event.sequence_id is not None:
                backend.last[row.cell] = row.event.sequence_id
        backend.received |= self.received
        backend.rows |= self.written
        self.end()

    def end(self) -> None:
        """Give back what is locked; what was not committed is gone."""
        self.ended = True
        backend = self.client.backend
        for lock in [each for each, holder in backend.locks.items() if holder is self]:
            del backend.locks[lock]
        backend.notify()


class MemoryOutboxStorage(MemoryClient[MemoryOutbox]):
    """One client. It implements `OutboxStorageProtocol` and every capability that it is told to declare.

    Each *namespace* is an outbox of its own.
    """

    everything = CAPABILITIES
    reads = "get_pending_events_for_aggregate"
    deletes = ""
    aside = "retention"
    transaction_type: ClassVar[type[MemoryTransaction]] = MemoryTransaction
    relay_type: ClassVar[type["MemoryRelay"]]

    def __init__(
        self,
        backend: MemoryOutbox,
        *,
        namespace: str = "",
        tenant_id: str | None = None,
        password: str | None = None,
        capabilities: Collection[str] | None = None,
    ) -> None:
        super().__init__(backend, tenant_id=tenant_id, password=password, capabilities=capabilities)
        self.namespace = namespace
        self.relays: list[MemoryRelay] = []
        self.gone = False
        self.tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self.tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        tasks, self.tasks = self.tasks, None
        try:
            await self.close()
        finally:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)

    # The core

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        """See `Transactional.save_event`."""
        if tx is not None:
            self.need("transaction")
        checked = self.checked(event)
        await self.turn()
        async with self.joined(tx) as transaction:
            return await self.put(checked.aggregate_key or "", checked, transaction)

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        """Store *event*, of the aggregate *key* if that is not empty, in *tx*."""
        cell = self.cell(key)
        number = None
        if key:
            await tx.lock(("aggregate", cell))
            number = tx.number(cell)
        given = {each.name: getattr(event, each.name) for each in fields(OutboxEvent)}
        stored = StoredEvent(**given, event_id=self.backend.new_id("e"), sequence_id=number)
        tx.saved.append(Row(cell, stored))
        return _copy(stored)

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        """See `OutboxStorageProtocol.get_pending_unordered_events`."""
        self.check_limit(limit)
        await self.turn()
        return [_copy(each.event) for each in self.pending() if not each.cell.name][:limit]

    async def get_pending_aggregate_keys(self) -> list[str]:
        """See `OutboxStorageProtocol.get_pending_aggregate_keys`."""
        keys: list[str] = []
        await self.turn()
        while page := self.following("", keys[-1] if keys else ""):
            keys += page
        return keys

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        """See `OutboxStorageProtocol.get_pending_events_for_aggregate`."""
        self.check_key(aggregate_key)
        await self.turn()
        cell = self.cell(aggregate_key)
        return [_copy(each.event) for each in self.in_order(each for each in self.pending() if each.cell == cell)]

    async def mark_as_processed(self, event: StoredEvent) -> None:
        """See `OutboxStorageProtocol.mark_as_processed`."""
        self.check_stored(event)
        await self.turn()
        row = self.row(event)
        if row is not None:
            self.end_event(row)

    # transaction

    def transaction(self) -> AbstractAsyncContextManager[MemoryTransaction]:
        """See `Transactional.transaction`."""
        self.need("transaction")
        return self.transacting()

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        """A transaction, which ends with the context."""
        await self.turn()
        transaction = self.transaction_type(self)
        try:
            yield transaction
            await self.turn()
            transaction.commit()
        finally:
            transaction.end()

    @asynccontextmanager
    async def joined(self, tx: Any) -> AsyncIterator[MemoryTransaction]:
        """The transaction *tx*, which goes on; or one of its own."""
        if tx is not None:
            self.check_transaction(tx)
            yield tx
            return

        transaction = self.transaction_type(self)
        try:
            yield transaction
            transaction.commit()
        finally:
            transaction.end()

    # claim

    async def claim(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        """See `Claiming.claim`."""
        self.need("claim")
        self.check_relay(relay_id)
        self.check_limit(limit)
        self.check_seconds("lease", lease, above=0.0)
        return await self.take(relay_id, limit=limit, lease=lease)

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        """Claim events, for whoever asks."""
        await self.turn()
        until = self.backend.clock.now() + self.kept(lease)
        claimed = []
        for row in self.claimable()[:limit]:
            row.claim = Claim(self.backend.new_id("c"), relay_id, until)
            claimed.append(self.claimed(row))
        return claimed

    def claimable(self) -> list[Row]:
        """What may be claimed now: of an aggregate, its first events, if none of them is held or has to wait."""
        now = self.backend.clock.now()
        by_aggregate: dict[object, list[Row]] = {}
        for row in self.pending():
            by_aggregate.setdefault(row.cell if row.cell.name else row, []).append(row)
        lines = []
        for several in by_aggregate.values():
            line = []
            if not any(each.held(now) for each in several):
                for row in self.in_order(several):
                    if row.parked or now < row.due:
                        break
                    line.append(row)
            lines.append(line)
        return self.shared_out(lines)

    def shared_out(self, lines: Sequence[Sequence[Row]]) -> list[Row]:
        """The rows of all *lines*, in the order in which they are given out: each line in its turn."""
        return [row for turn in zip_longest(*lines) for row in turn if row is not None]

    def claimed(self, row: Row) -> ClaimedEvent:
        """What the holder of *row* is given."""
        assert row.claim is not None
        event = _copy(row.event)
        return ClaimedEvent(**{each.name: getattr(event, each.name) for each in fields(StoredEvent)}, claim_id=row.claim.id)

    async def release(self, event: ClaimedEvent, *, retry_in: float = 0.0, error: str | None = None) -> None:
        """See `Claiming.release`."""
        self.need("claim")
        self.check_claimed(event)
        self.check_seconds("retry_in", retry_in)
        if error is not None and not isinstance(error, str):
            raise InvalidArgumentError(f"topic {event.destination_topic!r}: an error is text, not {type(error).__name__}")
        await self.let_go(event, retry_in=retry_in)

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        """Release *event*, with one more attempt counted."""
        await self.turn()
        row = self.held(event)
        row.event = replace(row.event, attempts=row.event.attempts + 1)
        self.give_back(row, after=self.kept(retry_in) if retry_in else 0.0)

    def give_back(self, row: Row, *, after: float = 0.0) -> None:
        """Let *row* be claimed again."""
        row.claim = None
        row.due = self.backend.clock.now() + after
        self.backend.notify()

    # lease_renewal

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        """See `LeaseRenewal.renew`."""
        self.need("lease_renewal")
        for each in events:
            self.check_claimed(each)
        self.check_seconds("lease", lease, above=0.0)
        await self.turn()
        try:
            rows = [self.held(each) for each in events]
        except OutboxClaimLostError:
            return False

        for row in rows:
            assert row.claim is not None
            row.claim.until = self.backend.clock.now() + self.kept(lease)
        return True

    # parking

    async def park(self, event: ClaimedEvent) -> None:
        """See `Parking.park`."""
        self.need("parking")
        self.check_claimed(event)
        await self.set_aside(event)

    async def set_aside(self, event: ClaimedEvent) -> None:
        """Park *event*."""
        await self.turn()
        row = self.held(event)
        row.parked = True
        self.give_back(row)

    async def list_parked(self) -> list[StoredEvent]:
        """See `Parking.list_parked`."""
        self.need("parking")
        await self.turn()
        return [_copy(each.event) for each in self.pending() if each.parked]

    async def unpark(self, event: StoredEvent) -> None:
        """See `Parking.unpark`."""
        self.need("parking")
        self.check_stored(event)
        await self.turn()
        row = self.row(event)
        if row is not None and row.parked:
            row.parked = False
            row.event = replace(row.event, attempts=0)
            self.backend.notify()

    # retention

    async def purge_processed(self, older_than: float) -> int:
        """See `Retention.purge_processed`."""
        self.need("retention")
        self.check_seconds("older_than", older_than)
        await self.turn()
        before = self.backend.clock.now() - older_than
        purged = [id for id, (cell, at) in self.backend.processed.items() if self.is_own(cell) and at < before]
        for id in purged:
            del self.backend.processed[id]
        return len(purged)

    # outbox_relay

    def relay(
        self,
        publish: Callable[[StoredEvent], Awaitable[object]],
        *,
        relay_id: str,
        batch: int = 100,
        lease: float = 30.0,
        max_attempts: int | None = None,
    ) -> "MemoryRelay":
        """See `OutboxRelaying.relay`."""
        self.need("outbox_relay")
        if not callable(publish):
            raise InvalidArgumentError(f"publish is a coroutine function, not {type(publish).__name__}")
        self.check_relay(relay_id)
        self.check_limit(batch)
        self.check_seconds("lease", lease, above=0.0)
        if max_attempts is not None:
            self.need("parking")
            self.check_limit(max_attempts)
        relay = self.relay_type(self, publish, relay_id=relay_id, batch=batch, lease=lease, max_attempts=max_attempts)
        self.relays.append(relay)
        return relay

    # inbox

    async def record(self, message_id: str, *, consumer: str, tx: Any | None = None) -> bool:
        """See `Inbox.record`."""
        return (await self.record_many([message_id], consumer=consumer, tx=tx))[0]

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Any | None = None) -> list[bool]:
        """See `Inbox.record_many`."""
        self.need("inbox")
        if tx is not None:
            self.need("transaction")
        self.check_name("consumer", consumer, self.limits.key_bytes)
        if isinstance(message_ids, str | bytes) or not isinstance(message_ids, Sequence):
            raise InvalidArgumentError(f"ids are several, not {type(message_ids).__name__}")
        for each in message_ids:
            self.check_name("message id", each, self.limits.key_bytes)
        await self.turn()
        async with self.joined(tx) as transaction:
            records = [(self.cell(each), consumer) for each in message_ids]
            for record in sorted(set(records), key=repr):
                await transaction.lock(("record", *record))
            return [self.is_first(record, transaction) for record in records]

    def is_first(self, record: tuple[Cell, str], tx: MemoryTransaction) -> bool:
        """Whether *record* is new, also within *tx*, which then holds it."""
        if record in self.backend.received or record in tx.received:
            return False
        tx.received.add(record)
        return True

    # lifecycle

    async def close(self) -> None:
        """See `Lifecycle.close`: its relays stop."""
        await super().close()
        self.backend.notify()
        for each in self.relays:
            await each.stop()

    def vanish(self) -> None:
        """End as if the process had been killed: claims stay until their leases end, and open transactions are rolled back."""
        self.gone = self.closed = True
        for each in set(self.backend.locks.values()):
            if each.client is self:
                each.end()
        for relay in self.relays:
            relay.end()
        self.backend.notify()

    # What the database holds for this client.

    def cell(self, key: str) -> Cell:
        """Where the database holds *key*."""
        return super().cell(key)._replace(space=self.namespace)

    def is_own(self, cell: Cell) -> bool:
        """Whether *cell* is of this client's tenant and namespace."""
        mine = self.cell("")
        return (cell.tenant, cell.space) == (mine.tenant, mine.space)

    def pending(self) -> list[Row]:
        """The events that are not processed, in the order of their commits."""
        return [each for each in self.backend.events.values() if self.is_own(each.cell)]

    def in_order(self, rows: Iterable[Row]) -> list[Row]:
        """The *rows* of one aggregate in its order."""
        return sorted(rows, key=lambda each: each.event.sequence_id or 0)

    def row(self, event: StoredEvent) -> Row | None:
        """The row of *event*, if it is not processed."""
        row = self.backend.events.get(event.event_id)
        return row if row is not None and self.is_own(row.cell) else None

    def held(self, event: ClaimedEvent) -> Row:
        """The row of *event*, if its claim is still this one."""
        row = self.row(event)
        now = self.backend.clock.now()
        if row is None or row.claim is None or row.claim.id != event.claim_id or not row.held(now):
            raise OutboxClaimLostError(f"topic {event.destination_topic!r}: the claim on event {event.event_id!r} was lost")
        return row

    def end_event(self, row: Row) -> None:
        """*row* was published."""
        del self.backend.events[row.event.event_id]
        self.backend.processed[row.event.event_id] = (row.cell, self.backend.clock.now())
        self.backend.notify()

    def kept(self, seconds: float) -> float:
        """*seconds*, rounded up to what is kept."""
        return max(seconds, self.limits.min_ttl)

    # What is legal.

    def checked(self, event: object) -> OutboxEvent:
        """A copy of *event*; refuses what no outbox holds."""
        if not isinstance(event, OutboxEvent):
            raise InvalidArgumentError(f"an event is an OutboxEvent, not {type(event).__name__}")

        topic = event.destination_topic
        self.check_name("destination_topic", topic, self.limits.key_bytes)
        if event.message_key is not None:
            self.check_name("message_key", event.message_key, self.limits.key_bytes)
        if event.aggregate_key is not None:
            self.check_key(event.aggregate_key)
        if not isinstance(event.payload, bytes):
            raise InvalidArgumentError(f"topic {topic!r}: a payload is bytes, not {type(event.payload).__name__}")
        if len(event.payload) > self.limits.value_bytes:
            raise TooLargeError(f"topic {topic!r}: the payload is longer than {self.limits.value_bytes} bytes")
        return replace(event, headers=self.checked_headers(topic, event.headers))

    def checked_headers(self, topic: str, headers: object) -> dict[str, str]:
        """A copy of *headers*."""
        return self.check_headers(topic, headers, OutboxLimits.adopted(self.limits).headers)

    def check_stored(self, event: object) -> None:
        """Refuse what was not given out by `save_event`, a listing or a claim."""
        if not isinstance(event, StoredEvent):
            raise InvalidArgumentError(f"a StoredEvent is needed, not {type(event).__name__}")
        if not isinstance(event.event_id, str) or not event.event_id:
            raise InvalidArgumentError(f"topic {event.destination_topic!r}: an event id is text that is not empty")

    def check_claimed(self, event: object) -> None:
        """Refuse what was not given out by a claim."""
        if not isinstance(event, ClaimedEvent):
            raise InvalidArgumentError(f"a ClaimedEvent is needed, not {type(event).__name__}")
        self.check_stored(event)

    def check_transaction(self, tx: object) -> None:
        """Refuse what is no open transaction of this client."""
        if not isinstance(tx, MemoryTransaction) or tx.client is not self:
            raise InvalidArgumentError("tx is what this client's own `transaction` yields")
        if tx.ended:
            raise ClosedError("the transaction has ended")

    def check_relay(self, relay_id: object) -> None:
        """Refuse what names no relay."""
        self.check_name("relay_id", relay_id, self.limits.key_bytes)

    def check_limit(self, limit: object) -> None:
        """Refuse what is no number of events."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgumentError(f"a limit is a whole number from 1, not {limit!r}")

    def check_seconds(self, kind: str, seconds: object, *, above: float = -1.0) -> None:
        """Refuse what is no time from 0 on, or none *above* a number."""
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds < math.inf or seconds <= above:  # type: ignore[operator]
            raise InvalidArgumentError(f"{kind} is a number of seconds, not {seconds!r}")


class MemoryRelay:
    """What publishes the events of an outbox. Several may run, on one client or on many."""

    def __init__(
        self,
        client: MemoryOutboxStorage,
        publish: Callable[[StoredEvent], Awaitable[object]],
        *,
        relay_id: str,
        batch: int,
        lease: float,
        max_attempts: int | None,
    ) -> None:
        self.client = client
        self.publish = publish
        self.relay_id = relay_id
        self.batch = batch
        self.lease = lease
        self.max_attempts = max_attempts
        self.scope: anyio.CancelScope | None = None
        """Of its task, while it runs."""
        self.ended = anyio.Event()

    async def run_once(self) -> int:
        """See `OutboxRelay.run_once`."""
        waiting = list(await self.claimed())
        published = 0
        failed: set[str] = set()
        try:
            while waiting:
                event = waiting[0]
                if event.aggregate_key in failed or not self.has(event):
                    failed |= {event.aggregate_key} if event.aggregate_key is not None else set()
                    self.drop(waiting.pop(0))
                elif await self.tried(event):
                    published += 1
                    waiting.pop(0)
                else:
                    failed |= {event.aggregate_key} if event.aggregate_key is not None else set()
                    waiting.pop(0)
        finally:
            for each in waiting:
                self.drop(each)
        return published

    async def claimed(self) -> list[ClaimedEvent]:
        """The next events."""
        return await self.client.take(self.relay_id, limit=self.batch, lease=self.lease)

    async def tried(self, event: ClaimedEvent) -> bool:
        """Publish *event*, and mark or release it as that goes; whether it was published."""
        try:
            await self.publish(event)
        except Exception:
            await self.put_off(event)
            return False

        await self.client.mark_as_processed(event)
        return True

    async def put_off(self, event: ClaimedEvent) -> None:
        """*event* could not be published: later, or not at all."""
        try:
            if self.max_attempts is not None and event.attempts + 1 >= self.max_attempts:
                await self.client.set_aside(event)
            else:
                await self.client.let_go(event, retry_in=min(FIRST_RETRY * 2**event.attempts, LONGEST_RETRY))
        except OutboxClaimLostError:
            pass  # somebody else has it

    def has(self, event: ClaimedEvent) -> bool:
        """Whether the claim on *event* is still this one."""
        try:
            return self.client.held(event) is not None
        except OutboxClaimLostError:
            return False

    def drop(self, event: ClaimedEvent) -> None:
        """Give back *event*, which was not tried: no attempt is counted."""
        if self.has(event) and not self.client.gone and self.client.backend.reachable:
            self.client.give_back(self.client.held(event))

    async def start(self) -> None:
        """See `OutboxRelay.start`."""
        await self.client.turn()
        if self.client.tasks is None:
            raise ClosedError("enter the client with `async with`: its relays run until the end of that")
        if self.scope is None:
            self.scope = anyio.CancelScope()
            self.ended = anyio.Event()
            self.client.tasks.start_soon(self.work, self.scope)

    async def work(self, scope: anyio.CancelScope) -> None:
        """Publish what there is, and wait for more."""
        try:
            with scope:
                while not self.client.closed:
                    with self.client.backend.changed.expected() as change:
                        try:
                            published = await self.run_once()
                        except (UnavailableError, ClosedError):
                            published = 0
                        if not published:
                            with anyio.move_on_after(self.idle()):
                                await change.wait()
        finally:
            self.ended.set()

    def idle(self) -> float:
        """Seconds until something may have to be done that no change tells of."""
        now = self.client.backend.clock.now()
        times = [each.due for each in self.client.pending()]
        times += [each.claim.until for each in self.client.pending() if each.claim is not None]
        return max(min((each for each in times if each > now), default=math.inf) - now, 0.001)

    async def stop(self) -> None:
        """See `OutboxRelay.stop`. What is being published is broken off, and pending."""
        if self.scope is not None:
            self.end()
            await self.ended.wait()
            self.scope = None

    def end(self) -> None:
        """Let its task end."""
        if self.scope is not None:
            self.scope.cancel()


MemoryOutboxStorage.relay_type = MemoryRelay


def _copy(event: StoredEvent) -> StoredEvent:
    """*event*, with headers that the caller may change."""
    return replace(event, headers=dict(event.headers))
