"""What a job would send, cost and take, before anything is sent."""
