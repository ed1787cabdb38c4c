"""Suites with outcomes of every kind, to be run by every runner: see `test_outcomes_are_equal`."""

from typing import Any
from unittest import IsolatedAsyncioTestCase

from omnitck.kit.contract import Policy
from omnitck.kit.definition import Definition
from omnitck.kit.rules import audit
from omnitck.kit.trial import Trial
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.reference.kv_store import CAPABILITIES, MemoryBackend, MemoryKVStore
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import UnavailableError


class TestReference(KVStoreContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    """Everything passes."""

    capabilities = CAPABILITIES
    credentials = ("correct-horse",)
    provider = MemoryKVStore

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryBackend(clock=self.clock, password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryKVStore:
        return self.provider(self.memory, tenant_id=tenant_id, password="correct-horse", capabilities=self.declared)

    async def unreachable_provider(self) -> MemoryKVStore:
        return self.provider(MemoryBackend(reachable=False), capabilities=self.declared)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class Defective(MemoryKVStore):
    """Wrong, hostile and down by turns."""

    async def get(self, key: str) -> str | None:
        return await super().get(key) or None

    def check_tenant(self, tenant_id: object) -> None:
        pass

    async def page(self, prefix: str, after: str) -> list[str]:
        raise UnavailableError("listings are down")

    async def delete_many(self, keys: Any) -> None:
        raise RuntimeError("not yet written")

    async def increment(self, key: str, delta: int = 1) -> int:
        raise SystemExit(3)

    async def set_bytes(self, key: str, value: bytes) -> None:
        raise KeyboardInterrupt


class TestDefective(TestReference):
    """Failures, errors, and a known deviation."""

    provider = Defective
    known_deviations = {"KV-03": "an empty value is taken for none"}


class PlainStore:
    def __init__(self) -> None:
        self._data: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self._data.get(key)

    async def set(self, key: str, value: str) -> None:
        self._data[key] = value

    async def delete(self, key: str) -> None:
        self._data.pop(key, None)


class TestPlain(KVStoreContract, IsolatedAsyncioTestCase):
    """Passes the core, skips the rest."""

    async def make_provider(self, **config: Any) -> PlainStore:
        return PlainStore()


class WatchPolicy(Policy):
    """Finds fault with one rule's doings."""

    definition = Definition(name="watch", prefix="WAT")

    @audit("WAT-01")
    async def audit_wat_01_nothing_stays(self, t: Trial[Any]) -> None:
        """Nothing stays behind."""
        t.check(t.rule.id != "KV-07", given="the store", expected="nothing", observed="something")


class TestAudited(KVStoreContract, WatchPolicy, IsolatedAsyncioTestCase):
    """Passes the core, and fails an audit."""

    async def make_provider(self, **config: Any) -> PlainStore:
        return PlainStore()


class TestWithoutProvider(KVStoreContract, IsolatedAsyncioTestCase):
    """Nothing can be judged."""
