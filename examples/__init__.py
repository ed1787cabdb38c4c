"""Real adapters, one folder a backend, each certified by the kit against the server that it wraps."""
