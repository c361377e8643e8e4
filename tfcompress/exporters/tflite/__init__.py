"""All that is about .tflite files."""

from pathlib import Path

SCRIPT = str(Path(__file__).with_name("_worker.py"))
"""The jobs of the child process that write and run these files."""
