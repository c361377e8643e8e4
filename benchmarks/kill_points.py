"""Runs that are killed with `kill -9` and resumed: do they end with the same weights?

    python benchmarks/kill_points.py --chains 5 --json kills.json

For each technique a small network with BatchNormalization and Dropout is trained once
without interruption. Then it is trained in chains of processes: each but the last is
killed at a random moment of a random step, and the next one resumes it, by
`BackupAndRestore` or from the newest `.keras` of a `ModelCheckpoint`. A kill point is
one kill; those of a chain are equal if all weights that the last process ends with are
those of the unbroken run, bit for bit. With `--moment saving` processes are killed
while callbacks save at the end of an epoch. Chains found in the JSON file are not
repeated.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import tensorflow as tf
from _forks import Fork, in_fork
from _jobs import run_jobs
from _techniques import BATCH, EPOCHS, STEPS, data, prepare
from rich.console import Console

import tfcompress

RESUMES = ("backup", "checkpoint")
TECHNIQUES = ("prune", "cluster", "quantize", "distil", "all together")
# About what a step takes, and what saving does, in seconds.
MOMENTS = {"step": 0.01, "saving": 0.06}


class EpochOrder(keras.callbacks.Callback):
    """Batches whose order is a function of the epoch, so that a resumed run sees it."""

    def __init__(self):
        super().__init__()
        self.epoch = tf.Variable(0, dtype="int64")
        x, y = map(tf.constant, data())
        size = len(x) - 1

        def sample(index):
            seed = tf.stack([tf.constant(0, "int64"), self.epoch])
            place = tf.random.experimental.index_shuffle(index, seed, size)
            return tf.gather(x, place), tf.gather(y, place)

        self.batches = tf.data.Dataset.range(len(x)).map(sample).batch(BATCH)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch.assign(epoch)


class Kill(keras.callbacks.Callback):
    """Kills its own process at a moment of a step, or of the saving after an epoch.

    Args:
        moment: "step" or "saving".
        step: counted from the first epoch; the last one of an epoch for saving.
        delay: seconds from the beginning of that step or of that saving.
    """

    def __init__(self, moment, step, delay):
        super().__init__()
        self.moment, self.step, self.delay = moment, step, delay
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.moment == "step" and self._now(batch):
            threading.Thread(target=self._die, daemon=True).start()

    def on_train_batch_end(self, batch, logs=None):
        if self.moment == "step" and self._now(batch):
            time.sleep(60)  # the step was shorter than the delay

    def on_epoch_end(self, epoch, logs=None):
        if self.moment == "saving" and self._now(STEPS - 1):
            threading.Thread(target=self._die, daemon=True).start()

    def _now(self, batch):
        return self.epoch * STEPS + batch == self.step

    def _die(self):
        time.sleep(self.delay)
        os.kill(os.getpid(), signal.SIGKILL)


def train(technique, folder=None, resume=None, kill=None):
    """Returns the final weights, as bytes, of a run that goes on where `folder` is."""
    order = EpochOrder()
    model, callbacks = prepare(technique, stateful=True)
    first = 0
    if resume == "checkpoint":
        first, model = newest(folder, model)
        path = folder / "{epoch:02d}.keras"
        callbacks.append(keras.callbacks.ModelCheckpoint(path))
    elif resume == "backup":
        callbacks.append(
            keras.callbacks.BackupAndRestore(
                folder / "backup", double_checkpoint=True, delete_checkpoint=False
            )
        )
    if kill is not None:
        callbacks.insert(0, Kill(*kill))
    model.fit(
        order.batches,
        epochs=EPOCHS,
        initial_epoch=first,
        verbose=0,
        callbacks=[order, tfcompress.SeedEachEpoch(), *callbacks],
    )
    return [weight.tobytes() for weight in model.get_weights()]


def newest(folder, model):
    """Returns how many epochs the newest file that can be read had, and its model."""
    for path in sorted(folder.glob("*.keras"), reverse=True):
        try:
            return int(path.stem), keras.models.load_model(path)
        except (OSError, ValueError, KeyError):
            continue  # the process died while it wrote this one
    return 0, model


def chain(job, expected):
    """Returns whether a run that is killed several times ends as the unbroken one."""
    lot = random.Random(repr(sorted(job.items())))
    steps = range(EPOCHS * STEPS)
    if job["moment"] == "saving":
        steps = steps[STEPS - 1 :: STEPS]
    steps = sorted(lot.choices(steps, k=job["kills"]))
    run = train, job["technique"], Path(tempfile.mkdtemp(prefix="kill-points-"))
    killed = 0
    try:
        for step in steps:
            kill = job["moment"], step, lot.uniform(0, MOMENTS[job["moment"]])
            code, _ = Fork(*run, job["resume"], kill).join()
            killed += code == -signal.SIGKILL
        ended = in_fork(*run, job["resume"])
    finally:
        shutil.rmtree(run[2])
    return {"steps": steps, "killed": killed, "equal": ended == expected}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chains", type=int, default=5, help="of each of the pairs")
    parser.add_argument("--kills", type=int, default=4, help="in a chain")
    parser.add_argument("--techniques", nargs="+", default=TECHNIQUES)
    parser.add_argument("--resumes", nargs="+", default=RESUMES)
    parser.add_argument("--moment", choices=MOMENTS, default="step")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    unbroken = {}

    def run(job):
        technique = job["technique"]
        if technique not in unbroken:
            unbroken[technique] = in_fork(train, technique)
        return chain(job, unbroken[technique])

    jobs = [
        {
            "technique": technique,
            "resume": resume,
            "moment": arguments.moment,
            "kills": arguments.kills,
            "chain": number,
        }
        for number in range(arguments.chains)
        for technique in arguments.techniques
        for resume in arguments.resumes
    ]
    results = run_jobs(jobs, run, arguments.json)
    console = Console()
    console.print("| technique | resumed by | kill points | equal |")
    console.print("|---|---|--:|--:|")
    for technique in arguments.techniques:
        for resume in arguments.resumes:
            wanted = {"technique": technique, "resume": resume}
            found = [r for r in results if wanted.items() <= r.items()]
            killed = sum(r["killed"] for r in found)
            equal = sum(r["killed"] for r in found if r["equal"])
            console.print(f"| {technique} | {resume} | {killed} | {equal} |")


if __name__ == "__main__":
    main()
