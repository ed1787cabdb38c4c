"""`circuit_breaker` on hyx: its names, settings and errors put into those of the contract, and nothing else.

The library has no setting for `half_open_max_calls`, which is dropped. So is `excluded`: the library is told which exceptions
count, and cannot be told which do not.

Not declared: `lifecycle`, `validation`, `sliding_window`, `slow_call`, `manual_control`, `events`, `half_open_timeout`,
`shared_state`, `retry_after` and `result_predicate`, none of which it has.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, TypeVar

from hyx.circuitbreaker import consecutive_breaker
from hyx.circuitbreaker.exceptions import BreakerFailing

from examples.common.breakers import Settings, call
from omnitck.shared.exceptions import CircuitOpenError
from omnitck.shared.models import CircuitState

__all__ = ["HyxBreaker", "make_breaker"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

STATES = {"working": CircuitState.CLOSED, "failing": CircuitState.OPEN, "recovering": CircuitState.HALF_OPEN}


class HyxBreaker:
    """A breaker in this process."""

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Settings) -> None:
        self._breaker = consecutive_breaker(
            failure_threshold=settings.failure_threshold,
            recovery_time_secs=settings.reset_timeout,
            recovery_threshold=settings.success_threshold,
        )
        self._call = self._breaker(call)

    @property
    def state(self) -> CircuitState:
        """Where it stands, as the library sees it."""
        return STATES[self._breaker.state.name]

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What *operation* returns."""
        try:
            result: T = await self._call(operation, *args, **kwargs)
        except BreakerFailing as refusal:
            raise CircuitOpenError(str(refusal)) from refusal
        return result


async def make_breaker(**config: Any) -> HyxBreaker:
    """A breaker of its own."""
    return HyxBreaker(Settings.of(config))
