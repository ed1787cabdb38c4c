"""A contract without cells: nothing is stored, and the provider is made with settings."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

from omnitck import Definition, Operation, Trial, rule
from omnitck.common.clients import ClientRules, ClientTrial, Lifecycle
from omnitck.shared.exceptions import CircuitOpenError, InvalidArgumentError

Guarded = Callable[[], Awaitable[object]]


class BreakerProtocol(Protocol):
    """Guards calls."""

    async def execute(self, call: Guarded) -> object:
        """The result of *call*; `CircuitOpenError`, and no call, while the circuit is open."""
        ...

    async def state(self) -> str:
        """`closed` or `open`."""
        ...


class ManualControl(Protocol):
    """Capability `manual_control`: an operator opens the circuit."""

    async def force_open(self) -> None:
        """Open it, whatever was counted."""
        ...


class FullBreaker(ManualControl, Lifecycle, BreakerProtocol, Protocol):
    """A breaker with every capability."""


async def succeed() -> object:
    return "fine"


async def _open(breaker: Any, name: str, token: str) -> None:
    await breaker.force_open()


class BreakerTrial(ClientTrial[FullBreaker]):
    """The words of its rules."""

    async def fail(self, breaker: FullBreaker, times: int) -> None:
        """Let *times* guarded calls fail."""
        for _ in range(times):
            await self.refused(lambda: breaker.execute(_raise), LookupError, given="a guarded call that fails")


async def _raise() -> object:
    raise LookupError("raised by the guarded call")


class BreakerContract(ClientRules):
    """Certifies a breaker."""

    definition = Definition(
        name="toy_breaker",
        prefix="TB",
        protocols={"": BreakerProtocol, "manual_control": ManualControl, "lifecycle": Lifecycle},
        operations=(
            Operation("execute", lambda p, n, t: p.execute(succeed), "execute"),
            Operation("state", lambda p, n, t: p.state(), "state"),
            Operation("force_open", lambda p, n, t: p.force_open(), "force_open", "manual_control"),
        ),
        refusals=(
            Operation(
                "execute of an open circuit",
                lambda p, n, t, opened=None: p.execute(succeed),
                "execute",
                "manual_control",
                arrange=_open,
                refusal=CircuitOpenError,
            ),
        ),
    )
    trial: ClassVar[type[Trial[Any]]] = BreakerTrial

    @rule("TB-01")
    async def test_tb_01_it_opens_after_enough_failures(self, t: BreakerTrial) -> None:
        """The circuit opens at the failure number `failure_threshold`, not before."""
        breaker = await t.connect(failure_threshold=2)
        await t.fail(breaker, 1)
        t.same(await breaker.state(), "closed", given="the state after 1 failure of 2")
        await t.fail(breaker, 1)
        t.same(await breaker.state(), "open", given="the state after 2 failures of 2")
        await t.refused(lambda: breaker.execute(succeed), CircuitOpenError, given="a call while the circuit is open")

    @rule("TB-02", "validation")
    async def test_tb_02_a_threshold_below_one_is_refused(self, t: BreakerTrial) -> None:
        """A breaker with a `failure_threshold` below 1 is refused when it is made."""
        for threshold in (0, -1):
            with t.case(str(threshold)):
                await t.refused_at_connect(
                    InvalidArgumentError, given=f"make_provider(failure_threshold={threshold})", failure_threshold=threshold
                )

    @rule("TB-03", "manual_control")
    async def test_tb_03_an_operator_opens_it(self, t: BreakerTrial) -> None:
        """After `force_open` no call is made."""
        breaker = await t.connect()
        await breaker.force_open()
        await t.refused(lambda: breaker.execute(succeed), CircuitOpenError, given="a call after force_open")


class Breaker:
    """A correct one."""

    def __init__(self, failure_threshold: int = 5) -> None:
        if failure_threshold < 1:
            raise InvalidArgumentError(f"failure_threshold is {failure_threshold}, below 1")
        self.threshold = failure_threshold
        self.failures = 0
        self.forced = False

    async def execute(self, call: Guarded) -> object:
        if await self.state() == "open":
            raise CircuitOpenError("the circuit is open")
        try:
            return await call()
        except Exception:
            self.failures += 1
            raise

    async def state(self) -> str:
        return "open" if self.forced or self.failures >= self.threshold else "closed"

    async def force_open(self) -> None:
        self.forced = True


class BreakerSuite(BreakerContract):
    """The suite of a breaker, without a TestCase."""

    provider: type[Breaker] = Breaker

    async def make_provider(self, *, failure_threshold: int = 5, **config: Any) -> Breaker:
        return self.provider(failure_threshold)
