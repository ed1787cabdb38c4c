"""`distributed_lock` on NATS JetStream: a key of a KV bucket for each lock, with the revision of the grant as the fencing token.

A lock is taken by a write that expects the revision which was read: none, or that of a marker. Each message has a time to live
that the server counts by its own clock; no client's clock is asked. It has whole seconds, and the server was seen to take one
more: hence `min_ttl` and `ttl_resolution`.

A revision is a number of the bucket's stream, so that of a later grant is always greater. A renewal is another message, and
does not change the token of its grant.

`fair` is not declared: waiters ask again and again, and whoever asks first after the end of a lease has the lock.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import ClassVar, Self, TypeVar

import nats.js.errors
from nats.aio.client import Client as Connection
from nats.js.api import Header, KeyValueConfig

from examples import servers
from examples.common import arguments
from examples.common.locks import Locks
from examples.nats_jetstream import bucket
from examples.nats_jetstream.client import NEVER, NATSClient
from omnitck.shared.models import LockLimits

__all__ = ["NATSLocks", "create_bucket", "make_locks"]

T = TypeVar("T")

BUCKET = "omnitck-locks"
STREAM = f"KV_{BUCKET}"

MARKER_TTL = 1
"""Seconds that a marker stays where a lock was released, or its lease has ended: nobody needs it."""


class NATSLocks(Locks, NATSClient):
    """Locks in the bucket that `create_bucket` made, on the server at *url*."""

    limits: ClassVar[LockLimits] = LockLimits(  # a subject, escaped, may have 4 KiB
        key_bytes=256, min_ttl=1.0, ttl_resolution=2.5, max_ttl=30 * 86_400.0, deliver=3.0
    )

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(url)
        tenant = arguments.encode_tenant(tenant_id)
        self._space = f"$KV.{BUCKET}.{f't{bucket.escape(tenant)}' if tenant else 'n'}."

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; the connection is opened when it is needed."""
        return cls(url, tenant_id)

    async def _take(self, name: bytes, owner: str, ttl: float, waits: bool) -> int | None:
        async def attempt(stored: bucket.Stored) -> int | None:
            return await self._write(name, owner, ttl, stored.revision) if stored.deleted else None

        return await self._retry(name, attempt)

    async def _extend(self, name: bytes, owner: str, ttl: float) -> bool:
        async def attempt(stored: bucket.Stored) -> bool:
            if stored.deleted or stored.value != owner.encode():
                return False
            await self._write(name, owner, ttl, stored.revision)
            return True

        return await self._retry(name, attempt)

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        async def attempt(stored: bucket.Stored) -> bool:
            if stored.deleted or stored.value != owner.encode():
                return False
            # The owner of the empty name is nobody; without one, the message is a marker.
            await self._write(name, "" if keep > 0 else None, keep, stored.revision)
            return True

        return await self._retry(name, attempt)

    async def _is_taken(self, name: bytes) -> bool:
        return not (await self._read(name)).deleted

    async def _read(self, name: bytes) -> bucket.Stored:
        stream = (await self._open()).jetstream(timeout=NEVER)
        try:
            message = await stream.get_msg(STREAM, subject=bucket.subject(self._space, name))
        except nats.js.errors.NotFoundError:
            return bucket.ABSENT
        return bucket.stored(message.seq or 0, message.data, message.headers)

    async def _write(self, name: bytes, owner: str | None, ttl: float, after: int) -> int:
        """Let *owner* have *name*, or nobody if that is None, if *after* is the last revision; the new one."""
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(after)}
        headers[Header.MSG_TTL.value] = str(MARKER_TTL if owner is None else max(1, math.ceil(ttl)))
        if owner is None:
            headers[bucket.OPERATION] = "DEL"
        stream = (await self._open()).jetstream(timeout=NEVER)
        return (await stream.publish(bucket.subject(self._space, name), (owner or "").encode(), headers=headers)).seq

    async def _retry(self, name: bytes, attempt: Callable[[bucket.Stored], Awaitable[T]]) -> T:
        """*attempt* with what is stored, again whenever that has changed before the attempt's own write."""
        while True:
            try:
                return await attempt(await self._read(name))
            except nats.js.errors.APIError as error:
                if error.err_code not in bucket.WRONG_REVISION:
                    raise

    def _abort(self) -> None:
        if self._connection is not None and (writer := getattr(self._connection._transport, "_io_writer", None)) is not None:
            writer.transport.abort()


def create_bucket(url: str) -> None:
    """Create the bucket, unless it is there; several processes may do so at once."""

    async def create() -> None:
        connection = Connection()
        await connection.connect(url)
        try:
            await connection.jetstream().create_key_value(
                KeyValueConfig(bucket=BUCKET, history=1, replicas=1, limit_marker_ttl=MARKER_TTL)
            )
        finally:
            await connection.close()

    asyncio.run(create())


async def make_locks(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> NATSLocks:
    """A client of the example's own server, or of the one at ``OMNITCK_NATS_URL``."""
    url = await servers.connect_info(servers.nats, address, prepare=create_bucket)
    return await NATSLocks.connect(url, tenant_id=tenant_id)
