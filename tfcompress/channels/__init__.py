"""Which channels stand or fall together, and removing them."""

from tfcompress.channels.callback import PruneChannels
from tfcompress.channels.dependencies import ChannelGroup, channel_groups
from tfcompress.channels.shrink import shrink

__all__ = [
    "ChannelGroup",
    "PruneChannels",
    "channel_groups",
    "shrink",
]
