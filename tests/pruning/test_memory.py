"""What fits leave behind in the process when they are over."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress

SCRIPT = """
import gc
import keras
import numpy as np
import tfcompress as tc

model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(12)])
x, y = np.random.rand(32, 8), np.ones((32, 12))

def fit(technique):
    model.compile("sgd", "mse")
    callbacks = [technique()] if technique else []
    model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)

def objects(technique, fits=3):
    fit(technique), fit(technique)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(fits):
        fit(technique)
    gc.collect()
    return (len(gc.get_objects()) - before) / fits

# TensorFlow keeps something of each step that Keras compiles; this one compiles, too.
class Again(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.make_train_function(force=True)

TECHNIQUES = dict(
    prune=lambda: tc.PruneWeights(tc.ConstantSparsity(0.5, 0), scope="global"),
    sparse=lambda: tc.SparseTraining(0.5),
    cluster=lambda: tc.ClusterWeights(4),
)
print(objects(Again), objects(TECHNIQUES[NAME]))
"""


@pytest.mark.parametrize("technique", ["prune", "sparse", "cluster"])
def test_what_a_technique_traces_is_freed_with_it(technique):
    code = f"NAME = {technique!r}\n{SCRIPT}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    plain, with_technique = map(float, run.stdout.split()[-2:])
    # What each step does (multiply with a mask, look at a gradient) is part of it.
    assert with_technique < 2 * plain + 200


class Marks:
    """Callbacks around another one, and what TensorFlow allocated while it ran."""

    def __init__(self):
        self.peaks = {}

    def around(self, callback):
        marks = self

        class Before(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                marks.begin()

            on_train_end = on_epoch_begin

        class After(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                marks.end("start")

            def on_train_end(self, logs=None):
                marks.end("stop")

        return [Before(), callback, After()]

    def begin(self):
        tf.config.experimental.reset_memory_stats("CPU:0")
        self.held = tf.config.experimental.get_memory_info("CPU:0")["current"]

    def end(self, name):
        peak = tf.config.experimental.get_memory_info("CPU:0")["peak"]
        self.peaks[name] = peak - self.held


SIDE = 2048
KERNEL = 4 * SIDE**2


@pytest.mark.parametrize("pattern", ["unstructured", "n_of_m"])
def test_beginning_and_end_hold_little_beside_the_weights(pattern):
    model = keras.Sequential([keras.Input((SIDE,)), keras.layers.Dense(SIDE)])
    model.compile("sgd", "mse")
    schedule = tfcompress.ConstantSparsity(0.5, begin_step=0)
    prune = tfcompress.PruneWeights(schedule, pattern=pattern)
    marks = Marks()
    x = np.ones((8, SIDE), "float32")
    model.fit(x, x, batch_size=4, verbose=0, callbacks=marks.around(prune))
    # A mask is a quarter of its kernel; the end writes the kernel once more.
    assert marks.peaks["start"] <= 0.5 * KERNEL
    assert marks.peaks["stop"] <= 1.75 * KERNEL


def test_masks_of_several_kernels_are_renewed_one_after_the_other():
    layers = [keras.layers.Dense(SIDE // 2, use_bias=False) for _ in range(8)]
    model = keras.Sequential([keras.Input((SIDE // 2,)), *layers])
    model.compile("sgd", "mse")
    schedule = tfcompress.ConstantSparsity(0.5, begin_step=0)
    prune = tfcompress.PruneWeights(schedule, scope="layer")
    prune.set_model(model)
    prune.set_params({"epochs": 1, "steps": 8})
    prune.on_train_begin()
    prune.start(0)
    renew = tf.function(lambda: prune._renew_masks(prune._schedule))
    renew()
    marks = Marks()
    marks.begin()
    renew()
    marks.end("renewal")
    prune.release()
    # Eight kernels of a quarter: the scores of one or two at a time, and not of all.
    assert marks.peaks["renewal"] <= 0.75 * KERNEL
