"""`delayed_messaging` on PostgreSQL: a message for later is a row that is due later. `examples.postgresql.queues` says how."""

from typing import ClassVar

from examples import servers
from examples.common.messages import DelayedPublisher, Message, place
from examples.postgresql.queues import PostgreSQLQueues, create_schema
from omnitck.shared.models import DelayLimits

__all__ = ["PostgreSQLScheduler", "make_scheduler"]

# A message of several groups is taken back from all or from none: if it is not due once all its rows are locked, no consumer
# can have had one, and none will.
CANCEL = """
WITH locked AS MATERIALIZED (
    SELECT number, due FROM message_deliveries WHERE schedule = %(schedule)s AND attempts = 0 ORDER BY number FOR UPDATE
), moment AS MATERIALIZED (
    SELECT min(due) > clock_timestamp() AS early FROM locked
)
DELETE FROM message_deliveries USING locked, moment WHERE message_deliveries.number = locked.number AND early
RETURNING message_deliveries.number
"""


class PostgreSQLScheduler(DelayedPublisher, PostgreSQLQueues):
    """A publisher for later, in a database."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "cancel_scheduled absolute_time ordering_by_due_time long_delay lifecycle validation shared availability limits".split()
    )
    limits: DelayLimits = DelayLimits(
        key_bytes=1024,
        value_bytes=2**20,
        headers=64,
        redeliver=2.0,
        max_delay=315_360_000.0,
        delay_resolution=0.001,
        delay_lateness=1.0,
        skew=0.001,
    )

    async def _send_later(self, message: Message, delay: float) -> None:
        await self._publish([message], delay=delay, schedule=place(self._tenant, message.id))

    async def _cancel(self, id: str) -> bool:
        return bool(await self.request(CANCEL, {"schedule": place(self._tenant, id)}))


async def make_scheduler(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> PostgreSQLScheduler:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLScheduler.connect(url, tenant_id=tenant_id)
