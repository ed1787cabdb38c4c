"""Contracts of messaging: what publishes, what consumes, and what publishes later."""
