"""Certifies the adapter of NATS JetStream as a publisher for later."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.nats_jetstream.delayed_messaging import NATSScheduler, make_scheduler


class TestNATSScheduler(servers.OnServer, DelayedMessagingContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.nats
    capabilities = NATSScheduler

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> NATSScheduler:
        return await make_scheduler(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> NATSScheduler:
        return await make_scheduler(address=("127.0.0.1", 1))

    async def crash(self, client: NATSScheduler) -> None:
        await client.abandon()
