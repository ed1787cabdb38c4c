"""The package itself: its public names, and what importing it costs."""

import subprocess
import sys
import unittest

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
