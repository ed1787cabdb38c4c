"""How the reference of `sagas` is certified."""

from typing import Any

from omnitck.reference import sagas
from omnitck.resilience.sagas import SagasContract
from omnitck.selftest.reference import CREDENTIAL, Reference


class ReferenceSuite(SagasContract, Reference):
    """The reference of `sagas`, with every capability there is."""

    capabilities = sagas.CAPABILITIES
    backend_type = sagas.MemorySagaServer
    provider: type[Any] = sagas.MemorySagas
    memory: sagas.MemorySagaServer

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> Any:
        return self.provider(
            self.memory, tenant_id=tenant_id, namespace=namespace, password=CREDENTIAL, capabilities=self.declared
        )

    async def crash(self, client: Any) -> None:
        client.vanish()

    async def business_write(self, tx: sagas.SagaTransaction, key: str, value: str) -> None:
        tx.rows[key] = value

    async def business_read(self, key: str) -> str | None:
        return self.memory.rows.get(key)

    async def outbox_write(self, tx: sagas.SagaTransaction, event: str) -> None:
        tx.events.append(event)

    async def outbox_read(self) -> list[str]:
        return self.memory.events
