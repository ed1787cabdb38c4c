"""Certifies an outbox in a SQLite file.

Each test has a file of its own: one transaction at a time is a property of a file, and tests that run at once would wait for each
other's.
"""

import contextlib
import sqlite3
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.transactional_outbox import TransactionalOutboxContract

with servers.installed():
    from examples.sqlite.connections import Connection, folder
    from examples.sqlite.transactional_outbox import SQLiteOutbox, make_outbox


class TestSQLiteOutbox(TransactionalOutboxContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteOutbox

    @cached_property
    def path(self) -> Path:
        """The file, with the table of an application."""
        path = folder() / f"outbox-{uuid.uuid4().hex}.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("CREATE TABLE business (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        return path

    async def make_provider(self, *, namespace: str = "", tenant_id: str | None = None, **config: object) -> SQLiteOutbox:
        return await make_outbox(namespace=namespace, tenant_id=tenant_id, path=self.path)

    async def crash(self, client: SQLiteOutbox) -> None:
        await client.abandon()

    async def business_write(self, tx: Connection, key: str, value: str) -> None:
        """Write a row of the application in the transaction."""
        await tx.execute("INSERT OR REPLACE INTO business VALUES (:key, :value)", {"key": key, "value": value})

    async def business_read(self, key: str) -> Any:
        """What is committed under *key*, or None."""
        with contextlib.closing(sqlite3.connect(self.path)) as file:
            row = file.execute("SELECT value FROM business WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]
