"""Topics on NATS JetStream: what the adapters for messages have in common.

All messages are in one stream, those of a topic under a subject of their own. A stream for each topic costs as little to make,
and was as fast; but a transaction has one stream, and so have a schedule and the subject to which it publishes.

- *A group* is a durable consumer, which gets what is published from its making on, and is asked for one message when a handler is
  free: so nothing is fetched ahead. The server counts how often it has handed a message out.
- *Acknowledgements*, the negative ones too, are requests: a subscription that has stopped has none under way.
- *Retention.* The stream is a log: a message is kept for two weeks, whoever has read it, and so is a group that nobody asks for.
  A stream that forgets what its groups have read would also forget a schedule, of which no group knows.
- *Time* is the server's own, which a client asks for and then counts on from. The clocks of clients need not agree with it.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import uuid4

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import Header

from examples import servers
from examples.common.consumers import LOOK, Consumer, Delivery, Source, Wishes
from examples.common.messages import Message
from examples.nats_jetstream import stream
from examples.nats_jetstream.client import NEVER, Connection, NATSClient
from examples.nats_jetstream.stream import SECOND, STREAM
from omnitck.shared.exceptions import TooLargeError

__all__ = ["LEASE", "NATSTopics", "server_url"]

LEASE = 1.5
"""Seconds that a message is hidden from others after its handler's last sign of life, unless a subscription wants more."""

MOST_BYTES = 2**20 - 2**12
"""Of a message with its headers; the server's own limit, by default 1 MiB, has room for the headers that are the server's."""

AGREED = 60
"""Seconds after which a client asks for the server's time again."""

PROMPT = 0.01
"""Seconds within which an answer tells the time well; a slower one is asked for again, a few times."""


class NATSTopics(Consumer, NATSClient):
    """The topics of a tenant in the stream that `stream.create_stream` made, on the server at *url*."""

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(tenant_id, url=url)
        self._sources: set[Pulls] = set()
        self._telling_time = asyncio.Lock()
        self._asked_at = -math.inf
        self._ahead = 0.0

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; the connection is opened when it is needed."""
        return cls(url, tenant_id)

    async def abandon(self) -> None:
        """End as if the process had been killed."""
        await super().abandon()
        if self._connection is not None:
            with contextlib.suppress(*self._unavailable):
                await self._connection.close()  # the tasks of nats-py; there is nobody left to tell

    # Requests: each is one step, and runs within `_call`.

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """The server's answer to *payload*."""
        return await (await self._open()).request(subject, payload, timeout=NEVER, headers=headers)

    async def command(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a command of JetStream."""
        reply = await self.ask(f"$JS.API.{name}", json.dumps(arguments).encode())
        return stream.check(json.loads(reply.data))

    async def server_time(self) -> float:
        """The time that the server's clock shows now, or will show in a moment."""
        async with self._telling_time:
            if time.monotonic() - self._asked_at > AGREED:
                ahead = []
                for _ in range(3):
                    asked = time.monotonic()
                    told = datetime.fromisoformat((await self.command(f"STREAM.INFO.{STREAM}", {}))["ts"])
                    ahead.append(told.timestamp() - asked)
                    if time.monotonic() - asked < PROMPT:
                        break
                self._ahead, self._asked_at = min(ahead), time.monotonic()
        return self._ahead + time.monotonic()

    def _headers(self, message: Message) -> dict[str, str]:
        """Those of *message* in the stream."""
        envelope = message.envelope()
        if len(envelope) + len(message.payload) > MOST_BYTES:
            raise TooLargeError(f"topic {message.topic!r}: payload and headers have more than {MOST_BYTES} bytes together")
        return {stream.ENVELOPE: envelope}

    def _subject(self, message: Message) -> str:
        return stream.subject(self._tenant, message.topic)

    async def _store(self, subject: str, message: Message, more: Mapping[str, str]) -> None:
        """Publish a message with *more* headers; return when the stream has it."""
        reply = await self.ask(subject, message.payload, {**self._headers(message), **more})
        stream.check(json.loads(reply.data))

    async def _send(self, message: Message) -> None:
        await self._store(self._subject(message), message, {})

    async def _store_all(self, messages: Sequence[Message]) -> None:
        """Publish all *messages*, or none: the server keeps them until the last one, and forgets them if that does not come."""
        batch, connection = uuid4().hex, await self._open()
        for number, each in enumerate(messages[:-1], 1):
            place = {Header.BATCH_ID.value: batch, Header.BATCH_SEQUENCE.value: str(number)}
            await connection.publish(self._subject(each), each.payload, headers={**self._headers(each), **place})
        headers = {
            **self._headers(messages[-1]),
            Header.BATCH_ID.value: batch,
            Header.BATCH_SEQUENCE.value: str(len(messages)),
            Header.BATCH_COMMIT.value: "1",
        }
        reply = await connection.request(self._subject(messages[-1]), messages[-1].payload, timeout=NEVER, headers=headers)
        stream.check(json.loads(reply.data))

    # Consuming

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        source = Pulls(self, topic, self._tenant, wishes)
        await source.make()
        return source

    async def opened_connection(self) -> Connection:
        """The connection, opened anew if it was lost."""
        return await self._open()

    def begin(self, source: "Pulls") -> None:
        """It wants to know when the connection is lost."""
        self._sources.add(source)

    def end(self, source: "Pulls") -> None:
        """It does not any more."""
        self._sources.discard(source)

    async def _lost(self) -> None:
        for each in self._sources:
            each.lost()

    def _abort(self) -> None:
        if self._connection is not None and self._connection._transport is not None:
            self._connection._transport._io_writer.transport.abort()  # type: ignore[attr-defined]


class Inbox:
    """What the server sends to one subscription of one connection: for each request a message, or a word that there is none."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.subject = connection.new_inbox()
        self.left: deque[Msg] = deque()
        self.subscription: Subscription | None = None
        self._hurried = False
        self._over = False
        self._changed = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether anything can still come."""
        return not self._over and self.connection.is_connected

    async def open(self) -> None:
        """Let what comes come here."""
        self.subscription = await self.connection.subscribe(self.subject, cb=self._put)

    async def _put(self, message: Msg) -> None:
        self.left.append(message)
        self._changed.set()

    def hurry(self) -> None:
        """Let nobody wait."""
        self._hurried = True
        self._changed.set()

    def end(self) -> None:
        """Nothing will come that anybody should take."""
        self._over = True
        self._changed.set()

    async def next(self) -> Msg | None:
        """What comes next; None in a hurry."""
        while not self.left or self._over:
            if self._over:
                raise nats.errors.ConnectionClosedError
            if self._hurried:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.left.popleft()


class Pulls(Source):
    """The messages of one subscription, asked for one by one.

    Each request is answered once, so that it does not matter who takes which answer, as long as everybody who asks takes one.
    """

    lease = LEASE

    def __init__(self, client: NATSTopics, topic: str, tenant: bytes, wishes: Wishes) -> None:
        self._client = client
        self._topic = topic
        self._name = stream.consumer(tenant, topic, wishes.group)
        self._config = {
            "name": self._name,
            "durable_name": self._name,
            "deliver_policy": "new",
            "filter_subject": stream.pattern(tenant, topic),
            "ack_policy": "explicit",
            "ack_wait": int(max(LEASE, wishes.visibility or 0.0) * SECOND),
            "max_ack_pending": -1,  # or messages that wait for another try would hold up the others, once they are many
            "inactive_threshold": stream.AGE * SECOND,
        }
        self._made = False
        self._hurried = False
        self._opening = asyncio.Lock()
        self._inbox: Inbox | None = None

    async def make(self) -> None:
        """Make the durable consumer, unless it is there; its lease is that of whoever asked last."""
        await self._client.command(f"CONSUMER.CREATE.{STREAM}.{self._name}", {"stream_name": STREAM, "config": self._config})
        self._made = True

    async def take(self, most: int) -> list[Delivery]:
        inbox = await self._opened()
        try:
            await self._pull(inbox, expires=int(LOOK * SECOND))
            first = self._message(await inbox.next())
            if first is None:
                return []
            more = min(most - 1, first.metadata.num_pending)
            for _ in range(more):
                await self._pull(inbox, no_wait=True)
            messages = [first] + [self._message(await inbox.next()) for _ in range(more)]
        except BaseException:
            self._discard(inbox)  # or somebody else would take the answer later
            raise
        return [delivery for each in messages if each is not None and (delivery := await self._delivery(each)) is not None]

    async def _opened(self) -> Inbox:
        """The inbox, opened anew if its connection was lost."""
        async with self._opening:
            if not self._made:
                await self.make()
            if self._inbox is None or not self._inbox.usable:
                inbox = Inbox(await self._client.opened_connection())
                await inbox.open()
                if self._hurried:
                    inbox.hurry()
                self._inbox = inbox
                self._client.begin(self)
            return self._inbox

    async def _pull(self, inbox: Inbox, **options: Any) -> None:
        request = json.dumps({"batch": 1, **options}).encode()
        await inbox.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._name}", request, reply=inbox.subject)

    def _message(self, answer: Msg | None) -> Msg | None:
        """*answer*, if it is a message."""
        if answer is None or answer.reply:
            return answer

        status = (answer.headers or {}).get(Header.STATUS.value)
        if status in ("404", "408"):
            return None
        self._made = False  # the consumer may be gone; to make it again does no harm
        raise nats.errors.Error(f"the answer to a request for messages was {status}")

    async def _delivery(self, message: Msg) -> Delivery | None:
        """*message* as its handler gets it; None if it is too old."""
        headers = message.headers or {}
        delivery = Delivery(
            Message.opened(self._topic, message.data, headers[stream.ENVELOPE]), message.metadata.num_delivered, message.reply
        )
        if stream.TTL in headers:
            end = message.metadata.timestamp.timestamp() + float(headers[stream.TTL])
            if await self._client.server_time() > end:
                await self.done(delivery)
                return None
        return delivery

    async def done(self, delivery: Delivery) -> None:
        await self._client.ask(delivery.receipt, Msg.Ack.Ack)

    async def again(self, delivery: Delivery, delay: float) -> None:
        await self._client.ask(delivery.receipt, Msg.Ack.Nak + (b' {"delay": %d}' % (delay * SECOND) if delay else b""))

    async def extend(self, delivery: Delivery) -> None:
        await self._client.ask(delivery.receipt, Msg.Ack.Progress)

    def hurry(self) -> None:
        self._hurried = True
        if self._inbox is not None:
            self._inbox.hurry()

    def lost(self) -> None:
        """The connection is gone."""
        if self._inbox is not None:
            self._inbox.end()

    def _discard(self, inbox: Inbox) -> None:
        inbox.end()
        if inbox is self._inbox:
            self._inbox = None
            if inbox.connection.is_connected:
                self._client._start(self._give_back(inbox))

    async def _give_back(self, inbox: Inbox) -> None:
        """Let what has come to *inbox*, and was not taken, come again."""
        if inbox.subscription is not None:
            await inbox.subscription.drain()  # type: ignore[no-untyped-call]
        while inbox.left:
            message = inbox.left.popleft()
            if message.reply:
                await self._client.ask(message.reply, Msg.Ack.Nak)

    async def close(self) -> None:
        self._client.end(self)
        inbox, self._inbox = self._inbox, None
        if inbox is not None and inbox.connection.is_connected:
            inbox.end()
            await self._give_back(inbox)


async def server_url(address: tuple[str, int] | None) -> str:
    """That of the example's own server, or of the one at ``OMNITCK_NATS_URL``, where the stream is."""
    return await servers.connect_info(servers.nats, address, prepare=stream.create_stream)
