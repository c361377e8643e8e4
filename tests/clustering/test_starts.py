"""Codebooks: k-means in one dimension, from every start."""

import numpy as np
import pytest

from tfcompress.clustering.starts import STARTS, codebook, kmeans_plus_plus, nearest


def error(weights, entries):
    return float(np.square(weights - entries[nearest(weights, entries)]).sum())


@pytest.mark.parametrize("start", STARTS)
def test_the_codebook_is_a_fixed_point_of_kmeans(rng, start):
    weights = rng.normal(size=5000)
    entries = codebook(weights, 12, start)
    assert len(entries) == 12
    members = nearest(weights, entries)
    means = [weights[members == k].mean() for k in range(12)]
    np.testing.assert_allclose(means, entries, atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_the_error_is_that_of_scikit_learn(rng, start):
    cluster = pytest.importorskip("sklearn.cluster")
    weights = rng.laplace(size=3000)
    fitted = cluster.KMeans(8, n_init=10, random_state=0).fit(weights[:, None])
    assert error(weights, codebook(weights, 8, start)) <= 1.1 * fitted.inertia_


def test_linear_and_density_starts_are_the_papers():
    weights = np.array([-1.0, 0.0, 0.1, 0.2, 0.3, 3.0])
    np.testing.assert_allclose(STARTS["linear"](weights, 3), [-1, 1, 3])
    np.testing.assert_allclose(STARTS["density"](weights, 3), [-1, 0.15, 3])
    np.testing.assert_allclose(STARTS["quantile"](np.arange(5.0), 2), [1, 3])


def test_kmeans_plus_plus_finds_far_groups():
    weights = np.sort(np.r_[np.full(1000, 0.0), np.full(3, 50.0), np.full(3, 90.0)])
    assert kmeans_plus_plus(weights, 3).tolist() == [0.0, 50.0, 90.0]
    assert kmeans_plus_plus(weights, 9).tolist() == [0.0, 50.0, 90.0]


def test_few_distinct_values_are_their_own_codebook():
    weights = np.array([0.25, -0.5, 0.25, 0.1], "float32")
    assert codebook(weights, 3, "linear").tolist() == sorted({*weights.tolist()})
