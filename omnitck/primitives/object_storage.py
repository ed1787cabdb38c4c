"""`object_storage`: bytes of any size under keys that are not paths.

The core is three operations over `bytes`. `stat` and `list_prefix` are what an application in production needs too; everything
else is a capability. A range is that of a Python slice, so that being off by one against HTTP is the provider's to avoid.
"""

import hashlib
import http.client
import random
import tracemalloc
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
    Set,
)
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread

from omnitck.common.cells import Alias, Cells
from omnitck.common.clients import Lifecycle
from omnitck.common.data import DataRules, DataTrial, within_reach
from omnitck.common.walks import Walk, walk_rule
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.walk import WALK_NAMES, Move, Name, Step, Version, other, random_steps
from omnitck.kit.concurrency import Call, attempt, drain, gather, leaving, together
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.session import HookError
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ObjectNotFoundError,
    TCKError,
)
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix

__all__ = [
    "BatchDelete",
    "Checksum",
    "ConditionalWrite",
    "Copy",
    "FullObjectStorage",
    "Hierarchy",
    "Listing",
    "Metadata",
    "ObjectCells",
    "ObjectStorageContract",
    "ObjectStorageProtocol",
    "OrderedList",
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
        """Every object whose key starts with *prefix*, compared by code points, in any order, each once. Type and metadata may be
        left out."""
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


class OrderedList(Protocol):
    """Capability `ordered_list`: `list_objects` yields keys in the order of their code points."""


class Copy(Protocol):
    """Capability `copy`: without the bytes passing through the client."""

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        """Make *target* equal to *source* in content, type and metadata. `ObjectNotFoundError` if there is no *source*."""
        ...


class PresignedURL(Protocol):
    """Capability `presigned_url`."""

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        """A URL with which a bare HTTP client may do just this for *expires* seconds, up to `limits.max_presign`. A life shorter
        than `limits.min_ttl` is rounded up to it, and its end may be seen `limits.ttl_resolution` early or late."""
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


class FullObjectStorage(
    Stat,
    Listing,
    Streaming,
    RangeRead,
    Metadata,
    ConditionalWrite,
    Checksum,
    Hierarchy,
    OrderedList,
    Copy,
    PresignedURL,
    Versioning,
    BatchDelete,
    Lifecycle,
    ObjectStorageProtocol,
    Protocol,
):
    """What a provider with every capability has. An `upload` and a `copy` return what `stat` would."""

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
    ) -> ObjectInfo:
        """See `ObjectStorageProtocol.upload`, and those of the capabilities."""
        ...

    async def download(self, key: str, *, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        """See `ObjectStorageProtocol.download`, `RangeRead.download` and `Versioning.download`."""
        ...

    def download_stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Streaming.download_stream`."""
        ...

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """See `Copy.copy`."""
        ...


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """*parts*, as a stream."""
    for part in parts:
        yield part


async def streamed(provider: Any, key: str, **bounds: int | None) -> bytes:
    """All that a download stream yields."""
    async with provider.download_stream(key, **bounds) as stream:
        return b"".join([chunk async for chunk in stream])


async def _upload_stream(provider: Any, name: str, token: str) -> object:
    data = token.encode()
    return await provider.upload(name, chunks(data[: len(data) // 2], b"", data[len(data) // 2 :]))


async def _upload(provider: Any, name: str, token: str) -> None:
    await provider.upload(name, token.encode())


async def _upload_version(provider: Any, name: str, token: str) -> str | None:
    """The version of the upload; None, which stands for the newest, without `stat`: then no upload says it."""
    info = await provider.upload(name, token.encode())
    return None if info is None else info.version


async def _upload_source(provider: Any, name: str, token: str) -> None:
    await provider.upload(f"{name}-source", token.encode())


async def _download(provider: Any, name: str) -> object:
    return await provider.download(name)


class ObjectCells(Cells[Any]):
    """An object store as a set of cells: a token is an object's content."""

    operations = (
        Operation("upload", lambda p, n, t: p.upload(n, t.encode()), "upload", writes=True),
        Operation("download", lambda p, n, t, _=None: p.download(n), "download", arrange=_upload),
        Operation("delete", lambda p, n, t: p.delete(n), "delete"),
        Operation("stat", lambda p, n, t, _=None: p.stat(n), "stat", "stat", arrange=_upload),
        Operation(
            "list_objects", lambda p, n, t: drain(p.list_objects(n)), "list_objects", "list_prefix", needs_legal_name=False
        ),
        Operation("download_stream", lambda p, n, t, _=None: streamed(p, n), "download_stream", "streaming", arrange=_upload),
        # Its argument has no name of its own: a provider without streams shows it by the method that reads them.
        Operation("upload of a stream", _upload_stream, "download_stream", "streaming", writes=True),
        Operation(
            "download of a range", lambda p, n, t, _=None: p.download(n, start=0, end=9), "download", "range_read",
            argument="start", arrange=_upload,
        ),
        Operation(
            "upload with metadata", lambda p, n, t: p.upload(n, t.encode(), content_type="text/plain", metadata={"kind": "cell"}),
            "upload", "metadata", argument="metadata", writes=True,
        ),
        Operation(
            "upload if absent", lambda p, n, t: p.upload(n, t.encode(), if_absent=True), "upload", "conditional_write",
            argument="if_absent", writes=True,
        ),
        Operation(
            "upload with a checksum", lambda p, n, t: p.upload(n, t.encode(), sha256=hashlib.sha256(t.encode()).digest()),
            "upload", "checksum", argument="sha256", writes=True,
        ),
        Operation("list_level", lambda p, n, t: drain(p.list_level(n)), "list_level", "hierarchy", needs_legal_name=False),
        Operation("copy", lambda p, n, t, _=None: p.copy(n, n), "copy", "copy", arrange=_upload, look=_download),
        # It writes what its source holds, not a token of the call's.
        Operation(
            "copy to the name", lambda p, n, t, _=None: p.copy(f"{n}-source", n), "copy", "copy", arrange=_upload_source,
            look=_download,
        ),
        # A URL is made without the backend, and says nothing that two calls would share: the read stands for its outcome.
        Operation(
            "presign", lambda p, n, t, _=None: p.presign(n, expires=60.0), "presign", "presigned_url", arrange=_upload,
            look=_download,
        ),
        Operation(
            "download of a version", lambda p, n, t, version="no-such-version": p.download(n, version=version), "download",
            "versioning", argument="version", arrange=_upload_version,
        ),
        Operation("delete_many", lambda p, n, t: p.delete_many([n]), "delete_many", "batch_delete"),
    )  # fmt: skip
    refusals = (
        Operation(
            "download of an absent object", lambda p, n, t: p.download(n + "-absent"), "download", refusal=ObjectNotFoundError
        ),
        Operation("upload of text", lambda p, n, t: p.upload(n, t), "upload", refusal=InvalidArgumentError),
        Operation("stat of an absent object", lambda p, n, t: p.stat(n + "-absent"), "stat", "stat", refusal=ObjectNotFoundError),
        Operation(
            "download_stream of an absent object", lambda p, n, t: streamed(p, n + "-absent"), "download_stream", "streaming",
            refusal=ObjectNotFoundError,
        ),
        Operation(
            "download of a range beyond the end", lambda p, n, t: p.download(n, start=1_000_000), "download", "range_read",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "upload with names of metadata that differ in case",
            lambda p, n, t: p.upload(n, t.encode(), metadata={"a": "", "A": ""}), "upload", "metadata",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "upload if absent of what is there", lambda p, n, t: p.upload(n, t.encode(), if_absent=True), "upload",
            "conditional_write", refusal=AlreadyExistsError,
        ),
        Operation(
            "upload with a stale etag", lambda p, n, t: p.upload(n, t.encode(), if_match='"stale"'), "upload",
            "conditional_write", refusal=ConflictError,
        ),
        Operation(
            "upload with a wrong checksum", lambda p, n, t: p.upload(n, t.encode(), sha256=bytes(32)), "upload", "checksum",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "copy of an absent object", lambda p, n, t: p.copy(n + "-absent", n), "copy", "copy", refusal=ObjectNotFoundError
        ),
        Operation(
            "presign for no time", lambda p, n, t: p.presign(n, expires=0), "presign", "presigned_url",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "download of a version that never was", lambda p, n, t: p.download(n, version="no-such-version"), "download",
            "versioning", refusal=ObjectNotFoundError,
        ),
    )  # fmt: skip

    def __init__(self, t: "ObjectStorageTrial") -> None:
        self.t = t

    async def write(self, provider: ObjectStorageProtocol, name: str, token: str) -> None:
        await provider.upload(name, token.encode())

    async def read(self, provider: ObjectStorageProtocol, name: str) -> str | None:
        try:
            return (await provider.download(name)).decode(errors="replace")
        except ObjectNotFoundError:
            return None

    async def erase(self, provider: ObjectStorageProtocol, name: str) -> None:
        await provider.delete(name)

    async def prepare(self, provider: Any, name: str) -> None:
        if "copy" in self.t.declared:
            await _upload_source(provider, name, self.t.token())

    @needs("list_prefix")
    async def names(self, provider: Listing, prefix: str) -> list[str]:
        return [info.key async for info in provider.list_objects(prefix)]

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        state: list[object] = [await self.read(provider, name)]
        if "stat" in declared:
            tried = await attempt(lambda: provider.stat(name))
            state.append("absent" if isinstance(tried.error, ObjectNotFoundError) else tried.result())
        return tuple(state)

    @needs("metadata", "stat")  # bytes cannot be changed: only metadata is given and returned in what can
    def aliases(self) -> Sequence[Alias]:
        return ALIASES

    @needs("conditional_write")
    async def create(self, provider: ConditionalWrite, name: str, token: str) -> None:
        await provider.upload(name, token.encode(), if_absent=True)

    @needs("conditional_write", "stat")
    async def handles(self, provider: Any, name: str) -> list[str]:
        info = await provider.stat(name)
        return [f"etag {info.etag}", *([f"version {info.version}"] if "versioning" in self.t.declared else [])]

    @needs("conditional_write", "stat")
    async def replay(self, provider: Any, name: str, handle: str, token: str) -> object:
        kind, _, value = handle.partition(" ")
        if kind == "version":
            return await provider.download(name, version=value)
        return await provider.upload(name, token.encode(), if_match=value)

    @needs("batch_delete")
    async def erase_many(self, provider: BatchDelete, names: list[str]) -> None:
        await provider.delete_many(names)

    @needs("presigned_url")
    async def url(self, provider: PresignedURL, name: str) -> str:
        return await provider.presign(name, expires=60.0)

    async def fetch(self, url: str) -> tuple[int, bytes]:
        return await self.t.request("GET", url)


def _model(declared: frozenset[str]) -> object:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.object_storage import MemoryObjectBackend, MemoryObjectStorage

    return MemoryObjectStorage(MemoryObjectBackend(), capabilities=declared)


WALK = Walk(
    model=_model,
    # No two contents are the same, because S3's etag may be that of the content.
    steps=lambda chance, declared: _random_steps(chance, declared),
    refine=lambda step, value, declared: _comparable(value, declared),
    version_of=lambda step, value: _etag_of(step, value),
)


async def _change_given(provider: Any, name: str, token: str) -> tuple[object, object]:
    given = {"kind": token}
    await provider.upload(name, token.encode(), metadata=given)
    given["kind"] = "changed by the caller"
    return dict((await provider.stat(name)).metadata), {"kind": token}


async def _change_returned(provider: Any, name: str, token: str) -> tuple[object, object]:
    returned = await provider.upload(name, token.encode(), metadata={"kind": token})
    for info in (returned, await provider.stat(name)):
        if isinstance(info.metadata, MutableMapping):  # a view that can only be read is as good
            info.metadata["kind"] = "changed by the receiver"
    return dict((await provider.stat(name)).metadata), {"kind": token}


async def _change_bytes(provider: Any, name: str, token: str) -> tuple[object, object]:
    data = bytearray(token.encode())
    if (await attempt(lambda: provider.upload(name, data))).error is not None:
        return None, None  # refused, as it may be: the contract speaks of bytes
    data[:] = b"x" * len(data)
    return await provider.download(name), token.encode()


ALIASES: tuple[Alias, ...] = (
    Alias("the metadata given to upload", _change_given),
    Alias("the metadata that upload and stat returned", _change_returned),
    Alias("a bytearray given to upload", _change_bytes),
)
"""What a caller of an object store may change without any effect."""


class ObjectStorageTrial(DataTrial[FullObjectStorage]):
    """The words of the rules of `ObjectStorageContract`."""

    def numbers(self) -> ObjectLimits:
        return cast(ObjectLimits, super().numbers())

    def content(self, size: int = 0) -> bytes:
        """A fresh content of at least *size* bytes, in which every part names its place."""
        return self.token(size).encode()

    def large(self) -> bytes:
        """A fresh content of more than one part, as far as the limits let it be."""
        limits = self.numbers()
        size = min(limits.part_bytes + 4_099, limits.value_bytes)
        return self.content(size)[:size]

    async def request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        """What a bare HTTP client gets."""
        status, got = await self.ask("http_request", method, url, body)
        return status, got

    async def absent(self, call: Call[object], given: str) -> BaseException:
        """Fail the rule unless *call* says that there is no such object."""
        return await self.refused(call, ObjectNotFoundError, given=given)

    async def listed(self, client: FullObjectStorage, prefix: str) -> list[str]:
        """The keys that begin with *prefix*, in the order of the listing."""
        keys: list[str] = await self.cells.names(client, prefix)
        return keys

    def reads(self, client: FullObjectStorage, key: str) -> dict[str, Call[object]]:
        """Every declared way to read the object *key*; each raises `ObjectNotFoundError` if there is none."""

        async def listed() -> None:
            if key not in await self.listed(client, key):
                raise ObjectNotFoundError(f"{key!r} is not listed")

        return self.declared_of(
            {
                "download": ("", lambda: client.download(key)),
                "stat": ("stat", lambda: client.stat(key)),
                "download_stream": ("streaming", lambda: streamed(client, key)),
                "list_objects": ("list_prefix", listed),
            }
        )

    def check_content(self, observed: bytes, expected: bytes, given: str) -> None:
        """Fail the rule unless two large contents are the same; says where they part."""
        if observed == expected:
            return

        place = next((n for n, (one, other) in enumerate(zip(observed, expected, strict=False)) if one != other), "the end")
        self.fail_rule(
            given=given, expected=f"the {len(expected)} bytes", observed=f"{len(observed)} bytes, which differ from {place}"
        )

    async def upload_all(self, store: FullObjectStorage, keys: Sequence[str]) -> None:
        """Write an object under each of *keys*, some at once."""
        for number in range(0, len(keys), 20):
            await gather(partial(store.upload, key, b"v") for key in keys[number : number + 20])

    def uploads(self, store: FullObjectStorage, key: str, kind: str, contents: set[bytes | None]) -> Callable[[], Call[object]]:
        """Makes uploads of this *kind* to *key*, each of a large content of its own, which is put among *contents*."""

        def make() -> Call[object]:
            data = self.large()
            contents.add(data)
            third = len(data) // 3
            stream = chunks(data[:third], data[third : 2 * third], data[2 * third :])
            return lambda: store.upload(key, data if kind == "bytes" else stream)

        return make

    async def check_whole(self, reader: FullObjectStorage, key: str, legal: Set[bytes | None], given: str) -> None:
        """Fail the rule unless *reader* finds one of the *legal* contents under *key*; None stands for no object."""
        tried = await attempt(partial(reader.download, key))
        observed = None if isinstance(tried.error, ObjectNotFoundError) else tried.result()
        self.check(
            observed in legal,
            given=given,
            expected="the previous object or a new one, whole",
            observed=Plain("none" if observed is None else f"{len(observed)} bytes that nobody wrote"),
        )

    async def check_no_other(self, reader: FullObjectStorage, used: Set[str], given: str) -> None:
        """Fail the rule unless all that this rule's listing shows are *used* keys, if listings are declared."""
        if "list_prefix" in self.declared:
            listed = {name for name in await self.listed(reader, "") if self.namespace in name}
            self.check(
                listed <= used,
                given=f"list_objects() after {given}",
                expected="nothing of it but the object",
                observed=sorted(listed - used),
            )

    def check_missing(self, error: BaseException | None, given: str, value: str = "") -> None:
        """Fail the rule unless *error* says that the container is missing."""
        self.check(
            isinstance(error, NotFoundError) and not isinstance(error, ObjectNotFoundError),
            given=given,
            expected="NotFoundError, not ObjectNotFoundError",
            observed=Plain(describe_error(error) if error else f"returned {value}"),
        )

    async def measure(self, store: FullObjectStorage, size: int, part: int) -> None:
        key, chunk = self.key(), min(part, 64 * 1024)
        tracing = tracemalloc.is_tracing()
        if not tracing:
            tracemalloc.start()
        try:
            before = _held()
            digest = hashlib.sha256()

            async def source() -> AsyncIterator[bytes]:
                for piece in _pieces(size, chunk):
                    digest.update(piece)
                    yield piece

            await store.upload(key, source())
            up, read, seen = _transient(), hashlib.sha256(), 0
            tracemalloc.reset_peak()
            async with store.download_stream(key) as stream:
                async for piece in stream:
                    read.update(piece)
                    seen += len(piece)
                del piece
            down = _transient()
            await store.delete(key)
            await self.settle()
            # With versions the object is still there, which a backend in this process may well hold in memory.
            kept = 0 if "versioning" in self.declared else _held() - before
        finally:
            if not tracing:
                tracemalloc.stop()
        self.same((seen, read.digest()), (size, digest.digest()), given=f"size and digest of a stream of {size} bytes")
        for given, used in {"upload": up, "download_stream": down, "upload, download_stream and delete": kept}.items():
            self.check(
                used < 4 * part,
                given=f"the memory of {given}, for a stream of {size} bytes",
                expected=f"less than 4 parts of {part} bytes",
                observed=Plain(f"{used} bytes"),
                hint="hand on each part as it comes; keep no list of them",
            )

    async def allowed(self, method: str, url: str, body: bytes, given: str, sent: bytes = b"") -> None:
        status, got = await self.request(method, url, sent)
        self.check(200 <= status < 300, given=given, expected="a status of 2xx", observed=Plain(f"{status}: {describe(got)}"))
        if method == "GET":
            self.same(got, body, given=f"the body of {given}")

    async def forbidden(self, method: str, url: str, given: str, content: bytes) -> None:
        status, body = await self.request(method, url, b"intruder" if method == "PUT" else b"")
        self.check(status >= 400 and content not in body, given=given, expected="a status of 4xx", observed=Plain(f"{status}"))

    async def check_conflict(self, store: FullObjectStorage, key: str, etag: str, given: str) -> None:
        """Fail the rule unless an upload that asks for *etag* is a conflict."""
        await self.refused(partial(store.upload, key, b"2", if_match=etag), ConflictError, given=given)

    async def count_together(self, clients: Sequence[FullObjectStorage], key: str, *, workers: int, times: int) -> None:
        """Let *workers* at once each add 1 to the number under *key* so many *times*, trying again on a conflict."""

        async def add_one(client: FullObjectStorage) -> None:
            etag = (await client.stat(key)).etag
            number = int(await client.download(key))
            await client.upload(key, b"%d" % (number + 1), if_match=etag)

        async def work(number: int) -> None:
            for _ in range(times):
                await self.retry(partial(add_one, clients[number % len(clients)]))

        await gather(partial(work, number) for number in range(workers))

    async def check_level(self, store: FullObjectStorage, prefix: str, keys: Iterable[str]) -> None:
        expected = set()
        for key in keys:
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition("/")
                expected.add(f"{'prefix' if slash else 'object'} {prefix}{head}{slash}")
        entries = await drain(store.list_level(prefix))
        seen = [f"{'prefix' if isinstance(entry, Prefix) else 'object'} {entry.key}" for entry in entries]
        self.check_listing(seen, expected, f"list_level({describe(prefix)})")


class ObjectStorageContract(DataRules):
    """Certifies an object store."""

    definition = Definition(
        name="object_storage",
        version="1.0",
        prefix="OB",
        protocols={
            "": ObjectStorageProtocol,
            "stat": Stat,
            "list_prefix": Listing,
            "streaming": Streaming,
            "range_read": RangeRead,
            "metadata": Metadata,
            "conditional_write": ConditionalWrite,
            "checksum": Checksum,
            "hierarchy": Hierarchy,
            "ordered_list": OrderedList,
            "copy": Copy,
            "presigned_url": PresignedURL,
            "versioning": Versioning,
            "batch_delete": BatchDelete,
            "lifecycle": Lifecycle,
        },
        production=frozenset({"stat", "list_prefix"}),
        limits=ObjectLimits,
        hooks=("missing_container_provider", "http_request"),
        cells=ObjectCells,
    )
    trial: ClassVar[type[Trial[Any]]] = ObjectStorageTrial

    # What the author of a suite may supply.

    async def missing_container_provider(self) -> Any:
        """Return a client whose bucket, directory or root does not exist. Optional."""
        raise NotImplementedError

    async def http_request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of one bare HTTP request. Optional: override it if a presigned URL is not on a network."""
        return await anyio.to_thread.run_sync(_bare_request, method, url, body)

    # Contents

    @rule("OB-01")
    async def test_ob_01_contents_come_back_exactly(self, t: ObjectStorageTrial) -> None:
        """`download` returns exactly the bytes that were uploaded, as `bytes`.

        Catches text mode, a line end that is changed, and a client that unpacks what looks like gzip.
        """
        store = await t.connect()
        for label, data in CONTENTS.items():
            with t.case(label):
                key = t.key()
                await store.upload(key, data)
                t.same(await store.download(key), data, given=f"download after upload of {label}")

    @rule("OB-02")
    async def test_ob_02_empty_is_not_absent(self, t: ObjectStorageTrial) -> None:
        """An object of no bytes exists: it downloads as `b""`, has size 0, and is listed.

        Catches `if not data:`, and a multipart upload without parts.
        """
        store = await t.connect()
        key = t.key()
        await store.upload(key, b"")
        t.same(await store.download(key), b"", given='download after upload(key, b"")')
        for name, read in t.reads(store, key).items():
            with t.case(name):
                await read()
        if "stat" in t.declared:
            t.same((await store.stat(key)).size, 0, given="the size of an object of no bytes")

    @rule("OB-03", deadline=60)
    async def test_ob_03_sizes_around_a_part_come_back(self, t: ObjectStorageTrial) -> None:
        """Contents of a part less one byte, a part, a part and one byte, and two parts and one byte come back whole.

        Catches the last part that is lost or sent twice. `limits.part_bytes` is the part, `limits.value_bytes` bounds the size.
        """
        store = await t.connect()
        limits = t.numbers()
        part = limits.part_bytes
        key = t.key()
        for size in sorted({min(size, limits.value_bytes) for size in (part - 1, part, part + 1, 2 * part + 1)}):
            with t.case(f"{size} bytes"):
                data = t.content(size)[:size]
                await store.upload(key, data)
                t.check_content(await store.download(key), data, f"download of {size} bytes, with parts of {part}")

    @rule("OB-04")
    async def test_ob_04_an_absent_object_is_said(self, t: ObjectStorageTrial) -> None:
        """Reading an absent key raises `ObjectNotFoundError`, also `d` and `d/` where only `d/x` exists.

        In `download`, `stat` and streams. Catches the KeyError of a dictionary, and the directory that is taken for an object.
        """
        store = await t.connect()
        directory = t.key()
        await store.upload(f"{directory}/x", t.content())
        for label, key in {"never written": t.key(), "d": directory, "d/": f"{directory}/", "d/x/": f"{directory}/x/"}.items():
            for name, read in t.reads(store, key).items():
                if name != "list_objects":
                    with t.case(f"{name}, {label}"):
                        await t.absent(read, f"{name} of a key that nobody wrote ({label})")

    @rule("OB-05")
    async def test_ob_05_delete_makes_absent(self, t: ObjectStorageTrial) -> None:
        """After `delete` the key is absent everywhere; deleting it again, or a key that never was, is fine.

        Catches the 404 of Google's and Azure's stores, which S3 does not send; and a deleted object of NATS that is still listed.
        """
        store: Any = await t.connect()
        key, other, kept = t.key(), t.key(), t.content()
        await store.upload(key, t.content())
        await store.upload(other, kept)
        for given in ("delete(key)", "delete(key) again"):
            t.same(await store.delete(key), None, given=f"the result of {given}")
            for name, read in t.reads(store, key).items():
                with t.case(f"{name} after {given}"):
                    await t.absent(read, f"{name} after {given}")
        t.same(await store.delete(t.key()), None, given="the result of delete(a key never written)")
        t.same(await store.download(other), kept, given="another object after delete(key)")
        again = t.content()
        await store.upload(key, again)
        t.same(await store.download(key), again, given="download after delete and another upload")

    @rule("OB-06")
    async def test_ob_06_an_upload_replaces_the_whole_object(self, t: ObjectStorageTrial) -> None:
        """`upload` replaces content, size, content type and metadata, by longer and by shorter ones, or by none.

        Catches a write in place that leaves the old tail, and metadata that outlives its object.
        """
        store = await t.connect()
        key = t.key()
        for size in (100_000, 1, 0, 5_000, 4_999):
            data = t.content(size)[:size]
            await store.upload(key, data)
            t.same(await store.download(key), data, given=f"download after overwriting with {size} bytes")
            if "stat" in t.declared:
                t.same((await store.stat(key)).size, size, given=f"the size after overwriting with {size} bytes")
        if t.declared >= {"metadata", "stat"}:
            await store.upload(key, t.content(), content_type="text/html", metadata={"old": "1"})
            await store.upload(key, t.content(), metadata={"new": "2"})
            info = await store.stat(key)
            t.same(dict(info.metadata), {"new": "2"}, given="metadata after an upload with other metadata")
            await store.upload(key, t.content())
            info = await store.stat(key)
            t.same((info.content_type, dict(info.metadata)), (None, {}), given="type and metadata after an upload without any")

    @rule("OB-07", "stat")
    async def test_ob_07_what_is_known_agrees(self, t: ObjectStorageTrial) -> None:
        """What `upload` returns and what `stat` says agree, in key, size, etag and time; another content has another etag.

        The etag is not empty, and `last_modified` is aware, in UTC, within 5 minutes of now, and does not go back. Catches a
        naive time, and the size of an encoding. The etag of S3 may be a hash of the content, so equal contents may share one.
        """
        store = await t.connect()
        key = t.key()
        seen: list[ObjectInfo] = []
        for size in (10, 5_000, 5_000):
            data = t.content(size)
            returned = await store.upload(key, data)
            info = await store.stat(key)
            t.check(isinstance(info, ObjectInfo), given="the result of stat", expected="an ObjectInfo", observed=info)
            t.same(returned, info, given="what upload returned, beside what stat says")
            t.same((info.key, info.size), (key, len(data)), given="key and size of an object")
            t.check(
                isinstance(info.etag, str) and info.etag not in {"", *(each.etag for each in seen)},
                given="the etag of a new content",
                expected="text that is not empty, and not an earlier content's",
                observed=info.etag,
            )
            modified = info.last_modified
            t.check(
                isinstance(modified, datetime) and modified.utcoffset() == timedelta(0),
                given="last_modified",
                expected="an aware time in UTC",
                observed=modified,
            )
            t.check(
                abs(datetime.now(UTC) - modified) < timedelta(minutes=5),
                given="last_modified of an object just written",
                expected="within 5 minutes of now",
                observed=modified,
            )
            t.check(
                not seen or modified >= seen[-1].last_modified,
                given="last_modified after another upload",
                expected="not earlier than before",
                observed=modified,
            )
            seen.append(info)

    # Listings

    @rule("OB-08", "list_prefix")
    async def test_ob_08_a_listing_is_fresh(self, t: ObjectStorageTrial) -> None:
        """An upload is in the next listing, with its size, and a delete is out of it; within `staleness`.

        Catches a listing that is cached. Also by another client, where the suite declares `shared`.
        """
        store, other = await t.clients(2)
        start = t.key()
        t.check_listing(await t.listed(other, start), [], "list_objects before anything is written")
        keys = [f"{start}{number}" for number in range(3)]
        for number, key in enumerate(keys):
            data = t.content()
            await store.upload(key, data)
            await t.settle()
            infos = await drain(other.list_objects(start))
            t.check_listing([info.key for info in infos], keys[: number + 1], f"list_objects after upload number {number + 1}")
            t.same({i.key: i.size for i in infos}[key], len(data), given="the size of an object in a listing")
            if "stat" in t.declared:
                etag = (await store.stat(key)).etag
                t.same({i.key: i.etag for i in infos}[key], etag, given="the etag of an object in a listing")
        for number, key in enumerate(keys):
            await store.delete(key)
            await t.settle()
            t.check_listing(await t.listed(other, start), keys[number + 1 :], f"list_objects after delete number {number + 1}")

    @rule("OB-09", "list_prefix", deadline=60)
    async def test_ob_09_a_listing_is_complete(self, t: ObjectStorageTrial) -> None:
        """`list_objects` yields every object under its prefix exactly once, over several pages; with no prefix, every object.

        Catches a listing that ends with the first page, at 1000 objects in most stores.
        """
        store = await t.connect()
        size = within_reach(t.numbers().page_size)
        start = t.key()
        keys = [f"{start}{number:05}" for number in range(2 * size + 1)]
        await t.upload_all(store, keys)
        given = f"with a page of {size} and {len(keys)} objects"
        t.check_listing(await t.listed(store, start), keys, f"list_objects(prefix) {given}")
        everything = [key for key in await t.listed(store, "") if t.namespace in key]
        t.check_listing(everything, keys, f"list_objects() {given}")
        inner = [key for key in keys if key.startswith(f"{start}0000")]
        t.check_listing(await t.listed(store, f"{start}0000"), inner, "list_objects with a longer prefix")

    @rule("OB-10", "list_prefix")
    async def test_ob_10_a_prefix_is_text(self, t: ObjectStorageTrial) -> None:
        """A prefix is compared by code points: `a` begins `ab` and `a/b`, `a/` does not begin `a`, and `*` is a star.

        Catches a listing by path segments, by pattern, and one that ignores a prefix which nothing has.
        """
        store = await t.connect()
        start = t.key("p")
        endings = ("", "b", "bc", "/b", "/b/c", "B", "//", " ", "*", "?", "[b]", "%", "_", "\\", "\u00e9", "e\u0301")
        keys = [start + each for each in endings]
        await t.upload_all(store, keys)
        for prefix in (*endings, "/", "/b/", "x", "*b", "b/", ".", "../"):
            with t.case(describe(prefix)):
                expected = [key for key in keys if key.startswith(start + prefix)]
                t.check_listing(await t.listed(store, start + prefix), expected, f"list_objects(p + {describe(prefix)})")

    @rule("OB-11", "list_prefix", deadline=60)
    async def test_ob_11_a_listing_survives_changes(self, t: ObjectStorageTrial) -> None:
        """Objects that are there all the time are yielded exactly once while others come and go; and it can be left early.

        Catches paging by offset, and a page that is left open.
        """
        store: Any = await t.connect()
        size = within_reach(t.numbers().page_size)
        start = t.key()
        stay = [f"{start}-{number:05}-stay" for number in range(2 * size + 2)]
        leave = [f"{start}-{number:05}-leave" for number in range(0, 2 * size + 2, 2)]
        gone = [f"{start}-{number:05}-gone" for number in range(4)]
        await t.upload_all(store, [*stay, *leave, *gone])
        for key in gone:
            await store.delete(key)
        listed: list[str] = []
        number = 0
        async with leaving(store.list_objects(start)) as infos:
            async for info in infos:
                listed.append(info.key)
                if len(listed) % max(1, size // 4) == 0 and number < len(leave):
                    await store.delete(leave[number])
                    await store.upload(f"{start}-{number:05}-come", b"v")
                    number += 1
        t.check_listing([key for key in listed if key.endswith("-stay")], stay, "list_objects while others come and go")
        t.check(not set(gone) & set(listed), given="list_objects after delete", expected="no deleted key", observed=listed)
        for _ in range(30):
            async with leaving(store.list_objects(start)) as infos:
                async for _info in infos:
                    break
        t.same(await store.download(stay[0]), b"v", given="download after 30 listings that were left early")

    # Keys

    @rule("OB-12", deadline=30)
    async def test_ob_12_a_key_is_no_path_and_no_url(self, t: ObjectStorageTrial) -> None:
        """Keys with dots, slashes, escapes, or what a provider may put beside an object each name their own, and list exactly.

        All are written before the first is read. Catches what a URL or a file system makes of a key: SeaweedFS stores `x//y` as
        `x/y`, obstore drops a trailing slash; and the side file `key.meta` that is some other object's content.
        """
        store = await t.connect()
        keys = {label: text.replace("K", t.namespace) for label, text in KEYS.items()}
        contents = {label: t.content() for label in keys}
        for label, key in keys.items():
            with t.case(label):
                await store.upload(key, contents[label])
        for label, key in keys.items():
            with t.case(label):
                t.same(await store.download(key), contents[label], given=f"download({describe(key)}), after all were written")
                if "stat" in t.declared:
                    t.same((await store.stat(key)).key, key, given=f"the key in stat({describe(key)})")
        if "list_prefix" in t.declared:
            listed = [key for key in await t.listed(store, "") if t.namespace in key]
            t.check_listing(listed, keys.values(), "list_objects() of these keys")

    @rule("OB-13", deadline=30)
    async def test_ob_13_no_key_leads_out_of_the_namespace(self, t: ObjectStorageTrial) -> None:
        """No key reaches an object beside its namespace: it stays unread, unchanged, undeleted and unlisted.

        The kit puts one into another namespace, where `make_provider` knows the difference, and asks for it by `../`, by an
        absolute path and in escapes. Catches path traversal.
        """
        store = await t.connect()
        beside = f"{t.namespace}-beside"
        neighbour = await t.connect(namespace=beside)
        name, content = t.key(), t.content()
        await neighbour.upload(name, content)
        for form in (
            "../{}/{}", "../../{}/{}", "/{}/{}", "./../{}/{}", "x/../../{}/{}", "..\\{}\\{}", "%2e%2e/{}/{}", "%2E%2E%2F{}%2F{}",
            "..%2f{}/{}", "..//{}/{}", "{}/{}", "file:///{}/{}", "~/../{}/{}",
        ):  # fmt: skip
            key = form.format(beside, name)
            with t.case(form):
                for label, read in t.reads(store, key).items():
                    await t.absent(read, f"{label} of {describe(key)}, which only looks like a path to another namespace")
                await store.upload(key, b"intruder")
                await store.delete(key)
                t.same(await neighbour.download(name), content, given=f"the neighbour after upload and delete of {describe(key)}")

    @rule("OB-14")
    async def test_ob_14_a_key_may_be_an_object_and_a_prefix(self, t: ObjectStorageTrial) -> None:
        """`a` and `a/b` are two objects, in whatever order they are made, and deleting one keeps the other.

        Catches the file that cannot be a directory, and the directory that is removed with all that is in it.
        """
        store = await t.connect()
        for order in ((0, 1), (1, 0)):
            for first, second in ((0, 1), (1, 0)):
                with t.case(f"made in the order {order}, number {first} deleted first"):
                    keys = [t.key("a")]
                    keys.append(f"{keys[0]}/b")
                    contents = [t.content(), t.content()]
                    for number in order:
                        await store.upload(keys[number], contents[number])
                    for number in (0, 1):
                        t.same(await store.download(keys[number]), contents[number], given=f"download of {keys[number]!r}")
                    await store.delete(keys[first])
                    await t.absent(partial(store.download, keys[first]), "download of the deleted one")
                    t.same(await store.download(keys[second]), contents[second], given="the other after one was deleted")

    # Whole or not at all

    @rule("OB-15", deadline=60)
    async def test_ob_15_readers_see_old_or_new(self, t: ObjectStorageTrial) -> None:
        """Readers that poll during an overwrite see all of the old or all of the new content.

        Of more than one part. Catches a write in place, and an object that is gone while it is replaced.
        """
        store, *readers = await t.clients(4)
        key, contents = t.key(), [t.large() for _ in range(4)]
        await store.upload(key, contents[0])
        await t.settle()
        finished = False
        strange: list[str] = []

        async def write() -> None:
            nonlocal finished
            for number, data in enumerate(contents[1:]):
                stream = "streaming" in t.declared and number % 2
                await store.upload(key, chunks(data[:1000], data[1000:]) if stream else data)
            finished = True

        async def poll(reader: FullObjectStorage) -> None:
            for _ in range(MOST_POLLS):
                tried = await attempt(lambda: reader.download(key))
                if tried.error is not None:
                    strange.append(describe_error(tried.error))
                elif (data := tried.result()) not in contents:
                    strange.append(f"{len(data)} bytes that nobody wrote")
                if finished or strange:
                    return

        calls: list[Call[None]] = [write, *(partial(poll, reader) for reader in readers)]
        await gather(calls)
        t.check(
            not strange,
            given=f"download during overwrites of {len(contents[0])} bytes",
            expected="old or new",
            observed=strange[:3],
        )

    @rule("OB-16", deadline=60)
    async def test_ob_16_concurrent_uploads_do_not_mix(self, t: ObjectStorageTrial) -> None:
        """Of concurrent uploads the result is wholly one of them: its content with its size and its metadata.

        Catches interleaved parts, and the body of one with the metadata of the other.
        """
        clients = await t.clients(2)
        for _ in range(4):
            key, contents = t.key(), [t.large(), t.large()]
            described = t.declared >= {"metadata", "stat"}
            extra: list[dict[str, Any]] = [{"metadata": {"writer": str(n)}} if described else {} for n in (0, 1)]
            await gather(partial(clients[n].upload, key, contents[n], **extra[n]) for n in (0, 1))
            await t.settle()
            seen = [await client.download(key) for client in clients]
            t.check(
                seen[0] in contents and seen[0] == seen[1],
                given=f"two clients after two concurrent uploads of {len(contents[0])} bytes",
                expected="one of the two contents, the same for both",
                observed=Plain("a mixture" if seen[0] not in contents else "two different ones"),
            )
            if "stat" in t.declared:
                info = await clients[0].stat(key)
                t.same(info.size, len(seen[0]), given="the size after two concurrent uploads")
                if described:
                    writer = str(contents.index(seen[0]))
                    t.same(dict(info.metadata), {"writer": writer}, given="the metadata beside the content that won")

    @rule("OB-17", deadline=60)
    async def test_ob_17_a_cancelled_upload_leaves_nothing(self, t: ObjectStorageTrial) -> None:
        """A cancelled upload leaves the previous object, or none, and nothing else that is listed.

        It may still arrive later, whole. Catches the object that is cut off, and a temporary one that shows.
        """
        store, reader = await t.clients(2)
        used: set[str] = set()
        for kind in ("bytes", "a stream") if "streaming" in t.declared else ("bytes",):
            for before in (None, t.content()):
                with t.case(f"{kind} over {'an object' if before else 'nothing'}"):
                    used.add(key := t.key())
                    if before is not None:
                        await store.upload(key, before)
                        await t.settle()
                    legal = {before}
                    async for each in sweep(t.uploads(store, key, kind, legal), within=t.cancel_seconds):
                        given = f"an upload of {kind}, cancelled at its wait number {each.step + 1}"
                        await t.check_whole(reader, key, legal, given)
                        await t.check_no_other(reader, used, given)

    @rule("OB-18", hook="missing_container_provider")
    async def test_ob_18_a_missing_container_is_said(self, t: ObjectStorageTrial) -> None:
        """Without its bucket or root every operation raises a `NotFoundError` that is not `ObjectNotFoundError`.

        Or connecting does. Catches `NoSuchBucket` that reads as "there is no such object", and a wrong configuration that looks
        like an empty store.
        """
        try:
            client = await t.session.connect({}, "missing_container_provider")
        except HookError as error:
            if not isinstance(error.__cause__, TCKError):
                raise
            t.check_missing(error.__cause__, "connecting without the container")
            return

        for operation in t.operations():
            with t.case(operation.name):
                tried = await t.outcome(operation, client, t.key())
                t.check_missing(tried.error, f"{operation.name} without the container", describe(tried.value))

    # streaming

    @rule("OB-19", "streaming")
    async def test_ob_19_a_source_that_fails_stores_nothing(self, t: ObjectStorageTrial) -> None:
        """If the stream given to `upload` raises, that very exception is raised, and nothing is created or replaced.

        Catches an upload that is completed in a `finally`, and the error that is wrapped.
        """
        store = await t.connect()
        data = t.large()

        async def failing(sent: int, error: Exception) -> AsyncIterator[bytes]:
            for number in range(sent):
                yield data[number * len(data) // 3 : (number + 1) * len(data) // 3]
            raise error

        for sent in (0, 1, 3):
            for before in (None, t.content()):
                with t.case(f"after {sent} chunks, over {'an object' if before else 'nothing'}"):
                    key, error = t.key(), LookupError("raised by the source")
                    if before is not None:
                        await store.upload(key, before)
                    given = f"a stream that raises after {sent} chunks"
                    tried = await attempt(partial(store.upload, key, failing(sent, error)))
                    t.check(
                        tried.error is error,
                        given=given,
                        expected="the same exception",
                        observed=Plain(describe_error(tried.error) if tried.error else "no exception"),
                    )
                    if before is None:
                        for name, read in t.reads(store, key).items():
                            await t.absent(read, f"{name} after {given}")
                    else:
                        t.same(await store.download(key), before, given=f"the object that was there, after {given}")

    @rule("OB-20", "streaming", exclusive=True, deadline=120)
    async def test_ob_20_streams_need_little_memory(self, t: ObjectStorageTrial) -> None:
        """A large stream never needs the memory of 4 parts, up or down.

        Measured on what Python allocates, beyond what is still held at the end: a backend in this process may hold the object
        once. A part of less than 16 KiB counts as that: it would be lost in what each call takes. Catches `b"".join` of a whole
        stream.
        """
        store = await t.connect()
        limits = t.numbers()
        part = max(limits.part_bytes, SMALLEST_PART)
        size = min(limits.value_bytes, max(8 * part, min(64 * 1024 * 1024, 64 * part)))
        if size < 6 * part:
            t.not_provoked(f"an object of `value_bytes` ({limits.value_bytes}) is less than 6 parts of {part} bytes")
        await t.measure(store, size, part)

    @rule("OB-21", "streaming", deadline=60)
    async def test_ob_21_a_stream_is_of_one_object(self, t: ObjectStorageTrial) -> None:
        """A stream of an object that is replaced or deleted meanwhile yields no mixture of the old bytes and others.

        It goes on with the old bytes, or raises. Catches ranges that are read one by one from whatever is there.
        """
        store, writer = await t.clients(2)
        key, old, new = t.key(), t.large(), t.large()
        changes: dict[str, Call[object]] = {"replaced": partial(writer.upload, key, new), "deleted": partial(writer.delete, key)}
        for label, change in changes.items():
            with t.case(label):
                await writer.upload(key, old)
                await t.settle()
                got = b""

                async def read(change: Call[object] = change) -> None:
                    nonlocal got
                    async with store.download_stream(key) as stream:
                        async for chunk in stream:
                            if not got:
                                await change()
                            got += chunk

                tried = await attempt(read)
                if tried.error is not None and not isinstance(tried.error, TCKError):
                    tried.result()
                t.check(
                    old.startswith(got) if tried.error else got == old,
                    given=f"download_stream of an object that is {label} after the first chunk",
                    expected="the old bytes, or an error",
                    observed=Plain(f"{len(got)} bytes, not those of the old object"),
                )

    # range_read

    @rule("OB-22", "range_read")
    async def test_ob_22_a_range_is_a_slice(self, t: ObjectStorageTrial) -> None:
        """`download(key, start=s, end=e)` is `content[s:e]`: first, last, middle, empty, open, beyond the end, across parts.

        Catches the end that HTTP includes, and the empty range that HTTP cannot say. Streams take the same bounds.
        """
        store = await t.connect()
        data = t.large()
        part = t.numbers().part_bytes
        key, size = t.key(), len(data)
        await store.upload(key, data)
        for start, end in (
            (0, None), (0, 1), (0, 0), (1, 2), (5, 5), (10, 100), (100, None), (size - 1, size), (size - 1, None), (size, None),
            (size, size), (size, size + 1), (size - 5, size + 1_000), (0, size), (0, size + 1), (0, size - 1),
            (max(0, min(part, size) - 3), min(part, size) + 3),
        ):  # fmt: skip
            with t.case(f"[{start}:{end}]"):
                given = f"{size} bytes, start={start}, end={end}"
                t.check_content(await store.download(key, start=start, end=end), data[start:end], f"download of {given}")
                if "streaming" in t.declared:
                    t.check_content(
                        await streamed(store, key, start=start, end=end), data[start:end], f"download_stream of {given}"
                    )

    @rule("OB-23", "range_read")
    async def test_ob_23_a_range_outside_is_refused(self, t: ObjectStorageTrial) -> None:
        """A start beyond the end of the content is `InvalidArgumentError`.

        With `validation`, a negative bound and an end before the start are, too. All of an object of no bytes is `b""`. Catches
        the 416 of HTTP that leaks or is answered with the whole body, and the bounds from the end that Python has.
        """
        store = await t.connect()
        key, empty, data = t.key(), t.key(), t.content()
        await store.upload(key, data)
        await store.upload(empty, b"")
        reads: dict[str, Callable[..., Awaitable[object]]] = {"download": store.download}
        if "streaming" in t.declared:
            reads["download_stream"] = partial(streamed, store)
        wrong: list[dict[str, int]] = [{"start": len(data) + 1}, {"start": 2**40}]
        if "validation" in t.declared:
            wrong += [{"start": -1}, {"end": -1}, {"start": 5, "end": 4}]
        for name, read in reads.items():
            for bounds in wrong:
                with t.case(f"{name}, {bounds}"):
                    await t.refused(
                        partial(read, key, **bounds), InvalidArgumentError, given=f"{name} of {len(data)} bytes with {bounds}"
                    )
            with t.case(f"{name}, no bytes"):
                t.same(await read(empty, start=0), b"", given=f"{name} of an object of no bytes")
                t.same(await read(empty, start=0, end=5), b"", given=f"{name} of an object of no bytes, up to 5")
                await t.refused(
                    partial(read, empty, start=1), InvalidArgumentError, given=f"{name} of an object of no bytes, from 1"
                )
            with t.case(f"{name}, absent"):
                await t.absent(partial(read, t.key(), start=0, end=1), f"{name} of a range of no object")

    # conditional_write

    @rule("OB-24", "conditional_write")
    async def test_ob_24_a_creation_has_one_winner(self, t: ObjectStorageTrial) -> None:
        """`upload(if_absent=True)` over an object raises `AlreadyExistsError` and changes nothing; of 20 at once one wins.

        Catches the check that is followed by a write. S3 answers some of the 20 with a 409 that asks to try again: a provider
        does.
        """
        clients = await t.clients(2)
        store = clients[0]
        key, first = t.key(), t.content()
        await store.upload(key, first, if_absent=True)
        await t.refused(
            lambda: store.upload(key, t.content(), if_absent=True), AlreadyExistsError, given="if_absent over an object"
        )
        t.same(await store.download(key), first, given="the object after the refused creation")
        await store.delete(key)
        second = t.content()
        await store.upload(key, second, if_absent=True)
        t.same(await store.download(key), second, given="an object created after a delete")
        for _ in range(3):
            key, contents = t.key(), [t.content() for _ in range(20)]
            tried = await together(partial(clients[n % 2].upload, key, each, if_absent=True) for n, each in enumerate(contents))
            winner = t.one_winner(tried, "20 uploads with if_absent at once", AlreadyExistsError)
            await t.settle()
            t.same(await store.download(key), contents[winner], given="the object after 20 creations at once")

    @rule("OB-25", "conditional_write", "stat", deadline=60)
    async def test_ob_25_no_conditional_write_is_lost(self, t: ObjectStorageTrial) -> None:
        """`upload(if_match=etag)` works with the current etag; a stale one, or no object, is `ConflictError` and changes nothing.

        6 workers that each add 1 to a number 12 times, trying again on a conflict, end at 72. Catches the lost update, the etag
        that is only compared in the client, and S3's 404 for an absent object. Both conditions at once are refused, with
        whatever error where `validation` is not declared: to obey one of them is to write against the other. Where another
        client may see an old state, one client does all of it: an etag that is new beside a content that is old would lose an
        update, and nobody could tell.
        """
        clients = await t.prompt_clients()
        store = clients[0]
        key = t.key()
        await store.upload(key, b"0")
        stale = (await store.stat(key)).etag
        info = await store.upload(key, b"1", if_match=stale)
        t.same(await store.download(key), b"1", given="an upload with the current etag")
        for label, etag in {"a stale etag": stale, "an etag that never was": '"never"'}.items():
            with t.case(label):
                await t.check_conflict(store, key, etag, f"upload with {label}")
                t.same(await store.download(key), b"1", given=f"the object after an upload with {label}")
        with t.case("an etag that was returned"):
            await store.upload(key, b"3", if_match=info.etag)
        with t.case("both conditions"):
            both = partial(store.upload, fresh := t.key(), b"4", if_absent=True, if_match=stale)
            await t.not_taken(both, given="upload with if_absent and if_match")
            await t.absent(partial(store.download, fresh), "download after both conditions at once")
        with t.case("no object"):
            current = (await store.stat(key)).etag
            await store.delete(key)
            await t.check_conflict(store, key, current, "upload with the etag of a deleted object")
            await t.absent(lambda: store.download(key), "download after the refused upload")
        await store.upload(key, b"0")
        await t.count_together(clients, key, workers=6, times=12)
        t.same(await store.download(key), b"72", given="a number after 6 workers added 1 to it 12 times each")

    # metadata

    @rule("OB-26", "metadata", "stat")
    async def test_ob_26_metadata_is_kept_or_refused(self, t: ObjectStorageTrial) -> None:
        """Content type and metadata come back as they were given, their names in lower case; what cannot be kept is refused.

        With `InvalidArgumentError`, and nothing stored. Catches a type that is guessed from the content, text outside ASCII that
        a header garbles, and one of two names that differ in case alone. S3 says `binary/octet-stream` where no type was given;
        a provider says None.
        """
        store = await t.connect()
        for content_type in (None, "text/plain", "text/plain; charset=utf-8", "application/octet-stream", "image/x-odd", "a/b+c"):
            with t.case(f"type {content_type}"):
                key = t.key(".png")
                await store.upload(key, b"\x89PNG\r\n\x1a\n", content_type=content_type)
                t.same((await store.stat(key)).content_type, content_type, given=f"content_type={content_type!r}")
        for label, metadata in METADATA.items():
            with t.case(label):
                key = t.key()
                expected = {name.lower(): value for name, value in metadata.items()}
                tried = await attempt(partial(store.upload, key, b"v", metadata=metadata))
                if isinstance(tried.error, InvalidArgumentError) and label not in PLAIN_METADATA:
                    await t.absent(partial(store.stat, key), f"stat after {label} was refused")
                    continue

                tried.result()
                t.same(dict((await store.stat(key)).metadata), expected, given=f"metadata: {label}")
        with t.case("names that differ in case alone"):
            key = t.key()
            alike = {"colour": "red", "Colour": "blue"}
            await t.not_taken(
                partial(store.upload, key, b"v", metadata=alike), given="two names of metadata that differ in case alone"
            )
            await t.absent(lambda: store.stat(key), "stat after they were refused")

    # copy

    @rule("OB-27", "copy")
    async def test_ob_27_a_copy_stands_alone(self, t: ObjectStorageTrial) -> None:
        """The target of `copy` equals its source in content, type and metadata, replaces what was there, and needs it no more.

        An absent source is `ObjectNotFoundError` and leaves the target; a copy onto itself keeps the object. Catches a link, and
        the metadata that S3 leaves out. S3 refuses a copy onto itself that changes nothing: a provider has nothing to do then.
        """
        store = await t.connect()
        source, target = t.key("s"), t.key("t")
        described = t.declared >= {"metadata", "stat"}
        extra: dict[str, Any] = {"content_type": "text/x-copied", "metadata": {"kind": "copied"}} if described else {}
        old: dict[str, Any] = {"metadata": {"old": "1"}} if described else {}

        async def check_target(data: bytes, given: str) -> None:
            t.check_content(await store.download(target), data, given)
            if described:
                info = await store.stat(target)
                t.same(
                    (info.key, info.content_type, dict(info.metadata)),
                    (target, "text/x-copied", {"kind": "copied"}),
                    given=f"key, type and metadata of {given}",
                )

        data = t.large()
        await store.upload(source, data, **extra)
        await store.upload(target, t.content(), **old)
        await store.copy(source, target)
        await check_target(data, "the target")
        t.check_content(await store.download(source), data, "the source after copy")
        await store.upload(source, b"other")
        await check_target(data, "the target after its source was overwritten")
        await store.delete(source)
        await check_target(data, "the target after its source was deleted")
        await t.absent(lambda: store.copy(source, target), "copy of a deleted source")
        await check_target(data, "the target after a copy that was refused")
        await store.copy(target, target)
        await check_target(data, "an object after it was copied onto itself")
        with t.case("an absent source, a new target"):
            new = t.key()
            await t.absent(lambda: store.copy(source, new), "copy of an absent source")
            await t.absent(lambda: store.download(new), "download of the target of a refused copy")

    # presigned_url

    @rule("OB-28", "presigned_url", deadline=30)
    async def test_ob_28_a_url_allows_what_it_says(self, t: ObjectStorageTrial) -> None:
        """A presigned URL works for a bare HTTP client, for its key and method alone, and only until it expires.

        Odd characters in the key too. Without its query, for another method, for another key, or later, it is refused. Catches an
        escape that is lost, and a URL that never expires: moto checks no time.
        """
        store = await t.connect()
        for label, ending in {"plain": "", "odd": "/a b+c%2F?d=e&f#g\u00e9", "dots": "/../x//y"}.items():
            with t.case(label):
                key, data, put = t.key() + ending, t.content(), t.content()
                await store.upload(key, data)
                reading = await store.presign(key, expires=60.0)
                writing = await store.presign(key, method="PUT", expires=60.0)
                given = f"of {describe(key)}"
                await t.allowed("GET", reading, data, f"GET with a URL {given}")
                for method, url, what in (
                    ("PUT", reading, "PUT with a URL for GET"),
                    ("GET", writing, "GET with a URL for PUT"),
                    ("GET", reading.partition("?")[0], "GET with a URL without its query"),
                    ("PUT", writing.partition("?")[0], "PUT with a URL without its query"),
                ):
                    await t.forbidden(method, url, f"{what} {given}", data)
                t.same(await store.download(key), data, given="the object after requests that were refused")
                await t.allowed("PUT", writing, b"", f"PUT with a URL {given}", put)
                t.same(await store.download(key), put, given=f"the object after PUT with a URL {given}")
        with t.case("another key"):
            one, other, data = t.key("x"), t.key("y"), t.content()
            await store.upload(other, data)
            url = await store.presign(one, expires=60.0)
            await t.forbidden("GET", url.replace(one, other), "GET with a URL of another key", data)
        with t.case("expired"):
            key, data = t.key(), t.content()
            await store.upload(key, data)
            reading = await store.presign(key, expires=2.0)
            writing = await store.presign(key, method="PUT", expires=2.0)
            await t.wait(max(2.0, t.numbers().min_ttl) + t.numbers().ttl_resolution + 0.5)
            await t.forbidden("GET", reading, "GET after the URL has expired", data)
            await t.forbidden("PUT", writing, "PUT after the URL has expired", data)
            t.same(await store.download(key), data, given="the object after PUT with an expired URL")
        if "lifecycle" in t.declared:
            with t.case("closed"):
                await store.close()
                await t.refused(partial(store.presign, key, expires=60.0), ClosedError, given="presign after close()")

    @rule("OB-29", "presigned_url")
    async def test_ob_29_a_life_that_cannot_be_is_refused(self, t: ObjectStorageTrial) -> None:
        """`presign` for longer than `limits.max_presign` is refused, and nothing is cut.

        With whatever error where `validation` is not declared, else with `InvalidArgumentError`, as are no time, a negative one,
        an illegal key or method. Catches the life that is cut without a word: a URL in an e-mail that is dead by then. Of a limit
        above a century only so much is tried.
        """
        store = await t.connect()
        most = min(t.numbers().max_presign, LONGEST_LIFE)
        key = t.key()
        await store.upload(key, t.content())
        wrong = [] if most < t.numbers().max_presign else [most + 1]
        if "validation" in t.declared:
            wrong += [0, -1, 0.0, float("nan"), float("inf")]
        for expires in wrong:
            with t.case(f"{expires} s"):
                await t.not_taken(partial(store.presign, key, expires=expires), given=f"presign(expires={expires})")
        with t.case("the longest"):
            url = await store.presign(key, expires=most)
            t.check(isinstance(url, str) and bool(url), given=f"presign(expires={most})", expected="a URL", observed=url)
        illegal: dict[str, dict[str, Any]] = {
            "no key": {"key": "", "expires": 60.0},
            "a method that it is not for": {"key": key, "method": "DELETE", "expires": 60.0},
        }
        for label, arguments in illegal.items():
            if "validation" in t.declared:
                with t.case(label):
                    await t.refused(partial(store.presign, **arguments), InvalidArgumentError, given=f"presign with {label}")

    # checksum

    @rule("OB-30", "checksum")
    async def test_ob_30_a_wrong_digest_stores_nothing(self, t: ObjectStorageTrial) -> None:
        """`upload` with the SHA-256 of its content stores it; with another it raises `InvalidArgumentError`, and stores nothing.

        Catches a digest that is compared after the object has been replaced. Streams too, where they are declared.
        """
        store = await t.connect()
        kinds: dict[str, Callable[[bytes], bytes | AsyncIterable[bytes]]] = {"bytes": lambda data: data}
        if "streaming" in t.declared:
            kinds["a stream"] = lambda data: chunks(data[:10], data[10:])
        for kind, made in kinds.items():
            with t.case(kind):
                key, absent, data, other = t.key(), t.key(), t.large(), t.content()
                digest = hashlib.sha256(data).digest()
                await store.upload(key, made(data), sha256=digest)
                t.check_content(await store.download(key), data, f"{kind} uploaded with its digest")
                for label, wrong in {
                    "of other bytes": digest,
                    "with one bit changed": bytes([hashlib.sha256(other).digest()[0] ^ 1]) + hashlib.sha256(other).digest()[1:],
                    "that is cut": hashlib.sha256(other).digest()[:31],
                    "of no bytes": b"",
                }.items():
                    for target in (key, absent):
                        await t.refused(
                            partial(store.upload, target, made(other), sha256=wrong),
                            InvalidArgumentError,
                            given=f"upload of {kind} with a digest {label}",
                        )
                    t.check_content(await store.download(key), data, f"the object after a digest {label}")
                    await t.absent(partial(store.download, absent), f"download of a new key after a digest {label}")

    # batch_delete

    @rule("OB-31", "batch_delete", deadline=60)
    async def test_ob_31_a_batch_of_any_size_is_deleted(self, t: ObjectStorageTrial) -> None:
        """`delete_many` removes all the keys it is given and no others, of any number, absent and repeated ones included.

        Also from an iterator that can be read once. Catches a batch beyond what one request holds, 1000 keys in most stores, of
        which the first thousand go.
        """
        store = await t.connect()
        size = within_reach(t.numbers().batch_size)
        start, kept = t.key(), t.content()
        keys = [f"{start}{number:05}" for number in range(2 * size + 1)]
        stays = f"{start}00000x"
        await t.upload_all(store, keys)
        await store.upload(stays, kept)
        await store.delete_many(each for each in [*keys, t.key(), keys[0]])
        for key in (keys[0], keys[size - 1], keys[size], keys[2 * size - 1], keys[2 * size]):
            await t.absent(partial(store.download, key), f"download of key number {keys.index(key)} of {len(keys)} in a batch")
        if "list_prefix" in t.declared:
            t.check_listing(await t.listed(store, start), [stays], f"list_objects after a batch of {len(keys)} keys")
        t.same(await store.download(stays), kept, given="an object that was not in the batch")
        await store.delete_many([])
        if "validation" in t.declared:
            with t.case("one key as text"):
                await t.refused(
                    partial(store.delete_many, stays), InvalidArgumentError, given="delete_many(text)", hint="text is iterable"
                )
            t.same(await store.download(stays), kept, given="the object after delete_many(text)")

    # hierarchy

    @rule("OB-32", "hierarchy", deadline=60)
    async def test_ob_32_a_level_is_listed_once(self, t: ObjectStorageTrial) -> None:
        """`list_level(prefix)` yields the objects of one level, and one `Prefix` for each deeper one, each once, over pages.

        A prefix whose last object is deleted is gone. Catches a prefix that is repeated on every page, one that is lost where
        `t-/` sorts before `t/`, and the directory that stays behind empty.
        """
        store = await t.connect()
        size = within_reach(t.numbers().page_size)
        start = t.key("l")
        many = [f"{start}/m{number:05}/x" for number in range(size + 2)]
        keys = [
            *(f"{start}/{each}" for each in ("a", "t", "t-/1", "t-/2", "t/1", "t/2", "t/u/1", "t0", "b/", "b//c", "/d")),
            *many,
            *(f"{many[0]}{number}" for number in range(size)),
        ]
        await t.upload_all(store, keys)
        for prefix in ("", "/", "/t", "/t/", "/t-", "/b", "/b/", "/b//", "/m", "//", "/none/", "/t/u/1"):
            with t.case(describe(prefix)):
                await t.check_level(store, start + prefix, keys)
        await store.delete(f"{start}/t-/1")
        await store.delete(f"{start}/t/u/1")
        await store.delete(f"{start}/t-/2")
        left = [key for key in keys if not key.startswith(f"{start}/t-/") and key != f"{start}/t/u/1"]
        await t.settle()
        for prefix in ("/", "/t/"):
            with t.case(f"{prefix} after deletes"):
                await t.check_level(store, start + prefix, left)

    # versioning

    @rule("OB-33", "versioning", "stat")
    async def test_ob_33_old_versions_stay(self, t: ObjectStorageTrial) -> None:
        """Each upload has a version of its own, with which its content is read after it was overwritten, and after a delete.

        Another key's version, and one that never was, is `ObjectNotFoundError`. Catches a delete that takes the versions with it.
        """
        store = await t.connect()
        key, versions = t.key(), {}
        for _ in range(3):
            data = t.content()
            info = await store.upload(key, data)
            t.check(
                isinstance(info.version, str) and info.version not in versions,
                given="the version of an upload",
                expected="text that no earlier upload has",
                observed=info.version,
            )
            versions[info.version] = data
            t.same((await store.stat(key)).version, info.version, given="the version in stat, beside that of the upload")
            t.same(await store.download(key), data, given="download without a version")
        for when in ("overwritten", "deleted"):
            with t.case(when):
                for number, (version, data) in enumerate(versions.items()):
                    t.same(await store.download(key, version=version), data, given=f"version {number + 1} of 3, {when}")
            if when == "overwritten":
                await store.delete(key)
        await t.absent(lambda: store.download(key), "download without a version, after delete")
        await t.absent(lambda: store.download(key, version="no-such-version"), "download of a version that never was")
        other = t.key()
        await store.upload(other, t.content())
        await t.absent(lambda: store.download(other, version=next(iter(versions))), "download of another key's version")

    # Everything at once

    test_ob_34_a_random_walk_agrees_with_the_reference = walk_rule("OB-34", WALK)

    # ordered_list

    @rule("OB-35", "ordered_list", "list_prefix")
    async def test_ob_35_a_listing_is_in_order(self, t: ObjectStorageTrial) -> None:
        """`list_objects` yields keys in the order of their code points, over pages, whatever the order of writing.

        Catches an order by locale, by case, or by UTF-16, in which U+10000 comes before U+FFFF; and pages that are each sorted.
        """
        store = await t.connect()
        start = t.key("o")
        endings = ["\U00010000", "\uffff", "\ue000", "\u00e9", "e\u0301", *"Zaz-/0", "10", *"9_~ A"]
        endings += [f"m{number:05}" for number in range(within_reach(t.numbers().page_size), -1, -1)]
        keys = [start + each for each in endings]
        random.Random(t.seed).shuffle(keys)
        await t.upload_all(store, keys)
        listed = await t.listed(store, start)
        t.check_listing(listed, keys, "list_objects of keys of every kind")
        wrong = [(one, other) for one, other in zip(listed, sorted(listed), strict=True) if one != other]
        t.check(
            not wrong,
            given="list_objects of keys of every kind",
            expected=f"the order of code points: {describe(wrong[0][1] if wrong else '')} first",
            observed=Plain(describe(wrong[0][0] if wrong else "")),
        )

    # validation

    @rule("OB-36", "validation")
    async def test_ob_36_a_content_is_bytes(self, t: ObjectStorageTrial) -> None:
        """A content that is no `bytes` is refused with `InvalidArgumentError`, and what was there stays.

        Text, numbers, lists, None, and a `bytearray`, which its owner could still change. Catches the text that one store takes
        and the next one does not. A chunk of a stream is `bytes`, too.
        """
        store: Any = await t.connect()
        key, data = t.key(), t.content()
        await store.upload(key, data)
        wrong: dict[str, object] = {
            "text": "text",
            "None": None,
            "a number": 7,
            "a list of numbers": [1, 2],
            "a list of bytes": [b"a"],
            "a bytearray": bytearray(b"a"),
            "a memoryview": memoryview(b"a"),
        }
        if "streaming" in t.declared:
            wrong["a stream of text"] = chunks(b"a", "text")  # type: ignore[arg-type]
            wrong["a stream of numbers"] = chunks(7)  # type: ignore[arg-type]
        for label, content in wrong.items():
            with t.case(label):
                await t.refused(partial(store.upload, key, content), InvalidArgumentError, given=f"upload of {label}")
                t.same(await store.download(key), data, given=f"the object after upload of {label} was refused")

    # streaming

    @rule("OB-37", "streaming", deadline=60)
    async def test_ob_37_a_stream_has_chunks_of_any_size(self, t: ObjectStorageTrial) -> None:
        """Streams with chunks of any size, of one byte, of none, or one for all, give the same object.

        Catches the chunk of no bytes that ends an upload, and the part of no bytes that S3 refuses.
        """
        store = await t.connect()
        data = t.large()
        small = data[:3_000]
        for label, parts in {
            "no chunk": [],
            "an empty chunk": [b""],
            "chunks of one byte": [small[n : n + 1] for n in range(len(small))],
            "empty chunks between": [b"", small[:1], b"", b"", small[1:], b""],
            "one chunk": [data],
            "odd chunks": [data[n : n + 4_099] for n in range(0, len(data), 4_099)],
        }.items():
            with t.case(label):
                key = t.key()
                await store.upload(key, chunks(*parts))
                t.check_content(await store.download(key), b"".join(parts), f"download after upload of {label}")
                t.check_content(await streamed(store, key), b"".join(parts), f"download_stream after upload of {label}")

    @rule("OB-38", "streaming", deadline=60)
    async def test_ob_38_a_stream_left_early_frees_its_connection(self, t: ObjectStorageTrial) -> None:
        """A stream that is left early frees its connection.

        Catches a pool that runs dry: the client waits for ever for what nobody will give back.
        """
        store = await t.connect()
        key, data = t.key(), t.large()
        await store.upload(key, data)
        with anyio.move_on_after(30 * t.patience) as scope:
            for _ in range(MOST_LEFT):
                async with store.download_stream(key) as stream:
                    async for _chunk in stream:
                        break
            t.check_content(await store.download(key), data, f"download after {MOST_LEFT} streams that were left early")
        t.check(
            not scope.cancelled_caught,
            given=f"{MOST_LEFT} streams that were left early",
            expected="the client works on",
            observed=Plain("it waits for a connection"),
        )

    # copy

    @rule("OB-39", "copy", deadline=60)
    async def test_ob_39_a_cancelled_copy_is_whole_or_nothing(self, t: ObjectStorageTrial) -> None:
        """A cancelled `copy` leaves what its target was, or all of its source, and nothing else that is listed.

        It may still arrive later, whole. Catches a copy that is made part by part in its place.
        """
        store, reader = await t.clients(2)
        source, data = t.key(), t.large()
        await store.upload(source, data)
        used = {source}
        for before in (None, t.content()):
            with t.case(f"over {'an object' if before else 'nothing'}"):
                used.add(target := t.key())
                if before is not None:
                    await store.upload(target, before)
                    await t.settle()
                async for each in sweep(partial(partial, store.copy, source, target), within=t.cancel_seconds):
                    given = f"copy, cancelled at its wait number {each.step + 1}"
                    await t.check_whole(reader, target, {before, data}, given)
                    await t.check_no_other(reader, used, given)


SMALLEST_PART = 16 * 1024
"""Bytes of a part in which the memory of a stream is told from that of any call."""
LONGEST_LIFE = 100 * 365.25 * 86_400
"""Seconds of a URL's life beyond which no limit is looked for: a century."""
MOST_POLLS = 50
"""Reads of one reader during some overwrites."""
MOST_LEFT = 30
"""Streams that are left early: more than a pool has connections."""

CONTENTS: Mapping[str, bytes] = {
    "one byte": b"\x00",
    "every byte": bytes(range(256)),
    "every byte, backwards and often": bytes(range(255, -1, -1)) * 16,
    "the head of a gzip file": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    "a gzip file": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x04\x00\x43\xbe\xb7\xe8\x01\x00\x00\x00",
    "line ends": b"a\r\nb\nc\rd\n",
    "no UTF-8": b"\xff\xfe\xc3\x28",
    "a byte order mark": b"\xef\xbb\xbfa",
    "chunked encoding": b"5\r\nhello\r\n0\r\n\r\n",
    "base64": b"dmFsdWU=",
    "white space around": b" \t\n a \n",
    "the end of a DOS file": b"a\x1ab",
}
"""Contents that something between an application and its backend likes to interpret."""

KEYS: Mapping[str, str] = {
    "plain": "K1",
    "parent": "K1/../K1",
    "dot": "K1/./K1",
    "slash": "K1/K1",
    "double slash": "K1//K1",
    "leading slash": "/K1",
    "two leading slashes": "//K1",
    "leading dot slash": "./K1",
    "leading parent": "../K1",
    "trailing slash": "K1/",
    "two trailing slashes": "K1//",
    "trailing dot": "K1.",
    "trailing parent": "K1/..",
    "trailing space": "K1 ",
    "leading space": " K1",
    "leading dot": ".K1",
    "leading hyphen": "-K1",
    "tilde": "~K1",
    "backslash": "K1\\K1",
    "question mark": "K1?a=b",
    "hash": "K1#a",
    "percent 2F": "K1%2FK1",
    "percent 252F": "K1%252FK1",
    "plus": "K1+K1",
    "space": "K1 K1",
    "percent 20": "K1%20K1",
    "percent alone": "K1%",
    "percent x": "K1%zz",
    "ampersand": "K1&a",
    "upper case": "K1/X",
    "lower case": "K1/x",
    "side file meta": "K1.meta",
    "side file json": "K1.json",
    "temporary": "K1.tmp",
    "part": "K1.part",
    "part number": "K1#1",
    "lock": "K1.lock",
    "attributes": "K1.attrs",
    "keep": "K1/.keep",
    "folder mark": "K1_$folder$",
    "wide": "K1\u00e9",
    "combining": "K1e\u0301",
    "angle brackets": "<K1>",
    "an entity": "K1&amp;",
    "a reserved name": "K1/con",
}
"""Keys, with K for the namespace, that a path, a URL, a form, XML or a side file would change."""

METADATA: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "two": {"kind": "invoice", "year": "2024"},
    "upper case": {"Kind": "Invoice"},
    "a hyphen": {"kind-of": "a"},
    "an underscore": {"kind_of": "a"},
    "a dot": {"kind.of": "a"},
    "an empty value": {"kind": ""},
    "a value with spaces inside": {"kind": "a b  c"},
    "a value with spaces around": {"kind": " a "},
    "Latin-1": {"kind": "caf\u00e9"},
    "beyond Latin-1": {"kind": "\u4f60\U0001f511"},
    "a line end": {"kind": "a\r\nb: c"},
    "an escape": {"kind": "%41=?utf-8?q?a?="},
    "a comma": {"kind": 'a, "b"; c=d'},
    "a long value": {"kind": "a" * 1_500},
    "a name outside ASCII": {"k\u00e9": "a"},
    "a name with a space": {"a b": "a"},
    "an empty name": {"": "a"},
}
"""Metadata: each comes back exactly or is refused."""

PLAIN_METADATA = frozenset({"none", "two", "upper case", "a hyphen", "an empty value", "a value with spaces inside"})
"""Those that nobody may refuse."""


def _pieces(size: int, most: int) -> Iterator[bytes]:
    """*size* bytes in pieces of at most *most*, each of which names its place."""
    for start in range(0, size, most):
        yield (b"%015x " % start * (most // 16 + 1))[: min(most, size - start)]


def _held() -> int:
    """Bytes that Python has allocated now; the peak begins anew."""
    tracemalloc.reset_peak()
    return tracemalloc.get_traced_memory()[0]


def _transient() -> int:
    """Bytes that were allocated since then and are free again."""
    held, peak = tracemalloc.get_traced_memory()
    return peak - held


def _random_steps(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over the declared operations."""
    # Copies go to the last name, which no condition names: an etag may be that of the content, and come back with it.
    last = Name(WALK_NAMES - 1)
    written = 0

    def data() -> bytes:
        nonlocal written
        written += 1
        return b"%d." % written * chance.choice((1, 1, 7, 400))

    def bounds() -> dict[str, object]:
        start = chance.choice((0, 0, 1, 5, 3_000))
        return {"start": start, "end": chance.choice((None, start, start + 2, 2))}

    def condition(key: Name) -> Step:
        name = Name(key.number % last.number)
        return Step("upload", (name, data()), {"if_match": Version(name.number)})

    actions: list[Move] = [
        ("", lambda key: Step("upload", (key, data()))),
        ("", lambda key: Step("upload", (key, b"" if key == last else data()))),
        ("", lambda key: Step("delete", (key,))),
        ("metadata", lambda key: Step("upload", (key, data()), {"content_type": "text/html"})),
        ("metadata", lambda key: Step("upload", (key, data()), {"metadata": {"Kind": chance.choice("ab")}})),
        ("conditional_write", lambda key: Step("upload", (key, data()), {"if_absent": True})),
        ("conditional_write", condition),
        ("copy", lambda key: Step("copy", (key, last))),
        ("batch_delete", lambda key: Step("delete_many", ([key, other(key)],))),
        ("checksum", lambda key: Step("upload", (key, data()), {"sha256": bytes(32)})),
    ]
    looks: list[Move] = [
        ("", lambda key: Step("download", (key,))),
        ("stat", lambda key: Step("stat", (key,))),
        ("list_prefix", lambda key: Step("list_objects", (key,))),
        ("hierarchy", lambda key: Step("list_level", (key,))),
        ("range_read", lambda key: Step("download", (key,), bounds())),
    ]
    return random_steps(chance, declared, 100, actions, looks)


def _etag_of(step: Step, value: object) -> str | None:
    """The etag of its first name that a call gave out."""
    return value.etag if isinstance(value, ObjectInfo) and step.method in ("upload", "stat") else None


def _comparable(value: object, declared: frozenset[str]) -> object:
    """A result without what differs between two good stores: etags, versions and times."""
    if isinstance(value, list):
        return [
            ["prefix" if isinstance(each, Prefix) else "object", each.key, str(getattr(each, "size", None))] for each in value
        ]
    if not isinstance(value, ObjectInfo):
        return value
    if "stat" not in declared:
        return None  # What an upload then returns is not the standard's.

    described = [value.content_type, str(dict(value.metadata))] if "metadata" in declared else []
    return [value.key, str(value.size), *map(str, described)]


def _bare_request(method: str, url: str, body: bytes) -> tuple[int, bytes]:
    """One HTTP request with nothing that its URL does not say: urllib would add a content type."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=10)
    try:
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request(method, target, body=body if method == "PUT" else None)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
