"""The library pyresilience, as it is."""
