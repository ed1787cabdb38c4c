"""`sagas` on NATS JetStream: a state is a value of the KV bucket, and behind its version is the value's revision.

An update reads the value, compares the version in it, and stores the next one if the revision is still that of what was read. Any
store with a conditional write can do so, whatever its own versions look like. Times are those of the client that writes.

Not declared are `list_incomplete` and `saga_lease`, as a bucket has no order but that of its names; `correlation` and
`transactional`, as JetStream has no atomic step over several subjects and their expectations. What is stuck is then found by
whoever knows the ids.
"""

import json
import time
from dataclasses import asdict, replace
from typing import ClassVar, Self

from examples import servers
from examples.common import arguments
from examples.common.orchestration import Orchestrator
from examples.common.sagas import Row, Span, check_id, check_version
from examples.nats_jetstream import bucket
from examples.nats_jetstream.kv_store import NATSKVStore
from omnitck.shared.exceptions import ConflictError, SagaAlreadyExistsError, SagaNotFoundError, SagaStateConflictError
from omnitck.shared.models import Limits, SagaLimits, SagaState

__all__ = ["NATSSagas", "make_sagas"]


class NATSSagas(Orchestrator):
    """Sagas in the bucket that `bucket.create_bucket` made, on the server at *url*."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "delete compensation_execution lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[SagaLimits] = SagaLimits(key_bytes=256, value_bytes=2**18, history=100)

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        self._tenant = arguments.encode_tenant(tenant_id)
        self._values = _Values(url, tenant_id)

    def __repr__(self) -> str:
        return repr(self._values)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; the connection is opened when it is needed."""
        return cls(url, tenant_id)

    async def close(self) -> None:
        """End the operations in flight and release the connection."""
        await self._values.close()

    async def abandon(self) -> None:
        """End as if the process had been killed: the connection breaks off, and requests end where they are."""
        await self._values.abandon()

    async def create_state(self, state: SagaState) -> SagaState:
        """Store *state* at version 1."""
        row, now = Row.of(state, self.limits), _now()
        try:
            return await self._put(row, 1, Span(now, now), None)
        except ConflictError:
            raise SagaAlreadyExistsError(f"saga {row.saga_id!r} exists") from None

    async def get_state(self, saga_id: str) -> SagaState | None:
        """The state as it was last stored, or None."""
        check_id(saga_id, self.limits)
        entry = await self._values.get_entry(saga_id)
        if entry is None:
            return None
        row, span = _parsed(entry.value)
        return row.at(row.version, span)

    async def update_state(self, state: SagaState) -> SagaState:
        """Store *state* in the place of its version."""
        row = Row.of(state, self.limits)
        span, revision = await self._found(row.saga_id, row.version)
        try:
            updated = max(span.updated, _now())
            return await self._put(row, row.version + 1, span._replace(updated=updated), revision)
        except ConflictError:
            raise await self._overtaken(row.saga_id) from None

    async def delete_state(self, saga_id: str, version: int) -> None:
        """Remove the saga if it is at *version*."""
        check_id(saga_id, self.limits)
        _, revision = await self._found(saga_id, check_version(saga_id, version))
        try:
            await self._values.compare_and_delete(saga_id, revision)
        except ConflictError:
            raise await self._overtaken(saga_id) from None

    async def _found(self, saga_id: str, version: int) -> tuple[Span, str]:
        """The times of the saga, if it is at *version*, and the revision behind that."""
        entry = await self._values.get_entry(saga_id)
        if entry is None:
            raise SagaNotFoundError(f"there is no saga {saga_id!r}")
        row, span = _parsed(entry.value)
        if row.version != version:
            raise SagaStateConflictError(f"saga {saga_id!r} is at version {row.version} by now")
        return span, entry.version

    async def _put(self, row: Row, version: int, span: Span, revision: str | None) -> SagaState:
        value = json.dumps({**asdict(replace(row, version=version)), **span._asdict()}, ensure_ascii=False)
        await self._values.compare_and_set(row.saga_id, value, revision)
        return row.at(version, span)

    async def _overtaken(self, saga_id: str) -> SagaNotFoundError | SagaStateConflictError:
        if await self._values.get_entry(saga_id) is None:
            return SagaNotFoundError(f"there is no saga {saga_id!r} any more")
        return SagaStateConflictError(f"saga {saga_id!r} was changed meanwhile")


class _Values(NATSKVStore):
    """The values of the bucket that are sagas: no key of an application is among them."""

    limits: ClassVar[Limits] = replace(NATSKVStore.limits, value_bytes=2**20 - 1024)

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(url, tenant_id)
        self._space = self._space.replace(f".{bucket.BUCKET}.", f".{bucket.BUCKET}.sagas-", 1)

    async def abandon(self) -> None:
        if self._connection is not None and (writer := getattr(self._connection._transport, "_io_writer", None)) is not None:
            writer.transport.abort()
        await self.close()


def _parsed(value: str) -> tuple[Row, Span]:
    columns = json.loads(value)
    span = Span(columns.pop("created"), columns.pop("updated"))
    return Row(**columns), span


def _now() -> int:
    return time.time_ns() // 1000


async def make_sagas(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> NATSSagas:
    """A client of the example's own server, or of the one at ``OMNITCK_NATS_URL``."""
    url = await servers.connect_info(servers.nats, address, prepare=bucket.create_bucket)
    return await NATSSagas.connect(url, tenant_id=tenant_id)
