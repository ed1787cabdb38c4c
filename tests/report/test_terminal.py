"""The view of a certificate, and of a run, on a terminal."""

import io
import os
import time
import unittest
from dataclasses import replace
from unittest import mock

from omnitck.kit.outcomes import Status
from omnitck.report.certificate import NOT_SELECTED, Certificate, SuiteReport
from omnitck.report.terminal import Printer, Progress, printable, summarize
from tests.report.samples import certificate, suite


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(report: Certificate, *, brief: bool = False) -> str:
    stream = io.StringIO()
    summarize(report, Printer(stream), brief=brief)
    return stream.getvalue()


class TestTerminal(unittest.TestCase):
    def test_the_summary(self) -> None:
        report = suite(Status.PASSED, Status.PASSED, Status.FAILED, Status.NOT_DECLARED, Status.PASSED, Status.NOT_RUN)
        rules = list(report.rules)
        rules[1] = replace(rules[1], level="loud")
        rules[3] = replace(rules[3], level="ttl", declared=False)
        rules[4] = replace(rules[4], owner="multi_tenancy")
        outcomes = list(report.outcomes)
        outcomes[2] = replace(outcomes[2], message="EC-03 [MUST] It answers.\n  expected  'a'\n  observed  '\x1b[2J'")
        outcomes[5] = replace(outcomes[5], message="EC-05 hung before")
        report = replace(report, rules=tuple(rules), outcomes=tuple(outcomes))
        self.assertEqual(
            shown(certificate(report)),
            "\n"
            "FAILED: EC-03 [MUST] It answers.\n"
            "  expected  'a'\n"
            "  observed  '\\x1b[2J'\n"
            "\n"
            "rules          passed  failed   error  not run\n"
            "echo                2       1       -        1\n"
            "  core              1       1       -        1\n"
            "  loud              1       -       -        -\n"
            "multi_tenancy       1       -       -        -\n"
            "not declared: 1 rule of ttl (1)\n"
            "1 rule not run: EC-05 hung before\n"
            "\n"
            "verdict: not conformant (1.2 s, seed 7)\n",
        )

    def test_deviations_problems_and_several_suites(self) -> None:
        report = suite(Status.PASSED, Status.KNOWN_DEVIATION, known_deviations={"EC-01": "old", "EC-02": "ACME-1"})
        text = shown(certificate(report, suite(name="other", problem="No provider could be opened.")), brief=True)
        self.assertEqual(
            text,
            "known deviation EC-02: ACME-1\n"
            "not claimed: contract echo (EC-02)\n"
            "stale deviation EC-01: it passes; take it out of known_deviations\n"
            "\n"
            "other: No provider could be opened.\n"
            "\n"
            "mine.TestEcho  deviates, as known\n"
            "other          inconclusive\n"
            "\n"
            "verdict: inconclusive (1.2 s, seed 7)\n",
        )

    def test_a_known_deviation_says_what_was_observed_and_what_is_therefore_not_claimed(self) -> None:
        message = (
            "EC-02 [MUST] It answers.\n"
            "  provider  mine.Echo\n"
            "  case      the empty text\n"
            '  given     get after set(key, "")\n'
            "  expected  ''\n"
            "  observed  None, and then a text\n"
            "            of two lines\n"
            "  case      another\n"
            "  expected  'b'\n"
            "  observed  'a'\n"
            "  hint      test for None\n"
            "  trace     +0.3 ms get('x') -> None\n"
            "  again     python -m unittest mine.TestEcho.test_ec_02"
        )
        report = suite(Status.PASSED, Status.KNOWN_DEVIATION, known_deviations={"EC-02": "ACME-1"}, demanded=("loud",))
        rules = report.rules[0], replace(report.rules[1], level="loud")
        outcomes = report.outcomes[0], replace(report.outcomes[1], message=message)
        report = replace(report, rules=rules, outcomes=outcomes, profile="production")
        self.assertIn(
            "known deviation EC-02: ACME-1\n"
            "  case      the empty text\n"
            '  given     get after set(key, "")\n'
            "  expected  ''\n"
            "  observed  None, and then a text\n"
            "            of two lines\n"
            "not claimed: capability loud (EC-02), profile production (EC-02)\n"
            "\n"
            "verdict: conformant, without loud and production (1.2 s, seed 7)\n",
            shown(certificate(report)),
        )
        brief = shown(certificate(report, suite(Status.PASSED, name="other")), brief=True)
        self.assertIn("known deviation EC-02: ACME-1\nnot claimed: capability loud", brief)
        self.assertIn("\nmine.TestEcho  conformant, without loud and production\nother          conformant\n", brief)
        self.assertIn("\nverdict: conformant, with claims withdrawn in 1 of 2 suites (1.2 s, seed 7)\n", brief)

    def test_a_suite_with_core_deviations_is_nowhere_called_conformant(self) -> None:
        report = suite(Status.PASSED, Status.KNOWN_DEVIATION, known_deviations={"EC-02": "ACME-1"})
        for text in (shown(certificate(report)), shown(certificate(report, report)), certificate(report).as_json()):
            self.assertIn("deviates, as known", text)
            self.assertNotIn("conformant", text)

    def test_nothing_is_claimed_by_a_suite_that_failed(self) -> None:
        report = suite(Status.FAILED, Status.KNOWN_DEVIATION, known_deviations={"EC-02": "ACME-1"})
        self.assertNotIn("claimed", shown(certificate(report)))

    def test_long_lines_are_folded_under_their_beginning(self) -> None:
        message = (
            "EC-01 [MUST] " + "It answers. " * 10 + "\n  expected  " + "word " * 30 + f"\n  observed  {'Z' * 190}"
            "\n  again     python -m omnitck certify " + "--capability loud " * 6
        )
        report = suite(Status.FAILED)
        report = replace(report, outcomes=(replace(report.outcomes[0], message=message),))
        lines = shown(certificate(report)).splitlines()
        self.assertLessEqual(max(map(len, lines)), 100)
        self.assertEqual(sum(each.startswith(" " * 12) for each in lines), 4)
        self.assertTrue(next(each for each in lines if "again" in each).endswith(" \\"))
        self.assertEqual("".join(each.strip() for each in lines).count("Z"), 190)

    def test_what_a_suite_left_behind_is_said_and_changes_no_verdict(self) -> None:
        report = suite(Status.PASSED, left_behind=("the thread 'pump' still runs.",))
        text = shown(certificate(report))
        self.assertIn("left behind: the thread 'pump' still runs.\n", text)
        self.assertIn("\nverdict: conformant (", text)

    def failing(self, *causes: str) -> str:
        """What is shown of as many rules, of which those with a cause have failed."""
        report = suite(*(Status.FAILED if each else Status.PASSED for each in causes))
        outcomes = [
            replace(outcome, cause=cause, message=f"{outcome.rule} is broken" if cause else "")
            for outcome, cause in zip(report.outcomes, causes, strict=True)
        ]
        return shown(certificate(replace(report, outcomes=tuple(outcomes), order=tuple(each.rule for each in outcomes))))

    def test_rules_that_failed_for_one_cause_are_shown_as_one(self) -> None:
        """The names that the kit made up for each differ."""
        text = self.failing("", *(f"OSError: no omnitck0123456789a{number}-{number}" for number in range(3)), "KeyError: 'x'")
        self.assertIn("\n3 rules failed the same way: OSError: no ...\nFAILED: EC-02 is broken\n  likewise  EC-03, EC-04\n", text)
        self.assertIn("\nFAILED: EC-05 is broken\n", text)
        self.assertNotIn("EC-03 is broken", text)

    def test_a_backend_that_died_is_said_once(self) -> None:
        self.assertIn(
            "\n3 rules failed the same way, every one from EC-03 on: OSError: gone\n",
            self.failing("", "", *["OSError: gone"] * 3),
        )

    def test_two_of_one_cause_are_shown_as_two(self) -> None:
        text = self.failing("OSError: gone", "OSError: gone")
        self.assertIn("EC-01 is broken", text)
        self.assertIn("EC-02 is broken", text)
        self.assertNotIn("the same way", text)

    def test_the_slowest_rules_are_named(self) -> None:
        report = suite(Status.PASSED, Status.PASSED, Status.PASSED)
        outcomes = [replace(each, seconds=seconds) for each, seconds in zip(report.outcomes, (0.1, 3.25, 0.2), strict=True)]
        stream = io.StringIO()
        summarize(certificate(replace(report, outcomes=tuple(outcomes))), Printer(stream), durations=2)
        self.assertIn("\n seconds  rule\n   3.250  EC-02\n   0.200  EC-03\n\nverdict", stream.getvalue())

    def test_a_traceback_follows_its_failure(self) -> None:
        report = suite(Status.FAILED)
        outcome = replace(report.outcomes[0], message="EC-01 is broken", traceback="Traceback\n  File\n")
        self.assertIn(
            "FAILED: EC-01 is broken\n  Traceback\n    File\n", shown(certificate(replace(report, outcomes=(outcome,))))
        )

    def test_a_selection_says_so(self) -> None:
        report = suite(Status.PASSED, Status.NOT_RUN, selected=True)
        report = replace(report, outcomes=(report.outcomes[0], replace(report.outcomes[1], message=NOT_SELECTED)))
        text = shown(certificate(report, selection=("EC-01",)))
        self.assertIn("  core       1       -       -\n1 rule not run: not selected\n", text)
        self.assertIn("verdict: partial: nothing that ran failed, but only EC-01 was selected", text)

    def test_progress_in_a_log_is_failures_and_a_line_now_and_then(self) -> None:
        stream = io.StringIO()
        progress = Progress(Printer(stream))
        report = suite(Status.PASSED, Status.FAILED, Status.PASSED, Status.ERROR)
        messages = ("", "EC-02 [MUST] It answers.\n  expected  1\n  observed  2", "", "EC-04 could not be judged: x")
        outcomes = [replace(each, message=text) for each, text in zip(report.outcomes, messages, strict=True)]
        with mock.patch("omnitck.report.terminal.time.monotonic") as now:
            now.return_value = 100.0
            progress.suite_began(report)
            for seconds, outcome in zip((5.0, 9.0, 10.0, 19.0), outcomes, strict=True):
                now.return_value = 100.0 + seconds
                progress.rule_ended(outcome)
        self.assertEqual(
            stream.getvalue(),
            "mine.TestEcho: echo with loud, 4 rules\n"
            "  FAILED EC-02: observed 2\n"
            "  3/4 2 passed, 1 failed\n"
            "  ERROR EC-04: EC-04 could not be judged: x\n",
        )

    def test_progress_on_a_terminal_is_one_line(self) -> None:
        screen = Screen()
        self._run(Progress(Printer(screen)), suite(Status.PASSED, Status.PASSED))
        self.assertEqual(screen.getvalue().count("\n"), 1)
        self.assertIn("\r  1/2 1 passed  EC-02", screen.getvalue())
        self.assertTrue(screen.getvalue().endswith("\r"))

    def test_what_fails_stands_above_it(self) -> None:
        screen = Screen()
        self._run(Progress(Printer(screen)), suite(Status.FAILED, Status.PASSED))
        self.assertRegex(screen.getvalue(), r"\r +\r\x1b\[31m  FAILED EC-01: \x1b\[0m\n\r  1/2 1 failed")

    def test_the_line_names_what_has_run_for_the_longest(self) -> None:
        screen = Screen()
        progress = Progress(Printer(screen))
        with mock.patch("omnitck.report.terminal.time.monotonic") as now:
            now.return_value = 100.0
            progress.rule_began("EC-01")
            now.return_value = 107.2
            progress.rule_began("EC-02")
        self.assertTrue(screen.getvalue().endswith("  0/0 starting  EC-01 for 7 s and 1 more"), screen.getvalue())

    def test_the_line_goes_on_while_nothing_happens(self) -> None:
        screen = Screen()
        progress = Progress(Printer(screen))
        with mock.patch("omnitck.report.terminal.TICK_SECONDS", 0.01):
            progress.suite_began(suite(Status.PASSED))
            until = time.monotonic() + 10
            while "starting" not in screen.getvalue() and time.monotonic() < until:
                time.sleep(0.01)
            progress.end()
        self.assertIn("\r  0/1 starting", screen.getvalue())

    def test_a_narrow_terminal_is_not_overflown(self) -> None:
        screen = Screen()
        with mock.patch.dict(os.environ, {"COLUMNS": "40"}):
            progress = Progress(Printer(screen))
            for status in (Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED, Status.KNOWN_DEVIATION):
                progress.rule_ended(suite(status).outcomes[0])
        self.assertLess(max(map(len, screen.getvalue().split("\r"))), 40)

    def test_colours_are_for_who_can_see_them(self) -> None:
        report = certificate(suite(Status.PASSED))
        for environment, stream, colour in (
            ({}, Screen(), "\x1b[32mverdict: conformant"),
            ({"NO_COLOR": "1"}, Screen(), "\nverdict: conformant"),
            ({"TERM": "dumb"}, Screen(), "\nverdict: conformant"),
            ({}, io.StringIO(), "\nverdict: conformant"),
        ):
            with self.subTest(environment), mock.patch.dict(os.environ, {"TERM": "xterm", "NO_COLOR": "", **environment}):
                summarize(report, Printer(stream))
                self.assertIn(colour, stream.getvalue())
                self.assertEqual("\x1b" in stream.getvalue(), colour.startswith("\x1b"))

    def test_progress_can_be_quiet_or_verbose(self) -> None:
        quiet, verbose = io.StringIO(), io.StringIO()
        self._run(Progress(Printer(quiet), verbosity=0), suite(Status.PASSED))
        self._run(Progress(Printer(verbose), verbosity=2), suite(Status.PASSED))
        self.assertEqual(quiet.getvalue(), "")
        self.assertEqual(verbose.getvalue().splitlines()[1].split(), ["EC-01", "passed", "0.500", "s"])

    def test_a_note_has_a_line_of_its_own(self) -> None:
        report = suite(*[Status.PASSED] * 61)
        for stream, verbosity, expected in (
            (io.StringIO(), 0, ""),
            (io.StringIO(), 1, "61 rules\nSlow.\n"),
            (Screen(), 1, "\rSlow.\n\r  2/61 2 passed"),
        ):
            progress = Progress(Printer(stream), verbosity)
            progress.suite_began(report)
            progress.rule_ended(report.outcomes[0])
            progress.note("Slow.")
            progress.rule_ended(report.outcomes[1])
            progress.end()
            self.assertIn(expected, stream.getvalue())
            self.assertEqual("Slow." in stream.getvalue(), verbosity > 0)

    def _run(self, progress: Progress, report: SuiteReport) -> None:
        progress.suite_began(report)
        for outcome in report.outcomes:
            progress.rule_began(outcome.rule)
            progress.rule_ended(outcome)
        progress.end()

    def test_control_characters_are_escaped_and_lines_kept(self) -> None:
        self.assertEqual(printable("a\x1b[31m\n\x07\ud800é"), "a\\x1b[31m\n\\x07\\ud800é")

    def test_a_stream_that_knows_few_characters_or_is_gone_is_survived(self) -> None:
        ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        Printer(ascii_only).line("naïve 世界")
        ascii_only.seek(0)
        self.assertEqual(ascii_only.read(), "na\\xefve \\u4e16\\u754c\n")

        closed = io.StringIO()
        closed.close()
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as broken:
            for stream in (None, closed, broken):
                printer = Printer(stream)
                printer.line("text")
                printer.line("text")
                self.assertFalse(printer.works)
