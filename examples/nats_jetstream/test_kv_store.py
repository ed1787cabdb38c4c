"""Certifies the adapter of NATS JetStream."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract

with servers.installed():
    from examples.nats_jetstream.kv_store import NATSKVStore, make_store


class TestNATSKVStore(servers.OnServer, KVStoreContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.nats
    capabilities = NATSKVStore

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> NATSKVStore:
        return await make_store(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> NATSKVStore:
        return await make_store(address=("127.0.0.1", 1))
