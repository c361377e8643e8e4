"""Reports: what compression gained and what it cost, side by side."""

from tfcompress.reporting.report import Report, Row, report
from tfcompress.reporting.storage import LayerStorage, Storage, storage

__all__ = ["LayerStorage", "Report", "Row", "Storage", "report", "storage"]
