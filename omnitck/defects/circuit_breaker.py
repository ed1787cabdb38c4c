"""Broken circuit breakers, in the order of the rules that reject them."""

import asyncio
import functools
import inspect
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients
from omnitck.reference.circuit_breaker import Admission, Circuit, Listener, MemoryCircuitBreaker, Result, Settings
from omnitck.reference.client import Cell
from omnitck.shared.exceptions import CircuitOpenError, InvalidArgumentError, UnavailableError
from omnitck.shared.models import CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

HOLDER: ContextVar[MemoryCircuitBreaker | None] = ContextVar("HOLDER", default=None)
"""Whose lock the task holds that asks."""

Machine = TypeVar("Machine", bound=type[Circuit])


def miswired(*rules: str, without: str = "") -> Callable[[Machine], Machine]:
    """Register a breaker with this state machine as failing exactly *rules*."""

    def decorate(machine: Machine) -> Machine:
        members = {"__module__": __name__, "__doc__": machine.__doc__, "circuit_type": machine}
        breaks(*rules, without=without)(type(machine.__name__, (MemoryCircuitBreaker,), members))
        return machine

    return decorate


# The common family

break_with(
    MemoryCircuitBreaker,
    {
        clients.PlainFunction: "BRK-COM-01",
        clients.UnknownCapability: "BRK-COM-02",
        clients.CapabilitiesAsText: "BRK-COM-02",
        clients.LimitsAsMapping: "BRK-COM-02",
        clients.LowLimit: "BRK-COM-02",
        clients.StaleAdvertisement: "BRK-COM-04",
        clients.DoubleRelease: "BRK-COM-07",
        clients.SilentReconnect: "BRK-COM-08",
        clients.SwallowingExit: "BRK-COM-09",
        clients.SharedPool: "BRK-53 BRK-67 BRK-69 BRK-COM-10",
        clients.OrphanedTask: "BRK-COM-11",
        clients.BreakingClose: "BRK-COM-11",
        clients.LeakingVendorError: "BRK-COM-12",
        clients.NoCause: "BRK-COM-12",
        clients.SwallowedCancellation: "BRK-COM-14",
        clients.DefaultOnCancellation: "BRK-14 BRK-COM-14",
        clients.PrintedPassword: "BRK-COM-24",
        clients.CrashedWorker: "BRK-COM-25",
        clients.EndlessFarewell: "BRK-COM-25",
        clients.CancelsItsCaller: "BRK-14 BRK-COM-26",
        clients.ForgottenTimer: "BRK-COM-26",
    },
)


@breaks("BRK-COM-03", without="manual_control")
class SilentOperator(MemoryCircuitBreaker):
    """`force_open` is there without being supported, and does nothing."""

    async def force_open(self) -> None:
        await self.turn()


@breaks("BRK-COM-23")
class BlockingOperator(MemoryCircuitBreaker):
    """`force_open` writes to a log by a blocking call, unless the settings say otherwise."""

    def need(self, capability: str) -> None:
        super().need(capability)
        if capability == "manual_control" and self.circuit.settings == Settings():
            time.sleep(0.15)


# Calls


class OtherCall(MemoryCircuitBreaker):
    """Base of a defect in how the operation is called."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await super().execute(self.instead_of(operation), *args, **kwargs)

    def instead_of(self, operation: Any) -> Any:
        """What is called instead."""
        return operation


@miswired("BRK-01")
class BeginsHalfOpen(Circuit):
    """A breaker that is made without settings begins half-open, to be careful."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings == Settings():
            self.state = HALF_OPEN


@breaks("BRK-02")
class OwnTimeout(MemoryCircuitBreaker):
    """`execute` takes a `timeout` of its own, which the operation never sees."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("timeout", None)
        return await super().execute(operation, *args, **kwargs)


@breaks("BRK-02")
class NoResultIsFailure(MemoryCircuitBreaker):
    """A result of None is taken for a failure."""

    def accepts(self, value: object) -> bool:
        return value is not None and super().accepts(value)


@breaks("BRK-02")
class ReturnedExceptionIsFailure(MemoryCircuitBreaker):
    """An exception that is returned is taken for one that was raised."""

    def accepts(self, value: object) -> bool:
        return not isinstance(value, Exception) and super().accepts(value)


@breaks("BRK-02")
class CopiedResult(MemoryCircuitBreaker):
    """A list is copied, so that a cache of results cannot be changed."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = await super().execute(operation, *args, **kwargs)
        return list(result) if isinstance(result, list) else result


@breaks("BRK-02")
class AwaitsTwice(OtherCall):
    """What an operation returns is awaited as long as it can be."""

    def instead_of(self, operation: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await operation(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call


@breaks("BRK-02")
class CoroutinesAlone(OtherCall):
    """The operation has to be a coroutine function."""

    def instead_of(self, operation: Any) -> Any:
        if not inspect.iscoroutinefunction(operation) and not isinstance(operation, functools.partial):

            def call(*args: Any, **kwargs: Any) -> Any:
                made = operation(*args, **kwargs)
                if not inspect.iscoroutine(made):
                    raise TypeError("a coroutine was expected")
                return made

            return call
        return operation


@breaks("BRK-03")
class RetriedOnce(OtherCall):
    """A failure is tried again before it counts."""

    def instead_of(self, operation: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await operation(*args, **kwargs)
            except KeyError as error:
                raise KeyError(*error.args) from error

        return call


@breaks("BRK-03", "BRK-14", "BRK-18", "BRK-19", "BRK-21", "BRK-62")
class TrippingCallIsRefused(MemoryCircuitBreaker):
    """The call that opens the circuit raises `CircuitOpenError` from the failure, as some libraries do."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        before = self.circuit.state
        try:
            return await super().execute(operation, *args, **kwargs)
        except Exception as error:
            if before is not OPEN and self.circuit.state is OPEN:
                raise CircuitOpenError("the circuit is open") from error
            raise


@breaks("BRK-03")
class GroupsAreUnwrapped(OtherCall):
    """Operations run in a task group, and of a group of exceptions the first is raised."""

    def instead_of(self, operation: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await operation(*args, **kwargs)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

        return call


@breaks("BRK-03")
class LostCause(OtherCall):
    """An exception is raised `from None`, to hide the breaker's own frames."""

    def instead_of(self, operation: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await operation(*args, **kwargs)
            except LookupError as error:
                raise error from None

        return call


@miswired(
    "BRK-03",
    "BRK-04",
    "BRK-05",
    "BRK-06",
    "BRK-08",
    "BRK-09",
    "BRK-10",
    "BRK-11",
    "BRK-12",
    "BRK-13",
    "BRK-14",
    "BRK-15",
    "BRK-16",
    "BRK-17",
    "BRK-19",
    "BRK-21",
    "BRK-22",
    "BRK-23",
    "BRK-27",
    "BRK-29",
    "BRK-30",
    "BRK-33",
    "BRK-34",
    "BRK-35",
    "BRK-37",
    "BRK-38",
    "BRK-39",
    "BRK-44",
    "BRK-45",
    "BRK-46",
    "BRK-47",
    "BRK-48",
    "BRK-49",
    "BRK-51",
    "BRK-53",
    "BRK-55",
    "BRK-59",
    "BRK-60",
    "BRK-62",
    "BRK-64",
    "BRK-66",
    "BRK-67",
    "BRK-68",
)
class MoreThanThreshold(Circuit):
    """`>` for `>=`."""

    def is_over(self, now: float) -> bool:
        if self.settings.window is None:
            return self.failures > self.settings.failure_threshold
        return super().is_over(now)


@miswired("BRK-04")
class SmallCounter(Circuit):
    """The history of results has room for twenty."""

    def is_over(self, now: float) -> bool:
        self.failures = min(self.failures, 20)
        return super().is_over(now)


@miswired("BRK-05", "BRK-11", "BRK-16", "BRK-33", "BRK-39", "BRK-51")
class RefusalIsFailure(Circuit):
    """A refusal begins the timeout anew."""

    def admit(self, now: float) -> Admission | None:
        admission = super().admit(now)
        if admission is None and self.state is OPEN and self.opens_until != math.inf:
            self.opens_until = now + self.settings.reset_timeout
        return admission


@breaks(
    "BRK-05",
    "BRK-11",
    "BRK-16",
    "BRK-21",
    "BRK-23",
    "BRK-27",
    "BRK-33",
    "BRK-35",
    "BRK-39",
    "BRK-45",
    "BRK-48",
    "BRK-50",
    "BRK-51",
    "BRK-53",
    "BRK-55",
    "BRK-57",
    "BRK-62",
)
class CallsFirst(OtherCall):
    """The coroutine is made before the circuit is asked, and is closed if it is refused."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.state is OPEN:
            with suppress(Exception):
                await operation(*args, **kwargs)
        return await super().execute(operation, *args, **kwargs)


@miswired("BRK-02", "BRK-06", "BRK-34", "BRK-55", "BRK-60")
class TotalCount(Circuit):
    """Failures are counted for as long as the circuit is closed."""

    def credit(self, result: Result) -> None:
        before = self.failures
        generation = self.generation
        super().credit(result)
        if not result.failed and generation == self.generation:
            self.failures = before


@breaks(
    "BRK-07",
    "BRK-09",
    "BRK-12",
    "BRK-16",
    "BRK-17",
    "BRK-18",
    "BRK-22",
    "BRK-28",
    "BRK-29",
    "BRK-30",
    "BRK-31",
    "BRK-32",
    "BRK-33",
    "BRK-40",
    "BRK-41",
    "BRK-42",
    "BRK-43",
    "BRK-45",
    "BRK-47",
    "BRK-49",
    "BRK-55",
    "BRK-60",
    "BRK-61",
    "BRK-68",
)
class Serialised(MemoryCircuitBreaker):
    """A lock is held during the call."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.lock = anyio.Lock()

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        async with self.lock:
            return await super().execute(operation, *args, **kwargs)


@breaks("BRK-07")
class Bulkhead(MemoryCircuitBreaker):
    """At most a hundred calls are made at once, and the others wait."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limit = anyio.Semaphore(100)

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        async with self.limit:
            return await super().execute(operation, *args, **kwargs)


# Open and half-open


@miswired("BRK-08", "BRK-55")
class TimerOfFirstFailure(Circuit):
    """The timeout counts from the first failure of the row."""

    first = 0.0

    def credit(self, result: Result) -> None:
        if result.failed and self.failures == 0:
            self.first = result.at
        super().credit(result)

    def open(self, now: float) -> None:
        was_closed = self.state is CLOSED
        super().open(now)
        if was_closed and self.settings.window is None:
            self.opens_until = self.first + self.settings.reset_timeout


@breaks(
    "BRK-05",
    "BRK-08",
    "BRK-10",
    "BRK-11",
    "BRK-15",
    "BRK-16",
    "BRK-18",
    "BRK-23",
    "BRK-27",
    "BRK-28",
    "BRK-29",
    "BRK-30",
    "BRK-37",
    "BRK-39",
    "BRK-46",
    "BRK-55",
)
class OpenUntilCalled(MemoryCircuitBreaker):
    """The state changes with the next call."""

    @property
    def state(self) -> CircuitState:
        return self.circuit.state


@miswired("BRK-05", "BRK-08", "BRK-11", "BRK-16", "BRK-18", "BRK-27", "BRK-33", "BRK-39", "BRK-41", "BRK-51")
class LookBeginsTimer(Circuit):
    """To ask for the state begins the timeout anew."""

    def look(self, now: float) -> CircuitState:
        state = super().look(now)
        if state is OPEN and self.opens_until != math.inf:
            self.opens_until = now + self.settings.reset_timeout
        return state


@miswired(
    "BRK-05",
    "BRK-08",
    "BRK-09",
    "BRK-10",
    "BRK-11",
    "BRK-12",
    "BRK-15",
    "BRK-16",
    "BRK-17",
    "BRK-18",
    "BRK-19",
    "BRK-22",
    "BRK-23",
    "BRK-26",
    "BRK-27",
    "BRK-28",
    "BRK-29",
    "BRK-30",
    "BRK-33",
    "BRK-37",
    "BRK-39",
    "BRK-41",
    "BRK-42",
    "BRK-43",
    "BRK-44",
    "BRK-45",
    "BRK-46",
    "BRK-47",
    "BRK-49",
    "BRK-55",
    "BRK-67",
    "BRK-68",
)
class ClosedAfterTimeout(Circuit):
    """After the timeout it is closed."""

    def look(self, now: float) -> CircuitState:
        if super().look(now) is HALF_OPEN:
            self.change(CLOSED)
        return self.state


@miswired(
    "BRK-09",
    "BRK-17",
    "BRK-22",
    "BRK-29",
    "BRK-30",
    "BRK-33",
    "BRK-41",
    "BRK-45",
    "BRK-47",
    "BRK-49",
    "BRK-55",
    "BRK-67",
    "BRK-68",
)
class LetsAllIn(Circuit):
    """Half-open, it lets in whatever comes."""

    def admit(self, now: float) -> Admission | None:
        self.probes.clear()
        return super().admit(now)


@breaks("BRK-09", "BRK-30")
class LetsTheCrowdIn(MemoryCircuitBreaker):
    """Between the look at the places and the taking of one it waits for its store."""

    async def turn(self) -> None:
        await super().turn()
        circuit = self.circuit
        free = circuit.look(self.now()) is HALF_OPEN and len(circuit.probes) < circuit.settings.half_open_max_calls
        await anyio.lowlevel.checkpoint()
        if free and len(circuit.probes) >= circuit.settings.half_open_max_calls:
            circuit.probes.pop()


@miswired("BRK-09", "BRK-17", "BRK-22", "BRK-29", "BRK-30", "BRK-41", "BRK-47", "BRK-55", "BRK-67")
class RefusalFreesPlace(Circuit):
    """A refused call leaves by the same `finally`, and gives a place back that it never had."""

    def admit(self, now: float) -> Admission | None:
        admission = super().admit(now)
        if admission is None and self.state is HALF_OPEN and self.probes:
            self.probes.pop()
        return admission


@breaks("BRK-09", "BRK-41", "BRK-47", "BRK-55")
class WaitsForPlace(MemoryCircuitBreaker):
    """Where several calls are let in when it is half-open, others wait until there is a place."""

    async def turn(self) -> None:
        await super().turn()
        while self.circuit.settings.half_open_max_calls > 1 and (
            self.circuit.look(self.now()) is HALF_OPEN and len(self.circuit.probes) >= self.circuit.settings.half_open_max_calls
        ):
            await anyio.sleep(0.01)


@miswired("BRK-09", "BRK-12", "BRK-29", "BRK-41", "BRK-47", "BRK-54", "BRK-55", "BRK-68")
class OneProbeOnly(Circuit):
    """Half-open, one call is let in, whatever the settings say."""

    def admit(self, now: float) -> Admission | None:
        if self.look(now) is HALF_OPEN and self.probes:
            return None
        return super().admit(now)


@miswired("BRK-09", "BRK-15", "BRK-17", "BRK-19", "BRK-20", "BRK-29", "BRK-43", "BRK-44", "BRK-49", "BRK-54", "BRK-55", "BRK-69")
class PlacesAreForGood(Circuit):
    """Half-open, so many calls are let in altogether, and never one more."""

    used = 0

    def change(self, state: CircuitState) -> None:
        super().change(state)
        self.used = 0

    def admit(self, now: float) -> Admission | None:
        if self.look(now) is HALF_OPEN:
            if self.used >= max(self.settings.half_open_max_calls, self.settings.success_threshold):
                return None
            self.used += 1
        return super().admit(now)


@miswired("BRK-09", "BRK-10", "BRK-11", "BRK-12", "BRK-17", "BRK-41", "BRK-47", "BRK-55", "BRK-68")
class OneSuccessCloses(Circuit):
    """The first success closes it."""

    def credit_probe(self, result: Result) -> None:
        self.successes = self.settings.success_threshold
        super().credit_probe(result)


@miswired("BRK-05", "BRK-10", "BRK-11", "BRK-17", "BRK-18", "BRK-27", "BRK-55")
class OldFailuresCount(Circuit):
    """Closing leaves the count of failures."""

    kept = 0

    def change(self, state: CircuitState) -> None:
        if state is OPEN:
            self.kept = self.failures
        super().change(state)
        if state is CLOSED:
            self.failures = self.kept - 1 if self.kept else 0


@miswired("BRK-09", "BRK-10", "BRK-11", "BRK-12", "BRK-17", "BRK-47", "BRK-49", "BRK-55", "BRK-68")
class NeverEnoughPlaces(Circuit):
    """A success keeps its place until the circuit closes."""

    def credit_probe(self, result: Result) -> None:
        super().credit_probe(result)
        if self.state is HALF_OPEN:
            self.probes.add(Admission(self.generation, math.inf))


@miswired("BRK-11", "BRK-55")
class TimerNotRestarted(Circuit):
    """A failed probe opens it until the old moment, which is past."""

    def open(self, now: float) -> None:
        before, old = self.state, self.opens_until
        super().open(now)
        if before is HALF_OPEN:
            self.opens_until = min(self.opens_until, old + 1.5 * self.settings.reset_timeout)


@miswired("BRK-11", "BRK-19", "BRK-55")
class ThresholdHalfOpen(Circuit):
    """Half-open, it needs as many failures as ever to open again."""

    tries = 0

    def change(self, state: CircuitState) -> None:
        super().change(state)
        self.tries = 0

    def credit_probe(self, result: Result) -> None:
        self.tries += result.failed
        if not result.failed or self.tries >= self.settings.failure_threshold:
            super().credit_probe(result)


@miswired("BRK-11", "BRK-41", "BRK-55")
class SuccessesAreKept(Circuit):
    """Successes of the last try count in the next."""

    def change(self, state: CircuitState) -> None:
        successes = self.successes
        super().change(state)
        if state is not CLOSED:
            self.successes = successes


@breaks("BRK-12", "BRK-17", "BRK-20", "BRK-47", "BRK-49", "BRK-55", "BRK-69")
class StuckHalfOpen(MemoryCircuitBreaker):
    """A cancelled call keeps its place."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, probes = self.circuit, set(self.circuit.probes)
        try:
            return await super().execute(operation, *args, **kwargs)
        except anyio.get_cancelled_exc_class():
            if circuit.state is HALF_OPEN:
                circuit.probes |= probes or {Admission(circuit.generation, self.now())}
            raise


@breaks("BRK-12")
class PlaceTakenBeforeWaiting(MemoryCircuitBreaker):
    """The place is taken before the `try`, in which a store is asked."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.check_usable()
        circuit = self.circuit
        if circuit.look(self.now()) is not HALF_OPEN:
            return await super().execute(operation, *args, **kwargs)
        admission = circuit.admit(self.now())
        if admission is None:
            raise self.refusal()
        await anyio.lowlevel.checkpoint()
        circuit.probes.discard(admission)
        return await super().execute(operation, *args, **kwargs)


# What is neither failure nor success


@breaks("BRK-13", "BRK-14", "BRK-42", "BRK-43", "BRK-55")
class CountsCancellation(MemoryCircuitBreaker):
    """`except BaseException` counts a cancelled call as a failure."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, generation = self.circuit, self.circuit.generation
        try:
            return await super().execute(operation, *args, **kwargs)
        except anyio.get_cancelled_exc_class():
            if circuit.state is CLOSED and generation == circuit.generation:
                circuit.credit(Result(self.now(), True, False))
            raise


@breaks("BRK-13", "BRK-42", "BRK-55")
class CancellationIsSuccess(MemoryCircuitBreaker):
    """What raised no `Exception` counts as a success."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, generation = self.circuit, self.circuit.generation
        try:
            return await super().execute(operation, *args, **kwargs)
        except anyio.get_cancelled_exc_class():
            if circuit.state is CLOSED and generation == circuit.generation:
                circuit.credit(Result(self.now(), False, False))
            raise


@breaks("BRK-03", "BRK-04", "BRK-14")
class TimeoutIsCancellation(OtherCall):
    """A `TimeoutError` of the operation is not counted."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.excluded = (*self.excluded, TimeoutError)


@breaks("BRK-15")
class ExcludedIsFailure(MemoryCircuitBreaker):
    """Of the excluded classes the first is looked at."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.excluded = self.excluded[:1]


@breaks("BRK-15")
class ExcludedExactly(OtherCall):
    """`type(error) in excluded`: a subclass is no member."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, generation = self.circuit, self.circuit.generation
        try:
            return await super().execute(operation, *args, **kwargs)
        except self.excluded as error:
            if type(error) not in self.excluded and circuit.state is CLOSED and generation == circuit.generation:
                circuit.credit(Result(self.now(), True, False))
            raise


@breaks("BRK-15", "BRK-55")
class ExcludedCloses(MemoryCircuitBreaker):
    """Half-open, what is excluded is a success: somebody has answered."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, generation = self.circuit, self.circuit.generation
        try:
            return await super().execute(operation, *args, **kwargs)
        except self.excluded:
            if circuit.state is HALF_OPEN and generation == circuit.generation:
                circuit.credit(Result(self.now(), False, False))
            raise


@breaks("BRK-13", "BRK-15", "BRK-55")
class ExcludedEndsRow(MemoryCircuitBreaker):
    """What is excluded ends the row of failures."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, generation = self.circuit, self.circuit.generation
        try:
            return await super().execute(operation, *args, **kwargs)
        except self.excluded:
            if generation == circuit.generation:
                circuit.failures = 0
            raise


# Late results


class Credulous(Circuit):
    """Base of a defect that credits a result to the present state."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        if admission.generation != self.generation and failed is not None:
            self.late(admission, now, failed)
        super().finish(admission, now, failed=failed)

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        """A result comes late."""


@miswired("BRK-16", "BRK-41", "BRK-45", "BRK-49", "BRK-55")
class LateSuccessCloses(Credulous):
    """A late success closes an open circuit."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if self.state is OPEN and not failed:
            self.change(CLOSED)


@miswired("BRK-16", "BRK-18", "BRK-41", "BRK-49", "BRK-55")
class LateFailureExtends(Credulous):
    """A late failure begins the timeout anew."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if self.state is OPEN and failed:
            self.open(now)


@miswired("BRK-17", "BRK-41", "BRK-45", "BRK-49", "BRK-55")
class LateResultIsProbe(Credulous):
    """Half-open, a late result counts as one of a probe."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if self.look(now) is HALF_OPEN:
            self.credit(Result(now, failed, False))


@miswired("BRK-17", "BRK-41", "BRK-42", "BRK-45", "BRK-55")
class LateResultIsCurrent(Credulous):
    """Closed again, a late failure counts."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if self.look(now) is CLOSED and failed:
            self.credit(Result(now, failed, False))


@miswired("BRK-17")
class LateSuccessEndsRow(Credulous):
    """Closed again, a late success ends the row of failures."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if self.look(now) is CLOSED and not failed:
            self.failures = 0


@miswired("BRK-17", "BRK-41", "BRK-45", "BRK-55")
class LateCallFreesPlace(Circuit):
    """Half-open, whatever ends frees a place."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        if admission.generation < self.generation and self.look(now) is HALF_OPEN and self.probes:
            self.probes.pop()
        super().finish(admission, now, failed=failed)


@breaks("BRK-18")
class LastException(MemoryCircuitBreaker):
    """The failure is kept on the breaker until it is raised."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute(operation, *args, **kwargs)
        except Exception as error:
            if isinstance(error, CircuitOpenError):
                raise
            self.last = error
            await anyio.lowlevel.checkpoint()
            raise self.last from self.last.__cause__


@breaks("BRK-19")
class CallsOutsideTry(OtherCall):
    """The coroutine is made before the `try`, and what is raised there is not counted."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        unseen: list[BaseException] = []
        circuit, failures = self.circuit, self.circuit.failures

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return operation(*args, **kwargs)
            except Exception as error:
                unseen.append(error)
                raise

        try:
            return await super().execute(call, *args, **kwargs)
        except Exception as error:
            if error in unseen and circuit.state is not HALF_OPEN:
                circuit.change(CLOSED)
                circuit.failures = failures
            raise


@breaks("BRK-20")
class ExceptionsAlone(MemoryCircuitBreaker):
    """`except Exception` gives the place back."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit = self.circuit
        try:
            return await super().execute(operation, *args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception | anyio.get_cancelled_exc_class()) and circuit.state is OPEN:
                circuit.change(HALF_OPEN)
                circuit.probes.add(Admission(circuit.generation, self.now()))
            raise


@breaks("BRK-21")
class TakesItForItsOwn(MemoryCircuitBreaker):
    """`except CircuitOpenError: raise` stands before the failures."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.excluded = (*self.excluded, CircuitOpenError)


@breaks("BRK-22")
class LockForHalfOpen(MemoryCircuitBreaker):
    """Half-open, a lock is held during the call, for which one that is made by the operation waits for ever."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.state is not HALF_OPEN:
            return await super().execute(operation, *args, **kwargs)
        if HOLDER.get() is self:
            await anyio.sleep_forever()
        before = HOLDER.set(self)
        try:
            return await super().execute(operation, *args, **kwargs)
        finally:
            HOLDER.reset(before)


@breaks("BRK-23", "BRK-63", without="shared_state")
class WallClock(MemoryCircuitBreaker):
    """Time is `time.time()`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.offset = time.time() - time.monotonic()
        super().__init__(*arguments, **keywords)

    def now(self) -> float:
        # In whole minutes: the two clocks are not read at the same moment.
        return super().now() + 60 * round((time.time() - time.monotonic() - self.offset) / 60)


@breaks("BRK-23", "BRK-63")
class RememberedJump(WallClock):
    """A jump of the wall clock is taken for time that has passed, and stays when the clock is set right."""

    def now(self) -> float:
        passed: float = max(self.backend.__dict__.get("passed", 0.0), super().now() - self.backend.clock.now())
        self.backend.__dict__["passed"] = passed
        return self.backend.clock.now() + passed


# sliding_window


@miswired("BRK-24", "BRK-55", "BRK-56", "BRK-58")
class MoreThanRate(Circuit):
    """`>` for `>=`, of the rate."""

    def is_over(self, now: float) -> bool:
        exactly = sum(each.failed for each in self.window) == self.settings.failure_rate * len(self.window)
        return super().is_over(now) and (self.settings.window is None or not exactly or self.settings.failure_rate == 1)


@miswired("BRK-24", "BRK-25", "BRK-26", "BRK-42", "BRK-43", "BRK-56", "BRK-58", "BRK-61", "BRK-65", "BRK-68")
class NoMinimum(Circuit):
    """The first failure is all failures that there were."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, minimum_calls=1))


@miswired("BRK-24", "BRK-55")
class NeverLeaves(Circuit):
    """A window of calls holds all that there ever were."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.window: deque[Result] = deque()


@miswired("BRK-24")
class RowsToo(Circuit):
    """Failures in a row are counted beside the window, up to a default."""

    def is_over(self, now: float) -> bool:
        return super().is_over(now) or self.failures >= self.settings.failure_threshold


@miswired("BRK-24", "BRK-55")
class OneTooMany(Circuit):
    """The window holds one call more than it should."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.window == "count":
            self.window = deque(maxlen=int(settings.window_size) + 1)


@miswired("BRK-25")
class Tumbling(Circuit):
    """A window of time is emptied as a whole when it is over."""

    began = -math.inf

    def credit(self, result: Result) -> None:
        if self.settings.window == "time" and result.at - self.began > self.settings.window_size:
            self.began = result.at
            self.window.clear()
        super().credit(result)


@miswired("BRK-25", "BRK-61")
class NeverOlder(Circuit):
    """A window of time is one of calls."""

    def is_over(self, now: float) -> bool:
        before = self.window.copy()
        over = super().is_over(now)
        if not over:
            self.window = before
        return super().is_over(self.window[0].at if self.window else now) if self.settings.window == "time" else over


@miswired("BRK-25", "BRK-55")
class SuccessesStay(Circuit):
    """Failures leave the window with time, and successes are a plain number."""

    total = 0

    def credit(self, result: Result) -> None:
        self.total += not result.failed
        super().credit(result)

    def is_over(self, now: float) -> bool:
        over = super().is_over(now)
        if self.settings.window != "time":
            return over
        failures = sum(each.failed for each in self.window)
        return over and failures >= self.settings.failure_rate * (failures + self.total)


# slow_call


@miswired("BRK-26", "BRK-55", "BRK-63")
class FailuresAreTimed(Circuit):
    """Only what fails is timed."""

    def credit(self, result: Result) -> None:
        super().credit(result if result.failed else result._replace(slow=False))


@miswired("BRK-26", "BRK-55")
class QuickHalfOpen(Circuit):
    """Half-open, a slow success is a success."""

    def credit_probe(self, result: Result) -> None:
        super().credit_probe(result._replace(slow=False))


@miswired("BRK-26", "BRK-61")
class AnySlowCall(Circuit):
    """One slow call is enough."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, slow_call_rate=0.01))


# manual_control


@miswired("BRK-27", "BRK-46", "BRK-50", "BRK-55", "BRK-57")
class TimerReopens(Circuit):
    """After `force_open` the timeout runs as ever."""

    def force_open(self, now: float) -> None:
        super().force_open(now)
        self.opens_until = now + self.settings.reset_timeout


@miswired("BRK-27", "BRK-55", "BRK-57")
class OldTimerRuns(Circuit):
    """`force_open` of an open circuit changes nothing, and its timer ends it."""

    def force_open(self, now: float) -> None:
        if self.look(now) is not OPEN:
            super().force_open(now)


@miswired("BRK-27", "BRK-55")
class TimerOutlivesReset(Circuit):
    """`reset` leaves the timer, which ends the next timeout."""

    stale = math.inf

    def reset(self, now: float) -> None:
        if self.look(now) is OPEN:
            self.stale = self.opens_until
        super().reset(now)

    def look(self, now: float) -> CircuitState:
        if self.state is OPEN and now >= self.stale:
            self.opens_until, self.stale = now, math.inf
        return super().look(now)


@miswired("BRK-27")
class ResetKeepsCount(Circuit):
    """`reset` leaves the count of failures."""

    kept = 0

    def force_open(self, now: float) -> None:
        self.kept = self.failures
        super().force_open(now)

    def reset(self, now: float) -> None:
        super().reset(now)
        self.failures, self.kept = self.kept, 0


# events


@miswired("BRK-28", "BRK-55")
class ToldTwice(Circuit):
    """Each failure that arrives when it is open tells of it again."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        late = admission.generation < self.generation
        super().finish(admission, now, failed=failed)
        if late and failed and self.state is OPEN and self.opens_until != math.inf:
            self.tell(CLOSED, OPEN)


@miswired("BRK-28", "BRK-46", "BRK-55")
class HalfOpenIsQuiet(Circuit):
    """That it is half-open, nobody is told."""

    def tell(self, old: CircuitState, new: CircuitState) -> None:
        if new is not HALF_OPEN:
            super().tell(old, new)


@miswired("BRK-28", "BRK-66")
class ListenerRaises(Circuit):
    """What a listener raises takes the place of the result."""

    def tell(self, old: CircuitState, new: CircuitState) -> None:
        for each in list(self.listeners):
            each(old, new)


@miswired("BRK-28")
class ToldBefore(Circuit):
    """Listeners are told before the state is changed; one that looks at it begins the change anew."""

    def change(self, state: CircuitState) -> None:
        if self.state is not state:
            self.tell(self.state, state)
        before, self.listeners = self.listeners, []
        super().change(state)
        self.listeners = before


# half_open_timeout


@miswired("BRK-29", "BRK-47", "BRK-54")
class HangsForever(Circuit):
    """`half_open_timeout` is taken, and forgotten."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, half_open_timeout=math.inf))


@miswired("BRK-29", "BRK-47")
class TimeoutOfTheState(Circuit):
    """`half_open_timeout` counts from the beginning of `HALF_OPEN`."""

    def admit(self, now: float) -> Admission | None:
        admission = super().admit(now)
        if admission is not None and admission in self.probes and self.settings.half_open_timeout < math.inf:
            admission.at = min(self.opens_until, now)
        return admission


# shared_state


@breaks("BRK-30", "BRK-48", "BRK-49", "BRK-50", "BRK-51", "BRK-53", "BRK-55", "BRK-58", "BRK-59", "BRK-67", "BRK-68")
class StateOfItsOwn(MemoryCircuitBreaker):
    """Each client has a state of its own, whatever its name."""

    def join(self, settings: Settings) -> Circuit:
        super().join(settings)
        return self.circuit_type(settings)


@breaks("BRK-30", "BRK-49", "BRK-55", "BRK-67", "BRK-68")
class PlacesOfItsOwn(MemoryCircuitBreaker):
    """The state is shared, and each client has places of its own."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.mine: set[Admission] = set()

    async def turn(self) -> None:
        await super().turn()
        if self.name is not None:
            self.mine &= self.circuit.probes
            self.circuit.probes = set(self.mine)

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.mine |= self.circuit.probes
            return operation(*args, **kwargs)

        return await super().execute(call, *args, **kwargs)


@breaks("BRK-30", "BRK-31", "BRK-32", "BRK-49", "BRK-54", "BRK-55", "BRK-67", "BRK-68")
class StoreLock(MemoryCircuitBreaker):
    """The lock of a name in the store is held during the call."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.name is None:
            return await super().execute(operation, *args, **kwargs)
        lock = self.backend.__dict__.setdefault("locks", {}).setdefault(self.name, anyio.Lock())
        async with lock:
            return await super().execute(operation, *args, **kwargs)


@breaks("BRK-32")
class ReportReplacesResult(MemoryCircuitBreaker):
    """A report that does not reach the store raises in the place of the result."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = await super().execute(operation, *args, **kwargs)
        if not self.backend.reachable:
            raise UnavailableError("the store does not answer") from ConnectionRefusedError("connection refused")
        return result


@breaks("BRK-32")
class ReportReplacesException(MemoryCircuitBreaker):
    """A report of a failure that does not reach the store raises in the place of the failure."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        reachable = self.backend.reachable
        try:
            return await super().execute(operation, *args, **kwargs)
        except Exception as error:
            if reachable and not self.backend.reachable:
                raise UnavailableError("the store does not answer") from error
            raise


# retry_after, result_predicate, refusals


class OtherRefusal(MemoryCircuitBreaker):
    """Base of a defect in what a refusal says."""

    def refusal(self) -> CircuitOpenError:
        error = super().refusal()
        if error.retry_after is not None:
            error.retry_after = self.instead_of(error.retry_after)
        return error

    def instead_of(self, left: float) -> float | None:
        """What is said instead of the time that is left."""
        return left


@breaks("BRK-33", "BRK-51")
class ConstantRetry(OtherRefusal):
    """`retry_after` is always `reset_timeout`."""

    def instead_of(self, left: float) -> float | None:
        return self.circuit.settings.reset_timeout


@breaks("BRK-33", "BRK-51")
class MomentOfRetry(OtherRefusal):
    """`retry_after` is a moment on the monotonic clock."""

    def instead_of(self, left: float) -> float | None:
        return 1_000_000.0 + left


@breaks("BRK-33", "BRK-51")
class ElapsedInsteadOfLeft(OtherRefusal):
    """`retry_after` is the time that has passed."""

    def instead_of(self, left: float) -> float | None:
        return self.circuit.settings.reset_timeout - left


@breaks("BRK-34", "BRK-44", "BRK-56")
class RejectedIsRaised(MemoryCircuitBreaker):
    """A result that is rejected is replaced by an exception."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = await super().execute(operation, *args, **kwargs)
        if self.result_predicate is not None and self.result_predicate(result) is False:
            raise InvalidArgumentError("the result was rejected")
        return result


@breaks("BRK-34", "BRK-55", "BRK-56")
class CountedTwice(MemoryCircuitBreaker):
    """A rejected result is raised within, and counted there once more."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, generation = self.circuit, self.circuit.generation
        result = await super().execute(operation, *args, **kwargs)
        rejected = self.result_predicate is not None and self.circuit.failures > 0
        if rejected and circuit.state is CLOSED and generation == circuit.generation:
            circuit.credit(Result(self.now(), True, False))
        return result


@breaks("BRK-34", "BRK-44", "BRK-55", "BRK-56")
class PredicateIgnored(MemoryCircuitBreaker):
    """`result_predicate` is taken, and never asked."""

    def accepts(self, value: object) -> bool:
        return True


@breaks("BRK-35", "BRK-62")
class OneInstance(MemoryCircuitBreaker):
    """Every refusal raises one exception, which was made with the breaker."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.refused = CircuitOpenError("the circuit is open")

    def refusal(self) -> CircuitOpenError:
        self.refused.retry_after = super().refusal().retry_after
        return self.refused


@breaks("BRK-35")
class ChainOfRefusals(MemoryCircuitBreaker):
    """Each refusal has the one before it as its cause."""

    last: CircuitOpenError | None = None

    def refusal(self) -> CircuitOpenError:
        error = super().refusal()
        error.__cause__, self.last = self.last, error
        return error


# Settings


@breaks("BRK-36")
class TakesAnything(MemoryCircuitBreaker):
    """Settings are taken as they come, and repaired."""

    def settled(self, given: dict[str, Any]) -> Settings:
        repaired = {}
        for name, value in given.items():
            with suppress(InvalidArgumentError):
                replace(Settings(window="time"), **{name: value}).check()
                repaired[name] = value
        return super().settled(repaired)


@breaks("BRK-36")
class ZeroThreshold(MemoryCircuitBreaker):
    """A threshold of 0 is 1."""

    def settled(self, given: dict[str, Any]) -> Settings:
        return super().settled(given | ({"failure_threshold": 1} if given.get("failure_threshold") == 0 else {}))


@breaks("BRK-36")
class NaNTimeout(MemoryCircuitBreaker):
    """`if timeout < 0: raise`, which a timeout that is no number is not."""

    def settled(self, given: dict[str, Any]) -> Settings:
        timeout = given.get("reset_timeout", 1.0)
        return super().settled(given | ({"reset_timeout": 1.0} if timeout != timeout else {}))


@breaks("BRK-36")
class VendorsError(MemoryCircuitBreaker):
    """A setting that cannot be raises what the library raises."""

    def settled(self, given: dict[str, Any]) -> Settings:
        try:
            return super().settled(given)
        except InvalidArgumentError as error:
            raise ValueError(str(error)) from None


class Short(MemoryCircuitBreaker):
    """Base of a defect in what becomes of a timeout that is too short."""

    def is_short(self, timeout: object) -> bool:
        """Whether it is."""
        return isinstance(timeout, float) and 0 < timeout < self.limits.min_ttl


@breaks("BRK-37")
class ShortIsRefused(Short):
    """A timeout shorter than the shortest is refused."""

    def settled(self, given: dict[str, Any]) -> Settings:
        if self.is_short(given.get("reset_timeout")):
            raise InvalidArgumentError("reset_timeout is too short")
        return super().settled(given)


@breaks("BRK-37")
class ShortIsLong(Short):
    """A timeout that is too short is rounded up to a second."""

    def settled(self, given: dict[str, Any]) -> Settings:
        if self.is_short(given.get("reset_timeout")):
            given = given | {"reset_timeout": 1.0}
        return super().settled(given)


@breaks(
    "BRK-03",
    "BRK-08",
    "BRK-09",
    "BRK-10",
    "BRK-12",
    "BRK-16",
    "BRK-17",
    "BRK-23",
    "BRK-24",
    "BRK-25",
    "BRK-26",
    "BRK-27",
    "BRK-28",
    "BRK-37",
    "BRK-38",
    "BRK-39",
    "BRK-40",
    "BRK-41",
    "BRK-42",
    "BRK-43",
    "BRK-44",
    "BRK-45",
    "BRK-55",
    "BRK-63",
    "BRK-65",
)
class StateOfTheModule(MemoryCircuitBreaker):
    """Breakers without a name share one."""

    def join(self, settings: Settings) -> Circuit:
        if self.name is not None:
            return super().join(settings)
        return self.backend.circuits.setdefault(Cell(None, f"{settings.failure_threshold}"), self.circuit_type(settings))


@breaks("BRK-38")
class SharedExclusions(MemoryCircuitBreaker):
    """What is excluded is collected in a list of the class."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        known = self.backend.__dict__.setdefault("excluded", [])
        known.extend(self.excluded)
        self.known = known

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        own, self.excluded = self.excluded, tuple(self.known)
        try:
            return await super().execute(operation, *args, **kwargs)
        finally:
            self.excluded = own


@breaks("BRK-39")
class SignedMilliseconds(MemoryCircuitBreaker):
    """Milliseconds have 32 bits, of which one is the sign."""

    def settled(self, given: dict[str, Any]) -> Settings:
        settings = super().settled(given)
        milliseconds = settings.reset_timeout * 1000
        if milliseconds >= 2**31:
            return replace(settings, reset_timeout=max((milliseconds + 2**31) % 2**32 - 2**31, 1) / 1000)
        return settings


@breaks("BRK-39")
class UnsignedMilliseconds(MemoryCircuitBreaker):
    """Milliseconds have 32 bits."""

    def settled(self, given: dict[str, Any]) -> Settings:
        settings = super().settled(given)
        return replace(settings, reset_timeout=settings.reset_timeout % (2**32 / 1000))


@breaks("BRK-40")
class FreshContext(MemoryCircuitBreaker):
    """The operation runs in a worker, with a context of its own."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                return await operation(*args, **kwargs)

            task = asyncio.get_running_loop().create_task(run(), context=Context())
            try:
                return await task
            except asyncio.CancelledError:
                task.cancel()
                raise

        return await super().execute(call, *args, **kwargs)


@breaks("BRK-40")
class ProbeInWorker(FreshContext):
    """Half-open, it probes from a task in the background."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.state is HALF_OPEN:
            return await super().execute(operation, *args, **kwargs)
        return await MemoryCircuitBreaker.execute(self, operation, *args, **kwargs)


# Two things at once


@miswired("BRK-41", "BRK-55")
class LateProbeCloses(Credulous):
    """A success that was let in half-open closes the circuit, whatever it is by now."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if not failed and self.state is OPEN and admission.generation and self.opens_until != math.inf:
            self.change(CLOSED)


@miswired("BRK-41", "BRK-45", "BRK-55")
class HangingProbeKeepsPlace(Circuit):
    """Places are a semaphore, which a call of an earlier `HALF_OPEN` keeps."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.held: set[Admission] = set()

    def admit(self, now: float) -> Admission | None:
        if self.look(now) is HALF_OPEN and len(self.held) >= self.settings.half_open_max_calls:
            self.held = {each for each in self.held if now - each.at < self.settings.half_open_timeout}
            if len(self.held) >= self.settings.half_open_max_calls:
                return None
        admission = super().admit(now)
        if admission is not None and self.state is HALF_OPEN:
            self.held.add(admission)
        return admission

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        self.held.discard(admission)
        super().finish(admission, now, failed=failed)


@miswired("BRK-42", "BRK-55")
class NeutralDilutes(Circuit):
    """A call that is neither failure nor success is one in the window."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        super().finish(admission, now, failed=failed)
        if failed is None and self.state is CLOSED and admission.generation == self.generation:
            self.window.append(Result(now, False, False))


@miswired("BRK-42", "BRK-55", "BRK-65")
class WindowIsKept(Circuit):
    """Closing leaves the window as it was."""

    def change(self, state: CircuitState) -> None:
        before = self.window.copy()
        super().change(state)
        self.window.extend(before)


@miswired("BRK-42", "BRK-55")
class LateInWindow(Credulous):
    """A late result is in the window."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if self.look(now) is CLOSED:
            self.window.append(Result(now, failed, False))


@miswired("BRK-43")
class NeutralIsTimed(Circuit):
    """Calls are timed in a `finally`, also what is not counted otherwise."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        if failed is None and now - admission.at >= self.settings.slow_call_duration:
            failed = False
        super().finish(admission, now, failed=failed)


@miswired("BRK-43")
class SuccessesAreTimed(Circuit):
    """Only a success can be slow."""

    def credit(self, result: Result) -> None:
        super().credit(result._replace(slow=result.slow and not result.failed))


@breaks("BRK-44", "BRK-55")
class PredicateWhenClosed(MemoryCircuitBreaker):
    """Half-open, whatever is returned is a success."""

    def accepts(self, value: object) -> bool:
        return self.circuit.state is HALF_OPEN or super().accepts(value)


@breaks("BRK-44")
class PredicateRaises(MemoryCircuitBreaker):
    """The predicate is asked once the place has been taken, and before it is given back."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit = self.circuit
        try:
            return await super().execute(operation, *args, **kwargs)
        except LookupError as error:
            if str(error) == "raised by a predicate" and circuit.state is OPEN:
                circuit.change(HALF_OPEN)
                circuit.probes.add(Admission(circuit.generation, self.now()))
            raise


@miswired("BRK-45", "BRK-55")
class ProbeOverrulesOperator(Credulous):
    """A success closes what an operator has opened."""

    def late(self, admission: Admission, now: float, failed: bool) -> None:
        if not failed and self.state is OPEN and self.opens_until == math.inf:
            self.change(CLOSED)


@miswired("BRK-45", "BRK-55")
class ResetKeepsPlaces(Circuit):
    """`reset` half-open leaves the places taken."""

    leaked: frozenset[Admission] = frozenset()

    def reset(self, now: float) -> None:
        leaked = frozenset(self.probes)
        super().reset(now)
        self.leaked = leaked

    def change(self, state: CircuitState) -> None:
        super().change(state)
        if state is HALF_OPEN:
            self.probes |= self.leaked
            self.leaked = frozenset()


@miswired("BRK-46", "BRK-55")
class QuietOperator(Circuit):
    """What an operator changes is not told."""

    def force_open(self, now: float) -> None:
        before, self.listeners = self.listeners, []
        super().force_open(now)
        self.listeners = before


@miswired("BRK-46", "BRK-55")
class ResetIsAlwaysTold(Circuit):
    """`reset` of a closed circuit is told."""

    def reset(self, now: float) -> None:
        if self.look(now) is CLOSED:
            self.tell(CLOSED, CLOSED)
        super().reset(now)


@miswired("BRK-47")
class PlaceFreedTwice(Circuit):
    """A call that has given its place away gives one back when it ends."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        if (
            admission.generation == self.generation
            and self.look(now) is HALF_OPEN
            and admission not in self.probes
            and self.probes
        ):
            self.probes.pop()
        super().finish(admission, now, failed=failed)


@miswired("BRK-47")
class OneHangsAllGo(Circuit):
    """When one call has hung for long enough, all places are free."""

    def admit(self, now: float) -> Admission | None:
        if any(now - each.at >= self.settings.half_open_timeout for each in self.probes):
            self.probes.clear()
        return super().admit(now)


class OtherName(MemoryCircuitBreaker):
    """Base of a defect in where a name is found."""

    def cell(self, key: str) -> Cell:
        return super().cell(self.instead_of(key))

    def instead_of(self, name: str) -> str:
        """What the store is asked for instead of *name*."""
        return name


@breaks("BRK-48")
class FoldedName(OtherName):
    """Names are folded."""

    def instead_of(self, name: str) -> str:
        return name.lower()


@breaks("BRK-48")
class CutName(OtherName):
    """A name ends at its first colon."""

    def instead_of(self, name: str) -> str:
        return name.partition(":")[0]


@breaks("BRK-48", "BRK-51", "BRK-53", "BRK-59")
class ConstructorCloses(MemoryCircuitBreaker):
    """A breaker that is made sets the state of its name to closed."""

    def join(self, settings: Settings) -> Circuit:
        circuit = super().join(settings)
        if self.name is not None and circuit.state is OPEN:
            circuit.change(CLOSED)
        return circuit


@breaks("BRK-49", "BRK-55")
class CreditsWhatItSaw(MemoryCircuitBreaker):
    """A client credits a success to the state that it saw when the call began: it closes what another has opened meanwhile."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit = self.circuit
        generation, tripped = circuit.generation, self.__dict__.get("tripped", -1)
        try:
            result = await super().execute(operation, *args, **kwargs)
        except Exception:
            if generation != circuit.generation:
                self.__dict__["tripped"] = circuit.generation
            raise
        if self.name is not None and circuit.state is OPEN and generation < circuit.generation != tripped:
            circuit.change(CLOSED)
        return result


@breaks("BRK-49", "BRK-55", "BRK-69")
class OwnerFreesPlace(MemoryCircuitBreaker):
    """A cancelled call is tidied up by its own client, before the next call of that."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.untidy: set[Admission] = set()

    async def turn(self) -> None:
        await super().turn()
        self.circuit.probes -= self.untidy
        self.untidy.clear()

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit, before = self.circuit, set(self.circuit.probes)
        made: set[Admission] = set()

        def call(*args: Any, **kwargs: Any) -> Any:
            made.update(circuit.probes - before)
            return operation(*args, **kwargs)

        try:
            return await super().execute(call, *args, **kwargs)
        except anyio.get_cancelled_exc_class():
            if circuit.state is HALF_OPEN:
                self.untidy |= made
                circuit.probes |= made
            raise


@breaks("BRK-50", "BRK-55")
class LocalOperator(MemoryCircuitBreaker):
    """`force_open` holds for the client that was told."""

    forced = False

    @property
    def state(self) -> CircuitState:
        return OPEN if self.forced else super().state

    async def turn(self) -> None:
        await super().turn()

    async def force_open(self) -> None:
        if self.name is None:
            await super().force_open()
        else:
            await self.turn()
            self.forced = True

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.forced:
            await self.turn()
            raise CircuitOpenError("the circuit is open")
        return await super().execute(operation, *args, **kwargs)

    async def reset(self) -> None:
        await super().reset()
        self.forced = False


@breaks("BRK-51")
class TimeSinceHeard(MemoryCircuitBreaker):
    """A client measures what is left from when it has heard of it."""

    heard: float | None = None

    def refusal(self) -> CircuitOpenError:
        error = super().refusal()
        if self.name is not None and error.retry_after is not None:
            self.heard = self.now() if self.heard is None else self.heard
            error.retry_after = self.heard + self.circuit.settings.reset_timeout - self.now()
        return error


@breaks("BRK-52")
class CallsThenCloses(MemoryCircuitBreaker):
    """That it is closed, it finds when it reports what came of the call."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.closed:
            await operation(*args, **kwargs)
        return await super().execute(operation, *args, **kwargs)


@breaks("BRK-52")
class LosesWhatIsUnderWay(MemoryCircuitBreaker):
    """A call that was under way at `close` fails with what the dead connection raises."""

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.check_usable()
        result = await super().execute(operation, *args, **kwargs)
        if (
            self.closed
            and self.name is None
            and not self.circuit.probes
            and isinstance(result, str)
            and self.circuit.failures == 0
        ):
            raise ConnectionResetError("connection lost")
        return result


@breaks("BRK-53", "BRK-67")
class CloseCloses(MemoryCircuitBreaker):
    """`close` closes the circuit."""

    async def close(self) -> None:
        if not self.closed:
            self.circuit.change(CLOSED)
        await super().close()


@breaks("BRK-53")
class CloseForgets(MemoryCircuitBreaker):
    """`close` removes the circuit from the store."""

    async def close(self) -> None:
        if self.name is not None:
            self.backend.circuits.pop(self.cell(self.name), None)
        await super().close()


@breaks("BRK-54")
class PlaceOfTheDead(MemoryCircuitBreaker):
    """`half_open_timeout` is a timer in the process that makes the call."""

    def vanish(self) -> None:
        for each in self.circuit.probes:
            each.at = math.inf
        super().vanish()


@breaks("BRK-55", "BRK-56")
class PredicateForRows(MemoryCircuitBreaker):
    """With a window, whatever is returned is a success."""

    def accepts(self, value: object) -> bool:
        return self.circuit.settings.window is not None or super().accepts(value)


@breaks("BRK-55", "BRK-57")
class TimeUnderOperator(MemoryCircuitBreaker):
    """While an operator holds it open, `retry_after` is the timeout."""

    def refusal(self) -> CircuitOpenError:
        error = super().refusal()
        if error.retry_after is None and self.circuit.state is OPEN:
            error.retry_after = self.circuit.settings.reset_timeout
        return error


@breaks("BRK-55", "BRK-58")
class WindowOfItsOwn(MemoryCircuitBreaker):
    """The window is in the process, and the state in the store."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.results: deque[Result] = deque(maxlen=self.circuit.window.maxlen)

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        circuit = self.circuit
        if self.name is None or circuit.settings.window is None:
            return await super().execute(operation, *args, **kwargs)
        circuit.window = self.results
        return await super().execute(operation, *args, **kwargs)


@breaks("BRK-59")
class TenantIsForgotten(MemoryCircuitBreaker):
    """The tenant is no part of a name."""

    def cell(self, key: str) -> Cell:
        return super().cell(key)._replace(tenant=None)


@miswired("BRK-60")
class EveryCallHangs(Circuit):
    """`half_open_timeout` ends every call: what lasts longer is forgotten."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        if self.look(now) is CLOSED and now - admission.at >= self.settings.half_open_timeout:
            failed = None
        super().finish(admission, now, failed=failed)


@miswired("BRK-61")
class SlowForEver(Circuit):
    """Slow calls are counted beside the window of time."""

    slow = 0

    def credit(self, result: Result) -> None:
        self.slow += result.slow
        super().credit(result)

    def change(self, state: CircuitState) -> None:
        super().change(state)
        self.slow = 0

    def is_over(self, now: float) -> bool:
        calls = len(self.window)
        rate = self.settings.slow_call_rate
        grown = self.settings.window == "time" and calls >= self.settings.minimum_calls and self.slow >= rate * (calls + 1)
        return super().is_over(now) or grown


@breaks("BRK-62")
class NamelessRefusal(MemoryCircuitBreaker):
    """ "The circuit is open", but which?"""

    def refusal(self) -> CircuitOpenError:
        return CircuitOpenError("the circuit is open", retry_after=super().refusal().retry_after)


@breaks("BRK-63")
class DurationOfTheWall(MemoryCircuitBreaker):
    """The duration of a call is a difference of two `time.time()`."""

    def accepts(self, value: object) -> bool:
        accepted = super().accepts(value)
        jump = 60 * round((time.time() - time.monotonic() - self.offset) / 60)
        for each in self.under_way:
            each.at -= jump
        return accepted

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.offset = time.time() - time.monotonic()
        self.under_way: list[Admission] = []
        super().__init__(*arguments, **keywords)

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        admit = self.circuit.admit

        def admitted(now: float) -> Admission | None:
            admission = admit(now)
            self.under_way = [admission] if admission is not None else []
            return admission

        self.circuit.admit = admitted  # type: ignore[method-assign]
        try:
            return await super().execute(operation, *args, **kwargs)
        finally:
            self.circuit.admit = admit  # type: ignore[method-assign]


@breaks("BRK-33")
class FirstOpening(MemoryCircuitBreaker):
    """`retry_after` counts from the first opening."""

    first: float | None = None

    def refusal(self) -> CircuitOpenError:
        error = super().refusal()
        if error.retry_after is not None and self.name is None:
            self.first = self.now() + error.retry_after if self.first is None else self.first
            error.retry_after = max(self.first - self.now(), 0.0)
        return error


@breaks("BRK-04", "BRK-13", "BRK-15", "BRK-17", "BRK-30", "BRK-34", "BRK-38", "BRK-55", "BRK-68")
class CountedByKind(MemoryCircuitBreaker):
    """A failure of another kind begins a row of its own."""

    kind: type[BaseException] = BaseException

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await operation(*args, **kwargs)
            except Exception as error:
                if type(error) is not self.kind and not isinstance(error, self.excluded):
                    self.circuit.failures = 0
                self.kind = type(error)
                raise

        return await super().execute(call, *args, **kwargs)


@miswired("BRK-64")
class ResetOfOpenAlone(Circuit):
    """`reset` of a closed circuit does nothing."""

    def reset(self, now: float) -> None:
        if self.look(now) is not CLOSED or self.settings.window is not None:
            super().reset(now)


@miswired("BRK-55", "BRK-65")
class ResetKeepsWindow(Circuit):
    """`reset` of a closed circuit ends the row, and keeps the window."""

    def reset(self, now: float) -> None:
        before = self.window.copy()
        super().reset(now)
        self.window.extend(before)


@breaks("BRK-66")
class LastListener(MemoryCircuitBreaker):
    """A circuit has one listener, that of the breaker that was made last."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        del self.circuit.listeners[:-1]


@breaks("BRK-67")
class CloseTidiesUp(MemoryCircuitBreaker):
    """`close` frees all places."""

    async def close(self) -> None:
        self.circuit.probes.clear()
        await super().close()


@miswired("BRK-25", "BRK-55")
class ThirdOfWindow(Circuit):
    """A window of time is too short."""

    def __init__(self, settings: Settings) -> None:
        shorter = settings.window_size / 3 if settings.window == "time" else settings.window_size
        super().__init__(replace(settings, window_size=shorter))


@miswired("BRK-55")
class NeutralEndsSuccesses(Circuit):
    """Half-open, successes have to be in a row, and what is not counted ends it."""

    def finish(self, admission: Admission, now: float, *, failed: bool | None) -> None:
        if failed is None and self.state is HALF_OPEN and admission in self.probes:
            self.successes = 0
        super().finish(admission, now, failed=failed)


class Lengthening(Circuit):
    """Base of a defect in how long it stays open."""

    times = 0

    def open(self, now: float) -> None:
        self.times += 1
        super().open(now + (self.settings.reset_timeout if self.times > 3 else 0.0))


@miswired("BRK-11")
class BacksOff(Lengthening):
    """From the fourth opening in a row the timeout is twice as long."""

    def change(self, state: CircuitState) -> None:
        super().change(state)
        if state is CLOSED:
            self.times = 0


@miswired("BRK-11", "BRK-55")
class Flapping(Lengthening):
    """A circuit that has opened often stays open for longer, however well it was in between."""

    def open(self, now: float) -> None:
        self.times -= self.state is HALF_OPEN
        super().open(now)


@miswired("BRK-66")
class OneListenerStopsAll(Circuit):
    """What a listener raises is suppressed around the loop over all."""

    def tell(self, old: CircuitState, new: CircuitState) -> None:
        with suppress(Exception):
            for each in list(self.listeners):
                each(old, new)


@breaks("BRK-66")
class ListenersOfOthersRaise(MemoryCircuitBreaker):
    """What the listener of another breaker raises comes out of the call."""

    class Circuit(Circuit):
        """Tells who called last, and then all others."""

        caller: Listener | None = None

        def tell(self, old: CircuitState, new: CircuitState) -> None:
            own = [each for each in self.listeners if each is self.caller]
            for each in own:
                with suppress(Exception):
                    each(old, new)
            for each in self.listeners:
                if each is not self.caller:
                    each(old, new)

    circuit_type = Circuit

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.circuit.caller = self.on_transition  # type: ignore[attr-defined]
        return await super().execute(operation, *args, **kwargs)


class ReadsThenWrites(MemoryCircuitBreaker):
    """Base of a defect in how a result gets into the store: what is there is read, and written back with that."""

    what = "failures"

    async def execute(self, operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                value = await operation(*args, **kwargs)
            except Exception:
                await self.report()
                raise
            await self.report()
            return value

        return await super().execute(call, *args, **kwargs)

    async def report(self) -> None:
        """Write what was read a turn of the event loop ago."""
        circuit, generation, before = self.circuit, self.circuit.generation, copy(getattr(self.circuit, self.what))
        if self.name is not None:
            await anyio.lowlevel.checkpoint()
            if circuit.generation == generation:
                setattr(circuit, self.what, before)


@breaks("BRK-68")
class LostFailures(ReadsThenWrites):
    """Failures at once through breakers of one name are one."""


@breaks("BRK-68")
class LostSuccesses(ReadsThenWrites):
    """Half-open, successes at once through breakers of one name are one."""

    what = "successes"


@breaks("BRK-68")
class LostResults(ReadsThenWrites):
    """Of results at once through breakers of one name the window holds one."""

    what = "window"


@breaks("BRK-69")
class ClosedReportsNothing(MemoryCircuitBreaker):
    """A client that is closed says nothing of the calls that end later."""

    async def close(self) -> None:
        await super().close()
        self.vanish()


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemoryCircuitBreaker)]
