"""Calibration: integers from a trained model and a few hundred inputs, no training."""

import collections

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import CompressionWarning, InvalidArgumentError, calibrate
from tfcompress.core.graph import build, trace
from tfcompress.quantization.calibration.float_run import run_in_float
from tfcompress.quantization.calibration.folding import equalize, fold_batch_norms
from tfcompress.quantization.calibration.observers import (
    OBSERVERS,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
)
from tfcompress.quantization.calibration.rounding import adaptive_rounding, best_steps
from tfcompress.quantization.quantize import quantize_aware


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)

    def norm():
        return layers.BatchNormalization(momentum=0.8)

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv"),
            norm(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, use_bias=False, name="depthwise"),
            norm(),
            layers.ReLU(),
            layers.Conv2D(24, 1, use_bias=False, name="point"),
            norm(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss)
    x, y = digits
    model.fit(x[:1200], y[:1200], epochs=6, verbose=0)
    return model


def error(model, reference, x):
    """Returns the mean squared difference of two models' outputs, scaled."""
    expected = reference(x).numpy()
    return float(np.mean((model(x).numpy() - expected) ** 2) / np.var(expected))


@pytest.mark.export
def test_the_file_is_right_and_close_to_the_float_model(trained, digits, tmp_path):
    x, y = digits
    final = tfcompress.finalize(calibrate(trained, x[:200]))
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    found = tfcompress.verify(artifact, final, x[1200:])
    assert found.max_error_steps <= 1.001
    assert artifact.integer_coverage == 1.0
    right = [
        (m(x[1200:]).numpy().argmax(-1) == y[1200:]).mean() for m in (trained, final)
    ]
    assert right[0] - right[1] <= 0.005
    assert error(final, trained, x[1200:]) < 0.01


def test_adaptive_rounding_beats_the_nearest_value_at_four_bits(trained, digits):
    x, _ = digits
    errors = {
        rounding: error(
            calibrate(trained, x[:200], "w4a8", rounding=rounding, correct_bias=False),
            trained,
            x[1200:],
        )
        for rounding in ("nearest", "adaptive")
    }
    assert errors["adaptive"] < 0.8 * errors["nearest"]


def test_bias_correction_keeps_the_mean_of_every_channel(trained, digits):
    x, _ = digits
    expected = trained(x[:200]).numpy().mean(axis=0)
    off = {}
    for correct in (False, True):
        model = calibrate(
            trained, x[:200], "w4a8", rounding="nearest", correct_bias=correct
        )
        off[correct] = np.abs(model(x[:200]).numpy().mean(axis=0) - expected).max()
    assert off[True] < 0.1 * off[False]


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_a_batch_passes_each_layer_as_often_in_a_deep_model(scheme, monkeypatch, rng):
    counts = collections.Counter()
    own = layers.Dense.call

    def call(self, inputs, *args, **kwargs):
        if hasattr(inputs, "numpy"):
            counts[self.name] += 1
        return own(self, inputs, *args, **kwargs)

    monkeypatch.setattr(layers.Dense, "call", call)
    x = rng.normal(size=(128, 4)).astype("float32")
    for depth in (2, 5):
        counts.clear()
        dense = [layers.Dense(4, "relu", name=f"d{i}") for i in range(depth)]
        calibrate(keras.Sequential([keras.Input((4,)), *dense]), x, scheme)
        # To see that the data fit, once. For each of two batches, in float: for the
        # ends of ranges, for histograms and the mean without activation; in integers:
        # for that mean, and for what is behind.
        assert [counts[f"d{i}"] for i in range(depth - 1)] == [1 + 2 * 5] * (depth - 1)
        assert counts[f"d{depth - 1}"] == 1 + 2 * 4


def test_progress_is_shown_if_it_is_asked_for(trained, digits, capsys):
    x, _ = digits
    calibrate(trained, x[:100])
    assert capsys.readouterr().out == ""
    calibrate(trained, x[:100], verbose=1)
    assert "8/8" in capsys.readouterr().out  # two passes of two batches, four layers


def test_the_model_can_be_trained_on(trained, digits):
    x, y = digits
    before = trained.get_weights()
    model = calibrate(trained, x[:100])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    history = model.fit(x[:400], y[:400], epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]
    assert all(map(np.array_equal, before, trained.get_weights()))


def test_folding_and_equalizing_change_no_output(trained, digits):
    x, _ = digits
    graph = fold_batch_norms(_with_weights(quantize_aware(trained)))
    even = equalize(graph)
    for changed in (graph, even):
        model = build(changed)
        assert not any(isinstance(x, layers.BatchNormalization) for x in model.layers)
        np.testing.assert_allclose(_in_float(model, x[:50]), trained(x[:50]), atol=2e-4)
    kernels = [
        build(even).get_layer(name).layer.kernel.numpy()
        for name in ("conv", "depthwise")
    ]
    made = np.abs(kernels[0]).max(axis=(0, 1, 2))
    assert len(np.unique(made.round(5))) > 1
    point = build(even).get_layer("point").layer.kernel.numpy()
    np.testing.assert_allclose(
        np.abs(kernels[1]).max(axis=(0, 1, 3)), np.abs(point).max(axis=(0, 1, 3)), 1e-4
    )


def _in_float(model, x):
    graph = trace(model)
    run = run_in_float(model, graph, [x], {}, lambda layer, value: None)
    return next(run)[graph.outputs]


def _with_weights(model):
    import dataclasses

    graph = trace(model)
    return dataclasses.replace(
        graph,
        nodes=[
            dataclasses.replace(
                n, weights=getattr(n.operation, "layer", n.operation).get_weights
            )
            for n in graph.nodes
        ],
    )


def test_best_steps_clip_where_that_helps():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(500, 2))
    matrix[0, 0] = 12.0
    steps = best_steps(matrix, 7, np.ones(500))
    assert steps[0] < 0.6 * 12.0 / 7
    np.testing.assert_array_less(steps[1], np.abs(matrix[:, 1]).max() / 7 + 1e-9)


def test_adaptive_rounding_against_trying_everything():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    matrix = rng.normal(size=(6, 1))
    step = np.array([0.4])
    gram = x.T @ x / len(x)

    def loss(rounded):
        return float(np.mean((x @ (rounded - matrix)) ** 2))

    down = np.floor(matrix / step)
    ways = [down + np.array(bits)[:, None] for bits in np.ndindex(*[2] * 6)]
    losses = sorted(loss(way * step) for way in ways)
    found = loss(adaptive_rounding(matrix, gram, step, 7))
    nearest = loss(np.round(matrix / step) * step)
    assert found < nearest
    assert found <= losses[3]


def test_pruned_weights_stay_pruned(trained, digits):
    x, _ = digits
    model = keras.models.clone_model(trained)
    weights = trained.get_weights()
    weights[-2] = np.where(np.abs(weights[-2]) < 0.2, 0, weights[-2])
    model.set_weights(weights)
    kernel = calibrate(model, x[:100], "w4a8").get_layer("logits").layer.kernel.numpy()
    assert np.all(kernel[weights[-2] == 0] == 0)


@pytest.mark.parametrize("name", OBSERVERS.names())
def test_observers_on_a_bell_with_an_outlier(name):
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=20000), 40.0)
    counts, edges = np.histogram(values, 2048)
    low, high = OBSERVERS.get(name).range_of(counts, edges, 4)
    assert low < -2
    expected = {"min_max": (39.9, 40.1), "percentile": (3.2, 4.5), "mse": (2.0, 15.0)}
    assert expected[name][0] < high < expected[name][1]


def test_observers_are_serializable():
    for observer in (MinMaxObserver(), PercentileObserver(99.0), MSEObserver()):
        config = keras.saving.serialize_keras_object(observer)
        again = OBSERVERS.get(config)
        assert type(again) is type(observer)
        assert again.get_config() == observer.get_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((0, 8, 8, 1), "float32")}, "`data` is empty"),
        ({"data": np.zeros((4, 5, 5, 3), "float32")}, "wrong shape.*5, 5, 3.*8, 8, 1"),
        ({"data": np.full((4, 8, 8, 1), np.nan, "float32")}, "not finite.*256 NaN"),
        ({"data": iter([np.zeros((4, 8, 8, 1))])}, "read only once"),
        ({"observer": "max"}, "Unknown observer.*'min_max'"),
        ({"rounding": "up"}, "'adaptive', 'adaround', 'brecq', 'nearest'"),
        ({"scheme": "w3"}, "Unknown quantization scheme"),
    ],
)
def test_bad_input(trained, digits, change, message):
    arguments = {"data": digits[0][:20], **change}
    with pytest.raises(InvalidArgumentError, match=f"(?s){message}"):
        calibrate(trained, **arguments)


def test_data_that_are_all_zero_are_named(trained):
    with pytest.warns(CompressionWarning, match="Always zero.*image"):
        calibrate(trained, np.zeros((8, 8, 8, 1), "float32"))


def _two_layers():
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(8, "relu", name="hidden")
    return keras.Sequential(
        [keras.Input((6,), name="volts"), hidden, layers.Dense(3, name="head")]
    )


def test_numbers_without_a_scale_are_told(rng):
    # LiteRT's scales end at 1e-6 / 255: these inputs became one number, without a word.
    data = rng.normal(size=(64, 6)).astype("float32")
    calibrate(_two_layers(), 1e-5 * data)  # nothing is said
    with pytest.warns(
        CompressionWarning, match=r"no scale.*volts \(a range of [\d.]+e-08"
    ):
        aware = calibrate(_two_layers(), 1e-8 * data)
    with pytest.warns(CompressionWarning, match="no scale.*volts"):
        tfcompress.finalize(aware)
    model = _two_layers()
    model.get_layer("hidden").kernel.assign(1e-8 * model.get_layer("hidden").kernel)
    with pytest.warns(CompressionWarning, match=r"hidden \(weights up to [\d.]+e-09"):
        calibrate(model, data)


def test_zeros_that_no_data_could_change_are_not_told(rng):
    model = keras.Sequential([keras.Input((5, 4)), layers.GRU(3), layers.Dense(2)])
    calibrate(model, rng.normal(size=(32, 5, 4)).astype("float32"))


def test_what_kernels_cut_off_is_told(rng):
    # LiteRT's log_softmax ends at -15.9, whatever the model computes.
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "log_softmax", kernel_initializer="ones", name="scores"),
        ]
    )
    kernel = rng.normal(size=(6, 5)).astype("float32")
    data = rng.normal(size=(64, 6)).astype("float32")
    model.layers[-1].kernel.assign(kernel)
    calibrate(model, data)  # all above: nothing is said
    model.layers[-1].kernel.assign(20 * kernel)
    with pytest.warns(CompressionWarning, match=r"cut off.* scores \(-\d+ to 0, kern"):
        calibrate(model, data)
