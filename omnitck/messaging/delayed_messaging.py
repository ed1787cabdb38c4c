"""The contract `delayed_messaging`: a message that is published now arrives later, never early, never twice.

It is durable from the moment at which `publish` returns: what waits, waits in the broker. The delay counts from the call; a
message is never early, and as late as the provider declares. Each message has one delay; there are no recurring schedules.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import combinations
from typing import Any, ClassVar, Protocol, cast

import anyio

from omnitck.common.clients import Lifecycle
from omnitck.instruments.cancellation import sweep
from omnitck.kit.concurrency import gather
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.text import describe
from omnitck.kit.trial import Plain, Trial
from omnitck.messaging.topics import ROUNDING_SECONDS, TOPIC_HOOKS, Content, Inbox, MessagingRules, MessagingTrial, TopicCells
from omnitck.shared.exceptions import InvalidArgumentError
from omnitck.shared.models import DelayLimits

__all__ = [
    "AbsoluteTime",
    "CancelScheduled",
    "DelayedMessagingContract",
    "DelayedPublisherProtocol",
    "FullDelayedPublisher",
    "LongDelay",
    "OrderingByDueTime",
]


class DelayedPublisherProtocol(Protocol):
    """What every publisher of delayed messages does."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
    ) -> object:
        """Publish a message that arrives *delay_seconds* after this call; None and 0 mean at once. Durable on return.

        A delay is rounded up to `delay_resolution`. One that is negative, no number, or beyond `max_delay`, raises
        `InvalidArgumentError`.
        """
        ...


class CancelScheduled(Protocol):
    """Capability `cancel_scheduled`: `publish` with a delay returns the id of a schedule, as text."""

    async def cancel(self, schedule_id: str) -> bool:
        """Whether the message will never be delivered because of this call. Any client may ask, any number of times."""
        ...


class AbsoluteTime(Protocol):
    """Capability `absolute_time`: a message for an instant."""

    async def publish_at(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        deliver_at: datetime,
    ) -> object:
        """Publish a message that arrives at *deliver_at*, which is aware; one that has passed means at once.

        One that is further away than `max_delay` raises `InvalidArgumentError`.
        """
        ...


class OrderingByDueTime(Protocol):
    """Capability `ordering_by_due_time`: the messages of a topic arrive in the order in which they are due."""


class LongDelay(Protocol):
    """Capability `long_delay`: `max_delay` is a day or more."""


class FullDelayedPublisher(
    DelayedPublisherProtocol, CancelScheduled, AbsoluteTime, OrderingByDueTime, LongDelay, Lifecycle, Protocol
):
    """A publisher with every capability of the contract: what the rules are written for, each within what it needs."""


class DelayedCells(TopicCells):
    """The topics of one suite, written by the publisher under test."""

    def __init__(self, t: "MessagingTrial[Any]") -> None:
        super().__init__(t)
        self.waiting: list[str] = []
        """The ids of schedules that nobody should have cancelled yet."""

    operations = (
        Operation("publish", lambda p, n, t: p.publish(n, t.encode()), "publish", writes=True),
        Operation("publish with a delay", lambda p, n, t: _much_later(p, n, t), "publish"),
        Operation(
            "cancel",
            lambda p, n, t, schedule_id=None: p.cancel(n if schedule_id is None else schedule_id),
            "cancel",
            "cancel_scheduled",
            needs_legal_name=False,
            arrange=lambda p, n, t: p.publish(n, t.encode(), delay_seconds=600.0),
        ),
        Operation(
            "publish_at",
            lambda p, n, t: p.publish_at(n, t.encode(), deliver_at=datetime.now(UTC)),
            "publish_at",
            "absolute_time",
            writes=True,
        ),
    )
    refusals = (
        Operation("publish of text", lambda p, n, t: p.publish(n, t), "publish", refusal=InvalidArgumentError),
        Operation(
            "publish with a negative delay",
            lambda p, n, t: p.publish(n, t.encode(), delay_seconds=-1.0),
            "publish",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "publish_at a time without a zone",
            lambda p, n, t: p.publish_at(n, t.encode(), deliver_at=datetime.now(UTC).replace(tzinfo=None)),
            "publish_at",
            "absolute_time",
            refusal=InvalidArgumentError,
        ),
    )

    @needs("cancel_scheduled")
    async def handles(self, provider: Any, name: str) -> list[str]:
        self.waiting.append(await provider.publish(name, b"later", delay_seconds=600.0))
        return list(self.waiting)

    @needs("cancel_scheduled")
    async def replay(self, provider: Any, name: str, handle: str, token: str) -> object:
        return await provider.cancel(handle)

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """The token, and the schedules that somebody else has cancelled: they cannot be any more."""
        waiting, self.waiting = self.waiting, []
        return (await self.read(provider, name), [each for each in waiting if not await provider.cancel(each)])


async def _much_later(provider: Any, name: str, token: str) -> None:
    """Nothing comes of it within a rule, and its id differs from call to call."""
    await provider.publish(name, token.encode(), delay_seconds=600.0)


@dataclass(slots=True)
class Scheduled:
    """A message that was published with a delay, on the clock of the rule."""

    payload: bytes
    delay: float
    called: float
    returned: float
    id: Any


@dataclass(slots=True)
class Arrival:
    """A message that came."""

    message: Any
    at: float
    """No earlier than this had it been looked for in vain."""


STEPS = 20
"""Looks in the time of one unit, where a rule moves the clock."""


class DelayedMessagingTrial(MessagingTrial[FullDelayedPublisher]):
    """The words of the rules of `DelayedMessagingContract`."""

    def numbers(self) -> DelayLimits:
        return cast(DelayLimits, super().numbers())

    def unit(self) -> float:
        """Seconds: a delay that is long enough to be told from none, whatever the difference of two clocks."""
        return max(self.numbers().delay_resolution, 3 * self.numbers().skew, 0.3)

    def latest(self, delay: float) -> float:
        """Seconds from a call until a message with *delay* has arrived."""
        return self.rounded(delay) + self.numbers().delay_lateness

    def rounded(self, delay: float) -> float:
        """*delay*, rounded up to what the provider can tell apart."""
        resolution = self.numbers().delay_resolution
        return math.ceil(round(delay / resolution, 6)) * resolution if resolution else delay

    async def schedule(
        self,
        publisher: FullDelayedPublisher,
        topic: str,
        payload: bytes,
        delay: float | None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Scheduled:
        """Publish a message with a delay."""
        called = self.now()
        id = await publisher.publish(topic, payload, key, headers, delay_seconds=delay)
        return Scheduled(payload, delay or 0.0, called, self.now(), id)

    async def arrivals(self, inbox: Inbox, delay: float, count: int, *, more: bool = True) -> list[Arrival]:
        """*count* messages, the last of which has this *delay* from now, and with *more* what else comes until a unit later.

        How late they are is not the question here: on a busy machine each may take `deliver` longer.
        """
        due = self.now() + self.latest(delay)
        late = self.unit() if self.virtual_time else self.numbers().deliver * self.patience
        came: list[Arrival] = []
        while len(came) < count and (next := await self.until(inbox, max(due, self.now()) + late, enough=1)):
            came += next
        if more:
            came += await self.until(inbox, max(self.now(), due) + self.unit())
        return came

    async def until(self, inbox: Inbox, until: float, *, enough: int | None = None) -> list[Arrival]:
        """What comes until the clock shows *until*, or until it is *enough*."""
        came: list[Arrival] = []
        while enough is None or len(came) < enough:
            if self.virtual_time:
                # What is declared may take thousands of looks.
                with self.waiting(self.answer_seconds) as scope:
                    came += [Arrival(each, self.now()) for each in await inbox.at_hand()]
                    if self.now() >= until:
                        break
                    await self.wait(min(self.unit() / STEPS, until - self.now()))
                if scope.cancelled_caught:
                    break
            else:
                left = until - self.now()
                message = await inbox.next(max(left, 0.0))
                if message is not None:
                    came.append(Arrival(message, self.now()))
                elif left <= 0:
                    break
        return came

    def check_times(
        self, scheduled: Sequence[Scheduled], came: Sequence[Arrival], *, late: bool = False, lag: float = 0.0
    ) -> None:
        """Fail the rule unless each message came once, not early, and, with *late*, no later than declared plus *lag*."""
        at = {each.message.payload: each.at for each in came}
        self.check_listing(
            [describe(each.message.payload) for each in came],
            [describe(each.payload) for each in scheduled],
            "the messages that came",
        )
        for each in scheduled:
            after = at[each.payload] - each.called
            with self.case(f"a delay of {each.delay:g} s"):
                if late:
                    most = each.returned - each.called + self.latest(each.delay)
                    self.check(
                        after <= most + lag + ROUNDING_SECONDS,
                        given=f"a message with a delay of {each.delay:g} s",
                        expected=f"it comes within {most:.3f} s",
                        observed=Plain(f"after {after:.3f} s"),
                    )
                else:
                    self.check(
                        after >= each.delay - self.numbers().skew - ROUNDING_SECONDS,
                        given=f"a message with a delay of {each.delay:g} s",
                        expected="it does not come earlier",
                        observed=Plain(f"after {after:.3f} s"),
                    )

    @asynccontextmanager
    async def lag(self) -> AsyncIterator[list[float]]:
        """How many seconds may pass between an arrival and its being seen: where this process is late itself, it cannot tell."""
        if self.virtual_time:
            yield [self.unit() / STEPS]
            return

        lag = [0.05 * self.patience]

        async def measure() -> None:
            while True:
                began = time.monotonic()
                await anyio.sleep(0.02)
                lag[0] += max(time.monotonic() - began - 0.02, 0.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(measure)
            yield lag
            tasks.cancel_scope.cancel()

    async def three(self, *, late: bool) -> None:
        publisher = await self.connect()
        inbox = await self.inbox(publisher, self.key())
        unit = self.unit()
        # One of them is no multiple of the resolution.
        delays = (unit, 1.5 * unit, 2 * unit)
        scheduled = [await self.schedule(publisher, inbox.topic, b"%d" % number, each) for number, each in enumerate(delays)]
        async with self.lag() as lag:
            came = await self.arrivals(inbox, 2 * unit, 3, more=not late)
        self.check_times(scheduled, came, late=late, lag=lag[0])

    async def check_each_once(self, inbox: Inbox, payloads: Sequence[bytes], given: str, delay: float = 0.0) -> None:
        """Fail the rule unless each of *payloads*, due in a unit or in this *delay*, comes once, and none comes again."""
        came = await self.arrivals(inbox, max(delay, self.unit()), len(payloads))
        self.check_listing([describe(each.message.payload) for each in came], map(describe, payloads), given)


class DelayedMessagingContract(MessagingRules):
    """Certifies a publisher of delayed messages."""

    definition = Definition(
        name="delayed_messaging",
        version="1.0",
        prefix="DLY",
        protocols={
            "": DelayedPublisherProtocol,
            "cancel_scheduled": CancelScheduled,
            "absolute_time": AbsoluteTime,
            "ordering_by_due_time": OrderingByDueTime,
            "long_delay": LongDelay,
            "lifecycle": Lifecycle,
        },
        hooks=TOPIC_HOOKS,
        limits=DelayLimits,
        cells=DelayedCells,
    )
    trial: ClassVar[type[Trial[Any]]] = DelayedMessagingTrial

    # Time

    @rule("DLY-01")
    async def test_dly_01_a_message_is_never_early(self, t: DelayedMessagingTrial) -> None:
        """A message does not arrive before the time of the call plus its delay.

        Give or take `skew`, the difference of two clocks. Catches milliseconds that are taken for seconds, and `int(delay)`.
        """
        await t.three(late=False)

    @rule("DLY-02")
    async def test_dly_02_a_message_is_in_time(self, t: DelayedMessagingTrial) -> None:
        """A message arrives no later than `delay_lateness` after the time of the call plus its delay.

        Catches a poll that is too slow for what is declared.
        """
        await t.three(late=True)

    @rule("DLY-03", deadline=60)
    async def test_dly_03_no_delay_means_at_once(self, t: DelayedMessagingTrial) -> None:
        """A delay of `None` or 0 means at once, also while 100 messages wait.

        Catches immediate messages that pass through the waiting room.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        waiting = t.key()
        await t.inbox(publisher, waiting)
        await gather(partial(t.schedule, publisher, waiting, b"%d" % number, 600.0) for number in range(100))
        await t.schedule(publisher, inbox.topic, b"none", None)
        await t.schedule(publisher, inbox.topic, b"zero", 0.0)
        came = [await inbox.one("a message without a delay, while 100 others wait") for _ in range(2)]
        t.same(sorted(each.payload for each in came), [b"none", b"zero"], given="the payloads that came at once")

    @rule("DLY-04")
    async def test_dly_04_a_delayed_message_comes_as_it_was_published(self, t: DelayedMessagingTrial) -> None:
        """Payload, key and headers of a delayed message arrive as they were published.

        Catches an `x-delay` that shows, and an envelope that is not removed.
        """
        publisher = await t.connect()
        waiting: list[tuple[str, Inbox, Content]] = []
        for label, sent in {
            "everything": (bytes(range(256)), "caf\u00e9", {"x-trace": "\U0001f511", "Empty": ""}),
            "nothing": (b"", None, {}),
        }.items():
            with t.case(label):
                inbox = await t.inbox(publisher, t.key())
                payload, key, headers = sent
                await t.schedule(publisher, inbox.topic, payload, t.unit(), key, headers)
                waiting.append((label, inbox, sent))
        for label, inbox, published in waiting:
            with t.case(label):
                came = await t.arrivals(inbox, t.unit(), 1, more=False)
                t.same(len(came), 1, given="the number of messages that came")
                t.check_message(came[0].message, published, "what came")

    @rule("DLY-05")
    async def test_dly_05_a_shorter_delay_overtakes(self, t: DelayedMessagingTrial) -> None:
        """A message with a shorter delay arrives in its own time, although one with a longer delay was published before it.

        Catches the queue with a time to live and a dead-letter exchange, whose head blocks it.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        unit = t.unit()
        long = await t.schedule(publisher, inbox.topic, b"long", unit + t.latest(unit))
        short = await t.schedule(publisher, inbox.topic, b"short", unit)
        came = await t.arrivals(inbox, long.delay, 2, more=False)
        t.same([each.message.payload for each in came], [b"short", b"long"], given="the payloads in the order in which they came")
        t.check_times([long, short], came)

    # Not lost, not repeated

    @rule("DLY-06", deadline=30)
    async def test_dly_06_many_may_be_due_at_once(self, t: DelayedMessagingTrial) -> None:
        """50 messages that are due at the same time all arrive, once each.

        Catches a mapping whose key is the time.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        await gather(partial(t.schedule, publisher, inbox.topic, b"%d" % number, t.unit()) for number in range(50))
        await t.check_each_once(inbox, [b"%d" % number for number in range(50)], "50 messages due at once")

    @rule("DLY-07", "shared", hook="crash", deadline=30)
    async def test_dly_07_what_waits_survives_its_publisher(self, t: DelayedMessagingTrial) -> None:
        """A message arrives although its publisher has vanished, or was closed, before it was due.

        Catches `asyncio.sleep` in the publisher's process.
        """
        crashing, closing, other = await t.clients(3)
        inbox = await t.inbox(other, t.key())
        payloads = [b"crashed"]
        await t.schedule(crashing, inbox.topic, b"crashed", t.unit())
        await t.crash(crashing)
        if "lifecycle" in t.declared:
            await t.schedule(closing, inbox.topic, b"closed", t.unit())
            payloads.append(b"closed")
            await closing.close()
        await t.check_each_once(inbox, payloads, "messages whose publishers are gone")

    @rule("DLY-08", "shared", deadline=30)
    async def test_dly_08_two_publishers_do_not_deliver_twice(self, t: DelayedMessagingTrial) -> None:
        """While two clients run, each message arrives once.

        Catches two pollers that both find a row due.
        """
        clients = await t.clients(2)
        inbox = await t.inbox(clients[0], t.key())
        payloads = [b"%d" % number for number in range(40)]
        await gather(
            partial(t.schedule, clients[number % 2], inbox.topic, payload, t.unit()) for number, payload in enumerate(payloads)
        )
        await t.check_each_once(inbox, payloads, "40 messages of two publishers")

    # Edges

    @rule("DLY-09")
    async def test_dly_09_a_short_delay_is_rounded_up(self, t: DelayedMessagingTrial) -> None:
        """A delay below `delay_resolution` is rounded up to it, and never down to none.

        Catches whole seconds, by truncation.
        """
        publisher = await t.connect()
        if not t.numbers().delay_resolution:
            t.not_provoked("the provider declares that it rounds no delay")
        inbox = await t.inbox(publisher, t.key())
        delay = 0.4 * t.numbers().delay_resolution
        scheduled = await t.schedule(publisher, inbox.topic, b"short", delay)
        came = await t.arrivals(inbox, delay, 1)
        t.check_times([scheduled], came)

    @rule("DLY-10", "validation", deadline=60)
    async def test_dly_10_impossible_delays_are_refused(self, t: DelayedMessagingTrial) -> None:
        """A delay that is negative, no number, infinite, or above `max_delay` raises `InvalidArgumentError` and delivers nothing.

        Catches the delay that is cut to 900 s, and the overflow of 32 bits of milliseconds, which delivers at once.
        """
        publisher: Any = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        most = t.numbers().max_delay
        too_long = [each for each in (most * 1.001 + 1, most * 1000, 2.0**40) if each > most]
        for delay in (-1.0, -0.001, math.nan, math.inf, -math.inf, "1", True, [1], *too_long):
            with t.case(describe(delay)):
                await t.refused(
                    partial(publisher.publish, inbox.topic, b"refused", delay_seconds=delay),
                    InvalidArgumentError,
                    given=f"publish with delay_seconds={describe(delay)}",
                )
        left = (datetime.max.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
        if "absolute_time" in t.declared and most * 1.001 + 60 < left:
            deliver_at = datetime.now(UTC) + timedelta(seconds=most * 1.001 + 60)
            await t.refused(
                partial(publisher.publish_at, inbox.topic, b"refused", deliver_at=deliver_at),
                InvalidArgumentError,
                given="publish_at a time that is further away than max_delay",
            )
        t.check_nothing(await inbox.rest(publisher), "messages with impossible delays")

    @rule("DLY-11", deadline=60)
    async def test_dly_11_a_cancelled_publication_leaves_one_message_at_most(self, t: DelayedMessagingTrial) -> None:
        """A cancelled `publish` with a delay leaves one message or none, and none that is early.

        Catches a retry that survives its cancellation.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        delay, began = t.unit(), t.now()
        payloads: list[bytes] = []

        def publish() -> Callable[[], Any]:
            payloads.append(t.token().encode())
            return partial(publisher.publish, inbox.topic, payloads[-1], delay_seconds=delay)

        async for _ in sweep(publish, within=t.cancel_seconds):
            pass
        came = await t.arrivals(inbox, delay, 0)
        seen = [each.message.payload for each in came]
        t.check(
            len(set(seen)) == len(seen) and set(seen) <= set(payloads),
            given=f"{len(payloads)} publications, each cancelled at another wait",
            expected="each comes once at most",
            observed=Plain(f"{len(seen)} messages, {len(set(seen))} of them different"),
        )
        t.check(
            all(each.at - began >= delay - t.numbers().skew - ROUNDING_SECONDS for each in came),
            given="the first of them",
            expected=f"no earlier than {delay:g} s",
            observed=Plain(f"{min((each.at for each in came), default=began) - began:.3f} s"),
        )

    @rule("DLY-12", "limits")
    async def test_dly_12_the_largest_message_waits_whole(self, t: DelayedMessagingTrial) -> None:
        """A payload of exactly `value_bytes` arrives whole after its delay.

        Catches a column or a script that cuts it. Of a limit above 16 MiB only so much is tried.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        size = t.largest()
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]
        await t.schedule(publisher, inbox.topic, payload, t.unit(), "key", {"h": "v"})
        came = await t.arrivals(inbox, t.unit(), 1)
        t.same(len(came), 1, given="the number of messages that came")
        t.check_message(came[0].message, (payload, "key", {"h": "v"}), "what came")

    # cancel_scheduled

    @rule("DLY-13", "cancel_scheduled")
    async def test_dly_13_a_cancelled_message_never_comes(self, t: DelayedMessagingTrial) -> None:
        """After `cancel` has returned True the message is never delivered; others are.

        Catches a row that was loaded before it was deleted. Where a busy machine lets most of the delay pass before the call has
        returned, False may be true: then there is another try, with a longer one.
        """
        publisher = await t.connect()
        for factor in (2, 4, 8, 16):
            inbox = await t.inbox(publisher, t.key())
            delay = factor * t.unit()
            await t.schedule(publisher, inbox.topic, b"kept", delay)
            doomed = await t.schedule(publisher, inbox.topic, b"cancelled", delay)
            await t.wait(delay / 2)
            cancelled = await publisher.cancel(doomed.id)
            if cancelled is True or t.now() < doomed.called + 0.75 * (delay - t.numbers().skew):
                break
        t.same(cancelled, True, given="cancel of a message that is not due yet")
        await t.check_each_once(inbox, [b"kept"], "two messages, one of them cancelled", delay / 2)

    @rule("DLY-14", "cancel_scheduled", deadline=30)
    async def test_dly_14_cancelling_at_the_last_moment_tells_the_truth(self, t: DelayedMessagingTrial) -> None:
        """Of `cancel` and the delivery one wins: True and nothing comes, or False and the message comes once.

        30 messages that are due about the time at which all are cancelled. Catches True although it was delivered.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        unit = t.unit()
        began = t.now()
        scheduled = [await t.schedule(publisher, inbox.topic, b"%d" % number, unit + (number - 15) / 300) for number in range(30)]
        await t.wait(max(began + unit - t.now(), 0.0))
        cancelled = await gather(partial(publisher.cancel, each.id) for each in scheduled)
        came = await t.arrivals(inbox, unit, sum(each is not True for each in cancelled))
        seen = [each.message.payload for each in came]
        for each, gone in zip(scheduled, cancelled, strict=True):
            with t.case(f"due at {each.delay - unit:+.3f} s"):
                t.check(
                    seen.count(each.payload) == (0 if gone is True else 1),
                    given=f"cancel returned {gone!r}",
                    expected="it does not come" if gone is True else "it comes once",
                    observed=Plain(f"it came {seen.count(each.payload)} times"),
                )

    @rule("DLY-15", "cancel_scheduled")
    async def test_dly_15_what_cannot_be_cancelled_is_false(self, t: DelayedMessagingTrial) -> None:
        """`cancel` of an unknown, a delivered or a cancelled message returns False; any client may cancel.

        Catches the id that is valid in its own process alone.
        """
        one, two = await t.clients(2)
        inbox = await t.inbox(one, t.key())
        t.same(await one.cancel(t.key()), False, given="cancel of an unknown id")
        doomed = await t.schedule(one, inbox.topic, b"cancelled", 600.0)
        t.same(await two.cancel(doomed.id), True, given="cancel by another client")
        t.same(await one.cancel(doomed.id), False, given="cancel of what was cancelled")
        delivered = await t.schedule(one, inbox.topic, b"delivered", t.unit())
        came = await t.arrivals(inbox, t.unit(), 1)
        t.same([each.message.payload for each in came], [b"delivered"], given="the payloads that came")
        t.same(await one.cancel(delivered.id), False, given="cancel of what was delivered")
        t.check(
            type(doomed.id) is str and doomed.id != "" and doomed.id != delivered.id,
            given="the ids of two schedules",
            expected="two texts that differ",
            observed=(doomed.id, delivered.id),
        )

    # absolute_time

    @rule("DLY-16", "absolute_time")
    async def test_dly_16_an_instant_is_the_same_in_every_zone(self, t: DelayedMessagingTrial) -> None:
        """`publish_at` delivers at its instant, whatever zone it is told in; one that has passed means at once.

        A time without a zone is refused, with whatever error where `validation` is not declared: it is no instant, and the
        message would be hours early or late. Catches local time that is taken for UTC.
        """
        publisher: Any = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        unit = t.unit()
        await publisher.publish_at(inbox.topic, b"past", deliver_at=datetime.now(UTC) - timedelta(days=1))
        t.same((await inbox.one("a message for yesterday")).payload, b"past", given="the payload that came at once")
        scheduled = []
        for number, zone in enumerate((UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11)))):
            called, asked = t.now(), datetime.now(zone)
            payload = b"%d" % number
            id = await publisher.publish_at(inbox.topic, payload, deliver_at=asked + timedelta(seconds=unit))
            # A clock that the suite moves stands still during the call, and that of the instant does not.
            spent = (datetime.now(zone) - asked).total_seconds() if t.virtual_time else 0.0
            scheduled.append(Scheduled(payload, unit - spent, called, t.now(), id))
        came = await t.arrivals(inbox, unit, 3)
        t.check_times(scheduled, came)
        wrong_times: list[object] = [datetime.now(UTC).replace(tzinfo=None)]
        if "validation" in t.declared:
            wrong_times += [1.0, "2030-01-01T00:00:00Z", None]
        for wrong in wrong_times:
            with t.case(describe(wrong)):
                await t.not_taken(
                    partial(publisher.publish_at, inbox.topic, b"refused", deliver_at=wrong),
                    given=f"publish_at {describe(wrong)}",
                )

    # ordering_by_due_time

    @rule("DLY-17", "ordering_by_due_time")
    async def test_dly_17_messages_come_in_the_order_in_which_they_are_due(self, t: DelayedMessagingTrial) -> None:
        """Messages of one topic arrive in the order in which they are due, in whatever order they were published.

        When exactly one is due only the broker knows: some time between the call and its return, plus the delay. Catches one
        timer for each message.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        step = max(0.2 * t.unit(), t.numbers().delay_resolution)
        scheduled = {}
        for number in (7, 2, 9, 4, 0, 6, 3, 8, 1, 5):
            payload = b"%d" % number
            scheduled[payload] = await t.schedule(publisher, inbox.topic, payload, 2 * t.unit() + number * step)
        if t.virtual_time:
            # One look finds them all due, as a poll finds several.
            await t.wait(2 * t.unit() + 10 * step)
        came = await t.arrivals(inbox, 2 * t.unit() + 10 * step, 10, more=False)
        t.check_listing(
            [describe(each.message.payload) for each in came], map(describe, scheduled), "10 messages with different delays"
        )
        order = [scheduled[each.message.payload] for each in came]
        for first, second in combinations(order, 2):
            t.check(
                first.called + first.delay <= second.returned + t.rounded(second.delay) + t.numbers().skew + ROUNDING_SECONDS,
                given="10 messages with different delays",
                expected=f"{describe(second.payload)}, which is due earlier, comes before {describe(first.payload)}",
                observed=Plain("it comes after it"),
            )

    # long_delay

    @rule("DLY-18", "long_delay", deadline=60)
    async def test_dly_18_a_day_is_not_too_long(self, t: DelayedMessagingTrial) -> None:
        """`max_delay` is a day or more, and a message with a delay of a day or more is accepted and does not come at once.

        Where the suite moves the clock, that of a day comes a day later, and not before. Catches a limit of 15 minutes, that of a
        lock of 12 hours, and milliseconds in 31 or 32 bits, of which some are left over, and deliver at once.
        """
        publisher = await t.connect()
        inbox = await t.inbox(publisher, t.key())
        most, day = t.numbers().max_delay, 86_400.0
        t.check(most >= day, given="max_delay", expected="86400 s or more", observed=most)
        began = t.now()
        for delay in sorted({day, 2**31 / 1000 + 0.001, 2**32 / 1000 + 0.001, most}):
            if delay <= most and math.isfinite(delay):
                await t.schedule(publisher, inbox.topic, b"%d" % delay, delay)
        early = await t.until(inbox, t.now() + t.latest(t.numbers().delay_resolution))
        came = [each.message for each in early] + await inbox.rest(publisher)
        t.check_nothing(came, "messages with a delay of a day or more")
        if t.virtual_time:
            await t.wait(began + day - t.latest(t.unit()) - t.now())
            t.check_nothing(await inbox.at_hand(), "messages with a delay of a day or more, shortly before a day is over")
            came = [each.message.payload for each in await t.arrivals(inbox, began + day - t.now(), 1)]
            t.same(came[:1], [b"86400"], given="the payload that came a day later")
