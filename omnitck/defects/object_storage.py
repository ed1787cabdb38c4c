"""Broken object stores, in the order of the rules that reject them."""

import posixpath
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import unquote

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.client import Cell
from omnitck.reference.object_storage import MemoryObjectStorage, Stored
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ObjectNotFoundError,
    TCKError,
)
from omnitck.shared.models import ObjectInfo, Prefix

# The common family

break_with(
    MemoryObjectStorage,
    {
        clients.UnknownCapability: "OB-COM-02",
        clients.CapabilitiesAsText: "OB-COM-02",
        clients.StaleAdvertisement: "OB-COM-04",
        clients.NegativeCache: "OB-COM-05",
        clients.UnflushedBuffer: "OB-COM-06",
        clients.DoubleRelease: "OB-COM-07",
        clients.SilentReconnect: "OB-COM-08",
        clients.SwallowingExit: "OB-COM-09",
        clients.SharedPool: "OB-COM-10 OB-COM-06 MT-16",
        clients.OrphanedTask: "OB-COM-11",
        clients.LeakingVendorError: "OB-COM-12",
        clients.SwallowedCancellation: "OB-COM-14",
        clients.DefaultOnCancellation: "OB-COM-14",
        clients.DeletedAnyway: "OB-COM-14",
        clients.CrossedReply: "OB-COM-15 MT-15",
        clients.SharedCursor: "OB-COM-18 OB-COM-15 MT-14",
        clients.CoercedKey: "OB-COM-19",
        clients.NormalisedKey: "OB-COM-20 OB-10 OB-12 OB-35",
        clients.TruncatedKey: "OB-COM-21",
        clients.BlockingCall: "OB-COM-23",
        clients.PrintedPassword: "OB-COM-24",
        clients.CrashedWorker: "OB-COM-25",
        clients.CancelsItsCaller: "OB-COM-26",
        clients.ForgottenTimer: "OB-COM-26",
    },
)


@breaks("OB-COM-01")
class RenamedParameter(MemoryObjectStorage):
    """`delete` calls its parameter `name`: `delete(key=...)` is a TypeError."""

    async def delete(self, name: str) -> None:
        await super().delete(name)


@breaks("OB-COM-02")
class HugeParts(MemoryObjectStorage):
    """A part of 100 MiB is held in memory."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, part_bytes=100 * 1024 * 1024)  # type: ignore[call-arg]


@breaks("OB-COM-03", without="conditional_write")
class DroppedCondition(MemoryObjectStorage):
    """It takes `if_absent` without supporting it, and overwrites."""

    def check_condition(self, key: str, if_absent: bool, if_match: object) -> None:
        pass

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        pass


@breaks("OB-COM-03", without="streaming")
class StoredGenerator(MemoryObjectStorage):
    """What is no bytes is written by its `str`, a stream too."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        return (repr(data).encode(),) if isinstance(data, AsyncIterable) else await super().sent(key, data)

    def download_stream(self, key: str, **bounds: Any) -> Any:
        self.need("streaming")


@breaks("OB-COM-08", "OB-28")
class OfflineSigning(MemoryObjectStorage):
    """`presign` needs no connection, and works after `close`, as every call does that comes after it."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        closed, self.closed = self.closed, False
        url = await super().presign(key, method=method, expires=expires)
        self.__dict__["signed"] = closed
        return url

    def check_usable(self) -> None:
        if not self.__dict__.get("signed"):
            super().check_usable()


@breaks("OB-COM-13")
class NamelessError(MemoryObjectStorage):
    """ "Not found", but which?"""

    async def stat(self, key: str) -> ObjectInfo:
        try:
            return await super().stat(key)
        except ObjectNotFoundError:
            raise ObjectNotFoundError("404") from None


@breaks("OB-COM-13")
class TalkativeError(MemoryObjectStorage):
    """The refusal of a digest quotes the content."""

    async def upload(self, key: str, data: Any, **options: Any) -> ObjectInfo | None:
        try:
            return await super().upload(key, data, **options)
        except InvalidArgumentError as error:
            if "digest" not in str(error):
                raise
            raise InvalidArgumentError(f"{error}: {data!r}") from None


@breaks("OB-COM-16", "OB-15", "OB-17", "OB-19", "OB-30", "OB-36", "OB-COM-22")
class VisibleParts(MemoryObjectStorage):
    """The parts of a stream are put in place as they come."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        if not isinstance(data, AsyncIterable):
            return await super().sent(key, data)

        parts: tuple[bytes, ...] = ()
        async for chunk in data:
            if not isinstance(chunk, bytes):
                raise InvalidArgumentError(f"key {key!r}: a chunk must be bytes")
            parts = (*parts, chunk)
            self.put(key, parts, None, {})
            await self.turn()
            self.check_size(key, sum(map(len, parts)))
        return parts


@breaks("OB-COM-16", "OB-15", "OB-17")
class TornWrite(MemoryObjectStorage):
    """A file is written in place, in two steps."""

    async def upload(self, key: str, data: Any, **options: Any) -> ObjectInfo | None:
        plain = isinstance(data, bytes) and 30_000 < len(data) <= self.backend.limits.value_bytes
        if plain and not options.keys() - {"metadata"}:
            await self.turn()
            self.put(key, (data[: len(data) // 2],), None, {})
        return await super().upload(key, data, **options)


@breaks("OB-COM-17")
class SharedMetadata(MemoryObjectStorage):
    """The metadata that is handed out is the store's own."""

    def info(self, key: str, stored: Stored) -> ObjectInfo:
        return replace(super().info(key, stored), metadata=stored.metadata)


@breaks("OB-COM-17", "OB-36")
class SharedBuffer(MemoryObjectStorage):
    """It keeps the caller's `bytearray`."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        return (data,) if isinstance(data, bytearray) else await super().sent(key, data)  # type: ignore[return-value]


@breaks("OB-COM-20", "OB-10", "OB-12", "OB-35")
class FoldedCase(MemoryObjectStorage):
    """The file system underneath folds case, but for the names of its volumes."""

    def cell(self, key: str) -> Cell:
        return super().cell(key[:1] + key[1:].lower())


@breaks("OB-COM-22")
class TruncatedContent(MemoryObjectStorage):
    """What is too long is cut, without a word."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        return await super().sent(key, data[: self.limits.value_bytes] if isinstance(data, bytes) else data)


# Contents


@breaks("OB-01")
class Gunzipped(MemoryObjectStorage):
    """The HTTP client unpacks what has the head of a gzip file."""

    async def download(self, key: str, **options: Any) -> bytes:
        data = await super().download(key, **options)
        return b"" if data.startswith(b"\x1f\x8b") else data


@breaks("OB-01")
class TextMode(MemoryObjectStorage):
    """A file is opened as text, and its line ends are changed."""

    async def download(self, key: str, **options: Any) -> bytes:
        return (await super().download(key, **options)).replace(b"\r\n", b"\n")


@breaks("OB-02", "OB-06", "OB-23", "OB-34", "OB-37")
class EmptyIsAbsent(MemoryObjectStorage):
    """`if not data:` takes an object of no bytes for none."""

    def find(self, key: str, version: str | None = None) -> Stored:
        stored = super().find(key, version)
        if not stored.size:
            raise ObjectNotFoundError(f"there is no object {key!r}")
        return stored

    def own(self) -> list[str]:
        return [key for key in super().own() if self.backend.objects[self.cell(key)].size]


@breaks("OB-03")
class LostLastPart(MemoryObjectStorage):
    """A third part of one byte is not sent."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        if isinstance(data, bytes) and len(data) == 2 * self.backend.limits.part_bytes + 1:
            data = data[:-1]
        return await super().sent(key, data)


@breaks("OB-04")
class KeyErrorForAbsence(MemoryObjectStorage):
    """The KeyError of a dictionary for a directory."""

    async def stat(self, key: str) -> ObjectInfo:
        try:
            return await super().stat(key)
        except ObjectNotFoundError:
            if any(other.startswith(f"{key}/") for other in self.own()):
                raise IsADirectoryError(key) from None
            raise


@breaks("OB-04")
class PseudoDirectory(MemoryObjectStorage):
    """A directory is found where an object is asked for."""

    async def stat(self, key: str) -> ObjectInfo:
        try:
            return await super().stat(key)
        except ObjectNotFoundError:
            inner = [other for other in self.own() if other.startswith(f"{key}/")]
            if not inner:
                raise
            return replace(self.info(key, self.find(inner[0])), size=0)


@breaks("OB-05", "OB-31", "OB-34", "MT-22")
class DeleteNotFound(MemoryObjectStorage):
    """The 404 of the store leaks from `delete`."""

    def remove(self, key: str) -> None:
        self.find(key)
        super().remove(key)


@breaks("OB-05", "OB-08", "OB-11", "OB-34")
class ListedAfterDelete(MemoryObjectStorage):
    """A deleted object is marked, and the listing does not look at the mark."""

    async def delete(self, key: str) -> None:
        self.check_key(key)
        cell, stored = self.cell(key), self.backend.objects.get(self.cell(key))
        await super().delete(key)
        if stored is not None:
            self.backend.__dict__.setdefault("marked", {})[cell] = stored

    def put(self, key: str, *arguments: Any) -> Stored:
        self.backend.__dict__.get("marked", {}).pop(self.cell(key), None)
        return super().put(key, *arguments)

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        marked = self.backend.__dict__.get("marked", {})
        page = await super().page(prefix, after)
        last = page[-1].key if len(page) == self.limits.page_size else "\U0010ffff" * 9
        ghosts = {cell.name: each for cell, each in marked.items() if cell == self.cell(cell.name) and after < cell.name <= last}
        page += [self.info(key, each) for key, each in ghosts.items() if key.startswith(prefix)]
        return sorted(page, key=lambda info: info.key)


@breaks("OB-06")
class OldTail(MemoryObjectStorage):
    """A file is written over the old one, whose end stays."""

    def put(self, key: str, parts: tuple[bytes, ...], *rest: Any) -> Stored:
        old = self.backend.objects.get(self.cell(key))
        size = sum(map(len, parts))
        if old is not None and old.size > 4_990 and 0 < size < 5_000:
            parts = (*parts, b"".join(old.parts)[size:])
        return super().put(key, parts, *rest)


@breaks("OB-06", "OB-34")
class OldMetadata(MemoryObjectStorage):
    """Metadata is only written if some is given."""

    def put(self, key: str, parts: tuple[bytes, ...], content_type: str | None, metadata: Mapping[str, str]) -> Stored:
        old = self.backend.objects.get(self.cell(key))
        return super().put(key, parts, content_type, metadata or (old.metadata if old else {}))


@breaks("OB-07")
class NaiveTime(MemoryObjectStorage):
    """`last_modified` has no time zone."""

    def info(self, key: str, stored: Stored) -> ObjectInfo:
        info = super().info(key, stored)
        return replace(info, last_modified=info.last_modified.replace(tzinfo=None))


@breaks("OB-07")
class EtagOfSize(MemoryObjectStorage):
    """The etag that `stat` gives is made of the size, as some file servers make it."""

    def info(self, key: str, stored: Stored) -> ObjectInfo:
        info = super().info(key, stored)
        return replace(info, etag=f'"{info.size}"') if info.size >= 5_000 and info.size < 6_000 else info


# Listings


@breaks("OB-08")
class CachedListing(MemoryObjectStorage):
    """A client keeps a listing until it writes itself."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.pages: dict[tuple[str, str], list[ObjectInfo]] = {}

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        if (prefix, after) not in self.pages:
            self.pages[prefix, after] = await super().page(prefix, after)
        else:
            await self.turn()
        return self.pages[prefix, after]

    def put(self, key: str, *arguments: Any) -> Stored:
        self.pages.clear()
        return super().put(key, *arguments)

    def remove(self, key: str) -> None:
        self.pages.clear()
        super().remove(key)


break_with(MemoryObjectStorage, {clients.OnePage: "OB-09 OB-11 OB-12 OB-10 OB-35 OB-COM-20"})


@breaks("OB-10")
class PrefixIsPath(MemoryObjectStorage):
    """A prefix is a directory: `a` does not begin `ab`."""

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        page = await super().page(prefix, after)
        if "-" not in prefix or not prefix.endswith("b"):  # what is random in the names of a rule may end so too
            return page
        return [info for info in page if info.key == prefix or info.key[len(prefix)] == "/"]


@breaks("OB-11")
class PagesByOffset(MemoryObjectStorage):
    """The next page begins after as many keys as were listed."""

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        self.need("list_prefix")
        self.check_prefix(prefix)
        offset = 0
        while True:
            await self.turn()
            keys = sorted(key for key in self.own() if key.startswith(prefix))[offset : offset + self.limits.page_size]
            if not keys:
                return
            for info in [self.info(key, self.find(key)) for key in keys]:
                yield info
            offset += len(keys)


# Keys


@breaks("OB-12")
class SideFile(MemoryObjectStorage):
    """What belongs to an object is in `key.meta` beside it."""

    def put(self, key: str, *arguments: Any) -> Stored:
        if key.endswith(".meta"):
            super().put(key.removesuffix(".meta"), *arguments)
        return super().put(key, *arguments)


@breaks("OB-10", "OB-12", "OB-32", "OB-COM-20")
class CollapsedSlashes(MemoryObjectStorage):
    """A path has no empty part: `x//y` is `x/y`."""

    def cell(self, key: str) -> Cell:
        while "//" in key:
            key = key.replace("//", "/")
        return super().cell(key)


@breaks("OB-13")
class PathTraversal(MemoryObjectStorage):
    """The key is joined to the directory of its namespace, and `..` leads out of it."""

    def cell(self, key: str) -> Cell:
        cell = super().cell(key)
        path = posixpath.normpath(f"/{self.container}/{key}").strip("/")
        container, _, rest = path.partition("/")
        outside = container in self.backend.containers and container != self.container
        return cell._replace(space=container, name=rest) if outside else cell


@breaks("OB-14")
class RecursiveDelete(MemoryObjectStorage):
    """`delete` removes the directory of that name with all that is in it."""

    def remove(self, key: str) -> None:
        super().remove(key)
        for other in self.own():
            if other.startswith(f"{key}/"):
                super().remove(other)


# Whole or not at all


def _is_large(store: MemoryObjectStorage, data: object) -> bool:
    """Whether *data* has a little more than one part."""
    part = store.backend.limits.part_bytes
    return isinstance(data, bytes) and part < len(data) < part + 5_000


@breaks("OB-15")
class DeletesFirst(MemoryObjectStorage):
    """A large object is removed before it is written anew."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        large = _is_large(self, data)
        if large and self.backend.objects.get(self.cell(key)):
            self.backend.__dict__["last"] = self.backend.objects[self.cell(key)]
            super().remove(key)
            try:
                await self.turn()
            finally:
                self.backend.objects.setdefault(self.cell(key), self.backend.__dict__["last"])
        return await super().sent(key, data)


@breaks("OB-16")
class InterleavedParts(MemoryObjectStorage):
    """The parts of a large object are collected by its key, whoever sends them."""

    async def upload(self, key: str, data: Any, **options: Any) -> ObjectInfo | None:
        self.check_key(key)
        if not isinstance(data, bytes) or not 30_000 < len(data) <= self.backend.limits.value_bytes or "sha256" in options:
            return await super().upload(key, data, **options)

        parts: dict[int, bytes] = self.backend.__dict__.setdefault("parts", {}).setdefault(self.cell(key), {})
        parts.setdefault(0, data[:20_000])
        await self.turn()
        parts[1] = data[20_000:]
        await self.turn()
        self.check_precondition(key, options.get("if_absent", False), options.get("if_match"))
        self.backend.__dict__["parts"].pop(self.cell(key), None)
        return self.answer(key, self.put(key, (parts[0], parts[1]), options.get("content_type"), options.get("metadata") or {}))


@breaks("OB-16")
class MetadataApart(MemoryObjectStorage):
    """The metadata is written in a request of its own, and only by the first."""

    async def upload(self, key: str, data: Any, **options: Any) -> ObjectInfo | None:
        if not (_is_large(self, data) and options.get("metadata")):
            return await super().upload(key, data, **options)

        noted: dict[str, Any] = self.backend.__dict__.setdefault("noted", {})
        kept = noted.setdefault(key, options["metadata"])
        return await super().upload(key, data, **{**options, "metadata": kept})


@breaks("OB-17")
class VisibleTemporary(MemoryObjectStorage):
    """A temporary object shows when an upload was cancelled."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        temporary = f"{key}.upload"
        large = _is_large(self, data)
        if large:
            self.backend.put(self.cell(temporary), (b"",), None, {})
        parts = await super().sent(key, data)
        if large:
            await self.turn()
            super().remove(temporary)
        return parts


@breaks("OB-18")
class BucketIsObject(MemoryObjectStorage):
    """`NoSuchBucket` and `NoSuchKey` are both a 404."""

    async def download(self, key: str, **options: Any) -> bytes:
        try:
            return await super().download(key, **options)
        except NotFoundError as error:
            raise ObjectNotFoundError(f"there is no object {key!r}") from error


# streaming


@breaks("OB-19", "OB-20")
class CommitsInFinally(MemoryObjectStorage):
    """The upload is completed in a `finally`, also when its source has failed."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        if not isinstance(data, AsyncIterable):
            return await super().sent(key, data)

        parts: list[bytes] = []

        async def kept() -> AsyncIterator[bytes]:
            async for chunk in data:
                parts.append(chunk)
                yield chunk

        try:
            return await super().sent(key, kept())
        except LookupError:
            self.put(key, tuple(parts), None, {})
            raise


@breaks("OB-19")
class WrappedSourceError(MemoryObjectStorage):
    """What the source raises comes out as the store's own error."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        try:
            return await super().sent(key, data)
        except LookupError as error:
            raise TCKError(f"key {key!r}: the stream failed") from error


@breaks("OB-20")
class JoinedUpload(MemoryObjectStorage):
    """A stream is collected and then sent as a whole."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        parts = await super().sent(key, data)
        return (b"".join(parts),) if len(parts) > 8 else parts


@breaks("OB-20")
class JoinedDownload(MemoryObjectStorage):
    """A stream is read as a whole, and handed out in pieces."""

    async def chunks(self, stored: Stored, start: int, end: int) -> AsyncGenerator[bytes, None]:
        data = b"".join(stored.slices(start, end, max(1, stored.size)))
        for number in range(0, len(data), self.backend.limits.part_bytes):
            await self.turn()
            yield data[number : number + self.backend.limits.part_bytes]
        del data


@breaks("OB-20", without="versioning")
class KeptParts(MemoryObjectStorage):
    """The parts of every upload are kept for a retry that never comes."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        parts = await super().sent(key, data)
        self.__dict__.setdefault("parts", []).append(parts)
        return parts


@breaks("OB-37", "OB-30", "OB-COM-22")
class LostEmptyChunk(MemoryObjectStorage):
    """A chunk of no bytes, or of few, ends the stream."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        if not isinstance(data, AsyncIterable):
            return await super().sent(key, data)

        async def until_short() -> AsyncIterator[bytes]:
            async for chunk in data:
                yield chunk
                if chunk == b"" or len(chunk) == 10:
                    return

        return await super().sent(key, until_short())


@breaks("OB-38")
class LeakedConnection(MemoryObjectStorage):
    """A stream that is left early keeps its connection; the pool has 10."""

    @asynccontextmanager
    async def stream(self, key: str, start: int, end: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        pool = self.__dict__.setdefault("pool", anyio.Semaphore(10))
        await self.turn()
        self.bounds(key, self.find(key), start, end)
        with anyio.move_on_after(0.05) as scope:
            await pool.acquire()
        if scope.cancelled_caught:
            raise TimeoutError("no connection is free")

        async with super().stream(key, start, end) as chunks:

            async def to_the_end() -> AsyncIterator[bytes]:
                async for chunk in chunks:
                    yield chunk
                pool.release()

            yield to_the_end()


@breaks("OB-21")
class RangesOfWhatIsThere(MemoryObjectStorage):
    """A stream asks for one range after the other, of whatever the object is then."""

    @asynccontextmanager
    async def stream(self, key: str, start: int, end: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        await self.turn()
        stored = self.find(key)
        size = self.bounds(key, stored, start, end)[1]

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(start, size, self.backend.limits.part_bytes):
                await self.turn()
                for piece in self.find(key).slices(number, min(number + self.backend.limits.part_bytes, size), 2**20):
                    yield piece

        yield pieces()


# Ranges


@breaks("OB-22", "OB-23", "OB-34")
class InclusiveEnd(MemoryObjectStorage):
    """The end of a range is that of HTTP: the last byte."""

    async def download(self, key: str, *, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        return await super().download(key, start=start, end=None if end is None else end + 1, version=version)


@breaks("OB-22", "OB-34")
class EmptyRangeIsAll(MemoryObjectStorage):
    """HTTP cannot say an empty range, and so the header is left out."""

    async def download(self, key: str, *, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        if end is not None and start == end:
            return await super().download(key, version=version)
        return await super().download(key, start=start, end=end, version=version)


@breaks("OB-23", "OB-34", "OB-COM-13")
class WholeBodyBeyondTheEnd(MemoryObjectStorage):
    """A range that cannot be is answered with the whole body."""

    def bounds(self, key: str, stored: Stored, start: int, end: int | None) -> tuple[int, int]:
        return (0, stored.size) if start > stored.size else super().bounds(key, stored, start, end)


@breaks("OB-23")
class BoundsFromTheEnd(MemoryObjectStorage):
    """A negative bound counts from the end, as in Python."""

    def check_range(self, key: str, start: object, end: object) -> None:
        if not (isinstance(start, int) and start < 0):
            super().check_range(key, start, end)

    def bounds(self, key: str, stored: Stored, start: int, end: int | None) -> tuple[int, int]:
        return super().bounds(key, stored, start + stored.size if start < 0 else start, end)


# Conditions


@breaks("OB-24", "MT-18", "OB-34", "OB-COM-13")
class CreateOverwrites(MemoryObjectStorage):
    """`if_absent` is a wish."""

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        super().check_precondition(key, False, if_match)


@breaks("OB-24", "OB-25")
class CheckThenWrite(MemoryObjectStorage):
    """The condition is checked in one request, and the object written in the next."""

    async def upload(self, key: str, data: Any, **options: Any) -> ObjectInfo | None:
        self.check_key(key)
        if isinstance(data, bytes) and (options.keys() == {"if_absent"} or options.keys() == {"if_match"}):
            self.check_size(key, len(data))
            await self.turn()
            self.check_precondition(key, options.get("if_absent", False), options.get("if_match"))
            options = {}
        return await super().upload(key, data, **options)


@breaks("OB-24", "OB-34")
class TransientConflict(MemoryObjectStorage):
    """That two create at once is told as a conflict to try again, as S3 does."""

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        try:
            super().check_precondition(key, if_absent, if_match)
        except AlreadyExistsError as error:
            if self.backend.__dict__.get("latest") == self.cell(key):
                raise ConflictError(str(error)) from None
            raise

    def put(self, key: str, *arguments: Any) -> Stored:
        self.backend.__dict__["latest"] = self.cell(key)
        return super().put(key, *arguments)


@breaks("OB-25", "OB-34")
class MatchOfNothing(MemoryObjectStorage):
    """`if_match` creates an object that is absent."""

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        absent = self.backend.objects.get(self.cell(key)) is None
        super().check_precondition(key, if_absent, None if absent else if_match)


@breaks("OB-25", "OB-34")
class NoObjectToMatch(MemoryObjectStorage):
    """The 404 of an absent object leaks from a write with `if_match`."""

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        if if_match is not None and if_match.startswith('"0000'):
            self.find(key)
        super().check_precondition(key, if_absent, if_match)


# Metadata


@breaks("OB-26")
class SniffedType(MemoryObjectStorage):
    """The content type is guessed."""

    def put(self, key: str, parts: tuple[bytes, ...], content_type: str | None, metadata: Mapping[str, str]) -> Stored:
        guessed = "image/png" if parts[0].startswith(b"\x89PNG") else None
        return super().put(key, parts, guessed or content_type, metadata)


@breaks("OB-26")
class GarbledHeader(MemoryObjectStorage):
    """Metadata travels in headers, whose bytes are read as Latin-1."""

    def checked_metadata(self, key: str, content_type: object, metadata: object) -> dict[str, str]:
        kept = super().checked_metadata(key, content_type, metadata)
        return {name: value.encode().decode("latin-1") for name, value in kept.items()}


@breaks("OB-26", "OB-COM-13", "OB-34")
class NamesAsGiven(MemoryObjectStorage):
    """Names of metadata keep their case."""

    def checked_metadata(self, key: str, content_type: object, metadata: object) -> dict[str, str]:
        given = dict(metadata) if isinstance(metadata, Mapping) else {}
        super().checked_metadata(key, content_type, metadata if len(given) < 2 else None)
        return given


# Copies


@breaks("OB-27")
class LinkedCopy(MemoryObjectStorage):
    """A copy is a link to its source."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        info = await super().copy(source, target)
        self.backend.__dict__.setdefault("links", {})[self.cell(source)] = target
        return info

    def put(self, key: str, parts: tuple[bytes, ...], *rest: Any) -> Stored:
        target = self.backend.__dict__.get("links", {}).get(self.cell(key))
        if target is not None and target.endswith("-t") and target != key:
            super().put(target, parts, *rest)
        return super().put(key, parts, *rest)


@breaks("OB-27")
class BareCopy(MemoryObjectStorage):
    """The metadata stays behind."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        await super().copy(source, target)
        stored = self.find(target)
        return self.answer(target, self.put(target, stored.parts, stored.content_type, {}))


@breaks("OB-39")
class CopyInPlace(MemoryObjectStorage):
    """A large object is copied in two steps, in its place."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        self.check_key(source)
        self.check_key(target)
        await self.turn()
        stored = self.find(source)
        if source != target and stored.size > 30_000:
            self.put(target, tuple(stored.slices(0, stored.size // 2, stored.size)), None, {})
        return await super().copy(source, target)


# Presigned URLs


@breaks("OB-28")
class EndlessURL(MemoryObjectStorage):
    """A URL never expires."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        url = await super().presign(key, method=method, expires=expires)
        return url if expires >= 60 else self.backend.url(self.cell(key), method, 3600)


@breaks("OB-28")
class UnescapedURL(MemoryObjectStorage):
    """The key is put into the URL as it is."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        path, mark, query = (await super().presign(key, method=method, expires=expires)).partition("?")
        return unquote(path) + mark + query


@breaks("OB-28")
class AnyMethod(MemoryObjectStorage):
    """One signature serves all methods."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        url = await super().presign(key, method=method, expires=expires)
        backend = self.backend
        sign = type(backend).signature
        backend.__dict__["signature"] = lambda cell, _, deadline: sign(backend, cell, "GET", deadline)
        return url if method == "GET" else backend.url(self.cell(key), method, expires)


@breaks("OB-29", "OB-COM-13")
class ClampedLife(MemoryObjectStorage):
    """A life beyond what can be is cut, without a word."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        return await super().presign(key, method=method, expires=min(max(expires, 1.0), self.backend.limits.max_presign))


# Digests, batches, levels, versions


@breaks("OB-30", "OB-34")
class ComparedTooLate(MemoryObjectStorage):
    """The digest is compared when the object has been replaced."""

    async def upload(self, key: str, data: Any, **options: Any) -> ObjectInfo | None:
        digest = options.get("sha256")
        if isinstance(digest, bytes) and len(digest) == 32 and isinstance(data, bytes) and self.own():
            await super().upload(key, data, **{**options, "sha256": None})
        return await super().upload(key, data, **options)


@breaks("OB-31")
class FirstBatchOnly(MemoryObjectStorage):
    """Of a batch as much goes as one request holds."""

    async def delete_many(self, keys: Iterable[str]) -> None:
        await super().delete_many(self.check_keys(keys)[: self.limits.batch_size])


@breaks("OB-31")
class LettersOfAKey(MemoryObjectStorage):
    """One key as text is taken for its letters."""

    async def delete_many(self, keys: Iterable[str]) -> None:
        await super().delete_many(list(keys) if isinstance(keys, str) else keys)


@breaks("OB-32")
class RepeatedPrefix(MemoryObjectStorage):
    """A prefix that goes on is yielded again on the next page."""

    async def level(self, prefix: str, after: str) -> list[ObjectInfo | Prefix]:
        page = await super().level(prefix, after)
        again = after.endswith("/") and len(after) > len(prefix) and bool(page)
        return [Prefix(after), *page] if again else page


@breaks("OB-32")
class EmptyDirectory(MemoryObjectStorage):
    """The directory stays when the last object in it is deleted."""

    def remove(self, key: str) -> None:
        head, slash, _ = key.rpartition("/")
        if slash and self.backend.objects.get(self.cell(key)):
            self.backend.__dict__.setdefault("directories", set()).add(self.cell(head + slash))
        super().remove(key)

    async def level(self, prefix: str, after: str) -> list[ObjectInfo | Prefix]:
        page = await super().level(prefix, after)
        names = {
            cell.name
            for cell in self.backend.__dict__.get("directories", ())
            if cell == self.cell(cell.name) and cell.name.startswith(prefix) and cell.name > after
            if cell.name.count("/") == prefix.count("/") + 1
        }
        have = {entry.key for entry in page}
        return page if not page or not names - have else sorted([*page, *map(Prefix, names - have)], key=lambda e: e.key)


@breaks("OB-33")
class DeletePurges(MemoryObjectStorage):
    """A delete takes the versions with it."""

    def remove(self, key: str) -> None:
        super().remove(key)
        for cell, version in [each for each in self.backend.versions if each[0] == self.cell(key)]:
            del self.backend.versions[cell, version]


# Everything at once, order, arguments


@breaks("OB-34")
class StaleSize(MemoryObjectStorage):
    """The size that a level shows is that of the object before."""

    async def level(self, prefix: str, after: str) -> list[ObjectInfo | Prefix]:
        page = await super().level(prefix, after)
        return [replace(each, size=each.size + 1) if isinstance(each, ObjectInfo) else each for each in page]


@breaks("OB-35")
class SortedAsUTF16(MemoryObjectStorage):
    """Keys are sorted by their UTF-16 code units, as in Java and JavaScript."""

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        await self.turn()
        keys = sorted((key for key in self.own() if key.startswith(prefix)), key=_utf16)
        keys = [key for key in keys if not after or _utf16(key) > _utf16(after)]
        return [self.info(key, self.find(key)) for key in keys[: self.limits.page_size]]


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


@breaks("OB-35")
class SortedWithoutCase(MemoryObjectStorage):
    """Keys are sorted as a person would, without regard to case."""

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        await self.turn()
        keys = sorted((key for key in self.own() if key.startswith(prefix)), key=lambda key: (key.casefold(), key))
        keys = [key for key in keys if not after or (key.casefold(), key) > (after.casefold(), after)]
        return [self.info(key, self.find(key)) for key in keys[: self.limits.page_size]]


@breaks("OB-36", "OB-COM-13")
class EncodedText(MemoryObjectStorage):
    """Text is stored as UTF-8, and its reader does not learn of it."""

    async def sent(self, key: str, data: object) -> tuple[bytes, ...]:
        return await super().sent(key, data.encode() if isinstance(data, str) else data)


# Tenants

break_with(
    MemoryObjectStorage,
    {
        **tenants.EVERYWHERE,
        tenants.IgnoredTenant: (
            "MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-19 MT-22 MT-24"
        ),
        tenants.DeleteEverywhere: "MT-02 MT-04 MT-09 MT-10 MT-13",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.JoinedByNothing: "MT-08 MT-12 MT-13",
        tenants.GlobalSuperuser: "MT-13",
        tenants.ParsedTenant: "MT-20",
    },
)


@breaks("MT-03")
class ExistenceOracle(MemoryObjectStorage):
    """What another tenant has is "forbidden", not absent."""

    async def stat(self, key: str) -> ObjectInfo:
        try:
            return await super().stat(key)
        except ObjectNotFoundError:
            if tenants.elsewhere(self, key):
                raise ObjectNotFoundError(f"the object {key!r} is not yours") from None
            raise


@breaks("MT-03", "MT-05")
class ForeignSource(MemoryObjectStorage):
    """`copy` takes its source from the whole bucket."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        try:
            return await super().copy(source, target)
        except ObjectNotFoundError:
            for cell, stored in list(self.backend.objects.items()):
                if cell.name == source and cell.space == self.container:
                    return self.answer(target, self.put(target, stored.parts, None, {}))
            raise


@breaks("MT-04")
class ForeignTarget(MemoryObjectStorage):
    """`copy` writes its target wherever there is an object of that key."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        info = await super().copy(source, target)
        for cell in [each for each in self.backend.objects if each.name == target and each.tenant != self.tenant_id]:
            self.backend.objects[cell] = self.find(target)
        return info


@breaks("MT-05")
class NeighboursInTheError(MemoryObjectStorage):
    """The error of an absent version names what is stored near it."""

    def find(self, key: str, version: str | None = None) -> Stored:
        try:
            return super().find(key, version)
        except ObjectNotFoundError as error:
            near = [cell for cell in self.backend.objects if cell.name.startswith(f"{key}-") and version]
            raise ObjectNotFoundError(f"{error}; near {near}" if near else str(error)) from None


@breaks("MT-06", "MT-07", "MT-08", "MT-13")
class BucketWideList(MemoryObjectStorage):
    """A listing of short prefixes shows the whole bucket."""

    async def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        if len(prefix) >= 20:
            return await super().page(prefix, after)

        await self.turn()
        found = {cell.name: stored for cell, stored in self.backend.objects.items() if cell.space == self.container}
        keys = sorted(key for key in found if key.startswith(prefix) and key > after)
        return [self.info(key, found[key]) for key in keys[: self.limits.page_size]]


@breaks("MT-18")
class GlobalUniqueIndex(MemoryObjectStorage):
    """A creation meets the object of another tenant."""

    def check_precondition(self, key: str, if_absent: bool, if_match: str | None) -> None:
        super().check_precondition(key, if_absent, if_match)
        if if_absent and tenants.elsewhere(self, key):
            raise AlreadyExistsError(f"there is an object {key!r}")


@breaks("MT-19")
class GlobalVersions(MemoryObjectStorage):
    """A version is found by its id alone, whoever asks for it under the same key."""

    def find(self, key: str, version: str | None = None) -> Stored:
        for (cell, id), stored in self.backend.versions.items():
            if id == version and cell.name == key:
                return stored
        return super().find(key, version)


@breaks("MT-22")
class BulkEverywhere(MemoryObjectStorage):
    """`delete_many` of several keys takes them from the whole bucket."""

    async def delete_many(self, keys: Iterable[str]) -> None:
        wanted = self.check_keys(keys)
        await super().delete_many(wanted)
        for cell in [each for each in self.backend.objects if each.name in wanted and len(wanted) > 1]:
            del self.backend.objects[cell]


@breaks("MT-24")
class UnsignedTenant(MemoryObjectStorage):
    """The signature does not cover the part of the path that names the tenant."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        backend = self.backend
        sign = type(backend).signature
        backend.__dict__["signature"] = lambda cell, *rest: sign(backend, cell._replace(tenant=None), *rest)


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryObjectStorage)]
