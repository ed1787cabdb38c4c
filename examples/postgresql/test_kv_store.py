"""Certifies the adapter of PostgreSQL."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract

with servers.installed():
    from examples.postgresql.kv_store import PostgreSQLKVStore, make_store


class TestPostgreSQLKVStore(servers.OnServer, KVStoreContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLKVStore

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> PostgreSQLKVStore:
        return await make_store(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> PostgreSQLKVStore:
        return await make_store(address=("127.0.0.1", 1))
