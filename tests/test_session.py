"""What becomes of a rule: every kind of outcome, and the words of a failure."""

import re
import unittest
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from omnitck.kit.contract import Contract, rule
from omnitck.kit.session import NotProvoked
from omnitck.shared.exceptions import ConflictError, UnavailableError
from tests.helpers import outcome_of


class Judged(NamedTuple):
    status: str
    message: str
    told: str
    """What a unittest runner was told."""


async def call(self: Any) -> None:
    """The plainest rule: one call on one client."""
    await (await self.connect()).call()


def judge(provider: Callable[[], object] | None = None, body: Callable[..., Awaitable[None]] = call, **members: Any) -> Judged:
    """Run a suite of one rule, *body*, on *provider*; what became of it, without what differs from run to run."""
    needs, hook = members.pop("needs", ()), members.pop("hook", None)

    class ThingContract(Contract):
        name = "thing"
        prefix = "TH"
        protocols: ClassVar = dict.fromkeys(("extra", "more"), Protocol)

        @rule("TH-01", *needs, hook=hook)
        async def test_th_01_it_works(self) -> None:
            """A thing works."""
            await body(self)

    async def make_provider(self: Any) -> object:
        assert provider is not None
        return provider()

    members = {"__module__": "mine", **({"make_provider": make_provider} if provider else {}), **members}
    suite: Any = type("Things", (ThingContract, unittest.IsolatedAsyncioTestCase), members)
    outcome, result = outcome_of(suite)
    assert (outcome.suite, outcome.rule, result.testsRun) == ("mine.Things", "TH-01", 1)
    told = "".join(text for _, text in [*result.failures, *result.errors, *result.skipped])
    kind = "failure " if result.failures else "error " if result.errors else "skip " if result.skipped else "success"
    return Judged(outcome.outcome.value, masked(outcome.message), kind + masked(told))


def masked(text: str) -> str:
    """*text* without what differs from run to run."""
    for pattern, mask in (
        (r"omnitck[0-9a-f]{12}", "NAMESPACE"),
        (r"\+\d+\.\d ms", "+# ms"),
        (r"line \d+", "line #"),
        (r"(provider  )[\w.]+\.(?:<locals>\.)?", r"\1"),
    ):
        text = re.sub(pattern, mask, text)
    return text


class Working:
    async def call(self, *arguments: object) -> str:
        return "done"


def raising(error: BaseException) -> type:
    class Raising:
        async def call(self) -> None:
            raise error

    return Raising


class TestOutcomes(unittest.TestCase):
    def test_passed(self) -> None:
        self.assertEqual(judge(Working), ("passed", "", "success"))

    def test_failed_says_all_that_is_known(self) -> None:
        async def body(suite: Any) -> None:
            thing = await suite.connect()
            given = await thing.call(suite.key(), 1)
            suite.same(given, "won", given="call(name, 1)", hint="try harder")

        status, message, told = judge(Working, body)
        text = (
            "TH-01 [MUST] A thing works.\n"
            "  provider  Working\n"
            "  given     call(name, 1)\n"
            "  expected  'won'\n"
            "  observed  'done'\n"
            "  hint      try harder\n"
            "  trace     +# ms call('NAMESPACE-1', 1) -> 'done'\n"
            "  again     python -m unittest mine.Things.test_th_01_it_works"
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
            "  observed  KeyError: 'x', raised in test_session.py line #\n"
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
        message = "TH-01 could not be judged: HookError: Things has no make_provider: write it with `async def`."
        self.assertEqual(judge()[:2], ("error", message))

    def test_an_error_if_another_hook_raises(self) -> None:
        async def advance(self: Any, seconds: float) -> None:
            raise OSError("the clock is stuck")

        async def body(suite: Any) -> None:
            await suite.wait(1)

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
        async def body(suite: Any) -> None:
            suite.not_provoked("the store has one page")

        reason = "not provoked: the store has one page"
        self.assertEqual(judge(Working, body), ("not provoked", reason, f"skip {reason}"))

    def test_a_known_deviation_that_fails(self) -> None:
        reason = "known deviation: issue 7"
        judged = judge(raising(KeyError("x")), known_deviations={"TH-01": "issue 7"})
        self.assertEqual(judged, ("known deviation", reason, f"skip {reason}"))

    def test_a_known_deviation_that_passes_has_passed(self) -> None:
        self.assertEqual(judge(Working, known_deviations={"TH-01": "issue 7"}), ("passed", "", "success"))

    def test_a_known_deviation_excuses_no_error(self) -> None:
        self.assertEqual(judge(lambda: None, known_deviations={"TH-01": "issue 7"}).status, "error")


class TestCases(unittest.TestCase):
    """One rule, several cases."""

    @staticmethod
    async def three(suite: Any) -> None:
        for number in range(3):
            with suite.case(f"case {number}"):
                suite.same(number % 2, 1, given=str(number))

    def test_all_that_fail_are_reported_at_once(self) -> None:
        self.assertEqual(
            judge(Working, self.three).message,
            "TH-01 [MUST] A thing works.\n"
            "  case      case 0\n  given     0\n  expected  1\n  observed  0\n"
            "  case      case 2\n  given     2\n  expected  1\n  observed  0\n"
            "  again     python -m unittest mine.Things.test_th_01_it_works",
        )

    def test_many_are_counted(self) -> None:
        async def body(suite: Any) -> None:
            for number in range(9):
                with suite.case(f"case {number}"):
                    suite.same(number, "x", given="it")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual([each for each in lines if "  case " in each], [f"  case      case {n}" for n in range(5)])
        self.assertEqual(lines[-2], "  and 4 more cases")

    def test_an_exception_after_them_is_one_more(self) -> None:
        async def body(suite: Any) -> None:
            await self.three(suite)
            raise KeyError("late")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[-2], "  observed  KeyError: 'late', raised in test_session.py line #")

    def test_an_outage_after_one_does_not_excuse_it(self) -> None:
        async def body(suite: Any) -> None:
            await self.three(suite)
            raise UnavailableError("gone")

        self.assertEqual(judge(Working, body)[:2], judge(Working, self.three)[:2])

    def test_what_is_no_verdict_ends_the_rule(self) -> None:
        for error, status in ((UnavailableError("gone"), "error"), (NotProvoked("no page"), "not provoked")):

            async def body(suite: Any, error: Exception = error) -> None:
                with suite.case("first"):
                    raise error

            self.assertEqual(judge(Working, body).status, status)


class TestWords(unittest.TestCase):
    """What rules say."""

    def test_equal_values_of_different_types_are_not_the_same(self) -> None:
        async def body(suite: Any) -> None:
            suite.same(True, 1, given="a truth")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[2:4], ["  expected  1", "  observed  True"])

    def test_a_call_that_is_not_refused(self) -> None:
        async def body(suite: Any) -> None:
            await suite.refused(Working().call, (ConflictError, ValueError), given="call()")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[2:4], ["  expected  ConflictError or ValueError", "  observed  returned 'done'"])

    def test_a_call_that_is_refused_otherwise(self) -> None:
        async def body(suite: Any) -> None:
            await suite.refused(raising(KeyError("x"))().call, ConflictError, given="call()")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[2:4], ["  expected  ConflictError", "  observed  KeyError: 'x'"])

    def test_names_and_values_are_fresh(self) -> None:
        made: list[str] = []

        async def body(suite: Any) -> None:
            made.extend([suite.key(), suite.key("x"), suite.token(), suite.token(100)])

        judge(Working, body)
        judge(Working, body)
        self.assertEqual(len(set(made)), 8)
        self.assertEqual([masked(each) for each in made[:3]], ["NAMESPACE-1", "NAMESPACE-2-x", "NAMESPACE-3-v"])
        self.assertGreaterEqual(len(made[3]), 100)
