"""The plainest cache passes its core, as soon as its numbers allow."""

import time
import unittest

from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.checks import catalogue
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.primitives.expiry import ExpiryRules
from omnitck.selftest.laws import unusual_suite
from omnitck.unusual import unusual_of


class TestPlainest(unittest.TestCase):
    """Without a clock to move, a time to live of 3 s is the shortest that shows anything at a resolution of 1 s.

    Nine rules of the core wait for one or several: 41 s one after another, and 10 s side by side.
    """

    def setUp(self) -> None:
        self.assertEqual(unusual_of("cache")[0].name, "Plainest")
        self.suite = unusual_suite("cache", 0)
        self.began = time.monotonic()

    def check(self, jobs: int, *, of_expiry: bool) -> list[str]:
        """Run the rules of expiry or the others, *jobs* at a time; the ids of those that passed, in less than 30 s."""
        outcomes: list[Outcome] = []
        tests = [
            self.suite(each.rule.method) for each in catalogue(self.suite) if hasattr(ExpiryRules, each.rule.method) is of_expiry
        ]
        with listening(lambda cls, outcome: outcomes.append(outcome) if cls is self.suite else None):
            ConcurrentSuite(tests, jobs).run(unittest.TestResult())
        self.assertLess(time.monotonic() - self.began, 30)
        self.assertEqual({each.outcome for each in outcomes} - {Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED}, set())
        self.assertLessEqual({each.rule for each in outcomes if each.outcome is Status.NOT_PROVOKED}, {"CA-COM-24"})
        return sorted(each.rule for each in outcomes if each.outcome is Status.PASSED)

    def test_it_passes_its_core_without_expiry_one_after_another(self) -> None:
        self.assertGreaterEqual(len(self.check(1, of_expiry=False)), 20)

    def test_it_passes_the_rules_of_expiry_side_by_side(self) -> None:
        passed = self.check(16, of_expiry=True)
        self.assertEqual(passed, [f"CA-{each:02}" for each in (*range(5, 11), *range(12, 16))])
