"""What is settled: records on disk, spend, sync, repair."""
