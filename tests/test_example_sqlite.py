"""What the adapters of SQLite do with a file that is not as it should be."""

import os
import sqlite3
import tempfile
import unittest
from pathlib import Path
from typing import Any

from examples import servers
from omnitck.shared.exceptions import PermissionDeniedError, TCKError, UnavailableError

with servers.installed("sqlite"):
    from examples.sqlite.document_database import SQLiteDocumentDatabase
    from examples.sqlite.kv_store import SQLiteKVStore

ADAPTERS = (SQLiteDocumentDatabase, SQLiteKVStore)
HELD = {"_id": "a", "n": 1}


class TestFiles(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "documents.sqlite"

    async def fill(self) -> None:
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            await database.insert_one("things", HELD)

    async def held(self) -> Any:
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            found = await database.find_many("things", {}, projection=["n"])
            return [{name: value for name, value in each.items() if name != "_rev"} for each in found]

    async def test_a_missing_folder_is_unavailable(self) -> None:
        for adapter in ADAPTERS:
            with self.assertRaises(UnavailableError) as caught:
                await adapter.connect(self.path.parent / "missing" / "file.sqlite")
            self.assertIsInstance(caught.exception.__cause__, sqlite3.Error)

    async def test_a_file_that_is_no_database_is_unavailable_and_stays(self) -> None:
        self.path.write_bytes(b"no database " * 100)
        for adapter in ADAPTERS:
            with self.assertRaises(UnavailableError):
                await adapter.connect(self.path)
        self.assertEqual(self.path.read_bytes(), b"no database " * 100)

    async def test_a_file_that_is_damaged_while_it_is_open_is_unavailable(self) -> None:
        await self.fill()
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            self.path.write_bytes(b"\xff" * self.path.stat().st_size)
            with self.assertRaises(UnavailableError):
                await database.find_many("things", {})
            with self.assertRaises(UnavailableError):
                await database.insert_one("things", {"n": 2})

    async def test_a_connection_that_may_only_read_reads_and_refuses_to_write(self) -> None:
        await self.fill()
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            await database._connection.execute("PRAGMA query_only = ON")
            for write in (
                lambda: database.insert_one("things", {"n": 2}),
                lambda: database.insert_many("things", [{"n": 2}, {"n": 3}]),
                lambda: database.update_one("things", {"_id": "a"}, {"$set": {"n": 2}}),
                lambda: database.delete_many("things", {}),
            ):
                with self.assertRaises(PermissionDeniedError):
                    await write()
            self.assertIsNotNone(await database.find_one("things", {"n": 1}))
        self.assertEqual(await self.held(), [HELD])

    @unittest.skipIf(os.geteuid() == 0, "root may write what is read-only")
    async def test_a_file_that_may_only_be_read_is_denied(self) -> None:
        await self.fill()
        self.path.chmod(0o444)
        self.path.parent.chmod(0o555)
        self.addCleanup(self.path.parent.chmod, 0o755)
        with self.assertRaises(TCKError):
            async with await SQLiteDocumentDatabase.connect(self.path) as database:
                await database.insert_one("things", {"n": 2})

    async def test_a_transaction_that_is_left_open_by_closing_leaves_nothing(self) -> None:
        await self.fill()
        database = await SQLiteDocumentDatabase.connect(self.path)
        block = database.transaction()
        inside = await block.__aenter__()
        await inside.delete_one("things", {"_id": "a"})
        await database.close()
        with self.assertRaises(TCKError):
            await block.__aexit__(None, None, None)
        self.assertEqual(await self.held(), [HELD])


if __name__ == "__main__":
    unittest.main()
