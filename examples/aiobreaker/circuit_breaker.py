"""`circuit_breaker` on aiobreaker: its names, settings and errors put into those of the contract, and nothing else.

The library has no setting for `half_open_max_calls` and `success_threshold`, which are dropped.

Not declared:

- `manual_control`: what `open()` opens is half-open again after the timeout, and the library says so;
- `retry_after`: `time_remaining` compares the time in UTC with the local one, and is right only where they are the same;
- `shared_state`: its storage in Redis blocks the event loop for each request;
- `lifecycle`, `validation`, `sliding_window`, `slow_call`, `half_open_timeout` and `result_predicate`: it has none of them.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, ParamSpec, TypeVar

from aiobreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerListener, CircuitBreakerState

from examples.common.breakers import Settings, Transition
from omnitck.shared.exceptions import CircuitOpenError
from omnitck.shared.models import CircuitState

__all__ = ["AiobreakerBreaker", "make_breaker"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")


def _state(state: CircuitBreakerState) -> CircuitState:
    return CircuitState[state.name]


class _Listener(CircuitBreakerListener):  # type: ignore[misc]
    def __init__(self, on_transition: Transition) -> None:
        self._on_transition = on_transition

    def state_change(self, breaker: CircuitBreaker, old: Any, new: Any) -> None:
        self._on_transition(_state(old.state), _state(new.state))


class AiobreakerBreaker:
    """A breaker in this process."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"events"})

    def __init__(self, settings: Settings, on_transition: Transition | None = None) -> None:
        self._breaker = CircuitBreaker(
            fail_max=settings.failure_threshold,
            timeout_duration=timedelta(seconds=settings.reset_timeout),
            exclude=settings.excluded,
            listeners=[] if on_transition is None else [_Listener(on_transition)],
        )

    @property
    def state(self) -> CircuitState:
        """Where it stands, as the library sees it."""
        return _state(self._breaker.current_state)

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What *operation* returns."""
        try:
            result: T = await self._breaker.call_async(operation, *args, **kwargs)
        except CircuitBreakerError as refusal:
            raise CircuitOpenError(refusal.message) from refusal
        return result


async def make_breaker(*, on_transition: Transition | None = None, **config: Any) -> AiobreakerBreaker:
    """A breaker of its own."""
    return AiobreakerBreaker(Settings.of(config), on_transition)
