"""Broken outboxes, in the order of the rules that reject them."""

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.client import Cell
from omnitck.reference.transactional_outbox import (
    Claim,
    MemoryOutboxStorage,
    MemoryRelay,
    MemoryTransaction,
    Row,
)
from omnitck.shared.exceptions import (
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    OutboxClaimLostError,
    TooLargeError,
    UnavailableError,
)
from omnitck.shared.models import ClaimedEvent, OutboxEvent, StoredEvent

# The common family

break_with(
    MemoryOutboxStorage,
    {
        clients.UnknownCapability: "OBX-COM-02",
        clients.CapabilitiesAsText: "OBX-COM-02",
        clients.LowLimit: "OBX-COM-02",
        clients.StaleAdvertisement: "OBX-COM-04",
        clients.DoubleRelease: "OBX-COM-07",
        clients.SilentReconnect: "OBX-COM-08",
        clients.SwallowingExit: "OBX-COM-09",
        clients.SharedPool: "OBX-COM-06 OBX-COM-10 OBX-13 OBX-55 MT-16",
        clients.OrphanedTask: "OBX-COM-11",
        clients.BreakingClose: "OBX-COM-11 OBX-55",
        clients.LeakingVendorError: "OBX-COM-12 OBX-52 OBX-59",
        clients.NoCause: "OBX-COM-12 OBX-52",
        clients.SwallowedCancellation: "OBX-COM-14",
        clients.DefaultOnCancellation: "OBX-COM-14",
        clients.CrossedReply: "OBX-COM-15 MT-15",
        clients.SharedCursor: "OBX-COM-15 OBX-COM-18 MT-14",
        clients.CoercedKey: "OBX-COM-19 OBX-46",
        clients.NormalisedKey: "OBX-COM-20",
        clients.DecodedKey: "OBX-COM-20",
        clients.TruncatedKey: "OBX-COM-21",
        clients.LimitInCharacters: "OBX-COM-21",
        clients.BlockingCall: "OBX-COM-23",
        clients.PrintedPassword: "OBX-COM-24",
        clients.CrashedWorker: "OBX-COM-25",
        clients.EndlessFarewell: "OBX-COM-25",
        clients.CancelsItsCaller: "OBX-COM-26 OBX-38 OBX-39 OBX-55 OBX-59 OBX-61",
        clients.ForgottenTimer: "OBX-COM-26",
        clients.OnePage: "OBX-COM-20 OBX-34",
        tenants.IgnoredTenant: (
            "OBX-50 MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-19 MT-23"
        ),
        tenants.UnscopedScan: "OBX-50 OBX-66 MT-03 MT-05 MT-06 MT-07 MT-08 MT-13",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.FoldedTenant: "MT-09",
        tenants.CutTenant: "MT-10",
        tenants.FalsyTenant: "MT-11",
        tenants.PublicTenant: "MT-12",
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        tenants.InstanceIsTenant: "MT-17",
        tenants.ParsedTenant: "MT-20",
    },
)


class OtherPut(MemoryOutboxStorage):
    """Base of a defect that stores something else than was saved."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        return await super().put(key, self.instead_of(event), tx)

    def instead_of(self, event: OutboxEvent) -> OutboxEvent:
        """What is stored in the place of *event*."""
        return event


class OtherClaim(MemoryOutboxStorage):
    """Base of a defect in what may be claimed now."""

    def lines(self) -> list[list[Row]]:
        """The pending events of each aggregate in their order, and each without one."""
        by_aggregate: dict[object, list[Row]] = {}
        for row in self.pending():
            by_aggregate.setdefault(row.cell if row.cell.name else row, []).append(row)
        return [self.in_order(each) for each in by_aggregate.values()]


@breaks("OBX-COM-01")
class RenamedParameter(MemoryOutboxStorage):
    """`get_pending_events_for_aggregate` calls its argument `key`."""

    async def get_pending_events_for_aggregate(self, key: str) -> list[StoredEvent]:
        return await super().get_pending_events_for_aggregate(key)


@breaks("OBX-COM-03", without="retention")
class PurgesNothing(MemoryOutboxStorage):
    """`purge_processed` is there without being supported, and says 0."""

    async def purge_processed(self, older_than: float) -> int:
        await self.turn()
        return 0


@breaks(
    "OBX-COM-05",
    "OBX-COM-06",
    "OBX-COM-16",
    "OBX-01",
    "OBX-03",
    "OBX-04",
    "OBX-05",
    "OBX-06",
    "OBX-08",
    "OBX-11",
    "OBX-13",
    "OBX-15",
    "OBX-17",
    "OBX-18",
    "OBX-19",
    "OBX-20",
    "OBX-21",
    "OBX-22",
    "OBX-23",
    "OBX-24",
    "OBX-25",
    "OBX-29",
    "OBX-30",
    "OBX-31",
    "OBX-32",
    "OBX-37",
    "OBX-39",
    "OBX-41",
    "OBX-42",
    "OBX-49",
    "OBX-53",
    "OBX-54",
    "OBX-55",
    "OBX-56",
    "OBX-58",
    "OBX-60",
    "OBX-67",
)
class InstanceData(MemoryOutboxStorage):
    """What is pending, each client keeps for itself."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        stored = await super().put(key, event, tx)
        self.__dict__.setdefault("mine", set()).add(stored.event_id)
        return stored

    def pending(self) -> list[Row]:
        return [each for each in super().pending() if each.event.event_id in self.__dict__.get("mine", ())]


@breaks("OBX-COM-06", "OBX-13")
class DiesWithItsWriter(MemoryOutboxStorage):
    """`close` drops what its client has saved, as the connection was one of a temporary table."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        stored = await super().put(key, event, tx)
        self.__dict__.setdefault("mine", []).append(stored.event_id)
        return stored

    async def close(self) -> None:
        for each in self.__dict__.get("mine", ()):
            self.backend.events.pop(each, None)
        await super().close()


@breaks("OBX-COM-13")
class NamelessError(MemoryOutboxStorage):
    """ "a payload is bytes", but of which event?"""

    def checked(self, event: object) -> OutboxEvent:
        try:
            return super().checked(event)
        except TooLargeError:
            raise
        except InvalidArgumentError:
            raise InvalidArgumentError("this is no event") from None


@breaks("OBX-COM-13")
class QuotedPayload(MemoryOutboxStorage):
    """The error of a payload of the wrong type quotes it."""

    def checked(self, event: object) -> OutboxEvent:
        if isinstance(event, OutboxEvent) and isinstance(event.payload, str):
            raise InvalidArgumentError(f"topic {event.destination_topic!r}: {event.payload!r} is no bytes")
        return super().checked(event)


@breaks("OBX-COM-16")
class TornEvent(MemoryOutboxStorage):
    """A save that is cancelled leaves the first half of its payload."""

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        try:
            return await super().save_event(event, tx=tx)
        except anyio.get_cancelled_exc_class():
            if tx is None and event.aggregate_key:
                half = replace(event, payload=event.payload[: len(event.payload) // 2])
                async with self.joined(None) as own:
                    await self.put(event.aggregate_key, half, own)
            raise


@breaks("OBX-COM-17")
class KeptMapping(MemoryOutboxStorage):
    """The outbox keeps the very mapping of headers that it was given."""

    def checked_headers(self, topic: str, headers: object) -> dict[str, str]:
        super().checked_headers(topic, headers)
        return headers  # type: ignore[return-value]


@breaks("OBX-COM-17")
class LentMapping(MemoryOutboxStorage):
    """A listing hands out the headers that the outbox keeps."""

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        listed = await super().get_pending_events_for_aggregate(aggregate_key)
        return [self.backend.events[each.event_id].event for each in listed]


@breaks("OBX-46")
class EmptyAggregate(MemoryOutboxStorage):
    """The empty key of an aggregate is taken for none."""

    def checked(self, event: object) -> OutboxEvent:
        if isinstance(event, OutboxEvent) and event.aggregate_key == "":
            return super().checked(replace(event, aggregate_key=None))
        return super().checked(event)


@breaks("OBX-COM-20")
class TrimmedTopic(OtherPut):
    """The topic's column drops blanks at its end."""

    def instead_of(self, event: OutboxEvent) -> OutboxEvent:
        return replace(event, destination_topic=event.destination_topic.rstrip())


@breaks("OBX-COM-22", "OBX-45")
class TruncatedPayload(OtherPut):
    """A payload that is too long is cut, without a word."""

    def checked(self, event: object) -> OutboxEvent:
        if isinstance(event, OutboxEvent) and isinstance(event.payload, bytes):
            event = replace(event, payload=event.payload[: self.limits.value_bytes])
        return super().checked(event)


# Between tenants


@breaks("OBX-50", "MT-02", "MT-04", "MT-09", "MT-10", "MT-13", "MT-19", "MT-23")
class MarkedEverywhere(MemoryOutboxStorage):
    """An event is marked by its aggregate and its number, without the tenant."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        await super().mark_as_processed(event)
        for row in list(self.backend.events.values()):
            same = (row.cell.name, row.cell.space) == (event.aggregate_key, self.namespace)
            if same and row.event.sequence_id == event.sequence_id:
                self.end_event(row)


@breaks("OBX-66", "MT-23")
class BusyEverywhere(OtherClaim):
    """An aggregate that one tenant has claimed is busy for all."""

    def claimable(self) -> list[Row]:
        now = self.backend.clock.now()
        busy = {row.cell.name for row in self.backend.events.values() if row.held(now) and not self.is_own(row.cell)}
        return [each for each in super().claimable() if not each.cell.name or each.cell.name not in busy]


@breaks("OBX-50", "MT-03", "MT-04", "MT-05")
class ClaimsEverywhere(MemoryOutboxStorage):
    """One relay for all tenants: a claim gives what any of them has."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        own = self.tenant_id
        tenants_ = list(dict.fromkeys([own, *[each.cell.tenant for each in self.backend.events.values()]]))
        came: list[ClaimedEvent] = []
        try:
            for self.tenant_id in tenants_:
                if len(came) < limit:
                    came += await super().take(relay_id, limit=limit - len(came), lease=lease)
        finally:
            self.tenant_id = own
        return came


@breaks("MT-19")
class IdIsEnough(MemoryOutboxStorage):
    """An event is marked by its id, whoever's it is."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        await super().mark_as_processed(event)
        row = self.backend.events.get(event.event_id)
        if row is not None:
            self.end_event(row)


@breaks("OBX-50", "MT-03")
class SharedNumbers(MemoryOutboxStorage):
    """The numbers of an aggregate are drawn for all tenants from one row."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        alike = [number for cell, number in self.backend.last.items() if (cell.name, cell.space) == (key, self.namespace)]
        self.backend.last[self.cell(key)] = max(alike, default=0)
        return await super().put(key, event, tx)


@breaks("OBX-50", "MT-03")
class SharedInbox(MemoryOutboxStorage):
    """The unique index of the inbox lacks the tenant."""

    def is_first(self, record: tuple[Cell, str], tx: MemoryTransaction) -> bool:
        return super().is_first((record[0]._replace(tenant=None), record[1]), tx)


# OBX-01 to OBX-06: the transaction


class OtherTransaction(MemoryOutboxStorage):
    """Base of a defect in how a transaction ends."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        await self.turn()
        transaction = self.transaction_type(self)
        try:
            try:
                yield transaction
            except BaseException as error:
                await self.failed(transaction, error)
                raise
            await self.turn()
            transaction.commit()
        finally:
            transaction.end()

    async def failed(self, tx: MemoryTransaction, error: BaseException) -> None:
        """What is done with *tx* that *error* ends."""


class RowElsewhere(MemoryTransaction):
    """The application's row is written on another connection, which nobody commits."""

    def commit(self) -> None:
        self.written.clear()
        super().commit()


@breaks("OBX-01", "OBX-03")
class AnotherConnection(MemoryOutboxStorage):
    """The transaction that is handed out is of another connection than the one that commits."""

    transaction_type = RowElsewhere


class RowAtOnce(MemoryTransaction):
    """The application's row commits by itself."""

    def write(self, key: str, value: str) -> None:
        super().write(key, value)
        self.client.backend.rows[key] = value


@breaks("OBX-02", "OBX-03", "OBX-52")
class RowCommitsAtOnce(MemoryOutboxStorage):
    """The connection that is handed out commits every statement."""

    transaction_type = RowAtOnce


@breaks(
    "OBX-02",
    "OBX-03",
    "OBX-04",
    "OBX-05",
    "OBX-06",
    "OBX-29",
    "OBX-30",
    "OBX-32",
    "OBX-37",
    "OBX-41",
    "OBX-50",
    "OBX-52",
    "OBX-57",
)
class SavesOutside(MemoryOutboxStorage):
    """`save_event` takes `tx`, and saves in a transaction of its own."""

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        if tx is not None:
            self.check_transaction(tx)
        return await super().save_event(event)


@breaks("OBX-02", "OBX-06", "OBX-09", "OBX-29", "OBX-30", "OBX-31", "OBX-37", "OBX-50")
class SwallowedException(OtherTransaction):
    """Leaving the block of a transaction that failed raises nothing."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        transaction = self.transaction_type(self)
        await self.turn()
        try:
            yield transaction
            await self.turn()
            transaction.commit()
        except LookupError:
            pass
        finally:
            transaction.end()


@breaks("OBX-03", "OBX-32", "OBX-57")
class CommitsCancelled(OtherTransaction):
    """`except Exception: rollback`, `else: commit`, and a cancellation is no `Exception`."""

    async def failed(self, tx: MemoryTransaction, error: BaseException) -> None:
        if not isinstance(error, Exception):
            tx.commit()


@breaks("OBX-03")
class OpenAfterCancellation(MemoryOutboxStorage):
    """A cancelled transaction stays open on its connection: the next one of the client is part of it, and commits it."""

    left: Sequence[Row] = ()

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transacting() as tx:
            tx.saved += self.left
            self.left = ()
            try:
                yield tx
            except anyio.get_cancelled_exc_class():
                self.left = list(tx.saved)
                raise


@breaks("OBX-04")
class DirtyListing(MemoryOutboxStorage):
    """Listings read what is not committed."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        stored = await super().put(key, event, tx)
        self.backend.__dict__.setdefault("open", []).append((tx, tx.saved[-1]))
        return stored

    def pending(self) -> list[Row]:
        dirty = [row for tx, row in self.backend.__dict__.get("open", ()) if not tx.ended and self.is_own(row.cell)]
        return [*super().pending(), *[each for each in dirty if each.event.event_id not in self.backend.events]]

    def claimable(self) -> list[Row]:
        return [each for each in super().claimable() if each.event.event_id in self.backend.events]


@breaks("OBX-04")
class ClaimWaitsForTransactions(MemoryOutboxStorage):
    """`claim` locks the table, and waits for whoever writes to it."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        while any(each.saved for each in self.backend.locks.values()):
            await self.backend.changed.wait()
            self.check_usable()
        return await super().take(relay_id, limit=limit, lease=lease)


class Poller(MemoryTransaction):
    """An event whose id is below the highest that was processed is never seen."""

    def commit(self) -> None:
        high = max((_number(id) for id in self.client.backend.processed), default=0)
        lost = [each for each in self.saved if _number(each.event.event_id) < high]
        super().commit()
        for each in lost:
            each.due = math.inf


@breaks("OBX-05")
class HighWaterMark(MemoryOutboxStorage):
    """A relay remembers how far it has come, and looks at what is beyond."""

    transaction_type = Poller


class Unlocked(MemoryTransaction):
    """Nothing is locked."""

    async def lock(self, lock: tuple[object, ...]) -> None:
        if lock[0] != "aggregate":
            await super().lock(lock)

    def number(self, cell: Cell) -> int:
        drawn = self.client.backend.__dict__.setdefault("drawn", {})
        drawn[cell] = max(drawn.get(cell, 0), super().number(cell) - 1) + 1
        return int(drawn[cell])


@breaks("OBX-06", "OBX-09", "OBX-50")
class DrawnWithoutLock(MemoryOutboxStorage):
    """Numbers are drawn from a sequence of the database."""

    transaction_type = Unlocked


@breaks("OBX-06", "OBX-56", "OBX-60")
class FailsWhereItMustWait(MemoryOutboxStorage):
    """A row that is locked is an error of the driver."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        if key and self.backend.locks.get(("aggregate", self.cell(key)), tx) is not tx:
            raise TimeoutError("lock timeout")
        return await super().put(key, event, tx)


@breaks("OBX-06")
class DrawsBeforeItWaits(MemoryOutboxStorage):
    """A number is drawn before its transaction waits for another: if that is rolled back, there is a gap."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        holder = self.backend.locks.get(("aggregate", self.cell(key)))
        drawn = 0 if holder is None or holder is tx else holder.number(self.cell(key))
        stored = await super().put(key, event, tx)
        if stored.sequence_id is not None and drawn > stored.sequence_id:
            tx.saved[-1].event = stored = replace(stored, sequence_id=drawn)
        return stored


# OBX-07 to OBX-13: the core


@breaks("OBX-07", "OBX-08", "OBX-26", "OBX-32", "OBX-34", "OBX-35", "OBX-47", "OBX-56", "OBX-62")
class SortsText(MemoryOutboxStorage):
    """The number is in a column of text, where 10 is before 9."""

    def in_order(self, rows: Iterable[Row]) -> list[Row]:
        return sorted(rows, key=lambda each: str(each.event.sequence_id))


class CountsWhatIsLeft(MemoryTransaction):
    """`max() + 1` over the events that are pending."""

    def number(self, cell: Cell) -> int:
        rows = [*self.client.backend.events.values(), *self.saved]
        return max((each.event.sequence_id or 0 for each in rows if each.cell == cell), default=0) + 1


@breaks("OBX-07", "OBX-44", "OBX-50")
class ForgetsItsNumbers(MemoryOutboxStorage):
    """An event that is processed is deleted, and the next number is that after the highest that is left."""

    transaction_type = CountsWhatIsLeft


@breaks("OBX-07")
class NumbersEverything(MemoryOutboxStorage):
    """Events without an aggregate have a number, too."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        stored = await super().put(key, event, tx)
        if not key:
            tx.saved[-1].event = stored = replace(stored, sequence_id=0)
        return stored


class Racing(MemoryTransaction):
    """The highest number is read before it is written."""

    async def lock(self, lock: tuple[object, ...]) -> None:
        if lock[0] != "aggregate":
            await super().lock(lock)


@breaks("OBX-06", "OBX-08", "OBX-56", "OBX-60")
class ReadsThenWrites(MemoryOutboxStorage):
    """`SELECT max() + 1`, and then an INSERT, without a lock."""

    transaction_type = Racing

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        stored = await super().put(key, event, tx)
        await anyio.lowlevel.checkpoint()
        return stored


class Gaps(MemoryTransaction):
    """A number that was drawn is gone."""

    def number(self, cell: Cell) -> int:
        drawn = self.client.backend.__dict__.setdefault("drawn", {})
        drawn[cell] = drawn.get(cell, 0) + 1
        return int(drawn[cell])


@breaks("OBX-06", "OBX-09", "OBX-50")
class NeverRollsBackNumbers(MemoryOutboxStorage):
    """The numbers come from a sequence of the database, one for each aggregate."""

    transaction_type = Gaps


class OneSequence(MemoryTransaction):
    """All aggregates share a sequence."""

    def number(self, cell: Cell) -> int:
        number: int = self.client.backend.__dict__.get("drawn", 0) + 1
        self.client.backend.__dict__["drawn"] = number
        return number


@breaks("OBX-06", "OBX-09", "OBX-50")
class OneSequenceForAll(MemoryOutboxStorage):
    """The numbers come from one sequence of the database."""

    transaction_type = OneSequence


@breaks("OBX-10", "OBX-45")
class PayloadAsText(OtherPut):
    """The payload is in a column of text."""

    def instead_of(self, event: OutboxEvent) -> OutboxEvent:
        return replace(event, payload=event.payload.decode(errors="replace").encode())


@breaks("OBX-10")
class EmptyForNone(OtherPut):
    """A key that is None becomes the empty text."""

    def instead_of(self, event: OutboxEvent) -> OutboxEvent:
        return replace(event, message_key=event.message_key or "")


@breaks("OBX-10")
class FoldedHeaders(OtherPut):
    """Names of headers are folded."""

    def instead_of(self, event: OutboxEvent) -> OutboxEvent:
        return replace(event, headers={name.lower(): value for name, value in event.headers.items()})


@breaks("OBX-10", "OBX-24")
class ClaimsWithoutHeaders(MemoryOutboxStorage):
    """The statement that claims forgets a column."""

    def claimed(self, row: Row) -> ClaimedEvent:
        return replace(super().claimed(row), headers={})


@breaks("OBX-11", "OBX-19", "OBX-20", "OBX-24", "OBX-27", "OBX-36", "OBX-49", "OBX-53", "OBX-58", "OBX-64")
class NewIdPerAttempt(MemoryOutboxStorage):
    """The id of an event without an aggregate that was released is a new one, made of the old."""

    def claimed(self, row: Row) -> ClaimedEvent:
        claimed = super().claimed(row)
        again = claimed.attempts and not row.cell.name
        return replace(claimed, event_id=f"{claimed.event_id}~{claimed.attempts}") if again else claimed

    def row(self, event: StoredEvent) -> Row | None:
        return super().row(replace(event, event_id=event.event_id.partition("~")[0]))


@breaks(
    "OBX-01",
    "OBX-04",
    "OBX-06",
    "OBX-10",
    "OBX-11",
    "OBX-12",
    "OBX-13",
    "OBX-17",
    "OBX-19",
    "OBX-20",
    "OBX-21",
    "OBX-24",
    "OBX-28",
    "OBX-29",
    "OBX-30",
    "OBX-31",
    "OBX-34",
    "OBX-42",
    "OBX-44",
    "OBX-45",
    "OBX-46",
    "OBX-47",
    "OBX-50",
    "OBX-52",
    "OBX-53",
    "OBX-57",
    "OBX-66",
)
class ListsEverything(MemoryOutboxStorage):
    """Events with an aggregate are listed among those without."""

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        await super().get_pending_unordered_events(limit)
        return [each.event for each in self.pending()][:limit]


@breaks("OBX-12", "OBX-34")
class IgnoresTheLimit(MemoryOutboxStorage):
    """The listing's limit is not passed on."""

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        await super().get_pending_unordered_events(limit)
        return await super().get_pending_unordered_events(1_000_000)


@breaks("OBX-12", "OBX-34", "OBX-50")
class NewestFirst(MemoryOutboxStorage):
    """The listing is sorted the other way round."""

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        listed = await super().get_pending_unordered_events(1_000_000)
        self.check_limit(limit)
        return listed[::-1][:limit]


@breaks("OBX-12", "OBX-17", "OBX-50", "OBX-66", "OBX-67")
class RepeatedKeys(MemoryOutboxStorage):
    """A key is listed once for each event."""

    async def get_pending_aggregate_keys(self) -> list[str]:
        keys = await super().get_pending_aggregate_keys()
        return [key for key in keys for row in self.pending() if row.cell.name == key]


@breaks("OBX-12", "OBX-34", "OBX-50")
class KeysOfOld(MemoryOutboxStorage):
    """An aggregate is listed for ever."""

    async def get_pending_aggregate_keys(self) -> list[str]:
        keys = await super().get_pending_aggregate_keys()
        old = [cell.name for cell, _ in self.backend.processed.values() if self.is_own(cell) and cell.name]
        return list(dict.fromkeys([*keys, *old]))


@breaks("OBX-12")
class LimitComesBeforeTheKind(MemoryOutboxStorage):
    """The listing takes the oldest rows first, and of these those without an aggregate."""

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        listed = await super().get_pending_unordered_events(limit)
        oldest = {each.event.event_id for each in self.pending()[:limit]}
        return [each for each in listed if each.event_id in oldest]


@breaks("OBX-13", "OBX-33", "OBX-50")
class MarksByTopic(MemoryOutboxStorage):
    """Events are marked by their topic and their content."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        await super().mark_as_processed(event)
        for row in self.pending():
            if (row.event.destination_topic, row.event.payload) == (event.destination_topic, event.payload):
                self.end_event(row)


@breaks("OBX-13", "OBX-33")
class MarksUpToIt(MemoryOutboxStorage):
    """Whatever of the aggregate is before the event is marked with it."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        await super().mark_as_processed(event)
        for row in self.pending():
            earlier = (row.event.sequence_id or 0) < (event.sequence_id or 0)
            if earlier and row.cell.name and row.cell.name == event.aggregate_key:
                self.end_event(row)


@breaks("OBX-13", "OBX-21", "OBX-28")
class MarksOnce(MemoryOutboxStorage):
    """An event that is not pending cannot be marked."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        self.check_stored(event)
        if self.row(event) is None and event.event_id in self.backend.processed:
            await self.turn()
            raise ConflictError("the event is not pending")
        await super().mark_as_processed(event)


# OBX-14 to OBX-23: claims


@breaks("OBX-14", "OBX-16", "OBX-26", "OBX-36")
class PlainSelect(MemoryOutboxStorage):
    """What can be claimed is read first, and written afterwards."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        rows = self.claimable()[:limit]
        claimed = await super().take(relay_id, limit=limit, lease=lease)
        known = {each.event_id for each in claimed}
        until = self.backend.clock.now() + self.kept(lease)
        for row in rows[: limit - len(claimed)]:
            if row.event.event_id in self.backend.events and row.event.event_id not in known:
                row.claim = Claim(self.backend.new_id("c"), relay_id, until)
                claimed.append(self.claimed(row))
        return claimed


@breaks(
    "OBX-15",
    "OBX-16",
    "OBX-17",
    "OBX-18",
    "OBX-20",
    "OBX-21",
    "OBX-22",
    "OBX-23",
    "OBX-25",
    "OBX-49",
    "OBX-58",
    "OBX-64",
    "OBX-66",
)
class ClaimsForEver(MemoryOutboxStorage):
    """A status says that an event is claimed, and nobody takes it back."""

    def claimable(self) -> list[Row]:
        return [each for each in super().claimable() if each.claim is None]


@breaks("OBX-15")
class LosesLateMarks(MemoryOutboxStorage):
    """Marks are written with the next claim of the client, or when it is closed."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.backend.__dict__.setdefault("marking", {})[self] = []

    def end_event(self, row: Row) -> None:
        self.backend.__dict__["marking"][self].append((row, row.claim))
        super().end_event(row)

    def vanish(self) -> None:
        for row, claim in self.backend.__dict__["marking"][self]:
            row.claim = claim
            self.backend.events[row.event.event_id] = row
        super().vanish()


@breaks("OBX-16", "OBX-20", "OBX-21", "OBX-23", "OBX-25", "OBX-49", "OBX-58", "OBX-59", "OBX-64")
class KeepsTheOldLease(MemoryOutboxStorage):
    """An event that was claimed before keeps the end of its first lease."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        now = self.backend.clock.now()
        before = {id: row.claim for id, row in self.backend.events.items() if row.claim is not None and row.claim.until <= now}
        claimed = await super().take(relay_id, limit=limit, lease=lease)
        for each in claimed:
            old, row = before.get(each.event_id), self.row(each)
            if old is not None and row is not None and row.claim is not None:
                row.claim.until = old.until
        return claimed


@breaks("OBX-16", "OBX-20", "OBX-23", "OBX-42", "OBX-64")
class SameClaim(MemoryOutboxStorage):
    """The id of a claim is that of its event."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        claimed = await super().take(relay_id, limit=limit, lease=lease)
        for each in claimed:
            row = self.row(each)
            if row is not None and row.claim is not None:
                row.claim.id = each.event_id
        return [replace(each, claim_id=each.event_id) for each in claimed]


@breaks("OBX-15", "OBX-17", "OBX-18", "OBX-26", "OBX-36", "OBX-37", "OBX-42", "OBX-46")
class SkipsLocked(OtherClaim):
    """`FOR UPDATE SKIP LOCKED` skips what is claimed, and gives out the next."""

    def claimable(self) -> list[Row]:
        now = self.backend.clock.now()
        lines = []
        for line in self.lines():
            free = [each for each in line if not each.held(now)]
            stuck = [number for number, each in enumerate(free) if each.parked or now < each.due]
            lines.append(free[: stuck[0]] if stuck else free)
        return self.shared_out(lines)


@breaks("OBX-18")
class HeadIsEnough(OtherClaim):
    """An aggregate is busy only if its first event is claimed."""

    def claimable(self) -> list[Row]:
        now = self.backend.clock.now()
        lines = []
        for line in self.lines():
            head: list[Row] = []
            for row in line:
                if row.held(now) or row.parked or now < row.due:
                    break
                head.append(row)
            lines.append(head)
        return self.shared_out(lines)


@breaks("OBX-18", "OBX-26", "OBX-27", "OBX-48")
class OvertakesWhatWaits(OtherClaim):
    """An event that waits for its retry is skipped, and its successors are not."""

    def claimable(self) -> list[Row]:
        now = self.backend.clock.now()
        lines = []
        for line in self.lines():
            if any(each.held(now) for each in line):
                continue
            parked = [number for number, each in enumerate(line) if each.parked]
            lines.append([each for each in (line[: parked[0]] if parked else line) if now >= each.due])
        return self.shared_out(lines)


@breaks("OBX-18", "OBX-67")
class StopsAtTheFirst(OtherClaim):
    """The oldest event that waits stops everything behind it, of whatever aggregate."""

    def claimable(self) -> list[Row]:
        now = self.backend.clock.now()
        waiting = [number for number, each in enumerate(self.pending()) if now < each.due < math.inf]
        before = set(map(id, self.pending()[: waiting[0]])) if waiting else None
        return [each for each in super().claimable() if before is None or id(each) in before]


@breaks("OBX-14", "OBX-16", "OBX-17", "OBX-36")
class MarkFreesItsAggregate(MemoryOutboxStorage):
    """An aggregate is locked by a row of its own, which the first mark deletes."""

    def end_event(self, row: Row) -> None:
        super().end_event(row)
        for each in self.pending():
            if row.cell.name and each.cell == row.cell:
                each.claim = None


@breaks("OBX-14", "OBX-16", "OBX-17", "OBX-18", "OBX-19", "OBX-23", "OBX-36", "OBX-42", "OBX-43", "OBX-48", "OBX-51", "OBX-67")
class LimitComesFirst(MemoryOutboxStorage):
    """The limit is that of the query, and what cannot be claimed of its rows is dropped then."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        self.__dict__["first"] = set(map(id, self.pending()[:limit]))
        try:
            return await super().take(relay_id, limit=limit, lease=lease)
        finally:
            del self.__dict__["first"]

    def claimable(self) -> list[Row]:
        return [each for each in super().claimable() if id(each) in self.__dict__.get("first", {id(each)})]


@breaks(
    "OBX-14",
    "OBX-15",
    "OBX-17",
    "OBX-18",
    "OBX-25",
    "OBX-26",
    "OBX-27",
    "OBX-35",
    "OBX-36",
    "OBX-37",
    "OBX-42",
    "OBX-47",
    "OBX-48",
    "OBX-50",
    "OBX-62",
    "OBX-65",
)
class NewestOfAnAggregateFirst(MemoryOutboxStorage):
    """A claim returns its events in the order of its index, not in that of the aggregate."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        return (await super().take(relay_id, limit=limit, lease=lease))[::-1]


@breaks("OBX-18", "OBX-19", "OBX-53", "OBX-58")
class RetriesAtOnce(MemoryOutboxStorage):
    """`retry_in` is ignored."""

    def give_back(self, row: Row, *, after: float = 0.0) -> None:
        super().give_back(row)


@breaks("OBX-19", "OBX-20", "OBX-27", "OBX-42", "OBX-53", "OBX-64")
class CountsNothing(MemoryOutboxStorage):
    """No attempt is counted."""

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        await super().let_go(event, retry_in=retry_in)
        row = self.row(event)
        if row is not None:
            row.event = replace(row.event, attempts=event.attempts)


@breaks("OBX-19", "OBX-20", "OBX-27", "OBX-53", "OBX-64")
class CountsFromTheClaim(MemoryOutboxStorage):
    """The attempts are those that the claimant knows of, plus one: those of an event without an aggregate are lost."""

    def claimed(self, row: Row) -> ClaimedEvent:
        claimed = super().claimed(row)
        return claimed if row.cell.name else replace(claimed, attempts=0)


@breaks("OBX-19")
class RetriesFromTheClaim(MemoryOutboxStorage):
    """`retry_in` counts from the claim."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        claimed = await super().take(relay_id, limit=limit, lease=lease)
        began = self.backend.clock.now()
        self.backend.__dict__.setdefault("began", {}).update({each.claim_id: began for each in claimed})
        return claimed

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        await super().let_go(event, retry_in=retry_in)
        row = self.row(event)
        if row is not None:
            row.due -= self.backend.clock.now() - self.backend.__dict__["began"][event.claim_id]


@breaks("OBX-20", "OBX-64")
class ReleasesById(MemoryOutboxStorage):
    """A release looks at the id of the event alone."""

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        row = self.row(event)
        if row is not None and row.claim is not None:
            event = replace(event, claim_id=row.claim.id)
        await super().let_go(event, retry_in=retry_in)


@breaks("OBX-20", "OBX-64")
class SilentRelease(MemoryOutboxStorage):
    """A release of a claim that was lost does nothing, and says nothing."""

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        with suppress(OutboxClaimLostError):
            await super().let_go(event, retry_in=retry_in)


@breaks("OBX-21")
class ReleasedIsPending(MemoryOutboxStorage):
    """A release sets the status to pending, whatever it was."""

    def end_event(self, row: Row) -> None:
        self.backend.__dict__.setdefault("gone", {})[row.event.event_id] = row
        super().end_event(row)

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        gone = self.backend.__dict__.get("gone", {})
        if event.event_id in gone and event.event_id in self.backend.processed:
            await self.turn()
            row = gone.pop(event.event_id)
            self.backend.events[event.event_id] = row
            self.give_back(row)
            return
        await super().let_go(event, retry_in=retry_in)


@breaks("OBX-21")
class LateMarkRaises(MemoryOutboxStorage):
    """Only who has the claim may mark an event."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        row = self.row(event) if isinstance(event, StoredEvent) else None
        if isinstance(event, ClaimedEvent) and row is not None and row.claim is not None and row.claim.id != event.claim_id:
            await self.turn()
            raise OutboxClaimLostError("somebody else has it")
        await super().mark_as_processed(event)


@breaks("OBX-21")
class MarksItsOwnAlone(MemoryOutboxStorage):
    """A mark asks for its claim, as a release does, and finds no row where that is another's by now."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        self.check_stored(event)
        row = self.row(event)
        claim = None if row is None else row.claim
        if not isinstance(event, ClaimedEvent) or claim is None or claim.id == event.claim_id:
            await super().mark_as_processed(event)


@breaks("OBX-21")
class MarksWhatIsHeldAlone(MemoryOutboxStorage):
    """A mark by a claim that has ended finds no row, although nobody else has the event."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        self.check_stored(event)
        row = self.row(event)
        if not isinstance(event, ClaimedEvent) or row is None or row.held(self.backend.clock.now()):
            await super().mark_as_processed(event)


@breaks("OBX-22", "OBX-47", "OBX-61")
class ClaimedByNobody(MemoryOutboxStorage):
    """What is claimed is read in a second request; a relay that is cancelled in between has it for ever."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        claimed = await super().take(relay_id, limit=limit, lease=lease)
        rows = [row for each in claimed if (row := self.row(each)) is not None]
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            for row in rows:
                row.due = math.inf
            raise
        return claimed


@breaks("OBX-23", "OBX-49", "OBX-51")
class RenewsNothing(MemoryOutboxStorage):
    """`renew` says True, and changes nothing."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        before = {each.event_id: row.claim.until for each in events if (row := self.row(each)) and row.claim}
        renewed = await super().renew(events, lease)
        for id, until in before.items():
            claim = self.backend.events[id].claim
            if claim is not None:
                claim.until = until
        return renewed


@breaks("OBX-23", "OBX-49", "OBX-51", "OBX-64")
class RevivesTheDead(MemoryOutboxStorage):
    """`renew` looks at the ids of the events alone."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        mine = [row.claim for each in events if (row := self.row(each)) and row.claim]
        renewed = await super().renew(events, lease)
        for claim in mine:
            claim.until = self.backend.clock.now() + self.kept(lease)
        return renewed or bool(mine)


@breaks("OBX-23", "OBX-49")
class RenewsSome(MemoryOutboxStorage):
    """One after another is renewed, until one was lost."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        return all([await super(RenewsSome, self).renew([each], lease) for each in events])


@breaks("OBX-23", "OBX-49")
class AddsToTheLease(MemoryOutboxStorage):
    """A renewal adds to what is left of the lease."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        ends = {each.event_id: row.claim.until for each in events if (row := self.row(each)) and row.claim}
        renewed = await super().renew(events, lease)
        if renewed:
            for each in events:
                claim = self.backend.events[each.event_id].claim
                if claim is not None:
                    claim.until = ends[each.event_id] + lease
        return renewed


# OBX-24 to OBX-28: relays and retention


class MarkFirst(MemoryRelay):
    """An event is marked before it is published."""

    async def tried(self, event: ClaimedEvent) -> bool:
        await self.client.mark_as_processed(event)
        return await super().tried(event)


@breaks("OBX-24", "OBX-25", "OBX-26", "OBX-27", "OBX-38", "OBX-39", "OBX-47", "OBX-48", "OBX-61")
class MarksBeforePublishing(MemoryOutboxStorage):
    """A relay marks an event, and publishes it then: at most once."""

    relay_type = MarkFirst


class GivesUp(MemoryRelay):
    """What fails once is over."""

    async def put_off(self, event: ClaimedEvent) -> None:
        await self.client.mark_as_processed(event)


@breaks("OBX-24", "OBX-26", "OBX-27", "OBX-39", "OBX-48")
class GivesUpAtOnce(MemoryOutboxStorage):
    """A relay logs what cannot be published, and marks it."""

    relay_type = GivesUp


class Raises(MemoryRelay):
    """What `publish` raises ends the run."""

    async def tried(self, event: ClaimedEvent) -> bool:
        if await super().tried(event):
            return True
        raise ConnectionResetError("the broker is gone")


@breaks("OBX-24", "OBX-26", "OBX-27", "OBX-39", "OBX-48")
class RaisesFromRun(MemoryOutboxStorage):
    """The broker's exception leaves `run_once`."""

    relay_type = Raises


class NewIds(MemoryRelay):
    """Each publication has an id of its own."""

    async def tried(self, event: ClaimedEvent) -> bool:
        inner = self.publish

        async def publish(given: StoredEvent) -> object:
            return await inner(replace(given, event_id=f"{given.event_id}-{self.client.backend.new_id('p')}"))

        self.publish = publish
        try:
            return await super().tried(event)
        finally:
            self.publish = inner


@breaks(
    "OBX-24",
    "OBX-25",
    "OBX-26",
    "OBX-27",
    "OBX-38",
    "OBX-39",
    "OBX-47",
    "OBX-48",
    "OBX-55",
    "OBX-59",
    "OBX-61",
    "OBX-62",
    "OBX-65",
)
class PublishesUnderNewIds(MemoryOutboxStorage):
    """A relay gives each publication an id of its own."""

    relay_type = NewIds


class Parallel(MemoryRelay):
    """A batch is published at once."""

    async def run_once(self) -> int:
        events = await self.claimed()
        published: list[bool] = []

        async def one(event: ClaimedEvent) -> None:
            published.append(await self.tried(event))

        async with anyio.create_task_group() as tasks:
            for each in events:
                tasks.start_soon(one, each)
        return sum(published)


@breaks("OBX-25", "OBX-26", "OBX-27", "OBX-38", "OBX-55", "OBX-59", "OBX-61")
class PublishesInParallel(MemoryOutboxStorage):
    """A relay publishes all that it has claimed at once."""

    relay_type = Parallel


class GoesOn(MemoryRelay):
    """What follows a failed event is published all the same."""

    async def run_once(self) -> int:
        return sum([await self.tried(each) for each in await self.claimed()])


@breaks("OBX-26", "OBX-27", "OBX-38", "OBX-61")
class GoesOnAfterAFailure(MemoryOutboxStorage):
    """A relay publishes the successor of an event that has failed."""

    relay_type = GoesOn


class OneMore(MemoryRelay):
    """An event is parked after one failure more."""

    async def put_off(self, event: ClaimedEvent) -> None:
        await super().put_off(replace(event, attempts=event.attempts - 1))


@breaks("OBX-27")
class ParksTooLate(MemoryOutboxStorage):
    """A relay gives up after `max_attempts` retries, which is one try more."""

    relay_type = OneMore


class NeverParks(MemoryRelay):
    """`max_attempts` is ignored."""

    async def put_off(self, event: ClaimedEvent) -> None:
        self.max_attempts = None
        await super().put_off(event)


@breaks("OBX-27")
class ParksNothing(MemoryOutboxStorage):
    """A relay tries a poison event for ever."""

    relay_type = NeverParks


class CountsAll(MemoryRelay):
    """What was not tried counts as tried."""

    def drop(self, event: ClaimedEvent) -> None:
        super().drop(event)
        row = self.client.row(event)
        if row is not None:
            row.event = replace(row.event, attempts=row.event.attempts + 1)


@breaks("OBX-27")
class CountsTheUntried(MemoryOutboxStorage):
    """A relay releases all that it could not publish, and so counts an attempt of what it has not tried."""

    relay_type = CountsAll


class CountsForItself(MemoryRelay):
    """The failures of an event are counted in the memory of the relay."""

    async def put_off(self, event: ClaimedEvent) -> None:
        counted = self.__dict__.setdefault("counted", {})
        await super().put_off(replace(event, attempts=counted.get(event.event_id, 0)))
        counted[event.event_id] = counted.get(event.event_id, 0) + 1


@breaks("OBX-27")
class CountsAnewAfterARestart(MemoryOutboxStorage):
    """A relay that is started again knows nothing of the failures before."""

    relay_type = CountsForItself


@breaks("OBX-28")
class PurgesByAge(MemoryOutboxStorage):
    """The bound of a purge counts from the save."""

    def end_event(self, row: Row) -> None:
        super().end_event(row)
        self.backend.processed[row.event.event_id] = (row.cell, -math.inf)


@breaks("OBX-28")
class MarksAnew(MemoryOutboxStorage):
    """Marking again sets the time of the mark anew."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        await super().mark_as_processed(event)
        marked = self.backend.processed.get(event.event_id)
        if marked is not None and self.is_own(marked[0]):
            self.backend.processed[event.event_id] = (marked[0], self.backend.clock.now())


@breaks("OBX-28", "OBX-63")
class PurgesWhatIsParkedOrPending(MemoryOutboxStorage):
    """A purge removes what is pending and was released long ago, too."""

    async def purge_processed(self, older_than: float) -> int:
        purged = await super().purge_processed(older_than)
        if purged:
            for each in self.pending()[:1]:
                del self.backend.events[each.event.event_id]
        return purged


@breaks("OBX-28", "OBX-46")
class PurgesAll(MemoryOutboxStorage):
    """A purge ignores its bound."""

    async def purge_processed(self, older_than: float) -> int:
        self.check_seconds("older_than", older_than)
        return await super().purge_processed(-1.0)

    def check_seconds(self, kind: str, seconds: object, *, above: float = -1.0) -> None:
        if seconds != -1.0 or kind != "older_than":
            super().check_seconds(kind, seconds, above=above)


# OBX-29 to OBX-37: pairs


@breaks("OBX-29", "OBX-41", "OBX-50", "OBX-52", "OBX-56")
class BufferNotCleared(MemoryOutboxStorage):
    """What a transaction has saved is in a buffer of the client, which a rollback forgets to clear."""

    buffered: Sequence[Row] = ()

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transacting() as tx:
            tx.saved += self.buffered
            self.buffered = ()
            try:
                yield tx
            except Exception:
                self.buffered = list(tx.saved)
                raise


AMBIENT: ContextVar[MemoryTransaction | None] = ContextVar("AMBIENT", default=None)


@breaks("OBX-30")
class AmbientTransaction(MemoryOutboxStorage):
    """A save without `tx` joins the transaction of its context, which tasks inherit."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transacting() as tx:
            AMBIENT.set(tx)
            yield tx

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        ambient = AMBIENT.get()
        joined = ambient if ambient is not None and not ambient.ended and ambient.client is self else None
        return await super().save_event(event, tx=tx if tx is not None else joined)


@breaks("OBX-30")
class OneTransactionAtATime(MemoryOutboxStorage):
    """A client has one connection: a second transaction is part of the first."""

    current: MemoryTransaction | None = None

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        if self.current is not None and not self.current.ended:
            await self.turn()
            yield self.current
            return
        async with super().transacting() as tx:
            self.current = tx
            yield tx


@breaks("OBX-31")
class TakesWhatComesLate(MemoryOutboxStorage):
    """A transaction that has ended takes events, which nobody commits."""

    def check_transaction(self, tx: object) -> None:
        with suppress(ClosedError):
            super().check_transaction(tx)


@breaks("OBX-32")
class CommitsInParts(OtherTransaction):
    """More events than one request takes are committed request by request."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transacting() as tx:
            yield tx
            size = self.limits.batch_size
            while len(tx.saved) > size:
                part, tx.saved = tx.saved[:size], tx.saved[size:]
                for row in part:
                    self.backend.events[row.event.event_id] = row
                await anyio.lowlevel.checkpoint()


@breaks("OBX-13", "OBX-33", "OBX-50")
class KeyedByContent(MemoryOutboxStorage):
    """The table is keyed by a hash of the content."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        for row in self.pending():
            held = row.event
            if row.cell == self.cell(key) and (held.payload, held.headers, held.message_key) == (
                event.payload,
                event.headers,
                event.message_key,
            ):
                return held
        return await super().put(key, event, tx)


@breaks("OBX-08", "OBX-32", "OBX-34")
class OnePageOfAnAggregate(MemoryOutboxStorage):
    """The listing of an aggregate ends with its first page."""

    async def get_pending_events_for_aggregate(self, aggregate_key: str) -> list[StoredEvent]:
        return (await super().get_pending_events_for_aggregate(aggregate_key))[: self.limits.page_size]


@breaks("OBX-34")
class OnePageWithoutAggregate(MemoryOutboxStorage):
    """The listing of events without an aggregate ends with its second page."""

    async def get_pending_unordered_events(self, limit: int) -> list[StoredEvent]:
        return (await super().get_pending_unordered_events(limit))[: 2 * self.limits.page_size]


@breaks("OBX-35", "OBX-49", "OBX-62")
class LosesTheSecondChunk(MemoryOutboxStorage):
    """A claim of more than one request takes returns the first."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        return (await super().take(relay_id, limit=limit, lease=lease))[: self.limits.batch_size]


@breaks("OBX-35")
class OneTooMany(MemoryOutboxStorage):
    """A claim that fills a request gives one event more."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        exactly = limit == self.limits.batch_size
        return await super().take(relay_id, limit=limit + 1 if exactly else limit, lease=lease)


@breaks("OBX-14", "OBX-36")
class SharedResult(MemoryOutboxStorage):
    """The tasks of a client share the cursor from which a claim is read."""

    result: Sequence[ClaimedEvent] = ()

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        self.result = await super().take(relay_id, limit=limit, lease=lease)
        if self.backend.locks or len(self.result) == 4:
            await anyio.lowlevel.checkpoint()
        return list(self.result)


@breaks("OBX-17", "OBX-21", "OBX-36", "OBX-37", "OBX-46", "OBX-53", "OBX-59")
class ClaimLocksItsAggregate(MemoryOutboxStorage):
    """Who has claimed an event keeps a lock on its aggregate, and saving runs into it."""

    async def put(self, key: str, event: OutboxEvent, tx: MemoryTransaction) -> StoredEvent:
        cell = self.cell(key)
        if key and any(row.cell == cell and row.held(self.backend.clock.now()) for row in self.backend.events.values()):
            await anyio.sleep(0.01)
            raise TimeoutError("lock timeout")
        return await super().put(key, event, tx)


# OBX-38 to OBX-50


class KeepsClaims(MemoryRelay):
    """What was claimed and not published waits for the end of its lease."""

    def drop(self, event: ClaimedEvent) -> None:
        """Nothing: the lease ends by itself."""


@breaks("OBX-38", "OBX-61")
class StopKeepsItsClaims(MemoryOutboxStorage):
    """A relay that is stopped keeps what it has claimed until the lease ends."""

    relay_type = KeepsClaims


class Unstoppable(MemoryRelay):
    """`stop` says so, and nothing else."""

    async def stop(self) -> None:
        if self.client.closed:
            await super().stop()


@breaks("OBX-38", "OBX-61")
class StopStopsNothing(MemoryOutboxStorage):
    """`stop` returns, and the task goes on."""

    relay_type = Unstoppable


class Slow(MemoryRelay):
    """It looks for work once a minute."""

    async def claimed(self) -> list[ClaimedEvent]:
        now = self.client.backend.clock.now()
        if self.scope is not None and now < self.__dict__.get("next", -math.inf):
            return []
        self.next = now + 60.0
        return await super().claimed()


@breaks("OBX-39", "OBX-59")
class PollsTooSeldom(MemoryOutboxStorage):
    """A relay that runs looks for work once a minute."""

    relay_type = Slow


class Once(MemoryRelay):
    """It looks for work when it is started."""

    async def work(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await self.run_once()
        finally:
            self.ended.set()


@breaks("OBX-39", "OBX-55", "OBX-59")
class LooksOnce(MemoryOutboxStorage):
    """A relay that is started publishes what there is, and ends."""

    relay_type = Once


@breaks("OBX-40", "OBX-50")
class OneIndexForAllConsumers(MemoryOutboxStorage):
    """The unique index of the inbox is on the id alone."""

    def is_first(self, record: tuple[Cell, str], tx: MemoryTransaction) -> bool:
        return super().is_first((record[0], ""), tx)


@breaks("OBX-40")
class JoinedRecord(MemoryOutboxStorage):
    """Consumer and id are joined to one key."""

    def is_first(self, record: tuple[Cell, str], tx: MemoryTransaction) -> bool:
        cell, consumer = record
        return super().is_first((cell._replace(name=consumer + cell.name), ""), tx)


@breaks("OBX-40")
class FoldedId(MemoryOutboxStorage):
    """The database compares ids without their case."""

    def is_first(self, record: tuple[Cell, str], tx: MemoryTransaction) -> bool:
        return super().is_first((record[0]._replace(name=record[0].name.lower()), record[1]), tx)


@breaks("OBX-40", "OBX-41")
class LooksBeforeItInserts(MemoryOutboxStorage):
    """Whether an id is known is looked up before it is inserted."""

    async def record(self, message_id: str, *, consumer: str, tx: Any | None = None) -> bool:
        if tx is not None or not isinstance(message_id, str) or not isinstance(consumer, str):
            return await super().record(message_id, consumer=consumer, tx=tx)
        known = (self.cell(message_id), consumer) in self.backend.received
        await super().record(message_id, consumer=consumer)
        return not known


@breaks("OBX-40", "OBX-50")
class WholeBatch(MemoryOutboxStorage):
    """A batch with one id that is known is taken for repeated as a whole."""

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Any | None = None) -> list[bool]:
        seen = await super().record_many(message_ids, consumer=consumer, tx=tx)
        return seen if all(seen) else [False] * len(seen)


@breaks("OBX-40", "OBX-41", "OBX-50")
class RepeatsWithinABatch(MemoryOutboxStorage):
    """A batch is compared with what was recorded before, and not with itself."""

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Any | None = None) -> list[bool]:
        known = set(self.backend.received)
        await super().record_many(message_ids, consumer=consumer, tx=tx)
        return [(self.cell(each), consumer) not in known for each in message_ids]


@breaks("OBX-32", "OBX-41", "OBX-50")
class RecordsOutside(MemoryOutboxStorage):
    """A record commits by itself, whatever becomes of its transaction."""

    async def record_many(self, message_ids: Sequence[str], *, consumer: str, tx: Any | None = None) -> list[bool]:
        if tx is not None:
            self.check_transaction(tx)
        return await super().record_many(message_ids, consumer=consumer)


@breaks("OBX-41")
class LosesRecords(MemoryOutboxStorage):
    """What is recorded in a transaction is not committed with it."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transacting() as tx:
            yield tx
            tx.received.clear()


@breaks("OBX-27", "OBX-42", "OBX-53", "OBX-67")
class GoesOnWithoutIt(OtherClaim):
    """The successors of a parked event are given out."""

    def claimable(self) -> list[Row]:
        now = self.backend.clock.now()
        lines = []
        for line in self.lines():
            if not any(each.held(now) for each in line):
                left = [each for each in line if not each.parked]
                late = [number for number, each in enumerate(left) if now < each.due]
                lines.append(left[: late[0]] if late else left)
        return self.shared_out(lines)


@breaks("OBX-42", "OBX-64")
class ParksById(MemoryOutboxStorage):
    """An event is parked by its id, whoever has it."""

    async def set_aside(self, event: ClaimedEvent) -> None:
        row = self.row(event)
        if row is not None and row.claim is not None:
            event = replace(event, claim_id=row.claim.id)
        await super().set_aside(event)


@breaks("OBX-42")
class KeepsItsAttempts(MemoryOutboxStorage):
    """An event that is unparked has as many attempts as before."""

    async def unpark(self, event: StoredEvent) -> None:
        row = self.row(event) if isinstance(event, StoredEvent) else None
        attempts = 0 if row is None else row.event.attempts
        await super().unpark(event)
        if row is not None:
            row.event = replace(row.event, attempts=attempts)


@breaks("OBX-43")
class OldestFirst(MemoryOutboxStorage):
    """The oldest events are claimed first, whatever their aggregate."""

    def shared_out(self, lines: Sequence[Sequence[Row]]) -> list[Row]:
        order = {id: number for number, id in enumerate(self.backend.events)}
        return sorted([each for line in lines for each in line], key=lambda each: order[each.event.event_id])


class CountsWhatWasNotPurged(MemoryTransaction):
    """`max() + 1` over the table, in which purged events are not any more."""

    def number(self, cell: Cell) -> int:
        backend = self.client.backend
        if not any(each.cell == cell for each in [*backend.events.values(), *self.saved]) and not any(
            each == cell for each, _ in backend.processed.values()
        ):
            backend.last.pop(cell, None)
        return super().number(cell)


@breaks("OBX-44")
class NumbersBeginAnew(MemoryOutboxStorage):
    """The number of an event is that after the highest in the table, which a purge may have emptied."""

    transaction_type = CountsWhatWasNotPurged


@breaks("OBX-44")
class PurgesItsInbox(MemoryOutboxStorage):
    """A purge empties the inbox, too."""

    async def purge_processed(self, older_than: float) -> int:
        purged = await super().purge_processed(older_than)
        self.backend.received.clear()
        return purged


@breaks("OBX-COM-21", "OBX-45")
class NarrowIndex(MemoryOutboxStorage):
    """Topic and keys have to fit into one index."""

    def checked(self, event: object) -> OutboxEvent:
        checked = super().checked(event)
        if len(f"{checked.destination_topic}{checked.message_key}{checked.aggregate_key}".encode()) > 760:
            raise TooLargeError(f"topic {checked.destination_topic!r}: the keys are too long for the index")
        return checked


@breaks("OBX-45")
class AnyNumberOfHeaders(MemoryOutboxStorage):
    """Headers beyond the declared number are dropped."""

    def checked_headers(self, topic: str, headers: object) -> dict[str, str]:
        if isinstance(headers, dict):
            headers = dict(list(headers.items())[:8])
        return super().checked_headers(topic, headers)


@breaks("OBX-46")
class NegativeLease(MemoryOutboxStorage):
    """A lease that is no time is taken for the shortest."""

    def check_seconds(self, kind: str, seconds: object, *, above: float = -1.0) -> None:
        if isinstance(seconds, float) and seconds < 0:
            return
        super().check_seconds(kind, seconds, above=above)


@breaks("OBX-46")
class TextIsEncoded(MemoryOutboxStorage):
    """The payload for some topics may be text, which is encoded."""

    def checked(self, event: object) -> OutboxEvent:
        if isinstance(event, OutboxEvent) and isinstance(event.payload, str) and event.destination_topic.endswith("-topic"):
            event = replace(event, payload=event.payload.encode())
        return super().checked(event)


class MarksInFinally(MemoryRelay):
    """An event is marked however its publishing ends."""

    async def tried(self, event: ClaimedEvent) -> bool:
        try:
            return await super().tried(event)
        except anyio.get_cancelled_exc_class():
            row = self.client.row(event)
            if row is not None and not self.client.gone:
                self.client.end_event(row)
            raise


@breaks("OBX-38", "OBX-47", "OBX-61")
class MarksWhatWasCancelled(MemoryOutboxStorage):
    """A relay marks an event in a `finally`."""

    relay_type = MarksInFinally


class EndsItsRun(MemoryRelay):
    """A run ends with the first failure, and what it had claimed is given back in the order of its ids: it is first again."""

    async def run_once(self) -> int:
        published = 0
        waiting = await self.claimed()
        try:
            while waiting:
                if not await self.tried(waiting[0]):
                    row = self.client.row(waiting[0])
                    if row is not None:
                        row.due = -math.inf
                    break
                waiting.pop(0)
                published += 1
        finally:
            for each in waiting[:]:
                self.drop(each)
        return published


@breaks("OBX-48")
class StuckAtTheFirst(MemoryOutboxStorage):
    """A relay ends its run with the first failure, which is the first again in the next."""

    relay_type = EndsItsRun


@breaks("OBX-49")
class RenewsTheFirstChunk(MemoryOutboxStorage):
    """Of more claims than one request takes the first are renewed."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        return await super().renew(events[: self.limits.batch_size], lease)


@breaks("OBX-49", "OBX-51")
class OnlyLater(MemoryOutboxStorage):
    """A renewal never makes a lease end earlier."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        ends = {each.event_id: row.claim.until for each in events if (row := self.row(each)) and row.claim}
        renewed = await super().renew(events, lease)
        for id, until in ends.items():
            claim = self.backend.events[id].claim
            if claim is not None:
                claim.until = max(claim.until, until)
        return renewed


@breaks("OBX-50")
class MarksThePrevious(MemoryOutboxStorage):
    """After a rollback the next mark of an event without an aggregate is lost, as it was sent on the old connection."""

    dropped = False

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        try:
            async with super().transacting() as tx:
                yield tx
        except Exception:
            self.dropped = True
            raise

    async def mark_as_processed(self, event: StoredEvent) -> None:
        if self.dropped and isinstance(event, StoredEvent) and event.aggregate_key is None:
            self.dropped = False
            await self.turn()
            return
        await super().mark_as_processed(event)


@breaks("OBX-49", "OBX-51")
class RenewsForGood(MemoryOutboxStorage):
    """A renewal that comes in the last part of a lease is answered before it is written, and the write is lost."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        ends = {each.event_id: row.claim.until for each in events if (row := self.row(each)) and row.claim}
        renewed = await super().renew(events, lease)
        now = self.backend.clock.now()
        for id, until in ends.items():
            claim = self.backend.events[id].claim
            if claim is not None and until - now < 0.4 * lease:
                claim.until = until
        return renewed


@breaks("OBX-52")
class SavedOneByOne(MemoryOutboxStorage):
    """A transaction that cannot be committed, as the backend is gone, is committed by a reconnecting driver."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transacting() as tx:
            try:
                yield tx
            finally:
                if not self.backend.reachable:
                    tx.commit()


@breaks("OBX-53")
class UnparksAnything(MemoryOutboxStorage):
    """`unpark` sets the status of an event to pending, whatever it was."""

    async def unpark(self, event: StoredEvent) -> None:
        await super().unpark(event)
        row = self.row(event)
        if row is not None:
            row.claim, row.due = None, -math.inf


@breaks("OBX-53")
class ResetsAnything(MemoryOutboxStorage):
    """`unpark` sets the attempts of an event to 0, whether or not it was parked."""

    async def unpark(self, event: StoredEvent) -> None:
        await super().unpark(event)
        row = self.row(event)
        if row is not None:
            row.event = replace(row.event, attempts=0)


@breaks("OBX-53")
class ParkedForEver(MemoryOutboxStorage):
    """A parked event is in another table, where marking does not look."""

    async def mark_as_processed(self, event: StoredEvent) -> None:
        row = self.row(event) if isinstance(event, StoredEvent) else None
        if row is not None and row.parked:
            await self.turn()
            return
        await super().mark_as_processed(event)


class Greedy(MemoryRelay):
    """It claims all that there is."""

    async def claimed(self) -> list[ClaimedEvent]:
        return await self.client.take(self.relay_id, limit=1000, lease=self.lease)


@breaks("OBX-54")
class IgnoresTheBatch(MemoryOutboxStorage):
    """A relay claims all that there is, whatever its batch."""

    relay_type = Greedy


class Constant(MemoryRelay):
    """Its lease is a constant."""

    async def claimed(self) -> list[ClaimedEvent]:
        return await self.client.take(self.relay_id, limit=self.batch, lease=max(self.lease, 300.0))


@breaks("OBX-25", "OBX-59")
class IgnoresTheLease(MemoryOutboxStorage):
    """A relay claims for five minutes, whatever its lease."""

    relay_type = Constant


class OwnConnection(MemoryRelay):
    """It has a connection of its own, which its client does not know of."""

    def __init__(self, client: MemoryOutboxStorage, *arguments: Any, **keywords: Any) -> None:
        super().__init__(client, *arguments, **keywords)
        own = MemoryOutboxStorage(
            client.backend,
            namespace=client.namespace,
            tenant_id=client.tenant_id,
            password=client.password,
            capabilities=client.capabilities,
        )
        own.tasks = client.tasks
        self.client = own

    async def stop(self) -> None:
        if not self.__dict__.get("outlives"):
            await super().stop()


@breaks("OBX-COM-08", "OBX-55")
class OutlivesItsClient(MemoryOutboxStorage):
    """A relay has a connection of its own, and goes on when its client is closed."""

    relay_type = OwnConnection

    async def close(self) -> None:
        for each in self.relays:
            each.__dict__["outlives"] = True
        await super().close()


class Deadlocked(MemoryTransaction):
    """A deadlock is the driver's own error."""

    async def lock(self, lock: tuple[object, ...]) -> None:
        try:
            await super().lock(lock)
        except ConflictError as error:
            raise TimeoutError("deadlock detected") from error


@breaks("OBX-56")
class LeaksDeadlocks(MemoryOutboxStorage):
    """The driver's error for a deadlock reaches the application, which does not know that it may try again."""

    transaction_type = Deadlocked


@breaks("OBX-57")
class LocksOutliveTheirClient(MemoryOutboxStorage):
    """What a client has locked that vanished stays locked."""

    def vanish(self) -> None:
        held = [(lock, each) for lock, each in self.backend.locks.items() if each.client is self]
        super().vanish()
        self.backend.locks.update(held)


@breaks("OBX-58")
class LongestLease(MemoryOutboxStorage):
    """A lease, and a retry, of more than an hour is cut to an hour."""

    def kept(self, seconds: float) -> float:
        return min(super().kept(seconds), 3600.0)


@breaks("OBX-58")
class WholeUnits(MemoryOutboxStorage):
    """Leases are in whole units of the shortest one."""

    def kept(self, seconds: float) -> float:
        unit = self.limits.min_ttl
        return super().kept(math.floor(round(seconds / unit, 6)) * unit)


class Mortal(MemoryRelay):
    """Its task ends with the first error of the backend."""

    async def run_once(self) -> int:
        try:
            return await super().run_once()
        except UnavailableError:
            if self.scope is not None:
                self.scope.cancel()
                await anyio.lowlevel.checkpoint()
            raise


@breaks("OBX-59")
class DiesInAnOutage(MemoryOutboxStorage):
    """The task of a relay ends with the first outage, without a word."""

    relay_type = Mortal


class GivenToTheGone(MemoryTransaction):
    """Who waits for a lock and is cancelled gets it all the same."""

    async def lock(self, lock: tuple[object, ...]) -> None:
        try:
            await super().lock(lock)
        except anyio.get_cancelled_exc_class():
            self.client.backend.__dict__.setdefault("gone", []).append((lock, MemoryTransaction(self.client)))
            raise

    def end(self) -> None:
        super().end()
        gone = self.client.backend.__dict__.get("gone", [])
        for lock, nobody in gone:
            if lock not in self.client.backend.locks:
                self.client.backend.locks[lock] = nobody


@breaks("OBX-60")
class LocksForTheGone(MemoryOutboxStorage):
    """A lock is handed to whoever is first in its queue, also to one that was cancelled."""

    transaction_type = GivenToTheGone


class LateAnswer(MemoryRelay):
    """What a claim returns after the relay was stopped, it keeps."""

    async def claimed(self) -> list[ClaimedEvent]:
        events = await super().claimed()
        if self.scope is not None:
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                events.clear()
                raise
        return events


@breaks("OBX-61")
class StoppedWhileClaiming(MemoryOutboxStorage):
    """A relay that is stopped while it claims keeps what it is given."""

    relay_type = LateAnswer


class Deferred(MemoryTransaction):
    """What is saved is written at the commit."""

    def commit(self) -> None:
        for row, given in self.__dict__.get("given", ()):
            row.event = replace(row.event, headers=dict(given))
        super().commit()


@breaks("OBX-COM-17")
class WritesAtTheCommit(MemoryOutboxStorage):
    """An event that is saved in a transaction is read when that commits: its headers are those of then."""

    transaction_type = Deferred

    async def save_event(self, event: OutboxEvent, *, tx: Any | None = None) -> StoredEvent:
        stored = await super().save_event(event, tx=tx)
        if tx is not None:
            tx.__dict__.setdefault("given", []).append((tx.saved[-1], event.headers))
        return stored


class FirstChunk(MemoryRelay):
    """Of what it has claimed it publishes as much as a request holds."""

    async def claimed(self) -> list[ClaimedEvent]:
        return (await super().claimed())[: self.client.limits.batch_size]


@breaks("OBX-62")
class PublishesTheFirstChunk(MemoryOutboxStorage):
    """A relay whose batch is more than one request forgets what came with the second."""

    relay_type = FirstChunk


@breaks("OBX-63")
class PurgesTheFirstChunk(MemoryOutboxStorage):
    """A purge deletes as much as a request may, and is done."""

    async def purge_processed(self, older_than: float) -> int:
        before = dict(self.backend.processed)
        await super().purge_processed(older_than)
        purged = [id for id in before if id not in self.backend.processed]
        self.backend.processed |= {id: before[id] for id in purged[self.limits.batch_size :]}
        return len(purged[: self.limits.batch_size])


class ByRelay(MemoryOutboxStorage):
    """Base of a defect that knows a claim by its relay."""

    async def take(self, relay_id: str, *, limit: int, lease: float) -> list[ClaimedEvent]:
        claimed = await super().take(relay_id, limit=limit, lease=lease)
        self.backend.__dict__.setdefault("relays", {}).update({each.claim_id: relay_id for each in claimed})
        return claimed

    def renamed(self, event: ClaimedEvent) -> ClaimedEvent:
        """*event* by the claim that its relay has on it now, if there is one."""
        row = self.row(event)
        if row is None or row.claim is None or row.claim.relay_id != self.backend.__dict__["relays"].get(event.claim_id):
            return event
        return replace(event, claim_id=row.claim.id)


@breaks("OBX-64")
class ReleasesByRelay(ByRelay):
    """`release` asks whether the relay has the event."""

    async def let_go(self, event: ClaimedEvent, *, retry_in: float = 0.0) -> None:
        await super().let_go(self.renamed(event), retry_in=retry_in)


@breaks("OBX-64")
class RenewsByRelay(ByRelay):
    """`renew` asks whether the relay has the events."""

    async def renew(self, events: Sequence[ClaimedEvent], lease: float) -> bool:
        return await super().renew([self.renamed(each) for each in events], lease)


@breaks("OBX-64")
class ParksByRelay(ByRelay):
    """`park` asks whether the relay has the event."""

    async def set_aside(self, event: ClaimedEvent) -> None:
        await super().set_aside(self.renamed(event))


class MarksAtTheEnd(MemoryRelay):
    """What was published is marked at the end of the run."""

    async def run_once(self) -> int:
        done = self.__dict__["done"] = list[ClaimedEvent]()
        published = await super().run_once()
        for each in done:
            await self.client.mark_as_processed(each)
        return published

    async def tried(self, event: ClaimedEvent) -> bool:
        try:
            await self.publish(event)
        except Exception:
            await self.put_off(event)
            return False
        self.__dict__["done"].append(event)
        return True


@breaks("OBX-65")
class MarksInABatch(MemoryOutboxStorage):
    """A relay marks in one statement what it has published in a run."""

    relay_type = MarksAtTheEnd


class EveryNamespace(MemoryOutboxStorage):
    """Base of a defect that forgets the namespace, and knows the tenant."""

    def is_own(self, cell: Cell) -> bool:
        return super().is_own(cell) or ("everywhere" in self.__dict__ and cell.tenant == self.cell("").tenant)

    @asynccontextmanager
    async def everywhere(self) -> AsyncIterator[None]:
        """In here it is forgotten."""
        self.__dict__["everywhere"] = True
        try:
            yield
        finally:
            self.__dict__.pop("everywhere", None)


@breaks("OBX-63")
class PurgesEveryNamespace(EveryNamespace):
    """A purge deletes by the tenant alone."""

    async def purge_processed(self, older_than: float) -> int:
        async with self.everywhere():
            return await super().purge_processed(older_than)


@breaks("OBX-66")
class ListsParkedOfEveryNamespace(EveryNamespace):
    """`list_parked` asks for the tenant alone."""

    async def list_parked(self) -> list[StoredEvent]:
        async with self.everywhere():
            return await super().list_parked()


@breaks("OBX-66")
class ClaimsInEveryNamespace(EveryNamespace):
    """A claim asks for the tenant alone."""

    def claimable(self) -> list[Row]:
        self.__dict__["everywhere"] = True
        try:
            return super().claimable()
        finally:
            del self.__dict__["everywhere"]


@breaks("OBX-66")
class OneInboxForAllNamespaces(MemoryOutboxStorage):
    """The inbox knows the tenant alone."""

    def is_first(self, record: tuple[Cell, str], tx: MemoryTransaction) -> bool:
        return super().is_first((record[0]._replace(space=""), record[1]), tx)


@breaks("OBX-43", "OBX-67")
class LooksAtTheOldest(MemoryOutboxStorage):
    """A claim looks at the oldest hundred rows."""

    def claimable(self) -> list[Row]:
        oldest = self.pending()[:100]
        return [each for each in super().claimable() if each in oldest]


def _number(id: str) -> int:
    return int(id[1:])
