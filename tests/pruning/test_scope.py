"""Which weights are ranked together, and what that may empty."""

import keras
import numpy as np
import pytest

import tfcompress as tc
from tfcompress.pruning.masks import balanced_masks


def model_of(*scales):
    """Returns a compiled model with a dense layer of each size of weights."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(
            16,
            name=f"dense_{number}",
            kernel_initializer=keras.initializers.RandomUniform(-scale, scale),
        )
        for number, scale in enumerate(scales)
    ]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def zeros_after(model, prune):
    x = np.random.default_rng(0).normal(size=(32, 16))
    model.fit(x, np.zeros((32, 16)), epochs=2, verbose=0, callbacks=[prune])
    return [float(np.mean(layer.kernel.numpy() == 0)) for layer in model.layers]


def test_single_weights_are_ranked_all_together():
    prune = tc.PruneWeights(0.5, scope="global")
    small, large = zeros_after(model_of(1.0, 3.0), prune)
    assert small + large == pytest.approx(1.0, abs=0.01)
    assert small > 0.7


def test_lamp_ranks_them_by_what_they_are_to_their_layer():
    prune = tc.PruneWeights(0.5, "lamp", scope="global")
    zeros = zeros_after(model_of(1.0, 3.0), prune)
    assert sum(zeros) == pytest.approx(1.0, abs=0.01)
    assert zeros == pytest.approx([0.5, 0.5], abs=0.05)  # alike but for their size


def test_a_layer_scope_gives_each_kernel_the_same():
    zeros = zeros_after(model_of(1.0, 3.0), tc.PruneWeights(0.5, scope="layer"))
    assert zeros == [0.5, 0.5]


def test_single_weights_are_balanced_by_default():
    assert tc.PruneWeights(0.5).scope == "balanced"
    zeros = zeros_after(model_of(1.0, 2.0), tc.PruneWeights(0.5))
    together = zeros_after(model_of(1.0, 2.0), tc.PruneWeights(0.5, scope="global"))
    assert zeros == together  # no kernel is near its least
    assert zeros[0] > zeros[1] + 0.1


@pytest.mark.parametrize(
    ("sparsity", "starved", "spared"), [(0.6, 0.8, 0.4), (0.9, 0.95, 0.85)]
)
def test_a_balanced_scope_starves_no_kernel(sparsity, starved, spared):
    model = model_of(1e-6, 1.0)
    small, large = zeros_after(model, tc.PruneWeights(sparsity, scope="balanced"))
    assert small == pytest.approx(starved, abs=0.01)
    assert large == pytest.approx(spared, abs=0.01)


def kept_by_hand(scores, sparsity):
    """Returns how many stay of each: its least, then the largest of the rest."""
    share, sizes = 1 - sparsity, [score.size for score in scores]
    kept = [max(round(size * share / 2), 1) for size in sizes]
    room = round(sum(sizes) * share) - sum(kept)
    ranked = [np.sort(score.ravel())[::-1] for score in scores]
    rest = [
        (value, which)
        for which, values in enumerate(ranked)
        for value in values[kept[which] :]
    ]
    for _, which in sorted(rest, reverse=True)[:room]:
        kept[which] += 1
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_balanced_masks_are_what_ranking_by_hand_leaves(seed):
    random = np.random.default_rng(seed)
    sizes = 20 * random.integers(1, 30, size=random.integers(1, 6))
    scores = [
        np.abs(random.normal(size=size) * 10 ** random.uniform(-4, 2)).astype("float32")
        for size in sizes
    ]
    for sparsity in (0.3, 0.6, 0.9):
        masks = balanced_masks([keras.ops.array(s) for s in scores], sparsity)
        masks = [keras.ops.convert_to_numpy(mask) for mask in masks]
        assert [int(mask.sum()) for mask in masks] == kept_by_hand(scores, sparsity)
        for score, mask in zip(scores, masks):
            assert score[mask].min() > max(score[~mask], default=-1.0)


@pytest.mark.parametrize("pattern", ["n_of_m", "channel", tc.Block((1, 4))])
def test_units_of_patterns_are_ranked_within_their_kernel(pattern):
    prune = tc.PruneWeights(0.5, pattern=pattern, filters="dense_[01]")
    zeros = zeros_after(model_of(1.0, 3.0, 1.0), prune)
    assert set(zeros[:2]) == {0.5}


def test_a_pattern_is_ranked_together_where_that_is_asked_for():
    prune = tc.PruneWeights(0.5, pattern=tc.Block((1, 4)), scope="global")
    small, large = zeros_after(model_of(1.0, 3.0), prune)
    assert small > large


def test_a_kernel_without_a_weight_is_named():
    with pytest.warns(tc.CompressionWarning, match=r"no weight is left in .*dense_0"):
        zeros = zeros_after(model_of(1e-6, 1.0), tc.PruneWeights(0.6, scope="global"))
    assert zeros[0] == 1.0


@pytest.mark.parametrize(
    "options",
    [{}, {"scope": "layer"}, {"scope": "global", "criterion": "lamp"}],
)
def test_what_the_warning_advises_leaves_weights(options, recwarn):
    assert max(zeros_after(model_of(1e-6, 1.0), tc.PruneWeights(0.6, **options))) < 1.0
    assert not [w for w in recwarn if "no weight is left" in str(w.message)]
