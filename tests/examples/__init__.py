"""Tests of what the examples do beyond their contracts."""
