"""From requests to records: session, engines, HTTP client, journal and plan."""
