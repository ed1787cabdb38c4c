"""A consumer in memory with every capability of the contract: `MemoryBroker` is the broker, `MemoryConsumer` one client of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import anyio
import anyio.abc

from omnitck.reference.broker import DEFAULT_GROUP, BrokerClient, Entry, MemoryBroker
from omnitck.reference.client import Cell, Hosting
from omnitck.shared.exceptions import ClosedError, InvalidArgumentError
from omnitck.shared.models import ConsumedMessage, ProcessingOutcome

__all__ = ["CAPABILITIES", "MemoryBroker", "MemoryConsumer", "MemorySubscription"]

CAPABILITIES = frozenset(
    "stopping delivery_metadata fan_out concurrency dead_letter ordering_by_key nack_redelivery visibility_timeout batch_consume "
    "lifecycle validation shared availability limits".split()
)


@dataclass(eq=False, kw_only=True)
class MemorySubscription:
    """Handlers at work on one topic."""

    client: "MemoryConsumer"
    cell: Cell
    handler: Callable[[Any], Awaitable[object]]
    group: str
    max_attempts: int
    dead_letters: Cell | None
    retry_delay: float
    batch_size: int | None
    stopping: bool = False
    handling: set[anyio.CancelScope] = field(default_factory=set)
    waiting: set[anyio.CancelScope] = field(default_factory=set)
    ended: anyio.Event = field(default_factory=anyio.Event)
    workers: int = 0

    async def stop(self, *, drain: bool = True) -> None:
        """Start no handler any more, and wait for those that run; without *drain* cancel them: their messages come again."""
        self.end(drain=drain)
        await self.ended.wait()

    def end(self, *, drain: bool) -> None:
        """Tell the handlers to end."""
        self.stopping = True
        for scope in [*self.waiting, *(() if drain else self.handling)]:
            scope.cancel()

    async def work(self) -> None:
        """Handle messages, some at a time, until stopped."""
        try:
            while not self.stopping:
                entries = await self.next_entries()
                if entries:
                    await self.handle(entries)
        finally:
            self.workers -= 1
            if not self.workers:
                self.ended.set()

    async def next_entries(self) -> list[Entry]:
        """The next message, or several; none once the subscription stops."""
        backend = self.client.backend
        with anyio.CancelScope() as scope:
            self.waiting.add(scope)
            try:
                await backend.changed.until(lambda: backend.reachable)
                first = await backend.take(self.cell, self.group, self, ordered=self.ordered())
            finally:
                self.waiting.discard(scope)
            entries = [first] if first is not None else []
            with backend.lock:
                queue = backend.queue(self.cell, self.group)
                while len(entries) < (self.batch_size or 1) and (more := queue.take(backend.clock.now(), ordered=self.ordered())):
                    more.holder = self
                    more.attempts += 1
                    entries.append(more)
            return entries
        return []

    def ordered(self) -> bool:
        """Whether the messages of one key come one after another."""
        return "ordering_by_key" in self.client.capabilities

    async def handle(self, entries: list[Entry]) -> None:
        """Call the handler, and do with the messages as it says."""
        with anyio.CancelScope() as scope:
            self.handling.add(scope)
            try:
                outcomes = await self.outcomes(entries, scope)
            except anyio.get_cancelled_exc_class():
                self.dropped(entries)
                raise
            finally:
                self.handling.discard(scope)
            for entry, outcome in zip(entries, outcomes, strict=True):
                self.settle(entry, outcome)

    async def outcomes(self, entries: list[Entry], scope: anyio.CancelScope) -> list[object]:
        """What the handler says of each; whatever it raises asks for all of them again."""
        messages = [self.message(each) for each in entries]
        again: list[object] = [ProcessingOutcome.RETRY] * len(entries)
        try:
            said = await self.handler(messages[0] if self.batch_size is None else messages)
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == float("-inf"):
                raise  # somebody stops this subscription; else the handler made it up
            return again
        except Exception:
            return again
        if self.batch_size is None:
            return [said]
        return list(said) if isinstance(said, list | tuple) and len(said) == len(entries) else again

    def message(self, entry: Entry) -> ConsumedMessage:
        """What the handler is given."""
        return replace(entry.message, delivery_attempt=entry.attempts)

    def dropped(self, entries: list[Entry]) -> None:
        """What becomes of messages whose handler was cancelled."""
        if not self.client.gone:
            for entry in entries:
                self.client.backend.give_back(entry)

    def settle(self, entry: Entry, outcome: object) -> None:
        """End a message, or let it come again."""
        backend = self.client.backend
        if not backend.reachable:
            backend.give_back(entry, after=self.client.numbers().redeliver)
        elif outcome is ProcessingOutcome.SUCCESS:
            backend.finish(self.cell, self.group, entry)
        elif outcome is ProcessingOutcome.FAIL or entry.attempts >= self.max_attempts:
            self.give_up(entry)
        else:
            backend.give_back(entry, after=self.retry_delay)

    def give_up(self, entry: Entry) -> None:
        """End a message that could not be handled."""
        if self.dead_letters is not None:
            self.client.backend.deliver(self.dead_letters, entry.message)
        self.client.backend.finish(self.cell, self.group, entry)


class MemoryConsumer(Hosting[MemoryBroker], BrokerClient):
    """One client of the broker: `async with` lets its handlers run."""

    everything = CAPABILITIES
    reads = "subscribe"
    aside = "visibility_timeout"
    subscription_type: ClassVar[type[MemorySubscription]] = MemorySubscription

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.subscriptions: list[MemorySubscription] = []
        self.gone = False

    async def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Awaitable[object]],
        *,
        max_attempts: int = 3,
        group: str = DEFAULT_GROUP,
        concurrency: int = 1,
        dead_letter_topic: str | None = None,
        retry_delay: float = 0.0,
        visibility: float | None = None,
        batch_size: int | None = None,
    ) -> MemorySubscription:
        """See `ConsumerProtocol.subscribe`."""
        self.check_key(topic)
        for capability, given in (
            ("fan_out", group != DEFAULT_GROUP),
            ("concurrency", concurrency != 1),
            ("dead_letter", dead_letter_topic is not None),
            ("nack_redelivery", retry_delay != 0),
            ("visibility_timeout", visibility is not None),
            ("batch_consume", batch_size is not None),
        ):
            if given:
                self.need(capability)
        self.check_name("group", group, self.limits.key_bytes)
        if not callable(handler):
            raise InvalidArgumentError(f"topic {topic!r}: a handler is a coroutine function, not {type(handler).__name__}")
        for kind, number in (("max_attempts", max_attempts), ("concurrency", concurrency), ("batch_size", batch_size or 1)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InvalidArgumentError(f"topic {topic!r}: {kind} is a whole number from 1, not {number!r}")
        for kind, seconds in (("retry_delay", retry_delay), ("visibility", 1 if visibility is None else visibility)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
                raise InvalidArgumentError(f"topic {topic!r}: {kind} is a number of seconds, not {seconds!r}")
        if dead_letter_topic is not None:
            self.check_key(dead_letter_topic)

        await self.turn()
        if not self.entered:
            raise ClosedError("enter the client with `async with`: its handlers run until the end of that")
        subscription = self.subscription_type(
            client=self,
            cell=self.cell(topic),
            handler=handler,
            group=group,
            max_attempts=max_attempts,
            dead_letters=None if dead_letter_topic is None else self.cell(dead_letter_topic),
            retry_delay=retry_delay,
            batch_size=batch_size,
            workers=concurrency,
        )
        self.start(subscription)
        return subscription

    def start(self, subscription: MemorySubscription) -> None:
        """Let the handlers of *subscription* run."""
        self.backend.queue(subscription.cell, subscription.group)
        self.subscriptions.append(subscription)
        for _ in range(subscription.workers):
            self.tasks.start_soon(subscription.work)

    async def close(self) -> None:
        """Stop every subscription, once its handlers have ended."""
        await super().close()
        for subscription in self.subscriptions:
            await subscription.stop(drain=not self.gone)

    def vanish(self) -> None:
        """End as if the process had been killed."""
        super().vanish()
        self.gone = True
        self.backend.vanished(self.subscriptions, after=self.numbers().redeliver)
        for subscription in self.subscriptions:
            subscription.end(drain=False)
