"""The Batch API as the second engine of a session: half the price, an answer within 24 hours."""
