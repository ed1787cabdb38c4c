"""What a key-value store and a cache share: protocols, cells, the rules `KV-02` to `KV-31` in part, a walk.

Text under keys, and the capabilities that both may have. Under a cache the rules carry its prefix: `CA-KV-03`. They are written
against `get`, `set` and `delete`.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from omnitck.common.cells import Alias, Cells
from omnitck.common.data import within_reach
from omnitck.instruments.corpus import AFTER_A_NAME, LARGE_TEXTS, TEXTS
from omnitck.instruments.walk import Move, Step, Version, other
from omnitck.kit.concurrency import Call, attempt, gather, together
from omnitck.kit.definition import Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.text import describe
from omnitck.kit.trial import Trial
from omnitck.primitives.expiry import ExpiryRules, ExpiryTrial, TimedValues
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, NotFoundError, TCKError
from omnitck.shared.models import Entry

__all__ = [
    "Batch",
    "Binary",
    "CompareAndSet",
    "Counter",
    "FullKeyValues",
    "KeyValueCells",
    "KeyValueRules",
    "KeyValueTrial",
    "comparable",
    "key_value_actions",
    "key_value_looks",
    "version_of",
]


P = TypeVar("P")


class CompareAndSet(Protocol):
    """Capability `compare_and_set`: optimistic concurrency over opaque versions."""

    async def get_entry(self, key: str) -> Entry | None:
        """The value with its version, or None if absent."""
        ...

    async def compare_and_set(self, key: str, value: str, expected: str | None) -> str:
        """Store *value* if the version is still *expected* (None: if absent) and return the new version; else `ConflictError`."""
        ...

    async def compare_and_delete(self, key: str, expected: str) -> None:
        """Delete *key* if its version is still *expected*; else, or if it is absent, `ConflictError`."""
        ...


class Batch(Protocol):
    """Capability `batch`: many keys in one call, of any number. Not atomic as a whole."""

    async def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Each distinct key with its value, None where absent."""
        ...

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store every item. An error names the keys that were not stored."""
        ...

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete every key."""
        ...


class Counter(Protocol):
    """Capability `counter`: atomic integers of 64 bits, stored as decimal text."""

    async def increment(self, key: str, delta: int = 1) -> int:
        """Add *delta* (an absent key counts as 0, a TTL is kept) and return the sum.

        A value that is no integer, and a sum outside -2**63 .. 2**63-1, raise `InvalidArgumentError` and change nothing.
        """
        ...


class Binary(Protocol):
    """Capability `binary`: bytes beside text, which is its UTF-8 form. `get` of other bytes is `InvalidArgumentError`."""

    async def get_bytes(self, key: str) -> bytes | None:
        """The value of *key* as bytes, or None if absent."""
        ...

    async def set_bytes(self, key: str, value: bytes) -> None:
        """Store *value*, replacing what was there."""
        ...


class FullKeyValues(CompareAndSet, Batch, Counter, Binary, TimedValues, Protocol):
    """What a provider has with every capability that a store and a cache share: the rules here are written against it."""

    async def delete(self, key: str) -> None:
        """Remove exactly this *key*. An absent key is fine."""
        ...

    async def expires_in(self, key: str) -> float | None:
        """Seconds left; None without an expiry; `NotFoundError` if absent."""
        ...


MALFORMED = "stale"
"""No provider's version."""


async def _stale_version(provider: Any, name: str, token: str) -> str:
    """The version that the cell had before *token* was written; a malformed one if there was nothing."""
    entry = await provider.get_entry(name)
    await provider.set(name, token)
    version: str = MALFORMED if entry is None else entry.version
    return version


class KeyValueCells(Cells[Any]):
    """Keys and their values as a set of cells."""

    expiry_query: ClassVar[str] = "ttl"
    """The capability that brings `expires_in`."""

    operations: tuple[Operation, ...] = (
        Operation("get", lambda p, n, t: p.get(n), "get"),
        Operation("set", lambda p, n, t: p.set(n, t), "set", writes=True),
        Operation("delete", lambda p, n, t: p.delete(n), "delete"),
        Operation("get_entry", lambda p, n, t: p.get_entry(n), "get_entry", "compare_and_set"),
        Operation(
            "compare_and_set", lambda p, n, t: p.compare_and_set(n, t, None), "compare_and_set", "compare_and_set", writes=True
        ),
        Operation(
            "compare_and_delete", lambda p, n, t, version="1": p.compare_and_delete(n, version), "compare_and_delete",
            "compare_and_set", arrange=lambda p, n, t: p.compare_and_set(n, t, None),
        ),
        Operation("get_many", lambda p, n, t: p.get_many([n]), "get_many", "batch"),
        Operation("set_many", lambda p, n, t: p.set_many({n: t}), "set_many", "batch", writes=True),
        Operation("delete_many", lambda p, n, t: p.delete_many([n]), "delete_many", "batch"),
        Operation("increment", lambda p, n, t: p.increment(n), "increment", "counter"),
        Operation("get_bytes", lambda p, n, t: p.get_bytes(n), "get_bytes", "binary"),
        Operation("set_bytes", lambda p, n, t: p.set_bytes(n, t.encode()), "set_bytes", "binary", writes=True),
    )  # fmt: skip
    refusals: tuple[Operation, ...] = (
        Operation("set of bytes", lambda p, n, t: p.set(n, t.encode()), "set", refusal=InvalidArgumentError),
        Operation(
            "compare_and_set with a stale version", lambda p, n, t, version=MALFORMED: p.compare_and_set(n, t, version),
            "compare_and_set", "compare_and_set", arrange=_stale_version, refusal=ConflictError,
        ),
        Operation(
            "compare_and_delete with a stale version", lambda p, n, t, version=MALFORMED: p.compare_and_delete(n, version),
            "compare_and_delete", "compare_and_set", arrange=_stale_version, refusal=ConflictError,
        ),
        # With `ConflictError` or `InvalidArgumentError`, as the provider likes: see KV-19.
        Operation(
            "compare_and_set with a malformed version", lambda p, n, t: p.compare_and_set(n, t, MALFORMED), "compare_and_set",
            "compare_and_set", refusal=TCKError,
        ),
        Operation(
            "compare_and_delete with a malformed version", lambda p, n, t: p.compare_and_delete(n, MALFORMED),
            "compare_and_delete", "compare_and_set", refusal=TCKError,
        ),
        Operation(
            "set_many of bytes", lambda p, n, t: p.set_many({n: t.encode()}), "set_many", "batch", refusal=InvalidArgumentError
        ),
        Operation("increment of text", lambda p, n, t: p.increment(n), "increment", "counter", refusal=InvalidArgumentError),
        Operation("set_bytes of text", lambda p, n, t: p.set_bytes(n, t), "set_bytes", "binary", refusal=InvalidArgumentError),
    )  # fmt: skip

    async def write(self, provider: Any, name: str, token: str) -> None:
        """See `Cells.write`."""
        await provider.set(name, token)

    async def read(self, provider: Any, name: str) -> str | None:
        """See `Cells.read`."""
        value: str | None = await provider.get(name)
        return value

    async def erase(self, provider: Any, name: str) -> None:
        """See `Cells.erase`."""
        await provider.delete(name)

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        """See `Cells.state`."""
        state: list[object] = [await provider.get(name)]
        if "compare_and_set" in declared:
            state.append(await provider.get_entry(name))
        if self.expiry_query in declared:
            state.append("no expiry" if (await attempt(lambda: provider.expires_in(name))).value is None else "an expiry")
        return tuple(state)

    @needs("compare_and_set")
    async def handles(self, provider: CompareAndSet, name: str) -> list[str]:
        """See `Cells.handles`."""
        entry = await provider.get_entry(name)
        return [] if entry is None else [entry.version]

    async def replay(self, provider: CompareAndSet, name: str, handle: str, token: str) -> None:
        """See `Cells.replay`."""
        await provider.compare_and_set(name, token, handle)

    @needs("batch")  # text cannot be changed: only a batch takes and returns what can
    def aliases(self) -> Sequence[Alias]:
        """See `Cells.aliases`."""
        return ALIASES


async def _change_items(provider: Any, name: str, token: str) -> tuple[object, object]:
    items = {name: token}
    await provider.set_many(items)
    items[name] = "changed by the caller"
    return await provider.get(name), token


async def _change_found(provider: Any, name: str, token: str) -> tuple[object, object]:
    await provider.set_many({name: token})
    found = await provider.get_many([name])
    found[name] = "changed by the caller"
    return [(await provider.get_many([name]))[name], await provider.get(name)], [token, token]


async def _change_keys(provider: Batch, name: str, token: str) -> tuple[object, object]:
    await provider.set_many({name: token})
    keys = [name]
    found = await provider.get_many(keys)
    keys.append("another")
    return list(found), [name]


ALIASES: tuple[Alias, ...] = (
    Alias("the mapping given to set_many", _change_items),
    Alias("the result of get_many", _change_found),
    Alias("the list given to get_many", _change_keys),
)
"""What a caller of a key-value store or cache may change without any effect."""


class KeyValueTrial(ExpiryTrial[P]):
    """The words of the rules of `KeyValueRules`."""

    def text_writes(self, client: Any, key: str, value: Any) -> dict[str, Call[object]]:
        """Every declared way to write *value*, which is no text, under *key*."""
        return self.declared_of(
            {"set": ("", lambda: client.set(key, value)), "set_many": ("batch", lambda: client.set_many({key: value}))}
        )

    def rewrites(self, client: Any, key: str, value: str) -> dict[str, Call[object]]:
        """Every declared way to store *value* again under *key*, which holds it."""

        async def recreate() -> None:
            await client.delete(key)
            await client.set(key, value)

        async def recreate_by_comparing() -> None:
            await client.delete(key)
            await client.compare_and_set(key, value, None)

        return self.declared_of(
            {
                "set of an equal value": ("", lambda: client.set(key, value)),
                "delete and set": ("", recreate),
                "delete and compare_and_set": ("compare_and_set", recreate_by_comparing),
                "set_many of an equal value": ("batch", lambda: client.set_many({key: value})),
            }
        )

    async def entry(self, client: CompareAndSet, key: str) -> Entry:
        """What is under *key*, which was written; fail the rule if that is nothing."""
        entry = await client.get_entry(key)
        if entry is None:
            self.fail_rule(given="get_entry of a key that was written", expected="its value and version", observed="None")
        return entry

    def reads(self, client: Any, key: str) -> dict[str, Call[object]]:
        """See `ExpiryTrial.reads`."""

        async def many() -> object:
            return (await client.get_many([key]))[key]

        async def expires_in() -> object:
            tried = await attempt(lambda: client.expires_in(key))
            if isinstance(tried.error, NotFoundError):
                return None
            left = tried.result()
            return "None, as of a key that is present and does not expire" if left is None else left

        return self.declared_of(
            {
                "get": ("", lambda: client.get(key)),
                "expires_in": (self.cells.expiry_query, expires_in),
                "get_entry": ("compare_and_set", lambda: client.get_entry(key)),
                "get_many": ("batch", many),
                "get_bytes": ("binary", lambda: client.get_bytes(key)),
            }
        )


class KeyValueRules(ExpiryRules):
    """Text under a key comes back as it was, and a key is that key alone."""

    trial: ClassVar[type[Trial[Any]]] = KeyValueTrial

    # Values

    @rule("KV-02")
    async def test_kv_02_what_was_set_is_read(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`get` after `set` returns an equal value of exactly the type `str`.

        Catches bytes from a driver that was not told to decode. `set` itself returns `None`.
        """
        store: Any = await t.connect()
        key = t.key()
        for value in ("a", "two words", "\u00fcber \U0001f511", t.token(1000)):
            with t.case(describe(value, 40)):
                t.same(await store.set(key, value), None, given="the result of set")
                t.same(await store.get(key), value, given=f"get after set(key, {describe(value, 40)})")

    @rule("KV-03")
    async def test_kv_03_empty_is_not_absent(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """The empty string is a value, and differs from absence.

        Catches `if not value: return None`. NATS itself gives an empty value back as None: a provider marks it.
        """
        store = await t.connect()
        key = t.key()
        await store.set(key, "")
        t.same(await store.get(key), "", given='get after set(key, "")', hint="test for None, not for truth")
        await store.set(key, "full")
        await store.set(key, "")
        t.same(await store.get(key), "", given='get after set(key, "full"), set(key, "")')

    @rule("KV-04")
    async def test_kv_04_values_are_not_interpreted(self, t: KeyValueTrial[FullKeyValues]) -> None:
        r"""Every character, and values that spell other types, come back unchanged.

        `0`, `null`, `"x"`, `[]`, base64, a pickle's head, U+0000. Catches JSON that decodes itself, `str(value)`, and a
        lossy encoding. PostgreSQL's `text` cannot hold U+0000: a provider stores `bytea`. Large values too: diskcache keeps
        them in files that it reads with universal newlines, and a client of memcached took a reply for complete wherever what
        had arrived ended in `END\r\n`.
        """
        store = await t.connect()
        for label, value in {**TEXTS, **LARGE_TEXTS}.items():
            with t.case(label):
                key = t.key()
                await store.set(key, value)
                t.same(await store.get(key), value, given=f"get after set(key, {describe(value, 60)})")

    @rule("KV-05", "validation")
    async def test_kv_05_other_types_are_refused(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """A value that is no `str`, or holds a lone surrogate, raises `InvalidArgumentError`, and the old value stays.

        Catches silent coercion: `1` comes back as `"1"`, `None` as `"None"` or as absence.
        """
        store = await t.connect()
        key, old = t.key(), t.token()
        await store.set(key, old)
        for value in (b"bytes", bytearray(b"x"), 1, 1.5, True, None, ["a"], {"a": 1}, "a\ud800"):
            for method, write in t.text_writes(store, key, value).items():
                with t.case(f"{method}, {describe(value)}"):
                    await t.refused(write, InvalidArgumentError, given=f"{method} with the value {describe(value)}")
                    t.same(await store.get(key), old, given=f"get after {method} refused {describe(value)}")

    # Keys

    @rule("KV-08")
    async def test_kv_08_delete_is_not_recursive(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`delete` removes exactly its key: longer keys, the parent and the same key in another case stay.

        Catches `DEL k*`, and the recursive delete of a tree.
        """
        store = await t.connect()
        key = t.key("k")
        neighbours = {label: key + after for label, after in AFTER_A_NAME.items()}
        neighbours["the parent"] = key[:-2]
        neighbours["upper case"] = key[:-1] + "K"
        values = {label: t.token() for label in neighbours}
        for label, neighbour in neighbours.items():
            await store.set(neighbour, values[label])
        await store.set(key, t.token())
        await store.delete(key)
        t.same(await store.get(key), None, given="get after delete")
        for label, neighbour in neighbours.items():
            with t.case(label):
                t.same(
                    await store.get(neighbour), values[label], given=f"get({describe(neighbour)}) after delete({describe(key)})"
                )

    @rule("KV-09")
    async def test_kv_09_patterns_match_only_themselves(self, t: KeyValueTrial[FullKeyValues]) -> None:
        r"""In `get`, `set` and `delete` a key with `*`, `?`, `[a]`, `%`, `_`, `\` or `>` is that key alone.

        Catches the MATCH of Redis, the LIKE of SQL and the wildcards of NATS, wherever a key is used as a pattern.
        """
        store = await t.connect()
        for pattern in ("*", "?", "[a]", "%", "_", "\\", ">", ".", "{a}", "^", "$"):
            with t.case(pattern):
                start = t.key()
                decoys = {start + middle + "z": t.token() for middle in ("a", "b", "ab", "")}
                for decoy, value in decoys.items():
                    await store.set(decoy, value)
                key = start + pattern + "z"
                t.same(await store.get(key), None, given=f"get({describe(key)}), never written, beside keys that it matches")
                value = t.token()
                await store.set(key, value)
                t.same(await store.get(key), value, given=f"get({describe(key)})")
                await store.delete(key)
                t.same(await store.get(key), None, given=f"get({describe(key)}) after its delete")
                for decoy, kept in decoys.items():
                    t.same(await store.get(decoy), kept, given=f"get({describe(decoy)}) after set and delete of {describe(key)}")

    # compare_and_set

    @rule("KV-15", "compare_and_set")
    async def test_kv_15_create_only_once(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`compare_and_set` with `expected=None` creates once: the next call raises `ConflictError` and keeps the first value.

        Catches an upsert. After a delete the key can be created again, whatever marker the backend keeps.
        """
        store = await t.connect()
        key, first = t.key(), t.token()
        version = await store.compare_and_set(key, first, None)
        t.same(type(version), str, given="the type of a version")
        await t.refused(
            lambda: store.compare_and_set(key, t.token(), None),
            ConflictError,
            given="compare_and_set(key, value, None) of a key that exists",
        )
        t.same(await store.get(key), first, given="get after the refused creation")
        await store.delete(key)
        again = t.token()
        await store.compare_and_set(key, again, None)
        t.same(await store.get(key), again, given="get after delete and compare_and_set(key, value, None)")

    @rule("KV-16", "compare_and_set")
    async def test_kv_16_the_current_version_succeeds(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`compare_and_set` with the current version succeeds, and yields another one, equal to `get_entry(key).version`.

        Catches a version that is returned before the write that makes it.
        """
        store = await t.connect()
        key = t.key()
        version = await store.compare_and_set(key, t.token(), None)
        seen = {version}
        for _ in range(5):
            value = t.token()
            version = await store.compare_and_set(key, value, version)
            t.check(version not in seen, given="the version after each of five updates", expected="a new one", observed=version)
            seen.add(version)
            t.same(await store.get_entry(key), Entry(value, version), given="get_entry after compare_and_set")
        await store.compare_and_delete(key, version)
        t.same(await store.get_entry(key), None, given="get_entry after compare_and_delete with the current version")

    @rule("KV-17", "compare_and_set")
    async def test_kv_17_a_stale_version_is_refused(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """A stale version, or any version of an absent key, raises `ConflictError`; value and version stay.

        One error for both: MongoDB cannot tell stale from missing in one round trip. Catches a comparison that creates what is
        missing, and a write that happens before its check.
        """
        store = await t.connect()
        key = t.key()
        stale = await store.compare_and_set(key, t.token(), None)
        await store.compare_and_set(key, t.token(), stale)
        current = await store.get_entry(key)
        calls: dict[str, Call[object]] = {
            "compare_and_set": lambda: store.compare_and_set(key, t.token(), stale),
            "compare_and_delete": lambda: store.compare_and_delete(key, stale),
        }
        for name, call in calls.items():
            with t.case(f"{name}, stale"):
                await t.refused(call, ConflictError, given=f"{name} with a stale version")
                t.same(await store.get_entry(key), current, given=f"get_entry after the refused {name}")
        await store.delete(key)
        for name, call in calls.items():
            with t.case(f"{name}, absent"):
                await t.refused(call, ConflictError, given=f"{name} with a version, of an absent key")
                t.same(await store.get(key), None, given=f"get after the refused {name}")

    @rule("KV-18", "compare_and_set")
    async def test_kv_18_every_write_invalidates_versions(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """A plain write, even of an equal value, and a delete with a new creation, invalidate every earlier version.

        The ABA problem. Catches a version that is a hash of the value, and a counter that starts at 1 again after a delete.
        SQLite keeps AUTOINCREMENT numbers across deletes, Redis needs a counter that outlives its keys, NATS has its revision.
        """
        store, value = await t.connect(), t.token()
        for name in t.rewrites(store, "", value):
            with t.case(name):
                key = t.key()
                await store.set(key, value)
                version = (await t.entry(store, key)).version
                await t.rewrites(store, key, value)[name]()
                await t.refused(
                    partial(store.compare_and_set, key, t.token(), version),
                    ConflictError,
                    given=f"compare_and_set with the version before {name}",
                    hint="a version must never come back: take it from a counter that only grows",
                )

    @rule("KV-19", "compare_and_set")
    async def test_kv_19_versions_are_portable_text(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """A version obtained by one client works in another, as text; a malformed one is refused.

        With `ConflictError` or `InvalidArgumentError`. Catches a driver's object as a token, and the parse error that leaks.
        """
        one, other = await t.clients(2)
        key, value = t.key(), t.token()
        version = "".join(list(await one.compare_and_set(key, t.token(), None)))
        await t.settle()
        await other.compare_and_set(key, value, version)
        for malformed in ("bad", "", "9" * 40, "-1", "0", "\u00e9", "a\x00b", version + " ", "1.5"):
            calls: dict[str, Call[object]] = {
                "compare_and_set": partial(other.compare_and_set, key, t.token(), malformed),
                "compare_and_delete": partial(other.compare_and_delete, key, malformed),
            }
            for name, call in calls.items():
                with t.case(f"{name}, {malformed!r}"):
                    await t.refused(call, (ConflictError, InvalidArgumentError), given=f"{name} with the version {malformed!r}")
        t.same(await other.get(key), value, given="get after malformed versions were refused")

    @rule("KV-20", "compare_and_set", deadline=60)
    async def test_kv_20_no_update_is_lost(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """8 workers on 2 clients that each add 1 by compare-and-set, with retries, add up exactly.

        Catches lost updates.
        """
        clients = await t.clients(2)
        key = t.key()
        await clients[0].set(key, "0")
        await t.settle()
        rounds = 6

        async def add_one(client: FullKeyValues) -> None:
            entry = await t.entry(client, key)
            await client.compare_and_set(key, str(int(entry.value) + 1), entry.version)

        async def worker(client: FullKeyValues) -> None:
            for _ in range(rounds):
                await t.retry(partial(add_one, client))

        await gather(partial(worker, clients[number % 2]) for number in range(8))
        await t.settle()
        t.same(await clients[1].get(key), str(8 * rounds), given=f"the sum after 8 workers added 1, {rounds} times each")

    @rule("KV-21", "compare_and_set")
    async def test_kv_21_one_of_many_wins(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """Of 20 concurrent creations, or calls of `compare_and_delete`, exactly one succeeds and 19 raise `ConflictError`.

        Catches two winners, and a timeout in the place of a conflict.
        """
        clients = await t.clients(2)
        key = t.key()
        values = [t.token() for _ in range(20)]
        created = await together(partial(clients[n % 2].compare_and_set, key, value, None) for n, value in enumerate(values))
        winner = t.one_winner(created, "20 concurrent creations")
        await t.settle()
        t.same(await clients[0].get(key), values[winner], given="get after 20 concurrent creations: the winner's value")
        version = (await t.entry(clients[0], key)).version
        deleted = await together(partial(clients[n % 2].compare_and_delete, key, version) for n in range(20))
        t.one_winner(deleted, "20 concurrent compare_and_delete of the current version")

    # batch

    @rule("KV-25", "batch", deadline=60)
    async def test_kv_25_get_many_answers_for_every_key(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`get_many` returns every distinct key with its value or None, for no keys, repeated ones, iterators, and many.

        More than `batch_size`, unless that is above 10,000. Catches missing keys that are left out, a generator that is used
        twice, and the limit of 25 or 100 items of a cloud's API. The three operations take any number.
        """
        store = await t.connect()
        size = within_reach(t.numbers().batch_size)
        present = {t.key(): t.token() for _ in range(size + 2)}
        absent = [t.key() for _ in range(3)]
        t.same(await store.get_many([]), {}, given="get_many([])")
        await store.set_many({})
        await store.delete_many([])
        await store.set_many(present)
        expected: dict[str, str | None] = {**present, **dict.fromkeys(absent)}
        for label, keys in {
            "a list": list(expected),
            "a generator": (key for key in expected),
            "each key twice": [*expected, *expected],
            "a set": set(expected),
        }.items():
            with t.case(label):
                t.same(
                    await store.get_many(keys),
                    expected,
                    given=f"get_many of {len(expected)} keys, {len(absent)} absent, as {label}",
                )
        await store.delete_many(key for key in [*present, absent[0]])
        t.same(await store.get_many(present), dict.fromkeys(present), given=f"get_many after delete_many of {len(present)} keys")

    @rule("KV-26", "batch", "validation")
    async def test_kv_26_a_failed_batch_is_said(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """If one item of `set_many` is invalid, the error names its key, and no key holds a value that nobody wrote.

        Catches the partial success that is reported as success.
        """
        store = await t.connect()
        keys = [t.key() for _ in range(5)]
        old = {key: t.token() for key in keys}
        await store.set_many(old)
        new: dict[str, Any] = {key: t.token() for key in keys}
        new[keys[2]] = 7
        error = await t.refused(lambda: store.set_many(new), TCKError, given="set_many of five items, one no text")
        t.check(
            keys[2] in str(error),
            given="the error of set_many",
            expected="it names the key that was not stored",
            observed=str(error),
        )
        for key in keys:
            t.check(
                await store.get(key) in (old[key], new[key]),
                given="each key after the failed set_many",
                expected="its old value or its new one",
                observed=await store.get(key),
            )
        t.same(await store.get(keys[2]), old[keys[2]], given="the key whose item was invalid")

    # counter

    @rule("KV-27", "counter")
    async def test_kv_27_increment_is_exact(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`increment` is exact: from absence, by negative numbers, under 50 concurrent calls, keeping the TTL.

        The value is decimal text. A sum beyond 64 bits and a value that is no integer raise `InvalidArgumentError` and change
        nothing. Catches get-and-set; memcached stops at 0. Lua in Redis counts in doubles, which are exact to 53 bits only:
        HINCRBY is exact, and its sum must not pass through Lua's numbers.
        """
        clients = await t.clients(2)
        store = clients[0]
        key = t.key()
        t.same(await store.increment(key), 1, given="increment of an absent key")
        t.same(await store.increment(key, -5), -4, given="increment by -5 of 1")
        t.same(await store.increment(key, 0), -4, given="increment by 0")
        t.same(await store.get(key), "-4", given="get of a counter")
        await store.set(key, "40")
        t.same(await store.increment(key, 2), 42, given='increment by 2 of a key set to "40"')
        results = await gather(partial(clients[n % 2].increment, key) for n in range(50))
        t.same(sorted(results), list(range(43, 93)), given="the results of 50 concurrent increments of 42")
        for label, held, delta in (
            ("above 64 bits", str(2**63 - 1), 1),
            ("below 64 bits", str(-(2**63)), -1),
            ("a word", "word", 1),
            ("a fraction", "1.5", 1),
            ("the empty string", "", 1),
            ("a space before", " 1", 1),
        ):
            with t.case(label):
                await store.set(key, held)
                await t.refused(
                    partial(store.increment, key, delta), InvalidArgumentError, given=f"increment by {delta} of {held!r}"
                )
                t.same(await store.get(key), held, given="get after the refused increment")
        if t.offers(t.cells.expiry_query):
            with t.case("a TTL"):
                await store.set(key, "1", ttl=3600.0)
                await store.increment(key)
                left = await store.expires_in(key)
                t.check(
                    left is not None and 3000 < left <= 3600 + t.numbers().ttl_resolution,
                    given="expires_in after set(ttl=3600) and increment",
                    expected="nearly 3600",
                    observed=left,
                )

    # binary

    @rule("KV-31", "binary")
    async def test_kv_31_bytes_are_kept(self, t: KeyValueTrial[FullKeyValues]) -> None:
        """`get_bytes` after `set_bytes` returns equal `bytes`, all 256 of them and none; text is its UTF-8 form.

        Catches base64 that only one side knows of. Absence is None; what is no `bytes` is refused.
        """
        store = await t.connect()
        key = t.key()
        t.same(await store.get_bytes(key), None, given="get_bytes of an absent key")
        for label, value in {
            "every byte": bytes(range(256)),
            "none": b"",
            "no UTF-8": b"\xff\xfe\x80",
            "a pickle's head": b"\x80\x04\x95",
            "zeros": bytes(5),
            "64 KiB": bytes(range(256)) * 256,
        }.items():
            with t.case(label):
                await store.set_bytes(key, value)
                t.same(await store.get_bytes(key), value, given=f"get_bytes after set_bytes of {label}")
        await store.set(key, "caf\u00e9 \U0001f511")
        t.same(await store.get_bytes(key), "caf\u00e9 \U0001f511".encode(), given="get_bytes after set of text")
        await store.set_bytes(key, "na\u00efve".encode())
        t.same(await store.get(key), "na\u00efve", given="get after set_bytes of UTF-8")
        if "validation" in t.declared:
            others: tuple[Any, ...] = ("text", bytearray(b"x"), 1, None)
            for wrong in others:
                with t.case(describe(wrong)):
                    await t.refused(
                        partial(store.set_bytes, key, wrong), InvalidArgumentError, given=f"set_bytes with {describe(wrong)}"
                    )


def key_value_actions(chance: random.Random) -> list[Move]:
    """The writes of a walk."""

    def value() -> str:
        return chance.choice(VALUES)

    return [
        ("", lambda key: Step("set", (key, value()))),
        ("", lambda key: Step("delete", (key,))),
        ("compare_and_set", lambda key: Step("compare_and_set", (key, value(), None))),
        ("compare_and_set", lambda key: Step("compare_and_set", (key, value(), Version(key.number)))),
        ("compare_and_set", lambda key: Step("compare_and_delete", (key, Version(key.number)))),
        ("batch", lambda key: Step("set_many", ({key: value(), other(key): value()},))),
        ("batch", lambda key: Step("delete_many", ([key],))),
        ("counter", lambda key: Step("increment", (key, chance.choice((1, -2, 10))))),
        ("binary", lambda key: Step("set_bytes", (key, value().encode()))),
    ]


def key_value_looks(expiry_query: str) -> list[Move]:
    """The reads of a walk."""
    return [
        *[("", lambda key: Step("get", (key,)))] * 2,
        ("compare_and_set", lambda key: Step("get_entry", (key,))),
        *[(expiry_query, lambda key: Step("expires_in", (key,)))] * 2,
        ("batch", lambda key: Step("get_many", ([key, other(key), key],))),
        ("binary", lambda key: Step("get_bytes", (key,))),
    ]


def version_of(step: Step, value: object) -> str | None:
    """The version that a call gave out."""
    if isinstance(value, Entry):
        return value.version
    return value if step.method == "compare_and_set" and isinstance(value, str) else None


def comparable(step: Step, value: object) -> object:
    """A result without what differs between two good providers: versions, and the passing of time."""
    if isinstance(value, Entry):
        return value.value
    if step.method == "compare_and_set":
        return "a version"
    if step.method == "expires_in" and isinstance(value, float | int):
        return "a long expiry" if value > LONG_EXPIRY else "an expiry"
    return value


SHORT_TTL, LONG_EXPIRY, LONG_TTL = 36_000.0, 50_000.0, 72_000.0
"""Seconds: times to live in a walk, none of which passes during it, and what tells them apart."""
VALUES = ("", "a", "b", "7", "-3", "0x1")
"""Values in a walk: so few that steps meet on them, some of which are numbers."""
