"""Clocks."""

import unittest

from omnitck.shared.clock import ManualClock, SystemClock


class TestClocks(unittest.TestCase):
    def test_a_manual_clock_moves_when_told_and_only_then(self) -> None:
        clock = ManualClock(10.0)
        before = clock.now()
        clock.advance(2.5)
        clock.advance(0)
        self.assertEqual((before, clock.now(), repr(clock)), (10.0, 12.5, "ManualClock(12.5)"))

    def test_a_manual_clock_moves_forward_only(self) -> None:
        clock = ManualClock()
        for seconds in (-1, float("nan")):
            with self.assertRaises(ValueError) as caught:
                clock.advance(seconds)
            self.assertEqual(str(caught.exception), f"a clock moves forward only, not by {seconds} s")
        self.assertEqual(clock.now(), 0.0)

    def test_the_system_clock_never_goes_backwards(self) -> None:
        clock = SystemClock()
        moments = [clock.now() for _ in range(100)]
        self.assertEqual(moments, sorted(moments))
