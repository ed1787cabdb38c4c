"""The clients of a rule: how they live and end, and the journal of the calls made on them."""

import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import anyio
import anyio.lowlevel

from omnitck.kit import clients, session
from omnitck.kit.clients import accepted, raw
from omnitck.kit.concurrency import gather
from omnitck.kit.contract import Contract
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.trial import Trial
from tests.helpers import outcome_of, outcomes_of, suite_of
from tests.kit.judging import Working, calling, judge, thing


class TestLives(unittest.TestCase):
    def test_a_provider_whose_attributes_cannot_be_asked_for_is_left_open(self) -> None:
        class Strict:
            async def call(self) -> str:
                return "done"

            def __getattr__(self, name: str) -> object:
                raise RuntimeError(f"no {name}")

        self.assertEqual(judge(Strict).status, "passed")

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
        self.assertEqual((judged.status, judged.observed), ("failed", "one ended it with RuntimeError: connection lost"))
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
                log.append(made.index(self))

        made: list[Client] = []

        def connect() -> Client:
            made.append(Client())
            return made[-1]

        async def body(t: Any) -> None:
            await t.connect()
            await t.connect()

        judge(connect, body)
        self.assertEqual(log, [1, 0])

    def test_what_is_wrong_with_closing_is_told_to_the_rule_that_asks_and_fails_no_other(self) -> None:
        async def refuse(self: Any) -> None:
            raise OSError("already gone")

        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        async def release(t: Any) -> None:
            problem = await t.session.release(await t.connect())
            if problem is not None:
                raise problem

        for close, observed in ((refuse, "OSError: already gone"), (hang, "it has not")):
            thing = calling(Working.call, close=close)
            with self.subTest(observed), mock.patch.object(session, "CLOSING_SECONDS", 0.05):
                self.assertEqual(judge(thing).status, "passed")
                judged = judge(thing, release)
                self.assertEqual((judged.status, judged.observed), ("failed", observed))
        self.assertIn("  expected  it has closed within 0.05 s\n", judged.message)

    def test_what_is_released_is_closed_unless_the_rule_has_closed_it(self) -> None:
        closed: list[str] = []

        async def close(self: Any) -> None:
            closed.append("closed")

        async def release(t: Any) -> None:
            await t.session.release(await t.connect())
            client = await t.connect()
            await client.close()
            await t.session.release(client)

        self.assertEqual((judge(calling(Working.call, close=close), release).status, len(closed)), ("passed", 2))

    def test_clients_that_never_close_get_less_time_in_the_third_rule(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        given: list[float] = []

        async def look(t: Any) -> None:
            given.append(t.session.closing_seconds)
            await t.connect()

        suite = thing(calling(Working.call, close=hang), look, patience=0.2)
        with mock.patch.object(session, "CLOSING_SECONDS", 0.5):
            for _ in range(3):
                outcome_of(suite, "test_th_01_it_works")
        self.assertEqual(given, [0.1, 0.1, 0.05])


class TestConnecting(unittest.TestCase):
    """What the hook that makes a client is given."""

    def test_what_its_signature_takes(self) -> None:
        async def all_of_it(self: Any, **config: Any) -> None: ...

        async def some(self: Any, *, tenant_id: str | None = None) -> None: ...

        config = {"namespace": "n", "tenant_id": "t"}
        self.assertEqual((accepted(all_of_it, config), accepted(some, config)), (config, {"tenant_id": "t"}))

    def test_what_the_rule_asks_for_is_required(self) -> None:
        """Only the kit's own extras may be left out: an argument that is not taken is an error, not a rule that passes."""

        async def nothing(self: Any) -> None: ...

        self.assertEqual(accepted(nothing, {"namespace": "n", "tenant_id": "t"}), {"tenant_id": "t"})

    def test_a_rule_sees_the_provider_through_its_journal(self) -> None:
        thing = Working()
        seen: list[bool] = []

        async def body(t: Any) -> None:
            client = await t.connect()
            seen.append(client is not thing and raw(client) is thing and repr(client) == repr(thing))

        self.assertEqual((judge(lambda: thing, body).status, seen), ("passed", [True]))


class Bolt:
    """Handed out by a door."""

    async def turn(self) -> str:
        return "turned"


class Gate:
    """Handed out by a door, as a context."""

    async def __aenter__(self) -> "Gate":
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def swing(self) -> None: ...


class Door:
    """A provider that hands out objects."""

    async def bolt(self, name: str) -> Bolt:
        return Bolt()

    def gate(self) -> Gate:
        return Gate()

    async def knob(self) -> Bolt:
        return Bolt()


async def _echo(name: str) -> str:
    return name


class TestJournal(unittest.TestCase):
    def test_a_concurrent_rule_shows_the_calls_of_the_name_that_went_wrong(self) -> None:
        class Store:
            async def get(self, name: str) -> str:
                await anyio.lowlevel.checkpoint()
                return "wrong" if name == "name-3" else name

        async def body(t: Any) -> None:
            t.tell_apart()
            store = await t.connect()
            names = [f"name-{number}" for number in range(50)]
            found = await gather(partial(store.get, name) for name in names)
            first = next(name for name, each in zip(names, found, strict=True) if each != name)
            t.check(found == names, given="50 reads at once", expected="its own name each", observed=found, about=first)

        message = judge(Store, body).message
        self.assertIn("get('name-3') -> 'wrong'", message)
        self.assertNotIn("get('name-49')", message.partition("  trace ")[2])

    def test_it_keeps_a_few_calls_of_each_of_some_names(self) -> None:
        async def body(t: Any) -> None:
            t.tell_apart()
            thing = await t.connect()
            for number in range(1000):
                await thing.call(f"name-{number}")
            for _ in range(10):
                await thing.call("last")
            t.same(len(t.session.journal.lines("last")), 4, given="the calls kept of one name")
            t.same(len(t.session.journal.lines("name-0")), 10, given="the calls shown of a name that is forgotten: the last")

        self.assertEqual(judge(lambda: SimpleNamespace(call=_echo), body).status, "passed")

    def trace(self, body: Any) -> list[str]:
        """The calls of a rule, as its failure shows them."""

        async def failing(t: Any) -> None:
            await body(t)
            t.fail_rule(given="", expected="", observed="it")

        message = judge(Door, failing, define={"follows": {"bolt": "bolt", "gate": "gate"}}).message
        lines = message[message.index("  trace ") : message.index("  again ")].splitlines()
        return [each.partition(" ms ")[2] for each in lines]

    def test_it_follows_what_the_contract_names(self) -> None:
        async def body(t: Any) -> None:
            bolt = await (await t.connect()).bolt("b")
            await bolt.turn()

        first, second = self.trace(body)
        self.assertTrue(first.startswith("bolt('b') -> "), first)
        self.assertEqual(second, "bolt.turn() -> 'turned'")

    def test_it_follows_a_context(self) -> None:
        async def body(t: Any) -> None:
            async with (await t.connect()).gate() as gate:
                await gate.swing()

        self.assertEqual(
            [each.partition("(")[0] for each in self.trace(body)],
            ["gate", "gate.__aenter__", "gate.swing", "gate.__aexit__"],
        )

    def test_it_follows_nothing_else(self) -> None:
        async def body(t: Any) -> None:
            await (await (await t.connect()).knob()).turn()

        [only] = self.trace(body)
        self.assertTrue(only.startswith("knob() -> "), only)

    def test_it_keeps_the_last_calls(self) -> None:
        async def body(t: Any) -> None:
            door = await t.connect()
            for number in range(clients.LONGEST_TRACE + 3):
                await door.bolt(str(number))

        trace = self.trace(body)
        self.assertEqual(len(trace), clients.LONGEST_TRACE)
        self.assertTrue(trace[0].startswith("bolt('3')"), trace)

    def test_what_happened_beside_the_calls_can_be_noted(self) -> None:
        async def body(t: Any) -> None:
            t.session.journal.note("handler('m')", "ACK")

        self.assertEqual(self.trace(body), ["handler('m') -> 'ACK'"])

    def test_it_can_be_told_to_forget(self) -> None:
        async def body(t: Any) -> None:
            door = await t.connect()
            await door.bolt("secret")
            t.session.journal.forget()
            await door.bolt("secret")
            t.fail_rule(given="", expected="", observed="it")

        self.assertNotIn("trace", judge(Door, body).message)


class SlowContract(Contract):
    """Three rules that call the same method."""

    definition = Definition(name="slow", prefix="SL")

    @rule("SL-01")
    async def test_sl_01(self, t: Trial[Any]) -> None:
        """It answers."""
        await (await t.connect()).call()

    @rule("SL-02")
    async def test_sl_02(self, t: Trial[Any]) -> None:
        """It answers again."""
        await (await t.connect()).call()

    @rule("SL-03")
    async def test_sl_03(self, t: Trial[Any]) -> None:
        """It answers once more."""
        await (await t.connect()).call()


class TestHanging(unittest.TestCase):
    """A suite in which a method never returns comes to its end."""

    def observed(self, provider: type, **members: Any) -> list[str]:
        async def make_provider(self: Any) -> object:
            return provider()

        outcomes, _ = outcomes_of(suite_of(SlowContract, make_provider=make_provider, deadline=0.3, **members))
        return [next((line for line in each.message.splitlines() if "observed" in line), "") for each in outcomes]

    def test_a_method_that_never_returned_gets_less_time_in_the_end(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        with mock.patch.object(clients, "HUNG_SECONDS", 0.02):
            first, second, third = self.observed(calling(hang), patience=2)
        self.assertIn("call() has not ended; it waited in", first)
        self.assertIn("call() has not ended; it waited in", second)
        self.assertIn("call() has not ended after 0.04 s; in this suite no call of it ever has, so it gets no more time", third)

    def test_one_that_returned_once_keeps_its_time(self) -> None:
        calls: list[int] = []

        async def answer_first(self: Any) -> None:
            calls.append(1)
            if len(calls) > 1:
                await anyio.sleep_forever()

        with mock.patch.object(clients, "HUNG_RULES", 1), mock.patch.object(clients, "HUNG_SECONDS", 0.02):
            answered, *others = self.observed(calling(answer_first))
        self.assertEqual(answered, "")
        for each in others:
            self.assertIn("call() has not ended; it waited in", each)
