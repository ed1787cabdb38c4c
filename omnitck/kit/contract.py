"""Contracts, policies and suites: what their authors declare, and the hooks that they supply.

A contract is a mixin of rules for `unittest.IsolatedAsyncioTestCase`. A class that mixes one contract, any number of policies
and a TestCase is a suite. What a suite has beside that is its author's own: the words in which rules are written belong to the
trial that each rule gets, not to the suite.
"""

import functools
import unittest
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar

import anyio

from omnitck.kit import checks, session
from omnitck.kit.definition import Definition, Plan
from omnitck.kit.rules import Rule
from omnitck.kit.trial import Trial
from omnitck.shared.models import Limits

__all__ = ["Contract", "Policy", "plan_of"]


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
            _fit_methods(cls, plan)
        elif "definition" in vars(cls):
            checks.check_contract(cls)

    async def _omnitck_run(self, rule: Rule, body: Callable[..., Awaitable[None]]) -> None:
        __tracebackhide__ = True
        plan = plan_of(type(self))
        checks.check_instance(self, plan)
        await session.run(self, plan, plan.by_method[rule.method], body)

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


class Policy(Contract):
    """A contract for a cross-cutting concern: no provider of its own, composed with any contract."""

    _omnitck_policy = True


def plan_of(suite: type) -> Plan:
    """What *suite* comes to."""
    plan: Plan = suite._omnitck_plan  # type: ignore[attr-defined]
    return plan


def _fit_methods(cls: Any, plan: Plan) -> None:
    """Leave out the rules that have no subject, and let the others run on the suite's event loop, whatever its base's was."""
    own = {each.rule.method for each in plan.entries}
    for name in dir(cls):
        found = getattr(getattr(cls, name, None), "rule", None) if name.startswith(("test", "audit")) else None
        if isinstance(found, Rule) and name not in own:
            setattr(cls, name, None)  # which no runner takes for a test
    for each in plan.rules:
        method = getattr(cls, each.rule.method)
        test = getattr(method, "runs", method)
        if cls.backend != "asyncio":
            setattr(cls, each.rule.method, _on_backend(test, cls.backend))
        elif method is not test:
            setattr(cls, each.rule.method, test)


def _on_backend(test: Callable[..., Awaitable[None]], backend: str) -> Callable[..., None]:
    """The same rule under another event loop: IsolatedAsyncioTestCase runs a plain method without a loop of its own."""

    @functools.wraps(test)
    def run(self: Contract) -> None:
        anyio.run(test, self, backend=backend)

    # Some runners would look through `__wrapped__` and take this for a coroutine function.
    del run.__wrapped__
    run.runs = test  # type: ignore[attr-defined]
    return run
