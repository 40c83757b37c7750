"""The Batch API's work: files of requests, answered in the background, one batch after the other."""
