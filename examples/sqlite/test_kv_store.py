"""Certifies the adapter of SQLite."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.kv_store import KVStoreContract

with servers.installed():
    from examples.sqlite.kv_store import SQLiteKVStore, make_store


class TestSQLiteKVStore(KVStoreContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteKVStore

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> SQLiteKVStore:
        return await make_store(tenant_id=tenant_id)
