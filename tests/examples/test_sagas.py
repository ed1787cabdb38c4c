"""What the adapters of sagas do when a network or a process ends in the middle of something."""

import asyncio
import contextlib
import sys
import tempfile
import unittest
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from examples import servers
from omnitck.instruments.faults import FaultProxy
from omnitck.shared.exceptions import SagaStateConflictError, UnavailableError
from omnitck.shared.models import OutboxEvent, SagaContext, SagaState, SagaStatus, SagaStep
from tests.examples import saga_worker

with servers.installed():
    from examples.dbos import sagas as dbos_sagas
    from examples.nats_jetstream import bucket
    from examples.postgresql import sagas as postgresql_sagas
    from examples.postgresql import transactional_outbox
    from examples.postgresql.connections import connected
    from examples.postgresql.sagas import PostgreSQLSagas
    from examples.postgresql.transactional_outbox import PostgreSQLOutbox
    from examples.sqlite.sagas import SQLiteSagas
    from examples.valkey.sagas import ValkeySagas

assert dbos_sagas  # without it the worker of DBOS would not start

SOON = 30.0
"""Seconds in which a worker starts and gets to where it hangs; one or two, if the machine is not busy."""


class TestPostgreSQLIsCut(unittest.IsolatedAsyncioTestCase):
    server: ClassVar[servers.Server]

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = servers.require(servers.postgresql)
        postgresql_sagas.create_schema(cls.server.url)
        transactional_outbox.create_schema(cls.server.url)

    async def asyncSetUp(self) -> None:
        self.saga_id = f"saga-{uuid.uuid4().hex}"
        self.table = f"orders_{uuid.uuid4().hex}"
        self.direct = await self.enterAsyncContext(await PostgreSQLSagas.connect(self.server.url))
        self.proxy = await self.enterAsyncContext(FaultProxy(*self.server.address))
        behind = self.server.at(self.proxy.address)
        self.client = await self.enterAsyncContext(await PostgreSQLSagas.connect(behind))
        self.outbox = await self.enterAsyncContext(await PostgreSQLOutbox.connect(behind, tenant_id=self.saga_id))
        await self.sql(f"CREATE TABLE {self.table} (id text PRIMARY KEY)")
        self.stored = await self.direct.create_state(SagaState(saga_id=self.saga_id, status=SagaStatus.RUNNING))

    async def asyncTearDown(self) -> None:
        await self.sql(f"DROP TABLE {self.table}")
        state = await self.direct.get_state(self.saga_id)
        assert state is not None
        await self.direct.delete_state(self.saga_id, state.version)

    async def sql(self, statement: str) -> list[Any]:
        connection = await connected(self.server.url)
        try:
            cursor = await connection.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []
        finally:
            await connection.close()

    async def update_and(self, go_on: Callable[[], Awaitable[object]]) -> None:
        """Update the saga, write an order and save an event in one transaction, and *go_on* before the commit."""
        async with self.client.transaction() as tx:
            updated = await self.client.update_state(replace(self.stored, payload={"paid": True}), tx=tx)
            self.assertEqual(updated.version, 2)
            await tx.execute(f"INSERT INTO {self.table} VALUES ('order')".encode())
            await self.outbox.save_event(OutboxEvent(destination_topic="orders", payload=b"paid"), tx=tx)
            await go_on()

    async def seen(self) -> tuple[Any, list[Any], list[bytes]]:
        """The saga, the orders and the events, by clients that nothing is wrong with."""
        async with await PostgreSQLOutbox.connect(self.server.url, tenant_id=self.saga_id) as outbox:
            events = [each.payload for each in await outbox.get_pending_unordered_events(10)]
        return await self.direct.get_state(self.saga_id), await self.sql(f"SELECT id FROM {self.table}"), events

    async def nothing_has_happened(self) -> None:
        self.assertEqual(await self.seen(), (self.stored, [], []))

    async def it_works_again(self) -> None:
        """The same clients, and the same version of the saga."""
        self.proxy.heal()
        await self.update_and(lambda: asyncio.sleep(0))
        state, orders, events = await self.seen()
        self.assertEqual((state.version, state.payload, orders, events), (2, {"paid": True}, [("order",)], [b"paid"]))

    async def test_cut_before_the_commit_nothing_is_half_committed(self) -> None:
        async def cut() -> None:
            self.proxy.cut()

        with self.assertRaises(UnavailableError):
            await self.update_and(cut)
        await self.nothing_has_happened()
        await self.it_works_again()

    async def test_silent_before_the_commit_nothing_is_half_committed(self) -> None:
        async def silent() -> None:
            self.proxy.black_hole()

        with self.assertRaises(UnavailableError):
            await self.update_and(silent)
        await self.nothing_has_happened()
        await self.it_works_again()

    async def test_cut_within_the_update_the_block_fails(self) -> None:
        async def late() -> None:
            self.proxy.cut()
            await self.client.get_state(self.saga_id)

        with self.assertRaises(UnavailableError):
            await self.update_and(late)
        await self.nothing_has_happened()
        await self.it_works_again()

    async def test_cut_with_the_update_under_way_it_has_happened_or_not(self) -> None:
        self.proxy.latency = 0.05
        updating = asyncio.create_task(self.client.update_state(replace(self.stored, payload={"paid": True})))
        await asyncio.sleep(0.2)
        self.proxy.cut()
        self.proxy.latency = 0.0
        [error] = await asyncio.gather(updating, return_exceptions=True)
        self.assertIsInstance(error, UnavailableError)
        self.proxy.heal()

        state = await self.direct.get_state(self.saga_id)
        assert state is not None
        self.assertIn((state.version, dict(state.payload)), [(1, {}), (2, {"paid": True})])
        if state.version == 2:
            with self.assertRaises(SagaStateConflictError):
                await self.client.update_state(replace(self.stored, payload={"paid": False}))
        self.assertEqual((await self.client.update_state(state)).version, state.version + 1)


class TestListing(unittest.IsolatedAsyncioTestCase):
    async def test_one_that_updates_what_it_reads_ends(self) -> None:
        server = await asyncio.to_thread(servers.require, servers.postgresql)
        await asyncio.to_thread(postgresql_sagas.create_schema, server.url)
        valkey = await asyncio.to_thread(servers.require, servers.valkey)
        folder, namespace = self.enterContext(tempfile.TemporaryDirectory()), uuid.uuid4().hex
        for made in (
            PostgreSQLSagas.connect(server.url, namespace=namespace),
            ValkeySagas.connect(valkey.url, namespace=namespace),
            SQLiteSagas.connect(Path(folder, "sagas.sqlite"), namespace=namespace),
        ):
            async with await made as client:
                ids = [f"saga-{number}" for number in range(7)]
                for each in ids:
                    await client.create_state(SagaState(saga_id=each, status=SagaStatus.RUNNING))
                read, cursor = list[str](), None
                for _ in range(4):
                    page = await client.list_incomplete(limit=2, cursor=cursor)
                    for state in page.sagas:
                        read.append(state.saga_id)
                        await client.update_state(state)
                    if (cursor := page.cursor) is None:
                        break
                self.assertEqual((read, cursor), (ids, None))
                for each in ids:
                    await client.delete_state(each, 2)


class Killed:
    """A worker is killed where it hangs, and another one goes on."""

    backend: ClassVar[str]

    @classmethod
    def place(cls, folder: str) -> str:
        """Where the backend is: in *folder*, unless it is a server."""
        return folder

    async def run_and_kill(self, hanging: str, *expected: str, status: SagaStatus) -> None:
        test: Any = self
        folder = test.enterContext(tempfile.TemporaryDirectory())
        place, effects, saga_id = self.place(folder), Path(folder, "effects"), f"saga-{uuid.uuid4().hex}"
        command = [sys.executable, "-m", "tests.examples.saga_worker", self.backend, place, saga_id, str(effects), hanging]
        worker = await asyncio.create_subprocess_exec(*command)
        try:
            async with asyncio.timeout(SOON):
                while not any(line.startswith(hanging) for line in saga_worker.lines(effects)):
                    await asyncio.sleep(0.01)
                    test.assertIsNone(worker.returncode, "the worker ended by itself")
        finally:
            worker.kill()
            await worker.wait()

        async with saga_worker.sagas(self.backend, place) as client:
            left = await client.get_state(saga_id)
            test.assertFalse(SagaStatus(left.status).terminal, "the saga was left")
            if "list_incomplete" in client.capabilities:
                test.assertIn(saga_id, [each.saga_id for each in await all_incomplete(client)])
            recovered = await client.recover(saga_id, saga_worker.steps(effects))
            test.assertEqual(recovered, await client.get_state(saga_id))
            test.assertEqual(recovered.status, status)

        lines = [line.rpartition(" ") for line in saga_worker.lines(effects)]
        test.assertEqual([name for name, _, _ in lines], list(expected))
        keys = {(name, key) for name, _, key in lines}
        test.assertEqual(len(keys), len(set(expected)), "a step has one idempotency key in each direction")
        test.assertEqual(len({key for _, key in keys}), len(set(expected)), "and no other step has it")

    async def test_killed_while_compensating_another_worker_goes_on_compensating(self) -> None:
        done = ("do reserve", "do charge", "do ship")
        undone = ("undo charge", "undo charge", "undo reserve")
        await self.run_and_kill("undo charge", *done, *undone, status=SagaStatus.COMPENSATED)

    async def test_killed_within_a_step_another_worker_does_it_again_and_no_other(self) -> None:
        done = ("do reserve", "do charge", "do charge", "do ship")
        await self.run_and_kill("do charge", *done, "undo charge", "undo reserve", status=SagaStatus.COMPENSATED)


async def all_incomplete(client: Any) -> list[SagaState]:
    found, cursor = [], None
    while True:
        page = await client.list_incomplete(cursor=cursor)
        found += page.sagas
        if (cursor := page.cursor) is None:
            return found


class TestPostgreSQL(Killed, unittest.IsolatedAsyncioTestCase):
    backend = "postgresql"

    @classmethod
    def place(cls, folder: str) -> str:
        server = servers.require(servers.postgresql)
        postgresql_sagas.create_schema(server.url)
        return server.url


class TestNATS(Killed, unittest.IsolatedAsyncioTestCase):
    backend = "nats_jetstream"

    @classmethod
    def place(cls, folder: str) -> str:
        server = servers.require(servers.nats)
        return server.url

    async def asyncSetUp(self) -> None:
        await asyncio.to_thread(lambda: bucket.create_bucket(servers.require(servers.nats).url))


class TestValkey(Killed, unittest.IsolatedAsyncioTestCase):
    backend = "valkey"

    @classmethod
    def place(cls, folder: str) -> str:
        return servers.require(servers.valkey).url


class TestSQLite(Killed, unittest.IsolatedAsyncioTestCase):
    backend = "sqlite"


class TestDBOS(Killed, unittest.IsolatedAsyncioTestCase):
    backend = "dbos"


class TestDBOSIsCancelled(unittest.IsolatedAsyncioTestCase):
    async def test_a_recovery_that_is_cancelled_leaves_the_saga_to_the_next(self) -> None:
        folder = self.enterContext(tempfile.TemporaryDirectory())
        done: list[str] = []
        waiting = asyncio.Event()

        def step(name: str, *, hangs: bool) -> SagaStep:
            async def act(context: SagaContext) -> None:
                if hangs:
                    waiting.set()
                    await asyncio.Event().wait()
                done.append(name)

            return SagaStep(name, act)

        def steps(hanging: str = "") -> list[SagaStep]:
            return [step(name, hangs=name == hanging) for name in ("reserve", "charge", "ship")]

        async with saga_worker.sagas("dbos", folder) as client:
            running = asyncio.create_task(client.run("saga", steps("charge"), {}))
            await waiting.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for delay in (0.0, 0.001, 0.003, 0.01, 0.03, 0.06):
                recovering = asyncio.create_task(client.recover("saga", steps("charge")))
                await asyncio.sleep(delay)
                recovering.cancel()
                await asyncio.gather(recovering, return_exceptions=True)
            async with asyncio.timeout(SOON):
                while True:
                    with contextlib.suppress(SagaStateConflictError):  # what was cancelled had sent its update
                        state = await client.recover("saga", steps())
                        break
        self.assertEqual((state.status, done), (SagaStatus.COMPLETED, ["reserve", "charge", "ship"]))


if __name__ == "__main__":
    unittest.main()
