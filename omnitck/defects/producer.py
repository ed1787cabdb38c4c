"""Broken producers, in the order of the rules that reject them."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.broker import Entry
from omnitck.reference.client import Cell
from omnitck.reference.producer import MemoryProducer, Transaction
from omnitck.shared.exceptions import ClosedError, InvalidArgumentError, PublishError, TCKError, TooLargeError, UnavailableError
from omnitck.shared.models import ConsumedMessage, OutgoingMessage, PublishResult

# The common family

break_with(
    MemoryProducer,
    {
        clients.UnknownCapability: "PRD-COM-02",
        clients.CapabilitiesAsText: "PRD-COM-02",
        clients.StaleAdvertisement: "PRD-COM-04",
        clients.UnflushedBuffer: "PRD-COM-06 PRD-17",
        clients.DoubleRelease: "PRD-COM-07",
        clients.SilentReconnect: "PRD-COM-08",
        clients.SwallowingExit: "PRD-COM-09",
        clients.SharedPool: "PRD-COM-06 PRD-COM-10 MT-16 PRD-17",
        clients.OrphanedTask: "PRD-COM-11",
        clients.LeakingVendorError: "PRD-COM-12 PRD-13",
        clients.SwallowedCancellation: "PRD-COM-14",
        clients.DefaultOnCancellation: "PRD-COM-14",
        clients.SharedCursor: "PRD-COM-15 PRD-COM-18 MT-14",
        clients.CoercedKey: "PRD-COM-19",
        clients.NormalisedKey: "PRD-COM-20",
        clients.TruncatedKey: "PRD-COM-21",
        clients.BlockingCall: "PRD-COM-23",
        clients.PrintedPassword: "PRD-COM-24",
        clients.CrashedWorker: "PRD-COM-25",
        clients.CancelsItsCaller: "PRD-COM-26",
        clients.ForgottenTimer: "PRD-COM-26",
    },
)


@breaks("PRD-COM-01", "PRD-COM-04")
class RenamedParameter(MemoryProducer):
    """`publish` calls its payload `body`."""

    async def publish(
        self,
        topic: str,
        body: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        return await super().publish(topic, body, key, headers, message_id=message_id, ttl=ttl)


@breaks("PRD-COM-03", without="message_ttl")
class IgnoredTTL(MemoryProducer):
    """`ttl` is taken, and nothing is done with it."""

    def checked_ttl(self, topic: str, ttl: object) -> float:
        return math.inf


@breaks("PRD-COM-05", "PRD-COM-06", "PRD-COM-16", "MT-17", "PRD-08", "PRD-10", "PRD-17", "PRD-21", "PRD-25")
class ExclusiveTopic(MemoryProducer):
    """The queue belongs to the first client that publishes to it, and the broker drops what others send."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        owners = self.backend.__dict__.setdefault("owners", {})
        if owners.setdefault(self.cell(topic), self) is not self:
            return self.backend.new_id()
        return super().put(topic, message, ttl=ttl)


@breaks("PRD-COM-13")
class QuotedPayload(MemoryProducer):
    """The error of a payload of the wrong type quotes it."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        if isinstance(payload, str):
            raise InvalidArgumentError(f"topic {topic!r}: {payload!r} is no bytes")
        return super().message(topic, payload, key, headers)


@breaks("PRD-COM-16", "PRD-12")
class TornMessage(MemoryProducer):
    """A publication that is cancelled leaves the first half of its payload."""

    async def publish(self, topic: str, payload: bytes, *arguments: Any, **keywords: Any) -> str:
        try:
            return await super().publish(topic, payload, *arguments, **keywords)
        except anyio.get_cancelled_exc_class():
            self.put(topic, ConsumedMessage(payload[: len(payload) // 2]))
            raise


@breaks("PRD-COM-17", "PRD-14")
class AliasedHeaders(MemoryProducer):
    """The message keeps its caller's headers."""

    def checked_headers(self, topic: str, headers: object) -> dict[str, str]:
        super().checked_headers(topic, headers)
        return headers if isinstance(headers, dict) else {}


@breaks("PRD-COM-22", "PRD-07", "PRD-20")
class TruncatedPayload(MemoryProducer):
    """What is too long is cut, without a word."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        return super().message(topic, payload[: self.limits.value_bytes] if isinstance(payload, bytes) else payload, key, headers)


# One message


@breaks(
    "PRD-01",
    "MT-02",
    "MT-04",
    "MT-07",
    "MT-09",
    "MT-10",
    "MT-13",
    "MT-15",
    "MT-20",
    "PRD-08",
    "PRD-11",
    "PRD-12",
    "PRD-21",
    "PRD-22",
    "PRD-23",
    "PRD-26",
    "PRD-COM-05",
    "PRD-COM-15",
    "PRD-COM-16",
    "PRD-COM-22",
)
class SentTwice(MemoryProducer):
    """What has neither a key nor headers goes twice: the first answer is overlooked."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        if message.key is None and not message.headers:
            super().put(topic, message, ttl=ttl)
        return super().put(topic, message, ttl=ttl)


class Altered(MemoryProducer):
    """Base of a defect that changes a message on its way."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        return self.altered(super().message(topic, payload, key, headers))

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        """What arrives in the place of *message*."""
        return message


@breaks("PRD-02", "PRD-06")
class CutKey(Altered):
    """The broker's routing key has 100 characters."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, key=message.key and message.key[:100])


@breaks("PRD-02", "PRD-04", "PRD-05", "PRD-10", "PRD-14", "PRD-25", "PRD-17")
class TextOfNone(Altered):
    """No key arrives as the text "None"."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, key=str(message.key))


@breaks("PRD-03")
class LowerCaseNames(Altered):
    """Names of headers are in lower case, as HTTP/2 has them."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers={name.lower(): value for name, value in message.headers.items()})


@breaks("PRD-03", "PRD-COM-17", "PRD-06", "PRD-09", "PRD-10", "PRD-14", "PRD-16", "PRD-17", "PRD-18", "PRD-25")
class BytesValues(Altered):
    """Values of headers arrive as bytes."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        headers: Any = {name: value.encode() for name, value in message.headers.items()}
        return replace(message, headers=headers)


@breaks("PRD-02", "PRD-03", "PRD-04", "PRD-05")
class LeakedHeader(Altered):
    """A message without headers arrives with the client's own."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, headers=message.headers or {"traceparent": "00-0-0-00"})


@breaks("PRD-05")
class TextBody(Altered):
    """The body is text, and what is none is replaced."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        return replace(message, payload=message.payload.decode(errors="replace").encode())


@breaks("PRD-05")
class ParsedBody(Altered):
    """A payload that looks like JSON is parsed, and written anew."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        try:
            return replace(message, payload=json.dumps(json.loads(message.payload), separators=(",", ":")).encode())
        except ValueError:
            return message


@breaks("PRD-06", "PRD-05", "PRD-COM-22")
class UncountedEncoding(MemoryProducer):
    """The limit of the broker counts base64, and the declared one does not."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        message = super().message(topic, payload, key, headers)
        if len(message.payload) * 4 // 3 > self.limits.value_bytes:
            raise TooLargeError(f"topic {topic!r}: the payload is too long")
        return message


@breaks("PRD-07", "PRD-20", "PRD-COM-21", "PRD-COM-22")
class DeadAfterRefusal(MemoryProducer):
    """The broker closes the channel when a message is too large, and the client does not open another."""

    dead = False

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        if self.dead:
            raise ClosedError("the channel is closed")
        try:
            return super().message(topic, payload, key, headers)
        except TooLargeError:
            self.dead = True
            raise


class Lingering(MemoryProducer):
    """Base of a defect that sends a moment after it has said so."""

    async def publish(self, topic: str, *arguments: Any, **keywords: Any) -> str:
        message = self.message(topic, *arguments[:3], *(None,) * (3 - len(arguments[:3])))
        if keywords or "batch" in topic:
            return await super().publish(topic, *arguments, **keywords)
        await self.publishing()
        self.check_topic(self.cell(topic))
        accepted = replace(message, message_id=self.backend.new_id())
        asyncio.get_running_loop().call_soon(self.send, topic, accepted)
        return accepted.message_id

    def send(self, topic: str, message: ConsumedMessage) -> None:
        """Hand *message* to the broker, unless that is too late."""
        if not self.too_late():
            self.backend.deliver(self.cell(topic), message)

    def too_late(self) -> bool:
        """Whether the buffer is gone."""
        return False


@breaks("PRD-08")
class LingerBuffer(Lingering):
    """`publish` returns while the message is in a buffer, and a crash loses it."""

    gone = False

    def vanish(self) -> None:
        super().vanish()
        self.gone = True

    def too_late(self) -> bool:
        return self.gone


# Many messages


@breaks("PRD-09", "PRD-10", "PRD-17", "PRD-18")
class SharedBuffer(MemoryProducer):
    """All publications of a client prepare their headers in one place."""

    headers: Mapping[str, str] = {}

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        message = super().message(topic, payload, key, headers)
        self.headers = message.headers
        return message

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        return super().put(topic, replace(message, headers=self.headers), ttl=ttl)


@breaks("PRD-11", "PRD-COM-20")
class PrefixRouting(MemoryProducer):
    """A message also reaches the topics below its own, as routing by prefix does."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        for cell in self.backend.cells():
            if cell.tenant == self.tenant_id and cell.name.startswith(topic + "."):
                self.backend.deliver(cell, message)
        return super().put(topic, message, ttl=ttl)


@breaks("PRD-11")
class Wildcard(MemoryProducer):
    """A star at the end of a topic is a wildcard for the broker."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        for cell in self.backend.cells():
            alike = cell.tenant == self.tenant_id and topic.endswith("*") and cell.name.startswith(topic[:-1])
            if alike and cell.name != topic:
                self.backend.deliver(cell, message)
        return super().put(topic, message, ttl=ttl)


@breaks("PRD-12")
class RetryAfterCancellation(MemoryProducer):
    """A cancelled publication has been sent, and is sent once more by the retry that nobody told."""

    async def publish(self, topic: str, payload: bytes, *arguments: Any, **keywords: Any) -> str:
        try:
            return await super().publish(topic, payload, *arguments, **keywords)
        except anyio.get_cancelled_exc_class():
            for _ in range(2):
                self.put(topic, ConsumedMessage(payload))
            raise


@breaks("PRD-13")
class PlainUnavailable(MemoryProducer):
    """Without a broker, `publish` raises an error that no `except PublishError` catches."""

    async def publishing(self) -> None:
        try:
            await super().publishing()
        except PublishError as error:
            raise UnavailableError("the broker does not answer") from error.__cause__


@breaks("PRD-13", "PRD-COM-12")
class NoCause(MemoryProducer):
    """Why a message was not accepted, nobody is told."""

    async def publishing(self) -> None:
        try:
            await super().publishing()
        except PublishError as error:
            raise PublishError(str(error)) from None


@breaks("PRD-14")
class LateSerialisation(MemoryProducer):
    """Headers are read when the connection is free, not when `publish` is called."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **keywords: Any,
    ) -> str:
        self.message(topic, payload, key, headers)
        await anyio.lowlevel.checkpoint()
        return await super().publish(topic, payload, key, headers, **keywords)


@breaks("PRD-15", "PRD-COM-13")
class EncodedText(MemoryProducer):
    """A payload that is text is encoded, without a word."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        return super().message(topic, payload.encode() if isinstance(payload, str) else payload, key, headers)


@breaks("PRD-15")
class AnyLengthOfKey(MemoryProducer):
    """A key may be empty, which other brokers take for none."""

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        return super().message(topic, payload, None if key == "" else key, headers)


@breaks("PRD-16")
class HeaderLines(Altered):
    """Headers travel as lines."""

    def altered(self, message: ConsumedMessage) -> ConsumedMessage:
        lines = "\r\n".join(f"{name}: {value}" for name, value in message.headers.items()).splitlines()
        if not any("\n" in each for pair in message.headers.items() for each in pair):
            return message
        return replace(message, headers=dict(line.split(": ", 1) for line in lines if ": " in line))


@breaks("PRD-17", "PRD-08", "PRD-COM-06")
class BufferDroppedAtClose(Lingering):
    """`close` drops what is in the buffer."""

    def too_late(self) -> bool:
        return self.closed


# ordering_by_key


@breaks("PRD-18")
class RoundRobin(MemoryProducer):
    """The messages of a key go to two partitions in turn."""

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        id = super().put(topic, message, ttl=ttl)
        for queue in self.backend.topics[self.cell(topic)].values():
            of_key = [number for number, each in enumerate(queue.entries) if each.message.key == message.key is not None]
            if len(of_key) >= 4 and len(of_key) % 4 == 0:
                entries: list[Entry] = queue.entries
                entries.insert(of_key[-2], entries.pop(of_key[-1]))
        return id


# batch_publish


@breaks("PRD-19")
class FirstTen(MemoryProducer):
    """Of a batch, the service takes ten messages."""

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        results = await super().publish_many(topic, list(messages)[:10])
        return results + [PublishResult(self.backend.new_id()) for _ in list(messages)[10:]]


@breaks("PRD-20", without="atomic_batch")
class AllOrNothing(MemoryProducer):
    """A message that is too large fails those beside it."""

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        errors = [each for each in (self.checked(topic, each) for each in messages) if isinstance(each, TCKError)]
        if errors:
            return [PublishResult(error=errors[0]) for _ in messages]
        return await super().publish_many(topic, messages)


@breaks("PRD-20")
class SomeOfThem(MemoryProducer):
    """`atomic_batch` is declared, and the messages beside a bad one are published."""

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        good = [each for each in messages if not isinstance(self.checked(topic, each), TCKError)]
        if len(good) < len(messages):
            await super().publish_many(topic, good)
        return await super().publish_many(topic, messages)


# deduplication


@breaks("PRD-21")
class DeduplicatedByContent(MemoryProducer):
    """Two messages with the same content are one, whatever their ids."""

    async def publish(self, topic: str, payload: bytes, *arguments: Any, message_id: str | None = None, **keywords: Any) -> str:
        if message_id is not None:
            message_id = f"{payload.hex()[:64]}"
        return await super().publish(topic, payload, *arguments, message_id=message_id, **keywords)


@breaks("PRD-21")
class DeduplicatedPerProcess(MemoryProducer):
    """Each client remembers the ids that it has sent."""

    async def publish(self, topic: str, payload: bytes, *arguments: Any, message_id: str | None = None, **keywords: Any) -> str:
        own = message_id if message_id is None else f"{id(self)}-{message_id}"
        return await super().publish(topic, payload, *arguments, message_id=own, **keywords)


# transactional_publish


@breaks("PRD-22")
class VisibleAtOnce(MemoryProducer):
    """What a transaction publishes is visible before its end."""

    def committing(self) -> Any:
        context = super().committing()
        producer = self

        class Context:
            async def __aenter__(self) -> Transaction:
                transaction = await context.__aenter__()
                publish = transaction.publish

                async def publish_now(topic: str, payload: bytes, *arguments: Any, **keywords: Any) -> None:
                    await publish(topic, payload, *arguments, **keywords)
                    producer.put(*transaction.messages.pop())

                transaction.publish = publish_now  # type: ignore[method-assign]
                return transaction

            async def __aexit__(self, *exc_info: Any) -> Any:
                return await context.__aexit__(*exc_info)

        return Context()


@breaks("PRD-22")
class CommittedWhenCancelled(MemoryProducer):
    """`except Exception` rolls back, and a cancellation is no `Exception`: the `finally` commits."""

    def committing(self) -> Any:
        context = super().committing()
        producer = self

        class Context:
            transaction: Transaction

            async def __aenter__(self) -> Transaction:
                self.transaction = await context.__aenter__()
                return self.transaction

            async def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
                if error is not None and not isinstance(error, Exception):
                    for topic, message in self.transaction.messages:
                        producer.put(topic, message)
                return await context.__aexit__(kind, error, trace)

        return Context()


# message_ttl, strict_topics, the network


@breaks("PRD-23")
class MillisecondsToLive(MemoryProducer):
    """Seconds are taken for something a thousand times as long."""

    def checked_ttl(self, topic: str, ttl: object) -> float:
        return super().checked_ttl(topic, ttl) * 1000


@breaks("PRD-24")
class ConfirmedUnroutable(MemoryProducer):
    """The broker confirms a message that goes nowhere."""

    def check_topic(self, cell: Cell) -> None:
        pass


@breaks("PRD-25", "PRD-COM-12", "PRD-13")
class WrittenIsSent(MemoryProducer):
    """What was written to a socket counts as sent."""

    async def publish(self, topic: str, payload: bytes, *arguments: Any, **keywords: Any) -> str:
        try:
            return await super().publish(topic, payload, *arguments, **keywords)
        except PublishError:
            return self.backend.new_id()


@breaks("PRD-25")
class DeadConnection(MemoryProducer):
    """A client whose connection was cut does not connect again."""

    cut = False

    async def publishing(self) -> None:
        self.cut = self.cut or not self.backend.reachable
        if self.cut:
            raise PublishError("the connection is closed") from ConnectionResetError("connection reset")
        await super().publishing()


# message_ids, atomic_batch


@breaks("PRD-26", "PRD-19")
class CountedByChannel(MemoryProducer):
    """The id is the number of the message on this channel."""

    sent = 0

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        super().put(topic, message, ttl=ttl)
        self.sent += 1
        return str(self.sent)


@breaks("PRD-27")
class OneByOne(MemoryProducer):
    """A batch is sent message by message."""

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        results = (
            [await super(OneByOne, self).publish_many(topic, [each]) for each in messages] if self._good(topic, messages) else []
        )
        return [each for result in results for each in result] or await super().publish_many(topic, messages)

    def _good(self, topic: str, messages: Sequence[OutgoingMessage]) -> bool:
        return not any(isinstance(self.checked(topic, each), TCKError) for each in messages)


# Tenants

break_with(
    MemoryProducer,
    {
        **tenants.EVERYWHERE,
        tenants.FoldedTenant: "MT-07 MT-09 MT-12 MT-13",
        tenants.InstanceIsTenant: "MT-01 MT-02 MT-04 MT-05 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-20",
        tenants.IgnoredTenant: "MT-01 MT-02 MT-04 MT-05 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-20",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        tenants.ParsedTenant: "MT-20",
    },
)

__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryProducer)]
