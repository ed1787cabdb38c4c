"""`secrets` in mounted files, as Kubernetes and Docker hand them to a container: one file a secret, whose content is the value.

A tenant has a mount of its own. A file's name is the secret's, with `=XX` for each byte that is no letter, digit, `_`, `.` or
`-`: a slash too, so that `a` and `a/b` are two files, and nothing leads out of the mount. Names that begin with two dots are the
orchestrator's (`..data`), so the first dot is escaped. In Kubernetes, `items` in the volume says which key is under which such
name.

Whoever mounts the files changes them, by turning a symbolic link to another folder. Each read follows it anew: nothing is
kept. A batch is read from one turn, so that a user and its password match.

`write` and `versioning` are not declared: the mount is read-only, and has no past. A watcher reads again and again: inotify
does not see what happens behind a network file system, and the mounts themselves are brought up to date once a minute or so.
There are no credentials to look for. The file system must tell "A" from "a".
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from examples.common import arguments
from examples.common.client import Client, Feed
from examples.common.secrets import Content, escape, text_of, texts_of, unescape
from omnitck.shared.exceptions import InvalidArgumentError, SecretNotFoundError, TCKError, TooLargeError, UnavailableError
from omnitck.shared.models import SecretLimits

__all__ = ["LocalFileSecrets", "file_name", "mount_of"]

T = TypeVar("T")

LONGEST_FILE_NAME = 255
INTERVAL = 0.2
"""Seconds from one look of a watcher to the next."""

TURNS = 20
"""How often the orchestrator may turn its link while one file is opened."""


class LocalFileSecrets(Client):
    """The secrets in the mounts below one directory."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "list_prefix batch watch binary quiet_debug lifecycle validation shared availability limits".split()
    )
    # A byte of a name takes three characters of a file name at most. A directory is read as a whole: its pages are a formality.
    limits: ClassVar[SecretLimits] = SecretLimits(key_bytes=85, value_bytes=2**19, page_size=20, batch_size=20)

    _denied = (PermissionError,)

    def __init__(self, directory: Path, *, tenant_id: str | None = None, executor: Executor | None = None) -> None:
        super().__init__()
        self._mount = mount_of(directory, tenant_id)
        # Threads of its own: a network file system that hangs must not take the loop's, which resolve names.
        self._threads = executor or ThreadPoolExecutor(4, thread_name_prefix="secrets")

    @classmethod
    async def connect(cls, directory: Path, *, tenant_id: str | None = None) -> Self:
        """A client of the mounts below *directory*."""
        return cls(directory, tenant_id=tenant_id)

    async def get(self, name: str) -> str:
        """The secret's value: the file's whole content, its last line end too."""
        content = await self._content(name)
        return text_of(name, content)

    async def get_bytes(self, name: str) -> bytes:
        """The secret's bytes."""
        return (await self._content(name)).data

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        """Each of *names* with its value, all of them from one turn of the link."""
        self._check_open()
        files = {name: file_name(arguments.encode_key(name, self.limits)) for name in names}
        found = await self._run("get_many", lambda mount: self._read_all(mount, files.values()))
        return texts_of({name: found[file] for name, file in files.items()})

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        """Every name with *prefix*."""
        arguments.encode_prefix(prefix, self.limits)
        for name in await self._run(f"list_names {prefix!r}", self._names):
            if name.startswith(prefix):
                yield name

    @contextlib.asynccontextmanager
    async def watch(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        """The secret's value after each change that a look finds; a failed look ends it, so that it never falls silent."""
        feed = Feed[str]()
        self._feeds.add(feed)
        try:
            looking = self._start(self._look_on(name, await self._content(name), feed))
            try:
                yield feed
            finally:
                looking.cancel()
        finally:
            self._feeds.discard(feed)

    async def _look_on(self, name: str, before: Content, feed: Feed[str]) -> None:
        """Tell *feed* of each change that comes after what was there *before*."""
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                now = await self._content(name)
                if now.data != before.data:
                    feed.put(text_of(name, now))
                    before = now
        except TCKError as error:
            feed.end(error)

    async def _content(self, name: str) -> Content:
        file = file_name(arguments.encode_key(name, self.limits))
        found = await self._run(f"get {name!r}", lambda mount: self._read(mount, file))
        if found is None:
            raise SecretNotFoundError(f"secret {name!r} does not exist")
        return found

    async def _run(self, what: str, look: Callable[[str], T]) -> T:
        async def run() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._look, look)

        return await self._call(what, run())

    def _read(self, mount: str, file: str) -> Content | None:
        """The content of a file; None if there is none, or if it is no ordinary one, or lies outside."""
        try:
            path = os.path.realpath(os.path.join(mount, file), strict=True)
            if not path.startswith(mount + os.sep):
                return None
            # A pipe must not block, and a link that took the file's place meanwhile is not followed.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None

        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)  # a folder cannot even be wrapped
            return None
        with open(handle, "rb") as opened:
            if status.st_size > self.limits.value_bytes:
                raise TooLargeError(f"{os.path.basename(path)!r} has {status.st_size} bytes")
            return Content(opened.read())

    def _read_all(self, mount: str, files: Iterable[str]) -> dict[str, Content | None]:
        return {file: self._read(mount, file) for file in files}

    @staticmethod
    def _names(mount: str) -> list[str]:
        names = []
        for file in os.listdir(mount):
            name = unescape(file)
            path = os.path.realpath(os.path.join(mount, file))
            inside = path.startswith(mount + os.sep)
            if name is not None and file == file_name(name.encode()) and inside and os.path.isfile(path):
                names.append(name)
        return names

    def _look(self, look: Callable[[str], T]) -> T:
        """What *look* finds in the mount, whose link was not turned meanwhile: the folder behind it might be gone by then."""
        for _ in range(TURNS):
            mount, before = self._state()
            found = look(mount)
            if self._state() == (mount, before):
                return found
        raise UnavailableError("the mount changes all the time") from TimeoutError(f"{TURNS} tries")

    def _state(self) -> tuple[str, str | None]:
        """Where the mount is, and where its link leads. Without it that is an OSError: it is not the secret that is missing."""
        mount = os.path.realpath(self._mount, strict=True)
        os.scandir(mount).close()
        try:
            return mount, os.readlink(os.path.join(mount, "..data"))
        except FileNotFoundError:
            return mount, None  # Docker has none

    async def _release(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def mount_of(directory: Path, tenant_id: str | None) -> Path:
    """Where the secrets of a tenant are mounted."""
    tenant = arguments.encode_tenant(tenant_id)
    if not tenant:
        return directory / "common"

    name = file_name(tenant)
    if len(name) > LONGEST_FILE_NAME:
        raise InvalidArgumentError(f"tenant {tenant_id!r} takes {len(name)} characters of {LONGEST_FILE_NAME} in a file's name")
    return directory / "tenants" / name


def file_name(encoded: bytes) -> str:
    """The name of the file for a secret."""
    name = escape(encoded, "_.-")
    return name.replace(".", "=2E", 1) if name == "." or name.startswith("..") else name
