"""The library diskcache, as it is: a thread for each call, and nothing repaired."""
