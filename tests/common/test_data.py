"""What the rules of data say and do about numbers that a provider declares."""

import unittest

from omnitck.common.data import within_reach


class TestWithinReach(unittest.TestCase):
    def test_a_page_that_can_be_filled_is_gone_beyond(self) -> None:
        for entries in (1, 2, 999, 1_000, 5_000, 10_000):
            self.assertEqual(within_reach(entries), entries)

    def test_one_that_cannot_counts_as_many_as_are_usual(self) -> None:
        for entries in (10_001, 2**40):
            self.assertEqual(within_reach(entries), 1_000)
