"""The lines in which a worker tells its follower what happens.

Foreign code runs in the worker's process. It can find the descriptor and write to it, and what that process forks inherits it. So
each line has a number, and a proof that its writer knew the secret of this run: a line without them is no event. Code that reads
the worker's own memory could forge both; that is not defended.
"""

import hmac
import json
import os
import threading
from typing import IO, Any

__all__ = ["LAST", "Event", "Reader", "Writer"]

Event = dict[str, Any]
"""Its name under `event`, and what the method `on_` that name of the follower takes."""

LAST = 1 << 62
"""The number of a line that none of the worker's can follow."""


class Writer:
    """Writes events, from any thread."""

    def __init__(self, stream: IO[bytes], secret: bytes, number: int = 0) -> None:
        self._stream = stream
        self._secret = secret
        self._number = number
        self._lock = threading.Lock()
        self._process = os.getpid()

    def write(self, event: Event) -> None:
        """Write *event* as one line. Raises OSError if nobody can read it."""
        if os.getpid() != self._process:
            return  # A copy that foreign code has forked is no worker.

        with self._lock:
            text = b"%d %s" % (self._number, json.dumps(event).encode())
            self._number += 1
            # What somebody else wrote before, without an end, stays a line of its own.
            self._stream.write(b"\n%s %s\n" % (_proof(self._secret, text), text))
            self._stream.flush()


class Reader:
    """Tells the lines of a writer from all others."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._last = -1

    def read(self, line: bytes) -> Event | None:
        """The event that *line* is; None if the writer did not write it, or not whole, or if it was read before."""
        proof, _, text = line.strip().partition(b" ")
        if not hmac.compare_digest(proof, _proof(self._secret, text)):
            return None

        number, _, event = text.partition(b" ")
        if int(number) <= self._last:
            return None

        self._last = int(number)
        found: Event = json.loads(event)
        return found


def _proof(secret: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, text, "sha256").hex().encode()
