"""Recipes carried out: what a stage reached is still there at the end."""

import importlib.util

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress import Recipe
from tfcompress.compression.pipeline import carry_out
from tfcompress.compression.stages import (
    Cluster,
    Distil,
    Factorize,
    Fit,
    Prune,
    Quantize,
    QuantizeFile,
    Shrink,
)
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.quantization.integers.storage import largest_integers


def kernels_in(path):
    file = TFLiteFile.open(path)
    return [
        np.frombuffer(op.inputs[1].constant, "int8")
        for op in file.operators
        if op.name == "FULLY_CONNECTED"
    ]


@pytest.fixture(scope="module")
def everything(trained, data, tmp_path_factory):
    from tfcompress.compression.task import Task

    task = Task(trained, *data, batch_size=64)
    recipe = Recipe(
        (
            Distil(),
            Prune(0.7),
            Fit(2),
            Quantize(granularity="tensor"),
            Cluster(8),
            Fit(1, 0.3),
        )
    )
    cache = tmp_path_factory.mktemp("cache")
    model, history = carry_out(recipe, task, cache)
    return task, recipe, cache, model, history


@pytest.mark.export
def test_zeros_and_shared_values_reach_the_file_through_all_later_fits(
    everything, tmp_path
):
    task, _, _, model, history = everything
    artifact = tfcompress.export(model, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    kernels = kernels_in(artifact.path)
    assert len(kernels) == 3
    assert all(len(np.unique(kernel)) <= 8 for kernel in kernels)
    zeros = sum(int(np.sum(kernel == 0)) for kernel in kernels)
    assert zeros / sum(kernel.size for kernel in kernels) >= 0.7
    assert len(history["loss"]) == 3
    assert task.evaluate(tfcompress.load(artifact))["accuracy"] > 0.6


def test_what_was_trained_is_not_trained_again(everything, monkeypatch):
    task, recipe, cache, model, history = everything
    monkeypatch.setattr(type(task), "fit", lambda *_: pytest.fail("a fit"))
    again, logs = carry_out(recipe, task, cache)
    assert logs == history
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_model_that_was_given_stays_as_it_is(task, tmp_path):
    before = task.model.get_weights()
    optimizer = task.model.optimizer
    small, _ = carry_out(Recipe((Fit(1),)), task, tmp_path)
    assert any(not np.array_equal(a, b) for a, b in zip(before, small.get_weights()))
    for one, other in zip(before, task.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert task.model.optimizer is optimizer


def test_stages_that_change_the_structure(task, tmp_path):
    recipe = Recipe((Shrink(sparsity=0.5), Factorize(rank=4, filters="second")))
    small, history = carry_out(recipe, task, tmp_path)
    assert small.get_layer("first").units == 24
    assert small.get_layer("second_reduced").units == 4
    assert history == {}


def test_seeds_of_the_process_go_on_as_they_were(task, tmp_path):
    np.random.seed(4)
    expected = np.random.rand()
    np.random.seed(4)
    carry_out(Recipe((Shrink(sparsity=0.5, criterion="random"),)), task, tmp_path)
    assert np.random.rand() == expected


def test_a_teacher_without_a_loss_for_it_is_said(data, tmp_path):
    from tfcompress.compression.task import Task

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, "exponential")])
    model.compile("sgd", "poisson")
    task = Task(model, *data)
    with pytest.raises(InvalidArgumentError, match="has no loss for the outputs"):
        carry_out(Recipe((Distil(), Fit(1))), task, tmp_path)


def test_kernels_with_fewer_weights_than_values_are_left_alone(task, tmp_path):
    # The last layer has 64 weights.
    model, _ = carry_out(Recipe((Cluster(100), Fit(1))), task, tmp_path)
    counts = {
        name: len(np.unique(model.get_layer(name).kernel))
        for name in ("first", "second", "logits")
    }
    assert counts == {"first": 100, "second": 100, "logits": 64}


@pytest.mark.export
def test_a_recipe_ends_with_the_file(trained, data, tmp_path):
    pytest.importorskip("litert_quantizer")
    recipe = Recipe((Prune(0.5), Fit(1), QuantizeFile(samples=50)), name="of the file")
    budget = tfcompress.Budget(max_metric_drop=0.05)
    where = tfcompress.Search(directory=str(tmp_path), batch_size=64, verbose=0)
    result = tfcompress.compress(trained, *data, budget, recipe=recipe, search=where)
    artifact = result.artifact
    assert artifact.integer_coverage == 1.0
    assert result.met
    kernels = np.concatenate(kernels_in(artifact.path))
    assert 0.49 < np.mean(kernels == 0) < 0.6
    assert "quantize_file" in (result.best.folder / "recipe.yaml").read_text()
    assert "is what quantization costs" in result.best.verified


def test_a_missing_quantizer_is_told_before_the_training(task, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    recipe = Recipe((Fit(50), QuantizeFile()))
    told = []
    with pytest.raises(ExportError, match=r"tfcompress\[quantizer\]"):
        carry_out(recipe, task, tmp_path, told.append)
    assert told == []


def test_a_stage_chooses_bits_and_rounds_as_it_is_told(trained, data, tmp_path):
    from tfcompress.compression.task import Task

    most = int(0.8 * trained.count_params())
    stage = Quantize("w4a8", max_bytes=most, samples=64, rounding="gptq")
    model, _ = carry_out(
        Recipe((stage,)), Task(trained, *data, batch_size=64), tmp_path
    )
    kernels = [v.numpy() for v in model.weights if len(v.shape) > 1]
    coarse = [largest_integers(k, (k.ndim - 1,)).max() <= 7 for k in kernels]
    assert set(coarse) == {True, False}
    assert Recipe.from_text(Recipe((stage,)).to_yaml()) == Recipe((stage,))
    with pytest.raises(InvalidArgumentError, match="neither `keep` nor `filters`"):
        Quantize("w8a8", max_bytes=most)
