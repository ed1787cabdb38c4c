"""What a session leaves behind: nothing of a credential, nothing on the backend, the event loop's mode."""

import asyncio
import os
import sys
import unittest
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import anyio.lowlevel

from omnitck.kit.cells import Cells
from omnitck.kit.contract import Contract, rule
from omnitck.kit.outcomes import Outcome
from omnitck.shared.exceptions import ClosedError, UnavailableError
from omnitck.shared.models import Put
from tests.helpers import outcome_of

SECRET = "correct-horse"


class ShelfCells(Cells[Any]):
    async def erase(self, provider: Any, name: str) -> None:
        await provider.delete(name)


class Shelf:
    """One client of a backend that outlives the rule."""

    def __init__(self, backend: dict[str, str]) -> None:
        self.backend = backend
        self.closed = False

    async def set(self, name: str, value: str) -> None:
        self.backend[name] = value

    async def set_many(self, items: dict[str, str]) -> None:
        self.backend.update(items)

    async def transact(self, steps: list[Put]) -> None:
        self.backend.update({each.key: each.value for each in steps})

    async def delete(self, name: str) -> None:
        if self.closed:
            raise ClosedError("closed")
        self.backend.pop(name, None)

    async def close(self) -> None:
        self.closed = True


def run(
    body: Callable[..., Awaitable[None]], provider: Callable[[], object] = object, **members: Any
) -> tuple[Outcome, unittest.TestResult]:
    """Run a suite of one rule, *body*, on *provider*."""

    class ShelfContract(Contract):
        name = "shelf"
        prefix = "SH"
        cells = ShelfCells()

        @rule("SH-01")
        async def test_sh_01_it_holds(self) -> None:
            """A shelf holds."""
            await body(self)

    async def make_provider(self: Any) -> object:
        return provider()

    members = {"make_provider": make_provider, "capabilities": {"shared"}, **members}
    suite: Any = type("Shelves", (ShelfContract, unittest.IsolatedAsyncioTestCase), members)
    return outcome_of(suite)


class TestCredentials(unittest.TestCase):
    """They are in no text that a runner or a report shows."""

    def check(self, outcome: Outcome, result: unittest.TestResult, status: str, shown: str) -> None:
        told = "".join(text for _, text in [*result.failures, *result.errors, *result.skipped])
        self.assertEqual(outcome.outcome.value, status)
        self.assertIn(shown, outcome.message)
        self.assertNotIn(SECRET, outcome.message)
        self.assertIn(shown, told)
        self.assertNotIn(SECRET, told)

    def test_in_what_a_rule_says(self) -> None:
        async def body(suite: Any) -> None:
            await (await suite.connect()).set(f"name {SECRET}", "")
            with suite.case(f"with {SECRET}"):
                suite.same(f"observed {SECRET}", f"expected {SECRET}", given=f"given {SECRET}", hint=f"hint {SECRET}")
            suite.same(f"too {SECRET}", "", given="the second")

        judged = run(body, lambda: Shelf({}), credentials=("swordfish", SECRET))
        self.check(*judged, "failed", "observed ***")

    def test_in_what_a_provider_raises(self) -> None:
        async def body(suite: Any) -> None:
            raise KeyError(f"password={SECRET}")

        self.check(*run(body, credentials=(SECRET,)), "failed", "password=***")

    def test_in_what_the_factory_raises(self) -> None:
        async def body(suite: Any) -> None:
            await suite.connect()

        def refuse() -> object:
            raise ConnectionError(f"cannot log in with {SECRET}")

        self.check(*run(body, refuse, credentials=(SECRET,)), "error", "cannot log in with ***")

    def test_in_what_a_backend_that_is_out_of_reach_says(self) -> None:
        async def body(suite: Any) -> None:
            raise UnavailableError(f"no answer from //me:{SECRET}@host") from OSError(SECRET)

        self.check(*run(body, credentials=(SECRET,)), "error", "//me:***@host")

    def test_in_the_command_that_repeats_the_rule(self) -> None:
        async def body(suite: Any) -> None:
            suite.fail_rule(given="", expected="", observed="it")

        self.check(*run(body, credentials=(SECRET,), again=f"certify --password {SECRET}"), "failed", "--password ***")


class TestTidiness(unittest.TestCase):
    def left(self, body: Callable[..., Awaitable[None]], **members: Any) -> dict[str, str]:
        backend = {"before": "theirs"}
        outcome, _ = run(body, lambda: Shelf(backend), **members)
        self.assertEqual((outcome.outcome.value, outcome.message), ("passed", ""))
        return backend

    def test_what_the_rule_wrote_is_erased_and_nothing_else(self) -> None:
        async def body(suite: Any) -> None:
            shelf = await suite.connect()
            await shelf.set(suite.key(), "")
            await shelf.set_many({suite.key(): "", suite.key("x"): ""})
            await shelf.transact([Put(suite.key(), "")])
            await shelf.set("of nobody", "shared")

        self.assertEqual(self.left(body), {"before": "theirs", "of nobody": "shared"})

    def test_a_client_that_the_rule_closed_is_replaced(self) -> None:
        async def body(suite: Any) -> None:
            shelf = await suite.connect()
            await shelf.set(suite.key(), "")
            await shelf.close()

        self.assertEqual(self.left(body), {"before": "theirs"})

    def test_a_backend_of_one_client_goes_with_it(self) -> None:
        async def body(suite: Any) -> None:
            await (await suite.connect()).set("a" + suite.namespace, "")

        self.assertEqual(list(self.left(body, capabilities=()).values()), ["theirs", ""])

    def test_what_cannot_be_erased_does_not_change_the_verdict(self) -> None:
        class Stuck(Shelf):
            async def delete(self, name: str) -> None:
                raise UnavailableError("gone")

        async def body(suite: Any) -> None:
            await (await suite.connect()).set(suite.key(), "")

        outcome, _ = run(body, lambda: Stuck({}))
        self.assertEqual(outcome.outcome.value, "passed")


class TestLoop(unittest.TestCase):
    def debugging(self, environment: dict[str, str]) -> bool:
        seen: list[bool] = []

        async def body(suite: Any) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(asyncio.get_running_loop().get_debug())

        with mock.patch.dict(os.environ, environment):
            run(body)
        return seen[0]

    @unittest.skipIf(sys.flags.dev_mode, "Python's development mode keeps it")
    def test_the_debug_mode_of_the_test_case_is_left(self) -> None:
        self.assertFalse(self.debugging({"PYTHONASYNCIODEBUG": ""}))

    def test_the_debug_mode_is_kept_for_who_asks(self) -> None:
        self.assertTrue(self.debugging({"PYTHONASYNCIODEBUG": "1"}))
