"""Tensors and geometry; this layer knows no model and no attack."""
