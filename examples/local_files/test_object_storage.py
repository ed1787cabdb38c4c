"""Certifies the adapter of the local file system."""

from unittest import IsolatedAsyncioTestCase

from examples.local_files.object_storage import LocalObjectStorage, make_store
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract


class TestLocalObjectStorage(ObjectStorageContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = LocalObjectStorage

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> LocalObjectStorage:
        return await make_store(tenant_id=tenant_id, namespace=namespace)

    async def missing_container_provider(self) -> LocalObjectStorage:
        return LocalObjectStorage("/nonexistent/omnitck")
