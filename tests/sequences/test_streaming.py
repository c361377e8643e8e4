"""A model of a few steps computes what the whole model does, in floats and integers."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError

STEPS, TIME = 4, 12
SOUNDS = np.random.default_rng(1).normal(size=(32, TIME, 3)).astype("float32")


def temporal(time=None):
    """Causal convolutions as people write them: padded by themselves, and before."""
    sound = keras.Input((time, 3), name="sound")
    x = sound
    for rate in (1, 2):
        y = layers.Conv1D(8, 3, padding="causal", dilation_rate=rate)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.ZeroPadding1D((2, 0))(layers.SpatialDropout1D(0.1)(y))
        y = layers.SeparableConv1D(8, 3)(y)
        x = layers.Add()([y, layers.Conv1D(8, 1)(x)])
    x = layers.DepthwiseConv1D(4)(layers.ZeroPadding1D((3, 0))(x))
    return keras.Model(sound, layers.Dense(4, name="scores")(x))


def recurrent(*more, time=None):
    return keras.Sequential([keras.Input((time, 3), name="sound"), *more])


def streamed(call, first, sounds):
    """Returns the outputs of chunks, each of which is given the states before it."""
    states, made = {}, []
    for start in range(0, TIME, STEPS):
        chunk = {"sound": sounds[:, start : start + STEPS], **states}
        outputs = {
            n: np.asarray(v) for n, v in (call if start else first)(chunk).items()
        }
        states = {
            name.removesuffix("_next"): value
            for name, value in outputs.items()
            if name.endswith("_next")
        }
        made.append(outputs)
    return made


def joined(made, name, sequence=True):
    parts = [part[name] for part in made]
    return np.concatenate(parts, axis=1) if sequence else parts[-1]


@pytest.mark.parametrize(
    ("model", "name", "sequence"),
    [
        (temporal(), "scores", True),
        (
            recurrent(
                layers.GRU(6, return_sequences=True),
                layers.LayerNormalization(),
                layers.TimeDistributed(layers.Dense(5)),
                layers.LSTM(4, name="last"),
            ),
            "last",
            False,
        ),
        (
            recurrent(
                layers.RNN(
                    [layers.LSTMCell(4), layers.SimpleRNNCell(5)], return_sequences=True
                ),
                layers.Conv1D(3, 2, strides=2, padding="causal"),
                layers.MaxPooling1D(2, name="pool"),
            ),
            "pool",
            True,
        ),
    ],
)
def test_chunks_give_what_the_whole_sequence_gives(model, name, sequence):
    stream = tfcompress.streaming(model, STEPS)
    zeros = {
        key: np.zeros((len(SOUNDS), *tensor.shape[1:]), "float32")
        for key, tensor in stream.input.items()
        if key != "sound"
    }
    made = streamed(stream, lambda chunk: stream({**chunk, **zeros}), SOUNDS)
    whole = np.asarray(model(SOUNDS))
    np.testing.assert_allclose(joined(made, name, sequence), whole, atol=1e-6)


def with_ranges(model):
    aware = tfcompress.quantize_aware(model)
    aware.compile(keras.optimizers.SGD(0.0), "mse")
    aware.fit(SOUNDS, np.zeros(aware(SOUNDS).shape), epochs=1, verbose=0)
    return aware


def test_integers_of_a_calibrated_tcn_are_those_of_the_whole(tmp_path):
    integers = tfcompress.calibrate(temporal(TIME), SOUNDS)
    _compare_in_files(integers, "scores", True, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_integers_of_recurrent_layers_are_those_of_the_whole(kind, tmp_path):
    model = recurrent(
        kind(6, return_sequences=True),
        kind(5),
        layers.Dense(3, name="scores"),
        time=TIME,
    )
    _compare_in_files(with_ranges(model), "scores", False, tmp_path)


def _compare_in_files(model, name, sequence, folder):
    """Holds the file of two signatures to the file of the whole sequence: 0 steps."""
    first, later = (
        tfcompress.finalize(tfcompress.streaming(model, STEPS, begins=begins))
        for begins in (True, False)
    )
    parts = tfcompress.export(
        {"begin": first, "next": later}, folder / "parts.tflite", io_dtype="int8"
    )
    whole = tfcompress.export(
        tfcompress.finalize(model), folder / "whole.tflite", io_dtype="int8"
    )
    assert parts.integer_coverage == 1
    assert {info.dtype for info in parts.signatures[1].inputs} == {"int8"}
    begin, following = (
        tfcompress.load(parts, signature=one.name) for one in parts.signatures
    )
    made = streamed(following.run, begin.run, SOUNDS[:8])
    expected = tfcompress.load(whole).run(SOUNDS[:8])[name]
    np.testing.assert_array_equal(joined(made, name, sequence), expected)


def test_layers_that_need_the_whole_are_named_together():
    sound = keras.Input((10, 4), name="sound")
    outputs = [
        layers.Conv1D(4, 3, padding="same", name="ahead")(sound),
        layers.Conv1D(4, 3, name="shorter")(sound),
        layers.Bidirectional(layers.LSTM(3), name="both")(sound),
        layers.GlobalAveragePooling1D(name="mean")(sound),
        layers.MultiHeadAttention(2, 2, name="attention")(sound, sound),
        layers.GRU(3, go_backwards=True, name="back")(sound),
        layers.Softmax(axis=1, name="over_time")(sound),
        layers.Flatten(name="flat")(sound),
        layers.GRU(3, name="masked")(layers.Masking(name="mask")(sound)),
    ]
    with pytest.raises(UnsupportedLayerError) as caught:
        tfcompress.streaming(keras.Model(sound, outputs))
    names = ["ahead", "shorter", "both", "mean", "attention", "back", "over_time"]
    names += ["flat", "mask"]
    assert [name for name in names if f"'{name}'" not in str(caught.value)] == []


def test_bad_arguments_are_refused():
    model = temporal(TIME)
    with pytest.raises(InvalidArgumentError, match="number of time steps"):
        tfcompress.streaming(model, 0)
    with pytest.raises(InvalidArgumentError, match="no inputs that are sequences"):
        tfcompress.streaming(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    finalized = tfcompress.finalize(tfcompress.calibrate(model, SOUNDS))
    with pytest.raises(InvalidArgumentError, match="finalize\\(streaming"):
        tfcompress.streaming(finalized)
    steps_apart = tfcompress.calibrate(
        recurrent(layers.SimpleRNN(2, name="rnn"), time=TIME), SOUNDS
    )
    with pytest.raises(UnsupportedLayerError, match="GetItem behind 'rnn_inputs'"):
        tfcompress.streaming(steps_apart)
    strided = recurrent(layers.Conv1D(3, 2, strides=2, padding="causal", name="half"))
    with pytest.raises(UnsupportedLayerError, match=r"'half'.*multiple of 2"):
        tfcompress.streaming(strided, 3)


def test_a_model_of_a_fixed_batch_streams():
    sound = keras.Input((None, 3), name="sound", batch_size=4)
    x = layers.GRU(5, return_sequences=True, name="gru")(sound)
    whole = keras.Model(sound, layers.Dense(2, name="scores")(x))
    part = tfcompress.streaming(whole, STEPS)
    assert part.input["gru_state"].shape == (4, 5)
    states, made = np.zeros((4, 5), "float32"), []
    for start in range(0, TIME, STEPS):
        now = SOUNDS[:4, start : start + STEPS]
        outputs = part({"sound": now, "gru_state": states})
        states = np.asarray(outputs["gru_state_next"])
        made.append(outputs["scores"])
    found = np.concatenate(made, axis=1)
    np.testing.assert_allclose(found, whole(SOUNDS[:4]), atol=1e-6)
