"""A broker behind the unusual clients of messaging, which has nothing of the reference's: a topic is a log that is only added to.

Its offsets have gaps, a request takes its time, a record may be seen later than it was added, and readers poll.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import anyio
import anyio.lowlevel

from omnitck.shared.clock import Clock, SystemClock
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    PublishError,
    TooLargeError,
    TopicNotFoundError,
    UnavailableError,
)
from omnitck.shared.models import MessageLimits

__all__ = [
    "BrokerLost",
    "ConnectionClosed",
    "Group",
    "Lease",
    "Log",
    "Message",
    "NotSent",
    "Oversized",
    "Record",
    "Rejected",
    "SocketReset",
    "UnknownTopic",
]

POLL_SECONDS = 0.002


class SocketReset(OSError):
    """What the library below raises."""


class BrokerLost(UnavailableError):
    """A vendor's `UnavailableError`."""


class NotSent(PublishError):
    """A vendor's `PublishError`."""


class Rejected(InvalidArgumentError):
    """A vendor's `InvalidArgumentError`."""


class Oversized(TooLargeError, Rejected):
    """A vendor's `TooLargeError`."""


class UnknownTopic(TopicNotFoundError):
    """A vendor's `TopicNotFoundError`."""


class ConnectionClosed(ClosedError):
    """A vendor's `ClosedError`."""


class Message:
    """A message that was read: it has what the standard asks of one, and nothing of it can be changed."""

    __slots__ = ("_attempt", "_record")

    def __init__(self, record: "Record", attempt: int = 1) -> None:
        self._record = record
        self._attempt = attempt

    def __getattr__(self, name: str) -> object:
        return getattr(self._record, name)

    @property
    def headers(self) -> Mapping[str, str]:
        """A view of what is stored."""
        return MappingProxyType(self._record.headers)

    @property
    def delivery_attempt(self) -> int:
        """The number of this delivery, from 1."""
        return self._attempt


@dataclass(eq=False, kw_only=True)
class Record:
    """A message in a log."""

    topic: str
    payload: bytes
    key: str | None
    headers: dict[str, str]
    message_id: str = ""
    offset: int = 0
    visible: float = 0.0
    """On the broker's clock, as is the next."""
    expires: float = math.inf
    pending: bool = False
    """Whether the transaction that it belongs to goes on."""


@dataclass(eq=False)
class Lease:
    """Who may handle a record, and until when."""

    record: Record
    until: float
    attempts: int = 0
    """How often a handler was given it."""


@dataclass(eq=False)
class Group:
    """What a group of consumers has done with a topic."""

    start: int
    """It gets what has a higher offset."""
    done: set[int] = field(default_factory=set)
    leases: dict[int, Lease] = field(default_factory=dict)


class Log:
    """The broker. A *trip* to it takes up to so many seconds; a record is visible *lag()* seconds after it was added."""

    def __init__(
        self,
        *,
        limits: MessageLimits | None = None,
        clock: Clock | None = None,
        trip: float = 0.0,
        lag: Callable[[], float] = lambda: 0.0,
        strict: bool = False,
        seed: int = 7,
    ) -> None:
        self.limits = limits or MessageLimits()
        self.clock = clock or SystemClock()
        self.random = random.Random(seed)
        self.reachable = True
        self._trip = trip
        self._lag = lag
        self._strict = strict
        self._topics: dict[str, list[Record]] = {}
        self._groups: dict[tuple[str, str], Group] = {}
        self._chosen: dict[tuple[str, str], Record] = {}
        self._offset = 1000

    async def trip(self) -> None:
        """One way to the broker or back. Raises `SocketReset` if there is none."""
        if self._trip:
            await anyio.sleep(self.random.uniform(0.0, self._trip))
        else:
            await anyio.lowlevel.checkpoint()
        if not self.reachable:
            raise SocketReset("connection reset by peer")

    def create(self, topic: str) -> None:
        """Let *topic* be there."""
        self._topics.setdefault(topic, [])

    def drop(self, topic: str) -> None:
        """Let *topic* be gone."""
        self._topics.pop(topic, None)

    def has(self, topic: str) -> bool:
        """Whether one may publish to *topic*."""
        return not self._strict or topic in self._topics

    def add(self, record: Record, *, after: float = 0.0) -> None:
        """Append *record*, to be seen *after* so many seconds and the usual lag."""
        self._offset += self.random.randint(1, 90)
        record.offset = self._offset
        record.message_id = record.message_id or f"{self._offset:x}".rjust(self.random.randint(1, 24), "-")
        self.show(record, after=after)
        self.create(record.topic)
        self._topics[record.topic].append(record)

    def withdraw(self, id: str) -> bool:
        """Let the record with this *id* never be seen; whether it has not been yet."""
        for records in self._topics.values():
            for each in records:
                if each.message_id == id and each.visible > self.clock.now():
                    records.remove(each)
                    return True
        return False

    def show(self, record: Record, *, after: float = 0.0) -> None:
        """Let *record* be seen, no earlier than others of its key that stand before it."""
        before = [
            each.visible for each in self._topics.get(record.topic, ()) if record.key is not None and each.key == record.key
        ]
        record.visible = max([self.clock.now() + after + self._lag(), *before])

    def first_of(self, record: Record, id: str | None) -> Record:
        """The record that was published first under the publisher's own *id*: this one, unless there is another."""
        return record if id is None else self._chosen.setdefault((record.topic, id), record)

    def group(self, topic: str, name: str) -> Group:
        """The group of this *name*, which gets what is published from now on; the default one got everything."""
        self.create(topic)
        found = self._groups.get((topic, name))
        if found is None:
            found = self._groups[topic, name] = Group(-1 if name == "default" else self._offset)
        return found

    def poll(self, topic: str, name: str, seconds: float, *, ordered: bool = False) -> Lease | None:
        """Lease the next record of *topic* to the group of this *name* for so many *seconds*; with *ordered*, one of each key."""
        now, group = self.clock.now(), self.group(topic, name)
        for record in sorted(self._open(topic, group, ordered=ordered), key=lambda each: (each.visible, each.offset)):
            last = group.leases.get(record.offset)
            if last is None or last.until <= now:
                lease = group.leases[record.offset] = Lease(record, now + seconds, last.attempts if last else 0)
                return lease
        return None

    def _open(self, topic: str, group: Group, *, ordered: bool) -> Iterator[Record]:
        """What may be handled, as far as it is not."""
        now = self.clock.now()
        before: set[str] = set()
        for each in self._topics.get(topic, ()):
            leased = each.offset in group.leases
            if each.offset <= group.start or each.offset in group.done or each.pending or (each.expires <= now and not leased):
                continue
            if each.visible <= now and not (ordered and each.key in before):
                yield each
            if each.key is not None:
                before.add(each.key)

    def renew(self, lease: Lease, name: str, seconds: float) -> bool:
        """Let *lease* last for so many *seconds* from now, if nobody else has got one; whether it does."""
        if self.group(lease.record.topic, name).leases.get(lease.record.offset) is not lease:
            return False
        lease.until = self.clock.now() + seconds
        return True

    def finish(self, lease: Lease, name: str) -> None:
        """The group of this *name* has handled a record."""
        self.give_up(lease, name)

    def give_up(self, lease: Lease, name: str) -> None:
        """The group of this *name* wants a record no more."""
        group = self.group(lease.record.topic, name)
        group.done.add(lease.record.offset)
        group.leases.pop(lease.record.offset, None)

    def let_go(self, lease: Lease, *, after: float = 0.0) -> None:
        """Let the record be leased again *after* so many seconds."""
        lease.until = self.clock.now() + after

    async def receive(self, topic: str, within: float) -> Message | None:
        """The next message for who has no subscription; None if none comes *within* seconds."""
        until = time.monotonic() + within
        while True:
            late = time.monotonic() >= until
            lease = self.poll(topic, "default", math.inf)
            if lease is not None:
                self.finish(lease, "default")
                return Message(lease.record)
            if late:
                return None
            await anyio.sleep(POLL_SECONDS)

    def record(self, topic: object, payload: object, key: object, headers: object) -> Record:
        """What is to be added. Refuses what no message can hold, with the reason of the library below as the cause."""
        problem = self.name_problem(topic)
        if problem:
            raise Rejected(f"topic {topic!r} {problem}") from ValueError("bad topic")
        if not isinstance(payload, bytes):
            raise Rejected(f"topic {topic!r}: a payload of {type(payload).__name__}") from TypeError("not bytes")
        if len(payload) > self.limits.value_bytes:
            raise Oversized(f"topic {topic!r}: a payload of {len(payload)} bytes") from SocketReset("frame too large")
        if key is not None and not (isinstance(key, str) and 1 <= len(key) <= 128 and _is_unicode(key)):
            raise Rejected(f"topic {topic!r}: a key that is no text of 1 to 128 characters") from TypeError("bad key")
        given: dict[object, object] = {}
        if headers is not None:
            if not isinstance(headers, Mapping):
                raise Rejected(f"topic {topic!r}: headers of {type(headers).__name__}") from TypeError("not a mapping")
            given = dict(headers)
        if len(given) > self.limits.headers:
            raise Rejected(f"topic {topic!r}: {len(given)} headers") from ValueError("too many")
        copied: dict[str, str] = {}
        for name, value in given.items():
            if not (isinstance(name, str) and name and isinstance(value, str) and _is_unicode(name + value)):
                raise Rejected(f"topic {topic!r}: a header that is no text") from TypeError("bad header")
            copied[name] = value
        return Record(topic=str(topic), payload=payload, key=key, headers=copied)

    def name_problem(self, name: object) -> str:
        """What is wrong with the name of a topic or a group; empty if nothing is."""
        if not isinstance(name, str):
            return "is no text"
        if not name or "\x00" in name or not _is_unicode(name):
            return "is empty, or has U+0000 or a surrogate"
        return "" if len(name.encode()) <= self.limits.key_bytes else "is too long"


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)
