"""The "executorch" format."""
