"""Certifies the sagas of NATS JetStream."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.sagas import SagasContract

with servers.installed():
    from examples.nats_jetstream.sagas import NATSSagas, make_sagas


class TestNATSSagas(servers.OnServer, SagasContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.nats
    capabilities = NATSSagas

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> NATSSagas:
        return await make_sagas(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> NATSSagas:
        return await make_sagas(address=("127.0.0.1", 1))

    async def crash(self, client: NATSSagas) -> None:
        await client.abandon()
