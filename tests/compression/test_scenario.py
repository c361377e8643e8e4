"""Scenarios: what is tried for which target and family, and what is said of it."""

import keras
import pytest
from keras import layers

import tfcompress
from tfcompress.compression.scenario import (
    FAMILIES,
    Scenario,
    considered,
    family_of,
    possible,
    scenario_of,
)
from tfcompress.compression.stages import Shrink
from tfcompress.core.errors import InvalidArgumentError


def token_model(*more):
    tokens = keras.Input((6,), dtype="int32")
    return keras.Sequential([tokens, *more, layers.GlobalAveragePooling1D()])


def attention():
    x = keras.Input((6, 8))
    return keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x))


MODELS = {
    "CNN": lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3)]),
    "depthwise": lambda: keras.Sequential(
        [keras.Input((8, 8, 2)), layers.Conv2D(4, 3), layers.DepthwiseConv2D(3)]
    ),
    "RNN": lambda: keras.Sequential([keras.Input((5, 3)), layers.LSTM(4)]),
    "transformer": attention,
    "embeddings": lambda: token_model(layers.Embedding(100, 8), layers.Dense(4)),
    "MLP": lambda: keras.Sequential([keras.Input((4,)), layers.Dense(8)]),
    "other": lambda: keras.Sequential([keras.Input((4,)), layers.ReLU()]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_told_by_what_holds_the_weights(family):
    assert family_of(MODELS[family]()) == family


def rules(target="tflite", family="CNN", costs=("packed_bytes",), teaches="logits"):
    return {
        c.technique: c for c in considered(Scenario(target, family, costs, teaches))
    }


def test_zeros_and_shared_values_are_for_packed_files_alone():
    assert rules()["prune"].tried
    assert rules()["cluster"].tried
    for costs in (("bytes",), ("latency_ms",)):
        found = rules(costs=costs)
        assert not found["prune"].tried
        assert not found["cluster"].tried
        assert "packed files" in found["prune"].why


def test_an_npu_unpacks_weights_itself():
    found = rules("ethos_u", costs=("bytes",))
    assert found["prune"].tried
    assert found["cluster"].tried
    assert found["quantize"].options == ("w8a8",)
    assert "the NPU's file" in found["prune"].why
    assert not rules("ethos_u", costs=("cycles",))["prune"].tried


def test_integers_are_for_runtimes_that_have_them():
    assert rules("micro")["quantize"].options == ("w8a8",)
    server = rules("saved_model", costs=("latency_ms",))["quantize"]
    assert not server.tried
    assert "no faster" in server.why
    assert rules("saved_model", costs=("bytes",))["quantize"].options == (None, "w8a8")
    assert "w4a8" not in rules(family="depthwise")["quantize"].options


def test_four_bits_save_no_time_in_convolutions():
    quick = rules(costs=("latency_ms",))["quantize"]
    assert quick.options == ("w8a8",)
    assert "4-bit convolutions in half bytes take 3.5 times" in quick.why
    both = rules(costs=("bytes", "latency_ms"))["quantize"]
    assert both.options == ("w8a8", "w4a8")
    assert "3.5 times" in both.why
    for other in (rules(costs=("bytes",)), rules(family="MLP", costs=("latency_ms",))):
        assert other["quantize"].options == ("w8a8", "w4a8")
        assert "3.5" not in other["quantize"].why


def test_what_a_model_cannot_take_is_left_out():
    assert not rules(teaches="nothing")["distil"].tried
    model = MODELS["MLP"]()
    scenario = scenario_of(model, "tflite", ("bytes",), "logits")
    assert not scenario.has_free_channels  # its only layer is the output
    shrink = next(c for c in considered(scenario) if c.technique == "shrink")
    assert str(shrink) == ("shrink: skipped: no channels of this model can be removed")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["tflite", "saved_model", "micro", "web", "onnx"])
def test_every_scenario_explains_every_technique(target, family):
    for costs in (("bytes",), ("packed_bytes",), ("latency_ms",)):
        found = rules(target, family, costs)
        assert len(found) == 6
        assert all(one.why for one in found.values())
        assert any(one.tried for name, one in found.items() if name != "distil")


def test_only_strengths_that_can_be_met_are_tried():
    def net(width):
        inputs = keras.Input((16, 16, 1))
        x = layers.Conv2D(width, 3, padding="same")(inputs)
        return keras.Model(inputs, layers.Conv2D(1, 1)(x))

    wide, narrow = rules()["shrink"], possible(net(3), rules()["shrink"])
    assert possible(net(64), wide) == wide
    # Of three channels one or two may go, which is a third or two thirds.
    assert None in narrow.options
    assert 0.5 not in narrow.options
    nothing = possible(net(1), wide)
    assert not nothing.tried
    assert "too small" in nothing.why
    assert possible(net(1), rules()["prune"]) == rules()["prune"]


def test_small_models_are_shrunk_to_widths_that_are_less_round(task):
    small = Shrink(macs=0.35).smaller(task.model)
    assert tfcompress.macs(small) == pytest.approx(
        0.35 * tfcompress.macs(task.model), rel=0.03
    )
    with pytest.raises(InvalidArgumentError, match="cannot be met"):
        Shrink(macs=0.001).smaller(task.model)
