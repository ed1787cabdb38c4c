"""Certifies the adapter of Kafka's protocol as a consumer, on Tansu."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.consumer import ConsumerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.kafka.messaging import KafkaMessaging, make_messaging


class TestKafkaConsumer(servers.OnServer, ConsumerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.kafka
    patience = 4.0  # a subscription waits for its group: a second at least, four where a member has gone, more on a busy machine
    capabilities = KafkaMessaging

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> KafkaMessaging:
        return await make_messaging(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> KafkaMessaging:
        return await make_messaging(address=("127.0.0.1", 1))

    async def crash(self, client: KafkaMessaging) -> None:
        await client.abandon()
