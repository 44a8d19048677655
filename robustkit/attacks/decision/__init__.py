"""Attacks that see nothing but decisions."""
