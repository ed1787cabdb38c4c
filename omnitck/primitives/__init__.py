"""Contracts of the fundamental building blocks."""
