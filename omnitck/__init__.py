"""omnitck: is this provider a drop-in replacement for every other certified one?

Names are loaded when they are first used: importing the package costs next to nothing.
"""

from omnitck.version import __version__

TYPE_CHECKING = False  # Type checkers take it for `typing.TYPE_CHECKING`; importing that module would be most of the cost.
if TYPE_CHECKING:
    from omnitck.certifying.certify import certify
    from omnitck.concurrent import ConcurrentSuite
    from omnitck.kit.contract import Contract, Policy
    from omnitck.kit.definition import Definition, Operation
    from omnitck.kit.outcomes import StaleDeviationWarning
    from omnitck.kit.rules import audit, rule
    from omnitck.kit.text import UsageError
    from omnitck.kit.trial import Trial
    from omnitck.report.certificate import Certificate
    from omnitck.suites import build_suite, compose, load_tests_for

__all__ = [
    "Certificate",
    "ConcurrentSuite",
    "Contract",
    "Definition",
    "Operation",
    "Policy",
    "StaleDeviationWarning",
    "Trial",
    "UsageError",
    "__version__",
    "audit",
    "build_suite",
    "certify",
    "compose",
    "load_tests_for",
    "rule",
]

_HOMES = {
    "Certificate": "omnitck.report.certificate",
    "ConcurrentSuite": "omnitck.concurrent",
    "Contract": "omnitck.kit.contract",
    "Definition": "omnitck.kit.definition",
    "Operation": "omnitck.kit.definition",
    "Policy": "omnitck.kit.contract",
    "StaleDeviationWarning": "omnitck.kit.outcomes",
    "Trial": "omnitck.kit.trial",
    "UsageError": "omnitck.kit.text",
    "audit": "omnitck.kit.rules",
    "build_suite": "omnitck.suites",
    "certify": "omnitck.certifying.certify",
    "compose": "omnitck.suites",
    "load_tests_for": "omnitck.suites",
    "rule": "omnitck.kit.rules",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
