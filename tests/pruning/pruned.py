"""Small models, and how sparse they are."""

import keras
import numpy as np

import tfcompress

STEPS = 8  # per epoch, with the data of the `data` fixture


def mlp(seed=0, **first_layer):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="relu", name="first", **first_layer),
            keras.layers.Dense(10, activation="relu", name="second"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def compiled(model, optimizer="adam", **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **kwargs)
    return model


def schedule(final=0.75, **kwargs):
    return tfcompress.PolynomialSparsity(0.0, final, frequency=2, **kwargs)


def sparsity(variable):
    return float(np.mean(keras.ops.convert_to_numpy(variable) == 0))


def kernels(model):
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def sparsities(model):
    return [sparsity(kernel) for kernel in kernels(model)]


def expected_sparsities(model, target):
    """What a layer-wise mask leaves: round(size * (1 - target)) weights."""
    sizes = [int(np.prod(k.shape)) for k in kernels(model)]
    return [1 - max(round(size * (1 - target)), 1) / size for size in sizes]
