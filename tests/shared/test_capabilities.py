"""The words in which a provider says what it can do."""

import unittest

from omnitck.kit.checks import known_by
from omnitck.kit.contract import Policy
from omnitck.registry import BUILT_IN, find
from omnitck.shared.capabilities import PRODUCTION, PROFILES, known_capabilities


class TestCapabilities(unittest.TestCase):
    def test_each_contract_knows_those_of_its_name(self) -> None:
        for name in BUILT_IN:
            contract = find(name)
            if not issubclass(contract, Policy):
                with self.subTest(name):
                    self.assertEqual(known_capabilities(name), known_by(contract))

    def test_another_name_is_an_error(self) -> None:
        with self.assertRaises(LookupError):
            known_capabilities("kvstore")

    def test_the_profile_demands_what_every_contract_knows(self) -> None:
        self.assertEqual(PROFILES, {"core": frozenset(), "production": frozenset(PRODUCTION)})
