"""Certifies the document database of PostgreSQL."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.document_database import DocumentDatabaseContract

with servers.installed():
    from examples.postgresql.document_database import PostgreSQLDocumentDatabase, make_database


class TestPostgreSQLDocumentDatabase(servers.OnServer, DocumentDatabaseContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLDocumentDatabase

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> PostgreSQLDocumentDatabase:
        return await make_database(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> PostgreSQLDocumentDatabase:
        return await make_database(address=("127.0.0.1", 1))
