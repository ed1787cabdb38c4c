"""The plainest circuit breaker passes its core, soon."""

import time
import unittest

from omnitck.selftest.laws import unusual_suite
from omnitck.unusual import unusual_of
from tests.helpers import outcomes_of


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("circuit_breaker")[0].name, "Plainest")
        began = time.monotonic()
        outcomes, _ = outcomes_of(unusual_suite("circuit_breaker", 0))
        self.assertLess(time.monotonic() - began, 30)
        by_status: dict[str, list[str]] = {}
        for each in outcomes:
            by_status.setdefault(each.outcome.value, []).append(each.rule)
        self.assertEqual(by_status.keys(), {"passed", "not declared", "not provoked"})
        self.assertIn("BRK-COM-24", by_status["not provoked"])
        self.assertGreaterEqual(len(by_status["passed"]), 35)


if __name__ == "__main__":
    unittest.main()
