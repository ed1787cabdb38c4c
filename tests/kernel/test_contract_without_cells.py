import unittest
from typing import Any

import anyio.lowlevel

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.shared.exceptions import ClosedError
from tests.kernel.breaker import Breaker, BreakerSuite, Guarded
from tests.kernel.running import failed, outcomes, refusal, run, suite


class NeverOpens(Breaker):
    async def state(self) -> str:
        return "closed"


class TakesAnything(Breaker):
    def __init__(self, failure_threshold: int = 5) -> None:
        super().__init__(max(1, failure_threshold))


class RefusesInItsOwnWords(Breaker):
    def __init__(self, failure_threshold: int = 5) -> None:
        if failure_threshold < 1:
            raise ZeroDivisionError("no threshold")
        super().__init__(failure_threshold)


class SwallowsCancellation(Breaker):
    async def execute(self, call: Guarded) -> object:
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            return "went on"
        return await super().execute(call)


class Closable(Breaker):
    closed = False

    async def execute(self, call: Guarded) -> object:
        self._check()
        return await super().execute(call)

    async def state(self) -> str:
        self._check()
        return await super().state()

    async def force_open(self) -> None:
        self._check()
        await super().force_open()

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> "Closable":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _check(self) -> None:
        if self.closed:
            raise ClosedError("the breaker is closed")


class ForgetsToClose(Closable):
    async def state(self) -> str:
        return await Breaker.state(self)


class TestAContractWithoutCells(unittest.TestCase):
    def test_a_correct_provider_passes_its_rules_and_those_of_every_client(self) -> None:
        cls = suite(BreakerSuite, capabilities={"manual_control", "validation"})
        self.assertEqual([], failed(cls))
        passed = [id for id, each in outcomes(cls).items() if each.outcome == "passed"]
        self.assertLessEqual(
            {"TB-01", "TB-02", "TB-03", "TB-COM-01", "TB-COM-02", "TB-COM-04", "TB-COM-14", "TB-COM-23"}, set(passed)
        )

    def test_lifecycle_is_judged_by_operations_alone(self) -> None:
        capabilities = {"manual_control", "validation", "lifecycle"}
        self.assertEqual([], failed(suite(BreakerSuite, capabilities=capabilities, provider=Closable)))
        self.assertEqual(["TB-COM-08"], failed(suite(BreakerSuite, capabilities=capabilities, provider=ForgetsToClose)))

    def test_a_wrong_provider_fails_under_the_right_id(self) -> None:
        capabilities = {"manual_control", "validation"}
        for provider, rules in {
            NeverOpens: ["TB-01", "TB-03"],
            TakesAnything: ["TB-02"],
            RefusesInItsOwnWords: ["TB-02"],
            SwallowsCancellation: ["TB-COM-14"],
        }.items():
            with self.subTest(provider.__name__):
                self.assertEqual(rules, sorted(failed(suite(BreakerSuite, capabilities=capabilities, provider=provider))))

    def test_a_refused_construction_is_a_verdict(self) -> None:
        texts = {
            provider: outcomes(suite(BreakerSuite, capabilities={"validation"}, provider=provider))["TB-02"].message
            for provider in (TakesAnything, RefusesInItsOwnWords)
        }
        self.assertIn("expected  InvalidArgumentError\n  observed  a provider", texts[TakesAnything])
        self.assertIn("given     make_provider(failure_threshold=0)", texts[TakesAnything])
        self.assertIn("observed  ZeroDivisionError: no threshold", texts[RefusesInItsOwnWords])

    def test_a_factory_that_fails_otherwise_is_an_error(self) -> None:
        async def broken(self: object, **config: Any) -> Breaker:
            raise OSError("no route")

        found = outcomes(suite(BreakerSuite, make_provider=broken))
        self.assertEqual("error", found["TB-01"].outcome)

    def test_what_has_no_rule_behind_it_cannot_be_claimed(self) -> None:
        self.assertEqual(
            "Suite mixes multi_tenancy, of which no rule has a subject under toy_breaker: leave it out.",
            refusal(BreakerSuite, MultiTenancyPolicy),
        )
        self.assertIn("unknown capability 'limits' of toy_breaker", refusal(BreakerSuite, capabilities={"limits"}))
        self.assertIn("availability", refusal(BreakerSuite, profile="production"))

    def test_a_profile_demands_what_the_contract_has_rules_for(self) -> None:
        async def unreachable(self: object) -> Breaker:
            raise NotImplementedError

        cls = suite(BreakerSuite, profile="production", unreachable_provider=unreachable)
        self.assertEqual({"availability", "lifecycle", "shared", "validation"}, set(cls.declared))

    def test_the_trace_shows_the_calls(self) -> None:
        result, _ = run(suite(BreakerSuite, capabilities={"manual_control"}, provider=NeverOpens))
        [(_, text), _] = result.failures
        self.assertIn("TB-01 [MUST] The circuit opens at the failure number `failure_threshold`, not before.", text)
        self.assertRegex(text, r"ms execute\(<function _raise at [^>]*>\) raised LookupError")
