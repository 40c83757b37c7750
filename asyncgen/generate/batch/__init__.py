"""The Batch API as the second engine over a run's files: half the price, within a day."""
