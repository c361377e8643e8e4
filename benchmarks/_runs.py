"""What benchmarks that train have in common: options, images, figures that stay."""

import argparse
import json
import statistics
import time
from pathlib import Path

from rich.console import Console

from tfcompress.datasets import load_images, read_fashion_mnist


def options(description):
    """Returns a parser of the options that all of them have."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", help="folder with four IDX files")
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument(
        "--json", type=Path, help="write every run here; those found are not repeated"
    )
    return parser


def images(data=None, limit=None):
    """Returns the images of a folder with IDX files, or Fashion-MNIST."""
    return (read_fashion_mnist(data) if data else load_images()).first(limit)


class Results:
    """Figures of jobs; in a file, if there is one, from which a killed run goes on.

    Args:
        path: a JSON file, or None.
    """

    def __init__(self, path=None):
        self.path = path
        self.rows = []
        self.console = Console(stderr=True)
        if path and path.exists():
            self.rows = json.loads(path.read_text(encoding="utf-8"))

    def run(self, job, measure):
        """Returns the row of a job; `measure()` gives its figures if it is new."""
        job = json.loads(json.dumps(job))  # as it is read back: tuples are lists
        for row in self.rows:
            if job.items() <= row.items():
                return row
        began = time.perf_counter()
        figures = measure()
        row = {**job, **figures, "seconds": round(time.perf_counter() - began)}
        self.rows.append(row)
        if self.path:
            self.path.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        shown = {k: v for k, v in row.items() if not isinstance(v, list | None)}
        self.console.print(", ".join(f"{k} {v}" for k, v in shown.items()))
        return row


def mean(rows, name):
    """Returns the mean of a figure over rows; None if no row has it."""
    found = [row[name] for row in rows if name in row]
    return statistics.mean(found) if found else None
