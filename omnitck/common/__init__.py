"""Rules and views that are written once, for every contract."""
