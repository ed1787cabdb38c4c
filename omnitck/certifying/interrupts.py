"""Ctrl-C, SIGTERM and a terminal that closes: the first ends a run in order, with what is known so far; the next, at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """What ends a run from outside. Entered in the main thread, it takes the signals; anywhere else it hears of none."""

    def __init__(self) -> None:
        self.name = ""
        """Of the first signal that came: `SIGINT`."""
        self.number = 0
        self._listener: Callable[[], None] | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                before = signal.getsignal(each)
                if before not in (None, signal.SIG_IGN):  # `nohup` ignores SIGHUP, and means it.
                    self._before[each] = signal.signal(each, self._came)
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())  # type: ignore[arg-type]

    @contextmanager
    def heard_by(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call *listener*, which must not wait for anything, when the first signal comes."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    def _came(self, number: int, frame: FrameType | None) -> None:
        first = not self.name
        self.name, self.number = self.name or signal.Signals(number).name, self.number or number
        if first and self._listener is not None:
            self._listener()
        else:
            raise KeyboardInterrupt
