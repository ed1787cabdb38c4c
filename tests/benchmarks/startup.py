"""What importing the kit takes, and how much memory it needs."""

import unittest
from collections.abc import Callable, Iterator

from tests.benchmarks.measure import Figure, child, in_turns

__all__ = ["imports", "memory"]

IMPORT = """
import time
began = time.perf_counter()
{statement}
print(time.perf_counter() - began)
"""

ANYIO = "import anyio; anyio.run(anyio.sleep, 0)"
"""What every program pays that uses anyio on asyncio: by itself the import puts the backend off, which is most of it."""

PEAK = """
import sys
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
print(peak)
"""
"""What `ru_maxrss` says, except that Linux counts in there what the parent had when it forked."""

BARE = """
import unittest
class Empty(unittest.IsolatedAsyncioTestCase):
    async def test_nothing(self):
        pass
unittest.TestSuite([Empty("test_nothing") for _ in range(100)]).run(unittest.TestResult())
"""

REFERENCE = """
import unittest
from omnitck.concurrent import ConcurrentSuite
from omnitck.selftest.laws import reference_suite
tests = unittest.defaultTestLoader.loadTestsFromTestCase(reference_suite("kv_store"))
{suite}.run(unittest.TestResult())
"""


def imports() -> Iterator[Figure]:
    """In fresh interpreters; their own start is not counted."""
    kit, contract = "import omnitck", "import omnitck.primitives.kv_store"
    statements = (kit, contract, "import unittest", "import anyio", ANYIO)
    least = in_turns(15, {each: _printed(IMPORT.format(statement=each)) for each in statements})
    for measured, statement, against, goal in (
        (kit, "import unittest", "import unittest", 1.2),
        (contract, ANYIO, "import anyio, and its backend", 2.2),
        (contract, "import anyio", "import anyio", None),
    ):
        yield Figure(measured, 1e3 * least[measured], "ms", against, 1e3 * least[statement], ratio_at_most=goal)


def memory() -> Iterator[Figure]:
    """The peak of a process that runs the reference suite and nothing else."""
    scripts = {
        "in sequence": REFERENCE.format(suite="tests"),
        "jobs=16": REFERENCE.format(suite="ConcurrentSuite(tests, jobs=16)"),
        "bare": BARE,
    }
    median = in_turns(3, {name: _printed(script + PEAK) for name, script in scripts.items()}, median=True)
    for name in ("in sequence", "jobs=16"):
        yield Figure(
            f"peak memory of the reference suite, {name}",
            median[name],
            "MiB",
            "a bare unittest run",
            median["bare"],
            at_most=60,
        )


def _printed(script: str) -> Callable[[], float]:
    def measured() -> float:
        done = child(["-c", script])
        if done.returncode:
            raise unittest.SkipTest(f"the child process failed: {done.stderr[-500:]}")
        return float(done.stdout)

    return measured
