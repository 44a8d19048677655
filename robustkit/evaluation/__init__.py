"""From a model and data to verified distances."""
