"""Fine-tuning: create a provider's job once, follow it to its end, and ask the tuned model."""
