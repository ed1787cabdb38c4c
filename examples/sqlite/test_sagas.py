"""Certifies the sagas of SQLite, which share transactions with the outbox of the same file."""

import contextlib
import sqlite3
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.sagas import SagasContract
from omnitck.shared.models import OutboxEvent

with servers.installed():
    from examples.sqlite.connections import Connection, folder, open_file
    from examples.sqlite.sagas import SQLiteSagas, make_sagas
    from examples.sqlite.transactional_outbox import EVENTS, SQLiteOutbox

ORDERS = "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, state TEXT NOT NULL)"


class TestSQLiteSagas(SagasContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteSagas

    @classmethod
    def setUpClass(cls) -> None:
        """Make the tables that the outbox and the orders need: within a transaction of another connection nobody can."""
        with contextlib.closing(sqlite3.connect(folder() / "sagas.sqlite", isolation_level=None)) as connection:
            for statement in (ORDERS, *EVENTS):
                connection.execute(statement)

    async def make_provider(self, *, namespace: str = "", tenant_id: str | None = None, **config: object) -> SQLiteSagas:
        return await make_sagas(tenant_id=tenant_id, namespace=namespace)

    async def crash(self, client: SQLiteSagas) -> None:
        await client.abandon()

    async def business_write(self, tx: Connection, key: str, value: str) -> None:
        await tx.execute("INSERT OR REPLACE INTO orders (id, state) VALUES (?, ?)", (key, value))

    async def business_read(self, key: str) -> str | None:
        connection = await open_file(folder() / "sagas.sqlite")
        try:
            rows = list(await connection.execute_fetchall("SELECT state FROM orders WHERE id = ?", (key,)))
        finally:
            await connection.close()
        return str(rows[0][0]) if rows else None

    async def outbox_write(self, tx: Connection, event: str) -> None:
        async with await SQLiteOutbox.connect(folder() / "sagas.sqlite") as outbox:
            await outbox.save_event(OutboxEvent(destination_topic="orders", payload=event.encode()), tx=tx)

    async def outbox_read(self) -> list[str]:
        async with await SQLiteOutbox.connect(folder() / "sagas.sqlite") as outbox:
            return [each.payload.decode() for each in await outbox.get_pending_unordered_events(10_000)]
