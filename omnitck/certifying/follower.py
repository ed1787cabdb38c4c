"""Certifying: suites one after the other, each apart from the caller and followed from outside.

A suite runs in a child process, or in a thread where no other process could import it. The follower knows from the worker's
events which rules are running. The kit's own deadline fails a rule from inside; what ignores that (a blocked loop, a swallowed
cancellation) is still running a grace later, and is ended from outside. Its stacks are asked of the worker first, which knows its
tasks; a child that holds the interpreter's lock cannot answer, and is made to dump them by `faulthandler`. What a child prints
goes to a file, whose end is shown if it dies.
"""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import IO, Any, cast

from omnitck.certifying.worker import Event, Worker, calls, provider_calls, title
from omnitck.concurrent import check_jobs
from omnitck.kit.contract import Contract
from omnitck.kit.outcomes import Outcome, Status, Violation, emit
from omnitck.kit.text import UsageError, describe
from omnitck.report.audits import sum_up
from omnitck.report.certificate import NOT_SELECTED, Catalogue, Certificate, RuleEntry, SuiteReport
from omnitck.report.observer import Observer
from omnitck.suites import Recipe, Suite, recipe_of

__all__ = ["Settings", "run_suites", "source_of"]


@dataclass(frozen=True)
class Settings:
    """How suites are run."""

    jobs: int = 1
    """Rules at a time."""
    seed: int | None = None
    """Of everything random; None takes OMNITCK_SEED, or 0."""
    rules: tuple[str, ...] = ()
    """Patterns of rule ids; none is all."""
    grace: float = 10.0
    """Seconds that a rule may take beyond its deadline, and its process after the last rule, until it is ended from outside."""
    isolate: bool | None = None
    """Whether each suite runs in a child process; None where it can."""

    def __post_init__(self) -> None:
        check_jobs(self.jobs)
        if not isinstance(self.grace, int | float) or not self.grace > 0:
            raise UsageError(f"grace is {describe(self.grace)}: give a number of seconds above 0.")
        if self.seed is None:
            text = os.environ.get("OMNITCK_SEED") or "0"
            try:
                object.__setattr__(self, "seed", int(text))
            except ValueError:
                raise UsageError(f"OMNITCK_SEED is {text!r}: give a whole number.") from None


def source_of(suite: Suite, settings: Settings) -> Recipe | Suite:
    """*suite* in the form in which `settings.isolate` wants it."""
    recipe = recipe_of(suite) if settings.isolate is not False and sys.executable else None
    if recipe is None and settings.isolate:
        raise UsageError(
            f"{suite.__qualname__} cannot be isolated: another process can import only what is defined at the top level of a "
            "module that is no script."
        )

    return recipe or suite


def run_suites(sources: Iterable[Recipe | Suite], settings: Settings, observer: Observer) -> Certificate:
    """Run each suite, and put the reports together. Bad input of the only suite raises UsageError, of one among several is told
    in its report.
    """
    sources = tuple(sources)
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    reports = [_report_on(each, settings, observer, alone=len(sources) == 1) for each in sources]
    return Certificate(
        suites=tuple(_told_apart(reports)),
        started=started,
        duration=round(time.monotonic() - began, 3),
        seed=settings.seed or 0,
        jobs=settings.jobs,
        selection=settings.rules,
        isolated=all(isinstance(each, Recipe) for each in sources),
    )


def _report_on(source: Recipe | Suite, settings: Settings, observer: Observer, *, alone: bool) -> SuiteReport:
    try:
        return _Follower(source, settings, observer).follow()
    except UsageError as error:
        if alone:
            raise

        return replace(_blank(source), problem=str(error), misused=True)


def _told_apart(reports: Iterable[SuiteReport]) -> Iterator[SuiteReport]:
    """The same, with a number behind the name of each that is not the first of its name."""
    names: Counter[str] = Counter()
    for report in reports:
        names[report.name] += 1
        number = names[report.name]
        yield report if number == 1 else replace(report, name=f"{report.name} ({number})")


def _blank(source: Recipe | Suite) -> SuiteReport:
    """What is known of a suite before it is made."""
    if isinstance(source, Recipe):
        return SuiteReport(source.target, ", ".join(source.contracts), (), (), (), (), {})

    return SuiteReport(title(source), source.__name__, (), (), (), (), {})


class _Follower:
    """Follows one suite from outside."""

    def __init__(self, source: Recipe | Suite, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._report = _blank(source)
        self._place = _Child(source, settings) if isinstance(source, Recipe) else _Thread(source, settings)
        self._rules: dict[str, RuleEntry] = {}
        self._chosen: list[str] = []
        self._secrets: list[str] = []
        self._running: dict[str, tuple[float, int]] = {}
        self._thread = 0
        self._outcomes: dict[str, Outcome] = {}
        self._audited: dict[str, list[Outcome]] = {}
        self._reason = ""
        self._over = False

    def follow(self) -> SuiteReport:
        """Run the suite to its end, one way or the other. Raises UsageError for bad input."""
        try:
            while not self._over:
                event = self._next()
                getattr(self, f"on_{event.pop('event')}")(**event)
        finally:
            self._place.close()

        for watched in self._audited.values():
            self._end(sum_up(watched))
        outcomes = (self._outcomes.get(each.id) or self._missing(each) for each in self._report.rules)
        return replace(self._report, outcomes=tuple(outcomes), selected=bool(self._settings.rules))

    def _next(self) -> Event:
        """The next event; `hung` if none comes in time."""
        until = min((end for end, _ in self._running.values()), default=time.monotonic() + self._silence())
        try:
            return self._place.events.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return {"event": "hung"}

    def _silence(self) -> float:
        """Seconds for what is no rule: short between rules, longer for imports and the fixtures of classes."""
        between = 0 < len(self._outcomes) < len(self._chosen)
        return self._settings.grace * (2 if between else 6)

    def _missing(self, entry: RuleEntry) -> Outcome:
        """The outcome of a rule that has none."""
        if entry.audit and not entry.declared:
            return Outcome(self._report.name, entry.id, Status.NOT_DECLARED, 0.0, f"not declared: {entry.level}")
        if entry.audit:
            reason = self._masked(self._reason) or "no rule passed that it could have watched"
        else:
            reason = self._masked(self._reason) if entry.id in self._chosen else NOT_SELECTED
        return Outcome(self._report.name, entry.id, Status.NOT_RUN, 0.0, reason)

    # What the worker says.

    def on_suite(self, report: dict[str, Any], chosen: list[str], secrets: list[str]) -> None:
        self._report = _report_from(report)
        self._rules = {each.id: each for each in self._report.rules}
        self._chosen, self._secrets = chosen, secrets
        self._observer.suite_began(self._report)

    def on_opened(self, provider: str, limits: dict[str, float], secrets: list[str]) -> None:
        """The first provider was opened, and closed. A set-up may have had a word in what is secret."""
        self._running.clear()
        self._secrets = secrets
        self._report = replace(self._report, provider=provider, limits=limits)

    def on_started(self, rule: str, thread: int, deadline: float) -> None:
        """A rule is running, or the first provider is being opened."""
        self._running[rule] = (time.monotonic() + deadline + self._settings.grace, thread)
        self._thread = thread
        if rule in self._rules:
            self._observer.rule_began(rule)

    def on_finished(self, outcome: dict[str, Any]) -> None:
        self._end(Outcome(**{**outcome, "outcome": Status(outcome["outcome"])}))

    def on_audited(self, outcome: dict[str, Any]) -> None:
        """An audit has watched a rule."""
        watched = Outcome(**{**outcome, "outcome": Status(outcome["outcome"])})
        self._audited.setdefault(watched.rule, []).append(watched)

    def on_problem(self, message: str) -> None:
        self._running.clear()
        self._report = replace(self._report, problem=self._masked(message.rstrip()))
        self._reason = self._reason or "the suite ended before"

    def on_skipped(self, message: str) -> None:
        self._reason = message

    def on_misuse(self, message: str) -> None:
        raise UsageError(message)

    def on_done(self) -> None:
        self._over = True

    # What it cannot say.

    def on_hung(self) -> None:
        late = min(self._running, key=lambda rule: self._running[rule], default=None)
        left = self._place.left(late) if late in self._rules else 0.0
        if late is not None and left > 0:  # It waits for what the provider's own numbers allow.
            self._running[late] = (time.monotonic() + left + self._settings.grace, self._running[late][1])
            return

        self._over = True
        stacks = self._place.stacks(self._thread if late is None else self._running[late][1])
        entry = self._rules.get(late or "")
        if entry is not None:
            self._reason = f"{late} hung before"
            self._judge(
                entry,
                f"a verdict within {entry.deadline:g} s",
                f"none after {entry.deadline + self._settings.grace:g} s; {self._place.leaving}",
                stacks,
                hint="an operation blocks the event loop, or swallows cancellation for ever",
            )
        elif late is not None:
            self.on_problem(f"Opening a provider did not end; {self._place.leaving}.\n{stacks}")
        else:
            self.on_problem(f"Nothing happened for {self._silence():g} s {self._when()}; {self._place.leaving}.\n{stacks}")

    def on_died(self) -> None:
        self._over = True
        how, output = self._place.end()
        rules = [self._rules[each] for each in self._running if each in self._rules]
        self._reason = f"the process {how} before"
        for entry in rules:
            self._judge(
                entry,
                "the provider leaves the process alive",
                f"the process {how} during this rule" + (f"; the last that it printed:\n{output}" if output else ""),
                self._place.last_stack(self._running[entry.id][1]),
            )
        if not rules:
            when = "while a provider was opened" if self._running else self._when()
            self.on_problem(f"The process {how} {when}.\n{output}")

    def _when(self) -> str:
        if not self._rules:
            return "while the suite was imported"

        return f"after {list(self._outcomes)[-1]}" if self._outcomes else "before the first rule"

    def _judge(self, entry: RuleEntry, expected: str, observed: str, stacks: str, hint: str = "") -> None:
        """Give a rule the outcome that the worker could not."""
        violation = Violation(expected=expected, observed=observed, hint=hint)
        violation.heading = f"{entry.id} [{entry.level}] {entry.statement}"
        violation.provider = self._report.provider
        violation.trace = stacks.splitlines()
        outcome = Outcome(self._report.name, entry.id, Status.ERROR, entry.deadline, self._masked(str(violation)))
        emit(Contract, outcome)
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self._running.pop(outcome.rule, None)
        if outcome.rule in self._rules and outcome.rule not in self._outcomes:
            self._outcomes[outcome.rule] = outcome
            self._observer.rule_ended(outcome)

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _report_from(fields: dict[str, Any]) -> SuiteReport:
    return SuiteReport(
        **{
            **fields,
            "policies": tuple(fields["policies"]),
            "capabilities": tuple(fields["capabilities"]),
            "rules": tuple(RuleEntry(**each) for each in fields["rules"]),
            "catalogues": tuple(Catalogue(**each) for each in fields["catalogues"]),
        }
    )


class _Thread:
    """A suite in a thread of this process."""

    leaving = "its thread was left behind"

    def __init__(self, suite: Suite, settings: Settings) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._worker = Worker(self.events.put)
        # Set and restored by the caller's thread: a worker that is left behind must not touch the environment later.
        self._seed = ExitStack()
        self._seed.enter_context(_seeded(settings.seed))
        threading.Thread(target=self._run, args=(suite, settings), name="omnitck", daemon=True).start()

    def _run(self, suite: Suite, settings: Settings) -> None:
        try:
            self._worker.work(lambda: suite, settings.rules, settings.jobs)
        finally:
            self.events.put({"event": "died"})

    def left(self, rule: str) -> float:
        """Seconds for which *rule* may still run."""
        return self._worker.left(rule)

    def stacks(self, thread: int) -> str:
        """What *thread* is doing."""
        return self._worker.stacks(thread)

    def end(self) -> tuple[str, str]:
        """How the worker ended, and the end of what it printed."""
        return "ended", ""

    def last_stack(self, thread: int) -> str:
        """What *thread* was doing when the worker ended."""
        return ""

    def close(self) -> None:
        """Leave it."""
        self._seed.close()


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    before = os.environ.get("OMNITCK_SEED")
    os.environ["OMNITCK_SEED"] = str(seed or 0)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMNITCK_SEED"]
        else:
            os.environ["OMNITCK_SEED"] = before


class _Child:
    """A suite in a process of its own."""

    leaving = "its process was ended"
    _BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from omnitck.certifying.worker import child; child()"
    _PATIENCE = 2.0
    """Seconds for a process to do what it is asked for."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._done = False
        self._patience = min(self._PATIENCE, settings.grace)
        self._tidying = max(self._PATIENCE, settings.grace)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", self._BOOT, json.dumps([each or os.getcwd() for each in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env={**os.environ, "OMNITCK_SEED": str(settings.seed or 0)},
            start_new_session=True,
        )
        self._orders = cast("IO[bytes]", self._process.stdin)
        self._said = cast("IO[bytes]", self._process.stdout)
        self._tell({"recipe": asdict(recipe), "rules": settings.rules, "jobs": settings.jobs})
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _tell(self, message: object) -> None:
        with suppress(OSError):
            self._orders.write(json.dumps(message).encode() + b"\n")
            self._orders.flush()

    def _listen(self) -> None:
        with self._said as lines:
            for line in lines:
                with suppress(ValueError):  # A line that was cut when the process ended.
                    event = json.loads(line)
                    if event["event"] in ("left", "stacks"):
                        self._answers.put(event)
                    else:
                        self._done = event["event"] == "done"
                        self.events.put(event)
        self.events.put({"event": "died"})

    def left(self, rule: str) -> float:
        self._tell({"rule": rule})
        try:
            return float(self._answers.get(timeout=self._patience)["seconds"])
        except queue.Empty:
            return 0.0

    def stacks(self, thread: int) -> str:
        self._tell({"thread": thread})
        try:
            return str(self._answers.get(timeout=self._patience)["text"])
        except queue.Empty:
            self._process.send_signal(getattr(signal, "SIGABRT", signal.SIGTERM))
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._PATIENCE)
            return self.last_stack(thread)

    def end(self) -> tuple[str, str]:
        with suppress(OSError):
            self._orders.close()
        try:
            # One that said all it had to say may still have something to close: a server that it started, a container.
            status = self._process.wait(self._tidying if self._done else self._PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        how = f"ended with exit status {status}"
        if status < 0:
            how = f"was ended by {next((each.name for each in signal.Signals if each == -status), f'signal {-status}')}"
        return how, self._printed()[0][-2000:].strip()

    def last_stack(self, thread: int) -> str:
        """What *thread* was doing when the process ended, as `faulthandler` dumped it."""
        parts = self._printed()[1].split("hread 0x")[1:]
        own = next((each for each in parts if int(each.split()[0], 16) == thread), parts[0] if parts else "")
        frames = re.findall(r'File "(.*)", line (\d+) in (.*)', own)
        return calls(
            provider_calls(traceback.FrameSummary(file, int(line), name, lookup_line=False) for file, line, name in frames)
        )

    def close(self) -> None:
        """End the process, and what it started if it had no chance to tidy up."""
        self.end()
        if not self._done and hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._listener.join(self._PATIENCE)
        self._output.close()

    def _printed(self) -> tuple[str, str]:
        """What the process printed, and the last dump of `faulthandler` after that."""
        self._output.seek(0)
        text, mark, dump = self._output.read().decode(errors="replace").rpartition("Fatal Python error: ")
        return (text, dump) if mark else (dump, "")
