"""Random walks: a seeded sequence of calls on a provider and on a model of it, until they disagree.

A disagreement is shortened: steps are left out, chunk by chunk, as long as the two still disagree on fresh names. What remains is
printed as Python.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from omnitck.kit.concurrency import attempt
from omnitck.kit.text import describe
from omnitck.shared.exceptions import InvalidArgumentError, TCKError, UnavailableError

__all__ = [
    "NEVER_GIVEN",
    "WALK_NAMES",
    "Divergence",
    "Move",
    "Name",
    "Refine",
    "Step",
    "Version",
    "VersionOf",
    "other",
    "random_steps",
    "walk",
]

WALK_NAMES = 3
"""So few that steps meet on them."""

NEVER_GIVEN = "987654321987654321"
"""The version of a name of which none was seen: a number, for who reads it as one, that no counter and no clock gives out."""

MOST_SHRINKING = 200
"""Replays spent on shortening one divergence."""


@dataclass(frozen=True, slots=True)
class Name:
    """Stands for a name; every replay has fresh ones."""

    number: int

    def __repr__(self) -> str:
        return f"k{self.number}"


@dataclass(frozen=True, slots=True)
class Version:
    """Stands for the version that was last seen of a name."""

    number: int

    def __repr__(self) -> str:
        return f"version_of_k{self.number}"


@dataclass(frozen=True, slots=True)
class Step:
    """One call: a method, and arguments in which `Name` and `Version` are replaced."""

    method: str
    arguments: tuple[object, ...]
    keywords: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = [repr(each) for each in self.arguments] + [f"{key}={each!r}" for key, each in self.keywords.items()]
        return f"{self.method}({', '.join(shown)})"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a provider and its model disagree."""

    reproduction: str
    """Python that shows it."""
    expected: str
    observed: str


Refine = Callable[[Step, object], object]
VersionOf = Callable[[Step, object], str | None]
Move = tuple[str, Callable[[Name], Step]]
"""A step that a walk may take at a name, behind the capability that brings it, which is empty for the core."""


def other(name: Name) -> Name:
    """The name after *name*, in a circle."""
    return Name((name.number + 1) % WALK_NAMES)


def random_steps(
    chance: random.Random, declared: frozenset[str], count: int, actions: Sequence[Move], looks: Sequence[Move]
) -> list[Step]:
    """*count* actions whose capability is *declared*, each followed by a look at the name that it acted on last.

    A move that is listed twice is taken twice as often.
    """
    may_act, may_look = ([make for needs, make in moves if not needs or needs in declared] for moves in (actions, looks))
    steps = []
    for _ in range(count):
        name = Name(chance.randrange(WALK_NAMES))
        act = chance.choice(may_act)(name)
        last = act.arguments[-1] if act.arguments else name
        steps += [act, chance.choice(may_look)(last if isinstance(last, Name) else name)]
    return steps


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one call."""

    shown: str
    """In words that two providers share."""
    error: BaseException | None = None
    guessed: bool = False
    """Whether the call had a version in it that nobody gave out, which may be malformed to one provider and stale to another."""

    def agrees(self, model: "_Outcome") -> bool:
        """Whether it is what became of the same call on the *model*; an error may be of a subclass, as everywhere."""
        if model.error is None or self.error is None:
            return self.shown == model.shown
        return isinstance(self.error, _kind(model.error)) or (self.guessed and isinstance(self.error, InvalidArgumentError))


def _kind(error: BaseException) -> type[BaseException]:
    """The nearest class of *error* that the standard knows; its own, if it knows none."""
    own = type(error)
    return next((each for each in own.__mro__ if each.__module__ == TCKError.__module__), own)


@dataclass(slots=True)
class _Replay:
    """One provider on its way, with what its names and versions stand for."""

    provider: Any
    names: list[str]
    refine: Refine
    version_of: VersionOf
    versions: dict[int, str] = field(default_factory=dict)
    guessed: bool = False
    """See `_Outcome`."""

    async def take(self, step: Step) -> _Outcome:
        """Make the call; what became of it."""
        self.guessed = False
        arguments = [self._real(each) for each in step.arguments]
        keywords = {key: self._real(each) for key, each in step.keywords.items()}
        tried = await attempt(lambda: _call(self.provider, step.method, arguments, keywords))
        if isinstance(tried.error, UnavailableError):
            raise tried.error
        if tried.error is not None:
            return _Outcome(f"raises {_kind(tried.error).__name__}", tried.error, self.guessed)

        self._remember(step, tried.value)
        return _Outcome(describe(self._neutral(self.refine(step, tried.value))))

    def _real(self, value: object) -> object:
        """*value* with its placeholders replaced."""
        if isinstance(value, Name):
            return self.names[value.number]
        if isinstance(value, Version):
            self.guessed = self.guessed or value.number not in self.versions
            return self.versions.get(value.number, NEVER_GIVEN)
        if isinstance(value, list | tuple):
            return [self._real(each) for each in value]
        if isinstance(value, dict):
            return {self._real(key): self._real(each) for key, each in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{each.name: self._real(getattr(value, each.name)) for each in fields(value)})
        return value

    def _neutral(self, value: object) -> object:
        """*value* with its real names replaced by placeholders, and what has no order sorted."""
        if isinstance(value, str):
            return Name(self.names.index(value)) if value in self.names else value
        if isinstance(value, list):
            return sorted((self._neutral(each) for each in value), key=repr)
        if isinstance(value, dict):
            return dict(sorted(((self._neutral(key), self._neutral(each)) for key, each in value.items()), key=repr))
        return value

    def _remember(self, step: Step, value: object) -> None:
        version, name = self.version_of(step, value), _first_name(step.arguments)
        if version is not None and name is not None:
            self.versions[name.number] = version


def _first_name(value: object) -> Name | None:
    """The first name in *value*, however deep."""
    if isinstance(value, Name):
        return value
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if not isinstance(value, list | tuple):
        return None

    return next((found for each in value if (found := _first_name(each)) is not None), None)


async def _call(provider: Any, method: str, arguments: list[Any], keywords: dict[str, Any]) -> object:
    made: Any = getattr(provider, method)(*arguments, **keywords)
    return [each async for each in made] if isinstance(made, AsyncIterator) else await made


async def walk(
    provider: Callable[[], object],
    model: Callable[[], object],
    steps: Sequence[Step],
    *,
    names: Callable[[], list[str]],
    refine: Refine = lambda step, value: value,
    version_of: VersionOf = lambda step, value: None,
    subject: str = "store",
) -> Divergence | None:
    """Take *steps* on *provider* and on a *model*, both made anew for each replay; the first disagreement, shortened, or None.

    *names* makes fresh names for the placeholders. *refine* removes from a result what may differ between good providers, and
    *version_of* finds in it the version of the first name among the arguments. *subject* is what the Python calls the provider.
    """

    async def disagreement(path: Sequence[Step]) -> tuple[int, str, str] | None:
        fresh = names()
        tested, reference = (_Replay(each, fresh, refine, version_of) for each in (provider(), model()))
        for number, step in enumerate(path):
            expected, observed = await reference.take(step), await tested.take(step)
            if not observed.agrees(expected):
                return number, expected.shown, observed.shown
        return None

    found = await disagreement(steps)
    if found is None:
        return None

    path = list(steps[: found[0] + 1])
    path, found = await _shrink(path, found, disagreement)
    lines = [f"await {subject}.{step}" for step in path[:-1]]
    lines.append(f"await {subject}.{path[-1]}  # expected {found[1]}, observed {found[2]}")
    return Divergence("\n".join(lines), found[1], found[2])


async def _shrink(
    path: list[Step],
    found: tuple[int, str, str],
    disagreement: Callable[[Sequence[Step]], Awaitable[tuple[int, str, str] | None]],
) -> tuple[list[Step], tuple[int, str, str]]:
    """Leave steps out, large chunks first, while the providers still disagree."""
    replays = 0
    size = len(path) // 2
    while size >= 1 and replays < MOST_SHRINKING:
        start = 0
        while start < len(path) - 1 and replays < MOST_SHRINKING:
            shorter = path[:start] + path[min(start + size, len(path) - 1) :]
            replays += 1
            again = await disagreement(shorter)
            if again is None:
                start += size
            else:
                path, found = shorter[: again[0] + 1], again
        size //= 2
    return path, found
