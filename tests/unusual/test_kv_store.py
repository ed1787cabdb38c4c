"""The plainest store passes its core, soon; and what a slow one is asked for does not take longer than it may."""

import time
import unittest
from typing import Any

import anyio

from omnitck.kit.outcomes import Status
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore
from omnitck.selftest.laws import unusual_suite
from omnitck.shared.models import Limits
from omnitck.unusual import unusual_of
from tests.helpers import outcome_of, outcomes_of


class TestPlainest(unittest.TestCase):
    def test_it_passes_its_core(self) -> None:
        self.assertEqual(unusual_of("kv_store")[0].name, "Plainest")
        began = time.monotonic()
        outcomes, _ = outcomes_of(unusual_suite("kv_store", 0))
        self.assertLess(time.monotonic() - began, 30)
        by_status: dict[str, list[str]] = {}
        for each in outcomes:
            by_status.setdefault(each.outcome.value, []).append(each.rule)
        self.assertEqual(by_status.keys(), {"passed", "not declared", "not provoked"})
        self.assertEqual(by_status["not provoked"], ["KV-COM-24"])
        self.assertGreaterEqual(len(by_status["passed"]), 23)


class SlowStore(MemoryKVStore):
    """It takes longer to tell how long a value has left than the shortest value lasts."""

    async def expires_in(self, key: str) -> float | None:
        await anyio.sleep(0.3)
        return await super().expires_in(key)


class FarStore(MemoryKVStore):
    """Every call takes 3 ms."""

    async def turn(self) -> None:
        await anyio.sleep(0.003)
        await super().turn()


class Slow(KVStoreContract):
    capabilities = {"ttl"}

    async def make_provider(self, **config: Any) -> SlowStore:
        backend = MemoryBackend(limits=Limits(min_ttl=0.05, ttl_resolution=0.01))
        return SlowStore(backend, capabilities=self.declared)


class TestSlow(unittest.TestCase):
    def test_a_value_may_end_while_it_is_asked_how_long_it_lasts(self) -> None:
        suite = type("SlowSuite", (Slow, unittest.IsolatedAsyncioTestCase), {})
        outcome, _ = outcome_of(suite, "test_kv_30_an_expired_key_is_absent_everywhere")
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))

    def test_a_rule_of_many_writes_is_none_of_how_long_one_takes(self) -> None:
        async def make_provider(self: Any, **config: Any) -> FarStore:
            return FarStore(MemoryBackend(limits=Limits()), capabilities=self.declared)

        members = {"capabilities": {"list_prefix"}, "deadline": 4, "make_provider": make_provider}
        suite = type("FarSuite", (KVStoreContract, unittest.IsolatedAsyncioTestCase), members)
        outcome, _ = outcome_of(suite, "test_kv_22_a_listing_is_complete")  # of 2,001 keys
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))
