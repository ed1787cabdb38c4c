"""Where the messages of a subscription come from: the partitions that Kafka gives to one member of a group.

Kafka remembers one number for each partition and group: all messages before it are done. So a message that is done counts only
once those before it are; until then it is done in this process alone, and comes again if that ends. What is to come again now is
kept in hand, in front of the messages of its key, which wait, while others go on: a message of another key is not held up because
it lies in the same partition.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from examples.common.consumers import LOOK, PAUSE, Delivery, Source
from examples.common.messages import Message
from examples.kafka.connections import end, sever

__all__ = ["ENVELOPE", "Members", "PartitionsSource"]

ENVELOPE = "omnitck"
"""The header that holds all but topic and payload."""

REST = 20.0
"""Seconds that a source stays in its group after its subscription has ended: who subscribes again does not wait for the group."""

WINDOW = 500
"""Messages of a partition that are read and not done, at most."""

logger = logging.getLogger(__name__)


class Entry:
    """A message in hand."""

    __slots__ = ("attempt", "line", "message", "number", "offset", "partition")

    def __init__(self, number: int, partition: "Partition", offset: int, message: Message, line: "deque[Entry] | None") -> None:
        self.number = number
        self.partition = partition
        self.offset = offset
        self.message = message
        self.line = line
        """Those of the same key, of which only the first is handed out."""
        self.attempt = 1


class Partition:
    """A partition while this member has it."""

    def __init__(self, name: Any) -> None:
        self.name = name
        self.lost = False
        self.open: dict[int, Entry] = {}
        """What was read and is not done, by offset."""
        self.lines: dict[str, deque[Entry]] = {}
        self.next = -1
        """The offset after the last message that was read."""
        self.committed = -1

    @property
    def done(self) -> int:
        """The offset before which everything is done."""
        return next(iter(self.open), self.next)


class Members(RangePartitionAssignor):  # type: ignore[misc]
    """Shares partitions out, and remembers whether there is anybody to share them with."""

    def __init__(self) -> None:
        self.alone = True
        """Whether nobody else is in the group, as far as is known."""
        self._counted = 0

    def assign(self, cluster: Any, members: Any) -> Any:
        """Called in the member that leads the group; one that is alone does."""
        self._counted = len(members)
        return super().assign(cluster, members)

    def on_assignment(self, assignment: Any) -> None:
        """Called in every member, each time that the group has found together."""
        self.alone, self._counted = self._counted == 1, 0
        super().on_assignment(assignment)


class PartitionsSource(Source, ConsumerRebalanceListener):  # type: ignore[misc]
    """The messages of *name*, which a consumer gets that was started; *patience* seconds handlers have when it loses some.

    When its subscription ends it stays in its group for a while, if it is alone there: to find together again takes seconds. When
    anybody else comes, it goes. *rested* is told when it begins to rest, *ended* when it has left.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        members: Members,
        topic: str,
        name: str,
        patience: float,
        *,
        rested: Callable[["PartitionsSource"], bool],
        ended: Callable[["PartitionsSource"], None],
    ) -> None:
        self.consumer = consumer
        self._members = members
        self._topic = topic
        self._patience = patience
        self._rested = rested
        self._ended = ended
        self._rest: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._partitions: dict[Any, Partition] = {}
        self._ready: list[tuple[int, Entry]] = []
        """Those that may be handed out, as a heap: the oldest first."""
        self._numbers = itertools.count()
        self._running: set[Entry] = set()
        self._changed = asyncio.Event()
        self._behind = asyncio.Event()
        self._committing = asyncio.Lock()
        consumer.subscribe([name], listener=self)
        self._reading = asyncio.create_task(self._read())
        self._keeping = asyncio.create_task(self._keep())

    async def take(self, most: int) -> list[Delivery]:
        """Up to *most* messages, of each key one."""
        deadline = time.monotonic() + LOOK
        while not self._ready:
            if not await self._change(deadline - time.monotonic()):
                return []
        taken: list[Delivery] = []
        while self._ready and len(taken) < most:
            _, entry = heapq.heappop(self._ready)
            if not entry.partition.lost:
                self._running.add(entry)
                taken.append(Delivery(entry.message, entry.attempt, entry))
        return taken

    async def done(self, delivery: Delivery) -> None:
        """Note that it is; it is committed soon, with others."""
        entry: Entry = delivery.receipt
        partition = entry.partition
        self._running.discard(entry)
        del partition.open[entry.offset]
        if entry.line is not None:
            entry.line.popleft()
            if entry.line:
                self._offer(entry.line[0])
            else:
                del partition.lines[str(entry.message.key)]
        self._notify()
        self._behind.set()

    async def again(self, delivery: Delivery, delay: float) -> None:
        """Keep it in hand."""
        entry: Entry = delivery.receipt
        self._running.discard(entry)
        entry.attempt += 1
        if delay:
            asyncio.get_running_loop().call_later(delay, self._offer, entry)
        else:
            self._offer(entry)
        self._notify()

    def hurry(self) -> None:
        """Let `take` return."""
        self._notify()

    async def close(self) -> None:
        """Rest, or leave the group."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        try:
            async with asyncio.timeout(LOOK):
                await self._commit()
        except (KafkaError, TimeoutError):
            logger.debug("the last commit failed", exc_info=True)
        if self._ending is None and self._members.alone and self._rested(self):
            self._rest = asyncio.get_running_loop().call_later(REST, self._leave)
            self._throttle()
        else:
            await self.end()

    def wake(self) -> bool:
        """Go on after a rest, if it still can."""
        if self._rest is None or self._ending is not None:
            return False
        self._rest.cancel()
        self._rest = None
        self._reading = asyncio.create_task(self._read())
        self._throttle()
        return True

    def _leave(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return self._ending

    async def end(self) -> None:
        """Leave the group."""
        await asyncio.shield(self._leave())

    async def abandon(self) -> None:
        """End, and tell nobody."""
        sever(self.consumer)
        await self.end()

    async def _end(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        for task in (self._reading, self._keeping):
            task.cancel()
        await asyncio.gather(self._reading, self._keeping, return_exceptions=True)
        await end(self.consumer)
        self._ended(self)

    # Reading

    async def _read(self) -> None:
        while True:
            try:
                came = await self.consumer.getmany(timeout_ms=int(LOOK * 1000), max_records=WINDOW)
                self._accept(list(came.values()))
            except KafkaError:
                logger.debug("reading failed", exc_info=True)
                await asyncio.sleep(PAUSE)

    def _accept(self, came: Sequence[Sequence[Any]]) -> None:
        """Take what was read in hand; between partitions the clocks of the publishers are all that tells an order."""
        for record in heapq.merge(*came, key=lambda each: each.timestamp):
            name = self._name(record)
            partition = self._partitions.get(name)
            if partition is None:
                continue
            partition.next = record.offset + 1
            envelope = dict(record.headers).get(ENVELOPE)
            if envelope is None:
                logger.error("%s holds a message of somebody else at %s", name, record.offset)
                continue
            message = Message.opened(self._topic, record.value or b"", envelope)
            line = None if message.key is None else partition.lines.setdefault(message.key, deque())
            entry = Entry(next(self._numbers), partition, record.offset, message, line)
            partition.open[record.offset] = entry
            if line is not None:
                line.append(entry)
            if line is None or len(line) == 1:
                self._offer(entry)
        self._throttle()

    def _name(self, record: Any) -> Any:
        return next((each for each in self._partitions if each.partition == record.partition), None)

    def _throttle(self) -> None:
        """Read on where there is room."""
        full = {name for name, each in self._partitions.items() if self._rest is not None or len(each.open) >= WINDOW}
        paused = self.consumer.paused()
        try:
            self.consumer.pause(*(full - paused))
            self.consumer.resume(*(paused - full))
        except IllegalStateError:
            logger.debug("the partitions are others now", exc_info=True)

    def _offer(self, entry: Entry) -> None:
        if not entry.partition.lost:
            heapq.heappush(self._ready, (entry.number, entry))
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, within: float) -> bool:
        """Whether something happened in so many seconds."""
        try:
            async with asyncio.timeout(within):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # The group

    async def _keep(self) -> None:
        """Commit what is done, as it comes."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._commit()
            except KafkaError:
                logger.debug("a commit failed", exc_info=True)
                await asyncio.sleep(LOOK)
                self._behind.set()

    async def _commit(self) -> None:
        """Say what is done, in one request at a time."""
        async with self._committing:
            behind = {name: each for name, each in self._partitions.items() if each.done > each.committed}
            if not behind:
                return
            offsets = {name: each.done for name, each in behind.items()}
            try:
                await self.consumer.commit(offsets)
            except IllegalStateError as error:
                raise KafkaError("the partitions are others now") from error
            for name, each in behind.items():
                each.committed = offsets[name]

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Hand nothing out any more, let handlers end, and commit, before the next member gets the partitions."""
        if self._rest is not None and revoked:  # nothing is before the group has found together for the first time
            sever(self.consumer)
            self._leave()
            return
        self._ready.clear()
        deadline = time.monotonic() + self._patience
        while self._running and await self._change(deadline - time.monotonic()):
            self._ready.clear()  # what is to come again comes to who has it next
        try:
            async with asyncio.timeout(self._patience):
                await self._commit()
        except (KafkaError, TimeoutError):
            logger.debug("the commit before a rebalance failed", exc_info=True)
        for each in self._partitions.values():
            each.lost = True
        self._partitions.clear()

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Begin where the group has come to."""
        self._partitions = {each: Partition(each) for each in assigned}
        if self._rest is not None and not self._members.alone:
            self._leave()
        self._throttle()
