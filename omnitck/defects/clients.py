"""What can go wrong in any client, in the order of the common rules. Mixins: `break_with` puts one on a reference."""

import asyncio
import functools
import math
import time
import unicodedata
from contextvars import ContextVar
from dataclasses import asdict, replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.reference.client import Cell, MemoryClient
from omnitck.shared.exceptions import ClosedError, NotFoundError, TCKError, UnavailableError

READS = ContextVar("READS", default=False)
"""Whether the task that asks is reading."""


def take_place(provider: type[Any], operation: str, method: str) -> None:
    """Let *method* be what *operation* does, with the signature that it had; nothing if this is still a mixin."""
    if not hasattr(provider, operation):
        return

    @functools.wraps(getattr(provider, operation))
    async def instead(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return await getattr(self, method)(*arguments, **keywords)

    setattr(provider, operation, instead)


class Read(MemoryClient[Any]):
    """Base of a defect in the operation that reads one name: `read` takes its place, whatever the contract calls it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        take_place(cls, cls.reads, "read")

    async def read(self, *arguments: Any, **keywords: Any) -> Any:
        """The operation of the reference."""
        return await getattr(super(), self.reads)(*arguments, **keywords)


class ReadElsewhere(Read):
    """Base of a defect that reads from another cell than the one that is written."""

    async def read(self, *arguments: Any, **keywords: Any) -> Any:
        before = READS.set(True)
        try:
            return await super().read(*arguments, **keywords)
        finally:
            READS.reset(before)

    def cell(self, key: str) -> Cell:
        cell = super().cell(key)
        return self.instead_of(cell) if READS.get() else cell

    def instead_of(self, cell: Cell) -> Cell:
        """What is read instead of *cell*."""
        return cell


class Delete(MemoryClient[Any]):
    """Base of a defect in the operation that deletes one name: `erase` takes its place."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        take_place(cls, cls.deletes, "erase")

    async def erase(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        """The operation of the reference."""
        return await getattr(super(), self.deletes)(key, *arguments, **keywords)


# COM-01 to COM-06


class PlainFunction(MemoryClient[Any]):
    """To delete is a plain function that works before it is awaited."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if whole := getattr(cls, cls.deletes, None):
            setattr(cls, cls.deletes, functools.wraps(whole)(lambda *given, **named: whole(*given, **named)))


class UnknownCapability(MemoryClient[Any]):
    """It advertises `time_travel`, which no application asks for."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities |= {"time_travel"}


class LowLimit(MemoryClient[Any]):
    """It allows names that are a byte shorter than what every provider allows."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, key_bytes=type(self.limits)().key_bytes - 1)


class CapabilitiesAsText(MemoryClient[Any]):
    """It advertises them in one text: each letter is taken for a name, or nobody looks."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities: Any = " ".join(sorted(self.capabilities))


class Numbers(dict[str, float]):
    """Numbers by name, as attributes too."""

    __getattr__ = dict.__getitem__


class LimitsAsMapping(MemoryClient[Any]):
    """Its numbers are in a mapping of its own, which nobody reads."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits: Any = Numbers(asdict(self.limits))


class StaleAdvertisement(MemoryClient[Any]):
    """Its list of capabilities was not updated when it learned one more."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.capabilities -= {self.aside}

    def need(self, capability: str) -> None:
        pass


class NegativeCache(Read):
    """A client remembers that a name is absent, and does not learn that another wrote it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.absent: dict[str, NotFoundError | None] = {}

    async def read(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        if key in self.absent:
            await self.turn()
            if error := self.absent[key]:
                raise error
            return None

        try:
            value = await super().read(key, *arguments, **keywords)
        except NotFoundError as error:
            if not keywords:
                self.absent[key] = error
            raise
        if value is None:
            self.absent[key] = None
        return value

    def put(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        self.absent.pop(key, None)
        return super().put(key, *arguments, **keywords)


class UnflushedBuffer(MemoryClient[Any]):
    """What a client wrote goes when it closes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.written: set[Cell] = set()

    def put(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        self.written.add(self.cell(key))
        return super().put(key, *arguments, **keywords)

    async def close(self) -> None:
        for cell in self.written:
            self.backend.remove(cell)
        await super().close()


# COM-07 to COM-11: the end


class DoubleRelease(MemoryClient[Any]):
    """A second `close` releases the pool again."""

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("pool is already closed")
        await super().close()


class SilentReconnect(MemoryClient[Any]):
    """One operation connects again after `close`."""

    def need(self, capability: str) -> None:
        super().need(capability)
        if capability == self.aside:
            self.closed = False


class SwallowingExit(MemoryClient[Any]):
    """`__aexit__` returns true, and the application's exception is gone."""

    async def __aexit__(self, *exc_info: Any) -> bool:  # type: ignore[override]
        await super().__aexit__(*exc_info)
        return True


class SharedPool(MemoryClient[Any]):
    """The first client to close, closes the pool of all."""

    async def close(self) -> None:
        self.backend.__dict__["pool_closed"] = True
        await super().close()

    def check_usable(self) -> None:
        if self.backend.__dict__.get("pool_closed"):
            raise ClosedError("the pool is closed")
        super().check_usable()


class OrphanedTask(MemoryClient[Any]):
    """A background task is started, and never ended."""

    async def turn(self) -> None:
        if not hasattr(self, "task"):
            self.task = asyncio.create_task(asyncio.sleep(3600), name="orphan")
        await super().turn()


class BreakingClose(MemoryClient[Any]):
    """An operation in flight during `close` fails with what the dead connection raises."""

    async def turn(self) -> None:
        self.check_usable()
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise ConnectionResetError("connection lost")
        self.check_usable()


# COM-12 to COM-18: outages, cancellation, concurrency


class LeakingVendorError(MemoryClient[Any]):
    """The driver's own exception reaches the application."""

    def check_usable(self) -> None:
        if not self.backend.reachable:
            raise ConnectionRefusedError("connection refused")
        super().check_usable()


class NoCause(MemoryClient[Any]):
    """Why the backend does not answer, nobody is told."""

    def check_usable(self) -> None:
        try:
            super().check_usable()
        except UnavailableError as error:
            raise UnavailableError(str(error)) from None


class SwallowedCancellation(MemoryClient[Any]):
    """A retry loop takes the cancellation for a failure of the network."""

    async def turn(self) -> None:
        try:
            await super().turn()
        except BaseException as error:
            if isinstance(error, TCKError):
                raise
            await super().turn()


class DefaultOnCancellation(Read):
    """A cancelled read is a miss, as whatever goes wrong with one is."""

    async def read(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await super().read(*arguments, **keywords)
        except anyio.get_cancelled_exc_class():
            return None


class DeletedAnyway(Delete):
    """A cancelled delete returns as if it had been done."""

    async def erase(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await super().erase(*arguments, **keywords)
        except anyio.get_cancelled_exc_class():
            return None


class CrossedReply(Read):
    """The connection of a cancelled read goes back to the pool with its reply unread; the next read gets it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.unread: list[Any] = []

    async def read(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            self.unread.append(await super().read(*arguments, **keywords))
        except anyio.get_cancelled_exc_class():
            self.unread.append(None)
            raise
        return self.unread.pop(0)


class SharedCursor(ReadElsewhere):
    """All reads of a client share one cursor: the last to ask decides what all are told."""

    cursor = ""

    async def read(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        self.cursor = key
        return await super().read(key, *arguments, **keywords)

    def instead_of(self, cell: Cell) -> Cell:
        return cell._replace(name=self.cursor)


# COM-19 to COM-24: arguments, limits, manners


class CoercedKey(MemoryClient[Any]):
    """A name that is no text is taken for what `str` makes of it."""

    def check_key(self, key: object) -> None:
        super().check_key(str(key))

    def cell(self, key: str) -> Cell:
        return super().cell(str(key))


class NormalisedKey(MemoryClient[Any]):
    """The file system underneath stores names in one normal form."""

    def cell(self, key: str) -> Cell:
        return super().cell(unicodedata.normalize("NFC", key))


class DecodedKey(MemoryClient[Any]):
    """The HTTP library decodes `%2F`."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.replace("%2F", "/").replace("%2f", "/"))


class TruncatedKey(MemoryClient[Any]):
    """The column is one byte too narrow, and the database cuts."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.encode()[: self.limits.key_bytes - 1].decode(errors="replace"))


class LimitInCharacters(MemoryClient[Any]):
    """The limit of a name counts characters, and the backend bytes."""

    def check_key(self, key: object) -> None:
        if isinstance(key, str) and key.isascii():
            super().check_key(key)
        else:
            super().check_key(key[: self.limits.key_bytes // 4] if isinstance(key, str) else key)


class TruncatedValue(MemoryClient[Any]):
    """What is too long is cut, without a word."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, value[: self.limits.value_bytes] if isinstance(value, str) else value)


class BlockingCall(MemoryClient[Any]):
    """One operation calls the vendor's synchronous client."""

    def need(self, capability: str) -> None:
        if capability == self.aside:
            time.sleep(0.15)
        super().need(capability)


class BlockingConnect(MemoryClient[Any]):
    """The constructor asks the server for its version, by the vendor's synchronous client."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        time.sleep(0.12)
        super().__init__(*arguments, **keywords)


class PrintedPassword(MemoryClient[Any]):
    """`repr` shows the DSN."""

    def __repr__(self) -> str:
        return f"<memory://user:{self.password}@localhost>"


class CrashedWorker(MemoryClient[Any]):
    """A background task crashed; that is seen only when the client ends, and raised there."""

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await super().__aexit__(kind, error, trace)
        if kind is None:
            raise RuntimeError("a worker crashed")


class EndlessFarewell(MemoryClient[Any]):
    """One operation starts a worker, and leaving the context waits for that, which waits for work."""

    working = False

    def need(self, capability: str) -> None:
        super().need(capability)
        self.working = self.working or capability == self.aside

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await super().__aexit__(kind, error, trace)
        if self.working and kind is None:
            await anyio.sleep_forever()


# COM-26: the caller's task


class CancelsItsCaller(MemoryClient[Any]):
    """What has no deadline, it takes for a task of its own, and cancels it once it has its answer. It is the caller's."""

    async def turn(self) -> None:
        await super().turn()
        if anyio.current_effective_deadline() == math.inf and (task := asyncio.current_task()):
            task.cancel()


class ForgottenTimer(MemoryClient[Any]):
    """The timer of a timeout made by hand outlives the operation."""

    async def turn(self) -> None:
        if task := asyncio.current_task():
            asyncio.get_running_loop().call_later(3600, task.cancel)
        await super().turn()


# Listings


class OnePage(MemoryClient[Any]):
    """A listing ends with its first page."""

    def following(self, prefix: str, after: str) -> list[str]:
        return [] if after else super().following(prefix, after)
