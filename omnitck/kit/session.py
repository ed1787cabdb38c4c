"""How one rule runs: the providers' lives, the deadline, the verdict.

Theory of operation, each point learnt from a failure:

1. `IsolatedAsyncioTestCase` runs set-up, test and tear-down as different tasks, so a provider that holds a task group open cannot
   be opened in one and closed in another. Everything happens inside the test's own coroutine.
2. A deadline is a cancel scope, and a scope opened around a provider's own scopes in one task must close after them. So each
   provider lives in a task of its own, the host: it enters the provider, hands it over, waits for the end of the rule, exits.
   Closing is then outside the rule's deadline, and a crash of the provider's background task is a failure that can be read.
3. A deadline raises only where the cancellation arrives. A provider that swallows it would let the rule pass late, so the clock
   is asked after the body, not the exception.
4. A deadline counts work. While a rule waits for something that the provider's own numbers allow to last (a delivery, an expiry)
   its time stands still: the wait has a bound of its own. A slow provider that says so is judged by what it says. The time that a
   busy machine does not give to the event loop is not the provider's, and is not counted.
5. A verdict raised inside a task group would reach the runner as an exception group. It is caught inside, and raised at the end.
6. What can be skipped is skipped before any provider is opened.
"""

import asyncio
import functools
import inspect
import os
import sys
import time
import traceback
import unittest
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from types import CoroutineType
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.kit import watchdog
from omnitck.kit.clients import HUNG_RULES, HUNG_SECONDS, Client, Journal, Journaled, accepted, raw
from omnitck.kit.concurrency import Call, being_cancelled, cancelled_unasked
from omnitck.kit.definition import Plan
from omnitck.kit.outcomes import Outcome, Status, Violation, starting, warn_of_stale
from omnitck.kit.rules import Entry
from omnitck.kit.settings import deadline_of, patience_of
from omnitck.kit.text import UsageError, causes_of, describe_error, foreign_traceback, place_of, shorten, unwrap
from omnitck.shared.exceptions import TCKError, UnavailableError

__all__ = ["HookError", "NotProvoked", "RuleError", "Session", "as_violation", "has_hook", "run", "running"]

__unittest = True  # unittest leaves the frames of such a module out of what it prints.

CLOSING_SECONDS = 5.0
"""How long each client of a rule may take to close, times the suite's patience; much less once two rules have waited in vain."""

DEBUGGED = sys.flags.dev_mode or bool(os.environ.get("PYTHONASYNCIODEBUG"))
"""Whether somebody asks for the debug mode of event loops."""

MOST_LINES = 20
"""Of what a suite says of its backend: the last ones."""

SHORT_WAIT = 0.001
"""Seconds: a wait that is no longer counts as work."""

SLICES = 16
"""Into which a wait is divided, to see which of its time the event loop had."""

MOST_LOST = 4
"""For each slice so many may be lost to a busy machine; a wait has an end also on one that always is."""

LONGEST_HALT = 60.0
"""Seconds: what halts a machine for longer, halts what runs on it for good."""

running: set["Session"] = set()
"""The rules under way in this process."""

T = TypeVar("T")


class RuleError(Exception):
    """The rule could not be judged, for a reason that is not its subject."""


class HookError(Exception):
    """A hook of the suite failed. Its cause is what it raised."""

    def __init__(self, text: str, *, misused: bool = False) -> None:
        super().__init__(text)
        self.misused = misused
        """Whether it answered, with what cannot be an answer."""


class NotProvoked(Exception):  # noqa: N818  a verdict, not an error
    """The suite lacks what the rule needs to be provoked."""


class Cause(Exception):  # noqa: N818  it only stands for one
    """Stands for an exception where a runner prints causes: its place in foreign code, its text without credentials."""

    @classmethod
    def of(cls, session: "Session", error: BaseException) -> "Cause | None":
        """What stands for *error* and for what that came of; no variable of anybody hangs on it."""
        made: Cause | None = None
        for each in reversed(list(causes_of(error))):
            cause = cls(session.masked(describe_error(each))).with_traceback(foreign_traceback(each, shown=each is unwrap(error)))
            cause.__cause__ = made
            made = cause
        return made


async def run(suite: Any, plan: Plan, entry: Entry, body: Callable[..., Awaitable[None]]) -> None:
    """Judge *entry* on *suite*, record the outcomes, and raise what a unittest runner understands."""
    __tracebackhide__ = True
    cls = type(suite)
    loop = _running_loop(cls)
    if loop is not None:
        _leave_debug_mode(loop)
    starting(cls, entry.id)
    began = time.perf_counter()
    session = Session(suite, plan, entry, loop)
    running.add(session)
    watchdog.rule_begins(session)
    try:
        status, problem = await _judge(session, body)
    finally:
        watchdog.rule_ended(session)
        running.discard(session)
    seconds = round(time.perf_counter() - began, 6)
    message = "" if problem is None else str(problem)
    reason = cls.known_deviations.get(entry.id)
    if status is Status.FAILED and reason is not None:
        problem = unittest.SkipTest(f"known deviation: {session.masked(reason)}")
        status = Status.KNOWN_DEVIATION

    name = f"{cls.__module__}.{cls.__qualname__}"
    outcomes = [Outcome(name, entry.id, status, seconds, message, cause=session.cause, traceback=session.traceback)]
    for audit, verdict, failure in session.audited:
        outcomes.append(Outcome(name, audit.id, verdict, 0.0, "" if failure is None else str(failure), during=entry.id))
        if verdict in (Status.FAILED, Status.ERROR):
            problem = problem or failure
    suite._omnitck_judged(outcomes)
    if problem is not None:
        # The text says what the provider did; the kit's own frames would only stand in front of it.
        problem.__suppress_context__ = True
        raise problem.with_traceback(None)
    if reason is not None:
        warn_of_stale(cls, entry.id, session.masked(reason))


def _running_loop(cls: Any) -> asyncio.AbstractEventLoop | None:
    """asyncio's loop that runs; None where the suite asks for another."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        if cls.backend != "asyncio":
            return None

    raise UsageError(
        f"{cls.__qualname__} runs on another event loop than its `backend`, asyncio: a plugin of the runner has taken its tests "
        '(trio_mode of pytest-trio). Switch that off, or say backend = "trio".'
    )


def _leave_debug_mode(loop: asyncio.AbstractEventLoop) -> None:
    """IsolatedAsyncioTestCase debugs its event loop, at several times the cost of a task. Who asks for that keeps it."""
    if not DEBUGGED and loop.get_debug():
        loop.set_debug(False)
        sys.set_coroutine_origin_tracking_depth(0)  # which the loop would do only in its next step
        loop.slow_callback_duration = float("inf")  # of the step that runs: it began in that mode


async def _judge(session: "Session", body: Callable[..., Awaitable[None]]) -> tuple[Status, Exception | None]:
    entry = session.entry
    skipped = _skipped(session, entry)
    if skipped is not None:
        return skipped

    error = await session.judge(body)
    if error is None:
        return Status.PASSED, None
    if isinstance(error, NotProvoked):
        return Status.NOT_PROVOKED, unittest.SkipTest(f"not provoked: {error}")
    if isinstance(error, HookError | UnavailableError):
        session.tell_cause((isinstance(error, HookError) and error.__cause__) or error)
        problem = RuleError(session.masked(f"{entry.id} could not be judged: {describe_error(error)}"))
        cause = error.__cause__ if isinstance(error, HookError) else error
        problem.__cause__ = cause and Cause.of(session, cause)
        return Status.ERROR, problem

    violation = as_violation(error)
    violation.backend = await session.described_backend()
    return Status.FAILED, session.complete(violation, entry)


def _skipped(session: "Session", entry: Entry) -> tuple[Status, Exception] | None:
    """Why *entry* cannot be judged in this suite, if so."""
    missing = entry.needs - session.plan.declared
    if missing:
        return Status.NOT_DECLARED, unittest.SkipTest(f"not declared: {', '.join(sorted(missing))}")
    if entry.rule.hook is not None and not has_hook(session.suite, session.plan, entry.rule.hook):
        return Status.NOT_PROVOKED, unittest.SkipTest(f"not provoked: the suite has no {entry.rule.hook}")
    return None


def has_hook(suite: Any, plan: Plan, hook: str) -> bool:
    """Whether *suite* (a class, or one of its tests) supplies a hook: a method of its own, or a declaration that is not empty."""
    return hook in plan.supplied if hook in plan.hooks else bool(getattr(suite, hook))


def as_violation(error: BaseException) -> Violation:
    """*error* as a broken rule: whatever a provider raises where the rule foresees nothing."""
    if isinstance(error, Violation):
        return error

    if isinstance(error, asyncio.CancelledError):
        return Violation(
            expected="no cancellation that nobody asked for",
            observed="CancelledError",
            hint="an operation raised it, or cancelled the task that called it",
        )

    violation = Violation(expected="no exception", observed=describe_error(error))
    violation.__cause__ = error
    return violation


@functools.cache
def _kinds(backend: str) -> tuple[Callable[[], anyio.CancelScope], Callable[[], anyio.abc.TaskGroup]]:
    """The classes of scopes and task groups under *backend*, which runs; anyio would look for it every time."""
    return type(anyio.CancelScope()), type(anyio.create_task_group())


class _Countdown:
    """Ends its scope after so many seconds of the event loop's, in slices: what a slice lasts beyond its length is not counted.

    A loop that has come to a halt, as on a busy machine, wakes whoever is late and what bounds them in the same turn: the
    provider would be judged by the machine. Who looks for a deadline, as providers may, sees that there is one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, within: float, told: Callable[[float], object]) -> None:
        self.scope = anyio.CancelScope(deadline=loop.time() + (1 + MOST_LOST) * within + LONGEST_HALT)
        self._loop = loop
        self._left = min(SLICES, max(int(within / SHORT_WAIT), 1))
        self._slice = max(within, 0.0) / self._left
        self._lost = MOST_LOST * self._left
        self._told = told
        self._begin()

    def _begin(self) -> None:
        self._ends = self._loop.time() + self._slice
        self._handle = self._loop.call_at(self._ends, self._tick)

    def _tick(self) -> None:
        if self._lost and self._loop.time() > self._ends + max(self._slice, SHORT_WAIT):
            self._lost -= 1  # Too late to tell what the provider would have done in it: one more.
        else:
            self._left -= 1
        if self._left:
            self._told(self._left * self._slice)
            self._begin()
        else:
            self.scope.cancel()

    def stop(self) -> None:
        """The wait has ended."""
        self._handle.cancel()


class Session(watchdog.Watched):
    """What one run of one rule knows."""

    def __init__(self, suite: Any, plan: Plan, entry: Entry, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.suite = suite
        self.plan = plan
        self.entry = entry
        self.patience = patience_of(suite)
        self.trial: Any = None
        self.namespace = f"omnitck{os.urandom(6).hex()}"
        self.advanced = 0.0
        self.violations: list[Violation] = []
        self.names = 0
        self.planted: list[str] = []
        """Secrets that no failure may show."""
        self.afterwards: list[Call[object]] = []
        """What removes what the rule left behind the provider's back; called once at its end, and it may fail."""
        self.audited: list[tuple[Entry, Status, Exception | None]] = []
        """What became of each audit."""
        self.cause = self.traceback = ""
        """Of the failure: what went wrong first, and, where it is asked for, everything about it."""
        self._clients: list[Client] = []
        self._tasks: anyio.abc.TaskGroup
        make_scope, self._make_group = _kinds(suite.backend)
        self._scope = make_scope()
        self.journal = Journal(plan, self.patience, self._scope)
        self._waits = 0
        self._waits_since = self._waits_until = 0.0
        """On the monotonic clock, as is the next."""
        self._works_until = float("inf")
        self._ends_until: float | None = None
        """By when what follows the body has ended: the clients' closing, or the audit that is under way."""
        self.closing = False
        """Whether its clients are being closed."""
        self._left = 0.0
        """Seconds of work that were left when it began to wait."""
        self._loop = loop
        self._asked = False
        """Whether the loop is about to look at its clock."""
        self._told: float | None = None
        """What that clock showed the last time."""
        self._given_up = ""
        """Why the rule cannot be judged, if its clock stands still or the run is ended."""
        self._crash: BaseException | None = None
        self._waited = ""
        """Where the rule stood when its time was over, if it could be interrupted there."""

    def fresh(self, suffix: str) -> str:
        """A name that is new in this rule."""
        self.names += 1
        return f"{self.namespace}-{self.names}{'-' if suffix else ''}{suffix}"

    async def judge(self, body: Callable[..., Awaitable[None]], *, audited: bool = True) -> BaseException | None:
        """Run *body* under its deadline, close every client, run the audits; return what speaks against the provider."""
        self.trial = self.plan.trial(self)
        self.planted += self.trial.confidential()
        error: BaseException | None = None
        try:
            if not self.plan.arounds:
                return await self._host_and_audit(body, audited)

            async with AsyncExitStack() as around:
                for enter in self.plan.arounds:
                    await around.enter_async_context(enter(self.trial))
                error = await self._host_and_audit(body, audited)
        except (HookError, NotProvoked) as verdict:
            error = error or verdict
        except Exception as raised:
            error = error or hook_error("what a policy needs", raised)
        finally:
            # Each would keep the other, and all that the rule wrote, until some late garbage collection.
            self.trial = None
        return error

    async def _host_and_audit(self, body: Callable[..., Awaitable[None]], audited: bool) -> BaseException | None:
        error = await self._host_and_judge(body)
        if error is None and audited and self.plan.audits:
            await self._audit()
        return error

    async def _host_and_judge(self, body: Callable[..., Awaitable[None]]) -> BaseException | None:
        deadline = deadline_of(self.suite, self.entry.rule)
        try:
            async with self._make_group() as self._tasks:
                error: BaseException | None = None
                self._scope.deadline = (anyio.current_time() if self._loop is None else self._loop.time()) + deadline
                self._works_until = time.monotonic() + deadline
                if watchdog.debugged():
                    self.stop_clock()
                with self._scope:
                    error = await self._attempt(body)
                late = time.monotonic() >= self._works_until or (error is None and self._scope.cancelled_caught)
                if late and not isinstance(error, HookError):
                    error = self._out_of_time(deadline)
                error = self._crash or error
                # Closing one client after the other, once what they wrote is erased, and the rest of the tidying.
                turns = 2 * len(self._clients) + len(self.afterwards) + 1
                stopped = self._works_until == float("inf")
                self._ends_until = self._works_until if stopped else time.monotonic() + turns * self.closing_seconds
                self.closing = True
                await self._close()
        except (KeyboardInterrupt, anyio.get_cancelled_exc_class()):
            raise
        except BaseException as group:
            return unwrap(group)

        if self._given_up:
            return HookError(self._given_up)
        if any(each.interrupted for each in self._clients):
            self.plan.unclosed.append(self.entry.id)
        return error

    @contextmanager
    def waiting(self, within: float) -> Iterator[anyio.CancelScope]:
        """Around a wait that the provider's numbers allow to last *within* seconds, and no longer: the deadline stands still."""
        began = time.monotonic()
        if not self._waits:
            self._left, self._waits_since = self._works_until - began, began
        self._waits += 1
        self._waits_until = max(self._waits_until, began + within)
        if within >= self._left > 0:
            self._scope.deadline = float("inf")
        countdown = None if self._loop is None or within == float("inf") else _Countdown(self._loop, within, self._wait_on)
        try:
            with anyio.move_on_after(within) if countdown is None else countdown.scope as scope:
                yield scope
        finally:
            if countdown is not None:
                countdown.stop()
            self._waits -= 1
            now = time.monotonic()
            # Most waits end at once; to set the clock anew would take longer than they did.
            if (
                not self._waits
                and self._left > 0
                and (now - self._waits_since > SHORT_WAIT or self._scope.deadline == float("inf"))
            ):
                self._works_until = now + self._left
                self._scope.deadline = anyio.current_time() + self._left

    def _wait_on(self, seconds: float) -> None:
        """A wait that is under way may last so much longer from now on, and no deadline ends it."""
        self._waits_until = max(self._waits_until, time.monotonic() + seconds)
        if self._loop is not None and self._left > 0 and self._scope.deadline <= self._loop.time() + seconds:
            self._scope.deadline = float("inf")

    def left(self) -> float:
        """Seconds for which the rule may still run, as asked from another thread: to work, to wait as it does, or to close."""
        now = time.monotonic()
        if self._ends_until is not None:
            return self._ends_until - now
        if self._waits:
            return max(self._waits_until - now, 0.0) + max(self._left, 0.0)
        return self._works_until - now

    @property
    def opening(self) -> str:
        """The hook that is opening a client, if one is."""
        return next((each.hook for each in tuple(self._clients) if not each.ready.is_set()), "")

    @property
    def title(self) -> str:
        """The rule's id and its suite."""
        return f"{self.entry.id} of {type(self.suite).__module__}.{type(self.suite).__qualname__}"

    def stop_clock(self) -> None:
        """Let no deadline end the rule from now on: somebody debugs it."""
        self._works_until = self._left = self._scope.deadline = float("inf")
        if self._ends_until is not None:
            self._ends_until = float("inf")

    def look_at_clock(self) -> None:
        """Let the loop see whether its clock has gone on since it was last asked. Called from another thread, twice a second."""
        if self._loop is not None and not self._asked:
            with suppress(RuntimeError):  # The loop has been closed meanwhile.
                self._asked = True
                self._loop.call_soon_threadsafe(self._compare_clock, self._loop.time)

    def _compare_clock(self, clock: Callable[[], float]) -> None:
        before, self._told, self._asked = self._told, clock(), False
        if before == self._told:
            self._given_up = (
                "the clock of the event loop stands still, so nothing that waits would end: let time.monotonic alone (freezegun: "
                "real_asyncio=True), or give the provider a clock of its own and write `advance`"
            )
            self._scope.cancel()
            self._tasks.cancel_scope.cancel()

    def give_up(self, reason: str) -> None:
        """End the rule without a verdict, for this *reason*; its clients are closed. Called from another thread."""
        self._given_up = self._given_up or reason
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._scope.cancel)

    def _out_of_time(self, deadline: float) -> Violation | HookError:
        if self.opening:
            return HookError(f"{self.opening}() has not ended after {deadline:g} s.")

        pending = self.journal.pending()
        if pending is not None and pending.method not in self.plan.answered:
            self.plan.hung[pending.method] = self.plan.hung.get(pending.method, 0) + 1
        unended = f"{pending.head()} has not ended" if pending is not None else "the rule did not end"
        return Violation(
            expected=f"a verdict within {deadline:g} s",
            observed=f"none: {unended}{self._waited}",
            hint="an operation hangs, swallows cancellation or blocks the event loop",
        )

    async def _attempt(self, body: Callable[..., Awaitable[None]]) -> BaseException | None:
        try:
            await body(self.suite, self.trial)
            if await cancelled_unasked():
                raise asyncio.CancelledError
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as raised:
            if isinstance(raised, anyio.get_cancelled_exc_class()) and being_cancelled():
                self._waited = _waited(raised)
                raise
            error = unwrap(raised)
            if not self.violations:
                return error

            # A case that failed before is the better explanation of what followed.
            if not isinstance(error, HookError | UnavailableError | NotProvoked):
                self.violations.append(as_violation(error))

        if not self.violations:
            return None

        first, *others = self.violations
        first.others = others
        return first

    async def _audit(self) -> None:
        for audit in self.plan.audits:
            if _skipped(self, audit) is not None:
                continue
            deadline = deadline_of(self.suite, audit.rule)
            self._ends_until, self.closing = time.monotonic() + deadline, False
            try:
                with anyio.move_on_after(deadline) as scope:
                    await getattr(self.suite, audit.rule.method)(self.trial)
                if scope.cancelled_caught:
                    raise HookError(f"it has not ended after {deadline:g} s, while no provider is open.")
            except NotProvoked:
                continue
            except HookError as error:
                problem = RuleError(self.masked(f"{audit.id} could not be judged: {describe_error(error)}"))
                problem.__cause__ = error.__cause__ and Cause.of(self, error.__cause__)
                self.audited.append((audit, Status.ERROR, problem))
            except Exception as error:
                reason = type(self.suite).known_deviations.get(audit.id)
                failure = self.complete(as_violation(error), audit)
                status = Status.FAILED if reason is None else Status.KNOWN_DEVIATION
                self.audited.append((audit, status, failure))
            else:
                self.audited.append((audit, Status.PASSED, None))

    # Clients.

    async def connect(self, config: dict[str, Any], hook: str = "make_provider") -> Any:
        """Open a client in a host task of its own."""
        client = Client(config, hook, anyio.Event if self._loop is None else asyncio.Event)
        self._clients.append(client)
        self._tasks.start_soon(self._host, client)
        await client.ready.wait()
        if client.failure is not None:
            raise client.failure

        return Journaled(client.provider, self.journal, client)

    async def _host(self, client: Client) -> None:
        handed_over = False
        try:
            made = await self._make(client)
            if hasattr(type(made), "__aenter__"):
                async with made as provider:
                    handed_over = client.hand_over(provider)
                    await client.closing.wait()
                return

            handed_over = client.hand_over(made)
            close = _closer(made)
            if close is None:
                return

            await client.closing.wait()
            if not client.closed:
                closed = close()
                if inspect.isawaitable(closed):
                    await closed
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and being_cancelled():
                client.interrupted = client.ready.is_set()
                raise
            error = unwrap(error)
            if not handed_over:
                client.failure = error if isinstance(error, HookError) else hook_error(client.hook, error)
            elif not client.closing.is_set():
                self._crash = Violation(
                    expected="the provider's background tasks live as long as the provider",
                    observed=f"one ended it with {describe_error(error)}",
                )
                self._scope.cancel()
            elif not client.closed:
                client.close_error = Violation(expected="no exception", observed=describe_error(error))
        finally:
            client.ready.set()
            client.ended.set()

    async def _make(self, client: Client) -> Any:
        factory = getattr(self.suite, client.hook)
        try:
            made = factory(**accepted(factory, {"namespace": self.namespace, **client.config}))
            if isinstance(made, CoroutineType) or inspect.isawaitable(made):
                made = await made
        except NotImplementedError as error:
            raise HookError(f"{type(self.suite).__qualname__} has no {client.hook}: write it with `async def`.") from error
        if made is None:
            raise HookError(
                f"{client.hook} returned None: return the provider, or an async context manager that yields it.", misused=True
            )

        return made

    async def unopened(self) -> Any:
        """What `make_provider` returns, for a rule that enters it itself."""
        try:
            return await self._make(Client({}, "make_provider"))
        except HookError:
            raise
        except Exception as error:
            raise hook_error("make_provider", error) from error

    async def release(self, client: Journaled) -> Violation | None:
        """Close *client* now instead of at the end of the rule, unless the rule has; what speaks against that, or None."""
        ending = client._omnitck_client
        ending.closing.set()
        with self.waiting(self.closing_seconds):
            await ending.ended.wait()
        await anyio.lowlevel.checkpoint()
        if ending.ended.is_set():
            return ending.close_error

        return Violation(
            expected=f"it has closed within {self.closing_seconds:g} s",
            observed="it has not",
            hint="a worker that is not told to end, or a farewell to a backend that does not answer",
        )

    @property
    def closing_seconds(self) -> float:
        """How long a client may take to close."""
        never = len(self.plan.unclosed) >= HUNG_RULES
        return float((HUNG_SECONDS if never else CLOSING_SECONDS) * self.patience)

    def closes(self, client: Journaled) -> Client:
        """The rule itself closes *client*: what another closing does is not its subject."""
        client._omnitck_client.closed = True
        return client._omnitck_client

    def tenant_of(self, provider: Any) -> str | None:
        """The tenant for which *provider*, with or without its journal, was connected."""
        client = next((each for each in self._clients if each.provider is raw(provider)), None)
        return None if client is None else client.config.get("tenant_id")

    def asked(self, *, except_by: Any = None) -> int:
        """How many clients were asked about anything in this rule, *except_by* not counted."""
        return sum(bool(each.touched) for each in self._clients if each.provider is not raw(except_by))

    def is_open(self, provider: Any) -> bool:
        """Whether *provider*, with or without its journal, was not closed by the rule."""
        return any(each.provider is raw(provider) and not each.closed for each in self._clients)

    def first_provider(self) -> object:
        """The provider behind the first client that opened."""
        return next((each.provider for each in self._clients if each.provider is not None), None)

    async def _close(self) -> None:
        if "shared" in self.plan.declared and self.trial.cells is not None:
            await self._tidy()
        for tidy in self.afterwards:
            with anyio.move_on_after(self.closing_seconds), suppress(Exception):
                await tidy()
        # The last to close has until the task group ends, which no other scope need watch.
        opened = [each for each in reversed(self._clients) if each.ready.is_set()]
        for client in opened[:-1]:
            client.closing.set()
            with anyio.move_on_after(self.closing_seconds):
                await client.ended.wait()
            if not client.ended.is_set():
                break
        else:
            for client in opened[-1:]:
                client.closing.set()
            if len(opened) == len(self._clients):
                if not all(each.ended.is_set() for each in opened):
                    self._tasks.cancel_scope.deadline = anyio.current_time() + self.closing_seconds
                return

        self._tasks.cancel_scope.cancel()

    async def _tidy(self) -> None:
        """Erase what the rule wrote and nothing else: only names that hold this rule's own unguessable one."""
        cells = self.trial.cells
        for client in [each for each in self._clients if each.provider is not None and each.hook == "make_provider"]:
            names = [name for name in client.touched if self.namespace in name]
            with anyio.move_on_after(self.closing_seconds), suppress(Exception):
                provider: Any = client.provider
                # The proxy of an address has gone by now: one that waits for the network would wait for that.
                if names and (client.closed or "address" in client.config):
                    config = {key: value for key, value in client.config.items() if key != "address"}
                    provider = raw(await self.connect(config))
                for name in names:
                    with suppress(TCKError):
                        await cells.tidy(provider, name)

    # The words of a failure.

    def complete(self, violation: Violation, entry: Entry) -> Violation:
        """*violation* with what the session knows, and without the secrets in it."""
        cls = type(self.suite)
        during = f", audited after {self.entry.id}" if entry.rule.ambient else ""
        violation.heading = violation.heading or f"{entry.id} [{entry.level}{during}] {entry.rule.statement}"
        provider = self.first_provider()
        violation.provider = "" if provider is None else f"{type(provider).__module__}.{type(provider).__qualname__}"
        violation.trace = violation.trace or self.journal.lines()
        violation.again = cls.again.replace("{rule}", self.entry.id) if cls.again else _again(cls, self.entry)
        for each in (violation, *violation.others):
            self._show_cause(each)
        if self.planted:
            violation.trace = [self.masked(each) for each in violation.trace]
            for each in (violation, *violation.others):
                for field in (
                    "given",
                    "expected",
                    "observed",
                    "cause",
                    "hint",
                    "case",
                    "provider",
                    "heading",
                    "backend",
                    "again",
                ):
                    setattr(each, field, self.masked(getattr(each, field)))
        if violation.__cause__ is not None:
            violation.__cause__ = Cause.of(self, violation.__cause__)
        return violation

    def _show_cause(self, violation: Violation) -> None:
        """Say of an exception that *violation* observed where the provider raised it, and what it came of."""
        error = violation.__cause__ or violation.__context__
        if error is None or describe_error(error) not in violation.observed:
            return

        self.tell_cause(error)
        place = place_of(error)
        if place:
            violation.observed += f", raised in {place}"
        elif violation.__cause__ is not None and not violation.hint:
            violation.hint = "the rule raised it, when it called the provider or looked at what that returned"
        _, *before = causes_of(error)
        violation.cause = "\n".join(
            describe_error(each) + (f", raised in {at}" if (at := place_of(each)) else "") for each in before
        )

    def tell_cause(self, error: BaseException) -> None:
        """Keep what *error* came of, unless something else was kept before."""
        if self.cause:
            return

        *_, first = causes_of(error)
        self.cause = self.masked(describe_error(first))
        if os.environ.get("OMNITCK_TRACEBACK"):
            self.traceback = self.masked("".join(traceback.format_exception(error)))

    async def described_backend(self) -> str:
        """What the suite says of its backend, if it can."""
        if not has_hook(self.suite, self.plan, "describe_backend"):
            return ""

        text = f"describe_backend had not ended after {self.closing_seconds:g} s"
        with anyio.move_on_after(self.closing_seconds):
            try:
                text = str(await self.suite.describe_backend())
            except Exception as error:
                text = f"describe_backend raised {describe_error(error)}"
        lines = text.splitlines()
        more = [f"... and {len(lines) - MOST_LINES} more lines before"] if len(lines) > MOST_LINES else []
        return "\n".join([*more, *map(shorten, lines[-MOST_LINES:])])

    def masked(self, text: str) -> str:
        """*text* without the suite's credentials, and without what the rule planted."""
        for secret in self.planted:
            text = text.replace(secret, "***")
        return text


def _again(cls: Any, entry: Entry) -> str:
    """The command that repeats the test of *entry* alone, from the current directory."""
    node = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if node.endswith(f"::{cls.__name__}::{entry.rule.method}"):
        return f"python -m pytest {node}"

    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    path = os.path.relpath(file) if file and os.path.splitdrive(file)[0] == os.path.splitdrive(os.getcwd())[0] else ""
    importable = path in ("", f"{cls.__module__.replace('.', os.sep)}.py") or path.startswith(os.pardir)
    if importable or not path.endswith(".py") or "<locals>" in cls.__qualname__:
        return f"python -m unittest {cls.__module__}.{cls.__qualname__}.{entry.rule.method}"

    # Its folder is no package, so that no name reaches it from here.
    return f"python -m omnitck certify {path}:{cls.__qualname__} --rule {entry.id}"


def _closer(provider: object) -> Callable[[], object] | None:
    """What closes *provider*, if anything does; one whose attributes cannot be asked for has no such thing."""
    for name in ("aclose", "close"):
        try:
            found: Callable[[], object] | None = getattr(provider, name, None)
        except Exception:
            continue
        if callable(found):
            return found
    return None


def _waited(cancellation: BaseException) -> str:
    """The innermost place at which a *cancellation* arrived, event loops left out."""
    place = ""
    for frame, line in traceback.walk_tb(cancellation.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("anyio", "asyncio", "trio"):
            place = f"; it waited in {os.path.basename(frame.f_code.co_filename)} line {line}"
    return place


def hook_error(hook: str, error: BaseException) -> HookError:
    """*error* as the failure of *hook*: not the provider's."""
    wrapped = HookError(f"{hook} raised {describe_error(error)}")
    wrapped.__cause__ = error
    return wrapped
