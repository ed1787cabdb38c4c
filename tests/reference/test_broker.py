"""The broker as a fake: its clients are of whatever event loops an application's tests have, one after another or at once."""

import asyncio
import importlib.util
import threading
import unittest
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from omnitck.reference.broker import Changes
from omnitck.reference.consumer import MemoryBroker, MemoryConsumer
from omnitck.reference.delayed_messaging import MemoryDelayedPublisher
from omnitck.reference.producer import MemoryProducer
from omnitck.shared.models import ConsumedMessage, ProcessingOutcome

TOPIC = "orders"
ENOUGH = 10.0
"""Seconds after which what has not come does not come."""
BACKENDS = [each for each in ("asyncio", "trio") if importlib.util.find_spec(each)]

Handler = Callable[[ConsumedMessage], Awaitable[ProcessingOutcome]]


def keeping(came: list[bytes], enough: Callable[[], bool], done: anyio.Event) -> Handler:
    """A handler that adds to *came* what it is given, and says when it is *enough*."""

    async def handle(message: ConsumedMessage) -> ProcessingOutcome:
        came.append(message.payload)
        if enough():
            done.set()
        return ProcessingOutcome.SUCCESS

    return handle


async def consume(broker: MemoryBroker, count: int, publish: Callable[[], Awaitable[object]]) -> list[bytes]:
    """*count* messages that come to a consumer, which waits already when *publish* is called."""
    came: list[bytes] = []
    done = anyio.Event()
    async with MemoryConsumer(broker) as consumer:
        await consumer.subscribe(TOPIC, keeping(came, lambda: len(came) == count, done))
        await anyio.sleep(0.01)
        await publish()
        with anyio.fail_after(ENOUGH):
            await done.wait()
    return came


class TestEventLoops(unittest.TestCase):
    def test_one_after_another(self) -> None:
        broker = MemoryBroker()
        for number, backend in enumerate((*BACKENDS, *BACKENDS)):

            async def run(payload: bytes = b"%d" % number) -> list[bytes]:
                return await consume(broker, 1, lambda: MemoryProducer(broker).publish(TOPIC, payload))

            self.assertEqual(anyio.run(run, backend=backend), [b"%d" % number])

    def test_after_one_that_ended_while_somebody_waited(self) -> None:
        broker = MemoryBroker()

        async def leave() -> None:
            waiting = asyncio.ensure_future(broker.changed.wait())
            await asyncio.sleep(0)
            self.assertFalse(waiting.done())

        for _ in range(2):
            asyncio.run(leave())
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        waiting = loop.create_task(broker.changed.wait())
        loop.run_until_complete(asyncio.sleep(0))
        publish = MemoryProducer(broker).publish
        self.assertEqual(asyncio.run(consume(broker, 1, lambda: publish(TOPIC, b"x"))), [b"x"])
        loop.run_until_complete(asyncio.wait_for(waiting, ENOUGH))

    def test_what_one_published_another_consumes(self) -> None:
        broker = MemoryBroker()
        asyncio.run(MemoryProducer(broker).publish(TOPIC, b"kept"))
        asyncio.run(MemoryDelayedPublisher(broker).publish(TOPIC, b"later", delay_seconds=0.05))

        async def nothing() -> None:
            pass

        self.assertEqual(asyncio.run(consume(broker, 2, nothing)), [b"kept", b"later"])

    def test_who_waits_in_one_is_woken_from_another(self) -> None:
        for backend in BACKENDS:
            with self.subTest(backend):
                broker = MemoryBroker()

                async def publish_elsewhere(broker: MemoryBroker = broker) -> None:
                    await anyio.to_thread.run_sync(asyncio.run, MemoryProducer(broker).publish(TOPIC, b"x"))

                async def run(broker: MemoryBroker = broker) -> list[bytes]:
                    return await consume(broker, 1, publish_elsewhere)

                self.assertEqual(anyio.run(run, backend=backend), [b"x"])

    def test_several_at_once_share_the_messages(self) -> None:
        broker = MemoryBroker()
        threads, each = 4, 200
        came: list[bytes] = []
        ended = threading.Event()

        async def work(number: int) -> None:
            done = anyio.Event()
            async with MemoryConsumer(broker) as consumer:
                await consumer.subscribe(TOPIC, keeping(came, lambda: len(came) >= threads * each, done), concurrency=2)
                producer = MemoryProducer(broker)
                for message in range(each):
                    await producer.publish(TOPIC, b"%d.%d" % (number, message), message_id=f"{number}.{message}")
                    await producer.publish(TOPIC, b"again", message_id=f"{number}.{message}")
                with anyio.move_on_after(ENOUGH):
                    while not ended.is_set():
                        with anyio.move_on_after(0.01):
                            await done.wait()
                            ended.set()

        running = [threading.Thread(target=asyncio.run, args=(work(number),)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        expected = Counter(b"%d.%d" % (number, message) for number in range(threads) for message in range(each))
        self.assertEqual(Counter(came), expected)


class TestChanges(unittest.TestCase):
    def test_a_change_between_the_look_and_the_wait_is_not_missed(self) -> None:
        changes = Changes()

        async def run() -> None:
            with anyio.fail_after(ENOUGH), changes.expected() as change:
                thread = threading.Thread(target=changes.tell)
                thread.start()
                thread.join()
                await change.wait()

        for backend in BACKENDS:
            anyio.run(run, backend=backend)

    def test_who_waits_no_more_is_forgotten(self) -> None:
        changes = Changes()

        async def run() -> None:
            with anyio.move_on_after(0.001):
                await changes.wait()
            await changes.until(lambda: True)

        asyncio.run(run())
        self.assertEqual(changes._waiting, {})


if __name__ == "__main__":
    unittest.main()
