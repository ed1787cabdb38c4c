"""`delayed_messaging` on AWS SQS: a message carries its delay, and the service keeps it back for so long.

A delay is whole seconds, 900 at most; `publish` rounds up, so nothing is early. `examples.aws.messaging` says how the rest works.

Not declared: `cancel_scheduled`, for a message that waits cannot be seen, nor deleted, before it is due; `long_delay`;
`ordering_by_due_time`, which a standard queue does not promise.
"""

from typing import ClassVar

from examples import servers
from examples.aws.messaging import IDLE, LEASE, LONGEST_PAUSE, SQSMessaging
from examples.common.messages import DelayedPublisher, Message
from omnitck.shared.models import DelayLimits

__all__ = ["SQSScheduler", "make_scheduler"]


class SQSScheduler(DelayedPublisher, SQSMessaging):
    """A publisher for later, in one account and region."""

    capabilities: ClassVar[frozenset[str]] = frozenset("absolute_time lifecycle validation shared availability limits".split())
    limits: DelayLimits = DelayLimits(
        key_bytes=1024,
        value_bytes=720 * 1024,
        headers=64,
        redeliver=LEASE + IDLE,
        max_delay=900.0,
        delay_resolution=1.0,
        delay_lateness=LONGEST_PAUSE,
    )

    async def _send_later(self, message: Message, delay: float) -> None:
        await self._send_with(message, round(delay))


async def make_scheduler(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> SQSScheduler:
    """A client of the example's own server, or of the one at ``OMNITCK_AWS_URL``."""
    return await SQSScheduler.connect(await servers.connect_info(servers.moto, address), tenant_id=tenant_id)
