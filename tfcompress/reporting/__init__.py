"""Reports: what compression gained and what it cost, side by side."""

from tfcompress.reporting.report import Report, Row, report

__all__ = ["Report", "Row", "report"]
