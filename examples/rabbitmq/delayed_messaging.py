"""`delayed_messaging` on RabbitMQ: a ladder of queues, in which messages with different delays do not wait for each other.

`examples.rabbitmq.topology` says how. From a single queue, with a time limit for each message, a short delay would come behind a
long one: the broker looks at the head of a queue alone.

- A delay passes from rung to rung, each of which costs the broker some milliseconds: it is never early, and a little late.
- A topic that nobody has made is made with the first message that waits for it.

Not declared: *cancel_scheduled*, because a message cannot be taken out of the middle of a queue; *ordering_by_due_time*, because
messages that are due one after the other come from different rungs, each of which has its own clock.
"""

import asyncio
from typing import ClassVar

from examples.common.messages import DelayedPublisher, Message
from examples.rabbitmq import topology
from examples.rabbitmq.topics import RabbitMQTopics, server_url
from omnitck.shared.exceptions import TopicNotFoundError
from omnitck.shared.models import DelayLimits

__all__ = ["RabbitMQScheduler", "make_scheduler"]


class RabbitMQScheduler(DelayedPublisher, RabbitMQTopics):
    """A publisher for later, on the broker at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "absolute_time long_delay lifecycle validation shared availability limits".split()
    )
    limits: DelayLimits = DelayLimits(
        key_bytes=256,
        value_bytes=2**20,
        headers=64,
        redeliver=6.0,
        max_delay=topology.LONGEST,
        delay_resolution=topology.STEP,
        delay_lateness=1.0,
    )

    def __init__(self, url: str, *, tenant_id: str | None = None) -> None:
        super().__init__(url, tenant_id=tenant_id)
        self._making = asyncio.Lock()

    async def _send(self, message: Message) -> None:
        try:
            await super()._send(message)
        except TopicNotFoundError:
            await self._make(message.topic)
            await super()._send(message)

    async def _send_later(self, message: Message, delay: float) -> None:
        async with self._making:
            if message.topic not in self._made:
                await self._make(message.topic)
        await self.send_later(message, delay)


async def make_scheduler(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> RabbitMQScheduler:
    """A client of the example's own server, or of the one at ``OMNITCK_RABBITMQ_URL``."""
    return RabbitMQScheduler(await server_url(address), tenant_id=tenant_id)
