"""The commands, one per file (packing and unpacking share one)."""
