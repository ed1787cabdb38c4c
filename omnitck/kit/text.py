"""Text about things that may be hostile: providers whose `repr` raises, values of a megabyte, secrets."""

import ast
import difflib
import os
import traceback
from collections.abc import Iterable, Iterator
from types import CodeType, TracebackType
from typing import Any

__all__ = [
    "UsageError",
    "causes_of",
    "describe",
    "describe_error",
    "foreign_traceback",
    "place_of",
    "shorten",
    "suggest",
    "unwrap",
]

LONGEST = 200

MOST_FRAMES = 40
"""The innermost frames of a traceback, of which an endless recursion has many."""


class UsageError(ValueError):
    """The kit was asked for something that cannot be: one sentence that says what is wrong, where, and what to do."""


def shorten(text: str, limit: int = LONGEST) -> str:
    """*text* on one line, its middle cut out if it is longer than *limit* characters."""
    if len(text) > limit:
        kept = limit // 2 - 15
        text = f"{text[:kept]}...({len(text) - 2 * kept} more characters)...{text[-kept:]}"
    if text.isprintable():
        return text

    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe(value: object, limit: int = LONGEST) -> str:
    """`repr(value)`, shortened; never raises, whatever the value does."""
    if isinstance(value, str | bytes) and len(value) > limit:
        kept = limit // 4
        return f"{value[:kept]!r}...({len(value)} long)...{value[-kept:]!r}"
    try:
        return shorten(repr(value), limit)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return f"<{type(value).__name__} object, whose __repr__ raised {type(error).__name__}>"


def describe_error(error: BaseException) -> str:
    """The type and the text of *error*, shortened; never raises."""
    try:
        text = shorten(str(error))
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as broken:
        return f"{type(error).__name__}, whose __str__ raised {type(broken).__name__}"

    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the near matches of *name*, or everything known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"

    return f"known are {', '.join(known)}." if known else "none is known here."


def unwrap(error: BaseException) -> BaseException:
    """The first real error inside nested exception groups: runners and readers want the leaf."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """*error*, what it came of, and so on to the first cause: the leaves of groups, each once."""
    seen: set[int] = set()
    following: BaseException | None = unwrap(error)
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        before = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
        following = before and unwrap(before)


def place_of(error: BaseException, *, in_kit: bool = False) -> str:
    """Where *error* was raised, as `stores.py line 3`; nothing if that was nowhere in foreign code, or in the kit's own.

    The innermost frame outside of the standard library is named, and where there is one, outside of packages that are installed.
    """
    files = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    kit = [each for each in files if each[0].startswith(_KIT)]
    packages = [each for each in files if "site-packages" in each[0] and each not in kit]
    own = [each for each in files if not each[0].startswith((_KIT, _LIBRARY, "<frozen")) and each not in packages]
    found = kit if in_kit else own or packages
    return f"{os.path.basename(found[-1][0])} line {found[-1][1]}" if found else ""


def foreign_traceback(error: BaseException, *, shown: bool = True) -> TracebackType | None:
    """Where *error* was raised, without the kit's own frames, and without anybody's variables, which runners would print.

    pytest shows the innermost frame alone, if it is to be *shown*.
    """
    found: TracebackType | None = None
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))[-MOST_FRAMES:]):
        code = frame.f_code
        if not code.co_filename.startswith(_KIT):
            module = str(frame.f_globals.get("__name__"))
            bare = _bare_traceback(code, module, line, hidden=not shown or found is not None)
            found = bare and TracebackType(found, bare.tb_frame, bare.tb_lasti, line)
    return found


def _bare_traceback(code: CodeType, module: str, line: int, *, hidden: bool) -> TracebackType | None:
    """One frame that says that it is in *code*, and holds nothing."""
    name = code.co_name if code.co_name.isidentifier() else "module"
    source = f"def {name}():\n {'__tracebackhide__ = True' if hidden else 'pass'}\n raise Exception"
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            vars(node).update(lineno=line, end_lineno=line, col_offset=-1, end_col_offset=-1)
    vars(tree.body[0]).update(lineno=code.co_firstlineno or line)
    made: dict[str, Any] = {"__name__": module}
    exec(compile(tree, code.co_filename, "exec"), made)
    function = made[name]
    function.__code__ = function.__code__.replace(co_name=code.co_name, co_qualname=code.co_qualname)
    try:
        function()
    except Exception as raised:
        return raised.__traceback__ and raised.__traceback__.tb_next
    return None


_KIT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
