"""Certifies the document database of SecantusDB, which speaks MongoDB's protocol and is not MongoDB."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.document_database import DocumentDatabaseContract

with servers.installed("secantusdb"):
    from examples.mongodb.document_database import SecantusDBDocumentDatabase, make_database


class TestSecantusDBDocumentDatabase(servers.OnServer, DocumentDatabaseContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.secantusdb
    capabilities = SecantusDBDocumentDatabase

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> SecantusDBDocumentDatabase:
        return await make_database(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> SecantusDBDocumentDatabase:
        return await make_database(address=("127.0.0.1", 1))
