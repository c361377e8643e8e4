"""No copy of a model loses anything that a `.keras` file keeps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfcompress.core.copies import clone_operation, copy_model, fresh_copy
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import build, trace
from tfcompress.core.select import walk
from tfcompress.finalization import finalize
from tfcompress.pruning.reconstruction import reconstruct

WORDS = ["a good film", "a bad film", "great plot", "awful acting", "good"]
TEXT = tf.constant([[line] for line in WORDS])
TABLE = np.array([[1.0, 9.0], [4.0, -2.0], [3.5, 0.0], [8.0, 5.0], [-3.0, 2.0]], "f4")
NUMBERS = np.array([[7], [42], [7], [1000], [5]], "int64")


def _adapted(layer, data):
    layer.adapt(data)
    return layer


def _on(shape, dtype, *stack, name="x"):
    inputs = outputs = keras.Input(shape, dtype=dtype, name=name)
    for layer in stack:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def _text_vectorization(**options):
    layer = _adapted(layers.TextVectorization(max_tokens=20, **options), TEXT)
    return layer, TEXT, (1,), "string"


def _string_lookup(**options):
    words = tf.constant([["good"], ["bad"], ["plot"], ["good"], ["film"]])
    return _adapted(layers.StringLookup(**options), words), words, (1,), "string"


def _integer_lookup(**options):
    layer = _adapted(layers.IntegerLookup(**options), NUMBERS)
    return layer, NUMBERS, (1,), "int64"


def _discretization(**options):
    layer = _adapted(layers.Discretization(num_bins=4, **options), TABLE)
    return layer, TABLE, (2,), "float32"


def _normalization(**options):
    return _adapted(layers.Normalization(**options), TABLE), TABLE, (2,), "float32"


def _hashing(**options):
    return layers.Hashing(num_bins=16, **options), TEXT, (1,), "string"


ADAPTED = {
    "text_int": lambda: _text_vectorization(output_sequence_length=4),
    "text_multi_hot": lambda: _text_vectorization(output_mode="multi_hot"),
    "text_count": lambda: _text_vectorization(output_mode="count"),
    "text_tf_idf": lambda: _text_vectorization(output_mode="tf_idf"),
    "text_ngrams": lambda: _text_vectorization(ngrams=2, output_sequence_length=5),
    "string_int": _string_lookup,
    "string_one_hot": lambda: _string_lookup(output_mode="one_hot"),
    "string_tf_idf": lambda: _string_lookup(output_mode="tf_idf"),
    "string_many_oov": lambda: _string_lookup(num_oov_indices=3),
    "string_mask": lambda: _string_lookup(mask_token=""),
    "integer_int": _integer_lookup,
    "integer_multi_hot": lambda: _integer_lookup(output_mode="multi_hot"),
    "integer_count": lambda: _integer_lookup(output_mode="count"),
    "bins_int": _discretization,
    "bins_one_hot": lambda: _discretization(output_mode="one_hot"),
    "bins_count": lambda: _discretization(output_mode="count"),
    "normalization": _normalization,
    "normalization_of_all": lambda: _normalization(axis=None),
    "inverted": lambda: _normalization(invert=True),
    "hashing": _hashing,
    "hashing_with_salt": lambda: _hashing(salt=1337),
}


def _nested(layer, shape, dtype):
    inner = keras.Sequential([keras.Input(shape, dtype=dtype), layer], name="inner")
    return _on(shape, dtype, keras.Sequential([keras.Input(shape, dtype=dtype), inner]))


@keras.saving.register_keras_serializable("copies")
class Holder(layers.Layer):
    """A layer that holds another one deep in a list of dicts."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.deep = [{"here": [layer]}]

    def call(self, inputs):
        return self.deep[0]["here"][0](inputs)

    def compute_output_spec(self, inputs):
        return self.deep[0]["here"][0].compute_output_spec(inputs)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.deep[0]["here"][0])
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


PLACES = {
    "flat": lambda layer, shape, dtype: _on(shape, dtype, layer),
    "nested": _nested,
    "held": lambda layer, shape, dtype: _on(shape, dtype, Holder(layer)),
}
COPIED = {
    "copy_model": copy_model,
    "build": lambda model: build(trace(model)),
    "twice": lambda model: build(trace(copy_model(build(trace(model))))),
    "finalize": finalize,
    "fresh_copy": fresh_copy,
}


CASES = [
    *((kind, "flat", copied) for kind in ADAPTED for copied in ("build", "finalize")),
    *(
        (kind, place, copied)
        for kind in ("text_int", "string_tf_idf", "bins_one_hot", "normalization")
        for place in PLACES
        for copied in COPIED
    ),
]


@pytest.mark.parametrize(("kind", "place", "copied"), list(dict.fromkeys(CASES)))
def test_what_a_layer_adapted_to_is_in_every_copy(kind, place, copied):
    layer, data, shape, dtype = ADAPTED[kind]()
    model = PLACES[place](layer, shape, dtype)
    expected = np.asarray(model(data))
    copy = COPIED[copied](model)
    np.testing.assert_array_equal(np.asarray(copy(data)), expected)
    assert copy.output_shape == model.output_shape
    np.testing.assert_array_equal(np.asarray(model(data)), expected)


class Remembers(layers.Layer):
    """State that is no weight, and a class that is not registered."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.offset = np.zeros(2, "float32")

    def call(self, inputs):
        return inputs + self.offset

    def save_own_variables(self, store):
        store["offset"] = self.offset

    def load_own_variables(self, store):
        self.offset = np.array(store["offset"])


@pytest.mark.parametrize("copied", COPIED)
def test_what_a_layer_of_the_user_saves_is_in_every_copy(copied):
    layer = Remembers()
    model = _on((2,), "float32", layer)
    layer.offset = np.array([1.0, -2.0], "float32")
    copy = COPIED[copied](model)
    expected = TABLE + layer.offset
    if copied == "fresh_copy":
        expected = TABLE  # it is not known to be adapted
    np.testing.assert_array_equal(np.asarray(copy(TABLE)), expected)
    layer.offset[:] = 7.0
    np.testing.assert_array_equal(np.asarray(copy(TABLE)), expected)


def _lambdas():
    offset = 3.0

    def add(values):
        return values + offset

    return {
        "lambda": lambda: layers.Lambda(lambda t: ops.sin(t) + offset),
        "function": lambda: layers.Lambda(add),
        "shapes": lambda: layers.Lambda(
            lambda t: ops.concatenate([t, t], -1),
            output_shape=lambda shape: (*shape[:-1], 2 * shape[-1]),
        ),
        "activation": lambda: layers.Dense(
            3, activation=lambda t: ops.tanh(t) + offset
        ),
        "in time": lambda: layers.TimeDistributed(layers.Lambda(add)),
        "nested": lambda: keras.Sequential([keras.Input((4, 2)), layers.Lambda(add)]),
        "nested in time": lambda: layers.TimeDistributed(
            keras.Sequential([keras.Input((2,)), layers.Lambda(lambda t: t * offset)])
        ),
        "held": lambda: Holder(layers.Lambda(add)),
    }


@pytest.mark.parametrize("copied", ["copy_model", "build", "twice", "finalize"])
@pytest.mark.parametrize("kind", _lambdas())
def test_functions_of_a_live_model_are_copied(kind, copied, rng):
    model = _on((4, 2), "float32", _lambdas()[kind]())
    x = rng.normal(size=(5, 4, 2)).astype("float32")
    copy = COPIED[copied](model)
    np.testing.assert_array_equal(copy(x), model(x))


def test_inner_layers_that_are_frozen_stay_frozen():
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(3), layers.Dense(2)])
    inner.layers[0].trainable = False
    model = _on((2,), "float32", inner)
    for copy in (copy_model(model), build(trace(model))):
        assert len(copy.trainable_variables) == 2


def test_state_that_cannot_be_copied_is_an_error_that_names_the_layer():
    class Forgets(Remembers):
        def load_own_variables(self, store):
            raise KeyError("no such thing")

    layer = Forgets(name="forgets")
    with pytest.raises(InvalidArgumentError, match="'forgets' of type Forgets"):
        copy_model(_on((2,), "float32", layer))


def test_a_copy_may_have_another_config():
    assert clone_operation(layers.Dense(3, name="a"), units=4).units == 4


class _Block(layers.Layer):
    """Makes layers without names, which Keras counts on in every copy."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        stack = [layers.Dense(2 * width, "gelu"), layers.Dense(width)]
        self.mlp = keras.Sequential(stack, name="mlp")

    def call(self, x):
        return x + self.mlp(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_layers_without_names_keep_those_they_have(rng):
    model = _on((4,), "float32", _Block(4, name="block"))
    data = rng.normal(size=(64, 4)).astype("float32")
    final = finalize(model)
    np.testing.assert_array_equal(final(data), model(data))
    assert [v.name for v in final.weights] == [v.name for v in model.weights]
    own, copied = (dict(walk(one)) for one in (model, copy_model(model)))
    assert own.keys() == copied.keys()
    pruned = reconstruct(model, data, 0.5)
    zeros = [np.mean(w == 0) for w in pruned.get_weights() if w.ndim > 1]
    assert zeros == [0.5, 0.5]


class Nameless(layers.Layer):
    """Its config has no name."""

    def call(self, inputs):
        return 2 * inputs

    def get_config(self):
        return {}


def test_a_copy_has_the_name_of_its_original():
    layer = Nameless(name="mine")
    assert clone_operation(layer).name == "mine"
    inputs = keras.Input((4,), name="x")
    assert build(trace(keras.Model(inputs, layer(inputs)))).layers[1].name == "mine"
