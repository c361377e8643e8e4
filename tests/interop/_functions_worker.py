"""Makes models of tf_keras that call TensorFlow functions, in a process of its own."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

K, layers = keras.backend, keras.layers
RNG = np.random.default_rng(0)
VALUES = [
    RNG.normal(size=(3, 4, 6)).astype("float32"),
    RNG.normal(size=(3, 8, 8, 4)).astype("float32"),
    RNG.integers(0, 4, (3, 2)).astype("int32"),
]
EVEN = np.arange(6.0, dtype="float32")


def as_float(x):
    return tf.cast(x, tf.float32)


def normalized(x):
    layer = layers.Normalization()
    layer.adapt(VALUES[0] * 3 + 2)
    return layer(x)


# Of a sequence, a picture and two numbers.
FUNCTIONS = {
    # Layers that mean something else in Keras 3, or hold what weights do not.
    "hard_sigmoid": lambda x, i, n: layers.Dense(3, "hard_sigmoid")(x),
    "hard_gates": lambda x, i, n: layers.Bidirectional(
        layers.LSTM(2, recurrent_activation="hard_sigmoid")
    )(x),
    "hard_maps": lambda x, i, n: layers.ConvLSTM2D(2, 3)(tf.stack([i, i], 1)),
    "leaky": lambda x, i, n: layers.LeakyReLU(alpha=0.05)(x),
    "leaky_inside": lambda x, i, n: layers.Dense(
        3, activation=layers.LeakyReLU(alpha=0.7)
    )(x),
    "normalized": lambda x, i, n: normalized(x),
    "bins": lambda x, i, n: layers.Discretization([-1.0, 0.0, 1.0])(x),
    # With numbers of their own.
    "by_constant": lambda x, i, n: x @ tf.constant(EVEN[:, None]),
    "from_constant": lambda x, i, n: EVEN - x,
    "or_constant": lambda x, i, n: tf.where(x > 0, EVEN, x),
    "no_nan": lambda x, i, n: tf.math.divide_no_nan(x, EVEN),
    "of_constant": lambda x, i, n: tf.gather(EVEN, n),
    # Recorded as tf.compat.v1, in TensorFlow's own order of arguments.
    "transpose": lambda x, i, n: tf.transpose(x, (0, 2, 1)),
    "pad": lambda x, i, n: tf.pad(x, [[0, 0], [1, 2], [0, 0]], constant_values=2.0),
    "reflect": lambda x, i, n: tf.pad(x, [[0, 0], [1, 2], [0, 1]], "REFLECT"),
    "gather": lambda x, i, n: tf.gather(x, [2, 0], axis=1),
    "gather_each": lambda x, i, n: tf.gather(x, n, axis=1, batch_dims=1),
    "norm": lambda x, i, n: tf.norm(x, axis=-1, keepdims=True),
    "conv2d": lambda x, i, n: tf.nn.conv2d(i, np.ones((3, 3, 4, 2), "f"), 2, "SAME"),
    # Sizes that are computed.
    "heads": lambda x, i, n: tf.reshape(x, (tf.shape(x)[0], -1, 2)),
    "rest": lambda x, i, n: tf.reshape(x, tf.concat([tf.shape(x)[:1], [12, 2]], 0)),
    "rows": lambda x, i, n: tf.reshape(x, tf.stack([tf.shape(x)[0] * 2, 12])),
    "scaled": lambda x, i, n: (
        tf.matmul(x, x, transpose_b=True) / tf.math.sqrt(as_float(tf.shape(x)[-1]))
    ),
    "positions": lambda x, i, n: x + as_float(tf.range(tf.shape(x)[1]))[None, :, None],
    # Parts of tensors.
    "split": lambda x, i, n: tf.split(x, 2, axis=-1)[1],
    "split_sizes": lambda x, i, n: tf.concat(tf.split(x, [1, 3], axis=1)[::-1], 1),
    "unstack": lambda x, i, n: tf.stack(tf.unstack(x, axis=1)[:3], axis=-1),
    "first": lambda x, i, n: x[:, 0],
    "every_second": lambda x, i, n: x[:, 1:3, ::2],
    "new_axis": lambda x, i, n: x[:, tf.newaxis, ..., 0],
    "slice": lambda x, i, n: tf.slice(x, [0, 1, 2], [-1, 2, 3]),
    "strided": lambda x, i, n: tf.strided_slice(x, [0, 1, 0], [9, 4, 6], [1, 2, 3]),
    "tile": lambda x, i, n: tf.tile(x, [1, 2, 1]),
    "repeat": lambda x, i, n: tf.repeat(x, 2, axis=1),
    "reverse": lambda x, i, n: tf.roll(tf.reverse(x, axis=[1]), 1, axis=2),
    "squeeze": lambda x, i, n: tf.squeeze(tf.expand_dims(x, 2), [2]),
    # Pictures.
    "resize": lambda x, i, n: tf.image.resize(i, (12, 10)),
    "nearest": lambda x, i, n: tf.image.resize(i, (16, 16), method="nearest"),
    "smaller": lambda x, i, n: tf.image.resize(i, (5, 5), "bicubic", antialias=True),
    "depth_to_space": lambda x, i, n: tf.nn.depth_to_space(i, 2),
    "space_to_depth": lambda x, i, n: tf.nn.space_to_depth(i, 2),
    "average": lambda x, i, n: tf.nn.avg_pool(i, 3, 2, "SAME"),
    "maximum": lambda x, i, n: tf.nn.max_pool2d(i, (1, 3, 3, 1), 2, "VALID"),
    "flip": lambda x, i, n: tf.image.flip_left_right(i),
    "vgg": lambda x, i, n: keras.applications.vgg16.preprocess_input(i[..., :3]),
    # Functions of each number.
    "softmax": lambda x, i, n: tf.nn.softmax(x, axis=1) + tf.nn.log_softmax(x),
    "gelu": lambda x, i, n: tf.nn.gelu(x) - tf.nn.gelu(x, approximate=True) * 2.0,
    "units": lambda x, i, n: (
        tf.nn.elu(x)
        + tf.nn.selu(x)
        + tf.nn.softsign(x)
        + tf.nn.swish(x)
        + tf.nn.leaky_relu(x, 0.1)
        + tf.nn.relu6(x)
        + tf.math.softplus(x)
    ),
    "math": lambda x, i, n: (
        tf.math.floor(x)
        + tf.math.erf(x)
        + tf.sin(x)
        + tf.math.expm1(x)
        + tf.math.log1p(tf.abs(x))
        + tf.math.atan(x)
        + tf.math.log_sigmoid(x)
        + tf.math.reciprocal(tf.abs(x) + 1.0)
        + tf.math.divide_no_nan(x, tf.abs(x))
        + tf.math.squared_difference(x, 1.0)
        + tf.pow(tf.abs(x), 1.5)
    ),
    "operators": lambda x, i, n: (1.0 - x) * 2.0 + x / 3.0 - (-x) + x // 0.7 + x % 0.7,
    "clip": lambda x, i, n: tf.clip_by_value(x, -0.5, 0.5) + tf.maximum(x, 0.1),
    "where": lambda x, i, n: tf.where(
        (x > 0.0) & (x <= 1.0), x * 2.0, tf.zeros_like(x)
    ),
    "compare": lambda x, i, n: (
        as_float(tf.equal(n, 1)) + as_float(tf.math.logical_not(n < 2))
    ),
    "bias_add": lambda x, i, n: tf.nn.bias_add(x, EVEN) + EVEN,
    # Sums and products.
    "reduce": lambda x, i, n: (
        tf.reduce_sum(x, -1)
        + tf.reduce_max(x, [2])
        + tf.math.reduce_std(x, -1)
        + tf.math.reduce_variance(x, -1)
        + tf.reduce_logsumexp(x, -1)
        + as_float(tf.reduce_any(x > 1.0, -1))
    ),
    "mean": lambda x, i, n: tf.reduce_mean(i, [1, 2]),
    "l2_normalize": lambda x, i, n: tf.math.l2_normalize(x, axis=-1),
    "matmul": lambda x, i, n: tf.matmul(x, x, transpose_a=True),
    "tensordot": lambda x, i, n: tf.tensordot(x, np.ones((6, 2), "f"), axes=1),
    "band_part": lambda x, i, n: tf.linalg.band_part(x, -1, 0) + tf.add_n([x, x]),
    "cumsum": lambda x, i, n: tf.cumsum(x, axis=1, reverse=True),
    # Numbers of things.
    "one_hot": lambda x, i, n: tf.one_hot(n, 4),
    "argmax": lambda x, i, n: as_float(tf.argmax(x, -1)) + as_float(tf.argmin(x, 2)),
    "top_k": lambda x, i, n: tf.math.top_k(tf.sort(x, direction="DESCENDING"), 3)[0],
    "sequence_mask": lambda x, i, n: tf.sequence_mask(n[:, 0], 5, tf.float32),
    "backend": lambda x, i, n: (
        K.batch_dot(x, K.permute_dimensions(x, (0, 2, 1)))
        + K.mean(x, -1, keepdims=True)
    ),
}
REFUSED = {
    "gather_nd": lambda x, i, n: tf.gather_nd(x, n, batch_dims=1),
    "aspect": lambda x, i, n: tf.image.resize(i, (4, 2), preserve_aspect_ratio=True),
    "exclusive": lambda x, i, n: tf.cumsum(x, axis=1, exclusive=True),
    "einsum": lambda x, i, n: tf.einsum("bij,bkj->bik", x, x),
    "free": lambda x, i, n: tf.tile(x, tf.stack([1, tf.shape(x)[0], 1])),
}


def model_of(functions):
    inputs = [
        keras.Input((4, 6), name="x"),
        keras.Input((8, 8, 4), name="i"),
        keras.Input((2,), dtype="int32", name="n"),
    ]
    return keras.Model(inputs, [function(*inputs) for function in functions])


def old_saved_model(folder):
    """Saves as TensorFlow before 2.5: Keras' notes stand in saved_model.pb."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata

    layers = keras.layers
    x = keras.Input((4,), name="x")
    hidden = layers.Dense(3, activation="relu", name="hidden")(x)
    model = keras.Model(x, layers.Dense(2, name="scores")(hidden))
    model.save(folder / "old")
    notes = folder / "old" / "keras_metadata.pb"
    graph = SavedModel.FromString((folder / "old" / "saved_model.pb").read_bytes())
    for node in SavedMetadata.FromString(notes.read_bytes()).nodes:
        of_object = graph.meta_graphs[0].object_graph_def.nodes[node.node_id]
        of_object.user_object.metadata = node.metadata
    (folder / "old" / "saved_model.pb").write_bytes(graph.SerializeToString())
    notes.unlink()
    x = VALUES[0][:, 0, :4]
    np.savez(folder / "old.npz", x=x, y=model(x).numpy())


def make(job):
    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(3)
    folder = Path(job["folder"])
    model = model_of(FUNCTIONS.values())
    model.save(folder / "functions.h5")
    outputs = dict(zip(FUNCTIONS, [y.numpy() for y in model(VALUES)]))
    np.savez(folder / "functions.npz", **outputs)
    np.savez(folder / "inputs.npz", *VALUES)
    for name, function in REFUSED.items():
        model_of([function]).save(folder / f"{name}.h5")
    old_saved_model(folder)
    return {}


JOBS = {"make": make}
