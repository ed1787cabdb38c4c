"""The rules of values that expire: `CA-05` to `CA-15`, owed by a cache and by every store that declares `ttl`.

Time is judged by the windows of `omnitck.common.windows`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from omnitck.common.windows import WindowTrial
from omnitck.kit.concurrency import Call
from omnitck.kit.contract import Contract
from omnitck.kit.rules import rule
from omnitck.kit.text import describe
from omnitck.kit.trial import Trial
from omnitck.shared.exceptions import InvalidArgumentError

__all__ = ["ExpiryRules", "ExpiryTrial", "TimedValues"]

P = TypeVar("P")

DAY = 86_400.0
TEN_YEARS = 3_650 * DAY

BAD_TTLS: Mapping[str, Any] = {
    "zero": 0,
    "negative": -1,
    "a negative fraction": -0.5,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "True": True,
    "text": "10",
    "above 10**9": 1e9 + 1,
}


class TimedValues(Protocol):
    """What the rules of expiry are written against. Times are seconds."""

    async def get(self, key: str) -> str | None:
        """The value of *key*; None if it is absent or expired."""
        ...

    async def set(self, key: str, value: str, *, ttl: float | None = None) -> None:
        """Store *value* for *ttl* seconds, replacing value and expiry; None means without an expiry."""
        ...


class ExpiryTrial(WindowTrial[P]):
    """The words of the rules of `ExpiryRules`."""

    def reads(self, client: Any, key: str) -> Mapping[str, Call[object]]:
        """Every declared way to read *key*, each giving None if it is absent."""
        return {"get": lambda: client.get(key)}

    def timed_writes(self, client: Any, key: str, ttl: Any) -> Mapping[str, Call[object]]:
        """Every declared way to give *key* a time to live."""
        return {"set": lambda: client.set(key, self.token(), ttl=ttl)}

    def creations(self, client: Any, key: str, value: str) -> Mapping[str, Call[object]]:
        """Every declared way to write *value* under *key*, which is absent."""
        return {"set": lambda: client.set(key, value)}

    async def expect_alive(self, client: Any, key: str, value: str, before: float, given: str, hint: str = "") -> None:
        """The value is there, if the look at it ends in time to say so."""
        observed = await client.get(key)
        if self.now() < before:
            self.same(observed, value, given=given, hint=hint)

    async def expect_gone(self, client: Any, key: str, after: float, given: str, hint: str = "") -> None:
        """The value is gone once *after* has passed."""
        await self.until(after)
        self.same(await client.get(key), None, given=given, hint=hint)

    async def set_timed(self, client: Any, key: str, value: str, ttl: float) -> tuple[float, float]:
        """Store *value*; the moments before which it is surely there and after which it is surely gone."""
        return await self.timed(lambda: client.set(key, value, ttl=ttl), ttl)


class ExpiryRules(Contract):
    """The family of values that expire."""

    trial: ClassVar[type[Trial[Any]]] = ExpiryTrial

    @rule("CA-05", uses="write_timed", deadline=30)
    async def test_ca_05_a_value_lives_for_its_ttl(self, t: ExpiryTrial[TimedValues]) -> None:
        """A value is readable until `ttl - ttl_resolution`.

        Catches a TTL that is rounded down, and a clock that ticks early: memcached may drop an item of one second at once.
        """
        client = await t.connect()
        key, value, ttl = t.key(), t.token(), t.ttl_unit()
        began = t.now()
        alive_until, _ = await t.set_timed(client, key, value, ttl)
        for share in (0.0, 0.3, 0.6, 0.9, 0.98):
            await t.until(began + share * (alive_until - began))
            await t.expect_alive(
                client, key, value, alive_until, f"a read after {share:.0%} of the time that a TTL of {ttl:g} s guarantees"
            )

    @rule("CA-06", uses="write_timed", deadline=30)
    async def test_ca_06_a_value_is_gone_after_its_ttl(self, t: ExpiryTrial[TimedValues]) -> None:
        """A value is absent by `ttl + ttl_resolution`, for `get` and for every other read.

        `expires_in` says so with `NotFoundError`: None stands for a key that is present and does not expire. Catches a background
        sweep that lets expired values be read until it comes: DynamoDB's within days, MongoDB's each minute.
        """
        client = await t.connect()
        key, ttl = t.key(), t.ttl_unit()
        _, gone_after = await t.set_timed(client, key, t.token(), ttl)
        await t.until(gone_after)
        for name, read in t.reads(client, key).items():
            with t.case(name):
                t.same(await read(), None, given=f"{name} after a TTL of {ttl:g} s and the resolution")

    @rule("CA-07", uses="write_timed", deadline=30)
    async def test_ca_07_overwriting_replaces_the_ttl(self, t: ExpiryTrial[TimedValues]) -> None:
        """Overwriting replaces value and TTL: a longer one outlives the old deadline, a shorter one ends at the new.

        Catches the timer of the old value that deletes the new one.
        """
        client = await t.connect()
        unit = t.ttl_unit()
        longer, shorter, value = t.key(), t.key(), t.token()
        await client.set(longer, t.token(), ttl=unit)
        await client.set(shorter, t.token(), ttl=20 * unit)
        alive_until, _ = await t.set_timed(client, longer, value, 4 * unit)
        _, gone_after = await t.set_timed(client, shorter, t.token(), unit)
        with t.case("a shorter TTL"):
            await t.expect_gone(client, shorter, gone_after, f"a TTL of {20 * unit:g} s, overwritten with {unit:g} s")
        with t.case("a longer TTL"):
            await t.expect_alive(client, longer, value, alive_until, f"a TTL of {unit:g} s, overwritten with {4 * unit:g} s")

    @rule("CA-08", uses="write_timed", deadline=30)
    async def test_ca_08_overwriting_without_a_ttl_removes_it(self, t: ExpiryTrial[TimedValues]) -> None:
        """Overwriting with `ttl=None` removes the expiry.

        Redis drops a TTL on SET; a provider that updates the value alone keeps it.
        """
        client = await t.connect()
        key, value = t.key(), t.token()
        _, gone_after = await t.set_timed(client, key, t.token(), t.ttl_unit())
        await client.set(key, value, ttl=None)
        await t.until(gone_after)
        t.same(await client.get(key), value, given="a value with a TTL, overwritten without one, after the old deadline")

    @rule("CA-09", uses="write_timed", deadline=30)
    async def test_ca_09_reading_does_not_prolong(self, t: ExpiryTrial[TimedValues]) -> None:
        """Reading a value does not prolong its life.

        Catches sliding expiry: a value that is read often would never be refreshed.
        """
        client = await t.connect()
        key, ttl = t.key(), t.ttl_unit()
        began = t.now()
        _, gone_after = await t.set_timed(client, key, t.token(), ttl)
        for share in range(1, 5):
            await t.until(began + share * ttl / 5)
            await client.get(key)
        await t.expect_gone(client, key, gone_after, f"a value with a TTL of {ttl:g} s, read four times meanwhile")

    @rule("CA-10", uses="write_timed", deadline=30)
    async def test_ca_10_no_ttl_means_for_ever(self, t: ExpiryTrial[TimedValues]) -> None:
        """`ttl=None`, or none given, means no expiry, never a default of the provider.

        With a clock of the suite's own the rule waits ten years; with a real one, as long as the shortest life lasts at most,
        which catches None that is rounded up to it.
        """
        client = await t.connect()
        plain, explicit, value = t.key(), t.key(), t.token()
        await client.set(plain, value)
        await client.set(explicit, value, ttl=None)
        await t.wait(TEN_YEARS if t.virtual_time else t.longest(t.numbers().min_ttl))
        for given, key in (("no ttl", plain), ("ttl=None", explicit)):
            with t.case(given):
                t.same(await client.get(key), value, given=f"a value set with {given}, after a long time")

    @rule("CA-11", "validation", uses="write_timed")
    async def test_ca_11_bad_ttls_are_refused(self, t: ExpiryTrial[TimedValues]) -> None:
        """A TTL that is zero, negative, no finite number, a `bool`, a `str` or above 10**9 s raises `InvalidArgumentError`.

        The old value stays. For one backend 0 means for ever, for another at once: the standard refuses it.
        """
        client = await t.connect()
        for label, ttl in BAD_TTLS.items():
            key, value = t.key(), t.token()
            await client.set(key, value)
            for method, call in t.timed_writes(client, key, ttl).items():
                with t.case(f"{method}, {label}"):
                    await t.refused(call, InvalidArgumentError, given=f"{method} with ttl={describe(ttl)}")
                    t.same(await client.get(key), value, given=f"the old value after ttl={describe(ttl)} was refused")

    @rule("CA-12", uses="write_timed")
    async def test_ca_12_long_ttls_are_kept(self, t: ExpiryTrial[TimedValues]) -> None:
        """TTLs of 30 days and a second, and of ten years, are accepted and the value is readable.

        memcached takes a number above 30 days for a date in 1970.
        """
        client = await t.connect()
        for label, ttl in (("30 days and 1 s", 30 * DAY + 1), ("10 years", TEN_YEARS)):
            with t.case(label):
                key, value = t.key(), t.token()
                await client.set(key, value, ttl=ttl)
                t.same(await client.get(key), value, given=f"a value with a TTL of {label}, at once")
                if t.virtual_time:
                    await t.wait(ttl / 2)
                    t.same(await client.get(key), value, given=f"a value with a TTL of {label}, after half of it")

    @rule("CA-13", uses="write_timed", deadline=30)
    async def test_ca_13_fractions_are_rounded_up(self, t: ExpiryTrial[TimedValues]) -> None:
        """A fractional or very short TTL is rounded up, never down, and never to "for ever".

        `int(0.3)` is 0, which is an error, at once or for ever, by backend.
        """
        client = await t.connect()
        plans = []
        for ttl in (0.3, 1.5):
            key, value = t.key(), t.token()
            plans.append((ttl, key, value, t.now(), *await t.set_timed(client, key, value, ttl)))
        for ttl, key, value, began, alive_until, _ in plans:
            with t.case(f"{ttl} s, early"):
                await t.until(began + 0.9 * (alive_until - began))
                await t.expect_alive(client, key, value, alive_until, f"ttl={ttl}, just before its time")
        for ttl, key, _, _, _, gone_after in plans:
            with t.case(f"{ttl} s, late"):
                await t.expect_gone(client, key, gone_after, f"ttl={ttl}, after its time")

    @rule("CA-14", uses="write_timed", deadline=30)
    async def test_ca_14_each_key_has_its_own_deadline(self, t: ExpiryTrial[TimedValues]) -> None:
        """Each key expires by its own clock: writes to others and reads of neighbours do not move it.

        Catches one deadline for a slot, a bucket or a whole table.
        """
        client = await t.connect()
        unit = t.ttl_unit()
        keys = [(t.key(), t.token(), unit * (1 + 0.1 * number)) for number in range(20)]
        windows = {key: await t.set_timed(client, key, value, ttl) for key, value, ttl in keys}
        for moment in (0.5, 1.0, 1.5, 2.0):
            await t.until(windows[keys[0][0]][1] + moment * unit)
            await client.set(t.key(), t.token(), ttl=50 * unit)
            for key, value, ttl in keys:
                alive_until, gone_after = windows[key]
                asked = t.now()
                observed = await client.get(key)
                given = f"a TTL of {ttl:g} s among 20 different ones"
                if asked > gone_after:
                    t.same(observed, None, given=f"{given}, after its time")
                elif t.now() < alive_until:
                    t.same(observed, value, given=f"{given}, before its time")

    @rule("CA-15", uses="write_timed", deadline=30)
    async def test_ca_15_an_expired_key_is_as_never_written(self, t: ExpiryTrial[Any]) -> None:
        """An expired key can be written again, and counted again, as if it had never been there.

        Catches the ghost that blocks a write, and the leftover that ends the new value.
        """
        client = await t.connect()
        unit = t.ttl_unit()
        value, counted = t.token(), t.key()
        again = {name: t.key() for name in t.creations(client, "", value)}
        await client.set(counted, "41", ttl=unit)
        for key in again.values():
            _, gone_after = await t.set_timed(client, key, t.token(), unit)
        await t.until(gone_after)
        for name, key in again.items():
            with t.case(name):
                await t.creations(client, key, value)[name]()
        if "counter" in t.declared:
            with t.case("increment"):
                t.same(await client.increment(counted, 2), 2, given="increment(key, 2) of a key that held 41 and expired")
        await t.wait(t.longest(unit))
        for name, key in again.items():
            with t.case(f"{name}, later"):
                t.same(
                    await client.get(key), value, given=f"a key that expired and was written again by {name}, after its old TTL"
                )
        if "counter" in t.declared:
            t.same(await client.get(counted), "2", given="a key that expired and was counted again, after its old TTL")
