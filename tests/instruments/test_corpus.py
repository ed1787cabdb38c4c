"""The corpora: what must be legal is, what must be refused is, and every trap is the one that it is called."""

import unittest
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any
from unicodedata import normalize

from omnitck.instruments import corpus
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore
from omnitck.shared.exceptions import InvalidArgumentError

store = MemoryKVStore(MemoryBackend())


def refused(check: Callable[[object], None], values: Mapping[Any, object]) -> list[Any]:
    """The labels of the values that *check* refuses."""
    labels = []
    for label, value in values.items():
        try:
            check(value)
        except InvalidArgumentError:
            labels.append(label)
    return labels


class TestNames(unittest.TestCase):
    def test_all_differ(self) -> None:
        self.assertEqual(len(set(corpus.NAMES.values())), len(corpus.NAMES))

    def test_all_are_legal_also_with_what_makes_them_unique(self) -> None:
        self.assertEqual(refused(store.check_key, corpus.NAMES), [])
        self.assertEqual(refused(store.check_key, {label: "n" * 64 + name for label, name in corpus.NAMES.items()}), [])

    def test_those_with_a_trap_at_the_start_are_among_them(self) -> None:
        self.assertEqual(corpus.NAMES_AT_THE_START - set(corpus.NAMES), frozenset())

    def test_what_follows_a_name_differs_and_is_legal(self) -> None:
        self.assertEqual(len(set(corpus.AFTER_A_NAME.values())), len(corpus.AFTER_A_NAME))
        self.assertEqual(refused(store.check_key, {label: f"name{tail}" for label, tail in corpus.AFTER_A_NAME.items()}), [])

    def test_names_that_fold_together_are_there(self) -> None:
        names = set(corpus.NAMES.values())
        foldings: dict[str, Callable[[str], str]] = {
            "case": str.lower,
            "casefold": str.casefold,
            "NFC": lambda name: normalize("NFC", name),
            "NFKC": lambda name: normalize("NFKC", name),
            "strip": str.strip,
        }
        folded = {label: len({fold(each) for each in names}) < len(names) for label, fold in foldings.items()}
        self.assertEqual(folded, dict.fromkeys(foldings, True))

    def test_all_illegal_ones_are_refused(self) -> None:
        self.assertEqual(refused(store.check_key, corpus.ILLEGAL_NAMES), list(corpus.ILLEGAL_NAMES))


class TestTexts(unittest.TestCase):
    def test_all_differ(self) -> None:
        self.assertEqual(len(set(corpus.TEXTS.values())), len(corpus.TEXTS))

    def test_all_can_be_stored(self) -> None:
        self.assertEqual({store.encoded("k", each).decode() for each in corpus.TEXTS.values()}, set(corpus.TEXTS.values()))


class TestTenants(unittest.TestCase):
    def test_all_illegal_ones_are_refused(self) -> None:
        self.assertEqual(refused(store.check_tenant, corpus.ILLEGAL_TENANTS), list(corpus.ILLEGAL_TENANTS))

    def test_the_odd_ones_differ_and_are_legal(self) -> None:
        self.assertEqual(len(set(corpus.ODD_TENANTS)), len(corpus.ODD_TENANTS))
        self.assertEqual(refused(store.check_tenant, dict(enumerate(corpus.ODD_TENANTS))), [])

    def test_twins_are_two(self) -> None:
        self.assertEqual([label for label, (one, other) in corpus.TWIN_TENANTS.items() if one == other], [])

    def test_twins_are_legal(self) -> None:
        self.assertEqual(refused(store.check_tenant, dict(enumerate(chain(*corpus.TWIN_TENANTS.values())))), [])

    def test_twins_of_normal_forms_are_one_after_normalizing(self) -> None:
        self.assertEqual(len({normalize("NFC", each) for each in corpus.TWIN_TENANTS["normal forms"]}), 1)
        self.assertEqual(len({normalize("NFKC", each) for each in corpus.TWIN_TENANTS["full width"]}), 1)

    def test_separators_differ(self) -> None:
        self.assertEqual(len(set(corpus.SEPARATORS)), len(corpus.SEPARATORS))
