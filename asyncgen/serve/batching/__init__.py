"""Batches: files of requests, answered in the background, one batch at a time."""
