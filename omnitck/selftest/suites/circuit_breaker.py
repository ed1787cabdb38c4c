"""How the reference of `circuit_breaker` is certified."""

from typing import Any

from omnitck.reference import circuit_breaker
from omnitck.resilience.circuit_breaker import CircuitBreakerContract
from omnitck.selftest.reference import CREDENTIAL, Reference


class ReferenceSuite(CircuitBreakerContract, Reference):
    """The reference of `circuit_breaker`, with every capability there is."""

    capabilities = circuit_breaker.CAPABILITIES
    backend_type = circuit_breaker.MemoryCircuits
    provider: type[circuit_breaker.MemoryCircuitBreaker] = circuit_breaker.MemoryCircuitBreaker
    memory: circuit_breaker.MemoryCircuits

    async def make_provider(self, *, tenant_id: str | None = None, **settings: Any) -> circuit_breaker.MemoryCircuitBreaker:
        settings.pop("namespace")
        return self.provider(self.memory, tenant_id=tenant_id, password=CREDENTIAL, capabilities=self.declared, **settings)

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True

    async def crash(self, client: Any) -> None:
        client.vanish()
