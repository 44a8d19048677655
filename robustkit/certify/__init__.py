"""Certified lower bounds: within which distance there is surely no adversarial."""
