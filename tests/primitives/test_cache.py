"""The cache's contract: its reference in real time and on another event loop, a cache of three methods, and what is refused."""

import importlib.util
import os
import unittest
from typing import Any

from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.kit.text import UsageError
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.cache import CacheContract
from omnitck.reference.cache import CAPABILITIES, MemoryCache, MemoryCacheBackend
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import Clock, ManualClock, SystemClock
from omnitck.shared.models import CacheLimits
from tests.helpers import outcome_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestCache: Any = reference_suite("cache", __module__=__name__, __qualname__="TestCache")
TestCacheOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("cache", __module__=__name__, __qualname__="TestCacheOnTrio", backend="trio")
)


class TestCacheInRealTime(CacheContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, and as a user would certify it."""

    capabilities = CAPABILITIES
    credentials = ("correct-horse",)
    memory = MemoryCacheBackend(password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> MemoryCache:
        return MemoryCache(self.memory, tenant_id=tenant_id, namespace=namespace, password="correct-horse")

    async def unreachable_provider(self) -> MemoryCache:
        return MemoryCache(MemoryCacheBackend(reachable=False))


class DictCache:
    """What many a team has: a dictionary, a clock, three methods, no checks."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.data: dict[str, tuple[str, float | None]] = {}

    async def get(self, key: str) -> str | None:
        value, deadline = self.data.get(key, (None, None))
        return value if deadline is None or self.clock.now() < deadline else None

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        self.data[key] = (value, None if ttl is None else self.clock.now() + ttl)

    async def delete(self, key: str) -> None:
        self.data.pop(key, None)


class TestDictCache(CacheContract, unittest.IsolatedAsyncioTestCase):
    """It has the core, with the numbers that every provider meets."""

    def setUp(self) -> None:
        self.clock = ManualClock()

    async def make_provider(self, **config: Any) -> DictCache:
        return DictCache(self.clock)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class TestDictCacheInRealTime(CacheContract, unittest.IsolatedAsyncioTestCase):
    """The same with the machine's clock."""

    limits = CacheLimits(min_ttl=0.05, ttl_resolution=0.05)

    async def make_provider(self, **config: Any) -> DictCache:
        return DictCache(SystemClock())


class TestSuites(unittest.TestCase):
    def test_each_suite_of_the_reference_declares_everything_there_is(self) -> None:
        for suite in (TestCache, TestCacheOnTrio, TestCacheInRealTime):
            self.assertEqual(suite.declared, known_capabilities("cache"))

    def test_a_cache_of_three_methods_has_the_core(self) -> None:
        passed = {rule for rule, each in outcomes_of(TestDictCache).items() if each.outcome is Status.PASSED}
        core = {f"CA-{number:02}" for number in (1, *range(3, 11), 12, 13, 14, 15, 26)}
        core |= {f"CA-KV-{number:02}" for number in (2, 3, 4, 8, 9)}
        self.assertLessEqual(core, passed)

    def test_clear_needs_a_namespace_of_its_own(self) -> None:
        async def make_provider(self: Any, **config: Any) -> MemoryCache:
            raise NotImplementedError

        with self.assertRaisesRegex(UsageError, "declares `clear`, which empties a namespace, but its make_provider takes none"):
            type(
                "TestFlush",
                (CacheContract, unittest.IsolatedAsyncioTestCase),
                {"capabilities": {"clear"}, "make_provider": make_provider, "__module__": __name__},
            )

    def test_a_cache_that_is_too_large_is_not_filled(self) -> None:
        suite = reference_suite("cache", limits=CacheLimits(capacity_bytes=2**40))
        for method in (
            "test_ca_25_a_full_cache_makes_room",
            "test_ca_27_nothing_is_evicted_below_the_capacity",
        ):
            outcome, _ = outcome_of(suite, method)
            self.assertEqual(outcome.outcome, Status.NOT_PROVOKED)


def outcomes_of(suite: type[Any]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    with listening(lambda cls, outcome: outcomes.__setitem__(outcome.rule, outcome) if cls is suite else None):
        unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(unittest.TestResult())
    return outcomes
