"""`document_database`: documents with fields, found by what they hold.

The spelling is MongoDB's, the language is closed: what is not written here is refused, never ignored. The core is five
operations; a capability adds operations, arguments, or more of the language. What the rules know of that language, and the
hostile documents that they try, are in `omnitck.kit.documents`.
"""

import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property, partial
from itertools import count
from typing import Any, ClassVar, Protocol, cast

import anyio.lowlevel

from omnitck.kit.cancellation import sweep
from omnitck.kit.common import LARGEST_TRIED, CommonRules, Lifecycle
from omnitck.kit.concurrency import Call, attempt, drain, gather, together
from omnitck.kit.contract import Plain, rule
from omnitck.kit.documents import (
    ATTACKS,
    COLLECTIONS,
    CORPUS,
    MISSING,
    OPERATORS,
    OUTSIDE,
    SCALARS,
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
from omnitck.kit.text import describe, describe_error
from omnitck.kit.walk import WALK_NAMES
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
      refused, never rounded.
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
        """Store all; their `_id`s in order. An error names the `_id`s that were not stored, and every other one is."""
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


class DocumentDatabaseContract(CommonRules):
    """Certifies a document database."""

    name = "document_database"
    version = "1.0"
    prefix = "DB"
    protocols: ClassVar = {
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
    }
    extra_needs: ClassVar = {"MT-19": frozenset({"revision"}), "MT-22": frozenset({"batch"})}
    without_subject = frozenset({"MT-21"})  # Nothing tells of changes.
    limits_type = DocumentLimits

    @cached_property
    def cells(self) -> DocumentCells:
        return DocumentCells(self)

    # The words in which the rules are written.

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
        self.check(type(observed) is list, given=given, expected="a list", observed=observed)
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

        self.check(type(document.get("_rev")) is str, given="_rev of a document", expected="text", observed=document.get("_rev"))
        return {name: value for name, value in document.items() if name != "_rev"}

    async def fill(self, database: Any, collection: str, documents: Sequence[Document]) -> None:
        """Insert *documents*, in batches if the provider takes such."""
        if "batch" in self.declared:
            for start in range(0, len(documents), 500):
                await database.insert_many(collection, documents[start : start + 500])
            return
        for start in range(0, len(documents), 20):
            await gather(partial(database.insert_one, collection, each) for each in documents[start : start + 20])

    # Documents

    @rule("DB-01")
    async def test_db_01_a_document_comes_back_as_it_was(self) -> None:
        """`find_one` by `_id` returns a document that deeply equals the inserted one, in every type.

        Catches a driver's `Decimal`, `ObjectId` or tuple, `1` for `1.0`, `1` for `True`, and names that are folded or parsed.
        JSONB spells a large float as an integer, DynamoDB has one type of numbers with 38 digits and a smaller range: a provider
        marks what its store cannot tell apart.
        """
        database: Any = await self.connect()
        where, whole = self.key(), self.key()
        for label, value in VALUES.items():
            with self.case(label):
                document = {"_id": self.key(), "f": value}
                self.same(await database.insert_one(where, document), document["_id"], given="the result of insert_one")
                read = await database.find_one(where, {"_id": document["_id"]})
                self.same_document(read, document, f"find_one after insert_one of {label}")
        document = {"_id": whole, **{f"f{number}": value for number, value in enumerate(VALUES.values())}, "caf\u00e9 #1": 1}
        await database.insert_one(where, document)
        self.same_document(await database.find_one(where, {"_id": whole}), document, "find_one of all of these in one document")

    @rule("DB-02")
    async def test_db_02_no_match_is_none(self) -> None:
        """No match is `None` for `find_one` and `[]` for `find_many`, also in a collection that was never used.

        Catches "table does not exist", and an empty document for none.
        """
        database: Any = await self.connect()
        used = self.key()
        await database.insert_one(used, {"_id": self.key(), "f": 1})
        for label, where in (("a collection that was never used", self.key()), ("a collection with another document", used)):
            for filter in ({"_id": self.key()}, {"f": 2}, {"g": 1}):
                with self.case(f"{label}, {describe(filter)}"):
                    self.same(await database.find_one(where, filter), None, given=f"find_one in {label}")
                    self.same(await database.find_many(where, filter), [], given=f"find_many in {label}")
        never = self.key()
        self.same(await database.find_many(never, {}), [], given="find_many of everything in a collection that was never used")
        self.same(await database.update_one(never, {}, {"$set": {"f": 1}}), False, given="update_one there")
        self.same(await database.delete_one(never, {}), False, given="delete_one there")

    @rule("DB-03")
    async def test_db_03_an_id_is_made_up(self) -> None:
        """Without `_id` in the document `insert_one` returns one that is new and text, and leaves the caller's document alone.

        Catches pymongo, which adds `_id` to its argument, and an `ObjectId` or a number for text.
        """
        database: Any = await self.connect()
        where = self.key()
        ids = []
        for _ in range(3):
            document = {"f": [1]}
            id = await database.insert_one(where, document)
            self.check(type(id) is str and id != "", given="insert_one without an _id", expected="an _id, as text", observed=id)
            self.same(document, {"f": [1]}, given="the caller's document after insert_one")
            read = await database.find_one(where, {"_id": id})
            self.same_document(read, {"_id": id, "f": [1]}, "find_one by the _id that insert_one returned")
            ids.append(id)
        self.check(len(set(ids)) == 3, given="three _ids that were made up", expected="three", observed=ids)

    @rule("DB-04")
    async def test_db_04_an_id_is_taken_once(self) -> None:
        """A second insert of an `_id` raises `AlreadyExistsError` and the first document stays; of 20 at once one succeeds.

        Catches an upsert. After a delete the `_id` is free again.
        """
        clients = await self.clients(2)
        database = clients[0]
        where, id, contested = self.key(), self.key(), self.key()
        first = {"_id": id, "f": 1}
        await database.insert_one(where, first)
        await self.refused(
            lambda: database.insert_one(where, {"_id": id, "g": 2}),
            AlreadyExistsError,
            given="insert_one of an _id that is taken",
        )
        self.same_document(await database.find_one(where, {"_id": id}), first, "the first document after the refused insert")
        await database.delete_one(where, {"_id": id})
        await database.insert_one(where, {"_id": id, "g": 3})
        self.same_document(await database.find_one(where, {"_id": id}), {"_id": id, "g": 3}, "insert_one, delete_one, insert_one")
        tried = await together(partial(clients[n % 2].insert_one, where, {"_id": contested, "n": n}) for n in range(20))
        winner = self.one_winner(tried, "20 concurrent inserts of one _id", AlreadyExistsError)
        read = await database.find_one(where, {"_id": contested})
        self.same_document(read, {"_id": contested, "n": winner}, "find_one after 20 concurrent inserts: the winner's document")

    @rule("DB-05", deadline=60)
    async def test_db_05_find_many_finds_all(self) -> None:
        """`find_many` returns all and only the matches as a list, for `{}` too, beyond one page; `limit=0` gives none.

        Catches the first batch of 101 documents, and the page of 1 MB at which DynamoDB stops, of whose documents its filter may
        have left none: only `LastEvaluatedKey` tells that a page is the last. For MongoDB a limit of 0 is none.
        """
        database: Any = await self.connect()
        where, other = self.key(), self.key()
        size = self.numbers().page_size
        amount = min(2 * size + 1, LARGEST_AMOUNT)
        documents = [{"_id": f"{where}-{n:05}", "half": n % 2, "n": n, "pad": "x" * 600} for n in range(amount)]
        await self.fill(database, where, documents)
        await self.fill(database, other, [{"_id": f"{other}-{n}", "half": 0} for n in range(3)])
        given = f"with {amount} documents and a page of {size}"
        self.same_documents(await database.find_many(where, {}), documents, f"find_many of everything, {given}")
        odd = [each for each in documents if each["half"]]
        self.same_documents(await database.find_many(where, {"half": 1}), odd, f"find_many of half of them, {given}")
        self.same_documents(await database.find_many(where, {"n": amount - 1}), documents[-1:], f"find_many of one, {given}")
        for limit in (0, 1, size, size + 1, len(odd), amount + 1):
            with self.case(f"limit={limit}"):
                limited = await database.find_many(where, {"half": 1}, limit=limit)
                ids = {each["_id"] for each in limited}
                self.check(
                    type(limited) is list and len(limited) == len(ids) == min(limit, len(odd)) and ids <= {o["_id"] for o in odd},
                    given=f"find_many of {len(odd)} matches with limit={limit}",
                    expected=f"{min(limit, len(odd))} of them",
                    observed=Plain(f"{len(limited)} documents, {len(ids)} of them different"),
                )

    # Filters

    @rule("DB-06")
    async def test_db_06_all_fields_must_match(self) -> None:
        """A document matches if all fields of the filter are equal; a field that it does not have equals nothing.

        Catches OR in the place of AND, and a filter of which only the first field counts. With `find_one`, `find_many`,
        `update_one` and `delete_one`.
        """
        database: Any = await self.connect()
        where = self.key()
        kinds = {"both": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "other": {"a": 4, "b": 2}, "half": {"a": 1}, "none": {}}
        documents = {label: {"_id": f"{where}-{label}", **fields} for label, fields in kinds.items()}
        await self.fill(database, where, list(documents.values()))
        self.same_documents(await database.find_many(where, {"a": 1, "b": 2}), [documents["both"]], "find_many of a=1 and b=2")
        self.same_document(await database.find_one(where, {"b": 2, "a": 1}), documents["both"], "find_one of b=2 and a=1")
        self.same(await database.find_many(where, {"a": 1, "b": 2, "c": None}), [], given="find_many with a field that none has")
        self.same(await database.find_one(where, {"_id": documents["one"]["_id"], "b": 2}), None, given="an _id with another b")
        self.same(
            await database.update_one(where, {"a": 4, "b": 3}, {"$set": {"c": 1}}), False, given="update_one without a match"
        )
        self.same(await database.delete_one(where, {"a": 4, "b": 3}), False, given="delete_one without a match")
        self.same(await database.delete_one(where, {"a": 1, "b": 2}), True, given="delete_one of a=1 and b=2")
        rest = [each for label, each in documents.items() if label != "both"]
        self.same_documents(await database.find_many(where, {}), rest, "everything after delete_one of a=1 and b=2")

    @rule("DB-07")
    async def test_db_07_none_is_not_a_missing_field(self) -> None:
        """`{"f": None}` matches a document that has None in `f`, and no document without `f`.

        MongoDB matches both, SQL's `= NULL` neither.
        """
        database: Any = await self.connect()
        where = self.key()
        null, missing = {"_id": f"{where}-null", "f": None}, {"_id": f"{where}-missing", "g": None}
        false = {"_id": f"{where}-false", "f": False, "g": 0}
        await self.fill(database, where, [null, missing, false])
        self.same_documents(await database.find_many(where, {"f": None}), [null], 'find_many of {"f": None}')
        self.same_documents(await database.find_many(where, {"g": None}), [missing], 'find_many of {"g": None}')
        self.same(await database.find_one(where, {"h": None}), None, given='find_one of {"h": None}, which no document has')

    @rule("DB-08", deadline=30)
    async def test_db_08_equality_converts_nothing(self) -> None:
        """`1`, `"1"` and `True` are three values, `1` and `1.0` one; texts are equal by code points; no scalar is in a list.

        Every filter over documents of every type, against a plain reading of the language. Catches Python's `True == 1`,
        a collation that folds case, accents or a trailing space, and MongoDB, which looks into lists.
        """
        database: Any = await self.connect()
        await self._check_filters(database, [{"f": each} for each in SCALARS])

    async def _check_filters(self, database: Any, filters: Iterable[Document]) -> None:
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

    @rule("DB-09")
    async def test_db_09_exact_or_refused(self) -> None:
        """What is not in the language comes back exactly or is refused, never rounded, replaced or stringified.

        NaN, infinity, U+0000, a surrogate, a set, a tuple, `2**70`, a name that is no text, `$x`, `a.b`, a naive datetime.
        Catches a pickle, `default=str`, a tuple that becomes a list, and an integer that becomes a double.
        """
        database: Any = await self.connect()
        where = self.key()
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
            with self.case(label):
                id = self.key()
                tried = await attempt(partial(database.insert_one, where, {"_id": id, **fields}))
                if isinstance(tried.error, REFUSED):
                    self.same(await database.find_one(where, {"_id": id}), None, given=f"find_one after {label} was refused")
                    continue

                tried.result()
                read = await database.find_one(where, {"_id": id})
                self.same_document(read, {"_id": id, **fields}, f"a document with {label}, which was not refused")

    # Updates and deletes

    @rule("DB-10")
    async def test_db_10_update_one_sets_the_named_fields(self) -> None:
        """`update_one` sets exactly the named fields of one matching document, new ones too, and returns `True`.

        Catches the replacement of the whole document, an update of every match, and a map that is merged instead of set.
        """
        database: Any = await self.connect()
        where = self.key()
        one = {"_id": f"{where}-1", "group": "g", "keep": [1, {"a": None}], "f": 1, "map": {"x": 1, "y": 2}}
        two = {**one, "_id": f"{where}-2"}
        await self.fill(database, where, [one, two])
        changed = {"f": {"new": [True]}, "added": None, "map": {"x": 3}}
        self.same(
            await database.update_one(where, {"_id": one["_id"]}, {"$set": changed}), True, given="update_one of a document"
        )
        self.same_document(
            await database.find_one(where, {"_id": one["_id"]}),
            {**one, **changed},
            "the document after update_one of three fields",
        )
        self.same_document(await database.find_one(where, {"_id": two["_id"]}), two, "another document after update_one")
        mark = self.token()
        self.same(
            await database.update_one(where, {"group": "g"}, {"$set": {"mark": mark}}), True, given="update_one of two matches"
        )
        marked = await database.find_many(where, {"mark": mark})
        self.same(len(marked), 1, given="the documents that update_one changed, of two that match")
        self.same(
            await database.update_one(where, {"mark": mark}, {"$set": {"mark": mark}}), True, given="update_one to what is there"
        )

    @rule("DB-11")
    async def test_db_11_update_one_creates_nothing(self) -> None:
        """With no match `update_one` returns `False`, and there is no document more than before.

        Catches an upsert, and the number of matches in the place of a truth.
        """
        database: Any = await self.connect()
        where, id = self.key(), self.key()
        for label, filter in {"an _id": {"_id": id}, "a field": {"f": 1}, "nothing": {}}.items():
            with self.case(label):
                self.same(
                    await database.update_one(where, filter, {"$set": {"g": 1}}), False, given=f"update_one by {label}, no match"
                )
                self.same(
                    await database.find_many(where, {}), [], given=f"everything after update_one by {label} without a match"
                )

    @rule("DB-12")
    async def test_db_12_other_updates_are_refused(self) -> None:
        """An update without operator, of `_id`, with an unknown operator, or an empty one is refused, and changes nothing.

        With `InvalidArgumentError`, or `UnsupportedError` for an operator. Catches the update that replaces the whole document.
        """
        database: Any = await self.connect()
        where, id = self.key(), self.key()
        document = {"_id": id, "f": 1, "g": [2]}
        await database.insert_one(where, document)
        for label, update in {
            "no operator": {"f": 2},
            "an operator and a field": {"$set": {"f": 2}, "g": 3},
            "empty": {},
            "an empty $set": {"$set": {}},
            "another _id": {"$set": {"_id": self.key()}},
            "_id beside a field": {"$set": {"f": 2, "_id": self.key()}},
            "$rename": {"$rename": {"f": "h"}},
            "$set and $rename": {"$set": {"f": 2}, "$rename": {"g": "h"}},
            "$setOnInsert": {"$setOnInsert": {"f": 2}},
            "a $set that is no map": {"$set": "f"},
            "a list, which MongoDB takes for a pipeline": [{"$set": {"f": 2}}],
        }.items():
            with self.case(label):
                await self.refused(
                    partial(database.update_one, where, {"_id": id}, update), REFUSED, given=f"update_one with {describe(update)}"
                )
                self.same_document(
                    await database.find_one(where, {"_id": id}), document, f"the document after the refused {label}"
                )

    @rule("DB-13")
    async def test_db_13_delete_one_removes_one(self) -> None:
        """`delete_one` removes exactly one match and returns `True`; without a match it returns `False`.

        Catches a delete of every match.
        """
        database: Any = await self.connect()
        where = self.key()
        documents = [{"_id": f"{where}-{n}", "group": "g" if n < 3 else "h"} for n in range(5)]
        await self.fill(database, where, documents)
        self.same(await database.delete_one(where, {"_id": documents[4]["_id"]}), True, given="delete_one by _id")
        self.same_documents(await database.find_many(where, {}), documents[:4], "everything after delete_one by _id")
        self.same(await database.delete_one(where, {"_id": documents[4]["_id"]}), False, given="delete_one by that _id again")
        for left in (2, 1, 0):
            self.same(await database.delete_one(where, {"group": "g"}), True, given=f"delete_one of {left + 1} matches")
            self.same(len(await database.find_many(where, {"group": "g"})), left, given=f"matches after delete_one of {left + 1}")
        self.same(await database.delete_one(where, {"group": "g"}), False, given="delete_one without a match")
        self.same_documents(await database.find_many(where, {}), documents[3:4], "what never matched, after all that")

    @rule("DB-14")
    async def test_db_14_collections_are_separate(self) -> None:
        """One `_id` lives in two collections; names that differ in anything are two collections, or refused.

        Names of `a-z 0-9 _ -` up to 48 bytes are never refused. Catches one table without a discriminator, a name that is
        folded or cut like an SQL identifier, and one that is part of a path.
        """
        database: Any = await self.connect()
        start, id = self.key(), self.key()
        longest = (start + "-").ljust(COLLECTION_BYTES - 1, "x")
        names = [start + end for end in COLLECTIONS] + [longest + "1", longest + "2"]
        taken = []
        for number, where in enumerate(names):
            with self.case(where.removeprefix(start)):
                tried = await attempt(partial(database.insert_one, where, {"_id": id, "number": number}))
                if not isinstance(tried.error, REFUSED) or set(where) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
                    tried.result()
                    taken.append((number, where))
        for number, where in taken:
            with self.case(where.removeprefix(start)):
                given = f"the collection {describe(where)}, after one document of one _id was put into each"
                self.same_documents(await database.find_many(where, {}), [{"_id": id, "number": number}], given)
        first = taken[0][1]
        await database.update_one(first, {"_id": id}, {"$set": {"changed": True}})
        await database.delete_one(first, {"_id": id})
        for number, where in taken[1:]:
            self.same_document(
                await database.find_one(where, {"_id": id}),
                {"_id": id, "number": number},
                "a document after a delete in another collection",
            )

    @rule("DB-15", deadline=30)
    async def test_db_15_filters_are_not_executed(self) -> None:
        """Quotes, operators and code in a filter are data or refused, never executed.

        `{"pw": {"$ne": ""}}` where a login passes on what it was sent; `' OR 1=1 --`, `$where`, `$expr`. Of operators only those
        that are declared mean anything. In `find_one`, `find_many`, `update_one`, `delete_one`. And what looks so is stored as
        it is: a pipeline of MongoDB reads `"$pw"` as the value of a field.
        """
        database: Any = await self.connect()
        where, id = self.key(), self.key()
        secret = {"_id": id, "user": "u", "pw": self.token()}
        await database.insert_one(where, secret)
        attacks = dict(ATTACKS)
        if "query_operators" not in self.declared:
            attacks |= {operator: {"pw": {operator: ""}} for operator in ("$ne", "$gt", "$gte")}
            attacks |= {"$exists": {"pw": {"$exists": True}}, "$nin": {"pw": {"$nin": []}}}
        calls: dict[str, Callable[[Document], Awaitable[object]]] = {
            "find_one": lambda chosen: database.find_one(where, chosen),
            "find_many": lambda chosen: database.find_many(where, chosen),
            "update_one": lambda chosen: database.update_one(where, chosen, {"$set": {"pw": "stolen"}}),
            "delete_one": lambda chosen: database.delete_one(where, chosen),
        }
        for label, attack in attacks.items():
            with self.case(label):
                for filter in (dict(attack), {"user": "u", **attack}):
                    for method, call in calls.items():
                        tried = await attempt(partial(call, filter))
                        if isinstance(tried.error, REFUSED):
                            continue
                        self.check(
                            tried.result() in (None, [], False),
                            given=f"{method} with the filter {describe(filter)}",
                            expected="no match, or InvalidArgumentError",
                            observed=Plain("it matched a document whose pw is another"),
                        )
                self.same_document(await database.find_one(where, {"_id": id}), secret, f"the document after {label}")
        for text in ("' OR 1=1 --", "$pw", "$$ROOT", '{"$ne": ""}', "\\", "%", "?", ":pw", "$1"):
            with self.case(f"stored, {text}"):
                await database.update_one(where, {"_id": id}, {"$set": {"note": text}})
                expected = {**secret, "note": text}
                self.same_documents(
                    await database.find_many(where, {"note": text}), [expected], f"find_many of {text!r}, as it was set"
                )

    # Concurrency

    @rule("DB-16", deadline=60)
    async def test_db_16_concurrent_updates_all_survive(self) -> None:
        """Concurrent `$set`s of different fields of one document all survive.

        Catches the read, change and write of the whole JSON.
        """
        clients = await self.clients(2)
        where, id = self.key(), self.key()
        await clients[0].insert_one(where, {"_id": id})

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
        await self.settle()
        self.same_document(
            await clients[0].find_one(where, {"_id": id}),
            expected,
            "a document after 10 tasks each set fields of their own in it",
        )

    @rule("DB-17", deadline=60)
    async def test_db_17_an_update_is_seen_whole(self) -> None:
        """A reader never sees part of a `$set` of several fields.

        Catches two statements, and a row for each field.
        """
        writer, reader = await self.clients(2)
        where, id = self.key(), self.key()
        await writer.insert_one(where, {"_id": id, "a": -1, "b": -1, "pad": "x" * 2000, "c": [-1]})
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
                read = await reader.find_one(where, {"_id": id})
                if not (read["a"] == read["b"] == read["c"][0]):
                    torn.append({name: read[name] for name in ("a", "b", "c")})
                if finished:
                    return
                await anyio.lowlevel.checkpoint()

        await gather([write, look, look])
        self.check(
            not torn, given="a document read while a, b and c are set to one number", expected="one number", observed=torn[:3]
        )

    # Limits

    @rule("DB-18", "limits", deadline=30)
    async def test_db_18_the_largest_document_works(self) -> None:
        """A document of exactly `document_bytes` comes back; a longer one is `TooLargeError`, and the old state stays.

        Its bytes are those of its shortest JSON text in UTF-8. Catches the 400 KB of DynamoDB and the error of its own, and a
        limit that counts characters, or the strings alone. Of a limit above 16 MiB only so much is tried.
        """
        database: Any = await self.connect()
        where = self.key()
        limits = self.numbers()
        size = min(limits.document_bytes, LARGEST_TRIED)
        for label, filler in {
            "ASCII": "x",
            "two bytes a character": "\u00e9",
            "many maps": [{"a": n, "b": [None, True, 0.5], "caf\u00e9": "\U0001f511"} for n in range(min(size // 100, 500))],
        }.items():
            with self.case(label):
                id = self.key()
                document: Document = {"_id": id, "f": filler, "pad": ""}
                if isinstance(filler, str):
                    document["f"] = filler * ((size - json_bytes(document)) // len(filler.encode()))
                document["pad"] = "x" * (size - json_bytes(document))
                await database.insert_one(where, document)
                given = f"find_one of a document of {size} bytes, {label}"
                self.same_document(await database.find_one(where, {"_id": id}), document, given)
                if size < limits.document_bytes:
                    continue

                longer = document["pad"] + "x"
                of = {"_id": id}
                calls: dict[str, tuple[str, Call[object]]] = {
                    "insert_one": ("", partial(database.insert_one, where, {**document, "_id": id[:-1] + "X", "pad": longer})),
                    "update_one": ("", partial(database.update_one, where, of, {"$set": {"pad": longer}})),
                    "update_one of a new field": ("", partial(database.update_one, where, of, {"$set": {"g": 0}})),
                    "$push": ("update_operators", partial(database.update_one, where, of, {"$push": {"more": 1}})),
                    "replace_one": ("upsert", partial(database.replace_one, where, of, {**document, "pad": longer})),
                }
                for name, call in self.declared_of(calls).items():
                    with self.case(f"{label}, {name}"):
                        await self.refused(call, TooLargeError, given=f"{name} that makes a document longer than {size} bytes")
                self.same_documents(
                    await database.find_many(where, {"_id": id}), [document], "the document after longer ones were refused"
                )
                await database.delete_one(where, {"_id": id})

    # Types that are capabilities

    @rule("DB-19", "int64")
    async def test_db_19_large_integers_are_exact(self) -> None:
        """Integers from -2**63 to 2**63-1 are exact in documents, filters and `$inc`; beyond they are refused.

        Catches doubles, which round from 2**53 on.
        """
        database: Any = await self.connect()
        where = self.key()
        numbers = (2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**62 + 1, 2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1)
        documents: list[Document] = [
            {"_id": f"{where}-{n}", "f": number, "in": [{"a": number}]} for n, number in enumerate(numbers)
        ]
        await self.fill(database, where, documents)
        for document in documents:
            number = document["f"]
            with self.case(str(number)):
                self.same_documents(await database.find_many(where, {"f": number}), [document], f"find_many of {number}")
                if "query_operators" in self.declared:
                    above = [each for each in documents if each["f"] > number]
                    self.same_documents(
                        await database.find_many(where, {"f": {"$gt": number}}), above, f"find_many above {number}"
                    )
        if "update_operators" in self.declared:
            with self.case("$inc"):
                id = documents[0]["_id"]
                await database.update_one(where, {"_id": id}, {"$inc": {"f": 2**62 - 1}})
                self.same_document(
                    await database.find_one(where, {"_id": id}),
                    {**documents[0], "f": 2**53 + 2**62 - 1},
                    "2**53 after $inc by 2**62 - 1",
                )
                full = documents[6]
                await self.refused(
                    lambda: database.update_one(where, {"_id": full["_id"]}, {"$inc": {"f": 1}}),
                    InvalidArgumentError,
                    given="$inc by 1 of 2**63 - 1",
                )
                self.same_document(
                    await database.find_one(where, {"_id": full["_id"]}), full, "the document after $inc was refused"
                )
        for beyond in (2**63, -(2**63) - 1, 2**70):
            with self.case(str(beyond)):
                await self.refused(
                    partial(database.insert_one, where, {"_id": self.key(), "f": beyond}),
                    REFUSED,
                    given=f"insert_one of {beyond}",
                )

    @rule("DB-20", "datetime")
    async def test_db_20_datetimes_are_instants(self) -> None:
        """An aware datetime comes back as the same instant, aware, in UTC, exact to the millisecond; a naive one is refused.

        Catches a naive datetime, a local one, whole seconds, and text. MongoDB keeps milliseconds, others microseconds.
        """
        database: Any = await self.connect()
        where = self.key()
        moments = {
            "UTC": datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC),
            "an offset": datetime(2024, 7, 1, 0, 15, 0, 7_000, tzinfo=timezone(timedelta(hours=5, minutes=45))),
            "a negative offset": datetime(2023, 12, 31, 23, 59, 59, 999_000, tzinfo=timezone(-timedelta(hours=9, minutes=30))),
            "whole seconds": datetime(2024, 1, 1, tzinfo=UTC),
            "before 1970": datetime(1931, 5, 6, 7, 8, 9, 10_000, tzinfo=UTC),
            "beyond 2038": datetime(2101, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC),
            "the last": datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
            "microseconds": datetime(2024, 1, 31, 1, 2, 3, 123_456, tzinfo=UTC),
        }
        for label, moment in moments.items():
            with self.case(label):
                id = self.key()
                await database.insert_one(where, {"_id": id, "at": moment, "in": {"list": [moment]}})
                read = await database.find_one(where, {"_id": id})
                for found in (read["at"], read["in"]["list"][0]):
                    self.check(
                        isinstance(found, datetime) and found.utcoffset() == timedelta(0),
                        given=f"the datetime {moment.isoformat()}, read back",
                        expected="a datetime in UTC",
                        observed=found,
                    )
                    exact = moment.microsecond % 1000 == 0
                    self.check(
                        found == moment if exact else abs(found - moment) < timedelta(milliseconds=1),
                        given=f"the datetime {moment.isoformat()}, read back",
                        expected=f"{moment.astimezone(UTC).isoformat()}{'' if exact else ', to the millisecond'}",
                        observed=Plain(found.isoformat()),
                    )
                if exact:
                    again = await database.find_many(where, {"at": moment.astimezone(timezone(-timedelta(hours=1)))})
                    self.same(
                        [each["_id"] for each in again], [id], given=f"find_many of {moment.isoformat()}, in another offset"
                    )
        naive = datetime(2024, 1, 31, 12)
        await self.refused(
            lambda: database.insert_one(where, {"_id": self.key(), "at": naive}),
            InvalidArgumentError,
            given="insert_one of a naive datetime",
        )
        await self.refused(
            lambda: database.find_one(where, {"at": naive}), InvalidArgumentError, given="a filter of a naive datetime"
        )

    # The language of the capabilities

    @rule("DB-21", "query_operators", deadline=30)
    async def test_db_21_operators_stay_within_one_type(self) -> None:
        """`$gt` and its like compare numbers with numbers and texts with texts; `$ne` and `$nin` match who has the field.

        `$in: []` matches none, `$exists` tells a missing field from None, several operators must all hold. Every filter over
        documents of every type, against a plain reading of the language. MongoDB's `$ne` and `$nin` match missing fields and look
        into lists, SQL's `NOT IN` of a NULL matches nothing, JSONB orders all types. What is no operator is refused.
        """
        database: Any = await self.connect()
        await self._check_filters(database, [{"f": each} for each in OPERATORS])
        where, id = self.key(), self.key()
        await database.insert_one(where, {"_id": id, "f": 1})
        for label, wrong in {
            "an unknown operator": {"$like": 1},
            "an operator and a field": {"$gt": 0, "g": 1},
            "$in of a number": {"$in": 1},
            "$in of a map": {"$in": [{"a": 1}]},
            "$exists of a number": {"$exists": 1},
            "$gt of a list": {"$gt": [0]},
            "$ne of a map": {"$ne": {"a": 1}},
            "no operator": {},
        }.items():
            with self.case(label):
                await self.refused(
                    partial(database.find_many, where, {"f": wrong}), InvalidArgumentError, given=f"a filter with {label}"
                )
        with self.case("_id"):
            others = [{"_id": f"{id}-{n}", "f": n} for n in range(3)]
            await self.fill(database, where, others)
            some = await database.find_many(
                where, {"_id": {"$in": [others[0]["_id"], others[2]["_id"], "nobody"]}, "f": {"$gt": 0}}
            )
            self.same_documents(some, others[2:], "find_many of three _ids and f above 0")
            self.same(
                await database.update_one(where, {"f": {"$gt": 5}}, {"$set": {"f": 0}}), False, given="update_one, f above 5"
            )
            self.same(await database.delete_one(where, {"f": {"$gte": 2}}), True, given="delete_one, f from 2 on")
            self.same_documents(await database.find_many(where, {"f": {"$lt": 1}}), others[:1], "find_many of f below 1")

    @rule("DB-22", "nested_paths")
    async def test_db_22_paths_go_through_maps(self) -> None:
        """`a.b` is the field `b` of the map `a`, in filters and in `$set`, which makes missing maps and keeps their other fields.

        Through something that is no map a filter matches nothing and a `$set` is `InvalidArgumentError`. Catches a field that is
        called "a.b", a map that is replaced, and MongoDB's paths through lists.
        """
        database: Any = await self.connect()
        where = self.key()
        held: dict[str, Any] = {
            "deep": {"a": {"b": {"c": 1}, "keep": [1]}, "keep": 1},
            "null": {"a": {"b": None}},
            "empty": {"a": {}},
            "scalar": {"a": 1},
            "text": {"a": "b"},
            "list": {"a": [{"b": 1}, {"b": {"c": 1}}]},
            "index": {"a": {"0": {"c": 1}}},
            "nothing": {},
        }
        documents = {label: {"_id": f"{where}-{label}", **fields} for label, fields in held.items()}
        await self.fill(database, where, list(documents.values()))
        for filter in (
            {"a.b.c": 1}, {"a.b": None}, {"a.b": 1}, {"a.0.c": 1}, {"a.0.b": 1}, {"a.1.b.c": 1}, {"a.keep": 1}, {"a": 1},
            {"a.b.c": 1, "keep": 1}, {"a.b.c": 1, "keep": 2}, {"a.b.c.d": 1}, {"b.c": 1},
        ):  # fmt: skip
            with self.case(describe(filter)):
                wanted = [each for each in documents.values() if matches(each, filter)]
                self.same_documents(await database.find_many(where, filter), wanted, f"find_many of {describe(filter)}")
        if "query_operators" in self.declared:
            by_operator: dict[str, Document] = {
                "$exists": {"a.b": {"$exists": True}},
                "$gt": {"a.b.c": {"$gt": 0}},
                "$ne": {"a.b.c": {"$ne": 2}},
            }
            for label, chosen in by_operator.items():
                with self.case(label):
                    expected = [each for each in documents.values() if matches(each, chosen)]
                    self.same_documents(await database.find_many(where, chosen), expected, f"find_many of {describe(chosen)}")
        for label, change, after in (
            ("deep", {"a.b.c": 2}, {"a": {"b": {"c": 2}, "keep": [1]}, "keep": 1}),
            ("deep", {"a.b.d": {"e": 1}, "a.x": None}, {"a": {"b": {"c": 2, "d": {"e": 1}}, "keep": [1], "x": None}, "keep": 1}),
            ("empty", {"a.b.c.d": [1]}, {"a": {"b": {"c": {"d": [1]}}}}),
            ("nothing", {"x.y": 1, "x.z": 2, "top": 3}, {"x": {"y": 1, "z": 2}, "top": 3}),
            ("index", {"a.0.d": 1}, {"a": {"0": {"c": 1, "d": 1}}}),
        ):
            with self.case(f"$set of {describe(change)}"):
                id = documents[label]["_id"]
                self.same(
                    await database.update_one(where, {"_id": id}, {"$set": change}), True, given=f"$set of {describe(change)}"
                )
                self.same_document(
                    await database.find_one(where, {"_id": id}), {"_id": id, **after}, f"after $set of {describe(change)}"
                )
        for label in ("null", "scalar", "text", "list"):
            with self.case(f"$set through {label}"):
                id = documents[label]["_id"]
                await self.refused(
                    partial(database.update_one, where, {"_id": id}, {"$set": {"f": 1, "a.b.c": 1}}),
                    InvalidArgumentError,
                    given=f"$set of a.b.c in {describe(held[label])}",
                )
                self.same_document(
                    await database.find_one(where, {"_id": id}),
                    documents[label],
                    f"the document after $set through {label} was refused",
                )

    @rule("DB-23", "sort_page")
    async def test_db_23_pages_are_slices_of_one_order(self) -> None:
        """`sort` orders by the field, then by `_id`; `limit` and `offset` slice that order, and pages put together are the whole.

        Documents without the field, or with None, come first, numbers by size, texts by code points; `descending` reverses all
        of it. Past the end there is `[]`. Catches ties in the order of the day, a collation, and numbers ordered as text.
        """
        database: Any = await self.connect()
        where = self.key()
        numbers = (MISSING, None, -5, -0.5, 0, 0.5, 1, 1.0, 2, 10, 10, 9, None, MISSING, 2**40, 1e-7)
        texts = (
            MISSING, None, "", "A", "B", "Z", "a", "aa", "b", "b", "\u00e1", "\u00df", "z", "10", "9", "\uffff", "\U00010000",
        )  # fmt: skip
        documents = []
        for kind, values in (("numbers", numbers), ("texts", texts)):
            for number, value in enumerate(values):
                # The _ids run against the order of the values.
                document: Document = {"_id": f"{where}-{kind}-{len(values) - number:02}", "kind": kind}
                documents.append(document if value is MISSING else {**document, "f": value})
        await self.fill(database, where, documents)
        orders = {
            "numbers": [each for each in documents if each["kind"] == "numbers"],
            "texts": [each for each in documents if each["kind"] == "texts"],
        }
        for kind, chosen in orders.items():
            whole = sorted(
                chosen, key=lambda each: (each.get("f") is not None, 0 if each.get("f") is None else each["f"], each["_id"])
            )
            for descending in (False, True):
                expected = whole[::-1] if descending else whole
                find = partial(database.find_many, where, {"kind": kind}, sort="f", descending=descending)
                given = f"find_many of {kind}, sort='f', descending={descending}"
                with self.case(given):
                    self.same_documents(await find(), expected, given, ordered=True)
                    pages = [await find(limit=5, offset=offset) for offset in range(0, len(expected) + 5, 5)]
                    self.same_documents(
                        [each for page in pages for each in page], expected, f"{given}, pages of 5 put together", ordered=True
                    )
        by_id = sorted((each for each in documents), key=lambda each: each["_id"])
        for label, keywords, part in (
            ("no sort", {}, by_id),
            ("descending", {"descending": True}, by_id[::-1]),
            ("sort by _id", {"sort": "_id"}, by_id),
            ("a limit", {"limit": 4}, by_id[:4]),
            ("an offset", {"offset": 30}, by_id[30:]),
            ("an offset and a limit", {"offset": 7, "limit": 3}, by_id[7:10]),
            ("limit=0", {"limit": 0, "sort": "f"}, []),
            ("past the end", {"offset": len(by_id), "sort": "f"}, []),
            ("far past the end", {"offset": 10**6, "limit": 5}, []),
            ("a field that none has", {"sort": "nowhere"}, by_id),
        ):
            with self.case(label):
                self.same_documents(
                    await database.find_many(where, {}, **keywords), part, f"find_many with {label}", ordered=True
                )
        twice = [[each["_id"] for each in await database.find_many(where, {}, sort="f")] for _ in range(2)]
        self.same(twice[1], twice[0], given="the order of documents whose fields are of several types, asked for again")
        await self.refused(
            lambda: database.find_many(where, {}, offset=-1), InvalidArgumentError, given="find_many with offset=-1"
        )

    @rule("DB-24", "projection")
    async def test_db_24_only_the_named_fields_are_returned(self) -> None:
        """`find_one` and `find_many` with a projection return the named fields that a document has, and `_id`.

        Whatever the filter names; an empty projection gives `_id` alone. Catches the fields of the filter that come along, None
        for a missing field, and the projection of a field that is empty or false as if it were not there.
        """
        database: Any = await self.connect()
        where = self.key()
        held: tuple[Document, ...] = ({"a": 1, "b": {"c": [1]}, "d": "x"}, {"a": None, "d": "x"}, {"b": 0, "e": False, "d": "x"})
        documents = [{"_id": f"{where}-{n}", **fields} for n, fields in enumerate(held)]
        await self.fill(database, where, documents)
        for names in ((), ("a",), ("a", "b"), ("_id", "b"), ("e", "nowhere"), ("a", "a")):
            with self.case(describe(names)):
                wanted = [{name: value for name, value in each.items() if name in ("_id", *names)} for each in documents]
                for label, projection in {"a list": list(names), "an iterator": iter(names)}.items():
                    found = await database.find_many(where, {"d": "x"}, projection=projection)
                    self.same_documents(found, wanted, f"find_many with the projection {names}, as {label}")
                one = await database.find_one(where, {"_id": documents[0]["_id"], "d": "x"}, projection=names)
                self.same_document(one, wanted[0], f"find_one with the projection {names}")
        self.same(
            await database.find_one(where, {"a": 7}, projection=["a"]), None, given="find_one with a projection, without a match"
        )
        self.same_documents(await database.find_many(where, {}, projection=None), documents, "find_many with projection=None")

    @rule("DB-25", "update_operators", deadline=60)
    async def test_db_25_operators_change_in_one_step(self) -> None:
        """50 concurrent `$inc`s add up exactly, 50 `$push`es all arrive; on a value of another type both are refused.

        A missing field counts as 0, or as an empty list; `$unset` of a missing field is fine. Catches read and write, and text
        that becomes a number. Two operators on one field are refused.
        """
        clients = await self.clients(2)
        database = clients[0]
        where, id = self.key(), self.key()
        await database.insert_one(where, {"_id": id, "keep": "x"})
        await gather(partial(clients[n % 2].update_one, where, {"_id": id}, {"$inc": {"n": 1}}) for n in range(50))
        await gather(partial(clients[n % 2].update_one, where, {"_id": id}, {"$push": {"l": n}}) for n in range(50))
        read = await database.find_one(where, {"_id": id})
        self.same(read.get("n"), 50, given="n after 50 concurrent $inc by 1")
        self.same(sorted(read.get("l", [])), list(range(50)), given="l after 50 concurrent $push of different numbers")
        document: Document = {
            "_id": self.key(), "n": 5, "half": 0.5, "l": [1], "text": "7", "truth": True, "null": None, "map": {"a": 1},
            "gone": 1,
        }  # fmt: skip
        await database.insert_one(where, document)
        of = {"_id": document["_id"]}
        for label, update, changed in (
            ("$inc by a negative number", {"$inc": {"n": -7}}, {"n": -2}),
            ("$inc of an integer by a float", {"$inc": {"n": 0.5}}, {"n": -1.5}),
            ("$inc of a float", {"$inc": {"half": 2}}, {"half": 2.5}),
            ("$inc of missing fields", {"$inc": {"new": 3, "float": 1.5}}, {"new": 3, "float": 1.5}),
            ("$push of a list", {"$push": {"l": [2, {"a": None}]}}, {"l": [1, [2, {"a": None}]]}),
            ("$push to a missing field", {"$push": {"made": None}}, {"made": [None]}),
            (
                "four operators",
                {"$set": {"s": 1}, "$inc": {"i": 1}, "$push": {"p": 1}, "$unset": {"text2": ""}},
                {"s": 1, "i": 1, "p": [1]},
            ),
        ):
            with self.case(label):
                document |= changed
                self.same(await database.update_one(where, of, update), True, given=label)
                self.same_document(await database.find_one(where, of), document, f"the document after {label}")
        with self.case("$unset"):
            del document["gone"]
            for again in ("", ", again"):
                self.same(
                    await database.update_one(where, of, {"$unset": {"gone": "", "never": ""}}), True, given=f"$unset{again}"
                )
                self.same_document(await database.find_one(where, of), document, f"the document after $unset{again}")
        refusals: list[Document] = [
            *({"$inc": {name: 1}, "$set": {"half": 9}} for name in ("text", "truth", "null", "l", "map")),
            *({"$push": {name: 1}} for name in ("text", "n", "null", "map")),
            *({"$inc": {"n": operand}} for operand in ("1", True, None, [1])),
            {"$set": {"n": 1}, "$inc": {"n": 1}},
            {"$unset": {"_id": ""}},
        ]
        if "nested_paths" in self.declared:
            refusals.append({"$set": {"map.a": 1}, "$unset": {"map": ""}})
            with self.case("paths"):
                await database.update_one(where, of, {"$inc": {"map.a": 4, "x.y": 2}, "$push": {"x.z": 1}})
                document |= {"map": {"a": 5}, "x": {"y": 2, "z": [1]}}
                self.same_document(await database.find_one(where, of), document, "the document after $inc and $push of paths")
        for update in refusals:
            with self.case(describe(update)):
                await self.refused(
                    partial(database.update_one, where, of, update), InvalidArgumentError, given=f"update_one {describe(update)}"
                )
                self.same_document(
                    await database.find_one(where, of), document, f"the document after {describe(update)} was refused"
                )
        self.same(await database.update_one(where, {"_id": self.key()}, {"$inc": {"n": 1}}), False, given="$inc without a match")

    # revision

    @rule("DB-26", "revision")
    async def test_db_26_a_stale_revision_is_refused(self) -> None:
        """A write with a `_rev` that is not current, or of a missing document, raises `ConflictError`, and nothing changes.

        Every write makes another `_rev`, which never comes back, and passes between clients as text. Catches a check that is
        followed by a write, a hash of the content, and a counter that starts again after a delete.
        """
        one, other = await self.clients(2)
        where, id = self.key(), self.key()
        of = {"_id": id}
        seen: list[str] = []

        async def current() -> str:
            read = await one.find_one(where, of)
            self.same_document(read, {name: value for name, value in read.items() if name != "_rev"}, "a document with its _rev")
            return str(read["_rev"])

        async def remake() -> None:
            await one.delete_one(where, of)
            await one.insert_one(where, {"_id": id, "f": 1})

        changes: dict[str, tuple[str, Call[object]]] = {
            "insert_one": ("", lambda: one.insert_one(where, {"_id": id, "f": 1})),
            "update_one": ("", lambda: one.update_one(where, of, {"$set": {"f": 2}})),
            "update_one to what is there": ("", lambda: one.update_one(where, of, {"$set": {"f": 2}})),
            "delete_one and insert_one": ("", remake),
            "replace_one": ("upsert", lambda: one.replace_one(where, of, {"f": 1})),
            "$inc": ("update_operators", lambda: one.update_one(where, of, {"$inc": {"f": 1}})),
        }
        for label, change in self.declared_of(changes).items():
            with self.case(label):
                await change()
                made = await current()
                self.check(made not in seen, given=f"_rev after {label}", expected="one that no state had before", observed=made)
                seen.append(made)
        await self.settle()
        with self.case("another client"):
            passed = "".join(list(seen[-1]))
            self.same(
                await other.update_one(where, {"_id": id, "_rev": passed}, {"$set": {"f": 5}}), True, given="the current _rev"
            )
        reads: dict[str, tuple[str, Call[Any]]] = {
            "find_many": ("", lambda: one.find_many(where, of)),
            "find_iter": ("streaming", lambda: drain(one.find_iter(where, of))),
            "a projection": ("projection", lambda: one.find_many(where, of, projection=["f"])),
        }
        for label, read in self.declared_of(reads).items():
            with self.case(label):
                self.same_documents(await read(), [{"_id": id, "f": 5}], label)
                self.same((await read())[0]["_rev"], await current(), given=f"_rev from {label}, and from find_one")
        before = await one.find_one(where, of)
        absent = self.key()
        writes: dict[str, tuple[str, Callable[[Document], Awaitable[object]]]] = {
            "update_one": ("", lambda chosen: other.update_one(where, chosen, {"$set": {"f": 9}})),
            "delete_one": ("", lambda chosen: other.delete_one(where, chosen)),
            "replace_one": ("upsert", lambda chosen: other.replace_one(where, chosen, {"f": 9})),
        }
        for name, write in self.declared_of(writes).items():
            for stale in seen:
                with self.case(f"{name}, stale"):
                    await self.refused(
                        partial(write, {"_id": id, "_rev": stale}), ConflictError, given=f"{name} with a stale _rev"
                    )
            with self.case(f"{name}, missing"):
                await self.refused(
                    partial(write, {"_id": absent, "_rev": before["_rev"]}),
                    ConflictError,
                    given=f"{name} with a _rev, no document",
                )
                self.same(await one.find_one(where, {"_id": absent}), None, given=f"find_one after the refused {name}")
            for malformed in ("", "bad", "9" * 40, "-1", "1.5", "\u00e9"):
                with self.case(f"{name}, {malformed!r}"):
                    await self.refused(
                        partial(write, {"_id": id, "_rev": malformed}),
                        (ConflictError, InvalidArgumentError),
                        given=f"{name} with _rev {malformed!r}",
                    )
        self.same(await one.find_one(where, of), before, given="the document after all that was refused")
        for label, call in {
            "insert_one": partial(one.insert_one, where, {"_id": absent, "_rev": "1"}),
            "$set": partial(one.update_one, where, of, {"$set": {"_rev": "1"}}),
        }.items():
            with self.case(f"_rev in {label}"):
                await self.refused(call, InvalidArgumentError, given=f"{label} of _rev")
        with self.case("delete_one"):
            self.same(
                await other.delete_one(where, {"_id": id, "_rev": before["_rev"]}), True, given="delete_one with the current _rev"
            )
            self.same(await one.find_one(where, of), None, given="find_one after delete_one with the current _rev")

    @rule("DB-27", "revision", deadline=60)
    async def test_db_27_no_update_is_lost(self) -> None:
        """8 workers that each add 1 by `_rev`, with retries, add up exactly; of 20 writes with one `_rev` one succeeds.

        Catches a check that is followed by a write.
        """
        clients = await self.clients(2)
        where, id = self.key(), self.key()
        await clients[0].insert_one(where, {"_id": id, "n": 0})
        rounds = 6

        async def add_one(client: Any) -> None:
            read = await client.find_one(where, {"_id": id})
            await client.update_one(where, {"_id": id, "_rev": read["_rev"]}, {"$set": {"n": read["n"] + 1}})

        async def worker(client: Any) -> None:
            for _ in range(rounds):
                await self.retry(partial(add_one, client))

        await gather(partial(worker, clients[number % 2]) for number in range(8))
        read = await clients[1].find_one(where, {"_id": id})
        self.same(read["n"], 8 * rounds, given=f"the sum after 8 workers added 1, {rounds} times each")
        of = {"_id": id, "_rev": read["_rev"]}
        tried = await together(partial(clients[n % 2].update_one, where, of, {"$set": {"n": n}}) for n in range(20))
        winner = self.one_winner(tried, "20 concurrent update_one with one _rev")
        self.same((await clients[0].find_one(where, {"_id": id}))["n"], winner, given="the number that the winner wrote")
        of = {"_id": id, "_rev": (await clients[0].find_one(where, {"_id": id}))["_rev"]}
        tried = await together(partial(clients[n % 2].delete_one, where, of) for n in range(20))
        self.one_winner(tried, "20 concurrent delete_one with one _rev")

    # batch

    @rule("DB-28", "batch", deadline=30)
    async def test_db_28_a_batch_says_what_it_did(self) -> None:
        """`insert_many` stores any number and returns their `_id`s in order; its error names exactly those that were not stored.

        `delete_many` removes every match and counts them. Catches the partial success that is reported as success, the batch that
        stops at its first error, and the limit of 25 or 100 items of a cloud's API: DynamoDB's batches know no conditions either,
        and overwrite.
        """
        database: Any = await self.connect()
        where, other = self.key(), self.key()
        amount = min(2 * self.numbers().batch_size + 1, LARGEST_AMOUNT)
        documents = [{"_id": f"{where}-{n:05}", "half": n % 2, "in": [n]} for n in range(amount)]
        ids = await database.insert_many(where, (each for each in documents))
        self.same(ids, [each["_id"] for each in documents], given=f"insert_many of {amount} documents, from a generator")
        self.same_documents(await database.find_many(where, {}), documents, f"everything after insert_many of {amount}")
        with self.case("no documents"):
            self.same(await database.insert_many(where, []), [], given="insert_many of none")
        with self.case("made up _ids"):
            given: list[Document] = [{"f": 1}, {"_id": f"{other}-own", "f": 2}, {"f": 3}]
            made = await database.insert_many(other, given)
            self.same(given[0], {"f": 1}, given="the caller's document after insert_many")
            self.same(made[1:2], [f"{other}-own"], given="the _id of the second of three documents, of which only that has one")
            for id, each in zip(made, given, strict=True):
                self.same_document(
                    await database.find_one(other, {"_id": id}), {**each, "_id": id}, "a document by the _id returned"
                )
        with self.case("an _id that is taken"):
            start = self.key()
            await database.insert_one(other, {"_id": f"{start}-2-", "first": True})
            batch: list[Document] = [{"_id": f"{start}-{n}-", "n": n} for n in range(5)]
            error = await self.refused(
                lambda: database.insert_many(other, batch),
                AlreadyExistsError,
                given="insert_many of 5, one _id of which is taken",
            )
            for each in batch:
                stored = await database.find_one(other, {"_id": each["_id"]})
                expected = {"_id": each["_id"], "first": True} if each["n"] == 2 else each
                self.same_document(stored, expected, "a document after an insert_many with one _id that is taken")
                self.check(
                    (each["_id"] in str(error)) == (each["n"] == 2),
                    given="the error of insert_many",
                    expected="it names the _id that was not stored, and none that was",
                    observed=Plain(describe_error(error)),
                )
        odd = [each for each in documents if each["half"]]
        self.same(await database.delete_many(where, {"half": 1}), len(odd), given=f"delete_many of {len(odd)} matches")
        rest = [each for each in documents if not each["half"]]
        self.same_documents(await database.find_many(where, {}), rest, "everything after delete_many of half of it")
        self.same(await database.delete_many(where, {"half": 1}), 0, given="delete_many again")
        self.same(await database.delete_many(where, {}), len(rest), given="delete_many of everything")
        self.same(await database.find_many(where, {}), [], given="find_many after delete_many of everything")
        self.same(len(await database.find_many(other, {})), 3 + 5, given="documents in another collection after that")

    # transaction

    @rule("DB-29", "transaction", deadline=60)
    async def test_db_29_a_transaction_is_all_or_nothing(self) -> None:
        """What a block does becomes visible together at its end, or not at all if an exception or a cancellation leaves it.

        Its operations see one another; nobody else sees half; a clash is `ConflictError`, and the block is tried again. Catches
        autocommit, a rollback that is left out when a task is cancelled, and two transactions that both add 1 to what they read.
        MongoDB's protocol reports a clash, seldom, to a block that shares no document with another one, and PostgreSQL may when
        its transactions are serializable.
        """
        database, reader = await self.clients(2)
        if self.numbers().staleness:
            reader = database  # Only a client's own writes are visible at once there.
        where, other = self.key(), self.key()
        old = [{"_id": f"{where}-{name}", "n": -1} for name in "abc"]
        a, b, c = ({"_id": each["_id"]} for each in old)
        await self.fill(database, where, old)
        await self._check_rollback(database, where, other, old)
        await self._check_cancelled_blocks(database, reader)
        torn: list[object] = []
        finished = False

        async def set_both(number: int) -> None:
            async with database.transaction() as inside:
                await inside.update_one(where, a, {"$set": {"n": number}})
                await inside.update_one(where, b, {"$set": {"n": number}})

        async def number_of(filter: Document) -> int:
            return int((await reader.find_one(where, filter))["n"])

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
                seen = [await number_of(each) for each in (a, b, a)]
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

        async def add_one(client: Any) -> None:
            async with client.transaction() as inside:
                held = await inside.find_one(where, c)
                await inside.update_one(where, c, {"$set": {"n": held["n"] + 1}})

        await gather(partial(self.retry, partial(add_one, (database, reader)[n % 2])) for n in range(8))
        self.same_document(
            await database.find_one(where, c), {**c, "n": 7}, "-1 after 8 concurrent transactions that read it and add 1"
        )

    async def _check_rollback(self, database: Any, where: str, other: str, old: list[Document]) -> None:
        """A block that is left by an exception leaves nothing; the same block without it does all."""
        new = self.key()
        for fails in (True, False):
            with self.case("an exception" if fails else "no exception"):
                error = LookupError("raised in the block")
                block = partial(self._work_in_block, database, where, other, old, new, error if fails else None)
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

    async def _work_in_block(
        self, database: Any, where: str, other: str, old: list[Document], new: str, error: Exception | None
    ) -> None:
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

    async def _check_cancelled_blocks(self, database: Any, reader: Any) -> None:
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

        async for each in sweep(block):
            there = []
            for document in (*last, last[0]):
                there.append(await reader.find_one(where, {"_id": document["_id"]}) is not None)
            self.check(
                (there == sorted(there) and there[1] == there[2]) or there == [False, False, True],
                given=f"two documents inserted in a transaction that was cancelled at its wait number {each.step + 1}",
                expected="both or none",
                observed=Plain(f"the first: {there[0]}, then the second: {there[1]}, then the first: {there[2]}"),
            )

    # streaming

    @rule("DB-30", "streaming", deadline=60)
    async def test_db_30_an_iteration_can_be_left(self) -> None:
        """`find_iter` yields what `find_many` finds, each once while others come and go; leaving it early frees what it holds.

        Left 200 times. Catches a pool that is exhausted, a cursor that is never closed, and paging by offset.
        """
        database: Any = await self.connect()
        where = self.key()
        size = min(self.numbers().page_size, LARGEST_AMOUNT // 2)
        stay = [{"_id": f"{where}-{n:05}-stay", "kind": "a"} for n in range(2 * size + 1)]
        leave = [{"_id": f"{where}-{n:05}-leave", "kind": "a"} for n in range(min(2 * size + 1, 200))]
        await self.fill(database, where, [*stay, *leave, {"_id": f"{where}-other", "kind": "b"}])
        self.same_documents(
            await drain(database.find_iter(where, {"kind": "a"})), [*stay, *leave], "find_iter of all of one kind"
        )
        self.same(await drain(database.find_iter(where, {"kind": "c"})), [], given="find_iter without a match")
        self.same(await drain(database.find_iter(self.key(), {})), [], given="find_iter of a collection that was never used")
        for _ in range(200):
            tried = await attempt(partial(self._leave_early, database, where))
            if tried.error is not None:
                self.fail_rule(
                    given="find_iter after many iterations were left at their first document",
                    expected="it works as the first one did",
                    observed=describe_error(tried.error),
                    hint="close the cursor and give back the connection when the generator is closed",
                )
        seen = []
        gone = count()
        async with aclosing(database.find_iter(where, {"kind": "a"})) as found:
            async for each in found:
                if each["_id"].endswith("-stay"):
                    seen.append(each["_id"])
                    number = next(gone)
                    if number % 2 == 0 and number < len(leave):
                        await database.delete_one(where, {"_id": leave[number]["_id"]})
                        await database.insert_one(where, {"_id": f"{where}-{number:05}-came", "kind": "c"})
                if len(seen) > len(stay):
                    break
        self.check_listing(
            seen, [each["_id"] for each in stay], "the documents that stayed, seen while others were deleted and inserted"
        )

    async def _leave_early(self, database: Any, where: str) -> None:
        async with aclosing(database.find_iter(where, {"kind": "a"})) as found:
            async for _ in found:
                return

    # upsert

    @rule("DB-31", "upsert")
    async def test_db_31_replace_one_replaces_all_of_it(self) -> None:
        """`replace_one` puts a whole document in the place of that `_id`; without one it stores it only with `upsert`.

        It returns whether there was one; of 20 concurrent upserts of a new `_id` one says no, and none fails. Another `_id`, and
        a filter of anything else, is refused. Catches fields of the old document that stay, and MongoDB's duplicate key when two
        upserts meet.
        """
        clients = await self.clients(2)
        database = clients[0]
        where, id, new = self.key(), self.key(), self.key()
        of = {"_id": id}
        await database.insert_one(where, {"_id": id, "old": 1, "f": {"a": 1}})
        replacements: dict[str, Document] = {"no _id": {"f": {"b": [None]}}, "the same _id": {"_id": id, "g": 1}, "nothing": {}}
        for label, document in replacements.items():
            for upsert in (False, True):
                with self.case(f"a document with {label}, upsert={upsert}"):
                    given = copy.deepcopy(document)
                    self.same(
                        await database.replace_one(where, of, given, upsert=upsert),
                        True,
                        given=f"replace_one by one with {label}",
                    )
                    self.same(given, document, given="the caller's document after replace_one")
                    read = await database.find_one(where, of)
                    self.same_document(read, {**document, "_id": id}, f"after replace_one by a document with {label}")
        self.same(await database.replace_one(where, {"_id": new}, {"f": 1}), False, given="replace_one of a missing document")
        self.same(await database.find_one(where, {"_id": new}), None, given="find_one after replace_one of a missing document")
        self.same(
            await database.replace_one(where, {"_id": new}, {"f": 1}, upsert=True),
            False,
            given="replace_one with upsert, none there",
        )
        self.same_document(await database.find_one(where, {"_id": new}), {"_id": new, "f": 1}, "after replace_one with upsert")
        before = {"_id": id, "kept": True}
        await database.replace_one(where, of, before)
        for label, filter, document in (
            ("another _id", of, {"_id": new, "f": 1}),
            ("a filter of a field", {"kept": True}, {"f": 1}),
            ("a filter of _id and a field", {"_id": id, "kept": True}, {"f": 1}),
            ("an empty filter", {}, {"f": 1}),
        ):
            with self.case(label):
                await self.refused(
                    partial(database.replace_one, where, filter, document, upsert=True),
                    InvalidArgumentError,
                    given=f"replace_one, {label}",
                )
                self.same_document(await database.find_one(where, of), before, f"the document after replace_one with {label}")
        for _ in range(3):
            contested = {"_id": self.key()}
            tried = await together(
                partial(clients[n % 2].replace_one, where, contested, {"n": n}, upsert=True) for n in range(20)
            )
            results = [each.result() for each in tried]
            self.same(results.count(False), 1, given="how many of 20 concurrent upserts of one _id say that there was none")
            self.same(
                len(await database.find_many(where, contested)), 1, given="documents after 20 concurrent upserts of one _id"
            )

    @rule("DB-32", "binary")
    async def test_db_32_bytes_are_kept(self) -> None:
        """`bytes` come back equal and as `bytes`, at any depth; a filter of bytes matches them, and no text.

        Catches base64 that only one side knows of, a driver's type of its own, and bytes that are decoded.
        """
        database: Any = await self.connect()
        where = self.key()
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
        await self.fill(database, where, [*texts, *documents])
        for document in documents:
            with self.case(document["_id"].removeprefix(f"{where}-")):
                self.same_document(await database.find_one(where, {"_id": document["_id"]}), document, "a document with bytes")
                if len(document["f"]) <= 256:
                    found = await database.find_many(where, {"f": document["f"]})
                    self.same_documents(found, [document], f"find_many of {describe(document['f'])}")
        for text in texts:
            self.same_documents(await database.find_many(where, {"f": text["f"]}), [text], f"find_many of the text {text['f']!r}")
        id = documents[2]["_id"]
        await database.update_one(where, {"_id": id}, {"$set": {"f": b"\x00"}})
        self.same_document(await database.find_one(where, {"_id": id}), {**documents[2], "f": b"\x00"}, "after $set of bytes")

    # Everything at once

    @rule("DB-33", deadline=60)
    async def test_db_33_a_random_walk_agrees_with_the_reference(self) -> None:
        """Any sequence of declared operations gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference; a divergence is shortened and shown as Python. Finds what no
        single rule foresaw: the interplay of operations.
        """
        # Imported here: an application's own tests of a provider should not load the model before they need it.
        from omnitck.reference.document_database import MemoryDocumentDatabase, MemoryDocuments

        walked = Walked(await self.connect())

        def names() -> list[str]:
            walked.collection = self.key()
            return [self.key("w") for _ in range(WALK_NAMES)]

        await self.check_walk(
            walked,
            lambda: Walked(MemoryDocumentDatabase(MemoryDocuments(), capabilities=self.declared)),
            random_steps(random.Random(self.seed), self.declared),
            names=names,
            refine=comparable,
            version_of=revision_of,
            subject="database",
        )

    # Arguments

    @rule("DB-34", "validation", deadline=30)
    async def test_db_34_other_values_are_refused_before_any_write(self) -> None:
        """A value or a name of a field that is not in the language raises `InvalidArgumentError`, and nothing is written.

        From every operation that takes a document or an update, and scalars from a filter; what belongs to a capability that is
        not declared may be `UnsupportedError`. Catches the half that is written before the encoder gives up.
        """
        database: Any = await self.connect()
        where, id = self.key(), self.key()
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
            **{each: fields for each, fields in undeclared.items() if each not in self.declared},
        }
        for label, fields in wrong.items():
            new = self.key()
            of = {"_id": id}
            calls: dict[str, tuple[str, Call[object]]] = {
                "insert_one": ("", partial(database.insert_one, where, {"_id": new, "good": 1, **fields})),
                "update_one": ("", partial(database.update_one, where, of, {"$set": {"good": 1, **fields}})),
                "replace_one": ("upsert", partial(database.replace_one, where, of, {"good": 1, **fields}, upsert=True)),
                "insert_many": ("batch", partial(database.insert_many, where, [{"_id": new, "good": 1, **fields}])),
            }
            if "f" in fields:
                push = {"$set": {"good": 1}, "$push": {"list": fields["f"]}}
                calls["$push"] = ("update_operators", partial(database.update_one, where, of, push))
            if label not in ("an empty name", "a name with $") and not isinstance(fields.get("f"), dict | list | tuple | set):
                calls["find_many"] = ("", partial(database.find_many, where, fields))
            for name, call in self.declared_of(calls).items():
                with self.case(f"{name}, {label}"):
                    await self.refused(call, REFUSED, given=f"{name} of {label}")
            self.same_documents(await database.find_many(where, {}), [document], f"everything after {label} was refused")

    @rule("DB-35", "validation")
    async def test_db_35_other_arguments_are_refused(self) -> None:
        """A collection, document, filter, update or limit that is none raises `InvalidArgumentError`, and nothing is written.

        Catches None that becomes the collection "None", a negative limit that counts from the end, and a list of pairs.
        """
        database: Any = await self.connect()
        where, id = self.key(), self.key()
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
                "insert_one": partial(database.insert_one, collection, {"_id": self.key()}),
                "find_one": partial(database.find_one, collection, {}),
                "find_many": partial(database.find_many, collection, {}),
                "update_one": partial(database.update_one, collection, {}, {"$set": {"f": 2}}),
                "delete_one": partial(database.delete_one, collection, {}),
            }.items():
                with self.case(f"{name}, the collection {label!r}"):
                    await self.refused(call, InvalidArgumentError, given=f"{name} with the collection {describe(collection)}")
        for label, call in {
            **{f"limit={limit!r}": partial(database.find_many, where, {}, limit=limit) for limit in (-1, 1.5, "1", True)},
            **{f"the document {each!r}": partial(database.insert_one, where, each) for each in (None, "a", [("_id", "a")], 1)},
            **{f"the filter {each!r}": partial(database.find_many, where, each) for each in (None, id, [("_id", id)])},
            "deleting by None": partial(database.delete_one, where, None),
            "updating by None": partial(database.update_one, where, None, {"$set": {"f": 2}}),
            "the update None": partial(database.update_one, where, {"_id": id}, None),
            "a list in a filter": partial(database.find_many, where, {"f": [1]}),
        }.items():
            with self.case(label):
                await self.refused(call, InvalidArgumentError, given=label)
        self.same_documents(await database.find_many(where, {}), [document], "everything after all that was refused")

    @rule("DB-36", "limits")
    async def test_db_36_the_longest_collection_works(self) -> None:
        """A collection of `collection_bytes` works, two that differ in the last byte are two, and a longer one is refused.

        Catches the identifier that PostgreSQL cuts at 63 bytes.
        """
        database: Any = await self.connect()
        limits = self.numbers()
        longest = self.key().ljust(limits.collection_bytes, "x")
        twin, id = longest[:-1] + "y", self.key()
        await database.insert_one(longest, {"_id": id, "f": 1})
        await database.insert_one(twin, {"_id": id, "f": 2})
        for number, where in enumerate((longest, twin), 1):
            read = await database.find_one(where, {"_id": id})
            self.same_document(
                read, {"_id": id, "f": number}, f"one of two collections whose names of {len(where)} bytes differ in the last"
            )
        for name, call in {
            "insert_one": partial(database.insert_one, longest + "x", {"_id": id}),
            "find_many": partial(database.find_many, longest + "x", {}),
            "delete_one": partial(database.delete_one, longest + "x", {}),
        }.items():
            with self.case(name):
                await self.refused(call, InvalidArgumentError, given=f"{name} with a collection of {len(longest) + 1} bytes")

    @rule("DB-37")
    async def test_db_37_a_tenants_field_is_only_a_field(self) -> None:
        """`tenant_id`, `_tenant`, `tenant` in a document, a filter or a `$set` are data, and choose no tenant.

        They come back as they were given, and are in no document that was given none. Under a policy of tenants, tenant B names
        tenant A in all three. Catches mass assignment: `{"tenant_id": own, **filter}`, which the caller overrides.
        """
        tenants: Any = None
        if any("tenant_id" in each.config for each in self.policies):
            a, b = f"{self.namespace}a", f"{self.namespace}b"
            tenants = await self.connect(tenant_id=a), await self.connect(tenant_id=b)
        theirs, database = tenants or [await self.connect()] * 2
        named = f"{self.namespace}a"
        for field in TENANT_FIELDS:
            with self.case(field):
                where, id, secret = self.key(), self.key(), self.token()
                others = {"_id": f"{id}-other", "f": secret}
                await theirs.insert_one(where, others)
                self.same(
                    await database.find_many(where, {field: named}), [], given=f"find_many of a {field}, which no document has"
                )
                self.same(
                    await database.update_one(where, {field: named}, {"$set": {"f": 1}}), False, given=f"update_one by {field}"
                )
                self.same(await database.delete_one(where, {field: named}), False, given=f"delete_one by {field}")
                own = {"_id": id, "f": 1, field: named}
                await database.insert_one(where, own)
                self.same_document(await database.find_one(where, {"_id": id}), own, f"a document with a field {field}")
                self.same_documents(await database.find_many(where, {field: named}), [own], f"find_many by {field}")
                self.same_document(
                    await theirs.find_one(where, {"_id": others["_id"]}), others, f"the other document, beside one with {field}"
                )
                if tenants:
                    self.same(
                        await theirs.find_one(where, {"_id": id}), None, given=f"tenant A reads what B inserted with A in {field}"
                    )
                await database.update_one(where, {"_id": id}, {"$set": {field: "moved"}})
                self.same_document(await database.find_one(where, {"_id": id}), {**own, field: "moved"}, f"after $set of {field}")
                self.same(
                    await database.delete_one(where, {"_id": id, field: "moved"}), True, given=f"delete_one by _id and {field}"
                )
                self.same_documents(await theirs.find_many(where, {}), [others], "everything after that, for whom it belongs to")


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
