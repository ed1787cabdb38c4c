"""Correct but unusual object stores."""

import asyncio
import base64
import hashlib
import inspect
import itertools
import json
import random
import re
import secrets
import struct
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.buffered import BufferedByteReceiveStream

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract, ObjectStorageProtocol
from omnitck.reference.client import Cell
from omnitck.reference.object_storage import CAPABILITIES, MemoryObjectBackend, MemoryObjectStorage, Stored
from omnitck.shared.clock import Clock, ManualClock
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ObjectNotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix
from omnitck.unusual import unusual

P = ParamSpec("P")
T = TypeVar("T")
Entry = TypeVar("Entry", ObjectInfo, ObjectInfo | Prefix)


class Dictionary:
    """The three methods, over a dictionary that each client has to itself."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def upload(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    async def download(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFoundError

        return self.objects[key]

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)


@unusual
class Plainest(ObjectStorageContract):
    """Three methods over a dictionary: no capability, no limits, no method that closes, and never a turn of the event loop.

    Nothing is said of an upload, and an error has no text. A rule that needs more than the core demands would reject it.
    """

    async def make_provider(self, **config: object) -> ObjectStorageProtocol:
        return Dictionary()


# A store whose replicas lag to the very end of what it declares, behind a slow network.


class ServiceError(Exception):
    """What the service's own library raises."""


class NoSuchKey(ObjectNotFoundError, LookupError):
    """The standard's error, and one of Python's."""


class PreconditionFailed(ConflictError):
    """The object is another one by now, with what the service said of it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ObjectExists(AlreadyExistsError):
    """There is such an object."""


class BadRequest(InvalidArgumentError):
    """The service takes no such argument."""


@dataclass(frozen=True, slots=True)
class Written:
    """One state of a key, which stays in the log; a delete is one without an object."""

    writer: object
    at: float
    info: ObjectInfo | None = None
    parts: tuple[bytes, ...] = ()


class Replicas:
    """Everything that was written, in its order. Who wrote sees it at once, everybody else when `staleness` has passed."""

    def __init__(self, clock: Clock, staleness: float) -> None:
        self.clock = clock
        self.staleness = staleness
        self.log: dict[str, list[Written]] = {}
        self.chance = random.Random(0)
        self.numbers: dict[str, int] = {}

    async def travel(self) -> None:
        """The way there and back takes up to 20 ms."""
        await anyio.sleep(self.chance.uniform(0, 0.02))

    def write(self, writer: object, key: str, parts: tuple[bytes, ...], info: ObjectInfo | None) -> ObjectInfo | None:
        """Add a state of *key*. The numbers of its states begin with 0, and have gaps, as those of a sequence have."""
        self.numbers[key] = self.numbers.get(key, 0)
        if info is not None:
            info = replace(info, etag=str(self.numbers[key]))
        self.numbers[key] += self.chance.randrange(1, 1_000)
        self.log.setdefault(key, []).append(Written(writer, self.clock.now(), info, parts))
        return info

    def newest(self, key: str) -> Written | None:
        """The state of *key* where it is written, None if that is a delete."""
        return self._alive(self.log.get(key, ()))

    def seen(self, reader: object, key: str) -> Written | None:
        """The state of *key* for *reader*."""
        arrived = self.clock.now() - self.staleness
        return self._alive([each for each in self.log.get(key, ()) if each.writer is reader or each.at <= arrived])

    def _alive(self, states: Iterable[Written]) -> Written | None:
        *_, last = (None, *states)
        return last if last is not None and last.info is not None else None

    def forget(self) -> None:
        """Drop every state that nobody sees any more."""
        arrived = self.clock.now() - self.staleness
        for states in self.log.values():
            while len(states) > 1 and states[1].at <= arrived:
                del states[0]


@dataclass
class LaggingObjects:
    """A client of replicas. It lists in the order of a hash, and takes options that nobody asked for.

    As a dataclass it equals every other client of these replicas, and has no hash.
    """

    _replicas: Replicas

    limits: ClassVar[ObjectLimits] = ObjectLimits(
        staleness=60.0, value_bytes=600_000, part_bytes=100_000, page_size=3, batch_size=2, key_bytes=1_024, max_presign=60.0
    )
    methods: ClassVar[list[str]] = (
        "stat list_prefix streaming range_read metadata conditional_write checksum hierarchy copy batch_delete shared".split()
    )

    # Core

    async def upload(
        self,
        key: str,
        data: bytes | AsyncIterable[bytes],
        *,
        storage_class: str = "standard",
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: bytes | None = None,
        **options: object,
    ) -> ObjectInfo | None:
        if options:
            raise UnsupportedError(f"key {key!r}: there is no option {', '.join(options)}")
        if if_absent and if_match is not None:
            raise BadRequest(f"key {key!r}: one condition, not two") from ServiceError(400)

        names = _plain_metadata(key, metadata or {})
        digest, parts = hashlib.sha256(), []
        async for part in _parts(data, self.limits.part_bytes):
            digest.update(part)
            parts.append(part)
            await self._replicas.travel()
        if sha256 is not None and digest.digest() != sha256:
            raise BadRequest(f"key {key!r}: the content arrived with another digest") from ServiceError(400)

        await self._replicas.travel()
        newest = self._replicas.newest(key)
        if if_absent and newest is not None:
            raise ObjectExists(f"there is an object {key!r}") from ServiceError(412)
        if if_match is not None and (newest is None or newest.info is None or newest.info.etag != if_match):
            raise PreconditionFailed(f"the object {key!r} is another one", 412) from ServiceError(412)

        return self._write(key, tuple(parts), content_type, names)

    async def download(self, key: str, *, start: int = 0, end: int | None = None, consistent: bool = False) -> bytes:
        return b"".join([chunk async for chunk in self._read(key, start, end, consistent)])

    async def delete(self, key: str, **options: object) -> None:
        if options:
            raise UnsupportedError(f"key {key!r}: there is no option {', '.join(options)}")

        await self._replicas.travel()
        self._replicas.write(self, key, (), None)

    # stat, copy, batch_delete

    async def stat(self, key: str) -> ObjectInfo:
        await self._replicas.travel()
        return self._found(key)[0]

    async def copy(self, source: str, target: str) -> ObjectInfo | None:
        await self._replicas.travel()
        held = self._replicas.newest(source)
        if held is None or held.info is None:
            raise NoSuchKey(f"there is no object {source!r}") from ServiceError(404)

        return self._write(target, held.parts, held.info.content_type, held.info.metadata)

    async def delete_many(self, keys: Iterable[str]) -> None:
        left = iter(keys)
        async with anyio.create_task_group() as tasks:
            while batch := list(itertools.islice(left, self.limits.batch_size)):
                tasks.start_soon(self._delete_batch, batch)

    async def _delete_batch(self, keys: list[str]) -> None:
        await self._replicas.travel()
        for key in keys:
            self._replicas.write(self, key, (), None)

    # streaming

    @asynccontextmanager
    async def download_stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        chunks = self._read(key, start, end, False)
        async with aclosing(chunks):
            await anext(chunks)
            yield chunks

    async def _read(self, key: str, start: int, end: int | None, consistent: bool) -> AsyncGenerator[bytes, None]:
        """The content as it is now, in chunks of any size; the first one, and every third beyond it, is empty."""
        if start < 0 or (end is not None and end < start):
            raise BadRequest(f"key {key!r}: there is no range from {start} to {end}") from ServiceError(416)

        await self._replicas.travel()
        info, parts = self._found(key, newest=consistent)
        if start > info.size:
            raise BadRequest(f"key {key!r}: {start} is beyond its end") from ServiceError(416)

        yield b""
        offset = 0
        for number, part in enumerate(parts):
            if number % 3 == 2:
                yield b""
            yield part[max(0, start - offset) : max(0, (info.size if end is None else end) - offset)]
            offset += len(part)

    # list_prefix and hierarchy: in the order of a hash. Type and metadata are left out, as they may be.

    async def list_objects(self, prefix: str = "", *, page_size: int | None = None) -> AsyncIterator[ObjectInfo]:
        after = ""
        while page := await self._page(after, page_size or self.limits.page_size, lambda: self._listed(prefix)):
            for info in page:
                yield info
            after = _place(page[-1].key)

    async def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        after = ""
        while page := await self._page(after, self.limits.page_size, lambda: self._level(prefix)):
            for entry in page:
                yield entry
            after = _place(page[-1].key)

    async def _page(self, after: str, size: int, entries: Callable[[], Iterable[Entry]]) -> list[Entry]:
        await self._replicas.travel()
        return sorted((each for each in entries() if _place(each.key) > after), key=lambda each: _place(each.key))[:size]

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in self._replicas.log:
            seen = self._replicas.seen(self, key) if key.startswith(prefix) else None
            if seen is not None and seen.info is not None:
                yield replace(seen.info, content_type=None, metadata={})

    def _level(self, prefix: str) -> Iterable[ObjectInfo | Prefix]:
        level: dict[str, ObjectInfo | Prefix] = {}
        for info in self._listed(prefix):
            head, slash, _ = info.key.removeprefix(prefix).partition("/")
            level[prefix + head + slash] = Prefix(prefix + head + slash) if slash else info
        return level.values()

    # Between what is asked and what is held.

    def _found(self, key: str, *, newest: bool = False) -> tuple[ObjectInfo, tuple[bytes, ...]]:
        held = self._replicas.newest(key) if newest else self._replicas.seen(self, key)
        if held is None or held.info is None:
            raise NoSuchKey(f"there is no object {key!r}") from ServiceError(404)

        return replace(held.info, metadata=dict(held.info.metadata)), held.parts

    def _write(self, key: str, parts: tuple[bytes, ...], type: str | None, metadata: Mapping[str, str]) -> ObjectInfo | None:
        # Whole seconds, as HTTP has them.
        modified = datetime.now(UTC).replace(microsecond=0)
        info = ObjectInfo(key, sum(map(len, parts)), "?", modified, type, dict(metadata))
        written = self._replicas.write(self, key, parts, info)
        return None if written is None else replace(written, metadata=dict(metadata))


def _plain_metadata(key: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """*metadata* with its names in lower case; refuses all that a header might not keep."""
    names = {name.lower(): value for name, value in metadata.items()}
    plain = all(re.fullmatch("[a-z0-9-]+", name) and value.isascii() and value.isprintable() for name, value in names.items())
    if len(names) < len(metadata) or not plain or any(value != value.strip() or len(value) > 1_024 for value in names.values()):
        raise BadRequest(f"key {key!r}: the service does not keep this metadata") from ServiceError(400)

    return names


async def _parts(data: bytes | AsyncIterable[bytes], least: int) -> AsyncIterator[bytes]:
    """A content in parts of at least so many bytes, but for the last."""
    if isinstance(data, bytes):
        yield data
        return
    part = bytearray()
    async for chunk in data:
        part += chunk
        if len(part) >= least:
            yield bytes(part)
            part.clear()
    yield bytes(part)


@unusual
class SlowReplicas(ObjectStorageContract):
    """Connecting takes 50 ms, a call up to 20 ms, and others see a write after exactly the declared `staleness` of a minute.

    A rule that reads with another client at once, or that knows which order a listing has, would reject it. Contents stream in
    chunks of any size, empty ones too; metadata is as picky as it may be; each error is a vendor's subclass with a cause.
    """

    capabilities = frozenset(LaggingObjects.methods)

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.replicas = Replicas(self.clock, LaggingObjects.limits.staleness)

    async def make_provider(self, **config: object) -> LaggingObjects:
        await anyio.sleep(0.05)
        return LaggingObjects(self.replicas)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.replicas.forget()


# A store whose client collects writes, and reads ahead, in a task group of its own.


class Feature(StrEnum):
    """What this store can do, in a type of its own that is text all the same."""

    STAT = "stat"
    LISTING = "list_prefix"
    STREAMING = "streaming"
    METADATA = "metadata"
    CONDITIONS = "conditional_write"
    VERSIONS = "versioning"
    BATCHES = "batch_delete"
    LIFECYCLE = "lifecycle"
    VALIDATION = "validation"
    SHARED = "shared"
    AVAILABILITY = "availability"
    LIMITS = "limits"


class Description(ObjectInfo):
    """What is known of an object, with what this store knows beside."""

    __slots__ = ()

    @property
    def url(self) -> str:
        """Where the object is."""
        return f"bucket:{self.key}"


@dataclass(frozen=True, slots=True)
class Held:
    """An object as the bucket holds it."""

    info: Description
    parts: tuple[bytes, ...]


class Bucket:
    """What the clients share."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable
        self.objects: dict[str, Held] = {}
        self.versions: dict[tuple[str, str], Held] = {}


class Pending(Generic[T]):
    """A change that waits for its batch."""

    def __init__(self, change: Callable[[], T]) -> None:
        self._change = change
        self._done = anyio.Event()
        self._result: list[T] = []
        self._error: Exception | None = None

    def carry_out(self) -> None:
        """Make the change, and let who waits for it know."""
        try:
            self._result.append(self._change())
        except Exception as error:
            self._error = error
        self._done.set()

    def refuse(self, error: Exception) -> None:
        """The change will not be made."""
        self._error = error
        self._done.set()

    async def result(self) -> T:
        """What became of it, once it has been made."""
        await self._done.wait()
        if self._error is not None:
            raise self._error

        return self._result[0]


class Disconnected(ClosedError):
    """The client has ended."""


class Overlong(TooLargeError):
    """A key or a content is longer than the bucket takes."""


class NoRoute(UnavailableError):
    """The bucket does not answer."""


class BatchingObjects:
    """A client that carries out writes some milliseconds later, all at once, and acknowledges them then."""

    limits = ObjectLimits(key_bytes=300, value_bytes=300_001, part_bytes=50_000, page_size=7, batch_size=3)

    def __init__(self, bucket: Bucket, tasks: anyio.abc.TaskGroup) -> None:
        self._bucket = bucket
        self._tasks = tasks
        self._batch: list[Pending[Any]] = []
        self._due = anyio.Event()
        self._closed = False

    @property
    def capabilities(self) -> frozenset[Feature]:
        """Everything that this store can do."""
        return frozenset(Feature)

    async def write_batches(self) -> None:
        """Carry out what has come within 3 ms."""
        while True:
            await self._due.wait()
            await anyio.sleep(0.003)
            batch, self._batch, self._due = self._batch, [], anyio.Event()
            for pending in batch:
                pending.carry_out()

    async def close(self) -> None:
        self._closed = True
        for pending in self._batch:
            pending.refuse(Disconnected("this client is closed"))
        self._batch = []
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

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
    ) -> ObjectInfo:
        self._check_key(key)
        names = _plain_metadata(key, metadata or {})
        if if_absent and if_match is not None:
            raise BadRequest(f"key {key!r}: one condition, not two")
        if not isinstance(data, bytes | AsyncIterable):
            raise BadRequest(f"key {key!r}: a content is bytes, not {type(data).__name__}")

        size, digest, parts = 0, hashlib.md5(usedforsecurity=False), []
        async for part in _chunks(data):
            if not isinstance(part, bytes):
                raise BadRequest(f"key {key!r}: a chunk is bytes, not {type(part).__name__}")
            if (size := size + len(part)) > self.limits.value_bytes:
                raise Overlong(f"key {key!r}: it is longer than {self.limits.value_bytes} bytes")

            digest.update(part)
            parts.append(part)

        def put() -> Description:
            held = self._bucket.objects.get(key)
            if if_absent and held is not None:
                raise ObjectExists(f"there is an object {key!r}")
            if if_match is not None and (held is None or held.info.etag != if_match):
                raise PreconditionFailed(f"the object {key!r} is another one", 412)

            # The etag is that of the content, so that equal contents share one; versions are of every length, and in no order.
            version = secrets.token_urlsafe(secrets.choice(range(9, 60)))
            etag, frozen = f'"{digest.hexdigest()}"', MappingProxyType(names)
            info = Description(key, size, etag, datetime.now(UTC), content_type, frozen, version)
            self._bucket.objects[key] = self._bucket.versions[key, version] = Held(info, tuple(parts))
            return info

        return await self._commit(put)

    async def download(self, key: str, *, version: str | None = None) -> bytes:
        return b"".join((await self._held(key, version)).parts)

    async def delete(self, key: str) -> None:
        self._check_key(key)
        await self._commit(lambda: self._remove([key]))

    # stat, versioning, batch_delete, streaming

    async def stat(self, key: str) -> ObjectInfo:
        return (await self._held(key)).info

    async def delete_many(self, keys: Iterable[str]) -> None:
        if isinstance(keys, str):
            raise BadRequest(f"{keys!r} is one key, not several")

        wanted = list(keys)
        for key in wanted:
            self._check_key(key)
        for start in range(0, len(wanted), self.limits.batch_size) or [0]:
            await self._commit(partial(self._remove, wanted[start : start + self.limits.batch_size]))

    @asynccontextmanager
    async def download_stream(self, key: str) -> AsyncIterator[AsyncIterator[bytes]]:
        held = await self._held(key)

        async def chunks() -> AsyncGenerator[bytes, None]:
            for part in held.parts:
                await self._turn()
                yield part

        async with aclosing(chunks()) as stream:
            yield stream

    # list_prefix: the next page is fetched while the one before it is handed out

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        if prefix:
            self._check_key(prefix)
        page = await self._page(prefix, "")
        while page:
            ahead = self._ahead(partial(self._page, prefix, _place(page[-1].key)))
            for info in page:
                yield info
            page = await ahead()

    async def _page(self, prefix: str, after: str) -> list[Description]:
        await self._turn()
        found = [held.info for key, held in self._bucket.objects.items() if key.startswith(prefix) and _place(key) > after]
        return sorted(found, key=lambda info: _place(info.key))[: self.limits.page_size]

    def _ahead(self, call: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """Begin *call* in the client's task group; what is returned waits for its result."""
        result: list[T] = []
        error: list[Exception] = []
        done = anyio.Event()

        async def run() -> None:
            try:
                result.append(await call())
            except Exception as raised:
                error.append(raised)
            finally:
                done.set()

        async def wait() -> T:
            await done.wait()
            for each in error:
                raise each
            for found in result:
                return found
            raise Disconnected("this client is closed")

        self._tasks.start_soon(run)
        return wait

    # What every operation does first.

    def _check_key(self, key: object) -> None:
        if not isinstance(key, str) or not key or "\x00" in key or re.search("[\ud800-\udfff]", key):
            raise BadRequest(f"{key!r} is no key")
        if len(key.encode()) > self.limits.key_bytes:
            raise Overlong(f"key {key!r} is longer than {self.limits.key_bytes} bytes")

    def _check_usable(self) -> None:
        if self._closed:
            raise Disconnected("this client is closed")
        if not self._bucket.reachable:
            raise NoRoute("the bucket does not answer") from ConnectionRefusedError("connection refused")

    async def _turn(self) -> None:
        self._check_usable()
        await anyio.lowlevel.checkpoint()
        self._check_usable()

    async def _commit(self, change: Callable[[], T]) -> T:
        self._check_usable()
        pending = Pending(change)
        self._batch.append(pending)
        self._due.set()
        return await pending.result()

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._bucket.objects.pop(key, None)

    async def _held(self, key: str, version: str | None = None) -> Held:
        self._check_key(key)
        await self._turn()
        held = self._bucket.objects.get(key) if version is None else self._bucket.versions.get((key, version))
        if held is None:
            raise NoSuchKey(f"there is no object {key!r}")

        return held


async def _chunks(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """A content in the pieces in which it comes."""
    if isinstance(data, bytes):
        yield data
        return
    async for chunk in data:
        yield chunk


def _place(key: str) -> str:
    """Where *key* stands in a listing."""
    return hashlib.sha256(key.encode()).hexdigest()


@asynccontextmanager
async def connected(bucket: Bucket) -> AsyncIterator[BatchingObjects]:
    """A client, with what works for it."""
    async with anyio.create_task_group() as tasks:
        client = BatchingObjects(bucket, tasks)
        tasks.start_soon(client.write_batches)
        try:
            yield client
        finally:
            await client.close()
            tasks.cancel_scope.cancel()


@unusual
class GroupCommit(ObjectStorageContract):
    """Each client has workers in a task group of its own: writes are carried out in batches, pages of a listing are read ahead.

    A rule that takes an acknowledgement for instant, or counts the tasks before the client has gone, would reject it. What is
    known of an object is a subclass of `ObjectInfo` with a read-only view for its metadata; its etag is that of the content, so
    that equal contents have one etag and two versions.
    """

    capabilities = frozenset(Feature)
    profile = "production"

    def setUp(self) -> None:
        self.bucket = Bucket()

    async def make_provider(self, **config: object) -> AbstractAsyncContextManager[BatchingObjects]:
        return connected(self.bucket)

    async def unreachable_provider(self) -> AbstractAsyncContextManager[BatchingObjects]:
        return connected(Bucket(reachable=False))


# A store whose client is a thin layer over another one, as those are that count or trace calls.


def counted(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """*method*, with its own signature, counted."""

    @wraps(method)
    async def call(*arguments: P.args, **keywords: P.kwargs) -> T:
        counts[method.__name__] = counts.get(method.__name__, 0) + 1
        return await method(*arguments, **keywords)

    assert inspect.iscoroutinefunction(call)
    return call


counts: dict[str, int] = {}


class Entries(Generic[T]):
    """An iterator that is a class of its own, with the two methods that the protocol of iterators has, and no other."""

    __slots__ = ("_entries",)

    def __init__(self, entries: AsyncIterator[T]) -> None:
        self._entries = entries

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._entries)


class Opened:
    """A context manager that is a class of its own."""

    __slots__ = ("_stream",)

    def __init__(self, stream: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> None:
        self._stream = stream

    async def __aenter__(self) -> Entries[bytes]:
        return Entries(await self._stream.__aenter__())

    async def __aexit__(self, *exc_info: Any) -> bool | None:
        return await self._stream.__aexit__(*exc_info)


class LayeredObjects:
    """A client without a `__dict__`. What it does not do itself is the inner client's, found when it is asked for.

    It counts as empty, so that it is false: a store has a length.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: MemoryObjectStorage) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @counted
    async def close(self, *, timeout: float | None = None) -> None:
        await self._inner.close()

    @counted
    async def upload(self, key: str, data: bytes | AsyncIterable[bytes], **options: Any) -> ObjectInfo | None:
        return await self._inner.upload(key, data, **options)

    @counted
    async def download(self, key: str, *, retries: int = 3, **options: Any) -> bytes:
        return await self._inner.download(key, **options)

    def list_objects(self, prefix: str = "") -> Entries[ObjectInfo]:
        return Entries(self._inner.list_objects(prefix))

    def list_level(self, prefix: str = "", *, delimiter: str = "/") -> Entries[ObjectInfo | Prefix]:
        return Entries(self._inner.list_level(prefix))

    def download_stream(self, key: str, **options: Any) -> Opened:
        return Opened(self._inner.download_stream(key, **options))


class NumberedRequests(MemoryObjectStorage):
    """Each error says which request it is the answer to, so that no two have the same words."""

    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def find(self, key: str, version: str | None = None) -> Stored:
        try:
            return super().find(key, version)
        except ObjectNotFoundError as error:
            raise NoSuchKey(f"{error} (request {next(self.numbers):x})") from ServiceError(404)


class LastMinute(MemoryObjectBackend):
    """Its URLs work for `ttl_resolution` longer than they say."""

    def allows(self, cell: Cell, method: str, query: Mapping[str, str]) -> bool:
        deadline = query.get("deadline", "0")
        signed = query.get("signature") == self.signature(cell, method, deadline)
        return signed and self.clock.now() < float(deadline) + self.limits.ttl_resolution

    def url(self, cell: Cell, method: str, expires: float) -> str:
        return super().url(cell, method, max(expires, self.limits.min_ttl))


@unusual
class LayerAtTheFloors(ObjectStorageContract, MultiTenancyPolicy):
    """A layer over another client, whose every number is at its floor, or as far from it as the standard allows.

    A page has one name, a batch one key and a part 64 bytes; a URL lives for a minute at least, at most, and for one more at
    the end. The layer has slots, is false as it has a length of 0, finds methods when it is asked for them, and passes on
    options without knowing them. Its iterators have no method that closes them, and no two of its errors have the same words.
    """

    capabilities = CAPABILITIES
    limits = ObjectLimits(part_bytes=64, page_size=1, batch_size=1, max_presign=60.0, min_ttl=60.0, ttl_resolution=60.0)
    credentials = ("correct-horse",)

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = LastMinute(clock=self.clock, limits=self.limits, password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> LayeredObjects:
        self.memory.containers.add(namespace)
        inner = NumberedRequests(self.memory, container=namespace, tenant_id=tenant_id, password="correct-horse")
        return LayeredObjects(inner)

    async def unreachable_provider(self) -> LayeredObjects:
        return LayeredObjects(MemoryObjectStorage(MemoryObjectBackend(reachable=False)))

    async def missing_container_provider(self) -> LayeredObjects:
        raise NoSuchBucket("there is no bucket 'missing'") from ServiceError(404)

    async def http_request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.memory.request(method, url, body)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class NoSuchBucket(NotFoundError):
    """The container is missing."""


# A store without limits.


@unusual
class Boundless(ObjectStorageContract):
    """Everything but the memory of the machine is within its limits: names, contents, pages and batches of any size.

    A rule that tries all that is declared, twice and once more, would not end.
    """

    capabilities = CAPABILITIES - {"availability"}
    limits = ObjectLimits(
        key_bytes=2**40, value_bytes=2**50, page_size=2**40, batch_size=2**40, max_presign=float(2**60), part_bytes=1_048_576
    )

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryObjectBackend(clock=self.clock, limits=self.limits)

    async def make_provider(self, **config: Any) -> MemoryObjectStorage:
        return MemoryObjectStorage(self.memory, capabilities=self.capabilities)

    async def http_request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.memory.request(method, url, body)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


# A store across a network, whose client has one connection for all.

LENGTH = struct.Struct("!I")
"""What stands before every request and every answer: how many bytes they have."""

PATIENCE = 3.0
"""Seconds that an operation waits for an answer, or for a connection that was lost."""


class Service:
    """An object store behind a TCP port, in a thread of its own. What came later may be answered earlier."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[dict[str, Any], str]] = {}
        self._numbers = itertools.count(1)
        self._chance = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End the thread, and all that is connected."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.current_task())
        try:
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                request = json.loads(await reader.readexactly(length))
                self._keep(asyncio.create_task(self._answer(writer, request)))
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # The client has gone, or the service is stopping: asyncio would report a cancellation as an error of this task.
        finally:
            writer.close()

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.004))
        answer = json.dumps({"number": request["number"], **self._do(**request)}).encode()
        if not writer.is_closing():
            writer.write(LENGTH.pack(len(answer)) + answer)

    def _do(self, verb: str, key: str, data: str = "", after: str = "", **_: object) -> dict[str, Any]:
        if verb == "list":
            keys = sorted(each for each in self._objects if each.startswith(key) and each > after)
            return {"listed": [self._objects[each][0] for each in keys[: MultiplexedObjects.limits.page_size]]}
        if verb == "put":
            size = len(base64.b64decode(data))
            etag, modified = f'"{next(self._numbers)}"', datetime.now(UTC).isoformat()
            self._objects[key] = {"key": key, "size": size, "etag": etag, "modified": modified}, data
        if verb == "delete":
            self._objects.pop(key, None)
        if key not in self._objects:
            return {}
        info, held = self._objects[key]
        return {"info": info, **({"data": held} if verb == "get" else {})}


class Answer:
    """What is waited for."""

    def __init__(self) -> None:
        self.came = anyio.Event()
        self.content: dict[str, Any] = {}
        self.lost: Exception | None = None


class MultiplexedObjects:
    """A client with one connection, on which everything travels at once. When it is lost, the client connects again by itself."""

    limits = ObjectLimits(page_size=5)

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Answer] = {}
        self._outgoing, self._requests = anyio.create_memory_object_stream[bytes](float("inf"))
        self._online = anyio.Event()
        self._error: Exception | None = None
        self._closed = False

    # The connection.

    async def stay_connected(self) -> None:
        """Connect, and again whenever the connection is lost. What waits for an answer then never gets one."""
        with self._outgoing, self._requests:
            while True:
                try:
                    async with await anyio.connect_tcp(*self._address) as stream:
                        async with anyio.create_task_group() as tasks:
                            self._online.set()
                            tasks.start_soon(self._send, stream)
                            await self._receive(stream)
                except* (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead) as lost:
                    self._lose(lost.exceptions[0])
                await anyio.sleep(0.01)

    async def _send(self, stream: anyio.abc.ByteStream) -> None:
        # By one task, which nobody who asks can interrupt: half a request would spoil all that follow it.
        async for request in self._requests:
            await stream.send(LENGTH.pack(len(request)) + request)

    async def _receive(self, stream: anyio.abc.ByteStream) -> None:
        buffered = BufferedByteReceiveStream(stream)
        while True:
            (length,) = LENGTH.unpack(await buffered.receive_exactly(LENGTH.size))
            content = json.loads(await buffered.receive_exactly(length))
            answer = self._waiting.get(content["number"])
            if answer is not None:  # else who asked has gone
                answer.content = content
                answer.came.set()

    def _lose(self, error: Exception) -> None:
        self._error = error
        if self._online.is_set():  # else somebody waits for this very event
            self._online = anyio.Event()
        with suppress(anyio.WouldBlock):
            while True:
                self._requests.receive_nowait()
        for answer in self._waiting.values():
            answer.lost = error
            answer.came.set()

    async def _ask(self, verb: str, key: str, **more: str) -> dict[str, Any]:
        self._check_open()
        number, answer = next(self._numbers), Answer()
        try:
            with anyio.move_on_after(PATIENCE):
                await self._online.wait()
                self._check_open()
                self._waiting[number] = answer
                self._outgoing.send_nowait(json.dumps({"number": number, "verb": verb, "key": key, **more}).encode())
                await answer.came.wait()
        finally:
            self._waiting.pop(number, None)
        self._check_open()
        if not answer.content:
            raise NoRoute(f"key {key!r}: no answer") from (answer.lost or self._error or TimeoutError(f"{PATIENCE:g} s"))

        return answer.content

    def _check_open(self) -> None:
        if self._closed:
            raise Disconnected("this client is closed")

    async def close(self) -> None:
        self._closed = True
        for answer in self._waiting.values():
            answer.came.set()
        self._online.set()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # The operations.

    async def upload(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        return await self._put(key, base64.b64encode(data).decode(), **options)

    async def _put(self, key: str, text: str, *, priority: int = 0) -> ObjectInfo:
        return self._info((await self._ask("put", key, data=text))["info"])

    async def download(self, key: str) -> bytes:
        answer = await self._ask("get", key)
        if "data" not in answer:
            raise NoSuchKey(f"there is no object {key!r}")

        return base64.b64decode(answer["data"])

    async def delete(self, key: str) -> None:
        await self._ask("delete", key)

    async def stat(self, key: str) -> ObjectInfo:
        answer = await self._ask("stat", key)
        if "info" not in answer:
            raise NoSuchKey(f"there is no object {key!r}")

        return self._info(answer["info"])

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        after = ""
        while page := (await self._ask("list", prefix, after=after))["listed"]:
            for each in page:
                yield self._info(each)
            after = page[-1]["key"]

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(info["key"], info["size"], info["etag"], datetime.fromisoformat(info["modified"]))


@asynccontextmanager
async def multiplexed(address: tuple[str, int]) -> AsyncIterator[MultiplexedObjects]:
    """A client of the service at *address*, with what keeps it connected. It does not wait until it is."""
    async with anyio.create_task_group() as tasks:
        client = MultiplexedObjects(address)
        tasks.start_soon(client.stay_connected)
        try:
            yield client
        finally:
            await client.close()
            tasks.cancel_scope.cancel()


@unusual
class Reconnecting(ObjectStorageContract):
    """All requests of a client share one connection, answers come in any order, and a lost connection is made again by itself.

    What is asked while there is none waits for the next one, for three seconds. A rule that expects an error at once, answers
    in the order of requests, or a connection when the client was made, would reject it.
    """

    capabilities = frozenset({"stat", "list_prefix", "lifecycle", "shared", "availability"})
    service: ClassVar[Service]

    @classmethod
    def setUpClass(cls) -> None:
        cls.service = Service()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.service.stop()

    async def make_provider(
        self, *, address: tuple[str, int] | None = None, **config: object
    ) -> AbstractAsyncContextManager[MultiplexedObjects]:
        return multiplexed(address or self.service.address)

    async def backend_address(self) -> tuple[str, int]:
        return self.service.address
