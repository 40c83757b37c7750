"""Requests in flight: queue, admission, concurrency, rate limits, retries, settling."""
