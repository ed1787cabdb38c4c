"""What the adapters of brokers share as publishers: which messages are refused, where a topic lives, and what travels with it.

A broker carries one text beside the payload: id, key and headers as JSON in ASCII. So no header can be injected, folded or
lost, whatever the broker's own headers can hold; and the payload itself travels as it is, if the broker takes bytes.
"""

import asyncio
import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from examples.common import arguments
from examples.common.client import Client
from omnitck.shared.exceptions import (
    InvalidArgumentError,
    PublishError,
    TCKError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import ConsumedMessage, DelayLimits, MessageLimits, OutboxLimits, OutgoingMessage, PublishResult

__all__ = ["DelayedPublisher", "Message", "Publisher", "check_delay", "check_headers", "check_message", "place"]

T = TypeVar("T")

KEY_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was checked."""

    topic: str
    payload: bytes
    key: str | None
    headers: Mapping[str, str]
    id: str

    def envelope(self) -> str:
        """All but topic and payload, as text in ASCII without line ends."""
        return json.dumps([self.id, self.key, self.headers], separators=(",", ":"))

    @classmethod
    def opened(cls, topic: str, payload: bytes, envelope: str | bytes) -> "Message":
        """The message that was published with *envelope*."""
        id, key, headers = json.loads(envelope)
        return cls(topic, payload, key, headers, id)

    def consumed(self, attempt: int) -> ConsumedMessage:
        """What the handler gets at the delivery of this number."""
        return ConsumedMessage(self.payload, self.key, dict(self.headers), self.topic, self.id, attempt)


def check_message(
    topic: object, payload: object, key: object, headers: object, limits: MessageLimits, *, id: str | None = None
) -> Message:
    """A copy of what is to be published, under *id* or a new one."""
    name = arguments.encode_key(topic, limits).decode()
    arguments.encode_bytes(topic, payload, limits)
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= KEY_CHARACTERS and _is_unicode(key)):
        raise InvalidArgumentError(f"topic {name!r}: a key is None, or text of 1 to {KEY_CHARACTERS} characters")
    assert isinstance(payload, bytes)
    return Message(name, payload, key, check_headers(name, headers, limits), id or uuid.uuid4().hex)


def check_headers(topic: str, headers: object, limits: MessageLimits | OutboxLimits) -> dict[str, str]:
    """A copy of *headers*; None is none."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError(f"topic {topic!r}: headers are a mapping, not {type(headers).__name__}")

    copied = dict(headers)
    for name, value in copied.items():
        if not (isinstance(name, str) and isinstance(value, str) and name and _is_unicode(name) and _is_unicode(value)):
            raise InvalidArgumentError(
                f"topic {topic!r}: names and values of headers are text without lone surrogates, no name empty"
            )
    if len(copied) > limits.headers:
        raise TooLargeError(f"topic {topic!r}: there are {len(copied)} headers; the limit is {limits.headers}")
    return copied


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_delay(topic: object, seconds: object, limits: DelayLimits) -> float:
    """*seconds*, rounded up to a multiple of the resolution; None is 0."""
    if seconds is None:
        return 0.0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:  # nor NaN
        raise InvalidArgumentError(f"topic {topic!r}: a delay is a number of seconds from 0, not {seconds!r}")
    if seconds > limits.max_delay:
        raise TooLargeError(f"topic {topic!r}: a delay of {seconds} s is above the limit of {limits.max_delay:g} s")
    return math.ceil(round(seconds / limits.delay_resolution, 6)) * limits.delay_resolution


def place(tenant: bytes, topic: str, *more: str) -> str:
    """A name for the topic of a tenant in the broker: 62 characters at most, of A-Z, a-z, 0-9 and the hyphen.

    Different for different tenants and topics, which a digest decides: brokers fold, cut and interpret names. The beginning is
    for who looks at the broker.
    """
    digest = hashlib.blake2b(digest_size=20)
    for part in (tenant, topic.encode(), *(each.encode() for each in more)):
        digest.update(len(part).to_bytes(4, "big") + part)
    shown = re.sub("[^A-Za-z0-9]+", "-", topic)[:20].strip("-") or "topic"
    return f"{shown}-{digest.hexdigest()}"


class Publisher(Client):
    """Base of the adapters: `publish`, `publish_many` and how a killed process looks to the broker.

    A subclass hands a checked message to its broker in `_send`, and tears its connections down in `_abort`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    limits: MessageLimits = MessageLimits()

    def __init__(self, tenant_id: str | None = None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._tenant = arguments.encode_tenant(tenant_id)

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None) -> str:
        """Publish a message; its id, once the broker has accepted it for good."""
        message = check_message(topic, payload, key, headers, self.limits)
        await self._accepted(f"publish to {topic!r}", self._send(message))
        return message.id

    async def publish_many(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        """Publish each message that can be, or with `atomic_batch` all or none; a result for each, in their order."""
        self._need("batch_publish")
        arguments.encode_key(topic, self.limits)
        self._check_open()
        checked = [self._checked(topic, each) for each in messages]
        good = [each for each in checked if isinstance(each, Message)]
        bad = [each for each in checked if isinstance(each, TCKError)]
        if bad and "atomic_batch" in self.capabilities:
            return [PublishResult(error=each if isinstance(each, TCKError) else bad[0]) for each in checked]

        errors: Mapping[str, Exception] = {}
        if good:
            errors = await self._accepted(f"publish_many to {topic!r}", self._send_many(good))
        return [
            PublishResult(error=each)
            if isinstance(each, Exception)
            else PublishResult(error=errors[each.id])
            if each.id in errors
            else PublishResult(each.id)
            for each in checked
        ]

    def _checked(self, topic: str, message: OutgoingMessage) -> Message | TCKError:
        try:
            return check_message(topic, message.payload, message.key, message.headers, self.limits)
        except TCKError as error:
            return error

    def _need(self, capability: str) -> None:
        if capability not in self.capabilities:
            raise UnsupportedError(f"this {type(self).__name__} does not declare {capability}")

    async def _accepted(self, what: str, work: Any) -> Any:
        """The result of *work*; that the broker has not answered is a `PublishError`."""
        try:
            return await self._call(what, work)
        except PublishError:
            raise
        except UnavailableError as error:
            raise PublishError(str(error)) from error.__cause__

    async def _send(self, message: Message) -> None:
        """Hand *message* to the broker, and return when that has accepted it."""
        raise NotImplementedError

    async def _send_many(self, messages: Sequence[Message]) -> Mapping[str, Exception]:
        """Hand all *messages* to the broker; the errors of those that it did not accept, by id."""
        tasks = [asyncio.ensure_future(self._send(each)) for each in messages]
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await _end(tasks)
        return {
            each.id: self._publish_error(each, error)
            for each, task in zip(messages, tasks, strict=True)
            if (error := task.exception())
        }

    def _publish_error(self, message: Message, error: BaseException) -> Exception:
        if isinstance(error, TCKError):
            return error
        if not isinstance(error, self._unavailable):
            raise error
        failed = PublishError(f"publish_many to {message.topic!r}: the backend failed ({type(error).__name__})")
        failed.__cause__ = error
        return failed

    async def abandon(self) -> None:
        """End as if the process had been killed: connections break off, tasks end where they are, and nobody is told."""
        self._closed = True
        self._abort()
        await _end(self._tasks)
        self._released = True

    def _abort(self) -> None:
        """Tear the connections down, as the operating system does when a process ends."""
        raise NotImplementedError


class DelayedPublisher(Publisher):
    """Base of the adapters that publish for later. A subclass keeps a message in its broker in `_send_later`."""

    limits: DelayLimits = DelayLimits()

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
    ) -> str:
        """Publish a message that arrives *delay_seconds* from now; its id, which is also that of its schedule."""
        message = check_message(topic, payload, key, headers, self.limits)
        delay = check_delay(topic, delay_seconds, self.limits)
        work = self._send_later(message, delay) if delay else self._send(message)
        await self._accepted(f"publish to {topic!r}", work)
        return message.id

    async def publish_at(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        deliver_at: datetime,
    ) -> str:
        """Publish a message that arrives at *deliver_at*."""
        self._need("absolute_time")
        if not isinstance(deliver_at, datetime) or deliver_at.utcoffset() is None:
            raise InvalidArgumentError(f"topic {topic!r}: deliver_at is a datetime with a zone")
        delay = max((deliver_at - datetime.now(UTC)).total_seconds(), 0.0)
        return await self.publish(topic, payload, key, headers, delay)

    async def cancel(self, schedule_id: str) -> bool:
        """Whether the message will never be delivered because of this call."""
        self._need("cancel_scheduled")
        id = arguments.encode_key(schedule_id, self.limits).decode()
        return await self._call(f"cancel {id!r}", self._cancel(id))

    async def _send_later(self, message: Message, delay: float) -> None:
        """Hand *message* to the broker, which delivers it *delay* seconds from now; return when it has accepted it."""
        raise NotImplementedError

    async def _cancel(self, id: str) -> bool:
        """Take back the message with this id, unless it was delivered."""
        raise NotImplementedError


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
