"""Hostile ways, by contract: each ends in a verdict, under the rule that names the cause, and no other rule loses its outcome.

A way a contract on every run; with OMNITCK_WHOLE_TABLE=1, each way of each.
"""

import itertools
import os
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import omnitck
from omnitck.certifying.follower import SHORT_GRACE
from omnitck.report.certificate import SuiteReport
from omnitck.selftest.laws import proven
from tests.certifying import hostile_operations

WAYS = {"Hangs": "COM-23", "Blocks": "COM-23", "Swallows": "COM-14", "Dies": "COM-23"}
"""For each way, a rule of the client family that names the cause."""

GRACE = 1.0


def pairs() -> Iterator[tuple[str, str]]:
    if os.environ.get("OMNITCK_WHOLE_TABLE"):
        return itertools.product(proven(), WAYS)
    return zip(proven(), itertools.cycle(WAYS), strict=False)


def certified(contract: str, way: str) -> tuple[SuiteReport, float]:
    began = time.monotonic()
    certificate = omnitck.certify(getattr(hostile_operations, f"{way}_{contract}"), isolate=True, grace=GRACE)
    return certificate.suites[0], time.monotonic() - began


class TestHostileOperations(unittest.TestCase):
    def test_every_way(self) -> None:
        table = list(pairs())
        with ThreadPoolExecutor(4) as pool:
            reports = list(pool.map(lambda pair: certified(*pair), table))
        for (contract, way), (report, seconds) in zip(table, reports, strict=True):
            with self.subTest(f"{contract} {way}"):
                self.check(report, seconds, WAYS[way])

    def check(self, report: SuiteReport, seconds: float, cause: str) -> None:
        self.assertEqual(report.problem, "")
        ended = {each.rule: str(each.outcome) for each in report.outcomes}
        self.assertEqual(set(ended.values()), {"passed", "failed"}, ended)
        failed = [each for each in report.outcomes if each.outcome == "failed"]
        self.assertGreater(len(ended), 2 * len(failed), failed)
        self.assertEqual(len([each for each in failed if each.rule.endswith(cause)]), 1, failed)
        # A hang for each rule that failed, and no more.
        allowed = sum(each.deadline for each in report.rules if ended[each.id] == "failed")
        self.assertLess(seconds, allowed + len(failed) * (GRACE + SHORT_GRACE + 10) + 60)
