"""DBOS, a library for durable workflows, on SQLite: what a step has returned is recorded, and a workflow replayed."""
