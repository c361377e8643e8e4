"""The tap shows the gradients that the optimizer gets, in every way a step can run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.pruning.pruned import compiled, mlp
from tfcompress.core.gradient_tap import tap, untap


def loss_gradient(model, x, y, kernel):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x, training=True))
    return tape.gradient(loss, kernel.value).numpy()


class Sum:
    """Adds up what it is shown."""

    def __init__(self, shape):
        self.total = keras.Variable(np.zeros(shape), trainable=False, dtype="float32")
        self.count = keras.Variable(0, trainable=False, dtype="int32")

    def __call__(self, weights, gradient):
        self.total.assign_add(gradient)
        self.count.assign_add(1)


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        ("float32", {}),
        ("float32", {"jit_compile": True}),
        ("float32", {"steps_per_execution": 4}),
        ("float32", {"run_eagerly": True}),
        ("mixed_float16", {}),
        ("mixed_float16", {"steps_per_execution": 2}),
        ("mixed_bfloat16", {}),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_step(data, policy, how):
    keras.config.set_dtype_policy(policy)
    model = compiled(mlp(), keras.optimizers.SGD(0.0), **how)
    kernel = model.layers[0].kernel
    shown = Sum(kernel.shape)
    tap(model.optimizer, kernel, shown)
    model.fit(*data, batch_size=8, verbose=0)
    assert int(shown.count.numpy()) == 8
    keras.config.set_dtype_policy("float32")
    plain = compiled(mlp(), "sgd")
    expected = 8 * loss_gradient(plain, *data, plain.layers[0].kernel)
    # Rounding moves a few units across the kink of their ReLU.
    tolerance = 1e-5 if policy == "float32" else 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(shown.total, expected, atol=tolerance)


def test_an_embeddings_sparse_gradient_arrives_dense():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(5, 2)]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse")
    table = model.layers[0].embeddings
    before, shown = table.numpy(), Sum(table.shape)
    tap(model.optimizer, table, shown)
    model.fit(np.array([[0, 1, 1]]), np.zeros((1, 3, 2)), verbose=0)
    np.testing.assert_allclose(before - shown.total.numpy(), table, atol=1e-6)
    assert ops.all(shown.total[2:] == 0)


def test_several_observers_and_the_way_back():
    model = compiled(mlp())
    kernel, own = model.layers[0].kernel, model.optimizer.apply
    one, two = Sum(kernel.shape), Sum(kernel.shape)
    tap(model.optimizer, kernel, one)
    tap(model.optimizer, kernel, two)
    untap(model.optimizer, kernel, one)
    assert model.optimizer.apply != own
    untap(model.optimizer, kernel, two)
    assert model.optimizer.apply == own
