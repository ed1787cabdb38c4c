"""The report on a terminal: progress while the run lasts, then failures, a table, the verdict.

What providers say is shown with its control characters escaped, in whatever encoding the stream has. A reader that goes away
(`| head`) ends the printing, not the run.
"""

import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TextIO

from omnitck.kit.outcomes import Outcome, Status
from omnitck.kit.text import shorten
from omnitck.report.certificate import NOT_SELECTED, Certificate, SuiteReport, Verdict
from omnitck.report.observer import Observer

__all__ = ["Printer", "Progress", "printable", "summarize"]

LOG_SECONDS = 10.0
"""At least so much time is between two lines that only say how far the run is."""
TICK_SECONDS = 0.5
"""How often the line on a terminal is written anew."""
RED, YELLOW, GREEN = "31", "33", "32"
"""Of ANSI terminals."""
ALIKE = 3
"""So many rules that failed for one cause are shown as one."""
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

    @property
    def is_screen(self) -> bool:
        """Whether it is a terminal on which a line can change, and have a colour."""
        return self.is_terminal and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "") -> None:
        """Write *text*, escaped, and a newline."""
        self.raw(printable(text) + "\n")

    def text(self, text: str, colour: str = "") -> None:
        """The same, with each line that is too long folded under its beginning; on a screen the first line has a *colour*."""
        width = min(WIDTH, shutil.get_terminal_size().columns) if self.is_terminal else WIDTH
        for line in printable(text).split("\n"):
            folded = _folded(line, max(width, 40))
            self.raw(
                f"\x1b[{colour}m{folded}\x1b[0m\n"
                if colour and self.is_screen and not os.environ.get("NO_COLOR")
                else f"{folded}\n"
            )
            colour = ""

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
    """What is seen while a run lasts: failures as they come, and how far it is.

    On a terminal that is one line that changes; elsewhere a line now and then. *verbosity* 0 shows nothing, 2 a line a rule.
    """

    def __init__(self, printer: Printer, verbosity: int = 1) -> None:
        super().__init__()
        self._printer = printer
        self._verbosity = verbosity
        self._changing = printer.is_screen and verbosity == 1
        self._total = self._width = 0
        self._counts: Counter[Status] = Counter()
        self._under_way: dict[str, float] = {}
        """The rules that run, and since when."""
        self._shown_at = time.monotonic()
        self._lock = threading.RLock()
        self._ticking: threading.Event | None = None

    def suite_began(self, suite: SuiteReport) -> None:
        """Say what is being certified."""
        self.end()
        self._total, self._counts = len(suite.rules), Counter()
        self._shown_at = time.monotonic()
        if self._verbosity:
            self._printer.text(f"{suite.name}: {_claim(suite)}, {_rules(self._total)}")
        if self._changing:
            self._ticking = threading.Event()
            threading.Thread(target=self._tick, args=(self._ticking,), name="omnitck-progress", daemon=True).start()

    def rule_began(self, rule: str) -> None:
        """Show which rule runs, on a terminal."""
        with self._lock:
            self._under_way[rule] = time.monotonic()
            if self._changing:
                self._show()

    def rule_ended(self, outcome: Outcome) -> None:
        """Show what became of it."""
        with self._lock:
            self._under_way.pop(outcome.rule, None)
            self._counts[outcome.outcome] += 1
            if self._verbosity > 1:
                self._printer.line(f"  {outcome.rule:14} {outcome.outcome:15} {outcome.seconds:8.3f} s")
            elif self._verbosity and outcome.outcome in (Status.FAILED, Status.ERROR):
                self._say(f"  {outcome.outcome.upper()} {outcome.rule}: {_gist(outcome)}", RED)
            if self._changing:
                self._show()
            elif self._verbosity == 1 and time.monotonic() - self._shown_at >= LOG_SECONDS:
                self._shown_at = time.monotonic()
                self._printer.line(f"  {self._standing()}")

    def note(self, sentence: str) -> None:
        """Say it in a line of its own."""
        with self._lock:
            if self._verbosity:
                self._say(sentence)

    def end(self) -> None:
        """Leave the line of progress."""
        if self._ticking is not None:
            self._ticking.set()
            self._ticking = None
        with self._lock:
            self._under_way.clear()
            self._clear()

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(TICK_SECONDS):
            with self._lock:
                if not ended.is_set():
                    self._show()

    def _say(self, sentence: str, colour: str = "") -> None:
        self._clear()
        self._printer.text(sentence, colour)

    def _standing(self) -> str:
        """How many rules have been judged, what became of them, and which one has run for the longest."""
        counts = ", ".join(f"{self._counts[each]} {each}" for each in Status if self._counts[each])
        text = f"{self._counts.total()}/{self._total} {counts or 'starting'}"
        if self._under_way:
            rule, since = min(self._under_way.items(), key=lambda each: each[1])
            seconds = int(time.monotonic() - since)
            more = f" and {len(self._under_way) - 1} more" if len(self._under_way) > 1 else ""
            text += f"  {rule}{f' for {seconds} s' if seconds else ''}{more}"
        return text

    def _show(self) -> None:
        text = printable(f"  {self._standing()}")[: shutil.get_terminal_size().columns - 1]
        self._printer.raw("\r" + text.ljust(self._width))
        self._width = len(text)

    def _clear(self) -> None:
        if self._changing and self._width:
            self._printer.raw("\r" + " " * self._width + "\r")
            self._width = 0


def _gist(outcome: Outcome) -> str:
    """What is wrong, in a line: what was observed, or why there is no verdict."""
    found = re.search(r"^  observed  (.*)", outcome.message, re.MULTILINE)
    return shorten(f"observed {found[1]}" if found else outcome.message.partition("\n")[0], 160)


def summarize(
    certificate: Certificate, printer: Printer, *, brief: bool = False, whole: bool = False, durations: int = 0
) -> None:
    """Print the failures, a table for each suite, and the verdict; *brief* leaves the table out.

    Rules that failed for one cause stand together, and the first of them is shown; with *whole* each is. *durations* rules are
    named that took the longest.
    """
    for suite in certificate.suites:
        _print_failures(suite, printer, whole=whole)
    for suite in certificate.suites:
        if suite.rules and not brief:
            _print_table(suite, printer)
        _print_notes(suite, printer, brief=brief)
    if durations:
        _print_durations(certificate, printer, durations)
    if len(certificate.suites) > 1:
        width = max(len(each.name) for each in certificate.suites)
        printer.line()
        for suite in certificate.suites:
            printer.line(f"{suite.name:{width}}  {suite.worth}")
    printer.line()
    colour = {Verdict.CONFORMANT: GREEN, Verdict.NOT_CONFORMANT: RED}.get(certificate.verdict, YELLOW)
    printer.text(f"verdict: {_verdict(certificate)} ({certificate.duration:.1f} s, seed {certificate.seed})", colour)


def _claim(suite: SuiteReport) -> str:
    claim = " + ".join((suite.contract, *suite.policies))
    return f"{claim} with {', '.join(suite.capabilities)}" if suite.capabilities else claim


def _verdict(certificate: Certificate) -> str:
    text = str(certificate.verdict)
    if certificate.verdict is Verdict.PARTIAL:
        left_out = [f"only {', '.join(certificate.selection)} was selected"] if certificate.selection else []
        left_out += [f"{', '.join(certificate.excluded)} was excluded"] if certificate.excluded else []
        return f"{text}: nothing that ran failed, but {', and '.join(left_out)}"
    if len(certificate.suites) == 1:
        return certificate.suites[0].worth

    less = sum(bool(each.withdrawn) for each in certificate.suites)
    if certificate.verdict is Verdict.CONFORMANT and less:
        return f"{text}, with claims withdrawn in {less} of {len(certificate.suites)} suites"
    return text


def _print_failures(suite: SuiteReport, printer: Printer, *, whole: bool) -> None:
    bad = [each for each in suite.outcomes if each.outcome in (Status.FAILED, Status.ERROR)]
    for cause, outcomes in [] if whole else _of_one_cause(suite, bad):
        others = [each.rule for each in bad if each in outcomes[1:]]
        printer.line()
        printer.text(f"{_rules(len(outcomes))} failed the same way{_since(suite, outcomes)}: {cause}", RED)
        _print_failure(outcomes[0], printer)
        printer.text(f"  {'likewise':9} {', '.join(others)}")
        bad = [each for each in bad if each not in outcomes]
    for outcome in bad:
        printer.line()
        _print_failure(outcome, printer)


def _print_failure(outcome: Outcome, printer: Printer) -> None:
    printer.text(f"{outcome.outcome.upper()}: {outcome.message or outcome.rule}", RED)
    for line in outcome.traceback.splitlines():
        printer.line(f"  {line}")


def _of_one_cause(suite: SuiteReport, bad: Iterable[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """Causes that several of the *bad* outcomes have, the most frequent first, each with them in the order of their judgement.

    Names that the kit has made up differ from rule to rule, and make no difference.
    """
    place = {rule: number for number, rule in enumerate(suite.order)}
    found: dict[str, list[Outcome]] = {}
    for each in sorted(bad, key=lambda each: place.get(each.rule, len(place))):
        if each.cause:
            found.setdefault(re.sub(r"omnitck[0-9a-f]{12}[\w-]*", "...", each.cause), []).append(each)
    several = [each for each in found.items() if len(each[1]) >= ALIKE]
    return sorted(several, key=lambda each: -len(each[1]))


def _since(suite: SuiteReport, outcomes: list[Outcome]) -> str:
    """From where on they are all that happened, if before that something else did."""
    rules = {each.rule for each in outcomes}
    judged = {each.rule for each in suite.outcomes if each.outcome in (Status.PASSED, Status.FAILED, Status.ERROR)}
    order = [each for each in suite.order if each in judged]
    until = next((number for number, rule in enumerate(order) if rule in rules), 0)
    return f", every one from {order[until]} on" if until and rules >= set(order[until:]) else ""


def _print_durations(certificate: Certificate, printer: Printer, most: int) -> None:
    """The rules that took the longest, each with its suite where there are several."""
    took = sorted(
        ((each.seconds, suite.name, each.rule) for suite in certificate.suites for each in suite.outcomes), reverse=True
    )
    printer.line()
    printer.line(f"{'seconds':>8}  rule")
    for seconds, suite, rule in took[:most]:
        printer.line(f"{seconds:8.3f}  {rule}{f'  {suite}' if len(certificate.suites) > 1 else ''}")


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
