"""Suites that end in every way there is, to be run by every runner: see `test_one_verdict`."""

import asyncio
import ctypes
import os
import signal
import time
import unittest
from contextlib import suppress
from typing import Any

from omnitck.kit.contract import Contract
from omnitck.kit.definition import Definition
from omnitck.kit.rules import rule
from omnitck.kit.trial import Trial


class BellContract(Contract):
    """A bell rings, rings again, and rings in the end."""

    definition = Definition(name="bell", prefix="BE")

    @rule("BE-01")
    async def test_be_01_it_rings(self, t: Trial[Any]) -> None:
        """A bell rings."""
        t.same(await (await t.connect()).ring("first"), "first", given="ring")

    @rule("BE-02")
    async def test_be_02_it_rings_again(self, t: Trial[Any]) -> None:
        """A bell rings again."""
        t.same(await (await t.connect()).ring("second"), "second", given="ring")

    @rule("BE-03")
    async def test_be_03_it_rings_in_the_end(self, t: Trial[Any]) -> None:
        """A bell rings in the end."""
        await t.wait(0.01)
        t.same(await (await t.connect()).ring("third"), "third", given="ring")


class Bell:
    """Does what it should, but for what a subclass does in `second`."""

    async def ring(self, which: str) -> str:
        return await self.second() if which == "second" else which

    async def second(self) -> str:
        return "second"


class Suite(BellContract):
    """What the suites have in common."""

    deadline = 0.5
    bell: type[Bell] = Bell

    async def make_provider(self, **config: Any) -> Bell:
        return self.bell()


class TestConformant(Suite, unittest.IsolatedAsyncioTestCase):
    pass


class TestPlainBase(Suite, unittest.TestCase):
    pass


class Mute(Bell):
    async def second(self) -> str:
        return ""


class TestFailing(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Mute


class TestFailingOnPlainBase(Suite, unittest.TestCase):
    bell = Mute


class TestErring(Suite, unittest.IsolatedAsyncioTestCase):
    async def advance(self, seconds: float) -> None:
        raise OSError("the clock is stuck")


class Hanging(Bell):
    async def second(self) -> str:
        await asyncio.sleep(1000)
        return "second"


class TestHanging(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Hanging


class Leaving(Bell):
    async def second(self) -> str:
        os._exit(0)


class TestLeaving(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Leaving


class Dying(Bell):
    async def second(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""


class TestDying(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Dying


class Blocking(Bell):
    async def second(self) -> str:
        time.sleep(1000)  # noqa: ASYNC251  that is what is wrong with it
        return "second"


class TestBlocking(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Blocking


class Swallowing(Bell):
    async def second(self) -> str:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)


class TestSwallowing(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Swallowing


class TestFailingTearDown(Suite, unittest.IsolatedAsyncioTestCase):
    async def asyncTearDown(self) -> None:
        if "be_02" in self.id():
            raise OSError("the server does not stop")


class TestFailingCleanup(Suite, unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        if "be_02" in self.id():
            self.addCleanup(self.clean)

    def clean(self) -> None:
        raise OSError("the folder is not empty")


class TestFailingClassCleanup(Suite, unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.addClassCleanup(cls.clean)

    @classmethod
    def clean(cls) -> None:
        raise OSError("the server does not stop")


class TestSkippingFixture(Suite, unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        raise unittest.SkipTest("the server is not installed")


@unittest.expectedFailure
class TestExpectedFailure(Suite, unittest.IsolatedAsyncioTestCase):
    bell = Mute


class TestLockedUp(Suite, unittest.IsolatedAsyncioTestCase):
    """Holds the interpreter's lock: only another process can tell."""

    class bell(Bell):  # noqa: N801
        async def second(self) -> str:
            ctypes.PyDLL(None).sleep(1000)
            return "second"
