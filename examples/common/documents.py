"""What every document adapter refuses before it speaks to its backend, and the checked form of what it lets through.

The language of filters and updates is closed: a `Dialect` knows the capabilities and the limits of an adapter, and turns
what a caller gives into a few plain records, or raises. Messages name fields and ids, never values.
"""

import base64
import copy
import itertools
import json
import math
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple, NoReturn

from examples.common.arguments import INT64, encode_key
from examples.common.client import Client
from omnitck.shared.exceptions import AlreadyExistsError, ConflictError, InvalidArgumentError, TooLargeError, UnsupportedError
from omnitck.shared.models import DocumentLimits

__all__ = [
    "MISSING",
    "RANGES",
    "Change",
    "Condition",
    "Dialect",
    "Document",
    "DocumentClient",
    "Filter",
    "all_stored",
    "dump",
    "kind",
    "load",
    "matches",
    "new_rev",
    "plain",
    "scalar",
    "stale",
    "updated",
]

Document = dict[str, Any]
Path = tuple[str, ...]

DEEPEST = 32
EXACT = range(-(2**53) + 1, 2**53)
"""The integers that every backend holds, also one whose only number is a double."""

RANGES = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
"""The operators that compare, and how most languages spell them."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MISSING: Any = object()
"""The value of a field that a document does not have."""


class Condition(NamedTuple):
    """What one field must be: *operator* is ``$eq`` or one of `query_operators`."""

    path: Path
    operator: str
    operand: Any


class Change(NamedTuple):
    """What an update does to one field."""

    path: Path
    operator: str
    operand: Any


@dataclass(frozen=True)
class Filter:
    """A checked filter."""

    conditions: tuple[Condition, ...]
    id: str | None = None
    """The `_id` if the filter names exactly one; it is among the conditions too."""
    rev: str | None = None
    """The `_rev`, which is not among the conditions: no document has it inside."""


class Dialect:
    """The language of documents as far as an adapter of these *capabilities* and *limits* speaks it."""

    def __init__(self, capabilities: frozenset[str], limits: DocumentLimits) -> None:
        self._capabilities = capabilities
        self._limits = limits

    def need(self, capability: str) -> None:
        """Refuse what is not declared."""
        if capability not in self._capabilities:
            raise UnsupportedError(f"this database does not declare {capability}")

    def collection(self, name: object) -> str:
        """*name*, if a collection can have it."""
        encoded = _text("collection", name)
        if not encoded:
            raise InvalidArgumentError("collection '' has no name")
        if len(encoded) > self._limits.collection_bytes:
            raise TooLargeError(f"collection {name!r} has {len(encoded)} bytes; the limit is {self._limits.collection_bytes}")
        return str(name)

    def document(self, document: object, *, id: str | None = None) -> Document:
        """A copy of *document*, with an `_id`: its own, which must be *id* if that is given, or a new one."""
        if not isinstance(document, Mapping):
            raise InvalidArgumentError(f"a document is a mapping, not {type(document).__name__}")
        if "_id" in document:
            encode_key(document["_id"], self._limits)
        if id is not None and document.get("_id", id) != id:
            raise InvalidArgumentError(f"document {id!r} cannot get another _id")
        if "_rev" in document and "revision" in self._capabilities:
            raise InvalidArgumentError(f"document {document.get('_id')!r}: _rev is given by the database")

        fields = {self._field(name): self._value(name, value) for name, value in document.items()}
        fields.setdefault("_id", uuid.uuid4().hex if id is None else id)
        self._check_size(fields)
        return fields

    def documents(self, documents: object) -> list[Document]:
        """Copies of all *documents*, or one error that names every one of them: nothing is written before all are checked."""
        if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
            raise InvalidArgumentError(f"documents are several, not one {type(documents).__name__}")

        given = list(documents)
        try:
            return [self.document(each) for each in given]
        except InvalidArgumentError as error:
            ids = [each["_id"] for each in given if isinstance(each, Mapping) and "_id" in each]
            raise type(error)(f"none of {ids!r} was stored: {error}") from None

    def filter(self, filter: object, *, writes: bool = False) -> Filter:
        """The conditions of *filter*. With *writes* a `_rev` is a condition on the state that the caller has seen."""
        if not isinstance(filter, Mapping):
            raise InvalidArgumentError(f"a filter is a mapping, not {type(filter).__name__}")

        rev = None
        conditions: list[Condition] = []
        for name, wanted in filter.items():
            if name == "_rev" and "revision" in self._capabilities:
                alone = filter.keys() == {"_id", "_rev"} and isinstance(filter["_id"], str)
                if not isinstance(wanted, str) or (writes and not alone):
                    raise InvalidArgumentError("_rev is text, and a write names it together with an _id alone")
                rev = wanted
            elif isinstance(wanted, Mapping):
                path = self._path(name)
                self.need("query_operators")
                if not wanted:
                    raise InvalidArgumentError(f"field {name!r}: a filter compares with scalars, not with a map")
                conditions += [Condition(path, *self._operator(name, *each)) for each in wanted.items()]
            else:
                conditions.append(Condition(self._path(name), "$eq", self._scalar(name, wanted)))
        ids = [each.operand for each in conditions if each.path == ("_id",) and each.operator == "$eq"]
        return Filter(tuple(conditions), ids[0] if ids else None, rev)

    def place(self, filter: object, upsert: object) -> Filter:
        """The filter of `replace_one`: an `_id`, and maybe a `_rev`."""
        checked = self.filter(filter, writes=True)
        if checked.id is None or len(checked.conditions) != 1:
            raise InvalidArgumentError("the filter of replace_one names an _id alone")
        if not isinstance(upsert, bool) or (upsert and checked.rev is not None):
            raise InvalidArgumentError(f"document {checked.id!r}: upsert is True or False, and not True beside a _rev")
        return checked

    def update(self, update: object) -> list[Change]:
        """The changes of *update*, no two of which touch the same place."""
        if not isinstance(update, Mapping) or not update:
            raise InvalidArgumentError('an update is a mapping such as {"$set": {"field": 1}}')

        changes: list[Change] = []
        for operator, fields in update.items():
            if operator not in ("$set", "$unset", "$inc", "$push"):
                raise InvalidArgumentError(f"an update has no operator {operator!r}")
            if operator != "$set":
                self.need("update_operators")
            if not isinstance(fields, Mapping) or not fields:
                raise InvalidArgumentError(f"{operator} takes a mapping of fields, at least one")
            changes += [self._change(operator, name, operand) for name, operand in fields.items()]
        paths = sorted(each.path for each in changes)
        for one, other in itertools.pairwise(paths):  # sorted, a path is next to one that it leads to
            if other[: len(one)] == one:
                raise InvalidArgumentError(f"field {'.'.join(other)!r} is changed twice")
        return changes

    def projection(self, projection: object) -> frozenset[str] | None:
        """The names of the fields to be returned; None for all."""
        if projection is None:
            return None

        self.need("projection")
        if isinstance(projection, str | bytes | Mapping) or not isinstance(projection, Iterable):
            raise InvalidArgumentError(f"a projection is several names, not one {type(projection).__name__}")
        return frozenset(self._field(name) for name in projection) | {"_id"}

    def sort(self, sort: object, descending: object, offset: object) -> str | None:
        """The name of the field to sort by."""
        if sort is not None or descending is not False or offset != 0:
            self.need("sort_page")
        if not isinstance(descending, bool):
            raise InvalidArgumentError(f"descending is True or False, not {type(descending).__name__}")
        return None if sort is None else self._field(sort)

    def shown(self, document: Document, rev: str, fields: frozenset[str] | None = None) -> Document:
        """What the caller gets of *document*: all of it or *fields*, and its revision."""
        chosen = {name: value for name, value in document.items() if fields is None or name in fields}
        return {**chosen, "_rev": rev} if "revision" in self._capabilities else chosen

    def count(self, what: str, number: object) -> int:
        """*number*, if it can be a number of documents."""
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InvalidArgumentError(f"{what} is a whole number from 0 on, not {number!r}")
        return number

    def _field(self, name: object) -> str:
        encoded = _text("field", name)
        if not encoded or encoded.startswith(b"$") or b"." in encoded:
            raise InvalidArgumentError(f"field {name!r}: a name is not empty, does not begin with $, and holds no dot")
        return str(name)

    def _path(self, path: object) -> Path:
        if not isinstance(path, str) or path.startswith("$") or "." not in path:
            return (self._field(path),)

        self.need("nested_paths")
        return tuple(self._field(name) for name in path.split("."))

    def _operator(self, name: str, operator: object, operand: Any) -> tuple[str, Any]:
        if operator in ("$in", "$nin"):
            if not isinstance(operand, list | tuple | set | frozenset):
                raise InvalidArgumentError(f"field {name!r}: {operator} takes a list")
            return str(operator), [self._scalar(name, each) for each in operand]
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise InvalidArgumentError(f"field {name!r}: $exists takes True or False")
            return "$exists", operand
        if operator == "$ne" or operator in RANGES:
            return str(operator), self._scalar(name, operand)
        raise InvalidArgumentError(f"field {name!r}: a filter has no operator {operator!r}")

    def _scalar(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping | list | tuple):
            raise InvalidArgumentError(f"field {name!r}: a filter compares with scalars, not with {type(value).__name__}")
        if name == "_id":
            encode_key(value, self._limits)
        return self._value(name, value)

    def _change(self, operator: str, name: object, operand: Any) -> Change:
        path = self._path(name)
        if path[0] == "_id" or (path[0] == "_rev" and "revision" in self._capabilities):
            raise InvalidArgumentError(f"field {name!r} cannot be changed")
        if operator == "$unset" and operand != "":
            raise InvalidArgumentError(f'field {name!r}: $unset takes ""')
        if operator == "$inc" and kind(operand) != "number":
            raise InvalidArgumentError(f"field {name!r}: $inc takes a number, not {type(operand).__name__}")
        return Change(path, operator, self._value(path[0], operand))

    def _value(self, name: str, value: Any, depth: int = 1) -> Any:
        """A copy of *value*, exact types only: a subclass would come back as its base."""
        match value:
            case None | bool():
                return value
            case str() if type(value) is str:
                _text("the text in field", value, shown=name)
                return value
            case int() if type(value) is int:
                if value not in INT64:
                    raise InvalidArgumentError(f"field {name!r} holds an integer of more than 64 bits")
                if value not in EXACT:
                    self.need("int64")
                return value
            case float() if type(value) is float:
                if not math.isfinite(value):
                    raise InvalidArgumentError(f"field {name!r} holds a number that is not finite")
                return value
            case datetime() if type(value) is datetime:
                self.need("datetime")
                return _utc(name, value)
            case bytes() if type(value) is bytes:
                self.need("binary")
                return value
            case list() | dict() if depth >= DEEPEST:  # the document is the first level
                raise InvalidArgumentError(f"field {name!r} is deeper than {DEEPEST}")
            case list() if type(value) is list:
                return [self._value(name, each, depth + 1) for each in value]
            case dict() if type(value) is dict:
                return {self._field(each): self._value(name, inner, depth + 1) for each, inner in value.items()}
        raise InvalidArgumentError(f"field {name!r}: a document holds no {type(value).__name__}")

    def _check_size(self, document: Document) -> None:
        size = len(dump(document).encode())
        if size > self._limits.document_bytes:
            raise TooLargeError(f"document {document['_id']!r} has {size} bytes; the limit is {self._limits.document_bytes}")


class DocumentClient(Client):
    """The operations of one document: their arguments are checked here.

    An adapter has `find_many`, with what it can do beside a limit and a projection, `_insert` and `_replace`.
    """

    _dialect: ClassVar[Dialect]
    find_many: Callable[..., Awaitable[list[Document]]]

    async def insert_one(self, collection: str, document: Mapping[str, Any]) -> str:
        """Store a new document; its `_id`."""
        collection, stored = self._dialect.collection(collection), self._dialect.document(document)
        if not await self._insert(f"insert_one {stored['_id']!r}", collection, stored):
            raise AlreadyExistsError(f"document {stored['_id']!r} exists")
        return str(stored["_id"])

    async def find_one(
        self, collection: str, filter: Mapping[str, Any], *, projection: Iterable[str] | None = None
    ) -> Document | None:
        """A document that matches *filter*, whole or its fields in *projection*."""
        found = await self.find_many(collection, filter, limit=1, projection=projection)
        return found[0] if found else None

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        """Change one document that matches; whether there was one."""
        collection, checked = self._dialect.collection(collection), self._dialect.filter(filter, writes=True)
        changes = self._dialect.update(update)
        what = f"update_one in {collection!r}"
        return await self._replace(what, collection, checked, lambda found: updated(self._dialect, found, changes))

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        """Remove one document that matches; whether there was one."""
        collection, checked = self._dialect.collection(collection), self._dialect.filter(filter, writes=True)
        return await self._replace(f"delete_one in {collection!r}", collection, checked, None)

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        """Put *document* in the place of another, or, with *upsert*, there in any case; whether there was one."""
        collection, place = self._dialect.collection(collection), self._dialect.place(filter, upsert)
        stored, what = self._dialect.document(document, id=place.id), f"replace_one {place.id!r}"
        while not await self._replace(what, collection, place, lambda _: stored):
            if not upsert or await self._insert(what, collection, stored):
                return False
        return True

    async def _insert(self, what: str, collection: str, document: Document) -> bool:
        """Store *document* unless there is one of its `_id`; whether there was none."""
        raise NotImplementedError

    async def _replace(self, what: str, collection: str, filter: Filter, change: Callable[[Document], Document] | None) -> bool:
        """Put what *change* makes of the first match in its place, or remove it; whether there was one."""
        raise NotImplementedError


def all_stored(documents: Iterable[Document], taken: Iterable[str]) -> list[str]:
    """The ids of *documents*, unless some are *taken*: then they are the only ones that were not stored."""
    if taken := list(taken):
        raise AlreadyExistsError(f"these exist, and only they were not stored: {taken!r}")
    return [each["_id"] for each in documents]


def updated(dialect: Dialect, document: Document, changes: Iterable[Change]) -> Document:
    """A copy of *document* with *changes*, legal as a whole."""
    after = copy.deepcopy(document)
    for change in changes:
        _apply(after, change)
    return dialect.document(after)


def matches(document: Document, filter: Filter) -> bool:
    """Whether *document* meets every condition; a `_rev` is the caller's business."""
    return all(_holds(_at(document, each.path), each.operator, each.operand) for each in filter.conditions)


def kind(value: object) -> str:
    """The type of *value* in the language: there is one of numbers, and True is none."""
    names = {bool: "bool", int: "number", float: "number", str: "text", bytes: "bytes", datetime: "datetime"}
    return names.get(type(value), "null" if value is None else "other")


def scalar(value: Any) -> Any:
    """*value* as `plain` has it: tagged, if JSON cannot hold it."""
    if isinstance(value, datetime):
        return {"$date": (value - EPOCH) // timedelta(microseconds=1)}
    return {"$binary": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def plain(value: Any) -> Any:
    """*value* for a backend that compares numbers as decimals: a float that is whole is the integer of the same size.

    The shortest digits of a float need not be its exact value, and above 2**53 they seldom are. Datetimes and bytes are
    maps of one field that begins with ``$``, which no document's own field does.
    """
    if isinstance(value, float) and value.is_integer() and int(value) in INT64:
        return int(value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return scalar(value)


def dump(document: Document) -> str:
    """The shortest JSON text of *document*; floats have a point or an exponent, so that every number keeps its type."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=scalar)


def load(text: str) -> Document:
    """The document of `dump`."""
    document: Document = json.loads(text, object_hook=_untagged)
    return document


def new_rev() -> str:
    """A revision that no state of any document has had."""
    return secrets.token_hex(12)


def stale(id: str | None) -> ConflictError:
    """The error of a write whose `_rev` is not the current one."""
    return ConflictError(f"document {id!r} is not at this revision")


def _text(what: str, text: object, *, shown: str | None = None) -> bytes:
    label = f"{what} {(text if shown is None else shown)!r}"
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{what} {text!r} is {type(text).__name__}, not str")

    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{label} holds a lone surrogate") from None
    if b"\0" in encoded:
        raise InvalidArgumentError(f"{label} holds U+0000")
    return encoded


def _utc(name: str, value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise InvalidArgumentError(f"field {name!r} holds a datetime without a time zone")

    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidArgumentError(f"field {name!r} holds a datetime that is out of range in UTC") from None


def _untagged(value: Document) -> Any:
    match value:
        case {"$date": int(micros)}:
            return EPOCH + timedelta(microseconds=micros)
        case {"$binary": str(text)}:
            return base64.b64decode(text)
    return value


def _at(document: Document, path: Path) -> Any:
    found: Any = document
    for name in path:
        found = found.get(name, MISSING) if isinstance(found, dict) else MISSING
    return found


def _equal(value: Any, wanted: Any) -> bool:
    return kind(value) == kind(wanted) and bool(value == wanted)


def _holds(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$exists":
        return (value is not MISSING) is operand
    if value is MISSING:
        return False
    if operator in ("$in", "$nin"):
        return any(_equal(value, each) for each in operand) is (operator == "$in")
    if operator in ("$eq", "$ne"):
        return _equal(value, operand) is (operator == "$eq")
    if kind(value) != kind(operand) or kind(value) not in ("number", "text"):
        return False
    order = (value > operand) - (value < operand)
    return bool({"$gt": order > 0, "$gte": order >= 0, "$lt": order < 0, "$lte": order <= 0}[operator])


def _apply(document: Document, change: Change) -> None:
    place: Any = document
    *parents, name = change.path
    for parent in parents:
        if change.operator == "$unset" and not (isinstance(place.get(parent), dict)):
            return
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            _misfit(document, change, "leads through something that is no map")
    match change.operator:
        case "$set":
            place[name] = change.operand
        case "$unset":
            place.pop(name, None)
        case "$inc":
            if kind(place.get(name, 0)) != "number":
                _misfit(document, change, "is no number")
            place[name] = place.get(name, 0) + change.operand
        case "$push":
            if not isinstance(place.setdefault(name, []), list):
                _misfit(document, change, "is no list")
            place[name].append(change.operand)


def _misfit(document: Document, change: Change, why: str) -> NoReturn:
    raise InvalidArgumentError(f"document {document['_id']!r}: {change.operator} cannot be done, {'.'.join(change.path)!r} {why}")
