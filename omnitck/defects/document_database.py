"""Broken document databases, in the order of the rules that reject them; those of one capability stand together."""

import copy
import json
import pickle
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.client import Cell
from omnitck.reference.document_database import MISSING, MemoryDocumentDatabase, MemoryDocuments, Stored
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    TooLargeError,
)

Document = dict[str, Any]

# The common family

break_with(
    MemoryDocumentDatabase,
    {
        clients.PlainFunction: "DB-COM-01",
        clients.UnknownCapability: "DB-COM-02",
        clients.CapabilitiesAsText: "DB-COM-02",
        clients.DoubleRelease: "DB-COM-07",
        clients.SilentReconnect: "DB-COM-08",
        clients.SwallowingExit: "DB-COM-09",
        clients.SharedPool: "DB-COM-10 DB-COM-06 MT-16",
        clients.OrphanedTask: "DB-COM-11",
        clients.LeakingVendorError: "DB-COM-12",
        clients.SwallowedCancellation: "DB-COM-14",
        clients.DefaultOnCancellation: "DB-COM-14",
        clients.DeletedAnyway: "DB-COM-14",
        clients.CrossedReply: "DB-COM-15 MT-15",
        clients.PrintedPassword: "DB-COM-24",
        clients.CrashedWorker: "DB-COM-25",
        clients.CancelsItsCaller: "DB-COM-26",
        clients.ForgottenTimer: "DB-COM-26",
    },
)


@breaks("DB-COM-01", "DB-COM-04")
class RenamedParameter(MemoryDocumentDatabase):
    """`find_one` calls its filter `query`: `find_one(c, filter=...)` is a TypeError."""

    async def find_one(self, collection: str, query: Any, *, projection: Any = None) -> Document | None:
        return await super().find_one(collection, query, projection=projection)


@breaks("DB-COM-02", without="limits")
class LowFloor(MemoryDocumentDatabase):
    """Documents end at 4 KB."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.backend.limits, document_bytes=4096)


@breaks("DB-COM-03", without="query_operators")
class UndeclaredOperators(MemoryDocumentDatabase):
    """An operator in a filter is dropped where it is not known."""

    def check_filter(self, filter: Any, *, writes: bool = False) -> None:
        if isinstance(filter, Mapping):
            filter = {name: wanted for name, wanted in filter.items() if not isinstance(wanted, Mapping) or "$in" not in wanted}
        super().check_filter(filter, writes=writes)


@breaks("DB-COM-03", without="sort_page")
class IgnoredOrder(MemoryDocumentDatabase):
    """`sort` is taken, and nothing is ordered."""

    async def find_many(
        self, collection: str, filter: Any, *, sort: Any = None, offset: int = 0, **keywords: Any
    ) -> list[Document]:
        return await super().find_many(collection, filter, **keywords)


@breaks(*"DB-COM-04 DB-31 DB-33 DB-34 DB-50 DB-51 DB-COM-08 DB-COM-12 DB-COM-19 DB-COM-21 DB-COM-22".split())
class MissingOperation(MemoryDocumentDatabase):
    """`replace_one` has no `upsert`."""

    async def replace_one(self, collection: str, filter: Any, document: Any) -> bool:  # type: ignore[override]
        return await super().replace_one(collection, filter, document)


@breaks(*"DB-COM-05 DB-04 DB-16 DB-17 DB-25 DB-27 DB-29 DB-45 DB-49 DB-51 DB-COM-06 DB-COM-16 MT-17".split())
class OwnMemory(MemoryDocumentDatabase):
    """Each client has documents of its own."""

    def cell(self, collection: str) -> Cell:
        return Cell(self.tenant_id, f"{collection}#{id(self)}")


@breaks("DB-COM-06")
class DataDiesWithWriter(MemoryDocumentDatabase):
    """What a client wrote goes when it closes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.written: set[tuple[Cell, str]] = set()

    def put(self, collection: str, document: Document) -> None:
        self.written.add((self.cell(collection), document["_id"]))
        super().put(collection, document)

    async def close(self) -> None:
        for cell, id in self.written:
            self.backend.collections.get(cell, {}).pop(id, None)
        await super().close()


@breaks("DB-COM-13")
class NamelessError(MemoryDocumentDatabase):
    """ "duplicate key", but which?"""

    async def insert_one(self, collection: str, document: Any) -> str:
        try:
            return await super().insert_one(collection, document)
        except AlreadyExistsError:
            raise AlreadyExistsError("duplicate key") from None


@breaks("DB-COM-13")
class TalkativeError(MemoryDocumentDatabase):
    """The refusal to encode a value quotes it, and a secret is in the log."""

    def copied(self, name: str, value: Any, depth: int = 0) -> Any:
        try:
            return super().copied(name, value, depth)
        except InvalidArgumentError as error:
            raise type(error)(f"{error}: {value!r}") from None


@breaks("DB-COM-16", "DB-COM-22")
class TornWrite(MemoryDocumentDatabase):
    """A large text is sent in two parts."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        fields = update.get("$set") if isinstance(update, Mapping) else None
        text = fields.get("token") if isinstance(fields, Mapping) else None
        if isinstance(text, str) and len(text) > 30_000:
            await super().update_one(collection, filter, {"$set": {"token": text[: len(text) // 2]}})
        return await super().update_one(collection, filter, update)


@breaks("DB-COM-17")
class KeepsTheArgument(MemoryDocumentDatabase):
    """What was given to `update_one` is stored as it is, and its caller still holds it."""

    def checked_operand(self, operator: str, name: str, operand: Any) -> Any:
        super().checked_operand(operator, name, operand)
        return _Kept(operand) if isinstance(operand, dict) else operand

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        super().change(document, path, operator, operand.value if isinstance(operand, _Kept) else operand)

    def updated(self, document: Document, changes: Any) -> Document:
        after = super().updated(document, changes)
        for path, operand in changes.get("$set", {}).items():
            if isinstance(operand, _Kept) and path in after:
                after[path] = operand.value
        return after


class _Kept:
    """An argument, not a copy of it."""

    def __init__(self, value: Any) -> None:
        self.value = value


@breaks("DB-COM-17")
class HandsOutItsOwn(MemoryDocumentDatabase):
    """A copy of a document is a copy of its outermost map."""

    async def find_many(self, collection: str, filter: Any, **keywords: Any) -> list[Document]:
        found = await super().find_many(collection, filter, **keywords)
        documents = self.documents(collection)
        for each in found:
            stored = documents.get(each["_id"])
            each.update({name: value for name, value in stored.document.items() if name in each} if stored else {})
        return found


@breaks("DB-COM-18", "DB-COM-15", "MT-14")
class SharedCursor(MemoryDocumentDatabase):
    """All reads of a client share one cursor: the last to ask decides what all are told."""

    cursor: Any = None

    async def find_one(self, collection: str, filter: Any, *, projection: Any = None) -> Document | None:
        self.check_collection(collection)
        self.check_filter(filter)
        fields = self.checked_projection(projection)
        self.cursor = filter
        await self.turn()
        found = self.matching(collection, self.cursor)
        return self.shown(found[0], fields) if found else None


@breaks("DB-COM-19")
class CoercedId(MemoryDocumentDatabase):
    """`insert_one` makes text of whatever `_id` it is given."""

    async def insert_one(self, collection: str, document: Any) -> str:
        if isinstance(document, Mapping) and "_id" in document and not isinstance(document["_id"], str):
            document = {**document, "_id": str(document["_id"])}
        return await super().insert_one(collection, document)


@breaks("DB-COM-20")
class NormalisedId(MemoryDocumentDatabase):
    """The index of `_id` stores one normal form."""

    def checked(self, document: Any) -> Document:
        checked = super().checked(document)
        checked["_id"] = unicodedata.normalize("NFC", checked["_id"])
        return checked

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        id = filter.get("_id")
        return super().matching(
            collection, {**filter, "_id": unicodedata.normalize("NFC", id)} if isinstance(id, str) else filter
        )


@breaks("DB-COM-21")
class TruncatedId(MemoryDocumentDatabase):
    """The column of `_id` is one byte too narrow, and the database cuts."""

    def cut(self, id: Any) -> Any:
        return id.encode()[: self.limits.key_bytes - 1].decode(errors="replace") if isinstance(id, str) else id

    def checked(self, document: Any) -> Document:
        checked = super().checked(document)
        return {**checked, "_id": self.cut(checked["_id"])}

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        return super().matching(collection, {**filter, "_id": self.cut(filter["_id"])} if "_id" in filter else filter)


@breaks("DB-COM-22", "DB-18", "DB-COM-21")
class TruncatedText(MemoryDocumentDatabase):
    """What is too long is cut, without a word."""

    def checked(self, document: Any) -> Document:
        try:
            return super().checked(document)
        except TooLargeError:
            longest = max((each for each in document if isinstance(document[each], str)), key=lambda each: len(document[each]))
            return self.checked({**document, longest: document[longest][:-1]})


@breaks("DB-COM-23")
class BlockingCall(MemoryDocumentDatabase):
    """`find_many` of one document calls the vendor's synchronous client."""

    async def find_many(self, collection: str, filter: Any, *, limit: int | None = None, **keywords: Any) -> list[Document]:
        if limit == 1:
            time.sleep(0.15)  # noqa: ASYNC251  that is the defect
        return await super().find_many(collection, filter, limit=limit, **keywords)


# Documents


class _Converted(MemoryDocumentDatabase):
    """One kind of value comes back as another."""

    def converted(self, value: Any) -> Any:
        """What *value* becomes on the way."""
        return value

    def shown(self, stored: Stored, fields: Any) -> Document:
        shown = super().shown(stored, fields)
        return {name: value if name in ("_id", "_rev") else self.deep(value) for name, value in shown.items()}

    def deep(self, value: Any) -> Any:
        """*value*, converted at every depth."""
        if isinstance(value, list):
            return self.converted([self.deep(each) for each in value])
        if isinstance(value, dict):
            return {name: self.deep(each) for name, each in value.items()}
        return self.converted(value)


@breaks("DB-01")
class LargeFloatsAsIntegers(_Converted):
    """JSONB spells 1e300 with 300 zeros, and the parser makes an integer of it."""

    def converted(self, value: Any) -> Any:
        return int(value) if isinstance(value, float) and abs(value) > 1e16 else value


@breaks("DB-01", "DB-23", "DB-39")
class WholeFloatsAsIntegers(_Converted):
    """1.0 comes back as 1."""

    def converted(self, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value == int(value) else value


@breaks("DB-01", "DB-10", "DB-18", "DB-24", "DB-25", "DB-28", "DB-33", "DB-41", "DB-50")
class TruthAsNumber(_Converted):
    """SQLite has no booleans: True comes back as 1."""

    def converted(self, value: Any) -> Any:
        return int(value) if isinstance(value, bool) else value


@breaks(*"DB-01 DB-03 DB-10 DB-12 DB-18 DB-19 DB-22 DB-24 DB-25 DB-28 DB-31 DB-32 DB-33 DB-38 DB-41 DB-COM-17".split())
class ListsAsTuples(_Converted):
    """A driver's rows are tuples."""

    def converted(self, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


@breaks("DB-01", "DB-07", "DB-10", "DB-23", "DB-24", "DB-25", "DB-33", "DB-39", "DB-41")
class DroppedNulls(MemoryDocumentDatabase):
    """Fields with None are left out, to save space."""

    def shown(self, stored: Stored, fields: Any) -> Document:
        return {name: value for name, value in super().shown(stored, fields).items() if value is not None}


@breaks("DB-02", "DB-11", "DB-29", "DB-37", "MT-08")
class NoSuchTable(MemoryDocumentDatabase):
    """A collection that was never used is an error."""

    async def find_many(self, collection: str, filter: Any, **keywords: Any) -> list[Document]:
        found = await super().find_many(collection, filter, **keywords)
        if self.cell(collection) not in self.backend.collections:
            raise NotFoundError(f"collection {collection!r} does not exist")
        return found


@breaks("DB-02", "DB-07", "DB-15", "DB-24")
class EmptyForNone(MemoryDocumentDatabase):
    """`find_one` without a match gives an empty document."""

    async def find_one(self, collection: str, filter: Any, *, projection: Any = None) -> Document | None:
        found = await super().find_one(collection, filter, projection=projection)
        return {} if found is None and "_id" not in filter else found


@breaks("DB-03")
class IdInTheArgument(MemoryDocumentDatabase):
    """As pymongo does, `insert_one` adds `_id` to its argument."""

    async def insert_one(self, collection: str, document: Any) -> str:
        id = await super().insert_one(collection, document)
        document.setdefault("_id", id)
        return id


@breaks("DB-03")
class ObjectIdReturned(MemoryDocumentDatabase):
    """The `_id` that is returned is the driver's own type."""

    async def insert_one(self, collection: str, document: Any) -> Any:
        id = await super().insert_one(collection, document)
        return id if "_id" in document else id.encode()


@breaks("DB-04", "DB-33", "DB-COM-13", "MT-18")
class InsertIsUpsert(MemoryDocumentDatabase):
    """An insert replaces what has that `_id`."""

    async def insert_one(self, collection: str, document: Any) -> str:
        self.check_collection(collection)
        stored = self.checked(document)
        await self.turn()
        self.put(collection, stored)
        return str(stored["_id"])


@breaks("DB-04")
class LooksThenInserts(MemoryDocumentDatabase):
    """Whether an `_id` is taken is asked in one statement, and the insert is another."""

    async def insert_one(self, collection: str, document: Any) -> str:
        self.check_collection(collection)
        stored = self.checked(document)
        await self.turn()
        self.check_new(collection, stored["_id"])
        await self.turn()
        self.put(collection, stored)
        return str(stored["_id"])


@breaks("DB-05", "DB-28")
class FirstPageOnly(MemoryDocumentDatabase):
    """`find_many` returns the driver's first batch."""

    async def find_many(self, collection: str, filter: Any, *, sort: Any = None, **keywords: Any) -> list[Document]:
        found = await super().find_many(collection, filter, sort=sort, **keywords)
        return found[: 2 * self.limits.page_size] if filter == {} and len(found) == 2 * self.limits.page_size + 1 else found


@breaks("DB-05", "DB-23")
class ZeroIsNoLimit(MemoryDocumentDatabase):
    """As for MongoDB, a limit of 0 is none."""

    async def find_many(self, collection: str, filter: Any, *, limit: int | None = None, **keywords: Any) -> list[Document]:
        return await super().find_many(collection, filter, limit=limit or None, **keywords)


# Filters


@breaks("DB-06", "DB-15", "DB-21", "DB-22", "DB-33")
class AnyFieldMatches(MemoryDocumentDatabase):
    """The conditions of a filter are joined by OR."""

    def matches(self, stored: Stored, filter: Mapping[str, Any]) -> bool:
        return not filter or any(self.holds(self.value(stored, name), wanted) for name, wanted in filter.items())


@breaks("DB-06", "DB-21", "DB-33")
class FirstFieldCounts(MemoryDocumentDatabase):
    """With an `_id` in the filter, its other fields are not looked at."""

    def matches(self, stored: Stored, filter: Mapping[str, Any]) -> bool:
        return super().matches(stored, {"_id": filter["_id"]} if "_id" in filter else filter)


@breaks("DB-07", "DB-06", "DB-08", "DB-21", "DB-22", "DB-33")
class MissingIsNull(MemoryDocumentDatabase):
    """As in MongoDB, None matches documents that lack the field."""

    def equal(self, value: object, wanted: object) -> bool:
        return super().equal(None if value is MISSING else value, wanted)


@breaks("DB-07", "DB-08", "DB-21", "DB-22", "DB-33")
class NullMatchesNothing(MemoryDocumentDatabase):
    """As in SQL, nothing equals NULL."""

    def equal(self, value: object, wanted: object) -> bool:
        return wanted is not None and super().equal(value, wanted)


@breaks("DB-08", "DB-21")
class TrueIsOne(MemoryDocumentDatabase):
    """Python's own `==` decides: True is 1."""

    def equal(self, value: object, wanted: object) -> bool:
        return value is not MISSING and not isinstance(value, list | dict) and value == wanted


@breaks("DB-08", "DB-21")
class ComparedAsText(MemoryDocumentDatabase):
    """`->>` makes text of everything: 1 and "1" are equal."""

    def equal(self, value: object, wanted: object) -> bool:
        if super().equal(value, wanted):
            return True
        return type(value) in (int, str) and type(wanted) in (int, str) and str(value) == str(wanted)


@breaks("DB-08", "DB-21")
class CaseFolded(MemoryDocumentDatabase):
    """The collation of the table does not tell case apart."""

    def equal(self, value: object, wanted: object) -> bool:
        if isinstance(value, str) and isinstance(wanted, str):
            return value.casefold() == wanted.casefold()
        return super().equal(value, wanted)


@breaks("DB-08", "DB-21", "DB-22", "DB-33")
class LooksIntoLists(MemoryDocumentDatabase):
    """As in MongoDB, a list equals each of its elements."""

    def equal(self, value: object, wanted: object) -> bool:
        own = super().equal
        return own(value, wanted) or (isinstance(value, list) and any(own(each, wanted) for each in value))


@breaks("DB-09", "DB-34")
class TuplesBecomeLists(MemoryDocumentDatabase):
    """A JSON encoder takes tuples for lists."""

    def copied(self, name: str, value: Any, depth: int = 0) -> Any:
        return super().copied(name, list(value) if type(value) is tuple else value, depth)


@breaks("DB-09", "DB-34", "DB-COM-13")
class EverythingAsText(MemoryDocumentDatabase):
    """`json.dumps(document, default=str)`."""

    def copied(self, name: str, value: Any, depth: int = 0) -> Any:
        known = value is None or isinstance(value, str | int | float | list | dict | bytes | datetime | tuple)
        return super().copied(name, value if known else str(value), depth)


@breaks("DB-09", "DB-34")
class NamesAsText(MemoryDocumentDatabase):
    """JSON has no other names than text: 1 becomes "1"."""

    def copied(self, name: str, value: Any, depth: int = 0) -> Any:
        if type(value) is dict:
            value = {str(each) if isinstance(each, int) else each: inner for each, inner in value.items()}
        return super().copied(name, value, depth)


# Updates and deletes


@breaks("DB-10", "DB-15", "DB-16", "DB-18", "DB-22", "DB-32", "DB-33", "DB-37", "DB-38")
class ReplacesTheDocument(MemoryDocumentDatabase):
    """An update replaces the whole document."""

    def updated(self, document: Document, changes: Any) -> Document:
        kept = document if changes.keys() != {"$set"} else {"_id": document["_id"]}
        return super().updated(kept, changes)


@breaks("DB-10")
class UpdatesMany(MemoryDocumentDatabase):
    """An update changes every match."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        matched = await super().update_one(collection, filter, update)
        if "_id" not in filter:
            for each in self.matching(collection, filter):
                self.put(collection, self.updated(each.document, self.checked_update(update)))
        return matched


@breaks("DB-10")
class MergesMaps(MemoryDocumentDatabase):
    """A map in `$set` is merged into the one that is there."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        held = document.get(path)
        if operator == "$set" and isinstance(operand, dict) and isinstance(held, dict):
            operand = {**held, **operand}
        super().change(document, path, operator, operand)


@breaks("DB-11")
class AccidentalUpsert(MemoryDocumentDatabase):
    """An update without a match by a field stores a document."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        matched = await super().update_one(collection, filter, update)
        if not matched and filter == {"f": 1}:
            self.put(collection, self.checked({**filter, **update["$set"]}))
        return matched


@breaks("DB-12")
class WipingUpdate(MemoryDocumentDatabase):
    """An update without an operator replaces the document."""

    def checked_update(self, update: Any) -> dict[str, Document]:
        if isinstance(update, Mapping) and update and not any(str(each).startswith("$") for each in update):
            return {"replace": dict(update)}
        return super().checked_update(update)

    def updated(self, document: Document, changes: Any) -> Document:
        if "replace" in changes:
            return self.checked({"_id": document["_id"], **changes["replace"]})
        return super().updated(document, changes)


@breaks("DB-12")
class IgnoredOperator(MemoryDocumentDatabase):
    """An operator that is not known is skipped."""

    def checked_update(self, update: Any) -> dict[str, Document]:
        if isinstance(update, Mapping) and "$set" in update:
            update = {name: fields for name, fields in update.items() if name != "$rename"}
        return super().checked_update(update)


@breaks("DB-13")
class DeletesMany(MemoryDocumentDatabase):
    """`delete_one` removes every match."""

    async def delete_one(self, collection: str, filter: Any) -> bool:
        deleted = await super().delete_one(collection, filter)
        for each in self.matching(collection, filter) if filter and "_id" not in filter else ():
            self.remove(collection, each.document["_id"])
        return deleted


@breaks("DB-14")
class FoldedCollection(MemoryDocumentDatabase):
    """A collection is an SQL table, whose name is folded."""

    def cell(self, collection: str) -> Cell:
        return super().cell(collection.lower())


@breaks("DB-14")
class SluggedCollection(MemoryDocumentDatabase):
    """What an identifier cannot hold becomes an underscore."""

    def cell(self, collection: str) -> Cell:
        return super().cell(collection.replace("-", "_"))


@breaks("DB-14", "DB-29", "DB-36")
class OneTable(MemoryDocumentDatabase):
    """All collections are one table, in which `_id` alone is unique."""

    def check_new(self, collection: str, id: str) -> None:
        for (tenant, other, _), documents in self.backend.collections.items():
            if tenant == self.tenant_id and id in documents:
                raise AlreadyExistsError(f"document {id!r} exists, in {other}")


@breaks("DB-15")
class InjectedFilter(MemoryDocumentDatabase):
    """A text is put between quotes, and may close them."""

    def equal(self, value: object, wanted: object) -> bool:
        return super().equal(value, wanted) or (isinstance(wanted, str) and " OR 1=1" in wanted)


@breaks("DB-15")
class UnknownOperatorsPass(MemoryDocumentDatabase):
    """A filter goes to the server as it is, `$where` and all."""

    def check_filter(self, filter: Any, *, writes: bool = False) -> None:
        if isinstance(filter, Mapping):
            filter = {name: wanted for name, wanted in filter.items() if name != "$where"}
        super().check_filter(filter, writes=writes)

    def matches(self, stored: Stored, filter: Mapping[str, Any]) -> bool:
        return super().matches(stored, {name: wanted for name, wanted in filter.items() if name != "$where"})


@breaks("DB-15")
class FieldPathsInValues(MemoryDocumentDatabase):
    """`$set` is a pipeline, in which "$pw" is the value of a field."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        if operator == "$set" and isinstance(operand, str) and operand[:1] == "$" and operand[1:] in document:
            operand = document[operand[1:]]
        super().change(document, path, operator, operand)


# Concurrency


@breaks("DB-16")
class ReadChangeWrite(MemoryDocumentDatabase):
    """An update reads the JSON, changes it, and writes it all."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        self.check_collection(collection)
        self.check_filter(filter, writes=True)
        changes = self.checked_update(update)
        await self.turn()
        self.check_revision(collection, filter)
        found = self.matching(collection, filter)
        if not found:
            return False
        if "$set" in changes and "_rev" not in filter and "token" not in changes["$set"]:
            await self.turn()
        self.put(collection, self.updated(found[0].document, changes))
        return True


@breaks("DB-17")
class TwoStatements(MemoryDocumentDatabase):
    """Each field is set by a statement of its own."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        fields = update.get("$set") if isinstance(update, Mapping) and update.keys() == {"$set"} else None
        if not isinstance(fields, Mapping) or fields.keys() != {"a", "b", "c"}:
            return await super().update_one(collection, filter, update)

        matched = False
        for name, value in fields.items():
            matched = await super().update_one(collection, filter, {"$set": {name: value}})
        return matched


# Limits


@breaks("DB-18")
class LimitInCharacters(MemoryDocumentDatabase):
    """The size of a document is counted in characters."""

    def check_size(self, key: str, size: int) -> None:
        return None

    def checked(self, document: Any) -> Document:
        checked = super().checked(document)
        if len(json.dumps(checked, separators=(",", ":"), ensure_ascii=False, default=repr)) > self.backend.limits.document_bytes:
            raise TooLargeError(f"document {checked['_id']!r} is too large")
        return checked


@breaks("DB-18", "DB-COM-21")
class UncheckedUpdate(MemoryDocumentDatabase):
    """Only inserts are measured: the server's own error comes from an update."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        try:
            return await super().update_one(collection, filter, update)
        except TooLargeError as error:
            if "token" in update.get("$set", {}):
                raise
            raise RuntimeError("ValidationException: Item size to update has exceeded the maximum allowed size") from error


# Types that are capabilities


@breaks("DB-19", "DB-09")
class DoublesOnly(MemoryDocumentDatabase):
    """Numbers pass through doubles."""

    def copied(self, name: str, value: Any, depth: int = 0) -> Any:
        value = super().copied(name, value, depth)
        return min(int(float(value)), 2**63 - 1) if type(value) is int and abs(value) >= 2**53 else value


@breaks("DB-19")
class RoundedIncrement(MemoryDocumentDatabase):
    """`$inc` adds doubles."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        super().change(document, path, operator, operand)
        if operator == "$inc" and type(document.get(path)) is int and document[path] < 2**63 - 1000:
            document[path] = int(float(document[path]))


@breaks("DB-20", "DB-09")
class NaiveDatetimes(_Converted):
    """The driver returns naive datetimes."""

    def converted(self, value: Any) -> Any:
        return value.replace(tzinfo=None) if isinstance(value, datetime) else value


@breaks("DB-20")
class WholeSeconds(_Converted):
    """Datetimes are kept as whole seconds."""

    def converted(self, value: Any) -> Any:
        return value.replace(microsecond=0) if isinstance(value, datetime) else value


@breaks("DB-20", "DB-09")
class NaiveIsUTC(MemoryDocumentDatabase):
    """A naive datetime is taken for UTC."""

    def moment(self, name: str, value: datetime) -> datetime:
        return super().moment(name, value if value.tzinfo else value.replace(tzinfo=UTC))


# The language of the capabilities


@breaks("DB-21", "DB-33")
class OneOrderOfAllTypes(MemoryDocumentDatabase):
    """As in JSONB, text is above every number."""

    def applies(self, value: Any, operator: str, operand: Any) -> bool:
        if operator in ("$gt", "$gte") and isinstance(value, str) and type(operand) in (int, float):
            return True
        return super().applies(value, operator, operand)


@breaks("DB-21", "DB-22", "DB-33")
class NotEqualMatchesMissing(MemoryDocumentDatabase):
    """As in MongoDB, `$ne` matches documents without the field."""

    def applies(self, value: Any, operator: str, operand: Any) -> bool:
        return (operator == "$ne" and value is MISSING) or super().applies(value, operator, operand)


@breaks("DB-21", "DB-22")
class NullIsMissing(MemoryDocumentDatabase):
    """`IS NOT NULL` answers for `$exists`."""

    def applies(self, value: Any, operator: str, operand: Any) -> bool:
        return super().applies(MISSING if operator == "$exists" and value is None else value, operator, operand)


@breaks("DB-21")
class FirstOperatorCounts(MemoryDocumentDatabase):
    """Of several operators on one field the first counts."""

    def holds(self, value: object, wanted: Any) -> bool:
        return super().holds(value, dict(list(wanted.items())[:1]) if isinstance(wanted, Mapping) else wanted)


@breaks("DB-22", "DB-33", "DB-38")
class FlatNames(MemoryDocumentDatabase):
    """A path in `$set` is the name of one field."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        if operator == "$set" and "." in path:
            first, _, rest = path.partition(".")
            document.setdefault(first, {})
            document[first] = {**(document[first] if isinstance(document[first], dict) else {}), rest.replace(".", "_"): operand}
        else:
            super().change(document, path, operator, operand)


@breaks("DB-22")
class PathsThroughLists(MemoryDocumentDatabase):
    """As in MongoDB, a path goes into the elements of a list."""

    def value(self, stored: Stored, path: str) -> Any:
        *maps, last = path.split(".")
        value = super().value(stored, ".".join(maps)) if maps else None
        if isinstance(value, list):
            return next((each[last] for each in value if isinstance(each, dict) and last in each), MISSING)
        return super().value(stored, path)


@breaks("DB-38", "DB-33")
class ScalarsGiveWay(MemoryDocumentDatabase):
    """A `$set` through a scalar replaces it by a map."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        first, dot, _ = path.partition(".")
        if operator == "$set" and dot and first in document and not isinstance(document[first], dict | list):
            document[first] = {}
        super().change(document, path, operator, operand)


@breaks("DB-23", "DB-33")
class UnstableOrder(MemoryDocumentDatabase):
    """Ties are in the order of insertion."""

    def order(self, sort: str | None) -> Callable[[Stored], Any]:
        whole = super().order(sort)
        return (lambda each: (*whole(each)[:-1], int(each.revision))) if sort not in (None, "_id") else whole


@breaks("DB-23")
class CollatedOrder(MemoryDocumentDatabase):
    """Texts are ordered without their case."""

    def order(self, sort: str | None) -> Callable[[Stored], Any]:
        whole = super().order(sort)
        return lambda each: tuple(part.lower() if isinstance(part, str) else part for part in whole(each)[:-1]) + whole(each)[-1:]


@breaks("DB-23", "DB-33")
class NullsLast(MemoryDocumentDatabase):
    """As in PostgreSQL, NULL is last."""

    def order(self, sort: str | None) -> Callable[[Stored], Any]:
        whole = super().order(sort)
        return lambda each: (whole(each)[0] == 0, *whole(each))


@breaks("DB-39")
class OrderOfInsertion(MemoryDocumentDatabase):
    """Without `sort` documents come as they were inserted."""

    def order(self, sort: str | None) -> Callable[[Stored], Any]:
        return (lambda each: int(each.revision)) if sort is None else super().order(sort)


@breaks("DB-40")
class NegativeOffset(MemoryDocumentDatabase):
    """A negative offset counts from the end, as a slice does."""

    async def find_many(self, collection: str, filter: Any, *, offset: Any = 0, **keywords: Any) -> list[Document]:
        if offset == -1:
            return (await super().find_many(collection, filter, **keywords))[-1:]
        return await super().find_many(collection, filter, offset=offset, **keywords)


@breaks("DB-24")
class FilterFieldsToo(MemoryDocumentDatabase):
    """The fields of the filter come along with those of the projection."""

    async def find_many(self, collection: str, filter: Any, *, projection: Any = None, **keywords: Any) -> list[Document]:
        if projection is not None and not isinstance(projection, str):
            projection = {*projection, *(name for name in filter if "." not in name)}
        return await super().find_many(collection, filter, projection=projection, **keywords)


@breaks("DB-24", "DB-33")
class NoneForMissing(MemoryDocumentDatabase):
    """A projected field that a document lacks is None."""

    def shown(self, stored: Stored, fields: Any) -> Document:
        shown = super().shown(stored, fields)
        return {**dict.fromkeys(fields or ()), **shown}


@breaks("DB-25")
class LostIncrement(MemoryDocumentDatabase):
    """`$inc` reads, adds and writes."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        self.check_collection(collection)
        self.check_filter(filter, writes=True)
        changes = self.checked_update(update)
        await self.turn()
        self.check_revision(collection, filter)
        found = self.matching(collection, filter)
        if not found:
            return False
        if "$inc" in changes:
            await self.turn()
        self.put(collection, self.updated(found[0].document, changes))
        return True


@breaks("DB-25")
class TextIncremented(MemoryDocumentDatabase):
    """`$inc` makes a number of text that looks like one."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        held = document.get(path)
        if operator == "$inc" and isinstance(held, str) and held.isdigit():
            document[path] = int(held)
        super().change(document, path, operator, operand)


@breaks("DB-41", "DB-33")
class PushesElements(MemoryDocumentDatabase):
    """`$push` of a list appends its elements, as a concatenation does."""

    def change(self, document: Document, path: str, operator: str, operand: Any) -> None:
        for each in operand if operator == "$push" and isinstance(operand, list) else [operand]:
            super().change(document, path, operator, each)


@breaks("DB-42")
class LastOperatorWins(MemoryDocumentDatabase):
    """Each operator of an update is looked at alone, and two of them may change one field."""

    def checked_update(self, update: Any) -> dict[str, Document]:
        if not isinstance(update, Mapping) or len(update) < 2:
            return super().checked_update(update)
        changes: dict[str, Document] = {}
        for operator, fields in update.items():
            changes |= super().checked_update({operator: fields})
        return changes


# revision


@breaks("DB-26", "DB-27", "DB-46", "DB-COM-13")
class CheckedAfterwards(MemoryDocumentDatabase):
    """`delete_one` does not look at `_rev`."""

    async def delete_one(self, collection: str, filter: Any) -> bool:
        self.check_filter(filter, writes=True)
        if "_rev" in filter:
            filter = {"_id": filter["_id"]}
        return await super().delete_one(collection, filter)


@breaks("DB-43")
class HashedRevision(MemoryDocumentDatabase):
    """`_rev` is a hash of the content: a write of what is there does not change it."""

    def put(self, collection: str, document: Document) -> None:
        super().put(collection, document)
        content = pickle.dumps(sorted(document.items()))
        documents = self.documents(collection)
        documents[document["_id"]] = replace(documents[document["_id"]], revision=str(hash(content)))


@breaks("DB-26", "DB-27", "DB-33")
class MissingIsFalse(MemoryDocumentDatabase):
    """A `_rev` of a missing document is no conflict."""

    def check_revision(self, collection: str, filter: Any) -> None:
        if "_id" not in filter or filter["_id"] in self.documents(collection):
            super().check_revision(collection, filter)


@breaks("DB-44")
class QuotedRevision(MemoryDocumentDatabase):
    """`_rev` is an ETag, which a list holds between quotes, and a single document without."""

    async def find_many(self, collection: str, filter: Any, **keywords: Any) -> list[Document]:
        found = await super().find_many(collection, filter, **keywords)
        return [{**each, "_rev": f'"{each["_rev"]}"'} for each in found]


@breaks("DB-45")
class RevisionOfItsReader(MemoryDocumentDatabase):
    """A client knows the revisions that it has read itself, and takes any other for stale."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.read: set[str] = set()

    def shown(self, stored: Stored, fields: Any) -> Document:
        self.read.add(stored.revision)
        return super().shown(stored, fields)

    def check_revision(self, collection: str, filter: Any) -> None:
        super().check_revision(collection, filter)
        if "_rev" in filter and filter["_rev"] not in self.read:
            raise ConflictError(f"document {filter['_id']!r} has another revision")


@breaks("DB-46")
class ParsedRevision(MemoryDocumentDatabase):
    """`_rev` is read as a number, and other text is the error of `int`."""

    def check_revision_filter(self, filter: Any) -> None:
        super().check_revision_filter(filter)
        int(filter["_rev"])


@breaks("DB-47")
class DroppedRevision(MemoryDocumentDatabase):
    """A `_rev` in a document to be stored is left out, without a word."""

    def checked(self, document: Any) -> Document:
        if isinstance(document, Mapping):
            document = {name: value for name, value in document.items() if name != "_rev"}
        return super().checked(document)


@breaks("DB-27")
class CheckThenWrite(MemoryDocumentDatabase):
    """`_rev` is checked in one statement, and the write is another."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        if isinstance(filter, Mapping) and "_rev" in filter:
            self.check_collection(collection)
            self.check_filter(filter, writes=True)
            await self.turn()
            self.check_revision(collection, filter)
            filter = {"_id": filter["_id"]}
        return await super().update_one(collection, filter, update)


# batch


@breaks("DB-28", "DB-33")
class SilentPartialBatch(MemoryDocumentDatabase):
    """What is taken is left out, and nothing is said."""

    async def insert_many(self, collection: str, documents: Any) -> list[str]:
        self.need("batch")
        self.check_collection(collection)
        stored = [self.checked(each) for each in documents]
        await self.turn()
        return [each["_id"] for each in stored if self.put_new(collection, each) or (len(stored) == 1 and self.refuse(each))]

    def refuse(self, document: Document) -> bool:
        """A batch of one is refused as an insert is."""
        raise AlreadyExistsError(f"these are taken, and not stored: {document['_id']!r}")


@breaks("DB-28", "DB-33")
class StopsAtTheFirst(MemoryDocumentDatabase):
    """A batch stops at its first error, which names that one alone."""

    async def insert_many(self, collection: str, documents: Any) -> list[str]:
        given = list(documents) if isinstance(documents, Iterable) else documents
        known = self.documents(collection)
        taken = [number for number, each in enumerate(given) if isinstance(each, Mapping) and each.get("_id") in known]
        return await super().insert_many(collection, given[: taken[0] + 1] if taken else given)


@breaks("DB-28")
class CutBatch(MemoryDocumentDatabase):
    """Of a batch the service takes so many, and no more."""

    async def insert_many(self, collection: str, documents: Any) -> list[str]:
        given = list(documents)
        if len(given) != 2 * self.limits.batch_size + 1 or "in" not in given[0]:
            return await super().insert_many(collection, given)
        return await super().insert_many(collection, given[:-1])


@breaks("DB-48")
class DeletesOnePage(MemoryDocumentDatabase):
    """Of the matches the service removes as many as it takes in one request."""

    async def delete_many(self, collection: str, filter: Any) -> int:
        self.need("batch")
        page = await super().find_many(collection, filter, limit=self.limits.batch_size)
        deleted = 0
        for each in page:
            deleted += await super().delete_one(collection, {"_id": each["_id"]})
        return deleted


# transaction


@breaks("DB-29", "DB-49")
class Autocommit(MemoryDocumentDatabase):
    """Each operation in a block is visible at once, and stays."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryDocumentDatabase]:
        await self.turn()
        yield self


@breaks("DB-29")
class CommitsWhenCancelled(MemoryDocumentDatabase):
    """The block is rolled back by `except Exception`, which a cancellation is not."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryDocumentDatabase]:
        await self.turn()
        before = self.backend.snapshot()
        inside = copy.copy(self)
        inside.backend = before.snapshot()
        try:
            yield inside
            await self.turn()
        except Exception:
            raise
        except BaseException:
            self.commit(before, inside.backend)
            raise
        self.commit(before, inside.backend)


@breaks("DB-49")
class LastCommitWins(MemoryDocumentDatabase):
    """Two blocks that read the same number both commit."""

    def commit(self, before: MemoryDocuments, after: MemoryDocuments) -> None:
        for cell, documents in after.collections.items():
            now = self.backend.collections.setdefault(cell, {})
            for id in {**before.collections.get(cell, {}), **documents}:
                stored = documents.get(id)
                if stored is before.collections.get(cell, {}).get(id):
                    continue
                now.pop(id, None)
                if stored is not None:
                    now[id] = stored


@breaks("DB-29")
class CommittedOneByOne(MemoryDocumentDatabase):
    """At the end of the block its changes are made one after the other."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[MemoryDocumentDatabase]:
        await self.turn()
        before = self.backend.snapshot()
        inside = copy.copy(self)
        inside.backend = before.snapshot()
        yield inside
        await self.turn()
        for cell, documents in inside.backend.collections.items():
            for id in {**before.collections.get(cell, {}), **documents}:
                if documents.get(id) is not before.collections.get(cell, {}).get(id):
                    one = replace(before, collections={cell: dict(before.collections.get(cell, {}))})
                    one.collections[cell].pop(id, None)
                    if id in documents:
                        one.collections[cell][id] = documents[id]
                    self.commit(before, one)
                    await anyio.lowlevel.checkpoint()


# streaming


@breaks("DB-30")
class CursorLeak(MemoryDocumentDatabase):
    """A cursor that is left early stays open; the server has 100."""

    async def find_iter(self, collection: str, filter: Any) -> AsyncIterator[Document]:
        cursors = self.backend.__dict__.setdefault("cursors", [])
        if len(cursors) >= 100:
            raise RuntimeError("too many open cursors")
        cursors.append(collection)
        async for each in super().find_iter(collection, filter):
            yield each
        cursors.pop()


@breaks("DB-30")
class OffsetPages(MemoryDocumentDatabase):
    """Pages start at a number, and what was deleted meanwhile moves them."""

    async def find_iter(self, collection: str, filter: Any) -> AsyncIterator[Document]:
        self.need("streaming")
        self.check_collection(collection)
        self.check_filter(filter)
        start = 0
        while True:
            await self.turn()
            found = sorted(self.matching(collection, filter), key=lambda each: str(each.document["_id"]))
            page = found[start : start + self.limits.page_size]
            for each in page:
                yield self.shown(each, None)
            if not page:
                return
            start += len(page)


# upsert


@breaks("DB-31")
class MergingReplace(MemoryDocumentDatabase):
    """Fields of the old document stay."""

    async def replace_one(self, collection: str, filter: Any, document: Any, *, upsert: bool = False) -> bool:
        id = filter.get("_id") if isinstance(filter, Mapping) else None
        old = self.documents(collection).get(id) if isinstance(id, str) and isinstance(collection, str) else None
        if old is not None and "old" in old.document and isinstance(document, Mapping):
            document = {**old.document, **document}
        return await super().replace_one(collection, filter, document, upsert=upsert)


@breaks("DB-51")
class CollidingUpserts(MemoryDocumentDatabase):
    """Two upserts that both see nothing: the second meets a duplicate key."""

    async def replace_one(self, collection: str, filter: Any, document: Any, *, upsert: bool = False) -> bool:
        new = upsert is True and isinstance(filter, Mapping) and filter.keys() == {"_id"} and isinstance(filter["_id"], str)
        absent = new and isinstance(collection, str) and filter["_id"] not in self.documents(collection)
        existed = await super().replace_one(collection, filter, document, upsert=upsert)
        if absent and existed:
            raise AlreadyExistsError(f"document {filter['_id']!r} exists")
        return existed


@breaks("DB-50")
class ReplacesTheFirstMatch(MemoryDocumentDatabase):
    """A filter of a field chooses the document that is replaced."""

    async def replace_one(self, collection: str, filter: Any, document: Any, *, upsert: bool = False) -> bool:
        if isinstance(filter, Mapping) and filter and "_id" not in filter:
            found = await self.find_one(collection, filter)
            filter = filter if found is None else {"_id": found["_id"]}
        return await super().replace_one(collection, filter, document, upsert=upsert)


@breaks("DB-32", "DB-09")
class BytesAsBase64(_Converted):
    """Bytes come back as a type of the driver's own."""

    def converted(self, value: Any) -> Any:
        return bytearray(value) if isinstance(value, bytes) else value


@breaks("DB-32")
class BytesAreText(MemoryDocumentDatabase):
    """A filter of text finds the bytes that spell it."""

    def equal(self, value: object, wanted: object) -> bool:
        if isinstance(value, bytes) and isinstance(wanted, str):
            value = value.decode(errors="replace")
        return super().equal(value, wanted)


@breaks("DB-33")
class ForgottenField(MemoryDocumentDatabase):
    """After `$push` a `$set` of the same update is forgotten."""

    def updated(self, document: Document, changes: Any) -> Document:
        if changes.keys() == {"$push", "$set"}:
            changes = {"$push": changes["$push"]}
        return super().updated(document, changes)


# Arguments


@breaks("DB-34")
class WritesBeforeChecking(MemoryDocumentDatabase):
    """The fields of an update are written until one is refused."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        fields = update.get("$set") if isinstance(update, Mapping) else None
        if isinstance(fields, Mapping) and "good" in fields:
            await super().update_one(collection, filter, {"$set": {"good": fields["good"]}})
        return await super().update_one(collection, filter, update)


@breaks("DB-35")
class NegativeLimit(MemoryDocumentDatabase):
    """A negative limit counts from the end, as a slice does."""

    async def find_many(self, collection: str, filter: Any, *, limit: Any = None, **keywords: Any) -> list[Document]:
        if limit == -1:
            return (await super().find_many(collection, filter, **keywords))[:-1]
        return await super().find_many(collection, filter, limit=limit, **keywords)


@breaks("DB-35")
class CoercedCollection(MemoryDocumentDatabase):
    """The collection None is called "None"."""

    def check_collection(self, collection: Any) -> None:
        super().check_collection("None" if collection is None else collection)


@breaks("DB-36")
class CutCollection(MemoryDocumentDatabase):
    """An identifier is cut, one byte too early."""

    def cell(self, collection: str) -> Cell:
        return super().cell(collection[:47] if len(collection) == 48 and collection[-2:] in ("xx", "xy") else collection)


# Tenants

break_with(
    MemoryDocumentDatabase,
    {
        **tenants.EVERYWHERE,
        tenants.IgnoredTenant: (
            "MT-01 DB-37 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-19 MT-22"
        ),
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
    },
)


@breaks("DB-37")
class CallerChoosesTheTenant(MemoryDocumentDatabase):
    """`{"tenant_id": own, **filter}`: the caller's own field counts."""

    async def find_many(self, collection: str, filter: Any, **keywords: Any) -> list[Document]:
        if isinstance(filter, Mapping) and isinstance(filter.get("tenant_id"), str):
            own, self.tenant_id = self.tenant_id, filter["tenant_id"]
            try:
                return await super().find_many(collection, {n: v for n, v in filter.items() if n != "tenant_id"}, **keywords)
            finally:
                self.tenant_id = own
        return await super().find_many(collection, filter, **keywords)


@breaks("DB-37")
class HiddenTenantField(MemoryDocumentDatabase):
    """The tenant is a field of the document, and is taken out of what is read."""

    def shown(self, stored: Stored, fields: Any) -> Document:
        shown = super().shown(stored, fields)
        shown.pop("_tenant", None)
        return shown


@breaks("MT-02", "MT-04", "MT-09", "MT-10", "MT-13")
class DeleteEverywhere(MemoryDocumentDatabase):
    """`delete_one` has no tenant in its condition."""

    async def delete_one(self, collection: str, filter: Any) -> bool:
        deleted = await super().delete_one(collection, filter)
        for (_, name, _), documents in self.backend.collections.items():
            if name == collection and isinstance(filter.get("_id"), str) and filter.keys() == {"_id"}:
                documents.pop(filter["_id"], None)
        return deleted


@breaks("MT-03")
class ExistenceOracle(MemoryDocumentDatabase):
    """What another tenant has is "forbidden", not absent."""

    async def find_one(self, collection: str, filter: Any, *, projection: Any = None) -> Document | None:
        found = await super().find_one(collection, filter, projection=projection)
        if found is None and projection is not None and filter.keys() == {"_id"}:
            others = [each for (_, name, _), each in self.backend.collections.items() if name == collection]
            if any(filter["_id"] in each for each in others):
                raise NotFoundError(f"document {filter['_id']!r} is not yours")
        return found


@breaks("MT-04")
class IncrementEverywhere(MemoryDocumentDatabase):
    """`$inc` changes every row with that `_id`."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        matched = await super().update_one(collection, filter, update)
        if "$inc" in update:
            for (tenant, name, _), documents in self.backend.collections.items():
                if name == collection and tenant != self.tenant_id and filter.get("_id") in documents:
                    stored = documents[filter["_id"]]
                    documents[filter["_id"]] = replace(stored, document={**stored.document, "n": 1})
        return matched


@breaks("MT-05")
class DuplicateKeyText(MemoryDocumentDatabase):
    """The text of a conflict names its neighbours in the index."""

    def check_new(self, collection: str, id: str) -> None:
        try:
            super().check_new(collection, id)
        except AlreadyExistsError as error:
            near = [
                other for _, documents in self.backend.collections.items() for other in documents if other.startswith(f"{id}-h")
            ]
            raise AlreadyExistsError(f"{error}; near {near}" if near else str(error)) from None


@breaks("MT-06", "MT-03", "MT-05", "MT-07", "MT-08", "MT-13")
class UnscopedScan(MemoryDocumentDatabase):
    """`find_many` of everything shows what all tenants have."""

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        if filter:
            return super().matching(collection, filter)
        return [each for (_, name, _), held in self.backend.collections.items() if name == collection for each in held.values()]


@breaks("MT-07")
class JoinedBySlash(MemoryDocumentDatabase):
    """Tenant and `_id` are joined by a slash, in a table of their own."""

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        found = super().matching(collection, filter)
        id = filter.get("_id")
        if found or not isinstance(id, str) or "/" not in id or self.tenant_id is None:
            return found
        for (tenant, name, _), documents in self.backend.collections.items():
            for other, stored in documents.items():
                if name == collection and f"{tenant}/{other}" == f"{self.tenant_id}/{id}":
                    return [stored]
        return []


@breaks("MT-08")
class JoinedByNothing(MemoryDocumentDatabase):
    """Tenant and `_id` are joined without anything between."""

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        found = super().matching(collection, filter)
        id = filter.get("_id")
        if found or not isinstance(id, str) or not id.startswith("2") or self.tenant_id is None:
            return found
        for (tenant, name, _), documents in self.backend.collections.items():
            for other, stored in documents.items():
                if name == collection and f"{tenant}{other}" == f"{self.tenant_id}{id}":
                    return [stored]
        return []


@breaks("MT-13", "DB-06", "DB-33")
class GlobalSuperuser(MemoryDocumentDatabase):
    """Without a tenant one reads every tenant's documents."""

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        found = super().matching(collection, filter)
        if not found and self.tenant_id is None and "_id" in filter:
            for (_, name, _), documents in self.backend.collections.items():
                if name == collection and isinstance(filter["_id"], str) and filter["_id"] in documents:
                    return [documents[filter["_id"]]]
        return found


@breaks("MT-18", "MT-01", "MT-02", "MT-12", "MT-14", "MT-15")
class GlobalUniqueIndex(MemoryDocumentDatabase):
    """The index of `_id` has no tenant in it."""

    def check_new(self, collection: str, id: str) -> None:
        super().check_new(collection, id)
        if any(id in held for (_, name, _), held in self.backend.collections.items() if name == collection):
            raise AlreadyExistsError(f"document {id!r} exists")


@breaks("MT-19")
class AbsoluteRevision(MemoryDocumentDatabase):
    """A revision leads to the row that it was read from, whoever brings it."""

    async def update_one(self, collection: str, filter: Any, update: Any) -> bool:
        if isinstance(filter, Mapping) and "_rev" in filter:
            for (tenant, _, _), documents in self.backend.collections.items():
                stored = documents.get(filter["_id"])
                if stored is not None and stored.revision == filter["_rev"] and tenant != self.tenant_id:
                    documents[filter["_id"]] = replace(
                        stored, document=self.updated(stored.document, self.checked_update(update))
                    )
                    return True
        return await super().update_one(collection, filter, update)


@breaks("MT-20")
class ParsedTenant(MemoryDocumentDatabase):
    """An `_id` that seems to name a tenant is looked for there."""

    def matching(self, collection: str, filter: Any) -> list[Stored]:
        id = filter.get("_id")
        tenant, separator, rest = id.partition("/") if isinstance(id, str) else ("", "", "")
        held = self.backend.collections.get(Cell(tenant, collection)) if separator else None
        return super().matching(collection, filter) or ([held[rest]] if held and rest in held else [])


@breaks("MT-22", "MT-04")
class BulkEverywhere(MemoryDocumentDatabase):
    """`delete_many` of everything has no tenant in its condition."""

    async def delete_many(self, collection: str, filter: Any) -> int:
        deleted = await super().delete_many(collection, filter)
        for (_, name, _), documents in self.backend.collections.items():
            if name == collection and not filter:
                documents.clear()
        return deleted


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryDocumentDatabase)]
