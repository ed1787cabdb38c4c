"""`document_database`: documents with fields, found by what they hold.

The spelling is MongoDB's, the language is closed: what is not written here is refused, never ignored.

- A *document* is a `dict`. Its values are None, `bool`, `int` below 2**53 in size, finite `float`, `str`, and `list` and `dict`
  of such, at most 32 deep. Names of fields are not empty, do not begin with `$`, and hold no `.` and no U+0000; text holds no
  U+0000 and no lone surrogate. `_id` is a `str`, 1 to `limits.key_bytes` bytes of UTF-8. Exact or refused, never rounded.
- A *filter* is a `dict` of fields and scalars, all of which must be equal (an empty one matches everything). A missing field
  equals nothing, None least of all. `1 == 1.0`, but `1`, `"1"` and `True` are three values.
- An *update* is `{"$set": {field: value}}`.
- Names of collections of `a-z 0-9 _ -`, up to `limits.collection_bytes`, are legal everywhere; any other is taken exactly or
  refused. A collection needs no creation: one that was never used is empty.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

__all__ = [
    "Batch",
    "DocumentDatabaseProtocol",
    "Projection",
    "SortPage",
    "Streaming",
    "Transaction",
    "Upsert",
]


class DocumentDatabaseProtocol(Protocol):
    """The core: five operations."""

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


# Capabilities that bring no method but more of the language:
#
# `query_operators`: a filter's value may be a dict of operators, all of which must hold. `$gt`, `$gte`, `$lt` and `$lte` compare
# numbers with numbers and texts with texts (by code point), and match nothing else; `$ne` and `$nin` match only documents that
# have the field; `$in: []` matches none; `$exists` tells a missing field from None.
#
# `nested_paths`: in filters, in `$set` and in other operators, `a.b` is the field `b` of the map `a`; a `$set` makes the maps
# that are missing, and is `InvalidArgumentError` through something that is no map.
#
# `update_operators`: `$unset: {field: ""}`, `$inc: {field: number}` (a missing field counts as 0), `$push: {field: value}` (a
# missing field is an empty list); on a value of another type `InvalidArgumentError`. Two operators on one field are refused.
#
# `revision`: every document that is returned has `_rev`, opaque text, another after each write. A filter of `_id` and `_rev` in
# `update_one`, `delete_one` and `replace_one` writes only if it is current, else, or if the document is missing,
# `ConflictError`. `_rev` in a document to be stored is `InvalidArgumentError`.
#
# `datetime`: aware `datetime` values, which come back in UTC, exact to the millisecond at least; naive ones are refused.
# `binary`: `bytes` values. `int64`: integers from -2**63 to 2**63-1.


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
        """Only the fields named in *projection*, and `_id`."""
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
        """What `find_many` finds, without holding all of it. Leaving early frees what it holds."""
        ...


class Upsert(Protocol):
    """Capability `upsert`."""

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        """Put *document* in the place of the one with the `_id` of *filter*, which names that alone; whether there was one.

        With *upsert* it is stored in any case. An `_id` in *document* must be the same one.
        """
        ...


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
        nothing is done then."""
        ...
