"""Random walks: a planted bug is found, and shortened to the few calls that show it."""

import itertools
import random
import unittest
from collections.abc import AsyncIterator, Callable
from typing import Any

from omnitck.instruments.walk import Divergence, Name, Step, Version, walk
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    TCKError,
    UnavailableError,
)
from omnitck.shared.models import Entry, Put


class Store:
    """The model."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.versions = itertools.count(1)
        self.version: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def set(self, key: str, value: str) -> None:
        self.values[key] = value
        self.version[key] = f"v{next(self.versions)}"

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def get_many(self, keys: list[str]) -> dict[str, str | None]:
        return {key: self.values.get(key) for key in keys}

    async def get_entry(self, key: str) -> Entry | None:
        return Entry(self.values[key], self.version[key]) if key in self.values else None

    async def compare_and_set(self, key: str, value: str, expected: str) -> str:
        if self.version.get(key) != expected:
            raise ConflictError(key)
        await self.set(key, value)
        return self.version[key]

    async def transact(self, steps: list[Put]) -> None:
        for each in steps:
            await self.set(each.key, each.value)

    async def list_keys(self) -> AsyncIterator[str]:
        for key in self.values:
            yield key


class Sticky(Store):
    """The third write to a key after a delete is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: dict[str, int] = {}

    async def delete(self, key: str) -> None:
        self.writes[key] = 0
        await super().delete(key)

    async def set(self, key: str, value: str) -> None:
        if key in self.writes:
            self.writes[key] += 1
        if self.writes.get(key) != 3:
            await super().set(key, value)


class Worn(Store):
    """All writes after the second are lost, whatever their keys."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = itertools.count(1)

    async def set(self, key: str, value: str) -> None:
        if next(self.writes) <= 2:
            await super().set(key, value)


class GoneError(NotFoundError):
    """A class of a provider's own."""


class TestWalk(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.rounds = itertools.count()
        self.names_made: list[list[str]] = []

    def names(self) -> list[str]:
        fresh = next(self.rounds)
        self.names_made.append([f"name-{fresh}-{number}" for number in range(4)])
        return self.names_made[-1]

    async def walk(self, provider: Callable[[], object], steps: list[Step], **keywords: Any) -> Divergence | None:
        return await walk(provider, Store, steps, names=self.names, **keywords)

    async def test_providers_that_agree_do_not_diverge(self) -> None:
        self.assertIsNone(await self.walk(Store, _steps(200)))

    async def test_a_planted_bug_is_found_and_shortened(self) -> None:
        found = await self.walk(Sticky, _steps(300))
        self.assertEqual(
            found,
            Divergence(
                "await store.delete(k2)\n"
                "await store.set(k2, 'value 91')\n"
                "await store.set(k2, 'value 92')\n"
                "await store.set(k2, 'value 93')\n"
                "await store.get(k2)  # expected 'value 93', observed 'value 92'",
                expected="'value 93'",
                observed="'value 92'",
            ),
        )

    async def test_every_replay_has_fresh_names(self) -> None:
        await self.walk(Sticky, _steps(300))
        every = [name for names in self.names_made for name in names]
        self.assertGreater(len(self.names_made), 1)
        self.assertEqual(len(every), len(set(every)))

    async def test_every_replay_has_a_fresh_provider(self) -> None:
        self.assertEqual(
            await self.walk(Worn, _steps(300)),
            Divergence(
                "await store.set(k1, 'value 13')\n"
                "await store.set(k3, 'value 14')\n"
                "await store.set(k2, 'value 16')\n"
                "await store.get(k2)  # expected 'value 16', observed None",
                expected="'value 16'",
                observed="None",
            ),
        )

    async def test_names_and_versions_in_arguments_are_replaced_at_any_depth(self) -> None:
        steps = [
            Step("transact", ([Put(Name(0), "a"), Put(Name(1), "b")],)),  # type: ignore[arg-type]
            Step("get_many", ([Name(0), Name(1), Name(2)],)),
            Step("get_entry", (Name(1),)),
            Step("compare_and_set", (Name(1), "c"), {"expected": Version(1)}),
            Step("compare_and_set", (Name(1), "d", Version(1))),
            Step("get", (Name(1),)),
        ]
        provider = Store()
        provider.versions = itertools.count(100)

        def refine(step: Step, value: object) -> object:
            return value.value if isinstance(value, Entry) else None if step.method == "compare_and_set" else value

        def version_of(step: Step, value: object) -> str | None:
            return value.version if isinstance(value, Entry) else str(value) if step.method == "compare_and_set" else None

        self.assertIsNone(await self.walk(lambda: provider, steps, refine=refine, version_of=version_of))
        self.assertEqual(provider.values, {"name-0-0": "a", "name-0-1": "d"})

    async def test_an_error_is_compared_by_its_type(self) -> None:
        class Loose(Store):
            async def compare_and_set(self, key: str, value: str, expected: str) -> str:
                return await super().compare_and_set(key, value, self.version[key])

        step = Step("compare_and_set", (Name(2), "x", Version(2)))
        self.assertEqual(
            await self.walk(Loose, [Step("get", (Name(0),)), step]),
            Divergence(
                "await store.compare_and_set(k2, 'x', version_of_k2)  # expected raises ConflictError, observed raises KeyError",
                "raises ConflictError",
                "raises KeyError",
            ),
        )

    async def test_an_error_may_be_of_a_subclass(self) -> None:
        class Model(Store):
            async def delete(self, key: str) -> None:
                raise ConflictError(key)

        class StaleError(ConflictError):
            """What a provider calls it."""

        for error, observed in (
            (StaleError("stale"), None),
            (AlreadyExistsError("it exists"), None),
            (TCKError("no conflict, as far as its type says"), "raises TCKError"),
            (GoneError("gone"), "raises NotFoundError"),
            (KeyError("gone"), "raises KeyError"),
        ):
            with self.subTest(error):

                class Provider(Store):
                    async def delete(self, key: str, error: Exception = error) -> None:
                        raise error

                found = await walk(Provider, Model, [Step("delete", (Name(0),))], names=self.names)
                self.assertEqual(found and (found.expected, found.observed), observed and ("raises ConflictError", observed))

    async def test_a_version_that_nobody_gave_out_may_be_malformed(self) -> None:
        class Strict(Store):
            async def compare_and_set(self, key: str, value: str, expected: str) -> str:
                if not expected.startswith("v"):
                    raise InvalidArgumentError("no version")
                return await super().compare_and_set(key, value, expected)

        class Refusing(Store):
            async def compare_and_set(self, key: str, value: str, expected: str) -> str:
                if expected != self.version.get(key):
                    raise InvalidArgumentError("stale")
                return await super().compare_and_set(key, value, expected)

        compare = Step("compare_and_set", (Name(0), "x", Version(0)))
        self.assertIsNone(await self.walk(Strict, [compare]))
        stale = [Step("set", (Name(0), "a")), Step("get_entry", (Name(0),)), Step("set", (Name(0), "b")), compare]

        def version_of(step: Step, value: object) -> str | None:
            return value.version if isinstance(value, Entry) else None

        refine = lambda step, value: None  # noqa: E731
        self.assertIsNone(await self.walk(Strict, stale, version_of=version_of, refine=refine))
        found = await self.walk(Refusing, stale, version_of=version_of, refine=refine)
        self.assertEqual(found and found.observed, "raises InvalidArgumentError")

    async def test_a_version_of_which_none_was_seen_is_nobodys(self) -> None:
        class FromZero(Store):
            """Its versions are numbers, as they come."""

            async def set(self, key: str, value: str) -> None:
                self.values[key] = value
                self.version[key] = str(next(self.versions) - 1)

        steps = [Step("set", (Name(0), "a")), Step("compare_and_set", (Name(0), "x", Version(0)))]
        self.assertIsNone(await self.walk(FromZero, steps))

    async def test_the_order_of_a_listing_does_not_matter(self) -> None:
        class Backwards(Store):
            async def list_keys(self) -> AsyncIterator[str]:
                for key in reversed(list(self.values)):
                    yield key

        steps = [Step("set", (Name(0), "a")), Step("set", (Name(1), "b")), Step("list_keys", ())]
        self.assertIsNone(await self.walk(Backwards, steps))

    async def test_an_outage_is_no_divergence(self) -> None:
        class Gone(Store):
            async def get(self, key: str) -> str | None:
                raise UnavailableError("gone")

        with self.assertRaises(UnavailableError):
            await self.walk(Gone, [Step("get", (Name(0),))])


def _steps(count: int) -> list[Step]:
    chance = random.Random(7)
    steps = []
    for number in range(count):
        key = Name(chance.randrange(4))
        made = {"get": (key,), "delete": (key,), "set": (key, f"value {number}")}
        method = chance.choice(["get", "set", "set", "set"] + ["delete"] * (number % 5 == 0))
        steps.append(Step(method, made[method]))
    return steps
