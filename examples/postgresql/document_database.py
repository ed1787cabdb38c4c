"""`document_database` on PostgreSQL: a table, `document_database.sql`, with the exact text of a document and its JSONB.

JSONB alone does not do. It keeps `1.0` apart from `1` as long as nobody makes it canonical, but prints `1e+16` as an integer, and
what a Python reader then gets is an `int`. So the text is what is returned, and JSONB what filters look into: its `=` takes 1 for
1.0, and True, 1 and "1" for three values. Its numbers are decimals; `documents.plain` makes a float exact among them.

An update reads a document and writes it only if its revision is still that one, again if it is not. `transaction` is one at
REPEATABLE READ on a connection of its own, in which the server itself finds the clash.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg
from psycopg.pq import TransactionStatus

from examples import servers
from examples.common import arguments
from examples.common.client import Turns
from examples.common.documents import (
    RANGES,
    Condition,
    Dialect,
    Document,
    DocumentClient,
    Filter,
    all_stored,
    dump,
    kind,
    load,
    new_rev,
    plain,
    stale,
)
from examples.postgresql.connections import DENIED, Connection, Connections, connected, connected_now
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError
from omnitck.shared.models import DocumentLimits

__all__ = ["PostgreSQLDocumentDatabase", "create_schema", "make_database"]

Row = tuple[Any, ...]

HERE = "tenant = %(tenant)s AND collection = %(collection)s"

INSERT = """
INSERT INTO documents (tenant, collection, id, rev, body, search)
VALUES (%(tenant)s, %(collection)s, %(id)s, %(rev)s, %(body)s, %(search)s::text::jsonb) ON CONFLICT DO NOTHING RETURNING id
"""

# In the order of their ids, so that two batches cannot wait for each other.
INSERT_MANY = """
INSERT INTO documents (tenant, collection, id, rev, body, search)
SELECT %(tenant)s, %(collection)s, item.id, item.rev, item.body, item.search::jsonb
FROM unnest(%(ids)s::text[], %(revs)s::text[], %(bodies)s::text[], %(searches)s::text[]) AS item (id, rev, body, search)
ORDER BY item.id COLLATE "C"
ON CONFLICT DO NOTHING RETURNING id
"""

UPDATE = f"""
UPDATE documents SET rev = %(rev)s, body = %(body)s, search = %(search)s::text::jsonb WHERE {HERE} AND id = %(id)s
"""

DELETE_MANY = """
WITH doomed AS MATERIALIZED (SELECT id FROM documents WHERE {where} ORDER BY id FOR UPDATE)
DELETE FROM documents USING doomed WHERE tenant = %(tenant)s AND collection = %(collection)s AND documents.id = doomed.id
RETURNING documents.id
"""

# By kind first, None and a missing field being the lowest; then numbers as such, and texts, and whatever else there is.
SORT = "(search -> %(sort)s::text)"
ORDER = [
    f"CASE coalesce(jsonb_typeof({SORT}), 'null') WHEN 'null' THEN 0 WHEN 'boolean' THEN 1 WHEN 'number' THEN 2 "
    f"WHEN 'string' THEN 3 ELSE 4 END",
    f"CASE jsonb_typeof({SORT}) WHEN 'number' THEN ({SORT})::numeric WHEN 'object' THEN ({SORT} ->> '$date')::numeric END",
    f"CASE WHEN jsonb_typeof({SORT}) <> 'number' THEN {SORT} #>> '{{}}' END COLLATE \"C\"",
    "id",
]


class PostgreSQLDocumentDatabase(DocumentClient):
    """Documents in the database at *url*, whose schema `create_schema` made."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "query_operators nested_paths sort_page projection streaming update_operators upsert revision batch transaction "
        "datetime binary int64 lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[DocumentLimits] = DocumentLimits(
        key_bytes=1024, document_bytes=2**20, collection_bytes=255, page_size=100, batch_size=100
    )

    _unavailable = (OSError, TimeoutError, psycopg.Error)
    _denied = DENIED
    _dialect: ClassVar = Dialect(capabilities, limits)

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__()
        self._url = url
        self._tenant = arguments.encode_tenant(tenant_id)
        self._connections = Connections(url)
        self._inside: set[_Inside] = set()
        self._turns = Turns()

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the database at *url*; connections are opened when they are needed."""
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
        """Every document that matches *filter*, as it is at one moment."""
        collection, field = self._dialect.collection(collection), self._dialect.sort(sort, descending, offset)
        where, parameters = _where(self._dialect.filter(filter))
        rows = None if limit is None else self._dialect.count("limit", limit)
        skipped, fields = self._dialect.count("offset", offset), self._dialect.projection(projection)
        down, nulls = (" DESC", "NULLS LAST") if descending else ("", "NULLS FIRST")
        order = ", ".join(f"{each}{down} {nulls}" for each in (ORDER[-1:] if field is None else ORDER))
        statement = f"SELECT rev, body FROM documents WHERE {where} ORDER BY {order} LIMIT %(limit)s OFFSET %(offset)s"
        found = await self._query(
            f"find_many in {collection!r}",
            statement,
            collection=collection,
            sort=field,
            limit=rows,
            offset=skipped,
            **parameters,
        )
        return [self._dialect.shown(load(body), rev, fields) for rev, body in found]

    async def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[Document]:
        """What `find_many` finds; each page starts after the last `_id` of the one before."""
        collection, (where, parameters) = self._dialect.collection(collection), _where(self._dialect.filter(filter))
        size, after = self.limits.page_size, ""
        statement = f"SELECT rev, body, id FROM documents WHERE {where} AND id > %(after)s ORDER BY id LIMIT {size}"
        while True:
            what = f"find_iter in {collection!r}"
            page = await self._query(what, statement, collection=collection, after=after, **parameters)
            for rev, body, _ in page:
                yield self._dialect.shown(load(body), rev)
            if len(page) < size:
                return
            after = page[-1][2]

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store all *documents* that are new: each chunk in one statement, the chunks one after another."""
        self._check_open()
        collection, stored = self._dialect.collection(collection), self._dialect.documents(documents)
        taken: list[str] = []
        for chunk in arguments.chunks(stored, self.limits.batch_size):
            rows, ids = [_row(each) for each in chunk], [each["_id"] for each in chunk]
            columns = {"ids": "id", "revs": "rev", "bodies": "body", "searches": "search"}
            values = {name: [row[column] for row in rows] for name, column in columns.items()}
            fresh = [id for (id,) in await self._query(f"insert_many {ids!r}", INSERT_MANY, collection=collection, **values)]
            for id in ids:
                if id in fresh:
                    fresh.remove(id)  # an id may be there twice in one batch: then one of them is stored
                else:
                    taken.append(id)
        return all_stored(stored, taken)

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Remove every document that matches; how many there were."""
        collection, (where, parameters) = self._dialect.collection(collection), _where(self._dialect.filter(filter))
        statement = DELETE_MANY.format(where=where)
        return len(await self._query(f"delete_many in {collection!r}", statement, collection=collection, **parameters))

    def transaction(self) -> AbstractAsyncContextManager["PostgreSQLDocumentDatabase"]:
        """A transaction of the server; whoever else writes a document that it has written waits for its end."""
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator["PostgreSQLDocumentDatabase"]:
        inside = _Inside(self)
        self._check_open()
        self._inside.add(inside)
        try:
            await inside._query("transaction", "SELECT 1")
            yield inside
            await inside._commit()
        finally:
            # Without COMMIT the server undoes everything when the connection ends.
            self._inside.discard(inside)
            if not self._closed:
                self._start(inside.close())

    async def _insert(self, what: str, collection: str, document: Document) -> bool:
        return bool(await self._query(what, INSERT, collection=collection, **_row(document)))

    async def _replace(self, what: str, collection: str, filter: Filter, change: Callable[[Document], Document] | None) -> bool:
        async def work() -> bool:
            where, parameters = _where(filter)
            while True:
                statement = f"SELECT id, rev, body FROM documents WHERE {where} ORDER BY id LIMIT 1"
                found = await self._execute(statement, collection=collection, **parameters)
                if not found and filter.rev is not None:
                    raise stale(filter.id)
                if not found:
                    return False

                [(id, seen, body)] = found
                row = {"id": id} if change is None else _row(change(load(body)))
                verb = f"DELETE FROM documents WHERE {HERE} AND id = %(id)s" if change is None else UPDATE
                if await self._execute(f"{verb} AND rev = %(seen)s RETURNING id", collection=collection, seen=seen, **row):
                    return True

        async with self._turns.of((collection, filter.id)):
            return await self._call(what, work())

    async def _query(self, what: str, statement: str, **parameters: object) -> list[Row]:
        return await self._call(what, self._execute(statement, **parameters))

    async def _execute(self, statement: str, **parameters: object) -> list[Row]:
        async with self._lease() as connection:
            try:
                cursor = await connection.execute(statement.encode(), {"tenant": self._tenant, **parameters}, binary=True)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                raise ConflictError("another writer was there at the same time") from error
            return await cursor.fetchall() if cursor.description else []

    def _lease(self) -> AbstractAsyncContextManager[Connection]:
        return self._connections.one()

    async def _release(self) -> None:
        for inside in list(self._inside):
            await inside.close()
        await self._connections.close()


class _Inside(PostgreSQLDocumentDatabase):
    """The database of a block, on one connection."""

    def __init__(self, outside: PostgreSQLDocumentDatabase) -> None:
        super().__init__(outside._url)
        self._tenant = outside._tenant
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def _lease(self) -> AsyncIterator[Connection]:
        async with self._turn:
            if self._connection is None:
                self._connection = await connected(self._url)
                await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            yield self._connection

    async def _commit(self) -> None:
        async def work() -> None:
            async with self._lease() as connection:
                if connection.pgconn.transaction_status != TransactionStatus.INTRANS:  # COMMIT would be ROLLBACK, and no error
                    raise ConflictError("an operation of the transaction failed")
            await self._execute("COMMIT")

        await self._call("commit", work())

    async def _release(self) -> None:
        if self._connection is not None:
            self._connection.pgconn.finish()

    def transaction(self) -> AbstractAsyncContextManager[PostgreSQLDocumentDatabase]:
        """Refused."""
        raise InvalidArgumentError("a transaction cannot be opened in another one")


def _search(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


def _row(document: Document) -> dict[str, str]:
    return {"id": document["_id"], "rev": new_rev(), "body": dump(document), "search": _search(document)}


def _where(filter: Filter) -> tuple[str, dict[str, Any]]:
    """The conditions of *filter* in SQL, and their parameters: nothing that a caller gave is ever part of the text."""
    parameters: dict[str, Any] = {}

    def bind(value: Any) -> str:
        name = f"p{len(parameters)}"
        parameters[name] = value
        return f"%({name})s"

    terms = [HERE]
    if filter.id is not None:
        terms.append(f"id = {bind(filter.id)}")
    if filter.rev is not None:
        terms.append(f"rev = {bind(filter.rev)}")
    for condition in filter.conditions:
        # `->` with text finds nothing in a list, and nothing in NULL; `#>` would take "0" for the first item.
        field = f"(search{''.join(f' -> {bind(name)}::text' for name in condition.path)})"
        terms.append(_test(condition, field, bind))
    return " AND ".join(terms), parameters


def _test(condition: Condition, field: str, bind: Callable[[Any], str]) -> str:
    """Whether *field*, NULL if the document does not have it, is as it must be."""
    _, operator, operand = condition
    match operator:
        case "$exists":
            return f"{field} IS {'NOT ' if operand else ''}NULL"
        case "$eq":
            return f"{field} = {bind(_search(operand))}::text::jsonb"
        case "$ne":
            return f"{field} <> {bind(_search(operand))}::text::jsonb"
        case "$in" | "$nin":
            among = f"{field} = ANY({bind([_search(each) for each in operand])}::text[]::jsonb[])"
            return f"({field} IS NOT NULL AND {'NOT ' if operator == '$nin' else ''}{among})"
    if kind(operand) == "number":
        return f"(jsonb_typeof({field}) = 'number' AND {field} {RANGES[operator]} {bind(_search(operand))}::text::jsonb)"
    if kind(operand) == "text":
        text = f"({field} #>> '{{}}') COLLATE \"C\""
        return f"(jsonb_typeof({field}) = 'string' AND {text} {RANGES[operator]} {bind(operand)})"
    return "FALSE"


def create_schema(url: str) -> None:
    """Create what `document_database.sql` describes, unless it is there; several processes may do so at once."""
    with connected_now(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(7236833)")  # CREATE ... IF NOT EXISTS fails in a race
        if connection.execute("SELECT to_regclass('documents')").fetchone() == (None,):
            connection.execute(Path(__file__).with_suffix(".sql").read_bytes())


async def make_database(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> PostgreSQLDocumentDatabase:
    """A client of the example's own server, or of the one at ``OMNITCK_POSTGRES_URL``."""
    url = await servers.connect_info(servers.postgresql, address, prepare=create_schema)
    return await PostgreSQLDocumentDatabase.connect(url, tenant_id=tenant_id)
