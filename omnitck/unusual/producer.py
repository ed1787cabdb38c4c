"""Correct producers of an unusual kind."""

import functools
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import anyio
import anyio.abc

from omnitck.messaging.producer import ProducerContract
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import TCKError, UnsupportedError
from omnitck.shared.models import MessageLimits, OutgoingMessage, ProcessingOutcome, PublishResult
from omnitck.unusual import unusual
from omnitck.unusual.log import (
    POLL_SECONDS,
    ConnectionClosed,
    Log,
    Message,
    NotSent,
    Record,
    Rejected,
    SocketReset,
    UnknownTopic,
)

__all__ = ["Batching", "Everything", "Patient", "Plainest"]

Headers = Mapping[str, str]
P = ParamSpec("P")
R = TypeVar("R")


# The plainest.


class PlainProducer:
    """A queue for each topic, and one method."""

    def __init__(self, topics: defaultdict[str, deque[OutgoingMessage]]) -> None:
        self._topics = topics

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Headers | None = None) -> None:
        self._topics[topic].append(OutgoingMessage(payload, key, dict(headers or {})))


@unusual
class Plainest(ProducerContract):
    """It returns nothing, refuses nothing and never waits: what it lacks is no fault."""

    def setUp(self) -> None:
        self.topics: defaultdict[str, deque[OutgoingMessage]] = defaultdict(deque)

    async def make_provider(self, **config: object) -> PlainProducer:
        return PlainProducer(self.topics)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: object) -> OutgoingMessage | None:
        until = time.monotonic() + timeout
        while not self.topics[topic] and time.monotonic() < until:
            await anyio.sleep(0.005)
        return self.topics[topic].popleft() if self.topics[topic] else None


# What is published goes out with others.


class Receipt(PublishResult):
    """A vendor's own `PublishResult`."""


@dataclass(eq=False)
class Parcel:
    """Messages that go out together, and what became of them."""

    records: list[Record]
    sent: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


class BatchingProducer:
    """Collects what is published for 5 ms, in a task of its own, sends it as one request, and acknowledges each afterwards.

    It cannot be entered twice, and has no `__dict__`.
    """

    __slots__ = ("_closing", "_done", "_log", "_parcels", "_tasks", "_wake")

    capabilities = frozenset("message_ids batch_publish ordering_by_key lifecycle validation shared limits".split())

    def __init__(self, log: Log) -> None:
        self._log = log
        self._parcels: list[Parcel] = []
        self._closing = False
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def limits(self) -> MessageLimits:
        return self._log.limits

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("this producer was entered before")
        await anyio.sleep(0.03)  # a slow handshake
        self._wake, self._done = anyio.Event(), anyio.Event()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._send)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
        assert self._tasks is not None
        await self._tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        await self._done.wait()

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Headers | None = None,
        *,
        linger: float = 0.005,
        **options: object,
    ) -> str:
        for option in options:
            raise UnsupportedError(f"topic {topic!r}: this producer knows no {option}")
        record = self._log.record(topic, payload, key, headers)
        await self._post([record])
        return record.message_id

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> tuple[PublishResult, ...]:
        problem = self._log.name_problem(topic)
        if problem:
            raise Rejected(f"topic {topic!r} {problem}")
        made: list[Record | TCKError] = []
        for each in messages:
            try:
                made.append(self._log.record(topic, each.payload, each.key, each.headers))
            except TCKError as error:
                made.append(error)
        await self._post([each for each in made if isinstance(each, Record)])
        return tuple(Receipt(each.message_id) if isinstance(each, Record) else Receipt(error=each) for each in made)

    async def _post(self, records: list[Record]) -> None:
        if self._closing:
            raise ConnectionClosed("this producer is closed")
        parcel = Parcel(records)
        self._parcels.append(parcel)
        self._wake.set()
        await parcel.sent.wait()
        if parcel.error is not None:
            raise NotSent("the broker did not answer") from parcel.error

    async def _send(self) -> None:
        while not self._closing or self._parcels:
            await self._wake.wait()
            await anyio.sleep(0.005)
            self._wake, parcels, self._parcels = anyio.Event(), self._parcels, []
            try:
                await self._log.trip()
                for each in parcels:
                    for record in each.records:
                        self._log.add(record)
                await self._log.trip()
            except SocketReset as error:
                for each in parcels:
                    each.error = error
            for each in parcels:
                each.sent.set()
        self._done.set()


@unusual
class Batching(ProducerContract):
    """Publications are sent by a task of the client's own, several at a time, and every number is the smallest that there is.

    A rule that takes a client from `make_provider` twice, counts waits, or waits for what is declared as 0 s would reject it.
    """

    capabilities = BatchingProducer.capabilities

    def setUp(self) -> None:
        numbers = MessageLimits(deliver=0, redeliver=0, min_ttl=0, ttl_resolution=0, page_size=1, batch_size=1)
        self.log = Log(limits=numbers, trip=0.01)

    async def make_provider(self, **config: object) -> BatchingProducer:
        return BatchingProducer(self.log)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: object) -> Message | None:
        return await self.log.receive(topic, timeout)


# What waits for the network.


def counted(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """*method* with its own name and signature, as an application instruments its clients."""

    @functools.wraps(method)
    async def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        calls[method.__qualname__] += 1
        return await method(*arguments, **keywords)

    return call


calls: Counter[str] = Counter()


class PatientProducer:
    """A producer and a consumer in one, which waits up to 2 s for its broker."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._closed = False
        self._subscriptions: list[anyio.CancelScope] = []

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset("deduplication message_ttl message_ids lifecycle shared availability limits".split())

    @property
    def limits(self) -> MessageLimits:
        return self._log.limits

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
        await self._tasks.__aexit__(None, None, None)

    @counted
    async def close(self) -> None:
        self._closed = True
        for each in self._subscriptions:
            each.cancel()

    @counted
    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Headers | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        record = self._log.record(topic, payload, key, headers)
        await self._reach(topic)
        if ttl is not None:
            record.expires = time.monotonic() + max(ttl, self.limits.min_ttl) + 0.9 * self.limits.ttl_resolution
        first = self._log.first_of(record, message_id)
        if first is record:
            self._log.add(record)
        return first.message_id

    @counted
    async def subscribe(
        self, topic: str, handler: Callable[[Any], Awaitable[ProcessingOutcome]], *, max_attempts: int = 3
    ) -> None:
        await self._reach(topic)
        self._log.create(topic)
        self._tasks.start_soon(self._consume, topic, handler)

    async def _reach(self, topic: str) -> None:
        until = time.monotonic() + 2.0
        while True:
            if self._closed:
                raise ConnectionClosed("this producer is closed")
            try:
                return await self._log.trip()
            except SocketReset as error:
                if time.monotonic() > until:
                    raise NotSent(f"topic {topic!r}: no broker in 2 s") from error
            await anyio.sleep(0.02)

    async def _consume(self, topic: str, handler: Callable[[Any], Awaitable[ProcessingOutcome]]) -> None:
        with anyio.CancelScope() as scope:
            self._subscriptions.append(scope)
            while not self._closed:
                lease = self._log.poll(topic, "default", math.inf) if self._log.reachable else None
                if lease is None:
                    await anyio.sleep(POLL_SECONDS)
                else:
                    await handler(Message(lease.record))
                    self._log.finish(lease, "default")


@unusual
class Patient(ProducerContract):
    """It waits for its broker rather than raise, its messages come late and overtake each other, and its subscriptions go on.

    A rule that heals the network only after a call has failed, compares orders, or looks at once would reject it.
    """

    capabilities = frozenset("deduplication message_ttl message_ids lifecycle shared availability limits".split())
    limits = MessageLimits(deliver=0.2, settle=0.06, min_ttl=0.2, ttl_resolution=0.1)

    def setUp(self) -> None:
        chance = random.Random(3)
        self.log = Log(limits=self.limits, trip=0.005, lag=lambda: chance.uniform(0.0, 0.05))

    async def make_provider(self, **config: object) -> PatientProducer:
        return PatientProducer(self.log)

    async def crash(self, client: PatientProducer) -> None:
        await client.close()

    async def unreachable_provider(self) -> PatientProducer:
        nowhere = Log()
        nowhere.reachable = False
        return PatientProducer(nowhere)

    async def cut(self) -> None:
        self.log.reachable = False

    async def heal(self) -> None:
        self.log.reachable = True


# Everything that a producer can declare.


class StagingProducer:
    """Whatever belongs together is in the log at once, and is seen once all of it is there."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.capabilities = known_capabilities("producer")
        self.limits = log.limits
        self.closed = False

    def __repr__(self) -> str:
        return "<producer of a log>"

    async def close(self) -> None:
        self.closed = True

    async def trip(self) -> None:
        if self.closed:
            raise ConnectionClosed("this producer is closed")
        try:
            await self.log.trip()
        except SocketReset as error:
            raise NotSent("the broker is out of reach") from error

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Headers | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
        priority: int = 0,
    ) -> str:
        if ttl is not None and not ttl > 0:
            raise Rejected(f"topic {topic!r}: a ttl of {ttl!r}")
        record = self.log.record(topic, payload, key, headers)
        await self.trip()
        self.check(topic)
        if ttl is not None:
            record.expires = self.log.clock.now() + max(ttl, self.limits.min_ttl) + self.limits.ttl_resolution
        first = self.log.first_of(record, message_id)
        if first is record:
            self.log.add(record)
        return first.message_id

    def check(self, topic: str) -> None:
        if not self.log.has(topic):
            raise UnknownTopic(f"topic {topic!r} does not exist") from LookupError("404")

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> Sequence[PublishResult]:
        problem = self.log.name_problem(topic)
        if problem:
            raise Rejected(f"topic {topic!r} {problem}")
        try:
            async with Staged(self) as staged:
                ids = [await staged.publish(topic, each.payload, each.key, each.headers) for each in messages]
                return deque(PublishResult(each) for each in ids)
        except TCKError as error:
            if isinstance(error, NotSent | ConnectionClosed | UnknownTopic):
                raise
            return [PublishResult(error=error)] * len(messages)

    def transaction(self) -> "Staged":
        return Staged(self)


class Staged(AbstractAsyncContextManager["Staged"]):
    """What is published here is pending until the end of the context."""

    def __init__(self, producer: StagingProducer) -> None:
        self._producer = producer
        self._records: list[Record] = []

    async def __aenter__(self) -> "Staged":
        await self._producer.trip()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            return  # The log keeps what nobody will ever see.
        await self._producer.trip()
        for each in self._records:
            each.pending = False
            self._producer.log.show(each)

    async def publish(
        self, topic: str, payload: bytes, key: str | None = None, headers: Headers | None = None, **options: object
    ) -> str:
        record = self._producer.log.record(topic, payload, key, headers)
        record.pending = True
        if len(self._records) % 100 == 0:
            await self._producer.trip()  # some travel together
        self._producer.check(topic)
        self._producer.log.add(record)
        self._records.append(record)
        return record.message_id


class Delegate:
    """A client that has nothing of its own but its context."""

    def __init__(self, client: StagingProducer) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()


@unusual
class Everything(ProducerContract):
    """Every capability, behind `__getattr__`: transactions write to the log what is never seen, and there is no limit to a size.

    A rule that counts offsets, tries each size that is declared, or looks for methods on the class would reject it.
    """

    capabilities = known_capabilities("producer")
    limits = MessageLimits(
        key_bytes=2**40,
        value_bytes=2**40,
        headers=2**40,
        batch_size=2**40,
        min_ttl=60,
        ttl_resolution=60,
        deliver=60,
        redeliver=600,
    )

    def setUp(self) -> None:
        self.clock = ManualClock(1e9)
        self.log = Log(limits=self.limits, clock=self.clock, trip=0.002, strict=True)

    async def make_provider(self, **config: object) -> AbstractAsyncContextManager[Delegate]:
        return self.connected(self.log)

    @asynccontextmanager
    async def connected(self, log: Log) -> AsyncIterator[Delegate]:
        await anyio.sleep(0.01)
        client = StagingProducer(log)
        try:
            yield Delegate(client)
        finally:
            await client.close()

    async def unreachable_provider(self) -> Delegate:
        nowhere = Log()
        nowhere.reachable = False
        return Delegate(StagingProducer(nowhere))

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def create_topic(self, topic: str, **config: object) -> None:
        self.log.create(topic)

    async def delete_topic(self, topic: str, **config: object) -> None:
        self.log.drop(topic)

    async def get_message_from_topic(self, topic: str, timeout: float, **config: object) -> Message | None:
        return await self.log.receive(topic, timeout)

    async def crash(self, client: Delegate) -> None:
        client._client.closed = True

    async def cut(self) -> None:
        self.log.reachable = False

    async def heal(self) -> None:
        self.log.reachable = True
