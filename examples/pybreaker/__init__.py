"""The library pybreaker, as it is."""
