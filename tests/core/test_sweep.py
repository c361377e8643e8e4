"""One walk through a model sees what as many runs of it would, as there are layers."""

import collections

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.core import sweep as module
from tfcompress.core.data import inputs_of
from tfcompress.core.graph import trace
from tfcompress.core.recorder import InputRecorder
from tfcompress.core.samples import untouched
from tfcompress.core.select import walk
from tfcompress.core.sweep import Sweep


def chain(depth=5):
    dense = [layers.Dense(4, "tanh", name=f"d{i}") for i in range(depth)]
    return keras.Sequential([keras.Input((4,)), *dense])


def branches():
    """A layer that is called behind one that comes after it, and two that are even."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    first, middle = (
        layers.Dense(4, "tanh", name="first"),
        layers.Dense(4, name="middle"),
    )
    left, right = layers.Dense(4, name="left"), layers.Dense(4, name="right")
    x = first(middle(first(a)))
    joined = layers.Concatenate()([left(x), right(ops.tanh(x)), first(b)])
    return keras.Model([a, b], [layers.Dense(2, name="head")(joined), x])


def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, "relu", name="in")])
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="head")(inner(inner(inputs))))


def attention():
    inputs = keras.Input((3,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.LSTM(3, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


MODELS = [chain, branches, nested, attention]


def changed_in_order(model, inputs_of_layer):
    """Returns what flows into each layer, all of which change by what flows there."""
    seen = []
    for layer in dense_layers(model):
        found = [list(map(np.asarray, calls)) for calls in inputs_of_layer(layer)]
        seen.append(found)
        total = sum(float(x.sum()) for calls in found for x in calls)
        layer.kernel.assign(layer.kernel * np.cos(total))
    return seen


def dense_layers(model):
    """Those with a kernel, in the order of the model, inside of others too."""
    known = (layers.Dense, layers.EinsumDense)
    return [layer for _, layer in walk(model) if isinstance(layer, known)]


def data_of(model):
    generator = np.random.default_rng(0)
    if "int" in model.inputs[0].dtype:
        values = [generator.integers(0, 9, (100, 3)) for _ in model.inputs]
    else:
        values = [generator.normal(size=(100, 4)) for _ in model.inputs]
    return inputs_of(values if len(values) > 1 else values[0], model)


def in_whole_runs(model, data):
    def inputs_of_layer(layer):
        for batch in data:
            found = []
            with InputRecorder(layer, found.append), untouched(model):
                model(batch, training=False)
            yield found

    return changed_in_order(model, inputs_of_layer)


@pytest.mark.parametrize("in_memory", [2**28, 2000, 0])
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_what_is_seen_is_what_whole_runs_see(make, in_memory, monkeypatch):
    monkeypatch.setattr(module, "_IN_MEMORY", in_memory)
    keras.utils.set_random_seed(0)
    model = make()
    data, weights = data_of(model), model.get_weights()
    expected = in_whole_runs(model, data)
    after = model.get_weights()
    model.set_weights(weights)
    graph = trace(model)
    with Sweep(model, graph, data, dense_layers(model)) as sweep:
        seen = changed_in_order(model, sweep.inputs_of)
    keras.tree.map_structure(np.testing.assert_array_equal, seen, expected)
    assert all(map(np.array_equal, model.get_weights(), after))
    assert len(seen[0]) == 2  # batches


def calls_of_each(depth, monkeypatch):
    counts = collections.Counter()
    own = layers.Dense.call

    def call(self, inputs, *args, **kwargs):
        if hasattr(inputs, "numpy"):
            counts[self.name] += 1
        return own(self, inputs, *args, **kwargs)

    model = chain(depth)
    data = data_of(model)
    monkeypatch.setattr(layers.Dense, "call", call)
    with Sweep(model, trace(model), data, model.layers) as sweep:
        for layer in model.layers:
            assert len([*sweep.inputs_of(layer)]) == 2
            assert len([*sweep.inputs_of(layer)]) == 2  # again, for nothing
    return set(counts.values()), len(counts)


def test_each_layer_runs_once_for_each_batch(monkeypatch):
    assert calls_of_each(6, monkeypatch) == ({2}, 5)  # the last need not run at all


def test_states_go_on_within_a_batch_and_begin_anew_with_the_next():
    class Counts(layers.Layer):
        stateful = True

        def build(self, shape):
            self.states = [self.add_weight(shape=(), initializer="zeros")]

        def call(self, inputs):
            self.states[0].assign_add(1.0)
            return inputs + self.states[0]

    inputs, counts, dense = keras.Input((2,)), Counts(), layers.Dense(2)
    model = keras.Model(inputs, counts(dense(counts(inputs))))
    dense.set_weights([np.eye(2), np.zeros(2)])
    dense.built, seen = True, []
    last = layers.Dense(2, name="last")
    model = keras.Model(inputs, last(model(inputs)))
    data = inputs_of(np.zeros((100, 2)), model)
    with Sweep(model, trace(model), data, [dense, last]) as sweep:
        for layer in (dense, last):
            seen.append([float(np.max(x)) for (x,) in sweep.inputs_of(layer)])
    assert seen == [[1.0, 1.0], [3.0, 3.0]]
    assert float(counts.states[0]) == 0.0


@pytest.mark.parametrize("in_memory", [2**28, 0])
def test_tensors_at_hand_and_those_that_are_still_to_be_made(in_memory, monkeypatch):
    monkeypatch.setattr(module, "_IN_MEMORY", in_memory)
    keras.utils.set_random_seed(0)
    model = chain(3)
    data, graph = data_of(model), trace(model)
    x = np.concatenate([*data])
    ends = [node.output for node in graph.nodes]
    outputs = [keras.Model(model.inputs, one.output).predict(x) for one in model.layers]
    with Sweep(model, graph, data) as sweep:
        for position in (0, 1):
            found = [*sweep.values_of(ends[position:], position)]
            for place, expected in enumerate(outputs[position:]):
                parts = [np.asarray(values[place]) for values in found]
                np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-6)
        (first, second) = sweep.values_of([ends[0]], 1)  # which is held
        assert first[0].shape[0] + second[0].shape[0] == len(x)
