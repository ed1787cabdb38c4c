"""Certifies the sagas of Valkey, or Redis."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.sagas import SagasContract

with servers.installed():
    from examples.valkey.sagas import ValkeySagas, make_sagas


class TestValkeySagas(servers.OnServer, SagasContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.valkey
    capabilities = ValkeySagas

    async def make_provider(
        self,
        *,
        namespace: str = "",
        tenant_id: str | None = None,
        address: tuple[str, int] | None = None,
        **config: object,
    ) -> ValkeySagas:
        return await make_sagas(tenant_id=tenant_id, namespace=namespace, address=address)

    async def unreachable_provider(self) -> ValkeySagas:
        return await make_sagas(address=("127.0.0.1", 1))

    async def crash(self, client: ValkeySagas) -> None:
        await client.abandon()
