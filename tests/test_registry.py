"""Contracts and policies by name: the kit's own, and those of other distributions."""

import sys
import tempfile
from pathlib import Path

import omnitck
from omnitck import registry
from omnitck.kit.contract import Contract, Policy, plan_of
from omnitck.primitives.kv_store import KVStoreContract
from tests.helpers import UsageCase, on_path, suite_of
from tests.kit.toys import BagContract

ELSEWHERE = """
import omnitck

class PlainContract(omnitck.Contract):
    definition = omnitck.Definition(name="plain", prefix="PL")

    @omnitck.rule("PL-01")
    async def test_pl_01(self, t):
        "It works."

class PlainPolicy(omnitck.Policy):
    definition = omnitck.Definition(name="plainness", prefix="PN")

    @omnitck.audit("PN-01")
    async def audit_pn_01(self, t):
        "It stays plain."

class TakenContract(omnitck.Contract):
    definition = omnitck.Definition(name="taken", prefix="MT")

    @omnitck.rule("MT-01")
    async def test_mt_01(self, t):
        "It clashes."

class Unfinished(omnitck.Contract):
    "It has no definition."
"""

MISTAKEN = """
import omnitck

class MistakenContract(omnitck.Contract):
    definition = omnitck.Definition(name="mistaken", prefix="")
"""


async def make_provider() -> object:
    return object()


class TestNames(UsageCase):
    def test_a_name_stands_for_a_class(self) -> None:
        for name, place in registry.BUILT_IN.items():
            contract = registry.find(name)
            self.assertEqual((contract.definition.name, f"{contract.__module__}:{contract.__name__}"), (name, place))

    def test_a_class_is_taken_as_it_is(self) -> None:
        self.assertIs(registry.find(KVStoreContract), KVStoreContract)
        self.assertIs(registry.find(BagContract), BagContract)

    def test_what_is_no_contract_is_refused(self) -> None:
        self.refused("unknown contract 'kvstore'; did you mean kv_store?", registry.find, "kvstore")
        self.refused("3 is no contract: give its name, or its class.", registry.find, 3)
        for each in (object, Contract, Policy, suite_of(BagContract)):
            self.refused("is no contract or policy: give a subclass of Contract with a definition", registry.find, each)

    def test_only_a_class_that_its_name_stands_for_is_registered(self) -> None:
        self.assertTrue(registry.is_registered(KVStoreContract))
        self.assertFalse(registry.is_registered(BagContract))


class TestEntryPoints(UsageCase):
    def setUp(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(on_path(directory))
        for name, text in (("elsewhere", ELSEWHERE), ("mistaken", MISTAKEN)):
            Path(directory, f"{name}.py").write_text(text)
            self.addCleanup(sys.modules.pop, name, None)
        information = Path(directory, "elsewhere-1.0.dist-info")
        information.mkdir()
        information.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
        information.joinpath("entry_points.txt").write_text(
            "[omnitck.contracts]\n"
            "plain = elsewhere:PlainContract\n"
            "plainness = elsewhere:PlainPolicy\n"
            "renamed = elsewhere:PlainContract\n"
            "taken = elsewhere:TakenContract\n"
            "unfinished = elsewhere:Unfinished\n"
            "mistaken = mistaken:MistakenContract\n"
            "missing = elsewhere:Nothing\n"
            "text = elsewhere:__name__\n"
            "kv_store = elsewhere:PlainContract\n"
        )

    def test_a_good_one_composes(self) -> None:
        suite = omnitck.compose("plain", "plainness", make_provider=make_provider)
        self.assertEqual([each.id for each in plan_of(suite).entries], ["PL-01", "PN-01"])

    def test_a_broken_one_is_refused_when_it_is_asked_for(self) -> None:
        self.refused("calls itself 'plain'", registry.find, "renamed")
        self.refused("has rule ids that belong to multi_tenancy: MT-01", registry.find, "taken")
        self.refused("has no definition", registry.find, "unfinished")
        self.refused("MistakenContract.definition has no prefix: give one.", registry.find, "mistaken")
        self.refused("cannot be loaded: AttributeError", registry.find, "missing")
        self.refused("is no contract", registry.find, "text")

    def test_broken_ones_do_not_spoil_the_list(self) -> None:
        listed = registry.registered()
        names = [each.name for each in listed if each.contract]
        self.assertEqual(names, [*registry.BUILT_IN, "plain", "plainness"])
        self.assertIs(registry.find("kv_store"), KVStoreContract)
        self.assertIn("which the kit itself uses", listed[-1].problem)
