"""A document database in memory with every capability of the contract.

`MemoryDocuments` is the server, `MemoryDocumentDatabase` one client of it.
"""

import copy
import itertools
import json
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from omnitck.reference.client import Cell, MemoryClient, MemoryServer, is_unicode
from omnitck.shared.exceptions import AlreadyExistsError, ConflictError, InvalidArgumentError, TooLargeError
from omnitck.shared.models import DocumentLimits

__all__ = ["CAPABILITIES", "MISSING", "MemoryDocumentDatabase", "MemoryDocuments", "Stored"]

CAPABILITIES = frozenset(
    "query_operators nested_paths sort_page projection streaming update_operators upsert revision batch transaction datetime "
    "binary int64 lifecycle validation shared availability limits".split()
)

DEEPEST = 32
MISSING: Any = object()
"""What a document holds in a field that it does not have."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as the server holds it; its content is never changed in place."""

    document: dict[str, Any]
    revision: str


Collection = dict[str, Stored]


@dataclass(eq=False, kw_only=True)
class MemoryDocuments(MemoryServer):
    """The server: what several clients share."""

    limits: DocumentLimits = field(default_factory=lambda: DocumentLimits(page_size=10, batch_size=10))
    collections: dict[Cell, Collection] = field(default_factory=dict, repr=False)
    revisions: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)
    """They never come back, so that no revision is ever given to two states of a document."""

    def cells(self) -> list[Cell]:
        """Every collection that was used."""
        return list(self.collections)

    def snapshot(self) -> "MemoryDocuments":
        """A server of one's own with the same documents."""
        return replace(self, collections={cell: dict(documents) for cell, documents in self.collections.items()})


class MemoryDocumentDatabase(MemoryClient[MemoryDocuments]):
    """One client. It implements `DocumentDatabaseProtocol` and every capability that it is told to declare."""

    everything = CAPABILITIES
    reads = "find_one"
    deletes = "delete_one"
    aside = "transaction"

    # Core

    async def insert_one(self, collection: str, document: Mapping[str, Any]) -> str:
        """See `DocumentDatabaseProtocol.insert_one`."""
        self.check_collection(collection)
        stored = self.checked(document)
        await self.turn()
        self.check_new(collection, stored["_id"])
        self.put(collection, stored)
        return str(stored["_id"])

    async def find_one(
        self, collection: str, filter: Mapping[str, Any], *, projection: Iterable[str] | None = None
    ) -> dict[str, Any] | None:
        """See `DocumentDatabaseProtocol.find_one` and `Projection.find_one`."""
        self.check_collection(collection)
        self.check_filter(filter)
        fields = self.checked_projection(projection)
        await self.turn()
        found = next(iter(self.matching(collection, filter)), None)
        return None if found is None else self.shown(found, fields)

    async def find_many(
        self,
        collection: str,
        filter: Mapping[str, Any],
        *,
        limit: int | None = None,
        sort: str | None = None,
        descending: bool = False,
        offset: int = 0,
        projection: Iterable[str] | None = None,
    ) -> list[dict[str, Any]]:
        """See `DocumentDatabaseProtocol.find_many`, `SortPage.find_many` and `Projection.find_many`."""
        self.check_collection(collection)
        self.check_filter(filter)
        if sort is not None or descending or offset != 0:
            self.need("sort_page")
        if sort is not None:
            self.check_field(sort)
        self.check_count("limit", 0 if limit is None else limit)
        self.check_count("offset", offset)
        fields = self.checked_projection(projection)
        found: list[Stored] = []
        after = ""
        while page := await self.page(collection, filter, after):
            found += page
            after = page[-1].document["_id"]
        found.sort(key=self.order(sort), reverse=descending)
        return [self.shown(each, fields) for each in found[offset : None if limit is None else offset + limit]]

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        """See `DocumentDatabaseProtocol.update_one`."""
        self.check_collection(collection)
        self.check_filter(filter, writes=True)
        changes = self.checked_update(update)
        await self.turn()
        self.check_revision(collection, filter)
        found = next(iter(self.matching(collection, filter)), None)
        if found is None:
            return False

        self.put(collection, self.updated(found.document, changes))
        return True

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        """See `DocumentDatabaseProtocol.delete_one`."""
        self.check_collection(collection)
        self.check_filter(filter, writes=True)
        await self.turn()
        self.check_revision(collection, filter)
        found = next(iter(self.matching(collection, filter)), None)
        if found is None:
            return False

        self.remove(collection, found.document["_id"])
        return True

    # streaming

    async def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """See `Streaming.find_iter`. Each page starts after the last document of the one before: changes between do no harm."""
        self.need("streaming")
        self.check_collection(collection)
        self.check_filter(filter)
        after = ""
        while page := await self.page(collection, filter, after):
            for each in page:
                yield self.shown(each, None)
            after = page[-1].document["_id"]

    # upsert

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        """See `Upsert.replace_one`."""
        self.need("upsert")
        self.check_collection(collection)
        self.check_filter(filter, writes=True)
        if "_id" not in filter or filter.keys() - {"_id", "_rev"} or not isinstance(filter["_id"], str):
            raise InvalidArgumentError("the filter of replace_one names an _id, and no other field")
        if not isinstance(upsert, bool) or (upsert and "_rev" in filter):
            raise InvalidArgumentError(f"document {filter['_id']!r}: upsert is True or False, and True only without _rev")

        if isinstance(document, Mapping) and document.get("_id", filter["_id"]) != filter["_id"]:
            raise InvalidArgumentError(f"document {filter['_id']!r}: the _id of a document cannot be changed")
        stored = self.checked({**document, "_id": filter["_id"]} if isinstance(document, Mapping) else document)
        await self.turn()
        self.check_revision(collection, filter)
        existed = filter["_id"] in self.documents(collection)
        if existed or upsert:
            self.put(collection, stored)
        return existed

    # batch

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """See `Batch.insert_many`. Nothing is stored unless every document is valid."""
        self.need("batch")
        self.check_collection(collection)
        if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
            raise InvalidArgumentError(f"documents are several, not {type(documents).__name__}")

        given = list(documents)
        try:
            stored = [self.checked(each) for each in given]
        except InvalidArgumentError as error:
            ids = [each["_id"] for each in given if isinstance(each, Mapping) and "_id" in each]
            raise type(error)(f"{error}; nothing is stored of {', '.join(map(repr, ids))}") from None
        await self.turn()
        taken = [each["_id"] for each in stored if not self.put_new(collection, each)]
        if taken:
            raise AlreadyExistsError(f"these are taken, and not stored: {', '.join(map(repr, taken))}")

        return [each["_id"] for each in stored]

    def put_new(self, collection: str, document: dict[str, Any]) -> bool:
        """Store *document* unless its `_id` is taken; whether it was stored."""
        try:
            self.check_new(collection, document["_id"])
        except AlreadyExistsError:
            return False

        self.put(collection, document)
        return True

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        """See `Batch.delete_many`."""
        self.need("batch")
        self.check_collection(collection)
        self.check_filter(filter)
        await self.turn()
        found = self.matching(collection, filter)
        for each in found:
            self.remove(collection, each.document["_id"])
        return len(found)

    # transaction

    def transaction(self) -> AbstractAsyncContextManager["MemoryDocumentDatabase"]:
        """See `Transaction.transaction`."""
        self.need("transaction")
        return self.transacting()

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator["MemoryDocumentDatabase"]:
        """Work on a snapshot; at the end of the block hand its changes to the server, at once."""
        await self.turn()
        before = self.backend.snapshot()
        inside = copy.copy(self)
        inside.backend = before.snapshot()
        yield inside
        await self.turn()
        self.commit(before, inside.backend)

    def commit(self, before: MemoryDocuments, after: MemoryDocuments) -> None:
        """Do what was done between two snapshots, unless another writer was there."""
        changes = [
            (cell, id, documents.get(id))
            for cell, documents in after.collections.items()
            for id in {**before.collections.get(cell, {}), **documents}
            if documents.get(id) is not before.collections.get(cell, {}).get(id)
        ]
        for cell, id, _ in changes:
            if self.backend.collections.get(cell, {}).get(id) is not before.collections.get(cell, {}).get(id):
                raise ConflictError(f"document {id!r} was changed by another writer")

        for cell, id, stored in changes:
            documents = self.backend.collections.setdefault(cell, {})
            if stored is None:
                documents.pop(id, None)
            else:
                documents[id] = stored

    # What the operations do to the server.

    def documents(self, collection: str) -> Collection:
        """The documents of *collection*, which needs no creation."""
        return self.backend.collections.get(self.cell(collection), {})

    def matching(self, collection: str, filter: Mapping[str, Any]) -> list[Stored]:
        """Every document that matches *filter*."""
        documents = self.documents(collection)
        id = filter.get("_id")
        candidates = [each for each in [documents.get(id)] if each] if isinstance(id, str) else documents.values()
        return [each for each in candidates if self.matches(each, filter)]

    async def page(self, collection: str, filter: Mapping[str, Any], after: str) -> list[Stored]:
        """The first matches with an `_id` beyond *after*, as many as the server returns at once."""
        await self.turn()
        found = [each for each in self.matching(collection, filter) if each.document["_id"] > after]
        return sorted(found, key=lambda each: str(each.document["_id"]))[: self.limits.page_size]

    def check_new(self, collection: str, id: str) -> None:
        """Refuse an `_id` that is taken."""
        if id in self.documents(collection):
            raise AlreadyExistsError(f"document {id!r} exists")

    def put(self, collection: str, document: dict[str, Any]) -> None:
        """Store *document* under a new revision."""
        self.check_size(document["_id"], len(_json(document)))
        documents = self.backend.collections.setdefault(self.cell(collection), {})
        documents[document["_id"]] = Stored(document, str(next(self.backend.revisions)))

    def remove(self, collection: str, id: str) -> None:
        """Remove the document *id*."""
        self.backend.collections.get(self.cell(collection), {}).pop(id, None)

    def shown(self, stored: Stored, fields: frozenset[str] | None) -> dict[str, Any]:
        """A copy of a document for the caller: whole, or of *fields*."""
        chosen = stored.document.items()
        document = {name: _copy(value) for name, value in chosen if fields is None or name == "_id" or name in fields}
        if "revision" in self.capabilities:
            document["_rev"] = stored.revision
        return document

    def order(self, sort: str | None) -> Callable[[Stored], Any]:
        """The key by which documents are ordered: the field *sort*, then `_id`."""

        def key(each: Stored) -> tuple[object, ...]:
            return *_rank(None if sort is None else each.document.get(sort)), each.document["_id"]

        return key

    # Filters

    def check_filter(self, filter: object, *, writes: bool = False) -> None:
        """Refuse what is no filter."""
        if not isinstance(filter, Mapping):
            raise InvalidArgumentError(f"a filter is a mapping, not {type(filter).__name__}")

        for name, wanted in filter.items():
            self.check_path(name)
            if name == "_rev" and writes and "revision" in self.capabilities:
                self.check_revision_filter(filter)
            elif isinstance(wanted, Mapping):
                self.need("query_operators")
                self.check_operators(name, wanted)
            else:
                self.check_scalar(name, wanted)

    def check_revision_filter(self, filter: Mapping[str, Any]) -> None:
        """Refuse a `_rev` that is no text, or does not come with an `_id` alone."""
        if filter.keys() != {"_id", "_rev"} or not isinstance(filter["_id"], str) or not isinstance(filter["_rev"], str):
            raise InvalidArgumentError("_rev is text, in a filter of _id and _rev alone")

    def check_scalar(self, name: str, wanted: object) -> None:
        """Refuse what no field can equal."""
        if isinstance(wanted, list | tuple | Mapping):
            raise InvalidArgumentError(f"field {name!r}: a filter compares with scalars, not with {type(wanted).__name__}")
        if name == "_id":
            self.check_key(wanted)
        self.copied(name, wanted)

    def check_operators(self, name: str, operators: Mapping[str, Any]) -> None:
        """Refuse an operator that is not in the language, or has an operand that is not."""
        if not operators:
            raise InvalidArgumentError(f"field {name!r}: a filter compares with scalars, not with an empty map")

        for operator, operand in operators.items():
            if operator in ("$in", "$nin"):
                if not isinstance(operand, list | tuple | set | frozenset):
                    raise InvalidArgumentError(f"field {name!r}: {operator} takes a list")
                for each in operand:
                    self.check_scalar(name, each)
            elif operator == "$exists":
                if not isinstance(operand, bool):
                    raise InvalidArgumentError(f"field {name!r}: $exists takes True or False")
            elif operator in ("$ne", *RANGES):
                self.check_scalar(name, operand)
            else:
                raise InvalidArgumentError(f"field {name!r}: {operator!r} is no operator of a filter")

    def matches(self, stored: Stored, filter: Mapping[str, Any]) -> bool:
        """Whether all conditions of *filter* hold."""
        return all(self.holds(self.value(stored, name), wanted) for name, wanted in filter.items())

    def value(self, stored: Stored, path: str) -> Any:
        """What is at *path* in a document."""
        if path == "_rev" and "revision" in self.capabilities:
            return stored.revision

        found: Any = stored.document
        for name in self.parts(path):
            found = found.get(name, MISSING) if isinstance(found, dict) else MISSING
        return found

    def holds(self, value: object, wanted: Any) -> bool:
        """Whether *value* equals *wanted*, or is as its operators say."""
        if isinstance(wanted, Mapping):
            return all(self.applies(value, operator, operand) for operator, operand in wanted.items())
        return self.equal(value, wanted)

    def applies(self, value: Any, operator: str, operand: Any) -> bool:
        """Whether *value* is as one operator says."""
        if operator == "$exists":
            return (value is not MISSING) is operand
        if operator == "$in":
            return any(self.equal(value, each) for each in operand)
        if operator == "$ne":
            return value is not MISSING and not self.equal(value, operand)
        if operator == "$nin":
            return value is not MISSING and not any(self.equal(value, each) for each in operand)

        comparable = _kind(value) == _kind(operand) and _kind(value) in ("number", "text")
        return comparable and RANGES[operator](value, operand)

    def equal(self, value: object, wanted: object) -> bool:
        """Whether two scalars are one value: numbers equal numbers, and nothing else is converted."""
        return value is not MISSING and _kind(value) == _kind(wanted) and value == wanted

    def check_revision(self, collection: str, filter: Mapping[str, Any]) -> None:
        """Refuse to write to another state of the document than the one that the caller has seen."""
        if "_rev" in filter and "revision" in self.capabilities:
            stored = self.documents(collection).get(filter["_id"])
            if stored is None or stored.revision != filter["_rev"]:
                raise ConflictError(f"document {filter['_id']!r} has another revision, or is missing")

    # Updates

    def checked_update(self, update: object) -> dict[str, dict[str, Any]]:
        """The operators of an update with their fields, copied."""
        if not isinstance(update, Mapping) or not update:
            raise InvalidArgumentError("an update is a mapping of operators to fields, such as {'$set': {...}}")

        changes: dict[str, dict[str, Any]] = {}
        paths: list[tuple[str, ...]] = []
        for operator, fields in update.items():
            if operator not in ("$set", "$unset", "$inc", "$push"):
                raise InvalidArgumentError(f"{operator!r} is no operator of an update")
            if operator != "$set":
                self.need("update_operators")
            if not isinstance(fields, Mapping) or not fields:
                raise InvalidArgumentError(f"{operator} takes a mapping of fields that is not empty")

            changes[operator] = {}
            for name, operand in fields.items():
                self.check_path(name)
                path = self.parts(name)
                if path[0] == "_id" or (path[0] == "_rev" and "revision" in self.capabilities):
                    raise InvalidArgumentError(f"field {name!r} cannot be changed")
                if any(path[: len(each)] == each or each[: len(path)] == path for each in paths):
                    raise InvalidArgumentError(f"field {name!r} is changed twice")

                paths.append(path)
                changes[operator][name] = self.checked_operand(operator, name, operand)
        return changes

    def checked_operand(self, operator: str, name: str, operand: object) -> Any:
        """What an operator takes, copied."""
        if operator == "$unset" and operand != "":
            raise InvalidArgumentError(f'field {name!r}: $unset takes ""')
        if operator == "$inc" and _kind(operand) != "number":
            raise InvalidArgumentError(f"field {name!r}: $inc takes a number, not {type(operand).__name__}")
        return self.copied(name, operand, 1)

    def updated(self, document: dict[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """A copy of *document* with *changes*, checked as a new one is."""
        after: dict[str, Any] = _copy(document)
        for operator, fields in changes.items():
            for path, operand in fields.items():
                self.change(after, path, operator, operand)
        return self.checked(after)

    def change(self, document: dict[str, Any], path: str, operator: str, operand: Any) -> None:
        """Apply one operator to one field."""
        id, place = document["_id"], document
        *parents, name = self.parts(path)
        for parent in parents:
            if operator == "$unset" and not isinstance(place.get(parent), dict):
                return
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InvalidArgumentError(f"document {id!r}: field {parent!r} in {path!r} is no map")
        if operator == "$set":
            place[name] = _copy(operand)
        elif operator == "$unset":
            place.pop(name, None)
        elif operator == "$inc":
            held = place.get(name, 0)
            if _kind(held) != "number":
                raise InvalidArgumentError(f"document {id!r}: field {path!r} holds no number")
            place[name] = held + operand
        else:
            items = place.setdefault(name, [])
            if not isinstance(items, list):
                raise InvalidArgumentError(f"document {id!r}: field {path!r} holds no list")
            items.append(_copy(operand))

    # What is legal

    def check_collection(self, collection: object) -> None:
        """Refuse what is no name of a collection."""
        self.check_name("collection", collection, self.backend.limits.collection_bytes)

    def check_field(self, name: object) -> None:
        """Refuse what is no name of a field."""
        if not isinstance(name, str):
            raise InvalidArgumentError(f"a field is named by text, not by {type(name).__name__}")
        if not name or name.startswith("$") or "." in name or "\x00" in name or not is_unicode(name):
            raise InvalidArgumentError(f"field {name!r}: its name is empty, begins with $, or holds a dot, U+0000 or a surrogate")

    def check_path(self, path: object) -> None:
        """Refuse what names no field, also inside maps."""
        if isinstance(path, str) and "." in path and not path.startswith("$"):
            self.need("nested_paths")
        for each in path.split(".") if isinstance(path, str) else [path]:
            self.check_field(each)

    def parts(self, path: str) -> tuple[str, ...]:
        """The names of the maps on the way, and of the field."""
        return tuple(path.split("."))

    def check_count(self, name: str, number: object) -> None:
        """Refuse what is no number of documents."""
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InvalidArgumentError(f"{name} is a whole number from 0 up, not {number!r}")

    def check_size(self, key: str, size: int) -> None:
        """Refuse a document that is longer than the server takes."""
        if size > self.backend.limits.document_bytes:
            raise TooLargeError(f"document {key!r} is longer than {self.backend.limits.document_bytes} bytes")

    def checked_projection(self, projection: object) -> frozenset[str] | None:
        """The fields to be shown."""
        if projection is None:
            return None

        self.need("projection")
        if isinstance(projection, str | bytes | Mapping) or not isinstance(projection, Iterable):
            raise InvalidArgumentError(f"a projection is several names of fields, not {type(projection).__name__}")

        fields = list(projection)
        for each in fields:
            self.check_field(each)
        return frozenset(fields)

    def checked(self, document: object) -> dict[str, Any]:
        """A copy of *document*, with an `_id`."""
        if not isinstance(document, Mapping):
            raise InvalidArgumentError(f"a document is a mapping, not {type(document).__name__}")
        if "_id" in document:
            self.check_key(document["_id"])
        if "_rev" in document and "revision" in self.capabilities:
            raise InvalidArgumentError(f"document {document.get('_id')!r}: _rev is the database's")

        fields = {}
        for name, value in document.items():
            self.check_field(name)
            fields[name] = self.copied(name, value, 1)
        fields.setdefault("_id", uuid.uuid4().hex)
        self.check_size(fields["_id"], len(_json(fields)))
        return fields

    def copied(self, name: str, value: Any, depth: int = 0) -> Any:
        """A copy of what the field *name* is to hold, or what in it is not in the language. Never the value in the error."""
        if value is None or isinstance(value, bool):
            return value
        if type(value) is str:
            if "\x00" in value or not is_unicode(value):
                raise InvalidArgumentError(f"field {name!r}: its text holds U+0000 or a surrogate")
            return value
        if type(value) is int:
            self.check_integer(name, value)
            return value
        if type(value) is float:
            if not math.isfinite(value):
                raise InvalidArgumentError(f"field {name!r}: its number is not finite")
            return value
        if type(value) is datetime:
            self.need("datetime")
            return self.moment(name, value)
        if type(value) is bytes:
            self.need("binary")
            return value
        if depth >= DEEPEST:
            raise InvalidArgumentError(f"field {name!r}: it is deeper than {DEEPEST}")
        if type(value) is list:
            return [self.copied(name, each, depth + 1) for each in value]
        if type(value) is dict:
            for each in value:
                self.check_field(each)
            return {each: self.copied(name, inner, depth + 1) for each, inner in value.items()}
        raise InvalidArgumentError(f"field {name!r}: a document cannot hold {type(value).__name__}")

    def check_integer(self, name: str, value: int) -> None:
        """Refuse an integer that might be rounded."""
        size = 63 if "int64" in self.capabilities else 53
        smallest = -(2**63) if size == 63 else -(2**53) + 1
        if not smallest <= value < 2**size:
            raise InvalidArgumentError(f"field {name!r}: its integer does not fit")

    def moment(self, name: str, value: datetime) -> datetime:
        """An aware datetime, in UTC."""
        if value.utcoffset() is None:
            raise InvalidArgumentError(f"field {name!r}: its datetime has no time zone")
        return value.astimezone(UTC)


RANGES: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda value, operand: bool(value > operand),
    "$gte": lambda value, operand: bool(value >= operand),
    "$lt": lambda value, operand: bool(value < operand),
    "$lte": lambda value, operand: bool(value <= operand),
}

_KINDS: Mapping[type, str] = {
    type(None): "null", bool: "truth", int: "number", float: "number", str: "text", bytes: "bytes", datetime: "moment",
    list: "list", dict: "map",
}  # fmt: skip


def _kind(value: object) -> str:
    """The type of a value in the language of documents, which has one of numbers."""
    return _KINDS.get(type(value), "")


def _rank(value: Any) -> tuple[object, ...]:
    """Where a value stands in an order over all types: absence and None first, then type by type."""
    kind = _kind(value)
    kinds = ("null", "truth", "number", "text", "moment", "bytes", "list", "map")
    return (kinds.index(kind), 0 if value is None else repr(value) if kind in ("list", "map") else value)


def _copy(value: Any) -> Any:
    """A deep copy of what `copied` lets through."""
    if type(value) is list:
        return [_copy(each) for each in value]
    if type(value) is dict:
        return {name: _copy(each) for name, each in value.items()}
    return value


def _json(document: Mapping[str, Any]) -> bytes:
    """The shortest JSON text of a document, in UTF-8; bytes and datetimes as some text of about their length."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, default=repr).encode()
