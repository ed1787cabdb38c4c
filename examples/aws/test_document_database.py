"""Certifies the document database of DynamoDB, on moto."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.document_database import DocumentDatabaseContract

with servers.installed():
    from examples.aws.document_database import DynamoDBDocumentDatabase, make_database


class TestDynamoDBDocumentDatabase(servers.OnServer, DocumentDatabaseContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.moto
    patience = 4  # moto answers one request at a time, in Python: with 16 rules at once each has a small part of it
    capabilities = DynamoDBDocumentDatabase

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> DynamoDBDocumentDatabase:
        return await make_database(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> DynamoDBDocumentDatabase:
        return await make_database(address=("127.0.0.1", 1))
