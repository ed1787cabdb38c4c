"""`document_database` on SecantusDB, through pymongo's `AsyncMongoClient`.

It is certified on SecantusDB, which speaks MongoDB's protocol and is not MongoDB.

Each collection of a tenant is one of the server's, in which the document is the map `body` beside its revision: so nothing that a
caller names is a name for the server. MongoDB's filters are wider than the standard's. ``{a: null}``
matches a missing field, ``{a: 1}`` a list that holds 1, ``{"a.b": 1}`` a list of maps; each condition therefore asks that the
field is there, and that nothing on its way is a list.

An update reads a document and replaces it only if its revision is still that one, again if it is not: `$set` would write into a
list through ``a.0``, and judge the size of the document only against the server's own limit. Datetimes have milliseconds.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Self, TypeVar

import pymongo
from bson import Binary, Int64
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError

from examples import servers
from examples.common import arguments
from examples.common.client import Client, Turns
from examples.common.documents import RANGES, Dialect, Document, DocumentClient, Filter, all_stored, kind, new_rev, stale
from omnitck.shared.exceptions import AlreadyExistsError, ConflictError, InvalidArgumentError
from omnitck.shared.models import DocumentLimits

__all__ = ["SecantusDBDocumentDatabase", "make_database"]

T = TypeVar("T")

DATABASE = "omnitck"
PATIENT = 60_000  # milliseconds: `Client` has the time limit that counts
DUPLICATE, WRITE_CONFLICT = 11000, 112
LIST: Document = {"$type": "array"}


class SecantusDBDocumentDatabase(DocumentClient):
    """Documents in the server at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "query_operators nested_paths sort_page projection streaming update_operators upsert revision batch transaction "
        "datetime binary int64 lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[DocumentLimits] = DocumentLimits(
        key_bytes=512, document_bytes=2**20, collection_bytes=255, page_size=100, batch_size=100
    )

    _unavailable = (OSError, TimeoutError, PyMongoError)
    _dialect: ClassVar = Dialect(capabilities, limits)

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__()
        self._tenant = Binary(arguments.encode_tenant(tenant_id))
        self._mongo: AsyncMongoClient[Document] = AsyncMongoClient(
            url,
            tz_aware=True,
            maxPoolSize=4,
            retryReads=False,
            retryWrites=False,
            serverSelectionTimeoutMS=2000,
            connectTimeoutMS=2000,
            waitQueueTimeoutMS=PATIENT,
        )
        self._session: AsyncClientSession | None = None
        self._turns = Turns()

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

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
    ) -> list[Document]:
        """Every document that matches *filter*."""
        collection, field = self._dialect.collection(collection), self._dialect.sort(sort, descending, offset)
        where = self._where(self._dialect.filter(filter))
        rows = None if limit is None else self._dialect.count("limit", limit)
        skipped, fields = self._dialect.count("offset", offset), self._dialect.projection(projection)
        if rows == 0:  # which is no limit to the server
            self._check_open()
            return []

        down = pymongo.DESCENDING if descending else pymongo.ASCENDING
        order = [*([] if field is None else [(f"body.{field}", down)]), ("_id", down)]

        async def work() -> list[Document]:
            cursor = self._documents(collection).find(where, session=self._session, sort=order, skip=skipped, limit=rows or 0)
            async with cursor:
                return await cursor.to_list()

        found = await self._call(f"find_many in {collection!r}", work())
        return [self._dialect.shown(_natural(each["body"]), each["rev"], fields) for each in found]

    async def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[Document]:
        """What `find_many` finds; each page starts after the last `_id` of the one before, so that no cursor stays open."""
        collection, size, after = self._dialect.collection(collection), self.limits.page_size, ""
        where = self._where(self._dialect.filter(filter))
        while True:

            async def work(after: str = after) -> list[Document]:
                cursor = self._documents(collection).find(
                    {"_id": {"$gt": after}, "$and": [where]}, session=self._session, sort=[("_id", 1)], limit=size
                )
                async with cursor:
                    return await cursor.to_list()

            page = await self._call(f"find_iter in {collection!r}", work())
            for each in page:
                yield self._dialect.shown(_natural(each["body"]), each["rev"])
            if len(page) < size:
                return
            after = page[-1]["_id"]

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store all *documents* that are new: each chunk in one request, the chunks one after another."""
        self._check_open()
        collection, stored = self._dialect.collection(collection), self._dialect.documents(documents)
        taken: list[str] = []
        for chunk in arguments.chunks(stored, self.limits.batch_size):

            async def work(chunk: list[Document] = chunk) -> list[str]:
                records = [self._record(each) for each in chunk]
                try:
                    await self._documents(collection).insert_many(records, ordered=False, session=self._session)
                except BulkWriteError as error:
                    problems = (error.details or {}).get("writeErrors", [])
                    if not problems or any(each["code"] != DUPLICATE for each in problems):
                        raise
                    return [chunk[each["index"]]["_id"] for each in problems]
                return []

            taken += await self._call(f"insert_many {[each['_id'] for each in chunk]!r}", self._translated(work))
        return all_stored(stored, taken)

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Remove every document that matches; how many there were."""
        collection = self._dialect.collection(collection)
        where = self._where(self._dialect.filter(filter))

        async def work() -> int:
            return (await self._documents(collection).delete_many(where, session=self._session)).deleted_count

        return await self._call(f"delete_many in {collection!r}", self._translated(work))

    def transaction(self) -> AbstractAsyncContextManager["SecantusDBDocumentDatabase"]:
        """A transaction of the server, on a snapshot."""
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator["SecantusDBDocumentDatabase"]:
        self._check_open()
        session = self._mongo.start_session()
        await session.start_transaction()
        inside = _Inside(self, session)
        try:
            yield inside
            await self._call("commit", self._translated(inside._commit))
        finally:
            inside._closed = True
            if not self._closed:
                self._start(_end(session))

    def _documents(self, collection: str) -> AsyncCollection[Document]:
        """Where the server has *collection*: a hash, because a name has to be short there, and knows no tenant."""
        name = hashlib.sha256(f"{self._tenant.hex()}\0{collection}".encode()).hexdigest()
        return self._mongo[DATABASE][f"documents-{name}"]

    async def _insert(self, what: str, collection: str, document: Document) -> bool:
        async def work() -> bool:
            try:
                await self._documents(collection).insert_one(self._record(document), session=self._session)
            except DuplicateKeyError:
                return False
            return True

        return await self._call(what, self._translated(work))

    async def _replace(self, what: str, collection: str, filter: Filter, change: Callable[[Document], Document] | None) -> bool:
        where = self._where(filter)

        async def work() -> bool:
            while True:
                found = await self._documents(collection).find_one(where, session=self._session, sort=[("_id", 1)])
                if found is None and filter.rev is not None:
                    raise stale(filter.id)
                if found is None:
                    return False

                seen = {"_id": found["_id"], "rev": found["rev"]}
                if change is None:
                    done = (await self._documents(collection).delete_one(seen, session=self._session)).deleted_count
                else:
                    after = self._record(change(_natural(found["body"])))
                    done = (await self._documents(collection).replace_one(seen, after, session=self._session)).matched_count
                if done:
                    return True

        async with self._turns.of((collection, filter.id)):
            return await self._call(what, self._translated(work))

    @staticmethod
    def _record(document: Document) -> Document:
        """What is stored."""
        return {"_id": document["_id"], "rev": new_rev(), "body": document}

    @staticmethod
    def _where(filter: Filter) -> Document:
        """The filter for the server. SecantusDB uses the index of `_id` only if that is what the filter begins with."""
        where: Document = {}
        if filter.id is not None:
            where["_id"] = filter.id
        if filter.rev is not None:
            where["rev"] = filter.rev
        choices: list[Document] = []
        for condition in filter.conditions:
            names = ["body", *condition.path]
            field, lists = ".".join(names), [".".join(names[:n]) for n in range(2, len(names))]
            if condition.operator == "$exists" and condition.operand is False:
                choices.append({"$or": [{field: {"$exists": False}}, *({each: LIST} for each in lists)]})
                continue

            for each in lists:
                where.setdefault(each, {})["$not"] = LIST
            if condition.operator in ("$ne", "$nin"):
                there = {field: {condition.operator: condition.operand, "$exists": True}}
                choices.append({"$or": [{field: LIST}, there]})
            elif condition.operator == "$exists":
                where.setdefault(field, {})["$exists"] = True
            elif condition.operator in RANGES and kind(condition.operand) not in ("number", "text"):
                choices.append({"$nor": [{}]})
            else:
                test = {condition.operator: condition.operand, "$exists": True, "$not": LIST}
                where.setdefault(field, {}).update(test)
        return {**where, "$and": choices} if choices else where

    @staticmethod
    async def _translated(work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except PyMongoError as error:
            code = getattr(error, "code", None)
            clash = code == WRITE_CONFLICT or error.has_error_label("TransientTransactionError")
            if clash and isinstance(error, OperationFailure):
                raise ConflictError("another writer was there at the same time") from error
            raise

    async def _release(self) -> None:
        await self._mongo.close()


class _Inside(SecantusDBDocumentDatabase):
    """The database of a block: one session, which takes its operations one after another."""

    def __init__(self, outside: SecantusDBDocumentDatabase, session: AsyncClientSession) -> None:
        Client.__init__(self)
        self._outside, self._session, self._tenant, self._mongo = outside, session, outside._tenant, outside._mongo
        self._turns, self._turn = Turns(), asyncio.Lock()
        self._failed = False

    async def _call(self, what: str, work: Any) -> Any:
        async with self._turn:
            if self._closed:
                work.close()
                self._check_open()
            try:
                return await self._outside._call(what, work)
            except ConflictError as error:
                self._failed = self._failed or not isinstance(error, AlreadyExistsError)
                raise

    async def _commit(self) -> None:
        if self._failed:
            raise ConflictError("an operation of the transaction failed")
        assert self._session is not None
        await self._session.commit_transaction()

    async def _release(self) -> None: ...

    def transaction(self) -> AbstractAsyncContextManager[SecantusDBDocumentDatabase]:
        """Refused."""
        raise InvalidArgumentError("a transaction cannot be opened in another one")


async def _end(session: AsyncClientSession) -> None:
    """Undo what was not committed."""
    with contextlib.suppress(PyMongoError):
        await session.end_session()


def _natural(value: Any) -> Any:
    """*value* without the driver's own types."""
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, list):
        return [_natural(each) for each in value]
    if isinstance(value, dict):
        return {name: _natural(each) for name, each in value.items()}
    return value


async def make_database(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> SecantusDBDocumentDatabase:
    """A client of the example's own server, or of the one at ``OMNITCK_MONGODB_URL``."""
    url = await servers.connect_info(servers.secantusdb, address)
    return await SecantusDBDocumentDatabase.connect(url, tenant_id=tenant_id)
