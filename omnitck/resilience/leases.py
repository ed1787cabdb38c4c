"""Locks made of other leases: what the rules of `distributed_lock` ask of a lease, they ask of a saga's and of a claim's as well.

A saga that is stuck is handed to one worker at a time, and an event to one relay, each for so many seconds: that is a lock. The
suite of such a lock certifies the lease under it, where the two mean the same:

    class TestMySagaLeases(DistributedLockContract, IsolatedAsyncioTestCase):
        async def make_provider(self, *, namespace: str = "", **config: Any) -> SagaLocks:
            return SagaLocks(lambda name: MySagas.connect(namespace=namespace + name))
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Any, Generic, TypeVar
from uuid import uuid4

import anyio

from omnitck.resilience.sagas import SagaLease, SagaStateRepositoryProtocol
from omnitck.resilience.transactional_outbox import Claiming, OutboxStorageProtocol
from omnitck.shared.exceptions import LockLostError, LockNotAcquiredError, OutboxClaimLostError, SagaAlreadyExistsError
from omnitck.shared.models import ClaimedEvent, OutboxEvent, SagaState, SagaStatus

__all__ = ["LeaseLock", "OutboxLocks", "SagaLocks"]

Grant = TypeVar("Grant")
SAGA = "lock"
"""The only saga of its namespace."""


class LeasedSagas(SagaStateRepositoryProtocol, SagaLease):
    """A repository with the capability `saga_lease`."""


class ClaimedEvents(OutboxStorageProtocol, Claiming):
    """An outbox with the capability `claim`."""


class LeaseLock(Generic[Grant]):
    """One owner's view of a lock, which is a lease of something else."""

    def __init__(
        self, name: str, take: Callable[[], Awaitable[Grant | None]], give_back: Callable[[Grant], Awaitable[bool]], ttl: float
    ) -> None:
        self._name = name
        self._take = take
        self._give_back = give_back
        self._ttl = ttl
        self._grant: Grant | None = None

    async def acquire(self) -> bool:
        """See `DistributedLock.acquire`."""
        began = time.monotonic()
        grant = await self._take()
        if grant is None:
            return False
        if time.monotonic() - began >= self._ttl:  # The answer came too late to be sure of anything.
            await self._give_back(grant)
            return False

        self._grant = grant
        return True

    async def release(self) -> bool:
        """See `DistributedLock.release`."""
        if self._grant is None:
            return False

        freed = await self._give_back(self._grant)
        self._grant = None
        return freed

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise LockNotAcquiredError(f"somebody else holds the lock {self._name!r}")
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        held, freed = self._grant is not None, False
        # Whatever cancelled the body is not to keep the lock; but longer than the lease it need not try.
        with anyio.move_on_after(self._ttl, shield=True):
            freed = await self.release()
        if not freed and held and error is None:
            raise LockLostError(f"the lease of the lock {self._name!r} ended before what it guards did")


class _Locks:
    """Each name has a namespace of its own, as a claim takes whatever is free in one."""

    def __init__(self, connect: Callable[[str], Awaitable[Any]]) -> None:
        """*connect* returns a provider whose namespace is what it is given, made of letters and digits."""
        self._connect = connect
        self._connected: dict[str, Any] = {}

    async def close(self) -> None:
        """Close every provider that was connected."""
        while self._connected:
            _, provider = self._connected.popitem()
            if hasattr(provider, "close"):
                await provider.close()

    async def _of(self, lock_name: str) -> Any:
        namespace = sha256(lock_name.encode()).hexdigest()[:32]
        if namespace not in self._connected:
            self._connected[namespace] = await self._connect(namespace)
        return self._connected[namespace]


class SagaLocks(_Locks):
    """Locks that are sagas, on a provider of `sagas` with the capability `saga_lease`."""

    def get_lock(self, lock_name: str, ttl: float) -> LeaseLock[str]:
        """See `LockManagerProtocol.get_lock`."""

        async def take() -> str | None:
            sagas: LeasedSagas = await self._of(lock_name)
            if await sagas.get_state(SAGA) is None:
                with suppress(SagaAlreadyExistsError):  # Another owner was faster.
                    await sagas.create_state(SagaState(saga_id=SAGA, status=SagaStatus.RUNNING))
            worker = uuid4().hex
            return worker if await sagas.claim_stuck(worker, limit=1, lease=ttl) else None

        async def give_back(worker: str) -> bool:
            sagas: LeasedSagas = await self._of(lock_name)
            return await sagas.release_stuck(SAGA, worker)

        return LeaseLock(lock_name, take, give_back, ttl)


class OutboxLocks(_Locks):
    """Locks that are events of one aggregate, on a provider of `transactional_outbox` with the capability `claim`."""

    def get_lock(self, lock_name: str, ttl: float) -> LeaseLock[ClaimedEvent]:
        """See `LockManagerProtocol.get_lock`."""

        async def take() -> ClaimedEvent | None:
            outbox: ClaimedEvents = await self._of(lock_name)
            if not await outbox.get_pending_events_for_aggregate(SAGA):
                await outbox.save_event(OutboxEvent(destination_topic="lock", payload=b"", aggregate_key=SAGA))
            claimed = await outbox.claim(uuid4().hex, limit=1, lease=ttl)
            return claimed[0] if claimed else None

        async def give_back(event: ClaimedEvent) -> bool:
            outbox: ClaimedEvents = await self._of(lock_name)
            try:
                await outbox.release(event)
            except OutboxClaimLostError:
                return False
            return True

        return LeaseLock(lock_name, take, give_back, ttl)
