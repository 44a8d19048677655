"""Attacks that need scores and no gradients."""
