"""Finding layers at any depth and choosing some of them."""

import keras
import pytest
from keras import layers

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import matches, require_built, select, walk


def nested():
    block = keras.Sequential(
        [
            keras.Input((8, 4)),
            layers.Dense(4, name="mix"),
            layers.TimeDistributed(layers.Dense(3, name="each"), name="each"),
        ],
        name="block",
    )
    return keras.Sequential(
        [
            keras.Input((8, 4)),
            block,
            layers.Bidirectional(layers.LSTM(2), name="both"),
            layers.Dense(1, name="head"),
        ],
        name="net",
    )


class Residual(layers.Layer):
    """A composite layer with a list and a dict of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = [layers.Dense(4, name="a"), layers.Dense(4, name="b")]
        self.extra = {"norm": layers.LayerNormalization(name="norm")}

    def call(self, x):
        for step in self.steps:
            x = x + step(x)
        return self.extra["norm"](x)


def paths(model):
    return [path for path, _ in walk(model)]


def test_walk_enters_nested_models_and_wrappers():
    found = paths(nested())
    assert [p for p in found if p.startswith("block")][:2] == ["block", "block/mix"]
    assert found[-1] == "head"
    assert any(p.startswith("both/forward_") for p in found)


def test_a_wrapper_of_the_same_name_adds_no_level():
    assert paths(nested()).count("block/each") == 2
    assert "block/each/each" not in paths(nested())


def test_walk_enters_composite_layers():
    model = keras.Sequential([keras.Input((4,)), Residual(name="res")])
    assert paths(model) == ["res", "res/a", "res/b", "res/norm"]


def test_a_layer_that_is_used_twice_is_yielded_once():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, shared(shared(inputs)))
    assert paths(model) == ["x", "shared"]


def test_a_subclassed_model_is_walked():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = Residual(name="body")
            self.head = layers.Dense(1, name="head")

        def call(self, x):
            return self.head(self.body(x))

    assert paths(Net()) == ["body", "body/a", "body/b", "body/norm", "head"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, True),
        ("conv", True),
        ("^conv", False),
        ("block/.*1$", True),
        (layers.Dense, True),
        (layers.Conv2D, False),
        (lambda layer: layer.units == 3, True),
        (["nothing", layers.Dense], True),
        (["nothing", layers.Conv2D], False),
        ([], False),
    ],
)
def test_matches(filters, expected):
    assert matches("block/conv1", layers.Dense(3), filters) is expected


def test_select_keeps_the_order_of_the_model():
    chosen = select(nested(), ["head", "mix"])
    assert [path for path, _ in chosen] == ["block/mix", "head"]


def test_select_considers_candidates_only():
    def is_dense(layer):
        return isinstance(layer, layers.Dense)

    chosen = select(nested(), None, is_dense)
    assert [path for path, _ in chosen] == ["block/mix", "block/each", "head"]


def test_filters_that_match_nothing_name_the_candidates():
    with pytest.raises(InvalidArgumentError) as caught:
        select(nested(), "tail", lambda layer: isinstance(layer, layers.Dense))
    assert "model 'net'" in str(caught.value)
    assert "Received: 'tail'." in str(caught.value)
    assert "at least one of block/mix, block/each, head" in str(caught.value)


def test_a_broken_expression_is_an_argument_error():
    with pytest.raises(InvalidArgumentError, match="not a valid regular expression"):
        select(nested(), "conv(")


def test_require_built_accepts_a_built_model():
    assert require_built(nested(), "prune") is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([layers.Dense(2)], name="raw"), "'raw' has not been built"),
        (layers.Dense(2), "Cannot prune: not a Keras model. Received: Dense"),
        (None, "Cannot prune: not a Keras model. Received: NoneType"),
    ],
    ids=["unbuilt", "layer", "none"],
)
def test_require_built_says_what_is_wrong(model, message):
    with pytest.raises(InvalidArgumentError) as caught:
        require_built(model, "prune")
    assert message in str(caught.value)


def empty_functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, inputs, name="empty")


@pytest.mark.parametrize(
    "model",
    [
        keras.Sequential(name="empty"),
        keras.Sequential([keras.Input((4,))], name="empty"),
        empty_functional(),
    ],
    ids=["sequential", "input_only", "functional"],
)
def test_an_empty_model_is_refused(model):
    with pytest.raises(InvalidArgumentError, match="'empty' has no layers"):
        require_built(model, "prune")


def test_a_subclassed_model_that_makes_its_layers_when_built_is_unbuilt():
    class Late(keras.Model):
        def build(self, shape):
            self.dense = layers.Dense(2)

    with pytest.raises(InvalidArgumentError, match="'late' has not been built"):
        require_built(Late(name="late"), "prune")
