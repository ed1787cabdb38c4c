"""What the adapters of secrets share: names that a backend can hold, and values that nothing shows by the way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from omnitck.shared.exceptions import InvalidArgumentError, SecretNotFoundError

__all__ = ["Content", "escape", "text_of", "texts_of", "unescape"]


@dataclass(frozen=True, slots=True)
class Content:
    """A secret on its way. Its repr, which is what a finished task and a report of local variables show, is silent."""

    data: bytes = field(repr=False)


def text_of(name: str, content: Content) -> str:
    """The text in *content*."""
    text = _text_or_none(content)
    if text is None:
        raise InvalidArgumentError(f"secret {name!r} is no text: read it with get_bytes")
    return text


def texts_of(found: Mapping[str, Content | None]) -> dict[str, str]:
    """The texts in *found*, where None stands for no secret: then one error names all that are missing."""
    missing = [name for name, content in found.items() if content is None]
    if missing:
        raise SecretNotFoundError(f"these secrets do not exist: {missing!r}")
    # In no variable: an error about one that is no text would show the others, in reports that print local variables.
    return {name: text_of(name, content) for name, content in found.items() if content is not None}


def _text_or_none(content: Content) -> str | None:
    # No error is raised here: a decoder's carries what it could not decode.
    try:
        return content.data.decode()
    except UnicodeDecodeError:
        return None


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
