"""The certificate and its view on a terminal."""

import io
import json
import os
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from omnitck.kit.outcomes import Outcome, Status
from omnitck.report.certificate import (
    NOT_SELECTED,
    Catalogue,
    Certificate,
    RuleEntry,
    SuiteReport,
    Verdict,
    digest_of,
)
from omnitck.report.terminal import Printer, Progress, printable, summarize


def suite(*statuses: Status, **changes: object) -> SuiteReport:
    """A report of as many rules as there are *statuses*."""
    ids = [f"EC-{number:02}" for number, _ in enumerate(statuses, 1)]
    report = SuiteReport(
        name="mine.TestEcho",
        contract="echo",
        policies=(),
        capabilities=("loud",),
        rules=tuple(RuleEntry(each, "MUST", "It answers.", "echo", True, 10.0) for each in ids),
        catalogues=(Catalogue("echo", "contract", "1.0", "0" * 64),),
        known_deviations={},
        outcomes=tuple(Outcome("mine.TestEcho", id, each, 0.5) for id, each in zip(ids, statuses, strict=True)),
    )
    return replace(report, **changes)  # type: ignore[arg-type]


def certificate(*suites: SuiteReport, selection: tuple[str, ...] = ()) -> Certificate:
    return Certificate(suites, started="2026-01-01T00:00:00+00:00", duration=1.25, seed=7, selection=selection)


class TestVerdicts(unittest.TestCase):
    def test_of_a_suite(self) -> None:
        passed, failed, deviation = Status.PASSED, Status.FAILED, Status.KNOWN_DEVIATION
        for report, verdict in (
            (suite(passed, Status.NOT_DECLARED, Status.NOT_PROVOKED), Verdict.CONFORMANT),
            (suite(passed, deviation), Verdict.KNOWN_DEVIATIONS),
            (suite(passed, failed, Status.ERROR), Verdict.NOT_CONFORMANT),
            (suite(passed, Status.ERROR), Verdict.INCONCLUSIVE),
            (suite(passed, Status.NOT_RUN), Verdict.INCONCLUSIVE),
            (suite(passed, problem="It hung."), Verdict.INCONCLUSIVE),
            (suite(Status.NOT_DECLARED, Status.NOT_PROVOKED, Status.NOT_RUN), Verdict.NOTHING_RAN),
            (suite(), Verdict.NOTHING_RAN),
            (suite(passed, Status.NOT_RUN, selected=True), Verdict.PARTIAL),
            (suite(failed, Status.NOT_RUN, selected=True), Verdict.NOT_CONFORMANT),
        ):
            with self.subTest(verdict, report=report):
                self.assertEqual(report.verdict, verdict)

    def test_of_a_run_is_the_worst(self) -> None:
        good, bad, none = suite(Status.PASSED), suite(Status.FAILED), suite(Status.NOT_DECLARED)
        self.assertEqual(certificate(good, bad, none).verdict, "not conformant")
        self.assertEqual(certificate(good, none).verdict, "nothing ran")
        self.assertEqual(certificate().verdict, "nothing ran")

    def test_exit_status(self) -> None:
        self.assertEqual([each.exit_status for each in Verdict], [1, 3, 5, 0, 0, 0])
        self.assertEqual(certificate(suite(Status.PASSED), suite(misused=True, problem="No.")).exit_status, 2)

    def test_a_known_deviation_that_passes_is_stale(self) -> None:
        report = suite(Status.PASSED, Status.KNOWN_DEVIATION, known_deviations={"EC-01": "old", "EC-02": "ours"})
        self.assertEqual(report.stale_deviations, ("EC-01",))


class TestMachineForm(unittest.TestCase):
    def test_it_is_stable(self) -> None:
        report = suite(Status.PASSED, Status.KNOWN_DEVIATION, known_deviations={"EC-02": "ACME-1"}, limits={"key_bytes": 256})
        document = certificate(report).as_dict()
        self.assertEqual(
            document["suites"],
            [
                {
                    "name": "mine.TestEcho",
                    "contract": "echo",
                    "policies": [],
                    "capabilities": ["loud"],
                    "verdict": "conformant with known deviations",
                    "outcomes": [
                        {"rule": "EC-01", "outcome": "passed", "seconds": 0.5, "message": ""},
                        {"rule": "EC-02", "outcome": "known deviation", "seconds": 0.5, "message": ""},
                    ],
                }
            ],
        )
        self.assertEqual(
            list(document),
            [
                "schema",
                "verdict",
                "kit",
                "contracts",
                "suites",
                "providers",
                "limits",
                "known_deviations",
                "stale_deviations",
                "problems",
                "environment",
                "seed",
                "jobs",
                "isolated",
                "selection",
                "started",
                "duration",
                "digest",
            ],
        )
        self.assertEqual(document["known_deviations"], {"mine.TestEcho": {"EC-02": "ACME-1"}})
        self.assertEqual(document["contracts"], [{"name": "echo", "kind": "contract", "version": "1.0", "digest": "0" * 64}])

    def test_the_digest_can_be_recomputed_from_the_file(self) -> None:
        document = json.loads(certificate(suite(Status.PASSED)).as_json())
        digest = document.pop("digest")
        self.assertEqual(digest_of(document), digest)
        self.assertNotEqual(digest_of({**document, "verdict": "partial"}), digest)

    def test_writing_replaces_the_file_whole_or_not_at_all(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "report.json")
            Path(path).write_text("old")
            certificate(suite(Status.PASSED)).write(path)
            self.assertEqual(json.loads(Path(path).read_text())["verdict"], "conformant")
            for bad in (directory, os.path.join(directory, "missing", "x.json"), os.path.join(path, "x.json")):
                with self.assertRaises(OSError):
                    certificate(suite(Status.PASSED)).write(bad)
            self.assertEqual(os.listdir(directory), ["report.json"])


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
            "stale deviation EC-01: it passes; take it out of known_deviations\n"
            "\n"
            "other: No provider could be opened.\n"
            "\n"
            "mine.TestEcho  conformant with known deviations\n"
            "other          inconclusive\n"
            "\n"
            "verdict: inconclusive (1.2 s, seed 7)\n",
        )

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

    def test_a_selection_says_so(self) -> None:
        report = suite(Status.PASSED, Status.NOT_RUN, selected=True)
        report = replace(report, outcomes=(report.outcomes[0], replace(report.outcomes[1], message=NOT_SELECTED)))
        text = shown(certificate(report, selection=("EC-01",)))
        self.assertIn("  core       1       -       -\n1 rule not run: not selected\n", text)
        self.assertIn("verdict: partial: what ran passed, but only EC-01 was selected", text)

    def test_progress_in_a_log_is_a_character_a_rule(self) -> None:
        stream = io.StringIO()
        self._run(Progress(Printer(stream)), suite(*[Status.PASSED] * 60, *Status))
        self.assertEqual(
            stream.getvalue(), "mine.TestEcho: echo with loud, 67 rules\n" + "." * 60 + " 60/67\n" + ".FEspk- 67/67\n"
        )

    def test_progress_on_a_terminal_is_one_line(self) -> None:
        screen = Screen()
        self._run(Progress(Printer(screen)), suite(Status.PASSED, Status.FAILED))
        self.assertEqual(screen.getvalue().count("\n"), 1)
        self.assertIn("\r  2/2 1 passed, 1 failed  EC-02", screen.getvalue())

    def test_progress_can_be_quiet_or_verbose(self) -> None:
        quiet, verbose = io.StringIO(), io.StringIO()
        self._run(Progress(Printer(quiet), verbosity=0), suite(Status.PASSED))
        self._run(Progress(Printer(verbose), verbosity=2), suite(Status.PASSED))
        self.assertEqual(quiet.getvalue(), "")
        self.assertEqual(verbose.getvalue().splitlines()[1].split(), ["EC-01", "passed", "0.500", "s"])

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


if __name__ == "__main__":
    unittest.main()
