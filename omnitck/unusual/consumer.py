"""Correct consumers of an unusual kind."""

import asyncio
import itertools
import math
import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from omnitck.messaging.consumer import ConsumerContract, Handler
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import UnsupportedError
from omnitck.shared.models import ConsumedMessage, MessageLimits, ProcessingOutcome
from omnitck.unusual import unusual
from omnitck.unusual.log import (
    POLL_SECONDS,
    BrokerLost,
    ConnectionClosed,
    Lease,
    Log,
    Message,
    Rejected,
    SocketReset,
)

__all__ = ["AtLeastOnce", "Everything", "Instant", "Plainest", "Prefetching"]

Headers = Mapping[str, str]
Queues = defaultdict[str, asyncio.Queue[ConsumedMessage]]

SUCCESS, RETRY, FAIL = ProcessingOutcome.SUCCESS, ProcessingOutcome.RETRY, ProcessingOutcome.FAIL


# The plainest.


class PlainConsumer:
    """A task for each subscription, which tries a message again at once."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._tasks: set[asyncio.Task[None]] = set()

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3) -> None:
        self._tasks.add(asyncio.create_task(self._consume(topic, handler, max_attempts)))

    async def _consume(self, topic: str, handler: Handler, max_attempts: int) -> None:
        while True:
            message = await self._queues[topic].get()
            for _ in range(max_attempts):
                if await self._is_over(message, handler):
                    break

    async def _is_over(self, message: ConsumedMessage, handler: Handler) -> bool:
        try:
            return await handler(message) in (SUCCESS, FAIL)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return False  # the handler made it up
        except Exception:
            return False


@unusual
class Plainest(ConsumerContract):
    """One method that returns nothing, tasks that nobody ends, and a message that is tried again holds up those behind it."""

    def setUp(self) -> None:
        self.queues: Queues = defaultdict(asyncio.Queue)

    async def make_provider(self, **config: object) -> PlainConsumer:
        return PlainConsumer(self.queues)

    async def publish(
        self, topic: str, payload: bytes, key: str | None = None, headers: Headers | None = None, **config: object
    ) -> None:
        self.queues[topic].put_nowait(ConsumedMessage(payload, key, dict(headers or {})))


# What is given out at once.


@dataclass(eq=False)
class Waiting:
    """A message, and how often a handler had it."""

    message: ConsumedMessage
    tried: int = 0


class Pipe:
    """A topic within the process."""

    def __init__(self) -> None:
        ends = anyio.create_memory_object_stream[Waiting](math.inf)
        self.into: MemoryObjectSendStream[Waiting] = ends[0]
        self.out: MemoryObjectReceiveStream[Waiting] = ends[1]


class PipeSubscription:
    """A task that hands what comes out of a pipe to a handler."""

    __slots__ = ("_attempts", "_delay", "_ended", "_handler", "_pipe", "_receiving", "_running", "_stopping")

    def __init__(self, pipe: Pipe, handler: Handler, attempts: int, delay: float) -> None:
        self._pipe, self._handler, self._attempts, self._delay = pipe, handler, attempts, delay
        self._receiving = self._running = anyio.CancelScope()
        self._stopping, self._ended = False, anyio.Event()

    async def stop(self, *, drain: bool = True) -> None:
        self._stopping = True
        self._receiving.cancel()
        if not drain:
            self._running.cancel()
        await self._ended.wait()

    async def run(self) -> None:
        try:
            while not self._stopping:
                waiting = None
                with anyio.CancelScope() as self._receiving:
                    waiting = await self._pipe.out.receive()
                if waiting is not None and not await self._is_over(waiting):
                    self._pipe.into.send_nowait(waiting)
        finally:
            self._ended.set()

    async def _is_over(self, waiting: Waiting) -> bool:
        while waiting.tried < self._attempts:
            if self._stopping:
                return False
            with anyio.CancelScope() as self._running:
                waiting.tried += 1
                if await self._is_done(waiting.message):
                    return True
                await anyio.sleep(self._delay)
        return True

    async def _is_done(self, message: ConsumedMessage) -> bool:
        try:
            return await self._handler(message) in (SUCCESS, FAIL)
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            return False
        except Exception:
            return False


class InstantConsumer:
    """Hands a message over in the turn in which it is published, and publishes itself."""

    capabilities = frozenset("stopping nack_redelivery shared lifecycle".split())
    limits = MessageLimits(deliver=0, redeliver=0, min_ttl=0, ttl_resolution=0, page_size=1, batch_size=1)

    def __init__(self, pipes: defaultdict[str, Pipe]) -> None:
        self._pipes = pipes
        self._subscriptions: list[PipeSubscription] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
        await self._tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        self._closed = True
        for each in self._subscriptions:
            await each.stop()

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Headers | None = None) -> None:
        self._pipes[topic].into.send_nowait(Waiting(ConsumedMessage(payload, key, dict(headers or {}))))

    async def subscribe(
        self, topic: str, handler: Handler, *, max_attempts: int = 3, retry_delay: float = 0.0
    ) -> PipeSubscription:
        if self._closed:
            raise ConnectionClosed("this consumer is closed")
        subscription = PipeSubscription(self._pipes[topic], handler, max_attempts, retry_delay)
        self._subscriptions.append(subscription)
        self._tasks.start_soon(subscription.run)
        return subscription


@unusual
class Instant(ConsumerContract):
    """Every number is 0, as a message is handed over at once, and the provider publishes too.

    A rule that waits for as long as it is told, and no turn longer, or divides by a number, would reject it.
    """

    capabilities = InstantConsumer.capabilities

    def setUp(self) -> None:
        self.pipes: defaultdict[str, Pipe] = defaultdict(Pipe)

    async def make_provider(self, **config: object) -> InstantConsumer:
        return InstantConsumer(self.pipes)


# What reads a log.


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a subscription was asked for."""

    max_attempts: int = 3
    group: str = "default"
    concurrency: int = 1
    dead_letter_topic: str | None = None
    retry_delay: float = 0.0
    visibility: float | None = None
    batch_size: int | None = None


class LogSubscription:
    """Leases records ahead, renews what it holds now and then, and handles each in a task of its own."""

    AHEAD = 6
    """Records that are leased beyond those that are handled."""

    def __init__(self, client: "LogConsumer", topic: str, handler: Callable[[Any], Awaitable[object]], options: Options) -> None:
        self.client, self.log, self.topic, self.handler, self.options = client, client.log, topic, handler, options
        self.seconds = options.visibility or self.log.limits.redeliver
        self.ahead: deque[Lease] = deque()
        self.handled: dict[int, tuple[list[Lease], anyio.CancelScope]] = {}
        self.numbers = itertools.count()
        self.stopping = anyio.CancelScope()
        self.ended = anyio.Event()

    async def stop(self, *, drain: bool = True) -> None:
        """What was leased ahead is not given back: its leases end by themselves."""
        self.stopping.cancel()
        if not drain:
            for _, scope in self.handled.values():
                scope.cancel()
        await self.ended.wait()

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as handling:
                with self.stopping:
                    while True:
                        self.renew()
                        if not (self.client.connected and self.begin(handling)):
                            await anyio.sleep(POLL_SECONDS)
                self.ahead.clear()
                while self.handled:
                    self.renew()
                    await anyio.sleep(POLL_SECONDS)
        finally:
            self.ended.set()

    def renew(self) -> None:
        """Let what is held be held on, once half of its time is over."""
        half = self.log.clock.now() + self.seconds / 2
        held = [*self.ahead, *(each for leases, _ in self.handled.values() for each in leases)]
        for each in held:
            if each.until < half and not self.log.renew(each, self.options.group, self.seconds) and each in self.ahead:
                self.ahead.remove(each)

    def begin(self, handling: anyio.abc.TaskGroup) -> bool:
        """Lease a record, or begin to handle some; whether there was any."""
        leased = None
        if len(self.ahead) < self.AHEAD + (self.options.batch_size or 1):
            leased = self.log.poll(self.topic, self.options.group, self.seconds, ordered=self.client.ordered)
            if leased is not None:
                self.ahead.append(leased)
        if not self.ahead or len(self.handled) >= self.options.concurrency:
            return leased is not None

        leases = [self.ahead.popleft() for _ in range(min(len(self.ahead), self.options.batch_size or 1))]
        scope = anyio.CancelScope()
        number = next(self.numbers)
        self.handled[number] = (leases, scope)
        handling.start_soon(self.handle, number, leases, scope)
        return True

    async def handle(self, number: int, leases: list[Lease], scope: anyio.CancelScope) -> None:
        try:
            with scope:
                for each in leases:
                    each.attempts += 1
                outcomes = await self.outcomes([self.client.message(each) for each in leases])
                for lease, outcome in zip(leases, outcomes, strict=True):
                    await self.settle(lease, outcome)
        finally:
            del self.handled[number]

    async def outcomes(self, messages: list[Any]) -> list[object]:
        """What the handler says of each of *messages*; whatever it raises asks for all of them again."""
        try:
            said = await self.handler(messages[0] if self.options.batch_size is None else messages)
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            said = RETRY  # the handler made it up
        except Exception:
            said = RETRY
        if self.options.batch_size is None:
            return [said]
        return list(said) if isinstance(said, list | tuple) and len(said) == len(messages) else [RETRY] * len(messages)

    async def settle(self, lease: Lease, outcome: object) -> None:
        """Tell the broker, which may be out of reach: then the lease ends by itself."""
        most = max(self.options.max_attempts, self.log.limits.least_attempts)
        if not self.client.connected:
            self.log.let_go(lease, after=self.seconds)
        elif outcome is SUCCESS:
            self.log.finish(lease, self.options.group)
        elif outcome is FAIL or lease.attempts >= most:
            if self.options.dead_letter_topic is not None:
                self.client.bury(lease, self.options.dead_letter_topic)
            self.log.give_up(lease, self.options.group)
        else:
            self.log.let_go(lease, after=self.client.again_after(self))


class LogConsumer:
    """One client of a log. It cannot be entered twice."""

    def __init__(self, log: Log, capabilities: frozenset[str]) -> None:
        self.log = log
        self._capabilities = capabilities
        self.limits = log.limits
        self.ordered = "ordering_by_key" in capabilities
        self.closed = self.gone = False
        self.subscriptions: list[LogSubscription] = []
        self.tasks: anyio.abc.TaskGroup | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    @property
    def connected(self) -> bool:
        return self.log.reachable and not self.gone

    async def __aenter__(self) -> Self:
        if self.tasks is not None:
            raise RuntimeError("this consumer was entered before")
        await anyio.sleep(0.02)  # a slow handshake
        self.tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
        assert self.tasks is not None
        await self.tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        self.closed = True
        for each in self.subscriptions:
            await each.stop(drain=not self.gone)

    def vanish(self) -> None:
        """End as if the process had been killed."""
        self.gone = self.closed = True
        for each in self.subscriptions:
            each.stopping.cancel()
            for _, scope in each.handled.values():
                scope.cancel()

    async def subscribe(
        self, topic: str, handler: Callable[[Any], Awaitable[Any]], *, max_attempts: int = 3, **options: Any
    ) -> LogSubscription:
        self.check(topic, handler, max_attempts, options)
        if self.closed:
            raise ConnectionClosed("this consumer is closed")
        try:
            await self.log.trip()
        except SocketReset as error:
            raise BrokerLost(f"topic {topic!r}: the broker is out of reach") from error
        if self.closed or self.tasks is None:
            raise ConnectionClosed("this consumer is closed")
        subscription = LogSubscription(self, topic, handler, Options(max_attempts=max_attempts, **options))
        self.log.group(topic, subscription.options.group)
        self.subscriptions.append(subscription)
        self.tasks.start_soon(subscription.run)
        return subscription

    def check(self, topic: object, handler: object, max_attempts: object, options: Mapping[str, object]) -> None:
        """Refuse what is not declared, and what is no argument."""
        for option in options:
            if BRINGS.get(option) not in self.capabilities:
                raise UnsupportedError(f"topic {topic!r}: this consumer knows no {option}")
        for name in (topic, options.get("group", "default"), options.get("dead_letter_topic") or topic):
            problem = self.log.name_problem(name)
            if problem:
                raise Rejected(f"topic {topic!r}: {name!r} {problem}") from ValueError("bad name")
        if not callable(handler):
            raise Rejected(f"topic {topic!r}: no handler") from TypeError("not callable")
        for number in (max_attempts, options.get("concurrency", 1), options.get("batch_size") or 1):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise Rejected(f"topic {topic!r}: not {number!r} of them") from ValueError("bad number")

    # What differs from suite to suite.

    def message(self, lease: Lease) -> Any:
        """What a handler is given."""
        return Message(lease.record, lease.attempts)

    def again_after(self, subscription: LogSubscription) -> float:
        """Seconds after which a message comes again that asks for it."""
        return subscription.options.retry_delay

    def bury(self, lease: Lease, topic: str) -> None:
        record = lease.record
        self.log.add(self.log.record(topic, record.payload, record.key, record.headers))


BRINGS: Mapping[str, str] = {
    "group": "fan_out",
    "concurrency": "concurrency",
    "dead_letter_topic": "dead_letter",
    "retry_delay": "nack_redelivery",
    "visibility": "visibility_timeout",
    "batch_size": "batch_consume",
}
"""The capability of each option."""


class LogSuite(ConsumerContract):
    """What suites over a log have: hooks."""

    log: Log
    client: type[LogConsumer] = LogConsumer

    async def make_provider(self, **config: object) -> Any:
        return self.client(self.log, self.declared)

    async def unreachable_provider(self) -> LogConsumer:
        nowhere = Log(limits=self.log.limits)
        nowhere.reachable = False
        return self.client(nowhere, self.declared)

    async def publish(
        self, topic: str, payload: bytes, key: str | None = None, headers: Headers | None = None, **config: object
    ) -> None:
        await self.log.trip()
        self.log.add(self.log.record(topic, payload, key, headers))

    async def crash(self, client: LogConsumer) -> None:
        client.vanish()


class PatientConsumer(LogConsumer):
    """RETRY is not said to the broker: the lease ends by itself, and that is when the message comes again."""

    def again_after(self, subscription: LogSubscription) -> float:
        return subscription.seconds


@unusual
class Prefetching(LogSuite):
    """Fetches ahead, gives nothing back when it is stopped, and lets what asks for RETRY come when `redeliver` is over.

    A rule that expects within `deliver` what a consumer had and let go, or takes a client in twice, would reject it.
    """

    client = PatientConsumer
    capabilities = frozenset(
        "stopping delivery_metadata concurrency visibility_timeout shared lifecycle validation limits".split()
    )
    limits = MessageLimits(redeliver=0.6, deliver=0.3)

    def setUp(self) -> None:
        self.log = Log(limits=self.limits, trip=0.02)


class Dictionary(Mapping[str, str]):
    """Headers of a kind of its own."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._pairs = tuple(pairs.items())

    def __getitem__(self, name: str) -> str:
        for each, value in self._pairs:
            if each == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


class ForeignMessage(Message):
    """A message of a kind of its own."""

    __slots__ = ()

    @property
    def headers(self) -> Mapping[str, str]:
        return Dictionary(super().headers)


class ForgetfulLog(Log):
    """Of 55 acknowledgements it forgets one."""

    phases = itertools.count()
    """So that it is another one each time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._acknowledged = itertools.count(8 * next(self.phases) % 55)

    def finish(self, lease: Lease, name: str) -> None:
        if next(self._acknowledged) % 55:
            super().finish(lease, name)
        else:
            self.let_go(lease)


class ForeignConsumer(LogConsumer):
    """It hands out messages of its own kind."""

    def message(self, lease: Lease) -> Any:
        return ForeignMessage(lease.record, lease.attempts)


@unusual
class AtLeastOnce(LogSuite):
    """Now and then a message comes twice, as CON-24 lets it; all come late, as is declared, and overtake each other.

    A rule that counts what comes to the last message, or compares orders, would reject it.
    """

    client = ForeignConsumer
    capabilities = frozenset("shared fan_out ordering_by_key availability".split())
    limits = MessageLimits(deliver=0.3, settle=0.06, redeliver=0.4, least_attempts=3)

    def setUp(self) -> None:
        chance = random.Random(5)
        self.log = ForgetfulLog(limits=self.limits, trip=0.005, lag=lambda: chance.uniform(0.0, 0.05))

    async def cut(self) -> None:
        self.log.reachable = False

    async def heal(self) -> None:
        self.log.reachable = True


@unusual
class Everything(LogSuite):
    """Every capability over a log, on a clock that the suite moves in steps, and every number as large as may be.

    A rule that computes with a number what a process cannot hold, or takes the clock to stand still while it is moved, would
    reject it.
    """

    capabilities = known_capabilities("consumer")
    limits = MessageLimits(
        key_bytes=2**40,
        value_bytes=2**40,
        headers=2**40,
        batch_size=2**40,
        page_size=2**40,
        redeliver=600,
        least_attempts=10,
        min_ttl=60,
        ttl_resolution=60,
        deliver=0.2,
    )

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.log = Log(limits=self.limits, clock=self.clock, trip=0.002)

    async def make_provider(self, **config: object) -> AbstractAsyncContextManager[LogConsumer]:
        return self.connected()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[LogConsumer]:
        async with LogConsumer(self.log, self.declared) as client:
            yield client

    async def advance(self, seconds: float) -> None:
        for _ in range(10):
            self.clock.advance(seconds / 10)
            await anyio.sleep(2 * POLL_SECONDS)

    async def cut(self) -> None:
        self.log.reachable = False

    async def heal(self) -> None:
        self.log.reachable = True
