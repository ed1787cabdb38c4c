"""Tests of what a provider imports."""
