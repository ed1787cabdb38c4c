"""Could an honest queue have delivered this? What was published, what reached handlers, and what does not fit.

An honest queue loses nothing that it has accepted, invents and alters nothing, hands a message to one handler at a time, and
again only for a reason. Where it promises order, that is an order for each key: of two messages of one key, the one whose
publication *returned* before that of the other was *called* comes first; two whose publications overlap may come in any order.

A publication that did not return is open: its message may come, and counts as recovered if it does.

Every check is a sweep over sorted events, so that a hundred thousand deliveries take about a second; there is nothing to search.
A violation shows the single message, or the two, that prove it, and says how many more there are.
"""

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from omnitck.kit.text import describe

__all__ = ["Delivery", "Fate", "Finding", "Order", "Publication", "Queue", "judge"]


class Fate(enum.Enum):
    """How a delivery ended."""

    DONE = "done"
    """The handler ended the message: success, or failure for good. It must not come again."""
    AGAIN = "again"
    """The handler asked for it again, raised, or was stopped: the next delivery has a reason."""
    OPEN = "open"
    """The handler had not ended when the history did."""


class Order(enum.Enum):
    """What a queue promises of the messages of one key."""

    NONE = "none"
    FIRST = "first"
    """Their first deliveries come in the order of their publication."""
    STRICT = "strict"
    """And each is over before the next one begins, however often it comes."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One message, and the call that published it."""

    id: str
    """The workload's own, which the content repeats: unique."""
    content: object
    """All that must arrive as it was, compared by equality."""
    key: str | None
    call: int
    """In nanoseconds, as every time here."""
    ret: int | None
    """When the call returned successfully; None if nobody knows what became of it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call of a handler."""

    id: str
    """As its content says."""
    content: object
    client: int
    start: int
    end: int | None
    """None if it had not ended when the history did."""
    fate: Fate


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of violation: its smallest example, and how often it was found."""

    kind: str
    """`invented`, `corrupt`, `lost`, `two at once`, `out of order`, `overtaken` or `repeated`."""
    count: int
    example: str
    ids: tuple[str, ...]
    """The messages of the example."""

    def __str__(self) -> str:
        more = f"; {self.count - 1} more" if self.count > 1 else ""
        return f"{self.kind}: {self.example}{more}"


@dataclass(frozen=True, slots=True)
class Queue:
    """What was found about a history."""

    findings: tuple[Finding, ...]
    """The worst first; empty if an honest queue could have done all this."""
    recovered: int
    """Messages that came although their publication had not returned."""
    repeated: int
    """Deliveries of a message that was over."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


def judge(
    publications: Collection[Publication],
    deliveries: Collection[Delivery],
    *,
    order: Order = Order.NONE,
    drained: int | None = None,
    most_repeated: int | None = None,
    exclusive: bool = True,
) -> Queue:
    """What speaks against the queue that delivered *deliveries*.

    *drained* is when something that was published last arrived: whatever is missing then is lost. Without it only a gap is a
    loss, that is a message of whose key a later one came. *most_repeated* is how many deliveries without a reason are tolerated,
    None for any number. With *exclusive*, no two handlers may hold one message at once.

    Raises `ValueError` if two publications have one id.
    """
    history = _History(publications, deliveries)
    checks: list[Iterable[_Example]] = [history.invented(), history.corrupt(), history.lost(drained)]
    if exclusive:
        checks.append(history.two_at_once())
    if order is not Order.NONE:
        checks.append(history.out_of_order())
    if order is Order.STRICT:
        checks.append(history.overtaken())
    repeated = list(history.repeated())
    if most_repeated is not None and len(repeated) > most_repeated:
        checks.append(repeated)
    return Queue(
        findings=tuple(finding for finding in map(history.finding, checks) if finding is not None),
        recovered=sum(each.ret is None and each.id in history.first for each in publications),
        repeated=len(repeated),
    )


@dataclass(frozen=True, slots=True)
class _Example:
    kind: str
    size: int
    """By which examples are compared: what spans less is easier to see."""
    ids: tuple[str, ...]
    text: Callable[[], str]
    """Made for the one that is shown."""


_FOREVER: Final = 2**63


class _History:
    def __init__(self, publications: Collection[Publication], deliveries: Collection[Delivery]) -> None:
        self.published = {each.id: each for each in publications}
        if len(self.published) != len(publications):
            raise ValueError("two publications have one id: give each message its own.")

        self.deliveries = sorted(deliveries, key=lambda each: each.start)
        self.of: dict[str, list[Delivery]] = {}
        for each in self.deliveries:
            self.of.setdefault(each.id, []).append(each)
        self.first = {id: each[0] for id, each in self.of.items()}
        """In the order in which they came."""
        self.origin = min([each.call for each in publications] + [each.start for each in deliveries], default=0)

    def finding(self, examples: Iterable[_Example]) -> Finding | None:
        """The smallest of *examples*, and their number."""
        found = list(examples)
        if not found:
            return None

        best = min(found, key=lambda each: each.size)
        return Finding(best.kind, len(found), best.text(), best.ids)

    def invented(self) -> Iterator[_Example]:
        """Messages that nobody published."""
        for id, delivery in self.first.items():
            if id not in self.published:
                yield _Example("invented", delivery.start, (id,), partial(self._invented, delivery))

    def _invented(self, delivery: Delivery) -> str:
        return f"{self._came(delivery)}, and nobody published it"

    def corrupt(self) -> Iterator[_Example]:
        """Deliveries whose content is not what was published."""
        for delivery in self.deliveries:
            publication = self.published.get(delivery.id)
            if publication is not None and publication.content != delivery.content:
                yield _Example("corrupt", delivery.start, (delivery.id,), partial(self._corrupt, delivery, publication))

    def _corrupt(self, delivery: Delivery, publication: Publication) -> str:
        return f"{self._came(delivery)} as {describe(delivery.content)}, and was published as {describe(publication.content)}"

    def lost(self, drained: int | None) -> Iterator[_Example]:
        """Messages that were accepted and did not come."""
        came = self._came_by_key()
        for publication in self.published.values():
            if publication.ret is None or publication.id in self.first:
                continue

            of_key = came.get(publication.key, [])
            before = bisect_left(of_key, publication.call, key=lambda each: each.call) - 1
            after = bisect_right(of_key, publication.ret, key=lambda each: each.call)
            around = [of_key[place] for place in (before, after) if 0 <= place < len(of_key)]
            if drained is not None or after < len(of_key):  # else it may only be slow
                ids = (publication.id, *(each.id for each in around))
                yield _Example("lost", publication.call, ids, partial(self._lost, publication, around, drained))

    def _lost(self, publication: Publication, around: Iterable[Publication], drained: int | None) -> str:
        others = [f"{each.id} came at {self._time(self.first[each.id].start)}" for each in around]
        if drained is not None:
            others.append(f"the last of all at {self._time(drained)}")
        return f"{self._went(publication)} and never came; {', '.join(others)}"

    def _came_by_key(self) -> dict[str | None, list[Publication]]:
        """What came at all, by key, in the order of the calls."""
        came: dict[str | None, list[Publication]] = {}
        for each in sorted(self.published.values(), key=lambda each: each.call):
            if each.id in self.first:
                came.setdefault(each.key, []).append(each)
        return came

    def two_at_once(self) -> Iterator[_Example]:
        """Two handlers that held one message at one time."""
        for several in self.of.values():
            yield from self._overlapping(several, self._end, "two at once")

    def out_of_order(self) -> Iterator[_Example]:
        """Messages that came after one of their key that was published later."""
        latest: dict[str, Publication] = {}
        for id in self.first:
            this = self.published.get(id)
            if this is None or this.key is None:
                continue

            other = latest.get(this.key)
            if other is None or this.call > other.call:
                latest[this.key] = this
            elif this.ret is not None and this.ret < other.call:
                size = other.call - this.ret
                yield _Example("out of order", size, (this.id, other.id), partial(self._out_of_order, this, other))

    def _out_of_order(self, one: Publication, two: Publication) -> str:
        return (
            f"{self._went(one)} and came at {self._time(self.first[one.id].start)}; "
            f"{two.id} was published after it, at {self._time(two.call)}, and came at {self._time(self.first[two.id].start)}"
        )

    def overtaken(self) -> Iterator[_Example]:
        """Messages that began before another of their key, which had begun, was over."""
        of_key: dict[str, list[Delivery]] = {}
        for id, delivery in self.first.items():
            publication = self.published.get(id)
            if publication is not None and publication.key is not None:
                of_key.setdefault(publication.key, []).append(delivery)
        for several in of_key.values():
            yield from self._overlapping(several, self._over, "overtaken")

    def repeated(self) -> Iterator[_Example]:
        """Deliveries of what was done."""
        for id, several in self.of.items():
            done: Delivery | None = None
            for each in several:
                if done is not None and each.start >= self._end(done):
                    yield _Example("repeated", each.start - done.start, (id,), partial(self._repeated, done, each))
                elif done is None and each.fate is Fate.DONE:
                    done = each

    def _repeated(self, done: Delivery, again: Delivery) -> str:
        return f"{self._came(done)} and was done at {self._time(self._end(done))}; it came again at {self._time(again.start)}"

    def _overlapping(self, deliveries: Iterable[Delivery], end: Callable[[Delivery], int], kind: str) -> Iterator[_Example]:
        """Of *deliveries*, in the order of their start, those that began before the *end* of an earlier one."""
        longest: Delivery | None = None
        until = -1
        for each in deliveries:
            if longest is not None and each.start < until:
                ids = tuple(dict.fromkeys((longest.id, each.id)))
                yield _Example(kind, until - each.start, ids, partial(self._overlap, longest, until, each))
            if end(each) > until:
                longest, until = each, end(each)

    def _overlap(self, one: Delivery, until: int, two: Delivery) -> str:
        return (
            f"{self._came(one)} to client {one.client} and was over at {self._time(until)}; "
            f"{two.id} came to client {two.client} at {self._time(two.start)}"
        )

    def _over(self, delivery: Delivery) -> int:
        """When its message was done; if it never was, the end of the last delivery."""
        several = self.of[delivery.id]
        return self._end(next((each for each in several if each.fate is Fate.DONE), several[-1]))

    @staticmethod
    def _end(delivery: Delivery) -> int:
        return _FOREVER if delivery.end is None else delivery.end

    # The words of an example.

    def _went(self, publication: Publication) -> str:
        key = "" if publication.key is None else f" (key {publication.key})"
        outcome = "was called for" if publication.ret is None else f"was accepted at {self._time(publication.ret)}"
        return f"{publication.id}{key} {outcome}"

    def _came(self, delivery: Delivery) -> str:
        return f"{delivery.id} came at {self._time(delivery.start)}"

    def _time(self, instant: int) -> str:
        return "no time" if instant >= _FOREVER else f"{(instant - self.origin) / 1e6:.3f} ms"
