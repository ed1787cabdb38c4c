"""Certifies the locks in a file of SQLite, and the leases of its sagas and of its outbox, which are locks as well."""

import uuid
from functools import cached_property
from pathlib import Path
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.resilience.distributed_lock import DistributedLockContract
from omnitck.resilience.leases import OutboxLocks, SagaLocks
from omnitck.shared.models import LockLimits

with servers.installed():
    from examples.sqlite.connections import folder
    from examples.sqlite.distributed_lock import SQLiteLocks, make_locks
    from examples.sqlite.sagas import make_sagas
    from examples.sqlite.transactional_outbox import make_outbox


class TestSQLiteLocks(DistributedLockContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = SQLiteLocks

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> SQLiteLocks:
        return await make_locks(tenant_id=tenant_id)

    async def crash(self, client: SQLiteLocks) -> None:
        await client.abandon()


class TestSQLiteSagaLeases(DistributedLockContract, IsolatedAsyncioTestCase):
    limits = LockLimits(min_ttl=0.1, ttl_resolution=0.1)

    async def make_provider(self, *, namespace: str = "", **config: object) -> SagaLocks:
        return SagaLocks(lambda name: make_sagas(namespace=namespace + name))


class TestSQLiteOutboxClaims(DistributedLockContract, IsolatedAsyncioTestCase):
    limits = LockLimits(min_ttl=0.1, ttl_resolution=0.1)

    @cached_property
    def path(self) -> Path:
        return folder() / f"claims-{uuid.uuid4().hex}.sqlite"

    async def make_provider(self, *, namespace: str = "", **config: object) -> OutboxLocks:
        return OutboxLocks(lambda name: make_outbox(namespace=namespace + name, path=self.path))
