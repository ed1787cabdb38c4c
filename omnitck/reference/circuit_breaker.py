"""A circuit breaker in memory: `MemoryCircuits` is the store of what is shared, `MemoryCircuitBreaker` a breaker.

`Circuit` is the state machine alone: it has no clock, and is told what time it is.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar

import anyio

from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.exceptions import CircuitOpenError, InvalidArgumentError
from omnitck.shared.models import BreakerLimits, CircuitState

__all__ = ["CAPABILITIES", "Admission", "Circuit", "MemoryCircuitBreaker", "MemoryCircuits", "Settings"]

CAPABILITIES = frozenset(
    "sliding_window slow_call manual_control events half_open_timeout shared_state retry_after result_predicate "
    "lifecycle validation shared availability limits".split()
)

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

Listener = Callable[[CircuitState, CircuitState], object]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of a circuit. Times are seconds, and shares are above 0 and at most 1."""

    failure_threshold: int = 5
    reset_timeout: float = 60.0
    half_open_max_calls: int = 1
    success_threshold: int = 1
    window: str | None = None
    """`count` or `time`; None counts consecutive failures."""
    window_size: float = 100
    minimum_calls: int = 1
    failure_rate: float = 0.5
    slow_call_duration: float = math.inf
    slow_call_rate: float = 1.0
    half_open_timeout: float = math.inf

    def check(self) -> None:
        """Refuse what no circuit can have."""
        for name in ("failure_threshold", "half_open_max_calls", "success_threshold", "minimum_calls"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InvalidArgumentError(f"{name} is a whole number from 1, not {count!r}")
        for name in ("reset_timeout", "window_size", "slow_call_duration", "half_open_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise InvalidArgumentError(f"{name} is a number above 0, not {seconds!r}")
        if self.reset_timeout == math.inf:
            raise InvalidArgumentError("reset_timeout is a finite number of seconds")
        if self.window not in (None, "count", "time"):
            raise InvalidArgumentError(f"window is 'count' or 'time', not {self.window!r}")
        if self.window == "count" and not isinstance(self.window_size, int):
            raise InvalidArgumentError(f"window_size is a whole number of calls, not {self.window_size!r}")
        for name in ("failure_rate", "slow_call_rate"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise InvalidArgumentError(f"{name} is a share above 0 and at most 1, not {share!r}")


class Result(NamedTuple):
    """A call in the window."""

    at: float
    failed: bool
    slow: bool


@dataclass(eq=False)
class Admission:
    """A call that was let through."""

    generation: int
    """Of the state that let it through."""
    at: float


class Circuit:
    """The state machine of one circuit. Each change of its state begins a generation."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = CircuitState.CLOSED
        self.generation = 0
        self.failures = 0
        """Consecutive ones, while it is closed."""
        self.successes = 0
        """While it is half-open."""
        self.window: deque[Result] = deque(maxlen=int(settings.window_size) if settings.window == "count" else None)
        self.probes: set[Admission] = set()
        """What is under way while it is half-open."""
        self.opens_until = math.inf
        """When it is half-open again; infinite while an operator holds it open."""
        self.listeners: list[Listener] = []

    def look(self, now: float) -> CircuitState:
        """Where it stands."""
        if self.state is CircuitState.OPEN and now >= self.opens_until:
            self.change(CircuitState.HALF_OPEN)
        return self.state

    def admit(self, now: float) -> Admission | None:
        """Let a call through; None if it is refused."""
        state = self.look(now)
        if state is CircuitState.OPEN:
            return None

        admission = Admission(self.generation, now)
        if state is CircuitState.HALF_OPEN:
            self.probes -= {each for each in self.probes if now - each.at >= self.settings.half_open_timeout}
            if len(self.probes) >= self.settings.half_open_max_calls:
                return None
            self.probes.add(admission)
        return admission

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        """A call has ended; *failed* is None if that is neither success nor failure."""
        state = self.look(now)
        if admission.generation != self.generation:
            return
        if state is CircuitState.HALF_OPEN:
            if admission not in self.probes:
                return  # It hung, and gave its place to another.
            self.probes.discard(admission)
        if failed is not None:
            self.credit(Result(now, failed, now - admission.at >= self.settings.slow_call_duration))

    def credit(self, result: Result) -> None:
        """Count a result of the present state."""
        if self.state is CircuitState.HALF_OPEN:
            self.credit_probe(result)
            return

        self.failures = self.failures + 1 if result.failed else 0
        self.window.append(result)
        if self.is_over(result.at):
            self.open(result.at)

    def credit_probe(self, result: Result) -> None:
        """Count a result of the half-open circuit."""
        self.successes += 1
        if result.failed or result.slow:
            self.open(result.at)
        elif self.successes >= self.settings.success_threshold:
            self.change(CircuitState.CLOSED)

    def is_over(self, now: float) -> bool:
        """Whether more has failed than may."""
        settings = self.settings
        if settings.window is None:
            return self.failures >= settings.failure_threshold
        if settings.window == "time":
            while self.window and now - self.window[0].at > settings.window_size:
                self.window.popleft()
        calls = len(self.window)
        return calls >= settings.minimum_calls and (
            sum(each.failed for each in self.window) >= settings.failure_rate * calls
            or sum(each.slow for each in self.window) >= settings.slow_call_rate * calls
        )

    def open(self, now: float) -> None:
        """Refuse every call for `reset_timeout`."""
        self.opens_until = now + self.settings.reset_timeout
        self.change(CircuitState.OPEN)

    def change(self, state: CircuitState) -> None:
        """Begin a generation, with nothing counted, and tell of it if the state is another one."""
        before, self.state = self.state, state
        self.generation += 1
        self.failures = self.successes = 0
        self.window.clear()
        self.probes.clear()
        if before is not state:
            self.tell(before, state)

    def tell(self, old: CircuitState, new: CircuitState) -> None:
        """Tell every listener; what one of them raises is its own affair."""
        for each in list(self.listeners):
            with suppress(Exception):
                each(old, new)

    def force_open(self, now: float) -> None:
        """Refuse every call until `reset`."""
        self.look(now)
        self.opens_until = math.inf
        self.change(CircuitState.OPEN)

    def reset(self, now: float) -> None:
        """Let every call through."""
        self.look(now)
        self.change(CircuitState.CLOSED)


@dataclass(eq=False, kw_only=True)
class MemoryCircuits(MemoryServer):
    """The store of the circuits that have names."""

    limits: BreakerLimits = field(default_factory=lambda: BreakerLimits(ttl_resolution=0.0))
    circuits: dict[Cell, Circuit] = field(default_factory=dict)


class MemoryCircuitBreaker(MemoryClient[MemoryCircuits]):
    """A breaker; those of one tenant that are made with one name are one."""

    everything = CAPABILITIES
    reads = "execute"
    deletes = "execute"
    aside = "manual_control"
    circuit_type: ClassVar[type[Circuit]] = Circuit

    def __init__(
        self,
        backend: MemoryCircuits,
        *,
        tenant_id: str | None = None,
        password: str | None = None,
        capabilities: Collection[str] | None = None,
        name: str | None = None,
        excluded: tuple[type[BaseException], ...] = (),
        on_transition: Listener | None = None,
        result_predicate: Callable[[Any], bool] | None = None,
        **settings: Any,
    ) -> None:
        """Make a breaker with *settings*, those of `Settings`; a bad one is `InvalidArgumentError`.

        A circuit that is shared has the settings of the breaker that was made first.
        """
        super().__init__(backend, tenant_id=tenant_id, password=password, capabilities=capabilities)
        self.check_settings(settings, name=name, on_transition=on_transition, result_predicate=result_predicate)
        self.check_excluded(excluded)
        self.name = name
        self.excluded = excluded
        self.result_predicate = result_predicate
        self.on_transition = on_transition
        self.circuit = self.join(self.settled(settings))
        if on_transition is not None:
            self.circuit.listeners.append(on_transition)

    def check_settings(self, settings: Collection[str], **more: object) -> None:
        """Refuse what is not declared."""
        given = {name for name, value in more.items() if value is not None}.union(settings)
        for capability, names in {
            "half_open_timeout": ("half_open_timeout",),
            "slow_call": ("slow_call_duration", "slow_call_rate"),
            "events": ("on_transition",),
            "shared_state": ("name",),
            "result_predicate": ("result_predicate",),
        }.items():
            if given.intersection(names):
                self.need(capability)
        if (
            given.intersection(("window", "window_size", "minimum_calls", "failure_rate"))
            and "slow_call" not in self.capabilities
        ):
            self.need("sliding_window")

    def check_excluded(self, excluded: object) -> None:
        """Refuse what are no exceptions."""
        if not isinstance(excluded, tuple) or not all(
            isinstance(each, type) and issubclass(each, BaseException) for each in excluded
        ):
            raise InvalidArgumentError(f"excluded is a tuple of exception classes, not {excluded!r}")

    def settled(self, given: dict[str, Any]) -> Settings:
        """The settings that are *given*, with times that can be kept."""
        try:
            settings = Settings(**given)
        except TypeError as error:
            raise InvalidArgumentError(str(error)) from None
        settings.check()
        least = self.limits.min_ttl
        times = {"reset_timeout": max(settings.reset_timeout, least), "half_open_timeout": max(settings.half_open_timeout, least)}
        return Settings(**(given | times))

    def join(self, settings: Settings) -> Circuit:
        """The circuit of this breaker's name; one of its own if it has none."""
        if self.name is None:
            return self.circuit_type(settings)

        self.check_key(self.name)
        return self.backend.circuits.setdefault(self.cell(self.name), self.circuit_type(settings))

    def now(self) -> float:
        """Seconds on the clock of the store."""
        return self.backend.clock.now()

    @property
    def state(self) -> CircuitState:
        """See `CircuitBreakerProtocol.state`."""
        return self.circuit.look(self.now())

    async def execute(
        self, operation: Callable[Arguments, Awaitable[T]], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> T:
        """See `CircuitBreakerProtocol.execute`."""
        await self.turn()
        admission = self.circuit.admit(self.now())
        if admission is None:
            raise self.refusal()

        failed: bool | None = True
        try:
            value = await operation(*args, **kwargs)
            failed = not self.accepts(value)
            return value
        except (*self.excluded, anyio.get_cancelled_exc_class()):
            failed = None
            raise
        finally:
            self.circuit.finish(admission, self.now(), failed=failed)

    def accepts(self, value: object) -> bool:
        """Whether a result is a success."""
        return self.result_predicate is None or self.result_predicate(value) is not False

    def refusal(self) -> CircuitOpenError:
        """What a refused call raises."""
        what = "the circuit" if self.name is None else f"the circuit {self.name!r}"
        state = self.circuit.state
        left = self.circuit.opens_until - self.now() if state is CircuitState.OPEN else math.inf
        return CircuitOpenError(f"{what} is {state.name}", retry_after=None if left == math.inf else left)

    async def force_open(self) -> None:
        """See `ManualControl.force_open`."""
        self.need("manual_control")
        await self.turn()
        self.circuit.force_open(self.now())

    async def reset(self) -> None:
        """See `ManualControl.reset`."""
        self.need("manual_control")
        await self.turn()
        self.circuit.reset(self.now())

    def vanish(self) -> None:
        """Be gone as a process that was killed: nobody hears of what is under way."""
        self.closed = True
        self.circuit = self.circuit_type(self.circuit.settings)

    async def close(self) -> None:
        """Tell the listener nothing more. The circuit stays as it is."""
        if self.on_transition in self.circuit.listeners:
            self.circuit.listeners.remove(self.on_transition)
        await super().close()
