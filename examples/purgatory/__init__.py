"""The library purgatory, as it is."""
