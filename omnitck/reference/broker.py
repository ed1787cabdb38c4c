"""The in-memory broker behind the references of producers, consumers and delayed publishers.

A topic has queues, one for each group of consumers; the queue `default` is there from the beginning, so that what is published
before anybody listens is kept. A message leaves a queue when its handler has ended it; until then one consumer holds it, for as
long as it lives and `redeliver` seconds longer.
"""

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel

from omnitck.reference.client import Cell, MemoryClient, MemoryServer, is_unicode
from omnitck.shared.exceptions import InvalidArgumentError, PublishError, TooLargeError, TopicNotFoundError, UnavailableError
from omnitck.shared.models import ConsumedMessage, DelayLimits, Limits

__all__ = ["DEFAULT_GROUP", "BrokerClient", "Changes", "Entry", "MemoryBroker", "Queue"]

DEFAULT_GROUP = "default"


@dataclass(eq=False, slots=True)
class Entry:
    """A message in a queue."""

    message: ConsumedMessage
    due: float = 0.0
    """When it may be delivered, on the broker's clock."""
    expires: float = math.inf
    attempts: int = 0
    holder: object = None
    """Who handles it now."""


@dataclass(eq=False, slots=True)
class Queue:
    """The messages that wait for one group of consumers, in the order of their publication."""

    entries: list[Entry] = field(default_factory=list)

    def take(self, now: float, *, ordered: bool) -> Entry | None:
        """The first message that may be delivered *now*; with *ordered*, none whose key has an earlier one."""
        before: set[str] = set()
        expired: list[Entry] = []
        first = None
        for each in self.entries:
            key = each.message.key
            if each.holder is None and each.expires <= now:
                expired.append(each)
            elif each.holder is None and each.due <= now and not (ordered and key in before):
                first = each
                break
            elif key is not None:
                before.add(key)
        for each in expired:
            self.entries.remove(each)
        return first

    def next_due(self) -> float:
        """When the next message may be delivered that may not be yet."""
        return min((each.due for each in self.entries if each.holder is None), default=math.inf)


class Changes:
    """Something changes, again and again, and whoever waits for that is woken, in whatever event loop and thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[anyio.Event, tuple[int, Callable[..., object]]] = {}
        """Each with its thread, and what calls a function in its event loop."""

    @contextmanager
    def expected(self) -> Iterator[anyio.Event]:
        """An event that the next change sets: whoever looks in here, and waits for it if nothing is there, misses nothing."""
        event = anyio.Event()
        with self._lock:
            self._waiting[event] = threading.get_ident(), _caller()
        try:
            yield event
        finally:
            with self._lock:
                self._waiting.pop(event, None)

    async def wait(self) -> None:
        """Wait for the next change."""
        with self.expected() as change:
            await change.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a change makes that *holds*, if it does not yet."""
        while True:
            with self.expected() as change:
                if holds():
                    return
                await change.wait()

    def tell(self) -> None:
        """Wake everybody who waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for event, (thread, call) in waiting.items():
            if thread == threading.get_ident():
                event.set()
            else:
                with suppress(RuntimeError):  # its event loop has been closed meanwhile
                    call(event.set)


def _caller() -> Callable[..., object]:
    """What calls a function in the event loop that runs, from any thread."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        call: Callable[..., object] = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon
        return call


@dataclass(eq=False, kw_only=True)
class MemoryBroker(MemoryServer):
    """The broker: topics, their queues, and what is to be published later.

    Its clients may be of several event loops, also in threads of their own.
    """

    limits: Limits = field(
        default_factory=lambda: DelayLimits(
            batch_size=100, deliver=0.05, redeliver=1.0, max_delay=31_536_000.0, delay_resolution=0.001, delay_lateness=0.01
        )
    )
    creates_topics: bool = True
    """Whether a topic is made when it is first used."""
    in_due_order: bool = True
    """Whether messages that have become due since the last look are delivered in the order in which they were due."""
    topics: dict[Cell, dict[str, Queue]] = field(default_factory=dict, repr=False)
    scheduled: dict[str, tuple[float, Cell, ConsumedMessage]] = field(default_factory=dict, repr=False)
    accepted: dict[tuple[Cell, str], str] = field(default_factory=dict, repr=False)
    """The ids that publishers chose, each with the message's own."""
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 2**63)), repr=False)
    changed: Changes = field(default_factory=Changes, repr=False)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held by whoever reads what he is about to write."""

    def cells(self) -> list[Cell]:
        """Every topic."""
        return list(self.topics)

    def remove(self, cell: Cell) -> None:
        """Remove the topic *cell* with all that waits there."""
        with self.lock:
            self.topics.pop(cell, None)

    def create(self, cell: Cell) -> None:
        """Make the topic *cell*; one that is there stays as it is."""
        with self.lock:
            self.topics.setdefault(cell, {DEFAULT_GROUP: Queue()})

    def queue(self, cell: Cell, group: str) -> Queue:
        """The queue of *group*, which gets what is published from now on."""
        with self.lock:
            self.create(cell)
            return self.topics[cell].setdefault(group, Queue())

    def new_id(self) -> str:
        """The id of a message or of a schedule."""
        return f"m{next(self.numbers)}"

    def deliver(self, cell: Cell, message: ConsumedMessage, *, ttl: float = math.inf) -> None:
        """Put *message* into every queue of its topic."""
        with self.lock:
            self.create(cell)
            for queue in self.topics[cell].values():
                queue.entries.append(Entry(message, expires=self.clock.now() + ttl))
        self.notify()

    def tick(self) -> float:
        """Deliver what is due; when the next is."""
        with self.lock:
            now = self.clock.now()
            due = [id for id, each in self.scheduled.items() if each[0] <= now]
            if self.in_due_order:
                due.sort(key=lambda each: self.scheduled[each][0])
            for id in due:
                _, cell, message = self.scheduled.pop(id)
                self.deliver(cell, message)
            return min((each[0] for each in self.scheduled.values()), default=math.inf)

    def notify(self) -> None:
        """Wake who waits for a message."""
        self.changed.tell()

    async def take(
        self, cell: Cell, group: str, holder: object, *, ordered: bool = False, within: float = math.inf
    ) -> Entry | None:
        """The next message for *group*, held by *holder*; None if there is none *within* seconds."""
        with anyio.move_on_after(within):
            while True:
                with self.changed.expected() as change:
                    due = self.tick()
                    with self.lock:
                        queue = self.queue(cell, group)
                        entry = queue.take(self.clock.now(), ordered=ordered)
                        if entry is not None:
                            entry.holder = holder
                            entry.attempts += 1
                            return entry
                        due = min(due, queue.next_due())
                    if within <= 0:
                        return None
                    with anyio.move_on_after(max(due - self.clock.now(), 0.001)):
                        await change.wait()
        return None

    def finish(self, cell: Cell, group: str, entry: Entry) -> None:
        """Forget *entry*, which is done."""
        with self.lock, suppress(ValueError):  # its topic may have gone meanwhile
            self.queue(cell, group).entries.remove(entry)
        self.notify()

    def give_back(self, entry: Entry, *, after: float = 0.0) -> None:
        """Let *entry* be delivered again."""
        with self.lock:
            entry.holder = None
            entry.due = self.clock.now() + after
        self.notify()

    def vanished(self, holders: Collection[object], *, after: float) -> None:
        """Let what the *holders* had come again in a while: they no longer say that they live."""
        with self.lock:
            for queues in self.topics.values():
                for queue in queues.values():
                    for entry in queue.entries:
                        if entry.holder in holders:
                            self.give_back(entry, after=after)


class BrokerClient(MemoryClient[MemoryBroker]):
    """A client of the broker: what publishers share."""

    reads = "publish"
    deletes = ""

    def vanish(self) -> None:
        """End as if the process had been killed."""
        self.closed = True

    def put(self, topic: str, message: ConsumedMessage, *, ttl: float = math.inf) -> str:
        """Hand *message* to the broker."""
        cell = self.cell(topic)
        with self.backend.lock:
            self.check_topic(cell)
            accepted = replace(message, message_id=self.backend.new_id())
            self.backend.deliver(cell, accepted, ttl=ttl)
        return accepted.message_id

    async def publishing(self) -> None:
        """Where a publication waits for the broker."""
        try:
            await self.turn()
        except UnavailableError as error:
            raise PublishError("the broker does not answer") from error

    def check_topic(self, cell: Cell) -> None:
        """Refuse a topic that is not there, if the broker makes none."""
        if not self.backend.creates_topics and cell not in self.backend.topics:
            raise TopicNotFoundError(f"topic {cell.name!r} does not exist")

    def message(self, topic: str, payload: object, key: object, headers: object) -> ConsumedMessage:
        """A copy of what is to be published; refuses what no message can hold."""
        self.check_key(topic)
        if type(payload) is not bytes:
            raise InvalidArgumentError(f"topic {topic!r}: a payload is bytes, not {type(payload).__name__}")
        if len(payload) > self.limits.value_bytes:
            raise TooLargeError(f"topic {topic!r}: the payload is longer than {self.limits.value_bytes} bytes")
        if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 128 or not is_unicode(key)):
            raise InvalidArgumentError(f"topic {topic!r}: a key is None or text of 1 to 128 characters")
        return ConsumedMessage(payload, key, self.checked_headers(topic, headers), topic)

    def checked_headers(self, topic: str, headers: object) -> dict[str, str]:
        """A copy of *headers*."""
        if headers is None:
            return {}
        return self.check_headers(topic, headers, self.numbers().headers)

    def numbers(self) -> DelayLimits:
        """The numbers of the broker."""
        return DelayLimits.adopted(self.limits)
