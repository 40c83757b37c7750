"""asyncgen: make fine-tuning data with a language model, tune a model on it, and use it."""

__version__ = "0.1.0"
