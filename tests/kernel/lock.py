"""A contract whose provider hands out objects: locks, and transactions in which an application writes to the same database."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Protocol

from omnitck import Definition, Operation, Trial, rule
from omnitck.common.clients import ClientRules, ClientTrial


class Lock(Protocol):
    """A lock that was got by name."""

    async def acquire(self) -> bool:
        """Whether it is held now."""
        ...

    async def release(self) -> None:
        """Give it back."""
        ...


class LocksProtocol(Protocol):
    """Locks, and a box of events."""

    async def get_lock(self, lock_name: str) -> Lock:
        """The lock of that name, not yet acquired."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A block, whose `save(event)` stores with everything else that is written in it, or not at all."""
        ...

    async def pending(self) -> list[str]:
        """The events that are stored."""
        ...


async def _look(locks: LocksProtocol) -> None:
    async with locks.transaction():
        pass


class LockTrial(ClientTrial[LocksProtocol]):
    """The words of its rules."""

    async def held(self, locks: LocksProtocol, name: str) -> Lock:
        """A lock that is held."""
        lock = await locks.get_lock(name)
        self.same(await lock.acquire(), True, given="acquire of a free lock")
        return lock


class LockContract(ClientRules):
    """Certifies locks with a box of events."""

    definition = Definition(
        name="toy_lock",
        prefix="TL",
        protocols={"": LocksProtocol},
        operations=(
            Operation("get_lock", lambda p, n, t: p.get_lock(n), "get_lock"),
            Operation("transaction", lambda p, n, t: _look(p), "transaction"),
            Operation("pending", lambda p, n, t: p.pending(), "pending"),
        ),
        hooks=("business_write", "business_read"),
        follows={"get_lock": "lock", "transaction": "transaction"},
    )
    trial: ClassVar[type[Trial[Any]]] = LockTrial

    async def business_write(self, tx: Any, key: str, value: str) -> None:
        """Write a row of the application in the transaction *tx*. Optional: without it atomicity is not provoked."""
        raise NotImplementedError

    async def business_read(self, key: str) -> str | None:
        """The row that is committed under *key*."""
        raise NotImplementedError

    @rule("TL-01")
    async def test_tl_01_a_lock_has_one_holder(self, t: LockTrial) -> None:
        """While one client holds a lock, no other acquires it."""
        one, other = await t.clients(2)
        name = t.key()
        lock = await t.held(one, name)
        rival = await other.get_lock(name)
        t.same(await rival.acquire(), False, given="acquire while another client holds the lock")
        await lock.release()
        t.same(await rival.acquire(), True, given="acquire after the holder's release")

    @rule("TL-02", hook="business_write")
    async def test_tl_02_an_event_is_stored_with_its_business(self, t: LockTrial) -> None:
        """An event is stored if, and only if, the application's own write in the same transaction is."""
        locks = await t.connect()
        for event, fails in ((t.token(), True), (t.token(), False)):
            with t.case("rolled back" if fails else "committed"):
                try:
                    async with locks.transaction() as tx:
                        await tx.save(event)
                        await t.ask("business_write", tx, event, "written")
                        if fails:
                            raise LookupError("raised in the block")
                except LookupError:
                    pass
                row = await t.ask("business_read", event)
                t.same(event in await locks.pending(), row == "written", given="the event, as against the application's row")
                t.same(row, None if fails else "written", given="the application's row")


class Database:
    """What the clients share."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.events: list[str] = []
        self.rows: dict[str, str] = {}


class MemoryLock:
    """A correct lock."""

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.name = name

    async def acquire(self) -> bool:
        if self.name in self.database.held:
            return False
        self.database.held.add(self.name)
        return True

    async def release(self) -> None:
        self.database.held.discard(self.name)


class Transaction:
    """An open block."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.rows: dict[str, str] = {}

    async def save(self, event: str) -> None:
        self.events.append(event)


class MemoryLocks:
    """A correct provider."""

    lock: type[MemoryLock] = MemoryLock

    def __init__(self, database: Database) -> None:
        self.database = database

    async def get_lock(self, lock_name: str) -> MemoryLock:
        return self.lock(self.database, lock_name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        tx = Transaction()
        yield tx
        self.database.events += tx.events
        self.database.rows |= tx.rows

    async def pending(self) -> list[str]:
        return list(self.database.events)


class LockSuite(LockContract):
    """The suite of a provider, without a TestCase."""

    capabilities = frozenset({"shared"})
    provider: type[MemoryLocks] = MemoryLocks

    def setUp(self) -> None:
        self.database = Database()

    async def make_provider(self, **config: Any) -> MemoryLocks:
        return self.provider(self.database)


class BusinessHooks:
    """The hooks of an application on the same database; before the contract, whose own they take the place of."""

    database: Database

    async def business_write(self, tx: Transaction, key: str, value: str) -> None:
        tx.rows[key] = value

    async def business_read(self, key: str) -> str | None:
        return self.database.rows.get(key)
