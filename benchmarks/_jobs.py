"""Long benchmarks as lists of jobs: TFMOT's in a child process, results resumed."""

import json
import os
import subprocess
import sys
import time

from rich.console import Console

BATCH = 128


def images(limit=None):
    """Returns `(x_train, y_train), (x_test, y_test)` of Fashion-MNIST."""
    from tfcompress.datasets import load_images

    data = load_images(limit)
    return (data.x_train, data.y_train), (data.x_test, data.y_test)


def open_child(script, *options):
    """Returns a function that asks the Keras 2 side of a script for a job's result.

    The process lives until ours ends: it imports TensorFlow once.
    """
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    child = subprocess.Popen(
        [sys.executable, script, "--tfmot-child", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )

    def ask(job):
        print(json.dumps(job), file=child.stdin, flush=True)
        answer = child.stdout.readline()
        if not answer:
            raise RuntimeError("The TFMOT process died; run it with --tfmot-child.")
        return json.loads(answer)

    return ask


def answer_jobs(run):
    """The child's side: answers each job, one a line, with `run(job)`."""
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


def run_jobs(jobs, run, path=None):
    """Returns the results of all jobs; those that `path` holds are not repeated.

    Args:
        jobs: dicts.
        run: job -> dict of figures.
        path: JSON file of `{**job, **figures}`, written after every job.
    """
    console, results = Console(stderr=True), []
    if path is not None and path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
    for job in jobs:
        if any(job.items() <= result.items() for result in results):
            continue
        began = time.process_time()
        figures = run(job)
        results.append({**job, **figures})
        console.print(f"{results[-1]} ({time.process_time() - began:.0f} s of CPU)")
        if path is not None:
            path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results
