"""`producer` and `consumer` on AWS SQS, through aiobotocore. A topic of a tenant is a standard queue, made when it is first used.

A body is text of the characters that XML knows, and must not be empty. So it is two lines: what travels with the message, and
the payload in base64. That grows by a third, and the service takes 1 MiB in all: whatever else is larger than planned for, such
as a long header, is refused by this adapter. There are no attributes, which would count as well.

The attempts are those that the service counts, and a message counts as tried as soon as it is handed out. So only as many are
asked for as handlers wait, or are about to. What a subscription is handed while it is being stopped goes back at once, and that
was one attempt. Dead letters are published by the adapter, before it deletes the message: a redrive policy would move a message
when it is asked for once too often, and never after FAIL.

Looking for messages means short polls, with pauses that grow while nothing comes; what a client publishes itself it looks for at
once. Moto works on one request at a time, so a long poll would keep everybody else waiting. AWS has no such trouble, and charges
for each poll: there, let `WaitTimeSeconds` take the place of the pauses, and have a connection for each queue. And moto keeps the
order of a queue, of which AWS says that it tries: there, declare `settle`.

Not declared: `fan_out`, which needs SNS; `ordering_by_key` and `deduplication`, which need queues of the other kind, FIFO;
`message_ttl`, which is a property of a queue; `strict_topics`; `atomic_batch`, `transactional_publish`, which there are not.
"""

import asyncio
import base64
import contextlib
import math
import socket
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from examples import servers
from examples.aws.client import AWSClient, code_of
from examples.common import arguments
from examples.common.client import together
from examples.common.consumers import LOOK, Consumer, Delivery, Source, Wishes
from examples.common.messages import Message, place
from omnitck.shared.exceptions import PublishError, TCKError, TooLargeError
from omnitck.shared.models import MessageLimits

__all__ = ["SQSMessaging", "body_of", "make_messaging"]

BODY_CHARACTERS = 2**20
"""Of a message, and of all messages in a request. All characters are ASCII, and take one byte."""

MOST = 10
"""Messages in a request or an answer."""

LEASE = 2
"""Seconds, whole ones, that a message is hidden from others after its handler's last sign of life."""

LONGEST = 43_200
"""Seconds that a message can be hidden, counted from its delivery."""

CONNECTIONS = 10
POLLS = 4
"""How many connections are used for polls at most, so that something else can always be said."""

ATTENTIVE = 0.2
"""Seconds between two polls of a queue, once the first has found nothing. The pause doubles while nothing comes."""

IDLE = 1.0
"""Seconds to which the pause grows."""

SHARE = 0.02
"""Seconds between two polls of an idle client: where it has many queues, the pause of each grows further."""

LONGEST_PAUSE = 2.0

ABSENT = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}


def body_of(message: Message) -> str:
    """The text that travels."""
    body = f"{message.envelope()}\n{base64.b64encode(message.payload).decode()}"
    if len(body) > BODY_CHARACTERS:
        raise TooLargeError(
            f"topic {message.topic!r}: payload, key and headers take {len(body)} bytes; the limit is {BODY_CHARACTERS}"
        )
    return body


class Sockets:
    """Those of one client, which can all be torn down at once."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._ended = False

    def make(self, address: Any) -> socket.socket:
        """A socket for *address*, as `getaddrinfo` describes it."""
        if self._ended:
            raise ConnectionAbortedError("the client was abandoned")
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._open.add(made)
        return made

    def abort(self) -> None:
        """Break off every connection, and make no other."""
        self._ended = True
        for each in list(self._open):
            with contextlib.suppress(OSError):  # it is not connected, or not any more
                each.shutdown(socket.SHUT_RDWR)


class SQSMessaging(Consumer, AWSClient):
    """The queues of one account and region."""

    service = "sqs"

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish stopping delivery_metadata concurrency dead_letter nack_redelivery visibility_timeout "
        "batch_consume lifecycle validation shared availability limits".split()
    )
    limits: MessageLimits = MessageLimits(
        key_bytes=1024,
        value_bytes=720 * 1024,
        headers=64,
        batch_size=MOST,
        ttl_resolution=1.0,
        redeliver=LEASE + IDLE,
    )

    def __init__(self, client: Any, stack: Any, sockets: Sockets, *, tenant_id: str | None = None) -> None:
        super().__init__(tenant_id, client=client, stack=stack, patience=8)  # seconds: moto does one request at a time
        self._sockets = sockets
        self._urls: dict[str, str] = {}
        self._sources: weakref.WeakSet[_Queue] = weakref.WeakSet()
        self._polls = asyncio.Semaphore(POLLS)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the endpoint at *url*."""
        arguments.encode_tenant(tenant_id)  # refused before anything is opened
        sockets = Sockets()
        config = AioConfig(connector_args={"socket_factory": sockets.make})
        return await cls.open(url, sockets, connections=CONNECTIONS, config=config, tenant_id=tenant_id)

    async def _send(self, message: Message) -> None:
        await self._send_with(message, 0)

    async def _send_with(self, message: Message, delay: int) -> None:
        """Hand *message* to the service, which keeps it back for *delay* seconds."""
        await self.on_queue(message.topic, "send_message", MessageBody=body_of(message), DelaySeconds=delay)
        self._nudge(message.topic)

    async def _send_many(self, messages: Sequence[Message]) -> Mapping[str, Exception]:
        errors: dict[str, Exception] = {}
        bodies: list[tuple[Message, str]] = []
        for each in messages:
            try:
                bodies.append((each, body_of(each)))
            except TooLargeError as error:
                errors[each.id] = error
        for failed in await together(self._send_portion(each) for each in _portions(bodies)):
            errors |= failed
        return errors

    async def _send_portion(self, portion: list[tuple[Message, str]]) -> Mapping[str, Exception]:
        """Hand messages over in one request; the errors of those that were not accepted, by id."""
        entries = [{"Id": str(number), "MessageBody": body, "DelaySeconds": 0} for number, (_, body) in enumerate(portion)]
        messages = [message for message, _ in portion]
        try:
            answer = await self.on_queue(messages[0].topic, "send_message_batch", Entries=entries)
        except (TCKError, *self._unavailable) as error:
            return {each.id: self._publish_error(each, error) for each in messages}
        self._nudge(messages[0].topic)
        # What was not accepted is in an answer whose status is 200.
        accepted = {each["Id"] for each in answer.get("Successful", ())}
        codes = {each["Id"]: each.get("Code") for each in answer.get("Failed", ())}
        return {
            each.id: PublishError(f"publish_many to {each.topic!r}: the service answers {codes.get(str(number), 'nothing')}")
            for number, each in enumerate(messages)
            if str(number) not in accepted
        }

    @property
    def longest_pause(self) -> float:
        """Seconds between two polls of a queue where nothing comes."""
        return min(max(IDLE, SHARE * len(self._sources)), LONGEST_PAUSE)

    def poll(self, request: Callable[[], Awaitable[list[Delivery]]]) -> asyncio.Task[list[Delivery]]:
        """Look for messages by *request*, as a task, when there is room for it."""

        async def work() -> list[Delivery]:
            async with self._polls, asyncio.timeout(self._patience):
                return await request()

        return self._start(work())

    def drop(self, source: "_Queue") -> None:
        """It has ended."""
        self._sources.discard(source)

    def _nudge(self, topic: str) -> None:
        """There may be a message of *topic*."""
        for each in self._sources:
            if each.topic == topic:
                each.look()

    async def on_queue(self, topic: str, operation: str, **arguments: Any) -> Any:
        """The answer to a request about the queue of *topic*, which is made if there is none, or none any more."""
        name = place(self._tenant, topic)
        url = self._urls.get(name)
        if url is not None:
            try:
                return await self._perform(operation, QueueUrl=url, **arguments)
            except ClientError as error:
                if code_of(error) not in ABSENT:
                    raise
        return await self._perform(operation, QueueUrl=await self._make(name), **arguments)

    async def _make(self, name: str) -> str:
        """The address of a queue. Making one that exists changes nothing: its settings are the operator's, none is given here."""
        made = await self._perform("create_queue", QueueName=name)
        self._urls[name] = str(made["QueueUrl"])
        return self._urls[name]

    def _check_wishes(self, topic: object, handler: object, wishes: Wishes) -> None:
        super()._check_wishes(topic, handler, wishes)
        for name in ("retry_delay", "visibility"):
            if (getattr(wishes, name) or 0) > LONGEST:
                raise TooLargeError(f"topic {topic!r}: {name} is more than {LONGEST} s")

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        await self._make(place(self._tenant, topic))  # from now on it is there, whoever has removed it
        source = _Queue(self, topic, wishes)
        self._sources.add(source)
        return source

    def _abort(self) -> None:
        self._sockets.abort()

    async def abandon(self) -> None:
        """End as if the process had been killed."""
        await super().abandon()
        await self._release()  # of connections that are no more: nobody is told


class _Queue(Source):
    """The messages of one topic."""

    def __init__(self, client: SQSMessaging, topic: str, wishes: Wishes) -> None:
        self.topic = topic
        self._hidden = LEASE if wishes.visibility is None else max(math.ceil(wishes.visibility), 1)
        self.lease = float(self._hidden)
        self._batches = wishes.batch_size is not None
        self._client = client
        self._taking = asyncio.Lock()
        self._poll: asyncio.Task[list[Delivery]] | None = None
        """The request under way: it is never given up, for its answer may hold a message."""
        self._news = asyncio.Event()
        self._pause = 0.0
        """Until the next poll; 0 while every poll finds something."""
        self._due = _now() + ATTENTIVE  # who subscribes first mostly publishes then, and so tells when to look
        """When it is time for a poll, on the clock of the loop."""
        self._hurry = False

    def look(self) -> None:
        """Poll now, and more often for a while."""
        self._pause = min(self._pause, ATTENTIVE)
        self._news.set()

    def hurry(self) -> None:
        self._hurry = True
        self._news.set()

    async def take(self, most: int) -> list[Delivery]:
        end = _now() + LOOK
        try:
            async with asyncio.timeout_at(end):
                await self._taking.acquire()  # however many handlers wait, one looks
        except TimeoutError:
            return []
        try:
            if self._poll is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(self._due, end)):
                        await self._news.wait()
            if self._poll is None:
                if self._hurry or not (self._news.is_set() or _now() >= self._due):
                    return []
                self._poll = self._client.poll(partial(self._receive, most))
            await asyncio.wait([self._poll], timeout=max(end - _now(), 0))
            return self._polled()
        finally:
            self._taking.release()

    def _polled(self) -> list[Delivery]:
        """What the poll has brought, if it has ended."""
        poll = self._poll
        if poll is None or not poll.done():
            return []
        self._poll = None
        return [] if poll.cancelled() else poll.result()

    async def _receive(self, most: int) -> list[Delivery]:
        if self._hurry:
            return []
        self._news.clear()
        answer = await self._ask(
            "receive_message",
            MaxNumberOfMessages=min(most, MOST),
            VisibilityTimeout=self._hidden,
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        found = [self._delivery(each) for each in answer.get("Messages", ())]
        if found:
            self._due = _now() + min(self._pause, ATTENTIVE)
            self._pause = 0.0
        else:
            self._pause = min(max(2 * self._pause, ATTENTIVE), self._client.longest_pause)
            self._due = _now() + self._pause
        if self._hurry:  # too late: nobody may be waiting any more
            await self._give_back(found)
            return []
        return found

    async def _give_back(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            await self.again(each, 0.0)

    def _delivery(self, received: Mapping[str, Any]) -> Delivery:
        envelope, _, payload = received["Body"].partition("\n")
        message = Message.opened(self.topic, base64.b64decode(payload), envelope)
        return Delivery(message, int(received["Attributes"]["ApproximateReceiveCount"]), received["ReceiptHandle"])

    async def done(self, delivery: Delivery) -> None:
        if self._poll is None and not self._batches and not self._hurry and _now() >= self._due:
            self._poll = self._client.poll(partial(self._receive, 1))  # for this handler's next turn, if there is much to do
        await self._ask("delete_message", ReceiptHandle=delivery.receipt)

    async def again(self, delivery: Delivery, delay: float) -> None:
        await self._hide(delivery, math.ceil(delay))
        self.look()

    async def extend(self, delivery: Delivery) -> None:
        await self._hide(delivery, self._hidden)

    async def _hide(self, delivery: Delivery, seconds: int) -> None:
        await self._ask("change_message_visibility", ReceiptHandle=delivery.receipt, VisibilityTimeout=seconds)

    async def _ask(self, operation: str, **arguments: Any) -> Any:
        return await self._client.on_queue(self.topic, operation, **arguments)

    async def close(self) -> None:
        try:
            if self._poll is not None:
                await asyncio.wait([self._poll])
            await self._give_back(self._polled())
        finally:
            self._client.drop(self)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _portions(bodies: Sequence[tuple[Message, str]]) -> Iterator[list[tuple[Message, str]]]:
    """*bodies* in portions that one request can carry."""
    portion: list[tuple[Message, str]] = []
    size = 0
    for each in bodies:
        if portion and (len(portion) == MOST or size + len(each[1]) > BODY_CHARACTERS):
            yield portion
            portion, size = [], 0
        portion.append(each)
        size += len(each[1])
    if portion:
        yield portion


async def make_messaging(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> SQSMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_AWS_URL``."""
    return await SQSMessaging.connect(await servers.connect_info(servers.moto, address), tenant_id=tenant_id)
