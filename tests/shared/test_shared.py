"""What a provider imports costs next to nothing, and says what is in it."""

import importlib
import pkgutil
import subprocess
import sys
import unittest

from omnitck import shared


class TestImports(unittest.TestCase):
    def test_each_module_imports_neither_unittest_nor_anyio(self) -> None:
        modules = [f"omnitck.shared.{each.name}" for each in pkgutil.iter_modules(shared.__path__)]
        self.assertEqual(modules, [f"omnitck.shared.{each}" for each in ("capabilities", "clock", "exceptions", "models")])
        code = f"import sys, {', '.join(modules)}; print({{'unittest', 'anyio', 'asyncio'}} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "set()\n")

    def test_each_module_lists_what_it_defines(self) -> None:
        for each in pkgutil.iter_modules(shared.__path__):
            module = importlib.import_module(f"omnitck.shared.{each.name}")
            defined = {
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            }
            # A constant does not say where it was defined.
            self.assertEqual({name for name in module.__all__ if not name.isupper()}, defined)
            self.assertLessEqual(set(module.__all__), set(vars(module)))
