"""The rules of locks, over the leases of sagas and the claims of an outbox: right ones pass, wrong ones do not."""

import unittest
from typing import Any

from omnitck.concurrent import ConcurrentSuite
from omnitck.defects import sagas as broken_sagas
from omnitck.defects import transactional_outbox as broken_outboxes
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.reference import sagas, transactional_outbox
from omnitck.resilience.distributed_lock import DistributedLockContract
from omnitck.resilience.leases import OutboxLocks, SagaLocks
from omnitck.shared.clock import ManualClock
from omnitck.shared.models import LockLimits


class OverLeases(DistributedLockContract):
    """A suite of locks over leases in memory, whose clock is moved."""

    limits = LockLimits()
    server: Any
    provider: Any
    locks: Any

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = self.server(clock=self.clock)

    async def make_provider(self, *, namespace: str = "", **config: Any) -> Any:
        async def connect(name: str) -> Any:
            return self.provider(self.memory, namespace=namespace + name)

        return self.locks(connect)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class OverSagas(OverLeases):
    server = sagas.MemorySagaServer
    provider: Any = sagas.MemorySagas
    locks = SagaLocks


class OverOutbox(OverLeases):
    server = transactional_outbox.MemoryOutbox
    provider: Any = transactional_outbox.MemoryOutboxStorage
    locks = OutboxLocks


def failed(kind: type[OverLeases], provider: Any = None) -> dict[str, str]:
    """What the rules of locks say against *provider*; of each that has no verdict, why."""
    suite: Any = type("Suite", (kind, unittest.IsolatedAsyncioTestCase), {} if provider is None else {"provider": provider})
    outcomes: list[Outcome] = []
    with listening(lambda cls, outcome: outcomes.append(outcome) if cls is suite else None):
        ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(suite), jobs=4).run(unittest.TestResult())
    assert sum(each.outcome is Status.PASSED for each in outcomes) > 20
    return {each.rule: each.message for each in outcomes if each.outcome in (Status.FAILED, Status.ERROR)}


class TestLeases(unittest.TestCase):
    def test_those_of_sagas_are_locks(self) -> None:
        self.assertEqual(failed(OverSagas), {})

    def test_those_of_events_are_locks(self) -> None:
        self.assertEqual(failed(OverOutbox), {})

    def test_wrong_ones_are_told_apart(self) -> None:
        """Each by the rule of the lock that names its bug."""
        for kind, provider, rule in (
            (OverSagas, broken_sagas.ReleaseById, "LCK-09"),
            (OverSagas, broken_sagas.LastHolderReleases, "LCK-09"),
            (OverSagas, broken_sagas.ReleaseSaysTrue, "LCK-10"),
            (OverSagas, broken_sagas.EndlessLease, "LCK-07"),
            (OverSagas, broken_sagas.ShortLease, "LCK-08"),
            (OverSagas, broken_sagas.LookThenClaim, "LCK-15"),
            (OverOutbox, broken_outboxes.ReleasesById, "LCK-09"),
            (OverOutbox, broken_outboxes.SilentRelease, "LCK-10"),
            (OverOutbox, broken_outboxes.ClaimsForEver, "LCK-07"),
            (OverOutbox, broken_outboxes.KeepsTheOldLease, "LCK-45"),
            (OverOutbox, broken_outboxes.ClaimedByNobody, "LCK-17"),
        ):
            with self.subTest(provider.__name__):
                self.assertIn(rule, failed(kind, provider))
