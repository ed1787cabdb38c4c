"""The neutral view of a data-holding contract: a set of named cells, each holding a token.

The common rules and every policy are written once against it. `operations` lists *every* public operation bound to a name, so
that a new capability is attacked by tenancy and cancellation rules on the day that its operation is listed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from omnitck.shared.models import Limits

__all__ = ["Cells", "Operation"]

P = TypeVar("P")


@dataclass(frozen=True)
class Operation:
    """One public operation of a contract, bound to a name."""

    name: str
    """Unique within the contract; the canonical name in telemetry."""
    call: Callable[[Any, str, str], Awaitable[object]]
    """`call(provider, name, token)`: an operation that writes stores *token*."""
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


class Cells(Generic[P]):
    """Five verbs that every data-holding contract supplies."""

    operations: tuple[Operation, ...] = ()
    """Every public operation."""
    refusals: tuple[Operation, ...] = ()
    """Calls on a cell that holds a token, which the contract refuses: the natural failures."""

    async def write(self, provider: P, name: str, token: str) -> None:
        """Make the cell *name* hold *token*."""
        raise NotImplementedError

    async def read(self, provider: P, name: str) -> str | None:
        """The token in the cell, None if it is absent, whatever the contract's own way of saying so."""
        raise NotImplementedError

    async def erase(self, provider: P, name: str) -> None:
        """Make the cell absent."""
        raise NotImplementedError

    async def prepare(self, provider: P, name: str) -> None:
        """Make what operations on the cell *name* need to be there, if anything: the cell stays absent."""

    async def use(self, provider: P, name: str, token: str) -> None:
        """Let *provider* itself work on the cell *name*: a write, unless it cannot write."""
        await self.write(provider, name, token)

    async def names(self, provider: P, prefix: str) -> list[str]:
        """The names of the cells that begin with *prefix*; only where `enumerates` is declared."""
        raise NotImplementedError

    async def state(self, provider: P, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """All that can be known of the cell: its token, and where *declared* its version, its expiry."""
        return (await self.read(provider, name),)

    async def alias(self, provider: P, name: str, token: str) -> str | None:
        """Write *token*, change every mutable argument and result on the way; what then changed in the cell, or None."""
        raise NotImplementedError

    async def create(self, provider: P, name: str, token: str) -> None:
        """Make the cell hold *token* only if it is absent; else raise `ConflictError`."""
        raise NotImplementedError

    async def handles(self, provider: P, name: str) -> list[str]:
        """The versions, cursors and ids that the provider gives out for the cell."""
        raise NotImplementedError

    async def replay(self, provider: P, name: str, handle: str, token: str) -> object:
        """Use *handle*, however it was come by, to write *token* to the cell, or to read it if that is what it is for."""
        raise NotImplementedError

    async def erase_many(self, provider: P, names: list[str]) -> None:
        """Make all these cells absent in one operation."""
        raise NotImplementedError

    def watch(self, provider: P, name: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        """What happens to the cell *name*."""
        raise NotImplementedError

    async def url(self, provider: P, name: str) -> str:
        """A URL with which anybody may read the cell."""
        raise NotImplementedError

    async def fetch(self, url: str) -> tuple[int, bytes]:
        """The status and the body that a bare HTTP client gets for *url*."""
        raise NotImplementedError

    async def tidy(self, provider: P, touched: str) -> None:
        """Remove what a rule left under *touched*, which was the first argument of a call."""
        await self.erase(provider, touched)

    def may_refuse(self, name: str) -> bool:
        """Whether a provider may refuse *name* with `InvalidArgumentError` although it names a cell elsewhere."""
        return False

    def room(self, limits: Limits, name: str) -> int:
        """How many bytes the longest token of the cell *name* has."""
        return limits.value_bytes

    enumerates: str | None = None
    """The capability that brings `names`, empty if the core does; None if the contract cannot enumerate."""
