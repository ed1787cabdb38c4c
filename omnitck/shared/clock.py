"""Time as a dependency, so that a rule about ten years of expiry takes no time at all."""

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """A source of seconds that never goes backwards."""

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        ...


class SystemClock:
    """The monotonic clock of this machine."""

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds moved so far, from *start*."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by *seconds*; a negative number raises ValueError."""
        if not seconds >= 0:
            raise ValueError(f"a clock moves forward only, not by {seconds} s")

        self._now += seconds

    def __repr__(self) -> str:
        return f"ManualClock({self._now})"
