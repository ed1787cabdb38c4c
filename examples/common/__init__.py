"""What the adapters of several backends share."""
