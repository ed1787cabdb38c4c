"""The in-memory outbox, as an application's tests use it: what waits, what is refused, and how relays end."""

import unittest
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.reference.transactional_outbox import MemoryOutbox, MemoryOutboxStorage
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import ClosedError, ConflictError, InvalidArgumentError, UnsupportedError
from omnitck.shared.models import OutboxEvent, StoredEvent
from tests.helpers import on_each_backend


def event(aggregate: str | None = None, payload: bytes = b"x") -> OutboxEvent:
    return OutboxEvent(destination_topic="orders", payload=payload, aggregate_key=aggregate)


class TestTransactions(unittest.TestCase):
    @on_each_backend
    async def test_an_aggregate_belongs_to_the_transaction_that_saved_first(self) -> None:
        outbox = MemoryOutboxStorage(MemoryOutbox())
        order: list[str] = []

        async def second() -> None:
            await outbox.save_event(event("a", b"second"))
            order.append("second")

        async with anyio.create_task_group() as tasks:
            async with outbox.transaction() as tx:
                await outbox.save_event(event("a", b"first"), tx=tx)
                tasks.start_soon(second)
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                order.append("first")
        self.assertEqual(order, ["first", "second"])
        self.assertEqual([each.payload for each in await outbox.get_pending_events_for_aggregate("a")], [b"first", b"second"])

    @on_each_backend
    async def test_of_two_transactions_that_wait_for_each_other_one_gives_up(self) -> None:
        outbox = MemoryOutboxStorage(MemoryOutbox())
        both = [anyio.Event(), anyio.Event()]
        conflicts: list[int] = []

        async def work(number: int, *aggregates: str) -> None:
            try:
                async with outbox.transaction() as tx:
                    await outbox.save_event(event(aggregates[0]), tx=tx)
                    both[number].set()
                    await both[1 - number].wait()
                    await outbox.save_event(event(aggregates[1]), tx=tx)
            except ConflictError:
                conflicts.append(number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, 0, "a", "b")
            tasks.start_soon(work, 1, "b", "a")
        self.assertEqual(len(conflicts), 1)
        for aggregate in ("a", "b"):
            self.assertEqual(len(await outbox.get_pending_events_for_aggregate(aggregate)), 1)

    @on_each_backend
    async def test_a_transaction_is_its_own_clients(self) -> None:
        memory = MemoryOutbox()
        one, other = MemoryOutboxStorage(memory), MemoryOutboxStorage(memory)
        async with one.transaction() as tx:
            with self.assertRaises(InvalidArgumentError):
                await other.save_event(event(), tx=tx)
        with self.assertRaises(ClosedError):
            await one.save_event(event(), tx=tx)
        self.assertEqual(await other.get_pending_unordered_events(10), [])

    @on_each_backend
    async def test_a_client_that_vanishes_leaves_no_lock(self) -> None:
        memory = MemoryOutbox()
        one, other = MemoryOutboxStorage(memory), MemoryOutboxStorage(memory)
        with self.assertRaises(ClosedError):
            async with one.transaction() as tx:
                await one.save_event(event("a"), tx=tx)
                one.vanish()
                await other.save_event(event("a"))
        self.assertEqual([each.sequence_id for each in await other.get_pending_events_for_aggregate("a")], [1])

    @on_each_backend
    async def test_an_undeclared_transaction_is_refused(self) -> None:
        outbox = MemoryOutboxStorage(MemoryOutbox(), capabilities={"claim"})
        with self.assertRaises(UnsupportedError):
            outbox.transaction()
        with self.assertRaises(UnsupportedError):
            await outbox.save_event(event(), tx=object())


class TestRelays(unittest.TestCase):
    @on_each_backend
    async def test_a_relay_runs_in_its_clients_context(self) -> None:
        outbox = MemoryOutboxStorage(MemoryOutbox())

        async def publish(given: StoredEvent) -> None:
            pass

        with self.assertRaises(ClosedError):
            await outbox.relay(publish, relay_id="r").start()

    @on_each_backend
    async def test_a_relay_may_be_stopped_by_what_it_publishes_with(self) -> None:
        came: list[Any] = []
        async with MemoryOutboxStorage(MemoryOutbox()) as outbox:

            async def publish(given: StoredEvent) -> None:
                came.append(given.payload)
                await relay.stop()

            relay = outbox.relay(publish, relay_id="r", lease=600.0)
            await outbox.save_event(event(None, b"1"))
            await outbox.save_event(event(None, b"2"))
            await relay.start()
            with anyio.fail_after(5):
                await relay.ended.wait()
            claimed = await outbox.claim("other", limit=10, lease=1.0)
        self.assertEqual(came, [b"1"])
        self.assertEqual([each.payload for each in claimed], [b"1", b"2"])

    @on_each_backend
    async def test_closing_the_client_stops_its_relays(self) -> None:
        memory = MemoryOutbox()
        came: list[bytes] = []

        async def publish(given: StoredEvent) -> None:
            came.append(given.payload)

        async with MemoryOutboxStorage(memory) as outbox:
            await outbox.relay(publish, relay_id="r").start()
            await outbox.save_event(event(None, b"1"))
            while not came:
                await anyio.lowlevel.checkpoint()
        await MemoryOutboxStorage(memory).save_event(event(None, b"2"))
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        self.assertEqual(came, [b"1"])

    @on_each_backend
    async def test_what_was_not_tried_has_no_attempt(self) -> None:
        outbox = MemoryOutboxStorage(MemoryOutbox(clock=ManualClock()))

        async def fail(given: StoredEvent) -> None:
            raise ConnectionResetError

        for _ in range(3):
            await outbox.save_event(event("a"))
        self.assertEqual(await outbox.relay(fail, relay_id="r").run_once(), 0)
        self.assertEqual([each.attempts for each in await outbox.get_pending_events_for_aggregate("a")], [1, 0, 0])


class TestTime(unittest.TestCase):
    @on_each_backend
    async def test_leases_are_of_the_databases_clock(self) -> None:
        clock = ManualClock()
        memory = MemoryOutbox(clock=clock)
        one, other = MemoryOutboxStorage(memory), MemoryOutboxStorage(memory)
        await one.save_event(event())
        [claimed] = await one.claim("r", limit=1, lease=30.0)
        clock.advance(29.9)
        self.assertEqual(await other.claim("s", limit=1, lease=30.0), [])
        self.assertIs(await one.renew([claimed], 10.0), True)
        clock.advance(9.9)
        self.assertEqual(await other.claim("s", limit=1, lease=30.0), [])
        clock.advance(0.2)
        self.assertIs(await one.renew([claimed], 10.0), False)
        [again] = await other.claim("s", limit=1, lease=30.0)
        self.assertEqual(again.event_id, claimed.event_id)
        self.assertNotEqual(again.claim_id, claimed.claim_id)
