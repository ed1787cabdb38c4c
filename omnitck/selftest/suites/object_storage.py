"""How the reference of `object_storage` is certified."""

from typing import Any

from omnitck.primitives.object_storage import ObjectStorageContract
from omnitck.reference import object_storage
from omnitck.reference.client import MemoryClient
from omnitck.selftest.reference import CREDENTIAL, Reference


class ReferenceSuite(ObjectStorageContract, Reference):
    """The reference of `object_storage`, with every capability there is."""

    capabilities = object_storage.CAPABILITIES
    backend_type = object_storage.MemoryObjectBackend
    provider: type[object_storage.MemoryObjectStorage] = object_storage.MemoryObjectStorage
    memory: object_storage.MemoryObjectBackend

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> MemoryClient[Any]:
        self.memory.containers.add(namespace)
        return self.provider(
            self.memory, container=namespace, tenant_id=tenant_id, password=CREDENTIAL, capabilities=self.declared
        )

    async def unreachable_provider(self) -> MemoryClient[Any]:
        return self.provider(object_storage.MemoryObjectBackend(reachable=False), capabilities=self.declared)

    async def missing_container_provider(self) -> MemoryClient[Any]:
        return self.provider(self.memory, container="missing", password=CREDENTIAL, capabilities=self.declared)

    async def http_request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.memory.request(method, url, body)
