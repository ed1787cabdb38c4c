"""The lock of the library redis-py, as it is."""
