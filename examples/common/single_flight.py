"""One computation for all who miss at once on one client: what `get_or_set` is made of, above any adapter."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from examples.common import arguments
from examples.common.client import Client
from omnitck.shared.exceptions import ClosedError
from omnitck.shared.models import Limits

__all__ = ["SingleFlight"]


class SingleFlight(Client):
    """Adds `get_or_set` to an adapter of `cache`.

    The computation runs in a task of its own. So a caller that is cancelled leaves the others waiting for the value, and
    when the last one has left nobody computes any more.
    """

    limits: ClassVar[Limits]

    def __init__(self) -> None:
        super().__init__()
        self._flights: dict[str, asyncio.Task[str]] = {}
        self._waiting: dict[asyncio.Task[str], int] = {}

    async def get(self, key: str) -> str | None:
        """As the adapter does it."""
        raise NotImplementedError

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """As the adapter does it."""
        raise NotImplementedError

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """The value of *key*; on a miss that of *factory*, stored for *ttl* seconds or for ever."""
        arguments.parse_ttl(key, ttl, self.limits)
        value = await self.get(key)
        if value is not None:
            return value

        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self._start(self._compute(key, factory, ttl))
            self._waiting[flight] = 0
            flight.add_done_callback(lambda ended: self._land(key, ended))
        self._waiting[flight] += 1
        try:
            await asyncio.wait([flight])
        except asyncio.CancelledError:
            if self._waiting.get(flight) == 1:
                self._land(key, flight)  # whoever comes next starts anew
                flight.cancel()
            raise
        finally:
            if flight in self._waiting:
                self._waiting[flight] -= 1
        if flight.cancelled() and self._closed:
            raise ClosedError(f"get_or_set {key!r}: the client was closed meanwhile")
        return flight.result()

    async def _compute(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None) -> str:
        value = await self.get(key)  # again: an earlier computation may have ended since its caller looked
        if value is None:
            value = await factory()
            await self.set(key, value, ttl)
        return value

    def _land(self, key: str, flight: asyncio.Task[Any]) -> None:
        self._waiting.pop(flight, None)
        if self._flights.get(key) is flight:
            del self._flights[key]
