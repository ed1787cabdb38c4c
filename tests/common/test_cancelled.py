"""A cancelled operation may return the result that was there, and no other."""

import asyncio
import sys
import unittest
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from omnitck.common.cancelled import _agrees
from omnitck.kit.outcomes import Outcome
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.selftest.laws import reference_suite, suite_of
from tests.helpers import outcome_of
from tests.helpers import suite_of as suite_with

RULE = "test_com_14_a_cancelled_operation_ends"


async def wait_for(call: Coroutine[Any, Any, Any], timeout: float) -> Any:
    """As `asyncio.wait_for` of Python 3.11 does: a cancellation that comes when the inner task has ended is lost."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake(*_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(timeout, wake)
    inner = asyncio.ensure_future(call)
    inner.add_done_callback(wake)
    try:
        try:
            await waiter
        except asyncio.CancelledError:
            if inner.done():
                return inner.result()
            inner.cancel()
            raise
        if not inner.done():
            inner.cancel()
            raise TimeoutError
        return inner.result()
    finally:
        timer.cancel()


async def at_once() -> None:
    """What has ended by the time at which the cancellation of its waiter arrives."""


def judged_waiting_as_in_3_11(contract: str) -> Outcome:
    """The rule on the reference of *contract*, which waits for its server in such a `wait_for`, for what comes at once."""

    class Provider(suite_of(contract).provider):  # type: ignore[misc]
        async def turn(self) -> None:
            self.check_usable()
            await wait_for(at_once(), 5)
            self.check_usable()

    return outcome_of(reference_suite(contract, Provider), RULE)[0]


class Store:
    """Three methods over a dictionary, with a round trip in each."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        await self.turn()
        return self.data.get(key)

    async def set(self, key: str, value: str) -> None:
        await self.turn()
        self.data[key] = value

    async def delete(self, key: str) -> None:
        await self.turn()
        self.data.pop(key, None)

    async def turn(self) -> None:
        await asyncio.sleep(0)


def judged(store: type[Store]) -> Outcome:
    async def make_provider(self: Any) -> Store:
        return store()

    return outcome_of(suite_with(KVStoreContract, make_provider=make_provider), RULE)[0]


class TestResultsThatWereThere(unittest.TestCase):
    def test_they_may_be_returned(self) -> None:
        # Whose operations each wait once, those of several calls included.
        for contract in ("kv_store", "secrets", "object_storage", "producer", "consumer", "delayed_messaging"):
            with self.subTest(contract):
                outcome = judged_waiting_as_in_3_11(contract)
                self.assertEqual((outcome.outcome, outcome.message), ("passed", ""))

    def test_who_goes_on_waiting_has_lost_the_cancellation(self) -> None:
        for contract, operation in (("document_database", "find_many"), ("cache", "get_or_set")):
            with self.subTest(contract):
                outcome = judged_waiting_as_in_3_11(contract)
                self.assertEqual(outcome.outcome, "failed")
                self.assertIn(f"given     {operation}, cancelled at its wait number 1", outcome.message)
                self.assertIn("observed  it went on waiting, and returned ", outcome.message)

    def test_the_hint_names_what_loses_one_on_this_python(self) -> None:
        hint = "`asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes as what it waits for ends"
        self.assertEqual(hint in judged_waiting_as_in_3_11("cache").message, sys.version_info < (3, 12))


class TestMadeUpResults(unittest.TestCase):
    def test_the_store_itself_passes(self) -> None:
        self.assertEqual(judged(Store).message, "")

    def test_a_default_in_place_of_what_is_there(self) -> None:
        class Defaults(Store):
            async def get(self, key: str) -> str | None:
                try:
                    return await super().get(key)
                except asyncio.CancelledError:
                    return None

        message = judged(Defaults).message
        self.assertIn("given     get, cancelled at its wait number 1", message)
        self.assertRegex(message, r"expected  the cancellation, or what it returns undisturbed: 'omnitck\w+-\d+-v'")
        self.assertIn("observed  it returned None", message)

    def test_a_write_that_was_not_made(self) -> None:
        class Pretends(Store):
            async def set(self, key: str, value: str) -> None:
                with suppress(asyncio.CancelledError):
                    await super().set(key, value)

        message = judged(Pretends).message
        self.assertIn("given     set, cancelled at its wait number 1, which returned as if it were done: what is then", message)
        self.assertRegex(message, r"expected  what it leaves undisturbed: \['omnitck\w+-\d+-v'\]")
        self.assertIn("observed  [None]", message)

    def test_a_delete_that_was_not_made(self) -> None:
        class Pretends(Store):
            async def delete(self, key: str) -> None:
                with suppress(asyncio.CancelledError):
                    await super().delete(key)

        message = judged(Pretends).message
        self.assertIn("given     delete, cancelled at its wait number 1, which returned as if it were done: what is", message)
        self.assertIn("expected  what it leaves undisturbed: [None]", message)

    def test_one_that_waits_again(self) -> None:
        class Retries(Store):
            async def turn(self) -> None:
                try:
                    await super().turn()
                except asyncio.CancelledError:
                    await super().turn()

        message = judged(Retries).message
        self.assertIn("given     set, cancelled at its wait number 1", message)
        self.assertIn("observed  it went on waiting, and returned None", message)

    def test_one_that_takes_its_time_to_end(self) -> None:
        """As long as the suite's patience allows, which it multiplies as every other time."""

        class Slow(Store):
            async def turn(self) -> None:
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.2)  # to bring a connection into order
                    raise

        async def make_provider(self: Any, **config: Any) -> Slow:
            return Slow()

        for patience, status in ((0.05, "failed"), (1.0, "passed")):
            outcome, _ = outcome_of(suite_with(KVStoreContract, make_provider=make_provider, patience=patience), RULE)
            self.assertEqual(outcome.outcome, status, outcome.message)
            if status == "failed":
                self.assertIn("observed  it was still running after 0.1 s", outcome.message)

    def test_an_error_of_its_own(self) -> None:
        class Wraps(Store):
            async def turn(self) -> None:
                try:
                    await super().turn()
                except asyncio.CancelledError:
                    raise ConnectionError("interrupted") from None

        self.assertIn("observed  it raised ConnectionError: interrupted", judged(Wraps).message)


class TestAgreement(unittest.TestCase):
    def test_where_two_calls_are_alike_a_third_must_be_too(self) -> None:
        for value in ("#1", None, 3, b"x", True, ["a"], {"a": "b"}):
            with self.subTest(value):
                self.assertTrue(_agrees(value, value, value))
                self.assertFalse(_agrees("another", value, value))
        self.assertFalse(_agrees(1, True, True))

    def test_where_they_differ_its_type_is_theirs(self) -> None:
        self.assertTrue(_agrees("v3", "v1", "v2"))
        self.assertFalse(_agrees(None, "v1", "v2"))
        self.assertTrue(_agrees({"value": "#1", "version": "v3"}, *({"value": "#1", "version": each} for each in ("v1", "v2"))))
        self.assertFalse(_agrees({"value": "", "version": "v3"}, *({"value": "#1", "version": each} for each in ("v1", "v2"))))
        self.assertFalse(_agrees({"value": "#1"}, *({"value": "#1", "version": each} for each in ("v1", "v2"))))
        self.assertTrue(_agrees(["#1", 0.3], ["#1", 0.1], ["#1", 0.2]))
        self.assertFalse(_agrees([], ["#1", 0.1], ["#1", 0.2]))


if __name__ == "__main__":
    unittest.main()
