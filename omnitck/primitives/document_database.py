"""`document_database`: documents with fields, found by what they hold.

The spelling is MongoDB's, the language is closed: what is not written here is refused, never ignored. The core is five
operations; a capability adds operations, arguments, or more of the language. What the rules know of that language, and the
hostile documents that they try, are in `omnitck.primitives.documents`.
"""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import count
from typing import Any, ClassVar, Protocol, cast

import anyio.lowlevel

from omnitck.common.clients import Lifecycle
from omnitck.common.data import LARGEST_TRIED, LONGEST_TRIED, DataRules, DataTrial, within_reach
from omnitck.common.walks import Walk, walk_rule
from omnitck.instruments.cancellation import sweep
from omnitck.kit.concurrency import Call, attempt, drain, gather, leaving, together
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.primitives.documents import (
    ATTACKS,
    COLLECTIONS,
    CORPUS,
    MAPS,
    MISSING,
    MOMENTS,
    OPERATORS,
    OUTSIDE,
    PATHS,
    SCALARS,
    SETS,
    SORTED,
    VALUES,
    Document,
    DocumentCells,
    Walked,
    comparable,
    difference,
    json_bytes,
    matches,
    random_steps,
    revision_of,
)
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    TooLargeError,
    UnsupportedError,
)
from omnitck.shared.models import DocumentLimits

__all__ = [
    "Batch",
    "Binary",
    "Datetime",
    "DocumentCells",
    "DocumentDatabaseContract",
    "DocumentDatabaseProtocol",
    "FullDocumentDatabase",
    "Int64",
    "NestedPaths",
    "Projection",
    "QueryOperators",
    "Revision",
    "SortPage",
    "Streaming",
    "Transaction",
    "UpdateOperators",
    "Upsert",
]


class DocumentDatabaseProtocol(Protocol):
    """The core: five operations in a closed language.

    - A *document* is a `dict`. Its values are None, `bool`, `int` below 2**53 in size, finite `float`, `str`, and `list` and
      `dict` of such, at most 32 deep, itself included. Names of fields are not empty, do not begin with `$`, and hold no `.` and
      no U+0000; text holds no U+0000 and no lone surrogate. `_id` is a `str`, 1 to `limits.key_bytes` bytes of UTF-8. Exact or
      refused, never rounded, and read in exactly these types; a `dict` or a `list` may be of a subclass.
    - A *filter* is a `dict` of fields and scalars, all of which must be equal (an empty one matches everything). A missing field
      equals nothing, None least of all. `1 == 1.0`, but `1`, `"1"` and `True` are three values.
    - An *update* is `{"$set": {field: value}}`.
    - What is in the language of a capability that is not declared is `UnsupportedError`; what is in none is
      `InvalidArgumentError`.
    - Names of collections of `a-z 0-9 _ -`, up to `limits.collection_bytes`, are legal everywhere; any other is taken exactly or
      refused. A collection needs no creation: one that was never used is empty.
    """

    async def insert_one(self, collection: str, document: Mapping[str, Any]) -> str:
        """Store a new document; its `_id`, which is made up if the document has none. `AlreadyExistsError` if it is taken.
        The caller's *document* is not changed."""
        ...

    async def find_one(self, collection: str, filter: Mapping[str, Any]) -> dict[str, Any] | None:
        """A document that matches *filter*, whole; None if none does."""
        ...

    async def find_many(self, collection: str, filter: Mapping[str, Any], *, limit: int | None = None) -> list[dict[str, Any]]:
        """Every document that matches *filter*, in any order, *limit* of them if it is given; 0 gives none, a negative one is
        `InvalidArgumentError`."""
        ...

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        """Set the named fields of one document that matches, in one step, and leave all others; whether one matched."""
        ...

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        """Remove one document that matches; whether one did."""
        ...


class QueryOperators(Protocol):
    """Capability `query_operators`: a filter's value may be a dict of operators, all of which must hold.

    `$gt`, `$gte`, `$lt` and `$lte` compare numbers with numbers and texts with texts (by code point), and match nothing else;
    `$ne` and `$nin` match only documents that have the field; `$in: []` matches none; `$exists` tells a missing field from None.
    """


class NestedPaths(Protocol):
    """Capability `nested_paths`: in filters, in `$set` and in other operators, `a.b` is the field `b` of the map `a`.

    A `$set` makes the maps that are missing, and is `InvalidArgumentError` through something that is no map.
    """


class SortPage(Protocol):
    """Capability `sort_page`."""

    async def find_many(
        self,
        collection: str,
        filter: Mapping[str, Any],
        *,
        limit: int | None = None,
        sort: str | None = None,
        descending: bool = False,
        offset: int = 0,
    ) -> list[dict[str, Any]]:
        """Matches in the order of the field *sort*, then of `_id`, ascending (or both descending), from number *offset* on.

        Documents without the field, or with None in it, come first; texts go by code points; between types the order is the
        provider's own, but always the same. Without *sort* the order is that of `_id`.
        """
        ...


class Projection(Protocol):
    """Capability `projection`."""

    async def find_one(
        self, collection: str, filter: Mapping[str, Any], *, projection: Iterable[str] | None = None
    ) -> dict[str, Any] | None:
        """Only the fields named in *projection*, and `_id`, and `_rev` where there is `revision`."""
        ...

    async def find_many(
        self,
        collection: str,
        filter: Mapping[str, Any],
        *,
        limit: int | None = None,
        projection: Iterable[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Only the fields named in *projection*, and `_id`."""
        ...


class Streaming(Protocol):
    """Capability `streaming`."""

    def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """What `find_many` finds, without holding all of it. Leaving early frees what it holds.

        A document that is there and unchanged all the time is yielded once, whatever is written to others meanwhile.
        """
        ...


class UpdateOperators(Protocol):
    """Capability `update_operators`: `$unset: {field: ""}`, `$inc: {field: number}`, `$push: {field: value}` beside `$set`.

    A missing field counts as 0, or as an empty list; a value of another type is `InvalidArgumentError`, as are two operators on
    one field.
    """


class Upsert(Protocol):
    """Capability `upsert`."""

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        """Put *document* in the place of the one with the `_id` of *filter*, which names that alone; whether there was one.

        With *upsert* it is stored in any case. An `_id` in *document* must be the same one.
        """
        ...


class Revision(Protocol):
    """Capability `revision`: every document that is returned has `_rev`, opaque text, another after each write.

    A filter of `_id` and `_rev` in `update_one`, `delete_one` and `replace_one` writes only if it is current, else, or if the
    document is missing, `ConflictError`. `_rev` in a document to be stored is `InvalidArgumentError`.
    """


class Batch(Protocol):
    """Capability `batch`: many documents in one call, of any number."""

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store all; their `_id`s in order. After an error every document is stored that could be; with `validation` it names the
        `_id`s of the others."""
        ...

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Remove every document that matches; how many there were."""
        ...


class Transaction(Protocol):
    """Capability `transaction`."""

    def transaction(self) -> AbstractAsyncContextManager[DocumentDatabaseProtocol]:
        """The operations of the database that it yields become visible together at the end of the block, or, if it is left by
        an exception or a cancellation, not at all; they see one another. A clash with another writer is `ConflictError`, and
        nothing is done then; a backend may see one where the application cannot, so whoever gets it tries again."""
        ...


class Datetime(Protocol):
    """Capability `datetime`: aware `datetime` values, which come back in UTC, exact to the millisecond at least; naive ones are
    refused."""


class Binary(Protocol):
    """Capability `binary`: `bytes` values."""


class Int64(Protocol):
    """Capability `int64`: integers from -2**63 to 2**63-1."""


class FullDocumentDatabase(
    QueryOperators,
    NestedPaths,
    SortPage,
    Projection,
    Streaming,
    UpdateOperators,
    Upsert,
    Revision,
    Batch,
    Transaction,
    Datetime,
    Binary,
    Int64,
    Lifecycle,
    DocumentDatabaseProtocol,
    Protocol,
):
    """What a provider with every capability has: the type against which the rules are written.

    A rule calls only what the capabilities bring that it needs.
    """

    async def find_one(
        self, collection: str, filter: Mapping[str, Any], *, projection: Iterable[str] | None = None
    ) -> dict[str, Any] | None:
        """See `DocumentDatabaseProtocol.find_one` and `Projection.find_one`."""
        ...

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
        ...


def _model(declared: frozenset[str]) -> object:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.document_database import MemoryDocumentDatabase, MemoryDocuments

    return Walked(MemoryDocumentDatabase(MemoryDocuments(), capabilities=declared), "walk")


WALK = Walk(
    model=_model,
    steps=random_steps,
    refine=lambda step, value, declared: comparable(step, value),
    version_of=revision_of,
    subject="database",
    begin=Walked,
)


class DocumentDatabaseTrial(DataTrial[FullDocumentDatabase]):
    """The words of the rules of `DocumentDatabaseContract`."""

    def numbers(self) -> DocumentLimits:
        return cast(DocumentLimits, super().numbers())

    def same_document(self, observed: Any, expected: Document | None, given: str, hint: str = "") -> None:
        """Fail the rule unless *observed* is *expected*, deeply and in every type, apart from its revision."""
        if expected is None or not isinstance(observed, dict):
            self.same(observed, expected, given=given, hint=hint)
            return

        problem = difference(self.content(observed), expected)
        self.check(
            not problem, given=given, expected=describe(expected), observed=Plain(f"{describe(observed)}: {problem}"), hint=hint
        )

    def same_documents(self, observed: Any, expected: Iterable[Document], given: str, *, ordered: bool = False) -> None:
        """Fail the rule unless *observed* is a list of the *expected* documents, in that order if they are *ordered*."""
        self.check(isinstance(observed, list), given=given, expected="a list", observed=observed)
        wanted = list(expected)
        found = [each.get("_id") for each in observed]
        ids = [each["_id"] for each in wanted]
        if ordered:
            self.same(found, ids, given=f"{given}, the _ids in order")
        else:
            self.check_listing(found, ids, given)
        by_id = {each["_id"]: each for each in wanted}
        for each in observed:
            self.same_document(each, by_id[each["_id"]], f"{given}, one of the documents")

    def content(self, document: Document) -> Document:
        """*document* without what the database adds to it."""
        if "revision" not in self.declared:
            return document

        self.revision(document)
        return {name: value for name, value in document.items() if name != "_rev"}

    def revision(self, document: Document) -> str:
        """The `_rev` of *document*; fail the rule unless it is text."""
        revision = document.get("_rev")
        self.check(type(revision) is str, given="_rev of a document", expected="text", observed=revision)
        return str(revision)

    async def held(self, database: DocumentDatabaseProtocol, where: str, id: str) -> Document:
        """The document *id*, which nobody has deleted, as it is read; fail the rule if it is not there."""
        found = await database.find_one(where, {"_id": id})
        if found is None:
            self.fail_rule(given="find_one of a document that was inserted", expected="the document", observed="None")
        return found

    async def fill(self, database: FullDocumentDatabase, collection: str, documents: Sequence[Document]) -> None:
        """Insert *documents*, in batches if the provider takes such."""
        if "batch" in self.declared:
            for start in range(0, len(documents), 500):
                await database.insert_many(collection, documents[start : start + 500])
            return
        for start in range(0, len(documents), 20):
            await gather(partial(database.insert_one, collection, each) for each in documents[start : start + 20])

    async def check_filters(self, database: FullDocumentDatabase, filters: Iterable[Document]) -> None:
        """Each filter finds in the corpus what the oracle says."""
        where = self.key()
        documents = [{"_id": f"{where}-{n:02}", **({} if value is MISSING else {"f": value})} for n, value in enumerate(CORPUS)]
        await self.fill(database, where, documents)
        for filter in filters:
            with self.case(describe(filter)):
                found = {each["_id"] for each in await database.find_many(where, filter)}
                wanted = {each["_id"] for each in documents if matches(each, filter)}
                values = {each["_id"]: each.get("f", MISSING) for each in documents}
                self.check(
                    found == wanted,
                    given=f"find_many of {describe(filter)}, over documents with each of {len(CORPUS)} values in f",
                    expected=f"those with {describe([values[each] for each in sorted(wanted)])}",
                    observed=Plain(
                        f"too many: {describe([values.get(each) for each in sorted(found - wanted)])}, "
                        f"too few: {describe([values[each] for each in sorted(wanted - found)])}"
                    ),
                )

    async def check_refused_update(
        self,
        database: FullDocumentDatabase,
        where: str,
        document: Document,
        update: Document,
        label: str = "",
        *,
        of_argument: bool = False,
    ) -> None:
        """One case: *update* of *document* is refused, and leaves it as it is; because of what it says, or of what is there."""
        of = {"_id": document["_id"]}
        given = f"update_one {label or describe(update)}"
        with self.case(given):
            call = partial(database.update_one, where, of, update)
            if of_argument:
                await self.not_taken(call, given=given)
            else:
                await self.refused(call, InvalidArgumentError, given=given)
            self.same_document(await database.find_one(where, of), document, f"the document after the refused {given}")

    async def check_rollback(self, database: FullDocumentDatabase, where: str, other: str, old: list[Document]) -> None:
        """A block that is left by an exception leaves nothing; the same block without it does all."""
        new = self.key()
        for fails in (True, False):
            with self.case("an exception" if fails else "no exception"):
                error = LookupError("raised in the block")
                block = partial(self.work_in_block, database, where, other, old, new, error if fails else None)
                tried = await attempt(partial(self.retry, block))
                if not fails:
                    tried.result()
                    continue

                self.check(
                    tried.error is error,
                    given="an exception raised in the block of a transaction",
                    expected="the same one outside",
                    observed=Plain(describe_error(tried.error) if tried.error else "none"),
                )
                self.same_documents(await database.find_many(where, {}), old, "everything after a block that an exception left")
                self.same(
                    await database.find_many(other, {}), [], given="another collection after a block that an exception left"
                )
        expected = [{**old[0], "n": 5}, old[2], {"_id": new, "f": 1}]
        self.same_documents(
            await database.find_many(where, {}), expected, "everything after a block with an update, a delete, an insert"
        )
        self.same_documents(await database.find_many(other, {}), [{"_id": new}], "another collection after that block")
        await database.update_one(where, {"_id": old[0]["_id"]}, {"$set": {"n": -1}})
        await database.insert_one(where, old[1])

    async def work_in_block(
        self, database: FullDocumentDatabase, where: str, other: str, old: list[Document], new: str, error: Exception | None
    ) -> None:
        """A transaction of four writes, which reads what it has written, and ends with *error* if one is given."""
        async with database.transaction() as inside:
            await inside.update_one(where, {"_id": old[0]["_id"]}, {"$set": {"n": 5}})
            self.same(await inside.delete_one(where, {"_id": old[1]["_id"]}), True, given="delete_one in a transaction")
            self.same(await inside.insert_one(where, {"_id": new, "f": 1}), new, given="insert_one in a transaction")
            await inside.insert_one(other, {"_id": new})
            expected = [{**old[0], "n": 5}, old[2], {"_id": new, "f": 1}]
            self.same_documents(await inside.find_many(where, {}), expected, "what a transaction itself sees")
            self.same_document(await inside.find_one(where, {"n": 5}), expected[0], "what a transaction itself finds")
            if error is not None:
                raise error

    async def check_cancelled_blocks(self, database: FullDocumentDatabase, reader: FullDocumentDatabase) -> None:
        """Cancelled anywhere, a block has put two documents there, or none. It may still arrive later, but whole."""
        where = self.key()
        last: list[Document] = []

        def block() -> Call[None]:
            last[:] = [{"_id": self.key(), "n": 1}, {"_id": self.key(), "n": 2}]
            one, two = last

            async def run() -> None:
                async with database.transaction() as inside:
                    await inside.insert_one(where, one)
                    await inside.insert_one(where, two)

            return run

        async for each in sweep(block, within=self.cancel_seconds):
            there = []
            for document in (*last, last[0]):
                there.append(await reader.find_one(where, {"_id": document["_id"]}) is not None)
            self.check(
                (there == sorted(there) and there[1] == there[2]) or there == [False, False, True],
                given=f"two documents inserted in a transaction that was cancelled at its wait number {each.step + 1}",
                expected="both or none",
                observed=Plain(f"the first: {there[0]}, then the second: {there[1]}, then the first: {there[2]}"),
            )

    async def check_seen_together(
        self, database: FullDocumentDatabase, reader: FullDocumentDatabase, where: str, a: str, b: str
    ) -> None:
        """While transactions set the number in two documents, whose `_id`s are *a* and *b*, nobody sees one of them alone."""
        torn: list[object] = []
        finished = False

        async def set_both(number: int) -> None:
            async with database.transaction() as inside:
                await inside.update_one(where, {"_id": a}, {"$set": {"n": number}})
                await inside.update_one(where, {"_id": b}, {"$set": {"n": number}})

        async def write() -> None:
            nonlocal finished
            try:
                for number in range(20):
                    await self.retry(partial(set_both, number))
            finally:
                finished = True

        async def look() -> None:
            for _ in range(MOST_LOOKS):
                # Numbers only grow: what is read later can never be older than what the same block wrote and was read before.
                seen = [int((await self.held(reader, where, each))["n"]) for each in (a, b, a)]
                if seen != sorted(seen):
                    torn.append(seen)
                if finished:
                    return
                await anyio.lowlevel.checkpoint()

        await gather([write, look])
        self.check(
            not torn,
            given="a, b and a again, read while transactions set both",
            expected="never one of them alone",
            observed=torn[:3],
        )

    async def leave_early(self, database: FullDocumentDatabase, where: str) -> None:
        """Begin an iteration, and leave it at its first document."""
        async with leaving(database.find_iter(where, {"kind": "a"})) as found:
            async for _ in found:
                return

    def check_moment(self, found: object, moment: datetime) -> None:
        """Fail the rule unless *found* is *moment* in UTC, exact to the millisecond."""
        given = f"the datetime {moment.isoformat()}, read back"
        if not isinstance(found, datetime) or found.utcoffset() != timedelta(0):
            self.fail_rule(given=given, expected="a datetime in UTC", observed=describe(found))

        exact = moment.microsecond % 1000 == 0
        self.check(
            found == moment if exact else abs(found - moment) < timedelta(milliseconds=1),
            given=given,
            expected=f"{moment.astimezone(UTC).isoformat()}{'' if exact else ', to the millisecond'}",
            observed=Plain(found.isoformat()),
        )

    def documents(self, where: str, contents: Mapping[str, Document]) -> dict[str, Document]:
        """*contents* as documents for the collection *where*, whose `_id`s end in their names."""
        return {label: {"_id": f"{where}-{label}", **fields} for label, fields in contents.items()}

    def sortable(self, where: str) -> list[Document]:
        """Documents for the collection *where* with each value of `SORTED` in `f`; their `_id`s run against the values."""
        return [
            {"_id": f"{where}-{kind}-{len(values) - number:02}", "kind": kind, **({} if value is MISSING else {"f": value})}
            for kind, values in SORTED.items()
            for number, value in enumerate(values)
        ]

    def rewrites(self, database: FullDocumentDatabase, where: str, id: str) -> dict[str, Call[object]]:
        """Writes of one document, to be made one after another: after each its `_rev` is another one."""
        of = {"_id": id}

        async def remake() -> None:
            await database.delete_one(where, of)
            await database.insert_one(where, {"_id": id, "f": 1})

        return self.declared_of(
            {
                "insert_one": ("", lambda: database.insert_one(where, {"_id": id, "f": 1})),
                "update_one": ("", lambda: database.update_one(where, of, {"$set": {"f": 2}})),
                "update_one to what is there": ("", lambda: database.update_one(where, of, {"$set": {"f": 2}})),
                "delete_one and insert_one": ("", remake),
                "replace_one": ("upsert", lambda: database.replace_one(where, of, {"f": 1})),
                "$inc": ("update_operators", lambda: database.update_one(where, of, {"$inc": {"f": 1}})),
            }
        )

    def lengthenings(self, database: FullDocumentDatabase, where: str, document: Document) -> dict[str, Call[object]]:
        """Every write that would make *document* longer, or store one that is longer by a byte."""
        of = {"_id": document["_id"]}
        longer = {**document, "pad": document["pad"] + "x"}
        return self.declared_of(
            {
                "insert_one": ("", lambda: database.insert_one(where, {**longer, "_id": document["_id"][:-1] + "X"})),
                "update_one": ("", lambda: database.update_one(where, of, {"$set": {"pad": longer["pad"]}})),
                "update_one of a new field": ("", lambda: database.update_one(where, of, {"$set": {"g": 0}})),
                "$push": ("update_operators", lambda: database.update_one(where, of, {"$push": {"more": 1}})),
                "replace_one": ("upsert", lambda: database.replace_one(where, of, longer)),
            }
        )

    def stores(self, database: Any, where: str, id: str, fields: Mapping[Any, Any]) -> dict[str, Call[object]]:
        """Every write that would store *fields*, and another one before them, in the document *id* or in a new one."""
        of, more = {"_id": id}, {"good": 1, **fields}
        new = {"_id": self.key(), **more}
        calls: dict[str, tuple[str, Call[object]]] = {
            "insert_one": ("", lambda: database.insert_one(where, new)),
            "update_one": ("", lambda: database.update_one(where, of, {"$set": more})),
            "replace_one": ("upsert", lambda: database.replace_one(where, of, more, upsert=True)),
            "insert_many": ("batch", lambda: database.insert_many(where, [new])),
        }
        if "f" in fields:
            push = {"$set": {"good": 1}, "$push": {"list": fields["f"]}}
            calls["$push"] = ("update_operators", lambda: database.update_one(where, of, push))
        return self.declared_of(calls)

    def conditional_writes(
        self, database: FullDocumentDatabase, where: str
    ) -> dict[str, Callable[[Document], Awaitable[object]]]:
        """Every write that takes a `_rev`, as a function of its filter."""
        return self.declared_of(
            {
                "update_one": ("", lambda chosen: database.update_one(where, chosen, {"$set": {"f": 9}})),
                "replace_one": ("upsert", lambda chosen: database.replace_one(where, chosen, {"f": 9})),
                "delete_one": ("", lambda chosen: database.delete_one(where, chosen)),
            }
        )


class DocumentDatabaseContract(DataRules):
    """Certifies a document database."""

    definition = Definition(
        name="document_database",
        version="1.0",
        prefix="DB",
        protocols={
            "": DocumentDatabaseProtocol,
            "query_operators": QueryOperators,
            "nested_paths": NestedPaths,
            "sort_page": SortPage,
            "projection": Projection,
            "streaming": Streaming,
            "update_operators": UpdateOperators,
            "upsert": Upsert,
            "revision": Revision,
            "batch": Batch,
            "transaction": Transaction,
            "datetime": Datetime,
            "binary": Binary,
            "int64": Int64,
            "lifecycle": Lifecycle,
        },
        limits=DocumentLimits,
        follows={"transaction": "transaction"},
        cells=DocumentCells,
    )
    trial: ClassVar[type[Trial[Any]]] = DocumentDatabaseTrial

    # Documents

    @rule("DB-01")
    async def test_db_01_a_document_comes_back_as_it_was(self, t: DocumentDatabaseTrial) -> None:
        """`find_one` by `_id` returns a document that deeply equals the inserted one, in every type.

        Catches a driver's `Decimal`, `ObjectId` or tuple, `1` for `1.0`, `1` for `True`, and names that are folded or parsed.
        JSONB spells a large float as an integer, DynamoDB has one type of numbers with 38 digits and a smaller range: a provider
        marks what its store cannot tell apart.
        """
        database = await t.connect()
        where, whole = t.key(), t.key()
        for label, value in VALUES.items():
            with t.case(label):
                document = {"_id": t.key(), "f": value}
                t.same(await database.insert_one(where, document), document["_id"], given="the result of insert_one")
                read = await database.find_one(where, {"_id": document["_id"]})
                t.same_document(read, document, f"find_one after insert_one of {label}")
        document = {"_id": whole, **{f"f{number}": value for number, value in enumerate(VALUES.values())}, "caf\u00e9 #1": 1}
        await database.insert_one(where, document)
        t.same_document(await database.find_one(where, {"_id": whole}), document, "find_one of all of these in one document")

    @rule("DB-02")
    async def test_db_02_no_match_is_none(self, t: DocumentDatabaseTrial) -> None:
        """No match is `None` for `find_one` and `[]` for `find_many`, also in a collection that was never used.

        Catches "table does not exist", and an empty document for none.
        """
        database = await t.connect()
        used = t.key()
        await database.insert_one(used, {"_id": t.key(), "f": 1})
        for label, where in (("a collection that was never used", t.key()), ("a collection with another document", used)):
            for filter in ({"_id": t.key()}, {"f": 2}, {"g": 1}):
                with t.case(f"{label}, {describe(filter)}"):
                    t.same(await database.find_one(where, filter), None, given=f"find_one in {label}")
                    t.same(await database.find_many(where, filter), [], given=f"find_many in {label}")
        never = t.key()
        t.same(await database.find_many(never, {}), [], given="find_many of everything in a collection that was never used")
        t.same(await database.update_one(never, {}, {"$set": {"f": 1}}), False, given="update_one there")
        t.same(await database.delete_one(never, {}), False, given="delete_one there")

    @rule("DB-03")
    async def test_db_03_an_id_is_made_up(self, t: DocumentDatabaseTrial) -> None:
        """Without `_id` in the document `insert_one` returns one that is new and text, and leaves the caller's document alone.

        Catches pymongo, which adds `_id` to its argument, and an `ObjectId` or a number for text.
        """
        database = await t.connect()
        where = t.key()
        ids = []
        for _ in range(3):
            document = {"f": [1]}
            id = await database.insert_one(where, document)
            t.check(type(id) is str and id != "", given="insert_one without an _id", expected="an _id, as text", observed=id)
            t.same(document, {"f": [1]}, given="the caller's document after insert_one")
            read = await database.find_one(where, {"_id": id})
            t.same_document(read, {"_id": id, "f": [1]}, "find_one by the _id that insert_one returned")
            ids.append(id)
        t.check(len(set(ids)) == 3, given="three _ids that were made up", expected="three", observed=ids)

    @rule("DB-04")
    async def test_db_04_an_id_is_taken_once(self, t: DocumentDatabaseTrial) -> None:
        """A second insert of an `_id` raises `AlreadyExistsError` and the first document stays; of 20 at once one succeeds.

        Catches an upsert. After a delete the `_id` is free again.
        """
        clients = await t.clients(2)
        database = clients[0]
        where, id, contested = t.key(), t.key(), t.key()
        first = {"_id": id, "f": 1}
        await database.insert_one(where, first)
        await t.refused(
            lambda: database.insert_one(where, {"_id": id, "g": 2}),
            AlreadyExistsError,
            given="insert_one of an _id that is taken",
        )
        t.same_document(await database.find_one(where, {"_id": id}), first, "the first document after the refused insert")
        await database.delete_one(where, {"_id": id})
        await database.insert_one(where, {"_id": id, "g": 3})
        t.same_document(await database.find_one(where, {"_id": id}), {"_id": id, "g": 3}, "insert_one, delete_one, insert_one")
        tried = await together(partial(clients[n % 2].insert_one, where, {"_id": contested, "n": n}) for n in range(20))
        winner = t.one_winner(tried, "20 concurrent inserts of one _id", AlreadyExistsError)
        await t.settle()
        read = await database.find_one(where, {"_id": contested})
        t.same_document(read, {"_id": contested, "n": winner}, "find_one after 20 concurrent inserts: the winner's document")

    @rule("DB-05", deadline=60)
    async def test_db_05_find_many_finds_all(self, t: DocumentDatabaseTrial) -> None:
        """`find_many` returns all and only the matches as a list, for `{}` too, beyond one page; `limit=0` gives none.

        Catches the first batch of 101 documents, and the page of 1 MB at which DynamoDB stops, of whose documents its filter may
        have left none: only `LastEvaluatedKey` tells that a page is the last. For MongoDB a limit of 0 is none.
        """
        database = await t.connect()
        where, other = t.key(), t.key()
        size = within_reach(t.numbers().page_size)
        amount = min(2 * size + 1, LARGEST_AMOUNT)
        documents = [{"_id": f"{where}-{n:05}", "half": n % 2, "n": n, "pad": "x" * 600} for n in range(amount)]
        await t.fill(database, where, documents)
        await t.fill(database, other, [{"_id": f"{other}-{n}", "half": 0} for n in range(3)])
        given = f"with {amount} documents and a page of {size}"
        t.same_documents(await database.find_many(where, {}), documents, f"find_many of everything, {given}")
        odd = [each for each in documents if each["half"]]
        t.same_documents(await database.find_many(where, {"half": 1}), odd, f"find_many of half of them, {given}")
        t.same_documents(await database.find_many(where, {"n": amount - 1}), documents[-1:], f"find_many of one, {given}")
        for limit in (0, 1, size, size + 1, len(odd), amount + 1):
            with t.case(f"limit={limit}"):
                limited = await database.find_many(where, {"half": 1}, limit=limit)
                ids = {each["_id"] for each in limited}
                t.check(
                    isinstance(limited, list)
                    and len(limited) == len(ids) == min(limit, len(odd))
                    and ids <= {each["_id"] for each in odd},
                    given=f"find_many of {len(odd)} matches with limit={limit}",
                    expected=f"{min(limit, len(odd))} of them",
                    observed=Plain(f"{len(limited)} documents, {len(ids)} of them different"),
                )

    # Filters

    @rule("DB-06")
    async def test_db_06_all_fields_must_match(self, t: DocumentDatabaseTrial) -> None:
        """A document matches if all fields of the filter are equal; a field that it does not have equals nothing.

        Catches OR in the place of AND, and a filter of which only the first field counts. With `find_one`, `find_many`,
        `update_one` and `delete_one`.
        """
        database = await t.connect()
        where = t.key()
        kinds = {"both": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "other": {"a": 4, "b": 2}, "half": {"a": 1}, "none": {}}
        documents = {label: {"_id": f"{where}-{label}", **fields} for label, fields in kinds.items()}
        await t.fill(database, where, list(documents.values()))
        t.same_documents(await database.find_many(where, {"a": 1, "b": 2}), [documents["both"]], "find_many of a=1 and b=2")
        t.same_document(await database.find_one(where, {"b": 2, "a": 1}), documents["both"], "find_one of b=2 and a=1")
        t.same(await database.find_many(where, {"a": 1, "b": 2, "c": None}), [], given="find_many with a field that none has")
        t.same(await database.find_one(where, {"_id": documents["one"]["_id"], "b": 2}), None, given="an _id with another b")
        t.same(await database.update_one(where, {"a": 4, "b": 3}, {"$set": {"c": 1}}), False, given="update_one without a match")
        t.same(await database.delete_one(where, {"a": 4, "b": 3}), False, given="delete_one without a match")
        t.same(await database.delete_one(where, {"a": 1, "b": 2}), True, given="delete_one of a=1 and b=2")
        rest = [each for label, each in documents.items() if label != "both"]
        t.same_documents(await database.find_many(where, {}), rest, "everything after delete_one of a=1 and b=2")

    @rule("DB-07")
    async def test_db_07_none_is_not_a_missing_field(self, t: DocumentDatabaseTrial) -> None:
        """`{"f": None}` matches a document that has None in `f`, and no document without `f`.

        MongoDB matches both, SQL's `= NULL` neither.
        """
        database = await t.connect()
        where = t.key()
        null, missing = {"_id": f"{where}-null", "f": None}, {"_id": f"{where}-missing", "g": None}
        false = {"_id": f"{where}-false", "f": False, "g": 0}
        await t.fill(database, where, [null, missing, false])
        t.same_documents(await database.find_many(where, {"f": None}), [null], 'find_many of {"f": None}')
        t.same_documents(await database.find_many(where, {"g": None}), [missing], 'find_many of {"g": None}')
        t.same(await database.find_one(where, {"h": None}), None, given='find_one of {"h": None}, which no document has')

    @rule("DB-08", deadline=30)
    async def test_db_08_equality_converts_nothing(self, t: DocumentDatabaseTrial) -> None:
        """`1`, `"1"` and `True` are three values, `1` and `1.0` one; texts are equal by code points; no scalar is in a list.

        Every filter over documents of every type, against a plain reading of the language. Catches Python's `True == 1`,
        a collation that folds case, accents or a trailing space, and MongoDB, which looks into lists.
        """
        database = await t.connect()
        await t.check_filters(database, [{"f": each} for each in SCALARS])

    @rule("DB-09")
    async def test_db_09_exact_or_refused(self, t: DocumentDatabaseTrial) -> None:
        """What is not in the language comes back exactly or is refused, never rounded, replaced or stringified.

        NaN, infinity, U+0000, a surrogate, a set, a tuple, `2**70`, a name that is no text, `$x`, `a.b`, a naive datetime.
        Refused with `InvalidArgumentError` or `UnsupportedError`; without `validation`, with whatever error. Catches a pickle,
        `default=str`, a tuple that becomes a list, and an integer that becomes a double.
        """
        database = await t.connect()
        where = t.key()
        extra: dict[str, Document] = {
            "a name with a dot": {"f.g": "v"},
            "a naive datetime": {"f": datetime(2024, 1, 31)},
            "an aware datetime": {"f": datetime(2024, 1, 31, tzinfo=UTC)},
            "bytes": {"f": b"a"},
            "2**53 + 1": {"f": 2**53 + 1},
            "-2**63 - 1": {"f": -(2**63) - 1},
        }
        cases: dict[str, Mapping[Any, Any]] = {**OUTSIDE, **extra}
        for label, fields in cases.items():
            with t.case(label):
                id = t.key()
                tried = await attempt(partial(database.insert_one, where, {"_id": id, **fields}))
                if t.refuses(tried.error, REFUSED):
                    t.same(await database.find_one(where, {"_id": id}), None, given=f"find_one after {label} was refused")
                    continue

                tried.result()
                read = await database.find_one(where, {"_id": id})
                t.same_document(read, {"_id": id, **fields}, f"a document with {label}, which was not refused")

    # Updates and deletes

    @rule("DB-10")
    async def test_db_10_update_one_sets_the_named_fields(self, t: DocumentDatabaseTrial) -> None:
        """`update_one` sets exactly the named fields of one matching document, new ones too, and returns `True`.

        Catches the replacement of the whole document, an update of every match, and a map that is merged instead of set.
        """
        database = await t.connect()
        where = t.key()
        one = {"_id": f"{where}-1", "group": "g", "keep": [1, {"a": None}], "f": 1, "map": {"x": 1, "y": 2}}
        two = {**one, "_id": f"{where}-2"}
        await t.fill(database, where, [one, two])
        changed = {"f": {"new": [True]}, "added": None, "map": {"x": 3}}
        t.same(await database.update_one(where, {"_id": one["_id"]}, {"$set": changed}), True, given="update_one of a document")
        t.same_document(
            await database.find_one(where, {"_id": one["_id"]}),
            {**one, **changed},
            "the document after update_one of three fields",
        )
        t.same_document(await database.find_one(where, {"_id": two["_id"]}), two, "another document after update_one")
        mark = t.token()
        t.same(
            await database.update_one(where, {"group": "g"}, {"$set": {"mark": mark}}), True, given="update_one of two matches"
        )
        marked = await database.find_many(where, {"mark": mark})
        t.same(len(marked), 1, given="the documents that update_one changed, of two that match")
        t.same(
            await database.update_one(where, {"mark": mark}, {"$set": {"mark": mark}}), True, given="update_one to what is there"
        )

    @rule("DB-11")
    async def test_db_11_update_one_creates_nothing(self, t: DocumentDatabaseTrial) -> None:
        """With no match `update_one` returns `False`, and there is no document more than before.

        Catches an upsert, and the number of matches in the place of a truth.
        """
        database = await t.connect()
        where, id = t.key(), t.key()
        filters: dict[str, Document] = {"an _id": {"_id": id}, "a field": {"f": 1}, "nothing": {}}
        for label, filter in filters.items():
            with t.case(label):
                t.same(
                    await database.update_one(where, filter, {"$set": {"g": 1}}), False, given=f"update_one by {label}, no match"
                )
                t.same(await database.find_many(where, {}), [], given=f"everything after update_one by {label} without a match")

    @rule("DB-12")
    async def test_db_12_other_updates_are_refused(self, t: DocumentDatabaseTrial) -> None:
        """An update without operator, of `_id`, or with an operator that is not in the language is refused, and changes nothing.

        With `InvalidArgumentError`, or `UnsupportedError` for an operator; without `validation`, with whatever error. Catches the
        update that replaces the whole document, and one of which a part is done. What would do no harm, such as an empty update,
        is `validation`'s alone.
        """
        database = await t.connect()
        where, id = t.key(), t.key()
        document = {"_id": id, "f": 1, "g": [2]}
        await database.insert_one(where, document)
        updates: dict[str, Any] = {
            "no operator": {"f": 2},
            "an operator and a field": {"$set": {"f": 2}, "g": 3},
            "another _id": {"$set": {"_id": t.key()}},
            "_id beside a field": {"$set": {"f": 2, "_id": t.key()}},
            "$rename": {"$rename": {"f": "h"}},
            "$set and $rename": {"$set": {"f": 2}, "$rename": {"g": "h"}},
            "$setOnInsert": {"$setOnInsert": {"f": 2}},
            "a list, which MongoDB takes for a pipeline": [{"$set": {"f": 2}}],
        }
        if "validation" in t.declared:
            updates |= {"empty": {}, "an empty $set": {"$set": {}}, "a $set that is no map": {"$set": "f"}}
        for label, update in updates.items():
            with t.case(label):
                call = partial(database.update_one, where, {"_id": id}, update)
                await t.not_taken(call, error=REFUSED, given=f"update_one with {describe(update)}")
                t.same_document(await database.find_one(where, {"_id": id}), document, f"the document after the refused {label}")

    @rule("DB-13")
    async def test_db_13_delete_one_removes_one(self, t: DocumentDatabaseTrial) -> None:
        """`delete_one` removes exactly one match and returns `True`; without a match it returns `False`.

        Catches a delete of every match.
        """
        database = await t.connect()
        where = t.key()
        documents = [{"_id": f"{where}-{n}", "group": "g" if n < 3 else "h"} for n in range(5)]
        await t.fill(database, where, documents)
        t.same(await database.delete_one(where, {"_id": documents[4]["_id"]}), True, given="delete_one by _id")
        t.same_documents(await database.find_many(where, {}), documents[:4], "everything after delete_one by _id")
        t.same(await database.delete_one(where, {"_id": documents[4]["_id"]}), False, given="delete_one by that _id again")
        for left in (2, 1, 0):
            t.same(await database.delete_one(where, {"group": "g"}), True, given=f"delete_one of {left + 1} matches")
            t.same(len(await database.find_many(where, {"group": "g"})), left, given=f"matches after delete_one of {left + 1}")
        t.same(await database.delete_one(where, {"group": "g"}), False, given="delete_one without a match")
        t.same_documents(await database.find_many(where, {}), documents[3:4], "what never matched, after all that")

    @rule("DB-14")
    async def test_db_14_collections_are_separate(self, t: DocumentDatabaseTrial) -> None:
        """One `_id` lives in two collections; names that differ in anything are two collections, or refused.

        Names of `a-z 0-9 _ -` up to 48 bytes are never refused. Catches one table without a discriminator, a name that is
        folded or cut like an SQL identifier, and one that is part of a path.
        """
        database = await t.connect()
        start, id = t.key(), t.key()
        longest = (start + "-").ljust(COLLECTION_BYTES - 1, "x")
        names = [start + end for end in COLLECTIONS] + [longest + "1", longest + "2"]
        taken = []
        for number, where in enumerate(names):
            with t.case(where.removeprefix(start)):
                tried = await attempt(partial(database.insert_one, where, {"_id": id, "number": number}))
                if not isinstance(tried.error, REFUSED) or set(where) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
                    tried.result()
                    taken.append((number, where))
        for number, where in taken:
            with t.case(where.removeprefix(start)):
                given = f"the collection {describe(where)}, after one document of one _id was put into each"
                t.same_documents(await database.find_many(where, {}), [{"_id": id, "number": number}], given)
        first = taken[0][1]
        await database.update_one(first, {"_id": id}, {"$set": {"changed": True}})
        await database.delete_one(first, {"_id": id})
        for number, where in taken[1:]:
            t.same_document(
                await database.find_one(where, {"_id": id}),
                {"_id": id, "number": number},
                "a document after a delete in another collection",
            )

    @rule("DB-15", deadline=30)
    async def test_db_15_filters_are_not_executed(self, t: DocumentDatabaseTrial) -> None:
        """Quotes, operators and code in a filter are data or refused, never executed.

        `{"pw": {"$ne": ""}}` where a login passes on what it was sent; `' OR 1=1 --`, `$where`, `$expr`. Of operators only
        those that are declared mean anything. In `find_one`, `find_many`, `update_one`, `delete_one`. Refused with
        `InvalidArgumentError` or `UnsupportedError`, whether `validation` is declared or not: any other error, such as that of
        a syntax, is what comes of running it. And what looks so is stored as it is: a pipeline of MongoDB reads `"$pw"` as the
        value of a field.
        """
        database = await t.connect()
        where, id = t.key(), t.key()
        secret = {"_id": id, "user": "u", "pw": t.token()}
        await database.insert_one(where, secret)
        attacks = dict(ATTACKS)
        if "query_operators" not in t.declared:
            attacks |= {operator: {"pw": {operator: ""}} for operator in ("$ne", "$gt", "$gte")}
            attacks |= {"$exists": {"pw": {"$exists": True}}, "$nin": {"pw": {"$nin": []}}}
        calls: dict[str, Callable[[Document], Awaitable[object]]] = {
            "find_one": lambda chosen: database.find_one(where, chosen),
            "find_many": lambda chosen: database.find_many(where, chosen),
            "update_one": lambda chosen: database.update_one(where, chosen, {"$set": {"pw": "stolen"}}),
            "delete_one": lambda chosen: database.delete_one(where, chosen),
        }
        for label, attack in attacks.items():
            with t.case(label):
                for filter in (dict(attack), {"user": "u", **attack}):
                    for method, call in calls.items():
                        tried = await attempt(partial(call, filter))
                        if isinstance(tried.error, REFUSED):
                            continue
                        t.check(
                            tried.result() in (None, [], False),
                            given=f"{method} with the filter {describe(filter)}",
                            expected="no match, or InvalidArgumentError",
                            observed=Plain("it matched a document whose pw is another"),
                        )
                t.same_document(await database.find_one(where, {"_id": id}), secret, f"the document after {label}")
        for text in ("' OR 1=1 --", "$pw", "$$ROOT", '{"$ne": ""}', "\\", "%", "?", ":pw", "$1"):
            with t.case(f"stored, {text}"):
                await database.update_one(where, {"_id": id}, {"$set": {"note": text}})
                expected = {**secret, "note": text}
                t.same_documents(
                    await database.find_many(where, {"note": text}), [expected], f"find_many of {text!r}, as it was set"
                )

    # Concurrency

    @rule("DB-16", deadline=60)
    async def test_db_16_concurrent_updates_all_survive(self, t: DocumentDatabaseTrial) -> None:
        """Concurrent `$set`s of different fields of one document all survive.

        Catches the read, change and write of the whole JSON.
        """
        clients = await t.clients(2)
        where, id = t.key(), t.key()
        await clients[0].insert_one(where, {"_id": id})
        await t.settle()

        async def work(number: int) -> None:
            for step in range(10):
                await clients[number % 2].update_one(
                    where, {"_id": id}, {"$set": {f"f{number}": step, f"g{number}-{step}": step}}
                )

        await gather(partial(work, number) for number in range(10))
        expected = {
            "_id": id,
            **{f"f{n}": 9 for n in range(10)},
            **{f"g{n}-{step}": step for n in range(10) for step in range(10)},
        }
        await t.settle()
        t.same_document(
            await clients[0].find_one(where, {"_id": id}),
            expected,
            "a document after 10 tasks each set fields of their own in it",
        )

    @rule("DB-17", deadline=60)
    async def test_db_17_an_update_is_seen_whole(self, t: DocumentDatabaseTrial) -> None:
        """A reader never sees part of a `$set` of several fields.

        Catches two statements, and a row for each field.
        """
        writer, reader = await t.clients(2)
        where, id = t.key(), t.key()
        await writer.insert_one(where, {"_id": id, "a": -1, "b": -1, "pad": "x" * 2000, "c": [-1]})
        await t.settle()
        torn: list[Document] = []
        finished = False

        async def write() -> None:
            nonlocal finished
            try:
                for number in range(20):
                    await writer.update_one(where, {"_id": id}, {"$set": {"a": number, "b": number, "c": [number]}})
            finally:
                finished = True

        async def look() -> None:
            for _ in range(MOST_LOOKS):
                read = await t.held(reader, where, id)
                if not (read["a"] == read["b"] == read["c"][0]):
                    torn.append({name: read[name] for name in ("a", "b", "c")})
                if finished:
                    return
                await anyio.lowlevel.checkpoint()

        await gather([write, look, look])
        t.check(
            not torn, given="a document read while a, b and c are set to one number", expected="one number", observed=torn[:3]
        )

    # Limits

    @rule("DB-18", "limits", deadline=30)
    async def test_db_18_the_largest_document_works(self, t: DocumentDatabaseTrial) -> None:
        """A document of exactly `document_bytes` comes back; a longer one is `TooLargeError`, and the old state stays.

        Its bytes are those of its shortest JSON text in UTF-8. Catches the 400 KB of DynamoDB and the error of its own, and a
        limit that counts characters, or the strings alone. Of a limit above 16 MiB only so much is tried.
        """
        database = await t.connect()
        where = t.key()
        limits = t.numbers()
        size = min(limits.document_bytes, LARGEST_TRIED)
        for label, filler in {
            "ASCII": "x",
            "two bytes a character": "\u00e9",
            "many maps": [{"a": n, "b": [None, True, 0.5], "caf\u00e9": "\U0001f511"} for n in range(min(size // 100, 500))],
        }.items():
            with t.case(label):
                id = t.key()
                document: Document = {"_id": id, "f": filler, "pad": ""}
                if isinstance(filler, str):
                    document["f"] = filler * ((size - json_bytes(document)) // len(filler.encode()))
                document["pad"] = "x" * (size - json_bytes(document))
                await database.insert_one(where, document)
                given = f"find_one of a document of {size} bytes, {label}"
                t.same_document(await database.find_one(where, {"_id": id}), document, given)
                if size < limits.document_bytes:
                    continue

                for name, call in t.lengthenings(database, where, document).items():
                    with t.case(f"{label}, {name}"):
                        await t.refused(call, TooLargeError, given=f"{name} that makes a document longer than {size} bytes")
                t.same_documents(
                    await database.find_many(where, {"_id": id}), [document], "the document after longer ones were refused"
                )
                await database.delete_one(where, {"_id": id})

    # Types that are capabilities

    @rule("DB-19", "int64")
    async def test_db_19_large_integers_are_exact(self, t: DocumentDatabaseTrial) -> None:
        """Integers from -2**63 to 2**63-1 are exact in documents, filters and `$inc`; beyond, a sum is refused.

        A larger one in a document is exact or refused, as what is not in the language is; with `validation` it is refused.
        Catches doubles, which round from 2**53 on.
        """
        database = await t.connect()
        where = t.key()
        numbers = (2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**62 + 1, 2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1)
        documents: list[Document] = [
            {"_id": f"{where}-{n}", "f": number, "in": [{"a": number}]} for n, number in enumerate(numbers)
        ]
        await t.fill(database, where, documents)
        for document in documents:
            number = document["f"]
            with t.case(str(number)):
                t.same_documents(await database.find_many(where, {"f": number}), [document], f"find_many of {number}")
                if "query_operators" in t.declared:
                    above = [each for each in documents if each["f"] > number]
                    t.same_documents(await database.find_many(where, {"f": {"$gt": number}}), above, f"find_many above {number}")
        if "update_operators" in t.declared:
            with t.case("$inc"):
                id = documents[0]["_id"]
                await database.update_one(where, {"_id": id}, {"$inc": {"f": 2**62 - 1}})
                t.same_document(
                    await database.find_one(where, {"_id": id}),
                    {**documents[0], "f": 2**53 + 2**62 - 1},
                    "2**53 after $inc by 2**62 - 1",
                )
                full = documents[6]
                await t.refused(
                    lambda: database.update_one(where, {"_id": full["_id"]}, {"$inc": {"f": 1}}),
                    InvalidArgumentError,
                    given="$inc by 1 of 2**63 - 1",
                )
                t.same_document(await database.find_one(where, {"_id": full["_id"]}), full, "the document after $inc was refused")
        for beyond in (2**63, -(2**63) - 1, 2**70):
            with t.case(str(beyond)):
                id = t.key()
                insert = partial(database.insert_one, where, {"_id": id, "f": beyond})
                if "validation" in t.declared:
                    await t.refused(insert, REFUSED, given=f"insert_one of {beyond}")
                elif (await attempt(insert)).error is None:
                    t.same_document(await t.held(database, where, id), {"_id": id, "f": beyond}, f"insert_one of {beyond}")

    @rule("DB-20", "datetime")
    async def test_db_20_datetimes_are_instants(self, t: DocumentDatabaseTrial) -> None:
        """An aware datetime comes back as the same instant, aware, in UTC, exact to the millisecond; a naive one is refused.

        With whatever error where `validation` is not declared: it is no instant, and would become another one. Catches a naive
        datetime, a local one, whole seconds, and text. MongoDB keeps milliseconds, others microseconds.
        """
        database = await t.connect()
        where = t.key()
        for label, moment in MOMENTS.items():
            with t.case(label):
                id = t.key()
                await database.insert_one(where, {"_id": id, "at": moment, "in": {"list": [moment]}})
                read = await t.held(database, where, id)
                for found in (read["at"], read["in"]["list"][0]):
                    t.check_moment(found, moment)
                if moment.microsecond % 1000 == 0:
                    again = await database.find_many(where, {"at": moment.astimezone(timezone(-timedelta(hours=1)))})
                    t.same([each["_id"] for each in again], [id], given=f"find_many of {moment.isoformat()}, in another offset")
        naive = datetime(2024, 1, 31, 12)
        await t.not_taken(
            lambda: database.insert_one(where, {"_id": t.key(), "at": naive}), given="insert_one of a naive datetime"
        )
        await t.not_taken(lambda: database.find_one(where, {"at": naive}), given="a filter of a naive datetime")

    # The language of the capabilities

    @rule("DB-21", "query_operators", deadline=60)
    async def test_db_21_operators_stay_within_one_type(self, t: DocumentDatabaseTrial) -> None:
        """`$gt` and its like compare numbers with numbers and texts with texts; `$ne` and `$nin` match who has the field.

        `$in: []` matches none, `$exists` tells a missing field from None, several operators must all hold. Every filter over
        documents of every type, against a plain reading of the language. MongoDB's `$ne` and `$nin` match missing fields and
        look into lists, SQL's `NOT IN` of a NULL matches nothing, JSONB orders all types. What is no operator matches nothing,
        and with `validation` it is refused, as is an operand that none of them takes.
        """
        database = await t.connect()
        await t.check_filters(database, [{"f": each} for each in OPERATORS])
        where, id = t.key(), t.key()
        await database.insert_one(where, {"_id": id, "f": 1})
        strange: dict[str, Any] = {"an unknown operator": {"$like": 1}, "an operator and a field": {"$gt": 0, "g": 1}}
        for label, filter in strange.items():
            with t.case(label):
                tried = await attempt(partial(database.find_many, where, {"f": filter}))
                if tried.error is None:
                    t.same(tried.value, [], given=f"find_many by a filter with {label}")
        operands: dict[str, Any] = {
            "$in of a number": {"$in": 1},
            "$in of a map": {"$in": [{"a": 1}]},
            "$exists of a number": {"$exists": 1},
            "$gt of a list": {"$gt": [0]},
            "$ne of a map": {"$ne": {"a": 1}},
            "no operator": {},
        }
        for label, filter in {**strange, **operands}.items() if "validation" in t.declared else ():
            with t.case(label):
                await t.refused(
                    partial(database.find_many, where, {"f": filter}), InvalidArgumentError, given=f"a filter with {label}"
                )
        with t.case("_id"):
            others = [{"_id": f"{id}-{n}", "f": n} for n in range(3)]
            await t.fill(database, where, others)
            some = await database.find_many(
                where, {"_id": {"$in": [others[0]["_id"], others[2]["_id"], "nobody"]}, "f": {"$gt": 0}}
            )
            t.same_documents(some, others[2:], "find_many of three _ids and f above 0")
            t.same(await database.update_one(where, {"f": {"$gt": 5}}, {"$set": {"f": 0}}), False, given="update_one, f above 5")
            t.same(await database.delete_one(where, {"f": {"$gte": 2}}), True, given="delete_one, f from 2 on")
            t.same_documents(await database.find_many(where, {"f": {"$lt": 1}}), others[:1], "find_many of f below 1")

    @rule("DB-22", "nested_paths")
    async def test_db_22_paths_go_through_maps(self, t: DocumentDatabaseTrial) -> None:
        """`a.b` is the field `b` of the map `a`, in filters and in `$set`, which makes missing maps and keeps their other fields.

        Through something that is no map a filter matches nothing. Catches a field that is called "a.b", a map that is replaced,
        and MongoDB's paths through lists.
        """
        database = await t.connect()
        where = t.key()
        documents = t.documents(where, MAPS)
        await t.fill(database, where, list(documents.values()))
        filters = list(PATHS)
        if "query_operators" in t.declared:
            filters += [{"a.b": {"$exists": True}}, {"a.b.c": {"$gt": 0}}, {"a.b.c": {"$ne": 2}}]
        for filter in filters:
            with t.case(describe(filter)):
                wanted = [each for each in documents.values() if matches(each, filter)]
                t.same_documents(await database.find_many(where, filter), wanted, f"find_many of {describe(filter)}")
        for label, change, after in SETS:
            with t.case(f"$set of {describe(change)}"):
                id = documents[label]["_id"]
                t.same(await database.update_one(where, {"_id": id}, {"$set": change}), True, given=f"$set of {describe(change)}")
                t.same_document(
                    await database.find_one(where, {"_id": id}), {"_id": id, **after}, f"after $set of {describe(change)}"
                )

    @rule("DB-23", "sort_page", deadline=60)
    async def test_db_23_pages_are_slices_of_one_order(self, t: DocumentDatabaseTrial) -> None:
        """`sort` orders by the field, then by `_id`; `limit` and `offset` slice that order, and pages put together are the whole.

        Documents without the field, or with None, come first, numbers by size, texts by code points; `descending` reverses all
        of it. Past the end there is `[]`. Catches ties in the order of the day, a collation, and numbers ordered as text.
        """
        database = await t.connect()
        where = t.key()
        documents = t.sortable(where)
        await t.fill(database, where, documents)
        for kind in SORTED:
            whole = sorted(
                (each for each in documents if each["kind"] == kind),
                key=lambda each: (each.get("f") is not None, 0 if each.get("f") is None else each["f"], each["_id"]),
            )
            for descending in (False, True):
                expected = whole[::-1] if descending else whole
                find = partial(database.find_many, where, {"kind": kind}, sort="f", descending=descending)
                given = f"find_many of {kind}, sort='f', descending={descending}"
                with t.case(given):
                    t.same_documents(await find(), expected, given, ordered=True)
                    pages = [await find(limit=5, offset=offset) for offset in range(0, len(expected) + 5, 5)]
                    t.same_documents(
                        [each for page in pages for each in page], expected, f"{given}, pages of 5 put together", ordered=True
                    )
        by_id = sorted(documents, key=lambda each: str(each["_id"]))
        cases: tuple[tuple[str, dict[str, Any], list[Document]], ...] = (
            ("sort by _id", {"sort": "_id"}, by_id),
            ("limit=0", {"sort": "f", "limit": 0}, []),
            ("past the end", {"sort": "f", "offset": len(by_id)}, []),
            ("a field that none has", {"sort": "nowhere"}, by_id),
        )
        for label, keywords, part in cases:
            with t.case(label):
                t.same_documents(await database.find_many(where, {}, **keywords), part, f"find_many with {label}", ordered=True)
        twice = [[each["_id"] for each in await database.find_many(where, {}, sort="f")] for _ in range(2)]
        t.same(twice[1], twice[0], given="the order of documents whose fields are of several types, asked for again")

    @rule("DB-24", "projection")
    async def test_db_24_only_the_named_fields_are_returned(self, t: DocumentDatabaseTrial) -> None:
        """`find_one` and `find_many` with a projection return the named fields that a document has, and `_id`.

        Whatever the filter names; an empty projection gives `_id` alone. Catches the fields of the filter that come along, None
        for a missing field, and the projection of a field that is empty or false as if it were not there.
        """
        database = await t.connect()
        where = t.key()
        held: tuple[Document, ...] = ({"a": 1, "b": {"c": [1]}, "d": "x"}, {"a": None, "d": "x"}, {"b": 0, "e": False, "d": "x"})
        documents = [{"_id": f"{where}-{n}", **fields} for n, fields in enumerate(held)]
        await t.fill(database, where, documents)
        for names in ((), ("a",), ("a", "b"), ("_id", "b"), ("e", "nowhere"), ("a", "a")):
            with t.case(describe(names)):
                wanted = [{name: value for name, value in each.items() if name in ("_id", *names)} for each in documents]
                for label, projection in {"a list": list(names), "an iterator": iter(names)}.items():
                    found = await database.find_many(where, {"d": "x"}, projection=projection)
                    t.same_documents(found, wanted, f"find_many with the projection {names}, as {label}")
                one = await database.find_one(where, {"_id": documents[0]["_id"], "d": "x"}, projection=names)
                t.same_document(one, wanted[0], f"find_one with the projection {names}")
        t.same(
            await database.find_one(where, {"a": 7}, projection=["a"]), None, given="find_one with a projection, without a match"
        )
        t.same_documents(await database.find_many(where, {}, projection=None), documents, "find_many with projection=None")

    @rule("DB-25", "update_operators", deadline=60)
    async def test_db_25_operators_change_in_one_step(self, t: DocumentDatabaseTrial) -> None:
        """50 concurrent `$inc`s add up exactly, 50 `$push`es all arrive; on a value of another type both are refused.

        Catches read and write, and text that becomes a number.
        """
        clients = await t.clients(2)
        database = clients[0]
        where, id = t.key(), t.key()
        await database.insert_one(where, {"_id": id, "keep": "x"})
        await t.settle()
        await gather(partial(clients[n % 2].update_one, where, {"_id": id}, {"$inc": {"n": 1}}) for n in range(50))
        await gather(partial(clients[n % 2].update_one, where, {"_id": id}, {"$push": {"l": n}}) for n in range(50))
        await t.settle()
        read = await t.held(database, where, id)
        t.same(read.get("n"), 50, given="n after 50 concurrent $inc by 1")
        t.same(sorted(read.get("l", [])), list(range(50)), given="l after 50 concurrent $push of different numbers")
        document = {"_id": t.key(), "n": 5, "half": 0.5, "l": [1], "text": "7", "truth": True, "null": None, "map": {"a": 1}}
        await database.insert_one(where, document)
        for name in ("text", "truth", "null", "l", "map"):
            await t.check_refused_update(database, where, document, {"$inc": {name: 1}, "$set": {"half": 9}})
        for name in ("text", "n", "null", "map"):
            await t.check_refused_update(database, where, document, {"$push": {name: 1}})

    # revision

    @rule("DB-26", "revision")
    async def test_db_26_a_stale_revision_is_refused(self, t: DocumentDatabaseTrial) -> None:
        """A write with a `_rev` that is not current, or of a missing document, raises `ConflictError`, and nothing changes.

        Catches a check that is left out of one of the writes, and a missing document that is no conflict.
        """
        one, other = await t.clients(2)
        where, id, absent = t.key(), t.key(), t.key()
        stale = []
        for rewrite in t.rewrites(one, where, id).values():
            await rewrite()
            stale.append(t.revision(await t.held(one, where, id)))
        await one.update_one(where, {"_id": id}, {"$set": {"f": 5}})
        before = await t.held(one, where, id)
        await t.settle()
        for name, write in t.conditional_writes(other, where).items():
            for each in stale:
                with t.case(f"{name}, stale"):
                    await t.refused(partial(write, {"_id": id, "_rev": each}), ConflictError, given=f"{name} with a stale _rev")
            with t.case(f"{name}, missing"):
                await t.refused(
                    partial(write, {"_id": absent, "_rev": before["_rev"]}),
                    ConflictError,
                    given=f"{name} with a _rev, no document",
                )
                t.same(await one.find_one(where, {"_id": absent}), None, given=f"find_one after the refused {name}")
        t.same(await one.find_one(where, {"_id": id}), before, given="the document after all that was refused")

    @rule("DB-27", "revision", deadline=60)
    async def test_db_27_no_update_is_lost(self, t: DocumentDatabaseTrial) -> None:
        """8 workers that each add 1 by `_rev`, with retries, add up exactly; of 20 writes with one `_rev` one succeeds.

        Catches a check that is followed by a write.
        """
        clients = await t.clients(2)
        where, id = t.key(), t.key()
        await clients[0].insert_one(where, {"_id": id, "n": 0})
        await t.settle()
        rounds = 6

        async def add_one(client: FullDocumentDatabase) -> None:
            read = await t.held(client, where, id)
            await client.update_one(where, {"_id": id, "_rev": read["_rev"]}, {"$set": {"n": read["n"] + 1}})

        async def worker(client: FullDocumentDatabase) -> None:
            for _ in range(rounds):
                await t.retry(partial(add_one, client))

        await gather(partial(worker, clients[number % 2]) for number in range(8))
        await t.settle()
        read = await t.held(clients[1], where, id)
        t.same(read["n"], 8 * rounds, given=f"the sum after 8 workers added 1, {rounds} times each")
        of = {"_id": id, "_rev": read["_rev"]}
        tried = await together(partial(clients[n % 2].update_one, where, of, {"$set": {"n": n}}) for n in range(20))
        winner = t.one_winner(tried, "20 concurrent update_one with one _rev")
        await t.settle()
        read = await t.held(clients[0], where, id)
        t.same(read["n"], winner, given="the number that the winner wrote")
        of = {"_id": id, "_rev": read["_rev"]}
        tried = await together(partial(clients[n % 2].delete_one, where, of) for n in range(20))
        t.one_winner(tried, "20 concurrent delete_one with one _rev")

    # batch

    @rule("DB-28", "batch", deadline=30)
    async def test_db_28_a_batch_says_what_it_did(self, t: DocumentDatabaseTrial) -> None:
        """`insert_many` stores any number and returns their `_id`s in order; an error is raised for what cannot be stored.

        All else of such a batch is stored; with `validation` the error names exactly what was not. Catches the partial success
        that is reported as success, the batch that stops at its first error, and the limit of 25 or 100 items of a cloud's API:
        DynamoDB's batches know no conditions either, and overwrite.
        """
        database = await t.connect()
        where, other = t.key(), t.key()
        amount = min(2 * t.numbers().batch_size + 1, LARGEST_AMOUNT)
        documents = [{"_id": f"{where}-{n:05}", "n": n, "in": [n]} for n in range(amount)]
        ids = await database.insert_many(where, (each for each in documents))
        t.same(ids, [each["_id"] for each in documents], given=f"insert_many of {amount} documents, from a generator")
        t.same_documents(await database.find_many(where, {}), documents, f"everything after insert_many of {amount}")
        with t.case("no documents"):
            t.same(await database.insert_many(where, []), [], given="insert_many of none")
        with t.case("made up _ids"):
            given: list[Document] = [{"f": 1}, {"_id": f"{other}-own", "f": 2}, {"f": 3}]
            made = await database.insert_many(other, given)
            t.same(given[0], {"f": 1}, given="the caller's document after insert_many")
            t.same(made[1:2], [f"{other}-own"], given="the _id of the second of three documents, of which only that has one")
            for id, each in zip(made, given, strict=True):
                t.same_document(
                    await database.find_one(other, {"_id": id}), {**each, "_id": id}, "a document by the _id returned"
                )
        with t.case("an _id that is taken"):
            start = t.key()
            await database.insert_one(other, {"_id": f"{start}-2-", "first": True})
            batch: list[Document] = [{"_id": f"{start}-{n}-", "n": n} for n in range(5)]
            error = await t.refused(
                lambda: database.insert_many(other, batch),
                AlreadyExistsError,
                given="insert_many of 5, one _id of which is taken",
            )
            for each in batch:
                stored = await database.find_one(other, {"_id": each["_id"]})
                expected = {"_id": each["_id"], "first": True} if each["n"] == 2 else each
                t.same_document(stored, expected, "a document after an insert_many with one _id that is taken")
            taken, others = batch[2]["_id"], [each["_id"] for each in batch if each["n"] != 2]
            t.check_names(error, taken, but=others, given="the error of insert_many")

    # transaction

    @rule("DB-29", "transaction", deadline=60)
    async def test_db_29_a_transaction_is_all_or_nothing(self, t: DocumentDatabaseTrial) -> None:
        """What a transaction does becomes visible together at its end, or not at all if an exception or a cancellation ends it.

        Its operations see one another; nobody else sees half; a clash is `ConflictError`, and the block is tried again. Catches
        autocommit, and a rollback that is left out when a task is cancelled. MongoDB's protocol reports a clash, seldom, to a
        block that shares no document with another one, and PostgreSQL may when its transactions are serializable.
        """
        database, reader = await t.prompt_clients()
        where, other = t.key(), t.key()
        old: list[Document] = [{"_id": f"{where}-{name}", "n": -1} for name in "abc"]
        await t.fill(database, where, old)
        await t.check_rollback(database, where, other, old)
        await t.check_cancelled_blocks(database, reader)
        await t.check_seen_together(database, reader, where, old[0]["_id"], old[1]["_id"])

    # streaming

    @rule("DB-30", "streaming", deadline=60)
    async def test_db_30_an_iteration_can_be_left(self, t: DocumentDatabaseTrial) -> None:
        """`find_iter` yields what `find_many` finds, each once while others come and go; leaving it early frees what it holds.

        Left 200 times. Catches a pool that is exhausted, a cursor that is never closed, and paging by offset.
        """
        database = await t.connect()
        where = t.key()
        size = min(t.numbers().page_size, LARGEST_AMOUNT // 2)
        stay = [{"_id": f"{where}-{n:05}-stay", "kind": "a"} for n in range(2 * size + 1)]
        leave = [{"_id": f"{where}-{n:05}-leave", "kind": "a"} for n in range(min(2 * size + 1, 200))]
        await t.fill(database, where, [*stay, *leave, {"_id": f"{where}-other", "kind": "b"}])
        t.same_documents(await drain(database.find_iter(where, {"kind": "a"})), [*stay, *leave], "find_iter of all of one kind")
        t.same(await drain(database.find_iter(where, {"kind": "c"})), [], given="find_iter without a match")
        t.same(await drain(database.find_iter(t.key(), {})), [], given="find_iter of a collection that was never used")
        for _ in range(200):
            tried = await attempt(partial(t.leave_early, database, where))
            if tried.error is not None:
                t.fail_rule(
                    given="find_iter after many iterations were left at their first document",
                    expected="it works as the first one did",
                    observed=describe_error(tried.error),
                    hint="close the cursor and give back the connection when the generator is closed",
                )
        seen = []
        gone = count()
        async with leaving(database.find_iter(where, {"kind": "a"})) as found:
            async for each in found:
                if each["_id"].endswith("-stay"):
                    seen.append(each["_id"])
                    number = next(gone)
                    if number % 2 == 0 and number < len(leave):
                        await database.delete_one(where, {"_id": leave[number]["_id"]})
                        await database.insert_one(where, {"_id": f"{where}-{number:05}-came", "kind": "c"})
                if len(seen) > len(stay):
                    break
        t.check_listing(
            seen, [each["_id"] for each in stay], "the documents that stayed, seen while others were deleted and inserted"
        )

    # upsert

    @rule("DB-31", "upsert")
    async def test_db_31_replace_one_replaces_all_of_it(self, t: DocumentDatabaseTrial) -> None:
        """`replace_one` replaces the document with its filter's `_id` by a whole one; where none is, only `upsert` stores it.

        It returns whether there was one, and leaves the caller's document alone. Catches fields of the old document that stay.
        """
        database = await t.connect()
        where, id, new = t.key(), t.key(), t.key()
        of = {"_id": id}
        await database.insert_one(where, {"_id": id, "old": 1, "f": {"a": 1}})
        replacements: dict[str, Document] = {"no _id": {"f": {"b": [None]}}, "the same _id": {"_id": id, "g": 1}, "nothing": {}}
        for label, document in replacements.items():
            for upsert in (False, True):
                with t.case(f"a document with {label}, upsert={upsert}"):
                    given = copy.deepcopy(document)
                    t.same(
                        await database.replace_one(where, of, given, upsert=upsert),
                        True,
                        given=f"replace_one by one with {label}",
                    )
                    t.same(given, document, given="the caller's document after replace_one")
                    read = await database.find_one(where, of)
                    t.same_document(read, {**document, "_id": id}, f"after replace_one by a document with {label}")
        t.same(await database.replace_one(where, {"_id": new}, {"f": 1}), False, given="replace_one of a missing document")
        t.same(await database.find_one(where, {"_id": new}), None, given="find_one after replace_one of a missing document")
        t.same(
            await database.replace_one(where, {"_id": new}, {"f": 1}, upsert=True),
            False,
            given="replace_one with upsert, none there",
        )
        t.same_document(await database.find_one(where, {"_id": new}), {"_id": new, "f": 1}, "after replace_one with upsert")

    @rule("DB-32", "binary")
    async def test_db_32_bytes_are_kept(self, t: DocumentDatabaseTrial) -> None:
        """`bytes` come back equal and as `bytes`, at any depth; a filter of bytes matches them, and no text.

        Catches base64 that only one side knows of, a driver's type of its own, and bytes that are decoded.
        """
        database = await t.connect()
        where = t.key()
        values = {
            "every byte": bytes(range(256)), "none": b"", "one": b"1", "no UTF-8": b"\xff\xfe\x80", "zeros": bytes(5),
            "base64": b"AAEC", "16 KiB": bytes(range(256)) * 64,
        }  # fmt: skip
        texts: list[Document] = [
            {"_id": f"{where}-{n}", "f": text, "in": []} for n, text in enumerate(("", "1", "AAEC", "b'1'", "MQ=="))
        ]
        documents: list[Document] = [
            {"_id": f"{where}-{label}", "f": value, "in": [{"a": value}, [value]]} for label, value in values.items()
        ]
        await t.fill(database, where, [*texts, *documents])
        for document in documents:
            with t.case(document["_id"].removeprefix(f"{where}-")):
                t.same_document(await database.find_one(where, {"_id": document["_id"]}), document, "a document with bytes")
                if len(document["f"]) <= 256:
                    found = await database.find_many(where, {"f": document["f"]})
                    t.same_documents(found, [document], f"find_many of {describe(document['f'])}")
        for text in texts:
            t.same_documents(await database.find_many(where, {"f": text["f"]}), [text], f"find_many of the text {text['f']!r}")
        id = documents[2]["_id"]
        await database.update_one(where, {"_id": id}, {"$set": {"f": b"\x00"}})
        t.same_document(await database.find_one(where, {"_id": id}), {**documents[2], "f": b"\x00"}, "after $set of bytes")

    # Everything at once

    test_db_33_a_random_walk_agrees_with_the_reference = walk_rule("DB-33", WALK)

    # Arguments

    @rule("DB-34", "validation", deadline=30)
    async def test_db_34_other_values_are_refused_before_any_write(self, t: DocumentDatabaseTrial) -> None:
        """A value or a name of a field that is not in the language raises `InvalidArgumentError`, and nothing is written.

        From every operation that takes a document or an update, and scalars from a filter; what belongs to a capability that is
        not declared may be `UnsupportedError`. Catches the half that is written before the encoder gives up.
        """
        database: Any = await t.connect()
        where, id = t.key(), t.key()
        document = {"_id": id, "f": "kept"}
        await database.insert_one(where, document)
        undeclared: dict[str, Document] = {
            "nested_paths": {"f.g": "v"},
            "datetime": {"f": datetime(2024, 1, 31, tzinfo=UTC)},
            "binary": {"f": b"a"},
            "int64": {"f": 2**53},
        }
        wrong: dict[str, Mapping[Any, Any]] = {
            **OUTSIDE,
            **{each: fields for each, fields in undeclared.items() if each not in t.declared},
        }
        for label, fields in wrong.items():
            calls = t.stores(database, where, id, fields)
            if label not in ("an empty name", "a name with $") and not isinstance(fields.get("f"), dict | list | tuple | set):
                calls["find_many"] = partial(database.find_many, where, fields)
            for name, call in calls.items():
                with t.case(f"{name}, {label}"):
                    await t.refused(call, REFUSED, given=f"{name} of {label}")
            t.same_documents(await database.find_many(where, {}), [document], f"everything after {label} was refused")

    @rule("DB-35", "validation")
    async def test_db_35_other_arguments_are_refused(self, t: DocumentDatabaseTrial) -> None:
        """A collection, document, filter, update or limit that is none raises `InvalidArgumentError`, and nothing is written.

        Catches None that becomes the collection "None", a negative limit that counts from the end, and a list of pairs.
        """
        database: Any = await t.connect()
        where, id = t.key(), t.key()
        document = {"_id": id, "f": 1}
        await database.insert_one(where, document)
        for label, collection in {
            "": "",
            "U+0000": where + "\x00",
            "a surrogate": where + "\ud800",
            "None": None,
            "bytes": b"a",
            "1": 1,
        }.items():
            for name, call in {
                "insert_one": partial(database.insert_one, collection, {"_id": t.key()}),
                "find_one": partial(database.find_one, collection, {}),
                "find_many": partial(database.find_many, collection, {}),
                "update_one": partial(database.update_one, collection, {}, {"$set": {"f": 2}}),
                "delete_one": partial(database.delete_one, collection, {}),
            }.items():
                with t.case(f"{name}, the collection {label!r}"):
                    await t.refused(call, InvalidArgumentError, given=f"{name} with the collection {describe(collection)}")
        for label, call in {
            **{f"limit={limit!r}": partial(database.find_many, where, {}, limit=limit) for limit in (-1, 1.5, "1", True)},
            **{f"the document {each!r}": partial(database.insert_one, where, each) for each in (None, "a", [("_id", "a")], 1)},
            **{f"the filter {each!r}": partial(database.find_many, where, each) for each in (None, id, [("_id", id)])},
            "deleting by None": partial(database.delete_one, where, None),
            "updating by None": partial(database.update_one, where, None, {"$set": {"f": 2}}),
            "the update None": partial(database.update_one, where, {"_id": id}, None),
            "a list in a filter": partial(database.find_many, where, {"f": [1]}),
        }.items():
            with t.case(label):
                await t.refused(call, InvalidArgumentError, given=label)
        t.same_documents(await database.find_many(where, {}), [document], "everything after all that was refused")

    @rule("DB-36", "limits")
    async def test_db_36_the_longest_collection_works(self, t: DocumentDatabaseTrial) -> None:
        """A collection of `collection_bytes` works, two that differ in the last byte are two, and a longer one is refused.

        Catches the identifier that PostgreSQL cuts at 63 bytes. Of a limit above 64 KiB only so much is tried.
        """
        database = await t.connect()
        most = t.numbers().collection_bytes
        longest = t.key().ljust(min(most, LONGEST_TRIED), "x")
        twin, id = longest[:-1] + "y", t.key()
        await database.insert_one(longest, {"_id": id, "f": 1})
        await database.insert_one(twin, {"_id": id, "f": 2})
        for number, where in enumerate((longest, twin), 1):
            read = await database.find_one(where, {"_id": id})
            t.same_document(
                read, {"_id": id, "f": number}, f"one of two collections whose names of {len(where)} bytes differ in the last"
            )
        if len(longest) < most:
            return

        calls: dict[str, Call[object]] = {
            "insert_one": partial(database.insert_one, longest + "x", {"_id": id}),
            "find_many": partial(database.find_many, longest + "x", {}),
            "delete_one": partial(database.delete_one, longest + "x", {}),
        }
        for name, call in calls.items():
            with t.case(name):
                await t.refused(call, InvalidArgumentError, given=f"{name} with a collection of {len(longest) + 1} bytes")

    @rule("DB-37")
    async def test_db_37_a_tenants_field_is_only_a_field(self, t: DocumentDatabaseTrial) -> None:
        """`tenant_id`, `_tenant`, `tenant` in a document, a filter or a `$set` are data, and choose no tenant.

        They come back as they were given, and are in no document that was given none. Under a policy of tenants, tenant B names
        tenant A in all three. Catches mass assignment: `{"tenant_id": own, **filter}`, which the caller overrides.
        """
        tenants: tuple[FullDocumentDatabase, FullDocumentDatabase] | None = None
        if any("tenant_id" in each.definition.config for each in t.plan.policies):
            a, b = f"{t.namespace}a", f"{t.namespace}b"
            tenants = await t.connect(tenant_id=a), await t.connect(tenant_id=b)
        theirs, database = tenants or [await t.connect()] * 2
        named = f"{t.namespace}a"
        for field in TENANT_FIELDS:
            with t.case(field):
                where, id, secret = t.key(), t.key(), t.token()
                others = {"_id": f"{id}-other", "f": secret}
                await theirs.insert_one(where, others)
                t.same(
                    await database.find_many(where, {field: named}), [], given=f"find_many of a {field}, which no document has"
                )
                t.same(
                    await database.update_one(where, {field: named}, {"$set": {"f": 1}}), False, given=f"update_one by {field}"
                )
                t.same(await database.delete_one(where, {field: named}), False, given=f"delete_one by {field}")
                own = {"_id": id, "f": 1, field: named}
                await database.insert_one(where, own)
                t.same_document(await database.find_one(where, {"_id": id}), own, f"a document with a field {field}")
                t.same_documents(await database.find_many(where, {field: named}), [own], f"find_many by {field}")
                t.same_document(
                    await theirs.find_one(where, {"_id": others["_id"]}), others, f"the other document, beside one with {field}"
                )
                if tenants:
                    t.same(
                        await theirs.find_one(where, {"_id": id}), None, given=f"tenant A reads what B inserted with A in {field}"
                    )
                await database.update_one(where, {"_id": id}, {"$set": {field: "moved"}})
                t.same_document(await database.find_one(where, {"_id": id}), {**own, field: "moved"}, f"after $set of {field}")
                t.same(
                    await database.delete_one(where, {"_id": id, field: "moved"}), True, given=f"delete_one by _id and {field}"
                )
                t.same_documents(await theirs.find_many(where, {}), [others], "everything after that, for whom it belongs to")

    # nested_paths

    @rule("DB-38", "nested_paths")
    async def test_db_38_no_path_is_set_through_what_is_no_map(self, t: DocumentDatabaseTrial) -> None:
        """A `$set` of a path through something that is no map raises `InvalidArgumentError`, and changes nothing.

        None, a number, a text, a list. Catches the scalar that gives way to a map, and the other fields of the `$set`, which are
        written before the path is looked at.
        """
        database = await t.connect()
        where = t.key()
        update = {"$set": {"f": 1, "a.b.c": 1}}
        for label, document in t.documents(where, {each: MAPS[each] for each in ("null", "scalar", "text", "list")}).items():
            await database.insert_one(where, document)
            await t.check_refused_update(database, where, document, update, f"with a $set of a.b.c, through a {label}")

    # sort_page

    @rule("DB-39", "sort_page", deadline=30)
    async def test_db_39_without_sort_the_order_is_that_of_the_id(self, t: DocumentDatabaseTrial) -> None:
        """Without `sort` documents come in the order of `_id`, which `descending` reverses and `limit` and `offset` slice.

        Past the end there is `[]`. Catches the order of insertion, and pages of documents that come in none.
        """
        database = await t.connect()
        where = t.key()
        documents = t.sortable(where)
        await t.fill(database, where, documents)
        by_id = sorted(documents, key=lambda each: str(each["_id"]))
        cases: tuple[tuple[str, dict[str, Any], list[Document]], ...] = (
            ("no sort", {}, by_id),
            ("descending", {"descending": True}, by_id[::-1]),
            ("a limit", {"limit": 4}, by_id[:4]),
            ("an offset", {"offset": 30}, by_id[30:]),
            ("an offset and a limit", {"offset": 7, "limit": 3}, by_id[7:10]),
            ("far past the end", {"offset": 10**6, "limit": 5}, []),
        )
        for label, keywords, part in cases:
            with t.case(label):
                t.same_documents(await database.find_many(where, {}, **keywords), part, f"find_many with {label}", ordered=True)

    @rule("DB-40", "sort_page", "validation")
    async def test_db_40_a_negative_offset_is_refused(self, t: DocumentDatabaseTrial) -> None:
        """A negative `offset` of `find_many` raises `InvalidArgumentError`.

        Catches the slice that counts from the end.
        """
        database = await t.connect()
        where = t.key()
        await database.insert_one(where, {"_id": t.key()})
        await t.refused(lambda: database.find_many(where, {}, offset=-1), InvalidArgumentError, given="find_many with offset=-1")

    # update_operators

    @rule("DB-41", "update_operators")
    async def test_db_41_operators_do_what_they_say(self, t: DocumentDatabaseTrial) -> None:
        """`$inc` adds a number, `$push` appends one value, `$unset` removes a field, and `$set` does its part beside them.

        A missing field counts as 0, or as an empty list; `$unset` of a missing field is fine. Through paths too, where there is
        `nested_paths`. Catches the list that is pushed as its elements, and the operator that is forgotten beside another.
        """
        database = await t.connect()
        where = t.key()
        document: Document = {"_id": t.key(), "n": 5, "half": 0.5, "l": [1], "truth": True, "null": None, "map": {"a": 1}}
        await database.insert_one(where, {**document, "gone": 1})
        of = {"_id": document["_id"]}
        cases: list[tuple[str, Document, Document]] = [
            ("$unset", {"$unset": {"gone": "", "never": ""}}, {}),
            ("$unset, again", {"$unset": {"gone": "", "never": ""}}, {}),
            ("$inc by a negative number", {"$inc": {"n": -7}}, {"n": -2}),
            ("$inc of an integer by a float", {"$inc": {"n": 0.5}}, {"n": -1.5}),
            ("$inc of a float", {"$inc": {"half": 2}}, {"half": 2.5}),
            ("$inc of missing fields", {"$inc": {"new": 3, "float": 1.5}}, {"new": 3, "float": 1.5}),
            ("$push of a list", {"$push": {"l": [2, {"a": None}]}}, {"l": [1, [2, {"a": None}]]}),
            ("$push to a missing field", {"$push": {"made": None}}, {"made": [None]}),
            (
                "four operators",
                {"$set": {"s": 1}, "$inc": {"i": 1}, "$push": {"p": 1}, "$unset": {"text": ""}},
                {"s": 1, "i": 1, "p": [1]},
            ),
        ]
        if "nested_paths" in t.declared:
            paths = {"$inc": {"map.a": 4, "x.y": 2}, "$push": {"x.z": 1}}
            cases.append(("$inc and $push of paths", paths, {"map": {"a": 5}, "x": {"y": 2, "z": [1]}}))
        for label, update, changed in cases:
            with t.case(label):
                document |= changed
                t.same(await database.update_one(where, of, update), True, given=label)
                t.same_document(await database.find_one(where, of), document, f"the document after {label}")
        t.same(await database.update_one(where, {"_id": t.key()}, {"$inc": {"n": 1}}), False, given="$inc without a match")

    @rule("DB-42", "update_operators")
    async def test_db_42_wrong_operands_are_refused(self, t: DocumentDatabaseTrial) -> None:
        """Two operators on one field, and `$unset` of `_id`, are refused, and change nothing.

        With whatever error where `validation` is not declared, else with `InvalidArgumentError`, as is `$inc` by what is no
        number. Catches `True` that counts as 1, and the operator that wins because it comes last.
        """
        database = await t.connect()
        where = t.key()
        document = {"_id": t.key(), "n": 5, "map": {"a": 1}}
        await database.insert_one(where, document)
        wrong: list[Document] = [{"$set": {"n": 1}, "$inc": {"n": 1}}, {"$unset": {"_id": ""}}]
        if "validation" in t.declared:
            wrong += [{"$inc": {"n": operand}} for operand in ("1", True, None, [1])]
        if "nested_paths" in t.declared:
            wrong.append({"$set": {"map.a": 1}, "$unset": {"map": ""}})
        for update in wrong:
            await t.check_refused_update(database, where, document, update, of_argument=True)

    # revision

    @rule("DB-43", "revision")
    async def test_db_43_a_revision_never_comes_back(self, t: DocumentDatabaseTrial) -> None:
        """Every write gives a document another `_rev`, which no earlier state of it had, not even before it was deleted.

        Catches a hash of the content, and a counter that starts again after a delete.
        """
        database = await t.connect()
        where, id = t.key(), t.key()
        seen: list[str] = []
        for label, rewrite in t.rewrites(database, where, id).items():
            with t.case(label):
                await rewrite()
                made = t.revision(await t.held(database, where, id))
                t.check(made not in seen, given=f"_rev after {label}", expected="one that no state had before", observed=made)
                seen.append(made)

    @rule("DB-44", "revision")
    async def test_db_44_every_read_tells_one_revision(self, t: DocumentDatabaseTrial) -> None:
        """Of one state of a document every operation that reads it tells the same `_rev`.

        Also one whose projection does not name it. Catches an ETag that a listing puts between quotes.
        """
        database = await t.connect()
        where, id = t.key(), t.key()
        document = {"_id": id, "f": 5}
        await database.insert_one(where, document)
        current = t.revision(await t.held(database, where, id))
        reads: dict[str, tuple[str, Call[list[Document]]]] = {
            "find_many": ("", lambda: database.find_many(where, {"_id": id})),
            "find_iter": ("streaming", lambda: drain(database.find_iter(where, {"_id": id}))),
            "a projection": ("projection", lambda: database.find_many(where, {"_id": id}, projection=["f"])),
        }
        for label, read in t.declared_of(reads).items():
            with t.case(label):
                found = await read()
                t.same_documents(found, [document], label)
                t.same(found[0]["_rev"], current, given=f"_rev from {label}, and from find_one")

    @rule("DB-45", "revision")
    async def test_db_45_a_current_revision_lets_anybody_write(self, t: DocumentDatabaseTrial) -> None:
        """A write with the current `_rev` is done, also by a client that did not read it but was told it as text.

        Catches a revision that only the client knows which has read it: a form is filled in with one server and sent to another.
        """
        one, other = await t.clients(2)
        where, id = t.key(), t.key()
        await one.insert_one(where, {"_id": id, "f": 1})
        for name, write in t.conditional_writes(other, where).items():
            with t.case(name):
                passed = "".join(list(t.revision(await t.held(one, where, id))))
                await t.settle()
                t.same(await write({"_id": id, "_rev": passed}), True, given=f"{name} with the current _rev")
                await t.settle()
                left = None if name == "delete_one" else {"_id": id, "f": 9}
                t.same_document(await one.find_one(where, {"_id": id}), left, f"the document after {name} with the current _rev")

    @rule("DB-46", "revision")
    async def test_db_46_a_malformed_revision_is_refused(self, t: DocumentDatabaseTrial) -> None:
        """A write with text that was never given out as a `_rev` is refused, and nothing changes.

        With `ConflictError`, or `InvalidArgumentError` if it cannot be one. Catches the error of `int()`, and of a decoder.
        """
        database = await t.connect()
        where, id = t.key(), t.key()
        await database.insert_one(where, {"_id": id, "f": 1})
        before = await t.held(database, where, id)
        for name, write in t.conditional_writes(database, where).items():
            for malformed in ("", "bad", "9" * 40, "-1", "1.5", "\u00e9"):
                with t.case(f"{name}, {malformed!r}"):
                    await t.refused(
                        partial(write, {"_id": id, "_rev": malformed}),
                        (ConflictError, InvalidArgumentError),
                        given=f"{name} with _rev {malformed!r}",
                    )
        t.same(await database.find_one(where, {"_id": id}), before, given="the document after all that was refused")

    @rule("DB-47", "revision")
    async def test_db_47_a_revision_cannot_be_stored(self, t: DocumentDatabaseTrial) -> None:
        """`_rev` in a document to be stored, or in a `$set`, is refused, and nothing is written.

        With whatever error where `validation` is not declared, else with `InvalidArgumentError`. Catches the document that was
        read, is inserted elsewhere, and has a `_rev` of its own there, or loses it without a word.
        """
        database = await t.connect()
        where, id, absent = t.key(), t.key(), t.key()
        await database.insert_one(where, {"_id": id, "f": 1})
        before = await t.held(database, where, id)
        new, of = {"_id": absent, "f": 2, "_rev": "1"}, {"_id": id}
        calls: dict[str, tuple[str, Call[object]]] = {
            "insert_one": ("", lambda: database.insert_one(where, new)),
            "insert_many": ("batch", lambda: database.insert_many(where, [new])),
            "replace_one": ("upsert", lambda: database.replace_one(where, of, {"f": 2, "_rev": "1"})),
            "$set": ("", lambda: database.update_one(where, of, {"$set": {"f": 2, "_rev": "1"}})),
        }
        for label, call in t.declared_of(calls).items():
            with t.case(label):
                await t.not_taken(call, given=f"{label} of _rev")
                t.same(await database.find_one(where, of), before, given=f"the document after the refused {label}")
                t.same(await database.find_one(where, {"_id": absent}), None, given=f"find_one after the refused {label}")

    # batch

    @rule("DB-48", "batch", deadline=30)
    async def test_db_48_delete_many_removes_every_match(self, t: DocumentDatabaseTrial) -> None:
        """`delete_many` removes every match, however many there are, and no other document, and returns their number.

        Catches the limit of 25 items of a cloud's API, and a count of batches.
        """
        database = await t.connect()
        where, other = t.key(), t.key()
        amount = min(2 * t.numbers().batch_size + 1, LARGEST_AMOUNT)
        documents = [{"_id": f"{where}-{n:05}", "half": n % 2} for n in range(amount)]
        odd = [each for each in documents if each["half"]]
        rest = [each for each in documents if not each["half"]]
        await t.fill(database, where, documents)
        await t.fill(database, other, [{"_id": f"{other}-{n}", "half": n % 2} for n in range(8)])
        t.same(await database.delete_many(where, {"half": 1}), len(odd), given=f"delete_many of {len(odd)} matches")
        t.same_documents(await database.find_many(where, {}), rest, "everything after delete_many of half of it")
        t.same(await database.delete_many(where, {"half": 1}), 0, given="delete_many again")
        t.same(await database.delete_many(where, {}), len(rest), given="delete_many of everything")
        t.same(await database.find_many(where, {}), [], given="find_many after delete_many of everything")
        t.same(len(await database.find_many(other, {})), 8, given="documents in another collection after that")

    # transaction

    @rule("DB-49", "transaction", deadline=60)
    async def test_db_49_no_transaction_is_lost(self, t: DocumentDatabaseTrial) -> None:
        """8 concurrent transactions that each add 1 to what they read add up exactly; one that clashes raises `ConflictError`.

        It is tried again then. Catches the last commit that wins, and a backend's own error of a deadlock.
        """
        one, other = await t.prompt_clients()
        where, id = t.key(), t.key()
        await one.insert_one(where, {"_id": id, "n": -1})

        async def add_one(client: FullDocumentDatabase) -> None:
            async with client.transaction() as inside:
                held = await t.held(inside, where, id)
                await inside.update_one(where, {"_id": id}, {"$set": {"n": held["n"] + 1}})

        await gather(partial(t.retry, partial(add_one, (one, other)[n % 2])) for n in range(8))
        t.same_document(
            await one.find_one(where, {"_id": id}),
            {"_id": id, "n": 7},
            "-1 after 8 concurrent transactions that read it and add 1",
        )

    # upsert

    @rule("DB-50", "upsert")
    async def test_db_50_replace_one_takes_an_id_alone(self, t: DocumentDatabaseTrial) -> None:
        """`replace_one` with a filter of anything but `_id`, or with a document of another `_id`, is refused.

        With whatever error where `validation` is not declared, else with `InvalidArgumentError`; nothing is written. Catches the
        first match that is replaced, and a document that is renamed.
        """
        database = await t.connect()
        where, id, new = t.key(), t.key(), t.key()
        of, before = {"_id": id}, {"_id": id, "kept": True}
        await database.insert_one(where, before)
        cases: tuple[tuple[str, Document, Document], ...] = (
            ("another _id", of, {"_id": new, "f": 1}),
            ("a filter of a field", {"kept": True}, {"f": 1}),
            ("a filter of _id and a field", {"_id": id, "kept": True}, {"f": 1}),
            ("an empty filter", {}, {"f": 1}),
        )
        for label, filter, document in cases:
            with t.case(label):
                call = partial(database.replace_one, where, filter, document, upsert=True)
                await t.not_taken(call, given=f"replace_one, {label}")
                t.same_documents(await database.find_many(where, {}), [before], f"everything after replace_one with {label}")

    @rule("DB-51", "upsert")
    async def test_db_51_concurrent_upserts_do_not_collide(self, t: DocumentDatabaseTrial) -> None:
        """Of 20 concurrent upserts of a new `_id` exactly one says that there was no document, and none fails.

        Catches MongoDB's duplicate key when two upserts meet.
        """
        clients = await t.clients(2)
        where = t.key()
        for _ in range(3):
            contested = {"_id": t.key()}
            tried = await together(
                partial(clients[n % 2].replace_one, where, contested, {"n": n}, upsert=True) for n in range(20)
            )
            results = [each.result() for each in tried]
            t.same(results.count(False), 1, given="how many of 20 concurrent upserts of one _id say that there was none")
            await t.settle()
            t.same(len(await clients[0].find_many(where, contested)), 1, given="documents after 20 concurrent upserts of one _id")


REFUSED = (InvalidArgumentError, UnsupportedError)
"""How a provider says that something is not in its language."""
COLLECTION_BYTES = 48
"""Up to this a name of `a-z 0-9 _ -` is legal everywhere."""
TENANT_FIELDS = ("tenant_id", "_tenant", "tenant", "tenantId")
"""What providers call the field in which they keep a tenant."""
LARGEST_AMOUNT = 2001
"""Documents beyond which no page is looked for."""
MOST_LOOKS = 2000
"""Reads of a reader that waits for a writer to end."""
