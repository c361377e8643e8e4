"""Makes and saves models of Keras 2 and TFMOT, in the process where these live."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts import (
    cluster_preserve,
)

strip_clustering_cqat = cluster_preserve.cluster_utils.strip_clustering_cqat
layers = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(64, 8, 8, 3)).astype("float32")
LABELS = RNG.integers(0, 5, 64)


def convolutional():
    """Every layer that TFMOT quantizes in a way of its own."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU(6.0, name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="branch")(x)
    x = layers.Concatenate(name="both")([layers.Add(name="sum")([x, y]), y])
    x = layers.Dropout(0.2, name="drop")(layers.GlobalAveragePooling2D(name="mean")(x))
    return keras.Model(image, layers.Dense(5, name="scores")(x), name="convolutional")


def sequential():
    return keras.Sequential(
        [
            layers.Flatten(input_shape=(8, 8, 3), name="flat"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(5, name="scores"),
        ],
        name="sequential",
    )


def functions():
    """TensorFlow functions, a nested model, a shared layer, two outputs."""
    x = keras.Input((6,), name="x")
    h = tf.concat([tf.nn.relu(x * 2.0 + 1.0), x], -1)[:, :9]
    h = 2.0 - layers.Dense(4, name="dense")(h)
    mean = tf.reduce_mean(h, axis=-1, keepdims=True)
    inner = keras.Sequential([layers.Dense(3, input_shape=(4,), name="d")], "inner")
    shared = layers.Dense(4, name="shared")
    h = shared(h - mean)
    return keras.Model(x, [inner(h + shared(tf.nn.tanh(h))), mean], name="functions")


def sequences():
    """Layers whose configuration holds other layers, and masks."""
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(20, 6, mask_zero=True, name="words")(tokens)
    lstm = layers.LSTM(5, return_sequences=True, name="lstm")
    x = layers.Bidirectional(lstm, name="both_ways")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GRU(4, name="gru")(layers.LayerNormalization(name="norm")(x))
    x = layers.Reshape((2, 2), name="pairs")(x)
    x = layers.TimeDistributed(layers.Dense(2, name="each"), name="time")(x)
    return keras.Model(tokens, layers.SeparableConv1D(3, 2, name="separable")(x))


TRAINED = True


def fitted(model, callbacks=(), epochs=2):
    if not TRAINED:  # a few steps of what layers do by themselves
        for _ in range(5):
            model(IMAGES, training=True)
        return model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(IMAGES, LABELS, 16, epochs, verbose=0, callbacks=list(callbacks))
    return model


def pruned(model, target):
    sparsity = tfmot.sparsity.keras
    schedule = sparsity.ConstantSparsity(target, 0, frequency=1)
    model = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    for wrapper in model.layers if not TRAINED else ():
        if hasattr(wrapper, "pruning_obj"):
            wrapper.pruning_step.assign(0)
            wrapper.pruning_obj.conditional_mask_update()
    return fitted(model, [sparsity.UpdatePruningStep()])


def clustered(model):
    cluster = tfmot.clustering.keras
    start = cluster.CentroidInitialization.LINEAR
    return fitted(cluster.cluster_weights(model, 8, start))


def quantized(model):
    return fitted(tfmot.quantization.keras.quantize_model(model), epochs=4)


def clusters_kept(strip):
    """Quantized with TFMOT's scheme that keeps clusters (CQAT)."""
    quantization, combine = tfmot.quantization.keras, tfmot.experimental.combine
    model = tfmot.clustering.keras.strip_clustering(clustered(sequential()))
    scheme = combine.Default8BitClusterPreserveQuantizeScheme()
    model = quantization.quantize_annotate_model(model)
    model = fitted(quantization.quantize_apply(model, scheme))
    return strip_clustering_cqat(model) if strip else model


def partly_quantized():
    """Only one of the layers is annotated."""
    quantization = tfmot.quantization.keras
    model = keras.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(192,), name="hidden"),
            quantization.quantize_annotate_layer(layers.Dense(5, name="scores")),
        ]
    )
    model = quantization.quantize_apply(model)
    model(IMAGES.reshape(64, -1), training=True)
    return model


def with_lambda():
    return keras.Sequential(
        [layers.Lambda(lambda x: x + 1, input_shape=(2,), name="l")]
    )


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


def with_own_layer():
    return keras.Sequential([layers.Dense(2, input_shape=(2,)), Doubled(name="own")])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


INPUTS = {
    "functions": RNG.normal(size=(8, 6)).astype("float32"),
    "sequences": RNG.integers(0, 20, (8, 7)).astype("int32"),
    "partly_quantized": IMAGES[:8].reshape(8, -1),
}
MODELS = {
    "convolutional": lambda: fitted(convolutional()),
    "sequential": lambda: fitted(sequential()),
    "functions": functions,
    "sequences": sequences,
    "pruned": lambda: pruned(sequential(), 0.75),
    "pruned_convolutional": lambda: pruned(convolutional(), 0.5),
    "pruned_stripped": lambda: tfmot.sparsity.keras.strip_pruning(
        pruned(sequential(), 0.75)
    ),
    "clustered": lambda: clustered(sequential()),
    "clustered_stripped": lambda: tfmot.clustering.keras.strip_clustering(
        clustered(sequential())
    ),
    "quantized": lambda: quantized(convolutional()),
    "quantized_sequential": lambda: quantized(sequential()),
    "partly_quantized": partly_quantized,
    "quantized_clusters": lambda: clusters_kept(strip=False),
    "quantized_clusters_stripped": lambda: clusters_kept(strip=True),
}


def make(job):
    """Saves the models of `files`, by name and endings, with their outputs."""
    global TRAINED
    TRAINED = job["trained"]
    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(3)
    folder = Path(job["folder"])
    for name, endings in job["files"].items():
        model = MODELS[name]()
        x = INPUTS.get(name, IMAGES[:8])
        outputs = model(x, training=False)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        arrays = {f"y{i}": y.numpy() for i, y in enumerate(outputs)}
        np.savez(folder / f"{name}.npz", x=x, **arrays)
        for ending in endings:
            model.save(folder / f"{name}{ending}")
    with_lambda().save(folder / "lambda.h5")
    with_lambda().save(folder / "lambda.keras")
    with_own_layer().save(folder / "own.h5")
    subclassed = Subclassed()
    subclassed(np.zeros((1, 2), "float32"))
    subclassed.save(folder / "subclassed")
    subclassed.save_weights(folder / "weights.h5")
    return {}


JOBS = {"make": make}
