"""Reports to look at."""

from dataclasses import replace

from omnitck.kit.outcomes import Outcome, Status
from omnitck.report.certificate import NOT_SELECTED, Catalogue, Certificate, RuleEntry, SuiteReport

__all__ = ["certificate", "suite", "unselected"]


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


def unselected(report: SuiteReport) -> SuiteReport:
    """*report* of a run that was restricted to those of its rules that were run."""
    outcomes = [replace(each, message=NOT_SELECTED) if each.outcome == "not run" else each for each in report.outcomes]
    return replace(report, selected=True, outcomes=tuple(outcomes))


def certificate(*suites: SuiteReport, selection: tuple[str, ...] = ()) -> Certificate:
    return Certificate(suites, started="2026-01-01T00:00:00+00:00", duration=1.25, seed=7, selection=selection)
