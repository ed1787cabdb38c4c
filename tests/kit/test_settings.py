"""What the environment says of deadlines, under any runner."""

import os
import unittest
from types import SimpleNamespace
from unittest import mock

import anyio

from omnitck.kit.settings import deadline_of, patience_of
from omnitck.kit.text import UsageError
from tests.kit.judging import calling, judge


class TestEnvironment(unittest.TestCase):
    suite = SimpleNamespace(patience=2.0, deadline=None)
    rule = SimpleNamespace(deadline=10.0)

    def test_without_it_a_suite_decides(self) -> None:
        with mock.patch.dict(os.environ, {"OMNITCK_PATIENCE": "", "OMNITCK_DEADLINE": ""}):
            self.assertEqual((patience_of(self.suite), deadline_of(self.suite, self.rule)), (2.0, 20.0))

    def test_it_takes_the_place_of_what_is_declared(self) -> None:
        with mock.patch.dict(os.environ, {"OMNITCK_PATIENCE": "3", "OMNITCK_DEADLINE": "0.5"}):
            self.assertEqual((patience_of(self.suite), deadline_of(self.suite, self.rule)), (3.0, 1.5))

    def test_what_is_no_number_above_0_is_refused(self) -> None:
        for text in ("x", "0", "-1", "inf", "nan"):
            with mock.patch.dict(os.environ, {"OMNITCK_PATIENCE": text}), self.assertRaises(UsageError) as caught:
                patience_of(self.suite)
            self.assertEqual(str(caught.exception), f"OMNITCK_PATIENCE is {text!r}: give a number above 0.")

    def test_a_rule_that_a_plain_runner_runs_heeds_it(self) -> None:
        async def hang(self: object) -> None:
            await anyio.sleep_forever()

        with mock.patch.dict(os.environ, {"OMNITCK_DEADLINE": "0.02", "OMNITCK_PATIENCE": "2"}):
            self.assertIn("  expected  a verdict within 0.04 s\n", judge(calling(hang)).message)
