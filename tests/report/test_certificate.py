"""The certificate: verdicts, and its machine form."""

import json
import os
import tempfile
import unittest
from pathlib import Path

from omnitck.kit.outcomes import Status
from omnitck.report.certificate import Verdict, digest_of
from tests.report.samples import certificate, suite


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
