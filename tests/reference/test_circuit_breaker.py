"""The in-memory circuit breaker as an application's fake."""

import unittest
from typing import Any

from omnitck.reference.circuit_breaker import CAPABILITIES, MemoryCircuitBreaker, MemoryCircuits
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import CircuitOpenError, InvalidArgumentError, UnsupportedError
from omnitck.shared.models import BreakerLimits, CircuitState


async def fail() -> None:
    raise LookupError("the service is down")


async def answer() -> str:
    return "fine"


class TestMemoryCircuitBreaker(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.clock = ManualClock()
        self.circuits = MemoryCircuits(clock=self.clock)

    def breaker(self, **settings: Any) -> MemoryCircuitBreaker:
        return MemoryCircuitBreaker(self.circuits, **settings)

    async def test_a_fake_is_driven_by_its_clock(self) -> None:
        breaker = self.breaker(failure_threshold=1, reset_timeout=60.0)
        with self.assertRaises(LookupError):
            await breaker.execute(fail)
        self.clock.advance(59.0)
        with self.assertRaises(CircuitOpenError) as caught:
            await breaker.execute(answer)
        self.assertEqual(caught.exception.retry_after, 1.0)
        self.clock.advance(1.0)
        self.assertIs(breaker.state, CircuitState.HALF_OPEN)
        self.assertEqual(await breaker.execute(answer), "fine")
        self.assertIs(breaker.state, CircuitState.CLOSED)

    async def test_the_first_of_a_name_decides_its_settings(self) -> None:
        one, other = self.breaker(name="payments", failure_threshold=1), self.breaker(name="payments", failure_threshold=5)
        with self.assertRaises(LookupError):
            await other.execute(fail)
        self.assertIs(one.state, CircuitState.OPEN)
        self.assertIs(self.breaker(name="payments", tenant_id="acme").state, CircuitState.CLOSED)
        with self.assertRaisesRegex(CircuitOpenError, "'payments'"):
            await one.execute(answer)

    async def test_what_is_not_declared_is_refused(self) -> None:
        for settings in (
            {"window": "count"},
            {"slow_call_duration": 1.0},
            {"half_open_timeout": 1.0},
            {"name": "payments"},
            {"on_transition": lambda old, new: None},
            {"result_predicate": bool},
        ):
            with self.subTest(settings), self.assertRaises(UnsupportedError):
                self.breaker(capabilities=(), **settings)
        breaker = self.breaker(capabilities={"slow_call"}, window="time", slow_call_duration=1.0)
        with self.assertRaises(UnsupportedError):
            await breaker.force_open()

    def test_a_setting_that_nobody_knows_is_refused(self) -> None:
        with self.assertRaisesRegex(InvalidArgumentError, "failure_treshold"):
            self.breaker(failure_treshold=3)
        with self.assertRaisesRegex(InvalidArgumentError, "excluded is a tuple of exception classes"):
            self.breaker(excluded=LookupError)

    def test_short_timeouts_are_rounded_up(self) -> None:
        self.circuits.limits = BreakerLimits(min_ttl=2.0)
        settings = self.breaker(reset_timeout=0.5, half_open_timeout=3.0).circuit.settings
        self.assertEqual((settings.reset_timeout, settings.half_open_timeout), (2.0, 3.0))

    async def test_a_listener_hears_nothing_after_close(self) -> None:
        heard: list[CircuitState] = []
        breaker = self.breaker(name="payments", on_transition=lambda old, new: heard.append(new))
        other = self.breaker(name="payments")
        await other.force_open()
        await breaker.close()
        await breaker.close()
        await other.reset()
        self.assertEqual(heard, [CircuitState.OPEN])

    def test_it_declares_everything_there_is(self) -> None:
        self.assertEqual(CAPABILITIES, known_capabilities("circuit_breaker"))


if __name__ == "__main__":
    unittest.main()
