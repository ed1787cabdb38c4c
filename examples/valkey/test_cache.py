"""Certifies the cache on Valkey, or Redis."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.cache import CacheContract

with servers.installed():
    from examples.valkey.cache import ValkeyCache, make_cache


class TestValkeyCache(servers.OnServer, CacheContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.valkey
    capabilities = ValkeyCache

    async def make_provider(
        self, *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> ValkeyCache:
        return await make_cache(namespace=namespace, tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> ValkeyCache:
        return await make_cache(address=("127.0.0.1", 1))
