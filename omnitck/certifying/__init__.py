"""Running suites, apart from who asked: in processes, in threads, many rules at a time."""
