"""How the reference of `distributed_lock` is certified."""

from typing import Any

from omnitck.reference import distributed_lock
from omnitck.resilience.distributed_lock import DistributedLockContract
from omnitck.selftest.reference import Reference


class ReferenceSuite(DistributedLockContract, Reference):
    """The reference of `distributed_lock`, with every capability there is."""

    capabilities = distributed_lock.CAPABILITIES
    backend_type = distributed_lock.MemoryLockServer
    provider: type[Any] = distributed_lock.MemoryLockManager
    memory: distributed_lock.MemoryLockServer

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()

    async def crash(self, client: Any) -> None:
        client.vanish()

    async def cut(self) -> None:
        self.memory.reachable = False
        self.memory.notify()

    async def heal(self) -> None:
        self.memory.reachable = True
        self.memory.notify()
