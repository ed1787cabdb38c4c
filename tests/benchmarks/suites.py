"""Whole suites: the reference's, the selftest, and that of a real server."""

import asyncio
import json
import subprocess
import tracemalloc
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from typing import Any

from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.reference.object_storage import MemoryObjectBackend, MemoryObjectStorage
from omnitck.selftest.laws import proven, reference_suite
from omnitck.shared.models import ObjectLimits
from tests.benchmarks.measure import Figure, child, in_turns, run_quietly, seconds

__all__ = ["jobs", "nats", "rabbitmq", "reference", "selftest", "streaming", "valkey"]

JOBS = 16
GROUPS = (
    ("four contracts of data", ("secrets", "object_storage", "cache", "document_database"), JOBS, (None, 3)),
    ("three of messaging", ("producer", "consumer", "delayed_messaging"), 32, (3, 1.5)),
)


class EmptyTest(unittest.IsolatedAsyncioTestCase):
    async def test_nothing(self) -> None:
        pass


def reference() -> Iterator[Figure]:
    """Each reference with every capability, tenancy, and a clock that the kit moves; then some of them together."""
    for contract in proven():
        suite = reference_suite(contract)
        yield from _reference(f"{contract}: ", lambda suite=suite: _tests(suite), JOBS, (2, 1))  # type: ignore[misc]
    for name, contracts, jobs, goals in GROUPS:
        group = [reference_suite(contract) for contract in contracts]
        yield from _reference(f"{name}: ", lambda group=group: unittest.TestSuite(map(_tests, group)), jobs, goals)  # type: ignore[misc]


def _reference(
    name: str, tests: Callable[[], unittest.TestSuite], jobs: int, goals: tuple[float | None, float]
) -> Iterator[Figure]:
    outcomes = _outcomes(tests())
    count = len(outcomes)
    least = in_turns(
        5,
        {
            "in sequence": lambda: seconds(lambda: run_quietly(tests())),
            f"jobs={jobs}": lambda: seconds(lambda: run_quietly(ConcurrentSuite(tests(), jobs=jobs))),
            "empty": lambda: seconds(lambda: run_quietly(unittest.TestSuite(EmptyTest("test_nothing") for _ in range(count)))),
        },
    )
    for how, goal in zip(("in sequence", f"jobs={jobs}"), goals, strict=True):
        yield Figure(
            f"{name}{count} rules, {how}",
            least[how],
            "s",
            f"{count} empty tests",
            least["empty"],
            at_most=goal,
            remark=_not_passed(outcomes),
        )


def jobs() -> Iterator[Figure]:
    """All references, many rules at a time, against one after the other: as nothing in them waits, there is nothing to win."""
    suites = [reference_suite(contract) for contract in proven()]

    def tests() -> unittest.TestSuite:
        return unittest.TestSuite(map(_tests, suites))

    outcomes = _outcomes(tests())
    least = in_turns(
        3,
        {
            "in sequence": lambda: seconds(lambda: run_quietly(tests())),
            "at once": lambda: seconds(lambda: run_quietly(ConcurrentSuite(tests(), jobs=JOBS))),
        },
    )
    yield Figure(
        f"all references: {len(outcomes)} rules, jobs={JOBS}",
        least["at once"],
        "s",
        "in sequence",
        least["in sequence"],
        ratio_at_most=1.1,
        remark=_not_passed(outcomes),
    )


def streaming() -> Iterator[Figure]:
    """What 64 MiB that pass through need beside the object itself, in the parts in which they travel."""
    part, whole = 1024 * 1024, 64 * 1024 * 1024
    limits = ObjectLimits(value_bytes=whole, part_bytes=part)
    for direction, peak in zip(("up", "down"), asyncio.run(_transients(limits, whole)), strict=True):
        yield Figure(f"64 MiB {direction}, memory beside the object", peak / part, "part", "one part", 1, ratio_at_most=4)


async def _transients(limits: ObjectLimits, whole: int) -> tuple[int, int]:
    store = MemoryObjectStorage(MemoryObjectBackend(limits=limits))

    async def source() -> AsyncIterator[bytes]:
        for number in range(whole // 65_536):
            yield number.to_bytes(8, "big") * 8_192

    tracemalloc.start()
    try:
        await store.upload("key", source())
        held, peak = tracemalloc.get_traced_memory()
        up = peak - held
        tracemalloc.reset_peak()
        async with store.download_stream("key") as stream:
            async for _ in stream:
                pass
        held, peak = tracemalloc.get_traced_memory()
        return up, peak - held
    finally:
        tracemalloc.stop()


def selftest() -> Iterator[Figure]:
    """Every defect against its full suite, in as many processes as the command takes here; the goal is for two processors."""
    suites = [reference_suite(contract) for contract in proven()]
    one = min(seconds(lambda: run_quietly(unittest.TestSuite(map(_tests, suites)))) for _ in range(3))
    runs: list[subprocess.CompletedProcess[str]] = []
    command = ["-m", "omnitck", "selftest", "--json"]
    least = min(seconds(lambda: runs.append(child(command))) for _ in range(2))
    defects = json.loads(runs[-1].stdout or "{}").get("defects", 0)
    yield Figure(
        f"selftest of {defects} defects",
        least,
        "s",
        "all references",
        one,
        at_most=20 * len(proven()),
        remark="" if runs[-1].returncode == 0 else "the selftest failed",
    )


def valkey() -> Iterator[Figure]:
    """A real server over TCP: the waits of its rules should overlap."""
    yield from _overlapping("valkey", "kv_store", JOBS, 1)


def nats() -> Iterator[Figure]:
    """The same, where rules wait for redeliveries and delays."""
    yield from _messaging("nats_jetstream")


def rabbitmq() -> Iterator[Figure]:
    """The same, on a broker that needs more of the processor."""
    yield from _messaging("rabbitmq")


def _messaging(backend: str) -> Iterator[Figure]:
    for contract in ("producer", "consumer", "delayed_messaging"):
        yield from _overlapping(backend, contract, 32, 2)


def _overlapping(backend: str, contract: str, jobs: int, more: float) -> Iterator[Figure]:
    """A suite on a real server, against its longest rule; the goal is 1.5 times that and some seconds *more*."""
    from examples import servers
    from examples.__main__ import suites_of

    try:
        [suite] = suites_of(import_module(f"examples.{backend}.test_{contract}"))
        suite.setUpClass()
    except (servers.Missing, ImportError) as error:
        raise unittest.SkipTest(str(error)) from error

    # The longest rule when it has the machine to itself: among others it takes longer, and would excuse them.
    outcomes = _outcomes(_tests(suite))
    alone = max(outcomes, key=lambda each: each.seconds, default=None)
    if alone is None:
        raise unittest.SkipTest("no rule ran")

    name = f"{backend} {contract}: {len(outcomes)} rules"
    least = in_turns(3, {"at once": lambda: seconds(lambda: run_quietly(ConcurrentSuite(_tests(suite), jobs=jobs)))})
    yield Figure(
        f"{name}, jobs={jobs}",
        least["at once"],
        "s",
        f"its longest rule, {alone.rule}",
        alone.seconds,
        at_most=1.5 * alone.seconds + more,
        remark=_not_passed(outcomes),
    )
    in_sequence = sum(each.seconds for each in outcomes)
    yield Figure(f"{name}, in sequence", in_sequence, "s", f"jobs={jobs}", least["at once"])


def _tests(suite: type[Any]) -> unittest.TestSuite:
    return unittest.defaultTestLoader.loadTestsFromTestCase(suite)


def _outcomes(tests: unittest.TestSuite) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with listening(lambda _, outcome: outcomes.append(outcome)):
        run_quietly(tests)
    return outcomes


def _not_passed(outcomes: list[Outcome]) -> str:
    bad = [each.rule for each in outcomes if each.outcome in (Status.FAILED, Status.ERROR)]
    return f"{', '.join(bad)} did not pass" if bad else ""
