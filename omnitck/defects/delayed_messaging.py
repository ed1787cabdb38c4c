"""Broken publishers of delayed messages, in the order of the rules that reject them."""

import base64
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.delayed_messaging import MemoryDelayedPublisher
from omnitck.shared.exceptions import InvalidArgumentError, NotFoundError, PermissionDeniedError, TooLargeError
from omnitck.shared.models import ConsumedMessage

# The common family

break_with(
    MemoryDelayedPublisher,
    {
        clients.UnknownCapability: "DLY-COM-02",
        clients.CapabilitiesAsText: "DLY-COM-02",
        clients.LowLimit: "DLY-COM-02",
        clients.StaleAdvertisement: "DLY-COM-04",
        clients.UnflushedBuffer: "DLY-COM-06",
        clients.DoubleRelease: "DLY-COM-07",
        clients.SilentReconnect: "DLY-COM-08",
        clients.SwallowingExit: "DLY-COM-09",
        clients.SharedPool: "DLY-COM-06 DLY-COM-10 MT-16",
        clients.OrphanedTask: "DLY-COM-11",
        clients.BreakingClose: "DLY-COM-11",
        clients.LeakingVendorError: "DLY-COM-12",
        clients.NoCause: "DLY-COM-12",
        clients.SwallowedCancellation: "DLY-COM-14",
        clients.DefaultOnCancellation: "DLY-COM-14",
        clients.SharedCursor: "DLY-COM-15 DLY-COM-18 MT-14",
        clients.CoercedKey: "DLY-COM-19",
        clients.NormalisedKey: "DLY-COM-20",
        clients.DecodedKey: "DLY-COM-20 MT-07",
        clients.TruncatedKey: "DLY-COM-21",
        clients.LimitInCharacters: "DLY-COM-21",
        # Here alone: each rule connects, and this contract has the fewest.
        clients.BlockingConnect: "DLY-COM-23",
        clients.PrintedPassword: "DLY-COM-24",
        clients.CrashedWorker: "DLY-COM-25",
        clients.CancelsItsCaller: "DLY-COM-26",
        clients.ForgottenTimer: "DLY-COM-26",
    },
)


@breaks("DLY-COM-01")
class RenamedParameter(MemoryDelayedPublisher):
    """`publish` calls its payload `body`."""

    async def publish(
        self,
        topic: str,
        body: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
    ) -> str:
        return await super().publish(topic, body, key, headers, delay_seconds)


@breaks("DLY-COM-03", without="cancel_scheduled")
class CancelsNothing(MemoryDelayedPublisher):
    """`cancel` is there without being supported, and says False of everything."""

    async def cancel(self, schedule_id: str) -> bool:
        await self.turn()
        return False


@breaks("DLY-COM-05", "DLY-COM-06", "DLY-COM-16", "MT-17")
class ExclusiveTopic(MemoryDelayedPublisher):
    """The queue belongs to the first client that publishes to it, and the broker drops what others send."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        owners = self.backend.__dict__.setdefault("owners", {})
        if owners.setdefault(self.cell(topic), self) is not self:
            return self.backend.new_id()
        return super().put(topic, message, ttl=ttl)


class OtherDelay(MemoryDelayedPublisher):
    """Base of a defect that takes a delay for another."""

    def delay(self, topic: str, seconds: object) -> float:
        return self.instead_of(super().delay(topic, seconds))

    def instead_of(self, delay: float) -> float:
        """What the broker is told instead of *delay*."""
        return delay


class OtherSchedule(MemoryDelayedPublisher):
    """Base of a defect that changes a delayed message while it waits."""

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        return super().schedule(topic, self.stored(message), due)

    def stored(self, message: ConsumedMessage) -> ConsumedMessage:
        """What arrives in the place of *message*."""
        return message


@breaks("DLY-COM-13")
class NamelessError(MemoryDelayedPublisher):
    """ "the delay is negative", but of which message?"""

    def delay(self, topic: str, seconds: object) -> float:
        try:
            return super().delay(topic, seconds)
        except TooLargeError:
            raise
        except InvalidArgumentError:
            raise InvalidArgumentError("the delay is no number of seconds from 0") from None


@breaks("DLY-COM-13")
class QuotedPayload(MemoryDelayedPublisher):
    """The error of a payload of the wrong type quotes it."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        if isinstance(payload, str):
            raise InvalidArgumentError(f"topic {topic!r}: {payload!r} is no bytes")
        return super().message(topic, payload, key, headers)


@breaks("DLY-COM-16")
class TornMessage(MemoryDelayedPublisher):
    """A publication that is cancelled leaves the first half of its payload."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
    ) -> str:
        try:
            return await super().publish(topic, payload, key, headers, delay_seconds)
        except anyio.get_cancelled_exc_class():
            if delay_seconds is None:
                self.put(topic, ConsumedMessage(payload[: len(payload) // 2]))
            raise


@breaks("DLY-COM-17")
class AliasedHeaders(MemoryDelayedPublisher):
    """The message keeps its caller's headers."""

    def checked_headers(self, topic: str, headers: object) -> dict[str, str]:
        super().checked_headers(topic, headers)
        return headers if isinstance(headers, dict) else {}


@breaks("DLY-COM-22")
class TruncatedPayload(MemoryDelayedPublisher):
    """What is too long is cut, without a word."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        return super().message(topic, payload[: self.limits.value_bytes] if isinstance(payload, bytes) else payload, key, headers)


@breaks("DLY-COM-23")
class SynchronousLookup(MemoryDelayedPublisher):
    """Without a tenant, `publish_at` finds its queue with the vendor's synchronous client, once for each topic."""

    async def publish_at(self, topic: str, *arguments: Any, **keywords: Any) -> str:
        self.check_usable()
        self.check_key(topic)
        if self.tenant_id is None:
            self.find(topic)
        return await super().publish_at(topic, *arguments, **keywords)

    def find(self, topic: str) -> None:
        """Ask for the address of *topic*."""
        known = self.backend.__dict__.setdefault("known", set())
        if topic not in known:
            known.add(topic)
            time.sleep(0.15)


# Time


@breaks("DLY-01", "DLY-05", "DLY-11", "DLY-13", "DLY-16", "DLY-18")
class MillisecondsForSeconds(OtherDelay):
    """Seconds are given to a client that takes milliseconds."""

    def instead_of(self, delay: float) -> float:
        return delay / 1000


@breaks("DLY-01", "DLY-05", "DLY-09", "DLY-11", "DLY-13", "DLY-16", "DLY-17")
class WholeSeconds(OtherDelay):
    """`int(delay)`: a part of a second is none."""

    def instead_of(self, delay: float) -> float:
        return int(delay)


@breaks("DLY-01", "DLY-05")
class Jitter(OtherDelay):
    """What is far enough in the future comes up to a tenth earlier, so that not everything comes at once."""

    def instead_of(self, delay: float) -> float:
        return delay * 0.9 if 0.5 < delay < 10 else delay


@breaks("DLY-02")
class SlowPoll(OtherDelay):
    """The broker is asked for what is due less often than the declared lateness allows."""

    def instead_of(self, delay: float) -> float:
        return delay and delay + 5 * self.numbers().delay_lateness


@breaks("DLY-02")
class BackOff(OtherDelay):
    """The poll slows down while nothing is due."""

    def instead_of(self, delay: float) -> float:
        return delay * 1.05 if 0.5 < delay < 10 else delay


@breaks("DLY-03")
class WaitingRoom(MemoryDelayedPublisher):
    """An immediate message is a row that is due now, and the poller looks at the oldest 100 rows."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        if len(self.backend.scheduled) < 100:
            return super().put(topic, message, ttl=ttl)
        return self.schedule(topic, message, max(due for due, _, _ in self.backend.scheduled.values()))


@breaks("DLY-04", "DLY-12")
class DelayHeader(OtherSchedule):
    """The header that the delaying exchange reads arrives."""

    def stored(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers={**message.headers, "x-delay": "300"})


@breaks("DLY-04", "DLY-12")
class Envelope(OtherSchedule):
    """What is not text waits in base64, and nobody undoes that."""

    def stored(self, message: ConsumedMessage) -> ConsumedMessage:
        try:
            message.payload.decode()
        except UnicodeDecodeError:
            return replace(message, payload=base64.b64encode(message.payload))
        return message


@breaks("DLY-04", "DLY-12")
class KeylessRow(OtherSchedule):
    """The table of what waits has no column for the key."""

    def stored(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, key=None)


@breaks("DLY-04")
class EmptyIsNull(OtherSchedule):
    """The table of what waits takes an empty value for none."""

    def stored(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers={name: value for name, value in message.headers.items() if value})


@breaks("DLY-05", "DLY-17")
class HeadOfLine(MemoryDelayedPublisher):
    """What waits is a queue with a time to live and a dead-letter exchange, and only its head expires."""

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        before = [each for each, cell, _ in self.backend.scheduled.values() if cell == self.cell(topic)]
        return super().schedule(topic, message, max([due, *before]))


# Not lost, not repeated


@breaks("DLY-06", "DLY-07", "DLY-08", "DLY-13", "DLY-14", "DLY-16", "DLY-17")
class KeyedByTime(MemoryDelayedPublisher):
    """What waits is a mapping from tenths of seconds to messages."""

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        for id, (other, cell, _) in list(self.backend.scheduled.items()):
            if cell == self.cell(topic) and round(other, 1) == round(due, 1):
                del self.backend.scheduled[id]
        return super().schedule(topic, message, due)


@breaks("DLY-06", "DLY-08")
class LimitedPoll(MemoryDelayedPublisher):
    """`SELECT ... LIMIT 20`, and then `DELETE` of everything that was due."""

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        alike = [each for each, cell, _ in self.backend.scheduled.values() if cell == self.cell(topic) and each == due]
        return super().schedule(topic, message, due) if len(alike) < 20 else self.backend.new_id()


class Owned(MemoryDelayedPublisher):
    """Base of a defect in which rows belong to clients."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.rows: list[str] = []

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        self.rows.append(super().schedule(topic, message, due))
        return self.rows[-1]

    def end(self) -> None:
        """Let the rows of this client go with it."""
        for id in self.rows:
            self.backend.scheduled.pop(id, None)


@breaks("DLY-07")
class SleepingTask(Owned):
    """A message waits in a task of its publisher, and is lost with the process."""

    def vanish(self) -> None:
        super().vanish()
        self.end()

    async def close(self) -> None:
        await super().close()
        self.end()


@breaks("DLY-07")
class TidyClose(Owned):
    """`close` removes what still waits."""

    async def close(self) -> None:
        await super().close()
        self.end()


@breaks("DLY-08", "DLY-15")
class TwoPollers(SleepingTask):
    """Each client polls the table, and the pollers of two find the same row due."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.backend.__dict__.setdefault("pollers", []).append(self)

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        for poller in self.backend.__dict__["pollers"]:
            if poller is not self and not poller.closed and poller.tenant_id == self.tenant_id:
                Owned.schedule(poller, topic, message, due)
        return super().schedule(topic, message, due)


# Edges


@breaks("DLY-09")
class RoundedDown(MemoryDelayedPublisher):
    """A delay is cut to a multiple of the resolution, and a short one to none."""

    def delay(self, topic: str, seconds: object) -> float:
        whole = super().delay(topic, seconds)
        resolution = self.numbers().delay_resolution
        return whole if not isinstance(seconds, float) else math.floor(round(seconds / resolution, 6)) * resolution


@breaks("DLY-10", "DLY-COM-13")
class NegativeIsNow(MemoryDelayedPublisher):
    """A negative delay means at once."""

    def delay(self, topic: str, seconds: object) -> float:
        return super().delay(topic, 0.0 if isinstance(seconds, float) and seconds < 0 else seconds)


@breaks("DLY-10")
class NaNIsNow(MemoryDelayedPublisher):
    """`if delay < 0: raise` and `if delay > 0: wait`: a delay that is no number is neither."""

    def delay(self, topic: str, seconds: object) -> float:
        return super().delay(topic, 0.0 if isinstance(seconds, float) and math.isnan(seconds) else seconds)


@breaks("DLY-10")
class ConvertedDelay(MemoryDelayedPublisher):
    """A delay is whatever `float` takes."""

    def delay(self, topic: str, seconds: object) -> float:
        return super().delay(topic, float(seconds) if isinstance(seconds, str | bool) else seconds)


@breaks("DLY-10")
class CutToMost(MemoryDelayedPublisher):
    """A delay that is too long is cut to the longest, without a word."""

    def delay(self, topic: str, seconds: object) -> float:
        return super().delay(topic, min(seconds, self.numbers().max_delay) if isinstance(seconds, float) else seconds)


@breaks("DLY-10")
class Wraps(MemoryDelayedPublisher):
    """A delay beyond the longest is a negative number of milliseconds, and is delivered at once."""

    def delay(self, topic: str, seconds: object) -> float:
        too_long = isinstance(seconds, float) and self.numbers().max_delay < seconds < math.inf
        return super().delay(topic, 0.0 if too_long else seconds)


@breaks("DLY-10")
class CutInstant(MemoryDelayedPublisher):
    """An instant that is too far away is replaced by the last one that can be kept."""

    async def publish_at(self, topic: str, *arguments: Any, deliver_at: datetime, **keywords: Any) -> str:
        last = datetime.now(UTC) + timedelta(seconds=self.numbers().max_delay - 1)
        if isinstance(deliver_at, datetime) and deliver_at.tzinfo is not None:
            deliver_at = min(deliver_at, last)
        return await super().publish_at(topic, *arguments, deliver_at=deliver_at, **keywords)


class AfterCancellation(MemoryDelayedPublisher):
    """Base of a defect that cancellation shows."""

    async def publish_later(self, topic: str, payload: object, key: object, headers: object, delay: float) -> str:
        try:
            return await super().publish_later(topic, payload, key, headers, delay)
        except anyio.get_cancelled_exc_class():
            if delay:
                self.cancelled(topic, self.message(topic, payload, key, headers), self.backend.clock.now() + delay)
            raise

    def cancelled(self, topic: str, message: ConsumedMessage, due: float) -> None:
        """What becomes of a delayed *message* whose publication was cancelled."""


@breaks("DLY-11")
class RetryAfterCancellation(AfterCancellation):
    """A cancelled publication has been stored, and is stored once more by the retry that nobody told."""

    def cancelled(self, topic: str, message: ConsumedMessage, due: float) -> None:
        for _ in range(2):
            self.schedule(topic, message, due)


@breaks("DLY-11")
class DelayInASecondStep(AfterCancellation):
    """A message is stored first, and its time in a second step, which cancellation leaves out."""

    def cancelled(self, topic: str, message: ConsumedMessage, due: float) -> None:
        self.put(topic, message)


@breaks("DLY-12")
class ShortColumn(OtherSchedule):
    """The column of what waits holds 65,535 bytes, and the database cuts."""

    def stored(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, payload=message.payload[:65_535])


# cancel_scheduled


@breaks("DLY-13", "DLY-14")
class LoadedRow(MemoryDelayedPublisher):
    """The poller has loaded what is due within a second, and does not learn that a row is deleted."""

    async def cancel(self, schedule_id: str) -> bool:
        row = self.backend.scheduled.get(schedule_id)
        cancelled = await super().cancel(schedule_id)
        if cancelled and row is not None and row[0] < self.backend.clock.now() + 1:
            self.backend.scheduled[schedule_id] = row
        return cancelled


@breaks("DLY-13")
class CancelledSlot(MemoryDelayedPublisher):
    """`cancel` deletes everything of the topic that is due at the same time."""

    async def cancel(self, schedule_id: str) -> bool:
        row = self.backend.scheduled.get(schedule_id)
        cancelled = await super().cancel(schedule_id)
        for id, each in list(self.backend.scheduled.items()):
            if cancelled and row is not None and each[:2] == row[:2]:
                del self.backend.scheduled[id]
        return cancelled


@breaks("DLY-14", "DLY-15")
class DeliveredRow(MemoryDelayedPublisher):
    """A row stays until the next clean-up, and may be cancelled although it was delivered."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.dues: dict[str, float] = self.backend.__dict__.setdefault("dues", {})

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        id = super().schedule(topic, message, due)
        self.dues[id] = due
        return id

    async def cancel(self, schedule_id: str) -> bool:
        due = self.dues.get(schedule_id, math.inf)
        return await super().cancel(schedule_id) or due <= self.backend.clock.now() < due + 60


@breaks("DLY-14")
class UnsureOfTheLast(MemoryDelayedPublisher):
    """Shortly before it is due, a message is deleted, and the answer is that it may have gone."""

    async def cancel(self, schedule_id: str) -> bool:
        row = self.backend.scheduled.get(schedule_id)
        cancelled = await super().cancel(schedule_id)
        return cancelled and (row is None or row[0] > self.backend.clock.now() + 0.1)


@breaks("DLY-14", "DLY-15")
class AlwaysCancelled(MemoryDelayedPublisher):
    """`cancel` tells whether the deletion succeeded, and it does, also where there is nothing."""

    async def cancel(self, schedule_id: str) -> bool:
        await super().cancel(schedule_id)
        return True


@breaks("DLY-15")
class IdOfOwnProcess(Owned):
    """A client cancels what it has scheduled itself."""

    async def cancel(self, schedule_id: str) -> bool:
        return await super().cancel(schedule_id if schedule_id in self.rows else "")


@breaks("DLY-15")
class NotFoundIsRaised(MemoryDelayedPublisher):
    """`cancel` of what nobody has scheduled raises what the service says."""

    async def cancel(self, schedule_id: str) -> bool:
        cancelled = await super().cancel(schedule_id)
        if not schedule_id.startswith("m"):
            raise NotFoundError(f"schedule {schedule_id!r} does not exist")
        return cancelled


@breaks("DLY-15")
class NumberedSchedule(MemoryDelayedPublisher):
    """The id of a schedule is the service's sequence number."""

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> Any:
        return int(super().schedule(topic, message, due)[1:])

    async def cancel(self, schedule_id: Any) -> bool:
        return await super().cancel(f"m{schedule_id}")


# absolute_time


class OtherInstant(MemoryDelayedPublisher):
    """Base of a defect that takes an instant for another."""

    async def publish_at(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        deliver_at: datetime,
    ) -> str:
        instead: Any = self.instead_of(deliver_at)
        return await super().publish_at(topic, payload, key, headers, deliver_at=instead)

    def instead_of(self, instant: Any) -> Any:
        """What the broker is told instead of *instant*."""
        return instant


@breaks("DLY-16", "DLY-COM-13")
class NaiveIsUTC(OtherInstant):
    """A time without a zone is taken for UTC."""

    def instead_of(self, instant: Any) -> Any:
        naive = isinstance(instant, datetime) and instant.tzinfo is None
        return instant.replace(tzinfo=UTC) if naive else instant


@breaks("DLY-16")
class WallClock(OtherInstant):
    """The zone is dropped on the way, and the hour of another is taken for that of UTC."""

    def instead_of(self, instant: Any) -> Any:
        return instant.replace(tzinfo=UTC) if isinstance(instant, datetime) and instant.tzinfo else instant


@breaks("DLY-16")
class SecondsOfTheEpoch(OtherInstant):
    """A number is taken for seconds since 1970."""

    def instead_of(self, instant: Any) -> Any:
        return datetime.fromtimestamp(instant, UTC) if isinstance(instant, float) else instant


@breaks("DLY-16")
class PastIsRefused(OtherInstant):
    """An instant that has passed is refused, as a service does that allows a minute for its clock."""

    def instead_of(self, instant: Any) -> Any:
        if isinstance(instant, datetime) and instant.tzinfo and (datetime.now(UTC) - instant).total_seconds() > 60:
            raise InvalidArgumentError("deliver_at has passed")
        return instant


# ordering_by_due_time


@breaks("DLY-17")
class OneTimerEach(MemoryDelayedPublisher):
    """Each message has a timer, and those that ring in one turn are answered in the order in which they were set."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.backend.in_due_order = False


# long_delay


@breaks("DLY-18")
class QuarterOfAnHour(MemoryDelayedPublisher):
    """`long_delay` is declared, and the queue takes delays of 15 minutes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.numbers(), max_delay=900.0)


@breaks("DLY-18")
class RefusedByTheQueue(OtherDelay):
    """`max_delay` is a year, and the queue takes delays of 15 minutes."""

    def instead_of(self, delay: float) -> float:
        if delay > 900:
            raise TooLargeError("a delay is 900 s at most")
        return delay


@breaks("DLY-18")
class CutToAQuarter(OtherDelay):
    """A delay of more than 15 minutes is cut to that, without a word."""

    def instead_of(self, delay: float) -> float:
        return min(delay, 900.0)


@breaks("DLY-18")
class HalfADay(OtherDelay):
    """The delay is a lock of the message, and a lock ends after 12 hours."""

    def instead_of(self, delay: float) -> float:
        return min(delay, 43_200.0)


@breaks("DLY-18")
class SignedMilliseconds(OtherDelay):
    """Milliseconds have 32 bits, of which one is the sign, and what is due in the past is delivered at once."""

    def instead_of(self, delay: float) -> float:
        milliseconds = (int(delay * 1000) + 2**31) % 2**32 - 2**31
        return delay if delay < 2**31 / 1000 else max(milliseconds / 1000, 0.0)


@breaks("DLY-18")
class UnsignedMilliseconds(OtherDelay):
    """Milliseconds have 32 bits, and of a delay of 50 days some are left over."""

    def instead_of(self, delay: float) -> float:
        return delay if delay < 2**32 / 1000 else int(delay * 1000) % 2**32 / 1000


# Tenants


@breaks("MT-03")
class ForeignTopic(MemoryDelayedPublisher):
    """A delay for a topic that only another tenant has is forbidden, which tells that it is there."""

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        if self.cell(topic) not in self.backend.topics and tenants.elsewhere(self, topic):
            raise PermissionDeniedError(f"topic {topic!r} belongs to somebody else")
        return super().schedule(topic, message, due)


@breaks("MT-05")
class HelpfulError(MemoryDelayedPublisher):
    """The error of an impossible delay comes with the names of all queues."""

    def delay(self, topic: str, seconds: object) -> float:
        try:
            return super().delay(topic, seconds)
        except InvalidArgumentError as error:
            queues = ", ".join(f"{each.tenant}/{each.name}" for each in self.backend.cells())
            raise type(error)(f"{error}; there are the queues {queues}") from None


@breaks("MT-19")
class CancelledByAnybody(MemoryDelayedPublisher):
    """`cancel` takes the id of a schedule, and does not ask whose it is."""

    async def cancel(self, schedule_id: str) -> bool:
        owner = self.tenant_id
        if schedule_id in self.backend.scheduled:
            self.tenant_id = self.backend.scheduled[schedule_id][1].tenant
        try:
            return await super().cancel(schedule_id)
        finally:
            self.tenant_id = owner


break_with(
    MemoryDelayedPublisher,
    {
        **tenants.EVERYWHERE,
        tenants.FoldedTenant: "MT-07 MT-09 MT-12 MT-13",
        tenants.InstanceIsTenant: "MT-01 MT-02 MT-04 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-19 MT-20",
        tenants.IgnoredTenant: "MT-01 MT-02 MT-04 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-19 MT-20",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        tenants.ParsedTenant: "MT-20",
    },
)

__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryDelayedPublisher)]
