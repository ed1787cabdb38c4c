"""The specification as Markdown: whole, in tables, and as it stands in the repository."""

import contextlib
import io
import re
import tempfile
import unittest
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omnitck.cli import main
from omnitck.kit.checks import DECLARATIONS, HOOKS, catalogue, known_by
from omnitck.kit.contract import Contract, Policy
from omnitck.kit.definition import Definition
from omnitck.kit.rules import audit, rule
from omnitck.registry import BUILT_IN, find
from omnitck.report.specification import defects_by_rule, specification, tables
from omnitck.shared.models import Limits

TABLES = Path(__file__).parents[2] / ".github/docs/contracts.md"


class LampProtocol(Protocol):
    """The core: a lamp."""

    async def light(self, colour: str | None = None, *, seconds: float = 1.0) -> bool:
        """Whether it shines.

        In *colour*.
        """
        ...


class Dimmer(Protocol):
    """Capability `dimmer`."""

    async def light(self, colour: str | None = None, *, seconds: float = 1.0, level: int = 2**8) -> bool:
        """Whether it shines at *level*: one | two | 2**8 at most, or 2**0 at least."""
        ...

    async def level(self) -> int: ...


class Timer(Protocol):
    """Capability `timer`, of the profile `production`: it goes out."""

    async def light(self, colour: str, *, seconds: float = 1.0) -> "Countdown":
        """What counts."""
        ...


class Countdown(Protocol):
    """Seconds."""


class Quiet(Protocol):
    """Capability `quiet`; it hums not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LampLimits(Limits):
    """The numbers of a lamp."""

    key_bytes: int = field(default=7, metadata={"least": 7, "most": None})
    """Longest name of a colour."""
    hours: float = field(default=2000.0, metadata={"least": 1, "most": 50_000})
    """How long it lasts."""


class LampContract(Contract):
    """Certifies a lamp.

    Every lamp.
    """

    definition = Definition(
        name="lamp",
        prefix="LAMP",
        version="2.1",
        protocols={"": LampProtocol, "dimmer": Dimmer, "timer": Timer, "quiet": Quiet},
        production=frozenset({"timer"}),
        hooks=("plug_in", "unplug"),
        data=("watts",),
        limits=LampLimits,
    )

    watts: ClassVar[Mapping[str, int]] = {"a": 1}
    """By lamp."""

    async def plug_in(self) -> None:
        """Plug it in. A provider that has `battery` itself needs no such hook."""

    async def unplug(self) -> None:
        """Unplug it. Optional."""

    @rule("LAMP-01")
    async def test_lamp_01(self, t: object) -> None:
        """A lamp shines.

        Catches a lamp without a filament.
        """

    @rule("LAMP-02", "dimmer", "timer")
    async def test_lamp_02(self, t: object) -> None:
        """A dim lamp goes out."""

    @rule("LAMP-03", "shared")
    async def test_lamp_03(self, t: object) -> None:
        """Two see one lamp."""

    @audit("LAMP-04", "quiet")
    async def audit_lamp_04(self, t: object) -> None:
        """No lamp hums."""


class ShadePolicy(Policy):
    """Certifies a shade."""

    definition = Definition(name="shade", prefix="SHADE", config=frozenset({"depth", "angle"}))

    @rule("SHADE-01")
    async def test_shade_01(self, t: object) -> None:
        """It is dark."""


def rows(text: str, first: str) -> dict[str, list[str]]:
    """The table of *text* whose first heading is *first*: the cells of each line, by the first."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            next(lines)
            break
    else:
        raise AssertionError(f"no table of {first}")
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        found[name.strip("`")] = cells
    return found


def section(text: str, heading: str) -> str:
    """What follows *heading* in *text* until the next heading."""
    return text.split(f"\n{heading}\n\n", 1)[1].split("\n\n#", 1)[0]


def bullets(text: str) -> dict[str, str]:
    return dict(re.findall(r"^- `(\w+)`: (.*)$", text, re.M))


class TestTables(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.text = tables([LampContract, ShadePolicy])

    text: str

    def test_those_in_the_repository_are_the_codes(self) -> None:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = main(["spec", "--tables", *BUILT_IN, "--check", str(TABLES)])
        self.assertEqual(status, 0, f"write it anew: python -m omnitck spec --tables --output {TABLES}")

    def test_what_they_say_is_imported_can_be(self) -> None:
        blocks = re.findall(r"^```python\n(.*?)^```$", TABLES.read_text("utf-8"), re.M | re.S)
        self.assertEqual(len(blocks), len(BUILT_IN))
        for name, block in zip(BUILT_IN, blocks, strict=True):
            names: dict[str, Any] = {}
            exec(block, names)
            self.assertIs(names[find(name).__name__], find(name))

    def test_they_begin_with_what_there_is(self) -> None:
        self.assertEqual(
            rows(self.text, "name"),
            {
                "[lamp](#lamp-21)": ["contract", "3 rules and 1 audit, 1 of them core", "Certifies a lamp."],
                "[shade](#shade-10)": ["policy", "1 rule, 1 of them core", "Certifies a shade."],
            },
        )

    def test_every_suites_hooks_and_declarations_stand_once(self) -> None:
        text = section(self.text, "## Every suite")
        self.assertEqual(tuple(rows(text, "hook")), HOOKS)
        self.assertEqual(tuple(rows(text, "declaration")), DECLARATIONS)
        self.assertEqual(
            {name: cells[0] for name, cells in rows(text, "hook").items() if cells[0] != "no"},
            {
                "make_provider": "always",
                "unreachable_provider": "for `availability`: this or `backend_address`",
                "backend_address": "for `availability`: this or `unreachable_provider`",
            },
        )
        self.assertEqual(
            {name: cells[0] for name, cells in rows(text, "declaration").items()},
            {
                "capabilities": "`set()`",
                "profile": "`'core'`",
                "limits": "`None`",
                "credentials": "`()`",
                "known_deviations": "`{}`",
                "patience": "`1.0`",
                "deadline": "`None`",
                "backend": "`'asyncio'`",
                "again": "`''`",
            },
        )
        for name, cells in {**rows(text, "hook"), **rows(text, "declaration")}.items():
            self.assertTrue(cells[-1], f"{name} says nothing")

    def test_a_contract_has_its_imports_and_its_core(self) -> None:
        text = section(self.text, "## lamp 2.1")
        here = LampContract.__module__
        self.assertIn("Certifies a lamp. A contract of 3 rules and 1 audit, 1 of them core.", text)
        self.assertIn(f"\nfrom {here} import LampContract, LampProtocol, Dimmer, Timer, Quiet, LampLimits\n```", text)
        self.assertIn(
            "- `async def light(colour: str | None = None, *, seconds: float = 1.0) -> bool`: Whether it shines.\n", text
        )

    def test_a_capability_has_what_it_adds_and_promises_and_its_rules(self) -> None:
        """What its method takes and returns besides; the promise of its first method where it has none; nothing breaks a cell."""
        self.assertEqual(
            rows(section(self.text, "## lamp 2.1"), "capability"),
            {
                "dimmer": [
                    "`Dimmer`",
                    "`light(level=)`, `level`",
                    r"Whether it shines at *level*: one \| two \| 2\*\*8 at most, or 2\*\*0 at least.",
                    "",
                    "1",
                ],
                "timer": ["`Timer`", "`light(colour: str) -> Countdown`", "It goes out.", "this contract", "1"],
                "quiet": ["`Quiet`", "", "It hums not.", "", "1"],
                "shared": ["", "", "Several clients of one backend see one state.", "every contract", "1"],
            },
        )

    def test_hooks_declarations_and_limits_of_its_own(self) -> None:
        text = section(self.text, "## lamp 2.1")
        self.assertEqual(
            {name: cells[0] for name, cells in rows(text, "hook").items()},
            {"plug_in": "unless the provider has `battery`", "unplug": "no"},
        )
        self.assertEqual(rows(text, "declaration"), {"watts": ["`{'a': 1}`", "By lamp."]})
        limits = rows(text, "`LampLimits`")
        self.assertEqual(list(limits), [each.name for each in fields(LampLimits)])
        self.assertEqual(limits["key_bytes"], ["7 or more", "7", "Longest name of a colour."])
        self.assertEqual(limits["hours"], ["1 to 50_000", "2_000.0", "How long it lasts."])
        self.assertEqual(
            limits["value_bytes"], ["262_144 or more", "262_144", "Largest value, in bytes of UTF-8; at least 256 KiB."]
        )
        self.assertEqual(limits["min_ttl"][:2], ["0 to 60", "1.0"])

    def test_a_policy_says_what_it_gives(self) -> None:
        text = section(self.text, "## shade 1.0")
        self.assertIn("It composes with any contract, and gives `make_provider` `angle`, `depth`.", text)
        self.assertNotIn("|", text)

    def test_every_capability_and_hook_of_the_kit_stands_and_says_something(self) -> None:
        text = TABLES.read_text("utf-8")
        for name in BUILT_IN:
            contract = find(name)
            part = section(text, f"## {name} {contract.definition.version}")
            table = rows(part, "capability")
            self.assertEqual(set(table), known_by(contract), name)
            for capability, cells in table.items():
                self.assertTrue(cells[2], f"{name} does not say what {capability} promises")
                self.assertEqual(cells[4], str(sum(capability in each.needs for each in catalogue(contract))))
            for first, names in {"hook": contract.definition.hooks, "declaration": contract.definition.data}.items():
                if names:
                    self.assertEqual(tuple(rows(part, first)), names)
                    self.assertNotIn("", [cells[-1] for cells in rows(part, first).values()])


class TestSpecification(unittest.TestCase):
    def test_limits_are_those_of_the_contracts_own_class_and_of_its_bases(self) -> None:
        """Each with the default and the meaning that its own class gives it: a topic is no key."""
        text = section(specification([find("delayed_messaging")]), "## Limits")
        limits = bullets(text)
        self.assertEqual(limits["key_bytes"], "Longest topic, in bytes of UTF-8; at least 64. By default 64.")
        self.assertEqual(limits["value_bytes"], "Largest payload, in bytes; at least 64 KiB. By default 65_536.")
        self.assertTrue({"headers", "deliver", "settle", "redeliver", "least_attempts", "max_delay", "skew"} <= set(limits))

    def test_every_contract_lists_exactly_its_limits(self) -> None:
        for name in BUILT_IN:
            contract = find(name)
            text = specification([contract])
            if issubclass(contract, Policy):
                self.assertNotIn("## Limits", text)
                continue
            numbers = contract.definition.limits
            listed = bullets(section(text, "## Limits"))
            self.assertEqual(list(listed), [each.name for each in fields(numbers)], name)
            for limit, meaning in listed.items():
                self.assertRegex(meaning, rf"\w.* By default {getattr(numbers(), limit):_}\.$")

    def test_it_has_all_that_a_suite_may_say(self) -> None:
        text = specification([LampContract])
        self.assertEqual(tuple(bullets(section(text, "## Hooks"))), (*HOOKS, "plug_in", "unplug"))
        self.assertEqual(tuple(bullets(section(text, "## Declarations"))), (*DECLARATIONS, "watts"))

    def test_rules_come_before_audits_each_with_its_level_and_reason(self) -> None:
        text = specification([LampContract])
        self.assertIn(
            "\n\n## Rules\n\n### LAMP-01 (MUST)\n\nA lamp shines.\n\nCatches a lamp without a filament.\n\n"
            "### LAMP-02 (dimmer + timer)\n\nA dim lamp goes out.\n\n### LAMP-03 (shared)\n\nTwo see one lamp.\n\n"
            "## Audits\n\n### LAMP-04 (quiet)\n\nNo lamp hums.\n",
            text,
        )

    def test_a_rule_has_its_defects(self) -> None:
        text = section(specification([find("kv_store")]), "### KV-03 (MUST)")
        self.assertIn("Defects that break it:\n\n- `FalsyIsAbsent`: `if not value: return None`.", text)
        self.assertEqual(defects_by_rule()["KV-03"]["FalsyIsAbsent"], "`if not value: return None`.")

    def test_several_follow_one_another(self) -> None:
        text = specification([LampContract, ShadePolicy])
        self.assertEqual(text, f"{specification([LampContract])}\n{specification([ShadePolicy])}")


class TestCheck(unittest.TestCase):
    def test_drift_is_1_and_says_how_to_mend_it(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "tables.md"))
            for words in (["--tables"], ["kv_store", "--tables"], ["kv_store"]):
                self.assertEqual(main(["spec", *words, "--output", path]), 0)
                self.assertEqual(main(["spec", *words, "--check", path]), 0)
                with open(path, "a") as file:
                    file.write("\n")
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    status = main(["spec", *words, "--check", path])
                again = f"omnitck spec {' '.join(words)} --output {path}"
                self.assertEqual(
                    (status, output.getvalue()), (1, f"{path} differs from the rules: write it anew with `{again}`.\n")
                )


if __name__ == "__main__":
    unittest.main()
