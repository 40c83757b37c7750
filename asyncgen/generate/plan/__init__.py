"""The plan of a job: requests, tokens, cost and time, before anything is sent."""
