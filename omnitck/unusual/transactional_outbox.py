"""Correct outboxes of an unusual kind."""

import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

from omnitck.reference.client import Cell
from omnitck.reference.transactional_outbox import Lock, MemoryOutbox, MemoryOutboxStorage, MemoryRelay, MemoryTransaction, Row
from omnitck.resilience.transactional_outbox import TransactionalOutboxContract
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import ClosedError, ConflictError, OutboxClaimLostError, UnavailableError
from omnitck.shared.models import ClaimedEvent, OutboxEvent, OutboxLimits, StoredEvent
from omnitck.unusual import unusual
from omnitck.unusual.clients import Facade

__all__ = ["Boundless", "Delegated", "Exact", "FirstCommitterWins", "OneWriter", "Plainest", "Refusing", "Slow"]

Publish = Callable[[StoredEvent], Awaitable[object]]


# The plainest.


class PlainOutbox:
    """Five methods over a list."""

    def __init__(self) -> None:
        self._events: list[StoredEvent] = []
        self._saved = 0

    async def save_event(self, event: OutboxEvent) -> StoredEvent:
        self._saved += 1
        number = None if event.aggregate_key is None else self._saved
        stored = StoredEvent(**(vars(event) | {"headers": dict(event.headers)}), event_id=str(self._saved), sequence_id=number)
        self._events.append(stored)
        return replace(stored, headers=dict(stored.headers))

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        return self._listed(None)[:limit]

    async def get_pending_aggregate_keys(self) -> list[str]:
        return list({each.aggregate_key for each in self._events if each.aggregate_key is not None})

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        return self._listed(aggregate_key)

    async def mark_as_processed(self, event: StoredEvent) -> None:
        self._events = [each for each in self._events if each.event_id != event.event_id]

    def _listed(self, aggregate: str | None) -> list[StoredEvent]:
        return [replace(each, headers=dict(each.headers)) for each in self._events if each.aggregate_key == aggregate]


@unusual
class Plainest(TransactionalOutboxContract):
    """Five methods over a list: no capability, no limits, no method that closes, and never a turn of the event loop.

    A rule that needs more than the core demands would reject it.
    """

    async def make_provider(self, **config: object) -> PlainOutbox:
        return PlainOutbox()


# A database with one writer at a time.


@dataclass(eq=False, slots=True)
class Record:
    """A row of the table."""

    event: StoredEvent
    scope: tuple[object, ...]
    claim: str = ""
    until: float = 0.0
    due: float = 0.0
    parked: bool = False
    processed: float | None = None


@dataclass(eq=False)
class File:
    """The database: who writes holds it as a whole, and everybody else reads what was committed before."""

    limits: OutboxLimits
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    records: list[Record] = field(default_factory=list)
    business: dict[str, str] = field(default_factory=dict)
    inbox: set[tuple[object, ...]] = field(default_factory=set)
    numbers: int = 2**40
    writer: object = None
    reachable: bool = True

    async def trip(self) -> None:
        """A call of the driver takes its time."""
        if not self.reachable:
            raise UnavailableError("the file cannot be opened") from OSError(5, "input/output error")
        await anyio.sleep(self.chance.choice((0.0, 0.0, 0.0, 0.001, 0.001, 0.02)))

    async def begin(self, writer: object, *, patient: bool = True) -> bool:
        """Whether *writer* has the file; one who is not *patient* does not wait for it."""
        while self.writer is not None:
            if not patient:
                return False
            await anyio.sleep(0.001)
        self.writer = writer
        return True


class Connection:
    """A transaction is a connection of the driver, and no more."""

    __slots__ = ("file", "inbox", "outbox", "records", "rows")

    def __init__(self, file: File, outbox: "FileOutbox") -> None:
        self.file = file
        self.outbox = outbox
        self.records: list[Record] = []
        self.rows: dict[str, str] = {}
        self.inbox: set[tuple[object, ...]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.file.writer is self

    def commit(self) -> None:
        """Write everything."""
        self.file.records += self.records
        self.file.business |= self.rows
        self.file.inbox |= self.inbox
        self.end()

    def end(self) -> None:
        """Let others write."""
        if self.file.writer is self:
            self.file.writer = None


class Block:
    """What `async with` takes: an object of a class."""

    def __init__(self, outbox: "FileOutbox") -> None:
        self._outbox = outbox

    async def __aenter__(self) -> Connection:
        self._connection = await self._outbox.begun()
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                await self._outbox.turn()
                self._connection.commit()
        finally:
            self._connection.end()


class ClaimIsGone(OutboxClaimLostError):
    """An error of the adapter's own."""


class StoredRow(StoredEvent):
    """A record of the adapter's own."""


class FileOutbox:
    """One client: whoever writes waits for the file, and a relay that finds it locked comes again later."""

    MOST_AT_ONCE = 3
    """Events that a claim gives out, whatever it is asked for."""

    def __init__(self, file: File, capabilities: frozenset[str], namespace: str) -> None:
        self.file = file
        self.capabilities = capabilities
        self.namespace = namespace
        self.closed = False
        self.relays: list[PollingRelay] = []
        self.tasks: anyio.abc.TaskGroup | None = None

    @property
    def limits(self) -> OutboxLimits:
        return self.file.limits

    async def __aenter__(self) -> Self:
        self.tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
        assert self.tasks is not None
        await self.tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        self.closed = True
        for each in self.relays:
            await each.stop()

    async def turn(self) -> None:
        self.check_open()
        await self.file.trip()
        self.check_open()

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError("this client is closed")

    async def begun(self) -> Connection:
        """A connection that may write."""
        await self.turn()
        connection = Connection(self.file, self)
        await self.file.begin(connection)
        try:
            self.check_open()
        except ClosedError:
            connection.end()
            raise
        return connection

    @asynccontextmanager
    async def writing(self, tx: Connection | None) -> AsyncIterator[Connection]:
        """*tx*, or a transaction of one statement."""
        if tx is not None:
            await self.turn()
            if not tx.is_open:
                raise ConflictError("this connection has no transaction")
            yield tx
            return
        connection = await self.begun()
        try:
            yield connection
            connection.commit()
        finally:
            connection.end()

    def transaction(self) -> Block:
        return Block(self)

    async def save_event(self, event: OutboxEvent, *, tx: Connection | None = None) -> StoredEvent:
        async with self.writing(tx) as connection:
            number = None
            if event.aggregate_key is not None:
                self.file.numbers += self.file.chance.randint(1, 9)
                number = self.file.numbers
            fields = vars(event) | {"headers": dict(event.headers)}
            stored = StoredRow(**fields, event_id=str(uuid.uuid4()), sequence_id=number)
            connection.records.append(Record(stored, (self.namespace,)))
            return replace(stored, headers=dict(stored.headers))

    def pending(self) -> list[Record]:
        return [each for each in self.file.records if each.scope == (self.namespace,) and each.processed is None]

    def shown(self, records: Sequence[Record]) -> list[StoredEvent]:
        return [replace(each.event, headers=dict(each.event.headers)) for each in records]

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        await self.turn()
        return self.shown([each for each in self.pending() if each.event.aggregate_key is None][:limit])

    async def get_pending_aggregate_keys(self) -> list[str]:
        await self.turn()
        return sorted({key for each in self.pending() if (key := each.event.aggregate_key) is not None}, reverse=True)

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        await self.turn()
        return self.shown([each for each in self.pending() if each.event.aggregate_key == aggregate_key])

    async def mark_as_processed(self, event: StoredEvent) -> None:
        async with self.writing(None):
            for each in self.pending():
                if each.event.event_id == event.event_id:
                    each.processed, each.parked = time.monotonic(), False

    # claim

    async def claim(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        await self.turn()
        connection = Connection(self.file, self)
        if not await self.file.begin(connection, patient=False):
            return []
        try:
            return self.claimed(limit, lease)
        finally:
            connection.end()

    def claimed(self, limit: int, lease: float) -> list[ClaimedEvent]:
        """As many as are given out at once, each until as late as is declared."""
        now, given = time.monotonic(), list[ClaimedEvent]()
        held = {each.event.aggregate_key for each in self.pending() if now < each.until} - {None}
        for each in self.pending():
            key = each.event.aggregate_key
            if len(given) == min(limit, self.MOST_AT_ONCE):
                break
            if key in held or now < each.until:
                continue
            if each.parked or now < each.due:
                held |= {key} - {None}
                continue
            each.claim = str(uuid.uuid4())
            each.until = now + max(lease, self.limits.min_ttl) + 0.9 * self.limits.ttl_resolution
            given.append(ClaimedEvent(**(vars(each.event) | {"headers": dict(each.event.headers)}), claim_id=each.claim))
        return given

    def held(self, event: ClaimedEvent) -> Record:
        for each in self.pending():
            if each.event.event_id == event.event_id and each.claim == event.claim_id and time.monotonic() < each.until:
                return each
        raise ClaimIsGone(f"{event.destination_topic!r}: event {event.event_id} is no longer yours")

    async def release(self, event: ClaimedEvent, *, retry_in: float = 0.0, error: str | None = None) -> None:
        async with self.writing(None):
            row = self.held(event)
            row.event = replace(row.event, attempts=row.event.attempts + 1)
            row.until, row.claim = 0.0, ""
            row.due = time.monotonic() + max(retry_in, self.limits.min_ttl) + 0.9 * self.limits.ttl_resolution

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        async with self.writing(None):
            try:
                rows = [self.held(each) for each in events]
            except ClaimIsGone:
                return False
            for each in rows:
                each.until = time.monotonic() + max(lease, self.limits.min_ttl) + 0.9 * self.limits.ttl_resolution
            return True

    async def park(self, event: ClaimedEvent) -> None:
        async with self.writing(None):
            row = self.held(event)
            row.until, row.claim, row.parked = 0.0, "", True

    async def list_parked(self) -> list[StoredEvent]:
        await self.turn()
        return self.shown([each for each in self.pending() if each.parked])

    async def unpark(self, event: StoredEvent) -> None:
        async with self.writing(None):
            for each in self.pending():
                if each.event.event_id == event.event_id and each.parked:
                    each.event, each.parked = replace(each.event, attempts=0), False

    async def purge_processed(self, older_than: float) -> int:
        async with self.writing(None):
            before = time.monotonic() - older_than
            mine = [each for each in self.file.records if each.scope == (self.namespace,)]
            old = [each for each in mine if each.processed is not None and each.processed < before]
            self.file.records = [each for each in self.file.records if each not in old]
            return len(old)

    # inbox

    async def record(self, message_id: str, *, consumer: str, tx: Connection | None = None) -> bool:
        return (await self.record_many([message_id], consumer=consumer, tx=tx))[0]

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Connection | None = None) -> list[bool]:
        async with self.writing(tx) as connection:
            seen = []
            for each in message_ids:
                key = (self.namespace, consumer, each)
                seen.append(key not in self.file.inbox and key not in connection.inbox)
                connection.inbox.add(key)
            return seen

    # outbox_relay

    def relay(
        self, publish: Publish, *, relay_id: str, batch: int = 100, lease: float = 30.0, max_attempts: int | None = None
    ) -> "PollingRelay":
        relay = PollingRelay(self, publish, relay_id, batch, lease, max_attempts)
        self.relays.append(relay)
        return relay


class PollingRelay:
    """It looks for work now and then, and when it is stopped finishes what it has begun to publish."""

    def __init__(
        self, outbox: FileOutbox, publish: Publish, relay_id: str, batch: int, lease: float, max_attempts: int | None
    ) -> None:
        self.outbox = outbox
        self.publish = publish
        self.relay_id = relay_id
        self.batch = batch
        self.lease = lease
        self.max_attempts = max_attempts
        self.stopping = True
        self.running = 0
        self.ended = anyio.Event()

    async def run_once(self) -> int:
        events, published, failed = await self.outbox.claim(self.relay_id, limit=self.batch, lease=self.lease), 0, set[str]()
        for number, event in enumerate(events):
            if event.aggregate_key in failed or (self.stopping and self.running):
                self.put_back(event)
                continue
            try:
                await self.publish(event)
            except Exception:
                failed |= {event.aggregate_key} if event.aggregate_key else set()
                await self.put_off(event)
            except BaseException:
                for each in events[number:]:
                    self.put_back(each)
                raise
            else:
                await self.outbox.mark_as_processed(event)
                published += 1
        return published

    def put_back(self, event: ClaimedEvent) -> None:
        """Whoever asks next is given *event*."""
        with suppress(ClaimIsGone):
            self.outbox.held(event).until = 0.0

    async def put_off(self, event: ClaimedEvent) -> None:
        if self.max_attempts is not None and event.attempts + 1 >= self.max_attempts:
            await self.outbox.park(event)
        else:
            await self.outbox.release(event)

    async def start(self) -> None:
        assert self.outbox.tasks is not None
        self.stopping, self.ended = False, anyio.Event()
        self.outbox.tasks.start_soon(self.work)

    async def work(self) -> None:
        self.running += 1
        try:
            while not self.stopping:
                if not await self.run_once():
                    await anyio.sleep(self.outbox.limits.deliver / 20)
        except ClosedError:
            pass
        finally:
            self.running -= 1
            self.ended.set()

    async def stop(self) -> None:
        self.stopping = True
        if self.running:
            await self.ended.wait()


@unusual
class OneWriter(TransactionalOutboxContract):
    """A file with one writer at a time: transactions take turns as a whole, and a claim that finds it locked gives nothing.

    Numbers are large and have gaps, ids are UUIDs, leases and retries last as long as they may be late, three events are given
    out at once, and a relay polls. A rule that has two transactions open at once, or takes few events for the last, would reject
    it.
    """

    capabilities = known_capabilities("transactional_outbox") - {
        "gapless_sequence",
        "fair",
        "validation",
        "limits",
        "availability",
    }
    limits = OutboxLimits(min_ttl=0.05, ttl_resolution=0.05, deliver=1.0, page_size=5, batch_size=5)
    deadline = 60.0

    def setUp(self) -> None:
        self.file = File(self.limits)

    async def make_provider(self, *, namespace: str = "", **config: object) -> FileOutbox:
        return FileOutbox(self.file, self.declared, namespace)

    async def business_write(self, tx: Connection, key: str, value: str) -> None:
        tx.rows[key] = value

    async def business_read(self, key: str) -> str | None:
        return self.file.business.get(key)

    async def crash(self, client: FileOutbox) -> None:
        client.closed = True
        if isinstance(self.file.writer, Connection) and self.file.writer.outbox is client:
            self.file.writer.end()


# In front of the reference.


class ReferenceHooks(TransactionalOutboxContract):
    """What suites of a kind of the reference have."""

    provider: type[MemoryOutboxStorage] = MemoryOutboxStorage
    limits = OutboxLimits(min_ttl=0.01, ttl_resolution=0.01, deliver=0.3, page_size=7, batch_size=3)

    def setUp(self) -> None:
        self.memory = MemoryOutbox(limits=self.limits)

    async def make_provider(self, *, namespace: str = "", **config: object) -> Any:
        return self.provider(self.memory, namespace=namespace, capabilities=self.declared)

    async def unreachable_provider(self) -> Any:
        return self.provider(MemoryOutbox(reachable=False), capabilities=self.declared)

    async def business_write(self, tx: MemoryTransaction, key: str, value: str) -> None:
        tx.write(key, value)

    async def business_read(self, key: str) -> str | None:
        return self.memory.rows.get(key)


class LargeNumbers(MemoryOutbox):
    """Its ids are numbers beyond 64 bits, as text."""

    def new_id(self, kind: str) -> str:
        return str(2**64 + next(self.numbers))


class Aborted(ConflictError):
    """An error of the adapter's own."""


class RefusingTransaction(MemoryTransaction):
    """What another transaction has locked is refused."""

    async def lock(self, lock: Lock) -> None:
        if self.client.backend.locks.get(lock, self) is not self:
            raise Aborted("another transaction has it")
        await super().lock(lock)


class RefusingStorage(MemoryOutboxStorage):
    """It never waits, and gives out the first event of each aggregate alone; a relay is given again what it has."""

    transaction_type = RefusingTransaction

    def claimable(self) -> list[Row]:
        seen: set[Cell] = set()
        heads = []
        for row in super().claimable():
            if not row.cell.name or row.cell not in seen:
                heads.append(row)
            seen.add(row.cell)
        return heads

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        now = self.backend.clock.now()
        own = [each for each in self.pending() if each.held(now) and each.claim and each.claim.relay_id == relay_id]
        again = [self.claimed(each) for each in own[:limit]]
        if len(again) == limit:
            await self.turn()
            return again
        return again + await super().take(relay_id, limit=limit - len(again), lease=lease)


@unusual
class Refusing(ReferenceHooks):
    """A second transaction never waits: its save raises ConflictError. A relay that asks again is given what it has, too.

    Of an aggregate one event is given out at a time, and ids are large numbers as text. A rule that counts on a wait, or on as
    many events as it asked for, would reject it.
    """

    capabilities = known_capabilities("transactional_outbox")
    provider = RefusingStorage

    def setUp(self) -> None:
        self.memory = LargeNumbers(limits=self.limits)

    async def crash(self, client: MemoryOutboxStorage) -> None:
        client.vanish()


class OptimisticTransaction(MemoryTransaction):
    """Nothing is locked: who commits second is told that what it has read is no longer so."""

    def __init__(self, client: MemoryOutboxStorage) -> None:
        super().__init__(client)
        self.read: dict[Cell, int] = {}

    async def lock(self, lock: Lock) -> None:
        """Nothing."""

    def number(self, cell: Cell) -> int:
        self.read.setdefault(cell, self.client.backend.last.get(cell, 0))
        own = [each.event.sequence_id or 0 for each in self.saved if each.cell == cell]
        return max([self.read[cell], *own]) + 1

    def commit(self) -> None:
        last = self.client.backend.last
        if any(last.get(cell, 0) != seen for cell, seen in self.read.items()) or self.received & self.client.backend.received:
            raise Aborted("somebody else has committed first")
        super().commit()


class OptimisticStorage(MemoryOutboxStorage):
    """The first to commit wins."""

    transaction_type = OptimisticTransaction


@unusual
class FirstCommitterWins(ReferenceHooks):
    """Of two transactions that save to one aggregate the first to commit wins, and the commit of the other raises ConflictError.

    That may be the one that began first. A rule that expects the conflict in the second would reject it.
    """

    capabilities = known_capabilities("transactional_outbox")
    provider = OptimisticStorage


class LateStorage(MemoryOutboxStorage):
    """Leases and retries last as long as they may be late, and none is shorter than a minute."""

    def kept(self, seconds: float) -> float:
        return super().kept(seconds) + self.limits.ttl_resolution

    def give_back(self, row: Row, *, after: float = 0.0) -> None:
        super().give_back(row, after=after or self.kept(0.0))


class PromptRelay(MemoryRelay):
    """What it does not publish can be claimed at once all the same."""

    def drop(self, event: ClaimedEvent) -> None:
        row = self.client.row(event)
        super().drop(event)
        if row is not None and row.claim is None:
            row.due = 0.0


LateStorage.relay_type = PromptRelay


@unusual
class Boundless(ReferenceHooks):
    """Every number is the largest that there is, or has no bound, and what ends by itself ends as late as it may.

    A rule that computes with a number what a process or a test cannot hold would reject it.
    """

    capabilities = known_capabilities("transactional_outbox")
    provider = LateStorage
    limits = OutboxLimits(
        key_bytes=2**40,
        value_bytes=2**40,
        headers=2**40,
        batch_size=2**40,
        page_size=2**40,
        min_ttl=60,
        ttl_resolution=60,
        deliver=60,
    )

    def setUp(self) -> None:
        self.clock = ManualClock(1e9)
        self.memory = MemoryOutbox(limits=self.limits, clock=self.clock)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()


@unusual
class Exact(ReferenceHooks):
    """Every number is the smallest that there is: nothing is rounded, nothing is late, and a page or a request holds one item.

    A rule that divides by a number, or waits for as long as it says and no turn longer, would reject it.
    """

    capabilities = known_capabilities("transactional_outbox")
    limits = OutboxLimits(min_ttl=0, ttl_resolution=0, deliver=0.1, page_size=1, batch_size=1)

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryOutbox(limits=self.limits, clock=self.clock)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()


class SlowStorage(MemoryOutboxStorage):
    """Every call takes its time, another each time."""

    async def turn(self) -> None:
        self.check_usable()
        await anyio.sleep(next(self.backend.__dict__.setdefault("delays", cycle((0.0, 0.001, 0.0, 0.02, 0.003)))))
        self.check_usable()

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        await anyio.sleep(0.05)
        await super().let_go(event, retry_in=retry_in)


@unusual
class Slow(ReferenceHooks):
    """Calls take up to 70 ms of real time, while leases and retries count on a clock that the suite moves in no time.

    A relay is still about to give an event back when the clock has been moved. A rule that moves it once would reject it.
    """

    capabilities = known_capabilities("transactional_outbox")
    provider = SlowStorage
    limits = OutboxLimits(min_ttl=0.01, ttl_resolution=0.001, deliver=5.0, page_size=20, batch_size=20)
    patience = 2.0
    deadline = 60.0

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryOutbox(limits=self.limits, clock=self.clock)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()


@unusual
class Delegated(ReferenceHooks):
    """A client that hands on everything to another, on a clock that nobody moves, and answers as late as its limits allow.

    A rule that looks at a client's class, or moves a clock which the suite has not, would reject it.
    """

    capabilities = known_capabilities("transactional_outbox") - {"lifecycle", "outbox_relay"}

    async def make_provider(self, *, namespace: str = "", **config: object) -> Facade:
        return Facade(MemoryOutboxStorage(self.memory, namespace=namespace, capabilities=self.declared))

    async def unreachable_provider(self) -> Facade:
        return Facade(MemoryOutboxStorage(MemoryOutbox(reachable=False), capabilities=self.declared))
