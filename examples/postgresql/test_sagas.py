"""Certifies the sagas of PostgreSQL, which share transactions with the outbox of the same database."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.sagas import SagasContract
from omnitck.shared.models import OutboxEvent

with servers.installed():
    from examples.postgresql.connections import Connection, connected, connected_now
    from examples.postgresql.sagas import PostgreSQLSagas, make_sagas
    from examples.postgresql.transactional_outbox import PostgreSQLOutbox, create_schema


class TestPostgreSQLSagas(servers.OnServer, SagasContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.postgresql
    capabilities = PostgreSQLSagas

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        create_schema(cls.server.url)
        with connected_now(cls.server.url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(7236840)")  # CREATE ... IF NOT EXISTS fails in a race
            connection.execute("CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, state text NOT NULL)")

    async def make_provider(
        self,
        *,
        namespace: str = "",
        tenant_id: str | None = None,
        address: tuple[str, int] | None = None,
        **config: object,
    ) -> PostgreSQLSagas:
        return await make_sagas(tenant_id=tenant_id, namespace=namespace, address=address)

    async def unreachable_provider(self) -> PostgreSQLSagas:
        return await make_sagas(address=("127.0.0.1", 1))

    async def crash(self, client: PostgreSQLSagas) -> None:
        await client.abandon()

    async def business_write(self, tx: Connection, key: str, value: str) -> None:
        statement = "INSERT INTO orders (id, state) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET state = EXCLUDED.state"
        await tx.execute(statement, (key, value))

    async def business_read(self, key: str) -> str | None:
        connection = await connected(self.server.url)
        try:
            row = await (await connection.execute("SELECT state FROM orders WHERE id = %s", (key,))).fetchone()
        finally:
            await connection.close()
        return None if row is None else str(row[0])

    async def outbox_write(self, tx: Connection, event: str) -> None:
        async with await PostgreSQLOutbox.connect(self.server.url) as outbox:
            await outbox.save_event(OutboxEvent(destination_topic="orders", payload=event.encode()), tx=tx)

    async def outbox_read(self) -> list[str]:
        async with await PostgreSQLOutbox.connect(self.server.url) as outbox:
            return [each.payload.decode() for each in await outbox.get_pending_unordered_events(10_000)]
