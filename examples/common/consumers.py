"""What the adapters of brokers share as consumers: the loop in which handlers run, and what is done with their messages.

An adapter says where the messages of a subscription come from (`Source`); when a message is done, comes again or is given up is
decided here, once for all brokers.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from examples.common import arguments
from examples.common.messages import Message, Publisher
from omnitck.shared.exceptions import InvalidArgumentError, UnavailableError
from omnitck.shared.models import ProcessingOutcome

__all__ = ["DEFAULT_GROUP", "LOOK", "Consumer", "Delivery", "Source", "Subscription", "Wishes"]

DEFAULT_GROUP = "default"

LOOK = 0.5
"""Seconds that a source looks for a message before it says that there is none. As long may a subscription take to stop."""

PAUSE = 0.05
"""Seconds until a source is asked again that has failed."""

DRAINING = 1.0
"""Seconds that handlers may go on when the client is closed. Then they are cancelled, and their messages come again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What a subscription asks for."""

    max_attempts: int = 3
    group: str = DEFAULT_GROUP
    concurrency: int = 1
    dead_letter_topic: str | None = None
    retry_delay: float = 0.0
    visibility: float | None = None
    batch_size: int | None = None


@dataclass(eq=False, slots=True)
class Delivery:
    """A message that the broker has handed out, and waits to hear of."""

    message: Message
    attempt: int
    """How often it was handed out, this time included."""
    receipt: Any = None
    """What the broker wants to be told."""


class Source(ABC):
    """Where the messages of one subscription come from. Its methods raise what the driver raises; what failed is tried again."""

    @abstractmethod
    async def take(self, most: int) -> list[Delivery]:
        """From one to *most* messages; none if there are none for about `LOOK` seconds."""

    def hurry(self) -> None:  # noqa: B027  not every source can
        """Let `take` return soon, with what it has: the subscription stops. Without it that takes up to `LOOK` seconds."""

    @abstractmethod
    async def done(self, delivery: Delivery) -> None:
        """The message is not to come again."""

    async def bury(self, delivery: Delivery, topic: str) -> bool:
        """Move the message to the dead-letter *topic* in one step.

        False where the broker cannot: then it is published there, and `done` follows.
        """
        return False

    @abstractmethod
    async def again(self, delivery: Delivery, delay: float) -> None:
        """The message is to come again, *delay* seconds from now."""

    lease: float | None = None
    """Seconds after which the broker hands a message out again unless it is told that the handler is at work; None if it needs
    no sign of life."""

    async def extend(self, delivery: Delivery) -> None:
        """Tell the broker that the handler is at work. Called every `lease` / 3 seconds."""
        raise NotImplementedError

    @abstractmethod
    async def close(self) -> None:
        """Give back what was fetched and not taken, and let go."""


class Subscription:
    """Handlers at work on one topic."""

    def __init__(self, client: "Consumer", source: Source, handler: Callable[[Any], Awaitable[Any]], wishes: Wishes) -> None:
        self._client = client
        self._source = source
        self._handler = handler
        self._wishes = wishes
        self._stopping = asyncio.Event()
        self._handling: set[asyncio.Task[Any]] = set()
        self._workers = [asyncio.create_task(self._work()) for _ in range(wishes.concurrency)]
        self._ending: asyncio.Task[None] | None = None

    async def stop(self, *, drain: bool = True) -> None:
        """Start no handler any more, and wait for those that run; without *drain* cancel them: their messages come again."""
        await self._end(None if drain else 0.0)

    async def _end(self, within: float | None) -> None:
        """Stop; handlers that run *within* seconds from now are cancelled."""
        self._stopping.set()
        self._source.hurry()
        _, late = await asyncio.wait(self._workers, timeout=within) if within != 0 else (None, self._workers)
        if late:
            for task in self._handling:
                task.cancel()
            await asyncio.wait(self._workers)  # a source and the broker have their time limits
        if self._ending is None:
            self._ending = asyncio.create_task(self._let_go())
        await asyncio.shield(self._ending)

    async def _let_go(self) -> None:
        self._client.forget(self)
        try:
            async with asyncio.timeout(self._client.patience):
                await self._source.close()
        except self._client.failures:
            logger.debug("closing a source failed", exc_info=True)

    async def abandon(self) -> None:
        """End where it is."""
        self._stopping.set()
        tasks = [*self._workers, *self._handling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        """Take messages and handle them, until stopped."""
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(LOOK + self._client.patience):
                    deliveries = await self._source.take(self._wishes.batch_size or 1)
            except Exception as error:
                self._note("take", error)
                await asyncio.sleep(PAUSE)
                continue
            if self._stopping.is_set():
                for each in deliveries:
                    await self._settle(each, None)
            elif deliveries:
                await self._handle(deliveries)

    async def _handle(self, deliveries: list[Delivery]) -> None:
        """Call the handler, and do with the messages as it says."""
        messages = [each.message.consumed(each.attempt) for each in deliveries]
        task = asyncio.create_task(self._outcomes(messages))
        self._handling.add(task)
        try:
            while not (await asyncio.wait([task], timeout=self._source.lease and self._source.lease / 3))[0]:
                for each in deliveries:
                    await self._tell(self._source.extend(each), "extend")
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            self._handling.discard(task)
        # A handler that was cancelled, by whomever, has ended nothing.
        outcomes = [ProcessingOutcome.RETRY] * len(deliveries) if task.cancelled() else task.result()
        stopped = task.cancelled() and self._stopping.is_set()
        for each, outcome in zip(deliveries, outcomes, strict=True):
            await self._settle(each, None if stopped else outcome)

    async def _outcomes(self, messages: list[Any]) -> list[ProcessingOutcome]:
        """What the handler says of each message."""
        batch = self._wishes.batch_size is not None
        try:
            said = await self._handler(messages if batch else messages[0])
        except Exception:
            logger.debug("a handler raised", exc_info=True)
            said = None
        each = said if batch and isinstance(said, list | tuple) and len(said) == len(messages) else [said] * len(messages)
        return [one if isinstance(one, ProcessingOutcome) else ProcessingOutcome.RETRY for one in each]

    async def _settle(self, delivery: Delivery, outcome: ProcessingOutcome | None) -> None:
        """End a message, or let it come again; with None nobody has handled it."""
        most = max(self._wishes.max_attempts, self._client.limits.least_attempts)
        if outcome is None:
            await self._tell(self._source.again(delivery, 0.0), "give back")
        elif outcome is ProcessingOutcome.SUCCESS:
            await self._tell(self._source.done(delivery), "acknowledge")
        elif outcome is ProcessingOutcome.RETRY and delivery.attempt < most:
            await self._tell(self._source.again(delivery, self._wishes.retry_delay), "ask again for")
        elif not await self._tell(self._give_up(delivery), "give up"):
            await self._tell(self._source.again(delivery, PAUSE), "ask again for")

    async def _give_up(self, delivery: Delivery) -> None:
        topic = self._wishes.dead_letter_topic
        if topic is not None:
            if await self._source.bury(delivery, topic):
                return
            await self._client.bury(topic, delivery.message)
        await self._source.done(delivery)

    async def _tell(self, request: Awaitable[None], what: str) -> bool:
        """Whether the broker could be told something; if not the message comes again, which is what at-least-once means."""
        try:
            async with asyncio.timeout(self._client.patience):
                await request
        except Exception as error:
            self._note(what, error)
            return False
        return True

    def _note(self, what: str, error: Exception) -> None:
        """An outage is ordinary, and the loop goes on; anything else is a mistake that somebody should see."""
        level = logging.DEBUG if isinstance(error, (*self._client.failures, TimeoutError)) else logging.ERROR
        logger.log(level, "%s failed", what, exc_info=error)


class Consumer(Publisher):
    """Base of the adapters that consume; a subclass opens the source of a subscription in `_open_source`."""

    def __init__(self, tenant_id: str | None = None, **keywords: Any) -> None:
        super().__init__(tenant_id, **keywords)
        self._subscriptions: list[Subscription] = []

    @property
    def patience(self) -> float:
        """Seconds that the broker may take to answer."""
        return self._patience

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What an outage looks like."""
        return (*self._unavailable, UnavailableError)

    async def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Awaitable[Any]],
        *,
        max_attempts: int = 3,
        group: str = DEFAULT_GROUP,
        concurrency: int = 1,
        dead_letter_topic: str | None = None,
        retry_delay: float = 0.0,
        visibility: float | None = None,
        batch_size: int | None = None,
    ) -> Subscription:
        """Let *handler* be called for each message of *topic* from now on; see `ConsumerProtocol`."""
        wishes = Wishes(
            max_attempts=max_attempts,
            group=group,
            concurrency=concurrency,
            dead_letter_topic=dead_letter_topic,
            retry_delay=retry_delay,
            visibility=visibility,
            batch_size=batch_size,
        )
        self._check_wishes(topic, handler, wishes)
        opened: list[Source] = []

        async def open() -> None:
            opened.append(await self._open_source(topic, wishes))

        try:
            await self._call(f"subscribe to {topic!r}", open())
            self._check_open()
        except BaseException:
            for each in opened:  # a moment too late: whoever asked has left, and messages must not wait for nobody
                self._start(each.close())
            raise
        subscription = Subscription(self, opened[0], handler, wishes)
        self._subscriptions.append(subscription)
        return subscription

    def _check_wishes(self, topic: object, handler: object, wishes: Wishes) -> None:
        arguments.encode_key(topic, self.limits)
        if not callable(handler):
            raise InvalidArgumentError(f"topic {topic!r}: a handler is a coroutine function, not {type(handler).__name__}")
        for capability, given in (
            ("fan_out", wishes.group != DEFAULT_GROUP),
            ("concurrency", wishes.concurrency != 1),
            ("dead_letter", wishes.dead_letter_topic is not None),
            ("nack_redelivery", wishes.retry_delay != 0),
            ("visibility_timeout", wishes.visibility is not None),
            ("batch_consume", wishes.batch_size is not None),
        ):
            if given:
                self._need(capability)
        for name in ("max_attempts", "concurrency", "batch_size"):
            number = getattr(wishes, name)
            if isinstance(number, bool) or (
                not (isinstance(number, int) and number >= 1) and (name, number) != ("batch_size", None)
            ):
                raise InvalidArgumentError(f"topic {topic!r}: {name} is a whole number from 1, not {number!r}")
        for name in ("retry_delay", "visibility"):
            seconds = getattr(wishes, name)
            if isinstance(seconds, bool) or (
                not (isinstance(seconds, int | float) and 0 <= seconds < 1e9) and seconds is not None
            ):
                raise InvalidArgumentError(f"topic {topic!r}: {name} is a number of seconds from 0, not {seconds!r}")
        for name in (wishes.group, *(() if wishes.dead_letter_topic is None else (wishes.dead_letter_topic,))):
            arguments.encode_key(name, self.limits)

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        """A source of the messages of *topic*, which get to it from now on. One that is cancelled leaves nothing behind."""
        raise NotImplementedError

    async def bury(self, topic: str, message: Message) -> None:
        """Publish *message*, which is given up, to the dead-letter *topic* as it was published."""
        await self._send(Message(topic, message.payload, message.key, message.headers, message.id))

    def forget(self, subscription: Subscription) -> None:
        """It has ended."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def close(self) -> None:
        """Stop every subscription, once its handlers have ended, and release everything."""
        self._closed = True
        await asyncio.gather(*(each._end(DRAINING) for each in self._subscriptions))
        await super().close()

    async def abandon(self) -> None:
        """End as if the process had been killed."""
        self._closed = True
        self._abort()
        await asyncio.gather(*(each.abandon() for each in self._subscriptions))
        await super().abandon()
