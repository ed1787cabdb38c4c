"""Contracts, policies and their rules.

A contract is a mixin of rules for `unittest.IsolatedAsyncioTestCase`. A class that mixes one contract, any number of policies
and a TestCase is a suite. Everything that is wrong with a suite is said when its class is created, so that a typing error never
turns into a skipped rule.
"""

import functools
import inspect
import os
import time
import unittest
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

import anyio

from omnitck.kit import session
from omnitck.kit.cells import Cells, Operation
from omnitck.kit.concurrency import Attempt, Call, attempt
from omnitck.kit.outcomes import Violation
from omnitck.kit.text import UsageError, describe, describe_error, suggest
from omnitck.kit.walk import WALK_NAMES, Refine, Step, VersionOf, walk
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, UnavailableError
from omnitck.shared.models import Limits

__all__ = ["HOOKS", "PRODUCTION", "PROFILES", "Audit", "Contract", "Policy", "Rule", "audit", "rule", "rules_of"]

PRODUCTION: Mapping[str, str] = {
    "lifecycle": "a client is closed, once and for all, and leaves nothing behind",
    "validation": "arguments that the contract does not allow are refused, and nothing is done",
    "shared": "several clients of one backend see one state",
    "availability": "without its backend an operation fails as it should, in time, and works again when the backend does",
    "limits": "the numbers that the provider declares hold, to the byte, and what is beyond them is refused",
}
"""The capabilities that every contract knows, and what each promises."""

PROFILES: Mapping[str, frozenset[str]] = {"core": frozenset(), "production": frozenset(PRODUCTION)}
"""The capabilities that a profile demands of every contract."""

HOOKS = ("make_provider", "unreachable_provider", "backend_address", "advance")
"""The coroutine methods that every suite may supply; only the first is required. A contract may know more."""

Body = TypeVar("Body", bound=Callable[..., Awaitable[None]])
T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """One sentence that a provider must satisfy, checked by exactly one test method."""

    id: str
    statement: str
    """The sentence: the first paragraph of the method's docstring."""
    rationale: str
    """The rest of the docstring: the bug it catches, how real backends differ."""
    method: str
    needs: frozenset[str]
    """The capabilities without which the rule does not apply; empty for the core."""
    hook: str | None
    """The optional hook of the suite without which the rule cannot be provoked."""
    exclusive: bool
    """Whether the rule watches something process-wide, so that it must run alone."""
    deadline: float
    """Seconds after which the verdict is a failure."""

    def applies_to(self, contract: type["Contract"]) -> bool:
        """Whether the rule has a subject under *contract*: a policy's rule about locks has none in a store."""
        return self.id not in contract.without_subject and self.needs <= known_capabilities(contract)

    def level_in(self, contract: type["Contract"]) -> str:
        """MUST for the core, else the capabilities that bring the rule."""
        return " + ".join(sorted(self.needs_in(contract))) or "MUST"

    def needs_in(self, contract: type["Contract"]) -> frozenset[str]:
        """The capabilities needed under *contract*, whose operations may carry a shared rule only with one more."""
        return self.needs | contract.extra_needs.get(self.id, frozenset())

    def id_in(self, prefix: str) -> str:
        """The id under a contract: a rule of a shared family is `KV-COM-14` there, the contract's own stay `KV-03`."""
        shared = self.id.startswith(SHARED_FAMILIES) and not self.id.startswith(f"{prefix}-")
        return f"{prefix}-{self.id}" if shared else self.id


SHARED_FAMILIES = ("COM-", "CA-", "KV-")


def rule(
    id: str, *needs: str, hook: str | None = None, exclusive: bool = False, deadline: float = 10.0
) -> Callable[[Body], Body]:
    """Make a coroutine method the test of rule *id*, which applies where the capabilities *needs* are declared.

    The wrapped method opens and closes providers in its own task, keeps the *deadline* (seconds), records the outcome, and fails,
    errs or skips as unittest expects.
    """

    def decorate(body: Body) -> Body:
        statement, _, rationale = inspect.cleandoc(body.__doc__ or "").partition("\n\n")
        this = Rule(
            id=id,
            statement=" ".join(statement.split()),
            rationale=rationale,
            method=body.__name__,
            needs=frozenset(needs),
            hook=hook,
            exclusive=exclusive,
            deadline=deadline,
        )

        @functools.wraps(body)
        async def test(self: "Contract") -> None:
            __tracebackhide__ = True
            await session.run(self, this, body)

        test.rule = this  # type: ignore[attr-defined]
        return test  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True)
class Audit:
    """A rule that is judged after every other rule of the suite, once its providers are closed."""

    id: str
    statement: str
    method: str


def audit(id: str) -> Callable[[Body], Body]:
    """Make a coroutine method an ambient audit: it receives the `Rule` that has just run, and fails as a rule does.

    The failure carries the audit's id and the rule during which it happened.
    """

    def decorate(body: Body) -> Body:
        statement = " ".join(inspect.cleandoc(body.__doc__ or "").partition("\n\n")[0].split())
        body.audit = Audit(id=id, statement=statement, method=body.__name__)  # type: ignore[attr-defined]
        return body

    return decorate


def rules_of(contract: type["Contract"]) -> list[Rule]:
    """The rules of a contract, policy or suite, in the order of their ids; without those that have no subject there."""
    rules = _all_rules(contract)
    if issubclass(contract, Policy) and not issubclass(contract, unittest.TestCase):
        return rules

    return [each for each in rules if each.applies_to(getattr(contract, "contract", contract))]


def _all_rules(cls: type) -> list[Rule]:
    found = (getattr(member, "rule", None) for _, member in inspect.getmembers(cls, callable))
    return sorted((each for each in found if isinstance(each, Rule)), key=lambda each: each.method)


class Contract:
    """What every suite has: declarations, hooks, and the words in which rules are written."""

    name: ClassVar[str] = ""
    """The contract's name, as `compose` takes it."""
    version: ClassVar[str] = "1.0"
    prefix: ClassVar[str] = ""
    """What the ids of its rules begin with."""
    protocols: ClassVar[Mapping[str, type]] = {}
    """The protocol of the core under `""`, then one for each capability: its operations and arguments, or what it promises."""
    production: ClassVar[frozenset[str]] = frozenset()
    """The capabilities of its own that the profile `production` demands too."""
    extra_needs: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Shared rule to the capabilities without which this contract has nothing to judge it by."""
    without_subject: ClassVar[frozenset[str]] = frozenset()
    """Shared rules that nothing under this contract could break: its suites do not have them."""
    hooks: ClassVar[tuple[str, ...]] = ()
    """Optional coroutine methods of its suites, beside those that every contract knows."""
    data: ClassVar[tuple[str, ...]] = ()
    """Optional declarations of its suites that are data, beside those that every contract knows."""
    limits_type: ClassVar[type[Limits]] = Limits
    """What its providers' `limits` are."""

    @property
    def cells(self) -> Cells[Any]:
        """The neutral view, against which common rules and policies are written."""
        raise NotImplementedError

    # What the author of a suite may declare.

    capabilities: ClassVar[Iterable[str]] = frozenset()
    """The optional parts that the provider promises. Declared: all their rules run."""
    profile: ClassVar[str] = "core"
    """`production` adds the capabilities that an application in production needs."""
    limits: ClassVar[Limits | None] = None
    """The provider's numbers; None takes its `limits` attribute, or else the floors."""
    credentials: ClassVar[tuple[str, ...]] = ()
    """Secrets of the configuration under test; they must never be printed, and are masked in reports."""
    known_deviations: ClassVar[Mapping[str, str]] = {}
    """Rule id to reason: the rule runs, may fail, and shows on the certificate."""
    patience: ClassVar[float] = 1.0
    """Multiplies every deadline of the kit."""
    deadline: ClassVar[float | None] = None
    """Seconds for a rule, in place of each rule's own."""
    backend: ClassVar[str] = "asyncio"
    """The event loop: `asyncio` or `trio`."""
    again: ClassVar[str] = ""
    """The command that repeats one rule, with `{rule}` in it; by default unittest's own."""

    # Made up when the class is created.

    declared: ClassVar[frozenset[str]] = frozenset()
    policies: ClassVar[tuple[type["Policy"], ...]] = ()
    contract: ClassVar[type["Contract"]]
    audits: ClassVar[tuple[Audit, ...]] = ()

    session: session.Session

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, unittest.TestCase):
            _check_suite(cls)
            _put_on_backend(cls)

    @classmethod
    def check_suite(cls) -> None:
        """Refuse, with a `UsageError`, a suite whose declarations do not go together under this contract."""

    # Hooks: the first is the only one that most authors write.

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> Any:
        """Connect one more client to this test's namespace, for *tenant_id* if given.

        Return the provider, or an async context manager that yields it. What has `aclose` or `close` is closed. The kit passes
        what the signature takes of: `namespace` (an unguessable name, fresh for every rule) and `address` (host and port to use
        in place of the backend's: a proxy that makes faults).
        """
        raise NotImplementedError

    async def unreachable_provider(self) -> Any:
        """Return a client whose backend cannot be reached. Optional; a suite with `backend_address` needs none."""
        raise NotImplementedError

    async def backend_address(self) -> tuple[str, int]:
        """Host and port of the backend's TCP server. Optional: the kit puts a proxy there that delays, holds and cuts."""
        raise NotImplementedError

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass. Override it when the provider takes a clock: rules about time then take none."""
        await anyio.sleep(seconds)

    # The words in which rules are written.

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

    async def connect(self, *, tenant_id: str | None = None, **config: Any) -> Any:
        """One more client of this rule's namespace. It is closed when the rule ends."""
        if tenant_id is not None:
            config["tenant_id"] = tenant_id
        return await self.session.connect(config)

    async def clients(self, count: int) -> list[Any]:
        """*count* clients of the namespace; the same one *count* times where the suite does not declare `shared`."""
        first = await self.connect()
        if "shared" not in self.declared:
            return [first] * count

        return [first, *[await self.connect() for _ in range(count - 1)]]

    def confidential(self) -> Iterable[str]:
        """What no failure may show: the credentials, and what else the suite entrusts to the kit."""
        return self.credentials

    def operations(self, *, undeclared: bool = False) -> list[Operation]:
        """Every operation that the suite declares, or those that it does not."""
        return [each for each in self.cells.operations if self.offers(each.capability) is not undeclared]

    def refusals(self) -> list[Operation]:
        """Every call that the contract refuses, of operations that the suite declares."""
        return [each for each in self.cells.refusals if self.offers(each.capability)]

    def offers(self, capability: str) -> bool:
        """Whether the suite declares *capability*; the core, which is the empty one, it always does."""
        return not capability or capability in self.declared

    def declared_of(self, calls: Mapping[str, tuple[str, T]]) -> dict[str, T]:
        """Those of *calls*, a table of name to capability and call, that the suite declares; the core has the capability `""`."""
        return {name: call for name, (capability, call) in calls.items() if self.offers(capability)}

    def bound(self, operation: Operation, client: Any, name: Any, token: str | None = None) -> Call[object]:
        """*operation* on *client*, *name* and *token* (a fresh one if None is given), yet to be called."""
        return functools.partial(operation.call, client, name, self.token() if token is None else token)

    def numbers(self) -> Limits:
        """The limits in force: the suite's, else the provider's, else the floors. Ask after the first `connect`."""
        if self.limits is not None:
            return self.limits

        limits = getattr(self.session.first_provider(), "limits", None)
        return limits if isinstance(limits, self.limits_type) else self.limits_type()

    @property
    def virtual_time(self) -> bool:
        """Whether `advance` moves a clock instead of waiting."""
        return type(self).advance is not Contract.advance

    def now(self) -> float:
        """Seconds on the clock by which the provider measures expiry."""
        return self.session.advanced if self.virtual_time else time.monotonic()

    async def wait(self, seconds: float) -> None:
        """Let *seconds* pass on that clock."""
        if seconds > 0:
            await self.session.hook("advance", self.advance(seconds))
            self.session.advanced += seconds

    async def settle(self) -> None:
        """Let the time pass after which every client sees what any of them wrote."""
        await self.wait(self.numbers().staleness)

    @property
    def seed(self) -> int:
        """The seed of everything random in this run."""
        text = os.environ.get("OMNITCK_SEED") or "0"
        try:
            return int(text)
        except ValueError:
            raise session.HookError(f"OMNITCK_SEED is {text!r}: give a whole number.") from None

    def fail_rule(self, *, given: str, expected: str, observed: str, hint: str = "") -> NoReturn:
        """The provider broke the rule."""
        raise Violation(given=given, expected=expected, observed=observed, hint=hint)

    def check(self, holds: bool, *, given: str, expected: str, observed: object, hint: str = "") -> None:
        """Fail the rule unless *holds*."""
        if not holds:
            self.fail_rule(
                given=given,
                expected=expected,
                observed=observed if isinstance(observed, Plain) else describe(observed),
                hint=hint,
            )

    def same(self, observed: object, expected: object, *, given: str, hint: str = "") -> None:
        """Fail the rule unless *observed* equals *expected* and has exactly its type."""
        if type(observed) is type(expected) and observed == expected:
            return

        wanted, seen = describe(expected), describe(observed)
        if wanted == seen:
            wanted, seen = (f"{text}, of type {type(each).__name__}" for text, each in ((wanted, expected), (seen, observed)))
        self.fail_rule(given=given, expected=wanted, observed=seen, hint=hint)

    async def refused(
        self,
        call: Call[object],
        error: type[BaseException] | tuple[type[BaseException], ...],
        *,
        given: str,
        hint: str = "",
    ) -> BaseException:
        """Fail the rule unless *call* raises *error*; returns what it raised."""
        errors = error if isinstance(error, tuple) else (error,)
        expected = " or ".join(each.__name__ for each in errors)
        try:
            result = await call()
        except errors as raised:
            return raised
        except UnavailableError:
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

    async def check_walk(
        self,
        provider: object,
        reference: Callable[[], object],
        steps: Sequence[Step],
        *,
        names: Callable[[], list[str]] | None = None,
        refine: Refine = lambda step, value: value,
        version_of: VersionOf = lambda step, value: None,
        subject: str = "store",
    ) -> None:
        """Fail the rule unless *steps* give on *provider* what they give on a fresh *reference*; for the rest see `walk`."""
        divergence = await walk(
            provider,
            reference,
            steps,
            # None of them begins another, so that a prefix is one name.
            names=names or (lambda: [self.key("w") for _ in range(WALK_NAMES)]),
            refine=refine,
            version_of=version_of,
            subject=subject,
        )
        if divergence is not None:
            self.fail_rule(
                given=f"a random walk, OMNITCK_SEED={self.seed}; shortened to\n{divergence.reproduction}",
                expected=divergence.expected,
                observed=divergence.observed,
            )

    def enumerates(self) -> bool:
        """Whether the cells can be listed in this suite."""
        capability = self.cells.enumerates
        return capability is not None and self.offers(capability)

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """One case of several: a failure inside is kept, the rule goes on, and fails once with all of them."""
        try:
            yield
        except (session.HookError, UnavailableError, session.NotProvoked):
            raise
        except Exception as error:
            violation = session.as_violation(error)
            violation.case = name
            violation.trace = self.session.journal.lines()
            self.session.violations.append(violation)

    def not_provoked(self, reason: str) -> NoReturn:
        """The rule cannot be provoked with this suite."""
        raise session.NotProvoked(reason)


MOST_TRIES = 100
"""Tries of one change among at most 80 that compete."""


class Plain(str):
    """Text that a failure shows as it is, not as a Python literal."""


class Policy(Contract):
    """A contract for a cross-cutting concern: no provider of its own, written against any contract's `Cells`."""

    config: ClassVar[frozenset[str]] = frozenset()
    """What `make_provider` must take, for the policy to drive it."""


def contract_of(cls: type) -> list[type[Contract]]:
    """The contracts, not policies, among the bases of *cls*."""
    return [
        each
        for each in cls.__mro__
        if issubclass(each, Contract)
        and not issubclass(each, Policy)
        and not issubclass(each, unittest.TestCase)
        and "name" in vars(each)
        and each is not Contract
    ]


def _check_suite(cls: type[Contract]) -> None:
    """Refuse, in one sentence, whatever could make a suite claim more or run less than its author thinks."""
    primitives = contract_of(cls)
    if len(primitives) != 1:
        names = ", ".join(each.__name__ for each in primitives) or "only policies"
        raise UsageError(f"{cls.__qualname__} mixes {names}: a suite has exactly one contract; make one suite for each.")

    cls.contract = primitives[0]
    cls.policies = tuple(
        each
        for each in cls.__mro__
        if issubclass(each, Policy) and not issubclass(each, unittest.TestCase) and "name" in vars(each)
    )
    cls.audits = tuple(
        found for _, member in inspect.getmembers(cls, callable) if isinstance(found := getattr(member, "audit", None), Audit)
    )
    cls.declared = _declared(cls)
    _refuse_overrides(cls)
    for each in _all_rules(cls):
        if not each.applies_to(cls.contract):
            setattr(cls, each.method, None)  # which no runner takes for a test
    _check_deviations(cls)
    _check_hooks(cls)
    if cls.backend not in ("asyncio", "trio"):
        raise UsageError(f'{cls.__qualname__}.backend is {cls.backend!r}: use "asyncio" or "trio".')
    for number in ("patience", "deadline"):
        value = getattr(cls, number)
        if (value is not None or number == "patience") and not (isinstance(value, int | float) and value > 0):
            raise UsageError(f"{cls.__qualname__}.{number} is {describe(value)}: give a number of seconds above 0.")
    cls.check_suite()
    for declaration in ("limits", "credentials", "again"):
        check_declaration(declaration, getattr(cls, declaration), f"{cls.__qualname__}.", cls.limits_type)


def check_declaration(key: str, value: object, owner: str = "", limits_type: type[Limits] = Limits) -> None:
    """Refuse a declaration whose type is wrong."""
    if key == "limits" and value is not None and not isinstance(value, limits_type):
        raise UsageError(f"{owner}limits is {describe(value)}: give an omnitck.shared.models.{limits_type.__name__}.")
    if key == "credentials" and not (isinstance(value, tuple | list) and all(isinstance(each, str) and each for each in value)):
        raise UsageError(f"{owner}credentials is no list of strings: give the secrets of the configuration, none of them empty.")
    if key == "again" and not isinstance(value, str):
        raise UsageError(f"{owner}again is {describe(value)}: give the command that repeats a rule, with {{rule}} in it.")


def known_capabilities(contract: type[Contract]) -> frozenset[str]:
    """Every capability that a suite of *contract* may declare."""
    return frozenset(contract.protocols) - {""} | PROFILES["production"]


def _declared(cls: type[Contract]) -> frozenset[str]:
    if cls.profile not in PROFILES:
        raise UsageError(f"{cls.__qualname__}: unknown profile {cls.profile!r}; {suggest(str(cls.profile), PROFILES)}")

    given = cls.capabilities
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{cls.__qualname__}.capabilities is {describe(given)}: give a set of names.")

    given = tuple(given)
    known = known_capabilities(cls.contract)
    for each in given:
        if each not in known:
            raise UsageError(
                f"{cls.__qualname__}: unknown capability {describe(each)} of {cls.contract.name}; {suggest(str(each), known)}"
            )
    return frozenset(given) | PROFILES[cls.profile] | (cls.contract.production if cls.profile == "production" else frozenset())


def _refuse_overrides(cls: type[Contract]) -> None:
    for owner in (cls.contract, *cls.policies):
        for each in rules_of(owner):
            if each.applies_to(cls.contract) and _rule_method(cls, each.method) is not getattr(owner, each.method):
                raise UsageError(
                    f"{cls.__qualname__} overrides rule {each.id_in(cls.contract.prefix)} ({each.method}): a rule cannot be "
                    f'replaced; say known_deviations = {{"{each.id_in(cls.contract.prefix)}": "reason or link"}} instead.'
                )


def _check_deviations(cls: type[Contract]) -> None:
    if not isinstance(cls.known_deviations, Mapping):
        raise UsageError(f"{cls.__qualname__}.known_deviations is no mapping of rule ids to reasons.")

    known = {each.id_in(cls.contract.prefix) for each in rules_of(cls)} | {each.id for each in cls.audits}
    for id, reason in cls.known_deviations.items():
        if id not in known:
            raise UsageError(f"{cls.__qualname__}.known_deviations: unknown rule {describe(id)}; {suggest(str(id), known)}")
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"{cls.__qualname__}.known_deviations: {id} needs a reason, or a link to one.")


def _check_hooks(cls: type[Contract]) -> None:
    for hook in (*HOOKS, *cls.contract.hooks):
        if not inspect.iscoroutinefunction(getattr(cls, hook)):
            raise UsageError(f"{cls.__qualname__}.{hook} is no coroutine function: write it with `async def`.")

    parameters = inspect.signature(cls.make_provider).parameters.values()
    for policy in cls.policies:
        missing = policy.config - {each.name for each in parameters}
        if missing and not any(each.kind is each.VAR_KEYWORD for each in parameters):
            raise UsageError(
                f"{cls.__qualname__}.make_provider takes no {' and no '.join(sorted(missing))}, which {policy.name} gives it: "
                f"write `async def make_provider(self, *, {', '.join(sorted(missing))}=None, **config)`."
            )

    if "availability" in cls.declared and not (has_hook(cls, "unreachable_provider") or has_hook(cls, "backend_address")):
        raise UsageError(
            f"{cls.__qualname__} declares `availability` but has neither hook that can show it: "
            "write `unreachable_provider` or `backend_address`."
        )


def has_hook(cls: type[Contract], hook: str) -> bool:
    """Whether the suite supplies an optional hook: a method of its own, or a declaration that is not empty."""
    supplied = getattr(cls, hook)
    return supplied is not getattr(cls.contract, hook) if callable(supplied) else bool(supplied)


def _put_on_backend(cls: type[Contract]) -> None:
    """Let the rules of a suite run on its event loop, whatever that of its base class was."""
    for each in rules_of(cls):
        method = _rule_method(cls, each.method)
        if cls.backend != "asyncio":
            setattr(cls, each.method, _on_backend(method, cls.backend))
        elif getattr(cls, each.method) is not method:
            setattr(cls, each.method, method)


def _on_backend(test: Callable[..., Awaitable[None]], backend: str) -> Callable[..., None]:
    """The same rule under another event loop: IsolatedAsyncioTestCase runs a plain method without a loop of its own."""

    @functools.wraps(test)
    def run(self: Contract) -> None:
        anyio.run(test, self, backend=backend)

    # Some runners would look through `__wrapped__` and take this for a coroutine function.
    del run.__wrapped__
    run.runs = test  # type: ignore[attr-defined]
    return run


def _rule_method(cls: type, name: str) -> Any:
    """The method as its contract defines it, also where a suite runs it on another event loop."""
    method = getattr(cls, name, None)
    return getattr(method, "runs", method)
