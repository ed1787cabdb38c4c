"""Certifying: suites one after the other, each apart from the caller and followed from outside.

A suite runs in a child process, or in a thread where no other process could import it. The follower knows from the worker's
events which rules are under way. The kit's own deadline fails a rule from inside; what ignores that (a blocked loop, a swallowed
cancellation) is still under way a grace later, and is ended from outside. Its stacks are asked of the worker first, which knows
its tasks; a child that holds the interpreter's lock cannot answer, and is made to dump them by `faulthandler`.

A rule that had to be ended, or during which the process died, is failed: nothing but the provider runs then. Another child takes
up the rules that have no outcome yet. Where several rules were under way when a process died, nobody knows which of them did it,
and each runs once more in a child of its own.
"""

import os
import queue
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from omnitck.certifying.channel import Event
from omnitck.certifying.interrupts import Interrupts
from omnitck.certifying.places import Place, take_place
from omnitck.certifying.worker import PREFLIGHT, Order, amended, dealt, title
from omnitck.concurrent import check_jobs
from omnitck.kit.outcomes import Outcome, Status, Violation, record
from omnitck.kit.text import UsageError, describe, describe_error, place_of
from omnitck.report.audits import sum_up
from omnitck.report.certificate import NOT_SELECTED, Catalogue, Certificate, RuleEntry, SuiteReport
from omnitck.report.observer import Observer
from omnitck.suites import Recipe, Suite, recipe_of

__all__ = ["Settings", "run_suites", "source_of"]

MOST_ENDED = 2
"""Rules of a suite that are ended from outside after the whole grace; the others get less, so that the suite comes to an end."""
SHORT_GRACE = 1.0
"""What they get at most. A rule that is late has failed already: the grace is there for it to say so itself, and to close."""
QUIET_SECONDS = 20.0
"""At least so long may a process take that starts, is between tests, or sets up its class: no deadline is about that."""
MOST_CONFIRMED = 5
"""Rules of a suite that run once more alone, if they failed beside others."""
FAILURES = (Status.FAILED, Status.KNOWN_DEVIATION)
"""What a rule comes to by the provider's doing."""
ENDING_SECONDS = 5.0
"""Once a run is interrupted, the rules under way end in so much time, or the grace, and their class is torn down in it."""
LONGEST_WAIT = 3600.0
"""Seconds: no rule may wait for ever in one go."""


@dataclass(frozen=True)
class Settings:
    """How suites are run."""

    jobs: int = 1
    """Rules at a time in one process."""
    seed: int | None = None
    """Of everything random; None takes OMNITCK_SEED, or 0."""
    rules: tuple[str, ...] = ()
    """Patterns of rule ids; none is all."""
    grace: float = 10.0
    """Seconds that a rule may take beyond its deadline, and its process after the last rule, until it is ended from outside."""
    isolate: bool | None = None
    """Whether each suite runs in a child process; None where it can."""
    processes: int = 1
    """Child processes of one suite that run at a time, each with a share of the rules."""
    excluded: tuple[str, ...] = ()
    """Patterns of rule ids that are left out."""
    fail_fast: bool = False
    """Whether no rule begins after one has failed, or could not be judged."""

    def __post_init__(self) -> None:
        check_jobs(self.jobs)
        if not isinstance(self.processes, int) or self.processes < 1:
            raise UsageError(f"processes is {describe(self.processes)}: give the number of processes to run a suite in, from 1.")
        if self.processes > 1 and self.isolate is False:
            raise UsageError(f"processes is {self.processes}, but the suites are not to be isolated: leave one of the two out.")
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
    if recipe is None and (settings.isolate or settings.processes > 1):
        raise UsageError(
            f"{suite.__qualname__} cannot be isolated: another process can import only what is defined at the top level of a "
            "module that is no script."
        )

    return recipe or suite


def run_suites(
    sources: Iterable[Recipe | Suite], settings: Settings, observer: Observer, interrupts: Interrupts | None = None
) -> Certificate:
    """Run each suite, and put the reports together. Bad input of the only suite raises UsageError, of one among several is told
    in its report. The first of *interrupts* ends the run in order.
    """
    sources = tuple(sources)
    interrupts = interrupts or Interrupts()
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    reports = [_report_on(each, settings, observer, interrupts, alone=len(sources) == 1) for each in sources]
    return Certificate(
        suites=tuple(_told_apart(reports)),
        started=started,
        duration=round(time.monotonic() - began, 3),
        seed=settings.seed or 0,
        jobs=settings.jobs,
        processes=settings.processes,
        selection=settings.rules,
        excluded=settings.excluded,
        interrupted=interrupts.name,
        isolated=settings.isolate is not False and all(isinstance(each, Recipe) for each in sources),
    )


def _report_on(
    source: Recipe | Suite, settings: Settings, observer: Observer, interrupts: Interrupts, *, alone: bool
) -> SuiteReport:
    if interrupts.name:
        return replace(_blank(source), problem=f"The run was interrupted by {interrupts.name} before this suite.")

    try:
        if isinstance(source, Recipe) and settings.isolate is False:
            source = source.build()
        return _Follower(source, settings, observer, interrupts).follow()
    except UsageError as error:
        if alone:
            raise

        return replace(_blank(source), problem=str(error), misused=True)
    except Exception as error:
        return replace(_blank(source), problem=_crashed(error))


def _crashed(error: Exception) -> str:
    return f"The kit could not go on: {describe_error(error)}, raised in {place_of(error, in_kit=True)}."


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


def _report_from(fields: dict[str, Any]) -> SuiteReport:
    return SuiteReport(
        **{
            **fields,
            "policies": tuple(fields["policies"]),
            "capabilities": tuple(fields["capabilities"]),
            "demanded": tuple(fields["demanded"]),
            "rules": tuple(RuleEntry(**each) for each in fields["rules"]),
            "catalogues": tuple(Catalogue(**each) for each in fields["catalogues"]),
        }
    )


@dataclass
class _Group:
    """Rules of which one may have ended the process while all of them were under way."""

    rules: tuple[str, ...]
    what: str
    """What became of the process."""
    guilty: bool = False
    """Whether one of them has done so alone."""
    left: int = 0
    """How many have not run alone yet."""


@dataclass(frozen=True)
class _Task:
    """Rules for one place."""

    jobs: int
    rules: tuple[str, ...] | None = None
    """None: the first share of all."""
    suspected: _Group | None = None
    """To which the only rule belongs."""
    again: bool = False
    """Whether the rules have outcomes, and run only to see whether they fail alone, too."""
    fixtures: bool = True


@dataclass
class _UnderWay:
    """A test under way."""

    thread: int
    began: float
    """On the monotonic clock, as is the next."""
    look: float
    """When to look whether it hangs."""
    stage: str = "set-up"
    """Or `rule`, or `tear-down`."""
    late: tuple[float, float | None] | None = None
    """Since when no time is left for it, and how much the processor had worked for its process by then."""
    outcome: Outcome | None = None
    """What it was judged to be."""
    audited: list[Outcome] = field(default_factory=list)


class _Run:
    """A task, and how it stands."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.place: Place
        self.rules: Sequence[str] = task.rules or ()
        self.under_way: dict[str, _UnderWay] = {}
        self.heard = time.monotonic()
        self.settled = 0
        """How many rules have an outcome by it."""
        self.stopping = False
        """Whether it only waits for the rules that are under way."""
        self.guilty = False
        """Whether its process had to be ended, or ended itself, because of a rule."""

    def due(self, grace: float) -> float:
        """When to look whether something hangs: a rule, or what is between rules, or (longer) around them."""
        if self.under_way:
            return min(each.look for each in self.under_way.values())

        between = 0 < self.settled < len(self.rules)
        return self.heard + max(grace * (2 if between else 6), QUIET_SECONDS)


class _Follower:
    """Follows one suite from outside, wherever its rules run."""

    def __init__(self, source: Recipe | Suite, settings: Settings, observer: Observer, interrupts: Interrupts) -> None:
        self._source = source
        self._settings = settings
        self._observer = observer
        self._interrupts = interrupts
        self._report = _blank(source)
        self._rules: dict[str, RuleEntry] = {}
        self._chosen: Sequence[str] = ()
        self._secrets: list[str] = []
        self._events: queue.SimpleQueue[tuple[_Run | None, Event]] = queue.SimpleQueue()
        """What each run says; None stands for who interrupts them all."""
        self._runs: list[_Run] = []
        self._waiting = deque([_Task(settings.jobs)])
        self._outcomes: dict[str, Outcome] = {}
        self._audited: dict[str, list[Outcome]] = {}
        self._problems: list[str] = []
        self._left_behind: list[str] = []
        self._reason = ""
        self._given_up = False
        self._ended = self._stuck = 0
        """Rules that were ended from outside, and tests whose set-up or tear-down was."""
        self._hung: Counter[str] = Counter()
        """For each method that never returned: in how many rules."""
        self._answered: set[str] = set()
        """The methods that have returned."""
        self._unclosed: list[str] = []
        """The rules of which a client had not closed when its time was over."""
        self._beside_others: set[str] = set()
        """The rules that were judged where several run at a time."""
        self._alone: dict[str, Outcome] | None = None
        """What became of those of them that failed and ran once more; None before that."""

    def follow(self) -> SuiteReport:
        """Run the suite to its end, one way or the other. Raises UsageError for bad input."""
        try:
            with self._interrupts.heard_by(lambda: self._events.put((None, {}))):
                self._follow()
        except UsageError:
            raise
        except Exception as error:
            self._problem(_crashed(error))
        finally:
            for run in self._runs:
                with suppress(OSError):
                    run.place.close()

        outcomes = (self._outcomes.get(each.id) or self._missing(each) for each in self._report.rules)
        return replace(
            self._report,
            outcomes=tuple(outcomes),
            known_deviations={id: self._masked(why) for id, why in self._report.known_deviations.items()},
            selected=bool(self._settings.rules or self._settings.excluded),
            order=tuple(self._outcomes),
            problem="\n".join(self._problems),
            left_behind=tuple(self._left_behind),
        )

    def _follow(self) -> None:
        while True:
            while self._waiting and len(self._runs) < self._settings.processes:
                self._begin(self._waiting.popleft())
            if self._runs:
                run, event = self._next()
                if run is None:
                    self._interrupt()
                else:
                    self._heed(run, event)
            elif self._alone is None and (failed := self._failed_beside_others()):
                self._alone = {}
                self._waiting.append(_Task(1, failed, again=True))
            else:
                break
        for rule, outcome in (self._alone or {}).items():
            self._compare(rule, outcome)
        for watched in self._audited.values():
            outcome = sum_up(watched)
            self._outcomes[outcome.rule] = outcome
            self._observer.rule_ended(outcome)

    def _heed(self, run: _Run, event: Event) -> None:
        if run in self._runs:  # One that was left behind may still speak.
            if event["event"] != "overdue":
                run.heard = time.monotonic()
            getattr(self, f"on_{event.pop('event')}")(run, **event)

    def _interrupt(self) -> None:
        """End the run: what is under way may come to its end, and the class be torn down, if that does not take long."""
        self._problem(f"The run was interrupted by {self._interrupts.name}.")
        self._given_up = True
        self._waiting.clear()
        until = time.monotonic() + min(self._settings.grace, ENDING_SECONDS)
        try:
            for each in self._runs:
                each.place.finish(interrupted=True)
            while self._runs and (left := until - time.monotonic()) > 0:
                with suppress(queue.Empty):
                    run, event = self._events.get(timeout=left)
                    if run is not None:
                        self._heed(run, event)
        except KeyboardInterrupt:
            pass  # Somebody does not want to wait.
        for each in tuple(self._runs):
            each.place.stop()
            self._retire(each)

    def _begin(self, task: _Task) -> None:
        run = _Run(task)
        order = Order(
            patterns=self._settings.rules,
            excluded=self._settings.excluded,
            rules=task.rules,
            shares=self._settings.processes if task.rules is None else 1,
            jobs=task.jobs,
            fail_fast=self._settings.fail_fast,
            seed=self._settings.seed or 0,
            hung=dict(self._hung),
            answered=sorted(self._answered),
            unclosed=tuple(self._unclosed),
            fixtures=task.fixtures,
        )

        def hear(event: Event) -> None:
            self._events.put((run, event))

        run.place = take_place(self._source, order, self._settings.grace, hear)
        self._runs.append(run)

    def _next(self) -> tuple[_Run | None, Event]:
        """The next event; `overdue` of the first run that should have said something, if none comes in time."""
        grace = self._settings.grace
        first = min(self._runs, key=lambda each: each.due(grace))
        try:
            return self._events.get(timeout=min(max(0.0, first.due(grace) - time.monotonic()), LONGEST_WAIT))
        except queue.Empty:
            return first, {"event": "overdue"}

    def _missing(self, entry: RuleEntry) -> Outcome:
        """The outcome of a rule that has none."""
        if entry.audit and not entry.declared:
            return Outcome(self._report.name, entry.id, Status.NOT_DECLARED, 0.0, f"not declared: {entry.level}")
        if entry.audit and entry.lacks:
            return Outcome(self._report.name, entry.id, Status.NOT_PROVOKED, 0.0, f"not provoked: the suite has no {entry.lacks}")
        if entry.audit:
            reason = self._masked(self._reason) or "no rule passed that it could have watched"
        else:
            reason = self._masked(self._reason) if entry.id in self._chosen else NOT_SELECTED
        return Outcome(self._report.name, entry.id, Status.NOT_RUN, 0.0, reason)

    # What the worker says.

    def on_suite(self, run: _Run, report: dict[str, Any], chosen: list[str], secrets: list[str]) -> None:
        self._secrets = secrets
        if self._rules:
            return  # Another place has made it, too.

        self._report = _report_from(report)
        self._rules = {each.id: each for each in self._report.rules}
        self._chosen = chosen
        run.rules = dealt(chosen, self._settings.processes)[0]
        self._observer.suite_began(self._report)

    def on_opened(self, run: _Run, provider: str, limits: dict[str, float], secrets: list[str]) -> None:
        """The first provider was opened, and closed. A set-up may have had a word in what is secret."""
        self._secrets = secrets
        self._report = replace(self._report, provider=provider, limits=limits)

    def on_looked(self, run: _Run) -> None:
        """The test that opens a provider has ended: the rules come next, here and in other processes."""
        run.under_way.pop(PREFLIGHT, None)
        if run.task.rules is None and not self._problems:
            shares = dealt(self._chosen, self._settings.processes)[1:]
            self._waiting.extend(_Task(self._settings.jobs, tuple(each)) for each in shares)

    def on_began(self, run: _Run, rule: str, thread: int) -> None:
        """A test is being set up."""
        now = time.monotonic()
        run.under_way[rule] = _UnderWay(thread, now, now + self._settings.grace * (2 if run.settled else 6))

    def on_started(self, run: _Run, rule: str, thread: int, deadline: float) -> None:
        """A rule is running, or the first provider is being opened."""
        test = run.under_way.get(rule)
        if test is None:
            return  # It was given up, and has come to life again.

        test.stage, test.thread, test.began = "rule", thread, time.monotonic()
        test.look = test.began + min(deadline, self._between_looks())
        if rule in self._rules and not run.task.again:
            self._observer.rule_began(rule)

    def on_judged(self, run: _Run, outcome: dict[str, Any], answered: list[str]) -> None:
        """A rule has an outcome; its test is being torn down."""
        self._answered.update(answered)
        test = run.under_way.get(outcome["rule"])
        if test is None:
            return

        last = run.settled + len(run.under_way) >= len(run.rules)
        test.stage, test.outcome, test.began = "tear-down", _outcome_from(outcome), time.monotonic()
        allowed = self._settings.grace * (6 if last else 2)
        if test.outcome.outcome in FAILURES and self._ended >= MOST_ENDED:
            allowed = min(allowed, SHORT_GRACE)  # It stays a failure.
        test.look = time.monotonic() + allowed

    def on_audited(self, run: _Run, outcome: dict[str, Any]) -> None:
        """An audit has watched a rule."""
        if outcome["during"] in run.under_way:
            run.under_way[outcome["during"]].audited.append(_outcome_from(outcome))

    def on_finished(self, run: _Run, outcome: dict[str, Any]) -> None:
        """A test has ended."""
        final = _outcome_from(outcome)
        test = run.under_way.pop(final.rule, None)
        if test is None:
            return

        self._settle(run, final, test.audited, streamed=not run.place.is_process and test.outcome is not None)
        if run.stopping and not run.under_way:
            self._replace(run)

    def on_problem(self, run: _Run, message: str) -> None:
        if run.task.again:
            return
        if PREFLIGHT in run.under_way:
            self._waiting.clear()  # What cannot be opened here cannot be opened elsewhere.
        self._problem(message)

    def on_skipped(self, run: _Run, message: str) -> None:
        self._reason = message

    def on_misuse(self, run: _Run, message: str) -> None:
        if run.task.rules is None:
            raise UsageError(message)

        self.on_problem(run, message)

    def on_intruded(self, run: _Run) -> None:
        self._problem("Something in the suite's process wrote into the channel of outcomes, so that none of them can be trusted.")

    def on_done(self, run: _Run, threads: list[str]) -> None:
        for each in threads:
            self._note_left(f"Thread {each!r}, which was started while the suite ran, was still running after the last rule.")
        self._retire(run)
        if run.stopping:
            self._hand_on(run)

    # What it cannot say.

    def on_died(self, run: _Run) -> None:
        how, output = run.place.death()
        tests = dict(run.under_way)
        if run.task.again:
            self._retire(run)
        elif PREFLIGHT in tests:
            self._problem(f"The process {how} while a provider was opened.\n{output}")
            self._give_up(run)
        elif len(tests) > 1:
            self._suspect(run, how)
        elif tests:
            [(rule, test)] = tests.items()
            printed = f"; the last that it printed:\n{output}" if output else ""
            if test.stage == "rule":
                observed = f"the process {how} during this rule{printed}"
                stacks = run.place.last_stack(test.thread)
                self._fail(run, rule, test, "the provider leaves the process alive", observed, stacks)
                self._replace(run)
            else:
                self._not_judged(run, rule, f"the process {how} in the {test.stage} of its test{printed}")
        else:
            self._problem(f"The process {how} {self._when()}.\n{output}")
            self._replace(run)

    def on_overdue(self, run: _Run) -> None:
        rule, test = min(run.under_way.items(), key=lambda each: each[1].look, default=("", None))
        if test is None:
            seconds = time.monotonic() - run.heard
            self._leave(run, f"Nothing happened for {seconds:.0f} s {self._when()}", run.place.stacks(0))
            return

        state: Event | None = None
        if test.stage == "rule":
            asked = time.monotonic()
            state = run.place.state(rule)
            self._learn(state)
            if self._may_go_on(run, test, asked, state):
                return
        if run.task.again:
            run.place.stop()
            self._retire(run)
        elif rule == PREFLIGHT:
            what = "Opening a provider" if test.stage == "rule" else f"The {test.stage} of a test"
            self._problem(f"{what} did not end; {run.place.leaving}.\n{run.place.stacks(test.thread)}")
            self._give_up(run)
        elif test.stage != "rule":
            seconds = time.monotonic() - test.began
            stacks = run.place.stacks(test.thread)
            text = f"the {test.stage} of its test had not ended after {seconds:.0f} s, and {run.place.leaving}"
            self._not_judged(run, rule, _with_trace(text, stacks))
        elif state is None and len(run.under_way) > 1:
            self._suspect(run, "stopped answering")
        else:
            self._end_late(run, rule, state)

    def _may_go_on(self, run: _Run, test: _UnderWay, asked: float, state: Event | None) -> bool:
        """Whether *test*, which is in that *state*, gets more time.

        It may wait for what the provider's own numbers allow. Or it is late for less than the grace, which counts what the test
        could have had of the interpreter: the others that are under way use it too.
        """
        if state is not None and state["seconds"] > 0:
            test.late = None
            test.look = time.monotonic() + min(state["seconds"], self._between_looks())
            return True

        grace = self._settings.grace if self._ended < MOST_ENDED else min(self._settings.grace, SHORT_GRACE)
        processor = None if state is None else state["processor"]
        if test.late is None:
            test.late = asked, processor
            test.look = asked + grace
            return True

        since, before = test.late
        had = passed = asked - since
        if processor is not None and before is not None:
            used = min(processor - before, passed)
            had = passed - used + used / len(run.under_way)
        test.look = asked + max(grace - had, SHORT_GRACE / 20)
        return had < grace

    def _between_looks(self) -> float:
        """Seconds from one look at a rule to the next, while it has time left."""
        return SHORT_GRACE if self._ended >= MOST_ENDED else LONGEST_WAIT

    def _learn(self, state: Event | None) -> None:
        if state is not None:
            self._answered.update(state["answered"])
            for method, rules in state["hung"].items():
                self._hung[method] = max(self._hung[method], rules)
            self._unclosed += [each for each in state["unclosed"] if each not in self._unclosed]

    def _end_late(self, run: _Run, rule: str, state: Event | None) -> None:
        """End *rule*, which hangs, and in a process every other one that is late as well: it would not survive."""
        late = {rule: state}
        if run.place.is_process:
            for other in [each for each in run.under_way if each != rule and run.under_way[each].stage == "rule"]:
                its_state = run.place.state(other)
                if its_state is not None and its_state["seconds"] <= 0:
                    late[other] = its_state
        for each, its_state in late.items():
            self._end_rule(run, each, its_state)
        self._replace(run)

    def _end_rule(self, run: _Run, rule: str, state: Event | None) -> None:
        run.guilty = True
        test = run.under_way.pop(rule)
        seconds = _since(test.began)
        stacks = run.place.stacks(test.thread)
        if state is not None and state["closing"]:
            self._unclosed.append(rule)
        elif state is not None and state["pending"] and state["pending"] not in self._answered:
            self._hung[state["pending"]] += 1
        self._count_ended()
        if state is not None and state["opening"]:
            why = f"{state['opening']} had not ended after {seconds:.0f} s, and {run.place.leaving}"
            text = _with_trace(f"{rule} could not be judged: {why}", stacks)
            self._settle(run, Outcome(self._report.name, rule, Status.ERROR, _since(test.began), text))
            return

        if state is not None and state["closing"]:
            expected, observed = "its clients close, once it has been judged", f"they had not after {int(seconds)} s"
            doing = "closing a client"
        else:
            expected, observed = f"a verdict within {self._rules[rule].deadline:g} s", f"none after {int(seconds)} s"
            doing = "an operation"
        hint = f"{doing} blocks the event loop, or swallows cancellation for ever"
        self._fail(run, rule, test, expected, f"{observed}; {run.place.leaving}", stacks, hint=hint)

    def _count_ended(self) -> None:
        self._ended += 1
        if self._ended == MOST_ENDED:
            self._observer.note(
                f"{self._report.name}: {MOST_ENDED} rules had to be ended from outside. From now on a rule is ended soon after "
                "its deadline, and a method that has never returned gets little time."
            )

    def _suspect(self, run: _Run, what: str) -> None:
        """One of the rules under way has ended the process, or stopped it, and nobody knows which: each runs alone."""
        rules = tuple(each for each in self._rules if each in run.under_way)
        group = _Group(rules, what, left=len(rules))
        run.place.stop()
        self._retire(run)
        self._waiting.extend(_Task(1, (each,), group) for each in rules)
        self._hand_on(run, without=rules)

    def _replace(self, run: _Run) -> None:
        """End *run*, and let another place take up the rules that it has not judged."""
        if run.place.stop() or not run.under_way:
            self._retire(run)
            self._hand_on(run)
        else:
            run.stopping = True  # Its other rules cannot be ended either, so they are waited for.

    def _hand_on(self, run: _Run, without: Sequence[str] = ()) -> None:
        rest = tuple(each for each in run.rules if each not in self._outcomes and each not in without)
        if rest and not self._given_up and (run.settled or without):
            # Without any progress, the next place would come no further.
            self._waiting.append(_Task(self._settings.jobs, rest, fixtures=run.place.is_process))

    def _leave(self, run: _Run, what: str, stacks: str) -> None:
        """Something around the rules did not end."""
        if not run.task.again:
            self._problem(f"{what}; {run.place.leaving}.\n{stacks}")
        self._replace(run)

    def _give_up(self, run: _Run) -> None:
        """End *run*, and begin no further."""
        self._given_up = True
        self._waiting.clear()
        run.place.stop()
        self._retire(run)

    def _retire(self, run: _Run) -> None:
        self._runs.remove(run)
        for each in run.place.close():
            self._note_left(each)
        group = run.task.suspected
        if group is not None:
            group.left -= 1
            group.guilty = group.guilty or run.guilty
            if not group.left and not group.guilty:
                rules = ", ".join(group.rules)
                self._problem(f"The process {group.what} while {rules} were under way, and with none of them alone.")

    def _note_left(self, sentence: str) -> None:
        if sentence not in self._left_behind:
            self._left_behind.append(sentence)

    def _when(self) -> str:
        if not self._rules:
            return "while the suite was imported"

        return f"after {list(self._outcomes)[-1]}" if self._outcomes else "before the first rule"

    # Outcomes.

    def _fail(self, run: _Run, rule: str, test: _UnderWay, expected: str, observed: str, stacks: str, hint: str = "") -> None:
        """Give *rule*, which had to be ended or ended the process, the outcome that the worker could not."""
        run.guilty = True
        entry = self._rules[rule]
        violation = Violation(expected=expected, observed=observed, hint=hint)
        violation.heading = f"{rule} [{entry.level}] {entry.statement}"
        violation.provider = self._report.provider
        violation.trace = stacks.splitlines()
        status = Status.KNOWN_DEVIATION if rule in self._report.known_deviations else Status.FAILED
        self._settle(run, Outcome(self._report.name, rule, status, _since(test.began), str(violation)))

    def _not_judged(self, run: _Run, rule: str, why: str) -> None:
        """Something around *rule* ended its test, or had to be ended with it: the suite's own doing, unless the rule failed.

        What fails may leave an event loop that cannot be closed. Else, the second time is the last.
        """
        run.guilty = True
        test = run.under_way.pop(rule)
        if test.outcome is None:
            text = f"{rule} could not be judged: {why}"
            outcome = Outcome(self._report.name, rule, Status.ERROR, _since(test.began), text)
        else:
            outcome = amended(test.outcome, why, FAILURES)
        self._settle(run, outcome, test.audited)
        if outcome.outcome in FAILURES:
            self._count_ended()
        else:
            self._stuck += 1
        if self._stuck < MOST_ENDED:
            self._replace(run)
        else:
            self._problem(f"The suite is not followed further after {rule}, as set-ups and tear-downs do not end.")
            self._give_up(run)

    def _settle(self, run: _Run, outcome: Outcome, audited: Sequence[Outcome] = (), *, streamed: bool = False) -> None:
        run.under_way.pop(outcome.rule, None)
        outcome = replace(outcome, message=self._masked(outcome.message))
        if run.task.again:
            if self._alone is not None:
                self._alone[outcome.rule] = outcome
            return
        if outcome.rule not in self._rules or outcome.rule in self._outcomes:
            return

        self._outcomes[outcome.rule] = outcome
        run.settled += 1
        if run.task.jobs > 1:
            self._beside_others.add(outcome.rule)
        if not streamed:
            record(outcome)
        for each in audited:
            self._audited.setdefault(each.rule, []).append(each)
            if run.place.is_process:
                record(each)
        self._observer.rule_ended(outcome)
        if self._settings.fail_fast and outcome.outcome in (Status.FAILED, Status.ERROR):
            self._finish(outcome.rule)

    def _finish(self, rule: str) -> None:
        """Begin nothing more after *rule*."""
        self._reason = self._reason or f"the run was to end at the first failure, which was {rule}"
        self._given_up = True
        self._waiting.clear()
        for run in self._runs:
            run.place.finish()

    def _failed_beside_others(self) -> tuple[str, ...]:
        """The first rules that failed where several ran at a time, and can run once more in a process that has seen no other."""
        if self._given_up or not isinstance(self._source, Recipe):
            return ()

        bad = (Status.FAILED, Status.ERROR)
        found = [each for each in self._chosen if each in self._beside_others and self._outcomes[each].outcome in bad]
        return tuple(sorted(found, key=list(self._rules).index)[:MOST_CONFIRMED])

    def _compare(self, rule: str, alone: Outcome) -> None:
        """Say of a failure that it does not happen alone. It is one all the same: applications do many things at a time."""
        if alone.outcome is Status.PASSED:
            why = "usually a client binds state of the whole process to the event loop that used it first"
            text = f"{self._outcomes[rule].message}\n  {'alone':9} it passes with --jobs 1: {why}"
            self._outcomes[rule] = replace(self._outcomes[rule], message=text)

    def _problem(self, text: str) -> None:
        text = self._masked(text.rstrip())
        if text not in self._problems:
            self._problems.append(text)
        self._reason = self._reason or text.partition("\n")[0]

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _outcome_from(fields: dict[str, Any]) -> Outcome:
    return Outcome(**{**fields, "outcome": Status(fields["outcome"])})


def _since(began: float) -> float:
    return round(time.monotonic() - began, 6)


def _with_trace(text: str, stacks: str) -> str:
    return "\n".join([text, *(f"  {'' if number else 'trace':9} {line}" for number, line in enumerate(stacks.splitlines()))])
