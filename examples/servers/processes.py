"""Server processes: a folder and ports of their own, ready when `launch` returns, and ended with this process."""

import atexit
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

__all__ = ["Check", "Process", "answers", "free_ports", "launch", "launched", "logged"]

STARTING = 20.0
"""Seconds that a server may take to be ready; a busy machine takes a few, an idle one mostly less than one."""

TRIES = 3
"""How often a server is started whose port somebody else took between the choice of it and the server's own bind."""

ENDING = 5.0
"""Seconds that a server may take to end before it is killed."""

WATCHDOG = """
signal=$1 server=
shift
while read -r line; do
    [ "$line" = done ] && exit
    server=$line
done
if [ -n "$server" ]; then
    kill -"$signal" "$server"
    tries=0
    while [ $tries -lt 50 ] && kill -0 "$server"; do sleep 0.1; tries=$((tries + 1)); done
    kill -KILL "-$server"
fi
rm -rf -- "$@"
"""


launched: dict[int, "Process"] = {}
"""The servers of this process, by their first port."""


class PortTakenError(RuntimeError):
    """Somebody else listens on the port that was free a moment ago."""


class Process:
    """A server that is starting or running, and ends with this process however that ends.

    `atexit` covers the orderly end. A watchdog covers the others: a shell that reads from a pipe whose only writer is
    this process, and that ends the server when the pipe breaks. (A parent-death signal would do so when the *thread*
    that started the server ends.)
    """

    def __init__(self, name: str, ports: Sequence[int], litter: Sequence[Path] = (), end: signal.Signals = signal.SIGINT) -> None:
        self.name = name
        self.ports = tuple(ports)
        self.folder = Path(tempfile.mkdtemp(prefix=f"omnitck-{name.lower()}-"))
        self._litter = litter
        self._end = end
        self._owner = os.getpid()
        self._server: subprocess.Popen[bytes] | None = None
        self._start: Callable[[], subprocess.Popen[bytes]] | None = None
        self._wait: Callable[[], None] | None = None
        # Before anything runs in the folder: what prepares it may take a while too.
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "-", str(int(end)), self.folder, *litter],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # or who reads our output would wait for the watchdog
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.stop)
        launched[self.ports[0]] = self

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._server is not None
        return self._server.pid

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text(errors="replace")

    def run(self, command: Sequence[str | Path], user: tuple[int, int] | None = None) -> None:
        """A command that prepares the folder, to its end."""
        if self._spawn(command, user, {}).wait() != 0:
            raise self._failed(f"{Path(command[0]).name} failed")

    def start(self, command: Sequence[str | Path], user: tuple[int, int] | None, environment: Mapping[str, str]) -> None:
        """Start the server itself."""
        self._start = partial(self._spawn, command, user, environment)
        self._server = self._start()

    def wait(self, ready: "Check", starting: float = STARTING) -> None:
        """Return once *ready* says so, within *starting* seconds."""
        assert self._server is not None
        self._wait = partial(self.wait, ready, starting)
        end = time.monotonic() + starting
        while time.monotonic() < end:
            if self._server.poll() is not None:
                taken = re.search("address already in use|eaddrinuse", self.log, re.IGNORECASE)
                problem = PortTakenError if taken else RuntimeError
                raise self._failed(f"{self.name} ended at once with status {self._server.returncode}", problem)
            if _connects(self.ports[0]) and ready(self):
                return
            time.sleep(0.01)
        raise self._failed(f"{self.name} was not ready within {starting:.0f} s")

    def halt(self) -> None:
        """End the server, which leaves its folder as it is; `restart` brings it back."""
        assert self._server is not None
        self._server.send_signal(self._end)
        try:
            self._server.wait(timeout=ENDING)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def restart(self) -> None:
        """Start the server that has ended again, on its ports and with what is in its folder; return once it is ready."""
        assert self._start is not None
        assert self._wait is not None
        (self.folder / "log").unlink()  # in which the first start said that it was ready
        self._server = self._start()
        self._wait()

    def stop(self, keep: bool = False) -> None:
        """End the server and remove what it wrote, unless the log in its folder is still needed."""
        if os.getpid() != self._owner:  # a fork shares the server, and does not own it
            return

        pipe = self._watchdog.stdin
        assert pipe is not None
        if pipe.closed:  # it was stopped before
            return

        atexit.unregister(self.stop)
        launched.pop(self.ports[0], None)
        if self._server is not None:
            self.halt()
        for path in self._litter:
            path.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._tell("done")  # only now: some servers take seconds to end, in which this process may be killed
        with contextlib.suppress(OSError):
            pipe.close()
        self._watchdog.wait()

    def _spawn(
        self, command: Sequence[str | Path], user: tuple[int, int] | None, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        uid, gid = user or (None, None)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.folder,
                env={**os.environ, "TMPDIR": str(self.folder), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which end the server themselves
                user=uid,
                group=gid,
                extra_groups=[] if user else None,
            )
        self._tell(str(process.pid))
        return process

    def _tell(self, line: str) -> None:
        pipe = self._watchdog.stdin
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.write(f"{line}\n".encode())
            pipe.flush()

    def _failed(self, what: str, problem: type[RuntimeError] = RuntimeError) -> RuntimeError:
        return problem(f"{what}; the log is {self.folder / 'log'}:\n{self.log[-2000:]}")


Check = Callable[[Process], bool]
"""Whether a server that accepts connections is ready for requests. It should know its own server from somebody else's."""


def logged(text: str) -> Check:
    """Ready once the log has *text*."""
    return lambda process: text in process.log


def answers(url: str, headers: Mapping[str, str] | None = None, status: int = 200) -> bool:
    """Whether a GET of *url* is answered with *status*."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between this process and its server
    try:
        with direct.open(urllib.request.Request(url, headers=dict(headers or {})), timeout=5) as response:
            return bool(response.status == status)
    except HTTPError as refusal:
        return refusal.code == status
    except (OSError, HTTPException):
        return False


def launch(
    name: str,
    command: Callable[..., Sequence[str | Path]],
    ready: Check,
    *,
    ports: int = 1,
    user: tuple[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
    litter: Callable[..., Sequence[Path]] = lambda *ports: (),
    end: signal.Signals = signal.SIGINT,
    starting: float = STARTING,
) -> tuple[int, ...]:
    """Start what *command* returns, given the process and its *ports* (as many free ones); the ports, once it is *ready*.

    *command* may prepare the process's folder. *litter* names the files that the server writes elsewhere, *end* is the
    signal that ends it, *starting* the seconds that it may take to be ready. Raises RuntimeError.
    """
    for attempt in range(1, TRIES + 1):
        chosen = free_ports(ports)
        process = Process(name, chosen, litter(*chosen), end)
        try:
            if user is not None:
                os.chown(process.folder, *user)
            process.start(command(process, *chosen), user, environment or {})
            process.wait(ready, starting)
            return process.ports
        except PortTakenError:
            process.stop(keep=attempt == TRIES)
            if attempt == TRIES:
                raise
        except BaseException:
            process.stop(keep=True)
            raise
    raise AssertionError("unreachable")


def free_ports(number: int) -> list[int]:
    """As many different ports of 127.0.0.1 on which nobody listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
