"""Arrays of an .npz file are inputs, labels or weights by their names."""

import keras
import numpy as np
import pytest

from tfcompress.cli.inputs import only_inputs, read_data
from tfcompress.core.errors import InvalidArgumentError


def model(*names):
    inputs = [keras.Input((1,), name=name) for name in names]
    joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    return keras.Model(inputs, keras.layers.Dense(1)(joined))


def read(folder, subject, *names):
    """Returns what is read of a file; each array holds its place in `names`."""
    arrays = {n: np.full((4, 1), place, "float32") for place, n in enumerate(names)}
    np.savez(folder / "d.npz", **arrays)
    data = read_data(str(folder / "d.npz"), [subject])
    first = keras.tree.map_structure(lambda array: int(array[0, 0]), data)
    return first, only_inputs(data, 2, subject)


@pytest.mark.parametrize(
    ("inputs", "names", "expected"),
    [
        (["image"], ["x", "y"], (0, 1)),
        (["image"], ["y", "sample_weight", "image"], (2, 0, 1)),
        (["x"], ["y", "x"], (1, 0)),
        (["y"], ["y"], (0,)),
        (["y", "x"], ["x", "y"], ({"y": 1, "x": 0},)),
        (["p", "sample_weight"], ["sample_weight", "p", "y"], None),
        (["x", "q"], ["q", "y", "x"], ({"x": 2, "q": 0}, 1)),
        ([None, None], ["input_2", "y", "input_1"], ([2, 0], 1)),
    ],
)
def test_names_say_what_an_array_is(tmp_path, inputs, names, expected):
    expected = expected or ({"p": 1, "sample_weight": 0}, 2)
    first, columns = read(tmp_path, model(*inputs), *names)
    assert first == expected
    x = expected[0]
    in_order = [x[name] for name in inputs] if isinstance(x, dict) else x
    found = [int(column[0, 0]) for column in keras.tree.flatten(columns)]
    assert found == keras.tree.flatten(in_order)


@pytest.mark.parametrize(
    ("inputs", "names", "text"),
    [
        (["p", "q"], ["x", "y"], "Arrays for p, q are missing"),
        (["p", "q"], ["p", "x", "y"], "Arrays for q are missing"),
        (["image"], ["picture", "y"], "Arrays for image are missing"),
        (["image"], ["y"], "Arrays for image are missing"),
        (["image"], ["image", "x", "y"], "no inputs of the model: x"),
        (["y"], ["x", "y"], "no inputs of the model: x"),
        (["x"], ["x", "id", "y"], "no inputs of the model: id"),
        (["x"], ["x", "sample_weight"], "no y that it is for"),
        (["y"], ["y", "sample_weight"], "no y that it is for"),
    ],
)
def test_what_is_missing_or_ambiguous_is_refused(tmp_path, inputs, names, text):
    with pytest.raises(InvalidArgumentError, match=text):
        read(tmp_path, model(*inputs), *names)


def test_a_subclassed_model_takes_what_is_no_label(tmp_path):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    assert read(tmp_path, Own(), "x", "y")[0] == (0, 1)
    assert read(tmp_path, Own(), "b", "y", "a")[0] == ({"b": 0, "a": 2}, 1)
    with pytest.raises(InvalidArgumentError, match="Arrays for the inputs are missing"):
        read(tmp_path, Own(), "y")
