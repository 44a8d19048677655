"""Attack unit tests: problems whose adversarials are known to exist, and how near."""
