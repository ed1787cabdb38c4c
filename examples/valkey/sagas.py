"""`sagas` on Valkey or Redis: a hash for each saga, and scripts, each of which the server runs as one step.

A script compares the version, writes the state, and moves the saga among what it is found by: a sorted set of those that are not
terminal and one of those that have failed, by the time of their last update, and a hash of correlations. Each update of a space
has a time of its own, as the server's clock is raised by a microsecond where it has not moved; so a listing goes on after a time.

`transactional` is not declared: there is no transaction that an application could write in too. What is stored lasts as long as
the server's settings say; sagas want `appendfsync` at `always`, and no eviction.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar, Self, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from examples import servers
from examples.common.client import Client
from examples.common.orchestration import Orchestrator
from examples.common.sagas import (
    ACTIVE,
    LISTED,
    Position,
    Row,
    Span,
    check_correlation,
    check_count,
    check_id,
    check_lease,
    check_seconds,
    check_version,
    check_worker,
    scope,
)
from examples.valkey.connections import Translation, abort, open_pool
from examples.valkey.values import space_of
from omnitck.shared.exceptions import SagaAlreadyExistsError, SagaNotFoundError, SagaStateConflictError
from omnitck.shared.models import SagaLimits, SagaPage, SagaState

__all__ = ["ValkeySagas", "make_sagas"]

SPACE = b"omnitck-sagas:"

COLUMNS = ("type", "correlation", "status", "step", "history", "payload", "version", "created", "updated")

# KEYS[1] is what all names of a space begin with. A number is written with %.0f: Lua itself would write 1.7e+15.
COMMON = f"""
local space = KEYS[1]
local function named(id) return space .. 'saga:' .. id end
local function text(number) return string.format('%.0f', number) end
local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end
local function state(id)
    local columns = redis.call('HMGET', named(id), {", ".join(f"'{each}'" for each in COLUMNS)})
    table.insert(columns, 1, id)
    return columns
end
local function leave(id)
    redis.call('ZREM', space .. 'active', id)
    redis.call('ZREM', space .. 'failed', id)
    local about = redis.call('HGET', named(id), 'about')
    if about and redis.call('HGET', space .. 'about', about) == id then redis.call('HDEL', space .. 'about', about) end
end
local function compared(id, version)
    local stored = redis.call('HGET', named(id), 'version')
    if not stored then return 'absent' end
    if stored ~= version then return stored end
end
"""

# ARGV: the id, the version or nothing to create it, the set that it belongs to or nothing, what it is about, its columns.
WRITE = f"""
{COMMON}
local id, version, place, about = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if version == '' then
    if redis.call('EXISTS', named(id)) == 1 then return {{'taken'}} end
else
    local other = compared(id, version)
    if other then return {{other}} end
end
if place ~= 'active' then about = '' end
local holder = about ~= '' and redis.call('HGET', space .. 'about', about)
if holder and holder ~= id then return {{'taken'}} end
leave(id)
local now, last = clock(), tonumber(redis.call('GET', space .. 'last') or '0')
if now <= last then now = last + 1 end
redis.call('SET', space .. 'last', text(now))
if version == '' then redis.call('HSET', named(id), 'version', 0, 'created', text(now)) end
redis.call('HINCRBY', named(id), 'version', 1)
redis.call('HSET', named(id), 'about', about, 'updated', text(now), 'type', ARGV[5], 'correlation', ARGV[6],
    'status', ARGV[7], 'step', ARGV[8], 'history', ARGV[9], 'payload', ARGV[10])
if place ~= '' then redis.call('ZADD', space .. place, text(now), id) end
if about ~= '' then redis.call('HSET', space .. 'about', about, id) end
return {{'done', unpack(redis.call('HMGET', named(id), 'created', 'updated'))}}
"""

GET = f"{COMMON} return state(ARGV[1])"

FIND = f"""
{COMMON}
local id = redis.call('HGET', space .. 'about', ARGV[1])
return id and state(id)
"""

DELETE = f"""
{COMMON}
local other = compared(ARGV[1], ARGV[2])
if other then return other end
leave(ARGV[1])
redis.call('DEL', named(ARGV[1]))
return false
"""

# ARGV: after which time, up to which, how old in microseconds, how many, and the sets. First comes the time it is.
LIST = f"""
{COMMON}
local now, found = clock(), {{}}
local up_to = ARGV[2]
if ARGV[3] ~= '' and (up_to == '+inf' or now - ARGV[3] < tonumber(up_to)) then up_to = text(now - ARGV[3]) end
for i = 5, #ARGV do
    local page = redis.call('ZRANGEBYSCORE', space .. ARGV[i], '(' .. ARGV[1], up_to, 'WITHSCORES', 'LIMIT', 0, ARGV[4])
    for j = 1, #page, 2 do table.insert(found, {{tonumber(page[j + 1]), page[j]}}) end
end
table.sort(found, function(one, other) return one[1] < other[1] end)
local answer = {{text(now)}}
for i = 1, math.min(#found, tonumber(ARGV[4])) do table.insert(answer, state(found[i][2])) end
return answer
"""

# ARGV: the worker, the lease and how old in microseconds, how many.
CLAIM = f"""
{COMMON}
local now, answer, after = clock(), {{}}, '-inf'
while true do
    local page = redis.call('ZRANGEBYSCORE', space .. 'active', after, text(now - ARGV[3]), 'WITHSCORES', 'LIMIT', 0, 100)
    for i = 1, #page, 2 do
        if #answer == tonumber(ARGV[4]) then return answer end
        after = '(' .. page[i + 1]
        if tonumber(redis.call('HGET', named(page[i]), 'until') or '0') <= now then
            redis.call('HSET', named(page[i]), 'worker', ARGV[1], 'until', text(now + ARGV[2]))
            table.insert(answer, state(page[i]))
        end
    end
    if #page < 200 then return answer end
end
"""

RELEASE = f"""
{COMMON}
local worker, over = unpack(redis.call('HMGET', named(ARGV[1]), 'worker', 'until'))
if worker ~= ARGV[2] or tonumber(over) <= clock() then return 0 end
return redis.call('HDEL', named(ARGV[1]), 'worker', 'until')
"""


class ValkeySagas(Translation, Client, Orchestrator):
    """Sagas in one Valkey or Redis server (no cluster: a script touches a saga and what it is found by)."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "list_incomplete correlation saga_lease delete compensation_execution "
        "lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[SagaLimits] = SagaLimits(
        key_bytes=512, value_bytes=2**20, history=1000, min_ttl=0.1, ttl_resolution=0.1, page_size=100, batch_size=100
    )

    def __init__(self, url: str, tenant: bytes, connections: int = 8) -> None:
        super().__init__()
        self._tenant = tenant
        self._space = SPACE + space_of(tenant)
        self._pool = open_pool(url)
        self._redis = Redis(connection_pool=self._pool)
        self._slots = asyncio.Semaphore(connections)
        scripts = (WRITE, GET, FIND, DELETE, LIST, CLAIM, RELEASE)
        self._scripts = {script: self._redis.register_script(script) for script in scripts}

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None, namespace: str | None = None) -> Self:
        """A client of the server at *url*; a *namespace* has sagas of its own. Connections are opened when they are needed."""
        return cls(url, scope(namespace, tenant_id))

    async def abandon(self) -> None:
        """End as if the process had been killed: connections break off, and tasks end where they are."""
        abort(self._pool)
        await self.close()

    async def create_state(self, state: SagaState) -> SagaState:
        """Store *state* at version 1."""
        row = Row.of(state, self.limits)
        return await self._write(f"create_state {row.saga_id!r}", row, None)

    async def get_state(self, saga_id: str) -> SagaState | None:
        """The state as it was last stored, or None."""
        check_id(saga_id, self.limits)
        return _state(await self._run(f"get_state {saga_id!r}", GET, saga_id))

    async def update_state(self, state: SagaState) -> SagaState:
        """Store *state* in the place of its version."""
        row = Row.of(state, self.limits)
        return await self._write(f"update_state {row.saga_id!r}", row, row.version)

    async def delete_state(self, saga_id: str, version: int) -> None:
        """Remove the saga if it is at *version*."""
        check_id(saga_id, self.limits)
        number = check_version(saga_id, version)
        found = await self._run(f"delete_state {saga_id!r}", DELETE, saga_id, number)
        if found is not None:
            raise _why_not(saga_id, found)

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        """The saga of this type that is not terminal and is about *correlation_id*, or None."""
        check_correlation(saga_type, correlation_id, self.limits)
        what = f"find_by_correlation {correlation_id!r}"
        return _state(await self._run(what, FIND, _about(saga_type, correlation_id)))

    async def list_incomplete(
        self,
        *,
        older_than: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
        include_failed: bool = False,
    ) -> SagaPage:
        """Sagas that are not terminal, those first that were updated longest ago; each page begins after the one before."""
        most, after = check_count(limit, self.limits.page_size), Position.of(cursor)
        age = "" if older_than is None else round(check_seconds("older_than", older_than) * 1e6)
        until = "+inf" if after.until is None else after.until
        sets = ["active", "failed"] if include_failed else ["active"]
        now, *rows = await self._run("list_incomplete", LIST, after.updated, until, age, most + 1, *sets)
        states = [state for row in rows[:most] if (state := _state(row)) is not None]
        if len(rows) <= most:
            return SagaPage(states)
        last = Position(int(rows[most - 1][-1]), states[-1].saga_id, int(now) if after.until is None else after.until)
        return SagaPage(states, last.cursor)

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        """Sagas that are not terminal and that nobody has: for *lease* seconds they are this worker's."""
        worker, most = check_worker(worker_id, self.limits), check_count(limit, self.limits.batch_size)
        seconds = (check_lease(lease, self.limits), check_seconds("older_than", older_than))
        rows = await self._run(f"claim_stuck {worker!r}", CLAIM, worker, *(round(each * 1e6) for each in seconds), most)
        return [state for row in rows if (state := _state(row)) is not None]

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        """Give the saga back, if this worker has it."""
        check_id(saga_id, self.limits)
        worker = check_worker(worker_id, self.limits)
        return bool(await self._run(f"release_stuck {saga_id!r}", RELEASE, saga_id, worker))

    async def _write(self, what: str, row: Row, version: int | None) -> SagaState:
        place = "active" if row.status in ACTIVE else "failed" if row.status in LISTED else ""
        columns = (row.saga_type, _marked(row.correlation_id), row.status, row.current_step, row.history, row.payload)
        about = b"" if row.correlation_id is None else _about(row.saga_type, row.correlation_id)
        outcome, *times = await self._run(what, WRITE, row.saga_id, "" if version is None else version, place, about, *columns)
        if outcome == b"taken":
            also = "" if row.correlation_id is None else f", or another one is about {row.correlation_id!r}"
            raise SagaAlreadyExistsError(f"saga {row.saga_id!r} exists{also}")
        if outcome != b"done":
            raise _why_not(row.saga_id, outcome)
        return row.at(1 if version is None else version + 1, Span(*map(int, times)))

    async def _run(self, what: str, script: str, *words: str | bytes | float) -> Any:
        async def work() -> Any:
            async with self._slots:
                registered: AsyncScript = self._scripts[script]
                return await cast("Awaitable[Any]", registered([self._space], words))

        return await self._call(what, work())

    async def _release(self) -> None:
        await self._redis.aclose()
        await self._pool.disconnect()


def _about(saga_type: str, correlation_id: str | None) -> bytes:
    """No other pair's; of a correlation that is None nobody's."""
    return b"" if correlation_id is None else space_of(saga_type.encode()) + correlation_id.encode()


def _marked(text: str | None) -> str:
    return "" if text is None else f"={text}"


def _why_not(saga_id: str, found: bytes) -> SagaNotFoundError | SagaStateConflictError:
    if found == b"absent":
        return SagaNotFoundError(f"there is no saga {saga_id!r}")
    return SagaStateConflictError(f"saga {saga_id!r} is at version {found.decode()} by now")


def _state(columns: Sequence[bytes | None] | None) -> SagaState | None:
    if columns is None or columns[1] is None:
        return None

    saga_id, saga_type, correlation, status, step, history, payload, *numbers = (bytes(each or b"").decode() for each in columns)
    version, created, updated = map(int, numbers)
    correlation_id = correlation[1:] if correlation else None
    row = Row(saga_id, saga_type, correlation_id, status, int(step), history, payload, version)
    return row.at(version, Span(created, updated))


async def make_sagas(
    *,
    tenant_id: str | None = None,
    namespace: str | None = None,
    address: tuple[str, int] | None = None,
    **config: object,
) -> ValkeySagas:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    url = await servers.connect_info(servers.valkey, address)
    return await ValkeySagas.connect(url, tenant_id=tenant_id, namespace=namespace)
