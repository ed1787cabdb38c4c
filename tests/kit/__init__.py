"""Tests of what runs one rule."""
