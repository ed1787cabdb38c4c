"""The package itself: its public names, and what importing it costs."""

import ast
import re
import subprocess
import sys
import unittest
from pathlib import Path

import omnitck


class TestPackage(unittest.TestCase):
    def test_every_public_name_is_there(self) -> None:
        for name in omnitck.__all__:
            self.assertIsNotNone(getattr(omnitck, name))
        self.assertLessEqual(set(omnitck.__all__), set(dir(omnitck)))

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with self.assertRaises(AttributeError):
            _ = omnitck.comopse  # type: ignore[attr-defined]

    def test_importing_it_imports_neither_unittest_nor_anyio(self) -> None:
        code = "import sys, omnitck; print({'unittest', 'anyio', 'asyncio'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "set()\n")

    def test_no_assert_says_more_than_a_type(self) -> None:
        """`python -O` strips them."""
        modules = {path: ast.walk(ast.parse(path.read_text("utf-8"))) for path in Path(omnitck.__file__).parent.rglob("*.py")}
        found = {
            f"{path.name}:{node.lineno}: {ast.unparse(node)}"
            for path, nodes in modules.items()
            for node in nodes
            if isinstance(node, ast.Assert)
        }
        types = r": assert (isinstance\([\w.]+, [\w.]+\)|inspect\.iscoroutinefunction\(\w+\)|[\w.]+ is not None)$"
        narrowing = {each for each in found if re.search(types, each)}
        self.assertEqual(found - narrowing, set())
