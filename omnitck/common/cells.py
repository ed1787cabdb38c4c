"""The neutral view of a data-holding contract: a set of named cells, each holding a token.

The common rules and every policy are written once against it. `operations` lists *every* public operation bound to a name, so
that a new capability is attacked by tenancy and cancellation rules on the day that its operation is listed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from omnitck.kit.definition import Operation
from omnitck.kit.rules import optional
from omnitck.shared.models import Limits

__all__ = ["Alias", "Cells", "Operation"]

P = TypeVar("P")


@dataclass(frozen=True)
class Alias:
    """Something mutable that goes into an operation or comes out of it, and may be changed afterwards without any effect."""

    what: str
    """In words: `the mapping given to set_many`."""
    change: Callable[[Any, str, str], Awaitable[tuple[object, object]]]
    """`change(provider, name, token)` changes it, and returns what is then seen and what has to be."""
    capability: str = ""
    """What brings it, beside what the verb `aliases` takes."""


class Cells(Generic[P]):
    """Verbs over cells: the first three are every contract's, those marked `optional` only of a contract that overrides them.

    One that takes a capability of the provider says so with `needs`.
    """

    operations: tuple[Operation, ...] = ()
    """Every public operation."""
    refusals: tuple[Operation, ...] = ()
    """Calls on a cell that holds a token, which the contract refuses: the natural failures."""
    lacks: frozenset[str] = frozenset()
    """Verbs that mean nothing under this contract, although there is an implementation to inherit."""

    async def write(self, provider: P, name: str, token: str) -> None:
        """Make the cell *name* hold *token*."""
        raise NotImplementedError

    async def read(self, provider: P, name: str) -> str | None:
        """The token in the cell, None if it is absent, whatever the contract's own way of saying so."""
        raise NotImplementedError

    async def erase(self, provider: P, name: str) -> None:
        """Make the cell absent."""
        raise NotImplementedError

    async def own_write(self, provider: P, name: str, token: str) -> None:
        """Make the cell hold *token* by an operation of the provider's, never behind its back."""
        await self.write(provider, name, token)

    async def shared_write(self, provider: P, name: str, token: str) -> None:
        """Make the cell hold *token*, where it is the provider's part that others see it."""
        await self.write(provider, name, token)

    async def prepare(self, provider: P, name: str) -> None:
        """Make what operations on the cell *name* need to be there, if anything: the cell stays absent."""

    async def use(self, provider: P, name: str, token: str) -> None:
        """Let *provider* itself work on the cell *name*: a write, unless it cannot write."""
        await self.write(provider, name, token)

    def probes(self) -> list[Operation]:
        """The operations whose answer tells whether a cell is there."""
        return [each for each in self.operations if not each.writes]

    async def state(self, provider: P, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """All that can be known of the cell: its token, and where *declared* its version, its expiry."""
        return (await self.read(provider, name),)

    async def tidy(self, provider: P, touched: str) -> None:
        """Remove what a rule left under *touched*, which was the first argument of a call."""
        await self.erase(provider, touched)

    def may_refuse(self, name: str) -> bool:
        """Whether a provider may refuse *name* with `InvalidArgumentError` although it names a cell elsewhere."""
        return False

    def room(self, limits: Limits, name: str) -> int:
        """How many bytes the longest token of the cell *name* has."""
        return limits.value_bytes

    @optional
    async def names(self, provider: P, prefix: str) -> list[str]:
        """The names of the cells that begin with *prefix*."""
        raise NotImplementedError

    @optional
    def aliases(self) -> Sequence[Alias]:
        """Everything mutable that goes into the operations, or comes out of them."""
        raise NotImplementedError

    @optional
    async def create(self, provider: P, name: str, token: str) -> None:
        """Make the cell hold *token* only if it is absent; else raise `ConflictError`."""
        raise NotImplementedError

    @optional
    async def handles(self, provider: P, name: str) -> list[str]:
        """The versions, cursors and ids that the provider gives out for the cell."""
        raise NotImplementedError

    @optional
    async def replay(self, provider: P, name: str, handle: str, token: str) -> object:
        """Use *handle*, however it was come by, to write *token* to the cell, or to read it if that is what it is for."""
        raise NotImplementedError

    @optional
    async def erase_many(self, provider: P, names: list[str]) -> None:
        """Make all these cells absent in one operation."""
        raise NotImplementedError

    @optional
    def watch(self, provider: P, name: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        """What happens to the cell *name*."""
        raise NotImplementedError

    @optional
    async def write_timed(self, provider: P, name: str, token: str, ttl: float) -> None:
        """Make the cell hold *token* for *ttl* seconds."""
        raise NotImplementedError

    @optional
    async def hold(self, provider: P, name: str, ttl: float) -> bool:
        """Hold the cell, which nobody else may then write, for *ttl* seconds; whether that could be done."""
        raise NotImplementedError

    @optional
    async def extend(self, provider: P, name: str, ttl: float) -> bool:
        """Let what *provider* holds of the cell end in *ttl* seconds; whether it still held that."""
        raise NotImplementedError

    @optional
    async def agree(self, provider: P, name: str) -> None:
        """Fail the rule unless all operations on cells whose names begin with *name*, a fresh one, see what the others did."""
        raise NotImplementedError

    @optional
    async def url(self, provider: P, name: str) -> str:
        """A URL with which anybody may read the cell."""
        raise NotImplementedError

    @optional
    async def fetch(self, url: str) -> tuple[int, bytes]:
        """The status and the body that a bare HTTP client gets for *url*."""
        raise NotImplementedError
