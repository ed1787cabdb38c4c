"""`python -m tests.benchmarks [NAME ...] [--json]`: run the benchmarks, print the figures."""

import argparse
import gc
import json
import os
import platform
import sys
import unittest
from collections.abc import Callable, Iterator

from tests.benchmarks import histories, rules, startup, suites
from tests.benchmarks.measure import Figure

BENCHMARKS: dict[str, Callable[[], Iterator[Figure]]] = {
    "rule": rules.in_one_process,
    "runners": rules.under_runners,
    "reference": suites.reference,
    "jobs": suites.jobs,
    "imports": startup.imports,
    "memory": startup.memory,
    "checker": histories.checker,
    "queues": histories.queues,
    "leases": histories.leases,
    "streaming": suites.streaming,
    "valkey": suites.valkey,
    "nats": suites.nats,
    "rabbitmq": suites.rabbitmq,
    "selftest": suites.selftest,
}


def main() -> None:
    """Run what was asked for; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Ratios, with their goals.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"one of: {', '.join(BENCHMARKS)}; all if none is named")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}")

    figures: dict[str, list[Figure]] = {}
    skipped: dict[str, str] = {}
    if not options.json:
        print(f"Python {platform.python_version()}, {os.cpu_count()} processors. Least of several, taken in turns.\n")
        print(f"{'':49} {'measured':>12}   {'against':32} {'reference':>12}  {'ratio':>6}   goal")
    for name in options.names or BENCHMARKS:
        if not options.json:
            print(name, flush=True)
        # Rules that call the garbage collector do not pay for what the benchmarks before have left.
        gc.collect()
        gc.freeze()
        try:
            for figure in BENCHMARKS[name]():
                figures.setdefault(name, []).append(figure)
                if not options.json:
                    print(line(figure), flush=True)
        except unittest.SkipTest as skip:
            skipped[name] = str(skip)
            if not options.json:
                print(f"  skipped: {skip}", flush=True)
    if options.json:
        found = {name: [each.as_dict() for each in some] for name, some in figures.items()}
        setting = {"python": platform.python_version(), "processors": os.cpu_count(), "platform": sys.platform}
        print(json.dumps({**setting, "figures": found, "skipped": skipped}, indent=2))


def line(figure: Figure) -> str:
    """One row of the table."""
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    words = "  ".join(each for each in (figure.goal, verdict, figure.remark) if each)
    return (
        f"  {figure.name:52} {number(figure.measured):>7} {figure.unit:4}   {figure.against:32} "
        f"{number(figure.reference):>7} {figure.unit:4}  {figure.ratio:6.2f}   {words}"
    ).rstrip()


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
