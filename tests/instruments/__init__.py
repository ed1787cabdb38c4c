"""Tests of what rules measure with."""
