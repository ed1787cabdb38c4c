"""What the wrapped circuit breakers share: the contract's settings, of which each is given to a library that has it.

What a library has no setting for is dropped, so that the rules show what it does instead; the adapter says which those are.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from omnitck.shared.models import BreakerLimits

__all__ = [
    "EVERY_CALL",
    "EXCLUDED_SUCCEEDS",
    "KEYWORD",
    "LATE",
    "LAZY",
    "LISTENER",
    "ONE_SUCCESS",
    "UNHURRIED",
    "WALL_CLOCK",
    "Settings",
    "Transition",
    "call",
]

# What was observed of several libraries, for their suites.

EVERY_CALL = "in HALF_OPEN every call is made, however many are under way"
EXCLUDED_SUCCEEDS = "a call that raises what is excluded counts as a success"
KEYWORD = "an operation cannot be given a keyword argument `func`, the library's own: TypeError"
LATE = "a call that ends late closes or opens the circuit, whatever state it is in by then"
LAZY = "`state` is OPEN until the next call, however long the timeout has been over"
LISTENER = "what a listener raises takes the place of the operation's own exception"
ONE_SUCCESS = "one success closes it: there is no setting for success_threshold"
WALL_CLOCK = "the timeout is measured with the wall clock"

UNHURRIED = BreakerLimits(min_ttl=0.5, ttl_resolution=0.05)
"""Longer timeouts than a library needs: so also a busy machine sees what a library does that begins its timeout anew."""

Transition = Callable[[Any, Any], object]
"""What `on_transition` is: called with the old state and the new one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a breaker is made with."""

    failure_threshold: int = 5
    reset_timeout: float = 60.0
    """Seconds."""
    half_open_max_calls: int = 1
    success_threshold: int = 1
    excluded: tuple[type[BaseException], ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Those that *config* names."""
        return cls(**{each.name: config[each.name] for each in fields(cls) if each.name in config})


async def call(operation: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
    """What `operation(*args, **kwargs)` returns: the coroutine function that a library's decorator guards."""
    return await operation(*args, **kwargs)
