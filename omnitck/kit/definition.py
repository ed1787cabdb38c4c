"""What the author of a contract or a policy says of it, and what a suite that mixes them comes to."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from omnitck.kit.rules import Entry
from omnitck.shared.exceptions import TCKError
from omnitck.shared.models import Limits

__all__ = ["Definition", "Operation", "Plan"]


@dataclass(frozen=True)
class Operation:
    """One call of a provider, bound to a name."""

    name: str
    """Unique within the contract; the canonical name in telemetry."""
    call: Callable[..., Awaitable[object]]
    """`call(provider, name, token)` makes exactly one call; one that writes stores *token*.

    Where there is `arrange`, what that returned may follow as a fourth argument, which therefore has a default.
    """
    method: str
    """The method of the protocol that it calls."""
    capability: str = ""
    """The capability that brings it; empty for the core."""
    argument: str | None = None
    """The optional parameter of *method* that the capability brings, if it brings no method."""
    writes: bool = False
    needs_legal_name: bool = True
    """Whether an illegal name is refused; a listing takes any text as a prefix."""
    wide: bool = False
    """Whether it reaches beyond its name, as one that empties a whole namespace does."""
    arrange: Callable[[Any, str, str], Awaitable[object]] | None = None
    """`arrange(provider, name, token)` does what has to be done first, under a name that nobody used.

    So that an operation succeeds; one of the refusals is called on a cell that holds a token, and is refused once arranged.
    """
    refusal: type[TCKError] | None = None
    """What the call raises, once arranged; None if it succeeds."""
    look: Callable[[Any, str], Awaitable[object]] | None = None
    """`look(provider, name)` reads what the call made, where its result does not show it."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A contract, or a policy, in data. Everything else about it is in its rules."""

    name: str
    """As `compose` takes it."""
    prefix: str
    """What the ids of its rules begin with."""
    version: str = "1.0"
    protocols: Mapping[str, type] = field(default_factory=dict)
    """The protocol of the core under `""`, then one for each capability: its operations and arguments, or what it promises."""
    production: frozenset[str] = frozenset()
    """The capabilities of its own that the profile `production` demands too."""
    cells: Any = None
    """The neutral view of what providers hold: an object, or a class that is called with the trial. None: they hold no data.

    For a policy: the class against which it is written; None if it can be composed with any contract.
    """
    operations: tuple[Operation, ...] = ()
    """Every public operation of a contract without cells; where there are cells, they list them."""
    refusals: tuple[Operation, ...] = ()
    """Likewise, the calls that the contract refuses."""
    limits: type[Limits] = Limits
    """What its providers' `limits` are."""
    hooks: tuple[str, ...] = ()
    """Optional coroutine methods of its suites, beside those that every contract knows."""
    data: tuple[str, ...] = ()
    """Optional declarations of its suites that are data, beside those that every contract knows."""
    config: frozenset[str] = frozenset()
    """What `make_provider` must take, for a policy to drive it."""
    follows: Mapping[str, str] = field(default_factory=dict)
    """Methods that hand out objects, each with a word for what it hands out: the journal follows the calls on those, too."""
    around: Callable[[Any], AbstractAsyncContextManager[object]] | None = None
    """Called with each rule's trial; entered before a provider opens, and left after the last has closed."""
    check: Callable[[type], None] | None = None
    """Called with each suite when it is created; refuses, with a `UsageError`, declarations that do not go together."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite comes to: everything that its bases and declarations say, read once when its class is created."""

    definition: Definition
    """Of the contract."""
    contract: Any
    """Its class."""
    policies: tuple[Any, ...]
    """Their classes."""
    declared: frozenset[str]
    """The capabilities that the suite promises, those of its profile included."""
    known: frozenset[str]
    """Every capability that it could declare."""
    entries: tuple[Entry, ...]
    """Its rules, then its audits, in the order of their ids."""
    trial: type[Any]
    """The words of its rules: those of the contract and of each policy."""
    hooks: tuple[str, ...]
    data: tuple[str, ...]
    supplied: frozenset[str]
    """The hooks that the suite has, the optional ones among them."""
    read_early: frozenset[str]
    """The names that are read when the class is created: what a set-up puts there comes too late."""
    follows: Mapping[str, str]
    arounds: tuple[Callable[[Any], AbstractAsyncContextManager[object]], ...]
    hung: dict[str, int] = field(default_factory=dict)
    """For each method that never returned: in how many rules it was awaited to the end of their time."""
    answered: set[str] = field(default_factory=set)
    """The methods of the provider that have returned, or raised what is no refusal, at least once."""
    unclosed: list[str] = field(default_factory=list)
    """The rules of which a client had not closed when its time was over."""
    own_names: set[str] = field(default_factory=set)
    """The attributes of its tests that have been found to be the author's own business."""

    @property
    def protocols(self) -> Mapping[str, type]:
        """Those of the contract and its policies: of the core under `""`, then one for each capability."""
        merged: dict[str, type] = {}
        for each in (*reversed(self.policies), self.contract):
            merged |= each.definition.protocols
        return merged

    @cached_property
    def rules(self) -> tuple[Entry, ...]:
        """The entries that are tests."""
        return tuple(each for each in self.entries if not each.rule.ambient)

    @cached_property
    def audits(self) -> tuple[Entry, ...]:
        """The entries that are judged after every test."""
        return tuple(each for each in self.entries if each.rule.ambient)

    @cached_property
    def alone(self) -> bool:
        """Whether every rule has to run alone, as something process-wide is watched during each."""
        return any(each.rule.exclusive and each.needs <= self.declared for each in self.audits)

    @cached_property
    def by_method(self) -> Mapping[str, Entry]:
        """The entry that a method checks."""
        return {each.rule.method: each for each in self.entries}
