"""Small networks on real images (scikit-learn's digits), trained and exported once."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfcompress
from tfcompress.exporters import Artifact

L = keras.layers


@pytest.fixture(scope="session")
def digits():
    """1797 images of 8 x 8 pixels in [0, 1], with their labels."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1).astype("float32") / 16, labels.astype("int32")


def norm(**kwargs):
    """Batch normalization whose statistics settle within a few dozen steps."""
    return L.BatchNormalization(momentum=0.8, **kwargs)


def residual():
    image = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(image)
    x = skip = L.ReLU(name="relu")(norm(name="norm")(x))
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv2")(x)
    x = L.ReLU(name="relu2")(L.Add(name="add")([norm()(x), skip]))
    x = L.MaxPooling2D(2)(x)
    x = L.Dropout(0.1)(x)
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(10, name="logits")(x), name="residual")


def depthwise():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            L.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem"),
            norm(),
            L.ReLU(6.0),
            L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depth"),
            norm(),
            L.ReLU(6.0),
            L.SeparableConv2D(16, 3, padding="same", activation="relu", name="sep"),
            L.ZeroPadding2D(1),
            L.Conv2D(16, 3, activation="relu", name="last"),
            L.GlobalMaxPooling2D(),
            L.Dense(10, activation="softmax", name="probs"),
        ],
        name="depthwise",
    )


def branches():
    image = keras.Input((8, 8, 1), name="image")
    a = L.Conv2D(6, 3, padding="same", activation="relu", name="a")(image)
    b = L.Conv2D(6, 1, padding="same", name="b")(image)
    x = L.Concatenate(name="join")([a, b])
    x = L.ReLU()(norm(name="pre_norm")(x))
    x = L.Concatenate(name="dense_join")([x, L.Conv2D(4, 3, padding="same")(x)])
    x = L.AveragePooling2D(2, name="average")(x)
    x = L.Flatten()(x)
    gate = L.Dense(16, activation="sigmoid", name="gate")(x)
    value = L.Dense(16, activation="tanh", name="value")(x)
    x = L.Concatenate(name="fixed_join")([L.Multiply()([gate, value]), gate])
    return keras.Model(image, L.Dense(10, name="logits")(x), name="branches")


def nested():
    block = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            L.Conv2D(4, 3, padding="same", activation="relu", name="inner_conv"),
        ],
        name="block",
    )
    image = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="outer")(image)
    x = block(block(x))  # shared: the same weights twice
    x = L.Reshape((-1,))(x)
    return keras.Model(image, L.Dense(10, name="logits")(x), name="nested")


def perceptron():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            L.Rescaling(2.0, offset=-1.0, name="rescale"),
            L.Flatten(),
            L.Dense(32, name="hidden"),
            norm(name="norm"),
            L.Activation("relu"),
            L.Dense(16, activation="silu", name="gated"),
            L.Dense(10, name="logits"),
        ],
        name="perceptron",
    )


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    f.__name__: f for f in (residual, depthwise, branches, nested, perceptron)
}


@dataclasses.dataclass
class Shipped:
    """A network after quantization-aware training, on its way to both formats."""

    original: keras.Model
    trained: keras.Model
    folder: Path

    @functools.cached_property
    def final(self) -> keras.Model:
        return tfcompress.finalize(self.trained)

    @functools.cached_property
    def phone(self) -> Artifact:
        return tfcompress.export(self.final, self.folder / "model.tflite")

    @functools.cached_property
    def server(self) -> Artifact:
        return tfcompress.export(
            self.final, self.folder / "served", format="saved_model"
        )


@pytest.fixture(scope="session")
def shipped(digits, tmp_path_factory):
    """Returns a function that trains a network, once, and exports it when asked to."""
    made: dict[str, Shipped] = {}

    def ship(name: str) -> Shipped:
        if name not in made:
            keras.utils.set_random_seed(1)
            original = BUILDERS[name]()
            trained = tfcompress.quantize_aware(original, "w8a8")
            from_logits = not name.startswith("depthwise")
            trained.compile(
                keras.optimizers.Adam(3e-3),
                keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
                metrics=["accuracy"],
            )
            trained.fit(*digits, batch_size=64, epochs=5, verbose=0)
            made[name] = Shipped(original, trained, tmp_path_factory.mktemp(name))
        return made[name]

    return ship


def small_model(activation="relu"):
    """An unbuilt-free two-layer network for tests that do not export."""
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            L.Dense(8, activation=activation, name="hidden"),
            L.Dense(3, name="logits"),
        ]
    )


def as_numpy(value) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value))
