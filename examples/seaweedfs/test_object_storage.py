"""Certifies the adapter of S3 on SeaweedFS, which differs from S3 in ways that the adapter bears."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract

with servers.installed():
    from examples.aws.object_storage import S3ObjectStorage, make_store


class TestSeaweedFS(servers.OnServer, ObjectStorageContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.seaweedfs
    capabilities = S3ObjectStorage
    patience = 4.0  # a write to a bucket that keeps versions is several of its own

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, namespace: str = "", **config: object
    ) -> S3ObjectStorage:
        return await make_store(start=servers.seaweedfs, tenant_id=tenant_id, address=address, namespace=namespace)

    async def unreachable_provider(self) -> S3ObjectStorage:
        return await make_store(start=servers.seaweedfs, address=("127.0.0.1", 1))

    async def missing_container_provider(self) -> S3ObjectStorage:
        return await make_store(start=servers.seaweedfs, bucket="omnitck-missing")
