"""Small contracts and policies, for tests of what any of them goes through."""

from typing import Any, Protocol

from omnitck.common.cells import Cells
from omnitck.kit.contract import Contract, Policy
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.text import UsageError
from omnitck.kit.trial import Trial
from omnitck.shared.models import CacheLimits

__all__ = ["BagContract", "Box", "BoxContract", "CrateContract", "LidPolicy", "OwnerPolicy"]


class Box(Protocol):
    """What a provider of boxes can do."""

    async def open(self) -> None: ...


class Lid(Protocol):
    """Capability `lid`: it shuts."""

    async def shut(self) -> None: ...


class Lock(Protocol):
    """Capability `lock`: a promise without a method."""


class Wheels(Protocol):
    """Capability `wheels`."""

    async def roll(self) -> None: ...


class FamilyRules(Contract):
    """What is written once for several contracts."""

    @rule("COM-90", "lid", uses="names")
    async def test_com_90_it_is_shared(self, t: Trial[Any]) -> None:
        """A rule of a shared family."""
        await t.connect()


class BoxCells(Cells[Any]):
    operations = (Operation("open", lambda p, n, t: p.open(), "open"), Operation("shut", lambda p, n, t: p.shut(), "shut", "lid"))

    @needs("lock")
    async def names(self, provider: Any, prefix: str) -> list[str]:
        raise NotImplementedError


class BoxContract(FamilyRules):
    """A contract with hardly anything in it."""

    definition = Definition(name="box", prefix="BOX", protocols={"": Box, "lid": Lid, "lock": Lock}, cells=BoxCells())

    @rule("BOX-01")
    async def test_box_01_it_opens(self, t: Trial[Any]) -> None:
        """A box opens.

        Catches a solid block.
        """
        await (await t.connect()).open()

    @rule("BOX-02", "lid")
    async def test_box_02_it_shuts(self, t: Trial[Any]) -> None:
        """A box with a lid
        shuts.
        """
        await (await t.connect()).shut()


class BagContract(Contract):
    """A contract without cells, and without a capability."""

    definition = Definition(name="bag", prefix="BAG")

    @rule("BAG-01")
    async def test_bag_01_it_is_there(self, t: Trial[Any]) -> None:
        """There is a bag."""
        await t.connect()


def _check_label(suite: Any) -> None:
    if not isinstance(suite.label, str):
        raise UsageError(f"{suite.__qualname__}.label is no text.")


class CrateContract(FamilyRules):
    """A contract with declarations, hooks and limits of its own, in which the shared rule has no subject."""

    definition = Definition(
        name="crate",
        prefix="CR",
        protocols={"": Box, "lid": Lid, "wheels": Wheels},
        production=frozenset({"wheels"}),
        cells=Cells(),
        limits=CacheLimits,
        hooks=("nail",),
        data=("label",),
        check=_check_label,
    )
    label: str = ""

    @rule("CR-01", hook="nail")
    async def test_cr_01_it_is_nailed(self, t: Trial[Any]) -> None:
        """A crate can be nailed."""
        await t.ask("nail")

    @rule("CR-02", "availability")
    async def test_cr_02_it_breaks_loudly(self, t: Trial[Any]) -> None:
        """A crate that is broken says so."""
        await t.connect()

    @rule("CR-03", hook="label")
    async def test_cr_03_it_is_labelled(self, t: Trial[Any]) -> None:
        """A crate has a label."""
        t.same(t.suite.label, "fragile", given="the label")

    @rule("CR-04", "lid")
    async def test_cr_04_it_shuts(self, t: Trial[Any]) -> None:
        """A crate with a lid shuts."""
        await (await t.connect()).shut()

    @rule("CR-05", "wheels")
    async def test_cr_05_it_rolls(self, t: Trial[Any]) -> None:
        """A crate on wheels rolls."""
        await (await t.connect()).roll()

    async def nail(self) -> None:
        """Nail it."""
        raise NotImplementedError


class LidPolicy(Policy):
    """Speaks of something that not every contract has."""

    definition = Definition(name="lids", prefix="LID", cells=Cells)

    @rule("LID-01", uses="names")
    async def test_lid_01_it_fits(self, t: Trial[Any]) -> None:
        """A lid fits."""
        await t.connect()


class OwnerPolicy(Policy):
    """Asks for a client of one tenant; has a capability, a hook and a declaration of its own."""

    definition = Definition(
        name="owner",
        prefix="OWN",
        protocols={"heirs": Protocol},
        production=frozenset({"heirs"}),
        config=frozenset({"tenant_id"}),
        hooks=("inherit",),
        data=("family",),
    )
    family: tuple[str, ...] = ()

    @rule("OWN-01")
    async def test_own_01_it_belongs_to_somebody(self, t: Trial[Any]) -> None:
        """A box belongs to somebody."""
        await t.connect(tenant_id="a")

    @rule("OWN-02", "heirs", hook="inherit")
    async def test_own_02_it_can_be_inherited(self, t: Trial[Any]) -> None:
        """A box can be inherited."""
        t.same(await t.ask("inherit", "box"), "inherited", given="a box")

    @rule("OWN-03", hook="family")
    async def test_own_03_it_stays_in_the_family(self, t: Trial[Any]) -> None:
        """A box stays in the family."""
        t.same(t.suite.family, ("Ann",), given="the family")

    async def inherit(self, what: str) -> str:
        """Hand *what* over."""
        raise NotImplementedError
