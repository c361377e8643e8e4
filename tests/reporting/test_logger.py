"""CompressionLogger: figures that are right, and arrive where one looks at them."""

import csv

import keras
import numpy as np
import pytest

from tfcompress import (
    ClusterWeights,
    ConstantSparsity,
    Distiller,
    PruneWeights,
    quantize_aware,
)
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.reporting import CompressionLogger, Report, Row
from tfcompress.reporting.evidence import Evidence

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.arange(64) % 3


def small(name="small"):
    layers = [keras.Input((8,)), L.Dense(16, name="first"), L.Dense(3, name="last")]
    model = keras.Sequential(layers, name=name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


def fit(model, *callbacks, epochs=2):
    return model.fit(
        X, Y, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks)
    ).history


def scalars(folder):
    """Returns what TensorBoard reads from its files: tag -> values by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder))
    events.Reload()
    read = tensor_util.make_ndarray
    return {
        tag: [float(read(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_sparsity_reaches_tensorboard_and_csv(tmp_path):
    table = tmp_path / "log.csv"
    history = fit(
        small(),
        PruneWeights(ConstantSparsity(0.75, frequency=1), scope="layer"),
        CompressionLogger(),
        keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False),
        keras.callbacks.CSVLogger(table),
    )
    assert history["sparsity"] == [0.75, 0.75]
    found = scalars(tmp_path / "board" / "train")
    names = [name for name in history if name.startswith("sparsity")]
    assert [name.split("/")[-2:] for name in names] == [
        ["sparsity"],
        ["first", "kernel"],
        ["last", "kernel"],
    ]
    for name in names:
        assert history[name] == [0.75, 0.75]
        assert found[f"epoch_{name}"] == [0.75, 0.75]
    assert found["epoch_loss"] == pytest.approx(history["loss"])
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sparsity"]) for row in rows] == [0.75, 0.75]


def test_values_of_codebooks():
    history = fit(small(), ClusterWeights(4), CompressionLogger())
    values = [v for name, v in history.items() if name.startswith("values/")]
    assert len(values) == 2
    assert all(one[-1] <= 4 for one in values)
    free = fit(small(), CompressionLogger())
    assert not any(name.startswith("values/") for name in free)


def test_ranges_of_quantization_in_a_distiller():
    student = quantize_aware(small(), "w8a8")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = Distiller(
        small("teacher"), student, keras.distillation.LogitsDistillation()
    )
    distiller.compile("sgd", loss)
    history = fit(distiller, CompressionLogger())
    lows = [name for name in history if name.startswith("low/")]
    assert len(lows) >= 2
    for name in lows:
        low, high = history[name][-1], history["high/" + name[4:]][-1]
        assert low <= 0 <= high
        assert low < high
    # The range of the inputs is that of the data.
    first = history[lows[0]][-1]
    assert first == pytest.approx(X.min(), abs=0.6)
    assert not any("teacher" in name for name in history)


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_progress_line_has_the_total_only(capsys, verbose):
    prune = PruneWeights(ConstantSparsity(0.75, frequency=1), scope="layer")
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: seen.append(logs)
    )
    model = quantize_aware(small(), "w8a8")
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = [prune, CompressionLogger(), watch]
    history = model.fit(X, Y, epochs=2, verbose=verbose, callbacks=callbacks).history
    printed = capsys.readouterr().out
    assert printed.count("Epoch 2/2") == 1
    assert printed.count(" - sparsity: 0.7500") == 2
    assert "- loss: " in printed
    assert not any(f"{kind}/" in printed for kind in ("sparsity", "low", "high"))
    layers = [name for name in history if "/" in name]
    assert len(layers) >= 4
    assert all(len(history[name]) == 2 for name in layers)
    assert set(layers) <= set(seen[0])


def test_figures_may_be_measured_less_often():
    prune = PruneWeights(ConstantSparsity(0.5, begin_step=3, frequency=1))
    history = fit(small(), prune, CompressionLogger(every=2), epochs=4)
    assert history["sparsity"] == [0.0, 0.5, 0.5, 0.5]
    for every in (0, 1.5):
        with pytest.raises(InvalidArgumentError, match="Received: " + str(every)):
            CompressionLogger(every=every)


def test_its_curves_are_one_figure(tmp_path):
    history = fit(small(), CompressionLogger())
    made = Report((Row("m", "keras", 4, 3),), Evidence.of({"history": history}))
    page = made.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<figure id="history"' in page
    # One panel has the kernels, one their mean, one the loss.
    assert page.count(">sparsity</text>") == 1
    assert page.count(">sparsity, by layer</text>") == 1
