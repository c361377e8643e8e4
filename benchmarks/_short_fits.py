"""Small data of several kinds, and the small CNN that short fits are tried on."""

import keras
import numpy as np

from tfcompress.datasets import load_images

BATCH = 32


def written_digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:1440], y[:1440]), (x[1440:], y[1440:])


def fashion_images(count=4000):
    data = load_images()
    train = data.x_train[:count], data.y_train[:count]
    return train, (data.x_test, data.y_test)


def spoken(path):
    held = np.load(path)
    parts = (held["x_train"], held["y_train"]), (held["x_test"], held["y_test"])
    return tuple((x[..., None].astype("float32"), y) for x, y in parts)


def network(shape):
    layers = keras.layers
    deep = [16, 32, 64] if shape[0] > 16 else [16, 32]
    stack = [keras.Input(shape)]
    # Averages with Keras' momentum of 0.99 lag behind for longer than these fits last.
    for filters in deep:
        stack += [layers.Conv2D(filters, 3, padding="same", use_bias=False)]
        stack += [
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
        ]
    stack += [layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)]
    return keras.Sequential(stack)


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def accuracy(model, test):
    return 100 * model.evaluate(*test, batch_size=256, verbose=0)[1]
