"""Tests of the contracts of primitives."""
