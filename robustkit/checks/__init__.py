"""Symptoms of an evaluation that fools itself, and what to do about each."""
