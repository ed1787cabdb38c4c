"""`distributed_lock` on etcd, through aetcd: a key with a lease, and the revision of its creation as the fencing token.

A revision is the number of a change of the whole store, so that of a later grant is always greater. The lock that aetcd brings
does not give it out, renews a lease that was lost without saying so, and creates a lease for each try that fails.

The leader counts the time of leases by its monotonic clock, and nothing that happens to the clock of the wall changes it. A new
leader, and a server that was started again, gives every lease its whole time anew: then it ends as much later. A lease has
whole seconds, and two at least, and its end is looked for twice a second: hence `min_ttl` and `ttl_resolution`.

`fair` is not declared: waiters ask again and again, and whoever asks first after the end of a lease has the lock.
"""

import contextlib
import math
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import aetcd
from aetcd.exceptions import ClientError, UnauthenticatedError

from examples import servers
from examples.common import arguments
from examples.common.locks import Locks
from omnitck.shared.models import LockLimits

__all__ = ["EtcdLocks", "make_locks"]

SPACE = b"omnitck-lock/"

CHANNEL = {
    "grpc.use_local_subchannel_pool": 1,  # a connection of its own: another client's may be behind a network that fails
    "grpc.enable_http_proxy": 0,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 500,
    "grpc.min_reconnect_backoff_ms": 2500,  # which, despite its name, is how long an attempt may take
}


class EtcdLocks(Locks):
    """Locks in the etcd at *url*."""

    limits: ClassVar[LockLimits] = LockLimits(key_bytes=1024, min_ttl=2.0, ttl_resolution=2.0, max_ttl=30 * 86_400.0, deliver=3.0)

    _unavailable = (OSError, TimeoutError, ClientError)
    _denied = (UnauthenticatedError,)

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__()
        tenant = arguments.encode_tenant(tenant_id)
        self._space = b"%b%d:%b/" % (SPACE, len(tenant), tenant)
        parts = urlsplit(url)
        self._etcd = aetcd.Client(parts.hostname or "127.0.0.1", parts.port or 2379, options=CHANNEL)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; the connection is opened when it is needed."""
        return cls(url, tenant_id)

    async def _take(self, name: bytes, owner: str, ttl: float, waits: bool) -> int | None:
        key, change = self._space + name, self._etcd.transactions
        if await self._etcd.get(key) is not None:  # who only waits makes no lease
            return None

        lease = await self._etcd.lease(math.ceil(ttl))
        taken, [put] = await self._etcd.transaction(
            compare=[change.create(key) == 0],
            success=[change.put(key, owner.encode(), lease=lease)],
            failure=[change.get(key)],
        )
        if not taken:
            await self._revoke(lease.id)
            return None
        return int(put.response_put.header.revision)

    async def _extend(self, name: bytes, owner: str, ttl: float) -> bool:
        return await self._replace(name, owner, owner, ttl)

    async def _free(self, name: bytes, owner: str, keep: float) -> bool:
        if keep > 0:  # the owner of the empty name is nobody, and the key is there
            return await self._replace(name, owner, "", keep)

        key, change = self._space + name, self._etcd.transactions
        freed, answers = await self._etcd.transaction(
            compare=[change.value(key) == owner.encode()], success=[change.delete(key, prev_kv=True)], failure=[]
        )
        if freed:
            await self._revoke(answers[0].response_delete_range.prev_kvs[0].lease)
        return bool(freed)

    async def _is_taken(self, name: bytes) -> bool:
        return await self._etcd.get(self._space + name) is not None

    async def _replace(self, name: bytes, owner: str, successor: str, ttl: float) -> bool:
        """Let *successor* have what *owner* has, with a lease of *ttl* seconds."""
        key, change = self._space + name, self._etcd.transactions
        lease = await self._etcd.lease(math.ceil(ttl))
        replaced, answers = await self._etcd.transaction(
            compare=[change.value(key) == owner.encode()],
            success=[change.put(key, successor.encode(), lease=lease, prev_kv=True)],
            failure=[],
        )
        await self._revoke(answers[0].response_put.prev_kv.lease if replaced else lease.id)
        return bool(replaced)

    async def _revoke(self, lease: Any) -> None:
        """End a lease that no key has. It would end by itself; so nothing depends on this."""
        with contextlib.suppress(ClientError):
            await self._etcd.revoke_lease(lease)

    async def _release(self) -> None:
        await self._etcd.close()

    def _abort(self) -> None:
        """Nothing: what etcd knows of a client is its leases alone."""


async def make_locks(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> EtcdLocks:
    """A client of the example's own server, or of the one at ``OMNITCK_ETCD_URL``."""
    return await EtcdLocks.connect(await servers.connect_info(servers.etcd, address), tenant_id=tenant_id)
