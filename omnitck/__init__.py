"""omnitck: is this provider a drop-in replacement for every other certified one?

Names are loaded when they are first used: importing the package costs next to nothing.
"""

TYPE_CHECKING = False  # Type checkers take it for `typing.TYPE_CHECKING`; importing that module would be most of the cost.
if TYPE_CHECKING:
    from omnitck.kit.contract import Contract, Policy, rule
    from omnitck.kit.text import UsageError
    from omnitck.loader import build_suite, certify, compose, load_tests_for
    from omnitck.report.certificate import Certificate
    from omnitck.runner import ConcurrentSuite

__all__ = [
    "Certificate",
    "ConcurrentSuite",
    "Contract",
    "Policy",
    "UsageError",
    "__version__",
    "build_suite",
    "certify",
    "compose",
    "load_tests_for",
    "rule",
]

__version__ = "1.0.0"

_HOMES = {
    "Certificate": "omnitck.report.certificate",
    "ConcurrentSuite": "omnitck.runner",
    "Contract": "omnitck.kit.contract",
    "Policy": "omnitck.kit.contract",
    "UsageError": "omnitck.kit.text",
    "build_suite": "omnitck.loader",
    "certify": "omnitck.loader",
    "compose": "omnitck.loader",
    "load_tests_for": "omnitck.loader",
    "rule": "omnitck.kit.contract",
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
