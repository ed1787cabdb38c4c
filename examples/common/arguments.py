"""What every adapter refuses before it speaks to its backend.

Backends disagree about illegal arguments: one turns ``None`` into "None", another cuts a long key, a third takes
``ttl=0`` for "for ever". So no argument reaches a backend unchecked. Messages name the key through ``repr`` and never
the value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, TooLargeError
from omnitck.shared.models import Expect, Limits, Put, Remove

__all__ = [
    "INT64",
    "INTEGER",
    "TENANT_BYTES",
    "Step",
    "chunks",
    "decode_text",
    "encode_bytes",
    "encode_items",
    "encode_key",
    "encode_prefix",
    "encode_steps",
    "encode_tenant",
    "encode_text",
    "parse_delta",
    "parse_integer",
    "parse_ttl",
    "parse_version",
    "prefix_end",
]

T = TypeVar("T")

INT64 = range(-(2**63), 2**63)
"""The sums that a counter can hold."""

INTEGER = r"0|-?[1-9][0-9]{0,18}"
"""Canonical decimal text: what a counter writes, and the only thing that it counts on from."""

LONGEST_TTL = 1e9
TENANT_BYTES = 512


class Step(NamedTuple):
    """One checked operation of a transaction; its *value* is None in a removal, and where absence is expected."""

    kind: type[Put] | type[Remove] | type[Expect]
    key: bytes
    value: bytes | None


def _utf8(what: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{what} {text!r} is {type(text).__name__}, not str")

    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{what} {text!r} holds a lone surrogate") from None

    if b"\0" in encoded:
        raise InvalidArgumentError(f"{what} {text!r} holds U+0000")
    return encoded


def encode_key(key: object, limits: Limits) -> bytes:
    """The UTF-8 form of *key*, which is 1 to ``limits.key_bytes`` bytes long and otherwise taken as it is."""
    encoded = encode_prefix(key, limits, "key")
    if not encoded:
        raise InvalidArgumentError("key '' is empty")
    return encoded


def encode_prefix(prefix: object, limits: Limits, what: str = "prefix") -> bytes:
    """The UTF-8 form of *prefix*: a key, or the empty string."""
    encoded = _utf8(what, prefix)
    if len(encoded) > limits.key_bytes:
        raise TooLargeError(f"{what} {prefix!r} has {len(encoded)} bytes; the limit is {limits.key_bytes}")
    return encoded


def encode_tenant(tenant_id: object) -> bytes:
    """The UTF-8 form of *tenant_id*; empty for None, which no tenant's own id can be."""
    if tenant_id is None:
        return b""

    encoded = _utf8("tenant", tenant_id)
    if not encoded.strip() or not str(tenant_id).strip():
        raise InvalidArgumentError(f"tenant {tenant_id!r} is blank")
    if len(encoded) > TENANT_BYTES:
        raise InvalidArgumentError(f"the tenant id has {len(encoded)} bytes; the limit is {TENANT_BYTES}")
    return encoded


def encode_text(key: object, value: object, limits: Limits) -> bytes:
    """The UTF-8 form of the text *value*, which may be empty and may hold U+0000."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"the value for {key!r} is {type(value).__name__}, not str")

    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the value for {key!r} holds a lone surrogate") from None
    return encode_bytes(key, encoded, limits)


def encode_bytes(key: object, value: object, limits: Limits) -> bytes:
    """*value* itself, if it is ``bytes`` and not too long."""
    if not isinstance(value, bytes):
        raise InvalidArgumentError(f"the value for {key!r} is {type(value).__name__}, not bytes")
    if len(value) > limits.value_bytes:
        raise TooLargeError(f"the value for {key!r} has {len(value)} bytes; the limit is {limits.value_bytes}")
    return value


def encode_items(items: object, limits: Limits) -> list[tuple[bytes, bytes]]:
    """All of *items*, or one error that names every refused key: nothing is written before everything is checked."""
    if not isinstance(items, Mapping):
        raise InvalidArgumentError(f"items is {type(items).__name__}, not a mapping")

    encoded: list[tuple[bytes, bytes]] = []
    refused: list[tuple[object, InvalidArgumentError]] = []
    for key, value in items.items():
        try:
            encoded.append((encode_key(key, limits), encode_text(key, value, limits)))
        except InvalidArgumentError as error:
            refused.append((key, error))
    if refused:
        kind = TooLargeError if all(isinstance(error, TooLargeError) for _, error in refused) else InvalidArgumentError
        reasons = "; ".join(str(error) for _, error in refused)
        raise kind(f"nothing was stored; refused were {[key for key, _ in refused]!r}: {reasons}")
    return encoded


def encode_steps(ops: Sequence[Put | Remove | Expect], limits: Limits) -> list[Step]:
    """The operations of a transaction, all of them checked before the first is applied."""
    steps: list[Step] = []
    for op in ops:
        match op:
            case Put():
                steps.append(Step(Put, encode_key(op.key, limits), encode_text(op.key, op.value, limits)))
            case Remove():
                steps.append(Step(Remove, encode_key(op.key, limits), None))
            case Expect(value=None):
                steps.append(Step(Expect, encode_key(op.key, limits), None))
            case Expect():
                steps.append(Step(Expect, encode_key(op.key, limits), encode_text(op.key, op.value, limits)))
            case _:
                raise InvalidArgumentError(f"a transaction consists of Put, Remove and Expect, not {type(op).__name__}")
    return steps


def prefix_end(prefix: bytes) -> bytes:
    """The first bytes after all keys under *prefix*. UTF-8 has no byte 0xFF, so the last one can always be raised."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff"


def decode_text(key: str, value: bytes) -> str:
    """*value* as text; bytes that are no UTF-8 were stored as bytes and can only be read as bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"the value of {key!r} is not UTF-8: read it with get_bytes") from None


def parse_ttl(key: object, ttl: object, limits: Limits) -> float | None:
    """Seconds to live, rounded up to ``limits.min_ttl``; None, for ever, stays None."""
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_TTL:  # nor NaN
        raise InvalidArgumentError(f"ttl {ttl!r} for {key!r} is not a number of seconds in (0, {LONGEST_TTL:.0f}]")
    return max(float(ttl), limits.min_ttl)


def parse_version(key: object, expected: object) -> int:
    """The number behind a version. Text that this store never gave out is no current version: a conflict."""
    if not isinstance(expected, str):
        raise InvalidArgumentError(f"the expected version of {key!r} is {type(expected).__name__}, not str")
    if not re.fullmatch("[1-9][0-9]{0,18}", expected) or int(expected) not in INT64:
        raise ConflictError(f"{key!r} is not at the expected version")
    return int(expected)


def parse_delta(key: object, delta: object) -> int:
    """*delta*, if it is an integer of 64 bits."""
    if isinstance(delta, bool) or not isinstance(delta, int) or delta not in INT64:
        raise InvalidArgumentError(f"the delta for {key!r} is not an integer of 64 bits")
    return delta


def parse_integer(key: object, value: bytes) -> int:
    """The number that *value* spells."""
    if not re.fullmatch(INTEGER.encode(), value) or int(value) not in INT64:
        raise InvalidArgumentError(f"the value of {key!r} is not an integer of 64 bits")
    return int(value)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """*items* in lists of at most *size*."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
