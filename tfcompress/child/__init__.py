"""The process that may crash: it converts and runs files that nobody vouches for."""
