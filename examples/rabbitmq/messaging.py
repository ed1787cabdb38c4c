"""`producer` and `consumer` on RabbitMQ. `examples.rabbitmq.topics` says how.

- *strict_topics*: a topic is there once a queue is bound to it. A topic that nobody has is no place to put a message.
- *message_ttl* is the broker's `expiration`, in milliseconds, 49 days at most. A message that is tried again expires as well.

Not declared: *deduplication*, which is a plug-in that RabbitMQ does not come with; *atomic_batch* and *transactional_publish*,
because its transactions are atomic for a single queue alone, and a topic has several; *ordering_by_key*, because consumers of
one queue share it whatever the keys are, and a message that is tried later has left its place; *visibility_timeout*, because a
message stays hidden for as long as its consumer is connected.
"""

from collections.abc import Mapping
from typing import ClassVar

from examples.common import arguments
from examples.common.messages import check_message, place
from examples.rabbitmq import topology
from examples.rabbitmq.topics import RabbitMQTopics, server_url
from omnitck.shared.exceptions import TooLargeError
from omnitck.shared.models import MessageLimits

__all__ = ["RabbitMQMessaging", "make_messaging"]

LONGEST_TTL = (2**32 - 1) / 1000


class RabbitMQMessaging(RabbitMQTopics):
    """A producer and consumer of the broker at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish message_ttl strict_topics "
        "stopping delivery_metadata fan_out concurrency dead_letter nack_redelivery batch_consume "
        "lifecycle validation shared availability limits".split()
    )
    limits: MessageLimits = MessageLimits(
        key_bytes=256, value_bytes=2**20, headers=64, batch_size=100, min_ttl=0.1, ttl_resolution=0.1, redeliver=6.0
    )

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        ttl: float | None = None,
    ) -> str:
        """Publish a message; its id, once its queues have it."""
        seconds = arguments.parse_ttl(topic, ttl, self.limits)
        if seconds is not None and seconds > LONGEST_TTL:
            raise TooLargeError(f"topic {topic!r}: a ttl of {seconds:g} s is above the limit of {LONGEST_TTL:.0f} s")
        message = check_message(topic, payload, key, headers, self.limits)
        work = self.hand_over(topology.TOPICS, place(self._tenant, topic), message, ttl=seconds)
        await self._accepted(f"publish to {topic!r}", work)
        return message.id


async def make_messaging(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> RabbitMQMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_RABBITMQ_URL``."""
    return RabbitMQMessaging(await server_url(address), tenant_id=tenant_id)
