"""Correct managers of distributed locks of an unusual kind."""

import asyncio
import itertools
import math
import random
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.reference.distributed_lock import MemoryLockManager, MemoryLockServer
from omnitck.resilience.distributed_lock import DistributedLock, DistributedLockContract, LockManagerProtocol
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.clock import ManualClock
from omnitck.shared.exceptions import ClosedError, InvalidArgumentError, LockLostError, LockNotAcquiredError, TooLargeError
from omnitck.shared.models import LockLimits
from omnitck.unusual import unusual
from omnitck.unusual.wire import WireClient, WireHooks, WireServer

__all__ = ["Boundless", "Exact", "Late", "OverTCP", "Plainest", "Queueing", "Revisions"]


# The plainest.


class PlainLock:
    """Writes down who it is, and until when."""

    def __init__(self, held: dict[str, tuple["PlainLock", float]], name: str, ttl: float) -> None:
        self._held = held
        self._name = name
        self._ttl = ttl
        self._done = True

    async def acquire(self) -> bool:
        now = time.monotonic()
        if self._name in self._held and now < self._held[self._name][1]:
            return False
        self._held[self._name] = (self, now + self._ttl)
        self._done = False
        return True

    async def release(self) -> bool:
        owner, until = self._held.get(self._name, (None, 0.0))
        if owner is not self or time.monotonic() >= until:
            return False
        del self._held[self._name]
        self._done = True
        return True

    async def __aenter__(self) -> bool:
        if await self.acquire():
            return True
        raise LockNotAcquiredError

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._done and not await self.release() and kind is None:
            raise LockLostError


class PlainLockManager:
    """Hands out locks."""

    def __init__(self, held: dict[str, tuple[PlainLock, float]]) -> None:
        self._held = held

    def get_lock(self, lock_name: str, ttl: float) -> PlainLock:
        return PlainLock(self._held, lock_name, ttl)


@unusual
class Plainest(DistributedLockContract):
    """Two methods and a context over a dictionary: no capability, no limits, nothing is refused, and never a turn of the loop.

    A rule that needs more than the core demands, or more than half a minute of its default numbers, would reject it.
    """

    def setUp(self) -> None:
        self.held: dict[str, tuple[PlainLock, float]] = {}

    async def make_provider(self, **config: object) -> LockManagerProtocol:
        return PlainLockManager(self.held)


# What is longer than asked, and slow.


class Session:
    """What a server keeps of one `acquire`: the lock belongs to a session, which ends late."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.until = 0.0


class LateServer:
    """Sessions last for `min_ttl` at least, and are ended by a sweep, as late as is declared."""

    def __init__(self, limits: LockLimits) -> None:
        self.limits = limits
        self.random = random.Random(7)
        self.holders: dict[str, Session] = {}

    async def trip(self) -> None:
        await anyio.sleep(self.random.uniform(0.0, 0.02))

    def holder(self, name: str) -> Session | None:
        session = self.holders.get(name)
        return session if session is not None and time.monotonic() < session.until else None

    def prolong(self, session: Session, ttl: float) -> None:
        late = self.random.uniform(0.0, 0.9 * self.limits.ttl_resolution)
        session.until = time.monotonic() + max(ttl, self.limits.min_ttl) + late


class LateLock:
    """Makes a session for each `acquire`; its release is done when two of three nodes have heard of it."""

    def __init__(self, manager: "LateManager", name: str, ttl: float) -> None:
        self.manager = manager
        self.server = manager.server
        self.name = name
        self.ttl = ttl
        self.session: Session | None = None

    async def acquire(self) -> bool:
        if (
            not isinstance(self.name, str)
            or not self.name
            or "\x00" in self.name
            or any("\ud800" <= c <= "\udfff" for c in self.name)
        ):
            raise InvalidArgumentError(f"lock {self.name!r}: no name")
        if len(self.name.encode()) > self.server.limits.key_bytes:
            raise TooLargeError(f"lock {self.name!r}: a name that is too long")
        self.manager.check_ttl(self.name, self.ttl)
        await self.manager.trip()
        session = Session(self.name)
        await self.manager.trip()
        if self.server.holder(self.name) is not None:
            return False
        self.server.prolong(session, self.ttl)
        self.server.holders[self.name] = session
        self.session = session
        await self.server.trip()
        return self.server.holders.get(self.name) is session and time.monotonic() < session.until

    async def release(self) -> bool:
        session = self.session
        if session is None:
            self.manager.check_open()
            return False
        await self.manager.trip()
        if self.server.holder(self.name) is not session:
            return False
        answers = anyio.Event()

        async def node(number: int) -> None:
            await anyio.sleep(0.005 * number)
            if number == 1:
                answers.set()

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(node, number)
            await answers.wait()
            tasks.cancel_scope.cancel()
        if self.server.holder(self.name) is not session:
            return False
        del self.server.holders[self.name]
        return True

    async def renew(self, ttl: float | None = None) -> bool:
        if ttl is not None:
            self.manager.check_ttl(self.name, ttl)
        await self.manager.trip()
        if self.session is None or self.server.holder(self.name) is not self.session:
            return False
        self.server.prolong(self.session, self.ttl if ttl is None else ttl)
        return True

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise LockNotAcquiredError(f"lock {self.name!r} is held")
        self.entered = self.session
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        entered, now_held = self.entered, self.server.holders.get(self.name)
        if now_held is not entered and (entered is None or time.monotonic() < entered.until):
            return False  # The body has released it.
        with anyio.CancelScope(shield=True):
            released = await self.release()
        if not released and kind is None:
            raise LockLostError(f"lock {self.name!r} was lost")
        return False


class LateManager:
    """One client of such a server."""

    def __init__(self, server: LateServer, capabilities: frozenset[str]) -> None:
        self.server = server
        self.capabilities = capabilities
        self.limits = server.limits
        self.closed = False

    def get_lock(self, lock_name: str, ttl: float) -> LateLock:
        return LateLock(self, lock_name, ttl)

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError("this client is closed")

    def check_ttl(self, name: str, ttl: object) -> None:
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < math.inf:
            raise InvalidArgumentError(f"lock {name!r}: a ttl of {ttl!r}")
        if ttl > self.limits.max_ttl:
            raise TooLargeError(f"lock {name!r}: a ttl of {ttl!r} s")

    async def trip(self) -> None:
        self.check_open()
        await self.server.trip()
        self.check_open()

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


@unusual
class Late(DistributedLockContract):
    """Leases are rounded up, and end late; each call takes up to 20 ms, and a release asks three nodes.

    A rule that knows other numbers than the declared ones, or thinks that a lease ends when it was asked to, would reject it.
    """

    capabilities = frozenset("lease_renewal lifecycle validation shared limits".split())
    limits = LockLimits(min_ttl=0.3, ttl_resolution=0.35, max_ttl=600.0)

    def setUp(self) -> None:
        self.server = LateServer(self.limits)

    async def make_provider(self, **config: object) -> LateManager:
        return LateManager(self.server, self.declared)


# Revisions, polls, and events.


class Store:
    """Keys with an owner, an end, and the revision of the whole store at which they were made."""

    def __init__(self) -> None:
        self.revision = 1000
        self.keys: dict[str, tuple[str, float, int]] = {}

    def live(self, name: str) -> tuple[str, float, int] | None:
        self.revision += 1  # others write, too
        found = self.keys.get(name)
        if found is not None and time.monotonic() >= found[1]:
            del self.keys[name]
            return None
        return found


class RevisionLock:
    """Its token is the revision at which its key was made; who waits, polls; a task of its own watches each lease."""

    def __init__(self, manager: "RevisionManager", name: str, ttl: float, renews: bool) -> None:
        self.manager = manager
        self.store = manager.store
        self.name = name
        self.ttl = ttl
        self.renews = renews
        self.owner = ""
        self.until = 0.0
        self.token: int | None = None
        self.lost = anyio.Event()
        self.watching = anyio.CancelScope()
        self.over = True

    async def acquire(self, timeout: float = 0.0) -> bool:
        give_up = time.monotonic() + timeout
        while True:
            called = time.monotonic()
            await self.manager.trip()
            if self.store.live(self.name) is None:
                return await self.made(called)
            if time.monotonic() >= give_up:
                return False
            await anyio.sleep(min(0.02, max(give_up - time.monotonic(), 0.0)))

    async def made(self, called: float) -> bool:
        """Make the key; whether what is left of the lease, counted from the call, is anything."""
        owner = uuid.uuid4().hex
        self.store.revision += 7
        self.store.keys[self.name] = (owner, time.monotonic() + self.ttl, self.store.revision)
        self.owner, self.until, self.token = owner, called + self.ttl, self.store.revision
        self.over = False
        self.lost = anyio.Event()
        self.watching.cancel()
        self.watching = anyio.CancelScope()
        self.manager.tasks.start_soon(self.watch, self.watching, self.lost)
        return time.monotonic() < self.until

    async def watch(self, scope: anyio.CancelScope, lost: anyio.Event) -> None:
        """Renew a lease, if that is asked for, and tell when it is over."""
        with scope:
            while (left := self.until - time.monotonic()) > 0:
                if self.renews and not self.manager.closed:
                    await anyio.sleep(min(self.ttl / 4, left))
                    await self.renew()
                else:
                    await anyio.sleep(left)
            lost.set()

    def own(self) -> bool:
        found = self.store.live(self.name)
        return found is not None and found[0] == self.owner

    async def renew(self, ttl: float | None = None) -> bool:
        called = time.monotonic()
        await self.manager.trip()
        if not self.own():
            return False
        ttl = self.ttl if ttl is None else ttl
        owner, _, revision = self.store.keys[self.name]
        self.store.keys[self.name] = (owner, time.monotonic() + ttl, revision)
        lasted, self.until = self.until, called + ttl
        if not self.renews and self.until < lasted:
            self.watching.cancel()
            self.watching = anyio.CancelScope()
            self.manager.tasks.start_soon(self.watch, self.watching, self.lost)
        return True

    async def release(self) -> bool:
        await self.manager.trip()
        if not self.own():
            return False
        del self.store.keys[self.name]
        self.over = True
        self.watching.cancel()
        return True

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise Taken(f"{self.name!r} is taken")
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.over:
            return
        with anyio.CancelScope(shield=True):
            released = await self.release()
        if not released and kind is None:
            raise Gone(f"{self.name!r} is gone")


class Taken(LockNotAcquiredError):
    """Its own word for a lock that is held."""


class Gone(LockLostError):
    """Its own word for a lease that has ended."""


class RevisionManager:
    """One client, whose tasks live in its context; a closing one frees what it holds."""

    capabilities = frozenset(
        "lease_renewal auto_renew fencing_token blocking_acquire loss_notification inspection lifecycle shared".split()
    )
    limits = LockLimits(min_ttl=0.1, ttl_resolution=0.05, deliver=0.25)

    def __init__(self, store: Store, tasks: anyio.abc.TaskGroup) -> None:
        self.store = store
        self.tasks = tasks
        self.closed = False
        self.locks: list[RevisionLock] = []

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False) -> RevisionLock:
        lock = RevisionLock(self, lock_name, ttl, auto_renew)
        self.locks.append(lock)
        return lock

    async def is_locked(self, lock_name: str) -> bool:
        await self.trip()
        return self.store.live(lock_name) is not None

    async def trip(self) -> None:
        if self.closed:
            raise ClosedError("this client is closed")
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise ClosedError("this client is closed")

    async def close(self) -> None:
        self.closed = True
        for lock in self.locks:
            lock.watching.cancel()
            if not lock.over and lock.own():
                del self.store.keys[lock.name]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


@unusual
class Revisions(DistributedLockContract):
    """Tokens are revisions with gaps, waiters poll, `lost` is an anyio.Event, and closing frees what is held.

    A rule that counts tokens, compares the types of errors, or expects that a closed client's locks stay held, would reject it.
    """

    capabilities = RevisionManager.capabilities

    def setUp(self) -> None:
        self.store = Store()

    @asynccontextmanager
    async def make_provider(self, **config: object) -> AsyncIterator[RevisionManager]:  # type: ignore[override]
        async with anyio.create_task_group() as tasks:
            manager = RevisionManager(self.store, tasks)
            try:
                yield manager
            finally:
                await manager.close()
                tasks.cancel_scope.cancel()

    async def crash(self, client: Any) -> None:
        client.closed = True
        for lock in client.locks:
            lock.watching.cancel()


# A queue.


class Ticket:
    """A place in the queue for a lock, and what became of it."""

    def __init__(self, ttl: float, at_least: float) -> None:
        self.ttl = ttl
        self.at_least = at_least
        self.called = asyncio.Event()
        self.until = math.inf
        self.kept = 0.0


class Counter:
    """The server of a fair queue. Each lock is the queue itself: who is first in it holds the lock."""

    def __init__(self) -> None:
        self.queues: defaultdict[str, list[Ticket]] = defaultdict(list)
        self.timers: dict[str, asyncio.TimerHandle] = {}

    def first(self, name: str) -> Ticket | None:
        self.serve(name)
        return self.queues[name][0] if self.queues[name] else None

    def serve(self, name: str) -> None:
        """Let those go whose lease has ended, and begin that of the next."""
        queue = self.queues[name]
        while queue and queue[0].called.is_set() and time.monotonic() >= queue[0].until:
            queue.pop(0)
        if queue and not queue[0].called.is_set():
            ticket = queue[0]
            ticket.until = time.monotonic() + ticket.ttl
            ticket.kept = time.monotonic() + ticket.at_least
            ticket.called.set()
        if name in self.timers:
            self.timers.pop(name).cancel()
        if len(queue) > 1:
            delay = queue[0].until - time.monotonic()
            self.timers[name] = asyncio.get_running_loop().call_later(delay, self.serve, name)

    def leave(self, name: str, ticket: Ticket) -> bool:
        """Whether *ticket* held the lock, which then is the next one's."""
        held = self.first(name) is ticket
        if ticket in self.queues[name]:
            if held and time.monotonic() < ticket.kept:
                ticket.until = ticket.kept
            else:
                self.queues[name].remove(ticket)
            self.serve(name)
        return held


class QueueLock:
    """Takes a ticket for each `acquire`."""

    def __init__(self, manager: "QueueManager", name: str, ttl: float, at_least: float) -> None:
        self.manager = manager
        self.counter = manager.counter
        self.name = name
        self.ttl = ttl
        self.at_least = at_least
        self.ticket: Ticket | None = None

    async def acquire(self, timeout: float = 0.0) -> bool:
        await self.manager.trip()
        if not timeout and self.counter.first(self.name) is not None:
            return False
        ticket = Ticket(self.ttl, self.at_least)
        self.counter.queues[self.name].append(ticket)
        self.counter.serve(self.name)
        waiting = asyncio.ensure_future(ticket.called.wait())
        self.manager.waiting.add(waiting)
        try:
            await asyncio.wait([waiting], timeout=timeout)
        except BaseException:
            self.counter.leave(self.name, ticket)
            raise
        finally:
            self.manager.waiting.discard(waiting)
            waiting.cancel()
        if self.manager.closed or not ticket.called.is_set():
            self.counter.leave(self.name, ticket)
            await self.manager.trip()
            return False
        self.ticket = ticket
        return True

    async def release(self) -> bool:
        await self.manager.trip()
        ticket = self.ticket
        if ticket is None or not self.counter.leave(self.name, ticket):
            return False
        self.ticket = None
        return True

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise LockNotAcquiredError(self.name)
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if self.ticket is None:
            return False
        leaving = asyncio.ensure_future(self.release())  # It goes on where the wait for it is cancelled.
        self.manager.leaving.add(leaving)
        leaving.add_done_callback(self.manager.leaving.discard)
        if not await asyncio.shield(leaving) and kind is None:
            raise LockLostError(self.name)
        return False


class QueueManager:
    """One client of it."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.closed = False
        self.waiting: set[asyncio.Future[Any]] = set()
        self.leaving: set[asyncio.Future[bool]] = set()

    def get_lock(self, lock_name: str, ttl: float, *, at_least: float = 0.0, **options: object) -> QueueLock:
        if options:
            raise TypeError(f"get_lock() got an unexpected keyword argument {next(iter(options))!r}")
        if at_least > ttl:
            raise InvalidArgumentError(f"{lock_name!r} is not kept for longer than its lease")
        return QueueLock(self, lock_name, ttl, at_least)

    async def trip(self) -> None:
        if not self.closed:
            await asyncio.sleep(0.001)
        if self.closed:
            raise ClosedError("closed")

    async def close(self) -> None:
        self.closed = True
        for each in self.waiting:
            each.cancel()


@unusual
class Queueing(DistributedLockContract):
    """A lock is a queue, whose first has it; each `acquire` takes another ticket, and the next is called the moment it can be.

    The exit of a body returns False, and of a cancelled one leaves the release to a task. A rule that thinks of a record, of an
    owner that is the same in each `acquire`, or that a lock is free the moment a cancelled body is left, would reject it.
    """

    capabilities = frozenset("blocking_acquire fair hold_at_least shared".split())
    limits = LockLimits(min_ttl=0.0, ttl_resolution=0.02, max_ttl=math.inf, deliver=0.1)

    def setUp(self) -> None:
        self.counter = Counter()

    async def make_provider(self, **config: object) -> QueueManager:
        return QueueManager(self.counter)


# The largest and the smallest numbers.


class LateLeases(MemoryLockServer):
    """Each lease ends as late as is declared."""

    def kept(self, ttl: float) -> float:
        return super().kept(ttl) + 0.99 * self.limits.ttl_resolution


class Jumping(DistributedLockContract):
    """Base of suites of the reference with numbers of their own, on a clock that is moved."""

    clock: ManualClock
    server: MemoryLockServer

    async def make_provider(self, *, tenant_id: str | None = None, **config: object) -> MemoryLockManager:
        return MemoryLockManager(self.server, tenant_id=tenant_id, capabilities=self.declared)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.notify()

    async def crash(self, client: Any) -> None:
        client.vanish()


@unusual
class Boundless(Jumping):
    """Every number is the largest that there is, or has no bound, and leases end as late as they may.

    A rule that computes with a number what a test cannot wait for, or a wait that has to pass in steps, would reject it.
    """

    capabilities = known_capabilities("distributed_lock") - {"availability"}
    limits = LockLimits(
        key_bytes=2**40, value_bytes=2**40, min_ttl=60, ttl_resolution=60, max_ttl=math.inf, deliver=60, staleness=60
    )

    def setUp(self) -> None:
        self.clock = ManualClock(1e9)
        self.server = LateLeases(clock=self.clock, limits=self.limits)


@unusual
class Exact(Jumping):
    """Every number is the smallest that there is: each lease ends when it was asked to, and a waiter is told at once.

    A rule that divides by a number, or waits for as long as it says and no turn longer, would reject it.
    """

    capabilities = known_capabilities("distributed_lock") - {"availability"}
    limits = LockLimits(min_ttl=0, ttl_resolution=0, deliver=0, page_size=1, batch_size=1)

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.server = MemoryLockServer(clock=self.clock, limits=self.limits)


# Over a network.


class LockWireServer(WireServer):
    """Grants locks to attempts: the same attempt, asked again, has the same answer."""

    def __init__(self) -> None:
        super().__init__()
        self._leases: dict[str, tuple[str, float]] = {}

    def _answer(self, verb: str, key: str, value: str = "") -> str | None:
        now = time.monotonic()
        attempt, _, ttl = value.partition(" ")
        owner, until = self._leases.get(key, ("", 0.0))
        if now >= until:
            owner = ""
        if verb == "acquire":
            if owner not in ("", attempt):
                return None
            if not owner:
                self._leases[key] = (attempt, now + float(ttl))
            return "granted"
        if verb == "release" and owner and owner == attempt:
            self._leases[key] = ("", 0.0)
            return "released"
        return None


class WireLock:
    """Each `acquire` is an attempt with a mark of its own, and is believed only while its lease, counted from the call, lasts."""

    marks = itertools.count()

    def __init__(self, client: "WireLockManager", name: str, ttl: float) -> None:
        self.client = client
        self.name = name
        self.ttl = ttl
        self.mark = ""

    async def acquire(self) -> bool:
        mark, called = f"{id(self)}-{next(self.marks)}", time.monotonic()
        if await self.client.ask("acquire", self.name, f"{mark} {self.ttl}") is None:
            return False
        if time.monotonic() - called >= self.ttl:
            return False
        self.mark = mark
        return True

    async def release(self) -> bool:
        mark = self.mark
        released = await self.client.ask("release", self.name, mark) is not None
        if released and self.mark == mark:
            self.mark = ""
        return released

    async def __aenter__(self) -> bool:
        if not await self.acquire():
            raise LockNotAcquiredError(f"lock {self.name!r} is held")
        return True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.mark:
            return
        with anyio.CancelScope(shield=True):
            released = await self.release()
        if not released and kind is None:
            raise LockLostError(f"lock {self.name!r} was lost")


class WireLockManager(WireClient):
    """One client of it."""

    def get_lock(self, lock_name: str, ttl: float) -> DistributedLock:
        return WireLock(self, lock_name, ttl)


@unusual
class OverTCP(WireHooks, DistributedLockContract):
    """A server that is spoken to over TCP; a request without an answer is sent again, with the mark of its attempt.

    A rule whose proxy leaves something behind, or that takes a timeout for an answer, would reject it.
    """

    client = WireLockManager
    capabilities = frozenset("lifecycle shared availability".split())
    limits = LockLimits(min_ttl=0.1, ttl_resolution=0.05)

    async def asyncSetUp(self) -> None:
        self.server = LockWireServer()
        self.address = await self.server.start()
