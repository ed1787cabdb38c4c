"""`kv_store`: named values that stay until they are replaced, deleted or expire.

The protocol comes first, then the rules in the order of their ids. The core is three methods over `str`; everything else is a
capability, which the provider declares and the kit then checks. What a cache owes as well is in `omnitck.kit.key_value`
(`KV-02` to `KV-05`, `KV-08`, `KV-09`, compare-and-set, batches, counters, bytes) and `omnitck.kit.expiry`.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, ClassVar, Protocol

import anyio

from omnitck.kit.cancellation import cancel_at
from omnitck.kit.cells import Operation
from omnitck.kit.common import CommonRules, Lifecycle
from omnitck.kit.concurrency import Call, attempt, drain, enter, gather
from omnitck.kit.contract import Plain, rule
from omnitck.kit.expiry import EXPIRY_RULES
from omnitck.kit.history import Recorder, Verdict, check, explain
from omnitck.kit.key_value import (
    LONG_TTL,
    SHORT_TTL,
    VALUES,
    Batch,
    Binary,
    CompareAndSet,
    Counter,
    KeyValueCells,
    KeyValueRules,
    comparable,
    key_value_actions,
    key_value_looks,
    version_of,
)
from omnitck.kit.text import describe
from omnitck.kit.walk import WALK_NAMES, Move, Name, Step, random_steps
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError
from omnitck.shared.models import Change, Entry, Expect, Put, Remove

__all__ = [
    "Expiring",
    "KVCells",
    "KVStoreContract",
    "KVStoreProtocol",
    "Linearizable",
    "Listing",
    "Transaction",
    "Watch",
]


class KVStoreProtocol(Protocol):
    """The core: three operations. Keys and values are `str`."""

    async def get(self, key: str) -> str | None:
        """The value of *key*; None if and only if it is absent or expired."""
        ...

    async def set(self, key: str, value: str) -> None:
        """Store *value*, replacing what was there. On return it is visible; what was there leaves no trace, a TTL included."""
        ...

    async def delete(self, key: str) -> None:
        """Remove exactly this *key*. An absent key is fine."""
        ...


class Linearizable(Protocol):
    """Capability `linearizable`: operations on one key by all clients take effect in one order, each between its call and its
    return. `limits.staleness` is then 0."""


class Expiring(Protocol):
    """Capability `ttl`: values that expire. Times are seconds."""

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """Store *value* for *ttl* seconds; None means for ever."""
        ...

    async def expires_in(self, key: str) -> float | None:
        """Seconds left; None without an expiry; `NotFoundError` if absent."""
        ...


class Listing(Protocol):
    """Capability `list_prefix`."""

    def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every live key that starts with *prefix*, compared by code points, in any order, each once."""
        ...


class Watch(Protocol):
    """Capability `watch`: changes as they happen."""

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Entered means established: every later change under *prefix* is then seen, per key in order, its final state surely."""
        ...


class Transaction(Protocol):
    """Capability `transaction`: all or nothing over several keys."""

    async def transact(self, ops: Sequence[Put | Remove | Expect]) -> None:
        """Apply *ops* in order as one step; a later one sees the earlier. A failed `Expect` raises `ConflictError`."""
        ...


class KVCells(KeyValueCells):
    """A key-value store as a set of cells."""

    operations = (
        *KeyValueCells.operations,
        Operation("set with ttl", lambda p, n, t: p.set(n, t, ttl=3600.0), "set", "ttl", argument="ttl", writes=True),
        Operation("expires_in", lambda p, n, t: p.expires_in(n), "expires_in", "ttl"),
        Operation("list_keys", lambda p, n, t: drain(p.list_keys(n)), "list_keys", "list_prefix", needs_legal_name=False),
        Operation("watch", lambda p, n, t: enter(p.watch(n)), "watch", "watch", needs_legal_name=False),
        Operation("transact", lambda p, n, t: p.transact([Put(n, t)]), "transact", "transaction", writes=True),
    )
    refusals = (
        *KeyValueCells.refusals,
        Operation("expires_in of an absent key", lambda p, n, t: p.expires_in(n + "-absent"), "expires_in", "ttl"),
        Operation("transact with an unmet Expect", lambda p, n, t: p.transact([Expect(n, t)]), "transact", "transaction"),
    )
    enumerates = "list_prefix"

    async def names(self, provider: Listing, prefix: str) -> list[str]:
        return await drain(provider.list_keys(prefix))

    async def create(self, provider: CompareAndSet, name: str, token: str) -> None:
        await provider.compare_and_set(name, token, None)

    async def erase_many(self, provider: Batch, names: list[str]) -> None:
        await provider.delete_many(names)

    def watch(self, provider: Watch, name: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        return provider.watch(name)


class KVStoreContract(KeyValueRules, CommonRules):
    """Certifies a key-value store."""

    name = "kv_store"
    version = "1.0"
    prefix = "KV"
    protocols: ClassVar = {
        "": KVStoreProtocol,
        "linearizable": Linearizable,
        "compare_and_set": CompareAndSet,
        "ttl": Expiring,
        "list_prefix": Listing,
        "batch": Batch,
        "counter": Counter,
        "watch": Watch,
        "transaction": Transaction,
        "binary": Binary,
        "lifecycle": Lifecycle,
    }
    extra_needs: ClassVar = {
        "COM-17": frozenset({"batch"}),  # text cannot be changed: only a batch takes and returns what can.
        **{id: frozenset({"ttl"}) for id in EXPIRY_RULES},
        "MT-06": frozenset({"list_prefix"}),
        "MT-18": frozenset({"compare_and_set"}),
        "MT-19": frozenset({"compare_and_set"}),
        "MT-21": frozenset({"watch"}),
        "MT-22": frozenset({"batch"}),
    }
    cells = KVCells()

    # The words in which the rules are written.

    def text_writes(self, client: Any, key: str, value: Any) -> dict[str, Call[object]]:
        more = self.declared_of({"transact": ("transaction", lambda: client.transact([Put(key, value)]))})
        return super().text_writes(client, key, value) | more

    def reads(self, client: Any, key: str) -> dict[str, Call[object]]:
        async def listed() -> object:
            return key if key in await drain(client.list_keys(key)) else None

        return super().reads(client, key) | self.declared_of({"list_keys": ("list_prefix", listed)})

    # Values

    @rule("KV-01")
    async def test_kv_01_an_unwritten_key_is_none(self) -> None:
        """`get` of a key that was never written returns `None` and raises nothing.

        Catches the `KeyError` of a dictionary, and an empty string for absence.
        """
        store: KVStoreProtocol = await self.connect()
        self.same(await store.get(self.key()), None, given="get(a key never written)")

    @rule("KV-06")
    async def test_kv_06_set_replaces_the_whole_value(self) -> None:
        """`set` replaces the whole value, by a shorter or a longer one.

        Catches a write in place that leaves the old tail. That it also drops an earlier TTL is CA-08.
        """
        store: KVStoreProtocol = await self.connect()
        key = self.key()
        for size in (100_000, 1, 0, 5_000, 4_999):
            value = self.token(size)[:size]
            await store.set(key, value)
            self.same(await store.get(key), value, given=f"get after overwriting with {size} characters")

    # Keys

    @rule("KV-07")
    async def test_kv_07_delete_makes_absent(self) -> None:
        """After `delete` the key is absent; deleting it again, or a key that never was, returns `None`.

        Catches a tombstone that is read as a value, and a "not found" that a retry would trip over.
        """
        store: Any = await self.connect()
        key = self.key()
        await store.set(key, self.token())
        for given in ("delete(key)", "delete(key) again"):
            self.same(await store.delete(key), None, given=f"the result of {given}")
            self.same(await store.get(key), None, given=f"get after {given}")
        self.same(await store.delete(self.key()), None, given="the result of delete(a key never written)")

    @rule("KV-10")
    async def test_kv_10_a_key_can_be_written_after_its_delete(self) -> None:
        """A key that is written again after its delete holds only the new value.

        Catches what a soft delete leaves behind. NATS keeps a marker, which a new value must replace.
        """
        store: Any = await self.connect()
        key = self.key()
        for _ in range(3):
            value = self.token()
            await store.set(key, value)
            self.same(await store.get(key), value, given="get after a delete and another set")
            await store.delete(key)
            self.same(await store.get(key), None, given="get after delete")
        if "ttl" in self.declared:
            await store.set(key, self.token(), ttl=self.ttl_unit())
            await store.delete(key)
            await store.set(key, "stays")
            self.same(await store.expires_in(key), None, given="expires_in after set with a TTL, delete, and set without")

    @rule("KV-11")
    async def test_kv_11_reading_changes_nothing(self) -> None:
        """100 reads change neither value nor version nor expiry.

        Catches a repair that rewrites on read.
        """
        store: Any = await self.connect()
        key, value = self.key(), self.token()
        await store.set(key, value)
        before = await self.cells.state(store, key, self.declared)
        for _ in range(100):
            self.same(await store.get(key), value, given="one of 100 reads")
        self.same(await self.cells.state(store, key, self.declared), before, given="value, version and expiry after 100 reads")

    # Several clients

    @rule("KV-12", "shared")
    async def test_kv_12_an_old_value_does_not_come_back(self) -> None:
        """A client that has read a key does not return the older value once another has set it, past `staleness`.

        Catches a cache inside the client without invalidation.
        """
        reader, writer = await self.clients(2)
        key = self.key()
        for number in range(5):
            value = self.token()
            await writer.set(key, value)
            await self.settle()
            for _ in range(3):
                self.same(
                    await reader.get(key),
                    value,
                    given=f"get by a client that had read it before, after set number {number + 1} by another",
                )
        await writer.delete(key)
        await self.settle()
        self.same(await reader.get(key), None, given="get by a client that had read it before, after delete by another")

    @rule("KV-13")
    async def test_kv_13_concurrent_writes_do_not_mix(self) -> None:
        """After concurrent `set`s of one key all clients agree on one of the written values, unmixed.

        Catches large values that are written in parts.
        """
        clients = await self.clients(3)
        key = self.key()
        values = {self.token(20_000) for _ in range(12)}
        await gather(partial(clients[number % 3].set, key, value) for number, value in enumerate(sorted(values)))
        await self.settle()
        seen = [await client.get(key) for client in clients]
        self.check(
            seen[0] in values,
            given="12 concurrent writes of 20,000 characters",
            expected="one of them",
            observed=Plain(f"a value that nobody wrote: {describe(seen[0])}"),
        )
        self.check(
            len(set(seen)) == 1,
            given="three clients after 12 concurrent writes",
            expected="one value",
            observed=Plain(f"{len(set(seen))} different ones"),
        )

    @rule("KV-14", "linearizable", deadline=60)
    async def test_kv_14_histories_are_linearizable(self) -> None:
        """Any history of concurrent `get`, `set`, `delete` and compare-and-set on one key by three clients is linearizable.

        Short histories of unique values, some writes cancelled and left open. Catches a stale replica, a lost delete, and a
        check that is followed by a write.
        """
        clients = await self.clients(3)
        chance = random.Random(self.seed)
        for _ in range(HISTORIES):
            recorder = Recorder()
            key = self.key()
            await gather(
                [partial(self._work, recorder, number, client, key, chance.random()) for number, client in enumerate(clients)]
            )
            verdict = check(recorder.ops)
            if verdict is Verdict.UNDECIDED:
                self.not_provoked(f"a history took too many steps to decide, OMNITCK_SEED={self.seed}")
            if verdict is Verdict.VIOLATION:
                found = explain(recorder.ops)
                self.fail_rule(
                    given=f"concurrent operations by 3 clients, OMNITCK_SEED={self.seed}",
                    expected="an order of them that explains every result",
                    observed="none:\n" + (found.render() if found else "a cycle"),
                )

    async def _work(self, recorder: Recorder, number: int, client: Any, key: str, seed: float) -> None:
        """One client's share of a history."""
        chance = random.Random(seed)
        compares = "compare_and_set" in self.declared
        for step in range(8):
            value = f"{number}.{step}"
            action = chance.choice(("get", "get", "set", "set", "delete", "cas", "cancel"))
            if action == "cancel" and (number or step != 5):
                action = "get"  # One open operation a history: each doubles the search.
            if action == "get":
                await recorder.record(number, "get", (), lambda: client.get(key))
            elif action == "delete":
                await recorder.record(number, "delete", (), lambda: client.delete(key))
            elif action == "cas" and compares:
                entry: Entry | None = None

                async def read() -> str | None:
                    nonlocal entry
                    entry = await client.get_entry(key)
                    return None if entry is None else entry.value

                seen = await recorder.record(number, "get", (), read)
                version = None if entry is None else entry.version
                await recorder.record(
                    number,
                    "compare_and_set",
                    (seen, value),
                    partial(client.compare_and_set, key, value, version),
                    (ConflictError,),
                )
            elif action == "cancel":
                await cancel_at(partial(recorder.record, number, "set", (value,), partial(client.set, key, value)), 0)
            else:
                await recorder.record(number, "set", (value,), partial(client.set, key, value))

    # list_prefix

    @rule("KV-22", "list_prefix", deadline=60)
    async def test_kv_22_a_listing_is_complete(self) -> None:
        """`list_keys(prefix)` yields every live key that starts with *prefix*, exactly once, over several pages, and none else.

        By code points, not by path segments. Catches a listing of one page, and a LIKE that is not escaped. A pattern of NATS
        matches whole tokens only, so a provider filters the rest of the prefix itself.
        """
        store: Any = await self.connect()
        size = self.numbers().page_size
        start = self.key("p")
        keys = [f"{start}{number:05}" for number in range(2 * size + 1)]
        for key in keys:
            await store.set(key, "v")
        self.check_listing(await drain(store.list_keys(start)), keys, f"list_keys with a page of {size} and {len(keys)} keys")
        self.check_listing(
            await drain(store.list_keys(start + "0000")),
            [each for each in keys if each.startswith(start + "0000")],
            "list_keys with a longer prefix",
        )
        self.check_listing(await drain(store.list_keys(keys[3])), [keys[3]], "list_keys of a whole key")
        self.check_listing(await drain(store.list_keys(start + "x")), [], "list_keys of a prefix that no key has")
        for pattern in ("*", "?", "%", "_", "[p]", "\\", ">", "P"):
            with self.case(pattern):
                inner = self.key()
                decoy, match = inner + "abc", inner + pattern + "c"
                await store.set(decoy, "v")
                await store.set(match, "v")
                self.check_listing(
                    await drain(store.list_keys(inner + pattern)), [match], f"list_keys with {pattern!r} in the prefix"
                )

    @rule("KV-23", "list_prefix", deadline=60)
    async def test_kv_23_a_listing_survives_changes(self) -> None:
        """Keys present during the whole iteration are yielded exactly once while others come and go; deleted ones are not.

        Catches paging by offset, and SCAN, which may repeat a key.
        """
        store: Any = await self.connect()
        size = self.numbers().page_size
        start = self.key()
        stay = [f"{start}-{number:05}-stay" for number in range(2 * size + 2)]
        leave = [f"{start}-{number:05}-leave" for number in range(0, 2 * size + 2, 2)]
        gone = [f"{start}-{number:05}-gone" for number in range(4)]
        for key in (*stay, *leave, *gone):
            await store.set(key, "v")
        for key in gone:
            await store.delete(key)
        listed: list[str] = []
        number = 0
        async with aclosing(store.list_keys(start)) as keys:
            async for key in keys:
                listed.append(key)
                if len(listed) % max(1, size // 4) == 0 and number < len(leave):
                    await store.delete(leave[number])
                    await store.set(f"{start}-{number:05}-come", "v")
                    number += 1
        self.check_listing(
            [key for key in listed if key.endswith("-stay")], stay, "list_keys while other keys come and go: those that stay"
        )
        self.check(
            not set(gone) & set(listed),
            given="list_keys after delete",
            expected="no deleted key",
            observed=sorted(set(gone) & set(listed)),
        )

    @rule("KV-24", "list_prefix")
    async def test_kv_24_a_listing_can_be_left(self) -> None:
        """Leaving the iteration early frees its resources: the client works on, and closes.

        Catches a cursor, or a connection of a pool, that is never given back.
        """
        store: Any = await self.connect()
        start = self.key()
        value = self.token()
        for number in range(min(self.numbers().page_size, 20) + 1):
            await store.set(f"{start}{number:03}", value)
        for _ in range(30):
            async with aclosing(store.list_keys(start)) as keys:
                async for _key in keys:
                    break
            self.same(await store.get(f"{start}000"), value, given="get after leaving an iteration early")
        if "lifecycle" in self.declared:
            abandoned = store.list_keys(start)
            await anext(abandoned)
            with anyio.move_on_after(5 * self.patience) as scope:
                await store.close()
            self.check(
                not scope.cancelled_caught, given="close() with an iteration open", expected="it ends", observed=Plain("it hangs")
            )
            await attempt(abandoned.aclose)

    # watch

    @rule("KV-28", "watch")
    async def test_kv_28_a_watcher_sees_every_final_state(self) -> None:
        """Once entered, a watcher sees the final state of every later write and delete under its prefix, in order per key.

        And nothing else; it ends when it is left, and, quietly or with `ClosedError`, when its client closes. Catches the gap
        between reading and subscribing, and a delete that is not told.
        """
        store, writer = await self.clients(2)
        await writer.set(self.key(), "before")
        start = self.key("w")
        keys = [f"{start}{number}" for number in range(3)]
        stranger, sentinel = self.key("other"), start + "-sentinel"
        wrote: dict[str, list[str | None]] = {key: [] for key in keys}
        seen: list[list[Change]] = [[], []]
        async with store.watch(start) as first, writer.watch(start) as second:
            for number in range(12):
                key, value = keys[number % 3], self.token()
                await writer.set(key, value)
                wrote[key].append(value)
                await writer.set(stranger, self.token())
            for key in keys[:2]:
                await writer.delete(key)
                wrote[key].append(None)
            await writer.set(sentinel, "end")

            async def read(changes: AsyncIterator[Change], into: list[Change]) -> None:
                async for change in changes:
                    if change.key == sentinel:
                        return
                    into.append(change)

            with anyio.move_on_after(5 * self.patience) as scope:
                await gather([lambda: read(first, seen[0]), lambda: read(second, seen[1])])
        self.check(
            not scope.cancelled_caught,
            given="a last write under the prefix",
            expected="every watcher is told of it",
            observed=Plain("nothing came in 5 s"),
        )
        for which, changes in zip(("the same client's watcher", "another client's watcher"), seen, strict=True):
            with self.case(which):
                strange = [each for each in changes if each.key not in wrote]
                self.check(not strange, given=which, expected=f"only keys that begin with {describe(start)}", observed=strange)
                for key, values in wrote.items():
                    told = [each.value for each in changes if each.key == key]
                    self.check(
                        bool(told) and told[-1] == values[-1],
                        given=f"{which}: the last change of a key",
                        expected=describe(values[-1]),
                        observed=told[-1:],
                    )
                    self.check(
                        _is_subsequence(told, values),
                        given=f"{which}: the changes of one key",
                        expected="those that happened, in order",
                        observed=told,
                    )
        if "lifecycle" in self.declared:
            await self.check_watch_ends(store, store.watch(self.key()))

    # transaction

    @rule("KV-29", "transaction")
    async def test_kv_29_a_transaction_is_all_or_nothing(self) -> None:
        """All steps become visible together or none; an unmet `Expect` or an invalid step leaves no trace.

        Later steps see earlier ones. Catches a pipeline that is sold as a transaction. A script of Redis is not rolled back, so
        it checks before it writes; an absent row of PostgreSQL cannot be locked, so two transactions may both miss it.
        """
        store, reader = await self.clients(2)
        if self.numbers().staleness:
            reader = store  # Only a client's own writes are visible at once there.
        a, b, c = self.key("a"), self.key("b"), self.key("c")
        await store.transact(
            [Put(a, "1"), Put(b, "1"), Expect(a, "1"), Expect(c, None), Remove(a), Expect(a, None), Put(a, "2"), Put(b, "2")]
        )
        self.same(
            [await store.get(key) for key in (a, b, c)],
            ["2", "2", None],
            given="a, b and c after a transaction whose later steps see the earlier",
        )
        for label, bad, error in (
            ("an unmet Expect", Expect(b, "other"), ConflictError),
            ("an Expect of absence", Expect(b, None), ConflictError),
            ("an Expect of an absent key", Expect(c, "2"), ConflictError),
            ("a step that is invalid", Put(b, 7), InvalidArgumentError),  # type: ignore[arg-type]
        ):
            with self.case(label):
                await self.refused(
                    partial(store.transact, [Put(a, "never"), bad, Remove(b), Put(c, "never")]),
                    error,
                    given=f"a transaction with {label}",
                )
                self.same(
                    [await store.get(key) for key in (a, b, c)], ["2", "2", None], given="a, b and c after the failed transaction"
                )

        torn: list[object] = []
        finished = False

        async def write() -> None:
            nonlocal finished
            for number in range(20):
                await store.transact([Put(a, str(number)), Put(b, str(number))])
            finished = True

        async def look() -> None:
            while not finished:
                # b is written after a: if the two are one step, b can never be older than a read of a that came before it.
                first = await reader.get(a)
                second = await reader.get(b)
                if _number(second) < _number(first):
                    torn.append((first, second))
                third = await reader.get(a)
                if _number(third) < _number(second):
                    torn.append((third, second))

        await store.transact([Put(a, "-1"), Put(b, "-1")])
        await gather([write, look])
        self.check(
            not torn,
            given="a and b read in turn while transactions write both",
            expected="never one without the other",
            observed=torn[:3],
        )

        async def add_one(client: Any) -> None:
            held = await client.get(c)
            await client.transact([Expect(c, held), Put(c, str(int(held or 0) + 1))])

        await gather(partial(self.retry, partial(add_one, (store, reader)[number % 2])) for number in range(8))
        self.same(
            await store.get(c), "8", given="a counter after 8 concurrent transactions that each expect what they read and add 1"
        )

    # ttl

    @rule("KV-30", "ttl", deadline=90)
    async def test_kv_30_an_expired_key_is_absent_everywhere(self) -> None:
        """`expires_in` tells the time left, and an expired key is absent for every write that asks.

        None without an expiry, `NotFoundError` if absent. `compare_and_set(key, value, None)` creates, a version from before is
        refused, an `Expect` of absence holds. Catches the -1 and -2 of Redis, and the expired item that blocks a creation.
        """
        store: Any = await self.connect()
        key, plain = self.key(), self.key()
        unit, resolution = self.ttl_unit(), self.numbers().ttl_resolution
        await store.set(plain, "v")
        self.same(await store.expires_in(plain), None, given="expires_in of a key without an expiry")
        await self.refused(lambda: store.expires_in(self.key()), NotFoundError, given="expires_in of an absent key")
        began = self.now()
        _, gone_after = await self.set_timed(store, key, self.token(), unit)
        left = await store.expires_in(key)
        elapsed = self.now() - began
        if elapsed < unit - resolution:
            self.check(
                isinstance(left, float | int) and unit - elapsed - resolution <= left <= unit + resolution,
                given=f"expires_in, {elapsed:.3f} s after set(ttl={unit:g})",
                expected=f"between {unit - elapsed - resolution:.3f} and {unit + resolution:.3f}",
                observed=left,
            )
        version = None
        if "compare_and_set" in self.declared:
            entry = await store.get_entry(key)
            version = None if entry is None else entry.version
        await self.until(gone_after)
        if "transaction" in self.declared:
            with self.case("transact"):
                await store.transact([Expect(key, None)])
        if version is not None:
            with self.case("compare_and_set with the expired version"):
                await self.refused(
                    lambda: store.compare_and_set(key, self.token(), version),
                    ConflictError,
                    given="compare_and_set with the version of an expired value",
                )
        if "compare_and_set" in self.declared:
            with self.case("compare_and_set(None)"):
                value = self.token()
                await store.compare_and_set(key, value, None)
                await self.wait(2 * unit)
                self.same(
                    await store.get(key), value, given="a value created over an expired one, after the old TTL has passed twice"
                )

    # Everything at once

    @rule("KV-32", deadline=60)
    async def test_kv_32_a_random_walk_agrees_with_the_reference(self) -> None:
        """Any sequence of declared operations gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference; a divergence is shortened and shown as Python. Finds what no
        single rule foresaw: the interplay of operations.
        """
        # Imported here: an application's own tests of a provider should not load the model before they need it.
        from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore

        await self.check_walk(
            await self.connect(),
            lambda: MemoryKVStore(MemoryBackend(), capabilities=self.declared),
            _random_steps(random.Random(self.seed), self.declared),
            refine=comparable,
            version_of=version_of,
        )


HISTORIES = 12
"""Short concurrent histories that one run checks: a stale read or an unchecked comparison shows in about one of three."""


def _random_steps(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over the declared operations."""

    def transaction(key: Name) -> list[Put | Remove | Expect]:
        one: Any = key
        another: Any = Name(chance.randrange(WALK_NAMES))
        kinds: tuple[Callable[[], Put | Remove | Expect], ...] = (
            lambda: Put(one, chance.choice(VALUES)),
            lambda: Remove(another),
            lambda: Expect(one, chance.choice((None, *VALUES))),
        )
        return [chance.choice(kinds)() for _ in range(chance.randint(1, 4))]

    actions: list[Move] = [
        *key_value_actions(chance),
        ("ttl", lambda key: Step("set", (key, chance.choice(VALUES)), {"ttl": SHORT_TTL})),
        ("ttl", lambda key: Step("set", (key, chance.choice(VALUES)), {"ttl": LONG_TTL})),
        ("transaction", lambda key: Step("transact", (transaction(key),))),
    ]
    looks: list[Move] = [*key_value_looks("ttl"), ("list_prefix", lambda key: Step("list_keys", (key,)))]
    return random_steps(chance, declared, 200, actions, looks)


def _is_subsequence(part: Sequence[object], whole: Sequence[object]) -> bool:
    """Whether *part* is *whole* with some elements left out."""
    rest = iter(whole)
    return all(any(each == other for other in rest) for each in part)


def _number(text: str | None) -> int:
    return -2 if text is None else int(text)
