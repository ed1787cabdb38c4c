"""How one rule is judged: every kind of outcome, the deadline, hostile providers, and what is left behind."""

import asyncio
import time
import unittest
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import anyio
import anyio.lowlevel

from omnitck.common.cells import Cells
from omnitck.kit import session
from omnitck.kit.outcomes import Outcome, StaleDeviationWarning, listening
from omnitck.shared.exceptions import ClosedError, UnavailableError
from omnitck.shared.models import Put
from tests.helpers import outcome_of
from tests.kit.judging import Judged, Working, calling, judge, line_of, raising, thing


class TestOutcomes(unittest.TestCase):
    def test_passed(self) -> None:
        self.assertEqual(judge(Working), ("passed", "", "success"))

    def test_failed_says_all_that_is_known(self) -> None:
        async def body(t: Any) -> None:
            thing = await t.connect()
            given = await thing.call(t.key(), 1)
            t.same(given, "won", given="call(name, 1)", hint="try harder")

        status, message, told = judge(Working, body)
        text = (
            "TH-01 [MUST] A thing works.\n"
            "  provider  Working\n"
            "  given     call(name, 1)\n"
            "  expected  'won'\n"
            "  observed  'done'\n"
            "  hint      try harder\n"
            "  trace     +# ms call('NAMESPACE-1', 1) -> 'done'\n"
            "  again     python -m unittest mine.Suite.test_th_01_it_works"
        )
        self.assertEqual((status, message), ("failed", text))
        self.assertTrue(told.startswith("failure ") and told.endswith(f"omnitck.kit.outcomes.Violation: {text}\n"), told)

    def test_a_failure_names_the_capabilities_and_the_command_that_repeats_it(self) -> None:
        judged = judge(
            raising(KeyError("x")),
            needs=("extra", "more"),
            capabilities={"extra", "more"},
            again="omnitck {rule}",
        )
        self.assertEqual(
            judged.message,
            "TH-01 [extra + more] A thing works.\n"
            "  provider  Raising\n"
            "  expected  no exception\n"
            f"  observed  KeyError: 'x', raised in {line_of(raising(KeyError()).call, 1)}\n"
            "  trace     +# ms call() raised KeyError: 'x'\n"
            "  again     omnitck TH-01",
        )

    def test_an_error_if_the_factory_raises(self) -> None:
        def refuse() -> object:
            raise ConnectionError("no route")

        message = "TH-01 could not be judged: HookError: make_provider raised ConnectionError: no route"
        status, text, told = judge(refuse)
        self.assertEqual((status, text), ("error", message))
        self.assertTrue(told.startswith("error ") and told.endswith(f"RuleError: {message}\n"), told)

    def test_an_error_if_the_factory_raises_no_exception_but_an_exit(self) -> None:
        def leave() -> object:
            raise SystemExit(3)

        message = "TH-01 could not be judged: HookError: make_provider raised SystemExit: 3"
        self.assertEqual(judge(leave)[:2], ("error", message))

    def test_an_error_if_the_factory_returns_none(self) -> None:
        self.assertEqual(
            judge(lambda: None)[:2],
            (
                "error",
                "TH-01 could not be judged: HookError: make_provider returned None: "
                "return the provider, or an async context manager that yields it.",
            ),
        )

    def test_an_error_if_there_is_no_factory(self) -> None:
        message = "TH-01 could not be judged: HookError: Suite has no make_provider: write it with `async def`."
        self.assertEqual(judge()[:2], ("error", message))

    def test_an_error_if_another_hook_raises(self) -> None:
        async def advance(self: Any, seconds: float) -> None:
            raise OSError("the clock is stuck")

        async def body(t: Any) -> None:
            await t.wait(1)

        message = "TH-01 could not be judged: HookError: advance raised OSError: the clock is stuck"
        self.assertEqual(judge(Working, body, advance=advance)[:2], ("error", message))

    def test_an_error_if_the_backend_is_unavailable(self) -> None:
        message = "TH-01 could not be judged: UnavailableError: gone"
        self.assertEqual(judge(raising(UnavailableError("gone")))[:2], ("error", message))

    def test_not_declared_opens_no_provider(self) -> None:
        reason = "not declared: extra, more"
        self.assertEqual(judge(needs=("more", "extra")), ("not declared", reason, f"skip {reason}"))

    def test_not_provoked_without_the_hook(self) -> None:
        reason = "not provoked: the suite has no credentials"
        self.assertEqual(judge(hook="credentials"), ("not provoked", reason, f"skip {reason}"))
        self.assertEqual(judge(Working, hook="credentials", credentials=("secret",)).status, "passed")

    def test_not_provoked_as_the_rule_finds(self) -> None:
        async def body(t: Any) -> None:
            t.not_provoked("the store has one page")

        reason = "not provoked: the store has one page"
        self.assertEqual(judge(Working, body), ("not provoked", reason, f"skip {reason}"))

    def test_a_known_deviation_that_fails(self) -> None:
        judged = judge(raising(KeyError("x")), known_deviations={"TH-01": "issue 7"})
        self.assertEqual((judged.status, judged.told), ("known deviation", "skip known deviation: issue 7"))
        self.assertTrue(judged.message.startswith("TH-01 [MUST] A thing works.\n"), judged.message)
        self.assertIn("KeyError: 'x'", judged.observed)

    def test_a_known_deviation_that_passes_has_passed_and_is_called_stale(self) -> None:
        with self.assertWarns(StaleDeviationWarning) as caught:
            judged = judge(Working, known_deviations={"TH-01": "issue 7"})
        self.assertEqual(judged, ("passed", "", "success"))
        self.assertEqual(
            str(caught.warning),
            "mine.Suite: TH-01 is a known deviation and passes: take it out of known_deviations, whose reason was: issue 7",
        )

    def test_a_stale_deviation_is_not_told_twice_where_a_report_tells_of_it(self) -> None:
        suite = thing(Working, known_deviations={"TH-01": "issue 7"})
        told: list[str] = []
        with (
            warnings.catch_warnings(action="error"),
            listening(lambda _, outcome: told.append(outcome.outcome), reporting=suite),
        ):
            suite("test_th_01_it_works").run(result := unittest.TestResult())
        self.assertEqual((told, result.errors, result.failures), (["passed"], [], []))

    def test_a_stale_deviation_is_told_where_it_was_declared(self) -> None:
        class Declared(thing(Working)):  # type: ignore[misc]
            known_deviations: ClassVar = {"TH-01": "issue 7"}

        with self.assertWarns(StaleDeviationWarning) as caught:
            Declared("test_th_01_it_works").run(unittest.TestResult())
        self.assertEqual(caught.filename, __file__)
        source = Path(__file__).read_text("utf-8").splitlines()
        self.assertIn("class Declared", source[caught.lineno - 1])

    def test_a_known_deviation_excuses_no_error(self) -> None:
        self.assertEqual(judge(lambda: None, known_deviations={"TH-01": "issue 7"}).status, "error")


def found(judged: Judged) -> tuple[str, str]:
    return judged.status, judged.observed


class TestWaits(unittest.TestCase):
    """A wait is measured by the time that the event loop had."""

    def test_a_loop_that_came_to_a_halt_is_given_what_it_lost(self) -> None:
        async def body(t: Any) -> None:
            told = anyio.Event()

            async def busy() -> None:
                await anyio.sleep(0.02)
                time.sleep(0.4)  # noqa: ASYNC251  another task has the loop, for longer than the whole wait
                await anyio.sleep(0.02)
                told.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(busy)
                with t.waiting(0.2) as scope:
                    await told.wait()
            t.check(not scope.cancelled_caught, given="a wait", expected="it is told", observed="it is not")

        self.assertEqual(judge(Working, body).status, "passed")

    def test_a_wait_that_a_busy_loop_prolongs_beyond_the_deadline_passes_no_rule(self) -> None:
        async def body(t: Any) -> None:
            await t.connect()

            async def keep_busy() -> None:
                while True:
                    time.sleep(0.005)  # noqa: ASYNC251
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_busy)
                with t.waiting(0.02) as scope:
                    await anyio.sleep_forever()
                tasks.cancel_scope.cancel()
            t.fail_rule(given="a wait", expected="an answer", observed=f"nothing: {scope.cancelled_caught}")

        judged = judge(Working, body, deadline=0.1)
        self.assertEqual((judged.status, judged.observed), ("failed", "nothing: True"))

    def test_a_provider_sees_that_there_is_a_deadline(self) -> None:
        async def body(t: Any) -> None:
            with t.waiting(30.0):
                t.check(anyio.current_effective_deadline() < float("inf"), given="it", expected="a deadline", observed="none")

        self.assertEqual(judge(Working, body, deadline=0.1).status, "passed")

    def test_what_is_late_on_a_loop_that_runs_is_late(self) -> None:
        async def body(t: Any) -> None:
            began = time.monotonic()
            with t.waiting(0.1) as scope:
                await anyio.sleep(5)
            t.check(not scope.cancelled_caught, given="a wait", expected="it is told", observed="it is not")
            t.check(time.monotonic() - began > 5, given="a wait", expected="it is over", observed="it is not")

        began = time.monotonic()
        self.assertEqual(judge(Working, body).status, "failed")
        self.assertLess(time.monotonic() - began, 4)

    def test_on_a_loop_that_is_always_late_a_wait_has_an_end_too(self) -> None:
        async def body(t: Any) -> None:
            async def busy() -> None:
                while True:
                    time.sleep(0.005)  # noqa: ASYNC251
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(busy)
                with t.waiting(0.02) as scope:
                    await anyio.sleep_forever()
                tasks.cancel_scope.cancel()
            t.check(not scope.cancelled_caught, given="a wait", expected="it is told", observed="it is not")

        self.assertEqual(judge(Working, body).status, "failed")


class TestDeadline(unittest.TestCase):
    def test_a_call_that_hangs(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        judged = judge(calling(hang), deadline=0.05)
        self.assertEqual(judged.status, "failed")
        self.assertEqual(judged.observed, f"none: call() has not ended; it waited in {line_of(hang, 1)}")
        self.assertIn("  expected  a verdict within 0.05 s\n", judged.message)

    def test_a_call_that_swallows_the_cancellation(self) -> None:
        async def swallow(self: Any) -> str:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass
            return "done"

        self.assertEqual(found(judge(calling(swallow), deadline=0.05)), ("failed", "none: the rule did not end"))

    def test_a_call_that_blocks_the_loop(self) -> None:
        async def block(self: Any) -> None:
            time.sleep(0.2)  # noqa: ASYNC251  it is what the provider does wrong

        self.assertEqual(found(judge(calling(block), deadline=0.05)), ("failed", "none: the rule did not end"))

    def test_a_factory_that_hangs_is_an_error_as_one_that_raises(self) -> None:
        async def make_provider(self: Any) -> object:
            await anyio.sleep_forever()
            return Working()

        judged = judge(Working, make_provider=make_provider, deadline=0.05)
        self.assertEqual(judged.status, "error")
        self.assertIn("could not be judged: HookError: make_provider() has not ended after 0.05 s.", judged.message)

    def test_a_rule_that_waits_for_what_never_comes(self) -> None:
        async def wait(t: Any) -> None:
            await t.connect()
            await anyio.sleep_forever()

        judged = judge(Working, body=wait, deadline=0.05)
        self.assertEqual(judged.observed, f"none: the rule did not end; it waited in {line_of(wait, 2)}")

    def test_patience_prolongs_it(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        judged = judge(calling(hang), deadline=0.01, patience=3)
        self.assertIn("  expected  a verdict within 0.03 s\n", judged.message)


class TestBackend(unittest.TestCase):
    """What the suite says of it stands in a failure's text."""

    def described(self, describe: Any, **more: Any) -> str:
        return judge(raising(KeyError("x")), describe_backend=describe, **more).message

    def test_its_last_lines_are_shown(self) -> None:
        async def describe(self: Any) -> str:
            return "\n".join(map(str, range(30)))

        told = self.described(describe)
        self.assertIn("  backend   ... and 10 more lines before\n            10\n            11\n", told)
        self.assertIn("            29\n  again     ", told)

    def test_what_it_must_not_say_is_masked(self) -> None:
        async def describe(self: Any) -> str:
            return "user=me password=correct-horse"

        self.assertIn("  backend   user=me password=***\n", self.described(describe, credentials=("correct-horse",)))

    def test_one_that_cannot_be_asked_hides_nothing(self) -> None:
        async def fail(self: Any) -> str:
            raise LookupError("no log")

        async def hang(self: Any) -> str:
            await anyio.sleep_forever()
            raise AssertionError

        self.assertIn("  backend   describe_backend raised LookupError: no log\n", self.described(fail))
        told = self.described(hang, patience=0.01)
        self.assertIn("  backend   describe_backend had not ended after 0.05 s\n", told)
        self.assertIn("  observed  KeyError: 'x'", told)

    def test_it_is_not_asked_where_nothing_failed(self) -> None:
        async def describe(self: Any) -> str:
            raise AssertionError

        self.assertEqual(judge(Working, describe_backend=describe).status, "passed")


class TestHostility(unittest.TestCase):
    def test_what_would_end_the_program_is_a_failure(self) -> None:
        for error, text in ((SystemExit(3), "SystemExit: 3"), (KeyboardInterrupt(), "KeyboardInterrupt")):

            async def leave(self: Any, error: BaseException = error) -> None:
                raise error

            self.assertEqual(
                found(judge(calling(leave))), ("failed", f"{text}, which ends the whole program, raised in {line_of(leave, 1)}")
            )

    def test_an_exception_that_is_no_exception_is_a_failure(self) -> None:
        class Stop(BaseException):
            pass

        async def stop(self: Any) -> None:
            raise Stop("now")

        judged = judge(calling(stop))
        self.assertEqual((judged.status, judged.observed), ("failed", f"Stop: now, raised in {line_of(stop, 1)}"))

    def test_a_cancellation_of_its_own_is_a_failure(self) -> None:
        async def give_up(self: Any) -> None:
            raise asyncio.CancelledError

        self.assertEqual(judge(calling(give_up)).status, "failed")

    def test_a_provider_that_cancels_its_caller_is_a_failure(self) -> None:
        async def cancel_and_wait(self: Any) -> None:
            cancel_caller()
            await anyio.lowlevel.checkpoint()

        async def cancel_and_return(self: Any) -> None:
            cancel_caller()

        def cancel_caller() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        for method in (cancel_and_wait, cancel_and_return):
            with self.subTest(method.__name__):
                judged = judge(calling(method))
                self.assertEqual((judged.status, judged.observed), ("failed", "CancelledError"))
                self.assertIn("  hint      an operation raised it, or cancelled the task that called it\n", judged.message)

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

        async def body(t: Any) -> None:
            t.same(await (await t.connect()).call(), "done", given="call()")

        self.assertEqual(judge(calling(shy), body).observed, "<Shy object, whose __repr__ raised RuntimeError>")
        self.assertRegex(judge(calling(fail)).observed, r"^ShyError, whose __str__ raised SystemExit, raised in ")

    def test_a_megabyte_is_shortened(self) -> None:
        async def talk(self: Any) -> str:
            return "x" * 1_000_000

        async def shout(self: Any) -> str:
            raise ValueError("x" * 1_000_000)

        async def body(t: Any) -> None:
            t.same(await (await t.connect()).call(), "done", given="call()")

        self.assertEqual(judge(calling(talk), body).observed, f"'{'x' * 50}'...(1000000 long)...'{'x' * 50}'")
        judged = judge(calling(shout))
        self.assertLess(len(judged.message), 1000)
        self.assertLess(len(judged.told), 10_000)


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
    body: Callable[[Any], Awaitable[None]], provider: Callable[[], object] = object, **members: Any
) -> tuple[Outcome, unittest.TestResult]:
    """Run the rule *body* on *provider*."""
    define = {"cells": ShelfCells(), "protocols": {"shared": Shelf}}
    suite = thing(provider, body, define=define, **{"capabilities": {"shared"}, **members})
    return outcome_of(suite, "test_th_01_it_works")


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
        async def body(t: Any) -> None:
            await (await t.connect()).set(f"name {SECRET}", "")
            with t.case(f"with {SECRET}"):
                t.same(f"observed {SECRET}", f"expected {SECRET}", given=f"given {SECRET}", hint=f"hint {SECRET}")
            t.same(f"too {SECRET}", "", given="the second")

        judged = run(body, lambda: Shelf({}), credentials=("swordfish", SECRET))
        self.check(*judged, "failed", "observed ***")

    def test_in_what_a_provider_raises(self) -> None:
        async def body(t: Any) -> None:
            raise KeyError(f"password={SECRET}")

        self.check(*run(body, credentials=(SECRET,)), "failed", "password=***")

    def test_in_what_the_factory_raises(self) -> None:
        async def body(t: Any) -> None:
            await t.connect()

        def refuse() -> object:
            raise ConnectionError(f"cannot log in with {SECRET}")

        self.check(*run(body, refuse, credentials=(SECRET,)), "error", "cannot log in with ***")

    def test_in_what_a_backend_that_is_out_of_reach_says(self) -> None:
        async def body(t: Any) -> None:
            raise UnavailableError(f"no answer from //me:{SECRET}@host") from OSError(SECRET)

        self.check(*run(body, credentials=(SECRET,)), "error", "//me:***@host")

    def test_in_the_command_that_repeats_the_rule(self) -> None:
        async def body(t: Any) -> None:
            t.fail_rule(given="", expected="", observed="it")

        self.check(*run(body, credentials=(SECRET,), again=f"certify --password {SECRET}"), "failed", "--password ***")


class TestTidiness(unittest.TestCase):
    def left(self, body: Callable[..., Awaitable[None]], **members: Any) -> dict[str, str]:
        backend = {"before": "theirs"}
        outcome, _ = run(body, lambda: Shelf(backend), **members)
        self.assertEqual((outcome.outcome.value, outcome.message), ("passed", ""))
        return backend

    def test_what_the_rule_wrote_is_erased_and_nothing_else(self) -> None:
        async def body(t: Any) -> None:
            shelf = await t.connect()
            await shelf.set(t.key(), "")
            await shelf.set_many({t.key(): "", t.key("x"): ""})
            await shelf.transact([Put(t.key(), "")])
            await shelf.set("of nobody", "shared")

        self.assertEqual(self.left(body), {"before": "theirs", "of nobody": "shared"})

    def test_a_client_that_the_rule_closed_is_replaced(self) -> None:
        async def body(t: Any) -> None:
            shelf = await t.connect()
            await shelf.set(t.key(), "")
            await shelf.close()

        self.assertEqual(self.left(body), {"before": "theirs"})

    def test_a_client_behind_a_proxy_that_has_gone_is_replaced(self) -> None:
        backend = {"before": "theirs"}

        class Waiting(Shelf):
            """It waits for the network."""

            async def delete(self, name: str) -> None:
                await anyio.sleep_forever()

        async def make_provider(self: Any, *, address: tuple[str, int] | None = None) -> Shelf:
            return Shelf(backend) if address is None else Waiting(backend)

        async def body(t: Any) -> None:
            await (await t.connect(address=("proxy", 1))).set(t.key(), "")

        began = time.monotonic()
        run(body, make_provider=make_provider)
        self.assertEqual(backend, {"before": "theirs"})
        self.assertLess(time.monotonic() - began, 2)

    def test_a_backend_of_one_client_goes_with_it(self) -> None:
        async def body(t: Any) -> None:
            await (await t.connect()).set("a" + t.namespace, "")

        self.assertEqual(list(self.left(body, capabilities=()).values()), ["theirs", ""])

    def test_what_cannot_be_erased_does_not_change_the_verdict(self) -> None:
        class Stuck(Shelf):
            async def delete(self, name: str) -> None:
                raise UnavailableError("gone")

        async def body(t: Any) -> None:
            await (await t.connect()).set(t.key(), "")

        outcome, _ = run(body, lambda: Stuck({}))
        self.assertEqual(outcome.outcome.value, "passed")


class TestLoop(unittest.TestCase):
    def debugging(self, *, asked_for: bool) -> bool:
        seen: list[bool] = []

        async def body(t: Any) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(asyncio.get_running_loop().get_debug())

        with mock.patch.object(session, "DEBUGGED", asked_for):
            run(body)
        return seen[0]

    def test_the_debug_mode_of_the_test_case_is_left(self) -> None:
        self.assertFalse(self.debugging(asked_for=False))

    def test_the_debug_mode_is_kept_for_who_asks(self) -> None:
        self.assertTrue(self.debugging(asked_for=True))
