"""How many operations a training step has: a guard that needs no clock.

A technique that begins to do more in each step shows here before a benchmark is run.
The bounds are the counts of today and a tenth more; who lowers one lowers its bound.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress


def model():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
        ]
    )


class Count(keras.callbacks.Callback):
    """Counts the operations of the step, with those of the functions it calls."""

    def __init__(self, batch):
        super().__init__()
        self.batch, self.operations = batch, 0

    def on_train_batch_end(self, batch, logs=None):
        if not self.operations:
            step = tf.function(self.model.train_step).get_concrete_function(self.batch)
            graph = step.graph.as_graph_def()
            functions = [function.node_def for function in graph.library.function]
            self.operations = sum(map(len, [graph.node, *functions]))


def prune(**options):
    schedule = tfcompress.PolynomialSparsity(0.0, 0.8, frequency=100)
    return tfcompress.PruneWeights(schedule, **options)


def distilled(student):
    loss = keras.distillation.LogitsDistillation(temperature=3.0)
    return tfcompress.Distiller(model(), student, loss)


VARIANTS = {
    "plain": (model, []),
    "prune": (model, [prune()]),
    "prune global": (model, [prune(scope="global")]),
    "taylor": (model, [prune(criterion="taylor")]),
    "cluster": (model, [tfcompress.ClusterWeights(4)]),
    "trained members": (model, [tfcompress.ClusterWeights(4, members="trained")]),
    "prune and cluster": (model, [prune(), tfcompress.ClusterWeights(4)]),
    "qat": (lambda: tfcompress.quantize_aware(model()), []),
    "distil": (lambda: distilled(model()), []),
    "all": (
        lambda: distilled(tfcompress.quantize_aware(model())),
        [prune(), tfcompress.ClusterWeights(4)],
    ),
}
# Operations, as a multiple of those of the plain step.
BOUNDS = {
    "prune": 1.25,
    "prune global": 1.25,
    "taylor": 1.35,
    "cluster": 1.6,
    "trained members": 3.0,
    "prune and cluster": 1.82,
    "qat": 1.8,
    "distil": 1.65,
    "all": 3.05,
}


@pytest.fixture(scope="module")
def count():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 12)).astype("float32")
    y = rng.integers(0, 3, 16)

    def counted(name):
        make, callbacks = VARIANTS[name]
        trained = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained.compile("adam", loss)
        counter = Count((tf.constant(x), tf.constant(y)))
        trained.fit(
            x, y, batch_size=16, epochs=4, verbose=0, callbacks=[*callbacks, counter]
        )
        return counter.operations

    plain = counted("plain")
    return lambda name: counted(name) / plain


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "plain"])
def test_a_step_does_no_more_than_it_did(count, name):
    assert count(name) <= BOUNDS[name]
