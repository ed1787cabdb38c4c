"""Certifies the document database of SQLite."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.document_database import DocumentDatabaseContract

with servers.installed():
    from examples.sqlite.document_database import SQLiteDocumentDatabase, make_database


class TestSQLiteDocumentDatabase(DocumentDatabaseContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteDocumentDatabase

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> SQLiteDocumentDatabase:
        return await make_database(tenant_id=tenant_id)
