"""Many rules at a time, and suites apart from the process that asks."""

import functools
import json
import os
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import omnitck
from omnitck.runner import ConcurrentSuite

Log = list[str]


class Noting(unittest.TestResult):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.log: Log = []

    def startTest(self, test: Any) -> None:  # noqa: N802
        super().startTest(test)
        self.log.append(f"start {_name(test)}")

    def stopTest(self, test: Any) -> None:  # noqa: N802
        super().stopTest(test)
        self.log.append(f"stop {_name(test)}")

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        self.log.append(f"success {_name(test)}")

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.log.append(f"failure {_name(test)}: {err[1]}")

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.log.append(f"error {_name(test)}: {err[1]}")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self.log.append(f"skip {_name(test)}: {reason}")


def _name(test: Any) -> str:
    return str(test.id()).rpartition(".")[2]


def run(cls: type[unittest.TestCase], *, jobs: int = 4, failfast: bool = False) -> Log:
    result = Noting()
    result.failfast = failfast
    ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(cls), jobs=jobs).run(result)
    return result.log


class TestConcurrentSuite(unittest.TestCase):
    def test_results_arrive_whole_and_in_order_whatever_ends_first(self) -> None:
        class Case(unittest.IsolatedAsyncioTestCase):
            second = threading.Event()

            async def test_1_waits_for_the_second(self) -> None:
                self.assertTrue(self.second.wait(60))

            async def test_2(self) -> None:
                self.second.set()

            async def test_3_fails(self) -> None:
                self.fail("no")

            async def test_4_errs(self) -> None:
                raise ValueError("oh")

            async def test_5_skips(self) -> None:
                self.skipTest("why")

        self.assertEqual(
            run(Case),
            [
                *("start test_1_waits_for_the_second", "success test_1_waits_for_the_second", "stop test_1_waits_for_the_second"),
                *("start test_2", "success test_2", "stop test_2"),
                *("start test_3_fails", "failure test_3_fails: no", "stop test_3_fails"),
                *("start test_4_errs", "error test_4_errs: oh", "stop test_4_errs"),
                *("start test_5_skips", "skip test_5_skips: why", "stop test_5_skips"),
            ],
        )

    def test_expected_failures_and_failing_subtests_are_not_lost(self) -> None:
        class Case(unittest.TestCase):
            @unittest.expectedFailure
            def test_expected(self) -> None:
                self.fail()

            @unittest.expectedFailure
            def test_unexpected(self) -> None: ...

            def test_parts(self) -> None:
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertNotEqual(number, 1)

        result = unittest.TestResult()
        ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(Case)).run(result)
        self.assertEqual((len(result.expectedFailures), len(result.unexpectedSuccesses), len(result.failures)), (1, 1, 1))
        self.assertFalse(result.wasSuccessful())

    def test_an_exclusive_rule_runs_alone_after_the_others_and_is_told_in_order(self) -> None:
        running: set[str] = set()
        seen: list[tuple[str, int]] = []

        class Case(unittest.TestCase):
            def _note(self) -> None:
                running.add(self.id())
                time.sleep(0.01)
                seen.append((_name(self), len(running)))
                running.remove(self.id())

            def test_1(self) -> None:
                self._note()

            def test_2_alone(self) -> None:
                self._note()

            def test_3(self) -> None:
                self._note()

            test_2_alone.rule = mock.Mock(exclusive=True)  # type: ignore[attr-defined]

        log = run(Case)
        self.assertEqual(seen[-1], ("test_2_alone", 1))
        self.assertEqual(
            [each for each in log if each.startswith("start")], ["start test_1", "start test_2_alone", "start test_3"]
        )

    def test_fixtures_run_once_around_the_tests(self) -> None:
        order: Log = []

        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls) -> None:
                order.append("set up")
                cls.addClassCleanup(order.append, "clean up")

            @classmethod
            def tearDownClass(cls) -> None:
                order.append("tear down")

            def test_1(self) -> None:
                order.append("test")

            test_2 = test_1

        module: Any = sys.modules[Case.__module__]
        fixtures: dict[str, Any] = {each: functools.partial(order.append, each) for each in ("setUpModule", "tearDownModule")}
        with mock.patch.multiple(module, None, True, **fixtures):
            run(Case)
        self.assertEqual(order, ["setUpModule", "set up", "test", "test", "tear down", "clean up", "tearDownModule"])

    def test_failing_fixtures_are_told_as_unittest_tells_them(self) -> None:
        class Case(unittest.TestCase):
            trouble: ClassVar[BaseException]

            @classmethod
            def setUpClass(cls) -> None:
                cls.addClassCleanup(cls._clean)
                raise cls.trouble

            @classmethod
            def _clean(cls) -> None:
                raise KeyError("cleanup")

            def test_1(self) -> None: ...

        for trouble in (ValueError("no server"), unittest.SkipTest("not here")):
            with self.subTest(trouble):
                Case.trouble = trouble
                plain, concurrent = Noting(), Noting()
                unittest.TestSuite([Case("test_1")]).run(plain)
                ConcurrentSuite([Case("test_1")]).run(concurrent)
                self.assertEqual(concurrent.log, plain.log)
                self.assertEqual([str(test) for test, _ in concurrent.errors], [str(test) for test, _ in plain.errors])

    def test_a_failing_module_fixture_keeps_the_tests_from_running(self) -> None:
        class Case(unittest.TestCase):
            def test_1(self) -> None: ...

        def fail() -> None:
            raise ValueError("no module")

        result = Noting()
        with mock.patch.object(sys.modules[Case.__module__], "setUpModule", fail, create=True):
            ConcurrentSuite([Case("test_1")]).run(result)
        self.assertEqual([str(test) for test, _ in result.errors], [f"setUpModule ({Case.__module__})"])
        self.assertEqual(result.testsRun, 0)

    def test_failfast_stops(self) -> None:
        class Case(unittest.TestCase):
            def test_1_fails(self) -> None:
                self.fail("no")

            def test_2(self) -> None: ...

        self.assertEqual(run(Case, failfast=True), ["start test_1_fails", "failure test_1_fails: no", "stop test_1_fails"])

    def test_an_interrupt_reaches_the_caller(self) -> None:
        class Case(unittest.TestCase):
            def test_1(self) -> None:
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            run(Case)

    def test_waits_overlap(self) -> None:
        barrier = threading.Barrier(8, timeout=60)

        class Case(unittest.IsolatedAsyncioTestCase):
            async def test_1(self) -> None:
                barrier.wait()

        for number in range(2, 9):
            setattr(Case, f"test_{number}", Case.test_1)
        self.assertEqual(len([each for each in run(Case, jobs=8) if each.startswith("success")]), 8)


# Providers of a contract with one operation, most of them hostile. Another process imports them from a module of this text.

HOSTILE = '''
import asyncio, atexit, ctypes, os, pathlib, time, unittest
import omnitck

class Echo:
    """The protocol."""
    async def echo(self, text: str) -> str: ...

class Loud:
    """A promise."""

class EchoContract(omnitck.Contract):
    """Certifies an echo."""
    name, prefix, protocols = "echo", "EC", {"": Echo, "loud": Loud}

    @omnitck.rule("EC-01")
    async def test_ec_01_first(self):
        """The first answer is right."""
        self.same(await (await self.connect()).echo("a"), "a", given="echo")

    @omnitck.rule("EC-02")
    async def test_ec_02_second(self):
        """The second answer is right."""
        self.same(await (await self.connect()).echo("b"), "b", given="echo")

    @omnitck.rule("EC-03", "loud")
    async def test_ec_03_loud(self):
        """It can be loud."""

class Honest(Echo):
    async def echo(self, text):
        return await self.act(text) if text == "b" else text
    async def act(self, text):
        return text

def provider(act):
    made = type(act.__name__.title(), (Honest,), {"act": act})
    async def make():
        return made()
    make.__qualname__ = make.__name__ = act.__name__
    return make

class Noisy:
    def __repr__(self): raise SystemExit("repr")
    __str__ = __repr__

class NoisyError(Exception):
    def __str__(self): raise KeyboardInterrupt
    __repr__ = __str__

@provider
async def honest(self, text): return text
@provider
async def blocks(self, text): time.sleep(1000)
@provider
async def keeps_the_lock(self, text): ctypes.PyDLL(None).sleep(1000)
@provider
async def hangs(self, text): await asyncio.sleep(1000)
@provider
async def swallows(self, text):
    while True:
        try: await asyncio.sleep(1000)
        except asyncio.CancelledError: pass
@provider
async def leaves(self, text): print("farewell", flush=True); os._exit(3)
@provider
async def crashes(self, text): os.kill(os.getpid(), 11)
@provider
async def raises_system_exit(self, text): raise SystemExit(7)
@provider
async def returns_noise(self, text): return Noisy()
@provider
async def raises_noise(self, text): raise NoisyError
@provider
async def floods(self, text): return "x" * 1_000_000
@provider
async def leaves_a_server(self, text): atexit.register(stop_slowly); return text
@provider
async def prints(self, text): print('{"event": "finished"}'); return text

def stop_slowly(): time.sleep(2.5); pathlib.Path(__file__).with_name("stopped").touch()

async def opens_never(): await asyncio.sleep(1000)
async def opens_blocked(): time.sleep(1000)
async def opens_nothing(): return None
async def opens_object(): return object()
async def opens_raising(): raise SystemExit("wrong password")
async def opens_leaving(): os._exit(9)

async def opens_unavailable():
    from omnitck.shared.exceptions import UnavailableError
    raise UnavailableError("no server")

class NoServer(EchoContract, unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no port")
    async def make_provider(self): return Honest()

class NotHere(NoServer):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("no such server")

class SetUpFails(EchoContract, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self): raise OSError("no disk")
    async def make_provider(self): return Honest()

class OnTrio(EchoContract, unittest.IsolatedAsyncioTestCase):
    backend = "trio"
    async def make_provider(self): return Honest()
'''


class TestCertify(unittest.TestCase):
    """Most of the time of most of them is waiting, so the children of all tests run beside each other."""

    ISOLATED = (
        *("blocks", "keeps_the_lock", "hangs", "swallows", "opens_never", "opens_blocked", "opens_leaving", "opens_nothing"),
        *("honest", "leaves", "crashes", "raises_system_exit", "raises_noise", "prints", "opens_unavailable"),
        *("NoServer", "NotHere", "SetUpFails"),
    )
    providers: ClassVar[Any]
    results: ClassVar[Path]
    isolated: ClassVar[dict[str, Future[omnitck.Certificate]]]

    @classmethod
    def setUpClass(cls) -> None:
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        Path(directory, "hostile_providers.py").write_text(HOSTILE)
        sys.path.insert(0, directory)
        cls.addClassCleanup(sys.path.remove, directory)
        import hostile_providers  # type: ignore[import-not-found]

        cls.providers = hostile_providers
        cls.addClassCleanup(sys.modules.pop, "hostile_providers")
        cls.results = Path(directory, "results")
        cls.enterClassContext(mock.patch.dict(os.environ, OMNITCK_RESULTS=str(cls.results)))
        pool = cls.enterClassContext(ThreadPoolExecutor(6))
        cls.isolated = {each: pool.submit(cls.certify, each) for each in cls.ISOLATED}
        cls.isolated["honest, 4 jobs"] = pool.submit(cls.certify, "honest", jobs=4)
        cls.isolated["leaves_a_server"] = pool.submit(cls.certify, "leaves_a_server", grace=10)

    @classmethod
    def certify(cls, name: str, *, isolate: bool = True, **keywords: Any) -> omnitck.Certificate:
        made = getattr(cls.providers, name)
        keywords = {"deadline": 1, "grace": 1, "isolate": isolate} | keywords
        if isinstance(made, type):
            return omnitck.certify(made, **keywords)

        return omnitck.certify(cls.providers.EchoContract, make_provider=made, **keywords)

    def outcomes(self, certificate: omnitck.Certificate) -> dict[str, str]:
        return {each.rule: str(each.outcome) for each in certificate.suites[0].outcomes}

    def message(self, certificate: omnitck.Certificate, rule: str = "EC-02") -> str:
        message = next(each.message for each in certificate.suites[0].outcomes if each.rule == rule)
        self.assertLess(len(message), 5000)
        return message

    def test_an_honest_provider_conforms_wherever_it_runs(self) -> None:
        for isolated, certificate in (
            (True, self.isolated["honest"].result()),
            (True, self.isolated["honest, 4 jobs"].result()),
            (False, self.certify("honest", isolate=False)),
            (False, self.certify("honest", isolate=False, jobs=4)),
        ):
            with self.subTest(isolated=isolated, jobs=certificate.jobs):
                self.assertEqual((certificate.verdict, certificate.isolated), ("conformant", isolated))
                self.assertEqual(self.outcomes(certificate), {"EC-01": "passed", "EC-02": "passed", "EC-03": "not declared"})
                self.assertEqual(certificate.suites[0].provider, "hostile_providers.Honest")

    def test_a_suite_on_trio(self) -> None:
        self.assertEqual(omnitck.certify(self.providers.OnTrio, isolate=False).verdict, "conformant")

    def test_what_hangs_for_ever_is_ended_and_shown(self) -> None:
        for name in ("blocks", "keeps_the_lock"):
            with self.subTest(name):
                certificate = self.isolated[name].result()
                self.assertEqual(self.outcomes(certificate), {"EC-01": "passed", "EC-02": "error", "EC-03": "not run"})
                self.assertEqual(certificate.verdict, "inconclusive")
                self.assertIn("none after 2 s; its process was ended", self.message(certificate))
                self.assertIn(f"in {name}", self.message(certificate))

    def test_what_swallows_its_cancellation_does_not_pass(self) -> None:
        # The kit's own deadline finds it; only its event loop cannot be closed.
        certificate = self.isolated["swallows"].result()
        self.assertIn(self.outcomes(certificate)["EC-02"], ("failed", "error"))

    def test_a_process_has_time_to_stop_what_it_started(self) -> None:
        self.assertEqual(self.isolated["leaves_a_server"].result().verdict, "conformant")
        self.assertTrue(Path(self.providers.__file__).with_name("stopped").exists())

    def test_in_a_thread_it_is_left_behind(self) -> None:
        with mock.patch.object(self.providers.time, "sleep", threading.Event().wait):
            certificate = self.certify("blocks", isolate=False)
        self.assertEqual(self.outcomes(certificate), {"EC-01": "passed", "EC-02": "error", "EC-03": "not run"})
        self.assertIn("left behind", self.message(certificate))
        self.assertIn("in blocks", self.message(certificate))

    def test_what_ends_its_process_is_told(self) -> None:
        for name, how, shown in (
            ("leaves", "ended with exit status 3", "farewell"),
            ("crashes", "was ended by SIGSEGV", "in crashes"),
        ):
            with self.subTest(name):
                certificate = self.isolated[name].result()
                self.assertEqual(certificate.verdict, "inconclusive")
                self.assertEqual(self.outcomes(certificate), {"EC-01": "passed", "EC-02": "error", "EC-03": "not run"})
                self.assertIn(f"the process {how} during this rule", self.message(certificate))
                self.assertIn(shown, self.message(certificate))
                self.assertIn(f"the process {how} before", self.message(certificate, "EC-03"))

    def test_other_hostility_fails_the_rule(self) -> None:
        for certificate, shown in (
            (self.certify("returns_noise", isolate=False), "Noisy object, whose __repr__ raised SystemExit"),
            (self.certify("floods", isolate=False), "(1000000 long)"),
            (self.isolated["hangs"].result(), "a verdict within 1 s"),
            (self.isolated["raises_system_exit"].result(), "SystemExit: 7"),
        ):
            with self.subTest(shown):
                self.assertEqual(certificate.verdict, "not conformant", certificate.as_json())
                self.assertIn(shown, self.message(certificate))

    def test_a_keyboard_interrupt_of_the_provider_is_not_the_users(self) -> None:
        certificate = self.isolated["raises_noise"].result()
        self.assertNotEqual(self.outcomes(certificate)["EC-02"], "passed")

    def test_what_a_provider_prints_is_no_event(self) -> None:
        self.assertEqual(self.isolated["prints"].result().verdict, "conformant")

    def test_what_is_no_provider_is_bad_input(self) -> None:
        for name, sentence in {
            "opens_nothing": "make_provider returned None",
            "opens_object": "which is no provider of echo: it has none of echo.",
            "opens_raising": "make_provider raised SystemExit: wrong password",
        }.items():
            with self.subTest(name):
                with self.assertRaises(omnitck.UsageError) as caught:
                    self.certify(name, isolate=False)
                self.assertIn(sentence, str(caught.exception))
        with self.assertRaisesRegex(omnitck.UsageError, "make_provider returned None"):
            self.isolated["opens_nothing"].result()

    def test_a_provider_that_cannot_be_opened_is_inconclusive(self) -> None:
        for name, sentence in {
            "opens_never": "No provider could be opened",
            "opens_blocked": "Opening a provider did not end",
            "opens_leaving": "The process ended with exit status 9 while a provider was opened",
            "opens_unavailable": "UnavailableError: no server",
        }.items():
            with self.subTest(name):
                certificate = self.isolated[name].result()
                self.assertEqual((certificate.verdict, certificate.exit_status), ("inconclusive", 3))
                self.assertIn(sentence, certificate.suites[0].problem)
                self.assertEqual(set(self.outcomes(certificate).values()), {"not run"})

    def test_fixtures_that_fail_are_told(self) -> None:
        certificate = self.isolated["NoServer"].result()
        self.assertIn("raised OSError: no port", certificate.suites[0].problem)
        self.assertEqual(certificate.verdict, "inconclusive")
        certificate = self.isolated["NotHere"].result()
        self.assertEqual((certificate.verdict, certificate.exit_status), ("nothing ran", 5))
        self.assertIn("no such server", self.message(certificate))
        certificate = self.isolated["SetUpFails"].result()
        self.assertEqual(certificate.verdict, "inconclusive")
        self.assertIn("OSError: no disk", self.message(certificate))

    def test_the_outcome_stream_holds_the_rule_that_hung(self) -> None:
        name = self.isolated["keeps_the_lock"].result().suites[0].name
        events = [json.loads(each) for each in self.results.read_text().splitlines()]
        told = [(each["rule"], each["outcome"]) for each in events if each["suite"] == name]
        self.assertEqual(told, [("EC-01", "passed"), ("EC-02", "error")])

    def test_bad_input_of_one_suite_does_not_lose_the_others(self) -> None:
        good, bad = (
            omnitck.compose(self.providers.EchoContract, make_provider=getattr(self.providers, each), class_name=each)
            for each in ("honest", "opens_nothing")
        )
        certificate = omnitck.certify(bad, good, isolate=False)
        self.assertEqual([each.verdict for each in certificate.suites], ["inconclusive", "conformant"])
        self.assertEqual(certificate.exit_status, 2)

    def test_secrets_do_not_appear(self) -> None:
        certificate = omnitck.certify(
            self.providers.EchoContract, make_provider=self.providers.leaves, credentials=("farewell",), isolate=True
        )
        self.assertIn("***", self.message(certificate))
        self.assertNotIn("farewell", certificate.as_json())


if __name__ == "__main__":
    unittest.main()
