"""Finding a planted text in whatever came out: in results, in exceptions, in any common encoding."""

import base64
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

__all__ = ["error_text", "reveals", "text_of"]

DEEPEST = 6


def reveals(text: str, secret: str) -> bool:
    """Whether *secret* occurs in *text*, plainly or in base64, hexadecimal, URL or JSON form."""
    return any(form in text for form in _forms(secret))


def _forms(secret: str) -> set[str]:
    data = secret.encode()
    forms = {secret, data.hex(), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    forms.add(json.dumps(secret)[1:-1])
    # Base64 looks different at each of three alignments; the first and last characters depend on the neighbours.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + data).decode().rstrip("=")
        forms.add(encoded[(0, 2, 3)[shift] : -1])
    return forms


def error_text(error: BaseException) -> str:
    """All text of *error*: its message, arguments and notes, and those of its causes and contexts."""
    texts: list[str] = []
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue

        seen.add(id(each))
        try:
            text = str(each)
        except Exception:
            text = ""  # Its arguments still speak.
        texts += [text, text_of(each.args), *getattr(each, "__notes__", [])]
        pending += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
    return "\n".join(texts)


def text_of(value: object, depth: int = 0) -> str:
    """Every text and every bytes inside *value*."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("latin-1")
    if depth > DEEPEST:
        return repr(value)
    if isinstance(value, Mapping):
        return "\n".join(text_of(each, depth + 1) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return "\n".join(text_of(each, depth + 1) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return "\n".join(text_of(getattr(value, field.name), depth + 1) for field in fields(value))
    if isinstance(value, BaseException):
        return error_text(value)

    return repr(value)
