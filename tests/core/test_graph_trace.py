"""A model becomes a graph and a graph a model, with nothing changed on the way."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.core.copies import clone_operation, copy_model
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Tensor, build, trace
from tfcompress.core.select import is_graph_model


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )


def nested():
    inner_in = keras.Input((6,), name="inner_in")
    hidden = layers.Dense(5, activation="relu", name="inner_a")(inner_in)
    inner = keras.Model(inner_in, layers.Dense(6, name="inner_b")(hidden), name="inner")
    deepest = keras.Sequential([keras.Input((6,)), inner], name="middle")
    inputs = keras.Input((6,), name="x")
    return keras.Model(inputs, layers.Dense(2, name="head")(deepest(inputs)))


def nested_twice():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")])
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, layers.Add()([inner(inputs), inner(inner(inputs))]))


def shared_layer():
    shared = layers.Dense(4, name="shared")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], layers.Concatenate()([shared(a), shared(b)]))


def many_outputs():
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(3, name="hidden")(inputs)
    heads = [layers.Dense(1, name="one")(hidden), layers.Dense(2, name="two")(hidden)]
    return keras.Model(inputs, [*heads, hidden])


def dict_model():
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((2,), name="a")}
    joined = layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {"z": layers.Dense(2, name="z")(joined), "y": joined * 2.0}
    return keras.Model(inputs, outputs)


def with_ops():
    inputs = keras.Input((4, 4, 3), name="x")
    x = ops.mean(inputs, axis=-1, keepdims=True) + inputs
    x = ops.concatenate([x, ops.abs(x)], axis=-1)
    parts = ops.split(x, 2, axis=-1)
    x = ops.reshape(parts[0] * 0.5 - parts[1], (-1, 48))
    return keras.Model(inputs, ops.softmax(layers.Dense(3, name="head")(x)))


def with_keywords():
    query, value = keras.Input((5, 4), name="q"), keras.Input((7, 4), name="v")
    attention = layers.MultiHeadAttention(2, 3, name="mha")
    return keras.Model([query, value], attention(query, value=value, key=value))


def nested_multi():
    a, b = keras.Input((3,), name="ia"), keras.Input((3,), name="ib")
    inner = keras.Model(
        [a, b], [layers.Dense(2, name="p")(a), layers.Dense(2, name="q")(b)]
    )
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    left, right = inner([y, x])
    return keras.Model({"x": x, "y": y}, layers.Subtract()([left, right]))


def embedding():
    inputs = keras.Input((5,), dtype="int32", name="tokens")
    embedded = layers.Embedding(10, 4, mask_zero=True, name="embed")(inputs)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(embedded))


MODELS = [
    sequential,
    nested,
    nested_twice,
    shared_layer,
    many_outputs,
    dict_model,
    with_ops,
    with_keywords,
    nested_multi,
    embedding,
]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)


def random_inputs(model, rng):
    """Returns random data in the structure that the model takes."""
    is_sequential = isinstance(model, keras.Sequential)
    inputs = model.inputs[0] if is_sequential else model.input

    def sample(tensor):
        shape = (2, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return rng.integers(0, 9, shape)
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(sample, inputs)


def spoil(model, rng):
    """Gives every weight a value that no initializer would give."""
    model.set_weights([w + rng.normal(size=w.shape) ** 2 for w in model.get_weights()])


@every_model
def test_a_rebuilt_model_computes_the_same_to_the_last_bit(make, rng):
    model = make()
    spoil(model, rng)
    x = random_inputs(model, rng)
    before, expected = model.get_weights(), model(x)
    copy = build(trace(model))
    keras.tree.assert_same_structure(copy(x), expected)
    for ours, theirs in zip(
        keras.tree.flatten(copy(x)), keras.tree.flatten(expected), strict=True
    ):
        assert np.max(np.abs(np.subtract(ours, theirs))) == 0
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_model
def test_the_traced_model_is_left_as_it_was(make, rng):
    model = make()
    layers_before = [id(layer) for layer in model.layers]
    config = model.get_config()
    # A layer called once more would have two inbound nodes and no `.output`.
    outputs = {layer.name: call_outputs(layer) for layer in model.layers}
    build(trace(model))
    trace(model)
    assert [id(layer) for layer in model.layers] == layers_before
    assert {layer.name: call_outputs(layer) for layer in model.layers} == outputs
    assert model.get_config() == config


def call_outputs(layer):
    try:
        return [id(t) for t in keras.tree.flatten(layer.output)]
    except (AttributeError, ValueError) as error:
        return str(error)


@every_model
def test_the_copy_shares_no_layer_and_no_variable(make):
    model = make()
    copy = build(trace(model))
    assert {id(w) for w in model.weights} & {id(w) for w in copy.weights} == set()
    inner = {id(layer) for layer in all_layers(model)}
    assert inner & {id(layer) for layer in all_layers(copy)} == set()
    assert len(copy.weights) == len(model.weights)


def all_layers(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)


@every_model
def test_the_copy_keeps_name_inputs_and_saves(make, rng, tmp_path):
    model = make()
    copy = build(trace(model))
    assert copy.name == model.name
    assert [t.name for t in copy.inputs] == [t.name for t in model.inputs]
    copy.save(tmp_path / "copy.keras")
    loaded = keras.saving.load_model(tmp_path / "copy.keras")
    x = random_inputs(model, rng)
    for ours, theirs in zip(
        keras.tree.flatten(loaded(x)), keras.tree.flatten(copy(x)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_nested_models_are_inlined():
    names = [node.name for node in trace(nested()).nodes]
    assert names == ["inner_a", "inner_b", "head"]


def test_a_layer_called_twice_is_two_nodes_with_one_operation():
    graph = trace(shared_layer())
    first, second = [n for n in graph.nodes if n.name == "shared"]
    assert first.operation is second.operation
    assert first.output is not second.output


def test_a_nested_model_called_twice_keeps_sharing():
    graph = trace(nested_twice())
    dense = [n for n in graph.nodes if n.name == "d"]
    assert len(dense) == 3
    assert len({id(n.operation) for n in dense}) == 1
    assert len(build(graph).weights) == 2


def test_tensors_know_shape_dtype_and_neighbours():
    graph = trace(sequential())
    conv, norm = graph.nodes[:2]
    assert (conv.output.shape, conv.output.dtype) == ((None, 6, 6, 4), "float32")
    assert conv.inputs == [graph.inputs]
    assert graph.producers()[conv.output] is conv
    assert graph.consumers()[conv.output] == [norm]
    assert graph.inputs not in graph.producers()
    assert graph.outputs is graph.nodes[-1].output


def test_input_dtype_and_dict_keys_survive():
    assert trace(embedding()).inputs.dtype == "int32"
    graph = trace(dict_model())
    assert sorted(graph.inputs) == ["a", "b"]
    assert {k: t.shape for k, t in graph.inputs.items()} == {
        "a": (None, 2),
        "b": (None, 3),
    }


def test_substitute_redirects_the_readers_of_a_tensor(rng):
    model = sequential()
    graph = trace(model)
    norm, relu = graph.nodes[1:3]
    # Leave the ReLU out.
    rest = [n for n in graph.nodes if n is not relu]
    shorter = build(graph.substitute({relu.output: norm.output}, rest))
    assert [layer.name for layer in shorter.layers if layer.name == "relu"] == []
    x = rng.normal(size=(2, 8, 8, 1))
    hidden = model.get_layer("norm")(model.get_layer("conv")(x))
    expected = model.get_layer("head")(ops.reshape(hidden, (2, -1)))
    np.testing.assert_allclose(shorter(x), expected, rtol=1e-6, atol=1e-6)


def test_fed_with_replaces_inputs():
    graph = trace(dict_model())
    given = {"a": Tensor((None, 2), "float32"), "b": Tensor((None, 3), "float32")}
    joined = graph.fed_with(given).nodes[0]
    assert joined.inputs == [given["a"], given["b"]]


def test_a_node_may_bring_its_own_weights():
    graph = trace(sequential())
    conv = graph.nodes[0]
    conv.weights = lambda: [np.full((3, 3, 1, 4), 7.0), np.zeros(4)]
    assert np.unique(build(graph).get_layer("conv").kernel.numpy()).tolist() == [7.0]


def test_trainable_flags_are_copied():
    model = sequential()
    model.get_layer("conv").trainable = False
    copy = build(trace(model))
    assert copy.get_layer("conv").trainable is False
    assert len(copy.trainable_weights) == len(model.trainable_weights)


def test_masks_flow_in_the_copy(rng):
    model = embedding()
    tokens = np.array([[3, 4, 0, 0, 0]])
    expected = np.mean(model.get_layer("embed")(tokens)[0, :2], axis=0)
    np.testing.assert_allclose(build(trace(model))(tokens)[0], expected, rtol=1e-5)


def test_only_functional_and_sequential_models_have_a_graph():
    class Subclassed(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Subclassed(name="mine")
    model(np.zeros((1, 3)))
    assert is_graph_model(model) is False
    assert is_graph_model(nested()) is True
    assert is_graph_model(sequential()) is True
    with pytest.raises(InvalidArgumentError) as caught:
        trace(model, "quantize the model")
    assert "Cannot quantize the model: 'mine' is a subclassed model" in str(
        caught.value
    )
    assert "Functional API" in str(caught.value)


def test_an_unbuilt_model_has_no_graph():
    with pytest.raises(InvalidArgumentError, match="'raw' has not been built"):
        trace(keras.Sequential([layers.Dense(1)], name="raw"))


def test_a_layer_that_cannot_be_copied_is_named():
    class Stubborn(layers.Layer):
        def __init__(self, secret, **kwargs):
            super().__init__(**kwargs)

        def call(self, x):
            return x

    with pytest.raises(InvalidArgumentError) as caught:
        clone_operation(Stubborn(object(), name="st"))
    message = str(caught.value)
    assert "Cannot copy layer 'st' of type Stubborn" in message
    assert "What to do: implement get_config()" in message
    assert "\n" not in message


def test_a_compiled_model_with_a_loss_of_its_own():
    class Unregistered(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return ops.abs(y_true - y_pred)

    model = nested()
    model.compile("sgd", Unregistered())
    copy = build(trace(model, "copy"))
    x = np.ones((2, 6), "float32")
    np.testing.assert_array_equal(copy(x), model(x))
    assert isinstance(model.loss, Unregistered)


@pytest.mark.parametrize("copied", [copy_model, lambda model: build(trace(model))])
def test_statistics_that_were_adapted_are_copied(copied, rng):
    # Normalization computes with tensors that it makes from its weights.
    x = rng.normal(5.0, 3.0, size=(64, 3)).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    inner = keras.Sequential([keras.Input((3,)), normalization])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(2)])
    copy = copied(model)
    np.testing.assert_array_equal(copy(x), model(x))


def test_a_model_may_be_deeper_than_python_goes():
    inputs = x = keras.Input((1,))
    for _ in range(1100):
        x = ops.negative(x)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    model = keras.Model(inputs, x)
    sys.setrecursionlimit(before)
    assert len(trace(model, "try it").nodes) == 1100
    assert sys.getrecursionlimit() == before
