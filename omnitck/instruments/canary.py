"""Finding a planted text in whatever came out: in results, in exceptions, in log records, in any common encoding."""

import base64
import functools
import io
import json
import logging
import traceback
import types
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, is_dataclass

__all__ = ["Overheard", "error_text", "locals_text", "overhearing", "reveals", "text_of"]

DEEPEST = 6


def reveals(text: str, secret: str) -> bool:
    """Whether *secret* occurs in *text*, plainly or in base64, hexadecimal, URL or JSON form."""
    return any(form in text for form in _forms(secret))


@functools.lru_cache(maxsize=64)
def _forms(secret: str) -> frozenset[str]:
    data = secret.encode()
    forms = {secret, data.hex(), data.hex().upper(), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    forms |= {json.dumps(secret)[1:-1], repr(secret)[1:-1], repr(data)[2:-1], data.decode("latin-1")}
    # Base64 looks different at each of three alignments; the first and last characters depend on the neighbours.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + data).decode().rstrip("=")
        middle = encoded[(0, 2, 3)[shift] : -1]
        forms |= {middle, middle.replace("+", "-").replace("/", "_")}
    return frozenset(forms)


def error_text(error: BaseException, depth: int = 0) -> str:
    """All text of *error*: its message, arguments, attributes and notes, and those of its causes and contexts."""
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
        texts += [text, text_of(each.args, depth + 1)]
        # Notes are among the attributes.
        for value in vars(each).values():
            if isinstance(value, BaseException):
                pending.append(value)
            else:
                texts.append(text_of(value, depth + 1))
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
        return _repr(value)
    if isinstance(value, Mapping):
        return "\n".join(text_of(each, depth + 1) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return "\n".join(text_of(each, depth + 1) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return "\n".join(text_of(getattr(value, field.name), depth + 1) for field in fields(value))
    if isinstance(value, BaseException):
        return error_text(value, depth + 1)

    return _repr(value)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return type(error).__name__


def locals_text(error: BaseException, *, but_in: tuple[str, ...]) -> str:
    """What a report with local variables would show of *error* and its causes, without the frames of modules *but_in*."""
    texts: list[str] = []
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue

        seen.add(id(each))
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not str(frame.f_globals.get("__name__")).startswith(but_in):
                texts += _locals(frame)
        pending += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
    return "\n".join(texts)


def _locals(frame: types.FrameType) -> list[str]:
    """The same that `traceback.TracebackException(capture_locals=True)` would keep."""
    return [_repr(value) for value in frame.f_locals.values()]


@dataclass
class Overheard:
    """What came out beside results and exceptions."""

    records: list[tuple[str, int, str]] = field(default_factory=list)
    """Of each log record its logger, its level and all its text."""
    caught: list[warnings.WarningMessage] = field(default_factory=list)
    stream: io.StringIO = field(default_factory=io.StringIO)

    def places(self, own: str, *, third_party_debug: bool) -> Iterator[tuple[str, str]]:
        """Where something was said, and what. Of loggers outside *own* only INFO and above, or only what is below."""
        for logger, level, text in self.records:
            foreign_debug = level < logging.INFO and not _is_under(logger, own)
            if foreign_debug is third_party_debug:
                yield f"a record of the logger {logger!r} at {logging.getLevelName(level)}", text
        if not third_party_debug:
            for each in self.caught:
                yield f"a {each.category.__name__}", text_of(each.message)
            yield "the standard streams", self.stream.getvalue()


class _Records(logging.Handler):
    """Keeps all that is logged, with its arguments, extras and tracebacks."""

    def __init__(self, kept: list[tuple[str, int, str]]) -> None:
        super().__init__(logging.DEBUG)
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:
            text = ""  # Its arguments still speak.
        extras = {key: value for key, value in vars(record).items() if key != "exc_info"}
        texts = [text, text_of(extras)]
        if record.exc_info and record.exc_info[1] is not None:
            texts.append(error_text(record.exc_info[1]))
        self.kept.append((record.name, record.levelno, "\n".join(texts)))


def _is_under(logger: str, package: str) -> bool:
    return logger == package or logger.startswith(f"{package}.")


@contextmanager
def overhearing(own: str) -> Iterator[Overheard]:
    """Keep what is logged, warned of and printed meanwhile; the loggers of the package *own*, and the root, say everything.

    Process-wide: a rule that uses it is exclusive. A logger outside *own* with a level of its own keeps it: who silences a
    library has done what can be done.
    """
    heard = Overheard()
    handler = _Records(heard.records)
    root = logging.getLogger()
    ours = logging.getLogger(own)
    others = [each for each in list(root.manager.loggerDict.values()) if isinstance(each, logging.Logger)]
    told = [root, ours, *(each for each in others if each is not ours and _is_under(each.name, own))]
    levels = [(each, each.level) for each in told]
    listening = [root, *(each for each in {ours, *others} if not each.propagate)]
    disabled = logging.root.manager.disable
    with ExitStack() as stack:
        stack.callback(logging.disable, disabled)
        logging.disable(logging.NOTSET)
        for logger, level in levels:
            stack.callback(logger.setLevel, level)
            logger.setLevel(logging.DEBUG)
        for logger in listening:
            # In place of the application's: what is planted goes nowhere else.
            stack.callback(setattr, logger, "handlers", logger.handlers)
            logger.handlers = [handler]
        heard.caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        stack.enter_context(redirect_stdout(heard.stream))
        stack.enter_context(redirect_stderr(heard.stream))
        yield heard
