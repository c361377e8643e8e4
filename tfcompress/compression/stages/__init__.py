"""Stages of recipes, one class per file, found by name through `STAGES`."""

from tfcompress.compression.stages.base import STAGES, Stage
from tfcompress.compression.stages.cluster import Cluster
from tfcompress.compression.stages.distil import Distil
from tfcompress.compression.stages.factorize import Factorize
from tfcompress.compression.stages.fit import Fit
from tfcompress.compression.stages.prune import Prune
from tfcompress.compression.stages.quantize import Quantize
from tfcompress.compression.stages.quantize_file import QuantizeFile
from tfcompress.compression.stages.shrink import Shrink

__all__ = [
    "STAGES",
    "Cluster",
    "Distil",
    "Factorize",
    "Fit",
    "Prune",
    "Quantize",
    "QuantizeFile",
    "Shrink",
    "Stage",
]
