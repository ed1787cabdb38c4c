"""The contract `producer`: messages that a broker has accepted arrive, unchanged, once each.

`publish` returns when the broker has the message for good: the standard knows no fire-and-forget. Bytes go in and bytes come out;
a provider encodes what its broker cannot carry, and keeps its own metadata to itself.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, Protocol

import anyio
import anyio.lowlevel

from omnitck.common.clients import Lifecycle
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.history.queues import Order
from omnitck.kit.concurrency import Call, attempt, gather, together
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import rule
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.messaging.topics import TOPIC_HOOKS, MessagingRules, MessagingTrial, TopicCells, Traffic
from omnitck.shared.exceptions import (
    InvalidArgumentError,
    PublishError,
    TCKError,
    TooLargeError,
    TopicNotFoundError,
)
from omnitck.shared.models import MessageLimits, OutgoingMessage, PublishResult

__all__ = [
    "AtomicBatch",
    "BatchPublish",
    "Deduplication",
    "FullProducer",
    "MessageIds",
    "MessageTTL",
    "OrderingByKey",
    "ProducerContract",
    "ProducerProtocol",
    "StrictTopics",
    "TransactionalPublish",
]


class ProducerProtocol(Protocol):
    """What every producer does."""

    async def publish(
        self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> object:
        """Publish a message, and return once the broker has accepted it for good.

        The key is None or text of 1 to 128 characters, headers are text. Raises `PublishError` if the broker did not accept it,
        or did not say so.
        """
        ...


class MessageIds(Protocol):
    """Capability `message_ids`: `publish` returns the id under which consumers get the message, as text."""


class BatchPublish(Protocol):
    """Capability `batch_publish`: many messages in one call, of any number."""

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> Sequence[PublishResult]:
        """Publish every message that can be; one result for each, in their order. Only the call itself being wrong raises."""
        ...


class AtomicBatch(Protocol):
    """Capability `atomic_batch`: `publish_many` publishes all messages or none."""


class Deduplication(Protocol):
    """Capability `deduplication`: a message that is published again under its id is delivered once."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
    ) -> object:
        """*message_id* is the publisher's own. Its first publication wins, whichever client repeats it."""
        ...


class TransactionalPublish(Protocol):
    """Capability `transactional_publish`: messages that become visible together."""

    def transaction(self) -> AbstractAsyncContextManager[ProducerProtocol]:
        """What is published to the yielded producer is delivered when the context ends, and not at all if that raises."""
        ...


class MessageTTL(Protocol):
    """Capability `message_ttl`: messages that nobody wants after a while."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        ttl: float | None = None,
    ) -> object:
        """Not delivered to who first asks more than *ttl* seconds later, give or take `ttl_resolution`."""
        ...


class StrictTopics(Protocol):
    """Capability `strict_topics`: `publish` to a topic that nobody made raises `TopicNotFoundError`. Without it, one is made."""


class OrderingByKey(Protocol):
    """Capability `ordering_by_key`: messages of one key arrive in the order of their publication."""


class FullProducer(
    ProducerProtocol,
    MessageIds,
    BatchPublish,
    AtomicBatch,
    Deduplication,
    TransactionalPublish,
    MessageTTL,
    StrictTopics,
    OrderingByKey,
    Lifecycle,
    Protocol,
):
    """A producer with every capability of the contract: what the rules are written for, each within what it needs."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> object: ...


class ProducerCells(TopicCells):
    """The topics of one suite, written by the producer under test."""

    lacks = frozenset({"probes"})  # Whatever a producer does, it writes.

    operations = (
        Operation("publish", lambda p, n, t: p.publish(n, t.encode()), "publish", writes=True),
        Operation(
            "publish_many",
            lambda p, n, t: _publish_many(p, n, t.encode()),
            "publish_many",
            "batch_publish",
            writes=True,
        ),
        Operation(
            "publish with message_id",
            lambda p, n, t: p.publish(n, t.encode(), message_id=t[:64]),
            "publish",
            "deduplication",
            argument="message_id",
            writes=True,
        ),
        Operation("transaction", lambda p, n, t: _commit(p, n, t), "transaction", "transactional_publish", writes=True),
        Operation(
            "publish with ttl",
            lambda p, n, t: p.publish(n, t.encode(), ttl=3600.0),
            "publish",
            "message_ttl",
            argument="ttl",
            writes=True,
        ),
    )
    refusals = (
        Operation("publish of text", lambda p, n, t: p.publish(n, t), "publish", refusal=InvalidArgumentError),
        Operation(
            "publish with a header of bytes",
            lambda p, n, t: p.publish(n, b"", None, {"h": t.encode()}),
            "publish",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "publish with a key of bytes",
            lambda p, n, t: p.publish(n, b"", t.encode()),
            "publish",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "publish_many of text",
            lambda p, n, t: _publish_many(p, n, t),
            "publish_many",
            "batch_publish",
            refusal=InvalidArgumentError,
        ),
    )


async def _commit(provider: Any, name: str, token: str) -> None:
    async with provider.transaction() as transaction:
        await transaction.publish(name, token.encode())


async def _publish_many(provider: Any, name: str, payload: Any) -> object:
    """The result of a batch of one message, or its error."""
    (result,) = await provider.publish_many(name, [OutgoingMessage(payload)])
    if result.error is not None:
        raise result.error
    return result


PAYLOADS: Mapping[str, bytes] = {
    "text": b"payload",
    "none": b"",
    "every byte": bytes(range(256)),
    "no UTF-8": b"\xff\xfe\x80",
    "zeros": bytes(5),
    "JSON": b'{"payload": "e30="}',
    "base64": b"cGF5bG9hZA==",
    "line ends": b"a\r\nb\n\r\n",
    "a pickle's head": b"\x80\x04\x95",
    "64 KiB": bytes(range(256)) * 256,
}

KEYS: Mapping[str, str | None] = {
    "none": None,
    "text": "key",
    "None as text": "None",
    "digits": "1",
    "a space": " ",
    "beyond ASCII": "caf\u00e9 \U0001f511",
    "the longest": "k" * 128,
}

HEADERS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "one": {"x-trace-id": "0af7651916cd43dd8448eb211c80319c"},
    "an empty value": {"x-empty": ""},
    "names in two cases": {"Name": "1", "name": "2"},
    "beyond ASCII": {"caf\u00e9": "\U0001f511"},
    "spaces around": {"x-space": " a "},
    "values that spell other types": {"a": "1", "b": "true", "c": "null", "d": "1.0"},
    "eight": {f"header-{number}": f"value {number}" for number in range(8)},
}

SHORTEST_TTL = 0.1
"""Seconds that a message is given at least, where a provider declares that its clock is exact."""

MOST_HEADERS = 1000
"""Headers of a message beyond which no limit is looked for."""

INJECTED: Mapping[str, Mapping[str, str]] = {
    "a line end in a value": {"x": "1\r\nx-admin: yes"},
    "a line feed in a value": {"x": "1\nx-admin: yes"},
    "a line end in a name": {"x\r\nx-admin": "yes"},
    "a colon in a name": {"x-admin: yes": "1"},
    "an empty line in a value": {"x": "1\r\n\r\nbody"},
    "a zero in a value": {"x": "1\x00x-admin"},
}
"""Headers that an application was talked into. They arrive as they are, or are refused."""


class ProducerTrial(MessagingTrial[FullProducer]):
    """The words of the rules of `ProducerContract`."""

    async def check_arrival(self, producer: FullProducer, payload: bytes, key: str | None, headers: Mapping[str, str]) -> None:
        inbox = await self.inbox(producer, self.key())
        await producer.publish(inbox.topic, payload, key, headers)
        self.check_message(await inbox.one("one message"), (payload, key, headers), "what arrived")

    async def publish_and_raise(self, producer: FullProducer, topic: str, error: Exception) -> None:
        async with producer.transaction() as transaction:
            await transaction.publish(topic, b"rolled back")
            raise error


def _check_suite(cls: Any) -> None:
    if "strict_topics" in cls.declared and "create_topic" not in cls._omnitck_plan.supplied:
        raise UsageError(f"{cls.__qualname__} declares strict_topics, but has no hook `create_topic` to make one.")


class ProducerContract(MessagingRules):
    """Certifies a producer."""

    definition = Definition(
        name="producer",
        version="1.0",
        prefix="PRD",
        protocols={
            "": ProducerProtocol,
            "message_ids": MessageIds,
            "batch_publish": BatchPublish,
            "atomic_batch": AtomicBatch,
            "deduplication": Deduplication,
            "transactional_publish": TransactionalPublish,
            "message_ttl": MessageTTL,
            "strict_topics": StrictTopics,
            "ordering_by_key": OrderingByKey,
            "lifecycle": Lifecycle,
        },
        hooks=TOPIC_HOOKS,
        limits=MessageLimits,
        follows={"transaction": "transaction"},
        cells=ProducerCells,
        check=_check_suite,
    )
    trial: ClassVar[type[Trial[Any]]] = ProducerTrial

    # One message

    @rule("PRD-01")
    async def test_prd_01_the_payload_arrives(self, t: ProducerTrial) -> None:
        """A published payload arrives as `bytes`, once.

        Catches an envelope that is not removed, and a payload that was quoted as JSON.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        await producer.publish(inbox.topic, b"hello world")
        came = await inbox.rest(producer)
        t.same([each.payload for each in came], [b"hello world"], given="the payloads after one publish")

    @rule("PRD-02")
    async def test_prd_02_the_key_arrives(self, t: ProducerTrial) -> None:
        """The key arrives equal, and no key as `None`.

        Catches the text "None", and a key that only routes. Keys have up to 128 characters.
        """
        producer = await t.connect()
        for label, key in KEYS.items():
            with t.case(label):
                await t.check_arrival(producer, b"payload", key, {})

    @rule("PRD-03")
    async def test_prd_03_headers_arrive(self, t: ProducerTrial) -> None:
        """The headers that arrive equal those that were published: names in their case, values as text, and no others.

        Catches names in lower case, bytes in place of text, and headers of the client's own that leak in.
        """
        producer = await t.connect()
        for label, headers in HEADERS.items():
            with t.case(label):
                await t.check_arrival(producer, b"payload", "key", headers)

    @rule("PRD-04")
    async def test_prd_04_no_headers_are_an_empty_mapping(self, t: ProducerTrial) -> None:
        """Without headers, `{}` arrives.

        Catches a trace id or `x-delay` that shows, and None.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        await producer.publish(inbox.topic, b"payload")
        message = await inbox.one("a message without headers")
        t.check(
            message.headers == {} and message.key is None,
            given="key and headers of a message that has none",
            expected="None and {}",
            observed=(message.key, message.headers),
        )

    @rule("PRD-05")
    async def test_prd_05_payloads_are_not_interpreted(self, t: ProducerTrial) -> None:
        """Every byte, invalid UTF-8, zeros and the empty payload arrive unchanged.

        Catches a body that is text: SQS allows only the characters of XML, so a provider encodes.
        """
        producer = await t.connect()
        for label, payload in PAYLOADS.items():
            with t.case(label):
                await t.check_arrival(producer, payload, None, {})

    @rule("PRD-06", "limits")
    async def test_prd_06_the_largest_payload_arrives(self, t: ProducerTrial) -> None:
        """A payload of exactly `value_bytes`, with as many headers as `headers` says, arrives whole.

        Catches base64 that was not counted, and a frame that is cut. Of limits above 16 MiB and 1000 headers only so much is
        tried.
        """
        producer = await t.connect()
        size = t.largest()
        payload = t.token(size)[:size].encode()
        headers = {f"header-{number}": "value" for number in range(min(t.numbers().headers, MOST_HEADERS))}
        await t.check_arrival(producer, payload, "k" * 128, headers)

    @rule("PRD-07", "limits")
    async def test_prd_07_a_larger_payload_is_refused(self, t: ProducerTrial) -> None:
        """A payload of one byte more than `value_bytes` raises `TooLargeError`, delivers nothing, and the next `publish` works.

        Catches a broker that closes the channel, and a client that stays dead with it. A limit above 16 MiB is not tried.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        size = t.numbers().value_bytes + 1
        if size > t.largest() + 1:
            t.not_provoked(f"a payload of {size} bytes is too much to try")
        await t.refused(
            lambda: producer.publish(inbox.topic, bytes(size)), TooLargeError, given=f"publish of a payload of {size} bytes"
        )
        t.check_nothing(await inbox.rest(producer), "a payload that was refused")

    @rule("PRD-08", hook="crash")
    async def test_prd_08_what_was_accepted_survives_its_producer(self, t: ProducerTrial) -> None:
        """A message whose `publish` has returned arrives although its producer vanishes at once.

        Catches a linger buffer, a missing publisher confirm, and fire-and-forget.
        """
        producer, other = await t.clients(2)
        inbox = await t.inbox(other, t.key())
        await producer.publish(inbox.topic, b"accepted")
        await t.crash(producer)
        came = await inbox.rest(await t.connect() if other is producer else other)
        t.same([each.payload for each in came], [b"accepted"], given="the payloads after the producer's crash")

    # Many messages

    @rule("PRD-09", deadline=30)
    async def test_prd_09_concurrent_messages_are_not_mixed(self, t: ProducerTrial) -> None:
        """20 tasks that publish 10 messages each on one client: all arrive, once, none mixed with another.

        Payload, key and header of each carry the same id. Catches a shared buffer, and confirms that are given to the wrong call.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        traffic = Traffic()

        async def publish(task: int) -> None:
            for number in range(10):
                await traffic.publish(t, producer, inbox.topic, f"m-{task}-{number}", f"k{task}")

        await gather(partial(publish, task) for task in range(20))
        await t.check_traffic(traffic, inbox, producer)

    @rule("PRD-10", "shared", deadline=30)
    async def test_prd_10_a_topic_has_several_producers(self, t: ProducerTrial) -> None:
        """What two clients publish to one topic arrives, all of it.

        Catches a queue that its first client has for itself.
        """
        clients = await t.clients(2)
        inbox = await t.inbox(clients[0], t.key())
        traffic = Traffic()
        await gather(
            partial(traffic.publish, t, client, inbox.topic, f"m-{number}-{place}", None)
            for place, client in enumerate(clients)
            for number in range(20)
        )
        await t.check_traffic(traffic, inbox, clients[0])

    @rule("PRD-11", deadline=30)
    async def test_prd_11_a_message_reaches_its_topic_alone(self, t: ProducerTrial) -> None:
        """A message reaches no topic but its own: none whose name begins its name, or matches it as a pattern.

        Catches routing by prefix, and the wildcards of AMQP, NATS and MQTT.
        """
        producer = await t.connect()
        start = t.key("t")
        names = [start + end for end in ("", ".x", "_x", "/x", "-x", ".*", ".>", ".#", "*", "#", "+")]
        inboxes = {}
        for name in names:
            with t.case(f"the name {describe(name)}"), t.refusable(name):
                inboxes[name] = await t.inbox(producer, name)
        for name in inboxes:
            await producer.publish(name, name.encode())
        for name, inbox in inboxes.items():
            with t.case(describe(name)):
                t.same(
                    [each.payload for each in await inbox.rest(producer)],
                    [name.encode()],
                    given=f"the payloads that reached {describe(name)}, beside topics with similar names",
                )

    @rule("PRD-12", deadline=30)
    async def test_prd_12_a_cancelled_message_arrives_once_at_most(self, t: ProducerTrial) -> None:
        """A cancelled `publish` leaves one message or none, never two, and an intact one.

        Cancelled wherever it waits. Catches a retry that survives its cancellation.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        # Of all cases together: what was cancelled in one may take effect after its topic was read.
        published: list[str] = []
        came: list[bytes] = []
        for operation in (each for each in t.operations() if each.writes):
            with t.case(operation.name):

                def publish(o: Operation = operation) -> Any:
                    published.append(t.token(2000))
                    return partial(o.call, producer, inbox.topic, published[-1])

                async for _ in sweep(publish, within=t.cancel_seconds):
                    pass
                came += [each.payload for each in await inbox.rest(producer)]
                for each in published:
                    t.check(
                        came.count(each.encode()) <= 1,
                        given=f"{operation.name}, cancelled",
                        expected="one message at most",
                        observed=Plain(f"{came.count(each.encode())}"),
                    )
                t.same(
                    sorted(set(came) - {each.encode() for each in published}),
                    [],
                    given=f"what arrived after {operation.name} was cancelled, and was not published",
                )

    @rule("PRD-13", "availability", deadline=30)
    async def test_prd_13_without_a_broker_publishing_fails(self, t: ProducerTrial) -> None:
        """Without its broker `publish` raises `PublishError`, which has the reason as its cause.

        Catches the producer that returns silently. `PublishError` is an `UnavailableError`: the call may be repeated.
        """
        if not t.has("unreachable_provider"):
            t.not_provoked("the suite has no unreachable_provider")
        connected = await t.unreachable()
        producer: Any = connected.value
        tried = connected if connected.error else await attempt(lambda: producer.publish(t.key(), b"payload"))
        t.check(
            isinstance(tried.error, PublishError) and tried.error.__cause__ is not None,
            given="publish without a broker",
            expected="PublishError with a __cause__",
            observed=Plain(describe_error(tried.error) if tried.error else "it returned"),
        )

    @rule("PRD-14")
    async def test_prd_14_arguments_are_captured_when_publish_is_called(self, t: ProducerTrial) -> None:
        """Headers that their caller changes while `publish` is under way arrive as they were when it was called.

        Catches serialisation that is put off.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        headers, called = {"h": "as it was"}, anyio.Event()

        async def publish() -> None:
            called.set()
            await producer.publish(inbox.topic, b"payload", None, headers)

        async def change() -> None:
            if not called.is_set():
                await called.wait()
            headers["h"] = "changed"
            headers["another"] = "added"

        published, _ = await together([publish, change])
        published.result()
        t.check_message(
            await inbox.one("a message whose headers were changed"), (b"payload", None, {"h": "as it was"}), "what arrived"
        )

    @rule("PRD-15", "validation")
    async def test_prd_15_other_types_are_refused(self, t: ProducerTrial) -> None:
        """A payload that is no `bytes`, and a key or a header that is no text, raise `InvalidArgumentError` and deliver nothing.

        Catches silent `str()`. Keys have 1 to 128 characters, names of headers at least one.
        """
        producer: Any = await t.connect()
        inbox = await t.inbox(producer, t.key())
        for label, arguments in {
            **{f"the payload {describe(each)}": (each,) for each in ("text", bytearray(b"x"), 1, None, ["a"], {"a": 1})},
            **{f"the key {describe(each)}": (b"", each) for each in (b"bytes", 1, "", "k" * 129, "a\ud800", ["a"])},
            **{
                f"the headers {describe(each)}": (b"", None, each)
                for each in ("text", ["a"], {"a": 1}, {"a": b"x"}, {1: "a"}, {"a": None}, {"": "a"}, {"a": "\ud800"})
            },
        }.items():
            with t.case(label):
                await t.refused(
                    partial(producer.publish, inbox.topic, *arguments), InvalidArgumentError, given=f"publish with {label}"
                )
        t.check_nothing(await inbox.rest(producer), "messages that were refused")

    @rule("PRD-16", deadline=30)
    async def test_prd_16_headers_cannot_be_injected(self, t: ProducerTrial) -> None:
        """Headers with line ends, colons and zeros arrive as they are or are refused with `InvalidArgumentError`.

        They never become another header. Catches NATS and HTTP, whose headers are lines.
        """
        producer = await t.connect()
        for label, headers in INJECTED.items():
            with t.case(label):
                inbox = await t.inbox(producer, t.key())
                tried = await attempt(partial(producer.publish, inbox.topic, b"payload", "key", headers))
                if isinstance(tried.error, InvalidArgumentError):
                    t.check_nothing(await inbox.rest(producer), "a message that was refused")
                    continue

                tried.result()
                t.check_message(await inbox.one("one message"), (b"payload", "key", headers), "what arrived")

    @rule("PRD-17", "lifecycle", "shared", deadline=30)
    async def test_prd_17_closing_loses_nothing_that_was_accepted(self, t: ProducerTrial) -> None:
        """Of messages that are under way when `close` is called, each whose `publish` returned arrives; the others raised.

        Catches a buffer that is dropped at the end.
        """
        producer, other = await t.clients(2)
        inbox = await t.inbox(other, t.key())
        traffic = Traffic()

        under_way = set(range(5))

        async def publish(task: int) -> None:
            try:
                for number in range(20):
                    await traffic.publish(t, producer, inbox.topic, f"m-{task}-{number}")
            finally:
                under_way.discard(task)

        async def close() -> None:
            # One of them is accepted, or the first of each has failed.
            while not any(each.ret for each in traffic.publications) and under_way:
                await anyio.lowlevel.checkpoint()
            await producer.close()

        calls: list[Call[None]] = [*(partial(publish, task) for task in range(5)), close]
        *tried, closed = await together(calls)
        closed.result()
        for each in tried:
            t.check(
                each.error is None or isinstance(each.error, TCKError),
                given="publish while close() is called",
                expected="its result or a TCKError",
                observed=Plain(describe_error(each.error) if each.error else ""),
            )
        await t.check_traffic(traffic, inbox, other)

    # ordering_by_key

    @rule("PRD-18", "ordering_by_key", deadline=30)
    async def test_prd_18_a_key_keeps_its_order(self, t: ProducerTrial) -> None:
        """Messages that were published one after another with one key arrive in that order.

        5 keys, 20 messages each, from one client. Catches a partitioner that goes round, and a retry that is overtaken.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        traffic = Traffic()

        async def publish(key: int) -> None:
            for number in range(20):
                await traffic.publish(t, producer, inbox.topic, f"m-{key}-{number}", f"k{key}")

        await gather(partial(publish, key) for key in range(5))
        await t.check_traffic(traffic, inbox, producer, order=Order.FIRST)

    # batch_publish

    @rule("PRD-19", "batch_publish", deadline=30)
    async def test_prd_19_a_batch_has_any_number(self, t: ProducerTrial) -> None:
        """`publish_many` delivers every message and returns one result for each, in their order, whatever their number.

        None, and more than twice `batch_size`. Catches the limit of 10 messages of SQS.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        t.same(list(await producer.publish_many(inbox.topic, [])), [], given="publish_many of no message")
        count = min(2 * t.numbers().batch_size + 1, 2001)
        messages = [OutgoingMessage(b"%d" % number, f"k{number}", {"n": str(number)}) for number in range(count)]
        results = list(await producer.publish_many(inbox.topic, messages))
        t.check(
            len(results) == count and all(isinstance(each, PublishResult) and each.error is None for each in results),
            given=f"publish_many of {count} messages",
            expected=f"{count} results without an error",
            observed=Plain(f"{len(results)} results, {sum(bool(each.error) for each in results)} of them with an error"),
        )
        came = await inbox.rest(producer)
        t.check_listing([each.payload.decode() for each in came], map(str, range(count)), f"publish_many of {count} messages")
        if "message_ids" in t.declared and came and hasattr(came[0], "message_id"):
            t.same(
                {each.payload: each.message_id for each in came},
                {each.payload: result.message_id for each, result in zip(messages, results, strict=True)},
                given="the ids of the messages, and those in the results",
            )

    @rule("PRD-20", "batch_publish")
    async def test_prd_20_a_bad_message_fails_alone(self, t: ProducerTrial) -> None:
        """A message that cannot be published has its error in its own result, and the others arrive; with `atomic_batch`, none.

        Catches the list of failures in a reply whose status is 200, which nobody reads. What cannot be published is what `limits`
        or `validation` refuses: a payload that is too large, or text.
        """
        producer = await t.connect()
        size = t.numbers().value_bytes + 1
        if "limits" in t.declared and size <= t.largest() + 1:
            bad: Any = bytes(size)
        elif "validation" in t.declared:
            bad = "text"
        else:
            t.not_provoked("no message must be refused: neither `validation` nor `limits` below 16 MiB is declared")
        inbox = await t.inbox(producer, t.key())
        payloads: list[Any] = [b"0", b"1", bad, b"3", b"4"]
        results = list(await producer.publish_many(inbox.topic, [OutgoingMessage(each) for each in payloads]))
        came = sorted(each.payload for each in await inbox.rest(producer))
        good = [] if "atomic_batch" in t.declared else [b"0", b"1", b"3", b"4"]
        t.same(came, good, given="the payloads after publish_many of five, of which the third cannot be published")
        failed = [isinstance(each.error, TCKError) for each in results]
        t.same(
            failed,
            [True] * 5 if "atomic_batch" in t.declared else [False, False, True, False, False],
            given="which of the five results have a TCKError",
        )

    # deduplication

    @rule("PRD-21", "deduplication")
    async def test_prd_21_a_repeated_id_is_delivered_once(self, t: ProducerTrial) -> None:
        """A message that is published twice under one `message_id` arrives once; under two, twice, though it is the same.

        From two clients. Catches deduplication by content, and one that each process does for itself.
        """
        one, two = await t.clients(2)
        inbox = await t.inbox(one, t.key())
        first, *others = (t.key("id")[-60:] for _ in range(3))
        for client, payload, id in (
            (one, b"first", first),
            (one, b"again", first),
            (two, b"elsewhere", first),
            (one, b"same", others[0]),
            (two, b"same", others[1]),
        ):
            await client.publish(inbox.topic, payload, message_id=id)
        came = sorted(each.payload for each in await inbox.rest(one))
        t.same(came, [b"first", b"same", b"same"], given="what arrived of five messages, three of them with one message_id")

    # transactional_publish

    @rule("PRD-22", "transactional_publish")
    async def test_prd_22_a_transaction_is_all_or_nothing(self, t: ProducerTrial) -> None:
        """What a transaction published arrives when it has ended, all of it, and nothing if its body raised or was cancelled.

        Nothing is visible before. Catches `except Exception`, past which a cancellation goes.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        async with producer.transaction() as transaction:
            await transaction.publish(inbox.topic, b"1")
            await transaction.publish(inbox.topic, b"2")
            t.check_nothing(await inbox.rest(producer), "messages of a transaction that goes on")
        t.same(sorted(each.payload for each in await inbox.rest(producer)), [b"1", b"2"], given="the payloads of a transaction")

        error = LookupError("raised in the body")
        tried = await attempt(partial(t.publish_and_raise, producer, inbox.topic, error))
        t.check(
            tried.error is error,
            given="an exception in the body of a transaction",
            expected="the same exception outside",
            observed=Plain(describe_error(tried.error) if tried.error else "no exception"),
        )
        t.check_nothing(await inbox.rest(producer), "messages of a transaction whose body raised")

        with anyio.CancelScope() as scope:
            async with producer.transaction() as transaction:
                await transaction.publish(inbox.topic, b"cancelled")
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        t.check_nothing(await inbox.rest(producer), "messages of a transaction that was cancelled")

    # message_ttl

    @rule("PRD-23", "message_ttl")
    async def test_prd_23_an_old_message_is_not_delivered(self, t: ProducerTrial) -> None:
        """A message that nobody took within its `ttl` is not delivered any more, and one with a longer ttl is.

        Catches seconds that are taken for milliseconds. Nobody may take messages meanwhile, so a provider whose own subscriptions
        cannot be stopped does not show it.
        """
        producer = await t.connect()
        topic = t.key()
        ttl = max(t.numbers().min_ttl, t.numbers().ttl_resolution, SHORTEST_TTL)
        inbox = await t.inbox(producer, topic)
        await inbox.pause()
        await producer.publish(topic, b"short", ttl=ttl)
        await producer.publish(topic, b"long", ttl=3600.0)
        await producer.publish(topic, b"for ever")
        await t.wait(ttl + 2 * t.numbers().ttl_resolution)
        await inbox.resume()
        came = sorted(each.payload for each in await inbox.rest(producer))
        t.same(
            came, [b"for ever", b"long"], given=f"what arrived {ttl:g} s later of messages with a ttl of {ttl:g} s, an hour, none"
        )

    # strict_topics

    @rule("PRD-24", "strict_topics")
    async def test_prd_24_an_unknown_topic_is_an_error(self, t: ProducerTrial) -> None:
        """`publish` to a topic that nobody made raises `TopicNotFoundError`; making the client does not.

        With `validation` the error names the topic. Catches RabbitMQ without `mandatory`, which confirms a message that goes
        nowhere.
        """
        producer = await t.connect()
        topic = t.key("unknown")
        error = await t.refused(lambda: producer.publish(topic, b"x"), TopicNotFoundError, given="publish to an unknown topic")
        t.check_names(error, topic, given="the error")
        inbox = await t.inbox(producer, t.key())
        t.check_nothing(await inbox.rest(producer), "a topic that was made, after publishing to another")

    # The network

    @rule("PRD-25", deadline=60)
    async def test_prd_25_a_cut_connection_loses_nothing_that_was_accepted(self, t: ProducerTrial) -> None:
        """With the connection cut in the middle of 100 messages, each whose `publish` returned arrives.

        And the same client works once the network is back. Catches what was written to a socket and taken for sent, and the
        client that does not connect again.
        """
        other = await t.connect()
        inbox = await t.inbox(other, t.key())
        traffic = Traffic()
        async with t.faulty() as (producer, cut, heal):

            async def publish(*numbers: int) -> None:
                for number in numbers:
                    await attempt(partial(traffic.publish, t, producer, inbox.topic, f"m-{number}", None))

            await publish(*range(50))
            async with t.outage(cut, heal):
                await publish(*range(50, 60))
            await publish(*range(60, 100))
            await t.works_again(
                lambda: traffic.publish(t, producer, inbox.topic, f"m-again-{len(traffic.publications)}"),
                "publish with the same client, once the network is back",
            )
        await t.check_traffic(traffic, inbox, other)

    # message_ids

    @rule("PRD-26", "message_ids")
    async def test_prd_26_an_id_is_the_messages_own(self, t: ProducerTrial) -> None:
        """`publish` returns an id, as text that is not empty, another one for each message; consumers get the message under it.

        Catches the number of a channel's delivery, which begins again with each connection.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        ids = [await producer.publish(inbox.topic, b"%d" % number) for number in range(5)]
        t.check(
            all(type(each) is str and each for each in ids) and len(set(ids)) == 5,
            given="the results of 5 calls of publish",
            expected="5 different texts",
            observed=ids,
        )
        came = await inbox.rest(producer)
        if all(getattr(each, "message_id", "") for each in came):
            t.same(
                sorted((each.payload, each.message_id) for each in came),
                [(b"%d" % number, id) for number, id in enumerate(ids)],
                given="the messages that arrived, with their ids",
            )

    # atomic_batch

    @rule("PRD-27", "atomic_batch", "batch_publish", deadline=30)
    async def test_prd_27_a_cancelled_batch_is_all_or_nothing(self, t: ProducerTrial) -> None:
        """A cancelled `publish_many` leaves all its messages or none.

        Cancelled wherever it waits. Catches the batch that is sent message by message.
        """
        producer = await t.connect()
        inbox = await t.inbox(producer, t.key())
        batches: list[list[bytes]] = []

        def publish() -> Any:
            batches.append([t.token().encode() for _ in range(5)])
            return partial(producer.publish_many, inbox.topic, [OutgoingMessage(each) for each in batches[-1]])

        async for _ in sweep(publish, within=t.cancel_seconds):
            pass
        came = [each.payload for each in await inbox.rest(producer)]
        for batch in batches:
            count = sum(each in came for each in batch)
            t.check(
                count in (0, 5),
                given="publish_many of 5 messages, cancelled",
                expected="all of them or none",
                observed=Plain(f"{count} of them"),
            )
