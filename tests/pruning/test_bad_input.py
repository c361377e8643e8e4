"""PruneWeights says what is wrong before the first step."""

import keras
import numpy as np
import pytest

from tests.pruning.pruned import compiled, mlp, schedule, sparsity
from tfcompress import (
    CompressionWarning,
    ConstantSparsity,
    InvalidArgumentError,
    Kernel,
    LayerRule,
    PolynomialSparsity,
    PruneWeights,
    UnsupportedLayerError,
    register_layer_rule,
)
from tfcompress.layers import rules as table
from tfcompress.pruning.sites import select_sites


@pytest.mark.parametrize(
    "plan",
    [PolynomialSparsity(0.0, 0.5, 0, 2000), ConstantSparsity(0.5, begin_step=500)],
)
def test_a_fit_too_short_is_refused_before_any_step(fit, plan):
    model = mlp()
    before = model.get_weights()
    with pytest.raises(InvalidArgumentError, match="fit is too short"):
        fit(model, PruneWeights(plan))
    for one, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 1.0}, r"target_sparsity.*Received: 1.0.*\[0, 1\)"),
        ({"schedule": -0.5}, r"Received: -0.5"),
        ({"schedule": "polynomial"}, None),
        ({"schedule": None}, "not a schedule"),
        ({"schedule": 0.5, "scope": "model"}, "'layer' or 'global'"),
        (
            {"schedule": 0.5, "criterion": "size"},
            "Unknown pruning criterion.*magnitude",
        ),
        ({"schedule": 0.5, "pattern": "dots"}, "Unknown pruning pattern.*unstructured"),
    ],
)
def test_arguments_are_checked_at_once(arguments, message):
    with pytest.raises((InvalidArgumentError, TypeError), match=message):
        PruneWeights(**arguments)


def test_filters_that_match_nothing_name_the_layers(fit):
    with pytest.raises(InvalidArgumentError, match="first, second, logits"):
        fit(mlp(), PruneWeights(0.5, filters="conv"))


def test_a_bad_regular_expression(fit):
    with pytest.raises(InvalidArgumentError, match="not a valid regular expression"):
        fit(mlp(), PruneWeights(0.5, filters="(first"))


def test_a_model_that_is_all_frozen():
    model = mlp()
    model.trainable = False
    head = keras.Sequential([keras.Input((12,)), model, keras.layers.Rescaling(1.0)])
    with pytest.raises(InvalidArgumentError, match="no trainable kernel"):
        select_sites(head, filters=None)


def test_an_unbuilt_model():
    model = compiled(keras.Sequential([keras.layers.Dense(3)]))
    callback = PruneWeights(0.5)
    callback.set_model(model)
    with pytest.raises(InvalidArgumentError, match="has not been built"):
        callback.on_train_begin()


class Mixer(keras.layers.Layer):
    """A layer of the user's own, with a kernel under its own name."""

    def build(self, shape):
        self.mixing = self.add_weight(shape=(shape[-1], 8), name="mixing")

    def call(self, x):
        return x @ self.mixing


def with_mixer():
    return keras.Sequential(
        [keras.Input((12,)), Mixer(name="mixer"), keras.layers.Dense(3, name="logits")]
    )


def test_a_layer_without_a_rule_is_named_once(fit):
    model = with_mixer()
    with pytest.warns(CompressionWarning, match=r"mixer \(Mixer\)") as caught:
        fit(model, PruneWeights(schedule()))
    assert len(caught) == 1
    assert sparsity(model.layers[0].mixing) == 0.0
    assert sparsity(model.layers[1].kernel) == 0.75


def test_a_layer_without_a_rule_that_filters_ask_for_is_an_error(fit):
    with pytest.raises(UnsupportedLayerError, match=r"mixer \(Mixer\).*register_layer"):
        fit(with_mixer(), PruneWeights(schedule(), filters="mixer"))


def test_a_rule_of_ones_own_is_enough(fit, monkeypatch):
    monkeypatch.setattr(table, "_rules", dict(table._rules))
    register_layer_rule(LayerRule(Mixer, "compute", (Kernel("mixing"),)))
    model = fit(with_mixer(), PruneWeights(schedule(), filters="mixer"))
    assert sparsity(model.layers[0].mixing) == 0.75


@pytest.mark.parametrize("kind", [np.float32, np.float64, float])
def test_a_number_of_numpy_is_a_number(kind):
    assert PruneWeights(kind(0.5)).schedule.target_sparsity == pytest.approx(0.5)
