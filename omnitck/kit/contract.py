"""Contracts, policies and suites: what their authors declare, and the hooks that they supply.

A contract is a mixin of rules for `unittest.IsolatedAsyncioTestCase`. A class that mixes one contract, any number of policies
and a TestCase is a suite. What a suite has beside that is its author's own: the words in which rules are written belong to the
trial that each rule gets, not to the suite.
"""

import unittest
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import anyio

from omnitck.kit import checks, session
from omnitck.kit.definition import Definition, Plan
from omnitck.kit.outcomes import Outcome, Status, emit, record
from omnitck.kit.rules import Rule
from omnitck.kit.trial import Trial
from omnitck.shared.models import Limits

__all__ = ["Contract", "Policy", "plan_of", "runs_loop"]

__unittest = True  # unittest leaves the frames of such a module out of what it prints.


class Contract:
    """What every suite has: declarations and hooks. A subclass with a `definition` and rules is a contract."""

    definition: ClassVar[Definition]
    """The contract in data. Reserved: a suite does not replace it."""
    trial: ClassVar[type[Trial[Any]]] = Trial
    """The words in which its rules are written. Reserved."""
    declared: ClassVar[frozenset[str]] = frozenset()
    """What a suite declares, the capabilities of its profile included. Reserved; made when the suite is created."""

    # What the author of a suite may declare.

    capabilities: ClassVar[Iterable[str] | type] = frozenset()
    """The optional parts that the provider promises; all their rules run. Or its class, whose own `capabilities` says them."""
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
    """Seconds of work for a rule, in place of each rule's own."""
    backend: ClassVar[str] = "asyncio"
    """The event loop: `asyncio` or `trio`."""
    again: ClassVar[str] = ""
    """The command that repeats one rule, with `{rule}` in it; by default unittest's own."""

    _omnitck_policy: ClassVar[bool] = False
    _omnitck_plan: ClassVar[Plan | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, unittest.TestCase):
            cls._omnitck_plan = plan = checks.plan_suite(cls, Contract)
            cls.declared = plan.declared
            _add_tests(cls, plan)
        elif "definition" in vars(cls):
            checks.check_contract(cls)

    async def _omnitck_run(self, rule: Rule, body: Callable[..., Awaitable[None]]) -> None:
        __tracebackhide__ = True
        plan = plan_of(type(self))
        checks.check_instance(self, plan)
        await session.run(self, plan, plan.by_method[rule.method], body)

    def run(self, result: Any = None) -> Any:
        """Run the test, and record what became of its rule once the test has been torn down, too."""
        self._omnitck_unrecorded: list[Outcome] | None = []
        try:
            return super().run(result)  # type: ignore[misc]
        finally:
            unrecorded, self._omnitck_unrecorded = self._omnitck_unrecorded or [], None
            for each in unrecorded:
                record(self._omnitck_whole(each))

    def _callTestMethod(self, method: Any) -> Any:  # noqa: N802
        """Unittest's own, which calls the test: the frames of the event loop would stand before each failure."""
        __tracebackhide__ = True
        try:
            return super()._callTestMethod(method)  # type: ignore[misc]
        except Exception as error:
            raise error.with_traceback(None)  # noqa: B904

    def _omnitck_judged(self, outcomes: Iterable[Outcome]) -> None:
        """Take what became of the rule and of each audit. Whoever listens hears it at once."""
        outcomes = tuple(outcomes)
        # A test that raises, as an audit failed for one, does not succeed: that says nothing of its tear-down.
        raises = any(each.outcome in (Status.FAILED, Status.ERROR) for each in outcomes)
        self._omnitck_test = None if raises else getattr(self, "_outcome", None)
        for each in outcomes:
            emit(type(self), each)
            if getattr(self, "_omnitck_unrecorded", None) is None:
                record(each)  # Somebody debugs the test, and does not `run` it.
            else:
                self._omnitck_unrecorded.append(each)  # type: ignore[union-attr]

    def _omnitck_whole(self, outcome: Outcome) -> Outcome:
        """*outcome* as it stands at the end of the test, in the eyes of unittest."""
        if outcome.outcome is not Status.PASSED or outcome.during or getattr(self._omnitck_test, "success", True):
            return outcome

        text = f"{outcome.rule} could not be judged: the test failed after its rule had passed, as it was torn down"
        return replace(outcome, outcome=Status.ERROR, message=text)

    def __reduce__(self) -> Any:
        """A test that has not run, for runners that hand tests to other processes: unittest's own cannot be pickled."""
        return type(self), (self._testMethodName,)  # type: ignore[attr-defined]

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

    async def crash(self, client: Any) -> None:
        """Let *client* vanish as if its process had been killed: its sockets and tasks end, and it tells nobody. Optional."""
        raise NotImplementedError

    async def cut(self) -> None:
        """Make the backend unreachable for every client until `heal`. Optional; a suite with `backend_address` needs neither."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Make the backend reachable again."""
        raise NotImplementedError

    async def describe_backend(self) -> str:
        """What a failed rule's text says of the backend: what it holds, or the last lines of its log. Optional."""
        raise NotImplementedError


class Policy(Contract):
    """A contract for a cross-cutting concern: no provider of its own, composed with any contract."""

    _omnitck_policy = True


def plan_of(suite: type) -> Plan:
    """What *suite* comes to."""
    plan: Plan = suite._omnitck_plan  # type: ignore[attr-defined]
    return plan


def runs_loop(suite: type) -> bool:
    """Whether a test of *suite* is a coroutine function, which its base class runs on a loop of its own making.

    Any other base would never await it; and another backend's loop is none that a base class makes.
    """
    return issubclass(suite, unittest.IsolatedAsyncioTestCase) and suite.backend == "asyncio"  # type: ignore[attr-defined]


def _add_tests(cls: Any, plan: Plan) -> None:
    """Make a test of each rule that has a subject, as a runner of the suite's base class expects it."""
    for each in plan.rules:
        unbound = getattr(each.owner, each.rule.method)
        test = _test(each.rule, unbound.body) if runs_loop(cls) else _test_with_loop(each.rule, unbound.body, cls.backend)
        for name in ("__name__", "__doc__", "__module__"):
            setattr(test, name, getattr(unbound.body, name))
        test.__qualname__ = f"{cls.__qualname__}.{each.rule.method}"
        test.rule, test.unbound = each.rule, unbound  # type: ignore[attr-defined]
        setattr(test, each.id, True)  # pytest's `-k KV-03` finds it by this name.
        setattr(cls, each.rule.method, test)


def _test(rule: Rule, body: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    async def test(self: Contract) -> None:
        __tracebackhide__ = True
        await self._omnitck_run(rule, body)

    return test


def _test_with_loop(rule: Rule, body: Callable[..., Awaitable[None]], backend: str) -> Callable[..., Any]:
    def test(self: Contract) -> None:
        __tracebackhide__ = True
        anyio.run(self._omnitck_run, rule, body, backend=backend)

    return test
