"""`document_database` on SQLite: JSON text in a table, filters in SQL.

A field is found with `json_each` and its name, not with a path: before SQLite 3.45 no path leads to a name with a quotation mark
in it. `type` keeps True, 1 and "1" apart, and SQLite compares integers with floats exactly. Datetimes and bytes are maps of one
field that begins with ``$``, which no document's own field does.

A filter and its update are one transaction that holds the write lock from its start, so that nothing is lost. `transaction` has a
connection of its own: other clients, and the operations outside of the block, read what was there before, and wait to write.

`availability` is not declared: there is no server to lose.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar

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
    scalar,
    stale,
)
from examples.sqlite.connections import Connection, Row, SQLiteClient, folder, open_file
from omnitck.shared.exceptions import InvalidArgumentError, UnavailableError, UnsupportedError
from omnitck.shared.models import DocumentLimits

__all__ = ["SQLiteDocumentDatabase", "make_database"]

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    tenant BLOB NOT NULL,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    rev TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (tenant, collection, id)
)
"""

HERE = "tenant = :tenant AND collection = :collection"
# The tenant is a column of every condition, never a field of the document.

INSERT = """
INSERT INTO documents (tenant, collection, id, rev, body) VALUES (:tenant, :collection, :id, :rev, :body)
ON CONFLICT DO NOTHING RETURNING rev
"""
UPDATE = f"UPDATE documents SET rev = :rev, body = :body WHERE {HERE} AND id = :id"

# By kind first, None and a missing field being the lowest; a datetime is its number.
ORDER = """
(SELECT CASE type WHEN 'null' THEN 0 WHEN 'false' THEN 1 WHEN 'true' THEN 1 WHEN 'integer' THEN 2 WHEN 'real' THEN 2
    WHEN 'text' THEN 3 WHEN 'object' THEN 4 ELSE 5 END FROM json_each(body) WHERE key = :sort AND type <> 'null'){down},
(SELECT CASE type WHEN 'object' THEN coalesce(json_extract(value, '$."$date"'), value) WHEN 'array' THEN value ELSE atom END
    FROM json_each(body) WHERE key = :sort){down}
"""


class SQLiteDocumentDatabase(SQLiteClient, DocumentClient):
    """Documents in one SQLite file; processes and threads may share it."""

    schema = (SCHEMA,)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        "query_operators nested_paths sort_page projection streaming update_operators upsert revision batch transaction "
        "datetime binary int64 lifecycle validation shared limits".split()
    )
    limits: ClassVar[DocumentLimits] = DocumentLimits(
        key_bytes=1024, document_bytes=2**20, collection_bytes=255, page_size=100, batch_size=100
    )

    _dialect: ClassVar = Dialect(capabilities, limits)

    def __init__(self, connection: Connection, tenant_id: str | None = None) -> None:
        super().__init__(connection, tenant_id)
        self._inside: set[SQLiteDocumentDatabase] = set()

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
        rows = -1 if limit is None else self._dialect.count("limit", limit)
        skipped, fields = self._dialect.count("offset", offset), self._dialect.projection(projection)
        down = " DESC" if descending else ""
        order = f"{ORDER.format(down=down)}, id{down}" if field is not None else f"id{down}"
        sql = f"SELECT rev, body FROM documents WHERE {where} ORDER BY {order} LIMIT :limit OFFSET :offset"
        found = await self._call(
            f"find_many in {collection!r}",
            self._read(sql, collection=collection, sort=field, limit=rows, offset=skipped, **parameters),
        )
        return [self._dialect.shown(load(body), rev, fields) for rev, body in found]

    async def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[Document]:
        """What `find_many` finds; each page starts after the last `_id` of the one before."""
        collection, (where, parameters) = self._dialect.collection(collection), _where(self._dialect.filter(filter))
        size, after = self.limits.page_size, ""
        sql = f"SELECT rev, body, id FROM documents WHERE {where} AND id > :after ORDER BY id LIMIT {size}"
        while True:
            page = await self._call(
                f"find_iter in {collection!r}", self._read(sql, collection=collection, after=after, **parameters)
            )
            for rev, body, _ in page:
                yield self._dialect.shown(load(body), rev)
            if len(page) < size:
                return
            after = page[-1][2]

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store all *documents* that are new: each chunk in one transaction, the chunks one after another."""
        self._check_open()
        collection, stored = self._dialect.collection(collection), self._dialect.documents(documents)
        taken: list[str] = []
        for start in range(0, len(stored), self.limits.batch_size):
            chunk = stored[start : start + self.limits.batch_size]

            def work(chunk: list[Document] = chunk) -> list[str]:
                rows = [_row(each) for each in chunk]
                return [row["id"] for row in rows if not self._execute(INSERT, collection=collection, **row)]

            taken += await self._call(f"insert_many {[each['_id'] for each in chunk]!r}", self._transaction(work))
        return all_stored(stored, taken)

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Remove every document that matches; how many there were."""
        collection, (where, parameters) = self._dialect.collection(collection), _where(self._dialect.filter(filter))
        sql = f"DELETE FROM documents WHERE {where} RETURNING NULL"
        return len(await self._call(f"delete_many in {collection!r}", self._write(sql, collection=collection, **parameters)))

    def transaction(self) -> AbstractAsyncContextManager["SQLiteDocumentDatabase"]:
        """A block that has the write lock of the file all the time: it never meets a conflict, and should be short."""
        return self._transact()

    @contextlib.asynccontextmanager
    async def _transact(self) -> AsyncIterator["SQLiteDocumentDatabase"]:
        inside = await self._call("transaction", self._open_inside())
        try:
            await inside._call("begin", inside.begin())
            yield inside
            await inside._call("commit", inside._write("COMMIT"))
        finally:
            # Whatever was not committed goes with the connection, which takes its orders in turn.
            if self._inside and inside in self._inside:
                self._start(self._close_inside(inside))

    async def _open_inside(self) -> "_Inside":
        inside = _Inside(await open_file(await self._path()), None)
        inside._tenant = self._tenant
        self._inside.add(inside)
        return inside

    async def _close_inside(self, inside: "SQLiteDocumentDatabase") -> None:
        await inside.close()
        self._inside.discard(inside)

    async def _path(self) -> str:
        [(path,)] = await self._read("SELECT file FROM pragma_database_list WHERE name = 'main'")
        return str(path)

    async def _insert(self, what: str, collection: str, document: Document) -> bool:
        return bool(await self._call(what, self._write(INSERT, collection=collection, **_row(document))))

    async def _replace(self, what: str, collection: str, filter: Filter, change: Callable[[Document], Document] | None) -> bool:
        def work() -> bool:
            found = self._first(collection, filter)
            if found is None:
                return False
            if change is None:
                self._execute(f"DELETE FROM documents WHERE {HERE} AND id = :id", collection=collection, id=found["_id"])
            else:
                self._execute(UPDATE, collection=collection, **_row(change(found)))
            return True

        return await self._call(what, self._transaction(work))

    def _first(self, collection: str, filter: Filter) -> Document | None:
        """The first match, within a transaction."""
        where, parameters = _where(filter)
        sql = f"SELECT body FROM documents WHERE {where} ORDER BY id LIMIT 1"
        rows = self._execute(sql, collection=collection, **parameters)
        if not rows and filter.rev is not None:
            raise stale(filter.id)
        return load(rows[0][0]) if rows else None

    async def _release(self) -> None:
        for inside in list(self._inside):
            await self._close_inside(inside)
        await super()._release()


class _Inside(SQLiteDocumentDatabase):
    """The database of a block: its connection is in a transaction already, and a step that fails has changed nothing.

    Unless it is the disk that fails: then SQLite may undo the whole transaction, and would take each later statement for one of
    its own.
    """

    def __init__(self, connection: Connection, tenant_id: str | None = None) -> None:
        super().__init__(connection, tenant_id)
        self._begun = False

    async def begin(self) -> None:
        """Take the write lock. This connection's turn ends with that: the lock keeps all others out until the block ends."""
        await super()._write("BEGIN IMMEDIATE")
        self._begun = True

    async def _write(self, sql: str, **parameters: object) -> list[Row]:
        return await self._connection.order(lambda: self._execute(sql, **parameters))

    async def _transaction(self, work: Callable[[], T]) -> T:
        return await self._connection.order(work)

    def _execute(self, sql: str, **parameters: object) -> list[Row]:
        if self._begun and not self._connection.in_transaction:
            raise UnavailableError("the disk failed within the transaction, all of which is undone")
        return super()._execute(sql, **parameters)

    def transaction(self) -> AbstractAsyncContextManager[SQLiteDocumentDatabase]:
        """Refused."""
        raise InvalidArgumentError("a transaction cannot be opened in another one")


def _row(document: Document) -> dict[str, str]:
    return {"id": document["_id"], "rev": new_rev(), "body": dump(document)}


def _where(filter: Filter) -> tuple[str, dict[str, Any]]:
    """The conditions of *filter* in SQL, and their parameters: nothing that a caller gave is ever part of the text."""
    parameters: dict[str, Any] = {}

    def bind(value: Any) -> str:
        name = f"p{len(parameters)}"
        parameters[name] = value
        return f":{name}"

    terms = [HERE]
    if filter.id is not None:
        terms.append(f"id = {bind(filter.id)}")
    if filter.rev is not None:
        terms.append(f"rev = {bind(filter.rev)}")
    for condition in filter.conditions:
        *parents, _ = range(len(condition.path))
        sources = ["json_each(documents.body) AS f0"]
        sources += [f"json_each(CASE f{n}.type WHEN 'object' THEN f{n}.value ELSE '{{}}' END) AS f{n + 1}" for n in parents]
        names = [f"f{n}.key = {bind(name)}" for n, name in enumerate(condition.path)]
        last = f"f{len(parents)}"
        absent = "NOT " if condition.operator == "$exists" and condition.operand is False else ""
        tests = " AND ".join([*names, _test(condition, last, bind)])
        terms.append(f"{absent}EXISTS (SELECT 1 FROM {', '.join(sources)} WHERE {tests})")
    return " AND ".join(terms), parameters


def _test(condition: Condition, field: str, bind: Any) -> str:
    """Whether the value in *field* is as it must be."""
    _, operator, operand = condition
    if operator == "$exists":
        return "1"
    if operator in RANGES:
        if kind(operand) not in TYPES:
            return "0"
        return f"{field}.type IN {TYPES[kind(operand)]} AND {field}.atom {RANGES[operator]} {bind(operand)}"

    values = operand if operator in ("$in", "$nin") else [operand]
    equal = " OR ".join(_equals(values, field, bind)) or "0"
    return f"NOT ({equal})" if operator in ("$ne", "$nin") else f"({equal})"


TYPES = {"number": "('integer', 'real')", "text": "('text')"}


def _equals(values: Iterable[Any], field: str, bind: Any) -> list[str]:
    """One test for each kind among *values*, however many they are: SQLite limits the size of an expression."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(kind(value), []).append(value)
    tests = []
    for each, same in kinds.items():
        if each == "null":
            tests.append(f"{field}.type = 'null'")
        elif each == "bool":
            tests += [f"{field}.type = '{str(value).lower()}'" for value in set(same)]
        elif each in TYPES:
            given = bind(dump({"values": same}))
            chosen = f"SELECT value FROM json_each({given}, '$.values')"
            tests.append(f"{field}.type IN {TYPES[each]} AND {field}.atom IN ({chosen})")
        else:
            given = bind(dump({"values": [dump(scalar(value)) for value in same]}))
            tests.append(f"{field}.type = 'object' AND {field}.value IN (SELECT value FROM json_each({given}, '$.values'))")
    return tests


async def make_database(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> SQLiteDocumentDatabase:
    """A client of this process's own file."""
    if address is not None:
        raise UnsupportedError("SQLite is embedded: there is no address to connect to")
    return await SQLiteDocumentDatabase.connect(folder() / "documents.sqlite", tenant_id=tenant_id)
