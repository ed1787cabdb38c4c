"""What runs a suite and says what happens: in a child process or in a thread of the caller's, by the same code.

It makes the suite, opens one provider to see that it is one, runs the rules, and sends events, which are plain dictionaries. A
child takes standard output away from itself before any foreign code is imported, and keeps a copy for its events: nothing that a
provider prints can mix with them.

A rule has its outcome when it is judged. It is told once the whole test has ended, as the tear-down may still fail.
"""

import asyncio
import atexit
import faulthandler
import functools
import json
import math
import os
import signal
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from typing import IO, Any, cast

import anyio

from omnitck.certifying.channel import Event, Writer
from omnitck.certifying.stacks import stacks
from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.checks import check_instance, demanded_by
from omnitck.kit.clients import raw
from omnitck.kit.contract import Contract, plan_of, runs_loop
from omnitck.kit.definition import Plan
from omnitck.kit.outcomes import Outcome, Status, Violation, listening
from omnitck.kit.rules import Entry, Rule
from omnitck.kit.session import HookError, Session, has_hook, running
from omnitck.kit.settings import deadline_of
from omnitck.kit.text import UsageError, describe, describe_error, place_of
from omnitck.kit.trial import SEED, Trial
from omnitck.kit.watchdog import end_process, followed
from omnitck.report.certificate import Catalogue, RuleEntry, SuiteReport, catalogue_digest
from omnitck.suites import Recipe, Suite, select

__all__ = ["PREFLIGHT", "Order", "Worker", "child", "dealt", "title"]

ENDING_SECONDS = 5.0
"""What is left for the rules under way, and the tear-down of their class, when who asked is gone."""
MOMENT = 1.0
"""Seconds for a thread that is about to end."""


@dataclass(frozen=True)
class Order:
    """What a worker is asked to do with its suite."""

    patterns: Sequence[str] = ()
    """Of rule ids; none is all."""
    excluded: Sequence[str] = ()
    """Patterns of rule ids that are left out of those."""
    rules: Sequence[str] | None = None
    """The ids to run, in this order; None: those that fit the patterns."""
    shares: int = 1
    """Into how many those are dealt. The worker runs the first."""
    jobs: int = 1
    fail_fast: bool = False
    """Whether no rule begins after one has failed, or could not be judged."""
    seed: int = 0
    hung: Mapping[str, int] = field(default_factory=dict)
    """What is known of methods that never returned: in how many rules."""
    answered: Sequence[str] = ()
    """Methods that have returned."""
    unclosed: Sequence[str] = ()
    """Rules of which a client had not closed when its time was over."""
    fixtures: bool = True
    """Whether to set up the class; not where an earlier worker of this process has, and could not tear it down."""


def dealt(rules: Sequence[str], shares: int) -> list[list[str]]:
    """*rules* in *shares*, none of them empty; the first leads as they do."""
    return [list(each) for each in (rules[number::shares] for number in range(shares)) if each] or [[]]


def child() -> None:
    """The main program of a child process: reads its order and questions from standard input, writes events."""
    stream, questions = _take_streams()
    faulthandler.enable()
    _forbid_core_dumps()
    line = questions.readline()
    if not line:
        return  # Who asked is gone.

    asked = json.loads(line)
    channel = Writer(stream, bytes.fromhex(asked["secret"]))

    def send(event: Event) -> None:
        with suppress(OSError):  # Who asked is gone: see below.
            channel.write(event)

    worker = Worker(send)

    def answer() -> None:
        for line in questions:
            question = json.loads(line)
            if "finish" in question:
                worker.finish(interrupted=question["finish"])
            elif "rule" in question:
                send({"event": "state", "state": worker.state(question["rule"])})
            else:
                send({"event": "stacks", "text": worker.stacks(question["thread"])})
        if not worker.ended:  # Who asked is gone, and hears nothing more.
            worker.finish(interrupted=True)
            until = time.monotonic() + ENDING_SECONDS
            while not worker.ended and time.monotonic() < until:
                time.sleep(0.02)
            _end_group()

    left = worker.work(Recipe(**asked["recipe"]).build, Order(**asked["order"]), beside=answer)
    if left:
        threading.Thread(target=_end_despite, args=(left,), daemon=True).start()


def _end_group() -> None:
    """End this process, and all that it has started and not waited for."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    end_process(1)


def _take_streams() -> tuple[IO[bytes], IO[bytes]]:
    """The standard streams for the worker's own use; foreign code finds its output with the errors, and no input."""
    streams = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return streams


def _forbid_core_dumps() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _end_despite(threads: Iterable[threading.Thread]) -> None:
    """End the process, with what it does at its exit, although *threads* live: the interpreter would first wait for them."""
    until = time.monotonic() + MOMENT
    for each in threads:
        each.join(max(0.0, until - time.monotonic()))
    if not any(each.is_alive() for each in threads):
        return  # The interpreter is ending by itself.

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    end_process(0)


_working: ContextVar["Worker | None"] = ContextVar("omnitck_worker", default=None)
"""The worker whose rule runs. Others of this process may run the same suite."""


class Worker:
    """Makes a suite, runs it, and sends what happens."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._suite: type[Contract] = Contract
        self._result: _Result | None = None
        self._fail_fast = False
        self._tests: dict[str, _Test] = {}
        self._preflight: Session | None = None
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}
        self._beats: dict[asyncio.AbstractEventLoop, tuple[float, list[None]]] = {}
        """When an event loop was asked to note its next turn, and whether it has."""
        self.ended = False

    def work(self, make: Callable[[], Suite], order: Order, beside: Callable[[], None] | None = None) -> list[threading.Thread]:
        """Carry out *order* on what *make* returns.

        With *beside*, which runs in a thread, the process is the suite's own: returns the threads that foreign code has left.
        """
        left: list[threading.Thread] = []
        _working.set(self)
        SEED.set(order.seed)
        try:
            if beside is not None:
                threading.Thread(target=beside, name="omnitck-answers", daemon=True).start()
            before = set(threading.enumerate())
            try:
                suite = make()
                with followed():
                    self._run(suite, order)
            finally:
                left = _left_running(before) if beside is not None else []
        except UsageError as error:
            self.say("misuse", message=str(error))
        except BaseException as error:
            where = place_of(error) or place_of(error, in_kit=True)
            self.say("problem", message=f"The suite could not be run: {describe_error(error)}, raised in {where}.")
        self.ended = True
        self.say("done", threads=[each.name for each in left])
        return left

    def _run(self, suite: Suite, order: Order) -> None:
        contract = self._suite = cast("type[Contract]", suite)
        self._fail_fast = order.fail_fast
        plan = plan_of(suite)
        report = _report_on(contract)
        chosen = order.rules or [each.id for each in sorted(select(suite, order.patterns, order.excluded), key=_follows)]
        self.say("suite", report=asdict(report), chosen=chosen, secrets=list(contract.credentials))
        if not chosen:
            return

        plan.hung.update(order.hung)
        plan.answered.update(order.answered)
        plan.unclosed.extend(each for each in order.unclosed if each not in plan.unclosed)
        entries = {each.id: each for each in plan.rules}
        mine = [entries[each] for each in dealt(chosen, order.shares)[0]]
        deadlines = {each.id: each.deadline for each in report.rules}

        def started(cls: type, rule: str) -> None:
            if cls is suite and _working.get() is self:
                self._start(rule, deadlines[rule])

        def finished(cls: type, outcome: Outcome) -> None:
            test = self._tests.get(outcome.during or outcome.rule)
            if cls is suite and _working.get() is self and test is not None:
                test.judged(outcome)

        self._result = result = _Result(self)
        if not order.fixtures:
            result._previousTestClass = suite  # type: ignore[attr-defined]  # As unittest notes that they are set up.
        for entry in mine:
            self._tests[entry.id] = _Test(self, suite(entry.rule.method), entry.id)
        tests = [self._first(suite, mine[0]), *(each.test for each in self._tests.values())]
        with listening(finished, started, reporting=suite):
            ConcurrentSuite(tests, order.jobs).run(result)

    def stop(self) -> None:
        """Begin no further rule, and leave the class as it is: another worker takes up the rest."""
        if self._result is not None:
            self._result.stop()
            self._result._previousTestClass = None  # type: ignore[attr-defined]

    def finish(self, *, interrupted: bool = False) -> None:
        """Begin no further rule; those that are under way end, at once if *interrupted*, and then the class is torn down."""
        if self._result is not None:
            self._result.stop()
        for session in tuple(running) if interrupted else ():
            if isinstance(session.suite, self._suite):
                session.give_up("the run was interrupted")

    def say(self, event: str, **fields: object) -> None:
        """Send an event."""
        self._send({"event": event, **fields})

    def ended_with(self, outcome: Outcome) -> None:
        """A test has ended."""
        self.say("finished", outcome=asdict(outcome))
        if self._fail_fast and outcome.outcome in (Status.FAILED, Status.ERROR):
            self.finish()

    def forget(self, rule: str) -> None:
        """The test of *rule* has ended."""
        self._tests.pop(rule, None)
        self._beats.pop(self._loops.pop(threading.get_ident(), None), None)  # type: ignore[arg-type]

    def answered(self) -> list[str]:
        """The methods of the provider that have returned."""
        return sorted(plan_of(self._suite).answered.copy())

    def _start(self, rule: str, deadline: float) -> None:
        thread = threading.get_ident()
        with suppress(RuntimeError):
            self._loops[thread] = asyncio.get_running_loop()
        self.say("started", rule=rule, thread=thread, deadline=deadline)

    def _first(self, suite: Suite, entry: Entry) -> unittest.TestCase:
        """A test that opens one provider: what is wrong there is said once, and not once for every rule."""
        test: Any = suite(entry.rule.method)

        async def preflight() -> None:
            await self._open_one(test)

        # An attribute of the instance hides the class's method: unittest runs this instead, with all of the class's fixtures.
        method: Any = preflight if runs_loop(suite) else functools.partial(anyio.run, preflight, backend=test.backend)
        method.rule = _PREFLIGHT
        setattr(test, entry.rule.method, method)
        return _Test(self, test, PREFLIGHT).test

    async def _open_one(self, test: Contract) -> None:
        seen: dict[str, object] = {"provider": "", "limits": {}}
        self._start(PREFLIGHT, deadline_of(type(test), _PREFLIGHT))
        plan = plan_of(type(test))
        try:
            check_instance(test, plan)
        except UsageError as refusal:
            self._refuse("misuse", str(refusal))
            return

        session = self._preflight = Session(test, plan, Entry(PREFLIGHT, _PREFLIGHT, plan.contract, frozenset()))
        error = await session.judge(functools.partial(_look, seen), audited=False)
        self._preflight = None
        cause = error.__cause__ if isinstance(error, HookError) else None
        unwritten = isinstance(cause, NotImplementedError) and "make_provider" not in plan.supplied
        if isinstance(error, HookError) and (error.misused or unwritten):
            self._refuse("misuse", session.masked(f"{title(type(test))}: {error}"))
        elif error is not None and session.first_provider() is None:
            text = f"expected {error.expected}, observed {error.observed}" if isinstance(error, Violation) else ""
            where = place_of(cause) if cause is not None else ""
            text = (text or str(error) or describe_error(error)) + (f" ({where})" if where else "")
            self._refuse("problem", session.masked(f"No provider could be opened: {text}"))
        else:
            self.say("opened", secrets=list(test.credentials), **seen)

    def _refuse(self, event: str, message: str) -> None:
        self.say(event, message=message)
        if self._result is not None:
            self._result.stop()

    def state(self, rule: str) -> Event:
        """How *rule*, which is under way, stands.

        The seconds for which it may still run, as it may be waiting for what the provider's own numbers allow; the call that it
        waits for, and whether that is a factory; what is known of the provider's methods; and the processor time of this process.
        """
        plan = plan_of(self._suite)
        test = self._tests.get(rule)
        session = self._preflight if test is None else next((e for e in tuple(running) if e.suite is test.test), None)
        call = None if session is None else session.journal.pending()
        left = 0.0 if session is None else session.left()
        if session is not None and (still := self._still(session.thread)):
            # Where the loop takes its turns, the rule itself ends what takes too long.
            if session.closing:
                left = min(left, session.closing_seconds - still)
            elif call is not None and (limit := session.journal.limit(call.method)) is not None:
                left = min(left, call.at + limit - time.perf_counter())
        return {
            "seconds": left,
            "pending": "" if call is None else call.method,
            "opening": "" if session is None else session.opening,
            "closing": session is not None and session.closing,
            "hung": dict(plan.hung),
            "answered": self.answered(),
            "unclosed": plan.unclosed.copy(),
            "processor": time.process_time(),
        }

    def _still(self, thread: int) -> float:
        """Seconds for which the event loop of *thread* has taken no turn, as far as is known; a look begins to watch it."""
        loop = self._loops.get(thread)
        if loop is None:
            return 0.0

        asked, turned = self._beats.get(loop, (0.0, [None]))
        if not turned:
            return time.monotonic() - asked

        turned = []
        self._beats[loop] = time.monotonic(), turned
        with suppress(RuntimeError):  # It has been closed meanwhile.
            loop.call_soon_threadsafe(turned.append, None)
        return 0.0

    def stacks(self, thread: int) -> str:
        """What the provider does in *thread*."""
        return stacks(thread, self._loops)


def _follows(entry: Entry) -> tuple[bool, bool]:
    """What sorts the rules that lead before the others.

    What every client owes, whatever it holds, is what other rules suffer from where it is broken: a client that blocks the event
    loop, or swallows its cancellation. Those that run alone come first.
    """
    others = bool(entry.needs or entry.rule.uses or entry.id == entry.rule.id)
    return others, others or not entry.rule.exclusive


def _left_running(before: set[threading.Thread]) -> list[threading.Thread]:
    """The threads that keep the process alive, were not there *before*, and do not end within a moment."""
    until = time.monotonic() + MOMENT
    found = [each for each in threading.enumerate() if each not in before and not each.daemon]
    for each in found:
        if each is not threading.current_thread():
            each.join(max(0.0, until - time.monotonic()))
    return [each for each in found if each.is_alive() and each is not threading.current_thread()]


def title(cls: type) -> str:
    """The qualified name of *cls*."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _report_on(suite: type[Contract]) -> SuiteReport:
    """The report as it is before any rule has run."""
    plan = plan_of(suite)
    definitions = [each.definition for each in (plan.contract, *plan.policies)]
    entries = tuple(_entry(each, suite, plan) for each in plan.entries)
    return SuiteReport(
        name=title(suite),
        contract=plan.definition.name,
        policies=tuple(each.definition.name for each in plan.policies),
        capabilities=tuple(sorted(plan.declared)),
        rules=entries,
        catalogues=tuple(
            Catalogue(
                name=definition.name,
                kind=kind,
                version=definition.version,
                digest=catalogue_digest(each for each in entries if each.owner == definition.name),
            )
            for kind, definition in (("contract", plan.definition), *(("policy", each.definition) for each in plan.policies))
        ),
        known_deviations=dict(suite.known_deviations),
        profile=suite.profile,
        demanded=tuple(sorted(demanded_by(suite.profile, definitions, plan.known))),
    )


def _entry(entry: Entry, suite: type[Contract], plan: Plan) -> RuleEntry:
    hook = entry.rule.hook
    return RuleEntry(
        id=entry.id,
        level=entry.level,
        statement=entry.rule.statement,
        owner=entry.owner.definition.name,
        declared=entry.needs <= plan.declared,
        deadline=deadline_of(suite, entry.rule),
        audit=entry.rule.ambient,
        lacks="" if hook is None or has_hook(suite, plan, hook) else hook,
    )


class _Result(unittest.TestResult):
    """Says what goes wrong, or is skipped, around the tests: fixtures of the class and of its module."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self._worker.say("problem", message=f"{test.id()} raised {_told(err[1])}.")

    addFailure = addError  # noqa: N815

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self._worker.say("skipped", message=f"{test.id()}: {reason}")


class _Test(unittest.TestResult):
    """Hears all that becomes of one test, in its own thread, and tells it once the test has ended.

    What ends a test after its rule was judged is none of the rule's business, but no runner would call that test a success.
    """

    def __init__(self, worker: Worker, test: unittest.TestCase, rule: str) -> None:
        super().__init__()
        self.test = test
        self._worker = worker
        self._rule = rule
        self._outcome: Outcome | None = None
        self._owed = False
        """Whether the test is about to raise what its rule came to."""
        self._skipped = ""
        self._troubles: list[str] = []
        run = test.run

        def run_and_tell(result: object = None) -> None:
            worker.say("began", rule=rule, thread=threading.get_ident())
            try:
                run(self)
            except BaseException as error:
                self._troubles.append(_told(error))
            del test.run  # Else each would keep the other, and all that the test holds.
            self._tell()

        test.run = run_and_tell  # type: ignore[method-assign]

    def judged(self, outcome: Outcome) -> None:
        """The rule has an outcome, or an audit that watched it."""
        if outcome.during:
            self._owed = self._owed or outcome.outcome in (Status.FAILED, Status.ERROR)
            self._worker.say("audited", outcome=asdict(outcome))
        else:
            self._outcome = outcome
            self._owed = outcome.outcome is not Status.PASSED
            self._worker.say("judged", outcome=asdict(outcome), answered=self._worker.answered())

    def startTest(self, test: Any) -> None:  # noqa: N802
        pass

    def stopTest(self, test: Any) -> None:  # noqa: N802
        pass

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        if self._owed:
            self._owed = False
        else:
            self._troubles.append(_told(err[1]))

    addFailure = addExpectedFailure = addError  # noqa: N815

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._troubles.append(f"{_told(err[1])}, in {subtest._subDescription()}")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self._owed = False
        self._skipped = reason

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._troubles.append("its success was unexpected: leave unittest.expectedFailure out")

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        pass

    def _tell(self) -> None:
        outcome = self._outcome
        troubles = "; ".join(self._troubles)
        self._worker.forget(self._rule)
        if self._rule == PREFLIGHT:
            self._worker.say("looked")
            return  # What was wrong around it will be wrong around the rules.
        if outcome is None:
            status = Status.NOT_RUN if self._skipped and not troubles else Status.ERROR
            why = self._skipped if status is Status.NOT_RUN else troubles or "its test ended without it"
            message = why if status is Status.NOT_RUN else f"{self._rule} could not be judged: {why}"
            outcome = Outcome(title(type(self.test)), self._rule, status, 0.0, message)
        elif troubles:
            outcome = amended(outcome, troubles)
        self._worker.ended_with(outcome)


def amended(outcome: Outcome, troubles: str, kept: Sequence[Status] = (Status.FAILED,)) -> Outcome:
    """*outcome* of a rule after which something went wrong in its test: what is *kept* stays so, and the rest has no verdict."""
    if outcome.outcome in (*kept, Status.ERROR):
        return replace(outcome, message=f"{outcome.message}\n  {'after':9} {troubles}")

    before = f"it was {outcome.outcome}" if outcome.outcome is not Status.PASSED else "it had passed"
    message = f"{outcome.rule} could not be judged: {before}, and after that {troubles}"
    return replace(outcome, outcome=Status.ERROR, message=message)


def _told(error: BaseException) -> str:
    where = place_of(error)
    return describe_error(error) + (f" ({where})" if where else "")


PREFLIGHT = "preflight"
"""Stands in events for the rule that there is before the first: a provider can be opened."""
_PREFLIGHT = Rule(PREFLIGHT, "", "", "preflight", exclusive=True)


async def _look(seen: dict[str, object], suite: Contract, trial: Trial[Any]) -> None:
    """Open a provider, and note what is *seen*."""
    provider = raw(await trial.connect())
    protocol = trial.plan.definition.protocols.get("", object)
    operations = [each for each in dir(protocol) if not each.startswith("_") and callable(getattr(protocol, each))]
    if operations and not any(_has(provider, each) for each in operations):
        raise HookError(
            f"make_provider returned {describe(provider, 60)}, which is no provider of {trial.plan.definition.name}: "
            f"it has none of {', '.join(operations)}.",
            misused=True,
        )

    seen["provider"] = title(type(provider))
    seen["limits"] = {
        key: value if isinstance(value, int | float) and math.isfinite(value) else describe(value)
        for key, value in asdict(trial.numbers()).items()
    }


def _has(provider: object, name: str) -> bool:
    try:
        return callable(getattr(provider, name, None))
    except Exception:
        return False
