"""Audits: what is judged after every rule of a suite, and has an outcome of its own."""

import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from omnitck.kit.checks import catalogue
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.outcomes import Outcome
from omnitck.kit.rules import audit, rule
from omnitck.kit.trial import Trial
from tests.helpers import outcomes_of, suite_of


class DoorContract(Contract):
    definition = Definition(name="door", prefix="DOOR")

    @rule("DOOR-01")
    async def test_door_01_it_opens(self, t: Trial[Any]) -> None:
        """A door opens."""
        await (await t.connect()).open()

    @rule("DOOR-02")
    async def test_door_02_it_shuts(self, t: Trial[Any]) -> None:
        """A door shuts."""
        door = await t.connect()
        await door.open()
        await door.shut()

    @rule("DOOR-03")
    async def test_door_03_it_locks(self, t: Trial[Any]) -> None:
        """A door locks."""
        await (await t.connect()).lock()


class WatchPolicy(Policy):
    """After every rule, every door is shut."""

    definition = Definition(name="watch", prefix="WAT")

    @audit("WAT-01")
    async def audit_wat_01_nothing_stays_open(self, t: Trial[Any]) -> None:
        """No door
        stays open.

        Catches a draught.
        """
        log.append(f"audit {t.rule.id}")
        t.check("open" not in log[-2:], given=f"the log of {t.rule.id}", expected="no open door", observed=log[-2:])

    @audit("WAT-02")
    async def audit_wat_02_all_is_logged(self, t: Trial[Any]) -> None:
        """What happens is logged."""
        t.check(bool(log), given="the log", expected="something", observed=log)


class Door:
    async def open(self) -> None:
        log.append("open")

    async def shut(self) -> None:
        log.append("shut")

    async def close(self) -> None:
        log.append("closed")


class Ajar(Door):
    """It is not shut in the end."""

    async def close(self) -> None:
        pass


log: list[str] = []


def doors(door: type[Door] = Door, *policies: type, **members: Any) -> Any:
    """A suite of doors."""

    async def make_provider(self: Any) -> Door:
        return door()

    log.clear()
    return suite_of(DoorContract, *(policies or (WatchPolicy,)), make_provider=make_provider, **members)


def during(outcomes: list[Outcome], audit: str) -> dict[str, tuple[str, str]]:
    """For each rule that *audit* watched, what became of the audit then."""
    return {each.during: (each.outcome.value, each.message) for each in outcomes if each.rule == audit}


def plain(outcomes: list[Outcome]) -> dict[str, str]:
    """What became of each rule."""
    return {each.rule: each.outcome.value for each in outcomes if not each.during}


class TestEntries(unittest.TestCase):
    def test_an_audit_is_an_entry_of_the_contract_or_policy(self) -> None:
        found = [(each.id, each.level, each.rule.statement, each.rule.ambient) for each in catalogue(WatchPolicy)]
        self.assertEqual(
            found, [("WAT-01", "MUST", "No door stays open.", True), ("WAT-02", "MUST", "What happens is logged.", True)]
        )
        self.assertEqual(catalogue(WatchPolicy)[0].rule.rationale, "Catches a draught.")

    def test_it_is_an_entry_of_the_suite_and_no_test(self) -> None:
        suite = doors()
        self.assertEqual([each.id for each in plan_of(suite).audits], ["WAT-01", "WAT-02"])
        names = unittest.defaultTestLoader.getTestCaseNames(suite)
        self.assertEqual([each[:12] for each in names], ["test_door_01", "test_door_02", "test_door_03"])

    def test_rules_run_alone_where_one_watches_the_whole_process(self) -> None:
        class StreamPolicy(Policy):
            definition = Definition(name="stream", prefix="ST", protocols={"loud": Door})

            @audit("ST-01", "loud", exclusive=True)
            async def audit_st_01_nothing_is_printed(self, t: Trial[Any]) -> None:
                """Nothing is printed."""

        self.assertFalse(plan_of(doors()).alone)
        self.assertFalse(plan_of(doors(Door, StreamPolicy)).alone)
        self.assertTrue(plan_of(doors(Door, StreamPolicy, capabilities={"loud"})).alone)


class TestJudgement(unittest.TestCase):
    def test_it_is_judged_after_every_rule_that_holds_once_the_providers_are_closed(self) -> None:
        outcomes_of(doors())
        self.assertEqual(log, ["open", "closed", "audit DOOR-01", "open", "shut", "closed", "audit DOOR-02", "closed"])

    def test_its_outcome_says_which_rule_it_watched(self) -> None:
        outcomes, _ = outcomes_of(doors())
        self.assertEqual(during(outcomes, "WAT-01"), {"DOOR-01": ("passed", ""), "DOOR-02": ("passed", "")})
        self.assertEqual(during(outcomes, "WAT-02"), {"DOOR-01": ("passed", ""), "DOOR-02": ("passed", "")})

    def test_its_failure_carries_its_id_and_the_rule_during_which_it_happened(self) -> None:
        outcomes, _ = outcomes_of(doors(Ajar, again="again {rule}"))
        status, message = during(outcomes, "WAT-01")["DOOR-01"]
        self.assertEqual(status, "failed")
        head, trace = message.split("  trace ")
        self.assertEqual(
            head,
            "WAT-01 [MUST, audited after DOOR-01] No door stays open.\n"
            f"  provider  {Ajar.__module__}.{Ajar.__qualname__}\n"
            "  given     the log of DOOR-01\n"
            "  expected  no open door\n"
            "  observed  ['open', 'audit DOOR-01']\n",
        )
        self.assertTrue(trace.endswith(" ms open() -> None\n  again     again DOOR-01"), trace)

    def test_its_failure_leaves_the_rules_own_outcome_and_that_of_the_other_audits(self) -> None:
        outcomes, _ = outcomes_of(doors(Ajar))
        self.assertEqual(plain(outcomes), {"DOOR-01": "passed", "DOOR-02": "passed", "DOOR-03": "failed"})
        self.assertEqual({each[0] for each in during(outcomes, "WAT-02").values()}, {"passed"})

    def test_its_failure_fails_the_test_during_which_it_happened(self) -> None:
        _, result = outcomes_of(doors(Ajar), "test_door_01_it_opens")
        [(test, told)] = result.failures
        self.assertEqual(test.id(), "mine.Suite.test_door_01_it_opens")
        self.assertIn("Violation: WAT-01 [MUST, audited after DOOR-01] No door stays open.\n", told)
        self.assertEqual(outcomes_of(doors(Ajar), "test_door_02_it_shuts")[1].failures, [])

    def test_it_does_not_hide_a_broken_rule(self) -> None:
        outcomes, result = outcomes_of(doors(), "test_door_03_it_locks")
        [outcome] = outcomes
        self.assertEqual((outcome.outcome.value, outcome.message.splitlines()[0]), ("failed", "DOOR-03 [MUST] A door locks."))
        self.assertIn("DOOR-03 [MUST] A door locks.", result.failures[0][1])

    def test_an_exception_in_it_is_a_failure_of_it(self) -> None:
        class ClumsyPolicy(Policy):
            definition = Definition(name="clumsy", prefix="CL")

            @audit("CL-01")
            async def audit_cl_01_it_looks(self, t: Trial[Any]) -> None:
                """It looks."""
                raise KeyError("x")

        outcomes, _ = outcomes_of(doors(Door, ClumsyPolicy), "test_door_01_it_opens")
        status, message = during(outcomes, "CL-01")["DOOR-01"]
        self.assertEqual(status, "failed")
        self.assertIn("observed  KeyError: 'x', raised in test_audits.py line", message)

    def test_a_hook_of_the_suite_that_fails_in_it_does_not_speak_against_the_provider(self) -> None:
        class AskingPolicy(Policy):
            definition = Definition(name="asking", prefix="AS", hooks=("book",))

            async def book(self) -> str:
                """What is written."""
                raise NotImplementedError

            @audit("AS-01")
            async def audit_as_01_it_asks(self, t: Trial[Any]) -> None:
                """It asks."""
                await t.ask("book")

        async def book(self: object) -> str:
            raise OSError("no book")

        for members, expected in (({}, "Suite has no book"), ({"book": book}, "book raised OSError: no book")):
            outcomes, result = outcomes_of(doors(Door, AskingPolicy, **members), "test_door_01_it_opens")
            status, message = during(outcomes, "AS-01")["DOOR-01"]
            self.assertEqual(status, "error")
            self.assertIn(f"AS-01 could not be judged: HookError: {expected}", message)
            self.assertEqual((len(result.failures), len(result.errors)), (0, 1))
            self.assertEqual([each.outcome.value for each in outcomes if not each.during], ["passed"])

    def test_it_has_a_deadline(self) -> None:
        class EndlessPolicy(Policy):
            definition = Definition(name="endless", prefix="END")

            @audit("END-01")
            async def audit_end_01_it_sleeps(self, t: Trial[Any]) -> None:
                """It sleeps."""
                await anyio.sleep_forever()

        outcomes, _ = outcomes_of(doors(Door, EndlessPolicy, deadline=0.1), "test_door_01_it_opens")
        status, message = during(outcomes, "END-01")["DOOR-01"]
        self.assertEqual(status, "error")
        self.assertIn("it has not ended after 0.1 s", message)

    def test_it_masks_what_is_secret(self) -> None:
        outcomes, result = outcomes_of(doors(Ajar, credentials=("no open",)), "test_door_01_it_opens")
        self.assertIn("expected  *** door", during(outcomes, "WAT-01")["DOOR-01"][1])
        self.assertNotIn("no open", result.failures[0][1])


class TestWhereItIsNotJudged(unittest.TestCase):
    class RingPolicy(Policy):
        definition = Definition(name="ring", prefix="RI", protocols={"bell": Door}, hooks=("ring",))

        @audit("RI-01", "bell")
        async def audit_ri_01_it_rings(self, t: Trial[Any]) -> None:
            """It rings."""

        @audit("RI-02", hook="ring")
        async def audit_ri_02_it_is_rung(self, t: Trial[Any]) -> None:
            """It is rung."""

        @audit("RI-03")
        async def audit_ri_03_it_echoes(self, t: Trial[Any]) -> None:
            """It echoes."""
            t.not_provoked("nothing rang")

        async def ring(self) -> None:
            """Ring."""
            raise NotImplementedError

    def watched(self, **members: Any) -> set[str]:
        outcomes, result = outcomes_of(doors(Door, self.RingPolicy, **members), "test_door_01_it_opens")
        self.assertEqual((result.failures, result.errors), ([], []))
        return {each.rule for each in outcomes if each.during}

    def test_without_its_capability_its_hook_or_what_provokes_it(self) -> None:
        self.assertEqual(self.watched(), set())

    def test_with_them(self) -> None:
        async def ring(self: Any) -> None: ...

        self.assertEqual(self.watched(capabilities={"bell"}, ring=ring), {"RI-01", "RI-02"})


class TestKnownDeviations(unittest.TestCase):
    def test_one_on_an_audit_is_recorded_and_speaks_against_no_rule(self) -> None:
        outcomes, result = outcomes_of(doors(Ajar, known_deviations={"WAT-01": "summer"}), "test_door_01_it_opens")
        self.assertEqual(plain(outcomes), {"DOOR-01": "passed"})
        self.assertEqual(during(outcomes, "WAT-01")["DOOR-01"][0], "known deviation")
        self.assertEqual(result.failures, [])

    def test_one_on_an_audit_hides_no_other(self) -> None:
        class LogPolicy(Policy):
            definition = Definition(name="log", prefix="LOG")

            @audit("LOG-01")
            async def audit_log_01_nothing_is_logged(self, t: Trial[Any]) -> None:
                """Nothing is logged."""
                t.check(not log, given="the log", expected="nothing", observed=log)

        suite = doors(Ajar, LogPolicy, WatchPolicy, known_deviations={"WAT-01": "summer"})
        outcomes, result = outcomes_of(suite, "test_door_01_it_opens")
        self.assertEqual(during(outcomes, "LOG-01")["DOOR-01"][0], "failed")
        self.assertIn("LOG-01 [MUST, audited after DOOR-01]", result.failures[0][1])

    def test_one_on_a_rule_hides_no_audit_of_another_rule(self) -> None:
        outcomes, _ = outcomes_of(doors(Ajar, known_deviations={"DOOR-03": "no key"}))
        self.assertEqual(plain(outcomes)["DOOR-03"], "known deviation")
        self.assertEqual(during(outcomes, "WAT-01")["DOOR-01"][0], "failed")

    def test_one_on_a_rule_that_passes_does_not_hide_the_audit(self) -> None:
        outcomes, result = outcomes_of(doors(Ajar, known_deviations={"DOOR-01": "old"}), "test_door_01_it_opens")
        self.assertEqual((plain(outcomes), during(outcomes, "WAT-01")["DOOR-01"][0]), ({"DOOR-01": "passed"}, "failed"))
        self.assertEqual(len(result.failures), 1)


class TestAround(unittest.TestCase):
    """What a policy puts around every rule."""

    def outcomes(self, around: Any, door: type[Door] = Door, method: str = "test_door_01_it_opens") -> Any:
        class AroundPolicy(Policy):
            definition = Definition(name="around", prefix="AR", around=around)

            @audit("AR-01")
            async def audit_ar_01_it_sees(self, t: Trial[Any]) -> None:
                """It sees what happened."""
                log.append("audit")

        return outcomes_of(doors(door, AroundPolicy), method)

    def test_it_is_entered_before_a_provider_opens_and_left_after_the_audits(self) -> None:
        @asynccontextmanager
        async def around(t: Trial[Any]) -> AsyncIterator[None]:
            log.append(f"entered for {t.rule.id}")
            yield
            log.append("left")

        self.outcomes(around)
        self.assertEqual(log, ["entered for DOOR-01", "open", "closed", "audit", "left"])

    def test_what_it_cannot_enter_is_an_error_and_opens_no_provider(self) -> None:
        @asynccontextmanager
        async def around(t: Trial[Any]) -> AsyncIterator[None]:
            raise OSError("no exporter")
            yield

        [outcome], _ = self.outcomes(around)
        self.assertEqual(
            (outcome.outcome.value, outcome.message),
            ("error", "DOOR-01 could not be judged: HookError: what a policy needs raised OSError: no exporter"),
        )
        self.assertEqual(log, [])

    def test_it_is_left_after_a_failure(self) -> None:
        @asynccontextmanager
        async def around(t: Trial[Any]) -> AsyncIterator[None]:
            yield
            log.append("left")

        [outcome], _ = self.outcomes(around, method="test_door_03_it_locks")
        self.assertEqual((outcome.outcome.value, log), ("failed", ["closed", "left"]))

    def test_what_it_cannot_leave_is_an_error_that_hides_no_failure(self) -> None:
        @asynccontextmanager
        async def around(t: Trial[Any]) -> AsyncIterator[None]:
            yield
            raise OSError("not flushed")

        [outcome, *_], _ = self.outcomes(around)
        self.assertEqual(
            (outcome.outcome.value, outcome.message),
            ("error", "DOOR-01 could not be judged: HookError: what a policy needs raised OSError: not flushed"),
        )
        [outcome], _ = self.outcomes(around, method="test_door_03_it_locks")
        self.assertEqual(outcome.outcome, "failed")
