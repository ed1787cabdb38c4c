"""What the adapters of brokers say and keep when the broker itself is gone, or does not let them in."""

import asyncio
import contextlib
import os
import time
import unittest
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar
from unittest import mock

from examples import servers
from examples.servers import processes, programs
from omnitck.shared.exceptions import PermissionDeniedError, PublishError, TCKError, UnavailableError
from omnitck.shared.models import ProcessingOutcome

with servers.installed():
    from examples.nats_jetstream.delayed_messaging import NATSScheduler
    from examples.nats_jetstream.delayed_messaging import make_scheduler as make_nats_scheduler
    from examples.nats_jetstream.messaging import NATSMessaging
    from examples.nats_jetstream.messaging import make_messaging as make_nats
    from examples.postgresql.delayed_messaging import PostgreSQLScheduler
    from examples.postgresql.delayed_messaging import make_scheduler as make_postgresql_scheduler
    from examples.postgresql.messaging import PostgreSQLMessaging
    from examples.postgresql.messaging import make_messaging as make_postgresql
    from examples.rabbitmq.delayed_messaging import RabbitMQScheduler
    from examples.rabbitmq.delayed_messaging import make_scheduler as make_rabbitmq_scheduler
    from examples.rabbitmq.messaging import RabbitMQMessaging
    from examples.rabbitmq.messaging import make_messaging as make_rabbitmq
    from examples.valkey.delayed_messaging import ValkeyDelayedMessaging
    from examples.valkey.messaging import ValkeyMessaging

DELAY = 3.0
"""Seconds that a message waits which is scheduled before the broker ends."""

RECOVERY = 30.0
"""Seconds after its return in which the broker has to be of use again; it takes one or two, if the machine is not busy."""

WRONG = "a-password-of-somebody-else"


class Recorder:
    """A handler that succeeds, and says what has come."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    async def __call__(self, message: Any) -> ProcessingOutcome:
        self.payloads.append(message.payload)
        return ProcessingOutcome.SUCCESS

    async def lacks(self, wanted: set[bytes]) -> set[bytes]:
        """Those of *wanted* that have not come in time."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: wanted <= set(self.payloads))
        return wanted - set(self.payloads)


class OwnBroker:
    """A broker that only this class uses, and may end. It keeps what it has accepted when it ends."""

    start: ClassVar[Callable[[], servers.Server]]
    make: ClassVar[Callable[[], Awaitable[Any]]]
    make_scheduler: ClassVar[Callable[[], Awaitable[Any]]]
    broker: ClassVar[processes.Process]

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(mock.patch.dict(programs._started, clear=True))  # type: ignore[attr-defined]
        own = {name: value for name, value in os.environ.items() if not (name.startswith("OMNITCK_") and name.endswith("_URL"))}
        cls.enterClassContext(mock.patch.dict(os.environ, own, clear=True))  # type: ignore[attr-defined]
        cls.broker = processes.launched[servers.require(cls.start).address[1]]
        cls.addClassCleanup(cls.broker.stop)  # type: ignore[attr-defined]

    async def test_what_was_accepted_outlives_the_broker_and_its_clients_find_it_again(self) -> None:
        test: Any = self
        came, accepted, refused = Recorder(), set(), []
        async with await type(self).make() as producer, await type(self).make() as consumer:
            await consumer.subscribe("orders", came)
            ended = False

            async def publish() -> None:
                for number in range(100_000):
                    payload = b"%d" % number
                    try:
                        await producer.publish("orders", payload)
                    except TCKError as error:
                        refused.append(error)
                        await asyncio.sleep(0.05)
                    else:
                        accepted.add(payload)
                    if ended and len(accepted) >= after:
                        break

            publishing = asyncio.create_task(publish())
            await until(lambda: len(accepted) >= 30)
            await asyncio.to_thread(self.broker.halt)
            await until(lambda: bool(refused))
            await asyncio.to_thread(self.broker.restart)
            after, ended = len(accepted) + 30, True
            async with asyncio.timeout(RECOVERY):
                await publishing

            test.assertEqual(await came.lacks(accepted), set(), "accepted, and never delivered")
            test.assertEqual({type(each) for each in refused}, {PublishError})

    async def test_what_was_scheduled_outlives_the_broker(self) -> None:
        test: Any = self
        came = Recorder()
        async with await type(self).make_scheduler() as publisher, await type(self).make() as consumer:
            await consumer.subscribe("reminders", came)
            begun = time.monotonic()
            await publisher.publish("reminders", b"later", delay_seconds=DELAY)
            await asyncio.to_thread(self.broker.halt)
            await asyncio.to_thread(self.broker.restart)
            test.assertEqual(await came.lacks({b"later"}), set(), "scheduled, and never delivered")
            test.assertGreaterEqual(time.monotonic() - begun, DELAY)
            test.assertEqual(set(came.payloads), {b"later"})
            async with asyncio.timeout(RECOVERY):
                await usable(publisher)


async def until(done: Callable[[], bool]) -> None:
    """Return once *done* says so; raises TimeoutError."""
    async with asyncio.timeout(RECOVERY):
        while not done():
            await asyncio.sleep(0.005)


async def usable(publisher: Any) -> None:
    """Return once a message is accepted again."""
    while True:
        try:
            await publisher.publish("reminders", b"now")
            return
        except UnavailableError:
            await asyncio.sleep(0.05)


class TestRabbitMQ(OwnBroker, unittest.IsolatedAsyncioTestCase):
    start = servers.rabbitmq
    make = make_rabbitmq
    make_scheduler = make_rabbitmq_scheduler


class TestNATS(OwnBroker, unittest.IsolatedAsyncioTestCase):
    start = servers.nats
    make = make_nats
    make_scheduler = make_nats_scheduler


class TestPostgreSQL(OwnBroker, unittest.IsolatedAsyncioTestCase):
    start = servers.postgresql
    make = make_postgresql
    make_scheduler = make_postgresql_scheduler


class TestWrongCredentials(unittest.IsolatedAsyncioTestCase):
    CLIENTS: ClassVar[dict[Callable[[], servers.Server], tuple[Any, Any]]] = {
        servers.rabbitmq: (RabbitMQMessaging, RabbitMQScheduler),
        servers.nats: (NATSMessaging, NATSScheduler),
        servers.postgresql: (PostgreSQLMessaging, PostgreSQLScheduler),
        servers.valkey: (ValkeyMessaging, ValkeyDelayedMessaging),
    }

    async def test_they_are_denied_and_stay_unseen(self) -> None:
        for start, clients in self.CLIENTS.items():
            server = await asyncio.to_thread(servers.require, start)
            [password] = server.credentials
            for client in clients:
                with self.subTest(client.__name__):
                    for use in (publish, subscribe):
                        with self.assertRaises(PermissionDeniedError) as caught:
                            await use(client, server.url.replace(password, WRONG))
                        self.assertNotIn(WRONG, f"{caught.exception} {caught.exception!r}")


async def publish(client: Any, url: str) -> None:
    async with await client.connect(url) as producer:
        await producer.publish("topic", b"payload")


async def subscribe(client: Any, url: str) -> None:
    async with await client.connect(url) as consumer:
        await consumer.subscribe("topic", Recorder())


if __name__ == "__main__":
    unittest.main()
