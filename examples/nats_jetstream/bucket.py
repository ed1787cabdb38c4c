"""The layout of the bucket: what `nats kv get` would read, and what a message says beside its value.

A subject has few legal characters, so in the names of tenants and keys the others are written as ``=XX``. That is
injective, as ``=`` is one of them. Patterns of subjects match whole tokens only; so keys are cut into tokens of 16
bytes, and a pattern of the first tokens lets the server sort out most of the keys that do not have a prefix.
"""

import asyncio
import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from nats.aio.client import Client as Connection
from nats.js.api import KeyValueConfig

__all__ = [
    "ABSENT",
    "BUCKET",
    "EXPIRES",
    "MARKER_TTL",
    "OPERATION",
    "STREAM",
    "WRONG_REVISION",
    "Stored",
    "create_bucket",
    "escape",
    "key",
    "pattern",
    "stored",
    "subject",
]

BUCKET = "omnitck"
STREAM = f"KV_{BUCKET}"
EXPIRES = "Omnitck-Expires"
OPERATION = "KV-Operation"
MARKER = "Nats-Marker-Reason"
TOKEN = 16
END = "="  # the last token of each subject, so that a pattern of whole tokens also matches the key that has no more

MARKER_TTL = 3600
"""Seconds that a delete marker stays, for watchers and mirrors, before the server clears it away."""

WRONG_REVISION = {10071, 10164}
"""JetStream's error codes for a revision that is not the expected one."""


class Stored(NamedTuple):
    """The last message of a subject: an entry, or what is left of one."""

    value: bytes
    revision: int
    deadline: float
    deleted: bool

    @property
    def live(self) -> bool:
        """Whether this is an entry."""
        return not self.deleted and time.time() < self.deadline


ABSENT = Stored(b"", 0, math.inf, deleted=True)


def stored(revision: int, value: bytes | None, headers: Mapping[str, str] | None) -> Stored:
    """A message as what it says: an empty one is an empty value, unless its headers make it a marker."""
    headers = headers or {}
    return Stored(value or b"", revision, float(headers.get(EXPIRES, "inf")), OPERATION in headers or MARKER in headers)


def escape(name: bytes) -> str:
    """*name* as one token of a subject."""
    return re.sub(rb"[^A-Za-z0-9_/-]", lambda found: b"=%02X" % found[0][0], name).decode()


def subject(space: str, key: bytes) -> str:
    """The subject of *key* in *space*, which ends with a dot."""
    return space + "".join(f"{token}." for token in _tokens(key)) + END


def pattern(space: str, prefix: bytes) -> str:
    """The subjects of all keys that share the whole tokens of *prefix*: at least those under *prefix*."""
    whole = len(prefix) - len(prefix) % TOKEN
    return space + "".join(f"{token}." for token in _tokens(prefix[:whole])) + ">"


def key(space: str, subject: str) -> bytes:
    """The key whose subject this is."""
    tokens = subject.removeprefix(space).removesuffix(END).replace(".", "")
    return re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), tokens.encode())


def _tokens(name: bytes) -> list[str]:
    return [escape(name[start : start + TOKEN]) for start in range(0, len(name), TOKEN)]


def create_bucket(url: str) -> None:
    """Create the bucket, unless it is there; several processes may do so at once."""

    async def create() -> None:
        connection = Connection()
        await connection.connect(url)
        try:
            # limit_marker_ttl: the server leaves a marker where it clears away an expired entry; watchers hear of it.
            await connection.jetstream().create_key_value(
                KeyValueConfig(bucket=BUCKET, history=1, replicas=1, limit_marker_ttl=MARKER_TTL)
            )
        finally:
            await connection.close()

    asyncio.run(create())
