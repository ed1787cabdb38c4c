"""Certifies the consumer on Valkey, or Redis."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.consumer import ConsumerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.valkey.messaging import ValkeyMessaging, make_messaging


class TestValkeyConsumer(servers.OnServer, ConsumerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.valkey
    capabilities = ValkeyMessaging

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> ValkeyMessaging:
        return await make_messaging(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> ValkeyMessaging:
        return await make_messaging(address=("127.0.0.1", 1))

    async def crash(self, client: ValkeyMessaging) -> None:
        await client.abandon()
