"""Samples to a model: a provider's fine-tuning jobs created once, followed to their end, and the model asked."""
