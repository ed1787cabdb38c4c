"""Windows of time that are certain: what must still be, and what must be gone.

Something that lasts *ttl* seconds must be there in a look that *returned* before the call which began it was *made*, plus
`ttl - ttl_resolution`; it must be gone in a look that was *begun* after that call *returned*, plus `ttl + ttl_resolution`.
Between the two, and on a machine too busy to look in time, nothing is concluded. `ttl=1; sleep(1.1)` would flake on memcached,
whose clock ticks whole seconds, and fail on etcd, which grants 2 s for 1 s.
"""

from typing import TypeVar

from omnitck.kit.concurrency import Call
from omnitck.kit.trial import Trial

__all__ = ["WindowTrial"]

P = TypeVar("P")

SHORTEST_REAL_TTL = 0.25
"""Seconds: with a real clock, long enough to look at a value before it goes."""


class WindowTrial(Trial[P]):
    """The words of rules about what ends by itself."""

    def ttl_unit(self) -> float:
        """A time to live that the provider keeps and the rule can observe, in seconds."""
        limits = self.numbers()
        shortest = 0.0 if self.virtual_time else SHORTEST_REAL_TTL
        return max(limits.min_ttl, 3 * limits.ttl_resolution, shortest)

    def longest(self, ttl: float) -> float:
        """Seconds after which what lasts *ttl* seconds is over."""
        limits = self.numbers()
        kept = max(ttl, limits.min_ttl)
        # The hundredth keeps a clock that is read twice from being judged at the very edge.
        return kept + limits.ttl_resolution + kept / 100

    async def until(self, moment: float) -> None:
        """Wait for *moment* on the provider's clock."""
        await self.wait(moment - self.now())

    async def timed(self, call: Call[object], ttl: float) -> tuple[float, float]:
        """Make *call*, which begins what lasts *ttl* seconds; until when it surely lasts, and from when it is gone."""
        resolution = self.numbers().ttl_resolution
        called = self.now()
        await call()
        kept = max(ttl, self.numbers().min_ttl)
        return called + kept - resolution, self.now() + self.longest(ttl)
