"""Certifies the locks on etcd."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.distributed_lock import DistributedLockContract

with servers.installed():
    from examples.etcd.distributed_lock import EtcdLocks, make_locks


class TestEtcdLocks(servers.OnServer, DistributedLockContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.etcd
    capabilities = EtcdLocks

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> EtcdLocks:
        return await make_locks(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> EtcdLocks:
        return await make_locks(address=("127.0.0.1", 1))

    async def crash(self, client: EtcdLocks) -> None:
        await client.abandon()
