"""What composes keeps what each part made: each pair of techniques, in both orders."""

import functools
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress
from tests.flow import pairs
from tests.flow.pairs import FIRSTS, OUTCOMES, TECHNIQUES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "pairs.md"
# Those that cost a fit come with the slow tests.
QUICK = {"shrink", "factorize", "reconstruct", "calibrate w8a8", "finalize"}
QUICK_FIRSTS = {"prune 2:4", "cluster", "shrink", "factorize", "calibrate w8a8"}


@functools.cache
def made(first):
    return TECHNIQUES[first].apply(pairs.network())


def cases():
    for first in FIRSTS:
        for second in TECHNIQUES:
            quick = first in QUICK_FIRSTS and second in QUICK
            yield pytest.param(first, second, marks=() if quick else pytest.mark.slow)


@pytest.mark.sweep(15)
@pytest.mark.parametrize(("first", "second"), list(cases()))
def test_what_the_first_made_is_kept_or_it_is_said(first, second):
    expected, words = OUTCOMES.get((first, second), ("kept", ""))
    outcome = pairs.outcome(first, second, made(first))
    assert outcome.partition(":")[0] == expected, outcome
    assert re.search(words, outcome), outcome


def test_the_document_shows_the_outcomes():
    assert pairs.table() in DOCUMENT.read_text(encoding="utf-8")


def integers_of(path):
    from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

    return [
        np.asarray(values)
        for tensor, values in TFLiteFile.open(path).weights()
        if tensor.info.dtype in ("int8", "int4") and len(tensor.info.shape) > 1
    ]


@pytest.mark.export
@pytest.mark.parametrize("second", ["quantize_aware w8a8", "calibrate w4a8"])
def test_a_file_holds_as_many_integers_as_there_are_clusters(second, tmp_path):
    model = made("cluster")
    before = [tfcompress.ClusterWeights(pairs.CLUSTERS)]
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    final = tfcompress.finalize(TECHNIQUES[second].apply(copy, *before))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    assert tfcompress.verify(artifact, final, pairs.X).passed
    kernels = integers_of(artifact.path)
    assert len(kernels) == 3
    assert all(len(np.unique(k[k != 0])) <= pairs.CLUSTERS for k in kernels)


def test_batch_normalization_behind_clusters_is_named():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, name="conv"),
            keras.layers.BatchNormalization(),
        ]
    )
    kernel, *rest = model.layers[0].get_weights()
    model.layers[0].set_weights([np.sign(kernel) * 0.1, *rest])
    with pytest.warns(tfcompress.CompressionWarning, match=r"scales every.*: conv\."):
        aware = tfcompress.quantize_aware(model)
    assert aware.get_layer("conv").one_scale is None


def test_a_wrapper_that_shares_a_scale_is_saved_with_it(tmp_path):
    model = made("cluster")
    aware = tfcompress.quantize_aware(model, "w4a8")
    assert {layer.one_scale for layer in aware.layers if hasattr(layer, "states")} == {
        ("kernel",)
    }
    aware.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(aware(pairs.X), again(pairs.X))


# Keras warns of the input layer, which has nothing to quantize.
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not")
@pytest.mark.sweep(1)
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_keras_own_integers_are_refused_by_name(mode, tmp_path):
    model = pairs.network()
    model.quantize(mode)
    for call in (
        lambda: tfcompress.export(model, tmp_path / "m.tflite"),
        lambda: tfcompress.calibrate(model, pairs.X),
        lambda: tfcompress.shrink(model, 0.5),
    ):
        with pytest.raises(tfcompress.CompressionError, match=rf"first \({mode}\)"):
            call()
    assert list(tmp_path.iterdir()) == []
