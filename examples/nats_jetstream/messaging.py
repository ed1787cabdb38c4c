"""`producer` and `consumer` on NATS JetStream. `examples.nats_jetstream.topics` says how.

- *deduplication* is the server's, and ends ten minutes after the first publication.
- *transactional_publish* is an atomic batch of the server, which has 1000 messages at most: one more raises `TooLargeError`.
- *message_ttl*: the server clears messages away in whole seconds, and late; so each also says how long it lives, which is
  compared with the server's time before it reaches a handler.
- *visibility_timeout*: a group has one, that of its last subscription; all give signs of life often enough for the shortest.

Not declared: *atomic_batch*, because a batch of the server has a limit, and one of `publish_many` has none; *ordering_by_key*,
because a consumer of JetStream knows no keys: one that hands out a single message at a time keeps their order, but a message that
is tried again would hold up every other key. *strict_topics*: a topic is a subject, which nobody has to make.
"""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar

from nats.js.api import Header

from examples.common import arguments
from examples.common.messages import Message, check_message, place
from examples.nats_jetstream import stream
from examples.nats_jetstream.topics import NATSTopics, server_url
from omnitck.shared.exceptions import TooLargeError
from omnitck.shared.models import MessageLimits

__all__ = ["NATSMessaging", "make_messaging"]


class NATSMessaging(NATSTopics):
    """A producer and consumer of the server at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish deduplication transactional_publish message_ttl "
        "stopping delivery_metadata fan_out concurrency dead_letter nack_redelivery visibility_timeout batch_consume "
        "lifecycle validation shared availability limits".split()
    )
    limits: MessageLimits = MessageLimits(
        key_bytes=256, value_bytes=2**19, headers=64, batch_size=100, min_ttl=0.1, ttl_resolution=0.1, redeliver=2.0
    )

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Publish a message; its id, once the stream has it."""
        if message_id is not None:
            arguments.encode_key(message_id, self.limits)
        seconds = arguments.parse_ttl(topic, ttl, self.limits)
        message = check_message(topic, payload, key, headers, self.limits, id=message_id)
        more = {}
        if message_id is not None:
            more[Header.MSG_ID.value] = place(self._tenant, topic, message_id)
        if seconds is not None:
            more[stream.TTL] = repr(seconds)
            more[Header.MSG_TTL.value] = str(math.ceil(seconds))
        await self._accepted(f"publish to {topic!r}", self._store(self._subject(message), message, more))
        return message.id

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """What is published in the block is stored at its end, all at once."""
        self._check_open()
        transaction = Transaction(self)
        yield transaction
        if transaction.messages:
            await self._accepted("transaction", self._store_all(transaction.messages))


class Transaction:
    """A producer whose messages wait."""

    def __init__(self, client: NATSMessaging) -> None:
        self._client = client
        self.messages: list[Message] = []

    async def publish(self, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None) -> str:
        """Publish a message when the transaction ends."""
        message = check_message(topic, payload, key, headers, self._client.limits)
        if len(self.messages) == stream.BATCH:
            raise TooLargeError(f"a transaction has {stream.BATCH} messages at most")
        self.messages.append(message)
        return message.id


async def make_messaging(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> NATSMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_NATS_URL``."""
    return await NATSMessaging.connect(await server_url(address), tenant_id=tenant_id)
