"""`secrets`: named texts that must be exact, current, and never seen where they do not belong.

The core reads. How a secret comes to be is the backend's affair, so a suite says it: by the hook `provision`, by the data
`provisioned`, or because the provider declares `write`.

Names of `a-z 0-9 / _ . -` are legal everywhere; any other legal name is taken exactly or refused, never changed.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["Batch", "Binary", "Listing", "SecretsProtocol", "Versioning", "Watch", "Write"]


class SecretsProtocol(Protocol):
    """The core: one operation. Names and values are `str`."""

    async def get(self, name: str) -> str:
        """The secret's value. `SecretNotFoundError` if there is none of that *name*, or no longer."""
        ...


class Binary(Protocol):
    """Capability `binary`: secrets that are no text. `get` of such a one is `InvalidArgumentError`."""

    async def get_bytes(self, name: str) -> bytes:
        """The secret's bytes; those of a text are its UTF-8 form."""
        ...


class Write(Protocol):
    """Capability `write`."""

    async def set(self, name: str, value: str) -> str:
        """Create or replace the secret; the id of the new version, empty without the capability `versioning`."""
        ...

    async def delete(self, name: str) -> None:
        """Remove the secret with all its versions, at once; an absent one is fine. The name can be used again at once."""
        ...


class Versioning(Protocol):
    """Capability `versioning`: earlier values stay readable."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        """The value of that *version*, None for the newest. `SecretNotFoundError` if there is none."""
        ...

    async def list_versions(self, name: str) -> list[str]:
        """The ids of all versions that can be read, the newest first. `SecretNotFoundError` if there is no such secret."""
        ...


class Listing(Protocol):
    """Capability `list_prefix`."""

    def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        """The name of every secret that starts with *prefix*, compared by code points, in any order, each once."""
        ...


class Batch(Protocol):
    """Capability `batch`: many names in one call, of any number."""

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        """Each distinct name with its value. If any is missing, one `SecretNotFoundError` that names every missing one."""
        ...


class Watch(Protocol):
    """Capability `watch`: rotation as it happens."""

    def watch(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Entered means established: every later value is then yielded, the last one surely; a removal raises
        `SecretNotFoundError`, and the end of the client ends the iteration."""
        ...
