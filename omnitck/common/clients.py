"""The rules that every client owes, whether it holds data or not: signatures, declarations, lifecycle, availability.

Under a contract they carry its prefix: `KV-COM-14`. They need nothing but the contract's operations, so that a circuit breaker
has them too. What a provider with cells owes beside is in `omnitck.common.data`.
"""

import asyncio
import gc
import inspect
import io
import logging
import socket
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, ClassVar, Protocol, Self, TypeVar

import anyio

from omnitck.common.cancelled import CancelledTrial
from omnitck.instruments.canary import error_text, reveals
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.faults import FaultProxy
from omnitck.kit.checks import known_by
from omnitck.kit.clients import Hung, raw
from omnitck.kit.concurrency import Attempt, Call, attempt, cancel_natively, gather, together
from omnitck.kit.contract import Contract
from omnitck.kit.definition import Operation
from omnitck.kit.rules import rule
from omnitck.kit.session import HookError, NotProvoked
from omnitck.kit.text import describe, describe_error, unwrap
from omnitck.kit.trial import Plain, Trial
from omnitck.registry import registered
from omnitck.shared.capabilities import EVERYWHERE, PRODUCTION
from omnitck.shared.exceptions import ClosedError, UnavailableError, UnsupportedError
from omnitck.shared.models import Limits

__all__ = ["ClientRules", "ClientTrial", "Lifecycle"]

P = TypeVar("P")

BLOCKED_SECONDS = 0.1
"""A pause of the event loop that is no longer scheduling."""

CONNECTING_LATENCY = 0.075
"""Seconds in each direction: one question that is asked by a blocking call makes such a pause, and ten asked well end in time."""

STAY_SECONDS = 0.04
"""How much longer than its call a task stays, for a timer that was left behind to find it."""

ATTEMPTS = 5
"""A pause is one of the provider's making if it comes so many times in a row."""


class Lifecycle(Protocol):
    """Capability `lifecycle`: a client that ends."""

    async def close(self) -> None:
        """Release everything. Idempotent; afterwards every operation raises `ClosedError`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


class ClientTrial(CancelledTrial[P]):
    """The words of rules about clients, whether they hold data or not."""

    async def use(self, client: Any, name: str = "") -> bool:
        """Let *client* itself do something real, under *name* if given. True, once it has."""
        name = name or self.key()
        if self.cells is not None:
            await self.cells.use(client, name, self.token())
        else:
            await (await self.arranged(self.operations()[0], client, name))()
        return True

    async def occupy(self, client: Any, name: str) -> None:
        """Let something be under *name*, if providers hold data at all: to use a client need not write."""
        if self.cells is None:
            await self.use(client, name)
        else:
            await self.cells.write(client, name, self.token())

    async def look(self, client: Any, name: str) -> object:
        """What *client* says of *name*: something other than None, once it is occupied."""
        return await (self.use(client, name) if self.cells is None else self.cells.read(client, name))

    async def ready(self, operation: Operation, client: Any, name: str) -> Callable[[], Call[object]]:
        """Makes calls of *operation* on *name*, each with a token of its own, once what they cannot do without is there."""
        if self.cells is not None:
            await self.cells.prepare(client, name)
            return partial(self.bound, operation, client, name)
        if operation.arrange is None:
            return partial(self.bound, operation, client, name)

        arranged = await operation.arrange(client, name, self.token())
        return lambda: partial(operation.call, client, name, self.token(), arranged)

    async def refusal(self, operation: Operation, client: Any, name: str, token: str | None = None) -> Call[object]:
        """*operation*, one of the refusals, on *name* and *token*, yet to be called and refused."""
        if self.cells is not None:
            await self.cells.write(client, name, self.token())
        return await self.arranged(operation, client, name, token)

    async def calls(self, client: Any, name: str) -> dict[str, Call[object]]:
        """Every declared operation on *name*, yet to be called, with a look at what a result does not show.

        Nothing is arranged there. But what an operation gives back, a version or an id, is one that the provider gave out, to
        another client: who knows its form would refuse any other text before all else.
        """
        if self.cells is None:
            return {each.name: (await self.ready(each, client, name))() for each in self.operations()}

        async def outcome(operation: Operation) -> object:
            return (await self.outcome(operation, client, name)).result()

        calls: dict[str, Call[object]] = {each.name: partial(outcome, each) for each in self.operations()}
        for each in self.operations():
            if each.arrange is not None and _gives_back(each):
                own, token = self.key(), self.token()
                given = await attempt(partial(each.arrange, await self.connect(), own, token))
                if not isinstance(given.error, NotProvoked):
                    calls[each.name] = partial(each.call, client, own, token, given.result())
        return calls

    async def unreachable(self) -> Attempt[Any]:
        """A client whose backend is out of reach; or the `UnavailableError` of one that looks for it when it is made."""
        tried: Attempt[Any] = Attempt()
        with anyio.move_on_after(self.answer_seconds) as scope:
            tried = await attempt(partial(self.session.connect, {}, "unreachable_provider"))
        if scope.cancelled_caught:
            self.fail_rule(
                given="connecting to an unreachable backend",
                expected="a client, or UnavailableError",
                observed=f"nothing within {self.answer_seconds:g} s",
            )
        if isinstance(tried.error, HookError) and isinstance(tried.error.__cause__, UnavailableError):
            return Attempt(error=tried.error.__cause__)

        tried.result()
        return tried

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[FaultProxy]:
        """A proxy in front of the suite's backend."""
        host, port = await self.ask("backend_address")
        async with AsyncExitStack() as stack:
            try:
                proxy = await stack.enter_async_context(FaultProxy(host, port))
            except (OSError, RuntimeError) as error:
                raise HookError(f"the kit cannot open its proxy in front of the backend: {describe_error(error)}") from error
            yield proxy

    @asynccontextmanager
    async def proxy_if_any(self) -> AsyncIterator[FaultProxy | None]:
        """The same; None where the suite has no TCP backend."""
        if not self.has("backend_address"):
            yield None
            return

        async with self.proxy() as proxy:
            yield proxy

    @asynccontextmanager
    async def faulty(self, **config: Any) -> AsyncIterator[tuple[Any, Call[object], Call[object]]]:
        """A client that is made with *config*, what cuts it off from its backend, and what brings the backend back."""
        if self.has("cut") and self.has("heal"):
            self.session.afterwards.append(partial(self.ask, "heal"))
            yield await self.connect(**config), partial(self.ask, "cut"), partial(self.ask, "heal")
            return
        if not self.has("backend_address"):
            self.not_provoked("the suite has neither `backend_address` nor `cut` and `heal`")

        async with self.proxy() as proxy:
            client: Any = await self.connect(address=proxy.address, **config)

            async def cut() -> None:
                proxy.cut()

            async def heal() -> None:
                proxy.heal()

            yield client, cut, heal
            await self.session.release(client)

    @asynccontextmanager
    async def client_of_its_own(self) -> AsyncIterator[Any]:
        """A client that is gone at the end of the context, its host task too."""
        client: Any = await self.connect()
        yield client
        await self.session.release(client)

    @asynccontextmanager
    async def slow_client(self) -> AsyncIterator[Any]:
        """A client, behind a proxy with latency where the suite has a TCP backend, so that cancellation finds it waiting."""
        async with self.proxy_if_any() as proxy:
            if proxy is None:
                yield await self.connect()
                return

            client: Any = await self.connect(address=proxy.address)
            proxy.latency = 0.004
            yield client
            proxy.latency = 0.0
            await self.session.release(client)

    async def expect_unavailable(self, calls: Mapping[str, Call[object]], when: str) -> None:
        """Fail the rule unless each of *calls*, made at once, raises `UnavailableError` with a cause in time."""

        async def one(call: Call[object]) -> BaseException:
            with anyio.move_on_after(self.answer_seconds):
                tried = await attempt(call)
                return tried.error or LookupError(f"returned {describe(tried.value)}")
            return TimeoutError(f"nothing within {self.answer_seconds:g} s")

        errors = await gather(partial(one, each) for each in calls.values())
        for operation, error in zip(calls, errors, strict=True):
            with self.case(operation):
                said = isinstance(error, UnavailableError)
                self.check(
                    said and error.__cause__ is not None,
                    given=f"{operation} {when}",
                    expected="UnavailableError with a __cause__",
                    observed=Plain(describe_error(error) + (" without a __cause__" if said else "")),
                )

    async def eventually(self, call: Call[object]) -> object:
        """The result of *call* once it no longer raises `UnavailableError`; None after the time for an answer or a message."""
        with self.waiting(self.told_seconds):
            while True:
                tried = await attempt(call)
                if not isinstance(tried.error, UnavailableError):
                    return tried.result()
                await anyio.sleep(0.02)
        return None

    async def check_watch_ends(self, client: Any, watcher: AbstractAsyncContextManager[AsyncIterator[object]]) -> None:
        """Fail the rule unless `close()` ends the iteration of *watcher*, which nothing feeds: quietly or with `ClosedError`."""
        ended: Attempt[object] = Attempt()
        with anyio.move_on_after(self.answer_seconds) as scope:
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

    def promised(self, provider: Any, capability: str) -> list[tuple[Any, type | None]]:
        """The protocols of *capability*, each beside what has its methods: *provider*, or an object that it hands out."""
        return [(provider, self.plan.protocols.get(capability))]

    def check_method(self, provider: object, name: str, promised: Any) -> None:
        """Fail the rule unless *provider* has the method *name* as its protocol has *promised*."""
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

    async def watched_connect(self, proxy: FaultProxy | None = None) -> tuple[Any, float]:
        """A client, and for how long the event loop stood still at most while it was connected, in the best of five attempts.

        Only waiting counts here: what a client computes before its first call, it computes once.
        """
        config: dict[str, Any] = {} if proxy is None else {"address": proxy.address}
        shortest = float("inf")
        client: Any = None
        for _ in range(ATTEMPTS):
            if client is not None:
                await self.session.release(client)
            connected: list[Attempt[Any]] = []
            pause = await _longest_pause([partial(self._connected, connected, config, proxy)], _waiting_time)
            if proxy is not None and connected[0].error is not None:
                return await self.connect(**config), 0.0  # it has less patience than such a network needs

            client = connected[0].result()
            shortest = min(shortest, pause)
            if shortest < BLOCKED_SECONDS:
                break
        return client, shortest

    async def _connected(self, connected: list[Attempt[Any]], config: Mapping[str, Any], proxy: FaultProxy | None) -> None:
        """Add what becomes of one more client to *connected*."""
        if proxy is not None:
            proxy.latency = CONNECTING_LATENCY
        connected.append(await attempt(partial(self.connect, **config)))
        if proxy is not None:
            proxy.latency = 0.0

    async def shortest_pause(self, client: Any, proxy: FaultProxy | None = None) -> float:
        """The longest pause of the event loop in the best of five attempts, each with every operation at once."""
        shortest = float("inf")
        for _ in range(ATTEMPTS):
            calls = [(await self.ready(each, client, self.key()))() for each in self.operations()]
            if proxy is not None:
                proxy.latency = 0.15
            shortest = min(shortest, await _longest_pause(calls, _running_time))
            if proxy is not None:
                proxy.latency = 0.0
            if shortest < BLOCKED_SECONDS:
                break
        return shortest

    def check_pause(self, pause: float, given: str, hint: str) -> None:
        """Fail the rule if a *pause* of the event loop, the shortest of some, is longer than scheduling makes it."""
        self.check(
            pause < BLOCKED_SECONDS,
            given=f"{given}, beside a task that takes turns",
            expected=f"no pause of {1000 * BLOCKED_SECONDS:g} ms",
            observed=Plain(f"at least {1000 * pause:.0f} ms, {ATTEMPTS} times in a row"),
            hint=hint,
        )


class ClientRules(Contract):
    """The family of clients."""

    trial: ClassVar[type[Trial[Any]]] = ClientTrial

    @rule("COM-01")
    async def test_com_01_operations_have_the_contracts_signatures(self, t: ClientTrial[Any]) -> None:
        """Every mandatory method exists, is a coroutine function, and takes the contract's parameter names as keywords.

        Catches a synchronous SDK call exposed as a method, and a renamed keyword argument.
        """
        provider = raw(await t.connect())
        for owner, protocol in t.promised(provider, ""):
            for name, promised in _methods(protocol):
                with t.case(name):
                    t.check_method(owner, name, promised)

    @rule("COM-02")
    async def test_com_02_declarations_are_known_and_meet_the_floors(self, t: ClientTrial[Any]) -> None:
        """A provider's `capabilities` holds only names that the standard knows, and its `limits` meets every floor.

        Both attributes are what the application reads; a core provider need not have them. Where it obeys several contracts, it
        has the capabilities of all, and `limits` of a class of one of them: the others take from it what they know. Catches a
        typing error that silently takes a whole family of rules away, and numbers that nobody reads, as they are in a `dict`.
        """
        provider = raw(await t.connect())
        names = _advertised(provider)
        t.check(
            names is not None,
            given="the provider's attribute `capabilities`",
            expected="a set of names, or no such attribute",
            observed=getattr(provider, "capabilities", None),
            hint='give a set of text, such as frozenset({"ttl"})',
        )
        limits, kind = getattr(provider, "limits", None), t.plan.definition.limits
        t.check(
            limits is None or isinstance(limits, Limits),
            given="the provider's attribute `limits`",
            expected=f"an omnitck.shared.models.{kind.__name__}, or no such attribute",
            observed=limits,
            hint=f"give a {kind.__name__}: what is not said in one has no effect",
        )
        unknown = (names or frozenset()) - t.plan.known - EVERYWHERE
        if unknown:
            unknown = unknown.difference(*(known_by(each.contract) for each in registered() if each.contract))
        t.check(not unknown, given="capabilities", expected="only known names", observed=sorted(unknown))
        limits = limits if t.suite.limits is None else t.suite.limits
        broken = [] if limits is None else kind.adopted(limits).broken_floors()
        t.check(not broken, given="limits", expected="every floor met", observed=Plain("; ".join(broken)))

    @rule("COM-03")
    async def test_com_03_undeclared_operations_are_refused(self, t: ClientTrial[Any]) -> None:
        """An operation or argument that is not declared is missing, or raises `UnsupportedError` without effect.

        It is never ignored: an application that passes `ttl=60` to a store that drops it stores for ever. That an argument is
        missing may also show in the call: a method that hands on whatever it is given raises Python's own `TypeError`.
        """
        client = await t.connect()
        for operation in t.operations(undeclared=True):
            with t.case(operation.name):
                if not _offers(raw(client), operation):
                    continue

                name, token = t.key(), t.token()
                if t.cells is not None:
                    await t.cells.write(client, name, token)
                tried = await attempt(t.bound(operation, client, name))
                t.check(
                    isinstance(tried.error, UnsupportedError) or _says_missing(tried.error, operation),
                    given=f"{operation.name}, which is not declared",
                    expected="no such method or argument, or UnsupportedError",
                    observed=Plain(describe_error(tried.error) if tried.error else f"returned {describe(tried.value)}"),
                )
                if t.cells is not None:
                    t.same(await t.cells.read(client, name), token, given=f"the cell after the refused {operation.name}")

    @rule("COM-04")
    async def test_com_04_declared_operations_are_present(self, t: ClientTrial[Any]) -> None:
        """Every declared capability's operations are there, and the provider's own `capabilities` says what the suite declares.

        Catches a list of features that drifts away from the code.
        """
        provider = raw(await t.connect())
        for capability in sorted(t.declared):
            for owner, protocol in t.promised(provider, capability):
                for name, promised in _methods(protocol):
                    with t.case(f"{capability}: {name}"):
                        t.check_method(owner, name, promised)
        advertised = _advertised(provider)
        if advertised is not None and hasattr(provider, "capabilities"):
            # What a policy brings is declared by the suite alone: a provider need not know of policies.
            own = t.plan.known & (t.plan.definition.protocols.keys() | PRODUCTION.keys())
            t.check(
                own & advertised == own & t.declared,
                given="the provider's attribute `capabilities`",
                expected=f"what the suite declares: {', '.join(sorted(own & t.declared)) or 'nothing'}",
                observed=Plain(", ".join(sorted(advertised)) or "nothing"),
                hint="declare in the suite's `capabilities` (on the command line: --capability) what the provider has",
            )

    @rule("COM-07", "lifecycle")
    async def test_com_07_closing_twice_is_fine(self, t: ClientTrial[Any]) -> None:
        """`close()` may be called again, also concurrently, and raises nothing.

        Catches a pool that is released twice.
        """
        client = await t.connect()
        await t.use(client)
        for tried in [*await together([client.close, client.close]), await attempt(client.close)]:
            if tried.error is not None:
                t.fail_rule(
                    given="close(), twice at once and once more", expected="no exception", observed=describe_error(tried.error)
                )

    @rule("COM-08", "lifecycle")
    async def test_com_08_a_closed_client_refuses_everything(self, t: ClientTrial[Any]) -> None:
        """After `close()` every operation raises `ClosedError` at once.

        Catches the operation that hangs, raises `AttributeError`, or silently connects again.
        """
        client = await t.connect()
        name = t.key()
        await t.use(client, name)
        calls = await t.calls(client, name)
        await client.close()
        for operation, call in calls.items():
            with t.case(operation):
                await t.refused(
                    call,
                    ClosedError,
                    given=f"{operation} after close()",
                )

    @rule("COM-09", "lifecycle")
    async def test_com_09_leaving_the_context_closes(self, t: ClientTrial[Any]) -> None:
        """`async with` closes on the way out, and neither swallows nor replaces the exception of its body.

        Catches an `__aexit__` that returns something true. A client that `make_provider` returns is entered once, as an
        application does: one whose tasks live in its context need not bear to be entered twice. Where it returns a context
        manager that yields the client, that is entered, and may put the exception into a group, as a task group does.
        """
        await t.connect()
        made, error = await t.session.unopened(), LookupError("raised in the body")
        is_client = hasattr(made, t.operations()[0].method)
        client, raised = await _left(made, error)
        t.check(
            raised is error if is_client else raised is not None and unwrap(raised) is error,
            given=f"an exception raised in the body of `async with {'provider' if is_client else 'make_provider()'}`",
            expected="the same exception outside",
            observed=Plain("no exception" if raised is None else describe_error(raised)),
        )
        await t.refused(lambda: t.look(client, t.key()), ClosedError, given="a read after the end of `async with`")

    @rule("COM-10", "lifecycle", "shared")
    async def test_com_10_closing_one_client_leaves_the_others(self, t: ClientTrial[Any]) -> None:
        """Closing one client leaves every other client working.

        Catches a connection pool that all clients share and the first one closes.
        """
        leaving, staying = await t.clients(2)
        name, token = t.key(), t.token()
        if t.cells is not None:
            await t.cells.write(staying, name, token)
        await t.use(leaving)
        await leaving.close()
        if t.cells is None:
            await t.use(staying)
        else:
            t.same(await t.cells.read(staying, name), token, given="a read after another client has closed")

    @rule("COM-11", "lifecycle", exclusive=True)
    async def test_com_11_closing_ends_operations_in_flight(self, t: ClientTrial[Any]) -> None:
        """`close()` ends every operation in flight, with its result or `ClosedError`, and leaves no task and no open resource.

        Catches a reader task that is orphaned, a socket that is left to the garbage collector.
        """
        with _new_garbage_alone(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            # What others left behind is not this rule's: it stays alive until its end.
            before, others = _tasks(), _finalized()
            async with t.client_of_its_own() as client:
                calls: list[Call[object]] = [partial(t.use, client, t.key()) for _ in range(20)]
                with anyio.move_on_after(t.answer_seconds) as scope:
                    *tried, _ = await together([*calls, client.close])
                t.check(
                    not scope.cancelled_caught,
                    given="20 operations and close() at once",
                    expected=f"all have ended within {t.answer_seconds:g} s",
                    observed=Plain("some have not"),
                )
                for each in tried:
                    if each.error is not None and not isinstance(each.error, ClosedError):
                        t.fail_rule(
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
            gc.collect(0)
        t.check(
            not leaked,
            given="the tasks after close()",
            expected="no more than before the client was made",
            observed=Plain(", ".join(sorted(_task_name(each) for each in leaked))),
        )
        del others
        warned = [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
        t.check(not warned, given="garbage collection after close()", expected="no ResourceWarning", observed=warned)

    @rule("COM-12", "availability", deadline=30)
    async def test_com_12_an_unreachable_backend_is_said(self, t: ClientTrial[Any]) -> None:
        """With the backend unreachable every operation raises `UnavailableError` with a cause, in time.

        Catches a vendor's exception that leaks, and a wait or retries without an end. A client that had been connected says
        the same when its connection is cut and when the backend falls silent, and works again when the network does. One that
        looks for its backend when it is made may say so there. nats-py
        leaves a request without an answer when its connection is reset; redis-py retries by default, which counts an
        increment twice.
        """
        if t.has("unreachable_provider"):
            connected = await t.unreachable()
            if connected.error is None:
                await t.expect_unavailable(await t.calls(connected.value, t.key()), "with an unreachable backend")
            else:
                t.check(
                    connected.error.__cause__ is not None,
                    given="connecting to an unreachable backend",
                    expected="UnavailableError with a __cause__",
                    observed=Plain(f"{describe_error(connected.error)} without a __cause__"),
                )
        if t.has("backend_address"):
            async with t.proxy() as proxy:
                client, name = await t.connect(address=proxy.address), t.key()
                await t.occupy(client, name)
                await t.look(client, name)  # a message that is on its way at the cut may come after those that follow it
                for when, fault in (
                    ("after the connection was cut", proxy.cut),
                    ("while the backend is silent", proxy.black_hole),
                ):
                    # Under a name that the client never asked for: what it has seen it may remember, where that is declared.
                    calls = await t.calls(client, t.key())
                    fault()
                    await t.expect_unavailable(calls, when)
                    proxy.heal()
                    works = await t.eventually(partial(t.look, client, name))
                    t.check(
                        works is not None,
                        given="a read with the same client once the network is back",
                        expected="its answer",
                        observed=Plain("none, or UnavailableError to the end"),
                    )

    @rule("COM-14", deadline=30)
    async def test_com_14_a_cancelled_operation_ends(self, t: ClientTrial[Any]) -> None:
        """Cancelling an operation, wherever it waits, ends it promptly with the cancellation.

        Catches `except BaseException`, a shield around a wait without an end, and a retry loop that takes cancellation for a
        failure. An operation whose result was there when the cancellation came may return it: it waits no more, its result is the
        one that it has undisturbed, and what it does is done. `asyncio.wait_for` of Python 3.11 returns so what is there by then.
        But whoever goes on after that to wait for something else has lost the cancellation: `asyncio.timeout` loses none.
        """
        async with t.slow_client() as client:
            for operation in t.operations():
                with t.case(operation.name):
                    returned = False
                    async for each in sweep(await t.ready(operation, client, t.key()), within=t.cancel_seconds):
                        t.check_ends(operation, each)
                        returned = returned or each.ended == "returned"
                    if returned:
                        await t.check_results(operation, client)

    @rule("COM-23", exclusive=True, deadline=30)
    async def test_com_23_the_event_loop_keeps_running(self, t: ClientTrial[Any]) -> None:
        """While an operation waits for its backend, the event loop keeps running.

        Catches `requests` or `boto3` inside `async def`, and a client that is connected by a blocking call: `make_provider` is an
        operation, too. The others are under way at once, behind 150 ms of latency where there is a TCP backend, beside a task
        that only takes turns. A blocking call pauses the loop every time, anything else now and then, so the rule asks up to five
        times; the time in which a loaded machine gave the loop no processor is not counted where the system tells it (Linux).
        """
        async with t.proxy_if_any() as proxy:
            client, standstill = await t.watched_connect(proxy)
            with t.case("connecting"):
                t.check_pause(
                    standstill,
                    "a client being connected by make_provider",
                    "a blocking call in make_provider, or in what makes the client: connect by an async call, or in a thread",
                )
            with t.case("operations"):
                await t.use(client)
                t.check_pause(
                    await t.shortest_pause(client, proxy),
                    "every operation at once",
                    "a blocking call inside `async def`: use the SDK's async client, or a thread",
                )
            await t.session.release(client)

    @rule("COM-24", hook="credentials", exclusive=True)
    async def test_com_24_credentials_are_not_shown(self, t: ClientTrial[Any]) -> None:
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
            client = await t.connect()
            provider = raw(client)
            shown["repr(provider)"] = repr(provider)
            shown["str(provider)"] = str(provider)
            calls = {each.name: (await t.ready(each, client, t.key()))() for each in t.operations()}
            calls |= {each.name: await t.refusal(each, client, t.key()) for each in t.refusals()}
            for operation, call in calls.items():
                tried = await attempt(call)
                if tried.error is not None:
                    shown[f"the error of {operation}"] = error_text(tried.error)
            if t.has("unreachable_provider"):
                tried = await t.unreachable()
                if tried.error is None:
                    client = tried.value
                    shown["repr(provider) without its backend"] = repr(raw(client))
                    tried = await attempt(lambda: t.look(client, t.key()))
                if tried.error is not None:
                    shown["the error of an unreachable backend"] = error_text(tried.error)
        finally:
            root.removeHandler(records)
            root.setLevel(level)
        for record in records.lines:
            shown[f"the log record {t.session.masked(describe(record, 80))}"] = record
        for where, text in shown.items():
            with t.case(where):
                t.check(
                    not any(reveals(text, secret) for secret in t.suite.credentials),
                    given=where,
                    expected="no credential",
                    observed=Plain("a credential is in it"),
                )

    @rule("COM-25", deadline=30)
    async def test_com_25_a_client_ends_when_it_is_told_to(self, t: ClientTrial[Any]) -> None:
        """A client that has been used ends when it is told to: within 5 s, times the suite's `patience`, and without an error.

        Told by `aclose` or `close`, or by leaving its context, where it has one. Every rule closes its clients; what is wrong
        with that is the finding of this rule, and of no other. Catches a worker that waits for work for ever, and a task that
        crashed unseen.
        """
        for operation in t.operations():
            with t.case(operation.name):
                client = await t.connect()
                # What keeps an operation from succeeding is another rule's finding.
                ready = await attempt(partial(t.ready, operation, client, t.key()))
                used = ready if ready.error is not None else await attempt(ready.result()())
                if isinstance(used.error, Hung):
                    raise used.error  # Each further one would only wait again.
                problem = await t.session.release(client)
                if problem is not None:
                    problem.given = f"closing a client after {operation.name}"
                    raise problem

    @rule("COM-26", deadline=30)
    async def test_com_26_the_callers_task_is_left_alone(self, t: ClientTrial[Any]) -> None:
        """An operation does not cancel the task that called it: not at once, and not later, by a timer that it has left.

        Catches a timeout made by hand, whose timer outlives what it was for and ends the application's task in the middle of
        something else. Each operation is called in a task of its own, which stays for a while, all at once. A timer that is due
        later is looked for among those of the event loop. Where tasks cannot be cancelled so, as on trio, nothing is asked.
        """
        client = await t.connect()
        calls: dict[str, Call[object]] = {}
        for each in t.operations():
            # What keeps an operation from succeeding is another rule's finding.
            arranged = await attempt(partial(t.arranged, each, client, t.key()))
            calls[each.name] = t.bound(each, client, t.key()) if arranged.error is not None else arranged.result()
        for operation, befell in zip(calls, await _what_befalls_callers(calls.values()), strict=True):
            with t.case(operation):
                t.check(
                    not befell,
                    given=f"{operation}, called in a task of its own, which stays {1000 * STAY_SECONDS:g} ms longer",
                    expected="the task is not cancelled",
                    observed=Plain(befell),
                    hint="end the timer of a timeout with the operation, whatever comes of it: `asyncio.timeout` does",
                )


async def _left(context: Any, error: Exception) -> tuple[Any, BaseException | None]:
    """What entering *context* yields, and what comes out of it when *error* is raised in its body."""
    client: Any = None
    try:
        async with context as client:
            raise error
    except BaseException as raised:
        return client, raised
    return client, None


def _advertised(provider: object) -> frozenset[str] | None:
    """What *provider* says that it can do; None if its attribute `capabilities` is no set of names, or the like."""
    names = getattr(provider, "capabilities", ())
    if isinstance(names, str | bytes) or not isinstance(names, Collection) or not all(isinstance(each, str) for each in names):
        return None
    return frozenset(names)


async def _what_befalls_callers(calls: Iterable[Call[object]]) -> list[str]:
    """How the tasks that make *calls*, and stay for a while, are cancelled: a clause for each, empty if it is not."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return ["" for _ in calls]

    found: dict[int, str] = {}

    async def keep(number: int, call: Call[object]) -> None:
        found[number] = await _what_befalls(call, loop)  # The task's own result is lost if it is about to be cancelled.

    tasks = [loop.create_task(keep(number, call)) for number, call in enumerate(calls)]
    try:
        await asyncio.wait(tasks)
    finally:
        for each in tasks:
            cancel_natively(each)
    return [found[number] for number in range(len(tasks))]


async def _what_befalls(call: Call[object], loop: asyncio.AbstractEventLoop) -> str:
    task = asyncio.current_task()
    assert task is not None
    try:
        with suppress(Exception):
            await call()
    except asyncio.CancelledError:
        return "it was cancelled while the operation ran"
    if task.cancelling():
        return "it had been cancelled when the operation returned"
    timers: Iterable[asyncio.TimerHandle] = getattr(loop, "_scheduled", ())
    due = [each.when() - loop.time() for each in timers if _cancels(each, task)]
    if due:
        return f"a timer is left that will cancel it, {min(due):.3g} s after the operation returned"
    returned = time.monotonic()
    try:
        await asyncio.sleep(STAY_SECONDS)
    except asyncio.CancelledError:
        return f"it was cancelled {1000 * (time.monotonic() - returned):.0f} ms after the operation returned"
    return ""


def _cancels(timer: asyncio.TimerHandle, task: "asyncio.Task[Any]") -> bool:
    """Whether *timer* will cancel *task*, as far as that shows."""
    callback: Any = getattr(timer, "_callback", None)
    arguments: tuple[object, ...] = getattr(timer, "_args", None) or ()
    while isinstance(callback, partial):
        callback, arguments = callback.func, (*callback.args, *arguments)
    if timer.cancelled() or getattr(callback, "__name__", "") != "cancel":
        return False
    return getattr(callback, "__self__", None) is task or any(each is task for each in arguments)


async def _longest_pause(calls: Sequence[Call[object]], clock: Callable[[], float]) -> float:
    """The longest time on *clock* for which the event loop stood still while the *calls* were made."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        last = clock()
        while True:
            await anyio.sleep(0.001)
            now = clock()
            longest = max(longest, now - last)
            last = now

    async def begin(number: int, call: Call[object]) -> object:
        # One after another: what several do before they first wait is no pause that one of them makes.
        await anyio.sleep(0.002 * number)
        return await call()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await together(partial(begin, number, call) for number, call in enumerate(calls, 1))
        await anyio.sleep(0.002)
        tasks.cancel_scope.cancel()
    return longest


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


def _says_missing(error: BaseException | None, operation: Operation) -> bool:
    """Whether *error* is that of a call with an argument which there is not."""
    return operation.argument is not None and isinstance(error, TypeError) and "unexpected keyword argument" in str(error)


def _gives_back(operation: Operation) -> bool:
    """Whether an operation gives a provider what that once gave out: what stands for it where nothing was arranged is no name."""
    arranged = list(inspect.signature(operation.call).parameters.values())[3:]
    return any(isinstance(each.default, str) for each in arranged)


def _running_time() -> float:
    """Seconds on a clock that stands still while this thread is ready to run and has no processor, if the system tells."""
    for _ in range(100):
        waited = _time_without_processor()
        now = time.perf_counter()
        if _time_without_processor() == waited:  # else it was interrupted between the two, and they do not belong together
            break
    return now - waited


def _waiting_time() -> float:
    """The same for a clock that stands still while this thread computes, too: it runs while the thread waits for something."""
    return _running_time() - time.thread_time()


def _time_without_processor() -> float:
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


@contextmanager
def _new_garbage_alone() -> Iterator[None]:
    """What the body leaves behind is the youngest generation, to be collected as quickly as the rule is small."""
    collects = gc.isenabled()
    gc.collect(1)
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _finalized() -> list[object]:
    """Everything that may warn of itself when it is collected: files, sockets, transports, event loops and their like."""
    objects = gc.get_objects()
    kinds = {each for each in set(map(type, objects)) if issubclass(each, io.IOBase | socket.socket) or hasattr(each, "__del__")}
    return [each for each in objects if type(each) in kinds]


def _task_name(task: Any) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or str(coroutine)
