"""What the adapters of SQLite do with a file that is not as it should be."""

import asyncio
import contextlib
import functools
import os
import resource
import sqlite3
import tempfile
import threading
import time
import unittest
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from examples import servers
from omnitck.shared.exceptions import PermissionDeniedError, TCKError, UnavailableError
from omnitck.shared.models import Put

with servers.installed("sqlite"):
    from examples.sqlite.document_database import SQLiteDocumentDatabase
    from examples.sqlite.kv_store import SQLiteKVStore
    from examples.sqlite.messaging import SQLiteMessaging

ADAPTERS = (SQLiteDocumentDatabase, SQLiteKVStore)
HELD = {"_id": "a", "n": 1}
LONG = "x" * 900_000
NOBODY = 65534


class Files(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "documents.sqlite"

    async def fill(self) -> None:
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            await database.insert_one("things", HELD)
        async with await SQLiteKVStore.connect(self.path) as store:
            await store.set_many({"key": "old", "number": "1"})

    async def check_held(self) -> None:
        """All that `fill` wrote is there, and nothing else."""
        self.assertEqual(await self.held(), [HELD])
        async with await SQLiteKVStore.connect(self.path) as store:
            self.assertEqual([key async for key in store.list_keys()], ["key", "number"])
            self.assertEqual(await store.get_many(["key", "number"]), {"key": "old", "number": "1"})

    async def refused(self, kind: type[TCKError], *calls: Callable[[], Awaitable[object]], says: str = "") -> None:
        for call in calls:
            with self.assertRaises(kind) as caught:
                await call()
            self.assertIsInstance(caught.exception.__cause__, sqlite3.Error)
            self.assertIn(says, str(caught.exception))

    async def held(self) -> Any:
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            found = await database.find_many("things", {}, projection=["n"])
            return [{name: value for name, value in each.items() if name != "_rev"} for each in found]


class TestFiles(Files):
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

    async def test_a_file_that_may_only_be_read_is_read_and_refuses_to_be_written(self) -> None:
        await self.fill()
        self.path.chmod(0o444)
        with unprivileged(self.path.parent):
            self.assertFalse(os.access(self.path, os.W_OK, effective_ids=True))
            async with (
                await SQLiteDocumentDatabase.connect(self.path) as database,
                await SQLiteKVStore.connect(self.path) as store,
            ):
                await self.refused(
                    PermissionDeniedError,
                    lambda: database.insert_one("things", {"n": 2}),
                    lambda: database.insert_many("things", [{"n": 2}, {"n": 3}]),
                    lambda: database.update_one("things", {"_id": "a"}, {"$set": {"n": 2}}),
                    lambda: database.delete_many("things", {}),
                    lambda: store.set("key", "new"),
                    lambda: store.set_many({"key": "new"}),
                    lambda: store.delete("key"),
                    lambda: store.increment("number"),
                    says="the file may not be written",
                )
                self.assertIsNotNone(await database.find_one("things", {"n": 1}))
                self.assertEqual(await store.get("key"), "old")
        self.path.chmod(0o644)
        await self.check_held()

    async def test_a_file_in_a_folder_that_may_only_be_read_is_denied(self) -> None:
        """It keeps its log beside it."""
        await self.fill()
        for mode in (0o444, 0o644):
            self.path.chmod(mode)
            with unprivileged(self.path.parent):
                self.path.parent.chmod(0o555)
                self.assertTrue(os.access(self.path, os.R_OK, effective_ids=True))
                try:
                    for adapter in ADAPTERS:
                        opening = functools.partial(adapter.connect, self.path)
                        await self.refused(PermissionDeniedError, opening, says="the file may not be written")
                finally:
                    self.path.parent.chmod(0o755)
        await self.check_held()

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


class TestTurns(Files):
    async def test_the_writers_of_a_process_do_not_meet_at_the_lock(self) -> None:
        """For who does may find it taken again each time that SQLite looks."""

        class Store(SQLiteKVStore):
            async def write(self) -> None:
                await self.increment("number")

        class Database(SQLiteDocumentDatabase):
            async def write(self) -> None:
                await self.update_one("things", {"_id": "a"}, {"$inc": {"n": 1}})

        class Queues(SQLiteMessaging):
            async def write(self) -> None:
                await self.publish("topic", b"payload")

        async def write_often(client: Any) -> None:
            await client._connection.execute_fetchall("PRAGMA busy_timeout = 0")  # who finds the file locked fails
            for _ in range(50):
                await client.write()

        await self.fill()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await each.connect(self.path)) for each in 4 * (Store, Database, Queues)]
            await asyncio.gather(*map(write_often, clients))
        async with await SQLiteKVStore.connect(self.path) as store:
            self.assertEqual(await store.get("number"), "201")
        self.assertEqual(await self.held(), [{"_id": "a", "n": 201}])
        with contextlib.closing(sqlite3.connect(self.path)) as file:
            self.assertEqual(file.execute("SELECT count(*) FROM deliveries").fetchone(), (200,))

    async def test_another_name_of_the_file_has_the_same_turn(self) -> None:
        link = self.path.with_name("link.sqlite")
        link.symlink_to(self.path)
        async with await SQLiteKVStore.connect(self.path) as first, await SQLiteKVStore.connect(link) as second:
            self.assertIs(first._connection._turn, second._connection._turn)


class TestFullDisk(Files):
    async def check_full(self, database: SQLiteDocumentDatabase, store: SQLiteKVStore) -> None:
        await self.refused(
            UnavailableError,
            lambda: database.insert_one("things", {"text": LONG}),
            lambda: database.insert_many("things", [{"_id": "b"}, {"_id": "c", "text": LONG}, {"_id": "d"}]),
            lambda: database.update_one("things", {"_id": "a"}, {"$set": {"text": LONG}}),
            lambda: database.replace_one("things", {"_id": "a"}, {"text": LONG}),
            lambda: database.replace_one("things", {"_id": "b"}, {"text": LONG}, upsert=True),
            lambda: store.set("key", LONG),
            lambda: store.set_many({"key": "new", "other": LONG}),
            lambda: store.transact([Put("key", "new"), Put("other", LONG)]),
            lambda: store.compare_and_set("other", LONG, None),
        )
        self.assertIsNotNone(await database.find_one("things", {"n": 1}))
        self.assertEqual(await store.get("key"), "old")

    async def test_a_file_that_may_not_grow_keeps_what_it_holds(self) -> None:
        await self.fill()
        async with await SQLiteDocumentDatabase.connect(self.path) as database, await SQLiteKVStore.connect(self.path) as store:
            for client in (database, store):
                await client._connection.execute_fetchall("PRAGMA max_page_count = 30")
            await self.check_full(database, store)
        await self.check_held()

    async def test_a_limit_of_the_system_is_met_in_the_middle_of_a_file(self) -> None:
        await self.fill()
        async with await SQLiteDocumentDatabase.connect(self.path) as database, await SQLiteKVStore.connect(self.path) as store:
            with files_of_at_most(300_000):
                await self.check_full(database, store)
            await store.set("later", "stored")
            await store.delete("later")
        await self.check_held()

    async def test_a_transaction_that_the_disk_has_ended_stores_nothing(self) -> None:
        """SQLite then undoes what was done, and would take each later statement for one of its own."""
        await self.fill()
        async with await SQLiteDocumentDatabase.connect(self.path) as database:
            with files_of_at_most(300_000):
                with self.assertRaisesRegex(UnavailableError, "undone"):
                    async with database.transaction() as transaction:
                        await transaction.insert_one("things", {"_id": "before"})
                        with self.assertRaises(UnavailableError):
                            for _ in range(5):  # its memory holds two or so
                                await transaction.insert_one("things", {"text": LONG})
                        await self.refused_inside(transaction)
            async with database.transaction() as transaction:
                await transaction.update_one("things", {"_id": "a"}, {"$set": {"n": 1}})
        await self.check_held()

    async def refused_inside(self, transaction: SQLiteDocumentDatabase) -> None:
        for call in (
            lambda: transaction.insert_one("things", {"_id": "after"}),
            lambda: transaction.delete_many("things", {}),
            lambda: transaction.find_many("things", {}),
        ):
            with self.assertRaisesRegex(UnavailableError, "undone"):
                await call()


class TestThreads(unittest.TestCase):
    """A worker thread that ends after its event loop has nobody to tell of it, and Python prints that."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory()), "file.sqlite")
        self.failures: list[Any] = []
        self.enterContext(mock.patch("threading.excepthook", self.failures.append))

    def check(self, path: Path) -> None:
        for adapter in ADAPTERS:
            with self.assertRaises(UnavailableError):
                asyncio.run(adapter.connect(path))
        for thread in threading.enumerate():
            if "_connection_worker_thread" in thread.name:
                thread.join(10)
                self.assertFalse(thread.is_alive())
        self.assertEqual(self.failures, [])

    def test_one_that_waits_for_a_lock_gives_it_back_when_its_loop_has_ended(self) -> None:
        async def open_and_close(adapter: Any) -> None:
            async with await adapter.connect(self.path):
                pass

        async def give_up(adapter: Any) -> Any:
            client = await adapter.connect(self.path)
            write = client.insert_many("things", [{}]) if adapter is SQLiteDocumentDatabase else client.set_many({"key": "value"})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(write, 0.05)
            return client

        for adapter in ADAPTERS:
            asyncio.run(open_and_close(adapter))
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                client = asyncio.run(give_up(adapter))
            # Its thread closes it after all else that it was told, or, if it has ended, leaves us waiting for ever.
            closing = threading.Thread(target=asyncio.run, args=(client.close(),), daemon=True)
            closing.start()
            closing.join(10)
            self.assertFalse(closing.is_alive())
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=5)) as next:
                next.execute("BEGIN IMMEDIATE")
            self.assertFalse(client._connection._turn.locked())
        self.assertEqual(self.failures, [])

    def test_opening_what_is_no_database_leaves_none(self) -> None:
        class Slow(sqlite3.Connection):
            def close(self) -> None:
                time.sleep(0.1)
                super().close()

        def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
            return Slow(*arguments, **options)

        self.path.write_bytes(b"no database " * 100)
        with mock.patch("sqlite3.connect", connect):
            self.check(self.path)

    def test_opening_what_is_not_there_leaves_none(self) -> None:
        for _ in range(20):
            self.check(self.path / "missing")


@contextlib.contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """The body as somebody who may do in *folder* what its modes say: not as root, who may do everything."""
    if os.geteuid() != 0:
        yield
        return

    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file can grow beyond *size* in the body: the system refuses the rest of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


if __name__ == "__main__":
    unittest.main()
