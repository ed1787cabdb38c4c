"""A second distribution, `tests/third_party`, adds a contract and a policy by entry point: no line of the kit knows of it."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

THIRD_PARTY = Path(__file__).parent.parent / "third_party"


def omnitck(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where that distribution is installed."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, "-m", "omnitck", *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(THIRD_PARTY), str(THIRD_PARTY.parent.parent)])},
        )


class TestThirdParty(unittest.TestCase):
    def test_they_are_listed_beside_the_kits_own(self) -> None:
        done = omnitck("list", "--json")
        found = {each["name"]: each for each in json.loads(done.stdout)["contracts"]}
        self.assertIn("kv_store", found)
        self.assertEqual("policy", found["acme_shouting"]["kind"])
        ids = [each["id"] for each in found["acme_mail"]["rules"]]
        self.assertIn("ACM-01", ids)
        self.assertIn("ACM-COM-14", ids)

    def test_broken_ones_are_said_and_spoil_nothing(self) -> None:
        done = omnitck("list")
        self.assertEqual(0, done.returncode)
        self.assertRegex(
            done.stderr, r"'acme_forged', entry point .* of acme-contracts, has rule ids that belong to kv_store: .*KV-03"
        )
        self.assertRegex(done.stderr, r"'acme_missing', entry point .* cannot be loaded: AttributeError")

    def test_a_provider_is_certified_by_name(self) -> None:
        done = omnitck("certify", "acme_contracts:make_mail", "--contract", "acme_mail+acme_shouting", "-v")
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertIn("verdict: conformant", done.stdout)
        self.assertRegex(done.stdout, r"ACS-01 +passed")

    def test_a_wrong_one_fails_under_the_policys_id(self) -> None:
        done = omnitck("certify", "acme_contracts:make_quiet_mail", "--contract", "acme_mail", "--policy", "acme_shouting")
        self.assertEqual(1, done.returncode, done.stdout + done.stderr)
        self.assertIn("ACS-01 [MUST] Every result that is text is in upper case.", done.stdout)
        self.assertRegex(done.stdout, r"observed  'mail-\d+'")

    def test_the_rules_are_explained_and_specified(self) -> None:
        self.assertIn("Each message has an id of its own.", omnitck("explain", "ACM-01").stdout)
        self.assertIn("### ACS-01 (MUST)", omnitck("spec", "acme_shouting").stdout)

    def test_a_misspelt_name_has_its_near_match(self) -> None:
        done = omnitck("certify", "acme_contracts:make_mail", "--contract", "acme_mial")
        self.assertEqual(2, done.returncode)
        self.assertIn("unknown contract 'acme_mial'; did you mean acme_mail", done.stderr)

    def test_a_policy_without_a_subject_is_refused(self) -> None:
        done = omnitck("certify", "acme_contracts:make_mail", "--contract", "acme_mail", "--policy", "multi_tenancy")
        self.assertEqual(2, done.returncode)
        self.assertIn("mixes multi_tenancy, of which no rule has a subject under acme_mail: leave it out.", done.stderr)
