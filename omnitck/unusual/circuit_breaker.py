"""Correct circuit breakers of an unusual kind."""

import asyncio
import math
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.resilience.circuit_breaker import CircuitBreakerContract
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import CircuitOpenError, ClosedError, InvalidArgumentError, UnsupportedError
from omnitck.shared.models import BreakerLimits, CircuitState
from omnitck.unusual import unusual

__all__ = ["Acted", "Latest", "Lazy", "Plainest", "Polled", "Tasked", "Ticking"]

Operation = Callable[..., Awaitable[Any]]


# A state machine whose phases are objects: what was admitted by another phase is late.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings, as they are given."""

    failure_threshold: int = 5
    reset_timeout: float = 60.0
    half_open_max_calls: int = 1
    success_threshold: int = 1
    window: str = ""
    window_size: float = 1
    minimum_calls: int = 1
    failure_rate: float = 1.0
    slow_call_duration: float = math.inf
    slow_call_rate: float = 1.0
    half_open_timeout: float = math.inf


@dataclass(eq=False)
class Closed:
    """Calls are made."""

    row: int = 0
    results: deque[tuple[float, bool, bool]] = field(default_factory=deque)


@dataclass(eq=False)
class Broken:
    """Calls are refused."""

    until: float


@dataclass(eq=False)
class Trying:
    """Some calls are made; each has its place until some moment."""

    wins: int = 0
    places: dict[int, float] = field(default_factory=dict)


Phase = Closed | Broken | Trying
Ticket = tuple[Phase, int, float]

STATES = {Closed: CircuitState.CLOSED, Broken: CircuitState.OPEN, Trying: CircuitState.HALF_OPEN}


class Phases:
    """The machine. It is told what time it is."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.phase: Phase = Closed()
        self.tickets = 0
        self.changes: list[tuple[CircuitState, CircuitState]] = []
        """Those that nobody has been told of."""

    def enter(self, phase: Phase) -> None:
        before, self.phase = STATES[type(self.phase)], phase
        if STATES[type(phase)] is not before:
            self.changes.append((before, STATES[type(phase)]))

    def told(self, phase: Phase, now: float) -> bool:
        """An operator decides."""
        self.at(now)
        self.enter(phase)
        return True

    def at(self, now: float) -> Phase:
        if isinstance(self.phase, Broken) and now >= self.phase.until:
            self.enter(Trying())
        return self.phase

    def admit(self, now: float) -> Ticket | None:
        phase = self.at(now)
        self.tickets += 1
        if isinstance(phase, Broken):
            return None
        if isinstance(phase, Trying):
            phase.places = {ticket: end for ticket, end in phase.places.items() if end > now}
            if len(phase.places) >= self.config.half_open_max_calls:
                return None
            phase.places[self.tickets] = now + self.config.half_open_timeout
        return phase, self.tickets, now

    def neutral(self, ticket: Ticket) -> None:
        phase, number, _ = ticket
        if isinstance(phase, Trying):
            phase.places.pop(number, None)

    def succeed(self, ticket: Ticket, now: float) -> None:
        self.neutral(ticket)
        phase, _, began = ticket
        slow = now - began >= self.config.slow_call_duration
        if phase is not self.at(now):
            return
        if isinstance(phase, Trying) and slow:
            self.trip(now)
        elif isinstance(phase, Trying):
            phase.wins += 1
            if phase.wins >= self.config.success_threshold:
                self.enter(Closed())
        elif isinstance(phase, Closed):
            phase.row = 0
            self.note(phase, now, False, slow)
            if slow:
                self.judge(phase, now)

    def fail(self, ticket: Ticket, now: float) -> None:
        self.neutral(ticket)
        phase, _, began = ticket
        if phase is not self.at(now):
            return
        if isinstance(phase, Closed):
            phase.row += 1
            self.note(phase, now, True, now - began >= self.config.slow_call_duration)
            self.judge(phase, now)
        else:
            self.trip(now)

    def note(self, phase: Closed, now: float, failed: bool, slow: bool) -> None:
        phase.results.append((now, failed, slow))
        while self.config.window == "count" and len(phase.results) > self.config.window_size:
            phase.results.popleft()

    def judge(self, phase: Closed, now: float) -> None:
        """Only a failure, or a slow call, opens it: after any other it need not look."""
        config = self.config
        while config.window == "time" and phase.results and phase.results[0][0] + config.window_size < now:
            phase.results.popleft()
        if not config.window:
            over = phase.row >= config.failure_threshold
        else:
            count = len(phase.results)
            share = sum(failed for _, failed, _ in phase.results) / count
            slow = sum(slow for _, _, slow in phase.results) / count
            over = count >= config.minimum_calls and (share >= config.failure_rate or slow >= config.slow_call_rate)
        if over:
            self.trip(now)

    def trip(self, now: float) -> None:
        self.enter(Broken(now + self.config.reset_timeout))

    def left(self, now: float) -> float | None:
        """Seconds until it tries again, if that is known."""
        until = self.phase.until if isinstance(self.phase, Broken) else math.inf
        return None if until == math.inf else max(until - now, 0.0)


# The plainest.


class PlainBreaker:
    """The core, and nothing besides: it never takes a turn of the event loop of its own."""

    def __init__(self, excluded: tuple[type[BaseException], ...] = (), **settings: Any) -> None:
        self._machine = Phases(Config(**settings))
        self._excluded = excluded

    @property
    def state(self) -> CircuitState:
        return STATES[type(self._machine.at(time.monotonic()))]

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        ticket = self._machine.admit(time.monotonic())
        if ticket is None:
            raise CircuitOpenError
        try:
            result = await operation(*args, **kwargs)
        except self._excluded:
            self._machine.neutral(ticket)
            raise
        except Exception:
            self._machine.fail(ticket, time.monotonic())
            raise
        except BaseException:
            self._machine.neutral(ticket)
            raise
        self._machine.succeed(ticket, time.monotonic())
        return result


@unusual
class Plainest(CircuitBreakerContract):
    """`state` and `execute` alone, in real time, with an error that says nothing, and never a turn of the event loop.

    A rule that needs more than the core demands would reject it.
    """

    async def make_provider(self, **settings: Any) -> PlainBreaker:
        settings.pop("namespace")
        return PlainBreaker(**settings)


# State in another task.


class Tripped(CircuitOpenError):
    """A refusal of the actor's."""


class Actor:
    """A breaker whose state belongs to a task that answers letters, one by one; who is cancelled writes and does not wait."""

    def __init__(
        self, machine: Phases, tasks: anyio.abc.TaskGroup, capabilities: frozenset[str], options: dict[str, Any]
    ) -> None:
        self.capabilities = capabilities
        self._machine = machine
        self._excluded: tuple[type[BaseException], ...] = options.get("excluded", ())
        self._predicate: Callable[[Any], bool] = options.get("result_predicate") or (lambda value: True)
        self._listener: Callable[[CircuitState, CircuitState], object] = options.get("on_transition") or (lambda old, new: None)
        self._letters: deque[tuple[Callable[[], Any], anyio.Event, list[Any]]] = deque()
        self._asked = anyio.Event()
        self._scope = anyio.CancelScope()
        self._closed = False
        tasks.start_soon(self._work)

    async def _work(self) -> None:
        with self._scope:
            while True:
                while self._letters:
                    await anyio.lowlevel.checkpoint()
                    call, done, answer = self._letters.popleft()
                    answer.append(call())
                    done.set()
                    await self._tell()
                self._asked = anyio.Event()
                await self._asked.wait()

    async def _tell(self) -> None:
        """Listeners are told when the letter has been answered."""
        changes, self._machine.changes = self._machine.changes, []
        for old, new in changes:
            await anyio.lowlevel.checkpoint()
            with suppress(Exception):
                self._listener(old, new)

    def _write(self, call: Callable[[], Any]) -> tuple[anyio.Event, list[Any]]:
        done, answer = anyio.Event(), list[Any]()
        self._letters.append((call, done, answer))
        self._asked.set()
        return done, answer

    async def _ask(self, call: Callable[[], Any]) -> Any:
        if self._closed:
            raise ClosedError("this breaker is closed")
        done, answer = self._write(call)
        await done.wait()
        if not answer:
            raise ClosedError("this breaker is closed")
        return answer[0]

    @property
    def state(self) -> CircuitState:
        state = STATES[type(self._machine.at(time.monotonic()))]
        self._write(lambda: None)  # so that a change that this has shown is told
        return state

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        machine, left = self._machine, list[float | None]()
        waits = True

        def admit() -> Ticket | None:
            now = time.monotonic()
            ticket = machine.admit(now)
            left.append(machine.left(now))
            if ticket is not None and not waits:
                machine.neutral(ticket)  # who asked is gone
            return ticket

        try:
            ticket = await self._ask(admit)
        except BaseException:
            waits = False
            raise
        if ticket is None:
            raise Tripped("no", retry_after=left[0])
        try:
            result = await operation(*args, **kwargs)
            answer: bool | None = self._predicate(result)
        except self._excluded:
            await self._report(ticket, None)
            raise
        except Exception:
            await self._report(ticket, False)
            raise
        except BaseException:
            self._write(lambda: machine.neutral(ticket))
            raise
        await self._report(ticket, answer)
        return result

    async def _report(self, ticket: Ticket, answer: bool | None) -> None:
        machine, now = self._machine, time.monotonic()
        done, _ = self._write(
            lambda: (
                machine.neutral(ticket)
                if answer is None
                else machine.succeed(ticket, now)
                if answer
                else machine.fail(ticket, now)
            )
        )
        if not self._closed:
            await done.wait()

    async def force_open(self) -> None:
        self._need("manual_control")
        await self._ask(lambda: self._machine.told(Broken(math.inf), time.monotonic()))

    async def reset(self) -> None:
        self._need("manual_control")
        await self._ask(lambda: self._machine.told(Closed(), time.monotonic()))

    def _need(self, capability: str) -> None:
        if capability not in self.capabilities:
            raise UnsupportedError(capability)

    async def close(self) -> None:
        self._closed = True
        self._scope.cancel()
        while self._letters:
            self._letters.popleft()[1].set()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


@unusual
class Acted(CircuitBreakerContract):
    """Its state belongs to a task of its own, which every question and report crosses; refusals are of a subclass.

    A rule that wants a place back in the very turn in which a call was cancelled, or an event before the call has returned, would
    reject it.
    """

    capabilities = frozenset("manual_control events retry_after result_predicate half_open_timeout lifecycle shared".split())

    @asynccontextmanager
    async def make_provider(self, **settings: Any) -> AsyncIterator[Actor]:  # type: ignore[override]
        settings.pop("namespace")
        options = {name: settings.pop(name, None) for name in ("result_predicate", "on_transition")}
        options["excluded"] = settings.pop("excluded", ())
        async with anyio.create_task_group() as tasks:
            actor = Actor(Phases(Config(**settings)), tasks, self.declared, options)
            try:
                yield actor
            finally:
                await actor.close()


# State in a store that is some way off.


class Store:
    """What clients share: a round trip takes its time, and what they know of it is some time old."""

    def __init__(self) -> None:
        self.machines: dict[str, Phases] = {}
        self.chance = random.Random(5)

    async def trip(self) -> None:
        """One way to it, and back."""
        await anyio.sleep(self.chance.uniform(0.0, 0.02))


POLL_SECONDS = 0.04


class Polling:
    """A client that looks at the store now and then, and knows besides what its own calls came to."""

    def __init__(
        self, store: Store, machine: Phases, tasks: anyio.abc.TaskGroup, excluded: tuple[type[BaseException], ...]
    ) -> None:
        self.limits = BreakerLimits(staleness=0.1)
        self._store = store
        self._machine = machine
        self._excluded = excluded
        self._known: Phase = machine.phase
        self._scope = anyio.CancelScope()
        self._closed = False
        tasks.start_soon(self._poll)

    async def _poll(self) -> None:
        with self._scope:
            while True:
                await anyio.sleep(POLL_SECONDS)
                self._known = self._machine.at(time.monotonic())

    @property
    def state(self) -> CircuitState:
        if isinstance(self._known, Broken) and time.monotonic() >= self._known.until:
            return CircuitState.HALF_OPEN
        return STATES[type(self._known)]

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("this client is closed")

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        self._check()
        await self._store.trip()
        self._check()
        ticket = self._machine.admit(time.monotonic())
        self._known = self._machine.phase
        if ticket is None:
            raise CircuitOpenError("open", retry_after=self._machine.left(time.monotonic()))
        answer: bool | None = None
        try:
            result = await operation(*args, **kwargs)
            answer = True
        except self._excluded:
            raise
        except Exception:
            answer = False
            raise
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._store.trip()
            finally:
                self._credit(ticket, answer)  # whoever cancels it on the way
        return result

    def _credit(self, ticket: Ticket, answer: bool | None) -> None:
        now = time.monotonic()
        if answer is None:
            self._machine.neutral(ticket)
        elif answer:
            self._machine.succeed(ticket, now)
        else:
            self._machine.fail(ticket, now)
        self._known = self._machine.at(now)

    async def force_open(self) -> None:
        self._check()
        await self._store.trip()
        self._machine.told(Broken(math.inf), time.monotonic())
        self._known = self._machine.phase

    async def reset(self) -> None:
        self._check()
        await self._store.trip()
        self._machine.told(Closed(), time.monotonic())
        self._known = self._machine.phase

    async def close(self) -> None:
        self._closed = True
        self._scope.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


@unusual
class Polled(CircuitBreakerContract):
    """Every call makes two round trips to a store, of up to 20 ms, and what others did is known a tenth of a second later.

    A rule that looks at another client at once, or takes the time of a round trip for that of a call, would reject it.
    """

    capabilities = frozenset("manual_control shared_state retry_after sliding_window lifecycle shared".split())

    def setUp(self) -> None:
        self.store = Store()

    @asynccontextmanager
    async def make_provider(self, **settings: Any) -> AsyncIterator[Polling]:  # type: ignore[override]
        settings.pop("namespace")
        excluded, name = settings.pop("excluded", ()), settings.pop("name", None)
        machine = Phases(Config(**settings))
        if name is not None:
            machine = self.store.machines.setdefault(name, machine)
        await self.store.trip()
        async with anyio.create_task_group() as tasks:
            client = Polling(self.store, machine, tasks, excluded)
            try:
                yield client
            finally:
                await client.close()


# A library whose clock ticks whole seconds.


class TickingBreaker(PlainBreaker):
    """Every time is rounded up to a whole second of its clock."""

    def __init__(
        self, clock: ManualClock, limits: BreakerLimits, excluded: Any = (), predicate: Any = None, **settings: Any
    ) -> None:
        for name in ("failure_threshold", "half_open_max_calls", "success_threshold"):
            if not isinstance(settings.get(name, 1), int) or settings.get(name, 1) < 1:
                raise InvalidArgumentError(f"{name} is {settings[name]!r}")
        for name in ("reset_timeout", "half_open_timeout", "slow_call_duration", "window_size"):
            seconds = settings.get(name, 1.0)
            if not isinstance(seconds, int | float) or not seconds > 0:
                raise InvalidArgumentError(f"{name} is {seconds!r}")
        if not settings.get("minimum_calls", 1) > 0 or settings.get("window", "time") not in ("time", "count"):
            raise InvalidArgumentError("no such window")
        if not 0 < settings.get("failure_rate", 1.0) <= 1 or not 0 < settings.get("slow_call_rate", 1.0) <= 1:
            raise InvalidArgumentError("a rate is a share")
        super().__init__(excluded, **settings)
        self.limits = limits
        self._clock = clock
        self._predicate = predicate or (lambda value: True)

    def _now(self) -> float:
        """Seconds that are over."""
        return math.floor(self._clock.now())

    @property
    def state(self) -> CircuitState:
        return STATES[type(self._machine.at(self._now()))]

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        ticket = self._machine.admit(self._now())
        if ticket is None:
            left = self._machine.left(self._clock.now())
            raise CircuitOpenError("open", retry_after=None if left is None else math.ceil(left))
        # It begins with the next second: what it measures is never too long.
        phase, number, _ = ticket
        ticket = phase, number, math.ceil(self._clock.now())
        answer: bool | None = None
        try:
            result = await operation(*args, **kwargs)
            answer = self._predicate(result)
        except self._excluded:
            raise
        except Exception:
            answer = False
            raise
        finally:
            # A timeout that begins now begins with the next second.
            now = math.ceil(self._clock.now())
            if answer is None:
                self._machine.neutral(ticket)
            else:
                (self._machine.succeed if answer else self._machine.fail)(ticket, now)
        return result


@unusual
class Ticking(CircuitBreakerContract):
    """Whole seconds of a clock of the suite's own: every timeout is rounded up, and each error tells whole seconds.

    A rule that takes `ttl_resolution` for nothing would reject it.
    """

    capabilities = frozenset("slow_call result_predicate retry_after validation limits".split())
    limits = BreakerLimits(min_ttl=1.0, ttl_resolution=2.0)

    def setUp(self) -> None:
        self.clock = ManualClock(1_000_000.25)

    async def make_provider(self, *, result_predicate: Any = None, **settings: Any) -> TickingBreaker:
        settings.pop("namespace")
        return TickingBreaker(self.clock, self.limits, settings.pop("excluded", ()), result_predicate, **settings)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


# As late as can be.


class LateClient:
    """Timeouts end as late as is declared, and what others did is known as late as is declared."""

    def __init__(
        self,
        machine: Phases,
        clock: ManualClock,
        limits: BreakerLimits,
        *,
        excluded: tuple[type[BaseException], ...] = (),
        on_transition: Callable[[CircuitState, CircuitState], object] | None = None,
    ) -> None:
        self.limits = limits
        self._machine = machine
        self._clock = clock
        self._excluded = excluded
        self._listener = on_transition
        self._known: tuple[Phase, float] = machine.phase, clock.now()

    def _seen(self) -> Phase:
        """The phase, as this client knows it."""
        phase, since = self._known
        now = self._clock.now()
        if now - since >= self.limits.staleness or (isinstance(phase, Broken) and now >= phase.until):
            self._learn()
        return self._known[0]

    def _learn(self) -> None:
        """Know how things are, and tell what this client has changed."""
        self._known = self._machine.at(self._clock.now()), self._clock.now()
        changes, self._machine.changes = self._machine.changes, []
        for old, new in changes:
            if self._listener is not None:
                with suppress(Exception):
                    self._listener(old, new)

    @property
    def state(self) -> CircuitState:
        return STATES[type(self._seen())]

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        ticket = None if isinstance(self._seen(), Broken) else self._machine.admit(self._clock.now())
        self._learn()
        if ticket is None:
            raise CircuitOpenError("open", retry_after=self._machine.left(self._clock.now()))
        told = self._machine.neutral
        try:
            result = await operation(*args, **kwargs)
            told = self._succeed
            return result
        except self._excluded:
            raise
        except Exception:
            told = self._fail
            raise
        finally:
            told(ticket)
            self._learn()

    def _succeed(self, ticket: Ticket) -> None:
        self._machine.succeed(ticket, self._clock.now())

    def _fail(self, ticket: Ticket) -> None:
        self._machine.fail(ticket, self._clock.now())

    async def force_open(self) -> None:
        self._machine.told(Broken(math.inf), self._clock.now())
        self._learn()

    async def reset(self) -> None:
        self._machine.told(Closed(), self._clock.now())
        self._learn()


@unusual
class Latest(CircuitBreakerContract):
    """Every number is the largest that there is: timeouts of a minute end a minute late, and others hear of it a minute later.

    A rule that allows for less than all of these numbers together would reject it.
    """

    capabilities = frozenset(
        "sliding_window slow_call manual_control events half_open_timeout shared_state retry_after limits shared".split()
    )
    limits = BreakerLimits(min_ttl=60.0, ttl_resolution=60.0, staleness=60.0)

    def setUp(self) -> None:
        self.clock = ManualClock(7.7)
        self.machines: dict[str, Phases] = {}

    async def make_provider(self, **settings: Any) -> LateClient:
        settings.pop("namespace")
        name = settings.pop("name", None)
        own = {each: settings.pop(each) for each in ("excluded", "on_transition") if each in settings}
        for each in ("reset_timeout", "half_open_timeout", "slow_call_duration"):
            if each in settings:
                settings[each] = max(settings[each], self.limits.min_ttl) + self.limits.ttl_resolution
        if settings.get("window") == "time":
            settings["window_size"] += self.limits.ttl_resolution
        machine = Phases(Config(**settings))
        if name is not None:
            machine = self.machines.setdefault(name, machine)
        return LateClient(machine, self.clock, self.limits, **own)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


# Each call in a task of its own.


class TaskedBreaker(PlainBreaker):
    """The operation runs in a task that the breaker makes, and a lock of threads guards what it counts."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lock = threading.Lock()

    @property
    def state(self) -> CircuitState:
        with self._lock:
            return STATES[type(self._machine.at(time.monotonic()))]

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        with self._lock:
            ticket = self._machine.admit(time.monotonic())
        if ticket is None:
            raise CircuitOpenError("the circuit is open") from None

        async def call() -> Any:
            return await operation(*args, **kwargs)

        task = asyncio.create_task(call())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            with self._lock:
                self._machine.neutral(ticket)
            raise
        error = None if task.cancelled() else task.exception()
        with self._lock:
            if task.cancelled() or isinstance(error, self._excluded) or not isinstance(error, Exception | None):
                self._machine.neutral(ticket)
            elif error is None:
                self._machine.succeed(ticket, time.monotonic())
            else:
                self._machine.fail(ticket, time.monotonic())
        return task.result()


@unusual
class Tasked(CircuitBreakerContract):
    """Each operation runs in a task of its own, in the caller's context; only asyncio makes such tasks.

    A rule that looks for the operation in the task of its caller would reject it.
    """

    capabilities = frozenset({"sliding_window", "half_open_timeout"})

    async def make_provider(self, **settings: Any) -> TaskedBreaker:
        settings.pop("namespace")
        return TaskedBreaker(**settings)


# Nothing is told but by calls.


class LazyBreaker(PlainBreaker):
    """`state` compares times and writes nothing: the next call, of whatever operation, does what is due, and tells of it."""

    def __init__(self, clock: ManualClock, on_transition: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._clock = clock
        self._listener: Callable[[CircuitState, CircuitState], object] = on_transition or (lambda old, new: None)

    @property
    def state(self) -> CircuitState:
        phase = self._machine.phase
        due = isinstance(phase, Broken) and self._clock.now() >= phase.until
        return CircuitState.HALF_OPEN if due else STATES[type(phase)]

    def _tell(self) -> None:
        changes, self._machine.changes = self._machine.changes, []
        for change in changes:
            with suppress(Exception):
                self._listener(*change)

    async def execute(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        ticket = self._machine.admit(self._clock.now())
        self._tell()
        if ticket is None:
            raise CircuitOpenError("open")
        answer: bool | None = None
        try:
            result = await operation(*args, **kwargs)
            answer = True
        except self._excluded:
            raise
        except Exception:
            answer = False
            raise
        finally:
            if answer is None:
                self._machine.neutral(ticket)
            else:
                (self._machine.succeed if answer else self._machine.fail)(ticket, self._clock.now())
            self._tell()
        return result

    async def force_open(self) -> None:
        self._machine.told(Broken(math.inf), self._clock.now())
        self._tell()

    async def reset(self) -> None:
        self._machine.told(Closed(), self._clock.now())
        self._tell()


@unusual
class Lazy(CircuitBreakerContract):
    """That its timeout is over, `state` shows; its listener hears of it with the next call.

    A rule that wants a change told because somebody has looked would reject it.
    """

    capabilities = frozenset({"events", "manual_control", "shared"})

    def setUp(self) -> None:
        self.clock = ManualClock(3.3)

    async def make_provider(self, **settings: Any) -> LazyBreaker:
        settings.pop("namespace")
        return LazyBreaker(self.clock, **settings)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
