"""For every way channels can flow: what shrink builds computes the right thing."""

import keras
import numpy as np
import pytest

from tests.restructuring.zoo import MIXING, ZOO, make
from tfcompress.channels.dependencies import analyse
from tfcompress.channels.shrink import shrink
from tfcompress.channels.surgery import remove
from tfcompress.layers import macs


def some_channels(dependencies, share=0.5, seed=0):
    """Picks classes to remove from every group that can lose some."""
    rng = np.random.default_rng(seed)
    return {
        int(member)
        for group in dependencies.groups
        if not group.fixed
        for member in rng.choice(
            group.members, int(group.channels * share), replace=False
        )
    }


def silence(dependencies, classes, roles):
    """Sets the weights of channels to zero at the sites of these roles."""
    for site in dependencies.sites:
        if site.role in roles and "moving" not in site.variable.path:
            shape = [1] * len(site.variable.shape)
            shape[site.axis] = -1
            kept = ~np.isin(dependencies.roots[site.ids], sorted(classes))
            site.variable.assign(site.variable * kept.reshape(shape))


def call(model, inputs):
    return np.concatenate(
        [
            keras.ops.convert_to_numpy(y).ravel()
            for y in keras.tree.flatten(model(inputs))
        ]
    )


@pytest.mark.parametrize("name", sorted(set(ZOO) - MIXING))
def test_removed_channels_are_channels_that_nobody_reads(name):
    model, inputs = make(name)
    before = call(model, inputs)
    dependencies = analyse(model)
    gone = some_channels(dependencies)
    assert len(gone) > 2
    smaller = remove(dependencies, gone)
    assert smaller.count_params() < model.count_params()
    np.testing.assert_array_equal(call(model, inputs), before)  # untouched

    # What keras.ops contract has no weights that read it.
    weightless = name == "hand_made_attention"
    silence(
        dependencies, gone, {"input", "output", "channel"} if weightless else {"input"}
    )
    np.testing.assert_allclose(call(smaller, inputs), call(model, inputs), atol=1e-5)
    assert np.abs(call(smaller, inputs) - before).max() > 1e-3


@pytest.mark.parametrize("name", sorted(ZOO))
def test_shrinking_zeroed_channels_changes_nothing(name):
    model, inputs = make(name)
    dependencies = analyse(model)
    gone = some_channels(dependencies) - dependencies.mixed
    # Channels that contractions of keras.ops mix cannot go exactly.
    silence(dependencies, gone, {"output", "channel", "input"})
    before = call(model, inputs)
    smaller = shrink(model)
    np.testing.assert_allclose(call(smaller, inputs), before, atol=1e-5)
    removed = {c for g in analyse(smaller).groups for c in g.members}
    total = sum(g.channels for g in dependencies.groups)
    assert len(gone) > 0
    assert len(removed) == total - len(gone)


HALVED = ["dense_blocks", "encoder_decoder", "grouped_many", "residual", "siamese"]


@pytest.mark.parametrize("name", sorted(MIXING) + HALVED)
def test_half_of_the_channels_go(name):
    model, inputs = make(name)
    smaller = shrink(model, sparsity=0.5, round_to=1)
    assert [t.shape for t in smaller.outputs] == [t.shape for t in model.outputs]
    assert macs(smaller) < 0.75 * macs(model)
    assert np.isfinite(call(smaller, inputs)).all()
    # Whatever is left is again a model that can be shrunk.
    count = sum(g.channels for g in analyse(model).groups if not g.fixed)
    left = sum(g.channels for g in analyse(smaller).groups if not g.fixed)
    assert abs(left - count / 2) <= 0.05 * count + 1


@pytest.mark.parametrize("name", ["plain", "both_directions", "transformer"])
def test_a_shrunk_model_trains_and_saves(name, tmp_path):
    model, inputs = make(name)
    smaller = shrink(model, sparsity=0.5, round_to=1)
    targets = np.ones((3, *smaller.output.shape[1:]))
    smaller.compile("sgd", "mse")
    first = smaller.train_on_batch(inputs, targets)
    assert smaller.train_on_batch(inputs, targets) < first
    smaller.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(call(again, inputs), call(smaller, inputs), atol=1e-6)
