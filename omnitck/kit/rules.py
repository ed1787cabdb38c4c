"""Rules and audits: one sentence each, and the method that checks it."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from omnitck.kit.text import UsageError

__all__ = ["Entry", "Rule", "Unbound", "audit", "check_docstrings", "needs", "needs_of", "optional", "rule", "supplies"]

Body = TypeVar("Body", bound=Callable[..., Awaitable[None]])
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """One sentence that a provider must satisfy, checked by exactly one method."""

    id: str
    statement: str
    """The sentence: the first paragraph of the method's docstring."""
    rationale: str
    """The rest of the docstring: the bug it catches, how real backends differ."""
    method: str
    needs: frozenset[str] = frozenset()
    """The capabilities without which the rule does not apply; empty for the core."""
    uses: frozenset[str] = frozenset()
    """The verbs of the contract's cells without which it has no subject; what they need, the rule needs too."""
    hook: str | None = None
    """The optional hook or declaration of the suite without which the rule cannot be provoked."""
    exclusive: bool = False
    """Whether the rule watches something process-wide, so that it must run alone."""
    deadline: float = 10.0
    """Seconds of work after which the verdict is a failure; waits that the provider's numbers allow are not counted."""
    ambient: bool = False
    """Whether it is an audit: judged after every test of the suite, once its providers are closed."""


def rule(
    id: str,
    *needs: str,
    uses: str = "",
    hook: str | None = None,
    exclusive: bool = False,
    deadline: float = 10.0,
) -> Callable[[Body], Body]:
    """Make a coroutine method, which takes the trial, the test of rule *id*, for suites that declare the capabilities *needs*.

    *uses* names the verbs of the contract's cells that the rule is about: under a contract without one of them it has no subject.
    The test opens and closes providers in its own task, keeps the *deadline* (seconds of work), records the outcome, and fails,
    errs or skips as unittest expects.
    """

    def decorate(body: Body) -> Body:
        return cast("Body", Unbound(_read(body, id, needs, uses, hook=hook, exclusive=exclusive, deadline=deadline), body))

    return decorate


class Unbound:
    """The test of a rule as its contract has it.

    It is no function, so that no runner takes it for a test: a suite makes tests of those that have a subject there.
    """

    def __init__(self, rule: Rule, body: Callable[..., Awaitable[None]]) -> None:
        self.rule = rule
        self.body = body
        self.__doc__ = body.__doc__


def audit(id: str, *needs: str, uses: str = "", hook: str | None = None, exclusive: bool = False) -> Callable[[Body], Body]:
    """Make a coroutine method, which takes the trial, an audit: called after every test that passed, and failing as a rule does.

    It has one outcome for the whole suite. An *exclusive* one watches something process-wide: the tests of its suites run alone.
    """

    def decorate(body: Body) -> Body:
        body.rule = _read(body, id, needs, uses, hook=hook, exclusive=exclusive, ambient=True)  # type: ignore[attr-defined]
        return body

    return decorate


def check_docstrings() -> None:
    """Raise UsageError if this interpreter strips docstrings: rules would have no sentences, and certificates another digest."""
    if sys.flags.optimize > 1:
        raise UsageError(
            "Python was started with -OO or PYTHONOPTIMIZE=2, which strips docstrings, and with them the sentences of the rules: "
            "start it without."
        )


def _read(body: Callable[..., object], id: str, needs: Iterable[str], uses: str, **more: Any) -> Rule:
    check_docstrings()
    statement, _, rationale = inspect.cleandoc(body.__doc__ or "").partition("\n\n")
    return Rule(
        id=id,
        statement=" ".join(statement.split()),
        rationale=rationale,
        method=body.__name__,
        needs=frozenset(needs),
        uses=frozenset(uses.split()),
        **more,
    )


@dataclass(frozen=True)
class Entry:
    """A rule or an audit as one contract or suite has it."""

    id: str
    """A rule of a shared family is `KV-COM-14` there; the contract's own stay `KV-03`."""
    rule: Rule
    owner: Any
    """The contract or policy that brings it."""
    needs: frozenset[str]
    """The capabilities without which it does not apply, those of the verbs that it uses included."""

    @property
    def level(self) -> str:
        """MUST for the core, else the capabilities that bring the rule."""
        return " + ".join(sorted(self.needs)) or "MUST"


# What cells supply.


def optional(verb: Function) -> Function:
    """Mark a verb of cells that not every contract has: the base's own is no implementation."""
    verb.missing = True  # type: ignore[attr-defined]
    return verb


def needs(*capabilities: str) -> Callable[[Function], Function]:
    """Mark a verb of cells that takes *capabilities* of the provider."""

    def decorate(verb: Function) -> Function:
        verb.needs = frozenset(capabilities)  # type: ignore[attr-defined]
        return verb

    return decorate


def supplies(cells: Any, verb: str) -> bool:
    """Whether *cells* have *verb*: their own, not the base's, and not one that they say they lack."""
    supplied = getattr(cells, verb, None)
    return supplied is not None and not getattr(supplied, "missing", False) and verb not in cells.lacks


def needs_of(cells: Any, verb: str) -> frozenset[str]:
    """The capabilities that *verb* takes."""
    return getattr(getattr(cells, verb), "needs", frozenset())
