"""Two processes on loopback against one: the same global batches, how equal weights?

    python benchmarks/two_workers.py [--techniques prune cluster ...] [--json FILE]

For each technique one small network is trained by one process, by two processes under
`MultiWorkerMirroredStrategy` (with `tfcompress.distribute`), and by one process with
two replicas under `MirroredStrategy`. Printed are the largest difference of a final
weight to that of the one process, and whether all weights, and so masks, codebooks and
ranges, were the same in all replicas after every step.
"""

import argparse
import hashlib
import json
import os
import socket
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf
from _forks import Fork
from _techniques import BATCH, EPOCHS, TECHNIQUES, data, prepare
from rich.console import Console

import tfcompress


class Fingerprints(keras.callbacks.Callback):
    """After every step, a hash of all weights of each replica that is here."""

    def __init__(self, strategy):
        super().__init__()
        self.strategy = strategy
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(
            [
                hashlib.sha256(b"".join(copy)).hexdigest()
                for copy in zip(*map(self._copies, self.model.variables))
            ]
        )

    def _copies(self, variable):
        found = self.strategy.experimental_local_results(variable.value)
        return [copy.numpy().tobytes() for copy in found]


def train(strategy, technique):
    """Returns the final weights, the history and each step's hashes of replicas."""
    with strategy.scope():
        model, callbacks = prepare(technique)
    watch = Fingerprints(strategy)
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    history = model.fit(
        batches, epochs=EPOCHS, verbose=0, callbacks=[*callbacks, watch]
    ).history
    trained = getattr(model, "student", model)
    return {
        "weights": trained.get_weights(),
        "history": history,
        "hashes": watch.steps,
        "needed": sorted(getattr(strategy.reduce, "needed", [])),
    }


def one_process(techniques):
    return [train(tf.distribute.get_strategy(), name) for name in techniques]


def two_replicas(techniques):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return [train(strategy, name) for name in techniques]


def worker(index, ports, techniques):
    addresses = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses}, "task": task}
    )
    strategy = tfcompress.distribute(tf.distribute.MultiWorkerMirroredStrategy())
    return [train(strategy, name) for name in techniques]


def free_ports(count):
    """Returns ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def compare(techniques):
    """Returns a row of figures for each technique."""
    ports = free_ports(2)
    forks = [
        Fork(one_process, techniques),
        Fork(two_replicas, techniques),
        *(Fork(worker, index, ports, techniques) for index in range(2)),
    ]
    ended = [fork.join() for fork in forks]
    if any(code for code, _ in ended):
        raise RuntimeError(f"Children ended with {[code for code, _ in ended]}.")
    rows = []
    for name, alone, mirrored, *workers in zip(techniques, *(a for _, a in ended)):
        rows.append(
            {
                "technique": name,
                "workers": difference(alone, workers[0]),
                "replicas": difference(alone, mirrored),
                "loss": abs(
                    alone["history"]["loss"][-1] - workers[0]["history"]["loss"][-1]
                ),
                "workers_agree": workers[0]["hashes"] == workers[1]["hashes"],
                "replicas_agree": all(
                    len(set(step)) == 1 for step in mirrored["hashes"]
                ),
                "steps": len(mirrored["hashes"]),
                "zeros": float(
                    np.mean(np.concatenate([w.ravel() for w in alone["weights"]]) == 0)
                ),
                "needed": workers[0]["needed"],
            }
        )
    return rows


def difference(one, other):
    """Returns the largest difference of a weight."""
    pairs = zip(one["weights"], other["weights"], strict=True)
    return float(max(np.abs(a - b).max() for a, b in pairs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = compare(arguments.techniques)
    console = Console(width=120)
    console.print("| technique | two workers | two replicas | equal after each step |")
    console.print("|---|---|---|---|")
    for row in rows:
        agree = row["workers_agree"] and row["replicas_agree"]
        console.print(
            f"| {row['technique']} | {row['workers']:.1e} | {row['replicas']:.1e} | "
            f"{'yes' if agree else 'NO'} ({row['steps']}) |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
