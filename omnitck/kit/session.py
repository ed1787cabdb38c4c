"""How one rule runs: the providers' lives, the deadline, the journal of calls, the verdict.

Theory of operation, each point learnt from a failure:

1. `IsolatedAsyncioTestCase` runs set-up, test and tear-down as different tasks, so a provider that holds a task group open cannot
   be opened in one and closed in another. Everything happens inside the test's own coroutine.
2. A deadline is a cancel scope, and a scope opened around a provider's own scopes in one task must close after them. So each
   provider lives in a task of its own, the host: it enters the provider, hands it over, waits for the end of the rule, exits.
   Closing is then outside the rule's deadline, and a crash of the provider's background task is a failure that can be read.
3. A deadline raises only where the cancellation arrives. A provider that swallows it would let the rule pass late, so the clock
   is asked after the body, not the exception.
4. A verdict raised inside a task group would reach the runner as an exception group. It is caught inside, and raised at the end.
5. What can be skipped is skipped before any provider is opened.
"""

import asyncio
import functools
import inspect
import os
import sys
import time
import traceback
import unittest
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.kit.concurrency import Call, being_cancelled
from omnitck.kit.outcomes import Outcome, Status, Violation, emit, starting
from omnitck.kit.text import describe, describe_error, unwrap
from omnitck.shared.exceptions import TCKError, UnavailableError

if TYPE_CHECKING:
    from omnitck.kit.contract import Contract, Rule

__all__ = ["HookError", "NotProvoked", "RuleError", "Session", "as_violation", "raw", "run"]

__unittest = True  # unittest leaves the frames of such a module out of what it prints.

CLOSING_SECONDS = 5.0
"""How long the clients of a rule may take to close, in all."""
LONGEST_TRACE = 10

T = TypeVar("T")


class RuleError(Exception):
    """The rule could not be judged, for a reason that is not its subject."""


class HookError(Exception):
    """A hook of the suite failed. Its cause is what it raised."""


class NotProvoked(Exception):  # noqa: N818  a verdict, not an error
    """The suite lacks what the rule needs to be provoked."""


class Cause(Exception):  # noqa: N818  it only stands for one
    """Stands for an exception where a runner prints causes: its place in the code, its text shortened and without credentials."""

    def __init__(self, session: "Session", error: BaseException) -> None:
        super().__init__(session.masked(describe_error(error)))
        self.__traceback__ = error.__traceback__


async def run(suite: "Contract", rule: "Rule", body: Callable[..., Awaitable[None]]) -> None:
    """Judge *rule* on *suite*, record the outcome, and raise what a unittest runner understands."""
    __tracebackhide__ = True
    cls = type(suite)
    name = rule.id_in(cls.contract.prefix)
    _leave_debug_mode()
    starting(cls, name)
    began = time.perf_counter()
    status, problem = await _judge(suite, rule, name, body)
    seconds = time.perf_counter() - began
    if status is Status.FAILED and name in cls.known_deviations:
        problem = unittest.SkipTest(f"known deviation: {cls.known_deviations[name]}")
        status = Status.KNOWN_DEVIATION

    message = "" if problem is None else str(problem)
    emit(cls, Outcome(f"{cls.__module__}.{cls.__qualname__}", name, status, round(seconds, 6), message))
    if problem is not None:
        # The text says what the provider did; the kit's own frames would only stand in front of it.
        problem.__suppress_context__ = True
        raise problem.with_traceback(None)


def _leave_debug_mode() -> None:
    """IsolatedAsyncioTestCase debugs its event loop, at several times the cost of a task. Who asks for that keeps it."""
    if sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG") or "asyncio" not in sys.modules:
        return
    with suppress(RuntimeError):  # Another event loop has no such mode.
        loop = asyncio.get_running_loop()
        loop.set_debug(False)
        loop.slow_callback_duration = float("inf")  # of the step that runs: it began in that mode


async def _judge(
    suite: "Contract", rule: "Rule", name: str, body: Callable[..., Awaitable[None]]
) -> tuple[Status, Exception | None]:
    from omnitck.kit.contract import has_hook

    missing = rule.needs_in(type(suite).contract) - suite.declared
    if missing:
        return Status.NOT_DECLARED, unittest.SkipTest(f"not declared: {', '.join(sorted(missing))}")
    if rule.hook is not None and not has_hook(type(suite), rule.hook):
        return Status.NOT_PROVOKED, unittest.SkipTest(f"not provoked: the suite has no {rule.hook}")

    suite.session = session = Session(suite, rule)
    try:
        error = await session.judge(body)
    finally:
        # Each would keep the other, and all that the rule wrote, until some late garbage collection.
        del suite.session
    if error is None:
        return Status.PASSED, None
    if isinstance(error, NotProvoked):
        return Status.NOT_PROVOKED, unittest.SkipTest(f"not provoked: {error}")
    if isinstance(error, HookError | UnavailableError):
        problem = RuleError(session.masked(f"{name} could not be judged: {describe_error(error)}"))
        cause = error.__cause__ if isinstance(error, HookError) else error
        problem.__cause__ = cause and Cause(session, cause)
        return Status.ERROR, problem

    violation = as_violation(error)
    session.complete(violation, name)
    if violation.__cause__ is not None:
        violation.__cause__ = Cause(session, violation.__cause__)
    return Status.FAILED, violation


def as_violation(error: BaseException) -> Violation:
    """*error* as a broken rule: whatever a provider raises where the rule foresees nothing."""
    if isinstance(error, Violation):
        return error

    frames = traceback.extract_tb(error.__traceback__)
    where = f", raised in {os.path.basename(frames[-1].filename)} line {frames[-1].lineno}" if frames else ""
    violation = Violation(expected="no exception", observed=describe_error(error) + where)
    violation.__cause__ = error
    return violation


class Session:
    """What one run of one rule knows."""

    def __init__(self, suite: "Contract", rule: "Rule") -> None:
        self.suite = suite
        self.rule = rule
        self.namespace = f"omnitck{os.urandom(6).hex()}"
        self.advanced = 0.0
        self.violations: list[Violation] = []
        self.journal = Journal()
        self.names = 0
        self.planted = list(suite.confidential())
        """Secrets that no failure may show."""
        self.afterwards: list[Call[object]] = []
        """What removes what the rule left behind the provider's back; called once at its end, and it may fail."""
        self._clients: list[_Client] = []
        self._tasks: anyio.abc.TaskGroup
        self._scope = anyio.CancelScope()
        self._crash: BaseException | None = None
        self._waited = ""
        """Where the rule stood when its time was over, if it could be interrupted there."""

    def fresh(self, suffix: str) -> str:
        """A name that is new in this rule."""
        self.names += 1
        return f"{self.namespace}-{self.names}{'-' if suffix else ''}{suffix}"

    async def judge(self, body: Callable[..., Awaitable[None]]) -> BaseException | None:
        """Run *body* under its deadline, close every client, run the audits; return what speaks against the provider."""
        deadline = (self.suite.deadline or self.rule.deadline) * self.suite.patience
        try:
            async with anyio.create_task_group() as self._tasks:
                error: BaseException | None = None
                with self._scope:
                    self._scope.deadline = anyio.current_time() + deadline
                    error = await self._attempt(body)
                if anyio.current_time() >= self._scope.deadline and not isinstance(error, HookError):
                    error = Violation(
                        expected=f"a verdict within {deadline:g} s",
                        observed=f"none: {self._unended()}",
                        hint="an operation hangs, swallows cancellation or blocks the event loop",
                    )
                error = self._crash or error
                closing = await self._close()
                self._tasks.cancel_scope.cancel()
        except (KeyboardInterrupt, anyio.get_cancelled_exc_class()):
            raise
        except BaseException as group:
            return unwrap(group)

        if error is None:
            error = closing or await self._audit()
        return error

    def _unended(self) -> str:
        opening = next((f"{client.hook}() has not ended" for client in self._clients if not client.ready.is_set()), "")
        return opening or f"{self.journal.pending() or 'the rule did not end'}{self._waited}"

    async def _attempt(self, body: Callable[..., Awaitable[None]]) -> BaseException | None:
        try:
            await body(self.suite)
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

    async def _audit(self) -> BaseException | None:
        for audit in self.suite.audits:
            try:
                await getattr(self.suite, audit.method)(self.rule)
            except Exception as error:
                if audit.id in self.suite.known_deviations:
                    continue

                violation = as_violation(error)
                violation.heading = f"{audit.id} [audit during {self.rule.id}] {audit.statement}"
                return violation
        return None

    # Clients.

    async def connect(self, config: dict[str, Any], hook: str = "make_provider") -> Any:
        """Open a client in a host task of its own."""
        client = _Client(config, hook)
        self._clients.append(client)
        self._tasks.start_soon(self._host, client)
        await client.ready.wait()
        if client.failure is not None:
            raise client.failure

        return Journaled(client.provider, self.journal, client)

    async def _host(self, client: "_Client") -> None:
        handed_over = False
        try:
            made = await self._make(client)
            if hasattr(type(made), "__aenter__"):
                async with made as provider:
                    handed_over = client.hand_over(provider)
                    await client.closing.wait()
                return

            handed_over = client.hand_over(made)
            await client.closing.wait()
            close = getattr(made, "aclose", None) or getattr(made, "close", None)
            if callable(close) and not client.closed:
                closed = close()
                if inspect.isawaitable(closed):
                    await closed
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and being_cancelled():
                raise
            error = unwrap(error)
            if not handed_over:
                client.failure = error if isinstance(error, HookError) else _hook_error(client.hook, error)
            elif not client.closing.is_set():
                self._crash = Violation(
                    expected="the provider's background tasks live as long as the provider",
                    observed=f"one ended it with {describe_error(error)}",
                )
                self._scope.cancel()
            elif not client.closed:
                client.close_error = Violation(
                    given="closing the client at the end of the rule",
                    expected="no exception",
                    observed=describe_error(error),
                )
        finally:
            client.ready.set()
            client.ended.set()

    async def _make(self, client: "_Client") -> Any:
        factory = getattr(self.suite, client.hook)
        try:
            made = await factory(**accepted(factory, {"namespace": self.namespace, **client.config}))
        except NotImplementedError as error:
            raise HookError(f"{type(self.suite).__qualname__} has no {client.hook}: write it with `async def`.") from error
        if made is None:
            raise HookError(f"{client.hook} returned None: return the provider, or an async context manager that yields it.")

        return made

    async def hook(self, name: str, call: Awaitable[T]) -> T:
        """Await a hook of the suite; what it raises is not the provider's failure."""
        try:
            return await call
        except Exception as error:
            raise _hook_error(name, error) from error

    async def release(self, client: "Journaled") -> None:
        """End *client* now instead of at the end of the rule, and wait until its host task has ended."""
        ending = self.closes(client)
        ending.closing.set()
        with anyio.move_on_after(CLOSING_SECONDS * self.suite.patience):
            await ending.ended.wait()
        await anyio.lowlevel.checkpoint()

    def closes(self, client: "Journaled") -> "_Client":
        """The rule itself closes *client*: what another closing does is not its subject."""
        client._omnitck_client.closed = True
        return client._omnitck_client

    def tenant_of(self, provider: Any) -> str | None:
        """The tenant for which *provider*, with or without its journal, was connected."""
        client = next((each for each in self._clients if each.provider is raw(provider)), None)
        return None if client is None else client.config.get("tenant_id")

    def touched(self, name: str, *, except_by: Any = None) -> bool:
        """Whether a client was asked about *name* in this rule, another one than *except_by*."""
        return any(name in each.touched for each in self._clients if each.provider is not raw(except_by))

    def is_open(self, provider: Any) -> bool:
        """Whether *provider*, with or without its journal, was not closed by the rule."""
        return any(each.provider is raw(provider) and not each.closed for each in self._clients)

    def first_provider(self) -> object:
        """The provider behind the first client that opened."""
        return next((each.provider for each in self._clients if each.provider is not None), None)

    async def _close(self) -> BaseException | None:
        if "shared" in self.suite.declared:
            await self._tidy()
        for tidy in self.afterwards:
            with anyio.move_on_after(CLOSING_SECONDS * self.suite.patience), suppress(Exception):
                await tidy()
        for client in reversed(self._clients):
            client.closing.set()
            if not client.ready.is_set():
                continue  # It never opened; the end of the task group cancels its host.

            with anyio.move_on_after(CLOSING_SECONDS * self.suite.patience):
                await client.ended.wait()
                continue

            return Violation(
                given="closing the client at the end of the rule",
                expected=f"it ends within {CLOSING_SECONDS * self.suite.patience:g} s",
                observed="it does not end",
            )
        return next((each.close_error for each in self._clients if each.close_error), None)

    async def _tidy(self) -> None:
        """Erase what the rule wrote and nothing else: only names that hold this rule's own unguessable one."""
        for client in [each for each in self._clients if each.provider is not None and each.hook == "make_provider"]:
            names = [name for name in client.touched if self.namespace in name]
            with anyio.move_on_after(CLOSING_SECONDS * self.suite.patience):
                provider: Any = client.provider
                for name in names:
                    try:
                        await self.suite.cells.tidy(provider, name)
                    except TCKError:
                        if not client.closed:
                            continue
                        config = {key: value for key, value in client.config.items() if key != "address"}
                        try:
                            provider = raw(await self.connect(config))
                            await self.suite.cells.tidy(provider, name)
                        except (HookError, TCKError):
                            break
                    except Exception:
                        break

    # The words of a failure.

    def complete(self, violation: Violation, name: str) -> None:
        """Add to *violation* what the session knows, and mask the secrets in it."""
        suite, rule = self.suite, self.rule
        violation.heading = violation.heading or f"{name} [{rule.level_in(type(suite).contract)}] {rule.statement}"
        provider = self.first_provider()
        violation.provider = "" if provider is None else f"{type(provider).__module__}.{type(provider).__qualname__}"
        violation.trace = violation.trace or self.journal.lines()
        cls = type(suite)
        if cls.again:
            violation.again = cls.again.replace("{rule}", name)
        else:
            violation.again = f"python -m unittest {cls.__module__}.{cls.__qualname__}.{rule.method}"
        if self.planted:
            violation.trace = [self.masked(each) for each in violation.trace]
            for each in (violation, *violation.others):
                for field in ("given", "expected", "observed", "hint", "case", "provider", "heading", "again"):
                    setattr(each, field, self.masked(getattr(each, field)))

    def masked(self, text: str) -> str:
        """*text* without the suite's credentials, and without what the rule planted."""
        for secret in self.planted:
            text = text.replace(secret, "***")
        return text


def _waited(cancellation: BaseException) -> str:
    """The innermost place at which a *cancellation* arrived, event loops left out."""
    place = ""
    for frame, line in traceback.walk_tb(cancellation.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("anyio", "asyncio", "trio"):
            place = f"; it waited in {os.path.basename(frame.f_code.co_filename)} line {line}"
    return place


def _hook_error(hook: str, error: BaseException) -> HookError:
    wrapped = HookError(f"{hook} raised {describe_error(error)}")
    wrapped.__cause__ = error
    return wrapped


def accepted(function: Callable[..., object], config: dict[str, Any]) -> dict[str, Any]:
    """Of *config*, what *function* takes: the kit's own extras are offered, the rest is required."""
    extras = {"namespace"}
    names, takes_any = parameters(function)
    return config if takes_any else {key: value for key, value in config.items() if key in names or key not in extras}


def parameters(function: Callable[..., object]) -> tuple[frozenset[str], bool]:
    """The names of what *function* takes, and whether it takes any other name too."""
    return _parameters(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable[..., object]) -> tuple[frozenset[str], bool]:
    """Remembered: to read a signature costs more than most hooks do."""
    found = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in found), any(each.kind is each.VAR_KEYWORD for each in found)


class _Client:
    """A provider in its host task."""

    def __init__(self, config: dict[str, Any], hook: str) -> None:
        self.config = config
        self.hook = hook
        self.provider: Any = None
        self.failure: HookError | None = None
        self.close_error: Violation | None = None
        self.closed = False
        self.touched: dict[str, None] = {}
        self.ready = anyio.Event()
        self.closing = anyio.Event()
        self.ended = anyio.Event()

    def hand_over(self, provider: object) -> bool:
        self.provider = provider
        self.ready.set()
        return True


class Journal:
    """The last calls that a rule made, for the trace of a failure. Text is made only when it is needed."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.calls: deque[_Call] = deque(maxlen=LONGEST_TRACE)

    def forget(self) -> None:
        """Keep nothing, from now on: the calls of this rule carry secrets."""
        self.calls = deque(maxlen=0)

    def lines(self) -> list[str]:
        """One line a call, the oldest first."""
        return [f"+{1000 * (call.at - self.began):.1f} ms {call}" for call in self.calls]

    def pending(self) -> str:
        """The call that has not ended, if one has not."""
        return next((f"{call.head()} has not ended" for call in reversed(self.calls) if call.outcome is _PENDING), "")


_PENDING = object()


class _Call:
    __slots__ = ("arguments", "at", "error", "keywords", "method", "outcome")

    def __init__(self, method: str, arguments: tuple[object, ...], keywords: dict[str, object]) -> None:
        self.at = time.perf_counter()
        self.method = method
        self.arguments = arguments
        self.keywords = keywords
        self.outcome: object = _PENDING
        self.error: BaseException | None = None

    def head(self) -> str:
        shown = [describe(each, 60) for each in self.arguments]
        shown += [f"{key}={describe(each, 60)}" for key, each in self.keywords.items()]
        return f"{self.method}({', '.join(shown)})"

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.head()} raised {describe_error(self.error)}"
        if self.outcome is _PENDING:
            return f"{self.head()} ..."
        return f"{self.head()} -> {describe(self.outcome, 80)}"


class Journaled:
    """A provider, seen through a journal of the calls made on it."""

    def __init__(self, provider: Any, journal: Journal, client: _Client) -> None:
        self._omnitck_raw = provider
        self._omnitck_journal = journal
        self._omnitck_client = client

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._omnitck_raw, name)
        if not callable(member):
            return member

        journal, client = self._omnitck_journal, self._omnitck_client

        def call(*arguments: Any, **keywords: Any) -> Any:
            entry = _Call(name, arguments, keywords)
            journal.calls.append(entry)
            if arguments:
                _note(client.touched, arguments[0])
            if name in ("close", "aclose"):
                client.closed = True
            try:
                made = member(*arguments, **keywords)
            except (KeyboardInterrupt, SystemExit) as error:
                entry.error = error
                raise _fatal(error) from error
            except BaseException as error:
                entry.error = error
                raise
            if inspect.isawaitable(made):
                return _finish(made, entry)

            entry.outcome = made
            return made

        return call


async def _finish(made: Awaitable[T], entry: _Call) -> T:
    try:
        result = await made
    except (KeyboardInterrupt, SystemExit) as error:
        entry.error = error
        raise _fatal(error) from error
    except BaseException as error:
        entry.error = error
        raise

    entry.outcome = result
    return result


def _fatal(error: BaseException) -> Violation:
    """What would end the whole run is the provider's failure: Ctrl-C cancels a task, it is not raised inside one."""
    return Violation(expected="no exception", observed=f"{describe_error(error)}, which ends the whole program")


def _note(touched: dict[str, None], argument: object) -> None:
    """Remember the names in the first argument of a call: one, several, or those of a transaction's steps."""
    if isinstance(argument, str):
        touched[argument] = None
    elif isinstance(argument, dict | list | tuple | set):
        for each in argument:
            name = getattr(each, "key", each)
            if isinstance(name, str):
                touched[name] = None


def raw(provider: Any) -> Any:
    """The provider itself, without the journal."""
    return provider._omnitck_raw if isinstance(provider, Journaled) else provider
