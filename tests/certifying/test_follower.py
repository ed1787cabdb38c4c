"""Suites apart from the process that asks, and followed from outside."""

import json
import os
import sys
import tempfile
import threading
import unittest
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import omnitck

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
    definition = omnitck.Definition(name="echo", prefix="EC", protocols={"": Echo, "loud": Loud})

    @omnitck.rule("EC-01")
    async def test_ec_01_first(self, t):
        """The first answer is right."""
        t.same(await (await t.connect()).echo("a"), "a", given="echo")

    @omnitck.rule("EC-02")
    async def test_ec_02_second(self, t):
        """The second answer is right."""
        t.same(await (await t.connect()).echo("b"), "b", given="echo")

    @omnitck.rule("EC-03", "loud")
    async def test_ec_03_loud(self, t):
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

class Secretive(EchoContract, unittest.IsolatedAsyncioTestCase):
    def setUp(self): self.credentials = ("farewell",)
    async def make_provider(self): return await leaves()

class PatientContract(omnitck.Contract):
    """Certifies patience."""
    definition = omnitck.Definition(name="patient", prefix="PA", protocols={"": Echo})

    @omnitck.rule("PA-01")
    async def test_pa_01_waits(self, t):
        """It waits for what may last longer than its deadline and the grace of who follows."""
        for seconds in (0.9, 0.9, 3.0):
            with t.waiting(seconds):
                await asyncio.sleep(seconds)

class Patient(PatientContract, unittest.IsolatedAsyncioTestCase):
    async def make_provider(self):
        return Honest()

class OnTrio(EchoContract, unittest.IsolatedAsyncioTestCase):
    backend = "trio"
    async def make_provider(self): return Honest()
'''


class TestCertify(unittest.TestCase):
    """Most of the time of most of them is waiting, so the children of all tests run beside each other."""

    ISOLATED = (
        *("blocks", "keeps_the_lock", "hangs", "swallows", "opens_never", "opens_blocked", "opens_leaving", "opens_nothing"),
        *("honest", "leaves", "crashes", "raises_system_exit", "raises_noise", "prints", "opens_unavailable"),
        *("NoServer", "NotHere", "SetUpFails", "Secretive", "Patient"),
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

    def test_a_rule_that_waits_within_declared_bounds_is_not_ended(self) -> None:
        for certificate in (self.isolated["Patient"].result(), self.certify("Patient", isolate=False)):
            self.assertEqual(self.outcomes(certificate)["PA-01"], "passed")
            seconds = next(each.seconds for each in certificate.suites[0].outcomes if each.rule == "PA-01")
            self.assertGreater(seconds, 4.5, "more than the deadline and the grace together")

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
        in_the_class = omnitck.certify(
            self.providers.EchoContract, make_provider=self.providers.leaves, credentials=("farewell",), isolate=True
        )
        for certificate in (in_the_class, self.isolated["Secretive"].result()):
            self.assertIn("***", self.message(certificate))
            self.assertNotIn("farewell", certificate.as_json())
