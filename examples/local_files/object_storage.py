"""`object_storage` on the local file system.

A key is not a path. Its bytes are written in a small alphabet that no file system folds, normalises or interprets (``=2f`` for
a slash), cut into names of 128 characters; all but the last are directories and end in ``+``, so that no file is ever where a
directory should be. This is injective and keeps prefixes.

An object is one file: a header with its type, metadata and etag, then the content. So nothing can be torn apart. It is written
beside the objects, under a name of its own, and then renamed over what was there: a reader that has the old file open reads
the old object to its end. Renaming, and the check of a condition before it, happen under an exclusive `flock` of the space, in
which other threads and processes take part; a listing takes it shared while it collects the names, because a directory that
changes may show a renamed file twice or not at all.

- *ordered_list* collects the names, and only those, before it yields the first.
- A process that is killed while it writes leaves a file in ``new``, which nothing reads. Remove what is old there.
- *presigned_url* and *versioning* are not declared: there is no server, and only the last state is kept. Nor is `availability`:
  there is nothing to lose the connection to.
"""

import asyncio
import atexit
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, NamedTuple, Self, TypeVar

from examples.common import arguments, objects
from examples.common.client import Client
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    ObjectNotFoundError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix

__all__ = ["LocalObjectStorage", "file_name", "key_of", "make_store"]

T = TypeVar("T")

MAGIC = b"omnitck1"
LENGTH = struct.Struct(">I")
NAME = 128
"""Characters in a file's or directory's name. All file systems allow 255 bytes."""
CHUNK = 256 * 1024
SUFFIX = "+"
PATIENCE = 60.0
"""Seconds for one step on a busy disk."""


class Header(NamedTuple):
    """What a file says before its content."""

    content_type: str | None
    metadata: Mapping[str, str]
    etag: str
    length: int
    """Of the header itself, in bytes."""
    size: int
    """Of the content."""
    modified: datetime


def file_name(key: bytes) -> str:
    """*key* in the characters that every file system keeps apart."""
    return re.sub(rb"[^a-z0-9_-]", lambda found: b"=%02x" % found[0][0], key).decode()


def key_of(name: str) -> bytes:
    """The key with this `file_name`."""
    return re.sub(rb"=([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode())


class LocalObjectStorage(Client):
    """The objects in the directory *root*, which must be there; processes and threads may share it."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "stat list_prefix streaming range_read metadata conditional_write checksum hierarchy ordered_list copy batch_delete "
        "lifecycle validation shared limits".split()
    )

    _denied = (PermissionError,)

    def __init__(self, root: str | Path, tenant_id: str | None = None, *, page_size: int = 100, durable: bool = True) -> None:
        """*durable* waits for the disk, so that what was stored survives a power cut."""
        super().__init__(patience=PATIENCE)
        tenant = arguments.encode_tenant(tenant_id)
        self.limits = ObjectLimits(key_bytes=1024, value_bytes=2**40, part_bytes=CHUNK, page_size=page_size, batch_size=page_size)
        self._root = Path(root)
        self._space = self._root / (f"t{hashlib.sha256(tenant).hexdigest()}" if tenant else "n")
        self._durable = durable
        self._working: set[asyncio.Future[object]] = set()
        self._files: set[_File] = set()

    @classmethod
    async def connect(cls, root: str | Path, *, tenant_id: str | None = None, page_size: int = 100, durable: bool = True) -> Self:
        """A client of the directory *root*; that it is missing shows in the first operation."""
        return cls(root, tenant_id, page_size=page_size, durable=durable)

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
        """Write a new file, then put it in the place of the old one."""
        what, path = f"upload {key!r}", self._path(key)
        described = objects.describe(key, content_type, metadata)
        objects.check_condition(key, if_absent, if_match)
        objects.check_digest(key, sha256)
        file = await self._open(what, lambda: _New(self._new_path(), described, self._durable))
        try:
            async with aclosing(objects.parts(key, data, CHUNK, self.limits, sha256)) as parts:
                async for part, _ in parts:
                    # A thread may not yet have forgotten its job when the next one is given, but there is nothing left in it.
                    held = [part]
                    del part
                    await self._do(what, lambda held=held: file.write(held.pop()))  # type: ignore[misc]
            header = await self._do(what, lambda: self._commit(file, key, path, if_absent, if_match))
        finally:
            self._dispose(file)
        return self._info(key, header)

    async def download(self, key: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The content from *start* to *end*."""
        async with self.download_stream(key, start=start, end=end) as chunks:
            return b"".join([chunk async for chunk in chunks])

    def download_stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The content from *start* to *end*, as it was on entering, in chunks."""
        path = self._path(key)
        objects.check_range(key, start, end)
        return self._stream(f"download {key!r}", key, path, start, end)

    async def stat(self, key: str) -> ObjectInfo:
        """What the file's header says."""
        path = self._path(key)
        return self._info(key, await self._do(f"stat {key!r}", lambda: self._read_header(key, path)))

    async def delete(self, key: str) -> None:
        """Remove the file, and the directories that are empty then."""
        path = self._path(key)
        await self._do(f"delete {key!r}", lambda: self._remove([path]))

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove the files of all *keys*."""
        self._check_open()
        paths = [self._path_of(key) for key in objects.encode_keys(keys, self.limits)]
        for chunk in arguments.chunks(paths, self.limits.batch_size):
            await self._do(f"delete_many of {len(paths)} keys", lambda chunk=chunk: self._remove(chunk))  # type: ignore[misc]

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object under *prefix*, in the order of the keys."""
        what = f"list_objects {prefix!r}"
        names = await self._names(what, prefix)
        for page in arguments.chunks(names, self.limits.page_size):
            for info in await self._do(what, lambda page=page: self._read_page(page)):  # type: ignore[misc]
                yield info

    async def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        """The objects and the prefixes one level below *prefix*, in order."""
        what, start = f"list_level {prefix!r}", len(arguments.encode_prefix(prefix, self.limits))
        level: dict[bytes, bool] = {}
        for name in await self._names(what, prefix):
            head, slash, _ = name[start:].partition(b"/")
            level[name[:start] + head + slash] = not slash
        for page in arguments.chunks(level, self.limits.page_size):
            there = await self._do(what, lambda page=page: self._read_page([n for n in page if level[n]]))  # type: ignore[misc]
            infos = {info.key: info for info in there}
            for name in page:
                if not level[name]:
                    yield Prefix(name.decode())
                elif (info := infos.get(name.decode())) is not None:
                    yield info

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy the file, with an etag of its own."""
        what, origin, path = f"copy {source!r} to {target!r}", self._path(source), self._path(target)
        old = await self._open(what, lambda: self._open_file(source, origin))
        new: _New | None = None
        try:
            header = old.header
            described = objects.Described(header.content_type, dict(header.metadata))
            new = await self._open(what, lambda: _New(self._new_path(), described, self._durable))
            for start in range(0, header.size, CHUNK):

                def step(start: int = start, new: _New = new) -> None:
                    new.write(old.read(start, min(start + CHUNK, header.size)))

                await self._do(what, step)
            return self._info(target, await self._do(what, lambda: self._commit(new, target, path, False, None)))
        finally:
            self._dispose(old)
            if new is not None:
                self._dispose(new)

    # Streams

    @asynccontextmanager
    async def _stream(self, what: str, key: str, path: Path, start: int, end: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        file = await self._open(what, lambda: self._open_file(key, path))
        try:
            size = file.header.size
            objects.check_end(key, start, size)
            async with aclosing(self._chunks(what, file, start, size if end is None else min(end, size))) as chunks:
                yield chunks
        finally:
            self._dispose(file)

    async def _chunks(self, what: str, file: "_Old", start: int, end: int) -> AsyncGenerator[bytes, None]:
        for begin in range(start, end, CHUNK):
            held: list[bytes] = []  # not a result, which the thread would hold on to for a while
            await self._do(what, lambda held=held, begin=begin: held.append(file.read(begin, min(begin + CHUNK, end))))  # type: ignore[misc]
            yield held.pop()

    # Threads: whatever may wait for the disk runs in one.

    async def _do(self, what: str, work: Callable[[], T]) -> T:
        """*work* in a thread, which is not stopped when its caller leaves; `close` waits for it."""

        async def request() -> T:
            return await asyncio.shield(self._submit(work))

        return await self._call(what, request())

    def _submit(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        future = asyncio.get_running_loop().run_in_executor(None, _translated, work)
        self._working.add(future)  # type: ignore[arg-type]
        future.add_done_callback(self._done)
        return future

    def _done(self, future: "asyncio.Future[T]") -> None:
        self._working.discard(future)
        if not future.cancelled():
            future.exception()  # fetched: its caller may have left

    async def _open(self, what: str, work: Callable[[], "F"]) -> "F":
        """A file, which is closed again if nobody is there any more to take it."""
        left = False

        def opened() -> "F":
            file = work()
            self._files.add(file)
            if left or self._closed:
                self._files.discard(file)
                file.close()
            return file

        try:
            return await self._do(what, opened)
        except BaseException:
            left = True
            raise

    def _dispose(self, file: "_File") -> None:
        file.abandoned = True
        self._files.discard(file)
        self._submit(file.close)

    async def _release(self) -> None:
        for file in list(self._files):
            self._dispose(file)
        while self._working:
            await asyncio.wait(list(self._working))

    # What happens in the threads.

    def _path(self, key: object) -> Path:
        return self._path_of(arguments.encode_key(key, self.limits))

    def _path_of(self, key: bytes) -> Path:
        name = file_name(key)
        *folders, last = [name[start : start + NAME] for start in range(0, len(name), NAME)]
        return self._space.joinpath("objects", *[folder + SUFFIX for folder in folders], last)

    def _new_path(self) -> Path:
        """Where a new file is written. The first write of a tenant makes its directories."""
        folder = self._space / "new"
        if not folder.is_dir():
            self._check_root()
            self._space.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            (self._space / "objects").mkdir(exist_ok=True)
        return folder / secrets.token_hex(16)

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise NotFoundError(f"there is no directory {str(self._root)!r}")

    def _open_file(self, key: str, path: Path) -> "_Old":
        try:
            return _Old(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            self._check_root()
            raise ObjectNotFoundError(f"there is no object {key!r}") from error

    def _read_header(self, key: str, path: Path) -> Header:
        file = self._open_file(key, path)
        file.close()
        return file.header

    def _read_page(self, names: Iterable[bytes]) -> list[ObjectInfo]:
        """What there still is of *names*."""
        page = []
        for name in names:
            with contextlib.suppress(ObjectNotFoundError):
                page.append(self._info(name.decode(), self._read_header(name.decode(), self._path_of(name))))
        return page

    def _commit(self, file: "_New", key: str, path: Path, if_absent: bool, if_match: str | None) -> Header:
        file.complete()
        with self._locked(fcntl.LOCK_EX):
            etag = None
            if if_absent or if_match is not None:
                with contextlib.suppress(ObjectNotFoundError):
                    etag = self._read_header(key, path).etag
            if not objects.matches(etag, if_absent, if_match):
                if if_absent:
                    raise AlreadyExistsError(f"there is an object {key!r}")
                raise ConflictError(f"{key!r} does not have the expected etag")

            path.parent.mkdir(parents=True, exist_ok=True)
            header = file.replace(path)
            if self._durable:
                _sync(path.parent)
        return header

    def _remove(self, paths: Iterable[Path]) -> None:
        with self._locked(fcntl.LOCK_EX) as there:
            if not there:
                return
            top = self._space / "objects"
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                folder = path.parent
                with contextlib.suppress(OSError):  # not empty, or not there
                    while folder != top:
                        folder.rmdir()
                        folder = folder.parent
            if self._durable:
                _sync(top)

    async def _names(self, what: str, prefix: str) -> list[bytes]:
        start = file_name(arguments.encode_prefix(prefix, self.limits))

        def collect() -> list[bytes]:
            with self._locked(fcntl.LOCK_SH) as there:
                names = list(_walk(self._space / "objects", "", start)) if there else []
            return sorted(map(key_of, names))

        return await self._do(what, collect)

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[bool]:
        """Hold the lock of the space. False if nothing was ever stored in it: then there is nothing to lock."""
        try:
            lock = os.open(self._space, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            self._check_root()
            yield False
            return
        try:
            fcntl.flock(lock, kind)
            yield True
        finally:
            os.close(lock)

    def _info(self, key: str, header: Header) -> ObjectInfo:
        return ObjectInfo(
            key, header.size, header.etag, header.modified, content_type=header.content_type, metadata=dict(header.metadata)
        )


class _File:
    """An open file: one thread at a time, and none after it was closed."""

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.abandoned = False
        self._lock = threading.Lock()
        self._number: int | None = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @contextlib.contextmanager
    def _held(self) -> Iterator[int]:
        with self._lock:
            if self._number is None or self.abandoned:
                raise OSError(errno.EBADF, "the file was closed meanwhile")
            yield self._number

    def close(self) -> None:
        with self._lock:
            number, self._number = self._number, None
            if number is not None:
                os.close(number)


F = TypeVar("F", bound=_File)


class _Old(_File):
    """A stored object."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDONLY)
        try:
            with self._held() as number:
                self.header = _parse(path, number)
        except BaseException:
            self.close()
            raise

    def read(self, start: int, end: int) -> bytes:
        """The content from *start* to *end*."""
        pieces = []
        with self._held() as number:
            while start < end:
                piece = os.pread(number, end - start, self.header.length + start)
                if not piece:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                pieces.append(piece)
                start += len(piece)
        return b"".join(pieces)


class _New(_File):
    """An object that is being written, under a name of its own."""

    def __init__(self, path: Path, described: objects.Described, durable: bool) -> None:
        super().__init__(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._durable = durable
        self._placed = False
        facts = {"type": described.content_type, "metadata": described.metadata, "etag": secrets.token_hex(16)}
        encoded = json.dumps(facts).encode()
        try:
            self.write(MAGIC + LENGTH.pack(len(encoded)) + encoded)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Append *data*."""
        with self._held() as number:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(number, rest) :]

    def complete(self) -> None:
        """Let the disk have it all, before it takes the old one's place."""
        with self._held() as number:
            if self._durable:
                os.fsync(number)

    def replace(self, path: Path) -> Header:
        """Take the place of *path*, unless the writer has left."""
        with self._held() as number:
            now = time.time_ns()
            os.utime(number, ns=(now, now))
            header = _parse(path, number)
            os.replace(self.path, path)
            self._placed = True
        return header

    def close(self) -> None:
        """Remove the file too, unless it has taken its place."""
        super().close()
        if not self._placed:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def _parse(path: Path, number: int) -> Header:
    head = os.pread(number, len(MAGIC) + LENGTH.size, 0)
    if len(head) != len(MAGIC) + LENGTH.size or not head.startswith(MAGIC):
        raise UnavailableError(f"the file {str(path)!r} is not an object")
    (length,) = LENGTH.unpack(head[len(MAGIC) :])
    facts = json.loads(os.pread(number, length, len(head)))
    status = os.fstat(number)
    start = len(head) + length
    modified = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=status.st_mtime_ns // 1000)
    return Header(facts["type"], facts["metadata"], facts["etag"], start, status.st_size - start, modified)


def _walk(folder: Path, before: str, start: str) -> Iterator[str]:
    """The names below *folder*, which all begin with *before*, that begin with *start*."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        name = before + entry.name.removesuffix(SUFFIX)
        if entry.name.endswith(SUFFIX):
            if name.startswith(start) or start.startswith(name):
                yield from _walk(folder / entry.name, name, start)
        elif name.startswith(start):
            yield name


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _translated(work: Callable[[], T]) -> T:
    """*work*; a file system that is mounted read-only refuses just as one that lacks the permission does."""
    try:
        return work()
    except OSError as error:
        if error.errno == errno.EROFS:
            raise PermissionError(error.errno, error.strerror) from error
        raise


_folders: list[Path] = []
_folders_lock = threading.Lock()


def _folder() -> Path:
    """This process's own folder, removed at its end."""
    with _folders_lock:
        if not _folders:
            _folders.append(Path(tempfile.mkdtemp(prefix="omnitck-objects-")))
            atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
        return _folders[0]


async def make_store(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, namespace: str = "", **config: object
) -> LocalObjectStorage:
    """A client of this process's own folder, in which each *namespace* is a root, without waiting for the disk."""
    if address is not None:
        raise UnsupportedError("the file system is local: there is no address to connect to")
    root = _folder() / namespace
    root.mkdir(exist_ok=True)
    return await LocalObjectStorage.connect(root, tenant_id=tenant_id, page_size=10, durable=False)
