"""The models of the demo, and the weights of them that come with the package."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tfcompress.core.errors import ArtifactError

_DIRECTORY = Path(__file__).parent
# Made by benchmarks/demo_models.py, which prints these.
_HASHES = {
    "teacher": "9b2654920381066b836717769891d1f02c1c8f8c7c36517d5d35e5f8d21b5095",
    "student": "c83dfda531abcdb3e38bb296bae63d1c89029b6c1c1fc5ce5d0a655580c0f163",
}


def build_teacher(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Returns a small residual network."""
    image = keras.Input(shape, name="image")
    x = image
    # Averages that a few hundred steps fill: with Keras' 0.99 a short training answers
    # with those it began with.
    norm = partial(layers.BatchNormalization, momentum=0.9)
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        skip = layers.Conv2D(width, 1, strides=stride, use_bias=False)(x)
        x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        x = norm()(x)
        x = layers.ReLU()(x)
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = norm()(x)
        x = layers.ReLU()(layers.Add()([x, skip]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="teacher")


def build_student(
    shape: tuple[int, ...], classes: int, name: str = "student"
) -> keras.Model:
    """Returns LeNet-5 in the widths of Deep Compression (20-50-500-10)."""
    image = keras.Input(shape, name="image")
    # Pictures of 8x8 pixels have no room for convolutions without a border.
    conv = partial(
        layers.Conv2D,
        kernel_size=5,
        activation="relu",
        padding="valid" if min(shape[:2]) >= 16 else "same",
    )
    x = conv(20, name="conv1")(image)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = conv(50, name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="dense")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name=name)


def write_weights(model: keras.Model, path: Path) -> str:
    """Writes the weights in 16 bits each, and returns the file's SHA-256."""
    weights = [np.asarray(weight, "float16") for weight in model.get_weights()]
    if not all(np.isfinite(weight).all() for weight in weights):
        raise ValueError("weights that 16 bits do not hold")
    content = io.BytesIO()
    np.savez_compressed(content, *weights)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def set_trained_weights(model: keras.Model) -> None:
    """Gives a model of the demo the weights that come with the package.

    Args:
        model: what `build_teacher` or `build_student` made for Fashion-MNIST, under
            the name that it has there.

    Raises:
        ArtifactError: if the file is missing or not the one that was published.
    """
    path = _DIRECTORY / f"{model.name}.npz"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _HASHES[model.name]:
        raise ArtifactError(
            f"The demo's trained {model.name} is not the one of this version.",
            received=str(path) if content else f"no file {path}",
            expected=f"the file with SHA-256 {_HASHES[model.name]}",
            fix="install tfcompress again",
        )
    set_weights(model, content)


def set_weights(model: keras.Model, content: bytes) -> None:
    """Gives a model the weights that `write_weights` wrote."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        model.set_weights([stored[name].astype("float32") for name in stored.files])
