"""What is refused when a class is created, so that a mistake never turns into a rule that does not run.

Authors of contracts are checked as authors of suites are. Each refusal is one sentence: what is wrong, where, and what to do.
"""

import functools
import inspect
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from omnitck.kit.definition import Definition, Operation, Plan
from omnitck.kit.rules import Entry, Rule, needs_of, supplies
from omnitck.kit.text import UsageError, describe, suggest
from omnitck.shared.capabilities import EVERYWHERE, PRODUCTION, PROFILES
from omnitck.shared.models import Limits

__all__ = [
    "DECLARATIONS",
    "HOOKS",
    "RESERVED",
    "catalogue",
    "check_contract",
    "check_declaration",
    "check_instance",
    "demanded_by",
    "known_by",
    "plan_suite",
]

HOOKS = ("make_provider", "unreachable_provider", "backend_address", "advance", "crash", "cut", "heal", "describe_backend")
"""The coroutine methods that every suite may supply; only the first is required. A contract may know more."""

DECLARATIONS = tuple("capabilities profile limits credentials known_deviations patience deadline backend again".split())
"""What every suite may declare as data."""

RESERVED = ("definition", "trial", "declared")
"""What a suite has from its contract, and may neither replace nor set."""

LATE = ("limits", "credentials")
"""The declarations that may still be set in a set-up: a server that it starts may decide them."""

_defined: dict[str, frozenset[str]] = {}
"""For each contract and policy that was created in this process, the capabilities of its own."""


# Contracts and policies.


def check_contract(cls: Any) -> None:
    """Refuse a contract or policy whose parts do not go together. Called when its class is created."""
    definition: Definition = cls.definition
    if not isinstance(definition, Definition):
        raise UsageError(f"{cls.__qualname__}.definition is {describe(definition)}: give an omnitck.kit.definition.Definition.")

    for word in ("name", "prefix"):
        if not isinstance(getattr(definition, word), str) or not getattr(definition, word):
            raise UsageError(f"{cls.__qualname__}.definition has no {word}: give one.")

    _check_types(cls, definition)
    _defined[definition.name] = frozenset(definition.protocols) - {""}
    known = _defined[definition.name] | PRODUCTION.keys()
    _refuse_unknown(definition.production, known, f"{cls.__qualname__}.definition.production", "capability")
    for hook in definition.hooks:
        if not inspect.iscoroutinefunction(getattr(cls, hook, None)):
            raise UsageError(f"{cls.__qualname__} lists the hook {hook!r}, but has no such method: write it with `async def`.")
    for name in definition.data:
        if not hasattr(cls, name):
            raise UsageError(f"{cls.__qualname__} lists {name!r} as data, but has no such attribute: give it a default.")
    _check_rules(cls, definition, known)
    operations = definition.operations + definition.refusals if definition.cells is None else _operations_of(definition.cells)
    _check_operations(cls, definition, operations, known)


def _check_types(cls: Any, definition: Definition) -> None:
    """What a type checker would say, for who has none."""
    words = ("production", "hooks", "data", "config")
    wanted: dict[str, tuple[bool, str]] = {
        word: (_are(getattr(definition, word), str), "several names: a tuple or a set of text") for word in words
    }
    wanted |= {word: (_are(getattr(definition, word), Operation), "a tuple of Operation") for word in ("operations", "refusals")}
    protocols = definition.protocols
    wanted["protocols"] = (
        isinstance(protocols, Mapping) and all(isinstance(each, type) for each in protocols.values()),
        "a mapping of names of capabilities to protocols",
    )
    wanted["limits"] = (
        isinstance(definition.limits, type) and issubclass(definition.limits, Limits),
        "a subclass of omnitck.shared.models.Limits",
    )
    for word in ("around", "check"):
        value = getattr(definition, word)
        wanted[word] = (value is None or callable(value), "a function")
    for word, (right, what) in wanted.items():
        if not right:
            raise UsageError(f"{cls.__qualname__}.definition: {word} is {describe(getattr(definition, word))}: give {what}.")


def _are(values: object, kind: type) -> bool:
    """Whether *values* are several of *kind*."""
    return isinstance(values, tuple | list | set | frozenset) and all(isinstance(each, kind) for each in values)


def _check_rules(cls: Any, definition: Definition, known: frozenset[str]) -> None:
    ids: dict[str, str] = {}
    for rule in _rules_of(cls):
        where = f"{cls.__qualname__}.{rule.method}"
        if not rule.statement:
            raise UsageError(f"{where}: rule {rule.id} has no sentence: write it as the first paragraph of the docstring.")
        if rule.id in ids:
            raise UsageError(f"{where}: the id {rule.id} is that of {ids[rule.id]} already: give each rule its own.")
        ids[rule.id] = rule.method
        if rule.method in vars(cls) and not rule.id.startswith(f"{definition.prefix}-"):
            raise UsageError(f"{where}: the id {rule.id} does not begin with the prefix {definition.prefix}- of the contract.")
        start, finder = ("audit", "suite") if rule.ambient else ("test", "runner")
        if not rule.method.startswith(start):
            raise UsageError(f"{where}: the method's name must begin with `{start}`, or no {finder} finds it.")
        _refuse_unknown(rule.needs, known, f"{where}: rule {rule.id}", "capability")
        if rule.hook is not None:
            hooks = (*HOOKS, *DECLARATIONS, *definition.hooks, *definition.data)
            _refuse_unknown([rule.hook], hooks, f"{where}: rule {rule.id}", "hook")
        _check_verbs(cls, definition, rule, where)
    for name, member in vars(cls).items():
        if name.startswith("test") and callable(member) and not hasattr(member, "rule"):
            raise UsageError(f"{cls.__qualname__}.{name} is a test without an id: decorate it with @rule.")


def _check_verbs(cls: Any, definition: Definition, rule: Rule, where: str) -> None:
    for verb in rule.uses:
        if definition.cells is None:
            raise UsageError(f"{where}: rule {rule.id} uses {verb!r}, but {definition.name} has no cells: set `cells`.")
        verbs = [each for each in dir(definition.cells) if not each.startswith("_")]
        _refuse_unknown([verb], verbs, f"{where}: rule {rule.id}", "verb of cells")
        if rule.method in vars(cls) and not cls._omnitck_policy and not supplies(definition.cells, verb):
            raise UsageError(f"{where}: rule {rule.id} uses {verb!r}, which the cells of {definition.name} do not supply.")


def _operations_of(cells: Any) -> tuple[Any, ...]:
    """Those that are known without a suite."""
    tables = getattr(cells, "operations", ()), getattr(cells, "refusals", ())
    return tuple(each for table in tables if isinstance(table, tuple) for each in table)


def _check_operations(cls: Any, definition: Definition, operations: Iterable[Any], known: frozenset[str]) -> None:
    names: set[str] = set()
    for each in operations:
        where = f"{cls.__qualname__}: operation {each.name!r}"
        if each.name in names:
            raise UsageError(f"{where} is listed twice: give each operation a name of its own.")
        names.add(each.name)
        _refuse_unknown([each.capability] if each.capability else [], known, where, "capability")
        if each.arrange is not None and not _takes(each.call, 4):
            raise UsageError(f"{where} has `arrange`, whose result its call does not take: give the call a fourth argument.")
        methods = {method for protocol in definition.protocols.values() for method in dir(protocol) if not method.startswith("_")}
        _refuse_unknown([each.method], methods, where, "method of its protocols")


def _takes(call: Callable[..., object], count: int) -> bool:
    """Whether *call* takes *count* arguments by position."""
    try:
        inspect.signature(call).bind(*range(count))
    except TypeError:
        return False

    return True


def _refuse_unknown(given: Iterable[object], known: Iterable[str], where: str, what: str) -> None:
    known = frozenset(known)
    for each in given:
        if each not in known:
            raise UsageError(f"{where}: unknown {what} {describe(each)}; {suggest(str(each), known)}")


# The rules of a class.


def catalogue(cls: Any) -> tuple[Entry, ...]:
    """The rules and audits of a contract, a policy or a suite, in the order of their ids; without those that have no subject."""
    if cls._omnitck_plan is not None:
        return tuple(cls._omnitck_plan.entries)

    contract, policies = _owners(cls)
    return tuple(_entries(contract, policies))


def known_by(*owners: Any) -> frozenset[str]:
    """Every capability that a suite of these contracts and policies may declare: each has a rule that needs it."""
    contract = next((each for each in owners if not each._omnitck_policy), None)
    policies = [each for each in owners if each._omnitck_policy]
    named = frozenset(PRODUCTION).union(*(each.definition.protocols for each in owners))
    needed: frozenset[str] = frozenset().union(*(each.needs for each in _entries(contract, policies)))
    return named & needed


def _owners(cls: Any) -> tuple[Any, list[Any]]:
    """The contract and the policies among the bases of *cls*; None where there is no contract."""
    found = _defining(cls)
    return next((each for each in found if not each._omnitck_policy), None), [each for each in found if each._omnitck_policy]


def _defining(cls: Any) -> list[Any]:
    contracts = [each for each in cls.__mro__ if hasattr(each, "_omnitck_policy") and not issubclass(each, unittest.TestCase)]
    return [each for each in contracts if "definition" in vars(each)]


def _entries(contract: Any, policies: Iterable[Any]) -> Iterator[Entry]:
    rules = [(rule, owner) for owner in (contract, *policies) if owner is not None for rule in _rules_of(owner)]
    for rule, owner in sorted(rules, key=lambda each: (each[0].ambient, each[0].method)):
        definition: Definition = owner.definition
        cells = definition.cells if contract is None else contract.definition.cells
        if definition.cells is not None and cells is None:
            continue  # a policy about cells, under a contract that has none
        if contract is not None and not all(supplies(cells, verb) for verb in rule.uses):
            continue

        verbs = [needs_of(cells, verb) for verb in rule.uses] if contract is not None else []
        shared = not rule.id.startswith(f"{definition.prefix}-")
        yield Entry(
            id=f"{definition.prefix}-{rule.id}" if shared else rule.id,
            rule=rule,
            owner=owner,
            needs=rule.needs.union(*verbs),
        )


def _rules_of(cls: Any) -> list[Rule]:
    """Those that *cls* has of its own or from its bases."""
    found = (getattr(getattr(cls, name, None), "rule", None) for name in dir(cls))
    return [each for each in found if isinstance(each, Rule)]


# Suites.


def plan_suite(cls: Any, base: Any) -> Plan:
    """Read a suite, and refuse whatever could make it claim more or run less than its author thinks. *base* is `Contract`."""
    contract, policies = _one_contract(cls)
    owners = (contract, *policies)
    definitions: list[Definition] = [each.definition for each in owners]
    known = known_by(*owners)
    declared = _declared(cls, definitions, known)
    entries = tuple(_entries(contract, policies))
    for policy in policies:
        if not any(each.owner is policy for each in entries):
            raise UsageError(
                f"{cls.__qualname__} mixes {policy.definition.name}, of which no rule has a subject under "
                f"{contract.definition.name}: leave it out."
            )
    hooks = (*HOOKS, *dict.fromkeys(hook for each in definitions for hook in each.hooks if hook not in HOOKS))
    data = (*DECLARATIONS, *dict.fromkeys(name for each in definitions for name in each.data))
    plan = Plan(
        definition=contract.definition,
        contract=contract,
        policies=tuple(policies),
        declared=declared,
        known=known,
        entries=entries,
        trial=_trial(owners),
        hooks=hooks,
        data=data,
        supplied=frozenset(hook for hook in hooks if _supplies_hook(cls, hook, owners, base)),
        read_early=frozenset((*hooks, *data, *RESERVED)) - set(LATE),
        follows={method: word for each in reversed(definitions) for method, word in each.follows.items()},
        arounds=tuple(each.around for each in definitions if each.around is not None),
    )
    _refuse_replacements(cls, plan)
    _check_hooks(cls, plan)
    _check_data(cls, plan)
    _check_deviations(cls, plan)
    return plan


def check_instance(suite: Any, plan: Plan) -> None:
    """Refuse what a set-up has put on *suite* under a name that the kit reads, and what would hide its outcomes."""
    if getattr(suite, "__unittest_expecting_failure__", False) or getattr(
        getattr(suite, suite._testMethodName, None), "__unittest_expecting_failure__", False
    ):
        # Else this refusal would count as the failure that is expected.
        if (outcome := getattr(suite, "_outcome", None)) is not None:
            outcome.expecting_failure = False
        raise UsageError(
            f"{type(suite).__qualname__} is marked with unittest.expectedFailure, which would hide why a rule fails: "
            'say known_deviations = {"id": "reason or link"} instead.'
        )

    for name in vars(suite).keys() - plan.own_names:
        if name in plan.read_early:
            raise UsageError(
                f"{type(suite).__qualname__} sets self.{name} in its set-up, a name that the kit reads when the class is "
                f"created: say `{name}` in the class, or take another name."
            )
        if name in LATE:
            check_declaration(name, getattr(suite, name), f"{type(suite).__qualname__}: self.", plan.definition.limits)
        elif (found := near_name(name, None, plan)) in LATE:
            raise UsageError(
                f"{type(suite).__qualname__} sets self.{name} in its set-up, which the kit does not read: did you mean {found}?"
            )
        else:
            plan.own_names.add(name)


def check_declaration(key: str, value: object, owner: str = "", limits_type: type[Limits] = Limits) -> None:
    """Refuse a declaration whose type is wrong."""
    if key == "limits" and value is not None and not isinstance(value, limits_type):
        raise UsageError(f"{owner}limits is {describe(value)}: give an omnitck.shared.models.{limits_type.__name__}.")
    if key == "credentials" and not (isinstance(value, tuple | list) and all(isinstance(each, str) and each for each in value)):
        raise UsageError(f"{owner}credentials is no list of strings: give the secrets of the configuration, none of them empty.")
    if key == "again" and not isinstance(value, str):
        raise UsageError(f"{owner}again is {describe(value)}: give the command that repeats a rule, with {{rule}} in it.")


def _one_contract(cls: Any) -> tuple[Any, list[Any]]:
    contract, policies = _owners(cls)
    contracts = [each for each in _defining(cls) if not each._omnitck_policy]
    if len(contracts) != 1:
        names = ", ".join(each.__name__ for each in contracts) or "only policies"
        raise UsageError(f"{cls.__qualname__} mixes {names}: a suite has exactly one contract; make one suite for each.")

    return contract, policies


def _trial(owners: Iterable[Any]) -> type[Any]:
    """One class with the words of all *owners*."""
    bases = list(dict.fromkeys(each.trial for each in owners))
    wanted = [each for each in bases if not any(other is not each and issubclass(other, each) for other in bases)]
    return wanted[0] if len(wanted) == 1 else type(wanted[0].__name__, tuple(wanted), {"__module__": wanted[0].__module__})


def _declared(cls: Any, definitions: Iterable[Definition], known: frozenset[str]) -> frozenset[str]:
    names = " + ".join(each.name for each in definitions)
    if cls.profile not in PROFILES:
        raise UsageError(f"{cls.__qualname__}: unknown profile {describe(cls.profile)}; {suggest(str(cls.profile), PROFILES)}")

    demanded = demanded_by(cls.profile, definitions, known)
    if cls.profile == "production" and not demanded:
        raise UsageError(f"{cls.__qualname__}: {names} has no rule of the profile `production`: it cannot be claimed.")

    return frozenset(_capabilities(cls, names, known)) | demanded


def demanded_by(profile: str, definitions: Iterable[Definition], known: frozenset[str]) -> frozenset[str]:
    """Of the *known* capabilities those that *profile* demands of a contract and policies."""
    demanded = PROFILES[profile]
    return demanded and demanded.union(*(each.production for each in definitions)) & known


def _capabilities(cls: Any, names: str, known: frozenset[str]) -> Iterable[str]:
    """What the suite itself declares: a set of names, or a provider's class, which may have those of other contracts too."""
    given: Any = cls.capabilities
    elsewhere: frozenset[str] = frozenset()
    where = f"{cls.__qualname__}.capabilities"
    if isinstance(given, type):
        given, where = getattr(given, "capabilities", None), f"{where}: {given.__qualname__}.capabilities"
        elsewhere = EVERYWHERE.union(*_defined.values())
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{where} is {describe(given)}: give a set of names, or the class of a provider that has one.")

    given = tuple(given)
    for each in given:
        if each not in known and each not in elsewhere:
            raise UsageError(f"{cls.__qualname__}: unknown capability {describe(each)} of {names}; {suggest(str(each), known)}")
    return [each for each in given if each in known]


def _refuse_replacements(cls: Any, plan: Plan) -> None:
    for each in plan.entries:
        method = getattr(cls, each.rule.method, None)
        if getattr(method, "unbound", method) is not getattr(each.owner, each.rule.method):
            raise UsageError(
                f"{cls.__qualname__} overrides rule {each.id} ({each.rule.method}): a rule cannot be replaced; "
                f'say known_deviations = {{"{each.id}": "reason or link"}} instead.'
            )
    theirs = [each for owner in (plan.contract, *plan.policies) for each in owner.__mro__]
    for each in cls.__mro__:
        # A suite among the bases was checked when it was created, and has had its `declared` since.
        if each not in theirs and "_omnitck_plan" not in vars(each):
            for name in RESERVED:
                if name in vars(each):
                    raise UsageError(f"{each.__qualname__}.{name} takes a name that the kit reserves on suites: choose another.")
    _refuse_near_names(cls, plan, theirs)


def _refuse_near_names(cls: Any, plan: Plan, theirs: Iterable[Any]) -> None:
    """What is nearly one of the kit's names was meant to be it: a declaration that nobody reads would take its rules away."""
    for each in cls.__mro__:
        if each in theirs or "_omnitck_plan" in vars(each) or each.__module__.partition(".")[0] in _BASES:
            continue
        for name, value in vars(each).items():
            if found := near_name(name, value, plan):
                raise UsageError(
                    f"{each.__qualname__}.{name} is none of the names that the kit reads: did you mean {found}? "
                    "If it is your own, give it a name that is less like it."
                )


_BASES = frozenset(("unittest", "builtins", "typing", "abc", "testtools", "twisted", "django", "nose2", "anyio"))
"""The packages of TestCases and mixins that others wrote."""


def near_name(name: str, value: object, plan: Plan) -> str | None:
    """The hook or declaration for which *name*, whose value is *value*, was mistaken, if it is likely to be one."""
    kit = (*plan.hooks, *plan.data)
    if name.startswith(("_", "test")) or name in kit or name in RESERVED:
        return None

    callable_value = callable(value) or isinstance(value, staticmethod | classmethod)
    alike = plan.hooks if callable_value and not isinstance(value, type) else plan.data
    return next((each for each in alike if len(each) > 3 and _one_slip(name.lower(), each)), None)


def _one_slip(typed: str, meant: str) -> bool:
    """Whether *typed* is *meant* but for one slip of the hand: two in a long word."""
    most = 2 if len(meant) > 9 else 1
    if abs(len(typed) - len(meant)) > most:
        return False

    before_last: list[int] = []
    last = list(range(len(meant) + 1))
    for i, typed_letter in enumerate(typed, 1):
        row = [i]
        for j, letter in enumerate(meant, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (typed_letter != letter)))
            if i > 1 and j > 1 and typed[i - 2] == letter and typed_letter == meant[j - 2]:
                row[j] = min(row[j], before_last[j - 2] + 1)
        before_last, last = last, row
    return last[-1] <= most


PROVIDING = ("make_provider", "unreachable_provider")
"""The hooks that make a provider."""


def is_factory(function: object) -> bool:
    """Whether *function* can make a provider: a coroutine function, or one that `contextlib.asynccontextmanager` made."""
    if isinstance(function, staticmethod | classmethod):
        function = function.__func__
    if inspect.iscoroutinefunction(function):
        return True

    while isinstance(function, functools.partial):
        function = function.func
    return inspect.isasyncgenfunction(getattr(function, "__wrapped__", None))


def _check_hooks(cls: Any, plan: Plan) -> None:
    for hook in plan.hooks:
        supplied = getattr(cls, hook)
        if not (is_factory(supplied) if hook in PROVIDING else inspect.iscoroutinefunction(supplied)):
            raise UsageError(f"{cls.__qualname__}.{hook} is no coroutine function: write it with `async def`.")

    parameters = inspect.signature(cls.make_provider).parameters.values()
    for policy in plan.policies:
        missing = policy.definition.config - {each.name for each in parameters}
        if missing and not any(each.kind is each.VAR_KEYWORD for each in parameters):
            raise UsageError(
                f"{cls.__qualname__}.make_provider takes no {' and no '.join(sorted(missing))}, which {policy.definition.name} "
                f"gives it: write `async def make_provider(self, *, {', '.join(sorted(missing))}=None, **config)`."
            )

    if "availability" in plan.declared and not plan.supplied & {"unreachable_provider", "backend_address"}:
        raise UsageError(
            f"{cls.__qualname__} declares `availability` but has neither hook that can show it: "
            "write `unreachable_provider` or `backend_address`; a command line names one with "
            "`--hook unreachable_provider=package.module:function`."
        )


def _supplies_hook(cls: Any, hook: str, owners: Iterable[Any], base: Any) -> bool:
    owner = next((each for each in (*owners, base) if hasattr(each, hook)), base)
    return getattr(cls, hook) is not getattr(owner, hook)


def _check_data(cls: Any, plan: Plan) -> None:
    if cls.backend not in ("asyncio", "trio"):
        raise UsageError(f'{cls.__qualname__}.backend is {cls.backend!r}: use "asyncio" or "trio".')
    for number in ("patience", "deadline"):
        value = getattr(cls, number)
        if (value is not None or number == "patience") and not (isinstance(value, int | float) and value > 0):
            raise UsageError(f"{cls.__qualname__}.{number} is {describe(value)}: give a number of seconds above 0.")
    cls._omnitck_plan, cls.declared = plan, plan.declared  # which a contract's own check reads
    for owner in (plan.contract, *plan.policies):
        if owner.definition.check is not None:
            owner.definition.check(cls)
    for declaration in ("limits", "credentials", "again"):
        check_declaration(declaration, getattr(cls, declaration), f"{cls.__qualname__}.", plan.definition.limits)


def _check_deviations(cls: Any, plan: Plan) -> None:
    if not isinstance(cls.known_deviations, Mapping):
        raise UsageError(f"{cls.__qualname__}.known_deviations is no mapping of rule ids to reasons.")

    known = {each.id for each in plan.entries}
    for id, reason in cls.known_deviations.items():
        if id not in known:
            raise UsageError(f"{cls.__qualname__}.known_deviations: unknown rule {describe(id)}; {suggest(str(id), known)}")
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"{cls.__qualname__}.known_deviations: {id} needs a reason, or a link to one.")
