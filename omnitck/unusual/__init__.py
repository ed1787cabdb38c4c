"""Correct but unusual providers, the mirror image of the defects: no rule may reject one.

A rule is written with some provider in mind, and another that obeys the same sentence may look quite different: it takes its
time and says so, hands out versions that are no numbers, raises a subclass, starts its workers in a task group of its own. Each
is a suite as its author would write it, without a TestCase: what it declares is part of what is unusual. The selftest runs each
with one rule and with many at a time, and all of them on processors that have enough else to do.
"""

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["Unusual", "unusual", "unusual_of"]


@dataclass(frozen=True)
class Unusual:
    """A suite of a correct provider, and what is unusual about it."""

    name: str
    contract: str
    story: str
    """In a sentence: the suite's docstring."""
    suite: type[Any]
    """Without a TestCase."""


Suite = TypeVar("Suite", bound=type[Any])

_UNUSUAL: dict[str, dict[str, Unusual]] = {}


def unusual(suite: Suite) -> Suite:
    """Register *suite*, a contract with hooks and declarations, as one in which no rule may fail. Its docstring says why.

    Raises ValueError if the contract has one of that name.
    """
    contract, name = suite.__module__.rpartition(".")[2], suite.__name__
    known = _UNUSUAL.setdefault(contract, {})
    if name in known:
        raise ValueError(f"{contract} has two unusual suites {name}")

    known[name] = Unusual(name, contract, " ".join((inspect.getdoc(suite) or "").split()), suite)
    return suite


def unusual_of(contract: str) -> list[Unusual]:
    """The unusual suites of a contract; none if it has no module here."""
    try:
        import_module(f"omnitck.unusual.{contract}")
    except ModuleNotFoundError as error:
        if error.name != f"omnitck.unusual.{contract}":
            raise
    return list(_UNUSUAL.get(contract, {}).values())
