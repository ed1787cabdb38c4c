"""Running suites: many rules at a time, and apart from the process that asks.

`ConcurrentSuite` is for any unittest runner. `certify` runs suites one after the other, each apart from the caller: in a child
process, or in a thread where no other process could import the suite. Theory of operation:

1. The worker (`_work`) makes the suite, opens one provider to see that it is one, runs the rules, and sends events: plain
   dictionaries, in the child as lines of JSON. It is the same code in both places.
2. The child takes standard output away from itself before any foreign code is imported, and keeps a copy for its events, so that
   nothing which a provider prints can mix with them. What it prints goes to a file whose end is shown if the child dies.
3. The follower (`_Follower`) knows from the events which rules are running. The kit's own deadline fails a rule from inside; what
   ignores that (a blocked loop, a swallowed cancellation) is still running a grace later, and is ended from outside. Its stacks
   are asked of the child first, which knows its tasks; a child that holds the interpreter's lock cannot answer, and is made to
   dump them by `faulthandler`.
"""

import asyncio
import faulthandler
import itertools
import json
import math
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
import types
import unittest
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import IO, Any, Protocol, cast

import anyio

from omnitck.kit.contract import Contract, Policy, Rule, rules_of
from omnitck.kit.outcomes import Outcome, Status, Violation, emit, listening
from omnitck.kit.session import HookError, Session, raw
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.loader import Recipe, Suite, recipe_of, select
from omnitck.report.certificate import NOT_SELECTED, Catalogue, Certificate, RuleEntry, SuiteReport, catalogue_digest
from omnitck.shared.exceptions import UnavailableError
from omnitck.shared.models import Limits

__all__ = ["ConcurrentSuite", "Observer", "Settings", "certify", "source_of"]


# Many rules at a time.


class ConcurrentSuite(unittest.TestSuite):
    """A suite that runs whole tests in *jobs* threads, each with an event loop of its own.

    The caller's result hears of them in the suite's order, one whole test at a time. A test whose rule is `exclusive` runs alone,
    after the others (before them, if it leads the suite). Class and module fixtures run once around their tests.
    """

    def __init__(self, tests: Iterable[unittest.TestCase | unittest.TestSuite] = (), jobs: int = 16) -> None:
        if jobs < 1:
            raise UsageError(f"jobs is {jobs}: give the number of rules to run at a time, from 1.")

        super().__init__(tests)
        self.jobs = jobs

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        """Run the tests, and tell *result*."""
        if debug:
            return super().run(result, debug)

        fixtures = _Fixtures(result)
        for cls, tests in itertools.groupby(_flat(self), key=type):
            if _stopped(result):
                break
            if fixtures.enter(cls):
                self._run_class([_Run(each) for each in tests], result)
        fixtures.leave()
        return result

    def _run_class(self, runs: list["_Run"], result: unittest.TestResult) -> None:
        leading = list(itertools.takewhile(lambda run: run.exclusive, runs))
        for run in leading:
            run.execute()
            run.replay(result)
            if _stopped(result):
                return

        waiting = deque(run for run in runs[len(leading) :] if not run.exclusive)
        pooled = tuple(waiting)
        threads = [
            threading.Thread(target=_work_off, args=(waiting,), name=f"omnitck-{number}", daemon=True)
            for number in range(min(self.jobs, len(waiting)))
        ]
        for thread in threads:
            thread.start()
        try:
            for run in runs[len(leading) :]:
                if not _wait(pooled if run.exclusive else [run], result):
                    break
                if run.exclusive:
                    run.execute()
                run.replay(result)
        finally:
            waiting.clear()
        for thread in threads:
            thread.join()


class _Run:
    """One test, and what it told its result."""

    def __init__(self, test: unittest.TestCase) -> None:
        method = getattr(test, test.id().rpartition(".")[2], None)
        self.test = test
        self.exclusive = bool(getattr(getattr(method, "rule", None), "exclusive", False))
        self.done = threading.Event()
        self._record = _Record()
        self._interrupt: BaseException | None = None

    def execute(self) -> None:
        try:
            self.test.run(cast("unittest.TestResult", self._record))
        except BaseException as error:
            self._interrupt = error
        finally:
            self.done.set()

    def replay(self, result: unittest.TestResult) -> None:
        """Tell *result* all of it; raises what interrupted the test."""
        for name, arguments in self._record.calls:
            if hasattr(result, name):
                getattr(result, name)(*arguments)
        if self._interrupt is not None:
            raise self._interrupt


class _Record:
    """Notes what a test tells its result."""

    shouldStop = False  # noqa: N815  unittest's name
    failfast = False
    _EVENTS = frozenset(
        (
            "startTest",
            "stopTest",
            "addSuccess",
            "addError",
            "addFailure",
            "addSkip",
            "addExpectedFailure",
            "addUnexpectedSuccess",
            "addSubTest",
            "addDuration",
        )
    )

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in self._EVENTS:
            raise AttributeError(name)

        return lambda *arguments: self.calls.append((name, arguments))


def _work_off(waiting: "deque[_Run]") -> None:
    while True:
        try:
            run = waiting.popleft()
        except IndexError:
            return
        run.execute()


def _wait(runs: Iterable[_Run], result: unittest.TestResult) -> bool:
    """Wait for *runs*, in steps, so that an interrupt and a stop are noticed."""
    for run in runs:
        while not run.done.wait(0.2):
            if _stopped(result):
                return False
    return not _stopped(result)


def _stopped(result: unittest.TestResult) -> bool:
    return bool(getattr(result, "shouldStop", False))


def _flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


class _Fixtures:
    """The fixtures of classes and modules, in unittest's order and with its words."""

    def __init__(self, result: unittest.TestResult) -> None:
        self._result = result
        self._class: type[unittest.TestCase] | None = None
        self._module = ""
        self._module_works = True

    def enter(self, cls: type[unittest.TestCase]) -> bool:
        """Leave what came before, set up for *cls*, and say whether its tests can run."""
        self._leave_class()
        if cls.__module__ != self._module:
            self._leave_module()
            self._module = cls.__module__
            self._module_works = self._call("setUpModule", cls.__module__, self._of_module("setUpModule"))
            if not self._module_works:
                self._call("setUpModule", cls.__module__, unittest.doModuleCleanups)
        if not self._module_works:
            return False
        if getattr(cls, "__unittest_skip__", False):
            return True

        self._class = cls
        if self._call("setUpClass", _title(cls), cls.setUpClass):
            return True

        self._clean_class("setUpClass")
        return False

    def leave(self) -> None:
        self._leave_class()
        self._leave_module()

    def _leave_class(self) -> None:
        if self._class is not None:
            self._call("tearDownClass", _title(self._class), self._class.tearDownClass)
            self._clean_class("tearDownClass")

    def _clean_class(self, name: str) -> None:
        cls, self._class = self._class, None
        if cls is not None:
            cls.doClassCleanups()
            for problem in getattr(cls, "tearDown_exceptions", ()):
                self._result.addError(cast("unittest.TestCase", _Fixture(name, _title(cls))), problem)

    def _leave_module(self) -> None:
        if self._module and self._module_works:
            self._call("tearDownModule", self._module, self._of_module("tearDownModule"))
            self._call("tearDownModule", self._module, unittest.doModuleCleanups)

    def _of_module(self, name: str) -> Callable[[], object]:
        function = getattr(sys.modules.get(self._module), name, None)
        return function if callable(function) else lambda: None

    def _call(self, name: str, owner: str, function: Callable[[], object]) -> bool:
        try:
            function()
        except KeyboardInterrupt:
            raise
        except unittest.SkipTest as skip:
            self._result.addSkip(cast("unittest.TestCase", _Fixture(name, owner)), str(skip))
            return False
        except BaseException:
            problem = cast("tuple[type[BaseException], BaseException, types.TracebackType]", sys.exc_info())
            self._result.addError(cast("unittest.TestCase", _Fixture(name, owner)), problem)
            return False
        return True


class _Fixture:
    """What stands for a test where a fixture failed."""

    failureException = None

    def __init__(self, name: str, owner: str) -> None:
        self._description = f"{name} ({owner})"

    def id(self) -> str:
        return self._description

    def shortDescription(self) -> None:  # noqa: N802  unittest's name
        return None

    def countTestCases(self) -> int:  # noqa: N802  unittest's name
        return 0

    def __str__(self) -> str:
        return self._description


def _title(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# Apart from the process that asks.


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
    """Seconds that a rule may take beyond its deadline before it is ended from outside."""
    isolate: bool | None = None
    """Whether each suite runs in a child process; None where it can."""

    def __post_init__(self) -> None:
        if not isinstance(self.jobs, int) or self.jobs < 1:
            raise UsageError(f"jobs is {describe(self.jobs)}: give the number of rules to run at a time, from 1.")
        if not isinstance(self.grace, int | float) or not self.grace > 0:
            raise UsageError(f"grace is {describe(self.grace)}: give a number of seconds above 0.")
        if self.seed is None:
            object.__setattr__(self, "seed", _environment_seed())


def _environment_seed() -> int:
    text = os.environ.get("OMNITCK_SEED", "")
    try:
        return int(text or 0)
    except ValueError:
        raise UsageError(f"OMNITCK_SEED is {text!r}: give a whole number.") from None


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


def source_of(suite: Suite, settings: Settings) -> Recipe | Suite:
    """*suite* in the form in which `settings.isolate` wants it."""
    recipe = recipe_of(suite) if settings.isolate is not False and sys.executable else None
    if recipe is None and settings.isolate:
        raise UsageError(
            f"{suite.__qualname__} cannot be isolated: another process can import only what is defined at the top level of a "
            "module that is no script."
        )

    return recipe or suite


def certify(sources: Iterable[Recipe | Suite], settings: Settings, observer: Observer) -> Certificate:
    """Run each suite, and put the reports together. Bad input of the only suite raises UsageError, of one among several is told
    in its report.
    """
    sources = tuple(sources)
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    reports: list[SuiteReport] = []
    for source in sources:
        try:
            report = _Follower(source, settings, observer).follow()
        except UsageError as error:
            if len(sources) == 1:
                raise

            name = source.target if isinstance(source, Recipe) else _title(source)
            report = SuiteReport(name, "", (), (), (), (), {}, problem=str(error), misused=True)
        same = sum(each.name == report.name or each.name.startswith(f"{report.name} (") for each in reports)
        reports.append(replace(report, name=f"{report.name} ({same + 1})") if same else report)
    return Certificate(
        suites=tuple(reports),
        started=started,
        duration=round(time.monotonic() - began, 3),
        seed=settings.seed or 0,
        jobs=settings.jobs,
        selection=settings.rules,
        isolated=all(isinstance(each, Recipe) for each in sources),
    )


Event = dict[str, Any]
HUNG: Event = {"event": "hung"}
FATAL = "Fatal Python error: "
"""What begins a dump of `faulthandler`."""


class _Place(Protocol):
    """Where a suite runs."""

    events: "queue.SimpleQueue[Event | None]"
    """What the worker says; None when it can say nothing more."""

    def stacks(self, thread: int) -> str:
        """What *thread* of the worker is doing."""

    def end(self) -> str:
        """End the worker, and say how it ended; nothing if that is as it should be."""

    def last_stack(self, thread: int) -> str:
        """What *thread* was doing when the worker was ended by a signal."""

    def output(self) -> str:
        """The end of what the worker printed."""

    def close(self) -> None:
        """End it, and let go of what it holds."""


class _Follower:
    """Follows one suite from outside."""

    def __init__(self, source: Recipe | Suite, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._source = source
        self._report: SuiteReport | None = None
        self._rules: dict[str, RuleEntry] = {}
        self._secrets: list[str] = []
        self._running: dict[str, tuple[float, int]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._reason = ""
        self._thread = 0
        self._silent_since = time.monotonic()

    def follow(self) -> SuiteReport:
        """Run the suite to its end, one way or the other. Raises UsageError for bad input."""
        source, settings = self._source, self._settings
        self._place: _Place = _Child(source, settings) if isinstance(source, Recipe) else _Thread(source, settings)
        try:
            while self._take(self._next()):
                pass
        finally:
            self._place.close()
        return self._finish()

    def _next(self) -> Event | None:
        """The next event; `hung` if none comes in time."""
        until = min((end for end, _ in self._running.values()), default=self._silent_since + self._silence())
        try:
            return self._place.events.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return HUNG

    def _silence(self) -> float:
        """Seconds for what is no rule: short between rules, longer for imports and the fixtures of classes."""
        between = 0 < len(self._outcomes) < len(_chosen(self._rules.values(), self._settings.rules))
        return self._settings.grace * (2 if between else 6)

    def _take(self, event: Event | None) -> bool:
        """Act on *event*, and say whether more can come."""
        if event != HUNG:
            self._silent_since = time.monotonic()
        match event:
            case None:
                self._died()
            case {"event": "hung"}:
                self._hung()
            case {"event": "misuse", "message": message}:
                raise UsageError(str(message))
            case {"event": "suite", "suite": suite, "secrets": secrets}:
                self._begin(_report_from(suite), secrets)
                return True
            case {"event": "opened", "provider": provider, "limits": limits}:
                self._report = replace(self._made(), provider=provider, limits=limits)
                return True
            case {"event": "started", "rule": rule, "thread": thread, "deadline": deadline}:
                self._running[rule] = (time.monotonic() + deadline + self._settings.grace, thread)
                self._thread = thread
                if rule in self._rules:
                    self._observer.rule_began(rule)
                return True
            case {"event": "ended", "rule": rule}:
                self._running.pop(rule, None)
                return True
            case {"event": "finished", "outcome": fields}:
                outcome = Outcome(**{**fields, "outcome": Status(fields["outcome"])})
                self._running.pop(outcome.rule, None)
                self._end(outcome)
                return True
            case {"event": "problem", "message": message}:
                self._problem(str(message))
                return True
            case {"event": "skipped", "message": message}:
                self._reason = str(message)
                return True
        return False

    def _begin(self, report: SuiteReport, secrets: list[str]) -> None:
        self._report = report
        self._rules = {each.id: each for each in report.rules}
        self._secrets = secrets
        self._observer.suite_began(report)

    def _end(self, outcome: Outcome) -> None:
        if outcome.rule not in self._outcomes:
            self._outcomes[outcome.rule] = outcome
            self._observer.rule_ended(outcome)

    def _made(self) -> SuiteReport:
        if self._report is not None:
            return self._report

        source = self._source
        name = source.target if isinstance(source, Recipe) else _title(source)
        contracts = source.contracts if isinstance(source, Recipe) else (source.__name__,)
        return SuiteReport(name, ", ".join(contracts), (), (), (), (), {})

    def _problem(self, sentence: str) -> None:
        self._report = replace(self._made(), problem=self._masked(sentence))
        self._reason = self._reason or "the suite ended before"

    def _hung(self) -> None:
        now = time.monotonic()
        late = next((rule for rule, (end, _) in self._running.items() if end <= now), None)
        stacks = self._place.stacks(self._thread if late is None else self._running[late][1])
        if late is None:
            self._problem(f"Nothing happened for {self._silence():g} s {self._when()}; the run was ended.\n{stacks}".rstrip())
            return

        where = "its process was ended" if isinstance(self._source, Recipe) else "its thread was left behind"
        if late in self._rules:
            entry = self._rules[late]
            self._judge(
                entry,
                f"a verdict within {entry.deadline:g} s",
                f"none after {entry.deadline + self._settings.grace:g} s; {where}",
                stacks=stacks,
                hint="an operation blocks the event loop, or swallows cancellation for ever",
            )
            self._reason = f"{late} hung before"
        else:
            self._problem(f"Opening a provider did not end; {where}.\n{stacks}".rstrip())

    def _died(self) -> None:
        how = self._place.end() or "ended"
        output = self._place.output()
        for rule in [each for each in self._running if each in self._rules]:
            self._judge(
                self._rules[rule],
                "the provider leaves the process alive",
                f"the process {how} during this rule",
                stacks=self._place.last_stack(self._running[rule][1]),
                output=output,
            )
            self._reason = f"the process {how} before"
        if not any(rule in self._rules for rule in self._running):
            opening = bool(self._running)
            when = "while a provider was opened" if opening else self._when()
            self._problem(f"The process {how} {when}." + (f"\n{output}" if output else ""))

    def _when(self) -> str:
        if self._report is None:
            return "while the suite was imported"

        return f"after {list(self._outcomes)[-1]}" if self._outcomes else "before the first rule"

    def _judge(self, entry: RuleEntry, expected: str, observed: str, **fields: str) -> None:
        """Give a rule the outcome that the worker could not."""
        lines = [f"{entry.id} [{entry.level}] {entry.statement}"]
        for name, text in {"expected": expected, "observed": observed, **fields}.items():
            if text:
                lines.append(f"  {name:9} " + text.strip("\n").replace("\n", "\n" + " " * 12))
        outcome = Outcome(self._made().name, entry.id, Status.ERROR, round(entry.deadline, 6), self._masked("\n".join(lines)))
        emit(Contract, outcome)
        self._end(outcome)

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _finish(self) -> SuiteReport:
        report = self._made()
        chosen = _chosen(report.rules, self._settings.rules)
        outcomes = [
            self._outcomes.get(each.id)
            or Outcome(
                report.name, each.id, Status.NOT_RUN, 0.0, self._masked(self._reason) if each.id in chosen else NOT_SELECTED
            )
            for each in report.rules
        ]
        return replace(report, outcomes=tuple(outcomes), selected=bool(self._settings.rules))


def _chosen(rules: Iterable[RuleEntry], patterns: tuple[str, ...]) -> set[str]:
    from fnmatch import fnmatchcase

    return {each.id for each in rules if not patterns or any(fnmatchcase(each.id, one.upper()) for one in patterns)}


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
    """A suite in a thread of this process, which is left behind if it hangs."""

    def __init__(self, suite: Suite, settings: Settings) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._worker = _Worker(self.events.put)
        thread = threading.Thread(target=self._run, args=(lambda: suite, settings), name="omnitck", daemon=True)
        thread.start()

    def _run(self, make: Callable[[], Suite], settings: Settings) -> None:
        try:
            with _seeded(settings.seed):
                self._worker.work(make, settings)
        finally:
            self.events.put(None)

    def stacks(self, thread: int) -> str:
        return self._worker.stacks(thread)

    def end(self) -> str:
        return ""

    def last_stack(self, thread: int) -> str:
        return ""

    def output(self) -> str:
        return ""

    def close(self) -> None:
        return


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

    _BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from omnitck.runner import child; child()"

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stacks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done = False
        self._patience = min(2.0, settings.grace)
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", self._BOOT, json.dumps([each or os.getcwd() for each in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env={**os.environ, "OMNITCK_SEED": str(settings.seed or 0)},
            start_new_session=True,
        )
        self._tell({"recipe": asdict(recipe), "settings": asdict(settings)})
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()

    def _listen(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    with suppress(ValueError):  # A line that was cut when the process ended.
                        event = json.loads(line)
                        if event["event"] == "stacks":
                            self._stacks.put(event["text"])
                        else:
                            self._done = event["event"] == "done"
                            self.events.put(event)
        self.events.put(None)

    def stacks(self, thread: int) -> str:
        self._tell({"stacks": thread})
        try:
            return self._stacks.get(timeout=self._patience)
        except queue.Empty:
            self._process.send_signal(getattr(signal, "SIGABRT", signal.SIGTERM))
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)
            return self.last_stack(thread)

    def end(self) -> str:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            # One that said all it had to say may still have something to close.
            status = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status < 0:
            return f"was ended by {next((each.name for each in signal.Signals if each == -status), f'signal {-status}')}"

        return f"ended with exit status {status}"

    def last_stack(self, thread: int) -> str:
        return _stack_of(thread, self._text().rpartition(FATAL)[2])

    def output(self) -> str:
        return self._text().partition(FATAL)[0][-2000:].strip()

    def close(self) -> None:
        self.end()
        if not self._done and hasattr(os, "killpg"):
            with suppress(OSError):  # What it started would be left alone: it had no chance to tidy up.
                os.killpg(self._process.pid, signal.SIGKILL)
        self._listener.join(timeout=2)
        self._output.close()

    def _text(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")


def _stack_of(thread: int, dump: str) -> str:
    """The calls of *thread* in faulthandler's *dump*, the newest first, as `_Worker.stacks` shows them."""
    parts = dump.split("hread 0x")[1:]
    own = next((each for each in parts if int(each.split()[0], 16) == thread), parts[0] if parts else "")
    calls = [
        traceback.FrameSummary(file, int(line), name, lookup_line=False)
        for file, line, name in re.findall(r'File "(.*)", line (\d+) in (.*)', own)
    ]
    return "\n".join(_line(each) for each in itertools.takewhile(lambda each: not _is_machinery(each), calls[:10]))


# The worker.


def child() -> None:
    """The main program of a child process: reads a recipe and settings from standard input, writes events."""
    channel, control = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    faulthandler.enable()
    _forbid_core_dumps()

    lock = threading.Lock()

    def send(event: Event) -> None:
        line = json.dumps(event).encode() + b"\n"
        with lock:
            try:
                while line:
                    line = line[os.write(channel, line) :]
            except OSError:
                os._exit(1)  # Who asked is gone.

    lines = _lines(control)
    order = json.loads(next(lines))
    worker = _Worker(send)

    def obey() -> None:
        for line in lines:
            send({"event": "stacks", "text": worker.stacks(json.loads(line)["stacks"])})
        if not worker.ended:
            os._exit(1)

    threading.Thread(target=obey, daemon=True).start()
    settings = Settings(**{**order["settings"], "rules": tuple(order["settings"]["rules"])})
    recipe = Recipe(**{**order["recipe"], "contracts": tuple(order["recipe"]["contracts"])})
    worker.work(recipe.build, settings)


def _lines(descriptor: int) -> Iterator[bytes]:
    # No buffered reader: a thread that waits in one cannot be left behind when the interpreter ends.
    rest = b""
    while True:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def _forbid_core_dumps() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


class _Worker:
    """Makes a suite, runs it, and sends what happens."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}
        self._seen: set[str] = set()
        self.ended = False

    def work(self, make: Callable[[], Suite], settings: Settings) -> None:
        try:
            self._work(make, settings)
        except UsageError as error:
            self._send({"event": "misuse", "message": str(error)})
        self.ended = True
        self._send({"event": "done"})

    def _work(self, make: Callable[[], Suite], settings: Settings) -> None:
        suite = make()
        contract = cast("type[Contract]", suite)
        chosen = select(suite, settings.rules)
        self._send({"event": "suite", "suite": asdict(_describe_suite(suite)), "secrets": list(contract.credentials)})
        if not chosen:
            return

        result = _Result(self, contract)
        tests: list[unittest.TestCase] = [self._preflight(suite, chosen[0], result)]
        tests += [suite(each.method) for each in chosen]
        whole = ConcurrentSuite(tests, settings.jobs) if settings.jobs > 1 else unittest.TestSuite(tests)

        def started(cls: type, rule: str) -> None:
            if cls is suite:
                self.started(rule, deadlines[rule])

        def finished(cls: type, outcome: Outcome) -> None:
            if cls is suite:
                self.finished(outcome)

        deadlines = {each.id_in(contract.contract.prefix): _deadline(contract, each) for each in rules_of(suite)}
        with listening(finished, started):
            whole.run(result)

    def started(self, rule: str, deadline: float) -> None:
        thread = threading.get_ident()
        with suppress(RuntimeError):
            self._loops[thread] = asyncio.get_running_loop()
        self._send({"event": "started", "rule": rule, "thread": thread, "deadline": deadline})

    def finished(self, outcome: Outcome) -> None:
        if outcome.rule not in self._seen:
            self._seen.add(outcome.rule)
            self._send({"event": "finished", "outcome": asdict(outcome)})

    def told(self, rule: str) -> bool:
        """Whether *rule* has its outcome."""
        return rule in self._seen

    def say(self, event: str, message: str) -> None:
        self._send({"event": event, "message": message})

    def _preflight(self, suite: Suite, first: Rule, result: "_Result") -> unittest.TestCase:
        """A test that opens one provider: whatever is wrong there is said once, and not once for every rule."""
        test = suite(first.method)
        contract = cast("Contract", test)

        async def preflight() -> None:
            opening = Rule("preflight", "", "", first.method, frozenset(), None, False, 10.0)
            self.started("preflight", _deadline(type(contract), opening))
            contract.session = session = Session(contract, opening)
            error = await session.judge(lambda _: self._open(contract))
            self._send({"event": "ended", "rule": "preflight"})
            if isinstance(error, HookError) and not isinstance(error.__cause__, UnavailableError):
                self.say("misuse", session.masked(f"{_title(suite)}: {error}"))
                result.stop()
            elif error is not None and session.first_provider() is None:
                text = _reason(error) if isinstance(error, Violation) else describe_error(error)
                self.say("problem", session.masked(f"No provider could be opened: {text}"))
                result.stop()

        def on_backend() -> None:
            anyio.run(preflight, backend=contract.backend)

        # An attribute of the instance hides the class's method: unittest runs this instead, with all of the class's fixtures.
        method: Any = preflight if contract.backend == "asyncio" else on_backend
        method.rule = types.SimpleNamespace(exclusive=True)
        setattr(test, first.method, method)
        return test

    async def _open(self, suite: Contract) -> None:
        provider = raw(await suite.connect())
        operations = _operations(suite.contract.protocols.get("", object))
        if operations and not any(_has(provider, each) for each in operations):
            raise HookError(
                f"make_provider returned {describe(provider, 60)}, which is no provider of {suite.contract.name}: "
                f"it has none of {', '.join(operations)}."
            )

        kind = type(provider)
        self._send(
            {
                "event": "opened",
                "provider": f"{kind.__module__}.{kind.__qualname__}",
                "limits": _numbers(suite.numbers()),
            }
        )

    def stacks(self, thread: int) -> str:
        """What the provider does in *thread*, the newest call first: the call that it is in, or else those that wait."""
        frame = sys._current_frames().get(thread or threading.main_thread().ident or 0)
        running = [] if frame is None else list(reversed(traceback.extract_stack(frame)))
        loop = self._loops.get(thread)
        chains = [list(itertools.takewhile(lambda each: not _is_machinery(each), running))]
        if loop is not None:
            chains += [list(reversed(_awaiting(task))) for task in asyncio.all_tasks(loop)]
        foreign = [chain for chain in chains if any(map(_is_foreign, chain))][:3]
        return "\n".join(_line(each) for chain in foreign for each in chain[:10])


def _deadline(suite: type[Contract], rule: Rule) -> float:
    return (suite.deadline or rule.deadline) * suite.patience


def _describe_suite(suite: Suite) -> SuiteReport:
    contract = cast("type[Contract]", suite)
    primitive, prefix = contract.contract, contract.contract.prefix
    owners = {each.method: primitive for each in rules_of(primitive)}
    owners.update({each.method: policy for policy in contract.policies for each in rules_of(policy) if each.method not in owners})
    entries = [
        RuleEntry(
            id=each.id_in(prefix),
            level=each.level_in(primitive),
            statement=each.statement,
            owner=owners.get(each.method, primitive).name,
            declared=each.needs_in(primitive) <= contract.declared,
            deadline=_deadline(contract, each),
        )
        for each in rules_of(suite)
    ]
    return SuiteReport(
        name=_title(suite),
        contract=primitive.name,
        policies=tuple(each.name for each in contract.policies),
        capabilities=tuple(sorted(contract.declared)),
        rules=tuple(entries),
        catalogues=tuple(
            Catalogue(
                name=owner.name,
                kind="policy" if issubclass(owner, Policy) else "contract",
                version=owner.version,
                digest=catalogue_digest(each for each in entries if each.owner == owner.name),
            )
            for owner in (primitive, *contract.policies)
        ),
        known_deviations=dict(contract.known_deviations),
    )


class _Result(unittest.TestResult):
    """Sends what no outcome tells: fixtures that failed, and tests that ended without reaching their rule."""

    def __init__(self, worker: _Worker, suite: type[Contract]) -> None:
        super().__init__()
        self._worker = worker
        self._suite = suite

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        text = describe_error(err[1])
        if not isinstance(test, Contract):
            self._worker.say("problem", f"{test.id()} raised {text}")
        else:
            self._note(test, Status.ERROR, text)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._note(test, Status.ERROR, describe_error(err[1]))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        if not isinstance(test, Contract):
            self._worker.say("skipped", f"{test.id()}: {reason}")
        else:
            self._note(test, Status.NOT_RUN, reason)

    def _note(self, test: unittest.TestCase, status: Status, reason: str) -> None:
        rule = getattr(getattr(test, test.id().rpartition(".")[2], None), "rule", None)
        if not isinstance(rule, Rule):
            return

        name = rule.id_in(self._suite.contract.prefix)
        if not self._worker.told(name):
            message = reason if status is Status.NOT_RUN else f"{name} could not be judged: {reason}"
            self._worker.finished(Outcome(_title(self._suite), name, status, 0.0, message))


def _operations(protocol: type) -> list[str]:
    """The public methods of *protocol*."""
    return [
        name
        for cls in protocol.__mro__
        if cls.__module__ not in ("builtins", "typing")
        for name, member in vars(cls).items()
        if not name.startswith("_") and callable(member)
    ]


def _has(provider: object, name: str) -> bool:
    try:
        return callable(getattr(provider, name, None))
    except Exception:
        return False


def _numbers(limits: Limits) -> dict[str, Any]:
    return {
        key: value if isinstance(value, int | float) and math.isfinite(value) else describe(value)
        for key, value in asdict(limits).items()
    }


def _reason(violation: Violation) -> str:
    return f"expected {violation.expected}, observed {violation.observed}"


_LIBRARY = os.path.dirname(os.__file__) + os.sep
_MACHINERY = tuple(
    os.path.dirname(path) + os.sep for path in (__file__, asyncio.__file__, anyio.__file__, unittest.__file__) if path
)


def _is_machinery(frame: traceback.FrameSummary) -> bool:
    """Whether *frame* belongs to what runs a rule."""
    return frame.filename.startswith(_MACHINERY)


def _is_foreign(frame: traceback.FrameSummary) -> bool:
    """Whether *frame* belongs neither to that nor to the standard library."""
    name = frame.filename
    in_library = name.startswith((_LIBRARY, "<frozen")) and "site-packages" not in name
    return not in_library and not _is_machinery(frame)


def _line(frame: traceback.FrameSummary) -> str:
    return f"{os.path.basename(frame.filename)} line {frame.lineno} in {frame.name}: {frame.line}"


def _awaiting(task: "asyncio.Task[Any]") -> list[traceback.FrameSummary]:
    """The frames of a task that waits, from the outermost to the one that waits."""
    frames: list[traceback.FrameSummary] = []
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames += traceback.extract_stack(frame, limit=1)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames
