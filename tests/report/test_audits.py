"""One outcome of an audit, out of those that it has for each rule that it watched."""

import unittest

from omnitck.kit.outcomes import Outcome, Status
from omnitck.report.audits import sum_up


def watched(*statuses: Status) -> list[Outcome]:
    """An audit that watched as many rules as there are *statuses*."""
    return [
        Outcome("mine.Suite", "TRC-03", each, 0.0, "" if each is Status.PASSED else f"TRC-03, {number}", during=f"KV-0{number}")
        for number, each in enumerate(statuses, 1)
    ]


class TestSums(unittest.TestCase):
    def check(self, summed: Outcome, status: Status, message: str) -> None:
        self.assertEqual(summed, Outcome("mine.Suite", "TRC-03", status, 0.0, message))

    def test_it_passed_if_it_always_passed(self) -> None:
        self.check(sum_up(watched(Status.PASSED, Status.PASSED)), Status.PASSED, "")

    def test_it_failed_if_it_failed_once(self) -> None:
        summed = sum_up(watched(Status.PASSED, Status.FAILED, Status.PASSED))
        self.check(summed, Status.FAILED, "TRC-03, 2\n  seen      first during KV-02, 1 of 3 rules")

    def test_the_first_failure_speaks_for_all(self) -> None:
        summed = sum_up(watched(Status.PASSED, Status.FAILED, Status.FAILED))
        self.check(summed, Status.FAILED, "TRC-03, 2\n  seen      first during KV-02, 2 of 3 rules")

    def test_a_known_deviation_stays_one(self) -> None:
        summed = sum_up(watched(Status.KNOWN_DEVIATION, Status.PASSED))
        self.check(summed, Status.KNOWN_DEVIATION, "TRC-03, 1\n  seen      first during KV-01, 1 of 2 rules")
