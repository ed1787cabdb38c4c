"""Providers of a contract with one operation, most of them hostile. Other processes import them from here."""

import asyncio
import atexit
import ctypes
import json
import os
import posix
import signal
import subprocess
import sys
import threading
import time
import unittest
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

import omnitck
from omnitck.certifying.worker import _working
from omnitck.kit.trial import Trial
from omnitck.shared.exceptions import UnavailableError


class Echo(Protocol):
    """The protocol."""

    async def echo(self, text: str) -> str: ...


class Loud(Protocol):
    """A promise."""


class EchoContract(omnitck.Contract):
    """Certifies an echo. Most providers do something strange in the second rule."""

    definition = omnitck.Definition(name="echo", prefix="EC", protocols={"": Echo, "loud": Loud})

    @omnitck.rule("EC-01")
    async def test_ec_01_first(self, t: Trial[Echo]) -> None:
        """The first answer is right."""
        t.same(await (await t.connect()).echo("a"), "a", given="echo")

    @omnitck.rule("EC-02")
    async def test_ec_02_second(self, t: Trial[Echo]) -> None:
        """The second answer is right."""
        t.same(await (await t.connect()).echo("b"), "b", given="echo")

    @omnitck.rule("EC-03", "loud")
    async def test_ec_03_loud(self, t: Trial[Echo]) -> None:
        """It can be loud."""

    @omnitck.rule("EC-04")
    async def test_ec_04_third(self, t: Trial[Echo]) -> None:
        """The third answer is right."""
        t.same(await (await t.connect()).echo("c"), "c", given="echo")


class CrowdContract(omnitck.Contract):
    """Certifies an echo by rules that are alike."""

    definition = omnitck.Definition(name="crowd", prefix="CR", protocols={"": Echo})

    @omnitck.rule("CR-01")
    async def test_cr_01_first(self, t: Trial[Echo]) -> None:
        """The first answer is right."""
        t.same(await (await t.connect()).echo("a"), "a", given="echo")

    @omnitck.rule("CR-02")
    async def test_cr_02_second(self, t: Trial[Echo]) -> None:
        """The second answer is right."""
        t.same(await (await t.connect()).echo("b"), "b", given="echo")

    @omnitck.rule("CR-03")
    async def test_cr_03_third(self, t: Trial[Echo]) -> None:
        """The third answer is right."""
        t.same(await (await t.connect()).echo("c"), "c", given="echo")

    @omnitck.rule("CR-04")
    async def test_cr_04_fourth(self, t: Trial[Echo]) -> None:
        """The fourth answer is right."""
        t.same(await (await t.connect()).echo("d"), "d", given="echo")

    @omnitck.rule("CR-05")
    async def test_cr_05_fifth(self, t: Trial[Echo]) -> None:
        """The fifth answer is right."""
        t.same(await (await t.connect()).echo("e"), "e", given="echo")


class PatientContract(omnitck.Contract):
    """Certifies patience."""

    definition = omnitck.Definition(name="patient", prefix="PA", protocols={"": Echo})

    @omnitck.rule("PA-01")
    async def test_pa_01_waits(self, t: Trial[Echo]) -> None:
        """It waits for what may last longer than its deadline and the grace of who follows."""
        for seconds in (0.9, 0.9, 3.0):
            with t.waiting(seconds):
                await asyncio.sleep(seconds)


class Honest:
    """What is called for the second rule is in `act`."""

    async def echo(self, text: str) -> str:
        return await self.act(text) if text == "b" else text

    async def act(self, text: str) -> str:
        return text


Act = Callable[[Any, str], Awaitable[Any]]
Factory = Callable[[], Awaitable[Any]]


def provider(act: Act) -> Factory:
    """The factory of a provider that does *act* in the second rule."""
    name = act.__name__
    made = type(name.title(), (Honest,), {"act": act})

    async def make() -> Any:
        return made()

    make.__qualname__ = make.__name__ = name
    return make


def everywhere(act: Act) -> Factory:
    """The same in every rule."""
    name = act.__name__
    made = type(name.title(), (Honest,), {"echo": act})

    async def make() -> Any:
        return made()

    make.__qualname__ = make.__name__ = name
    return make


class Noisy:
    def __repr__(self) -> str:
        raise SystemExit("repr")

    __str__ = __repr__


class NoisyError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


@provider
async def honest(self: Any, text: str) -> str:
    return text


@provider
async def blocks(self: Any, text: str) -> None:
    time.sleep(1000)  # noqa: ASYNC251


@everywhere
async def blocks_everywhere(self: Any, text: str) -> None:
    time.sleep(1000)  # noqa: ASYNC251


@provider
async def keeps_the_lock(self: Any, text: str) -> None:
    ctypes.PyDLL(None).sleep(1000)


@provider
async def hangs(self: Any, text: str) -> None:
    await asyncio.sleep(1000)


@provider
async def swallows(self: Any, text: str) -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)


@provider
async def leaves(self: Any, text: str) -> None:
    print("farewell", flush=True)
    posix._exit(3)  # past what the kit guards


@provider
async def crashes(self: Any, text: str) -> None:
    ctypes.string_at(0)


@provider
async def kills_itself(self: Any, text: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@provider
async def raises_system_exit(self: Any, text: str) -> None:
    sys.exit(7)


@provider
async def returns_noise(self: Any, text: str) -> object:
    return Noisy()


@provider
async def raises_noise(self: Any, text: str) -> None:
    raise NoisyError


@provider
async def floods(self: Any, text: str) -> str:
    return "x" * 1_000_000


@provider
async def prints(self: Any, text: str) -> str:
    print('{"event": "finished"}')
    return text


def _fork() -> int:
    with warnings.catch_warnings():  # Python 3.12 warns, with reason, as this process has threads.
        warnings.simplefilter("ignore")
        return os.fork()


@provider
async def forks_and_dies(self: Any, text: str) -> None:
    """What it forks holds every descriptor open for longer than anybody waits."""
    if not _fork():
        time.sleep(60)  # noqa: ASYNC251
        posix._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@provider
async def forges(self: Any, text: str) -> str:
    """It writes the outcome that it wants into every descriptor."""
    outcome = {"suite": "", "rule": "EC-02", "outcome": "passed", "seconds": 0.0, "message": "", "during": ""}
    for line in ({"event": "finished", "outcome": outcome}, {"event": "done", "threads": []}):
        for number in range(3, 30):
            with suppress(OSError):
                os.write(number, b"0" * 64 + b" 99 " + json.dumps(line).encode() + b"\n")
    return "not " + text


@provider
async def scribbles(self: Any, text: str) -> str:
    """It writes something without an end into every descriptor, and answers as it should."""
    for number in range(3, 30):
        with suppress(OSError):
            os.write(number, b"debug: ")
    return text


@provider
async def forks_a_copy(self: Any, text: str) -> str:
    """A copy of the whole process goes on for a moment, and takes itself for the worker."""
    process = _fork()
    if not process:
        worker = _working.get()
        assert worker is not None
        worker.say("done", threads=[])
        posix._exit(0)
    os.waitpid(process, 0)  # noqa: ASYNC222
    return text


class NeverCloses(Honest):
    async def aclose(self) -> None:
        time.sleep(1000 if self.opened > 1 else 0)  # noqa: ASYNC251

    count = 0

    def __init__(self) -> None:
        type(self).count += 1
        self.opened = self.count


async def never_closes() -> NeverCloses:
    """But for the first client of a process, which opens before any rule."""
    return NeverCloses()


class SlowToClose(Honest):
    """It takes nearly as long as it may, if it was used."""

    used = False

    async def act(self, text: str) -> str:
        self.used = True
        return text

    async def aclose(self) -> None:
        await asyncio.sleep(2.5 if self.used else 0)


async def slow_to_close() -> SlowToClose:
    return SlowToClose()


# What stays when the suite is over.


@provider
async def leaves_a_server(self: Any, text: str) -> str:
    """It takes time to stop, as the process ends."""
    atexit.register(_stop_slowly, Path(os.environ["STOPPED"]))
    return text


def _stop_slowly(stopped: Path) -> None:
    time.sleep(2.5)
    stopped.touch()


@provider
async def leaves_a_thread(self: Any, text: str) -> str:
    atexit.register(Path(os.environ["TIDIED"]).touch)
    threading.Thread(target=time.sleep, args=(60,), name="poller").start()
    return text


@provider
async def leaves_a_process(self: Any, text: str) -> str:
    subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
    return text


# In a crowd.


class Tolled:
    """Counts who is under way."""

    under_way = 0

    async def echo(self, text: str) -> str:
        type(self).under_way += 1
        try:
            await asyncio.sleep(0.6)
            return await self.act(text)
        finally:
            type(self).under_way -= 1

    async def act(self, text: str) -> str:
        return text


class Assassin(Tolled):
    async def act(self, text: str) -> str:
        if text == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.6)
        return "wrong" if text == "c" else text


class Panics(Tolled):
    async def act(self, text: str) -> str:
        if self.under_way > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return text


class Blocker(Tolled):
    async def act(self, text: str) -> str:
        if text == "b":
            time.sleep(1000)  # noqa: ASYNC251
        await asyncio.sleep(0.6)
        return text


class LockKeeper(Tolled):
    async def act(self, text: str) -> str:
        if text == "b":
            ctypes.PyDLL(None).sleep(1000)
        await asyncio.sleep(0.6)
        return text


async def lock_keeper() -> LockKeeper:
    return LockKeeper()


async def assassin() -> Assassin:
    return Assassin()


async def panics() -> Panics:
    return Panics()


async def blocker() -> Blocker:
    return Blocker()


class OneLoop:
    """All clients of a process belong to the event loop of the one that was first, until that is closed."""

    loop: ClassVar[asyncio.AbstractEventLoop | None] = None

    def __init__(self) -> None:
        if OneLoop.loop is None or OneLoop.loop.is_closed():
            OneLoop.loop = asyncio.get_running_loop()

    async def echo(self, text: str) -> str:
        if OneLoop.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        await asyncio.sleep(0.3)
        return text


async def one_loop() -> OneLoop:
    return OneLoop()


class Notes:
    """Writes down in which process it is asked what."""

    async def echo(self, text: str) -> str:
        with open(os.environ["NOTES"], "a") as file:  # noqa: ASYNC230
            file.write(f"{os.getpid()} {text}\n")
        return text


async def notes() -> Notes:
    return Notes()


# What cannot be opened.


async def opens_never() -> None:
    await asyncio.sleep(1000)


async def opens_blocked() -> None:
    time.sleep(1000)  # noqa: ASYNC251


async def opens_nothing() -> None:
    return None


async def opens_object() -> object:
    return object()


async def opens_raising() -> None:
    _log_in()


def _log_in() -> None:
    sys.exit("wrong password")


async def opens_refused() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def opens_leaving() -> None:
    posix._exit(9)


async def opens_unavailable() -> None:
    raise UnavailableError("no server")


_opened: list[object] = []


async def opens_twice() -> Honest:
    """Once before the rules, and once for the first; then never."""
    _opened.append(None)
    if len(_opened) > 2:
        time.sleep(1000)  # noqa: ASYNC251
    return Honest()


# Suites.


class Plain(EchoContract, unittest.IsolatedAsyncioTestCase):
    async def make_provider(self, **config: Any) -> Any:
        return Honest()


class NoServer(Plain):
    @classmethod
    def setUpClass(cls) -> None:
        raise OSError("no port")


class ServerHangs(Plain):
    @classmethod
    def setUpClass(cls) -> None:
        time.sleep(1000)


class NotHere(Plain):
    @classmethod
    def setUpClass(cls) -> None:
        raise unittest.SkipTest("no such server")


class SetUpFails(Plain):
    async def asyncSetUp(self) -> None:
        raise OSError("no disk")


class SetUpHangs(Plain):
    count = 0

    async def asyncSetUp(self) -> None:
        type(self).count += 1
        if self.count > 2:
            await asyncio.sleep(1000)


class CountsFixtures(Plain):
    counts: ClassVar[list[str]] = []

    @classmethod
    def setUpClass(cls) -> None:
        cls.counts.append("set up")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.counts.append("torn down")

    async def make_provider(self, **config: Any) -> Any:
        return await blocks()


class Secretive(Plain):
    def setUp(self) -> None:
        self.credentials = ("farewell",)  # type: ignore[misc]

    async def make_provider(self, **config: Any) -> Any:
        return await leaves()


class Patient(PatientContract, unittest.IsolatedAsyncioTestCase):
    async def make_provider(self, **config: Any) -> Any:
        return Honest()


class OnTrio(Plain):
    backend = "trio"


class Known(EchoContract, unittest.IsolatedAsyncioTestCase):
    known_deviations = {"EC-02": "it is known to block"}

    async def make_provider(self, **config: Any) -> Any:
        return await blocks()


# Suites whose tests fail after their rules.


class Wrong(Honest):
    async def act(self, text: str) -> str:
        return "wrong"


class AsyncTearDownFails(Plain):
    async def asyncTearDown(self) -> None:
        raise OSError("no disk")


class TearDownFails(Plain):
    async def make_provider(self, **config: Any) -> Any:
        return Wrong()

    def tearDown(self) -> None:
        self.fail("something stayed")


class CleanupFails(Plain):
    def setUp(self) -> None:
        self.addCleanup(self._clean)

    def _clean(self) -> None:
        self.fail("something stayed")


class PartOfTearDownFails(Plain):
    def tearDown(self) -> None:
        with self.subTest("disk"):
            self.fail("something stayed")


class ClassTearDownFails(Plain):
    @classmethod
    def tearDownClass(cls) -> None:
        raise OSError("no disk")


class ClassCleanupFails(Plain):
    @classmethod
    def setUpClass(cls) -> None:
        cls.addClassCleanup(cls._clean)

    @classmethod
    def _clean(cls) -> None:
        raise OSError("no disk")


@unittest.expectedFailure
class ExpectedFailure(Plain):
    async def make_provider(self, **config: Any) -> Any:
        return Wrong()


class TearDownHangs(Plain):
    async def asyncTearDown(self) -> None:
        if "ec_02" in self.id():
            await asyncio.sleep(1000)


class TearDownLeaves(Plain):
    def tearDown(self) -> None:
        if "ec_02" in self.id():
            print("farewell", flush=True)
            posix._exit(4)


class RunsNothing(Plain):
    """Its runner's base class leaves the rule out."""

    def _callTestMethod(self, method: Any) -> None:  # noqa: N802
        if "ec_02" not in self.id():
            super()._callTestMethod(method)
