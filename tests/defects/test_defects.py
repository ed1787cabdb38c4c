"""Defects: mixins break references under their own name and story, and none is without use."""

import inspect
import unittest
from types import ModuleType
from unittest import mock

from omnitck import defects
from omnitck.defects import Defect, break_with, breaks, clients, defects_of, key_values, tenants
from omnitck.reference.kv_store import MemoryKVStore
from omnitck.reference.object_storage import MemoryObjectStorage
from omnitck.selftest.laws import proven

BASES = {clients.Read, clients.ReadElsewhere, clients.Delete, clients.Numbers}


class TestBreaking(unittest.TestCase):
    def setUp(self) -> None:
        self.known: dict[str, dict[str, Defect]] = {}
        registry = mock.patch.object(defects, "_DEFECTS", self.known)
        registry.start()
        self.addCleanup(registry.stop)

    def test_a_mixin_breaks_a_reference(self) -> None:
        break_with(MemoryKVStore, {clients.DoubleRelease: "KV-COM-07 MT-16"}, without="watch ttl")
        defect = self.known["kv_store"]["DoubleRelease"]
        self.assertEqual(defect.rules, {"KV-COM-07", "MT-16"})
        self.assertEqual(defect.without, {"watch", "ttl"})
        self.assertEqual(defect.story, "A second `close` releases the pool again.")
        self.assertEqual(defect.provider.__mro__[1:3], (clients.DoubleRelease, MemoryKVStore))

    def test_a_name_is_given_once_in_a_contract(self) -> None:
        break_with(MemoryKVStore, {clients.DoubleRelease: "KV-COM-07"})
        break_with(MemoryObjectStorage, {clients.DoubleRelease: "OB-COM-07"})
        with self.assertRaisesRegex(ValueError, "kv_store has two defects DoubleRelease"):
            break_with(MemoryKVStore, {clients.DoubleRelease: "KV-COM-07"})

    def test_a_subclass_of_a_mixin_has_its_story(self) -> None:
        @breaks("KV-COM-07")
        class Again(clients.DoubleRelease, MemoryKVStore):
            pass

        self.assertEqual(self.known["test_defects"]["Again"].story, "A second `close` releases the pool again.")

    def test_the_operation_that_a_mixin_replaces_keeps_its_signature(self) -> None:
        break_with(MemoryObjectStorage, {clients.CrossedReply: "OB-COM-15", tenants.DeleteEverywhere: "MT-02"})
        for name, operation in (("CrossedReply", "download"), ("DeleteEverywhere", "delete")):
            broken = getattr(self.known["object_storage"][name].provider, operation)
            whole = getattr(MemoryObjectStorage, operation)
            self.assertIsNot(broken, whole)
            self.assertTrue(inspect.iscoroutinefunction(broken))
            self.assertEqual(inspect.signature(broken), inspect.signature(whole))


class TestMixins(unittest.TestCase):
    def test_each_breaks_some_reference(self) -> None:
        used = {base for contract in proven() for each in defects_of(contract) for base in each.provider.__mro__}
        self.assertEqual({each for module in (clients, tenants, key_values) for each in mixins(module)} - used - BASES, set())

    def test_each_has_a_story(self) -> None:
        for contract in proven():
            for defect in defects_of(contract):
                self.assertTrue(defect.story, (contract, defect.name))


def mixins(module: ModuleType) -> list[type]:
    return [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
