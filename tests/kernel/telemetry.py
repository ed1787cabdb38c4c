"""A policy with a capability, a hook, something around every rule, and two audits."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from omnitck import Definition, Policy, Trial, audit, rule


@dataclass
class Span:
    """One operation, as the provider records it."""

    name: str
    note: str = ""
    ended: bool = False


@dataclass
class Telemetry:
    """Where the provider records its spans, and the suite finds them."""

    spans: list[Span] = field(default_factory=list)
    recording: bool = False

    @contextmanager
    def span(self, name: str, note: str = "", *, always_ends: bool = True) -> Iterator[None]:
        span = Span(name, note)
        if self.recording:
            self.spans.append(span)
        try:
            yield
        except BaseException:
            span.ended = always_ends
            raise
        span.ended = True


class Notes(Protocol):
    """Capability `notes`: a span says on which name an operation worked."""


@asynccontextmanager
async def _recorded(t: Any) -> Any:
    telemetry: Telemetry = await t.ask("telemetry")
    telemetry.spans.clear()
    telemetry.recording = True
    t.telemetry = telemetry
    try:
        yield
    finally:
        telemetry.recording = False


class TelemetryTrial(Trial[Any]):
    """The words of its rules."""

    telemetry: Telemetry

    async def spans_of(self, client: Any, method: str, call: Callable[[], Any]) -> list[Span]:
        """Those that *call*, which calls *method*, makes."""
        before = len(self.telemetry.spans)
        await call()
        return [each for each in self.telemetry.spans[before:] if each.name == method]


class TelemetryPolicy(Policy):
    """Every operation is a span."""

    definition = Definition(
        name="toy_telemetry",
        prefix="TT",
        protocols={"notes": Notes},
        hooks=("telemetry",),
        around=_recorded,
    )
    trial: ClassVar[type[Trial[Any]]] = TelemetryTrial

    async def telemetry(self) -> Telemetry:
        """Where the providers of this test record their spans."""
        raise NotImplementedError

    @rule("TT-01")
    async def test_tt_01_an_operation_is_one_span(self, t: TelemetryTrial) -> None:
        """Each operation is exactly one span, which has its method's name and has ended."""
        client = await t.connect()
        for operation in t.operations():
            if not inspect.iscoroutinefunction(getattr(type(t.session.first_provider()), operation.method)):
                continue
            with t.case(operation.name):
                call = await t.arranged(operation, client, t.key())
                spans = await t.spans_of(client, operation.method, call)
                t.same([each.ended for each in spans], [True], given=f"whether the spans of {operation.name} have ended")

    @rule("TT-02", "notes")
    async def test_tt_02_a_span_says_its_name(self, t: TelemetryTrial) -> None:
        """A span says on which name its operation worked."""
        client, name = await t.connect(), t.key()
        operation = t.operations()[0]
        [span] = await t.spans_of(client, operation.method, await t.arranged(operation, client, name))
        t.same(span.note, name, given=f"the note of the span of {operation.name}")

    @audit("TT-03")
    async def audit_tt_03_no_span_stays_open(self, t: TelemetryTrial) -> None:
        """Once a provider has closed, none of its spans is open, whatever was done with it."""
        opened = sorted({each.name for each in t.telemetry.spans if not each.ended})
        t.check(not opened, given=f"the spans that {t.id} left", expected="all have ended", observed=opened)

    @audit("TT-04", hook="credentials")
    async def audit_tt_04_no_span_shows_a_credential(self, t: TelemetryTrial) -> None:
        """No span shows a credential."""
        shown = [each.name for each in t.telemetry.spans if any(secret in each.note for secret in t.confidential())]
        t.check(not shown, given="the notes of spans", expected="no credential", observed=shown)


P = TypeVar("P", bound=type[Any])


def instrumented(provider: P, **faults: Any) -> P:
    """*provider* with a span around each of its coroutine methods; *faults* say what is wrong with it."""
    members: dict[str, Any] = {"recorded": Telemetry()}
    for name in dir(provider):
        method = getattr(provider, name)
        if not name.startswith("_") and inspect.iscoroutinefunction(method):
            members[name] = _spanned(name, method, **faults)
    return type(f"Instrumented{provider.__name__}", (provider,), members)  # type: ignore[return-value]


def _spanned(name: str, method: Any, *, leaves_open: str = "", silent: str = "", note: str = "") -> Any:
    @functools.wraps(method)
    async def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if name == silent:
            return await method(self, *arguments, **keywords)
        said = note or (str(arguments[0]) if arguments else "")
        with self.recorded.span(name, said, always_ends=name != leaves_open):
            return await method(self, *arguments, **keywords)

    return call


class Recording:
    """Supplies the hook; before the suite whose providers record. Each test has telemetry of its own."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.recorded = Telemetry()

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> Any:
        given = {**config, "tenant_id": tenant_id} if tenant_id is not None else config
        provider: Any = await super().make_provider(**given)  # type: ignore[misc]
        provider.recorded = self.recorded
        return provider

    async def telemetry(self) -> Telemetry:
        return self.recorded
