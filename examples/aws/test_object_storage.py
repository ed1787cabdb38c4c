"""Certifies the adapter of S3, on moto."""

from typing import ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract

with servers.installed():
    from examples.aws.object_storage import S3ObjectStorage, make_store


class TestS3(servers.OnServer, ObjectStorageContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.moto
    capabilities = S3ObjectStorage
    patience = 4.0  # one process of Python answers all rules that run at once
    known_deviations: ClassVar[dict[str, str]] = {
        "MT-24": "moto checks no signature: a URL for one object serves for any other",
        "OB-28": "moto checks neither the signature nor the expiry of a presigned URL",
        "OB-32": "moto names a common prefix of which all keys have been deleted, in a bucket that keeps versions",
    }

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, namespace: str = "", **config: object
    ) -> S3ObjectStorage:
        return await make_store(tenant_id=tenant_id, address=address, namespace=namespace)

    async def unreachable_provider(self) -> S3ObjectStorage:
        return await make_store(address=("127.0.0.1", 1))

    async def missing_container_provider(self) -> S3ObjectStorage:
        return await make_store(bucket="omnitck-missing")
