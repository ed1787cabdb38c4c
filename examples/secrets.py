"""What the adapters of secrets share: names that a backend can hold, and values that nothing shows by the way."""

import re
from dataclasses import dataclass, field

from omnitck.shared.exceptions import InvalidArgumentError

__all__ = ["Content", "escape", "not_text", "text_or_none", "unescape"]


@dataclass(frozen=True, slots=True)
class Content:
    """A secret on its way. Its repr, which is what a finished task and a report of local variables show, is silent."""

    data: bytes = field(repr=False)


def text_or_none(content: Content) -> str | None:
    """The text in *content*; None if it is no UTF-8. No error is raised here: a decoder's carries what it could not decode."""
    try:
        return content.data.decode()
    except UnicodeDecodeError:
        return None


def not_text(name: str) -> InvalidArgumentError:
    """What is said of a secret that is no UTF-8."""
    return InvalidArgumentError(f"secret {name!r} is no text: read it with get_bytes")


def escape(text: bytes, kept: str) -> str:
    """*text* with `=XX` for each byte but letters, digits, and the characters of *kept*, of which `=` must be none."""
    plain = re.compile(f"[A-Za-z0-9{re.escape(kept)}]")
    return "".join(chr(byte) if plain.match(chr(byte)) else f"={byte:02X}" for byte in text)


def unescape(escaped: str) -> str | None:
    """What was escaped; None if `escape` never wrote this."""
    if re.search("=(?![0-9A-F]{2})", escaped) or not escaped.isascii():
        return None
    try:
        return re.sub(b"=(..)", lambda found: bytes.fromhex(found[1].decode()), escaped.encode()).decode()
    except UnicodeDecodeError:
        return None
