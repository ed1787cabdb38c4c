"""What becomes of a lease when its server is started again, and when somebody moves a clock."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import mock

from examples import servers
from examples.servers import processes, programs
from omnitck.shared.exceptions import ClosedError, LockLostError, UnavailableError

with servers.installed():
    from redis.asyncio import Redis

    from examples.etcd.distributed_lock import make_locks as make_etcd
    from examples.nats_jetstream.distributed_lock import make_locks as make_nats
    from examples.postgresql.distributed_lock import make_locks as make_postgresql
    from examples.sqlite.distributed_lock import SQLiteLocks
    from examples.valkey.distributed_lock import ValkeyLocks
    from examples.valkey.distributed_lock import make_locks as make_valkey

T = TypeVar("T")

RECOVERY = 30.0
"""Seconds after its return in which a server has to be of use again; it takes one or two, if the machine is not busy."""

LONG = 600.0
"""Seconds of a lease that does not end while a test lasts."""

HOUR = 3600.0


class OwnServer(unittest.IsolatedAsyncioTestCase):
    """A server that only this class uses, and may end."""

    start: ClassVar[Callable[[], servers.Server]]
    process: ClassVar[processes.Process]

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(mock.patch.dict(programs._started, clear=True))
        own = {name: value for name, value in os.environ.items() if not (name.startswith("OMNITCK_") and name.endswith("_URL"))}
        cls.enterClassContext(mock.patch.dict(os.environ, own, clear=True))
        cls.process = processes.launched[servers.require(cls.start).address[1]]
        cls.addClassCleanup(cls.process.stop)

    async def restart(self) -> None:
        """End the server, and start it again."""
        await asyncio.to_thread(self.process.halt)
        await asyncio.to_thread(self.process.restart)


class Restarts:
    """A lease is held, and its server ends, and comes back."""

    make: ClassVar[Callable[[], Awaitable[Any]]]

    async def test_a_lease_outlives_its_server_and_the_next_token_is_greater(self) -> None:
        test: Any = self
        async with await type(self).make() as one, await type(self).make() as another:
            held, wanted = one.get_lock("jobs", LONG), another.get_lock("jobs", LONG)
            test.assertTrue(await held.acquire())
            await asyncio.to_thread(test.process.halt)
            with test.assertRaises(UnavailableError):
                await wanted.acquire()
            await asyncio.to_thread(test.process.restart)

            test.assertFalse(await answered(wanted.acquire))
            test.assertTrue(await answered(held.renew))
            test.assertTrue(await held.release())
            test.assertTrue(await wanted.acquire())
            test.assertGreater(wanted.token, held.token)
            await wanted.release()

    async def test_a_lease_that_is_renewed_goes_on_when_its_server_is_back(self) -> None:
        test: Any = self
        begun = time.monotonic()
        await test.restart()
        outage = time.monotonic() - begun
        async with await type(self).make() as one, await type(self).make() as another:
            ttl = max(2 * one.limits.min_ttl, 4 * outage) + 1
            held = one.get_lock("renewed", ttl, auto_renew=True)
            test.assertTrue(await answered(held.acquire))
            await test.restart()
            await asyncio.sleep(ttl)
            test.assertFalse(held.lost.is_set())
            test.assertFalse(await answered(another.get_lock("renewed", ttl).acquire))


class TestEtcd(Restarts, OwnServer):
    start = servers.etcd
    make = make_etcd


class TestPostgreSQL(Restarts, OwnServer):
    start = servers.postgresql
    make = make_postgresql


class TestNATS(Restarts, OwnServer):
    start = servers.nats
    make = make_nats


class TestValkey(OwnServer):
    start = servers.valkey

    async def test_without_persistence_it_forgets_leases_and_their_holders_are_told(self) -> None:
        async with await make_valkey() as one, await make_valkey() as another:
            with self.assertRaisesRegex(LockLostError, "jobs"):
                async with one.get_lock("other jobs", LONG):
                    await self.restart()
                    wanted = another.get_lock("other jobs", LONG)
                    self.assertTrue(await answered(wanted.acquire))
            self.assertTrue(await another.is_locked("other jobs"))
            await wanted.release()

    async def test_what_it_has_saved_it_keeps_the_counter_of_tokens_included(self) -> None:
        async with await make_valkey() as one, await make_valkey() as another:
            held, wanted = one.get_lock("jobs", LONG), another.get_lock("jobs", LONG)
            self.assertTrue(await held.acquire())
            async with Redis.from_url(servers.valkey().url) as redis:
                await redis.save()
            await self.restart()
            self.assertFalse(await answered(wanted.acquire))
            self.assertTrue(await answered(held.release))
            self.assertTrue(await wanted.acquire())
            self.assertGreater(wanted.token or 0, held.token or 0)


class Forgetful(SQLiteLocks):
    """Its calls to free a lock fail, once they were carried out or instead."""

    carried_out = True
    failures = 1

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        freed = self.carried_out and await super()._free(name, owner, keep)
        if self.failures:
            self.failures -= 1
            raise UnavailableError("no reply")
        return freed


class TestHolder(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.locks = await Forgetful.connect(Path(self.enterContext(tempfile.TemporaryDirectory())) / "locks")
        self.addAsyncCleanup(self.locks.close)

    async def test_a_release_that_failed_and_was_carried_out_is_no_loss(self) -> None:
        lock = self.locks.get_lock("jobs", LONG)
        async with lock:
            with self.assertRaises(UnavailableError):
                await lock.release()
            self.assertEqual([await lock.release(), await lock.release(), lock.lost.is_set()], [False, False, False])
        self.assertTrue(await lock.acquire())

    async def test_after_a_release_that_failed_the_lease_is_not_renewed_and_its_end_is_told(self) -> None:
        self.locks.carried_out = False
        lock = self.locks.get_lock("jobs", 0.3, auto_renew=True)
        self.assertTrue(await lock.acquire())
        with self.assertRaises(UnavailableError):
            await lock.release()
        async with asyncio.timeout(RECOVERY):
            await lock.lost.wait()
        self.assertFalse(await lock.renew())

    async def test_a_release_that_failed_can_be_done_again(self) -> None:
        self.locks.carried_out = False
        lock = self.locks.get_lock("jobs", LONG)
        self.assertTrue(await lock.acquire())
        with self.assertRaises(UnavailableError):
            await lock.release()
        self.locks.carried_out = True
        self.assertEqual([await lock.release(), await lock.acquire()], [True, True])

    async def test_one_that_is_renewed_for_a_short_time_is_renewed_again_by_itself(self) -> None:
        lock = self.locks.get_lock("jobs", LONG, auto_renew=True)
        self.assertTrue(await lock.acquire())
        self.assertTrue(await lock.renew(2.0))
        async with asyncio.timeout(RECOVERY):
            while (await self.locks._read("SELECT expires - unixepoch() FROM locks"))[0][0] < LONG / 2:
                await asyncio.sleep(0.01)
        self.assertFalse(lock.lost.is_set())

    async def test_closing_tells_holders_that_they_know_nothing_more(self) -> None:
        lock = self.locks.get_lock("jobs", LONG)
        self.assertTrue(await lock.acquire())
        await self.locks.close()
        self.assertTrue(lock.lost.is_set())


class TestQueueOfPostgreSQL(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        await asyncio.to_thread(servers.require, servers.postgresql)
        self.holder, self.first, self.second = [await make_postgresql() for _ in range(3)]
        for each in (self.holder, self.first, self.second):
            self.addAsyncCleanup(each.close)
        self.held = self.holder.get_lock(self.id(), LONG)
        self.assertTrue(await self.held.acquire())
        self.waiting: list[asyncio.Task[bool]] = []
        for each in (self.first, self.second):
            self.waiting.append(asyncio.create_task(each.get_lock(self.id(), LONG).acquire(LONG)))
            await self.queued(len(self.waiting))

    async def test_who_tries_once_does_not_pass_those_who_wait(self) -> None:
        self.waiting[1].cancel()
        await self.queued(1)
        again = self.holder.get_lock(self.id(), LONG)
        self.assertEqual([await self.held.release(), await again.acquire()], [True, False])
        self.assertTrue(await self.waiting[0])

    async def test_one_whose_process_was_killed_keeps_his_place_for_a_short_time_only(self) -> None:
        await self.first.abandon()
        begun = time.monotonic()
        await self.held.release()
        self.assertTrue(await self.waiting[1])
        self.assertLess(time.monotonic() - begun, RECOVERY)
        self.assertIsInstance((await asyncio.gather(self.waiting[0], return_exceptions=True))[0], ClosedError)

    async def test_closing_gives_up_the_place_at_once(self) -> None:
        await self.first.close()
        await self.queued(1)
        self.assertIsInstance((await asyncio.gather(self.waiting[0], return_exceptions=True))[0], ClosedError)

    async def queued(self, count: int) -> None:
        """Return once as many wait."""
        statement = "SELECT count(*) FROM lock_waiters WHERE name = %(name)s"
        async with asyncio.timeout(RECOVERY):
            while await self.holder._query(statement, name=self.id().encode()) != [(count,)]:
                await asyncio.sleep(0.01)


AN_HOUR_AHEAD = """
import asyncio, json, sys, time
from examples.{backend}.distributed_lock import make_locks

async def main():
    async with await make_locks() as locks:
        held, free = locks.get_lock("held", {long}), locks.get_lock("free", {long})
        print(json.dumps([time.time(), await held.acquire(), await free.acquire(), free.token]), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps([await free.renew(), await free.release()]), flush=True)

asyncio.run(main())
"""


class TestClientWhoseClockIsWrong(unittest.IsolatedAsyncioTestCase):
    """One machine's clock is an hour ahead of the server's and of everybody else's."""

    BACKENDS: ClassVar[dict[str, tuple[Callable[[], servers.Server], str, Callable[[], Awaitable[Any]]]]] = {
        "valkey": (servers.valkey, "OMNITCK_REDIS_URL", make_valkey),
        "postgresql": (servers.postgresql, "OMNITCK_POSTGRES_URL", make_postgresql),
        "nats_jetstream": (servers.nats, "OMNITCK_NATS_URL", make_nats),
    }

    async def test_a_lease_is_that_of_the_servers_clock(self) -> None:
        for backend, (start, variable, make) in self.BACKENDS.items():
            with self.subTest(backend):
                url = (await asyncio.to_thread(servers.require, start)).url
                async with await make() as locks:
                    held, wanted = locks.get_lock("held", LONG), locks.get_lock("free", LONG)
                    self.assertTrue(await held.acquire())
                    child = await asyncio.create_subprocess_exec(
                        *(faketime(), "-m", "-f", f"+{HOUR:.0f}"),
                        *(sys.executable, "-c", AN_HOUR_AHEAD.format(backend=backend, long=LONG)),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        cwd=Path(servers.__file__).parents[2],
                        env={**os.environ, variable: url, "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
                    )
                    assert child.stdin is not None
                    assert child.stdout is not None
                    clock, held_too, free, token = json.loads(await child.stdout.readline())
                    self.assertAlmostEqual(clock, time.time() + HOUR, delta=HOUR / 2)
                    self.assertEqual((held_too, free), (False, True))
                    self.assertFalse(await wanted.acquire())
                    child.stdin.write(b"\n")
                    self.assertEqual(json.loads((await child.communicate())[0]), [True, True])
                    self.assertTrue(await held.renew())
                    self.assertTrue(await wanted.acquire())
                    self.assertGreater(wanted.token, token)
                    self.assertTrue(await held.release() and await wanted.release())


class TestServerWhoseClockIsMoved(OwnServer):
    """A lease of Valkey ends by the clock of the wall, so whoever moves that ends leases; tokens do not depend on it."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.clock = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "clock"
        cls.clock.write_text("+0")
        cls.clock.chmod(0o644)
        cls.start = staticmethod(cls.on_that_clock)
        super().setUpClass()

    clock: ClassVar[Path]

    @classmethod
    def on_that_clock(cls) -> servers.Server:
        """Valkey, whose clock is the machine's and what stands in the file."""
        library = subprocess.run(
            [faketime(), "-m", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
        )
        faked = {
            "LD_PRELOAD": library.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(cls.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with mock.patch.dict(os.environ, faked):
            return servers.valkey()

    async def test_an_hour_ends_leases_early_and_what_compares_tokens_is_safe_still(self) -> None:
        async with await ValkeyLocks.connect(servers.valkey().url) as locks:
            paused, next_one = locks.get_lock("jobs", LONG), locks.get_lock("jobs", LONG)
            self.assertTrue(await paused.acquire())
            self.assertFalse(await next_one.acquire())
            self.clock.write_text(f"+{HOUR:.0f}")
            # The library reads the file when it pleases; the lease would last for ten minutes.
            self.assertTrue(await next_one.acquire(RECOVERY))

            greatest = max(paused.token or 0, next_one.token or 0)
            self.assertEqual(greatest, next_one.token, "what compares tokens would let the former holder write")
            self.assertFalse(await paused.renew())
            self.assertTrue(paused.lost.is_set())
            self.assertFalse(await paused.release())
            self.assertTrue(await locks.is_locked("jobs"), "the former holder has freed the lock of the next one")
            self.assertTrue(await next_one.release())


async def answered(call: Callable[[], Awaitable[T]]) -> T:
    """What *call* returns, once the server is of use again."""
    async with asyncio.timeout(RECOVERY):
        while True:
            with contextlib.suppress(UnavailableError):
                return await call()
            await asyncio.sleep(0.05)


def faketime() -> str:
    """The program of that name, or a skip that says how to get it."""
    program = shutil.which("faketime")
    if program is None:
        missing = "faketime is not installed: apt-get install faketime (or your system's package)"
        if os.environ.get("OMNITCK_REQUIRE_BACKENDS") == "1":
            raise servers.Missing(missing)
        raise unittest.SkipTest(missing)
    return program


if __name__ == "__main__":
    unittest.main()
