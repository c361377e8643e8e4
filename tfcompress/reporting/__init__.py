"""Reports: what compression gained and what it cost, side by side."""

from tfcompress.reporting.evidence import Evidence
from tfcompress.reporting.front import FrontPoint, pareto_front
from tfcompress.reporting.logger import CompressionLogger
from tfcompress.reporting.measures import LayerWeights
from tfcompress.reporting.report import Report, report
from tfcompress.reporting.rows import Row
from tfcompress.reporting.storage import LayerStorage, Storage, storage

__all__ = [
    "CompressionLogger",
    "Evidence",
    "FrontPoint",
    "LayerStorage",
    "LayerWeights",
    "Report",
    "Row",
    "Storage",
    "pareto_front",
    "report",
    "storage",
]
