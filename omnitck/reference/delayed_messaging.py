"""A publisher of delayed messages in memory: `MemoryBroker` is the broker, `MemoryDelayedPublisher` one client of it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from omnitck.reference.broker import BrokerClient, MemoryBroker
from omnitck.shared.exceptions import InvalidArgumentError, TooLargeError
from omnitck.shared.models import ConsumedMessage

__all__ = ["CAPABILITIES", "MemoryBroker", "MemoryDelayedPublisher"]

CAPABILITIES = frozenset(
    "cancel_scheduled absolute_time ordering_by_due_time long_delay lifecycle validation shared availability limits".split()
)


class MemoryDelayedPublisher(BrokerClient):
    """One client of the broker, which keeps what is to be delivered later."""

    everything = CAPABILITIES
    aside = "absolute_time"

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
    ) -> str:
        """See `DelayedPublisherProtocol.publish`."""
        return await self.publish_later(topic, payload, key, headers, self.delay(topic, delay_seconds))

    async def publish_at(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        deliver_at: datetime,
    ) -> str:
        """See `AbsoluteTime.publish_at`."""
        self.need("absolute_time")
        if not isinstance(deliver_at, datetime) or deliver_at.tzinfo is None:
            raise InvalidArgumentError(f"topic {topic!r}: deliver_at is a datetime with a zone")
        delay = max((deliver_at - datetime.now(UTC)).total_seconds(), 0.0)
        return await self.publish_later(topic, payload, key, headers, self.delay(topic, delay))

    async def publish_later(self, topic: str, payload: object, key: object, headers: object, delay: float) -> str:
        """Hand a message to the broker, which delivers it *delay* seconds after this call."""
        message = self.message(topic, payload, key, headers)
        due = self.backend.clock.now() + delay
        await self.publishing()
        return self.schedule(topic, message, due) if delay else self.put(topic, message)

    def schedule(self, topic: str, message: ConsumedMessage, due: float) -> str:
        """Let the broker deliver *message* at *due*, on its clock; the id of that."""
        id = self.backend.new_id()
        with self.backend.lock:
            self.backend.scheduled[id] = (due, self.cell(topic), replace(message, message_id=id))
        self.backend.notify()
        return id

    async def cancel(self, schedule_id: str) -> bool:
        """See `CancelScheduled.cancel`."""
        self.need("cancel_scheduled")
        await self.turn()
        with self.backend.lock:
            self.backend.tick()
            if schedule_id not in self.backend.scheduled or self.backend.scheduled[schedule_id][1].tenant != self.tenant_id:
                return False

            del self.backend.scheduled[schedule_id]
            return True

    def delay(self, topic: str, seconds: object) -> float:
        """*seconds*, rounded up; refuses what is no delay."""
        if seconds is None:
            return 0.0
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise InvalidArgumentError(f"topic {topic!r}: a delay is a number of seconds from 0, not {seconds!r}")
        if seconds > self.numbers().max_delay:
            raise TooLargeError(f"topic {topic!r}: a delay of {seconds} s is above {self.numbers().max_delay} s")
        resolution = self.numbers().delay_resolution
        return math.ceil(round(seconds / resolution, 6)) * resolution
