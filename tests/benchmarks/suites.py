"""Whole suites: the reference's, the selftest, and that of a real server."""

import asyncio
import json
import subprocess
import tracemalloc
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.reference.object_storage import MemoryObjectBackend, MemoryObjectStorage
from omnitck.runner import ConcurrentSuite
from omnitck.selftest import REFERENCES, reference_suite
from omnitck.shared.models import ObjectLimits
from tests.benchmarks.measure import Figure, child, in_turns, run_quietly, seconds

__all__ = ["reference", "selftest", "streaming", "valkey"]

JOBS = 16
DATA_CONTRACTS = ("secrets", "object_storage", "cache", "document_database")


class EmptyTest(unittest.IsolatedAsyncioTestCase):
    async def test_nothing(self) -> None:
        pass


def reference() -> Iterator[Figure]:
    """Each reference with every capability, tenancy, and a clock that the kit moves; then all but the first together."""
    for contract in REFERENCES:
        suite = reference_suite(contract)
        yield from _reference(f"{contract}: ", lambda suite=suite: _tests(suite), goals=(2, 1))  # type: ignore[misc]
    others = [reference_suite(contract) for contract in DATA_CONTRACTS]
    yield from _reference("four contracts: ", lambda: unittest.TestSuite(map(_tests, others)), goals=(None, 3))


def _reference(name: str, tests: Callable[[], unittest.TestSuite], goals: tuple[float | None, float]) -> Iterator[Figure]:
    outcomes = _outcomes(tests())
    count = len(outcomes)
    least = in_turns(
        5,
        {
            "in sequence": lambda: seconds(lambda: run_quietly(tests())),
            f"jobs={JOBS}": lambda: seconds(lambda: run_quietly(ConcurrentSuite(tests(), jobs=JOBS))),
            "empty": lambda: seconds(lambda: run_quietly(unittest.TestSuite(EmptyTest("test_nothing") for _ in range(count)))),
        },
    )
    for how, goal in zip(("in sequence", f"jobs={JOBS}"), goals, strict=True):
        yield Figure(
            f"{name}{count} rules, {how}",
            least[how],
            "s",
            f"{count} empty tests",
            least["empty"],
            at_most=goal,
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
    suites = [reference_suite(contract) for contract in REFERENCES]
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
        at_most=20 * len(REFERENCES),
        remark="" if runs[-1].returncode == 0 else "the selftest failed",
    )


def valkey() -> Iterator[Figure]:
    """A real server over TCP: the waits of its rules should overlap."""
    from examples import servers

    try:
        servers.valkey()
        from examples.valkey.test_kv_store import TestValkeyKVStore as Suite
    except (servers.Missing, ImportError) as error:
        raise unittest.SkipTest(str(error)) from error

    # The longest rule when it has the machine to itself: among others it takes longer, and would excuse them.
    outcomes = _outcomes(_tests(Suite))
    alone = max(outcomes, key=lambda each: each.seconds, default=None)
    if alone is None:
        raise unittest.SkipTest("no rule ran")

    least = in_turns(3, {"at once": lambda: seconds(lambda: run_quietly(ConcurrentSuite(_tests(Suite), jobs=JOBS)))})
    yield Figure(
        f"{len(outcomes)} rules of Valkey, jobs={JOBS}",
        least["at once"],
        "s",
        f"its longest rule, {alone.rule}",
        alone.seconds,
        at_most=1.5 * alone.seconds + 1,
        remark=_not_passed(outcomes),
    )
    in_sequence = sum(each.seconds for each in outcomes)
    yield Figure(f"{len(outcomes)} rules of Valkey, in sequence", in_sequence, "s", f"jobs={JOBS}", least["at once"])


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
