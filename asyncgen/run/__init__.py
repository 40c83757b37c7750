"""A run on disk: its directory, lock, state, records, JSON Lines and whole files."""
