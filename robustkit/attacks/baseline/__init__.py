"""Attacks that look at nothing: what every other attack must beat."""
