"""Certifies the publisher of delayed messages on Valkey, or Redis."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.valkey.delayed_messaging import ValkeyDelayedMessaging, make_scheduler


class TestValkeyDelayedMessaging(servers.OnServer, DelayedMessagingContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.valkey
    capabilities = ValkeyDelayedMessaging

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> ValkeyDelayedMessaging:
        return await make_scheduler(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> ValkeyDelayedMessaging:
        return await make_scheduler(address=("127.0.0.1", 1))

    async def crash(self, client: ValkeyDelayedMessaging) -> None:
        await client.abandon()
