"""`delayed_messaging` on Valkey or Redis: a sorted set for each topic, by the server's clock.

The server knows no delays of its own. A message that waits is a hash, and its time is in the sorted set of its topic; the first
consumer that takes something from the topic when it is due, of whatever client, moves it into the stream, in the same script
in which it reads. So its publisher may be gone by then, and two cannot move it twice. A consumer that waits learns of a message
that was published meanwhile when it looks again, four times a second: hence `delay_lateness`.

Delays are counted by the server's clock alone, so no client's clock matters; where `publish_at` is called, it does.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

from examples import servers
from examples.common.messages import DelayedPublisher, Message, place
from examples.valkey.messaging import CLOCK, ValkeyMessaging
from omnitck.shared.exceptions import UnsupportedError
from omnitck.shared.models import DelayLimits

__all__ = ["ValkeyDelayedMessaging", "make_scheduler"]

SPACE = "omnitck-later:"

# KEYS are the message and the sorted set of its topic; ARGV has the delay in microseconds, the envelope and the payload.
SCHEDULE = (
    CLOCK
    + """
redis.call('HSET', KEYS[1], 'due', KEYS[2], 'e', ARGV[2], 'p', ARGV[3])
redis.call('ZADD', KEYS[2], clock() + ARGV[1], KEYS[1])
"""
)

# KEYS[1] is the message, which says in which sorted set it is.
CANCEL = """
local due = redis.call('HGET', KEYS[1], 'due')
if not due then return 0 end
redis.call('ZREM', due, KEYS[1])
return redis.call('DEL', KEYS[1])
"""


class ValkeyDelayedMessaging(DelayedPublisher, ValkeyMessaging):
    """A publisher of messages for later, in one Valkey or Redis server."""

    capabilities: ClassVar[frozenset[str]] = ValkeyMessaging.capabilities | frozenset(
        "cancel_scheduled absolute_time ordering_by_due_time long_delay".split()
    )
    limits: DelayLimits = DelayLimits(
        key_bytes=1024,
        value_bytes=2**20,
        headers=64,
        min_ttl=0.1,
        ttl_resolution=0.1,
        redeliver=2.0,
        max_delay=366 * 86_400.0,
        delay_resolution=0.001,
        delay_lateness=0.5,
    )

    def __init__(self, url: str, tenant_id: str | None = None, connections: int = 8) -> None:
        super().__init__(url, tenant_id, connections)
        self._schedule = self.redis.register_script(SCHEDULE)
        self._take_back = self.redis.register_script(CANCEL)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Publish a message that arrives *delay_seconds* from now; its id, which is also that of its schedule."""
        if message_id is None and ttl is None:
            return await DelayedPublisher.publish(self, topic, payload, key, headers, delay_seconds)
        if delay_seconds:
            raise UnsupportedError(f"publish to {topic!r}: with a delay there is neither message_id nor ttl")
        return await ValkeyMessaging.publish(self, topic, payload, key, headers, message_id=message_id, ttl=ttl)

    async def _send_later(self, message: Message, delay: float) -> None:
        keys = [self._waiting(message.id), self.due(message.topic)]
        await self._run(self._schedule, keys, [math.ceil(delay * 1e6), message.envelope(), message.payload])

    async def _cancel(self, id: str) -> bool:
        return bool(await self._run(self._take_back, [self._waiting(id)], []))

    def _waiting(self, id: str) -> str:
        """The key of the message with this id."""
        return SPACE + place(self._tenant, id)


async def make_scheduler(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> ValkeyDelayedMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    return await ValkeyDelayedMessaging.connect(await servers.connect_info(servers.valkey, address), tenant_id=tenant_id)
