"""Valkey (or Redis) through redis-py: one atomic Lua script for each operation that a command does not cover."""
