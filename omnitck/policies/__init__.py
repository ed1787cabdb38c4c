"""Policies: contracts for cross-cutting concerns, which compose with any data-holding contract."""
