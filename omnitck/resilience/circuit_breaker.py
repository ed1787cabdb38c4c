"""The contract `circuit_breaker`: calls of something that keeps failing are refused, until it may have recovered.

Closed, it counts consecutive failures, and opens at `failure_threshold`. Open, it refuses every call for `reset_timeout` seconds.
Then it is half-open: `half_open_max_calls` calls at a time are let through, and `success_threshold` successes close it, while one
failure opens it for another full timeout. A result is credited to the state that admitted its call: whatever ends later than the
state that let it in changes nothing, and takes no place. A call that was cancelled, and one that raises what is `excluded`, is
neither failure nor success. What cannot be let through is refused at once; nothing queues.
"""

import asyncio
import datetime
import functools
import inspect
import random
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from omnitck.common.clients import ClientRules, ClientTrial, Lifecycle
from omnitck.common.windows import WindowTrial
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.walk import Divergence, Step, walk
from omnitck.kit.clients import HUNG_RULES, HUNG_SECONDS, Hung
from omnitck.kit.concurrency import Attempt, attempt, cancel_natively, gather, new_event, together
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.outcomes import Violation
from omnitck.kit.rules import rule
from omnitck.kit.session import HookError, NotProvoked
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.reference.circuit_breaker import Admission, Circuit, Settings
from omnitck.shared.exceptions import CircuitOpenError, ClosedError, InvalidArgumentError, UnavailableError
from omnitck.shared.models import BreakerLimits, CircuitState

__all__ = [
    "CircuitBreakerContract",
    "CircuitBreakerProtocol",
    "Events",
    "FullCircuitBreaker",
    "HalfOpenTimeout",
    "ManualControl",
    "ResultPredicate",
    "RetryAfter",
    "SharedState",
    "SlidingWindow",
    "SlowCall",
]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")


class CircuitBreakerProtocol(Protocol):
    """The core.

    A breaker is made with settings: `make_provider(failure_threshold=5, reset_timeout=60.0)`, and optionally
    `half_open_max_calls=1`, `success_threshold=1`, and `excluded=()`, a tuple of exception classes. Times are seconds.
    """

    @property
    def state(self) -> CircuitState:
        """Where it stands now: `HALF_OPEN` as soon as the timeout is over, without a call. To ask changes nothing."""
        ...

    async def execute(self, operation: Callable[Arguments, Awaitable[T]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """What `operation(*args, **kwargs)` returns or raises, the very object. `CircuitOpenError`, and no call, if it is
        refused.

        In every state the operation sees the context variables of the caller; whether it runs in the caller's task, and so
        whether the caller sees those that it sets, is left open. What is credited has been credited when this returns or raises.
        """
        ...


class SlidingWindow(Protocol):
    """Capability `sliding_window`: made with `window="count"` or `"time"`, `window_size` (calls, or seconds), `minimum_calls` and
    `failure_rate`, it opens when at least this share of at least so many calls in the window has failed. This takes the place of
    the count of consecutive failures. What is neither failure nor success is in no window."""


class SlowCall(Protocol):
    """Capability `slow_call`: made with `slow_call_duration` (seconds) and `slow_call_rate` beside a window, it opens at this
    share of slow calls too. In `HALF_OPEN` a slow success is a failure."""


class ManualControl(Protocol):
    """Capability `manual_control`: an operator decides."""

    async def force_open(self) -> None:
        """Open it, and leave it open until `reset`."""
        ...

    async def reset(self) -> None:
        """Close it, with nothing counted."""
        ...


class Events(Protocol):
    """Capability `events`: made with `on_transition`, it calls that with the old state and the new one, once for each change.

    That of `OPEN` to `HALF_OPEN` is told when the next call of this breaker is made, at the latest: to look at `state` need not
    tell it. What the function raises harms nobody, nor does it keep a listener of another breaker from being told."""


class HalfOpenTimeout(Protocol):
    """Capability `half_open_timeout`: made with `half_open_timeout` (seconds), a call that hangs so long in `HALF_OPEN` gives its
    place to another."""


class SharedState(Protocol):
    """Capability `shared_state`: breakers that are made with one `name` are one, whichever client they belong to.

    Others learn of a change within `limits.staleness`. A call whose breaker is closed by `close()` meanwhile keeps no place once
    it has ended; whether its result counts is left open. A breaker without a name is alone."""


class RetryAfter(Protocol):
    """Capability `retry_after`: `CircuitOpenError.retry_after` is the time that is left, in seconds, at this refusal.

    None where no time is known: while an operator holds it open."""


class ResultPredicate(Protocol):
    """Capability `result_predicate`: made with `result_predicate`, a result of which that says False is a failure, and is
    returned."""


class FullCircuitBreaker(ManualControl, Lifecycle, CircuitBreakerProtocol, Protocol):
    """What a provider has that declares every capability. The rules are written against it, each for those that it needs."""


CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

LONG_TIMEOUT = 3600.0
"""Seconds of a timeout that no rule waits for."""

TRIES = 4
"""How often a rule begins anew on a machine that is too busy to look in time; each time it waits twice as long."""

SUCCESS, FAILURE, CANCELLED, EXCLUDED = "succeeds", "fails", "is cancelled", "raises what is excluded"
REJECTED = "returns what is rejected"
ENDINGS = (SUCCESS, FAILURE, CANCELLED, EXCLUDED)
"""How a call may end."""


class OperationError(Exception):
    """What a call raises that fails. It cannot be made anew from its text."""

    def __init__(self, token: str, number: int) -> None:
        super().__init__(f"{token} failed")
        self.number = number


class ExcludedError(Exception):
    """What a breaker is told to exclude."""


class ExcludedSubclassError(ExcludedError):
    """A subclass of it."""


class OtherExcludedError(Exception):
    """Another exception that it is told to exclude."""


class Custom(BaseException):
    """What is no `Exception`."""


class TooLate(NotProvoked):
    """The machine was too busy to look while the answer was certain."""


async def answers(token: T) -> T:
    """An operation that succeeds."""
    await anyio.lowlevel.checkpoint()
    return token


async def raises(error: BaseException) -> object:
    """An operation that fails."""
    await anyio.lowlevel.checkpoint()
    raise error


@dataclass(frozen=True, slots=True)
class Opened:
    """A circuit that was opened for some time."""

    until: float
    """It is `OPEN` in every look that has returned by then."""
    after: float
    """It is `HALF_OPEN` in every look that begins later."""


def _same(call: T) -> T:
    return call


class Held:
    """A call that is under way until it is told how to end."""

    def __init__(self, t: "BreakerTrial", breaker: CircuitBreakerProtocol) -> None:
        self.t = t
        self.breaker = breaker
        self.token = t.token()
        self.name = f"call {t.session.names}"
        self.error: BaseException | None = None
        self.tried: Attempt[object] | None = None
        """What the breaker made of it; None until it has ended, and if it was cancelled."""
        self.made = False
        """Whether the operation was called."""
        self.known, self.go, self.ended = new_event(), new_event(), new_event()
        self.scope = anyio.CancelScope()
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False

    def __repr__(self) -> str:
        return self.name

    async def operation(self) -> object:
        """What is guarded."""
        self.made = True
        self.known.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.token

    async def run(self) -> None:
        """Make the call, in a task of its own."""
        with suppress(RuntimeError):
            self.task = asyncio.current_task()
        try:
            with self.scope:
                self.tried = await attempt(partial(self.breaker.execute, self.operation))
        except anyio.get_cancelled_exc_class():
            if not self.cancelled:
                raise
        finally:
            if self.cancelled and self.task is not None:
                self.task.uncancel()
            self.known.set()
            self.ended.set()

    async def end(self, how: str) -> None:
        """Let it end, and see that the caller gets what it came to."""
        self.tell(how)
        await self.wait()

    def tell(self, how: str) -> None:
        """Let it end as *how* says."""
        if how == CANCELLED:
            self.cancelled = True
            if self.task is None:
                self.scope.cancel()
            else:
                cancel_natively(self.task)
            return
        if how == REJECTED:
            self.token = Bad(self.token)
        elif how != SUCCESS:
            self.error = OperationError(self.token, 0) if how == FAILURE else ExcludedError(self.token)
        self.go.set()

    async def wait(self, *, exactly: bool = False, outage: bool = False) -> None:
        """Wait for its end, and see that it came to a result or to an exception; *exactly*, to its own exception, if that is
        asked.

        In an *outage*, that of the store is no answer.
        """
        with anyio.move_on_after(self.t.answer_seconds) as scope:
            await self.ended.wait()
        self.t.check(
            not scope.cancelled_caught,
            given="execute, whose operation has ended or was cancelled",
            expected=f"it ends within {self.t.answer_seconds:g} s",
            observed=Plain("it does not"),
        )
        if not self.cancelled and self.tried is not None:
            if outage and isinstance(self.tried.error, UnavailableError):
                self.t.fail_rule(
                    given="execute, whose store got out of reach while the operation was under way",
                    expected="what the operation came to",
                    observed=describe_error(self.tried.error),
                )
            error = self.error if exactly or outage or self.error is None else self.tried.error
            self.t.check_outcome(self.tried, self.token, error, given="execute of an operation that was under way")
            self.t.check_raised(self.tried, self.error, given="execute of an operation that was under way")


class Holding:
    """Begins calls that are under way at once."""

    def __init__(self, t: "BreakerTrial", tasks: anyio.abc.TaskGroup) -> None:
        self.t = t
        self.tasks = tasks

    async def begin(self, *breakers: CircuitBreakerProtocol) -> list[Held]:
        """One call on each of *breakers*, all at once, once each is known to be made or refused."""
        calls = [Held(self.t, each) for each in breakers]
        for each in calls:
            self.tasks.start_soon(each.run)
        hung, waited = self.t.plan.hung, "execute beside another"
        seconds = self.t.answer_seconds if hung.get(waited, 0) < HUNG_RULES else HUNG_SECONDS * self.t.patience
        with anyio.move_on_after(seconds) as scope:
            for each in calls:
                await each.known.wait()
        if scope.cancelled_caught:
            hung[waited] = hung.get(waited, 0) + 1
            raise Hung(
                given="execute" if len(calls) == 1 else f"{len(calls)} calls of execute at once",
                expected="each is made, or refused at once",
                observed=f"neither within {seconds:g} s",
                hint="nothing waits for its turn: a lock that is held during the call serialises what it guards",
            )
        return calls

    async def make(self, breaker: CircuitBreakerProtocol, given: str) -> Held:
        """A call that must be made, and is under way."""
        [call] = await self.begin(breaker)
        self.t.check_made(call, given)
        return call


class BreakerTrial(WindowTrial[FullCircuitBreaker], ClientTrial[FullCircuitBreaker]):
    """The words of the rules of `CircuitBreakerContract`."""

    slower = 1
    """How many times as long as usual timeouts are."""
    in_vain = False
    """Whether a walk has waited to the end for something that did not come: the replays that shorten it wait less."""

    async def breaker(
        self, *, failure_threshold: int = 1, reset_timeout: float = LONG_TIMEOUT, **settings: Any
    ) -> FullCircuitBreaker:
        """A breaker that opens at the first failure, and stays open for longer than a rule lasts, if nothing else is said."""
        return await self.connect(failure_threshold=failure_threshold, reset_timeout=reset_timeout, **settings)

    async def windowed(self, **settings: Any) -> FullCircuitBreaker:
        """A breaker with a window of calls, if nothing else is said."""
        return await self.connect(**{"window": "count", "reset_timeout": LONG_TIMEOUT, **settings})

    async def unit(self) -> float:
        """Seconds of a timeout that the provider keeps and the rule can observe."""
        await self.connect()  # whose numbers they are
        return self.ttl_unit() * self.slower

    async def shared_timeout(self) -> float:
        """The same, so long that others have heard of it while it runs."""
        return await self.unit() + 4 * self.numbers().staleness

    # Calls.

    def check_outcome(self, tried: Attempt[Any], value: object, error: BaseException | None, *, given: str) -> None:
        """Fail the rule unless a call came to the very *value*, or to the very *error* if there is one."""
        if isinstance(tried.error, UnavailableError | Hung) and tried.error is not error:
            raise tried.error
        observed = f"returned {describe(tried.value)}" if tried.error is None else f"raised {describe_error(tried.error)}"
        if error is not None:
            expected = f"the very {type(error).__name__} that the operation raised"
            holds = tried.error is error
            observed += ", another object" if type(tried.error) is type(error) else ""
        else:
            expected, holds = f"the very result of the operation: {describe(value)}", tried.error is None and tried.value is value
        self.check(holds, given=given, expected=expected, observed=Plain(observed))

    def check_raised(self, tried: Attempt[Any], error: BaseException | None, *, given: str) -> None:
        """Fail the rule if a call that was to raise *error* returned, or was not made. What it raised, another rule judges."""
        if error is None:
            return
        if isinstance(tried.error, UnavailableError | Hung) and tried.error is not error:
            raise tried.error
        made = error.__traceback__ is not None
        self.check(
            made and tried.error is not None,
            given=given,
            expected="the operation is called, and its exception comes out",
            observed=Plain(f"raised {describe_error(tried.error)}" if tried.error else f"returned {describe(tried.value)}"),
        )

    async def succeed(self, breaker: CircuitBreakerProtocol, times: int = 1, *, given: str = "a call that succeeds") -> None:
        """Let *times* calls succeed."""
        for _ in range(times):
            token = self.token()
            self.check_outcome(await attempt(partial(breaker.execute, answers, token)), token, None, given=given)

    async def fail(
        self,
        breaker: CircuitBreakerProtocol,
        times: int = 1,
        *,
        error: BaseException | None = None,
        given: str = "a call that fails",
    ) -> None:
        """Let *times* calls fail, with *error* or one of their own, whatever the caller gets to see of it."""
        for number in range(times):
            raised = OperationError(self.token(), number) if error is None else error
            self.check_raised(await attempt(partial(breaker.execute, raises, raised)), raised, given=given)

    async def fail_with(
        self, breaker: CircuitBreakerProtocol, error: BaseException, *, given: str = "a call that raises what is excluded"
    ) -> None:
        """Let a call raise *error*."""
        self.check_outcome(await attempt(partial(breaker.execute, raises, error)), None, error, given=given)

    async def quick(self, breaker: CircuitBreakerProtocol, duration: float) -> None:
        """Let a call succeed that surely takes less than *duration*."""
        began = self.now()
        await self.succeed(breaker)
        self.in_time(began + 0.8 * duration)

    async def cancel(self, breaker: CircuitBreakerProtocol, times: int = 1) -> None:
        """Let *times* calls be cancelled while they are under way."""
        async with self.holding() as holding:
            for _ in range(times):
                call = await holding.make(breaker, "a call that is then cancelled")
                await call.end(CANCELLED)

    async def play(self, breaker: CircuitBreakerProtocol, results: str, given: str) -> None:
        """Let calls succeed (`s`) or fail (`f`), each made by a closed circuit."""
        for number, each in enumerate(results):
            self.stands(breaker, CLOSED, f"of {given}, after {results[:number] or 'nothing'}")
            await (self.succeed(breaker) if each == "s" else self.fail(breaker))

    async def close_beside(self, breaker: FullCircuitBreaker, call: Held, how: str) -> None:
        """Let *breaker* be closed, and then *call*, which is under way on it, end; a close may wait for it."""
        closed = new_event()

        async def close() -> None:
            await breaker.close()
            closed.set()

        async def end() -> None:
            with anyio.move_on_after(CLOSING_SECONDS):
                await closed.wait()
            call.tell(how)
            await call.ended.wait()

        with anyio.move_on_after(self.answer_seconds):
            await gather([close, end])

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[Holding]:
        """What begins calls that are under way at once; those that are at the end are cancelled."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            try:
                yield Holding(self, tasks)
            except Exception as error:
                failure = error
                if isinstance(error, Violation):
                    error.trace = error.trace or self.session.journal.lines()  # without what is cancelled now
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # Verdicts.

    def stands(self, breaker: CircuitBreakerProtocol, state: CircuitState, given: str, hint: str = "") -> None:
        """Fail the rule unless *breaker* is in *state*."""
        self.check_state(self.state_of(breaker), state, given, hint)

    def state_of(self, breaker: CircuitBreakerProtocol) -> object:
        """The state of *breaker*, or what it raises in its place."""
        try:
            return breaker.state
        except UnavailableError:
            raise
        except Exception as error:
            return error

    def check_state(self, observed: object, state: CircuitState, given: str, hint: str = "") -> None:
        """Fail the rule unless the state that was *observed* is *state*."""
        shown = describe_error(observed) if isinstance(observed, Exception) else _name_of(observed)
        self.check(observed is state, given=f"the state {given}", expected=state.name, observed=Plain(shown), hint=hint)

    def check_made(self, call: Held, given: str) -> None:
        """Fail the rule unless *call* was made."""
        error = None if call.tried is None else call.tried.error
        if isinstance(error, UnavailableError | Hung):
            raise error
        self.check(
            call.made,
            given=given,
            expected="the operation is called",
            observed=Plain(f"it is not: {describe_error(error)}" if error else "it is not"),
        )

    async def reject(self, breaker: CircuitBreakerProtocol, given: str) -> CircuitOpenError:
        """Fail the rule unless *breaker* refuses a call, which is not made; its error."""
        called: list[bool] = []

        async def operation() -> None:
            called.append(True)

        error = await self.refused(partial(breaker.execute, operation), CircuitOpenError, given=given)
        self.check(not called, given=given, expected="the operation is not called", observed=Plain("it is called"))
        assert isinstance(error, CircuitOpenError)
        return error

    async def admit_soon(self, breaker: CircuitBreakerProtocol, given: str) -> None:
        """Fail the rule unless *breaker* makes a call, which then succeeds, in the time that what was cancelled may take to
        end."""
        token, tried = self.token(), Attempt[object]()
        with anyio.move_on_after(self.cancel_seconds):
            while True:
                tried = await attempt(partial(breaker.execute, answers, token))
                if not isinstance(tried.error, CircuitOpenError):
                    break
                await anyio.sleep(0.01)
        self.check_outcome(tried, token, None, given=given)

    # Time.

    async def trip(self, breaker: CircuitBreakerProtocol, timeout: float, failures: int = 1) -> Opened:
        """Open *breaker*, whose `reset_timeout` is *timeout*, by so many *failures*."""
        await self.fail(breaker, failures - 1)
        called = self.now()
        await self.fail(breaker)
        return self.opened(called, timeout)

    def opened(self, called: float, timeout: float) -> Opened:
        """For how long a circuit is open that was opened between the moment *called* and now."""
        kept = max(timeout, self.numbers().min_ttl)
        return Opened(called + kept - kept / 100, self.now() + self.longest(timeout))

    async def tripped(self, breakers: Iterable[CircuitBreakerProtocol], timeout: float, failures: int = 1) -> None:
        """Open all *breakers*, and wait until they are half-open."""
        await self.until(max([(await self.trip(each, timeout, failures)).after for each in breakers]))

    def in_time(self, moment: float) -> None:
        """End this try of the rule if *moment* has passed."""
        if self.now() >= moment:
            raise TooLate("this machine is too busy to look in time")

    def still_open(self, breaker: CircuitBreakerProtocol, opened: Opened, given: str, hint: str = "") -> None:
        """Fail the rule unless *breaker* is open, as long as that is certain."""
        state = self.state_of(breaker)
        self.in_time(opened.until)
        self.check_state(state, OPEN, given, hint)

    async def still_rejects(self, breaker: CircuitBreakerProtocol, opened: Opened, given: str) -> CircuitOpenError:
        """Fail the rule unless *breaker* refuses a call, as long as that is certain."""
        self.in_time(opened.until)
        tried = await attempt(partial(self.reject, breaker, given))
        self.in_time(opened.until)
        return tried.result()

    def check_left(self, error: CircuitOpenError, opened: Opened, before: float, given: str, slack: float = 0.0) -> float:
        """Fail the rule unless *error*, of a call that began *before* now, tells what was left of the timeout."""
        left: Any = error.retry_after
        least, most = opened.until - self.now() - slack, opened.after - before + slack
        number = isinstance(left, int | float) and not isinstance(left, bool)
        self.check(
            number and least <= left <= most,
            given=given,
            expected=f"a number of seconds from {least:.4g} to {most:.4g}",
            observed=left,
        )
        return float(left)

    async def told(self, events: Sequence[object], expected: Sequence[object], given: str) -> None:
        """Fail the rule unless exactly the *expected* events come, which may take a while."""
        with anyio.move_on_after(self.told_seconds):
            while len(events) < len(expected):
                await anyio.sleep(0.005)
        await anyio.lowlevel.checkpoint()
        shown = [_shown(each) for each in (expected, events)]
        self.check(shown[0] == shown[1], given=given, expected=shown[0], observed=Plain(shown[1]))


def _name_of(state: object) -> str:
    return state.name if isinstance(state, CircuitState) else describe(state)


def _shown(events: Sequence[object]) -> str:
    """Transitions as text."""
    names = [" to ".join(map(_name_of, each)) if isinstance(each, tuple) else describe(each) for each in events]
    return ", ".join(names) or "none"


Body = Callable[[Any, BreakerTrial], Coroutine[Any, Any, None]]


def unhurried(body: Body) -> Body:
    """Begin a rule anew, with longer timeouts, if the machine was too busy to look in time; in the end it is not provoked."""

    @functools.wraps(body)
    async def test(self: Any, t: BreakerTrial) -> None:
        for number in range(TRIES - 1):
            t.slower = 2**number
            with suppress(TooLate):
                await body(self, t)
                return
        t.slower = 2 ** (TRIES - 1)
        await body(self, t)

    return test


def _length(error: BaseException | None) -> int:
    """The frames in the traceback of *error* and of what it came from."""
    frames, seen = 0, set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames += sum(1 for _ in traceback.walk_tb(error.__traceback__))
        error = error.__cause__ or error.__context__
    return frames


# What calls come to.


class Incomparable:
    """Says nothing of itself: an array answers so whether it equals another."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Awaited:
    """Can be awaited, and is no coroutine."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield from anyio.lowlevel.checkpoint().__await__()
        return self.value


class Operating:
    """An object that can be called, and has a method that can."""

    async def __call__(self, value: object) -> object:
        return await answers(value)

    async def method(self, value: object) -> object:
        return await answers(value)


class Bad(str):
    """A result that `result_predicate` rejects on a walk."""

    __slots__ = ()


RESULTS: Mapping[str, object] = {
    "None": None,
    "False": False,
    "0": 0,
    "an empty text": "",
    "an empty list": [],
    "an exception": LookupError("returned, not raised"),
    "what cannot be compared": Incomparable(),
    "what could be awaited": Awaited(None),
}
"""What an operation may return."""

CALLABLES: Mapping[str, Callable[[object], Awaitable[object]]] = {
    "a partial function": partial(answers),
    "a plain function that returns a coroutine": lambda value: answers(value),
    "a plain function that returns what can be awaited": Awaited,
    "an object that can be called": Operating(),
    "a method": Operating().method,
}
"""What an operation may be, beside a coroutine function."""

CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


def _errors(t: Trial[Any]) -> dict[str, BaseException]:
    """What an operation may raise."""
    text = t.token()
    return {
        "an exception that cannot be made anew": OperationError(text, 1),
        "a group of exceptions": ExceptionGroup(text, [LookupError(text), TimeoutError(text)]),
        "KeyError": KeyError(text),
        "TimeoutError": TimeoutError(text),
        "StopAsyncIteration": StopAsyncIteration(text),
        "UnavailableError": UnavailableError(text),
        "InvalidArgumentError": InvalidArgumentError(text),
        "ClosedError": ClosedError(text),
    }


async def _hangs() -> None:
    await anyio.sleep_forever()


CLOSING_SECONDS = 0.05
"""How long a `close` is given before the call ends that it may wait for."""

OWN_TIMEOUT = 0.02
"""Seconds that a caller waits."""


def _timeouts(breaker: CircuitBreakerProtocol) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
    """Calls that hang, and end with the caller's own timeout."""

    async def scope() -> None:
        with anyio.fail_after(OWN_TIMEOUT):
            await breaker.execute(_hangs)

    async def timeout() -> None:
        async with asyncio.timeout(OWN_TIMEOUT):
            await breaker.execute(_hangs)

    async def wait_for() -> None:
        await asyncio.wait_for(breaker.execute(_hangs), OWN_TIMEOUT)

    own: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {"the end of `anyio.fail_after`": scope}
    if _on_asyncio():
        own |= {"the end of `asyncio.timeout`": timeout, "the end of `asyncio.wait_for`": wait_for}
    return own


def _on_asyncio() -> bool:
    """Whether asyncio's event loop runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _bad_settings(declared: frozenset[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Settings of which one cannot be, each with a name."""
    nan, minus, half, text = float("nan"), -1, 1.5, "3"
    window: dict[str, object] = {"window": "count", "window_size": 10, "minimum_calls": 5, "failure_rate": 0.5}
    slow = window | {"slow_call_duration": 1.0, "slow_call_rate": 0.5}
    for capability, given, bad in (
        ("", {}, {"failure_threshold": (0, minus, half, text), "reset_timeout": (minus, nan, text)}),
        ("", {}, {"half_open_max_calls": (0, minus, half), "success_threshold": (0, minus, half)}),
        ("sliding_window", window, {"window": ("other",), "window_size": (0, minus), "minimum_calls": (0, minus)}),
        ("sliding_window", window, {"failure_rate": (minus, half, nan)}),
        ("slow_call", slow, {"slow_call_duration": (minus, nan), "slow_call_rate": (minus, half, nan)}),
        ("half_open_timeout", {}, {"half_open_timeout": (minus, nan)}),
    ):
        for name, values in bad.items():
            for value in values:
                if not capability or capability in declared:
                    yield f"{name}={value}", given | {name: value}


# The wall clock.


@contextmanager
def _wall_clock(ahead: float) -> Iterator[None]:
    """The wall clock of this process shows *ahead* seconds too much, to all modules but those of the standard library."""
    real: dict[str, Any] = {"time": time.time, "time_ns": time.time_ns, "datetime": datetime.datetime}

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real["datetime"])

    class Shifted(datetime.datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real["datetime"].now(tz) + datetime.timedelta(seconds=ahead)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    fake = {
        "time": lambda: real["time"]() + ahead,
        "time_ns": lambda: real["time_ns"]() + round(ahead * 1e9),
        "datetime": Shifted,
    }
    changed: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for place, name, value in _uses_of(real):
            changed.append((place, name, place[name]))
            place[name] = fake[value]
        yield
    finally:
        for place, name, before in changed:
            place[name] = before


def _uses_of(real: Mapping[str, object]) -> list[tuple[dict[str, Any], str, str]]:
    """Where modules have the *real* clocks: the names there, one of them, and the clock that it is."""
    by_id = {id(value): name for name, value in real.items()}
    found = []
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        own = name in ("time", "datetime")
        if own or (package not in sys.stdlib_module_names and name != __name__):
            names = getattr(module, "__dict__", {})
            found += [(names, each, by_id[id(value)]) for each, value in list(names.items()) if id(value) in by_id]
    return found


# A walk over all operations, beside the state machine.

WALKED_CALLS = "abcdef"
"""The calls of a walk that may be under way at once."""

LAST_CALL = "z"
"""The call that ends a walk."""

SHORT = 0.2
"""The share of a timeout that a short wait takes; a timeout is surely not over after `MOST_SHORT` of them, and is after a long
one."""

MOST_SHORT = 4

AGAIN_SECONDS = 0.03
"""How long a replay of a walk waits for what did not come the first time."""


class Modelled:
    """The state machine on a walk: each method is a step, and says what it came to."""

    def __init__(self, settings: Settings) -> None:
        self.circuit = Circuit(settings)
        self.changes: list[object] = []
        self.circuit.listeners.append(lambda old, new: self.changes.append((old, new)))
        self.now = 0.0
        self.short = 0
        self.calls: dict[str, Admission | None] = {}

    async def begin(self, call: str, client: int) -> str:
        """A call that stays under way."""
        if call in self.calls:
            return self.shown("under way already")

        admission = self.circuit.admit(self.now)
        if admission is None:
            forced = self.circuit.state is OPEN and self.circuit.opens_until == float("inf")
            return self.shown("refused for good" if forced else "refused")

        self.calls[call] = admission
        return self.shown("made")

    async def end(self, call: str, how: str) -> str:
        """A call ends."""
        admission = self.calls.pop(call, None)
        if admission is not None:
            self.circuit.finish(admission, self.now, failed=None if how in (CANCELLED, EXCLUDED) else how != SUCCESS)
        return self.shown()

    async def wait(self, long: bool) -> str:
        """Time passes."""
        if long or self.short < MOST_SHORT:
            self.now += 2.0 if long else SHORT
            self.short = 0 if long else self.short + 1
        return self.shown()

    async def force_open(self) -> str:
        """An operator opens it."""
        self.circuit.force_open(self.now)
        return self.shown()

    async def reset(self) -> str:
        """An operator closes it. What comes of calls that a closed circuit has let in, the contract leaves open."""
        if not self.unsure():
            self.circuit.reset(self.now)
        return self.shown()

    def unsure(self) -> bool:
        """Whether it is closed, and has let calls in that are under way."""
        now = self.circuit.generation
        return self.circuit.state is CLOSED and any(each is not None and each.generation == now for each in self.calls.values())

    async def told(self) -> str:
        """Every change there was, once another call has been made: until then, the last may not have been told."""
        await self.begin(LAST_CALL, 0)
        return _shown(self.changes)

    def shown(self, what: str = "") -> str:
        """The state, after what became of a call."""
        return f"{what} {self.circuit.look(self.now).name}".strip()


class Walker:
    """A breaker on the same walk. Where it is shared, two clients take the steps."""

    def __init__(self, t: BreakerTrial, holding: Holding, timeout: float, settings: Mapping[str, Any]) -> None:
        self.t = t
        self.holding = holding
        self.timeout = timeout
        self.settings = settings
        self.shadow = Modelled(_modelled(settings))
        self.breakers: list[FullCircuitBreaker] = []
        self.calls: dict[str, Held] = {}
        self.changes: list[object] = []
        self.listens = False
        """Whether it is told of changes."""
        self.since = t.now()
        """When it waited long for the last time."""
        self.late = False
        """Whether the machine was too slow for the answers to be certain."""

    async def begin(self, call: str, client: int) -> str:
        """See `Modelled.begin`."""
        expected = await self.shadow.begin(call, client)
        breaker = await self.breaker(client)
        if call in self.calls:
            return self.shown("under way already")

        [held] = await self.holding.begin(breaker)
        if not held.made and expected.startswith("made"):
            # What was cancelled may end a little later.
            with anyio.move_on_after(AGAIN_SECONDS if self.t.in_vain else self.t.cancel_seconds) as scope:
                while not held.made:
                    await anyio.sleep(0.01)
                    [held] = await self.holding.begin(breaker)
            self.t.in_vain = self.t.in_vain or scope.cancelled_caught
        if held.made:
            self.calls[call] = held
            return self.shown("made")

        error = held.tried and held.tried.error
        if isinstance(error, UnavailableError):
            raise error
        if not isinstance(error, CircuitOpenError):
            return self.shown(f"not made, {error and describe_error(error)},")
        if "retry_after" not in self.t.declared:
            return self.shown(expected.partition(" " + self.shadow.shown())[0] if expected.startswith("refused") else "refused")
        return self.shown("refused" if error.retry_after is not None or breaker.state is not OPEN else "refused for good")

    async def end(self, call: str, how: str) -> str:
        """See `Modelled.end`."""
        await self.shadow.end(call, how)
        await self.breaker(0)
        held = self.calls.pop(call, None)
        if held is not None:
            held.tell(how)
            with anyio.move_on_after(self.t.answer_seconds):
                await held.ended.wait()
        return self.shown()

    async def wait(self, long: bool) -> str:
        """See `Modelled.wait`."""
        short = self.shadow.short
        await self.shadow.wait(long)
        await self.breaker(0)
        if long:
            await self.t.wait(self.t.longest(self.timeout))
            self.since = self.t.now()
        elif short < MOST_SHORT:
            await self.t.wait(SHORT * self.timeout)
        return self.shown()

    async def force_open(self) -> str:
        """See `Modelled.force_open`."""
        await self.shadow.force_open()
        await (await self.breaker(0)).force_open()
        return self.shown()

    async def reset(self) -> str:
        """See `Modelled.reset`."""
        unsure = self.shadow.unsure()
        await self.shadow.reset()
        breaker = await self.breaker(1)
        if not unsure:
            await breaker.reset()
        return self.shown()

    async def told(self) -> str:
        """See `Modelled.told`."""
        await self.begin(LAST_CALL, 0)
        if not self.listens:
            return _shown(self.shadow.changes)
        with anyio.move_on_after(AGAIN_SECONDS if self.t.in_vain else self.t.told_seconds) as scope:
            while len(self.changes) < len(self.shadow.changes):
                await anyio.sleep(0.005)
        self.t.in_vain = self.t.in_vain or scope.cancelled_caught
        return _shown(self.changes)

    async def breaker(self, client: int) -> FullCircuitBreaker:
        """That of a client."""
        if not self.breakers:
            t = self.t
            settings = {**self.settings, "reset_timeout": self.timeout, "excluded": (ExcludedError,)}
            if "slow_call_duration" in settings:
                settings["slow_call_duration"] = self.timeout
            if settings.get("window") == "time":
                settings["window_size"] = self.timeout
            if "result_predicate" in t.declared:
                settings["result_predicate"] = lambda value: not isinstance(value, Bad)
            shared = settings.pop("shared", False) and not t.numbers().staleness
            if shared:
                settings["name"] = t.key()
            elif "events" in t.declared:
                self.listens = True
                settings["on_transition"] = lambda old, new: self.changes.append((old, new))
            self.breakers = [await t.connect(**settings) for _ in range(2 if shared else 1)]
            self.since = t.now()
        return self.breakers[client % len(self.breakers)]

    def shown(self, what: str = "") -> str:
        """The state, on every client, after what became of a call."""
        states = [self.t.state_of(each) for each in self.breakers]
        self.late = self.late or (not self.t.virtual_time and self.t.now() > self.since + 0.95 * self.timeout)
        names = dict.fromkeys(map(_name_of, states))
        return f"{what} {', and on another client '.join(names)}".strip()


async def _divergence(t: BreakerTrial, timeout: float, settings: Mapping[str, Any], steps: Sequence[Step]) -> Divergence | None:
    """Where a breaker and the state machine disagree on a walk, if they do."""
    walkers: list[Walker] = []
    async with t.holding() as holding:

        def walker() -> Walker:
            walkers.append(Walker(t, holding, timeout, settings))
            return walkers[-1]

        found = await walk(walker, lambda: Modelled(_modelled(settings)), steps, names=list, subject="breaker")
    if found is not None and any(each.late for each in walkers):
        raise TooLate("this machine is too busy to walk")
    return found


def _random_settings(chance: random.Random, declared: frozenset[str]) -> dict[str, Any]:
    """Settings of a breaker on a walk; times are 1, which stands for a timeout."""
    settings: dict[str, Any] = {
        "half_open_max_calls": chance.randint(1, 3),
        "success_threshold": chance.randint(1, 3),
    }
    if "shared_state" in declared:
        settings["shared"] = chance.random() < 0.5
    slow = "slow_call" in declared and chance.random() < 0.4
    if not slow and ("sliding_window" not in declared or chance.random() < 0.5):
        return settings | {"failure_threshold": chance.randint(1, 4)}

    # With one call as the minimum, no success opens it but a slow one: providers differ in whether they look after a success.
    window = chance.choice(
        ({"window": "time", "window_size": 1.0}, {"window": "count", "window_size": chance.choice((1, 2, 3, 5, 8))})
    )
    settings |= {**window, "minimum_calls": 1}
    settings |= {"failure_rate": chance.choice((0.5, 0.75, 1.0))}
    return settings | ({"slow_call_duration": 1.0, "slow_call_rate": chance.choice((0.5, 0.75, 1.0))} if slow else {})


def _modelled(settings: Mapping[str, Any]) -> Settings:
    return Settings(**{name: value for name, value in settings.items() if name != "shared"} | {"reset_timeout": 1.0})


async def _random_walk(
    chance: random.Random, declared: frozenset[str], settings: Mapping[str, Any], count: int, *, most_long: int, short: bool
) -> list[Step]:
    """*count* steps that go where something happens: the model says where it stands.

    Time passes *most_long* times at most for longer than a timeout, and now and then for a *short* time.
    """
    model = Modelled(_modelled(settings))
    steps: list[Step] = []
    while len(steps) < count:
        state = model.circuit.look(model.now)
        kinds = {"begin": 6, "end": 6, "wait": 1 if short else 0, "long": _LONG[state] if most_long else 0}
        if "manual_control" in declared:
            kinds |= {"force_open": _OPERATOR[state], "reset": _OPERATOR[state]}
        [kind] = chance.choices(list(kinds), list(kinds.values()))
        step = Step(kind, ())
        if kind == "begin":
            step = Step("begin", (chance.choice(WALKED_CALLS), chance.randrange(2)))
        elif kind == "end":
            call = chance.choice(list(model.calls) or WALKED_CALLS)
            [how] = chance.choices((FAILURE, SUCCESS, CANCELLED, EXCLUDED, REJECTED), _ENDINGS[state])
            step = Step("end", (call, FAILURE if how == REJECTED and "result_predicate" not in declared else how))
        elif kind in ("wait", "long"):
            step = Step("wait", (kind == "long",))
            most_long -= kind == "long"
        await getattr(model, step.method)(*step.arguments)
        steps.append(step)
    return [*steps, Step("told", ())]


_LONG = {CLOSED: 0.4, OPEN: 6.0, HALF_OPEN: 0.8}
"""How likely it is that a walk waits for long."""

_OPERATOR = {CLOSED: 0.2, OPEN: 0.5, HALF_OPEN: 0.8}
"""How likely it is that an operator opens it, and that one closes it."""

_ENDINGS = {CLOSED: (6, 3, 1, 1, 2), OPEN: (3, 3, 1, 1, 1), HALF_OPEN: (1, 6, 2, 2, 1)}
"""How likely it is that a call fails, succeeds, is cancelled, raises what is excluded, and returns what is rejected."""


def _note(events: list[object], old: CircuitState, new: CircuitState) -> None:
    events.append((old, new))


async def _forced(breaker: Any, name: str, token: str) -> None:
    await breaker.force_open()


class CircuitBreakerContract(ClientRules):
    """Certifies a circuit breaker."""

    definition = Definition(
        name="circuit_breaker",
        version="1.0",
        prefix="BRK",
        protocols={
            "": CircuitBreakerProtocol,
            "sliding_window": SlidingWindow,
            "slow_call": SlowCall,
            "manual_control": ManualControl,
            "events": Events,
            "half_open_timeout": HalfOpenTimeout,
            "shared_state": SharedState,
            "retry_after": RetryAfter,
            "result_predicate": ResultPredicate,
            "lifecycle": Lifecycle,
        },
        operations=(
            Operation("execute", lambda p, n, t: p.execute(answers, t), "execute"),
            Operation("force_open", lambda p, n, t: p.force_open(), "force_open", "manual_control", writes=True, wide=True),
            Operation("reset", lambda p, n, t: p.reset(), "reset", "manual_control", writes=True, wide=True),
        ),
        refusals=(
            Operation(
                "execute while it is open",
                lambda p, n, t, opened=None: p.execute(answers, t),
                "execute",
                "manual_control",
                arrange=_forced,
                refusal=CircuitOpenError,
            ),
        ),
        limits=BreakerLimits,
    )
    trial: ClassVar[type[Trial[Any]]] = BreakerTrial

    # Closed.

    @rule("BRK-01")
    async def test_brk_01_a_new_breaker_is_closed(self, t: BreakerTrial) -> None:
        """A new breaker is `CLOSED`, and makes the first call.

        Its `state` is an attribute or a property, and one of `CircuitState`. Catches one that starts half-open, and a state that
        is text or a coroutine.
        """
        for given, breaker in (("of a new breaker", await t.breaker()), ("of one without settings", await t.connect())):
            t.stands(breaker, CLOSED, given)
            await t.succeed(breaker, given="the first call")
            t.stands(breaker, CLOSED, f"{given}, after a success")

    @rule("BRK-02", deadline=60)
    async def test_brk_02_the_result_is_the_operations_own(self, t: BreakerTrial) -> None:
        """The operation is called once, with exactly the arguments given, and its very result is returned.

        Whatever it is called with, it may be named as settings of breakers are; whatever it returns, None, False, an exception or
        what cannot be compared, is a success; and what it returns to be awaited need not be a coroutine. Catches keywords that
        are swallowed, a copied result, `if not result`, and `asyncio.create_task`, which takes coroutines alone.
        """
        breaker = await t.breaker(failure_threshold=2)
        seen: list[tuple[object, object]] = []

        async def operation(*args: object, **kwargs: object) -> object:
            seen.append((args, kwargs))
            return seen

        keywords = dict.fromkeys(("name", "timeout", "key", "func", "args", "kwargs", "tenant_id", "fallback", "state"), "mine")
        call = partial(breaker.execute, operation, 1, None, "three", **keywords)
        t.check_outcome(await attempt(call), seen, None, given="execute with arguments")
        t.same(seen, [((1, None, "three"), keywords)], given="what the operation was called with, time by time")
        for kind, value in RESULTS.items():
            with t.case(f"a result that is {kind}"):
                await t.fail(breaker)
                tried = await attempt(partial(breaker.execute, answers, value))
                t.check_outcome(tried, value, None, given=f"an operation that returns {kind}")
                await t.fail(breaker)
                t.stands(breaker, CLOSED, "after a failure, that success, and a failure, of two in a row")
                await t.succeed(breaker)
        for kind, callable_ in CALLABLES.items():
            with t.case(f"an operation that is {kind}"):
                tried = await attempt(partial(breaker.execute, callable_, seen))
                t.check_outcome(tried, seen, None, given=f"an operation that is {kind}")

    @rule("BRK-03")
    async def test_brk_03_an_exception_leaves_as_it_is(self, t: BreakerTrial) -> None:
        """What the operation raises leaves `execute` as the same object with the same cause, also from the call that opens the
        circuit.

        Catches an exception that is wrapped, made anew, taken out of its group, or replaced by `CircuitOpenError`.
        """
        for kind, error in _errors(t).items():
            with t.case(kind):
                error.__cause__ = cause = LookupError("the cause")
                breaker = await t.breaker(failure_threshold=2)
                for given in ("a failure", "the failure that opens the circuit"):
                    await t.fail_with(breaker, error, given=given)
                    t.check(
                        error.__cause__ is cause,
                        given=f"{given}: its __cause__",
                        expected=describe(cause),
                        observed=error.__cause__,
                    )
                t.stands(breaker, OPEN, f"after two calls that raised {kind}, of two in a row")

    @rule("BRK-04", deadline=60)
    async def test_brk_04_it_opens_at_the_threshold(self, t: BreakerTrial) -> None:
        """The circuit opens at the failure number `failure_threshold` in a row, and not before.

        Whatever they are. Catches a count that is off by one, one for each kind of exception, and a threshold that is not used.
        """
        for threshold in (1, 2, 5, 6, 130):
            with t.case(f"failure_threshold={threshold}"):
                breaker = await t.breaker(failure_threshold=threshold)
                errors = cycle(_errors(t).values())
                for number in range(threshold):
                    t.stands(breaker, CLOSED, f"after {number} failures of {threshold}")
                    await t.fail(breaker, error=next(errors), given=f"failure {number + 1} of {threshold}")
                t.stands(breaker, OPEN, f"after {threshold} failures of {threshold}")

    @rule("BRK-05")
    @unhurried
    async def test_brk_05_an_open_circuit_makes_no_call(self, t: BreakerTrial) -> None:
        """While the circuit is `OPEN`, `execute` raises `CircuitOpenError` without calling the operation, and that is not
        counted.

        Catches a refusal that counts as a failure, or that begins the timeout anew: a service that is asked often would never
        be tried again.
        """
        timeout = await t.unit()
        breaker = await t.breaker(failure_threshold=2, reset_timeout=timeout)
        opened = await t.trip(breaker, timeout, failures=2)
        began = t.now()
        for share in (0.0, 0.3, 0.6, 0.9):
            await t.until(began + share * (opened.until - began))
            for _ in range(3):
                await t.still_rejects(breaker, opened, f"a call after {share:.0%} of the timeout")
            t.still_open(breaker, opened, f"after {share:.0%} of the timeout")
        await t.until(opened.after)
        t.stands(breaker, HALF_OPEN, "after the timeout, in which calls were refused", "a refusal begins no timeout")
        await t.succeed(breaker)
        await t.fail(breaker)
        t.stands(breaker, CLOSED, "after one failure of two, as refusals are not counted")

    @rule("BRK-06")
    async def test_brk_06_a_success_ends_the_row(self, t: BreakerTrial) -> None:
        """A success sets the count of consecutive failures to zero.

        Catches a total count, which opens the circuit of every service that lives long enough.
        """
        breaker = await t.breaker(failure_threshold=3)
        for _ in range(4):
            await t.play(breaker, "ffs", "three failures in a row are too many")
        await t.play(breaker, "ff", "three failures in a row are too many")
        t.stands(breaker, CLOSED, "after `ffs` four times, and `ff`")
        await t.fail(breaker)
        t.stands(breaker, OPEN, "after the third failure in a row")

    @rule("BRK-07")
    async def test_brk_07_calls_run_at_once(self, t: BreakerTrial) -> None:
        """While the circuit is `CLOSED`, any number of calls run at once.

        Two hundred here. Catches a lock that is held during the call: one slow answer holds up everybody.
        """
        breaker = await t.breaker()
        async with t.holding() as holding:
            calls = await holding.begin(*[breaker] * 200)
            for each in calls:
                t.check_made(each, "200 calls at once")
            t.stands(breaker, CLOSED, "while calls are under way")
            for each in calls:
                await each.end(SUCCESS)
        t.stands(breaker, CLOSED, "after 200 calls that succeeded")

    # Open, and half-open.

    @rule("BRK-08")
    @unhurried
    async def test_brk_08_it_is_half_open_after_the_timeout(self, t: BreakerTrial) -> None:
        """The circuit is `OPEN` for `reset_timeout` from the failure that opened it, and then `HALF_OPEN`, which `state` shows by
        itself.

        Whether anybody asks meanwhile or not. Catches a timer that began with the first failure, and a state that changes with
        the next call alone: a dashboard would show an open circuit for ever.
        """
        timeout = await t.unit()
        watched = await t.breaker(failure_threshold=2, reset_timeout=timeout)
        unseen = await t.breaker(failure_threshold=2, reset_timeout=timeout)
        for each in (watched, unseen):
            await t.fail(each)
        await t.wait(0.6 * timeout)
        opened, later = await t.trip(watched, timeout), await t.trip(unseen, timeout)
        began = t.now()
        for share in (0.0, 0.3, 0.6, 0.9, 0.98):
            await t.until(began + share * (opened.until - began))
            for _ in range(3):
                t.still_open(watched, opened, f"after {share:.0%} of the timeout")
        await t.until(later.after)
        for given, each in (("watched", watched), ("that nobody has looked at", unseen)):
            for _ in range(3):
                t.stands(each, HALF_OPEN, f"of a breaker {given}, after the timeout")
            await t.succeed(each)
            t.stands(each, CLOSED, "after a success")

    @rule("BRK-09")
    async def test_brk_09_half_open_lets_few_calls_in(self, t: BreakerTrial) -> None:
        """In `HALF_OPEN` at most `half_open_max_calls` calls are under way, and every other is refused at once.

        Among those that arrive together as the first, too; a refusal frees no place, and a call that ends frees its own. Catches
        a breaker that lets the whole crowd in as soon as its timeout is over, and one that lets the others wait.
        """
        timeout = await t.unit()
        breakers = {
            limit: await t.breaker(reset_timeout=timeout, half_open_max_calls=limit, success_threshold=limit + 2)
            for limit in (1, 2, 3, 11)
        }
        await t.tripped(breakers.values(), timeout)
        for limit, breaker in breakers.items():
            with t.case(f"half_open_max_calls={limit}"):
                async with t.holding() as holding:
                    calls = await holding.begin(*[breaker] * 20)
                    made = [each for each in calls if each.made]
                    t.same(len(made), limit, given="the calls that are made of 20 at once, in HALF_OPEN")
                    for each in calls:
                        if not each.made:
                            error = each.tried and each.tried.error
                            t.check(
                                isinstance(error, CircuitOpenError), given="another", expected="CircuitOpenError", observed=error
                            )
                    for _ in range(limit + 1):
                        await t.reject(breaker, "a call while all places are taken")
                    await made[0].end(SUCCESS)
                    made.append(await holding.make(breaker, "a call once another has ended"))
                    await t.reject(breaker, "a call while all places are taken again")
                    t.stands(breaker, HALF_OPEN, "while fewer calls than needed have succeeded")

    @rule("BRK-10", deadline=60)
    async def test_brk_10_enough_successes_close_it(self, t: BreakerTrial) -> None:
        """In `HALF_OPEN`, `success_threshold` successes close the circuit, with nothing counted.

        Whether calls are made one after the other or at once. Catches old failures that still count, and a threshold that cannot
        be reached where fewer calls may run at once.
        """
        timeout = await t.unit()
        cases = [(most, wanted) for most in (1, 2, 3) for wanted in (1, 2, 3)]
        breakers = [
            await t.breaker(failure_threshold=3, reset_timeout=timeout, half_open_max_calls=most, success_threshold=wanted)
            for most, wanted in cases
        ]
        await t.tripped(breakers, timeout, failures=3)
        for (most, wanted), breaker in zip(cases, breakers, strict=True):
            with t.case(f"half_open_max_calls={most}, success_threshold={wanted}"):
                async with t.holding() as holding:
                    for number in range(wanted):
                        t.stands(breaker, HALF_OPEN, f"after {number} successes of {wanted}")
                        await (await holding.make(breaker, f"call {number + 1} in HALF_OPEN")).end(SUCCESS)
                t.stands(breaker, CLOSED, f"after {wanted} successes of {wanted}")
                await t.fail(breaker, 2)
                t.stands(breaker, CLOSED, "after closing and two failures of three")
                await t.fail(breaker)
                t.stands(breaker, OPEN, "after closing and three failures of three")

    @rule("BRK-11")
    @unhurried
    async def test_brk_11_a_failed_probe_opens_it_again(self, t: BreakerTrial) -> None:
        """One failure in `HALF_OPEN` opens the circuit for another full `reset_timeout`, after which nothing of the last try
        counts.

        However many failures open it when closed, and however often it has opened, in a row or not: with a real clock it opens
        fewer times. Catches a timer that is not started again, a threshold that holds half-open, too, successes of the last try
        that count in the next, and a timeout that grows.
        """
        timeout = await t.unit()
        breaker = await t.breaker(failure_threshold=3, reset_timeout=timeout, success_threshold=2)
        await t.tripped([breaker], timeout, failures=3)
        await t.wait(0.7 * timeout)
        await t.succeed(breaker)
        opened = await t.trip(breaker, timeout)
        began = t.now()
        for share in (0.0, 0.4, 0.9):
            await t.until(began + share * (opened.until - began))
            t.still_open(breaker, opened, f"after a failure in HALF_OPEN and {share:.0%} of the timeout")
            await t.still_rejects(breaker, opened, f"a call after a failure in HALF_OPEN and {share:.0%} of the timeout")
        await t.until(opened.after)
        t.stands(breaker, HALF_OPEN, "after a failure in HALF_OPEN and the timeout")
        await t.succeed(breaker)
        t.stands(breaker, HALF_OPEN, "after one success of two; another was before the failure")
        await t.succeed(breaker)
        t.stands(breaker, CLOSED, "after two successes of two")
        for closed in (False, True) if t.virtual_time else (False,):
            for number in range(12 if t.virtual_time else 4):
                given = f"when it has opened {number + 1} times, {'closed in between' if closed else 'in a row'}"
                opened = await t.trip(breaker, timeout, failures=1 if number and not closed else 3)
                began = t.now()
                await t.until(began + 0.8 * (opened.until - began))
                t.still_open(breaker, opened, f"{given}, after 80% of the timeout")
                await t.until(opened.after)
                t.stands(breaker, HALF_OPEN, f"{given}, after the timeout")
                await t.succeed(breaker, 2 if closed else 0)
            await t.succeed(breaker, 0 if closed else 2)

    @rule("BRK-12", deadline=60)
    async def test_brk_12_a_cancelled_probe_frees_its_place(self, t: BreakerTrial) -> None:
        """A call that is cancelled in `HALF_OPEN` frees its place, wherever it was cancelled, and the next one is made.

        Catches the circuit that stays half-open for ever: several libraries shipped that, and users saw services that never came
        back after a request was cancelled. What a provider has to do about it may end a little later than the call.
        """
        timeout = await t.unit()
        breakers = [await t.breaker(reset_timeout=timeout, half_open_max_calls=limit, success_threshold=1000) for limit in (1, 3)]
        await t.tripped(breakers, timeout)
        for limit, breaker in zip((1, 3), breakers, strict=True):
            with t.case(f"half_open_max_calls={limit}"):
                async with t.holding() as holding:
                    calls = [await holding.make(breaker, "a call in HALF_OPEN") for _ in range(limit)]
                    await calls[0].end(CANCELLED)
                    t.stands(breaker, HALF_OPEN, "after a call was cancelled")
                    await t.admit_soon(breaker, "a call after one was cancelled")
                    for each in calls[1:]:
                        await each.end(CANCELLED)
                for number in range(20):
                    async with t.holding() as holding:
                        [cancelled] = await holding.begin(breaker)
                        await cancelled.end(CANCELLED)
                    await t.admit_soon(breaker, f"a call after {number + 2} were cancelled")
                call = partial(breaker.execute, answers, 1)
                async for step in sweep(partial(_same, call), within=t.cancel_seconds):
                    given = f"a call after one was cancelled at its wait number {step.step + 1}"
                    await t.admit_soon(breaker, given)
                    t.stands(breaker, HALF_OPEN, given)

    # What is neither failure nor success.

    @rule("BRK-13")
    async def test_brk_13_a_cancelled_call_is_not_counted(self, t: BreakerTrial) -> None:
        """A call that is cancelled counts neither as a failure nor as a success.

        Catches `except BaseException`: callers with little patience would open the circuit of a service that works. And catches a
        count that begins anew with a cancellation.
        """
        breaker = await t.breaker(failure_threshold=2, excluded=(ExcludedError,))
        for number in range(1, 6):
            await t.cancel(breaker)
            t.stands(breaker, CLOSED, f"after {number} cancelled calls, where two failures in a row are too many")
        await t.fail(breaker)
        await t.cancel(breaker, 3)
        t.stands(breaker, CLOSED, "after a failure and three cancelled calls")
        # An operation that is not counted either, should it not be cancelled.
        async for each in sweep(partial(_same, partial(breaker.execute, raises, ExcludedError())), within=t.cancel_seconds):
            t.stands(breaker, CLOSED, f"after a failure and a call cancelled at its wait number {each.step + 1}")
        await t.fail(breaker)
        t.stands(breaker, OPEN, "after a failure, cancelled calls, and a failure")

    @rule("BRK-14")
    async def test_brk_14_whose_timeout_it_is_matters(self, t: BreakerTrial) -> None:
        """A `TimeoutError` that the operation raises is a failure; the end of a caller's own timeout is a cancellation.

        Catches both being treated alike: a timeout of the service is what a breaker is for, that of the caller says nothing.
        """
        breaker = await t.breaker(failure_threshold=2)
        for given, call in _timeouts(breaker).items():
            with t.case(given):
                for _ in range(3):
                    tried = await attempt(call)
                    t.check(
                        isinstance(tried.error, TimeoutError), given=given, expected="TimeoutError outside", observed=tried.error
                    )
                t.stands(breaker, CLOSED, f"after {given}, three times, where two failures in a row are too many")
        await t.fail_with(breaker, TimeoutError("of the operation"), given="an operation that raises TimeoutError")
        await t.fail_with(breaker, TimeoutError("of the operation"), given="an operation that raises TimeoutError")
        t.stands(breaker, OPEN, "after two operations that raised TimeoutError")

    @rule("BRK-15", deadline=60)
    async def test_brk_15_what_is_excluded_is_not_counted(self, t: BreakerTrial) -> None:
        """An exception that is `excluded`, or of a subclass, counts neither as a failure nor as a success, and leaves as it is.

        In `HALF_OPEN` it frees the place, and neither closes nor opens. Catches "not found" that opens a circuit, one of the
        classes that is forgotten, and a probe that closes the circuit although nothing has succeeded, as Polly's does.
        """
        timeout = await t.unit()
        excluded = (ExcludedError, OtherExcludedError)
        breaker = await t.breaker(failure_threshold=2, reset_timeout=timeout, excluded=excluded)
        for kind in (ExcludedError, ExcludedSubclassError, OtherExcludedError):
            with t.case(kind.__name__):
                for _ in range(5):
                    await t.fail_with(breaker, kind(t.token()))
                t.stands(breaker, CLOSED, "after five calls that raised what is excluded, where two failures are too many")
        await t.fail(breaker)
        await t.fail_with(breaker, ExcludedError(t.token()))
        await t.tripped([breaker], timeout)
        t.stands(breaker, HALF_OPEN, "after a failure, what is excluded, a failure, and the timeout")
        for kind in (ExcludedError, ExcludedSubclassError, OtherExcludedError):
            await t.fail_with(breaker, kind(t.token()), given="a call in HALF_OPEN that raises what is excluded")
            t.stands(breaker, HALF_OPEN, f"after a call in HALF_OPEN raised {kind.__name__}, which is excluded")
        await t.succeed(breaker, given="a call after one in HALF_OPEN raised what is excluded")
        t.stands(breaker, CLOSED, "after a success")

    # A result is credited to the state that admitted its call.

    @rule("BRK-16")
    @unhurried
    async def test_brk_16_a_late_result_leaves_an_open_circuit(self, t: BreakerTrial) -> None:
        """A call that was made when the circuit was `CLOSED` and ends when it is `OPEN` changes nothing, whatever comes of it.

        Catches a late success that closes it, and a late failure that begins the timeout anew.
        """
        timeout = await t.unit()
        async with t.holding() as holding:
            late: list[tuple[str, FullCircuitBreaker, Held, Opened]] = []
            for how in ENDINGS:
                breaker = await t.breaker(reset_timeout=timeout, excluded=(ExcludedError,))
                call = await holding.make(breaker, "a call that ends late")
                late.append((how, breaker, call, await t.trip(breaker, timeout)))
            for share in (0.5, 0.9):
                await t.wait(0.4 * timeout)
                for how, breaker, call, opened in late:
                    if share < 0.6:
                        await call.end(how)
                    given = f"of an open circuit after a late call that {how}, and {share:.0%} of the timeout"
                    t.still_open(breaker, opened, given)
                    await t.still_rejects(breaker, opened, f"a call {given}")
            await t.until(max(opened.after for _, _, _, opened in late))
            for how, breaker, _, _ in late:
                t.stands(breaker, HALF_OPEN, f"after the timeout, and a late call that {how}")
                await t.succeed(breaker)
                t.stands(breaker, CLOSED, "after a success")

    @rule("BRK-17", deadline=60)
    async def test_brk_17_a_late_result_is_of_another_state(self, t: BreakerTrial) -> None:
        """A call that was made when the circuit was `CLOSED` and ends when it is `HALF_OPEN`, or closed again, changes nothing.

        Neither the state, nor a count, nor a place. Catches a breaker that credits a result to whatever state it is in: one slow
        answer from before the outage closes it, or opens it again.
        """
        timeout = await t.unit()
        settings: dict[str, Any] = {
            "failure_threshold": 2,
            "reset_timeout": timeout,
            "success_threshold": 2,
            "excluded": (ExcludedError,),
        }
        async with t.holding() as holding:
            late: list[tuple[str, FullCircuitBreaker, Held, Held]] = []
            for how in ENDINGS:
                breaker = await t.breaker(**settings)
                calls = [await holding.make(breaker, "a call that ends late") for _ in range(2)]
                late.append((how, breaker, calls[0], calls[1]))
            await t.tripped([breaker for _, breaker, _, _ in late], timeout, failures=2)
            for how, breaker, first, second in late:
                with t.case(f"it {how}"):
                    probe = await holding.make(breaker, "a call in HALF_OPEN")
                    await first.end(how)
                    t.stands(breaker, HALF_OPEN, f"after a late call that {how}")
                    await t.reject(breaker, f"a call in HALF_OPEN, whose place is taken, after a late call that {how}")
                    await probe.end(SUCCESS)
                    t.stands(breaker, HALF_OPEN, f"after one success of two, and a late call that {how}")
                    await t.succeed(breaker)
                    t.stands(breaker, CLOSED, "after two successes of two")
                    await t.fail(breaker)
                    await second.end(how)
                    t.stands(breaker, CLOSED, f"closed again, after one failure of two and a late call that {how}")
                    await t.fail(breaker)
                    t.stands(breaker, OPEN, f"closed again, after a failure, a late call that {how}, and a failure")

    @rule("BRK-18")
    @unhurried
    async def test_brk_18_many_failures_at_once_open_it_once(self, t: BreakerTrial) -> None:
        """Of many calls that fail at once each raises its own exception, and they open the circuit once.

        The timeout is that of the failure which opened it, not of the last. Catches exceptions that get mixed up, and a circuit
        that is opened by each of them.
        """
        timeout = await t.unit()
        breaker = await t.breaker(failure_threshold=3, reset_timeout=timeout)
        async with t.holding() as holding:
            calls = await holding.begin(*[breaker] * 53)
            called = t.now()
            for each in calls[:50]:
                each.tell(FAILURE)
            for each in calls[:50]:
                await each.wait(exactly=True)
            opened = t.opened(called, timeout)
            t.still_open(breaker, opened, "after 50 failures at once, of three in a row")
            await t.wait(0.5 * timeout)
            for each in calls[50:]:
                await each.end(FAILURE)
            t.still_open(breaker, opened, "after three more, half a timeout later")
            await t.until(opened.after)
            t.stands(breaker, HALF_OPEN, "after the timeout, in which further calls failed")
        await t.succeed(breaker)
        await t.fail(breaker, 2)
        t.stands(breaker, CLOSED, "closed again, after two failures of three")

    @rule("BRK-19")
    async def test_brk_19_a_failure_before_anything_is_awaited_counts(self, t: BreakerTrial) -> None:
        """An operation that raises when it is called, before it returns anything to be awaited, fails like any other.

        In `HALF_OPEN` it gives its place back. Catches a call that is made outside of the `try`.
        """
        timeout = await t.unit()
        breaker = await t.breaker(failure_threshold=2, reset_timeout=timeout, excluded=(ExcludedError,))

        async def fail_at_once(error: Exception) -> None:
            def operation() -> Awaitable[object]:
                raise error

            tried = await attempt(partial(breaker.execute, operation))
            t.check_outcome(tried, None, error, given="a plain function that raises when it is called")

        await fail_at_once(OperationError(t.token(), 0))
        t.stands(breaker, CLOSED, "after one failure of two")
        called = t.now()
        await fail_at_once(OperationError(t.token(), 1))
        t.stands(breaker, OPEN, "after two operations that raised when they were called")
        await t.until(t.opened(called, timeout).after)
        await fail_at_once(ExcludedError(t.token()))
        t.stands(breaker, HALF_OPEN, "after an operation raised what is excluded, when it was called")
        await t.fail(breaker, given="a call in HALF_OPEN after another raised what is excluded")
        t.stands(breaker, OPEN, "after a failure in HALF_OPEN")

    @rule("BRK-20")
    async def test_brk_20_whatever_is_raised_frees_the_place(self, t: BreakerTrial) -> None:
        """Whatever a call in `HALF_OPEN` raises, a `BaseException` too, leaves as it is, and frees its place.

        So does a call that awaits what somebody else has cancelled. Whether it is a failure, the contract leaves open. Catches
        `except Exception`, where the place is given back only there.
        """
        timeout = await t.unit()
        breaker = await t.breaker(reset_timeout=timeout)
        await t.tripped([breaker], timeout)
        for number in range(3):
            await t.fail_with(breaker, Custom(t.token()), given=f"call {number + 1} in HALF_OPEN, which raises a BaseException")
            if breaker.state is OPEN:
                await t.wait(t.longest(timeout))
        if _on_asyncio():
            await attempt(partial(breaker.execute, raises, asyncio.CancelledError()))
            if breaker.state is OPEN:
                await t.wait(t.longest(timeout))
        await t.admit_soon(breaker, "a call in HALF_OPEN after others raised a BaseException")
        t.stands(breaker, CLOSED, "after a success")

    @rule("BRK-21")
    async def test_brk_21_anothers_refusal_is_a_failure(self, t: BreakerTrial) -> None:
        """A `CircuitOpenError` that the operation raises, as a call of another breaker does, is a failure like any other.

        Catches a breaker that takes it for a refusal of its own: its circuit never opens.
        """
        outer, inner = await t.breaker(failure_threshold=2), await t.breaker()
        await t.trip(inner, LONG_TIMEOUT)
        raised: list[BaseException] = []

        async def through() -> object:
            try:
                return await inner.execute(answers, 1)
            except CircuitOpenError as error:
                raised.append(error)
                raise

        for number in (1, 2):
            t.stands(outer, CLOSED, f"after {number - 1} refusals of another breaker, of two failures in a row")
            tried = await attempt(partial(outer.execute, through))
            t.same(len(raised), number, given="the operations that called another breaker, which is open")
            t.check_outcome(tried, None, raised[-1], given="an operation that another breaker refuses")
        t.stands(outer, OPEN, "after two refusals of another breaker, of two failures in a row")
        await t.reject(outer, "a call through an open circuit to another")

    @rule("BRK-22")
    async def test_brk_22_an_operation_may_use_its_breaker(self, t: BreakerTrial) -> None:
        """The operation may call through the same breaker: it is made, or refused where there is no place, and never waits.

        Catches a lock that is held during the call, which then waits for itself.
        """
        timeout = await t.unit()
        breaker = await t.breaker(failure_threshold=2, reset_timeout=timeout)

        async def nested(depth: int) -> int:
            return depth if not depth else await breaker.execute(nested, depth - 1)

        asked: list[Attempt[object]] = []

        async def asking() -> bool:
            asked.append(await attempt(partial(t.reject, breaker, "a call by the only call that HALF_OPEN lets in")))
            return True

        async def bounded(operation: Callable[..., Awaitable[object]], *args: object) -> None:
            with anyio.move_on_after(t.answer_seconds) as scope:
                await breaker.execute(operation, *args)
            t.check(
                not scope.cancelled_caught,
                given="an operation that calls through the same breaker",
                expected="it ends",
                observed=Plain(f"it has not ended after {t.answer_seconds:g} s"),
            )

        await bounded(nested, 3)
        await t.tripped([breaker], timeout, failures=2)
        await bounded(asking)
        for each in asked:
            each.result()
        t.stands(breaker, CLOSED, "after a success in HALF_OPEN, during which another call was refused")

    @rule("BRK-23", exclusive=True)
    @unhurried
    async def test_brk_23_the_wall_clock_does_not_matter(self, t: BreakerTrial) -> None:
        """A jump of the wall clock, forward or back, changes nothing.

        Here `time.time` and `datetime.now` of this process are an hour ahead or behind. Catches `datetime.now()` where
        `time.monotonic()` belongs: when the clock is set, circuits close too early, or stay open. Where state is shared, time may
        be that of a store, which other machines use, too: there another breaker is used, and the clock is set right before
        anybody looks.
        """
        timeout = await t.unit()
        for hours in (1, -1):
            with t.case(f"{hours:+} h"):
                breaker, other = await t.breaker(reset_timeout=timeout), await t.breaker()
                opened = await t.trip(breaker, timeout)
                with ExitStack() as jump:
                    jump.enter_context(_wall_clock(3600.0 * hours))
                    await t.succeed(other)
                    if "shared_state" in t.declared:
                        jump.close()
                    t.still_open(breaker, opened, f"after the wall clock jumped by {hours:+} h")
                    await t.still_rejects(breaker, opened, f"a call after the wall clock jumped by {hours:+} h")
                    await t.until(opened.after)
                    t.stands(breaker, HALF_OPEN, f"after the timeout, in which the wall clock jumped by {hours:+} h")

    # sliding_window

    @rule("BRK-24", "sliding_window", deadline=60)
    async def test_brk_24_a_window_of_calls(self, t: BreakerTrial) -> None:
        """With a window of calls the circuit opens once at least `failure_rate` of the last `window_size`, and of at least
        `minimum_calls`, failed.

        Catches `>` for `>=`, a circuit that opens with the first failure, one that still counts failures in a row, and calls that
        never leave the window.
        """
        for size, minimum, rate, results in (
            (10, 4, 1.0, "ffff"),
            (10, 4, 0.5, "ssff"),
            (10, 4, 0.5, "sssfff"),
            (20, 12, 0.5, "ffffffffffff"),
            (4, 4, 0.75, "ffssssfff"),
            (8, 8, 0.5, "s" * 20 + "ffff"),
            (8, 8, 0.75, "fffff" + "s" * 8 + "ffffff"),
            (1, 1, 1.0, "ssf"),
            (3, 1, 1.0, "sffsffsfff"),
            (130, 130, 0.5, "s" * 70 + "f" * 65),
        ):
            with t.case(f"window_size={size}, minimum_calls={minimum}, failure_rate={rate}"):
                breaker = await t.windowed(window_size=size, minimum_calls=minimum, failure_rate=rate)
                await t.play(breaker, results, "successes and failures")
                t.stands(breaker, OPEN, f"after {results}")

    @rule("BRK-25", "sliding_window")
    @unhurried
    async def test_brk_25_a_window_of_time(self, t: BreakerTrial) -> None:
        """With a window of time, what is older than `window_size` seconds does not count, and what is younger does.

        Successes and failures alike, each by its own age. Catches a window that is emptied as a whole from time to time, one that
        forgets failures alone, and one that never forgets.
        """
        size = 2 * await t.unit()
        settings = {"window": "time", "window_size": size, "minimum_calls": 3, "failure_rate": 0.75}
        failed, diluted, aged = [await t.windowed(**settings) for _ in range(3)]
        began = t.now()
        for each in (aged, failed):
            await t.fail(each)
        await t.succeed(diluted, 5)
        gone = t.now() + t.longest(size)
        await t.wait(0.8 * size)
        young = t.now()
        await t.fail(failed)
        await t.fail(aged, 2)
        state = t.state_of(aged)
        t.in_time(began + 0.98 * size)
        t.check_state(
            state, OPEN, f"after three failures, of which the first is {0.8 * size:g} s old, with a window of {size:g} s"
        )
        await t.until(gone)
        await t.fail(failed)
        t.stands(failed, CLOSED, "after three failures, of which one is too old")
        await t.fail(failed)
        state = t.state_of(failed)
        t.in_time(young + 0.9 * size)
        t.check_state(state, OPEN, "after three failures in the window, and one that is too old")
        young = t.now()
        await t.play(diluted, "ff", "successes that are too old")
        await t.fail(diluted)
        state = t.state_of(diluted)
        t.in_time(young + 0.9 * size)
        t.check_state(state, OPEN, "after three failures in the window, and successes that are too old")

    # slow_call

    @rule("BRK-26", "slow_call")
    @unhurried
    async def test_brk_26_slow_calls_open_it(self, t: BreakerTrial) -> None:
        """The circuit opens once at least `slow_call_rate` of the calls in the window took `slow_call_duration` or longer, though
        they succeed.

        In `HALF_OPEN` a slow success is a failure. Catches a breaker that measures only what fails, and one that measures nothing
        in `HALF_OPEN`.
        """
        unit = await t.unit()
        settings = {"window_size": 8, "minimum_calls": 2, "slow_call_duration": unit, "reset_timeout": unit}
        half = [await t.windowed(**settings, slow_call_rate=0.5, failure_rate=1.0) for _ in range(2)]
        whole = await t.windowed(**settings, slow_call_rate=1.0, failure_rate=1.0)
        async with t.holding() as holding:
            for each in (half[0], whole):
                await t.quick(each, unit)
            await t.fail(half[1])
            called = t.now()
            await t.fail(half[1])
            await t.until(t.opened(called, unit).after)
            calls = [await holding.make(each, "a call that takes long") for each in (*half, whole)]
            await t.wait(t.longest(unit))
            called = t.now()
            for call in calls:
                await call.end(SUCCESS)
            opened = t.opened(called, unit)
            t.still_open(half[0], opened, "after a quick success and a slow one, where half may be slow")
            t.still_open(half[1], opened, "after a slow success in HALF_OPEN")
            t.stands(whole, CLOSED, "after a quick success and a slow one, where all have to be slow")

    # manual_control

    @rule("BRK-27", "manual_control")
    @unhurried
    async def test_brk_27_an_operator_decides(self, t: BreakerTrial) -> None:
        """After `force_open` the circuit is `OPEN` until `reset`, however long that is, and after `reset` it is `CLOSED`, with
        nothing counted.

        Whatever it was before. Catches the timer of the time before, which opens it half or ends the next timeout early.
        """
        timeout = await t.unit()
        settings: dict[str, Any] = {"failure_threshold": 2, "reset_timeout": timeout}
        forced, forced_again, closed, tripped = [await t.breaker(**settings) for _ in range(4)]
        await t.fail(forced)
        await forced.force_open()
        first = [await t.trip(each, timeout, 2) for each in (forced_again, closed, tripped)][-1]
        await forced_again.force_open()
        await closed.reset()
        t.stands(closed, CLOSED, "after it had opened, and `reset`")
        await t.wait(0.6 * timeout)
        await tripped.reset()
        second = await t.trip(tripped, timeout, 2)
        await t.until(first.after)
        t.still_open(tripped, second, "while a second timeout runs, of which `reset` had ended the first")
        await t.until(second.after)
        t.stands(tripped, HALF_OPEN, "after that second timeout")
        t.stands(closed, CLOSED, "after it had opened, `reset`, and the time of a timeout")
        for each in (forced, forced_again):
            t.stands(each, OPEN, "after `force_open` and the time of two timeouts")
            await t.reject(each, "a call after `force_open` and the time of two timeouts")
            await each.reset()
            t.stands(each, CLOSED, "after `reset`")
        for each in (forced, forced_again, closed):
            await t.fail(each)
            t.stands(each, CLOSED, "after `reset` and one failure of two")

    # events

    @rule("BRK-28", "events")
    async def test_brk_28_each_change_is_told_once(self, t: BreakerTrial) -> None:
        """`on_transition` is called once for each change of state, in order; it may look at the breaker, and what it raises harms
        nobody.

        Catches changes that are told twice or not at all, a listener whose exception takes the place of a result, and one that is
        told before the change, where a look at the state begins it anew.
        """
        timeout = await t.unit()
        events: dict[str, list[object]] = {"quiet": [], "raising": [], "looking": []}
        looked: list[object] = []

        def listener(kind: str, old: CircuitState, new: CircuitState) -> None:
            events[kind].append((old, new))
            if kind == "raising":
                raise LookupError("raised by a listener")
            if kind == "looking" and kind in breakers:
                looked.append(breakers[kind].state)

        breakers: dict[str, FullCircuitBreaker] = {}
        for kind in events:
            breakers[kind] = await t.breaker(reset_timeout=timeout, on_transition=partial(listener, kind))
        async with t.holding() as holding:
            calls = [await holding.make(each, "a call") for each in breakers.values() for _ in range(9)]
            for each in calls:
                each.tell(FAILURE)
            for each in calls:
                await each.wait()
        await t.wait(t.longest(timeout))
        for breaker in breakers.values():
            t.stands(breaker, HALF_OPEN, "after the timeout")
        await t.tripped(breakers.values(), timeout)
        expected = [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
        for kind, breaker in breakers.items():
            with t.case(f"a {kind} listener"):
                t.stands(breaker, HALF_OPEN, "after a failure in HALF_OPEN and the timeout")
                await t.succeed(breaker)
                t.stands(breaker, CLOSED, "after a success in HALF_OPEN")
                await t.told(events[kind], expected, "the changes that are told")
        strange = [each for each in looked if not isinstance(each, CircuitState)]
        t.check(not strange, given="`state`, asked by a listener", expected="a CircuitState", observed=strange[:1])

    # half_open_timeout

    @rule("BRK-29", "half_open_timeout")
    @unhurried
    async def test_brk_29_a_call_that_hangs_gives_its_place_back(self, t: BreakerTrial) -> None:
        """A call that has hung for `half_open_timeout` in `HALF_OPEN` gives its place to another, and not before.

        The time counts from that call. Catches the circuit that stays half-open as long as a service hangs, and a time that
        counts from the beginning of `HALF_OPEN`.
        """
        unit = await t.unit()
        breaker = await t.breaker(reset_timeout=unit, half_open_timeout=unit)
        await t.tripped([breaker], unit)
        t.stands(breaker, HALF_OPEN, "after the timeout")
        await t.wait(0.8 * unit)
        async with t.holding() as holding:
            called = t.now()
            call = await holding.make(breaker, "a call in HALF_OPEN, which hangs")
            hung = t.opened(called, unit)
            for share in (0.3, 0.9):
                await t.until(called + share * (hung.until - called))
                await t.still_rejects(breaker, hung, f"a call after another has hung for {share:.0%} of half_open_timeout")
            await t.until(hung.after)
            t.stands(breaker, HALF_OPEN, "after a call has hung for half_open_timeout")
            await t.succeed(breaker, given="a call after another has hung for half_open_timeout")
            await call.end(SUCCESS)
            t.stands(breaker, CLOSED, "after a success, and the late one of the call that had hung")

    # shared_state

    @rule("BRK-30", "shared_state")
    @unhurried
    async def test_brk_30_breakers_of_one_name_are_one(self, t: BreakerTrial) -> None:
        """Breakers with one `name` open, let calls in and close as one, within `staleness`.

        Failures count together. Catches a state that each process has for itself, and calls that each of many processes lets in
        to a service that is just coming back.
        """
        timeout, name = await t.shared_timeout(), t.key()
        one, other = [await t.breaker(name=name, failure_threshold=2, reset_timeout=timeout) for _ in range(2)]
        await t.fail(one)
        await t.settle()
        opened = await t.trip(other, timeout)
        await t.settle()
        for each in (one, other):
            t.still_open(each, opened, "after a failure of each of two breakers of one name")
        await t.until(opened.after)
        await t.settle()
        for each in (one, other):
            t.stands(each, HALF_OPEN, "after the timeout, on each of two breakers of one name")
        async with t.holding() as holding:
            if t.numbers().staleness:
                probe = await holding.make(one, "a call in HALF_OPEN")
                await t.settle()
            else:
                calls = await holding.begin(*[one, other] * 5)
                made = [each for each in calls if each.made]
                t.same(len(made), 1, given="the calls that are made of 10 at once, by two breakers of one name in HALF_OPEN")
                probe = made[0]
            for each in (one, other):
                await t.reject(each, "a call while another breaker of the name has the only place")
            await probe.end(SUCCESS)
        await t.settle()
        for each in (one, other):
            t.stands(each, CLOSED, "after a success in HALF_OPEN by one of two breakers of one name")
            await t.succeed(each)

    @rule("BRK-31", "shared_state")
    async def test_brk_31_calls_of_one_name_run_at_once(self, t: BreakerTrial) -> None:
        """Calls through several breakers of one `name` run at once.

        Catches a lock of the store that is held during the call: it serialises a service over all its processes.
        """
        name = t.key()
        breakers = [await t.breaker(name=name) for _ in range(2)]
        async with t.holding() as holding:
            for call in await holding.begin(*breakers * 10):
                t.check_made(call, "20 calls at once through two breakers of one name")

    @rule("BRK-32", "shared_state")
    async def test_brk_32_a_lost_store_takes_no_result(self, t: BreakerTrial) -> None:
        """A call whose store gets out of reach while it is under way returns its own result, or raises its own exception.

        Catches a breaker whose own report fails in the place of the call: an order is placed, and the customer is told that it
        was not. Once the store is back, calls are made again.
        """
        settings = {"name": t.key(), "failure_threshold": 1000, "reset_timeout": LONG_TIMEOUT}
        async with t.faulty(**settings) as (breaker, cut, heal):
            async with t.holding() as holding:
                calls = [await holding.make(breaker, "a call") for _ in range(2)]
                await cut()
                for call, how in zip(calls, (SUCCESS, FAILURE), strict=True):
                    with t.case(f"it {how}"):
                        call.tell(how)
                        await call.wait(outage=True)
                await heal()
            works = await t.eventually(partial(breaker.execute, answers, True))
            t.check(
                works is True, given="a call once the store is back", expected="it is made", observed=Plain("UnavailableError")
            )

    @rule("BRK-33", "retry_after")
    @unhurried
    async def test_brk_33_a_refusal_tells_how_long_to_wait(self, t: BreakerTrial) -> None:
        """`retry_after` of a refusal is the time, in seconds, that was left when the call was refused.

        It falls, and is over when the circuit is half-open. Catches the constant `reset_timeout`, milliseconds, and a moment in
        place of a time.
        """
        timeout = await t.unit()
        breaker = await t.breaker(reset_timeout=timeout)
        for again in (False, True):
            opened = await t.trip(breaker, timeout)
            began, last = t.now(), float("inf")
            for share in (0.0, 0.5, 0.95):
                await t.until(began + share * (opened.until - began))
                before = t.now()
                error = await t.still_rejects(breaker, opened, "a call while it is open")
                given = f"`retry_after` after {share:.0%} of a {'second ' * again}timeout of {timeout:g} s"
                left = t.check_left(error, opened, before, given)
                t.check(left < last, given=f"{given}, as against before", expected=f"less than {last:g} s", observed=left)
                last = left
            await t.until(opened.after)
        async with t.holding() as holding:
            await holding.make(breaker, "a call in HALF_OPEN")
            error = await t.reject(breaker, "a call in HALF_OPEN, whose place is taken")
            t.check(
                error.retry_after is None or error.retry_after >= 0,
                given="`retry_after` of a refusal in HALF_OPEN",
                expected="None, or no negative number",
                observed=error.retry_after,
            )

    @rule("BRK-34", "result_predicate")
    async def test_brk_34_a_result_may_be_a_failure(self, t: BreakerTrial) -> None:
        """A result of which `result_predicate` says False counts as a failure, and is returned all the same.

        It is asked about results, once each, and about no exception. Catches a result that is replaced by an exception, and one
        that counts twice.
        """
        seen: list[object] = []

        def fine(value: object) -> bool:
            seen.append(value)
            return value is not bad

        bad, good = "status 503", "status 200"
        breaker = await t.breaker(failure_threshold=3, result_predicate=fine)
        for value in (bad, bad, good, bad, bad):
            tried = await attempt(partial(breaker.execute, answers, value))
            t.check_outcome(tried, value, None, given="a call whose result is judged")
            t.stands(breaker, CLOSED, "after two bad results, a good one, and two bad ones, where three in a row are too many")
        t.check(
            all(one is other for one, other in zip(seen, (bad, bad, good, bad, bad), strict=False)) and len(seen) == 5,
            given="what `result_predicate` was asked",
            expected=f"five results: {[bad, bad, good, bad, bad]}",
            observed=seen,
        )
        await t.fail(breaker)
        t.stands(breaker, OPEN, "after two bad results and an exception")
        t.same(len(seen), 5, given="the questions to `result_predicate` after five results and an exception")

    @rule("BRK-35", deadline=60)
    async def test_brk_35_each_refusal_is_an_exception_of_its_own(self, t: BreakerTrial) -> None:
        """Each refusal raises an exception of its own, whose traceback and causes are no longer than those of the first.

        Catches one instance that is raised again and again: its traceback grows with each refusal, and holds every caller's
        locals.
        """
        breaker = await t.breaker()
        await t.fail(breaker)
        errors = [await t.reject(breaker, "a call while it is open") for _ in range(100)]
        distinct = len({id(each) for each in errors})
        t.check(distinct == 100, given="100 refusals", expected="100 exceptions", observed=Plain(str(distinct)))
        first, last = _length(errors[0]), _length(errors[-1])
        t.check(
            last <= first + 2,
            given="the traceback of refusal number 100, with its causes",
            expected=f"about {first} frames, as the first had",
            observed=Plain(f"{last} frames"),
        )

    @rule("BRK-36", "validation")
    async def test_brk_36_impossible_settings_are_refused(self, t: BreakerTrial) -> None:
        """A breaker with a setting that cannot be is refused with `InvalidArgumentError` when it is made.

        A count below 1 or that is no whole number, a time that is negative or not finite, a share above 1, a window of another
        kind. Catches a threshold of 0, which is never reached or always is.
        """
        for setting, settings in _bad_settings(t.declared):
            given = f"make_provider({', '.join(f'{name}={describe(value)}' for name, value in settings.items())})"
            with t.case(setting):
                await t.refused_at_connect(InvalidArgumentError, given=given, **settings)

    @rule("BRK-37", "limits")
    async def test_brk_37_a_short_timeout_is_rounded_up(self, t: BreakerTrial) -> None:
        """A `reset_timeout` shorter than `min_ttl` is taken, and is over once `min_ttl` and `ttl_resolution` are.

        A timeout that is no multiple of anything is over by its own time. Catches a provider that refuses what is short, rounds
        it to none, or rounds by more than it says.
        """
        await t.connect()
        least = t.numbers().min_ttl
        breakers = {}
        for timeout in [share * (least or 0.1) for share in (0.01, 0.5, 1.0, 1.37)]:
            tried = await attempt(partial(t.breaker, reset_timeout=timeout))
            if isinstance(tried.error, HookError) and isinstance(tried.error.__cause__, InvalidArgumentError):
                t.fail_rule(
                    given=f"make_provider(reset_timeout={timeout:g})",
                    expected="a provider",
                    observed=describe_error(tried.error.__cause__),
                )
            breakers[timeout] = tried.result()
        opened = []
        for timeout, breaker in breakers.items():
            called = t.now()
            await t.fail(breaker)
            state, ends = t.state_of(breaker), t.opened(called, timeout)
            opened.append(ends)
            if t.now() < called + 0.9 * timeout:
                t.check_state(state, OPEN, f"with a timeout of {timeout:g} s, just opened")
        await t.until(max(each.after for each in opened))
        for timeout, breaker in breakers.items():
            t.stands(breaker, HALF_OPEN, f"after a timeout of {timeout:g} s, where min_ttl is {least:g} s")

    @rule("BRK-38")
    async def test_brk_38_breakers_know_nothing_of_each_other(self, t: BreakerTrial) -> None:
        """Breakers that were not given one name are apart: each has its own state, settings and places.

        Catches state in a module or a class, and a default that is a mutable object.
        """
        timeout = await t.unit()
        one, other, third = [
            await t.breaker(failure_threshold=threshold, reset_timeout=timeout, excluded=excluded)
            for threshold, excluded in ((2, (ExcludedError,)), (3, ()), (2, ()))
        ]
        await t.fail(one)
        await t.fail(other)
        await t.fail_with(other, ExcludedError(t.token()), given="what another breaker excludes")
        t.stands(other, CLOSED, "after two failures of three")
        t.stands(third, CLOSED, "of a breaker that was not used, while others fail")
        await t.fail(one)
        t.stands(one, OPEN, "after two failures of two")
        t.stands(other, CLOSED, "while another breaker is open")
        await t.succeed(third, given="a call while another breaker is open")
        await t.fail(other)
        t.stands(other, OPEN, "after three failures of three, of which one is what another breaker excludes")
        called = t.now()
        await t.fail(third, 2)
        await t.until(t.opened(called, timeout).after)
        async with t.holding() as holding:
            for each in (one, third):
                await holding.make(each, "a call in HALF_OPEN, while another breaker has its own under way")

    @rule("BRK-39")
    async def test_brk_39_a_long_timeout_is_kept(self, t: BreakerTrial) -> None:
        """A `reset_timeout` of 30 days, or of 60, is kept.

        Catches milliseconds in 31 or 32 bits, which are over at once or never. A suite with a clock of its own waits until the
        day before the last.
        """
        breakers = [(days, await t.breaker(reset_timeout=days * 86_400.0)) for days in (30, 60)]
        opened = [await t.trip(breaker, days * 86_400.0) for days, breaker in breakers]
        for (days, breaker), ends in zip(breakers, opened, strict=True):
            if t.virtual_time:
                await t.until(ends.until - 86_400.0)
            t.stands(breaker, OPEN, f"with a timeout of {days} days, before that is over")
            await t.reject(breaker, f"a call with a timeout of {days} days, before that is over")
            if t.virtual_time:
                await t.until(ends.after)
                t.stands(breaker, HALF_OPEN, f"after a timeout of {days} days")

    @rule("BRK-40")
    async def test_brk_40_an_operation_has_its_callers_context(self, t: BreakerTrial) -> None:
        """In every state the operation sees the context variables of its caller, as they are there.

        Those of each of several callers at once, and half-open, too. Whether the caller sees what the operation sets is left
        open: it may run in a task of its own. Catches a worker that makes the calls of all: a trace, a tenant or a request's id
        is lost, or is another's.
        """
        timeout = await t.unit()
        closed, half = await t.breaker(), await t.breaker(reset_timeout=timeout)

        async def seen(barrier: list[str], count: int, token: str) -> str:
            barrier.append(token)
            while len(barrier) < count:
                await anyio.sleep(0.001)
            return CALLER.get()

        async def calling(breaker: CircuitBreakerProtocol, barrier: list[str], count: int) -> None:
            token = t.token()
            CALLER.set(token)
            given = "a context variable that the caller has set"
            t.same(await breaker.execute(seen, barrier, count, token), token, given=given)

        await t.tripped([half], timeout)
        for state, breaker, count in ((CLOSED, closed, 5), (HALF_OPEN, half, 1)):
            barrier: list[str] = []
            with t.case(state.name), anyio.fail_after(t.answer_seconds):
                for each in await together([partial(calling, breaker, barrier, count)] * count):
                    each.result()

    @rule("BRK-41", deadline=60)
    @unhurried
    async def test_brk_41_a_late_probe_is_of_another_state(self, t: BreakerTrial) -> None:
        """A call that was made in `HALF_OPEN` and ends after that changes nothing: no state, no count, no timeout, no place.

        A call of an earlier `HALF_OPEN` that still hangs takes no place in a later one. Catches the counter of places that goes
        below zero, so that a later `HALF_OPEN` lets more calls in, and the semaphore that a hanging call keeps.
        """
        timeout = await t.unit()
        settings: dict[str, Any] = {
            "reset_timeout": timeout,
            "half_open_max_calls": 3,
            "success_threshold": 2,
            "excluded": (ExcludedError,),
        }
        breakers = {how: await t.breaker(**settings) for how in ENDINGS}
        await t.tripped(breakers.values(), timeout)
        async with t.holding() as holding:
            late = {how: [await holding.make(each, "a call in HALF_OPEN") for _ in range(2)] for how, each in breakers.items()}
            opened = {how: await t.trip(each, timeout) for how, each in breakers.items()}
            for share in (0.5, 0.9):
                await t.wait(0.4 * timeout)
                for how, breaker in breakers.items():
                    if share < 0.6:
                        await late[how][0].end(how)
                    t.still_open(breaker, opened[how], f"after a failure in HALF_OPEN, and a late call that {how}")
            await t.until(max(each.after for each in opened.values()))
            for how, breaker in breakers.items():
                with t.case(f"it {how}"):
                    probes = [await holding.make(breaker, "a call in HALF_OPEN, while one of an earlier hangs") for _ in range(3)]
                    await t.reject(breaker, "a call in HALF_OPEN, whose places are taken")
                    await late[how][1].end(how)
                    await t.reject(breaker, f"a call in HALF_OPEN, whose places are taken, after a late call that {how}")
                    await probes[0].end(SUCCESS)
                    t.stands(breaker, HALF_OPEN, f"after one success of two, and a late call that {how}")
                    await probes[1].end(SUCCESS)
                    t.stands(breaker, CLOSED, "after two successes of two")
                    await probes[2].end(how)
                    t.stands(breaker, CLOSED, f"after a call that was made in HALF_OPEN and {how}")

    @rule("BRK-42", "sliding_window")
    async def test_brk_42_a_window_holds_its_own_results_alone(self, t: BreakerTrial) -> None:
        """What is neither failure nor success is in no window, nor is a late result, and closing begins with an empty one.

        Catches cancelled calls that dilute the rate, and failures from before the outage that open the circuit with the first one
        after it.
        """
        timeout = await t.unit()
        settings = {
            "window_size": 20,
            "minimum_calls": 4,
            "failure_rate": 0.75,
            "reset_timeout": timeout,
            "excluded": (ExcludedError,),
        }
        breaker = await t.windowed(**settings)
        async with t.holding() as holding:
            late = [await holding.make(breaker, "a call that ends late") for _ in range(4)]
            await t.cancel(breaker, 5)
            for _ in range(5):
                await t.fail_with(breaker, ExcludedError(t.token()))
            await t.play(breaker, "fff", "ten calls that are not counted, and failures, of which four are needed")
            called = t.now()
            await t.fail(breaker)
            t.stands(breaker, OPEN, "after four failures, and ten calls that are not counted")
            await t.until(t.opened(called, timeout).after)
            await t.succeed(breaker)
            await t.play(breaker, "f", "a success in HALF_OPEN")
            for each in late:
                await each.end(FAILURE)
            await t.play(breaker, "ff", "a success in HALF_OPEN, a failure, and four late ones")
            t.stands(breaker, CLOSED, "after it was closed again, and three failures of four")
            await t.fail(breaker)
            t.stands(breaker, OPEN, "after it was closed again, and four failures of four")

    @rule("BRK-43", "slow_call")
    @unhurried
    async def test_brk_43_a_slow_call_has_to_count(self, t: BreakerTrial) -> None:
        """A slow call that was cancelled, or raises what is excluded, is not counted as slow; one that fails is.

        In `HALF_OPEN`, too; a quick success closes it. Catches the time that is measured in a `finally`, whatever came of the
        call.
        """
        unit = await t.unit()
        settings = {
            "window_size": 20,
            "minimum_calls": 2,
            "slow_call_duration": unit,
            "slow_call_rate": 0.5,
            "failure_rate": 1.0,
            "reset_timeout": unit,
            "excluded": (ExcludedError,),
        }
        neutral, failing, half = [await t.windowed(**settings) for _ in range(3)]
        await t.quick(failing, unit)
        await t.fail(half)
        await t.tripped([half], unit)
        async with t.holding() as holding:
            slow = [await holding.make(neutral, "a call that takes long") for _ in range(4)]
            fails = await holding.make(failing, "a call that takes long")
            probe = await holding.make(half, "a call in HALF_OPEN that takes long")
            await t.wait(t.longest(unit))
            for number, each in enumerate(slow):
                await each.end(CANCELLED if number % 2 else EXCLUDED)
            t.stands(neutral, CLOSED, "after slow calls that were cancelled, or raised what is excluded")
            await t.quick(neutral, unit)
            t.stands(neutral, CLOSED, "after slow calls that are not counted, and a quick one")
            called = t.now()
            await fails.end(FAILURE)
            t.still_open(failing, t.opened(called, unit), "after a quick success and a slow failure, where half may be slow")
            await probe.end(EXCLUDED)
            t.stands(half, HALF_OPEN, "after a slow call that raised what is excluded")
        await t.quick(half, unit)
        t.stands(half, CLOSED, "after a quick success in HALF_OPEN")

    @rule("BRK-44", "result_predicate")
    async def test_brk_44_a_predicate_is_asked_half_open_too(self, t: BreakerTrial) -> None:
        """In `HALF_OPEN` a result of which `result_predicate` says False opens the circuit again, and a predicate that raises
        frees the place.

        Of what is excluded the predicate is not asked. Catches a probe that answers with an error page and closes the circuit.
        """
        timeout = await t.unit()

        def fine(value: object) -> bool:
            if value == "raises":
                raise LookupError("raised by a predicate")
            return value != "bad"

        settings: dict[str, Any] = {"reset_timeout": timeout, "result_predicate": fine, "excluded": (ExcludedError,)}
        bad, raising, good = [await t.breaker(**settings) for _ in range(3)]
        await t.tripped((bad, raising, good), timeout)
        tried = await attempt(partial(bad.execute, answers, "bad"))
        t.check_outcome(tried, "bad", None, given="a call in HALF_OPEN with a bad result")
        t.stands(bad, OPEN, "after a bad result in HALF_OPEN")
        for _ in range(2):
            await attempt(partial(raising.execute, answers, "raises"))
            if raising.state is OPEN:
                await t.wait(t.longest(timeout))
        await t.succeed(raising, given="a call after others in HALF_OPEN, whose predicate raised")
        await t.fail_with(good, ExcludedError(t.token()))
        t.stands(good, HALF_OPEN, "after a call in HALF_OPEN raised what is excluded")
        await t.succeed(good)
        t.stands(good, CLOSED, "after a good result in HALF_OPEN")

    @rule("BRK-45", "manual_control")
    async def test_brk_45_an_operator_decides_over_calls_under_way(self, t: BreakerTrial) -> None:
        """A call that is under way at `force_open` or `reset` ends as it would, and changes nothing afterwards.

        In `HALF_OPEN`, too: its place is not taken from a later one, nor given to it twice. Catches a probe that closes what an
        operator has opened.
        """
        timeout = await t.unit()
        closed, half, reset = [await t.breaker(reset_timeout=timeout) for _ in range(3)]
        await t.tripped((half, reset), timeout)
        async with t.holding() as holding:
            calls = [await holding.make(closed, "a call") for _ in range(3)]
            probes = [await holding.make(each, "a call in HALF_OPEN") for each in (half, reset)]
            await closed.force_open()
            await half.force_open()
            await calls[0].end(SUCCESS)
            await calls[1].end(FAILURE)
            await probes[0].end(SUCCESS)
            for each in (closed, half):
                t.stands(each, OPEN, "after `force_open`, and calls that were under way")
                await t.reject(each, "a call after `force_open`, and calls that were under way")
            await closed.reset()
            await calls[2].end(FAILURE)
            t.stands(closed, CLOSED, "after `reset`, and a call from before that failed")
            await reset.reset()
            t.stands(reset, CLOSED, "after `reset` in HALF_OPEN")
            await t.tripped([reset], timeout)
            await holding.make(reset, "a call in HALF_OPEN, while one of an earlier hangs")
            await probes[1].end(FAILURE)
            t.stands(reset, HALF_OPEN, "after a call of an earlier HALF_OPEN failed")
            await t.reject(reset, "a call in HALF_OPEN, whose place is taken")

    @rule("BRK-46", "events", "manual_control")
    async def test_brk_46_what_an_operator_changes_is_told(self, t: BreakerTrial) -> None:
        """What `force_open` and `reset` change is told as any other change, and what they do not change is not.

        Catches an operator's change that no dashboard shows, and a `reset` of a closed circuit that is told.
        """
        timeout = await t.unit()
        events: list[object] = []
        breaker = await t.breaker(reset_timeout=timeout, on_transition=lambda old, new: events.append((old, new)))
        for call in (breaker.reset, breaker.force_open, breaker.force_open, breaker.reset, breaker.reset):
            await call()
        await t.tripped([breaker], timeout)
        t.stands(breaker, HALF_OPEN, "after the timeout")
        await breaker.force_open()
        await t.wait(t.longest(timeout))
        t.stands(breaker, OPEN, "after `force_open` in HALF_OPEN")
        await breaker.reset()
        await t.tripped([breaker], timeout)
        t.stands(breaker, HALF_OPEN, "after the timeout")
        await breaker.reset()
        expected = [(CLOSED, OPEN), (OPEN, CLOSED)]
        expected += [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (OPEN, CLOSED)]
        expected += [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
        await t.told(events, expected, "the changes that are told")

    @rule("BRK-47", "half_open_timeout")
    @unhurried
    async def test_brk_47_a_place_is_given_once(self, t: BreakerTrial) -> None:
        """A call that has given its place to another and then ends frees no place, and each call has a time of its own.

        Catches the counter of places that goes down once for the timeout, and once more for the end.
        """
        unit = await t.unit()
        breaker = await t.breaker(reset_timeout=unit, half_open_max_calls=2, half_open_timeout=unit, success_threshold=1000)
        await t.tripped([breaker], unit)
        async with t.holding() as holding:
            hung, ends = [], []
            for _ in range(2):
                called = t.now()
                hung.append(await holding.make(breaker, "a call in HALF_OPEN, which hangs"))
                ends.append(t.opened(called, unit))
                await t.wait(0.5 * unit if len(hung) < 2 else 0.0)
            await t.until(ends[0].after)
            called = t.now()
            others = [await holding.make(breaker, "a call after one of two has hung for half_open_timeout")]
            busy = t.opened(called, unit)
            await t.still_rejects(breaker, ends[1], "a call while another has hung for less than half_open_timeout")
            await t.until(ends[1].after)
            others.append(await holding.make(breaker, "a call after both have hung for half_open_timeout"))
            for each in hung:
                await each.end(CANCELLED)
                await t.still_rejects(breaker, busy, "a call after one that had hung, and given its place away, has ended")
            t.stands(breaker, HALF_OPEN, "after calls that had hung were cancelled")
            await others[1].end(SUCCESS)
            await holding.make(breaker, "a call after one has ended that had not given its place away")
            await t.still_rejects(breaker, busy, "a call while the places are taken again")

    @rule("BRK-48", "shared_state")
    async def test_brk_48_other_names_are_other_breakers(self, t: BreakerTrial) -> None:
        """Breakers of different names are apart, and one that is made later has the state of its name.

        Names that begin alike, differ in case, or hold a separator. Catches a constructor that closes the circuit of all, a name
        that is used as a pattern, and one that is folded.
        """
        name = f"{t.key()}-a"
        first = await t.breaker(name=name)
        others = {
            other: await t.breaker(name=other)
            for other in (f"{name}a", f"{name}:1", name[:-1], f"{name[:-1]}A", f"{name[:-1]}*", f"{name} ")
        }
        nameless = await t.breaker()
        await t.fail(first)
        await t.settle()
        for other, breaker in others.items():
            with t.case(describe(other)):
                t.stands(breaker, CLOSED, f"of breaker {describe(other)}, while {describe(name)} is open")
                await t.succeed(breaker, given=f"a call through breaker {describe(other)}, while {describe(name)} is open")
        t.stands(nameless, CLOSED, "of a breaker without a name, while one with a name is open")
        later = await t.breaker(name=name)
        await t.settle()
        t.stands(later, OPEN, "of a breaker that is made while that of its name is open")
        await t.reject(later, "a call through a breaker that is made while that of its name is open")
        t.stands(first, OPEN, "after another breaker of its name was made")

    @rule("BRK-49", "shared_state")
    @unhurried
    async def test_brk_49_late_results_are_late_for_all(self, t: BreakerTrial) -> None:
        """A call that ends after another breaker of its name has changed the state changes nothing; a cancelled one frees its
        place for all.

        Catches a client that credits a result to the state that it has last seen, and places that only their owner can free.
        """
        timeout, name = await t.shared_timeout(), t.key()
        settings: dict[str, Any] = {"name": name, "reset_timeout": timeout, "success_threshold": 2, "excluded": (ExcludedError,)}
        one, other = [await t.breaker(**settings) for _ in range(2)]
        async with t.holding() as holding:
            late = {how: await holding.make(one, "a call that ends late") for how in (SUCCESS, FAILURE)}
            opened = await t.trip(other, timeout)
            await t.settle()
            await late[SUCCESS].end(SUCCESS)
            await t.settle()
            for each in (one, other):
                t.still_open(each, opened, "after another breaker of its name opened it, and a late call succeeded")
            await t.until(opened.after)
            await t.settle()
            await late[FAILURE].end(FAILURE)
            await t.settle()
            for each in (one, other):
                t.stands(each, HALF_OPEN, "after the timeout, and a late call that failed")
            probe = await holding.make(one, "a call in HALF_OPEN")
            await t.settle()
            await t.reject(other, "a call while another breaker of its name has the only place")
            await probe.end(CANCELLED)
            await t.settle()
            await t.admit_soon(other, "a call after that of another breaker of its name was cancelled")
            await t.settle()
            await t.succeed(one)
        await t.settle()
        for each in (one, other):
            t.stands(each, CLOSED, "after one success by each of two breakers of one name, of two")

    @rule("BRK-50", "shared_state", "manual_control")
    async def test_brk_50_an_operator_decides_for_all(self, t: BreakerTrial) -> None:
        """`force_open` and `reset` hold for every breaker of the `name`, and who made them does not matter.

        Catches an operator's command that reaches the process in which it was given.
        """
        timeout, name = await t.shared_timeout(), t.key()
        one, other = [await t.breaker(name=name, failure_threshold=2, reset_timeout=timeout) for _ in range(2)]
        await t.fail(other)
        await one.force_open()
        await t.settle()
        await t.wait(t.longest(timeout))
        for each in (one, other):
            t.stands(each, OPEN, "after `force_open` of one of two breakers of one name, and the timeout")
            await t.reject(each, "a call after `force_open` of one of two breakers of one name, and the timeout")
        await other.reset()
        await t.settle()
        for each in (one, other):
            t.stands(each, CLOSED, "after `reset` of the other of two breakers of one name")
            await t.succeed(each, given="a call after `reset` of the other of two breakers of one name")

    @rule("BRK-51", "shared_state", "retry_after")
    @unhurried
    async def test_brk_51_all_know_how_long_to_wait(self, t: BreakerTrial) -> None:
        """`retry_after` of a refusal is the time that is left, whichever breaker of the `name` opened it and whichever refuses.

        Catches a timeout that each client measures from when it has heard of it.
        """
        timeout, name = await t.shared_timeout(), t.key()
        one, other = [await t.breaker(name=name, reset_timeout=timeout) for _ in range(2)]
        opened = await t.trip(one, timeout)
        await t.settle()
        await t.wait(0.4 * (opened.until - t.now()))
        for each in (other, one, await t.breaker(name=name, reset_timeout=timeout)):
            before = t.now()
            error = await t.still_rejects(each, opened, "a call after another breaker of its name opened it")
            t.check_left(error, opened, before, f"`retry_after` with a timeout of {timeout:g} s", t.numbers().staleness)

    @rule("BRK-52", "lifecycle")
    async def test_brk_52_a_closed_breaker_makes_no_call(self, t: BreakerTrial) -> None:
        """After `close()` the operation is not called, and a call that was under way ends with its result or with `ClosedError`.

        Catches a breaker that makes the call first, and then finds that it is closed.
        """
        breaker = await t.breaker()
        called: list[bool] = []

        async def operation() -> None:
            called.append(True)

        async with t.holding() as holding:
            call = await holding.make(breaker, "a call that is under way at close()")

            async def end() -> None:
                await anyio.lowlevel.checkpoint()
                call.tell(SUCCESS)
                await call.ended.wait()

            with anyio.move_on_after(t.answer_seconds):
                await gather([breaker.close, end])  # which may wait for each other
            tried = call.tried
            t.check(
                tried is not None and (tried.value is call.token or isinstance(tried.error, ClosedError)),
                given="a call that was under way at close()",
                expected="its result, or ClosedError",
                observed=tried,
            )
        await t.refused(partial(breaker.execute, operation), ClosedError, given="execute after close()")
        t.check(not called, given="execute after close()", expected="the operation is not called", observed=Plain("it is called"))

    @rule("BRK-53", "lifecycle", "shared_state")
    async def test_brk_53_to_close_a_client_changes_no_state(self, t: BreakerTrial) -> None:
        """`close()` ends a client, and leaves the circuit of its name as it is.

        Catches a `close` that is taken for closing the circuit, or that removes its state.
        """
        name = t.key()
        one, other = [await t.breaker(name=name) for _ in range(2)]
        await t.fail(one)
        await t.settle()
        await one.close()
        await t.settle()
        t.stands(other, OPEN, "after `close()` of another breaker of its name, which was open")
        await t.reject(other, "a call after `close()` of another breaker of its name, which was open")
        await other.close()
        third = await t.breaker(name=name)
        await t.settle()
        t.stands(third, OPEN, "of a breaker whose name was open when the last of it was closed by `close()`")
        await t.reject(third, "a call through a breaker whose name was open when the last of it was closed by `close()`")

    @rule("BRK-54", "shared_state", "half_open_timeout", hook="crash")
    async def test_brk_54_a_process_that_dies_gives_its_place_back(self, t: BreakerTrial) -> None:
        """The place of a call whose process has died in `HALF_OPEN` is given to another after `half_open_timeout`.

        Catches a place that is given back by its owner alone: one crash, and the circuit stays half-open for ever.
        """
        timeout, name = await t.shared_timeout(), t.key()
        one, other = [await t.breaker(name=name, reset_timeout=timeout, half_open_timeout=timeout) for _ in range(2)]
        await t.tripped([one], timeout)
        await t.settle()
        async with t.holding() as holding:
            await holding.make(one, "a call in HALF_OPEN")
            await t.crash(one)
            await t.wait(t.longest(timeout))
            await t.settle()
            await t.succeed(other, given="a call after the process of the only one in HALF_OPEN has died, and half_open_timeout")

    @rule("BRK-55", deadline=60)
    @unhurried
    async def test_brk_55_a_random_walk_agrees_with_the_state_machine(self, t: BreakerTrial) -> None:
        """Whatever calls begin and end, in whatever order, states, refusals and events are those of the state machine.

        A seeded walk beside a model: calls that succeed, fail, are cancelled, raise what is excluded, and end late; time that
        passes; settings at random; all that is declared. Events are compared after one more call, as nobody has to tell of
        `OPEN` to `HALF_OPEN` before. A divergence is shortened and shown as Python. With a real clock it is shorter.
        """
        timeout = await t.unit()
        chance = random.Random(t.seed)
        for number in range(40 if t.virtual_time else 2):
            settings = _random_settings(chance, t.declared)
            long, count = (20, 80) if t.virtual_time else (3, 50)
            steps = await _random_walk(chance, t.declared, settings, count, most_long=long, short=t.virtual_time)
            divergence = await _divergence(t, timeout, settings, steps)
            if divergence is not None:
                t.session.journal.calls.clear()  # the last of them are of other replays
                shown = ", ".join(f"{name}={describe(value)}" for name, value in settings.items() if name != "shared")
                shown += ", on two clients" if settings.get("shared") else ""
                t.fail_rule(
                    given=f"walk {number + 1} with {shown}, OMNITCK_SEED={t.seed}; shortened to\n{divergence.reproduction}",
                    expected=divergence.expected,
                    observed=divergence.observed,
                )

    @rule("BRK-56", "sliding_window", "result_predicate")
    async def test_brk_56_a_bad_result_is_in_the_window(self, t: BreakerTrial) -> None:
        """A result of which `result_predicate` says False is a failure in the window, too.

        Catches a predicate that only the count of consecutive failures asks.
        """
        settings = {"window_size": 8, "minimum_calls": 4, "failure_rate": 0.5}
        breaker = await t.windowed(**settings, result_predicate=lambda value: value != "bad")
        for number, value in enumerate(("fine", "bad", "fine", "bad")):
            t.stands(breaker, CLOSED, f"after {number} calls, of which four are needed")
            tried = await attempt(partial(breaker.execute, answers, value))
            t.check_outcome(tried, value, None, given="a call whose result is judged")
        t.stands(breaker, OPEN, "after two good results and two bad ones, where half may not fail")

    @rule("BRK-57", "retry_after", "manual_control")
    async def test_brk_57_nobody_knows_how_long_an_operator_waits(self, t: BreakerTrial) -> None:
        """`retry_after` of a refusal is None while an operator holds the circuit open.

        Also where its timeout was running. Catches the time of a timeout that no longer ends anything.
        """
        breakers = [await t.breaker() for _ in range(2)]
        await t.fail(breakers[1])
        for given, breaker in zip(("a closed circuit", "an open one"), breakers, strict=True):
            with t.case(given):
                await breaker.force_open()
                error = await t.reject(breaker, f"a call after `force_open` of {given}")
                t.same(error.retry_after, None, given=f"`retry_after` after `force_open` of {given}")

    @rule("BRK-58", "shared_state", "sliding_window")
    async def test_brk_58_a_window_is_common(self, t: BreakerTrial) -> None:
        """The window of breakers with one `name` holds the calls of all of them.

        Catches a window in each process: a service with many processes fails for long before any of them has seen enough.
        """
        name = t.key()
        settings = {"name": name, "window_size": 8, "minimum_calls": 4, "failure_rate": 0.5}
        one, other = [await t.windowed(**settings) for _ in range(2)]
        for breaker, result in ((one, "s"), (other, "f"), (other, "s"), (one, "f")):
            await t.play(breaker, result, "calls by two breakers of one name")
            await t.settle()
        for each in (one, other):
            t.stands(each, OPEN, "after a success and a failure by each of two breakers of one name, where half may not fail")

    @rule("BRK-59", "shared_state")
    async def test_brk_59_tenants_have_breakers_of_their_own(self, t: BreakerTrial) -> None:
        """Breakers of one `name` that belong to different tenants are apart, and none is that of nobody.

        Asked of a suite whose `make_provider` takes `tenant_id` by that name. Catches the tenant that is left out of a key: the
        outage of one tenant's service stops those of all.
        """
        if "tenant_id" not in inspect.signature(t.suite.make_provider).parameters:
            t.not_provoked("the suite's make_provider takes no tenant_id")
        name = t.key()
        tenants = {"tenant A": f"{t.namespace}a", "tenant B": f"{t.namespace}b", "nobody": None}
        breakers = {who: await t.breaker(name=name, tenant_id=tenant) for who, tenant in tenants.items()}
        for number, (who, breaker) in enumerate(breakers.items()):
            await t.fail(breaker, given=f"a call of {who}")
            await t.settle()
            for other in list(breakers)[number + 1 :]:
                t.stands(breakers[other], CLOSED, f"of the breaker of {other}, while that of {who}, of the same name, is open")
        again = await t.breaker(name=name, tenant_id=tenants["tenant A"])
        await t.settle()
        t.stands(again, OPEN, "of another breaker of tenant A and the same name")

    @rule("BRK-60", "half_open_timeout")
    async def test_brk_60_half_open_timeout_concerns_half_open_alone(self, t: BreakerTrial) -> None:
        """While the circuit is `CLOSED`, a call may last longer than `half_open_timeout`, and counts when it ends.

        Catches a timer for every call, which cancels what is slow, or forgets it.
        """
        unit = await t.unit()
        breaker = await t.breaker(failure_threshold=2, half_open_timeout=unit)
        async with t.holding() as holding:
            calls = [await holding.make(breaker, "a call") for _ in range(4)]
            await t.wait(t.longest(unit))
            for call, how in zip(calls, (FAILURE, SUCCESS, FAILURE), strict=False):
                await call.end(how)
                t.stands(
                    breaker,
                    CLOSED,
                    "after calls that lasted longer than half_open_timeout, where two failures in a row are too many",
                )
            await calls[3].end(FAILURE)
            t.stands(breaker, OPEN, "after two failures in a row of calls that lasted longer than half_open_timeout")

    @rule("BRK-61", "slow_call")
    @unhurried
    async def test_brk_61_slow_calls_grow_old(self, t: BreakerTrial) -> None:
        """In a window of time a slow call that is older than `window_size` is no longer counted.

        Catches a count of slow calls beside the window, which only grows.
        """
        unit = await t.unit()
        settings = {"slow_call_duration": unit, "slow_call_rate": 0.5, "failure_rate": 1.0, "minimum_calls": 2}
        breaker = await t.windowed(**settings, window="time", window_size=2 * unit)
        async with t.holding() as holding:
            slow = await holding.make(breaker, "a call that takes long")
            await t.wait(t.longest(unit))
            await slow.end(SUCCESS)
            await t.wait(t.longest(2 * unit) + unit / 10)
            slow = await holding.make(breaker, "a call that takes long")
            await t.wait(t.longest(unit))
            began = t.now()
            for _ in range(2):
                await t.quick(breaker, unit)
            await slow.end(SUCCESS)
            state = t.state_of(breaker)
            t.in_time(began + unit)
            t.check_state(
                state, CLOSED, "after a slow call that is too old, two quick ones, and a slow one, where half may be slow"
            )

    @rule("BRK-62", "shared_state", "validation")
    async def test_brk_62_a_refusal_names_its_breaker(self, t: BreakerTrial) -> None:
        """The text of a refusal names its breaker.

        Also where it comes out of another breaker. Catches "circuit open", of which a service with twenty breakers learns
        nothing.
        """
        name = t.key()
        breaker, outer = await t.breaker(name=name), await t.breaker(name=t.key())
        await t.fail(breaker)
        error = await t.reject(breaker, "a call while it is open")
        t.check(name in str(error), given="the text of a refusal", expected=f"it holds {describe(name)}", observed=str(error))
        through = await t.refused(
            partial(outer.execute, breaker.execute, answers, 1), CircuitOpenError, given="the same through another"
        )
        t.check(
            name in str(through), given="the same through another", expected=f"it holds {describe(name)}", observed=str(through)
        )

    @rule("BRK-63", "slow_call", exclusive=True)
    @unhurried
    async def test_brk_63_a_jump_of_the_wall_clock_is_no_slow_call(self, t: BreakerTrial) -> None:
        """A call during which the wall clock jumps is as quick, or as slow, as it is.

        Catches a duration that is a difference of two `time.time()`.
        """
        unit = await t.unit()
        settings = {"window_size": 8, "minimum_calls": 2, "slow_call_duration": unit, "slow_call_rate": 0.5, "failure_rate": 1.0}
        quick, slow = await t.windowed(**settings), await t.windowed(**settings)
        for each in (quick, slow):
            await t.quick(each, unit)
        async with t.holding() as holding:
            began = t.now()
            [call] = await holding.begin(quick)
            with _wall_clock(3600.0):
                await call.end(SUCCESS)
            t.in_time(began + 0.8 * unit)
            t.stands(quick, CLOSED, "after two quick calls; the wall clock jumped forward during the second")
            [call] = await holding.begin(slow)
            await t.wait(t.longest(unit))
            with _wall_clock(-3600.0):
                await call.end(SUCCESS)
            t.stands(slow, OPEN, "after a quick call and a slow one; the wall clock jumped back during the second")

    @rule("BRK-64", "manual_control")
    async def test_brk_64_reset_of_a_closed_circuit_ends_the_row(self, t: BreakerTrial) -> None:
        """`reset` of a `CLOSED` circuit leaves nothing counted.

        Catches `if self.state is CLOSED: return`.
        """
        breaker = await t.breaker(failure_threshold=3)
        for _ in range(2):
            await t.fail(breaker, 2)
            await breaker.reset()
            t.stands(breaker, CLOSED, "after two failures of three, and `reset`")
        await t.fail(breaker, 2)
        t.stands(breaker, CLOSED, "after `reset` and two failures of three")
        await t.fail(breaker)
        t.stands(breaker, OPEN, "after `reset` and three failures of three")

    @rule("BRK-65", "manual_control", "sliding_window")
    async def test_brk_65_reset_empties_the_window(self, t: BreakerTrial) -> None:
        """After `reset` the window is empty, whatever the state was.

        Catches a window that is emptied by a change of state alone.
        """
        for state in (CLOSED, OPEN):
            with t.case(state.name):
                breaker = await t.windowed(window_size=8, minimum_calls=4, failure_rate=0.5)
                await t.play(breaker, "fff", "failures, of which four are needed")
                if state is OPEN:
                    await breaker.force_open()
                await breaker.reset()
                await t.play(
                    breaker, "fff", f"`reset` of a circuit that was {state.name}, and failures, of which four are needed"
                )
                t.stands(breaker, CLOSED, "after `reset` and three failures, of which four are needed")
                await t.fail(breaker)
                t.stands(breaker, OPEN, "after `reset` and four failures, of which four are needed")

    @rule("BRK-66", "events", "shared_state")
    async def test_brk_66_each_breaker_has_its_own_listener(self, t: BreakerTrial) -> None:
        """A change that a call of a breaker makes is told, once, to that breaker's own listener, also where others have its name,
        and whatever the listeners of those raise.

        Whether theirs are told of it, the contract leaves open. Catches a listener that takes the place of another, and one loop
        over all listeners that ends at the first that raises.
        """
        theirs = LookupError("raised by the listener of another breaker")

        def raising(old: CircuitState, new: CircuitState) -> None:
            raise theirs

        for number in range(3):
            for others in ("quiet", "raising"):
                with t.case(f"breaker {number + 1} of 3, beside {others} listeners"):
                    name, events = t.key(), list[object]()
                    other = raising if others == "raising" else partial(_note, [])
                    listeners = [partial(_note, events) if which == number else other for which in range(3)]
                    breaker = [await t.breaker(name=name, on_transition=each) for each in listeners][number]
                    raised = OperationError(t.token(), number)
                    tried = await attempt(partial(breaker.execute, raises, raised))
                    t.check_raised(tried, raised, given="a call that fails")
                    t.check(
                        tried.error is not theirs,
                        given="a call that fails",
                        expected="the exception of the operation",
                        observed=tried.error,
                    )
                    await t.told(events, [(CLOSED, OPEN)], "the changes that are told to the breaker whose call failed")

    @rule("BRK-67", "lifecycle", "shared_state")
    async def test_brk_67_to_close_a_client_frees_its_own_places_alone(self, t: BreakerTrial) -> None:
        """`close()` of one breaker frees no place of another of its name in `HALF_OPEN`.

        Catches a `close` that tidies up what is common.
        """
        timeout, name = await t.shared_timeout(), t.key()
        one, other, third = [await t.breaker(name=name, reset_timeout=timeout) for _ in range(3)]
        await t.tripped([one], timeout)
        await t.settle()
        async with t.holding() as holding:
            probe = await holding.make(one, "a call in HALF_OPEN")
            await t.settle()
            await other.close()
            await t.settle()
            t.stands(third, HALF_OPEN, "after `close()` of another breaker of its name")
            await t.reject(third, "a call after `close()` of another breaker of its name, while a third has the only place")
            await probe.end(SUCCESS)
        await t.settle()
        t.stands(third, CLOSED, "after a success in HALF_OPEN by another breaker of its name")

    @rule("BRK-68", "shared_state")
    async def test_brk_68_results_at_once_count_together(self, t: BreakerTrial) -> None:
        """Of calls that end at once through several breakers of one `name` each counts: among failures in a row, among successes
        in `HALF_OPEN`, and in the window.

        Catches a count that is read, and written back with one more: of failures that come together, as they do in an outage,
        most are lost.
        """
        timeout = await t.shared_timeout()
        cases: dict[str, tuple[dict[str, Any], str, int, CircuitState, CircuitState]] = {
            "failures in a row": ({"failure_threshold": 11}, FAILURE, 10, CLOSED, OPEN),
            "successes in HALF_OPEN": ({"half_open_max_calls": 6, "success_threshold": 7}, SUCCESS, 6, HALF_OPEN, CLOSED),
        }
        if "sliding_window" in t.declared:
            window = {"window": "count", "window_size": 20, "minimum_calls": 11, "failure_rate": 1.0, "failure_threshold": 1000}
            cases["failures in the window"] = window, FAILURE, 10, CLOSED, OPEN
        for kind, (settings, how, count, before, after) in cases.items():
            with t.case(kind):
                name, given = t.key(), f"after {count} {kind} at once, by two breakers of one name, where {count + 1} are needed"
                breakers = [await t.breaker(name=name, reset_timeout=timeout, **settings) for _ in range(2)]
                if before is HALF_OPEN:
                    await t.tripped(breakers[:1], timeout)
                    await t.settle()
                async with t.holding() as holding:
                    calls = await holding.begin(*breakers * (count // 2))
                    for each in calls:
                        t.check_made(each, f"{count} calls at once through two breakers of one name, {before.name}")
                        each.tell(how)
                    for each in calls:
                        await each.wait()
                await t.settle()
                t.stands(breakers[0], before, given)
                await (t.fail if how == FAILURE else t.succeed)(breakers[1])
                await t.settle()
                t.stands(breakers[0], after, f"{given}, and one more")

    @rule("BRK-69", "lifecycle", "shared_state")
    async def test_brk_69_a_call_of_a_closed_client_keeps_no_place(self, t: BreakerTrial) -> None:
        """A call in `HALF_OPEN` whose breaker is closed by `close()` meanwhile keeps no place once it has ended.

        Whether its result counts is left open. Catches a client that reports nothing any more: one process that is replaced at
        the wrong moment, and for all others the circuit stays half-open, and full, for ever.
        """
        timeout = await t.shared_timeout()
        for how in (SUCCESS, CANCELLED, EXCLUDED):
            with t.case(f"a call that {how}"):
                settings: dict[str, Any] = {"name": t.key(), "reset_timeout": timeout, "excluded": (ExcludedError,)}
                one, other = [await t.breaker(**settings) for _ in range(2)]
                await t.tripped([one], timeout)
                await t.settle()
                async with t.holding() as holding:
                    probe = await holding.make(one, "a call in HALF_OPEN")

                    await t.close_beside(one, probe, how)
                await t.settle()
                await t.admit_soon(other, "a call after one in HALF_OPEN has ended whose breaker was closed by `close()`")
