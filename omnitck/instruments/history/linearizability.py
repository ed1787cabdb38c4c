"""Could one register, doing one operation at a time, have given these answers?

A history is linearizable if each operation can be given an instant between its call and its return such that the
answers are those of a register that does them one by one at these instants. Intervals are closed: what returns at the
very instant at which another is called is concurrent with it.

The search is Wing and Gong's, with Lowe's memory: walk along the calls and returns in order of time; give the first
operation that fits the state its instant, take it out, and start again; at a return whose call is still there, no order
begins like this one, so put the last operation back and go on behind it. A set of operations taken out together with a
state is never entered twice. Four refinements, each of which keeps the answer:

1. A read that is open says nothing and is left out. So is whatever was refused without having compared.
2. The end is reached when all *completed* operations have their instant: an open one need never happen.
3. An observer, that is an operation which changes nothing, is tried once: if it fits now, then any order in which it
   comes later is matched by one in which it comes now.
4. Values are numbered, so that states compare and hash as small integers.

The problem is NP-complete: cost grows with what overlaps. Keep to 8 clients, 4 open operations and 200 operations per
key, where a check takes milliseconds, and write unique values. Hence the limits of `check`, and the verdict
`UNDECIDED`.
"""

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from omnitck.instruments.history.recorder import REFUSED, Op
from omnitck.kit.text import describe

__all__ = ["Counterexample", "Verdict", "check", "explain"]

_STEP_LIMIT: Final = 2_000_000
_RECHECK_LIMIT: Final = 100_000
"""Steps for one of the many searches of `explain`: one that takes longer only leaves the counterexample longer."""


class Verdict(enum.Enum):
    """What `check` found."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNDECIDED = "undecided"
    """The search was given up. It is no pass: report it, with the seed of the workload."""


def check(
    ops: Collection[Op],
    *,
    step_limit: int = _STEP_LIMIT,
    max_clients: int = 8,
    max_open: int = 4,
    max_operations: int = 200,
) -> Verdict:
    """Decide whether the history *ops* of one key, absent at first, is linearizable.

    *step_limit* bounds the work; two million steps take a few seconds. Raises `ValueError` if the workload exceeds one
    of the other limits, because its verdict could not be relied upon to come.
    """
    for what, count, limit in (
        ("clients", len({op.client for op in ops}), max_clients),
        ("open operations", sum(op.ret is None for op in ops), max_open),
        ("operations", len(ops), max_operations),
    ):
        if count > limit:
            raise ValueError(f"the history has {count} {what}, more than {limit}: make the workload smaller.")

    steps, _ = _encode(ops)
    return _search(steps, step_limit)


def explain(ops: Collection[Op], *, step_limit: int = _STEP_LIMIT) -> "Counterexample | None":
    """Find a few operations of *ops* that contradict each other; None unless the verdict on *ops* is `VIOLATION`.

    What is shown is itself not linearizable: whatever is left out cannot be the excuse.
    """
    steps, values = _encode(ops)
    if _search(steps, step_limit) is not Verdict.VIOLATION:
        return None

    prefix, culprit = _shortest_bad_prefix(steps)
    shown = _shrink(prefix, culprit)
    nature, reason, cause = _diagnose(ops, prefix, shown, culprit, values)
    return Counterexample(
        ops=tuple(step.op for step in sorted(shown, key=lambda step: step.call)),
        culprit=culprit.op,
        total=len(ops),
        origin=min(op.call for op in ops),
        nature=nature,
        reason=reason,
        cause=cause,
    )


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Operations that no order explains."""

    ops: tuple[Op, ...]
    """The operations shown, in the order of their calls."""
    culprit: Op
    """The first operation whose return could not be explained any more."""
    total: int
    """Number of operations in the whole history."""
    origin: int
    """First call of the whole history, in nanoseconds: the zero of the times shown."""
    nature: str
    reason: str
    cause: str

    def render(self, subject: str = "the key") -> str:
        """Lines for a human; *subject* is what was read and written. Times are in milliseconds since the first call."""
        lines = [f"{self.nature}: {subject} is not linearizable ({self.total} operations, {len(self.ops)} shown)"]
        before = self._last_before()
        clients = [f"c{op.client}" for op in self.ops]
        calls = [_call_text(op) for op in self.ops]
        begins = [self._milliseconds(op.call) for op in self.ops]
        ends = ["open" if op.ret is None else self._milliseconds(op.ret) for op in self.ops]
        columns = [_align(clients), _align(calls), _align(begins, right=True), _align(ends, right=True)]
        for op, client, call, begin, end in zip(self.ops, *columns, strict=True):
            remark = _result_text(op)
            if op is self.culprit:
                remark = "◀ impossible" if op.kind == "get" else f"{remark}   ◀ impossible"
                remark += f": {self.reason}"
            elif op is before:
                remark = f"{remark:<7}(finished before the {'read' if self.culprit.kind == 'get' else 'call'} began)"
            lines.append(f"  {client}  {call}   {begin} ──▶ {end}   {remark}")

        return "\n".join([*lines, f"  usual cause: {self.cause}."])

    def _last_before(self) -> Op | None:
        earlier = [(op.ret, i) for i, op in enumerate(self.ops) if op.ret is not None and op.ret < self.culprit.call]
        return self.ops[max(earlier)[1]] if earlier else None

    def _milliseconds(self, instant: int) -> str:
        return f"{(instant - self.origin) / 1e6:.3f}"


def _align(cells: list[str], *, right: bool = False) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def _call_text(op: Op) -> str:
    text = f"{op.kind}({', '.join(map(_short, op.args))})"
    return f"{text} -> {_short(op.result)}" if op.kind == "get" and op.ret is not None else text


def _result_text(op: Op) -> str:
    if op.ret is None:
        return "unknown"
    return "refused" if op.result is REFUSED else "ok"


def _short(value: object) -> str:
    # The middle goes: unique values tend to begin alike and to differ at the end.
    text = value if isinstance(value, str) and value.isprintable() else describe(value)
    return text if len(text) <= 24 else f"{text[:11]}…{text[-12:]}"


_ABSENT: Final = 0
_NOTHING: Final = -1
"""In a field of `_Step`: it needs, excludes or leaves nothing in particular."""


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """An operation as the search sees it. Values are numbers."""

    op: Op
    call: int
    ret: int | None
    """None: it may or may not happen."""
    needs: int = _NOTHING
    """It fits only this value."""
    excludes: int = _NOTHING
    """It fits any value but this one."""
    leaves: int = _NOTHING
    """The value afterwards; nothing, if it is an observer."""

    @property
    def observes(self) -> bool:
        return self.leaves == _NOTHING


def _encode(ops: Iterable[Op]) -> tuple[list[_Step], list[object]]:
    """The steps that can matter, and the values by number."""
    numbers: dict[str | None, int] = {None: _ABSENT}
    values: list[object] = [None]

    def number(value: object) -> int:
        # Only a str or None was ever written. Whatever else a get returned equals nothing, and need not be hashable.
        if value is None or isinstance(value, str):
            if value not in numbers:
                numbers[value] = len(values)
                values.append(value)
            return numbers[value]
        values.append(value)
        return len(values) - 1

    steps = []
    for op in ops:
        refused = op.result is REFUSED
        match op.kind:
            case "get" if op.ret is not None and not refused:
                steps.append(_Step(op, op.call, op.ret, needs=number(op.result)))
            case "set" if not refused:
                steps.append(_Step(op, op.call, op.ret, leaves=number(op.args[0])))
            case "delete" if not refused:
                steps.append(_Step(op, op.call, op.ret, leaves=_ABSENT))
            case "compare_and_set" | "compare_and_delete" if refused:
                steps.append(_Step(op, op.call, op.ret, excludes=number(op.args[0])))
            case "compare_and_set":
                steps.append(_Step(op, op.call, op.ret, needs=number(op.args[0]), leaves=number(op.args[1])))
            case "compare_and_delete":
                steps.append(_Step(op, op.call, op.ret, needs=number(op.args[0]), leaves=_ABSENT))
    return steps, values


def _search(steps: Sequence[_Step], step_limit: int) -> Verdict:
    timeline = _Timeline(steps)
    waiting = sum(step.ret is not None for step in steps)
    state, placed = _ABSENT, 0
    seen: set[tuple[int, int]] = set()
    trail: list[tuple[int, int, int]] = []
    event = timeline.following[0]
    while waiting:
        step_limit -= 1
        if step_limit < 0:
            return Verdict.UNDECIDED

        index = timeline.step_of[event]
        step = steps[index]
        is_return = event != timeline.call_event[index]
        if not is_return:
            if (step.needs != state and step.needs != _NOTHING) or step.excludes == state:
                event = timeline.following[event]
                continue

            after = (placed | 1 << index, state if step.leaves == _NOTHING else step.leaves)
            if after not in seen:
                seen.add(after)
                trail.append((index, placed, state))
                placed, state = after
                timeline.lift(index)
                waiting -= step.ret is not None
                event = timeline.following[0]
                continue

        # Here `step` is a return that comes too early, or leads where nothing is to be found. Only the second leaves a
        # way on, and not if it is an observer.
        while is_return or step.observes:
            if not trail:
                return Verdict.VIOLATION
            index, placed, state = trail.pop()
            step, is_return = steps[index], False
            timeline.put_back(index)
            waiting += step.ret is not None
        event = timeline.following[timeline.call_event[index]]

    return Verdict.LINEARIZABLE


class _Timeline:
    """Calls and returns in order of time: a doubly linked list, numbered from 1, whose head is 0."""

    def __init__(self, steps: Sequence[_Step]) -> None:
        # A call sorts before a return of the same instant: closed intervals that touch overlap.
        events = [(step.call, 0, index) for index, step in enumerate(steps)]
        events += [(step.ret, 1, index) for index, step in enumerate(steps) if step.ret is not None]
        events.sort()
        count = len(events) + 1
        self.following = [*range(1, count), 0]
        self.preceding = [count - 1, *range(count - 1)]
        self.step_of = [0] * count
        self.call_event = [0] * len(steps)
        self.return_event = [0] * len(steps)
        for event, (_, is_return, index) in enumerate(events, start=1):
            self.step_of[event] = index
            (self.return_event if is_return else self.call_event)[index] = event

    def lift(self, index: int) -> None:
        """Take a step's call and return out."""
        following, preceding = self.following, self.preceding
        for event in (self.call_event[index], self.return_event[index]):
            if event:
                following[preceding[event]] = following[event]
                preceding[following[event]] = preceding[event]

    def put_back(self, index: int) -> None:
        """Undo the last `lift` that is not undone yet."""
        following, preceding = self.following, self.preceding
        for event in (self.return_event[index], self.call_event[index]):
            if event:
                following[preceding[event]] = event
                preceding[following[event]] = event


def _is_bad(steps: Sequence[_Step]) -> bool:
    return _search(steps, _RECHECK_LIMIT) is Verdict.VIOLATION


def _shortest_bad_prefix(steps: Sequence[_Step]) -> tuple[list[_Step], _Step]:
    """The history up to the first return that cannot be explained, and the step that returned.

    Cutting a linearizable history leaves a linearizable one, so bisection finds the place.
    """
    returns = sorted((step.ret, i) for i, step in enumerate(steps) if step.ret is not None)
    low, high = 0, len(returns) - 1
    while low < high:
        middle = (low + high) // 2
        if _is_bad(_prefix(steps, returns[: middle + 1])):
            high = middle
        else:
            low = middle + 1

    return _prefix(steps, returns[: high + 1]), steps[returns[high][1]]


def _prefix(steps: Sequence[_Step], returns: Sequence[tuple[int, int]]) -> list[_Step]:
    """The history until the last of *returns*. An update in flight then is open; an observer says nothing yet."""
    end = returns[-1][0]
    returned = {index for _, index in returns}
    return [
        step if index in returned else replace(step, ret=None)
        for index, step in enumerate(steps)
        if index in returned or (step.call <= end and not step.observes)
    ]


def _shrink(steps: list[_Step], culprit: _Step) -> list[_Step]:
    """Leave out what the contradiction does not need, by changes after which a linearizable history still is one.

    An observer may go. A comparison that took effect, or may have, may forget what it compared. An update may go if
    nobody observes its value. So a history that is bad afterwards was bad before. (An update whose value *is* observed
    must stay.)
    """
    while True:
        before = steps
        steps = _thin(steps, [s for s in steps if s.observes and s is not culprit], lambda step: None)
        steps = _thin(
            steps,
            [s for s in steps if s.needs != _NOTHING and not s.observes and s is not culprit],
            lambda step: replace(step, needs=_NOTHING),
        )
        steps = _thin(steps, [s for s in _unobserved(steps) if s is not culprit], lambda step: None)
        if steps is before:
            return steps


def _unobserved(steps: Sequence[_Step]) -> list[_Step]:
    """Updates without which nothing would look different to anybody."""
    needed = {step.needs for step in steps}
    # A refused comparison observes that its value is *not* there, so any update just before it may be what it saw. Not
    # one that was certainly overwritten before the comparison was called, nor one called after it returned.
    completed = [(step.call, step.ret) for step in steps if not step.observes and step.ret is not None]
    refused = [
        (max((call for call, ret in completed if ret < step.call), default=-1), step.ret)
        for step in steps
        if step.excludes != _NOTHING
    ]
    return [
        step
        for step in steps
        if not step.observes
        and step.leaves not in needed
        and all(
            (step.ret is not None and step.ret < overwritten) or (end is not None and end < step.call)
            for overwritten, end in refused
        )
    ]


def _thin(steps: list[_Step], eligible: list[_Step], change: Callable[[_Step], _Step | None]) -> list[_Step]:
    """Apply *change* to as many *eligible* steps as leave the history bad, to all at first, then to smaller parts."""
    size = len(eligible)
    while size:
        refused: list[_Step] = []
        for start in range(0, len(eligible), size):
            part = eligible[start : start + size]
            chosen = set(part)
            changed = [after for step in steps if (after := change(step) if step in chosen else step) is not None]
            if _is_bad(changed):
                steps = changed
            else:
                refused += part
        eligible = refused
        size = min(size // 2, len(eligible))

    return steps


def _diagnose(
    ops: Iterable[Op], prefix: Sequence[_Step], shown: Sequence[_Step], culprit: _Step, values: Sequence[object]
) -> tuple[str, str, str]:
    """The nature of the violation, why the culprit is impossible, and the usual cause."""
    op = culprit.op
    # A comparison that could not be forgotten is part of the contradiction, and is more often wrong than what saw it.
    compared = any(step.needs != _NOTHING and not step.observes for step in shown)
    not_atomic = "comparison and update are not one atomic step"
    if op.kind == "get":
        if culprit.needs == _ABSENT or any(step.leaves == culprit.needs for step in prefix):
            reason = _allowed_instead(shown, culprit, values)
            if compared:
                return "lost update", reason, not_atomic
            return "stale read", reason, "a read from a replica or a cache, or an acknowledged update was lost"

        text = _short(op.result)
        if any(other.result is REFUSED and other.args and other.args[-1] == op.result for other in _writes(ops)):
            return "refused write", f"the write of {text} was refused", "a write is applied before it is checked"
        return "invented value", f"no write of {text} had begun", "the value of another key, or a damaged one"

    if op.kind in ("set", "delete"):
        return "contradiction", "no order explains the operations up to here", "unknown"
    if op.result is REFUSED:
        if compared:
            return "lost update", "every order of these allows only success", not_atomic
        cause = "the comparison reads a replica or a cache, or a retry inside the client met its own first attempt"
        return "false refusal", "every order of these allows only success", cause
    return "lost update", "every order of these allows only a refusal", not_atomic


def _writes(ops: Iterable[Op]) -> Iterable[Op]:
    return (op for op in ops if op.kind in ("set", "compare_and_set"))


def _allowed_instead(shown: Sequence[_Step], culprit: _Step, values: Sequence[object]) -> str:
    candidates = sorted({_ABSENT} | {step.leaves for step in shown if not step.observes})
    allowed = []
    for value in candidates:
        instead = [replace(step, needs=value) if step is culprit else step for step in shown]
        if _search(instead, _RECHECK_LIMIT) is Verdict.LINEARIZABLE:
            allowed.append(_short(values[value]))

    if not 1 <= len(allowed) <= 4:
        return "no order of these allows it"
    return f"every order of these allows only {' or '.join(allowed)}"
