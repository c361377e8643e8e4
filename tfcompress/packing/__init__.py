"""Archives: what an artifact takes to download or to keep in flash."""

from tfcompress.packing.archive import Packed, pack, unpack

__all__ = ["Packed", "pack", "unpack"]
