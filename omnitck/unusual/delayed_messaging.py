"""Correct publishers of delayed messages of an unusual kind."""

import math
import random
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import UnsupportedError
from omnitck.shared.models import DelayLimits, OutgoingMessage
from omnitck.unusual import unusual
from omnitck.unusual.log import ConnectionClosed, Log, Message, NotSent, Oversized, Record, Rejected, SocketReset

__all__ = ["Boundless", "Exact", "Latest", "Plainest", "Relayed"]

Headers = Mapping[str, str]
Topics = defaultdict[str, list[tuple[float, OutgoingMessage]]]


# The plainest.


class PlainDelayedPublisher:
    """It writes beside each message when that is due."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Headers | None = None,
        delay_seconds: float | None = None,
    ) -> None:
        due = time.monotonic() + (delay_seconds or 0.0)
        self._topics[topic].append((due, OutgoingMessage(payload, key, dict(headers or {}))))


@unusual
class Plainest(DelayedMessagingContract):
    """It returns nothing, rounds nothing, and whoever reads looks for what is due."""

    def setUp(self) -> None:
        self.topics: Topics = defaultdict(list)

    async def make_provider(self, **config: object) -> PlainDelayedPublisher:
        return PlainDelayedPublisher(self.topics)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: object) -> OutgoingMessage | None:
        until = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            for each in self.topics[topic]:
                if each[0] <= now:
                    self.topics[topic].remove(each)
                    return each[1]
            if now >= until:
                return None
            await anyio.sleep(0.005)


# What a broker delivers by itself, as late as it says.


class LogPublisher:
    """The broker holds a message back; a schedule can be taken back, too."""

    def __init__(self, log: Log, capabilities: frozenset[str]) -> None:
        self.log = log
        self.capabilities = capabilities
        self.closed = False

    @property
    def limits(self) -> DelayLimits:
        assert isinstance(self.log.limits, DelayLimits)
        return self.log.limits

    async def __aenter__(self) -> Self:
        await anyio.sleep(0.02)  # a slow handshake
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        self.closed = True

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Headers | None = None,
        delay_seconds: float | None = None,
        *,
        priority: int = 0,
        **options: object,
    ) -> str:
        for option in options:
            raise UnsupportedError(f"topic {topic!r}: this publisher knows no {option}")
        record = self.log.record(topic, payload, key, headers)
        delay = self.checked(topic, delay_seconds)
        await self.trip(topic)
        self.hold(record, delay)
        await anyio.lowlevel.checkpoint()
        return record.message_id

    def hold(self, record: Record, delay: float) -> None:
        self.log.add(record, after=self.late(delay))

    def late(self, delay: float) -> float:
        """Seconds until a message with this *delay* is seen, which must not be later."""
        limits = self.limits
        if delay and limits.delay_resolution:
            delay = math.ceil(round(delay / limits.delay_resolution, 6)) * limits.delay_resolution
        return delay + limits.delay_lateness if delay else 0.0

    def checked(self, topic: str, delay: float | None) -> float:
        if delay is None:
            return 0.0
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay < math.inf:
            raise Rejected(f"topic {topic!r}: a delay of {delay!r}") from ValueError("bad delay")
        if delay > self.limits.max_delay:
            raise Oversized(f"topic {topic!r}: a delay of {delay!r} s") from OverflowError("bad delay")
        return delay

    async def publish_at(
        self, topic: str, payload: bytes, key: str | None = None, headers: Headers | None = None, *, deliver_at: datetime
    ) -> str:
        if not isinstance(deliver_at, datetime) or deliver_at.utcoffset() is None:
            raise Rejected(f"topic {topic!r}: {deliver_at!r} has no zone")
        delay = (deliver_at - datetime.now(UTC)).total_seconds()
        return await self.publish(topic, payload, key, headers, max(delay, 0.0))

    async def cancel(self, schedule_id: str) -> bool:
        await self.trip(schedule_id)
        return self.log.withdraw(schedule_id)

    async def trip(self, name: str) -> None:
        try:
            if not self.closed:
                await self.log.trip()
        except SocketReset as error:
            raise NotSent(f"{name!r}: the broker is out of reach") from error
        if self.closed:
            raise ConnectionClosed("this publisher is closed")


class DelayedLog(DelayedMessagingContract):
    """What suites over a log have: hooks."""

    log: Log

    async def make_provider(self, **config: object) -> Any:
        return LogPublisher(self.log, self.declared)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: object) -> Message | None:
        return await self.log.receive(topic, timeout)

    async def unreachable_provider(self) -> Any:
        nowhere = Log(limits=self.log.limits)
        nowhere.reachable = False
        return LogPublisher(nowhere, self.declared)

    async def crash(self, client: Any) -> None:
        client.closed = True


class SkewedPublisher(LogPublisher):
    """Some messages come as early as the clocks differ, others as late as is declared."""

    def late(self, delay: float) -> float:
        latest = super().late(delay)
        if not delay or self.log.random.random() < 0.5:
            return latest
        return max(delay - self.limits.skew, 0.0)


@unusual
class Latest(DelayedLog):
    """Each message comes at the very end of what is declared, or as early as the clocks may differ, in real time.

    A rule that allows for less than all of these numbers together would reject it.
    """

    capabilities = frozenset("cancel_scheduled absolute_time lifecycle validation shared limits".split())
    limits = DelayLimits(delay_resolution=0.1, delay_lateness=0.2, skew=0.15, deliver=0.3, settle=0.05)

    def setUp(self) -> None:
        chance = random.Random(11)
        self.log = Log(limits=self.limits, trip=0.02, lag=lambda: chance.uniform(0.0, 0.04))

    async def make_provider(self, **config: object) -> LogPublisher:
        return SkewedPublisher(self.log, self.declared)


@unusual
class Boundless(DelayedLog):
    """Every number is the largest that there is, or has no bound, and every capability is declared.

    A rule that computes with a number what a date, a process or a test cannot hold would reject it.
    """

    capabilities = known_capabilities("delayed_messaging")
    limits = DelayLimits(
        key_bytes=2**40,
        value_bytes=2**40,
        headers=2**40,
        batch_size=2**40,
        page_size=2**40,
        max_delay=math.inf,
        delay_resolution=60,
        delay_lateness=60,
        skew=1,
        deliver=60,
        settle=0,
        redeliver=600,
        min_ttl=60,
        ttl_resolution=60,
    )

    def setUp(self) -> None:
        self.clock = ManualClock(1e9)
        self.log = Log(limits=self.limits, clock=self.clock, trip=0.002)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class Delegate:
    """A client that has nothing of its own."""

    def __init__(self, client: LogPublisher) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()


@unusual
class Exact(DelayedLog):
    """Every number is the smallest that there is: no delay is rounded, nothing is late, and what is published is there at once.

    A rule that divides by a number, or waits for as long as it says and no turn longer, would reject it.
    """

    capabilities = known_capabilities("delayed_messaging") - {"long_delay"}
    limits = DelayLimits(
        delay_resolution=0, delay_lateness=0, deliver=0, redeliver=0, min_ttl=0, ttl_resolution=0, page_size=1, batch_size=1
    )

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.log = Log(limits=self.limits, clock=self.clock)

    async def make_provider(self, **config: object) -> Delegate:
        return Delegate(LogPublisher(self.log, self.declared))

    async def crash(self, client: Any) -> None:
        client._client.closed = True

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


# What the publishers themselves move on.


class RelayingPublisher(LogPublisher):
    """Each client looks now and then for what is due in a table that all share, claims it, and publishes it.

    It waits up to 2 s for a broker that is out of reach, and it cannot be entered twice.
    """

    POLLS = 0.05

    def __init__(self, log: Log, capabilities: frozenset[str], table: dict[str, tuple[float, Record]]) -> None:
        super().__init__(log, capabilities)
        self.table = table
        self.tasks: anyio.abc.TaskGroup | None = None
        self.ended = anyio.Event()

    async def __aenter__(self) -> Self:
        if self.tasks is not None:
            raise RuntimeError("this publisher was entered before")
        self.tasks = await anyio.create_task_group().__aenter__()
        self.tasks.start_soon(self.relay)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
        assert self.tasks is not None
        await self.tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        self.closed = True
        if self.tasks is not None:
            await self.ended.wait()

    def hold(self, record: Record, delay: float) -> None:
        if not delay:
            self.log.add(record)
            return
        record.message_id = f"{self.log.random.getrandbits(64):x}"
        self.table[record.message_id] = (self.log.clock.now() + delay, record)

    async def cancel(self, schedule_id: str) -> bool:
        await self.trip(schedule_id)
        return self.table.pop(schedule_id, None) is not None

    async def publish_at(self, *arguments: object, **keywords: object) -> str:
        raise UnsupportedError("the table knows only delays")

    async def trip(self, name: str) -> None:
        until = time.monotonic() + 2.0
        while True:
            try:
                return await super().trip(name)
            except NotSent:
                if time.monotonic() > until:
                    raise
            await anyio.sleep(0.02)

    async def relay(self) -> None:
        try:
            while not self.closed:
                due = [id for id, (at, _) in self.table.items() if at <= self.log.clock.now()]
                for id in due:
                    _, record = self.table.pop(id, (0.0, None))
                    if record is not None:
                        self.log.add(record)
                await anyio.sleep(self.POLLS)
        finally:
            self.ended.set()


@unusual
class Relayed(DelayedLog):
    """The clients themselves move on what is due, each in a task of its own context; a schedule is no message.

    A rule that takes a client in twice, or looks for what is due before anybody has looked, would reject it.
    """

    capabilities = frozenset("cancel_scheduled lifecycle validation shared availability limits".split())
    limits = DelayLimits(delay_resolution=0.001, delay_lateness=0.25, deliver=0.2, skew=0)

    def setUp(self) -> None:
        self.table: dict[str, tuple[float, Record]] = {}
        self.log = Log(limits=self.limits, trip=0.02)

    async def make_provider(self, **config: object) -> LogPublisher:
        return RelayingPublisher(self.log, self.declared, self.table)

    async def unreachable_provider(self) -> LogPublisher:
        nowhere = Log(limits=self.log.limits)
        nowhere.reachable = False
        return RelayingPublisher(nowhere, self.declared, {})
