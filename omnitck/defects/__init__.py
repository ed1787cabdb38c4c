"""Deliberately broken providers: what the kit proves itself with.

Each is a small change to a reference provider, stands for a bug that was shipped somewhere, and names the rules that must reject
it, and no others. `python -m omnitck selftest` holds them to it.

What can go wrong under any contract is written once, as a mixin: in `clients` (the common family), `tenants` and `key_values`.
The module of a contract says in tables which rules reject these there, and holds what is its own.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from omnitck.reference.client import MemoryClient

__all__ = ["Defect", "break_with", "breaks", "defects_of"]


@dataclass(frozen=True)
class Defect:
    """A broken provider and the rules that reject it."""

    name: str
    contract: str
    story: str
    """What it does wrong, in a sentence: the provider's docstring."""
    provider: type[Any]
    rules: frozenset[str]
    without: frozenset[str]
    """The capabilities that its suite does not declare."""


Provider = TypeVar("Provider", bound=type[Any])

_DEFECTS: dict[str, dict[str, Defect]] = {}


def breaks(*rules: str, without: str = "") -> Callable[[Provider], Provider]:
    """Register a provider that fails exactly *rules*, in a suite that declares everything but the capabilities *without*."""

    def decorate(provider: Provider) -> Provider:
        contract, name = provider.__module__.rpartition(".")[2], provider.__name__
        known = _DEFECTS.setdefault(contract, {})
        if name in known:
            raise ValueError(f"{contract} has two defects {name}")

        story = " ".join((inspect.getdoc(provider) or "").split())
        known[name] = Defect(name, contract, story, provider, frozenset(rules), frozenset(without.split()))
        return provider

    return decorate


def break_with(reference: type[MemoryClient[Any]], defects: Mapping[type[MemoryClient[Any]], str], *, without: str = "") -> None:
    """Break *reference* with each of *defects*, which are mixins, and register it as failing the rules beside the mixin."""
    module = f"{__name__}.{reference.__module__.rpartition('.')[2]}"
    for mixin, rules in defects.items():
        breaks(*rules.split(), without=without)(type(mixin.__name__, (mixin, reference), {"__module__": module}))


def defects_of(contract: str) -> list[Defect]:
    """The defects of a contract, policies included; none if it has no module here."""
    try:
        import_module(f"omnitck.defects.{contract}")
    except ModuleNotFoundError as error:
        if error.name != f"omnitck.defects.{contract}":
            raise
    return list(_DEFECTS.get(contract, {}).values())
