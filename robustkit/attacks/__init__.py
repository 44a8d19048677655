"""The attacks: one file each, nothing but `init` and `step`."""
