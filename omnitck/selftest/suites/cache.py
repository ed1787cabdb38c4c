"""How the reference of `cache` is certified."""

from typing import Any

from omnitck.primitives.cache import CacheContract
from omnitck.reference import cache
from omnitck.selftest.reference import CREDENTIAL, Reference


class ReferenceSuite(CacheContract, Reference):
    """The reference of `cache`, with every capability there is."""

    capabilities = cache.CAPABILITIES
    backend_type = cache.MemoryCacheBackend
    provider: type[Any] = cache.MemoryCache

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> Any:
        return self.provider(
            self.memory, tenant_id=tenant_id, namespace=namespace, password=CREDENTIAL, capabilities=self.declared
        )
