"""The process that converters run in, under the name of former releases."""

from tfcompress.child.process import WORKER, ConverterFailure, ConverterProcess

__all__ = ["WORKER", "ConverterFailure", "ConverterProcess"]
