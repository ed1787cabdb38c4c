"""`kv_store` on NATS JetStream: a KV bucket, with the revision as the version.

`bucket` has the layout. Messages are published and read through JetStream itself, because `KeyValue` of nats-py cannot
tell an empty value from none, nor give a `put` a header.

- *Expiry.* The server's own TTL has whole seconds, and was seen to take one more. So each message carries its deadline,
  which readers compare with their own clock: machines whose clocks differ by a second see it expire a second apart.
  The server's TTL, rounded up, only clears away what has expired.
- *Reading* asks the stream's leader; a "direct get" may be answered by a replica that is behind.
- *transaction* is not declared: JetStream has no atomic step over several subjects and their expectations.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import ClassVar, Self, TypeVar

import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header

from examples import servers
from examples.common import arguments
from examples.common.client import Feed, together
from examples.nats_jetstream import bucket
from examples.nats_jetstream.client import NEVER, NATSClient
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError, UnavailableError
from omnitck.shared.models import Change, Entry, Limits

__all__ = ["NATSKVStore", "make_store"]

T = TypeVar("T")


class NATSKVStore(NATSClient):
    """A store in the bucket that `bucket.create_bucket` made, on the server at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "compare_and_set ttl list_prefix batch counter watch linearizable binary "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[Limits] = Limits(  # a message, its headers included, may have 1 MiB; a subject, escaped, 4 KiB
        key_bytes=256, value_bytes=2**19, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(url)
        tenant = arguments.encode_tenant(tenant_id)
        # A token of its own, and tokens hold no dot: "n" for no tenant, "t" and the id for one.
        self._space = f"$KV.{bucket.BUCKET}.{f't{bucket.escape(tenant)}' if tenant else 'n'}."
        self._counting = asyncio.Lock()

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; the connection is opened when it is needed."""
        return cls(url, tenant_id)

    async def get(self, key: str) -> str | None:
        """The value of *key*, or None."""
        value = await self.get_bytes(key)
        return None if value is None else arguments.decode_text(key, value)

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """Store *value*, for *ttl* seconds or for ever."""
        content, subject = arguments.encode_text(key, value, self.limits), self._subject(key)
        deadline = time.time() + (arguments.parse_ttl(key, ttl, self.limits) or math.inf)
        await self._call(f"set {key!r}", self._put(subject, content, deadline))

    async def delete(self, key: str) -> None:
        """Remove *key*: its last message becomes a delete marker."""
        await self._call(f"delete {key!r}", self._remove(self._subject(key)))

    async def get_bytes(self, key: str) -> bytes | None:
        """The value of *key* as bytes, or None."""
        stored = await self._call(f"get {key!r}", self._read(self._subject(key)))
        return stored.value if stored.live else None

    async def set_bytes(self, key: str, value: bytes) -> None:
        """Store *value*."""
        content, subject = arguments.encode_bytes(key, value, self.limits), self._subject(key)
        await self._call(f"set {key!r}", self._put(subject, content))

    async def expires_in(self, key: str) -> float | None:
        """Seconds left of *key*, None for ever."""
        stored = await self._call(f"expires_in {key!r}", self._read(self._subject(key)))
        left = stored.deadline - time.time()
        if stored.deleted or left <= 0:
            raise NotFoundError(f"{key!r} is absent")
        return None if math.isinf(left) else left

    async def get_entry(self, key: str) -> Entry | None:
        """The value of *key* with its revision, or None."""
        stored = await self._call(f"get {key!r}", self._read(self._subject(key)))
        return Entry(arguments.decode_text(key, stored.value), str(stored.revision)) if stored.live else None

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """Store *value* for ever if *key* is at version *expected*, or absent if that is None; the new version."""
        content, subject = arguments.encode_text(key, value, self.limits), self._subject(key)
        version = None if expected is None else arguments.parse_version(key, expected)

        async def attempt(stored: bucket.Stored) -> str:
            if (stored.revision if stored.live else None) != version:
                raise ConflictError(f"{key!r} is not at the expected version")
            return str(await self._put(subject, content, after=stored.revision))

        return await self._call(f"compare_and_set {key!r}", self._retry(subject, attempt))

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """Remove *key* if it is at version *expected*."""
        subject, version = self._subject(key), arguments.parse_version(key, expected)

        async def attempt(stored: bucket.Stored) -> None:
            if not stored.live or stored.revision != version:
                raise ConflictError(f"{key!r} is not at the expected version")
            await self._remove(subject, after=version)

        await self._call(f"compare_and_delete {key!r}", self._retry(subject, attempt))

    async def increment(self, key: str, delta: int = 1) -> int:
        """Add *delta* to the integer at *key* and return the sum."""
        subject, delta = self._subject(key), arguments.parse_delta(key, delta)

        async def attempt(stored: bucket.Stored) -> int:
            total = arguments.parse_integer(key, stored.value) + delta if stored.live else delta
            if total not in arguments.INT64:
                raise InvalidArgumentError(f"the sum at {key!r} exceeds 64 bits")
            deadline = stored.deadline if stored.live else math.inf
            await self._put(subject, b"%d" % total, deadline, after=stored.revision)
            return total

        # One after another, or this client's own tasks are each other's conflicts. Patience begins with the turn.
        async with self._counting:
            return await self._call(f"increment {key!r}", self._retry(subject, attempt))

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every live key under *prefix*, in no order.

        The server names the subjects, delete markers included; each page is then read, to see which live.
        """
        what, start = f"list_keys {prefix!r}", arguments.encode_prefix(prefix, self.limits)
        subjects: dict[str, None] = {}  # subjects come and go between two replies, so a later one may name some again
        more = True
        while more:
            found, total = await self._call(what, self._subjects(start, len(subjects)))
            fresh = found.keys() - subjects.keys()
            subjects |= dict.fromkeys(fresh)
            more = bool(fresh) and len(subjects) < total
        for page in arguments.chunks((s for s in subjects if self._key(s).startswith(start)), self.limits.page_size):
            for subject, stored in zip(page, await self._call(what, together([self._read(s) for s in page])), strict=True):
                if stored.live:
                    yield self._key(subject).decode()

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Each of *keys* with its value or None."""
        self._check_open()
        subjects = {key: self._subject(key) for key in keys}
        found: dict[str, str | None] = {}
        for chunk in arguments.chunks(subjects, self.limits.batch_size):
            stored = await self._call(f"get_many {chunk!r}", together([self._read(subjects[key]) for key in chunk]))
            for key, entry in zip(chunk, stored, strict=True):
                found[key] = arguments.decode_text(key, entry.value) if entry.live else None
        return found

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store all *items*, the requests of a chunk at once."""
        self._check_open()
        encoded = arguments.encode_items(items, self.limits)
        for chunk in arguments.chunks(encoded, self.limits.batch_size):
            puts = [self._put(bucket.subject(self._space, key), value) for key, value in chunk]
            await self._call(f"set_many {[key.decode() for key, _ in chunk]!r}", together(puts))

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all *keys*, the requests of a chunk at once."""
        self._check_open()
        subjects = {key: self._subject(key) for key in keys}
        for chunk in arguments.chunks(subjects, self.limits.batch_size):
            await self._call(f"delete_many {chunk!r}", together([self._remove(subjects[key]) for key in chunk]))

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[AsyncIterator[Change]]:
        """Changes under *prefix* from now on, an expiry included once the server clears it away.

        The feed ends with an error when a message is missing or the connection is lost: never with a silent gap.
        """
        start = arguments.encode_prefix(prefix, self.limits)
        feed = Feed[Change]()
        delivered = 0

        async def deliver(message: Msg) -> None:
            nonlocal delivered
            delivered += 1
            if message.metadata.sequence.consumer != delivered:
                feed.end(UnavailableError(f"watch {prefix!r}: changes were missed"))
            elif (key := self._key(message.subject)).startswith(start):
                stored = bucket.stored(0, message.data, message.headers)
                value = None if stored.deleted else stored.value.decode(errors="replace")
                feed.put(Change(key.decode(), value))

        self._feeds.add(feed)
        subscriptions: list[Subscription] = []
        try:
            await self._call(f"watch {prefix!r}", self._subscribe(start, deliver, subscriptions))
            yield feed
        finally:
            self._feeds.discard(feed)
            feed.end()
            if not self._closed:
                self._start(self._unsubscribe(subscriptions))

    def _subject(self, key: object) -> str:
        return bucket.subject(self._space, arguments.encode_key(key, self.limits))

    def _key(self, subject: str) -> bytes:
        return bucket.key(self._space, subject)

    async def _lost(self) -> None:
        for feed in list(self._feeds):
            feed.end(UnavailableError("watch: the connection was lost; changes may have been missed"))

    async def _read(self, subject: str) -> bucket.Stored:
        stream = (await self._open()).jetstream(timeout=NEVER)
        try:
            message = await stream.get_msg(bucket.STREAM, subject=subject)
        except nats.js.errors.NotFoundError:
            return bucket.ABSENT
        return bucket.stored(message.seq or 0, message.data, message.headers)

    async def _put(self, subject: str, value: bytes, deadline: float = math.inf, *, after: int | None = None) -> int:
        headers = {}
        if not math.isinf(deadline):
            headers[bucket.EXPIRES] = repr(deadline)
            headers[Header.MSG_TTL.value] = str(max(1, math.ceil(deadline - time.time())))
        return await self._publish(subject, value, headers, after)

    async def _remove(self, subject: str, *, after: int | None = None) -> int:
        headers = {bucket.OPERATION: "DEL", Header.MSG_TTL.value: str(bucket.MARKER_TTL)}
        return await self._publish(subject, b"", headers, after)

    async def _publish(self, subject: str, value: bytes, headers: dict[str, str], after: int | None) -> int:
        """Publish and return the new revision; *after* is the revision that must be the last (0: none)."""
        if after is not None:
            headers[Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value] = str(after)
        stream = (await self._open()).jetstream(timeout=NEVER)
        return (await stream.publish(subject, value, headers=headers)).seq

    async def _retry(self, subject: str, attempt: Callable[[bucket.Stored], Awaitable[T]]) -> T:
        """*attempt* with what is stored, again whenever that has changed before the attempt's own write."""
        while True:
            try:
                return await attempt(await self._read(subject))
            except nats.js.errors.APIError as error:
                if error.err_code not in bucket.WRONG_REVISION:
                    raise

    async def _subjects(self, prefix: bytes, offset: int) -> tuple[dict[str, int], int]:
        connection = await self._open()
        request = json.dumps({"subjects_filter": bucket.pattern(self._space, prefix), "offset": offset}).encode()
        message = await connection.request(f"$JS.API.STREAM.INFO.{bucket.STREAM}", request, timeout=NEVER)
        reply = json.loads(message.data)
        if "error" in reply:
            nats.js.errors.APIError.from_error(reply["error"])  # raises it
        return reply["state"].get("subjects") or {}, reply.get("total", 0)

    async def _subscribe(
        self, prefix: bytes, deliver: Callable[[Msg], Awaitable[None]], subscriptions: list[Subscription]
    ) -> None:
        """Let JetStream send later changes to *deliver*, through what is added to *subscriptions*.

        The server forgets the consumer a few seconds after nobody subscribes to its inbox any more.
        """
        connection = await self._open()
        inbox = connection.new_inbox()
        try:
            subscriptions.append(await connection.subscribe(inbox, cb=deliver))
            config = ConsumerConfig(
                deliver_subject=inbox,
                deliver_policy=DeliverPolicy.NEW,
                ack_policy=AckPolicy.NONE,
                filter_subject=bucket.pattern(self._space, prefix),
                mem_storage=True,
            )
            await connection.jetstream(timeout=NEVER).add_consumer(bucket.STREAM, config)
        except BaseException:
            await self._unsubscribe(subscriptions)
            raise

    async def _unsubscribe(self, subscriptions: list[Subscription]) -> None:
        while subscriptions:
            with contextlib.suppress(*self._unavailable):
                await subscriptions.pop().unsubscribe()


async def make_store(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> NATSKVStore:
    """A client of the example's own server, or of the one at ``OMNITCK_NATS_URL``."""
    url = await servers.connect_info(servers.nats, address, prepare=bucket.create_bucket)
    return await NATSKVStore.connect(url, tenant_id=tenant_id)
