"""macs against a count from the graph that TensorFlow traces, and what it refuses."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.graph_macs import graph_macs
from tfcompress import CompressionError, LayerRule, macs, register_layer_rule
from tfcompress.layers import Unknown, rows, rows_of
from tfcompress.layers import rules as rules_module


@keras.saving.register_keras_serializable("test_macs")
class Block(layers.Layer):
    """A transformer block as tutorials write it; both Dense bear one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 5)
        self.feed = keras.Sequential([layers.Dense(9, "relu"), layers.Dense(6)])
        self.again = layers.Dense(6, name="same")
        self.last = layers.Dense(6, name="same")
        self.norm = layers.LayerNormalization()

    def call(self, x, training=False):
        x = self.norm(x + self.attention(x, x, training=training))
        return self.last(self.again(x)) + self.feed(x)


@keras.saving.register_keras_serializable("test_macs")
class Kernel(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")

    def call(self, x):
        return x @ self.kernel

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)


@keras.saving.register_keras_serializable("test_macs")
class Twice(layers.Dense):
    def call(self, x):
        return super().call(super().call(x))


@keras.saving.register_keras_serializable("test_macs")
class Windows(layers.Layer):
    """Attention within windows of an image: the batch takes the windows in."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 3)

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, channels))
        return ops.reshape(self.attention(x, x), (-1, height, width, channels))


@keras.saving.register_keras_serializable("test_macs")
class Cell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.inner = self.add_weight(shape=(shape[-1], self.units), name="inner")
        self.outer = self.add_weight(shape=(self.units, self.units), name="outer")

    def call(self, x, states):
        state = ops.tanh(ops.matmul(x, self.inner) + ops.matmul(states[0], self.outer))
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("test_macs")
class InTensorFlow(layers.Layer):
    def call(self, x):
        return np.asarray(x)

    def compute_output_shape(self, shape):
        return shape


def ones(*shape):
    return np.ones(shape, "float32")


def frames():
    inputs = keras.Input((8, 7, 3))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    x = layers.Add()([x, layers.Conv2D(4, 3, name="b")(inputs)])
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def shared(x):
    layer = layers.Dense(6)
    return layer(layer(x))


def reversed_embedding(x):
    layer = layers.ReversibleEmbedding(9, 5)
    return layer(layer(x), reverse=True)


SEQUENCES = (6, 4), (5, 4)
CALLS = {
    "dense": ((3, 7), lambda x: layers.Dense(5)(x)),
    "conv1d_groups": ((9, 4), layers.Conv1D(6, 3, padding="causal", groups=2)),
    "conv2d_strides": ((9, 8, 4), layers.Conv2D(6, 3, strides=2, padding="same")),
    "conv2d_dilated": ((9, 8, 4), layers.Conv2D(6, (3, 1), dilation_rate=2)),
    "conv3d": ((5, 6, 7, 2), layers.Conv3D(3, 2)),
    "depthwise1d": ((8, 3), layers.DepthwiseConv1D(3)),
    "depthwise2d": ((8, 8, 3), layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "separable1d": ((8, 3), layers.SeparableConv1D(5, 3)),
    "separable2d": ((8, 8, 3), layers.SeparableConv2D(5, 3, depth_multiplier=2)),
    "transposed1d": ((8, 3), layers.Conv1DTranspose(5, 3, 2, padding="same")),
    "transposed2d": ((7, 8, 3), layers.Conv2DTranspose(5, 3, 2, output_padding=1)),
    "transposed3d": ((4, 4, 4, 3), layers.Conv3DTranspose(5, 3, strides=2)),
    "einsum_dense": ((6, 2, 4), layers.EinsumDense("...x,xy->...y", 5)),
    "cross_attention": (
        ((6, 4), (5, 3)),
        lambda a, b: layers.MultiHeadAttention(2, 7, 8)(value=b, query=a),
    ),
    "causal_attention": (
        (6, 4),
        lambda x: layers.MultiHeadAttention(3, 2)(x, x, use_causal_mask=True),
    ),
    "group_query": (
        (9, 8),
        lambda x: layers.GroupQueryAttention(4, 4, 2, use_gate=True)(x, x),
    ),
    "attention": (SEQUENCES, lambda a, b: layers.Attention(use_scale=True)([a, b])),
    "concat_scores": (
        SEQUENCES,
        lambda a, b: layers.Attention(score_mode="concat")([a, b]),
    ),
    "additive": (SEQUENCES, lambda a, b: layers.AdditiveAttention()([a, b])),
    "dot": (SEQUENCES, lambda a, b: layers.Dot(2, normalize=True)([a, b])),
    "lstm": ((6, 4), layers.LSTM(5, return_sequences=True)),
    "gru_reset_before": ((6, 4), layers.GRU(5, reset_after=False)),
    "simple_rnn": ((6, 4), layers.SimpleRNN(5)),
    "bidirectional": ((6, 4), layers.Bidirectional(layers.LSTM(5))),
    "both_kinds": (
        (6, 4),
        layers.Bidirectional(
            layers.LSTM(5), backward_layer=layers.GRU(3, go_backwards=True)
        ),
    ),
    "cell": ((6, 4), layers.RNN(layers.GRUCell(5))),
    "stacked_cells": ((6, 4), layers.RNN([layers.LSTMCell(5), layers.LSTMCell(3)])),
    "own_cell": ((6, 4), layers.RNN(Cell(5))),
    "conv_lstm1d": ((4, 8, 3), layers.ConvLSTM1D(5, 3)),
    "conv_lstm2d": ((4, 8, 7, 3), layers.ConvLSTM2D(5, 3, return_sequences=True)),
    "conv_lstm3d": ((3, 4, 5, 6, 2), layers.ConvLSTM3D(2, 3, padding="same")),
    "steps_of_a_dense": ((5, 6), layers.TimeDistributed(layers.Dense(3))),
    "steps_of_a_model": ((5, 8, 7, 3), lambda x: layers.TimeDistributed(frames())(x)),
    "steps_of_an_own": ((3, 4, 6), lambda x: layers.TimeDistributed(Kernel())(x)),
    "spectral": ((6,), layers.SpectralNormalization(layers.Dense(3))),
    "block": ((7, 6), lambda x: Block()(Block()(x))),
    "own_kernel": ((7,), lambda x: Kernel()(x)),
    "overridden_call": ((5,), lambda x: Twice(5)(x)),
    "windows": ((8, 6, 3), lambda x: Windows()(x)),
    "lambda": ((4, 5), layers.Lambda(lambda x: x @ ops.transpose(x, (0, 2, 1)))),
    "spectrogram": ((64, 1), layers.STFTSpectrogram(frame_length=16, frame_step=8)),
    "embedding": ((4,), layers.Embedding(9, 5)),
    "embedding_and_back": ((4,), reversed_embedding),
    "shared": ((6,), shared),
    "matmul": (SEQUENCES, lambda a, b: a @ ops.transpose(b, (0, 2, 1))),
    "matmul_constant": ((6, 4), lambda x: ops.matmul(x, ones(4, 7))),
    "two_dots": ((6, 4), lambda x: ops.dot(x, ones(4, 7))),
    "inner": ((4,), lambda x: ops.inner(x, ones(3, 4))),
    "vdot": ((4,), lambda x: ops.vdot(x, x)),
    "outer": ((4,), lambda x: ops.outer(x, x)),
    "tensordot": ((6, 4), lambda x: ops.tensordot(x, ones(6, 4, 3), 2)),
    "einsum": (SEQUENCES, lambda a, b: ops.einsum("bij,bkj->bik", a, b)),
    "einsum_of_three": (
        ((6, 4), (4, 5), (5, 7)),
        lambda a, b, c: ops.einsum("bij,bjk,bkl->bil", a, b, c),
    ),
    "einsum_free_axes": (
        ((2, 6, 4), (4, 5)),
        lambda a, b: ops.einsum("b...ij,bjk->b...ik", a, b),
    ),
    "conv": ((8, 6, 4), lambda x: ops.conv(x, ones(3, 3, 4, 6), strides=2)),
    "depthwise_conv": ((8, 6, 3), lambda x: ops.depthwise_conv(x, ones(3, 3, 3, 2))),
    "separable_conv": (
        (8, 6, 3),
        lambda x: ops.separable_conv(x, ones(3, 3, 3, 2), ones(1, 1, 6, 5)),
    ),
    "conv_transpose": (
        (6, 3),
        layers.Lambda(lambda x: ops.conv_transpose(x, ones(3, 5, 3), 2)),
    ),
    "dot_product_attention": (
        ((6, 4, 3), (5, 4, 3)),
        lambda a, b: ops.dot_product_attention(a, b, b),
    ),
    "patches": ((8, 8, 3), lambda x: ops.image.extract_patches(x, 4)),
    "grayscale": ((8, 8, 3), ops.image.rgb_to_grayscale),
    "squeezed": ((5, 1), lambda x: layers.Dense(3)(ops.squeeze(x, -1))),
    "elementwise": ((5, 3), lambda x: ops.sum(ops.sin(x) * 2 + x / 3, axis=1)),
}


def model(shapes, call):
    single = not isinstance(shapes[0], tuple)
    inputs = [keras.Input(shape) for shape in ([shapes] if single else shapes)]
    return keras.Model(inputs[0] if single else inputs, call(*inputs))


@pytest.mark.parametrize("name", CALLS)
def test_macs_are_those_of_the_traced_graph(name):
    network = model(*CALLS[name])
    assert macs(network) == graph_macs(network)


def test_a_batch_of_eight_counts_as_one_sample():
    network = keras.Sequential([keras.Input(batch_shape=(8, 6)), layers.Dense(3)])
    assert macs(network) == graph_macs(network) == 18


def test_free_dimensions_count_as_one():
    network = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
    assert macs(network) == 27 * 4


@pytest.mark.parametrize("name", ["MobileNetV2"])
def test_macs_of_applications(name):
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=10
    )
    assert macs(network) == graph_macs(network)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(
            "ConvNeXtTiny",
            "DenseNet121",
            "EfficientNetB0",
            "EfficientNetV2B0",
            "InceptionResNetV2",
        ),
        *("InceptionV3", "MobileNet", "MobileNetV3Small", "NASNetMobile", "ResNet50"),
        *("ResNet50V2", "VGG16", "Xception"),
    ],
)
def test_macs_of_all_families(name):
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(96, 96, 3), classes=10
    )
    assert macs(network) == graph_macs(network)


def test_counting_leaves_the_layers_as_they_are():
    inputs = keras.Input((7, 6))
    block = Block()
    network = keras.Model(inputs, block(inputs))
    names = [layer.name for layer in block._flatten_layers()]
    macs(network)
    assert [layer.name for layer in block._flatten_layers()] == names
    assert not block.again._inbound_nodes


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda x: InTensorFlow(name="foreign")(x), ["'foreign'", "InTensorFlow"]),
        (lambda x: ops.fft((x, x))[0], ["'fft", "FFT"]),
        (lambda x: ops.map(lambda y: ops.matmul(y, y), x), ["'map", "Map"]),
        (lambda x: ops.inv(x), ["'inv", "Inv"]),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(call, names):
    network = keras.Model(inputs := keras.Input((4, 4, 4)), call(inputs))
    with pytest.raises(CompressionError, match="cannot be counted") as error:
        macs(network)
    assert all(name in str(error.value) for name in names)
    assert "register_layer_rule(LayerRule(" in str(error.value)


def test_a_layer_can_be_taught(monkeypatch):
    monkeypatch.setattr(rules_module, "_rules", dict(rules_module._rules))
    register_layer_rule(LayerRule(InTensorFlow, macs=lambda layer, inputs, output: 11))
    network = keras.Model(inputs := keras.Input((4,)), InTensorFlow()(inputs))
    assert macs(network) == 11


# Layers of other frameworks and graphs, whose work is not seen; and layers that are
# opened: what their `call` does is counted.
NOT_SEEN = {
    "FlaxLayer",
    "JaxLayer",
    "TFSMLayer",
    "TorchModuleWrapper",
    "MelSpectrogram",
}
OPENED = {
    "Dot",
    "Lambda",
    "Layer",
    "Pipeline",
    "ReversibleEmbedding",
    "STFTSpectrogram",
}
ABSTRACT = {"Wrapper"}


def test_every_layer_of_keras_is_counted_or_named_here():
    classes = {
        cls.__name__: cls
        for cls in vars(layers).values()
        if inspect.isclass(cls) and issubclass(cls, layers.Layer)
    }
    unknown = {
        name
        for name, cls in classes.items()
        if not any(row.macs or row.holds for row in rows_of(object.__new__(cls)))
    }
    assert unknown == NOT_SEEN | OPENED | ABSTRACT


def operations_of_keras():
    todo, found = [keras.Operation], set()
    while todo:
        for cls in todo.pop().__subclasses__():
            if not issubclass(cls, layers.Layer):
                todo.append(cls)
                if cls.__module__.split(".")[0] == "keras":
                    found.add(cls.__name__)
    return found


def test_every_operation_of_keras_is_counted_or_refused_by_the_table():
    named = {row.name: row for row in rows() if isinstance(row.layer_type, str)}
    private = {name for name in named if name.startswith("applications.")}
    assert operations_of_keras() == set(named) - private
    without = [name for name, row in named.items() if row.macs is None]
    assert set(without) == private
    reasons = [r.macs.reason for r in named.values() if isinstance(r.macs, Unknown)]
    assert len(reasons) > 20
    assert all(reasons)


def test_layers_of_applications_in_the_table_are_there():
    private = {
        row.name.removeprefix("applications.")
        for row in rows()
        if isinstance(row.layer_type, str) and row.name.startswith("applications.")
    }
    todo, classes = [keras.Layer], set()
    while todo:
        subclasses = todo.pop().__subclasses__()
        todo += subclasses
        classes |= {
            cls.__name__ for cls in subclasses if "applications" in cls.__module__
        }
    assert private == {"CustomScaleLayer", "LayerScale", "StochasticDepth"}
    assert private <= classes
