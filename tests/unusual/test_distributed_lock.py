"""The plainest manager of locks passes its core, soon."""

import time
import unittest

from omnitck.selftest.laws import unusual_suite
from omnitck.unusual import unusual_of
from tests.helpers import outcomes_of


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("distributed_lock")[0].name, "Plainest")
        began = time.monotonic()
        outcomes, _ = outcomes_of(unusual_suite("distributed_lock", 0))
        self.assertLess(time.monotonic() - began, 30)
        by_status: dict[str, list[str]] = {}
        for each in outcomes:
            by_status.setdefault(each.outcome.value, []).append(each.rule)
        self.assertEqual(by_status.keys(), {"passed", "not declared", "not provoked"})
        self.assertEqual(set(by_status["not provoked"]), {"LCK-19", "LCK-31", "LCK-COM-24"})
        self.assertGreaterEqual(len(by_status["passed"]), 30)
