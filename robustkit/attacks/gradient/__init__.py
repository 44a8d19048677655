"""Attacks that follow the model's gradient."""
