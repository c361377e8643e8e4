"""Models over whole sequences, as models of a few steps that hand on their states."""

from tfcompress.sequences.streaming import streaming

__all__ = ["streaming"]
