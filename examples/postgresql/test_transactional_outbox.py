"""Certifies an outbox in PostgreSQL."""

from typing import Any
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.transactional_outbox import TransactionalOutboxContract

with servers.installed():
    from examples.postgresql.connections import Connection, connected, connected_now
    from examples.postgresql.transactional_outbox import PostgreSQLOutbox, make_outbox


class TestPostgreSQLOutbox(servers.OnServer, TransactionalOutboxContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLOutbox

    @classmethod
    def setUpClass(cls) -> None:
        """Make the table of an application."""
        super().setUpClass()
        with connected_now(cls.server.url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(7236838)")  # CREATE ... IF NOT EXISTS fails in a race
            connection.execute("CREATE TABLE IF NOT EXISTS outbox_business (key text PRIMARY KEY, value text NOT NULL)")

    async def make_provider(
        self, *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> PostgreSQLOutbox:
        return await make_outbox(namespace=namespace, tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> PostgreSQLOutbox:
        return await make_outbox(address=("127.0.0.1", 1))

    async def crash(self, client: PostgreSQLOutbox) -> None:
        await client.abandon()

    async def business_write(self, tx: Connection, key: str, value: str) -> None:
        """Write a row of the application in the transaction."""
        upsert = "INSERT INTO outbox_business VALUES (%(key)s, %(value)s) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        await tx.execute(upsert, {"key": key, "value": value})

    async def business_read(self, key: str) -> Any:
        """What is committed under *key*, or None."""
        connection = await connected(self.server.url)
        try:
            found = await connection.execute("SELECT value FROM outbox_business WHERE key = %(key)s", {"key": key})
            row = await found.fetchone()
        finally:
            await connection.close()
        return None if row is None else row[0]
