"""Speed and memory of artifacts and models."""

from tfcompress.benchmarking.benchmark import Benchmark, adb_command, benchmark

__all__ = ["Benchmark", "adb_command", "benchmark"]
