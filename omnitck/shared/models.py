"""The records that cross the boundary between an application and a provider. Frozen, comparable, printable."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Any, Self

__all__ = [
    "BreakerLimits",
    "CacheLimits",
    "Change",
    "CircuitState",
    "ClaimedEvent",
    "ConsumedMessage",
    "DelayLimits",
    "DocumentLimits",
    "Entry",
    "Expect",
    "Limits",
    "LockLimits",
    "MessageLimits",
    "ObjectInfo",
    "ObjectLimits",
    "OutboxEvent",
    "OutboxLimits",
    "OutgoingMessage",
    "Prefix",
    "ProcessingOutcome",
    "PublishResult",
    "Put",
    "Remove",
    "SagaContext",
    "SagaLimits",
    "SagaPage",
    "SagaState",
    "SagaStatus",
    "SagaStep",
    "SagaStepHistory",
    "SecretLimits",
    "StoredEvent",
]


def _number(default: float, *, most: float | None = None) -> Any:
    """A number whose default is its floor, unless it has a ceiling: then anything from 0 up to *most* is fine."""
    return field(default=default, metadata={"least": default if most is None else 0, "most": most})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The numbers that an application may rely on. The defaults are what every provider meets."""

    key_bytes: int = _number(256)
    """Longest key, in bytes of UTF-8; at least 256."""
    value_bytes: int = _number(262_144)
    """Largest value, in bytes of UTF-8; at least 256 KiB."""
    min_ttl: float = _number(1.0, most=60)
    """Shortest time to live that is kept, in seconds; a shorter one is rounded up to it. At most 60."""
    ttl_resolution: float = _number(1.0, most=60)
    """How early or late an expiry may be seen, in seconds. At most 60."""
    staleness: float = _number(0.0, most=60)
    """How long another client may still read what was there before a write, in seconds; 0 is at once. At most 60."""
    page_size: int = field(default=1000, metadata={"least": 1, "most": None})
    """Names that the backend returns in one page of a listing."""
    batch_size: int = field(default=1000, metadata={"least": 1, "most": None})
    """Items that the backend takes in one request; a longer batch is split by the provider."""

    def broken_floors(self) -> list[str]:
        """One sentence for each number that no certified provider may declare."""
        broken = []
        for each in fields(self):
            number, least, most = getattr(self, each.name), each.metadata["least"], each.metadata["most"]
            if not _is_number(number):
                broken.append(f"{each.name} is {number!r}, not a number")
            elif each.type is int and number % 1:
                broken.append(f"{each.name} is {number!r}, not a whole number")
            elif not number >= least:
                broken.append(f"{each.name} is {number}, below {least}")
            elif most is not None and not number <= most:
                broken.append(f"{each.name} is {number}, above {most}")
        return broken

    @classmethod
    def adopted(cls, given: "Limits") -> Self:
        """What *given*, of whatever class, says of the numbers of this one; the others are what every provider meets.

        Those of a base count, and those of a class derived from this one, unless it gives them a meaning of its own: a provider
        may serve several contracts. Of numbers that are neither nothing is taken.
        """
        nearest = next(each for each in type(given).__mro__ if each is cls or each.__module__ == __name__)
        if not issubclass(cls, nearest) and not issubclass(nearest, cls):
            return cls()

        own = {each.name: each.metadata for each in fields(nearest)}
        said = [
            each.name
            for each in fields(cls)
            if each.name in own and (issubclass(cls, nearest) or own[each.name] == each.metadata)
        ]
        return cls(**{name: getattr(given, name) for name in said})

    def usable(self) -> Self:
        """The same, with what every provider meets in place of a number that nothing can be counted or timed with."""
        changed: dict[str, Any] = {}
        for each in fields(self):
            number = getattr(self, each.name)
            whole = each.type is int
            if not _is_number(number) or number < 0 or (whole and number % 1):
                changed[each.name] = each.default
            elif whole and isinstance(number, float):
                changed[each.name] = int(number)
        return replace(self, **changed) if changed else self


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLimits(Limits):
    """The numbers of a cache."""

    capacity_bytes: int = _number(8_388_608)
    """Below this sum, in bytes, nothing is evicted; at least 8 MiB. An item, key and value, counts for 1 KiB at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretLimits(Limits):
    """The numbers of a source of secrets."""

    key_bytes: int = _number(64)
    """Longest name, in bytes; at least 64."""
    value_bytes: int = _number(16_384)
    """Largest secret, in bytes of UTF-8; at least 16 KiB."""
    cache_seconds: float = _number(0.0, most=3600)
    """How long a client may still give out a secret that was changed or removed behind its back, in seconds. At most 3600."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectLimits(Limits):
    """The numbers of an object store."""

    part_bytes: int = field(default=8_388_608, metadata={"least": 1, "most": 67_108_864})
    """Size of the parts in which a large object travels, in bytes; at most 64 MiB. A client's memory is bounded by it."""
    max_presign: float = field(default=604_800.0, metadata={"least": 60, "most": None})
    """Longest life of a presigned URL, in seconds; at least 60."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentLimits(Limits):
    """The numbers of a document database. A key is an `_id`; `value_bytes` is not used: a document is measured as a whole."""

    document_bytes: int = _number(262_144)
    """Largest document, in bytes of its shortest JSON text in UTF-8, the `_id` included; at least 256 KiB."""
    collection_bytes: int = _number(48)
    """Longest name of a collection, in bytes; at least 48."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageLimits(Limits):
    """The numbers of a message broker. A key is a topic, and a value is a payload."""

    key_bytes: int = _number(64)
    """Longest topic, in bytes of UTF-8; at least 64."""
    value_bytes: int = _number(65_536)
    """Largest payload, in bytes; at least 64 KiB."""
    headers: int = _number(8)
    """Most headers of a message; at least 8."""
    deliver: float = _number(5.0, most=60)
    """Longest time, in seconds, from the publication of a message to its arrival at a consumer that is waiting. At most 60."""
    settle: float = _number(0.0, most=60)
    """How much later than a message one may arrive that was published before it, in seconds; 0 where a topic keeps its order."""
    redeliver: float = _number(10.0, most=600)
    """Longest time, in seconds, after which a message comes again whose consumer has vanished. At most 600."""
    least_attempts: int = field(default=1, metadata={"least": 1, "most": 10})
    """The smallest `max_attempts` that is kept; a smaller one is rounded up to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DelayLimits(MessageLimits):
    """The numbers of a publisher of delayed messages."""

    max_delay: float = _number(900.0)
    """Longest delay, in seconds; at least 900."""
    delay_resolution: float = _number(1.0, most=60)
    """A delay is rounded up to a multiple of this, in seconds. At most 60."""
    delay_lateness: float = _number(1.0, most=60)
    """How much later than due a message may arrive, in seconds. At most 60."""
    skew: float = _number(0.0, most=1)
    """By how much the clocks of the broker and of its clients may differ, in seconds. At most 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxLimits(Limits):
    """The numbers of an outbox. A key is a topic, a message's key or that of an aggregate, and a value is a payload."""

    value_bytes: int = _number(65_536)
    """Largest payload, in bytes; at least 64 KiB."""
    headers: int = _number(8)
    """Most headers of an event; at least 8."""
    min_ttl: float = _number(1.0, most=60)
    """Shortest lease of a claim, and shortest `retry_in`, that is kept, in seconds; a shorter one is rounded up. At most 60."""
    ttl_resolution: float = _number(1.0, most=60)
    """How much later than asked a lease or a `retry_in` may be seen to end, in seconds; it never ends earlier. At most 60."""
    deliver: float = _number(5.0, most=60)
    """Longest time, in seconds, from a commit to the publication by a relay that runs. At most 60."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SagaLimits(Limits):
    """The numbers of a store of sagas. A key is the id of a saga, and a value is its payload, as the shortest JSON text."""

    min_ttl: float = _number(1.0, most=60)
    """Shortest lease of a claim, in seconds; a shorter one that is asked for is rounded up to it. At most 60."""
    ttl_resolution: float = _number(1.0, most=60)
    """How much later than asked a lease may be seen to end, in seconds; it never ends earlier. And how coarse the times of
    updates are, by which `older_than` counts. At most 60."""
    staleness: float = field(default=0.0, metadata={"least": 0, "most": 0})
    """Always 0: every client reads what was written last."""
    history: int = _number(100)
    """Most steps that the history of a saga holds; at least 100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockLimits(Limits):
    """The numbers of a manager of locks. A key is the name of a lock; there are no values."""

    min_ttl: float = _number(1.0, most=60)
    """Shortest lease, in seconds; a shorter one that is asked for is rounded up to it. At most 60."""
    ttl_resolution: float = _number(1.0, most=60)
    """How much later than asked a lease may be seen to end, in seconds; it never ends earlier. At most 60."""
    max_ttl: float = _number(600.0)
    """Longest lease, in seconds; at least 600. A longer one is refused."""
    deliver: float = _number(5.0, most=60)
    """Longest time, in seconds, from the end of a lease until a waiter that is next holds the lock. At most 60."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerLimits(Limits):
    """The numbers of a circuit breaker, which has neither keys nor values."""

    min_ttl: float = _number(0.1, most=60)
    """Shortest `reset_timeout` that is kept, in seconds; a shorter one is rounded up to it. At most 60."""
    ttl_resolution: float = _number(0.1, most=60)
    """How much later than asked a timeout may be seen to end, in seconds; it never ends earlier. At most 60."""


class ProcessingOutcome(Enum):
    """What a handler says of a message."""

    SUCCESS = auto()
    """It is done, and does not come again."""
    RETRY = auto()
    """It comes again, until it has been tried `max_attempts` times."""
    FAIL = auto()
    """It is given up at once, however often it was tried."""


@dataclass(frozen=True, slots=True)
class ConsumedMessage:
    """A message as a handler gets it."""

    payload: bytes
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    topic: str = ""
    message_id: str = ""
    """Opaque; the same each time that the message comes."""
    delivery_attempt: int = 1
    """The number of this delivery, from 1."""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One of several messages that are published in one call."""

    payload: bytes
    key: str | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of one of several messages."""

    message_id: str | None = None
    """None if it was not accepted."""
    error: Exception | None = None
    """Why it was not."""


@dataclass(frozen=True, kw_only=True)
class OutboxEvent:
    """A message that is to be published once its transaction has committed."""

    destination_topic: str
    payload: bytes
    message_key: str | None = None
    """The key of the message, for the broker."""
    aggregate_key: str | None = None
    """Events of one aggregate are published in the order in which they were saved; None asks for no order."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredEvent(OutboxEvent):
    """An event as the outbox holds it."""

    event_id: str
    """Opaque, unique, and the same in every read and claim: consumers recognise a repetition by it."""
    sequence_id: int | None = None
    """Its place among the events of its aggregate: a later one has a greater number. None without an aggregate."""
    attempts: int = 0
    """How often a claimant has given it back with `release`."""


@dataclass(frozen=True, kw_only=True)
class ClaimedEvent(StoredEvent):
    """An event that one relay has for itself, until its lease ends."""

    claim_id: str
    """Opaque; names this claim, and no later one of the same event."""


class SagaStatus(StrEnum):
    """Where a saga stands."""

    RUNNING = "RUNNING"
    """Its steps are under way."""
    COMPENSATING = "COMPENSATING"
    """A step has failed, and those before it are being undone."""
    COMPLETED = "COMPLETED"
    """Every step is done."""
    COMPENSATED = "COMPENSATED"
    """Every step that was done is undone."""
    FAILED = "FAILED"
    """Something could not be undone: an operator has to look at it."""

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED)


@dataclass(frozen=True)
class SagaStepHistory:
    """What became of one step."""

    step_name: str
    status: str


@dataclass(frozen=True, kw_only=True)
class SagaState:
    """The state of one saga."""

    saga_id: str
    status: str
    """One of `SagaStatus`."""
    current_step: int = 0
    history: Sequence[SagaStepHistory] = ()
    payload: Mapping[str, Any] = field(default_factory=dict)
    """A JSON object."""
    version: int = 0
    """1 once it is created, and one more with each update; what is passed to `create_state` does not matter."""
    saga_type: str = ""
    """The kind of saga, within which a correlation is unique."""
    correlation_id: str | None = None
    """By what the outside world finds the saga: the id of an order."""
    created_at: datetime | None = None
    """Aware, in UTC; set by the store, whatever is passed. None where it does not keep times: one with `list_incomplete` does."""
    updated_at: datetime | None = None
    """Likewise, by each update."""


@dataclass(frozen=True, slots=True)
class SagaPage:
    """Part of a listing."""

    sagas: Sequence[SagaState]
    cursor: str | None = None
    """Opaque; with it the next page is asked for. None at the end."""


@dataclass(frozen=True, slots=True)
class SagaContext:
    """What a step is told."""

    saga_id: str
    payload: Mapping[str, Any]
    idempotency_key: str
    """The same each time that this step of this saga is done, and another one when it is undone."""


@dataclass(frozen=True, slots=True)
class SagaStep:
    """A step, and how it is undone."""

    name: str
    action: Callable[[SagaContext], Awaitable[object]]
    compensation: Callable[[SagaContext], Awaitable[object]] | None = None
    """None: there is nothing to undo."""


class CircuitState(Enum):
    """Where a circuit breaker stands."""

    CLOSED = auto()
    """Calls are made."""
    OPEN = auto()
    """Calls are refused."""
    HALF_OPEN = auto()
    """Some calls are made, to see whether the circuit can be closed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value with the version under which it is stored."""

    value: str
    version: str
    """Opaque: compare it, store it, give it back, never interpret it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One observed change of a key."""

    key: str
    value: str | None
    """The new value; None when the key was deleted."""


@dataclass(frozen=True, slots=True)
class Put:
    """Within a transaction: store *value* under *key*."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Within a transaction: delete *key*; an absent key is fine."""

    key: str


@dataclass(frozen=True, slots=True)
class Expect:
    """Within a transaction: go on only if *key* holds exactly *value*; None means that it is absent."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of a stored object."""

    key: str
    size: int
    """In bytes."""
    etag: str
    """Opaque, never empty; another content has another one. Give it back as `if_match`."""
    last_modified: datetime
    """Aware, in UTC."""
    content_type: str | None = None
    """As it was given; None if none was."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """As it was given, its keys in lower case."""
    version: str | None = None
    """The id of this version where the store has the capability `versioning`."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """One level down, in a listing by levels: all keys that begin with *key*, which ends in a slash."""

    key: str
