"""The library aiobreaker, as it is."""
