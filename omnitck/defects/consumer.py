"""Broken consumers, in the order of the rules that reject them."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.broker import DEFAULT_GROUP, Entry, MemoryBroker, Queue
from omnitck.reference.client import Cell
from omnitck.reference.consumer import MemoryConsumer, MemorySubscription
from omnitck.shared.exceptions import InvalidArgumentError, TopicNotFoundError
from omnitck.shared.models import ConsumedMessage, ProcessingOutcome

SUCCESS, RETRY, FAIL = ProcessingOutcome.SUCCESS, ProcessingOutcome.RETRY, ProcessingOutcome.FAIL

Subscription = TypeVar("Subscription", bound=type[MemorySubscription])


def breaks_subscriptions(*rules: str, without: str = "") -> Callable[[Subscription], Subscription]:
    """Register the consumer that has subscriptions of this class, as `breaks` does."""

    def decorate(subscription: Subscription) -> Subscription:
        members = {"__doc__": subscription.__doc__, "__module__": __name__, "subscription_type": subscription}
        breaks(*rules, without=without)(type(subscription.__name__, (MemoryConsumer,), members))
        return subscription

    return decorate


class Broken(MemorySubscription):
    """Base of a defect in a subscription."""

    @property
    def backend(self) -> MemoryBroker:
        """The broker."""
        return self.client.backend

    @property
    def queue(self) -> Queue:
        """The queue that it reads."""
        return self.backend.queue(self.cell, self.group)

    def finish(self, entry: Entry) -> None:
        """Acknowledge a message."""
        self.backend.finish(self.cell, self.group, entry)


class Between(Broken):
    """Base of a defect between the loop and the handler."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.whole, self.handler = self.handler, self.call

    async def call(self, message: Any) -> object:
        """Call the handler."""
        return await self.whole(message)


# The common family

break_with(
    MemoryConsumer,
    {
        clients.UnknownCapability: "CON-COM-02",
        clients.CapabilitiesAsText: "CON-COM-02",
        clients.LowLimit: "CON-COM-02",
        clients.StaleAdvertisement: "CON-COM-04",
        clients.DoubleRelease: "CON-COM-07",
        clients.SilentReconnect: "CON-COM-08",
        clients.SwallowingExit: "CON-COM-09",
        clients.SharedPool: "CON-COM-06 CON-COM-10 CON-04 MT-16",
        clients.OrphanedTask: "CON-COM-11",
        clients.BreakingClose: "CON-COM-11",
        clients.LeakingVendorError: "CON-COM-12",
        clients.NoCause: "CON-COM-12",
        clients.SwallowedCancellation: "CON-COM-14",
        clients.DefaultOnCancellation: "CON-COM-14",
        clients.CrossedReply: "CON-COM-14 CON-COM-15 MT-15",
        clients.CoercedKey: "CON-COM-19",
        clients.NormalisedKey: "CON-COM-20",
        clients.DecodedKey: "CON-COM-20 MT-07",
        clients.TruncatedKey: "CON-COM-21",
        clients.LimitInCharacters: "CON-COM-21",
        clients.BlockingCall: "CON-COM-23",
        clients.PrintedPassword: "CON-COM-24",
        clients.CrashedWorker: "CON-COM-25",
        clients.CancelsItsCaller: "CON-COM-26",
        clients.ForgottenTimer: "CON-COM-26",
    },
)


@breaks("CON-COM-01", "CON-COM-04")
class RenamedParameter(MemoryConsumer):
    """`subscribe` calls its handler `callback`."""

    async def subscribe(
        self,
        topic: str,
        callback: Callable[[Any], Awaitable[object]],
        *,
        max_attempts: int = 3,
        group: str = DEFAULT_GROUP,
        concurrency: int = 1,
        dead_letter_topic: str | None = None,
        retry_delay: float = 0.0,
        visibility: float | None = None,
        batch_size: int | None = None,
    ) -> MemorySubscription:
        return await super().subscribe(
            topic,
            callback,
            max_attempts=max_attempts,
            group=group,
            concurrency=concurrency,
            dead_letter_topic=dead_letter_topic,
            retry_delay=retry_delay,
            visibility=visibility,
            batch_size=batch_size,
        )


@breaks("CON-COM-03", without="nack_redelivery")
class IgnoredDelay(MemoryConsumer):
    """`retry_delay` is taken, and nothing is done with it."""

    async def subscribe(self, *arguments: Any, retry_delay: float = 0.0, **keywords: Any) -> MemorySubscription:
        return await super().subscribe(*arguments, **keywords)


@breaks("CON-COM-05", "CON-COM-06", "CON-03", "CON-04", "MT-17")
class ExclusiveQueue(MemoryConsumer):
    """A queue belongs to the first client that listens to it, and others wait for nothing."""

    async def subscribe(self, topic: str, *arguments: Any, **keywords: Any) -> MemorySubscription:
        subscription = await super().subscribe(topic, *arguments, **keywords)
        owners = self.backend.__dict__.setdefault("owners", {})
        if owners.setdefault((subscription.cell, subscription.group), self) is not self:
            await subscription.stop()
        return subscription


@breaks("CON-COM-13")
class QuotedHandler(MemoryConsumer):
    """The error of a handler that is none quotes it."""

    async def subscribe(self, topic: str, handler: Any, **keywords: Any) -> MemorySubscription:
        if not callable(handler):
            raise InvalidArgumentError(f"topic {topic!r}: {handler!r} is no handler")
        return await super().subscribe(topic, handler, **keywords)


@breaks("CON-COM-18", "CON-COM-15", "CON-02", "MT-14")
class LastTopic(MemoryConsumer):
    """Subscriptions that begin at once share the channel, and the topic that was set on it last."""

    topic = ""

    async def subscribe(self, topic: str, *arguments: Any, **keywords: Any) -> MemorySubscription:
        self.check_key(topic)
        self.topic = topic
        await self.turn()
        return await super().subscribe(self.topic, *arguments, **keywords)


# One message


class Altered(Broken):
    """Base of a defect that changes a message on its way to the handler."""

    def message(self, entry: Entry) -> ConsumedMessage:
        return self.altered(super().message(entry))

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        """What the handler gets in the place of *message*."""
        return message


@breaks_subscriptions(
    "CON-01", "CON-03", "CON-05", "CON-11", "CON-12", "CON-14", "CON-17", "CON-18", "CON-24", "CON-25", "CON-28"
)
class BytesValues(Altered):
    """Values of headers come as the bytes that the wire has."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        headers: Any = {name: value.encode() for name, value in message.headers.items()}
        return replace(message, headers=headers)


@breaks_subscriptions("CON-01", "CON-03", "CON-05", "CON-11", "CON-12", "CON-14", "CON-17", "CON-18", "CON-25")
class RoutedKey(Altered):
    """The key has chosen a partition, and is not in the message."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, key=None)


@breaks_subscriptions("CON-01", "CON-24", "CON-28")
class EmptyKey(Altered):
    """No key comes as an empty one."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, key=message.key or "")


@breaks_subscriptions("CON-31")
class FullName(Altered):
    """The topic of a message is its full name in the broker."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, topic=f"persistent://{self.cell.tenant}/{message.topic}")


@breaks_subscriptions("CON-31")
class CountedFromZero(Altered):
    """The first delivery has the number 0: it counts the redeliveries."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, delivery_attempt=message.delivery_attempt - 1)


@breaks_subscriptions("CON-31")
class NoId(Altered):
    """The publisher sets the id of a message, or nobody does."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, message_id="")


@breaks("CON-02")
class BoundLater(MemoryConsumer):
    """`subscribe` returns before the broker has bound its queues, which it does one after another."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.unbound: list[MemorySubscription] = []

    def start(self, subscription: MemorySubscription) -> None:
        bound = self.backend.__dict__.setdefault("bound", set())
        if (subscription.cell, subscription.group) in bound:
            super().start(subscription)
            return

        bound.add((subscription.cell, subscription.group))
        self.unbound.append(subscription)
        if len(self.unbound) == 1:
            self.tasks.start_soon(self.bind)

    async def bind(self) -> None:
        """Let each subscription have what is published from now on."""
        while self.unbound:
            subscription = self.unbound[0]
            self.backend.queue(subscription.cell, subscription.group).entries.clear()
            super().start(subscription)
            await anyio.lowlevel.checkpoint()
            self.unbound.pop(0)


# Acknowledgement


@breaks_subscriptions(
    "CON-03",
    "CON-05",
    "CON-06",
    "CON-07",
    "CON-08",
    "CON-09",
    "CON-11",
    "CON-13",
    "CON-17",
    "CON-18",
    "CON-20",
    "CON-25",
    "CON-27",
    "CON-29",
)
class AutoAck(Broken):
    """The broker forgets a message when it has sent it."""

    async def handle(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.finish(entry)
        await super().handle(entries)


@breaks_subscriptions("CON-03", "CON-17", "CON-20")
class AckBeforeHandler(Broken):
    """A message is acknowledged when its handler begins, and published again if it asks for that."""

    async def handle(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.finish(entry)
        await super().handle(entries)

    def settle(self, entry: Entry, outcome: object) -> None:
        self.queue.entries.insert(0, entry)
        super().settle(entry, outcome)


@breaks_subscriptions("CON-04", "CON-14", "CON-17", "CON-18")
class NeverAcknowledged(Broken):
    """What succeeded is not acknowledged, and comes again when the broker has waited long enough."""

    def settle(self, entry: Entry, outcome: object) -> None:
        if outcome is SUCCESS and self.backend.reachable:
            self.backend.give_back(entry, after=self.client.numbers().redeliver)
        else:
            super().settle(entry, outcome)


@breaks_subscriptions("CON-04", "CON-17", "CON-18", "CON-19", "CON-21", "MT-21")
class LastNotAcknowledged(Broken):
    """Acknowledgements are sent with the next message, and the last one never."""

    succeeded: Entry | None = None

    def settle(self, entry: Entry, outcome: object) -> None:
        if self.succeeded is not None:
            self.finish(self.succeeded)
            self.succeeded = None
        if outcome is SUCCESS and self.backend.reachable:
            self.succeeded = entry
        else:
            super().settle(entry, outcome)

    async def stop(self, *, drain: bool = True) -> None:
        await super().stop(drain=drain)
        if self.succeeded is not None:
            self.backend.give_back(self.succeeded)


class Redelivered(Broken):
    """Base of a defect that changes a message when it comes again."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, outcome)
        if entry.holder is None:
            entry.message = self.again(entry.message)

    def again(self, message: ConsumedMessage) -> ConsumedMessage:
        """What comes the next time in the place of *message*."""
        return message


@breaks_subscriptions("CON-05", "CON-11", "CON-18", "CON-25")
class HeadersLost(Redelivered):
    """A message that is published again for a RETRY has no headers."""

    def again(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers={})


@breaks_subscriptions("CON-05", "CON-11", "CON-18", "CON-25")
class CountedInHeaders(Redelivered):
    """How often a message was tried is written to its headers."""

    def again(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers={**message.headers, "x-retry-count": "1"})


@breaks_subscriptions("CON-05", "CON-06", "CON-07", "CON-08", "CON-09", "CON-11", "CON-13", "CON-18", "CON-25", "CON-29")
class EncodedAgain(Redelivered):
    """The payload of a message that is published again is encoded once more."""

    def again(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, payload=base64.b64encode(message.payload))


@breaks_subscriptions("CON-31")
class NewId(Redelivered):
    """A message that is published again has another id."""

    def again(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, message_id=self.backend.new_id())


@breaks_subscriptions("CON-31")
class StuckCounter(Altered):
    """Every delivery is the first."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, delivery_attempt=1)


@breaks_subscriptions("CON-06", "CON-07")
class SwallowedException(Between):
    """An exception of the handler is logged, and the message is acknowledged."""

    async def call(self, message: Any) -> object:
        try:
            return await self.whole(message)
        except Exception:
            return SUCCESS


@breaks_subscriptions("CON-06", "CON-07")
class LoopEndsWithException(Between):
    """The first exception of a handler is the last thing that the loop does."""

    async def call(self, message: Any) -> object:
        try:
            return await self.whole(message)
        except Exception:
            self.stopping = True
            raise


@breaks_subscriptions("CON-06", "CON-07")
class ExceptionFails(Between):
    """An exception of the handler is a FAIL."""

    async def call(self, message: Any) -> object:
        try:
            return await self.whole(message)
        except Exception:
            return FAIL


@breaks_subscriptions("CON-07")
class LoopEndsWithCancellation(Between):
    """A `CancelledError` is taken for the end of the loop, whoever raised it."""

    async def call(self, message: Any) -> object:
        try:
            return await self.whole(message)
        except asyncio.CancelledError:
            self.stopping = True
            raise


@breaks_subscriptions("CON-07")
class TimeoutOfThePoll(Between):
    """A `TimeoutError` means that there was no message."""

    async def call(self, message: Any) -> object:
        try:
            return await self.whole(message)
        except TimeoutError:
            return SUCCESS


class Read(Broken):
    """Base of a defect that takes what is no outcome for one."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, self.read(outcome) if not isinstance(outcome, ProcessingOutcome) else outcome)

    def read(self, said: object) -> object:
        """What a handler means that has *said* this."""
        return said


@breaks_subscriptions("CON-08")
class TrueIsSuccess(Read):
    """`if outcome:` acknowledges."""

    def read(self, said: object) -> object:
        return SUCCESS if said else RETRY


@breaks_subscriptions("CON-08")
class NoneIsSuccess(Read):
    """A handler without `return` has succeeded, since it has not raised."""

    def read(self, said: object) -> object:
        return SUCCESS if said is None else RETRY


@breaks_subscriptions("CON-08")
class NameOfOutcome(Read):
    """The name of an outcome is as good as the outcome."""

    def read(self, said: object) -> object:
        return ProcessingOutcome.__members__.get(str(said), RETRY)


@breaks_subscriptions("CON-08")
class UnknownFails(Read):
    """What is no outcome is a FAIL."""

    def read(self, said: object) -> object:
        return FAIL


# Giving up


@breaks_subscriptions("CON-09", "CON-11")
class OneTooMany(Broken):
    """`max_attempts` are the attempts that follow the first."""

    def settle(self, entry: Entry, outcome: object) -> None:
        self.max_attempts += 1
        super().settle(entry, outcome)
        self.max_attempts -= 1


@breaks_subscriptions("CON-09", "CON-05", "CON-11")
class OneTooFew(Broken):
    """The last attempt is not made."""

    def settle(self, entry: Entry, outcome: object) -> None:
        whole = self.max_attempts
        self.max_attempts = max(whole - 1, 1)
        super().settle(entry, outcome)
        self.max_attempts = whole


@breaks_subscriptions("CON-09", "CON-11")
class Endless(Broken):
    """A message comes again until it succeeds."""

    async def handle(self, entries: list[Entry]) -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        await super().handle(entries)

    def settle(self, entry: Entry, outcome: object) -> None:
        if outcome in (SUCCESS, FAIL):
            super().settle(entry, outcome)
        else:
            self.backend.give_back(entry, after=self.retry_delay)


@breaks_subscriptions("CON-09", "CON-10", "CON-11", "CON-12", "CON-29")
class BlockedHead(Broken):
    """What is given up stays at the head of the queue, and nothing passes it."""

    def give_up(self, entry: Entry) -> None:
        super().give_up(entry)
        self.stopping = True


@breaks_subscriptions("CON-10", "CON-12", "CON-29")
class FailIsRetry(Broken):
    """FAIL is a RETRY."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, RETRY if outcome is FAIL else outcome)


# dead_letter


class Buried(Broken):
    """Base of a defect that changes dead letters."""

    def give_up(self, entry: Entry) -> None:
        entry.message = self.letter(entry.message)
        super().give_up(entry)

    def letter(self, message: ConsumedMessage) -> ConsumedMessage:
        """What is in the dead-letter topic in the place of *message*."""
        return message


@breaks_subscriptions("CON-11", "CON-12", "CON-25")
class KeyLostInDeath(Buried):
    """A dead letter has no key."""

    def letter(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, key=None)


@breaks_subscriptions("CON-11", "CON-12", "CON-25")
class ReasonOfDeath(Buried):
    """The headers of a dead letter say why it is one."""

    def letter(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers={**message.headers, "x-death": "rejected"})


@breaks_subscriptions("CON-11", "CON-12", "CON-13", "CON-25")
class Envelope(Buried):
    """A dead letter is a document that holds the message."""

    def letter(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, payload=json.dumps({"body": base64.b64encode(message.payload).decode()}).encode())


@breaks_subscriptions("CON-11", "CON-12")
class InBothTopics(Broken):
    """A dead letter is a copy: the message stays where it was, for one more attempt."""

    def give_up(self, entry: Entry) -> None:
        if self.dead_letters is None or entry.attempts > self.max_attempts:
            super().give_up(entry)
        else:
            self.backend.deliver(self.dead_letters, entry.message)
            entry.attempts = self.max_attempts
            self.backend.give_back(entry)


@breaks_subscriptions("CON-11")
class LetterForEachAttempt(Broken):
    """Each attempt that does not succeed leaves a dead letter."""

    def settle(self, entry: Entry, outcome: object) -> None:
        again = entry.attempts < self.max_attempts and outcome is RETRY
        if again and self.dead_letters is not None and self.backend.reachable:
            self.backend.deliver(self.dead_letters, entry.message)
        super().settle(entry, outcome)


@breaks_subscriptions("CON-12")
class LetterAfterAllAttempts(Broken):
    """Where there is a dead-letter topic, FAIL has to wait for the broker's count."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, RETRY if outcome is FAIL and self.dead_letters is not None else outcome)


@breaks_subscriptions("CON-12", "CON-25", "CON-13")
class FailedIsDropped(Broken):
    """What fails is dropped: a dead letter is only what was tried often enough."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, SUCCESS if outcome is FAIL else outcome)


@breaks_subscriptions("CON-13")
class AcknowledgedFirst(Broken):
    """A message is acknowledged, and then its dead letter is written, if that can be done."""

    def settle(self, entry: Entry, outcome: object) -> None:
        if outcome is FAIL and not self.backend.reachable:
            self.finish(entry)
        else:
            super().settle(entry, outcome)


# Several consumers


@breaks("CON-14", "CON-COM-06", "CON-03", "CON-26", "MT-17")
class Broadcast(MemoryConsumer):
    """Each client has a queue of its own, and all get everything."""

    async def subscribe(self, *arguments: Any, group: str = DEFAULT_GROUP, **keywords: Any) -> MemorySubscription:
        return await super().subscribe(*arguments, group=f"{group}-{id(self)}", **keywords)


@breaks_subscriptions("CON-14", "CON-17", "CON-26")
class NotHidden(Broken):
    """A message that is handled is not hidden from others."""

    async def handle(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.backend.give_back(entry)
        await anyio.lowlevel.checkpoint()
        await super().handle(entries)


@breaks("CON-15")
class SharedQueue(MemoryConsumer):
    """All groups of a topic share one queue."""

    async def subscribe(self, *arguments: Any, group: str = DEFAULT_GROUP, **keywords: Any) -> MemorySubscription:
        return await super().subscribe(*arguments, **keywords)


@breaks_subscriptions("CON-16")
class Serial(Broken):
    """One handler runs at a time, whatever is wanted."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.workers = 1


@breaks_subscriptions("CON-16")
class AllAtOnce(Broken):
    """Everything that was fetched ahead is handled at once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.workers = 10


@breaks_subscriptions("CON-16")
class OneMore(Broken):
    """One handler more runs than is wanted."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.workers += 1


# ordering_by_key


@breaks_subscriptions("CON-17", "CON-18")
class ParallelDispatch(Broken):
    """Messages are given to whatever handler is free."""

    def ordered(self) -> bool:
        return False


@breaks_subscriptions("CON-18")
class BackOfTheQueue(Redelivered):
    """What asks for RETRY goes to the end of the queue."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, outcome)
        entries = self.queue.entries
        if entry.holder is None and entry in entries:
            entries.append(entries.pop(entries.index(entry)))


@breaks_subscriptions("CON-31", "CON-18")
class PublishedAgain(BackOfTheQueue):
    """What asks for RETRY is published as a new message."""

    def again(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, message_id=self.backend.new_id())


@breaks_subscriptions("CON-18")
class WaitingLoop(Broken):
    """The loop itself waits for the end of `retry_delay`."""

    async def handle(self, entries: list[Entry]) -> None:
        await super().handle(entries)
        with anyio.CancelScope() as scope:
            self.waiting.add(scope)
            while any(each.holder is None and each.due > self.backend.clock.now() for each in entries) and not self.stopping:
                await self.backend.changed.wait()
        self.waiting.discard(scope)


# stopping


@breaks_subscriptions("CON-19", "CON-COM-06", "CON-COM-15", "CON-20")
class FetchedAndAcknowledged(Broken):
    """What was fetched ahead is acknowledged when the subscription stops."""

    async def stop(self, *, drain: bool = True) -> None:
        await super().stop(drain=drain)
        for entry in [each for each in self.queue.entries if each.holder is None][:10]:
            self.finish(entry)


@breaks_subscriptions("CON-19", "CON-COM-06", "CON-COM-15", "CON-20")
class FetchedAndLost(Broken):
    """What was fetched ahead belongs to a subscription that has stopped, for as long as its client lives."""

    async def stop(self, *, drain: bool = True) -> None:
        await super().stop(drain=drain)
        for entry in [each for each in self.queue.entries if each.holder is None][:10]:
            entry.holder = self


@breaks_subscriptions("CON-19", "CON-20")
class StopsAtOnce(Broken):
    """`stop` does not wait for the handlers that run."""

    async def stop(self, *, drain: bool = True) -> None:
        self.end(drain=drain)


@breaks_subscriptions("CON-19")
class NeverDrains(Broken):
    """`stop` cancels the handlers that run."""

    def end(self, *, drain: bool) -> None:
        super().end(drain=False)


@breaks_subscriptions("CON-20")
class AckInFinally(Broken):
    """The acknowledgement is in a `finally`, and a handler that is cancelled gets there too."""

    def dropped(self, entries: list[Entry]) -> None:
        if not self.client.gone:
            for entry in entries:
                self.finish(entry)


@breaks_subscriptions("CON-20")
class HeldByTheStopped(Broken):
    """What a cancelled handler had stays with its subscription."""

    def dropped(self, entries: list[Entry]) -> None:
        pass


@breaks(
    "CON-21",
    "CON-COM-05",
    "CON-COM-06",
    "CON-COM-10",
    "CON-COM-15",
    "CON-COM-18",
    "CON-COM-20",
    "CON-COM-21",
    "CON-03",
    "CON-19",
    "CON-20",
    "MT-01",
    "MT-02",
    "MT-07",
    "MT-09",
    "MT-10",
    "MT-12",
    "MT-13",
    "MT-14",
    "MT-15",
    "MT-16",
    "MT-17",
    "MT-20",
)
class Latest(MemoryConsumer):
    """A subscription begins at the end of its queue."""

    def start(self, subscription: MemorySubscription) -> None:
        queue = self.backend.queue(subscription.cell, subscription.group)
        queue.entries = [each for each in queue.entries if each.holder is not None]
        super().start(subscription)


@breaks_subscriptions("CON-21", "CON-19", "CON-20")
class LateStop(Broken):
    """A subscription learns that it was stopped when it has handled its next message."""

    async def stop(self, *, drain: bool = True) -> None:
        self.stopping = True


# Going on


class Taken(Between):
    """Base of a defect in which handlers take turns."""

    def lock(self) -> anyio.Lock:
        """What a handler holds while it runs."""
        raise NotImplementedError

    async def call(self, message: Any) -> object:
        async with self.lock():
            return await self.whole(message)


@breaks_subscriptions("CON-22", "CON-16")
class OneLoop(Taken):
    """All subscriptions of a client share one loop."""

    def lock(self) -> anyio.Lock:
        lock: anyio.Lock = self.client.__dict__.setdefault("lock", anyio.Lock())
        return lock


@breaks_subscriptions("CON-22", "CON-COM-15")
class StopsEverything(Broken):
    """To stop one subscription closes the channel of all."""

    async def stop(self, *, drain: bool = True) -> None:
        await super().stop(drain=drain)
        for each in self.client.subscriptions:
            each.end(drain=drain)


@breaks_subscriptions("CON-23", "CON-16", "CON-18")
class Deaf(Broken):
    """What arrives while a handler runs is noticed with what arrives next."""

    async def handle(self, entries: list[Entry]) -> None:
        before = list(self.queue.entries)
        await super().handle(entries)
        if any(each not in before for each in self.queue.entries) and not self.stopping:
            with anyio.CancelScope() as scope:
                self.waiting.add(scope)
                await self.backend.changed.wait()
            self.waiting.discard(scope)


@breaks_subscriptions("CON-24")
class NowAndThenTwice(Broken):
    """After a hundred messages an acknowledgement in ten is lost."""

    settled = 0

    def settle(self, entry: Entry, outcome: object) -> None:
        self.settled += 1
        if self.settled > 100 and self.settled % 10 == 0:
            self.backend.give_back(entry)
        else:
            super().settle(entry, outcome)


@breaks_subscriptions("CON-25")
class NoRoomForMore(Broken):
    """To be published again, a message must also have room for what is then written to its headers."""

    def settle(self, entry: Entry, outcome: object) -> None:
        full = len(entry.message.payload) == self.client.limits.value_bytes
        super().settle(entry, FAIL if full and outcome is RETRY else outcome)


# visibility_timeout, nack_redelivery


@breaks_subscriptions("CON-26")
class UnextendedLease(Broken):
    """Nobody extends the lease of a message while its handler runs."""

    async def handle(self, entries: list[Entry]) -> None:
        until = self.backend.clock.now() + self.client.numbers().redeliver
        for entry in entries:
            self.client.tasks.start_soon(self.expire, entry, entry.attempts, until)
        await super().handle(entries)

    async def expire(self, entry: Entry, attempt: int, until: float) -> None:
        """Let others have *entry* after the time *until*."""
        while self.backend.clock.now() < until:
            await self.backend.changed.wait()
        if entry.holder is self and entry.attempts == attempt:
            self.backend.give_back(entry)


@breaks_subscriptions("CON-27")
class WholeVisibility(Broken):
    """RETRY only lets go of the message, and the broker waits until its lease is over."""

    def settle(self, entry: Entry, outcome: object) -> None:
        super().settle(entry, outcome)
        if entry.holder is None:
            self.backend.give_back(entry, after=self.client.numbers().redeliver)


@breaks_subscriptions("CON-27", "CON-18")
class HotLoop(Broken):
    """`retry_delay` is forgotten, and a message comes again at once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.retry_delay = 0.0


@breaks_subscriptions("CON-27")
class MillisecondsOfDelay(Broken):
    """`retry_delay` is taken for milliseconds."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.retry_delay /= 1000


# The network


@breaks_subscriptions("CON-28", "CON-13")
class DeadAfterReconnect(Broken):
    """A consumer whose connection was cut does not subscribe again."""

    async def next_entries(self) -> list[Entry]:
        if not self.backend.reachable:
            self.stopping = True
            return []
        return await super().next_entries()


# batch_consume


@breaks_subscriptions("CON-29")
class AllOrNone(Between):
    """A batch is acknowledged if all of it succeeded."""

    async def call(self, message: Any) -> object:
        said: Any = await self.whole(message)
        return said if self.batch_size is None or all(each is SUCCESS for each in said) else [RETRY] * len(said)


@breaks_subscriptions("CON-29")
class LastOutcome(Between):
    """The acknowledgement of a batch is that of its last message, and of all before it."""

    async def call(self, message: Any) -> object:
        said: Any = await self.whole(message)
        return said if self.batch_size is None else [said[-1]] * len(said)


# validation


@breaks("CON-30", "CON-COM-13")
class ZeroIsForEver(MemoryConsumer):
    """`max_attempts=0` is taken, and means that there is no end."""

    async def subscribe(self, *arguments: Any, max_attempts: int = 3, **keywords: Any) -> MemorySubscription:
        most = 2**31 if type(max_attempts) is int and max_attempts == 0 else max_attempts
        return await super().subscribe(*arguments, max_attempts=most, **keywords)


@breaks("CON-30")
class RoundedAttempts(MemoryConsumer):
    """`max_attempts` is whatever `int` makes of it."""

    async def subscribe(self, *arguments: Any, max_attempts: Any = 3, **keywords: Any) -> MemorySubscription:
        try:
            return await super().subscribe(*arguments, max_attempts=int(max_attempts), **keywords)
        except TypeError as error:
            raise InvalidArgumentError("max_attempts is no number") from error


@breaks("CON-30", "CON-COM-13")
class AnyHandler(MemoryConsumer):
    """Whether a handler can be called is seen when there is a message for it."""

    async def subscribe(self, topic: str, handler: Any, **keywords: Any) -> MemorySubscription:
        async def handle(message: Any) -> Any:
            return await handler(message)

        return await super().subscribe(topic, handle, **keywords)


# Tenants

break_with(
    MemoryConsumer,
    {
        **tenants.EVERYWHERE,
        tenants.InstanceIsTenant: "MT-01 MT-02 MT-04 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-20 MT-21",
        tenants.FoldedTenant: "MT-07 MT-09 MT-12 MT-13",
        tenants.IgnoredTenant: "MT-01 MT-02 MT-04 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-20 MT-21",
        tenants.JoinedByColon: "MT-07",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        tenants.ParsedTenant: "MT-20",
    },
)


@breaks("MT-02", "MT-01", "MT-04", "MT-09", "MT-10", "MT-12", "MT-13", "MT-15")
class PurgedElsewhere(MemoryConsumer):
    """A subscription that ends removes what waits under its topic for any tenant."""

    class Purging(Broken):
        async def stop(self, *, drain: bool = True) -> None:
            await super().stop(drain=drain)
            for cell in tenants.elsewhere(self.client, self.cell.name):
                self.backend.topics[cell][DEFAULT_GROUP].entries.clear()

    subscription_type = Purging


@breaks("MT-03")
class Forbidden(MemoryConsumer):
    """A topic that only others have is forbidden, and one that nobody has is made."""

    async def subscribe(self, topic: str, *arguments: Any, **keywords: Any) -> MemorySubscription:
        if self.cell(topic) not in self.backend.cells() and tenants.elsewhere(self, topic):
            raise TopicNotFoundError(f"topic {topic!r} belongs to another tenant")
        return await super().subscribe(topic, *arguments, **keywords)


@breaks("MT-04")
class StealsWhatWaits(MemoryConsumer):
    """A subscription with a dead-letter topic takes what waits under its topic for any tenant."""

    async def subscribe(self, topic: str, *arguments: Any, **keywords: Any) -> MemorySubscription:
        if keywords.get("dead_letter_topic") is not None:
            for cell in tenants.elsewhere(self, topic):
                self.backend.topics[cell][DEFAULT_GROUP].entries.clear()
        return await super().subscribe(topic, *arguments, **keywords)


@breaks("MT-05")
class ListsOwners(MemoryConsumer):
    """The error of a subscription that is refused lists all who have the topic."""

    async def subscribe(self, topic: str, *arguments: Any, **keywords: Any) -> MemorySubscription:
        try:
            return await super().subscribe(topic, *arguments, **keywords)
        except (TypeError, InvalidArgumentError) as error:
            owners = ", ".join(str(cell.tenant) for cell in tenants.elsewhere(self, topic)) if isinstance(topic, str) else ""
            raise InvalidArgumentError(f"{error} (others: {owners})") from error


@breaks("MT-08")
class JoinedByNothing(MemoryConsumer):
    """Tenant and topic are joined without anything between: of two queues with one name, the older is read."""

    def cell(self, key: str) -> Cell:
        cell = super().cell(key)
        joined = (cell.tenant or "") + cell.name
        return next((each for each in self.backend.cells() if (each.tenant or "") + each.name == joined), cell)


@breaks("MT-13")
class HearsAll(MemoryConsumer):
    """Without a tenant one consumes what any tenant has under the topic."""

    def cell(self, key: str) -> Cell:
        cell = super().cell(key)
        alike = [each for each in self.backend.cells() if each.name == key and each.tenant is not None]
        return alike[0] if alike and cell.tenant is None else cell


@breaks("MT-14")
class CurrentTenant(MemoryConsumer):
    """The current tenant is a global that is set before each subscription."""

    async def subscribe(self, *arguments: Any, **keywords: Any) -> MemorySubscription:
        self.backend.__dict__["tenant"] = self.tenant_id
        return await super().subscribe(*arguments, **keywords)

    def cell(self, key: str) -> Cell:
        return super().cell(key)._replace(tenant=self.backend.__dict__.get("tenant", self.tenant_id))


@breaks("MT-21")
class OneChannel(MemoryConsumer):
    """While a consumer listens, it is also told what is published under its topic for other tenants."""

    class Overhearing(Broken):
        async def work(self) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.overhear)
                await super().work()
                tasks.cancel_scope.cancel()

        def theirs(self) -> list[ConsumedMessage]:
            """What waits for other tenants."""
            cells = tenants.elsewhere(self.client, self.cell.name)
            return [each.message for cell in cells for each in self.backend.topics[cell][DEFAULT_GROUP].entries]

        async def overhear(self) -> None:
            """Handle what is published for other tenants."""
            told = self.theirs()
            while True:
                await self.backend.changed.wait()
                for message in self.theirs():
                    if message not in told:
                        told.append(message)
                        await self.handler(message)

    subscription_type = Overhearing


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryConsumer | Broken)]
