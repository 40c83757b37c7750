"""Settled rows on disk: journal, spend, fsync, repair."""
