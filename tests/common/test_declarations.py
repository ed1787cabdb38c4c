"""What a provider says of itself in `capabilities` and `limits`: nothing of it is ignored without a word."""

import unittest
from typing import Any

from omnitck.primitives.cache import CacheContract
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.shared.models import CacheLimits, Limits, MessageLimits
from tests.helpers import outcome_of, suite_of

RULES = ("test_com_02_declarations_are_known_and_meet_the_floors", "test_com_04_declared_operations_are_present")


class Store:
    """Three methods over a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def set(self, key: str, value: str) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


class TestDeclarations(unittest.TestCase):
    def failures(self, contract: type, **attributes: Any) -> dict[str, str]:
        """The rules about declarations that a store with these *attributes* fails, and what they say."""

        async def make_provider(self: Any) -> object:
            return type("Own", (Store,), attributes)()

        suite = suite_of(contract, make_provider=make_provider)
        outcomes = [outcome_of(suite, each)[0] for each in RULES]
        self.assertLessEqual({each.outcome.value for each in outcomes}, {"passed", "failed"})
        return {each.rule: each.message for each in outcomes if each.outcome.value == "failed"}

    def rejected(self, contract: type, given: str, expected: str, observed: str, **attributes: Any) -> None:
        failures = self.failures(contract, **attributes)
        rule = f"{contract.definition.prefix}-COM-02"  # type: ignore[attr-defined]
        self.assertEqual(set(failures), {rule})
        self.assertIn(f"  given     {given}\n  expected  {expected}\n  observed  {observed}\n", failures[rule])

    def test_capabilities_that_are_no_set_of_names(self) -> None:
        for wrong in (None, "batch", b"batch", 3, [["batch"]], {1, 2}, iter(("batch",))):
            with self.subTest(wrong):
                given = "the provider's attribute `capabilities`"
                self.rejected(KVStoreContract, given, "a set of names, or no such attribute", repr(wrong), capabilities=wrong)

    def test_capabilities_in_whatever_holds_names(self) -> None:
        empty: tuple[Any, ...] = (set(), frozenset(), (), [], {})
        for names in empty:
            with self.subTest(names):
                self.assertEqual(self.failures(KVStoreContract, capabilities=names), {})

    def test_limits_that_are_none(self) -> None:
        for wrong in ({"key_bytes": 512}, 3, "none", Limits, (256, 262_144)):
            with self.subTest(wrong):
                given = "the provider's attribute `limits`"
                expected = "an omnitck.shared.models.Limits, or no such attribute"
                self.rejected(KVStoreContract, given, expected, repr(wrong), limits=wrong)
        self.rejected(CacheContract, given, "an omnitck.shared.models.CacheLimits, or no such attribute", "3", limits=3)

    def test_numbers_that_are_none(self) -> None:
        for wrong, observed in (
            ({"key_bytes": "many"}, "key_bytes is 'many', not a number"),
            ({"value_bytes": None}, "value_bytes is None, not a number"),
            ({"page_size": float("nan")}, "page_size is nan, not a number"),
            ({"batch_size": 2.5}, "batch_size is 2.5, not a whole number"),
            ({"staleness": -1.0, "page_size": True}, "staleness is -1.0, below 0; page_size is True, not a number"),
        ):
            with self.subTest(wrong):
                self.rejected(KVStoreContract, "limits", "every floor met", observed, limits=Limits(**wrong))
        self.rejected(CacheContract, "limits", "every floor met", "key_bytes is 255, below 256", limits=Limits(key_bytes=255))

    def test_limits_of_another_contract_say_nothing_of_this_one(self) -> None:
        for limits in (None, Limits(), CacheLimits(), MessageLimits(key_bytes=64)):
            with self.subTest(limits):
                for contract in (KVStoreContract, CacheContract):
                    self.assertEqual(self.failures(contract, limits=limits), {})


if __name__ == "__main__":
    unittest.main()
