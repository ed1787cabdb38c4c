"""The in-memory locks, as an application's own tests use them."""

import unittest

import anyio

from omnitck.reference.distributed_lock import MemoryLock, MemoryLockManager, MemoryLockServer
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import ClosedError, InvalidArgumentError, LockLostError, TooLargeError
from omnitck.shared.models import LockLimits
from tests.helpers import on_each_backend


class Locks:
    """A server on a clock of its own, and a client of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.server = MemoryLockServer(clock=self.clock)
        self.manager = MemoryLockManager(self.server)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.notify()


class TestLocks(unittest.TestCase):
    @on_each_backend
    async def test_a_lock_that_has_ended_goes_to_the_first_who_waits(self) -> None:
        locks = Locks()
        holder = locks.manager.get_lock("a", 10.0)
        self.assertTrue(await holder.acquire())
        served: list[int] = []

        async def wait(number: int, lock: MemoryLock) -> None:
            if await lock.acquire(timeout=100.0):
                served.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number, locks.manager.get_lock("a", 10.0))
                await anyio.wait_all_tasks_blocked()
            for expected in ([0], [0, 1], [0, 1, 2]):
                locks.pass_time(10.0)
                await anyio.wait_all_tasks_blocked()
                self.assertEqual(served, expected)

    @on_each_backend
    async def test_whose_time_to_wait_is_over_gets_nothing(self) -> None:
        locks = Locks()
        holder = locks.manager.get_lock("a", 100.0)
        self.assertTrue(await holder.acquire())
        answers: list[bool] = []

        async def wait() -> None:
            answers.append(await locks.manager.get_lock("a", 10.0).acquire(timeout=5.0))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            locks.pass_time(5.0)
        self.assertEqual(answers, [False])
        self.assertTrue(await holder.release())
        self.assertFalse(await locks.manager.is_locked("a"))

    @on_each_backend
    async def test_a_lease_is_renewed_until_the_client_ends(self) -> None:
        locks = Locks()
        async with locks.manager:
            lock = locks.manager.get_lock("a", 9.0, auto_renew=True)
            self.assertTrue(await lock.acquire())
            for _ in range(10):
                locks.pass_time(3.0)
                await anyio.wait_all_tasks_blocked()
            self.assertTrue(await locks.manager.is_locked("a"))
            self.assertFalse(lock.lost.is_set())
        locks.pass_time(9.0)
        self.assertFalse(await MemoryLockManager(locks.server).is_locked("a"))

    @on_each_backend
    async def test_who_jumps_over_a_whole_lease_has_lost_it(self) -> None:
        locks = Locks()
        async with locks.manager:
            lock = locks.manager.get_lock("a", 9.0, auto_renew=True)
            with self.assertRaises(LockLostError):
                async with lock:
                    locks.pass_time(9.0)
            self.assertTrue(lock.lost.is_set())
            await lock.lost.wait()

    @on_each_backend
    async def test_leases_are_renewed_inside_of_the_clients_context_alone(self) -> None:
        locks = Locks()
        with self.assertRaisesRegex(ClosedError, "enter the manager"):
            await MemoryLockManager(locks.server).get_lock("a", 9.0, auto_renew=True).acquire()

    @on_each_backend
    async def test_tokens_go_on_after_everything_was_released(self) -> None:
        locks = Locks()
        tokens: list[int | None] = []
        for _ in range(3):
            lock = locks.manager.get_lock("a", 9.0)
            async with lock:
                tokens.append(lock.token)
        self.assertEqual(tokens, [1, 2, 3])

    @on_each_backend
    async def test_a_released_lock_is_kept_for_a_while(self) -> None:
        locks = Locks()
        async with locks.manager.get_lock("a", 10.0, at_least=5.0):
            locks.pass_time(1.0)
        another = locks.manager.get_lock("a", 10.0)
        self.assertFalse(await another.acquire())
        locks.pass_time(4.0)
        self.assertTrue(await another.acquire())

    def test_what_is_no_lease_is_refused(self) -> None:
        manager = MemoryLockManager(MemoryLockServer(limits=LockLimits(max_ttl=600.0)))
        for ttl, error in ((0, InvalidArgumentError), (float("nan"), InvalidArgumentError), (600.5, TooLargeError)):
            with self.subTest(ttl), self.assertRaisesRegex(error, "lock 'a'"):
                manager.get_lock("a", ttl)
