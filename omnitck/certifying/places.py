"""Where a worker runs: in a process of its own, which survives nothing but can be ended, or in a thread of this one.

Of what a child prints the end is kept, and shown if the process dies. Its death is seen by waiting for the process, and not
by the end of the pipe, which a process that it forked may hold open.
"""

import contextvars
import functools
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import IO, Protocol, cast

from omnitck.certifying.channel import LAST, Event, Reader, Writer
from omnitck.certifying.stacks import calls, provider_calls
from omnitck.certifying.worker import Order, Worker
from omnitck.suites import Recipe, Suite

__all__ = ["Place", "take_place"]

Hear = Callable[[Event], None]


def take_place(source: Recipe | Suite, order: Order, grace: float, hear: Hear) -> "Place":
    """Let a worker carry out *order*, in a process where there is a recipe. Raises OSError, RuntimeError."""
    return _Child(source, order, grace, hear) if isinstance(source, Recipe) else _Thread(source, order, hear)


class Place(Protocol):
    """Where a worker runs. What it says, and `died` once it can say no more, is heard in any thread."""

    leaving: str
    """What becomes of it where it is ended."""
    is_process: bool
    """Whether it can be ended, and knows nothing of the stream of outcomes; in a thread, the rules themselves write there."""

    def state(self, rule: str) -> Event | None:
        """How *rule* stands, as its worker says; None if the worker does not answer."""

    def stacks(self, thread: int) -> str:
        """What *thread* is doing, the newest call first; the process may be ended to know it."""

    def stop(self) -> bool:
        """End what runs here; False if it cannot be ended, and only no further rule begins."""

    def finish(self, *, interrupted: bool = False) -> None:
        """Let no further rule begin, and if *interrupted* those under way end without a verdict."""

    def death(self) -> tuple[str, str]:
        """How the process ended, and the end of what it printed."""

    def last_stack(self, thread: int) -> str:
        """What *thread* was doing when the process ended."""

    def close(self) -> tuple[str, ...]:
        """Leave it; a sentence for each thing that should have ended with the suite, and had to be ended."""


class _Thread:
    """A thread of this process. It cannot be ended, only left behind."""

    leaving = "its thread was left behind"
    is_process = False

    def __init__(self, suite: Suite, order: Order, hear: Hear) -> None:
        self._worker = Worker(hear)
        work = functools.partial(contextvars.copy_context().run, self._worker.work, lambda: suite, order)
        threading.Thread(target=work, name="omnitck", daemon=True).start()

    def state(self, rule: str) -> Event | None:
        return self._worker.state(rule)

    def stacks(self, thread: int) -> str:
        return self._worker.stacks(thread)

    def stop(self) -> bool:
        self._worker.stop()
        return False

    def finish(self, *, interrupted: bool = False) -> None:
        self._worker.finish(interrupted=interrupted)

    def death(self) -> tuple[str, str]:
        return "ended", ""

    def last_stack(self, thread: int) -> str:
        return ""

    def close(self) -> tuple[str, ...]:
        return ()


class _Child:
    """A process."""

    leaving = "its process was ended"
    is_process = True
    _BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from omnitck.certifying.worker import child; child()"
    _PATIENCE = 2.0
    """Seconds for a process to do what it is asked for."""
    _LONGEST_LINE = 1 << 26
    _SHOWN = 1 << 20
    """Bytes from the end of what it printed, in which everything is that is ever shown."""

    def __init__(self, recipe: Recipe, order: Order, grace: float, hear: Hear) -> None:
        self._hear = hear
        self._answers: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._gone = threading.Event()
        self._done = False
        self._patience = min(self._PATIENCE, grace)
        self._tidying = max(self._PATIENCE, grace)
        secret = secrets.token_bytes()
        with _all_or_nothing() as opened:
            self._output = _Tail(self._SHOWN)
            opened.callback(self._output.read)  # which ends once nobody can write
            printing = opened.enter_context(self._output.writing())
            said, saying = os.pipe()
            self._said = opened.enter_context(open(said, "rb"))  # noqa: SIM115
            self._saying = opened.enter_context(open(saying, "wb"))  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", self._BOOT, json.dumps([each or os.getcwd() for each in sys.path])],
                stdin=subprocess.PIPE,
                stdout=self._saying,
                stderr=printing,
                # The stream of outcomes is the follower's to write, which knows what becomes of a rule in the end.
                env={key: value for key, value in os.environ.items() if key != "OMNITCK_RESULTS"}
                | {"OMNITCK_SEED": str(order.seed)},
                start_new_session=True,
            )
            opened.callback(self._process.wait)
            opened.callback(self._process.kill)
            printing.close()
            self._orders = opened.enter_context(cast("IO[bytes]", self._process.stdin))
            self._tell({"secret": secret.hex(), "recipe": asdict(recipe), "order": asdict(order)})
            self._listener = threading.Thread(target=self._listen, args=(Reader(secret),), daemon=True)
            self._listener.start()
            # Should there be no second thread to be had, the process is ended, and the listener hears of it by the pipe's end.
            threading.Thread(target=self._mourn, args=(Writer(self._saying, secret, LAST),), daemon=True).start()

    def _tell(self, message: object) -> None:
        with suppress(OSError, ValueError):
            self._orders.write(json.dumps(message).encode() + b"\n")
            self._orders.flush()

    def _listen(self, reader: Reader) -> None:
        heard = strange = False
        """Whether the worker has begun, and whether the last line was none of its own."""
        for line in iter(lambda: self._said.readline(self._LONGEST_LINE), b""):
            if not line.strip():
                continue
            event = reader.read(line)
            # What is printed before the worker has taken its streams is nobody's doing, nor is a line that the process's end cut.
            if strange and (event is None or event["event"] != "died"):
                self._hear({"event": "intruded"})
            strange = heard and event is None
            if event is None:
                continue
            heard, name = True, event["event"]
            if name in ("state", "stacks"):
                self._answers.put(event)
                continue

            self._done = self._done or name == "done"
            self._hear(event)
            if name == "died":
                return

    def _mourn(self, writer: Writer) -> None:
        """Say when the process has ended, behind everything that it said."""
        self._process.wait()
        self._gone.set()
        with suppress(OSError, ValueError):
            writer.write({"event": "died"})

    def _asked(self, question: object) -> Event | None:
        while not self._answers.empty():  # One that came too late.
            self._answers.get()
        self._tell(question)
        try:
            return self._answers.get(timeout=self._patience)
        except queue.Empty:
            return None

    def state(self, rule: str) -> Event | None:
        answer = self._asked({"rule": rule})
        return answer and answer.get("state")

    def stacks(self, thread: int) -> str:
        answer = None if self._gone.is_set() else self._asked({"thread": thread})
        if answer is not None and "text" in answer:
            return str(answer["text"])

        with suppress(OSError):
            self._process.send_signal(getattr(signal, "SIGABRT", signal.SIGTERM))
        self._gone.wait(self._PATIENCE)
        return self.last_stack(thread)

    def stop(self) -> bool:
        self._kill()
        return True

    def finish(self, *, interrupted: bool = False) -> None:
        self._tell({"finish": interrupted})

    def death(self) -> tuple[str, str]:
        if not self._gone.wait(self._PATIENCE):
            self._kill()
        status = self._process.returncode
        how = f"ended with exit status {status}"
        if status < 0:
            how = f"was ended by {next((each.name for each in signal.Signals if each == -status), f'signal {-status}')}"
        return how, self._printed()[0][-2000:].strip()

    def last_stack(self, thread: int) -> str:
        """The same, as `faulthandler` dumped it."""
        parts = self._printed()[1].split("hread 0x")[1:]
        own = next((each for each in parts if int(each.split()[0], 16) == thread), parts[0] if parts else "")
        frames = re.findall(r'File "(.*)", line (\d+) in (.*)', own)
        return calls(
            provider_calls(traceback.FrameSummary(file, int(line), name, lookup_line=False) for file, line, name in frames)
        )

    def close(self) -> tuple[str, ...]:
        with suppress(OSError):
            self._orders.close()
        left: tuple[str, ...] = ()
        if self._done:  # It may still have something to close: a server that it started, a container.
            left = self._ended_late()
        else:
            self._kill()
        self._listener.join(self._PATIENCE)
        for each in (self._said, self._saying):
            with suppress(OSError):
                each.close()
        return left

    def _ended_late(self) -> tuple[str, ...]:
        """What has not ended by itself, once its process had the time to; it is ended."""
        if not self._gone.wait(self._tidying):
            self._kill()
            return (f"The suite's process had not ended {self._tidying:g} s after its last rule, and was ended.",)

        group = self._process.pid
        left = _wait_for_group(group, self._PATIENCE / 2)
        if not left:
            return ()

        _signal(group, signal.SIGTERM)
        if _wait_for_group(group, self._PATIENCE):
            _signal(group, _KILL)
        return tuple(f"{each} outlived the suite's process, which had started it, and was ended." for each in left)

    def _kill(self) -> None:
        """End the process, and what it started."""
        with suppress(OSError):
            self._process.kill()
        _signal(self._process.pid, _KILL)
        self._gone.wait()

    def _printed(self) -> tuple[str, str]:
        """The end of what the process printed, and the last dump of `faulthandler` after that."""
        text, mark, dump = self._output.read().decode(errors="replace").rpartition("Fatal Python error: ")
        return (text, dump) if mark else (dump, "")


class _Tail:
    """The end of what is written into a pipe, however much that is."""

    _SECONDS = 0.5
    """For what was written last to be read; a process that was left behind may hold the pipe open for ever."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()
        self._ended = threading.Event()

    def writing(self) -> IO[bytes]:
        """Where to write. To be closed, so that the pipe ends with who was given it."""
        reading, writing = os.pipe()
        try:
            threading.Thread(target=self._keep, args=(reading,), name="omnitck-output", daemon=True).start()
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        return open(writing, "wb")

    def _keep(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as source:
            while chunk := source.read(1 << 16):
                self._kept += chunk
                if len(self._kept) > 2 * self._most:
                    del self._kept[: -self._most]
        self._ended.set()

    def read(self) -> bytes:
        """What is kept."""
        self._ended.wait(self._SECONDS)
        return bytes(self._kept[-self._most :])


@contextmanager
def _all_or_nothing() -> Iterator[ExitStack]:
    """A stack that is unwound only if it cannot be built whole."""
    with ExitStack() as stack:
        yield stack
        stack.pop_all()


# Processes that a child has started, and has not waited for.

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def _signal(group: int, number: int) -> None:
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(group, number)


def _wait_for_group(group: int, seconds: float) -> list[str]:
    """What still lives of *group* after so many seconds at most."""
    until = time.monotonic() + seconds
    while (living := _living(group)) and time.monotonic() < until:
        time.sleep(0.02)
    return living


def _living(group: int) -> list[str]:
    """The processes of *group*, each in words."""
    try:
        os.killpg(group, 0)
    except (AttributeError, OSError):
        return []
    if not os.path.isdir("/proc/self"):
        return [f"A process of group {group}"]

    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, ValueError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            command, _, rest = file.read().partition("(")[2].rpartition(")")
            state, _, own = rest.split()[:3]
            if int(own) == group and state not in "ZX":
                found.append(f"Process {name} ({command})")
    return found
