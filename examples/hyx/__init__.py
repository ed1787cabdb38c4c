"""The library hyx, as it is."""
