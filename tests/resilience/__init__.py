"""Tests of the contracts of resilience."""
