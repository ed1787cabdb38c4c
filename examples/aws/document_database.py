"""`document_database` on DynamoDB: one table, in which a partition is a collection of one tenant, and the sort key the `_id`.

The document is JSON text in one attribute: DynamoDB's own numbers have 38 digits, end at 1e126, and know no `1.0` beside `1`.
A filter that names no `_id` is therefore judged here, over all of the partition. DynamoDB's own filters would read, and bill, as
much: they thin out a page that has been read, and a page without a match need not be the last one.

A write is one request whose condition and effect are one step. An update reads a document and puts the changed one only where the
revision is still the one that it read; a refusal brings what is there now, so another try needs no read. Whether there was a
document is a condition too, and after an upsert, which has none, it is whether the reply brings the old one. `BatchWriteItem`
takes no conditions, and `TransactWriteItems` fails as a whole and costs twice: many documents are many requests, some at once.
Reads are consistent ones; by default DynamoDB may not show a write yet.

An item may have 400 KB, its keys and the names of its attributes included, and a reply 1 MB: a page may hold fewer documents than
were asked for, and only `LastEvaluatedKey` tells that it is the last.

`sort_page` is not declared: pages of an order that DynamoDB does not keep would be sorted out of the whole partition for each of
them. Nor is `transaction`: DynamoDB takes up to 100 writes as one, but has no open transaction whose reads see its writes.

Moto sorts the whole table for each query and answers one request at a time: few connections a client keep its queue short.
"""

import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import botocore.session
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from examples import servers
from examples.aws.client import AWSClient, code_of
from examples.common import arguments
from examples.common.client import Turns, together
from examples.common.documents import Dialect, Document, DocumentClient, Filter, all_stored, dump, load, matches, new_rev, stale
from omnitck.shared.models import DocumentLimits

__all__ = ["DynamoDBDocumentDatabase", "create_table", "make_database"]

TABLE = "omnitck-documents"
CONDITION_FAILED = "ConditionalCheckFailedException"
ABSENT, PRESENT, UNCHANGED = "attribute_not_exists(id)", "attribute_exists(id)", "rev = :seen"

State = tuple[Document, str]
"""A document and its revision."""


class Refused(NamedTuple):
    """A condition did not hold."""

    item: Mapping[str, Any] | None
    """What is there, if that was asked for and there is something."""


class DynamoDBDocumentDatabase(AWSClient, DocumentClient):
    """Documents in the table that `create_table` made."""

    service = "dynamodb"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        "query_operators nested_paths projection streaming update_operators upsert revision batch "
        "datetime binary int64 lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[DocumentLimits] = DocumentLimits(
        key_bytes=512, document_bytes=350_000, collection_bytes=255, page_size=50, batch_size=25
    )

    _dialect: ClassVar = Dialect(capabilities, limits)

    def __init__(self, client: Any, stack: contextlib.AsyncExitStack, tenant_id: str | None = None) -> None:
        super().__init__(client, stack, patience=8)  # seconds: moto does one request at a time
        self._tenant = arguments.encode_tenant(tenant_id)
        self._turns = Turns()

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the service at *url*, whose user and password are the access key; connections are opened when needed."""
        arguments.encode_tenant(tenant_id)  # before anything is opened
        # botocore would put its own user agent together twice for each request, which is a sixth of its work.
        return await cls.open(url, tenant_id, connections=4, config=AioConfig(user_agent="omnitck"))

    async def find_many(
        self,
        collection: str,
        filter: Mapping[str, Any],
        *,
        limit: int | None = None,
        projection: Iterable[str] | None = None,
    ) -> list[Document]:
        """Every document that matches *filter*."""
        collection, checked = self._dialect.collection(collection), self._dialect.filter(filter)
        rows = None if limit is None else self._dialect.count("limit", limit)
        fields = self._dialect.projection(projection)
        self._check_open()
        found: list[Document] = []
        if rows == 0:
            return found
        async with contextlib.aclosing(self._matching(f"find_many in {collection!r}", collection, checked)) as matching:
            async for document, rev in matching:
                found.append(self._dialect.shown(document, rev, fields))
                if len(found) == rows:
                    break
        return found

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        """Remove one document that matches; whether there was one."""
        collection, checked = self._dialect.collection(collection), self._dialect.filter(filter, writes=True)
        what = f"delete_one in {collection!r}"
        if checked.id is not None and len(checked.conditions) == 1:
            return await self._write_at(what, collection, checked.id, None, checked.rev)
        return await self._replace(what, collection, checked, None)

    async def find_iter(self, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[Document]:
        """What `find_many` finds; each page starts after the last `_id` of the one before, so nothing is held between two."""
        collection, checked = self._dialect.collection(collection), self._dialect.filter(filter)
        async with contextlib.aclosing(self._matching(f"find_iter in {collection!r}", collection, checked)) as matching:
            async for document, rev in matching:
                yield self._dialect.shown(document, rev)

    async def replace_one(
        self, collection: str, filter: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> bool:
        """Put *document* in the place of another, or, with *upsert*, there in any case; whether there was one."""
        collection, place = self._dialect.collection(collection), self._dialect.place(filter, upsert)
        stored, what = self._dialect.document(document, id=place.id), f"replace_one {place.id!r}"
        if upsert:
            reply = await self._request(what, "put_item", **self._item(collection, stored), ReturnValues="ALL_OLD")
            return "Attributes" in reply
        return await self._write_at(what, collection, stored["_id"], stored, place.rev)

    async def insert_many(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store all *documents* that are new. `BatchWriteItem` knows no conditions: each is a request, a chunk at once."""
        self._check_open()
        collection, stored = self._dialect.collection(collection), self._dialect.documents(documents)
        taken: list[str] = []
        for chunk in arguments.chunks(stored, self.limits.batch_size):
            ids = [each["_id"] for each in chunk]
            requests = (self._write(collection, each["_id"], each, ABSENT) for each in chunk)
            refused = await self._call(f"insert_many {ids!r}", together(requests))
            taken += [id for id, each in zip(ids, refused, strict=True) if each]
        return all_stored(stored, taken)

    async def delete_many(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Remove every document that matches; how many there were."""
        collection, checked = self._dialect.collection(collection), self._dialect.filter(filter)
        what = f"delete_many in {collection!r}"
        doomed = [(document, rev) async for document, rev in self._matching(what, collection, checked)]
        removed = 0
        for chunk in arguments.chunks(doomed, self.limits.batch_size):
            requests = (self._write(collection, document["_id"], None, UNCHANGED, rev) for document, rev in chunk)
            for (document, _), refused in zip(chunk, await self._call(what, together(requests)), strict=True):
                # One that was changed meanwhile is judged once more.
                again = Filter(checked.conditions, document["_id"], checked.rev)
                removed += not refused or await self._replace(what, collection, again, None)
        return removed

    async def _matching(self, what: str, collection: str, filter: Filter) -> AsyncGenerator[State, None]:
        """The matches, in the order of their ids."""
        common: dict[str, Any] = {"TableName": TABLE, "ProjectionExpression": "rev, body", "ConsistentRead": True}
        if filter.id is not None:
            reply = await self._request(what, "get_item", Key=self._key(collection, filter.id), **common)
            if found := _judge(reply.get("Item"), filter):
                yield found
            return

        common |= {
            "KeyConditionExpression": "place = :place",
            "ExpressionAttributeValues": {":place": {"S": self._place(collection)}},
            "Limit": self.limits.page_size,
        }
        while True:
            reply = await self._request(what, "query", **common)
            for item in reply["Items"]:
                if found := _judge(item, filter):
                    yield found
            if "LastEvaluatedKey" not in reply:
                return
            common["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

    async def _first(self, what: str, collection: str, filter: Filter) -> State | None:
        async with contextlib.aclosing(self._matching(what, collection, filter)) as found:
            return await anext(found, None)

    async def _insert(self, what: str, collection: str, document: Document) -> bool:
        return await self._call(what, self._write(collection, document["_id"], document, ABSENT)) is None

    async def _replace(self, what: str, collection: str, filter: Filter, change: Callable[[Document], Document] | None) -> bool:
        async with self._turns.of((collection, filter.id)):
            found = await self._first(what, collection, filter)
            while found is not None:
                document, rev = found
                after = None if change is None else change(document)
                refused = await self._call(what, self._write(collection, document["_id"], after, UNCHANGED, rev, tell=True))
                if refused is None:
                    return True
                found = _judge(refused.item, filter) or await self._first(what, collection, filter)
        if filter.rev is not None:
            raise stale(filter.id)
        return False

    async def _write_at(self, what: str, collection: str, id: str, document: Document | None, rev: str | None) -> bool:
        """Put *document* in the place of *id*, or remove what is there; whether there was one, which must be at *rev*."""
        condition = PRESENT if rev is None else UNCHANGED
        refused = await self._call(what, self._write(collection, id, document, condition, rev))
        if refused and rev is not None:
            raise stale(id)
        return refused is None

    async def _write(
        self, collection: str, id: str, document: Document | None, condition: str, seen: str | None = None, *, tell: bool = False
    ) -> Refused | None:
        """Put *document*, or remove what is there if it is None, if *condition* holds; None if it did."""
        given: dict[str, Any] = {"ConditionExpression": condition}
        if seen is not None:
            given["ExpressionAttributeValues"] = {":seen": {"S": seen}}
        if tell:
            given["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        try:
            if document is None:
                await self._perform("delete_item", TableName=TABLE, Key=self._key(collection, id), **given)
            else:
                await self._perform("put_item", **self._item(collection, document), **given)
        except ClientError as error:
            if code_of(error) == CONDITION_FAILED:
                return Refused(error.response.get("Item"))
            raise
        return None

    def _item(self, collection: str, document: Document) -> dict[str, Any]:
        content = {"rev": {"S": new_rev()}, "body": {"S": dump(document)}}
        return {"TableName": TABLE, "Item": {**self._key(collection, document["_id"]), **content}}

    def _place(self, collection: str) -> str:
        """The partition: the tenant in an alphabet without a colon, so that nothing after the first one is its."""
        return f"{base64.urlsafe_b64encode(self._tenant).decode()}:{collection}"

    def _key(self, collection: str, id: str) -> dict[str, Any]:
        return {"place": {"S": self._place(collection)}, "id": {"S": id}}


def _judge(item: Mapping[str, Any] | None, filter: Filter) -> State | None:
    """What *item* holds, if it matches."""
    if item is None:
        return None
    document, rev = load(item["body"]["S"]), item["rev"]["S"]
    return (document, rev) if matches(document, filter) and filter.rev in (None, rev) else None


def create_table(url: str) -> None:
    """Create the table, unless it is there, and wait for it."""
    endpoint, access_key, secret_key = servers.split_url(url)
    client = botocore.session.get_session().create_client(
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )
    names = ("place", "id")
    try:
        client.create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=True)],
            BillingMode="PAY_PER_REQUEST",
        )
    except ClientError as error:
        if code_of(error) != "ResourceInUseException":
            raise
    client.get_waiter("table_exists").wait(TableName=TABLE)
    client.close()


async def make_database(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> DynamoDBDocumentDatabase:
    """A client of the example's own server, or of the one at ``OMNITCK_AWS_URL``."""
    url = await servers.connect_info(servers.moto, address, prepare=create_table)
    return await DynamoDBDocumentDatabase.connect(url, tenant_id=tenant_id)
