"""What fits leave behind in the process when they are over."""

import subprocess
import sys

import pytest

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
