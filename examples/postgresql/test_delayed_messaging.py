"""Certifies PostgreSQL as a publisher of delayed messages."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.postgresql.delayed_messaging import PostgreSQLScheduler, make_scheduler


class TestPostgreSQLDelayedMessaging(servers.OnServer, DelayedMessagingContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLScheduler

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> PostgreSQLScheduler:
        return await make_scheduler(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> PostgreSQLScheduler:
        return await make_scheduler(address=("127.0.0.1", 1))

    async def crash(self, client: PostgreSQLScheduler) -> None:
        await client.abandon()
