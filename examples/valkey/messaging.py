"""`producer` and `consumer` on streams of Valkey or Redis (from 7 on; no cluster), through `redis.asyncio`.

A topic is a stream, and a group of consumers is one of the stream's groups. The group "default" begins with what is there, so
that nothing is lost that was published before anybody subscribed; another one begins with its first subscription. A message is
deleted once every group that there is has ended it, so streams do not grow for ever; that also means that a group that nobody
needs any more has to be destroyed (XGROUP DESTROY), or its messages are kept for it.

What the server does not have, scripts do, each in one step:

- A lease. The stream knows for how long a message has not been heard of, but not for how long it may be silent: that is the
  visibility of whoever holds it, and is noted beside the stream. A sign of life is XCLAIM by the holder himself.
- Trying again. The message is claimed for a consumer that does not exist, and for which no lease ends, and waits in a sorted set
  for its time by the server's clock. Whoever of the group takes something first then claims it.
- What is due. Messages that were published for later (`delayed_messaging`) are moved into the stream by whoever takes something
  from it, of whatever group: a message can only arrive where somebody asks, so nobody else need watch the clock.

`ordering_by_key` is not declared: what is published keeps its order, but the server hands it out to the consumers of a group
without regard to keys, and so the second message of a key may be handled before the first. `strict_topics` is not: XADD makes
the stream. How much survives a crash of the server is a matter of its `appendonly` and `appendfsync`; without, nothing does.
"""

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from redis.asyncio import Connection, Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ResponseError

from examples import servers
from examples.common import arguments
from examples.common.consumers import DEFAULT_GROUP, LOOK, Consumer, Delivery, Source, Wishes
from examples.common.messages import Message, check_message, place
from examples.valkey.connections import Translation, abort, open_pool
from omnitck.shared.exceptions import InvalidArgumentError
from omnitck.shared.models import MessageLimits

__all__ = ["CLOCK", "ValkeyMessaging", "make_messaging"]

SPACE = "omnitck-messages:"

LEASE = 1.5
"""Seconds after which a message is handed out again whose holder gives no sign of life, unless he wished for others."""

SHORTEST_LEASE = 0.5

POLL = 0.25
"""Seconds that a source waits at the stream before it looks whether anything else is due that it could not know of."""

DEDUPLICATION = 3600.0
"""Seconds for which the id of a message is remembered that its publisher gave it."""

# Times are microseconds of the server's clock, which a double holds exactly. An entry of a stream has the fields (e)nvelope,
# (p)ayload and perhaps e(x)piry.

CLOCK = """
local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end
"""

# KEYS are two for each message: its stream, and what remembers its id. ARGV[1] is for how many milliseconds, and then there are
# four words for each message: envelope, payload, microseconds to live or '', and '1' if its id is to be remembered.
APPEND = (
    CLOCK
    + """
for i = 1, #KEYS / 2 do
    local envelope, payload, ttl, guarded = ARGV[4 * i - 2], ARGV[4 * i - 1], ARGV[4 * i], ARGV[4 * i + 1]
    if guarded == '' or redis.call('SET', KEYS[2 * i], '', 'NX', 'PX', ARGV[1]) then
        if ttl == '' then
            redis.call('XADD', KEYS[2 * i - 1], '*', 'e', envelope, 'p', payload)
        else
            redis.call('XADD', KEYS[2 * i - 1], '*', 'e', envelope, 'p', payload, 'x', clock() + ttl)
        end
    end
end
"""
)

# In the scripts of a source KEYS are the stream, the sorted set of what is tried again, the hash of leases, the sorted set of
# what is due later, and the dead-letter stream; ARGV begins with the group, the consumer, and the consumer that does not exist.
GROUP = (
    CLOCK
    + """
local stream, again, leases = KEYS[1], KEYS[2], KEYS[3]
local group, me, nobody = ARGV[1], ARGV[2], ARGV[3]

local function named(flat)
    local fields = {}
    for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
    return fields
end

local function parts(id)
    local time, number = string.match(id, '(%d+)-(%d+)')
    return tonumber(time), tonumber(number)
end

local function is_after(one, other)
    local time, number = parts(one)
    local other_time, other_number = parts(other)
    return time > other_time or (time == other_time and number > other_number)
end

-- How often the message was handed out, if it is still with this consumer, and otherwise nil.
local function count_of(id)
    local mine = redis.call('XPENDING', stream, group, id, id, 1, me)[1]
    return mine and mine[4]
end

-- *count* is how often the message was handed out so far.
local function put_back(id, due, count)
    redis.call('XCLAIM', stream, group, nobody, 0, id, 'RETRYCOUNT', count, 'JUSTID')
    redis.call('ZADD', again, due, id)
end

-- End the message for this group, and delete it if no other group needs it.
local function finish(id)
    redis.call('ZREM', again, id)
    if redis.call('XACK', stream, group, id) == 0 then return end
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local other = named(flat)
        if is_after(id, other['last-delivered-id']) then return end
        if #redis.call('XPENDING', stream, other.name, id, id, 1) > 0 then return end
    end
    redis.call('XDEL', stream, id)
end
"""
)

# ARGV[4] is where a new group begins, ARGV[5] the lease in milliseconds.
OPEN = (
    GROUP
    + """
local made = redis.pcall('XGROUP', 'CREATE', stream, group, ARGV[4], 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
redis.call('XGROUP', 'CREATECONSUMER', stream, group, me)
redis.call('HSET', leases, me, ARGV[5])
"""
)

# ARGV[4] is the lease in milliseconds, ARGV[5] how many messages there may be, ARGV[6] whether to look for those whose lease has
# ended, and the ids follow of those that are being handled here. Returned are the microseconds until something is due, -1 for
# never, and the messages: their ids, the number of the delivery, and their fields.
TAKE = (
    GROUP
    + """
local due, now, most = KEYS[4], clock(), tonumber(ARGV[5])
redis.call('HSET', leases, me, ARGV[4])

for _, key in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 100)) do
    local message = redis.call('HMGET', key, 'e', 'p')
    if message[1] then redis.call('XADD', stream, '*', 'e', message[1], 'p', message[2]) end
    redis.call('DEL', key)
    redis.call('ZREM', due, key)
end

local taken = {}
local function claim(id, count)
    if #taken >= most then return end
    for _, entry in ipairs(redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', count)) do
        taken[#taken + 1] = {id, count, entry[2]}
    end
end

-- What this consumer holds and does not know of was in a reply that got lost: nobody has handled it.
local held, count = {}, most + #ARGV
for i = 7, #ARGV do held[ARGV[i]] = true end
for _, lost in ipairs(redis.call('XPENDING', stream, group, '-', '+', count, me)) do
    if not held[lost[1]] then claim(lost[1], lost[4]) end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', again, '-inf', now, 'LIMIT', 0, most - #taken)) do
    redis.call('ZREM', again, id)
    local waiting = redis.call('XPENDING', stream, group, id, id, 1)[1]
    if waiting then claim(id, waiting[4] + 1) end
end

if ARGV[6] ~= '' then
    for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
        local holder = named(flat)
        if holder.name == me or holder.name == nobody then
            -- The one is known, and the other keeps nothing from anybody.
        elseif holder.pending == 0 and holder.idle > 60000 then
            redis.call('XGROUP', 'DELCONSUMER', stream, group, holder.name)
            redis.call('HDEL', leases, holder.name)
        elseif holder.pending > 0 then
            local lease = redis.call('HGET', leases, holder.name) or ARGV[4]
            for _, lost in ipairs(redis.call('XPENDING', stream, group, 'IDLE', lease, '-', '+', most, holder.name)) do
                claim(lost[1], lost[4] + 1)
            end
        end
    end
end

for round = 1, 100 do
    if #taken >= most then break end
    local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', most - #taken, 'STREAMS', stream, '>')
    if not read then break end
    for _, entry in ipairs(read[1][2]) do
        local expiry = named(entry[2]).x
        if expiry and tonumber(expiry) <= now then
            finish(entry[1])
        else
            taken[#taken + 1] = {entry[1], 1, entry[2]}
        end
    end
    if round == 100 then return {0, taken} end
end

local wait = -1
for _, waiting in ipairs({due, again}) do
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
    if first[2] then
        local left = math.max(tonumber(first[2]) - now, 0)
        if wait < 0 or left < wait then wait = left end
    end
end
return {wait, taken}
"""
)

# In the following ARGV[4] is the id of the message.
DONE = GROUP + "finish(ARGV[4])"

# ARGV[5] is for how many microseconds the message waits.
AGAIN = (
    GROUP
    + """
local count = count_of(ARGV[4])
if count then put_back(ARGV[4], clock() + ARGV[5], count) end
"""
)

EXTEND = GROUP + "if count_of(ARGV[4]) then redis.call('XCLAIM', stream, group, me, 0, ARGV[4], 'JUSTID') end"

# ARGV[5] and ARGV[6] are envelope and payload.
BURY = (
    GROUP
    + """
if not count_of(ARGV[4]) then return end
redis.call('XADD', KEYS[5], '*', 'e', ARGV[5], 'p', ARGV[6])
finish(ARGV[4])
"""
)

# What is left was in replies that got lost: it does not count as handed out.
CLOSE = (
    GROUP
    + """
while true do
    local left = redis.call('XPENDING', stream, group, '-', '+', 100, me)
    for _, each in ipairs(left) do put_back(each[1], clock(), math.max(each[4] - 1, 0)) end
    if #left == 0 then break end
end
redis.call('XGROUP', 'DELCONSUMER', stream, group, me)
redis.call('HDEL', leases, me)
"""
)

NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Entry:
    """A message on its way into its stream."""

    message: Message
    guarded: bool = False
    ttl: float | None = None


class Transaction:
    """Collects what is published, until the context of the transaction ends."""

    def __init__(self, client: "ValkeyMessaging") -> None:
        self._client = client
        self.entries: list[Entry] = []
        self.is_over = False

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Publish a message when the transaction ends; its id."""
        entry = self._client._entry(topic, payload, key, headers, message_id, ttl)
        if self.is_over:
            raise InvalidArgumentError(f"publish to {topic!r}: the transaction is over")
        self.entries.append(entry)
        return entry.message.id


class ValkeyMessaging(Translation, Consumer):
    """A producer and consumer in one Valkey or Redis server."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish atomic_batch deduplication transactional_publish message_ttl "
        "stopping delivery_metadata fan_out concurrency dead_letter nack_redelivery visibility_timeout batch_consume "
        "lifecycle validation shared availability limits".split()
    )
    limits: MessageLimits = MessageLimits(
        key_bytes=1024, value_bytes=2**20, headers=64, min_ttl=0.1, ttl_resolution=0.1, redeliver=2.0
    )

    def __init__(self, url: str, tenant_id: str | None = None, connections: int = 8) -> None:
        super().__init__(tenant_id)
        self.pool = open_pool(url)
        self.redis = Redis(connection_pool=self.pool)
        self._slots = asyncio.Semaphore(connections)
        self._append = self.redis.register_script(APPEND)
        self.scripts = {
            name: self.redis.register_script(text)
            for name, text in (
                ("open", OPEN),
                ("take", TAKE),
                ("done", DONE),
                ("again", AGAIN),
                ("extend", EXTEND),
                ("bury", BURY),
                ("close", CLOSE),
            )
        }

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*; connections are opened when they are needed."""
        return cls(url, tenant_id)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Publish a message; its id, once the server has it. An id of the publisher's own is remembered for an hour."""
        entry = self._entry(topic, payload, key, headers, message_id, ttl)
        await self._accepted(f"publish to {topic!r}", self._add([entry]))
        return entry.message.id

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Publish together, in one script, what is published to the yielded producer; nothing if the body raises."""
        self._check_open()
        transaction = Transaction(self)
        try:
            yield transaction
        finally:
            transaction.is_over = True
        if transaction.entries:
            topics = sorted({each.message.topic for each in transaction.entries})
            await self._accepted(f"publish to {topics!r}", self._add(transaction.entries))

    def stream(self, topic: str) -> str:
        """The key of the stream of *topic*."""
        return SPACE + place(self._tenant, topic)

    def due(self, topic: str) -> str:
        """The key of the sorted set of what is to be moved into that stream."""
        return self.stream(topic) + ":due"

    def unblock(self, connection: int) -> None:
        """Let the server answer what waits on the *connection* of this number."""
        if not self._released:
            self._start(cast("Coroutine[Any, Any, Any]", self.redis.client_unblock(connection)))

    @property
    def is_released(self) -> bool:
        """Whether there are no connections any more."""
        return self._released

    def _entry(
        self, topic: str, payload: bytes, key: str | None, headers: Mapping[str, str] | None, id: str | None, ttl: float | None
    ) -> Entry:
        if id is not None:
            arguments.encode_key(id, self.limits)
        message = check_message(topic, payload, key, headers, self.limits, id=id)
        return Entry(message, id is not None, arguments.parse_ttl(topic, ttl, self.limits))

    async def _send(self, message: Message) -> None:
        await self._add([Entry(message)])

    async def _send_many(self, messages: Sequence[Message]) -> Mapping[str, Exception]:
        await self._add(map(Entry, messages))
        return {}

    async def _add(self, entries: Iterable[Entry]) -> None:
        """All *entries* in one script, which is all or none of them."""
        keys: list[str] = []
        words: list[Any] = [math.ceil(DEDUPLICATION * 1000)]
        for each in entries:
            stream = self.stream(each.message.topic)
            keys += [stream, f"{stream}:id:{each.message.id}" if each.guarded else stream]
            words += [
                each.message.envelope(),
                each.message.payload,
                "" if each.ttl is None else math.ceil(each.ttl * 1e6),
                "1" if each.guarded else "",
            ]
        await self._run(self._append, keys, words)

    async def _run(self, script: AsyncScript, keys: Sequence[str], words: Sequence[Any]) -> Any:
        """One script, on a connection of its own while it lasts."""
        async with self._slots:
            return await cast("Awaitable[Any]", script(keys, words))

    async def _open_source(self, topic: str, wishes: Wishes) -> Source:
        source = ValkeySource(self, topic, wishes)
        await source.open()
        return source

    async def _release(self) -> None:
        await self.redis.aclose()
        await self.pool.disconnect()

    async def abandon(self) -> None:
        """End as if the process had been killed."""
        await super().abandon()
        await self.pool.disconnect()  # which only forgets them: they are broken

    def _abort(self) -> None:
        abort(self.pool)


class ValkeySource(Source):
    """One consumer of a group."""

    def __init__(self, client: ValkeyMessaging, topic: str, wishes: Wishes) -> None:
        self._client = client
        self._topic = topic
        self._group = wishes.group
        self._name = uuid.uuid4().hex
        self._stream = client.stream(topic)
        group = f"{self._stream}:group:{wishes.group}"
        self._keys = [self._stream, f"{group}:again", f"{group}:leases", client.due(topic)]
        self.lease = LEASE if wishes.visibility is None else max(wishes.visibility, SHORTEST_LEASE)
        self._milliseconds = math.ceil(self.lease * 1000)
        self._handled: dict[bytes, Delivery] = {}
        self._unsaid: list[tuple[Delivery, str, tuple[Any, ...], Sequence[str]]] = []
        self._looked = -math.inf
        self._turn = asyncio.Lock()
        self._reader: Connection | None = None
        self._reader_id: int | None = None
        self._hurrying = False

    async def open(self) -> None:
        """Be one of the group, which is made if need be."""
        await self._script("open", "0" if self._group == DEFAULT_GROUP else "$", self._milliseconds)

    async def take(self, most: int) -> list[Delivery]:
        """One worker at a time waits for messages: so a subscription needs one connection for that, not one for each."""
        try:
            async with asyncio.timeout(LOOK):
                await self._turn.acquire()
        except TimeoutError:
            return []
        try:
            return [] if self._hurrying else await self._take(most)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            await self.open()  # somebody has emptied the server
            return []
        finally:
            self._turn.release()

    async def _take(self, most: int) -> list[Delivery]:
        await self._say_again()
        now = asyncio.get_running_loop().time()
        look = now >= self._looked + POLL
        if look:
            self._looked = now
        wait, taken = await self._script("take", self._milliseconds, most, "1" if look else "", *self._handled)
        if taken:
            return self._deliveries(taken)

        # What comes while this waits is new, so neither has it expired nor was it tried before.
        seconds = POLL if wait < 0 else min(wait / 1e6, POLL)
        if seconds == 0:
            return []
        read = await self._wait_for(most, math.ceil(seconds * 1000))
        return self._deliveries((id, 1, flat) for _, entries in read or () for id, flat in entries)

    async def _wait_for(self, most: int, milliseconds: int) -> Any:
        """Read what is new, and wait for it, on a connection of this source's own, which `hurry` can find in the server."""
        if self._reader is None:
            self._reader = cast(Connection, await self._client.pool.get_connection())  # type: ignore[no-untyped-call]
        if not self._reader.is_connected or self._reader_id is None:
            self._reader_id = None
            await self._reader.send_command("CLIENT", "ID")
            self._reader_id = await self._reader.read_response()
        if self._hurrying:
            return []
        group = ("GROUP", self._group, self._name)
        await self._reader.send_command("XREADGROUP", *group, "COUNT", most, "BLOCK", milliseconds, "STREAMS", self._stream, ">")
        return await self._reader.read_response()

    def hurry(self) -> None:
        if not self._hurrying:
            self._hurrying = True
            if self._reader_id is not None:
                self._client.unblock(self._reader_id)

    def _deliveries(self, taken: Iterable[tuple[bytes, int, Sequence[bytes]]]) -> list[Delivery]:
        """The messages behind ids, numbers of deliveries and fields; their leases are from now on kept here."""
        deliveries = []
        for id, attempt, flat in taken:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            deliveries.append(Delivery(Message.opened(self._topic, fields[b"p"], fields[b"e"]), attempt, id))
        self._handled.update((each.receipt, each) for each in deliveries)
        return deliveries

    async def done(self, delivery: Delivery) -> None:
        await self._end("done", delivery)

    async def again(self, delivery: Delivery, delay: float) -> None:
        await self._end("again", delivery, math.ceil(delay * 1e6))

    async def bury(self, delivery: Delivery, topic: str) -> bool:
        dead = self._client.stream(topic)
        await self._end("bury", delivery, delivery.message.envelope(), delivery.message.payload, keys=[dead])
        return True

    async def extend(self, delivery: Delivery) -> None:
        await self._script("extend", delivery.receipt)

    async def close(self) -> None:
        if self._client.is_released:
            return
        try:
            await self._say_again()
            await self._script("close")
        finally:
            if self._reader is not None:
                await self._client.pool.release(self._reader)

    async def _end(self, script: str, delivery: Delivery, *words: Any, keys: Sequence[str] = ()) -> None:
        """Say what becomes of a message; what the server may not have heard is said again as soon as it answers."""
        try:
            await self._script(script, delivery.receipt, *words, keys=keys)
        except BaseException:
            self._unsaid.append((delivery, script, words, keys))
            raise
        self._forget(delivery)

    async def _say_again(self) -> None:
        """To say it twice does no harm: each script looks first whether the message is still here."""
        for each in self._unsaid[:]:
            delivery, script, words, keys = each
            with contextlib.suppress(ResponseError):  # a dead letter that cannot be written must not hold up the others
                if self._handled.get(delivery.receipt) is delivery:
                    await self._script(script, delivery.receipt, *words, keys=keys)
                self._unsaid.remove(each)
                self._forget(delivery)

    def _forget(self, delivery: Delivery) -> None:
        """It has ended; the same message may have come again meanwhile, as another delivery."""
        if self._handled.get(delivery.receipt) is delivery:
            del self._handled[delivery.receipt]

    async def _script(self, name: str, *words: Any, keys: Sequence[str] = ()) -> Any:
        script = self._client.scripts[name]
        return await cast("Awaitable[Any]", script([*self._keys, *keys], [self._group, self._name, NOBODY, *words]))


async def make_messaging(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> ValkeyMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_REDIS_URL``."""
    return await ValkeyMessaging.connect(await servers.connect_info(servers.valkey, address), tenant_id=tenant_id)
