"""LISTEN for all of a client's subscriptions, on one connection that is made again when it is lost.

The connection bears the name of its client, by which others see whether that is still there.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

from psycopg import sql

from examples.common.client import PATIENCE
from examples.postgresql.connections import Connection, Connections, told

__all__ = ["Notices"]

PAUSE = 0.2
"""Seconds until a lost connection is made again. Who waits for a notice looks by itself meanwhile."""


@dataclass(eq=False, slots=True)
class _Channel:
    users: int = 0
    heard: bool = False
    waiting: set[asyncio.Future[None]] = field(default_factory=set)
    """Who must know that the channel is heard."""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Notices:
    """What the server notifies of; `run` hears it for as long as it runs."""

    def __init__(self, connections: Connections, client: str, failures: tuple[type[Exception], ...]) -> None:
        self._connections = connections
        self._client = client
        self._failures = failures
        self._channels: dict[str, _Channel] = {}
        self._changed = asyncio.Event()

    async def join(self, name: str) -> None:
        """Return when the channel *name* is heard; if it cannot be, raise what the driver says."""
        channel = self._channels.setdefault(name, _Channel())
        channel.users += 1
        try:
            if not channel.heard:
                heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                channel.waiting.add(heard)
                self._changed.set()
                try:
                    await heard
                finally:
                    channel.waiting.discard(heard)
        except BaseException:
            self.leave(name)
            raise

    def leave(self, name: str) -> None:
        """Hear the channel no longer than others want it."""
        channel = self._channels[name]
        channel.users -= 1
        if not channel.users:
            del self._channels[name]
            self._changed.set()

    def news(self, name: str) -> asyncio.Event:
        """What is set by the next notice of the channel; ask for it before you look for what it may tell of."""
        return self._channels[name].news

    def wake(self, name: str) -> None:
        """Let everybody look who waits for a notice of the channel."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.news.set()
            channel.news = asyncio.Event()

    async def run(self) -> None:
        """Hear, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    connection = await self._connections.open()
                try:
                    await self._hear(connection)
                finally:
                    connection.pgconn.finish()
            except self._failures as error:
                self._lost(error)
            await asyncio.sleep(PAUSE)
            while not self._channels:
                self._changed.clear()
                await self._changed.wait()

    async def _hear(self, connection: Connection) -> None:
        heard: set[str] = set()
        await told(connection, sql.SQL("SET application_name TO {}").format(self._client), PATIENCE)
        while True:
            self._changed.clear()
            wanted = set(self._channels)
            verbs = [("LISTEN {}", wanted - heard), ("UNLISTEN {}", heard - wanted)]
            commands = [sql.SQL(verb).format(sql.Identifier(name)) for verb, names in verbs for name in sorted(names)]
            if commands:
                await told(connection, sql.SQL("; ").join(commands), PATIENCE)
            for name in wanted:  # one that was left and joined again meanwhile is heard all the same
                self._is_heard(name)
            heard = wanted
            await self._pass_on(connection)

    async def _pass_on(self, connection: Connection) -> None:
        """Wake whom the notices are for, until other channels are wanted."""
        tasks = [asyncio.create_task(self._read(connection)), asyncio.create_task(self._changed.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            reading, _ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(reading, Exception):
            raise reading

    async def _read(self, connection: Connection) -> None:
        async with contextlib.aclosing(connection.notifies()) as notices:
            async for notice in notices:
                self.wake(notice.channel)

    def _is_heard(self, name: str) -> None:
        channel = self._channels.get(name)
        if channel is not None and not channel.heard:
            channel.heard = True
            self.wake(name)  # there may have been notices while nobody heard
            for each in channel.waiting:
                if not each.done():
                    each.set_result(None)

    def _lost(self, error: Exception) -> None:
        for channel in self._channels.values():
            channel.heard = False
            for each in channel.waiting:
                if not each.done():
                    each.set_exception(error)
