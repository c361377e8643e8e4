"""The same fit on one device and on two logical replicas, in a child process.

A process can be given logical devices only before TensorFlow starts.
"""

import json
import subprocess
import sys
from pathlib import Path


def on_one_and_two(module):
    """Returns what a child's `train` gives without replicas, and with two.

    Args:
        module: dotted name of the child, a script that calls `answer(train)`.
    """
    child = subprocess.run(
        [sys.executable, "-m", module],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    one, two = json.loads(child.stdout.splitlines()[-1])
    assert (one["replicas"], two["replicas"]) == (1, 2)
    return one, two


def answer(train):
    """The child's side: `train(strategy)` returns a dict that has `replicas`."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = [train(s) for s in (tf.distribute.get_strategy(), two)]
    json.dump(results, sys.stdout)
