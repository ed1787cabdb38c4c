"""SQLite through aiosqlite: an embedded store in one file, with no server to run."""
