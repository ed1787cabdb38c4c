"""The contract `consumer`: a message comes until its handler has ended it, and not again.

`subscribe` returns once the subscription is active; what is published from then on is delivered. A message is acknowledged
after its handler has said so: every other end of a handler, its death included, lets the message come again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import anyio
import anyio.lowlevel

from omnitck.kit.cells import Operation
from omnitck.kit.common import Lifecycle
from omnitck.kit.concurrency import attempt, gather, together
from omnitck.kit.contract import Plain, has_hook, rule
from omnitck.kit.history.queues import Order
from omnitck.kit.messaging import Inbox, MessagingRules, TopicCells, Traffic, Worker
from omnitck.kit.session import raw
from omnitck.kit.text import describe
from omnitck.shared.exceptions import InvalidArgumentError
from omnitck.shared.models import ConsumedMessage, ProcessingOutcome

__all__ = ["ConsumerContract", "ConsumerProtocol", "Handler"]

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


async def _succeed(message: object) -> Any:
    return [SUCCESS] * len(message) if isinstance(message, list) else SUCCESS


async def _payloads(inbox: Inbox) -> AsyncIterator[object]:
    while (message := await inbox.next()) is not None:
        yield message.payload


async def _listen(provider: Any, name: str, handler: Any = _succeed, **options: object) -> None:
    """Subscribe; what comes back differs from call to call."""
    subscription = await provider.subscribe(name, handler, **options)
    if hasattr(subscription, "stop"):
        await subscription.stop()


class ConsumerCells(TopicCells):
    """The topics of one suite, read by the consumer under test."""

    suite: "ConsumerContract"

    operations = (
        Operation("subscribe", lambda p, n, t: _listen(p, n), "subscribe"),
        *(
            Operation(
                f"subscribe with {argument}",
                lambda p, n, t, options={argument: value}: _listen(p, n, **options),  # type: ignore[misc]
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
        Operation("subscribe without a handler", lambda p, n, t: p.subscribe(n, t), "subscribe"),
        Operation("subscribe for no attempt", lambda p, n, t: p.subscribe(n, _succeed, max_attempts=0), "subscribe"),
    )

    async def use(self, provider: Any, name: str, token: str) -> None:
        await _listen(provider, name)

    async def read(self, provider: Any, name: str) -> str | None:
        inbox = await self.suite.inbox(provider, name)
        subscription = await provider.subscribe(name, inbox.handle)
        try:
            return await inbox.look(provider)
        finally:
            await self.suite.stop(subscription)

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """The token; it waits in its topic again afterwards, so that it is seen if somebody else takes it."""
        token = await self.read(provider, name)
        if token is not None:
            (await self.suite.inbox(provider, name)).shown = None
            await self.suite.send(provider, name, token.encode())
        return (token,)

    @asynccontextmanager
    async def watch(self, provider: Any, name: str) -> AsyncIterator[AsyncIterator[object]]:
        await self.read(provider, name)
        inbox = await self.suite.inbox(provider, name)
        subscription = await provider.subscribe(name, inbox.handle)
        try:
            yield _payloads(inbox)
        finally:
            await self.suite.stop(subscription)


class ConsumerContract(MessagingRules):
    """Certifies a consumer."""

    name = "consumer"
    version = "1.0"
    prefix = "CON"
    protocols: ClassVar = {
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
    }
    hooks = (*MessagingRules.hooks, "publish")
    # A consumer writes nothing: what it does is to listen. Topics cannot be listed, made only once, or removed together.
    without_subject = frozenset({"COM-16", "COM-17", "COM-22", "MT-06", "MT-18", "MT-19", "MT-22"})

    @cached_property
    def cells(self) -> ConsumerCells:
        return ConsumerCells(self)

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

    # The words in which the rules are written.

    @property
    def subscribes(self) -> bool:
        return True

    async def listen(self, provider: Any, inbox: Inbox) -> None:
        subscription = await raw(provider).subscribe(inbox.topic, inbox.handle)
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

    async def send(self, provider: Any, topic: str, payload: bytes, key: str | None = None, headers: Any = None) -> Any:
        if not has_hook(type(self), "publish") and hasattr(raw(provider), "publish"):
            return await raw(provider).publish(topic, payload, key, headers)
        tenant_id = self.session.tenant_of(provider)
        return await self.ask("publish", topic, payload, key, headers, tenant_id=tenant_id, instead="publish")

    async def consume(self, consumer: Any, topic: str, act: Any = None, **options: Any) -> Worker:
        """A worker that is subscribed to *topic*."""
        await self.need_topic(consumer, topic)
        worker = Worker(self, act)
        worker.subscription = await consumer.subscribe(topic, worker, **options)
        return worker

    def attempts(self, wanted: int) -> int:
        """The smallest `max_attempts` from *wanted* on that the provider keeps."""
        return max(wanted, self.numbers().least_attempts)

    async def check_over(self, consumer: Any, topic: str, worker: Worker, due: int, given: str) -> None:
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

    # One message

    @rule("CON-01")
    async def test_con_01_a_message_comes_as_it_was_published(self) -> None:
        """The handler gets payload, key and headers as they were published; with `delivery_metadata`, topic, id and attempt too.

        Catches the SDK's own object, headers of bytes, and a key that was only used to route.
        """
        consumer: ConsumerProtocol = await self.connect()
        for label, (payload, key, headers) in {
            "everything": (b"\x00\xff", "caf\u00e9", {"x-trace": "\U0001f511", "Empty": ""}),
            "nothing": (b"", None, {}),
        }.items():
            with self.case(label):
                topic = self.key()
                worker = await self.consume(consumer, topic)
                await self.send(consumer, topic, payload, key, headers)
                await worker.expect(1, "one message")
                message = worker.messages[0]
                self.check_message(message, (payload, key, headers), "what the handler got")
                if "delivery_metadata" in self.declared:
                    self.same(message.topic, topic, given="the topic of the message")
                    self.same(message.delivery_attempt, 1, given="the number of its first delivery")
                    self.check(
                        type(message.message_id) is str and message.message_id != "",
                        given="the id of the message",
                        expected="text that is not empty",
                        observed=message.message_id,
                    )

    @rule("CON-02")
    async def test_con_02_a_subscription_is_active_on_return(self) -> None:
        """What is published right after `subscribe` returned is delivered.

        10 fresh topics at once. Catches `subscribe` that returns before its queue is bound, or its consumer has joined the group.
        """
        consumer = await self.connect()

        async def one() -> int:
            topic = self.key()
            worker = await self.consume(consumer, topic)
            await self.send(consumer, topic, b"right after")
            await worker.until(lambda: bool(worker.messages))
            return len(worker.messages)

        came = await gather(one for _ in range(10))
        self.same(came, [1] * 10, given="deliveries of one message on each of 10 topics, published right after subscribe")

    # Acknowledgement

    @rule("CON-03", "shared", hook="crash", deadline=700)
    async def test_con_03_a_message_is_acknowledged_after_its_handler(self) -> None:
        """A message whose consumer vanishes while its handler runs comes to another one, within `redeliver`.

        Catches the acknowledgement before the handler ends, and `auto_ack`.
        """
        doomed, other = await self.clients(2)
        topic = self.key()
        worker = await self.consume(doomed, topic, _for_ever)
        await self.send(other, topic, b"unfinished", "key", {"h": "v"})
        await worker.expect(1, "one message")
        await self.vanish(doomed)
        second = await self.consume(other, topic)
        await second.expect(1, "a message whose consumer has vanished, to another consumer", redeliveries=1)
        self.check_message(second.messages[0], (b"unfinished", "key", {"h": "v"}), "what the other consumer got")

    @rule("CON-04", "shared", "lifecycle", deadline=1000)
    async def test_con_04_what_succeeded_does_not_come_again(self) -> None:
        """After SUCCESS a message is not delivered again, neither to its consumer nor to one that comes later.

        Looked at after 1.5 times `redeliver`. Catches a missing acknowledgement.
        """
        first, other = await self.clients(2)
        topic = self.key()
        worker = await self.consume(first, topic)
        await self.send(other, topic, b"done")
        await worker.expect(1, "one message")
        await self.check_over(other, topic, worker, 1, "a message that succeeded")
        await first.close()
        second = await self.consume(other, topic)
        await self.wait(1.5 * self.numbers().redeliver)
        await self.check_over(other, topic, second, 0, "a message that succeeded, and a consumer that came later")

    @rule("CON-05", deadline=1300)
    async def test_con_05_retry_delivers_the_same_again(self) -> None:
        """After RETRY the same message comes again: payload, key, headers; with `delivery_metadata`, id, and attempts 1, 2, 3.

        Catches a message that is published anew, without its headers or encoded twice, and a counter that stands still.
        """
        consumer = await self.connect()
        topic = self.key()
        sent = (bytes(range(256)), "caf\u00e9", {"h": "v", "Empty": ""})

        async def act(message: Any, number: int) -> object:
            return RETRY if number < 3 else SUCCESS

        worker = await self.consume(consumer, topic, act, max_attempts=self.attempts(3))
        await self.send(consumer, topic, *sent)
        await worker.expect(3, "a message that asks for RETRY twice", redeliveries=2)
        for number, message in enumerate(worker.messages[:3], 1):
            with self.case(f"delivery {number}"):
                self.check_message(message, sent, f"delivery {number}")
        if "delivery_metadata" in self.declared:
            self.same([each.delivery_attempt for each in worker.messages[:3]], [1, 2, 3], given="delivery_attempt of three")
            self.same(len({each.message_id for each in worker.messages}), 1, given="the number of their different ids")
        await self.check_over(consumer, topic, worker, 3, "a message that succeeded at last")

    @rule("CON-06", deadline=700)
    async def test_con_06_an_exception_is_a_retry(self) -> None:
        """A handler that raises lets its message come again, and the consumer goes on.

        Catches the exception that ends the loop, and the one that is swallowed as success.
        """
        await self._check_again(_raise(LookupError("raised by the handler")), "a handler that raised LookupError")

    @rule("CON-07", deadline=700)
    async def test_con_07_so_is_a_cancellation_of_the_handlers_own_making(self) -> None:
        """So does a handler that raises `TimeoutError` or `CancelledError` although nobody cancels it.

        Catches the loop that takes this for its own end, in silence.
        """
        for error in (TimeoutError("raised by the handler"), asyncio.CancelledError()):
            if self.backend == "trio" and isinstance(error, asyncio.CancelledError):
                continue
            with self.case(type(error).__name__):
                await self._check_again(_raise(error), f"a handler that raised {type(error).__name__}")

    @rule("CON-08", deadline=700)
    async def test_con_08_what_is_no_outcome_is_a_retry(self) -> None:
        """A handler that returns no `ProcessingOutcome` lets its message come again: None, True, "SUCCESS", 1.

        Catches the test for truth, and the handler without `return`.
        """
        for value in (None, True, "SUCCESS", 1, "FAIL"):
            with self.case(describe(value)):
                await self._check_again(_return(value), f"a handler that returned {describe(value)}")

    async def _check_again(self, first: Any, given: str) -> None:
        """After *first* a message comes again, and others come too."""
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

    @rule("CON-09", deadline=3000)
    async def test_con_09_a_message_is_tried_max_attempts_times(self) -> None:
        """A message that never succeeds is tried exactly `max_attempts` times, and then leaves the way free.

        Catches the endless loop, the one that ends a step early or late, and the head of the queue that blocks it.
        """
        consumer = await self.connect()
        for most in sorted({self.attempts(1), self.attempts(2), self.attempts(3)}):
            with self.case(f"max_attempts={most}"):
                topic = self.key()
                worker = await self.consume(consumer, topic, _refuse_poison, max_attempts=most)
                await self.send(consumer, topic, b"poison")
                for number in range(3):
                    await self.send(consumer, topic, b"%d" % number)
                await worker.until(lambda w=worker, n=most + 3: len(w.ended) >= n, redeliveries=most)  # type: ignore[misc]
                self.same(worker.payloads().count(b"poison"), most, given=f"deliveries of a message with max_attempts={most}")
                self.same(sorted(set(worker.payloads())), [b"0", b"1", b"2", b"poison"], given="the payloads that came")
                await self.check_over(consumer, topic, worker, most + 3, "a message that was given up")

    @rule("CON-10")
    async def test_con_10_fail_gives_up_at_once(self) -> None:
        """FAIL ends a message after one delivery, whatever `max_attempts` is.

        Catches FAIL that is treated as RETRY.
        """
        consumer = await self.connect()
        topic = self.key()

        async def act(message: Any, number: int) -> object:
            return FAIL if message.payload == b"bad" else SUCCESS

        worker = await self.consume(consumer, topic, act, max_attempts=self.attempts(5))
        await self.send(consumer, topic, b"bad")
        await worker.expect(1, "one message")
        if "nack_redelivery" not in self.declared:
            await self.wait(self.numbers().redeliver)
        await self.check_over(consumer, topic, worker, 1, "a message that failed")

    # dead_letter

    @rule("CON-11", "dead_letter", deadline=1300)
    async def test_con_11_what_is_given_up_becomes_a_dead_letter(self) -> None:
        """A message that was tried `max_attempts` times is in the dead-letter topic, once, as it was published.

        And no longer in its own. Catches a key that is lost on the way, and a message that is in both.
        """
        await self._check_dead_letter(RETRY, self.attempts(2))

    @rule("CON-12", "dead_letter")
    async def test_con_12_so_does_what_fails(self) -> None:
        """So is one that a handler fails, after one delivery.

        Catches a dead letter that is only written once all attempts are over.
        """
        await self._check_dead_letter(FAIL, 1)

    async def _check_dead_letter(self, outcome: ProcessingOutcome, deliveries: int) -> None:
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

    @rule("CON-13", "dead_letter", deadline=1300)
    async def test_con_13_a_dead_letter_that_cannot_be_written_is_not_lost(self) -> None:
        """If the broker is gone while a dead letter is to be written, the message comes again or is there later: it is not lost.

        Catches the acknowledgement before the dead letter.
        """
        watcher = await self.connect()
        topic, dead = self.key(), self.key("dead")
        letters = await self.consume(watcher, dead)
        async with self.faulty() as (consumer, cut, heal):

            async def act(message: Any, number: int) -> object:
                if number == 1:
                    await cut()
                return FAIL

            worker = await self.consume(consumer, topic, act, dead_letter_topic=dead)
            await self.send(watcher, topic, b"failed")
            await worker.until(lambda: bool(worker.ended))
            await heal()
            await letters.expect(1, "a dead letter whose writing was cut off", redeliveries=2)
        self.same(letters.payloads()[0], b"failed", given="the dead letter")

    # Several consumers

    @rule("CON-14", "shared", deadline=60)
    async def test_con_14_consumers_of_a_group_share_its_messages(self) -> None:
        """Of 100 messages for two clients of one group each comes to one of them, none is lost, and no two handlers hold one.

        Catches the broadcast.
        """
        clients = await self.clients(2)
        topic = self.key()
        traffic = Traffic()
        workers = []
        for number, client in enumerate(clients):
            worker = Worker(self, traffic=traffic, client=number)
            await client.subscribe(topic, worker)
            workers.append(worker)
        for number in range(100):
            await traffic.publish(self, clients[0], topic, f"m-{number}", f"k{number % 5}")
        await workers[0].until(lambda: sum(len(each.ended) for each in workers) >= 100)
        self.check_history(traffic, most_repeated=2)

    @rule("CON-15", "fan_out")
    async def test_con_15_each_group_gets_everything(self) -> None:
        """Two groups both get all of 20 messages.

        Catches a queue that they share.
        """
        consumer = await self.connect()
        topic = self.key()
        workers = [await self.consume(consumer, topic, group=group) for group in ("one", "two")]
        for number in range(20):
            await self.send(consumer, topic, b"%d" % number)
        for worker in workers:
            await worker.expect(20, "20 messages, to each of two groups")
            self.check_listing(map(bytes.decode, worker.payloads()), map(str, range(20)), "20 messages, to each of two groups")

    @rule("CON-16", "concurrency")
    async def test_con_16_as_many_handlers_run_as_wanted(self) -> None:
        """With `concurrency=3`, three handlers run at once and no more; without, one.

        Catches a serial loop, and everything that was prefetched running at once.
        """
        consumer = await self.connect()
        for wanted, options in ((3, {"concurrency": 3}), (1, {})):
            with self.case(f"concurrency {wanted}"):
                topic, free = self.key(), anyio.Event()

                async def act(message: Any, number: int, free: anyio.Event = free) -> object:
                    await free.wait()
                    return SUCCESS

                worker = await self.consume(consumer, topic, act, **options)
                for number in range(9):
                    await self.send(consumer, topic, b"%d" % number)
                await worker.until(lambda w=worker, n=wanted: w.running >= n)  # type: ignore[misc]
                running = worker.running
                free.set()
                self.same(running, wanted, given=f"handlers that run while none ends, of 9 messages, concurrency {wanted}")
                await worker.expect(9, "9 messages")
                self.same(worker.most, wanted, given="handlers that ran at once, at most")

    # ordering_by_key

    @rule("CON-17", "ordering_by_key", deadline=60)
    async def test_con_17_a_key_keeps_its_order(self) -> None:
        """Messages of one key come in the order of their publication, and never two at once, however many handlers there are.

        5 keys, 20 messages each, which all wait before the first handler ends; the handlers differ in how long they take.
        Catches parallel dispatch.
        """
        consumer = await self.connect()
        topic, free = self.key(), anyio.Event()
        traffic = Traffic()

        async def act(message: Any, number: int) -> object:
            await free.wait()
            for _ in range(number % 7):
                await anyio.lowlevel.checkpoint()
            return SUCCESS

        worker = Worker(self, act, traffic=traffic)
        await consumer.subscribe(topic, worker, **({"concurrency": 4} if "concurrency" in self.declared else {}))
        for number in range(20):
            for key in range(5):
                await traffic.publish(self, consumer, topic, f"m-{key}-{number}", f"k{key}")
        free.set()
        await worker.until(lambda: len(worker.ended) >= 100)
        self.check_history(traffic, order=Order.STRICT)

    @rule("CON-18", "ordering_by_key", deadline=1300)
    async def test_con_18_a_message_that_is_retried_holds_its_key(self) -> None:
        """While a message is tried again, those of its key that follow wait, and other keys go on.

        That others go on is seen where `nack_redelivery` lets the message stay away for longer than they may take. Catches the
        message that goes to the end of the queue, and the loop that waits for it.
        """
        consumer = await self.connect()
        topic, free = self.key(), anyio.Event()
        traffic = Traffic()
        tried = 0

        async def act(message: Any, number: int) -> object:
            nonlocal tried
            await free.wait()
            if message.payload == b"m-0-0":
                tried += 1
                return RETRY if tried < 3 else SUCCESS
            return SUCCESS

        worker = Worker(self, act, traffic=traffic)
        delay = self.numbers().deliver * self.patience + self.numbers().ttl_resolution
        options = {"retry_delay": delay} if "nack_redelivery" in self.declared else {}
        await consumer.subscribe(topic, worker, max_attempts=self.attempts(3), **options)
        for number in range(3):
            for key in range(2):
                await traffic.publish(self, consumer, topic, f"m-{key}-{number}", f"k{key}")
        free.set()
        if options:
            await worker.until(lambda: len(worker.messages) >= 4)
            self.same(
                sorted(worker.payloads()[:4]),
                [b"m-0-0", b"m-1-0", b"m-1-1", b"m-1-2"],
                given="the first that come of 3 messages of each of 2 keys, if m-0-0 asks for RETRY",
            )
            for count in (5, 6):
                await self.wait(delay)
                await worker.until(lambda n=count: len(worker.messages) >= n)  # type: ignore[misc]
        await worker.until(lambda: len(worker.ended) >= 8, redeliveries=2)
        self.check_history(traffic, order=Order.STRICT)

    # stopping

    @rule("CON-19", "stopping", deadline=60)
    async def test_con_19_stopping_leaves_the_rest(self) -> None:
        """After `stop` no handler starts, those that ran were acknowledged, and every other message waits for the next consumer.

        50 messages, stopped while the fifth is handled. Catches messages that were fetched ahead, and are lost or acknowledged
        with the others, and `stop` that does not wait.
        """
        consumer = await self.connect()
        topic = self.key()
        enough, free = anyio.Event(), anyio.Event()

        async def act(message: Any, number: int) -> object:
            if number == 5:
                enough.set()
                await free.wait()
            return SUCCESS

        async def stop() -> int:
            await worker.subscription.stop()
            return len(worker.ended)

        async def release() -> None:
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            free.set()

        worker = await self.consume(consumer, topic, act)
        for number in range(50):
            await self.send(consumer, topic, b"%d" % number)
        with anyio.move_on_after(self.numbers().deliver * self.patience):
            await enough.wait()
        stopping, _ = await together([stop, release])
        handled = worker.payloads()
        self.same(
            stopping.result(), len(handled), given="handlers that have ended once stop has returned, and all that have begun"
        )
        second = await self.consume(consumer, topic)
        await second.until(lambda: len(second.messages) >= 50 - len(handled))
        self.same(worker.payloads(), handled, given="the payloads of the stopped subscription, later")
        self.check_listing(
            map(bytes.decode, handled + second.payloads()),
            map(str, range(50)),
            "50 messages, to a consumer that stops and the next",
        )

    @rule("CON-20", "stopping", deadline=700)
    async def test_con_20_a_handler_that_is_cancelled_acknowledges_nothing(self) -> None:
        """`stop(drain=False)` cancels the handler, and its message comes again.

        Catches the acknowledgement in a `finally`.
        """
        consumer = await self.connect()
        topic = self.key()
        worker = await self.consume(consumer, topic, _for_ever)
        await self.send(consumer, topic, b"unfinished")
        await worker.expect(1, "one message")
        await worker.subscription.stop(drain=False)
        self.same(worker.running, 0, given="handlers that run after stop(drain=False)")
        second = await self.consume(consumer, topic)
        await second.expect(1, "a message whose handler was cancelled", redeliveries=1)
        self.same(second.payloads()[0], b"unfinished", given="the message that came again")

    @rule("CON-21", "stopping")
    async def test_con_21_messages_wait_for_their_consumer(self) -> None:
        """What is published while a group has no running consumer is delivered when it has one again.

        Catches a queue that ends with its consumer, the offset "latest", and a stopped loop that still takes a message.
        """
        consumer = await self.connect()
        given = "5 messages that were published while nobody listened"
        for before in range(2):
            with self.case(f"a subscription that got {before} messages before it was stopped"):
                topic = self.key()
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

    # Going on

    @rule("CON-22")
    async def test_con_22_topics_do_not_hold_each_other_up(self) -> None:
        """A handler that is stuck on one topic does not hold up another, and neither does a subscription that stops.

        Catches a loop, or a channel, that all subscriptions share.
        """
        consumer = await self.connect()
        stuck, topic, free = self.key(), self.key(), anyio.Event()

        async def act(message: Any, number: int) -> object:
            await free.wait()
            return SUCCESS

        blocked = await self.consume(consumer, stuck, act)
        worker = await self.consume(consumer, topic)
        try:
            await self.send(consumer, stuck, b"stuck")
            await blocked.expect(1, "one message")
            for number in range(5):
                await self.send(consumer, topic, b"%d" % number)
            await worker.expect(5, "5 messages beside a handler that is stuck on another topic")
            if "stopping" in self.declared:
                await blocked.subscription.stop(drain=False)
                for number in range(5):
                    await self.send(consumer, topic, b"%d" % number)
                await worker.expect(10, "5 messages after a subscription of another topic was stopped")
        finally:
            free.set()

    @rule("CON-23")
    async def test_con_23_a_handler_may_publish(self) -> None:
        """A handler may publish, also to its own topic.

        Three hops. Catches the channel that waits for its own acknowledgement.
        """
        consumer = await self.connect()
        topic = self.key()

        async def act(message: Any, number: int) -> object:
            if number < 4:
                await self.send(consumer, topic, b"%d" % number)
            return SUCCESS

        worker = await self.consume(consumer, topic, act)
        await self.send(consumer, topic, b"0")
        await worker.expect(4, "a handler that publishes to its own topic")
        self.same(worker.payloads(), [b"0", b"1", b"2", b"3"], given="the payloads of four hops")

    @rule("CON-24", deadline=60)
    async def test_con_24_hardly_anything_comes_twice(self) -> None:
        """Of 200 messages that all succeed, each comes, and at most 4 come once more.

        Catches a consumer that gets everything twice: at-least-once is no licence.
        """
        consumer = await self.connect()
        topic = self.key()
        traffic = Traffic()
        worker = Worker(self, traffic=traffic)
        await consumer.subscribe(topic, worker)
        for number in range(200):
            await traffic.publish(self, consumer, topic, f"m-{number}", None)
        await worker.until(lambda: len(set(worker.payloads())) >= 200)
        sentinel = self.token()
        await traffic.publish(self, consumer, topic, sentinel, None)
        await worker.until(lambda: sentinel.encode() in worker.payloads())
        self.check_history(traffic, most_repeated=4)

    @rule("CON-25", "limits", deadline=700)
    async def test_con_25_the_largest_message_survives(self) -> None:
        """A message of exactly `value_bytes` bytes is delivered, and redelivered, intact; with `dead_letter`, buried so too.

        Catches what is encoded once more each time.
        """
        consumer = await self.connect()
        topic, dead = self.key(), self.key("dead")
        size = self.numbers().value_bytes
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]

        async def act(message: Any, number: int) -> object:
            return RETRY if number == 1 else FAIL

        options = {"dead_letter_topic": dead} if "dead_letter" in self.declared else {}
        letters = await self.consume(consumer, dead) if options else None
        worker = await self.consume(consumer, topic, act, **options)
        await self.send(consumer, topic, payload, "key", {"h": "v"})
        await worker.expect(2, f"a message of {size} bytes that asks for RETRY", redeliveries=1)
        for number, message in enumerate(worker.messages, 1):
            with self.case(f"delivery {number}"):
                self.check_message(message, (payload, "key", {"h": "v"}), f"delivery {number} of {size} bytes")
        if letters is not None:
            await letters.expect(1, f"the dead letter of {size} bytes", redeliveries=1)
            self.check_message(letters.messages[0], (payload, "key", {"h": "v"}), f"the dead letter of {size} bytes")

    # visibility_timeout, nack_redelivery

    @rule("CON-26", "visibility_timeout", "shared", deadline=1700)
    async def test_con_26_a_long_handler_keeps_its_message(self) -> None:
        """A handler that takes 2.5 times the visibility is not run again elsewhere meanwhile.

        Catches the lease that nobody extends.
        """
        clients = await self.clients(2)
        topic, free = self.key(), anyio.Event()
        visibility = self.numbers().redeliver

        async def act(message: Any, number: int) -> object:
            await free.wait()
            return SUCCESS

        workers = [await self.consume(client, topic, act, visibility=visibility) for client in clients]
        await self.send(clients[0], topic, b"long")
        await workers[0].until(lambda: any(each.messages for each in workers))
        for _ in range(5):
            await self.wait(visibility / 2)
        await self.send(clients[0], topic, b"sentinel")
        await workers[0].until(lambda: sum(len(each.messages) for each in workers) >= 2)
        came = [payload for each in workers for payload in each.payloads()]
        free.set()
        self.same(sorted(came), [b"long", b"sentinel"], given="deliveries while a handler takes 2.5 times the visibility")

    @rule("CON-27", "nack_redelivery", deadline=150)
    async def test_con_27_a_retry_comes_when_it_should(self) -> None:
        """After RETRY a message comes again within `deliver`, and with `retry_delay` not before that.

        Catches the wait for a whole visibility, and the loop that runs hot.
        """
        consumer = await self.connect()
        delay = max(2 * self.numbers().ttl_resolution, 0.1)
        came: list[float] = []

        async def act(message: Any, number: int) -> object:
            came.append(self.now())
            return RETRY if number == 1 else SUCCESS

        topic = self.key()
        at_once = await self.consume(consumer, topic, act, retry_delay=0.0)
        await self.send(consumer, topic, b"at once")
        await at_once.expect(2, "a message that asks for RETRY")

        topic = self.key()
        came.clear()
        later = await self.consume(consumer, topic, act, retry_delay=delay)
        await self.send(consumer, topic, b"later")
        await later.expect(1, "one message")
        for part in (0.25, 0.75):
            if self.virtual_time:
                await later.until(lambda: len(came) > 1)  # which it must not before the clock has gone all the way
            await self.wait(part * delay)
        await later.expect(2, f"a message that asks for RETRY with retry_delay={delay:g}, {delay:g} s later")
        after = came[1] - came[0]
        self.check(
            after >= delay - self.numbers().ttl_resolution,
            given=f"RETRY with retry_delay={delay:g}",
            expected="the message does not come earlier",
            observed=Plain(f"after {after:.3f} s"),
        )

    # The network

    @rule("CON-28", deadline=1300)
    async def test_con_28_a_consumer_comes_back_by_itself(self) -> None:
        """After its connection was cut and can be made again, a consumer goes on by itself, and nothing accepted is lost.

        A handler ends while the connection is cut. Catches the consumer that is dead after it has connected again.
        """
        watcher = await self.connect()
        topic, away = self.key(), anyio.Event()
        traffic = Traffic()

        async def act(message: Any, number: int) -> object:
            if message.payload == b"m-9":
                await away.wait()
            return SUCCESS

        async with self.faulty() as (consumer, cut, heal):
            worker = Worker(self, act, traffic=traffic)
            await consumer.subscribe(topic, worker)
            for number in range(30):
                if number == 10:
                    await worker.until(lambda: worker.running == 1)
                    await cut()
                    away.set()
                    await worker.until(lambda: worker.running == 0)
                if number == 20:
                    await heal()
                await attempt(partial(traffic.publish, self, watcher, topic, f"m-{number}", None))
            accepted = {each.id.encode() for each in traffic.publications if each.ret is not None}
            await worker.until(lambda: accepted <= set(worker.payloads()), redeliveries=2)
            self.check_history(traffic)

    # batch_consume

    @rule("CON-29", "batch_consume", deadline=700)
    async def test_con_29_each_message_of_a_batch_has_its_outcome(self) -> None:
        """Of a batch, what asks for RETRY comes again, what fails and what succeeds does not.

        Catches the acknowledgement of all or none, and of all up to a message. The first handler waits until all 5 are published.
        """
        consumer: Any = await self.connect()
        topic, free = self.key(), anyio.Event()
        seen: list[bytes] = []
        worker = Worker(self)

        async def handler(messages: list[Any]) -> list[object]:
            await free.wait()
            outcomes: list[object] = []
            for each in messages:
                await worker(each)
                retry = each.payload == b"1" and seen.count(b"1") == 0
                outcomes.append(RETRY if retry else FAIL if each.payload == b"2" else SUCCESS)
                seen.append(each.payload)
            return outcomes

        await consumer.subscribe(topic, handler, batch_size=5)
        for number in range(5):
            await self.send(consumer, topic, b"%d" % number)
        free.set()
        await worker.expect(6, "5 messages of which one asks for RETRY", redeliveries=1)
        await self.check_over(consumer, topic, worker, 6, "a batch in which one message asked for RETRY")
        self.same(
            sorted(worker.payloads()[:6]),
            [b"0", b"1", b"1", b"2", b"3", b"4"],
            given="deliveries of 5 messages, one of them twice",
        )

    # validation

    @rule("CON-30", "validation")
    async def test_con_30_bad_arguments_are_refused(self) -> None:
        """A handler that cannot be called and a `max_attempts` that is no whole number from 1 raise `InvalidArgumentError`.

        Catches `max_attempts=0`, which means for ever somewhere, and never elsewhere.
        """
        consumer: Any = await self.connect()
        for given, arguments, options in (
            ("a handler that is text", ("handler",), {}),
            ("no handler", (None,), {}),
            *((f"max_attempts={value!r}", (_succeed,), {"max_attempts": value}) for value in (0, -1, 1.5, True, "3", None)),
        ):
            with self.case(given):
                await self.refused(
                    partial(consumer.subscribe, self.key(), *arguments, **options),
                    InvalidArgumentError,
                    given=f"subscribe with {given}",
                )


async def _for_ever(message: Any, number: int) -> object:
    await anyio.sleep(3600)
    return SUCCESS


async def _refuse_poison(message: Any, number: int) -> object:
    return RETRY if message.payload == b"poison" else SUCCESS


def _raise(error: BaseException) -> Callable[[], Awaitable[object]]:
    async def act() -> object:
        raise error

    return act


def _return(value: object) -> Callable[[], Awaitable[object]]:
    async def act() -> object:
        return value

    return act
