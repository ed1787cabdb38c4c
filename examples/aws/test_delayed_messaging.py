"""Certifies the adapter of AWS SQS as a publisher of delayed messages, on moto."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.aws.delayed_messaging import SQSScheduler, make_scheduler


class TestSQSScheduler(servers.OnServer, DelayedMessagingContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.moto
    patience = 4.0  # moto answers one request at a time, in Python: with 16 rules at once each has a small part of it
    capabilities = SQSScheduler

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> SQSScheduler:
        return await make_scheduler(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> SQSScheduler:
        return await make_scheduler(address=("127.0.0.1", 1))

    async def crash(self, client: SQSScheduler) -> None:
        await client.abandon()
