"""Certifies queues in PostgreSQL as a consumer."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.consumer import ConsumerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.postgresql.messaging import PostgreSQLMessaging, make_messaging


class TestPostgreSQLConsumer(servers.OnServer, ConsumerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLMessaging

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> PostgreSQLMessaging:
        return await make_messaging(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> PostgreSQLMessaging:
        return await make_messaging(address=("127.0.0.1", 1))

    async def crash(self, client: PostgreSQLMessaging) -> None:
        await client.abandon()
