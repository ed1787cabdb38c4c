"""What became of a rule, and the stream in which every report has its source.

The rule wrapper emits one `Outcome` a rule, under any runner. Listeners inside the process receive it; with
`OMNITCK_RESULTS=file` it is also appended to that file as one line of JSON, by as many processes as there are.
"""

import inspect
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from omnitck.kit.text import shorten

__all__ = ["Outcome", "StaleDeviationWarning", "Status", "Violation", "emit", "listening", "record", "starting", "warn_of_stale"]


class Status(StrEnum):
    """The seven things that can become of a rule. Only `PASSED` counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    """The provider broke the rule."""
    ERROR = "error"
    """Something that is not the rule's subject went wrong: the factory, a hook, the environment."""
    NOT_DECLARED = "not declared"
    """The rule belongs to a capability that the suite does not declare."""
    NOT_PROVOKED = "not provoked"
    """The suite lacks the optional hook that could provoke the rule."""
    KNOWN_DEVIATION = "known deviation"
    """Declared as one, and it still fails."""
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one rule in one suite."""

    suite: str
    """Qualified name of the suite's class."""
    rule: str
    outcome: Status
    seconds: float
    message: str = ""
    """The violation, that of a known deviation included; the reason of another skip; or nothing."""
    during: str = ""
    """For an audit: the rule that it watched. It has one such outcome for each, of which reports make one."""
    cause: str = ""
    """What went wrong first, if something raised: `ConnectionRefusedError: ...`. Reports put together what has one cause."""
    traceback: str = ""
    """Of what was raised, where `OMNITCK_TRACEBACK` asks for it."""

    def as_json(self) -> str:
        """One line, for the outcome stream."""
        return json.dumps(asdict(self), ensure_ascii=True)


class Violation(AssertionError):  # noqa: N818  what a runner counts as a failure, not as an error
    """A rule was broken: what was given, expected and observed, the calls before it, and the usual cause."""

    def __init__(self, *, given: str = "", expected: str = "", observed: str = "", hint: str = "", case: str = "") -> None:
        super().__init__(expected, observed)
        self.given = given
        self.expected = expected
        self.observed = observed
        self.hint = hint
        self.case = case
        self.cause = ""
        """What came before what was raised, one line each: the last is the first cause."""
        self.heading = ""
        self.provider = ""
        self.backend = ""
        """What the suite says of its backend."""
        self.trace: list[str] = []
        self.again = ""
        self.others: list[Violation] = []
        """The rule's further cases that failed."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Runners with several processes send what a test raised from one to another."""
        return type(self), (), self.__dict__

    def __str__(self) -> str:
        lines = [self.heading] if self.heading else []
        lines += _field("provider", self.provider)
        cases = _told_together((self, *self.others))
        for violation, names in cases[:MOST_CASES]:
            lines += _field("case", ", ".join(names))
            lines += _field("given", violation.given)
            lines += _field("expected", violation.expected)
            lines += _field("observed", violation.observed)
            lines += _field("cause", violation.cause)
            lines += _field("hint", violation.hint)
        if more := [name for each, names in cases[MOST_CASES:] for name in names or [each.observed]]:
            lines.append(shorten(f"  and {len(more)} more case{'s' if len(more) > 1 else ''}: {', '.join(more)}"))
        for number, call in enumerate(self.trace):
            lines.append(f"  {'trace' if not number else '':9} {call}")
        lines += _field("backend", self.backend)
        lines += _field("again", self.again)
        return "\n".join(lines)


class StaleDeviationWarning(UserWarning):
    """A rule passes that the suite names as a known deviation."""


MOST_CASES = 2
"""Cases of a rule that are shown whole."""


def _told_together(violations: Iterable[Violation]) -> list[tuple[Violation, list[str]]]:
    """The first of those that say the same, with the names of all of these cases."""
    found: dict[tuple[str, ...], tuple[Violation, list[str]]] = {}
    for each in violations:
        said = (each.given, each.expected, each.observed, each.cause, each.hint)
        found.setdefault(said, (each, []))[1].extend([each.case] if each.case else [])
    return list(found.values())


def _field(name: str, text: str) -> list[str]:
    return [f"  {name:9} " + text.replace("\n", "\n" + " " * 12)] if text else []


Listener = Callable[[type, Outcome], None]
StartListener = Callable[[type, str], None]

_lock = threading.Lock()
_listeners: list[tuple[Listener, StartListener | None]] = []
_reported: list[type] = []
_complained: set[str] = set()


@contextmanager
def listening(finished: Listener, started: StartListener | None = None, *, reporting: type | None = None) -> Iterator[None]:
    """Call *finished* with the suite and each outcome, and *started* with the suite and each rule's id, in any thread.

    *reporting* is a suite of whose stale deviations a report will tell, so that no warning need.
    """
    listener = (finished, started)
    with _lock:
        _listeners.append(listener)
        _reported.extend([reporting] if reporting else [])
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)
            if reporting:
                _reported.remove(reporting)


def starting(suite: type, rule: str) -> None:
    """Tell who listens that *rule* begins."""
    for _, started in tuple(_listeners):
        if started is not None:
            started(suite, rule)


def emit(suite: type, outcome: Outcome) -> None:
    """Hand *outcome* to who listens."""
    for finished, _ in tuple(_listeners):
        finished(suite, outcome)


def record(outcome: Outcome) -> None:
    """Append *outcome* to the file of `OMNITCK_RESULTS`, if there is to be one."""
    path = os.environ.get("OMNITCK_RESULTS")
    if path:
        _append(path, outcome.as_json() + "\n")


def warn_of_stale(suite: type, rule: str, reason: str) -> None:
    """Warn, where *suite* is written, that *rule* passes although it is a known deviation for *reason*."""
    if suite in _reported:
        return

    file, line = suite.__module__, 1
    with suppress(OSError, TypeError):  # What was made at run time has no line, and perhaps no file.
        file = inspect.getsourcefile(suite) or file
        line = inspect.getsourcelines(suite)[1]
    warnings.warn_explicit(
        f"{suite.__module__}.{suite.__qualname__}: {rule} is a known deviation and passes: take it out of known_deviations, "
        f"whose reason was: {reason}",
        StaleDeviationWarning,
        file,
        line,
        suite.__module__,
    )


def _append(path: str, line: str) -> None:
    # One write to a file opened for appending: lines of several processes do not mix.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        with _lock:
            first = path not in _complained
            _complained.add(path)
        if first:
            print(f"omnitck: OMNITCK_RESULTS cannot be written: {error}; outcomes are not recorded.", file=sys.stderr)
