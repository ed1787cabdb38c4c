"""What a provider imports: the standard's exceptions, records and clocks. Standard library only."""
