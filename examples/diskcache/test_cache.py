"""Certifies the library diskcache."""

from typing import ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.cache import CacheContract

with servers.installed():
    from examples.diskcache.cache import DiskCache, make_cache


class TestDiskCache(CacheContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    distribution = "diskcache"
    capabilities = DiskCache
    known_deviations: ClassVar = {
        "CA-KV-04": "text of 32 KiB and more is kept in a file that is read with universal newlines: carriage returns are lost",
    }

    async def make_provider(self, *, namespace: str = "", tenant_id: str | None = None, **config: object) -> DiskCache:
        return await make_cache(namespace=namespace, tenant_id=tenant_id)
