"""The rules of values that expire: `CA-05` to `CA-15`, owed by a cache and by every store that declares `ttl`.

Time is judged by windows that are certain. A value must be there in a read that *returned* before the `set` was *called*
plus `ttl - ttl_resolution`; it must be gone in a read that was *called* after the `set` *returned* plus
`ttl + ttl_resolution`. Between the two, and on a machine too busy to look in time, nothing is concluded. `ttl=1; sleep(1.1)`
would flake on memcached, whose clock ticks whole seconds, and fail on etcd, which grants 2 s for 1 s.
"""

from collections.abc import Mapping
from typing import Any

from omnitck.kit.concurrency import Call
from omnitck.kit.contract import Contract, rule
from omnitck.kit.text import describe
from omnitck.shared.exceptions import InvalidArgumentError

__all__ = ["EXPIRY_RULES", "ExpiryRules"]

EXPIRY_RULES = tuple(f"CA-{number:02}" for number in range(5, 16))

SHORTEST_REAL_TTL = 0.25
"""Seconds: with a real clock, long enough to look at a value before it goes."""
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


class ExpiryRules(Contract):
    """Written against `set(key, value, ttl=...)` and `get(key)`."""

    # The words in which the rules are written.

    def reads(self, client: Any, key: str) -> Mapping[str, Call[object]]:
        """Every declared way to read *key*, each giving None if it is absent."""
        return {"get": lambda: client.get(key)}

    def timed_writes(self, client: Any, key: str, ttl: Any) -> Mapping[str, Call[object]]:
        """Every declared way to give *key* a time to live."""
        return {"set": lambda: client.set(key, self.token(), ttl=ttl)}

    def creations(self, client: Any, key: str, value: str) -> Mapping[str, Call[object]]:
        """Every declared way to write *value* under *key*, which is absent."""
        return {"set": lambda: client.set(key, value)}

    def ttl_unit(self) -> float:
        """A time to live that the provider keeps and the rule can observe, in seconds."""
        limits = self.numbers()
        shortest = 0.0 if self.virtual_time else SHORTEST_REAL_TTL
        return max(limits.min_ttl, 3 * limits.ttl_resolution, shortest)

    async def until(self, moment: float) -> None:
        """Wait for *moment* on the provider's clock."""
        await self.wait(moment - self.now())

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

    async def timed(self, call: Call[object], ttl: float) -> tuple[float, float]:
        """Make *call*, which gives a key *ttl* seconds to live; the two moments, as from `set_timed`."""
        resolution = self.numbers().ttl_resolution
        called = self.now()
        await call()
        kept = max(ttl, self.numbers().min_ttl)
        # The hundredth keeps a clock that is read twice from being judged at the very edge.
        return called + kept - resolution, self.now() + kept + resolution + kept / 100

    @rule("CA-05", deadline=90)
    async def test_ca_05_a_value_lives_for_its_ttl(self) -> None:
        """A value is readable until `ttl - ttl_resolution`.

        Catches a TTL that is rounded down, and a clock that ticks early: memcached may drop an item of one second at once.
        """
        client = await self.connect()
        key, value, ttl = self.key(), self.token(), self.ttl_unit()
        began = self.now()
        alive_until, _ = await self.set_timed(client, key, value, ttl)
        for share in (0.0, 0.3, 0.6, 0.9, 0.98):
            await self.until(began + share * (alive_until - began))
            await self.expect_alive(
                client, key, value, alive_until, f"a read after {share:.0%} of the time that a TTL of {ttl:g} s guarantees"
            )

    @rule("CA-06", deadline=90)
    async def test_ca_06_a_value_is_gone_after_its_ttl(self) -> None:
        """A value is absent by `ttl + ttl_resolution`, for `get` and for every other read.

        Catches a background sweep that lets expired values be read until it comes: DynamoDB's within days, MongoDB's each minute.
        """
        client = await self.connect()
        key, ttl = self.key(), self.ttl_unit()
        _, gone_after = await self.set_timed(client, key, self.token(), ttl)
        await self.until(gone_after)
        for name, read in self.reads(client, key).items():
            with self.case(name):
                self.same(await read(), None, given=f"{name} after a TTL of {ttl:g} s and the resolution")

    @rule("CA-07", deadline=90)
    async def test_ca_07_overwriting_replaces_the_ttl(self) -> None:
        """Overwriting replaces value and TTL: a longer one outlives the old deadline, a shorter one ends at the new.

        Catches the timer of the old value that deletes the new one.
        """
        client = await self.connect()
        unit = self.ttl_unit()
        longer, shorter, value = self.key(), self.key(), self.token()
        await client.set(longer, self.token(), ttl=unit)
        await client.set(shorter, self.token(), ttl=20 * unit)
        alive_until, _ = await self.set_timed(client, longer, value, 4 * unit)
        _, gone_after = await self.set_timed(client, shorter, self.token(), unit)
        with self.case("a shorter TTL"):
            await self.expect_gone(client, shorter, gone_after, f"a TTL of {20 * unit:g} s, overwritten with {unit:g} s")
        with self.case("a longer TTL"):
            await self.expect_alive(client, longer, value, alive_until, f"a TTL of {unit:g} s, overwritten with {4 * unit:g} s")

    @rule("CA-08", deadline=90)
    async def test_ca_08_overwriting_without_a_ttl_removes_it(self) -> None:
        """Overwriting with `ttl=None` removes the expiry.

        Redis drops a TTL on SET; a provider that updates the value alone keeps it.
        """
        client = await self.connect()
        key, value = self.key(), self.token()
        _, gone_after = await self.set_timed(client, key, self.token(), self.ttl_unit())
        await client.set(key, value, ttl=None)
        await self.until(gone_after)
        self.same(await client.get(key), value, given="a value with a TTL, overwritten without one, after the old deadline")

    @rule("CA-09", deadline=90)
    async def test_ca_09_reading_does_not_prolong(self) -> None:
        """Reading a value does not prolong its life.

        Catches sliding expiry: a value that is read often would never be refreshed.
        """
        client = await self.connect()
        key, ttl = self.key(), self.ttl_unit()
        began = self.now()
        _, gone_after = await self.set_timed(client, key, self.token(), ttl)
        for share in range(1, 5):
            await self.until(began + share * ttl / 5)
            await client.get(key)
        await self.expect_gone(client, key, gone_after, f"a value with a TTL of {ttl:g} s, read four times meanwhile")

    @rule("CA-10", deadline=90)
    async def test_ca_10_no_ttl_means_for_ever(self) -> None:
        """`ttl=None`, or none given, means no expiry, never a default of the provider.

        With a clock of the suite's own the rule waits ten years.
        """
        client = await self.connect()
        unit = self.ttl_unit()
        plain, explicit, value = self.key(), self.key(), self.token()
        await client.set(plain, value)
        await client.set(explicit, value, ttl=None)
        await self.wait(TEN_YEARS if self.virtual_time else 6 * unit)
        for given, key in (("no ttl", plain), ("ttl=None", explicit)):
            with self.case(given):
                self.same(await client.get(key), value, given=f"a value set with {given}, after a long time")

    @rule("CA-11")
    async def test_ca_11_bad_ttls_are_refused(self) -> None:
        """A TTL that is zero, negative, no finite number, a `bool`, a `str` or above 10**9 s raises `InvalidArgumentError`.

        The old value stays. For one backend 0 means for ever, for another at once: the standard refuses it.
        """
        client = await self.connect()
        for label, ttl in BAD_TTLS.items():
            key, value = self.key(), self.token()
            await client.set(key, value)
            for method, call in self.timed_writes(client, key, ttl).items():
                with self.case(f"{method}, {label}"):
                    await self.refused(call, InvalidArgumentError, given=f"{method} with ttl={describe(ttl)}")
                    self.same(await client.get(key), value, given=f"the old value after ttl={describe(ttl)} was refused")

    @rule("CA-12")
    async def test_ca_12_long_ttls_are_kept(self) -> None:
        """TTLs of 30 days and a second, and of ten years, are accepted and the value is readable.

        memcached takes a number above 30 days for a date in 1970.
        """
        client = await self.connect()
        for label, ttl in (("30 days and 1 s", 30 * DAY + 1), ("10 years", TEN_YEARS)):
            with self.case(label):
                key, value = self.key(), self.token()
                await client.set(key, value, ttl=ttl)
                self.same(await client.get(key), value, given=f"a value with a TTL of {label}, at once")
                if self.virtual_time:
                    await self.wait(ttl / 2)
                    self.same(await client.get(key), value, given=f"a value with a TTL of {label}, after half of it")

    @rule("CA-13", deadline=90)
    async def test_ca_13_fractions_are_rounded_up(self) -> None:
        """A fractional or very short TTL is rounded up, never down, and never to "for ever".

        `int(0.3)` is 0, which is an error, at once or for ever, by backend.
        """
        client = await self.connect()
        plans = []
        for ttl in (0.3, 1.5):
            key, value = self.key(), self.token()
            plans.append((ttl, key, value, self.now(), *await self.set_timed(client, key, value, ttl)))
        for ttl, key, value, began, alive_until, _ in plans:
            with self.case(f"{ttl} s, early"):
                await self.until(began + 0.9 * (alive_until - began))
                await self.expect_alive(client, key, value, alive_until, f"ttl={ttl}, just before its time")
        for ttl, key, _, _, _, gone_after in plans:
            with self.case(f"{ttl} s, late"):
                await self.expect_gone(client, key, gone_after, f"ttl={ttl}, after its time")

    @rule("CA-14", deadline=90)
    async def test_ca_14_each_key_has_its_own_deadline(self) -> None:
        """Each key expires by its own clock: writes to others and reads of neighbours do not move it.

        Catches one deadline for a slot, a bucket or a whole table.
        """
        client = await self.connect()
        unit = self.ttl_unit()
        keys = [(self.key(), self.token(), unit * (1 + 0.2 * number)) for number in range(20)]
        windows = {key: await self.set_timed(client, key, value, ttl) for key, value, ttl in keys}
        for moment in (1.0, 2.0, 3.0, 4.0):
            await self.until(windows[keys[0][0]][1] + moment * unit)
            await client.set(self.key(), self.token(), ttl=50 * unit)
            for key, value, ttl in keys:
                alive_until, gone_after = windows[key]
                asked = self.now()
                observed = await client.get(key)
                given = f"a TTL of {ttl:g} s among 20 different ones"
                if asked > gone_after:
                    self.same(observed, None, given=f"{given}, after its time")
                elif self.now() < alive_until:
                    self.same(observed, value, given=f"{given}, before its time")

    @rule("CA-15", deadline=90)
    async def test_ca_15_an_expired_key_is_as_never_written(self) -> None:
        """An expired key can be written again, and counted again, as if it had never been there.

        Catches the ghost that blocks a write, and the leftover that ends the new value.
        """
        client = await self.connect()
        unit = self.ttl_unit()
        value, counted = self.token(), self.key()
        again = {name: self.key() for name in self.creations(client, "", value)}
        await client.set(counted, "41", ttl=unit)
        for key in again.values():
            _, gone_after = await self.set_timed(client, key, self.token(), unit)
        await self.until(gone_after)
        for name, key in again.items():
            with self.case(name):
                await self.creations(client, key, value)[name]()
        if "counter" in self.declared:
            with self.case("increment"):
                self.same(await client.increment(counted, 2), 2, given="increment(key, 2) of a key that held 41 and expired")
        await self.wait(2 * unit)
        for name, key in again.items():
            with self.case(f"{name}, later"):
                self.same(
                    await client.get(key), value, given=f"a key that expired and was written again by {name}, after its old TTL"
                )
        if "counter" in self.declared:
            self.same(await client.get(counted), "2", given="a key that expired and was counted again, after its old TTL")
