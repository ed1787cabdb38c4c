"""The contract `consumer`: a message comes until its handler has ended it, and not again.

`subscribe` returns once the subscription is active; what is published from then on is delivered. A message is acknowledged
after its handler has said so: every other end of a handler, its death included, lets the message come again.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import anyio
import anyio.lowlevel

from omnitck.common.clients import Lifecycle
from omnitck.instruments.history.queues import Order
from omnitck.kit.clients import Hung, raw
from omnitck.kit.concurrency import Call, attempt, gather, together
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.outcomes import Violation
from omnitck.kit.rules import rule
from omnitck.kit.text import describe
from omnitck.kit.trial import Plain, Trial
from omnitck.messaging.topics import (
    ROUNDING_SECONDS,
    TOPIC_HOOKS,
    Act,
    Inbox,
    MessagingRules,
    MessagingTrial,
    TopicCells,
    Traffic,
    Worker,
)
from omnitck.shared.exceptions import InvalidArgumentError
from omnitck.shared.models import ConsumedMessage, MessageLimits, ProcessingOutcome

__all__ = [
    "BatchConsume",
    "Concurrency",
    "ConsumerContract",
    "ConsumerProtocol",
    "DeadLetter",
    "DeliveryMetadata",
    "FanOut",
    "FullConsumer",
    "Handler",
    "NackRedelivery",
    "OrderingByKey",
    "Stopping",
    "Subscription",
    "VisibilityTimeout",
]

Handler = Callable[[ConsumedMessage], Awaitable[ProcessingOutcome]]

SUCCESS, RETRY, FAIL = ProcessingOutcome.SUCCESS, ProcessingOutcome.RETRY, ProcessingOutcome.FAIL


class ConsumerProtocol(Protocol):
    """What every consumer does."""

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3) -> object:
        """Let *handler* be called for each message of *topic*, one at a time; the subscription is active on return.

        The handler is a coroutine function: it takes a message, and returns a `ProcessingOutcome`.
        SUCCESS ends a message. RETRY, an exception, and whatever is no outcome let it come again, until it was tried
        *max_attempts* times. FAIL gives it up at once. A message has `payload`, `key` and `headers`.
        """
        ...


class Stopping(Protocol):
    """Capability `stopping`: a subscription can be stopped, and what comes then waits for the next."""

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3) -> "Subscription":
        """The result has `async def stop(self, *, drain: bool = True)`, which lets no handler start any more.

        With *drain* it waits for those that run; else it cancels them, and their messages come again.
        """
        ...


class Subscription(Protocol):
    """Handlers at work on one topic."""

    async def stop(self, *, drain: bool = True) -> None:
        """See `Stopping.subscribe`."""
        ...


class DeliveryMetadata(Protocol):
    """Capability `delivery_metadata`: a message has `topic`, a lasting `message_id`, and `delivery_attempt`, from 1."""


class FanOut(Protocol):
    """Capability `fan_out`: each group of consumers gets every message; those of one group share them."""

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3, group: str = "default") -> object: ...


class Concurrency(Protocol):
    """Capability `concurrency`: several handlers of one subscription at a time."""

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3, concurrency: int = 1) -> object: ...


class DeadLetter(Protocol):
    """Capability `dead_letter`: what is given up goes to another topic, as it was published."""

    async def subscribe(
        self, topic: str, handler: Handler, *, max_attempts: int = 3, dead_letter_topic: str | None = None
    ) -> object: ...


class OrderingByKey(Protocol):
    """Capability `ordering_by_key`: messages of one key come one after another, in the order of their publication.

    One that is tried again holds up those behind it, and no other key.
    """


class NackRedelivery(Protocol):
    """Capability `nack_redelivery`: after RETRY a message comes again within `deliver`, *retry_delay* seconds later."""

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3, retry_delay: float = 0.0) -> object: ...


class VisibilityTimeout(Protocol):
    """Capability `visibility_timeout`: how long a message stays hidden from others after its handler's last sign of life."""

    async def subscribe(self, topic: str, handler: Handler, *, max_attempts: int = 3, visibility: float | None = None) -> object:
        """*visibility* in seconds; while a handler runs, the provider gives the signs of life."""
        ...


class BatchConsume(Protocol):
    """Capability `batch_consume`: with *batch_size* the handler gets a list of messages, and returns an outcome for each."""

    async def subscribe(
        self, topic: str, handler: Callable[[Any], Awaitable[Any]], *, max_attempts: int = 3, batch_size: int | None = None
    ) -> object: ...


class FullConsumer(
    ConsumerProtocol,
    Stopping,
    DeliveryMetadata,
    FanOut,
    Concurrency,
    DeadLetter,
    OrderingByKey,
    NackRedelivery,
    VisibilityTimeout,
    BatchConsume,
    Lifecycle,
    Protocol,
):
    """A consumer with every capability of the contract: what the rules are written for, each within what it needs."""

    async def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Awaitable[Any]],
        *,
        max_attempts: int = 3,
        group: str = "default",
        concurrency: int = 1,
        dead_letter_topic: str | None = None,
        retry_delay: float = 0.0,
        visibility: float | None = None,
        batch_size: int | None = None,
    ) -> Subscription: ...


async def _succeed(message: object) -> Any:
    return [SUCCESS] * len(message) if isinstance(message, list) else SUCCESS


async def _payloads(inbox: Inbox) -> AsyncGenerator[object, None]:
    while (message := await inbox.next()) is not None:
        yield message.payload


async def _listen(provider: Any, name: str, handler: Any = _succeed, **options: object) -> type:
    """Subscribe, for a moment; the type of what comes back, which itself differs from call to call."""
    subscription = await provider.subscribe(name, handler, **options)
    if hasattr(subscription, "stop"):
        await subscription.stop()
    return type(raw(subscription))


class ConsumerCells(TopicCells):
    """The topics of one suite, read by the consumer under test."""

    t: "ConsumerTrial"

    # A consumer writes nothing: what it does is to listen. Its messages are made by others.
    lacks = frozenset({"own_write", "room", "aliases"})
    operations = (
        Operation("subscribe", lambda p, n, t: _listen(p, n), "subscribe"),
        *(
            Operation(
                f"subscribe with {argument}",
                lambda p, n, t, *, options={argument: value}: _listen(p, n, **options),
                "subscribe",
                capability,
                argument=argument,
            )
            for capability, argument, value in (
                ("fan_out", "group", "another"),
                ("concurrency", "concurrency", 2),
                ("dead_letter", "dead_letter_topic", "dead-letters"),
                ("nack_redelivery", "retry_delay", 1.0),
                ("visibility_timeout", "visibility", 60.0),
                ("batch_consume", "batch_size", 2),
            )
        ),
    )
    refusals = (
        Operation("subscribe without a handler", lambda p, n, t: p.subscribe(n, t), "subscribe", refusal=InvalidArgumentError),
        Operation(
            "subscribe for no attempt",
            lambda p, n, t: p.subscribe(n, _succeed, max_attempts=0),
            "subscribe",
            refusal=InvalidArgumentError,
        ),
    )

    async def use(self, provider: Any, name: str, token: str) -> None:
        await _listen(provider, name)

    async def read(self, provider: Any, name: str) -> str | None:
        inbox = await self.t.inbox(provider, name)
        async with self.t.listening(provider, inbox):
            return await inbox.look(provider)

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """The token; it waits in its topic again afterwards, so that it is seen if somebody else takes it."""
        token = await self.read(provider, name)
        if token is not None:
            (await self.t.inbox(provider, name)).shown = None
            await self.t.send(provider, name, token.encode())
        return (token,)

    @asynccontextmanager
    async def watch(self, provider: Any, name: str) -> AsyncIterator[AsyncIterator[object]]:
        await self.read(provider, name)
        inbox = await self.t.inbox(provider, name)
        async with self.t.listening(provider, inbox), aclosing(_payloads(inbox)) as payloads:
            yield payloads


LOOKS = 3
"""How often a rule looks that finds that a message which had succeeded came once more."""


class ConsumerTrial(MessagingTrial[FullConsumer]):
    """The words of the rules of `ConsumerContract`."""

    may_repeat = True

    @property
    def subscribes(self) -> bool:
        return True

    async def listen(self, provider: Any, inbox: Inbox) -> None:
        async with self.listening(provider, inbox):
            pass

    @asynccontextmanager
    async def listening(self, provider: Any, inbox: Inbox) -> AsyncIterator[None]:
        """*provider* reads the topic of *inbox*, and goes on where it cannot be stopped: a second subscription would compete."""
        if self.session.is_open(provider) and any(raw(each) is raw(provider) for each in inbox.listeners):
            yield
            return

        subscription = await provider.subscribe(inbox.topic, inbox.handle)
        if "stopping" not in self.declared:
            inbox.listeners.append(provider)
        try:
            yield
        finally:
            await self.stop(subscription)

    async def stop(self, subscription: Any) -> None:
        """End *subscription* where that is possible."""
        if "stopping" in self.declared:
            self.check(
                callable(getattr(subscription, "stop", None)),
                given="what subscribe returned",
                expected="a subscription with `stop`",
                observed=subscription,
            )
            await subscription.stop()

    async def send(
        self, provider: Any, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> object:
        if not self.has("publish") and hasattr(raw(provider), "publish"):
            return await raw(provider).publish(topic, payload, key, headers)
        tenant_id = self.session.tenant_of(provider)
        return await self.ask("publish", topic, payload, key, headers, tenant_id=tenant_id, instead="publish")

    async def consume(
        self,
        consumer: FullConsumer,
        topic: str,
        act: Act | None = None,
        *,
        traffic: Traffic | None = None,
        client: int = 0,
        **options: Any,
    ) -> Worker:
        """A worker that is subscribed to *topic*; the number of its *client* stands in *traffic*, if there is any."""
        await self.need_topic(consumer, topic)
        worker = Worker(self, act, queue=(topic, options.get("group")), traffic=traffic, client=client)
        worker.subscription = await consumer.subscribe(topic, worker, **options)
        return worker

    def gate(self) -> anyio.Event:
        """What handlers wait for; set at the end of the rule at the latest, so that none of them keeps its consumer open."""
        gate = anyio.Event()

        async def release() -> None:
            gate.set()

        self.session.afterwards.append(release)
        return gate

    async def unrepeated(self, look: Call[None]) -> None:
        """Make a *look*, which takes topics of its own, again if it fails and a message came once more that had succeeded.

        CON-24 allows for a few of them, which may come anywhere; what brings them always is found each time.
        """
        for _ in range(LOOKS - 1):
            repeated, failed = self.repeated, len(self.session.violations)
            try:
                await look()
            except Violation as violation:
                if self.repeated == repeated or isinstance(violation, Hung):
                    raise
            else:
                if self.repeated == repeated or len(self.session.violations) == failed:
                    return
            del self.session.violations[failed:]
        await look()

    def attempts(self, wanted: int) -> int:
        """The smallest `max_attempts` from *wanted* on that the provider keeps."""
        return max(wanted, self.numbers().least_attempts)

    async def check_over(self, consumer: FullConsumer, topic: str, worker: Worker, due: int, given: str) -> None:
        """Fail the rule if anything comes to *worker* but what was *due*, and a sentinel that is published now."""
        sentinel = self.token().encode()
        await self.send(consumer, topic, sentinel)
        await worker.until(lambda: sentinel in worker.payloads()[due:])
        if self.numbers().settle:
            await self.wait(self.numbers().settle)
        came = worker.payloads()[due:]
        others = [each for each in came if each != sentinel]
        self.check(
            came == [sentinel],
            given=f"{given}, then a sentinel",
            expected="the sentinel alone comes",
            observed=Plain(
                f"{len(others)} more deliveries, the first of {describe(others[0])}"
                if others
                else f"the sentinel comes {len(came)} times"
            ),
        )

    async def check_again(self, first: Call[object], given: str) -> None:
        """After *first* a message comes again, and others come too."""
        await self.unrepeated(partial(self._check_again, first, given))

    async def _check_again(self, first: Call[object], given: str) -> None:
        consumer = await self.connect()
        topic = self.key()

        async def act(message: Any, number: int) -> object:
            return await first() if number == 1 else SUCCESS

        worker = await self.consume(consumer, topic, act, max_attempts=self.attempts(3))
        await self.send(consumer, topic, b"first")
        await worker.expect(2, given, redeliveries=1)
        self.same(worker.payloads()[:2], [b"first"] * 2, given=f"the payloads after {given}")
        for number in range(3):
            await self.send(consumer, topic, b"%d" % number)
        await worker.expect(5, f"three messages after {given}")
        self.check_listing(map(bytes.decode, worker.payloads()[2:]), "012", f"three messages after {given}")

    async def check_attempts(self, consumer: FullConsumer, most: int) -> None:
        """A message that never succeeds comes *most* times, and others come too."""
        topic = self.key()
        worker = await self.consume(consumer, topic, _refuse_poison, max_attempts=most)
        await self.send(consumer, topic, b"poison")
        for number in range(3):
            await self.send(consumer, topic, b"%d" % number)
        await worker.until(lambda: len(worker.ended) >= most + 3, redeliveries=most)
        self.same(worker.payloads().count(b"poison"), most, given=f"deliveries of a message with max_attempts={most}")
        self.same(sorted(set(worker.payloads())), [b"0", b"1", b"2", b"poison"], given="the payloads that came")
        await self.check_over(consumer, topic, worker, most + 3, "a message that was given up")

    async def check_kept(self, consumer: FullConsumer, before: int) -> None:
        """What is published once a subscription was stopped that got *before* messages comes to the next one."""
        topic, given = self.key(), "5 messages that were published while nobody listened"
        worker = await self.consume(consumer, topic)
        for _ in range(before):
            await self.send(consumer, topic, b"before")
        await worker.expect(before, "one message")
        await worker.subscription.stop()
        for number in range(5):
            await self.send(consumer, topic, b"%d" % number)
        second = await self.consume(consumer, topic)
        await second.expect(5, given)
        self.check_listing(map(bytes.decode, second.payloads()), "01234", given)

    async def check_dead_letter(self, outcome: ProcessingOutcome, deliveries: int) -> None:
        consumer = await self.connect()
        topic, dead = self.key(), self.key("dead")
        letters = await self.consume(consumer, dead)

        async def act(message: Any, number: int) -> object:
            return outcome if message.payload == bytes(range(256)) else SUCCESS

        worker = await self.consume(consumer, topic, act, max_attempts=max(deliveries, self.attempts(2)), dead_letter_topic=dead)
        sent = (bytes(range(256)), "caf\u00e9", {"h": "v"})
        await self.send(consumer, topic, *sent)
        await worker.expect(deliveries, f"a message that is answered with {outcome.name}", redeliveries=deliveries)
        await letters.expect(1, f"the dead-letter topic, after {outcome.name}", redeliveries=1)
        self.check_message(letters.messages[0], sent, "the dead letter")
        await self.check_over(consumer, dead, letters, 1, "one dead letter")
        await self.check_over(consumer, topic, worker, deliveries, "a message that is a dead letter")
        self.same(worker.payloads().count(sent[0]), deliveries, given=f"deliveries of a message answered with {outcome.name}")


Body = TypeVar("Body", bound=Callable[[Any, ConsumerTrial], Awaitable[None]])


def looks_again(body: Body) -> Body:
    """Make a rule one that a stray repetition does not fail: see `ConsumerTrial.unrepeated`."""

    @functools.wraps(body)
    async def look(self: Any, t: ConsumerTrial) -> None:
        await t.unrepeated(partial(body, self, t))

    return look  # type: ignore[return-value]


class ConsumerContract(MessagingRules):
    """Certifies a consumer."""

    definition = Definition(
        name="consumer",
        version="1.0",
        prefix="CON",
        protocols={
            "": ConsumerProtocol,
            "stopping": Stopping,
            "delivery_metadata": DeliveryMetadata,
            "fan_out": FanOut,
            "concurrency": Concurrency,
            "dead_letter": DeadLetter,
            "ordering_by_key": OrderingByKey,
            "nack_redelivery": NackRedelivery,
            "visibility_timeout": VisibilityTimeout,
            "batch_consume": BatchConsume,
            "lifecycle": Lifecycle,
        },
        hooks=(*TOPIC_HOOKS, "publish"),
        limits=MessageLimits,
        follows={"subscribe": "subscription"},
        cells=ConsumerCells,
    )
    trial: ClassVar[type[Trial[Any]]] = ConsumerTrial

    # What the author of a suite may supply.

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        *,
        tenant_id: str | None = None,
    ) -> object:
        """Publish a message by other means than the provider's. A provider that has `publish` itself needs no such hook."""
        raise NotImplementedError

    # One message

    @rule("CON-01")
    async def test_con_01_a_message_comes_as_it_was_published(self, t: ConsumerTrial) -> None:
        """The handler gets payload, key and headers as they were published.

        Catches the SDK's own object, headers of bytes, and a key that was only used to route.
        """
        consumer = await t.connect()
        for label, (payload, key, headers) in {
            "everything": (b"\x00\xff", "caf\u00e9", {"x-trace": "\U0001f511", "Empty": ""}),
            "nothing": (b"", None, {}),
        }.items():
            with t.case(label):
                topic = t.key()
                worker = await t.consume(consumer, topic)
                await t.send(consumer, topic, payload, key, headers)
                await worker.expect(1, "one message")
                message = worker.messages[0]
                t.check_message(message, (payload, key, headers), "what the handler got")

    @rule("CON-02")
    async def test_con_02_a_subscription_is_active_on_return(self, t: ConsumerTrial) -> None:
        """What is published right after `subscribe` returned is delivered.

        10 fresh topics at once. Catches `subscribe` that returns before its queue is bound, or its consumer has joined the group.
        """
        consumer = await t.connect()

        async def one() -> bool:
            topic = t.key()
            worker = await t.consume(consumer, topic)
            await t.send(consumer, topic, b"right after")
            return await worker.until(lambda: bool(worker.messages))

        came = await gather(one for _ in range(10))
        t.check(
            all(came),
            given="one message on each of 10 topics, published right after subscribe",
            expected="each is delivered",
            observed=Plain(f"{came.count(False)} are not"),
        )

    # Acknowledgement

    @rule("CON-03", "shared", hook="crash", deadline=30)
    async def test_con_03_a_message_is_acknowledged_after_its_handler(self, t: ConsumerTrial) -> None:
        """A message whose consumer vanishes while its handler runs comes to another one, within `redeliver`.

        Catches the acknowledgement before the handler ends, and `auto_ack`.
        """
        doomed, other = await t.clients(2)
        topic = t.key()
        worker = await t.consume(doomed, topic, _until(t.gate()))
        await t.send(other, topic, b"unfinished", "key", {"h": "v"})
        await worker.expect(1, "one message")
        await t.crash(doomed)
        second = await t.consume(other, topic)
        await second.expect(1, "a message whose consumer has vanished, to another consumer", redeliveries=1)
        t.check_message(second.messages[0], (b"unfinished", "key", {"h": "v"}), "what the other consumer got")

    @rule("CON-04", "shared", "lifecycle", deadline=30)
    @looks_again
    async def test_con_04_what_succeeded_does_not_come_again(self, t: ConsumerTrial) -> None:
        """After SUCCESS a message is not delivered again, neither to its consumer nor to one that comes later.

        Looked at after 1.5 times `redeliver`. Catches a missing acknowledgement.
        """
        first, other = await t.clients(2)
        topic = t.key()
        worker = await t.consume(first, topic)
        await t.send(other, topic, b"done")
        await worker.expect(1, "one message")
        await t.check_over(other, topic, worker, 1, "a message that succeeded")
        await first.close()
        second = await t.consume(other, topic)
        await t.wait(1.5 * t.numbers().redeliver)
        await t.check_over(other, topic, second, 0, "a message that succeeded, and a consumer that came later")

    @rule("CON-05")
    @looks_again
    async def test_con_05_retry_delivers_the_same_again(self, t: ConsumerTrial) -> None:
        """After RETRY the same message comes again: payload, key and headers.

        Catches a message that is published anew, without its headers or encoded twice.
        """
        consumer = await t.connect()
        topic = t.key()
        sent = (bytes(range(256)), "caf\u00e9", {"h": "v", "Empty": ""})

        async def act(message: Any, number: int) -> object:
            return RETRY if number < 3 else SUCCESS

        worker = await t.consume(consumer, topic, act, max_attempts=t.attempts(3))
        await t.send(consumer, topic, *sent)
        await worker.expect(3, "a message that asks for RETRY twice", redeliveries=2)
        for number, message in enumerate(worker.messages[:3], 1):
            with t.case(f"delivery {number}"):
                t.check_message(message, sent, f"delivery {number}")
        await t.check_over(consumer, topic, worker, 3, "a message that succeeded at last")

    @rule("CON-06")
    async def test_con_06_an_exception_is_a_retry(self, t: ConsumerTrial) -> None:
        """A handler that raises lets its message come again, and the consumer goes on.

        Catches the exception that ends the loop, and the one that is swallowed as success.
        """
        await t.check_again(_raise(LookupError("raised by the handler")), "a handler that raised LookupError")

    @rule("CON-07", deadline=30)
    async def test_con_07_a_cancellation_of_the_handlers_own_making_is_a_retry(self, t: ConsumerTrial) -> None:
        """A handler that raises `TimeoutError` or `CancelledError`, though nobody cancels it, lets its message come again.

        And the consumer goes on. Catches the loop that takes this for its own end, in silence.
        """
        for error in (TimeoutError("raised by the handler"), asyncio.CancelledError()):
            if t.suite.backend == "trio" and isinstance(error, asyncio.CancelledError):
                continue
            with t.case(type(error).__name__):
                await t.check_again(_raise(error), f"a handler that raised {type(error).__name__}")

    @rule("CON-08", deadline=30)
    async def test_con_08_what_is_no_outcome_is_a_retry(self, t: ConsumerTrial) -> None:
        """A handler that returns no `ProcessingOutcome` lets its message come again: None, True, "SUCCESS", 1.

        Catches the test for truth, and the handler without `return`.
        """
        for value in (None, True, "SUCCESS", 1, "FAIL"):
            with t.case(describe(value)):
                await t.check_again(_return(value), f"a handler that returned {describe(value)}")

    @rule("CON-09", deadline=30)
    async def test_con_09_a_message_is_tried_max_attempts_times(self, t: ConsumerTrial) -> None:
        """A message that never succeeds is tried exactly `max_attempts` times, and then leaves the way free.

        Catches the endless loop, the one that ends a step early or late, and the head of the queue that blocks it.
        """
        consumer = await t.connect()
        for most in sorted({t.attempts(1), t.attempts(2), t.attempts(3)}):
            with t.case(f"max_attempts={most}"):
                await t.unrepeated(partial(t.check_attempts, consumer, most))

    @rule("CON-10")
    @looks_again
    async def test_con_10_fail_gives_up_at_once(self, t: ConsumerTrial) -> None:
        """FAIL ends a message after one delivery, whatever `max_attempts` is.

        Catches FAIL that is treated as RETRY.
        """
        consumer = await t.connect()
        topic = t.key()

        async def act(message: Any, number: int) -> object:
            return FAIL if message.payload == b"bad" else SUCCESS

        worker = await t.consume(consumer, topic, act, max_attempts=t.attempts(5))
        await t.send(consumer, topic, b"bad")
        await worker.expect(1, "one message")
        if "nack_redelivery" not in t.declared:
            await t.wait(t.numbers().redeliver)
        await t.check_over(consumer, topic, worker, 1, "a message that failed")

    # dead_letter

    @rule("CON-11", "dead_letter")
    @looks_again
    async def test_con_11_what_is_given_up_becomes_a_dead_letter(self, t: ConsumerTrial) -> None:
        """A message that was tried `max_attempts` times is in the dead-letter topic, once, as it was published.

        And no longer in its own. Catches a key that is lost on the way, and a message that is in both.
        """
        await t.check_dead_letter(RETRY, t.attempts(2))

    @rule("CON-12", "dead_letter")
    @looks_again
    async def test_con_12_what_fails_becomes_a_dead_letter(self, t: ConsumerTrial) -> None:
        """A message that its handler fails is in the dead-letter topic after one delivery, once, as it was published.

        And no longer in its own. Catches a dead letter that is only written once all attempts are over.
        """
        await t.check_dead_letter(FAIL, 1)

    @rule("CON-13", "dead_letter", deadline=30)
    async def test_con_13_a_dead_letter_that_cannot_be_written_is_not_lost(self, t: ConsumerTrial) -> None:
        """If the broker is gone while a dead letter is to be written, the message comes again or is there later: it is not lost.

        Catches the acknowledgement before the dead letter.
        """
        watcher = await t.connect()
        topic, dead = t.key(), t.key("dead")
        letters = await t.consume(watcher, dead)
        async with t.faulty() as (consumer, cut, heal):

            async def act(message: Any, number: int) -> object:
                if number == 1:
                    await cut()
                return FAIL

            worker = await t.consume(consumer, topic, act, dead_letter_topic=dead)
            await t.send(watcher, topic, b"failed")
            await worker.until(lambda: bool(worker.ended))
            await heal()
            await letters.expect(1, "a dead letter whose writing was cut off", redeliveries=2)
        t.same(letters.payloads()[0], b"failed", given="the dead letter")

    # Several consumers

    @rule("CON-14", "shared", deadline=60)
    async def test_con_14_consumers_of_a_group_share_its_messages(self, t: ConsumerTrial) -> None:
        """Of 100 messages for two clients of one group each comes to one of them, none is lost, and no two handlers hold one.

        Catches the broadcast.
        """
        clients = await t.clients(2)
        topic = t.key()
        traffic = Traffic()
        workers = [await t.consume(each, topic, traffic=traffic, client=number) for number, each in enumerate(clients)]
        for number in range(100):
            await traffic.publish(t, clients[0], topic, f"m-{number}", f"k{number % 5}")
        await workers[0].until(lambda: len({id for each in workers for id in each.handled()}) >= 100)
        t.check_history(traffic, most_repeated=2)

    @rule("CON-15", "fan_out")
    async def test_con_15_each_group_gets_everything(self, t: ConsumerTrial) -> None:
        """Two groups both get all of 20 messages.

        Catches a queue that they share.
        """
        consumer = await t.connect()
        topic = t.key()
        workers = [await t.consume(consumer, topic, group=group) for group in ("one", "two")]
        for number in range(20):
            await t.send(consumer, topic, b"%d" % number)
        for worker in workers:
            await worker.until(lambda w=worker: len(set(w.payloads())) >= 20)  # type: ignore[misc]
            t.check_listing(
                map(bytes.decode, dict.fromkeys(worker.payloads())), map(str, range(20)), "20 messages, to each of two groups"
            )

    @rule("CON-16", "concurrency")
    async def test_con_16_as_many_handlers_run_as_wanted(self, t: ConsumerTrial) -> None:
        """With `concurrency=3`, three handlers run at once and no more; without, one.

        Catches a serial loop, and everything that was prefetched running at once.
        """
        consumer = await t.connect()
        many: dict[str, Any] = {"concurrency": 3}
        for wanted, options in ((3, many), (1, {})):
            with t.case(f"concurrency {wanted}"):
                topic, free = t.key(), t.gate()
                worker = await t.consume(consumer, topic, _until(free), **options)
                for number in range(9):
                    await t.send(consumer, topic, b"%d" % number)
                await worker.until(lambda w=worker, n=wanted: w.running >= n)  # type: ignore[misc]
                running = worker.running
                free.set()
                t.same(running, wanted, given=f"handlers that run while none ends, of 9 messages, concurrency {wanted}")
                await worker.expect(9, "9 messages")
                t.same(worker.most, wanted, given="handlers that ran at once, at most")

    # ordering_by_key

    @rule("CON-17", "ordering_by_key", deadline=60)
    async def test_con_17_a_key_keeps_its_order(self, t: ConsumerTrial) -> None:
        """Messages of one key come in the order of their publication, and never two at once, however many handlers there are.

        5 keys, 20 messages each, which all wait before the first handler ends; the handlers differ in how long they take.
        Catches parallel dispatch.
        """
        consumer = await t.connect()
        topic, free = t.key(), t.gate()
        traffic = Traffic()

        async def act(message: Any, number: int) -> object:
            await free.wait()
            for _ in range(number % 7):
                await anyio.lowlevel.checkpoint()
            return SUCCESS

        options: dict[str, Any] = {"concurrency": 4} if "concurrency" in t.declared else {}
        worker = await t.consume(consumer, topic, act, traffic=traffic, **options)
        for number in range(20):
            for key in range(5):
                await traffic.publish(t, consumer, topic, f"m-{key}-{number}", f"k{key}")
        free.set()
        await worker.until(lambda: len(set(worker.handled())) >= 100)
        t.check_history(traffic, order=Order.STRICT)

    @rule("CON-18", "ordering_by_key")
    @looks_again
    async def test_con_18_a_message_that_is_retried_holds_its_key(self, t: ConsumerTrial) -> None:
        """While a message is tried again, those of its key that follow wait, and other keys go on.

        That others go on is seen where `nack_redelivery` lets the message stay away for longer than they may take. Catches the
        message that goes to the end of the queue, and the loop that waits for it.
        """
        consumer = await t.connect()
        topic, free = t.key(), t.gate()
        traffic = Traffic()
        tried = 0

        async def act(message: Any, number: int) -> object:
            nonlocal tried
            await free.wait()
            if message.payload == b"m-0-0":
                tried += 1
                return RETRY if tried < 3 else SUCCESS
            return SUCCESS

        delay = t.numbers().deliver * t.patience + t.numbers().ttl_resolution
        options: dict[str, Any] = {"retry_delay": delay} if "nack_redelivery" in t.declared else {}
        worker = await t.consume(consumer, topic, act, traffic=traffic, max_attempts=t.attempts(3), **options)
        for number in range(3):
            for key in range(2):
                await traffic.publish(t, consumer, topic, f"m-{key}-{number}", f"k{key}")
        free.set()
        if options:
            await worker.until(lambda: len(worker.messages) >= 4)
            t.same(
                sorted(worker.payloads()[:4]),
                [b"m-0-0", b"m-1-0", b"m-1-1", b"m-1-2"],
                given="the first that come of 3 messages of each of 2 keys, if m-0-0 asks for RETRY",
            )
            for count in (5, 6):
                await t.wait(delay)
                await worker.until(lambda n=count: len(worker.messages) >= n)  # type: ignore[misc]
        await worker.until(lambda: len(set(worker.handled())) >= 6, redeliveries=2)
        t.check_history(traffic, order=Order.STRICT)

    # stopping

    @rule("CON-19", "stopping", deadline=60)
    @looks_again
    async def test_con_19_stopping_leaves_the_rest(self, t: ConsumerTrial) -> None:
        """After `stop` no handler starts, those that ran were acknowledged, and every other message waits for the next consumer.

        50 messages, stopped while the fifth is handled, and one afterwards. What was fetched ahead may be held until `redeliver`
        is over. Catches messages that were fetched ahead, and are lost or acknowledged with the others, and `stop` that does not
        wait.
        """
        consumer = await t.connect()
        topic, free = t.key(), t.gate()

        async def act(message: Any, number: int) -> object:
            if number == 5:
                await free.wait()
            return SUCCESS

        async def stop() -> int:
            await worker.subscription.stop()
            return len(worker.ended)

        async def release() -> None:
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            free.set()

        worker = await t.consume(consumer, topic, act)
        for number in range(50):
            await t.send(consumer, topic, b"%d" % number)
        await worker.until(lambda: len(worker.messages) >= 5)
        stopping, _ = await together([stop, release])
        handled = worker.payloads()
        t.same(stopping.result(), len(handled), given="handlers that have ended once stop has returned, and all that have begun")
        second = await t.consume(consumer, topic)
        await t.send(consumer, topic, b"50")  # What comes once more is before it.
        rest = {b"%d" % number for number in range(51)} - set(handled)
        await second.until(lambda: rest <= set(second.payloads()), redeliveries=1)
        t.same(worker.payloads(), handled, given="the payloads of the stopped subscription, later")
        t.check_listing(
            map(bytes.decode, dict.fromkeys(second.payloads())),
            map(bytes.decode, rest),
            "51 messages, to a consumer that stops and the next: what comes to that",
        )

    @rule("CON-20", "stopping")
    async def test_con_20_a_handler_that_is_cancelled_acknowledges_nothing(self, t: ConsumerTrial) -> None:
        """`stop(drain=False)` cancels the handler, and its message comes again.

        Catches the acknowledgement in a `finally`.
        """
        consumer = await t.connect()
        topic = t.key()
        worker = await t.consume(consumer, topic, _until(t.gate()))
        await t.send(consumer, topic, b"unfinished")
        await worker.expect(1, "one message")
        await worker.subscription.stop(drain=False)
        t.same(worker.running, 0, given="handlers that run after stop(drain=False)")
        second = await t.consume(consumer, topic)
        await second.expect(1, "a message whose handler was cancelled", redeliveries=1)
        t.same(second.payloads()[0], b"unfinished", given="the message that came again")

    @rule("CON-21", "stopping")
    async def test_con_21_messages_wait_for_their_consumer(self, t: ConsumerTrial) -> None:
        """What is published while a group has no running consumer is delivered when it has one again.

        Catches a queue that ends with its consumer, the offset "latest", and a stopped loop that still takes a message.
        """
        consumer = await t.connect()
        for before in range(2):
            with t.case(f"a subscription that got {before} messages before it was stopped"):
                await t.unrepeated(partial(t.check_kept, consumer, before))

    # Going on

    @rule("CON-22")
    async def test_con_22_topics_do_not_hold_each_other_up(self, t: ConsumerTrial) -> None:
        """A handler that is stuck on one topic does not hold up another, and neither does a subscription that stops.

        Catches a loop, or a channel, that all subscriptions share.
        """
        consumer = await t.connect()
        stuck, topic = t.key(), t.key()
        blocked = await t.consume(consumer, stuck, _until(t.gate()))
        worker = await t.consume(consumer, topic)
        await t.send(consumer, stuck, b"stuck")
        await blocked.expect(1, "one message")
        for number in range(5):
            await t.send(consumer, topic, b"%d" % number)
        await worker.expect(5, "5 messages beside a handler that is stuck on another topic")
        if "stopping" in t.declared:
            await blocked.subscription.stop(drain=False)
            for number in range(5):
                await t.send(consumer, topic, b"%d" % number)
            await worker.expect(10, "5 messages after a subscription of another topic was stopped")

    @rule("CON-23")
    @looks_again
    async def test_con_23_a_handler_may_publish(self, t: ConsumerTrial) -> None:
        """A handler may publish, also to its own topic.

        Three hops. Catches the channel that waits for its own acknowledgement.
        """
        consumer = await t.connect()
        topic = t.key()

        async def act(message: Any, number: int) -> object:
            if number < 4:
                await t.send(consumer, topic, b"%d" % number)
            return SUCCESS

        worker = await t.consume(consumer, topic, act)
        await t.send(consumer, topic, b"0")
        await worker.expect(4, "a handler that publishes to its own topic")
        t.same(worker.payloads(), [b"0", b"1", b"2", b"3"], given="the payloads of four hops")

    @rule("CON-24", deadline=60)
    async def test_con_24_hardly_anything_comes_twice(self, t: ConsumerTrial) -> None:
        """Of 200 messages that all succeed, each comes, and at most 4 come once more.

        Catches a consumer that gets everything twice: at-least-once is no licence.
        """
        consumer = await t.connect()
        topic = t.key()
        traffic = Traffic()
        worker = await t.consume(consumer, topic, traffic=traffic)
        for number in range(200):
            await traffic.publish(t, consumer, topic, f"m-{number}", None)
        await worker.until(lambda: len(set(worker.payloads())) >= 200)
        sentinel = t.token()
        await traffic.publish(t, consumer, topic, sentinel, None)
        await worker.until(lambda: sentinel.encode() in worker.payloads())
        t.check_history(traffic, most_repeated=4)

    @rule("CON-25", "limits")
    async def test_con_25_the_largest_message_survives(self, t: ConsumerTrial) -> None:
        """A message of exactly `value_bytes` bytes is delivered, and redelivered, intact; with `dead_letter`, buried so too.

        Catches what is encoded once more each time. Of a limit above 16 MiB only so much is tried.
        """
        consumer = await t.connect()
        topic, dead = t.key(), t.key("dead")
        size = t.largest()
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]

        async def act(message: Any, number: int) -> object:
            return RETRY if number == 1 else FAIL

        options: dict[str, Any] = {"dead_letter_topic": dead} if "dead_letter" in t.declared else {}
        letters = await t.consume(consumer, dead) if options else None
        worker = await t.consume(consumer, topic, act, **options)
        await t.send(consumer, topic, payload, "key", {"h": "v"})
        await worker.expect(2, f"a message of {size} bytes that asks for RETRY", redeliveries=1)
        for number, message in enumerate(worker.messages, 1):
            with t.case(f"delivery {number}"):
                t.check_message(message, (payload, "key", {"h": "v"}), f"delivery {number} of {size} bytes")
        if letters is not None:
            await letters.expect(1, f"the dead letter of {size} bytes", redeliveries=1)
            t.check_message(letters.messages[0], (payload, "key", {"h": "v"}), f"the dead letter of {size} bytes")

    # visibility_timeout, nack_redelivery

    @rule("CON-26", "visibility_timeout", "shared")
    async def test_con_26_a_long_handler_keeps_its_message(self, t: ConsumerTrial) -> None:
        """A handler that takes 2.5 times the visibility is not run again elsewhere meanwhile.

        A sentinel shows that messages come; one that was fetched ahead waits for its handler. Catches the lease that nobody
        extends.
        """
        clients = await t.clients(2)
        topic, free = t.key(), t.gate()
        visibility = t.numbers().redeliver
        workers = [await t.consume(client, topic, _until(free), visibility=visibility) for client in clients]
        await t.send(clients[0], topic, b"long")
        await workers[0].until(lambda: any(each.messages for each in workers))
        for _ in range(5):
            await t.wait(visibility / 2)
        await t.send(clients[0], topic, b"sentinel")
        for let_go in (False, True):
            if let_go:
                free.set()
            await workers[0].until(lambda: any(b"sentinel" in each.payloads() for each in workers))
            came = [payload for each in workers for payload in each.payloads()]
            expected = [b"long", b"sentinel"] if let_go or b"sentinel" in came else [b"long"]
            t.same(sorted(came), expected, given="deliveries while a handler takes 2.5 times the visibility")

    @rule("CON-27", "nack_redelivery")
    @looks_again
    async def test_con_27_a_retry_comes_when_it_should(self, t: ConsumerTrial) -> None:
        """After RETRY a message comes again within `deliver`, and with `retry_delay` not before that.

        Catches the wait for a whole visibility, and the loop that runs hot.
        """
        consumer = await t.connect()
        delay = max(2 * t.numbers().ttl_resolution, 0.1)
        came: list[float] = []

        async def act(message: Any, number: int) -> object:
            came.append(t.now())
            return RETRY if number == 1 else SUCCESS

        topic = t.key()
        at_once = await t.consume(consumer, topic, act, retry_delay=0.0)
        await t.send(consumer, topic, b"at once")
        await at_once.expect(2, "a message that asks for RETRY")

        topic = t.key()
        came.clear()
        later = await t.consume(consumer, topic, act, retry_delay=delay)
        await t.send(consumer, topic, b"later")
        await later.expect(1, "one message")
        for part in (0.25, 0.75):
            if t.virtual_time:
                await later.until(lambda: len(came) > 1)  # which it must not before the clock has gone all the way
            await t.wait(part * delay)
        await later.expect(2, f"a message that asks for RETRY with retry_delay={delay:g}, {delay:g} s later")
        after = came[1] - came[0]
        t.check(
            after >= delay - t.numbers().ttl_resolution - ROUNDING_SECONDS,
            given=f"RETRY with retry_delay={delay:g}",
            expected="the message does not come earlier",
            observed=Plain(f"after {after:.3f} s"),
        )

    # The network

    @rule("CON-28", deadline=60)
    async def test_con_28_a_consumer_comes_back_by_itself(self, t: ConsumerTrial) -> None:
        """After its connection was cut and can be made again, a consumer goes on by itself, and nothing accepted is lost.

        A handler ends while the connection is cut. Catches the consumer that is dead after it has connected again.
        """
        watcher = await t.connect()
        topic, away = t.key(), t.gate()
        traffic = Traffic()

        async def act(message: Any, number: int) -> object:
            if message.payload == b"m-9":
                await away.wait()
            return SUCCESS

        async def publish(*numbers: int) -> None:
            for number in numbers:
                await attempt(partial(traffic.publish, t, watcher, topic, f"m-{number}", None))

        async with t.faulty() as (consumer, cut, heal):
            worker = await t.consume(consumer, topic, act, traffic=traffic)
            await publish(*range(10))
            await worker.until(lambda: worker.running == 1)
            async with t.outage(cut, heal):
                away.set()
                await worker.until(lambda: worker.running == 0)
                await publish(*range(10, 20))
            await publish(*range(20, 30))
            accepted = {each.id.encode() for each in traffic.publications if each.ret is not None}
            await worker.until(lambda: accepted <= set(worker.payloads()), redeliveries=2)
            t.check_history(traffic)

    # batch_consume

    @rule("CON-29", "batch_consume")
    @looks_again
    async def test_con_29_each_message_of_a_batch_has_its_outcome(self, t: ConsumerTrial) -> None:
        """Of a batch, what asks for RETRY comes again, what fails and what succeeds does not.

        Catches the acknowledgement of all or none, and of all up to a message. The first handler waits until all 5 are published.
        """
        consumer = await t.connect()
        topic, free = t.key(), t.gate()

        async def act(message: Any, number: int) -> object:
            retry = message.payload == b"1" and worker.payloads().count(b"1") == 1
            return RETRY if retry else FAIL if message.payload == b"2" else SUCCESS

        async def handler(messages: list[Any]) -> list[object]:
            await free.wait()
            return [await worker(each) for each in messages]

        await t.need_topic(consumer, topic)
        worker = Worker(t, act)
        await consumer.subscribe(topic, handler, batch_size=5)
        for number in range(5):
            await t.send(consumer, topic, b"%d" % number)
        free.set()
        await worker.expect(6, "5 messages of which one asks for RETRY", redeliveries=1)
        await t.check_over(consumer, topic, worker, 6, "a batch in which one message asked for RETRY")
        t.same(
            sorted(worker.payloads()[:6]),
            [b"0", b"1", b"1", b"2", b"3", b"4"],
            given="deliveries of 5 messages, one of them twice",
        )

    # delivery_metadata

    @rule("CON-31", "delivery_metadata")
    async def test_con_31_a_message_says_which_and_how_often(self, t: ConsumerTrial) -> None:
        """A message has its topic, an id that stays the same when it comes again, and the number of its delivery, from 1.

        Whether it comes again at all is the subject of other rules. Catches the broker's own name of a topic, the id of a copy,
        and a counter that stands still or counts the redeliveries.
        """
        consumer = await t.connect()
        topic = t.key()

        async def act(message: Any, number: int) -> object:
            return RETRY if number < 3 else SUCCESS

        worker = await t.consume(consumer, topic, act, max_attempts=t.attempts(3))
        await t.send(consumer, topic, b"message")
        await worker.expect(1, "one message")
        await worker.until(lambda: len(worker.messages) >= 3, redeliveries=2)
        came = worker.messages[:3]
        t.same({each.topic for each in came}, {topic}, given="the topic of each delivery")
        t.same([each.delivery_attempt for each in came], list(range(1, len(came) + 1)), given="the numbers of the deliveries")
        ids = {each.message_id for each in came}
        t.check(
            len(ids) == 1 and all(type(each) is str and each != "" for each in ids),
            given=f"the id of {len(came)} deliveries of one message",
            expected="the same text, not empty",
            observed=sorted(ids, key=repr),
        )

    # validation

    @rule("CON-30", "validation")
    async def test_con_30_bad_arguments_are_refused(self, t: ConsumerTrial) -> None:
        """A handler that cannot be called and a `max_attempts` that is no whole number from 1 raise `InvalidArgumentError`.

        Catches `max_attempts=0`, which means for ever somewhere, and never elsewhere.
        """
        consumer: Any = await t.connect()
        for given, arguments, options in (
            ("a handler that is text", ("handler",), {}),
            ("no handler", (None,), {}),
            *((f"max_attempts={value!r}", (_succeed,), {"max_attempts": value}) for value in (0, -1, 1.5, True, "3", None)),
        ):
            with t.case(given):
                await t.refused(
                    partial(consumer.subscribe, t.key(), *arguments, **options),
                    InvalidArgumentError,
                    given=f"subscribe with {given}",
                )


def _until(gate: anyio.Event) -> Act:
    async def act(message: Any, number: int) -> object:
        await gate.wait()
        return SUCCESS

    return act


async def _refuse_poison(message: Any, number: int) -> object:
    return RETRY if message.payload == b"poison" else SUCCESS


def _raise(error: BaseException) -> Call[object]:
    async def act() -> object:
        raise error

    return act


def _return(value: object) -> Call[object]:
    async def act() -> object:
        return value

    return act
