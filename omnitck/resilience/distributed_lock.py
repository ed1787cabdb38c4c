"""The contract `distributed_lock`: of all who ask for a name, one at a time has it, and for a time only.

A lock is a lease: it ends by itself, never before it was asked to, and as late as the provider declares. Whoever pauses for
longer than that has lost it without knowing. Without a fencing token, which what is guarded must compare, a lock is therefore
advisory: it saves work, and does not make a write safe. Locks are not re-entrant, and each object that `get_lock` returns is
another owner.

The rules of the core need `get_lock`, `acquire`, `release` and `async with` alone, so that whatever is leased to owners can be
judged by them.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Protocol, cast

import anyio
import anyio.lowlevel

from omnitck.common.cells import Cells
from omnitck.common.clients import Lifecycle
from omnitck.common.data import DataRules, DataTrial
from omnitck.common.windows import WindowTrial
from omnitck.instruments.cancellation import MOST_STEPS, cancel_at, sweep
from omnitck.instruments.corpus import AFTER_A_NAME
from omnitck.instruments.history.leases import Grant, Renewal, judge
from omnitck.instruments.interludes import interludes
from omnitck.instruments.walk import WALK_NAMES, Move, Step, random_steps, walk
from omnitck.kit.clients import parameters, raw
from omnitck.kit.concurrency import Attempt, Call, attempt, cancel_natively, gather
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.outcomes import Violation
from omnitck.kit.rules import needs, rule
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    LockLostError,
    LockNotAcquiredError,
    TCKError,
    UnsupportedError,
)
from omnitck.shared.models import LockLimits

__all__ = [
    "AutoRenew",
    "BlockingAcquire",
    "DistributedLock",
    "DistributedLockContract",
    "Fair",
    "FencingToken",
    "FullLock",
    "FullLockManager",
    "HoldAtLeast",
    "Inspection",
    "LeaseRenewal",
    "LockManagerProtocol",
    "Loss",
    "LossNotification",
]


class DistributedLock(Protocol):
    """One owner's view of a lock."""

    async def acquire(self) -> bool:
        """Try once: True if this object holds the lock now; False if somebody holds it, this object included."""
        ...

    async def release(self) -> bool:
        """True if this object held the lock, and has freed it; False, and no error, if there was nothing of its own to free."""
        ...

    async def __aenter__(self) -> bool:
        """True, once the lock is held; `LockNotAcquiredError`, and no body, if somebody else holds it."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Release, unless the body has. `LockLostError` if the lease was lost and the body raised nothing.

        What the body raises is what leaves it. A body that was cancelled is left as any other: by a task's `cancel`, and by a
        scope of anyio, which cancels each wait of the exit as well.
        """
        ...


class LockManagerProtocol(Protocol):
    """The core: locks by name."""

    def get_lock(self, lock_name: str, ttl: float) -> DistributedLock:
        """A new owner's view of the lock of that name, whose lease lasts *ttl* seconds from each `acquire`. It asks nobody yet.

        A *ttl* is a number above 0 and up to `max_ttl`; any other is an `InvalidArgumentError`, here or from `acquire`.
        """
        ...


class LeaseRenewal(Protocol):
    """Capability `lease_renewal`: a holder that needs longer says so."""

    async def renew(self, ttl: float | None = None) -> bool:
        """Let the lease end in *ttl* seconds from now, by default in those of `get_lock`.

        False, and nothing is changed, once it was lost.
        """
        ...


class AutoRenew(Protocol):
    """Capability `auto_renew`: the lease is renewed for as long as the holder lives."""

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False) -> DistributedLock:
        """With *auto_renew*, the lease is renewed from `acquire` to `release`, or until the manager closes or dies."""
        ...


class FencingToken(Protocol):
    """Capability `fencing_token`: each grant has a number, greater than that of any earlier one of its name, however long ago."""

    @property
    def token(self) -> int | None:
        """The number of the grant that this object holds, or held last; None before the first."""
        ...


class BlockingAcquire(Protocol):
    """Capability `blocking_acquire`: a caller can wait its turn."""

    async def acquire(self, timeout: float = 0.0) -> bool:
        """Try for at most *timeout* seconds: True as soon as the lock is held, False at the end of the time. 0 tries once.

        The lease lasts from the grant, however long it was waited for; so does what `at_least` promises.
        """
        ...


class Fair(Protocol):
    """Capability `fair`: those who wait get the lock in the order in which they came."""


class Loss(Protocol):
    """An event that a holder can wait for; an `asyncio.Event` and an `anyio.Event` are one."""

    def is_set(self) -> bool:
        """Whether the lease was lost."""
        ...

    async def wait(self) -> object:
        """Return once it is. A renewal while somebody waits is minded."""
        ...


class LossNotification(Protocol):
    """Capability `loss_notification`: a holder is told that it no longer is."""

    @property
    def lost(self) -> Loss:
        """Of the grant that this object holds, or held last. Set at the end of a lease that was not renewed; not by `release`."""
        ...


class HoldAtLeast(Protocol):
    """Capability `hold_at_least`: a short task is not done twice by machines whose clocks differ."""

    def get_lock(self, lock_name: str, ttl: float, *, at_least: float = 0.0) -> DistributedLock:
        """A lock that nobody gets within *at_least* seconds of `acquire`, although it is released earlier. *at_least* ≤ *ttl*."""
        ...


class Inspection(Protocol):
    """Capability `inspection`: one can look without touching."""

    async def is_locked(self, lock_name: str) -> bool:
        """Whether somebody holds the lock of that name: until its lease ends, to which each renewal counts."""
        ...


class FullLock(LeaseRenewal, FencingToken, BlockingAcquire, LossNotification, DistributedLock, Protocol):
    """A lock of a manager with every capability."""


class FullLockManager(Inspection, Lifecycle, Protocol):
    """What a provider has that declares every capability. The rules are written against it, each for those that it needs."""

    def get_lock(self, lock_name: str, ttl: float, *, auto_renew: bool = False, at_least: float = 0.0) -> FullLock:
        """See `LockManagerProtocol.get_lock`, `AutoRenew.get_lock` and `HoldAtLeast.get_lock`."""
        ...


LONG_TTL = 600.0
"""Seconds: no lease of a rule ends by itself before the rule does. Every provider takes so long a one."""

OPERATION_TTL = 60.0
"""Seconds, of what nobody releases."""

SHORTEST_TTL = 0.25
"""Seconds of a lease whose clock is moved."""

SHORTEST_REAL_TTL = 0.4
"""Seconds of one that goes on while the calls are made which look at it."""

AGES = 400 * 86_400.0
"""Seconds in which nobody asks for a lock, where a rule moves the clock."""

STEPS = 12
"""Looks in the time of one lease, where a rule moves the clock."""


async def _acquired(p: Any, n: str, t: str) -> Any:
    """A lock that was acquired, if it could be."""
    lock = p.get_lock(n, OPERATION_TTL)
    await lock.acquire()
    return lock


async def _acquired_beside(p: Any, n: str, t: str) -> Any:
    """The same for a lock that nobody holds, with the name in its own."""
    return await _acquired(p, f"{n}-beside", t)


async def _entered(p: Any, n: str, t: str) -> None:
    async with p.get_lock(n, OPERATION_TTL):
        pass


async def _is_held(p: Any, n: str) -> bool:
    """Whether somebody holds the lock, as one who tries to acquire it sees it."""
    lock = p.get_lock(n, OPERATION_TTL)
    return not await lock.acquire() or not await lock.release()


def _acquire(ttl: float = OPERATION_TTL, **options: Any) -> Callable[[Any, str, str], Awaitable[object]]:
    async def call(p: Any, n: str, t: str) -> object:
        return await p.get_lock(n, ttl, **options).acquire()

    return call


def _of_lock(method: str, **keywords: Any) -> Callable[..., Awaitable[object]]:
    """A call of a lock that was acquired. Where none is given, one is acquired first: who holds nothing need ask nobody.

    A method that is missing, or takes no such argument, is as good as refused.
    """

    async def call(p: Any, n: str, t: str, lock: Any = None) -> object:
        if lock is None:
            lock = await _acquired(p, n, t)
        called = getattr(raw(lock), method, None)
        names, takes_any = (frozenset[str](), False) if called is None else parameters(called)
        if called is None or not (takes_any or keywords.keys() <= names):
            raise UnsupportedError(f"no {method} with {', '.join(keywords) or 'no argument'}")
        return await getattr(lock, method)(**keywords)

    return call


@dataclass(frozen=True, slots=True)
class _Written:
    """What the cells made a lock hold."""

    provider: Any
    lock: Any
    token: str


class LockCells(Cells[Any]):
    """Locks as cells: to write is to hold a lock, to read is to ask whether it is held, and to erase is to release it.

    A lock does not show a token. That of a cell is remembered here, and given for as long as the lock is held; the holder is
    asked to renew where it can, so that a lock which somebody else holds is none of its own.
    """

    # Who closes may free what he holds; and there are no values.
    lacks = frozenset({"shared_write", "own_write", "room"})
    operations = (
        Operation("acquire", _acquire(), "get_lock"),
        Operation("release", _of_lock("release"), "get_lock", arrange=_acquired, look=_is_held),
        Operation("async with", _entered, "get_lock"),
        Operation("renew", _of_lock("renew"), "get_lock", "lease_renewal", arrange=_acquired),
        Operation("renew for a time", _of_lock("renew", ttl=2 * OPERATION_TTL), "get_lock", "lease_renewal", arrange=_acquired),
        Operation("acquire with auto_renew", _acquire(auto_renew=True), "get_lock", "auto_renew", argument="auto_renew"),
        Operation(
            "acquire with a timeout",
            lambda p, n, t, _=None: _of_lock("acquire", timeout=0.05)(p, n, t, p.get_lock(n, OPERATION_TTL)),
            "get_lock",
            "blocking_acquire",
        ),
        Operation("acquire with at_least", _acquire(at_least=0.05), "get_lock", "hold_at_least", argument="at_least"),
        Operation("is_locked", lambda p, n, t: p.is_locked(n), "is_locked", "inspection"),
    )
    refusals = (
        Operation("async with of a held lock", _entered, "get_lock", refusal=LockNotAcquiredError),
        Operation("acquire for a negative time", _acquire(-1.0), "get_lock", refusal=InvalidArgumentError),
        Operation(
            "renew for a negative time",
            _of_lock("renew", ttl=-1.0),
            "get_lock",
            "lease_renewal",
            arrange=_acquired_beside,
            refusal=InvalidArgumentError,
        ),
        Operation(
            "acquire with a negative timeout",
            lambda p, n, t: p.get_lock(n, OPERATION_TTL).acquire(timeout=-1.0),
            "get_lock",
            "blocking_acquire",
            refusal=InvalidArgumentError,
        ),
        Operation(
            "acquire with at_least above ttl",
            _acquire(10.0, at_least=10.5),
            "get_lock",
            "hold_at_least",
            refusal=InvalidArgumentError,
        ),
    )

    def __init__(self, t: "LockTrial") -> None:
        self.t = t
        self.written: dict[tuple[str | None, str], _Written] = {}
        """By tenant and name."""

    async def write(self, provider: Any, name: str, token: str) -> None:
        await self.erase(provider, name)
        lock = self.t.lock(provider, name)
        self.t.same(await lock.acquire(), True, given=f"acquire of the lock {describe(name)}, which nobody of its tenant holds")
        self.written[self._place(provider, name)] = _Written(provider, lock, token)

    async def read(self, provider: Any, name: str) -> str | None:
        if not await self._is_locked(provider, name):
            return None
        own = self.written.get(self._place(provider, name))
        if own is None:
            return "it is held by somebody else"
        if raw(own.provider) is raw(provider) and "lease_renewal" in self.t.declared and not await own.lock.renew():
            return "its holder cannot renew it"
        return own.token

    async def erase(self, provider: Any, name: str) -> None:
        own = self.written.pop(self._place(provider, name), None)
        if own is not None:
            await own.lock.release()

    async def tidy(self, provider: Any, touched: str) -> None:
        await self.t.tidy_lock(touched)

    async def hold(self, provider: Any, name: str, ttl: float) -> bool:
        lock = self.t.lock(provider, name, ttl)
        held = await lock.acquire()
        if held:
            self.written[self._place(provider, name)] = _Written(provider, lock, "held")
        return bool(held)

    @needs("lease_renewal")
    async def extend(self, provider: Any, name: str, ttl: float) -> bool:
        return bool(await self.written[self._place(provider, name)].lock.renew(ttl))

    async def agree(self, provider: Any, name: str) -> None:
        await self.t.check_ways(provider, provider, name)

    async def _is_locked(self, provider: Any, name: str) -> bool:
        if "inspection" in self.t.declared:
            return bool(await provider.is_locked(name))

        probe = self.t.lock(provider, name)
        free = await probe.acquire()
        if free:
            await probe.release()
        return not free

    def _place(self, provider: Any, name: str) -> tuple[str | None, str]:
        return self.t.session.tenant_of(provider), name


@dataclass(slots=True)
class Held:
    """A lock that a rule holds, on the clock of the rule."""

    lock: FullLock
    name: str
    ttl: float
    called: float
    returned: float

    @property
    def safe(self) -> float:
        """Until then it is held: the lease began no earlier than the call."""
        return self.called + self.ttl


class Waiter:
    """A call that waits in a task of its own, and can be cancelled as an application cancels it."""

    def __init__(self, call: Call[object]) -> None:
        self.call = call
        self.tried: Attempt[object] = Attempt()
        self.at = math.inf
        """When it ended, on the clock of the rule."""
        self.done = anyio.Event()
        self.cancel: Callable[[], object] = lambda: None

    async def run(self, now: Callable[[], float]) -> None:
        """Make the call."""
        try:
            try:
                task = asyncio.get_running_loop().create_task(self._make(now))
            except RuntimeError:
                with anyio.CancelScope() as scope:
                    self.cancel = scope.cancel
                    await self._make(now)
                return

            self.cancel = partial(cancel_natively, task)
            try:
                await asyncio.wait([task])
            finally:
                if not task.done():
                    cancel_natively(task)
                    with anyio.CancelScope(shield=True):
                        await asyncio.wait([task], timeout=1.0)
        finally:
            self.done.set()

    async def _make(self, now: Callable[[], float]) -> None:
        self.tried = await attempt(self.call)
        self.at = now()


class LockTrial(WindowTrial[FullLockManager], DataTrial[FullLockManager]):
    """The words of the rules of `DistributedLockContract`."""

    def __init__(self, session: Any) -> None:
        self.locks: dict[str, list[FullLock]] = {}
        """Every lock that the rule made, by name, to be released at its end."""
        super().__init__(session)

    def numbers(self) -> LockLimits:
        return cast(LockLimits, super().numbers())

    def promised(self, provider: Any, capability: str) -> list[tuple[Any, type | None]]:
        protocol = self.plan.protocols.get(capability)
        if not capability:
            return [(provider, protocol), (provider.get_lock(self.key(), LONG_TTL), DistributedLock)]
        if capability in ("lease_renewal", "blocking_acquire"):
            return [(provider.get_lock(self.key(), LONG_TTL), protocol)]
        return [(provider, protocol)]

    # Locks.

    def lock(self, manager: FullLockManager, name: str, ttl: float = LONG_TTL, **options: Any) -> FullLock:
        """A new owner's view of a lock; it is released at the end of the rule, if it is held then."""
        lock = manager.get_lock(name, ttl, **options)
        self.locks.setdefault(name, []).append(lock)
        return lock

    async def held(
        self,
        manager: FullLockManager,
        name: str,
        ttl: float = LONG_TTL,
        given: str = "acquire of a lock that nobody holds",
        hint: str = "",
        **options: Any,
    ) -> Held:
        """A lock that is held by a new owner; the rule fails if it cannot be."""
        return await self.again(self.lock(manager, name, ttl, **options), name, ttl, given, hint)

    async def again(self, lock: FullLock, name: str, ttl: float, given: str, hint: str = "") -> Held:
        """*lock*, acquired; the rule fails if it cannot be."""
        for _ in range(3):
            called = self.now()
            got = await lock.acquire()
            if got is True or self.now() - called < ttl:
                break
            await self.until(self.now() + self.longest(ttl))  # It came too late to be worth anything.
        self.same(got, True, given=given, hint=hint)
        return Held(lock, name, ttl, called, self.now())

    async def check_taken(
        self, manager: FullLockManager, name: str, given: str, *, until: float = math.inf, hint: str = ""
    ) -> None:
        """Fail the rule if a new owner gets the lock, and has it before *until*."""
        lock = self.lock(manager, name)
        got = await lock.acquire()
        if self.now() < until:
            self.same(got, False, given=given, hint=hint)
        if got:
            await lock.release()

    async def check_free(self, manager: FullLockManager, name: str, given: str, hint: str = "") -> None:
        """Fail the rule unless a new owner gets the lock, and can release it."""
        free = await self.held(manager, name, given=given, hint=hint)
        self.same(await free.lock.release(), True, given=f"release of that lock after {given}")

    # Time.

    def unit(self) -> float:
        """Seconds: a lease that is kept, and long enough to be looked at."""
        return max(self.numbers().min_ttl, SHORTEST_TTL if self.virtual_time else SHORTEST_REAL_TTL)

    def telling(self) -> float:
        """Seconds: a lease so long that one which was prolonged is told from one that ends late."""
        return max(self.unit(), 2 * self.numbers().ttl_resolution)

    def over(self, held: Held) -> float:
        """From then on the lease has ended, however late."""
        return held.returned + self.longest(held.ttl)

    @property
    def deliver_seconds(self) -> float:
        """Within this, a waiter that is next holds the lock."""
        return self.numbers().deliver * self.patience

    async def live(self, moment: float) -> None:
        """Wait for *moment* as an application does, whose tasks run meanwhile, on whichever clock."""
        if not self.virtual_time:
            await self.until(moment)
            return

        step = self.unit() / STEPS
        with self.waiting(self.answer_seconds + 0.05 * max(moment - self.now(), 0.0) / step):
            while self.now() < moment:
                await self.wait(min(step, moment - self.now()))
                await anyio.sleep(0.001)

    async def ended(self, waiter: Waiter, within: float) -> bool:
        """Whether *waiter* ends within so many seconds."""
        until = self.now() + within
        if not self.virtual_time:
            with self.waiting(within):
                await waiter.done.wait()
            return waiter.done.is_set()

        step = max(within / STEPS, 0.001)
        with self.waiting(2 * self.answer_seconds + within):
            while not waiter.done.is_set() and self.now() < until:
                with anyio.move_on_after(0.004):
                    await waiter.done.wait()
                if not waiter.done.is_set():
                    await self.wait(min(step, until - self.now()))
            with anyio.move_on_after(self.answer_seconds):  # A message under way takes its time, whatever the clock shows.
                await waiter.done.wait()
        return waiter.done.is_set()

    async def unhurried(self, check: Callable[[float], Awaitable[None]], ttl: float) -> None:
        """*check*, given this *ttl*; with a longer one where it fails, as a busy machine may be late itself."""
        for factor in (1, 2, 4):
            try:
                await check(max(ttl, min(factor * ttl, self.numbers().max_ttl / 8)))
            except (Violation, TCKError):
                if self.virtual_time or factor == 4:
                    raise
            else:
                return

    @asynccontextmanager
    async def waiters(self) -> AsyncIterator[Callable[[Call[object]], Waiter]]:
        """What starts a waiter. Those that still wait at the end are cancelled."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            def start(call: Call[object]) -> Waiter:
                waiter = Waiter(call)
                tasks.start_soon(waiter.run, self.now)
                return waiter

            try:
                yield start
            except Exception as error:
                failure = error  # raised outside, where it is no group
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @property
    def queue_seconds(self) -> float:
        """By then, a call that waits has reached the server."""
        return max(min(self.numbers().deliver, 0.5), 0.05) * self.patience

    async def queued(self) -> None:
        """Let what was started come to wait."""
        with self.waiting(self.queue_seconds + self.answer_seconds):
            await anyio.sleep(self.queue_seconds)

    async def cancelled(self, call: Call[object], step: int) -> bool:
        """Whether *call*, which waits for long, could be cancelled at its suspension point of that number."""
        with anyio.move_on_after(0.5 * self.patience):
            interrupted = await cancel_at(call, step, within=0.25 * self.patience)
            return interrupted.delivered and interrupted.ended != "running"
        return False

    async def told(self, loss: Loss) -> bool:
        """Whether a holder is told of its loss by now."""
        with self.waiting(self.answer_seconds):
            await loss.wait()
        return loss.is_set() is True

    def ttls(self) -> list[float]:
        """Leases that are kept: one that is a whole number of none, and one that may be rounded up."""
        return [self.unit(), 1.5 * self.unit(), 0.4 * self.unit()]

    # What rules of several phases share.

    async def work(self, section: "_Section", manager: FullLockManager, seed: float) -> None:
        """One worker's share: it adds to a number that nothing but the lock guards."""
        chance = random.Random(seed)
        done, lock = 0, self.lock(manager, section.name)
        while done < 25 and time.monotonic() < section.until:
            called = time.monotonic()
            if not await lock.acquire():
                await anyio.sleep(chance.uniform(0.0, 0.002))
                continue
            grant = section.granted(lock, called)
            before = section.number
            await anyio.sleep(chance.choice((0.0, 0.0005)))
            section.number = before + 1
            section.released(grant)
            await lock.release()
            done, lock = done + 1, self.lock(manager, section.name)

    async def overstay(self, clients: Sequence[FullLockManager], histories: "Sequence[_History]", rounds: int) -> None:
        """Let owners of each history acquire, renew, release in time and too late, and forget, while their leases pass."""
        owners = [_Owner(self, clients[number % 2], number, each) for each in histories for number in range(3)]
        for _ in range(rounds):
            await gather(each.act for each in owners)
            await self.live(self.now() + histories[0].ttl / 3)

    async def check_got(self, waiter: Waiter, within: float, when: str) -> None:
        """Fail the rule unless *waiter* is told within so many seconds that it holds the lock."""
        ended = await self.ended(waiter, within)
        if waiter.tried.error is not None:
            raise waiter.tried.error
        self.check(
            ended and waiter.tried.value is True,
            given=f"a waiter, {when}",
            expected=f"it gets the lock within {within:.3g} s",
            observed=Plain(f"its acquire returned {waiter.tried.value!r}" if ended else "it waits on"),
        )

    async def check_bodies(self, lock: FullLock, other: FullLockManager, name: str) -> None:
        """Fail the rule unless each further body of *lock*, whose earlier one has released, holds it and releases at its end."""

        async def refused() -> None:
            rival = await self.held(other, name)
            await self.refused(partial(_body, lock), LockNotAcquiredError, given="entry of a lock that is held")
            self.same(await rival.lock.release(), True, given="release by the holder")

        async def by_hand() -> None:
            self.same(await lock.acquire(), True, given="acquire by an object that has had a body")
            self.same(await lock.release(), True, given="release by hand")

        async def raised() -> None:
            await attempt(partial(_in_body, self, lock, other, name, LookupError("raised in the body")))

        before: dict[str, Call[None]] = {
            "a body that has released": anyio.lowlevel.checkpoint,
            "a release by hand": by_hand,
            "a refused entry": refused,
            "a body that raised": raised,
        }
        for what, act in before.items():
            await act()
            await _in_body(self, lock, other, name, None)
            await self.check_free(other, name, f"acquire after a body of an object, which came after {what}")

    async def check_ways(self, one: FullLockManager, other: FullLockManager, name: str) -> None:
        """Fail the rule unless what is acquired in one way is held for all others."""
        ways: dict[str, dict[str, Any]] = {
            "acquire": {},
            **self.declared_of(
                {
                    "auto_renew": ("auto_renew", {"auto_renew": True}),
                    "at_least": ("hold_at_least", {"at_least": 0.001}),
                    "timeout": ("blocking_acquire", {"timeout": 0.01}),
                }
            ),
        }
        for way, options in ways.items():
            place = f"{name}-{way}"
            waits = {"timeout": options["timeout"]} if way == "timeout" else {}
            lock: Any = self.lock(one, place, **{key: each for key, each in options.items() if key not in waits})
            self.same(await lock.acquire(**waits), True, given=f"acquire of a free lock ({way})")
            for rival in ("acquire", *(each for each in ways if each in ("auto_renew", "at_least"))):
                taken = await self.lock(other, place, **ways[rival]).acquire()
                self.same(taken, False, given=f"acquire ({rival}) of a lock that is held ({way})")
            if "inspection" in self.declared:
                self.same(await other.is_locked(place), True, given=f"is_locked of a lock that is held ({way})")
            if "lease_renewal" in self.declared:
                self.same(await lock.renew(), True, given=f"renew by the holder ({way})")
            await self.wait(0.002 if way == "at_least" else 0.0)
            self.same(await lock.release(), True, given=f"release by the holder ({way})")
            if way != "at_least":
                await self.check_free(other, place, f"acquire after the release ({way})")

    async def check_freed(self, manager: FullLockManager, name: str, given: str, hint: str = "") -> None:
        """Fail the rule unless a new owner gets the lock, within the time for an answer: its release may be under way."""
        lock = self.lock(manager, name)
        until = time.monotonic() + self.answer_seconds
        with self.waiting(2 * self.answer_seconds):
            while not (got := await lock.acquire()) and time.monotonic() < until:
                await anyio.sleep(0.005)
        self.same(got, True, given=given, hint=hint)
        self.same(await lock.release(), True, given=f"release of that lock after {given}")

    async def check_holds(self, tried: Attempt[Any], other: FullLockManager, name: str, given: str) -> None:
        """Fail the rule if an `acquire` has returned True and the lock can be had: it holds nothing then."""
        if tried.error is None and tried.value is True:
            hint = "count the lease of one try from its call, that of a wait from the grant; compare before True is returned"
            await self.check_taken(other, name, f"acquire by another owner, after True from an {given}", hint=hint)

    async def check_after_outage(self, manager: FullLockManager, held: Held, kept: Held) -> None:
        """Fail the rule unless *kept* is still held after an outage, and *held*, whose release may be lost, can be freed."""
        await self.eventually(held.lock.release)
        await self.check_free(manager, held.name, "acquire after an outage, and the holder's release")
        await self.check_taken(manager, kept.name, "acquire of a lock that was held all through an outage")
        given = "release after an outage, in which other calls of the holder failed"
        self.same(await kept.lock.release(), True, given=given)

    async def check_outages_during(self, manager: FullLockManager, cut: Call[object], heal: Call[object]) -> None:
        """Fail the rule if an `acquire` of a free lock, cut off meanwhile, returns False, or True without the lock."""
        names: list[str] = []

        def make() -> Call[object]:
            names.append(self.key())
            return self.lock(manager, names[-1]).acquire

        async for each in interludes(make, cut):
            with self.case(f"cut off at its wait number {each.step + 1}"):
                given = "acquire of a free lock, whose connection goes while it waits"
                await heal()
                told = describe_error(each.tried.error) if each.tried.error else describe(each.tried.value)
                self.check(
                    each.tried.error is not None or each.tried.value is True,
                    given=given,
                    expected="an exception, or True",
                    observed=Plain(told),
                )
                rival = self.lock(manager, names[-1])
                got = await self.eventually(rival.acquire)
                if each.tried.error is None:
                    self.same(got, False, given=f"acquire by another owner, after True from an {given}")

    async def tidy_lock(self, name: str) -> None:
        """Release what any owner of this rule holds of a lock."""
        for lock in self.locks.pop(name, ()):
            with suppress(TCKError):  # Its client may have closed.
                await lock.release()

    def tasks(self) -> int:
        """How many tasks this event loop has; only asyncio keeps a list."""
        try:
            return len(asyncio.all_tasks())
        except RuntimeError:
            return 0


@dataclass(slots=True)
class _Section:
    """A number that one lock guards, and the grants of that lock."""

    name: str
    until: float
    number: int = 0
    grants: list[list[Any]] = field(default_factory=list)

    def granted(self, lock: FullLock, called: float) -> list[Any]:
        """A lock was acquired."""
        grant: list[Any] = [f"owner {len(self.grants) + 1}", called, time.monotonic(), None]
        self.grants.append(grant)
        return grant

    def released(self, grant: list[Any]) -> None:
        """It is about to be released."""
        grant[3] = time.monotonic()

    def history(self) -> list[Grant]:
        """What was granted."""
        return [
            Grant(self.name, owner, called, returned, LONG_TTL, released=released)
            for owner, called, returned, released in self.grants
        ]


@dataclass(slots=True)
class _History:
    """The grants of one lock to owners who come and go."""

    t: "LockTrial"
    name: str
    ttl: float
    chance: random.Random
    entries: list[dict[str, Any]] = field(default_factory=list)

    def grants(self) -> list[Grant]:
        """What was granted."""
        return [Grant(self.name, ttl=self.ttl, **each) for each in self.entries]


class _Owner:
    """One of those who want a lock, and often keep it for too long."""

    def __init__(self, t: LockTrial, manager: FullLockManager, number: int, history: _History) -> None:
        self.t = t
        self.manager = manager
        self.number = number
        self.history = history
        self.lock = t.lock(manager, history.name, history.ttl)
        self.entry: dict[str, Any] | None = None
        """Of the grant that it believes to have."""

    async def act(self) -> None:
        """Do one thing, by chance."""
        chance = self.history.chance
        if self.entry is None:
            await (self.cancelled if chance.random() < 0.1 else self.acquire)()
        else:
            acts: list[Call[None]] = [self.release, self.keep, self.keep]
            await chance.choice([*acts, self.renew] if "lease_renewal" in self.t.declared else acts)()

    async def acquire(self) -> None:
        if self.history.chance.random() < 0.5:
            self.lock = self.t.lock(self.manager, self.history.name, self.history.ttl)
        called = self.t.now()
        if await self.lock.acquire():
            token = self.lock.token if "fencing_token" in self.t.declared else None
            owner = f"owner {self.number}"
            self.entry = {"owner": owner, "called": called, "returned": self.t.now(), "token": token, "renewals": []}
            self.history.entries.append(self.entry)

    async def cancelled(self) -> None:
        step = self.history.chance.randrange(3)
        await cancel_at(self.lock.acquire, step, within=self.t.cancel_seconds)
        self.lock = self.t.lock(self.manager, self.history.name, self.history.ttl)

    async def keep(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def renew(self) -> None:
        assert self.entry is not None
        called = self.t.now()
        if await self.lock.renew():
            self.entry["renewals"].append(Renewal(called, self.t.now(), self.history.ttl))

    async def release(self) -> None:
        assert self.entry is not None
        self.entry["released"] = self.t.now()
        self.entry = None
        await self.lock.release()


WALK_STEPS = 160
OWNERS = 3
"""Of each lock that is walked over, on two clients."""


class _Owners:
    """The owners of some locks, as one thing that is walked over."""

    def __init__(
        self, managers: Sequence[Any], passing: Call[object], ttl: float, make: Callable[[Any, str, float], Any]
    ) -> None:
        self.managers = managers
        self.passing = passing
        self.make = make
        self.ttl = ttl
        self.locks: dict[tuple[str, int], Any] = {}
        self.tokens: dict[str, int] = {}

    def lock(self, name: str, owner: int) -> Any:
        """The one object of an *owner* of a lock; the lease of the first is short."""
        if (name, owner) not in self.locks:
            ttl = LONG_TTL if owner else self.ttl
            self.locks[name, owner] = self.make(self.managers[owner % len(self.managers)], name, ttl)
        return self.locks[name, owner]

    async def acquire(self, name: str, owner: int) -> object:
        return await self.lock(name, owner).acquire()

    async def acquire_waiting(self, name: str, owner: int) -> object:
        return await self.lock(name, owner).acquire(timeout=0)

    async def release(self, name: str, owner: int) -> object:
        return await self.lock(name, owner).release()

    async def enter(self, name: str, owner: int, fails: bool) -> object:
        try:
            async with self.lock(name, owner):
                if fails:
                    raise KeyError("raised in the body")
        except KeyError:
            return "the body's own exception"
        return "left"

    async def renew(self, name: str, owner: int, longer: bool) -> object:
        return await self.lock(name, owner).renew(*([LONG_TTL] if longer else []))

    async def is_locked(self, name: str) -> object:
        return await self.managers[0].is_locked(name)

    async def token_is_greater(self, name: str, owner: int) -> object:
        """Whether the token of what it held last is the greatest that was seen of the lock; None if it held nothing."""
        token, greatest = self.lock(name, owner).token, self.tokens.get(name, -1)
        if token is None:
            return None
        self.tokens[name] = max(token, greatest)
        return token >= greatest

    async def let_short_leases_end(self) -> None:
        await self.passing()


def _walk_steps(chance: random.Random, declared: frozenset[str], *, time_passes: bool) -> list[Step]:
    def of(method: str, *more: Callable[[], object]) -> Callable[[Any], Step]:
        return lambda name: Step(method, (name, chance.randrange(OWNERS), *(each() for each in more)))

    def coin() -> bool:
        return chance.random() < 0.5

    actions: list[Move] = [
        *[("", of("acquire"))] * 4,
        *[("", of("release"))] * 2,
        ("", of("enter", coin)),
        *[("lease_renewal", of("renew", coin))] * 2,
        ("blocking_acquire", of("acquire_waiting")),
        *([("", lambda name: Step("let_short_leases_end", ()))] if time_passes else []),
    ]
    looks: list[Move] = [
        ("", of("acquire")),
        ("inspection", lambda name: Step("is_locked", (name,))),
        ("fencing_token", of("token_is_greater")),
    ]
    return random_steps(chance, declared, WALK_STEPS, actions, looks)


def _model(t: LockTrial, ttl: float, passes: float) -> _Owners:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.distributed_lock import MemoryLockManager, MemoryLockServer
    from omnitck.shared.clock import ManualClock

    clock = ManualClock()
    server = MemoryLockServer(clock=clock)

    async def passing() -> None:
        clock.advance(passes)

    managers = [MemoryLockManager(server, capabilities=t.declared) for _ in range(2)]
    return _Owners(managers, passing, ttl, lambda manager, name, ttl: manager.get_lock(name, ttl))


class DistributedLockContract(DataRules):
    """Certifies a manager of distributed locks."""

    definition = Definition(
        name="distributed_lock",
        version="1.0",
        prefix="LCK",
        protocols={
            "": LockManagerProtocol,
            "lease_renewal": LeaseRenewal,
            "auto_renew": AutoRenew,
            "fencing_token": FencingToken,
            "blocking_acquire": BlockingAcquire,
            "fair": Fair,
            "loss_notification": LossNotification,
            "hold_at_least": HoldAtLeast,
            "inspection": Inspection,
            "lifecycle": Lifecycle,
        },
        limits=LockLimits,
        cells=LockCells,
        follows={"get_lock": "lock"},
    )
    trial: ClassVar[type[Trial[Any]]] = LockTrial

    # Exclusion

    @rule("LCK-01")
    async def test_lck_01_a_lock_is_used_again_and_again(self, t: LockTrial) -> None:
        """A lock that was released is acquired again, by the same object and by others, ten times in a row.

        Catches a memory of "held" that outlives the release.
        """
        manager = await t.connect()
        name = t.key()
        lock = t.lock(manager, name)
        for turn in range(1, 11):
            t.same(await lock.acquire(), True, given=f"acquire number {turn}, after {turn - 1} releases")
            t.same(await lock.release(), True, given=f"release number {turn} of what is held")
            await t.check_free(manager, name, f"acquire by another owner after {turn} releases")

    @rule("LCK-02")
    async def test_lck_02_another_client_does_not_get_a_held_lock(self, t: LockTrial) -> None:
        """While a lock is held, every other owner's `acquire` returns False, on whichever client; after its release one gets it.

        Where `shared` is not declared, both owners are of one client. Catches a lock of the process.
        """
        one, other = await t.clients(2)
        for first, second in ((one, other), (other, one)):
            name = t.key()
            held = await t.held(first, name)
            for _ in range(3):
                await t.check_taken(second, name, "acquire while an owner on another client holds the lock")
            await t.check_taken(first, name, "acquire while an owner on this client holds the lock")
            t.same(await held.lock.release(), True, given="release by the holder, after others were refused")
            await t.check_free(second, name, "acquire after the release by an owner on another client")

    @rule("LCK-03")
    async def test_lck_03_each_object_is_another_owner(self, t: LockTrial) -> None:
        """Two objects that one manager returns for one name are different owners: neither acquires nor releases for the other.

        Catches an owner that is the host, the process, the thread or the connection.
        """
        manager = await t.connect()
        name = t.key()
        one, other = t.lock(manager, name), t.lock(manager, name)
        t.same(await one.acquire(), True, given="acquire by the first object")
        t.same(await other.acquire(), False, given="acquire by a second object, while the first holds the lock")
        t.same(await other.release(), False, given="release by the second object, which holds nothing")
        await t.check_taken(manager, name, "acquire after a release by who does not hold the lock")
        t.same(await one.release(), True, given="release by the holder")
        t.same(await other.acquire(), True, given="acquire by the second object, once the first has released")
        t.same(await one.release(), False, given="release by the first object, which held the lock once")
        await t.check_taken(manager, name, "acquire after a release by who held the lock before")

    @rule("LCK-04")
    async def test_lck_04_a_holder_does_not_acquire_again(self, t: LockTrial) -> None:
        """A second `acquire` on an object that holds its lock returns False, and does not prolong the lease.

        Catches a lock that is re-entrant by accident, and the `SET` that renews whatever it finds.
        """
        one, other = await t.clients(2)
        name, ttl = t.key(), t.telling()
        held = await t.held(one, name, ttl)
        await t.until(held.called + 0.8 * ttl)
        again = await held.lock.acquire()
        if t.now() < held.safe:
            t.same(again, False, given="acquire by the object that holds the lock")
        await t.until(t.over(held))
        if again is False:
            given = f"acquire by another owner, after the lease of {ttl:g} s, late in which its holder tried to acquire again"
            await t.check_free(other, name, given)

    @rule("LCK-05")
    async def test_lck_05_names_do_not_interfere(self, t: LockTrial) -> None:
        """A lock excludes nobody from a lock of another name, and its release frees no other, also if one name begins the other.

        Catches one lock for all, the hash that collides, and the pattern in which a release deletes.
        """
        one, other = await t.clients(2)
        name = t.key()
        held = await t.held(one, name)
        neighbours = {}
        for label, end in AFTER_A_NAME.items():
            with t.case(label):
                given = f"acquire of {describe(name + end)}, while {describe(name)} is held"
                neighbours[label] = await t.held(other, name + end, given=given)
        t.same(await held.lock.release(), True, given="release of the lock whose name begins the others")
        for label, neighbour in neighbours.items():
            with t.case(label):
                await t.check_taken(
                    one, neighbour.name, f"acquire of {describe(neighbour.name)}, after {describe(name)} was released"
                )
        again = await t.held(one, name)
        for label, neighbour in neighbours.items():
            with t.case(label):
                t.same(await neighbour.lock.release(), True, given=f"release of {describe(neighbour.name)}")
                await t.check_taken(other, name, f"acquire of {describe(name)}, after {describe(neighbour.name)} was released")
        t.same(await again.lock.release(), True, given="release of the lock whose name begins the others")

    @rule("LCK-06")
    async def test_lck_06_who_never_held_frees_nothing(self, t: LockTrial) -> None:
        """`release` by an object that never acquired the lock returns False and frees nothing, whether somebody holds it or not.

        Nor does that of one whose `acquire` returned False. Catches the `DEL` by name.
        """
        one, other = await t.clients(2)
        name = t.key()
        t.same(await t.lock(one, name).release(), False, given="release of a lock that nobody ever held")
        held = await t.held(one, name)
        for manager in (one, other):
            stranger = t.lock(manager, name)
            t.same(await stranger.release(), False, given="release by an object that never acquired")
            t.same(await stranger.acquire(), False, given="acquire after that, of what is still held")
            t.same(await stranger.release(), False, given="release by an object whose acquire returned False")
            await t.check_taken(other, name, "acquire after a release by who does not hold the lock")
        t.same(await held.lock.release(), True, given="release by the holder")

    # Time

    @rule("LCK-07", deadline=20)
    async def test_lck_07_a_lease_ends(self, t: LockTrial) -> None:
        """A lock that is not released is free once its ttl and `ttl_resolution` have passed.

        The lease of a holder that has died ends so. Catches a lock without an expiry, and one that is looked at by a sweep that
        comes later than is declared.
        """
        one, other = await t.clients(2)
        leases = [await t.held(one, t.key(), ttl) for ttl in t.ttls()]
        for each in sorted(leases, key=t.over):
            await t.until(t.over(each))
            await t.check_free(other, each.name, f"acquire by another owner, after a lease of {each.ttl:g} s")

    @rule("LCK-08", deadline=20)
    async def test_lck_08_a_lease_does_not_end_early(self, t: LockTrial) -> None:
        """Until the ttl has passed since the call of `acquire`, nobody else gets the lock.

        A lease is rounded up, never down. Catches milliseconds that are taken for seconds, and a fraction that is cut.
        """
        one, other = await t.clients(2)
        leases = [await t.held(one, t.key(), ttl) for ttl in t.ttls()]
        looks = [(each.called + share * each.ttl, share, each) for each in leases for share in (0.0, 0.3, 0.6, 0.8, 0.97)]
        for moment, share, each in sorted(looks, key=lambda look: look[0]):
            await t.until(moment)
            given = f"acquire by another owner after {share:.0%} of a lease of {each.ttl:g} s"
            await t.check_taken(other, each.name, given, until=each.safe)

    @rule("LCK-09", deadline=20)
    async def test_lck_09_a_late_release_frees_nobody_else(self, t: LockTrial) -> None:
        """A holder whose lease has ended, and whose lock another has acquired, cannot free it: `release` returns False.

        Catches the release that deletes by name: the holder that was paused lets a third one in beside the second. An owner that
        is the name of the host does the same where the second holder is on that host.
        """
        one, other = await t.clients(2)
        late = [await t.held(one, t.key(), t.unit()) for _ in range(2)]
        await t.until(max(map(t.over, late)))
        for each, manager in zip(late, (one, other), strict=True):
            where = "the same client" if manager is one else "another client"
            new = await t.held(manager, each.name, given=f"acquire on {where} after the lease of the holder")
            t.same(await each.lock.release(), False, given=f"release by the former holder, after an owner on {where} acquired")
            for rival in (one, other):
                hint = "compare the owner and delete in one step of the backend"
                await t.check_taken(rival, each.name, "acquire by a third owner, after the former holder's release", hint=hint)
            t.same(await new.lock.release(), True, given="release by the new holder")

    @rule("LCK-10", deadline=20)
    async def test_lck_10_a_release_of_nothing_is_no_error(self, t: LockTrial) -> None:
        """`release` of a lock whose lease has ended, or that was released, returns False and raises nothing.

        Of several releases at once, one returns True. Catches the exception that hides the one of the body.
        """
        manager = await t.connect()
        ended = await t.held(manager, t.key(), t.unit())
        released = await t.held(manager, t.key())
        t.same(await released.lock.release(), True, given="the first release")
        t.same(await released.lock.release(), False, given="the second release")
        several = await t.held(manager, t.key())
        answers = await gather([several.lock.release] * 5)
        t.same(sorted(map(repr, answers)), ["False"] * 4 + ["True"], given="five releases of one lock at once")
        await t.check_free(manager, several.name, "acquire after five releases at once")
        await t.until(t.over(ended))
        t.same(await ended.lock.release(), False, given="release after the end of the lease")
        await t.check_free(manager, ended.name, "acquire after a release that came too late")

    # async with

    @rule("LCK-11", deadline=20)
    async def test_lck_11_leaving_the_context_releases(self, t: LockTrial) -> None:
        """`async with` holds the lock for the time of its body, and releases it after a normal end, an exception, a cancellation.

        What the body raises comes out of it. Who cancels may be a task's `cancel` or a scope of anyio; under the latter, the
        release may take the time of an answer. Catches the release that a cancellation skips, and one that itself is cancelled.
        """
        one, other = await t.clients(2)
        for error in (None, LookupError("raised in the body")):
            name = t.key()
            tried = await attempt(partial(_in_body, t, t.lock(one, name), other, name, error))
            t.check(
                tried.error is error,
                given=f"a body that {'ends' if error is None else 'raises'}",
                expected="no exception" if error is None else "that exception",
                observed=Plain(describe_error(tried.error) if tried.error else "no exception"),
            )
            await t.check_free(other, name, f"acquire after a body that {'ended' if error is None else 'raised'}")
        names: list[str] = []
        in_body: set[str] = set()

        def make() -> Call[object]:
            names.append(t.key())
            return partial(_cancelled_body, t.lock(one, names[-1], t.unit()), names[-1], in_body)

        async for each in sweep(make, within=t.cancel_seconds):
            if names[-1] in in_body:
                given = f"acquire after a body that was cancelled, at wait number {each.step + 1}"
                await t.check_free(other, names[-1], given, hint="release in `__aexit__`, whatever it is told")
        await t.until(t.now() + t.longest(t.unit()))
        for name in names:
            await t.check_free(other, name, "acquire after an `async with` that was cancelled, and its ttl")
        name = t.key()
        with anyio.CancelScope() as scope:
            await _cancelled_body(t.lock(one, name), name, in_body, scope.cancel)
        given = "acquire after a body that was cancelled by a scope of anyio"
        await t.check_freed(other, name, given, hint="release within `anyio.CancelScope(shield=True)`")

    @rule("LCK-12")
    async def test_lck_12_without_the_lock_the_body_does_not_run(self, t: LockTrial) -> None:
        """`async with` on a lock that somebody holds raises `LockNotAcquiredError`, and its body does not run.

        Where it is free the body is given True. Catches the `__aenter__` that returns False, which nobody looks at.
        """
        one, other = await t.clients(2)
        name, ran = t.key(), False
        held = await t.held(one, name)
        for manager in (one, other):
            tried: Attempt[None] = Attempt()
            try:
                async with t.lock(manager, name):
                    ran = True
            except Exception as error:
                tried = Attempt(error=error)
            t.check(not ran, given="async with on a held lock", expected="its body does not run", observed=Plain("it ran"))
            t.check(
                isinstance(tried.error, LockNotAcquiredError),
                given="async with on a held lock",
                expected="LockNotAcquiredError",
                observed=Plain(describe_error(tried.error) if tried.error else "no exception"),
            )
            await t.check_taken(manager, name, "acquire after an `async with` that was refused")
        t.same(await held.lock.release(), True, given="release by the holder, after others were refused")
        async with t.lock(other, name) as entered:
            t.same(raw(entered), True, given="what `async with` gives its body")

    @rule("LCK-13", deadline=20)
    async def test_lck_13_a_loss_in_the_body_is_told(self, t: LockTrial) -> None:
        """If the lease was lost in the body, leaving raises `LockLostError`; an exception of the body comes out instead of that.

        Whether another has acquired the lock or not, who has it keeps it. Catches the loss that nobody notices.
        """
        one, other = await t.clients(2)
        locks = [t.lock(one, t.key(), t.unit()) for _ in range(3)]
        names = list(t.locks)
        for each in locks:
            t.same(raw(await each.__aenter__()), True, given="what `async with` gives its body")
        await t.until(t.now() + t.longest(t.unit()))
        new = await t.held(other, names[1], given="acquire after the lease of a body that goes on")
        for each, given in zip(locks, ("its lease", "its lease and another's acquire"), strict=False):
            await t.refused(
                partial(each.__aexit__, None, None, None), LockLostError, given=f"the end of a body that goes on after {given}"
            )
        error = LookupError("raised in the body")
        tried = await attempt(partial(locks[2].__aexit__, LookupError, error, None))
        kept = (tried.error is None and not tried.value) or tried.error is error
        t.check(
            kept,
            given="an exception in a body that goes on after its lease",
            expected="that exception, and no other",
            observed=Plain(describe_error(tried.error) if tried.error else "it is swallowed"),
        )
        await t.check_taken(one, names[1], "acquire after the former holder has left its body")
        t.same(await new.lock.release(), True, given="release by the new holder")

    # Many at once

    @rule("LCK-14", deadline=30)
    async def test_lck_14_no_update_is_lost_under_a_lock(self, t: LockTrial) -> None:
        """Of eight workers on two clients, which read and write one number under a lock, no update is lost.

        The history of their grants is judged as well: no two definite holds overlap. Catches a lock that excludes nearly always.
        """
        clients = await t.clients(2)
        section = _Section(t.key(), time.monotonic() + t.answer_seconds)
        await gather(partial(t.work, section, clients[number % 2], t.seed + number / 8) for number in range(8))
        found = judge(section.history())
        t.check(
            found is None,
            given=f"{len(section.grants)} grants to eight workers, OMNITCK_SEED={t.seed}",
            expected="of two owners, one holds the lock at a time",
            observed=Plain(found or ""),
        )
        t.check(len(section.grants) >= 8, given="eight workers", expected="some acquire the lock", observed=len(section.grants))
        t.same(section.number, len(section.grants), given="a number to which one is added under each grant")

    @rule("LCK-15", deadline=20)
    async def test_lck_15_of_many_at_once_one_acquires(self, t: LockTrial) -> None:
        """Of 50 calls of `acquire` at once, by as many owners or by one object, exactly one returns True.

        Catches a look and a write that are two steps, and the object that remembers what it did for another task.
        """
        clients = await t.clients(2)
        for number in range(5):
            name = t.key()
            locks = [t.lock(clients[each % 2], name) for each in range(50)]
            if number == 4:
                locks = locks[:1] * 50
            answers = await gather(each.acquire for each in locks)
            winners = [lock for lock, answer in zip(locks, answers, strict=True) if answer is True]
            t.check(
                len(winners) == 1 and answers.count(False) == 49,
                given="50 calls of acquire at once" + (", by one object" if number == 4 else ""),
                expected="one True, and 49 False",
                observed=Plain(f"{len(winners)} True, {answers.count(False)} False"),
            )
            t.same(await winners[0].release(), True, given="release by the one that acquired")

    @rule("LCK-16", deadline=30)
    async def test_lck_16_at_the_end_of_a_lease_one_takes_over(self, t: LockTrial) -> None:
        """Of 20 owners that try again and again while a lease ends, exactly one gets the lock, and not before its end.

        Catches a takeover that looks at the old lease in one step and replaces it in another.
        """
        clients = await t.clients(2)
        name = t.key()
        held = await t.held(clients[0], name, t.unit())
        rivals = [t.lock(clients[number % 2], name) for number in range(20)]
        moments = [held.called + share * (t.over(held) - held.called) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
        for moment in sorted([*moments, held.safe, held.returned + held.ttl]):
            await t.until(moment)
            answers = await gather(each.acquire for each in rivals)
            if True in answers:
                break
        t.check(
            answers.count(True) == 1 and answers.count(False) == 19,
            given=f"20 owners that try at once, {t.now() - held.called:.3f} s into a lease of {held.ttl:g} s",
            expected="one True, and 19 False",
            observed=Plain(f"{answers.count(True)} True, {answers.count(False)} False"),
        )
        t.check(
            t.now() >= held.safe,
            given=f"an owner that took over {t.now() - held.called:.3f} s after the holder's call",
            expected=f"not within the ttl of {held.ttl:g} s",
            observed=Plain("it was earlier"),
        )
        t.same(await held.lock.release(), False, given="release by the former holder")
        await t.check_taken(clients[0], name, "acquire after one of 20 took over, and the former holder released")

    # Cancellation and outages

    @rule("LCK-17", deadline=30)
    async def test_lck_17_a_cancelled_acquire_holds_for_its_ttl_at_most(self, t: LockTrial) -> None:
        """A cancelled `acquire`, wherever it waited, keeps nobody out for longer than its ttl, and later frees nobody's lock.

        Catches the grant that arrives when nobody waits for it any more, and stays.
        """
        one, other = await t.clients(2)
        tried: list[tuple[FullLock, Held | None]] = []
        names: list[str] = []

        def make() -> Call[object]:
            names.append(t.key())
            return t.lock(one, names[-1], t.unit()).acquire

        async for _ in sweep(make, within=t.cancel_seconds):
            rival, called = t.lock(other, names[-1]), t.now()
            got = Held(rival, names[-1], LONG_TTL, called, t.now()) if await rival.acquire() else None
            tried.append((t.locks[names[-1]][0], got))
        await t.until(t.now() + t.longest(t.unit()))
        for number, ((lock, got), name) in enumerate(zip(tried, names, strict=False), 1):
            with t.case(f"cancelled at its wait number {number}"):
                new = got or await t.held(other, name, given="acquire by another owner, after the ttl of a cancelled acquire")
                t.same(
                    await lock.release(), False, given="release by the object whose acquire was cancelled, once another acquired"
                )
                await t.check_taken(one, name, "acquire after that release")
                t.same(await new.lock.release(), True, given="release by the one that acquired")
                t.same(await lock.acquire(), True, given="acquire by the object whose acquire was cancelled once")

    @rule("LCK-18", deadline=30)
    async def test_lck_18_a_cancelled_release_can_be_repeated(self, t: LockTrial) -> None:
        """After a cancelled `release`, wherever it waited, a second one raises nothing, and then the lock is free.

        Catches the object that forgets that it holds the lock before the backend has heard of it.
        """
        one, other = await t.clients(2)
        for step in range(MOST_STEPS):
            held = await t.held(one, t.key())
            if not (await cancel_at(held.lock.release, step, within=t.cancel_seconds)).delivered:
                break
            given = f"release after one that was cancelled at its wait number {step + 1}"
            answer = await held.lock.release()
            t.check(answer in (True, False), given=given, expected="True or False", observed=answer)
            hint = "forget the lock once the backend has answered, not before"
            new = await t.held(other, held.name, given=f"acquire after a {given}", hint=hint)
            await t.check_taken(one, held.name, "acquire while another owner has acquired")
            t.same(await held.lock.release(), False, given="release by who has released")
            t.same(await new.lock.release(), True, given="release by the one that acquired")

    @rule("LCK-19", deadline=60)
    async def test_lck_19_an_outage_is_no_answer(self, t: LockTrial) -> None:
        """When the backend cannot be asked, an operation raises; it never says that the lock is held, or that it was freed.

        Nor where the connection goes while `acquire` is under way: nobody else holds the lock, so False is a lie. Catches `except
        Exception: return False`, and a request that is sent again and finds its own grant.
        """
        async with t.faulty() as (manager, cut, heal):
            held, kept = await t.held(manager, t.key()), await t.held(manager, t.key())
            name = t.key()
            calls: dict[str, Call[object]] = {
                "acquire": t.lock(manager, name).acquire,
                "acquire by the holder": kept.lock.acquire,
                "release": held.lock.release,
                "async with": partial(_entered, manager, name, ""),
                **t.declared_of(
                    {
                        "renew": ("lease_renewal", lambda: kept.lock.renew()),
                        "is_locked": ("inspection", lambda: manager.is_locked(held.name)),
                    }
                ),
            }
            await cut()
            for what, call in calls.items():
                with t.case(what), anyio.move_on_after(t.answer_seconds) as scope:
                    tried = await attempt(call)
                    observed = "" if tried.error is not None else f"returned {describe(tried.value)}"
                    t.check(not observed, given=f"{what} during an outage", expected="an exception", observed=Plain(observed))
                with t.case(what):
                    late = Plain(f"nothing within {t.answer_seconds:g} s")
                    t.check(not scope.cancelled_caught, given=f"{what} during an outage", expected="an exception", observed=late)
            await heal()
            await t.check_after_outage(manager, held, kept)
            await t.check_outages_during(manager, cut, heal)

    @rule("LCK-20", "shared", deadline=30)
    async def test_lck_20_no_lease_outlives_its_client(self, t: LockTrial) -> None:
        """After the client of a holder was closed, or has vanished, its locks are free once their ttl has passed.

        Those that it renewed by itself, too. Whoever closes may free them at once. Catches a thread that goes on renewing.
        """
        staying = await t.connect()
        held: list[tuple[str, Held]] = []
        ends = {"closed": "lifecycle" in t.declared, "vanished": t.has("crash")}
        for end in (each for each, possible in ends.items() if possible):
            leaving = await t.connect()
            held.append((end, await t.held(leaving, t.key(), t.unit())))
            if "auto_renew" in t.declared:
                held.append((end, await t.held(leaving, t.key(), t.unit(), auto_renew=True)))
            await (leaving.close() if end == "closed" else t.crash(leaving))
        if not held:
            t.not_provoked("the suite neither declares `lifecycle`, nor has `crash`")
        await t.live(t.now() + t.longest(t.unit()))
        for end, each in held:
            with t.case(end):
                await t.check_free(staying, each.name, f"acquire, a ttl after the holder's client has {end}")

    # lease_renewal

    @rule("LCK-21", "lease_renewal", deadline=30)
    async def test_lck_21_a_renewed_lease_lasts(self, t: LockTrial) -> None:
        """A lease that is renewed outlives its first ttl, however often it is renewed, and ends a ttl after the last time.

        Catches a renewal that moves the client's own clock alone, and one that works once.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            held = await t.held(one, t.key(), ttl)
            renewed = held
            for number in range(1, 13 if t.virtual_time else 4):
                await t.until(renewed.called + 0.5 * ttl)
                called = t.now()
                t.same(await held.lock.renew(), True, given=f"renewal number {number} of a lease of {ttl:g} s, half of it later")
                renewed = Held(held.lock, held.name, ttl, called, t.now())
            given = f"acquire by another owner, in a lease of {ttl:g} s that was renewed again and again"
            await t.until(max(t.over(held), renewed.called + 0.8 * ttl))
            await t.check_taken(other, held.name, given, until=renewed.safe)
            await t.until(t.over(renewed))
            await t.check_free(other, held.name, f"acquire by another owner, a ttl of {ttl:g} s after the last renewal")

        await t.unhurried(check, t.telling())

    @rule("LCK-22", "lease_renewal", deadline=20)
    async def test_lck_22_what_has_ended_is_not_renewed(self, t: LockTrial) -> None:
        """`renew` after the end of the lease returns False, and grants nothing, although nobody else has acquired the lock.

        Catches the expired holder that comes back to life: whoever looked meanwhile has seen the lock free.
        """
        one, other = await t.clients(2)
        held = [await t.held(one, t.key(), t.unit()) for _ in range(2)]
        await t.until(max(map(t.over, held)))
        for each, arguments in zip(held, ((), (LONG_TTL,)), strict=True):
            t.same(await each.lock.renew(*arguments), False, given="renew after the end of the lease")
            await t.check_free(other, each.name, "acquire after a renewal that came too late")
            t.same(await each.lock.release(), False, given="release after the end of the lease, and a renewal")

    @rule("LCK-23", "lease_renewal", deadline=30)
    async def test_lck_23_nobody_renews_for_another(self, t: LockTrial) -> None:
        """`renew` by who holds nothing returns False, and leaves the end of another's lease as it was, earlier and later.

        By a former holder after a takeover, by one that has released, by an object that never acquired, and by one that was
        refused. Catches the `EXPIRE` that does not look at the owner.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            former = [await t.held(one, t.key(), t.unit()) for _ in range(2)]
            await t.until(max(map(t.over, former)))
            next: list[Held] = []
            for held, seconds in zip(former, (0.1 * ttl, LONG_TTL), strict=True):
                next.append(await t.held(other, held.name, ttl, given="acquire after the lease of the holder"))
                refused = t.lock(one, held.name)
                t.same(await refused.acquire(), False, given="acquire of a lock that is held")
                strangers = {
                    "a former holder": held.lock,
                    "one who never acquired": t.lock(one, held.name),
                    "one refused": refused,
                }
                for who, lock in strangers.items():
                    given = f"renew({seconds:g}) by {who}, while another owner holds the lock"
                    t.same(await lock.renew(seconds), False, given=given)
            shorter, longer = next
            await t.until(shorter.called + 0.9 * ttl)
            await t.check_taken(one, shorter.name, "acquire in a lease that others tried to renew for less", until=shorter.safe)
            await t.until(t.over(longer))
            await t.check_free(one, longer.name, "acquire after a lease that others tried to renew for longer")

        await t.unhurried(check, t.telling())
        released = await t.held(one, t.key())
        t.same(await released.lock.release(), True, given="release by the holder")
        t.same(await released.lock.renew(), False, given="renew by who has released")
        await t.check_free(other, released.name, "acquire after the renewal of a lock that was released")

    # auto_renew

    @rule("LCK-24", "auto_renew", deadline=30)
    async def test_lck_24_a_lease_is_renewed_while_its_holder_lives(self, t: LockTrial) -> None:
        """With `auto_renew` a body of 2.5 ttl keeps the lock, and after it the lock is free at once.

        Where the suite moves the clock, one of 8 ttl. That no lease outlives its holder is `LCK-20`. Catches a renewal that comes
        once, or too late.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            name = t.key()
            lock = t.lock(one, name, ttl, auto_renew=True)
            async with lock:
                began = t.now()
                for share in (1.2, 1.8, 2.5, 8.0) if t.virtual_time else (1.2, 1.8, 2.5):
                    await t.live(max(began + share * ttl, began + t.longest(ttl) + (share - 1.2) * ttl))
                    given = (
                        f"acquire by another owner in a body of {t.now() - began:.3g} s, with auto_renew and a ttl of {ttl:g} s"
                    )
                    await t.check_taken(other, name, given)
                    if "inspection" in t.declared:
                        t.same(await other.is_locked(name), True, given=given.replace("acquire by another owner", "is_locked"))
            await t.check_free(other, name, "acquire after the body of a lock that is renewed by itself")

        await t.unhurried(check, t.unit())

    # fencing_token

    @rule("LCK-25", "fencing_token", deadline=30)
    async def test_lck_25_tokens_increase(self, t: LockTrial) -> None:
        """The token of each grant is an `int`, greater than that of every earlier one of its name, however that ended.

        None before the first grant. It stays as it is after a renewal, a release, and an `acquire` that is refused. Where the
        suite moves the clock, nobody asks for more than a year in between. Catches a counter in the record of the lock, which
        goes with it and begins again, one that is tidied away later, a random number, and one for each client.
        """
        clients = await t.clients(2)
        name, tokens = t.key(), list[tuple[str, int | None]]()
        fresh, held = t.lock(clients[0], name), await t.held(clients[0], t.key())
        t.same(fresh.token, None, given="the token of an object that never acquired")
        for number in range(24):
            manager, last = clients[number // 2 % 2], number % 12 == 11
            lock = held.lock if number % 4 == 3 and not last else t.lock(manager, name, t.unit() if last else LONG_TTL)
            held = await t.again(lock, name, t.unit() if last else LONG_TTL, "acquire of a lock that nobody holds")
            token, ways = held.lock.token, ["its acquire"]
            tokens.append(("released" if not last else "left to end", token))
            if last:
                await t.until(t.over(held))
            else:
                t.same(await held.lock.acquire(), False, given="acquire by the object that holds the lock")
                t.same(await fresh.acquire(), False, given="acquire by another object")
                t.same(fresh.token, None, given="the token of an object that was only refused")
                ways.append("an acquire that was refused")
                if "lease_renewal" in t.declared:
                    t.same(await held.lock.renew(), True, given="renew by the holder")
                    ways.append("a renewal")
                t.same(await held.lock.release(), True, given="release by the holder")
            t.same(held.lock.token, token, given=f"the token of a grant after {', '.join(ways)} and its end")
            if t.virtual_time and number % 6 == 5:
                await t.wait(AGES)
        for (_, before), (how, after) in zip([("", -(2**63)), *tokens], tokens, strict=False):
            t.check(
                type(after) is int and type(before) is int and after > before,
                given=f"the tokens of {len(tokens)} grants, one after another, this one {how}",
                expected="a whole number that is greater than the one before",
                observed=Plain(f"{describe(before)}, then {describe(after)}"),
                hint="count where the record of the lock, which is deleted, does not take the counter with it",
            )

    @rule("LCK-26", "fencing_token", deadline=20)
    async def test_lck_26_a_paused_holder_is_fenced_off(self, t: LockTrial) -> None:
        """A former holder's token stays lower than the new one's, so that a store which compares them refuses its late write.

        Catches a token that is read from the backend when it is asked for, and is then that of the new holder.
        """
        one, other = await t.clients(2)
        paused = [await t.held(one, t.key(), t.unit()) for _ in range(2)]
        await t.until(max(map(t.over, paused)))
        for each, manager in zip(paused, (other, one), strict=True):
            new = await t.held(manager, each.name, given="acquire after the lease of a holder that is paused")
            highest, writes = 0, list[str]()
            for writer, held in (("the new holder", new), ("the former holder", each)):
                token = held.lock.token
                if token is not None and token >= highest:
                    highest = token
                    writes.append(writer)
            t.same(
                writes, ["the new holder"], given="the writes that a store accepts, which refuses lower tokens than it has seen"
            )

    # blocking_acquire

    @rule("LCK-27", "blocking_acquire", deadline=30)
    async def test_lck_27_a_waiter_gets_the_lock(self, t: LockTrial) -> None:
        """A waiter gets the lock within `deliver` after its release, and after the end of a lease that nobody released.

        Catches who waits for a notification alone, which a holder that died does not send.
        """
        one, other = await t.clients(2)
        async with t.waiters() as start:
            held = await t.held(one, t.key())
            waiting: Any = t.lock(other, held.name)
            waiter = start(partial(waiting.acquire, timeout=LONG_TTL / 2))
            await t.queued()
            t.check(
                not waiter.done.is_set(),
                given="acquire with a timeout, of a lock that is held",
                expected="it waits",
                observed=waiter.tried.value,
            )
            t.same(await held.lock.release(), True, given="release by the holder, while another owner waits")
            await t.check_got(waiter, t.deliver_seconds, "after the holder's release")
            await t.check_taken(one, held.name, "acquire after a waiter has got the lock")
            if "lease_renewal" in t.declared:
                t.same(await waiting.renew(), True, given="renew by who has waited for the lock")
            if "fencing_token" in t.declared:
                tokens: list[Any] = [held.lock.token, waiting.token]
                t.check(
                    None not in tokens and tokens[1] > tokens[0],
                    given="the tokens of the holder and of the waiter after it",
                    expected="the second is greater",
                    observed=tokens,
                )

            t.same(await waiting.release(), True, given="release by who has waited for the lock")
            await t.check_free(one, held.name, "acquire after the release by who has waited for the lock")

            ending = await t.held(one, t.key(), t.unit())
            waiter = start(partial(t.lock(other, ending.name).acquire, timeout=LONG_TTL / 2))
            await t.check_got(
                waiter, t.over(ending) - t.now() + t.deliver_seconds, "after the end of a lease that nobody released"
            )
            t.check(
                waiter.at >= ending.safe,
                given=f"a waiter for the end of a lease of {ending.ttl:g} s",
                expected="it does not get the lock earlier",
                observed=Plain(f"it did, {waiter.at - ending.called:.3f} s after the holder's call"),
            )

    @rule("LCK-28", "blocking_acquire", deadline=20)
    async def test_lck_28_a_wait_ends_with_its_timeout(self, t: LockTrial) -> None:
        """`acquire(timeout)` of a lock that stays held returns False at the end of that time, and no earlier; 0 tries once.

        Of a free lock it returns True at once. Catches a timeout for each poll, and 0 that means for ever.
        """
        one, other = await t.clients(2)
        held = await t.held(one, t.key())
        t.same(await t.lock(other, held.name).acquire(timeout=0), False, given="acquire(timeout=0) of a lock that is held")
        t.same(await t.lock(other, t.key()).acquire(timeout=LONG_TTL / 2), True, given="acquire with a timeout, of a free lock")
        timeout = t.unit()
        async with t.waiters() as start:
            began = t.now()
            waiter = start(partial(t.lock(other, held.name).acquire, timeout=timeout))
            within = timeout + max(1.0, t.numbers().deliver) * t.patience
            ended = await t.ended(waiter, within)
            t.check(
                ended,
                given=f"acquire(timeout={timeout:g}) of a lock that stays held",
                expected=f"it has ended within {within:g} s",
                observed=Plain("it has not"),
            )
            t.same(waiter.tried.result(), False, given=f"acquire(timeout={timeout:g}) of a lock that stays held")
            t.check(
                waiter.at - began >= 0.98 * timeout,
                given=f"acquire(timeout={timeout:g}) of a lock that stays held",
                expected="it waits for that long",
                observed=Plain(f"it ended after {waiter.at - began:.3f} s"),
            )
        await t.check_taken(other, held.name, "acquire after another has waited in vain")

    @rule("LCK-29", "blocking_acquire", deadline=30)
    async def test_lck_29_who_waits_no_more_is_forgotten(self, t: LockTrial) -> None:
        """A waiter that was cancelled, or whose time is over, neither gets the lock later nor keeps it from others.

        Catches the place in a queue that nobody gives up: the lock is handed to a ghost.
        """
        one, other = await t.clients(2)
        name = t.key()
        held = await t.held(one, name)

        def make() -> Call[object]:
            return partial(t.lock(other, name).acquire, timeout=LONG_TTL / 2)

        for step in range(6):
            if not await t.cancelled(make(), step):
                break
        async with t.waiters() as start:
            given_up = start(partial(t.lock(other, name).acquire, timeout=0.5 * t.unit()))
            await t.ended(given_up, t.unit() + max(1.0, t.numbers().deliver) * t.patience)
            t.same(given_up.tried.value, False, given="acquire with a timeout, of a lock that stays held")
            waiter = start(partial(t.lock(other, name).acquire, timeout=LONG_TTL / 2))
            await t.queued()
            t.same(await held.lock.release(), True, given="release by the holder")
            await t.check_got(waiter, t.deliver_seconds, "after the release, behind waiters that were cancelled or gave up")
        await t.tidy_lock(name)
        await t.queued()
        await t.check_free(one, name, "acquire after the last waiter's release: those that were cancelled wait no more")

    # fair

    @rule("LCK-30", "fair", "blocking_acquire", deadline=30)
    async def test_lck_30_waiters_are_served_in_order(self, t: LockTrial) -> None:
        """Those who wait get the lock in the order in which they came; a holder that releases and waits again comes last.

        Catches a lottery of polls.
        """
        clients = await t.clients(2)
        name, served = t.key(), list[int]()
        holder = t.lock(clients[0], name)
        t.same(await holder.acquire(), True, given="acquire of a lock that nobody holds")

        async def one(number: int, lock: FullLock) -> None:
            if await lock.acquire(timeout=LONG_TTL / 2):
                served.append(number)
                await lock.release()

        async with t.waiters() as start:
            queue = []
            for number in range(5):
                queue.append(start(partial(one, number, t.lock(clients[number % 2], name))))
                await t.queued()
            t.same(await holder.release(), True, given="release by the holder, while five wait")
            queue.append(start(partial(one, 5, holder)))
            for waiter in queue:
                await t.ended(waiter, t.deliver_seconds + t.answer_seconds)
        t.same(served, list(range(6)), given="five waiters and the holder that waits again, by number as they were served")

    # What is lost on the way

    @rule("LCK-31", deadline=30)
    async def test_lck_31_a_grant_that_came_too_late_is_none(self, t: LockTrial) -> None:
        """An `acquire` whose answer comes after its lease has run out does not return True.

        Where the suite moves the clock, it moves while the call waits; where there is a TCP backend, its reply is held. Who
        returns True holds the lock then: nobody else gets it. Catches a holder that does not know what its lease is still worth.
        """
        if not t.virtual_time and not t.has("backend_address"):
            t.not_provoked("the suite has neither `advance` nor `backend_address`")
        other = await t.connect()
        names: list[str] = []
        if t.virtual_time:
            manager = await t.connect() if "shared" in t.declared else other

            def make() -> Call[object]:
                names.append(t.key())
                return t.lock(manager, names[-1], t.unit()).acquire

            async for each in interludes(make, partial(t.wait, t.longest(t.unit()))):
                await t.check_holds(each.tried, other, names[-1], f"acquire, at whose wait number {each.step + 1} its ttl passed")
        if t.has("backend_address"):
            async with t.proxy() as proxy:
                far: Any = await t.connect(address=proxy.address)
                await t.check_free(far, t.key(), "acquire on a client that the kit delays later")
                name = t.key()
                lock = t.lock(far, name, t.unit())
                proxy.latency = t.longest(t.unit())
                tried: Attempt[bool] = Attempt(value=False)
                with t.waiting(8 * proxy.latency + t.answer_seconds):
                    tried = await attempt(lock.acquire)
                proxy.latency = 0.0
                await t.check_holds(tried, other, name, "acquire, whose reply came after its ttl")
                await t.session.release(far)

    @rule("LCK-32", deadline=20)
    async def test_lck_32_who_lost_a_lease_may_acquire_again(self, t: LockTrial) -> None:
        """An object whose lease has ended acquires again, and then holds the new lease: the old one no longer counts.

        Whether another has held the lock meanwhile or not. Catches a flag, or the owner's mark, that is left from the first time.
        """
        one, other = await t.clients(2)
        alone, between = [await t.held(one, t.key(), t.unit()) for _ in range(2)]
        await t.until(max(t.over(alone), t.over(between)))
        new = await t.held(other, between.name, given="acquire by another owner after the lease")
        t.same(await between.lock.acquire(), False, given="acquire by the former holder, while another holds the lock")
        t.same(await new.lock.release(), True, given="release by the other")
        for held, given in ((alone, "its lease has ended"), (between, "another has held and released the lock")):
            second = await t.again(held.lock, held.name, t.unit(), f"acquire by a former holder, after {given}")
            await t.check_taken(
                other, held.name, f"acquire by another owner, after the former holder did: {given}", until=second.safe
            )
            released = await held.lock.release()
            if t.now() < second.safe:
                t.same(released, True, given=f"release by who acquired again, after {given}")
            if released is not True:
                await t.until(t.over(second))
            await t.check_free(other, held.name, "acquire after the release by who had acquired again")

    @rule("LCK-33")
    async def test_lck_33_a_release_in_the_body_is_enough(self, t: LockTrial) -> None:
        """After a `release` in the body, leaving `async with` raises nothing and frees nobody's lock; the next is as the first.

        Catches the exit that frees the successor, one that takes the early release for a loss, and a mark of an earlier release,
        refusal or exception that is never taken off.
        """
        one, other = await t.clients(2)
        name = t.key()
        lock = t.lock(one, name)
        async with lock:
            t.same(await lock.release(), True, given="release in the body")
            new = await t.held(other, name, given="acquire by another owner, after a release in the body")
        await t.check_taken(one, name, "acquire after the end of a body that has released, while another holds the lock")
        t.same(await new.lock.release(), True, given="release by the new holder")
        async with lock:
            t.same(await lock.release(), True, given="release in the body")
        await t.check_free(other, name, "acquire after the end of a body that has released")
        await t.check_bodies(lock, other, name)

    @rule("LCK-34")
    async def test_lck_34_who_was_refused_holds_up_nobody(self, t: LockTrial) -> None:
        """An `acquire` that returned False keeps nobody out once the holder has released.

        Catches the place in the queue that is left behind: the next in it is somebody who has gone.
        """
        one, other = await t.clients(2)
        name = t.key()
        for _ in range(3):
            held = await t.held(one, name)
            for number in range(10):
                refused = t.lock((one, other)[number % 2], name)
                t.same(await refused.acquire(), False, given="acquire of a lock that is held")
            t.same(await held.lock.release(), True, given="release by the holder, after ten were refused")
            await t.check_free(other, name, "acquire after the release, and ten that were refused before")
            t.same(await refused.acquire(), True, given="acquire by an object that was refused before")
            t.same(await refused.release(), True, given="release by that object")

    # Arguments and limits

    @rule("LCK-35", "limits")
    async def test_lck_35_the_longest_lease_is_kept(self, t: LockTrial) -> None:
        """A lease of exactly `max_ttl` is granted and lasts; a longer one is refused, and never cut.

        Where the suite moves the clock, it is held until its end. Catches milliseconds in 31 or 32 bits.
        """
        one, other = await t.clients(2)
        most = t.numbers().max_ttl
        longest = min(most, 31_536_000.0)
        held = await t.held(one, t.key(), longest)
        await t.check_taken(other, held.name, f"acquire by another owner, in a lease of {longest:g} s")
        if t.virtual_time:
            await t.wait(0.99 * longest)
            await t.check_taken(other, held.name, f"acquire after 99 % of a lease of {longest:g} s", until=held.safe)
        if longest < most:
            return

        name = t.key()
        for ttl in (most * 1.001 + 1, most * 1000):
            with t.case(f"{ttl:g} s"):
                await t.not_taken(partial(_acquire(ttl), one, name, ""), given=f"acquire for {ttl:g} s, above max_ttl")
                await t.check_free(other, name, "acquire after one that was refused")
        if "lease_renewal" in t.declared:
            renewed = await t.held(one, name)
            await t.not_taken(partial(renewed.lock.renew, most * 1.001 + 1), given="renew for longer than max_ttl")

    @rule("LCK-36", "validation", deadline=30)
    async def test_lck_36_impossible_times_are_refused(self, t: LockTrial) -> None:
        """A ttl that is no number above 0, a negative timeout, or an `at_least` beyond the ttl raises `InvalidArgumentError`.

        Nothing is done then. Catches the lock that never ends, or is over at once.
        """
        manager: Any = await t.connect()
        other = await t.connect() if "shared" in t.declared else manager
        name, held = t.key(), await t.held(manager, t.key())
        bad_ttls: list[Any] = [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, "1", True, None, [1]]
        bad_times: list[Any] = [-1, -0.5, math.nan, -math.inf, "1", [1]]
        calls: dict[str, Callable[[Any], Call[object]]] = {"ttl": lambda value: partial(_acquire(value), manager, name, "")}
        values = {"ttl": bad_ttls, "renew": [each for each in bad_ttls if each is not None], "timeout": bad_times}
        values["at_least"] = [*bad_times, 10.001, math.inf]
        calls |= t.declared_of(
            {
                "renew": ("lease_renewal", lambda value: partial(held.lock.renew, value)),
                "timeout": ("blocking_acquire", lambda value: lambda: manager.get_lock(name, 10.0).acquire(timeout=value)),
                "at_least": ("hold_at_least", lambda value: partial(_acquire(10.0, at_least=value), manager, name, "")),
            }
        )
        for what, call in calls.items():
            for value in values[what]:
                with t.case(f"{what}={describe(value)}"):
                    await t.refused(call(value), InvalidArgumentError, given=f"{what}={describe(value)}")
                    await t.check_free(other, name, f"acquire after {what}={describe(value)} was refused")
        await t.check_taken(other, held.name, "acquire of a lock that its holder tried to renew for impossible times")

    # loss_notification

    @rule("LCK-37", "loss_notification", deadline=30)
    async def test_lck_37_a_holder_is_told_of_its_loss(self, t: LockTrial) -> None:
        """`lost` is set at the end of a lease that was not renewed, and not while the lock is held.

        Also if it is asked for only then, and whoever waits for it is woken. Catches a loss that is noticed at the next renewal.
        """
        manager = await t.connect()
        asked, unasked = await t.held(manager, t.key(), t.unit()), await t.held(manager, t.key(), t.unit())
        lost = asked.lock.lost
        async with t.waiters() as start:
            waiter = start(lost.wait)
            await t.until(asked.called + 0.5 * asked.ttl)
            was_set = lost.is_set()
            if t.now() < asked.safe:
                t.same(was_set, False, given=f"`lost` of a lease of {asked.ttl:g} s, half of it later")
            await t.until(max(t.over(asked), t.over(unasked)))
            t.same(await t.told(lost), True, given="`lost` after the end of the lease")
            t.same(await t.told(unasked.lock.lost), True, given="`lost` after the end of the lease, asked for only then")
            t.same(await t.ended(waiter, t.deliver_seconds), True, given="whether who waits for `lost` was woken")
        t.same(await asked.lock.release(), False, given="release after the end of the lease")
        t.same(asked.lock.lost.is_set(), True, given="`lost` after a release that came too late")

    @rule("LCK-38", "loss_notification", deadline=30)
    async def test_lck_38_what_is_not_lost_is_not_called_so(self, t: LockTrial) -> None:
        """`lost` is not set by a release, nor by the end of a first ttl that was renewed, nor by the loss of an earlier grant.

        Nor is who waits for it woken by these. Catches a timer that is not moved by a renewal, a wait that has read the end of
        the lease before it, and an event that is set once and for all.
        """
        manager = await t.connect()

        async def check(ttl: float) -> None:
            renewed, released = await t.held(manager, t.key(), ttl), await t.held(manager, t.key(), ttl)
            again = await t.held(manager, t.key(), 0.5 * ttl)
            kept = {"released": released, **t.declared_of({"renewed": ("lease_renewal", renewed)})}
            losses = {how: each.lock.lost for how, each in kept.items()}
            async with t.waiters() as start:
                waiting = {how: start(loss.wait) for how, loss in losses.items()}
                await anyio.sleep(0.01)
                t.same(await released.lock.release(), True, given="release by the holder")
                if "renewed" in kept:
                    await t.until(renewed.called + 0.5 * ttl)
                    t.same(await renewed.lock.renew(LONG_TTL), True, given=f"renew half of a lease of {ttl:g} s later")
                await t.live(max(map(t.over, (renewed, released, again))))
                t.same(await again.lock.acquire(), True, given="acquire by an object that lost its lease")
                await anyio.sleep(0.01)
                for how, each in kept.items():
                    lock = f"a lock that was {how}, after its first ttl"
                    t.same(losses[how].is_set(), False, given=f"`lost` of {lock}")
                    t.same(each.lock.lost.is_set(), False, given=f"`lost` of {lock}, asked for only then")
                    told = waiting[how].done.is_set() and waiting[how].tried.error is None
                    t.same(told, False, given=f"whether who waits for `lost` was woken, of {lock}")

        async def check_again(ttl: float) -> None:
            held = await t.held(manager, t.key(), ttl)
            await t.until(t.over(held))
            t.same(await t.told(held.lock.lost), True, given="`lost` after the end of the lease")
            second = await t.again(held.lock, held.name, ttl, "acquire by an object that lost its lease")
            was_set = held.lock.lost.is_set()
            if t.now() < second.safe:
                t.same(was_set, False, given="`lost` of a lock that was acquired again")

        await t.unhurried(check, t.unit())
        await t.unhurried(check_again, t.unit())

    @rule("LCK-39", "loss_notification", exclusive=True, deadline=20)
    async def test_lck_39_what_watches_a_lease_ends_with_it(self, t: LockTrial) -> None:
        """What a client does for one lock, to tell of its loss or to renew it, ends with the release: 20 leave no task behind.

        What serves all locks of a client may stay. Catches a watcher that sleeps on until the end of the ttl, for each lock that
        was ever held.
        """
        manager = await t.connect()
        options: dict[str, Any] = {"auto_renew": True} if "auto_renew" in t.declared else {}

        async def use() -> None:
            lock = t.lock(manager, t.key(), **options)
            async with lock:
                lock.lost.is_set()

        await use()
        before = t.tasks()
        for _ in range(20):
            await use()
        for _ in range(100):
            left = t.tasks() - before
            if left < 10:
                break
            await anyio.sleep(0.005)
        t.check(
            left < 10,
            given="20 locks that were held and released, `lost` asked for",
            expected="no task is left for each of them",
            observed=Plain(f"{left} tasks more than before"),
        )

    @rule("LCK-40", "auto_renew", deadline=60)
    async def test_lck_40_after_an_outage_the_former_holder_renews_nothing(self, t: LockTrial) -> None:
        """A holder with `auto_renew`, cut off for longer than its ttl, does not renew over the new one, and knows of its loss.

        Catches a renewal that writes the lease anew, whoever has it.
        """
        async with t.faulty() as (manager, cut, heal):
            other = await t.connect() if "shared" in t.declared else manager
            held = await t.held(manager, t.key(), t.unit(), auto_renew=True)
            await cut()
            await t.live(t.now() + t.longest(t.unit()))
            new = t.lock(other, held.name)
            got = await attempt(new.acquire) if other is not manager else Attempt[bool](value=False)
            await heal()
            with t.waiting(t.answer_seconds):
                while not got.value:
                    got = await attempt(new.acquire)
                    await anyio.sleep(0.005)
            given = "acquire by another owner, after an outage that was longer than the holder's lease"
            t.same(got.result(), True, given=given)
            await t.live(t.now() + 2 * t.longest(t.unit()))
            await t.check_taken(other, held.name, "acquire by a third owner, while the former holder is connected again")
            t.same(await t.eventually(held.lock.release), False, given="release by the former holder")
            if "loss_notification" in t.declared:
                t.same(await t.told(held.lock.lost), True, given="`lost` of the former holder")
            t.same(await new.release(), True, given="release by the new holder, after the former one is connected again")

    # hold_at_least

    @rule("LCK-41", "hold_at_least", deadline=20)
    async def test_lck_41_a_short_task_keeps_the_lock(self, t: LockTrial) -> None:
        """A lock with `at_least` that is released early is given to nobody before that, counted from its `acquire`, and then is.

        `release` returns True, and the task is over: nothing is lost. By whichever way it is released. Catches the release that
        frees at once, and one that leaves the whole ttl.
        """
        one, other = await t.clients(2)
        at_least = t.unit()
        held = [await t.held(one, t.key(), LONG_TTL, at_least=at_least) for _ in range(2)]
        t.same(await held[0].lock.release(), True, given="release before at_least has passed")
        t.same(await held[0].lock.release(), False, given="a second release")
        t.check(
            not await held[1].lock.__aexit__(None, None, None),
            given="the end of a body",
            expected="None, or False",
            observed="something true, which keeps back what the body raised",
        )
        for share in (0.0, 0.5, 0.9):
            await t.until(held[0].called + share * at_least)
            for each in held:
                given = f"acquire {share:.0%} of at_least={at_least:g} after that of a lock which was released early"
                await t.check_taken(other, each.name, given, until=each.called + at_least)
                if share == 0.5:
                    await t.check_taken(one, each.name, given, until=each.called + at_least)
        await t.until(held[1].returned + t.longest(at_least))
        for each in held:
            await t.check_free(other, each.name, f"acquire after at_least={at_least:g}, of a lock which was released early")
            if "lease_renewal" in t.declared:
                t.same(await each.lock.renew(), False, given="renew by who has released")
            if "loss_notification" in t.declared:
                t.same(each.lock.lost.is_set(), False, given="`lost` of a lock that was released early, after at_least")

    @rule("LCK-42", "hold_at_least", deadline=20)
    async def test_lck_42_a_long_task_frees_the_lock(self, t: LockTrial) -> None:
        """A lock with `at_least` that is released later is free at once, and one that is not released ends with its ttl.

        Catches `at_least` that counts from the release, or takes the place of the ttl.
        """
        one, other = await t.clients(2)
        at_least = t.unit()
        late = await t.held(one, t.key(), LONG_TTL, at_least=at_least)
        forgotten = await t.held(one, t.key(), 2 * at_least, at_least=at_least)
        equal = await t.held(one, t.key(), at_least, at_least=at_least)
        await t.until(max(late.returned + t.longest(at_least), t.over(equal)))
        t.same(await late.lock.release(), True, given="release after at_least has passed")
        await t.check_free(other, late.name, "acquire after a release that came after at_least")
        await t.check_free(other, equal.name, "acquire after a ttl that equals at_least")
        await t.until(forgotten.called + 1.9 * at_least)
        await t.check_taken(other, forgotten.name, "acquire after at_least, and before the ttl", until=forgotten.safe)
        await t.until(t.over(forgotten))
        await t.check_free(other, forgotten.name, "acquire after the ttl of a lock with at_least")

    # inspection

    @rule("LCK-43", "inspection", deadline=20)
    async def test_lck_43_to_look_is_not_to_touch(self, t: LockTrial) -> None:
        """`is_locked` tells whether somebody holds the lock, whichever client asks, and takes nothing.

        Catches a look that acquires, one that only knows of its own locks, and one that shows what has ended.
        """
        one, other = await t.clients(2)
        name, ttl = t.key(), t.telling()
        for manager in (one, other):
            t.same(await manager.is_locked(name), False, given="is_locked of a lock that nobody ever held")
        ending = await t.held(one, t.key(), ttl)
        held = await t.held(one, name, given="acquire of a lock that was only looked at")
        await t.settle()
        for manager in (one, other):
            t.same(await manager.is_locked(name), True, given="is_locked of a lock that is held")
            t.same(await manager.is_locked(f"{name}-2"), False, given="is_locked of a lock of another name")
        t.same(await held.lock.release(), True, given="release by the holder, after others looked")
        await t.settle()
        for manager in (one, other):
            t.same(await manager.is_locked(name), False, given="is_locked of a lock that was released")
        await t.until(ending.called + 0.8 * ttl)
        locked = await other.is_locked(ending.name)
        if t.now() < ending.safe:
            t.same(locked, True, given="is_locked late in a lease")
        await t.until(t.over(ending) + t.numbers().staleness)
        for manager in (one, other):
            t.same(
                await manager.is_locked(ending.name),
                False,
                given="is_locked after the end of a lease, late in which it was asked",
            )
        await t.check_free(other, ending.name, "acquire after the end of a lease that was looked at")

    # Kinds

    @rule("LCK-44", deadline=60)
    async def test_lck_44_a_random_walk_agrees_with_the_reference(self, t: LockTrial) -> None:
        """Any sequence of declared operations, by three owners of each lock, gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference; a divergence is shortened and shown as Python. Finds what no
        single rule foresaw: the interplay of operations.
        """
        managers = await t.clients(2)
        passes = t.longest(t.unit())
        time_passes = t.virtual_time and WALK_STEPS * passes < LONG_TTL
        # Where time cannot be made to pass, no lease may end during the walk.
        ttl = t.unit() if time_passes else LONG_TTL
        steps = _walk_steps(random.Random(t.seed), t.declared, time_passes=time_passes)

        divergence = await walk(
            lambda: _Owners(managers, partial(t.wait, passes), ttl, t.lock),
            lambda: _model(t, ttl, passes),
            steps,
            names=lambda: [t.key("w") for _ in range(WALK_NAMES)],
            subject="locks",
        )
        if divergence is not None:
            t.fail_rule(
                given=f"a random walk, OMNITCK_SEED={t.seed}; shortened to\n{divergence.reproduction}",
                expected=divergence.expected,
                observed=divergence.observed,
            )

    @rule("LCK-45", deadline=60)
    async def test_lck_45_histories_of_leases_are_honest(self, t: LockTrial) -> None:
        """However owners acquire, renew, overstay, release too late and are cancelled, no two definite holds of one lock overlap.

        A hold is definite from the return of the call that granted it until the end of its ttl, counted from that call. With
        `fencing_token` the tokens are judged as well. Catches the expired holder that renews or releases over the next one.
        """
        clients = await t.clients(2)
        histories = [_History(t, t.key(), t.unit(), random.Random(t.seed + number)) for number in range(4)]
        rounds = 30 if t.virtual_time else 9
        await t.overstay(clients, histories, rounds)
        for each in histories:
            found = judge(each.grants(), fencing="fencing_token" in t.declared)
            t.check(
                found is None,
                given=f"{len(each.entries)} grants to owners that often stay too long, OMNITCK_SEED={t.seed}",
                expected="leases that could have been granted so",
                observed=Plain(found or ""),
            )
            t.check(
                len(each.entries) > 1, given="owners", expected="more than one is granted the lock", observed=len(each.entries)
            )

    @rule("LCK-46", "lease_renewal", deadline=30)
    async def test_lck_46_a_renewal_has_a_time_of_its_own(self, t: LockTrial) -> None:
        """`renew(ttl)` lets the lease end in *ttl* seconds from that call, later or earlier than before, by default in its own.

        Catches a ttl that is added to what is left, one that is ignored, and a lease that can only grow.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            longer, shorter, default = [await t.held(one, t.key(), each) for each in (ttl, 4 * ttl, ttl)]
            for held, arguments in ((longer, (3 * ttl,)), (shorter, (ttl,)), (default, (LONG_TTL,)), (default, ())):
                held.called = t.now()
                t.same(await held.lock.renew(*arguments), True, given="renew by the holder")
                held.returned = t.now()
            longer.ttl, shorter.ttl = 3 * ttl, ttl
            for held, given in (
                (shorter, "a lease that was renewed for less"),
                (default, "a lease that was renewed for its ttl"),
            ):
                await t.until(held.called + 0.7 * ttl)
                await t.check_taken(other, held.name, f"acquire in {given}", until=held.safe)
            await t.until(max(t.over(shorter), t.over(default)))
            await t.check_free(other, shorter.name, "acquire after a lease that was renewed for less than it had left")
            await t.check_free(other, default.name, "acquire after a lease that was renewed for long, and then for its ttl")
            await t.until(longer.called + 2.7 * ttl)
            await t.check_taken(other, longer.name, "acquire in a lease that was renewed for longer", until=longer.safe)
            await t.until(t.over(longer))
            await t.check_free(other, longer.name, "acquire after a lease that was renewed for longer")

        await t.unhurried(check, t.telling())

    @rule("LCK-47", "auto_renew", deadline=30)
    async def test_lck_47_a_renewal_is_bound_to_its_holder(self, t: LockTrial) -> None:
        """What was refused, or has released, renews nobody's lease: the next holder's ends with its own ttl.

        Catches a renewal by name that goes on after the release, and one that begins before the lock is held.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            released = await t.held(one, t.key(), ttl, auto_renew=True)
            t.same(await released.lock.release(), True, given="release by the holder")
            entered = t.key()
            async with t.lock(one, entered, ttl, auto_renew=True):
                pass
            failed = t.key()
            with suppress(LookupError):
                async with t.lock(one, failed, ttl, auto_renew=True):
                    raise LookupError("raised in the body")
            next = [await t.held(other, name, ttl) for name in (released.name, entered, failed)]
            refused = await t.held(other, t.key(), ttl)
            t.same(await t.lock(one, refused.name, ttl, auto_renew=True).acquire(), False, given="acquire of what is held")
            whose = ("released before", "left its body before", "left its body by an exception", "was refused")
            leases = dict(zip(whose, (*next, refused), strict=True))
            await t.live(max(map(t.over, leases.values())))
            for who, held in leases.items():
                await t.check_free(other, held.name, f"acquire after the lease of a holder; one with auto_renew {who}")

        await t.unhurried(check, t.unit())

    @rule("LCK-48", "blocking_acquire", deadline=30)
    async def test_lck_48_a_waiters_lease_begins_with_its_grant(self, t: LockTrial) -> None:
        """Who has waited holds the lock for a whole ttl from the grant, whether it waited for longer than its ttl or for less.

        Catches a lease that is counted from the beginning of the wait.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            began = t.now()
            waits = {"longer than that": began, "less": began + 1.5 * t.longest(ttl) - 0.7 * ttl}
            before = [await t.held(one, t.key(), LONG_TTL) for _ in waits]
            locks = [t.lock(other, each.name, ttl) for each in before]
            async with t.waiters() as start:
                waiting: list[Waiter] = []
                for lock, since in zip(locks, waits.values(), strict=True):
                    await t.live(since)
                    waiting.append(start(partial(lock.acquire, timeout=LONG_TTL / 2)))
                await t.live(began + 1.5 * t.longest(ttl))
                released = t.now()
                for each in before:
                    t.same(await each.lock.release(), True, given="release by the holder, while another owner waits")
                for waiter in waiting:
                    await t.check_got(waiter, t.deliver_seconds, "after the holder's release")
                await t.until(released + 0.8 * ttl)
                for each, how in zip(before, waits, strict=True):
                    given = f"acquire after 80 % of the lease of {ttl:g} s of who had waited for {how}"
                    await t.check_taken(one, each.name, given, until=released + ttl)
                await t.until(max(t.longest(ttl) + waiter.at for waiter in waiting))
                for each, lock in zip(before, locks, strict=True):
                    await t.check_free(one, each.name, "acquire after the lease of who had waited")
                    if "loss_notification" in t.declared:
                        t.same(await t.told(lock.lost), True, given="`lost` of who had waited, after its lease")

        await t.unhurried(check, t.telling())

    @rule("LCK-49", "blocking_acquire", deadline=30)
    async def test_lck_49_waiting_holds_up_no_other_call(self, t: LockTrial) -> None:
        """While 70 calls of one client wait for a lock, its other calls go on, and the waiters get the lock in turn.

        Catches a pool whose connections all wait for a lock that only one more of them could release.
        """
        manager = await t.connect()
        name = t.key()
        held = await t.held(manager, name)
        got: list[int] = []

        async def one(number: int, lock: FullLock) -> None:
            if await lock.acquire(timeout=LONG_TTL / 2):
                got.append(number)
                await lock.release()

        async with t.waiters() as start:
            waiters = [start(partial(one, number, t.lock(manager, name))) for number in range(70)]
            await t.queued()
            with anyio.move_on_after(t.answer_seconds) as scope:
                await t.check_free(manager, t.key(), "acquire of another lock, while 70 calls wait")
                await held.lock.release()
            t.check(
                not scope.cancelled_caught,
                given="calls of a client while 70 others wait for a lock that it holds",
                expected=f"they have ended within {t.answer_seconds:g} s",
                observed=Plain("they have not"),
            )
            # Without `fair` others may be served first, but somebody is.
            while waiting := [each for each in waiters if not each.done.is_set()]:
                served = len(got)
                if not await t.ended(waiting[0], t.deliver_seconds + t.answer_seconds) and len(got) == served:
                    break
        t.same(sorted(got), list(range(70)), given="the waiters that got the lock, one after another")

    @rule("LCK-50", "blocking_acquire", "lifecycle", deadline=20)
    async def test_lck_50_closing_ends_a_wait(self, t: LockTrial) -> None:
        """`close()` ends every `acquire` that waits, with `ClosedError` or False, and none of them gets the lock later.

        Catches a waiter that keeps its connection, and the lock that is handed to a client which has gone.
        """
        one = await t.connect()
        leaving = await t.connect()
        holder = one if "shared" in t.declared else leaving
        held = await t.held(holder, t.key())
        async with t.waiters() as start:
            waiters = [start(partial(t.lock(leaving, held.name).acquire, timeout=LONG_TTL / 2)) for _ in range(3)]
            await t.queued()
            await leaving.close()
            for waiter in waiters:
                t.same(await t.ended(waiter, t.answer_seconds), True, given="whether close() has ended a call that waited")
                observed = describe_error(waiter.tried.error) if waiter.tried.error else describe(waiter.tried.value)
                t.check(
                    isinstance(waiter.tried.error, ClosedError) or waiter.tried.value is False,
                    given="acquire that waits, while close() is called",
                    expected="ClosedError, or False",
                    observed=Plain(observed),
                )
        if holder is one:
            t.same(await held.lock.release(), True, given="release by the holder")
            await t.check_free(one, held.name, "acquire after the release, where a client that has closed had waited")

    @rule("LCK-51", deadline=60)
    async def test_lck_51_many_cancellations_wear_nothing_out(self, t: LockTrial) -> None:
        """After 200 cancelled calls, as many as empty any pool, the client acquires and releases as before.

        Where calls can wait, those that wait are cancelled. Catches a connection that is not given back.
        """
        async with t.slow_client() as client:
            held = await t.held(client, t.key())
            waits = {"timeout": LONG_TTL / 2} if "blocking_acquire" in t.declared else {}
            name = held.name if waits else t.key()
            steps = 2
            for number in range(200):
                call = partial(t.lock(client, name, t.unit()).acquire, **waits)
                if not await t.cancelled(call, number % steps):
                    if steps == 1:
                        break  # What does not end is the finding of another rule.
                    steps = 1
            with anyio.move_on_after(t.answer_seconds) as scope:
                await t.check_free(client, t.key(), "acquire after 200 cancelled calls on one client")
                t.same(await held.lock.release(), True, given="release by the holder, after 200 cancelled calls")
            t.check(
                not scope.cancelled_caught,
                given="acquire and release after 200 cancelled calls on one client",
                expected=f"they have ended within {t.answer_seconds:g} s",
                observed=Plain("they have not"),
            )

    @rule("LCK-52", "lifecycle")
    async def test_lck_52_locks_close_with_their_manager(self, t: LockTrial) -> None:
        """After `close()` of its manager each method of a lock raises `ClosedError`, and none tells of a success.

        `release` may say False, where closing has freed the lock. Catches the lock that connects again by itself.
        """
        manager = await t.connect()
        held, free = await t.held(manager, t.key()), t.lock(manager, t.key())
        await manager.close()
        calls: dict[str, Call[object]] = {
            "acquire": free.acquire,
            "release": held.lock.release,
            **t.declared_of({"renew": ("lease_renewal", lambda: held.lock.renew())}),
        }
        for what, call in calls.items():
            with t.case(what):
                with anyio.move_on_after(t.answer_seconds):
                    tried: Attempt[object] = Attempt(value="nothing")
                    tried = await attempt(call)
                t.check(
                    isinstance(tried.error, ClosedError) or (what != "acquire" and tried.value is False),
                    given=f"{what} of a lock whose manager was closed",
                    expected="ClosedError" if what == "acquire" else "ClosedError, or False",
                    observed=Plain(describe_error(tried.error) if tried.error else describe(tried.value)),
                )

    @rule("LCK-53", "auto_renew", deadline=30)
    async def test_lck_53_every_hold_is_renewed(self, t: LockTrial) -> None:
        """Each hold of an object with `auto_renew` is renewed: the second as the first, and one that was waited for.

        While it is, `lost` is not set. Catches a renewal that is begun once for each object, or by one way to acquire alone.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            again = await t.held(one, t.key(), ttl, auto_renew=True)
            t.same(await again.lock.release(), True, given="release by the first holder")
            async with t.waiters() as start:
                holds = {"held for the second time": await t.again(again.lock, again.name, ttl, "acquire for the second time")}
                if "blocking_acquire" in t.declared:
                    before = await t.held(other, t.key())
                    lock = t.lock(one, before.name, ttl, auto_renew=True)
                    waiter = start(partial(lock.acquire, timeout=LONG_TTL / 2))
                    await t.queued()
                    t.same(await before.lock.release(), True, given="release by the holder, while another owner waits")
                    await t.check_got(waiter, t.deliver_seconds, "after the holder's release")
                    holds["waited for"] = Held(lock, before.name, ttl, waiter.at, waiter.at)
                told = {how: start(each.lock.lost.wait) for how, each in holds.items() if "loss_notification" in t.declared}
                await t.live(max(t.now() + 2.5 * ttl, *map(t.over, holds.values()), 0.0))
                for how, held in holds.items():
                    given = f"acquire, long after the ttl of a lock with auto_renew that was {how}"
                    await t.check_taken(other, held.name, given)
                    if "loss_notification" in t.declared:
                        t.same(held.lock.lost.is_set(), False, given=f"`lost` of a lock with auto_renew that was {how}")
                        given = f"whether who waits for `lost` was woken, of a lock with auto_renew that was {how}"
                        t.same(told[how].done.is_set(), False, given=given)
                    t.same(await held.lock.release(), True, given=f"release of a lock with auto_renew that was {how}")

        await t.unhurried(check, t.unit())

    @rule("LCK-54", deadline=20)
    async def test_lck_54_an_owner_is_never_an_earlier_one(self, t: LockTrial) -> None:
        """An object does not release the lock of an earlier one that is gone, wherever in memory both have been.

        Catches an owner that is the `id` of an object, a counter of each client, or a random number of few digits.
        """
        clients = [raw(each) for each in await t.clients(2)]
        for number in range(30):
            name = t.key()
            gone = clients[number % 2].get_lock(name, OPERATION_TTL)
            t.same(await gone.acquire(), True, given="acquire of a lock that nobody holds")
            del gone
            for manager in clients:
                later = manager.get_lock(name, OPERATION_TTL)
                t.same(await later.release(), False, given="release by an object, after that of the holder has gone")
                t.same(await later.acquire(), False, given="acquire by an object, after that of the holder has gone")
                del later

    @rule("LCK-55", "hold_at_least", "blocking_acquire", deadline=20)
    async def test_lck_55_a_waiter_gets_what_was_kept(self, t: LockTrial) -> None:
        """A waiter gets a lock that was released early once its `at_least` has passed, not before; its own begins with its grant.

        Catches the notification of a release that comes too early, after which nobody looks again, and an option that a grant
        after a wait forgets.
        """
        one, other = await t.clients(2)
        at_least = t.telling()
        held = await t.held(one, t.key(), LONG_TTL, at_least=at_least)
        async with t.waiters() as start:
            lock = t.lock(other, held.name, at_least=at_least)
            waiter = start(partial(lock.acquire, timeout=LONG_TTL / 2))
            await t.queued()
            await held.lock.release()
            kept_until = held.returned + t.longest(at_least)
            await t.check_got(waiter, kept_until - t.now() + t.deliver_seconds, "after a release before at_least, and at_least")
            t.check(
                waiter.at >= held.called + at_least,
                given=f"a waiter for a lock with at_least={at_least:g} that was released early",
                expected="it does not get the lock before",
                observed=Plain(f"it did, {waiter.at - held.called:.3f} s after the holder's acquire"),
            )
        t.same(await lock.release(), True, given="release by who has waited, before its own at_least has passed")
        for share in (0.0, 0.7):
            await t.until(waiter.at + share * at_least)
            given = f"acquire {share:.0%} of at_least={at_least:g} after the grant to a waiter, which has released"
            await t.check_taken(one, held.name, given, until=held.called + 2 * at_least)
        await t.until(waiter.at + t.longest(at_least))
        await t.check_free(one, held.name, "acquire after the at_least of a waiter, which has released")

    @rule("LCK-56", "auto_renew", deadline=30)
    async def test_lck_56_a_release_ends_a_renewal_under_way(self, t: LockTrial) -> None:
        """A lock with `auto_renew` that is released at whatever moment is free, and stays with the next who acquires it.

        Catches a renewal that has read the lease before the release, and writes it after.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            async def use(share: float, turns: int) -> Held:
                held = await t.held(one, t.key(), ttl, auto_renew=True)
                await anyio.sleep(0.001)  # in which the renewal begins to wait
                await t.until(held.called + share * ttl)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                t.same(await held.lock.release(), True, given=f"release after {share:.0%} of a ttl, with auto_renew")
                return await t.held(other, held.name, given=f"acquire after a release that came after {share:.0%} of a ttl")

            next: list[Held] = []
            for share in (0.2, 0.34, 0.51, 0.68):
                next += await gather(partial(use, share, turns) for turns in range(6))
            await t.live(t.now() + t.longest(ttl))
            for each in next:
                await t.check_taken(one, each.name, "acquire, a ttl after another owner has acquired what was released")
                t.same(await each.lock.release(), True, given="release by who acquired after that")

        await t.unhurried(check, t.unit())

    @rule("LCK-57", deadline=30)
    async def test_lck_57_a_holders_cancelled_calls_cost_nothing(self, t: LockTrial) -> None:
        """A holder whose `acquire` or `renew` is cancelled, wherever it waits, still holds the lock, and can release it.

        So does one that renews and releases at once: whichever comes first, the lock is free then. Catches an object that is
        between two states when it is cancelled.
        """
        one, other = await t.clients(2)
        calls: dict[str, Callable[[FullLock], Call[object]]] = {"acquire": lambda lock: lock.acquire}
        calls |= t.declared_of({"renew": ("lease_renewal", lambda lock: lock.renew)})
        for what, call in calls.items():
            held = await t.held(one, t.key())
            async for each in sweep(partial(call, held.lock), within=t.cancel_seconds):
                given = f"acquire by another owner, after the holder's {what} was cancelled at its wait number {each.step + 1}"
                await t.check_taken(other, held.name, given)
            t.same(await held.lock.release(), True, given=f"release by the holder, whose {what} was cancelled")
            await t.check_free(other, held.name, f"acquire after the release by a holder whose {what} was cancelled")
        if "lease_renewal" in t.declared:
            for _ in range(5):
                held = await t.held(one, t.key())
                answers = await gather([held.lock.renew, held.lock.release, held.lock.renew])
                t.same(answers[1], True, given="release by a holder that renews at once")
                await t.check_free(other, held.name, "acquire after a release and two renewals at once")

    @rule("LCK-58", deadline=60)
    async def test_lck_58_many_locks_are_held_at_once(self, t: LockTrial) -> None:
        """A client holds 300 locks at once, and each of them excludes others and is released as if it were alone.

        Catches a memory of what is held that has room for a hundred.
        """
        one, other = await t.clients(2)
        held = await t.many(partial(t.held, one, t.key()) for _ in range(300))
        for each in (held[0], held[1], held[127], held[255], held[299]):
            await t.check_taken(other, each.name, "acquire of one of 300 locks that another client holds")
        released = await t.many(each.lock.release for each in held)
        t.same(released.count(True), 300, given="releases that return True, of 300 locks held at once")
        free = await t.many(partial(t.lock(other, each.name).acquire) for each in held)
        t.same(free.count(True), 300, given="locks that can be acquired after their release, of 300")

    @rule("LCK-59", "fair", "blocking_acquire", deadline=30)
    async def test_lck_59_the_order_outlasts_who_gives_up(self, t: LockTrial) -> None:
        """Waiters are served in their order also after others before them gave up, and where a lease ends that nobody released.

        Catches a queue that is woken from the wrong end, or loses count of its places.
        """
        clients = await t.clients(2)
        ttl = max(4 * t.telling(), 10 * t.queue_seconds)
        holder, served = await t.held(clients[0], t.key(), ttl), list[int]()

        async def one(number: int, lock: FullLock) -> None:
            if await lock.acquire(timeout=LONG_TTL + 2 * t.longest(ttl)):
                served.append(number)
                await lock.release()

        async with t.waiters() as start:
            queue = []
            for number in range(6):
                queue.append(start(partial(one, number, t.lock(clients[number % 2], holder.name))))
                await t.queued()
            for number in (0, 3):
                queue[number].cancel()
                await t.ended(queue[number], t.answer_seconds)
            await t.live(t.over(holder))
            for waiter in queue:
                await t.ended(waiter, t.deliver_seconds + t.answer_seconds)
        t.same(served, [1, 2, 4, 5], given="six waiters, of whom the first and the fourth gave up, as they were served")

    @rule("LCK-60", deadline=20)
    async def test_lck_60_all_ways_lead_to_one_lock(self, t: LockTrial) -> None:
        """However a lock was acquired, all ways to acquire it are closed, and all calls of its holder work.

        Catches an option that leads to another key, or to a lock that only its own way knows.
        """
        one, other = await t.clients(2)
        await t.check_ways(one, other, t.key())

    @rule("LCK-61", "auto_renew", deadline=60)
    async def test_lck_61_a_short_outage_ends_no_renewal(self, t: LockTrial) -> None:
        """With `auto_renew` a lock outlives an outage that is over before half of its ttl has passed.

        A renewal comes at least each half of a ttl, and one that failed is followed by another. Catches the task that dies of its
        first error.
        """
        async with t.faulty() as (manager, cut, heal):
            other = await t.connect() if "shared" in t.declared else manager

            async def check(ttl: float) -> None:
                held = await t.held(manager, t.key(), ttl, auto_renew=True)
                await t.live(held.called + 0.05 * ttl)
                await cut()
                await t.live(held.called + 0.45 * ttl)
                await heal()
                await t.live(t.over(held) + ttl)
                await t.check_taken(other, held.name, f"acquire, long after an outage of less than half a ttl of {ttl:g} s")
                t.same(await t.eventually(held.lock.release), True, given="release by the holder, after a short outage")

            await t.unhurried(check, 4 * t.telling())

    @rule("LCK-62", "blocking_acquire", deadline=30)
    async def test_lck_62_who_is_cancelled_as_it_is_served_passes_the_lock_on(self, t: LockTrial) -> None:
        """A lock that is given to a waiter as that is cancelled goes to the next one, after the ttl of the grant at the latest.

        Catches the hand-over to somebody who has gone, of which nobody else hears.
        """
        one, other = await t.clients(2)
        async with t.waiters() as start:
            held = [await t.held(one, t.key()) for _ in range(6)]
            going = [start(partial(t.lock(other, each.name, t.unit()).acquire, timeout=LONG_TTL / 2)) for each in held]
            await t.queued()
            staying = [start(partial(t.lock(other, each.name).acquire, timeout=LONG_TTL / 2)) for each in held]
            await t.queued()
            for turns, each in enumerate(held):
                await each.lock.release()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                going[turns].cancel()
            within = t.longest(t.unit()) + t.deliver_seconds
            for turns, waiter in enumerate(staying):
                await t.check_got(waiter, within, f"behind one that was cancelled {turns} turns after the release")

    @rule("LCK-63", "hold_at_least", "lease_renewal", deadline=20)
    async def test_lck_63_a_renewal_ends_no_at_least(self, t: LockTrial) -> None:
        """A lock with `at_least` is given to nobody before that has passed, although its holder has renewed it for less.

        Catches a renewal that moves the one end which the record of a lock has.
        """
        one, other = await t.clients(2)
        at_least = 3 * t.telling()
        locks = {"kept": False, "released": True}
        held = {how: await t.held(one, t.key(), LONG_TTL, at_least=at_least) for how in locks}
        for how, releases in locks.items():
            t.same(await held[how].lock.renew(t.unit()), True, given="renew by the holder, for less than at_least")
            if releases:
                t.same(await held[how].lock.release(), True, given="release by the holder")
        for share in (0.7, 0.95):
            for how, each in held.items():
                await t.until(each.called + share * at_least)
                given = f"acquire {share:.0%} of at_least after that of a lock which was renewed for less, and {how}"
                await t.check_taken(other, each.name, given, until=each.called + at_least)
        for how, each in held.items():
            await t.until(each.returned + t.longest(at_least))
            await t.check_free(other, each.name, f"acquire after at_least, of a lock which was renewed for less, and {how}")

    @rule("LCK-64", "auto_renew", deadline=30)
    async def test_lck_64_what_was_cancelled_is_not_renewed(self, t: LockTrial) -> None:
        """A cancelled `acquire` with `auto_renew`, wherever it waited, keeps nobody out for longer than its ttl.

        Catches a renewal that begins with the grant, and of which nobody knows who could end it.
        """
        one, other = await t.clients(2)
        names: list[str] = []
        waits = [{}, {"timeout": LONG_TTL / 2}] if "blocking_acquire" in t.declared else [{}]
        for options in waits:

            def make(options: dict[str, float] = options) -> Call[object]:
                names.append(t.key())
                return partial(t.lock(one, names[-1], t.unit(), auto_renew=True).acquire, **options)

            async for each in sweep(make, within=t.cancel_seconds):
                if each.ended == "returned":
                    await t.tidy_lock(names.pop())  # It had its result by then, and holds the lock.
            await t.tidy_lock(names.pop())  # It was not cancelled.
        await t.live(t.now() + 2 * t.longest(t.unit()))
        for number, name in enumerate(names, 1):
            with t.case(f"cancelled acquire number {number}"):
                await t.check_free(other, name, "acquire, long after one with auto_renew that was cancelled, and its ttl")

    @rule("LCK-65", "inspection", "lease_renewal", deadline=30)
    async def test_lck_65_a_look_sees_each_renewal(self, t: LockTrial) -> None:
        """`is_locked` of a lease that was renewed is True after its first ttl, and False once the renewed lease has ended.

        Whether it was renewed for more or for less. Catches a look that compares the end which was written down at the grant.
        """
        one, other = await t.clients(2)

        async def check(ttl: float) -> None:
            longer, shorter = await t.held(one, t.key(), ttl), await t.held(one, t.key())
            t.same(await longer.lock.renew(LONG_TTL), True, given="renew by the holder, for longer")
            t.same(await shorter.lock.renew(ttl), True, given="renew by the holder, for less")
            ended = t.now() + t.longest(ttl)
            await t.until(ended + t.numbers().staleness)
            for manager in (one, other):
                given = "is_locked after the first ttl of a lease, which was renewed for longer"
                t.same(await manager.is_locked(longer.name), True, given=given)
                given = "is_locked after the end of a lease that was renewed for less than was left of it"
                t.same(await manager.is_locked(shorter.name), False, given=given)
            t.same(await longer.lock.release(), True, given="release by the holder")

        await t.unhurried(check, t.unit())


async def _in_body(t: LockTrial, lock: FullLock, other: FullLockManager, name: str, error: Exception | None) -> None:
    """Hold *lock* for a body, which raises *error* if there is one."""
    async with lock:
        await t.check_taken(other, name, "acquire while another is in the body of its lock")
        if error is not None:
            raise error


async def _body(lock: FullLock) -> None:
    """Hold *lock* for a body in which nothing happens."""
    async with lock:
        pass


async def _cancelled_body(lock: FullLock, name: str, in_body: set[str], cancel: Callable[[], object] = lambda: None) -> None:
    """Hold *lock* for a body, which calls *cancel*, and notes that a cancellation reached it."""
    async with lock:
        try:
            cancel()
            await anyio.lowlevel.checkpoint()
        except BaseException:
            in_body.add(name)
            raise
