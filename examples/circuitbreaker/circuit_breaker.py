"""`circuit_breaker` on circuitbreaker: its names, settings and errors put into those of the contract, and nothing else.

The library has no setting for `half_open_max_calls` and `success_threshold`, which are dropped. Its `failure_threshold` of 0 is
the default one, 5, and its `recovery_timeout` of 0 is 30 seconds.

Not declared: `lifecycle`, `validation`, `sliding_window`, `slow_call`, `manual_control`, `events`, `half_open_timeout`,
`shared_state` and `result_predicate`, none of which it has. It can be closed with `reset()`, and nothing opens it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, TypeVar

from circuitbreaker import CircuitBreaker, CircuitBreakerError

from examples.common.breakers import Settings, call
from omnitck.shared.exceptions import CircuitOpenError
from omnitck.shared.models import CircuitState

__all__ = ["CircuitbreakerBreaker", "make_breaker"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

STATES = {"closed": CircuitState.CLOSED, "open": CircuitState.OPEN, "half_open": CircuitState.HALF_OPEN}


class CircuitbreakerBreaker:
    """A breaker in this process."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"retry_after"})

    def __init__(self, settings: Settings) -> None:

        def is_failure(raised: type[BaseException], error: BaseException) -> bool:
            return issubclass(raised, Exception) and not issubclass(raised, settings.excluded)

        self._breaker = CircuitBreaker(
            failure_threshold=settings.failure_threshold,
            recovery_timeout=settings.reset_timeout,
            expected_exception=is_failure if settings.excluded else Exception,
        )
        self._call = self._breaker(call)

    @property
    def state(self) -> CircuitState:
        """Where it stands, as the library sees it."""
        return STATES[self._breaker.state]

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What *operation* returns."""
        try:
            result: T = await self._call(operation, *args, **kwargs)
        except CircuitBreakerError as refusal:
            raise CircuitOpenError(str(refusal), retry_after=self._breaker.open_remaining) from refusal
        return result


async def make_breaker(**config: Any) -> CircuitbreakerBreaker:
    """A breaker of its own."""
    return CircuitbreakerBreaker(Settings.of(config))
