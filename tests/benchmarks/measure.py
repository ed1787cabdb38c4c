"""Figures, and how they are taken."""

import os
import statistics
import subprocess
import sys
import time
import unittest
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import omnitck

__all__ = ["Figure", "child", "in_turns", "processor_seconds", "run_quietly", "seconds"]

ROOT = Path(omnitck.__file__).parent.parent
"""What a child process must have on its path."""


@dataclass(frozen=True)
class Figure:
    """One measurement, what it is compared with, and what it should be."""

    name: str
    measured: float
    unit: str
    against: str
    reference: float
    """What *against* took, in the same unit."""
    at_most: float | None = None
    """The goal in the figure's own unit."""
    ratio_at_most: float | None = None
    """The goal for the ratio."""
    remark: str = ""

    @property
    def ratio(self) -> float:
        """How many times the reference the figure is."""
        return self.measured / self.reference

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.at_most is not None:
            return self.measured <= self.at_most
        if self.ratio_at_most is not None:
            return self.ratio <= self.ratio_at_most
        return None

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:.4g} {self.unit}"
        return "" if self.ratio_at_most is None else f"ratio <= {self.ratio_at_most:g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the ratio and the verdict included."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def in_turns(rounds: int, calls: Mapping[str, Callable[[], float]], *, median: bool = False) -> dict[str, float]:
    """Let *calls* take turns, *rounds* times after a round that does not count; the least (or median) that each returned."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(call())
    return {name: statistics.median(each) if median else min(each) for name, each in taken.items()}


def seconds(call: Callable[[], object]) -> float:
    """How long *call* takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def processor_seconds(call: Callable[[], object]) -> float:
    """What *call*, and the child processes that it waits for, take of the processors: no waits, and few of others' doings."""
    import resource  # Windows has none.

    began = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() - began[0] + sum(children[:2]) - sum(began[1][:2])


def run_quietly(suite: unittest.TestSuite) -> unittest.TestResult:
    """Run *suite* with nothing printed."""
    result = unittest.TestResult()
    suite.run(result)
    return result


def child(arguments: Sequence[str], folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter in *folder*, with the kit importable."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
