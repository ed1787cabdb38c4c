"""Contracts and policies by name, and the suites that are made of them at run time.

A name stands for a class of the kit or for an entry point of another distribution (group `omnitck.contracts`). An entry point is
loaded only when it is asked for, so that a broken one spoils nothing else.
"""

import functools
import importlib
import inspect
import os
import sys
import types
import unittest
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard, cast
from weakref import WeakKeyDictionary

from omnitck.kit.contract import HOOKS, Contract, Policy, Rule, rules_of
from omnitck.kit.outcomes import Outcome
from omnitck.kit.text import UsageError, describe, describe_error, suggest
from omnitck.shared import models
from omnitck.shared.models import Limits

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from omnitck.report.certificate import Certificate

__all__ = [
    "Recipe",
    "Registered",
    "build_suite",
    "certify",
    "compose",
    "find",
    "load_tests_for",
    "registered",
    "resolve_target",
    "select",
]

Factory = Callable[..., Awaitable[Any]]
Suite = type[unittest.IsolatedAsyncioTestCase]

BUILT_IN: Mapping[str, str] = {
    "kv_store": "omnitck.primitives.kv_store:KVStoreContract",
    "secrets": "omnitck.primitives.secrets:SecretsContract",
    "object_storage": "omnitck.primitives.object_storage:ObjectStorageContract",
    "cache": "omnitck.primitives.cache:CacheContract",
    "document_database": "omnitck.primitives.document_database:DocumentDatabaseContract",
    "producer": "omnitck.messaging.producer:ProducerContract",
    "consumer": "omnitck.messaging.consumer:ConsumerContract",
    "delayed_messaging": "omnitck.messaging.delayed_messaging:DelayedMessagingContract",
    "multi_tenancy": "omnitck.policies.multi_tenancy:MultiTenancyPolicy",
}
"""The kit's own contracts and policies. A new one is one file and one line here."""

ENTRY_POINTS = "omnitck.contracts"
DECLARATIONS = tuple("capabilities profile limits credentials known_deviations patience deadline backend again".split())
"""What a suite may declare as data."""


# Contracts by name.


@dataclass(frozen=True)
class Registered:
    """A name, and the contract or policy that it stands for, or else the reason why it cannot be had."""

    name: str
    contract: type[Contract] | None
    problem: str = ""


def find(contract: str | type) -> type[Contract]:
    """The contract or policy of that name; a class is taken as it is. Raises UsageError."""
    if isinstance(contract, type):
        if not issubclass(contract, Contract) or issubclass(contract, unittest.TestCase) or not contract.name:
            raise UsageError(
                f"{contract.__qualname__} is no contract or policy: give a subclass of Contract that has a name, or the name."
            )

        return contract

    if not isinstance(contract, str):
        raise UsageError(f"{describe(contract)} is no contract: give its name, or its class.")
    if contract in BUILT_IN:
        return _built_in(contract)

    points = _entry_points()
    if contract not in points:
        raise UsageError(f"unknown contract {contract!r}; {suggest(contract, {*BUILT_IN, *points})}")

    return _from_entry_points(contract, points[contract])


def registered() -> list[Registered]:
    """Every contract and policy: the kit's own in order, then those of other distributions. Broken ones say why."""
    found = []
    for name in dict.fromkeys((*BUILT_IN, *sorted(_entry_points()))):
        try:
            found.append(Registered(name, find(name)))
        except UsageError as error:
            found.append(Registered(name, None, str(error)))
    found += [
        Registered(name, None, f"{_origin(point)} registers the name {name!r}, which the kit itself uses; it is ignored.")
        for name, points in _entry_points().items()
        for point in points
        if name in BUILT_IN
    ]
    return found


def _built_in(name: str) -> type[Contract]:
    return cast("type[Contract]", resolve(BUILT_IN[name]))


def _is_registered(contract: type[Contract]) -> bool:
    try:
        return find(contract.name) is contract
    except UsageError:
        return False


def _entry_points() -> "dict[str, list[EntryPoint]]":
    from importlib.metadata import entry_points  # A fifth of what importing this module would cost; most never need it.

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        points = found.setdefault(point.name, [])
        if point not in points:
            points.append(point)
    return found


def _origin(point: "EntryPoint") -> str:
    return f"entry point {point.value!r}" + (f" of {point.dist.name}" if point.dist else "")


def _from_entry_points(name: str, points: "list[EntryPoint]") -> type[Contract]:
    if len(points) > 1:
        origins = " and ".join(_origin(each) for each in points)
        raise UsageError(f"contract {name!r} is registered by {origins}: uninstall all but one.")

    point = points[0]
    try:
        contract = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"contract {name!r}, {_origin(point)}, cannot be loaded: {describe_error(error)}") from error

    problem = _problem_of(contract, name)
    if problem:
        raise UsageError(f"contract {name!r}, {_origin(point)}, {problem}")

    return cast("type[Contract]", contract)


def _problem_of(contract: object, name: str) -> str:
    """Why *contract* cannot be had under *name*; nothing if it can."""
    if not isinstance(contract, type) or not issubclass(contract, Contract) or issubclass(contract, unittest.TestCase):
        return "is no contract: it must be a subclass of omnitck.Contract or omnitck.Policy, and no TestCase."
    if contract.name != name:
        return f"calls itself {contract.name!r}: the name of the class and of the entry point must be the same."
    if not contract.prefix and not issubclass(contract, Policy):
        return "has no prefix for the ids of its rules."

    ids = {each.id_in(contract.prefix) for each in rules_of(contract)}
    taken = {other: ids & _ids_of(other) for other in BUILT_IN}
    return next((f"has rule ids that belong to {other}: {', '.join(sorted(each))}." for other, each in taken.items() if each), "")


@functools.cache
def _ids_of(name: str) -> frozenset[str]:
    contract = _built_in(name)
    return frozenset(each.id_in(contract.prefix) for each in rules_of(contract))


# Suites.


def compose(
    *contracts: str | type,
    make_provider: Factory,
    capabilities: Iterable[str] | None = None,
    class_name: str | None = None,
    **declarations: Any,
) -> Suite:
    """A suite of one contract and any policies, as if it were written as a class in the caller's module.

    *make_provider* and the optional hooks (`unreachable_provider`, `backend_address`, `advance`, those of the contract) are
    coroutine functions without `self`. Without *capabilities*, those are declared that *make_provider* has as an attribute of
    this name, or none. The other declarations are those of `Contract` and of the contract itself. Raises UsageError.
    """
    given = {"make_provider": make_provider, **declarations}
    if capabilities is not None:
        given["capabilities"] = capabilities
    return _compose(contracts, given, class_name, _caller())


def build_suite(*contracts: str | type, make_provider: Factory, jobs: int = 1, **declarations: Any) -> unittest.TestSuite:
    """The tests of `compose` with the same arguments; with *jobs* above 1, that many at a time."""
    return _concurrent(_compose(contracts, {"make_provider": make_provider, **declarations}, None, _caller()), jobs)


def load_tests_for(
    *contracts: str | type,
    make_provider: Factory,
    jobs: int = 1,
    **declarations: Any,
) -> Callable[[object, object, object], unittest.TestSuite]:
    """The same as a function of unittest's `load_tests` protocol: `load_tests = load_tests_for(...)`."""
    suite = _compose(contracts, {"make_provider": make_provider, **declarations}, None, _caller())
    _concurrent(suite, jobs)  # Bad input is refused where it is given.

    # The loader that it is given is not used: nose2's cannot load a test case.
    def load_tests(loader: object, standard_tests: object, pattern: object) -> unittest.TestSuite:
        tests = _concurrent(suite, jobs)
        if isinstance(standard_tests, unittest.TestSuite) and standard_tests.countTestCases():
            return unittest.TestSuite([standard_tests, tests])

        return tests

    return load_tests


def certify(
    *contracts: str | type,
    make_provider: Factory | None = None,
    jobs: int = 1,
    isolate: bool | None = None,
    progress: Callable[[Outcome], None] | None = None,
    rules: Iterable[str] | None = None,
    seed: int | None = None,
    grace: float = 10.0,
    **declarations: Any,
) -> "Certificate":
    """Run the suite of *contracts* and *make_provider*, or suites that are classes already, and say what they are worth.

    Works inside a running event loop too, which stands still meanwhile. *isolate* asks for a child process, which survives a
    provider that hangs or ends its process; None takes one where the suite can be imported by another process, and a thread
    otherwise. *progress* receives each outcome as it comes, *rules* selects by id (`KV-0*`), *seed* repeats a run, and a rule
    that has no verdict *grace* seconds after its deadline is ended, as is a child process that goes on for so long after its last
    one. Raises UsageError.
    """
    from omnitck import isolation

    suites = [each for each in contracts if is_suite(each)]
    others = [each for each in contracts if not is_suite(each)]
    if make_provider is not None:
        name = getattr(make_provider, "__name__", None)
        suites.append(_compose(others, {"make_provider": make_provider, **declarations}, name, _caller()))
    elif others:
        raise UsageError("certify needs make_provider=, the coroutine function that connects a client.")
    elif not suites:
        raise UsageError(f"certify was given no contract; {suggest('', BUILT_IN)}")
    elif declarations:
        suites = [specialise(each, declarations) for each in suites]

    settings = isolation.Settings(jobs=jobs, seed=seed, rules=tuple(rules or ()), grace=grace, isolate=isolate)
    return isolation.certify([isolation.source_of(each, settings) for each in suites], settings, isolation.Observer(progress))


def is_suite(candidate: object) -> TypeGuard[Suite]:
    """Whether *candidate* is a contract mixed with a TestCase."""
    return isinstance(candidate, type) and issubclass(candidate, Contract) and issubclass(candidate, unittest.TestCase)


def specialise(suite: Suite, declarations: Mapping[str, Any]) -> Suite:
    """*suite* with some declarations replaced."""
    if not declarations:
        return suite

    special = _new_class(suite.__name__, suite.__qualname__, suite.__module__, (suite,), declarations)
    base, plain = recipe_of(suite), _plain(declarations)
    if base is None or plain is None:
        _recipes[special] = None
    else:
        data, hooks = plain
        _recipes[special] = replace(base, declarations={**base.declarations, **data}, hooks={**base.hooks, **hooks})
    return special


def select(suite: type, patterns: Iterable[str]) -> list[Rule]:
    """The rules of *suite* whose id fits one of *patterns* (`KV-03`, `KV-0*`); all of them if there is none."""
    from fnmatch import fnmatchcase

    prefix = cast("type[Contract]", suite).contract.prefix
    rules = {each.id_in(prefix): each for each in rules_of(suite)}
    patterns = tuple(patterns)
    chosen = set() if patterns else set(rules)
    for pattern in patterns:
        fitting = {id for id in rules if fnmatchcase(id, pattern.upper())}
        if not fitting:
            raise UsageError(f"no rule of {suite.__qualname__} fits {pattern!r}; {suggest(pattern.upper(), rules)}")

        chosen |= fitting
    return [each for id, each in rules.items() if id in chosen]


def _caller() -> str:
    """The module that called the public function."""
    return str(sys._getframe(2).f_globals.get("__name__", __name__))


def _concurrent(suite: Suite, jobs: int) -> unittest.TestSuite:
    from omnitck.runner import ConcurrentSuite

    return ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(suite), jobs)


def _compose(
    contracts: Iterable[str | type],
    declarations: Mapping[str, Any],
    class_name: str | None,
    module: str,
    recipe: "Recipe | None" = None,
) -> Suite:
    bases = [find(each) for each in contracts]
    if not bases:
        raise UsageError(f"no contract was given; {suggest('', BUILT_IN)}")

    twice = next((each for each in bases if bases.count(each) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice.name} is given twice: once is enough.")

    capabilities = getattr(declarations["make_provider"], "capabilities", None)
    if "capabilities" not in declarations and capabilities is not None:
        declarations = {**declarations, "capabilities": capabilities}
    if class_name is None or not class_name.isidentifier():
        class_name = "Test" + "".join(each.__name__.removesuffix("Contract").removesuffix("Policy") for each in bases)
    recipe = recipe or _recipe(bases, declarations, class_name)
    if recipe is not None:
        declarations = {"again": recipe.command(), **declarations}
    suite = _new_class(class_name, class_name, module, (*bases, unittest.IsolatedAsyncioTestCase), declarations)
    _recipes[suite] = recipe
    return suite


def _new_class(name: str, qualname: str, module: str, bases: tuple[type, ...], declarations: Mapping[str, Any]) -> Suite:
    body: dict[str, Any] = {"__module__": module, "__qualname__": qualname}
    contracts = [each for each in bases if issubclass(each, Contract)]
    hooks = (*HOOKS, *(name for each in contracts for name in each.hooks))
    data = (*DECLARATIONS, *(name for each in contracts for name in each.data))
    for key, value in declarations.items():
        if key in hooks:
            if not inspect.iscoroutinefunction(value):
                raise UsageError(f"{key} is {describe(value)}, no coroutine function: write it with `async def`.")
            # Static, so that the signature which the kit inspects is the function's own.
            body[key] = staticmethod(value)
        elif key in data:
            body[key] = tuple(value) if key == "capabilities" and isinstance(value, Iterator) else value
        else:
            raise UsageError(f"unknown declaration {key!r}; {suggest(key, (*hooks, *data))}")
    return cast("Suite", types.new_class(name, bases, exec_body=lambda namespace: namespace.update(body)))


# Suites as plain data, so that another process can make the same one.


@dataclass(frozen=True)
class Recipe:
    """What a suite is made of, in nothing but text and numbers."""

    target: str
    """`package.module:name` of a coroutine function, or of a suite."""
    contracts: tuple[str, ...] = ()
    """Names, or `package.module:Class`; none where the target is a suite."""
    declarations: Mapping[str, Any] = field(default_factory=dict)
    """What a suite declares as data."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """The coroutine functions beside the target, each as `package.module:name`."""
    class_name: str | None = None

    def build(self) -> Suite:
        """Make the suite. Raises UsageError."""
        target = resolve_target(self.target)
        declarations = {key: _revive(key, value) for key, value in self.declarations.items()}
        declarations |= {key: resolve(value) for key, value in self.hooks.items()}
        if is_suite(target):
            if self.contracts:
                raise UsageError(f"target {self.target!r} is a suite, which has its contract already: leave the contract out.")

            return specialise(target, declarations)

        if not self.contracts:
            raise UsageError(f"target {self.target!r} needs a contract to be certified for; {suggest('', BUILT_IN)}")

        contracts = [cast("type", resolve(each)) if ":" in each else each for each in self.contracts]
        name = self.class_name or getattr(target, "__name__", None)
        return _compose(contracts, {"make_provider": target, **declarations}, name, target.__module__ or __name__, self)

    def command(self) -> str:
        """The command that repeats one rule, with `{rule}` in it; nothing if a shell could not say it."""
        said = {"capabilities", "profile", "patience", "deadline", "backend", "again"}
        if self.hooks or self.declarations.keys() - said or ":" in "".join(self.contracts):
            return ""

        words = [
            "python -m omnitck certify",
            self.target,
            *([f"--contract {'+'.join(self.contracts)}"] if self.contracts else []),
        ]
        capabilities = self.declarations.get("capabilities")
        if capabilities and not isinstance(capabilities, str):
            words.append(f"--capability {','.join(map(str, capabilities))}")
        if self.declarations.get("profile"):
            words.append(f"--profile {self.declarations['profile']}")
        return " ".join([*words, "--rule {rule}"])


_recipes: "WeakKeyDictionary[type, Recipe | None]" = WeakKeyDictionary()


def recipe_of(suite: Suite) -> Recipe | None:
    """*suite* as plain data; None if another process could not import all of it."""
    if suite in _recipes:
        return _recipes[suite]

    target = reference(suite)
    return Recipe(target) if target else None


def _recipe(contracts: Iterable[type[Contract]], declarations: Mapping[str, Any], class_name: str) -> Recipe | None:
    plain = _plain(declarations)
    names = tuple(each.name if _is_registered(each) else reference(each) or "" for each in contracts)
    if plain is None or "make_provider" not in plain[1] or not all(names):
        return None

    data, hooks = plain
    return Recipe(hooks.pop("make_provider"), names, data, hooks, class_name)


def reference(thing: Any) -> str | None:
    """`package.module:name` under which another process finds *thing*; None if there is none."""
    path = f"{getattr(thing, '__module__', None) or ''}:{getattr(thing, '__qualname__', None) or ''}"
    if "<" in path or path.startswith(("__main__:", ":")) or path.endswith(":"):
        return None

    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return path if found is thing else None


def _plain(declarations: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The data in text and numbers, and the hooks by name; None if one has no name that another process can import."""
    data: dict[str, Any] = {}
    hooks: dict[str, str] = {}
    for key, value in declarations.items():
        if inspect.iscoroutinefunction(value):
            name = reference(value)
            if name is None:
                return None
            hooks[key] = name
        elif isinstance(value, Limits):
            data[key] = {"type": type(value).__name__, **asdict(value)}
            if getattr(models, type(value).__name__, None) is not type(value):
                return None
        elif isinstance(value, Mapping):
            data[key] = dict(value)
        elif isinstance(value, Iterable) and not isinstance(value, str):
            data[key] = sorted(value) if key == "capabilities" else list(value)
        else:
            data[key] = value
    return data, hooks


def _revive(key: str, value: Any) -> Any:
    if key == "limits" and value is not None:
        numbers = dict(value)
        return getattr(models, numbers.pop("type"))(**numbers)
    return tuple(value) if isinstance(value, list) else value


# Targets.


def resolve_target(target: str) -> Any:
    """The coroutine function or the suite that `package.module:name` stands for. Raises UsageError, and nothing else."""
    found = resolve(target)
    if is_suite(found) or inspect.iscoroutinefunction(found):
        return found

    if isinstance(found, type):
        what = "a contract without a TestCase" if issubclass(found, Contract) else "a class"
        raise UsageError(f"target {target!r} is {what}: give a suite, or a coroutine function that returns the provider.")
    if not callable(found):
        raise UsageError(
            f"target {target!r} is not callable (it is {describe(found, 60)}): give a coroutine function, or a suite."
        )
    raise UsageError(f"target {target!r} is not a coroutine function: write it with `async def`.")


def resolve(target: str) -> object:
    """What `package.module:name` stands for. The current directory is searched too."""
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise UsageError(f"target {target!r} is not of the form package.module:name.")

    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    found = _import(module_name, target)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except KeyboardInterrupt:
            raise
        except AttributeError:
            public = [each for each in dir(found) if not each.startswith("_")]
            owner = getattr(found, "__name__", module_name)
            raise UsageError(f"target {target!r}: {owner} has no {part!r}; {suggest(part, public)}") from None
        except BaseException as error:
            raise UsageError(f"target {target!r}: reading {part!r} raised {describe_error(error)}") from error
    return found


def _import(name: str, target: str) -> object:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f" (write {name.removesuffix('.py')!r})" if name.endswith(".py") else ""
            raise UsageError(
                f"target {target!r}: there is no module {error.name!r} in the current directory or on sys.path{hint}."
            ) from None

        raise UsageError(f"target {target!r}: importing {name} needs the module {error.name!r}, which is missing.") from error
    except BaseException as error:
        raise UsageError(f"target {target!r}: importing {name} raised {describe_error(error)}") from error
