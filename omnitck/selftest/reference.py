"""What the suites of all references have: a clock of their own, a password, and a backend that can be out of reach."""

from typing import Any, ClassVar

from omnitck.kit.contract import Contract
from omnitck.reference.broker import DEFAULT_GROUP, MemoryBroker
from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.clock import ManualClock

__all__ = ["CREDENTIAL", "BrokerHooks", "Reference"]

CREDENTIAL = "correct-horse-battery-staple"


class Reference(Contract):
    """A reference with a clock of its own, a password, and a backend that can be out of reach."""

    credentials = (CREDENTIAL,)
    patience = 0.5  # Nothing here waits for a network: a defect that hangs is known by 5 s.
    backend_type: ClassVar[type[MemoryServer]]
    provider: type[MemoryClient[Any]]

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = self.backend_type(clock=self.clock, password=CREDENTIAL)

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryClient[Any]:
        return self.provider(self.memory, tenant_id=tenant_id, password=CREDENTIAL, capabilities=self.declared)

    async def unreachable_provider(self) -> MemoryClient[Any]:
        return self.provider(self.backend_type(reachable=False), capabilities=self.declared)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class BrokerHooks:
    """The hooks of a suite of the in-memory broker; before the contract, whose own they take the place of."""

    backend_type: Any = MemoryBroker
    memory: Any
    clock: Any
    declared: ClassVar[frozenset[str]]

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.memory.creates_topics = "strict_topics" not in self.declared

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()

    async def create_topic(self, topic: str, *, tenant_id: str | None = None, client: Any = None) -> None:
        self.memory.create(Cell(tenant_id, topic))

    async def get_message_from_topic(self, topic: str, timeout: float, *, tenant_id: str | None = None) -> Any:
        cell = Cell(tenant_id, topic)
        entry = await self.memory.take(cell, DEFAULT_GROUP, self, within=timeout)
        if entry is None:
            return None
        self.memory.finish(cell, DEFAULT_GROUP, entry)
        return entry.message

    async def crash(self, client: Any) -> None:
        client.vanish()

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True
        self.memory.notify()
