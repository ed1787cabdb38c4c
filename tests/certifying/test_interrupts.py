"""A run that is ended from outside tells and writes what it knows, and leaves nothing behind, at whatever moment that comes."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import suppress
from pathlib import Path

import omnitck

SUITE = """
import subprocess
import sys
from pathlib import Path
from unittest import IsolatedAsyncioTestCase

import anyio

from omnitck.primitives.kv_store import KVStoreContract


class Slow:
    def __init__(self):
        self._data = {}

    async def get(self, key):
        await anyio.sleep(0.02)
        return self._data.get(key)

    async def set(self, key, value):
        await anyio.sleep(0.02)
        self._data[key] = value

    async def delete(self, key):
        await anyio.sleep(0.02)
        self._data.pop(key, None)


class TestSlow(KVStoreContract, IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
        Path("server").write_text(str(cls.server.pid))

    @classmethod
    def tearDownClass(cls):
        cls.server.kill()
        cls.server.wait()
        Path("torn-down").touch()

    async def make_provider(self, **config):
        return Slow()


class TestStuck(TestSlow):
    async def make_provider(self, **config):
        Path("stuck").touch()
        await anyio.sleep_forever()
"""


def _as_in_a_terminal() -> None:
    """What a shell starts in the background is deaf to these, and so is what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def lives(process: int) -> bool:
    with suppress(OSError):
        os.kill(process, 0)
        return True
    return False


class TestInterrupted(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "slow.py").write_text(SUITE)

    def start(self, suite: str = "TestSlow", *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "omnitck", "certify", f"slow:{suite}", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(Path(omnitck.__file__).parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_as_in_a_terminal,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, name: str, seconds: float = 30.0) -> str:
        """The content of a file, once it is there."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(OSError):
                if (self.folder / name).stat().st_size or name != "server":
                    return (self.folder / name).read_text()
            time.sleep(0.01)
        raise AssertionError(f"{name} has not come within {seconds:g} s")

    def check_nothing_is_left(self, server: int) -> None:
        self.wait_for("torn-down")
        until = time.monotonic() + 10
        while lives(server) and time.monotonic() < until:
            time.sleep(0.01)
        self.assertFalse(lives(server))

    def test_verdicts_so_far_are_told_and_written(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number.name):
                (self.folder / "torn-down").unlink(missing_ok=True)
                (self.folder / "server").unlink(missing_ok=True)
                process = self.start("TestSlow", "--jobs", "4")
                server = int(self.wait_for("server"))
                time.sleep(1.0)
                process.send_signal(number)
                output, _ = process.communicate(timeout=30)
                self.assertEqual(process.returncode, 128 + number, output)
                self.assertRegex(output, rf"\n\d+ rules? not run: The run was interrupted by {number.name}\.\n")
                self.assertIn("\nverdict: inconclusive (", output)
                document = json.loads((self.folder / "omnitck-certificate.json").read_text())
                self.assertEqual((document["interrupted"], document["verdict"]), (number.name, "inconclusive"))
                outcomes = [each["outcome"] for each in document["suites"][0]["outcomes"]]
                self.assertIn("passed", outcomes)
                self.assertIn("not run", outcomes)
                self.check_nothing_is_left(server)

    def test_a_parent_that_was_killed_leaves_nothing(self) -> None:
        process = self.start()
        server = int(self.wait_for("server"))
        time.sleep(0.5)
        process.kill()
        self.check_nothing_is_left(server)

    def test_what_does_not_end_is_not_waited_for_long(self) -> None:
        process = self.start("TestStuck", "--grace", "1")
        self.wait_for("stuck")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)

    def test_who_does_not_want_to_wait_asks_twice(self) -> None:
        process = self.start("TestSlow", "--jobs", "2")
        self.wait_for("server")
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        process.communicate(timeout=30)
        self.assertIn(process.returncode, (128 + signal.SIGINT, 130))

    def test_any_moment_will_do(self) -> None:
        """Also while the suite is imported, and while it is torn down."""
        moments = random.Random(os.environ.get("OMNITCK_SEED", 0))
        for number in range(20 if os.environ.get("OMNITCK_WHOLE_TABLE") else 5):
            with self.subTest(number):
                (self.folder / "torn-down").unlink(missing_ok=True)
                (self.folder / "server").unlink(missing_ok=True)
                process = self.start("TestSlow", "--jobs", "8", "-r", "KV-0*")
                time.sleep(moments.uniform(0.3, 3.0))
                process.send_signal(signal.SIGTERM)
                output, _ = process.communicate(timeout=30)
                self.assertIn(process.returncode, (0, -signal.SIGTERM, 128 + signal.SIGTERM), output)
                if process.returncode > 0:
                    self.assertIn("verdict: ", output)
                    self.assertNotIn("verdict: conformant", output)
                if (self.folder / "server").exists():
                    self.check_nothing_is_left(int(self.wait_for("server")))


if __name__ == "__main__":
    unittest.main()
