"""Models over whole sequences, as models of a few steps that hand on their states."""

from tfcompress.sequences.decoding import decoder_step
from tfcompress.sequences.streaming import streaming

__all__ = ["decoder_step", "streaming"]
