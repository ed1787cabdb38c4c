"""Certifies the library circuitbreaker."""

from typing import Any, ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.breakers import EVERY_CALL, EXCLUDED_SUCCEEDS, KEYWORD, LATE, ONE_SUCCESS, UNHURRIED
from omnitck.resilience.circuit_breaker import CircuitBreakerContract

with servers.installed():
    from examples.circuitbreaker.circuit_breaker import CircuitbreakerBreaker, make_breaker

CANCELLED = "a call that is cancelled counts as a success"
PROLONGED = "a failure of a call that was made before it opened begins the timeout anew"
WHOLE = "`open_remaining` is a whole number of seconds, rounded up"


class TestCircuitbreakerBreaker(CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "circuitbreaker"
    capabilities = CircuitbreakerBreaker
    limits = UNHURRIED
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-02": KEYWORD,
        "BRK-09": EVERY_CALL,
        "BRK-10": ONE_SUCCESS,
        "BRK-11": ONE_SUCCESS,
        "BRK-12": CANCELLED,
        "BRK-13": CANCELLED,
        "BRK-15": EXCLUDED_SUCCEEDS,
        "BRK-16": LATE,
        "BRK-17": LATE,
        "BRK-18": PROLONGED,
        "BRK-19": EXCLUDED_SUCCEEDS,
        "BRK-22": EVERY_CALL,
        "BRK-33": WHOLE,
        "BRK-41": LATE,
        "BRK-55": LATE,
    }

    async def make_provider(self, **config: Any) -> CircuitbreakerBreaker:
        return await make_breaker(**config)
