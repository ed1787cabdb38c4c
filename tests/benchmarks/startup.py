"""What importing the kit takes, and how much memory it needs."""

import unittest
from collections.abc import Callable, Iterator

from tests.benchmarks.measure import Figure, child, in_turns

__all__ = ["imports", "memory"]

IMPORT = """
import time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began)
"""

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
from omnitck.runner import ConcurrentSuite
from omnitck.selftest import reference_suite
tests = unittest.defaultTestLoader.loadTestsFromTestCase(reference_suite("kv_store"))
{suite}.run(unittest.TestResult())
"""


def imports() -> Iterator[Figure]:
    """In fresh interpreters; their own start is not counted."""
    modules = ("unittest", "omnitck", "omnitck.primitives.kv_store")
    least = in_turns(15, {module: _printed(IMPORT.format(module=module)) for module in modules})
    reference = 1e3 * least["unittest"]
    yield Figure("import omnitck", 1e3 * least["omnitck"], "ms", "import unittest", reference, ratio_at_most=1.2)
    module = modules[-1]
    yield Figure(f"import {module}", 1e3 * least[module], "ms", "import unittest", reference)


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
