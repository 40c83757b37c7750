"""From requests to records: the pool, its limits, the client, and the journal of what was paid for."""
