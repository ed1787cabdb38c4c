"""`object_storage` on NATS JetStream: an object store, as `nats object` would read it.

The chunks of an object are messages under a subject of their own, and one message under its name says which. That one is
replaced last, and only if it is still the one that was read before: so an object changes in one step, and each writer clears
away the chunks of exactly one predecessor. Chunks are read through JetStream itself, because `ObjectStore.get` of nats-py waits
for ever when they are cleared away meanwhile; a reader that loses them starts anew.

- *A writer* that is cancelled or cut off at its last request does not know what became of it, and so leaves its chunks: if they
  belong to no object, they are only in the way.
- *An etag* is the sequence number of that message. A deleted object leaves one too: it is no object, though it is listed as a
  name of the stream.
- *Listing* lets the server name all subjects of the bucket, since names are encoded as a whole. It is sorted here.
- *range_read* is not declared: a chunk cannot be asked for by its position, so all before it would travel. Nor is *copy*: NATS
  has links, but nothing that copies. It makes no URLs, and keeps no versions.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple, Self

import nats.errors
import nats.js.errors
from nats.aio.client import Client as Connection
from nats.js.api import Header, ObjectStoreConfig

from examples import servers
from examples.common import arguments, objects
from examples.common.client import together
from examples.nats_jetstream.bucket import WRONG_REVISION
from examples.nats_jetstream.client import NEVER, NATSClient
from omnitck.shared.exceptions import AlreadyExistsError, ConflictError, NotFoundError, ObjectNotFoundError, UnavailableError
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix

__all__ = ["BUCKET", "NATSObjectStorage", "create_bucket", "make_store"]

BUCKET = "omnitck"
CHUNK = 128 * 1024
TYPE = "Content-Type"
TRIES = 100
"""How often others may come between reading and writing, or clear away what is being read."""


class Stored(NamedTuple):
    """The message under the name of an object."""

    facts: dict[str, Any]
    sequence: int

    @property
    def live(self) -> bool:
        """Whether there is an object."""
        return self.sequence > 0 and not self.facts.get("deleted")

    @property
    def etag(self) -> str | None:
        """Of the object, if there is one."""
        return str(self.sequence) if self.live else None


ABSENT = Stored({}, 0)


class ChunksLostError(Exception):
    """The object was replaced or deleted while it was read."""


class NATSObjectStorage(NATSClient):
    """The objects in the bucket that `create_bucket` made, on the server at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "stat list_prefix streaming metadata conditional_write checksum hierarchy ordered_list batch_delete "
        "lifecycle validation shared availability limits".split()
    )

    def __init__(self, url: str, tenant_id: str | None = None, *, bucket: str = BUCKET, page_size: int = 100) -> None:
        super().__init__(url)
        tenant = arguments.encode_tenant(tenant_id)
        self._space = b"%d:%b:" % (len(tenant), tenant) if tenant else b"-:"  # "-" is no length
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self.limits = ObjectLimits(  # part_bytes: nats-py copies what it sends, twice
            key_bytes=256, value_bytes=2**30, part_bytes=2 * CHUNK, page_size=page_size, batch_size=page_size
        )

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None, **options: Any) -> Self:
        """A client of the server at *url*; that the bucket is missing shows in the first operation."""
        return cls(url, tenant_id, **options)

    async def upload(
        self,
        key: str,
        data: bytes | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: bytes | None = None,
    ) -> ObjectInfo:
        """Publish the chunks, and then the message that makes them the object."""
        what, name = f"upload {key!r}", self._name(key)
        described = objects.describe(key, content_type, metadata)
        objects.check_condition(key, if_absent, if_match)
        objects.check_digest(key, sha256)
        unique = await self._call(what, self._unique())
        found, size, count = hashlib.sha256(), 0, 0
        belongs = False
        try:
            async with aclosing(objects.parts(key, data, CHUNK, self.limits, sha256)) as parts:
                async for part, _ in parts:
                    if part:
                        await self._call(what, self._publish(self._chunks_of(unique), part))
                        found.update(part)
                        size, count = size + len(part), count + 1
                    del part  # before the next one is made
            facts = {
                "name": name.decode(),
                "bucket": self._bucket,
                "nuid": unique,
                "size": size,
                "chunks": count,
                "digest": f"SHA-256={base64.urlsafe_b64encode(found.digest()).decode()}",
                "metadata": described.metadata,
                "headers": {} if content_type is None else {TYPE: [content_type]},
                "options": {"max_chunk_size": CHUNK},
            }
            belongs = True  # to the object, from the moment when nobody knows better
            try:
                return self._info(key, await self._replace(what, key, name, facts, if_absent, if_match))
            except ConflictError:
                belongs = False
                raise
        finally:
            if not belongs and not self._closed:
                self._start(self._clear(unique))  # a task of its own, since the caller may be cancelled

    async def download(self, key: str) -> bytes:
        """The whole content."""
        what, name = f"download {key!r}", self._name(key)
        for _ in range(TRIES):
            stored = await self._live(what, key, name)
            try:
                async with aclosing(self._chunks(what, stored)) as chunks:
                    return b"".join([chunk async for chunk in chunks])
            except ChunksLostError:
                continue
        raise UnavailableError(f"{what}: it is replaced faster than it can be read")

    def download_stream(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The content in chunks; an error if it is replaced meanwhile."""
        name = self._name(key)
        return self._streamed(f"download {key!r}", key, name)

    async def stat(self, key: str) -> ObjectInfo:
        """What the message under the name says."""
        name = self._name(key)
        return self._info(key, await self._live(f"stat {key!r}", key, name))

    async def delete(self, key: str) -> None:
        """Replace the message under the name by one that says so, and clear away the chunks."""
        name = self._name(key)
        await self._remove(f"delete {key!r}", key, name)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all *keys*, the requests of a chunk at once."""
        self._check_open()
        wanted = objects.encode_keys(keys, self.limits)
        what = f"delete_many of {len(wanted)} keys"
        for chunk in arguments.chunks(wanted.items(), self.limits.batch_size):
            await together([self._remove(what, key, self._space + encoded) for encoded, key in chunk])

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object under *prefix*, in the order of the keys."""
        what, start = f"list_objects {prefix!r}", self._space + arguments.encode_prefix(prefix, self.limits)
        names = await self._names(what, start)
        for page in arguments.chunks(names, self.limits.page_size):
            found = await self._call(what, together([self._read(name) for name in page]))
            for name, stored in zip(page, found, strict=True):
                if stored.live:
                    yield self._info(name[len(self._space) :].decode(), stored)

    async def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        """The objects and the prefixes one level below *prefix*, in order; all below it is read."""
        last = ""
        async for info in self.list_objects(prefix):
            head, slash, _ = info.key[len(prefix) :].partition("/")
            if not slash:
                yield info
            elif prefix + head + slash != last:
                last = prefix + head + slash
                yield Prefix(last)

    # The layout

    def _name(self, key: object) -> bytes:
        return self._space + arguments.encode_key(key, self.limits)

    def _subject(self, name: bytes) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name).decode()}"

    def _chunks_of(self, unique: str) -> str:
        return f"$O.{self._bucket}.C.{unique}"

    def _info(self, key: str, stored: Stored) -> ObjectInfo:
        facts = stored.facts
        return ObjectInfo(
            key,
            facts["size"],
            str(stored.sequence),
            datetime.fromisoformat(facts["mtime"]),
            content_type=(facts.get("headers") or {}).get(TYPE, [None])[0],
            metadata=dict(facts.get("metadata") or {}),
        )

    # Requests: each is one step, and runs within `_call`.

    async def _unique(self) -> str:
        return str((await self._open())._nuid.next().decode())

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> int:
        stream = (await self._open()).jetstream(timeout=NEVER)
        try:
            return (await stream.publish(subject, data, headers=headers)).seq
        except nats.js.errors.NoStreamResponseError as error:
            raise NotFoundError(f"there is no bucket {self._bucket!r}") from error

    async def _read(self, name: bytes) -> Stored:
        """What is under *name*, as the stream's leader knows it."""
        stream = (await self._open()).jetstream(timeout=NEVER)
        try:
            message = await stream.get_msg(self._stream, subject=self._subject(name))
        except nats.js.errors.NotFoundError as error:
            self._check_bucket(error)
            return ABSENT
        return Stored(json.loads(message.data or b"{}"), message.seq or 0)

    async def _next_chunk(self, unique: str, after: int) -> tuple[int, bytes] | None:
        stream = (await self._open()).jetstream(timeout=NEVER)
        try:
            # Any replica will do: a chunk never changes.
            message = await stream.get_msg(self._stream, seq=after + 1, subject=self._chunks_of(unique), direct=True, next=True)
        except nats.js.errors.NotFoundError:
            return None
        return message.seq or 0, message.data or b""

    def _check_bucket(self, error: nats.js.errors.APIError) -> None:
        if error.err_code == 10059:  # the stream is not there
            raise NotFoundError(f"there is no bucket {self._bucket!r}") from error

    async def _clear(self, unique: str) -> None:
        """Remove chunks that belong to no object; they are only in the way."""
        stream = (await self._open()).jetstream(timeout=NEVER)
        with contextlib.suppress(*self._unavailable):
            await stream.purge_stream(self._stream, subject=self._chunks_of(unique))

    # Operations in several steps

    async def _live(self, what: str, key: str, name: bytes) -> Stored:
        stored = await self._call(what, self._read(name))
        if not stored.live:
            raise ObjectNotFoundError(f"there is no object {key!r}")
        return stored

    async def _replace(
        self, what: str, key: str, name: bytes, facts: dict[str, Any], if_absent: bool = False, if_match: str | None = None
    ) -> Stored:
        """Put *facts* under *name*, if what is there meets the condition, and clear away the chunks of what was there."""
        for _ in range(TRIES):
            before = await self._call(what, self._read(name))
            if not objects.matches(before.etag, if_absent, if_match):
                if if_absent:
                    raise AlreadyExistsError(f"there is an object {key!r}")
                raise ConflictError(f"{key!r} does not have the expected etag")
            if facts.get("deleted") and not before.live:
                return before

            now = max(datetime.now(UTC).isoformat(), before.facts.get("mtime") or "")
            facts = {**facts, "mtime": now}
            headers = {
                Header.ROLLUP.value: "sub",
                Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(before.sequence),
            }
            try:
                sequence = await self._call(what, self._publish(self._subject(name), json.dumps(facts).encode(), headers))
            except UnavailableError as error:
                cause = error.__cause__
                if isinstance(cause, nats.js.errors.APIError) and cause.err_code in WRONG_REVISION:
                    continue
                raise
            if before.live and not self._closed:
                self._start(self._clear(before.facts["nuid"]))
            return Stored(facts, sequence)
        raise UnavailableError(f"{what}: others write to {key!r} all the time")

    async def _remove(self, what: str, key: str, name: bytes) -> None:
        facts = {"name": name.decode(), "bucket": self._bucket, "nuid": "-", "size": 0, "chunks": 0, "deleted": True}
        await self._replace(what, key, name, facts)

    @asynccontextmanager
    async def _streamed(self, what: str, key: str, name: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        stored = await self._live(what, key, name)
        async with aclosing(self._whole_chunks(what, stored)) as chunks:
            yield chunks

    async def _whole_chunks(self, what: str, stored: Stored) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._chunks(what, stored)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ChunksLostError:
            raise UnavailableError(f"{what}: it was replaced meanwhile") from None

    async def _chunks(self, what: str, stored: Stored) -> AsyncGenerator[bytes, None]:
        sequence = 0
        for _ in range(stored.facts["chunks"]):
            found = await self._call(what, self._next_chunk(stored.facts["nuid"], sequence))
            if found is None:
                raise ChunksLostError
            sequence, chunk = found
            yield chunk

    async def _names(self, what: str, start: bytes) -> list[bytes]:
        """The names that begin with *start*, those of deleted objects included."""
        names: set[bytes] = set()
        seen, total = 0, 1
        while seen < total:
            page, total = await self._call(what, self._subjects(seen))
            if not page:
                break
            seen += len(page)
            for subject in page:
                with contextlib.suppress(binascii.Error):
                    name = base64.urlsafe_b64decode(subject.rpartition(".")[2])
                    if name.startswith(start):
                        names.add(name)
        return sorted(names)

    async def _subjects(self, offset: int) -> tuple[dict[str, int], int]:
        connection = await self._open()
        request = json.dumps({"subjects_filter": f"$O.{self._bucket}.M.>", "offset": offset}).encode()
        message = await connection.request(f"$JS.API.STREAM.INFO.{self._stream}", request, timeout=NEVER)
        reply = json.loads(message.data)
        if "error" in reply:
            try:
                nats.js.errors.APIError.from_error(reply["error"])  # raises it
            except nats.js.errors.NotFoundError as error:
                self._check_bucket(error)
                raise
        return reply["state"].get("subjects") or {}, reply.get("total", 0)


def create_bucket(url: str) -> None:
    """Create the bucket, unless it is there; several processes may do so at once."""

    async def create() -> None:
        connection = Connection()
        await connection.connect(url)
        try:
            await connection.jetstream().create_object_store(BUCKET, ObjectStoreConfig(replicas=1))
        finally:
            await connection.close()

    asyncio.run(create())


async def make_store(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, bucket: str = BUCKET, **config: object
) -> NATSObjectStorage:
    """A client of the example's own server, or of the one at ``OMNITCK_NATS_URL``."""
    url = await servers.connect_info(servers.nats, address, prepare=create_bucket)
    return await NATSObjectStorage.connect(url, tenant_id=tenant_id, bucket=bucket, page_size=10)
