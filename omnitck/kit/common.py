"""The rules that every data-holding provider owes, whatever it holds: `COM-01` to `COM-24`.

Under a contract they carry its prefix: `KV-COM-14`. They are written against `Cells` alone.
"""

import asyncio
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, Self

import anyio

from omnitck.kit.canary import error_text, reveals
from omnitck.kit.cancellation import sweep
from omnitck.kit.cells import Operation
from omnitck.kit.concurrency import Attempt, Call, attempt, gather, together
from omnitck.kit.contract import Contract, Plain, has_hook, known_capabilities, rule
from omnitck.kit.corpus import ILLEGAL_NAMES, NAMES, NAMES_AT_THE_START
from omnitck.kit.faults import FaultProxy
from omnitck.kit.session import raw
from omnitck.kit.text import describe, describe_error
from omnitck.shared.exceptions import (
    ClosedError,
    InvalidArgumentError,
    TCKError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["ANSWER_SECONDS", "CommonRules", "Lifecycle"]

ANSWER_SECONDS = 5.0
"""Within this, times the suite's patience, an operation ends that cannot succeed."""
LARGEST_TRIED = 16 * 1024 * 1024
"""Bytes of a value beyond which no limit is looked for."""
BLOCKED_SECONDS = 0.1
"""A pause of the event loop that is no longer scheduling."""


class Lifecycle(Protocol):
    """Capability `lifecycle`: a client that ends."""

    async def close(self) -> None:
        """Release everything. Idempotent; afterwards every operation raises `ClosedError`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


class CommonRules(Contract):
    """The common family."""

    @rule("COM-01")
    async def test_com_01_operations_have_the_contracts_signatures(self) -> None:
        """Every mandatory method exists, is a coroutine function, and takes the contract's parameter names as keywords.

        Catches a synchronous SDK call exposed as a method, and a renamed keyword argument.
        """
        provider = raw(await self.connect())
        for name, promised in _methods(self.protocols[""]):
            with self.case(name):
                self._check_method(provider, name, promised)

    @rule("COM-02")
    async def test_com_02_declarations_are_known_and_meet_the_floors(self) -> None:
        """A provider's `capabilities` holds only names that the standard knows, and its `limits` meets every floor.

        Both attributes are what the application reads; a core provider need not have them. Where it obeys several contracts, it
        has the capabilities of all. Catches a typing error that silently takes a whole family of rules away.
        """
        provider = raw(await self.connect())
        names: Iterable[object] = getattr(provider, "capabilities", ())
        known = known_capabilities(type(self).contract)
        if not known.issuperset(names):
            from omnitck.loader import registered  # here, because it imports every contract, and they import this

            known = known.union(*(known_capabilities(each.contract) for each in registered() if each.contract))
        unknown = sorted(str(each) for each in names if each not in known)
        self.check(not unknown, given="capabilities", expected="only known names", observed=unknown)
        broken = self.numbers().broken_floors()
        self.check(not broken, given="limits", expected="every floor met", observed=Plain("; ".join(broken)))

    @rule("COM-03")
    async def test_com_03_undeclared_operations_are_refused(self) -> None:
        """An operation or argument that is not declared is missing, or raises `UnsupportedError` without effect.

        It is never ignored: an application that passes `ttl=60` to a store that drops it stores for ever.
        """
        client = await self.connect()
        for operation in self.operations(undeclared=True):
            with self.case(operation.name):
                if not _offers(raw(client), operation):
                    continue

                name, token = self.key(), self.token()
                await self.cells.write(client, name, token)
                tried = await attempt(self.bound(operation, client, name))
                self.check(
                    isinstance(tried.error, UnsupportedError),
                    given=f"{operation.name}, which is not declared",
                    expected="no such method or argument, or UnsupportedError",
                    observed=Plain(describe_error(tried.error) if tried.error else f"returned {describe(tried.value)}"),
                )
                self.same(await self.cells.read(client, name), token, given=f"the cell after the refused {operation.name}")

    @rule("COM-04")
    async def test_com_04_declared_operations_are_present(self) -> None:
        """Every declared capability's operations are there, and the provider's own `capabilities` says what the suite declares.

        Catches a list of features that drifts away from the code.
        """
        provider = raw(await self.connect())
        for capability in sorted(self.declared):
            for name, promised in _methods(self.protocols.get(capability)):
                with self.case(f"{capability}: {name}"):
                    self._check_method(provider, name, promised)
        advertised = getattr(provider, "capabilities", None)
        if advertised is not None:
            known = known_capabilities(type(self).contract)
            self.check(
                {each for each in advertised if each in known} == self.declared,
                given="the provider's attribute `capabilities`",
                expected=f"what the suite declares: {', '.join(sorted(self.declared)) or 'nothing'}",
                observed=Plain(", ".join(sorted(map(str, advertised))) or "nothing"),
                hint="declare in the suite's `capabilities` (on the command line: --capability) what the provider has",
            )

    def _check_method(self, provider: object, name: str, promised: Any) -> None:
        method = getattr(provider, name, None)
        given = f"{type(provider).__name__}.{name}"
        self.check(
            callable(method), given=given, expected="a method", observed=Plain("none" if method is None else describe(method))
        )
        if inspect.iscoroutinefunction(promised):
            is_coroutine = inspect.iscoroutinefunction(method)
            self.check(
                is_coroutine,
                given=given,
                expected="a coroutine function (`async def`)",
                observed=Plain("a plain function"),
                hint="a synchronous call would block the event loop",
            )
        wanted = [each for each in inspect.signature(promised).parameters if each != "self"]
        if name.startswith("__"):
            return

        parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
        by_name = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        missing = [each for each in wanted if each not in by_name]
        if missing and not any(each.kind is each.VAR_KEYWORD for each in parameters):
            self.fail_rule(
                given=given,
                expected=f"parameters named {', '.join(wanted)}",
                observed=f"no parameter {', '.join(missing)} that can be given by name",
            )

    @rule("COM-05", "shared")
    async def test_com_05_a_write_is_read_by_other_clients(self) -> None:
        """A write acknowledged to one client is read by another that is already open and by a new one, within `staleness`.

        Catches a dictionary per instance, a buffer that is not flushed, a read from a lagging replica.
        """
        writer, reader = await self.clients(2)
        name, token = self.key(), self.token()
        self.same(await self.cells.read(reader, name), None, given="a cell that nobody wrote")
        await self.cells.write(writer, name, token)
        await self.settle()
        self.same(await self.cells.read(reader, name), token, given="a cell written by another client, which is open")
        newcomer = await self.connect()
        self.same(await self.cells.read(newcomer, name), token, given="a cell written before this client connected")

    @rule("COM-06", "shared", "lifecycle")
    async def test_com_06_data_outlives_its_writer(self) -> None:
        """Data outlives the `close()` of the client that wrote it.

        Catches state that lives in a client's memory, and a write that only `close` would have flushed and did not.
        """
        writer = await self.connect()
        name, token = self.key(), self.token()
        await self.cells.write(writer, name, token)
        await writer.close()
        reader = await self.connect()
        self.same(await self.cells.read(reader, name), token, given="a cell whose writer has closed")

    @rule("COM-07", "lifecycle")
    async def test_com_07_closing_twice_is_fine(self) -> None:
        """`close()` may be called again, also concurrently, and raises nothing.

        Catches a pool that is released twice.
        """
        client = await self.connect()
        await self.cells.use(client, self.key(), self.token())
        for tried in [*await together([client.close, client.close]), await attempt(client.close)]:
            if tried.error is not None:
                self.fail_rule(
                    given="close(), twice at once and once more", expected="no exception", observed=describe_error(tried.error)
                )

    @rule("COM-08", "lifecycle")
    async def test_com_08_a_closed_client_refuses_everything(self) -> None:
        """After `close()` every operation raises `ClosedError` at once.

        Catches the operation that hangs, raises `AttributeError`, or silently connects again.
        """
        client = await self.connect()
        name = self.key()
        await self.cells.use(client, name, self.token())
        await client.close()
        for operation in self.operations():
            with self.case(operation.name):
                await self.refused(
                    self.bound(operation, client, name),
                    ClosedError,
                    given=f"{operation.name} after close()",
                )

    @rule("COM-09", "lifecycle")
    async def test_com_09_leaving_the_context_closes(self) -> None:
        """`async with` closes on the way out, and neither swallows nor replaces the exception of its body.

        Catches an `__aexit__` that returns something true.
        """
        client = await self.connect()
        provider = raw(client)
        self.session.closes(client)
        error = LookupError("raised in the body")
        given = "an exception raised in the body of `async with provider`"
        try:
            async with provider:
                raise error
        except BaseException as raised:
            self.check(raised is error, given=given, expected="the same exception", observed=Plain(describe_error(raised)))
        else:
            self.fail_rule(given=given, expected="the same exception outside", observed="no exception")
        await self.refused(
            lambda: self.cells.read(provider, self.key()), ClosedError, given="a read after the end of `async with`"
        )

    @rule("COM-10", "lifecycle", "shared")
    async def test_com_10_closing_one_client_leaves_the_others(self) -> None:
        """Closing one client leaves every other client working.

        Catches a connection pool that all clients share and the first one closes.
        """
        leaving, staying = await self.clients(2)
        name, token = self.key(), self.token()
        await self.cells.write(staying, name, token)
        await self.cells.use(leaving, self.key(), self.token())
        await leaving.close()
        self.same(await self.cells.read(staying, name), token, given="a read after another client has closed")

    @rule("COM-11", "lifecycle", exclusive=True)
    async def test_com_11_closing_ends_operations_in_flight(self) -> None:
        """`close()` ends every operation in flight, with its result or `ClosedError`, and leaves no task and no open resource.

        Catches a reader task that is orphaned, a socket that is left to the garbage collector.
        """
        # What others left behind is not this rule's, and must not be found at its end.
        gc.collect()
        before = _tasks()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            async with self._client_of_its_own() as client:
                names = [self.key() for _ in range(20)]
                calls: list[Call[object]] = [partial(self.cells.use, client, name, self.token()) for name in names]
                with anyio.move_on_after(ANSWER_SECONDS * self.patience) as scope:
                    *tried, _ = await together([*calls, client.close])
                self.check(
                    not scope.cancelled_caught,
                    given="20 operations and close() at once",
                    expected=f"all have ended within {ANSWER_SECONDS * self.patience:g} s",
                    observed=Plain("some have not"),
                )
                for each in tried:
                    if each.error is not None and not isinstance(each.error, ClosedError):
                        self.fail_rule(
                            given="an operation while close() is called",
                            expected="its result or ClosedError",
                            observed=describe_error(each.error),
                        )
            del client, calls, tried, each
            # A task that was told to end needs a few turns to do so.
            for _ in range(50):
                leaked = _tasks() - before
                if not leaked:
                    break
                await anyio.sleep(0.002)
            gc.collect()
        self.check(
            not leaked,
            given="the tasks after close()",
            expected="no more than before the client was made",
            observed=Plain(", ".join(sorted(_task_name(each) for each in leaked))),
        )
        warned = [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
        self.check(not warned, given="garbage collection after close()", expected="no ResourceWarning", observed=warned)

    async def check_watch_ends(self, client: Any, watcher: AbstractAsyncContextManager[AsyncIterator[object]]) -> None:
        """Fail the rule unless `close()` ends the iteration of *watcher*, which nothing feeds: quietly or with `ClosedError`."""
        ended: Attempt[object] = Attempt()
        with anyio.move_on_after(ANSWER_SECONDS * self.patience) as scope:
            async with watcher as values:
                ended, _ = await together([lambda: anext(values, None), client.close])
        if scope.cancelled_caught:
            observed = "it waits on"
        elif ended.error is None:
            observed = "" if ended.value is None else f"it yields {describe(ended.value)}"
        else:
            observed = "" if isinstance(ended.error, ClosedError) else describe_error(ended.error)
        self.check(
            not observed,
            given="close() of the client while it watches",
            expected="the iteration ends, or raises ClosedError",
            observed=Plain(observed),
        )

    @asynccontextmanager
    async def _client_of_its_own(self) -> AsyncIterator[Any]:
        """A client that is gone at the end of the context, its host task too."""
        client = await self.connect()
        yield client
        await self.session.release(client)

    @rule("COM-12", "availability", deadline=30)
    async def test_com_12_an_unreachable_backend_is_said(self) -> None:
        """With the backend unreachable every operation raises `UnavailableError` with a cause, in time.

        Catches a vendor's exception that leaks, and a wait or retries without an end. A client that had been connected says
        the same when its connection is cut and when the backend falls silent, and works again when the network does. nats-py
        leaves a request without an answer when its connection is reset; redis-py retries by default, which counts an
        increment twice.
        """
        name = self.key()
        if has_hook(type(self), "unreachable_provider"):
            client = await self.session.connect({}, "unreachable_provider")
            await self._expect_unavailable(client, name, "with an unreachable backend")
        if has_hook(type(self), "backend_address"):
            async with self._proxy() as proxy:
                client = await self.connect(address=proxy.address)
                token = self.token()
                await self.cells.write(client, name, token)
                await self.cells.read(client, name)  # a message that is on its way at the cut may come after those that follow it
                for when, fault in (
                    ("after the connection was cut", proxy.cut),
                    ("while the backend is silent", proxy.black_hole),
                ):
                    fault()
                    await self._expect_unavailable(client, name, when)
                    proxy.heal()
                    read = await self._eventually(partial(self.cells.read, client, name))
                    self.same(read is not None, True, given="a read with the same client once the network is back")

    async def _expect_unavailable(self, client: Any, name: str, when: str) -> None:
        within = ANSWER_SECONDS * self.patience
        operations = self.operations()

        async def one(operation: Operation) -> BaseException:
            with anyio.move_on_after(within):
                tried = await attempt(lambda: operation.call(client, name, self.token()))
                return tried.error or LookupError(f"returned {describe(tried.value)}")
            return TimeoutError(f"nothing within {within:g} s")

        errors = await gather(partial(one, each) for each in operations)
        for operation, error in zip(operations, errors, strict=True):
            with self.case(operation.name):
                said = isinstance(error, UnavailableError)
                self.check(
                    said and error.__cause__ is not None,
                    given=f"{operation.name} {when}",
                    expected="UnavailableError with a __cause__",
                    observed=Plain(describe_error(error) + (" without a __cause__" if said else "")),
                )

    async def _eventually(self, call: Call[object]) -> object:
        """The result of *call* once it no longer raises `UnavailableError`; None after the time for an answer."""
        with anyio.move_on_after(ANSWER_SECONDS * self.patience):
            while True:
                tried = await attempt(call)
                if not isinstance(tried.error, UnavailableError):
                    return tried.result()
                await anyio.sleep(0.02)
        return None

    @asynccontextmanager
    async def _proxy(self) -> AsyncIterator[FaultProxy]:
        """A proxy in front of the suite's backend."""
        host, port = await self.session.hook("backend_address", self.backend_address())
        async with FaultProxy(host, port) as proxy:
            yield proxy

    @rule("COM-13", "validation")
    async def test_com_13_errors_name_the_key_and_not_the_value(self) -> None:
        """Every exception of the provider's own making is a `TCKError` that names the key, and never the value.

        Catches "object does not exist" without saying which, and a secret that reaches a log through an error text.
        """
        client = await self.connect()
        for operation in self.refusals():
            with self.case(operation.name):
                name, stored, token = self.key(), self.token(), self.token()
                await self.cells.write(client, name, stored)
                error = await self.refused(
                    self.bound(operation, client, name, token),
                    TCKError,
                    given=operation.name,
                )
                self.check(name in str(error), given=operation.name, expected="an error that names the key", observed=str(error))
                text = error_text(error)
                shown = [each for each in (stored, token) if reveals(text, each)]
                self.check(
                    not shown, given=operation.name, expected="no value in the error", observed=Plain("the value is in it")
                )

    @rule("COM-14", deadline=30)
    async def test_com_14_a_cancelled_operation_ends(self) -> None:
        """Cancelling an operation, wherever it waits, ends it promptly with the cancellation.

        Catches `except BaseException`, a shield around a wait without an end, and a retry loop that takes cancellation for a
        failure. An operation whose result was there when the cancellation came may return it.
        """
        async with self._slow_client() as client:
            for operation in self.operations():
                with self.case(operation.name):
                    name = self.key()
                    await self.cells.prepare(client, name)
                    async for each in sweep(partial(self.bound, operation, client, name)):
                        self.check(
                            each.ended == "cancelled" or (each.ended == "raised" and isinstance(each.error, TCKError)),
                            given=f"{operation.name}, cancelled at its wait number {each.step + 1}",
                            expected="the cancellation",
                            observed=Plain(
                                "it was still running after 2 s"
                                if each.ended == "running"
                                else f"it raised {describe_error(each.error)}"
                                if each.error
                                else f"it went on and returned {describe(each.value)}"
                            ),
                            hint="look for `except BaseException`, a bare `except:` or `asyncio.shield`",
                        )

    @rule("COM-15", deadline=30)
    async def test_com_15_cancellation_does_not_cross_replies(self) -> None:
        """After cancelled operations every later operation on the same client returns its own answer.

        Catches a connection that goes back to its pool with a reply unread: the next caller gets it. Found in real clients, fixed
        in a hurry, and found again. A driver that tidies up after a cancellation, as psycopg does, needs a task of its own
        for that: a scope that cancels again interrupts it.
        """
        async with self._slow_client() as client:
            expected = {self.key(): self.token() for _ in range(10)}
            for name, token in expected.items():
                await self.cells.write(client, name, token)
            names = list(expected)
            # A message has to be seen by its only reader first: what several share comes to them in no order.
            for tried, name in zip(await together(partial(self.cells.read, client, name) for name in names), names, strict=True):
                self.same(tried.result(), expected[name], given="a read before anything was cancelled")
            for operation in (each for each in self.operations() if not each.wide):
                victim = self.key()
                await self.cells.prepare(client, victim)
                async for each in sweep(partial(self.bound, operation, client, victim)):
                    for name in names[each.step % 5 :: 5]:
                        self._check_own(await self.cells.read(client, name), expected[name], operation, each.step)
            for tried, name in zip(
                await together(partial(self.cells.read, client, name) for name in names * 3),
                names * 3,
                strict=True,
            ):
                self.same(tried.result(), expected[name], given="a read after many cancelled operations")

    def _check_own(self, observed: str | None, expected: str, operation: Operation, step: int) -> None:
        self.same(
            observed,
            expected,
            given=f"a read after {operation.name} was cancelled at its wait number {step + 1}",
            hint="a connection with an unread reply was used again: drop it when an operation on it is cancelled",
        )

    @asynccontextmanager
    async def _slow_client(self) -> AsyncIterator[Any]:
        """A client, behind a proxy with latency where the suite has a TCP backend, so that cancellation finds it waiting."""
        if not has_hook(type(self), "backend_address"):
            yield await self.connect()
            return

        async with self._proxy() as proxy:
            client = await self.connect(address=proxy.address)
            proxy.latency = 0.004
            yield client
            proxy.latency = 0.0
            await self.session.release(client)

    @rule("COM-16", deadline=30)
    async def test_com_16_a_cancelled_write_is_whole_or_nothing(self) -> None:
        """A cancelled write is seen by all readers wholly or not at all.

        It may still arrive later: a cancelled `await` does not stop the thread of aiosqlite. Only a torn value is a violation.
        Catches a large value that is sent in parts, and an index that is written before its body.
        """
        client, reader = await self.clients(2)
        for operation in (each for each in self.operations() if each.writes):
            with self.case(operation.name):
                name, old = self.key(), self.token(2_000)
                size = min(60_000, self.cells.room(self.numbers(), name))
                legal = {old}

                def write(o: Operation = operation, n: str = name, known: set[str] = legal, size: int = size) -> Call[object]:
                    token = self.token(size)[:size]
                    known.add(token)
                    return lambda: o.call(client, n, token)

                await self.cells.write(client, name, old)
                async for each in sweep(write):
                    for observer in dict.fromkeys((client, reader)):
                        observed = await self.cells.read(observer, name)
                        self.check(
                            observed in legal,
                            given=f"{operation.name} of {size:,} characters, cancelled at its wait number {each.step + 1}",
                            expected="the old value or a new one, whole",
                            observed=Plain(
                                "nothing"
                                if observed is None
                                else f"{len(observed)} characters that nobody wrote: {describe(observed)}"
                            ),
                        )

    @rule("COM-17")
    async def test_com_17_stored_values_have_no_alias(self) -> None:
        """Changing an argument after the call, or a returned value, changes nothing stored and nothing that others are given.

        Catches a store that keeps the caller's object, or hands out its own.
        """
        client = await self.connect()
        changed = await self.cells.alias(client, self.key(), self.token())
        self.check(
            changed is None,
            given="mutable arguments and results, changed by the caller",
            expected="no effect",
            observed=Plain(changed),
        )

    @rule("COM-18", deadline=30)
    async def test_com_18_concurrent_tasks_get_their_own_answers(self) -> None:
        """50 concurrent tasks on one client, each with its own name, each read back what they wrote.

        Catches crossed replies and a shared cursor.
        """
        client = await self.connect()

        async def one(name: str, token: str) -> str | None:
            await self.cells.write(client, name, token)
            return await self.cells.read(client, name)

        pairs = [(self.key(), self.token()) for _ in range(50)]
        results = await gather(partial(one, name, token) for name, token in pairs)
        wrong = [
            f"{describe(name)} read {describe(read)}" for (name, token), read in zip(pairs, results, strict=True) if read != token
        ]
        self.check(
            not wrong,
            given="50 tasks that each write and read a name of their own",
            expected="each reads its own token",
            observed=Plain(f"{len(wrong)} of 50 did not, the first: {''.join(wrong[:1])}"),
        )

    @rule("COM-19", "validation")
    async def test_com_19_illegal_names_are_refused(self) -> None:
        """An illegal name raises `InvalidArgumentError` from every operation, with no effect.

        Empty, with U+0000, with a lone surrogate, or no `str` at all. Catches `None` that becomes "None", and "" that names
        the root.
        """
        client = await self.connect()
        for operation in self.operations():
            if not operation.needs_legal_name:
                continue

            for label, name in ILLEGAL_NAMES.items():
                with self.case(f"{operation.name}, {label}"):
                    await self.refused(
                        self.bound(operation, client, name),
                        InvalidArgumentError,
                        given=f"{operation.name} with the name {describe(name)}",
                    )
        for text in ("None", "1", "b'a'"):
            with self.case(f"no effect on {text!r}"), self.refusable(text):
                self.same(await self.cells.read(client, text), None, given=f"the name {text!r} after illegal names were refused")

    @rule("COM-20", deadline=60)
    async def test_com_20_legal_names_are_distinct_and_exact(self) -> None:
        """Legal names that differ in anything name different cells, and come back exactly from a listing.

        A code point, case, normal form, `/` against `%2F`, `+` against a space, a trailing dot or space. Providers escape what
        their service cannot hold: NATS allows `-/_=.a-zA-Z0-9` alone, file systems fold case, MySQL's default collation makes
        "A", "a" and "A " one key.
        """
        client = await self.connect()
        names = {
            label: name + self.namespace if label in NAMES_AT_THE_START else self.namespace + name
            for label, name in NAMES.items()
        }
        tokens = {label: self.token() for label in names}
        written = set()
        for label, name in names.items():
            with self.case(label), self.refusable(name):
                await self.cells.write(client, name, tokens[label])
                written.add(label)
        for label in names:
            if label in written:
                name = names[label]
                with self.case(label):
                    self.same(
                        await self.cells.read(client, name), tokens[label], given=f"the cell {describe(name)}, written before"
                    )
        if self.enumerates():
            listed = await self.cells.names(client, self.namespace)
            expected = sorted(names[label] for label in written if label not in NAMES_AT_THE_START)
            lost = [each for each in expected if each not in listed]
            invented = [each for each in listed if each not in expected]
            self.check(
                not lost and not invented,
                given="a listing of these names",
                expected="each exactly as it was written",
                observed=Plain(f"missing: {describe(lost)}; not written so: {describe(invented)}"),
            )

    @rule("COM-21", "limits")
    async def test_com_21_the_longest_name_works(self) -> None:
        """A name of exactly `key_bytes` works, two that differ in the last byte are two, and one byte more is refused.

        Catches truncation and a short hash. Bytes are those of UTF-8: a limit counted in characters fails too.
        """
        client = await self.connect()
        size = self.numbers().key_bytes
        for label, letter in (("ASCII", "x"), ("two bytes a character", "\u00e9")):
            start = self.key()
            with self.case(label), self.refusable(start + letter):
                longest = start + letter * ((size - len(start)) // len(letter.encode()))
                longest += "x" * (size - len(longest.encode()))
                twin = longest[:-1] + ("y" if longest[-1] != "y" else "z") if longest[-1].isascii() else longest[:-1] + "\u00e8"
                first, second = self.token(), self.token()
                await self.cells.write(client, longest, first)
                await self.cells.write(client, twin, second)
                self.same(await self.cells.read(client, longest), first, given=f"a name of {size} bytes")
                self.same(
                    await self.cells.read(client, twin), second, given=f"its twin, which differs in the last of {size} bytes"
                )
                for operation in self.operations():
                    if operation.needs_legal_name:
                        await self.refused(
                            self.bound(operation, client, longest + "x"),
                            InvalidArgumentError,
                            given=f"{operation.name} with a name of {size + 1} bytes",
                        )

    @rule("COM-22", "limits")
    async def test_com_22_the_largest_value_works(self) -> None:
        """A value of exactly `value_bytes` comes back whole; one byte more raises `TooLargeError` and leaves the old value.

        Catches silent truncation, and a provider that deletes before it fails. Of a limit above 16 MiB only so much is tried.
        """
        client = await self.connect()
        name = self.key()
        room = self.cells.room(self.numbers(), name)
        size = min(room, LARGEST_TRIED)
        largest = self.token(size)[:size]
        await self.cells.write(client, name, largest)
        self.same(await self.cells.read(client, name), largest, given=f"a value of {size} bytes")
        if size < room:
            return

        for operation in (each for each in self.operations() if each.writes):
            with self.case(operation.name):
                await self.refused(
                    self.bound(operation, client, name, largest + "x"),
                    TooLargeError,
                    given=f"{operation.name} with a value of {size + 1} bytes",
                )
                self.same(await self.cells.read(client, name), largest, given=f"the value after {operation.name} was refused")

    @rule("COM-23", exclusive=True, deadline=30)
    async def test_com_23_the_event_loop_keeps_running(self) -> None:
        """While an operation waits for its backend, the event loop keeps running.

        Catches `requests` or `boto3` inside `async def`. All operations are under way at once, behind 150 ms of latency where
        there is a TCP backend, beside a task that only takes turns. A blocking call pauses the loop every time, anything else now
        and then, so the rule asks up to five times; the time in which a loaded machine gave the loop no processor is not counted
        where the system tells it (Linux).
        """
        if has_hook(type(self), "backend_address"):
            async with self._proxy() as proxy:
                client = await self.connect(address=proxy.address)
                await self.cells.write(client, self.key(), self.token())
                pause = await self._shortest_pause(client, proxy)
                await self.session.release(client)
        else:
            pause = await self._shortest_pause(await self.connect())
        self.check(
            pause < BLOCKED_SECONDS,
            given="every operation at once, beside a task that takes turns",
            expected=f"no pause of {1000 * BLOCKED_SECONDS:g} ms",
            observed=Plain(f"at least {1000 * pause:.0f} ms, five times in a row"),
            hint="a blocking call inside `async def`: use the SDK's async client, or a thread",
        )

    async def _shortest_pause(self, client: Any, proxy: FaultProxy | None = None) -> float:
        """The longest pause of the event loop in the best of five attempts."""
        shortest = float("inf")
        for _ in range(5):
            names = [self.key() for _ in self.operations()]
            for name in names:
                await self.cells.prepare(client, name)
            if proxy is not None:
                proxy.latency = 0.15
            shortest = min(shortest, await self._longest_pause(client, names))
            if proxy is not None:
                proxy.latency = 0.0
            if shortest < BLOCKED_SECONDS:
                break
        return shortest

    async def _longest_pause(self, client: Any, names: Sequence[str]) -> float:
        longest = 0.0

        async def beat() -> None:
            nonlocal longest
            last = _running_time()
            while True:
                await anyio.sleep(0.001)
                now = _running_time()
                longest = max(longest, now - last)
                last = now

        async def begin(number: int, call: Call[object]) -> object:
            # One after another: what several do before they first wait is no pause that one of them makes.
            await anyio.sleep(0.002 * number)
            return await call()

        calls = [self.bound(operation, client, name) for operation, name in zip(self.operations(), names, strict=True)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            await together(partial(begin, number, call) for number, call in enumerate(calls, 1))
            await anyio.sleep(0.002)
            tasks.cancel_scope.cancel()
        return longest

    @rule("COM-24", hook="credentials", exclusive=True)
    async def test_com_24_credentials_are_not_shown(self) -> None:
        """Neither `repr` and `str` of the provider, nor its log records, nor its exceptions contain a credential.

        In plain, base64, hexadecimal, URL or JSON form, in the text of an exception, its arguments or its attributes. Catches a
        DSN with its password in a `repr`. psycopg's exception of a connection that failed keeps its settings in an attribute.
        """
        shown: dict[str, str] = {}
        records = _Records()
        root = logging.getLogger()
        level = root.level
        root.addHandler(records)
        root.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            client = await self.connect()
            provider = raw(client)
            shown["repr(provider)"] = repr(provider)
            shown["str(provider)"] = str(provider)
            for operation in (*self.operations(), *self.cells.refusals):
                name = self.key()
                await self.cells.prepare(client, name)
                tried = await attempt(self.bound(operation, client, name))
                if tried.error is not None:
                    shown[f"the error of {operation.name}"] = error_text(tried.error)
            if has_hook(type(self), "unreachable_provider"):
                client = await self.session.connect({}, "unreachable_provider")
                shown["repr(provider) without its backend"] = repr(raw(client))
                tried = await attempt(lambda: self.cells.read(client, self.key()))
                if tried.error is not None:
                    shown["the error of an unreachable backend"] = error_text(tried.error)
        finally:
            root.removeHandler(records)
            root.setLevel(level)
        for record in records.lines:
            shown[f"the log record {self.session.masked(describe(record, 80))}"] = record
        for where, text in shown.items():
            with self.case(where):
                self.check(
                    not any(reveals(text, secret) for secret in self.credentials),
                    given=where,
                    expected="no credential",
                    observed=Plain("a credential is in it"),
                )


class _Records(logging.Handler):
    """Keeps what is logged at INFO or above, with its arguments and tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += error_text(record.exc_info[1])
        self.lines.append(text)


def _methods(protocol: type | None) -> list[tuple[str, Any]]:
    """The public methods that a protocol promises."""
    if protocol is None:
        return []

    return [
        (name, member)
        for name, member in vars(protocol).items()
        if inspect.isfunction(member)
        and (not name.startswith("_") or name in ("__aenter__", "__aexit__"))
        and name != "__init__"
        and name != "__subclasshook__"
    ]


def _offers(provider: object, operation: Operation) -> bool:
    """Whether the provider has the method, and where it matters the argument, of an operation."""
    method = getattr(provider, operation.method, None)
    if method is None or operation.argument is None:
        return method is not None
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return True

    return any(each.name == operation.argument or each.kind is each.VAR_KEYWORD for each in parameters)


def _running_time() -> float:
    """Seconds on a clock that stands still while this thread is ready to run and has no processor, if the system tells."""
    for _ in range(100):
        waited = _waiting_time()
        now = time.perf_counter()
        if _waiting_time() == waited:  # else the thread was interrupted between the two, and they do not belong together
            break
    return now - waited


def _waiting_time() -> float:
    """Seconds in which this thread was ready to run and had no processor; 0 if the system does not tell."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _tasks() -> set[Any]:
    """The tasks of this event loop; only asyncio keeps a list."""
    if "asyncio" not in sys.modules:
        return set()
    try:
        return set(asyncio.all_tasks())
    except RuntimeError:
        return set()


def _task_name(task: Any) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or str(coroutine)
