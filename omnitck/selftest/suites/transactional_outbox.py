"""How the reference of `transactional_outbox` is certified."""

from typing import Any

from omnitck.reference import transactional_outbox
from omnitck.resilience.transactional_outbox import TransactionalOutboxContract
from omnitck.selftest.reference import CREDENTIAL, Reference


class BusinessHooks:
    """The hooks of an application on the same database; before the contract, whose own they take the place of."""

    memory: Any

    async def business_write(self, tx: Any, key: str, value: str) -> None:
        tx.write(key, value)

    async def business_read(self, key: str) -> Any:
        return self.memory.rows.get(key)


class ReferenceSuite(BusinessHooks, TransactionalOutboxContract, Reference):
    """The reference of `transactional_outbox`, with every capability there is."""

    capabilities = transactional_outbox.CAPABILITIES
    backend_type = transactional_outbox.MemoryOutbox
    provider: type[Any] = transactional_outbox.MemoryOutboxStorage

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> Any:
        return self.provider(
            self.memory, tenant_id=tenant_id, namespace=namespace, password=CREDENTIAL, capabilities=self.declared
        )

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()

    async def crash(self, client: Any) -> None:
        client.vanish()

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True
        self.memory.notify()
