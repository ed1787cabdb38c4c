"""Tests of the rules that are written once."""
