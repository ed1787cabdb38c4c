"""The tables of operations: each is one call of the provider, which succeeds once arranged, or is refused as the table says."""

import unittest
from functools import partial
from typing import Any
from unittest import mock

import anyio
import anyio.lowlevel

from omnitck import Definition, Operation, Policy, Trial, rule
from omnitck.kit.concurrency import attempt
from omnitck.kit.outcomes import Outcome
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain
from omnitck.primitives.kv_store import KVCells
from omnitck.selftest.laws import proven, reference_suite
from omnitck.shared.exceptions import NotFoundError, TCKError
from tests.helpers import outcome_of

HANDS_OUT = {"get_lock"}
"""Methods that ask nobody: what is done with what they hand out is a call."""


class Counted:
    """A client, or what it handed out, and the calls that were made of its methods."""

    def __init__(self, client: Any, calls: list[str] | None = None) -> None:
        self._client = client
        self.calls: list[str] = [] if calls is None else calls

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        return partial(self._call, name, member) if callable(member) else member

    def _call(self, name: str, member: Any, /, *arguments: Any, **keywords: Any) -> Any:
        if name in HANDS_OUT:
            self.calls.append(name)  # which is all that it comes to, if it is refused
            handed_out = Counted(member(*arguments, **keywords), self.calls)
            self.calls.pop()
            return handed_out
        if keywords.get("tx") is None:  # What is done in a transaction is part of that one call.
            self.calls.append(name)
        return member(*arguments, **keywords)

    async def __aenter__(self) -> Any:
        self.calls.append("async with")
        return await self._client.__aenter__()

    async def __aexit__(self, *exc_info: Any) -> Any:
        return await self._client.__aexit__(*exc_info)


async def faults(t: Trial[Any], operation: Operation, *, refused: bool) -> list[str]:
    """What is wrong with *operation*, on a client and under a name of its own: one sentence each."""
    client, name = Counted(await t.connect()), t.key()
    if refused and t.cells is not None:
        await t.cells.write(client, name, t.token())
    arranged = await attempt(partial(t.arranged, operation, client, name))
    if arranged.error is not None:
        return [f"cannot be arranged: {describe_error(arranged.error)}"]

    client.calls.clear()
    tried = await attempt(arranged.result())
    found = []
    if len(client.calls) != 1:
        found.append(f"makes {len(client.calls)} calls, not one: {', '.join(client.calls)}")
    if not ends_as_it_says(operation, tried.error, refused):
        ended = f"returns {describe(tried.value)}" if tried.error is None else f"raises {describe_error(tried.error)}"
        says = "nothing of how it is refused" if operation.refusal is None else operation.refusal.__name__
        found.append(f"{ended}; the table says {says if refused else 'that it succeeds'}")
    return found


def ends_as_it_says(operation: Operation, error: BaseException | None, refused: bool) -> bool:
    if not refused:
        return error is None and operation.refusal is None
    # No provider raises `TCKError` itself: it stands where the contract leaves the choice between several.
    return isinstance(error, TCKError) if operation.refusal is TCKError else type(error) is operation.refusal


class TablePolicy(Policy):
    """Judges the table of a contract by a provider that does everything right."""

    definition = Definition(name="table", prefix="TAB")

    @rule("TAB-01", deadline=60)
    async def test_tab_01_the_table_is_true(self, t: Trial[Any]) -> None:
        """Every operation is one call that succeeds, every refusal is one call that is refused."""
        t.check(bool(t.operations()), given="the table of operations", expected="at least one", observed=[])
        wrong = [
            f"{operation.name}: {fault}"
            for refused, table in ((False, t.operations()), (True, t.refusals()))
            for operation in table
            for fault in await faults(t, operation, refused=refused)
        ]
        t.check(not wrong, given="the table of operations", expected="no fault", observed=Plain("\n".join(["", *wrong])))


def judged(contract: str) -> Outcome:
    return outcome_of(reference_suite(contract, composed=[TablePolicy]), "test_tab_01_the_table_is_true")[0]


class TestOperations(unittest.TestCase):
    """One test a contract, which lists every fault of its table."""

    def check(self, contract: str) -> None:
        outcome = judged(contract)
        self.assertEqual(outcome.outcome, "passed", outcome.message)


for each in proven():
    setattr(TestOperations, f"test_{each}", lambda self, contract=each: self.check(contract))


async def _get_twice(provider: Any, name: str, token: str) -> None:
    await provider.get(name)
    await provider.get(name)


class TestFaults(unittest.TestCase):
    """What is found in a table that is wrong."""

    def test_every_fault_is_listed(self) -> None:
        operations = (
            Operation("twice", _get_twice, "get"),
            Operation("never", lambda p, n, t: anyio.lowlevel.checkpoint(), "get"),
            Operation("expires_in", lambda p, n, t: p.expires_in(n), "expires_in", "ttl"),
            Operation("arranged", lambda p, n, t, _=None: p.get(n), "get", arrange=lambda p, n, t: p.expires_in(n)),
        )
        refusals = (
            Operation("accepted", lambda p, n, t: p.get(n), "get", refusal=NotFoundError),
            Operation("unsaid", lambda p, n, t: p.set(n, t.encode()), "set"),
            Operation("another", lambda p, n, t: p.set(n, t.encode()), "set", refusal=NotFoundError),
        )
        with mock.patch.multiple(KVCells, operations=operations, refusals=refusals):
            message = judged("kv_store").message
        for fault in (
            "twice: makes 2 calls, not one: get, get",
            "never: makes 0 calls, not one: ",
            "expires_in: raises NotFoundError",
            "arranged: cannot be arranged: NotFoundError",
            "accepted: returns 'omnitck",
            "unsaid: raises InvalidArgumentError",
            "another: raises InvalidArgumentError",
        ):
            with self.subTest(fault):
                self.assertIn(fault, message)
