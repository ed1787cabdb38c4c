"""Contracts of resilience: what keeps a system whole while its parts fail."""
