"""Certifies the adapter of RabbitMQ as a publisher of delayed messages."""

from typing import Any
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.rabbitmq.delayed_messaging import RabbitMQScheduler, make_scheduler


class TestRabbitMQScheduler(servers.OnServer, DelayedMessagingContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.rabbitmq
    capabilities = RabbitMQScheduler

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> RabbitMQScheduler:
        return await make_scheduler(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> RabbitMQScheduler:
        return await make_scheduler(address=("127.0.0.1", 1))

    async def crash(self, client: RabbitMQScheduler) -> None:
        await client.abandon()

    async def delete_topic(self, topic: str, *, tenant_id: str | None = None, client: Any = None) -> None:
        await client.delete_topic(topic)
