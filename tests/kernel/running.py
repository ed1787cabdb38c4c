"""Runs suites in this process, as these tests look at them."""

import unittest
from typing import Any

from omnitck import UsageError
from omnitck.kit.outcomes import Outcome, listening


def suite(*mixins: type, **members: Any) -> type[Any]:
    """A suite of *mixins*, with *members*."""
    return type("Suite", (*mixins, unittest.IsolatedAsyncioTestCase), {"__module__": __name__, **members})


def run(cls: type[Any]) -> tuple[unittest.TestResult, list[Outcome]]:
    """What a plain runner makes of the suite, and the stream of outcomes."""
    stream: list[Outcome] = []
    result = unittest.TestResult()
    with listening(lambda suite, outcome: stream.append(outcome) if suite is cls else None):
        unittest.defaultTestLoader.loadTestsFromTestCase(cls).run(result)
    return result, stream


def outcomes(cls: type[Any]) -> dict[str, Outcome]:
    """The outcomes of the rules of a suite; those of audits are left out."""
    return {each.rule: each for each in run(cls)[1] if not each.during}


def failed(cls: type[Any]) -> list[str]:
    """The rules that a suite does not pass, those left out that it does not declare or cannot provoke."""
    return [id for id, each in outcomes(cls).items() if each.outcome in ("failed", "error")]


def refusal(*mixins: type, **members: Any) -> str:
    """The sentence with which such a suite is refused."""
    try:
        suite(*mixins, **members)
    except UsageError as error:
        return str(error)
    raise AssertionError("the suite was not refused")
