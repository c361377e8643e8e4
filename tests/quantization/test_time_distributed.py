"""TimeDistributed(X) is X: in integers too, with whatever it holds."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.quantization.conftest import as_numpy
from tfcompress.core.graph import Node, Tensor
from tfcompress.core.select import walk
from tfcompress.quantization.plan import plan
from tfcompress.quantization.time_distributed import SamplesAsSteps, StepsAsSamples

L = keras.layers
T = L.TimeDistributed
# Tanh has steps of 1/128: states that are small against that are mostly noise.
LARGE = keras.initializers.RandomNormal(stddev=1.0, seed=1)
RNG = np.random.default_rng(0)


def block():
    """Convolution, normalization and ReLU, as one reads it in tutorials."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            L.BatchNormalization(momentum=0.5, name="norm"),
            L.ReLU(name="relu"),
            L.GlobalAveragePooling2D(name="mean"),
        ],
        name="block",
    )


def one_wrapper_for_each():
    x = keras.Input((3, 8, 8, 1), name="frames")
    y = T(L.Conv2D(4, 3, padding="same", use_bias=False, name="conv"))(x)
    y = T(L.BatchNormalization(momentum=0.5))(y)
    y = T(L.Activation("relu"))(y)
    y = T(L.Flatten())(T(L.MaxPooling2D())(y))
    return keras.Model(x, L.Dense(2, name="scores")(L.LSTM(4)(y)))


def one_model_everywhere():
    """Called twice, and once more on a single picture."""
    frames, picture = keras.Input((3, 8, 8, 1)), keras.Input((8, 8, 1))
    inner = block()
    each = T(inner, name="each")
    both = [L.Flatten()(each(frames)), L.Flatten()(each(frames + 1.0)), inner(picture)]
    return keras.Model([frames, picture], L.Dense(2)(L.Concatenate()(both)))


def sentences():
    """Words without meaning are masked inside; sentences, by the mask outside."""
    words = keras.Input((3, 4), dtype="int32", name="words")
    vectors = L.Embedding(20, 6, LARGE, mask_zero=True)
    reader = keras.Sequential([keras.Input((4,), dtype="int32"), vectors, L.GRU(5)])
    y = T(L.Dense(4, activation="relu"))(T(reader, name="reader")(words))
    return keras.Model(words, y)


def masked():
    words = keras.Input((5,), dtype="int32", name="words")
    y = L.Embedding(20, 6, LARGE, mask_zero=True)(words)
    y = T(L.Dense(4, activation="softmax"))(T(L.Dense(4, activation="relu"))(y))
    return keras.Model(words, L.GRU(4)(y))


@keras.saving.register_keras_serializable("tests")
class Twice(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = L.Dense(4, "relu"), L.Conv1D(3, 1)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 4))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)

    def call(self, x):
        return self.second(self.first(x))


def deep():
    x = keras.Input((2, 3, 1, 5), name="x")
    return keras.Model(x, T(T(Twice(name="twice")))(x))


def free_time():
    x = keras.Input((None, 6, 1), name="x")
    y = T(L.Flatten())(T(L.Conv1D(4, 3, activation="relu"))(x))
    return keras.Model(x, T(L.Dense(2))(y))


BUILDERS = [
    one_wrapper_for_each,
    one_model_everywhere,
    sentences,
    masked,
    deep,
    free_time,
]


def samples_of(model):
    arrays = []
    for tensor in model.inputs:
        shape = (12, *[size or 5 for size in tensor.shape[1:]])
        arrays.append(
            RNG.integers(0, 20, shape).astype("int32")
            if "int" in tensor.dtype
            else RNG.normal(size=shape).astype("float32")
        )
    return arrays[0] if len(arrays) == 1 else arrays


@pytest.mark.parametrize("build_model", BUILDERS, ids=lambda f: f.__name__)
def test_what_it_holds_is_quantized_and_computes_the_same(build_model):
    keras.utils.set_random_seed(3)
    model = build_model()
    samples = samples_of(model)
    aware = tfcompress.quantize_aware(model)  # a warning would be an error
    kinds = {type(layer).__name__ for _, layer in walk(aware)}
    assert "TimeDistributed" not in kinds
    wanted, found = as_numpy(model(samples)), as_numpy(aware(samples))
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    trainable = sum(v.shape.num_elements() for v in model.trainable_variables)
    assert trainable == sum(v.shape.num_elements() for v in aware.trainable_variables)


def test_convolution_normalization_and_relu_meet():
    aware = tfcompress.quantize_aware(one_wrapper_for_each())
    names = [layer.name for layer in aware.layers]
    at = names.index("conv")
    kinds = [type(layer).__name__ for layer in aware.layers[at : at + 4]]
    assert kinds == [
        "QuantizedLayer",
        "BatchNormalization",
        "Activation",
        "FakeQuantize",
    ]


def test_the_model_of_the_user_is_not_touched():
    model = one_wrapper_for_each()
    inner = model.layers[1].layer
    tfcompress.quantize_aware(model)
    with pytest.raises(AttributeError, match="never been called"):
        _ = inner.output


def test_what_stays_in_float_is_named_with_its_wrapper():
    x = keras.Input((3, 4, 4, 4, 1), name="x")
    model = keras.Model(x, T(L.Conv3D(2, 3), name="volumes")(x))
    with pytest.warns(tfcompress.CompressionWarning, match="volumes/conv3d"):
        tfcompress.quantize_aware(model)


def test_filters_and_schemes_reach_what_it_holds():
    model = one_wrapper_for_each()
    aware = tfcompress.quantize_aware(model, filters=L.Conv2D)
    wrapped = [one.name for one in aware.layers if "Quantized" in type(one).__name__]
    assert wrapped == ["conv"]
    planned = plan(model, {"conv": "w4a8"})
    conv = Node(model.layers[1].layer, (Tensor((), ""),), {}, None)
    assert planned.quantizer_of(conv).get_config()["num_bits"] == 4


def test_layers_are_saved_with_a_free_time(tmp_path):
    steps = keras.Input((None, 3))
    samples = StepsAsSamples()(steps)
    model = keras.Model(steps, SamplesAsSteps()(samples, steps))
    model.save(tmp_path / "model.keras")
    x = RNG.normal(size=(2, 5, 3))
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(as_numpy(again(x)), x, atol=1e-6)


SLOW = {"sentences", "masked", "free_time"}


@pytest.mark.sweep(2)
@pytest.mark.export
@pytest.mark.parametrize(
    "build_model",
    [
        pytest.param(f, marks=[pytest.mark.slow] * (f.__name__ in SLOW))
        for f in BUILDERS
    ],
    ids=lambda f: f.__name__,
)
def test_file_equals_finalized_model(build_model, tmp_path):
    keras.utils.set_random_seed(3)
    model = build_model()
    samples = samples_of(model)
    aware = tfcompress.quantize_aware(model)
    for _ in range(2):
        aware(samples, training=True)
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    assert artifact.integer_coverage == 1.0
    result = tfcompress.verify(artifact, final, samples)
    assert result.max_error_steps <= 1.001
