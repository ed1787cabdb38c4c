"""Certifies the library purgatory."""

from typing import Any, ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.breakers import EVERY_CALL, EXCLUDED_SUCCEEDS, LATE, LAZY, LISTENER, ONE_SUCCESS, UNHURRIED, WALL_CLOCK
from omnitck.resilience.circuit_breaker import CircuitBreakerContract

with servers.installed():
    from examples.purgatory.circuit_breaker import PurgatoryBreaker, RedisPurgatoryBreaker, make_breaker, make_shared_breaker

CANCELLED = "a call that is cancelled counts as a failure"

ALONE = "calls that run at once do not see each other's failures: each counts on from the state that it has fetched"
LAST_CALL = "`state` is that of this client's last call, and what another one has done since is not seen"
OUTAGE = "the ConnectionError of the server takes the place of the operation's own exception"
POOL = "of calls that begin at once no more are made than redis-py has connections, 100: MaxConnectionsError"
WAIT_FOR = "redis-py sends through asyncio.wait_for, which loses a cancellation on Python 3.11"


class TestPurgatoryBreaker(CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "purgatory"
    where = "in memory"
    capabilities = PurgatoryBreaker
    limits = UNHURRIED
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-05": LAZY,
        "BRK-08": LAZY,
        "BRK-09": EVERY_CALL,
        "BRK-10": f"{LAZY}; {ONE_SUCCESS}",
        "BRK-11": ONE_SUCCESS,
        "BRK-12": CANCELLED,
        "BRK-13": CANCELLED,
        "BRK-14": CANCELLED,
        "BRK-15": EXCLUDED_SUCCEEDS,
        "BRK-16": LAZY,
        "BRK-17": LATE,
        "BRK-18": LAZY,
        "BRK-19": EXCLUDED_SUCCEEDS,
        "BRK-22": EVERY_CALL,
        "BRK-23": WALL_CLOCK,
        "BRK-28": f"{LAZY}; {LISTENER}",
        "BRK-41": EVERY_CALL,
        "BRK-55": LAZY,
    }

    async def make_provider(self, **config: Any) -> PurgatoryBreaker:
        return await make_breaker(**config)


class TestRedisPurgatoryBreaker(servers.OnServer, CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "purgatory"
    where = "on Valkey"
    start = servers.valkey
    capabilities = RedisPurgatoryBreaker
    limits = UNHURRIED
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-05": LAZY,
        "BRK-07": POOL,
        "BRK-08": LAZY,
        "BRK-09": EVERY_CALL,
        "BRK-10": f"{LAZY}; {ONE_SUCCESS}",
        "BRK-11": ONE_SUCCESS,
        "BRK-12": CANCELLED,
        "BRK-13": CANCELLED,
        "BRK-14": CANCELLED,
        "BRK-15": EXCLUDED_SUCCEEDS,
        "BRK-16": LAZY,
        "BRK-17": EVERY_CALL,
        "BRK-18": ALONE,
        "BRK-19": EXCLUDED_SUCCEEDS,
        "BRK-22": EVERY_CALL,
        "BRK-23": LAZY,
        "BRK-28": f"{LAZY}; {LISTENER}",
        "BRK-30": LAST_CALL,
        "BRK-32": OUTAGE,
        "BRK-41": EVERY_CALL,
        "BRK-49": LAST_CALL,
        "BRK-55": LAST_CALL,
        "BRK-68": f"{ALONE}; {ONE_SUCCESS}",
        "BRK-COM-14": WAIT_FOR,
    }

    async def make_provider(self, **config: Any) -> RedisPurgatoryBreaker:
        return await make_shared_breaker(**config)
