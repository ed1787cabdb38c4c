"""Audits: what is judged after every rule of a suite."""

import unittest
from typing import Any

from omnitck.kit.contract import Contract, Policy, Rule, audit, rule
from omnitck.kit.outcomes import Outcome, listening


class DoorContract(Contract):
    name = "door"
    prefix = "DOOR"

    @rule("DOOR-01")
    async def test_door_01_it_opens(self) -> None:
        """A door opens."""
        await (await self.connect()).open()

    @rule("DOOR-02")
    async def test_door_02_it_shuts(self) -> None:
        """A door shuts."""
        door = await self.connect()
        await door.open()
        await door.shut()

    @rule("DOOR-03")
    async def test_door_03_it_locks(self) -> None:
        """A door locks."""
        await (await self.connect()).lock()


class WatchPolicy(Policy):
    """After every rule, every door is shut."""

    name = "watch"
    prefix = "WAT"

    @audit("WAT-01")
    async def nothing_stays_open(self, rule: Rule) -> None:
        """No door stays open.

        Catches a draught.
        """
        log.append(f"audit {rule.id}")
        self.check("open" not in log[-2:], given=f"the log of {rule.id}", expected="no open door", observed=log[-2:])


class Door:
    async def open(self) -> None:
        log.append("open")

    async def shut(self) -> None:
        log.append("shut")

    async def close(self) -> None:
        log.append("closed")


log: list[str] = []


class TestAudit(unittest.TestCase):
    def outcomes(self, **members: Any) -> dict[str, tuple[str, str]]:
        async def make_provider(self: Any) -> Door:
            return Door()

        log.clear()
        members = {"make_provider": make_provider, "__module__": "mine", **members}
        suite: Any = type("Doors", (DoorContract, WatchPolicy, unittest.IsolatedAsyncioTestCase), members)
        found: dict[str, tuple[str, str]] = {}

        def keep(cls: type, outcome: Outcome) -> None:
            found[outcome.rule] = (outcome.outcome.value, outcome.message)

        with listening(keep):
            unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(unittest.TestResult())
        return found

    def test_it_is_judged_after_every_rule_that_holds_once_the_providers_are_closed(self) -> None:
        self.outcomes()
        self.assertEqual(log, ["open", "closed", "audit DOOR-01", "open", "shut", "closed", "audit DOOR-02", "closed"])

    def test_its_failure_carries_its_id_and_the_rule_during_which_it_happened(self) -> None:
        class Ajar(Door):
            async def close(self) -> None:
                pass

        async def make_provider(self: Any) -> Door:
            return Ajar()

        found = self.outcomes(make_provider=make_provider, again="again {rule}")
        status, message = found["DOOR-01"]
        self.assertEqual(status, "failed")
        head, trace = message.split("  trace ")
        self.assertEqual(
            head,
            "WAT-01 [audit during DOOR-01] No door stays open.\n"
            f"  provider  {Ajar.__module__}.{Ajar.__qualname__}\n"
            "  given     the log of DOOR-01\n"
            "  expected  no open door\n"
            "  observed  ['open', 'audit DOOR-01']\n",
        )
        self.assertTrue(trace.endswith(" ms open() -> None\n  again     again DOOR-01"), trace)

    def test_it_does_not_hide_a_broken_rule(self) -> None:
        status, message = self.outcomes()["DOOR-03"]
        self.assertEqual((status, message.splitlines()[0]), ("failed", "DOOR-03 [MUST] A door locks."))

    def test_it_passes_where_nothing_is_wrong(self) -> None:
        self.assertEqual(self.outcomes()["DOOR-02"], ("passed", ""))

    def test_one_that_is_a_known_deviation_speaks_against_no_rule(self) -> None:
        class Ajar(Door):
            async def close(self) -> None:
                pass

        async def make_provider(self: Any) -> Door:
            return Ajar()

        found = self.outcomes(make_provider=make_provider, known_deviations={"WAT-01": "summer"})
        self.assertEqual(found["DOOR-01"], ("passed", ""))
