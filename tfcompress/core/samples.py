"""Inputs to try a model on: random, but such as the model's own layers can take.

A model is tried when nobody has data at hand: after it was rewritten, and when it was
exported. What an input may hold is read off the layers that read it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.core.arrays import widened
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.core.select import walk
from tfcompress.core.types import AnyTensor, Structure

#: Sizes to try for axes that a model leaves free.
FREE_SIZES = (16, 32, 64, 8, 4)
_SEED = 7
_shaking = threading.local()
_TEXTS = ("one", "two three", "", "four 5 six, seven")
# Layers that pass on what they are given, as far as its values go.
_PASSING = (layers.Reshape, layers.Flatten, layers.Identity, layers.RepeatVector)
_PASSING_OPERATIONS = frozenset(
    ("Cast", "ExpandDims", "GetItem", "Reshape", "Squeeze", "Transpose")
)


def shape_with(shape: tuple, samples: int, free: int) -> tuple[int, ...]:
    """Returns a shape without free axes.

    Example:

    >>> shape_with((None, None, 3), 2, 16)
    (2, 16, 3)
    """
    sizes = [samples if shape[0] is None else shape[0]] if shape else []
    return (*sizes, *(free if size is None else size for size in shape[1:]))


def samples_of(graph: Graph, samples: int, free: int) -> list[np.ndarray]:
    """Returns an array for each input of a graph, in the order of its inputs.

    When to use: to run a model that is known, on data that are not.

    Args:
        graph: the traced model.
        samples: how many rows to make where the first axis is free; those after the
            first two hold least and largest values, or large ones.
        free: the size of other free axes.

    Example:

    >>> from tfcompress.core.graph import trace
    >>> words = keras.Input((3,), dtype="int32")
    >>> model = keras.Model(words, layers.Embedding(5, 2)(words))
    >>> (sample,) = samples_of(trace(model), 4, 16)
    >>> sample.shape, int(sample.max())
    ((4, 3), 4)
    """
    generator = np.random.default_rng(_SEED)
    consumers = graph.consumers()
    return [
        sample(
            shape_with(tensor.shape, samples, free),
            tensor.dtype,
            generator,
            _limits(tensor, consumers),
        )
        for tensor in graph.input_tensors
    ]


def sample(
    shape: tuple[int, ...],
    dtype: str,
    generator: np.random.Generator,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Returns random values of a shape and dtype.

    Args:
        shape: the shape.
        dtype: as Keras calls it.
        generator: where the values come from.
        limits: least and largest value, where these are known.

    Example:

    >>> generator = np.random.default_rng(0)
    >>> sample((2, 3), "int32", generator, (0, 9)).tolist()
    [[8, 6, 5], [2, 3, 0]]
    """
    if "string" in dtype:
        return generator.choice(np.array(_TEXTS, object), shape)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    values: np.ndarray
    if "int" not in dtype and limits is None:
        values = generator.normal(size=shape)
        if len(shape) > 1:
            values[1:2] = generator.uniform(0, 1, values[1:2].shape)  # as pixels are
            values[2:] *= 4.0
        return values.astype(dtype)
    if "int" in dtype:
        low, high = limits or (0, 255 if dtype == "uint8" else 1)
        values = generator.integers(int(low), int(high) + 1, shape)
    else:
        low, high = limits or (0.0, 1.0)
        values = generator.uniform(low, high, shape)
    if len(shape) > 1 and len(values) > 2:
        values[2] = low
        values[3:] = np.where(generator.random(values[3:].shape) < 0.5, low, high)
    return values.astype(dtype)


def _limits(
    tensor: Tensor, consumers: dict[Tensor, list[Node]], depth: int = 8
) -> tuple[float, float] | None:
    """Returns what layers that read a tensor can take of it, None for anything."""
    bounds = []
    for node in consumers.get(tensor, []) if depth else []:
        layer = node.operation
        while isinstance(layer, layers.Wrapper):
            layer = layer.layer
        passes = isinstance(layer, _PASSING) or (
            type(layer).__name__ in (*_PASSING_OPERATIONS, "IntegerSum")
        )
        if isinstance(layer, layers.Embedding):
            bounds.append((0.0, layer.input_dim - 1.0))
        elif isinstance(layer, layers.CategoryEncoding) and layer.num_tokens:
            bounds.append((0.0, layer.num_tokens - 1.0))
        elif hasattr(layer, "learned_range"):
            with contextlib.suppress(InvalidArgumentError):  # it has none yet
                bounds.append(layer.learned_range())
        elif passes and node.output_tensors:
            found = _limits(node.output_tensors[0], consumers, depth - 1)
            bounds += [found] if found else []
    if not bounds:
        return None
    return max(low for low, _ in bounds), min(high for _, high in bounds)


def run(model: Any, structure: Structure, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of a model's inference pass; the model stays as it was.

    Args:
        model: a built model.
        structure: that of its inputs, such as `model.input`.
        arrays: what to call it with, in that order.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), layers.ReLU()])
    >>> run(model, model.inputs[0], [np.array([[-1.0, 2.0]])])[0].tolist()
    [[0.0, 2.0]]
    """
    tensors = [keras.ops.convert_to_tensor(array) for array in _plain(arrays)]
    with untouched(model):
        outputs = model(keras.tree.pack_sequence_as(structure, tensors), training=False)
    flat = keras.tree.flatten(outputs)
    return [widened(keras.ops.convert_to_numpy(output)) for output in flat]


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Inside, calls of a model leave no trace in it.

    What counts calls or draws numbers does not go on, and layers that keep a state from
    call to call begin with the first one.

    Args:
        model: a built model.

    Example:

    >>> model = keras.Sequential([keras.Input((3, 1), batch_size=2),
    ...                           layers.GRU(2, stateful=True)])
    >>> with untouched(model):
    ...     outputs = model(np.ones((2, 3, 1)))
    >>> float(np.abs(model.layers[0].states[0]).max())
    0.0
    """
    states = [state for kept in states_of(model).values() for state in kept]
    first = [(state, keras.ops.zeros_like(state)) for state in states]
    with keras.StatelessScope(state_mapping=first):
        yield


@contextlib.contextmanager
def at_the_beginning(model: Any) -> Iterator[None]:
    """Inside, the states that layers keep from call to call are those of the first."""
    states = [state for kept in states_of(model).values() for state in kept]
    before = [keras.ops.convert_to_numpy(state) for state in states]
    try:
        for state in states:
            state.assign(keras.ops.zeros_like(state))
        yield
    finally:
        for state, value in zip(states, before):
            state.assign(value)


def states_of(model: Any) -> dict[str, list[keras.Variable]]:
    """Returns what layers keep from call to call, by their paths."""
    if not isinstance(model, keras.Layer):
        return {}  # others say what is wrong with it
    found = {
        path: [
            state
            for state in keras.tree.flatten(getattr(layer, "states", None))
            if isinstance(state, keras.Variable)
        ]
        for path, layer in walk(model)
        if getattr(layer, "stateful", False)
    }
    return {path: states for path, states in found.items() if states}


def attempts(
    model: Any, graph: Graph, samples: int
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yields inputs that the model takes, with its outputs: once, or never.

    Free axes get one size after the other, until the model can be called.

    Args:
        model: a built model.
        graph: its traced graph.
        samples: rows of the inputs.
    """
    free = any(None in tensor.shape[1:] for tensor in graph.input_tensors)
    for size in FREE_SIZES if free else FREE_SIZES[:1]:
        arrays = samples_of(graph, samples, size)
        try:
            outputs = run(model, graph.inputs, arrays)
        except Exception:  # whatever layers raise for numbers that mean nothing to them
            continue
        yield arrays, outputs
        return


def swing(
    model: Any, structure: Structure, arrays: list[np.ndarray], nudge: float
) -> list[np.ndarray]:
    """Returns how far outputs move when float inputs move by next to nothing.

    When to use: before a difference is called an error. What rounds, compares or draws
    numbers may answer two equal calls differently, and so may the logarithm of next to
    nothing. Behind inputs that are rounded, what `shaken` lets through moves.

    Args:
        model: a built model.
        structure: that of its inputs.
        arrays: what to call it with.
        nudge: how far to move the inputs, as a share of the largest.
    """
    generator = np.random.default_rng(_SEED)

    def moved(array: np.ndarray) -> np.ndarray:
        if not np.issubdtype(array.dtype, np.floating):
            return array
        most = nudge * np.abs(array).max(initial=0.0)
        return (array + most * generator.uniform(-1, 1, array.shape)).astype(
            array.dtype
        )

    first = run(model, structure, arrays)
    _shaking.nudge = nudge
    try:
        second = run(model, structure, [moved(array) for array in arrays])
    finally:
        _shaking.nudge = 0.0
    return [distance(a, b) for a, b in zip(first, second)]


def shaken(tensor: AnyTensor) -> AnyTensor:
    """Returns a tensor, which `swing` moves by next to nothing here.

    >>> float(shaken(keras.ops.ones((1,)))[0])
    1.0
    """
    nudge = getattr(_shaking, "nudge", 0.0)
    if not nudge:
        return tensor
    shape, dtype = keras.ops.shape(tensor), tensor.dtype
    noise = keras.random.uniform(shape, -1.0, 1.0, dtype=dtype, seed=_SEED)
    return tensor + nudge * keras.ops.max(keras.ops.abs(tensor)) * noise


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns how far two arrays are apart; 0 where the first is no finite number.

    >>> distance(np.array([1.0, np.nan]), np.array([3.0, 1.0])).tolist()
    [2.0, 0.0]
    """
    if first.dtype.kind in "OSU":
        return np.asarray(texts(first) != texts(second), "float64")
    wanted, got = first.astype("float64"), second.astype("float64")
    with np.errstate(invalid="ignore"):
        apart = np.abs(wanted - got)
    apart = np.where(np.isnan(apart), np.inf, apart)
    return np.where(np.isfinite(wanted), apart, 0.0)


def texts(array: np.ndarray) -> np.ndarray:
    """Returns texts as text, where TensorFlow has bytes of UTF-8.

    >>> texts(np.array([["blé".encode(), "oat"]], object)).tolist()
    [['blé', 'oat']]
    """
    flat = [t.decode() if isinstance(t, bytes) else str(t) for t in array.reshape(-1)]
    return np.array(flat, "U").reshape(array.shape)


def _plain(arrays: list[np.ndarray]) -> list[Any]:
    # Texts come as arrays of objects, which are no tensors yet.
    return [a.tolist() if a.dtype == object else a for a in arrays]
