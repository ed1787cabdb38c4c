"""Certifies the adapter of NATS JetStream's object store."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract

with servers.installed():
    from examples.nats_jetstream.object_storage import NATSObjectStorage, make_store


class TestNATSObjectStorage(servers.OnServer, ObjectStorageContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.nats
    capabilities = NATSObjectStorage

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> NATSObjectStorage:
        return await make_store(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> NATSObjectStorage:
        return await make_store(address=("127.0.0.1", 1))

    async def missing_container_provider(self) -> NATSObjectStorage:
        return await make_store(bucket="omnitck-missing")
