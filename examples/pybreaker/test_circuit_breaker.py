"""Certifies the library pybreaker."""

from typing import Any, ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.breakers import KEYWORD, UNHURRIED
from omnitck.resilience.circuit_breaker import CircuitBreakerContract

with servers.installed():
    from examples.pybreaker.circuit_breaker import PybreakerBreaker, make_breaker

NEVER = "the call of a coroutine function is a success before anything is awaited: no failure is counted, and it never opens"


class TestPybreakerBreaker(CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "pybreaker"
    capabilities = PybreakerBreaker
    limits = UNHURRIED
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-02": KEYWORD,
        "BRK-03": NEVER,
        "BRK-04": NEVER,
        "BRK-05": NEVER,
        "BRK-06": NEVER,
        "BRK-08": NEVER,
        "BRK-09": NEVER,
        "BRK-10": NEVER,
        "BRK-11": NEVER,
        "BRK-12": NEVER,
        "BRK-13": NEVER,
        "BRK-14": NEVER,
        "BRK-15": NEVER,
        "BRK-16": NEVER,
        "BRK-17": NEVER,
        "BRK-18": NEVER,
        "BRK-19": NEVER,
        "BRK-21": NEVER,
        "BRK-22": NEVER,
        "BRK-23": NEVER,
        "BRK-28": NEVER,
        "BRK-35": NEVER,
        "BRK-38": NEVER,
        "BRK-39": NEVER,
        "BRK-41": NEVER,
        "BRK-55": NEVER,
    }

    async def make_provider(self, **config: Any) -> PybreakerBreaker:
        return await make_breaker(**config)
