"""Correct but unusual document databases."""

import copy
import functools
import hashlib
import itertools
import json
import math
import operator
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.document_database import DocumentDatabaseContract, DocumentDatabaseProtocol
from omnitck.reference.document_database import CAPABILITIES, MemoryDocumentDatabase, MemoryDocuments
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from omnitck.shared.models import DocumentLimits
from omnitck.unusual import unusual

T = TypeVar("T")

Document = dict[str, Any]


class Dictionary:
    """The five methods, over dictionaries that each client has to itself. What it cannot read it refuses; it keeps all else."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, Document]] = {}

    async def insert_one(self, collection: str, document: Mapping[str, Any]) -> str:
        stored = copy.deepcopy(dict(document))
        id: str = stored.setdefault("_id", secrets.token_hex())
        if id in self.collections.setdefault(collection, {}):
            raise AlreadyExistsError

        self.collections[collection][id] = stored
        return id

    async def find_one(self, collection: str, filter: Mapping[str, Any]) -> Document | None:
        return next(iter(copy.deepcopy(self.matching(collection, filter))), None)

    async def find_many(self, collection: str, filter: Mapping[str, Any], *, limit: int | None = None) -> list[Document]:
        return copy.deepcopy(self.matching(collection, filter)[:limit])

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        if not isinstance(update, dict) or update.keys() != {"$set"} or any("." in name for name in update["$set"]):
            raise UnsupportedError
        if not isinstance(update["$set"], dict) or not update["$set"] or "_id" in update["$set"]:
            raise InvalidArgumentError

        for each in self.matching(collection, filter):
            each |= copy.deepcopy(update["$set"])
            return True
        return False

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        for each in self.matching(collection, filter):
            del self.collections[collection][each["_id"]]
            return True
        return False

    def matching(self, collection: str, filter: Mapping[str, Any]) -> list[Document]:
        """The documents themselves."""
        if any(isinstance(wanted, dict | list) or "." in name or name.startswith("$") for name, wanted in filter.items()):
            raise UnsupportedError

        documents = self.collections.get(collection, {}).values()
        return [each for each in documents if all(name in each and equal(each[name], wanted) for name, wanted in filter.items())]


def equal(one: object, other: object) -> bool:
    """Whether two values are one: numbers may be of two types, and a truth is no number."""
    numbers = [isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other)]
    return (all(numbers) or type(one) is type(other)) and one == other


@unusual
class Plainest(DocumentDatabaseContract):
    """Five methods over dictionaries: no capability, no limits, no method that closes, and never a turn of the event loop.

    Nothing is validated that could be kept, and errors have no text. A rule that needs more than the core demands would reject
    it.
    """

    async def make_provider(self, **config: object) -> DocumentDatabaseProtocol:
        return Dictionary()


# What the next two databases have in common: the language, read anew.


class DriverError(Exception):
    """What a driver raises."""


class Malformed(InvalidArgumentError):
    """It is not in the language."""


class NotOffered(UnsupportedError):
    """It is in the language, and not in that of this database."""


class DuplicateKey(AlreadyExistsError):
    """The `_id` is taken."""


class Stale(ConflictError):
    """Somebody else was there."""

    def __init__(self, message: str, code: int = 112) -> None:
        super().__init__(message)
        self.code = code


class Oversized(TooLargeError):
    """A document or a name is longer than the database takes."""


class SessionEnded(ClosedError):
    """The client was closed."""


class NoServer(UnavailableError):
    """The database does not answer."""


MISSING = object()
RANGES: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


@dataclass(frozen=True)
class Language:
    """The language of documents, as far as a database with these *capabilities* and *limits* speaks it."""

    capabilities: frozenset[str]
    limits: DocumentLimits

    # Documents

    def document(self, document: object) -> Document:
        """A copy of *document*, of which everything is in the language; with an `_id`, if it has one."""
        if not isinstance(document, Mapping):
            raise Malformed(f"a document is a mapping, not {type(document).__name__}") from DriverError(14)

        fields = {self.name(name): self.value(name, value, 1) for name, value in document.items()}
        if "_id" in fields:
            self.id(fields["_id"])
        if "_rev" in fields and "revision" in self.capabilities:
            raise Malformed(f"document {fields.get('_id')!r}: _rev is not for storing")

        return fields

    def check_size(self, document: Document) -> None:
        """Refuse a document that is too long, in bytes of its shortest JSON text."""
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, default=str)
        if len(text.encode()) > self.limits.document_bytes:
            raise Oversized(f"document {document['_id']!r} is longer than {self.limits.document_bytes} bytes")

    def id(self, id: object) -> None:
        """Refuse what is no `_id`."""
        self._text("the _id", id)
        if not id or len(str(id).encode()) > self.limits.key_bytes:
            raise Malformed(f"the _id {id!r} has no byte, or more than {self.limits.key_bytes}")

    def collection(self, name: object) -> None:
        """Refuse every name that need not be taken."""
        if not isinstance(name, str) or not re.fullmatch("[a-z0-9_-]+", name) or len(name) > self.limits.collection_bytes:
            raise Malformed(f"{name!r} is no name of a collection here") from DriverError(73)

    def name(self, name: Any) -> str:
        """Refuse what is no name of a field."""
        self._text("the name of a field", name)
        if not name or name.startswith("$") or "." in name:
            raise Malformed(f"a field cannot be called {name!r}")

        return str(name)

    def value(self, name: Any, value: Any, depth: int = 0) -> Any:
        """A copy of *value*, if it is in the language."""
        kind = type(value)
        if kind in (type(None), bool):
            return value
        if kind is str:
            self._text(f"field {name!r}", value)
            return value
        if kind is int:
            least, most = (-(2**63), 2**63) if "int64" in self.capabilities else (-(2**53) + 1, 2**53)
            if not least <= value < most:
                raise Malformed(f"field {name!r}: a number that might be rounded") from OverflowError("out of range")
            return value
        if kind is float:
            if not math.isfinite(value):
                raise Malformed(f"field {name!r}: a number that is none")
            return value
        if kind is datetime and value.tzinfo is not None and "datetime" in self.capabilities:
            return value.astimezone(UTC)
        if kind is bytes and "binary" in self.capabilities:
            return value
        if kind in (list, dict) and depth < 32:
            if kind is list:
                return [self.value(name, each, depth + 1) for each in value]
            return {self.name(inner): self.value(name, each, depth + 1) for inner, each in value.items()}
        raise Malformed(f"field {name!r} cannot hold {kind.__name__}") from DriverError(2)

    def _text(self, what: str, text: object) -> None:
        if type(text) is not str or "\x00" in text or re.search("[\ud800-\udfff]", text):
            raise Malformed(f"{what} is text without U+0000 and surrogates")

    # Filters

    def filter(self, filter: object) -> None:
        """Refuse what is no filter, or not one of this database."""
        if not isinstance(filter, Mapping):
            raise Malformed(f"a filter is a mapping, not {type(filter).__name__}")

        for path, wanted in filter.items():
            self.path(path)
            if not isinstance(wanted, Mapping):
                self._scalar(path, wanted)
                continue
            if "query_operators" not in self.capabilities:
                raise NotOffered(f"field {path!r}: this database has no operators") from DriverError(9)
            if not wanted:
                raise Malformed(f"field {path!r}: no operator")
            for name, operand in wanted.items():
                self._operator(path, name, operand)

    def _scalar(self, path: str, wanted: object) -> None:
        if isinstance(wanted, Mapping | list | tuple):
            raise Malformed(f"field {path!r}: only a scalar can be compared")
        if path == "_id":
            self.id(wanted)
        self.value(path, wanted)

    def _operator(self, path: str, name: str, operand: object) -> None:
        if name in ("$in", "$nin"):
            if not isinstance(operand, list):
                raise Malformed(f"field {path!r}: {name} takes a list")
            for each in operand:
                self._scalar(path, each)
        elif name == "$exists":
            if not isinstance(operand, bool):
                raise Malformed(f"field {path!r}: $exists takes a truth")
        elif name in RANGES or name == "$ne":
            self._scalar(path, operand)
        else:
            raise Malformed(f"field {path!r}: there is no operator {name}")

    def path(self, path: Any) -> list[str]:
        """The names in *path*."""
        self._text("the name of a field", path)
        names = str(path).split(".")
        if len(names) > 1 and "nested_paths" not in self.capabilities and not str(path).startswith("$"):
            raise NotOffered(f"field {path!r}: this database has no paths")

        return [self.name(each) for each in names]

    def matches(self, document: Document, filter: Mapping[str, Any]) -> bool:
        """Whether *document* is one that *filter* asks for."""
        return all(self._holds(self._found(document, path), wanted) for path, wanted in filter.items())

    def _found(self, document: Document, path: str) -> Any:
        found: Any = document
        for name in path.split("."):
            found = found.get(name, MISSING) if isinstance(found, dict) else MISSING
        return found

    def _holds(self, value: Any, wanted: Any) -> bool:
        if not isinstance(wanted, Mapping):
            return value is not MISSING and equal(value, wanted)
        return all(self._applies(value, name, operand) for name, operand in wanted.items())

    def _applies(self, value: Any, name: str, operand: Any) -> bool:
        if name == "$exists":
            return bool((value is not MISSING) == operand)
        if value is MISSING:
            return False
        if name in ("$in", "$nin"):
            return any(equal(value, each) for each in operand) == (name == "$in")
        if name == "$ne":
            return not equal(value, operand)

        texts = isinstance(value, str) and isinstance(operand, str)
        numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (value, operand))
        return (texts or numbers) and RANGES[name](value, operand)

    # Updates

    def update(self, update: object) -> list[tuple[str, list[str], Any]]:
        """The changes that *update* asks for."""
        if not isinstance(update, Mapping) or not update:
            raise Malformed("an update is a mapping of operators")

        changes: list[tuple[str, list[str], Any]] = []
        for name, fields in update.items():
            if name not in ("$set", "$unset", "$inc", "$push") or not isinstance(fields, Mapping) or not fields:
                raise Malformed(f"{name!r} is no operator with fields")
            if name != "$set" and "update_operators" not in self.capabilities:
                raise NotOffered(f"this database has no {name}")
            for path, operand in fields.items():
                names = self.path(path)
                if names[0] in ("_id", "_rev"):
                    raise Malformed(f"field {path!r} cannot be changed")
                if name == "$inc" and (isinstance(operand, bool) or not isinstance(operand, int | float)):
                    raise Malformed(f"field {path!r}: $inc takes a number")
                changes.append((name, names, self.value(path, operand, 1)))
        ways = sorted(names for _, names, _ in changes)
        if any(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(ways)):
            raise Malformed("one field is changed twice")

        return changes

    def changed(self, document: Document, changes: Iterable[tuple[str, list[str], Any]]) -> Document:
        """A copy of *document* with *changes*."""
        after = copy.deepcopy(document)
        for name, names, operand in changes:
            place, *way = after, *names[:-1]
            for each in way:
                if name == "$unset" and each not in place:
                    break
                if not isinstance(place.setdefault(each, {}), dict):
                    raise Malformed(f"document {document['_id']!r}: field {each!r} is no map")
                place = place[each]
            else:
                self._change(document["_id"], place, name, names[-1], operand)
        self.document({each: value for each, value in after.items() if each != "_rev"})
        self.check_size(after)
        return after

    def _change(self, id: str, place: Document, name: str, last: str, operand: Any) -> None:
        held = place.get(last, {"$inc": 0, "$push": []}.get(name))
        if name == "$set":
            place[last] = copy.deepcopy(operand)
        elif name == "$unset":
            place.pop(last, None)
        elif name == "$inc" and isinstance(held, int | float) and not isinstance(held, bool):
            place[last] = held + operand
        elif name == "$push" and isinstance(held, list):
            place[last] = [*held, copy.deepcopy(operand)]
        else:
            raise Malformed(f"document {id!r}: field {last!r} holds what {name} cannot change") from TypeError(name)

    def count(self, what: str, number: object) -> None:
        """Refuse what is no number of documents."""
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise Malformed(f"{what} is a number of documents, not {number!r}")


# A database whose replicas lag to the very end of what it declares, behind a slow network.


@dataclass(frozen=True, slots=True)
class Written:
    """One state of a document, which stays in the log; a delete is one without a document."""

    writer: object
    at: float
    document: Document | None
    revision: str


@dataclass(eq=False)
class Replicas:
    """Every state of every document. Who wrote sees it at once, everybody else when `staleness` has passed."""

    clock: ManualClock
    staleness: float
    log: dict[str, dict[str, list[Written]]] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    number: int = 0

    async def travel(self) -> None:
        """The way there and back takes up to 20 ms."""
        await anyio.sleep(self.chance.uniform(0, 0.02))

    def write(self, writer: object, collection: str, id: str, document: Document | None) -> None:
        """Add a state of a document. Its revision is of any length, in no order, and never the same again."""
        self.number += self.chance.randrange(1, 1_000)
        revision = f"{self.chance.randbytes(self.chance.randrange(20)).hex()}~{self.number:x}"
        states = self.log.setdefault(collection, {}).setdefault(id, [])
        states.append(Written(writer, self.clock.now(), document, revision))

    def newest(self, collection: str) -> dict[str, Written]:
        """The documents of *collection* where they are written."""
        return {id: states[-1] for id, states in self.log.get(collection, {}).items() if states[-1].document is not None}

    def seen(self, reader: object, collection: str) -> dict[str, Written]:
        """The documents of *collection* for *reader*."""
        arrived, found = self.clock.now() - self.staleness, {}
        for id, states in self.log.get(collection, {}).items():
            *_, last = (None, *(each for each in states if each.writer is reader or each.at <= arrived))
            if last is not None and last.document is not None:
                found[id] = last
        return found


class Row(Document):
    """A document, as the driver has it."""


class Rows(list[Document]):
    """Several documents, as the driver has them."""

    total = 0


class LaggingDocuments:
    """A client of replicas. It finds in the order of a hash, makes up odd `_id`s, and takes options that nobody asked for."""

    capabilities = (
        "projection", "streaming", "upsert", "revision", "batch", "datetime", "binary", "lifecycle", "validation", "shared",
    )  # fmt: skip
    limits = DocumentLimits(staleness=60.0, page_size=3, batch_size=2, key_bytes=400, document_bytes=262_145)

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._language = Language(frozenset(self.capabilities), self.limits)
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # Core

    async def insert_one(self, collection: str, document: Mapping[str, Any], *, write_concern: str = "majority") -> str:
        self._language.collection(collection)
        stored = self._complete(document)
        await self._travel()
        if stored["_id"] in self._replicas.newest(collection):
            raise DuplicateKey(f"document {stored['_id']!r} is there") from DriverError(11000)

        self._replicas.write(self, collection, stored["_id"], stored)
        return str(stored["_id"])

    async def find_one(
        self, collection: str, filter: Mapping[str, Any], *, projection: Iterable[str] | None = None, **options: object
    ) -> Document | None:
        found = await self._find(collection, filter, projection, options)
        return found[0] if found else None

    async def find_many(
        self,
        collection: str,
        filter: Mapping[str, Any],
        *,
        limit: int | None = None,
        projection: Iterable[str] | None = None,
        **options: object,
    ) -> list[Document]:
        if limit is not None:
            self._language.count("a limit", limit)
        return Rows((await self._find(collection, filter, projection, options))[:limit])

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        self._language.collection(collection)
        self._language.filter(filter)
        changes = self._language.update(update)
        await self._travel()
        found = self._choose(collection, filter)
        if found is None:
            return False

        self._replicas.write(self, collection, found["_id"], self._language.changed(found, changes))
        return True

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        self._language.collection(collection)
        self._language.filter(filter)
        await self._travel()
        found = self._choose(collection, filter)
        if found is None:
            return False

        self._replicas.write(self, collection, found["_id"], None)
        return True

    # streaming, upsert, batch

    async def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[Document]:
        self._language.collection(collection)
        self._language.filter(filter)
        after = ""
        while True:
            await self._travel()
            seen = [(_place(id), each) for id, each in self._replicas.seen(self, collection).items() if _place(id) > after]
            page = sorted(seen, key=lambda each: each[0])[: self.limits.page_size]
            if not page:
                return
            # A page may be empty although it is not the last: the filter comes after it.
            for _, each in page:
                if self._language.matches(self._shown(each), filter):
                    yield self._shown(each)
            after = page[-1][0]

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        self._language.collection(collection)
        self._language.filter(filter)
        if not isinstance(filter.get("_id"), str) or filter.keys() - {"_id", "_rev"} or ("_rev" in filter and upsert):
            raise Malformed(f"{filter.get('_id')!r}: replace_one takes an _id")

        stored = self._complete({"_id": filter["_id"], **document})
        if stored["_id"] != filter["_id"]:
            raise Malformed(f"document {filter['_id']!r} keeps its _id")

        await self._travel()
        found = self._choose(collection, filter)
        if found is not None or upsert:
            self._replicas.write(self, collection, stored["_id"], stored)
        return found is not None

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        self._language.collection(collection)
        given = list(documents)
        try:
            stored = [self._complete(each) for each in given]
        except InvalidArgumentError as error:
            ids = [each.get("_id") for each in given if isinstance(each, Mapping)]
            raise Malformed(f"{error}; nothing is stored of {ids}") from error.__cause__
        taken: list[str] = []
        self._check_open()
        async with anyio.create_task_group() as tasks:
            for start in range(0, len(stored), self.limits.batch_size):
                tasks.start_soon(self._insert_batch, collection, stored[start : start + self.limits.batch_size], taken)
        if taken:
            raise DuplicateKey(f"these are there, and were not stored: {taken}") from DriverError(11000)

        return [each["_id"] for each in stored]

    async def _insert_batch(self, collection: str, documents: list[Document], taken: list[str]) -> None:
        await self._replicas.travel()
        for each in documents:
            if each["_id"] in self._replicas.newest(collection):
                taken.append(each["_id"])
            else:
                self._replicas.write(self, collection, each["_id"], each)

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        self._language.collection(collection)
        self._language.filter(filter)
        await self._travel()
        newest = self._replicas.newest(collection)
        found = [id for id, each in newest.items() if self._language.matches(self._shown(each), filter)]
        for id in found:
            self._replicas.write(self, collection, id, None)
        return len(found)

    # Between what is asked and what is held.

    async def _travel(self) -> None:
        self._check_open()
        await self._replicas.travel()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise SessionEnded("this client is closed")

    def _complete(self, document: Mapping[str, Any]) -> Document:
        stored = self._language.document(document)
        self._replicas.number += 7
        stored.setdefault("_id", f"n\u00ba {self._replicas.number} / '{secrets.token_urlsafe(secrets.randbelow(40))}'")
        self._language.check_size(stored)
        return stored

    async def _find(
        self, collection: str, filter: Mapping[str, Any], projection: Iterable[str] | None, options: Mapping[str, object]
    ) -> list[Document]:
        if options:
            raise NotOffered(f"there is no option {', '.join(options)}") from TypeError(*options)
        self._language.collection(collection)
        self._language.filter(filter)
        fields = None if projection is None else {*map(self._language.name, projection), "_id", "_rev"}
        await self._travel()
        seen = self._replicas.seen(self, collection)
        found = [self._shown(seen[id]) for id in sorted(seen, key=_place)]
        # What is returned has its fields in another order than what was given.
        return [
            Row({name: each[name] for name in sorted(each, reverse=True) if fields is None or name in fields})
            for each in found
            if self._language.matches(each, filter)
        ]

    def _shown(self, state: Written) -> Document:
        return Row({"_rev": state.revision, **copy.deepcopy(state.document or {})})

    def _choose(self, collection: str, filter: Mapping[str, Any]) -> Document | None:
        """The document to be changed, by what is written last; a `_rev` that is no longer its own is a conflict."""
        if "_rev" in filter and (filter.keys() != {"_id", "_rev"} or not isinstance(filter["_rev"], str)):
            raise Malformed("a _rev comes with an _id, and is text")

        found = {id: self._shown(each) for id, each in self._replicas.newest(collection).items()}
        chosen = [each for each in found.values() if self._language.matches(each, filter)]
        if "_rev" in filter and not chosen:
            raise Stale(f"document {filter['_id']!r} is another one") from DriverError(112)

        return {name: value for name, value in chosen[-1].items() if name != "_rev"} if chosen else None


def _place(id: str) -> str:
    """Where a document stands among those that are found."""
    return hashlib.sha256(id.encode()).hexdigest()


@unusual
class SlowReplicas(DocumentDatabaseContract):
    """Connecting takes 50 ms, a call up to 20 ms, and others see a write after exactly the declared `staleness` of a minute.

    A rule that reads with another client at once, or in a certain order, would reject it. Revisions are text of any length,
    made up `_id`s hold blanks, quotes and slashes, fields come back in another order, a collection is called as little as it
    may be; rows are subclasses of `dict`, errors of the standard's, with a driver's for their cause.
    """

    capabilities = frozenset(LaggingDocuments.capabilities)

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.replicas = Replicas(self.clock, LaggingDocuments.limits.staleness)

    async def make_provider(self, **config: object) -> LaggingDocuments:
        await anyio.sleep(0.05)
        return LaggingDocuments(self.replicas)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


# A database that does one thing at a time, for all its clients.


class Ledger:
    """What the clients share: documents as JSON text, how often each was written, and a lock for all."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable
        self.texts: dict[tuple[str, str], tuple[str, int]] = {}
        self.writes: Counter[tuple[str, str]] = Counter()

    @functools.cached_property
    def lock(self) -> anyio.Lock:
        """Held while anything is done, and by a transaction from its first to its last moment."""
        return anyio.Lock()


class Book:
    """The operations, as they are done once it is their turn: at once, and on texts alone."""

    def __init__(self, texts: dict[tuple[str, str], tuple[str, int]], ledger: Ledger, language: Language) -> None:
        self.texts = texts
        self.ledger = ledger
        self.language = language

    def read(self, collection: str, filter: Mapping[str, Any]) -> list[Document]:
        """The documents that match, with their revisions."""
        found = []
        for (place, _), (text, number) in self.texts.items():
            if place == collection:
                document = {**json.loads(text), "_rev": str(number)}
                if self.language.matches(document, filter):
                    found.append(document)
        return found

    def write(self, collection: str, document: Document) -> None:
        """Put *document* in its place, under the next revision."""
        document = {name: value for name, value in document.items() if name != "_rev"}
        self.language.check_size(document)
        place = collection, document["_id"]
        self.texts[place] = json.dumps(document), self.ledger.writes[place]
        self.ledger.writes[place] += 1

    def insert(self, collection: str, document: Document) -> str:
        """Put it where nothing is."""
        if (collection, document["_id"]) in self.texts:
            raise DuplicateKey(f"document {document['_id']!r} is there")

        self.write(collection, document)
        return str(document["_id"])

    def insert_all(self, collection: str, documents: list[Document]) -> list[str]:
        """The same for several; those that are there are named, and all others stored."""
        taken = [each["_id"] for each in documents if (collection, each["_id"]) in self.texts]
        for each in documents:
            if each["_id"] in taken:
                continue
            try:
                self.insert(collection, each)
            except DuplicateKey:
                taken.append(each["_id"])  # by another one of them
        if taken:
            raise DuplicateKey(f"these are there, and were not stored: {taken}")

        return [each["_id"] for each in documents]

    def first(self, collection: str, filter: Mapping[str, Any]) -> Document | None:
        """A document to be changed; a `_rev` that is not its own is a conflict."""
        found = self.read(collection, filter)
        if "_rev" in filter and not found:
            raise Stale(f"document {filter['_id']!r} is another one")

        return found[-1] if found else None

    def update(self, collection: str, filter: Mapping[str, Any], changes: list[tuple[str, list[str], Any]]) -> bool:
        """Change one document."""
        found = self.first(collection, filter)
        if found is not None:
            self.write(collection, self.language.changed(found, changes))
        return found is not None

    def delete(self, collection: str, filter: Mapping[str, Any]) -> bool:
        """Remove one document."""
        found = self.first(collection, filter)
        if found is not None:
            del self.texts[collection, found["_id"]]
        return found is not None

    def delete_all(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Remove every document that matches."""
        found = self.read(collection, filter)
        for each in found:
            del self.texts[collection, each["_id"]]
        return len(found)

    def replace(self, collection: str, id: str, filter: Mapping[str, Any], document: Document, upsert: bool) -> bool:
        """Put a whole document in the place of another."""
        found = self.first(collection, filter)
        if found is not None or upsert:
            self.write(collection, {"_id": id, **document})
        return found is not None


class Turn(Generic[T]):
    """Something that waits to be done."""

    def __init__(self, do: Callable[[Book], T]) -> None:
        self.do = do
        self.done = anyio.Event()
        self.result: list[T] = []
        self.error: Exception | None = None

    def take(self, book: Book) -> None:
        """Do it, and let who waits know."""
        try:
            self.result.append(self.do(book))
        except Exception as error:
            self.error = error
        self.done.set()


class Operations:
    """What may be asked of a client, and of a transaction."""

    language: Language

    async def perform(self, do: Callable[[Book], T]) -> T:
        """Have something done."""
        raise NotImplementedError

    async def insert_one(self, collection: str, document: Mapping[str, Any]) -> str:
        self.language.collection(collection)
        stored = {"_id": secrets.token_hex(), **self.language.document(document)}
        self.language.check_size(stored)
        return await self.perform(lambda book: book.insert(collection, stored))

    async def find_one(
        self, collection: str, filter: Mapping[str, Any], *, projection: Iterable[str] | None = None
    ) -> Document | None:
        return next(iter(await self.find_many(collection, filter, projection=projection)), None)

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
        hint: str | None = None,
    ) -> list[Document]:
        self.language.collection(collection)
        self.language.filter(filter)
        for what, number in {"a limit": 0 if limit is None else limit, "an offset": offset}.items():
            self.language.count(what, number)
        fields = None if projection is None else {*map(self.language.name, projection), "_id", "_rev"}
        found = await self.perform(lambda book: book.read(collection, filter))
        found.sort(key=lambda each: (*_rank(each.get(sort) if sort else None), each["_id"]), reverse=descending)
        return [
            {name: value for name, value in each.items() if fields is None or name in fields}
            for each in found[offset : None if limit is None else offset + limit]
        ]

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        self.language.collection(collection)
        self._check_filter(filter)
        changes = self.language.update(update)
        return await self.perform(lambda book: book.update(collection, filter, changes))

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        self.language.collection(collection)
        self._check_filter(filter)
        return await self.perform(lambda book: book.delete(collection, filter))

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        self.language.collection(collection)
        self._check_filter(filter)
        id = filter.get("_id")
        if not isinstance(id, str) or filter.keys() - {"_id", "_rev"} or ("_rev" in filter and upsert):
            raise Malformed(f"{id!r}: replace_one takes an _id")

        stored = self.language.document(document)
        if stored.get("_id", id) != id:
            raise Malformed(f"document {id!r} keeps its _id")
        return await self.perform(lambda book: book.replace(collection, id, filter, stored, upsert))

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        self.language.collection(collection)
        given = list(documents)
        try:
            stored = [{"_id": secrets.token_hex(), **self.language.document(each)} for each in given]
            for each in stored:
                self.language.check_size(each)
        except InvalidArgumentError as error:
            ids = [each.get("_id") for each in given if isinstance(each, Mapping)]
            raise type(error)(f"{error}; nothing is stored of {ids}") from error.__cause__
        return await self.perform(lambda book: book.insert_all(collection, stored))

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        self.language.collection(collection)
        self.language.filter(filter)
        return await self.perform(lambda book: book.delete_all(collection, filter))

    def find_iter(self, collection: str, filter: Mapping[str, Any]) -> "Cursor":
        return Cursor(self, collection, filter)

    def _check_filter(self, filter: Mapping[str, Any]) -> None:
        self.language.filter(filter)
        if "_rev" in filter and (filter.keys() != {"_id", "_rev"} or not isinstance(filter["_rev"], str)):
            raise Malformed("a _rev comes with an _id, and is text")


def _rank(value: object) -> tuple[int, Any]:
    """Where a value stands: absence and None first, numbers, texts, and all others by their JSON text."""
    if value is None:
        return 0, 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1, value
    return (2, value) if isinstance(value, str) else (3, json.dumps(value))


class Cursor:
    """An iterator with the two methods that the protocol of iterators has, and no other. It reads a page ahead of who asks."""

    __slots__ = ("_after", "_collection", "_filter", "_operations", "_page")

    def __init__(self, operations: Operations, collection: str, filter: Mapping[str, Any]) -> None:
        self._operations = operations
        self._collection = collection
        self._filter = filter
        self._after = ""
        self._page: list[Document] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Document:
        if not self._page:
            self._operations.language.collection(self._collection)
            self._operations.language.filter(self._filter)
            found = await self._operations.perform(lambda book: book.read(self._collection, self._filter))
            beyond = sorted((each for each in found if each["_id"] > self._after), key=lambda each: str(each["_id"]))
            self._page = beyond[:5]
        if not self._page:
            raise StopAsyncIteration

        first = self._page.pop(0)
        self._after = first["_id"]
        return first


class SerialDocuments(Operations):
    """A client whose worker does what has come within 2 ms, all of it, when it is its turn. It can be opened once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.language = Language(self.capabilities, self.limits)
        self._turns: list[Turn[Any]] = []
        self._due = anyio.Event()
        self._closed = False
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """All but the types that JSON does not have."""
        return CAPABILITIES - {"datetime", "binary"}

    @property
    def limits(self) -> DocumentLimits:
        """Somewhat more than the floors."""
        return DocumentLimits(page_size=5, batch_size=7, document_bytes=300_000, collection_bytes=50, key_bytes=257)

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("a client is opened once")

        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._work)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._tasks is not None
        await self.close()
        # Told of an exception, the group would put it into another one.
        await self._tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        self._closed = True
        self._due.set()
        for turn in self._turns:
            turn.error = SessionEnded("this client is closed")
            turn.done.set()
        self._turns = []
        await anyio.lowlevel.checkpoint()

    async def _work(self) -> None:
        while not self._closed:
            await self._due.wait()
            await anyio.sleep(0.002)
            async with self._ledger.lock:
                turns, self._turns = self._turns, []
                if not self._closed:
                    self._due = anyio.Event()
                for turn in turns:
                    turn.take(Book(self._ledger.texts, self._ledger, self.language))

    async def perform(self, do: Callable[[Book], T]) -> T:
        self._check_usable()
        turn = Turn(do)
        self._turns.append(turn)
        self._due.set()
        await turn.done.wait()
        if turn.error is not None:
            raise turn.error

        return turn.result[0]

    def _check_usable(self) -> None:
        if self._closed:
            raise SessionEnded("this client is closed")
        if not self._ledger.reachable:
            raise NoServer("the database does not answer") from ConnectionRefusedError("connection refused")

    @asynccontextmanager
    async def transaction(self, *, isolation: str = "serializable") -> AsyncIterator["SerialTransaction"]:
        self._check_usable()
        async with self._ledger.lock:
            inside = SerialTransaction(Book(dict(self._ledger.texts), self._ledger, self.language))
            yield inside
            await anyio.lowlevel.checkpoint()
            self._check_usable()
            self._ledger.texts.clear()
            self._ledger.texts.update(inside.book.texts)


class SerialTransaction(Operations):
    """What is done in one block, on texts of its own, while everybody else waits."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.language = book.language

    async def perform(self, do: Callable[[Book], T]) -> T:
        await anyio.lowlevel.checkpoint()
        return do(self.book)


@unusual
class OneAtATime(DocumentDatabaseContract):
    """A lock for all: while a transaction is open every other client waits, readers too, and nothing ever clashes.

    Each client does what has come within 2 ms at once, by a worker in a task group of its own, and can be opened once. A rule
    that waits for another client inside a block, or that enters a client twice, would reject it. Its iterators have no method
    that closes them, and the first revision of every document is 0.
    """

    capabilities = CAPABILITIES - {"datetime", "binary"}

    def setUp(self) -> None:
        self.ledger = Ledger()

    async def make_provider(self, **config: object) -> SerialDocuments:
        return SerialDocuments(self.ledger)

    async def unreachable_provider(self) -> SerialDocuments:
        return SerialDocuments(Ledger(reachable=False))


# A database whose client is a thin layer over another one, as those are that count or trace calls.


class LayeredDocuments:
    """A client without a `__dict__`. What it does not do itself is the inner client's, found when it is asked for.

    It counts as empty, so that it is false: a database has a length.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: MemoryDocumentDatabase) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def find_many(self, collection: str, filter: Mapping[str, Any], **options: Any) -> list[Document]:
        return await self._inner.find_many(collection, filter, **options)

    async def replace_one(
        self,
        collection: str,
        filter: Mapping[str, Any],
        document: Mapping[str, Any],
        *,
        upsert: bool = False,
        comment: str | None = None,
    ) -> bool:
        return await self._inner.replace_one(collection, filter, document, upsert=upsert)

    def find_iter(self, collection: str, filter: Mapping[str, Any], *, page_size: int | None = None) -> "Entries":
        return Entries(self._inner.find_iter(collection, filter))

    def transaction(self, **options: Any) -> "Block":
        return Block(self._inner.transaction(**options))


class Entries:
    """An iterator with the two methods that the protocol of iterators has, and no other."""

    __slots__ = ("_entries",)

    def __init__(self, entries: AsyncIterator[Document]) -> None:
        self._entries = entries

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Document:
        return await anext(self._entries)


class Block:
    """A context manager that is a class of its own, whose database is a layer too. Every third clashes with nobody knows whom."""

    __slots__ = ("_block",)

    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, block: AbstractAsyncContextManager[MemoryDocumentDatabase]) -> None:
        self._block = block

    async def __aenter__(self) -> LayeredDocuments:
        return LayeredDocuments(await self._block.__aenter__())

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool | None:
        if error is not None or next(self.numbers) % 3:
            return await self._block.__aexit__(kind, error, trace)

        clash = Stale("the transaction could not be serialized", 40001)
        await self._block.__aexit__(Stale, clash, None)
        raise clash


@unusual
class LayerAtTheFloors(DocumentDatabaseContract, MultiTenancyPolicy):
    """A layer over another client, whose every number is at its floor: a page has one document, and so has a batch.

    The layer has slots, is false as it has a length of 0, finds methods when it is asked for them, and passes on options
    without knowing them. Its iterators have no method that closes them, and every third transaction is a conflict.
    """

    capabilities = CAPABILITIES
    limits = DocumentLimits(page_size=1, batch_size=1)
    credentials = ("correct-horse",)

    def setUp(self) -> None:
        self.memory = MemoryDocuments(limits=self.limits, password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> LayeredDocuments:
        return LayeredDocuments(MemoryDocumentDatabase(self.memory, tenant_id=tenant_id, password="correct-horse"))

    async def unreachable_provider(self) -> LayeredDocuments:
        return LayeredDocuments(MemoryDocumentDatabase(MemoryDocuments(reachable=False)))


# A database without limits.


@unusual
class Boundless(DocumentDatabaseContract):
    """Everything but the memory of the machine is within its limits: names, documents, pages and batches of any size.

    A rule that tries all that is declared, twice and once more, would not end.
    """

    capabilities = CAPABILITIES - {"availability"}
    limits = DocumentLimits(key_bytes=2**40, document_bytes=2**50, collection_bytes=2**40, page_size=2**40, batch_size=2**40)

    def setUp(self) -> None:
        self.memory = MemoryDocuments(limits=self.limits)

    async def make_provider(self, **config: Any) -> MemoryDocumentDatabase:
        return MemoryDocumentDatabase(self.memory, capabilities=self.capabilities)
