import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.kernel.lock import BusinessHooks, Database, LockSuite, MemoryLock, MemoryLocks, Transaction
from tests.kernel.running import failed, outcomes, refusal, run, suite


class NoExclusion(MemoryLock):
    async def acquire(self) -> bool:
        await super().acquire()
        return True


class Unlocked(MemoryLocks):
    lock = NoExclusion


class SavedOutside(MemoryLocks):
    """Stores each event at once, whatever becomes of the block."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        tx = EagerTransaction(self.database)
        yield tx
        self.database.rows |= tx.rows


class EagerTransaction(Transaction):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database

    async def save(self, event: str) -> None:
        self.database.events.append(event)


class TestObjectsThatAreHandedOut(unittest.TestCase):
    def test_a_correct_provider_passes(self) -> None:
        found = outcomes(suite(BusinessHooks, LockSuite))
        self.assertEqual([], [id for id, each in found.items() if each.outcome in ("failed", "error")])
        self.assertEqual("passed", found["TL-01"].outcome)
        self.assertEqual("passed", found["TL-02"].outcome)

    def test_a_wrong_one_fails_under_the_right_id(self) -> None:
        self.assertEqual(["TL-01"], failed(suite(BusinessHooks, LockSuite, provider=Unlocked)))
        self.assertEqual(["TL-02"], failed(suite(BusinessHooks, LockSuite, provider=SavedOutside)))

    def test_the_trace_follows_what_was_handed_out(self) -> None:
        result, _ = run(suite(BusinessHooks, LockSuite, provider=Unlocked))
        [(_, text)] = result.failures
        self.assertRegex(text, r"get_lock\('[^']+'\) -> <tests.kernel")
        self.assertEqual(2, text.count("lock.acquire() -> True"), text)

    def test_the_trace_follows_a_transaction(self) -> None:
        result, _ = run(suite(BusinessHooks, LockSuite, provider=SavedOutside))
        [(_, text)] = result.failures
        self.assertIn("transaction.save('", text)
        self.assertIn("case      rolled back", text)

    def test_without_its_hook_a_rule_is_not_provoked(self) -> None:
        self.assertEqual("not provoked", outcomes(suite(LockSuite))["TL-02"].outcome)

    def test_a_hook_gets_what_the_provider_handed_out_itself(self) -> None:
        seen: list[object] = []

        async def business_write(self: object, tx: Transaction, key: str, value: str) -> None:
            seen.append(tx)
            tx.rows[key] = value

        outcomes(suite(BusinessHooks, LockSuite, business_write=business_write))
        self.assertEqual({Transaction}, {type(each) for each in seen})

    def test_a_hook_that_is_no_coroutine_function_is_refused(self) -> None:
        self.assertEqual(
            "Suite.business_read is no coroutine function: write it with `async def`.",
            refusal(BusinessHooks, LockSuite, business_read=lambda self, key: None),
        )
