"""Reconstruction: kernels learn their integers by what their block puts out."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import (
    BRECQ,
    AdaRound,
    CompressionWarning,
    QuantizationScheme,
    UniformQuantizer,
    calibrate,
)
from tfcompress.core import sweep as sweeps
from tfcompress.core.graph import trace
from tfcompress.quantization.calibration.reconstruction import learning, reconstruct
from tfcompress.quantization.calibration.reconstruction.blocks import (
    regions,
    single_layers,
)
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.quantization.wrapper import QuantizedLayer

FEW = {"steps": 60, "batch_size": 16}


def chain():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12,), name="x"),
            layers.Dense(16, "relu", name="a"),
            layers.Dense(6, name="b"),
        ]
    )


def inputs_for(count=96, width=12):
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(count, 4)) @ generator.normal(size=(4, width))
    return mixed.astype("float32")


def off(model, reference, x):
    return float(np.mean((model(x).numpy() - reference(x).numpy()) ** 2))


def kernels(model):
    return [
        layer.rounded_weights()[0]
        for layer in model.layers
        if isinstance(layer, QuantizedLayer)
    ]


@pytest.mark.parametrize(("scheme", "share"), [("w4a8", 0.9), ("w2a8", 0.75)])
def test_learned_rounding_beats_the_nearest(scheme, share):
    model = chain()
    x = np.random.default_rng(1).normal(size=(256, 12)).astype("float32")
    errors = [
        off(calibrate(model, x[:128], scheme, rounding=way), model, x[128:])
        for way in ("nearest", "gptq", AdaRound(800))
    ]
    assert errors[2] < share * errors[0]
    assert errors[2] < share * errors[1]


@pytest.mark.parametrize(
    ("method", "scheme"),
    [
        (AdaRound, "w2a8"),
        (BRECQ, "w4a8"),
        (AdaRound, QuantizationScheme(UniformQuantizer(3))),
    ],
    ids=["ternary", "learned_step", "uniform"],
)
def test_kernels_end_on_their_grid_so_the_file_is_exact(method, scheme):
    model, x = chain(), inputs_for()
    aware = calibrate(model, x, scheme, rounding=method(400))
    for layer in aware.layers:
        if isinstance(layer, QuantizedLayer):
            own = layer.layer.kernel.numpy()
            np.testing.assert_allclose(layer.rounded_weights()[0], own, rtol=1e-5)
    step = aware.layers[-1].step()
    final = tfcompress.finalize(aware)
    assert np.abs(final(x).numpy() - aware(x).numpy()).max() <= 1.001 * step


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path, monkeypatch):
    model, x = chain(), inputs_for()
    whole = calibrate(model, x, "w4a8", rounding=BRECQ(**FEW)).get_weights()
    kept = BRECQ(**FEW, directory=tmp_path)
    own, done = learning.Learning.learn, []

    def dies_in_the_second(self, samples):
        if done:
            raise KeyboardInterrupt
        done.append(self.block.name)
        own(self, samples)

    monkeypatch.setattr(learning.Learning, "learn", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, x, "w4a8", rounding=kept)
    assert done == ["a"]
    assert len([*tmp_path.iterdir()]) == 1
    done.clear()
    resumed = calibrate(model, x, "w4a8", rounding=kept).get_weights()
    assert done == ["b"]
    assert all(map(np.array_equal, whole, resumed))
    (tmp_path / next(tmp_path.iterdir()).name).write_bytes(b"damaged")
    monkeypatch.setattr(learning.Learning, "learn", own)
    assert all(
        map(
            np.array_equal,
            whole,
            calibrate(model, x, "w4a8", rounding=kept).get_weights(),
        )
    )


def test_what_gets_no_better_stays_as_gptq_rounds_it(monkeypatch):
    model, x = chain(), inputs_for()
    expected = calibrate(model, x, "w4a8", rounding="adaptive").get_weights()
    spoil = learning.Learning.errors
    monkeypatch.setattr(
        learning.Learning,
        "errors",
        lambda self, samples, mode: spoil(self, samples, mode) + (mode == "hard"),
    )
    found = calibrate(model, x, "w4a8", rounding=AdaRound(**FEW)).get_weights()
    assert all(map(np.array_equal, expected, found))


def test_a_shared_layer_learns_from_all_of_its_calls():
    keras.utils.set_random_seed(0)
    x, shared = keras.Input((8,)), layers.Dense(8, "relu", name="shared")
    model = keras.Model(x, layers.Dense(4, name="head")(shared(shared(x))))
    data = inputs_for(width=8)
    graph = trace(quantize_aware(model, "w4a8"))
    learns = reconstruct.learns
    for found, calls in (
        (single_layers(graph, learns), 2),
        (regions(graph, learns), 2),
    ):
        operations = [graph.nodes[place].operation.name for place in found[0].positions]
        assert operations.count("shared") == calls
        assert [block.name for block in found] == ["shared", "head"]
    for method in (AdaRound, BRECQ):
        aware = calibrate(model, data, "w4a8", rounding=method(100))
        plain = calibrate(model, data, "w4a8")
        assert off(aware, model, data) < off(plain, model, data)


def residual():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.ReLU()(x)  # a block that begins with no kernel
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="deep")(y)
    y = layers.Conv2D(4, 1, name="point")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2DTranspose(2, 2, strides=2, name="up")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


def test_a_block_is_what_lies_between_single_paths():
    graph = trace(quantize_aware(residual(), "w4a8"))
    found = regions(graph, reconstruct.learns)
    assert [[layer.name for layer in block.layers] for block in found] == [
        ["stem"],
        ["deep", "point"],
        ["up"],
        ["head"],
    ]
    assert all(len(block.inputs) == len(block.outputs) == 1 for block in found)
    single = single_layers(graph, reconstruct.learns)
    assert [block.name for block in single] == ["stem", "deep", "point", "up", "head"]


def test_only_what_flows_into_one_block_is_held(monkeypatch):
    held, own = [], sweeps.Sweep._advance

    def counted(self, position):
        own(self, position)
        tensors = {t for values in self._held for t in values()}
        held.append(len(tensors))

    monkeypatch.setattr(sweeps.Sweep, "_advance", counted)
    deep = [layers.Dense(8, "relu", name=f"d{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((8,)), *deep])
    calibrate(model, inputs_for(width=8), "w4a8", rounding=BRECQ(1, 16))
    assert max(held) == 1


@pytest.mark.slow
def test_recurrent_and_attention_layers_learn():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = layers.Add()([x, inputs])
    model = keras.Model(inputs, layers.LSTM(4, name="lstm")(x))
    data = np.random.default_rng(0).normal(size=(48, 4, 6)).astype("float32")
    plain = calibrate(model, data, "w4a8")
    aware = calibrate(model, data, "w4a8", rounding=BRECQ(150, 16))
    assert off(aware, model, data) < off(plain, model, data)


def test_what_cannot_learn_is_named_once():
    model, x = chain(), inputs_for()
    with pytest.warns(CompressionWarning, match="nothing to reconstruct"):
        calibrate(model, x, "w8a8", rounding="adaround")
    with pytest.warns(CompressionWarning, match=r"learn nothing: a \(BinaryQuant"):
        calibrate(model, x, {"a": "w1a8", "b": "w4a8"}, rounding=AdaRound(**FEW))


def test_zeros_stay_zero_and_codes_stay_shared():
    model, x = chain(), inputs_for()
    kernel = model.get_layer("a").kernel
    kernel.assign(np.where(np.abs(kernel) < 0.15, 0.0, kernel))
    model.get_layer("b").kernel.assign(
        np.random.default_rng(0).choice([-0.7, 0.1, 0.4], (16, 6))
    )
    with pytest.warns(CompressionWarning, match=r"b \(its weights share values\)"):
        aware = calibrate(model, x, "w4a8", rounding=AdaRound(**FEW))
    first, second = kernels(aware)
    assert not first[kernel.numpy() == 0].any()
    assert len(np.unique(second)) <= 3
