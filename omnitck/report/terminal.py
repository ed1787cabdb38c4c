"""The report on a terminal: progress while the run lasts, then failures, a table, the verdict.

What providers say is shown with its control characters escaped, in whatever encoding the stream has. A reader that goes away
(`| head`) ends the printing, not the run.
"""

import os
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TextIO

from omnitck.kit.outcomes import Outcome, Status
from omnitck.report.certificate import NOT_SELECTED, Certificate, SuiteReport, Verdict
from omnitck.report.observer import Observer

__all__ = ["Printer", "Progress", "printable", "summarize"]

SYMBOLS = {
    Status.PASSED: ".",
    Status.FAILED: "F",
    Status.ERROR: "E",
    Status.NOT_DECLARED: "s",
    Status.NOT_PROVOKED: "p",
    Status.KNOWN_DEVIATION: "k",
    Status.NOT_RUN: "-",
}
RULES_A_LINE = 60
WIDTH = 100
"""Columns that a line may have."""


def printable(text: str) -> str:
    """*text* with everything escaped that would move a cursor or change a colour; lines stay lines."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class Printer:
    """Writes to a stream that may know few characters, be closed, or lose its reader."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.works = stream is not None and not stream.closed

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""
        return self.works and self._stream is not None and self._stream.isatty()

    def line(self, text: str = "") -> None:
        """Write *text*, escaped, and a newline."""
        self.raw(printable(text) + "\n")

    def text(self, text: str) -> None:
        """The same, with each line that is too long folded under its beginning."""
        width = min(WIDTH, shutil.get_terminal_size().columns) if self.is_terminal else WIDTH
        for line in printable(text).split("\n"):
            self.raw(_folded(line, max(width, 40)) + "\n")

    def raw(self, text: str) -> None:
        """Write *text* as it is, and flush."""
        if not self.works or self._stream is None:
            return

        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self.works = False
            self._silence()

    def _silence(self) -> None:
        # The interpreter flushes standard streams once more when it ends, and would complain.
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # type: ignore[union-attr]
            os.close(null)


def _folded(line: str, width: int) -> str:
    if len(line) <= width:
        return line

    title = re.match(r" *(?:\S+ {2,})?", line)
    indent = " " * (title.end() if title and title.end() else 2)
    end = " \\" if line.startswith("  again ") else ""  # A shell takes it for one line still.
    folder = textwrap.TextWrapper(width - len(end), subsequent_indent=indent, break_on_hyphens=False)
    return f"{end}\n".join(folder.wrap(line))


class Progress(Observer):
    """What is seen while a run lasts: on a terminal one line that changes, elsewhere one character a rule.

    *verbosity* 0 shows nothing, 2 a line for each rule.
    """

    def __init__(self, printer: Printer, verbosity: int = 1) -> None:
        super().__init__()
        self._printer = printer
        self._verbosity = verbosity
        self._changing = printer.is_terminal and verbosity == 1
        self._total = self._done = self._width = 0
        self._counts: Counter[Status] = Counter()

    def suite_began(self, suite: SuiteReport) -> None:
        """Say what is being certified."""
        self.end()
        self._total, self._done, self._counts = len(suite.rules), 0, Counter()
        if self._verbosity:
            self._printer.text(f"{suite.name}: {_claim(suite)}, {_rules(self._total)}")

    def rule_began(self, rule: str) -> None:
        """Show which rule runs, on a terminal."""
        if self._changing:
            self._show(rule)

    def rule_ended(self, outcome: Outcome) -> None:
        """Show what became of it."""
        self._done += 1
        self._counts[outcome.outcome] += 1
        if self._verbosity > 1:
            self._printer.line(f"  {outcome.rule:14} {outcome.outcome:15} {outcome.seconds:8.3f} s")
        elif self._changing:
            self._show(outcome.rule)
        elif self._verbosity:
            self._printer.raw(SYMBOLS[outcome.outcome])
            if self._done % RULES_A_LINE == 0:
                self._printer.raw(f" {self._done}/{self._total}\n")

    def note(self, sentence: str) -> None:
        """Say it in a line of its own."""
        if self._verbosity:
            done = self._done
            self.end()
            self._printer.text(sentence)
            self._done = done

    def end(self) -> None:
        """Leave the line of progress."""
        if self._changing:
            self._printer.raw("\r" + " " * self._width + "\r")
            self._width = 0
        elif self._verbosity == 1 and self._done % RULES_A_LINE:
            self._printer.raw(f" {self._done}/{self._total}\n")
        self._done = 0

    def _show(self, rule: str) -> None:
        counts = ", ".join(f"{self._counts[each]} {each}" for each in Status if self._counts[each])
        text = printable(f"  {self._done}/{self._total} {counts or 'starting'}  {rule}")
        text = text[: shutil.get_terminal_size().columns - 1]
        self._printer.raw("\r" + text.ljust(self._width))
        self._width = len(text)


def summarize(certificate: Certificate, printer: Printer, *, brief: bool = False) -> None:
    """Print the failures whole, a table for each suite, and the verdict; *brief* leaves the table out."""
    for suite in certificate.suites:
        _print_failures(suite, printer)
    for suite in certificate.suites:
        if suite.rules and not brief:
            _print_table(suite, printer)
        _print_notes(suite, printer, brief=brief)
    if len(certificate.suites) > 1:
        width = max(len(each.name) for each in certificate.suites)
        printer.line()
        for suite in certificate.suites:
            printer.line(f"{suite.name:{width}}  {suite.worth}")
    printer.line()
    printer.text(f"verdict: {_verdict(certificate)} ({certificate.duration:.1f} s, seed {certificate.seed})")


def _claim(suite: SuiteReport) -> str:
    claim = " + ".join((suite.contract, *suite.policies))
    return f"{claim} with {', '.join(suite.capabilities)}" if suite.capabilities else claim


def _verdict(certificate: Certificate) -> str:
    text = str(certificate.verdict)
    if certificate.verdict is Verdict.PARTIAL:
        return f"{text}: nothing that ran failed, but only {', '.join(certificate.selection)} was selected"
    if len(certificate.suites) == 1:
        return certificate.suites[0].worth

    less = sum(bool(each.withdrawn) for each in certificate.suites)
    if certificate.verdict is Verdict.CONFORMANT and less:
        return f"{text}, with claims withdrawn in {less} of {len(certificate.suites)} suites"
    return text


def _print_failures(suite: SuiteReport, printer: Printer) -> None:
    for outcome in suite.outcomes:
        if outcome.outcome in (Status.FAILED, Status.ERROR):
            printer.line()
            printer.text(f"{outcome.outcome.upper()}: {outcome.message or outcome.rule}")


def _print_table(suite: SuiteReport, printer: Printer) -> None:
    rows, undeclared = _rows(suite)
    shown = [
        each for each in Status if each in (Status.PASSED, Status.FAILED, Status.ERROR) or any(r[each] for r in rows.values())
    ]
    width = max(map(len, (*rows, "rules")))
    printer.line()
    printer.line(f"{'rules':{width}}  " + "  ".join(f"{each:>6}" for each in shown))
    for name, row in rows.items():
        numbers = (str(row[each] or "-").rjust(max(6, len(each))) for each in shown)
        printer.line(f"{name:{width}}  " + "  ".join(numbers))
    if undeclared:
        capabilities = ", ".join(f"{name} ({count})" for name, count in undeclared.items())
        printer.text(f"not declared: {_rules(undeclared.total())} of {capabilities}")


def _rows(suite: SuiteReport) -> tuple[dict[str, Counter[Status]], Counter[str]]:
    """What became of the rules of the contract, by capability, and of each policy; and how many rules are not declared."""
    rows = {each: Counter[Status]() for each in (suite.contract, "  core")}
    undeclared: Counter[str] = Counter()
    outcomes = {each.rule: each.outcome for each in suite.outcomes if each.message != NOT_SELECTED}
    for rule in sorted(suite.rules, key=lambda rule: (rule.owner != suite.contract, rule.level != "MUST", rule.level)):
        if rule.id not in outcomes:
            continue

        groups = [rule.owner]
        if rule.owner == suite.contract:
            groups.append("  core" if rule.level == "MUST" else f"  {rule.level}")
            if not rule.declared:
                undeclared[rule.level] += 1
                continue
        for group in groups:
            rows.setdefault(group, Counter())[outcomes[rule.id]] += 1
    return rows, undeclared


def _print_notes(suite: SuiteReport, printer: Printer, *, brief: bool) -> None:
    if suite.problem:
        printer.line()
        printer.text(f"{suite.name}: {suite.problem}")
    for sentence in suite.left_behind:
        printer.text(f"left behind: {sentence}")
    for status in (Status.FAILED, Status.ERROR):
        rules = [each.rule for each in suite.outcomes if each.outcome is status]
        if len(rules) > 1:
            printer.text(f"{status}: {', '.join(rules)}")
    for outcome in suite.outcomes:
        if outcome.outcome is Status.KNOWN_DEVIATION:
            printer.text(f"known deviation {outcome.rule}: {suite.known_deviations.get(outcome.rule, outcome.message)}")
            if not brief:
                for line in _observation(outcome.message):
                    printer.text(line)
    if suite.withdrawn and suite.verdict in (Verdict.DEVIATES, Verdict.CONFORMANT):
        withdrawn = (f"{each.kind} {each.name} ({', '.join(each.rules)})" for each in suite.withdrawn)
        printer.text(f"not claimed: {', '.join(withdrawn)}")
    for rule in suite.stale_deviations:
        printer.text(f"stale deviation {rule}: it passes; take it out of known_deviations")
    if not brief:
        for reason, count in _reasons(suite.outcomes, Status.NOT_PROVOKED).items():
            printer.text(f"{_rules(count)} {reason}")
    declared = {each.id for each in suite.rules if each.declared}
    for reason, count in _reasons([each for each in suite.outcomes if each.rule in declared], Status.NOT_RUN).items():
        printer.text(f"{_rules(count)} not run{f': {reason}' if reason else ''}")


def _observation(message: str) -> Iterator[str]:
    """The lines of a violation that say what was observed in its first case, and where."""
    field, seen = "", False
    for line in message.split("\n"):
        title = re.match(r"  (\w+) ", line)
        field = title[1] if title else field
        if title and seen and field in ("case", "given", "expected"):
            return
        seen = seen or field == "observed"
        if field in ("case", "given", "expected", "observed"):
            yield line


def _reasons(outcomes: Iterable[Outcome], status: Status) -> Counter[str]:
    return Counter(each.message for each in outcomes if each.outcome is status)


def _rules(count: int) -> str:
    return f"{count} rule{'' if count == 1 else 's'}"


def standard_output() -> Printer:
    """A printer for this process's standard output."""
    return Printer(sys.stdout)
