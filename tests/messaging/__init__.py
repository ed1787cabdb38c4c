"""Tests of the contracts of messaging."""
