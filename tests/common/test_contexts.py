"""What `make_provider` returns is entered once, and its context leaves exceptions alone."""

import unittest
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

from omnitck.kit.outcomes import Status
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.shared.exceptions import ClosedError
from tests.helpers import outcome_of, suite_of

RULE = "test_com_09_leaving_the_context_closes"


class Store:
    """A store whose tasks live in its context."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.closed = False

    async def __aenter__(self) -> Self:
        self.tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self.close()
        await self.tasks.__aexit__(None, None, None)
        return None

    async def close(self) -> None:
        self.closed = True

    async def get(self, key: str) -> str | None:
        if self.closed:
            raise ClosedError("closed")
        return self.values.get(key)

    async def set(self, key: str, value: str) -> None:
        if self.closed:
            raise ClosedError("closed")
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Swallowing(Store):
    async def __aexit__(self, *exc_info: Any) -> bool:
        await super().__aexit__(*exc_info)
        return True


@asynccontextmanager
async def context(kind: type[Store] = Store) -> AsyncIterator[Store]:
    """A factory that enters the client itself."""
    async with kind() as store:
        yield store


@asynccontextmanager
async def group() -> AsyncIterator[Store]:
    """One whose client lives in a task group, which raises a group."""
    async with anyio.create_task_group(), Store() as store:
        yield store


class TestContexts(unittest.TestCase):
    def judged(self, make: Any) -> tuple[Status, str]:
        async def make_provider(self: Any) -> Store | AbstractAsyncContextManager[Store]:
            made: Store | AbstractAsyncContextManager[Store] = make()
            return made

        suite = suite_of(KVStoreContract, make_provider=make_provider, capabilities={"lifecycle"})
        outcome, _ = outcome_of(suite, RULE)
        return outcome.outcome, outcome.message

    def test_a_client_that_cannot_be_entered_twice_is_entered_once(self) -> None:
        self.assertEqual(self.judged(Store), (Status.PASSED, ""))

    def test_so_is_a_context_manager_that_yields_one(self) -> None:
        self.assertEqual(self.judged(context), (Status.PASSED, ""))
        self.assertEqual(self.judged(group), (Status.PASSED, ""))

    def test_a_client_may_not_swallow_what_its_body_raises(self) -> None:
        for make, given in ((Swallowing, "provider"), (lambda: context(Swallowing), "make_provider()")):
            status, message = self.judged(make)
            self.assertIs(status, Status.FAILED)
            self.assertIn(f"given     an exception raised in the body of `async with {given}`", message)
            self.assertIn("observed  no exception", message)

    def test_its_client_is_closed_at_the_end_all_the_same(self) -> None:
        @asynccontextmanager
        async def open_on() -> AsyncIterator[Store]:
            yield Store()

        status, message = self.judged(open_on)
        self.assertIs(status, Status.FAILED)
        self.assertIn("given     a read after the end of `async with`", message)

    def test_a_factory_that_raises_the_second_time_is_not_the_providers_failure(self) -> None:
        made: list[Store] = []

        def make() -> Store:
            if made:
                raise OSError("no connection left")
            made.append(Store())
            return made[0]

        status, message = self.judged(make)
        self.assertIs(status, Status.ERROR)
        self.assertIn("make_provider raised OSError: no connection left", message)
