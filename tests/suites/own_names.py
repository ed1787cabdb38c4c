"""Suites whose authors use the words of rules for something of their own: see `test_outcomes_are_equal`."""

from typing import Any

from omnitck.kit.checks import RESERVED
from omnitck.kit.contract import plan_of
from tests.suites import every_outcome


def own(*arguments: object, **keywords: object) -> None:
    """Whatever an author may have under such a name. Called in place of a check, it would let everything pass."""


plan = plan_of(every_outcome.TestDefective)
words = {each for each in dir(plan.trial) if not each.startswith("_")} - {*plan.hooks, *plan.data, *RESERVED}
NAMES = words | {"session", "key", "clients", "data", "check", "wait", "namespace", "token", "suite", "plan", "rule", "cells"}


class TestWithoutThem(every_outcome.TestDefective):
    pass


TestInTheClass: Any = type(
    "TestInTheClass", (every_outcome.TestDefective,), {**dict.fromkeys(NAMES, own), "__module__": __name__}
)


class TestInSetUp(every_outcome.TestDefective):
    def setUp(self) -> None:
        super().setUp()
        self.__dict__.update(dict.fromkeys(NAMES, own))


class TestInAsyncSetUp(every_outcome.TestDefective):
    async def asyncSetUp(self) -> None:
        self.__dict__.update(dict.fromkeys(NAMES, own))
