"""What a session makes of hostile providers: hanging, crashing, leaving, talkative; and how their clients live and end."""

import asyncio
import re
import time
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from unittest import mock

import anyio

from omnitck.kit import session
from omnitck.kit.contract import Contract, rule
from tests.helpers import outcome_of


class Judged(NamedTuple):
    status: str
    observed: str
    """What the failure says was observed, or the whole message if it says nothing of the kind."""
    message: str
    told: str
    """What a unittest runner was told."""


async def call(self: Any) -> None:
    """The plainest rule: one call on one client."""
    await (await self.connect()).call()


def judge(provider: Callable[[], object], body: Callable[..., Awaitable[None]] = call, **members: Any) -> Judged:
    """Run a suite of one rule, *body*, on *provider*."""

    class ThingContract(Contract):
        name = "thing"
        prefix = "TH"

        @rule("TH-01")
        async def test_th_01_it_works(self) -> None:
            """A thing works."""
            await body(self)

    async def make_provider(self: Any) -> object:
        return provider()

    suite: Any = type("Things", (ThingContract, unittest.IsolatedAsyncioTestCase), {"make_provider": make_provider, **members})
    outcome, result = outcome_of(suite)
    found = re.search(r"  observed  (.*)", outcome.message)
    told = "".join(text for _, text in [*result.failures, *result.errors, *result.skipped])
    return Judged(outcome.outcome.value, found[1] if found else outcome.message, outcome.message, told)


class Working:
    async def call(self) -> str:
        return "done"


def calling(method: Callable[..., Awaitable[object]], **members: Any) -> type:
    """A provider whose `call` is *method*."""
    return type("Thing", (), {"call": method, **members})


class TestDeadline(unittest.TestCase):
    def test_a_call_that_hangs(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        line = hang.__code__.co_firstlineno + 1
        judged = judge(calling(hang), deadline=0.05)
        self.assertEqual(
            judged[:2], ("failed", f"none: call() has not ended; it waited in test_session_providers.py line {line}")
        )
        self.assertIn("  expected  a verdict within 0.05 s\n", judged.message)

    def test_a_call_that_swallows_the_cancellation(self) -> None:
        async def swallow(self: Any) -> str:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass
            return "done"

        self.assertEqual(judge(calling(swallow), deadline=0.05)[:2], ("failed", "none: the rule did not end"))

    def test_a_call_that_blocks_the_loop(self) -> None:
        async def block(self: Any) -> None:
            time.sleep(0.2)  # noqa: ASYNC251  it is what the provider does wrong

        self.assertEqual(judge(calling(block), deadline=0.05)[:2], ("failed", "none: the rule did not end"))

    def test_a_factory_that_hangs(self) -> None:
        async def make_provider(self: Any) -> object:
            await anyio.sleep_forever()
            return Working()

        judged = judge(Working, make_provider=make_provider, deadline=0.05)
        self.assertEqual(judged[:2], ("failed", "none: make_provider() has not ended"))

    def test_a_rule_that_waits_for_what_never_comes(self) -> None:
        async def wait(self: Any) -> None:
            await self.connect()
            await anyio.sleep_forever()

        line = wait.__code__.co_firstlineno + 2
        judged = judge(Working, body=wait, deadline=0.05)
        self.assertEqual(judged.observed, f"none: the rule did not end; it waited in test_session_providers.py line {line}")

    def test_patience_prolongs_it(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        judged = judge(calling(hang), deadline=0.01, patience=3)
        self.assertIn("  expected  a verdict within 0.03 s\n", judged.message)


class TestLives(unittest.TestCase):
    def test_a_context_manager_may_hold_a_task_group_open(self) -> None:
        log: list[str] = []

        @asynccontextmanager
        async def serving() -> AsyncIterator[object]:
            asked = anyio.Event()
            answered = anyio.Event()

            async def serve() -> None:
                await asked.wait()
                log.append("served")
                answered.set()

            async def ask(self: Any) -> None:
                asked.set()
                await answered.wait()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve)
                yield calling(ask)()
                log.append("closing")

        self.assertEqual((judge(serving).status, log), ("passed", ["served", "closing"]))

    def test_a_background_task_that_crashes(self) -> None:
        @asynccontextmanager
        async def crashing() -> AsyncIterator[object]:
            async def crash() -> None:
                raise RuntimeError("connection lost")

            async def hang(self: Any) -> None:
                await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(crash)
                yield calling(hang)()

        judged = judge(crashing)
        self.assertEqual(judged[:2], ("failed", "one ended it with RuntimeError: connection lost"))
        self.assertIn("  expected  the provider's background tasks live as long as the provider\n", judged.message)

    def test_a_rule_that_fails_still_closes(self) -> None:
        log: list[str] = []

        async def fail(self: Any) -> None:
            raise KeyError("x")

        async def close(self: Any) -> None:
            log.append("closed")

        judge(calling(fail, aclose=close))
        self.assertEqual(log, ["closed"])

    def test_clients_are_closed_the_last_one_first(self) -> None:
        log: list[int] = []

        class Client:
            def close(self) -> None:
                log.append(clients.index(self))

        clients: list[Client] = []

        def connect() -> Client:
            clients.append(Client())
            return clients[-1]

        async def body(suite: Any) -> None:
            await suite.connect()
            await suite.connect()

        judge(connect, body)
        self.assertEqual(log, [1, 0])

    def test_a_close_that_raises(self) -> None:
        async def close(self: Any) -> None:
            raise OSError("already gone")

        judged = judge(calling(Working.call, close=close))
        self.assertEqual(judged[:2], ("failed", "OSError: already gone"))
        self.assertIn("  given     closing the client at the end of the rule\n  expected  no exception\n", judged.message)

    def test_a_close_that_hangs(self) -> None:
        async def close(self: Any) -> None:
            await anyio.sleep_forever()

        with mock.patch.object(session, "CLOSING_SECONDS", 0.05):
            judged = judge(calling(Working.call, close=close))
        self.assertEqual(judged[:2], ("failed", "it does not end"))
        self.assertIn("  expected  it ends within 0.05 s\n", judged.message)

    def test_a_broken_rule_is_said_rather_than_a_bad_close(self) -> None:
        async def fail(self: Any) -> None:
            raise KeyError("x")

        self.assertRegex(judge(calling(fail, close=fail)).message, r"observed  KeyError: 'x', raised in ")


class TestHostility(unittest.TestCase):
    def test_what_would_end_the_program_is_a_failure(self) -> None:
        for error, text in ((SystemExit(3), "SystemExit: 3"), (KeyboardInterrupt(), "KeyboardInterrupt")):

            async def leave(self: Any, error: BaseException = error) -> None:
                raise error

            self.assertEqual(judge(calling(leave))[:2], ("failed", f"{text}, which ends the whole program"))

    def test_an_exception_that_is_no_exception_is_a_failure(self) -> None:
        class Stop(BaseException):
            pass

        async def stop(self: Any) -> None:
            raise Stop("now")

        status, observed, *_ = judge(calling(stop))
        self.assertEqual(status, "failed")
        self.assertRegex(observed, r"^Stop: now, raised in test_session_providers.py line \d+$")

    def test_a_cancellation_of_its_own_is_a_failure(self) -> None:
        async def give_up(self: Any) -> None:
            raise asyncio.CancelledError

        self.assertEqual(judge(calling(give_up)).status, "failed")

    def test_a_cancellation_of_the_factorys_own_is_an_error(self) -> None:
        def give_up() -> object:
            raise asyncio.CancelledError

        self.assertEqual(judge(give_up).status, "error")

    def test_the_leaf_of_an_exception_group_is_shown(self) -> None:
        async def fail(self: Any) -> None:
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("x")])])

        self.assertRegex(judge(calling(fail)).observed, r"^KeyError: 'x'")

    def test_objects_that_cannot_be_shown(self) -> None:
        class Shy:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        class ShyError(Exception):
            def __str__(self) -> str:
                raise SystemExit(1)

        async def shy(self: Any) -> object:
            return Shy()

        async def fail(self: Any) -> None:
            raise ShyError

        async def body(suite: Any) -> None:
            suite.same(await (await suite.connect()).call(), "done", given="call()")

        self.assertEqual(judge(calling(shy), body).observed, "<Shy object, whose __repr__ raised RuntimeError>")
        self.assertRegex(judge(calling(fail)).observed, r"^ShyError, whose __str__ raised SystemExit, raised in ")

    def test_a_megabyte_is_shortened(self) -> None:
        async def talk(self: Any) -> str:
            return "x" * 1_000_000

        async def shout(self: Any) -> str:
            raise ValueError("x" * 1_000_000)

        async def body(suite: Any) -> None:
            suite.same(await (await suite.connect()).call(), "done", given="call()")

        self.assertEqual(judge(calling(talk), body).observed, f"'{'x' * 50}'...(1000000 long)...'{'x' * 50}'")
        judged = judge(calling(shout))
        self.assertLess(len(judged.message), 1000)
        self.assertLess(len(judged.told), 10_000)
