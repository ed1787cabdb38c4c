"""For each contract, its reference with one operation that is hostile: see `test_hostile_operations`."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any

from omnitck.reference.client import MemoryClient
from omnitck.selftest.laws import proven, reference_suite, suite_of

WAYS = ("Hangs", "Blocks", "Swallows", "Dies")


class Hostile(MemoryClient[Any]):
    """One operation, which is rarely used, does not do what it should."""

    struck = False

    def need(self, capability: str) -> None:
        super().need(capability)
        if capability == self.aside:
            self.strike()

    def strike(self) -> None:
        self.struck = True


class Hangs(Hostile):
    async def turn(self) -> None:
        if self.struck:
            await asyncio.sleep(1000)
        await super().turn()


class Swallows(Hostile):
    async def turn(self) -> None:
        while self.struck:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
        await super().turn()


class Blocks(Hostile):
    def strike(self) -> None:
        time.sleep(1000)


class Dies(Hostile):
    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


for contract in proven():
    for way in (Hangs, Blocks, Swallows, Dies):
        name = f"{way.__name__}_{contract}"
        provider = type(name, (way, suite_of(contract).provider), {"__module__": __name__})
        suite = reference_suite(contract, provider, __module__=__name__, deadline=4.0)
        globals()[name] = suite
