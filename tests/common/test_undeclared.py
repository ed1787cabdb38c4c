"""An argument that is not declared is missing, however that is seen, or refused: it is never ignored."""

import unittest
from typing import Any

from omnitck.kit.outcomes import Status
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.shared.exceptions import UnsupportedError
from tests.helpers import outcome_of, suite_of


class Store:
    """Three methods over a dictionary, of which one hands on all that it is given."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def set(self, key: str, value: str, **options: Any) -> None:
        await self.put(key, value, **options)

    async def put(self, key: str, value: str) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Refusing(Store):
    async def set(self, key: str, value: str, **options: Any) -> None:
        if options:
            raise UnsupportedError("there are no options")
        await super().set(key, value)


class Ignoring(Store):
    async def set(self, key: str, value: str, **options: Any) -> None:
        await super().set(key, value)


class Stumbling(Store):
    async def set(self, key: str, value: str, **options: Any) -> None:
        await super().set(key, value + options.get("ttl", ""))


class TooLate(Store):
    async def set(self, key: str, value: str, **options: Any) -> None:
        await super().set(key, value)
        await super().set(key, value, **options)


class TestUndeclared(unittest.TestCase):
    def judged(self, store: type[Store]) -> tuple[Status, str]:
        async def make_provider(self: Any) -> Store:
            return store()

        suite = suite_of(KVStoreContract, make_provider=make_provider)
        outcome, _ = outcome_of(suite, "test_com_03_undeclared_operations_are_refused")
        return outcome.outcome, outcome.message

    def test_python_may_say_that_an_argument_is_missing(self) -> None:
        self.assertEqual(self.judged(Store), (Status.PASSED, ""))

    def test_the_provider_may_say_it(self) -> None:
        self.assertEqual(self.judged(Refusing), (Status.PASSED, ""))

    def test_an_argument_may_not_be_ignored(self) -> None:
        status, message = self.judged(Ignoring)
        self.assertIs(status, Status.FAILED)
        self.assertIn("observed  returned None", message)

    def test_another_error_says_nothing(self) -> None:
        status, message = self.judged(Stumbling)
        self.assertIs(status, Status.FAILED)
        self.assertIn("observed  TypeError: can only concatenate str", message)

    def test_nothing_may_be_done_before_it_is_said(self) -> None:
        status, message = self.judged(TooLate)
        self.assertIs(status, Status.FAILED)
        self.assertIn("the cell after the refused", message)
