"""Adapters: a native model becomes a `Model`, and nothing above knows which."""
