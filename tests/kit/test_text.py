"""Text about things that may be hostile."""

import json
import traceback
import unittest
from collections.abc import Callable

from omnitck.kit.text import (
    UsageError,
    causes_of,
    describe,
    describe_error,
    foreign_traceback,
    place_of,
    shorten,
    suggest,
    unwrap,
)
from omnitck.registry import find


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class ShyError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Interrupting(Exception):  # noqa: N818
    def __repr__(self) -> str:
        raise KeyboardInterrupt

    __str__ = __repr__


class TestShorten(unittest.TestCase):
    def test_short_text_stays(self) -> None:
        self.assertEqual(shorten("x" * 200), "x" * 200)

    def test_the_middle_of_a_long_text_is_counted_out(self) -> None:
        self.assertEqual(shorten("a" * 150 + "b" * 150, 100), f"{'a' * 35}...(230 more characters)...{'b' * 35}")

    def test_it_is_one_line_that_can_be_printed(self) -> None:
        self.assertEqual(shorten("a\n\tb\x1b[31m\u200f\ud800\u00fc"), "a\\n\\tb\\x1b[31m\\u200f\\ud800\u00fc")


class TestDescribe(unittest.TestCase):
    def test_values_are_python_literals(self) -> None:
        shown = [describe(each) for each in ("it's", b"x", 1, None, ["a"])]
        self.assertEqual(shown, ['"it\'s"', "b'x'", "1", "None", "['a']"])

    def test_long_texts_and_bytes_say_their_length(self) -> None:
        self.assertEqual(describe("a" * 500 + "b" * 500, 40), f"'{'a' * 10}'...(1000 long)...'{'b' * 10}'")
        self.assertEqual(describe(b"a" * 1000, 40), f"b'{'a' * 10}'...(1000 long)...b'{'a' * 10}'")

    def test_long_reprs_are_shortened(self) -> None:
        self.assertEqual(describe([1] * 100, 50), f"{repr([1] * 100)[:10]}...(280 more characters)...{repr([1] * 100)[-10:]}")

    def test_a_repr_that_raises_is_named(self) -> None:
        self.assertEqual(describe(Shy()), "<Shy object, whose __repr__ raised RuntimeError>")
        self.assertEqual(describe([Shy()]), "<list object, whose __repr__ raised RuntimeError>")

    def test_a_keyboard_interrupt_passes(self) -> None:
        with self.assertRaises(KeyboardInterrupt):
            describe(Interrupting())


class TestCauses(unittest.TestCase):
    def test_they_are_followed_to_the_first(self) -> None:
        first, second, third = OSError("first"), KeyError("second"), ValueError("third")
        third.__cause__, second.__context__ = ExceptionGroup("", [second]), first
        first.__cause__ = third  # A circle, which somebody's hand has made.
        self.assertEqual(list(causes_of(third)), [third, second, first])

    def test_what_was_suppressed_is_none(self) -> None:
        error = ValueError()
        error.__context__, error.__suppress_context__ = OSError(), True
        self.assertEqual(list(causes_of(error)), [error])


class TestForeignTraceback(unittest.TestCase):
    def test_it_has_the_places_and_nobodys_variables(self) -> None:
        def inner(secret: str) -> None:
            raise LookupError(len(secret))

        def outer() -> None:
            secret = "hunter2" * 2
            inner(secret)

        try:
            outer()
        except LookupError as error:
            real, made = error.__traceback__, foreign_traceback(error)
        expected = [(each.filename, each.lineno, each.name, each.line) for each in traceback.extract_tb(real)]
        self.assertEqual([(each.filename, each.lineno, each.name, each.line) for each in traceback.extract_tb(made)], expected)
        self.assertEqual(
            [frame.f_locals for frame, _ in traceback.walk_tb(made)],
            [{"__tracebackhide__": True}, {"__tracebackhide__": True}, {}],
        )

    def test_the_kits_own_frames_are_not_in_it(self) -> None:
        try:
            suggest("x", None)  # type: ignore[arg-type]
        except TypeError as error:
            made = foreign_traceback(error)
        self.assertEqual([each.name for each in traceback.extract_tb(made)], [self._testMethodName])

    def test_an_endless_recursion_is_cut(self) -> None:
        def again() -> None:
            again()

        try:
            again()
        except RecursionError as error:
            self.assertEqual(len(traceback.extract_tb(foreign_traceback(error))), 40)


class TestDescribeError(unittest.TestCase):
    def test_type_and_text(self) -> None:
        self.assertEqual(describe_error(ValueError("two\nlines")), "ValueError: two\\nlines")

    def test_the_type_alone_where_there_is_no_text(self) -> None:
        self.assertEqual(describe_error(TimeoutError()), "TimeoutError")

    def test_a_str_that_raises_is_named(self) -> None:
        self.assertEqual(describe_error(ShyError()), "ShyError, whose __str__ raised RuntimeError")

    def test_a_keyboard_interrupt_passes(self) -> None:
        with self.assertRaises(KeyboardInterrupt):
            describe_error(Interrupting())


class TestSuggest(unittest.TestCase):
    def test_near_matches_are_named_the_nearest_first(self) -> None:
        self.assertEqual(suggest("kvstore", {"cache", "kv_store", "kv_stores"}), "did you mean kv_store or kv_stores?")

    def test_everything_is_named_where_nothing_is_near(self) -> None:
        self.assertEqual(suggest("queue", ["kv_store", "cache"]), "known are cache, kv_store.")

    def test_nothing_may_be_known(self) -> None:
        self.assertEqual(suggest("queue", []), "none is known here.")


class TestUnwrap(unittest.TestCase):
    def test_the_first_leaf_of_nested_groups(self) -> None:
        leaf = KeyError("x")
        group = BaseExceptionGroup("outer", [ExceptionGroup("inner", [leaf, ValueError()]), SystemExit()])
        self.assertEqual((unwrap(group), unwrap(leaf)), (leaf, leaf))


class TestPlace(unittest.TestCase):
    """Where an exception was raised, in the eyes of who has to mend it."""

    def caught(self, call: Callable[[], object]) -> BaseException:
        try:
            call()
        except Exception as error:
            return error
        raise AssertionError("it raised nothing")

    def test_of_foreign_code(self) -> None:
        error = self.caught(lambda: json.loads("{"))
        self.assertRegex(place_of(error), r"^test_text\.py line \d+$")
        self.assertEqual(place_of(error, in_kit=True), "")

    def test_of_the_kit(self) -> None:
        error = self.caught(lambda: find("nothing"))
        self.assertIsInstance(error, UsageError)
        self.assertRegex(place_of(error, in_kit=True), r"^registry\.py line \d+$")
        self.assertRegex(place_of(error), r"^test_text\.py line \d+$")

    def test_of_what_was_never_raised(self) -> None:
        self.assertEqual(place_of(ValueError()), "")
