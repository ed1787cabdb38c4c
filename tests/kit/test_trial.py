"""The words in which rules are written."""

import time
import unittest
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from unittest import mock

import anyio
import anyio.lowlevel

from omnitck.common.cells import Cells
from omnitck.kit.concurrency import Attempt, gather
from omnitck.kit.definition import Operation
from omnitck.kit.rules import needs
from omnitck.kit.session import NotProvoked
from omnitck.kit.trial import MOST_TRIES
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, UnavailableError
from omnitck.shared.models import CacheLimits, Change, Entry, Limits, SecretLimits
from tests.kit.judging import Judged, Working, judge, line_of, masked, raising


class TestWords(unittest.TestCase):
    """What rules say, and the verdicts that come of it."""

    def test_a_record_or_a_container_may_be_of_a_subclass(self) -> None:
        class OwnEntry(Entry):
            """A record of the provider's own."""

        async def body(t: Any) -> None:
            t.same(OwnEntry("value", "1"), Entry("value", "1"), given="a record")
            t.same(OrderedDict(b=1, a=2), {"a": 2, "b": 1}, given="a mapping")
            t.same([OwnEntry("value", "1")], [Entry("value", "1")], given="records in a list")

        self.assertEqual(judge(Working, body).status, "passed")

    def test_what_is_in_them_has_to_be_the_same(self) -> None:
        class Text(str):
            """Text that does more than text."""

        for observed, expected in (
            (Text("value"), "value"),
            ({"key": Text("value")}, {"key": "value"}),
            ([True], [1]),
            (Entry("another", "1"), Entry("value", "1")),
            (Entry(Text("value"), "1"), Entry("value", "1")),
            (Change("value", "1"), Entry("value", "1")),
            ({"key": 1, "more": 2}, {"key": 1}),
            ([1, 2], [1]),
            ((1,), [1]),
        ):
            with self.subTest(observed=observed):

                async def body(t: Any, observed: object = observed, expected: object = expected) -> None:
                    t.same(observed, expected, given="it")

                self.assertEqual(judge(Working, body).status, "failed")

    def test_equal_values_of_different_types_are_not_the_same(self) -> None:
        async def body(t: Any) -> None:
            t.same(True, 1, given="a truth")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[2:4], ["  expected  1", "  observed  True"])

    def test_a_call_that_is_not_refused(self) -> None:
        async def body(t: Any) -> None:
            await t.refused(Working().call, (ConflictError, ValueError), given="call()")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[2:4], ["  expected  ConflictError or ValueError", "  observed  returned 'done'"])

    def test_a_call_that_is_refused_otherwise(self) -> None:
        async def body(t: Any) -> None:
            await t.refused(raising(KeyError("x"))().call, ConflictError, given="call()")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(
            lines[2:4],
            ["  expected  ConflictError", f"  observed  KeyError: 'x', raised in {line_of(raising(KeyError()).call, 1)}"],
        )

    def test_names_and_values_are_fresh(self) -> None:
        made: list[str] = []

        async def body(t: Any) -> None:
            made.extend([t.key(), t.key("x"), t.token(), t.token(100)])

        judge(Working, body)
        judge(Working, body)
        self.assertEqual(len(set(made)), 8)
        self.assertEqual([masked(each) for each in made[:3]], ["NAMESPACE-1", "NAMESPACE-2-x", "NAMESPACE-3-v"])
        self.assertGreaterEqual(len(made[3]), 100)

    def outcome(self, body: Callable[[Any], Awaitable[None]]) -> tuple[str, str]:
        class PickyCells(Cells[Any]):
            def may_refuse(self, name: str) -> bool:
                return name == "odd"

        return judge(Working, body, define={"cells": PickyCells()})[:2]

    def test_a_name_that_may_be_refused_ends_its_block(self) -> None:
        async def body(t: Any) -> None:
            with t.refusable("odd", "plain"):
                raise InvalidArgumentError("odd is not for me")

        self.assertEqual(self.outcome(body), ("passed", ""))

    def test_a_name_that_must_be_taken_may_not_be_refused(self) -> None:
        async def body(t: Any) -> None:
            with t.refusable("plain"):
                raise InvalidArgumentError("plain is not for me")

        status, message = self.outcome(body)
        self.assertEqual(status, "failed")
        self.assertIn("InvalidArgumentError: plain is not for me", message)

    def test_a_change_is_tried_until_it_meets_no_conflict(self) -> None:
        tries = []

        async def body(t: Any) -> None:
            async def change() -> str:
                tries.append(1)
                if len(tries) < 3:
                    raise ConflictError("somebody else was faster")
                return "done"

            t.same(await t.retry(change), "done", given="a change")

        self.assertEqual(self.outcome(body), ("passed", ""))
        self.assertEqual(len(tries), 3)

    def test_a_change_that_always_meets_a_conflict_is_a_failure_in_the_end(self) -> None:
        async def body(t: Any) -> None:
            async def change() -> None:
                raise ConflictError("always")

            await t.retry(change)

        status, message = self.outcome(body)
        self.assertEqual(status, "failed")
        self.assertIn(f"tried {MOST_TRIES} times", message)

    def test_one_winner_is_found(self) -> None:
        lost: Attempt[str] = Attempt(error=ConflictError("lost"))

        async def body(t: Any) -> None:
            t.same(t.one_winner([lost, Attempt("won"), lost], "a race"), 1, given="the winner")

        self.assertEqual(self.outcome(body), ("passed", ""))

    def test_two_winners_and_another_error_are_failures(self) -> None:
        for tried, observed in (
            ([Attempt("a"), Attempt("b")], "2 successes, 0 other errors"),
            ([Attempt("a"), Attempt(error=KeyError("k"))], "1 successes, 1 other errors KeyError: 'k'"),
        ):

            async def body(t: Any, tried: Any = tried) -> None:
                t.one_winner(tried, "a race")

            status, message = self.outcome(body)
            self.assertEqual(status, "failed")
            self.assertIn("1 success, 1 ConflictError", message)
            self.assertIn(observed, message)

    def test_a_listing_is_compared_without_its_order(self) -> None:
        async def body(t: Any) -> None:
            t.check_listing(iter(["b", "a"]), {"a", "b"}, "a listing")

        self.assertEqual(self.outcome(body), ("passed", ""))

    def test_what_is_wrong_with_a_listing_is_said(self) -> None:
        async def body(t: Any) -> None:
            t.check_listing(["a", "a", "x"], ["a", "b"], "a listing")

        _, message = self.outcome(body)
        self.assertIn("1 missing, 'b' for one; 1 that should not be there, 'x' for one; 1 repeated", message)
        self.assertIn("2 names, each once", message)


class TestCases(unittest.TestCase):
    """One rule, several cases."""

    @staticmethod
    async def three(t: Any) -> None:
        for number in range(3):
            with t.case(f"case {number}"):
                t.same(number % 2, 1, given=str(number))

    def test_all_that_fail_are_reported_at_once(self) -> None:
        self.assertEqual(
            judge(Working, self.three).message,
            "TH-01 [MUST] A thing works.\n"
            "  case      case 0\n  given     0\n  expected  1\n  observed  0\n"
            "  case      case 2\n  given     2\n  expected  1\n  observed  0\n"
            "  again     python -m unittest mine.Suite.test_th_01_it_works",
        )

    def test_many_are_counted(self) -> None:
        async def body(t: Any) -> None:
            for number in range(9):
                with t.case(f"case {number}"):
                    t.same(number, "x", given="it")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual([each for each in lines if "  case " in each], ["  case      case 0", "  case      case 1"])
        self.assertEqual(lines[-2], f"  and 7 more cases: {', '.join(f'case {n}' for n in range(2, 9))}")

    def test_those_that_say_the_same_are_told_together(self) -> None:
        async def body(t: Any) -> None:
            for number in range(5):
                with t.case(f"case {number}"):
                    t.same(number // 4, "x", given="it")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(
            [each for each in lines if "  case " in each], ["  case      case 0, case 1, case 2, case 3", "  case      case 4"]
        )

    def test_an_exception_after_them_is_one_more(self) -> None:
        async def body(t: Any) -> None:
            await self.three(t)
            raise KeyError("late")

        lines = judge(Working, body).message.splitlines()
        self.assertEqual(lines[-2], f"  and 1 more case: KeyError: 'late', raised in {line_of(body, 2)}")

    def test_an_outage_after_one_does_not_excuse_it(self) -> None:
        async def body(t: Any) -> None:
            await self.three(t)
            raise UnavailableError("gone")

        self.assertEqual(judge(Working, body)[:2], judge(Working, self.three)[:2])

    def test_what_is_no_verdict_ends_the_rule(self) -> None:
        for error, status in ((UnavailableError("gone"), "error"), (NotProvoked("no page"), "not provoked")):

            async def body(t: Any, error: Exception = error) -> None:
                with t.case("first"):
                    raise error

            self.assertEqual(judge(Working, body).status, status)


class TestDeclarations(unittest.TestCase):
    """What the suite declares, as a rule sees it."""

    def seen(self, look: Callable[[Any], object], provider: Callable[[], object] = Working, **more: Any) -> object:
        """What *look* makes of the trial, once a client is connected."""
        seen: list[object] = []

        async def body(t: Any) -> None:
            await t.connect()
            seen.append(look(t))

        judge(provider, body, **more)
        return seen[0]

    def test_a_capability_is_offered_where_it_is_declared_and_the_core_always(self) -> None:
        offered = self.seen(lambda t: [t.offers(each) for each in ("", "extra", "more")], capabilities={"extra"})
        self.assertEqual(offered, [True, True, False])

    def test_of_a_table_only_what_is_declared(self) -> None:
        table = {"a": ("", 1), "b": ("extra", 2), "c": ("more", 3)}
        self.assertEqual(self.seen(lambda t: t.declared_of(table), capabilities={"extra"}), {"a": 1, "b": 2})

    def test_a_verb_can_be_used_where_what_it_takes_is_declared(self) -> None:
        class NamingCells(Cells[Any]):
            @needs("extra")
            async def names(self, provider: Any, prefix: str) -> list[str]:
                return []

        def look(t: Any) -> list[bool]:
            return [t.can("write"), t.can("names"), t.can("create")]

        define = {"cells": NamingCells()}
        self.assertEqual(self.seen(look, define=define, capabilities={"extra"}), [True, True, False])
        self.assertEqual(self.seen(look, define=define), [True, False, False])

    def test_a_class_of_cells_is_made_for_each_trial(self) -> None:
        class OwnCells(Cells[Any]):
            def __init__(self, trial: Any) -> None:
                self.trial = trial

        self.assertTrue(self.seen(lambda t: t.cells.trial is t, define={"cells": OwnCells}))

    def test_the_limits_in_force_are_the_suites_or_else_the_providers_or_the_floors(self) -> None:
        def numbers(limits: Limits | None, provider: Callable[[], object]) -> object:
            return self.seen(lambda t: t.numbers(), provider, limits=limits)

        own = type("Own", (), {"limits": Limits(key_bytes=300)})
        odd = type("Odd", (), {"limits": "none"})
        self.assertEqual(numbers(Limits(key_bytes=400), own), Limits(key_bytes=400))
        self.assertEqual(numbers(None, own), Limits(key_bytes=300))
        self.assertEqual(numbers(None, odd), Limits())
        unusable = type("Unusable", (), {"limits": Limits(key_bytes="many", page_size=7)})  # type: ignore[arg-type]
        self.assertEqual(numbers(None, unusable), Limits(page_size=7))

    def test_limits_of_another_class_are_taken_as_far_as_they_say_something_of_the_contracts(self) -> None:
        for given, expected in (
            (Limits(key_bytes=300), CacheLimits(key_bytes=300)),
            (SecretLimits(key_bytes=300), CacheLimits()),
        ):
            provider = type("Own", (), {"limits": given})
            self.assertEqual(self.seen(lambda t: t.numbers(), provider, define={"limits": CacheLimits}), expected)

    def test_the_floors_are_those_of_the_contract(self) -> None:
        self.assertEqual(self.seen(lambda t: t.numbers(), define={"limits": CacheLimits}), CacheLimits())

    def test_the_seed_is_that_of_the_run(self) -> None:
        with mock.patch.dict("os.environ", OMNITCK_SEED="7"):
            self.assertEqual(self.seen(lambda t: t.seed), 7)


class TestClients(unittest.TestCase):
    """Connecting."""

    def test_several_are_one_where_a_backend_is_not_shared(self) -> None:
        counts: list[int] = []

        async def body(t: Any) -> None:
            counts.append(len({id(each) for each in await t.clients(3)}))

        judge(Working, body)
        judge(Working, body, define={"protocols": {"shared": Working}}, capabilities={"shared"})
        self.assertEqual(counts, [1, 3])

    def test_the_factory_is_given_the_tenant(self) -> None:
        given: list[object] = []

        async def make_provider(self: Any, *, tenant_id: str | None = None) -> Working:
            given.append(tenant_id)
            return Working()

        async def body(t: Any) -> None:
            await t.connect(tenant_id="a")
            await t.connect()

        judge(Working, body, make_provider=make_provider)
        self.assertEqual(given, ["a", None])

    async def refusing(self, t: Any) -> None:
        await t.refused_at_connect((InvalidArgumentError, ConflictError), given="a tenant", tenant_id="a/b")

    def refused(self, provider: Callable[[], object], body: Any = None) -> Judged:
        async def make_provider(self: Any, *, tenant_id: str | None = None) -> object:
            return provider()

        return judge(provider, body or self.refusing, make_provider=make_provider)

    def test_a_refusal_is_returned(self) -> None:
        error = InvalidArgumentError("a/b")
        seen: list[BaseException] = []

        def refuse() -> object:
            raise error

        async def body(t: Any) -> None:
            seen.append(await t.refused_at_connect(InvalidArgumentError, given="a tenant", tenant_id="a/b"))

        self.assertEqual((self.refused(refuse, body).status, seen), ("passed", [error]))

    def test_a_provider_that_should_have_been_refused(self) -> None:
        judged = self.refused(Working)
        self.assertEqual((judged.status, judged.observed), ("failed", "a provider"))
        self.assertIn("  expected  InvalidArgumentError or ConflictError\n", judged.message)

    def test_another_refusal(self) -> None:
        def refuse() -> object:
            raise KeyError("a/b")

        judged = self.refused(refuse)
        self.assertEqual((judged.status, judged.observed), ("failed", "KeyError: 'a/b'"))

    def test_no_factory_is_no_refusal(self) -> None:
        self.assertEqual(judge(None, self.refusing).status, "error")
        self.assertEqual(self.refused(lambda: None).status, "error")

    def test_a_client_that_crashed_is_not_closed_by_the_kit(self) -> None:
        log: list[str] = []

        class Door(Working):
            def close(self) -> None:
                log.append("closed")

        async def crash(self: Any, client: Any) -> None:
            log.append(f"crashed {type(client).__name__}")

        async def body(t: Any) -> None:
            await t.crash(await t.connect())

        self.assertEqual(judge(Door, body, crash=crash).status, "passed")
        self.assertEqual(log, ["crashed Door"])


class TestHooks(unittest.TestCase):
    """Asking the suite."""

    def test_a_hook_gets_what_its_signature_takes(self) -> None:
        given: list[object] = []

        async def backend_address(self: Any, *, namespace: str) -> None:
            given.append(namespace)

        async def cut(self: Any, **config: Any) -> None:
            given.append(config)

        async def heal(self: Any) -> None:
            given.append(None)

        async def body(t: Any) -> None:
            for hook in ("backend_address", "cut", "heal"):
                await t.ask(hook, tenant_id="a", client=None)

        judge(Working, body, backend_address=backend_address, cut=cut, heal=heal)
        namespace = given[0]
        self.assertEqual(given, [namespace, {"namespace": namespace, "tenant_id": "a"}, None])

    def test_its_answer_is_the_rules(self) -> None:
        async def backend_address(self: Any) -> tuple[str, int]:
            return "host", 1

        async def body(t: Any) -> None:
            t.same(await t.ask("backend_address"), ("host", 1), given="the address")

        self.assertEqual(judge(Working, body, backend_address=backend_address).status, "passed")

    def test_one_that_is_not_there_is_an_error_that_says_what_to_write(self) -> None:
        async def body(t: Any) -> None:
            await t.connect()
            await t.ask("cut", instead="break")

        self.assertEqual(
            judge(Working, body)[:2],
            (
                "error",
                "TH-01 could not be judged: HookError: Suite has no cut, and Working has no break: "
                "write the hook with `async def`.",
            ),
        )

    def test_one_that_is_not_implemented_inside_is_its_own_error(self) -> None:
        async def cut(self: Any) -> None:
            raise NotImplementedError("no proxy here")

        async def body(t: Any) -> None:
            await t.ask("cut")

        message = "TH-01 could not be judged: HookError: cut raised NotImplementedError: no proxy here"
        self.assertEqual(judge(Working, body, cut=cut)[:2], ("error", message))

    def test_a_rule_can_see_whether_one_is_there(self) -> None:
        seen: list[bool] = []

        async def cut(self: Any) -> None: ...

        async def body(t: Any) -> None:
            seen.extend(t.has(each) for each in ("cut", "heal", "credentials", "limits"))

        judge(Working, body, cut=cut, credentials=("secret",))
        self.assertEqual(seen, [True, False, True, False])


class TestTime(unittest.TestCase):
    def test_a_wait_is_asked_of_the_suites_clock(self) -> None:
        log: list[object] = []

        async def advance(self: Any, seconds: float) -> None:
            log.append(seconds)

        async def body(t: Any) -> None:
            await t.wait(3600)
            await t.wait(0)
            log.append((t.now(), t.virtual_time))

        self.assertEqual(judge(Working, body, advance=advance).status, "passed")
        self.assertEqual(log, [3600, (3600.0, True)])

    def test_without_a_clock_of_its_own_time_passes(self) -> None:
        async def body(t: Any) -> None:
            began = t.now()
            await t.wait(0.01)
            t.check(t.now() - began >= 0.01 and not t.virtual_time, given="a wait", expected="10 ms", observed=t.now() - began)

        self.assertEqual(judge(Working, body).status, "passed")

    def test_every_client_sees_what_any_wrote_once_it_has_settled(self) -> None:
        log: list[float] = []

        async def advance(self: Any, seconds: float) -> None:
            log.append(seconds)

        async def body(t: Any) -> None:
            await t.settle()

        judge(Working, body, advance=advance, limits=Limits(staleness=2.5))
        self.assertEqual(log, [2.5])

    def test_waits_are_not_counted_in_the_deadline(self) -> None:
        async def body(t: Any) -> None:
            with t.waiting(5):
                await anyio.sleep(0.3)
                with t.waiting(5):
                    await anyio.sleep(0.3)

        self.assertEqual(judge(Working, body, deadline=0.5).status, "passed")

    def test_waits_at_once_are_counted_from_the_first_to_the_last(self) -> None:
        async def body(t: Any) -> None:
            async def wait(after: float) -> None:
                await anyio.sleep(after)
                with t.waiting(5):
                    await anyio.sleep(0.3 - after)

            await gather(partial(wait, after) for after in (0.0, 0.299))
            await anyio.sleep(0.1)

        self.assertEqual(judge(Working, body, deadline=0.25).status, "passed")

    def test_many_short_waits_cost_no_more_than_they_last(self) -> None:
        async def body(t: Any) -> None:
            for _ in range(300):
                with t.waiting(5):
                    await anyio.lowlevel.checkpoint()

        self.assertEqual(judge(Working, body, deadline=1).status, "passed")

    def test_a_wait_ends_at_its_bound(self) -> None:
        ended: list[bool] = []

        async def body(t: Any) -> None:
            with t.waiting(0.05) as scope:
                await anyio.sleep(60)
            ended.append(scope.cancelled_caught)

        self.assertEqual(judge(Working, body, deadline=0.5).status, "passed")
        self.assertEqual(ended, [True])

    def test_work_after_a_wait_is_counted_with_what_was_before(self) -> None:
        async def body(t: Any) -> None:
            await anyio.sleep(0.05)
            with t.waiting(5):
                await anyio.sleep(0.1)
            await anyio.sleep(10)

        began = time.monotonic()
        judged = judge(Working, body, deadline=0.1)
        self.assertEqual(judged.status, "failed")
        self.assertIn("a verdict within 0.1 s", judged.message)
        self.assertLess(time.monotonic() - began, 5)


class TestOperations(unittest.TestCase):
    """Every public operation, bound to a name."""

    class Shelf:
        def __init__(self) -> None:
            self.kept: dict[str, str] = {}

        async def put(self, name: str, value: str) -> str:
            self.kept[name] = value
            return "put"

        async def get(self, name: str) -> str:
            return self.kept[name]

        async def label(self, name: str) -> str:
            return f"label of {self.kept[name]}"

    OPERATIONS = (
        Operation("put", lambda p, n, t: p.put(n, t), "put", writes=True, look=lambda p, n: p.get(n)),
        Operation("get", lambda p, n, t, _=None: p.get(n), "get", arrange=lambda p, n, t: p.put(n, t)),
        Operation("label", lambda p, n, t, _=None: p.label(n), "label", "extra", arrange=lambda p, n, t: p.put(n, t)),
    )
    REFUSALS = (
        Operation("get nothing", lambda p, n, t: p.get(n), "get", refusal=ConflictError),
        Operation("label nothing", lambda p, n, t: p.label(n), "label", "extra", refusal=ConflictError),
    )

    def judge(self, body: Any, **members: Any) -> Judged:
        protocols = {"": self.Shelf, "extra": self.Shelf, "more": self.Shelf}
        define = {"operations": self.OPERATIONS, "refusals": self.REFUSALS, "protocols": protocols}
        return judge(self.Shelf, body, define=define, **members)

    def test_they_are_those_that_the_suite_declares(self) -> None:
        names: list[list[str]] = []

        async def body(t: Any) -> None:
            for each in (t.operations(), t.operations(undeclared=True), t.refusals()):
                names.append([operation.name for operation in each])

        self.judge(body)
        self.judge(body, capabilities={"extra"})
        self.assertEqual(names[:3], [["put", "get"], ["label"], ["get nothing"]])
        self.assertEqual(names[3:], [["put", "get", "label"], [], ["get nothing", "label nothing"]])

    def test_with_cells_they_are_the_cells(self) -> None:
        names: list[str] = []

        class ShelfCells(Cells[Any]):
            operations = self.OPERATIONS[:1]

        async def body(t: Any) -> None:
            names.extend(each.name for each in t.operations())

        judge(self.Shelf, body, define={"cells": ShelfCells(), "protocols": {"": self.Shelf}})
        self.assertEqual(names, ["put"])

    def test_one_that_needs_something_first_is_called_once_it_is_there(self) -> None:
        async def body(t: Any) -> None:
            shelf = await t.connect()
            for operation in t.operations():
                name = t.key()
                await (await t.arranged(operation, shelf, name, "token"))()
            t.same(await shelf.get(name), "token", given="the last name")

        self.assertEqual(self.judge(body, capabilities={"extra"})[:2], ("passed", ""))

    def test_bound_alone_nothing_is_arranged(self) -> None:
        async def body(t: Any) -> None:
            shelf = await t.connect()
            await t.refused(t.bound(t.operations()[1], shelf, t.key()), KeyError, given="get")

        self.assertEqual(self.judge(body)[:2], ("passed", ""))

    def test_what_was_arranged_is_handed_on(self) -> None:
        async def arrange(provider: Any, name: str, token: str) -> str:
            return f"arranged {token}"

        async def call(provider: Any, name: str, token: str, arranged: object = None) -> object:
            return arranged

        async def body(t: Any) -> None:
            operation = Operation("put", call, "put", arrange=arrange)
            t.same(await (await t.arranged(operation, None, "n", "token"))(), "arranged token", given="the call")

        self.assertEqual(self.judge(body)[:2], ("passed", ""))

    def test_its_outcome_is_what_a_look_shows_where_the_result_does_not(self) -> None:
        async def body(t: Any) -> None:
            shelf = await t.connect()
            put, get, *_ = t.operations()
            t.same((await t.outcome(put, shelf, "n", "token")).value, "token", given="put, looked at")
            t.same((await t.outcome(get, shelf, "n", "token")).value, "token", given="get, which shows it")
            t.check(
                isinstance((await t.outcome(get, shelf, "m", "token")).error, KeyError),
                given="get",
                expected="KeyError",
                observed=None,
            )

        self.assertEqual(self.judge(body)[:2], ("passed", ""))
