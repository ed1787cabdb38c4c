"""Records, and the floors of limits."""

import unittest
from dataclasses import FrozenInstanceError
from typing import Any

from omnitck.shared.models import (
    CacheLimits,
    DelayLimits,
    DocumentLimits,
    Entry,
    Limits,
    MessageLimits,
    ObjectLimits,
    SecretLimits,
)


class TestLimits(unittest.TestCase):
    def test_the_defaults_are_the_floors(self) -> None:
        self.assertEqual(Limits().broken_floors(), [])
        self.assertEqual(Limits(), Limits(key_bytes=256, value_bytes=262_144, min_ttl=1.0, ttl_resolution=1.0, staleness=0.0))

    def test_numbers_at_the_bounds_are_fine(self) -> None:
        limits = Limits(min_ttl=60, ttl_resolution=60, staleness=60, page_size=1, batch_size=1)
        self.assertEqual(limits.broken_floors(), [])

    def test_every_number_below_its_floor_is_named(self) -> None:
        limits = Limits(
            key_bytes=255, value_bytes=262_143, min_ttl=-1, ttl_resolution=-0.5, staleness=-1, page_size=0, batch_size=0
        )
        self.assertEqual(
            limits.broken_floors(),
            [
                "key_bytes is 255, below 256",
                "value_bytes is 262143, below 262144",
                "min_ttl is -1, below 0",
                "ttl_resolution is -0.5, below 0",
                "staleness is -1, below 0",
                "page_size is 0, below 1",
                "batch_size is 0, below 1",
            ],
        )

    def test_every_time_above_its_ceiling_is_named(self) -> None:
        self.assertEqual(
            Limits(min_ttl=61, ttl_resolution=60.5, staleness=float("inf")).broken_floors(),
            ["min_ttl is 61, above 60", "ttl_resolution is 60.5, above 60", "staleness is inf, above 60"],
        )

    def test_what_is_no_number_is_named(self) -> None:
        limits = Limits(key_bytes="many", value_bytes=None, page_size=True, staleness=float("nan"))  # type: ignore[arg-type]
        self.assertEqual(
            limits.broken_floors(),
            [
                "key_bytes is 'many', not a number",
                "value_bytes is None, not a number",
                "staleness is nan, not a number",
                "page_size is True, not a number",
            ],
        )
        self.assertEqual(
            Limits(key_bytes=256.5, value_bytes=float("inf"), page_size=10.0).broken_floors(),  # type: ignore[arg-type]
            ["key_bytes is 256.5, not a whole number", "value_bytes is inf, not a whole number"],
        )

    def test_what_nothing_can_be_counted_with_is_replaced_by_what_every_provider_meets(self) -> None:
        sound = Limits(key_bytes=1, min_ttl=100.0)
        self.assertIs(sound.usable(), sound)
        wrong: dict[str, Any] = {"key_bytes": "many", "value_bytes": None, "page_size": 10.0, "batch_size": 2.5, "staleness": -1}
        limits = Limits(**wrong, min_ttl=float("nan"))
        usable = limits.usable()
        self.assertEqual(usable, Limits(page_size=10))
        self.assertIs(type(usable.page_size), int)

    def test_a_class_takes_what_it_knows_from_a_base_or_from_one_that_derives_from_it(self) -> None:
        class Own(MessageLimits):
            """Of a provider."""

        for kind, given, expected in (
            (Limits, Limits(key_bytes=300), Limits(key_bytes=300)),
            (CacheLimits, Limits(key_bytes=300), CacheLimits(key_bytes=300)),
            (DelayLimits, MessageLimits(redeliver=3.0, headers=9), DelayLimits(redeliver=3.0, headers=9)),
            (DelayLimits, Own(redeliver=3.0), DelayLimits(redeliver=3.0)),
            (
                MessageLimits,
                DelayLimits(redeliver=3.0, key_bytes=70, max_delay=1000.0),
                MessageLimits(redeliver=3.0, key_bytes=70),
            ),
            (Limits, CacheLimits(key_bytes=300), Limits(key_bytes=300)),
            # There a key is a topic, of which less is demanded.
            (Limits, MessageLimits(key_bytes=70, batch_size=5), Limits(batch_size=5)),
            (CacheLimits, MessageLimits(batch_size=5), CacheLimits()),
            (SecretLimits, ObjectLimits(key_bytes=300), SecretLimits()),
        ):
            with self.subTest(kind=kind.__name__, given=given):
                adopted = kind.adopted(given)
                self.assertEqual((type(adopted), adopted), (kind, expected))

    def test_each_contract_has_its_own_floors(self) -> None:
        for kind in (CacheLimits, SecretLimits, ObjectLimits, DocumentLimits):
            self.assertEqual(kind().broken_floors(), [])
        self.assertEqual(SecretLimits(key_bytes=63).broken_floors(), ["key_bytes is 63, below 64"])
        self.assertEqual(SecretLimits(cache_seconds=3601).broken_floors(), ["cache_seconds is 3601, above 3600"])
        self.assertEqual(CacheLimits(capacity_bytes=1).broken_floors(), ["capacity_bytes is 1, below 8388608"])
        self.assertEqual(ObjectLimits(part_bytes=0).broken_floors(), ["part_bytes is 0, below 1"])
        self.assertEqual(DocumentLimits(document_bytes=9).broken_floors(), ["document_bytes is 9, below 262144"])

    def test_records_do_not_change(self) -> None:
        with self.assertRaises(FrozenInstanceError):
            Entry("value", "1").value = "other"  # type: ignore[misc]
