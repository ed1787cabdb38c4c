"""`cache`: values under keys that expire, and that may be evicted when there is no room.

A cache may evict, a store may not: that is the whole difference from `kv_store`. Below `limits.capacity_bytes` nothing vanishes
early, otherwise a provider that stores nothing would pass. The rules stand here by capability, in the order of their ids. Those
of expiry (`CA-05` to `CA-15`) are in `omnitck.primitives.expiry`, those that a key-value store owes as well in
`omnitck.primitives.key_value`: `CA-KV-02` and its neighbours, which are all there is of `CA-02`, a number without a rule of its
own.
"""

import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import anyio

from omnitck.common.clients import Lifecycle
from omnitck.common.data import DataRules, DataTrial
from omnitck.common.walks import Walk, walk_rule
from omnitck.instruments.walk import Move, Step, random_steps
from omnitck.kit.concurrency import Attempt, Call, attempt, gather, together
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.primitives.key_value import (
    LONG_TTL,
    SHORT_TTL,
    VALUES,
    Batch,
    Binary,
    CompareAndSet,
    Counter,
    KeyValueCells,
    KeyValueRules,
    KeyValueTrial,
    comparable,
    key_value_actions,
    key_value_looks,
    version_of,
)
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError
from omnitck.shared.models import CacheLimits

__all__ = [
    "Add",
    "Batch",
    "Binary",
    "Bounded",
    "CacheCells",
    "CacheContract",
    "CacheProtocol",
    "Clear",
    "CompareAndSet",
    "Counter",
    "FullCache",
    "GetOrSet",
    "Lifecycle",
    "TTLQuery",
    "Touch",
]


class CacheProtocol(Protocol):
    """The core: three operations. Keys and values are `str`, times are seconds.

    Nothing vanishes before its time while the cache holds less than `limits.capacity_bytes`.
    """

    async def get(self, key: str) -> str | None:
        """The value of *key*; None if it is absent, expired or evicted."""
        ...

    async def set(self, key: str, value: str, ttl: float | None = None) -> None:
        """Store *value* for *ttl* seconds, replacing value and expiry; None means without an expiry."""
        ...

    async def delete(self, key: str) -> None:
        """Remove exactly this *key*. An absent key is fine."""
        ...


class Add(Protocol):
    """Capability `add`: write only what is absent."""

    async def add(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store *value* if *key* is absent or expired; whether it was."""
        ...


class Touch(Protocol):
    """Capability `touch`: a new expiry for an old value."""

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Give *key* a new time to live from now, None for no expiry; whether it is present.

        Creates nothing, and changes neither the value nor its version.
        """
        ...


class TTLQuery(Protocol):
    """Capability `ttl_query`."""

    async def expires_in(self, key: str) -> float | None:
        """Seconds left; None without an expiry; `NotFoundError` if absent."""
        ...


class GetOrSet(Protocol):
    """Capability `get_or_set`: one computation for all who miss at once on one client."""

    async def get_or_set(self, key: str, factory: Callable[[], Awaitable[str]], ttl: float | None = None) -> str:
        """The value of *key*; on a miss that of *factory*, which is stored for *ttl*.

        Who misses while *factory* runs on this client waits for it. What it raises is raised by all of them, and not stored. If
        the caller that it runs for is cancelled, the others still get a value: it runs on, or another one's runs.
        """
        ...


class Clear(Protocol):
    """Capability `clear`. The suite's `make_provider` takes `namespace`, so that nothing else is cleared."""

    async def clear(self) -> None:
        """Remove everything of this client's namespace and tenant, and nothing else."""
        ...


class Bounded(Protocol):
    """Capability `bounded`: when it is full the cache evicts, in an order of its own but never what was just written; nothing is
    refused for want of room."""


class FullCache(
    Add,
    Touch,
    TTLQuery,
    GetOrSet,
    Clear,
    Batch,
    Counter,
    CompareAndSet,
    Bounded,
    Binary,
    Lifecycle,
    CacheProtocol,
    Protocol,
):
    """What a provider has that declares every capability. The rules are written against it, each for those that it needs."""


def _given(value: Any) -> Callable[[], Awaitable[Any]]:
    """A computation that takes one turn of the event loop and returns *value*."""

    async def factory() -> Any:
        await anyio.lowlevel.checkpoint()
        return value

    return factory


class CacheCells(KeyValueCells):
    """A cache as a set of cells."""

    expiry_query = "ttl_query"

    operations = (
        *KeyValueCells.operations,
        Operation("set with ttl", lambda p, n, t: p.set(n, t, ttl=3600.0), "set", writes=True),
        Operation("add", lambda p, n, t: p.add(n, t), "add", "add", writes=True),
        Operation("touch", lambda p, n, t, _=None: p.touch(n, 3600.0), "touch", "touch", arrange=lambda p, n, t: p.set(n, t)),
        Operation(
            "expires_in", lambda p, n, t, _=None: p.expires_in(n), "expires_in", "ttl_query",
            arrange=lambda p, n, t: p.set(n, t, ttl=3600.0),
        ),
        # It writes only what is absent, so that a value which is too large is no error of every call.
        Operation("get_or_set", lambda p, n, t: p.get_or_set(n, _given(t)), "get_or_set", "get_or_set"),
        Operation("clear", lambda p, n, t: p.clear(), "clear", "clear", needs_legal_name=False, wide=True),
    )  # fmt: skip
    refusals = (
        *KeyValueCells.refusals,
        Operation("set with a ttl of 0", lambda p, n, t: p.set(n, t, ttl=0), "set", refusal=InvalidArgumentError),
        Operation("add of bytes", lambda p, n, t: p.add(n, t.encode()), "add", "add", refusal=InvalidArgumentError),
        Operation("touch with a ttl of 0", lambda p, n, t: p.touch(n, 0), "touch", "touch", refusal=InvalidArgumentError),
        Operation(
            "expires_in of an absent key", lambda p, n, t: p.expires_in(n + "-absent"), "expires_in", "ttl_query",
            refusal=NotFoundError,
        ),
        Operation(
            "get_or_set of bytes", lambda p, n, t: p.get_or_set(n + "-absent", _given(t.encode())), "get_or_set", "get_or_set",
            refusal=InvalidArgumentError,
        ),
    )  # fmt: skip

    @needs("add")
    async def create(self, provider: Add, name: str, token: str) -> None:
        if not await provider.add(name, token):
            raise ConflictError(f"key {name!r} is present")

    @needs("clear")
    async def erase_many(self, provider: Clear, names: list[str]) -> None:
        await provider.clear()

    async def write_timed(self, provider: CacheProtocol, name: str, token: str, ttl: float) -> None:
        await provider.set(name, token, ttl)


def _model(declared: frozenset[str]) -> object:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.cache import MemoryCache, MemoryCacheBackend

    return MemoryCache(MemoryCacheBackend(), capabilities=declared)


WALK = Walk(
    model=_model,
    steps=lambda chance, declared: _random_steps(chance, declared),
    refine=lambda step, value, declared: comparable(step, value),
    version_of=version_of,
    subject="cache",
)


class CacheTrial(KeyValueTrial[FullCache], DataTrial[FullCache]):
    """The words of the rules of `CacheContract`."""

    def numbers(self) -> CacheLimits:
        return cast(CacheLimits, super().numbers())

    def text_writes(self, client: Any, key: str, value: Any) -> dict[str, Call[object]]:
        return super().text_writes(client, key, value) | self.declared_of({"add": ("add", lambda: client.add(key, value))})

    def timed_writes(self, client: Any, key: str, ttl: Any) -> dict[str, Call[object]]:
        return self.declared_of(
            {
                "set": ("", lambda: client.set(key, self.token(), ttl=ttl)),
                "add": ("add", lambda: client.add(key, self.token(), ttl=ttl)),
                "touch": ("touch", lambda: client.touch(key, ttl)),
                "get_or_set": ("get_or_set", lambda: client.get_or_set(key, _given(self.token()), ttl=ttl)),
            }
        )

    def creations(self, client: Any, key: str, value: str) -> dict[str, Call[object]]:
        return self.declared_of(
            {
                "set": ("", lambda: client.set(key, value)),
                "add": ("add", lambda: client.add(key, value)),
                "get_or_set": ("get_or_set", lambda: client.get_or_set(key, _given(value))),
                "compare_and_set": ("compare_and_set", lambda: client.compare_and_set(key, value, None)),
            }
        )

    async def meanwhile(self, cache: FullCache, released: anyio.Event) -> None:
        """Let those who ask at once all arrive, by so many round trips of one of them; then let the factory go on."""
        key = self.key()
        with anyio.move_on_after(2 * self.patience):
            for _ in range(MANY):
                await cache.get(key)
        released.set()

    async def in_time(self, calls: list[Call[object]], given: str) -> list[Attempt[object]]:
        """What became of each of several concurrent `get_or_set`, which all end."""
        tried: list[Attempt[object]] = []
        with anyio.move_on_after(self.answer_seconds) as scope:
            tried = await together(calls)
        self.check(
            not scope.cancelled_caught,
            given=f"concurrent get_or_set, {given}",
            expected="all have ended",
            observed=Plain("some wait on"),
        )
        return tried

    async def leader_cancelled(self, cache: FullCache, key: str, value: str) -> list[Attempt[object]]:
        """What becomes of five `get_or_set` of *key* that wait, while the caller whose factory runs is cancelled."""
        started, released, leader = anyio.Event(), anyio.Event(), anyio.CancelScope()

        async def compute() -> str:
            started.set()
            await released.wait()
            return value

        async def lead() -> object:
            with leader:
                return await cache.get_or_set(key, compute)
            return None

        async def follow() -> object:
            await started.wait()
            return await cache.get_or_set(key, compute)

        async def cancel() -> None:
            await started.wait()
            for _ in range(MANY):
                await cache.get(self.key())
            leader.cancel()
            await self.meanwhile(cache, released)

        _, *followers, _ = await self.in_time([lead, *[follow] * 5, cancel], "of which the first is cancelled")
        return followers

    def capacity(self) -> int:
        """What the cache holds in bytes, if that can be filled."""
        capacity = self.numbers().capacity_bytes
        if capacity > LARGEST_FILLED:
            self.not_provoked(f"a capacity of {capacity} bytes takes too long to fill: certify with {LARGEST_FILLED} or less")
        return capacity


def _check_suite(cls: Any) -> None:
    # Certifying `clear` must not empty a cache that is not the rule's alone.
    parameter = inspect.signature(cls.make_provider).parameters.get("namespace")
    if "clear" in cls.declared and (parameter is None or parameter.kind is parameter.VAR_KEYWORD):
        raise UsageError(
            f"{cls.__qualname__} declares `clear`, which empties a namespace, but its make_provider takes none: write "
            "`async def make_provider(self, *, namespace: str, **config)` and keep each namespace's keys apart."
        )


class CacheContract(KeyValueRules, DataRules):
    """Certifies a cache."""

    definition = Definition(
        name="cache",
        version="1.0",
        prefix="CA",
        protocols={
            "": CacheProtocol,
            "add": Add,
            "touch": Touch,
            "ttl_query": TTLQuery,
            "get_or_set": GetOrSet,
            "clear": Clear,
            "batch": Batch,
            "counter": Counter,
            "compare_and_set": CompareAndSet,
            "bounded": Bounded,
            "binary": Binary,
            "lifecycle": Lifecycle,
        },
        limits=CacheLimits,
        cells=CacheCells(),
        check=_check_suite,
    )
    trial: ClassVar[type[Trial[Any]]] = CacheTrial

    # Presence

    @rule("CA-01")
    async def test_ca_01_a_miss_is_none(self, t: CacheTrial) -> None:
        """`get` of a key that is not there returns `None` and raises nothing.

        Catches the `KeyError` of a dictionary, and an empty string for absence.
        """
        cache = await t.connect()
        t.same(await cache.get(t.key()), None, given="get(a key never written)")

    @rule("CA-03", deadline=60)
    async def test_ca_03_what_fits_is_kept(self, t: CacheTrial) -> None:
        """1,000 small values without a TTL are all readable after the last was written.

        They are far less than the least capacity. Catches the cache that is switched off, and one that holds 128 entries.
        """
        cache = await t.connect()
        start = t.key()
        keys = [f"{start}-{number}" for number in range(1000)]
        await t.write_all(cache, {key: str(number) for number, key in enumerate(keys)})
        read = await t.many(partial(cache.get, key) for key in keys)
        lost = [key for number, key in enumerate(keys) if read[number] != str(number)]
        t.check(
            not lost,
            given="1,000 small values, read after the last was written",
            expected="each is there",
            observed=Plain(f"{len(lost)} are not, {describe(lost[:1])} for one"),
            hint="a cache evicts only beyond limits.capacity_bytes",
        )

    @rule("CA-04")
    async def test_ca_04_delete_makes_absent(self, t: CacheTrial) -> None:
        """`delete` removes a live key at once, with or without a TTL, and may be repeated.

        Catches a delete that waits for the end of the TTL, and a "not found" that a retry would trip over.
        """
        cache: Any = await t.connect()
        for label, ttl in (("no TTL", None), ("a TTL", 3600.0)):
            with t.case(label):
                key, value = t.key(), t.token()
                await cache.set(key, t.token(), ttl=ttl)
                for given in ("delete(key)", "delete(key) again"):
                    t.same(await cache.delete(key), None, given=f"the result of {given}, {label}")
                    t.same(await cache.get(key), None, given=f"get after {given}, {label}")
                await cache.set(key, value)
                t.same(await cache.get(key), value, given="get after delete and another set")
        t.same(await cache.delete(t.key()), None, given="the result of delete(a key never written)")

    # Several clients

    @rule("CA-16", "shared", deadline=30)
    async def test_ca_16_a_near_copy_is_invalidated(self, t: CacheTrial) -> None:
        """A client that has read a key sees what another does to it, within `staleness`: overwriting, deleting, expiry.

        Catches a copy that is kept inside the client, and that nobody invalidates.
        """
        reader, writer = await t.clients(2)
        value = t.token()

        async def changed(label: str, change: Callable[[str], Awaitable[object]], expected: str | None, first: str = "") -> None:
            with t.case(label):
                key = t.key()
                await writer.set(key, first or t.token())
                await t.settle()
                for _ in range(2):
                    await reader.get(key)
                await change(key)
                await t.settle()
                t.same(await reader.get(key), expected, given=f"get by a client that had read the key, after another's {label}")

        await changed("set", lambda key: writer.set(key, value), value)
        await changed("delete", lambda key: writer.delete(key), None)
        if "counter" in t.declared:
            await changed("increment", lambda key: writer.increment(key), "8", "7")
        if "batch" in t.declared:
            await changed("delete_many", lambda key: writer.delete_many([key]), None)
        if "clear" in t.declared:
            await changed("clear", lambda key: writer.clear(), None)
        with t.case("expiry"):
            key = t.key()
            _, gone_after = await t.set_timed(writer, key, t.token(), t.ttl_unit())
            await reader.get(key)
            await t.expect_gone(
                reader,
                key,
                gone_after + t.numbers().staleness,
                "get by a client that had read the key, after the TTL that another set",
            )

    # add

    @rule("CA-17", "add", deadline=30)
    async def test_ca_17_one_add_wins(self, t: CacheTrial) -> None:
        """Of 20 concurrent `add`s of one key exactly one returns `True`, and its value is stored; the others change nothing.

        After a delete the key can be added again. Catches a get that is followed by a set.
        """
        clients = await t.clients(2)
        cache = clients[0]
        for _ in range(3):
            key = t.key()
            values = [t.token() for _ in range(20)]
            results = await gather(partial(clients[n % 2].add, key, value) for n, value in enumerate(values))
            strange = [each for each in results if type(each) is not bool]
            t.check(not strange, given="the results of 20 concurrent adds", expected="bools", observed=strange)
            t.check(
                results.count(True) == 1,
                given="20 concurrent adds of one key",
                expected="one True",
                observed=Plain(f"{results.count(True)} of them"),
            )
            await t.settle()
            stored = values[results.index(True)]
            t.same(await cache.get(key), stored, given="get after 20 concurrent adds: the winner's value")
        t.same(await cache.add(key, t.token(), ttl=t.ttl_unit()), False, given="add(ttl=...) of a key that is present")
        t.same(await cache.get(key), stored, given="get after an add that returned False")
        await t.wait(2 * t.ttl_unit())
        t.same(await cache.get(key), stored, given="the value, without an expiry, after the TTL of an add that returned False")
        await cache.delete(key)
        unit = t.ttl_unit()
        value = t.token()

        async def add() -> None:
            t.same(await cache.add(key, value, ttl=unit), True, given="add(ttl=...) of a deleted key")

        alive_until, gone_after = await t.timed(add, unit)
        await t.expect_alive(cache, key, value, alive_until, "get after add(ttl=...)")
        await t.expect_gone(cache, key, gone_after, "get after the TTL of an add")

    # touch

    @rule("CA-18", "touch", deadline=30)
    async def test_ca_18_touch_moves_the_deadline_alone(self, t: CacheTrial) -> None:
        """`touch` moves the deadline from now, not the value or its version; of an absent or expired key it creates nothing.

        It returns whether the key is present. Catches a touch that writes what was read before, and brings the dead back.
        """
        cache = await t.connect()
        unit = t.ttl_unit()
        value = t.token()
        longer, shorter, never, dead = (t.key() for _ in range(4))
        _, dead_after = await t.set_timed(cache, dead, value, unit)
        shorter_alive, _ = await t.set_timed(cache, shorter, value, 20 * unit)
        never_alive, _ = await t.set_timed(cache, never, value, unit)
        longer_alive, _ = await t.set_timed(cache, longer, value, unit)
        before = await cache.get_entry(longer) if "compare_and_set" in t.declared else None
        touched: set[str] = set()

        async def touch(key: str, ttl: float | None, alive_until: float) -> None:
            present = await cache.touch(key, ttl)
            if t.now() < alive_until:
                t.same(present, True, given=f"touch(key, {ttl}) of a key that is present")
            if present:
                touched.add(key)  # On a machine that was too busy it had expired, and nothing follows.

        await touch(never, None, never_alive)
        _, shorter_gone = await t.timed(lambda: touch(shorter, unit, shorter_alive), unit)
        longer_alive, longer_gone = await t.timed(lambda: touch(longer, 4 * unit, longer_alive), 4 * unit)
        if before is not None and longer in touched:
            after = await cache.get_entry(longer)
            if t.now() < longer_alive:
                t.same(after, before, given="value and version after touch")
        await t.until(max(dead_after, shorter_gone))
        if longer in touched:
            with t.case("longer"):
                await t.expect_alive(cache, longer, value, longer_alive, f"a TTL of {unit:g} s, touched with {4 * unit:g} s")
        with t.case("shorter"):
            t.same(await cache.get(shorter), None, given=f"a TTL of {20 * unit:g} s, touched with {unit:g} s, after that")
        if never in touched:
            with t.case("None"):
                t.same(await cache.get(never), value, given=f"a TTL of {unit:g} s, touched with None, after that")
        for label, key in (("expired", dead), ("absent", t.key())):
            with t.case(label):
                t.same(await cache.touch(key, 20 * unit), False, given=f"touch of a key that is {label}")
                t.same(await cache.get(key), None, given=f"get after touch of a key that is {label}")
        with t.case("longer, later"):
            await t.expect_gone(cache, longer, longer_gone, f"a TTL of {unit:g} s, touched with {4 * unit:g} s, after that")

    # ttl_query

    @rule("CA-19", "ttl_query", deadline=30)
    async def test_ca_19_expires_in_tells_the_time_left(self, t: CacheTrial) -> None:
        """`expires_in` is the time left, `None` without an expiry, and `NotFoundError` of a key that is absent or expired.

        Catches the -1 and -2 of Redis, milliseconds, and the TTL that was set instead of what is left of it.
        """
        cache = await t.connect()
        unit, resolution = t.ttl_unit(), t.numbers().ttl_resolution
        key, plain = t.key(), t.key()
        await cache.set(plain, t.token())
        t.same(await cache.expires_in(plain), None, given="expires_in of a key without an expiry")
        with t.case("absent"):
            await t.refused(lambda: cache.expires_in(t.key()), NotFoundError, given="expires_in of an absent key")
        began = t.now()
        alive_until, gone_after = await t.set_timed(cache, key, t.token(), 4 * unit)
        for elapsed in (0.0, 2 * unit):
            await t.until(began + elapsed)
            asked = t.now() - began
            tried = await attempt(lambda: cache.expires_in(key))
            answered = t.now() - began
            if began + answered >= alive_until:
                break  # On a machine that is too busy it may have expired.
            with t.case(f"after {elapsed:g} s"):
                left = tried.result()
                # The time may have begun to count when `set` was called, or only when it returned.
                least, most = 4 * unit - answered - resolution, 4 * unit + (gone_after - began - 4 * unit) - asked
                t.check(
                    isinstance(left, float | int) and not isinstance(left, bool) and least <= left <= most,
                    given=f"expires_in, {asked:.3f} s after set(ttl={4 * unit:g})",
                    expected=f"between {least:.3f} and {most:.3f}",
                    observed=left,
                )
        await t.until(gone_after)
        with t.case("expired"):
            await t.refused(lambda: cache.expires_in(key), NotFoundError, given="expires_in of an expired key")

    # get_or_set

    @rule("CA-20", "get_or_set")
    async def test_ca_20_one_computes_for_all(self, t: CacheTrial) -> None:
        """Of 20 concurrent `get_or_set` on one client that miss, one runs its factory, and all get its value, which is stored.

        Catches the stampede.
        """
        cache = await t.connect()
        key, runs, released = t.key(), 0, anyio.Event()

        async def compute() -> str:
            nonlocal runs
            runs += 1
            number = runs
            await released.wait()
            return f"value {number}"

        calls: list[Call[object]] = [partial(cache.get_or_set, key, compute) for _ in range(MANY)]
        *results, _ = await gather([*calls, lambda: t.meanwhile(cache, released)])
        t.check(
            runs == 1,
            given=f"the factory, after {MANY} concurrent get_or_set of a key that is absent",
            expected="it has run once",
            observed=Plain(f"{runs} times"),
            hint="let who misses meanwhile wait for the one that computes",
        )
        t.same(results, ["value 1"] * MANY, given=f"the results of {MANY} concurrent get_or_set")
        t.same(await cache.get(key), "value 1", given="get after get_or_set")

    @rule("CA-21", "get_or_set")
    async def test_ca_21_failures_are_told_and_not_kept(self, t: CacheTrial) -> None:
        """What a factory raises reaches every waiting `get_or_set` and is not stored; a cancelled caller takes no other with it.

        After the cancellation of the caller whose factory runs, the others get a value: it runs on, or one of theirs does.
        Catches the error that is cached, the waiter that waits for ever, and the leader whose end is everybody's.
        """
        cache = await t.connect()
        key, value, released = t.key(), t.token(), anyio.Event()

        async def fail() -> str:
            await released.wait()
            raise LookupError("raised by the factory")

        calls: list[Call[object]] = [partial(cache.get_or_set, key, fail) for _ in range(MANY)]
        tried = await t.in_time([*calls, lambda: t.meanwhile(cache, released)], "of which the first one's factory fails")
        for each in tried[:-1]:
            t.check(
                isinstance(each.error, LookupError) and str(each.error) == "raised by the factory",
                given=f"each of {MANY} concurrent get_or_set whose factory raises LookupError",
                expected="that LookupError",
                observed=Plain(describe_error(each.error) if each.error else f"returned {describe(each.value)}"),
            )
        t.same(await cache.get(key), None, given="get after the factory failed")
        t.same(await cache.get_or_set(key, _given(value)), value, given="get_or_set with a good factory, after one that failed")
        key = t.key()
        for each in await t.leader_cancelled(cache, key, value):
            t.check(
                each.value == value,
                given="each of five get_or_set that wait while the caller whose factory runs is cancelled",
                expected="the value",
                observed=Plain(describe_error(each.error) if each.error else f"returned {describe(each.value)}"),
            )
        t.same(await cache.get(key), value, given="get after the first of several get_or_set was cancelled")

    @rule("CA-28", "get_or_set")
    async def test_ca_28_keys_are_computed_side_by_side(self, t: CacheTrial) -> None:
        """`get_or_set` of different keys at once on one client run their factories side by side.

        Catches one lock for all keys, behind which a slow computation holds up every other.
        """
        cache = await t.connect()
        met = [anyio.Event(), anyio.Event()]

        async def meet(number: int) -> str:
            met[number].set()
            await met[1 - number].wait()
            return str(number)

        with anyio.move_on_after(t.answer_seconds) as scope:
            apart = await gather(partial(cache.get_or_set, t.key(), partial(meet, number)) for number in range(2))
            t.same(apart, ["0", "1"], given="the results of get_or_set of two keys, whose factories wait for each other")
        t.check(
            not scope.cancelled_caught,
            given="get_or_set of two keys, whose factories wait for each other",
            expected="both run side by side",
            observed=Plain("one waits for the other to end"),
        )

    @rule("CA-29", "get_or_set", "validation")
    async def test_ca_29_only_text_is_computed(self, t: CacheTrial) -> None:
        """If the factory returns no `str`, `get_or_set` raises `InvalidArgumentError` and stores nothing.

        Catches silent coercion: the caller that computes gets `7`, all others get `"7"`.
        """
        cache = await t.connect()
        key = t.key()
        await t.refused(
            lambda: cache.get_or_set(key, _given(7)), InvalidArgumentError, given="get_or_set whose factory returns 7"
        )
        t.same(await cache.get(key), None, given="get after the factory returned 7")

    @rule("CA-22", "get_or_set", deadline=30)
    async def test_ca_22_what_is_there_is_not_computed_again(self, t: CacheTrial) -> None:
        """`get_or_set` runs a factory again only after its value has expired or was deleted; an empty value is a value.

        Catches `if not value: compute`, a value that is stored without its TTL, and a memory of past computations.
        """
        cache = await t.connect()
        runs = 0

        async def compute() -> str:
            nonlocal runs
            runs += 1
            return "" if runs == 1 else str(runs)

        async def expect(number: int, value: str, given: str) -> None:
            t.same(await cache.get_or_set(key, compute), value, given=f"get_or_set {given}")
            t.check(runs == number, given=f"the factory, {given}", expected=f"{number} runs", observed=Plain(f"{runs} runs"))

        key = t.key()
        for given in ("of an absent key", "of a key whose value is empty"):
            await expect(1, "", given)
        await cache.delete(key)
        await expect(2, "2", "after delete")
        await cache.set(key, "set")
        await expect(2, "set", "after set")
        await cache.delete(key)
        unit = t.ttl_unit()
        alive_until, gone_after = await t.timed(partial(cache.get_or_set, key, compute, ttl=unit), unit)
        await t.expect_alive(cache, key, "3", alive_until, "get after get_or_set(ttl=...)")
        await t.until(gone_after)
        await expect(4, "4", "after the TTL of the last value")

    # clear

    @rule("CA-23", "clear", deadline=60)
    async def test_ca_23_clear_stays_in_its_namespace(self, t: CacheTrial) -> None:
        """`clear` removes every key of its namespace, more than one page of them, and nothing of any other.

        Not even of one whose name begins with its own. Catches FLUSHDB, a scan of one page, and a pattern without an end.
        """
        mine: Any = await t.connect()
        longer: Any = await t.connect(namespace=f"{t.namespace}x")
        start = t.key()
        keys = [f"{start}-{number}" for number in range(min(t.numbers().page_size, 2000) + 1)]
        kept, timed, value = t.key(), t.key(), t.token()
        for one, other, given in ((mine, longer, "a shorter name"), (longer, mine, "a longer name")):
            with t.case(given):
                await t.write_all(one, dict.fromkeys(keys, "v"))
                await one.set(timed, "v", ttl=3600.0)
                await other.set(kept, value)
                await other.set(keys[0], value)
                t.same(await one.clear(), None, given="the result of clear")
                read = await t.many(partial(one.get, key) for key in (*keys, timed))
                left = [key for key, held in zip((*keys, timed), read, strict=True) if held is not None]
                t.check(
                    not left,
                    given=f"{len(keys) + 1} keys of the namespace, after clear",
                    expected="none is there",
                    observed=Plain(f"{len(left)} are, {describe(left[:1])} for one"),
                )
                for key in (kept, keys[0]):
                    t.same(await other.get(key), value, given=f"a key of another namespace, after clear of the one with {given}")
                await one.set(kept, value)
                t.same(await one.get(kept), value, given="get after clear and set")

    # counter

    @rule("CA-24", "counter", deadline=30)
    async def test_ca_24_a_counter_keeps_its_ttl(self, t: CacheTrial) -> None:
        """`increment` keeps the time to live; on an expired key it starts anew, without one.

        Catches a counter that is read and written back without its TTL: a limit of requests a minute that is never lifted.
        """
        cache = await t.connect()
        key, unseen, unit = t.key(), t.key(), t.ttl_unit()
        await cache.set(unseen, "41", ttl=unit)
        alive_until, gone_after = await t.set_timed(cache, key, "5", unit)
        tried = await attempt(lambda: cache.increment(key, 2))
        if t.now() < alive_until:
            t.same(tried.result(), 7, given='increment by 2 of a key set to "5" with a TTL')
        await t.until(gone_after)
        if tried.result() == 7:  # Else the machine was too busy, and the count began anew.
            await t.expect_gone(
                cache, key, gone_after, f"a counter with a TTL of {unit:g} s, counted once meanwhile", hint="keep the TTL"
            )
        else:
            await cache.delete(key)
        for expired in (key, unseen):
            t.same(await cache.increment(expired, 3), 3, given="increment by 3 of an expired key")
        await t.wait(3 * unit)
        for expired in (key, unseen):
            t.same(await cache.get(expired), "3", given="a counter that began anew, after the TTL of the old one")

    # bounded

    @rule("CA-25", "bounded", deadline=120)
    async def test_ca_25_a_full_cache_makes_room(self, t: CacheTrial) -> None:
        """Writing four times `capacity_bytes` raises nothing, and what was written last is there.

        Catches the error of a backend that is out of memory (Redis with `noeviction`), and the eviction of the newest.
        """
        cache = await t.connect()
        capacity, value = t.capacity(), t.token(FILLING)[:FILLING]
        for number in range(4 * capacity // FILLING + 1):
            key, written = t.key(), f"{number:08}{value[8:]}"
            await cache.set(key, written)
            t.same(
                await cache.get(key),
                written,
                given=f"get at once after set, number {number + 1} of {FILLING} bytes, capacity {capacity}",
            )

    @rule("CA-27", "bounded", "limits", deadline=60)
    async def test_ca_27_nothing_is_evicted_below_the_capacity(self, t: CacheTrial) -> None:
        """Values whose sum with their keys is just below `capacity_bytes` are all readable after the last was written.

        Also after every one of them was overwritten. Catches a limit that was declared larger than what the backend has left
        for values, and a replaced value that still counts.
        """
        cache = await t.connect()
        value = t.token(FILLING)[:FILLING]
        capacity = t.capacity()
        keys = [t.key() for _ in range(capacity // (FILLING + 100))]
        for turn in ("a", "b"):
            for number, key in enumerate(keys):
                await cache.set(key, f"{turn}{number:07}{value[8:]}")
        lost = [key for number, key in enumerate(keys) if await cache.get(key) != f"b{number:07}{value[8:]}"]
        t.check(
            not lost,
            given=f"{len(keys)} values of {FILLING} bytes, each written twice, with a capacity of {capacity} bytes",
            expected="each is there",
            observed=Plain(f"{len(lost)} are not"),
            hint="declare less in limits.capacity_bytes than the memory of the backend, which also holds its own records",
        )

    # Everything at once

    test_ca_26_a_random_walk_agrees_with_the_reference = walk_rule("CA-26", WALK)


MANY = 20
"""Callers at once."""
FILLING = 262_144
"""Bytes of a value that fills a cache: the largest that each one takes."""
LARGEST_FILLED = 64 * 1024 * 1024
"""Bytes of a capacity beyond which it is not filled."""


@dataclass(frozen=True, slots=True)
class _Computed:
    """A factory that returns a text, and can be printed."""

    value: str

    async def __call__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"returning({self.value!r})"


def _random_steps(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over the declared operations."""

    def value() -> str:
        return chance.choice(VALUES)

    actions: list[Move] = [
        *key_value_actions(chance),
        ("", lambda key: Step("set", (key, value()), {"ttl": SHORT_TTL})),
        ("", lambda key: Step("set", (key, value()), {"ttl": SHORT_TTL})),
        ("add", lambda key: Step("add", (key, value()))),
        ("add", lambda key: Step("add", (key, value()), {"ttl": SHORT_TTL})),
        ("touch", lambda key: Step("touch", (key, LONG_TTL))),
        ("touch", lambda key: Step("touch", (key, None))),
        ("get_or_set", lambda key: Step("get_or_set", (key, _Computed(value())))),
        ("get_or_set", lambda key: Step("get_or_set", (key, _Computed(value())), {"ttl": SHORT_TTL})),
        ("clear", lambda key: Step("clear", ())),
    ]
    return random_steps(chance, declared, 300, actions, key_value_looks("ttl_query"))
