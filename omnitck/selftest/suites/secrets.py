"""How the reference of `secrets` is certified."""

from dataclasses import replace
from typing import Any

from omnitck.primitives.secrets import SecretsContract
from omnitck.reference import secrets
from omnitck.reference.client import MemoryClient
from omnitck.selftest.reference import CREDENTIAL, Reference


class ReferenceSuite(SecretsContract, Reference):
    """The reference of `secrets`, with every capability there is."""

    capabilities = secrets.CAPABILITIES
    backend_type = secrets.MemorySecretsBackend
    provider = secrets.MemorySecrets
    memory: secrets.MemorySecretsBackend

    def setUp(self) -> None:
        super().setUp()
        self.memory.limits = replace(self.memory.limits, cache_seconds=30.0)

    async def provision(self, name: str, value: Any, *, tenant_id: str | None = None) -> None:
        self.memory.provision(name, value, tenant_id=tenant_id)

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        self.memory.revoke(name, tenant_id=tenant_id)

    async def unauthorized_provider(self) -> MemoryClient[Any]:
        return self.provider(self.memory, password=CREDENTIAL, capabilities=self.declared, may_enter=False)

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True
