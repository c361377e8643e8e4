"""What a student may learn from."""
