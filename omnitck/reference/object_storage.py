"""An object store in memory with every capability of the contract.

`MemoryObjectBackend` is the server, `MemoryObjectStorage` one client of it, and `MemoryObjectBackend.request` what a bare HTTP
client would get for a presigned URL.
"""

import hashlib
import hmac
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from omnitck.reference.client import Cell, MemoryClient, MemoryServer, is_unicode
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ObjectNotFoundError,
)
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix

__all__ = ["CAPABILITIES", "MemoryObjectBackend", "MemoryObjectStorage", "Stored"]

CAPABILITIES = frozenset(
    "stat list_prefix streaming range_read metadata conditional_write checksum hierarchy ordered_list copy presigned_url "
    "versioning batch_delete lifecycle validation shared availability limits".split()
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the server holds it."""

    parts: tuple[bytes, ...]
    """The content, in the pieces in which it arrived: a large one is never in memory twice."""
    content_type: str | None
    metadata: Mapping[str, str]
    number: int
    """Of the write: no two objects and no two states of one ever have the same."""
    modified: datetime

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.parts))

    @property
    def etag(self) -> str:
        """Quoted, as over HTTP."""
        return f'"{self.number:08x}"'

    @property
    def version(self) -> str:
        """The id of this state of the object."""
        return f"v{self.number}"

    def slices(self, start: int, end: int, most: int) -> Iterator[bytes]:
        """The content from *start* to *end*, at most *most* bytes at a time."""
        offset = 0
        for part in self.parts:
            for begin in range(max(0, start - offset), min(len(part), end - offset), most):
                yield part[begin : min(begin + most, end - offset)]
            offset += len(part)


def _limits() -> ObjectLimits:
    return ObjectLimits(value_bytes=2 * 1024 * 1024, part_bytes=32 * 1024, page_size=10, batch_size=10, max_presign=86_400)


@dataclass(eq=False, kw_only=True)
class MemoryObjectBackend(MemoryServer):
    """The server: what several clients share."""

    limits: ObjectLimits = field(default_factory=_limits)
    containers: set[str] = field(default_factory=lambda: {"main"})
    objects: dict[Cell, Stored] = field(default_factory=dict, repr=False)
    versions: dict[tuple[Cell, str], Stored] = field(default_factory=dict, repr=False)
    """Every state of the objects whose clients keep versions."""
    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    """With which URLs are signed."""
    writes: int = 0

    def cells(self) -> list[Cell]:
        """Every cell that holds an object."""
        return list(self.objects)

    def remove(self, cell: Cell) -> None:
        """Remove the object in *cell*, if there is one; its former states stay."""
        self.objects.pop(cell, None)

    def put(self, cell: Cell, parts: tuple[bytes, ...], content_type: str | None, metadata: Mapping[str, str]) -> Stored:
        """Store a new object in one step."""
        self.writes += 1
        stored = self.objects[cell] = Stored(parts, content_type, metadata, self.writes, datetime.now(UTC))
        return stored

    def url(self, cell: Cell, method: str, expires: float) -> str:
        """A URL that allows *method* on *cell* for *expires* seconds."""
        deadline = repr(self.clock.now() + expires)
        query = {"method": method, "deadline": deadline, "signature": self.signature(cell, method, deadline)}
        parts = (cell.space, "-" if cell.tenant is None else f"={cell.tenant}", cell.name)
        path = "/".join(quote(each, safe="") for each in parts)
        return f"memory://store/{path}?{urlencode(query)}"

    def signature(self, cell: Cell, method: str, deadline: str) -> str:
        """What only the server can make: over all that the URL allows."""
        return hmac.new(self.secret, repr((cell, method, deadline)).encode(), hashlib.sha256).hexdigest()

    def request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body that a bare HTTP client gets."""
        split = urlsplit(url)
        query = dict(parse_qsl(split.query))
        path = [unquote(each) for each in split.path[1:].split("/")]
        if len(path) != 3:
            return 400, b"not a path of three parts"

        container, tenant, key = path
        cell = Cell(None if tenant == "-" else tenant[1:], key, container)
        if not self.allows(cell, method, query):
            return 403, b"forbidden"
        if method == "PUT":
            self.put(cell, (body,), None, {})
            return 200, b""

        stored = self.objects.get(cell)
        return (404, b"not found") if stored is None else (200, b"".join(stored.parts))

    def allows(self, cell: Cell, method: str, query: Mapping[str, str]) -> bool:
        """Whether a URL with this *query* allows *method* on *cell*, now."""
        deadline = query.get("deadline", "0")
        signature = self.signature(cell, method, deadline)
        return hmac.compare_digest(signature, query.get("signature", "")) and self.clock.now() < float(deadline)


class MemoryObjectStorage(MemoryClient[MemoryObjectBackend]):
    """One client. It implements `ObjectStorageProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES
    reads = "download"
    aside = "batch_delete"

    def __init__(self, backend: MemoryObjectBackend, *, container: str = "main", **settings: Any) -> None:
        """Connect to *container* of *backend*; that it does not exist shows in the first operation."""
        super().__init__(backend, **settings)
        self.container = container

    # Core

    async def upload(
        self,
        key: str,
        data: bytes | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: bytes | None = None,
    ) -> ObjectInfo | None:
        """See `ObjectStorageProtocol.upload`, and those of the capabilities. Conditions are checked in the step that stores."""
        self.check_key(key)
        names = self.checked_metadata(key, content_type, metadata)
        self.check_condition(key, if_absent, if_match)
        self.check_digest(key, sha256)
        parts = await self.sent(key, data)
        await self.turn()
        if sha256 is not None and _digest(parts) != sha256:
            raise InvalidArgumentError(f"key {key!r}: the content does not have this SHA-256 digest")

        self.check_precondition(key, if_absent, if_match)
        return self.answer(key, self.put(key, parts, content_type, names))

    async def download(self, key: str, *, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        """See `ObjectStorageProtocol.download`, `RangeRead.download` and `Versioning.download`."""
        self.check_key(key)
        self.check_range(key, start, end)
        self.check_version(key, version)
        await self.turn()
        stored = self.find(key, version)
        return b"".join(stored.slices(*self.bounds(key, stored, start, end), max(1, stored.size)))

    async def delete(self, key: str) -> None:
        """See `ObjectStorageProtocol.delete`."""
        self.check_key(key)
        await self.turn()
        self.remove(key)

    # stat

    async def stat(self, key: str) -> ObjectInfo:
        """See `Stat.stat`."""
        self.need("stat")
        self.check_key(key)
        await self.turn()
        return self.info(key, self.find(key))

    # list_prefix

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Listing.list_objects`. Each page starts after the last key of the one before: changes in between do no harm."""
        self.need("list_prefix")
        self.check_prefix(prefix)
        after = ""
        while page := await self.page(prefix, after):
            for info in page:
                yield info
            after = page[-1].key

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        """The first objects beyond *after*, as many as the backend returns at once."""
        await self.turn()
        return [self.info(key, self.find(key)) for key in self.following(prefix, after)]

    # streaming

    def download_stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Streaming.download_stream`."""
        self.need("streaming")
        self.check_key(key)
        self.check_range(key, start, end)
        return self.stream(key, start, end)

    @asynccontextmanager
    async def stream(self, key: str, start: int, end: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The object as it is on entering, whatever becomes of it."""
        await self.turn()
        stored = self.find(key)
        bounds = self.bounds(key, stored, start, end)
        async with aclosing(self.chunks(stored, *bounds)) as chunks:
            yield chunks

    async def chunks(self, stored: Stored, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The content, part by part."""
        for chunk in stored.slices(start, end, self.backend.limits.part_bytes):
            await self.turn()
            yield chunk

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        """The content as it has arrived at the backend, in parts, and not yet stored."""
        if isinstance(data, bytes):
            self.check_size(key, len(data))
            return (data,)
        if not isinstance(data, AsyncIterable):
            raise InvalidArgumentError(f"key {key!r}: the content must be bytes, not {type(data).__name__}")

        self.need("streaming")
        parts, part, size = [], bytearray(), 0
        async for chunk in data:
            if not isinstance(chunk, bytes):
                raise InvalidArgumentError(f"key {key!r}: a chunk must be bytes, not {type(chunk).__name__}")

            part += chunk
            size += len(chunk)
            self.check_size(key, size)
            if len(part) >= self.backend.limits.part_bytes:
                await self.turn()
                parts.append(bytes(part))
                part.clear()
        return (*parts, bytes(part))

    # hierarchy

    async def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        """See `Hierarchy.list_level`. Each page starts after the last entry of the one before."""
        self.need("hierarchy")
        self.check_prefix(prefix)
        after = ""
        while page := await self.level(prefix, after):
            for entry in page:
                yield entry
            after = page[-1].key

    async def level(self, prefix: str, after: str) -> list[ObjectInfo | Prefix]:
        """The first entries beyond *after*, as many as the backend returns at once."""
        await self.turn()
        entries: dict[str, ObjectInfo | Prefix] = {}
        for key in self.own():
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition("/")
                name = prefix + head + slash
                entries[name] = Prefix(name) if slash else self.info(key, self.find(key))
        return [entries[name] for name in sorted(entries) if name > after][: self.limits.page_size]

    # copy

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        """See `Copy.copy`."""
        self.need("copy")
        self.check_key(source)
        self.check_key(target)
        await self.turn()
        stored = self.find(source)
        return self.answer(target, self.put(target, stored.parts, stored.content_type, stored.metadata))

    # presigned_url

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        """See `PresignedURL.presign`."""
        self.need("presigned_url")
        self.check_key(key)
        if method not in ("GET", "PUT"):
            raise InvalidArgumentError(f"key {key!r}: a URL is for GET or PUT")

        self.check_expires(key, expires)
        await self.turn()
        return self.backend.url(self.cell(key), method, expires)

    # batch_delete

    async def delete_many(self, keys: Iterable[str]) -> None:
        """See `BatchDelete.delete_many`. Nothing is removed unless every key is valid."""
        self.need("batch_delete")
        wanted = self.check_keys(keys)
        for number in range(0, len(wanted), self.limits.batch_size):
            await self.turn()
            for key in wanted[number : number + self.limits.batch_size]:
                self.remove(key)
        if not wanted:
            await self.turn()

    # What the operations check.

    def check_usable(self) -> None:
        """Refuse what `MemoryClient` refuses, and a container that does not exist."""
        super().check_usable()
        if self.container not in self.backend.containers:
            raise NotFoundError(f"there is no container {self.container!r}")

    def checked_metadata(self, key: str, content_type: object, metadata: object) -> dict[str, str]:
        """Metadata with its names in lower case; refuses what could not be kept."""
        if content_type is not None or metadata is not None:
            self.need("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidArgumentError(f"key {key!r}: metadata is a mapping, not {type(metadata).__name__}")

        given = metadata or {}
        for text in (content_type or "a/b", *given, *given.values()):
            if not isinstance(text, str) or not is_unicode(text):
                raise InvalidArgumentError(f"key {key!r}: the content type and metadata are text without surrogates")

        kept = {name.lower(): value for name, value in given.items()}
        if len(kept) < len(given):
            raise InvalidArgumentError(f"key {key!r}: two names of metadata differ in case alone")

        return kept

    def check_condition(self, key: str, if_absent: bool, if_match: object) -> None:
        """Refuse a condition that could never be met."""
        if if_absent or if_match is not None:
            self.need("conditional_write")
        if if_absent and if_match is not None:
            raise InvalidArgumentError(f"key {key!r}: give if_absent or if_match, not both")
        if if_match is not None:
            self.check_text(key, "an etag", if_match)

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        """Refuse a write whose condition is not met now."""
        stored = self.backend.objects.get(self.cell(key))
        if if_absent and stored is not None:
            raise AlreadyExistsError(f"there is an object {key!r}")
        if if_match is not None and (stored is None or stored.etag != if_match):
            raise ConflictError(f"the object {key!r} has another etag, or there is none")

    def check_digest(self, key: str, sha256: object) -> None:
        """Refuse what is no SHA-256 digest."""
        if sha256 is not None:
            self.need("checksum")
            if not isinstance(sha256, bytes) or len(sha256) != 32:
                raise InvalidArgumentError(f"key {key!r}: a SHA-256 digest is 32 bytes")

    def check_range(self, key: str, start: object, end: object) -> None:
        """Refuse bounds that no content has."""
        if start != 0 or end is not None:
            self.need("range_read")
        for bound in (start, 0 if end is None else end):
            if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
                raise InvalidArgumentError(f"key {key!r}: a bound is a whole number from 0, not {bound!r}")
        if isinstance(end, int) and isinstance(start, int) and end < start:
            raise InvalidArgumentError(f"key {key!r}: the range ends before it starts")

    def bounds(self, key: str, stored: Stored, start: int, end: int | None) -> tuple[int, int]:
        """The range within the content; refuses a start beyond its end."""
        if start > stored.size:
            raise InvalidArgumentError(f"key {key!r}: the range starts beyond the end of the content")

        return start, stored.size if end is None else min(end, stored.size)

    def check_version(self, key: str, version: object) -> None:
        """Refuse what is no version."""
        if version is not None:
            self.need("versioning")
            self.check_text(key, "a version", version)

    def check_expires(self, key: str, expires: object) -> None:
        """Refuse a life that no URL has."""
        number = isinstance(expires, int | float) and not isinstance(expires, bool) and math.isfinite(expires)
        if not number or not 0 < expires <= self.backend.limits.max_presign:  # type: ignore[operator]
            raise InvalidArgumentError(f"key {key!r}: a URL lives for more than 0 seconds, and not for {expires!r}")

    # What they do to the backend.

    def cell(self, key: str) -> Cell:
        """Where the backend holds *key*."""
        return Cell(self.tenant_id, key, self.container)

    def find(self, key: str, version: str | None = None) -> Stored:
        """The object under *key*, or a former state of it."""
        cell = self.cell(key)
        stored = self.backend.objects.get(cell) if version is None else self.backend.versions.get((cell, version))
        if stored is None:
            raise ObjectNotFoundError(f"there is no object {key!r}" + ("" if version is None else " of this version"))

        return stored

    def put(self, key: str, parts: tuple[bytes, ...], content_type: str | None, metadata: Mapping[str, str]) -> Stored:
        """Store an object under *key*."""
        cell = self.cell(key)
        stored = self.backend.put(cell, parts, content_type, metadata)
        if "versioning" in self.capabilities:
            self.backend.versions[cell, stored.version] = stored
        return stored

    def info(self, key: str, stored: Stored) -> ObjectInfo:
        """What is known of an object. Its metadata is the caller's own copy."""
        return ObjectInfo(
            key=key,
            size=stored.size,
            etag=stored.etag,
            last_modified=stored.modified,
            content_type=stored.content_type,
            metadata=dict(stored.metadata),
            version=stored.version if "versioning" in self.capabilities else None,
        )

    def answer(self, key: str, stored: Stored) -> ObjectInfo | None:
        """What a write returns."""
        return self.info(key, stored) if "stat" in self.capabilities else None


def _digest(parts: tuple[bytes, ...]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
