"""The cost of one rule: connect a provider, set, get, compare. In time of the processor: nothing in it waits."""

import asyncio
import importlib.util
import subprocess
import tempfile
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omnitck import Contract, Definition, Trial, rule
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore
from tests.benchmarks.measure import Figure, child, in_turns, processor_seconds, run_quietly

__all__ = ["in_one_process", "under_runners"]

TESTS = 300
"""In one run of a class or file."""


# In one process, under unittest.


class DictStore:
    """The least that a provider can be: what is measured is then the kit."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def set(self, key: str, value: str) -> None:
        self.values[key] = value


class RoundTripContract(Contract):
    """A contract of one rule."""

    definition = Definition(name="round_trip", prefix="RT")

    @rule("RT-01")
    async def test_rt_01_a_value_is_read_back(self, t: Trial[Any]) -> None:
        """What was set is got."""
        store = await t.connect()
        await store.set("key", "value")
        t.same(await store.get("key"), "value", given="a key that was set")


class BareTest(unittest.IsolatedAsyncioTestCase):
    """The same without the kit."""

    async def make_provider(self) -> Any:
        return DictStore()

    async def test_a_value_is_read_back(self) -> None:
        store = await self.make_provider()
        await store.set("key", "value")
        self.assertEqual(await store.get("key"), "value")


class BareTestOfReference(BareTest):
    async def make_provider(self) -> Any:
        return MemoryKVStore(MemoryBackend())


class BareTestThatLeavesDebugMode(BareTest):
    """The kit leaves asyncio's debug mode, which unittest enters; this shows what it costs all the same."""

    async def make_provider(self) -> Any:
        asyncio.get_running_loop().set_debug(False)
        return DictStore()


class NeverInDebugMode(unittest.IsolatedAsyncioTestCase):
    """Does not enter it: what unittest itself spends on it is in neither figure then."""

    def _setupAsyncioRunner(self) -> None:  # noqa: N802  CPython's own
        self._asyncioRunner = asyncio.Runner(debug=False)


class BareTestNeverInDebugMode(NeverInDebugMode, BareTest):
    pass


class Suite(RoundTripContract, unittest.IsolatedAsyncioTestCase):
    async def make_provider(self, **config: Any) -> Any:
        return DictStore()


class SuiteNeverInDebugMode(Suite, NeverInDebugMode):
    pass


class SuiteOfReference(RoundTripContract, unittest.IsolatedAsyncioTestCase):
    async def make_provider(self, **config: Any) -> Any:
        return MemoryKVStore(MemoryBackend())


def in_one_process() -> Iterator[Figure]:
    """A rule against a bare test."""
    for what, suite, against, bare, goal in (
        ("a store of three lines", Suite, "a bare test", BareTest, 1.3),
        ("a store of three lines", Suite, "a bare test, not in debug mode", BareTestThatLeavesDebugMode, 1.35),
        ("the same, never in debug mode", SuiteNeverInDebugMode, "a bare test, likewise", BareTestNeverInDebugMode, None),
        ("the reference store", SuiteOfReference, "a bare test", BareTestOfReference, 1.3),
    ):
        least = in_turns(
            9, {"rule": _runs(suite, "test_rt_01_a_value_is_read_back"), "bare": _runs(bare, "test_a_value_is_read_back")}
        )
        yield Figure(f"a rule on {what}", 1e3 * least["rule"], "ms", against, 1e3 * least["bare"], ratio_at_most=goal)


def _runs(cls: type[unittest.TestCase], name: str) -> Callable[[], float]:
    def measured() -> float:
        suite = unittest.TestSuite([cls(name) for _ in range(TESTS)])
        return processor_seconds(lambda: run_quietly(suite)) / TESTS

    return measured


# In a process of their own, under their own runners.

STORE = """
class DictStore:
    def __init__(self):
        self.values = {}

    async def get(self, key):
        return self.values.get(key)

    async def set(self, key, value):
        self.values[key] = value
"""

FILES = {
    "rule": (
        "from unittest import IsolatedAsyncioTestCase\nfrom omnitck import Contract, Definition, rule\n",
        'class RoundTripContract(Contract):\n    definition = Definition(name="round_trip", prefix="RT")\n',
        '''
    @rule("RT-{number:03}")
    async def test_rt_{number:03}_a_value_is_read_back(self, t):
        """What was set is got."""
        store = await t.connect()
        await store.set("key", "value")
        t.same(await store.get("key"), "value", given="a key that was set")
''',
        "class TestStore(RoundTripContract, IsolatedAsyncioTestCase):\n"
        "    async def make_provider(self, **config):\n        return DictStore()\n",
    ),
    "bare": (
        "from unittest import IsolatedAsyncioTestCase\n",
        "class TestStore(IsolatedAsyncioTestCase):\n    async def make_provider(self):\n        return DictStore()\n",
        """
    async def test_{number:03}_a_value_is_read_back(self):
        store = await self.make_provider()
        await store.set("key", "value")
        self.assertEqual(await store.get("key"), "value")
""",
        "",
    ),
    "pytest-asyncio": (
        "import pytest\n",
        "async def make_provider():\n    return DictStore()\n",
        """
@pytest.mark.asyncio
async def test_{number:03}_a_value_is_read_back():
    store = await make_provider()
    await store.set("key", "value")
    assert await store.get("key") == "value"
""",
        "",
    ),
}
"""For each kind of test: the imports, what stands before the tests, a test, what stands after them."""

RUNNERS = {
    "unittest": ("-m", "unittest", "-q"),
    "pytest": ("-m", "pytest", "-q", "-p", "no:cacheprovider"),
    "pytest alone": ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"),
}
"""The last without whatever other plugins are installed."""

RUNS = (
    ("rule", "unittest"),
    ("bare", "unittest"),
    ("rule", "pytest"),
    ("pytest-asyncio", "pytest"),
    ("pytest-asyncio", "pytest alone"),
)
"""The kinds of tests, and who runs them."""


def under_runners() -> Iterator[Figure]:
    """A rule, a bare test and one of pytest-asyncio in files of their own, less what a file of one test takes to start."""
    if importlib.util.find_spec("pytest_asyncio") is None:
        raise unittest.SkipTest("pytest-asyncio is not installed")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        calls: dict[str, Callable[[], float]] = {}
        for kind, runner in RUNS:
            for count in (1, TESTS):
                file = f"test_{kind.replace('-', '_')}_{count}.py"
                (folder / file).write_text(_source(kind, count))
                calls[f"{kind}, {runner}, {count}"] = _runs_file(folder, file, runner, count)
        least = in_turns(5, calls)

    def each(run: str) -> float:
        return 1e3 * (least[f"{run}, {TESTS}"] - least[f"{run}, 1"]) / (TESTS - 1)

    ours, bare, theirs = each("rule, unittest"), each("bare, unittest"), each("pytest-asyncio, pytest")
    yield Figure("a rule, python -m unittest", ours, "ms", "a bare test, likewise", bare, ratio_at_most=1.3)
    yield Figure("a rule, python -m unittest", ours, "ms", "pytest-asyncio", theirs, ratio_at_most=0.6)
    yield Figure("a rule, pytest", each("rule, pytest"), "ms", "pytest-asyncio", theirs, ratio_at_most=1)
    alone = each("pytest-asyncio, pytest alone")
    yield Figure("a rule, python -m unittest", ours, "ms", "pytest-asyncio, no other plugin", alone)


def _source(kind: str, count: int) -> str:
    imports, before, test, after = FILES[kind]
    tests = "".join(test.format(number=number) for number in range(1, count + 1))
    return f"{imports}\n{STORE}\n{before}\n{tests}\n\n{after}"


def _runs_file(folder: Path, file: str, runner: str, count: int) -> Callable[[], float]:
    command = [*RUNNERS[runner], file.removesuffix(".py") if runner == "unittest" else file]
    variables = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if runner == "pytest alone" else {}

    def measured() -> float:
        done: list[subprocess.CompletedProcess[str]] = []
        took = processor_seconds(lambda: done.append(child(command, folder, **variables)))
        said = done[0].stdout + done[0].stderr
        if not (f"Ran {count} test" in said or f"{count} passed" in said):
            raise unittest.SkipTest(f"{file} did not run under {runner}: {said[-500:]}")
        return took

    return measured
