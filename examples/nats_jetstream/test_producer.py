"""Certifies the adapter of NATS JetStream as a producer."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.producer import ProducerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.nats_jetstream.messaging import NATSMessaging, make_messaging


class TestNATSProducer(servers.OnServer, ProducerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.nats
    capabilities = NATSMessaging

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> NATSMessaging:
        return await make_messaging(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> NATSMessaging:
        return await make_messaging(address=("127.0.0.1", 1))

    async def crash(self, client: NATSMessaging) -> None:
        await client.abandon()
