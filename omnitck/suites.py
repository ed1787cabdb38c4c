"""Suites that are made at run time of contracts and policies, as classes, as `unittest` suites, and as plain data."""

import inspect
import sys
import types
import unittest
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeGuard, cast
from weakref import WeakKeyDictionary

from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.checks import DECLARATIONS, HOOKS, PROVIDING, is_factory
from omnitck.kit.contract import Contract, plan_of
from omnitck.kit.definition import Definition
from omnitck.kit.rules import Entry
from omnitck.kit.text import UsageError, describe, suggest
from omnitck.registry import BUILT_IN, find, is_registered, resolve
from omnitck.shared import models
from omnitck.shared.models import Limits

__all__ = [
    "Recipe",
    "build_suite",
    "compose",
    "is_suite",
    "load_tests_for",
    "resolve_target",
    "select",
]

Factory = Callable[..., Awaitable[Any] | AbstractAsyncContextManager[Any]]
"""A coroutine function, or one that `contextlib.asynccontextmanager` made."""
Suite = type[unittest.IsolatedAsyncioTestCase]

# Suites.


def compose(
    *contracts: str | type,
    make_provider: Factory,
    capabilities: Iterable[str] | type | None = None,
    class_name: str | None = None,
    **declarations: Any,
) -> Suite:
    """A suite of one contract and any policies, as if it were written as a class in the caller's module.

    *make_provider* and the optional hooks (`unreachable_provider`, `backend_address`, `advance`, those of the contract) are
    coroutine functions without `self`; what makes a provider may also be made by `contextlib.asynccontextmanager`. Without
    *capabilities*, those are declared that *make_provider* has as an attribute of this name, or none. The other declarations are
    those of `Contract` and of the contract itself. Raises UsageError.
    """
    given = {"make_provider": make_provider, **declarations}
    if capabilities is not None:
        given["capabilities"] = capabilities
    return compose_in(caller(), contracts, given, class_name)


def build_suite(*contracts: str | type, make_provider: Factory, jobs: int = 1, **declarations: Any) -> unittest.TestSuite:
    """The tests of `compose` with the same arguments; with *jobs* above 1, that many at a time."""
    return _concurrent(compose_in(caller(), contracts, {"make_provider": make_provider, **declarations}), jobs)


def load_tests_for(
    *contracts: str | type,
    make_provider: Factory,
    jobs: int = 1,
    **declarations: Any,
) -> Callable[[object, object, object], unittest.TestSuite]:
    """The same as a function of unittest's `load_tests` protocol: `load_tests = load_tests_for(...)`."""
    suite = compose_in(caller(), contracts, {"make_provider": make_provider, **declarations})
    _concurrent(suite, jobs)  # Bad input is refused where it is given.

    # The loader that it is given is not used: nose2's cannot load a test case.
    def load_tests(loader: object, standard_tests: object, pattern: object) -> unittest.TestSuite:
        tests = _concurrent(suite, jobs)
        if isinstance(standard_tests, unittest.TestSuite) and standard_tests.countTestCases():
            return unittest.TestSuite([standard_tests, tests])

        return tests

    return load_tests


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


def select(suite: type, patterns: Iterable[str], excluded: Iterable[str] = ()) -> list[Entry]:
    """The rules of *suite* whose id fits one of *patterns* (`KV-03`, `KV-0*`), or all if there is none, without those *excluded*.

    An audit watches them all.
    """
    from fnmatch import fnmatchcase

    rules = {each.id: each for each in plan_of(suite).entries}

    def fitting(pattern: str) -> set[str]:
        found = {id for id in rules if fnmatchcase(id, pattern.upper())}
        if not found:
            raise UsageError(f"no rule of {suite.__qualname__} fits {pattern!r}; {suggest(pattern.upper(), rules)}")

        return found

    chosen = set().union(*map(fitting, patterns)) or set(rules)
    if any(rules[id].rule.ambient for id in chosen):
        chosen = set(rules)
    for pattern in excluded:
        chosen -= (found := fitting(pattern))
        if audits := [id for id in sorted(found) if rules[id].rule.ambient]:
            raise UsageError(f"{audits[0]} is an audit of {suite.__qualname__}, which watches every rule: it cannot be excluded.")
    left = [each for id, each in rules.items() if id in chosen and not each.rule.ambient]
    if not left:
        raise UsageError(f"no rule of {suite.__qualname__} is left: exclude fewer.")

    return left


def caller() -> str:
    """The module that called the public function which calls this."""
    return str(sys._getframe(2).f_globals.get("__name__", __name__))


def _concurrent(suite: Suite, jobs: int) -> unittest.TestSuite:
    return ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(suite), jobs)


def compose_in(
    module: str,
    contracts: Iterable[str | type],
    declarations: Mapping[str, Any],
    class_name: str | None = None,
    recipe: "Recipe | None" = None,
) -> Suite:
    """`compose`, for the module of that name; the *recipe*, if there is one already, makes the same suite."""
    bases = [find(each) for each in contracts]
    if not bases:
        raise UsageError(f"no contract was given; {suggest('', BUILT_IN)}")

    twice = next((each for each in bases if bases.count(each) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice.definition.name} is given twice: once is enough.")

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


def _new_class(name: str, qualname: str, module: str, bases: tuple[Any, ...], declarations: Mapping[str, Any]) -> Suite:
    body: dict[str, Any] = {"__module__": module, "__qualname__": qualname}
    hooks = _hooks_of(bases)
    data = (*DECLARATIONS, *(name for each in _definitions_of(bases) for name in each.data))
    for key, value in declarations.items():
        if key in hooks:
            if not (is_factory(value) if key in PROVIDING else inspect.iscoroutinefunction(value)):
                raise UsageError(f"{key} is {describe(value)}, {_no_coroutine_function(value)}")
            # Static, so that the signature which the kit inspects is the function's own.
            body[key] = staticmethod(value)
        elif key in data:
            body[key] = tuple(value) if key == "capabilities" and isinstance(value, Iterator) else value
        else:
            raise UsageError(f"unknown declaration {key!r}; {suggest(key, (*hooks, *data))}")
    return cast("Suite", types.new_class(name, bases, exec_body=lambda namespace: namespace.update(body)))


def _definitions_of(bases: Iterable[Any]) -> list[Definition]:
    return [each.definition for base in bases for each in base.__mro__ if "definition" in vars(each)]


def _hooks_of(bases: Iterable[Any]) -> tuple[str, ...]:
    """What a suite of *bases* may have as hooks."""
    return (*HOOKS, *(name for each in _definitions_of(bases) for name in each.hooks))


def _no_coroutine_function(function: object) -> str:
    """The end of a sentence that refuses *function*."""
    if inspect.isasyncgenfunction(function):
        return "an async generator function: decorate it with `contextlib.asynccontextmanager`."

    return "no coroutine function: write it with `async def`."


# Suites as plain data, so that another process can make the same one.


@dataclass(frozen=True)
class Recipe:
    """What a suite is made of, in nothing but text and numbers."""

    target: str
    """`package.module:name` of a factory, or of a suite."""
    contracts: tuple[str, ...] = ()
    """Names, or `package.module:Class`; none where the target is a suite."""
    declarations: Mapping[str, Any] = field(default_factory=dict)
    """What a suite declares as data."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """The coroutine functions beside the target, each without `self`, as `package.module:name`."""
    class_name: str | None = None

    def build(self) -> Suite:
        """Make the suite. Raises UsageError."""
        target = resolve_target(self.target)
        declarations = {key: _revive(key, value) for key, value in self.declarations.items()}
        if is_suite(target):
            if self.contracts:
                raise UsageError(f"target {self.target!r} is a suite, which has its contract already: leave the contract out.")

            return specialise(target, {**declarations, **self._resolved_hooks([target])})

        if not self.contracts:
            raise UsageError(f"target {self.target!r} needs a contract to be certified for; {suggest('', BUILT_IN)}")

        contracts = [cast("type", resolve(each)) if ":" in each else find(each) for each in self.contracts]
        declarations |= self._resolved_hooks(contracts)
        name = self.class_name or getattr(target, "__name__", None)
        return compose_in(target.__module__ or __name__, contracts, {"make_provider": target, **declarations}, name, self)

    def _resolved_hooks(self, bases: Iterable[type]) -> dict[str, object]:
        resolved = {}
        known = set(_hooks_of(bases)) - {"make_provider"}
        for hook, name in self.hooks.items():
            if hook == "make_provider":
                raise UsageError("hook 'make_provider' is what the target is: name the factory there.")
            if hook not in known:
                raise UsageError(f"unknown hook {hook!r}; {suggest(hook, known)}")
            try:
                resolved[hook] = resolve(name)
            except UsageError as error:
                raise UsageError(f"hook {hook!r}: {error}") from error
        return resolved

    def command(self) -> str:
        """The command that repeats one rule, with `{rule}` in it; nothing if a shell could not say it.

        It leaves known deviations out: where the rule is one, its failure is what is looked for.
        """
        said = {"capabilities", "profile", "known_deviations", "patience", "deadline", "backend", "again"}
        capabilities = self.declarations.get("capabilities")
        if self.declarations.keys() - said or isinstance(capabilities, str) or ":" in "".join(self.contracts):
            return ""

        words = [
            "python -m omnitck certify",
            self.target,
            *([f"--contract {'+'.join(self.contracts)}"] if self.contracts else []),
        ]
        if capabilities:
            words.append(f"--capability {','.join(map(str, capabilities))}")
        if self.declarations.get("profile"):
            words.append(f"--profile {self.declarations['profile']}")
        words += [f"--hook {hook}={name}" for hook, name in self.hooks.items()]
        words += [f"--{each} {self.declarations[each]:g}" for each in ("patience", "deadline") if self.declarations.get(each)]
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
    names = tuple(each.definition.name if is_registered(each) else reference(each) or "" for each in contracts)
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
    """The data in text and numbers, hooks and classes by name; None if one has no name that another process can import."""
    data: dict[str, Any] = {}
    hooks: dict[str, str] = {}
    for key, value in declarations.items():
        if is_factory(value):
            name = reference(value)
            if name is None:
                return None
            hooks[key] = name
        elif isinstance(value, type):
            name = reference(value)
            if name is None:
                return None
            data[key] = name
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
    if key == "capabilities" and isinstance(value, str) and ":" in value:
        return resolve(value)
    return tuple(value) if isinstance(value, list) else value


# Targets.


def resolve_target(target: str) -> Any:
    """The factory or the suite that `package.module:name` stands for. Raises UsageError, and nothing else."""
    found = resolve(target)
    if is_suite(found) or is_factory(found):
        return found

    if isinstance(found, type):
        what = "a contract without a TestCase" if issubclass(found, Contract) else "a class"
        raise UsageError(f"target {target!r} is {what}: give a suite, or a coroutine function that returns the provider.")
    if not callable(found):
        raise UsageError(
            f"target {target!r} is not callable (it is {describe(found, 60)}): give a coroutine function, or a suite."
        )
    raise UsageError(f"target {target!r} is {_no_coroutine_function(found)}")
