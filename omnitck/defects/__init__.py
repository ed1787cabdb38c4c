"""Deliberately broken providers: what the kit proves itself with.

Each is a small change to a reference provider, stands for a bug that was shipped somewhere, and names the rules that must reject
it, and no others. `python -m omnitck selftest` holds them to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["Defect", "breaks", "defects_of"]


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

_DEFECTS: dict[str, list[Defect]] = {}


def breaks(*rules: str, without: str = "") -> Callable[[Provider], Provider]:
    """Register a provider that fails exactly *rules*, in a suite that declares everything but the capabilities *without*."""

    def decorate(provider: Provider) -> Provider:
        contract = provider.__module__.rpartition(".")[2]
        story = " ".join((provider.__doc__ or "").split())
        defect = Defect(provider.__name__, contract, story, provider, frozenset(rules), frozenset(without.split()))
        _DEFECTS.setdefault(contract, []).append(defect)
        return provider

    return decorate


def defects_of(contract: str) -> list[Defect]:
    """The defects of a contract, policies included; none if it has no module here."""
    try:
        import_module(f"omnitck.defects.{contract}")
    except ModuleNotFoundError as error:
        if error.name != f"omnitck.defects.{contract}":
            raise
    return list(_DEFECTS.get(contract, []))
