"""All that is about files for Arm's Ethos-U."""
