"""What every adapter of `object_storage` refuses before it speaks to its backend, and what one lets into the other.

See `examples.common.arguments`: no argument reaches a backend unchecked.
"""

import hashlib
import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from typing import NamedTuple

from examples.common import arguments
from omnitck.shared.exceptions import InvalidArgumentError, TooLargeError
from omnitck.shared.models import ObjectLimits

__all__ = [
    "Described",
    "check_condition",
    "check_digest",
    "check_end",
    "check_expires",
    "check_range",
    "check_version",
    "describe",
    "encode_keys",
    "matches",
    "parts",
]


class Described(NamedTuple):
    """What is kept of an object beside its content."""

    content_type: str | None
    metadata: dict[str, str]


def describe(key: object, content_type: object, metadata: object) -> Described:
    """Type and metadata as they are kept: names in lower case, everything else as it was given."""
    if content_type is not None:
        _check_text(key, content_type)
    if metadata is None:
        return Described(content_type, {})  # type: ignore[arg-type]
    if not isinstance(metadata, Mapping):
        raise InvalidArgumentError(f"the metadata of {key!r} is {type(metadata).__name__}, not a mapping")

    for text in (*metadata.keys(), *metadata.values()):
        _check_text(key, text)
    kept = {name.lower(): value for name, value in metadata.items()}
    if len(kept) < len(metadata):
        raise InvalidArgumentError(f"two names in the metadata of {key!r} differ in case alone")
    return Described(content_type, kept)  # type: ignore[arg-type]


def _check_text(key: object, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"the content type and the metadata of {key!r} are text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the content type or the metadata of {key!r} holds a lone surrogate") from None


def check_condition(key: object, if_absent: object, if_match: object) -> None:
    """At most one condition, and an etag is text."""
    if if_absent and if_match is not None:
        raise InvalidArgumentError(f"{key!r}: give if_absent or if_match, not both")
    if if_match is not None and not isinstance(if_match, str):
        raise InvalidArgumentError(f"{key!r}: an etag is str, not {type(if_match).__name__}")


def check_digest(key: object, sha256: object) -> None:
    """A SHA-256 digest, or None."""
    if sha256 is not None and (not isinstance(sha256, bytes) or len(sha256) != 32):
        raise InvalidArgumentError(f"{key!r}: a SHA-256 digest is 32 bytes")


def check_range(key: object, start: object, end: object) -> None:
    """Bounds that some content could have."""
    for bound in (start, 0 if end is None else end):
        if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
            raise InvalidArgumentError(f"{key!r}: a bound is an integer from 0, not {bound!r}")
    if isinstance(start, int) and isinstance(end, int) and end < start:
        raise InvalidArgumentError(f"{key!r}: the range ends at {end}, before it starts at {start}")


def check_end(key: object, start: int, size: int) -> None:
    """A *start* that this content has."""
    if start > size:
        raise InvalidArgumentError(f"{key!r}: the range starts at {start}, beyond the {size} bytes of the content")


def check_version(key: object, version: object) -> None:
    """A version is text, or None."""
    if version is not None and not isinstance(version, str):
        raise InvalidArgumentError(f"{key!r}: a version is str, not {type(version).__name__}")


def check_expires(key: object, method: object, expires: object, limits: ObjectLimits) -> None:
    """A life that a URL may have, and a method that it may be for."""
    if method not in ("GET", "PUT"):
        raise InvalidArgumentError(f"{key!r}: a URL is for GET or PUT, not for {method!r}")
    number = not isinstance(expires, bool) and isinstance(expires, int | float) and math.isfinite(expires)
    if not number or not 0 < expires <= limits.max_presign:  # type: ignore[operator]
        raise InvalidArgumentError(f"{key!r}: a URL lives for a number of seconds in (0, {limits.max_presign:.0f}]")


def encode_keys(keys: Iterable[str], limits: ObjectLimits) -> dict[bytes, str]:
    """The UTF-8 form of each of *keys*, once, all of them checked before anything happens."""
    if isinstance(keys, str | bytes):
        raise InvalidArgumentError(f"keys is {type(keys).__name__}, not several keys")
    return {arguments.encode_key(key, limits): key for key in keys}


async def parts(
    key: object, data: object, size: int, limits: ObjectLimits, digest: bytes | None
) -> AsyncGenerator[tuple[bytes, bool], None]:
    """The content in parts of *size* bytes, each with whether it is the last; only that one may be shorter, or empty.

    It raises before the last part if all together is not what *digest* says or too large, and whatever the source raises.
    """
    found = hashlib.sha256()
    pieces: list[memoryview] = []
    length = total = 0
    async with aclosing(_chunks(key, data, size)) as chunks:
        async for chunk in chunks:
            total += len(chunk)
            if total > limits.value_bytes:
                raise TooLargeError(f"the content for {key!r} has more than {limits.value_bytes} bytes")
            if digest is not None:
                found.update(chunk)
            rest = memoryview(chunk)
            while rest:
                if length == size:
                    yield _joined(pieces), False
                    length = 0
                pieces.append(rest[: size - length])
                rest = rest[len(pieces[-1]) :]
                length += len(pieces[-1])
    if digest is not None and found.digest() != digest:
        raise InvalidArgumentError(f"the content for {key!r} does not have this SHA-256 digest")
    yield _joined(pieces), True


def _joined(pieces: list[memoryview]) -> bytes:
    """The *pieces* as one, of which none is kept: who is given the part holds it alone."""
    part = b"".join(pieces)
    pieces.clear()
    return part


async def _chunks(key: object, data: object, size: int) -> AsyncGenerator[bytes, None]:
    if isinstance(data, bytes):
        for start in range(0, len(data), size):
            yield data[start : start + size]
        return
    if not isinstance(data, AsyncIterable):
        raise InvalidArgumentError(f"the content for {key!r} is {type(data).__name__}, not bytes nor an async iterable of bytes")

    async for chunk in data:
        if not isinstance(chunk, bytes):
            raise InvalidArgumentError(f"a chunk for {key!r} is {type(chunk).__name__}, not bytes")
        yield chunk


def matches(etag: str | None, if_absent: bool, if_match: str | None) -> bool:
    """Whether an object with *etag*, None for none, meets the condition."""
    return not (if_absent and etag is not None) and (if_match is None or etag == if_match)
