"""Tests of `omnitck.policies`."""
