"""What a provider answers with may be of a subclass: its errors, its records, its containers. Text and numbers may not."""

import functools
import inspect
import unittest
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from omnitck.reference.kv_store import MemoryKVStore
from omnitck.selftest.laws import proven, reference_suite, suite_of
from omnitck.shared.exceptions import ObjectNotFoundError, TCKError
from omnitck.shared.models import Entry
from tests.helpers import outcome_of, outcomes_of


@functools.cache
def subclass(kind: type[Any]) -> type[Any]:
    """A class of the provider's own."""
    return type(f"Own{kind.__name__}", (kind,), {"__slots__": ()} if is_dataclass(kind) else {})


def own(value: Any) -> Any:
    """*value* with everything in it of a subclass that may be."""
    kind: Any = type(value)
    if isinstance(value, TCKError):
        made: Any = subclass(kind).__new__(subclass(kind), *value.args)
        made.__dict__.update(vars(value))
        made.__cause__ = value.__cause__
        return made
    if kind is dict:
        return subclass(dict)({key: own(each) for key, each in value.items()})
    if kind is list:
        return subclass(list)(map(own, value))
    if is_dataclass(value) and kind.__module__ == Entry.__module__:
        return subclass(kind)(**{each.name: own(getattr(value, each.name)) for each in fields(value)})
    return value


def answering(method: Callable[..., Any], answer: Callable[[Any], Any]) -> Callable[..., Any]:
    """*method*, whose results and errors go through *answer*."""
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def generate(*arguments: Any, **keywords: Any) -> Any:
            try:
                async for each in method(*arguments, **keywords):
                    yield answer(each)
            except TCKError as error:
                raise answer(error) from error.__cause__

        return generate

    @functools.wraps(method)
    async def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return answer(await method(*arguments, **keywords))
        except TCKError as error:
            raise answer(error) from error.__cause__

    return call


def with_answers(provider: type[Any], answer: Callable[[Any], Any]) -> type[Any]:
    """*provider*, whose operations answer through *answer*."""
    operations = {
        name: method
        for name, method in inspect.getmembers(provider, inspect.isfunction)
        if not name.startswith("_") and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method))
        # What `execute` of a circuit breaker answers is what its caller's operation came to.
        if name != "execute"
    }
    return type("Own", (provider,), {name: answering(method, answer) for name, method in operations.items()})


class TestSubclasses(unittest.TestCase):
    def test_no_rule_rejects_an_error_a_record_or_a_container_of_one(self) -> None:
        for contract in proven():
            with self.subTest(contract):
                provider = with_answers(suite_of(contract).provider, own)
                outcomes, _ = outcomes_of(reference_suite(contract, provider))
                self.assertEqual({each.rule: each.message for each in outcomes if each.outcome.value != "passed"}, {})

    def test_text_of_one_is_another_value(self) -> None:
        class Text(str):
            """What a driver calls text."""

        provider = with_answers(MemoryKVStore, lambda value: Text(value) if type(value) is str else value)
        outcome, _ = outcome_of(reference_suite("kv_store", provider), "test_kv_02_what_was_set_is_read")
        self.assertEqual(outcome.outcome.value, "failed")
        self.assertIn("of type Text", outcome.message)

    def test_they_were_of_one(self) -> None:
        error = own(ObjectNotFoundError("which"))
        self.assertEqual((type(error).__name__, str(error)), ("OwnObjectNotFoundError", "which"))
        self.assertEqual(type(own(Entry("value", "1"))).__name__, "OwnEntry")
        self.assertNotEqual(own(Entry("value", "1")), Entry("value", "1"))


if __name__ == "__main__":
    unittest.main()
