"""Random Functional models from the whole table of Keras' layers.

Each seed is a model: some inputs, some steps that draw a layer, an operation of
`keras.ops` or a way of putting layers together (shared, nested, several inputs, a layer
made of layers), and one or two outputs. `LAYERS` has a way of drawing every layer class
that can stand in a Functional model; what cannot is in `LEFT_OUT`, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

WORDS = ["red", "green", "blue", "black"]
_ATTEMPTS = 40
_LARGEST = 4096  # numbers in a tensor

LEFT_OUT = {
    "Equalization": "a Functional model of it has a cycle, says Keras",
    "FlaxLayer": "runs another framework",
    "GRUCell": "drawn inside of RNN",
    "InputLayer": "every model begins with it",
    "InputSpec": "is no layer",
    "JaxLayer": "runs another framework",
    "Lambda": "its code is the test's own: tests/core",
    "Layer": "is the base class",
    "LSTMCell": "drawn inside of RNN",
    "MaxNumBoundingBoxes": "works on boxes",
    "Pipeline": "is no layer of a graph",
    "RandAugment": "draws operations in Python",
    "AugMix": "draws operations in Python",
    "CutMix": "takes labels with the images",
    "MixUp": "takes labels with the images",
    "SimpleRNNCell": "drawn inside of RNN",
    "StackedRNNCells": "drawn inside of RNN",
    "TFSMLayer": "runs a SavedModel",
    "TorchModuleWrapper": "runs another framework",
    "Wrapper": "is a base class",
}


@keras.saving.register_keras_serializable("random_models")
class Residual(keras.layers.Layer):
    """A layer made of layers, as people write them."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.norm = layers.LayerNormalization(name="norm")
        self.wide = layers.Dense(2 * units, activation="relu", name="wide")
        self.narrow = layers.Dense(units, name="narrow")

    def build(self, shape: tuple) -> None:
        self.norm.build(shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 2 * self.units))

    def call(self, x: Any) -> Any:
        return x + self.narrow(self.wide(self.norm(x)))

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}


@dataclasses.dataclass
class Draw:
    """What a model is drawn with: a generator, and the tensors that there are."""

    rng: np.random.Generator
    pool: list = dataclasses.field(default_factory=list)
    names: int = 0

    def size(self, most: int = 16) -> int:
        """Returns a size from 1 on, small ones more often."""
        return int(min(most, 1 + self.rng.geometric(0.2)))

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, values: Any) -> Any:
        values = list(values)
        return values[int(self.rng.integers(len(values)))]

    def name(self, kind: str) -> str:
        self.names += 1
        # Never one that Keras gives itself, which depends on what was made before.
        return f"my_{kind.lower()}_{self.names}"

    def layer(self, kind: str, *arguments: Any, **options: Any) -> Any:
        """Returns a layer of Keras with a name of its own."""
        return getattr(layers, kind)(*arguments, name=self.name(kind), **options)

    def window(self, x: Any, axes: int) -> tuple[int, ...]:
        """Returns window sizes that fit into the spatial axes of `x`."""
        return tuple(
            int(self.rng.integers(1, min(5, n) + 1)) for n in x.shape[1 : 1 + axes]
        )

    def padding(self) -> str:
        return self.pick(("valid", "same"))

    def activation(self) -> Any:
        return self.pick(ACTIVATIONS)

    def another(self, x: Any, rank: int | None = None) -> Any:
        """Returns a tensor of the pool with the shape of `x`, or `x` itself."""
        return self.pick([t for t in self.pool if t.shape == x.shape] or [x])

    def array(self, shape: tuple, spread: float = 1.0) -> np.ndarray:
        return self.rng.normal(0, spread, shape).astype("float32")


ACTIVATIONS = [
    *(None, "relu", "relu6", "sigmoid", "tanh", "softmax", "gelu", "elu", "selu"),
    *("silu", "softplus", "softsign", "exponential", "hard_sigmoid", "hard_silu"),
    *("leaky_relu", "mish", "celu", "log_sigmoid", "log_softmax", "hard_tanh"),
    *("squareplus", "hard_shrink", "soft_shrink", "tanh_shrink", "sparse_plus"),
    *("sparsemax", "linear"),
]

Drawn = Callable[[Draw, Any], Any]
#: By class name: the ranks of the input, and what is called on it.
LAYERS: dict[str, tuple[tuple[int, ...], Drawn]] = {}
OPERATIONS: list[tuple[str, tuple[int, ...], Drawn]] = []
ANY, SEQUENCE, IMAGE, VIDEO = (2, 3, 4, 5), (3,), (4,), (5,)


def _layer(name: str, ranks: tuple, **options: Any) -> None:
    """Adds a layer whose arguments are values, or functions of the draw and `x`."""

    def drawn(draw: Draw, x: Any) -> Any:
        made = {
            key: value(draw, x) if callable(value) else value
            for key, value in options.items()
        }
        return getattr(layers, name)(**made, name=draw.name(name))(x)

    LAYERS[name] = ranks, drawn


def _fill() -> None:
    size = lambda d, x: d.size()  # noqa: E731
    activation = lambda d, x: d.activation()  # noqa: E731
    bias = lambda d, x: d.chance(0.8)  # noqa: E731
    for n, ranks in ((1, SEQUENCE), (2, IMAGE), (3, VIDEO)):
        window = lambda d, x, n=n: d.window(x, n)  # noqa: E731
        stride = lambda d, x, n=n: d.pick(((1,) * n, (2,) * n, (1,) * n))  # noqa: E731
        odd = lambda d, x, n=n: tuple(int(d.rng.integers(1, 4)) for _ in range(n))  # noqa: E731
        pad = lambda d, x: d.padding()  # noqa: E731
        both = {"padding": pad, "use_bias": bias, "activation": activation}
        conv = {"kernel_size": window, "strides": stride, **both}
        _layer(f"Conv{n}D", ranks, filters=size, **conv)
        _layer(f"Conv{n}DTranspose", ranks, filters=size, **conv)
        if n < 3:
            depth = {"depth_multiplier": lambda d, x: d.pick((1, 1, 2))}
            _layer(f"DepthwiseConv{n}D", ranks, **depth, **conv)
            _layer(f"SeparableConv{n}D", ranks, filters=size, **depth, **conv)
            _layer(f"SpatialDropout{n}D", ranks, rate=0.3)
        for kind in ("Max", "Average"):
            name = f"{kind}Pool{n}D" if kind == "Max" else f"AveragePooling{n}D"
            _layer(name, ranks, pool_size=window, strides=odd, padding=pad)
            short = f"GlobalMaxPool{n}D" if kind == "Max" else None
            _layer(
                short or f"GlobalAveragePooling{n}D",
                ranks,
                keepdims=lambda d, x: d.chance(0.3),
            )
            _layer(f"Adaptive{kind}Pooling{n}D", ranks, output_size=window)
        _layer(f"UpSampling{n}D", ranks, size=lambda d, x, n=n: d.pick((1, 2)))
        _layer(f"ZeroPadding{n}D", ranks, padding=lambda d, x: d.pick((1, 2)))
        _layer(f"Cropping{n}D", ranks, cropping=1)
    _layer("SpatialDropout3D", VIDEO, rate=0.3)
    _layer("Dense", (2, 3, 4), units=size, activation=activation, use_bias=bias)
    _layer("Activation", ANY, activation=activation)
    _layer("ReLU", ANY, max_value=lambda d, x: d.pick((None, 6.0, 4.0)))
    _layer("LeakyReLU", ANY, negative_slope=lambda d, x: d.pick((0.1, 0.3)))
    _layer("ELU", ANY, alpha=lambda d, x: d.pick((1.0, 0.5)))
    _layer("PReLU", ANY)
    _layer("Softmax", ANY)
    _layer("Identity", ANY)
    _layer("ActivityRegularization", ANY, l2=1e-4)
    for name in ("Dropout", "AlphaDropout", "GaussianDropout"):
        _layer(name, ANY, rate=0.2)
    _layer("GaussianNoise", ANY, stddev=0.1)
    _layer("BatchNormalization", ANY)
    _layer("LayerNormalization", (2, 3, 4))
    _layer("RMSNormalization", (2, 3, 4))
    _layer("UnitNormalization", (2, 3, 4))
    _layer("GroupNormalization", (3, 4), groups=lambda d, x: d.pick((1, -1)))
    _layer("Rescaling", ANY, scale=0.5, offset=lambda d, x: d.pick((0.0, -1.0)))
    _layer(
        "Normalization",
        (2, 3, 4),
        mean=lambda d, x: d.array((x.shape[-1],)),
        variance=lambda d, x: d.array((x.shape[-1],)) ** 2 + 0.5,
    )
    _layer("Flatten", ANY)
    _layer("Reshape", ANY, target_shape=lambda d, x: d.pick((x.shape[:0:-1], (-1, 1))))
    _layer(
        "Permute",
        (3, 4),
        dims=lambda d, x: tuple(
            int(i) + 1 for i in d.rng.permutation(len(x.shape) - 1)
        ),
    )
    _layer("RepeatVector", (2,), n=lambda d, x: d.size(4))
    _layer("Masking", SEQUENCE, mask_value=0.0)
    for name in ("LSTM", "GRU", "SimpleRNN"):
        _layer(
            name,
            SEQUENCE,
            units=lambda d, x: d.size(8),
            return_sequences=lambda d, x: d.chance(),
            go_backwards=lambda d, x: d.chance(0.2),
            use_bias=bias,
        )
    for n, ranks in ((1, IMAGE), (2, VIDEO)):
        _layer(
            f"ConvLSTM{n}D",
            ranks,
            filters=lambda d, x: d.size(4),
            kernel_size=1,
            return_sequences=lambda d, x: d.chance(),
        )
    LAYERS["ConvLSTM3D"] = (
        VIDEO,
        lambda d, x: d.layer("ConvLSTM3D", 2, 1)(ops.expand_dims(x, 1)),
    )
    for name in ("Resizing", "CenterCrop", "RandomCrop"):
        _layer(name, IMAGE, height=lambda d, x: d.size(), width=lambda d, x: d.size())
    for name, options in (
        ("RandomBrightness", {"factor": 0.2, "value_range": (0.0, 1.0)}),
        ("RandomColorDegeneration", {"factor": 0.2}),
        ("RandomColorJitter", {"value_range": (0.0, 1.0), "brightness_factor": 0.2}),
        ("RandomContrast", {"factor": 0.2}),
        ("RandomElasticTransform", {}),
        ("RandomErasing", {}),
        ("RandomFlip", {}),
        ("RandomGaussianBlur", {}),
        ("RandomGrayscale", {}),
        ("RandomHue", {"factor": 0.2, "value_range": (0.0, 1.0)}),
        ("RandomInvert", {}),
        ("RandomPerspective", {}),
        ("RandomPosterization", {"factor": 4}),
        ("RandomRotation", {"factor": 0.2}),
        ("RandomSaturation", {"factor": 0.2}),
        ("RandomSharpness", {"factor": 0.2}),
        ("RandomShear", {}),
        ("RandomTranslation", {"height_factor": 0.1, "width_factor": 0.1}),
        ("RandomZoom", {"height_factor": 0.1}),
        ("AutoContrast", {"value_range": (0.0, 1.0)}),
        ("ContrastLimitedAdaptiveHistogramEqualization", {"value_range": (0.0, 1.0)}),
        ("Solarization", {"value_range": (0.0, 1.0)}),
    ):
        _layer(name, IMAGE, **options)


def _drawn(*names: str, ranks: tuple) -> Callable[[Drawn], Drawn]:
    def register(function: Drawn) -> Drawn:
        for name in names:
            LAYERS[name] = ranks, function
        return function

    return register


for _name in ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"):

    def _merge(draw: Draw, x: Any, name: str = _name) -> Any:
        count = 1 if name == "Subtract" else draw.pick((1, 1, 2))
        others = [draw.another(x) for _ in range(count)]
        return getattr(layers, name)(name=draw.name(name))([x, *others])

    LAYERS[_name] = ANY, _merge


@_drawn("Concatenate", ranks=ANY)
def _concatenate(draw: Draw, x: Any) -> Any:
    axis = draw.pick((-1, 1))
    return draw.layer("Concatenate", axis)([x, draw.another(x)])


@_drawn("Dot", ranks=(2, 3))
def _dot(draw: Draw, x: Any) -> Any:
    axes = draw.pick((1, 1, -1))
    return draw.layer("Dot", axes, draw.chance(0.3))([x, draw.another(x)])


@_drawn("MultiHeadAttention", "GroupQueryAttention", ranks=SEQUENCE)
def _attention(draw: Draw, x: Any) -> Any:
    options: dict = {"use_causal_mask": draw.chance(0.3)}
    if draw.chance(0.3):
        seen = np.tril(np.ones((x.shape[1], x.shape[1]), bool))[None]
        options["attention_mask"] = ops.convert_to_tensor(seen)
    if draw.chance():
        layer: Any = draw.layer("MultiHeadAttention", 2, draw.size(6))
    else:
        layer = draw.layer("GroupQueryAttention", draw.size(6), 4, 2)
    other = draw.another(x)
    outputs = layer(x, other, **options)
    # The same layer again, on other tensors.
    return layer(outputs, x, **options) if draw.chance(0.3) else outputs


@_drawn("Attention", "AdditiveAttention", ranks=SEQUENCE)
def _plain_attention(draw: Draw, x: Any) -> Any:
    kind = draw.pick(("Attention", "AdditiveAttention"))
    return getattr(layers, kind)(name=draw.name(kind))([x, draw.another(x)])


@_drawn("EinsumDense", ranks=SEQUENCE)
def _einsum(draw: Draw, x: Any) -> Any:
    equation, shape = draw.pick(
        (("abc,cd->abd", (None, draw.size())), ("abc,cde->abde", (None, 2, 3)))
    )
    return draw.layer("EinsumDense", equation, shape, bias_axes=equation[-1])(x)


@_drawn("Bidirectional", ranks=SEQUENCE)
def _bidirectional(draw: Draw, x: Any) -> Any:
    kind = draw.pick((layers.LSTM, layers.GRU, layers.SimpleRNN))
    inner = kind(draw.size(6), return_sequences=draw.chance())
    mode = draw.pick(("concat", "sum", "ave", "mul"))
    return draw.layer("Bidirectional", inner, mode)(x)


@_drawn("RNN", ranks=SEQUENCE)
def _rnn(draw: Draw, x: Any) -> Any:
    kinds = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
    cells = [draw.pick(kinds)(draw.size(6)) for _ in range(draw.pick((1, 1, 2)))]
    cell = cells[0] if len(cells) == 1 else layers.StackedRNNCells(cells)
    return draw.layer("RNN", cell, return_sequences=draw.chance())(x)


@_drawn("TimeDistributed", ranks=(3, 4, 5))
def _time_distributed(draw: Draw, x: Any) -> Any:
    inner: Any = layers.Dense(draw.size(), activation="relu")
    if len(x.shape) == 5:
        inner = layers.Conv2D(draw.size(), draw.window(x[:, 0], 2), name="frame")
    return draw.layer("TimeDistributed", inner)(x)


@_drawn("SpectralNormalization", ranks=(2, 3, 4))
def _spectral(draw: Draw, x: Any) -> Any:
    inner: Any = layers.Dense(draw.size())
    if len(x.shape) == 4:
        inner = layers.Conv2D(draw.size(), draw.window(x, 2))
    return draw.layer("SpectralNormalization", inner)(x)


@_drawn("Embedding", "Hashing", "IntegerLookup", "CategoryEncoding", ranks=())
def _tokens(draw: Draw, x: Any) -> Any:
    """Reads whole numbers."""
    kind = draw.pick(("Embedding", "Embedding", "Hashing", "IntegerLookup", "Category"))
    if kind == "Hashing":
        x = draw.layer("Hashing", 20)(x)
    elif kind == "IntegerLookup":
        x = draw.layer("IntegerLookup", vocabulary=list(range(15)))(x)
    elif kind == "Category":
        return draw.layer("CategoryEncoding", 20, output_mode="multi_hot")(x)
    masks = draw.chance(0.4)
    return draw.layer("Embedding", 20, draw.size(), mask_zero=masks)(x)


@_drawn("ReversibleEmbedding", ranks=())
def _reversible(draw: Draw, x: Any) -> Any:
    layer = draw.layer("ReversibleEmbedding", 20, draw.size())
    outputs = layer(x)
    return layer(outputs, reverse=True) if draw.chance() else outputs


@_drawn("HashedCrossing", ranks=())
def _crossing(draw: Draw, x: Any) -> Any:
    parts = [x[:, :1], x[:, -1:]]
    bins = draw.layer("HashedCrossing", 8, output_mode="int")(parts)
    return layers.Flatten()(draw.layer("Embedding", 8, draw.size())(bins))


@_drawn("StringLookup", "TextVectorization", ranks=())
def _text(draw: Draw, x: Any) -> Any:
    """Reads words."""
    if draw.chance():
        mode = draw.pick(("int", "one_hot"))
        found = draw.layer("StringLookup", vocabulary=WORDS, output_mode=mode)(x)
        return found if mode == "one_hot" else layers.Embedding(8, draw.size())(found)
    layer = draw.layer("TextVectorization", vocabulary=WORDS, output_sequence_length=3)
    return draw.layer("Embedding", 8, draw.size())(layer(x))


@_drawn("Discretization", ranks=(2,))
def _discretization(draw: Draw, x: Any) -> Any:
    bins = draw.layer("Discretization", bin_boundaries=[-0.5, 0.0, 0.5])(x)
    return draw.layer("Embedding", 4, draw.size())(bins)


@_drawn("MelSpectrogram", "STFTSpectrogram", ranks=(2,))
def _spectrogram(draw: Draw, x: Any) -> Any:
    wide = ops.tile(x, (1, 64 // x.shape[-1] + 1))[:, :64]
    if draw.chance():
        return draw.layer(
            "MelSpectrogram",
            fft_length=16,
            sequence_stride=8,
            num_mel_bins=8,
            max_freq=4000,
        )(wide)
    return draw.layer("STFTSpectrogram", frame_length=16, frame_step=8, fft_length=16)(
        wide[..., None]
    )


_fill()


def _operation(name: str, ranks: tuple = ANY) -> Callable[[Drawn], Drawn]:
    def register(function: Drawn) -> Drawn:
        OPERATIONS.append((name, ranks, function))
        return function

    return register


for _name in (
    *("abs", "negative", "square", "relu", "relu6", "sigmoid", "tanh", "exp", "sign"),
    *("softplus", "silu", "gelu", "sin", "cos", "floor", "round", "softmax", "rsqrt"),
    *("log1p", "expm1", "erf", "arctan", "celu", "hard_tanh", "hard_sigmoid", "sqrt"),
):
    _positive = _name in ("rsqrt", "sqrt", "log1p")
    OPERATIONS.append(
        (
            _name,
            ANY,
            lambda d, x, name=_name, positive=_positive: getattr(ops, name)(
                ops.abs(x) + 0.5 if positive else x
            ),
        )
    )
for _name in ("add", "subtract", "multiply", "maximum", "minimum", "divide"):

    def _with_constant(draw: Draw, x: Any, name: str = _name) -> Any:
        shape = draw.pick(((), (x.shape[-1],), (1, *x.shape[1:])))
        constant = draw.array(shape, draw.pick((0.5, 3.0)))
        if name == "divide":
            constant = np.abs(constant) + 0.5
        turned = draw.chance(0.3) and name in ("add", "subtract", "multiply")
        value: Any = constant.item() if constant.ndim == 0 else constant
        return getattr(ops, name)(value, x) if turned else getattr(ops, name)(x, value)

    def _with_tensor(draw: Draw, x: Any, name: str = _name) -> Any:
        other = draw.another(x)
        if name == "divide":
            other = ops.abs(other) + 0.5
        return getattr(ops, name)(x, other)

    OPERATIONS.append((f"{_name} a constant", ANY, _with_constant))
    OPERATIONS.append((f"{_name} a tensor", ANY, _with_tensor))
for _name in ("mean", "sum", "max", "min", "var", "std", "logsumexp"):

    def _reduce(draw: Draw, x: Any, name: str = _name) -> Any:
        axis = int(draw.rng.integers(1, len(x.shape)))
        axis = draw.pick((axis, axis - len(x.shape)))
        return getattr(ops, name)(
            x, axis=axis, keepdims=draw.chance() or len(x.shape) == 2
        )

    OPERATIONS.append((_name, ANY, _reduce))


@_operation("pad", (3, 4))
def _pad(draw: Draw, x: Any) -> Any:
    width = [(0, 0)] + [draw.pick(((0, 0), (1, 0), (1, 2))) for _ in x.shape[1:]]
    return ops.pad(x, width, constant_values=draw.pick((0.0, 0.0, -1.0, 2.5)))


@_operation("transpose", (3, 4))
def _transpose(draw: Draw, x: Any) -> Any:
    axes = [0, *(int(i) + 1 for i in draw.rng.permutation(len(x.shape) - 1))]
    return ops.transpose(x, axes)


@_operation("slice")
def _slice(draw: Draw, x: Any) -> Any:
    axis = int(draw.rng.integers(1, len(x.shape)))
    stop = int(draw.rng.integers(1, x.shape[axis] + 1))
    return x[(slice(None),) * axis + (slice(0, stop, draw.pick((1, 2))),)]


@_operation("split")
def _split(draw: Draw, x: Any) -> Any:
    if x.shape[-1] % 2:
        raise ValueError("an odd size")
    left, right = ops.split(x, 2, axis=-1)
    return draw.layer("Multiply")([left, ops.sigmoid(right)])


@_operation("stack", (2, 3))
def _stack(draw: Draw, x: Any) -> Any:
    return ops.stack([x, draw.another(x)], axis=draw.pick((1, -1)))


@_operation("where")
def _where(draw: Draw, x: Any) -> Any:
    other = draw.pick((draw.another(x), -2.0, 0.0))
    return ops.where(x > 0.1, x, other)


@_operation("clip")
def _clip(draw: Draw, x: Any) -> Any:
    return ops.clip(x, *draw.pick(((-1.0, 1.0), (0.0, 2.0), (0.2, 0.9))))


@_operation("matmul", (3,))
def _matmul(draw: Draw, x: Any) -> Any:
    return ops.matmul(x, ops.transpose(draw.another(x), (0, 2, 1)))


@_operation("einsum", (3,))
def _einsum_of_two(draw: Draw, x: Any) -> Any:
    return ops.einsum("bij,bkj->bik", x, draw.another(x))


@_operation("matmul with a constant", (2, 3))
def _project(draw: Draw, x: Any) -> Any:
    return ops.matmul(x, draw.array((x.shape[-1], draw.size())))


@_operation("concatenate a constant", (2,))
def _with_column(draw: Draw, x: Any) -> Any:
    return ops.concatenate([x, ops.ones_like(x[:, :1]) * 3.0], axis=-1)


@_operation("reshape")
def _reshape(draw: Draw, x: Any) -> Any:
    return ops.reshape(
        x, draw.pick(((-1, int(np.prod(x.shape[1:]))), (-1, *x.shape[:0:-1])))
    )


@_operation("take", (3,))
def _take(draw: Draw, x: Any) -> Any:
    return ops.take(x, [0, x.shape[1] - 1], axis=1)


@_operation("repeat and flip", (3, 4))
def _repeat(draw: Draw, x: Any) -> Any:
    return ops.flip(ops.repeat(x, 2, axis=1), axis=draw.pick((1, -1)))


@_operation("attention by hand", (3,))
def _by_hand(draw: Draw, x: Any) -> Any:
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1))) / float(x.shape[-1]) ** 0.5
    if draw.chance():
        seen = np.tril(np.ones((x.shape[1],) * 2, "float32"))
        scores = scores + (1.0 - seen) * draw.pick((-1e9, -1e4))
    return ops.matmul(ops.softmax(scores, axis=-1), draw.another(x))


@_operation("a shared layer")
def _shared(draw: Draw, x: Any) -> Any:
    layer = draw.layer("Dense", draw.size(), activation=draw.pick(("relu", None)))
    left, right = layer(x), layer(draw.another(x) * draw.pick((1.0, 0.1, 10.0)))
    return draw.layer("Concatenate")([left, right])


@_operation("a nested Sequential")
def _nested(draw: Draw, x: Any) -> Any:
    width = draw.size()
    steps = [
        layers.Dense(width, name="first"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
    ]
    if draw.chance():
        steps.append(Residual(width, name="residual"))
    return keras.Sequential(
        [keras.Input(x.shape[1:]), *steps], name=draw.name("nested")
    )(x)


@_operation("a nested Functional model")
def _functional(draw: Draw, x: Any) -> Any:
    first, second = (
        keras.Input(x.shape[1:], name="first"),
        keras.Input(x.shape[1:], name="second"),
    )
    total = layers.Add(name="add")(
        [layers.Dense(x.shape[-1], name="dense")(first), second]
    )
    inner = keras.Model(
        [first, second], layers.ReLU(name="relu")(total), name=draw.name("inner")
    )
    outputs = inner([x, draw.another(x)])
    return inner([outputs, x]) if draw.chance() else outputs


@_operation("a layer made of layers", (2, 3))
def _composite(draw: Draw, x: Any) -> Any:
    return Residual(x.shape[-1], name=draw.name("residual"))(x)


@_operation("convolution, normalization, ReLU", (4,))
def _block(draw: Draw, x: Any) -> Any:
    kind = draw.pick((layers.Conv2D, layers.DepthwiseConv2D))
    options = {"filters": draw.size()} if kind is layers.Conv2D else {}
    x = kind(
        kernel_size=draw.window(x, 2),
        padding=draw.padding(),
        use_bias=draw.chance(0.3),
        name=draw.name("conv"),
        **options,
    )(x)
    return draw.layer("ReLU")(draw.layer("BatchNormalization")(x))


@_operation("dilated convolution", (3, 4))
def _dilated(draw: Draw, x: Any) -> Any:
    kind = layers.Conv1D if len(x.shape) == 3 else layers.Conv2D
    padding = draw.pick(("same", "causal") if kind is layers.Conv1D else ("same",))
    gate, value = (
        kind(
            4, 2, dilation_rate=2, padding=padding, activation=act, name=draw.name(act)
        )(x)
        for act in ("sigmoid", "tanh")
    )
    return draw.layer("Multiply")([gate, value])


def _input(draw: Draw) -> Any:
    rank = draw.pick((2, 3, 3, 4, 4, 4, 5, "tokens", "text"))
    name = f"input_{draw.names}"
    draw.names += 1
    if rank == "tokens":
        return keras.Input(
            (draw.size(8),), dtype=draw.pick(("int32", "int32", "int64")), name=name
        )
    if rank == "text":
        return keras.Input((1,), dtype="string", name=name)
    if rank == 4 and draw.chance(0.15):
        return keras.Input(
            (draw.size(), draw.size(), draw.pick((1, 3))), dtype="uint8", name=name
        )
    sizes = [draw.size(16 if rank < 5 else 5) for _ in range(rank - 1)]
    return keras.Input(sizes, name=name)


def _check_adaptive_pooling(model: keras.Model) -> None:
    """Refuses what ends the whole process on processors with AVX-512.

    Keras pools to one place with a window that is larger than the input as well, whose
    result it does not use. oneDNN divides by zero there.
    """
    for layer in model.layers:
        size = getattr(layer, "output_size", None)
        if "AdaptiveMax" in type(layer).__name__ and 1 in keras.tree.flatten(size):
            raise ValueError(f"'{layer.name}' cannot be run everywhere")


def random_model(seed: int, steps: int | None = None) -> keras.Model:
    """Returns the model of a seed, with weights that a mistake would show in.

    A model that Keras itself cannot run, whose declared shapes are not those of what it
    computes, or that computes NaN, is drawn again.
    """
    for attempt in range(_ATTEMPTS):
        keras.utils.set_random_seed(seed)
        try:
            model = _model(Draw(np.random.default_rng([seed, attempt])), seed, steps)
            _check_adaptive_pooling(model)
            values = outputs_of(model, random_inputs(model, 3))
        except Exception:
            continue
        declared = [tuple(t.shape[1:]) for t in model.outputs]
        if [v.shape[1:] for v in values] == declared and all(
            np.isfinite(v).all() for v in values
        ):
            return model
    raise RuntimeError(f"no model could be drawn with seed {seed}")


def outputs_of(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns what a model makes of inputs, its outputs one after the other."""
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [ops.convert_to_numpy(value) for value in outputs]


def _model(draw: Draw, seed: int, steps: int | None) -> keras.Model:
    inputs = [_input(draw) for _ in range(draw.pick((1, 1, 1, 2, 3)))]
    for tensor in inputs:
        draw.pool.append(_as_float(draw, tensor))
    for _ in range(steps or draw.pick(range(1, 9))):
        draw.pool.append(_step(draw))
    outputs = draw.pool[-1:]
    if draw.chance(0.3):
        outputs.append(draw.pick(draw.pool))
    outputs = [_ended(draw, tensor) for tensor in outputs]
    structure: Any = outputs[0] if len(outputs) == 1 else outputs
    if len(outputs) == 2 and draw.chance():
        structure = dict(zip(("first", "second"), outputs))
    given: Any = inputs[0] if len(inputs) == 1 else inputs
    if len(inputs) > 1 and draw.chance():
        given = {tensor.name: tensor for tensor in inputs}
    model = keras.Model(given, structure, name=f"model_{seed}")
    return with_random_weights(model, draw.rng)


def _as_float(draw: Draw, tensor: Any) -> Any:
    """Returns what a layer makes of an input that is no float."""
    if tensor.dtype == "string":
        return _text(draw, tensor)
    if tensor.dtype in ("int32", "int64"):
        return draw.pick((_tokens, _tokens, _tokens, _reversible, _crossing))(
            draw, tensor
        )
    if tensor.dtype == "uint8":
        return draw.layer("Rescaling", 1 / 127.5, offset=-1.0)(tensor)
    return tensor


def _step(draw: Draw) -> Any:
    """Returns a new tensor, made of those of the pool."""
    for _ in range(_ATTEMPTS):
        # The newest tensor more often, so that models are deep and little is dead.
        x = draw.pick([*draw.pool[-1:] * 4, draw.pick(draw.pool)])
        rank = len(x.shape)
        if draw.chance(0.7):
            names = [name for name, (ranks, _) in LAYERS.items() if rank in ranks]
            # What is special to this rank (convolutions ...) more often than the rest.
            special = [name for name in names if len(LAYERS[name][0]) == 1]
            name = draw.pick(special if special and draw.chance() else names)
            if name.startswith(("Random", "Flatten")) and draw.chance(0.7):
                continue
            function = LAYERS[name][1]
        else:
            function = draw.pick([f for _, ranks, f in OPERATIONS if rank in ranks])
        try:
            y = function(draw, x)
        except Exception:
            continue  # it does not fit this shape; Keras says so in many ways
        y = y[0] if isinstance(y, list | tuple) else y
        if None in y.shape[1:] or "float" not in y.dtype or len(y.shape) not in ANY:
            continue
        if 0 < np.prod(y.shape[1:]) <= _LARGEST:
            return y
    return draw.layer("Dense", 4)(draw.pool[-1])


def _ended(draw: Draw, x: Any) -> Any:
    if draw.chance(0.6):
        return draw.layer("Dense", draw.size())(draw.layer("Flatten")(x))
    return x


def with_random_weights(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    """Gives every weight a value that a mistake would show in."""
    for variable in model.weights:
        shape = tuple(variable.shape)
        path = variable.path.split("/")[-1]
        if not variable.dtype.startswith("float"):
            continue
        if "variance" in path:
            variable.assign(rng.uniform(0.5, 2.0, shape))
        elif path in ("gamma", "scale"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif "vector_u" in path or path == "mean":
            continue
        elif len(shape) < 2 or "bias" in path or path == "alpha":
            variable.assign(rng.normal(0, 0.2, shape))
        else:
            fan_in = max(1, int(np.prod(shape[:-1])))
            fan_in = shape[0] * shape[1] if "depthwise" in variable.path else fan_in
            variable.assign(rng.normal(0, 1.2 / np.sqrt(fan_in), shape))
    return model


def random_inputs(model: keras.Model, samples: int, seed: int = 0) -> Any:
    """Returns inputs in the structure of the model's."""
    rng = np.random.default_rng(seed)

    def sample(tensor: Any) -> Any:
        shape = (samples, *tensor.shape[1:])
        if tensor.dtype == "string":
            # Keras takes text in TensorFlow's tensors only.
            return tf.constant(rng.choice([*WORDS, "other"], shape).tolist())
        if tensor.dtype == "uint8":
            return rng.integers(0, 256, shape).astype("uint8")
        if tensor.dtype in ("int32", "int64"):
            return rng.integers(0, 20, shape).astype(tensor.dtype)
        return rng.normal(0, 1, shape).astype("float32")

    return keras.tree.map_structure(sample, model.input)
