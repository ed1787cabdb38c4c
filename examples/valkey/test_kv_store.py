"""Certifies the adapter of Valkey, or Redis."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract

with servers.installed():
    from examples.valkey.kv_store import ValkeyKVStore, make_store


class TestValkeyKVStore(servers.OnServer, KVStoreContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.valkey
    capabilities = ValkeyKVStore

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> ValkeyKVStore:
        return await make_store(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> ValkeyKVStore:
        return await make_store(address=("127.0.0.1", 1))
