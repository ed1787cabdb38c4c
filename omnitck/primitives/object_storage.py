"""`object_storage`: bytes of any size under keys that are not paths.

The core is three operations over `bytes`. `stat` and `list_prefix` are what an application in production needs too; everything
else is a capability. A range is that of a Python slice, so that being off by one against HTTP is the provider's to avoid.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from omnitck.shared.models import ObjectInfo, Prefix

__all__ = [
    "BatchDelete",
    "Checksum",
    "ConditionalWrite",
    "Copy",
    "Hierarchy",
    "Listing",
    "Metadata",
    "ObjectStorageProtocol",
    "PresignedURL",
    "RangeRead",
    "Stat",
    "Streaming",
    "Versioning",
]


class ObjectStorageProtocol(Protocol):
    """The core: three operations. Keys are `str`, contents `bytes`."""

    async def upload(self, key: str, data: bytes) -> ObjectInfo | None:
        """Store *data* under *key*, replacing whatever was there in one step. With `stat` it returns what `stat` would."""
        ...

    async def download(self, key: str) -> bytes:
        """The whole content. `ObjectNotFoundError` if there is no such object."""
        ...

    async def delete(self, key: str) -> None:
        """Remove exactly this object. An absent one is fine."""
        ...


class Stat(Protocol):
    """Capability `stat`, of the profile `production`."""

    async def stat(self, key: str) -> ObjectInfo:
        """What is known of the object. `ObjectNotFoundError` if there is none."""
        ...


class Listing(Protocol):
    """Capability `list_prefix`, of the profile `production`."""

    def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with *prefix*, compared by code points, each once; in any order, except with the
        capability `ordered_list`: then by the code points of the keys. Type and metadata may be left out."""
        ...


class Streaming(Protocol):
    """Capability `streaming`: contents larger than memory, in chunks of any size, empty ones too."""

    async def upload(self, key: str, data: bytes | AsyncIterable[bytes]) -> ObjectInfo | None:
        """Store what *data* yields. What it raises is raised, and nothing is stored then."""
        ...

    def download_stream(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The content in chunks. Entering raises `ObjectNotFoundError`; leaving early frees the connection.
        With the capability `range_read` it takes *start* and *end*, too."""
        ...


class RangeRead(Protocol):
    """Capability `range_read`."""

    async def download(self, key: str, *, start: int = 0, end: int | None = None) -> bytes:
        """`content[start:end]`. A negative bound, an *end* below *start*, and a *start* beyond the end of the content are
        `InvalidArgumentError`; a *start* equal to the size gives nothing."""
        ...


class Metadata(Protocol):
    """Capability `metadata`."""

    async def upload(
        self, key: str, data: bytes, *, content_type: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo | None:
        """Store type and metadata with the content, as they are given. Names of metadata come back in lower case; two that
        differ in case alone are `InvalidArgumentError`. A value that cannot be kept exactly is refused likewise."""
        ...


class ConditionalWrite(Protocol):
    """Capability `conditional_write`; it needs `stat`, from which an etag comes."""

    async def upload(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> ObjectInfo | None:
        """Store only if there is no such object (else `AlreadyExistsError`), or only if its etag is still *if_match* (else, or
        if it is absent, `ConflictError`). Both at once are `InvalidArgumentError`."""
        ...


class Checksum(Protocol):
    """Capability `checksum`."""

    async def upload(self, key: str, data: bytes, *, sha256: bytes | None = None) -> ObjectInfo | None:
        """Store only if the SHA-256 digest of the content is the one given, 32 bytes; else `InvalidArgumentError`."""
        ...


class Hierarchy(Protocol):
    """Capability `hierarchy`: one level at a time, where `/` divides keys."""

    def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        """Of the keys that start with *prefix*: the objects without a further `/`, and one `Prefix` for all others up to and
        with their next `/`. Each once."""
        ...


class Copy(Protocol):
    """Capability `copy`: without the bytes passing through the client."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        """Make *target* equal to *source* in content, type and metadata. `ObjectNotFoundError` if there is no *source*."""
        ...


class PresignedURL(Protocol):
    """Capability `presigned_url`."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        """A URL with which a bare HTTP client may do just this for *expires* seconds, up to `limits.max_presign`."""
        ...


class Versioning(Protocol):
    """Capability `versioning`: `ObjectInfo.version` is the id of each upload, and an overwrite or a delete keeps the old ones."""

    async def download(self, key: str, *, version: str | None = None) -> bytes:
        """The content of that *version*, None for the current one. `ObjectNotFoundError` if there is none."""
        ...


class BatchDelete(Protocol):
    """Capability `batch_delete`."""

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all of *keys*, of any number; absent ones are fine. An error names those that are still there."""
        ...
