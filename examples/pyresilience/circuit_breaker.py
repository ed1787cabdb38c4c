"""`circuit_breaker` on pyresilience: its names, settings and errors put into those of the contract, and nothing else.

The library has no setting for `half_open_max_calls`, which is dropped.

Not declared:

- `sliding_window`, and `slow_call` with it: its window is one of calls, and there is none of time;
- `events`: its listeners hear of every refusal as of a transition, and never which state was left;
- `manual_control`: what decorates a function hides the breaker's `force_open`;
- `lifecycle`, `validation`, `half_open_timeout`, `shared_state`, `retry_after` and `result_predicate`: it has none of them.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, TypeVar

import pyresilience
from pyresilience import CircuitBreakerConfig, ResilienceConfig, ResilienceRegistry, health_check

from examples.common.breakers import Settings, call
from omnitck.shared.exceptions import CircuitOpenError
from omnitck.shared.models import CircuitState

__all__ = ["PyresilienceBreaker", "make_breaker"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

NAME = "breaker"
"""In the registry, of which each breaker has one: it is where the library tells of a state."""

STATES = {"closed": CircuitState.CLOSED, "open": CircuitState.OPEN, "half_open": CircuitState.HALF_OPEN}


class PyresilienceBreaker:
    """A breaker in this process."""

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Settings) -> None:
        config = CircuitBreakerConfig(
            failure_threshold=settings.failure_threshold,
            recovery_timeout=settings.reset_timeout,
            success_threshold=settings.success_threshold,
            ignore_on=settings.excluded,
        )
        self._registry = ResilienceRegistry()
        self._registry.register(NAME, ResilienceConfig(circuit_breaker=config))
        self._call = self._registry.decorator(NAME)(call)

    @property
    def state(self) -> CircuitState:
        """Where it stands, as the library sees it."""
        return STATES[health_check(self._registry)[NAME]["circuit_breaker"]["state"]]

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What *operation* returns."""
        try:
            result: T = await self._call(operation, *args, **kwargs)
        except pyresilience.CircuitOpenError as refusal:
            raise CircuitOpenError(str(refusal)) from refusal
        return result


async def make_breaker(**config: Any) -> PyresilienceBreaker:
    """A breaker of its own."""
    return PyresilienceBreaker(Settings.of(config))
