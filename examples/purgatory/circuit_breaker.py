"""`circuit_breaker` on purgatory: its names, settings and errors put into those of the contract, and nothing else.

A breaker is fetched for each call, as the library's own decorator does: from this process's memory, or from a Redis server, where
breakers of one name are one (`shared_state`). Fetching is asynchronous, and `state` is not: it is that of the breaker which was
fetched last. A server that fails is an error of redis-py, and the library has no method that closes the connection to it.

The library has no setting for `half_open_max_calls` and `success_threshold`, which are dropped. Its `threshold` of 0 is the
default one, 5.

Not declared: `lifecycle`, `validation`, `sliding_window`, `slow_call`, `manual_control`, `half_open_timeout`, `retry_after` and
`result_predicate`, none of which it has.
"""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork
from purgatory.domain.model import OpenedState
from purgatory.service._async.circuitbreaker import AsyncCircuitBreaker

from examples import servers
from examples.common.breakers import Settings, Transition
from omnitck.shared.exceptions import CircuitOpenError
from omnitck.shared.models import CircuitState

__all__ = ["PurgatoryBreaker", "RedisPurgatoryBreaker", "make_breaker", "make_shared_breaker"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

STATES = {"closed": CircuitState.CLOSED, "opened": CircuitState.OPEN, "half-opened": CircuitState.HALF_OPEN}


class PurgatoryBreaker:
    """A breaker in this process."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"events"})

    def __init__(self, factory: AsyncCircuitBreakerFactory, name: str, settings: Settings) -> None:
        self._factory = factory
        self._name = name
        self._settings = settings
        self._breaker: AsyncCircuitBreaker

    @classmethod
    async def connect(
        cls,
        factory: AsyncCircuitBreakerFactory,
        name: str = "breaker",
        settings: Settings | None = None,
        on_transition: Transition | None = None,
    ) -> Self:
        """The breaker *name* of *factory*."""
        breaker = cls(factory, name, settings or Settings())
        await factory.initialize()
        await breaker._fetch()
        if on_transition is not None:
            breaker._listen(on_transition)
        return breaker

    @property
    def state(self) -> CircuitState:
        """That of the breaker which was fetched last."""
        return STATES[self._breaker.context.state]

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What *operation* returns."""
        breaker = await self._fetch()
        try:
            async with breaker:
                return await operation(*args, **kwargs)
        except OpenedState as refusal:
            raise CircuitOpenError(str(refusal)) from refusal

    async def _fetch(self) -> AsyncCircuitBreaker:
        wanted = self._settings
        self._breaker = await self._factory.get_breaker(
            self._name, wanted.failure_threshold, wanted.reset_timeout, list(wanted.excluded)
        )
        return self._breaker

    def _listen(self, on_transition: Transition) -> None:
        old = self.state

        def heard(name: str, kind: str, event: Any) -> None:
            nonlocal old
            if kind == "state_changed" and name == self._name:
                was, old = old, STATES[event.state]
                on_transition(was, old)

        self._factory.add_listener(heard)


class RedisPurgatoryBreaker(PurgatoryBreaker):
    """A breaker whose state is in a Redis, or Valkey, server."""

    capabilities: ClassVar[frozenset[str]] = PurgatoryBreaker.capabilities | {"shared_state"}

    async def close(self) -> None:
        """Let go of the connections, for which the library has no word."""
        await self._factory.uow.contexts.redis.aclose()  # type: ignore[attr-defined]


async def make_breaker(*, on_transition: Transition | None = None, **config: Any) -> PurgatoryBreaker:
    """A breaker of its own."""
    return await PurgatoryBreaker.connect(AsyncCircuitBreakerFactory(), settings=Settings.of(config), on_transition=on_transition)


async def make_shared_breaker(
    *,
    name: str | None = None,
    on_transition: Transition | None = None,
    address: tuple[str, int] | None = None,
    **config: Any,
) -> RedisPurgatoryBreaker:
    """The breaker *name*, or one of its own, in the example's server, or in the one at ``OMNITCK_REDIS_URL``."""
    factory = AsyncCircuitBreakerFactory(uow=AsyncRedisUnitOfWork(await servers.connect_info(servers.valkey, address)))
    return await RedisPurgatoryBreaker.connect(factory, name or uuid.uuid4().hex, Settings.of(config), on_transition)
