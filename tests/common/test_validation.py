"""What `validation` promises is demanded of nobody else: which arguments are refused, with which error, and what that says."""

import inspect
import unittest
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from omnitck.selftest.laws import proven, reference_suite, suite_of
from omnitck.shared.exceptions import InvalidArgumentError, TCKError, TooLargeError
from tests.common.test_subclasses import with_answers
from tests.helpers import outcomes_of

ASKED: ContextVar[list[bool]] = ContextVar("ASKED")
"""Whether the operation under way has asked its server."""


def asking(provider: type[Any]) -> type[Any]:
    """*provider*, whose operations raise a plain ValueError for an argument that they refuse before they ask their server."""

    async def turn(self: Any) -> None:
        ASKED.get([False])[0] = True
        await provider.turn(self)

    def answer(value: Any) -> Any:
        refused = isinstance(value, InvalidArgumentError) and not isinstance(value, TooLargeError)
        return ValueError(str(value)) if refused and not ASKED.get([True])[0] else value

    def beginning(method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            within = ASKED.set([False])
            try:
                return await method(*arguments, **keywords)
            finally:
                ASKED.reset(within)

        call.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
        return call

    answering = with_answers(type("Asking", (provider,), {"turn": turn}), answer)
    operations = {
        name: beginning(method)
        for name, method in inspect.getmembers(answering, inspect.iscoroutinefunction)
        if not name.startswith("_") and name not in ("turn", "publishing", "close")
    }
    return type("Own", (answering,), operations)


def nameless(value: Any) -> Any:
    """*value*; an error, without a word of what it is about."""
    if not isinstance(value, TCKError):
        return value
    made = type(value)("no")
    made.__cause__ = value.__cause__
    return made


OF_MORE = {"SE-26", "OB-30", "DB-15"}
"""Rules in which the reference refuses before it asks, and yet not an argument alone: bytes that are no text, a digest of other
bytes, a filter that was injected."""


class TestWithoutValidation(unittest.TestCase):
    def failures(self, contract: str, provider: type[Any]) -> dict[str, str]:
        suite = reference_suite(contract, provider, without=frozenset({"validation"}))
        outcomes, _ = outcomes_of(suite)
        return {each.rule: each.message for each in outcomes if each.outcome.value not in ("passed", "not declared")}

    def test_an_argument_may_be_refused_with_whatever_error(self) -> None:
        for contract in proven():
            with self.subTest(contract):
                failures = self.failures(contract, asking(suite_of(contract).provider))
                self.assertEqual({rule: failures[rule] for rule in failures if rule not in OF_MORE}, {})

    def test_an_error_may_say_nothing(self) -> None:
        for contract in proven():
            with self.subTest(contract):
                self.assertEqual(self.failures(contract, with_answers(suite_of(contract).provider, nameless)), {})


if __name__ == "__main__":
    unittest.main()
