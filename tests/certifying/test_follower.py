"""Suites apart from the process that asks, and followed from outside."""

import functools
import json
import os
import re
import tempfile
import threading
import time
import unittest
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import omnitck
from omnitck.certifying import follower, places
from omnitck.certifying.interrupts import Interrupts
from omnitck.kit.outcomes import Outcome, Status
from omnitck.report.observer import Observer
from tests.certifying import hostile, hostile_module

HONEST = {"EC-01": "passed", "EC-02": "passed", "EC-03": "not declared", "EC-04": "passed"}
SECOND_FAILS = HONEST | {"EC-02": "failed"}
SECOND_ERRS = HONEST | {"EC-02": "error"}


def certify(name: str, *, isolate: bool = True, module: Any = hostile, **keywords: Any) -> omnitck.Certificate:
    """The certificate of what *name* stands for: a suite, or the factory of a provider."""
    made = getattr(module, name)
    keywords = {"deadline": 1, "grace": 1, "isolate": isolate} | keywords
    if isinstance(made, type):
        return omnitck.certify(made, **keywords)

    return omnitck.certify(keywords.pop("contract", hostile.EchoContract), make_provider=made, **keywords)


crowd = functools.partial(certify, contract=hostile.CrowdContract, deadline=3, jobs=5)


class CertifyCase(unittest.TestCase):
    """Most of the time of most tests is waiting, so the children of all of them run beside each other."""

    RUNS: ClassVar[dict[str, Any]]
    """For each run its name, or a function that makes it."""
    results: ClassVar[Path]
    directory: ClassVar[Path]
    runs: ClassVar[dict[str, Future[omnitck.Certificate]]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.results = cls.directory / "results"
        paths = {each: str(cls.directory / each.lower()) for each in ("STOPPED", "TIDIED", "NOTES")}
        cls.enterClassContext(mock.patch.dict(os.environ, OMNITCK_RESULTS=str(cls.results), **paths))
        pool = cls.enterClassContext(ThreadPoolExecutor(10))
        cls.runs = {name: pool.submit(run or functools.partial(certify, name)) for name, run in cls.RUNS.items()}

    def run_of(self, name: str) -> omnitck.Certificate:
        return self.runs[name].result()

    def outcomes(self, certificate: omnitck.Certificate) -> dict[str, str]:
        return {each.rule: str(each.outcome) for each in certificate.suites[0].outcomes}

    def outcome(self, certificate: omnitck.Certificate, rule: str = "EC-02") -> Outcome:
        outcome = next(each for each in certificate.suites[0].outcomes if each.rule == rule)
        self.assertLess(len(outcome.message), 5000)
        return outcome

    def message(self, certificate: omnitck.Certificate, rule: str = "EC-02") -> str:
        return self.outcome(certificate, rule).message

    def streamed(self, name: str) -> list[tuple[str, str]]:
        """What the stream of outcomes says of the suite of that name."""
        events = [json.loads(each) for each in self.results.read_text().splitlines()]
        return [(each["rule"], each["outcome"]) for each in events if each["suite"] == name]


class TestCertify(CertifyCase):
    RUNS: ClassVar[dict[str, Any]] = dict.fromkeys(
        (
            *("blocks", "keeps_the_lock", "hangs", "swallows", "opens_never", "opens_blocked", "opens_leaving", "opens_nothing"),
            *("honest", "leaves", "crashes", "kills_itself", "raises_system_exit", "raises_noise", "prints", "opens_unavailable"),
            *("NoServer", "NotHere", "SetUpFails", "Secretive", "Patient", "Known", "opens_twice", "opens_raising"),
            *("opens_refused", "SetUpHangs", "slow_to_close"),
        )
    ) | {"honest, 4 jobs": functools.partial(certify, "honest", jobs=4)}

    def test_an_honest_provider_conforms_wherever_it_runs(self) -> None:
        for isolated, certificate in (
            (True, self.run_of("honest")),
            (True, self.run_of("honest, 4 jobs")),
            (False, certify("honest", isolate=False)),
            (False, certify("honest", isolate=False, jobs=4)),
        ):
            with self.subTest(isolated=isolated, jobs=certificate.jobs):
                self.assertEqual((certificate.verdict, certificate.isolated), ("conformant", isolated))
                self.assertEqual(self.outcomes(certificate), HONEST)
                self.assertEqual(certificate.suites[0].provider, "tests.certifying.hostile.Honest")
                self.assertEqual(certificate.suites[0].left_behind, ())

    def test_a_suite_on_trio(self) -> None:
        self.assertEqual(certify("OnTrio", isolate=False).verdict, "conformant")

    def test_what_hangs_for_ever_is_failed_and_the_rest_runs(self) -> None:
        for name in ("blocks", "keeps_the_lock"):
            with self.subTest(name):
                certificate = self.run_of(name)
                self.assertEqual(self.outcomes(certificate), SECOND_FAILS)
                self.assertEqual((certificate.verdict, certificate.suites[0].problem), ("not conformant", ""))
                self.assertRegex(self.message(certificate), r"none after \d s; its process was ended")
                self.assertIn(f"in {name}", self.message(certificate))

    def test_a_known_deviation_may_hang(self) -> None:
        certificate = self.run_of("Known")
        self.assertEqual(self.outcomes(certificate), HONEST | {"EC-02": "known deviation"})
        self.assertIn("its process was ended", self.message(certificate))

    def test_a_rule_that_waits_within_declared_bounds_is_not_ended(self) -> None:
        for certificate in (self.run_of("Patient"), certify("Patient", isolate=False)):
            self.assertEqual(self.outcomes(certificate)["PA-01"], "passed")
            self.assertGreater(self.outcome(certificate, "PA-01").seconds, 4.5, "more than the deadline and the grace together")

    def test_a_client_that_closes_as_slowly_as_it_may_is_not_ended(self) -> None:
        certificate = self.run_of("slow_to_close")
        self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("conformant", HONEST))
        self.assertGreater(self.outcome(certificate).seconds, 2.0, "more than the deadline and the grace together")

    def test_what_swallows_its_cancellation_does_not_pass(self) -> None:
        certificate = self.run_of("swallows")
        self.assertEqual(self.outcomes(certificate), SECOND_FAILS)

    def test_in_a_thread_it_is_left_behind_and_the_rest_runs(self) -> None:
        with mock.patch.object(time, "sleep", threading.Event().wait):
            certificate = certify("blocks", isolate=False)
        self.assertEqual(self.outcomes(certificate), SECOND_FAILS)
        self.assertIn("left behind", self.message(certificate))
        self.assertIn("in blocks", self.message(certificate))

    def test_in_a_thread_the_class_is_set_up_and_torn_down_once(self) -> None:
        counts, over = hostile.CountsFixtures.counts, threading.Event()
        counts.clear()
        before = set(threading.enumerate())
        with mock.patch.object(time, "sleep", over.wait):
            certificate = certify("CountsFixtures", isolate=False)
            left = set(threading.enumerate()) - before
            over.set()
            for each in left:  # What was left behind comes to its end, and must not touch the class again.
                each.join(20)
        self.assertEqual(self.outcomes(certificate), SECOND_FAILS)
        self.assertEqual(counts, ["set up", "torn down"])
        self.assertNotEqual(left, set())

    def test_what_ends_its_process_is_failed_and_the_rest_runs(self) -> None:
        for name, how, shown in (
            ("leaves", "ended with exit status 3", "farewell"),
            ("crashes", "was ended by SIGSEGV", "in crashes"),
            ("kills_itself", "was ended by SIGKILL", ""),
        ):
            with self.subTest(name):
                certificate = self.run_of(name)
                self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("not conformant", SECOND_FAILS))
                self.assertIn(f"the process {how} during this rule", self.message(certificate))
                self.assertIn(shown, self.message(certificate))

    def test_other_hostility_fails_the_rule(self) -> None:
        for certificate, shown in (
            (certify("returns_noise", isolate=False), "Noisy object, whose __repr__ raised SystemExit"),
            (certify("floods", isolate=False), "(1000000 long)"),
            (self.run_of("hangs"), "a verdict within 1 s"),
            (self.run_of("raises_system_exit"), "SystemExit: 7"),
        ):
            with self.subTest(shown):
                self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("not conformant", SECOND_FAILS))
                self.assertIn(shown, self.message(certificate))

    def test_a_keyboard_interrupt_of_the_provider_is_not_the_users(self) -> None:
        certificate = self.run_of("raises_noise")
        self.assertNotEqual(self.outcomes(certificate)["EC-02"], "passed")

    def test_what_a_provider_prints_is_no_event(self) -> None:
        self.assertEqual(self.run_of("prints").verdict, "conformant")

    def test_what_is_no_provider_is_bad_input(self) -> None:
        for name, sentence in {
            "opens_nothing": "make_provider returned None",
            "opens_object": "which is no provider of echo: it has none of echo.",
        }.items():
            with self.subTest(name):
                with self.assertRaises(omnitck.UsageError) as caught:
                    certify(name, isolate=False)
                self.assertIn(sentence, str(caught.exception))
        with self.assertRaisesRegex(omnitck.UsageError, "make_provider returned None"):
            self.run_of("opens_nothing")

    def test_a_provider_that_cannot_be_opened_is_inconclusive(self) -> None:
        for name, sentence in {
            "opens_never": "No provider could be opened",
            "opens_blocked": "Opening a provider did not end",
            "opens_leaving": "The process ended with exit status 9 while a provider was opened",
            "opens_unavailable": "UnavailableError: no server",
            "opens_raising": "No provider could be opened: make_provider raised SystemExit: wrong password (hostile.py line ",
            "opens_refused": "No provider could be opened: make_provider raised ConnectionRefusedError",
        }.items():
            with self.subTest(name):
                certificate = self.run_of(name)
                self.assertEqual((certificate.verdict, certificate.exit_status), ("inconclusive", 3))
                self.assertIn(sentence, certificate.suites[0].problem)
                self.assertEqual(set(self.outcomes(certificate).values()), {"not run"})
                self.assertEqual(self.message(certificate), certificate.suites[0].problem.partition("\n")[0])

    def test_what_raises_in_a_factory_is_named_where_it_stands(self) -> None:
        lines = Path(hostile.__file__).read_text().splitlines()
        for name, line in (("opens_raising", '    sys.exit("wrong password")'), ("opens_refused", "    await asyncio.open_conn")):
            number = next(number for number, each in enumerate(lines, 1) if each.startswith(line))
            self.assertIn(f"(hostile.py line {number})", self.run_of(name).suites[0].problem)

    def test_a_factory_that_hangs_later_is_an_error_of_that_rule(self) -> None:
        certificate = self.run_of("opens_twice")
        self.assertEqual(self.outcomes(certificate), SECOND_ERRS)
        self.assertRegex(self.message(certificate), r"^EC-02 could not be judged: make_provider.* its process was ended\n")
        self.assertIn("in opens_twice", self.message(certificate))

    def test_fixtures_that_fail_are_told(self) -> None:
        certificate = self.run_of("NoServer")
        self.assertIn("raised OSError: no port (hostile.py line ", certificate.suites[0].problem)
        self.assertEqual(certificate.verdict, "inconclusive")
        certificate = self.run_of("NotHere")
        self.assertEqual((certificate.verdict, certificate.exit_status), ("nothing ran", 5))
        self.assertIn("no such server", self.message(certificate))
        certificate = self.run_of("SetUpFails")
        self.assertEqual(certificate.verdict, "inconclusive")
        self.assertIn("OSError: no disk", self.message(certificate))

    def test_a_class_that_is_never_set_up_is_told(self) -> None:
        with mock.patch.object(follower, "QUIET_SECONDS", 0.0):
            certificate = certify("ServerHangs", grace=0.5)
        self.assertEqual((certificate.verdict, set(self.outcomes(certificate).values())), ("inconclusive", {"not run"}))
        self.assertRegex(
            certificate.suites[0].problem, "^Nothing happened for 3 s before the first rule; its process was ended.\n"
        )
        self.assertIn("in setUpClass: time.sleep(1000)", certificate.suites[0].problem)

    def test_set_ups_that_hang_end_the_suite(self) -> None:
        certificate = self.run_of("SetUpHangs")
        self.assertEqual(
            self.outcomes(certificate), {"EC-01": "passed", "EC-02": "error", "EC-03": "not declared", "EC-04": "error"}
        )
        self.assertRegex(self.message(certificate), "^EC-02 could not be judged: the set-up of its test had not ended after ")
        self.assertIn("set-ups and tear-downs do not end", certificate.suites[0].problem)

    def test_the_outcome_stream_holds_the_rule_that_hung(self) -> None:
        certificate = self.run_of("keeps_the_lock")
        self.assertEqual(self.streamed(certificate.suites[0].name), list(SECOND_FAILS.items()))

    def test_bad_input_of_one_suite_does_not_lose_the_others(self) -> None:
        good, bad = (
            omnitck.compose(hostile.EchoContract, make_provider=getattr(hostile, each), class_name=each)
            for each in ("honest", "opens_nothing")
        )
        certificate = omnitck.certify(bad, good, isolate=False)
        self.assertEqual([each.verdict for each in certificate.suites], ["inconclusive", "conformant"])
        self.assertEqual(certificate.exit_status, 2)

    def test_secrets_do_not_appear(self) -> None:
        in_the_class = omnitck.certify(
            hostile.EchoContract, make_provider=hostile.leaves, credentials=("farewell",), isolate=True
        )
        for certificate in (in_the_class, self.run_of("Secretive")):
            self.assertIn("***", self.message(certificate))
            self.assertNotIn("farewell", certificate.as_json())


class TestOutput(unittest.TestCase):
    def test_of_much_output_the_end_is_kept_and_no_more(self) -> None:
        tail = places._Tail(1000)
        with tail.writing() as stream:
            for number in range(100_000):
                stream.write(b"%d\n" % number)
        kept = tail.read()
        self.assertEqual(len(kept), 1000)
        self.assertTrue(kept.endswith(b"\n99998\n99999\n"))
        self.assertLessEqual(len(tail._kept), 3000 + (1 << 16))


class TestTearDowns(CertifyCase):
    """What fails once a rule was judged. No runner would call such a test a success, and certify does not either."""

    AFTER: ClassVar[dict[str, str]] = {
        "AsyncTearDownFails": "OSError: no disk",
        "CleanupFails": "AssertionError: something stayed",
        "PartOfTearDownFails": "AssertionError: something stayed",
        "TearDownFails": "AssertionError: something stayed",
    }
    AROUND: ClassVar[dict[str, str]] = {
        "ClassTearDownFails": "tearDownClass (tests.certifying.hostile.ClassTearDownFails) raised OSError: no disk",
        "ClassCleanupFails": "tearDownClass (tests.certifying.hostile.ClassCleanupFails) raised OSError: no disk",
    }
    RUNS: ClassVar[dict[str, Any]] = dict.fromkeys((*AFTER, *AROUND, "TearDownHangs", "TearDownLeaves", "RunsNothing")) | {
        "InModule": functools.partial(certify, "InModule", module=hostile_module),
        "CleanupFails, 4 jobs": functools.partial(certify, "CleanupFails", jobs=4),
    }

    def test_a_rule_that_had_passed_could_not_be_judged(self) -> None:
        certificates = {each: self.run_of(each) for each in self.AFTER if each != "TearDownFails"}
        certificates["CleanupFails, 4 jobs"] = self.run_of("CleanupFails, 4 jobs")
        certificates["CleanupFails in a thread"] = certify("CleanupFails", isolate=False)
        for name, certificate in certificates.items():
            with self.subTest(name):
                self.assertEqual((certificate.verdict, set(self.outcomes(certificate).values())), ("inconclusive", {"error"}))
                expected = f"EC-02 could not be judged: it had passed, and after that {self.AFTER[name.split(',')[0].split()[0]]}"
                self.assertTrue(self.message(certificate).startswith(expected), self.message(certificate))
                self.assertRegex(self.message(certificate), r"\(hostile\.py line \d+\)")

    def test_a_rule_that_had_failed_stays_so(self) -> None:
        certificate = self.run_of("TearDownFails")
        self.assertEqual(self.outcomes(certificate), dict.fromkeys(HONEST, "error") | {"EC-02": "failed"})
        self.assertIn("\n  observed  'wrong'\n", self.message(certificate))
        self.assertIn("\n  after     AssertionError: something stayed (", self.message(certificate))

    def test_what_fails_around_the_tests_is_a_problem_of_the_suite(self) -> None:
        problems = self.AROUND | {"InModule": "tearDownModule (tests.certifying.hostile_module) raised OSError: no disk"}
        for name, problem in problems.items():
            with self.subTest(name):
                certificate = self.run_of(name)
                self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("inconclusive", HONEST))
                self.assertRegex(certificate.suites[0].problem, rf"^{re.escape(problem)} \(hostile(_module)?\.py line \d+\)\.$")

    def test_unittest_agrees(self) -> None:
        for name in (*self.AFTER, *self.AROUND):
            with self.subTest(name):
                result = unittest.TestResult()
                unittest.defaultTestLoader.loadTestsFromTestCase(getattr(hostile, name)).run(result)
                self.assertFalse(result.wasSuccessful())
                self.assertNotEqual(self.run_of(name).exit_status, 0)

    def test_the_stream_agrees(self) -> None:
        self.run_of("AsyncTearDownFails")
        told = self.streamed("tests.certifying.hostile.AsyncTearDownFails")
        # unittest may have run it here, too, with the same outcomes.
        self.assertEqual(set(told), {(each, "error") for each in HONEST})

    def test_a_failure_cannot_be_expected(self) -> None:
        with self.assertRaisesRegex(omnitck.UsageError, "marked with unittest.expectedFailure"):
            certify("ExpectedFailure", isolate=False)

    def test_one_that_hangs_or_ends_the_process_is_not_the_providers(self) -> None:
        certificate = self.run_of("TearDownHangs")
        self.assertEqual(self.outcomes(certificate), SECOND_ERRS)
        self.assertRegex(
            self.message(certificate), "it had passed, and after that the tear-down of its test had not ended after "
        )
        certificate = self.run_of("TearDownLeaves")
        self.assertEqual(self.outcomes(certificate), SECOND_ERRS)
        self.assertIn("the process ended with exit status 4 in the tear-down of its test", self.message(certificate))
        self.assertIn("farewell", self.message(certificate))

    def test_a_test_that_does_not_run_its_rule_has_no_verdict(self) -> None:
        certificate = self.run_of("RunsNothing")
        self.assertEqual(self.outcomes(certificate), SECOND_ERRS)
        self.assertEqual(self.message(certificate), "EC-02 could not be judged: its test ended without it")


class TestChannel(CertifyCase):
    """Nothing but the worker says what became of a rule."""

    INTRUDED = "Something in the suite's process wrote into the channel of outcomes"
    RUNS: ClassVar[dict[str, Any]] = dict.fromkeys(("forges", "scribbles", "forks_a_copy")) | {
        "forks_and_dies": functools.partial(certify, "forks_and_dies", deadline=30)
    }

    def test_an_outcome_cannot_be_written_by_others(self) -> None:
        certificate = self.run_of("forges")
        self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("not conformant", SECOND_FAILS))
        self.assertIn(self.INTRUDED, certificate.suites[0].problem)

    def test_who_writes_there_has_no_certificate(self) -> None:
        certificate = self.run_of("scribbles")
        self.assertEqual((certificate.verdict, certificate.exit_status), ("inconclusive", 3))
        self.assertEqual(self.outcomes(certificate), HONEST)
        self.assertIn(self.INTRUDED, certificate.suites[0].problem)

    def test_a_copy_of_the_process_is_no_worker(self) -> None:
        certificate = self.run_of("forks_a_copy")
        self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("conformant", HONEST))

    def test_death_is_seen_although_others_hold_the_channel(self) -> None:
        certificate = self.run_of("forks_and_dies")
        self.assertLess(certificate.duration, 15, "not a deadline")
        self.assertEqual(self.outcomes(certificate), SECOND_FAILS)
        self.assertIn("the process was ended by SIGKILL during this rule", self.message(certificate))


class TestCrowds(CertifyCase):
    """Several rules were under way when something ended the process of all."""

    CROWD: ClassVar[dict[str, str]] = {f"CR-0{number}": "passed" for number in range(1, 6)}
    RUNS: ClassVar[dict[str, Any]] = {
        "assassin": functools.partial(crowd, "assassin"),
        "panics": functools.partial(crowd, "panics"),
        "blocker": functools.partial(crowd, "blocker", deadline=1.5),
        "lock_keeper": functools.partial(crowd, "lock_keeper", deadline=1.5),
        "one_loop": functools.partial(crowd, "one_loop"),
        "one_loop, 1 job": functools.partial(crowd, "one_loop", jobs=1, processes=3),
        "notes": functools.partial(crowd, "notes", jobs=1, processes=2),
    }

    def test_who_ends_the_process_is_found(self) -> None:
        certificate = self.run_of("assassin")
        self.assertEqual(self.outcomes(certificate), self.CROWD | {"CR-02": "failed", "CR-03": "failed"})
        self.assertIn("the process was ended by SIGKILL during this rule", self.message(certificate, "CR-02"))
        self.assertIn("observed  'wrong'", self.message(certificate, "CR-03"))
        self.assertEqual(certificate.suites[0].problem, "")

    def test_if_nobody_does_it_alone_there_is_no_verdict(self) -> None:
        certificate = self.run_of("panics")
        self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("inconclusive", self.CROWD))
        self.assertRegex(
            certificate.suites[0].problem,
            r"^The process was ended by SIGKILL while CR-01(, CR-0\d)+ were under way, and with none of them alone\.$",
        )

    def test_who_hangs_does_not_take_others_along(self) -> None:
        certificate = self.run_of("blocker")
        self.assertEqual(self.outcomes(certificate), self.CROWD | {"CR-02": "failed"})
        self.assertIn("its process was ended", self.message(certificate, "CR-02"))

    def test_who_keeps_the_interpreter_from_all_others_is_found(self) -> None:
        certificate = self.run_of("lock_keeper")
        self.assertEqual(self.outcomes(certificate), self.CROWD | {"CR-02": "failed"})
        self.assertIn("its process was ended", self.message(certificate, "CR-02"))
        self.assertEqual(certificate.suites[0].problem, "")

    def test_in_a_thread_the_others_are_waited_for(self) -> None:
        forever = threading.Event()
        with mock.patch.object(time, "sleep", lambda seconds: forever.wait(30) if seconds > 100 else forever.wait(seconds)):
            certificate = crowd("blocker", deadline=1.5, isolate=False)
            forever.set()
        self.assertEqual(self.outcomes(certificate), self.CROWD | {"CR-02": "failed"})
        self.assertIn("left behind", self.message(certificate, "CR-02"))

    def test_a_failure_says_that_it_does_not_happen_alone(self) -> None:
        certificate = self.run_of("one_loop")
        failed = [each.message for each in certificate.suites[0].outcomes if each.outcome == "failed"]
        self.assertGreater(len(failed), 1)
        for message in failed:
            self.assertRegex(message, r"\n  alone     it passes with --jobs 1: usually a client binds state of the whole process")
        certificate = self.run_of("assassin")
        self.assertNotIn("--jobs 1", self.message(certificate, "CR-03"), "it fails alone, too")

    def test_processes_share_the_rules(self) -> None:
        certificate = self.run_of("notes")
        self.assertEqual((certificate.verdict, certificate.processes), ("conformant", 2))
        notes = [each.split() for each in (self.directory / "notes").read_text().splitlines()]
        self.assertEqual(sorted(text for _, text in notes), ["a", "b", "c", "d", "e"])
        self.assertEqual(len({process for process, _ in notes}), 2)
        certificate = self.run_of("one_loop, 1 job")
        self.assertEqual((certificate.verdict, self.outcomes(certificate)), ("conformant", self.CROWD))

    def test_processes_need_isolation(self) -> None:
        wrong: tuple[tuple[dict[str, Any], str], ...] = (
            ({"processes": 0}, "processes is 0: give the number of processes"),
            ({"processes": 2, "isolate": False}, "processes is 2, but the suites are not to be isolated"),
        )
        for keywords, sentence in wrong:
            with self.assertRaisesRegex(omnitck.UsageError, sentence):
                certify("honest", **keywords)

        async def local() -> hostile.Honest:
            return hostile.Honest()

        with self.assertRaisesRegex(omnitck.UsageError, "cannot be isolated"):
            omnitck.certify(hostile.EchoContract, make_provider=local, processes=2)


class TestBounds(unittest.TestCase):
    """A suite that hangs everywhere comes to an end."""

    notes: ClassVar[list[str]] = []

    def setUp(self) -> None:
        self.notes.clear()

    @classmethod
    def hung(cls, factory: Any, **declarations: Any) -> tuple[Outcome, ...]:
        class Noting(Observer):
            def note(self, sentence: str) -> None:
                cls.notes.append(sentence)

        suite = omnitck.compose(hostile.CrowdContract, make_provider=factory, **declarations)
        settings = follower.Settings(grace=1.0)
        with mock.patch.object(follower, "SHORT_GRACE", 0.2):
            return follower.run_suites([follower.source_of(suite, settings)], settings, Noting()).suites[0].outcomes

    def check(self, outcomes: tuple[Outcome, ...], first: float, others: float) -> None:
        """The first two rules get more seconds than that, and the last two less."""
        self.assertEqual({str(each.outcome) for each in outcomes}, {"failed"})
        self.assertGreater(min(each.seconds for each in outcomes[:2]), first)
        self.assertLess(max(each.seconds for each in outcomes[-2:]), others)
        self.assertEqual(len(self.notes), 1)
        self.assertIn("2 rules had to be ended from outside", self.notes[0])

    def test_a_method_that_never_returns_gets_little_time(self) -> None:
        self.check(self.hung(hostile.blocks_everywhere, deadline=1.5), first=2.0, others=1.5)

    def test_so_does_a_client_that_never_closes(self) -> None:
        outcomes = self.hung(hostile.never_closes, deadline=5.0, patience=0.1)
        self.check(outcomes, first=2.0, others=1.25)
        self.assertIn("its clients close, once it has been judged", outcomes[0].message)
        self.assertIn("closing a client blocks the event loop", outcomes[0].message)


class TestWhatIsLeft(CertifyCase):
    """What outlives the suite is told, and ended."""

    RUNS: ClassVar[dict[str, Any]] = dict.fromkeys(("leaves_a_process",)) | {
        "leaves_a_server": functools.partial(certify, "leaves_a_server", grace=10),
        "leaves_a_thread": functools.partial(certify, "leaves_a_thread", grace=20),
    }

    def test_a_process_has_time_to_stop_what_it_started(self) -> None:
        certificate = self.run_of("leaves_a_server")
        self.assertEqual((certificate.verdict, certificate.suites[0].left_behind), ("conformant", ()))
        self.assertTrue((self.directory / "stopped").exists())

    def test_a_thread_is_named_and_not_waited_for(self) -> None:
        certificate = self.run_of("leaves_a_thread")
        self.assertEqual(certificate.verdict, "conformant")
        [sentence] = certificate.suites[0].left_behind
        self.assertEqual(
            sentence, "Thread 'poller', which was started while the suite ran, was still running after the last rule."
        )
        self.assertLess(certificate.duration, 12)
        self.assertTrue((self.directory / "tidied").exists(), "what runs at the exit of the process")

    def test_a_process_is_named_and_ended(self) -> None:
        certificate = self.run_of("leaves_a_process")
        self.assertEqual(certificate.verdict, "conformant")
        [sentence] = certificate.suites[0].left_behind
        self.assertRegex(sentence, r"^Process \d+ \(sleep\) outlived the suite's process, which had started it, and was ended\.$")
        status = Path(f"/proc/{sentence.split()[1]}/stat")
        self.assertIn(status.read_text().rpartition(")")[2].split()[0] if status.exists() else "gone", ("Z", "X", "gone"))
        self.assertEqual(list(certificate.as_dict()["left_behind"].values()), [[sentence]])


class TestLateness(unittest.TestCase):
    """How the grace is counted, with nothing that runs."""

    def test_in_what_the_rule_could_have_of_the_interpreter(self) -> None:
        for others, processor, goes_on in ((0, 0.0, False), (7, 0.0, False), (0, 10.0, False), (7, 10.0, True), (7, 80.0, True)):
            with self.subTest(others=others, processor=processor):
                late = self.late(others)
                asked = time.monotonic()
                state = {"seconds": -10.0, "processor": processor, "hung": {}, "answered": []}
                test = late.under_way["EC-01"]
                test.late = asked - 10.0, 0.0
                self.assertIs(self.followed()._may_go_on(late, test, asked, state), goes_on)
                self.assertGreater(test.look, asked)

    def test_what_waits_as_it_may_is_not_late(self) -> None:
        run = self.late(0)
        test = run.under_way["EC-01"]
        test.late = time.monotonic() - 1000, 0.0
        state = {"seconds": 5.0, "processor": 0.0, "hung": {}, "answered": []}
        self.assertTrue(self.followed()._may_go_on(run, test, time.monotonic(), state))
        self.assertIsNone(test.late)
        self.assertAlmostEqual(test.look, time.monotonic() + 5, delta=1)

    def followed(self) -> follower._Follower:
        return follower._Follower(hostile.Plain, follower.Settings(grace=9.0), Observer(), Interrupts())

    def late(self, others: int) -> follower._Run:
        run = follower._Run(follower._Task(1))
        for number in range(others + 1):
            run.under_way[f"EC-0{number + 1}"] = follower._UnderWay(0, 0.0, 0.0, "rule")
        return run


class TestTheKitsOwnCrashes(unittest.TestCase):
    """They end in one sentence, with what was found out so far."""

    def problem(self, certificate: omnitck.Certificate) -> str:
        self.assertEqual((certificate.verdict, certificate.exit_status), ("inconclusive", 3))
        self.assertNotIn("\n", certificate.suites[0].problem)
        return certificate.suites[0].problem

    def test_no_process_is_to_be_had(self) -> None:
        with mock.patch("subprocess.Popen", side_effect=BlockingIOError(11, "Resource temporarily unavailable")):
            problem = self.problem(certify("honest"))
        self.assertRegex(problem, r"^The kit could not go on: BlockingIOError: \[Errno 11\] .*, raised in places.py line \d+\.$")

    def test_no_descriptor_is_to_be_had(self) -> None:
        before = len(os.listdir("/dev/fd"))
        with mock.patch("subprocess.Popen", side_effect=OSError(24, "Too many open files")):
            self.problem(certify("honest"))
        self.assertEqual(len(os.listdir("/dev/fd")), before, "those that were had are given back")

    def test_no_thread_is_to_be_had(self) -> None:
        for isolate in (True, False):
            with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
                problem = self.problem(certify("honest", isolate=isolate))
            self.assertRegex(
                problem, r"^The kit could not go on: RuntimeError: can't start new thread, raised in places\.py line"
            )

    def test_something_goes_wrong_in_the_follower(self) -> None:
        def progress(outcome: Outcome) -> None:
            if outcome.rule == "EC-02":
                raise ZeroDivisionError("of the caller's")

        for isolate in (True, False):
            certificate = certify("honest", isolate=isolate, progress=progress)
            self.assertIn("ZeroDivisionError: of the caller's, raised in ", self.problem(certificate))
            statuses = [each.outcome for each in certificate.suites[0].outcomes]
            self.assertEqual(statuses, [Status.PASSED, Status.PASSED, Status.NOT_RUN, Status.NOT_RUN])

    def test_a_suite_that_cannot_be_made_does_not_lose_the_others(self) -> None:
        settings = follower.Settings(isolate=False)
        recipe = follower.source_of(hostile.Plain, follower.Settings())
        with mock.patch("omnitck.suites.Recipe.build", side_effect=[ZeroDivisionError("by zero"), hostile.Plain]):
            certificate = follower.run_suites([recipe, recipe], settings, Observer())
        self.assertEqual([each.verdict for each in certificate.suites], ["inconclusive", "conformant"])
        self.assertIn("ZeroDivisionError: by zero, raised in follower.py line ", certificate.suites[0].problem)

    def test_the_worker_cannot_make_threads(self) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if re.fullmatch(r"omnitck-\d", thread.name):
                raise RuntimeError("can't start new thread")
            start(thread)

        with mock.patch.object(threading.Thread, "start", refuse):
            problem = self.problem(certify("honest", isolate=False, jobs=4))
        self.assertRegex(problem, r"^The suite could not be run: RuntimeError: can't start new thread, raised in \S+ line \d+\.$")
