"""The attack and the explanations, on models where the right answer is known."""

import keras
import numpy as np
import pytest
import scipy.stats

from tests.trustworthiness.models import table
from tfcompress.trustworthiness import trust
from tfcompress.trustworthiness.saliency import _cells, rank_correlation

L = keras.layers


def linear(weights, name="original"):
    """Returns a model with one logit, `weights @ x`."""
    model = keras.Sequential(
        [keras.Input((len(weights),)), L.Dense(1, use_bias=False)], name=name
    )
    model.layers[0].set_weights([np.asarray(weights, "float32")[:, None]])
    return model


def test_the_attack_is_the_formula(rng):
    before, after = np.array([1.0, -2.0, 0.5]), np.array([1.0, -1.0, 3.0])
    x = rng.random((200, 3)).astype("float32")
    labels = (x @ before > 0).astype(int)
    found = trust(linear(before), linear(after), x, labels, corruptions=(), epsilon=0.1)
    low, width = x.min(axis=0), np.ptp(x, axis=0)

    def accuracy(victim, judge):
        # The loss grows against the label, along the sign of each weight.
        way = np.where(labels[:, None] == 1, -1, 1) * np.sign(victim)
        moved = np.clip(x + 0.1 * width * way, low, low + width)
        return np.mean((moved @ judge > 0) == labels)

    assert found.accuracy.original == 1.0
    assert found.attack.epsilon == 0.1
    assert found.attack.accuracy.original == accuracy(before, before) < 0.95
    assert found.attack.accuracy.compressed == accuracy(before, after)
    assert found.attack.own == accuracy(after, after)


def test_no_attack_moves_nothing(rng):
    x = rng.random((50, 3)).astype("float32")
    model, labels = linear([1.0, -2.0, 0.5]), np.arange(50) % 2
    found = trust(model, model, x, labels, epsilon=0.0, corruptions=())
    assert found.attack.accuracy == found.accuracy
    assert found.corruptions[0].name == "clean"


def test_corruptions_reach_both_models(rng):
    x = rng.random((300, 8)).astype("float32")
    weights = rng.normal(size=8)
    labels = (x @ weights > 0).astype(int)
    found = trust(linear(weights), linear(-weights), x, labels, severities=(1, 5))
    names = [(one.name, one.severity) for one in found.corruptions]
    assert names[:3] == [("clean", 0), ("gaussian_noise", 1), ("gaussian_noise", 5)]
    clean, mild, strong = (one.accuracy for one in found.corruptions[:3])
    assert clean.original == 1.0 > mild.original > strong.original > 0.5
    assert clean.compressed == 0.0 < mild.compressed < strong.compressed < 0.5
    mean = found.corruption_means["gaussian_noise"]
    assert mean.original == pytest.approx((mild.original + strong.original) / 2)


def test_explanations_of_a_known_order(rng):
    x = rng.random((30, 4)).astype("float32")
    labels = np.arange(30) % 2
    weights = np.array([4.0, -3.0, 2.0, -1.0])

    def correlation(other):
        found = trust(linear(weights), linear(other), x, labels, corruptions=())
        assert found.saliency.method == "gradient"
        assert len(found.saliency.correlations) == 30
        return found.saliency.correlation

    assert correlation(weights) == pytest.approx(1.0)
    assert correlation(weights[::-1]) == pytest.approx(-1.0)
    assert correlation([4.0, -3.0, 1.0, -2.0]) == pytest.approx(0.8)


def test_occlusion_finds_the_part_that_counts(rng):
    """Two models without gradients that look at different corners of an image."""

    def corner(place):
        class Corner(L.Layer):
            def call(self, x):
                # Rounding has no gradient.
                part = keras.ops.round(20 * x[(slice(None), *place)])
                score = keras.ops.mean(part, axis=(1, 2, 3))
                return keras.ops.stack([0 * score, score - 10], axis=1)

        return keras.Sequential([keras.Input((8, 8, 1)), Corner()])

    first = corner((slice(0, 4), slice(0, 4)))
    second = corner((slice(4, 8), slice(4, 8)))
    x = rng.random((20, 8, 8, 1)).astype("float32")
    labels = np.arange(20) % 2
    how = {"corruptions": ()}
    same = trust(first, first, x, labels, **how)
    other = trust(first, second, x, labels, **how)
    assert same.saliency.method == other.saliency.method == "occlusion"
    assert same.saliency.correlation == pytest.approx(1.0)
    assert other.saliency.correlation < 0.5
    assert other.attack is None


def test_models_that_answer_always_the_same(rng):
    model = table(np.zeros((6, 2)))
    found = trust(model, model, np.eye(6, dtype="float32"), [0, 1] * 3)
    assert found.saliency is None
    assert "Explanations were not compared" in found.notes[-1]


def test_rank_correlation_is_scipys(rng):
    first = rng.integers(0, 5, size=(20, 12))  # with many ties
    second = first + rng.integers(0, 4, size=(20, 12))
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(first, second)]
    np.testing.assert_allclose(rank_correlation(first, second), expected)
    assert np.isnan(rank_correlation(np.ones((1, 3)), np.arange(3)[None]))[0]


@pytest.mark.parametrize(
    ("shape", "cells"),
    [((28, 28, 3), 49), ((5, 5, 1), 25), ((10,), 10), ((200,), 49), ((64, 6), 49)],
)
def test_cells_cover_each_value_once(shape, cells):
    counts = np.zeros((1, *shape), int)
    found = _cells(counts)
    for cell in found:
        counts[cell] += 1
    assert len(found) == cells
    assert (counts == 1).all()
