"""What a provider imports: exceptions, records, clocks."""

import importlib
import pkgutil
import subprocess
import sys
import unittest
from dataclasses import FrozenInstanceError

from omnitck import shared
from omnitck.shared import exceptions
from omnitck.shared.clock import ManualClock, SystemClock
from omnitck.shared.exceptions import CircuitOpenError, TCKError
from omnitck.shared.models import CacheLimits, DocumentLimits, Entry, Limits, ObjectLimits, SecretLimits


class TestImports(unittest.TestCase):
    def test_each_module_imports_neither_unittest_nor_anyio(self) -> None:
        modules = [f"omnitck.shared.{each.name}" for each in pkgutil.iter_modules(shared.__path__)]
        self.assertEqual(modules, ["omnitck.shared.clock", "omnitck.shared.exceptions", "omnitck.shared.models"])
        code = f"import sys, {', '.join(modules)}; print({{'unittest', 'anyio', 'asyncio'}} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "set()\n")

    def test_each_module_lists_what_it_defines(self) -> None:
        for each in pkgutil.iter_modules(shared.__path__):
            module = importlib.import_module(f"omnitck.shared.{each.name}")
            defined = {
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            }
            self.assertEqual(set(module.__all__), defined)


class TestExceptions(unittest.TestCase):
    def test_the_family_is_closed_and_has_one_root(self) -> None:
        family = {name: [base.__name__ for base in getattr(exceptions, name).__bases__] for name in exceptions.__all__}
        self.assertEqual(
            family,
            {
                "TCKError": ["Exception"],
                "NotFoundError": ["TCKError"],
                "ObjectNotFoundError": ["NotFoundError"],
                "SecretNotFoundError": ["NotFoundError"],
                "TopicNotFoundError": ["NotFoundError"],
                "ConflictError": ["TCKError"],
                "AlreadyExistsError": ["ConflictError"],
                "SagaStateConflictError": ["ConflictError"],
                "InvalidArgumentError": ["TCKError", "ValueError"],
                "TooLargeError": ["InvalidArgumentError"],
                "UnsupportedError": ["TCKError"],
                "ClosedError": ["TCKError"],
                "PermissionDeniedError": ["TCKError"],
                "UnavailableError": ["TCKError"],
                "PublishError": ["UnavailableError"],
                "CircuitOpenError": ["TCKError"],
            },
        )

    def test_only_an_unavailable_backend_is_worth_a_retry(self) -> None:
        retryable = [name for name in exceptions.__all__ if getattr(exceptions, name).retryable]
        self.assertEqual(retryable, ["PublishError", "UnavailableError"])

    def test_whether_to_retry_can_be_said_of_one_error(self) -> None:
        error = TCKError("throttled")
        error.retryable = True
        self.assertEqual((error.retryable, TCKError("other").retryable), (True, False))

    def test_an_open_circuit_may_say_when_to_try_again(self) -> None:
        error = CircuitOpenError("orders", retry_after=2.5)
        self.assertEqual((str(error), error.retry_after), ("orders", 2.5))
        self.assertIsNone(CircuitOpenError().retry_after)


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
                "staleness is nan, below 0",
                "page_size is True, not a number",
            ],
        )

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


class TestClocks(unittest.TestCase):
    def test_a_manual_clock_moves_when_told_and_only_then(self) -> None:
        clock = ManualClock(10.0)
        before = clock.now()
        clock.advance(2.5)
        clock.advance(0)
        self.assertEqual((before, clock.now(), repr(clock)), (10.0, 12.5, "ManualClock(12.5)"))

    def test_a_manual_clock_moves_forward_only(self) -> None:
        clock = ManualClock()
        for seconds in (-1, float("nan")):
            with self.assertRaises(ValueError) as caught:
                clock.advance(seconds)
            self.assertEqual(str(caught.exception), f"a clock moves forward only, not by {seconds} s")
        self.assertEqual(clock.now(), 0.0)

    def test_the_system_clock_never_goes_backwards(self) -> None:
        clock = SystemClock()
        moments = [clock.now() for _ in range(100)]
        self.assertEqual(moments, sorted(moments))
