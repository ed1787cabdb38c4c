"""Verdicts of the key-value store's rules that no defect can bring about."""

import unittest
from unittest import mock

from omnitck.kit.history import Verdict
from omnitck.selftest import reference_suite
from tests.helpers import outcome_of


class TestVerdicts(unittest.TestCase):
    def test_a_history_that_cannot_be_decided_does_not_pass(self) -> None:
        suite = reference_suite("kv_store")
        with mock.patch("omnitck.primitives.kv_store.check", return_value=Verdict.UNDECIDED):
            outcome, _ = outcome_of(suite, "test_kv_14_histories_are_linearizable")
        self.assertEqual(
            (outcome.outcome.value, outcome.message),
            ("not provoked", "not provoked: a history took too many steps to decide, OMNITCK_SEED=0"),
        )

    def test_a_seed_that_is_no_number_is_not_the_providers_failure(self) -> None:
        suite = reference_suite("kv_store")
        with mock.patch.dict("os.environ", OMNITCK_SEED="seven"):
            outcome, _ = outcome_of(suite, "test_kv_32_a_random_walk_agrees_with_the_reference")
        self.assertEqual(outcome.outcome.value, "error")
        self.assertIn("OMNITCK_SEED is 'seven': give a whole number.", outcome.message)
