"""One module for each contract, found by its name: the suite of its reference."""
