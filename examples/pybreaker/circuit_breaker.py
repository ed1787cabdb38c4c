"""`circuit_breaker` on pybreaker: its names, settings and errors put into those of the contract, and nothing else.

Its decorator takes a coroutine function as it takes any other one: the call is over, and a success, when it has returned the
coroutine. What the coroutine does later is not seen: no failure of it is counted, and the circuit never opens. `call_async` is
written for Tornado, and raises NameError where that is not installed.

The library has no setting for `half_open_max_calls`, which is dropped. `throw_new_error_on_trip` is off, as the contract asks for
the operation's own exception.

Not declared:

- `manual_control`: what `open()` opens is half-open again after the timeout, and the library says so;
- `shared_state`: its storage in Redis blocks the event loop for each request;
- `lifecycle`, `validation`, `sliding_window`, `slow_call`, `half_open_timeout`, `retry_after` and `result_predicate`: it has none
  of them.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, TypeVar

from pybreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerListener

from examples.common.breakers import Settings, Transition, call
from omnitck.shared.exceptions import CircuitOpenError
from omnitck.shared.models import CircuitState

__all__ = ["PybreakerBreaker", "make_breaker"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

STATES = {"closed": CircuitState.CLOSED, "open": CircuitState.OPEN, "half-open": CircuitState.HALF_OPEN}


class _Listener(CircuitBreakerListener):
    def __init__(self, on_transition: Transition) -> None:
        self._on_transition = on_transition

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self._on_transition(STATES[old_state.name], STATES[new_state.name])


class PybreakerBreaker:
    """A breaker in this process."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"events"})

    def __init__(self, settings: Settings, on_transition: Transition | None = None) -> None:
        self._breaker = CircuitBreaker(
            fail_max=settings.failure_threshold,
            reset_timeout=settings.reset_timeout,
            success_threshold=settings.success_threshold,
            exclude=settings.excluded,
            listeners=[] if on_transition is None else [_Listener(on_transition)],
            throw_new_error_on_trip=False,
        )
        self._call = self._breaker(call)

    @property
    def state(self) -> CircuitState:
        """Where it stands, as the library sees it."""
        return STATES[self._breaker.current_state]

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What *operation* returns."""
        try:
            result: T = await self._call(operation, *args, **kwargs)
        except CircuitBreakerError as refusal:
            raise CircuitOpenError(str(refusal)) from refusal
        return result


async def make_breaker(*, on_transition: Transition | None = None, **config: Any) -> PybreakerBreaker:
    """A breaker of its own."""
    return PybreakerBreaker(Settings.of(config), on_transition)
