"""Certifies the locks on PostgreSQL."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.distributed_lock import DistributedLockContract

with servers.installed():
    from examples.postgresql.distributed_lock import PostgreSQLLocks, make_locks


class TestPostgreSQLLocks(servers.OnServer, DistributedLockContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLLocks

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> PostgreSQLLocks:
        return await make_locks(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> PostgreSQLLocks:
        return await make_locks(address=("127.0.0.1", 1))

    async def crash(self, client: PostgreSQLLocks) -> None:
        await client.abandon()
