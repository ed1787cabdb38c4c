"""Certifies the library hyx."""

from typing import Any, ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.breakers import EVERY_CALL, LATE, LAZY, UNHURRIED, WALL_CLOCK
from omnitck.resilience.circuit_breaker import CircuitBreakerContract

with servers.installed():
    from examples.hyx.circuit_breaker import HyxBreaker, make_breaker

COUNTED = "there is no setting for excluded: what it names counts as a failure"


class TestHyxBreaker(CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "hyx"
    capabilities = HyxBreaker
    limits = UNHURRIED
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-05": LAZY,
        "BRK-08": LAZY,
        "BRK-09": EVERY_CALL,
        "BRK-10": LAZY,
        "BRK-11": LAZY,
        "BRK-13": COUNTED,
        "BRK-15": COUNTED,
        "BRK-16": LAZY,
        "BRK-17": f"{EVERY_CALL}; {LATE}",
        "BRK-18": LAZY,
        "BRK-19": COUNTED,
        "BRK-22": EVERY_CALL,
        "BRK-23": WALL_CLOCK,
        "BRK-41": EVERY_CALL,
        "BRK-55": LAZY,
    }

    async def make_provider(self, **config: Any) -> HyxBreaker:
        return await make_breaker(**config)
