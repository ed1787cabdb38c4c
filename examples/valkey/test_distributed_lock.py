"""Certifies the locks on Valkey, or Redis."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.distributed_lock import DistributedLockContract

with servers.installed():
    from examples.valkey.distributed_lock import ValkeyLocks, make_locks


class TestValkeyLocks(servers.OnServer, DistributedLockContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.valkey
    capabilities = ValkeyLocks

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> ValkeyLocks:
        return await make_locks(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> ValkeyLocks:
        return await make_locks(address=("127.0.0.1", 1))

    async def crash(self, client: ValkeyLocks) -> None:
        await client.abandon()
