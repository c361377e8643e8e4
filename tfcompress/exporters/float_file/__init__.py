"""Float .tflite files of other tools: rounded without the model that they came from."""

from pathlib import Path

SCRIPT = str(Path(__file__).with_name("_worker.py"))
"""The job of the child process that rounds them."""
