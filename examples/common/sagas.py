"""What every adapter of `sagas` refuses before it speaks to its backend, and the columns that a state consists of.

A payload is stored as its JSON text: types of databases that are called JSON lose what it has, the difference between 1 and 1.0,
digits beyond a double, or U+0000. Messages name a saga and never what is in it.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from examples.common import arguments
from omnitck.shared.exceptions import InvalidArgumentError, SagaAlreadyExistsError, TooLargeError
from omnitck.shared.models import SagaLimits, SagaState, SagaStatus, SagaStepHistory

__all__ = [
    "ACTIVE",
    "BEGINNING",
    "LISTED",
    "Position",
    "Row",
    "Span",
    "check_correlation",
    "check_count",
    "check_id",
    "check_lease",
    "check_seconds",
    "check_version",
    "check_worker",
    "from_microseconds",
    "scope",
    "to_microseconds",
]

ACTIVE = tuple(str(each) for each in SagaStatus if not each.terminal)
"""The statuses in which a saga is not terminal."""

LISTED = (*ACTIVE, str(SagaStatus.FAILED))
"""Those, and the one that an operator has to look at."""

DEEPEST = 200
LONGEST = 1e9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STEPS = range(2**63)
TIMES = range(2**53)
"""Microseconds since 1970 that a datetime can hold."""


class Position(NamedTuple):
    """A place in a listing: after a saga, by the time of its last update and its id."""

    updated: int
    """In microseconds since 1970, as everywhere here."""
    saga_id: str
    until: int | None = None
    """When the listing began. What is updated later is not listed again: it ends, also if its reader updates what it reads."""

    @property
    def cursor(self) -> str:
        """What an application is given."""
        return base64.urlsafe_b64encode(json.dumps(self).encode()).decode()

    @classmethod
    def of(cls, cursor: object) -> "Position":
        """The place that *cursor* stands for; None is the beginning."""
        if cursor is None:
            return BEGINNING

        if isinstance(cursor, str):
            try:
                match json.loads(base64.urlsafe_b64decode(cursor)):
                    case [int(updated), str(saga_id), int(until)] if updated in TIMES and until in TIMES and "\0" not in saga_id:
                        saga_id.encode()
                        return cls(updated, saga_id, until)
            except (ValueError, RecursionError):  # among the former what base64 and JSON raise
                pass
        raise InvalidArgumentError(f"cursor {cursor!r} is none that a listing has given out")


BEGINNING = Position(0, "")


class Span(NamedTuple):
    """When a saga was created and when it was updated last."""

    created: int
    updated: int


@dataclass(frozen=True)
class Row:
    """A checked state, as it is stored."""

    saga_id: str
    saga_type: str
    correlation_id: str | None
    status: str
    current_step: int
    history: str
    """The steps' names and statuses, as JSON."""
    payload: str
    version: int

    @classmethod
    def of(cls, state: object, limits: SagaLimits) -> "Row":
        """*state*, if this store can hold it."""
        if not isinstance(state, SagaState):
            raise InvalidArgumentError(f"a state is a SagaState, not {type(state).__name__}")

        check_id(state.saga_id, limits)
        if state.status not in set(SagaStatus):
            raise InvalidArgumentError(f"saga {state.saga_id!r}: no saga has the status {state.status!r}")
        check_correlation(state.saga_type, state.correlation_id, limits)
        step = state.current_step
        if isinstance(step, bool) or not isinstance(step, int) or step not in STEPS:
            raise InvalidArgumentError(f"saga {state.saga_id!r}: the current step is a whole number from 0, not {step!r}")
        return cls(
            state.saga_id,
            state.saga_type,
            state.correlation_id,
            str(SagaStatus(state.status)),
            step,
            _history(state, limits),
            _payload(state, limits),
            check_version(state.saga_id, state.version),
        )

    def at(self, version: int, span: Span) -> SagaState:
        """The state, as the store gives it out."""
        return SagaState(
            saga_id=self.saga_id,
            status=SagaStatus(self.status),
            current_step=self.current_step,
            history=tuple(SagaStepHistory(*each) for each in json.loads(self.history)),
            payload=json.loads(self.payload),
            version=version,
            saga_type=self.saga_type,
            correlation_id=self.correlation_id,
            created_at=from_microseconds(span.created),
            updated_at=from_microseconds(span.updated),
        )

    def columns(self) -> dict[str, object]:
        """What a statement stores, by the name of its column; the version is the statement's own."""
        return {name: value for name, value in asdict(self).items() if name != "version"}

    def taken(self) -> SagaAlreadyExistsError:
        """What creating it comes to, where its id or its correlation is another saga's."""
        if self.correlation_id is None:
            return SagaAlreadyExistsError(f"saga {self.saga_id!r} exists")
        return SagaAlreadyExistsError(f"saga {self.saga_id!r} exists, or another one is about {self.correlation_id!r}")


def scope(namespace: str | None, tenant_id: str | None) -> bytes:
    """What keeps the sagas of a namespace, and in it those of a tenant, apart from all others."""
    name = (namespace or "").encode()
    return b"%d:%b%b" % (len(name), name, arguments.encode_tenant(tenant_id))


def check_id(saga_id: object, limits: SagaLimits) -> bytes:
    """The UTF-8 form of *saga_id*, if a saga can have it."""
    return arguments.encode_key(saga_id, limits)


def check_correlation(saga_type: object, correlation_id: object, limits: SagaLimits) -> None:
    """Refuse what no saga can be found by; None, for no correlation, is fine."""
    arguments.encode_prefix(saga_type, limits, "saga_type")
    if correlation_id is not None and not arguments.encode_prefix(correlation_id, limits, "correlation_id"):
        raise InvalidArgumentError("correlation_id '' is about nothing; None is for no correlation")


def check_version(saga_id: object, version: object) -> int:
    """*version*, or 0, which no saga has, where it is no version that a store can give out."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidArgumentError(f"saga {saga_id!r}: a version is a whole number, not {version!r}")
    return version if version in arguments.INT64 else 0


def check_seconds(what: str, seconds: object) -> float:
    """*seconds*, if they are a number from 0."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST:  # nor NaN
        raise InvalidArgumentError(f"{what} is a number of seconds from 0, not {seconds!r}")
    return float(seconds)


def check_count(limit: object, most: int) -> int:
    """*limit*, or *most* where that is less."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgumentError(f"limit is a whole number from 1, not {limit!r}")
    return min(limit, most)


def check_worker(worker_id: object, limits: SagaLimits) -> str:
    """*worker_id*, if it names somebody."""
    if not arguments.encode_prefix(worker_id, limits, "worker_id"):
        raise InvalidArgumentError("worker_id '' names nobody")
    return str(worker_id)


def check_lease(lease: object, limits: SagaLimits) -> float:
    """*lease* in seconds, rounded up to the shortest that is kept."""
    if not (seconds := check_seconds("lease", lease)):
        raise InvalidArgumentError("a lease of 0 seconds leases nothing")
    return max(seconds, limits.min_ttl)


def to_microseconds(time: datetime) -> int:
    """*time* since 1970."""
    return (time - EPOCH) // timedelta(microseconds=1)


def from_microseconds(time: int) -> datetime:
    """The same back, in UTC."""
    return EPOCH + timedelta(microseconds=time)


def _history(state: SagaState, limits: SagaLimits) -> str:
    if isinstance(state.history, str | bytes) or not isinstance(state.history, Sequence):
        raise InvalidArgumentError(f"saga {state.saga_id!r}: the history is a sequence, not {type(state.history).__name__}")
    if len(state.history) > limits.history:
        raise TooLargeError(f"saga {state.saga_id!r}: {len(state.history)} steps; the limit is {limits.history}")

    steps: list[tuple[str, str]] = []
    for each in state.history:
        if not isinstance(each, SagaStepHistory):
            raise InvalidArgumentError(
                f"saga {state.saga_id!r}: the history consists of SagaStepHistory, not {type(each).__name__}"
            )
        for name, text in (("step_name", each.step_name), ("status", each.status)):
            arguments.encode_prefix(text, limits, f"saga {state.saga_id!r}: the {name}")
        steps.append((each.step_name, each.status))
    return _dump(state.saga_id, steps)


def _payload(state: SagaState, limits: SagaLimits) -> str:
    if not isinstance(state.payload, Mapping):
        raise InvalidArgumentError(f"saga {state.saga_id!r}: the payload is a mapping, not {type(state.payload).__name__}")

    payload = dict(state.payload)
    _check(state.saga_id, payload, 1)
    text = _dump(state.saga_id, payload)
    if (size := len(text.encode())) > limits.value_bytes:
        raise TooLargeError(f"saga {state.saga_id!r}: a payload of {size} bytes; the limit is {limits.value_bytes}")
    return text


def _check(saga_id: str, value: Any, depth: int) -> None:
    """Refuse what JSON does not hold, and what would come back as another type: a tuple as a list, an enum as its value."""
    if depth > DEEPEST:
        raise InvalidArgumentError(f"saga {saga_id!r}: the payload is deeper than {DEEPEST}")
    if type(value) is dict:
        if not all(type(name) is str for name in value):
            raise InvalidArgumentError(f"saga {saga_id!r}: the names in a payload are text")
        for each in value.values():
            _check(saga_id, each, depth + 1)
    elif type(value) is list:
        for each in value:
            _check(saga_id, each, depth + 1)
    elif type(value) not in (str, int, float, bool, type(None)):
        raise InvalidArgumentError(f"saga {saga_id!r}: JSON holds no {type(value).__name__}")
    elif type(value) is float and not math.isfinite(value):
        raise InvalidArgumentError(f"saga {saga_id!r}: JSON holds no number that is not finite")


def _dump(saga_id: str, value: object) -> str:
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"saga {saga_id!r}: there is a lone surrogate in a text") from None
    except ValueError:
        raise InvalidArgumentError(f"saga {saga_id!r}: a number has too many digits") from None
    return text
