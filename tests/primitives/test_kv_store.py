"""What the key-value store's rules say and leave behind, where no defect can bring it about."""

import gc
import unittest
import weakref
from unittest import mock

from omnitck.defects.clients import BreakingClose
from omnitck.instruments.history import Verdict
from omnitck.reference.kv_store import MemoryKVStore
from omnitck.selftest.laws import reference_suite
from tests.helpers import outcome_of, outcomes_of


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


class Trusting(MemoryKVStore):
    """Takes what it is given, and says so: it does not declare `validation`."""

    def check_text(self, key: str, kind: str, text: object) -> None:
        pass

    def check_ttl(self, key: str, ttl: object) -> None:
        pass


class TestCapabilities(unittest.TestCase):
    def test_who_does_not_declare_validation_need_not_refuse_arguments(self) -> None:
        outcomes, _ = outcomes_of(reference_suite("kv_store", Trusting, without=frozenset({"validation"})))
        self.assertEqual([each.rule for each in outcomes if each.outcome.value not in ("passed", "not declared")], [])
        undeclared = {each.rule for each in outcomes if each.outcome.value == "not declared"}
        self.assertLessEqual({"KV-05", "KV-26", "KV-CA-11"}, undeclared)


class Breaking(BreakingClose, MemoryKVStore):
    """It fails in the middle of the rule."""


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


class TestGarbage(unittest.TestCase):
    """The collector has no more to do after the rule than before: in the middle of a later rule it would cost seconds."""

    def test_what_others_left_is_not_kept(self) -> None:
        gc.freeze()  # as applications do before they fork
        self.addCleanup(gc.unfreeze)
        frozen = gc.get_freeze_count()
        for provider, verdict in ((None, "passed"), (Breaking, "failed")):
            with self.subTest(verdict):
                left = weakref.ref(Ring())
                outcome, _ = outcome_of(reference_suite("kv_store", provider), "test_com_11_closing_ends_operations_in_flight")
                self.assertEqual(outcome.outcome.value, verdict)
                self.assertIsNone(left())
                self.assertAlmostEqual(gc.get_freeze_count(), frozen, delta=100)
