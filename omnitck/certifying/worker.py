"""What runs a suite and says what happens: in a child process or in a thread of the caller's, by the same code.

It makes the suite, opens one provider to see that it is one, runs the rules, and sends events, which are plain dictionaries. A
child takes standard output away from itself before any foreign code is imported, and keeps a copy for its events, a line of JSON
each: nothing that a provider prints can mix with them.
"""

import asyncio
import faulthandler
import functools
import itertools
import json
import math
import os
import sys
import threading
import traceback
import unittest
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any, cast

import anyio

from omnitck.concurrent import ConcurrentSuite, rule_of
from omnitck.kit.checks import check_instance
from omnitck.kit.clients import raw
from omnitck.kit.contract import Contract, plan_of
from omnitck.kit.definition import Plan
from omnitck.kit.outcomes import Outcome, Status, Violation, listening
from omnitck.kit.rules import Entry, Rule
from omnitck.kit.session import HookError, Session, running
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.kit.trial import Trial
from omnitck.report.certificate import Catalogue, RuleEntry, SuiteReport, catalogue_digest
from omnitck.shared.exceptions import UnavailableError
from omnitck.suites import Recipe, Suite, select

__all__ = ["Event", "Worker", "calls", "child", "provider_calls", "title"]

Event = dict[str, Any]
"""Its name under `event`, and what the method `on_` that name of the follower takes."""


def child() -> None:
    """The main program of a child process: reads its order and requests for stacks from standard input, writes events."""
    events, requests = _take_streams()
    faulthandler.enable()
    _forbid_core_dumps()
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            try:
                events.write(json.dumps(event).encode() + b"\n")
                events.flush()
            except OSError:
                os._exit(1)  # Who asked is gone.

    worker = Worker(send)

    def obey() -> None:
        for line in requests:
            asked = json.loads(line)
            if "rule" in asked:
                send({"event": "left", "seconds": worker.left(asked["rule"])})
            else:
                send({"event": "stacks", "text": worker.stacks(asked["thread"])})
        if not worker.ended:
            os._exit(1)

    order = json.loads(requests.readline())
    threading.Thread(target=obey, daemon=True).start()
    worker.work(Recipe(**order["recipe"]).build, order["rules"], order["jobs"])


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


class Worker:
    """Makes a suite, runs it, and sends what happens."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}
        self._finished: set[str] = set()
        self.ended = False

    def work(self, make: Callable[[], Suite], rules: Iterable[str], jobs: int) -> None:
        """Run what *make* returns, restricted to *rules* if there are any."""
        try:
            suite = make()
            self._run(suite, select(suite, rules), jobs)
        except UsageError as error:
            self.say("misuse", message=str(error))
        self.ended = True
        self.say("done")

    def _run(self, suite: Suite, chosen: list[Entry], jobs: int) -> None:
        contract = cast("type[Contract]", suite)
        report = _report_on(contract)
        ids = [each.id for each in chosen]
        self.say("suite", report=asdict(report), chosen=ids, secrets=list(contract.credentials))
        if not chosen:
            return

        deadlines = {each.id: each.deadline for each in report.rules}

        def started(cls: type, rule: str) -> None:
            if cls is suite:
                self._start(rule, deadlines[rule])

        def finished(cls: type, outcome: Outcome) -> None:
            if cls is suite:
                self.finish(outcome)

        result = _Result(self, contract)
        tests = [self._preflight(suite, chosen[0], result), *(suite(each.rule.method) for each in chosen)]
        with listening(finished, started):
            ConcurrentSuite(tests, jobs).run(result)

    def say(self, event: str, **fields: object) -> None:
        """Send an event."""
        self._send({"event": event, **fields})

    def _start(self, rule: str, deadline: float) -> None:
        thread = threading.get_ident()
        with suppress(RuntimeError):
            self._loops[thread] = asyncio.get_running_loop()
        self.say("started", rule=rule, thread=thread, deadline=deadline)

    def finish(self, outcome: Outcome) -> None:
        """Send *outcome*, unless its rule has one; an audit has one for each rule that it watched."""
        if outcome.during:
            self.say("audited", outcome=asdict(outcome))
        elif outcome.rule not in self._finished:
            self._finished.add(outcome.rule)
            self.say("finished", outcome=asdict(outcome))

    def _preflight(self, suite: Suite, first: Entry, result: unittest.TestResult) -> unittest.TestCase:
        """A test that opens one provider: what is wrong there is said once, and not once for every rule."""
        test: Any = suite(first.rule.method)

        async def preflight() -> None:
            await self._open_one(test, result)

        # An attribute of the instance hides the class's method: unittest runs this instead, with all of the class's fixtures.
        method: Any = preflight if test.backend == "asyncio" else functools.partial(anyio.run, preflight, backend=test.backend)
        method.rule = _PREFLIGHT
        setattr(test, first.rule.method, method)
        return cast("unittest.TestCase", test)

    async def _open_one(self, test: Contract, result: unittest.TestResult) -> None:
        seen: dict[str, object] = {"provider": "", "limits": {}}
        self._start(_PREFLIGHT.id, _deadline(type(test), _PREFLIGHT))
        plan = plan_of(type(test))
        try:
            check_instance(test, plan)
        except UsageError as refusal:
            self.say("misuse", message=str(refusal))
            result.stop()
            return

        session = Session(test, plan, Entry(_PREFLIGHT.id, _PREFLIGHT, plan.contract, frozenset()))
        error = await session.judge(functools.partial(_look, seen), audited=False)
        if isinstance(error, HookError) and not isinstance(error.__cause__, UnavailableError):
            self.say("misuse", message=session.masked(f"{title(type(test))}: {error}"))
        elif error is not None and session.first_provider() is None:
            text = f"expected {error.expected}, observed {error.observed}" if isinstance(error, Violation) else ""
            self.say("problem", message=session.masked(f"No provider could be opened: {text or describe_error(error)}"))
        else:
            self.say("opened", secrets=list(test.credentials), **seen)
            return

        result.stop()

    def left(self, rule: str) -> float:
        """Seconds for which *rule* may still run: it may be waiting for what the provider's own numbers allow."""
        session = next((each for (_, id), each in list(running.items()) if id == rule), None)
        return 0.0 if session is None else session.left()

    def stacks(self, thread: int) -> str:
        """What the provider does in *thread*, the newest call first: the call that it is in, or else those that wait."""
        frame = sys._current_frames().get(thread or threading.main_thread().ident or 0)
        chains = [provider_calls(reversed(traceback.extract_stack(frame)))] if frame else []
        loop = self._loops.get(thread)
        if loop is not None:
            chains += [list(reversed(_awaiting(task))) for task in asyncio.all_tasks(loop)]
        return "\n".join(calls(chain) for chain in [each for each in chains if any(map(_is_foreign, each))][:3])


def title(cls: type) -> str:
    """The qualified name of *cls*."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _deadline(suite: type[Contract], rule: Rule) -> float:
    return (suite.deadline or rule.deadline) * suite.patience


def _report_on(suite: type[Contract]) -> SuiteReport:
    """The report as it is before any rule has run."""
    plan = plan_of(suite)
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
    )


def _entry(entry: Entry, suite: type[Contract], plan: Plan) -> RuleEntry:
    return RuleEntry(
        id=entry.id,
        level=entry.level,
        statement=entry.rule.statement,
        owner=entry.owner.definition.name,
        declared=entry.needs <= plan.declared,
        deadline=_deadline(suite, entry.rule),
        audit=entry.rule.ambient,
    )


class _Result(unittest.TestResult):
    """Says what no outcome says: fixtures that failed, and tests that ended without reaching their rule."""

    def __init__(self, worker: Worker, suite: type[Contract]) -> None:
        super().__init__()
        self._worker = worker
        self._suite = suite

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        text = describe_error(err[1])
        if rule := rule_of(test):
            self._end(rule, Status.ERROR, f"{self._id(rule)} could not be judged: {text}")
        else:
            self._worker.say("problem", message=f"{test.id()} raised {text}")

    addFailure = addError  # noqa: N815

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        if rule := rule_of(test):
            self._end(rule, Status.NOT_RUN, reason)
        else:
            self._worker.say("skipped", message=f"{test.id()}: {reason}")

    def _end(self, rule: Rule, status: Status, message: str) -> None:
        self._worker.finish(Outcome(title(self._suite), self._id(rule), status, 0.0, message))

    def _id(self, rule: Rule) -> str:
        return rule.id if rule is _PREFLIGHT else plan_of(self._suite).by_method[rule.method].id


_PREFLIGHT = Rule("preflight", "", "", "preflight", exclusive=True)


async def _look(seen: dict[str, object], suite: Contract, trial: Trial[Any]) -> None:
    """Open a provider, and note what is *seen*."""
    provider = raw(await trial.connect())
    protocol = trial.plan.definition.protocols.get("", object)
    operations = [each for each in dir(protocol) if not each.startswith("_") and callable(getattr(protocol, each))]
    if operations and not any(_has(provider, each) for each in operations):
        raise HookError(
            f"make_provider returned {describe(provider, 60)}, which is no provider of {trial.plan.definition.name}: "
            f"it has none of {', '.join(operations)}."
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


# Stacks.


_LIBRARY = os.path.dirname(os.__file__) + os.sep
_MACHINERY = tuple(
    os.path.dirname(str(each)) + os.sep for each in (__file__, asyncio.__file__, anyio.__file__, unittest.__file__)
)


def calls(frames: Iterable[traceback.FrameSummary]) -> str:
    """The newest of *frames*, which has the newest first, a line each."""
    return "\n".join(
        f"{os.path.basename(each.filename)} line {each.lineno} in {each.name}: {each.line}"
        for each in itertools.islice(frames, 10)
    )


def provider_calls(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Of *frames*, the newest first, those before what runs a rule."""
    return list(itertools.takewhile(lambda each: not each.filename.startswith(_MACHINERY), frames))


def _is_foreign(frame: traceback.FrameSummary) -> bool:
    """Whether *frame* belongs neither to what runs a rule nor to the standard library."""
    name = frame.filename
    in_library = name.startswith((_LIBRARY, "<frozen")) and "site-packages" not in name
    return not in_library and not name.startswith(_MACHINERY)


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
