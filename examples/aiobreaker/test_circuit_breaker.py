"""Certifies the library aiobreaker."""

from typing import Any, ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.breakers import EVERY_CALL, EXCLUDED_SUCCEEDS, KEYWORD, LATE, LAZY, ONE_SUCCESS, UNHURRIED, WALL_CLOCK
from omnitck.resilience.circuit_breaker import CircuitBreakerContract

with servers.installed():
    from examples.aiobreaker.circuit_breaker import AiobreakerBreaker, make_breaker

REPLACED = "the call that opens it raises CircuitBreakerError in place of the operation's own exception"


class TestAiobreakerBreaker(CircuitBreakerContract, IsolatedAsyncioTestCase):
    distribution = "aiobreaker"
    capabilities = AiobreakerBreaker
    limits = UNHURRIED
    known_deviations: ClassVar[dict[str, str]] = {
        "BRK-02": KEYWORD,
        "BRK-03": REPLACED,
        "BRK-05": LAZY,
        "BRK-08": LAZY,
        "BRK-09": EVERY_CALL,
        "BRK-10": f"{LAZY}; {ONE_SUCCESS}",
        "BRK-11": ONE_SUCCESS,
        "BRK-12": ONE_SUCCESS,
        "BRK-13": EXCLUDED_SUCCEEDS,
        "BRK-14": REPLACED,
        "BRK-15": EXCLUDED_SUCCEEDS,
        "BRK-16": LAZY,
        "BRK-17": f"{EVERY_CALL}; {LATE}",
        "BRK-18": REPLACED,
        "BRK-19": REPLACED,
        "BRK-21": REPLACED,
        "BRK-22": EVERY_CALL,
        "BRK-23": WALL_CLOCK,
        "BRK-28": LAZY,
        "BRK-41": LATE,
        "BRK-55": LAZY,
    }

    async def make_provider(self, **config: Any) -> AiobreakerBreaker:
        return await make_breaker(**config)
