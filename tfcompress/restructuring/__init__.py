"""Physical changes of structure: removing channels, and what ties them together."""
