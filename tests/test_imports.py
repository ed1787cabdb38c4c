"""Imports point one way: the layout of the package is held by what its modules import, wherever they do it."""

import ast
import unittest
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import omnitck

ROOT = Path(omnitck.__file__).parent

LAYERS = (
    ("version", "shared"),
    ("reference",),
    ("defects", "kit"),
    ("registry",),
    ("instruments",),
    ("common",),
    ("primitives", "messaging", "resilience", "policies"),
    ("report", "unusual"),
    ("concurrent",),
    ("suites",),
    ("certifying", "selftest"),
    ("cli",),
    ("", "__main__"),
)
"""From the bottom: what stands in a layer imports its own package and the layers below. The last is `omnitck` itself."""

FEWER = {
    "reference": {"shared"},
    "defects": {"reference", "shared"},
    "shared": set(),
    "instruments": {"kit", "shared"},
}
"""Packages that may import less than their layer allows."""


def package(module: str) -> str:
    """The part of *module* that has a place in a layer."""
    return module.removeprefix("omnitck").lstrip(".").partition(".")[0]


def imports(path: Path) -> set[str]:
    """The modules of omnitck that a file imports, in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{each.name}" for each in node.names}
    return {name for each in found if each.split(".")[0] == "omnitck" and (name := existing(each)) is not None}


def existing(name: str) -> str | None:
    """*name*, or the module that has it."""
    while name:
        place = ROOT.parent.joinpath(*name.split("."))
        if place.with_suffix(".py").exists() or (place / "__init__.py").exists():
            return name
        name = name.rpartition(".")[0]
    return None


def graph() -> dict[str, set[str]]:
    """Each module with those that it imports."""
    modules = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = imports(path)
    return {module: found - {module} for module, found in modules.items()}


class TestImports(unittest.TestCase):
    def test_every_package_has_its_layer(self) -> None:
        placed = {name for layer in LAYERS for name in layer}
        self.assertEqual(placed, {package(module) for module in graph()})

    def test_no_import_points_up(self) -> None:
        level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
        wrong = []
        for module, found in graph().items():
            mine = package(module)
            for other in found:
                theirs = package(other)
                allowed = theirs == mine or (level[theirs] < level[mine] and theirs in FEWER.get(mine, level))
                if not allowed:
                    wrong.append(f"{module} imports {other}")
        self.assertEqual([], sorted(wrong))

    def test_there_is_no_circle(self) -> None:
        try:
            TopologicalSorter(graph()).prepare()
        except CycleError as error:
            self.fail(f"a circle of imports: {' -> '.join(error.args[1])}")

    def test_it_reads_imports_in_functions_and_for_type_checkers(self) -> None:
        found = graph()
        self.assertIn("omnitck.reference.kv_store", found["omnitck.primitives.kv_store"], "an import inside a function")
        self.assertIn("omnitck.suites", found["omnitck"], "an import under TYPE_CHECKING")
