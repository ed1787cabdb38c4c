"""Certifies the library pyresilience."""

from dataclasses import replace
from typing import Any, ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.breakers import EVERY_CALL, KEYWORD, LATE, UNHURRIED
from omnitck.resilience.circuit_breaker import CircuitBreakerContract

with servers.installed():
    from examples.pyresilience.circuit_breaker import PyresilienceBreaker, make_breaker

PROLONGED = "a failure of a call that was made before it opened begins the timeout anew"


class TestPyresilienceBreaker(CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "pyresilience"
    capabilities = PyresilienceBreaker
    limits = replace(UNHURRIED, min_ttl=1.0)  # a late failure makes it 40 % longer, which a busy machine must not miss
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-02": KEYWORD,
        "BRK-09": EVERY_CALL,
        "BRK-16": PROLONGED,
        "BRK-17": f"{EVERY_CALL}; {LATE}",
        "BRK-18": PROLONGED,
        "BRK-22": EVERY_CALL,
        "BRK-41": EVERY_CALL,
        "BRK-55": LATE,
    }

    async def make_provider(self, **config: Any) -> PyresilienceBreaker:
        return await make_breaker(**config)
