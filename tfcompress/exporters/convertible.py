"""Layers that converters misread, computed in another way while a model is traced."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.select import walk
from tfcompress.quantization.activations import FUSED
from tfcompress.quantization.fake_quantize import FakeQuantize


@contextlib.contextmanager
def convertible_calls(model: keras.Model, converted: bool = True) -> Iterator[None]:
    """Lets layers that converters misread compute the same in another way for a while.

    So do operations of `keras.ops`. A class that overrides `call` is left alone.

    Args:
        model: a built model.
        converted: whether a converter reads the graph; if not, only layers that
            cannot be traced at all compute in another way.
    """
    parts = [model, *(layer for _, layer in walk(model))]
    models = [part for part in parts if isinstance(part, keras.Model)]
    parts += [one for part in models for one in getattr(part, "operations", ())]
    operations = {id(one): one for one in parts}
    rounds = any(isinstance(one, FakeQuantize) for one in operations.values())
    calls = _OTHER_CALLS | (_OTHER_CALLS_BESIDE_INTEGERS if rounds else {})
    calls = calls if converted else _TRACEABLE_CALLS
    found = [
        (operation, other)
        for operation in operations.values()
        for kind, other in calls.items()
        if isinstance(operation, kind) and type(operation).call is kind.call
    ] + [
        (operation, _OTHER_OPERATIONS.get(type(operation).__name__, _in_32_bits))
        for operation in operations.values()
        if converted and not isinstance(operation, keras.Layer)
    ]
    try:
        for layer, other in found:
            layer.call = functools.partial(other, layer, layer.call)
        yield
    finally:
        for layer, _ in found:
            del layer.call


def _upsampled(layer: Any, call: Callable[[Any], Any], inputs: Any) -> Any:
    """Repeats rows and columns so that tensors of free sizes have known channels.

    UpSampling layers repeat them one after the other, and with sizes that are free
    TensorFlow then knows no size at all, which no convolution takes. Resizing an image
    does the same.
    """
    import tensorflow as tf

    size = layer.size if isinstance(layer.size, (tuple, list)) else (1, layer.size)
    how = getattr(layer, "interpolation", "nearest")
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    if None not in inputs.shape[1:-1] or first or how not in ("nearest", "bilinear"):
        return call(inputs)
    flat = len(inputs.shape) == 3
    images = tf.expand_dims(inputs, 1) if flat else inputs
    sizes = tf.shape(images)[1:3] * tf.constant(size, tf.int32)
    resized = tf.image.resize(images, sizes, how)
    return tf.squeeze(resized, 1) if flat else resized


def _bent(layer: Any, call: Callable[[Any], Any], inputs: Any) -> Any:
    """Multiplies flat rows by slopes: LiteRT's PReLU takes at most four axes."""
    import tensorflow as tf

    sizes = inputs.shape[1:]
    if len(sizes) < 4 or None in sizes:
        return call(inputs)
    rows = tf.reshape(inputs, (-1, sizes.num_elements()))
    slopes = tf.reshape(tf.broadcast_to(layer.alpha, sizes), (-1,))
    bent = tf.nn.relu(rows) + -slopes * tf.nn.relu(-rows)
    return tf.reshape(bent, (-1, *sizes))


def _looked_up(layer: Any, call: Callable[[Any], Any], inputs: Any) -> Any:
    """Looks words up, and keeps the shape, which the tables of LiteRT do not.

    LiteRT counts no numbers in a row, so counts and encodings are comparisons.
    """
    import tensorflow as tf

    mode = layer.output_mode
    # A word that is masked has a number of its own only where numbers are put out.
    masks = layer.mask_token is not None
    encodes = mode in ("one_hot", "multi_hot", "count") and not (masks or layer.sparse)
    encodes = encodes and len(inputs.shape) > 1
    try:
        layer.output_mode = "int" if encodes else mode
        looked_up = call(inputs)
    finally:
        layer.output_mode = mode
    sizes = (inputs if encodes else looked_up).shape[1:]
    if None not in sizes:
        looked_up = tf.reshape(looked_up, (-1, *sizes))
    if not encodes:
        return looked_up
    with tf.init_scope():  # tables are read outside the graph that is traced
        size = layer.vocabulary_size()
    size = layer.max_tokens if layer.pad_to_max_tokens else size
    encoded = _one_hot(tf.cast(looked_up, tf.int32), size, mode)
    return tf.cast(encoded, looked_up.dtype)


def _looked_up_integers(layer: Any, call: Callable[[Any], Any], inputs: Any) -> Any:
    """Compares with each number: LiteRT has no tables from integers to integers."""
    import tensorflow as tf

    with tf.init_scope():  # tables are read outside the graph that is traced
        words = layer.get_vocabulary(include_special_tokens=False)
        first = layer.vocabulary_size() - len(words)
    tokens = [int(word) for word in words]
    mode, known = layer.output_mode, len(tokens) <= _COMPARED
    masks = mode != "int" and layer.mask_token is not None
    others = layer.invert or layer.num_oov_indices != 1 or mode == "tf_idf"
    if others or masks or not known or len(inputs.shape) < 2:
        return _looked_up(layer, call, inputs)
    keys = tf.cast(tf.convert_to_tensor(inputs), tf.int64)[..., None]
    found = tf.cast(tf.equal(keys, tf.constant(tokens, tf.int64)), tf.int32)
    # The number that stands for all others comes before the known ones.
    places = tf.range(len(tokens), dtype=tf.int32) + 1
    index = tf.reduce_sum(found * places, axis=-1) + (first - 1)
    if mode == "int" and layer.mask_token is not None:
        masked = tf.cast(tf.equal(keys[..., 0], int(layer.mask_token)), tf.int32)
        index *= 1 - masked
    if mode == "int":
        return tf.cast(index, layer.compute_dtype)
    encoded = _one_hot(index, first + len(tokens), mode)
    return tf.cast(encoded, layer.compute_dtype)


def _encoded(
    layer: Any, call: Callable[..., Any], inputs: Any, count_weights: Any = None
) -> Any:
    """Counts numbers by comparisons: LiteRT has no counting of numbers in a row."""
    import tensorflow as tf

    index = tf.convert_to_tensor(inputs)
    if layer.sparse or count_weights is not None or len(index.shape) < 2:
        return call(inputs, count_weights)
    encoded = _one_hot(tf.cast(index, tf.int32), layer.num_tokens, layer.output_mode)
    return tf.cast(encoded, layer.compute_dtype)


def _binned(layer: Any, call: Callable[[Any], Any], inputs: Any) -> Any:
    """Counts numbers by their bins, and by comparisons, as `_encoded` does."""
    import tensorflow as tf

    values = tf.convert_to_tensor(inputs)
    counts = layer.output_mode in ("count", "multi_hot") and not layer.sparse
    if not counts or len(values.shape) < 2:
        return call(inputs)
    index = keras.ops.digitize(values, layer.bin_boundaries)
    count = len(layer.bin_boundaries) + 1
    encoded = _one_hot(tf.cast(index, tf.int32), count, layer.output_mode)
    return tf.cast(encoded, layer.compute_dtype)


def _one_hot(index: Any, count: int, mode: str) -> Any:
    import tensorflow as tf

    hot = tf.one_hot(index, count, dtype=tf.int32)
    if mode == "count":
        return tf.reduce_sum(hot, -2)
    if mode == "multi_hot":
        return tf.reduce_max(hot, -2)
    return tf.squeeze(hot, -2) if index.shape[-1] == 1 else hot


def _bordered(layer: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Keeps what a convolution puts out apart from its activation.

    To TensorFlow a convolution of rows is one of images and a reshape. The converter
    moves the reshape behind the activation, and where that is a sigmoid or a tanh,
    whose range it knows, it rounds the numbers to 8 bits for the reshape's sake. A cast
    to 64 bits and back stops both, and changes no number. Convolutions in integers have
    no activation but those that the kernels compute, and are left alone.
    """
    import tensorflow as tf

    cell = getattr(layer, "cell", layer)
    names = [n for n in ("activation", "recurrent_activation") if hasattr(cell, n)]
    functions: dict[str, Callable[[Any], Any]] = {n: getattr(cell, n) for n in names}
    kept = {
        name: function
        for name, function in functions.items()
        if getattr(function, "__name__", "linear") not in FUSED
    }

    def apart(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: activation(tf.cast(tf.cast(x, tf.float64), x.dtype))

    try:
        for name, activation in kept.items():
            setattr(cell, name, apart(activation))
        return call(*args, **kwargs)
    finally:
        for name, activation in kept.items():
            setattr(cell, name, activation)


def _in_32_bits(
    operation: Any, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Takes numbers of NumPy as Python's: `x / np.sqrt(8.0)` is no work for 64 bits."""

    def narrow(value: Any) -> Any:
        wide = isinstance(value, np.ndarray | np.generic) and value.dtype == "float64"
        return np.asarray(value, "float32") if wide else value

    if any("float64" in str(getattr(t, "dtype", "")) for t in _tensors((args, kwargs))):
        return call(*args, **kwargs)
    args, kwargs = keras.tree.map_structure(narrow, (args, kwargs))
    return call(*args, **kwargs)


def _tensors(structure: Any) -> list:
    return [x for x in keras.tree.flatten(structure) if keras.ops.is_tensor(x)]


def _largest_position(
    operation: Any, call: Callable[..., Any], x: Any, smallest: bool = False
) -> Any:
    """Finds positions as TensorFlow does: Keras takes the bits of numbers apart."""
    import tensorflow as tf

    axis, x = operation.axis, tf.convert_to_tensor(x)
    if axis is None and None in x.shape:
        return call(x)
    flat = x if axis is not None else tf.reshape(x, (-1,))
    find = tf.argmin if smallest else tf.argmax
    found = find(flat, axis=-1 if axis is None else axis, output_type=tf.int32)
    if not operation.keepdims:
        return found
    if axis is None:
        return tf.reshape(found, (1,) * len(x.shape))
    return tf.expand_dims(found, axis)


# Vocabularies of more numbers than these take too many comparisons.
_COMPARED = 4096
# Keras multiplies sizes, also those that are free.
_Calls = dict[Any, Callable[..., Any]]
_TRACEABLE_CALLS: _Calls = {keras.layers.UpSampling2D: _upsampled}
_OTHER_CALLS: _Calls = {
    **_TRACEABLE_CALLS,
    keras.layers.UpSampling1D: _upsampled,
    keras.layers.PReLU: _bent,
    keras.layers.StringLookup: _looked_up,
    keras.layers.IntegerLookup: _looked_up_integers,
    keras.layers.CategoryEncoding: _encoded,
    keras.layers.Discretization: _binned,
}
# In a model with integers, where the converter rounds what it can.
_OTHER_CALLS_BESIDE_INTEGERS: _Calls = {
    keras.layers.Conv1D: _bordered,
    keras.layers.Conv1DTranspose: _bordered,
    keras.layers.DepthwiseConv1D: _bordered,
    keras.layers.SeparableConv1D: _bordered,
    keras.layers.ConvLSTM1D: _bordered,
}
# By the names of their classes, which are not public.
_OTHER_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Argmax": _largest_position,
    "Argmin": functools.partial(_largest_position, smallest=True),
}
