"""What the adapters of PostgreSQL say when there is no connection to be had, and what they keep to themselves."""

import unittest
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import quote

from examples import servers
from omnitck.shared.exceptions import PermissionDeniedError, TCKError, UnavailableError

with servers.installed():
    from examples.postgresql import document_database, kv_store, transactional_outbox
    from examples.postgresql.document_database import PostgreSQLDocumentDatabase
    from examples.postgresql.kv_store import PostgreSQLKVStore
    from examples.postgresql.transactional_outbox import PostgreSQLOutbox

PASSWORD = "authentication failed for user 7"
"""A wrong one."""


async def in_a_transaction(url: str) -> None:
    async with await PostgreSQLDocumentDatabase.connect(url) as database, database.transaction():
        pass


async def read_a_document(url: str) -> None:
    async with await PostgreSQLDocumentDatabase.connect(url) as database:
        await database.find_one("things", {})


async def read_a_value(url: str) -> None:
    async with await PostgreSQLKVStore.connect(url) as store:
        await store.get("key")


async def watch(url: str) -> None:
    async with await PostgreSQLKVStore.connect(url) as store, store.watch("key"):
        pass


async def order(url: str) -> None:
    async with await PostgreSQLOutbox.connect(url) as outbox, outbox.transaction():
        pass


async def relay(url: str) -> None:
    async with await PostgreSQLOutbox.connect(url) as outbox:
        await outbox.claim("relay", limit=1, lease=1.0)


USES: tuple[Callable[[str], Awaitable[None]], ...] = (in_a_transaction, read_a_document, read_a_value, watch, order, relay)


class TestConnecting(unittest.IsolatedAsyncioTestCase):
    server: ClassVar[servers.Server]

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = servers.require(servers.postgresql)

    def url(self, *, user: str = "postgres", database: str = "postgres") -> str:
        host, port = self.server.address
        return f"postgresql://{user}:{quote(PASSWORD)}@{host}:{port}/{database}?sslmode=disable&gssencmode=disable"

    async def refused(self, kind: type[TCKError], url: str, *secrets: str) -> None:
        for use in USES:
            with self.assertRaises(kind, msg=use.__name__) as caught:
                await use(url)
            for error in chain(caught.exception):
                for text in texts(error):
                    self.assertFalse([each for each in secrets if each in text], f"{use.__name__}: {type(error).__name__}")

    async def test_a_wrong_password_is_denied_and_stays_unseen(self) -> None:
        await self.refused(PermissionDeniedError, self.url(), PASSWORD, quote(PASSWORD))

    async def test_an_unknown_user_is_denied(self) -> None:
        await self.refused(PermissionDeniedError, self.url(user="nobody-of-this-name"), PASSWORD, quote(PASSWORD))

    async def test_no_password_at_all_is_denied(self) -> None:
        await self.refused(PermissionDeniedError, self.url().replace(f":{quote(PASSWORD)}@", "@"))

    async def test_a_server_that_is_not_there_is_unavailable_and_the_password_stays_unseen(self) -> None:
        await self.refused(UnavailableError, self.server.at(("127.0.0.1", 1)), *self.server.credentials)

    async def test_a_database_that_is_not_there_is_unavailable_whatever_its_name_says(self) -> None:
        url = self.server.url.replace("/postgres?", f"/{quote(PASSWORD)}?")
        await self.refused(UnavailableError, url, *self.server.credentials)

    def test_the_schema_is_not_made_without_a_connection_and_the_password_stays_unseen(self) -> None:
        for module in (document_database, kv_store, transactional_outbox):
            for url, kind in ((self.url(), PermissionError), (self.server.at(("127.0.0.1", 1)), ConnectionError)):
                with self.assertRaises(kind) as caught:
                    module.create_schema(url)
                for error in chain(caught.exception):
                    for text in texts(error):
                        self.assertFalse([each for each in (PASSWORD, *self.server.credentials) if each in text], module.__name__)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error* and all those behind it."""
    if error is not None:
        yield error
        for other in {error.__cause__, error.__context__} - {None}:
            yield from chain(other)


def texts(error: BaseException) -> list[str]:
    """What *error* says in its text, its arguments and its attributes, those of its class included."""
    return [str(error), repr(error), *map(repr, error.args), *(repr(_value(error, name)) for name in dir(error))]


def _value(error: BaseException, name: str) -> Any:
    return None if name.startswith("__") else getattr(error, name, None)


if __name__ == "__main__":
    unittest.main()
