"""Which channels stand or fall together, and removing them."""
