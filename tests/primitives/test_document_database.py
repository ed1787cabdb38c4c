"""The document database: its reference, the smallest honest provider, and the plain reading of its language."""

import copy
import importlib.util
import os
import random
import unittest
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.document_database import DocumentDatabaseContract
from omnitck.primitives.documents import CORPUS, MISSING, OPERATORS, SCALARS, difference, matches, nested, random_steps
from omnitck.reference.document_database import CAPABILITIES, MemoryDocumentDatabase, MemoryDocuments
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.exceptions import AlreadyExistsError, InvalidArgumentError, UnsupportedError

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestReference: Any = reference_suite("document_database", __module__=__name__, __qualname__="TestReference")
TestReferenceOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("document_database", __module__=__name__, __qualname__="TestReferenceOnTrio", backend="trio")
)


class TestReferenceInRealTime(DocumentDatabaseContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, and as a user would certify it."""

    capabilities = CAPABILITIES
    credentials = ("correct-horse",)
    memory = MemoryDocuments(password="correct-horse")

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryDocumentDatabase:
        return MemoryDocumentDatabase(self.memory, tenant_id=tenant_id, password="correct-horse")

    async def unreachable_provider(self) -> MemoryDocumentDatabase:
        return MemoryDocumentDatabase(MemoryDocuments(reachable=False))


class TinyDatabase:
    """Five methods over dictionaries: all that the core asks for."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, dict[str, Any]]] = {}

    async def insert_one(self, collection: str, document: Mapping[str, Any]) -> str:
        stored = copy.deepcopy(dict(document))
        id: str = stored.setdefault("_id", uuid.uuid4().hex)
        documents = self.collections.setdefault(collection, {})
        if id in documents:
            raise AlreadyExistsError(f"document {id!r} exists")
        documents[id] = stored
        return id

    async def find_one(self, collection: str, filter: Mapping[str, Any]) -> dict[str, Any] | None:
        return next(iter(self._matching(collection, filter)), None)

    async def find_many(self, collection: str, filter: Mapping[str, Any], *, limit: int | None = None) -> list[dict[str, Any]]:
        return self._matching(collection, filter)[:limit]

    async def update_one(self, collection: str, filter: Mapping[str, Any], update: Mapping[str, Any]) -> bool:
        if not isinstance(update, Mapping) or not update:
            raise InvalidArgumentError("an update is a mapping of operators")
        if update.keys() != {"$set"}:
            raise UnsupportedError("only $set is known here")
        fields = update["$set"]
        if not isinstance(fields, Mapping) or not fields or "_id" in fields:
            raise InvalidArgumentError("$set takes fields, and not _id")
        if any("." in str(name) for name in fields):
            raise UnsupportedError("paths are not known here")
        for found in self._matching(collection, filter)[:1]:
            self.collections[collection][found["_id"]].update(copy.deepcopy(dict(fields)))
            return True
        return False

    async def delete_one(self, collection: str, filter: Mapping[str, Any]) -> bool:
        for found in self._matching(collection, filter)[:1]:
            del self.collections[collection][found["_id"]]
            return True
        return False

    def _matching(self, collection: str, filter: Mapping[str, Any]) -> list[dict[str, Any]]:
        for name, wanted in filter.items():
            if name.startswith("$") or "." in name or isinstance(wanted, dict | list):
                raise UnsupportedError("only fields that equal scalars are known here")
        return [
            copy.deepcopy(document)
            for document in self.collections.get(collection, {}).values()
            if all(name in document and self._equal(document[name], wanted) for name, wanted in filter.items())
        ]

    def _equal(self, value: Any, wanted: Any) -> bool:
        return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


class TestTinyDatabase(DocumentDatabaseContract, unittest.IsolatedAsyncioTestCase):
    """The core is owed by who has the five methods alone."""

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> TinyDatabase:
        return TinyDatabase()


class TestTinyDatabaseOfTenants(DocumentDatabaseContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """Isolation asks for no more methods."""

    def setUp(self) -> None:
        self.tenants: dict[str | None, TinyDatabase] = {}

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> TinyDatabase:
        return self.tenants.setdefault(tenant_id, TinyDatabase())


class TestSuites(unittest.TestCase):
    def test_each_declares_everything_there_is(self) -> None:
        for suite in (TestReference, TestReferenceOnTrio, TestReferenceInRealTime):
            self.assertEqual(suite.declared, known_capabilities("document_database"))


class TestOracle(unittest.TestCase):
    def test_equality(self) -> None:
        for value, wanted, expected in (
            (1, 1.0, True), (1, True, False), (0, False, False), (1, "1", False), (None, None, True), (MISSING, None, False),
            ([1], 1, False), ({}, None, False), ("a", "A", False), ("\u00e9", "e\u0301", False), (True, True, True),
        ):  # fmt: skip
            document: dict[str, Any] = {} if value is MISSING else {"f": value}
            self.assertEqual(matches(document, {"f": wanted}), expected, (value, wanted))

    def test_operators(self) -> None:
        for value, operators, expected in (
            (2, {"$gt": 1}, True), ("2", {"$gt": 1}, False), (True, {"$gt": 0}, False), ("b", {"$gte": "a"}, True),
            (MISSING, {"$ne": 1}, False), (None, {"$ne": 1}, True), ([1], {"$nin": [1]}, True), (MISSING, {"$nin": []}, False),
            (1, {"$in": []}, False), (1, {"$in": [True, 1.0]}, True), (None, {"$exists": True}, True),
            (MISSING, {"$exists": False}, True), (5, {"$gt": 1, "$lt": 5}, False),
        ):  # fmt: skip
            document: dict[str, Any] = {} if value is MISSING else {"f": value}
            self.assertEqual(matches(document, {"f": operators}), expected, (value, operators))

    def test_paths_go_through_maps_alone(self) -> None:
        self.assertTrue(matches({"a": {"b": 1}}, {"a.b": 1}))
        self.assertFalse(matches({"a": [{"b": 1}]}, {"a.b": 1}))
        self.assertFalse(matches({"a": 1}, {"a.b": None}))

    def test_it_agrees_with_the_reference(self) -> None:
        reference = MemoryDocumentDatabase(MemoryDocuments())
        for value in CORPUS:
            stored = {"_id": "x"} if value is MISSING else {"_id": "x", "f": value}
            reference.put("c", stored)
            for wanted in (*SCALARS, *OPERATORS):
                found = bool(reference.matching("c", {"f": wanted}))
                self.assertEqual(found, matches(stored, {"f": wanted}), (value, wanted))

    def test_every_scalar_is_told_from_the_others(self) -> None:
        twins = [(a, b) for a in SCALARS for b in SCALARS if a is not b and matches({"f": a}, {"f": b})]
        self.assertEqual({frozenset(map(repr, pair)) for pair in twins}, {frozenset({"1", "1.0"})})


class TestDifference(unittest.TestCase):
    def test_equal_values_differ_in_nothing(self) -> None:
        for value in (1, 1.0, True, None, "a", [1, {"a": (2,)}], {"a": {"b": [None]}}, float("nan"), b"a", nested(31)):
            self.assertEqual(difference(copy.deepcopy(value), value), "")

    def test_a_container_may_be_of_a_subclass_and_a_scalar_may_not(self) -> None:
        class Rows(list[Any]):
            """Of a driver."""

        class Text(str):
            """Of a driver."""

        self.assertEqual(difference(OrderedDict(b=Rows([1]), a={}), {"a": {}, "b": [1]}), "")
        self.assertEqual(difference(Rows([Text("a")]), ["a"]), "[0] is of type Text, not str")
        self.assertEqual(difference((1,), [1]), "it is of type tuple, not list")

    def test_a_difference_is_located(self) -> None:
        for observed, expected, said in (
            (1, True, "it is of type int, not bool"),
            ({"a": [1, 2.0]}, {"a": [1, 2]}, "['a'][1] is of type float, not int"),
            ({"a": 1}, {"a": 1, "b": 2}, "['b'] is missing"),
            ({"a": 1, "b": 2}, {"a": 1}, "['b'] was added"),
            ([1], [1, 2], "it has 1 elements, not 2"),
            ({1: "v"}, {True: "v"}, "it has names of other types"),
            ({"a": {"b": "x"}}, {"a": {"b": "y"}}, "['a']['b'] is 'x', not 'y'"),
            ("x" * 200, "y", "it is 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxx', not 'y'"),
        ):
            self.assertEqual(difference(observed, expected), said)


class TestWalk(unittest.TestCase):
    def test_steps_use_what_is_declared_alone(self) -> None:
        for declared in (frozenset[str](), CAPABILITIES):
            methods = {step.method for step in random_steps(random.Random(0), declared)}
            core = {"insert_one", "find_one", "find_many", "update_one", "delete_one"}
            self.assertEqual(methods, core if not declared else core | {"replace_one", "insert_many", "delete_many", "find_iter"})

    def test_a_step_prints_its_collection(self) -> None:
        step = next(each for each in random_steps(random.Random(0), frozenset()) if each.method == "find_one")
        self.assertRegex(str(step), r"""^find_one\("c", \{'_id': k\d\}\)$""")
