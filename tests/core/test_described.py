"""Objects print as the call that makes them; names from elsewhere are understood."""

import keras
import pytest

import tfcompress as tc
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.pruning.patterns import NOfM
from tfcompress.quantization.scheme import get_scheme


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (tc.ConstantSparsity(0.5), "ConstantSparsity(target_sparsity=0.5)"),
        (
            tc.PolynomialSparsity(0, 0.8, end_step=30),
            "PolynomialSparsity(initial_sparsity=0.0, final_sparsity=0.8, end_step=30)",
        ),
        (tc.Block((1, 8)), "Block(shape=(1, 8))"),
        (tc.Magnitude(), "Magnitude()"),
        (tc.ClusterWeights(8), "ClusterWeights(num_clusters=8)"),
    ],
)
def test_an_object_prints_as_its_call(made, text):
    assert repr(made) == text


def test_a_callback_shows_what_it_was_given():
    shown = repr(tc.PruneWeights(0.5, filters="dense", verbose=1))
    assert "schedule=ConstantSparsity(target_sparsity=0.5)" in shown
    assert "filters='dense'" in shown
    assert "verbose=1" in shown


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("int16", "w8a16"), ("int4", "w4a8"), ("ternary", "w2a8"), ("binary", "w1a8")],
)
def test_names_from_elsewhere_are_answered_with_the_right_one(name, scheme):
    with pytest.raises(InvalidArgumentError, match=f"What to do: .*'{scheme}'"):
        get_scheme(name)


def test_int8_means_weights_and_activations():
    asked, known = get_scheme("int8"), get_scheme("w8a8")
    assert type(asked.weights) is type(known.weights)
    assert asked.activations == known.activations


def test_half_precision_is_no_scheme_and_the_error_says_where_it_is():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InvalidArgumentError, match="quantize='float16'"):
        tc.quantize_aware(model, "fp16")


def test_a_ratio_is_a_pattern():
    pattern = tc.PruneWeights(0.75, pattern="1:4").pattern
    assert isinstance(pattern, NOfM)
    assert (pattern.n, pattern.m) == (1, 4)
    with pytest.raises(InvalidArgumentError, match="1 <= n < m"):
        tc.PruneWeights(0.5, pattern="4:2")


def test_the_package_knows_its_version():
    assert tc.__version__[0].isdigit()
