"""What the rules of a document database stand on: its cells, hostile values and filters, a plain reading of the language, a walk.

`matches` is the oracle: the sentences of the protocol in Python, written without looking at any provider.
"""

import copy
import json
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property, partial
from typing import Any

from omnitck.common.cells import Alias, Cells
from omnitck.instruments import walk
from omnitck.instruments.walk import Move, Name, Step, Version
from omnitck.kit.concurrency import drain
from omnitck.kit.definition import Operation
from omnitck.kit.rules import needs
from omnitck.kit.trial import Trial
from omnitck.shared.exceptions import AlreadyExistsError, ConflictError, InvalidArgumentError
from omnitck.shared.models import Limits

__all__ = [
    "ATTACKS",
    "COLLECTIONS",
    "CORPUS",
    "MAPS",
    "MISSING",
    "MOMENTS",
    "OPERATORS",
    "OUTSIDE",
    "PATHS",
    "SCALARS",
    "SETS",
    "SORTED",
    "VALUES",
    "Document",
    "DocumentCells",
    "Walked",
    "comparable",
    "difference",
    "field_of",
    "json_bytes",
    "matches",
    "nested",
    "random_steps",
    "revision_of",
]

Document = dict[str, Any]


class _Missing:
    """What is in a field that a document does not have."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
DEEPEST = 32


def nested(depth: int) -> Any:
    """Maps and lists in turn, *depth* of them, around a number."""
    value: Any = 1
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


VALUES: Mapping[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "zero": 0,
    "one": 1,
    "minus one": -1,
    "the largest integer": 2**53 - 1,
    "the smallest integer": -(2**53) + 1,
    "0.0": 0.0,
    "1.0": 1.0,
    "a third": 1 / 3,
    "a tenth": 0.1,
    "a large float": 1e300,
    "the largest float": 1.7976931348623157e308,
    "the smallest float": 5e-324,
    "no text": "",
    "text": "a",
    "a number as text": "1",
    "a date as text": "2024-01-31T12:00:00Z",
    "null as text": "null",
    "true as text": "true",
    "JSON as text": '{"$oid": "5f3c"}',
    "every ASCII character but U+0000": "".join(map(chr, range(1, 128))),
    "beyond ASCII": "caf\u00e9 cafe\u0301 \U0001f511\U00010000\U0010ffff",
    "line ends": "a\r\nb\n",
    "white space around": "  a \t",
    "an empty list": [],
    "an empty map": {},
    "a list of every type": [None, True, 1, 1.0, "1", [], {}],
    "lists of lists": [[1, [2.0, [True]]], []],
    "a map of every type": {"null": None, "true": True, "int": 1, "float": 1.0, "text": "1", "list": [{}], "map": {"a": []}},
    "maps of maps": {"a": {"b": {"c": None}}},
    "32 deep": nested(DEEPEST - 1),
    "odd names": {" ": 1, "a b": 1, "caf\u00e9": 1, "cafe\u0301": 2, "a$b": 1, "1": 1, "_id": 1, "__proto__": 1},
    "names in two cases": {"a": 1, "A": 2},
    "names of SQL": {"select": 1, 'a"b': 2, "a'b": 3, "a`b": 4, "a\\b": 5, "a[0]": 6, "a:b": 7, "#a": 8, "*": 9},
}
"""One of each kind that the language has, and what drivers make of them."""

OUTSIDE: Mapping[str, Mapping[Any, Any]] = {
    "not a number": {"f": float("nan")},
    "infinity": {"f": float("inf")},
    "U+0000 in text": {"f": "a\x00b"},
    "a lone surrogate": {"f": "a\ud800"},
    "a set": {"f": {1, 2}},
    "a tuple": {"f": (1, 2)},
    "2**70": {"f": 2**70},
    "2**63": {"f": 2**63},
    "complex": {"f": 1j},
    "a bytearray": {"f": bytearray(b"a")},
    "an object": {"f": object},
    "a set in a list": {"f": [{"g": {1}}]},
    "a name that is a number": {1: "v"},
    "a name in a map that is a number": {"f": {1: "v"}},
    "a name in a map that is None": {"f": {None: "v"}},
    "an empty name": {"": "v"},
    "a name with $": {"$f": "v"},
    "a name in a map with $": {"f": {"$g": "v"}},
    "a name with U+0000": {"f\x00g": "v"},
    "a name in a map with a dot": {"f": {"g.h": "v"}},
    "33 deep": {"f": nested(DEEPEST)},
}
"""Fields that are not in the language, whatever is declared."""

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, 1.0, -1, 1.5, 10, 2**53 - 1,
    "", "1", "1.0", "10", "a", "A", "a ", "\u00e1", "a\u0301", "true", "True", "null", "None", "ss", "\u00df", "\uffff",
    "\U00010000",
)  # fmt: skip

CORPUS: tuple[Any, ...] = (MISSING, *SCALARS, [], [1], ["a"], [None], [1, "a"], {}, {"a": 1}, {"f": "a"})
"""What the field `f` holds in the documents that a filter chooses from."""

OPERATORS: tuple[Mapping[str, Any], ...] = (
    *({operator: operand} for operator in ("$gt", "$gte", "$lt", "$lte") for operand in (1, 1.0, 0, 1.5, "", "1", "a", "\uffff")),
    *({"$ne": operand} for operand in (None, True, 1, 1.0, "a", "", "nowhere")),
    {"$in": []},
    {"$in": [1]},
    {"$in": [None]},
    {"$in": [True, "a", 1.5]},
    {"$in": ["1", "A", 10, "nowhere"]},
    {"$nin": []},
    {"$nin": [None]},
    {"$nin": [1, "a", False]},
    {"$exists": True},
    {"$exists": False},
    {"$gt": 0, "$lt": 10},
    {"$gte": 1, "$ne": 1},
    {"$gte": "1", "$lt": "a"},
    {"$in": [1, 10, "a"], "$gt": 5},
    {"$exists": True, "$nin": [None]},
)

MOMENTS: Mapping[str, datetime] = {
    "UTC": datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC),
    "an offset": datetime(2024, 7, 1, 0, 15, 0, 7_000, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    "a negative offset": datetime(2023, 12, 31, 23, 59, 59, 999_000, tzinfo=timezone(-timedelta(hours=9, minutes=30))),
    "whole seconds": datetime(2024, 1, 1, tzinfo=UTC),
    "before 1970": datetime(1931, 5, 6, 7, 8, 9, 10_000, tzinfo=UTC),
    "beyond 2038": datetime(2101, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC),
    "the last": datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    "microseconds": datetime(2024, 1, 31, 1, 2, 3, 123_456, tzinfo=UTC),
}

MAPS: Mapping[str, Document] = {
    "deep": {"a": {"b": {"c": 1}, "keep": [1]}, "keep": 1},
    "null": {"a": {"b": None}},
    "empty": {"a": {}},
    "scalar": {"a": 1},
    "text": {"a": "b"},
    "list": {"a": [{"b": 1}, {"b": {"c": 1}}]},
    "index": {"a": {"0": {"c": 1}}},
    "nothing": {},
}
"""Documents in which paths through `a` lead somewhere, or do not."""

PATHS: tuple[Mapping[str, Any], ...] = (
    {"a.b.c": 1}, {"a.b": None}, {"a.b": 1}, {"a.0.c": 1}, {"a.0.b": 1}, {"a.1.b.c": 1}, {"a.keep": 1}, {"a": 1},
    {"a.b.c": 1, "keep": 1}, {"a.b.c": 1, "keep": 2}, {"a.b.c.d": 1}, {"b.c": 1},
)  # fmt: skip
"""Filters of `MAPS`."""

SETS: tuple[tuple[str, Mapping[str, Any], Document], ...] = (
    ("deep", {"a.b.c": 2}, {"a": {"b": {"c": 2}, "keep": [1]}, "keep": 1}),
    ("deep", {"a.b.d": {"e": 1}, "a.x": None}, {"a": {"b": {"c": 2, "d": {"e": 1}}, "keep": [1], "x": None}, "keep": 1}),
    ("empty", {"a.b.c.d": [1]}, {"a": {"b": {"c": {"d": [1]}}}}),
    ("nothing", {"x.y": 1, "x.z": 2, "top": 3}, {"x": {"y": 1, "z": 2}, "top": 3}),
    ("index", {"a.0.d": 1}, {"a": {"0": {"c": 1, "d": 1}}}),
)
"""One after another: which of `MAPS` is changed, the fields of a `$set`, and what the document then holds."""

SORTED: Mapping[str, tuple[Any, ...]] = {
    "numbers": (MISSING, None, -5, -0.5, 0, 0.5, 1, 1.0, 2, 10, 10, 9, None, MISSING, 2**40, 1e-7),
    "texts": (
        MISSING, None, "", "A", "B", "Z", "a", "aa", "b", "b", "\u00e1", "\u00df", "z", "10", "9", "\uffff", "\U00010000",
    ),
}  # fmt: skip
"""What the field `f` holds in documents that are put in order, by the kind of its values."""

ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "a quote": {"pw": "' OR 1=1 --"},
    "a double quote": {"pw": '" OR ""="'},
    "a quote and a comment": {"pw": "x'); DELETE FROM documents; --"},
    "a pattern of SQL": {"pw": "%"},
    "a pattern of shells": {"pw": "*"},
    "a regular expression": {"pw": ".*"},
    "a path of JSON": {"pw": "$.pw"},
    "a field's path": {"pw": "$pw"},
    "an operator as JSON": {"pw": '{"$ne": ""}'},
    "code": {"pw": "'; return true; var a='"},
    "$where": {"$where": "1 == 1"},
    "$where, a function": {"$where": "function() { return true }"},
    "$or": {"$or": [{}, {"pw": "x"}]},
    "$nor": {"$nor": []},
    "$expr": {"$expr": True},
    "$comment": {"$comment": "x"},
    "$regex": {"pw": {"$regex": ".*"}},
    "$not": {"pw": {"$not": {"$eq": "x"}}},
    "$where in a field": {"pw": {"$where": "1"}},
    "an operator and a field": {"pw": {"$exists": True, "a": 1}},
    "an empty map": {"pw": {}},
    "a map": {"pw": {"a": 1}},
    "an empty list": {"pw": []},
    "a list of an operator": {"pw": [{"$ne": ""}]},
    "a quote in a name": {"pw' IS NOT NULL OR '1'='1": "1"},
    "a double quote in a name": {'pw" IS NOT NULL OR "1"="1': "1"},
    "a bracket in a name": {"pw') IS NOT NULL --": "1"},
}
"""Filters that an application was talked into. None matches a document whose `pw` is an ordinary text."""

COLLECTIONS: tuple[str, ...] = (
    "a", "A", "a-b", "a_b", "a.b", "a b", "a ", "a/b", "a\\b", "a'b", 'a"b', "a`b", "a;b", "a$b", "a%b", "a*", "a\u00e9",
    "ae\u0301", "\u00df", "ss", "a:b", "a::b", "a#b", "-", "--", "_", "1", "01",
)  # fmt: skip
"""Ends of names of collections. Those of `a-z 0-9 _ -` alone must be taken."""


def kind(value: object) -> str:
    """The type of a value, in a language that has one of numbers."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def field_of(document: Mapping[str, Any], path: str) -> Any:
    """What is at *path*, which goes through maps alone."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


def same_scalar(value: object, wanted: object) -> bool:
    """Whether a field that holds *value* equals *wanted*."""
    if value is MISSING or isinstance(value, list | dict):
        return False
    return kind(value) == kind(wanted) and value == wanted


def matches(document: Mapping[str, Any], filter: Mapping[str, Any]) -> bool:
    """Whether *document* is one that *filter* asks for."""
    return all(_holds(field_of(document, path), wanted) for path, wanted in filter.items())


def _holds(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, Mapping):
        return same_scalar(value, wanted)

    return all(_applies(value, operator, operand) for operator, operand in wanted.items())


def _applies(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$exists":
        return bool((value is not MISSING) == operand)
    if operator == "$in":
        return any(same_scalar(value, each) for each in operand)
    if value is MISSING:
        return False
    if operator == "$ne":
        return not same_scalar(value, operand)
    if operator == "$nin":
        return not any(same_scalar(value, each) for each in operand)
    if kind(value) != kind(operand) or kind(value) not in ("number", "str"):
        return False
    below, equal = value < operand, value == operand
    return bool({"$gt": not below and not equal, "$gte": not below, "$lt": below, "$lte": below or equal}[operator])


def difference(observed: Any, expected: Any, where: str = "") -> str:
    """The first place where two values differ in anything, a type included; empty if they are the same.

    A container may be of a subclass, as everywhere.
    """
    own = type(expected)
    if not isinstance(observed, own) or (type(observed) is not own and own not in (dict, list, tuple)):
        return f"{where or 'it'} is of type {type(observed).__name__}, not {type(expected).__name__}"

    pairs: Iterable[tuple[str, Any, Any]]
    if isinstance(expected, dict):
        for name in {**expected, **observed}:
            if name not in observed or name not in expected:
                return f"{where}[{name!r}] {'is missing' if name in expected else 'was added'}"
        if any(
            type(name) is not type(own) for name, own in zip(sorted(observed, key=repr), sorted(expected, key=repr), strict=True)
        ):
            return f"{where or 'it'} has names of other types"
        pairs = ((f"{where}[{name!r}]", observed[name], value) for name, value in expected.items())
    elif isinstance(expected, list | tuple):
        if len(observed) != len(expected):
            return f"{where or 'it'} has {len(observed)} elements, not {len(expected)}"
        pairs = ((f"{where}[{number}]", *each) for number, each in enumerate(zip(observed, expected, strict=True)))
    elif isinstance(expected, float) and math.isnan(expected):
        return "" if math.isnan(observed) else f"{where or 'it'} is {observed!r}, not nan"
    else:
        return "" if observed == expected else f"{where or 'it'} is {_short(observed)}, not {_short(expected)}"
    return next(filter(None, (difference(one, other, place) for place, one, other in pairs)), "")


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def json_bytes(document: Any) -> int:
    """How long the shortest JSON text of *document* is, in bytes of UTF-8."""
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())


class DocumentCells(Cells[Any]):
    """The documents of one collection of a rule's own: the name is the `_id`, the token is in the field `token`."""

    def __init__(self, t: Trial[Any]) -> None:
        self.t = t

    @property
    def collection(self) -> str:
        """Where the documents are."""
        return self.t.namespace

    @cached_property
    def operations(self) -> tuple[Operation, ...]:  # type: ignore[override]
        """See `Cells.operations`."""
        c = self.collection
        there = partial(_insert, c)
        return (
            Operation("insert_one", lambda p, n, t: p.insert_one(c, {"_id": n, "token": t}), "insert_one", writes=True),
            Operation("find_one", lambda p, n, t: p.find_one(c, {"_id": n}), "find_one"),
            Operation("find_many", lambda p, n, t: p.find_many(c, {"_id": n}), "find_many"),
            Operation("find_many of everything", lambda p, n, t: p.find_many(c, {}), "find_many", needs_legal_name=False),
            Operation(
                "update_one", lambda p, n, t, _=None: p.update_one(c, {"_id": n}, _set(t)), "update_one", writes=True,
                arrange=there,
            ),
            Operation("delete_one", lambda p, n, t, _=None: p.delete_one(c, {"_id": n}), "delete_one", arrange=there),
            Operation(
                "find_many with $in", lambda p, n, t: p.find_many(c, {"_id": {"$in": [n]}}), "find_many", "query_operators"
            ),
            Operation(
                "find_many by a path", lambda p, n, t: p.find_many(c, {"_id": n, "map.field": t}), "find_many", "nested_paths"
            ),
            Operation(
                "update_one of a path", lambda p, n, t, _=None: p.update_one(c, {"_id": n}, {"$set": {"map.field": t}}),
                "update_one", "nested_paths", arrange=there,
            ),
            Operation(
                "find_many in order", lambda p, n, t: p.find_many(c, {"_id": n}, sort="token"), "find_many", "sort_page",
                argument="sort",
            ),
            Operation(
                "find_many of a page", lambda p, n, t: p.find_many(c, {}, limit=1, offset=1), "find_many", "sort_page",
                argument="offset", needs_legal_name=False,
            ),
            Operation(
                "find_one of fields", lambda p, n, t: p.find_one(c, {"_id": n}, projection=["a"]), "find_one", "projection",
                argument="projection",
            ),
            Operation(
                "find_many of fields", lambda p, n, t: p.find_many(c, {"_id": n}, projection=["a"]), "find_many", "projection",
                argument="projection",
            ),
            Operation("find_iter", lambda p, n, t: drain(p.find_iter(c, {"_id": n})), "find_iter", "streaming"),
            Operation(
                "update_one with $inc", lambda p, n, t, _=None: p.update_one(c, {"_id": n}, {"$inc": {"n": 1}}), "update_one",
                "update_operators", arrange=there,
            ),
            Operation(
                "update_one with $push", lambda p, n, t, _=None: p.update_one(c, {"_id": n}, {"$push": {"l": t}}), "update_one",
                "update_operators", arrange=there,
            ),
            Operation(
                "update_one with $unset", lambda p, n, t, _=None: p.update_one(c, {"_id": n}, {"$unset": {"l": ""}}),
                "update_one", "update_operators", arrange=there,
            ),
            Operation(
                "replace_one", lambda p, n, t, _=None: p.replace_one(c, {"_id": n}, {"token": t}), "replace_one", "upsert",
                writes=True, arrange=there,
            ),
            Operation(
                "replace_one with upsert", lambda p, n, t: p.replace_one(c, {"_id": n}, {"token": t}, upsert=True), "replace_one",
                "upsert", writes=True,
            ),
            Operation(
                "insert_many", lambda p, n, t: p.insert_many(c, [{"_id": n, "token": t}]), "insert_many", "batch", writes=True
            ),
            Operation("delete_many", lambda p, n, t, _=None: p.delete_many(c, {"_id": n}), "delete_many", "batch", arrange=there),
            Operation(
                "delete_many of everything", lambda p, n, t, _=None: p.delete_many(c, {}), "delete_many", "batch",
                needs_legal_name=False, wide=True, arrange=there,
            ),
            Operation("transaction", partial(_write_in_transaction, c), "transaction", "transaction", writes=True),
        )  # fmt: skip

    @cached_property
    def refusals(self) -> tuple[Operation, ...]:  # type: ignore[override]
        """See `Cells.refusals`."""
        c = self.collection
        return (
            Operation(
                "insert_one of an _id that is taken", lambda p, n, t: p.insert_one(c, {"_id": n, "token": t}), "insert_one",
                refusal=AlreadyExistsError,
            ),
            Operation(
                "insert_one of a set", lambda p, n, t: p.insert_one(c, {"_id": f"{n}-new", n: {t}}), "insert_one",
                refusal=InvalidArgumentError,
            ),
            Operation(
                "update_one with a set", lambda p, n, t: p.update_one(c, {"_id": n}, {"$set": {n: {t}}}), "update_one",
                refusal=InvalidArgumentError,
            ),
            Operation(
                "update_one with $inc of text",
                # The field is called as the document is, so that an error may name either.
                lambda p, n, t, _=None: p.update_one(c, {"_id": n}, {"$inc": {n: 1}}), "update_one", "update_operators",
                arrange=lambda p, n, t: p.update_one(c, {"_id": n}, {"$set": {n: t}}), refusal=InvalidArgumentError,
            ),
            Operation(
                "update_one with a stale _rev", lambda p, n, t, rev="s": p.update_one(c, {"_id": n, "_rev": rev}, _set(t)),
                "update_one", "revision", arrange=partial(_outdate, c), refusal=ConflictError,
            ),
            Operation(
                "delete_one with a stale _rev", lambda p, n, t, rev="s": p.delete_one(c, {"_id": n, "_rev": rev}), "delete_one",
                "revision", arrange=partial(_outdate, c), refusal=ConflictError,
            ),
            Operation(
                "replace_one with another _id", lambda p, n, t: p.replace_one(c, {"_id": n}, {"_id": "other", "token": t}),
                "replace_one", "upsert", refusal=InvalidArgumentError,
            ),
            Operation(
                "insert_many of an _id that is taken", lambda p, n, t: p.insert_many(c, [{"_id": n, "token": t}]), "insert_many",
                "batch", refusal=AlreadyExistsError,
            ),
        )  # fmt: skip

    async def write(self, provider: Any, name: str, token: str) -> None:
        """See `Cells.write`."""
        if await provider.update_one(self.collection, {"_id": name}, _set(token)):
            return
        try:
            await provider.insert_one(self.collection, {"_id": name, "token": token})
        except AlreadyExistsError:
            await provider.update_one(self.collection, {"_id": name}, _set(token))

    async def read(self, provider: Any, name: str) -> str | None:
        """See `Cells.read`."""
        found = await provider.find_one(self.collection, {"_id": name})
        return None if found is None else found.get("token")

    async def erase(self, provider: Any, name: str) -> None:
        """See `Cells.erase`."""
        await provider.delete_one(self.collection, {"_id": name})

    async def names(self, provider: Any, prefix: str) -> list[str]:
        """See `Cells.names`."""
        return [each["_id"] for each in await provider.find_many(self.collection, {}) if each["_id"].startswith(prefix)]

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """See `Cells.state`."""
        return (await provider.find_one(self.collection, {"_id": name}),)

    async def create(self, provider: Any, name: str, token: str) -> None:
        """See `Cells.create`."""
        await provider.insert_one(self.collection, {"_id": name, "token": token})

    @needs("revision")
    async def handles(self, provider: Any, name: str) -> list[str]:
        """See `Cells.handles`."""
        found = await provider.find_one(self.collection, {"_id": name})
        return [] if found is None else [found["_rev"]]

    @needs("revision")
    async def replay(self, provider: Any, name: str, handle: str, token: str) -> None:
        """See `Cells.replay`."""
        await provider.update_one(self.collection, {"_id": name, "_rev": handle}, _set(token))

    @needs("batch")
    async def erase_many(self, provider: Any, names: list[str]) -> None:
        """See `Cells.erase_many`."""
        await provider.delete_many(self.collection, {})

    async def tidy(self, provider: Any, touched: str) -> None:
        """See `Cells.tidy`."""
        if "batch" in self.t.declared:
            await provider.delete_many(touched, {})
            return
        for each in await provider.find_many(touched, {}):
            await provider.delete_one(touched, {"_id": each["_id"]})

    def room(self, limits: Limits, name: str) -> int:
        """See `Cells.room`."""
        return int(getattr(limits, "document_bytes", 0)) - json_bytes({"_id": name, "token": ""})

    def aliases(self) -> Sequence[Alias]:
        """See `Cells.aliases`."""
        where = self.collection
        reads: dict[str, tuple[str, Callable[[Any, str], Awaitable[Any]]]] = {
            "find_one": ("", lambda p, n: p.find_one(where, {"_id": n})),
            "find_many": ("", lambda p, n: p.find_many(where, {"_id": n})),
            "find_iter": ("streaming", lambda p, n: drain(p.find_iter(where, {"_id": n}))),
        }
        writes: dict[str, tuple[str, Callable[[Any, str, Document], Awaitable[object]]]] = {
            "insert_one": ("", lambda p, n, given: p.insert_one(where, given)),
            "update_one": ("", partial(_set_all, where)),
            "replace_one": ("upsert", partial(_replace, where)),
            "insert_many": ("batch", lambda p, n, given: p.insert_many(where, [given])),
        }
        return (
            *(
                Alias(f"a document given to {label}", partial(_change_written, where, write), needed)
                for label, (needed, write) in writes.items()
            ),
            *(
                Alias(f"the result of {label}", partial(_change_read, where, read), needed)
                for label, (needed, read) in reads.items()
            ),
        )


def _mutable(name: str, token: str) -> Document:
    return {"_id": name, "token": token, "list": [token, {"a": [1]}], "map": {"a": {"b": [2]}}}


def _spoil(document: Document) -> None:
    document["token"] = "spoilt"
    document["list"][1]["a"].append("spoilt")
    document["map"]["a"]["b"].clear()
    document["map"]["spoilt"] = True


async def _set_all(where: str, provider: Any, name: str, given: Document) -> None:
    await provider.insert_one(where, {"_id": name})
    await provider.update_one(where, {"_id": name}, {"$set": _without_id(given)})


async def _replace(where: str, provider: Any, name: str, given: Document) -> None:
    await provider.insert_one(where, {"_id": name})
    await provider.replace_one(where, {"_id": name}, given)


async def _change_written(where: str, write: Any, provider: Any, name: str, token: str) -> tuple[object, object]:
    given = _mutable(name, token)
    await write(provider, name, given)
    _spoil(given)
    return await _stored(where, provider, name), _mutable(name, token)


async def _change_read(where: str, read: Any, provider: Any, name: str, token: str) -> tuple[object, object]:
    await provider.insert_one(where, _mutable(name, token))
    found = await read(provider, name)
    _spoil(found[0] if isinstance(found, list) else found)
    return await _stored(where, provider, name), _mutable(name, token)


async def _stored(where: str, provider: Any, name: str) -> object:
    found = await provider.find_one(where, {"_id": name})
    return found and {each: found[each] for each in found if each != "_rev"}


def _set(token: str) -> Document:
    return {"$set": {"token": token}}


def _without_id(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "_id"}


async def _insert(collection: str, provider: Any, name: str, token: str) -> None:
    await provider.insert_one(collection, {"_id": name, "l": [token]})


async def _write_in_transaction(collection: str, provider: Any, name: str, token: str) -> None:
    # Once: a clash with another writer is an answer of the call's, and whether to try again is its caller's business.
    async with provider.transaction() as inside:
        if not await inside.update_one(collection, {"_id": name}, _set(token)):
            await inside.insert_one(collection, {"_id": name, "token": token})


async def _outdate(collection: str, provider: Any, name: str, token: str) -> str:
    """Write the document once more; the `_rev` that it had before, or one of nobody's if it is not there."""
    held = await provider.find_one(collection, {"_id": name})
    await provider.update_one(collection, {"_id": name}, _set(token))
    return "s" if held is None else str(held["_rev"])


class Walked:
    """A database whose operations are made on one collection: every replay has a fresh one, and so the same start."""

    def __init__(self, database: Any, collection: str) -> None:
        self.database = database
        self.collection = collection

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return partial(getattr(self.database, method), self.collection)


class WalkStep(Step):
    """Prints the collection as well."""

    def __str__(self) -> str:
        return super().__str__().replace("(", '("c", ', 1)


def random_steps(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over the declared operations."""
    scalars: tuple[Any, ...] = (None, True, 0, 1, 1.5, "", "x")
    values: tuple[Any, ...] = (*scalars, [], [1, "x"], {}, {"b": 1})

    def step(method: str, *arguments: object, **keywords: object) -> Step:
        return WalkStep(method, arguments, keywords)

    def value() -> Any:
        return copy.deepcopy(chance.choice(values))

    def document(key: Name) -> Document:
        kept = {"a": value(), "m": value(), "n": chance.choice((1, 2, 2.5, None))}
        return {"_id": key, **{name: each for name, each in kept.items() if chance.random() < 0.7}}

    def field() -> str:
        return chance.choice("am")

    actions: list[Move] = [
        ("", lambda key: step("insert_one", document(key))),
        ("", lambda key: step("insert_one", document(key))),
        ("", lambda key: step("update_one", {"_id": key}, {"$set": {field(): value()}})),
        ("", lambda key: step("update_one", {"_id": key, field(): chance.choice(scalars)}, {"$set": {field(): value(), "n": 7}})),
        ("", lambda key: step("delete_one", {"_id": key})),
        ("", lambda key: step("delete_one", {"_id": key, field(): chance.choice(scalars)})),
        ("revision", lambda key: step("update_one", {"_id": key, "_rev": Version(key.number)}, {"$set": {"a": value()}})),
        ("upsert", lambda key: step("replace_one", {"_id": key}, _without_id(document(key)), upsert=chance.random() < 0.5)),
        (
            "update_operators",
            lambda key: step("update_one", {"_id": key}, {"$inc": {chance.choice("na"): chance.choice((1, -2, 0.5))}}),
        ),
        ("update_operators", lambda key: step("update_one", {"_id": key}, {"$push": {field(): value()}, "$set": {"n": 3}})),
        ("update_operators", lambda key: step("update_one", {"_id": key}, {"$unset": {field(): ""}})),
        ("nested_paths", lambda key: step("update_one", {"_id": key}, {"$set": {"m.b": value()}})),
        ("batch", lambda key: step("insert_many", [document(key), document(walk.other(key))])),
        ("batch", lambda key: step("delete_many", {field(): chance.choice(scalars), "n": 7})),
    ]
    looks: list[Move] = [
        ("", lambda key: step("find_one", {"_id": key})),
        ("", lambda key: step("find_one", {"_id": key})),
        ("", lambda key: step("find_many", {field(): chance.choice(scalars)})),
        ("", lambda key: step("find_many", {})),
        (
            "query_operators",
            lambda key: step("find_many", {field(): {chance.choice(("$gte", "$ne", "$lt")): chance.choice((1, "x"))}}),
        ),
        ("query_operators", lambda key: step("find_many", {field(): {"$exists": chance.random() < 0.5}})),
        ("nested_paths", lambda key: step("find_many", {"m.b": chance.choice(scalars)})),
        (
            "sort_page",
            lambda key: step("find_many", {}, sort="n", descending=chance.random() < 0.5, offset=chance.choice((0, 1))),
        ),
        ("projection", lambda key: step("find_one", {"_id": key}, projection=["a", "n"])),
        ("streaming", lambda key: step("find_iter", {field(): chance.choice(scalars)})),
    ]
    return walk.random_steps(chance, declared, 150, actions, looks)


def revision_of(step: Step, value: object) -> str | None:
    """The revision that a read gave out."""
    return value.get("_rev") if isinstance(value, dict) else None


def comparable(step: Step, value: object) -> object:
    """A result without revisions, and with its order where that is promised."""
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if name != "_rev"}
    if isinstance(value, list) and "sort" in step.keywords:
        return {number: comparable(step, each) for number, each in enumerate(value)}
    return [comparable(step, each) for each in value] if isinstance(value, list) else value
