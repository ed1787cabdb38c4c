"""`delayed_messaging` on SQLite: a message for later is a row that is due later. `examples.sqlite.queues` says how."""

from typing import ClassVar

from examples.common.messages import DelayedPublisher, Message
from examples.sqlite.connections import folder
from examples.sqlite.queues import NOW, SQLiteQueues
from omnitck.shared.models import DelayLimits

__all__ = ["SQLiteScheduler", "make_scheduler"]

CANCEL = f"DELETE FROM deliveries WHERE tenant = :tenant AND id = :id AND attempts = 0 AND due > {NOW} RETURNING id"
# One statement, as is the one by which a consumer takes a message: whichever comes first wins.


class SQLiteScheduler(DelayedPublisher, SQLiteQueues):
    """A publisher for later, in one SQLite file."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "cancel_scheduled absolute_time ordering_by_due_time long_delay lifecycle validation shared limits".split()
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
        await self._insert([message], delay=delay)

    async def _cancel(self, id: str) -> bool:
        return bool(await self._write(CANCEL, id=id))


async def make_scheduler(*, tenant_id: str | None = None, **config: object) -> SQLiteScheduler:
    """A client of a file in this process's own folder."""
    return await SQLiteScheduler.connect(folder() / "scheduled.sqlite", tenant_id=tenant_id)
