"""Distributed locks: the reference in its suites, and what the failures of the classic mistakes say."""

import importlib.util
import os
import time
import unittest
from typing import Any, ClassVar

from omnitck.defects import defects_of
from omnitck.kit.outcomes import Status
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.reference.distributed_lock import CAPABILITIES, MemoryLock, MemoryLockManager, MemoryLockServer
from omnitck.resilience.distributed_lock import DistributedLockContract
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.models import LockLimits
from omnitck.unusual.distributed_lock import Plainest, PlainLock, PlainLockManager
from tests.helpers import outcome_of, outcomes_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestDistributedLock: Any = reference_suite("distributed_lock", __module__=__name__, __qualname__="TestDistributedLock")
TestDistributedLockOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("distributed_lock", __module__=__name__, __qualname__="TestDistributedLockOnTrio", backend="trio")
)


class TestDistributedLockInRealTime(DistributedLockContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, and as a user would certify it."""

    capabilities = CAPABILITIES
    server: ClassVar[MemoryLockServer] = MemoryLockServer()

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryLockManager:
        return MemoryLockManager(self.server, tenant_id=tenant_id)

    async def unreachable_provider(self) -> MemoryLockManager:
        return MemoryLockManager(MemoryLockServer(reachable=False))

    async def crash(self, client: Any) -> None:
        client.vanish()


class TestSuites(unittest.TestCase):
    def test_each_declares_everything_there_is(self) -> None:
        for suite in (TestDistributedLock, TestDistributedLockOnTrio, TestDistributedLockInRealTime):
            self.assertEqual(suite.declared, known_capabilities("distributed_lock"))


class TestClassicMistakes(unittest.TestCase):
    """Who reads a failure of one of these knows what to mend."""

    def message(self, defect: str, method: str) -> str:
        [found] = [each for each in defects_of("distributed_lock") if each.name == defect]
        outcome, _ = outcome_of(reference_suite("distributed_lock", found.provider, composed=()), method)
        self.assertIs(outcome.outcome, Status.FAILED)
        return outcome.message

    def test_a_release_without_an_owner_check(self) -> None:
        text = self.message("UnguardedDelete", "test_lck_09_a_late_release_frees_nobody_else")
        self.assertIn("given     acquire by a third owner, after the former holder's release", text)
        self.assertIn("expected  False\n  observed  True", text)
        self.assertIn("hint      compare the owner and delete in one step of the backend", text)
        self.assertIn("lock.release() -> False", text)

    def test_a_delete_by_name(self) -> None:
        text = self.message("DeletedByName", "test_lck_06_who_never_held_frees_nothing")
        self.assertIn("given     release by an object that never acquired\n  expected  False\n  observed  True", text)

    def test_an_owner_that_is_the_host(self) -> None:
        text = self.message("OwnerIsHost", "test_lck_09_a_late_release_frees_nobody_else")
        self.assertIn("given     release by the former holder, after an owner on the same client acquired", text)

    def test_a_renewal_that_revives(self) -> None:
        text = self.message("RevivedLease", "test_lck_22_what_has_ended_is_not_renewed")
        self.assertIn("given     renew after the end of the lease\n  expected  False\n  observed  True", text)

    def test_a_counter_in_the_key(self) -> None:
        text = self.message("CounterInTheKey", "test_lck_25_tokens_increase")
        self.assertIn("expected  a whole number that is greater than the one before\n  observed  1, then 1", text)
        self.assertIn("hint      count where the record of the lock, which is deleted, does not take the counter with it", text)

    def test_a_body_without_the_lock(self) -> None:
        text = self.message("UnlockedBody", "test_lck_12_without_the_lock_the_body_does_not_run")
        self.assertIn("given     async with on a held lock\n  expected  its body does not run\n  observed  it ran", text)

    def test_two_holders_at_once(self) -> None:
        text = self.message("RenewalByName", "test_lck_45_histories_of_leases_are_honest")
        self.assertIn("grants to owners that often stay too long, OMNITCK_SEED=0", text)
        self.assertRegex(text, r"owner \d")

    def test_a_walk_that_diverges(self) -> None:
        text = self.message("ReleaseOfARenewed", "test_lck_44_a_random_walk_agrees_with_the_reference")
        self.assertIn("await locks.renew(", text)
        self.assertRegex(text, r"await locks\.release\(k\d, \d\)  # expected True, observed False")


class TestMethodsOfLocks(unittest.TestCase):
    """The locks that a manager hands out are looked at as the manager is."""

    def failed(self, lock: type[PlainLock], capabilities: frozenset[str] = frozenset()) -> dict[str, str]:
        class Manager(PlainLockManager):
            def get_lock(self, lock_name: str, ttl: float) -> PlainLock:
                return lock(self._held, lock_name, ttl)

        async def make_provider(self: Any, **config: object) -> Manager:
            return Manager(self.held)

        members = {"capabilities": capabilities, "make_provider": make_provider}
        suite = type("Suite", (Plainest, unittest.IsolatedAsyncioTestCase), members)
        tried = ("test_com_01_operations", "test_com_03_undeclared", "test_com_04_declared")
        found = [outcome_of(suite, name)[0] for name in dir(suite) if name.startswith(tried)]
        self.assertEqual(len(found), 3)
        return {each.rule: each.message for each in found if each.outcome is not Status.PASSED}

    def test_one_that_is_missing(self) -> None:
        lock: Any = type("Unreleased", (PlainLock,), {"release": None})
        self.assertIn("given     Unreleased.release\n  expected  a method", self.failed(lock)["LCK-COM-01"])

    def test_one_that_is_declared_and_missing(self) -> None:
        self.assertIn("PlainLock.renew", self.failed(PlainLock, frozenset({"lease_renewal"}))["LCK-COM-04"])

    def test_one_that_is_not_declared(self) -> None:
        async def renew(self: PlainLock, ttl: float | None = None) -> bool:
            return True

        self.assertEqual(self.failed(PlainLock), {})
        lock: Any = type("Renewing", (PlainLock,), {"renew": renew})
        text = self.failed(lock)["LCK-COM-03"]
        self.assertIn("given     renew, which is not declared", text)
        self.assertIn("observed  returned True", text)


class TestNumbers(unittest.TestCase):
    def test_a_lease_as_long_as_those_of_consul_is_waited_for(self) -> None:
        """Leases of at least 10 s, which end up to 15 s late."""
        limits = LockLimits(min_ttl=10.0, ttl_resolution=15.0, deliver=15.0)

        class LateLock(MemoryLock):
            def __init__(self, client: MemoryLockManager, name: str, ttl: float, **options: Any) -> None:
                super().__init__(client, name, max(ttl, 10.0) + 14.9, **options)

            def extend(self, cell: Any, ttl: float) -> bool:
                return super().extend(cell, ttl if ttl > 14.9 and ttl == self.ttl else max(ttl, 10.0) + 14.9)

        class Manager(MemoryLockManager):
            lock_type = LateLock

        def set_up(self: Any) -> None:
            super(suite, self).setUp()
            self.memory.limits = limits

        capabilities = frozenset("lease_renewal shared lifecycle".split())
        suite: Any = reference_suite("distributed_lock", Manager, without=CAPABILITIES - capabilities, composed=(), setUp=set_up)
        began = time.monotonic()
        outcomes, _ = outcomes_of(suite)
        fine = (Status.PASSED, Status.NOT_DECLARED)
        self.assertEqual({each.rule: each.message for each in outcomes if each.outcome not in fine}, {})
        self.assertLess(time.monotonic() - began, 30)
