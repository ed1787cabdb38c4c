"""Certifies every example on its real backend and prints the matrix of rules by backend: ``python -m examples``.

Exit status: 0 if every suite that could run is conformant, 1 if one is not, 5 if none ran. A backend that is not installed is
named; with ``OMNITCK_REQUIRE_BACKENDS=1`` it is a failure.
"""

import argparse
import logging
import sys
import unittest
from importlib import import_module
from typing import Any

import omnitck
from examples import servers

SUITES = {
    "sqlite": ("sqlite", "TestSQLiteKVStore"),
    "valkey": ("valkey", "TestValkeyKVStore"),
    "postgresql": ("postgresql", "TestPostgreSQLKVStore"),
    "nats": ("nats_jetstream", "TestNATSKVStore"),
}

SYMBOLS = {
    "passed": "+",
    "failed": "FAILED",
    "error": "ERROR",
    "not declared": ".",
    "not provoked": "o",
    "known deviation": "known",
    "not run": "?",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=str(__doc__).splitlines()[0])
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"one of {', '.join(SUITES)}; all by default")
    parser.add_argument("--jobs", type=int, default=16, help="rules that run at once (16)")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.backends) - set(SUITES)
    if unknown:
        parser.error(f"unknown backend {', '.join(sorted(unknown))}; known are {', '.join(SUITES)}")

    # nats-py leaves tasks behind whose connection was cut, and asyncio would print each one's traceback over the matrix.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    results: dict[str, dict[str, str]] = {}
    verdicts: dict[str, str] = {}
    for backend in chosen.backends or SUITES:
        certificate = certify(backend, chosen.jobs)
        if isinstance(certificate, str):
            verdicts[backend] = certificate
            continue

        suite = certificate["suites"][0]
        verdicts[backend] = certificate["verdict"]
        results[backend] = {outcome["rule"]: outcome["outcome"] for outcome in suite["outcomes"]}
        for outcome in suite["outcomes"]:
            if outcome["outcome"] in ("failed", "error"):
                print(f"\n{backend}: {outcome['message']}")
    print_matrix(results)
    for backend, verdict in verdicts.items():
        print(f"{backend:12} {verdict}")
    if not results:
        return 5
    return 0 if all(verdict == "conformant" or verdict.startswith("skipped") for verdict in verdicts.values()) else 1


def certify(backend: str, jobs: int) -> dict[str, Any] | str:
    """The certificate of a backend's suite, or why there is none."""
    module, name = SUITES[backend]
    print(f"{backend} ...", file=sys.stderr, flush=True)
    try:
        suite = getattr(import_module(f"examples.{module}.test_kv_store"), name)
        suite.setUpClass()  # starts the server, or says what is missing
    except unittest.SkipTest as missing:
        return f"skipped: {missing}"
    except servers.Missing as missing:
        return f"failed: {missing}"

    return dict(omnitck.certify(suite, jobs=jobs, isolate=False).as_dict())


def print_matrix(results: dict[str, dict[str, str]]) -> None:
    """One line a rule, one column a backend."""
    if not results:
        return

    width = max(map(len, results)) + 2
    print(f"\n{'rule':12}" + "".join(f"{backend:>{width}}" for backend in results))
    for rule in sorted({rule for outcomes in results.values() for rule in outcomes}):
        cells = (SYMBOLS.get(outcomes.get(rule, "not run"), "?") for outcomes in results.values())
        print(f"{rule:12}" + "".join(f"{cell:>{width}}" for cell in cells))
    print("\n+ passed   . capability not declared   o not provoked\n")


if __name__ == "__main__":
    sys.exit(main())
