"""The reference is certified: with a clock of its own, in real time, and on another event loop."""

import importlib.util
import os
import unittest
from typing import Any

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.reference.kv_store import CAPABILITIES, MemoryBackend, MemoryKVStore
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestKVStore: Any = reference_suite("kv_store", __module__=__name__, __qualname__="TestKVStore")
TestKVStoreOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("kv_store", __module__=__name__, __qualname__="TestKVStoreOnTrio", backend="trio")
)


class TestKVStoreInRealTime(KVStoreContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, and as a user would certify it."""

    capabilities = CAPABILITIES
    credentials = ("correct-horse",)
    memory = MemoryBackend(password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryKVStore:
        return MemoryKVStore(self.memory, tenant_id=tenant_id, password="correct-horse")

    async def unreachable_provider(self) -> MemoryKVStore:
        return MemoryKVStore(MemoryBackend(reachable=False))


class TestSuites(unittest.TestCase):
    def test_each_declares_everything_there_is(self) -> None:
        for suite in (TestKVStore, TestKVStoreOnTrio, TestKVStoreInRealTime):
            self.assertEqual(suite.declared, known_capabilities("kv_store"))
