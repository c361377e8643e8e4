"""How often a rewrite traces and builds a model: a guard that needs no clock.

A model is traced once for each call of the user's, and built once for each model that
the call needs. All other traces are of the parts that one layer is split into, which
are a few nodes each. Who lowers a count lowers its number here.
"""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress.core import graph as graphs


def encoder():
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8)(ids)
    attended = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    hidden = layers.Dense(8)(layers.Dense(16, "gelu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, hidden]))
    return keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def mobile():
    def normed(x):
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    inputs = keras.Input((8, 8, 3), name="image")
    x = normed(layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs))
    for _ in range(2):
        y = normed(layers.Conv2D(8, 1, use_bias=False)(x))
        y = normed(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y))
        y = layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False)(y))
        x = layers.Add()([x, y])
    outputs = layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def lstm():
    inputs = keras.Input((5, 4), name="x")
    return keras.Model(inputs, layers.Dense(3)(layers.LSTM(6)(inputs)))


def samples_for(model):
    (given,) = model.inputs
    rng = np.random.default_rng(0)
    shape = (8, *given.shape[1:])
    if "int" in given.dtype:
        return rng.integers(0, 20, shape)
    return rng.normal(size=shape).astype("float32")


def trained(model):
    aware = tfcompress.quantize_aware(model)
    aware(samples_for(model), training=True)
    return aware


def examined(model, trial=False):
    return tfcompress.doctor(model, "tflite", "w8a8", trial=trial)


CALLS = {
    "quantize_aware": (lambda model: model, tfcompress.quantize_aware),
    "calibrate": (lambda m: m, lambda m: tfcompress.calibrate(m, samples_for(m))),
    "finalize": (trained, tfcompress.finalize),
    "doctor": (lambda model: model, examined),
    "doctor, trial": (lambda model: model, lambda model: examined(model, trial=True)),
}
# Traces of the model (of it, and of what is made of it), traces of parts, builds.
COUNTS = {
    (encoder, "quantize_aware"): (1, 4, 1),
    (encoder, "calibrate"): (1, 4, 1),
    (encoder, "finalize"): (1, 0, 1),
    (encoder, "doctor"): (2, 4, 1),
    (mobile, "quantize_aware"): (1, 1, 1),
    (mobile, "calibrate"): (1, 1, 1),
    (mobile, "finalize"): (1, 0, 1),
    (mobile, "doctor"): (2, 1, 1),
    (mobile, "doctor, trial"): (3, 1, 3),
    # Its step is a model of its own.
    (lstm, "quantize_aware"): (1, 8, 2),
    (lstm, "calibrate"): (1, 10, 2),
    (lstm, "finalize"): (1, 2, 1),
    (lstm, "doctor"): (2, 1, 1),
}


class Counts:
    def __init__(self, monkeypatch):
        self.of_models = self.of_parts = self.builds = self.clones = 0
        trace, built = graphs._trace, graphs._with_parts
        clone = keras.models.clone_model

        def traced(model, copies):
            # What a layer is split into has inputs without a name of the user's.
            if any(i.name in ("ids", "image", "x") for i in model.inputs):
                self.of_models += 1
            else:
                self.of_parts += 1
            return trace(model, copies)

        def with_parts(*given):
            self.builds += 1
            return built(*given)

        def cloned(*args, **kwargs):
            self.clones += 1
            return clone(*args, **kwargs)

        monkeypatch.setattr(graphs, "_trace", traced)
        monkeypatch.setattr(graphs, "_with_parts", with_parts)
        monkeypatch.setattr(keras.models, "clone_model", cloned)


@pytest.mark.parametrize(
    ("make", "name"), COUNTS, ids=lambda one: getattr(one, "__name__", one)
)
@pytest.mark.filterwarnings("ignore")
def test_a_model_is_traced_and_built_no_more_than_it_must_be(make, name, monkeypatch):
    prepare, call = CALLS[name]
    model = prepare(make())
    counts = Counts(monkeypatch)
    call(model)
    found = counts.of_models, counts.of_parts, counts.builds
    assert found == COUNTS[make, name]
    # A trace clones once, a layer that holds a model once more for each copy of it.
    assert counts.clones - counts.of_models - counts.of_parts <= 2 * (make is lstm)


@pytest.mark.parametrize("make", [encoder, mobile, lstm])
def test_the_graph_of_what_was_built_is_that_of_its_trace(make):
    model, graph = graphs.built(graphs.trace(make()))
    traced = graphs.trace(model)
    assert {id(n.operation) for n in graph.nodes} == {
        id(n.operation) for n in traced.nodes
    }
    both = [{n.name: n for n in one.nodes} for one in (graph, traced)]
    for name, node in both[0].items():
        twin = both[1][name]
        for tensors in ("inputs", "output_tensors"):
            shapes = [
                [(t.shape, t.dtype) for t in getattr(one, tensors)]
                for one in (node, twin)
            ]
            assert shapes[0] == shapes[1]
    assert [t.name for t in graph.input_tensors] == [t.name for t in model.inputs]


def test_the_graph_of_what_was_built_has_what_is_read_only():
    graph = graphs.trace(mobile())
    first = graph.nodes[0]
    graph.outputs = first.output
    model, kept = graphs.built(graph)
    assert [node.name for node in kept.nodes] == [first.name]
    assert [layer.name for layer in model.layers] == ["image", first.name]
