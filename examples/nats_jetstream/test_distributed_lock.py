"""Certifies the locks on NATS JetStream."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.distributed_lock import DistributedLockContract

with servers.installed():
    from examples.nats_jetstream.distributed_lock import NATSLocks, make_locks


class TestNATSLocks(servers.OnServer, DistributedLockContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.nats
    capabilities = NATSLocks

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> NATSLocks:
        return await make_locks(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> NATSLocks:
        return await make_locks(address=("127.0.0.1", 1))

    async def crash(self, client: NATSLocks) -> None:
        await client.abandon()
