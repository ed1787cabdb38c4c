"""Could honest leases have been granted like this? Of all who were granted a name, one at a time holds it.

What counts is what a client may rely on. It holds a name *definitely* from the return of the call that granted it, as it knew
nothing before, until it calls for the release, or until the end of its lease, counted from the *call* of what granted or renewed
it last: the server granted no earlier than that. An answer that came after that end grants nothing. So every hold that is judged
is shorter than the server's own, by what was on its way, and two that overlap are no matter of timing.

Where each grant has a fencing token, one that was called for after another had returned has a greater token, and no two are
equal.

Every check is a sweep over sorted events, so that a hundred thousand grants take about a second; there is nothing to search.
A violation shows the two grants that prove it, and says how many more there are.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from omnitck.kit.text import describe

__all__ = ["Grant", "Renewal", "judge"]

_ROUNDING: Final = 1e-6
"""Seconds: an overlap that is no longer than this comes from adding times."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """One call that renewed a lease, or may have; one that was refused is none.

    Raises `ValueError` if it returned before it was called.
    """

    called: float
    """In seconds, as every time here, on the clock of all."""
    returned: float | None
    """When it returned successfully; None if nobody knows what became of it: it may have made the lease shorter."""
    ttl: float
    """How long the lease lasts from then on."""

    def __post_init__(self) -> None:
        _check_order(self.called, self.returned)


@dataclass(frozen=True, slots=True)
class Grant:
    """One call that was granted a name, or may have been; one that was refused is none. Raises `ValueError` as `Renewal` does."""

    name: str
    owner: object
    """Who called: shown as it is, and not compared. Two grants of one owner exclude each other as well."""
    called: float
    returned: float | None
    """When it returned successfully; None if nobody knows what became of it: then there is no definite hold."""
    ttl: float
    renewals: Sequence[Renewal] = ()
    """In the order in which they were called."""
    released: float | None = None
    """When the release was called, whatever became of it; None if it never was."""
    token: int | None = None

    def __post_init__(self) -> None:
        _check_order(self.called, self.returned)


def _check_order(called: float, returned: float | None) -> None:
    if returned is not None and returned < called:
        raise ValueError(f"the call returned {called - returned:g} s before it was made.")


def judge(grants: Collection[Grant], *, fencing: bool = False, drift: float = 0.0) -> str | None:
    """What speaks against whoever granted *grants*, in lines for a human; None if honest leases could have been granted so.

    With *fencing*, tokens are judged too, and each grant that returned has one. *drift* is the part of a lease by which the
    server's clock may be faster than that of *grants*: 0.01 lets a lease end a hundredth early.
    """
    history = _History(grants, drift)
    checks = [history.overlaps()]
    if fencing:
        checks += [history.without_token(), history.equal_tokens(), history.falling_tokens()]
    return "\n".join(filter(None, map(history.finding, checks))) or None


@dataclass(frozen=True, slots=True)
class _Hold:
    """A grant that was definitely held, and from when to when."""

    grant: Grant
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _Example:
    span: float
    """By which examples are compared: what spans less is easier to see."""
    text: Callable[[], list[str]]
    """Its lines; made for the one that is shown."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One event on the axis of time."""

    owner: object
    event: str
    called: float
    returned: float | None
    remark: str


class _History:
    def __init__(self, grants: Collection[Grant], drift: float) -> None:
        self.drift = drift
        self.total = len(grants)
        self.origin = min((each.called for each in grants), default=0.0)
        self.of: dict[str, list[Grant]] = {}
        """The grants of each name, in the order of their calls."""
        for each in sorted(grants, key=lambda each: each.called):
            self.of.setdefault(each.name, []).append(each)

    def finding(self, examples: Iterable[_Example]) -> str | None:
        """The smallest of *examples*, and their number."""
        found = list(examples)
        if not found:
            return None

        lines = min(found, key=lambda each: each.span).text()
        more = f"; {len(found) - 1} more" if len(found) > 1 else ""
        return "\n".join([lines[0] + more, *lines[1:]])

    def overlaps(self) -> Iterator[_Example]:
        """Grants that were held while an earlier one still was."""
        for grants in self.of.values():
            holds = [hold for hold in map(self.hold, grants) if hold is not None]
            holds.sort(key=lambda hold: hold.start)
            longest: _Hold | None = None
            for hold in holds:
                if longest is not None and min(longest.end, hold.end) - hold.start > _ROUNDING:
                    yield _Example(hold.start - longest.grant.called, partial(self._overlap, longest, hold))
                if longest is None or hold.end > longest.end:
                    longest = hold

    def hold(self, grant: Grant) -> _Hold | None:
        """When *grant* was definitely held; None if it never was."""
        if grant.returned is None:
            return None

        end = self.lease_end(grant, grant.renewals)
        if grant.released is not None:
            end = min(end, grant.released)
        return _Hold(grant, grant.returned, end) if end > grant.returned else None

    def lease_end(self, grant: Grant, renewals: Sequence[Renewal]) -> float:
        """The earliest end of the lease of *grant* after *renewals*: of calls at one time, each may have been the last."""
        earliest = float("inf")
        later = float("-inf")  # the latest call of one that certainly happened
        events: list[Grant | Renewal] = [*reversed(renewals), grant]
        for event in events:
            if event.returned is None or event.returned > later:
                earliest = min(earliest, event.called + event.ttl * (1 - self.drift))
            if event.returned is not None:
                later = max(later, event.called)
        return earliest

    def _overlap(self, one: _Hold, two: _Hold) -> list[str]:
        both = min(one.end, two.end) - two.start
        before = [each for each in one.grant.renewals if each.called < two.start]
        renewed_too_late = self.lease_end(one.grant, before) <= two.start
        late = next((each for each in one.grant.renewals if each.called >= two.start), None) if renewed_too_late else None
        lines = [*self._events(one, two.start, late), *self._events(two, one.end, None)]
        if late is None:
            refused = f"{_plain(two.grant.owner)}'s acquire, as the lease of {_plain(one.grant.owner)} had not ended"
            cause = "whether the lock is free is asked and answered in two steps, or somebody freed a lock that was not his"
            wrong = ("acquire", two.grant.called)
        else:
            refused = f"{_plain(one.grant.owner)}'s renewal, as the lease had ended and {_plain(two.grant.owner)} held the lock"
            cause = "a renewal that does not compare the owner, or revives a lease that has ended"
            wrong = ("renew", late.called)
        return [
            f"two holders: {describe(one.grant.name)} was held twice for {both * 1e3:.3f} ms ({self._shown(2)})",
            *self._axis(lines, wrong),
            f"  missing: the refusal of {refused}.",
            f"  usual cause: {cause}.",
        ]

    def _events(self, hold: _Hold, until: float, late: Renewal | None) -> list[_Line]:
        """What made *hold* definite: its grant, its last renewals, its release."""
        grant = hold.grant
        acquired = _Line(grant.owner, "acquire", grant.called, grant.returned, f"ok, ttl {_milliseconds(grant.ttl)} ms")
        renewed = [each for each in (late, *grant.renewals[-1:]) if each is not None]
        lines = [acquired]
        for each in dict.fromkeys(renewed):
            outcome = "unknown" if each.returned is None else "ok"
            lines.append(_Line(grant.owner, "renew", each.called, each.returned, f"{outcome}, ttl {_milliseconds(each.ttl)} ms"))
        if grant.released is not None and grant.released <= hold.end:
            lines.append(_Line(grant.owner, "release", grant.released, None, "held until this call"))
        else:
            lines.append(_Line(grant.owner, "lease ends", hold.end, None, "not earlier"))
        return lines

    def without_token(self) -> Iterator[_Example]:
        """Grants that have none."""
        for grants in self.of.values():
            for each in grants:
                if each.returned is not None and each.token is None:
                    yield _Example(each.called, partial(self._without_token, each))

    def _without_token(self, grant: Grant) -> list[str]:
        line = _Line(grant.owner, "acquire", grant.called, grant.returned, "ok, without a token")
        return [f"no token: a grant of {describe(grant.name)} has none ({self._shown(1)})", *self._axis([line])]

    def equal_tokens(self) -> Iterator[_Example]:
        """Grants whose token another one has."""
        for grants in self.of.values():
            seen: dict[int, Grant] = {}
            for each in grants:
                if each.token is None:
                    continue
                if each.token in seen:
                    other = seen[each.token]
                    title = f"token reused: two grants of {describe(each.name)} have {each.token}"
                    cause = "the counter lies in the lock, which is deleted with it, or is read and raised in two steps"
                    yield _Example(each.called - other.called, partial(self._tokens, title, other, each, cause))
                seen[each.token] = each

    def falling_tokens(self) -> Iterator[_Example]:
        """Grants whose token is smaller than that of one that had returned before they were called for."""
        for grants in self.of.values():
            returned = sorted(
                (each.returned, each.token, place)
                for place, each in enumerate(grants)
                if each.returned is not None and each.token is not None
            )
            next_one = 0
            greatest: tuple[int, Grant] | None = None
            for each in grants:
                while next_one < len(returned) and returned[next_one][0] < each.called:
                    _, token, place = returned[next_one]
                    if greatest is None or token > greatest[0]:
                        greatest = token, grants[place]
                    next_one += 1
                if each.token is not None and greatest is not None and each.token < greatest[0]:
                    title = f"token falls: {describe(each.name)} was granted with {each.token} after {greatest[0]}"
                    cause = "a random token, or a counter that begins anew once the lock has ended"
                    yield _Example(each.called - greatest[1].called, partial(self._tokens, title, greatest[1], each, cause))

    def _tokens(self, title: str, one: Grant, two: Grant, cause: str) -> list[str]:
        lines = [_Line(each.owner, "acquire", each.called, each.returned, f"ok, token {each.token}") for each in (one, two)]
        return [f"{title} ({self._shown(2)})", *self._axis(lines, ("acquire", two.called)), f"  usual cause: {cause}."]

    # The words of an example.

    def _shown(self, count: int) -> str:
        return f"{self.total} grants, {count} shown"

    def _axis(self, lines: list[_Line], wrong: tuple[str, float] | None = None) -> list[str]:
        """*lines* in the order of their calls, in columns; of two at one time, the one that is *wrong* comes last."""
        lines = sorted(lines, key=lambda line: (line.called, (line.event, line.called) == wrong))
        owners = _align([_plain(line.owner) for line in lines])
        events = _align([line.event for line in lines])
        begins = _align([self._time(line.called) for line in lines], right=True)
        ends = _align(["" if line.returned is None else f"──▶ {self._time(line.returned)}" for line in lines])
        rows = []
        for line, owner, event, begin, end in zip(lines, owners, events, begins, ends, strict=True):
            mark = "   ◀ impossible" if (line.event, line.called) == wrong else ""
            rows.append(f"  {owner}  {event}   {begin} {end}   {line.remark}{mark}")
        return rows

    def _time(self, instant: float) -> str:
        return _milliseconds(instant - self.origin)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _plain(owner: object) -> str:
    return owner if isinstance(owner, str) and owner.isprintable() and len(owner) <= 24 else describe(owner)


def _align(cells: list[str], *, right: bool = False) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
