"""Tests of what the kit proves itself with."""
