"""Broken repositories of sagas, in the order of the rules that reject them; those of one capability stand together."""

import asyncio
import copy
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.client import Cell
from omnitck.reference.sagas import (
    DONE,
    FAILED,
    STARTED,
    Lease,
    MemorySagas,
    SagaTransaction,
    StoredSaga,
)
from omnitck.shared.exceptions import (
    InvalidArgumentError,
    SagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateConflictError,
    TCKError,
    TooLargeError,
)
from omnitck.shared.models import SagaContext, SagaPage, SagaState, SagaStatus, SagaStep, SagaStepHistory

# The common family

break_with(
    MemorySagas,
    {
        clients.PlainFunction: "SAG-COM-04",
        clients.UnknownCapability: "SAG-COM-02",
        clients.CapabilitiesAsText: "SAG-COM-02",
        clients.LimitsAsMapping: "SAG-44 SAG-COM-02",
        clients.LowLimit: "SAG-COM-02",
        clients.StaleAdvertisement: "SAG-COM-04",
        clients.NegativeCache: "SAG-09 SAG-31 SAG-38 SAG-53 SAG-59 SAG-COM-05",
        clients.UnflushedBuffer: "SAG-COM-06",
        clients.DoubleRelease: "SAG-COM-07",
        clients.SilentReconnect: "SAG-COM-08",
        clients.SwallowingExit: "SAG-COM-09",
        clients.SharedPool: "SAG-66 SAG-COM-06 SAG-COM-10 MT-16",
        clients.OrphanedTask: "SAG-COM-11",
        clients.BreakingClose: "SAG-COM-11",
        clients.LeakingVendorError: "SAG-COM-12",
        clients.NoCause: "SAG-COM-12",
        clients.SwallowedCancellation: "SAG-COM-14",
        clients.DefaultOnCancellation: "SAG-COM-14",
        clients.DeletedAnyway: "SAG-COM-14",
        clients.CrossedReply: "SAG-COM-15 MT-15",
        clients.SharedCursor: "SAG-COM-15 SAG-COM-18 MT-14",
        clients.CoercedKey: "SAG-COM-19",
        clients.NormalisedKey: "SAG-COM-20",
        clients.DecodedKey: "SAG-COM-20",
        clients.TruncatedKey: "SAG-COM-21",
        clients.LimitInCharacters: "SAG-COM-21",
        clients.PrintedPassword: "SAG-COM-24",
        clients.CrashedWorker: "SAG-COM-25",
        clients.CancelsItsCaller: "SAG-58 SAG-COM-26",
        clients.ForgottenTimer: "SAG-COM-26",
        clients.EndlessFarewell: "SAG-COM-25",
        **tenants.EVERYWHERE,
        tenants.IgnoredTenant: "MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-15 MT-18 MT-23",
        tenants.DeleteEverywhere: "MT-02 MT-09 MT-10 MT-13 MT-23",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.JoinedByNothing: "MT-08 MT-12 MT-13",
        tenants.GlobalSuperuser: "MT-12 MT-13",
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        tenants.ParsedTenant: "MT-20",
    },
)


@breaks("SAG-COM-01")
class RenamedParameter(MemorySagas):
    """`get_state` calls its parameter `id`: `get_state(saga_id=...)` is a TypeError."""

    async def get_state(self, id: str) -> SagaState | None:
        return await super().get_state(id)


@breaks("SAG-16", "SAG-COM-02", without="limits")
class ShortHistory(MemorySagas):
    """It declares room for 50 steps."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, history=50)


@breaks("SAG-COM-02")
class DeclaredStaleness(MemorySagas):
    """It reads from replicas, and says so."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, staleness=1.0)


@breaks("SAG-COM-03", without="delete")
class ArchivesInstead(MemorySagas):
    """`delete_state` is there without being declared, and does nothing."""

    async def delete_state(self, saga_id: str, version: int) -> None:
        await self.turn()


@breaks("SAG-COM-03", without="transactional")
class DroppedTransaction(MemorySagas):
    """`transaction` is there without being declared, and what is done in it is done at once."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield None

    def transaction(self) -> Any:
        return self.open()


@breaks(
    *(
        "SAG-03 SAG-04 SAG-05 SAG-06 SAG-07 SAG-08 SAG-09 SAG-12 SAG-14 SAG-15 SAG-16 SAG-17 SAG-18 SAG-20 SAG-21 "
        "SAG-22 SAG-24 SAG-26 SAG-27 SAG-29 SAG-30 SAG-31 SAG-32 SAG-33 SAG-34 SAG-35 SAG-36 SAG-38 SAG-40 SAG-43 "
        "SAG-45 SAG-46 SAG-48 SAG-49 SAG-51 SAG-52 SAG-53 SAG-55 SAG-57 SAG-58 SAG-59 SAG-61 SAG-62 SAG-63 SAG-64 "
        "SAG-65 SAG-66 SAG-COM-05 SAG-COM-06 SAG-COM-16 MT-17"
    ).split()
)
class OwnMemory(MemorySagas):
    """Each client has sagas of its own."""

    def cell(self, key: str) -> Cell:
        cell = super().cell(key)
        return cell._replace(space=f"{cell.space}#{id(self)}")


@breaks("SAG-COM-23")
class BlockingListing(MemorySagas):
    """A listing of what has failed calls the vendor's synchronous client."""

    def page(self, after: int, older_than: float, *, include_failed: bool = False) -> list[StoredSaga]:
        if include_failed and not after:
            time.sleep(0.15)
        return super().page(after, older_than, include_failed=include_failed)


@breaks("SAG-COM-13")
class NamelessError(MemorySagas):
    """ "The saga was changed", but which?"""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().update_state(state, tx=tx)
        except SagaStateConflictError:
            raise SagaStateConflictError("the saga was changed by another worker") from None


@breaks("SAG-COM-13")
class TalkativeError(MemorySagas):
    """The refusal of a payload quotes it, and a secret is in the log."""

    def encoded(self, key: str, value: object) -> bytes:
        try:
            return super().encoded(key, value)
        except TooLargeError:
            raise
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{error}: {value!r}") from None


@breaks("SAG-COM-16")
class TornWrite(MemorySagas):
    """A large payload is written in two parts."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        token = state.payload.get("token") if isinstance(state.payload, Mapping) else None
        if not isinstance(token, str) or not 30_000 < len(token) < 100_000:
            return await super().update_state(state, tx=tx)
        half = await super().update_state(replace(state, payload={"token": token[: len(token) // 2]}), tx=tx)
        return await super().update_state(replace(state, version=half.version), tx=tx)


@breaks("SAG-COM-22")
class CutPayload(MemorySagas):
    """A payload that is too long is cut, without a word."""

    def check_size(self, key: str, size: int) -> None:
        pass

    def encoded(self, key: str, value: object) -> bytes:
        data = super().encoded(key, value)
        if len(data) <= self.limits.value_bytes:
            return data
        return super().encoded(key, {name: each[:100] for name, each in dict(value).items()})  # type: ignore[call-overload]


# Core


@breaks("SAG-01", "SAG-10", "SAG-59")
class VersionOfInput(MemorySagas):
    """A saga begins with the version that its state has."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        created = await super().create_state(state, tx=tx)
        stored = self.find(created.saga_id, tx)
        assert stored is not None
        return self.shown(self.put(created.saga_id, replace(stored, version=state.version or 1), tx))


@breaks(*"SAG-01 SAG-05 SAG-22 SAG-35 SAG-36 SAG-59".split())
class FieldWithoutColumn(MemorySagas):
    """`saga_type` has no column."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        return super().put(key, replace(stored, saga_type=""), tx)


@breaks(
    *(
        "SAG-02 SAG-09 SAG-10 SAG-22 SAG-26 SAG-27 SAG-31 SAG-32 SAG-38 SAG-39 SAG-53 SAG-55 SAG-59 SAG-63 SAG-COM-05 "
        "SAG-COM-06 SAG-COM-07 SAG-COM-08 SAG-COM-10 SAG-COM-13 SAG-COM-15 SAG-COM-16 SAG-COM-18 SAG-COM-19 SAG-COM-20 "
        "SAG-COM-21 SAG-COM-22 SAG-COM-23 SAG-COM-24 MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 "
        "MT-13 MT-14 MT-15 MT-16 MT-17 MT-19 MT-20 MT-23"
    ).split()
)
class RaisesForAbsence(MemorySagas):
    """`get_state` of what is not there raises."""

    async def get_state(self, saga_id: str) -> SagaState | None:
        state = await super().get_state(saga_id)
        if state is None:
            raise SagaNotFoundError(f"there is no saga {saga_id!r}")
        return state


@breaks(*"SAG-03 SAG-36 SAG-51 SAG-55 SAG-59 SAG-COM-13 MT-18".split())
class OverwritingCreate(MemorySagas):
    """A second creation replaces the saga."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        stored = self.find(state.saga_id, tx) if isinstance(state, SagaState) and isinstance(state.saga_id, str) else None
        if stored is not None:
            return await self.update_state(replace(state, version=stored.version), tx=tx)
        return await super().create_state(state, tx=tx)


@breaks(*"SAG-03 SAG-04 SAG-09 SAG-22 SAG-36 SAG-51 SAG-55 SAG-59 SAG-63 SAG-64 SAG-COM-13 MT-18".split())
class IgnoredCreate(MemorySagas):
    """A second creation does nothing, and says so to nobody: ON CONFLICT DO NOTHING."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().create_state(state, tx=tx)
        except SagaAlreadyExistsError:
            return replace(state, version=1)


@breaks("SAG-03", "SAG-55", "SAG-59")
class FreeOnceEnded(MemorySagas):
    """The index of ids is over the sagas that are not terminal."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        stored = self.find(state.saga_id, tx) if isinstance(state, SagaState) and isinstance(state.saga_id, str) else None
        if stored is not None and stored.status.terminal and not self.closed and self.backend.reachable:
            self.remove(state.saga_id)
        return await super().create_state(state, tx=tx)


@breaks("SAG-04", "SAG-09", "SAG-22")
class LookThenInsert(MemorySagas):
    """A creation looks, and then inserts."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        new = self.checked(state)
        self.check_transaction(tx)
        await self.turn()
        if self.find(new.saga_id, tx) is not None:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r} exists")
        self.check_correlation(new, tx)
        await self.turn()
        return self.shown(self.put(new.saga_id, replace(new, version=1, created=self.backend.clock.now()), tx))


@breaks(
    *(
        "SAG-05 SAG-06 SAG-07 SAG-12 SAG-14 SAG-16 SAG-17 SAG-21 SAG-22 SAG-24 SAG-25 SAG-26 SAG-27 SAG-28 SAG-29 "
        "SAG-30 SAG-31 SAG-33 SAG-36 SAG-40 SAG-43 SAG-46 SAG-51 SAG-52 SAG-53 SAG-54 SAG-55 SAG-56 SAG-57 SAG-58 "
        "SAG-59 SAG-60 SAG-61 SAG-62"
    ).split()
)
class ReturnsInput(MemorySagas):
    """An update returns what it was given."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        await super().update_state(state, tx=tx)
        return state


@breaks("SAG-05", "SAG-14", "SAG-59")
class MergedPayload(MemorySagas):
    """An update merges its payload into the old one."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        stored = self.find(state.saga_id, tx) if isinstance(state.saga_id, str) else None
        if stored is not None and isinstance(state.payload, Mapping) and stored.version == state.version:
            state = replace(state, payload=json.loads(stored.payload) | dict(state.payload))
        return await super().update_state(state, tx=tx)


@breaks("SAG-05", "SAG-16", "SAG-59")
class AppendedHistory(MemorySagas):
    """An update inserts the steps that it does not know, and removes none."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        before = self.find(key, tx)
        if before is not None and len(stored.history) < len(before.history):
            stored = replace(stored, history=stored.history + before.history[len(stored.history) :])
        return super().put(key, stored, tx)


@breaks("SAG-05", "SAG-36", "SAG-59")
class WrittenOnceOnly(MemorySagas):
    """The correlation is written when the saga is created, and by no update."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        before = self.find(key, tx)
        return super().put(key, stored if before is None else replace(stored, correlation_id=before.correlation_id), tx)


@breaks(*"SAG-06 SAG-11 SAG-12 SAG-36 SAG-51 SAG-59 SAG-COM-13".split())
class StaleOverwrite(MemorySagas):
    """An update replaces whatever is stored."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        stored = self.find(state.saga_id, tx) if isinstance(state, SagaState) and isinstance(state.saga_id, str) else None
        is_version = isinstance(state.version, int)
        return await super().update_state(replace(state, version=stored.version) if stored and is_version else state, tx=tx)


@breaks(*"SAG-06 SAG-08 SAG-36 SAG-51 SAG-COM-13".split())
class NothingToDo(MemorySagas):
    """A stale update that would change nothing is taken for one that was made before."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().update_state(state, tx=tx)
        except SagaStateConflictError:
            stored, new = self.find(state.saga_id, tx), self.checked(state)
            if stored is not None and (new.payload, new.status) == (stored.payload, stored.status):
                return self.shown(stored)
            raise


@breaks("SAG-06", "SAG-59")
class RefusedTooLate(MemorySagas):
    """The update is done, and then its row is compared."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().update_state(state, tx=tx)
        except SagaStateConflictError:
            stored, new = self.find(state.saga_id, tx), self.checked(state)
            if stored is not None and state.version < stored.version:
                self.put(state.saga_id, replace(stored, current_step=new.current_step, status=new.status), tx)
            raise


@breaks("SAG-07", "SAG-08", "SAG-09", "SAG-32")
class CheckThenWrite(MemorySagas):
    """An update compares the version by a read before the write."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        new = self.checked(state)
        self.check_version(new.saga_id, state.version)
        self.check_transaction(tx)
        await self.turn()
        stored = self.current(new.saga_id, state.version, tx)
        self.check_correlation(new, tx)
        await self.turn()
        return self.shown(self.put(new.saga_id, replace(new, version=stored.version + 1, created=stored.created), tx))


@breaks(*"SAG-07 SAG-08 SAG-09 SAG-32 SAG-51".split())
class LockOfOneProcess(MemorySagas):
    """The read before the write is under a lock, which each client has for itself."""

    lock: asyncio.Lock | None = None

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            new = self.checked(state)
            self.check_version(new.saga_id, state.version)
            self.check_transaction(tx)
            await self.turn()
            stored = self.current(new.saga_id, state.version, tx)
            self.check_correlation(new, tx)
            await self.turn()
            return self.shown(self.put(new.saga_id, replace(new, version=stored.version + 1, created=stored.created), tx))


@breaks("SAG-07", "SAG-08", "SAG-54")
class TimeoutForConflict(MemorySagas):
    """Under contention an update times out instead of losing."""

    waiting = 0

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        self.waiting += 1
        try:
            if self.waiting > 3:
                raise TCKError(f"saga {state.saga_id!r}: timed out waiting for the lock")
            return await super().update_state(state, tx=tx)
        finally:
            self.waiting -= 1


@breaks("SAG-09", "SAG-26", "SAG-27")
class StaleReplica(MemorySagas):
    """While an update is on its way, reads go to a replica that lags."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        cell = self.cell(state.saga_id)
        writing: Counter[Cell] = self.backend.__dict__.setdefault("writing", Counter())
        writing[cell] += 1
        try:
            return await super().update_state(state, tx=tx)
        finally:
            writing[cell] -= 1

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        self.backend.__dict__.setdefault("replica", {})[self.cell(key)] = self.find(key)
        return super().put(key, stored, tx)

    async def get_state(self, saga_id: str) -> SagaState | None:
        state = await super().get_state(saga_id)
        cell = self.cell(saga_id)
        if not self.backend.__dict__.get("writing", {}).get(cell):
            return state
        lagging = self.backend.__dict__.get("replica", {}).get(cell)
        return self.shown(lagging) if lagging is not None else state


@breaks(*"SAG-10 SAG-31 SAG-32 SAG-51 SAG-59 SAG-COM-13".split())
class UpsertingUpdate(MemorySagas):
    """An update of what is not there creates it."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().update_state(state, tx=tx)
        except SagaNotFoundError:
            return await self.create_state(state, tx=tx)


@breaks("SAG-11", "SAG-31", "SAG-59")
class AtLeast(MemorySagas):
    """The version that is passed must not be below the stored one."""

    def current(self, saga_id: str, version: int, tx: SagaTransaction | None = None) -> StoredSaga:
        stored = self.find(saga_id, tx)
        return super().current(saga_id, min(version, stored.version) if stored else version, tx)


@breaks("SAG-12", "SAG-31", "SAG-51", "SAG-59")
class VersionOfContent(MemorySagas):
    """Two versions are one if their content is, by its hash."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        stored = super().put(key, stored, tx)
        hashes = self.backend.__dict__.setdefault("hashes", {})
        hashes[self.cell(key), stored.version] = self.hash(stored)
        return stored

    def current(self, saga_id: str, version: int, tx: SagaTransaction | None = None) -> StoredSaga:
        stored = self.find(saga_id, tx)
        hashes = self.backend.__dict__.get("hashes", {})
        if stored is not None and hashes.get((self.cell(saga_id), version)) == self.hash(stored):
            version = stored.version
        return super().current(saga_id, version, tx)

    def hash(self, stored: StoredSaga) -> str:
        return hashlib.sha256(repr((stored.payload, stored.status, stored.history, stored.current_step)).encode()).hexdigest()


@breaks(*"SAG-05 SAG-13 SAG-19 SAG-30 SAG-31 SAG-41 SAG-43 SAG-47 SAG-51".split())
class SkippedUpdate(MemorySagas):
    """An update that would change nothing is skipped, and the version stays."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        stored = self.find(state.saga_id, tx) if isinstance(state.saga_id, str) else None
        if stored is not None and isinstance(state.version, int) and stored.version == state.version:
            new = self.checked(state)
            if replace(new, version=stored.version, created=0, updated=0, place=0) == replace(
                stored, created=0, updated=0, place=0
            ):
                await self.turn()
                return self.shown(stored)
        return await super().update_state(state, tx=tx)


class Remembering(MemorySagas):
    """Base of a defect that keeps objects which it should copy."""

    @property
    def kept(self) -> dict[tuple[Cell, int], SagaState]:
        """States by their place and version."""
        kept: dict[tuple[Cell, int], SagaState] = self.backend.__dict__.setdefault("kept", {})
        return kept


@breaks("SAG-13")
class KeptArgument(Remembering):
    """The store keeps the caller's payload."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        updated = await super().update_state(state, tx=tx)
        if tx is None:
            self.kept[self.cell(state.saga_id), updated.version] = state
        return updated

    async def get_state(self, saga_id: str) -> SagaState | None:
        state = await super().get_state(saga_id)
        kept = None if state is None else self.kept.get((self.cell(saga_id), state.version))
        return state if state is None or kept is None else replace(state, payload=copy.deepcopy(kept.payload))


@breaks("SAG-13")
class SharedResult(Remembering):
    """A found saga is remembered, and handed out again."""

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        state = await super().find_by_correlation(saga_type, correlation_id)
        if state is None:
            return None
        return self.kept.setdefault((self.cell(state.saga_id), state.version), state)

    async def get_state(self, saga_id: str) -> SagaState | None:
        state = await super().get_state(saga_id)
        kept = None if state is None else self.kept.get((self.cell(saga_id), state.version))
        return state if state is None or kept is None else replace(state, payload=copy.deepcopy(kept.payload))


class Transformed(MemorySagas):
    """Base of a defect in what becomes of a payload."""

    def encoded(self, key: str, value: object) -> bytes:
        super().encoded(key, value)
        return super().encoded(key, self.changed(value))

    def changed(self, value: Any) -> Any:
        """What is stored in place of *value*."""
        if isinstance(value, Mapping):
            return {name: self.changed(each) for name, each in value.items()}
        return [self.changed(each) for each in value] if isinstance(value, list) else value


@breaks("SAG-14")
class DoubleNumbers(Transformed):
    """Numbers are doubles."""

    def changed(self, value: Any) -> Any:
        is_large = isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53
        return int(float(value)) if is_large else super().changed(value)


@breaks("SAG-14")
class WholeFloats(Transformed):
    """A float that is whole comes back as an integer, as from Lua."""

    def changed(self, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else super().changed(value)


@breaks("SAG-05", "SAG-14", "SAG-54")
class DroppedNulls(Transformed):
    """A field that is null is left out."""

    def changed(self, value: Any) -> Any:
        value = super().changed(value)
        return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


@breaks("SAG-14")
class EmptyMapIsList(Transformed):
    """An empty map comes back as an empty list, as from Lua."""

    def changed(self, value: Any) -> Any:
        if isinstance(value, Mapping) and value:
            return {name: [] if each == {} else self.changed(each) for name, each in value.items()}
        return super().changed(value)


@breaks("SAG-14")
class DottedNames(Transformed):
    """A dot in a name is a path: it is replaced."""

    def changed(self, value: Any) -> Any:
        value = super().changed(value)
        return {name.replace(".", "_"): each for name, each in value.items()} if isinstance(value, dict) else value


@breaks("SAG-15")
class OneRoom(MemorySagas):
    """Payload and history share the room of one item."""

    def checked(self, state: object) -> StoredSaga:
        stored = super().checked(state)
        room = self.limits.value_bytes + 1_000
        if len(stored.payload) + sum(len(each.step_name) + len(each.status) + 4 for each in stored.history) > room:
            raise TooLargeError(f"saga {stored.saga_id!r}: the item is too large")
        return stored


@breaks("SAG-15")
class CutHistory(MemorySagas):
    """A history keeps its last steps, as many as there is room for."""

    def checked_history(self, state: SagaState) -> tuple[SagaStepHistory, ...]:
        history = state.history[-self.limits.history :] if isinstance(state.history, Sequence) else state.history
        return super().checked_history(replace(state, history=history))


@breaks("SAG-16")
class SetOfSteps(MemorySagas):
    """A history has each step once."""

    def checked_history(self, state: SagaState) -> tuple[SagaStepHistory, ...]:
        return tuple(dict.fromkeys(super().checked_history(state)))


@breaks("SAG-16")
class SortedSteps(MemorySagas):
    """The steps of a history are rows, ordered by the text of their number."""

    def checked_history(self, state: SagaState) -> tuple[SagaStepHistory, ...]:
        history = super().checked_history(state)
        return tuple(history[number] for number in sorted(range(len(history)), key=str))


@breaks(
    *("SAG-05 SAG-07 SAG-08 SAG-09 SAG-14 SAG-16 SAG-17 SAG-21 SAG-24 SAG-31 SAG-40 SAG-46 SAG-53 SAG-57 SAG-59 SAG-61").split()
)
class NearCache(MemorySagas):
    """A client remembers what it has read or written last."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.cache: dict[str, StoredSaga] = {}

    async def get_state(self, saga_id: str) -> SagaState | None:
        state = await super().get_state(saga_id)
        stored = self.find(saga_id)
        if state is None or stored is None:
            return None
        return self.shown(self.cache.setdefault(saga_id, stored))

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        self.cache.pop(key, None)
        return super().put(key, stored, tx)


# list_incomplete


@breaks(*"SAG-18 SAG-46 SAG-47 SAG-53 SAG-58 SAG-59".split())
class ForgottenCompensating(MemorySagas):
    """A listing looks for what is RUNNING."""

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        return [each for each in super().stuck(include_failed=include_failed) if each.status is not SagaStatus.COMPENSATING]


@breaks(*"SAG-18 SAG-28 SAG-33 SAG-47 SAG-59".split())
class FailedIsIncomplete(MemorySagas):
    """A listing has what has failed, too."""

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        return super().stuck(include_failed=True)


@breaks(*"SAG-18 SAG-19 SAG-33 SAG-41 SAG-59".split())
class FailedOnly(MemorySagas):
    """With `include_failed` a listing has what has failed alone."""

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        found = super().stuck(include_failed=include_failed)
        return [each for each in found if each.status is SagaStatus.FAILED] if include_failed else found


@breaks("SAG-33", "SAG-46", "SAG-59")
class HidesClaimed(MemorySagas):
    """A saga that a worker has is in no listing."""

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        return [each for each in super().stuck(include_failed=include_failed) if self.holder(each.saga_id) is None]


@breaks("SAG-19", "SAG-47")
class AgeOfCreation(MemorySagas):
    """The age of a saga is counted from its creation."""

    def page(self, after: int, older_than: float, *, include_failed: bool = False) -> list[StoredSaga]:
        latest = self.backend.clock.now() - older_than
        return [each for each in super().page(after, 0.0, include_failed=include_failed) if each.created <= latest]


@breaks("SAG-19")
class IgnoredAge(MemorySagas):
    """`older_than` is dropped where failed ones are asked for."""

    def page(self, after: int, older_than: float, *, include_failed: bool = False) -> list[StoredSaga]:
        return super().page(after, 0.0 if include_failed else older_than, include_failed=include_failed)


@breaks("SAG-20")
class OffsetPaging(MemorySagas):
    """A page begins at a number, which changes mean something else by."""

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        self.need("list_incomplete")
        self.check_count("limit", limit)
        self.check_seconds("older_than", older_than or 0)
        offset = self.checked_cursor(cursor)
        await self.turn()
        found = self.page(0, older_than or 0.0, include_failed=include_failed)[offset:]
        return SagaPage([self.shown(each) for each in found[:limit]], str(offset + limit) if len(found) > limit else None)


@breaks("SAG-18", "SAG-19", "SAG-59")
class ForgottenFilter(MemorySagas):
    """`include_failed` holds on the first page."""

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        return await super().list_incomplete(
            older_than=older_than, limit=limit, cursor=cursor, include_failed=include_failed and cursor is None
        )


# What a cancellation leaves


@breaks(*"SAG-07 SAG-08 SAG-09 SAG-21 SAG-32".split())
class HalfWrite(MemorySagas):
    """An update writes its payload, and then the version."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        new = self.checked(state)
        self.check_version(new.saga_id, state.version)
        self.check_transaction(tx)
        await self.turn()
        stored = self.current(new.saga_id, state.version, tx)
        self.check_correlation(new, tx)
        if tx is None:
            self.put(new.saga_id, replace(stored, payload=new.payload), tx)
            await anyio.lowlevel.checkpoint()
        return self.shown(self.put(new.saga_id, replace(new, version=stored.version + 1, created=stored.created), tx))


@breaks("SAG-09", "SAG-21", "SAG-61", "SAG-62")
class LeftTransaction(MemorySagas):
    """A cancelled update leaves its transaction open: what the client writes next is seen by nobody else."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.unseen: dict[Cell, StoredSaga] | None = None

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().update_state(state, tx=tx)
        except anyio.get_cancelled_exc_class():
            self.unseen = self.unseen or {}
            raise

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        if self.unseen is None or tx is not None:
            return super().put(key, stored, tx)
        self.unseen[self.cell(key)] = stored
        return stored

    def find(self, saga_id: str, tx: SagaTransaction | None = None) -> StoredSaga | None:
        cell = self.cell(saga_id)
        return self.unseen[cell] if self.unseen and cell in self.unseen else super().find(saga_id, tx)


# correlation


@breaks("SAG-22")
class CorrelationByQuery(MemorySagas):
    """Whether a correlation is free is asked before the insert."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        new = self.checked(state)
        self.check_transaction(tx)
        await self.turn()
        self.check_correlation(new, tx)
        await self.turn()
        if self.find(new.saga_id, tx) is not None:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r} exists")
        return self.shown(self.put(new.saga_id, replace(new, version=1, created=self.backend.clock.now()), tx))


class OtherCorrelation(MemorySagas):
    """Base of a defect in how a correlation is found taken: `taken` says by whom."""

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        if new.status.terminal:
            return
        mine = self.cell("")
        for cell, each in {**self.backend.sagas, **(tx.after if tx else {})}.items():
            if (cell.tenant, cell.space) == (mine.tenant, mine.space) and each.saga_id != new.saga_id and self.taken(each, new):
                raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: its correlation is taken")

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        """Whether *each* has what *new* wants."""
        is_alike = (each.saga_type, each.correlation_id) == (new.saga_type, new.correlation_id)
        return new.correlation_id is not None and is_alike and not each.status.terminal


@breaks("SAG-22")
class CorrelationForEver(OtherCorrelation):
    """The unique index counts sagas that have ended."""

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        return super().taken(replace(each, status=SagaStatus.RUNNING), new)


@breaks("SAG-22")
class FailedKeepsCorrelation(OtherCorrelation):
    """A saga that has failed keeps its correlation."""

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        return super().taken(replace(each, status=SagaStatus.RUNNING) if each.status is SagaStatus.FAILED else each, new)


@breaks("SAG-22", "SAG-36", "SAG-59", "SAG-63")
class UniqueAtCreation(MemorySagas):
    """Whether a correlation is free is asked by `create_state` alone."""

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        if self.find(new.saga_id, tx) is None:
            super().check_correlation(new, tx)


@breaks("SAG-34", "SAG-59")
class NoneIsUnique(OtherCorrelation):
    """No correlation is one like others, for this index."""

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        both = each.correlation_id is None and new.correlation_id is None
        return super().taken(each, new) or (
            both and bool(new.saga_type) and each.saga_type == new.saga_type and not each.status.terminal
        )


@breaks("SAG-35", "SAG-36")
class CorrelationAcrossTypes(OtherCorrelation):
    """The unique index is over the correlation alone."""

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        return super().taken(replace(each, saga_type=new.saga_type), new)


@breaks("SAG-22", "SAG-35")
class JoinedCorrelation(OtherCorrelation):
    """The key of the index is type and correlation with a colon between."""

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        one, other = (f"{saga.saga_type}:{saga.correlation_id}" for saga in (each, new))
        return super().taken(each, new) or (None not in (each.correlation_id, new.correlation_id) and one == other)


@breaks("SAG-35", "SAG-COM-20")
class FoldedCorrelation(MemorySagas):
    """A correlation is compared without case."""

    def correlated(self, saga_type: str, correlation_id: str | None, tx: SagaTransaction | None = None) -> StoredSaga | None:
        found = super().correlated(saga_type, correlation_id, tx)
        if found is not None or correlation_id is None:
            return found
        folded = (each for each in self.stuck() if (each.correlation_id or "").lower() == correlation_id.lower())
        return next((each for each in folded if each.saga_type == saga_type), None)


@breaks("SAG-22", "SAG-59")
class FindsEnded(MemorySagas):
    """A saga that has ended is found by its correlation, if no other has it."""

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        found = await super().find_by_correlation(saga_type, correlation_id)
        if found is not None or correlation_id is None:
            return found
        sagas = (self.backend.sagas[self.cell(each)] for each in self.own())
        ended = [each for each in sagas if (each.saga_type, each.correlation_id) == (saga_type, correlation_id)]
        return self.shown(ended[0]) if ended else None


@breaks("SAG-36", "SAG-59")
class IndexOfCreation(MemorySagas):
    """The index of correlations is written when a saga is created."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        if self.find(key, tx) is None and stored.correlation_id is not None:
            self.index[self.cell(key)] = (stored.saga_type, stored.correlation_id)
        return super().put(key, stored, tx)

    @property
    def index(self) -> dict[Cell, tuple[str, str]]:
        """What each saga's correlation was."""
        index: dict[Cell, tuple[str, str]] = self.backend.__dict__.setdefault("index", {})
        return index

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        await super().find_by_correlation(saga_type, correlation_id)
        for each in self.stuck():
            if self.index.get(self.cell(each.saga_id)) == (saga_type, correlation_id):
                return self.shown(each)
        return None


@breaks("SAG-36")
class CopyInTheIndex(MemorySagas):
    """The index of correlations holds a copy of the payload, which updates forget."""

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        found = await super().find_by_correlation(saga_type, correlation_id)
        if found is None:
            return None
        copies: dict[Any, Any] = self.backend.__dict__.setdefault("copies", {})
        key = (self.cell(found.saga_id), found.correlation_id)
        return replace(found, payload=copy.deepcopy(copies.setdefault(key, found.payload)))


# delete


@breaks("SAG-31", "SAG-59", "SAG-COM-13")
class DeleteById(MemorySagas):
    """A deletion does not look at the version."""

    async def delete_state(self, saga_id: str, version: int) -> None:
        stored = self.find(saga_id) if isinstance(saga_id, str) else None
        await super().delete_state(saga_id, stored.version if stored and isinstance(version, int) else version)


@breaks("SAG-31", "SAG-32", "SAG-59")
class DeleteOfNothing(MemorySagas):
    """A deletion of what is not there succeeds."""

    async def delete_state(self, saga_id: str, version: int) -> None:
        try:
            await super().delete_state(saga_id, version)
        except SagaNotFoundError:
            return


@breaks("SAG-32")
class ResurrectingUpdate(MemorySagas):
    """An update that finds its saga gone, between its look and its write, inserts it."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        before = self.find(state.saga_id, tx) if isinstance(state, SagaState) and isinstance(state.saga_id, str) else None
        try:
            return await super().update_state(state, tx=tx)
        except SagaNotFoundError:
            if before is None or before.version != state.version:
                raise
            return self.shown(self.put(state.saga_id, replace(self.checked(state), version=before.version + 1), tx))


@breaks("SAG-33", "SAG-59")
class SoftDelete(MemorySagas):
    """What is deleted is marked, and a listing does not look at the mark."""

    def remove(self, key: str, *arguments: Any, **keywords: Any) -> None:
        deleted = self.backend.__dict__.setdefault("deleted", {})
        deleted[self.cell(key)] = self.find(key)
        super().remove(key, *arguments, **keywords)

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        mine = self.cell("")
        marked = [
            each
            for cell, each in self.backend.__dict__.get("deleted", {}).items()
            if each is not None and (cell.tenant, cell.space) == (mine.tenant, mine.space) and cell not in self.backend.sagas
        ]
        return super().stuck(include_failed=include_failed) + [each for each in marked if include_failed]


@breaks("SAG-33", "SAG-59")
class CorrelationOfTheDeleted(MemorySagas):
    """The correlation of what was deleted stays taken."""

    def remove(self, key: str, *arguments: Any, **keywords: Any) -> None:
        stored = self.find(key)
        if stored is not None and stored.correlation_id and not stored.status.terminal:
            mine = self.cell("")
            self.taken.add((mine.tenant, mine.space, stored.saga_type, stored.correlation_id))
        super().remove(key, *arguments, **keywords)

    @property
    def taken(self) -> set[object]:
        """The correlations of what was deleted."""
        taken: set[object] = self.backend.__dict__.setdefault("taken", set())
        return taken

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        mine = self.cell("")
        known = (mine.tenant, mine.space, new.saga_type, new.correlation_id)
        if known in self.taken and new.saga_id != new.correlation_id:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: its correlation is taken")
        super().check_correlation(new, tx)


@breaks("SAG-31", "SAG-59")
class VersionsGoOn(MemorySagas):
    """A saga that is created under the id of a deleted one goes on with its versions."""

    def remove(self, key: str, *arguments: Any, **keywords: Any) -> None:
        stored = self.find(key)
        if stored is not None:
            self.backend.__dict__.setdefault("last", {})[self.cell(key)] = stored.version
        super().remove(key, *arguments, **keywords)

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        last = self.backend.__dict__.get("last", {}).get(self.cell(key), 0)
        return super().put(key, replace(stored, version=last + 1) if stored.version == 1 else stored, tx)


# What is not changed, and what is refused


@breaks("SAG-06", "SAG-24", "SAG-31", "SAG-37")
class RaisedInTheArgument(MemorySagas):
    """The version is raised in the caller's state, before the write."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        given = copy.copy(state)
        if isinstance(state, SagaState) and isinstance(state.version, int):
            object.__setattr__(state, "version", state.version + 1)
        return await super().update_state(given, tx=tx)


@breaks("SAG-37")
class RaisedUntilItFails(MemorySagas):
    """The version is raised in the caller's state, and taken back after an error; a cancellation is none."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        given = copy.copy(state)
        if isinstance(state, SagaState):
            object.__setattr__(state, "version", "raised")
        try:
            updated = await super().update_state(given, tx=tx)
        except Exception:
            object.__setattr__(state, "version", given.version)
            raise
        object.__setattr__(state, "version", given.version)
        return updated


@breaks("SAG-38")
class HalfCreated(MemorySagas):
    """A creation inserts the row, and then its history."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        new = self.checked(state)
        if tx is not None or not new.history:
            return await super().create_state(state, tx=tx)
        await super().create_state(replace(state, history=()), tx=tx)
        await anyio.lowlevel.checkpoint()
        return self.shown(self.put(new.saga_id, replace(new, version=1, created=self.backend.clock.now()), tx))


@breaks("SAG-38")
class ReservedCorrelation(MemorySagas):
    """A correlation is taken, and then its saga created; what is cut off between keeps it."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        new = self.checked(state)
        reserved = self.backend.__dict__.setdefault("reserved", set())
        key = (self.tenant_id, self.namespace, new.saga_type, new.correlation_id)
        if new.correlation_id is None or tx is not None:
            return await super().create_state(state, tx=tx)
        await self.turn()
        if key in reserved:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: its correlation is reserved")
        reserved.add(key)
        try:
            created = await super().create_state(state, tx=tx)
        except Exception:
            reserved.discard(key)
            raise
        reserved.discard(key)
        return created


@breaks("SAG-39", "SAG-COM-13")
class DefaultStr(MemorySagas):
    """What is not in JSON is stored as its text: `json.dumps(..., default=str)`."""

    def encoded(self, key: str, value: object) -> bytes:
        return super().encoded(key, json.loads(json.dumps(value, default=str)) if isinstance(value, dict) else value)


@breaks("SAG-39")
class AnyStatus(MemorySagas):
    """A status is whatever text it is."""

    def checked(self, state: object) -> StoredSaga:
        if isinstance(state, SagaState) and isinstance(state.status, str):
            folded = state.status.upper()
            state = replace(state, status=folded if folded in tuple(SagaStatus) else SagaStatus.RUNNING)
        return super().checked(state)


@breaks("SAG-39")
class ZeroIsNoLimit(MemorySagas):
    """A limit of 0 or below is none."""

    def check_count(self, what: str, number: object) -> None:
        if not isinstance(number, int) or number > 0:
            super().check_count(what, number)


@breaks("SAG-40")
class TrimmedId(MemorySagas):
    """Blanks at the end of an id are cut, as in a column of CHAR."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.rstrip(" ") if isinstance(key, str) else key)


@breaks("SAG-40")
class ContentAddressed(MemorySagas):
    """Equal sagas are stored once: what is done to one is done to all."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        before = self.find(key, tx)
        put = super().put(key, stored, tx)
        for cell, each in list(self.backend.sagas.items()) if before and len(before.history) == 3 else []:
            if before and each.saga_id != key and (each.payload, each.history) == (before.payload, before.history):
                self.backend.sagas[cell] = replace(each, current_step=stored.current_step)
        return put


# list_incomplete, again


@breaks("SAG-41")
class OrderOfCreation(MemorySagas):
    """A listing is in the order in which the sagas were created."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        before = self.find(key, tx)
        put = super().put(key, stored, tx)
        if before is None or tx is not None:
            return put
        put = replace(put, place=before.place)
        self.backend.sagas[self.cell(key)] = put
        return put


@breaks("SAG-41")
class NewestFirst(MemorySagas):
    """On one page the newest come first."""

    async def list_incomplete(self, **options: Any) -> SagaPage:
        page = await super().list_incomplete(**options)
        return SagaPage(list(reversed(page.sagas)), page.cursor)


@breaks("SAG-41", "SAG-42", "SAG-COM-20")
class CutLimit(MemorySagas):
    """A limit beyond the page of the backend is cut, and what is cut is the end."""

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        page = await super().list_incomplete(older_than=older_than, limit=limit, cursor=cursor, include_failed=include_failed)
        return SagaPage(page.sagas, None) if limit > self.limits.page_size else page


@breaks("SAG-20", "SAG-41", "SAG-42", "SAG-COM-20")
class CursorOfTheNext(MemorySagas):
    """The cursor names the first saga of the next page, which then begins after it."""

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        page = await super().list_incomplete(older_than=older_than, limit=limit, cursor=cursor, include_failed=include_failed)
        if page.cursor is None or len(page.sagas) < 3:
            return page
        following = self.page(int(page.cursor), older_than or 0.0, include_failed=include_failed)
        return SagaPage(page.sagas, str(following[0].place))


@breaks(*"SAG-18 SAG-19 SAG-20 SAG-42 SAG-59 SAG-COM-20".split())
class CursorOfTime(MemorySagas):
    """The cursor is the time of the last saga: what was updated at the same time is skipped."""

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        page = await super().list_incomplete(older_than=older_than, limit=limit, cursor=cursor, include_failed=include_failed)
        if page.cursor is None:
            return page
        last = next(each for each in self.page(0, 0.0, include_failed=True) if each.place == int(page.cursor))
        alike = [each.place for each in self.page(0, 0.0, include_failed=True) if each.updated == last.updated]
        following = self.page(max(alike), older_than or 0.0, include_failed=include_failed)
        return SagaPage(page.sagas, str(max(alike)) if following else None)


class OtherTimes(MemorySagas):
    """Base of a defect in the times that are shown."""

    def shown(self, stored: StoredSaga) -> SagaState:
        return self.dated(super().shown(stored))

    def dated(self, state: SagaState) -> SagaState:
        """*state* with other times."""
        return state


@breaks("SAG-43")
class NaiveTimes(OtherTimes):
    """Times are without a zone."""

    def dated(self, state: SagaState) -> SagaState:
        assert state.created_at is not None
        assert state.updated_at is not None
        return replace(state, created_at=state.created_at.replace(tzinfo=None), updated_at=state.updated_at.replace(tzinfo=None))


@breaks("SAG-43")
class TimesOfTheArgument(MemorySagas):
    """The times are those that are passed, where some are."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        updated = await super().update_state(state, tx=tx)
        return replace(updated, created_at=state.created_at or updated.created_at)


@breaks("SAG-43", "SAG-46")
class UpdateLeavesTheTime(MemorySagas):
    """`updated_at` is returned as it was read before."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        before = await super().get_state(state.saga_id)
        updated = await super().update_state(state, tx=tx)
        return replace(updated, updated_at=before.updated_at if before else updated.updated_at)


# saga_lease


class OtherClaims(MemorySagas):
    """Base of a defect in how sagas are claimed."""

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        self.need("saga_lease")
        self.check_worker(worker_id)
        self.check_count("limit", limit)
        self.check_seconds("lease", lease, above_zero=True)
        self.check_seconds("older_than", older_than)
        await self.turn()
        return await self.claim(self.free(older_than)[:limit], worker_id, max(lease, self.limits.min_ttl))

    def free(self, older_than: float) -> list[StoredSaga]:
        """What may be claimed."""
        return [each for each in self.page(0, older_than) if self.holder(each.saga_id) is None]

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        """Give *sagas* to the worker."""
        for each in sagas:
            self.backend.leases[self.cell(each.saga_id)] = Lease(worker_id, self.backend.clock.now() + lease)
        return [self.shown(each) for each in sagas]


@breaks("SAG-23", "SAG-44", "SAG-50")
class LookThenClaim(OtherClaims):
    """A claim looks for what is free, and then takes it."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        await self.turn()
        return await super().claim(sagas, worker_id, lease)


@breaks(*"SAG-23 SAG-44 SAG-47 SAG-48 SAG-49".split())
class NoLimit(OtherClaims):
    """A claim takes all, and returns what was asked for."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        await super().claim(self.free(0.0), worker_id, lease)
        return [self.shown(each) for each in sagas]


@breaks("SAG-44", "SAG-50")
class ShortLease(OtherClaims):
    """A lease ends early."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        return await super().claim(sagas, worker_id, 0.8 * lease)


@breaks(*"SAG-44 SAG-45 SAG-48 SAG-49 MT-23".split())
class EndlessLease(MemorySagas):
    """A lease ends when it is released."""

    def holder(self, saga_id: str) -> str | None:
        lease = self.backend.leases.get(self.cell(saga_id))
        return None if lease is None else lease.worker_id


@breaks("SAG-45", "SAG-50", "SAG-59")
class ReleaseById(MemorySagas):
    """A release does not ask whose lease it is."""

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        holder = self.holder(saga_id) if isinstance(saga_id, str) else None
        return await super().release_stuck(saga_id, holder or worker_id)


@breaks("SAG-45")
class ReleaseSaysTrue(MemorySagas):
    """A release that comes too late says True."""

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        lease = self.backend.leases.get(self.cell(saga_id)) if isinstance(saga_id, str) else None
        return await super().release_stuck(saga_id, worker_id) or (lease is not None and lease.worker_id == worker_id)


@breaks("SAG-45")
class FoldedWorker(MemorySagas):
    """The name of a worker is compared without case."""

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        holder = self.holder(saga_id) if isinstance(saga_id, str) else None
        alike = holder is not None and isinstance(worker_id, str) and holder.lower() == worker_id.lower()
        return await super().release_stuck(saga_id, holder if alike and holder else worker_id)


@breaks("SAG-46", "SAG-59")
class LeaseInTheRow(MemorySagas):
    """The lease is in the row that an update replaces."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        self.backend.leases.pop(self.cell(key), None)
        return super().put(key, stored, tx)


@breaks("SAG-13", "SAG-33", "SAG-46", "SAG-59")
class ClaimIsUpdate(OtherClaims):
    """A claim raises the version, and what it returns is what was there before."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        for each in sagas:
            self.put(each.saga_id, replace(each, version=each.version + 1))
        return await super().claim(sagas, worker_id, lease)


@breaks("SAG-46")
class ClaimTouches(OtherClaims):
    """A claim sets the time of the last update."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        return await super().claim([self.put(each.saga_id, each) for each in sagas], worker_id, lease)


@breaks("SAG-47", "SAG-59")
class ClaimsWhatFailed(OtherClaims):
    """What has failed is given to workers, too."""

    def free(self, older_than: float) -> list[StoredSaga]:
        found = self.page(0, older_than, include_failed=True)
        return [each for each in found if self.holder(each.saga_id) is None]


@breaks("SAG-46", "SAG-47", "SAG-59")
class ClaimsRunningOnly(OtherClaims):
    """What is being undone is given to nobody."""

    def free(self, older_than: float) -> list[StoredSaga]:
        return [each for each in super().free(older_than) if each.status is SagaStatus.RUNNING]


@breaks("SAG-47")
class ClaimsByCreation(OtherClaims):
    """The age of what is claimed is counted from its creation."""

    def free(self, older_than: float) -> list[StoredSaga]:
        latest = self.backend.clock.now() - older_than
        return [each for each in super().free(0.0) if each.created <= latest]


@breaks("SAG-48", "SAG-66")
class LeaseOfTheConnection(OtherClaims):
    """A lease ends with the connection that asked for it."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        for each in sagas:
            self.backend.__dict__.setdefault("holders", {})[self.cell(each.saga_id)] = self
        return await super().claim(sagas, worker_id, lease)

    def holder(self, saga_id: str) -> str | None:
        client = self.backend.__dict__.get("holders", {}).get(self.cell(saga_id))
        return None if client is not None and client.closed else super().holder(saga_id)


@breaks("SAG-49")
class MarkedFirst(OtherClaims):
    """Sagas are marked, and then their lease is stored; what is cut off between is given to nobody again."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        for each in sagas:
            self.backend.leases[self.cell(each.saga_id)] = Lease(worker_id, math.inf)
        await anyio.lowlevel.checkpoint()
        return await super().claim(sagas, worker_id, lease)


@breaks("SAG-45", "SAG-50")
class LastHolderReleases(MemorySagas):
    """A release by the worker that had the saga before frees it, if the lease was taken over."""

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        before = dict(self.backend.leases)
        states = await super().claim_stuck(worker_id, limit=limit, lease=lease, older_than=older_than)
        earlier = self.backend.__dict__.setdefault("earlier", {})
        for each in states:
            cell = self.cell(each.saga_id)
            if cell in before:
                earlier[cell] = before[cell].worker_id
        return states

    async def release_stuck(self, saga_id: str, worker_id: str) -> bool:
        earlier = self.backend.__dict__.get("earlier", {})
        cell = self.cell(saga_id) if isinstance(saga_id, str) else None
        released = await super().release_stuck(saga_id, worker_id)
        if not released and cell in earlier and earlier[cell] == worker_id:
            self.backend.leases.pop(cell, None)
        return released


# transactional


@breaks(*"SAG-24 SAG-52 SAG-53 SAG-59 SAG-60 SAG-61 SAG-64".split())
class Autocommit(MemorySagas):
    """The update of a saga is on another connection than its transaction."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        self.check_transaction(tx)
        return await super().update_state(state)


@breaks("SAG-53", "SAG-59", "SAG-63", "SAG-64")
class AutocommitOfCreation(MemorySagas):
    """The creation of a saga is on another connection than its transaction."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        self.check_transaction(tx)
        return await super().create_state(state)


class OtherTransactions(MemorySagas):
    """Base of a defect in how a transaction ends."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        await self.turn()
        tx = SagaTransaction()
        try:
            yield tx
        except BaseException as error:
            if self.commits(error):
                self.commit(tx)
            if self.swallows(error):
                return
            raise
        else:
            await self.turn()
            self.commit(tx)
        finally:
            tx.open = False

    def commits(self, error: BaseException) -> bool:
        """Whether the transaction commits although *error* has ended its block."""
        return False

    def swallows(self, error: BaseException) -> bool:
        """Whether *error* goes no further."""
        return False


@breaks("SAG-24", "SAG-64")
class CommitsWhenCancelled(OtherTransactions):
    """`except Exception: rollback`, and a commit in `finally`: a cancellation commits."""

    def commits(self, error: BaseException) -> bool:
        return not isinstance(error, Exception)


@breaks("SAG-24", "SAG-52", "SAG-59")
class SwallowingTransaction(OtherTransactions):
    """An exception rolls the transaction back, and is gone."""

    def swallows(self, error: BaseException) -> bool:
        return isinstance(error, LookupError)


@breaks("SAG-24", "SAG-60")
class EventsOutside(OtherTransactions):
    """Events are saved when they are given, not when the transaction commits."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        async with super().transacting() as tx:
            tx.events = self.backend.events
            yield tx

    def commit(self, tx: SagaTransaction) -> None:
        tx.events = []
        super().commit(tx)


@breaks("SAG-51")
class BlindCommit(MemorySagas):
    """What a transaction has compared when it read is not compared when it commits."""

    def commit(self, tx: SagaTransaction) -> None:
        tx.before = {}
        super().commit(tx)


@breaks("SAG-51")
class UncomparedInTransaction(MemorySagas):
    """In a transaction an update does not look at the version."""

    async def update_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        stored = self.find(state.saga_id, tx) if tx is not None else None
        return await super().update_state(replace(state, version=stored.version) if stored else state, tx=tx)


@breaks("SAG-51")
class RowsStay(MemorySagas):
    """A conflict at the commit leaves the business rows."""

    def commit(self, tx: SagaTransaction) -> None:
        self.backend.rows.update(tx.rows)
        super().commit(tx)


@breaks("SAG-63")
class UniquenessOutside(MemorySagas):
    """In a transaction nobody asks whether a correlation is taken."""

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        if tx is None:
            super().check_correlation(new, tx)


@breaks("SAG-52")
class OneTransaction(MemorySagas):
    """A client has one connection: what it writes while a transaction is open belongs to that."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.current_tx: SagaTransaction | None = None

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        async with super().transacting() as tx:
            self.current_tx = tx
            try:
                yield tx
            finally:
                self.current_tx = None

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        return super().put(key, stored, tx or self.current_tx)


# compensation_execution


@breaks(*"SAG-25 SAG-27 SAG-28 SAG-29 SAG-30 SAG-54 SAG-56 SAG-57 SAG-58 SAG-59".split())
class ForwardCompensation(MemorySagas):
    """What is done is undone in the order in which it was done."""

    async def go_back(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        done = [each for each in steps[: state.current_step] if each.compensation is not None]
        for each in done:
            assert each.compensation is not None
            for _ in range(3):
                if await self.outcome(each.compensation, self.context(state, steps.index(each), "undo")) == DONE:
                    break
            else:
                return await self.record(state, SagaStatus.FAILED, state.current_step)
        return await self.record(state, SagaStatus.COMPENSATED, 0)


@breaks(*"SAG-25 SAG-27 SAG-28 SAG-54 SAG-56 SAG-58 SAG-59".split())
class UndoesWhatFailed(MemorySagas):
    """The step that failed is undone as well."""

    async def record(self, state: SagaState, status: SagaStatus, current_step: int, *arguments: Any) -> SagaState:
        failed = status is SagaStatus.COMPENSATING and arguments[2:3] == (FAILED,)
        return await super().record(state, status, current_step + failed, *arguments)


@breaks("SAG-25", "SAG-29", "SAG-59")
class GoesOn(MemorySagas):
    """After a step that failed the others are done, and then all is undone."""

    async def go_forward(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        failed = state.current_step
        state = await super().go_forward(state, steps)
        if state.status == SagaStatus.COMPENSATING:
            for number in range(failed + 1, len(steps)):
                await self.outcome(steps[number].action, self.context(state, number, "do"))
        return state


@breaks("SAG-25", "SAG-59")
class FirstStepFails(MemorySagas):
    """A saga whose first step fails has nothing to undo, and is FAILED."""

    async def record(self, state: SagaState, status: SagaStatus, current_step: int, *arguments: Any) -> SagaState:
        nothing = status is SagaStatus.COMPENSATING and not current_step and arguments[2:3] == (FAILED,)
        return await super().record(state, SagaStatus.FAILED if nothing else status, current_step, *arguments)


@breaks(*"SAG-26 SAG-27 SAG-29 SAG-30 SAG-57 SAG-58 SAG-62".split())
class ProgressAtTheEnd(MemorySagas):
    """Progress is kept in memory, and stored when the steps are done."""

    async def record(self, state: SagaState, status: SagaStatus, current_step: int, *arguments: Any) -> SagaState:
        if status is SagaStatus.RUNNING:
            return replace(state, current_step=current_step)
        return await super().record(state, status, current_step, *arguments)


@breaks(*"SAG-26 SAG-27 SAG-29 SAG-58 SAG-62".split())
class StoredWhenBegun(MemorySagas):
    """A step is stored as done when it begins."""

    async def go_forward(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        number = state.current_step
        if number >= len(steps):
            return await super().go_forward(state, steps)
        state = await self.record(state, SagaStatus.RUNNING, number + 1)
        outcome = await self.outcome(steps[number].action, self.context(state, number, "do"))
        if outcome == DONE:
            return state
        undo = number + (outcome != FAILED)
        return await self.record(state, SagaStatus.COMPENSATING, undo)


@breaks("SAG-27", "SAG-30", "SAG-58")
class ForwardAgain(MemorySagas):
    """A recovery begins with the first step that is not done."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        state = await self.get_state(saga_id)
        if state is not None and state.status == SagaStatus.COMPENSATING:
            await self.update_state(replace(state, status=SagaStatus.RUNNING))
        return await super().recover(saga_id, steps)


@breaks("SAG-27", "SAG-58")
class UndoesFromTheEnd(MemorySagas):
    """A recovery of a saga that was being undone begins with the last step again."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        state = await self.get_state(saga_id)
        if state is not None and state.status == SagaStatus.COMPENSATING:
            left = sum(each.status != FAILED and each.status != STARTED for each in state.history)
            await self.update_state(replace(state, current_step=left))
        return await super().recover(saga_id, steps)


@breaks(*"SAG-26 SAG-27 SAG-29 SAG-30 SAG-58 SAG-62".split())
class UndoesAtRecovery(MemorySagas):
    """A recovery undoes what was done, whatever the saga was about."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        state = await self.get_state(saga_id)
        if state is not None and state.status == SagaStatus.RUNNING:
            await self.update_state(replace(state, status=SagaStatus.COMPENSATING))
        return await super().recover(saga_id, steps)


@breaks("SAG-28", "SAG-55")
class SwallowedCompensation(MemorySagas):
    """What a compensation raises is logged, and the saga is COMPENSATED."""

    async def record(self, state: SagaState, status: SagaStatus, current_step: int, *arguments: Any) -> SagaState:
        if status is SagaStatus.FAILED:
            status, current_step = SagaStatus.COMPENSATING, current_step - 1
        return await super().record(state, status, current_step, *arguments)


@breaks("SAG-28")
class GoesOnUndoing(MemorySagas):
    """After a compensation that keeps failing those before it are done, and then the saga is FAILED."""

    async def record(self, state: SagaState, status: SagaStatus, current_step: int, *arguments: Any) -> SagaState:
        if status is SagaStatus.FAILED:
            self.failures.add(state.saga_id)
            return await super().record(state, SagaStatus.COMPENSATING, current_step - 1, *arguments)
        if status is SagaStatus.COMPENSATED and state.saga_id in self.failures:
            status = SagaStatus.FAILED
        return await super().record(state, status, current_step, *arguments)

    @property
    def failures(self) -> set[str]:
        """The sagas that have a compensation which failed."""
        failures: set[str] = self.__dict__.setdefault("_failures", set())
        return failures


@breaks("SAG-29")
class TimeoutIsFailure(MemorySagas):
    """A step that timed out is taken for one that was not done."""

    async def outcome(self, act: Callable[[SagaContext], Awaitable[object]], context: SagaContext) -> str:
        outcome = await super().outcome(act, context)
        return outcome if outcome == DONE else FAILED


@breaks("SAG-29", "SAG-62")
class CancelledIsFailed(MemorySagas):
    """A saga whose run is cancelled is marked as FAILED, and nobody undoes it."""

    async def go_forward(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        try:
            return await super().go_forward(state, steps)
        except anyio.get_cancelled_exc_class():
            stored = self.find(state.saga_id)
            if stored is not None and state.current_step:
                self.put(state.saga_id, replace(stored, status=SagaStatus.FAILED, version=stored.version + 1))
            raise


@breaks("SAG-30")
class UnclaimedRecovery(MemorySagas):
    """A recovery begins its step before it has stored that it does."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        state = await self.get_state(saga_id)
        if state is None or SagaStatus(state.status).terminal:
            return await super().recover(saga_id, steps)
        return await self.go_on(state, steps)


@breaks("SAG-30")
class UnclaimedCompensation(MemorySagas):
    """A recovery stores that it goes forward, and not that it goes back."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        state = await self.get_state(saga_id)
        if state is None or state.status != SagaStatus.COMPENSATING:
            return await super().recover(saga_id, steps)
        return await self.go_on(state, steps)


@breaks("SAG-30")
class LastWriterGoesOn(MemorySagas):
    """A conflict of progress is met by a read, and an update of that."""

    async def record(self, state: SagaState, status: SagaStatus, current_step: int, *arguments: Any) -> SagaState:
        try:
            return await super().record(state, status, current_step, *arguments)
        except SagaStateConflictError:
            stored = await self.get_state(state.saga_id)
            assert stored is not None
            return await super().record(replace(state, version=stored.version), status, current_step, *arguments)


@breaks("SAG-26", "SAG-27", "SAG-56", "SAG-58")
class FreshKeys(MemorySagas):
    """A key is made anew for each attempt."""

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        context = super().context(state, number, direction)
        return replace(context, idempotency_key=f"{context.idempotency_key}#{time.monotonic_ns()}")


@breaks("SAG-26", "SAG-27", "SAG-58")
class KeysOfTheProcess(MemorySagas):
    """A key names the process that does the step."""

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        context = super().context(state, number, direction)
        return replace(context, idempotency_key=f"{id(self)}{context.idempotency_key}")


@breaks("SAG-54")
class OneKeyForBoth(MemorySagas):
    """A step and its compensation have one key: the second is taken for a repetition."""

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        return super().context(state, number, "do")


@breaks("SAG-54")
class JoinedKey(MemorySagas):
    """A key is an id and a number, joined."""

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        return SagaContext(state.saga_id, copy.deepcopy(state.payload), f"{state.saga_id}{number}{direction}")


@breaks("SAG-54")
class SharedPayload(MemorySagas):
    """All steps are given one payload."""

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        return replace(super().context(state, number, direction), payload=state.payload)


@breaks("SAG-54")
class LastRunsPayload(MemorySagas):
    """The payload of a client's last run is what all its steps are told."""

    async def run(self, saga_id: str, steps: Sequence[SagaStep], payload: Mapping[str, Any]) -> SagaState:
        self.__dict__["last"] = payload
        return await super().run(saga_id, steps, payload)

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        context = super().context(state, number, direction)
        return replace(context, payload=copy.deepcopy(self.__dict__.get("last", context.payload)))


@breaks("SAG-55", "SAG-59")
class RunsAgain(MemorySagas):
    """A second run of an id begins the saga anew."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().create_state(state, tx=tx)
        except SagaAlreadyExistsError:
            stored = self.find(state.saga_id, tx)
            if stored is None or not state.history or state.history[0].status != STARTED:
                raise
            return await self.update_state(replace(state, version=stored.version), tx=tx)


@breaks("SAG-55")
class RecoversWhatHasEnded(MemorySagas):
    """A recovery of a saga that has failed tries to undo it again."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        state = await self.get_state(saga_id) if isinstance(saga_id, str) else None
        if state is not None and state.status == SagaStatus.FAILED:
            await self.update_state(replace(state, status=SagaStatus.COMPENSATING))
        return await super().recover(saga_id, steps)


@breaks("SAG-26", "SAG-27", "SAG-55", "SAG-COM-13")
class RecoversNothing(MemorySagas):
    """A recovery of an unknown id begins a saga."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        try:
            return await super().recover(saga_id, steps)
        except SagaNotFoundError:
            return await self.run(saga_id, steps, {})


@breaks("SAG-28", "SAG-56")
class OneAttempt(MemorySagas):
    """A compensation is tried once."""

    async def outcome(self, act: Callable[[SagaContext], Awaitable[object]], context: SagaContext) -> str:
        key = (context.saga_id, context.idempotency_key)
        failed: set[object] = self.__dict__.setdefault("_failed", set())
        if '"undo"' in context.idempotency_key and key in failed:
            return FAILED
        outcome = await super().outcome(act, context)
        if outcome != DONE:
            failed.add(key)
        return outcome


@breaks("SAG-56")
class CallsNone(MemorySagas):
    """A step without a compensation ends the undoing."""

    async def go_back(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        if state.current_step and steps[state.current_step - 1].compensation is None:
            return await self.record(state, SagaStatus.FAILED, state.current_step)
        return await super().go_back(state, steps)


@breaks("SAG-27", "SAG-30", "SAG-57", "SAG-58")
class StillRunning(MemorySagas):
    """The status says RUNNING until all is undone."""

    async def go_back(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        stored = self.find(state.saga_id)
        if stored is not None and stored.version == state.version:
            self.backend.sagas[self.cell(state.saga_id)] = replace(stored, status=SagaStatus.RUNNING)
        return await super().go_back(state, steps)


@breaks("SAG-26", "SAG-27", "SAG-58")
class ForgottenPayload(MemorySagas):
    """A recovery tells the steps nothing of the payload."""

    async def recover(self, saga_id: str, steps: Sequence[SagaStep]) -> SagaState:
        self.__dict__["recovers"] = True
        return await super().recover(saga_id, steps)

    def context(self, state: SagaState, number: int, direction: str) -> SagaContext:
        context = super().context(state, number, direction)
        return replace(context, payload={}) if self.__dict__.get("recovers") else context


@breaks("SAG-25")
class LostRace(MemorySagas):
    """A conflict that a step raises, of a store of its own, is taken for one of the saga's: somebody else goes on with it."""

    async def outcome(self, act: Callable[[SagaContext], Awaitable[object]], context: SagaContext) -> str:
        conflicts: list[SagaStateConflictError] = []

        async def watched(context: SagaContext) -> object:
            try:
                return await act(context)
            except SagaStateConflictError as error:
                conflicts.append(error)
                raise

        outcome = await super().outcome(watched, context)
        if conflicts:
            raise conflicts[0]
        return outcome


@breaks("SAG-29", "SAG-62")
class CancelledForward(MemorySagas):
    """A run that is cancelled stores its step as done, for whatever the step may have done."""

    async def go_forward(self, state: SagaState, steps: Sequence[SagaStep]) -> SagaState:
        try:
            return await super().go_forward(state, steps)
        except anyio.get_cancelled_exc_class():
            stored = self.find(state.saga_id)
            if stored is not None and stored.version == state.version:
                self.put(state.saga_id, replace(stored, current_step=state.current_step + 1, version=stored.version + 1))
            raise


# Pairs


@breaks("SAG-06", "SAG-08")
class TextVersions(MemorySagas):
    """Versions are compared as texts: 9 is above 10."""

    def current(self, saga_id: str, version: int, tx: SagaTransaction | None = None) -> StoredSaga:
        stored = self.find(saga_id, tx)
        is_above = stored is not None and 0 < version < stored.version and str(version) > str(stored.version)
        return super().current(saga_id, stored.version if stored and is_above else version, tx)


@breaks(*"SAG-23 SAG-33 SAG-44 SAG-47 SAG-48 SAG-49".split())
class LimitFirst(OtherClaims):
    """A claim looks at as many sagas as it may give, and then at who has them."""

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        self.check_count("limit", limit)
        self.__dict__["most"] = limit
        return await super().claim_stuck(worker_id, limit=limit, lease=lease, older_than=older_than)

    def free(self, older_than: float) -> list[StoredSaga]:
        most = self.__dict__["most"]
        return [each for each in self.page(0, older_than)[:most] if self.holder(each.saga_id) is None]


@breaks("SAG-44", "SAG-50", "SAG-65")
class WholeSeconds(OtherClaims):
    """A lease is a whole number of seconds, rounded down."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        return await super().claim(sagas, worker_id, max(int(lease), self.limits.min_ttl))


@breaks("SAG-36", "SAG-59")
class RefusedTakesCorrelation(MemorySagas):
    """The correlation of a saga is written to its index before its id is found taken."""

    async def create_state(self, state: SagaState, *, tx: SagaTransaction | None = None) -> SagaState:
        try:
            return await super().create_state(state, tx=tx)
        except SagaAlreadyExistsError:
            if self.find(state.saga_id, tx) is not None and state.correlation_id is not None and tx is None:
                stored = self.correlated(state.saga_type, state.correlation_id)
                if stored is None:
                    self.index.add((self.cell(""), state.saga_type, state.correlation_id, state.saga_id))
            raise

    @property
    def index(self) -> set[tuple[Cell, str, str, str]]:
        """What was written too early."""
        index: set[tuple[Cell, str, str, str]] = self.backend.__dict__.setdefault("early", set())
        return index

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        for cell, kind, correlation, saga_id in self.index:
            if (cell, kind, correlation) == (self.cell(""), new.saga_type, new.correlation_id) and saga_id != new.saga_id:
                raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: its correlation is taken")
        super().check_correlation(new, tx)


@breaks("SAG-18", "SAG-59")
class CopyInTheListing(MemorySagas):
    """A listing shows the payload that a saga had when it was created."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        if stored.version == 1:
            self.backend.__dict__.setdefault("first", {})[self.cell(key)] = (stored.version, stored.history)
        return super().put(key, stored, tx)

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        page = await super().list_incomplete(older_than=older_than, limit=limit, cursor=cursor, include_failed=include_failed)
        first = self.backend.__dict__.get("first", {})
        return SagaPage([replace(each, version=first[self.cell(each.saga_id)][0]) for each in page.sagas], page.cursor)


@breaks("SAG-43")
class TransactionLeavesTheTime(MemorySagas):
    """In a transaction an update leaves the place of its saga in the order of updates."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        before = self.find(key, tx)
        put = super().put(key, stored, tx)
        if tx is not None and before is not None:
            put = tx.after[self.cell(key)] = replace(put, place=before.place, updated=before.updated)
        return put


@breaks("SAG-43")
class TimesOfTheTransaction(MemorySagas):
    """`now()` of PostgreSQL: what a transaction updates was updated when it began."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        began = self.backend.clock.now()
        async with super().transacting() as tx:
            self.__dict__.setdefault("began", {})[tx] = began
            yield tx

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        put = super().put(key, stored, tx)
        if tx is not None:
            put = tx.after[self.cell(key)] = replace(put, updated=self.__dict__["began"][tx])
        return put


@breaks("SAG-51", "SAG-61")
class CommitInParts(MemorySagas):
    """A commit writes the rows of the application, and then the sagas."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        async with super().transacting() as tx:
            yield tx
            self.backend.rows.update(tx.rows)


@breaks("SAG-60")
class CommitsWhenItVanishes(MemorySagas):
    """What was sent when a connection breaks is committed by the server."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        async with super().transacting() as tx:
            self.__dict__["pending"] = tx
            yield tx

    def vanish(self) -> None:
        super().vanish()
        tx = self.__dict__.get("pending")
        if tx is not None and tx.open:
            self.commit(tx)


@breaks("SAG-44", "SAG-45")
class BeginsAgain(OtherClaims):
    """A lease begins again whenever somebody asks for what is held."""

    def free(self, older_than: float) -> list[StoredSaga]:
        now = self.backend.clock.now()
        for cell, lease in list(self.backend.leases.items()):
            if now < lease.deadline:
                length = self.__dict__.setdefault("lengths", {}).setdefault(cell, lease.deadline - now)
                self.backend.leases[cell] = Lease(lease.worker_id, max(lease.deadline, now + length))
        return super().free(older_than)


@breaks("SAG-44")
class ShorterThanItsShortest(OtherClaims):
    """A lease is as short as it is asked for, whatever the shortest is said to be."""

    async def claim_stuck(self, worker_id: str, *, limit: int, lease: float, older_than: float = 0.0) -> list[SagaState]:
        self.__dict__["asked"] = lease
        return await super().claim_stuck(worker_id, limit=limit, lease=lease, older_than=older_than)

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        return await super().claim(sagas, worker_id, self.__dict__["asked"])


@breaks("SAG-33", "SAG-59", "MT-23")
class LeaseOutlivesItsSaga(MemorySagas):
    """A lease is in a table of its own, which a deletion does not look at."""

    def remove(self, key: str, *arguments: Any, **keywords: Any) -> None:
        lease = self.backend.leases.get(self.cell(key))
        super().remove(key, *arguments, **keywords)
        if lease is not None:
            self.backend.leases[self.cell(key)] = lease


@breaks("SAG-19")
class AgeOfTheFirstPage(MemorySagas):
    """`older_than` holds on the first page."""

    async def list_incomplete(
        self, *, older_than: float | None = None, limit: int = 100, cursor: str | None = None, include_failed: bool = False
    ) -> SagaPage:
        age = older_than if cursor is None else None
        return await super().list_incomplete(older_than=age, limit=limit, cursor=cursor, include_failed=include_failed)


@breaks("SAG-22", "SAG-59")
class CompensatingFreesCorrelation(OtherCorrelation):
    """The correlation of a saga that is being undone is free."""

    def taken(self, each: StoredSaga, new: StoredSaga) -> bool:
        return super().taken(each, new) and each.status is SagaStatus.RUNNING


@breaks("SAG-36", "SAG-63")
class UniqueIfChanged(MemorySagas):
    """Whether a correlation is free is asked where it changes, and not where the type does."""

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        before = self.find(new.saga_id, tx)
        same = before is not None and before.correlation_id == new.correlation_id and not before.status.terminal
        if not same:
            super().check_correlation(new, tx)


@breaks("SAG-63")
class UniqueWhenItBegan(MemorySagas):
    """A transaction asks whether a correlation is free before it commits, and not as it does."""

    def commit(self, tx: SagaTransaction) -> None:
        everything = self.capabilities
        self.capabilities = everything - {"correlation"}
        try:
            super().commit(tx)
        finally:
            self.capabilities = everything


@breaks("SAG-63")
class UnseenByItself(MemorySagas):
    """A transaction asks those that are committed whether they have a correlation, and not its own sagas."""

    def correlated(self, saga_type: str, correlation_id: str | None, tx: SagaTransaction | None = None) -> StoredSaga | None:
        return super().correlated(saga_type, correlation_id)


@breaks("SAG-60", "SAG-61", "SAG-64")
class ReservedByTransactions(MemorySagas):
    """A correlation is reserved beside the transaction; an exception gives it back, a cancellation and a crash do not."""

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[SagaTransaction]:
        tx = None
        try:
            async with super().transacting() as tx:
                yield tx
        except Exception:
            self.give_back(tx)
            raise
        else:
            self.give_back(tx)

    @property
    def reserved(self) -> dict[tuple[Cell, str, str | None], SagaTransaction]:
        """What transactions have taken."""
        reserved: dict[tuple[Cell, str, str | None], SagaTransaction] = self.backend.__dict__.setdefault("reserved", {})
        return reserved

    def give_back(self, tx: SagaTransaction | None) -> None:
        """End the reservations of *tx*."""
        for key in [key for key, holder in self.reserved.items() if holder is tx]:
            del self.reserved[key]

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        super().check_correlation(new, tx)
        if new.correlation_id is None or new.status.terminal:
            return
        key = (self.cell(""), new.saga_type, new.correlation_id)
        if self.reserved.get(key, tx) is not tx:
            raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: its correlation is reserved")
        if tx is not None:
            self.reserved[key] = tx


@breaks("SAG-65")
class OneDeadlineOfAWorker(OtherClaims):
    """A claim gives all that its worker has the deadline of what it is given now."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        own = [self.cell(each.saga_id) for each in self.page(0, 0.0) if self.holder(each.saga_id) == worker_id]
        for cell in own:
            self.backend.leases[cell] = Lease(worker_id, self.backend.clock.now() + lease)
        return await super().claim(sagas, worker_id, lease)


@breaks("SAG-66")
class GivesBackWhenClosed(OtherClaims):
    """A client that is closed gives back what its workers have."""

    async def claim(self, sagas: Sequence[StoredSaga], worker_id: str, lease: float) -> list[SagaState]:
        states = await super().claim(sagas, worker_id, lease)
        given = self.__dict__.setdefault("given", {})
        given |= {cell: self.backend.leases[cell] for cell in (self.cell(each.saga_id) for each in sagas)}
        return states

    async def close(self) -> None:
        for cell, lease in self.__dict__.get("given", {}).items():
            if self.backend.leases.get(cell) is lease:
                del self.backend.leases[cell]
        await super().close()


# Tenants


@breaks(*"MT-05 MT-06 MT-07 MT-08 MT-13".split())
class UnscopedListing(MemorySagas):
    """A listing, and so a claim, has no tenant in its condition."""

    def stuck(self, *, include_failed: bool = False) -> list[StoredSaga]:
        found = [each for cell, each in self.backend.sagas.items() if cell.space == self.namespace]
        return [each for each in found if not each.status.terminal or (include_failed and each.status is SagaStatus.FAILED)]


@breaks("SAG-34", "MT-03", "MT-05")
class UnscopedCorrelation(MemorySagas):
    """A correlation is looked for without the tenant."""

    async def find_by_correlation(self, saga_type: str, correlation_id: str) -> SagaState | None:
        found = await super().find_by_correlation(saga_type, correlation_id)
        if found is not None:
            return found
        others = (each for cell, each in self.backend.sagas.items() if cell.space == self.namespace and not each.status.terminal)
        return next(
            (self.shown(each) for each in others if (each.saga_type, each.correlation_id) == (saga_type, correlation_id)), None
        )


@breaks(*"MT-01 MT-02 MT-05 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-18 MT-23".split())
class UniqueForAllTenants(MemorySagas):
    """The unique index of correlations lacks the tenant."""

    def check_correlation(self, new: StoredSaga, tx: SagaTransaction | None) -> None:
        super().check_correlation(new, tx)
        for cell, each in self.backend.sagas.items():
            alike = (each.saga_type, each.correlation_id) == (new.saga_type, new.correlation_id) and not each.status.terminal
            if new.correlation_id and alike and cell.space == self.namespace and cell.tenant != self.tenant_id:
                raise SagaAlreadyExistsError(f"saga {new.saga_id!r}: its correlation is taken")


@breaks("MT-23")
class LeaseWithoutTenant(MemorySagas):
    """A lease is stored under the id alone."""

    def holder(self, saga_id: str) -> str | None:
        now = self.backend.clock.now()
        leases = [lease for cell, lease in self.backend.leases.items() if (cell.name, cell.space) == (saga_id, self.namespace)]
        return next((each.worker_id for each in leases if now < each.deadline), None)


@breaks("MT-04")
class UnscopedUpdate(MemorySagas):
    """An update changes the row of whoever has that id."""

    def put(self, key: str, stored: StoredSaga, tx: SagaTransaction | None = None) -> StoredSaga:
        put = super().put(key, stored, tx)
        for cell in [*self.backend.sagas] if tx is None and put.version > 1 else []:
            if cell.name == key and cell != self.cell(key) and cell.space == self.namespace:
                self.backend.sagas[cell] = put
        return put
