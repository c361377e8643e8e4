"""Masks keep exactly the largest scores, against a NumPy sort."""

import numpy as np
import pytest
from keras import ops

from tfcompress.pruning.masks import global_masks, kept_count, layer_masks, top_masks


def largest(values, keep):
    """The reference: a stable sort, so that the first of equal values win."""
    order = np.argsort(-values.reshape(-1), kind="stable")[:keep]
    mask = np.zeros(values.size, bool)
    mask[order] = True
    return mask.reshape(values.shape)


@pytest.mark.parametrize("keep", [0, 1, 2, 37, 119, 120])
@pytest.mark.parametrize("kind", ["normal", "heavy tail", "few values", "constant"])
def test_mask_equals_a_sort(rng, kind, keep):
    values = {
        "normal": rng.normal(size=(10, 12)),
        "heavy tail": 10.0 ** rng.uniform(-30, 5, (10, 12)),
        "few values": rng.integers(0, 3, (10, 12)).astype(float),
        "constant": np.full((10, 12), 0.5),
    }[kind].astype("float32")
    (mask,) = top_masks([ops.array(values)], ops.array(keep, "int32"))
    np.testing.assert_array_equal(mask, largest(values, keep))


@pytest.mark.parametrize("near", [(0.4, 0.5), (-1.0, 0.1), (2.0, np.inf), (0.0, 9.0)])
def test_where_a_search_begins_does_not_change_what_it_finds(rng, near):
    values = rng.uniform(size=(10, 12)).round(2).astype("float32")
    near = [ops.array(end, "float32") for end in near]
    for keep in (0, 1, 37, 60, 119, 120):
        (mask,) = top_masks([ops.array(values)], ops.array(keep, "int32"), near)
        np.testing.assert_array_equal(mask, largest(values, keep))


def test_global_masks_rank_all_tensors_together(rng):
    values = [rng.normal(size=n).astype("float32") for n in (40, 70, 10)]
    masks = global_masks([ops.array(v) for v in values], 0.75)
    expected = largest(np.concatenate(values), 30)
    np.testing.assert_array_equal(np.concatenate(masks), expected)


def test_equal_scores_across_tensors_are_kept_in_order():
    masks = global_masks([ops.ones((4,)), ops.ones((4,))], 0.25)
    assert [m.numpy().tolist() for m in masks] == [
        [True] * 4,
        [True, True] + 2 * [False],
    ]


def test_layer_masks_treat_each_tensor_alone(rng):
    values = [rng.normal(size=100).astype("float32") * scale for scale in (1, 1000)]
    masks = layer_masks([ops.array(v) for v in values], 0.8)
    assert [int(np.sum(m)) for m in masks] == [20, 20]


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"), [(10, 0.0, 10), (10, 0.75, 2), (3, 0.999, 1)]
)
def test_at_least_one_weight_is_kept(size, sparsity, kept):
    assert int(kept_count(size, sparsity)) == kept
