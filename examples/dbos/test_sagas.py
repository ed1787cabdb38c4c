"""Certifies the sagas that DBOS executes."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.sagas import SagasContract

with servers.installed():
    from examples.dbos.sagas import DBOSSagas, launched, make_sagas
    from examples.sqlite.connections import folder


class TestDBOSSagas(SagasContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = DBOSSagas
    patience = 4.0  # a step is several transactions of DBOS's, one after another in one file, and a rule has three hundred steps

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(launched(folder() / "dbos.sqlite"))

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> DBOSSagas:
        return await make_sagas(tenant_id=tenant_id)

    async def crash(self, client: DBOSSagas) -> None:
        await client.abandon()
