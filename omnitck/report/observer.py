"""Who hears how a run goes on."""

from collections.abc import Callable

from omnitck.kit.outcomes import Outcome
from omnitck.report.certificate import SuiteReport

__all__ = ["Observer"]


class Observer:
    """Hears how a run goes on. *progress* receives each outcome; override the methods for more."""

    def __init__(self, progress: Callable[[Outcome], None] | None = None) -> None:
        self._progress = progress

    def suite_began(self, suite: SuiteReport) -> None:
        """The suite was made; its rules come next."""

    def rule_began(self, rule: str) -> None:
        """A rule is running."""

    def rule_ended(self, outcome: Outcome) -> None:
        """A rule has its outcome."""
        if self._progress is not None:
            self._progress(outcome)

    def note(self, sentence: str) -> None:
        """Something happened that a person who watches should know."""
