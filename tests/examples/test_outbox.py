"""What the outboxes do when a relay is killed, when the database is cut off, and when a process dies within a transaction."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import sys
import tempfile
import threading
import unittest
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

from examples import servers
from examples.common.outbox import EVENT_ID
from omnitck.instruments.faults import FaultProxy
from omnitck.shared.exceptions import ConflictError, PermissionDeniedError, TCKError, UnavailableError
from omnitck.shared.models import ConsumedMessage, OutboxEvent, ProcessingOutcome, StoredEvent

with servers.installed():
    import psycopg

    from examples.nats_jetstream.messaging import make_messaging as make_nats
    from examples.postgresql.connections import connected_now
    from examples.postgresql.transactional_outbox import PostgreSQLOutbox
    from examples.postgresql.transactional_outbox import make_outbox as make_postgresql
    from examples.rabbitmq.messaging import make_messaging as make_rabbitmq
    from examples.sqlite.transactional_outbox import make_outbox as make_sqlite

TOPIC = "orders"

WITHIN = 60.0
"""Seconds in which everything has to come about; a few are enough, if the machine is not busy."""

AGGREGATES = [f"order-{number}" for number in range(6)]

INSERT = {
    "postgresql": "INSERT INTO outbox_orders VALUES (%(key)s, 'value')",
    "sqlite": "INSERT INTO outbox_orders VALUES (:key, 'value')",
}


def event(aggregate: str | None, payload: bytes = b"payload") -> OutboxEvent:
    return OutboxEvent(destination_topic=TOPIC, payload=payload, aggregate_key=aggregate)


class Database:
    """A table of an application, and outboxes beside it."""

    kind: ClassVar[str]
    starts: ClassVar[dict[str, Any]]
    urls: ClassVar[dict[str, str]]
    """What a process finds its servers by."""
    tenant: str
    options: tuple[str, ...] = ()

    @classmethod
    def setUpClass(cls) -> None:
        cls.urls = {name: servers.require(start).url for name, start in cls.starts.items()}

    async def outbox(self) -> Any:
        raise NotImplementedError

    def orders(self) -> list[str]:
        """What is committed in the application's table."""
        raise NotImplementedError

    async def order(self, outbox: Any, key: str, *events: OutboxEvent) -> list[StoredEvent]:
        """A row of the application and its events, in one transaction."""
        async with outbox.transaction() as tx:
            await tx.execute(INSERT[self.kind], {"key": key})
            return [await outbox.save_event(each, tx=tx) for each in events]

    @contextlib.asynccontextmanager
    async def process(self, kind: str, name: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process of `tests.examples.outbox_relay`, which is there no more at the end."""
        command = [
            sys.executable,
            "-m",
            "tests.examples.outbox_relay",
            kind,
            name,
            "--tenant",
            self.tenant,
            *self.options,
            *options,
        ]
        environment = {**os.environ, **self.urls}
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def said(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN):
            return await process.stdout.readline()


class PostgreSQL(Database):
    kind = "postgresql"
    starts: ClassVar = {"OMNITCK_POSTGRES_URL": servers.postgresql}

    def setUp(self) -> None:
        self.server = servers.require(servers.postgresql)
        self.tenant = uuid.uuid4().hex
        with connected_now(self.server.url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(7236839)")  # CREATE ... IF NOT EXISTS fails in a race
            connection.execute("CREATE TABLE IF NOT EXISTS outbox_orders (key text PRIMARY KEY, value text NOT NULL)")
            connection.execute("DELETE FROM outbox_orders")

    async def outbox(self) -> Any:
        return await make_postgresql(tenant_id=self.tenant)

    def orders(self) -> list[str]:
        with connected_now(self.server.url) as connection:
            return [key for (key,) in connection.execute("SELECT key FROM outbox_orders").fetchall()]


class SQLite(Database):
    kind = "sqlite"
    starts: ClassVar = {}

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)  # type: ignore[attr-defined]
        self.path = Path(folder.name) / "orders.sqlite"
        self.options = ("--path", str(self.path))
        self.tenant = uuid.uuid4().hex
        with contextlib.closing(sqlite3.connect(self.path)) as file:
            file.execute("CREATE TABLE outbox_orders (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

    async def outbox(self) -> Any:
        return await make_sqlite(path=self.path, tenant_id=self.tenant)

    def orders(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.path)) as file:
            return [key for (key,) in file.execute("SELECT key FROM outbox_orders")]


class KilledRelay:
    """Two relays publish what business transactions save, and one of them is killed with a batch in its hands."""

    async def test_nothing_is_lost_and_order_is_kept_when_a_relay_is_killed(self) -> None:
        test: Any = self
        came: list[ConsumedMessage] = []

        async def handle(message: ConsumedMessage) -> ProcessingOutcome:
            came.append(message)
            return ProcessingOutcome.SUCCESS

        held, free = AGGREGATES[:3], AGGREGATES[3:]
        saved: list[StoredEvent] = []
        async with await test.consumer() as consumer, await test.outbox() as outbox:
            await consumer.subscribe(TOPIC, handle)
            await self.business(outbox, saved, held, range(10))
            async with test.process("relay", "killed", "--hang-after", "12") as killed:
                test.assertEqual(await test.said(killed), b"hanging\n")
                async with test.process("relay", "other") as other:
                    await self.business(outbox, saved, AGGREGATES, range(10, 20))
                    await self.until_published(outbox, came, [each for each in saved if each.aggregate_key in free])
                    test.assertTrue(set(held) & set(await outbox.get_pending_aggregate_keys()), "what is in its hands")
                    killed.send_signal(signal.SIGKILL)
                    test.assertEqual(await killed.wait(), -signal.SIGKILL)
                    await self.business(outbox, saved, AGGREGATES, range(20, 25))
                    await self.until_published(outbox, came, saved)
                    other.send_signal(signal.SIGTERM)
                    test.assertEqual(await other.wait(), 0)
        self.check(saved, came)

    async def business(self, outbox: Any, saved: list[StoredEvent], aggregates: list[str], numbers: range) -> None:
        """A transaction for each aggregate and number; every fourth is followed by one that is rolled back."""
        test: Any = self
        for number in numbers:
            for aggregate in aggregates:
                key = f"{aggregate}/{number}"
                saved += await test.order(outbox, key, event(aggregate, key.encode()))
                if number % 4 == 0:
                    with contextlib.suppress(KeyError):
                        async with outbox.transaction() as tx:
                            await tx.execute(INSERT[test.kind], {"key": f"{key}/undone"})
                            await outbox.save_event(event(aggregate, b"undone"), tx=tx)
                            raise KeyError

    async def until_published(self, outbox: Any, came: list[ConsumedMessage], saved: list[StoredEvent]) -> None:
        """Return once all that was *saved* has come, and nothing of its aggregates is pending."""
        async with asyncio.timeout(WITHIN):
            while {each.event_id for each in saved} - ids(came):
                await asyncio.sleep(0.05)
            while {each.aggregate_key for each in saved} & set(await outbox.get_pending_aggregate_keys()):
                await asyncio.sleep(0.05)

    def check(self, saved: list[StoredEvent], came: list[ConsumedMessage]) -> None:
        test: Any = self
        test.assertEqual(sorted(test.orders()), sorted(each.payload.decode() for each in saved), "the orders, and their events")
        by_id = {each.event_id: each for each in saved}
        test.assertEqual(ids(came), set(by_id), "what was saved, and nothing else, has come")
        for message in came:
            test.assertEqual(message.payload, by_id[event_id(message)].payload, "a repetition has the id of its event")
        for aggregate in AGGREGATES:
            first = dict.fromkeys(each for each in map(event_id, came) if by_id[each].aggregate_key == aggregate)
            numbers = [by_id[each].sequence_id for each in first]
            test.assertEqual(numbers, list(range(1, len(numbers) + 1)), aggregate)
        test.check_repetitions(len(came) - len(saved))


def event_id(message: ConsumedMessage) -> str:
    return message.headers.get(EVENT_ID, message.message_id)


def ids(messages: list[ConsumedMessage]) -> set[str]:
    return {event_id(each) for each in messages}


class TestPostgreSQLToNATS(PostgreSQL, KilledRelay, unittest.IsolatedAsyncioTestCase):
    starts: ClassVar = {**PostgreSQL.starts, "OMNITCK_NATS_URL": servers.nats}

    async def consumer(self) -> Any:
        return await make_nats(tenant_id=self.tenant)

    def check_repetitions(self, number: int) -> None:
        """The stream knows them by the id."""
        self.assertEqual(number, 0)


class TestSQLiteToRabbitMQ(SQLite, KilledRelay, unittest.IsolatedAsyncioTestCase):
    starts: ClassVar = {"OMNITCK_RABBITMQ_URL": servers.rabbitmq}

    async def consumer(self) -> Any:
        return await make_rabbitmq(tenant_id=self.tenant)

    def check_repetitions(self, number: int) -> None:
        """The one whose publication never returned."""
        self.assertGreaterEqual(number, 1)


class KilledTransaction:
    async def test_a_process_that_is_killed_within_a_transaction_leaves_nothing_and_holds_nobody_up(self) -> None:
        test: Any = self
        async with await test.outbox() as outbox:
            async with test.process("transaction", "killed") as process:
                test.assertEqual(await test.said(process), b"hanging\n")
                process.send_signal(signal.SIGKILL)
                await process.wait()
            [saved] = await test.order(outbox, "next", event("killed"))
            test.assertEqual(saved.sequence_id, 1)
            test.assertEqual(await outbox.get_pending_events_for_aggregate("killed"), [saved])
        test.assertEqual(test.orders(), ["next"])


class TestPostgreSQLIsKilled(PostgreSQL, KilledTransaction, unittest.IsolatedAsyncioTestCase):
    """The server undoes what its client has left."""


class TestSQLiteIsKilled(SQLite, KilledTransaction, unittest.IsolatedAsyncioTestCase):
    """The next who opens the file does not find what was not committed."""


class TestPostgreSQLIsCutOff(PostgreSQL, unittest.IsolatedAsyncioTestCase):
    @contextlib.asynccontextmanager
    async def through_a_proxy(self) -> AsyncIterator[tuple[FaultProxy, PostgreSQLOutbox]]:
        async with (
            FaultProxy(*self.server.address) as proxy,
            await make_postgresql(tenant_id=self.tenant, address=proxy.address) as outbox,
        ):
            yield proxy, outbox

    def claimed(self, relay: str) -> int:
        """How many events *relay* has, whether it knows of it or not."""
        with connected_now(self.server.url) as connection:
            sql = "SELECT count(*) FROM outbox_events WHERE relay = %(relay)s AND claim IS NOT NULL"
            [(number,)] = connection.execute(sql, {"relay": relay}).fetchall()
        return int(number)

    async def check_nothing(self) -> None:
        """Neither of the two is there."""
        async with await self.outbox() as other:
            self.assertEqual(await other.get_pending_aggregate_keys(), [])
        self.assertEqual(self.orders(), [])

    async def test_a_cut_within_a_transaction_leaves_nothing_and_the_client_works_afterwards(self) -> None:
        async with self.through_a_proxy() as (proxy, outbox):
            for begun in range(3):
                with self.subTest(statements=begun):
                    # What the application's own statement meets is told by its driver.
                    with self.assertRaises(UnavailableError if begun else psycopg.OperationalError):
                        async with outbox.transaction() as tx:
                            if begun >= 1:
                                await tx.execute(INSERT[self.kind], {"key": "cut"})
                            if begun >= 2:
                                await outbox.save_event(event("cut"), tx=tx)
                            proxy.cut()
                            if begun == 0:
                                await tx.execute(INSERT[self.kind], {"key": "cut"})
                            if begun == 1:
                                await outbox.save_event(event("cut"), tx=tx)
                    proxy.heal()
                    await self.check_nothing()
            [saved] = await self.order(outbox, "healed", event("cut"))
            self.assertEqual(saved.sequence_id, 1)

    async def test_an_outage_that_an_application_overlooks_is_none_at_the_commit(self) -> None:
        async with self.through_a_proxy() as (proxy, outbox):
            with self.assertRaises(TCKError):
                async with outbox.transaction() as tx:
                    await tx.execute(INSERT[self.kind], {"key": "cut"})
                    proxy.cut()
                    with contextlib.suppress(UnavailableError):
                        await outbox.save_event(event("cut"), tx=tx)
                    proxy.heal()
            await self.check_nothing()

    async def test_silence_at_the_commit_is_an_outage_and_never_half_a_transaction(self) -> None:
        async with self.through_a_proxy() as (proxy, outbox):
            with self.assertRaises(UnavailableError):
                async with outbox.transaction() as tx:
                    await tx.execute(INSERT[self.kind], {"key": "silent"})
                    await outbox.save_event(event("silent"), tx=tx)
                    proxy.black_hole()
            proxy.heal()
            await self.check_nothing()  # the request has not arrived
            [saved] = await self.order(outbox, "healed", event("silent"))
            self.assertEqual(saved.sequence_id, 1)

    async def test_a_reply_that_is_lost_costs_a_lease_at_most(self) -> None:
        async with self.through_a_proxy() as (proxy, outbox):
            for aggregate in AGGREGATES:
                await outbox.save_event(event(aggregate))
            await outbox.get_pending_aggregate_keys()
            proxy.latency = 0.1
            claiming = asyncio.create_task(outbox.claim(self.tenant, limit=100, lease=0.5))
            async with await self.outbox() as other:
                async with asyncio.timeout(WITHIN):
                    while not self.claimed(self.tenant):
                        await asyncio.sleep(0)
                    proxy.cut()
                    with self.assertRaises(UnavailableError):
                        await claiming
                    found: set[str | None] = set()
                    while found != set(AGGREGATES):
                        found |= {each.aggregate_key for each in await other.claim("other", limit=100, lease=30.0)}
                        await asyncio.sleep(0.01)

    async def test_two_transactions_that_wait_for_each_other_are_a_conflict_for_one(self) -> None:
        async with await self.outbox() as outbox:
            both = asyncio.Barrier(2)

            async def save(*aggregates: str) -> None:
                async with outbox.transaction() as tx:
                    for aggregate in aggregates:
                        await outbox.save_event(event(aggregate), tx=tx)
                        if aggregate == aggregates[0]:
                            await both.wait()

            outcomes = await asyncio.gather(save("a", "b"), save("b", "a"), return_exceptions=True)
            self.assertEqual(sorted(type(each) for each in outcomes if each), [ConflictError])
            for aggregate in "ab":
                [saved] = await outbox.get_pending_events_for_aggregate(aggregate)
                self.assertEqual(saved.sequence_id, 1)

    async def test_a_relay_goes_on_after_an_outage(self) -> None:
        published: list[StoredEvent] = []

        async def publish(event: StoredEvent) -> None:
            published.append(event)
            if len(published) == 5:
                proxy.cut()

        async with self.through_a_proxy() as (proxy, outbox), await self.outbox() as other:
            saved = [await other.save_event(event(each)) for _ in range(3) for each in AGGREGATES]
            relay = outbox.relay(publish, relay_id="relay", batch=4, lease=0.5)
            await relay.start()
            async with asyncio.timeout(WITHIN):
                while len(published) < 5:
                    await asyncio.sleep(0.01)
                proxy.heal()
                while await other.get_pending_aggregate_keys():
                    await asyncio.sleep(0.01)
            await relay.stop()
        self.assertEqual({each.event_id for each in published}, {each.event_id for each in saved})


class TestSQLiteIsFull(SQLite, unittest.IsolatedAsyncioTestCase):
    async def test_a_full_disk_within_a_transaction_leaves_nothing_and_the_client_works_afterwards(self) -> None:
        large = event("full", b"x" * 2**19)
        async with await self.outbox() as outbox:
            with files_of_at_most(300_000):
                with self.assertRaises(UnavailableError):
                    async with outbox.transaction() as tx:
                        await tx.execute(INSERT[self.kind], {"key": "full"})
                        for _ in range(8):
                            await outbox.save_event(large, tx=tx)
                with self.assertRaises(UnavailableError):
                    await outbox.save_event(large)
            self.assertEqual(await outbox.get_pending_aggregate_keys(), [])
            self.assertEqual(self.orders(), [])
            [saved] = await self.order(outbox, "later", large)
            self.assertEqual(saved.sequence_id, 1)


class TestSQLiteFiles(SQLite, unittest.IsolatedAsyncioTestCase):
    async def test_a_file_that_cannot_be_opened_is_unavailable(self) -> None:
        damaged = self.path.with_name("damaged")
        damaged.write_bytes(b"no database " * 100)
        for path in (self.path.parent / "missing" / "file", damaged):
            with self.assertRaises(UnavailableError):
                await make_sqlite(path=path)

    async def test_notes_that_cannot_be_opened_are_unavailable_and_no_thread_is_left(self) -> None:
        self.path.with_name(f"{self.path.name}-relays").write_bytes(b"no database " * 100)
        before = threading.active_count()
        with self.assertRaises(UnavailableError):
            await self.outbox()
        self.assertEqual(threading.active_count(), before)

    async def test_a_connection_that_may_only_read_is_denied_what_it_would_write(self) -> None:
        async with await self.outbox() as outbox, await self.outbox() as other:
            saved = await other.save_event(event("a"))
            for connection in (outbox._saving, outbox._connection):
                await connection.execute("PRAGMA query_only = ON")
            for write in (outbox.save_event(event("a")), outbox.record("id", consumer="c"), outbox.mark_as_processed(saved)):
                with self.assertRaises(PermissionDeniedError):
                    await write
            self.assertEqual(await outbox.get_pending_events_for_aggregate("a"), [saved])

    async def test_a_relay_marks_while_a_transaction_is_open(self) -> None:
        """For its notes are in a file of their own."""
        async with await self.outbox() as outbox, await self.outbox() as other:
            saved = await outbox.save_event(event("a"))
            async with outbox.transaction() as tx:
                await outbox.save_event(event("a"), tx=tx)
                for client in (outbox, other):
                    [claimed] = await client.claim("relay", limit=10, lease=30.0)
                    await client.release(claimed)
                    [claimed] = await client.claim("relay", limit=10, lease=30.0)
                    self.assertEqual(claimed.event_id, saved.event_id)
                    await client.give_back([claimed])
                await other.mark_as_processed(saved)
                self.assertEqual(await outbox.get_pending_aggregate_keys(), [])

    async def test_what_is_purged_is_purged_in_both_files_and_is_never_claimed_again(self) -> None:
        async with await self.outbox() as outbox, await self.outbox() as other:
            for number in range(1100):
                await outbox.mark_as_processed(await outbox.save_event(event(AGGREGATES[number % 6])))
            kept = await outbox.save_event(event(AGGREGATES[0]))
            removed, *claims = await asyncio.gather(
                outbox.purge_processed(0.0), *(other.claim(f"relay-{each}", limit=10, lease=30.0) for each in range(50))
            )
            self.assertEqual(removed, 1100)
            self.assertEqual([each.event_id for several in claims for each in several], [kept.event_id])
        for path, table in ((self.path, "outbox_events"), (self.path.with_name(f"{self.path.name}-relays"), "notes")):
            with contextlib.closing(sqlite3.connect(path)) as file:
                self.assertEqual(file.execute(f"SELECT id FROM {table}").fetchall(), [(kept.event_id,)])


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
