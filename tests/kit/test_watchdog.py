"""What is watched from outside the event loop of a rule. That a rule which hangs for ever is ended is in `test_one_verdict`."""

import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
from freezegun import freeze_time

from omnitck.kit import watchdog
from tests.kit.judging import Working, calling, judge, line_of


class TestEndOfTheProcess(unittest.TestCase):
    def test_it_is_refused_while_a_rule_runs_and_only_then(self) -> None:
        before = os._exit

        async def leave(self: Any) -> None:
            os._exit(0)

        judged = judge(calling(leave))
        self.assertEqual(judged.status, "failed")
        text = f"SystemExit: os._exit(0), which ends the whole program, raised in {line_of(leave, 1)}"
        self.assertEqual(judged.observed, text)
        self.assertIs(os._exit, before)

    def test_in_a_thread_of_the_providers(self) -> None:
        async def leave(self: Any) -> None:
            await anyio.to_thread.run_sync(os._exit, 0)

        observed = judge(calling(leave)).observed
        self.assertEqual(observed, f"SystemExit: os._exit(0), which ends the whole program, raised in {line_of(leave, 1)}")

    def test_a_forked_child_ends_as_ever(self) -> None:
        async def fork(self: Any) -> int:
            child = os.fork()
            if not child:
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # noqa: ASYNC222  it ends at once

        async def body(t: Any) -> None:
            t.same(await (await t.connect()).call(), 7, given="the exit status of a child")

        self.assertEqual(judge(calling(fork), body).status, "passed")


class TestClock(unittest.TestCase):
    def test_one_that_stands_still_is_told(self) -> None:
        """A rule that waits would wait for ever, with its deadline."""

        async def wait(self: Any) -> None:
            await anyio.sleep(0.01)

        began = time.perf_counter()
        with freeze_time("2020-01-01"):
            judged = judge(calling(wait))
        self.assertEqual(judged.status, "error")
        self.assertIn("the clock of the event loop stands still, so nothing that waits would end", judged.message)
        self.assertLess(time.perf_counter() - began, 10)

    def test_what_does_not_wait_is_judged_all_the_same(self) -> None:
        with freeze_time("2020-01-01"):
            self.assertEqual(judge(Working).status, "passed")

    def test_a_loop_that_asyncio_keeps_is_none(self) -> None:
        async def wait(self: Any) -> None:
            await anyio.sleep(1.2)

        with freeze_time("2020-01-01", real_asyncio=True):
            self.assertEqual(judge(calling(wait)).status, "passed")


class TestDebugger(unittest.TestCase):
    def test_a_breakpoint_stops_the_clock(self) -> None:
        """A person thinks for longer than a rule may work, and wants to see how it goes on."""
        called: list[str] = []

        def think(*arguments: Any) -> None:
            called.append("called")
            time.sleep(0.3)

        async def debug(self: Any) -> None:
            breakpoint()
            await anyio.sleep(0.3)

        with mock.patch.object(sys, "breakpointhook", think):
            self.assertEqual(judge(calling(debug), deadline=0.2).status, "passed")
            self.assertIs(sys.breakpointhook, think)
        self.assertEqual(called, ["called"])

    def test_a_debugger_that_is_attached_stops_the_clock(self) -> None:
        async def think(self: Any) -> None:
            await anyio.sleep(0.3)

        with mock.patch.dict(sys.modules, {"debugpy": mock.Mock()}):
            self.assertEqual(judge(calling(think), deadline=0.1).status, "passed")
        self.assertEqual(judge(calling(think), deadline=0.1).status, "failed")


class TestThread(unittest.TestCase):
    def test_there_is_none_once_no_rule_runs(self) -> None:
        """In a process of its own: here another test may have left a rule behind."""
        code = (
            "import threading; from omnitck.kit import watchdog; from tests.kit.judging import Working, judge\n"
            "judge(Working); watching = watchdog._thread; watching.join(10)\n"
            "print(watching.is_alive(), watchdog._thread, [each.name for each in threading.enumerate()])"
        )
        root = Path(__file__).parent.parent.parent
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        self.assertEqual(done.stdout, "False None ['MainThread']\n", done.stderr)

    def test_one_that_was_left_behind_is_watched_no_longer(self) -> None:
        """Somebody else has followed it: nothing here waits for it."""

        class Late(watchdog.Watched):
            def left(self) -> float:
                return -1000.0

        with watchdog.followed():
            watchdog.rule_begins(late := Late())
            until = time.monotonic() + 10
            while late in watchdog._watched and time.monotonic() < until:
                time.sleep(0.01)
        self.assertNotIn(late, watchdog._watched)

    def test_it_keeps_no_rule_alive(self) -> None:
        """What a rule leaves is garbage at its end, and is not found in the middle of the next one."""
        looked = threading.Event()

        class Rule(watchdog.Watched):
            def left(self) -> float:
                return 100.0

            def look_at_clock(self) -> None:
                looked.set()

        rule = Rule()
        watchdog.rule_begins(rule)
        self.assertTrue(looked.wait(10))
        watchdog.rule_ended(rule)
        left = weakref.ref(rule)
        del rule
        until = time.monotonic() + 0.2  # Before the next look.
        while left() is not None and time.monotonic() < until:
            time.sleep(0.01)
        self.assertIsNone(left())


class TestOtherLoops(unittest.TestCase):
    def test_a_plugin_that_takes_the_tests_to_another_loop_is_named(self) -> None:
        """trio_mode of pytest-trio runs every coroutine function on trio, whatever the suite asks for."""
        code = (
            "import unittest\nfrom tests.kit.judging import Working, thing\n"
            "class TestThing(thing(Working)):\n    __module__ = __name__\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "test_thing.py").write_text(code)
            command = "-m pytest -q -p no:cacheprovider --rootdir=. -o trio_mode=true -k th_01 test_thing.py".split()
            done = subprocess.run(
                [sys.executable, *command, "-c", os.devnull],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
                capture_output=True,
                text=True,
            )
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("runs on another event loop than its `backend`, asyncio", done.stdout)
