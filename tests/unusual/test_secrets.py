"""The plainest source passes its core, soon; one that has only what was provisioned passes what can be asked of it.

And what a suite takes its time for is not the provider's.
"""

import time
import unittest
from typing import Any

import anyio

from omnitck.kit.outcomes import Outcome, Status
from omnitck.selftest.laws import unusual_suite
from omnitck.unusual import unusual_of
from omnitck.unusual.secrets import Plainest
from tests.helpers import outcome_of, outcomes_of


def by_status(number: int) -> dict[str, list[str]]:
    """The ids of the rules of the unusual suite of that *number*, by what became of them."""
    found: dict[str, list[str]] = {}
    for each in outcomes_of(unusual_suite("secrets", number))[0]:
        found.setdefault(each.outcome.value, []).append(each.rule)
    return found


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("secrets")[0].name, "Plainest")
        began = time.monotonic()
        found = by_status(0)
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual(found.keys(), {"passed", "not declared", "not provoked"})
        self.assertEqual(found["not provoked"], ["SE-COM-24", "SE-10"])
        self.assertGreaterEqual(len(found["passed"]), 23)


class TestMounted(unittest.TestCase):
    def test_only_what_has_to_be_written_is_not_provoked(self) -> None:
        self.assertEqual(unusual_of("secrets")[1].name, "Mounted")
        found = by_status(1)
        self.assertEqual(found.keys(), {"passed", "not declared", "not provoked"})
        self.assertLessEqual({"SE-01", "SE-02", "SE-03", "SE-11"}, set(found["passed"]))
        self.assertEqual(
            [each for each in found["not provoked"] if "COM" in each], [f"SE-COM-{each}" for each in (15, 18, 20, 24)]
        )


class TestHooks(unittest.TestCase):
    def judged(self, seconds: float, **declarations: object) -> Outcome:
        """What becomes of a rule of 31 secrets, each of which takes the suite so many seconds."""

        class Mine(Plainest, unittest.IsolatedAsyncioTestCase):
            async def provision(self, name: str, value: Any, *, tenant_id: str | None = None) -> None:
                await anyio.sleep(seconds)
                await super().provision(name, value, tenant_id=tenant_id)

        suite = type("MineDeclared", (Mine,), declarations)
        return outcome_of(suite, "test_se_06_any_text_survives")[0]

    def test_the_time_of_a_hook_is_no_work(self) -> None:
        outcome = self.judged(0.05, deadline=0.5)
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))

    def test_a_hook_that_does_not_end_is_no_failure_of_the_provider(self) -> None:
        outcome = self.judged(float("inf"), patience=0.02)
        self.assertIs(outcome.outcome, Status.ERROR)
        self.assertIn("provision has not ended after 0.1 s.", outcome.message)
