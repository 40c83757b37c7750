"""One run, worked on by several processes: shards, and their merging."""
