"""What runners print of one failure: the rule, the place in the provider's code, and no frame of the kit or of the loop."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import omnitck

SUITE = """
from unittest import IsolatedAsyncioTestCase

from omnitck.primitives.kv_store import KVStoreContract


class Store:
    async def get(self, key):
        return None

    async def set(self, key, value):
        password = "hunter" + str(2)
        try:
            self._send(password)
        except OSError as error:
            raise RuntimeError("no write") from error

    def _send(self, password):
        raise ConnectionRefusedError("nobody listens")

    async def delete(self, key):
        raise LookupError(key)


class TestStore(KVStoreContract, IsolatedAsyncioTestCase):
    async def make_provider(self, **config):
        return Store()


class Forgetful(Store):
    async def set(self, key, value):
        pass


class TestForgetful(KVStoreContract, IsolatedAsyncioTestCase):
    async def make_provider(self, **config):
        return Forgetful()
"""


class TestOneFailure(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "test_stores.py").write_text(SUITE)

    def told(self, *command: str) -> str:
        """What a runner prints of it."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *command],
            cwd=self.folder,
            env={"PYTHONPATH": str(Path(omnitck.__file__).parent.parent)},
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def check(self, told: str) -> None:
        for frame in ("asyncio", "omnitck/kit", "primitives/", "clients.py", "hunter2"):
            self.assertNotIn(frame, told)
        self.assertIn("  observed  RuntimeError: no write, raised in test_stores.py line 16\n", told)
        self.assertIn("  cause     ConnectionRefusedError: nobody listens, raised in test_stores.py line 19\n", told)

    def test_by_unittest(self) -> None:
        told = self.told("unittest", "-k", "kv_02", "test_stores.TestStore")
        self.check(told)
        self.assertIn('test_stores.py", line 19, in _send\n    raise ConnectionRefusedError("nobody listens")\n', told)
        self.assertIn('test_stores.py", line 16, in set\n    raise RuntimeError("no write") from error\n', told)

    def test_by_pytest(self) -> None:
        told = self.told("pytest", "-q", "-p", "no:cacheprovider", "-k", "kv_02 and TestStore", "--showlocals")
        self.check(told)
        self.assertIn('>           raise RuntimeError("no write") from error\n', told)

    def test_an_id_selects_under_pytest_and_again_can_be_pasted(self) -> None:
        told = self.told("pytest", "-q", "-p", "no:cacheprovider", "-k", "KV-02 and TestForgetful")
        again = "pytest test_stores.py::TestForgetful::test_kv_02_what_was_set_is_read"
        self.assertIn(f"\n      again     python -m {again}\n", told)
        self.assertIn("observed  None", self.told(*again.split()))

    def test_again_works_where_tests_are_no_package(self) -> None:
        (self.folder / "tests").mkdir()
        (self.folder / "test_stores.py").rename(self.folder / "tests" / "test_stores.py")
        told = self.told("unittest", "discover", "-s", "tests", "-k", "kv_02")
        again = "omnitck certify tests/test_stores.py:TestForgetful --rule KV-02"
        self.assertIn(f"\n  again     python -m {again}\n", told)
        self.assertIn(f"\n  again     python -m {again}\n", self.told(*again.split()))

    def test_a_broken_rule_has_few_lines(self) -> None:
        told = self.told("pytest", "-q", "-p", "no:cacheprovider", "-k", "kv_02 and TestForgetful")
        shown = told.partition("= FAILURES =")[2].partition("= short test summary")[0].splitlines()
        self.assertLessEqual(len(shown), 20, told)
        self.assertIn("KV-02 [MUST] ", told)


if __name__ == "__main__":
    unittest.main()
