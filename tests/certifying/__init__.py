"""Tests of certifying: suites apart from the process that asks."""
