"""What watches the rules of this process from outside their event loops.

A rule that blocks its loop, or swallows its cancellation for ever, cannot be ended from inside. `certify` follows each suite from
another process, and replaces one that hangs. Under any other runner nobody would say a word, so here a thread looks at the rules
under way, twice a second: one that has not ended a grace after its deadline is named, the stacks are printed, and the process
ends with exit status 1. The thread also lets each loop look at the clock by which it waits: if that stands still, nothing that
waits would ever end.

While a rule runs, `os._exit` raises `SystemExit`: a provider that ends the process would otherwise look like a run without a
failure. And `breakpoint` stops the clocks of the rules: a person thinks for longer than a rule may work.
"""

import faulthandler
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = ["Watched", "debugged", "end_process", "followed", "rule_begins", "rule_ended"]

LOOK_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""How long a rule may go on after its deadline until the process is ended; `OMNITCK_GRACE` says otherwise."""

end_process = os._exit
"""Ends the process at once, as `os._exit` does while no rule runs."""


class Watched:
    """A rule under way."""

    thread = 0
    debugged = False
    """Whether a debugger was called, so that no clock counts."""

    @property
    def title(self) -> str:
        """What it is called where it is told of."""
        raise NotImplementedError

    def left(self) -> float:
        """Seconds for which it may still run, negative once it is late. Asked from another thread."""
        raise NotImplementedError

    def stop_clock(self) -> None:
        """Let no deadline end it from now on."""
        raise NotImplementedError

    def look_at_clock(self) -> None:
        """Let its event loop see whether its clock goes on, and end the rule if not. Called from another thread."""
        raise NotImplementedError


_lock = threading.Lock()
_watched: set[Watched] = set()
_thread: threading.Thread | None = None
_followers = 0
_exit_before: Callable[[int], NoReturn] = os._exit
_hook_before: Callable[..., Any] = sys.breakpointhook
"""What stands at the places that are guarded while a rule runs."""


@contextmanager
def followed() -> Iterator[None]:
    """Meanwhile somebody else ends the rules of this process that hang, from outside."""
    global _followers
    with _lock:
        _followers += 1
    try:
        yield
    finally:
        with _lock:
            _followers -= 1


def rule_begins(rule: Watched) -> None:
    """Watch *rule*, in the thread in which it runs."""
    global _exit_before, _hook_before
    rule.thread = threading.get_ident()
    with _lock:
        if os._exit is not _refuse_exit:
            _exit_before, os._exit = os._exit, _refuse_exit
        if sys.breakpointhook is not _break:
            _hook_before, sys.breakpointhook = sys.breakpointhook, _break
        _watched.add(rule)
        if _thread is None:
            _start()


def rule_ended(rule: Watched) -> None:
    """Watch it no longer."""
    with _lock:
        _watched.discard(rule)
        if not _watched and os._exit is _refuse_exit:
            os._exit = _exit_before  # type: ignore[assignment]
        if not _watched and sys.breakpointhook is _break:
            sys.breakpointhook = _hook_before


def debugged() -> bool:
    """Whether a debugger is attached to this process."""
    if "pydevd" in sys.modules or "debugpy" in sys.modules:
        return True

    bdb = sys.modules.get("bdb")
    return bdb is not None and isinstance(getattr(sys.gettrace(), "__self__", None), bdb.Bdb)


# While a rule runs.


def _refuse_exit(status: int) -> NoReturn:
    if os.getpid() != _pid:  # of a child that was forked meanwhile
        end_process(status)
    raise SystemExit(f"os._exit({status})")


_pid = os.getpid()


def _break(*arguments: Any, **keywords: Any) -> Any:
    for each in tuple(_watched):
        each.debugged = True
        each.stop_clock()
    return _hook_before(*arguments, **keywords)


def _start() -> None:
    global _thread, _pid
    _pid = os.getpid()
    thread = threading.Thread(target=_watch, name="omnitck-watchdog", daemon=True)
    with suppress(RuntimeError):  # No thread is to be had: nobody watches.
        thread.start()
        _thread = thread


def _watch() -> None:
    global _thread
    pause = threading.Lock()  # waits by a clock that nobody freezes
    pause.acquire()
    while True:
        # Kept alive for half a second, a rule's garbage would be found in the middle of another rule.
        seen = tuple(map(weakref.ref, tuple(_watched)))
        pause.acquire(timeout=LOOK_SECONDS)
        with _lock:
            if not _watched and not seen:
                _thread = None
                return
        for each in seen:
            _look(each())


def _look(rule: Watched | None) -> None:
    if rule is None or rule not in _watched or rule.debugged:
        return
    late = rule.left() < -_grace()
    if late and not _followers:
        _end(rule)
    if late:
        rule_ended(rule)  # It is left behind.
    else:
        rule.look_at_clock()


def _grace() -> float:
    try:
        return float(os.environ.get("OMNITCK_GRACE") or GRACE_SECONDS)
    except ValueError:
        return GRACE_SECONDS


def _end(rule: Watched) -> None:
    """Say what hangs and where, and end the process."""
    with suppress(Exception):
        _stop_capturing()
    text = (
        f"\nomnitck: {rule.title} has not ended {_grace():g} s after its deadline: an operation blocks the event loop, or "
        "swallows cancellation for ever. Only the end of the process ends it; `python -m omnitck certify` runs the others too.\n"
    )
    with suppress(OSError, ValueError):
        faulthandler.dump_traceback(2, all_threads=True)
        os.write(2, text.encode())
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(Exception):
        _end_parent()
    end_process(1)


def _end_parent() -> None:
    """A pool of processes, as Django's runner has one, would wait for ever for one that is gone."""
    multiprocessing = sys.modules.get("multiprocessing")
    parent = multiprocessing and multiprocessing.parent_process()
    if parent:
        os.kill(parent.pid, signal.SIGTERM)


def _stop_capturing() -> None:
    """pytest keeps what a test prints, and would lose it now."""
    capture = sys.modules.get("_pytest.capture")
    for each in gc.get_objects() if capture is not None else ():
        if isinstance(each, capture.CaptureManager):  # type: ignore[union-attr]
            each.stop_global_capturing()
