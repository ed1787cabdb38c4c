"""Finding a planted text in whatever came out."""

import base64
import dataclasses
import json
import logging
import sys
import unittest
import urllib.parse
import warnings

from omnitck.instruments.canary import error_text, locals_text, overhearing, reveals, text_of

SECRET = 'pass w\u00f6rd/"7"+tail'


class TestReveals(unittest.TestCase):
    def test_plainly(self) -> None:
        self.assertTrue(reveals(f"password={SECRET}!", SECRET))

    def test_in_every_common_encoding(self) -> None:
        data = SECRET.encode()
        forms = {
            "hexadecimal": data.hex(),
            "hexadecimal in capitals": data.hex().upper(),
            "the repr of bytes": repr(data),
            "base64 for URLs": base64.urlsafe_b64encode(data).decode(),
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

    def test_its_attributes_are_too(self) -> None:
        error = KeyError("the error")
        error.response = {"body": b"planted"}  # type: ignore[attr-defined]
        error.inner = OSError("inside")  # type: ignore[attr-defined]
        text = error_text(error)
        self.assertEqual([each for each in ("planted", "inside") if each not in text], [])

    def test_errors_that_hold_each_other_have_an_end(self) -> None:
        first, second = KeyError("first"), KeyError("second")
        first.others, second.others = [second], [first]  # type: ignore[attr-defined]
        self.assertIn("second", error_text(first))

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


class TestLocalsText(unittest.TestCase):
    def test_the_variables_of_every_frame_but_those_of_some_modules(self) -> None:
        def fail() -> None:
            answer = {"body": "planted"}
            raise KeyError(len(answer))

        try:
            fail()
        except KeyError as error:
            self.assertIn("planted", locals_text(error, but_in=("omnitck.kit.",)))
            self.assertNotIn("planted", locals_text(error, but_in=("omnitck.kit.", "tests.")))


class TestOverhearing(unittest.TestCase):
    def heard(self, own: str = "acme", *, third_party_debug: bool = False) -> str:
        with overhearing(own) as heard:
            logging.getLogger("acme.secrets").debug("own %s", "debug")
            logging.getLogger("vendor").debug("vendor debug")
            logging.getLogger("vendor").info("vendor info", extra={"query": "extra"})
            warnings.warn("a warning", DeprecationWarning, stacklevel=1)
            print("on stdout")
            print("on stderr", file=sys.stderr)
        return "\n".join(text for _, text in heard.places(own, third_party_debug=third_party_debug))

    def test_what_production_keeps(self) -> None:
        text = self.heard()
        said = ("own debug", "vendor info", "extra", "a warning", "on stdout", "on stderr")
        self.assertEqual([each for each in said if each not in text], [])
        self.assertNotIn("vendor debug", text)

    def test_what_only_debugging_shows(self) -> None:
        text = self.heard(third_party_debug=True)
        self.assertIn("vendor debug", text)
        self.assertNotIn("vendor info", text)

    def test_a_logger_that_keeps_to_itself_is_heard(self) -> None:
        logger = logging.getLogger("vendor")
        logger.propagate = False
        try:
            self.assertIn("vendor info", self.heard())
        finally:
            logger.propagate = True

    def test_everything_is_as_it_was(self) -> None:
        root, own = logging.getLogger(), logging.getLogger("acme")
        before = (root.level, list(root.handlers), own.level, sys.stdout, warnings.filters)
        self.heard()
        self.assertEqual((root.level, list(root.handlers), own.level, sys.stdout, warnings.filters), before)
