"""Finding a planted text in whatever came out."""

import base64
import dataclasses
import json
import unittest
import urllib.parse

from omnitck.kit.canary import error_text, reveals, text_of

SECRET = 'pass w\u00f6rd/"7"+tail'


class TestReveals(unittest.TestCase):
    def test_plainly(self) -> None:
        self.assertTrue(reveals(f"password={SECRET}!", SECRET))

    def test_in_every_common_encoding(self) -> None:
        data = SECRET.encode()
        forms = {
            "hexadecimal": data.hex(),
            "path": urllib.parse.quote(SECRET, safe=""),
            "query": urllib.parse.quote_plus(SECRET),
            "JSON": json.dumps({"password": SECRET}),
        }
        self.assertEqual([name for name, form in forms.items() if not reveals(f"<{form}>", SECRET)], [])

    def test_in_base64_whatever_stands_around_it(self) -> None:
        for before in range(4):
            for after in range(4):
                encoded = base64.b64encode(b"u" * before + SECRET.encode() + b":" * after).decode()
                self.assertTrue(reveals(encoded, SECRET), (before, after))

    def test_not_in_what_only_resembles_it(self) -> None:
        for text in ("", SECRET[:-1], SECRET.upper(), SECRET.encode().hex()[:-2], "cGFzcyB3"):
            self.assertFalse(reveals(text, SECRET), text)


class TestTextOf(unittest.TestCase):
    def test_every_text_inside_a_value_is_found(self) -> None:
        @dataclasses.dataclass
        class Record:
            name: str
            parts: list[bytes | bytearray]

        value = {"key": ("a", {"b"}), 1: Record("c", [b"d", bytearray(b"e")]), "error": KeyError("f")}
        self.assertEqual(text_of(value).split("\n"), ["key", "a", "b", "1", "c", "d", "e", "error", "'f'", "f"])

    def test_bytes_that_are_no_text_are_text_too(self) -> None:
        self.assertEqual(text_of(b"\xffa"), "\u00ffa")

    def test_what_holds_itself_has_an_end(self) -> None:
        endless: list[object] = ["a"]
        endless.append(endless)
        self.assertIn("a", text_of(endless).split("\n"))


class TestErrorText(unittest.TestCase):
    def test_the_chain_of_causes_is_part_of_it(self) -> None:
        cause, context = OSError("the cause"), ValueError("the context")
        cause.__context__ = context
        error = KeyError("the error")
        error.__cause__ = cause
        error.add_note("the note")
        text = error_text(error)
        self.assertEqual([each for each in ("error", "cause", "context", "note") if f"the {each}" not in text], [])

    def test_a_suppressed_context_is_not(self) -> None:
        error = KeyError("shown")
        error.__context__ = OSError("hidden")
        error.__suppress_context__ = True
        self.assertEqual(error_text(error), "'shown'\nshown")

    def test_every_error_of_a_group_is(self) -> None:
        text = error_text(ExceptionGroup("both", [KeyError("one"), ExceptionGroup("inner", [KeyError("two")])]))
        self.assertEqual([each for each in ("both", "one", "inner", "two") if each not in text], [])

    def test_a_circle_of_causes_has_an_end(self) -> None:
        first, second = KeyError("first"), KeyError("second")
        first.__cause__, second.__cause__ = second, first
        self.assertEqual(error_text(first), "'first'\nfirst\n'second'\nsecond")

    def test_an_error_that_cannot_be_shown_does_not_hide_its_arguments(self) -> None:
        class ShyError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

        self.assertIn("planted", error_text(ShyError("planted")))
