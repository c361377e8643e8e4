"""One step of a decoder, with its cache outside, against the whole decoder."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import InvalidArgumentError, UnsupportedLayerError
from tfcompress.reporting.measures import macs

LENGTH, WORDS = 12, 30


def decoder(attention, causal=True):
    keras.utils.set_random_seed(5)
    ids = keras.Input((LENGTH,), name="ids", dtype="int32")
    places = keras.Input((LENGTH,), name="places", dtype="int32")
    x = layers.Embedding(WORDS, 32, name="words")(ids)
    x = x + layers.Embedding(LENGTH, 32, name="rows")(places)
    y = layers.LayerNormalization(name="norm")(x)
    x = x + attention(y, y, use_causal_mask=causal)
    return keras.Model([ids, places], layers.Dense(WORDS, name="logits")(x))


def greedy(call, states, count):
    """Returns tokens, each the likeliest after those before it."""
    tokens = [1]
    for place in range(count):
        given = {"ids": [[tokens[-1]]], "places": [[place]], "position": [place]}
        given = {name: np.array(value, "int32") for name, value in given.items()}
        made = call({**given, **states})
        states = {name: np.array(made[f"{name}_next"]) for name in states}
        tokens.append(int(np.argmax(made["logits"][0, 0])))
    return tokens


@pytest.mark.parametrize("scheme", [None, "w4b32"])
def test_tokens_of_the_file_are_those_of_the_decoder(tmp_path, scheme):
    model = decoder(layers.GroupQueryAttention(16, 4, 2, name="attention"))
    if scheme:
        model = tfcompress.finalize(tfcompress.calibrate(model, scheme=scheme))
    step = tfcompress.decoder_step(model)
    assert step.input["attention_keys"].shape == (None, LENGTH, 2, 16)
    models = {"decode": model, "step": step}
    artifact = tfcompress.export(models, tmp_path / "m.tflite", compute="float")
    states = {
        name: np.zeros((1, LENGTH, 2, 16), "float32")
        for name in ("attention_keys", "attention_values")
    }
    runner = tfcompress.load(artifact, signature="step")
    tokens = greedy(runner.run, states, LENGTH - 1)
    places = np.arange(LENGTH, dtype="int32")[None]
    logits = np.array(model([np.array([tokens], "int32"), places]))[0]
    assert logits[:-1].argmax(axis=-1).tolist() == tokens[1:]
    assert len(set(tokens)) > 3
    if scheme:
        kinds = {op.weights for op in artifact.operators if op.name == "DEQUANTIZE"}
        assert kinds == {("int4",)}


def test_what_is_no_causal_decoder_is_refused():
    attention = layers.MultiHeadAttention(2, 16, name="attention")
    ahead = decoder(attention, causal=False)
    with pytest.raises(UnsupportedLayerError, match=r"'attention'.*it looks ahead"):
        tfcompress.decoder_step(ahead)
    dense = keras.Sequential([keras.Input((4, 8)), layers.Dense(2, name="head")])
    with pytest.raises(InvalidArgumentError, match="no attention"):
        tfcompress.decoder_step(dense)
    free = keras.Input((None, 16), name="x")
    causal = layers.MultiHeadAttention(2, 8, name="causal")
    model = keras.Model(free, causal(free, free, use_causal_mask=True))
    with pytest.raises(InvalidArgumentError, match="no length"):
        tfcompress.decoder_step(model)
    x = keras.Input((LENGTH, 16), name="x")
    y = layers.Conv1D(16, 3, padding="same", name="conv")(x)
    mixed = keras.Model(x, causal(y, y, use_causal_mask=True))
    with pytest.raises(UnsupportedLayerError, match="something else"):
        tfcompress.decoder_step(mixed, length=8)


@pytest.mark.parametrize("scheme", [None, "w4b32"])
@pytest.mark.parametrize("masked", [False, True])
def test_work_of_attention_that_is_held_whole_is_counted(scheme, masked):
    x = keras.Input((LENGTH, 32), name="x")
    seen = keras.Input((LENGTH, LENGTH), name="seen", dtype="bool")
    attention = layers.MultiHeadAttention(2, 16, name="attention")
    given = {"attention_mask": seen} if masked else {"use_causal_mask": True}
    model = keras.Model([x, seen] if masked else x, attention(x, x, **given))
    if scheme:
        model = tfcompress.finalize(tfcompress.calibrate(model, scheme=scheme))
    projections, products = 4 * 32 * 32, 2 * 32
    assert macs(model) == LENGTH * projections + LENGTH * LENGTH * products
    if not masked:
        step = tfcompress.decoder_step(model)
        assert macs(step) == projections + LENGTH * products
