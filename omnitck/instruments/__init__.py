"""What rules measure with. None of it knows a contract."""
