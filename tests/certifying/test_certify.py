"""`omnitck.certify`, as a program calls it."""

import asyncio
import contextvars
import os
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import omnitck
from omnitck.kit.contract import Contract, Policy
from omnitck.kit.definition import Definition
from omnitck.kit.rules import audit, rule
from omnitck.kit.trial import Trial
from omnitck.primitives.kv_store import KVStoreContract
from tests.helpers import UsageCase, suite_of
from tests.kit.toys import Lid


class Store:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self._values.get(key)

    async def set(self, key: str, value: str) -> None:
        self._values[key] = value

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)


async def make_store() -> Store:
    return Store()


async def make_nothing() -> None:
    return None


class TestCertify(UsageCase):
    def test_under_a_running_loop(self) -> None:
        async def main() -> omnitck.Certificate:
            return omnitck.certify("kv_store", make_provider=make_store, rules=["KV-01"], isolate=False)

        self.assertEqual(asyncio.run(main()).verdict, "partial")

    def test_isolates_what_another_process_can_import(self) -> None:
        async def local() -> Store:
            return Store()

        self.assertTrue(omnitck.certify("kv_store", make_provider=make_store, rules=["KV-01"]).isolated)
        self.assertFalse(omnitck.certify("kv_store", make_provider=local, rules=["KV-01"]).isolated)
        self.refused("cannot be isolated", omnitck.certify, "kv_store", make_provider=local, isolate=True)

    def test_a_suite_takes_other_declarations(self) -> None:
        suite = omnitck.compose("kv_store", make_provider=make_store)
        certificate = omnitck.certify(suite, profile="core", deadline=3, rules=["KV-01"])
        self.assertEqual({each.deadline for each in certificate.suites[0].rules}, {3})

    def test_progress_hears_each_outcome(self) -> None:
        heard: list[str] = []
        omnitck.certify(
            "kv_store",
            make_provider=make_store,
            rules=["KV-01", "kv-02"],
            progress=lambda outcome: heard.append(f"{outcome.rule} {outcome.outcome}"),
        )
        self.assertEqual(heard, ["KV-01 passed", "KV-02 passed"])

    def test_bad_input_is_one_sentence(self) -> None:
        self.refused("certify was given no contract", omnitck.certify)
        self.refused("certify needs make_provider=", omnitck.certify, "kv_store")
        self.refused("make_provider returned None", omnitck.certify, "kv_store", make_provider=make_nothing, isolate=False)
        self.refused("no rule of", omnitck.certify, "kv_store", make_provider=make_store, rules=["KV-77"], isolate=False)
        self.refused("grace is 0", omnitck.certify, "kv_store", make_provider=make_store, grace=0)
        with mock.patch.dict("os.environ", OMNITCK_SEED="seven"):
            self.refused("OMNITCK_SEED is 'seven'", omnitck.certify, "kv_store", make_provider=make_store)

    def test_what_every_client_owes_is_certified_first(self) -> None:
        """A client that blocks the event loop, or swallows its cancellation, breaks other rules, too."""
        heard: list[str] = []
        certificate = omnitck.certify(
            "kv_store", make_provider=make_store, isolate=False, progress=lambda outcome: heard.append(outcome.rule)
        )
        self.assertEqual(heard[0], "KV-COM-23")
        first = {each.id for each in certificate.suites[0].rules if not each.audit and "COM" in each.id and each.level == "MUST"}
        self.assertLess(heard.index("KV-COM-14"), heard.index("KV-01"))
        self.assertLess({"KV-COM-14", "KV-COM-23"}, first)
        order = [each.id for each in certificate.suites[0].rules]
        self.assertEqual([each.rule for each in certificate.suites[0].outcomes], order)
        self.assertCountEqual(heard, order)

    def test_a_client_that_blocks_is_failed_by_the_rule_about_that(self) -> None:
        class Blocking(Store):
            async def get(self, key: str) -> str | None:
                time.sleep(0.15)  # noqa: ASYNC251
                return await super().get(key)

        async def make_blocking() -> Blocking:
            return Blocking()

        rules = ["KV-01", "KV-02", "KV-03", "KV-COM-23"]
        certificate = omnitck.certify("kv_store", make_provider=make_blocking, rules=rules, jobs=8, isolate=False)
        outcomes = {each.rule: each for each in certificate.suites[0].outcomes}
        self.assertEqual(certificate.verdict, "not conformant")
        self.assertIn("a blocking call inside `async def`", outcomes["KV-COM-23"].message)
        self.assertNotIn("error", {each.outcome for each in outcomes.values()})


class SeedContract(Contract):
    """Says its seed."""

    definition = Definition(name="seed", prefix="SD")

    @rule("SD-01")
    async def test_sd_01_says_its_seed(self, t: Trial[Any]) -> None:
        """The seed is heard."""
        await (await t.connect()).hear(t.seed)


class TestSeeds(unittest.TestCase):
    """A run has the seed that it was given, whatever other runs of the process have."""

    def test_runs_at_the_same_time(self) -> None:
        barrier = threading.Barrier(3, timeout=20)

        def run(seed: int, jobs: int) -> list[int]:
            heard: list[int] = []

            class Ear:
                async def hear(self, seed: int) -> None:
                    barrier.wait()
                    heard.append(seed)

            async def make_ear() -> Ear:
                return Ear()

            certificate = omnitck.certify(SeedContract, make_provider=make_ear, seed=seed, jobs=jobs, isolate=False)
            self.assertEqual((certificate.verdict, certificate.seed), ("conformant", seed))
            self.assertEqual(certificate.suites[0].left_behind, (), "nobody knows whose the threads of this process are")
            return heard

        with mock.patch.dict("os.environ"):
            os.environ.pop("OMNITCK_SEED", None)
            with ThreadPoolExecutor(3) as pool:
                found = list(pool.map(run, (3, 4, 5), (1, 2, 3)))
            self.assertEqual(found, [[3], [4], [5]])
            self.assertNotIn("OMNITCK_SEED", os.environ)

    def test_one_suite_in_several_threads(self) -> None:
        """Each certificate is about its own run."""
        good = contextvars.ContextVar("good", default=True)
        barrier = threading.Barrier(4, timeout=20)

        class Wrong(Store):
            async def get(self, key: str) -> str | None:
                return "wrong"

        async def make_provider(self: Any) -> Store:
            barrier.wait()
            return Store() if good.get() else Wrong()

        suite = suite_of(KVStoreContract, make_provider=make_provider)

        def run(is_good: bool) -> str:
            good.set(is_good)
            return str(omnitck.certify(suite, rules=["KV-01", "KV-02"], isolate=False).verdict)

        with ThreadPoolExecutor(4) as pool:
            verdicts = list(pool.map(run, (True, False, True, False)))
        self.assertEqual(verdicts, ["partial", "not conformant"] * 2)


class TestSetUps(UsageCase):
    def test_a_name_that_the_kit_reads_is_refused_once(self) -> None:
        async def make_provider(self: Any) -> Store:
            return Store()

        def set_up(self: Any) -> None:
            self.profile = "core"

        suite = suite_of(KVStoreContract, setUp=set_up, make_provider=make_provider)
        self.refused("Suite sets self.profile in its set-up, a name that the kit reads", omnitck.certify, suite, isolate=False)

    def test_credentials_that_a_set_up_decides_are_masked(self) -> None:
        class Chatty(Store):
            async def get(self, key: str) -> str | None:
                return "swordfish"

        async def make_provider(self: Any) -> Store:
            return Chatty()

        def set_up(self: Any) -> None:
            self.credentials = ("swordfish",)

        suite = suite_of(KVStoreContract, setUp=set_up, make_provider=make_provider)
        certificate = omnitck.certify(suite, rules=["KV-01"], isolate=False)
        self.assertIn("observed  '***'", certificate.as_json())
        self.assertNotIn("swordfish", certificate.as_json())


class LampContract(Contract):
    definition = Definition(name="lamp", prefix="LA")

    @rule("LA-01")
    async def test_la_01_it_lights(self, t: Trial[Any]) -> None:
        """A lamp lights."""
        await (await t.connect()).light()

    @rule("LA-02")
    async def test_la_02_it_lights_again(self, t: Trial[Any]) -> None:
        """A lamp lights again."""
        await (await t.connect()).light()


class SafePolicy(Policy):
    """It watches the lamps."""

    definition = Definition(name="safe", prefix="SA", protocols={"fused": Lid})

    @audit("SA-01")
    async def audit_sa_01_it_stays_cool(self, t: Trial[Any]) -> None:
        """A lamp stays cool."""
        t.check(t.rule.id != Lamp.hot_after, given="the lamp", expected="cool", observed="hot")

    @audit("SA-02", "fused")
    async def audit_sa_02_it_has_a_fuse(self, t: Trial[Any]) -> None:
        """A lamp has a fuse."""


class Lamp:
    """Hot after one rule."""

    hot_after = ""

    async def light(self) -> None: ...


class Broken(Lamp):
    async def light(self) -> None:
        raise OSError("no bulb")


class TestAudits(unittest.TestCase):
    """An audit has one outcome in a certificate."""

    def outcomes(
        self, lamp: type[Lamp] = Lamp, hot_after: str = "", **declarations: Any
    ) -> tuple[str, dict[str, tuple[str, str]]]:
        async def make_lamp() -> Lamp:
            return lamp()

        with mock.patch.object(Lamp, "hot_after", hot_after):
            certificate = omnitck.certify(LampContract, SafePolicy, make_provider=make_lamp, isolate=False, **declarations)
        [suite] = certificate.suites
        return certificate.verdict.value, {each.rule: (each.outcome.value, each.message) for each in suite.outcomes}

    def test_it_passes_after_every_rule(self) -> None:
        verdict, outcomes = self.outcomes()
        self.assertEqual(verdict, "conformant")
        self.assertEqual(list(outcomes), ["LA-01", "LA-02", "SA-01", "SA-02"])
        self.assertEqual((outcomes["SA-01"], outcomes["SA-02"]), (("passed", ""), ("not declared", "not declared: fused")))

    def test_its_failure_is_its_own(self) -> None:
        verdict, outcomes = self.outcomes(hot_after="LA-02")
        self.assertEqual(verdict, "not conformant")
        self.assertEqual((outcomes["LA-01"], outcomes["LA-02"]), (("passed", ""), ("passed", "")))
        status, message = outcomes["SA-01"]
        self.assertEqual(status, "failed")
        self.assertTrue(message.startswith("SA-01 [MUST, audited after LA-02] A lamp stays cool.\n"), message)
        self.assertTrue(message.endswith("  seen      first during LA-02, 1 of 2 rules"), message)

    def test_a_known_deviation_is_recorded_as_one(self) -> None:
        """What its policy says of the lamps is not claimed; the contract's own rules are obeyed."""
        verdict, outcomes = self.outcomes(hot_after="LA-02", known_deviations={"SA-01": "old bulbs"})
        self.assertEqual((verdict, outcomes["SA-01"][0]), ("conformant", "known deviation"))
        self.assertIn("observed  'hot'", outcomes["SA-01"][1])

    def test_the_reason_of_a_deviation_shows_no_credential(self) -> None:
        async def make_lamp() -> Lamp:
            return Broken()

        known = {"LA-01": "the lamp of hunter2hunter2", "LA-02": "the same"}
        certificate = omnitck.certify(
            LampContract, make_provider=make_lamp, isolate=False, credentials=("hunter2hunter2",), known_deviations=known
        )
        self.assertEqual(certificate.verdict, "deviates, as known", certificate.as_json())
        self.assertIn("the lamp of ***", certificate.as_json())
        self.assertNotIn("hunter2", certificate.as_json())

    def test_one_that_could_watch_nothing_was_not_run(self) -> None:
        _, outcomes = self.outcomes(Broken)
        self.assertEqual(outcomes["SA-01"], ("not run", "no rule passed that it could have watched"))

    def test_one_that_is_selected_watches_every_rule(self) -> None:
        _, outcomes = self.outcomes(hot_after="LA-02", rules=["SA-01"])
        self.assertEqual([each[0] for each in outcomes.values()], ["passed", "passed", "failed", "not declared"])
