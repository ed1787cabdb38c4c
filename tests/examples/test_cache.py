"""What the adapters of `cache` do beyond the contract's rules."""

import asyncio
import tempfile
from pathlib import Path
from unittest import IsolatedAsyncioTestCase

from examples import servers
from examples.common.single_flight import SingleFlight
from omnitck.shared.exceptions import ClosedError, UnavailableError
from omnitck.shared.models import CacheLimits


class _DictCache(SingleFlight):
    limits = CacheLimits()

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        self.values[key] = value


class SingleFlightTest(IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.cache = _DictCache()
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.runs = self.cancelled = 0

    async def factory(self) -> str:
        self.runs += 1
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "value"

    def call(self) -> asyncio.Task[str]:
        return asyncio.create_task(self.cache.get_or_set("key", self.factory))

    async def test_nobody_computes_when_the_last_caller_has_left(self) -> None:
        callers = [self.call(), self.call()]
        await self.started.wait()
        for number, caller in enumerate(callers):
            caller.cancel()
            await asyncio.wait([caller])
            await asyncio.sleep(0)
            self.assertEqual(self.cancelled, number)
        self.assertEqual(self.cache.values, {})

    async def test_who_comes_after_the_last_caller_computes_anew(self) -> None:
        first = self.call()
        await self.started.wait()
        first.cancel()
        await asyncio.wait([first])
        self.go_on.set()
        self.assertEqual(await self.call(), "value")
        self.assertEqual(self.runs, 2)

    async def test_closing_ends_the_computation(self) -> None:
        caller = self.call()
        await self.started.wait()
        await self.cache.close()
        with self.assertRaises(ClosedError):
            await caller
        self.assertEqual(self.cancelled, 1)


class MemcachedTest(IsolatedAsyncioTestCase):
    async def test_a_value_may_hold_the_end_of_a_reply(self) -> None:
        """emcache by itself loses its connection over the first one."""
        with servers.installed():
            from examples.memcached.cache import make_cache

        async with await make_cache(namespace=__name__) as cache:
            for value in ("END\r\n" * 50_000, "\\r\r\\\\r" * 1000, "\r" * cache.limits.value_bytes):
                await cache.set("key", value)
                self.assertEqual(await cache.get("key"), value)
            await cache.clear()


class DiskCacheTest(IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.damaged = Path(folder.name), Path(folder.name, "cache.db")
        self.damaged.write_bytes(b"no database" * 100)

    async def test_a_folder_that_cannot_be_used_is_unavailable(self) -> None:
        with servers.installed():
            from examples.diskcache.cache import DiskCache

        for given in (self.folder, self.damaged, self.damaged / "below a file"):
            with self.assertRaises(UnavailableError):
                await DiskCache.connect(given)
