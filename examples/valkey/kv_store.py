"""`kv_store` on Valkey or Redis, through `redis.asyncio`.

`watch` is not declared. Keyspace notifications are lossy: a client that reconnects has missed what happened meanwhile,
and nothing tells it so.
"""

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Self

from examples import servers
from examples.common import arguments
from examples.valkey.values import ValkeyValues, space_of
from omnitck.shared.exceptions import ConflictError
from omnitck.shared.models import Expect, Put, Remove

__all__ = ["ValkeyKVStore", "make_store"]

SPACE = b"omnitck-kv:"

# KEYS[1] is the counter of versions, and the keys of the operations follow. A script is not undone when it fails: so all
# expectations are checked, on an overlay of the puts and removals before them, and only then is anything written. ARGV
# holds a kind and a value for each key: (p)ut, (r)emove, (e)xpect, (a)bsent.
TRANSACT = """
local overlay = {}
for i = 2, #KEYS do
    local key, kind, value = KEYS[i], ARGV[2 * i - 3], ARGV[2 * i - 2]
    if kind == 'p' then
        overlay[key] = value
    elseif kind == 'r' then
        overlay[key] = false
    else
        local seen = overlay[key]
        if seen == nil then seen = redis.call('HGET', key, 'value') end
        if kind == 'a' then value = false end
        if seen ~= value then return i - 1 end
    end
end
for i = 2, #KEYS do
    local key, kind = KEYS[i], ARGV[2 * i - 3]
    if kind == 'p' then
        redis.call('HSET', key, 'value', ARGV[2 * i - 2], 'version', redis.call('INCR', KEYS[1]))
        redis.call('PERSIST', key)
    elseif kind == 'r' then
        redis.call('DEL', key)
    end
end
return 0
"""


class ValkeyKVStore(ValkeyValues):
    """A store in one Valkey or Redis server."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "compare_and_set ttl list_prefix batch counter transaction linearizable binary "
        "lifecycle validation shared availability limits".split()
    )

    def __init__(self, url: str, tenant_id: str | None = None) -> None:
        super().__init__(url, SPACE + space_of(arguments.encode_tenant(tenant_id)))
        self._transact = self._redis.register_script(TRANSACT)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every live key under *prefix*, in no order: SCAN may name a key twice, so what was yielded is remembered."""
        start = self._space + arguments.encode_prefix(prefix, self.limits)
        yielded: set[bytes] = set()
        async for page in self._scan(f"list_keys {prefix!r}", start):
            for name in page:
                if name not in yielded:
                    yielded.add(name)
                    yield name[len(self._space) :].decode()

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        """Apply *ops* in one script."""
        self._check_open()
        steps = arguments.encode_steps(ops, self.limits)
        words: list[bytes] = []
        for kind, _, value in steps:
            words.append(b"p" if kind is Put else b"r" if kind is Remove else b"a" if value is None else b"e")
            words.append(value or b"")
        names = [self._space + key for _, key, _ in steps]
        failed = await self._script(f"transact {[key.decode() for _, key, _ in steps]!r}", self._transact, names, words)
        if failed:
            raise ConflictError(f"{steps[failed - 1].key.decode()!r} does not hold what was expected")


async def make_store(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> ValkeyKVStore:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    return await ValkeyKVStore.connect(await servers.connect_info(servers.valkey, address), tenant_id=tenant_id)
