"""The kit proves itself: references pass everything, and every defect fails exactly the rules that it names.

The laws: a reference passes every rule with every capability declared, without a skip; undeclaring a capability skips exactly its
rules; each defect *fails* (no error, no hang) the rules it names, and no other; each rule is failed by at least one defect; the
text of a failure holds the rule's id, what was expected and observed, and no credential; and no rule rejects a provider that is
unusual but correct, with one rule at a time or with many.

A policy is proven whole on one contract, where every defect meets its rules too. On the others it meets the reference and the
defects that name a rule of it: all combinations of policies, defects and rules would grow with each policy that is added.
"""

import asyncio
import functools
import multiprocessing
import os
import unittest
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from omnitck.concurrent import ConcurrentSuite
from omnitck.defects import Defect, defects_of
from omnitck.kit.checks import catalogue
from omnitck.kit.contract import Policy
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.kit.text import UsageError
from omnitck.registry import BUILT_IN, find
from omnitck.report.audits import sum_up
from omnitck.selftest.reference import CREDENTIAL
from omnitck.unusual import unusual_of

__all__ = ["SelftestReport", "proven", "reference_suite", "selftest", "suite_of", "unusual_suite"]


class _TestCase(unittest.IsolatedAsyncioTestCase):
    """Without the debug mode of its event loop: the kit leaves it anyway, and its start takes a sixth of the selftest."""

    def _setupAsyncioRunner(self) -> None:  # noqa: N802  CPython's own; the selftest is as good, only slower, where it is gone
        self._asyncioRunner = asyncio.Runner(debug=False)


POLICIES_ARE_PROVEN_ON = "kv_store"

MANY_AT_A_TIME = 16
"""Rules of an unusual suite that run at once, the second time."""


@functools.cache
def policies() -> tuple[type[Any], ...]:
    """The kit's policies."""
    return tuple(found for name in BUILT_IN if issubclass(found := find(name), Policy))


@functools.cache
def proven() -> tuple[str, ...]:
    """The kit's contracts, each of which has a reference."""
    return tuple(name for name in BUILT_IN if not issubclass(find(name), Policy))


def suite_of(contract: str) -> type[Any]:
    """The suite of a contract's reference, without a TestCase, with every capability there is."""
    suite: type[Any] = import_module(f"omnitck.selftest.suites.{contract}").ReferenceSuite
    return suite


def reference_suite(
    contract: str,
    provider: type[Any] | None = None,
    *,
    without: frozenset[str] = frozenset(),
    composed: Iterable[type[Any]] | None = None,
    base: type[unittest.TestCase] = unittest.IsolatedAsyncioTestCase,
    **declarations: Any,
) -> type[Any]:
    """A suite of *contract*'s reference, or of *provider* in its place, with every capability but *without*.

    It is *composed* with every policy that has a subject there, if nothing else is said.
    """
    mixin = suite_of(contract)
    if composed is None:
        composed = [each for each in policies() if _has_subject(each, mixin)]
    members = {"capabilities": frozenset(mixin.capabilities) - without, "__module__": __name__, **declarations}
    if provider is not None:
        members["provider"] = provider
    return type(
        f"Reference_{contract}" if provider is None else provider.__name__,
        (mixin, *composed, base),
        members,
    )


def _has_subject(policy: type[Any], mixin: type[Any]) -> bool:
    """Whether some rule of *policy* is one of a suite of *mixin*."""
    return any(each.owner is policy for each in catalogue(type(mixin.__name__, (mixin, policy), {})))


def unusual_suite(contract: str, number: int) -> type[Any]:
    """The unusual suite of that *number* of *contract*, with a TestCase."""
    found = unusual_of(contract)[number]
    return type(f"Unusual_{contract}_{found.name}", (found.suite, unittest.IsolatedAsyncioTestCase), {"__module__": __name__})


@dataclass
class SelftestReport:
    """What the selftest found. It is a success if the four lists are empty."""

    rules: int = 0
    defects: int = 0
    caught: int = 0
    """Defects that failed exactly the rules that they name."""
    rules_without_defect: list[str] = field(default_factory=list)
    defects_not_caught: list[str] = field(default_factory=list)
    """One sentence for each defect that failed other rules than it names."""
    reference_failures: list[str] = field(default_factory=list)
    unusual: int = 0
    """Correct providers of an unusual kind."""
    unusual_rejected: list[str] = field(default_factory=list)
    """One sentence for each rule that rejected one."""

    @property
    def ok(self) -> bool:
        """Whether the kit can be trusted."""
        wrong = self.rules_without_defect, self.defects_not_caught, self.reference_failures, self.unusual_rejected
        return bool(self.rules) and not any(wrong)


def selftest(contracts: Sequence[str] = (), *, jobs: int = 0, progress: Callable[[str], None] | None = None) -> SelftestReport:
    """Check the laws for *contracts* (all if none are given) in *jobs* processes: if 0, three for each core, as rules wait.

    Raises UsageError for a contract without a reference; policies are proven with the contracts that they compose with.
    """
    report = SelftestReport()
    names = list(contracts or proven())
    for name in names:
        if name not in proven():
            raise UsageError(f"{name!r} has no reference of its own to prove it with: give one of {', '.join(proven())}.")

    tasks: list[Task] = []
    waiting: list[Task] = []
    for name in names:
        tasks.append(partial(_check_reference, name))
        tasks += [partial(_check_without, name, each) for each in sorted(suite_of(name).capabilities)]
        count = len(defects_of(name))
        report.defects += count
        tasks += [partial(_check_defect, name, number) for number in range(count)]
        strange = len(unusual_of(name))
        report.unusual += strange
        waiting += [partial(_check_unusual, name, number, many) for many in (1, MANY_AT_A_TIME) for number in range(strange)]
        suite = reference_suite(name)
        rules = {each.id for each in catalogue(suite)}
        report.rules += len(rules)
        report.rules_without_defect += sorted(rules - {id for defect in defects_of(name) for id in defect.rules})

    total = len(tasks) + len(waiting)
    for number, (kind, name, problems) in enumerate(_run(tasks, waiting, jobs or 3 * (os.cpu_count() or 1)), 1):
        if progress is not None:
            progress(f"{number:3}/{total} {kind} {name}: {'NOT AS IT SHOULD BE' if problems else 'ok'}")
        if kind == "defect":
            report.caught += not problems
            report.defects_not_caught += [f"{name} {each}" for each in problems]
        elif kind == "unusual":
            report.unusual_rejected += [f"{name}: {each}" for each in problems]
        else:
            report.reference_failures += [f"{name}: {each}" for each in problems]
    return report


Task = Callable[[], tuple[str, str, list[str]]]
"""What is checked, the name of it, and what is wrong."""

WAITING = 8
"""Processes for what waits far more than it computes: for real clocks."""


def _run(tasks: Sequence[Task], waiting: Sequence[Task], jobs: int) -> Iterator[tuple[str, str, list[str]]]:
    """What becomes of all of them, in *jobs* processes; those that mostly wait are done beside, if there may be several."""
    if jobs == 1:
        for task in (*tasks, *waiting):
            yield task()
        return

    # Not by fork: who calls may have threads, and a lock that one of them holds would stay locked in a child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool, ProcessPoolExecutor(WAITING, context) as beside:
        futures = [pool.submit(task) for task in tasks] + [beside.submit(task) for task in waiting]
        yield from (future.result() for future in futures)


def _outcomes(suite: type[Any], jobs: int = 1) -> dict[str, Outcome]:
    """Run a suite with nothing printed; its outcomes by rule, and of each audit one for all that it watched."""
    heard: dict[str, list[Outcome]] = {}
    with listening(lambda cls, outcome: heard.setdefault(outcome.rule, []).append(outcome) if cls is suite else None):
        ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(suite), jobs).run(unittest.TestResult())
    return {id: sum_up(each) if each[0].during else each[0] for id, each in heard.items()}


def _check_reference(contract: str) -> tuple[str, str, list[str]]:
    suite = reference_suite(contract)
    outcomes = _outcomes(suite)
    rules = {each.id for each in catalogue(suite)}
    problems = [f"{id} was not run" for id in sorted(rules - set(outcomes))]
    problems += [f"{each.rule} {each.outcome}: {each.message}" for each in outcomes.values() if each.outcome is not Status.PASSED]
    return "reference", contract, problems


def _check_without(contract: str, capability: str) -> tuple[str, str, list[str]]:
    """The mirror law: without a capability its rules are not declared, and every other passes."""
    suite = reference_suite(contract, without=frozenset({capability}), base=_TestCase)
    problems = []
    by_id = {each.id: each for each in catalogue(suite)}
    for id, outcome in _outcomes(suite).items():
        expected = Status.NOT_DECLARED if capability in by_id[id].needs else Status.PASSED
        if outcome.outcome is not expected:
            problems.append(f"{id} is {outcome.outcome}, not {expected}: {outcome.message}")
    return "reference", f"{contract} without {capability}", problems


def _check_defect(contract: str, number: int) -> tuple[str, str, list[str]]:
    defect = defects_of(contract)[number]
    suite = reference_suite(contract, defect.provider, without=defect.without, composed=_concerned(defect), base=_TestCase)
    # A walk finds some defects with some seeds: those that name it were chosen with this one.
    with _seeded("0"):
        outcomes = _outcomes(suite)
    return "defect", defect.name, list(_problems(defect, outcomes))


def _check_unusual(contract: str, number: int, jobs: int) -> tuple[str, str, list[str]]:
    """No rule rejects what obeys it: what the suite cannot show is not declared, or not provoked."""
    suite = unusual_suite(contract, number)
    outcomes = _outcomes(suite, jobs)
    fine = Status.PASSED, Status.NOT_DECLARED, Status.NOT_PROVOKED
    problems = [f"{each.rule} {each.outcome}: {each.message}" for each in outcomes.values() if each.outcome not in fine]
    core = [each.id for each in catalogue(suite) if not each.needs and not each.rule.ambient]
    problems += [f"{id} was not run" for id in core if id not in outcomes]
    return "unusual", f"{contract} {unusual_of(contract)[number].name} with jobs={jobs}", problems


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    before = os.environ.get("OMNITCK_SEED")
    os.environ["OMNITCK_SEED"] = seed
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMNITCK_SEED"]
        else:
            os.environ["OMNITCK_SEED"] = before


def _concerned(defect: Defect) -> list[type[Any]]:
    """The policies whose rules the defect has to meet."""
    return [
        each
        for each in policies()
        if defect.contract == POLICIES_ARE_PROVEN_ON or any(id.startswith(f"{each.definition.prefix}-") for id in defect.rules)
    ]


def _problems(defect: Defect, outcomes: dict[str, Outcome]) -> Iterator[str]:
    failed = {id for id, each in outcomes.items() if each.outcome is Status.FAILED}
    if missed := sorted(defect.rules - failed):
        yield f"passed {', '.join(missed)}"
    for id in sorted(failed - defect.rules):
        yield f"also failed {id}: {outcomes[id].message}"  # in full: such a thing may not come again
    for id, outcome in outcomes.items():
        if outcome.outcome is Status.ERROR:
            yield f"ended {id} with an error: {outcome.message}"
        if outcome.outcome is Status.FAILED:
            missing = [each for each in (id, "expected", "observed") if each not in outcome.message]
            if missing:
                yield f"failed {id} with a text that lacks {', '.join(missing)}"
            if CREDENTIAL in outcome.message:
                yield f"failed {id} with a text that shows a credential"
