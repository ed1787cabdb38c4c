"""`kv_store`: named values that stay until they are replaced, deleted or expire.

The protocol comes first, then the rules, by capability in the order of their ids. The core is three methods over `str`;
everything else is a capability, which the provider declares and the kit then checks. What a cache owes as well is in
`omnitck.primitives.key_value` (`KV-02` to `KV-05`, `KV-08`, `KV-09`, compare-and-set, batches, counters, bytes) and
`omnitck.primitives.expiry`.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import anyio

from omnitck.common.clients import Lifecycle
from omnitck.common.data import DataRules, DataTrial, within_reach
from omnitck.common.walks import Walk, walk_rule
from omnitck.instruments.cancellation import cancel_at
from omnitck.instruments.history import Recorder, Verdict, check, explain
from omnitck.instruments.walk import WALK_NAMES, Move, Name, Step, random_steps
from omnitck.kit.concurrency import Call, attempt, drain, enter, gather
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.text import describe
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
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError, TCKError
from omnitck.shared.models import Change, Expect, Put, Remove

__all__ = [
    "Batch",
    "Binary",
    "CompareAndSet",
    "Counter",
    "Expiring",
    "FullKVStore",
    "KVCells",
    "KVStoreContract",
    "KVStoreProtocol",
    "Lifecycle",
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


class FullKVStore(
    Expiring,
    CompareAndSet,
    Listing,
    Batch,
    Counter,
    Watch,
    Transaction,
    Binary,
    Linearizable,
    Lifecycle,
    KVStoreProtocol,
    Protocol,
):
    """What a provider has that declares every capability. The rules are written against it, each for those that it needs."""


class KVCells(KeyValueCells):
    """A key-value store as a set of cells."""

    operations = (
        *KeyValueCells.operations,
        Operation("set with ttl", lambda p, n, t: p.set(n, t, ttl=3600.0), "set", "ttl", argument="ttl", writes=True),
        Operation(
            "expires_in", lambda p, n, t, _=None: p.expires_in(n), "expires_in", "ttl",
            arrange=lambda p, n, t: p.set(n, t, ttl=3600.0),
        ),
        Operation("list_keys", lambda p, n, t: drain(p.list_keys(n)), "list_keys", "list_prefix", needs_legal_name=False),
        Operation("watch", lambda p, n, t: enter(p.watch(n)), "watch", "watch", needs_legal_name=False),
        Operation("transact", lambda p, n, t: p.transact([Put(n, t)]), "transact", "transaction", writes=True),
    )  # fmt: skip
    refusals = (
        *KeyValueCells.refusals,
        Operation(
            "expires_in of an absent key", lambda p, n, t: p.expires_in(n + "-absent"), "expires_in", "ttl",
            refusal=NotFoundError,
        ),
        Operation(
            "transact with an unmet Expect", lambda p, n, t: p.transact([Expect(n, t)]), "transact", "transaction",
            refusal=ConflictError,
        ),
    )  # fmt: skip

    @needs("list_prefix")
    async def names(self, provider: Listing, prefix: str) -> list[str]:
        return await drain(provider.list_keys(prefix))

    @needs("compare_and_set")
    async def create(self, provider: CompareAndSet, name: str, token: str) -> None:
        await provider.compare_and_set(name, token, None)

    @needs("batch")
    async def erase_many(self, provider: Batch, names: list[str]) -> None:
        await provider.delete_many(names)

    @needs("watch")
    def watch(self, provider: Watch, name: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        return provider.watch(name)

    @needs("ttl")
    async def write_timed(self, provider: Expiring, name: str, token: str, ttl: float) -> None:
        await provider.set(name, token, ttl=ttl)


def _model(declared: frozenset[str]) -> object:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore

    return MemoryKVStore(MemoryBackend(), capabilities=declared)


WALK = Walk(
    model=_model,
    steps=lambda chance, declared: _random_steps(chance, declared),
    refine=lambda step, value, declared: comparable(step, value),
    version_of=version_of,
)


@dataclass(frozen=True, slots=True)
class _Worker:
    """One of the clients that make a history on one key: its calls are recorded."""

    number: int
    client: FullKVStore
    key: str
    recorder: Recorder
    cancel_seconds: float
    """Within this, a cancelled call ends."""

    async def get(self) -> None:
        await self.recorder.record(self.number, "get", (), partial(self.client.get, self.key))

    async def set(self, value: str) -> None:
        await self.recorder.record(self.number, "set", (value,), partial(self.client.set, self.key, value))

    async def cancelled_set(self, value: str) -> None:
        await cancel_at(partial(self.set, value), 0, within=self.cancel_seconds)

    async def delete(self) -> None:
        await self.recorder.record(self.number, "delete", (), partial(self.client.delete, self.key))

    async def replace(self, value: str) -> None:
        """Read, and write if nobody has written meanwhile."""
        version: str | None = None

        async def read() -> str | None:
            nonlocal version
            entry = await self.client.get_entry(self.key)
            version = None if entry is None else entry.version
            return None if entry is None else entry.value

        seen = await self.recorder.record(self.number, "get", (), read)
        compare = partial(self.client.compare_and_set, self.key, value, version)
        await self.recorder.record(self.number, "compare_and_set", (seen, value), compare, (ConflictError,))


class KVStoreTrial(KeyValueTrial[FullKVStore], DataTrial[FullKVStore]):
    """The words of the rules of `KVStoreContract`."""

    def text_writes(self, client: Any, key: str, value: Any) -> dict[str, Call[object]]:
        more = self.declared_of({"transact": ("transaction", lambda: client.transact([Put(key, value)]))})
        return super().text_writes(client, key, value) | more

    def rewrites(self, client: Any, key: str, value: str) -> dict[str, Call[object]]:
        transact = ("transaction", lambda: client.transact([Put(key, value)]))
        return super().rewrites(client, key, value) | self.declared_of({"transact with an equal value": transact})

    def reads(self, client: Any, key: str) -> dict[str, Call[object]]:
        async def listed() -> object:
            return key if key in await drain(client.list_keys(key)) else None

        return super().reads(client, key) | self.declared_of({"list_keys": ("list_prefix", listed)})

    async def work(self, worker: _Worker, seed: float) -> None:
        """One worker's share of a history: eight calls by chance, each write with a value of its own."""
        chance = random.Random(seed)
        for step in range(8):
            value = f"{worker.number}.{step}"
            calls: dict[str, Call[None]] = {
                "get": worker.get,
                "set": partial(worker.set, value),
                "delete": worker.delete,
                "replace": partial(worker.replace if "compare_and_set" in self.declared else worker.set, value),
                "cancel": worker.get,
            }
            if (worker.number, step) == (0, 5):  # One open operation a history: each doubles the search.
                calls["cancel"] = partial(worker.cancelled_set, value)
            await calls[chance.choice(("get", "get", "set", "set", "delete", "replace", "cancel"))]()

    async def make_changes(self, client: FullKVStore, keys: Sequence[str], stranger: str) -> dict[str, list[str | None]]:
        """Write each of three *keys* four times, *stranger* between, and delete two; what each key held, in order."""
        values: dict[str, list[str | None]] = {key: [] for key in keys}
        for number in range(12):
            key, value = keys[number % 3], self.token()
            await client.set(key, value)
            values[key].append(value)
            await client.set(stranger, self.token())
        for key in keys[:2]:
            await client.delete(key)
            values[key].append(None)
        return values

    async def told(self, watchers: Sequence[AsyncIterator[Change]], last: str) -> list[list[Change]]:
        """What each of *watchers* yields until it is told of the key *last*, or its time to be told is over."""
        told: list[list[Change]] = [[] for _ in watchers]

        async def read(number: int) -> None:
            async for change in watchers[number]:
                told[number].append(change)
                if change.key == last:
                    return

        await self.settle()  # who watches is another client, which may see what was there before a write
        with self.waiting(self.answer_seconds):
            await gather(partial(read, number) for number in range(len(watchers)))
        return told

    def check_told(self, told: Sequence[Change], wrote: dict[str, list[str | None]], last: str, start: str, given: str) -> None:
        """Fail the rule unless *told* are changes that *wrote* lists, in order, up to the final one of each key, and *last*."""
        self.check(
            any(each.key == last for each in told),
            given=f"{given}, after a last write under the prefix",
            expected="it is told of it",
            observed=Plain(f"{len(told)} other changes, then nothing within {self.answer_seconds:g} s"),
        )
        strange = [each for each in told if each.key not in (*wrote, last)]
        self.check(not strange, given=given, expected=f"only keys that begin with {describe(start)}", observed=strange)
        for key, values in wrote.items():
            seen = [each.value for each in told if each.key == key]
            self.check(
                bool(seen) and seen[-1] == values[-1],
                given=f"{given}: the last change of a key",
                expected=describe(values[-1]),
                observed=seen[-1:],
            )
            self.check(
                _is_subsequence(seen, values),
                given=f"{given}: the changes of one key",
                expected="those that happened, in order",
                observed=seen,
            )

    async def check_never_torn(self, writer: FullKVStore, reader: FullKVStore, a: str, b: str) -> None:
        """Fail the rule if a reader sees one of two keys written without the other, while transactions write both."""
        torn: list[object] = []
        finished = False

        async def write() -> None:
            nonlocal finished
            for number in range(20):
                await writer.transact([Put(a, str(number)), Put(b, str(number))])
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

        await writer.transact([Put(a, "-1"), Put(b, "-1")])
        await gather([write, look])
        self.check(
            not torn,
            given="a and b read in turn while transactions write both",
            expected="never one without the other",
            observed=torn[:3],
        )


class KVStoreContract(KeyValueRules, DataRules):
    """Certifies a key-value store."""

    definition = Definition(
        name="kv_store",
        version="1.0",
        prefix="KV",
        protocols={
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
        },
        cells=KVCells(),
    )
    trial: ClassVar[type[Trial[Any]]] = KVStoreTrial

    # Values

    @rule("KV-01")
    async def test_kv_01_an_unwritten_key_is_none(self, t: KVStoreTrial) -> None:
        """`get` of a key that was never written returns `None` and raises nothing.

        Catches the `KeyError` of a dictionary, and an empty string for absence.
        """
        store = await t.connect()
        t.same(await store.get(t.key()), None, given="get(a key never written)")

    @rule("KV-06")
    async def test_kv_06_set_replaces_the_whole_value(self, t: KVStoreTrial) -> None:
        """`set` replaces the whole value, by a shorter or a longer one.

        Catches a write in place that leaves the old tail. That it also drops an earlier TTL is CA-08.
        """
        store = await t.connect()
        key = t.key()
        for size in (100_000, 1, 0, 5_000, 4_999):
            value = t.token(size)[:size]
            await store.set(key, value)
            t.same(await store.get(key), value, given=f"get after overwriting with {size} characters")

    # Keys

    @rule("KV-07")
    async def test_kv_07_delete_makes_absent(self, t: KVStoreTrial) -> None:
        """After `delete` the key is absent; deleting it again, or a key that never was, returns `None`.

        Catches a tombstone that is read as a value, and a "not found" that a retry would trip over.
        """
        store: Any = await t.connect()
        key = t.key()
        await store.set(key, t.token())
        for given in ("delete(key)", "delete(key) again"):
            t.same(await store.delete(key), None, given=f"the result of {given}")
            t.same(await store.get(key), None, given=f"get after {given}")
        t.same(await store.delete(t.key()), None, given="the result of delete(a key never written)")

    @rule("KV-10")
    async def test_kv_10_a_key_can_be_written_after_its_delete(self, t: KVStoreTrial) -> None:
        """A key that is written again after its delete holds only the new value.

        Catches what a soft delete leaves behind. NATS keeps a marker, which a new value must replace.
        """
        store = await t.connect()
        key = t.key()
        for _ in range(3):
            value = t.token()
            await store.set(key, value)
            t.same(await store.get(key), value, given="get after a delete and another set")
            await store.delete(key)
            t.same(await store.get(key), None, given="get after delete")
        if "ttl" in t.declared:
            await store.set(key, t.token(), ttl=t.ttl_unit())
            await store.delete(key)
            await store.set(key, "stays")
            t.same(await store.expires_in(key), None, given="expires_in after set with a TTL, delete, and set without")

    @rule("KV-11")
    async def test_kv_11_reading_changes_nothing(self, t: KVStoreTrial) -> None:
        """100 reads change neither value nor version nor expiry.

        Catches a repair that rewrites on read.
        """
        store = await t.connect()
        key, value = t.key(), t.token()
        await store.set(key, value)
        before = await t.cells.state(store, key, t.declared)
        for _ in range(100):
            t.same(await store.get(key), value, given="one of 100 reads")
        t.same(await t.cells.state(store, key, t.declared), before, given="value, version and expiry after 100 reads")

    # Several clients

    @rule("KV-12", "shared")
    async def test_kv_12_an_old_value_does_not_come_back(self, t: KVStoreTrial) -> None:
        """A client that has read a key does not return the older value once another has set it, past `staleness`.

        Catches a cache inside the client without invalidation.
        """
        reader, writer = await t.clients(2)
        key = t.key()
        for number in range(5):
            value = t.token()
            await writer.set(key, value)
            await t.settle()
            for _ in range(3):
                t.same(
                    await reader.get(key),
                    value,
                    given=f"get by a client that had read it before, after set number {number + 1} by another",
                )
        await writer.delete(key)
        await t.settle()
        t.same(await reader.get(key), None, given="get by a client that had read it before, after delete by another")

    @rule("KV-13")
    async def test_kv_13_concurrent_writes_do_not_mix(self, t: KVStoreTrial) -> None:
        """After concurrent `set`s of one key all clients agree on one of the written values, unmixed.

        Catches large values that are written in parts.
        """
        clients = await t.clients(3)
        key = t.key()
        values = {t.token(20_000) for _ in range(12)}
        await gather(partial(clients[number % 3].set, key, value) for number, value in enumerate(sorted(values)))
        await t.settle()
        seen = [await client.get(key) for client in clients]
        t.check(
            seen[0] in values,
            given="12 concurrent writes of 20,000 characters",
            expected="one of them",
            observed=Plain(f"a value that nobody wrote: {describe(seen[0])}"),
        )
        t.check(
            len(set(seen)) == 1,
            given="three clients after 12 concurrent writes",
            expected="one value",
            observed=Plain(f"{len(set(seen))} different ones"),
        )

    @rule("KV-14", "linearizable", deadline=60)
    async def test_kv_14_histories_are_linearizable(self, t: KVStoreTrial) -> None:
        """Any history of concurrent `get`, `set`, `delete` and compare-and-set on one key by three clients is linearizable.

        Short histories of unique values, some writes cancelled and left open. Catches a stale replica, a lost delete, and a
        check that is followed by a write.
        """
        clients = await t.clients(3)
        chance = random.Random(t.seed)
        for _ in range(HISTORIES):
            recorder = Recorder()
            key = t.key()
            workers = [_Worker(number, client, key, recorder, t.cancel_seconds) for number, client in enumerate(clients)]
            await gather([partial(t.work, worker, chance.random()) for worker in workers])
            verdict = check(recorder.ops)
            if verdict is Verdict.UNDECIDED:
                t.not_provoked(f"a history took too many steps to decide, OMNITCK_SEED={t.seed}")
            if verdict is Verdict.VIOLATION:
                found = explain(recorder.ops)
                t.fail_rule(
                    given=f"concurrent operations by 3 clients, OMNITCK_SEED={t.seed}",
                    expected="an order of them that explains every result",
                    observed="none:\n" + (found.render() if found else "a cycle"),
                )

    # list_prefix

    @rule("KV-22", "list_prefix", deadline=60)
    async def test_kv_22_a_listing_is_complete(self, t: KVStoreTrial) -> None:
        """`list_keys(prefix)` yields every live key that starts with *prefix*, exactly once, over several pages, and none else.

        By code points, not by path segments. Catches a listing of one page, and a LIKE that is not escaped. A pattern of NATS
        matches whole tokens only, so a provider filters the rest of the prefix itself. Pages of more than 10,000 are not filled.
        """
        store = await t.connect()
        size = within_reach(t.numbers().page_size)
        start = t.key("p")
        keys = [f"{start}{number:05}" for number in range(2 * size + 1)]
        await t.write_all(store, dict.fromkeys(keys, "v"))
        t.check_listing(await drain(store.list_keys(start)), keys, f"list_keys with a page of {size} and {len(keys)} keys")
        t.check_listing(
            await drain(store.list_keys(start + "0000")),
            [each for each in keys if each.startswith(start + "0000")],
            "list_keys with a longer prefix",
        )
        t.check_listing(await drain(store.list_keys(keys[2])), [keys[2]], "list_keys of a whole key")
        t.check_listing(await drain(store.list_keys(start + "x")), [], "list_keys of a prefix that no key has")
        for pattern in ("*", "?", "%", "_", "[p]", "\\", ">", "P"):
            with t.case(pattern):
                inner = t.key()
                decoy, match = inner + ("pc" if pattern == "P" else "abc"), inner + pattern + "c"
                await store.set(decoy, "v")
                await store.set(match, "v")
                t.check_listing(
                    await drain(store.list_keys(inner + pattern)), [match], f"list_keys with {pattern!r} in the prefix"
                )

    @rule("KV-23", "list_prefix", deadline=60)
    async def test_kv_23_a_listing_survives_changes(self, t: KVStoreTrial) -> None:
        """`list_keys` yields a key that is present all the while exactly once, whatever comes and goes, and no deleted one.

        Catches paging by offset, and SCAN, which may repeat a key.
        """
        store = await t.connect()
        size = within_reach(t.numbers().page_size)
        start = t.key()
        stay = [f"{start}-{number:05}-stay" for number in range(2 * size + 2)]
        leave = [f"{start}-{number:05}-leave" for number in range(0, 2 * size + 2, 2)]
        gone = [f"{start}-{number:05}-gone" for number in range(4)]
        await t.write_all(store, dict.fromkeys([*stay, *leave, *gone], "v"))
        for key in gone:
            await store.delete(key)
        listed: list[str] = []
        number = 0
        iteration = store.list_keys(start)
        try:
            async for key in iteration:
                listed.append(key)
                if len(listed) % max(1, size // 4) == 0 and number < len(leave):
                    await store.delete(leave[number])
                    await store.set(f"{start}-{number:05}-come", "v")
                    number += 1
        finally:
            await _leave(iteration)
        t.check_listing(
            [key for key in listed if key.endswith("-stay")], stay, "list_keys while other keys come and go: those that stay"
        )
        t.check(
            not set(gone) & set(listed),
            given="list_keys after delete",
            expected="no deleted key",
            observed=sorted(set(gone) & set(listed)),
        )

    @rule("KV-24", "list_prefix")
    async def test_kv_24_a_listing_can_be_left(self, t: KVStoreTrial) -> None:
        """Leaving the iteration of `list_keys` early frees its resources: the client works on, and closes.

        Catches a cursor, or a connection of a pool, that is never given back.
        """
        store = await t.connect()
        start = t.key()
        value = t.token()
        for number in range(min(t.numbers().page_size, 20) + 1):
            await store.set(f"{start}{number:03}", value)
        for _ in range(30):
            iteration = store.list_keys(start)
            async for _key in iteration:
                break
            await _leave(iteration)
            t.same(await store.get(f"{start}000"), value, given="get after leaving an iteration early")
        if "lifecycle" in t.declared:
            abandoned = store.list_keys(start)
            await anext(abandoned)
            with anyio.move_on_after(t.answer_seconds) as scope:
                await store.close()
            t.check(
                not scope.cancelled_caught, given="close() with an iteration open", expected="it ends", observed=Plain("it hangs")
            )
            await attempt(partial(_leave, abandoned))

    # watch

    @rule("KV-28", "watch")
    async def test_kv_28_a_watcher_sees_every_final_state(self, t: KVStoreTrial) -> None:
        """Once entered, a watcher sees the final state of every later write and delete under its prefix, in order per key.

        And nothing else; within `staleness`, in which any client may see what was there before. Catches the gap between reading
        and subscribing, and a delete that is not told.
        """
        store, writer = await t.clients(2)
        await writer.set(t.key(), "before")
        start = t.key("w")
        keys = [f"{start}{number}" for number in range(3)]
        stranger, last = t.key("other"), start + "-last"
        async with store.watch(start) as first, writer.watch(start) as second:
            wrote = await t.make_changes(writer, keys, stranger)
            await writer.set(last, "end")
            told = await t.told((first, second), last)
        for given, changes in zip(("another client's watcher", "the same client's watcher"), told, strict=True):
            with t.case(given):
                t.check_told(changes, wrote, last, start, given)

    @rule("KV-33", "watch", "lifecycle")
    async def test_kv_33_closing_ends_a_watcher(self, t: KVStoreTrial) -> None:
        """When its client closes, a watcher's iteration ends, quietly or with `ClosedError`.

        Catches a watcher that waits for ever, and one to which the driver's own error of a lost connection is handed.
        """
        store = await t.connect()
        await t.check_watch_ends(store, store.watch(t.key()))

    # transaction

    @rule("KV-29", "transaction")
    async def test_kv_29_a_transaction_is_all_or_nothing(self, t: KVStoreTrial) -> None:
        """All steps of a transaction become visible together or none; one that is refused leaves no trace.

        Because an `Expect` is not met, or, with `validation`, because a step is invalid. Catches a pipeline that is sold as a
        transaction. A script of Redis is not rolled back, so it checks before it writes.
        """
        store, reader = await t.clients(2)
        if t.numbers().staleness:
            reader = store  # Only a client's own writes are visible at once there.
        a, b, c = t.key("a"), t.key("b"), t.key("c")
        await store.transact([Put(a, "2"), Put(b, "2")])
        t.same(
            [await store.get(key) for key in (a, b, c)], ["2", "2", None], given="a, b and c after a transaction that wrote two"
        )
        bad_steps: list[tuple[str, Expect | Put, type[TCKError]]] = [
            ("an unmet Expect", Expect(b, "other"), ConflictError),
            ("an Expect of absence", Expect(b, None), ConflictError),
            ("an Expect of an absent key", Expect(c, "2"), ConflictError),
        ]
        if "validation" in t.declared:
            bad_steps.append(("a step that is invalid", Put(b, 7), InvalidArgumentError))  # type: ignore[arg-type]
        for label, bad, error in bad_steps:
            with t.case(label):
                await t.refused(
                    partial(store.transact, [Put(a, "never"), bad, Remove(b), Put(c, "never")]),
                    error,
                    given=f"a transaction with {label}",
                )
                t.same(
                    [await store.get(key) for key in (a, b, c)], ["2", "2", None], given="a, b and c after the failed transaction"
                )
        await t.check_never_torn(store, reader, a, b)

    @rule("KV-34", "transaction")
    async def test_kv_34_later_steps_see_the_earlier(self, t: KVStoreTrial) -> None:
        """Each step of a transaction sees what the steps before it did, and the last of several writes of one key stays.

        Catches a provider that checks every `Expect` before its first write. DynamoDB and etcd refuse two writes of one key
        in a transaction, so there a provider works out what the steps come to.
        """
        store = await t.connect()
        a, b, c = t.key("a"), t.key("b"), t.key("c")
        await store.transact(
            [Put(a, "1"), Put(b, "1"), Expect(a, "1"), Expect(c, None), Remove(a), Expect(a, None), Put(a, "2"), Put(b, "2")]
        )
        t.same(
            [await store.get(key) for key in (a, b, c)],
            ["2", "2", None],
            given="a, b and c after a transaction whose later steps see the earlier",
        )

    @rule("KV-35", "transaction")
    async def test_kv_35_transactions_lose_no_update(self, t: KVStoreTrial) -> None:
        """8 concurrent transactions on 2 clients that each expect what they read and add 1, with retries, add up exactly.

        Catches an `Expect` that is checked before the transaction begins. An absent row of PostgreSQL cannot be locked, so two
        transactions may both miss it.
        """
        clients = await t.clients(2)
        if t.numbers().staleness:
            clients = [clients[0]] * 2  # Only a client's own writes are visible at once there.
        key = t.key()

        async def add_one(client: FullKVStore) -> None:
            held = await client.get(key)
            await client.transact([Expect(key, held), Put(key, str(int(held or 0) + 1))])

        await gather(partial(t.retry, partial(add_one, clients[number % 2])) for number in range(8))
        t.same(
            await clients[0].get(key),
            "8",
            given="a counter after 8 concurrent transactions that each expect what they read and add 1",
        )

    # ttl

    @rule("KV-30", "ttl", deadline=30)
    async def test_kv_30_an_expired_key_is_absent_everywhere(self, t: KVStoreTrial) -> None:
        """`expires_in` tells the time left, and an expired key is absent for every write that asks.

        None without an expiry, `NotFoundError` if absent or expired. `compare_and_set(key, value, None)` creates, a version from
        before is refused, an `Expect` of absence holds. Catches the -1 and -2 of Redis, and the expired item that blocks a
        creation.
        """
        store = await t.connect()
        key, plain = t.key(), t.key()
        unit, resolution = t.ttl_unit(), t.numbers().ttl_resolution
        await store.set(plain, "v")
        t.same(await store.expires_in(plain), None, given="expires_in of a key without an expiry")
        await t.refused(lambda: store.expires_in(t.key()), NotFoundError, given="expires_in of an absent key")
        began = t.now()
        _, gone_after = await t.set_timed(store, key, t.token(), unit)
        asked = await attempt(lambda: store.expires_in(key))
        elapsed = t.now() - began
        if elapsed < unit - resolution:  # On a machine that is too busy it may have expired.
            left = asked.result()
            t.check(
                isinstance(left, float | int) and unit - elapsed - resolution <= left <= unit + resolution,
                given=f"expires_in, {elapsed:.3f} s after set(ttl={unit:g})",
                expected=f"between {unit - elapsed - resolution:.3f} and {unit + resolution:.3f}",
                observed=left,
            )
        version = None
        if "compare_and_set" in t.declared:
            entry = await store.get_entry(key)
            version = None if entry is None else entry.version
        await t.until(gone_after)
        with t.case("expires_in"):
            await t.refused(lambda: store.expires_in(key), NotFoundError, given="expires_in of an expired key")
        if "transaction" in t.declared:
            with t.case("transact"):
                await store.transact([Expect(key, None)])
        if version is not None:
            with t.case("compare_and_set with the expired version"):
                await t.refused(
                    lambda: store.compare_and_set(key, t.token(), version),
                    ConflictError,
                    given="compare_and_set with the version of an expired value",
                )
        if "compare_and_set" in t.declared:
            with t.case("compare_and_set(None)"):
                value = t.token()
                await store.compare_and_set(key, value, None)
                await t.wait(2 * unit)
                t.same(
                    await store.get(key), value, given="a value created over an expired one, after the old TTL has passed twice"
                )

    # Everything at once

    test_kv_32_a_random_walk_agrees_with_the_reference = walk_rule("KV-32", WALK)


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


async def _leave(iteration: AsyncIterator[object]) -> None:
    """End an iteration early: a generator has to be told, another iterator just goes."""
    close = getattr(iteration, "aclose", None)
    if close is not None:
        await close()


def _is_subsequence(part: Sequence[object], whole: Sequence[object]) -> bool:
    """Whether *part* is *whole* with some elements left out."""
    rest = iter(whole)
    return all(any(each == other for other in rest) for each in part)


def _number(text: str | None) -> int:
    return -2 if text is None else int(text)
