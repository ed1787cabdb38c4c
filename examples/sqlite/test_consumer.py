"""Certifies queues in a SQLite file as a consumer."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.consumer import ConsumerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.sqlite.messaging import SQLiteMessaging, make_messaging


class TestSQLiteConsumer(ConsumerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteMessaging

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> SQLiteMessaging:
        return await make_messaging(tenant_id=tenant_id)

    async def crash(self, client: SQLiteMessaging) -> None:
        await client.abandon()
