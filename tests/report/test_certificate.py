"""The certificate: verdicts, and its machine form."""

import json
import os
import tempfile
import unittest
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from omnitck.kit.outcomes import Status
from omnitck.report.certificate import Claims, SuiteReport, Verdict, Withdrawn, digest_of
from tests.report.samples import certificate, suite, unselected

PASSED, FAILED, ERROR, NOT_RUN = Status.PASSED, Status.FAILED, Status.ERROR, Status.NOT_RUN
NOT_DECLARED, NOT_PROVOKED, DEVIATION = Status.NOT_DECLARED, Status.NOT_PROVOKED, Status.KNOWN_DEVIATION


def levels(report: SuiteReport, *given: str, **owners: str) -> SuiteReport:
    """*report* with rules of these levels, in their order; *owners* says which policy brings a rule: `EC_02="tidy"`."""
    rules = [replace(rule, level=level) for rule, level in zip(report.rules, given, strict=True)]
    rules = [replace(rule, owner=owners.get(rule.id.replace("-", "_"), rule.owner)) for rule in rules]
    return replace(report, rules=tuple(rules), policies=tuple(sorted(set(owners.values()))))


class TestVerdicts(unittest.TestCase):
    def check(self, *rows: tuple[SuiteReport, Verdict]) -> None:
        for report, verdict in rows:
            statuses = [str(each.outcome) for each in report.outcomes]
            with self.subTest(statuses=statuses, problem=report.problem, selected=report.selected):
                self.assertEqual(report.verdict, verdict)

    def test_of_a_suite(self) -> None:
        self.check(
            (suite(PASSED, NOT_DECLARED, NOT_PROVOKED), Verdict.CONFORMANT),
            (suite(PASSED, DEVIATION), Verdict.DEVIATES),
            (suite(DEVIATION), Verdict.DEVIATES),
            (suite(PASSED, FAILED, ERROR), Verdict.NOT_CONFORMANT),
            (suite(PASSED, ERROR), Verdict.INCONCLUSIVE),
            (suite(PASSED, NOT_RUN), Verdict.INCONCLUSIVE),
            (suite(PASSED, problem="It hung."), Verdict.INCONCLUSIVE),
            (suite(NOT_DECLARED, NOT_PROVOKED, NOT_RUN), Verdict.NOTHING_RAN),
            (suite(), Verdict.NOTHING_RAN),
        )

    def test_of_a_selection(self) -> None:
        self.check(
            (unselected(suite(PASSED, NOT_RUN)), Verdict.PARTIAL),
            (unselected(suite(PASSED, DEVIATION, NOT_RUN)), Verdict.PARTIAL),
            (unselected(suite(FAILED, NOT_RUN)), Verdict.NOT_CONFORMANT),
            (unselected(suite(ERROR, NOT_RUN)), Verdict.INCONCLUSIVE),
            (suite(PASSED, NOT_RUN, selected=True), Verdict.INCONCLUSIVE),
            (unselected(suite(NOT_DECLARED, NOT_RUN)), Verdict.NOTHING_RAN),
        )

    def test_an_audit_that_could_watch_nothing_of_a_selection_is_not_missed(self) -> None:
        report = suite(DEVIATION, NOT_RUN)
        report = replace(report, rules=(report.rules[0], replace(report.rules[1], audit=True)))
        self.check((report, Verdict.INCONCLUSIVE), (replace(report, selected=True), Verdict.PARTIAL))

    def test_a_rule_without_an_outcome_was_not_run(self) -> None:
        report = suite(PASSED, PASSED)
        self.assertEqual(replace(report, outcomes=report.outcomes[:1]).verdict, Verdict.INCONCLUSIVE)

    def test_of_every_combination_of_outcomes(self) -> None:
        """The worst decides: nothing of a run is lost on the way to its verdict, whatever else there is."""
        for count in range(len(Status) + 1):
            for statuses in combinations(Status, count):
                for problem in ("", "It hung."):
                    report = suite(*statuses, problem=problem)
                    if FAILED in statuses:
                        expected = Verdict.NOT_CONFORMANT
                    elif problem or ERROR in statuses:
                        expected = Verdict.INCONCLUSIVE
                    elif not {PASSED, DEVIATION} & set(statuses):
                        expected = Verdict.NOTHING_RAN
                    elif NOT_RUN in statuses:
                        expected = Verdict.INCONCLUSIVE
                    else:
                        expected = Verdict.DEVIATES if DEVIATION in statuses else Verdict.CONFORMANT
                    self.check((report, expected))
                    partial = unselected(report)
                    self.assertEqual(
                        partial.verdict,
                        Verdict.PARTIAL
                        if not problem and {PASSED, DEVIATION} & set(statuses) and not {FAILED, ERROR} & set(statuses)
                        else expected,
                        statuses,
                    )

    def test_of_a_run_is_the_worst(self) -> None:
        good, bad, none = suite(PASSED), suite(FAILED), suite(NOT_DECLARED)
        self.assertEqual(certificate(good, bad, none).verdict, "not conformant")
        self.assertEqual(certificate(good, none).verdict, "nothing ran")
        self.assertEqual(certificate(good, suite(DEVIATION)).verdict, "deviates, as known")
        self.assertEqual(certificate().verdict, "nothing ran")

    def test_exit_status(self) -> None:
        self.assertEqual(
            {str(each): each.exit_status for each in Verdict},
            {
                "not conformant": 1,
                "inconclusive": 3,
                "nothing ran": 5,
                "partial": 0,
                "deviates, as known": 0,
                "conformant": 0,
            },
        )

    def test_exit_status_of_every_combination_of_suites(self) -> None:
        """1 comes before 2, 2 before 3, 3 before 5, and 0 stands for none of them."""
        kinds = {
            1: suite(PASSED, FAILED),
            2: suite(misused=True, problem="No."),
            3: suite(PASSED, ERROR),
            5: suite(NOT_DECLARED),
            0: suite(PASSED, DEVIATION),
        }
        for count in range(1, len(kinds) + 1):
            for statuses in combinations(kinds, count):
                with self.subTest(statuses):
                    found = certificate(*(kinds[each] for each in reversed(statuses)))
                    self.assertEqual(found.exit_status, statuses[0])
        everything = suite(PASSED, FAILED, ERROR, NOT_RUN, problem="It hung.")
        self.assertEqual(certificate(everything, kinds[2]).exit_status, 1)
        self.assertEqual(certificate(suite(PASSED, ERROR, problem="It hung."), kinds[2]).exit_status, 2)

    def test_a_known_deviation_that_passes_is_stale(self) -> None:
        report = suite(PASSED, DEVIATION, known_deviations={"EC-01": "old", "EC-02": "ours"})
        self.assertEqual(report.stale_deviations, ("EC-01",))


class TestClaims(unittest.TestCase):
    """What a suite is certified for: what it declares, without what belongs to a rule that deviates."""

    def check(self, report: SuiteReport, verdict: Verdict, claims: Claims | None, *withdrawn: Withdrawn) -> None:
        self.assertEqual((report.verdict, report.claims, report.withdrawn), (verdict, claims, withdrawn))

    def test_all_that_is_declared(self) -> None:
        report = levels(suite(PASSED, PASSED, NOT_PROVOKED), "MUST", "loud", "MUST", EC_03="tidy")
        self.check(report, Verdict.CONFORMANT, Claims("echo", "core", ("loud",), ("tidy",)))

    def test_nothing_where_a_rule_of_the_core_deviates(self) -> None:
        report = levels(suite(PASSED, DEVIATION, DEVIATION), "loud", "MUST", "MUST")
        self.check(report, Verdict.DEVIATES, None, Withdrawn("contract", "echo", ("EC-02", "EC-03")))

    def test_no_capability_of_which_a_rule_deviates(self) -> None:
        report = suite(PASSED, DEVIATION, DEVIATION, PASSED, capabilities=("far", "loud", "slow"))
        report = levels(report, "MUST", "loud", "loud + slow", "far")
        self.check(
            report,
            Verdict.CONFORMANT,
            Claims("echo", "core", ("far",), ()),
            Withdrawn("capability", "loud", ("EC-02", "EC-03")),
            Withdrawn("capability", "slow", ("EC-03",)),
        )

    def test_no_profile_that_demands_one_of_these(self) -> None:
        report = levels(suite(PASSED, DEVIATION, profile="production", demanded=("loud",)), "MUST", "loud")
        self.check(
            report,
            Verdict.CONFORMANT,
            Claims("echo", "core", (), ()),
            Withdrawn("capability", "loud", ("EC-02",)),
            Withdrawn("profile", "production", ("EC-02",)),
        )
        other = levels(suite(PASSED, DEVIATION, profile="production", demanded=("far",)), "MUST", "loud")
        self.assertEqual(other.claims, Claims("echo", "production", (), ()))

    def test_no_policy_of_which_a_rule_or_an_audit_deviates_nor_what_only_it_knows(self) -> None:
        for is_audit in (False, True):
            report = levels(suite(PASSED, DEVIATION, PASSED), "MUST", "MUST", "loud", EC_02="tidy", EC_03="tidy")
            rules = report.rules[0], replace(report.rules[1], audit=is_audit), report.rules[2]
            self.check(
                replace(report, rules=rules),
                Verdict.CONFORMANT,
                Claims("echo", "core", (), ()),
                Withdrawn("policy", "tidy", ("EC-02",)),
                Withdrawn("capability", "loud", ("EC-02",)),
            )

    def test_a_rule_of_a_policy_takes_what_it_needs_with_it(self) -> None:
        report = levels(suite(PASSED, PASSED, DEVIATION), "MUST", "loud", "loud", EC_03="tidy")
        self.check(
            report,
            Verdict.CONFORMANT,
            Claims("echo", "core", (), ()),
            Withdrawn("policy", "tidy", ("EC-03",)),
            Withdrawn("capability", "loud", ("EC-03",)),
        )

    def test_nothing_where_no_rule_of_what_is_left_passed(self) -> None:
        report = levels(suite(NOT_PROVOKED, DEVIATION, PASSED), "MUST", "loud", "loud")
        self.check(report, Verdict.DEVIATES, None, Withdrawn("capability", "loud", ("EC-02",)))

    def test_nothing_in_any_other_verdict(self) -> None:
        for report in (
            suite(PASSED, FAILED),
            suite(PASSED, ERROR),
            suite(PASSED, problem="It hung."),
            suite(NOT_DECLARED),
            unselected(suite(PASSED, NOT_RUN)),
        ):
            self.assertIsNone(report.claims, report.verdict)


class TestMachineForm(unittest.TestCase):
    def test_it_is_stable(self) -> None:
        report = suite(PASSED, DEVIATION, known_deviations={"EC-02": "ACME-1"}, limits={"key_bytes": 256})
        report = levels(report, "MUST", "loud")
        report = replace(report, outcomes=(report.outcomes[0], replace(report.outcomes[1], message="EC-02: observed ''")))
        document = certificate(report).as_dict()
        self.assertEqual(
            document["suites"],
            [
                {
                    "name": "mine.TestEcho",
                    "contract": "echo",
                    "policies": [],
                    "capabilities": ["loud"],
                    "profile": "core",
                    "verdict": "conformant",
                    "claims": {"contract": "echo", "profile": "core", "capabilities": [], "policies": []},
                    "withdrawn": [{"kind": "capability", "name": "loud", "rules": ["EC-02"]}],
                    "outcomes": [
                        {"rule": "EC-01", "outcome": "passed", "seconds": 0.5, "message": ""},
                        {
                            "rule": "EC-02",
                            "outcome": "known deviation",
                            "seconds": 0.5,
                            "message": "EC-02: observed ''",
                            "reason": "ACME-1",
                        },
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
                "left_behind",
                "environment",
                "seed",
                "jobs",
                "processes",
                "isolated",
                "selection",
                "excluded",
                "interrupted",
                "started",
                "duration",
                "digest",
            ],
        )
        self.assertEqual(document["known_deviations"], {"mine.TestEcho": {"EC-02": "ACME-1"}})
        self.assertIsNone(certificate(suite(FAILED)).as_dict()["suites"][0]["claims"])
        self.assertEqual(document["contracts"], [{"name": "echo", "kind": "contract", "version": "1.0", "digest": "0" * 64}])

    def test_the_digest_can_be_recomputed_from_the_file(self) -> None:
        document = json.loads(certificate(suite(PASSED)).as_json())
        digest = document.pop("digest")
        self.assertEqual(digest_of(document), digest)
        self.assertNotEqual(digest_of({**document, "verdict": "partial"}), digest)

    def test_writing_replaces_the_file_whole_or_not_at_all(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "report.json")
            Path(path).write_text("old")
            certificate(suite(PASSED)).write(path)
            self.assertEqual(json.loads(Path(path).read_text())["verdict"], "conformant")
            for bad in (directory, os.path.join(directory, "missing", "x.json"), os.path.join(path, "x.json")):
                with self.assertRaises(OSError):
                    certificate(suite(PASSED)).write(bad)
            self.assertEqual(os.listdir(directory), ["report.json"])
