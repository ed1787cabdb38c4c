"""Contracts and policies by name.

A name stands for a class of the kit or for an entry point of another distribution (group `omnitck.contracts`). An entry point is
loaded only when it is asked for, so that a broken one spoils nothing else. No contract is imported before it is asked for.
"""

import functools
import importlib
import os
import sys
import unittest
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from omnitck.kit.checks import catalogue
from omnitck.kit.contract import Contract
from omnitck.kit.text import UsageError, describe, describe_error, place_of, suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BUILT_IN", "Registered", "find", "is_registered", "registered", "resolve"]

BUILT_IN: Mapping[str, str] = {
    "kv_store": "omnitck.primitives.kv_store:KVStoreContract",
    "secrets": "omnitck.primitives.secrets:SecretsContract",
    "object_storage": "omnitck.primitives.object_storage:ObjectStorageContract",
    "cache": "omnitck.primitives.cache:CacheContract",
    "document_database": "omnitck.primitives.document_database:DocumentDatabaseContract",
    "producer": "omnitck.messaging.producer:ProducerContract",
    "consumer": "omnitck.messaging.consumer:ConsumerContract",
    "delayed_messaging": "omnitck.messaging.delayed_messaging:DelayedMessagingContract",
    "transactional_outbox": "omnitck.resilience.transactional_outbox:TransactionalOutboxContract",
    "sagas": "omnitck.resilience.sagas:SagasContract",
    "distributed_lock": "omnitck.resilience.distributed_lock:DistributedLockContract",
    "circuit_breaker": "omnitck.resilience.circuit_breaker:CircuitBreakerContract",
    "multi_tenancy": "omnitck.policies.multi_tenancy:MultiTenancyPolicy",
}
"""The kit's own contracts and policies. A new one is one file and one line here."""

ENTRY_POINTS = "omnitck.contracts"


@dataclass(frozen=True)
class Registered:
    """A name, and the contract or policy that it stands for, or else the reason why it cannot be had."""

    name: str
    contract: type[Contract] | None
    problem: str = ""


def find(contract: str | type) -> type[Contract]:
    """The contract or policy of that name; a class is taken as it is. Raises UsageError."""
    if isinstance(contract, type):
        if not issubclass(contract, Contract) or issubclass(contract, unittest.TestCase) or not hasattr(contract, "definition"):
            raise UsageError(
                f"{contract.__qualname__} is no contract or policy: give a subclass of Contract with a definition, or the name."
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


def is_registered(contract: type[Contract]) -> bool:
    """Whether its name stands for this very class."""
    try:
        return find(contract.definition.name) is contract
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
        raise UsageError(f"contract {name!r}, {_origin(point)}, cannot be loaded: {_told(error)}.") from error

    problem = _problem_of(contract, name)
    if problem:
        raise UsageError(f"contract {name!r}, {_origin(point)}, {problem}")

    return cast("type[Contract]", contract)


def _problem_of(contract: object, name: str) -> str:
    """Why *contract* cannot be had under *name*; nothing if it can."""
    if not isinstance(contract, type) or not issubclass(contract, Contract) or issubclass(contract, unittest.TestCase):
        return "is no contract: it must be a subclass of omnitck.Contract or omnitck.Policy, and no TestCase."
    if not hasattr(contract, "definition"):
        return "has no definition."
    if contract.definition.name != name:
        return f"calls itself {contract.definition.name!r}: the name of the class and of the entry point must be the same."

    ids = {each.id for each in catalogue(contract)}
    taken = {other: ids & _ids_of(other) for other in BUILT_IN}
    return next((f"has rule ids that belong to {other}: {', '.join(sorted(each))}." for other, each in taken.items() if each), "")


@functools.cache
def _ids_of(name: str) -> frozenset[str]:
    return frozenset(each.id for each in catalogue(_built_in(name)))


def resolve(target: str) -> object:
    """What `package.module:name`, or `path/to/module.py:name`, stands for. The current directory is searched too."""
    file, is_file, path = target.partition(".py:")
    module_name = file
    if not is_file:
        module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise UsageError(f"target {target!r} is not of the form package.module:name, or path/to/module.py:name.")

    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    if is_file:
        module_name = _module_in(f"{file}.py", target)
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
            raise UsageError(f"target {target!r}: reading {part!r} raised {_told(error)}.") from error
    return found


def _module_in(file: str, target: str) -> str:
    """The name by which *file* is imported: that of its package, if its folder is one, or its own; it can be, from now on."""
    path = os.path.abspath(file)
    if not os.path.isfile(path):
        raise UsageError(f"target {target!r}: there is no file {file!r}.")

    folder, name = os.path.split(path.removesuffix(".py"))
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        name = f"{package}.{name}"
    if folder not in sys.path:
        sys.path.insert(0, folder)
    other = getattr(sys.modules.get(name), "__file__", None)
    if other is not None and not os.path.samefile(other, path):
        raise UsageError(f"target {target!r}: {name} is imported from {other!r} already: give one of the two another name.")

    return name


def _import(name: str, target: str) -> object:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"target {target!r}: there is no module {error.name!r} in the current directory or on sys.path."
            ) from None

        missing = f"the module {error.name!r}, which is missing ({place_of(error)})"
        raise UsageError(f"target {target!r}: importing {name} needs {missing}.") from error
    except BaseException as error:
        raise UsageError(f"target {target!r}: importing {name} raised {_told(error)}.") from error


def _told(error: BaseException) -> str:
    """*error* and where it was raised. The text of a syntax error says that itself."""
    where = "" if isinstance(error, SyntaxError) else place_of(error)
    return describe_error(error) + (f" ({where})" if where else "")
