"""The local file system: no server, no library."""
