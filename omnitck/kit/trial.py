"""The words in which rules are written.

Each run of a rule gets a trial of its own. Contracts and policies add words in a subclass, which their attribute `trial` names;
a suite's trial has those of its contract and of all its policies.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from typing import Any, Generic, NoReturn, TypeVar, cast

import anyio

from omnitck.kit.clients import Hung, parameters, raw
from omnitck.kit.concurrency import Attempt, Call, attempt
from omnitck.kit.definition import Operation, Plan
from omnitck.kit.outcomes import Violation
from omnitck.kit.rules import Rule, needs_of, supplies
from omnitck.kit.session import HookError, NotProvoked, Session, as_violation, has_hook, hook_error
from omnitck.kit.text import describe, describe_error
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, UnavailableError
from omnitck.shared.models import Limits

__all__ = ["ANSWER_SECONDS", "SEED", "Plain", "Trial"]

SEED: ContextVar[int | None] = ContextVar("omnitck_seed", default=None)
"""The seed of a run that does not take it from the environment, which all runs of a process share."""

ANSWER_SECONDS = 5.0
"""Within this, times the suite's patience, an operation ends that cannot succeed, and a hook that is told how long to wait."""

CANCEL_SECONDS = 2.0
"""Within this, times the suite's patience, an operation that is cancelled ends."""

MOST_TRIES = 100
"""Tries of one change among at most 80 that compete."""

SCALARS = frozenset((str, bytes, int, float, bool, type(None)))

P = TypeVar("P")
T = TypeVar("T")


class Plain(str):
    """Text that a failure shows as it is, not as a Python literal."""


class Trial(Generic[P]):
    """One run of one rule on providers of type `P`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.suite: Any = session.suite
        """The test that runs: its declarations and hooks."""
        self.plan: Plan = session.plan
        self.rule: Rule = session.entry.rule
        """The rule that runs; for an audit, the one that has just passed."""
        self.id = session.entry.id
        """Its id as the suite has it: `KV-COM-14`."""
        self._numbers: tuple[object, Limits] | None = None
        """What the last limits came to."""
        cells = self.plan.definition.cells
        self.cells: Any = cells(self) if isinstance(cells, type) else cells
        """The neutral view of what the providers hold, against which common rules and policies are written; None without one."""

    # Names and values.

    @property
    def namespace(self) -> str:
        """An unguessable name, fresh for every rule."""
        return self.session.namespace

    def key(self, suffix: str = "") -> str:
        """A fresh name that nobody else uses, ending in *suffix*."""
        return self.session.fresh(suffix)

    def token(self, size: int = 0) -> str:
        """A fresh value that nobody else uses, of at least *size* characters."""
        token = self.session.fresh("v")
        if size <= len(token):
            return token

        # Every part of a large value names the value and its place in it, so that a mixture of two is seen.
        mark = f"{self.session.names:04x}" * 15
        return token + "".join(f"{mark}{number:04x}" for number in range((size - len(token) + 63) // 64))

    @property
    def seed(self) -> int:
        """The seed of everything random in this run."""
        given = SEED.get()
        if given is not None:
            return given

        text = os.environ.get("OMNITCK_SEED") or "0"
        try:
            return int(text)
        except ValueError:
            raise HookError(f"OMNITCK_SEED is {text!r}: give a whole number.") from None

    def confidential(self) -> Iterable[str]:
        """What no failure may show: the credentials, and what else the suite entrusts to the kit."""
        return cast("Iterable[str]", self.suite.credentials)

    # What the suite declares.

    @property
    def declared(self) -> frozenset[str]:
        """The capabilities that the suite promises."""
        return self.plan.declared

    @property
    def patience(self) -> float:
        """What multiplies every deadline."""
        return self.session.patience

    @property
    def answer_seconds(self) -> float:
        """Within this, an operation ends that cannot succeed."""
        return ANSWER_SECONDS * self.patience

    @property
    def cancel_seconds(self) -> float:
        """Within this, an operation that is cancelled ends."""
        return CANCEL_SECONDS * self.patience

    @property
    def told_seconds(self) -> float:
        """Within this, who watches or listens is told of what happened. Ask after the first `connect`."""
        return self.answer_seconds + self.numbers().staleness

    def offers(self, capability: str) -> bool:
        """Whether the suite declares *capability*; the core, which is the empty one, it always does."""
        return not capability or capability in self.plan.declared

    def declared_of(self, calls: Mapping[str, tuple[str, T]]) -> dict[str, T]:
        """Those of *calls*, a table of name to capability and call, that the suite declares; the core has the capability `""`."""
        return {name: call for name, (capability, call) in calls.items() if self.offers(capability)}

    def can(self, verb: str) -> bool:
        """Whether the cells have *verb*, and the suite declares what it takes."""
        return supplies(self.cells, verb) and needs_of(self.cells, verb) <= self.declared

    def numbers(self) -> Limits:
        """The limits in force: the suite's, else the provider's, else the floors. Ask after the first `connect`."""
        limits = self.suite.limits
        if limits is None:
            limits = getattr(self.session.first_provider(), "limits", None)
        if self._numbers is None or self._numbers[0] is not limits:
            kind = self.plan.definition.limits
            self._numbers = limits, kind.adopted(limits).usable() if isinstance(limits, Limits) else kind()
        return self._numbers[1]

    # Clients.

    async def connect(self, *, tenant_id: str | None = None, **config: Any) -> P:
        """One more client of this rule's namespace. It is closed when the rule ends."""
        if tenant_id is not None:
            config["tenant_id"] = tenant_id
        return cast("P", await self.session.connect(config))

    async def clients(self, count: int) -> list[P]:
        """*count* clients of the namespace; the same one *count* times where the suite does not declare `shared`."""
        first = await self.connect()
        if "shared" not in self.declared:
            return [first] * count

        return [first, *[await self.connect() for _ in range(count - 1)]]

    async def refused_at_connect(
        self, error: type[BaseException] | tuple[type[BaseException], ...], *, given: str, **config: Any
    ) -> BaseException:
        """Fail the rule unless a provider that is made with *config* is refused with *error*; returns what was raised."""
        try:
            await self.session.connect(config)
        except HookError as raised:
            cause = raised.__cause__
            if isinstance(cause, error):
                return cause
            if cause is None or isinstance(cause, NotImplementedError):
                raise
            self.fail_rule(given=given, expected=_names_of(error), observed=describe_error(cause))
        self.fail_rule(given=given, expected=_names_of(error), observed="a provider")
        return None

    # Hooks.

    def has(self, hook: str) -> bool:
        """Whether the suite supplies an optional hook: a method of its own, or a declaration that is not empty."""
        return has_hook(self.suite, self.plan, hook)

    async def ask(self, hook: str, *arguments: object, instead: str = "", **keywords: object) -> Any:
        """What a hook of the suite answers; what it raises is not the provider's failure.

        It is given those of *keywords*, and the namespace, that its signature takes. *instead* names the method that the provider
        might have had in its place.
        """
        method = getattr(self.suite, hook)
        names, takes_any = parameters(method)
        given = {"namespace": self.namespace, **{name: value for name, value in keywords.items() if value is not None}}
        given = {name: value for name, value in given.items() if takes_any or name in names}
        try:
            return await method(*map(raw, arguments), **given)
        except Exception as error:
            if hook in self.plan.supplied or not isinstance(error, NotImplementedError):
                raise hook_error(hook, error) from error

            provider = type(self.session.first_provider()).__qualname__
            but = f", and {provider} has no {instead}" if instead else ""
            raise HookError(f"{type(self.suite).__qualname__} has no {hook}{but}: write the hook with `async def`.") from error

    async def crash(self, client: Any) -> None:
        """Let *client* vanish as if its process had been killed."""
        self.session.closes(client)
        await self.ask("crash", client)

    # Time.

    @property
    def virtual_time(self) -> bool:
        """Whether `advance` moves a clock instead of waiting."""
        return "advance" in self.plan.supplied

    def now(self) -> float:
        """Seconds on the clock by which the provider measures expiry."""
        return self.session.advanced if self.virtual_time else time.monotonic()

    async def wait(self, seconds: float) -> None:
        """Let *seconds* pass on that clock. They are not counted in the rule's deadline."""
        if seconds > 0 and self.virtual_time:
            # Before: what happens while the clock is moved happens at some time until then, and is not early.
            self.session.advanced += seconds
            await self.ask("advance", seconds)
        elif seconds > 0:
            with self.session.waiting(seconds + self.answer_seconds) as scope:
                await self.ask("advance", seconds)
            if scope.cancelled_caught:
                raise HookError(f"advance({seconds:g}) has not ended after {seconds + self.answer_seconds:g} s.")
            self.session.advanced += seconds

    def waiting(self, within: float) -> AbstractContextManager[anyio.CancelScope]:
        """Around a wait that the provider's numbers allow to last *within* seconds, and no longer: the deadline stands still."""
        return self.session.waiting(within)

    async def settle(self) -> None:
        """Let the time pass after which every client sees what any of them wrote."""
        await self.wait(self.numbers().staleness)

    # Operations.

    def operations(self, *, undeclared: bool = False) -> list[Operation]:
        """Every operation that the suite declares, or those that it does not."""
        table = self.plan.definition.operations if self.cells is None else self.cells.operations
        return [each for each in table if self.offers(each.capability) is not undeclared]

    def refusals(self) -> list[Operation]:
        """Every call that the contract refuses, of operations that the suite declares."""
        table = self.plan.definition.refusals if self.cells is None else self.cells.refusals
        return [each for each in table if self.offers(each.capability)]

    def bound(self, operation: Operation, client: Any, name: Any, token: str | None = None) -> Call[object]:
        """*operation* on *client*, *name* and *token* (a fresh one if None is given), yet to be called; nothing is arranged."""
        return functools.partial(operation.call, client, name, self.token() if token is None else token)

    async def arranged(self, operation: Operation, client: Any, name: str, token: str | None = None) -> Call[object]:
        """*operation* on *client* and a *name* of its own, yet to be called, once what it needs first has been done."""
        token = self.token() if token is None else token
        if operation.arrange is None:
            return functools.partial(operation.call, client, name, token)

        return functools.partial(operation.call, client, name, token, await operation.arrange(client, name, token))

    async def outcome(self, operation: Operation, client: Any, name: str, token: str | None = None) -> Attempt[object]:
        """What *operation* on *name* comes to, nothing arranged: its result, or what a look shows that the result does not."""
        tried = await attempt(self.bound(operation, client, name, token))
        look = operation.look
        return tried if tried.error is not None or look is None else await attempt(lambda: look(client, name))

    # Verdicts.

    def tell_apart(self) -> None:
        """Keep the last calls of each name, for a failure *about* one of many that are at work at once."""
        self.session.journal.tell_apart()

    def fail_rule(self, *, given: str, expected: str, observed: str, hint: str = "", about: str | None = None) -> NoReturn:
        """The provider broke the rule. The trace shows the last calls, or the last *about* a name, of many that were at work."""
        violation = Violation(given=given, expected=expected, observed=observed, hint=hint)
        if about is not None:
            violation.trace = self.session.journal.lines(about)
        raise violation

    def check(
        self, holds: bool, *, given: str, expected: str, observed: object, hint: str = "", about: str | None = None
    ) -> None:
        """Fail the rule unless *holds*."""
        if not holds:
            self.fail_rule(
                given=given,
                expected=expected,
                observed=observed if isinstance(observed, Plain) else describe(observed),
                hint=hint,
                about=about,
            )

    def same(self, observed: object, expected: object, *, given: str, hint: str = "", about: str | None = None) -> None:
        """Fail the rule unless *observed* equals *expected* and has exactly its type.

        A record or a container may be of a subclass. One of text or of a number is another value: `True` is no 1.
        """
        if _is_same(observed, expected):
            return

        wanted, seen = describe(expected), describe(observed)
        if wanted == seen:
            wanted, seen = (f"{text}, of type {type(each).__name__}" for text, each in ((wanted, expected), (seen, observed)))
        self.fail_rule(given=given, expected=wanted, observed=seen, hint=hint, about=about)

    async def refused(
        self,
        call: Call[object],
        error: type[BaseException] | tuple[type[BaseException], ...],
        *,
        given: str,
        hint: str = "",
    ) -> BaseException:
        """Fail the rule unless *call* raises *error*; returns what it raised."""
        expected = _names_of(error)
        try:
            result = await call()
        except error as raised:
            return raised
        except (UnavailableError, Hung):
            raise
        except Exception as raised:
            self.fail_rule(given=given, expected=expected, observed=describe_error(raised), hint=hint)
        self.fail_rule(given=given, expected=expected, observed=f"returned {describe(result)}", hint=hint)
        return None

    @contextmanager
    def refusable(self, *names: str) -> Iterator[None]:
        """Around what is done with *names*: it ends where the provider refuses one that the contract lets it refuse."""
        try:
            yield
        except InvalidArgumentError:
            if not any(self.cells.may_refuse(name) for name in names):
                raise

    async def retry(self, change: Call[T]) -> T:
        """The result of *change*, which reads before it writes, once it meets no conflict.

        Each conflict means that somebody else has succeeded, so in a rule of n changes none needs more than n tries.
        """
        for _ in range(MOST_TRIES):
            tried = await attempt(change)
            if not isinstance(tried.error, ConflictError):
                return tried.result()

            await self.settle()
        self.fail_rule(
            given=f"a change that reads before it writes, tried {MOST_TRIES} times",
            expected="it succeeds once the others have",
            observed="ConflictError every time",
            hint="what is read is not what the comparison sees",
        )
        return None

    def one_winner(self, tried: Sequence[Attempt[Any]], given: str, loss: type[BaseException] = ConflictError) -> int:
        """Fail the rule unless exactly one of *tried* succeeded and the others raised *loss*; the number of that one."""
        winners = [number for number, each in enumerate(tried) if each.error is None]
        strange = [describe_error(each.error) for each in tried if each.error and not isinstance(each.error, loss)]
        self.check(
            len(winners) == 1 and not strange,
            given=given,
            expected=f"1 success, {len(tried) - 1} {loss.__name__}",
            observed=Plain(f"{len(winners)} successes, {len(strange)} other errors {' '.join(strange[:1])}"),
        )
        return winners[0]

    def check_listing(self, listed: Iterable[str], expected: Iterable[str], given: str) -> None:
        """Fail the rule unless *listed* are the *expected* names, each once, in whatever order."""
        listed, wanted = list(listed), set(expected)
        seen = set(listed)
        problems = []
        if wanted - seen:
            problems.append(f"{len(wanted - seen)} missing, {describe(sorted(wanted - seen)[0])} for one")
        if seen - wanted:
            problems.append(f"{len(seen - wanted)} that should not be there, {describe(sorted(seen - wanted)[0])} for one")
        if len(listed) != len(seen):
            problems.append(f"{len(listed) - len(seen)} repeated")
        self.check(not problems, given=given, expected=f"{len(wanted)} names, each once", observed=Plain("; ".join(problems)))

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """One case of several: a failure inside is kept, the rule goes on, and fails once with all of them."""
        try:
            yield
        except (HookError, UnavailableError, NotProvoked):
            raise
        except Hung as hung:
            hung.case = name
            raise  # the next case would only wait again
        except Exception as error:
            violation = as_violation(error)
            violation.case = name
            violation.trace = violation.trace or self.session.journal.lines()
            self.session.violations.append(violation)

    def not_provoked(self, reason: str) -> NoReturn:
        """The rule cannot be provoked with this suite."""
        raise NotProvoked(reason)


def _is_same(observed: Any, expected: Any) -> bool:
    """Whether two values are the same in everything but the subclasses of records and containers, at any depth."""
    if (exact := type(expected)) in SCALARS:
        return bool(type(observed) is exact and observed == expected)
    if isinstance(expected, dict):
        return (
            isinstance(observed, dict)
            and observed.keys() == expected.keys()
            and all(_is_same(observed[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list | tuple):
        kind = list if isinstance(expected, list) else tuple
        return isinstance(observed, kind) and len(observed) == len(expected) and all(map(_is_same, observed, expected))
    if is_dataclass(expected) and not isinstance(expected, type):
        return isinstance(observed, type(expected)) and all(
            _is_same(getattr(observed, each.name), getattr(expected, each.name)) for each in fields(expected)
        )
    return bool(type(observed) is type(expected) and observed == expected)


def _names_of(error: type[BaseException] | tuple[type[BaseException], ...]) -> str:
    errors: Sequence[Callable[..., object]] = error if isinstance(error, tuple) else (error,)
    return " or ".join(each.__name__ for each in errors)
