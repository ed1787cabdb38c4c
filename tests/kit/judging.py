"""A contract of one rule, whose body a test supplies, and what becomes of it."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from omnitck.kit.contract import Contract
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.trial import Trial
from omnitck.shared.capabilities import PRODUCTION
from tests.helpers import outcome_of, suite_of

__all__ = ["Judged", "Working", "call", "calling", "judge", "masked", "raising", "thing"]

Body = Callable[[Any], Awaitable[None]]
"""Of a rule: it is given the trial."""


async def call(t: Any) -> None:
    """The plainest rule: one call on one client."""
    await (await t.connect()).call()


def beside(number: int, capability: str) -> Any:
    """A rule of *capability* that nothing fails."""

    async def test(self: object, t: Trial[Any]) -> None:
        """Nothing is asked."""

    test.__name__ = f"test_th_9{number}_beside"
    return rule(f"TH-9{number}", capability)(test)


def thing(
    provider: Callable[[], object] | None = None,
    body: Body = call,
    *,
    needs: tuple[str, ...] = (),
    hook: str | None = None,
    define: dict[str, Any] | None = None,
    **members: Any,
) -> Any:
    """The suite of one rule that matters, `TH-01`, on what *provider* makes; *define* is more of the contract's definition.

    Each of its capabilities has a rule beside, as one without could not be declared.
    """
    defined: dict[str, Any] = {"protocols": dict.fromkeys(("extra", "more"), Protocol), **(define or {})}

    class ThingContract(Contract):
        definition = Definition(name="thing", prefix="TH", **defined)
        for number, capability in enumerate(sorted({*defined["protocols"], *PRODUCTION} - {"", *needs})):
            locals()[f"test_th_9{number}_beside"] = beside(number, capability)

        @rule("TH-01", *needs, hook=hook)
        async def test_th_01_it_works(self, t: Trial[Any]) -> None:
            """A thing works."""
            await body(t)

    async def make_provider(self: Any) -> object:
        assert provider is not None
        return provider()

    made = make_provider if provider else Contract.make_provider
    return suite_of(ThingContract, **{"make_provider": made, **members})


class Judged(NamedTuple):
    """What became of the rule, without what differs from run to run."""

    status: str
    message: str
    told: str
    """What a unittest runner was told."""

    @property
    def observed(self) -> str:
        """What the failure says was observed, or the whole message if it says nothing of the kind."""
        found = re.search(r"  observed  (.*)", self.message)
        return found[1] if found else self.message


def judge(provider: Callable[[], object] | None = None, body: Body = call, **more: Any) -> Judged:
    """Run the suite `thing` with the same arguments."""
    outcome, result = outcome_of(thing(provider, body, **more), "test_th_01_it_works")
    assert (outcome.suite, outcome.rule, result.testsRun) == ("mine.Suite", "TH-01", 1)
    told = "".join(text for _, text in [*result.failures, *result.errors, *result.skipped])
    kind = "failure " if result.failures else "error " if result.errors else "skip " if result.skipped else "success"
    return Judged(outcome.outcome.value, masked(outcome.message), kind + masked(told))


def masked(text: str) -> str:
    """*text* without what differs from run to run."""
    for pattern, mask in (
        (r"omnitck[0-9a-f]{12}", "NAMESPACE"),
        (r"\+\d+\.\d ms", "+# ms"),
        (r"(provider  )[\w.]+\.(?:<locals>\.)?", r"\1"),
    ):
        text = re.sub(pattern, mask, text)
    return text


def line_of(function: Callable[..., object], number: int = 0) -> str:
    """The line of *function*'s source, counted from its `def`, as failures name it."""
    code = function.__code__
    return f"{code.co_filename.rpartition('/')[2]} line {code.co_firstlineno + number}"


class Working:
    async def call(self, *arguments: object) -> str:
        return "done"


def calling(method: Callable[..., Awaitable[object]], **members: Any) -> type:
    """A provider whose `call` is *method*."""
    return type("Thing", (), {"call": method, **members})


def raising(error: BaseException) -> Any:
    """A provider whose `call` raises *error*."""

    class Raising:
        async def call(self) -> None:
            raise error

    return Raising
