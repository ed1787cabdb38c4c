"""`delayed_messaging` on NATS JetStream: a schedule of the server, which it publishes once.

`examples.nats_jetstream.topics` says how topics are kept.

- *When* a message is due is told in the server's own time. The server looks for due messages four times a second at most, so they
  are up to 0.26 s late, and never early. Those that one look finds come in the order of their publication: hence
  *ordering_by_due_time* is not declared.
- *cancel_scheduled* purges the schedule. The server may have read it by then, and publish it nevertheless, which was seen in one
  of 1000 that were due at that moment. So a message that is as good as due is not cancelled; and if the answer to a purge comes
  only after that, it is looked whether the message came. It has a subject of its own, by which it is found.
"""

import asyncio
from datetime import UTC, datetime
from typing import ClassVar

import nats.js.errors
from nats.js.api import Header

from examples.common.messages import DelayedPublisher, Message
from examples.nats_jetstream import stream
from examples.nats_jetstream.client import NEVER
from examples.nats_jetstream.stream import STREAM
from examples.nats_jetstream.topics import NATSTopics, server_url
from omnitck.shared.models import DelayLimits

__all__ = ["NATSScheduler", "make_scheduler"]

AT = "@at "

CLOSE = 0.05
"""Seconds before a message is due in which it is not cancelled any more: as long may a purge take, mostly."""

CROSSING = 1.0
"""Seconds after which a message has come that was purged when the server had read it already."""


class NATSScheduler(DelayedPublisher, NATSTopics):
    """A publisher for later, on the server at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "cancel_scheduled absolute_time long_delay lifecycle validation shared availability limits".split()
    )
    limits: DelayLimits = DelayLimits(
        key_bytes=256,
        value_bytes=2**19,
        headers=64,
        redeliver=2.0,
        max_delay=stream.AGE / 2,  # a schedule is kept no longer than any other message
        delay_resolution=0.25,
        delay_lateness=0.5,
    )

    async def _send_later(self, message: Message, delay: float) -> None:
        due = datetime.fromtimestamp(await self.server_time() + delay, UTC)
        headers = {
            Header.SCHEDULE.value: AT + due.isoformat(timespec="microseconds"),
            Header.SCHEDULE_TARGET.value: stream.subject(self._tenant, message.topic, message.id),
        }
        await self._store(stream.schedule(self._tenant, message.id), message, headers)

    async def _cancel(self, id: str) -> bool:
        place = stream.schedule(self._tenant, id)
        headers = await self._headers_of(place)
        if headers is None:
            return False
        due = datetime.fromisoformat(headers[Header.SCHEDULE.value].removeprefix(AT)).timestamp()
        if due - await self.server_time() < CLOSE:
            return False
        if not (await self.command(f"STREAM.PURGE.{STREAM}", {"filter": place}))["purged"]:
            return False
        return await self.server_time() < due or not await self._came(headers[Header.SCHEDULE_TARGET.value])

    async def _came(self, subject: str) -> bool:
        """Whether the message came, whose schedule the server may have read before it was purged."""
        for _ in range(10):
            if await self._headers_of(subject) is not None:
                return True
            await asyncio.sleep(CROSSING / 10)
        return False

    async def _headers_of(self, subject: str) -> dict[str, str] | None:
        """Those of the last message under *subject*."""
        context = (await self._open()).jetstream(timeout=NEVER)
        try:
            return (await context.get_msg(STREAM, subject=subject)).headers or {}
        except nats.js.errors.NotFoundError as error:
            if error.err_code == 10059:  # there is no stream
                raise
            return None


async def make_scheduler(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> NATSScheduler:
    """A client of the example's own server, or of the one at ``OMNITCK_NATS_URL``."""
    return await NATSScheduler.connect(await server_url(address), tenant_id=tenant_id)
