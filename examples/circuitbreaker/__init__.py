"""The library circuitbreaker, as it is."""
