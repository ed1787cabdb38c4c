"""Certifies every example on its real backend and prints the matrix of rules by backend: ``python -m examples``.

``--libraries`` keeps to the libraries that are wrapped as they are. ``--output FILE`` writes the table of what those do into a
file that has a place for it, and ``--check FILE`` says in what the file differs from what was certified, whatever the versions.

Exit status: 0 if every suite that could run is conformant or deviates as known, 1 if one is not or does not, and if a table
differs or cannot be written, 5 if none ran. A backend that is not installed is named; with ``OMNITCK_REQUIRE_BACKENDS=1`` it is a
failure.
"""

import argparse
import logging
import sys
import unittest
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import omnitck
from examples import libraries
from omnitck.report.certificate import Verdict
from omnitck.suites import is_suite

SYMBOLS = {
    "passed": "+",
    "failed": "FAILED",
    "error": "ERROR",
    "not declared": ".",
    "not provoked": "o",
    "known deviation": "known",
    "not run": "?",
}


@dataclass(frozen=True)
class Module:
    """``examples/<backend>/test_<contract>.py``, which has a suite or several."""

    backend: str
    contract: str

    @property
    def name(self) -> str:
        """As it is imported."""
        return f"examples.{self.backend}.test_{self.contract}"


@dataclass(frozen=True)
class Result:
    """What became of a suite, or of a module whose suites could not be had."""

    module: Module
    backend: str
    """Or the suite's name, where the module has several."""
    verdict: str
    outcomes: Mapping[str, str]
    remarks: Sequence[str] = ()
    row: libraries.Row | None = None
    """What the tables say of it, if it wraps a library as it is."""

    @property
    def good(self) -> bool:
        """Whether it is news to nobody."""
        return self.verdict.startswith((Verdict.CONFORMANT, Verdict.DEVIATES, "skipped"))

    @property
    def judged(self) -> bool:
        """Whether every rule that applies has had its say."""
        return self.verdict.startswith((Verdict.CONFORMANT, Verdict.DEVIATES, Verdict.NOT_CONFORMANT))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    modules = discover(Path(__file__).parent)
    backends = sorted({module.backend for module in modules})
    contracts = sorted({module.contract for module in modules})
    parser = argparse.ArgumentParser(prog="python -m examples", description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"a backend ({', '.join(backends)}) or a contract ({', '.join(contracts)}); of each kind all by default",
    )
    parser.add_argument("--jobs", type=int, default=16, help="rules that run at once (16)")
    parser.add_argument("--libraries", action="store_true", help="only libraries that are wrapped as they are")
    parser.add_argument("--output", action="append", default=[], metavar="FILE", help="write their table into FILE")
    parser.add_argument("--check", action="append", default=[], metavar="FILE", help="say in what their table in FILE differs")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - {*backends, *contracts})
    if unknown:
        parser.error(f"unknown name {', '.join(unknown)}; known are {', '.join([*backends, *contracts])}")
    if chosen.names and (chosen.output or chosen.check):
        parser.error("the tables are of all libraries: leave out the names")

    # nats-py leaves tasks behind whose connection was cut, and asyncio would print each one's traceback over the matrix.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    results = [result for module in select(modules, chosen.names) for result in certify(module, chosen.jobs, chosen.libraries)]
    for contract in contracts:
        print_matrix(contract, [result for result in results if result.module.contract == contract and result.outcomes])
    print_verdicts(results)
    rows = [result.row for result in results if result.row is not None]
    checked = [check(Path(file), rows) for file in chosen.check]
    written = [write(Path(file), results) for file in chosen.output]
    return exit_status(results) if all([*checked, *written]) else 1


def discover(folder: Path) -> list[Module]:
    """The modules of suites below *folder*, sorted. None is imported: a client library may be missing."""
    paths = sorted(folder.glob("*/test_*.py"))
    return [Module(path.parent.name, path.stem.removeprefix("test_")) for path in paths]


def select(modules: Iterable[Module], names: Iterable[str]) -> list[Module]:
    """Those of the named backends and of the named contracts; of all, where no name is of that kind."""
    modules, wanted = list(modules), set(names)
    backends = wanted & {module.backend for module in modules}
    contracts = wanted & {module.contract for module in modules}
    return [
        module
        for module in modules
        if (not backends or module.backend in backends) and (not contracts or module.contract in contracts)
    ]


def suites_of(module: Any) -> list[type[Any]]:
    """The suites that *module* defines, not those that it imports."""
    return [each for each in vars(module).values() if is_suite(each) and each.__module__ == module.__name__]


def certify(module: Module, jobs: int, only_libraries: bool = False) -> list[Result]:
    """A certificate of each suite of *module*, or why there is none."""
    try:
        suites = suites_of(import_module(module.name))
    except (unittest.SkipTest, ImportError) as missing:
        return [_without(module, module.backend, missing)]
    if not suites:
        return [Result(module, module.backend, "failed: the module has no suite", {})]

    return [
        _certify(module, suite, module.backend if len(suites) == 1 else suite.__name__, jobs)
        for suite in suites
        if hasattr(suite, "distribution") or not only_libraries
    ]


def print_matrix(contract: str, results: Sequence[Result]) -> None:
    """One line a rule, one column a suite."""
    if not results:
        return

    width = max(len(result.backend) for result in results) + 2
    print(f"\n{contract}\n{'rule':12}" + "".join(f"{result.backend:>{width}}" for result in results))
    for rule in sorted({rule for result in results for rule in result.outcomes}):
        cells = (SYMBOLS.get(result.outcomes.get(rule, "not run"), "?") for result in results)
        print(f"{rule:12}" + "".join(f"{cell:>{width}}" for cell in cells))
    print("\n+ passed   . capability not declared   o not provoked")


def print_verdicts(results: Sequence[Result]) -> None:
    """One line a suite, and below it where it is known to deviate."""
    print()
    backends = max((len(result.backend) for result in results), default=0)
    contracts = max((len(result.module.contract) for result in results), default=0)
    for result in results:
        print(f"{result.backend:{backends}}  {result.module.contract:{contracts}}  {result.verdict}")
        for remark in result.remarks:
            print(f"    {remark}")


def check(file: Path, rows: Sequence[libraries.Row]) -> bool:
    """Whether the tables in *file* say what was certified; if not, in what they differ is printed."""
    try:
        text = file.read_text("utf-8")
        difference = libraries.difference(text, rows)
    except (OSError, ValueError) as error:
        print(f"\n{file}: {error}")
        return False

    for sentence in libraries.news_of_versions(text, rows):
        print(f"{file}: {sentence}")
    if difference:
        print(f"\n{file} differs from what was certified: write it anew with --libraries --output\n{difference}")
    return not difference


def write(file: Path, results: Sequence[Result]) -> bool:
    """Write the tables of *results* into *file*; not if one has no verdict, as then a line would be missing."""
    without = [f"{result.backend} {result.module.contract}" for result in results if not result.judged]
    if without:
        print(f"\n{file} is left as it is: there is no verdict of {', '.join(without)}")
        return False

    rows = [result.row for result in results if result.row is not None]
    try:
        file.write_text(libraries.filled(file.read_text("utf-8"), rows), "utf-8")
    except (OSError, ValueError) as error:
        print(f"\n{file}: {error}")
        return False
    return True


def exit_status(results: Sequence[Result]) -> int:
    """Of the command."""
    if not all(result.good for result in results):
        return 1
    return 0 if any(result.outcomes for result in results) else 5


def _certify(module: Module, suite: Any, name: str, jobs: int) -> Result:
    print(f"{name} {module.contract} ...", file=sys.stderr, flush=True)
    try:
        suite.setUpClass()  # starts the server, or says what is missing
    except (unittest.SkipTest, RuntimeError) as missing:
        return _without(module, name, missing)

    certificate = omnitck.certify(suite, jobs=jobs, isolate=False)
    [report] = certificate.suites
    for outcome in report.outcomes:
        if outcome.outcome in ("failed", "error"):
            print(f"\n{name} {module.contract}: {outcome.message}")
    known = {each.rule for each in report.outcomes if each.outcome == "known deviation"}
    remarks = [f"{rule}  known deviation: {reason}" for rule, reason in report.known_deviations.items() if rule in known]
    remarks += [f"{rule}  passes, though it is a known deviation" for rule in report.stale_deviations]
    if report.problem:
        remarks.append(report.problem)
    outcomes = {each.rule: str(each.outcome) for each in report.outcomes}
    row = libraries.Row.of(suite, report) if hasattr(suite, "distribution") else None
    return Result(module, name, report.worth, outcomes, remarks, row)


def _without(module: Module, name: str, why: Exception) -> Result:
    verdict = "skipped" if isinstance(why, unittest.SkipTest) else "failed"
    return Result(module, name, f"{verdict}: {why}", {})


if __name__ == "__main__":
    sys.exit(main())
