"""Long benchmarks as lists of jobs: TFMOT's in a child process, results resumed."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

BATCH = 128


def options(description):
    """Returns a parser of the options that benchmarks which train have in common."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument(
        "--json", type=Path, help="write every run here; those found are not repeated"
    )
    return parser


def models_folder(json_path):
    """Returns where a benchmark keeps what it trained: beside its results, if any."""
    if json_path is None:
        return Path(tempfile.mkdtemp(prefix="benchmark-"))
    folder = json_path.with_suffix(".models")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def add_tfmot_options(parser):
    """Adds what a script takes whose TFMOT rows are made by itself, as a child."""
    parser.add_argument("--no-tfmot", action="store_true")
    parser.add_argument("--tfmot-child", action="store_true", help=argparse.SUPPRESS)


def tfmot_child(script, arguments):
    """Returns what asks the script's own child, on the same images; None without."""
    if arguments.no_tfmot:
        return None
    limit = ["--limit", str(arguments.limit)] if arguments.limit else []
    return Child(script, "--tfmot-child", *limit).ask


def images(limit=None, data=None):
    """Returns Fashion-MNIST, or the images in a folder `data` with four IDX files."""
    from tfcompress.datasets import load_images, read_fashion_mnist

    return (read_fashion_mnist(data) if data else load_images()).first(limit)


class Child:
    """A script in a process of its own, with Keras 2, that answers JSON lines.

    It lives until ours ends: it imports TensorFlow once.

    Args:
        script: the path of the script.
        *arguments: its arguments.
    """

    def __init__(self, script, *arguments):
        self.script = script
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        )

    def ask(self, job):
        """Returns the answer to a job."""
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"The process of {self.script} died on {job}; run it by hand with this "
                "on its standard input to see why."
            )
        return json.loads(answer)

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def answer_jobs(run):
    """The child's side: answers each job, one a line, with `run(job)`."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what others print is no answer
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


def run_jobs(jobs, run, path=None):
    """Returns the results of all jobs; those that `path` holds are not repeated.

    Args:
        jobs: dicts.
        run: job -> dict of figures.
        path: JSON file of `{**job, **figures}`, written after every job.
    """
    console, known = Console(stderr=True), []
    if path is not None and path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    results = []
    for job in jobs:
        job = json.loads(json.dumps(job))  # as it is read back: tuples are lists
        result = next((r for r in known if job.items() <= r.items()), None)
        if result is None:
            began = time.process_time()
            result = {**job, **run(job)}
            known.append(result)
            shown = {k: v for k, v in result.items() if not isinstance(v, list)}
            console.print(f"{shown} ({time.process_time() - began:.0f} s of CPU)")
            if path is not None:
                path.write_text(json.dumps(known, indent=1), encoding="utf-8")
        results.append(result)
    return results


def spread(values, sign=""):
    """Returns mean and standard deviation as a cell of a table."""
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.2f} ± {deviation:.2f}"


def mean(results, name):
    """Returns the mean of a figure; None if no result has it."""
    found = [result[name] for result in results if name in result]
    return statistics.mean(found) if found else None
