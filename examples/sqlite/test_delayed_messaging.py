"""Certifies queues in a SQLite file as a publisher for later."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.sqlite.delayed_messaging import SQLiteScheduler, make_scheduler


class TestSQLiteScheduler(DelayedMessagingContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteScheduler

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> SQLiteScheduler:
        return await make_scheduler(tenant_id=tenant_id)

    async def crash(self, client: SQLiteScheduler) -> None:
        await client.abandon()
