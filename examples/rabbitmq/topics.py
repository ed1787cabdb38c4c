"""What the adapters of RabbitMQ share: topics, confirmed publications, and subscriptions. `topology` says how they are kept.

- A publication returns when the broker has confirmed it: a quorum queue confirms what is on its disk. It is `mandatory`, so one
  that reaches no queue is returned, and is an error.
- A subscription has a channel of its own, on which the broker pushes as many messages as handlers can run. It counts how often a
  message was handed out and came back, also to those who stopped before they handled it: that is `delivery_attempt`.
- A message that is to come again later is published anew, to the ladder and for its group alone, and only then acknowledged.
  So are dead letters. One that is to come again at once is returned, and the broker puts it back where it was.
- A group begins with its first subscription, and keeps its messages from then on. A subscription makes its topic, and the topic
  of its dead letters.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, DeliveryMode
from aio_pika.exceptions import PublishError as ReturnedError

from examples import servers
from examples.common.consumers import DEFAULT_GROUP, LOOK, Consumer, Delivery, Source, Wishes
from examples.common.messages import Message, place
from examples.rabbitmq import topology
from examples.rabbitmq.connection import RabbitMQClient, telling_losses
from omnitck.shared.exceptions import TooLargeError, TopicNotFoundError

__all__ = ["RabbitMQTopics", "server_url"]

ENVELOPE = "omnitck"
TRIED = "omnitck-tried"

ENVELOPE_BYTES = 100_000
"""Longest envelope: all headers of a message of AMQP have to fit into one frame, of 128 KiB."""


class RabbitMQTopics(Consumer, RabbitMQClient):
    """Topics on the broker at *url*."""

    def __init__(self, url: str, *, tenant_id: str | None = None) -> None:
        super().__init__(tenant_id, url=url)
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._made: set[str] = set()
        """Topics that were there when this client looked last."""

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client that has reached its broker."""
        client = cls(url, tenant_id=tenant_id)
        try:
            await client._call("connect", client._reach())
        except BaseException:
            await client.close()
            raise
        return client

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.sockets.abort()

    async def abandon(self) -> None:
        """End as if the process had been killed; what is left of the connection in this process ends too."""
        await super().abandon()
        await self._release()

    async def _reach(self) -> None:
        with telling_losses():
            await self._open()

    # Topics

    async def delete_topic(self, topic: str, groups: Iterable[str] = (DEFAULT_GROUP,)) -> None:
        """Remove the queues of these groups and what waits there; absent ones are fine. Without a queue there is no topic."""
        await self._call(f"delete_topic {topic!r}", self._delete(topic, groups))

    async def _make(self, topic: str) -> None:
        with telling_losses():
            async with self.brief_channel() as channel:
                await self.bind(channel, topic, DEFAULT_GROUP)

    async def _delete(self, topic: str, groups: Iterable[str]) -> None:
        with telling_losses():
            async with self.brief_channel() as channel:
                self._made.discard(topic)
                for group in groups:
                    await channel.queue_delete(self._queue(topic, group))

    async def bind(self, channel: AbstractChannel, topic: str, group: str) -> aio_pika.abc.AbstractQueue:
        """The queue of *group*, made if it is not there."""
        queue = await topology.bind_queue(channel, self._queue(topic, group), place(self._tenant, topic))
        self._made.add(topic)
        return queue

    def _queue(self, topic: str, group: str) -> str:
        return place(self._tenant, topic, group)

    # Messages

    async def _send(self, message: Message) -> None:
        await self.hand_over(topology.TOPICS, place(self._tenant, message.topic), message)

    async def send_later(self, message: Message, delay: float, *, group: str | None = None, tried: int = 0) -> None:
        """Let *message* wait *delay* seconds, and then go to its topic, or to one *group* alone that has *tried* it so often."""
        exchange, path = topology.path(delay)
        to = place(self._tenant, message.topic) if group is None else self._queue(message.topic, group)
        await self.hand_over(exchange, path + to, message, tried=tried)

    async def hand_over(
        self, exchange: str, routing_key: str, message: Message, *, tried: int = 0, ttl: float | None = None
    ) -> None:
        """Publish *message*, and return when a queue has it for good."""
        envelope = message.envelope()
        if len(envelope) > ENVELOPE_BYTES:
            raise TooLargeError(
                f"topic {message.topic!r}: key and headers have {len(envelope)} bytes; the limit is {ENVELOPE_BYTES}"
            )
        outgoing = aio_pika.Message(
            message.payload,
            headers={ENVELOPE: envelope, **({TRIED: tried} if tried else {})},
            delivery_mode=DeliveryMode.PERSISTENT,
            expiration=ttl,
        )
        with telling_losses():
            channel = await self._publishing()
            target = await channel.get_exchange(exchange, ensure=False)
            try:
                await target.publish(outgoing, routing_key, mandatory=True)
            except ReturnedError:
                raise TopicNotFoundError(f"there is no topic {message.topic!r}") from None

    async def _publishing(self) -> AbstractChannel:
        """The channel for publications, opened anew if it was lost."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self.channel()
            return self._channel

    # Subscriptions

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        if wishes.retry_delay > topology.LONGEST:
            raise TooLargeError(f"topic {topic!r}: retry_delay is above the limit of {topology.LONGEST:g} s")
        if wishes.dead_letter_topic is not None:
            await self._make(wishes.dead_letter_topic)
        source = QueueSource(self, topic, wishes)
        await source.open()
        return source


class Inflow:
    """What has come over one channel, and nobody has taken."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self.messages: deque[AbstractIncomingMessage] = deque()
        self.news = asyncio.Event()
        """Set while there may be something to take."""
        self.tag: str | None = None
        self.queue: aio_pika.abc.AbstractQueue | None = None

    async def put(self, message: AbstractIncomingMessage) -> None:
        """A message has come."""
        self.messages.append(message)
        self.news.set()

    def take(self, most: int) -> list[AbstractIncomingMessage]:
        """The next messages, *most* of them at most."""
        taken = [self.messages.popleft() for _ in range(min(most, len(self.messages)))]
        if not self.messages:
            self.news.clear()
        return taken


class QueueSource(Source):
    """The queue of one group."""

    def __init__(self, client: RabbitMQTopics, topic: str, wishes: Wishes) -> None:
        self._client = client
        self._topic = topic
        self._group = wishes.group
        self._prefetch = wishes.concurrency * (wishes.batch_size or 1)
        self._inflow: Inflow | None = None
        self._opening = asyncio.Lock()
        self._stopping = False
        self._retries = False

    async def open(self) -> Inflow:
        """The inflow, opened anew if its channel was lost: what had come over that comes again."""
        async with self._opening:
            if self._inflow is not None and not self._inflow.channel.is_closed:
                return self._inflow

            with telling_losses():
                inflow = Inflow(await self._client.channel())
                try:
                    await inflow.channel.set_qos(prefetch_count=min(self._prefetch, 65_535))
                    inflow.queue = await self._client.bind(inflow.channel, self._topic, self._group)
                    inflow.tag = await inflow.queue.consume(inflow.put)
                except BaseException:
                    self._client.let_go(inflow.channel)
                    raise
            self._inflow = inflow
            return inflow

    async def take(self, most: int) -> list[Delivery]:
        inflow = await self.open()
        if not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await inflow.news.wait()
        return [self._delivery(each) for each in inflow.take(most)]

    def _delivery(self, message: AbstractIncomingMessage) -> Delivery:
        headers: dict[str, Any] = dict(message.headers)
        envelope = headers.get(ENVELOPE)
        if envelope is None:  # somebody else's, who published to the exchange
            opened = Message(self._topic, message.body, None, {}, message.message_id or str(message.delivery_tag))
        else:
            opened = Message.opened(self._topic, message.body, envelope)
        attempt = headers.get(TRIED, 0) + headers.get("x-delivery-count", 0) + 1
        return Delivery(opened, attempt, message)

    async def done(self, delivery: Delivery) -> None:
        with telling_losses():
            await delivery.receipt.ack()

    async def again(self, delivery: Delivery, delay: float) -> None:
        with telling_losses():
            if delay <= 0:
                await delivery.receipt.nack(requeue=True)
                return

            _ = delivery.receipt.channel  # one that is lost has given the message back already
        try:
            await self._try_later(delivery, delay)
        except BaseException:  # then it comes again at once
            with contextlib.suppress(Exception):
                await delivery.receipt.nack(requeue=True)
            raise
        await self.done(delivery)

    async def _try_later(self, delivery: Delivery, delay: float) -> None:
        if not self._retries and self._inflow is not None and self._inflow.queue is not None:
            with telling_losses():
                await topology.bind_retries(self._inflow.queue)
            self._retries = True
        await self._client.send_later(delivery.message, delay, group=self._group, tried=delivery.attempt)

    def hurry(self) -> None:
        self._stopping = True
        if self._inflow is not None:
            self._inflow.news.set()
            self._client._start(self._cancel(self._inflow))

    async def _cancel(self, inflow: Inflow) -> None:
        """Let nothing more come."""
        if inflow.queue is not None and inflow.tag is not None and not inflow.channel.is_closed:
            with contextlib.suppress(Exception):
                await inflow.queue.cancel(inflow.tag)

    async def close(self) -> None:
        if self._inflow is not None:
            with telling_losses():
                await self._inflow.channel.close()


async def server_url(address: tuple[str, int] | None) -> str:
    """Where the example's own server is, or the one at ``OMNITCK_RABBITMQ_URL``, seen through *address*."""
    return await servers.connect_info(servers.rabbitmq, address, prepare=topology.declare)
