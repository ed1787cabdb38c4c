"""Certifies the adapter of RabbitMQ as a consumer."""

from typing import Any
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.consumer import ConsumerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.rabbitmq.messaging import RabbitMQMessaging, make_messaging


class TestRabbitMQConsumer(servers.OnServer, ConsumerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.rabbitmq
    capabilities = RabbitMQMessaging
    patience = 4.0  # each subscription declares an exchange and queues, and a rule makes a hundred

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> RabbitMQMessaging:
        return await make_messaging(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> RabbitMQMessaging:
        return await make_messaging(address=("127.0.0.1", 1))

    async def crash(self, client: RabbitMQMessaging) -> None:
        await client.abandon()

    async def delete_topic(self, topic: str, *, tenant_id: str | None = None, client: Any = None) -> None:
        await client.delete_topic(topic, ("default", "another", "one", "two"))
